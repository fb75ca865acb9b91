//! The transport against servers that cut, delay, redirect, overflow and refuse.
//!
//! The servers are real sockets on this machine. The only waiting is for the deadline under test.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

use std::{
    env,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener as StdListener},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use remit::{
    config::Stripe,
    providers::outbound::{ApiRequest, ApiResponse, Method, Reply},
    transport::{Transport, TransportError},
};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

const KEY: &str = "sk_test_transport";
const VERSION: &str = "2026-07-29.dahlia";
/// Nothing under test may take this long.
const NEVER: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(150);

fn section(api_base: &str) -> Stripe {
    Stripe {
        webhook_secrets: Vec::new(),
        tolerance_s: 300,
        secret_key: Some(SecretString::from(KEY)),
        api_base: api_base.to_owned(),
        timeout: NEVER,
    }
}

fn transport(api_base: &str) -> Transport {
    Transport::new(&section(api_base)).unwrap().unwrap()
}

fn post() -> ApiRequest {
    ApiRequest {
        method: Method::Post,
        path: "/v1/transfers".to_owned(),
        body: b"amount=1800&metadata%5Bintent_id%5D=int_1".to_vec(),
        idempotency_key: Some("remit_test_int_1_g0".to_owned()),
    }
}

fn get(path: &str) -> ApiRequest {
    ApiRequest { method: Method::Get, path: path.to_owned(), body: Vec::new(), idempotency_key: None }
}

/// What a server does once it has written its answer.
#[derive(Clone, Copy)]
enum Then {
    Close,
    Reset,
    /// Holds the connection open until the client closes it, as a server with keep-alive does.
    Hold,
}

/// A server that answers every request with the same bytes.
struct Server {
    address: SocketAddr,
    /// The requests, one for each connection.
    requests: mpsc::UnboundedReceiver<String>,
}

impl Server {
    async fn start(answer: impl Into<Vec<u8>>, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::unbounded_channel();
        let answer = answer.into();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (answer, sender) = (answer.clone(), sender.clone());
                tokio::spawn(async move {
                    sender.send(request_of(&mut client).await).unwrap();
                    // A client that has read enough may be gone already.
                    let _ = client.write_all(&answer).await;
                    match then {
                        Then::Close => {}
                        Then::Reset => client.set_zero_linger().unwrap(),
                        Then::Hold => {
                            let _ = client.read(&mut [0; 1]).await;
                        }
                    }
                });
            }
        });
        Self { address, requests }
    }

    async fn call(&self, request: &ApiRequest, deadline: Duration) -> Reply {
        transport(&format!("http://{}", self.address)).call(request, VERSION, deadline).await
    }

    /// The requests that have arrived so far.
    fn arrived(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.requests.try_recv().ok()).collect()
    }
}

/// Reads one request with its body.
async fn request_of(client: &mut TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let length = client.read(&mut buffer).await.unwrap();
        request.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8(request.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let told = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= told.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        assert!(length > 0, "the request was cut: {text:?}");
    }
}

