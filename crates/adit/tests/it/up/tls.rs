//! TLS at the gateway's port: what is handed on, what ends here, and what is no TLS at all.

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use testkit::cert::{TestCa, trust_anything};
use testkit::origin::TcpOrigin;
use testkit::process::{self, Process};
use testkit::raw::{self, Client};
use testkit::servers::program;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::ports::with_descriptors;
use super::support::{Bed, Running, TlsOrigin, Up, beside, gateway};
use crate::support::{DEADLINE, curl, curl_said, eventually, within};

const HOST: &str = "secure.localhost";
/// A fatal alert, and nothing else, but for what it says.
const ALERT: [u8; 6] = [0x15, 3, 3, 0, 2, 2];

/// A bed whose service `secure` speaks TLS, as `secure.localhost`, and the authority that signed it.
struct Secure {
    bed: Bed,
    ca: TestCa,
    _origin: TlsOrigin,
    up: Up,
}

impl Secure {
    async fn start() -> Self {
        Self::start_with(&[], &[]).await
    }

    async fn start_with(keys: &[&str], routes: &[&str]) -> Self {
        let bed = Bed::start().await;
        let ca = TestCa::new().expect("an authority");
        let leaf = ca.leaf("secure", &[HOST, "secure.default.svc"]).expect("a certificate");
        let origin = TlsOrigin::start(&leaf, &["http/1.1"], bed.origin.addr()).await;
        bed.add_service("secure", 443, origin.address);
        let route = format!("{HOST}: {{ to: \"k8s://fake/default/service/secure:443\", scheme: https }}");
        let mut all = vec![route.as_str()];
        all.extend(routes);
        let up = bed.up(&gateway(keys, &all)).await;
        Self { bed, ca, _origin: origin, up }
    }

    fn client(&self) -> rustls::ClientConfig {
        self.ca.client(&["http/1.1"]).expect("a client")
    }

    fn url(&self, host: &str) -> String {
        format!("https://{}/head", self.up.host(host))
    }
}

/// A TLS connection whose first flight is sent as `cut` says.
async fn tls_cut(
    address: SocketAddr,
    config: rustls::ClientConfig,
    cut: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> io::Result<(Client<tokio_rustls::client::TlsStream<tokio::io::DuplexStream>>, Running)> {
    let mut outer = TcpStream::connect(address).await?;
    outer.set_nodelay(true)?;
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let running = beside(async move {
        let mut first = Vec::new();
        // The records of the hello: each has its length in its head.
        while !is_whole(&first) {
            if far.read_buf(&mut first).await.unwrap_or(0) == 0 {
                return;
            }
        }
        for piece in cut(&first) {
            if outer.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = tokio::io::copy_bidirectional(&mut far, &mut outer).await;
    });
    let name = ServerName::try_from(HOST).expect("a name");
    let stream = within("a handshake", TlsConnector::from(Arc::new(config)).connect(name, near)).await?;
    Ok((Client::new(stream), running))
}

/// Whether these records hold the whole of their first handshake message.
fn is_whole(records: &[u8]) -> bool {
    let body = bodies(records);
    body.len() >= 4
        && body.len() >= 4 + usize::from(body[1]) * 65_536 + usize::from(body[2]) * 256 + usize::from(body[3])
}

/// What whole records carry.
fn bodies(mut records: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = records {
        let length = usize::from(*high) * 256 + usize::from(*low);
        let Some(body) = rest.get(..length) else { break };
        all.extend_from_slice(body);
        records = &rest[length..];
    }
    all
}

/// A handshake record.
fn record(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("it fits a record").to_be_bytes();
    [&[0x16, 3, 1, length[0], length[1]], body].concat()
}

/// A client whose hello has a key share of ML-KEM-768, as those of browsers.
fn quantum() -> rustls::ClientConfig {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups =
        vec![rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768, rustls::crypto::aws_lc_rs::kx_group::X25519];
    testkit::cert::trust_anything_with(provider, &[])
}

/// The hello of a client for `name`, in one or more records.
fn hello(name: &str, alpn: &[&str]) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut connection = rustls::ClientConnection::new(Arc::new(trust_anything(alpn)), name).expect("a client");
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).expect("a hello");
    }
    bytes
}

