//! Stories: a truth and the events that tell it, the way Stripe and Paddle tell theirs.
//!
//! A story is told by dice. Missing rolls count as zero and lower rolls tell simpler things, so that a
//! story that fails shrinks to one that a person can read. Every story tells its truth completely; what
//! varies is who tells what, how often, and in which grouping.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Scope,
    model::{
        About, CODES, Decided, DisputeEnd, Disputed, ENROLLMENTS, Paid, Provider, RefundEnd, Refunded, TURN,
        Told, Truth,
    },
};
use crate::domain::{
    book::Realm,
    commission::{ClawbackReason, Decision, DecisionKind},
    fact::{
        ChargebackReversed, Dispute, DisputePhase, Fact, Hint, HintSource, ObjectKind, ObjectRef, Refund,
        RefundStatus, SalePaid, Subject,
    },
    ids::{DecisionId, EnrollmentId, OrganizationId, ProgramId, ProjectId},
    money::{BasisPoints, Currency},
    program::{
        Code, Dated, Directory, Enrollment, EnrollmentStatus, Program, ProgramStatus, TermsVersion,
        TouchRules,
    },
    terms::{ApprovalMode, CommissionBase, CommissionRule, FlatOnPartial, Terms},
    time::Timestamp,
};

/// Something that happens to the book.
#[derive(Clone, Debug)]
pub enum Step {
    /// One event with all its facts.
    Event { scope: Scope, facts: Vec<Fact> },
    /// A person decides about the sale that the object names.
    Decision { scope: Scope, object: ObjectRef, decision: Decision },
}

/// A truth and everything that tells it.
#[derive(Clone, Debug)]
pub struct Story {
    pub truth: Truth,
    pub steps: Vec<Step>,
}

/// Random numbers that a test chooses and shrinks.
pub struct Dice<'a>(std::slice::Iter<'a, u32>);

impl<'a> Dice<'a> {
    pub fn new(rolls: &'a [u32]) -> Self {
        Self(rolls.iter())
    }

    /// 0 to `sides − 1`.
    fn roll(&mut self, sides: i64) -> i64 {
        i64::from(self.0.next().copied().unwrap_or(0)) % sides
    }

    /// True once in `sides` times, and not when the dice ran out.
    fn once_in(&mut self, sides: i64) -> bool {
        self.roll(sides) == sides - 1
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let place = self.roll(i64::try_from(from.len()).unwrap());
        from[usize::try_from(place).unwrap()]
    }

    /// 1 to `most`; often all of it, often little, so that rounding has something to do.
    fn part_of(&mut self, most: i64) -> i64 {
        match self.roll(3) {
            0 => most,
            1 => 1 + self.roll(most),
            _ => 1 + self.roll(most.min(30)),
        }
    }
}

pub fn owner() -> OrganizationId {
    OrganizationId::parse("org_owner").unwrap()
}

pub fn scope_of(provider: Provider) -> Scope {
    let name = match provider {
        Provider::Stripe => "stripe",
        Provider::Paddle => "paddle",
    };
    Scope { project_id: ProjectId::parse("proj_shop").unwrap(), realm: Realm::new(name, false, "") }
}

