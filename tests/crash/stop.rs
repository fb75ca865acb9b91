//! Polite stops: the first SIGTERM drains and exits 0, the second ends the process at once, and neither
//! loses what was answered.

use std::time::Duration;

use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    harness::on_each_engine,
    program::PATIENCE,
    run::Run,
    support::TestDb,
    traffic::{Rng, arriving, stories},
};

pub fn tests() -> Vec<Trial> {
    on_each_engine!(
        a_stop_under_load_exits_0_and_loses_nothing,
        a_second_signal_ends_a_stop_that_takes_too_long
    )
    .into()
}

async fn a_stop_under_load_exits_0_and_loses_nothing(db: TestDb) {
    let run = Run::on(db).await;
    let mut rng = Rng::new(5);
    let events = stories("drained", 16, &mut rng);
    let mut node = run.program.serve().await;
    run.provider.send_to(&[&node.base]);
    let ((), successor) = tokio::join!(run.provider.deliver(arriving(&events, &mut rng)), async {
        run.provider.answers(20).await;
        node.terminate();
        let status = node.ended().await;
        assert_eq!(status.code(), Some(0), "{}", node.log());
        run.check_inbox().await;
        let successor = run.program.serve().await;
        run.provider.send_to(&[&successor.base]);
        successor
    });
    run.tell_reference(&events).await;
    run.check(&successor, 0).await;
}

async fn a_second_signal_ends_a_stop_that_takes_too_long(db: TestDb) {
    let run = Run::on(db).await;
    let mut rng = Rng::new(6);
    let events = stories("cut", 8, &mut rng);
    let mut node = run.program.serve().await;
    run.provider.send_to(&[&node.base]);
    run.provider.deliver(arriving(&events, &mut rng)).await;
    let _held = hold_a_request(&node.base, run.endpoint()).await;
    node.terminate();
    node.says("finishing what is under way").await;
    node.terminate();
    let status = node.ended().await;
    // 128 + 15, as a shell reports a program that SIGTERM ended.
    assert_eq!(status.code(), Some(143), "{}", node.log());

    let successor = run.program.serve().await;
    run.tell_reference(&events).await;
    run.check(&successor, 0).await;
}

/// Begins a delivery and never ends it, so that a drain has to wait. The node has begun to read it when
/// this returns.
async fn hold_a_request(base: &str, endpoint: &str) -> TcpStream {
    let address = base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /webhooks/stripe/{endpoint} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 100\r\n\
         content-type: application/json\r\nexpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    timeout(PATIENCE.min(Duration::from_secs(20)), stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    stream
}
