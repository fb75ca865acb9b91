//! From bytes to inbox rows on a real database: every byte kept, every key its own row, and clients
//! that vanish leave nothing behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use http_body_util::BodyExt as _;
use remit::{
    app::{
        endpoints::EndpointCache,
        receive::{self, Endpoint},
    },
    domain::{
        ids::{EndpointId, ProjectId},
        time::Timestamp,
    },
    http::serve::{Limits, serve},
    providers::EventHead,
    store::{
        Db, DbOptions, Sql, StoreError,
        inbox::{self, EventSource, Inserted, NewEvent},
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::support::{
    TestDb,
    api::Api,
    event_store::{self, MAX_BODY_BYTES},
    on_each_engine,
    proxy::GatedProxy,
    shop::{self, PAID_AT_S, Shop},
};

/// An event as the receiver makes it, of this key and body.
fn event(endpoint: &str, account: &str, livemode: bool, id: &str, body: &[u8]) -> NewEvent {
    let endpoint = Endpoint {
        id: EndpointId::parse(endpoint).unwrap(),
        project_id: ProjectId::parse("proj_default").unwrap(),
        provider: "stripe",
        livemode,
        secrets: Vec::new(),
    };
    let head = EventHead {
        event_id: id.to_owned(),
        event_type: "charge.succeeded".to_owned(),
        livemode: Some(livemode),
        account: Some(account.to_owned()),
        created_at: None,
        thin: false,
    };
    let now = Timestamp::from_secs(PAID_AT_S);
    receive::new_event(&endpoint, head, body.to_vec(), EventSource::Webhook, now).unwrap()
}

async fn insert(db: &Db, events: &[NewEvent]) -> Vec<Inserted> {
    let mut tx = db.begin().await.unwrap();
    let inserted = inbox::insert_batch(&mut tx, events).await.unwrap();
    tx.commit().await.unwrap();
    inserted
}

/// Every stored body by the provider's id of its event.
async fn bodies(db: &Db) -> BTreeMap<String, Vec<u8>> {
    let rows = inbox::export(&mut db.read().await.unwrap(), "", 100_000).await.unwrap();
    rows.into_iter().map(|row| (row.provider_event_id, row.body)).collect()
}

async fn findings(db: &Db) -> Vec<(String, String)> {
    const SQL: &str = "SELECT kind, severity FROM finding";
    db.read().await.unwrap().q(SQL).all().await.unwrap()
}

/// A small signed event.
fn small(id: &str) -> Vec<u8> {
    shop::stripe(id, "charge.failed", &json!({})).to_string().into_bytes()
}

async fn post(routes: &Router, body: Vec<u8>) -> (StatusCode, Value) {
    let request = Request::post("/webhooks/stripe")
        .header("stripe-signature", event_store::signature(&body))
        .body(Body::from(body))
        .unwrap();
    let response = routes.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

on_each_engine! {
    async fn an_id_that_comes_again_with_another_body_keeps_the_first_and_tells(db: TestDb) {
        let first = event("ep_a", "", false, "evt_1", b"first");
        let other = event("ep_a", "", false, "evt_1", b"other");
        assert_eq!(insert(&db.db, std::slice::from_ref(&first)).await, [Inserted::New]);
        assert_eq!(insert(&db.db, &[first]).await, [Inserted::Duplicate]);
        assert_eq!(findings(&db.db).await, []);
        for _ in 0..2 {
            let again = insert(&db.db, std::slice::from_ref(&other)).await;
            assert_eq!(again, [Inserted::DuplicateOtherBody]);
        }
        assert_eq!(bodies(&db.db).await["evt_1"], b"first");
        assert_eq!(findings(&db.db).await, [("event_body_changed".to_owned(), "critical".to_owned())]);
    }

    async fn a_row_that_the_database_did_not_keep_is_never_acknowledged(db: TestDb) {
        const SKIP: Sql = Sql {
            sqlite: "CREATE TRIGGER skip BEFORE INSERT ON inbox WHEN NEW.provider_event_id = 'evt_2'
                     BEGIN SELECT RAISE(IGNORE); END",
            postgres: "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                       IF NEW.provider_event_id = 'evt_2' THEN RETURN NULL; END IF; RETURN NEW; END $$",
        };
        const ARM: Sql = Sql {
            sqlite: "SELECT 1",
            postgres: "CREATE TRIGGER skip BEFORE INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION skip()",
        };
        let mut tx = db.db.begin().await.unwrap();
        tx.q(SKIP).exec().await.unwrap();
        tx.q(ARM).exec().await.unwrap();
        tx.commit().await.unwrap();

        let events = ["evt_1", "evt_2"].map(|id| event("ep_a", "", false, id, b"{}"));
        let mut tx = db.db.begin().await.unwrap();
        let refused = inbox::insert_batch(&mut tx, &events).await.unwrap_err();
        assert!(matches!(refused, StoreError::RowsAffected { expected: 2, actual: 1 }), "{refused}");
        tx.rollback().await.unwrap();
        assert_eq!(insert(&db.db, &events[..1]).await, [Inserted::New]);
    }

    async fn an_id_of_the_provider_names_every_event_that_carries_it_and_ours_names_one(db: TestDb) {
        let events = ["ep_a", "ep_b"].map(|endpoint| event(endpoint, "", false, "evt_1", b"{}"));
        insert(&db.db, &events).await;
        insert(&db.db, &[event("ep_a", "", false, "evt_2", b"{}")]).await;
        let mut conn = db.db.read().await.unwrap();
        let mut endpoints: Vec<String> =
            inbox::list_named(&mut conn, "evt_1").await.unwrap().into_iter().map(|row| row.endpoint_id).collect();
        endpoints.sort();
        assert_eq!(endpoints, ["ep_a", "ep_b"]);
        assert!(inbox::list_named(&mut conn, "evt_3").await.unwrap().is_empty());
        assert!(inbox::find(&mut conn, "evt_1").await.unwrap().is_none());
        for event in &events {
            let id = event.id.as_str();
            let [named] = inbox::list_named(&mut conn, id).await.unwrap().try_into().unwrap();
            assert_eq!(named.id, id);
            assert_eq!(inbox::find(&mut conn, id).await.unwrap().unwrap().id, id);
            assert_eq!(inbox::find_by_key(&mut conn, event.key()).await.unwrap().unwrap().id, id);
        }
    }

    async fn a_made_up_endpoint_costs_one_look_and_is_forgotten_soon(db: TestDb) {
        let api = Api::new(&db.another_node(&DbOptions::default()).await).await;
        let cache = EndpointCache::default();
        let ids = ["ep_made_up", "ep_other"].map(|id| EndpointId::parse(id).unwrap());
        assert!(cache.find(&api.app, "stripe", &ids[0]).await.unwrap().is_none());
        api.app.db.close().await;
        assert!(cache.find(&api.app, "stripe", &ids[0]).await.unwrap().is_none());
        assert!(cache.find(&api.app, "paddle", &ids[0]).await.is_err(), "nobody has looked for Paddle");
        assert!(cache.find(&api.app, "stripe", &ids[1]).await.is_err());
        api.clock.advance_secs(2);
        assert!(cache.find(&api.app, "stripe", &ids[0]).await.is_err());
    }

    async fn over_http_a_changed_body_is_a_duplicate_and_the_first_is_kept(db: TestDb) {
        let tasks = TaskTracker::new();
        let routes = event_store::webhooks(db.db.clone(), &tasks);
        let answer = |duplicate: bool| (StatusCode::OK, json!({ "received": true, "duplicate": duplicate }));
        let mut changed = shop::charge("x", 1_000, None);
        let first = changed.to_string().into_bytes();
        assert_eq!(post(&routes, first.clone()).await, answer(false));
        assert_eq!(post(&routes, first.clone()).await, answer(true));
        changed["data"]["object"]["amount_captured"] = json!(9_000_000);
        assert_eq!(post(&routes, changed.to_string().into_bytes()).await, answer(true));

        assert_eq!(bodies(&db.db).await["evt_charge_x"], first);
        assert_eq!(findings(&db.db).await, [("event_body_changed".to_owned(), "critical".to_owned())]);
    }

    async fn one_id_at_other_endpoints_accounts_and_modes_is_another_event(db: TestDb) {
        let events = [
            event("ep_a", "", false, "evt_1", b"1"),
            event("ep_b", "", false, "evt_1", b"2"),
            event("ep_a", "acct_1", false, "evt_1", b"3"),
            event("ep_a", "acct_2", false, "evt_1", b"4"),
            event("ep_a", "", true, "evt_1", b"5"),
            event("ep_a", "", false, "EVT_1", b"6"),
        ];
        assert_eq!(insert(&db.db, &events).await, [Inserted::New; 6]);
        assert_eq!(insert(&db.db, &events).await, [Inserted::Duplicate; 6]);
        let stored = inbox::export(&mut db.db.read().await.unwrap(), "", 100).await.unwrap();
        let mut kept: Vec<Vec<u8>> = stored.into_iter().map(|row| row.body).collect();
        kept.sort();
        assert_eq!(kept, [b"1", b"2", b"3", b"4", b"5", b"6"]);
    }

    async fn duplicates_within_one_batch_are_told_apart(db: TestDb) {
        insert(&db.db, &[event("ep_a", "", false, "evt_old", b"old")]).await;
        let batch = [
            event("ep_a", "", false, "evt_1", b"one"),
            event("ep_a", "", false, "evt_1", b"one"),
            event("ep_a", "", false, "evt_1", b"another"),
            event("ep_a", "", false, "evt_old", b"old"),
            event("ep_a", "", false, "evt_2", b"two"),
        ];
        let expected = [
            Inserted::New,
            Inserted::Duplicate,
            Inserted::DuplicateOtherBody,
            Inserted::Duplicate,
            Inserted::New,
        ];
        assert_eq!(insert(&db.db, &batch).await, expected);
        let kept: Vec<Vec<u8>> = bodies(&db.db).await.into_values().collect();
        assert_eq!(kept, [b"one".to_vec(), b"two".to_vec(), b"old".to_vec()]);
    }

    async fn any_bytes_come_back_as_they_were_signed(db: TestDb) {
        let every_byte: Vec<u8> = (0..=255).collect();
        let odd: [&[u8]; 6] =
            [b"", b"\0", &every_byte, b"\\x00\\\\", "größer 💶 \u{202e}".as_bytes(), b"\xff\xfe\0\0"];
        let events: Vec<NewEvent> = odd
            .iter()
            .enumerate()
            .map(|(number, body)| event("ep_a", "", false, &format!("evt_{number}"), body))
            .collect();
        assert_eq!(insert(&db.db, &events).await, [Inserted::New; 6]);
        let stored: Vec<Vec<u8>> = bodies(&db.db).await.into_values().collect();
        assert_eq!(stored, odd.map(<[u8]>::to_vec));
    }

    async fn the_largest_body_is_kept_byte_for_byte_and_one_more_byte_is_refused(db: TestDb) {
        let tasks = TaskTracker::new();
        let routes = event_store::webhooks(db.db.clone(), &tasks);
        let mut padded = shop::stripe("large", "charge.failed", &json!({ "pad": "" }));
        let missing = MAX_BODY_BYTES - padded.to_string().len();
        // Escapes and characters of several bytes, so that a change of encoding would show.
        let pad: String = "ä\u{1}\"€".chars().cycle().take(missing / 14).collect();
        padded["data"]["object"]["pad"] = pad.into();
        let mut body = padded.to_string().into_bytes();
        body.resize(MAX_BODY_BYTES, b' ');
        assert_eq!(post(&routes, body.clone()).await.0, StatusCode::OK);
        assert!(bodies(&db.db).await["evt_large"] == body, "the stored body differs");

        body.push(b' ');
        let (status, answer) = post(&routes, body).await;
        assert_eq!((status, &answer["error"]["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("PAYLOAD_TOO_LARGE")));
        assert_eq!(bodies(&db.db).await.len(), 1);
    }

    async fn text_with_a_nul_byte_in_the_body_is_stored_and_processed(db: TestDb) {
        let shop = Shop::open(&db.db, 16).await;
        let mut sale = shop::charge("x", 1_000, None);
        sale["data"]["object"]["metadata"] =
            json!({ "referral_code": "ada", "note": "\u{0}\u{1}", "\u{0}": "key" });
        sale["data"]["object"]["receipt_email"] = json!("\u{0}@example.com");
        let mut hostile = shop::charge("y", 1_000, None);
        hostile["data"]["object"]["metadata"] = json!({ "referral_code": "a\u{0}da" });
        shop.tell_and_process(&[sale, hostile]).await;
        shop.assert_standing("ch_x", "held", [200, 0, 200, 0]).await;
        assert_eq!(shop.event("evt_charge_y").await.0, "applied");
    }
}

/// A server with the webhook routes on a real socket.
struct Server {
    address: SocketAddr,
    draining: CancellationToken,
}

impl Server {
    async fn start(db: Db) -> Self {
        let tasks = TaskTracker::new();
        let routes = event_store::webhooks(db, &tasks);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let draining = CancellationToken::new();
        let patient = Duration::from_secs(30);
        let limits = Limits {
            max_connections: 1_024,
            header_timeout: patient,
            body_timeout: patient,
            write_timeout: patient,
            idle_timeout: patient,
            drain: patient,
        };
        tokio::spawn(serve(listener, routes, limits, draining.clone()));
        Self { address, draining }
    }

    /// Sends a whole webhook.
    async fn send(&self, body: &[u8]) -> TcpStream {
        self.send_to("/webhooks/stripe", body).await
    }

    async fn send_to(&self, path: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: remit\r\nConnection: close\r\nStripe-Signature: {}\r\n\
             Content-Length: {}\r\n\r\n",
            event_store::signature(body),
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        stream
    }
}

/// The status of an answer; none when the connection ended without one.
async fn status(mut stream: TcpStream) -> Option<u16> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    std::str::from_utf8(&answer).ok()?.split(' ').nth(1)?.parse().ok()
}

/// Hundreds of clients that go away while their event is on its way to a database that is slow to
/// answer. A driver that is dropped in the middle of `BEGIN` would leave a transaction open on a pooled
/// connection, and the next user of that connection would find it (`reliability.md` finding 1).
#[tokio::test]
async fn clients_that_vanish_leave_no_transaction_and_no_lost_event() {
    const IDLE: &str = "SELECT COUNT(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    const WAVES: usize = 8;
    const CLIENTS: usize = 50;
    let Some(db) = TestDb::postgres(module_path!()).await else { return };
    let proxy = GatedProxy::start(db.url());
    let options = DbOptions { max_connections: 4, ..DbOptions::default() };
    let server = Arc::new(Server::start(Db::connect(proxy.url(), &options).await.unwrap()).await);
    let mut acknowledged = BTreeSet::new();

    for wave in 0..WAVES {
        // Each wave is caught at another end of the transaction.
        proxy.hold_answers_from(["BEGIN", "COMMIT"][wave % 2]);
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let server = Arc::clone(&server);
            clients.spawn(async move {
                let id = format!("{wave}_{client}");
                (id.clone(), server.send(&small(&id)).await)
            });
        }
        let clients = clients.join_all().await;
        timeout(Duration::from_secs(20), proxy.holds()).await.expect("a transaction under way");
        // Every fifth client waits for its answer, the others hang up.
        let stays = |id: &str| id.ends_with('0') || id.ends_with('5');
        let (staying, leaving): (Vec<_>, Vec<_>) = clients.into_iter().partition(|(id, _)| stays(id));
        drop(leaving);
        // An answer that needs no database: the server has seen the others go before it gave this one.
        assert_eq!(status(server.send_to("/nowhere", b"").await).await, Some(404));
        proxy.release();
        for (id, stream) in staying {
            if status(stream).await == Some(200) {
                acknowledged.insert(format!("evt_{id}"));
            }
        }
    }
    // The next requests are clean, on every connection of the pool.
    for number in 0..12 {
        let id = format!("next_{number}");
        assert_eq!(status(server.send(&small(&id)).await).await, Some(200));
        acknowledged.insert(format!("evt_{id}"));
    }
    server.draining.cancel();

    assert_eq!(acknowledged.len(), WAVES * CLIENTS / 5 + 12, "every client that stayed has its 200");
    let idle: Option<i64> = db.db.read().await.unwrap().q(IDLE).scalar().await.unwrap();
    assert_eq!(idle, Some(0));
    let stored = bodies(&db.db).await;
    for id in acknowledged {
        assert!(stored.contains_key(&id), "{id} was acknowledged and is not there");
    }
}
