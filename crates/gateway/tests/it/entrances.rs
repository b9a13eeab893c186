//! Entrances of a file and of its next versions, without a cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::config::AgentFile;
use forward::{Clusters, KubeSettings};
use gateway::entrances::{EntranceError, Entrances};
use runtime::scope::Scope;
use testkit::cert::{TestCa, trust_anything};
use testkit::origin::{HttpOrigin, TcpOrigin};
use testkit::raw::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const DEADLINE: Duration = Duration::from_secs(10);

struct Site {
    scope: Scope,
    clusters: Arc<Clusters>,
    entrances: Entrances,
}

impl Site {
    fn new() -> Self {
        let scope = Scope::root();
        let entrances = Entrances::new(&scope.child(), &scope, None);
        Self { scope, clusters: Clusters::new(KubeSettings::default()), entrances }
    }

    fn apply(&mut self, text: &str) -> Result<(), EntranceError> {
        let file = AgentFile::parse("adit.yaml", text, &|_| None).expect("a right file");
        let prepared = self.entrances.prepare(&file, &self.clusters)?;
        let failed = self.entrances.commit(prepared).failed;
        failed.into_iter().next().map_or(Ok(()), Err)
    }

    /// Where a forward listens, or with `None` the gateway.
    fn address(&self, owner: Option<&str>) -> SocketAddr {
        self.entrances.open().find(|(_, name)| name.as_deref() == owner).expect("it is open").0
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

async fn echo(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = vec![0; text.len()];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut answer)).await.expect("in time").unwrap();
    String::from_utf8(answer).unwrap()
}

async fn opened(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"echo\n").await.unwrap();
    assert_eq!(echo(&mut stream, "hello").await, "hello");
    stream
}

async fn get(address: SocketAddr, host: &str) -> u16 {
    testkit::raw::get(address, host, "/").await.expect("an answer").status
}

#[tokio::test]
async fn a_new_version_keeps_the_connections_of_what_stays_and_of_what_goes() {
    let (one, two) = (TcpOrigin::start().await.unwrap(), TcpOrigin::start().await.unwrap());
    let mut site = Site::new();
    let file = |b: SocketAddr| {
        format!(
            "forwards:\n  a: {{ to: 'tcp://{}', listen: '127.0.0.1:0' }}\n  b: {{ to: 'tcp://{b}', listen: '127.0.0.1:0' }}\n",
            one.addr()
        )
    };
    site.apply(&file(one.addr())).unwrap();
    let (a, b) = (site.address(Some("a")), site.address(Some("b")));
    let (mut stays, mut goes) = (opened(a).await, opened(b).await);
    site.apply(&file(two.addr())).unwrap();
    assert_eq!((site.address(Some("a")), site.address(Some("b"))), (a, b), "the sockets are the same");
    assert_eq!(echo(&mut stays, "still").await, "still");
    assert_eq!(echo(&mut goes, "draining").await, "draining");
    let before = two.connections();
    opened(b).await;
    assert_eq!(two.connections(), before + 1, "what comes now goes to the new target");
    site.apply(&format!("forwards:\n  a: {{ to: 'tcp://{}', listen: '127.0.0.1:0' }}\n", one.addr())).unwrap();
    assert_eq!(echo(&mut goes, "last").await, "last");
    let refused = async {
        while TcpStream::connect(b).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, refused).await.expect("a port that is gone is closed");
}

#[tokio::test]
async fn a_version_that_cannot_be_put_in_force_changes_nothing() {
    let origin = HttpOrigin::start().await.unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut site = Site::new();
    let route = |host: &str| format!("{host}: {{ to: 'http://{}' }}", origin.addr());
    let file =
        |routes: &str, more: &str| format!("gateway: {{ listen: '127.0.0.1:0', routes: {{ {routes} }} }}\n{more}");
    site.apply(&file(&route("a.localhost"), "")).unwrap();
    let gateway = site.address(None);
    assert_eq!(get(gateway, "a.localhost").await, 200);
    let more = format!("forwards:\n  x: {{ to: 'tcp://127.0.0.1:1', listen: '{}' }}\n", taken.local_addr().unwrap());
    let error = site.apply(&file(&route("b.localhost"), &more)).unwrap_err();
    assert!(matches!(&error, EntranceError::Bind { key, .. } if key == "forwards.x.listen"), "{error:?}");
    assert_eq!((get(gateway, "a.localhost").await, get(gateway, "b.localhost").await), (200, 404));
    let bad_ca =
        format!("b.localhost: {{ to: 'https://{}', scheme: https, tls: {{ ca: /nowhere/ca.pem }} }}", origin.addr());
    assert!(matches!(site.apply(&file(&bad_ca, "")), Err(EntranceError::Table(_))));
    assert_eq!(get(gateway, "a.localhost").await, 200);
    site.apply(&file(&route("b.localhost"), "")).unwrap();
    assert_eq!((get(gateway, "a.localhost").await, get(gateway, "b.localhost").await), (404, 200));
}

