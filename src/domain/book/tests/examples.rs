//! Rules of the book that show in a few events (`rulings.md` 2, 4, 5, 8, 10).

use super::{
    super::{
        model::Provider,
        story::{Step, scope_of},
    },
    *,
};
use crate::domain::{
    commission::DecisionKind,
    fact::{DisputePhase, Hint, HintSource, SalePaid},
    ids::DecisionId,
    testing::{charge, dispute, intent, invoice, paid, session, share_of},
};

/// A shop in which everybody earns a tenth, at once.
fn shop() -> Shop {
    shop_of(&share_of(1_000))
}

/// A shop whose four programs have these terms.
pub(super) fn shop_of(terms: &Terms) -> Shop {
    let both = || [terms.clone(), terms.clone()];
    let mut shop = Shop::new(&[both(), both(), both(), both()], Opening::Grouped, 1);
    shop.now = crate::domain::testing::PAID_AT;
    shop
}

pub(super) fn stripe() -> Scope {
    scope_of(Provider::Stripe)
}

pub(super) fn code(subject: Subject, code: &str) -> Fact {
    let hint =
        Hint { source: HintSource::Metadata(0), code: code.to_owned(), at: crate::domain::testing::PAID_AT };
    Fact::SaleAttributed { subject, hint }
}

/// Money of an object that says whose customer and subscription it is, and with the code `ann`.
pub(super) fn of_ann(sale: &ObjectRef, amount: i64) -> Vec<Fact> {
    vec![Fact::SalePaid(paid(sale, amount)), code(Subject::Sale(sale.clone()), "ann")]
}

fn with_subscription(sale: &ObjectRef, id: &str) -> Fact {
    Fact::SalePaid(SalePaid { subscription: Some(id.to_owned()), ..paid(sale, 1_000) })
}

pub(super) fn link(sale: ObjectRef, alias: ObjectRef) -> Fact {
    Fact::SaleLinked { sale, alias }
}

pub(super) fn decision(kind: DecisionKind, enrollment: &str, at: Timestamp) -> Decision {
    Decision {
        id: DecisionId::derived(&[kind.as_str(), enrollment]),
        enrollment_id: EnrollmentId::parse(enrollment).unwrap(),
        commission_id: None,
        kind,
        reason: None,
        amount: None,
        at,
    }
}

impl Shop {
    /// One event, folded at once.
    pub(super) fn hears(&mut self, facts: Vec<Fact>) -> Vec<Finding> {
        self.step(&Step::Event { scope: stripe(), facts });
        self.folds()
    }

    /// Folds as [`Shop::fold`] and returns what an operator sees.
    pub(super) fn folds(&mut self) -> Vec<Finding> {
        let folded = self.fold_and_post();
        folded.into_iter().flat_map(|folded| folded.findings).collect()
    }

    pub(super) fn decides(&mut self, object: &ObjectRef, kind: DecisionKind, enrollment: &str) {
        let decision = decision(kind, enrollment, self.now);
        self.step(&Step::Decision { scope: stripe(), object: object.clone(), decision });
        self.fold();
    }

    pub(super) fn passes(&mut self, seconds: i64) {
        self.now = self.now.plus_secs(seconds);
        self.touch_all();
        self.fold();
    }

    pub(super) fn sale_of(&self, object: &ObjectRef) -> &Sale {
        self.book.sale(self.book.find(&AliasKey::new(&stripe(), object)).unwrap()).unwrap()
    }

    /// The commission of `enrollment` on the sale of `object`.
    pub(super) fn commission(&self, object: &ObjectRef, enrollment: &str) -> &Commission {
        let mut commissions = self.sale_of(object).commissions.iter();
        commissions.find(|known| known.enrollment_id.as_str() == enrollment).unwrap()
    }

    pub(super) fn balance(&self, enrollment: &str) -> i64 {
        let of_them = self.balances.iter().filter(|((owner, ..), _)| owner == enrollment);
        of_them.map(|(_, balance)| balance).sum()
    }

    fn claim(&mut self, object: &ObjectRef) {
        let id = self.sale_of(object).id.clone();
        for commission in &mut self.book.touch(&id).unwrap().commissions {
            commission.claimed = true;
            commission.state = CommissionState::InPayout;
        }
    }
}

