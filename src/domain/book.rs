//! The sales of a batch in memory: facts go in by [`Book::apply`], what follows comes out by
//! [`Book::fold`].
//!
//! The book knows nothing of a database. The caller loads every sale that the facts touch, applies the
//! facts, folds, and writes what changed; a test does the same with an empty book.

mod counting;
mod fold;
#[cfg(test)]
mod model;
#[cfg(test)]
mod story;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

pub use counting::{CounterKey, FirstPayment, Tallies, Tally};

use super::{
    attribution::{Attribution, Surroundings},
    commission::{Commission, CommissionState, Decision, DecisionKind, Flag, Posted},
    fact::{Fact, Hint, HintSource, ObjectKind, ObjectRef, Subject},
    ids::{EnrollmentId, OrganizationId, ProjectId, SaleId},
    ledger::{Cause, LedgerError},
    sale::{SaleFacts, Stop, Summary},
    terms::Position,
    time::Timestamp,
};

/// Namespace in which a provider's ids are unique: provider, mode and connected account, such as
/// `stripe/test` or `stripe/live/acct_1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Realm(String);

impl Realm {
    /// The namespace of a provider's ids.
    #[must_use]
    pub fn new(provider: &str, livemode: bool, account: &str) -> Self {
        let mode = if livemode { "live" } else { "test" };
        if account.is_empty() {
            Self(format!("{provider}/{mode}"))
        } else {
            Self(format!("{provider}/{mode}/{account}"))
        }
    }

    /// Where what a connected account of this provider and mode tells belongs.
    #[must_use]
    pub fn of_account(&self, account: &str) -> Self {
        let platform: Vec<&str> = self.0.splitn(3, '/').take(2).collect();
        Self(format!("{}/{account}", platform.join("/")))
    }

    /// Where the owner's own ids live: one realm for all providers of a mode.
    #[must_use]
    pub fn external(&self) -> Self {
        Self(format!("external/{}", self.0.split('/').nth(1).unwrap_or("test")))
    }

    /// Whether the ids in it are the owner's own.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.0.starts_with("external/")
    }

    /// As stored.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where facts belong: the project of the endpoint and the realm of the event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The project.
    pub project_id: ProjectId,
    /// The realm.
    pub realm: Realm,
}

/// The key of an alias (`rulings.md` 4).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AliasKey {
    /// Project and realm. The owner's own ids live in one realm per project and mode, so that a report
    /// and a webhook about one order meet, and a test never meets a live one.
    pub scope: Scope,
    /// The object.
    pub object: ObjectRef,
}

impl AliasKey {
    /// The key of `object` in `scope`.
    #[must_use]
    pub fn new(scope: &Scope, object: &ObjectRef) -> Self {
        let realm = match object.kind {
            ObjectKind::External => scope.realm.external(),
            ObjectKind::Intent
            | ObjectKind::Charge
            | ObjectKind::Invoice
            | ObjectKind::CheckoutSession
            | ObjectKind::Transaction => scope.realm.clone(),
        };
        Self { scope: Scope { project_id: scope.project_id.clone(), realm }, object: object.clone() }
    }
}

/// The key of what carries attribution.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubjectKey {
    /// Project and realm.
    pub scope: Scope,
    /// Sale object, subscription or customer.
    pub subject: Subject,
}

impl SubjectKey {
    /// The key of `subject` in `scope`. A sale's own codes follow its alias, the owner's ids included.
    #[must_use]
    pub fn new(scope: &Scope, subject: &Subject) -> Self {
        match subject {
            Subject::Sale(object) => {
                let alias = AliasKey::new(scope, object);
                Self { scope: alias.scope, subject: Subject::Sale(alias.object) }
            }
            Subject::Subscription(_) | Subject::Customer(_) => {
                Self { scope: scope.clone(), subject: subject.clone() }
            }
        }
    }

    /// Under which key payments are counted together, for what can make several ([`Sale::customer_key`]).
    #[must_use]
    pub fn customer_key(&self) -> Option<String> {
        let (kind, id) = match &self.subject {
            Subject::Customer(id) => ("customer", id),
            Subject::Subscription(id) => ("subscription", id),
            Subject::Sale(_) => return None,
        };
        Some(format!("{}/{}/{kind}/{id}", self.scope.project_id, self.scope.realm.as_str()))
    }
}

