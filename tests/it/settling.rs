//! Settlement: who is paid what, who is not and why, once, whoever asks how often and whatever happens
//! beside it.

use std::{collections::BTreeSet, sync::Arc};

use remit::{
    app::{
        App, holds,
        keys::Principal,
        payouts,
        settle::{self, Progress, Request, Settlement},
    },
    domain::{
        ids::{EnrollmentId, PayoutId, ProgramId, RunId},
        time::Timestamp,
    },
    store::{Db, DbOptions},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::support::{
    TestDb, books,
    node::Node,
    on_each_engine,
    shop::{GRACE_S, PAID_AT_S, Shop, charge, refund},
};

/// A shop that may pay: minimums of 0 in dollars and euros, no fee, accounts for ada and bob.
struct Till {
    shop: Shop,
}

impl Till {
    async fn open(db: &TestDb) -> Self {
        Self::open_with(db, &json!({}), &[("REMIT_PAYOUTS__LIVE", "true")]).await
    }

    async fn open_with(db: &TestDb, terms: &Value, settings: &[(&str, &str)]) -> Self {
        let node = Node::with_settings(db.db.clone(), 512, settings);
        let till = Self { shop: Shop::open_on(node, &db.db, "shop", terms).await };
        till.change("UPDATE program SET min_payout = '{\"usd\":0,\"eur\":0}'").await;
        for affiliate in ["ada", "bob"] {
            till.name_account(affiliate).await;
        }
        till
    }

    async fn name_account(&self, affiliate: &str) {
        const SQL: &str = "INSERT INTO payout_account (organization_id, provider, account_id, created_at_us)
            VALUES ($1, 'stripe', $2, 0)";
        let mut tx = self.db().begin().await.unwrap();
        let organization = self.shop.owner.id("org_", affiliate);
        tx.q(SQL).bind(organization).bind(format!("acct_{affiliate}")).exec().await.unwrap();
        tx.commit().await.unwrap();
    }

    fn app(&self) -> &App {
        &self.shop.node.app
    }

    fn db(&self) -> &Db {
        &self.app().db
    }

    fn program(&self) -> ProgramId {
        ProgramId::parse(&self.shop.owner.id("prog_", "fifth")).unwrap()
    }

    fn enrollment(&self, affiliate: &str) -> EnrollmentId {
        EnrollmentId::parse(&self.shop.enrollment(affiliate)).unwrap()
    }

    async fn change(&self, sql: &'static str) {
        let mut tx = self.db().begin().await.unwrap();
        assert!(tx.q(sql).exec().await.unwrap() > 0, "{sql}");
        tx.commit().await.unwrap();
    }

    async fn texts(&self, sql: &'static str) -> Vec<String> {
        self.db().read().await.unwrap().q(sql).scalars().await.unwrap()
    }

    async fn number(&self, sql: &'static str) -> i64 {
        self.db().read().await.unwrap().q(sql).scalar().await.unwrap().unwrap()
    }

    /// Sales by the affiliates' codes, each payable at once; a fifth of each is earned.
    async fn earn(&self, sales: &[(&str, &str, i64, &str)]) {
        let events: Vec<Value> =
            sales.iter().map(|(who, id, amount, currency)| sale(who, id, *amount, currency)).collect();
        self.shop.tell_and_process(&events).await;
        let now = self.shop.node.app.now().plus_secs(GRACE_S + 1);
        self.shop.node.pass_time(now).await;
    }

    fn request(&self) -> Request {
        Request { program: self.program(), as_of: None, key: None }
    }

    async fn settle(&self) -> Settlement {
        settle::run(self.app(), &Principal::console(), &self.request()).await.unwrap()
    }

    async fn plan(&self) -> Settlement {
        settle::plan(self.app(), &Principal::console(), &self.program(), None).await.unwrap()
    }

    /// Held, payable, in transit and paid, in dollars.
    async fn balance(&self, affiliate: &str) -> [i64; 4] {
        const SQL: &str = "SELECT account, credit_minor - debit_minor FROM balance
            WHERE owner_id = $1 AND currency = 'usd'";
        let mut conn = self.db().read().await.unwrap();
        let rows: Vec<(String, i64)> = conn.q(SQL).bind(self.shop.enrollment(affiliate)).all().await.unwrap();
        ["held", "payable", "in_transit", "paid"]
            .map(|name| rows.iter().find(|(account, _)| account == name).map_or(0, |(_, amount)| *amount))
    }
}

fn sale(affiliate: &str, id: &str, amount: i64, currency: &str) -> Value {
    let mut event = charge(id, amount, None);
    event["data"]["object"]["metadata"] = json!({ "referral_code": affiliate });
    event["data"]["object"]["currency"] = json!(currency);
    event
}

/// The payouts: whose, currency, due, fee and sent.
fn paid(settlement: &Settlement) -> Vec<(&str, String, i64, i64, i64)> {
    let line = |line: &'_ settle::PaidLine| {
        (line.currency.to_string(), line.split.due, line.split.fee, line.split.send)
    };
    settlement
        .payouts
        .iter()
        .map(|one| {
            let (currency, due, fee, send) = line(one);
            (short(one.enrollment_id.as_str()), currency, due, fee, send)
        })
        .collect()
}