/// Sends these bytes, ends nothing, and reads to the end that the gateway makes.
async fn told(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    // A reset after it is an end too: what was sent is not read to its end.
    let _ = within("its end", stream.read_to_end(&mut answer)).await;
    answer
}

#[tokio::test]
async fn tls_goes_to_the_service_by_its_name_and_the_service_has_the_certificate() {
    let secure = Secure::start().await;
    let mut client = Client::connect_tls(secure.up.gateway(), HOST, secure.client()).await.unwrap();
    let answer = client.get(&secure.up.host(HOST), "/head").await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(!answer.text().to_lowercase().contains("forwarded"), "nobody looked inside: {}", answer.text());
    let ca = secure.ca.path().display().to_string();
    let answer = curl(&["--cacert", &ca, &secure.url(HOST)]).await;
    assert_eq!((answer.exit, answer.status), (0, 200));
}

#[tokio::test]
async fn dynamic_hosts_hand_tls_on_too() {
    let secure = Secure::start().await;
    let host = "secure-443.svc.default.ns.fake.cx.k8s.localhost";
    let answer = curl(&["--insecure", &secure.url(host)]).await;
    assert_eq!((answer.exit, answer.status), (0, 200), "{}", answer.text());
    assert!(!answer.text().to_lowercase().contains("forwarded"), "{}", answer.text());
}

