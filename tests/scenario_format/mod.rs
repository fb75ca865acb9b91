//! The scenario files under `fixtures/scenarios`, as types: read strictly, and checked against themselves.
//!
//! A scenario is a story told in provider events and human decisions, with the balances that must come
//! out. Its numbers are worked out by hand in the file, so nothing here computes a commission: this module
//! only refuses a file whose expectations contradict each other. Whoever delivers the events to the
//! program includes this module and starts from [`load_all`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use remit::domain::{
    money::{BasisPoints, Currency},
    terms::{ProductRate, Tier, TierBasis, TierMode},
    time::Timestamp,
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// What is wrong with a file, in words for the person who edits it.
pub type Defect = String;

/// Nothing becomes payable in the first 15 minutes after its event was received.
const MERGE_GRACE_S: i64 = 900;

/// Affiliate and currency.
type Purse = (String, Currency);

/// One story.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name of the folder. It is not in the file.
    #[serde(skip)]
    pub name: String,
    /// A sentence.
    pub title: String,
    /// The calculation by hand, one step per line.
    pub arithmetic: Vec<String>,
    /// The programs that exist from before the story.
    pub programs: Vec<Program>,
    /// The affiliates, each enrolled in one program from before the story.
    pub affiliates: Vec<Affiliate>,
    /// What happens, in this order. Only inside a phase may events change places.
    pub phases: Vec<Phase>,
}

/// Terms of a program.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Name within the file.
    #[serde(rename = "ref")]
    pub reference: String,
    /// What a sale earns.
    pub commission: CommissionTerms,
    /// What a percentage is taken of.
    #[serde(default)]
    pub commission_base: CommissionBase,
    /// Who accepts a commission.
    #[serde(default)]
    pub approval_mode: ApprovalMode,
    /// Days of 86 400 s from the payment until its commission can be payable.
    #[serde(default)]
    pub hold_period_days: u16,
    /// What a refund of part of a sale does to a flat commission.
    #[serde(default)]
    pub flat_on_partial: FlatOnPartial,
    /// Rates of their own for some prices and products.
    #[serde(default)]
    pub product_rates: Vec<ProductRate>,
    /// What the sponsors of the affiliate get of the commission, the nearest first.
    #[serde(default)]
    pub upline_bps: Vec<BasisPoints>,
}

/// What a sale earns.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum CommissionTerms {
    /// A share of the base.
    Percentage {
        /// The share.
        bps: BasisPoints,
    },
    /// The same for each sale.
    Flat {
        /// Minor units.
        amount_cents: i64,
        /// Currency of the amount.
        currency: Currency,
    },
    /// A share of each payment of a customer.
    Recurring {
        /// The share.
        bps: BasisPoints,
        /// How many payments earn.
        max_payments: u32,
    },
    /// By what the affiliate brought before. Sales that depend on each other belong into phases of their
    /// own, because inside a phase any of them may come first.
    Tiered {
        /// What is counted.
        basis: TierBasis,
        /// What the rate is applied to.
        mode: TierMode,
        /// In order of `from`.
        tiers: Vec<Tier>,
    },
}

/// What a percentage is taken of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommissionBase {
    /// The captured amount.
    #[default]
    Gross,
    /// The captured amount without the tax in it.
    NetOfTax,
}

/// Who accepts a commission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalMode {
    /// Nobody needs to.
    #[default]
    Auto,
    /// A person does.
    Manual,
}

/// What a refund of part of a sale does to a flat commission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlatOnPartial {
    /// Nothing, until the whole sale is taken back.
    #[default]
    Keep,
    /// The same as to a percentage.
    Proportional,
}

/// One who earns.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Affiliate {
    /// Name within the file.
    #[serde(rename = "ref")]
    pub reference: String,
    /// [`Program::reference`] of the enrollment.
    pub program: String,
    /// The referral code.
    pub code: String,
    /// The affiliate's own address.
    pub email: String,
    /// [`Affiliate::reference`] of the one who brought them.
    pub sponsor: Option<String>,
}

/// Events, then decisions, then time.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Delivered in any order and any number of times, all of them before the decisions.
    pub events: Vec<Event>,
    /// Made in this order.
    #[serde(default)]
    pub decisions: Vec<Decision>,
    /// The clock when what is due has been released; later than the merge grace of every event.
    pub as_of: Timestamp,
    /// What must be true then.
    pub expect: Expect,
}

/// One webhook.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Who sends it.
    pub provider: Provider,
    /// The provider's id of it, the same as in the body.
    pub id: String,
    /// The body, to be delivered byte for byte as it stands in the file.
    pub body: Box<RawValue>,
}