fn answer(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

async fn response(headers: &str) -> ApiResponse {
    let server = Server::start(answer(headers, "{}"), Then::Hold).await;
    match server.call(&get("/v1/transfers"), NEVER).await {
        Reply::Answered(response) => response,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_post_is_written_exactly_as_it_was_frozen() {
    let mut server = Server::start(answer("", "{}"), Then::Hold).await;
    assert!(matches!(server.call(&post(), NEVER).await, Reply::Answered(_)));
    let requests = server.arrived();
    let [request] = &requests[..] else { panic!("{requests:?}") };
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(body.as_bytes(), post().body);
    let (line, headers) = head.split_once("\r\n").unwrap();
    assert_eq!(line, "POST /v1/transfers HTTP/1.1");
    let mut headers: Vec<&str> = headers.lines().collect();
    headers.sort_unstable();
    let user_agent = format!("user-agent: remit/{}", env!("CARGO_PKG_VERSION"));
    let host = format!("host: {}", server.address);
    assert_eq!(
        headers,
        [
            "accept: */*",
            "authorization: Bearer sk_test_transport",
            "content-length: 41",
            "content-type: application/x-www-form-urlencoded",
            host.as_str(),
            "idempotency-key: remit_test_int_1_g0",
            "stripe-version: 2026-07-29.dahlia",
            user_agent.as_str(),
        ]
    );
}

#[tokio::test]
async fn a_get_carries_its_query_and_neither_key_nor_body() {
    let mut server = Server::start(answer("", "{}"), Then::Hold).await;
    let path = "/v1/transfers?transfer_group=int_1&created%5Bgte%5D=17&limit=100";
    assert!(matches!(server.call(&get(path), NEVER).await, Reply::Answered(_)));
    let requests = server.arrived();
    assert!(requests[0].starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{requests:?}");
    for absent in ["content-", "idempotency-key", "transfer-encoding"] {
        assert!(!requests[0].contains(absent), "{absent} in {requests:?}");
    }
}

#[tokio::test]
async fn a_whole_answer_is_read_with_the_headers_that_steer() {
    let steering = "Request-Id: req_1\r\nIdempotent-Replayed: true\r\nStripe-Should-Retry: false\r\n";
    let full = response(&format!("{steering}Retry-After: 7\r\n")).await;
    let expected = ApiResponse {
        status: 200,
        request_id: Some("req_1".to_owned()),
        replayed: true,
        should_retry: Some(false),
        retry_after_s: Some(7),
        body: b"{}".to_vec(),
    };
    assert_eq!(full, expected);
    let bare = ApiResponse { status: 200, body: b"{}".to_vec(), ..ApiResponse::default() };
    assert_eq!(response("").await, bare);
    for nonsense in ["-1", "1.5", "soon", "", "99999999999999999999", "Wed, 21 Oct 2026 07:28:00 GMT"] {
        let headers = format!(
            "Retry-After: {nonsense}\r\nIdempotent-Replayed: {nonsense}\r\n\
             Stripe-Should-Retry: {nonsense}\r\n"
        );
        assert_eq!(response(&headers).await, bare, "{nonsense}");
    }
    assert_eq!(response("Request-Id: req 1\r\n").await.request_id, None);
}

/// F-P-03.
#[tokio::test]
async fn an_answer_that_is_cut_at_any_byte_is_lost() {
    let body = r#"{"id": "tr_1"}"#;
    let by_length = answer("Request-Id: req_1\r\n", body);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{}\r\n9\r\n{}\r\n0\r\n\r\n",
        &body[..5],
        &body[5..]
    );
    for whole in [by_length, chunked] {
        for (end, then) in (0..whole.len()).flat_map(|end| [(end, Then::Close), (end, Then::Reset)]) {
            let mut server = Server::start(&whole.as_bytes()[..end], then).await;
            assert_eq!(server.call(&post(), NEVER).await, Reply::Lost, "{:?}", &whole[..end]);
            assert_eq!(server.arrived().len(), 1, "sent once, whatever came back");
        }
        let server = Server::start(whole, Then::Close).await;
        let Reply::Answered(answered) = server.call(&post(), NEVER).await else { panic!("a whole answer") };
        assert_eq!(answered.body, body.as_bytes());
    }
}

#[tokio::test]
async fn an_answer_whose_end_cannot_be_told_from_a_cut_is_lost() {
    for head in
        ["HTTP/1.1 200 OK\r\n", "HTTP/1.0 200 OK\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n"]
    {
        let server = Server::start(format!("{head}\r\n{{}}"), Then::Close).await;
        assert_eq!(server.call(&post(), NEVER).await, Reply::Lost, "{head}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_answer_are_lost() {
    for bytes in [
        "SSH-2.0-OpenSSH_9.9\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n{}",
    ] {
        let server = Server::start(bytes, Then::Close).await;
        assert_eq!(server.call(&post(), NEVER).await, Reply::Lost, "{bytes}");
    }
}

/// F-P-20.
#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let mut elsewhere = Server::start(answer("", "{}"), Then::Hold).await;
        let redirect = format!(
            "HTTP/1.1 {status} Elsewhere\r\nlocation: http://{}/v1/transfers\r\ncontent-length: 0\r\n\r\n",
            elsewhere.address
        );
        let mut server = Server::start(redirect, Then::Hold).await;
        let Reply::Answered(answered) = server.call(&post(), NEVER).await else { panic!("{status}") };
        assert_eq!((answered.status, answered.body.len()), (status, 0));
        assert_eq!((server.arrived().len(), elsewhere.arrived().len()), (1, 0));
    }
}

/// F-P-20.
#[tokio::test]
async fn every_call_has_a_connection_of_its_own() {
    let mut server = Server::start(answer("", "{}"), Then::Hold).await;
    let transport = transport(&format!("http://{}", server.address));
    for _ in 0..3 {
        assert!(matches!(transport.call(&post(), VERSION, NEVER).await, Reply::Answered(_)));
    }
    // The server reads one request from each connection: a second one there would never be answered.
    assert_eq!(server.arrived().len(), 3);
}

/// F-P-01.
#[tokio::test]
async fn an_answer_that_is_not_whole_at_the_deadline_is_lost() {
    for part in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{"] {
        let mut server = Server::start(part, Then::Hold).await;
        assert_eq!(server.call(&post(), SHORT).await, Reply::Lost, "{part:?}");
        assert_eq!(server.arrived().len(), 1);
    }
}

/// F-P-15.
#[tokio::test]
async fn a_call_whose_deadline_is_over_is_not_made() {
    let mut server = Server::start(answer("", "{}"), Then::Hold).await;
    assert_eq!(server.call(&post(), Duration::ZERO).await, Reply::NotSent);
    assert!(server.arrived().is_empty());
}

#[tokio::test]
async fn an_answer_of_more_than_a_mebibyte_is_lost() {
    let body = "x".repeat(1 << 20);
    let server = Server::start(answer("", &body), Then::Hold).await;
    let Reply::Answered(largest) = server.call(&post(), NEVER).await else { panic!("it fits") };
    assert_eq!(largest.body.len(), body.len());

    let too_long = body + "x";
    let server = Server::start(answer("", &too_long), Then::Hold).await;
    assert_eq!(server.call(&post(), NEVER).await, Reply::Lost);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{too_long}\r\n0\r\n\r\n",
        too_long.len()
    );
    let server = Server::start(chunked, Then::Hold).await;
    assert_eq!(server.call(&post(), NEVER).await, Reply::Lost);
}

#[tokio::test]
async fn a_connection_that_is_refused_carried_nothing() {
    // The port was free a moment ago, and nobody else binds to this address.
    let address = StdListener::bind("127.0.0.99:0").unwrap().local_addr().unwrap();
    let transport = transport(&format!("http://{address}"));
    assert_eq!(transport.call(&post(), VERSION, NEVER).await, Reply::NotSent);
}

/// F-P-21. The name can never exist (RFC 6761).
#[tokio::test]
async fn a_name_that_does_not_resolve_was_sent_nothing() {
    let transport = transport("http://provider.invalid");
    assert_eq!(transport.call(&post(), VERSION, NEVER).await, Reply::NotSent);
}

/// F-P-21.
#[tokio::test]
async fn a_server_that_cannot_prove_its_name_is_sent_nothing() {
    // Its certificate is signed by itself; the second one is out of date as well.
    for (from, to) in [("250101000000Z", "490101000000Z"), ("200101000000Z", "210101000000Z")] {
        let (address, received, _) = tls_server(from, to);
        let transport = transport(&format!("https://localhost:{}", address.port()));
        assert_eq!(transport.call(&post(), VERSION, NEVER).await, Reply::NotSent);
        let received = received.join().unwrap();
        assert_eq!(received, "", "a request went to a server that nobody vouches for");
    }
    // It is its certificate alone that was wrong: who trusts that, sends.
    let (address, received, certificate) = tls_server("250101000000Z", "490101000000Z");
    let trusting = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_der(&certificate).unwrap()])
        .timeout(SHORT)
        .build()
        .unwrap();
    trusting.get(format!("https://localhost:{}/v1", address.port())).send().await.unwrap_err();
    // The client's connection is closed by a task of this runtime, so waiting must not block it.
    let received = tokio::task::spawn_blocking(|| received.join().unwrap()).await.unwrap();
    assert!(received.starts_with("GET /v1 HTTP/1.1"), "{received:?}");
}

