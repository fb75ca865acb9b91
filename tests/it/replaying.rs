//! What an archive of stored events and the fixtures come to in an empty database: the same books as where
//! they came from, for reports of the owner's own backend too.

use std::{io::Write as _, path::PathBuf};

use remit::{
    app::{
        archive::Export,
        doctor,
        replay::{self, Report, Request},
    },
    domain::{
        ids::{EndpointId, ProjectId},
        time::Timestamp,
    },
    store::{Db, endpoints, inbox::Inserted},
};
use serde_json::{Value, json};

use super::support::{
    TestDb, books, on_each_engine,
    shop::{GRACE_S, PAID_AT_S, Shop, charge, intent, refund},
};

const DAY_S: i64 = 86_400;

/// A shop whose endpoint `a` is known, so that what an archive says of it can be stored.
async fn open(db: &Db) -> Shop {
    let shop = Shop::open(db, 16).await;
    let endpoint = endpoints::StoredEndpoint {
        id: EndpointId::parse(&shop.owner.endpoint("a")).unwrap(),
        project_id: ProjectId::parse(&shop.owner.project()).unwrap(),
        provider: "stripe".to_owned(),
        livemode: false,
        connect: false,
        created_at: Timestamp::EPOCH,
    };
    let mut tx = db.begin().await.unwrap();
    endpoints::insert(&mut tx, &endpoint, b"sealed").await.unwrap();
    tx.commit().await.unwrap();
    shop
}

/// Another database of the same engine, with the schema and nothing else.
async fn another(db: &TestDb) -> TestDb {
    let another = db.another_empty(module_path!()).await;
    another.db.migrate().await.unwrap();
    another
}

/// Stores a report of an order of 99.00 as the API does.
async fn report(shop: &Shop, order: &str, days: Option<i64>) {
    let body = json!({
        "external_id": order, "code": "ada", "subject_ref": null, "program_id": shop.owner.id("prog_", "fifth"),
        "gross_amount_cents": 9_900, "tax_cents": null, "currency": "usd", "occurred_at": "2026-01-01T00:00:00Z",
        "customer": null, "hold_period_days": days,
    });
    let project = shop.owner.project();
    let told = shop.node.receive_report(&project, &project, body.to_string().as_bytes()).await;
    assert_eq!(told, Inserted::New);
}

/// The provider's payment of 100.00 for an order.
fn paid(order: &str) -> Value {
    let mut event = intent(order, 10_000, None);
    event["data"]["object"]["metadata"] = json!({ "remit_external_id": order });
    event
}

/// Everything that is stored, as a file.
async fn export(shop: &Shop, home: &tempfile::TempDir) -> PathBuf {
    let path = home.path().join("archive.ndjson");
    let mut file = std::fs::File::create(&path).unwrap();
    let mut export = Export::default();
    loop {
        let page = export.next_page(&shop.node.app).await.unwrap();
        if page.is_empty() {
            return path;
        }
        for event in page {
            writeln!(file, "{}", serde_json::to_string(&event).unwrap()).unwrap();
        }
    }
}

async fn replayed(shop: &Shop, path: PathBuf) -> Report {
    let endpoint = path.is_dir().then(|| EndpointId::parse(&shop.owner.endpoint("a")).unwrap());
    let request = Request { paths: vec![path], endpoint, dry_run: false };
    let files = replay::list_files(&request.paths).unwrap();
    let report = replay::replay(&shop.node.app, &request, &files, || {}).await.unwrap();
    assert_eq!(report.errors, []);
    report
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/stripe")
}

/// What each object of a sale leads to: whose, state, amounts and until when it is held. Ids of rows that are
/// made anew are left out.
async fn commissions(db: &Db) -> Vec<(String, String, String, String)> {
    const SQL: &str = "SELECT a.object_id, c.enrollment_id, c.state,
            CAST(c.earned_minor AS TEXT) || ' ' || CAST(c.clawed_minor AS TEXT) || ' ' || CAST(c.held_minor AS TEXT)
                || ' ' || CAST(c.released_minor AS TEXT) || ' ' || COALESCE(CAST(c.due_at_us AS TEXT), '-')
        FROM commission c JOIN sale_alias a ON a.sale_id = c.sale_id ORDER BY 1, 2, 3, 4";
    db.read().await.unwrap().q(SQL).all().await.unwrap()
}