/// Programs, enrollments and codes as `model.rs` describes them.
pub fn directory(terms: &[[Terms; 2]]) -> Directory {
    let mut directory = Directory::default();
    let always = |value| vec![Dated { at: Timestamp::EPOCH, value }];
    let foreign = OrganizationId::parse("org_foreign").unwrap();
    for (number, [before, after]) in terms.iter().enumerate() {
        let program = Program {
            id: ProgramId::parse(&format!("prog_{number}")).unwrap(),
            organization_id: owner(),
            statuses: vec![Dated { at: Timestamp::EPOCH, value: ProgramStatus::Active }],
            touch_rules: TouchRules::default(),
            terms: vec![
                Dated { at: Timestamp::EPOCH, value: TermsVersion { version: 1, terms: before.clone() } },
                Dated { at: TURN, value: TermsVersion { version: 2, terms: after.clone() } },
            ],
        };
        let enrollment = Enrollment {
            id: EnrollmentId::parse(ENROLLMENTS[number]).unwrap(),
            program_id: program.id.clone(),
            organization_id: OrganizationId::parse("org_affiliate").unwrap(),
            statuses: always(if number == 3 {
                EnrollmentStatus::Suspended
            } else {
                EnrollmentStatus::Active
            }),
            emails: if number == 0 { BTreeSet::from(["ann@x.org".to_owned()]) } else { BTreeSet::new() },
            rates: Vec::new(),
            sponsors: sponsor_of(number),
        };
        directory.programs.insert(program.id.clone(), program);
        directory.enrollments.insert(enrollment.id.clone(), enrollment);
    }
    directory.multi_level = true;
    let mut stranger = directory.programs[&ProgramId::parse("prog_0").unwrap()].clone();
    stranger.id = ProgramId::parse("prog_foreign").unwrap();
    stranger.organization_id = foreign;
    let mut member = directory.enrollments[&EnrollmentId::parse(ENROLLMENTS[0]).unwrap()].clone();
    member.id = EnrollmentId::parse("par_foreign").unwrap();
    member.program_id = stranger.id.clone();
    directory.programs.insert(stranger.id.clone(), stranger);
    directory.enrollments.insert(member.id.clone(), member);
    let codes = [
        ("ann", "par_ann", Timestamp::EPOCH, None),
        ("bob", "par_bob", Timestamp::EPOCH, None),
        ("cat", "par_cat", Timestamp::EPOCH, None),
        ("dan", "par_dan", Timestamp::EPOCH, None),
        ("old", "par_ann", Timestamp::EPOCH, Some(TURN)),
        ("new", "par_bob", TURN, None),
        ("foreign", "par_foreign", Timestamp::EPOCH, None),
    ];
    for (code, enrollment, valid_from, valid_to) in codes {
        let enrollment_id = EnrollmentId::parse(enrollment).unwrap();
        let code = (owner(), code.to_owned());
        directory.codes.insert(code, Code { enrollment_id, valid_from, valid_to });
    }
    directory
}

/// Each enrollment was brought by the next one.
fn sponsor_of(number: usize) -> Vec<Dated<Option<EnrollmentId>>> {
    let sponsor = ENROLLMENTS.get(number + 1).map(|name| EnrollmentId::parse(name).unwrap());
    vec![Dated { at: Timestamp::EPOCH, value: sponsor }]
}

pub fn currency(code: &str) -> Currency {
    Currency::parse(code).unwrap()
}

fn terms(dice: &mut Dice<'_>) -> Terms {
    let commission = if dice.once_in(3) {
        CommissionRule::Flat {
            amount_cents: dice.roll(5_000),
            currency: currency(dice.pick(&["usd", "eur"])),
        }
    } else {
        CommissionRule::Percentage { bps: BasisPoints::new(10_000 - dice.roll(10_001)).unwrap() }
    };
    Terms {
        commission,
        commission_base: dice.pick(&[CommissionBase::Gross, CommissionBase::NetOfTax]),
        flat_on_partial: dice.pick(&[FlatOnPartial::Keep, FlatOnPartial::Proportional]),
        approval_mode: if dice.once_in(4) { ApprovalMode::Manual } else { ApprovalMode::Auto },
        hold_period_days: u16::try_from(dice.roll(40)).unwrap(),
        product_rates: Vec::new(),
        upline_bps: (0..dice.roll(4)).map(|_| BasisPoints::new(dice.roll(10_001)).unwrap()).collect(),
        rate_override: None,
    }
}

impl Story {
    /// The story that the rolls tell, about `most` payments at most.
    pub fn tell(rolls: &[u32], most: i64) -> Self {
        let dice = &mut Dice::new(rolls);
        let count = 1 + dice.roll(most);
        let payments: Vec<Paid> = (0..count).map(|_| paid(dice)).collect();
        let terms = ENROLLMENTS
            .iter()
            .map(|_| {
                let first = terms(dice);
                let second = if dice.once_in(2) { terms(dice) } else { first.clone() };
                [first, second]
            })
            .collect();
        let mut truth =
            Truth { terms, payments, told: Vec::new(), decisions: Vec::new(), ended: BTreeSet::new() };
        let mut telling = Telling::default();
        for (number, paid) in truth.payments.iter().enumerate() {
            match paid.provider {
                Provider::Stripe => telling.stripe(dice, number, paid),
                Provider::Paddle => telling.paddle(dice, number, paid),
            }
        }
        telling.codes(dice, &mut truth);
        telling.endings(dice, &mut truth);
        telling.decisions(dice, &mut truth);
        Self { truth, steps: telling.steps }
    }
}