#[test]
fn decisions_are_allowed_where_the_state_machine_has_an_arrow() {
    use CommissionState::{AwaitingReview, Denied, Flagged, Held, InPayout, Paid, Payable, Reversed};
    let allowed = |decision| {
        let states = CommissionState::ALL.iter().copied();
        states.filter(|state| is_allowed(decision, *state)).collect::<Vec<_>>()
    };
    assert_eq!(allowed(DecisionKind::Attribute), CommissionState::ALL);
    assert_eq!(allowed(DecisionKind::Approve), [AwaitingReview, Flagged]);
    assert_eq!(allowed(DecisionKind::Reject), [AwaitingReview, Held, Flagged]);
    assert_eq!(allowed(DecisionKind::Clawback), [AwaitingReview, Held, Flagged, Payable, InPayout, Paid]);
    for terminal in [Denied, Reversed] {
        assert!(!is_allowed(DecisionKind::Clawback, terminal));
    }
}

#[test]
fn a_sale_that_nobody_loaded_is_an_error_and_no_silent_loss() {
    let fact = link(intent("pi"), charge("ch"));
    let told = Book::default().apply(&stripe(), &fact, &Cause::Time("test".to_owned()), Timestamp::EPOCH);
    assert_eq!(told, Err(FoldError::NotLoaded("payment_intent:pi".to_owned())));
}

#[test]
fn an_unknown_code_is_a_finding_and_earns_nobody_anything() {
    let mut shop = shop();
    let facts = vec![Fact::SalePaid(paid(&intent("pi"), 1_000)), code(Subject::Sale(intent("pi")), "nobody")];
    let findings = shop.hears(facts);
    assert_eq!(findings.iter().map(|it| it.kind).collect::<Vec<_>>(), ["unknown_code"]);
    assert!(shop.balances.is_empty());
}

#[test]
fn a_link_that_comes_after_both_sides_were_released_leaves_one_of_them() {
    let mut shop = shop();
    shop.hears(of_ann(&intent("pi"), 1_000));
    shop.hears(of_ann(&invoice("in"), 1_000));
    shop.passes(MERGE_GRACE_S);
    assert_eq!(shop.balance("par_ann"), 200);
    shop.hears(vec![link(invoice("in"), intent("pi"))]);
    assert_eq!(shop.balance("par_ann"), 100);
    let survivor = shop.sale_of(&intent("pi")).id.clone();
    assert_eq!(shop.sale_of(&invoice("in")).id, survivor);
    let loser = shop.book.sales().find(|sale| sale.merged_into.is_some()).unwrap();
    assert_eq!(loser.merged_into, Some(survivor));
    assert_eq!(loser.commissions[0].state, CommissionState::Reversed);
    assert_eq!(loser.commissions[0].reason.as_deref(), Some("merged"));
    assert!(loser.aliases.is_empty() && loser.facts == SaleFacts::default());
}

#[test]
fn of_two_sales_the_one_whose_commission_is_further_survives() {
    for further in [intent("pi"), invoice("in")] {
        let mut shop = shop();
        shop.hears(of_ann(&intent("pi"), 1_000));
        shop.hears(of_ann(&invoice("in"), 1_000));
        shop.passes(MERGE_GRACE_S);
        shop.claim(&further);
        let survivor = shop.sale_of(&further).id.clone();
        shop.hears(vec![link(invoice("in"), intent("pi"))]);
        assert_eq!(shop.sale_of(&intent("pi")).id, survivor);
        assert_eq!(shop.sale_of(&intent("pi")).commissions[0].state, CommissionState::InPayout);
    }
}

#[test]
fn of_two_sales_equally_far_the_lower_id_survives() {
    let mut shop = shop();
    shop.hears(of_ann(&intent("pi"), 1_000));
    shop.hears(of_ann(&invoice("in"), 1_000));
    let lower = shop.book.sales().map(|sale| sale.id.clone()).min().unwrap();
    shop.hears(vec![link(intent("pi"), invoice("in"))]);
    assert_eq!(shop.sale_of(&invoice("in")).id, lower);
}

#[test]
fn decisions_about_the_sale_that_goes_are_kept() {
    for rejected in [intent("pi"), invoice("in")] {
        let mut shop = shop();
        shop.hears(of_ann(&intent("pi"), 1_000));
        shop.hears(of_ann(&invoice("in"), 1_000));
        shop.decides(&rejected, DecisionKind::Reject, "par_ann");
        shop.hears(vec![link(invoice("in"), intent("pi"))]);
        assert_eq!(shop.commission(&intent("pi"), "par_ann").state, CommissionState::Denied);
        assert_eq!(shop.balance("par_ann"), 0);
    }
}