/// Who was passed over: currency, amount and reason.
fn passed(settlement: &Settlement) -> Vec<(&str, String, i64, &'static str)> {
    settlement
        .skipped
        .iter()
        .map(|one| {
            (short(one.enrollment_id.as_str()), one.currency.to_string(), one.due, one.reason.as_str())
        })
        .collect()
}

fn short(enrollment: &str) -> &str {
    enrollment.rsplit('-').next().unwrap()
}

fn line<'a>(who: &'a str, currency: &str, due: i64, fee: i64) -> (&'a str, String, i64, i64, i64) {
    (who, currency.to_owned(), due, fee, due - fee)
}

fn skip<'a>(
    who: &'a str,
    currency: &str,
    due: i64,
    why: &'static str,
) -> (&'a str, String, i64, &'static str) {
    (who, currency.to_owned(), due, why)
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).unwrap()
}

on_each_engine! {
    async fn each_currency_has_its_own_minimum_and_meeting_it_pays(db: TestDb) {
        let till = Till::open(&db).await;
        till.change("UPDATE program SET min_payout = '{\"usd\":200,\"eur\":201}'").await;
        till.earn(&[("ada", "a", 1_000, "usd"), ("ada", "b", 1_000, "eur"), ("ada", "c", 1_000, "jpy"),
            ("bob", "d", 995, "usd")]).await;
        let settlement = till.settle().await;
        assert_eq!(paid(&settlement), [line("ada", "usd", 200, 0)]);
        assert_eq!(passed(&settlement), [
            skip("ada", "eur", 200, "below_min_payout"),
            skip("ada", "jpy", 200, "no_min_payout"),
            skip("bob", "usd", 199, "below_min_payout"),
        ]);
        assert_eq!(till.balance("ada").await, [0, 0, 200, 0]);
        // Another cent in euros and it is paid with what was passed over before.
        till.earn(&[("ada", "e", 5, "eur")]).await;
        assert_eq!(paid(&till.settle().await), [line("ada", "eur", 201, 0)]);
        books::assert_they_add_up(&db.db).await;
    }

    async fn debts_come_off_first_then_the_minimum_is_asked_then_the_fee_is_taken(db: TestDb) {
        let till = Till::open(&db).await;
        till.change("UPDATE program SET platform_fee_bps = 250, min_payout = '{\"usd\":100}'").await;
        till.earn(&[("ada", "old", 10_000, "usd")]).await;
        assert_eq!(paid(&till.settle().await), [line("ada", "usd", 2_000, 50)]);
        // A refund of what is in a payout is a debt, whatever becomes of the payout.
        till.shop.tell_and_process(&[refund("1", "old", 5_000)]).await;
        let settlement = till.settle().await;
        assert_eq!((paid(&settlement), passed(&settlement)), (vec![], vec![skip("ada", "usd", -1_000, "debt")]));
        till.earn(&[("ada", "small", 5_495, "usd")]).await;
        assert_eq!(passed(&till.settle().await), [skip("ada", "usd", 99, "below_min_payout")]);
        till.earn(&[("ada", "more", 9_500, "usd")]).await;
        // 1099 + 1900 - 1000 = 1999, of which 2.5 % is 49.975.
        assert_eq!(paid(&till.settle().await), [line("ada", "usd", 1_999, 50)]);
        assert_eq!(till.balance("ada").await, [0, 0, 3_999, 0]);
        books::assert_they_add_up(&db.db).await;
    }

    async fn what_stands_against_a_payout_is_said(db: TestDb) {
        const TOLD: &str = "INSERT INTO provider_account (project_id, realm, account_id, transfers_active,
                payouts_enabled, charges_enabled, details_submitted, gone, told_at_us)
            VALUES ('proj_default', $1, 'acct_ada', $2, $3, TRUE, TRUE, $4, $5)";
        let till = Till::open(&db).await;
        let reason = async || {
            let settlement = till.plan().await;
            let passed = passed(&settlement);
            assert!(passed.len() + settlement.payouts.len() == 1, "{settlement:?}");
            passed.first().map(|(_, _, _, reason)| *reason)
        };
        let tell = async |realm: &str, transfers: bool, payouts: bool, gone: bool, at: i64| {
            let mut tx = db.db.begin().await.unwrap();
            tx.q("DELETE FROM provider_account").exec().await.unwrap();
            tx.q(TOLD).bind(realm).bind(transfers).bind(payouts).bind(gone).bind(at).exec().await.unwrap();
            tx.commit().await.unwrap();
        };
        till.earn(&[("ada", "a", 1_000, "usd")]).await;
        assert_eq!(reason().await, None, "an account of which nothing was told is ready");
        tell("stripe/test", false, true, false, 1).await;
        assert_eq!(reason().await, Some("account_not_ready"));
        tell("stripe/test/acct_ada", true, false, false, 1).await;
        assert_eq!(reason().await, Some("account_not_ready"));
        tell("stripe/test/acct_ada", false, false, true, 1).await;
        assert_eq!(reason().await, Some("account_not_ready"));
        tell("stripe/live", false, false, true, 1).await;
        assert_eq!(reason().await, None, "the other mode is another account");
        tell("stripe/test/acct_bob", false, false, true, 1).await;
        assert_eq!(reason().await, None, "somebody else's events tell nothing of this account");
        till.change("DELETE FROM payout_account WHERE account_id = 'acct_ada'").await;
        assert_eq!(reason().await, Some("no_payout_account"));
        till.name_account("ada").await;

        let (console, ada) = (Principal::console(), till.enrollment("ada"));
        holds::hold(till.app(), &console, &till.program(), &ada, "asked by phone").await.unwrap();
        assert_eq!(reason().await, Some("held"));
        holds::unhold(till.app(), &console, &till.program(), &ada).await.unwrap();
        assert_eq!(reason().await, None);
        till.change("UPDATE program SET platform_fee_bps = 10000").await;
        assert_eq!(reason().await, Some("fee_takes_all"));
        till.change("UPDATE program SET platform_fee_bps = 0").await;

        // What may have been sent must be known first.
        till.settle().await;
        till.earn(&[("ada", "b", 1_000, "usd")]).await;
        till.change("UPDATE payout SET state = 'unknown'").await;
        assert_eq!(reason().await, Some("payout_unknown"));
        till.change("UPDATE payout SET state = 'pending'").await;
        till.shop.tell_and_process(&[refund("1", "a", 1_000)]).await;
        assert_eq!(reason().await, Some("nothing_due"));
    }

    async fn a_commission_that_was_taken_back_before_it_was_paid_is_no_part_of_a_payout(db: TestDb) {
        let till = Till::open(&db).await;
        till.earn(&[("ada", "gone", 1_000, "usd"), ("ada", "kept", 2_000, "usd")]).await;
        till.shop.tell_and_process(&[refund("1", "gone", 1_000)]).await;
        assert_eq!(paid(&till.settle().await), [line("ada", "usd", 400, 0)]);
        assert_eq!(till.number("SELECT COUNT(*) FROM payout_item").await, 1);
        till.shop.assert_standing("ch_gone", "reversed", [200, 200, 0, 0]).await;
        till.shop.assert_standing("ch_kept", "in_payout", [400, 0, 0, 400]).await;
        // The refund fails after all: now it is paid, and only now.
        let mut failed = refund("1", "gone", 1_000);
        failed["id"] = json!("evt_refund_1_failed");
        failed["type"] = json!("refund.failed");
        failed["data"]["object"]["status"] = json!("failed");
        till.shop.tell_and_process(&[failed]).await;
        till.earn(&[]).await;
        till.shop.assert_standing("ch_gone", "payable", [200, 0, 0, 200]).await;
        assert_eq!(paid(&till.settle().await), [line("ada", "usd", 200, 0)]);
        till.shop.assert_standing("ch_gone", "in_payout", [200, 0, 0, 200]).await;
        books::assert_they_add_up(&db.db).await;
    }

    async fn what_became_payable_later_is_left_out_and_what_was_taken_back_is_not(db: TestDb) {
        let till = Till::open(&db).await;
        till.earn(&[("ada", "early", 10_000, "usd")]).await;
        till.settle().await;
        till.earn(&[("ada", "before", 5_000, "usd")]).await;
        let as_of = till.app().now();
        till.earn(&[("ada", "after", 7_000, "usd")]).await;
        till.shop.tell_and_process(&[refund("1", "early", 2_000), refund("2", "after", 1_000)]).await;
        let request = Request { as_of: Some(as_of), ..till.request() };
        let settlement = settle::run(till.app(), &Principal::console(), &request).await.unwrap();
        // 1000 of before, less 400 of what was paid out early; nothing of after, which was not there.
        assert_eq!(paid(&settlement), [line("ada", "usd", 600, 0)]);
        assert_eq!(till.balance("ada").await, [0, 1_200, 2_600, 0]);
        assert_eq!(paid(&till.settle().await), [line("ada", "usd", 1_200, 0)]);
        let future = Request { as_of: Some(till.app().now().plus_micros(1)), ..till.request() };
        let refused = settle::run(till.app(), &Principal::console(), &future).await.unwrap_err();
        assert_eq!(refused.code(), "INVALID_AS_OF");
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_plan_is_what_the_run_then_does_and_changes_nothing(db: TestDb) {
        const EVERYTHING: &str = "SELECT CAST((SELECT COUNT(*) FROM payout_run) + (SELECT COUNT(*) FROM payout)
                + (SELECT COUNT(*) FROM payout_skip) + (SELECT COUNT(*) FROM intent)
                + (SELECT COUNT(*) FROM job) + (SELECT COUNT(*) FROM lot WHERE payout_id IS NOT NULL)
                + (SELECT COUNT(*) FROM commission WHERE claimed) AS BIGINT)";
        let till = Till::open_with(&db, &json!({}), &[]).await;
        till.earn(&[("ada", "a", 1_000, "usd"), ("bob", "b", 1_000, "jpy")]).await;
        let entries = till.number("SELECT COUNT(*) FROM entry").await;
        // The gate is closed: a plan needs none.
        let plan = till.plan().await;
        assert_eq!(plan.run_id, None);
        assert!(plan.payouts.iter().all(|line| line.id.is_none()));
        let refused = settle::run(till.app(), &Principal::console(), &till.request()).await.unwrap_err();
        assert_eq!(refused.code(), "PAYOUTS_NOT_ENABLED");
        assert_eq!(settle::step_scheduled(till.app()).await.unwrap(), 0);
        assert_eq!(till.number(EVERYTHING).await, 0);
        assert_eq!(till.number("SELECT COUNT(*) FROM entry").await, entries);

        let open = Node::with_settings(db.db.clone(), 16, &[("REMIT_PAYOUTS__LIVE", "true")]);
        open.clock.set(till.app().now());
        let run = settle::run(&open.app, &Principal::console(), &till.request()).await.unwrap();
        assert_eq!((paid(&run), passed(&run)), (paid(&plan), passed(&plan)));
        assert_eq!(till.plan().await.payouts, []);
    }

    async fn the_same_key_is_the_same_run_and_answers_the_same_again(db: TestDb) {
        let till = Till::open(&db).await;
        till.earn(&[("ada", "a", 1_000, "usd"), ("bob", "b", 1_000, "jpy")]).await;
        let console = Principal::console();
        let request = Request { key: Some("march".to_owned()), ..till.request() };
        let first = settle::run(till.app(), &console, &request).await.unwrap();
        assert_eq!(paid(&first), [line("ada", "usd", 200, 0)]);
        till.earn(&[("ada", "c", 1_000, "usd")]).await;
        assert_eq!(settle::run(till.app(), &console, &request).await.unwrap(), first);
        let other_time = Request { as_of: Some(Timestamp::from_secs(PAID_AT_S)), ..request.clone() };
        let refused = settle::run(till.app(), &console, &other_time).await.unwrap_err();
        assert_eq!(refused.code(), "IDEMPOTENCY_MISMATCH");
        let other_key = Request { key: Some("april".to_owned()), ..request };
        let second = settle::run(till.app(), &console, &other_key).await.unwrap();
        assert_eq!(paid(&second), [line("ada", "usd", 200, 0)]);
        assert_ne!(second.run_id, first.run_id);
    }

    async fn intents_follow_from_what_began_the_run_and_freeze_their_bytes(db: TestDb) {
        let till = Till::open(&db).await;
        till.earn(&[("ada", "a", 1_000, "usd")]).await;
        let request = Request { key: Some("march".to_owned()), ..till.request() };
        let run = RunId::derived(&[till.program().as_str(), "request", "march"]);
        let settlement = settle::run(till.app(), &Principal::console(), &request).await.unwrap();
        assert_eq!(settlement.run_id, Some(run.clone()));
        let payout = PayoutId::derived(&[run.as_str(), till.enrollment("ada").as_str(), "usd"]);
        assert_eq!(settlement.payouts[0].id, Some(payout.clone()));
        let intent = remit::domain::ids::IntentId::derived(&["payout", payout.as_str()]);
        assert_eq!(till.texts("SELECT id FROM intent").await, [intent.to_string()]);
        assert_eq!(
            till.texts("SELECT idempotency_key FROM generation").await,
            [format!("remit_test_{intent}_g0")]
        );
        assert_eq!(till.texts("SELECT state || ' ' || lane FROM job").await, ["available acct_ada"]);
        let bodies: Vec<Vec<u8>> =
            db.db.read().await.unwrap().q("SELECT body FROM generation").scalars().await.unwrap();
        let body = String::from_utf8(bodies[0].clone()).unwrap();
        for part in ["amount=200", "currency=usd", "destination=acct_ada", intent.as_str()] {
            assert!(body.contains(part), "{body}");
        }
        // The owner changes everything: what is reserved stays as it is.
        till.change("UPDATE program SET platform_fee_bps = 5000, on_transfer_reversed = 'requeue'").await;
        assert_eq!(till.texts("SELECT on_transfer_reversed FROM payout").await, ["clawback"]);
    }

    async fn fifty_runs_at_once_on_two_nodes_pay_once(db: TestDb) {
        let till = Till::open(&db).await;
        let sales: Vec<(String, &str)> =
            (0..20).map(|number| (format!("s{number}"), if number % 2 == 0 { "ada" } else { "bob" })).collect();
        let sales: Vec<_> = sales.iter().map(|(id, who)| (*who, id.as_str(), 1_000, "usd")).collect();
        till.earn(&sales).await;
        let second = Node::with_settings(
            db.another_node(&DbOptions::default()).await, 16, &[("REMIT_PAYOUTS__LIVE", "true")],
        );
        second.clock.set(till.app().now());
        let mut runs = JoinSet::new();
        for number in 0..50 {
            let app = if number % 2 == 0 { till.app().clone() } else { second.app.clone() };
            let request = till.request();
            runs.spawn(async move { settle::run(&app, &Principal::console(), &request).await.unwrap() });
        }
        let runs = runs.join_all().await;
        let total: i64 = runs.iter().flat_map(|run| &run.payouts).map(|line| line.split.due).sum();
        assert_eq!(total, 20 * 200);
        assert_eq!(runs.iter().map(|run| run.payouts.len()).sum::<usize>(), 2);
        assert_eq!(runs.iter().map(|run| run.skipped.len()).sum::<usize>(), 0);
        assert_eq!(till.number("SELECT COUNT(*) FROM payout_run WHERE state = 'completed'").await, 50);
        assert_eq!(till.balance("ada").await, [0, 0, 2_000, 0]);
        assert_eq!(till.balance("bob").await, [0, 0, 2_000, 0]);
        books::assert_they_add_up(&db.db).await;
        second.app.db.close().await;
    }

    async fn the_same_request_sent_fifty_times_at_once_is_one_run_with_one_answer(db: TestDb) {
        let till = Arc::new(Till::open(&db).await);
        till.earn(&[("ada", "a", 1_000, "usd"), ("bob", "b", 1_000, "usd")]).await;
        let mut runs = JoinSet::new();
        for _ in 0..50 {
            let till = Arc::clone(&till);
            let request = Request { key: Some("once".to_owned()), ..till.request() };
            runs.spawn(async move {
                settle::run(till.app(), &Principal::console(), &request).await.unwrap()
            });
        }
        let mut answers = runs.join_all().await;
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!(paid(&answers[0]), [line("ada", "usd", 200, 0), line("bob", "usd", 200, 0)]);
        assert_eq!(till.number("SELECT COUNT(*) FROM payout_run").await, 1);
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_refund_beside_the_freeze_is_in_exactly_one_place(db: TestDb) {
        let till = Arc::new(Till::open(&db).await);
        for round in 0..8 {
            let ids: Vec<String> = (0..10).map(|number| format!("r{round}x{number}")).collect();
            let sales: Vec<_> = ids.iter().map(|id| ("ada", id.as_str(), 1_000, "usd")).collect();
            till.earn(&sales).await;
            let refunds: Vec<Value> =
                ids.iter().step_by(2).map(|id| refund(&format!("of{id}"), id, 1_000)).collect();
            let late: Vec<Value> =
                (0..5).map(|number| sale("ada", &format!("r{round}late{number}"), 500, "usd")).collect();
            till.shop.tell(&refunds).await;
            till.shop.tell(&late).await;
            let (settling, folding) = (Arc::clone(&till), Arc::clone(&till));
            let (settled, ()) = tokio::join!(
                tokio::spawn(async move { settling.settle().await }),
                async { folding.shop.node.process_all().await },
            );
            settled.unwrap();
            books::assert_they_add_up(&db.db).await;
        }
        // Everybody is settled in the end: earned 8 × 10 × 200 + 8 × 5 × 100, half of the first taken back.
        till.earn(&[]).await;
        till.settle().await;
        let [held, payable, in_transit, paid] = till.balance("ada").await;
        assert_eq!((held, payable + in_transit, paid), (0, 8 * 5 * 200 + 8 * 5 * 100, 0));
        assert!(payable <= 0, "only debts are left: {payable}");
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_run_that_ended_in_the_middle_is_taken_further_from_there(db: TestDb) {
        let till = Till::open(&db).await;
        let names = many(&till, 520).await;
        let sales: Vec<(&str, &str, i64, &str)> =
            names.iter().map(|name| (name.as_str(), name.as_str(), 1_000, "usd")).collect();
        till.earn(&sales).await;
        let request = Request { key: Some("march".to_owned()), ..till.request() };
        let run = begin(&till, &request).await;

        assert_eq!(settle::step(till.app(), &run).await.unwrap(), Progress::More);
        let chunk = till.number("SELECT COUNT(*) FROM payout").await;
        assert!((1..=500).contains(&chunk), "{chunk}");
        books::assert_they_add_up(&db.db).await;
        // The process died here. Another node finds the run, and so does the same request.
        let second = Node::with_settings(db.db.clone(), 16, &[("REMIT_PAYOUTS__LIVE", "true")]);
        second.clock.set(till.app().now());
        let mut steps = 0;
        while settle::step_scheduled(&second.app).await.unwrap() > 0 {
            steps += 1;
            assert!(steps < 50);
            let chunks = till.number("SELECT MAX(payouts) FROM (SELECT COUNT(*) AS payouts FROM payout
                GROUP BY run_id) AS r").await;
            assert!(chunks <= 520);
        }
        assert_eq!(till.texts("SELECT state FROM payout_run").await, ["completed"]);
        let answer = settle::run(till.app(), &Principal::console(), &request).await.unwrap();
        let payees: BTreeSet<&EnrollmentId> = answer.payouts.iter().map(|line| &line.enrollment_id).collect();
        assert_eq!((answer.payouts.len(), payees.len()), (520, 520));
        assert_eq!(till.number("SELECT CAST(SUM(due_minor) AS BIGINT) FROM payout").await, 520 * 200);
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_chunk_takes_few_lots_and_the_first_enrollment_whole(db: TestDb) {
        let till = Till::open(&db).await;
        let names = many(&till, 12).await;
        let bound = if db.db.engine().has_one_writer() { 250 } else { 2_000 };
        // One alone has more lots than a chunk takes; the others have few.
        let big: Vec<String> = (0..bound + 10).map(|number| format!("big{number}")).collect();
        let mut sales: Vec<(&str, &str, i64, &str)> =
            big.iter().map(|id| (names[0].as_str(), id.as_str(), 10, "usd")).collect();
        sales.extend(names.iter().map(|name| (name.as_str(), name.as_str(), 1_000, "usd")));
        till.earn(&sales).await;
        let run = begin(&till, &till.request()).await;
        let mut lots_before = 0;
        loop {
            let progress = settle::step(till.app(), &run).await.unwrap();
            let lots = till.number("SELECT COUNT(*) FROM payout_item").await;
            let payouts = till.number("SELECT COUNT(*) FROM payout").await;
            let taken = lots - lots_before;
            assert!(taken <= bound || payouts == 1, "{taken} lots in a chunk");
            lots_before = lots;
            if progress == Progress::Completed {
                break;
            }
        }
        assert_eq!(lots_before, bound + 10 + 12);
        assert_eq!(till.number("SELECT COUNT(*) FROM payout").await, 12);
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_period_is_settled_once_however_many_were_missed(db: TestDb) {
        let till = Till::open(&db).await;
        till.change("UPDATE program SET payout_schedule = 'weekly', created_at_us = 1767225600000000").await;
        till.earn(&[("ada", "a", 1_000, "usd"), ("bob", "b", 1_000, "eur")]).await;
        // Thursday: no week has ended since the program was made.
        assert_eq!(scheduled(&till).await, 0);
        till.shop.node.clock.set(at("2026-01-04T23:59:59.999999Z"));
        assert_eq!(scheduled(&till).await, 0);
        till.shop.node.clock.set(at("2026-01-05T00:00:00Z"));
        assert_eq!(scheduled(&till).await, 2);
        assert_eq!(till.texts("SELECT currency || ' ' || state FROM payout_run ORDER BY 1").await,
            ["eur completed", "usd completed"]);
        assert_eq!(till.number("SELECT COUNT(*) FROM payout").await, 2);
        assert_eq!(scheduled(&till).await, 0);

        // Five weeks go by without a node; then one run catches up with all of them.
        till.earn(&[("ada", "c", 1_000, "usd")]).await;
        till.shop.node.clock.set(at("2026-02-11T12:00:00Z"));
        assert_eq!(scheduled(&till).await, 2);
        assert_eq!(till.number("SELECT COUNT(*) FROM payout").await, 3);
        assert_eq!(till.texts("SELECT DISTINCT CAST(period_end_us AS TEXT) FROM payout_run ORDER BY 1").await,
            ["1767571200000000", "1770595200000000"]);
        assert_eq!(scheduled(&till).await, 0);
        books::assert_they_add_up(&db.db).await;
    }

    async fn what_became_payable_on_the_boundary_belongs_to_the_next_period(db: TestDb) {
        let till = Till::open(&db).await;
        till.change("UPDATE program SET payout_schedule = 'monthly'").await;
        for (id, boundary) in [("before", -1), ("on", 0)] {
            let payable_at = at("2026-02-01T00:00:00Z").plus_micros(boundary);
            till.shop.node.clock.set(payable_at.plus_secs(-GRACE_S));
            till.shop.tell_and_process(&[sale("ada", id, 1_000, "usd")]).await;
            till.shop.node.pass_time(payable_at).await;
        }
        assert_eq!(scheduled(&till).await, 1);
        till.shop.assert_standing("ch_before", "in_payout", [200, 0, 0, 200]).await;
        till.shop.assert_standing("ch_on", "payable", [200, 0, 0, 200]).await;
        till.shop.node.clock.set(at("2026-03-01T00:00:00Z"));
        assert_eq!(scheduled(&till).await, 1);
        till.shop.assert_standing("ch_on", "in_payout", [200, 0, 0, 200]).await;
    }

    async fn two_nodes_that_see_a_period_end_at_once_make_one_run(db: TestDb) {
        let till = Till::open(&db).await;
        till.change("UPDATE program SET payout_schedule = 'weekly'").await;
        till.earn(&[("ada", "a", 1_000, "usd"), ("bob", "b", 1_000, "usd")]).await;
        let mut nodes = JoinSet::new();
        for _ in 0..6 {
            let node = Node::with_settings(
                db.another_node(&DbOptions::default()).await, 16, &[("REMIT_PAYOUTS__LIVE", "true")],
            );
            node.clock.set(at("2026-01-05T00:00:01Z"));
            nodes.spawn(async move {
                while settle::step_scheduled(&node.app).await.unwrap() > 0 {}
                node.app.db.close().await;
            });
        }
        nodes.join_all().await;
        assert_eq!(till.texts("SELECT state FROM payout_run").await, ["completed"]);
        assert_eq!(till.number("SELECT COUNT(*) FROM payout").await, 2);
        books::assert_they_add_up(&db.db).await;
    }

    async fn only_active_programs_with_a_schedule_are_settled_by_themselves(db: TestDb) {
        const PAUSED: &str = "INSERT INTO program_status (program_id, effective_at_us, status)
            SELECT id, 5, 'paused' FROM program";
        let till = Till::open(&db).await;
        till.earn(&[("ada", "a", 1_000, "usd")]).await;
        till.shop.node.clock.set(at("2026-03-01T00:00:00Z"));
        assert_eq!(scheduled(&till).await, 0);
        till.change("UPDATE program SET payout_schedule = 'monthly'").await;
        till.change(PAUSED).await;
        assert_eq!(scheduled(&till).await, 0);
        till.change("DELETE FROM program_status WHERE status = 'paused'").await;
        assert_eq!(scheduled(&till).await, 1);
        assert_eq!(till.number("SELECT COUNT(*) FROM payout").await, 1);
    }

    async fn a_pause_stops_runs_where_they_are_and_books_go_on(db: TestDb) {
        let till = Till::open(&db).await;
        let console = Principal::console();
        till.earn(&[("ada", "a", 1_000, "usd")]).await;
        let run = begin(&till, &till.request()).await;
        holds::pause(till.app(), &console, "the bank called").await.unwrap();
        till.shop.node.clock.advance_secs(1);
        holds::pause(till.app(), &console, "so did the lawyer").await.unwrap();
        assert_eq!(settle::step(till.app(), &run).await.unwrap(), Progress::Paused);
        assert_eq!(settle::step_scheduled(till.app()).await.unwrap(), 0);
        let refused = settle::run(till.app(), &console, &till.request()).await.unwrap_err();
        assert_eq!(refused.code(), "PAYOUTS_PAUSED");
        assert_eq!(till.number("SELECT COUNT(*) FROM payout_run").await, 1);
        assert_eq!(paid(&till.plan().await).len(), 1);
        till.earn(&[("ada", "b", 1_000, "usd")]).await;
        assert_eq!(till.balance("ada").await, [0, 400, 0, 0]);
        let reasons: Vec<String> =
            holds::status(till.app(), &console).await.unwrap().into_iter().map(|pause| pause.reason).collect();
        assert_eq!(reasons, ["the bank called", "so did the lawyer"]);

        holds::resume(till.app(), &console, false, Some("all clear")).await.unwrap();
        assert!(holds::status(till.app(), &console).await.unwrap().is_empty());
        assert_eq!(scheduled(&till).await, 1);
        // The run goes on as of the time at which it was asked for.
        assert_eq!(till.balance("ada").await, [0, 200, 200, 0]);
        assert_eq!(till.texts("SELECT note FROM payout_pause").await, ["all clear", "all clear"]);
    }

    async fn payouts_paused_after_a_restore_need_a_confirmation(db: TestDb) {
        const RESTORED: &str = "INSERT INTO payout_pause (id, kind, reason, actor, paused_at_us)
            VALUES ('hold_restored', 'restored', 'the beat went back', 'remit', 0)";
        let till = Till::open(&db).await;
        till.change(RESTORED).await;
        let console = Principal::console();
        let refused = holds::resume(till.app(), &console, false, None).await.unwrap_err();
        assert_eq!(refused.code(), "RESTORED");
        assert_eq!(holds::status(till.app(), &console).await.unwrap().len(), 1);
        holds::resume(till.app(), &console, true, None).await.unwrap();
        assert!(holds::status(till.app(), &console).await.unwrap().is_empty());
    }

    async fn a_payout_that_was_given_up_is_paid_by_the_next_run_under_another_intent(db: TestDb) {
        let till = Till::open(&db).await;
        till.earn(&[("ada", "a", 1_000, "usd"), ("ada", "b", 500, "usd")]).await;
        let first = till.settle().await;
        let payout = first.payouts[0].id.clone().unwrap();
        payouts::cancel(till.app(), &Principal::console(), &payout).await.unwrap();
        assert_eq!(till.balance("ada").await, [0, 300, 0, 0]);
        books::assert_they_add_up(&db.db).await;
        let second = till.settle().await;
        assert_eq!(paid(&second), [line("ada", "usd", 300, 0)]);
        assert_eq!(till.number("SELECT COUNT(DISTINCT id) FROM intent").await, 2);
        assert_eq!(till.number("SELECT COUNT(*) FROM payout_item").await, 4);
        books::assert_they_add_up(&db.db).await;
        assert_eq!(remit::app::doctor::examine(till.app()).await.unwrap(), []);
    }

    async fn payouts_that_were_changed_are_found(db: TestDb) {
        let till = Till::open(&db).await;
        till.earn(&[("ada", "a", 1_000, "usd"), ("bob", "b", 500, "usd")]).await;
        till.settle().await;
        let examine = async || {
            let found = remit::app::doctor::examine(till.app()).await.unwrap();
            let names: BTreeSet<&str> = found.iter().map(|finding| finding.invariant).collect();
            names.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(examine().await, [""; 0]);
        till.change("UPDATE payout SET state = 'completed' WHERE destination = 'acct_ada'").await;
        assert_eq!(examine().await,
            ["in_transit_is_reserved", "paid_is_sent", "payout_fits_its_intent"]);
        till.change("UPDATE payout SET state = 'pending'").await;
        till.change("UPDATE lot SET payout_id = (SELECT MIN(id) FROM payout)").await;
        assert_eq!(examine().await, ["lot_in_one_payout"]);
        till.change("UPDATE lot SET payout_id = NULL").await;
        assert_eq!(examine().await,
            ["claimed_is_held_by_a_payout", "lot_in_one_payout", "unclaimed_lots_are_payable"]);
    }

    async fn a_run_that_cannot_go_on_is_reported_and_stops_no_other(db: TestDb) {
        let till = Till::open(&db).await;
        till.earn(&[("ada", "a", 1_000, "usd")]).await;
        let run = begin(&till, &till.request()).await;
        // As after a restore of one table: the first entry of the payout that would be made is there.
        let payout = PayoutId::derived(&[run.as_str(), till.enrollment("ada").as_str(), "usd"]);
        let mut tx = db.db.begin().await.unwrap();
        tx.q("INSERT INTO payout (id, run_id, program_id, enrollment_id, organization_id, currency, due_minor,
                  fee_minor, send_minor, state, provider, livemode, destination, on_transfer_reversed,
                  reversed_minor, returned_minor, revision, created_at_us)
              SELECT $1, $2, e.program_id, e.id, e.organization_id, 'usd', 1, 0, 1, 'canceled', 'stripe', FALSE,
                  'acct_ada', 'clawback', 0, 0, 0, 0
              FROM enrollment e WHERE e.id = $3")
            .bind(payout.as_str()).bind(run.as_str()).bind(till.enrollment("ada").as_str())
            .exec().await.unwrap();
        tx.commit().await.unwrap();
        till.shop.node.clock.advance_secs(1);
        let other = begin(&till, &Request { key: Some("other".to_owned()), ..till.request() }).await;
        assert_eq!(settle::step_scheduled(till.app()).await.unwrap(), 2);
        assert_eq!(till.texts("SELECT kind || ' ' || object FROM finding").await,
            [format!("settlement_failed {run}")]);
        assert_eq!(till.texts("SELECT id FROM payout_run WHERE state = 'completed'").await, [other.as_str()]);
        assert_eq!(settle::step_scheduled(till.app()).await.unwrap(), 0, "it waits an hour");
        assert_eq!(till.balance("ada").await, [0, 0, 200, 0]);
    }
}

/// Affiliates beside ada and bob, each with a code of its own name and an account.
async fn many(till: &Till, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|number| format!("n{number:04}")).collect();
    for name in &names {
        till.shop.owner.enroll(till.db(), "fifth", name, name, &format!("{name}@example.com")).await;
        till.name_account(name).await;
    }
    names
}

/// Begins a run as if the process had died before its first chunk.
async fn begin(till: &Till, request: &Request) -> RunId {
    use remit::store::settlement::{self, Began, Run};
    let key = request.key.clone().unwrap_or_else(|| "begun".to_owned());
    let run = Run {
        id: RunId::derived(&[request.program.as_str(), "request", &key]),
        program_id: request.program.clone(),
        began: Began::Requested { key },
        as_of: till.app().now(),
        actor: "console".to_owned(),
        last_enrollment: None,
        created_at: till.app().now(),
        completed_at: None,
    };
    let mut tx = till.db().begin().await.unwrap();
    assert!(settlement::insert_run(&mut tx, &run).await.unwrap());
    tx.commit().await.unwrap();
    run.id
}

/// Runs the schedule stage until it finds nothing, and counts the runs that are completed by it.
async fn scheduled(till: &Till) -> i64 {
    const COMPLETED: &str = "SELECT COUNT(*) FROM payout_run WHERE state = 'completed'";
    let before = till.number(COMPLETED).await;
    while settle::step_scheduled(till.app()).await.unwrap() > 0 {}
    till.number(COMPLETED).await - before
}