fn paid(dice: &mut Dice<'_>) -> Paid {
    let provider = if dice.once_in(4) { Provider::Paddle } else { Provider::Stripe };
    let has_subscription = dice.once_in(3);
    let charges: Vec<i64> = match (provider, has_subscription, dice.roll(6)) {
        // A trial: an invoice of nothing, which nobody paid.
        (Provider::Stripe, true, 5) => Vec::new(),
        (Provider::Stripe, true, 4) => vec![dice.part_of(200_000), dice.part_of(200_000)],
        _ => vec![dice.part_of(200_000)],
    };
    let amount = charges.iter().sum();
    let tax = match dice.roll(3) {
        0 => None,
        1 => Some(0),
        _ => Some(dice.roll(amount + 1)),
    };
    let mut paid = Paid {
        provider,
        amount,
        tax,
        currency: currency(dice.pick(&["usd", "eur", "jpy"])),
        at: TURN.plus_secs(dice.pick(&[0, -1, 5, -5, 200_000, -9_000_000])),
        has_customer: dice.once_in(2),
        has_subscription,
        buyer_is_ann: dice.once_in(8),
        refunds: Vec::new(),
        disputes: Vec::new(),
        charges,
    };
    for (charge, taken) in paid.charges.iter().enumerate() {
        let mut left = *taken;
        for _ in 0..dice.roll(4) {
            if left == 0 {
                break;
            }
            let amount = dice.part_of(left);
            let end = match (provider, dice.roll(4)) {
                (_, 3) => RefundEnd::Failed,
                (Provider::Paddle, 2) => RefundEnd::Asked,
                _ => RefundEnd::Done,
            };
            if end == RefundEnd::Done {
                left -= amount;
            }
            paid.refunds.push(Refunded { charge, amount, end });
        }
        if dice.once_in(3) {
            let amount = dice.part_of(*taken);
            let back = dice.roll(amount);
            let end = match (provider, dice.roll(6)) {
                (_, 0) | (Provider::Paddle, 4) => DisputeEnd::Lost,
                (_, 1) => DisputeEnd::Won,
                (_, 2) => DisputeEnd::InquiryClosed,
                (_, 3) => DisputeEnd::Inquiry,
                (Provider::Stripe, 4) => DisputeEnd::Open,
                _ => DisputeEnd::PartlyReturned(back),
            };
            paid.disputes.push(Disputed { charge, amount, end });
        }
    }
    paid
}

/// Where an invoice says what paid it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    /// In the invoice and the intent themselves.
    Inside,
    /// In `invoice_payment.paid`, since basil.
    Apart,
}

/// Which objects of a payment Stripe sends events about.
#[derive(Clone, Copy)]
struct Shape {
    invoice: Option<Links>,
    session: bool,
    intents: bool,
    charges: bool,
}

impl Shape {
    fn of(dice: &mut Dice<'_>, paid: &Paid) -> Self {
        let links = dice.pick(&[Links::Inside, Links::Apart]);
        let invoice = paid.has_subscription.then_some(links);
        let session = dice.once_in(3);
        let (intents, charges) = match dice.roll(3) {
            0 if invoice.is_some() || session => (false, false),
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        Self { invoice, session, intents, charges }
    }

    /// Whether `kind` is the one whose amount, tax and time count.
    fn best(self) -> ObjectKind {
        match self {
            Self { invoice: Some(_), .. } => ObjectKind::Invoice,
            Self { session: true, .. } => ObjectKind::CheckoutSession,
            Self { intents: true, .. } => ObjectKind::Intent,
            Self { .. } => ObjectKind::Charge,
        }
    }
}

fn link(sale: &ObjectRef, alias: &ObjectRef) -> Fact {
    Fact::SaleLinked { sale: sale.clone(), alias: alias.clone() }
}

#[derive(Default)]
struct Telling {
    steps: Vec<Step>,
    /// The objects that events name, by payment; the best teller first.
    objects: BTreeMap<usize, Vec<ObjectRef>>,
    /// The events about each payment, as places in `steps`.
    events: BTreeMap<usize, Vec<usize>>,
}

impl Telling {
    fn event(&mut self, number: usize, provider: Provider, facts: Vec<Fact>) {
        self.events.entry(number).or_default().push(self.steps.len());
        self.steps.push(Step::Event { scope: scope_of(provider), facts });
    }

