//! The public listener with a certificate.

use testkit::cert::TestCa;
use testkit::origin::{HttpOrigin, pattern};
use testkit::raw::{self, Client};

use crate::support::{DEADLINE, Publish, Server, curl, eventually};

struct Secure {
    ca: TestCa,
    server: Server,
    _origin: HttpOrigin,
    agent: crate::support::Agent,
}

async fn secure() -> Secure {
    let ca = TestCa::new().expect("an authority");
    let leaf = ca.leaf("public", &["app1.localhost", "app2.localhost", "shop.localhost"]).expect("a certificate");
    let tls = format!("tls: {{ cert: {}, key: {} }}", leaf.cert.display(), leaf.key.display());
    let server = Server::setup().public(&tls).start().await;
    let origin = HttpOrigin::start().await.expect("a local service");
    let agent = Publish::to(&server).http("app1", origin.addr()).start().await;
    Secure { ca, server, _origin: origin, agent }
}

#[tokio::test]
async fn curl_speaks_http_2_by_alpn_and_http_1_if_it_wants() {
    let secure = secure().await;
    assert!(secure.agent.url().starts_with("https://app1.localhost:"), "{}", secure.agent.url());
    let (ca, url) = (secure.ca.path().display().to_string(), format!("{}/head", secure.agent.url()));
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let answer = curl(&["--cacert", &ca, option, &url]).await;
        assert_eq!((answer.exit, answer.status, answer.version.as_str()), (0, 200, version));
        let head = answer.text().to_lowercase();
        assert!(head.contains("x-forwarded-proto: https") && head.contains("proto=https"), "{head}");
    }
}

#[tokio::test]
async fn a_certificate_is_replaced_when_its_files_change_and_connections_stay() {
    let secure = secure().await;
    let client = || secure.ca.client(&["http/1.1"]).expect("a client");
    let mut old = Client::connect_tls(secure.server.public, "app1.localhost", client()).await.unwrap();
    let host = secure.server.host("app1");
    assert_eq!(old.get(&host, "/").await.unwrap().status, 200);
    let leaf = secure.ca.leaf("public", &["app1.localhost", "new.example"]).unwrap();
    eventually(DEADLINE, "the new certificate", || async {
        let stream = raw::tls(secure.server.public, "app1.localhost", client()).await.ok()?;
        let shown = stream.get_ref().1.peer_certificates()?.first()?.clone();
        (shown == leaf.der).then_some(())
    })
    .await;
    assert_eq!(old.get(&host, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_broken_certificate_file_leaves_the_old_one_in_force() {
    let ca = TestCa::new().unwrap();
    let leaf = ca.leaf("public", &["app1.localhost", "app2.localhost", "shop.localhost"]).unwrap();
    let tls = format!("tls: {{ cert: {}, key: {} }}", leaf.cert.display(), leaf.key.display());
    let server = Server::setup().public(&tls).errors_expected().start().await;
    std::fs::write(&leaf.cert, "not a certificate").unwrap();
    server.process().signal(testkit::process::Signal::HUP).unwrap();
    server.process().line(DEADLINE, |line| line.contains("not reloaded")).await.unwrap();
    let stream = raw::tls(server.public, "app1.localhost", ca.client(&[]).unwrap()).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], leaf.der);
}

#[tokio::test]
async fn s8_a_connection_made_for_one_tenant_does_not_serve_another() {
    let ca = TestCa::new().unwrap();
    let leaf = ca.leaf("public", &["app1.localhost", "app2.localhost", "shop.localhost"]).unwrap();
    let tls = format!("tls: {{ cert: {}, key: {} }}", leaf.cert.display(), leaf.key.display());
    let server = Server::setup().public(&tls).start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let _mine = Publish::to(&server).http("app1", origin.addr()).start().await;
    let _mine_too = Publish::to(&server).http("app2", origin.addr()).start().await;
    let _theirs = Publish::with_token(&server, &server.token("other")).http("shop", origin.addr()).start().await;
    let mut client =
        Client::connect_tls(server.public, "app1.localhost", ca.client(&["http/1.1"]).unwrap()).await.unwrap();
    assert_eq!(client.get(&server.host("app1"), "/").await.unwrap().status, 200);
    assert_eq!(client.get(&server.host("app2"), "/").await.unwrap().status, 200, "the same account's");
    let answer = client.get(&server.host("shop"), "/").await.unwrap();
    assert_eq!((answer.status, answer.header("x-adit-error")), (421, Some("misdirected_request")));
}

#[tokio::test]
async fn plain_bytes_on_the_tls_port_do_not_disturb_it() {
    let secure = secure().await;
    let _ = raw::exchange(secure.server.public, b"GET / HTTP/1.1\r\nHost: app1.localhost\r\n\r\n").await;
    let ca = secure.ca.path().display().to_string();
    let answer = curl(&["--cacert", &ca, secure.agent.url()]).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn many_requests_at_once_share_one_http_2_connection() {
    let secure = secure().await;
    let dir = secure.server.dir().display();
    let url = |n: usize| format!("url = \"{}/bytes/{}\"\n", secure.agent.url(), 10_000 + n);
    // The first answer is the one `curl` returns.
    let more: String = (1..50).map(|n| format!("{}output = \"{dir}/out{n}\"\n", url(n))).collect();
    let config = secure.server.dir().join("many");
    std::fs::write(&config, url(0) + &more).unwrap();
    let (ca, config) = (secure.ca.path().display().to_string(), config.display().to_string());
    let answer = curl(&["--cacert", &ca, "--http2", "--parallel", "--parallel-max", "50", "-K", &config]).await;
    assert_eq!((answer.exit, answer.version.as_str(), answer.body.len()), (0, "2", 10_000));
    for n in 1..50 {
        let body = std::fs::read(secure.server.dir().join(format!("out{n}"))).unwrap_or_default();
        assert!(body == pattern(0, 10_000 + n), "answer {n}: {} bytes", body.len());
    }
}