#[tokio::test]
async fn a_hello_in_one_byte_pieces_passes() {
    let secure = Secure::start().await;
    let cut = |hello: &[u8]| hello.iter().map(|byte| vec![*byte]).collect();
    let (mut client, _running) = tls_cut(secure.up.gateway(), secure.client(), cut).await.unwrap();
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_hello_that_is_split_across_many_records_passes() {
    let secure = Secure::start().await;
    for size in [100, 7] {
        let cut = move |hello: &[u8]| bodies(hello).chunks(size).map(record).collect();
        let (mut client, _running) = tls_cut(secure.up.gateway(), secure.client(), cut).await.unwrap();
        assert_eq!(client.get(HOST, "/").await.unwrap().status, 200, "{size}");
    }
}

/// A hello with so many bytes of padding (RFC 7685).
fn padded(padding: u16) -> Vec<u8> {
    let mut body = bodies(&hello(HOST, &["http/1.1"]));
    let number = |body: &[u8], at: usize| usize::from(body[at]) * 256 + usize::from(body[at + 1]);
    // Behind the message's head, version and random; session id, ciphers, compressions.
    let mut at = 4 + 2 + 32;
    at += 1 + usize::from(body[at]);
    at += 2 + number(&body, at);
    at += 1 + usize::from(body[at]);
    let extensions = number(&body, at) + 4 + usize::from(padding);
    body[at..at + 2].copy_from_slice(&u16::try_from(extensions).expect("they fit").to_be_bytes());
    body.extend([0, 21]);
    body.extend(padding.to_be_bytes());
    body.resize(body.len() + usize::from(padding), 0);
    let length = u32::try_from(body.len() - 4).expect("it fits").to_be_bytes();
    body[1..4].copy_from_slice(&length[1..]);
    body.chunks(16_384).flat_map(record).collect()
}

#[tokio::test]
async fn long_hellos_arrive_as_they_were_sent() {
    let bed = Bed::start().await;
    let origin = TcpOrigin::start().await.unwrap();
    bed.add_service("echo", 443, origin.addr());
    let route = format!("{HOST}: {{ to: \"k8s://fake/default/service/echo:443\", scheme: https }}");
    let up = bed.up(&gateway(&[], &[&route])).await;
    for padding in [0, 2_000, 20 << 10, 60_000] {
        let mut sent = padded(padding);
        sent.extend(b"and what comes behind it");
        let mut stream = TcpStream::connect(up.gateway()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let mut got = vec![0; sent.len()];
        let both = async { tokio::try_join!(write.write_all(&sent), read.read_exact(&mut got)) };
        within("the echo", both).await.unwrap();
        assert!(got == sent, "{padding}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_quantum_hello_reaches_openssl() {
    let bed = Bed::start().await;
    let ca = TestCa::new().unwrap();
    let leaf = ca.leaf("openssl", &[HOST]).unwrap();
    let port = process::free_port().unwrap();
    let mut command = Command::new(program("openssl"));
    command.args(["s_server", "-www", "-accept", &format!("127.0.0.1:{port}")]);
    command.arg("-cert").arg(&leaf.cert).arg("-key").arg(&leaf.key);
    let server = Process::start(&mut command).unwrap();
    server.line(DEADLINE, |line| line.contains("ACCEPT")).await.expect("openssl is ready");
    bed.add_service("openssl", 443, SocketAddr::from(([127, 0, 0, 1], port)));
    let route = format!("{HOST}: {{ to: \"k8s://fake/default/service/openssl:443\", scheme: https }}");
    let up = bed.up(&gateway(&[], &[&route])).await;
    let mut client = Client::connect_tls(up.gateway(), HOST, quantum()).await.unwrap();
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
    drop(client);
    // And its own client, which checks the chain.
    let mut command = Command::new(program("openssl"));
    command.args(["s_client", "-connect", &up.gateway().to_string(), "-servername", HOST, "-verify_return_error"]);
    let (status, said) = process::run(command.arg("-CAfile").arg(ca.path()), b"", DEADLINE).unwrap();
    assert!(status.success() && said.stdout().contains("Verify return code: 0 (ok)"), "{}", said.output());
}

#[tokio::test]
async fn what_is_like_tls_and_is_none_is_answered_with_an_alert_and_closed() {
    let secure = Secure::start().await;
    let whole = hello(HOST, &["http/1.1"]);
    let changed = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        bytes
    };
    // Five records of 16 KiB that announce 70,000 bytes.
    let mut endless = vec![1, 0x01, 0x11, 0x70, 3, 3];
    endless.resize(70_004, 0);
    let endless: Vec<u8> = endless.chunks(16_384).flat_map(record).collect();
    let ssl2 = [&[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10][..], &[7; 36]].concat();
    for (what, bytes) in [
        ("over 64 KiB", endless),
        ("SSL 2.0", ssl2),
        ("no handshake message", record(&[0; 100])),
        ("a ServerHello", changed(5, 2)),
        ("an empty record", vec![0x16, 3, 1, 0, 0]),
        ("a record that is too long", [&[0x16, 3, 1, 0xff, 0xff][..], &[1; 1000]].concat()),
        (
            "another record in between",
            [&whole[..0], &record(&bodies(&whole)[..50]), &[0x17, 3, 3, 0, 5, 1, 2, 3, 4, 5]].concat(),
        ),
        ("a session id longer than the hello", changed(5 + 4 + 2 + 32, 255)),
        ("noise after the first byte", [&[0x16][..], &testkit::noise::bytes(9, 2000)].concat()),
        ("the high bit", vec![0xff; 64]),
    ] {
        let answer = told(secure.up.gateway(), &bytes).await;
        let is_alert = answer.strip_prefix(&ALERT).is_some_and(|description| matches!(description, [10 | 50 | 70]));
        assert!(is_alert || answer.is_empty(), "{what}: {answer:?}");
    }
    let alert = told(secure.up.gateway(), &record(&[0; 100])).await;
    assert_eq!(alert.strip_prefix(&ALERT), Some(&[10][..]), "a client that reads is told of an unexpected message");
    assert!(secure.bed.cluster.requests().is_empty(), "nothing of it was handed on");
    assert_eq!(curl(&["--insecure", &secure.url(HOST)]).await.status, 200, "and all is well");
}

#[tokio::test]
async fn a_length_that_lies_inside_an_extension_is_never_followed() {
    let secure = Secure::start().await;
    let whole = hello(HOST, &["http/1.1"]);
    let name = whole.windows(HOST.len()).position(|window| window == HOST.as_bytes()).unwrap();
    // The name's length, the list's, the extension's.
    for back in [2, 5, 7] {
        let mut bytes = whole.clone();
        bytes[name - back] = 0x7f;
        let answer = told(secure.up.gateway(), &bytes).await;
        assert!(answer == [&ALERT[..], &[50]].concat() || answer.is_empty(), "{back}: {answer:?}");
    }
    assert!(secure.bed.cluster.requests().is_empty(), "nothing of it was handed on");
}

#[tokio::test]
async fn what_is_not_tls_at_all_is_taken_for_http_and_refused() {
    let secure = Secure::start().await;
    for bytes in [&b"\x00\x01\x02\x03\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9.9\r\n\r\n", b"\x05\x01\x00\r\n\r\n"] {
        let answer = told(secure.up.gateway(), bytes).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 400 "), "{bytes:?}: {text}");
    }
}

#[tokio::test]
async fn a_hello_that_stalls_half_way_is_closed_in_its_time() {
    let secure = Secure::start().await;
    let whole = hello(HOST, &["http/1.1"]);
    assert_eq!(told(secure.up.gateway(), &whole[..100]).await, b"");
    assert_eq!(secure.bed.origin.connections(), 0);
}

#[tokio::test]
async fn tls_without_a_name_gets_a_page_that_says_so() {
    let secure = Secure::start().await;
    let gateway = secure.up.gateway();
    // An address is no name, so this hello has none.
    let mut client = Client::connect_tls(gateway, "127.0.0.1", trust_anything(&["http/1.1"])).await.unwrap();
    let answer = client.get(&secure.up.host(HOST), "/").await.unwrap();
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("SNI"), "{}", answer.text());
    assert_eq!(secure.bed.origin.connections(), 0);
    // Whoever asks for the address itself means the gateway. The 400 has ended the connection.
    let mut client = Client::connect_tls(gateway, "127.0.0.1", trust_anything(&["http/1.1"])).await.unwrap();
    let answer = client.get(&gateway.to_string(), "/").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn tls_for_an_unknown_name_gets_a_404_page_in_either_version() {
    let secure = Secure::start().await;
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let answer = curl(&["--insecure", option, &secure.url("secrue.localhost")]).await;
        assert_eq!((answer.exit, answer.status, answer.version.as_str()), (0, 404, version), "{}", answer.text());
        assert!(answer.text().contains(HOST), "a near match: {}", answer.text());
    }
    let untrusted = curl(&[&secure.url("secrue.localhost")]).await;
    assert_eq!(untrusted.exit, 60, "nobody trusts its certificate");
}

#[tokio::test]
async fn tls_to_a_service_that_does_not_start_gets_a_502_page_with_the_reason() {
    let gone = "gone.localhost: { to: \"k8s://fake/default/service/gone:443\", scheme: https }";
    let secure = Secure::start_with(&[], &[gone]).await;
    let answer = curl(&["--insecure", &secure.url("gone.localhost")]).await;
    assert_eq!((answer.exit, answer.status), (0, 502), "{}", answer.text());
    assert!(answer.text().contains("not found"), "{}", answer.text());
}

#[tokio::test]
async fn an_error_over_tls_ends_with_its_connection_so_that_the_next_request_sees_what_was_mended() {
    let late = "late.localhost: { to: \"k8s://fake/default/service/late:443\", scheme: https }";
    let secure = Secure::start_with(&[], &[late]).await;
    for (host, status, option, version) in [
        ("late.localhost", "502", "--http1.1", "1.1"),
        ("late.localhost", "502", "--http2", "2"),
        ("nobody.localhost", "404", "--http1.1", "1.1"),
        ("nobody.localhost", "404", "--http2", "2"),
    ] {
        let url = secure.url(host);
        // A fifth of a second between them: the end of a connection of HTTP/2 is told behind the answer.
        let out = "%{http_code} %{http_version} %{num_connects};";
        let args = ["--insecure", option, "--rate", "5/s", "--write-out", out, "--output", "/dev/null", &url, &url];
        let stdout = curl_said(&args).await;
        let each = format!("{status} {version} 1;");
        assert_eq!(stdout, each.repeat(2), "{host} {option}");
    }
    let leaf = secure.ca.leaf("late", &["late.default.svc"]).unwrap();
    let origin = TlsOrigin::start(&leaf, &["http/1.1"], secure.bed.origin.addr()).await;
    secure.bed.add_service("late", 443, origin.address);
    let url = secure.url("late.localhost");
    // That it is missing was found a moment ago, and holds for another.
    let works = async || (curl(&["--insecure", &url]).await.status == 200).then_some(());
    eventually(DEADLINE, "the service's own answer", works).await;
}

#[tokio::test]
async fn tls_to_a_plain_service_says_what_to_do() {
    let secure = Secure::start_with(&[], &[&super::support::web()]).await;
    let answer = curl(&["--insecure", &secure.url("web.localhost")]).await;
    assert_eq!((answer.exit, answer.status), (0, 502), "{}", answer.text());
    assert!(answer.text().contains("gateway.tls: local"), "{}", answer.text());
}

/// The certificate of the authority that `adit up` made.
fn authority(up: &Secure) -> String {
    up.bed.home.path().join("state/adit/ca/ca.pem").display().to_string()
}

#[tokio::test]
async fn a_route_that_terminates_has_a_certificate_of_the_local_authority() {
    let web = format!("web.localhost: {{ to: \"{}\", tls: terminate }}", super::support::WEB);
    let secure = Secure::start_with(&[], &[&web]).await;
    let ca = authority(&secure);
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let answer = curl(&["--cacert", &ca, option, &secure.url("web.localhost")]).await;
        assert_eq!((answer.exit, answer.status, answer.version.as_str()), (0, 200, version), "{}", answer.text());
        let head = answer.text().to_lowercase();
        assert!(head.contains("x-forwarded-proto: https") && head.contains("proto=https"), "{head}");
    }
    // The others are handed on as before.
    let answer = curl(&["--cacert", &secure.ca.path().display().to_string(), &secure.url(HOST)]).await;
    assert_eq!((answer.exit, answer.status), (0, 200));
}

#[tokio::test]
async fn with_a_local_authority_tls_ends_here_for_every_route_and_dynamic_host() {
    let secure = Secure::start_with(&["tls: local"], &[&super::support::web()]).await;
    let ca = authority(&secure);
    for host in ["web.localhost", "web-80.svc.default.ns.fake.cx.k8s.localhost"] {
        let answer = curl(&["--cacert", &ca, &secure.url(host)]).await;
        assert_eq!((answer.exit, answer.status), (0, 200), "{host}: {}", answer.text());
        assert!(answer.text().to_lowercase().contains("x-forwarded-proto: https"), "{host}: {}", answer.text());
    }
    // So that is what an index that came by http links to.
    let (_, index) = secure.up.json("localhost", "/").await;
    for host in ["web.localhost", "web-80.svc.default.ns.fake.cx.k8s.localhost"] {
        assert!(index.to_string().contains(&format!("\"url\":\"https://{host}:")), "{index}");
    }
    let unknown = secure.url("unknown.localhost");
    assert_eq!(secure.up.event("untrusted").await["hint"], "adit trust");
    // An authority that browsers trust vouches for hosts that are routed here, and for no other.
    assert_eq!(curl(&["--cacert", &ca, &unknown]).await.exit, 60, "not trusted");
    let answer = curl(&["-k", &unknown]).await;
    assert_eq!((answer.exit, answer.status), (0, 404), "a page: {}", answer.text());
}

#[tokio::test]
async fn with_a_local_authority_an_address_without_a_name_is_the_gateway_with_a_certificate_for_it() {
    let secure = Secure::start_with(&["tls: local"], &[]).await;
    let ca = authority(&secure);
    // An address is not sent as a name.
    let url = format!("https://{}/", secure.up.gateway());
    let answer = curl(&["--cacert", &ca, "-H", "accept: text/html", &url]).await;
    assert_eq!((answer.exit, answer.status), (0, 200), "{}", answer.text());
    assert!(answer.text().contains("adit gateway"), "{}", answer.text());
    // What has a route of its own is still not guessed at.
    let answer = curl(&["--cacert", &ca, "-H", &format!("host: {HOST}"), &url]).await;
    assert_eq!((answer.exit, answer.status), (0, 400), "{}", answer.text());
}

#[tokio::test]
async fn whoever_turns_local_tls_on_is_told_how_browsers_come_to_trust_it() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[])).await;
    up.reload(&bed, &gateway(&["tls: local"], &[])).await;
    assert_eq!(up.event("untrusted").await["hint"], "adit trust");
    // Once is enough.
    up.reload(&bed, &gateway(&["tls: local"], &[&super::support::web()])).await;
    assert_eq!(up.count("untrusted"), 1);
}