    fn stripe(&mut self, dice: &mut Dice<'_>, number: usize, paid: &Paid) {
        let shape = Shape::of(dice, paid);
        let object = |kind, id: String| ObjectRef::new(kind, id);
        let invoice = object(ObjectKind::Invoice, format!("in_{number}"));
        let session = object(ObjectKind::CheckoutSession, format!("cs_{number}"));
        let pairs: Vec<(ObjectRef, ObjectRef)> = (0..paid.charges.len())
            .map(|charge| {
                (
                    object(ObjectKind::Intent, format!("pi_{number}_{charge}")),
                    object(ObjectKind::Charge, format!("ch_{number}_{charge}")),
                )
            })
            .collect();
        let mut objects = Vec::new();
        let tell = |dice: &mut Dice<'_>, sale: &ObjectRef, parent: Option<&ObjectRef>, amount| {
            let is_best = sale.kind == shape.best();
            // Only the best teller is bound to know everything; the others are a little off.
            let knows = |dice: &mut Dice<'_>| is_best || dice.once_in(2);
            let is_bill = sale.kind == ObjectKind::Invoice || sale.kind == ObjectKind::CheckoutSession;
            Fact::SalePaid(SalePaid {
                sale: sale.clone(),
                parent: parent.cloned(),
                amount,
                tax: paid.tax.filter(|_| is_best),
                currency: paid.currency,
                at: if is_best { paid.at } else { paid.at.plus_secs(dice.roll(21) - 10) },
                customer: (paid.has_customer && knows(dice)).then(|| "customer".to_owned()),
                subscription: (paid.has_subscription && is_bill && knows(dice))
                    .then(|| "subscription".to_owned()),
                billing_reason: None,
                buyer_email: (paid.buyer_is_ann && is_best).then(|| " Ann+shop@X.org".to_owned()),
                items: Vec::new(),
            })
        };
        if let Some(links) = shape.invoice {
            let mut facts = vec![tell(dice, &invoice, None, paid.amount)];
            for (intent, charge) in &pairs {
                if links == Links::Apart {
                    self.event(number, paid.provider, vec![link(&invoice, intent)]);
                } else {
                    facts.extend([link(&invoice, intent), link(&invoice, charge)]);
                }
            }
            self.event(number, paid.provider, facts);
            objects.push(invoice.clone());
        }
        if shape.session {
            let mut facts = vec![tell(dice, &session, None, paid.amount)];
            match pairs.first() {
                _ if shape.invoice.is_some() => facts.push(link(&session, &invoice)),
                Some((intent, _)) => facts.push(link(&session, intent)),
                None => {}
            }
            self.event(number, paid.provider, facts);
            objects.push(session);
        }
        for ((intent, charge), amount) in pairs.iter().zip(&paid.charges) {
            if shape.intents {
                let mut facts = vec![tell(dice, intent, None, *amount), link(intent, charge)];
                if shape.invoice == Some(Links::Inside) {
                    facts.push(link(intent, &invoice));
                }
                self.event(number, paid.provider, facts);
                objects.push(intent.clone());
            }
            if shape.charges {
                if dice.once_in(4) {
                    // The first part of a charge that was captured in two.
                    let first = tell(dice, charge, Some(intent), dice_less(*amount));
                    self.event(number, paid.provider, vec![first]);
                }
                let facts = vec![tell(dice, charge, Some(intent), *amount), link(charge, intent)];
                self.event(number, paid.provider, facts);
                objects.push(charge.clone());
            }
        }
        self.objects.insert(number, objects);
        for (place, pair) in pairs.iter().enumerate() {
            self.stripe_refunds(dice, number, paid, (place, pair), shape);
            self.stripe_disputes(dice, number, paid, (place, pair));
        }
    }

