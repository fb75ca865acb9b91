//! The rules of the ledger: append-only whoever asks, posted once, released to the second, and never
//! moved back from a payout.

use remit::{
    app::{decide::DecideError, keys::Principal, settle},
    domain::{commission::DecisionKind, ids::ProgramId, time::Timestamp},
    store::{Db, Sql},
};
use serde_json::{Value, json};

use super::{
    scenario_format, scenarios,
    support::{
        TestDb, books,
        node::Node,
        on_each_engine,
        shop::{GRACE_S, PAID_AT_S, Shop, charge, customer, intent, invoice, invoice_payment, refund},
    },
};

const DAY_S: i64 = 86_400;

/// A charge whose metadata names ada's code.
fn referred(id: &str, amount: i64) -> Value {
    let mut event = charge(id, amount, None);
    event["data"]["object"]["metadata"] = json!({ "referral_code": "ada" });
    event
}

fn after(seconds: i64) -> Timestamp {
    Timestamp::from_secs(PAID_AT_S + seconds)
}

/// Runs a statement in a transaction of its own and says why it was refused.
async fn refusal(db: &Db, sql: impl Into<Sql>) -> Option<String> {
    let mut tx = db.begin().await.unwrap();
    let refusal = tx.q(sql).exec().await.err().map(|error| error.to_string());
    tx.rollback().await.unwrap();
    refusal
}

async fn change(db: &Db, sql: &'static str) {
    let mut tx = db.begin().await.unwrap();
    assert!(tx.q(sql).exec().await.unwrap() > 0, "{sql}");
    tx.commit().await.unwrap();
}

async fn findings(db: &Db) -> Vec<String> {
    const SQL: &str = "SELECT kind FROM finding ORDER BY kind";
    db.read().await.unwrap().q(SQL).scalars().await.unwrap()
}

/// Lots in order of posting: kind, amount, and whether a payout has claimed it.
async fn lots(db: &Db) -> Vec<(String, i64, bool)> {
    const SQL: &str =
        "SELECT l.kind, l.amount_minor, l.payout_id FROM lot l JOIN entry e ON e.id = l.entry_id
        ORDER BY e.commission_id, e.revision";
    let rows: Vec<(String, i64, Option<String>)> = db.read().await.unwrap().q(SQL).all().await.unwrap();
    rows.into_iter().map(|(kind, amount, payout)| (kind, amount, payout.is_some())).collect()
}

fn lot(kind: &str, amount: i64, claimed: bool) -> (String, i64, bool) {
    (kind.to_owned(), amount, claimed)
}

