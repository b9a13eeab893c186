//! Interim answers of a service (1xx) on their way to the client.

use testkit::raw::{self, Client};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::Gate;

const HINT: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-own\r\nX-Own: 1\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn start() -> (TcpListener, Gate, Client) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let client = Client::connect(gate.addr).await.unwrap();
    (listener, gate, client)
}

async fn read_head(service: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(service.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn get(path: &str) -> Vec<u8> {
    raw::head("GET", "app.localhost", path, &[], None)
}

async fn expect_hint(client: &mut Client) {
    let hint = client.any_head(false).await.unwrap();
    assert_eq!((hint.status, hint.header("link")), (103, Some("</a.css>; rel=preload")), "{hint:?}");
    assert_eq!((hint.header("connection"), hint.header("x-own")), (None, None), "{hint:?}");
}

#[tokio::test]
async fn early_hints_come_before_the_answer_and_belong_to_their_own_request() {
    let (listener, _gate, mut client) = start().await;
    // The second request is there before the first one has its answer.
    client.send(&[get("/1"), get("/2"), get("/3")].concat()).await.unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    for path in ["/1", "/2"] {
        assert!(read_head(&mut service).await.starts_with(&format!("GET {path} ")));
        for _ in 0..2 {
            service.write_all(HINT).await.unwrap();
            expect_hint(&mut client).await;
        }
        service.write_all(ANSWER).await.unwrap();
        let answer = client.response(false).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str(), answer.interim.len()), (200, "ok", 0));
    }
    // One that comes with its answer is too late to be of use; whether it is passed on or not, the answer is whole.
    read_head(&mut service).await;
    service.write_all(&[HINT, ANSWER].concat()).await.unwrap();
    assert_eq!(client.response(false).await.unwrap().text(), "ok");
    client.send(&get("/4")).await.unwrap();
    read_head(&mut service).await;
    service.write_all(ANSWER).await.unwrap();
    let answer = client.response(false).await.unwrap();
    assert_eq!((answer.text().as_str(), answer.interim.len()), ("ok", 0));
}

#[tokio::test]
async fn early_hints_do_not_get_in_the_way_of_a_client_that_waits_for_100() {
    let (listener, _gate, mut client) = start().await;
    let head = raw::head("POST", "app.localhost", "/", &[("Expect", "100-continue")], Some(5));
    client.send(&head).await.unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    assert!(!read_head(&mut service).await.to_ascii_lowercase().contains("expect"));
    service.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
    service.write_all(HINT).await.unwrap();
    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(client.any_head(false).await.unwrap().status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [100, 103], "100 once, and ours");
    client.send(b"hello").await.unwrap();
    let mut body = [0; 5];
    service.read_exact(&mut body).await.unwrap();
    service.write_all(ANSWER).await.unwrap();
    let answer = client.response(false).await.unwrap();
    assert_eq!((answer.text().as_str(), answer.interim.len()), ("ok", 0));
}

#[tokio::test]
async fn hints_that_are_too_long_and_those_for_http_1_0_are_dropped() {
    let (listener, gate, mut client) = start().await;
    client.send(&get("/")).await.unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    read_head(&mut service).await;
    let long = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(20_000));
    service.write_all(long.as_bytes()).await.unwrap();
    service.write_all(HINT).await.unwrap();
    expect_hint(&mut client).await;
    service.write_all(ANSWER).await.unwrap();
    assert_eq!(client.response(false).await.unwrap().text(), "ok");
    let mut old = TcpStream::connect(gate.addr).await.unwrap();
    old.write_all(b"GET / HTTP/1.0\r\nHost: app.localhost\r\n\r\n").await.unwrap();
    read_head(&mut service).await;
    service.write_all(HINT).await.unwrap();
    service.write_all(ANSWER).await.unwrap();
    let mut answer = String::new();
    old.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 ") || answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.contains("103"), "{answer}");
}