    fn stripe_refunds(
        &mut self,
        dice: &mut Dice<'_>,
        number: usize,
        paid: &Paid,
        (place, (intent, charge)): (usize, &(ObjectRef, ObjectRef)),
        shape: Shape,
    ) {
        let refunds: Vec<&Refunded> = paid.refunds.iter().filter(|it| it.charge == place).collect();
        let any_failed = refunds.iter().any(|it| it.end == RefundEnd::Failed);
        // A refund may name the intent alone only where anybody can tell whose charge that is.
        let charge_is_clear = shape.charges || paid.charges.len() == 1;
        let mut all_told = true;
        let mut done = 0;
        let mut totals = Vec::new();
        for (nth, refund) in refunds.iter().enumerate() {
            totals.push(done + refund.amount);
            if refund.end == RefundEnd::Done {
                done += refund.amount;
            }
            if !any_failed && dice.once_in(4) {
                all_told = false;
                continue;
            }
            let by_intent = charge_is_clear && dice.once_in(4);
            let fact = |status| {
                Fact::Refund(Refund {
                    sale: if by_intent { intent.clone() } else { charge.clone() },
                    refund_id: format!("re_{number}_{place}_{nth}"),
                    amount: refund.amount,
                    currency: paid.currency,
                    status,
                })
            };
            let mut facts = vec![fact(RefundStatus::Active)];
            if !by_intent {
                facts.push(link(charge, intent));
            }
            let failed = refund.end == RefundEnd::Failed;
            if !failed || dice.once_in(2) {
                self.event(number, paid.provider, facts);
            }
            if failed {
                self.event(number, paid.provider, vec![fact(RefundStatus::Void), link(charge, intent)]);
            }
        }
        let last = totals.len();
        for (nth, total) in totals.into_iter().enumerate() {
            let needed = !all_told && nth + 1 == last;
            if needed || dice.once_in(3) {
                let total = Fact::RefundedTotal { sale: charge.clone(), total, currency: paid.currency };
                self.event(number, paid.provider, vec![total, link(charge, intent)]);
            }
        }
    }

    fn stripe_disputes(
        &mut self,
        dice: &mut Dice<'_>,
        number: usize,
        paid: &Paid,
        (place, (intent, charge)): (usize, &(ObjectRef, ObjectRef)),
    ) {
        for dispute in paid.disputes.iter().filter(|it| it.charge == place) {
            let amount = dispute.amount;
            let fact = |phase, withdrawn, reinstated| {
                Fact::Dispute(Dispute {
                    sale: charge.clone(),
                    dispute_id: format!("dp_{number}_{place}"),
                    amount,
                    currency: paid.currency,
                    phase,
                    withdrawn,
                    reinstated,
                })
            };
            let withdrawn = fact(DisputePhase::Open, amount, 0);
            let mut told = Vec::new();
            if dice.once_in(3) || dispute.end == DisputeEnd::Inquiry {
                told.push(fact(DisputePhase::Inquiry, 0, 0));
            }
            match dispute.end {
                DisputeEnd::Inquiry => {}
                DisputeEnd::InquiryClosed => told.push(fact(DisputePhase::InquiryClosed, 0, 0)),
                DisputeEnd::Open => told.extend([fact(DisputePhase::Open, 0, 0), withdrawn]),
                DisputeEnd::Lost => told.extend([withdrawn, fact(DisputePhase::Lost, amount, 0)]),
                DisputeEnd::Won => {
                    told.push(withdrawn);
                    if dice.once_in(2) {
                        told.push(fact(DisputePhase::Open, amount, amount));
                    }
                    told.push(fact(DisputePhase::Won, 0, 0));
                }
                DisputeEnd::PartlyReturned(back) => told.extend([
                    withdrawn,
                    fact(DisputePhase::Open, amount, back),
                    fact(DisputePhase::Lost, amount, 0),
                ]),
            }
            for fact in told {
                self.event(number, paid.provider, vec![fact, link(charge, intent)]);
            }
        }
    }

