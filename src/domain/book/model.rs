//! What really happened, and what the books must say at the end: the reference the fold is compared with.
//!
//! The model never sees a fact or an event. It computes from the truth of a story, payment by payment,
//! with its own arithmetic, and shares with the rules only the words of their types. It deliberately
//! knows nothing of order, merging, postings or revisions.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::{
    commission::{ClawbackReason, DecisionKind},
    fact::HintSource,
    ledger::Account,
    money::Currency,
    terms::{ApprovalMode, CommissionBase, CommissionRule, FlatOnPartial, Terms},
    time::Timestamp,
};

/// The instant at which the second version of every program's terms begins, and at which the code `old`
/// ends and the code `new` starts.
pub const TURN: Timestamp = Timestamp::from_secs(1_800_000_000);

/// The enrollments of every story: number `n` belongs to program `n`, and number `n + 1` is its sponsor. The
/// last one is suspended.
pub const ENROLLMENTS: [&str; 4] = ["par_ann", "par_bob", "par_cat", "par_dan"];

/// Every code a story may use; see [`earner_of`].
pub const CODES: [&str; 8] = ["ann", "bob", "cat", "old", "new", "dan", "nobody", "foreign"];

/// The number of the enrollment that `code`, told at `told_at`, earns for when a sale is paid at `paid_at`.
pub fn earner_of(code: &str, told_at: Timestamp, paid_at: Timestamp) -> Option<usize> {
    match code {
        "ann" => Some(0),
        "bob" => Some(1),
        "cat" => Some(2),
        "old" => (told_at < TURN).then_some(0),
        "new" => (paid_at >= TURN).then_some(1),
        _ => None,
    }
}

/// A provider has its own customers and subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Provider {
    Stripe,
    Paddle,
}

/// How a refund ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefundEnd {
    Done,
    Failed,
    /// Asked for and never decided.
    Asked,
}

/// How a dispute ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisputeEnd {
    /// An inquiry that is still open; no money moved.
    Inquiry,
    /// An inquiry that led to nothing.
    InquiryClosed,
    /// Money was taken, nothing is decided.
    Open,
    Lost,
    Won,
    /// Lost, and part of it was given back.
    PartlyReturned(i64),
}

/// What a buyer got back from one charge.
#[derive(Clone, Copy, Debug)]
pub struct Refunded {
    pub charge: usize,
    pub amount: i64,
    pub end: RefundEnd,
}

/// What the buyer's bank did about one charge.
#[derive(Clone, Copy, Debug)]
pub struct Disputed {
    pub charge: usize,
    pub amount: i64,
    pub end: DisputeEnd,
}

/// What a code was told for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    Payment(usize),
    Subscription(Provider),
    Customer(Provider),
}

/// A code that was told.
#[derive(Clone, Debug)]
pub struct Told {
    pub about: About,
    pub source: HintSource,
    /// As written; codes are compared without regard to case.
    pub code: String,
    pub at: Timestamp,
}

/// What a person decided about one payment.
#[derive(Clone, Copy, Debug)]
pub struct Decided {
    pub payment: usize,
    pub kind: DecisionKind,
    /// Number of the enrollment.
    pub earner: usize,
    pub reason: Option<ClawbackReason>,
    pub amount: Option<i64>,
}

/// One real payment.
#[derive(Clone, Debug)]
pub struct Paid {
    pub provider: Provider,
    /// Sum of the charges, tax included, minor units.
    pub amount: i64,
    /// What each charge took, minor units.
    pub charges: Vec<i64>,
    /// Tax within the amount, as far as anybody tells it.
    pub tax: Option<i64>,
    pub currency: Currency,
    pub at: Timestamp,
    pub has_customer: bool,
    pub has_subscription: bool,
    /// Whether the buyer uses the mailbox of the first enrollment.
    pub buyer_is_ann: bool,
    pub refunds: Vec<Refunded>,
    pub disputes: Vec<Disputed>,
}

