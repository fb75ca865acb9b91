//! What an affiliate sees: its own side, all of it, and nothing of anybody else's.

use axum::http::{Method, StatusCode};
use remit::{
    app::{
        decide::{self, Request},
        keys::KeyKind,
    },
    domain::{
        commission::{ClawbackReason, DecisionKind},
        ids::EnrollmentId,
    },
    store::Db,
};
use serde_json::{Value, json};

use super::support::{
    TestDb, api,
    bank::Bank,
    desk::{Desk, as_cell, click, csv_rows},
    on_each_engine,
    shop::{Shop, refund},
    till::{Till, sale},
};

const ME: &str = "/v1/affiliate/me";

/// A sale of a buyer who must never be seen by an affiliate.
fn sale_of_a_person(affiliate: &str, id: &str, amount: i64) -> Value {
    let mut event = sale(affiliate, id, amount, "usd");
    event["data"]["object"]["customer"] = json!("cus_canary");
    event["data"]["object"]["receipt_email"] = json!("canary@example.org");
    event
}

async fn claw_back(shop: &Shop, object: &str, affiliate: &str, amount: i64) {
    let request = Request {
        sale_id: shop.sale(object).await.unwrap(),
        enrollment_id: EnrollmentId::parse(&shop.enrollment(affiliate)).unwrap(),
        kind: DecisionKind::Clawback,
        reason: Some(ClawbackReason::Fraud),
        amount: Some(amount),
        note: Some("the canary sang".to_owned()),
        by: remit::app::keys::Principal::console(),
        idempotency_key: None,
    };
    decide::decide(&shop.node.app, &request).await.unwrap();
}

/// How many rows there are that money moves by.
async fn rows(db: &Db) -> Vec<i64> {
    let mut conn = db.read().await.unwrap();
    let mut counts = Vec::new();
    for sql in [
        "SELECT COUNT(*) FROM entry",
        "SELECT COUNT(*) FROM payout",
        "SELECT COUNT(*) FROM payout_run",
        "SELECT COUNT(*) FROM intent",
        "SELECT COUNT(*) FROM job",
        "SELECT COUNT(*) FROM payout_skip",
    ] {
        counts.push(conn.q(sql).scalar().await.unwrap().unwrap());
    }
    counts
}

fn statement_of(shop: &Shop, affiliate: &str, rest: &str) -> String {
    format!("{ME}/statement?enrollment_id={}&currency=usd{rest}", shop.enrollment(affiliate))
}

/// The four balances of an enrollment in dollars as the ledger keeps them.
async fn ledger(shop: &Shop, affiliate: &str) -> [i64; 4] {
    const SQL: &str = "SELECT account, credit_minor - debit_minor FROM balance
        WHERE owner_id = $1 AND currency = 'usd'";
    let mut conn = shop.node.app.db.read().await.unwrap();
    let found: Vec<(String, i64)> = conn.q(SQL).bind(shop.enrollment(affiliate)).all().await.unwrap();
    ["held", "payable", "in_transit", "paid"]
        .map(|account| found.iter().find(|row| row.0 == account).map_or(0, |row| row.1))
}

