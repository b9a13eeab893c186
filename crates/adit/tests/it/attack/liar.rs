//! A server that lies (S14, S16): the agent reaches nothing but its own targets, keeps its head, and comes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mux::frame::{FrameType, flags, put_frame};
use mux::message::{AuthRequest, AuthResponse, GoAway, Opaque, Register, Registered, TunnelResult};
use mux::{ErrorCode, Open, StreamKind};
use runtime::Scope;
use tempfile::TempDir;
use testkit::cert::TestCa;
use testkit::origin::HttpOrigin;
use testkit::process::Process;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::wire::{Wire, header_block, idle_load};
use crate::support::{DEADLINE, adit, within};

type ServerWire = Wire<TlsStream<TcpStream>>;

/// A listener that only counts who comes.
struct Bystander {
    address: SocketAddr,
    seen: Arc<AtomicUsize>,
    scope: Scope,
}

impl Bystander {
    /// Another host than the liar's, as far as loopback has hosts.
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.2:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(AtomicUsize::new(0));
        let (scope, counter) = (Scope::root(), Arc::clone(&seen));
        scope.spawn("bystander", async move {
            while listener.accept().await.is_ok() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { address, seen, scope }
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::Relaxed)
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.scope.abort();
    }
}

/// The lying server, and the agent that believes it.
struct Liar {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    origin: HttpOrigin,
    agent: Process,
    _ca: TestCa,
    _home: TempDir,
}

impl Liar {
    async fn start() -> Self {
        let ca = TestCa::new().expect("a certificate");
        let leaf = ca.leaf("liar", &["127.0.0.1", "localhost"]).expect("a certificate");
        let acceptor = TlsAcceptor::from(Arc::new(leaf.server(&["adit/1"]).expect("a certificate")));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let origin = HttpOrigin::start().await.expect("a service");
        let home = tempfile::tempdir().expect("a directory");
        let mut command = adit(home.path());
        command.arg("expose").arg(format!("http://{}", origin.addr())).args(["--as", "app1", "--lanes", "1"]);
        command.arg("--server").arg(listener.local_addr().expect("an address").to_string());
        command.arg("--ca-file").arg(ca.path()).env("ADIT_TOKEN", "adit_anything");
        let agent = Process::start(&mut command).expect("adit starts");
        Self { listener, acceptor, origin, agent, _ca: ca, _home: home }
    }

    /// The agent's next connection, authenticated request read.
    async fn accept(&self) -> (ServerWire, AuthRequest) {
        let connection = async {
            loop {
                let (tcp, _) = self.listener.accept().await.expect("a connection");
                if let Ok(io) = self.acceptor.accept(tcp).await {
                    let mut wire = Wire { io };
                    if let Ok(request) = wire.hear::<AuthRequest>(FrameType::AuthRequest).await {
                        return (wire, request);
                    }
                }
            }
        };
        match tokio::time::timeout(DEADLINE, connection).await {
            Ok(found) => found,
            Err(_) => panic!("the agent did not connect; it said:\n{}", self.agent.output()),
        }
    }

    /// A whole session: the agent is welcomed and its tunnel is published.
    async fn session(&self) -> ServerWire {
        let (mut wire, _) = self.accept().await;
        wire.tell(FrameType::AuthResponse, 0, &welcome()).await.expect("the lane lives");
        self.publish(&mut wire).await;
        wire
    }

    async fn publish(&self, wire: &mut ServerWire) {
        let register: Register = wire.hear(FrameType::Register).await.expect("a Register");
        let tunnels = register.tunnels.iter().map(|spec| TunnelResult {
            id: spec.id,
            url: "http://app1.liar.test".into(),
            epoch: 1,
            ..TunnelResult::default()
        });
        let answer = Registered { tunnels: tunnels.collect() };
        wire.tell(FrameType::Register, flags::ACK, &answer).await.expect("the lane lives");
    }