/// One sale with everything the fold needs.
#[derive(Clone, Debug)]
pub struct Sale {
    /// Id.
    pub id: SaleId,
    /// Where its ids belong.
    pub scope: Scope,
    /// The owner of its project.
    pub owner: OrganizationId,
    /// The sale that carries its facts now.
    pub merged_into: Option<SaleId>,
    /// When the last event about it was received.
    pub received_at: Timestamp,
    /// Ids of the payment.
    pub aliases: BTreeSet<AliasKey>,
    /// What was told.
    pub facts: SaleFacts,
    /// What people decided.
    pub decisions: Vec<Decision>,
    /// Commissions, whether owed or taken back.
    pub commissions: Vec<Commission>,
    /// Events and decisions of this batch that touched it.
    pub causes: BTreeSet<Cause>,
    /// Flags of a sale merged into this one, by enrollment.
    pub inherited_flags: BTreeMap<EnrollmentId, BTreeMap<Stop, Flag>>,
    /// The place that a sale merged into this one had among others, by enrollment: they are one payment,
    /// and it must not be counted as coming after itself.
    pub inherited_positions: BTreeMap<EnrollmentId, Position>,
}

impl Sale {
    /// A sale that nothing is known of.
    #[must_use]
    pub fn open(id: SaleId, scope: Scope, owner: OrganizationId) -> Self {
        Self {
            id,
            scope,
            owner,
            merged_into: None,
            received_at: Timestamp::EPOCH,
            aliases: BTreeSet::new(),
            facts: SaleFacts::default(),
            decisions: Vec::new(),
            commissions: Vec::new(),
            causes: BTreeSet::new(),
            inherited_flags: BTreeMap::new(),
            inherited_positions: BTreeMap::new(),
        }
    }

    /// Where the ids of an object of this sale belong. A sale can span realms: a report and a webhook,
    /// or two providers, that name the same order.
    #[must_use]
    pub fn scope_of(&self, object: &ObjectRef) -> &Scope {
        self.aliases.iter().find(|alias| alias.object == *object).map_or(&self.scope, |alias| &alias.scope)
    }

    /// The subscriptions and customers that its payments name.
    #[must_use]
    pub fn carriers(&self) -> BTreeSet<SubjectKey> {
        let carriers = self.facts.payments.iter().flat_map(|(object, payment)| {
            let scope = self.scope_of(object);
            let customer = payment.customer.clone().map(Subject::Customer);
            let subscription = payment.subscription.clone().map(Subject::Subscription);
            customer
                .into_iter()
                .chain(subscription)
                .map(move |subject| SubjectKey { scope: scope.clone(), subject })
        });
        carriers.collect()
    }

    /// When its facts say that it was paid.
    pub(crate) fn paid_at(&self) -> Option<Timestamp> {
        Some(self.facts.summary().ok()??.paid_at)
    }

    /// Whose payments this one is counted among: the provider's customer, else the subscription it pays.
    /// A sale that names neither is a customer of its own.
    #[must_use]
    pub fn customer_key(&self) -> String {
        let carriers = self.carriers();
        let of_kind = |customer: bool| {
            carriers.iter().find(|carrier| matches!(carrier.subject, Subject::Customer(_)) == customer)
        };
        let carrier = of_kind(true).or_else(|| of_kind(false));
        carrier.and_then(SubjectKey::customer_key).unwrap_or_else(|| format!("sale/{}", self.id))
    }

    fn advancement(&self) -> u8 {
        self.commissions.iter().map(Commission::advancement).max().unwrap_or(0)
    }
}

/// The kinds of findings that a fold raises about a sale. They are as true as the facts are complete:
/// the next fold that does not raise one again resolves it.
pub const SALE_FINDINGS: [&str; 9] = [
    "attribution_contradiction",
    "code_not_valid",
    "currency_contradiction",
    "currency_mismatch",
    "enrollment_not_active",
    "program_not_active",
    "refund_exceeds_sale",
    "tax_unknown",
    "unknown_code",
];

