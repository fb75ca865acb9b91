//! Settlement: who is paid what, who is not and why, once, whoever asks how often and whatever happens
//! beside it.

use std::{collections::BTreeSet, sync::Arc};

use remit::{
    app::{
        holds,
        keys::Principal,
        payouts,
        settle::{self, Request},
    },
    domain::{
        ids::{IntentId, PayoutId, RunId},
        time::Timestamp,
    },
    store::DbOptions,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::support::{
    TestDb, books,
    node::Node,
    on_each_engine,
    shop::{PAID_AT_S, refund},
    till::{Till, line, paid, passed, sale, skip},
};

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
        let intent = IntentId::derived(&["payout", payout.as_str()]);
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
}
