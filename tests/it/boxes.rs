//! The boxes of the product's checklist about programs and what they pay, through the API: each value is
//! taken, shown, kept and has its effect. Boxes with tests of their own elsewhere are listed in `checklist`.

use axum::http::{Method, StatusCode};
use remit::{app::settle, domain::time::Timestamp};
use serde_json::{Value, json};

use super::{
    paying::earn,
    support::{
        TestDb,
        api::{Api, NOW, PROGRAMS, id_of},
        bank::Bank,
        books,
        desk::Desk,
        on_each_engine,
        site::Site,
    },
};

/// The settings of a node that pays.
const LIVE: &[(&str, &str)] =
    &[("REMIT_PAYOUTS__LIVE", "true"), ("REMIT_STRIPE__SECRET_KEY", "sk_test_boxes")];

/// The answer to a request of the owner's, which must succeed.
async fn owner(site: &Site, method: Method, path: &str, body: &Value) -> Value {
    let (status, mut answer) = site.api.call(&site.key, method, path, body).await;
    assert!(status.is_success(), "{path}: {answer}");
    answer["data"].take()
}

/// Changes fields of the site's program.
async fn change(site: &Site, fields: Value) -> Value {
    owner(site, Method::PATCH, &format!("{PROGRAMS}/{}", site.program), &fields).await
}

/// What each of these reports earns ann, in minor units and in order.
async fn earned(site: &Site, reports: &[Value]) -> Vec<Value> {
    let mut amounts = Vec::new();
    for (number, fields) in reports.iter().enumerate() {
        let mut fields = fields.clone();
        fields["code"] = json!("ann");
        let (status, answer) = site.report(&format!("order_{number}"), fields).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        amounts.push(answer["data"]["earned_minor"].clone());
        site.api.clock.advance_secs(60);
    }
    amounts
}

/// Names ann's account and what the program pays from.
async fn may_be_paid(site: &Site) {
    let affiliate =
        owner(site, Method::GET, &site.path(&format!("enrollments/{}", site.ann)), &Value::Null).await;
    let path =
        format!("/v1/admin/organizations/{}/payout-account", affiliate["affiliate_org_id"].as_str().unwrap());
    let account = json!({"provider": "stripe", "account_id": "acct_ann"});
    let (status, answer) = site.api.call(&site.api.operator, Method::PUT, &path, &account).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    change(site, json!({"min_payout": {"usd": 1_000}})).await;
}

/// Lets time pass, and every stage do what is due by then.
async fn pass(site: &Site, to: Timestamp) {
    site.api.clock.set(to);
    site.settle().await;
    while settle::step_scheduled(&site.api.app).await.unwrap() > 0 {}
}