/// F-P-21.
#[tokio::test]
async fn a_server_that_speaks_no_tls_is_sent_nothing() {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let received = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut bytes = vec![0; 4096];
        let length = client.read(&mut bytes).unwrap();
        client.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").unwrap();
        bytes.truncate(length);
        // Whatever else comes until the client gives up. It may do so with a reset.
        let _ = client.read_to_end(&mut bytes);
        bytes
    });
    let transport = transport(&format!("https://{address}"));
    assert_eq!(transport.call(&post(), VERSION, NEVER).await, Reply::NotSent);
    let received = received.join().unwrap();
    assert!(!received.windows(4).any(|bytes| bytes == b"POST" || bytes == b"Bear"));
}

#[tokio::test]
async fn a_path_that_would_lead_elsewhere_is_not_sent() {
    let mut server = Server::start(answer("", "{}"), Then::Hold).await;
    for path in [
        "",
        "v1/transfers",
        "@127.0.0.2/v1",
        ":1/v1",
        "/v1/../v2",
        "/v1/%2E%2E",
        "/v1/a b",
        "/v1#x",
        "/v1\\x",
    ] {
        assert_eq!(server.call(&get(path), NEVER).await, Reply::NotSent, "{path}");
    }
    let unwritable = ApiRequest { idempotency_key: Some("a\r\nb".to_owned()), ..post() };
    assert_eq!(server.call(&unwritable, NEVER).await, Reply::NotSent);
    assert!(server.arrived().is_empty());
}