    /// A request through the tunnel works.
    async fn works(&self, wire: &mut ServerWire, stream: u32) {
        let before = self.origin.requests();
        open(wire, stream, &request(1, "/", &[])).await;
        let frame = loop {
            let frame = wire.until(FrameType::Data).await.expect("an answer");
            if frame.stream == stream {
                break frame;
            }
        };
        assert_eq!(&frame.payload[..2], &200_u16.to_be_bytes());
        assert_eq!(self.origin.requests(), before + 1);
    }

    /// The agent has come back after what was done to it, and works.
    async fn is_back(&self, what: &str) {
        assert!(self.agent.is_running(), "{what}: {}", self.agent.output());
        let mut wire = self.session().await;
        self.works(&mut wire, 2).await;
        let said = self.agent.output();
        assert!(!said.contains("panicked"), "{what}: {said}");
    }
}

fn welcome() -> AuthResponse {
    AuthResponse {
        session: "s1".into(),
        resume_secret: Opaque::new("00".repeat(32)),
        account: "acme".into(),
        data_cap: 16_384,
        window: 65_536,
        heartbeat_ms: 1000,
        lanes: 1,
        ..AuthResponse::default()
    }
}

fn request(tunnel: u32, target: &str, headers: &[(&str, &str)]) -> Open {
    let headers = [&[("host", "app1.liar.test")], headers].concat();
    Open {
        kind: StreamKind::Http,
        method: "GET".into(),
        target: bytes::Bytes::copy_from_slice(target.as_bytes()),
        headers: header_block(&headers),
        credit: 65_536,
        ..Open::tcp(tunnel, None, None)
    }
}

async fn open(wire: &mut ServerWire, stream: u32, open: &Open) {
    wire.send(FrameType::Open, flags::END, stream, &open.encode().expect("a legal Open"))
        .await
        .expect("the lane lives");
}

#[tokio::test]
async fn s14_a_server_reaches_nothing_but_the_agents_own_targets() {
    let liar = Liar::start().await;
    let bystander = Bystander::start().await;
    let mut wire = liar.session().await;
    let elsewhere = bystander.address.to_string();
    let mut stream = 0;
    for tunnel in [0, 2, 99, u32::MAX] {
        stream += 2;
        open(&mut wire, stream, &request(tunnel, "/", &[])).await;
        assert_eq!(wire.reset_of(stream).await, ErrorCode::UnknownTunnel, "tunnel {tunnel}");
    }
    // A byte pipe where there is an HTTP service would pass its checks by.
    stream += 2;
    let pipe = Open { tunnel: 1, ..Open::tcp(1, None, None) };
    wire.send(FrameType::Open, 0, stream, &pipe.encode().unwrap()).await.unwrap();
    assert_eq!(wire.reset_of(stream).await, ErrorCode::Protocol);
    for target in [&*format!("http://{elsewhere}/"), "//evil/", &elsewhere, "@evil", "http:evil"] {
        stream += 2;
        let before = liar.origin.heads().len();
        open(&mut wire, stream, &request(1, target, &[])).await;
        // Refused, or taken for a path of the agent's own service.
        wire.until_over(stream).await;
        assert!(
            liar.origin.heads()[before..].iter().all(|head| head.starts_with(&format!("GET {target} "))),
            "{target}"
        );
    }
    for headers in [[("host", &*elsewhere)], [("x-forwarded-host", &*elsewhere)], [("forwarded", &*elsewhere)]] {
        stream += 2;
        open(&mut wire, stream, &request(1, "/", &headers)).await;
        wire.until_over(stream).await;
    }
    stream += 2;
    liar.works(&mut wire, stream).await;
    assert_eq!(bystander.seen(), 0);
}

impl ServerWire {
    /// Reads until a stream is reset or ended.
    async fn until_over(&mut self, stream: u32) {
        loop {
            let frame = self.read().await.expect("the lane lives");
            let ends = frame.flags & flags::END != 0 || frame.is(FrameType::Close);
            if frame.stream == stream && ends {
                return;
            }
        }
    }
}