#[tokio::test]
async fn an_untouched_route_keeps_its_connections_to_the_service() {
    let origin = HttpOrigin::start().await.unwrap();
    let mut site = Site::new();
    let file = |more: &str| {
        format!(
            "gateway: {{ listen: '127.0.0.1:0', routes: {{ a.localhost: {{ to: 'http://{}' }}{more} }} }}",
            origin.addr()
        )
    };
    site.apply(&file("")).unwrap();
    let gateway = site.address(None);
    for number in 0..20 {
        assert_eq!(get(gateway, "a.localhost").await, 200);
        site.apply(&file(&format!(", h{number}.localhost: {{ to: 'http://127.0.0.1:1' }}"))).unwrap();
    }
    assert_eq!(origin.connections(), 1, "one kept connection served them all");
}

#[tokio::test]
async fn a_password_file_that_changes_is_read_anew() {
    use base64::Engine as _;
    let origin = HttpOrigin::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("password");
    let write = |text: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let text = format!(
        "gateway: {{ listen: '127.0.0.1:0', routes: {{ a.localhost: {{ to: 'http://{}', basic_auth: {{ user: u, password_file: '{}' }} }} }} }}",
        origin.addr(),
        path.display()
    );
    let mut site = Site::new();
    write("old\n", 0o600);
    site.apply(&text).unwrap();
    let gateway = site.address(None);
    let status = async |password: &str| {
        let token = base64::engine::general_purpose::STANDARD.encode(format!("u:{password}"));
        let headers = [("Authorization", format!("Basic {token}"))];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        loop {
            let answer = testkit::raw::request(gateway, "GET", "a.localhost", "/", &headers, b"").await.unwrap();
            // A wrong one before it is remembered across the change.
            if answer.status != 429 {
                return answer.status;
            }
        }
    };
    assert_eq!((status("old").await, status("new").await), (200, 401));
    write("new\n", 0o600);
    site.apply(&text).unwrap();
    assert_eq!((status("old").await, status("new").await), (401, 200));
    write("newer\n", 0o644);
    assert!(matches!(site.apply(&text), Err(EntranceError::Table(_))), "others may read it");
    write("\n", 0o600);
    assert!(matches!(site.apply(&text), Err(EntranceError::Table(_))), "an empty password is none");
    assert_eq!(status("new").await, 200, "what was in force stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "this test has two workers, and holds what would move")]
async fn a_port_moves_from_one_address_to_all_and_back_and_keeps_its_connections() {
    let origin = TcpOrigin::start().await.unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut site = Site::new();
    let file =
        |ip: &str| format!("forwards:\n  a: {{ to: 'tcp://{}', listen: '{ip}:{}' }}\n", origin.addr(), free.port());
    site.apply(&file("127.0.0.1")).unwrap();
    let mut kept = opened(free).await;
    for ip in ["0.0.0.0", "127.0.0.1"] {
        tokio::task::block_in_place(|| site.apply(&file(ip))).unwrap();
        assert_eq!(site.address(Some("a")), format!("{ip}:{}", free.port()).parse().unwrap());
        opened(free).await;
        assert_eq!(echo(&mut kept, "still").await, "still");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "this test has two workers, and holds what would move")]
async fn a_port_that_cannot_move_is_told_and_is_where_it_was() {
    let origin = TcpOrigin::start().await.unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // Somebody else is at another address of the same port.
    let _other = TcpListener::bind(("127.0.0.2", free.port())).await.unwrap();
    let mut site = Site::new();
    let file =
        |ip: &str| format!("forwards:\n  a: {{ to: 'tcp://{}', listen: '{ip}:{}' }}\n", origin.addr(), free.port());
    site.apply(&file("127.0.0.1")).unwrap();
    let all = AgentFile::parse("adit.yaml", &file("0.0.0.0"), &|_| None).unwrap();
    let prepared = site.entrances.prepare(&all, &site.clusters).unwrap();
    let failed = tokio::task::block_in_place(|| site.entrances.commit(prepared)).failed;
    assert!(matches!(&failed[..], [EntranceError::Bind { key, .. }] if key == "forwards.a.listen"), "{failed:?}");
    opened(free).await;
    site.apply(&file("127.0.0.1")).unwrap();
    opened(free).await;
}

#[tokio::test]
async fn a_move_to_an_address_of_somebody_else_changes_nothing() {
    let origin = TcpOrigin::start().await.unwrap();
    let other = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = other.local_addr().unwrap().port();
    let mut site = Site::new();
    let file = |ip: &str| format!("forwards:\n  a: {{ to: 'tcp://{}', listen: '{ip}:{port}' }}\n", origin.addr());
    site.apply(&file("127.0.0.1")).unwrap();
    let file = AgentFile::parse("adit.yaml", &file("127.0.0.2"), &|_| None).unwrap();
    let refused = site.entrances.prepare(&file, &site.clusters);
    assert!(matches!(&refused, Err(EntranceError::Bind { key, .. }) if key == "forwards.a.listen"), "{refused:?}");
    opened(site.address(Some("a"))).await;
}

#[tokio::test]
async fn all_entrances_in_the_way_are_looked_at_and_not_only_the_first() {
    let Ok(free) = TcpListener::bind("[::1]:0").await else { return };
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut site = Site::new();
    let file = |ip: &str| {
        format!(
            "forwards:\n  a: {{ to: 'tcp://127.0.0.1:1', listen: '{ip}:{port}' }}\n  b: {{ to: 'tcp://127.0.0.1:1', listen: '[::1]:{port}' }}\n"
        )
    };
    site.apply(&file("127.0.0.1")).unwrap();
    // The parser finds such a contradiction itself; what it does not know of may be like this.
    let mut file = AgentFile::parse("adit.yaml", &file("127.0.0.1"), &|_| None).unwrap();
    file.forwards[0].listen = vec![format!("[::]:{port}").parse().unwrap()];
    let refused = site.entrances.prepare(&file, &site.clusters);
    let stays = format!("[::1]:{port}").parse().unwrap();
    assert!(matches!(&refused, Err(EntranceError::Own { own, .. }) if *own == stays), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "this test has two workers, and holds what would move")]
async fn a_port_that_cannot_move_leads_to_the_forward_that_has_a_new_name() {
    let origin = TcpOrigin::start().await.unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let _other = TcpListener::bind(("127.0.0.2", free.port())).await.unwrap();
    let mut site = Site::new();
    let file = |name: &str, ip: &str| {
        format!("forwards:\n  {name}: {{ to: 'tcp://{}', listen: '{ip}:{}' }}\n", origin.addr(), free.port())
    };
    site.apply(&file("a", "127.0.0.1")).unwrap();
    let failed = tokio::task::block_in_place(|| site.apply(&file("b", "0.0.0.0")));
    assert!(matches!(&failed, Err(EntranceError::Bind { key, .. }) if key == "forwards.b.listen"), "{failed:?}");
    assert_eq!(site.address(Some("b")), free);
    opened(free).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "this test has two workers, and holds what would move")]
async fn of_one_port_all_addresses_move_or_none_and_what_is_lost_is_told_as_such() {
    use socket2::{Domain, Socket, Type};
    // Bound, and not listening: with this option it is in nobody's way, and without it in everybody's.
    let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    other.set_reuse_address(true).unwrap();
    other.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    let port = other.local_addr().unwrap().as_socket().unwrap().port();
    let mut site = Site::new();
    let file = |listen: &str| format!("forwards:\n  a: {{ to: 'tcp://127.0.0.1:1', listen: {listen} }}\n");
    site.apply(&file(&format!("'0.0.0.0:{port}'"))).unwrap();
    let two = file(&format!("['127.0.0.1:{port}', '127.0.0.2:{port}']"));
    let two = AgentFile::parse("adit.yaml", &two, &|_| None).unwrap();
    let prepared = site.entrances.prepare(&two, &site.clusters).unwrap();
    other.set_reuse_address(false).unwrap();
    let committed = tokio::task::block_in_place(|| site.entrances.commit(prepared));
    assert!(committed.failed.is_empty(), "{committed:?}");
    let closed = &committed.closed;
    assert_eq!(closed.iter().filter(|error| matches!(error, EntranceError::Bind { .. })).count(), 1, "{closed:?}");
    assert_eq!(closed.iter().filter(|error| matches!(error, EntranceError::Lost { .. })).count(), 1, "{closed:?}");
    assert_eq!(site.entrances.open().count(), 0, "half of a port is not opened");
    other.set_reuse_address(true).unwrap();
    let prepared = site.entrances.prepare(&two, &site.clusters).unwrap();
    site.entrances.commit(prepared);
    assert_eq!(site.entrances.open().count(), 2);
}

#[tokio::test]
async fn at_a_start_a_taken_port_stops_no_other_one_and_is_tried_again_and_a_reload_stays_a_transaction() {
    let origin = TcpOrigin::start().await.unwrap();
    let to = origin.addr();
    let (first, second) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (taken, later) = (first.local_addr().unwrap(), second.local_addr().unwrap());
    let mut site = Site::new();
    let file = format!(
        "forwards:\n  a: {{ to: 'tcp://{to}', listen: 0 }}\n  b: {{ to: 'tcp://{to}', listen: {} }}\n",
        taken.port()
    );
    assert!(site.apply(&file).is_err(), "without being told so, nothing is left out");
    site.entrances.leave_out();
    site.apply(&file).unwrap();
    opened(site.address(Some("a"))).await;
    let left: Vec<_> = site
        .entrances
        .unopened()
        .map(|(owner, address, error)| (owner.map(str::to_owned), address, error.holder().map(|holder| holder.pid)))
        .collect();
    assert_eq!(left, [(Some("b".to_owned()), taken, Some(std::process::id()))]);
    let more = format!("{file}  c: {{ to: 'tcp://{to}', listen: 0 }}\n");
    site.apply(&more).expect("what is left out already stops no reload");
    site.apply(&format!("{more}  d: {{ to: 'tcp://{to}', listen: {} }}\n", later.port())).unwrap_err();
    assert!(site.entrances.try_again().is_empty());
    drop(first);
    assert_eq!(site.entrances.try_again().len(), 1);
    opened(taken).await;
    assert_eq!(site.entrances.unopened().count(), 0);
}

/// The state of an entrance as the table of `adit up` has it, as the index has it, and whether it fails still.
async fn states(site: &Site, list: &str, key: &str, name: &str) -> (String, String, bool) {
    let row = site.entrances.rows().into_iter().find(|row| row.name == name).expect("a row");
    let json = [("Accept", "application/json")];
    let index = testkit::raw::request(site.address(None), "GET", "localhost", "/", &json, b"").await.unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index.body).unwrap();
    let entry = index[list].as_array().expect("a list").iter().find(|entry| entry[key] == name).expect("an entry");
    let shown = entry["state"].as_str().expect("a word").to_owned();
    (row.state.as_str().to_owned(), shown, entry["last_error"]["since"].is_string())
}