    fn paddle(&mut self, dice: &mut Dice<'_>, number: usize, paid: &Paid) {
        let sale = ObjectRef::new(ObjectKind::Transaction, format!("txn_{number}"));
        let completed = Fact::SalePaid(SalePaid {
            sale: sale.clone(),
            parent: None,
            amount: paid.amount,
            tax: paid.tax,
            currency: paid.currency,
            at: paid.at,
            customer: paid.has_customer.then(|| "customer".to_owned()),
            subscription: paid.has_subscription.then(|| "subscription".to_owned()),
            billing_reason: None,
            buyer_email: paid.buyer_is_ann.then(|| "ann@x.org".to_owned()),
            items: Vec::new(),
        });
        self.event(number, paid.provider, vec![completed]);
        self.objects.insert(number, vec![sale.clone()]);
        for (nth, refund) in paid.refunds.iter().enumerate() {
            let fact = |status| {
                let (sale, refund_id) = (sale.clone(), format!("adj_{number}_{nth}"));
                Fact::Refund(Refund {
                    sale,
                    refund_id,
                    amount: refund.amount,
                    currency: paid.currency,
                    status,
                })
            };
            let asked = refund.end == RefundEnd::Asked || dice.once_in(2);
            if asked {
                self.event(number, paid.provider, vec![fact(RefundStatus::AwaitingApproval)]);
            }
            match refund.end {
                RefundEnd::Asked => {}
                RefundEnd::Done => self.event(number, paid.provider, vec![fact(RefundStatus::Active)]),
                RefundEnd::Failed => self.event(number, paid.provider, vec![fact(RefundStatus::Void)]),
            }
        }
        for dispute in &paid.disputes {
            let amount = dispute.amount;
            let fact = |phase, withdrawn, reinstated| {
                Fact::Dispute(Dispute {
                    sale: sale.clone(),
                    dispute_id: format!("adj_{number}_d"),
                    amount,
                    currency: paid.currency,
                    phase,
                    withdrawn,
                    reinstated,
                })
            };
            let reverse = |amount| {
                Fact::ChargebackReversed(ChargebackReversed {
                    sale: sale.clone(),
                    reverse_id: format!("adj_{number}_r"),
                    amount,
                    currency: paid.currency,
                })
            };
            let chargeback = fact(DisputePhase::Lost, amount, 0);
            let told = match dispute.end {
                DisputeEnd::Inquiry => vec![fact(DisputePhase::Inquiry, 0, 0)],
                DisputeEnd::InquiryClosed => {
                    vec![fact(DisputePhase::Inquiry, 0, 0), fact(DisputePhase::InquiryClosed, 0, 0)]
                }
                DisputeEnd::Open | DisputeEnd::Lost => vec![chargeback],
                // The return is told by the chargeback, by an adjustment of its own, or by both.
                DisputeEnd::Won => match dice.roll(3) {
                    0 => vec![chargeback, fact(DisputePhase::Won, amount, amount), reverse(amount)],
                    1 => vec![chargeback, fact(DisputePhase::Won, amount, amount)],
                    _ => vec![chargeback, reverse(amount)],
                },
                DisputeEnd::PartlyReturned(back) => vec![chargeback, reverse(back)],
            };
            for fact in told {
                self.event(number, paid.provider, vec![fact]);
            }
        }
    }