/// What really happened.
#[derive(Clone, Debug)]
pub struct Truth {
    /// Terms of the program of each enrollment: before and from [`TURN`].
    pub terms: Vec<[Terms; 2]>,
    pub payments: Vec<Paid>,
    pub told: Vec<Told>,
    pub decisions: Vec<Decided>,
    /// Providers whose subscription has ended.
    pub ended: BTreeSet<Provider>,
}

/// Balances seen from the credit side, by owner, account and currency, without those of zero.
pub type Balances = BTreeMap<(String, Account, Currency), i64>;

impl Truth {
    /// The terms that hold for a payment of enrollment `earner`.
    pub fn terms_of(&self, earner: usize, paid: &Paid) -> &Terms {
        &self.terms[earner][usize::from(paid.at >= TURN)]
    }

    /// The number of the enrollment that earns from the payment.
    pub fn earner(&self, payment: usize) -> Option<usize> {
        let by_hand = self
            .decisions
            .iter()
            .find(|decided| decided.payment == payment && decided.kind == DecisionKind::Attribute);
        by_hand.map(|decided| decided.earner).or_else(|| self.earner_by_code(payment))
    }

    fn earner_by_code(&self, payment: usize) -> Option<usize> {
        let paid = &self.payments[payment];
        let about = |what: About| {
            let mut told: Vec<&Told> = self.told.iter().filter(|told| told.about == what).collect();
            told.sort_by_key(|told| (told.at, told.source, told.code.clone()));
            told
        };
        let mut own = about(About::Payment(payment));
        own.sort_by_key(|told| told.source);
        let subscription =
            if paid.has_subscription { about(About::Subscription(paid.provider)) } else { Vec::new() };
        let mut customer = if paid.has_customer { about(About::Customer(paid.provider)) } else { Vec::new() };
        customer.retain(|told| told.at.as_secs() - paid.at.as_secs() <= 3_600);
        own.into_iter().chain(subscription).chain(customer).find_map(|told| {
            let told_at = match told.about {
                About::Payment(_) => paid.at,
                About::Subscription(_) | About::Customer(_) => told.at,
            };
            earner_of(&told.code.to_lowercase(), told_at, paid.at)
        })
    }

    /// Whether something still stops the money of the payment at the end.
    pub fn is_stopped(&self, payment: usize, earner: usize) -> bool {
        let paid = &self.payments[payment];
        let dispute_open =
            |disputed: &Disputed| matches!(disputed.end, DisputeEnd::Inquiry | DisputeEnd::Open);
        paid.disputes.iter().any(dispute_open)
            || paid.refunds.iter().any(|refunded| refunded.end == RefundEnd::Asked)
            || (paid.has_subscription && self.ended.contains(&paid.provider))
            || (paid.buyer_is_ann && earner == 0)
    }

    /// The balances at the end of time.
    pub fn expected(&self) -> Balances {
        let mut balances = Balances::new();
        for payment in 0..self.payments.len() {
            let Some(earner) = self.earner(payment) else { continue };
            let terms = self.terms_of(earner, &self.payments[payment]);
            let (whole, keep, currency) = self.keep(payment, earner, terms);
            let tax_unknown = terms.commission_base == CommissionBase::NetOfTax
                && self.payments[payment].tax.is_none()
                && matches!(terms.commission, CommissionRule::Percentage { .. });
            let account = if tax_unknown || self.is_stopped(payment, earner) {
                Account::Held
            } else {
                Account::Payable
            };
            for (who, keep) in [(earner, keep)].into_iter().chain(sponsors(earner, terms, whole, keep)) {
                let affiliate = (ENROLLMENTS[who].to_owned(), account, currency);
                let program = (format!("prog_{earner}"), Account::Expense, currency);
                *balances.entry(affiliate).or_default() += keep;
                *balances.entry(program).or_default() -= keep;
            }
        }
        balances.retain(|_, balance| *balance != 0);
        balances
    }