on_each_engine! {
    async fn balances_tell_what_waits_what_is_payable_and_what_is_owed_back(db: TestDb) {
        let till = Till::open(&db).await;
        let desk = Desk::over(&till.shop).await;
        assert_eq!(desk.data(&desk.ada, &format!("{ME}/balance")).await, json!([]));
        till.earn(&[("ada", "1", 1_000, "usd"), ("ada", "2", 700, "eur"), ("bob", "3", 500, "usd")]).await;
        till.settle().await;
        till.shop.tell_and_process(&[sale("ada", "4", 2_000, "usd"), refund("1", "1", 1_000)]).await;
        let (ada, program) = (till.shop.enrollment("ada"), till.program());
        let balance = |currency: &str, held: i64, in_transit: i64, debt: i64, next: Value| json!({
            "enrollment_id": ada, "program_id": program, "currency": currency, "pending_cents": held,
            "awaiting_review_cents": 0, "held_cents": held, "payable_cents": 0, "in_transit_cents": in_transit,
            "paid_cents": 0, "debt_cents": debt, "next_release_at": next,
        });
        // The clock stands at the settlement, one second after the grace; the sale may be released a grace later.
        let next = till.app().now().plus_secs(900).to_string();
        assert_eq!(desk.data(&desk.ada, &format!("{ME}/balance")).await,
            json!([balance("eur", 0, 140, 0, Value::Null), balance("usd", 400, 200, 200, json!(next))]));
        let other = format!("{ME}/balance?enrollment_id={}", till.shop.enrollment("bob"));
        assert_eq!(desk.data(&desk.ada, &other).await, json!([]), "a peer's part is empty, as is one that is not there");
        assert_eq!(desk.data(&desk.ada, &format!("{ME}/balance?program_id={program}")).await.as_array().unwrap().len(), 2);
        assert_eq!(desk.data(&desk.ada, &format!("{ME}/balance?program_id=prog_other")).await, json!([]));
    }

    async fn what_waits_for_review_is_pending_before_it_is_in_any_account(db: TestDb) {
        let shop = Shop::open_with(&db.db, 16, &json!({"approval_mode": "manual"})).await;
        let desk = Desk::over(&shop).await;
        shop.tell_and_process(&[sale("ada", "1", 1_000, "usd"), sale("ada", "2", 500, "usd")]).await;
        shop.decide(DecisionKind::Approve, "ch_2", "ada").await.unwrap();
        let shown = desk.data(&desk.ada, &format!("{ME}/balance")).await;
        let figures = ["pending_cents", "awaiting_review_cents", "held_cents", "payable_cents"].map(|field| shown[0][field].as_i64().unwrap());
        assert_eq!(figures, [300, 200, 100, 0]);
    }

    async fn a_commission_is_told_with_its_reasons_and_without_anybody_elses(db: TestDb) {
        let shop = Shop::open(&db.db, 16).await;
        let desk = Desk::over(&shop).await;
        shop.tell_and_process(&[sale_of_a_person("ada", "1", 1_999)]).await;
        claw_back(&shop, "ch_1", "ada", 50).await;
        shop.tell_and_process(&[refund("1", "1", 999)]).await;
        let listed = desk.data(&desk.ada, &format!("{ME}/commissions")).await;
        let id = listed[0]["id"].as_str().unwrap();
        let shown = desk.data(&desk.ada, &format!("{ME}/commissions/{id}")).await;
        for (field, value) in listed[0].as_object().unwrap() {
            assert_eq!(shown[field], *value, "{field}");
        }
        // A fifth of 1999 is 399.8; 1000 of 1999 stay, so 200.1 of 400; and 50 more were taken by hand.
        let figures = ["base_cents", "amount_cents", "earned_cents", "clawed_cents"].map(|field| shown[field].as_i64().unwrap());
        assert_eq!(figures, [1_999, 400, 400, 250]);
        let steps: Vec<(&str, i64)> = shown["steps"].as_array().unwrap().iter()
            .map(|step| (step["what"].as_str().unwrap(), step["amount_cents"].as_i64().unwrap())).collect();
        assert_eq!(steps, [("base", 1_999), ("commission", 400), ("kept_of_sale", 200), ("manual_clawback", 50), ("posted", 150)]);
        assert!(shown["steps"][1]["how"].as_str().unwrap().contains("rounded half up to 400"), "{shown}");
        let entries: Vec<Value> = shown["entries"].as_array().unwrap().iter()
            .map(|entry| json!([entry["kind"], entry["amount_cents"], entry["because"]])).collect();
        assert_eq!(entries, [
            json!(["accrual", 400, [{"kind": "event", "type": "charge.succeeded"}]]),
            json!(["clawback", 50, [{"kind": "decision", "decision": "clawback", "reason": "fraud"}]]),
            json!(["clawback", 200, [{"kind": "event", "type": "refund.created"}]]),
        ]);
        assert_eq!(shown["sale_status"], "partial_refunded");
    }

    async fn a_commission_tells_by_which_terms_it_was_reckoned_and_its_place(db: TestDb) {
        let tiers = json!([{ "from": 0, "bps": 1_000 }, { "from": 1, "bps": 2_000 }]);
        let terms = json!({ "commission": { "type": "tiered", "basis": "count", "tiers": tiers } });
        let shop = Shop::open_with(&db.db, 16, &terms).await;
        let desk = Desk::over(&shop).await;
        for id in ["1", "2"] {
            shop.tell_and_process(&[sale_of_a_person("ada", id, 1_000)]).await;
        }
        let listed = desk.data(&desk.ada, &format!("{ME}/commissions")).await;
        let mut told: Vec<Value> = listed.as_array().unwrap().iter()
            .map(|row| json!([row["amount_cents"], row["position"]["count"], row["terms_version"]])).collect();
        told.sort_by_key(|row| row[0].as_i64());
        assert_eq!(told, [json!([100, 0, 1]), json!([200, 1, 1])]);
    }

    async fn box_211_an_affiliate_never_sees_a_peer_nor_a_buyer(db: TestDb) {
        let till = Till::open(&db).await;
        let shop = &till.shop;
        let desk = Desk::over(shop).await;
        click(&db.db, "", "", 0, 0).await;
        shop.tell_and_process(&[sale_of_a_person("ada", "1", 1_000), sale_of_a_person("bob", "2", 3_000)]).await;
        claw_back(shop, "ch_1", "ada", 10).await;
        claw_back(shop, "ch_2", "bob", 10).await;
        shop.pass_grace().await;
        till.settle().await;
        let mut objects = Vec::new();
        for what in ["conversions", "commissions", "payouts"] {
            let theirs = desk.data(&desk.bob, &format!("{ME}/{what}")).await;
            let mine = desk.data(&desk.ada, &format!("{ME}/{what}")).await;
            assert_eq!((mine.as_array().unwrap().len(), theirs.as_array().unwrap().len()), (1, 1), "{what}");
            let (mine, theirs) = (mine[0]["id"].as_str().unwrap(), theirs[0]["id"].as_str().unwrap());
            assert_ne!(mine, theirs);
            let missing = desk.text(&desk.ada, &format!("{ME}/{what}/{}_missing", &theirs[..theirs.find('_').unwrap()])).await;
            assert_eq!(missing.0, StatusCode::NOT_FOUND);
            for no_id_of_mine in [theirs, "what", "%00", "../payouts"] {
                assert_eq!(desk.text(&desk.ada, &format!("{ME}/{what}/{no_id_of_mine}")).await, missing, "{what} {no_id_of_mine}");
            }
            objects.push(format!("{ME}/{what}/{mine}"));
        }
        let peers = desk.text(&desk.ada, &statement_of(shop, "bob", "")).await;
        let missing = desk.text(&desk.ada, &format!("{ME}/statement?enrollment_id=par_missing&currency=usd")).await;
        assert_eq!((peers.0, &peers), (StatusCode::NOT_FOUND, &missing));
        assert_eq!(desk.text(&desk.ada, &statement_of(shop, "bob", "&format=csv")).await, missing);

        let lists = ["stats", "balance", "conversions", "commissions", "payouts", "payout-request"].map(|what| format!("{ME}/{what}"));
        let statements = ["", "&format=csv"].map(|rest| statement_of(shop, "ada", rest));
        let (bob, bobs_organization) = (shop.enrollment("bob"), shop.owner.id("org_", "bob"));
        for path in objects.iter().chain(&lists).chain(&statements) {
            let (status, text) = desk.text(&desk.ada, path).await;
            assert_eq!(status, StatusCode::OK, "{path}: {text}");
            for canary in ["canary", "cus_", "ch_2", "evt_", "key_", "acct_bob", bob.as_str(), bobs_organization.as_str()] {
                assert!(!text.contains(canary), "{path} tells {canary}: {text}");
            }
        }
        for list in &lists {
            let (_, whole) = desk.text(&desk.ada, list).await;
            let (_, peers) = desk.text(&desk.ada, &format!("{list}?enrollment_id={bob}")).await;
            let (_, nobodys) = desk.text(&desk.ada, &format!("{list}?enrollment_id=par_missing")).await;
            assert_eq!(peers, nobodys, "{list}");
            assert_ne!(peers, whole, "{list}");
            for (query, code) in [("enrollment_id=x", "INVALID_ENROLLMENT_ID"), ("program_id=%00", "INVALID_PROGRAM_ID")] {
                assert_eq!(desk.refusal(&desk.ada, &format!("{list}?{query}")).await, (400, code.to_owned()), "{list}");
            }
            assert_eq!(desk.refusal(&desk.api.operator, list).await, (403, "FORBIDDEN".to_owned()), "{list}");
            // The owner is an organization too, which is enrolled nowhere.
            let (status, owners) = desk.text(&desk.owner, list).await;
            assert!(status == StatusCode::OK && !owners.contains("par_"), "{list}: {owners}");
        }
        let project = json!({"kind": "client", "project_id": shop.owner.project()});
        let client = desk.api.create(&desk.api.operator, "/v1/admin/keys", project).await["key"].take();
        assert_eq!(desk.refusal(client.as_str().unwrap(), &format!("{ME}/balance")).await.0, 403);
        assert_eq!(desk.refusal("rk_org_nobody", &format!("{ME}/balance")).await.0, 401);
    }

    async fn box_217_with_the_gate_off_a_payout_request_still_tells_what_is_owed(db: TestDb) {
        let till = Till::open_with(&db, &json!({}), &[]).await;
        let desk = Desk::over(&till.shop).await;
        till.earn(&[("ada", "1", 1_000, "usd"), ("ada", "2", 30, "eur"), ("bob", "3", 1_000, "usd")]).await;
        till.change("UPDATE program SET platform_fee_bps = 1000, min_payout = '{\"usd\":200,\"eur\":100}'").await;
        till.change("DELETE FROM payout_account WHERE account_id = 'acct_bob'").await;
        let run = desk.api.refusal(&desk.owner, Method::POST, &format!("{}/payouts/run", desk.program), &json!({})).await;
        assert_eq!(run.0, 403, "an owner's key does not settle by default");
        let run = desk.api.refusal(&desk.api.operator, Method::POST, &format!("{}/payouts/run", desk.program), &json!({})).await;
        assert_eq!(run, (503, "PAYOUTS_NOT_ENABLED".to_owned()));
        let before = rows(&db.db).await;
        let path = format!("{ME}/payout-request");
        let line = |currency: &str, due: i64, minimum: i64, split: Option<(i64, i64)>, reason: Value| json!({
            "enrollment_id": till.enrollment("ada"), "program_id": till.program(), "currency": currency,
            "due_cents": due, "min_payout_cents": minimum, "meets_minimum": due >= minimum, "payout_schedule": null,
            "would_be_paid": split.is_some(), "fee_cents": split.map(|split| split.0),
            "send_cents": split.map(|split| split.1), "reason": reason,
        });
        assert_eq!(desk.data(&desk.ada, &path).await, json!({
            "payouts_enabled": false, "payouts_paused": false,
            "account": {"provider": "stripe", "account_id": "acct_ada", "ready": null},
            "balances": [line("eur", 6, 100, None, json!("below_min_payout")), line("usd", 200, 200, Some((20, 180)), Value::Null)],
        }));
        let bobs = desk.data(&desk.bob, &path).await;
        assert_eq!((&bobs["account"], &bobs["balances"][0]["reason"], &bobs["balances"][0]["due_cents"]),
            (&Value::Null, &json!("no_payout_account"), &json!(200)));
        assert_eq!(rows(&db.db).await, before, "nothing moves");

        let pause = json!({"reason": "the bank called"});
        assert!(desk.api.call(&desk.api.operator, Method::POST, "/v1/admin/payouts/pause", &pause).await.0.is_success());
        assert_eq!(desk.data(&desk.ada, &path).await["payouts_paused"], true);
    }

    async fn a_statement_adds_up_to_the_ledger_through_payment_and_return(db: TestDb) {
        let bank = Bank::open(&db).await;
        bank.change("UPDATE program SET platform_fee_bps = 500").await;
        let shop = &bank.shop;
        let desk = Desk::over(shop).await;
        shop.tell_and_process(&[sale("ada", "1", 10_000, "usd"), sale("ada", "2", 333, "usd"), sale("bob", "3", 1_000, "usd")]).await;
        shop.pass_grace().await;
        bank.settle().await;
        bank.dispatch().await;
        bank.tell().await;
        bank.advance(3_600).await;
        shop.tell_and_process(&[refund("1", "1", 2_500)]).await;
        bank.advance(86_400).await;
        bank.reverse("90").await;
        bank.tell().await;
        shop.tell_and_process(&[sale("ada", "4", 5_000, "usd")]).await;

        let mut returned = 0;
        for affiliate in ["ada", "bob"] {
            let key = if affiliate == "ada" { &desk.ada } else { &desk.bob };
            let [held, payable, in_transit, paid] = ledger(shop, affiliate).await;
            let lines = desk.pages(key, &statement_of(shop, affiliate, ""), 2, async |_| ()).await;
            let sum = |field: &str| lines.iter().map(|line| line[field].as_i64().unwrap()).sum::<i64>();
            assert_eq!(
                ["held_change_cents", "payable_change_cents", "in_transit_change_cents", "paid_change_cents"].map(sum),
                [held, payable, in_transit, paid], "{affiliate}"
            );
            let mut balance = 0;
            for line in &lines {
                balance += line["amount_cents"].as_i64().unwrap();
                assert_eq!(line["balance_cents"], balance, "{line}");
            }
            assert_eq!(balance, held + payable + in_transit);
            returned += lines.iter().filter(|line| line["kind"] == "transfer_returned").count();
            let whole = desk.data(key, &statement_of(shop, affiliate, "&limit=100")).await;
            assert_eq!(whole["opening"], json!({"balance_cents": 0, "held_cents": 0, "payable_cents": 0, "in_transit_cents": 0, "paid_cents": 0}));
            assert_eq!(whole["closing"], json!({"balance_cents": balance, "held_cents": held, "payable_cents": payable, "in_transit_cents": in_transit, "paid_cents": paid}));
            assert_eq!(*whole["lines"].as_array().unwrap(), lines);

            // The file has the same lines between its two balances.
            let (_, csv) = desk.text(key, &statement_of(shop, affiliate, "&format=csv")).await;
            let file = csv_rows(&csv);
            assert_eq!(file.len(), lines.len() + 2);
            for (row, line) in file[1..].iter().zip(&lines) {
                for (name, cell) in row {
                    assert_eq!(*cell, as_cell(&line[name]), "{name}");
                }
            }
            let ends = [&file[0], &file[file.len() - 1]].map(|row| (row[1].1.as_str(), row[4].1.as_str()));
            assert_eq!(ends, [("opening_balance", "0"), ("closing_balance", balance.to_string().as_str())]);
        }
        assert_eq!(returned, 1, "one of the two transfers came back in part");
        let lines = desk.pages(&desk.ada, &statement_of(shop, "ada", ""), 100, async |_| ()).await;
        let told = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).map(|line| (line["amount_cents"].as_i64().unwrap(), line["reason"].as_str().unwrap().to_owned())).collect::<Vec<_>>();
        let line = |amount: i64, reason: &str| (amount, reason.to_owned());
        assert_eq!(told("payout_reserve"), [line(0, "settlement")]);
        assert_eq!(told("platform_fee"), [line(-103, "provider_answer")]);
        assert_eq!(told("payout_settle"), [line(-1_964, "provider_answer")]);
        assert_eq!(told("clawback")[0], line(-500, "refund.created"));

        // A later window opens where the one before it closed.
        let earlier = desk.data(&desk.ada, &statement_of(shop, "ada", "&to=2026-01-02&limit=100")).await;
        let later = desk.data(&desk.ada, &statement_of(shop, "ada", "&from=2026-01-02&limit=100")).await;
        assert_eq!(later["opening"], earlier["closing"]);
        assert!(!later["lines"].as_array().unwrap().is_empty() && earlier["lines"].as_array().unwrap().len() > 4);
        assert_eq!(earlier["lines"].as_array().unwrap().len() + later["lines"].as_array().unwrap().len(), lines.len());
        for (rest, code) in [
            ("", "MISSING_ENROLLMENT_ID"), ("?enrollment_id=par_x", "MISSING_CURRENCY"), ("?enrollment_id=par_x&currency=usd&format=pdf", "INVALID_FORMAT"),
            ("?enrollment_id=par_x&currency=usd&to=0", "INVALID_TO"), ("?enrollment_id=par_x&currency=usd&cursor=x", "INVALID_CURSOR"),
        ] {
            assert_eq!(desk.refusal(&desk.ada, &format!("{ME}/statement{rest}")).await, (400, code.to_owned()), "{rest}");
        }
    }

    async fn lists_are_stable_while_rows_come_in(db: TestDb) {
        let till = Till::open(&db).await;
        let desk = Desk::over(&till.shop).await;
        for round in 0..5 {
            till.earn(&[("ada", &format!("a{round}"), 1_000, "usd"), ("ada", &format!("b{round}"), 1_000, "eur")]).await;
            till.settle().await;
        }
        let mut fresh = 0;
        let statement = statement_of(&till.shop, "ada", "");
        for list in [format!("{ME}/conversions"), format!("{ME}/commissions"), format!("{ME}/payouts"), format!("{ME}/balance"), statement] {
            let before: Vec<Value> = desk.pages(&desk.ada, &list, 100, async |_| ()).await;
            till.shop.node.clock.advance_secs(1);
            let seen = desk.pages(&desk.ada, &list, if list.contains("balance") { 1 } else { 3 }, async |_| {
                fresh += 1;
                till.earn(&[("ada", &format!("f{fresh}"), 1_000, "usd")]).await;
                if fresh % 2 == 0 {
                    till.settle().await;
                }
            }).await;
            let id = |row: &Value| [&row["id"], &row["entry_id"], &row["currency"]].map(as_cell).concat();
            let (before, seen): (Vec<String>, Vec<String>) = (before.iter().map(id).collect(), seen.iter().map(id).collect());
            if list.contains("statement") {
                // It goes forward in time up to the moment of each page: what was there comes first and once.
                assert_eq!(seen[..before.len()], before, "{list}");
            } else {
                assert_eq!(seen, before, "{list}");
            }
            let mut once = seen.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), seen.len(), "{list}");
        }
    }

    async fn a_long_statement_is_written_in_pages(db: TestDb) {
        let shop = Shop::open(&db.db, 512).await;
        let desk = Desk::over(&shop).await;
        let sales: Vec<Vec<u8>> = (0..620).map(|number| sale("ada", &number.to_string(), 1_000, "usd").to_string().into_bytes()).collect();
        shop.node.receive_all(&shop.owner.project(), &shop.owner.endpoint("a"), "stripe", sales).await;
        shop.node.process_all().await;
        shop.pass_grace().await;
        let (_, csv) = desk.text(&desk.ada, &statement_of(&shop, "ada", "&format=csv")).await;
        let rows = csv_rows(&csv);
        assert_eq!(rows.len(), 2 * 620 + 2);
        assert_eq!((rows[1241][1].1.as_str(), rows[1241][4].1.as_str()), ("closing_balance", "124000"));
    }

    async fn a_key_of_the_affiliate_without_the_right_to_read_reads_nothing(db: TestDb) {
        let shop = Shop::open(&db.db, 16).await;
        let desk = Desk::over(&shop).await;
        let body = json!({"kind": "organization", "organization_id": shop.owner.id("org_", "ada"), "scopes": ["write"]});
        let key = desk.api.create(&desk.api.operator, "/v1/admin/keys", body).await["key"].take();
        for what in ["stats", "balance", "conversions", "commissions", "payouts", "payout-request"] {
            let refused = desk.refusal(key.as_str().unwrap(), &format!("{ME}/{what}")).await;
            assert_eq!(refused, (403, "FORBIDDEN".to_owned()), "{what}");
        }
        let other = api::key(&desk.api.app, KeyKind::Operator, None).await;
        assert_eq!(desk.refusal(&other, &statement_of(&shop, "ada", "")).await.0, 403);
    }
}