/// Waits until both call it so.
async fn until_state(site: &Site, list: &str, key: &str, name: &str, wanted: &str) {
    let all = (wanted.to_owned(), wanted.to_owned(), wanted == "failing");
    let change = async {
        while states(site, list, key, name).await != all {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, change).await.unwrap_or_else(|_| panic!("{name} is not {wanted}"));
}

/// An address of this machine where nothing listens yet.
fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_tcp_port_fails_until_a_stream_is_answered_and_fails_no_more_while_that_lives() {
    let (mut site, service) = (Site::new(), nobody());
    site.apply(&format!(
        "gateway: {{ listen: '127.0.0.1:0' }}\nforwards:\n  db: {{ to: 'tcp://{service}', listen: '127.0.0.1:0' }}\n"
    ))
    .unwrap();
    let mut refused = TcpStream::connect(site.address(Some("db"))).await.unwrap();
    assert!(matches!(refused.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    until_state(&site, "forwards", "name", "db", "failing").await;
    let _origin = TcpOrigin::start_on(service).await.unwrap();
    let stream = opened(site.address(Some("db"))).await;
    until_state(&site, "forwards", "name", "db", "ready").await;
    drop(stream);
    until_state(&site, "forwards", "name", "db", "ready").await;
}

#[tokio::test]
async fn a_route_that_hands_tls_on_fails_until_a_stream_is_answered() {
    let (mut site, service) = (Site::new(), nobody());
    site.apply(&format!(
        "gateway: {{ listen: '127.0.0.1:0', routes: {{ secure.localhost: {{ to: 'https://{service}' }} }} }}"
    ))
    .unwrap();
    let ca = TestCa::new().unwrap();
    let leaf = ca.leaf("secure", &["secure.localhost"]).unwrap();
    let visit = || Client::connect_tls(site.address(None), "secure.localhost", ca.client(&["http/1.1"]).unwrap());
    // What answers is the page that says why, and nobody vouches for it.
    assert!(visit().await.is_err());
    until_state(&site, "routes", "host", "secure.localhost", "failing").await;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(leaf.server(&["http/1.1"]).unwrap()));
    let listener = TcpListener::bind(service).await.unwrap();
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        acceptor.accept(stream).await.unwrap()
    };
    let (stream, client) = tokio::join!(serving, visit());
    let client = client.unwrap();
    until_state(&site, "routes", "host", "secure.localhost", "ready").await;
    drop((stream, client));
}

#[tokio::test]
async fn an_answer_by_https_ends_the_failure_of_a_request_by_http_to_the_same_route() {
    let mut site = Site::new();
    let (ca, listener) = (TestCa::new().unwrap(), TcpListener::bind(("127.0.0.1", 0)).await.unwrap());
    let service = listener.local_addr().unwrap();
    site.apply(&format!(
        "gateway: {{ listen: '127.0.0.1:0', routes: {{ secure.localhost: {{ to: 'https://{service}' }} }} }}"
    ))
    .unwrap();
    let leaf = ca.leaf("secure", &["secure.localhost"]).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(leaf.server(&["http/1.1"]).unwrap()));
    // The gateway trusts the certificate of nobody's authority as little as a client would.
    let (_, status) = tokio::join!(
        async { acceptor.accept(listener.accept().await.unwrap().0).await },
        get(site.address(None), "secure.localhost")
    );
    assert_eq!(status, 502);
    until_state(&site, "routes", "host", "secure.localhost", "failing").await;
    let (_stream, client) = tokio::join!(
        async { acceptor.accept(listener.accept().await.unwrap().0).await },
        Client::connect_tls(site.address(None), "secure.localhost", ca.client(&["http/1.1"]).unwrap())
    );
    let _client = client.unwrap();
    until_state(&site, "routes", "host", "secure.localhost", "ready").await;
}