#[tokio::test]
async fn s14_a_request_cannot_be_split_on_its_way_to_the_service() {
    let liar = Liar::start().await;
    let mut wire = liar.session().await;
    let before = liar.origin.requests();
    let mut stream = 0;
    let mut bad: Vec<(&str, Open)> = vec![
        ("two lengths", request(1, "/", &[("content-length", "0"), ("content-length", "5")])),
        ("a length that is none", request(1, "/", &[("content-length", "x")])),
        ("length and coding", request(1, "/split", &[("content-length", "0"), ("transfer-encoding", "chunked")])),
    ];
    let mut raw_block = Open::header_writer();
    raw_block.pair("x-a", b"b\r\nx-injected: 1");
    bad.push(("a line end in a value", Open { headers: raw_block.finish().into(), ..request(1, "/", &[]) }));
    bad.push(("a method that is none", Open { method: "GET/x".into(), ..request(1, "/", &[]) }));
    bad.push(("CONNECT", Open { method: "CONNECT".into(), ..request(1, "/", &[]) }));
    bad.push(("a block cut short", Open { headers: vec![0, 9, 1].into(), ..request(1, "/", &[]) }));
    bad.push(("an upgrade to nothing", Open { kind: StreamKind::Upgrade, ..request(1, "/", &[]) }));
    for (what, head) in bad {
        stream += 2;
        open(&mut wire, stream, &head).await;
        wire.until_over(stream).await;
        let heads = liar.origin.heads().join("\n").to_ascii_lowercase();
        assert!(!heads.contains("injected") && !heads.contains("transfer-encoding"), "{what}: {heads}");
    }
    stream += 2;
    liar.works(&mut wire, stream).await;
    assert!(liar.origin.requests() <= before + 2, "{:?}", liar.origin.heads());
}