    /// Codes, some told with the payment and some in events of their own.
    fn codes(&mut self, dice: &mut Dice<'_>, truth: &mut Truth) {
        for _ in 0..=dice.roll(4) {
            let payments = i64::try_from(truth.payments.len()).unwrap();
            let payment = usize::try_from(dice.roll(payments)).unwrap();
            let paid = &truth.payments[payment];
            let about = dice.pick(&[
                About::Payment(payment),
                About::Customer(paid.provider),
                About::Subscription(paid.provider),
            ]);
            let code = dice.pick(&CODES);
            let told = Told {
                about,
                source: dice.pick(&[
                    HintSource::Metadata(0),
                    HintSource::Metadata(1),
                    HintSource::ClientReference,
                    HintSource::Coupon,
                ]),
                code: if dice.once_in(5) { code.to_uppercase() } else { code.to_owned() },
                at: paid.at.plus_secs(dice.pick(&[0, 1, 3_600, 3_601, -60, 90_000])),
            };
            let subject = match about {
                About::Payment(payment) => {
                    let objects: Vec<&ObjectRef> = self.objects[&payment].iter().collect();
                    Subject::Sale(dice.pick(&objects).clone())
                }
                About::Customer(_) => Subject::Customer("customer".to_owned()),
                About::Subscription(_) => Subject::Subscription("subscription".to_owned()),
            };
            let hint = Hint { source: told.source, code: told.code.clone(), at: told.at };
            let fact = Fact::SaleAttributed { subject, hint };
            let alone = dice.once_in(2);
            let host = dice.pick(&self.events[&payment]);
            match &mut self.steps[host] {
                Step::Event { facts, .. } if !alone => facts.push(fact),
                _ => self.steps.push(Step::Event { scope: scope_of(paid.provider), facts: vec![fact] }),
            }
            truth.told.push(told);
        }
    }

    fn endings(&mut self, dice: &mut Dice<'_>, truth: &mut Truth) {
        for provider in [Provider::Stripe, Provider::Paddle] {
            if dice.once_in(8) {
                truth.ended.insert(provider);
                let ended = Fact::SubscriptionEnded {
                    subscription: "subscription".to_owned(),
                    at: TURN.plus_days(50),
                };
                self.steps.push(Step::Event { scope: scope_of(provider), facts: vec![ended] });
            }
        }
    }

    /// Decisions of people, each about the enrollment that the payment ends with.
    fn decisions(&mut self, dice: &mut Dice<'_>, truth: &mut Truth) {
        for payment in 0..truth.payments.len() {
            let reasons = [
                None,
                Some(ClawbackReason::Refund),
                Some(ClawbackReason::Chargeback),
                Some(ClawbackReason::Fraud),
                Some(ClawbackReason::Other),
            ];
            let mut decide = |kind, earner, reason, amount| {
                truth.decisions.push(Decided { payment, kind, earner, reason, amount });
            };
            if dice.once_in(6) {
                decide(DecisionKind::Attribute, dice.pick(&[0, 1, 2, 3]), None, None);
            }
            let Some(earner) = truth.earner(payment) else { continue };
            let mut decide = |kind, reason, amount| {
                truth.decisions.push(Decided { payment, kind, earner, reason, amount });
            };
            if dice.once_in(8) {
                decide(DecisionKind::Reject, None, None);
            }
            for _ in 0..dice.roll(6) - 3 {
                let amount = dice.once_in(2).then(|| 1 + dice.roll(5_000));
                decide(DecisionKind::Clawback, dice.pick(&reasons), amount);
            }
            // An approval clears what stands when it is given, so where something stands at the end it
            // would matter when that was.
            if !truth.is_stopped(payment, earner) && dice.once_in(2) {
                let approve = DecisionKind::Approve;
                truth.decisions.push(Decided { payment, kind: approve, earner, reason: None, amount: None });
            }
        }
        for (nth, decided) in truth.decisions.iter().enumerate() {
            let objects: Vec<&ObjectRef> = self.objects[&decided.payment].iter().collect();
            let decision = Decision {
                id: DecisionId::derived(&[&nth.to_string()]),
                enrollment_id: EnrollmentId::parse(ENROLLMENTS[decided.earner]).unwrap(),
                commission_id: None,
                kind: decided.kind,
                reason: decided.reason,
                amount: decided.amount,
                at: TURN.plus_secs(i64::try_from(nth).unwrap()),
            };
            let scope = scope_of(truth.payments[decided.payment].provider);
            self.steps.push(Step::Decision { scope, object: dice.pick(&objects).clone(), decision });
        }
    }
}

/// Part of an amount that was captured first.
fn dice_less(amount: i64) -> i64 {
    amount - amount / 3
}