/// An operator should look at something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Stable word.
    pub kind: &'static str,
    /// What it is about.
    pub object: String,
    /// What happened and what to do.
    pub detail: String,
}

/// A fact could not be applied. Deterministic: trying again gives the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// The caller did not load the sale of this object. A bug, never a provider's fault.
    #[error("no sale was loaded for {0}")]
    NotLoaded(String),
    /// What these count was not loaded. Not a fault of the facts: the caller locks and loads them and folds
    /// once more (`rulings.md` 9).
    #[error("{} counters were not loaded", .0.len())]
    Uncounted(BTreeSet<CounterKey>),
    /// The rules crashed on the fact. A bug; the event is kept.
    #[error("the rules crashed on this event")]
    Crashed,
    /// Amounts do not fit, or an entry would not balance.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Amounts do not fit.
    #[error(transparent)]
    Money(#[from] super::money::MoneyError),
}

/// What folding one sale gave.
#[derive(Clone, Debug)]
pub struct Folded {
    /// The sale.
    pub sale_id: SaleId,
    /// What its facts say.
    pub summary: Option<Summary>,
    /// Who referred it.
    pub attribution: Attribution,
    /// Commissions that changed, with the entries to post.
    pub posted: Vec<Posted>,
    /// What an operator should see.
    pub findings: Vec<Finding>,
}

/// The sales of a batch.
#[derive(Clone, Debug, Default)]
pub struct Book {
    sales: BTreeMap<SaleId, Sale>,
    by_alias: HashMap<AliasKey, SaleId>,
    /// Earliest time at which each code was told, by subject, source and code.
    hints: HashMap<SubjectKey, BTreeMap<(HintSource, String), Timestamp>>,
    new_hints: Vec<(SubjectKey, Hint)>,
    ended: BTreeMap<(Scope, String), Timestamp>,
    new_ended: Vec<(Scope, String, Timestamp)>,
    surroundings: BTreeMap<SaleId, Surroundings>,
    dirty: BTreeSet<SaleId>,
    /// What the rules count beyond one sale, where it was loaded.
    pub tallies: Tallies,
}

impl Book {
    /// Puts a loaded or new sale in. Its aliases then lead to it.
    pub fn insert(&mut self, sale: Sale) {
        for alias in &sale.aliases {
            self.by_alias.insert(alias.clone(), sale.id.clone());
        }
        self.sales.insert(sale.id.clone(), sale);
    }

    /// Adds an id to a sale that is in the book.
    pub fn add_alias(&mut self, sale_id: &SaleId, alias: AliasKey) {
        if let Some(sale) = self.sales.get_mut(sale_id) {
            sale.aliases.insert(alias.clone());
            self.by_alias.insert(alias, sale_id.clone());
        }
    }

    /// Puts a loaded hint in.
    pub fn insert_hint(&mut self, subject: SubjectKey, hint: Hint) {
        self.hints.entry(subject).or_default().insert((hint.source, hint.code), hint.at);
    }

    /// Whether the hint says something that the book does not know yet. A code that is told again
    /// later, as every renewal does, says nothing new.
    #[must_use]
    pub fn is_news(&self, subject: &SubjectKey, hint: &Hint) -> bool {
        let known = self.hints.get(subject).and_then(|hints| hints.get(&(hint.source, hint.code.clone())));
        known.is_none_or(|at| hint.at < *at)
    }

    /// Puts in that a subscription has ended.
    pub fn insert_ended(&mut self, scope: Scope, subscription: String, at: Timestamp) {
        self.ended.insert((scope, subscription), at);
    }

    /// The sale that an id leads to.
    #[must_use]
    pub fn find(&self, alias: &AliasKey) -> Option<&SaleId> {
        self.by_alias.get(alias)
    }

    /// A sale of the book.
    #[must_use]
    pub fn sale(&self, id: &SaleId) -> Option<&Sale> {
        self.sales.get(id)
    }

    /// A sale of the book, to be folded again.
    pub fn touch(&mut self, id: &SaleId) -> Option<&mut Sale> {
        let sale = self.sales.get_mut(id)?;
        self.dirty.insert(id.clone());
        Some(sale)
    }