/// Who sends an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// Stripe.
    Stripe,
    /// Paddle Billing.
    Paddle,
    /// The owner's backend: a report as it is stored, named by the order's id. Its program is
    /// `prog_<story>-<ref>`.
    Report,
}

/// What a person decides.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The sale came from this affiliate.
    Attribute(SaleOf),
    /// The commission is accepted, and what flagged it so far is settled.
    Approve(SaleOf),
    /// The commission is refused for good.
    Reject(SaleOf),
    /// The commission is taken back.
    Clawback(Clawback),
}

/// A sale and who it is, or shall be, credited to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaleOf {
    /// Any provider id of the sale.
    pub sale: String,
    /// [`Affiliate::reference`].
    pub affiliate: String,
}

/// A clawback by hand.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clawback {
    /// Any provider id of the sale.
    pub sale: String,
    /// [`Affiliate::reference`].
    pub affiliate: String,
    /// Why. `refund` stands for the refunds that the provider tells, other reasons come on top of them.
    pub reason: String,
    /// Minor units of the commission; all of it where absent.
    pub amount_cents: Option<i64>,
}

/// What must be true at the end of a phase.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// A balance that is not listed is zero.
    pub balances: Vec<Balance>,
    /// The commissions of the story. One that is not listed contributes nothing to any balance.
    pub commissions: Vec<Commission>,
    /// How many different events so far ended how; unchecked where absent.
    pub events: Option<EventCounts>,
    /// Kinds of the open findings, sorted; unchecked where absent.
    pub findings: Option<Vec<String>>,
}

/// Minor units of one affiliate in one currency.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balance {
    /// [`Affiliate::reference`].
    pub affiliate: String,
    /// Currency of the amounts.
    pub currency: Currency,
    /// Earned, and not yet to be paid.
    pub held: i64,
    /// To be paid.
    pub payable: i64,
    /// In a payout under way.
    pub in_transit: i64,
    /// Paid.
    pub paid: i64,
}

/// What one affiliate has from one sale.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commission {
    /// [`Affiliate::reference`].
    pub affiliate: String,
    /// Any provider id of the sale.
    pub sale: String,
    /// Currency of the amounts.
    pub currency: Currency,
    /// Accrued, minor units.
    pub earned: i64,
    /// Taken back of it, minor units.
    pub clawed: i64,
    /// Where it stands.
    pub state: State,
}

/// Where a commission stands; the words of the product's own state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A person has to accept it; nothing is accrued.
    AwaitingReview,
    /// Accrued, and the hold is not over.
    Held,
    /// Released.
    Payable,
    /// Something about it wants a look; its money waits.
    Flagged,
    /// All of it was taken back.
    Reversed,
    /// Refused.
    Denied,
}

/// How many different events of the story so far ended how.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventCounts {
    /// They told something.
    pub applied: usize,
    /// They tell nothing that concerns the product.
    pub ignored: usize,
    /// They could not be processed.
    pub parked: usize,
}

/// Every scenario of the project, by name.
///
/// # Panics
/// When one of them cannot be read or contradicts itself; the message names the file and the place.
pub fn load_all() -> Vec<Scenario> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/scenarios");
    let folders = fs::read_dir(&root).expect("fixtures/scenarios is part of the project");
    let mut names: Vec<String> = folders
        .map(|entry| entry.expect("the folder can be listed"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().expect("names of scenarios are ASCII"))
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let file = root.join(&name).join("scenario.json");
            let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
            Scenario::parse(&name, &text).unwrap_or_else(|defect| panic!("{name}: {defect}"))
        })
        .collect()
}