#[tokio::test]
async fn an_https_service_is_verified_unless_told_otherwise() {
    let secure = Secure::start().await;
    let answer = raw::get(secure.up.gateway(), HOST, "/").await.unwrap();
    assert_eq!(answer.status, 502, "not signed by an authority of this system: {}", answer.text());
    let route = |tls: &str| {
        let to = "k8s://fake/default/service/secure:443";
        gateway(&[], &[&format!("{HOST}: {{ to: \"{to}\", scheme: https, tls: {{ {tls} }} }}")])
    };
    let ca = secure.ca.path().display().to_string();
    for (tls, status) in [
        ("verify: false".to_owned(), 200),
        (format!("ca: {ca}, server_name: {HOST}"), 200),
        (format!("ca: {ca}, server_name: other.example"), 502),
        (format!("ca: {ca}, server_name: secure.default.svc"), 200),
    ] {
        secure.up.reload(&secure.bed, &route(&tls)).await;
        let answer = raw::get(secure.up.gateway(), HOST, "/").await.unwrap();
        assert_eq!(answer.status, status, "{tls}: {}", answer.text());
    }
}

/// `ulimit -n 64`: what is much goes from socket to socket in the kernel, which takes pipes.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn with_few_descriptors_clients_that_read_nothing_take_no_more_than_others() {
    let bed = Bed::start().await;
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = format!("p.localhost: {{ to: \"tcp://{}\", scheme: https }}", service.local_addr().unwrap());
    let _service = beside(async move {
        let mut writing = Vec::new();
        while let Ok((mut stream, _)) = service.accept().await {
            writing.push(beside(async move {
                let piece = vec![7; 1 << 20];
                while stream.write_all(&piece).await.is_ok() {}
            }));
        }
    });
    bed.write(&gateway(&[], &[&route]));
    let up = Up::start(&mut with_descriptors(&bed, 64)).await.errors_expected();
    let (mut held, hello) = (Vec::new(), hello("p.localhost", &[]));
    for _ in 0..8 {
        let mut client = TcpStream::connect(up.gateway()).await.unwrap();
        client.write_all(&hello).await.unwrap();
        // Enough to be seen as much.
        within("its bytes", client.read_exact(&mut vec![0; 4 << 20])).await.unwrap();
        held.push(client);
    }
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", up.process.pid())).unwrap();
    let pipes = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let pipes = pipes.filter(|target| target.to_string_lossy().starts_with("pipe:")).count();
    // Its output is some, too.
    assert!(pipes < 8, "{pipes} of its descriptors are pipes");
}

