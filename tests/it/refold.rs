//! Work that one event, one approval or the clock starts for many sales: it is bounded, it reaches every
//! sale, and trouble with one of them stops no other.

use remit::{
    app::process::{self, Worked},
    store::Db,
};
use serde_json::{Value, json};

use super::support::{
    TestDb, books,
    shop::{Shop, intent},
};

/// An intent whose metadata names ada's code.
fn referred(id: &str, amount: i64) -> Value {
    let mut event = intent(id, amount, None);
    event["data"]["object"]["metadata"] = json!({ "referral_code": "ada" });
    event
}

/// Lets PostgreSQL fail with each of these codes as soon as the sale of an intent `pi_<code>` is written,
/// as a limit that its batch runs into would.
async fn fail_at(db: &Db, sql: [&'static str; 2]) {
    let mut tx = db.begin().await.unwrap();
    for statement in sql {
        tx.q(statement).exec().await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// Statement timeout, idle in transaction, transaction timeout, out of memory, disk full.
const LIMITS: [&str; 5] = ["57014", "25P03", "25P04", "53200", "53100"];

#[tokio::test]
async fn an_event_that_runs_into_a_limit_of_the_server_delays_no_other() {
    const FAIL: [&str; 2] = [
        "CREATE FUNCTION run_into_limit() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.object_id LIKE 'pi_limit_%' THEN
                 RAISE EXCEPTION 'a limit' USING ERRCODE = substr(NEW.object_id, 10);
             END IF;
             RETURN NEW;
         END $$",
        "CREATE TRIGGER run_into_limit BEFORE INSERT ON payment
             FOR EACH ROW EXECUTE FUNCTION run_into_limit()",
    ];
    let Some(db) = TestDb::postgres(module_path!()).await else { return };
    let shop = Shop::open(&db.db, 512).await;
    fail_at(&db.db, FAIL).await;
    for code in LIMITS {
        shop.tell(&[referred(&format!("before_{code}"), 1_000)]).await;
        shop.tell(&[referred(&format!("limit_{code}"), 1_000)]).await;
    }

    let worked = process::step(&shop.node.app).await.unwrap();

    assert_eq!(worked, Worked { finished: 5, failed: 5, postponed: 0 });
    for code in LIMITS {
        shop.assert_standing(&format!("pi_before_{code}"), "held", [200, 0, 200, 0]).await;
        let (state, reason, attempts, _) = shop.event(&format!("evt_intent_limit_{code}")).await;
        assert_eq!((state.as_str(), attempts), ("received", 1), "{code}");
        assert!(reason.is_some_and(|reason| reason.contains(code)), "{code}");
    }
    shop.node.clock.advance_secs(30 * 86_400);
    while shop.count("received").await > 0 {
        process::step(&shop.node.app).await.unwrap();
        shop.node.clock.advance_secs(30 * 86_400);
    }
    assert_eq!((shop.count("applied").await, shop.count("parked").await), (5, 5));
    books::assert_they_add_up(&db.db).await;
}

#[tokio::test]
async fn a_due_sale_that_runs_into_a_limit_of_the_server_stops_no_other() {
    const FAIL: [&str; 2] = [
        "CREATE FUNCTION run_into_limit() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.amount_minor = 1000 THEN
                 RAISE EXCEPTION 'a limit' USING ERRCODE = '57014';
             END IF;
             RETURN NEW;
         END $$",
        "CREATE TRIGGER run_into_limit BEFORE INSERT ON lot FOR EACH ROW EXECUTE FUNCTION run_into_limit()",
    ];
    let Some(db) = TestDb::postgres(module_path!()).await else { return };
    let shop = Shop::open(&db.db, 512).await;
    shop.tell_and_process(&[referred("a", 1_000), referred("slow", 5_000), referred("b", 1_000)]).await;
    fail_at(&db.db, FAIL).await;

    shop.pass_grace().await;

    for sale in ["pi_a", "pi_b"] {
        shop.assert_standing(sale, "payable", [200, 0, 0, 200]).await;
    }
    shop.assert_standing("pi_slow", "held", [1_000, 0, 1_000, 0]).await;
    let findings: Vec<String> =
        db.db.read().await.unwrap().q("SELECT kind FROM finding").scalars().await.unwrap();
    assert_eq!(findings, ["release_failed"]);
}