#[test]
fn a_flag_that_a_person_cleared_on_either_sale_stays_cleared() {
    for approved in [session("cs"), invoice("in")] {
        let mut shop = shop();
        for object in [session("cs"), invoice("in")] {
            shop.hears(vec![with_subscription(&object, "sub"), code(Subject::Sale(object), "ann")]);
        }
        let ended = Fact::SubscriptionEnded { subscription: "sub".to_owned(), at: shop.now };
        shop.hears(vec![ended]);
        shop.decides(&approved, DecisionKind::Approve, "par_ann");
        shop.hears(vec![link(session("cs"), invoice("in"))]);
        shop.passes(MERGE_GRACE_S);
        let commission = shop.commission(&invoice("in"), "par_ann");
        assert_eq!(commission.state, CommissionState::Payable, "{approved}: {commission:?}");
    }
}

#[test]
fn an_open_flag_of_the_sale_that_goes_stops_the_one_that_stays() {
    let mut shop = shop();
    shop.hears(of_ann(&intent("pi"), 1_000));
    let mut facts = of_ann(&charge("ch"), 1_000);
    facts.push(Fact::Dispute(dispute(&charge("ch"), "dp", DisputePhase::Open, (0, 0))));
    shop.hears(facts);
    shop.passes(MERGE_GRACE_S);
    shop.hears(vec![link(intent("pi"), charge("ch"))]);
    assert_eq!(shop.commission(&intent("pi"), "par_ann").state, CommissionState::Flagged);
}

#[test]
fn sales_that_merge_one_into_the_next_end_in_one() {
    let mut shop = shop();
    for object in [intent("pi"), charge("ch"), invoice("in"), session("cs")] {
        shop.hears(of_ann(&object, 1_000));
    }
    shop.step(&Step::Event {
        scope: stripe(),
        facts: vec![
            link(intent("pi"), charge("ch")),
            link(charge("ch"), invoice("in")),
            link(session("cs"), invoice("in")),
        ],
    });
    shop.fold();
    assert_eq!(shop.book.sales().filter(|sale| sale.merged_into.is_none()).count(), 1);
    assert_eq!(shop.balance("par_ann"), 100);
}

#[test]
fn a_customers_code_reaches_a_sale_that_is_already_known() {
    let mut shop = shop();
    let payment = SalePaid { customer: Some("cus".to_owned()), ..paid(&intent("pi"), 1_000) };
    shop.hears(vec![Fact::SalePaid(payment)]);
    assert_eq!(shop.balance("par_bob"), 0);
    shop.hears(vec![code(Subject::Customer("cus".to_owned()), "bob")]);
    assert_eq!(shop.balance("par_bob"), 100);
}

#[test]
fn a_better_code_moves_the_commission_and_a_person_can_move_it_back() {
    let mut shop = shop();
    let payment = SalePaid { customer: Some("cus".to_owned()), ..paid(&intent("pi"), 1_000) };
    shop.hears(vec![Fact::SalePaid(payment), code(Subject::Customer("cus".to_owned()), "bob")]);
    shop.hears(vec![code(Subject::Sale(intent("pi")), "ann")]);
    assert_eq!((shop.balance("par_bob"), shop.balance("par_ann")), (0, 100));
    assert_eq!(shop.commission(&intent("pi"), "par_bob").reason.as_deref(), Some("reattributed"));
    shop.decides(&intent("pi"), DecisionKind::Attribute, "par_bob");
    assert_eq!((shop.balance("par_bob"), shop.balance("par_ann")), (100, 0));
}

#[test]
fn once_a_payout_claimed_a_commission_a_better_code_is_only_a_finding() {
    let mut shop = shop();
    let payment = SalePaid { customer: Some("cus".to_owned()), ..paid(&intent("pi"), 1_000) };
    shop.hears(vec![Fact::SalePaid(payment), code(Subject::Customer("cus".to_owned()), "bob")]);
    shop.passes(MERGE_GRACE_S);
    shop.claim(&intent("pi"));
    let findings = shop.hears(vec![code(Subject::Sale(intent("pi")), "ann")]);
    assert_eq!(findings.iter().map(|it| it.kind).collect::<Vec<_>>(), ["attribution_contradiction"]);
    assert_eq!((shop.balance("par_bob"), shop.balance("par_ann")), (100, 0));
}

