//! The independent auditor: it finds every bug that is put in front of it, and nothing wrong with books
//! that the program has kept.

#[expect(dead_code, reason = "nothing fails here")]
#[path = "../crash/traffic.rs"]
mod traffic;

use std::path::Path;

use remit::{
    app::{
        demo::Demo,
        replay::{self, Request},
    },
    clock::Clock as _,
    domain::time::Timestamp,
};
use secrecy::SecretString;

use self::traffic::{Rng, arriving, stories};
use super::{
    scenario_format, scenarios,
    support::{
        self, TestDb,
        api::Api,
        auditor::{Audit, Delivered, TrafficJournal, auditor, python},
        on_each_engine,
        shop::{GRACE_S, PAID_AT_S, Shop},
    },
};

#[test]
fn every_seeded_bug_is_found_under_its_own_name() {
    let Some(python) = python() else { return };
    let output =
        auditor(python).args(["-m", "unittest", "discover", "-s", "auditor", "-t", "."]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

on_each_engine! {
    async fn a_shop_after_much_traffic_has_nothing_wrong(db: TestDb) {
        const SEED: u64 = 11;
        println!("seed {SEED}");
        let shop = Shop::open(&db.db, 64).await;
        let home = tempfile::tempdir().unwrap();
        let mut journal = TrafficJournal::create(home.path().join("traffic.ndjson"));
        let mut rng = Rng::new(SEED);
        let events = stories("audited", 60, &mut rng);
        for event in arriving(&events, &mut rng) {
            let body = event.to_string().into_bytes();
            shop.deliver_bytes("a", &body).await;
            let delivered = Delivered {
                provider: "stripe",
                endpoint: &shop.owner.endpoint("a"),
                account: "",
                livemode: false,
                event_id: event["id"].as_str().unwrap(),
                body: &body,
            };
            journal.add(&delivered, Some(200));
        }
        shop.node.process_all().await;
        shop.pass_grace().await;

        let now = Timestamp::from_secs(PAID_AT_S + GRACE_S);
        let audit = Audit { url: db.url(), sandbox: None, traffic: Some(journal.path()), now };
        let Some(report) = audit.assert_clean() else { return };
        assert_eq!((report.model.sales, report.model.compared), (60, 60));
        assert!(!report.unchecked.iter().any(|what| what.starts_with("I1 ")), "{:?}", report.unchecked);

        // The same books with one cent more on one side are wrong, so there was something to find.
        let mut tx = db.db.begin().await.unwrap();
        tx.q("UPDATE balance SET debit_minor = debit_minor + 1 WHERE account = 'expense'").exec().await.unwrap();
        tx.q("DELETE FROM sale_event").exec().await.unwrap();
        tx.q("DELETE FROM inbox WHERE provider_event_id = 'evt_intent_audited0'").exec().await.unwrap();
        tx.commit().await.unwrap();
        let broken = audit.report().unwrap();
        assert!(broken.broken().is_superset(&["I1", "I4"].into()), "{}", broken.text());
    }

    async fn the_stories_of_the_fixtures_leave_nothing_wrong(db: TestDb) {
        scenarios::run_all(&db, scenarios::PLAIN).await;
        let phases = scenario_format::load_all().into_iter().flat_map(|scenario| scenario.phases);
        let now = phases.map(|phase| phase.as_of).max().unwrap();
        let audit = Audit { url: db.url(), sandbox: None, traffic: None, now };
        let Some(report) = audit.assert_clean() else { return };
        assert!(report.model.compared >= 78, "{report:?}");
    }

    async fn the_replayed_fixtures_have_nothing_wrong(db: TestDb) {
        let api = Api::with(&db.db, &[
            ("REMIT_PROGRAMS__MERGE_GRACE_S", "0"),
            ("REMIT_SECRETS__MASTER_KEY", support::api::MASTER_KEY),
        ]).await;
        Demo::prepare(&api.app, &SecretString::from("whsec_of_the_tests")).await.unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let paths = ["stripe", "paddle"].map(|provider| fixtures.join(provider)).to_vec();
        let request = Request { paths, endpoint: None, dry_run: false };
        let files = replay::list_files(&request.paths).unwrap();
        let report = replay::replay(&api.app, &request, &files, || {}).await.unwrap();
        assert_eq!(serde_json::to_value(&report).unwrap()["failed"], 0);

        let audit = Audit { url: db.url(), sandbox: None, traffic: None, now: api.clock.now() };
        let Some(report) = audit.assert_clean() else { return };
        assert!(report.model.compared > 0, "{report:?}");
    }
}
