//! Runs every story of `fixtures/scenarios` through the real stages on both engines: in order,
//! reversed, shuffled, every event twice, split over batches, on two nodes at once. The hand-computed
//! numbers must hold each time.

use std::collections::{BTreeMap, BTreeSet};

use remit::{
    app::{
        decide::{self, Request},
        keys::Principal,
    },
    domain::{
        commission::{ClawbackReason, DecisionKind},
        ids::{EnrollmentId, SaleId},
        time::Timestamp,
    },
    store::{Conn, Db, DbOptions, inbox::Inserted},
};
use serde_json::json;

use super::{
    scenario_format::{self, CommissionTerms, Decision, Event, Phase, Program, Provider, Scenario},
    support::{TestDb, node::Node, on_each_engine, program::Owner},
};

/// How the events of a phase are delivered and processed.
#[derive(Clone, Copy)]
pub(super) struct Way {
    order: Order,
    /// Events in one batch at most.
    batch: usize,
    /// Whether each event is delivered twice to one endpoint and once more to another.
    repeat: bool,
    /// Whether the processor runs after every single delivery.
    eager: bool,
    /// Whether a second node processes at the same time.
    two_nodes: bool,
}

#[derive(Clone, Copy)]
enum Order {
    AsTold,
    Reversed,
    Shuffled(u64),
}

pub(super) const PLAIN: Way =
    Way { order: Order::AsTold, batch: 512, repeat: false, eager: false, two_nodes: false };

on_each_engine! {
    async fn stories_hold_in_the_order_they_are_told(db: TestDb) {
        run_all(&db, PLAIN).await;
    }

    async fn stories_hold_one_event_at_a_time(db: TestDb) {
        run_all(&db, Way { eager: true, batch: 1, ..PLAIN }).await;
    }

    async fn stories_hold_backwards(db: TestDb) {
        run_all(&db, Way { order: Order::Reversed, ..PLAIN }).await;
    }

    async fn stories_hold_backwards_one_event_at_a_time(db: TestDb) {
        run_all(&db, Way { order: Order::Reversed, eager: true, ..PLAIN }).await;
    }

    async fn stories_hold_shuffled_and_split_over_batches(db: TestDb) {
        run_all(&db, Way { order: Order::Shuffled(1), batch: 2, ..PLAIN }).await;
    }

    async fn stories_hold_shuffled_with_every_event_repeated(db: TestDb) {
        run_all(&db, Way { order: Order::Shuffled(2), batch: 3, repeat: true, ..PLAIN }).await;
    }

    async fn stories_hold_on_two_nodes(db: TestDb) {
        run_all(&db, Way { order: Order::Shuffled(3), batch: 1, two_nodes: true, ..PLAIN }).await;
    }

    async fn stories_hold_on_two_nodes_with_every_event_repeated(db: TestDb) {
        run_all(&db, Way { order: Order::Shuffled(4), batch: 2, two_nodes: true, repeat: true, ..PLAIN }).await;
    }
}

/// The platform of the stories lets sponsors earn.
const MULTI_LEVEL: [(&str, &str); 1] = [("REMIT_PROGRAMS__MULTI_LEVEL", "true")];