#[tokio::test]
async fn s14_frames_that_break_the_protocol_cost_the_lane_and_the_agent_comes_back() {
    let flood = |kind: FrameType, payload: &[u8], count: usize| {
        let mut frames = Vec::new();
        for _ in 0..count {
            put_frame(&mut frames, kind, 0, 0, payload);
        }
        frames
    };
    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("garbage", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("a frame that is too long", vec![1, 0x21, 0, 0, 0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff]),
        ("an unknown critical frame", vec![1, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("an Open with the agent's number", vec![1, 0x20, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
        ("an Open that cannot be read", vec![1, 0x20, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 9, 9]),
        ("data for a stream never opened", vec![1, 0x21, 0, 0, 0, 0, 0, 40, 0, 0, 0, 1, 7]),
        ("a ping flood", flood(FrameType::Heartbeat, &[1; 8], 300)),
        ("a flood of settings", flood(FrameType::Settings, b"{}", 3000)),
        ("a Register for the agent", flood(FrameType::Register, b"{}", 1)),
        ("an answer that cannot be read", {
            let mut frame = Vec::new();
            put_frame(&mut frame, FrameType::Register, flags::ACK, 0, b"{\"tunnels\": [[[");
            frame
        }),
        ("a GoAway that cannot be read", flood(FrameType::GoAway, b"x", 1)),
    ];
    for (what, bytes) in attacks {
        // An agent of its own for each: one that lost many sessions in a row waits longer and longer.
        let liar = Liar::start().await;
        let mut wire = liar.session().await;
        let _ = wire.raw(&bytes).await;
        let end = wire.end().await;
        assert!(end.is_none_or(|(code, _)| code != ErrorCode::NoError), "{what}");
        liar.is_back(what).await;
    }
}

#[tokio::test]
async fn s14_streams_that_break_their_credit_are_reset() {
    let liar = Liar::start().await;
    let mut wire = liar.session().await;
    let post = Open { method: "POST".into(), ..request(1, "/sink", &[]) };
    wire.send(FrameType::Open, 0, 2, &post.encode().unwrap()).await.unwrap();
    wire.send(FrameType::Window, 0, 2, &u32::MAX.to_be_bytes()).await.unwrap();
    assert_eq!(wire.reset_of(2).await, ErrorCode::FlowControl);
    wire.send(FrameType::Open, 0, 4, &post.encode().unwrap()).await.unwrap();
    let mut frames = Vec::new();
    for _ in 0..2 {
        put_frame(&mut frames, FrameType::Window, 0, 4, &0x7fff_ffff_u32.to_be_bytes());
    }
    wire.raw(&frames).await.unwrap();
    wire.ends_with(ErrorCode::FlowControl).await;
    liar.is_back("after a window too large").await;
}

#[tokio::test]
async fn s14_what_a_server_says_in_its_welcome_is_held_within_reason() {
    let silly = [
        (
            "wild numbers",
            AuthResponse { lanes: 1, heartbeat_ms: u32::MAX, data_cap: u32::MAX, window: u32::MAX, ..welcome() },
        ),
        ("zeros", AuthResponse { lanes: 0, heartbeat_ms: 0, data_cap: 0, window: 0, ..welcome() }),
        ("an end long ago", AuthResponse { expires: Some(1), ..welcome() }),
        ("an end that never comes", AuthResponse { expires: Some(u64::MAX), ..welcome() }),
        (
            "a session that clears the screen",
            AuthResponse { session: "\u{1b}[2J\n".into(), account: "\u{1b}[31m".into(), ..welcome() },
        ),
    ];
    for (what, response) in silly {
        let liar = Liar::start().await;
        let (mut wire, _) = liar.accept().await;
        wire.tell(FrameType::AuthResponse, 0, &response).await.unwrap();
        liar.publish(&mut wire).await;
        liar.works(&mut wire, 2).await;
        assert!(!liar.agent.output().contains('\u{1b}'), "{what}");
    }
    let liar = Liar::start().await;
    for (what, bytes) in
        [("no JSON", b"{{{".to_vec()), ("an answer of another kind", Vec::new()), ("too much", vec![b' '; 60_000])]
    {
        let (mut wire, _) = liar.accept().await;
        let kind = if bytes.is_empty() { FrameType::Register } else { FrameType::AuthResponse };
        let _ = wire.send(kind, 0, 0, &bytes).await;
        let _ = what;
    }
    // A TLS end, and an end in the middle of the answer.
    let (mut wire, _) = liar.accept().await;
    wire.raw(&[1, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'{']).await.unwrap();
    drop(wire);
    liar.is_back("after silly welcomes").await;
}

#[tokio::test]
async fn s14_a_server_that_falls_silent_is_left_within_its_heartbeats() {
    let liar = Liar::start().await;
    let mut wire = liar.session().await;
    // It hears, and never answers: two heartbeats of 1 s.
    within("the agent gives the lane up", wire.end()).await;
    // Silent before its answer.
    let (held, _) = liar.accept().await;
    let mut again =
        tokio::time::timeout(Duration::from_secs(20), liar.listener.accept()).await.expect("it tries anew").unwrap();
    // Silent before TLS.
    let _ = &mut again;
    drop((held, again));
    liar.is_back("after silence").await;
}

#[tokio::test]
async fn s14_a_go_away_does_not_send_the_agent_to_other_hosts() {
    let liar = Liar::start().await;
    let bystander = Bystander::start().await;
    let mut wire = liar.session().await;
    let servers =
        vec![bystander.address.to_string(), format!("127.0.0.1@{}", bystander.address), "x y".into(), String::new()];
    let message = GoAway { reason: "elsewhere".into(), servers, ..GoAway::default() };
    wire.tell(FrameType::GoAway, 0, &message).await.unwrap();
    liar.is_back("after a GoAway").await;
    drop(wire);
    assert_eq!(bystander.seen(), 0, "a server can make agents connect anywhere in their network");
}

#[tokio::test]
async fn s14_a_flood_of_opens_nobody_reads_answers_of_ends_and_the_agent_rests() {
    let liar = Liar::start().await;
    let mut wire = liar.session().await;
    let head = request(99, "/", &[]).encode().unwrap();
    let mut frames = Vec::new();
    for number in 1..=20_000 {
        put_frame(&mut frames, FrameType::Open, flags::END, number * 2, &head);
    }
    let _ = tokio::time::timeout(Duration::from_secs(5), wire.raw(&frames)).await;
    drop(wire);
    liar.is_back("after a flood").await;
    let load = idle_load(&liar.agent).await;
    assert!(load < 0.5, "{load}");
}