#[test]
fn without_a_key_there_is_no_transport_and_with_one_nothing_shows_it() {
    let keyless = Stripe { secret_key: None, ..section("http://127.0.0.1:1") };
    assert!(Transport::new(&keyless).unwrap().is_none());
    let broken =
        Stripe { secret_key: Some(SecretString::from("sk_test_\n")), ..section("http://127.0.0.1:1") };
    let error = Transport::new(&broken).unwrap_err();
    assert!(matches!(error, TransportError::Key) && !error.to_string().contains("sk_test_"));
    let shown = format!("{:?}", transport("https://127.0.0.1:1"));
    assert!(!shown.contains(KEY), "{shown}");
}

/// Runs a test of this file again, in a process of its own whose environment names a proxy.
#[test]
fn a_proxy_of_the_environment_is_not_asked() {
    let mut again = Command::new(env::current_exe().unwrap());
    again.args(["--exact", "a_post_is_written_exactly_as_it_was_frozen"]);
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        // Nobody listens there, so that asking it would fail.
        again.env(name, "http://127.0.0.99:9");
    }
    let output = again.env_remove("NO_PROXY").env_remove("no_proxy").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

/// A server with a certificate for `localhost` that it signed itself, valid `from` and `to` these times
/// (ASN.1 `UTCTime`), and that certificate. It gives what one client sends after the handshake.
fn tls_server(from: &str, to: &str) -> (SocketAddr, thread::JoinHandle<String>, Vec<u8>) {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec()));
    let certificate = certificate(&pair, from, to);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone().into()], private)
        .unwrap();
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let received = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut received = String::new();
        // The client breaks the handshake off.
        let _ = rustls::Stream::new(&mut connection, &mut client).read_to_string(&mut received);
        received
    });
    (address, received, certificate)
}

/// An X.509 certificate in DER (RFC 5280, RFC 8410).
fn certificate(pair: &Ed25519KeyPair, from: &str, to: &str) -> Vec<u8> {
    const INTEGER: u8 = 0x02;
    const BIT_STRING: u8 = 0x03;
    const OCTET_STRING: u8 = 0x04;
    const UTC_TIME: u8 = 0x17;
    const SEQUENCE: u8 = 0x30;
    const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
    const SUBJECT_ALT_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];
    let element = |tag: u8, parts: &[&[u8]]| {
        let content = parts.concat();
        // The shortest form that holds the length, as DER wants it.
        let length = match u16::try_from(content.len()).unwrap().to_be_bytes() {
            [0, low @ ..0x80] => vec![low],
            [0, low] => vec![0x81, low],
            [high, low] => vec![0x82, high, low],
        };
        [&[tag], &length[..], &content].concat()
    };
    let algorithm = element(SEQUENCE, &[ED25519]);
    let bits = |bytes: &[u8]| element(BIT_STRING, &[&[0], bytes]);
    let nobody = element(SEQUENCE, &[]);
    let validity =
        element(SEQUENCE, &[&element(UTC_TIME, &[from.as_bytes()]), &element(UTC_TIME, &[to.as_bytes()])]);
    let key = element(SEQUENCE, &[&algorithm, &bits(pair.public_key().as_ref())]);
    let names = element(SEQUENCE, &[&element(0x82, &[b"localhost"])]);
    let extension = element(SEQUENCE, &[SUBJECT_ALT_NAME, &element(OCTET_STRING, &[&names])]);
    let extensions = element(0xa3, &[&element(SEQUENCE, &[&extension])]);
    let version = element(0xa0, &[&element(INTEGER, &[&[2]])]);
    let serial = element(INTEGER, &[&[1]]);
    let signed =
        element(SEQUENCE, &[&version, &serial, &algorithm, &nobody, &validity, &nobody, &key, &extensions]);
    let signature = bits(pair.sign(&signed).as_ref());
    element(SEQUENCE, &[&signed, &algorithm, &signature])
}