on_each_engine! {
    async fn the_database_refuses_to_change_what_was_posted(db: TestDb) {
        let shop = Shop::open(&db.db, 16).await;
        shop.tell_and_process(&[referred("x", 1_000)]).await;
        let mut statements = vec![
            "UPDATE entry SET currency = 'eur'",
            "DELETE FROM entry",
            "UPDATE posting SET amount_minor = amount_minor + 1",
            "UPDATE posting SET account = 'paid' WHERE line = 1",
            "DELETE FROM posting",
        ];
        if db.db.engine() == remit::store::Engine::Postgres {
            statements.extend(["TRUNCATE entry CASCADE", "TRUNCATE posting"]);
        }
        for statement in statements {
            let refusal = refusal(&db.db, statement).await;
            assert!(refusal.as_ref().is_some_and(|why| why.contains("append-only")), "{statement}: {refusal:?}");
        }
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_revision_of_a_commission_is_posted_once(db: TestDb) {
        const AGAIN: &str = "INSERT INTO entry (id, commission_id, revision, kind, enrollment_id, program_id,
                currency, causes, content_hash, created_at_us)
            SELECT 'ent_again', commission_id, revision, kind, enrollment_id, program_id, currency, causes,
                content_hash, created_at_us
            FROM entry";
        let shop = Shop::open(&db.db, 16).await;
        shop.tell_and_process(&[referred("x", 1_000)]).await;
        let mut tx = db.db.begin().await.unwrap();
        let error = tx.q(AGAIN).exec().await.unwrap_err();
        assert!(error.is_unique_violation(), "{error}");
    }

    async fn every_event_of_every_story_told_again_posts_nothing(db: TestDb) {
        scenarios::run_all(&db, scenarios::PLAIN).await;
        let before = books::entries(&mut db.db.read().await.unwrap()).await;
        assert!(before > 100, "{before} entries are too few to prove anything");
        let node = Node::new(db.db.clone(), 7);
        for scenario in scenario_format::load_all() {
            // Told at the end of the story, so that time changes nothing either.
            node.clock.set(scenario.phases.last().unwrap().as_of);
            let project = format!("proj_{}", scenario.name);
            let endpoint = format!("ep_{}_replay", scenario.name);
            for event in scenario.phases.iter().rev().flat_map(|phase| phase.events.iter().rev()) {
                scenarios::deliver(&node, &project, &endpoint, event).await;
            }
            node.process_all().await;
            let now = books::entries(&mut db.db.read().await.unwrap()).await;
            assert_eq!(now, before, "{} posted something", scenario.name);
        }
        books::assert_they_add_up(&db.db).await;
    }

    async fn nothing_is_released_a_moment_before_its_hold_is_over(db: TestDb) {
        let shop = Shop::open_with(&db.db, 16, &json!({ "hold_period_days": 1 })).await;
        shop.tell_and_process(&[referred("x", 1_000)]).await;
        shop.node.pass_time(after(DAY_S).plus_micros(-1)).await;
        shop.assert_standing("ch_x", "held", [200, 0, 200, 0]).await;
        assert_eq!(lots(&db.db).await, []);
        shop.node.pass_time(after(DAY_S)).await;
        shop.assert_standing("ch_x", "payable", [200, 0, 0, 200]).await;
        assert_eq!(lots(&db.db).await, [lot("release", 200, false)]);
        books::assert_they_add_up(&db.db).await;
    }

    async fn nothing_is_released_before_the_merge_grace_of_its_last_event(db: TestDb) {
        let shop = Shop::open(&db.db, 16).await;
        shop.tell_and_process(&[referred("x", 1_000)]).await;
        // A second event about the sale, 100 s later, begins the grace anew.
        shop.node.clock.set(after(100));
        shop.tell_and_process(&[refund("1", "x", 0)]).await;
        shop.node.pass_time(after(100 + GRACE_S).plus_micros(-1)).await;
        shop.assert_standing("ch_x", "held", [200, 0, 200, 0]).await;
        shop.node.pass_time(after(100 + GRACE_S)).await;
        shop.assert_standing("ch_x", "payable", [200, 0, 0, 200]).await;
    }

    async fn an_event_that_comes_after_the_hold_still_waits_for_the_grace(db: TestDb) {
        let shop = Shop::open_with(&db.db, 16, &json!({ "hold_period_days": 1 })).await;
        shop.node.clock.set(after(30 * DAY_S));
        shop.tell_and_process(&[referred("x", 1_000)]).await;
        shop.node.pass_time(after(30 * DAY_S + GRACE_S).plus_micros(-1)).await;
        shop.assert_standing("ch_x", "held", [200, 0, 200, 0]).await;
        shop.node.pass_time(after(30 * DAY_S + GRACE_S)).await;
        shop.assert_standing("ch_x", "payable", [200, 0, 0, 200]).await;
    }

    async fn approval_releases_at_once_after_the_hold_and_never_before(db: TestDb) {
        let terms = json!({ "hold_period_days": 1, "approval_mode": "manual" });
        let shop = Shop::open_with(&db.db, 16, &terms).await;
        shop.tell_and_process(&[referred("early", 1_000), referred("late", 1_000)]).await;
        shop.decide(DecisionKind::Approve, "ch_early", "ada").await.unwrap();
        shop.assert_standing("ch_early", "held", [200, 0, 200, 0]).await;
        shop.node.pass_time(after(2 * DAY_S)).await;
        shop.assert_standing("ch_early", "payable", [200, 0, 0, 200]).await;
        shop.assert_standing("ch_late", "awaiting_review", [0, 0, 0, 0]).await;

        shop.decide(DecisionKind::Approve, "ch_late", "ada").await.unwrap();

        shop.assert_standing("ch_late", "payable", [200, 0, 0, 200]).await;
        books::assert_they_add_up(&db.db).await;
    }

    async fn what_a_payout_claimed_carries_forward_and_never_moves_back(db: TestDb) {
        let shop = paid_out_shop(&db, "in_payout").await;
        // 300 of 1000: 60 of 200 carry forward, then all of it, then the failed refund's 60 come back.
        shop.tell_and_process(&[refund("1", "x", 300)]).await;
        shop.assert_standing("ch_x", "in_payout", [200, 60, 0, 140]).await;
        shop.tell_and_process(&[refund("2", "x", 700)]).await;
        shop.assert_standing("ch_x", "in_payout", [200, 200, 0, 0]).await;
        let mut failed = refund("1", "x", 300);
        failed["id"] = json!("evt_refund_1_failed");
        failed["type"] = json!("refund.failed");
        failed["data"]["object"]["status"] = json!("failed");
        shop.tell_and_process(&[failed]).await;
        shop.assert_standing("ch_x", "in_payout", [200, 140, 0, 60]).await;

        let expected = [
            lot("release", 200, true),
            lot("carry_forward", -60, false),
            lot("carry_forward", -140, false),
            lot("reinstatement", 60, false),
        ];
        assert_eq!(lots(&db.db).await, expected);
        books::assert_they_add_up(&db.db).await;
    }

    async fn what_is_paid_stays_paid(db: TestDb) {
        let shop = paid_out_shop(&db, "paid").await;
        shop.tell_and_process(&[refund("1", "x", 1_000)]).await;
        shop.assert_standing("ch_x", "paid", [200, 200, 0, 0]).await;
        assert_eq!(lots(&db.db).await, [lot("release", 200, true), lot("carry_forward", -200, false)]);
        for kind in [DecisionKind::Approve, DecisionKind::Reject] {
            let refused = shop.decide(kind, "ch_x", "ada").await;
            assert!(matches!(refused, Err(DecideError::NotAllowed { .. })), "{refused:?}");
        }
    }

    async fn what_a_payout_claimed_is_not_attributed_anew(db: TestDb) {
        let shop = paid_out_shop(&db, "in_payout").await;
        let posted = books::entries(&mut db.db.read().await.unwrap()).await;
        let refused = shop.decide(DecisionKind::Attribute, "ch_x", "bob").await;
        assert!(matches!(refused, Err(DecideError::Frozen)), "{refused:?}");
        assert_eq!(findings(&db.db).await, [""; 0]);

        // A code of higher rank: the first of the configured keys is told for bob, ada's is the second.
        let mut contradiction = charge("x", 1_000, None);
        contradiction["id"] = json!("evt_charge_x_again");
        contradiction["created"] = json!(PAID_AT_S - 60);
        contradiction["data"]["object"]["metadata"] = json!({ "referral_code": "bob" });
        shop.tell_and_process(&[contradiction]).await;

        shop.assert_standing("ch_x", "in_payout", [200, 0, 0, 200]).await;
        assert_eq!(shop.standing("ch_x", "bob").await, None);
        assert_eq!(findings(&db.db).await, ["attribution_contradiction"]);
        assert_eq!(books::entries(&mut db.db.read().await.unwrap()).await, posted);
    }

    async fn a_merge_keeps_the_side_that_a_payout_claimed(db: TestDb) {
        const CLAIM: &str = "UPDATE commission SET claimed = TRUE, state = 'in_payout' WHERE sale_id IN
            (SELECT sale_id FROM sale_alias WHERE object_id = 'in_x')";
        let shop = Shop::open(&db.db, 16).await;
        // The intent's sale is older, so that only the claim decides which one survives.
        shop.tell_and_process(&[customer("cus_x", "ada"), intent("x", 1_000, Some("cus_x"))]).await;
        shop.node.clock.advance_secs(1);
        shop.tell_and_process(&[invoice("x", 1_000, Some("cus_x"))]).await;
        shop.node.pass_time(after(1 + GRACE_S)).await;
        change(&db.db, CLAIM).await;
        let claimed = shop.sale("in_x").await;

        shop.tell_and_process(&[invoice_payment("x", "x", "x")]).await;

        assert_eq!(shop.sale("pi_x").await, claimed);
        shop.assert_standing("pi_x", "in_payout", [200, 0, 0, 200]).await;
        // The other side was payable and is taken back whole.
        let total: i64 = lots(&db.db).await.iter().map(|(_, amount, _)| amount).sum();
        assert_eq!(total, 200);
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_sale_that_cannot_be_released_stops_no_other(db: TestDb) {
        // As after a restore of one table: the next revision is posted already.
        const TAMPER: &str = "UPDATE commission SET revision = 0 WHERE sale_id IN
            (SELECT sale_id FROM sale_alias WHERE object_id = 'ch_broken')";
        let shop = Shop::open(&db.db, 16).await;
        shop.tell_and_process(&[referred("a", 1_000), referred("broken", 1_000), referred("b", 1_000)]).await;
        change(&db.db, TAMPER).await;

        shop.pass_grace().await;

        for sale in ["ch_a", "ch_b"] {
            shop.assert_standing(sale, "payable", [200, 0, 0, 200]).await;
        }
        shop.assert_standing("ch_broken", "held", [200, 0, 200, 0]).await;
        assert_eq!(findings(&db.db).await, ["release_failed"]);
    }
}

/// A shop with one sale `ch_x` of 1000 whose commission a payout has claimed: attributed by the second
/// of the configured keys. What becomes of the payout is told by the state of the commission.
async fn paid_out_shop(db: &TestDb, state: &str) -> Shop {
    const ACCOUNT: &str = "INSERT INTO payout_account (organization_id, provider, account_id, created_at_us)
        VALUES ($1, 'stripe', 'acct_ada', 0)";
    let node = Node::with_settings(db.db.clone(), 16, &[("REMIT_PAYOUTS__LIVE", "true")]);
    let shop = Shop::open_on(node, &db.db, "shop", &json!({})).await;
    let mut sale = charge("x", 1_000, None);
    sale["data"]["object"]["metadata"] = json!({ "affiliate_code": "ada" });
    shop.tell_and_process(&[sale]).await;
    shop.pass_grace().await;
    shop.assert_standing("ch_x", "payable", [200, 0, 0, 200]).await;
    change(&db.db, "UPDATE program SET min_payout = '{\"usd\":0}'").await;
    let mut tx = db.db.begin().await.unwrap();
    tx.q(ACCOUNT).bind(shop.owner.id("org_", "ada")).exec().await.unwrap();
    tx.commit().await.unwrap();
    let program = ProgramId::parse(&shop.owner.id("prog_", "fifth")).unwrap();
    let request = settle::Request { program, as_of: None, key: None };
    let settlement = settle::run(&shop.node.app, &Principal::console(), &request).await.unwrap();
    assert_eq!(settlement.payouts.len(), 1);
    if state == "paid" {
        change(&db.db, "UPDATE commission SET state = 'paid'").await;
    }
    shop.assert_standing("ch_x", state, [200, 0, 0, 200]).await;
    shop
}
