//! Settlement runs: begun by schedules, in chunks, taken further after a crash, stopped by a pause.

use std::collections::BTreeSet;

use remit::{
    app::{
        holds,
        keys::Principal,
        programs::{self, ProgramFields},
        settle::{self, Progress, Request},
    },
    domain::ids::{EnrollmentId, PayoutId},
    store::DbOptions,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::support::{
    TestDb, books,
    node::Node,
    on_each_engine,
    shop::GRACE_S,
    till::{Till, at, begin, many, paid, sale, scheduled},
};

on_each_engine! {
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

    async fn a_schedule_begins_with_the_first_period_that_ends_after_it_was_switched_on(db: TestDb) {
        let till = Till::open(&db).await;
        till.change("UPDATE program SET created_at_us = 0").await;
        till.earn(&[("ada", "a", 1_000, "usd")]).await;
        let switch = async |to: Value| {
            let fields = ProgramFields { payout_schedule: Some(to), ..ProgramFields::default() };
            programs::update(till.app(), &Principal::console(), &till.program(), fields).await.unwrap();
        };
        // A Wednesday: the week before is none of the schedule's business.
        till.shop.node.clock.set(at("2026-01-14T12:00:00Z"));
        switch(json!("weekly")).await;
        assert_eq!(scheduled(&till).await, 0);
        till.shop.node.clock.set(at("2026-01-16T12:00:00Z"));
        switch(json!("weekly")).await;
        till.shop.node.clock.set(at("2026-01-19T00:00:00Z"));
        assert_eq!(scheduled(&till).await, 1, "the same schedule again moved nothing");
        // Another schedule begins anew, and so does one that was switched off in between.
        switch(json!("monthly")).await;
        assert_eq!(scheduled(&till).await, 0);
        till.shop.node.clock.set(at("2026-02-01T00:00:00Z"));
        assert_eq!(scheduled(&till).await, 1);
        switch(Value::Null).await;
        till.shop.node.clock.set(at("2026-03-10T00:00:00Z"));
        assert_eq!(scheduled(&till).await, 0);
        switch(json!("monthly")).await;
        assert_eq!(scheduled(&till).await, 0);
        // Switched on at the very end of a period, which was over then.
        till.shop.node.clock.set(at("2026-03-16T00:00:00Z"));
        switch(json!("weekly")).await;
        assert_eq!(scheduled(&till).await, 0);
        till.shop.node.clock.set(at("2026-03-23T00:00:00Z"));
        assert_eq!(scheduled(&till).await, 1);
        let ends = "SELECT CAST(period_end_us / 1000000 AS TEXT) FROM payout_run ORDER BY 1";
        assert_eq!(till.texts(ends).await, ["1768780800", "1769904000", "1774224000"]);
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
        const INSTANCE: &str = "INSERT INTO instance (id, instance_id, beat, beat_at_us, look_up_before_us)
            VALUES (1, 'inst_test', 1, 0, 0)";
        let till = Till::open(&db).await;
        till.change(INSTANCE).await;
        till.change(RESTORED).await;
        let console = Principal::console();
        let refused = holds::resume(till.app(), &console, false, None).await.unwrap_err();
        assert_eq!(refused.code(), "RESTORED");
        assert_eq!(holds::status(till.app(), &console).await.unwrap().len(), 1);
        holds::resume(till.app(), &console, true, None).await.unwrap();
        assert!(holds::status(till.app(), &console).await.unwrap().is_empty());
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