impl Scenario {
    /// Reads one file strictly and checks it against itself.
    ///
    /// # Errors
    /// The first [`Defect`] found.
    pub fn parse(name: &str, text: &str) -> Result<Self, Defect> {
        let mut scenario: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        name.clone_into(&mut scenario.name);
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), Defect> {
        let snake = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        ensure(self.name.chars().all(snake), || "the name of the folder is not snake_case".into())?;
        ensure(!self.title.trim().is_empty(), || "it has no title".into())?;
        ensure(!self.arithmetic.is_empty(), || "it shows no arithmetic".into())?;
        ensure(!self.phases.is_empty(), || "nothing happens in it".into())?;
        unique("program", self.programs.iter().map(|program| &program.reference))?;
        unique("affiliate", self.affiliates.iter().map(|affiliate| &affiliate.reference))?;
        unique("code", self.affiliates.iter().map(|affiliate| &affiliate.code))?;
        self.programs.iter().try_for_each(Program::check)?;
        for affiliate in &self.affiliates {
            let program = &affiliate.program;
            ensure(self.programs.iter().any(|one| one.reference == *program), || {
                format!("{} is in program `{program}`, which does not exist", affiliate.reference)
            })?;
            if let Some(sponsor) = &affiliate.sponsor {
                self.check_affiliate(sponsor)?;
            }
            ensure(affiliate.email.contains('@'), || format!("{} has no address", affiliate.reference))?;
        }

        let mut told = Told::default();
        for (index, phase) in self.phases.iter().enumerate() {
            let number = index.saturating_add(1);
            self.check_phase(phase, &mut told).map_err(|defect| format!("phase {number}: {defect}"))?;
        }
        Ok(())
    }

    fn check_phase<'a>(&self, phase: &'a Phase, told: &mut Told<'a>) -> Result<(), Defect> {
        unique("event", phase.events.iter().map(|event| &event.id))?;
        for event in &phase.events {
            told.hear(event)?;
            ensure(event.at()?.plus_secs(MERGE_GRACE_S) <= phase.as_of, || {
                format!("event {} has no time to settle before the end", event.id)
            })?;
        }
        ensure(told.clock.is_none_or(|before| before <= phase.as_of), || "time runs backwards".into())?;
        told.clock = Some(phase.as_of);

        for decision in &phase.decisions {
            let (sale, affiliate) = match decision {
                Decision::Attribute(of) | Decision::Approve(of) | Decision::Reject(of) => {
                    (&of.sale, &of.affiliate)
                }
                Decision::Clawback(by_hand) => {
                    ensure(!by_hand.reason.is_empty(), || "a clawback has no reason".into())?;
                    ensure(by_hand.amount_cents.is_none_or(|amount| amount > 0), || {
                        "a clawback takes nothing".into()
                    })?;
                    (&by_hand.sale, &by_hand.affiliate)
                }
            };
            self.check_affiliate(affiliate)?;
            told.check_sale(sale)?;
        }
        for commission in &phase.expect.commissions {
            self.check_affiliate(&commission.affiliate)?;
            told.check_sale(&commission.sale)?;
            commission.check()?;
        }
        for balance in &phase.expect.balances {
            self.check_affiliate(&balance.affiliate)?;
        }
        phase.expect.check(told.bodies.len())
    }

    fn check_affiliate(&self, reference: &str) -> Result<(), Defect> {
        ensure(self.affiliates.iter().any(|affiliate| affiliate.reference == reference), || {
            format!("affiliate `{reference}` does not exist")
        })
    }
}

impl Program {
    fn check(&self) -> Result<(), Defect> {
        let fits = match self.commission {
            CommissionTerms::Percentage { bps } => {
                bps.get() > 0 && self.flat_on_partial == FlatOnPartial::default()
            }
            CommissionTerms::Flat { amount_cents, currency } => {
                amount_cents > 0 && currency.is_listed() && self.commission_base == CommissionBase::default()
            }
            CommissionTerms::Recurring { bps, max_payments } => bps.get() > 0 && max_payments > 0,
            CommissionTerms::Tiered { basis, mode, ref tiers } => {
                !tiers.is_empty() && (mode == TierMode::Whole || basis == TierBasis::Revenue)
            }
        };
        unique("rate of", self.product_rates.iter().map(|rate| &rate.product))?;
        let fits = fits && self.upline_bps.iter().all(|bps| bps.get() > 0);
        ensure(fits, || format!("the terms of program `{}` do not fit together", self.reference))?;
        ensure(self.approval_mode == ApprovalMode::Auto || self.hold_period_days <= 365, || {
            format!("program `{}` holds longer than a year", self.reference)
        })
    }
}

/// What was delivered so far.
#[derive(Default)]
struct Told<'a> {
    bodies: BTreeMap<(Provider, &'a str), &'a str>,
    clock: Option<Timestamp>,
}

impl<'a> Told<'a> {
    fn hear(&mut self, event: &'a Event) -> Result<(), Defect> {
        event.check().map_err(|defect| format!("event {}: {defect}", event.id))?;
        let body = event.body.get();
        let first = *self.bodies.entry((event.provider, &event.id)).or_insert(body);
        ensure(first == body, || format!("event {} comes again with another body", event.id))
    }