async fn balances(db: &Db) -> Vec<(String, String, String, i64)> {
    const SQL: &str = "SELECT owner_id, account, currency, credit_minor - debit_minor FROM balance
        WHERE credit_minor <> debit_minor ORDER BY 1, 2, 3";
    db.read().await.unwrap().q(SQL).all().await.unwrap()
}

async fn assert_same_books(one: &Shop, other: &Shop, when: &str) {
    let (one, other) = (&one.node.app, &other.node.app);
    assert_eq!(commissions(&one.db).await, commissions(&other.db).await, "{when}");
    assert_eq!(balances(&one.db).await, balances(&other.db).await, "{when}");
    for app in [one, other] {
        books::assert_they_add_up(&app.db).await;
        let found = doctor::examine(app).await.unwrap();
        assert_eq!(found, [], "{when}");
    }
}

on_each_engine! {
    async fn an_archive_with_reported_holds_and_the_fixtures_after_it_rebuild_the_same_books(db: TestDb) {
        let here = open(&db.db).await;
        report(&here, "held", Some(10)).await;
        report(&here, "as_usual", None).await;
        report(&here, "not_at_all", Some(0)).await;
        here.node.process_all().await;
        // The provider tells of the first order as well, before and after the other: its 100.00 win.
        here.tell_and_process(&[paid("held"), paid("other"), refund("part", "held", 2_500)]).await;
        here.tell_and_process(&[charge("held", 10_000, Some("held"))]).await;
        report(&here, "other", Some(3)).await;
        here.node.process_all().await;

        let elsewhere = another(&db).await;
        let there = open(&elsewhere.db).await;
        let home = tempfile::tempdir().unwrap();
        let archive = export(&here, &home).await;
        let first = replayed(&there, archive.clone()).await;
        assert_eq!((first.new, first.duplicate, first.ignored), (8, 0, 0));
        assert_same_books(&here, &there, "after the archive").await;
        // 20 % of 100.00 less a quarter, held for ten days from the payment and not longer.
        let held = Some(("held".to_owned(), 2_000, 500, 1_500, 0));
        assert_eq!(there.standing("pi_held", "ada").await, held);

        // The fixtures on top, in both; and everything once more, which changes nothing.
        let fixtures_here = replayed(&here, fixtures()).await;
        assert!(fixtures_here.new > 10, "{fixtures_here:?}");
        assert_eq!(replayed(&there, fixtures()).await, fixtures_here);
        assert_same_books(&here, &there, "after the fixtures").await;
        let (before, entries) = (balances(&elsewhere.db).await, entries(&elsewhere.db).await);
        let again = replayed(&there, archive).await;
        assert_eq!((again.new, again.duplicate), (0, 8));
        assert_eq!(replayed(&there, fixtures()).await.new, 0);
        assert_eq!((balances(&elsewhere.db).await, self::entries(&elsewhere.db).await), (before, entries));

        // And the other way round: an archive on top of the fixtures comes to the same.
        let third = another(&db).await;
        let last = open(&third.db).await;
        replayed(&last, fixtures()).await;
        replayed(&last, export(&here, &home).await).await;
        assert_same_books(&here, &last, "the fixtures first").await;

        // Time releases the same, to the second: nothing of the first order before its tenth day is over.
        for (after_s, state, held, released) in [
            (GRACE_S, "held", 1_500, 0), (10 * DAY_S - 1, "held", 1_500, 0), (10 * DAY_S, "payable", 0, 1_500),
        ] {
            for shop in [&here, &there, &last] {
                shop.node.pass_time(Timestamp::from_secs(PAID_AT_S + after_s)).await;
                shop.assert_standing("pi_held", state, [2_000, 500, held, released]).await;
            }
            assert_same_books(&here, &there, state).await;
            assert_same_books(&here, &last, state).await;
        }
    }
}

async fn entries(db: &Db) -> i64 {
    books::entries(&mut db.read().await.unwrap()).await
}