pub(super) async fn run_all(db: &TestDb, way: Way) {
    let mut wrong = Vec::new();
    let nodes = Nodes {
        first: Node::with_settings(db.db.clone(), way.batch, &MULTI_LEVEL),
        second: if way.two_nodes {
            let db = db.another_node(&DbOptions::default()).await;
            Some(Node::with_settings(db, way.batch, &MULTI_LEVEL))
        } else {
            None
        },
    };
    for scenario in scenario_format::load_all() {
        let owner = set_up(&db.db, &scenario).await;
        let run = Run { scenario: &scenario, owner: &owner, nodes: &nodes, way };
        for (number, phase) in scenario.phases.iter().enumerate() {
            let differences = run.phase(number, phase).await;
            wrong.extend(
                differences.into_iter().map(|what| format!("{} phase {number}: {what}", scenario.name)),
            );
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

struct Nodes {
    first: Node,
    second: Option<Node>,
}

impl Nodes {
    fn set_clock(&self, now: Timestamp) {
        self.first.clock.set(now);
        if let Some(second) = &self.second {
            second.clock.set(now);
        }
    }

    async fn process_all(&self) {
        match &self.second {
            None => self.first.process_all().await,
            Some(second) => {
                tokio::join!(self.first.process_all(), second.process_all());
                // A node that finds everything taken by the other stops early; what is left is due.
                self.first.process_all().await;
            }
        }
    }
}

async fn set_up(db: &Db, scenario: &Scenario) -> Owner {
    let owner = Owner::create(db, &scenario.name).await;
    for program in &scenario.programs {
        owner.create_program(db, &program.reference, &terms(program)).await;
    }
    for affiliate in &scenario.affiliates {
        owner.enroll(db, &affiliate.program, &affiliate.reference, &affiliate.code, &affiliate.email).await;
    }
    for affiliate in &scenario.affiliates {
        if let Some(sponsor) = &affiliate.sponsor {
            owner.place_under(db, &affiliate.reference, sponsor).await;
        }
    }
    owner
}

fn terms(program: &Program) -> String {
    let commission = match &program.commission {
        CommissionTerms::Percentage { bps } => json!({ "type": "percentage", "bps": bps }),
        CommissionTerms::Flat { amount_cents, currency } => {
            json!({ "type": "flat", "amount_cents": amount_cents, "currency": currency })
        }
        CommissionTerms::Recurring { bps, max_payments } => {
            json!({ "type": "recurring", "bps": bps, "max_payments": max_payments })
        }
        CommissionTerms::Tiered { basis, mode, tiers } => {
            json!({ "type": "tiered", "basis": basis, "mode": mode, "tiers": tiers })
        }
    };
    json!({
        "commission": commission,
        "commission_base": match program.commission_base {
            scenario_format::CommissionBase::Gross => "gross",
            scenario_format::CommissionBase::NetOfTax => "net_of_tax",
        },
        "approval_mode": match program.approval_mode {
            scenario_format::ApprovalMode::Auto => "auto",
            scenario_format::ApprovalMode::Manual => "manual",
        },
        "flat_on_partial": match program.flat_on_partial {
            scenario_format::FlatOnPartial::Keep => "keep",
            scenario_format::FlatOnPartial::Proportional => "proportional",
        },
        "hold_period_days": program.hold_period_days,
        "product_rates": program.product_rates,
        "upline_bps": program.upline_bps,
    })
    .to_string()
}

struct Run<'a> {
    scenario: &'a Scenario,
    owner: &'a Owner,
    nodes: &'a Nodes,
    way: Way,
}

/// Events are delivered this long before the phase is looked at: more than the merge grace.
const BEFORE_S: i64 = 1_000;

impl Run<'_> {
    /// Plays one phase and returns what differs from the expectation.
    async fn phase(&self, number: usize, phase: &Phase) -> Vec<String> {
        let earlier =
            number.checked_sub(1).map_or(Timestamp::EPOCH, |before| self.scenario.phases[before].as_of);
        self.nodes.set_clock(phase.as_of.plus_secs(-BEFORE_S).max(earlier));
        let mut events: Vec<&Event> = phase.events.iter().collect();
        match self.way.order {
            Order::AsTold => {}
            Order::Reversed => events.reverse(),
            Order::Shuffled(seed) => shuffle(&mut events, seed),
        }
        for event in &events {
            self.deliver(event, "a").await;
            if self.way.eager {
                self.nodes.process_all().await;
            }
        }
        if self.way.repeat {
            for event in &events {
                assert_eq!(self.deliver(event, "a").await, Inserted::Duplicate, "{}", event.id);
                self.deliver(event, "b").await;
            }
        }
        self.nodes.process_all().await;
        for decision in &phase.decisions {
            self.decide(decision).await;
        }
        self.nodes.set_clock(phase.as_of);
        self.nodes.first.pass_time(phase.as_of).await;
        self.compare(number, phase).await
    }

    async fn deliver(&self, event: &Event, endpoint: &str) -> Inserted {
        let endpoint = self.owner.endpoint(endpoint);
        deliver(&self.nodes.first, &self.owner.project(), &endpoint, event).await
    }

    async fn decide(&self, decision: &Decision) {
        let (kind, sale, affiliate) = match decision {
            Decision::Attribute(of) => (DecisionKind::Attribute, &of.sale, &of.affiliate),
            Decision::Approve(of) => (DecisionKind::Approve, &of.sale, &of.affiliate),
            Decision::Reject(of) => (DecisionKind::Reject, &of.sale, &of.affiliate),
            Decision::Clawback(of) => (DecisionKind::Clawback, &of.sale, &of.affiliate),
        };
        let (reason, amount) = match decision {
            Decision::Clawback(clawback) => (ClawbackReason::parse(&clawback.reason), clawback.amount_cents),
            Decision::Attribute(_) | Decision::Approve(_) | Decision::Reject(_) => (None, None),
        };
        let mut conn = self.nodes.first.app.db.read().await.unwrap();
        let sale_id = self.sale(&mut conn, sale).await.unwrap_or_else(|| panic!("no sale {sale}"));
        drop(conn);
        let request = Request {
            sale_id: SaleId::parse(&sale_id).unwrap(),
            enrollment_id: EnrollmentId::parse(&self.owner.id("par_", affiliate)).unwrap(),
            kind,
            reason,
            amount,
            note: None,
            by: Principal::console(),
            idempotency_key: None,
        };
        decide::decide(&self.nodes.first.app, &request).await.unwrap();
    }

    async fn sale(&self, conn: &mut Conn, object: &str) -> Option<String> {
        const SQL: &str = "SELECT DISTINCT sale_id FROM sale_alias WHERE project_id = $1 AND object_id = $2";
        let found: Vec<String> = conn.q(SQL).bind(self.owner.project()).bind(object).scalars().await.unwrap();
        assert!(found.len() <= 1, "{object} names several sales");
        found.into_iter().next()
    }

    async fn compare(&self, number: usize, phase: &Phase) -> Vec<String> {
        let mut conn = self.nodes.first.app.db.read().await.unwrap();
        let mut wrong = Vec::new();
        self.compare_balances(&mut conn, phase, &mut wrong).await;
        self.compare_commissions(&mut conn, phase, &mut wrong).await;
        self.compare_events(&mut conn, number, phase, &mut wrong).await;
        self.compare_findings(&mut conn, phase, &mut wrong).await;
        wrong
    }

    async fn compare_balances(&self, conn: &mut Conn, phase: &Phase, wrong: &mut Vec<String>) {
        const SQL: &str =
            "SELECT account, currency, credit_minor - debit_minor FROM balance WHERE owner_id = $1";
        for affiliate in &self.scenario.affiliates {
            let rows: Vec<(String, String, i64)> =
                conn.q(SQL).bind(self.owner.id("par_", &affiliate.reference)).all().await.unwrap();
            let actual: BTreeMap<(String, String), i64> = rows
                .into_iter()
                .filter(|(_, _, amount)| *amount != 0)
                .map(|(account, currency, amount)| ((account, currency), amount))
                .collect();
            let expected: BTreeMap<(String, String), i64> = phase
                .expect
                .balances
                .iter()
                .filter(|balance| balance.affiliate == affiliate.reference)
                .flat_map(|balance| {
                    let currency = balance.currency.to_string();
                    [
                        ("held", balance.held),
                        ("payable", balance.payable),
                        ("in_transit", balance.in_transit),
                        ("paid", balance.paid),
                    ]
                    .map(|(account, amount)| ((account.to_owned(), currency.clone()), amount))
                })
                .filter(|(_, amount)| *amount != 0)
                .collect();
            if actual != expected {
                wrong.push(format!("balances of {}: {actual:?}, expected {expected:?}", affiliate.reference));
            }
        }
    }

    async fn compare_commissions(&self, conn: &mut Conn, phase: &Phase, wrong: &mut Vec<String>) {
        const SQL: &str = "SELECT c.sale_id, c.currency, c.earned_minor, c.clawed_minor, c.state
            FROM commission c WHERE c.enrollment_id = $1 ORDER BY c.id";
        for affiliate in &self.scenario.affiliates {
            let rows: Vec<(String, String, i64, i64, String)> =
                conn.q(SQL).bind(self.owner.id("par_", &affiliate.reference)).all().await.unwrap();
            let mut named = BTreeSet::new();
            for expected in
                phase.expect.commissions.iter().filter(|known| known.affiliate == affiliate.reference)
            {
                let sale = self.sale(conn, &expected.sale).await;
                let actual = rows.iter().find(|row| Some(&row.0) == sale.as_ref());
                let state = match expected.state {
                    scenario_format::State::AwaitingReview => "awaiting_review",
                    scenario_format::State::Held => "held",
                    scenario_format::State::Payable => "payable",
                    scenario_format::State::Flagged => "flagged",
                    scenario_format::State::Reversed => "reversed",
                    scenario_format::State::Denied => "denied",
                };
                let currency = expected.currency.to_string();
                let is_right = actual.is_some_and(|(_, code, earned, clawed, stored)| {
                    (*earned, *clawed, stored.as_str()) == (expected.earned, expected.clawed, state)
                        && *code == currency
                });
                if !is_right {
                    wrong.push(format!(
                        "commission of {} on {}: {actual:?}, expected {} {} {state}",
                        affiliate.reference, expected.sale, expected.earned, expected.clawed
                    ));
                }
                named.extend(sale);
            }
            for row in rows.iter().filter(|row| !named.contains(&row.0) && row.2 != row.3) {
                wrong.push(format!("commission that nobody expects: {row:?}"));
            }
        }
    }

    async fn compare_events(&self, conn: &mut Conn, number: usize, phase: &Phase, wrong: &mut Vec<String>) {
        const SQL: &str = "SELECT state, CAST(COUNT(*) AS BIGINT) FROM inbox
            WHERE endpoint_id = $1 GROUP BY state";
        let rows: Vec<(String, i64)> = conn.q(SQL).bind(self.owner.endpoint("a")).all().await.unwrap();
        let count = |state: &str| {
            rows.iter()
                .find(|(name, _)| name == state)
                .map_or(0, |(_, count)| usize::try_from(*count).unwrap())
        };
        let distinct: BTreeSet<&str> = self.scenario.phases[..=number]
            .iter()
            .flat_map(|phase| phase.events.iter().map(|event| event.id.as_str()))
            .collect();
        let total: usize = rows.iter().map(|(_, count)| usize::try_from(*count).unwrap()).sum();
        if total != distinct.len() || count("received") != 0 {
            wrong.push(format!("inbox {rows:?}, expected {} events and none waiting", distinct.len()));
        }
        if let Some(expected) = &phase.expect.events {
            let actual = (count("applied"), count("ignored"), count("parked"));
            if actual != (expected.applied, expected.ignored, expected.parked) {
                wrong.push(format!("events {actual:?}, expected {expected:?}"));
            }
        }
    }

    async fn compare_findings(&self, conn: &mut Conn, phase: &Phase, wrong: &mut Vec<String>) {
        const SQL: &str = "SELECT DISTINCT f.kind FROM finding f JOIN sale s ON s.id = f.object
            WHERE s.project_id = $1 AND f.resolved_at_us IS NULL ORDER BY f.kind";
        if let Some(expected) = &phase.expect.findings {
            let actual: Vec<String> = conn.q(SQL).bind(self.owner.project()).scalars().await.unwrap();
            if actual != *expected {
                wrong.push(format!("findings {actual:?}, expected {expected:?}"));
            }
        }
    }
}

/// Stores an event of a story at an endpoint.
pub(super) async fn deliver(node: &Node, project: &str, endpoint: &str, event: &Event) -> Inserted {
    let body = event.body.get().as_bytes();
    match event.provider {
        Provider::Stripe => node.receive(project, endpoint, "stripe", body).await,
        Provider::Paddle => node.receive(project, endpoint, "paddle", body).await,
        Provider::Report => node.receive_report(project, endpoint, body).await,
    }
}

/// Fisher and Yates with a small generator, so that a seed names an order for ever.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for upper in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pick = usize::try_from(state >> 33).unwrap() % (upper + 1);
        items.swap(upper, pick);
    }
}