    /// Some event so far names the sale.
    fn check_sale(&self, sale: &str) -> Result<(), Defect> {
        let quoted = format!("\"{sale}\"");
        ensure(self.bodies.values().any(|body| body.contains(&quoted)), || {
            format!("no event so far names the sale `{sale}`")
        })
    }
}

impl Event {
    fn check(&self) -> Result<(), Defect> {
        let head = self.head()?;
        let (id, about) = match self.provider {
            Provider::Stripe => (head.id, head.r#type),
            Provider::Paddle => (head.event_id, head.event_type),
            Provider::Report => (head.external_id, head.program_id),
        };
        ensure(id.as_deref() == Some(&self.id), || "its body has another id".into())?;
        ensure(about.is_some(), || "its body has no type".into())
    }

    fn head(&self) -> Result<Head, Defect> {
        Head::deserialize(&*self.body).map_err(|error| error.to_string())
    }

    /// When the provider says it happened.
    fn at(&self) -> Result<Timestamp, Defect> {
        let head = self.head()?;
        match (head.created, head.occurred_at) {
            (Some(When::Seconds(seconds)), _) => Ok(Timestamp::from_secs(seconds)),
            (Some(When::Text(at)), _) | (None, Some(at)) => Ok(at),
            (None, None) => Err(format!("event {} has no time", self.id)),
        }
    }
}

/// What the providers put at the head of a body, and what a report is known by.
#[derive(Deserialize)]
struct Head {
    id: Option<String>,
    r#type: Option<String>,
    event_id: Option<String>,
    event_type: Option<String>,
    external_id: Option<String>,
    program_id: Option<String>,
    created: Option<When>,
    occurred_at: Option<Timestamp>,
}

/// Stripe counts seconds in its usual events and writes text in thin ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum When {
    Seconds(i64),
    Text(Timestamp),
}

impl Commission {
    fn left(&self) -> i64 {
        self.earned.saturating_sub(self.clawed)
    }

    fn check(&self) -> Result<(), Defect> {
        let within = 0 <= self.clawed && self.clawed <= self.earned;
        let fits = match self.state {
            State::AwaitingReview => self.earned == 0,
            State::Reversed | State::Denied => self.left() == 0,
            State::Held | State::Payable | State::Flagged => self.left() > 0,
        };
        ensure(within && fits, || format!("the amounts of {self:?} do not fit its state"))
    }
}

impl Expect {
    fn check(&self, distinct_events: usize) -> Result<(), Defect> {
        let (mut held, mut payable) = (BTreeMap::<Purse, i64>::new(), BTreeMap::<Purse, i64>::new());
        for commission in &self.commissions {
            let side = if commission.state == State::Payable { &mut payable } else { &mut held };
            let sum = side.entry((commission.affiliate.clone(), commission.currency)).or_default();
            *sum = sum.saturating_add(commission.left());
        }
        unique("balance", self.balances.iter().map(|balance| (&balance.affiliate, balance.currency)))?;
        for balance in &self.balances {
            let purse = (balance.affiliate.clone(), balance.currency);
            let from_commissions =
                (held.remove(&purse).unwrap_or_default(), payable.remove(&purse).unwrap_or_default());
            ensure(from_commissions == (balance.held, balance.payable), || {
                format!("commissions give held and payable {from_commissions:?}, but: {balance:?}")
            })?;
            // No story here pays anybody out; one that does has to say how this check follows.
            ensure((balance.in_transit, balance.paid) == (0, 0), || format!("who paid {balance:?}?"))?;
        }
        if let Some(((affiliate, currency), _)) =
            held.into_iter().chain(payable).find(|&(_, amount)| amount != 0)
        {
            return Err(format!("the balance of {affiliate} in {currency} is missing"));
        }
        if let Some(events) = &self.events {
            let all = [events.applied, events.ignored, events.parked].into_iter().sum::<usize>();
            ensure(all == distinct_events, || {
                format!("{all} events are expected and {distinct_events} delivered")
            })?;
        }
        ensure(self.findings.as_ref().is_none_or(|kinds| kinds.is_sorted()), || {
            "findings are not sorted".into()
        })
    }
}

fn ensure(holds: bool, defect: impl FnOnce() -> Defect) -> Result<(), Defect> {
    if holds { Ok(()) } else { Err(defect()) }
}

fn unique<T: Ord + std::fmt::Debug>(what: &str, all: impl IntoIterator<Item = T>) -> Result<(), Defect> {
    let mut seen = BTreeSet::new();
    for one in all {
        let text = format!("{one:?}");
        ensure(seen.insert(one), || format!("{what} {text} is there twice"))?;
    }
    Ok(())
}