    /// All sales of the book.
    pub fn sales(&self) -> impl Iterator<Item = &Sale> {
        self.sales.values()
    }

    /// Whether folding is due for the sale.
    #[must_use]
    pub fn is_dirty(&self, id: &SaleId) -> bool {
        self.dirty.contains(id)
    }

    /// The sales that are to be folded.
    pub fn dirty_sales(&self) -> impl Iterator<Item = &Sale> {
        self.dirty.iter().filter_map(|id| self.sales.get(id))
    }

    /// Puts in what is known of a sale's buyer from elsewhere.
    pub fn surround(&mut self, sale: SaleId, surroundings: Surroundings) {
        self.surroundings.insert(sale, surroundings);
    }

    /// What is known of a sale's buyer from elsewhere.
    #[must_use]
    pub fn surroundings_of(&self, sale: &SaleId) -> Option<&Surroundings> {
        self.surroundings.get(sale)
    }

    /// The ids under which touchpoints of a sale's buyer may have been recorded: those that were told,
    /// and the provider's ids of its customers.
    #[must_use]
    pub fn visitors_of(&self, sale: &Sale) -> BTreeSet<String> {
        let mut visitors = BTreeSet::new();
        for subject in Self::subjects_of(sale) {
            let told = self.hints_for(&subject).into_iter().filter(|hint| hint.source.is_visitor());
            visitors.extend(told.map(|hint| hint.code));
            if let Subject::Customer(customer) = subject.subject {
                visitors.insert(customer);
            }
        }
        visitors
    }

    /// The hints that facts of this batch added.
    #[must_use]
    pub fn new_hints(&self) -> &[(SubjectKey, Hint)] {
        &self.new_hints
    }

    /// The subscriptions whose end facts of this batch told.
    #[must_use]
    pub fn new_ended(&self) -> &[(Scope, String, Timestamp)] {
        &self.new_ended
    }

    /// Everything that can carry a code to the sale: its own objects, its subscriptions, its customers.
    #[must_use]
    pub fn subjects_of(sale: &Sale) -> BTreeSet<SubjectKey> {
        let objects = sale.aliases.iter().map(|alias| SubjectKey {
            scope: alias.scope.clone(),
            subject: Subject::Sale(alias.object.clone()),
        });
        objects.chain(sale.carriers()).collect()
    }

    /// The codes told for the subject.
    #[must_use]
    pub fn hints_for(&self, subject: &SubjectKey) -> Vec<Hint> {
        let told = self.hints.get(subject).into_iter().flatten();
        told.map(|((source, code), at)| Hint { source: *source, code: code.clone(), at: *at }).collect()
    }

    /// The ids of payments that a fact names. The caller loads or opens their sales first.
    #[must_use]
    pub fn objects_of(fact: &Fact) -> Vec<&ObjectRef> {
        match fact {
            Fact::SalePaid(paid) => std::iter::once(&paid.sale).chain(&paid.parent).collect(),
            Fact::SaleLinked { sale, alias } => vec![sale, alias],
            Fact::SaleAttributed { subject: Subject::Sale(object), .. } => vec![object],
            Fact::Refund(refund) => vec![&refund.sale],
            Fact::HoldTold { sale, .. } | Fact::RefundedTotal { sale, .. } => vec![sale],
            Fact::Dispute(dispute) => vec![&dispute.sale],
            Fact::ChargebackReversed(reversal) => vec![&reversal.sale],
            Fact::SaleAttributed { .. }
            | Fact::TransferSeen(_)
            | Fact::TransferReversed(_)
            | Fact::PayoutAccount(_)
            | Fact::PayoutAccountGone { .. }
            | Fact::SubscriptionEnded { .. }
            | Fact::BankPayout(_)
            | Fact::ChargeSeen(_)
            | Fact::FundsAvailable { .. } => Vec::new(),
        }
    }