#[tokio::test]
async fn tls_for_a_name_that_is_no_host_name_gets_the_page_that_http_gets() {
    let mut site = Site::new();
    site.apply("gateway: { listen: '127.0.0.1:0' }").unwrap();
    let host = "web_80.svc.default.ns.fake.cx.k8s.localhost";
    let plain = testkit::raw::get(site.address(None), host, "/").await.unwrap();
    let config = trust_anything(&["http/1.1"]);
    let mut client = Client::connect_tls(site.address(None), host, config).await.expect("a handshake");
    let answer = client.get(host, "/").await.unwrap();
    assert_eq!((answer.status, answer.header("x-adit-error")), (404, Some("unknown_host")));
    assert!(answer.text().contains("`_` cannot stand in a host name"), "{}", answer.text());
    let first = |text: String| text.lines().next().map(str::to_owned);
    assert_eq!(first(answer.text()), first(plain.text()));
    // Another name than that of the connection is told so.
    let mut client =
        Client::connect_tls(site.address(None), host, trust_anything(&["http/1.1"])).await.expect("a handshake");
    assert_eq!(client.get("web.localhost", "/").await.unwrap().status, 421);
}

#[tokio::test]
async fn what_begins_like_tls_and_is_none_gets_the_alert_that_says_why() {
    let mut site = Site::new();
    site.apply("gateway: { listen: '127.0.0.1:0' }").unwrap();
    let ssl2 = [0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10];
    for (bytes, description) in [
        (&[0x16, 3, 1, 0, 4, 2, 0, 0, 0][..], Some(10)),
        (&[0x16, 3, 1, 0, 0], Some(50)),
        (&ssl2, Some(70)),
        (&[0x16, 5, 1, 0, 4, 1, 0, 0, 0], None),
    ] {
        let mut client = TcpStream::connect(site.address(None)).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let mut told = Vec::new();
        // What was not read ends it with a reset.
        let _ = tokio::time::timeout(DEADLINE, client.read_to_end(&mut told)).await.expect("in time");
        let alert = description.map_or(Vec::new(), |description| vec![0x15, 3, 3, 0, 2, 2, description]);
        assert_eq!(told, alert, "{bytes:?}");
    }
}