on_each_engine! {
    async fn box_51_52_72_a_program_is_its_owners_and_has_a_name(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let commission = json!({"type": "percentage", "bps": 2000});
        let body = json!({
            "owner_organization_id": site.organization, "name": "Launch Partners", "commission": commission,
        });
        let made = site.api.create(&site.api.operator, PROGRAMS, body.clone()).await;
        let shown = owner(&site, Method::GET, &format!("{PROGRAMS}/{}", id_of(&made)), &Value::Null).await;
        assert_eq!(shown, made);
        assert_eq!(
            (&shown["owner_organization_id"], &shown["name"]),
            (&json!(site.organization), &json!("Launch Partners"))
        );
        assert!(id_of(&shown).starts_with("prog_"));
        // Its conversions name it.
        let (_, report) = site.report("order_1", json!({"code": "ann"})).await;
        assert_eq!(report["data"]["program_id"], json!(site.program));
        let (_, stranger) = site.api.tenant("stranger").await;
        assert_eq!(site.api.refusal(&stranger, Method::POST, PROGRAMS, &body).await.0, 404);
        for (field, value, code) in [
            ("owner_organization_id", json!("acme"), "INVALID_ORGANIZATION"),
            ("name", json!(""), "INVALID_NAME"),
            ("name", json!("a".repeat(201)), "INVALID_NAME"),
        ] {
            let mut wrong = body.clone();
            wrong[field] = value;
            let refusal = site.api.refusal(&site.api.operator, Method::POST, PROGRAMS, &wrong).await;
            assert_eq!(refusal, (400, code.to_owned()), "{wrong}");
        }
    }

    async fn box_53_54_55_56_57_each_form_of_commission_is_taken_shown_and_paid(db: TestDb) {
        let of_customer = |customer: &str| json!({"customer": customer});
        let gross = |amount: i64| json!({"gross_amount_cents": amount});
        for (number, (commission, reports, amounts)) in [
            // 20 % of 99.00; 15 % of 0.10 is 1.5 cents, rounded half up.
            (json!({"type": "percentage", "bps": 2000}), vec![gross(9_900)], json!([1_980])),
            (json!({"type": "percentage", "bps": 1500}), vec![gross(10)], json!([2])),
            (json!({"type": "percentage", "bps": 0}), vec![gross(9_900)], json!([0])),
            (json!({"type": "percentage", "bps": 10_000}), vec![gross(9_900)], json!([9_900])),
            (json!({"type": "flat", "amount_cents": 500, "currency": "usd"}), vec![gross(100), gross(9_900)], json!([500, 500])),
            // The first two payments of each customer.
            (
                json!({"type": "recurring", "bps": 1000, "max_months": null, "max_payments": 2}),
                vec![of_customer("c_1"), of_customer("c_1"), of_customer("c_2"), of_customer("c_1")],
                json!([990, 990, 990, 0]),
            ),
            (
                json!({"type": "recurring", "amount_cents": 300, "currency": "usd", "max_months": 12, "max_payments": null}),
                vec![of_customer("c_1"), of_customer("c_1")],
                json!([300, 300]),
            ),
            // From the third sale on, twice as much.
            (
                json!({"type": "tiered", "basis": "count", "mode": "whole",
                    "tiers": [{"from": 0, "bps": 1000}, {"from": 2, "bps": 2000}]}),
                vec![gross(9_900), gross(9_900), gross(9_900)],
                json!([990, 990, 1_980]),
            ),
            // 99.00 at 10 %; then 1.00 at 10 % and 98.00 at 20 %.
            (
                json!({"type": "tiered", "basis": "revenue", "mode": "marginal",
                    "tiers": [{"from": 0, "bps": 1000}, {"from": 10_000, "bps": 2000}]}),
                vec![gross(9_900), gross(9_900)],
                json!([990, 1_970]),
            ),
        ].into_iter().enumerate() {
            let site = Site::open_on(Api::new(&db.db).await, &format!("site_{number}"), json!({"commission": commission})).await;
            let shown = owner(&site, Method::GET, &format!("{PROGRAMS}/{}", site.program), &Value::Null).await;
            assert_eq!(shown["commission"], commission);
            assert_eq!(Value::from(earned(&site, &reports).await), amounts, "{commission}");
        }
        books::assert_they_add_up(&db.db).await;
        let site = Site::open(&db.db, json!({})).await;
        for wrong in [
            json!({"type": "percentage"}), json!({"type": "percentage", "bps": 10_001}),
            json!({"type": "percentage", "bps": 12.5}), json!({"type": "flat", "amount_cents": 500}),
            json!({"type": "flat", "amount_cents": -1, "currency": "usd"}), json!({"type": "recurring"}),
            json!({"type": "recurring", "bps": 1, "max_payments": 0}), json!({"type": "tiered", "basis": "count"}),
            json!({"type": "tiered", "basis": "count", "tiers": []}), json!({"type": "bonus"}), Value::Null,
        ] {
            let path = format!("{PROGRAMS}/{}", site.program);
            let refusal = site.api.refusal(&site.key, Method::PATCH, &path, &json!({"commission": wrong})).await;
            assert_eq!(refusal, (400, "INVALID_COMMISSION".to_owned()), "{wrong}");
        }
    }

    async fn every_example_of_the_document_about_programs_is_taken(db: TestDb) {
        const DOCUMENT: &str = include_str!("../../docs/programs.md");
        let site = Site::open(&db.db, json!({})).await;
        let examples: Vec<&str> =
            DOCUMENT.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert!(examples.len() >= 8, "{}", examples.len());
        for example in examples {
            let fields: Value = serde_json::from_str(example).unwrap();
            let shown = change(&site, fields.clone()).await;
            for field in ["type", "bps", "amount_cents", "max_months", "max_payments", "basis", "tiers"] {
                if let Some(value) = fields["commission"].get(field) {
                    assert_eq!(shown["commission"][field], *value, "{example}");
                }
            }
            for (field, value) in [("upline_bps", &fields["upline_bps"]), ("product_rates", &fields["commission"]["products"])] {
                assert!(value.is_null() || shown[field] == *value, "{example}");
            }
        }
    }

    async fn box_58_every_version_is_kept_and_a_conversion_names_its_own(db: TestDb) {
        let first = json!({"commission": {"version": 1, "type": "percentage", "bps": 2000}});
        let site = Site::open(&db.db, first).await;
        let tell = async |order: &str| {
            let (_, answer) = site.report(order, json!({"code": "ann"})).await;
            let path = format!("/v1/admin/commissions/{}/explain", answer["data"]["commission_id"].as_str().unwrap());
            let steps = owner(&site, Method::GET, &path, &Value::Null).await["steps"].take();
            (answer["data"]["earned_minor"].clone(), steps.to_string())
        };
        let (amount, steps) = tell("order_1").await;
        assert_eq!(amount, json!(1_980));
        assert!(steps.contains("version 1"), "{steps}");
        site.api.clock.advance_secs(60);
        let changed = change(&site, json!({"commission": {"type": "percentage", "bps": 1000}})).await;
        assert_eq!(changed["terms_version"], json!(2));
        let (amount, steps) = tell("order_2").await;
        assert_eq!(amount, json!(990));
        assert!(steps.contains("version 2"), "{steps}");
        let (amount, steps) = tell("order_1").await;
        assert!(amount == json!(1_980) && steps.contains("version 1"), "sold under the first: {steps}");
        // The same document again is no new version, and a form that is not known is refused.
        let same = change(&site, json!({"commission": {"type": "percentage", "bps": 1000}})).await;
        assert_eq!(same["terms_version"], json!(2));
        let unknown = json!({"commission": {"version": 2, "type": "percentage", "bps": 1000}});
        let path = format!("{PROGRAMS}/{}", site.program);
        let refusal = site.api.refusal(&site.key, Method::PATCH, &path, &unknown).await;
        assert_eq!(refusal, (400, "INVALID_COMMISSION".to_owned()));
    }

    async fn box_67_what_is_earned_is_held_for_the_days_of_the_program(db: TestDb) {
        for (number, days) in [0, 1, 30].into_iter().enumerate() {
            let site = Site::open_on(Api::new(&db.db).await, &format!("site_{number}"), json!({"hold_period_days": days})).await;
            let shown = owner(&site, Method::GET, &format!("{PROGRAMS}/{}", site.program), &Value::Null).await;
            assert_eq!(shown["hold_period_days"], json!(days));
            site.report("order_1", json!({"code": "ann"})).await;
            assert_eq!(site.balance(&site.ann).await, (1_980, 0));
            // Without a hold it waits for late links all the same (`programs.merge_grace_s`).
            let released = if days == 0 { NOW.plus_secs(900) } else { NOW.plus_days(days) };
            pass(&site, released.plus_secs(-1)).await;
            assert_eq!(site.balance(&site.ann).await, (1_980, 0), "{days}");
            pass(&site, released).await;
            assert_eq!(site.balance(&site.ann).await, (0, 1_980), "{days}");
        }
    }

    async fn box_68_215_a_payout_is_made_over_the_minimum_net_of_the_fee(db: TestDb) {
        let site = Site::open_on(Api::with(&db.db, LIVE).await, "site", json!({})).await;
        may_be_paid(&site).await;
        site.report("order_1", json!({"code": "ann"})).await;
        pass(&site, NOW.plus_secs(900)).await;
        let run = site.path("payouts/run");
        let plan = async || {
            let (status, answer) = site.api.call(&site.api.operator, Method::POST, &run, &json!({"dry_run": true})).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            answer["data"].clone()
        };
        for (bps, fee) in [(0, 0), (500, 99), (10_000, 1_980)] {
            assert_eq!(change(&site, json!({"platform_fee_bps": bps})).await["platform_fee_bps"], json!(bps));
            let found = plan().await;
            if fee == 1_980 {
                assert_eq!(found["skipped"][0]["reason"], json!("fee_takes_all"));
            } else {
                let paid = &found["payouts"][0];
                assert_eq!((&paid["due"], &paid["fee"], &paid["send"]), (&json!(1_980), &json!(fee), &json!(1_980 - fee)));
            }
        }
        // Meeting the minimum pays; the fee is taken after it was asked.
        change(&site, json!({"platform_fee_bps": 500})).await;
        for (minimum, reason) in [(1_980, None), (1_981, Some("below_min_payout"))] {
            change(&site, json!({"min_payout": {"usd": minimum}})).await;
            let found = plan().await;
            assert_eq!(found["skipped"][0]["reason"].as_str(), reason, "{minimum}: {found}");
            assert_eq!(found["payouts"].as_array().unwrap().len(), usize::from(reason.is_none()));
        }
    }

    async fn box_69_a_program_earns_nobody_anything_before_it_is_active(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let draft = json!({"name": "Draft", "commission": {"type": "percentage", "bps": 2000}, "hold_period_days": 0});
        let program = site.api.create(&site.key, PROGRAMS, draft).await;
        assert_eq!(program["status"], json!("draft"));
        let program = id_of(&program);
        let eve = site.enroll(&program, "eve").await;
        let path = format!("{PROGRAMS}/{program}");
        let report = site.order("order_1", json!({"code": "eve"}));
        let told = async || site.api.call(&site.key, Method::POST, &format!("{path}/conversions"), &report).await;
        let (_, answer) = told().await;
        assert!(answer["data"].is_null(), "{answer}");
        let active = owner(&site, Method::PATCH, &path, &json!({"status": "active"})).await;
        assert_eq!(active["status"], json!("active"));
        site.settle().await;
        let (status, answer) = told().await;
        assert_eq!((status, &answer["data"]["enrollment_id"]), (StatusCode::CREATED, &json!(eve)), "{answer}");
        assert_eq!(answer["data"]["earned_minor"], json!(1_980), "what was sold before the launch counts");
    }

    async fn box_70_71_216_a_schedule_settles_unattended(db: TestDb) {
        // A Monday and a first day of a month after 2025-06-15, the day of the sales.
        let ends = [("weekly", 1_750_032_000), ("monthly", 1_751_328_000)];
        for (schedule, end_s) in ends {
            let site = Site::open_on(Api::with(&db.db, LIVE).await, schedule, json!({})).await;
            may_be_paid(&site).await;
            assert_eq!(change(&site, json!({"payout_schedule": schedule})).await["payout_schedule"], json!(schedule));
            site.report("order_1", json!({"code": "ann"})).await;
            pass(&site, Timestamp::from_secs(end_s).plus_secs(-1)).await;
            assert_eq!(site.balance(&site.ann).await, (0, 1_980));
            assert_eq!(owner(&site, Method::GET, &site.path("payouts"), &Value::Null).await, json!([]));
            pass(&site, Timestamp::from_secs(end_s)).await;
            let payouts = owner(&site, Method::GET, &site.path("payouts"), &Value::Null).await;
            assert_eq!((&payouts[0]["due"], &payouts[0]["destination"]), (&json!(1_980), &json!("acct_ann")), "{schedule}");
            assert_eq!(site.balance(&site.ann).await, (0, 0), "it is on its way");
            assert_eq!(change(&site, json!({"payout_schedule": null})).await["payout_schedule"], Value::Null);
        }
        books::assert_they_add_up(&db.db).await;
    }

    async fn box_73_74_75_an_enrollment_names_the_affiliate_its_code_and_its_sponsor(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let (cat, _) = site.api.tenant("cat").await;
        let body = json!({"affiliate_org_id": cat, "parent_enrollment_id": site.ann});
        let made = site.api.create(&site.key, &site.path("enrollments"), body).await;
        assert_eq!((&made["affiliate_org_id"], &made["parent_enrollment_id"]), (&json!(cat), &json!(site.ann)));
        assert_eq!((&made["program_id"], &made["status"]), (&json!(site.program), &json!("active")));
        let code = made["code"].as_str().unwrap();
        assert!(code.starts_with("aff_"), "{code}");
        let (status, answer) = site.report("order_1", json!({"code": code})).await;
        assert_eq!((status, &answer["data"]["enrollment_id"]), (StatusCode::CREATED, &made["id"]), "{answer}");
    }

    async fn box_213_what_was_paid_and_taken_back_is_netted_from_the_next_payout(db: TestDb) {
        let bank = Bank::open(&db).await;
        let desk = Desk::over(&bank.shop).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        bank.dispatch().await;
        bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
        let conversion = id_of(&desk.data(&desk.owner, &format!("{}/conversions", desk.program)).await[0]);
        let path = format!("{}/conversions/{conversion}/clawback", desk.program);
        let taken = desk.api.create(&desk.owner, &path, json!({"reason": "refund", "amount_cents": 500})).await;
        assert_eq!((&taken["status"], &taken["clawed_minor"]), (&json!("paid"), &json!(500)), "paid stays paid");
        let own = desk.data(&desk.ada, "/v1/affiliate/me/balance").await;
        assert_eq!((&own[0]["debt_cents"], &own[0]["payable_cents"]), (&json!(500), &json!(0)));
        // 20.00 more are earned, and 15.00 are paid of them.
        earn(&bank, "ada", "y", 10_000).await;
        bank.settle().await;
        bank.dispatch().await;
        bank.assert_balance("ada", [0, 0, 0, 3_500]).await;
        let sent = bank.effects("transfer.created").await;
        assert_eq!(sent.iter().map(|transfer| transfer["amount"].clone()).collect::<Vec<_>>(), [2_000, 1_500]);
        books::assert_they_add_up(&db.db).await;
    }

    async fn box_218_sponsors_earn_only_where_program_and_platform_both_allow(db: TestDb) {
        for (number, (platform, program, upline)) in
            [(false, false, 0), (false, true, 0), (true, false, 0), (true, true, 198)].into_iter().enumerate()
        {
            let settings = [("REMIT_PROGRAMS__MULTI_LEVEL", if platform { "true" } else { "false" })];
            let api = Api::with(&db.db, &settings).await;
            // The sponsor gets 10 % of the affiliate's 19.80.
            let fields = json!({"upline_bps": if program { vec![1_000] } else { Vec::new() }});
            let site = Site::open_on(api, &format!("site_{number}"), fields).await;
            let sponsored = site.path(&format!("enrollments/{}", site.bob));
            owner(&site, Method::PATCH, &sponsored, &json!({"parent_enrollment_id": site.ann})).await;
            site.api.clock.advance_secs(60);
            site.report("order_1", json!({"code": "bob"})).await;
            let earned = (site.balance(&site.bob).await, site.balance(&site.ann).await);
            assert_eq!(earned, ((1_980, 0), (upline, 0)), "platform {platform}, program {program}");
        }
        books::assert_they_add_up(&db.db).await;
    }
}