    /// The subscriptions and customers that a fact names; what is loaded and locked before sales.
    #[must_use]
    pub fn carriers_of(fact: &Fact) -> Vec<Subject> {
        match fact {
            Fact::SalePaid(paid) => {
                let customer = paid.customer.clone().map(Subject::Customer);
                let subscription = paid.subscription.clone().map(Subject::Subscription);
                customer.into_iter().chain(subscription).collect()
            }
            Fact::SaleAttributed { subject, .. } => match subject {
                Subject::Sale(_) => Vec::new(),
                Subject::Subscription(_) | Subject::Customer(_) => vec![subject.clone()],
            },
            Fact::SubscriptionEnded { subscription, .. } => vec![Subject::Subscription(subscription.clone())],
            Fact::SaleLinked { .. }
            | Fact::HoldTold { .. }
            | Fact::Refund(_)
            | Fact::RefundedTotal { .. }
            | Fact::Dispute(_)
            | Fact::ChargebackReversed(_)
            | Fact::TransferSeen(_)
            | Fact::TransferReversed(_)
            | Fact::PayoutAccount(_)
            | Fact::PayoutAccountGone { .. }
            | Fact::BankPayout(_)
            | Fact::ChargeSeen(_)
            | Fact::FundsAvailable { .. } => Vec::new(),
        }
    }

    /// Applies one fact of the event `cause` that was received at `received_at`.
    ///
    /// # Errors
    /// [`FoldError::NotLoaded`] if the caller forgot a sale.
    pub fn apply(
        &mut self,
        scope: &Scope,
        fact: &Fact,
        cause: &Cause,
        received_at: Timestamp,
    ) -> Result<(), FoldError> {
        let mut ids = Vec::new();
        for object in Self::objects_of(fact) {
            let key = AliasKey::new(scope, object);
            let id = self.by_alias.get(&key).ok_or_else(|| FoldError::NotLoaded(object.to_string()))?;
            ids.push(id.clone());
        }
        if let [first, second] = ids.as_slice()
            && first != second
        {
            let survivor = self.merge(&first.clone(), &second.clone());
            ids = vec![survivor];
        }
        if let Some(id) = ids.first() {
            let sale = self.touch(id).ok_or_else(|| FoldError::NotLoaded(id.to_string()))?;
            sale.received_at = sale.received_at.max(received_at);
            sale.causes.insert(cause.clone());
            sale.facts.merge(fact);
        }
        match fact {
            Fact::SaleAttributed { subject, hint } => {
                let subject = SubjectKey::new(scope, subject);
                if self.is_news(&subject, hint) {
                    self.insert_hint(subject.clone(), hint.clone());
                    self.new_hints.push((subject.clone(), hint.clone()));
                    self.touch_carried(&subject, cause);
                }
            }
            Fact::SubscriptionEnded { subscription, at } => {
                self.insert_ended(scope.clone(), subscription.clone(), *at);
                self.new_ended.push((scope.clone(), subscription.clone(), *at));
                let carrier = SubjectKey::new(scope, &Subject::Subscription(subscription.clone()));
                self.touch_carried(&carrier, cause);
            }
            Fact::SalePaid(_)
            | Fact::SaleLinked { .. }
            | Fact::HoldTold { .. }
            | Fact::Refund(_)
            | Fact::RefundedTotal { .. }
            | Fact::Dispute(_)
            | Fact::ChargebackReversed(_)
            | Fact::TransferSeen(_)
            | Fact::TransferReversed(_)
            | Fact::PayoutAccount(_)
            | Fact::PayoutAccountGone { .. }
            | Fact::BankPayout(_)
            | Fact::ChargeSeen(_)
            | Fact::FundsAvailable { .. } => {}
        }
        Ok(())
    }

    /// Marks the sales of a subscription or customer for folding.
    fn touch_carried(&mut self, carrier: &SubjectKey, cause: &Cause) {
        let carried: Vec<SaleId> = self
            .sales
            .values()
            .filter(|sale| sale.carriers().contains(carrier))
            .map(|sale| sale.id.clone())
            .collect();
        for id in carried {
            if let Some(sale) = self.touch(&id) {
                sale.causes.insert(cause.clone());
            }
        }
    }