/// A client with TLS that ends here and its service, with a connection between them that is no HTTP any more.
async fn switched(up: &Up, service: &TcpListener) -> (tokio_rustls::client::TlsStream<TcpStream>, TcpStream) {
    let mut client = Client::connect_tls(up.gateway(), "ws.localhost", trust_anything(&["http/1.1"]))
        .await
        .expect("the test's own connection");
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "echo/1")];
    client
        .send(&raw::head("GET", &up.host("ws.localhost"), "/", &upgrade, None))
        .await
        .expect("the test's own connection");
    let (mut served, _) = within("a connection", service.accept()).await.expect("the test's own connection");
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        assert_ne!(within("a request", served.read_buf(&mut said)).await.expect("the test's own connection"), 0);
    }
    served
        .write_all(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n")
        .await
        .expect("the test's own connection");
    assert_eq!(client.response_head(false).await.expect("the test's own connection").status, 101);
    client.send(b"half of").await.expect("the test's own connection");
    within("its bytes", served.read_exact(&mut [0; 7])).await.expect("the test's own connection");
    (client.into_parts().0, served)
}

#[tokio::test]
async fn what_is_reset_at_one_end_of_an_upgraded_connection_is_reset_at_the_other_with_tls_as_well() {
    let bed = Bed::start().await;
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = format!("ws.localhost: {{ to: \"http://{}\" }}", service.local_addr().unwrap());
    let up = bed.up(&gateway(&["tls: local"], &[&route])).await;
    let (client, mut served) = switched(&up, &service).await;
    Client::new(client.into_inner().0).reset();
    let end = within("its end", served.read(&mut [0; 8])).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "at the service");
    let (mut client, served) = switched(&up, &service).await;
    Client::new(served).reset();
    let end = within("its end", client.read(&mut [0; 8])).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "at the client");
}