    /// The commission of enrollment `earner` for the payment, what they keep of it in the end, and in which
    /// currency.
    fn keep(&self, payment: usize, earner: usize, terms: &Terms) -> (i64, i64, Currency) {
        let paid = &self.payments[payment];
        let (commission, currency) = match &terms.commission {
            CommissionRule::Flat { amount_cents, currency } => {
                (if paid.amount == 0 { 0 } else { *amount_cents }, *currency)
            }
            CommissionRule::Percentage { bps } => {
                let tax = match terms.commission_base {
                    CommissionBase::Gross => 0,
                    CommissionBase::NetOfTax => paid.tax.unwrap_or(0),
                };
                (half_up(paid.amount - tax, i64::from(bps.get()), 10_000), paid.currency)
            }
            CommissionRule::Recurring { .. } | CommissionRule::Tiered { .. } => {
                unreachable!("no story has a rule that looks at other sales")
            }
        };
        let has = |kind| {
            let mut decisions = self.decisions.iter();
            decisions.any(|it| it.payment == payment && it.kind == kind && it.earner == earner)
        };
        let waits = terms.approval_mode == ApprovalMode::Manual && !has(DecisionKind::Approve);
        if waits || has(DecisionKind::Reject) {
            return (commission, 0, currency);
        }
        let taken = paid.taken();
        let whole_flat = matches!(terms.commission, CommissionRule::Flat { .. })
            && terms.flat_on_partial == FlatOnPartial::Keep;
        let left = if taken == paid.amount {
            0
        } else if whole_flat {
            commission
        } else {
            half_up(commission, paid.amount - taken, paid.amount)
        };
        let by_hand = |told_by_provider_too: bool| -> i64 {
            self.decisions
                .iter()
                .filter(|it| {
                    it.payment == payment && it.kind == DecisionKind::Clawback && it.earner == earner
                })
                .filter(|it| {
                    let told = matches!(it.reason, Some(ClawbackReason::Refund | ClawbackReason::Chargeback));
                    told == told_by_provider_too
                })
                .map(|it| it.amount.unwrap_or(commission).min(commission))
                .sum()
        };
        let clawed = (commission - left).max(by_hand(true)) + by_hand(false);
        (commission, (commission - clawed).max(0), currency)
    }
}

/// What the sponsors keep, by number, where the affiliate keeps `keep` of `whole`.
fn sponsors(earner: usize, terms: &Terms, whole: i64, keep: i64) -> Vec<(usize, i64)> {
    let shares = terms.upline_bps.iter().map(|bps| half_up(whole, i64::from(bps.get()), 10_000));
    let active = 0..ENROLLMENTS.len() - 1;
    (earner + 1..)
        .zip(shares)
        .filter(|(sponsor, _)| whole > 0 && active.contains(sponsor))
        .map(|(sponsor, share)| (sponsor, half_up(share, keep, whole)))
        .collect()
}

impl Paid {
    /// What was given back to the buyer or taken by the bank, at most the amount.
    pub fn taken(&self) -> i64 {
        let refunded: i64 =
            self.refunds.iter().filter(|it| it.end == RefundEnd::Done).map(|it| it.amount).sum();
        let disputed: i64 = self
            .disputes
            .iter()
            .map(|it| match it.end {
                DisputeEnd::Inquiry | DisputeEnd::InquiryClosed | DisputeEnd::Won => 0,
                DisputeEnd::Open | DisputeEnd::Lost => it.amount,
                DisputeEnd::PartlyReturned(back) => it.amount - back,
            })
            .sum();
        (refunded + disputed).min(self.amount)
    }
}

/// `amount × part ÷ whole` of non-negative numbers, halves up.
pub fn half_up(amount: i64, part: i64, whole: i64) -> i64 {
    let doubled = 2 * i128::from(amount) * i128::from(part) + i128::from(whole);
    i64::try_from(doubled / (2 * i128::from(whole))).unwrap()
}