#[test]
fn a_cancellation_stops_only_the_unpaid_commissions_of_that_subscription() {
    let mut shop = shop();
    for (sale, subscription) in [("in_1", "sub_1"), ("in_2", "sub_1"), ("in_3", "sub_2")] {
        shop.hears(vec![
            with_subscription(&invoice(sale), subscription),
            code(Subject::Sale(invoice(sale)), "ann"),
        ]);
    }
    shop.passes(MERGE_GRACE_S);
    shop.claim(&invoice("in_1"));
    shop.hears(vec![Fact::SubscriptionEnded { subscription: "sub_1".to_owned(), at: shop.now }]);
    let state = |sale| shop.commission(&invoice(sale), "par_ann").state;
    assert_eq!(
        [state("in_1"), state("in_2"), state("in_3")],
        [CommissionState::InPayout, CommissionState::Flagged, CommissionState::Payable]
    );
}

#[test]
fn a_buyer_with_the_affiliates_mailbox_is_flagged_for_that_affiliate_only() {
    for (who, state) in [("ann", CommissionState::Flagged), ("bob", CommissionState::Held)] {
        let mut shop = shop();
        let payment = SalePaid { buyer_email: Some("Ann+1@x.org".to_owned()), ..paid(&intent("pi"), 1_000) };
        shop.hears(vec![Fact::SalePaid(payment), code(Subject::Sale(intent("pi")), who)]);
        assert_eq!(shop.commission(&intent("pi"), &format!("par_{who}")).state, state);
    }
}

#[test]
fn the_owners_own_id_names_one_sale_whichever_provider_tells_it() {
    let order = ObjectRef::new(ObjectKind::External, "order_7");
    let paddle = scope_of(Provider::Paddle);
    assert_eq!(AliasKey::new(&stripe(), &order), AliasKey::new(&paddle, &order));
    assert_ne!(AliasKey::new(&stripe(), &intent("x")), AliasKey::new(&paddle, &intent("x")));
}

#[test]
fn test_and_live_and_each_connected_account_are_realms_of_their_own() {
    let realms = [
        Realm::new("stripe", false, ""),
        Realm::new("stripe", true, ""),
        Realm::new("stripe", true, "acct_1"),
        Realm::new("paddle", true, ""),
    ];
    assert_eq!(realms.iter().collect::<BTreeSet<_>>().len(), realms.len());
}

#[test]
fn every_order_is_every_order() {
    let orders: BTreeSet<Vec<u8>> = every_order(&[1, 2, 3, 4, 5, 6]).into_iter().collect();
    assert_eq!(orders.len(), 720);
}

#[test]
fn the_end_of_a_subscription_reaches_a_sale_that_a_report_opened() {
    let order = ObjectRef::new(ObjectKind::External, "order_1");
    let report = Scope { project_id: stripe().project_id, realm: Realm::new("report", false, "") };
    let ended =
        Fact::SubscriptionEnded { subscription: "sub".to_owned(), at: crate::domain::testing::PAID_AT };
    let steps = [
        Step::Event { scope: report, facts: of_ann(&order, 1_000) },
        Step::Event {
            scope: stripe(),
            facts: vec![with_subscription(&invoice("in"), "sub"), link(invoice("in"), order.clone())],
        },
        Step::Event { scope: stripe(), facts: vec![ended] },
    ];
    for order_of_steps in [[0, 1, 2], [1, 0, 2], [2, 1, 0], [0, 2, 1], [1, 2, 0], [2, 0, 1]] {
        let mut shop = shop();
        for step in order_of_steps {
            shop.step(&steps[step]);
            shop.fold();
        }
        shop.passes(MERGE_GRACE_S + 1);
        let live: Vec<&Commission> = shop
            .book
            .sales()
            .flat_map(|sale| &sale.commissions)
            .filter(|commission| commission.earned != commission.clawed)
            .collect();
        let states: Vec<CommissionState> = live.iter().map(|commission| commission.state).collect();
        assert_eq!(states, [CommissionState::Flagged], "{order_of_steps:?}");
    }
}

#[test]
fn a_test_and_a_live_payment_of_one_order_never_meet() {
    let order = ObjectRef::new(ObjectKind::External, "order_1");
    let alias = |livemode| {
        let realm = Realm::new("stripe", livemode, "acct_1");
        AliasKey::new(&Scope { project_id: stripe().project_id, realm }, &order)
    };
    assert_ne!(alias(true), alias(false));
    let other_provider = Scope { project_id: stripe().project_id, realm: Realm::new("paddle", false, "") };
    assert_eq!(alias(false), AliasKey::new(&other_provider, &order));
}