    /// Makes one sale of two (`rulings.md` 5): the one whose commission is further survives, then the
    /// one with the lower id. The other keeps its row and its commissions, whose target becomes zero.
    fn merge(&mut self, a: &SaleId, b: &SaleId) -> SaleId {
        let advancement = |id: &SaleId| self.sales.get(id).map_or(0, Sale::advancement);
        let a_survives = match advancement(a).cmp(&advancement(b)) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => a < b,
        };
        let (survivor_id, loser_id) =
            if a_survives { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) };
        let Some(mut loser) = self.sales.remove(&loser_id) else { return survivor_id };
        let aliases = std::mem::take(&mut loser.aliases);
        let facts = std::mem::take(&mut loser.facts);
        // What came back of a transfer stays with the commission that it paid.
        let (stay, decisions): (Vec<_>, Vec<_>) = std::mem::take(&mut loser.decisions)
            .into_iter()
            .partition(|decision| decision.kind == DecisionKind::TransferClawback);
        loser.decisions = stay;
        let mut inherited = std::mem::take(&mut loser.inherited_flags);
        for commission in &loser.commissions {
            let flags = inherited.entry(commission.enrollment_id.clone()).or_default();
            Flag::inherit(flags, &commission.flags);
        }
        let mut positions: Vec<(EnrollmentId, Position)> =
            std::mem::take(&mut loser.inherited_positions).into_iter().collect();
        positions.extend(
            loser
                .commissions
                .iter()
                .filter_map(|commission| Some((commission.enrollment_id.clone(), commission.position?))),
        );
        loser.merged_into = Some(survivor_id.clone());
        let causes = loser.causes.clone();
        let received_at = loser.received_at;
        self.sales.insert(loser_id.clone(), loser);
        self.dirty.insert(loser_id);
        for alias in &aliases {
            self.by_alias.insert(alias.clone(), survivor_id.clone());
        }
        if let Some(survivor) = self.touch(&survivor_id) {
            survivor.aliases.extend(aliases);
            survivor.facts.absorb(facts);
            survivor.decisions.extend(decisions);
            survivor.decisions.sort_by(|x, y| (x.at, &x.id).cmp(&(y.at, &y.id)));
            survivor.received_at = survivor.received_at.max(received_at);
            survivor.causes.extend(causes);
            for (enrollment, flags) in inherited {
                Flag::inherit(survivor.inherited_flags.entry(enrollment).or_default(), &flags);
            }
            for (enrollment, position) in positions {
                let known = survivor.inherited_positions.entry(enrollment).or_insert(position);
                *known = known.earlier(position);
            }
        }
        survivor_id
    }
}

/// Whether a decision is allowed in a state, for the edge that takes decisions
/// (`semantics.md`, "One state machine").
#[must_use]
pub fn is_allowed(decision: DecisionKind, state: CommissionState) -> bool {
    match decision {
        DecisionKind::Attribute => true,
        DecisionKind::Approve => match state {
            CommissionState::AwaitingReview | CommissionState::Flagged => true,
            CommissionState::Held
            | CommissionState::Payable
            | CommissionState::InPayout
            | CommissionState::Paid
            | CommissionState::Denied
            | CommissionState::Reversed => false,
        },
        DecisionKind::Reject => match state {
            CommissionState::AwaitingReview | CommissionState::Flagged | CommissionState::Held => true,
            CommissionState::Payable
            | CommissionState::InPayout
            | CommissionState::Paid
            | CommissionState::Denied
            | CommissionState::Reversed => false,
        },
        DecisionKind::Clawback => match state {
            CommissionState::AwaitingReview
            | CommissionState::Held
            | CommissionState::Flagged
            | CommissionState::Payable
            | CommissionState::InPayout
            | CommissionState::Paid => true,
            CommissionState::Denied | CommissionState::Reversed => false,
        },
        DecisionKind::HoldPeriod => match state {
            CommissionState::AwaitingReview | CommissionState::Held | CommissionState::Flagged => true,
            CommissionState::Payable
            | CommissionState::InPayout
            | CommissionState::Paid
            | CommissionState::Denied
            | CommissionState::Reversed => false,
        },
        DecisionKind::TransferClawback => false,
    }
}
