//! The server's end of the protocol, as far as an agent can see it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use mux::frame::{DATA_DEFAULT, FrameType, Limits, flags};
use mux::headers::{AnswerHead, Timing};
use mux::lane::{LaneConfig, Side, StreamError};
use mux::message::{
    self, AuthRefresh, AuthRequest, AuthResponse, Fault, GoAway, Join, JoinResponse, Opaque, RefreshResponse, Register,
    Registered, TunnelResult, TunnelStates,
};
use mux::{ErrorCode, Incoming, Lane, Open, Pool, StreamKind};
use runtime::Scope;
use runtime::tls::{Identity, ReloadingResolver, ServerTrust, server_config};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::within;
use crate::Stream;
use crate::handshake::{self, FrameReader, join_proof_holds};
use crate::lane::{LaneEnd, LaneHandler, LaneShared, LaneTask, TlsPipe};
use crate::wire_http::read_headers;

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What the server answers.
#[derive(Clone, Default)]
pub(super) struct Policy {
    pub(super) auth_error: Option<Fault>,
    pub(super) lanes: u8,
    /// By the name wanted.
    pub(super) refuse: HashMap<String, Fault>,
    pub(super) expires: Option<u64>,
    pub(super) silent_register: bool,
}

/// What agents have said.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) auth: Vec<AuthRequest>,
    pub(super) joins: usize,
    pub(super) registers: Vec<Register>,
    pub(super) unanswered: usize,
    pub(super) refreshes: Vec<AuthRefresh>,
    pub(super) states: TunnelStates,
    pub(super) go_aways: Vec<GoAway>,
    pub(super) ends: Vec<String>,
    pub(super) lanes: Vec<Arc<LaneShared>>,
    sessions: usize,
}

struct Inner {
    policy: Mutex<Policy>,
    heard: Mutex<Heard>,
    ticks: watch::Sender<u64>,
    scope: Scope,
}

/// A tunnel server without the public side.
pub(super) struct FakeServer {
    address: String,
    trust: ServerTrust,
    inner: Arc<Inner>,
}

impl FakeServer {
    pub(super) async fn start() -> Self {
        Self::start_with(Policy { lanes: 1, ..Policy::default() }).await
    }

    pub(super) async fn start_with(policy: Policy) -> Self {
        let identity = Identity::ephemeral(&["localhost".to_owned()]).unwrap();
        let trust = ServerTrust::Pinned(identity.fingerprint().0);
        let tls = server_config(ReloadingResolver::fixed(identity), &[b"adit/1"]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let inner = Arc::new(Inner {
            policy: Mutex::new(policy),
            heard: Mutex::default(),
            ticks: watch::Sender::new(0),
            scope: Scope::root(),
        });
        let shared = Arc::clone(&inner);
        inner.scope.spawn("fake accept", async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (inner, tls) = (Arc::clone(&shared), Arc::clone(&tls));
                shared.scope.spawn("fake greet", async move {
                    if let Ok(pipe) = TlsPipe::accept(tcp, tls).await {
                        inner.greet(pipe).await;
                    }
                });
            }
        });
        Self { address, trust, inner }
    }

    pub(super) fn address(&self) -> String {
        self.address.clone()
    }

    pub(super) fn trust(&self) -> ServerTrust {
        self.trust.clone()
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut Policy)) {
        change(&mut self.inner.policy.lock().unwrap());
    }

    /// Waits until `look` finds something in what was heard.
    pub(super) async fn heard<T>(&self, mut look: impl FnMut(&mut Heard) -> Option<T>) -> T {
        let mut ticks = self.inner.ticks.subscribe();
        within(async {
            loop {
                ticks.mark_unchanged();
                if let Some(found) = look(&mut self.inner.heard.lock().unwrap()) {
                    return found;
                }
                ticks.changed().await.unwrap();
            }
        })
        .await
    }

    /// Waits for so many living lanes.
    pub(super) async fn lanes(&self, count: usize) -> Vec<Arc<LaneShared>> {
        self.heard(|heard| (heard.lanes.len() == count).then(|| heard.lanes.clone())).await
    }

    /// Ends all lanes as a crash would be seen: without a word on any stream.
    pub(super) fn drop_lanes(&self, code: ErrorCode) {
        let lanes = self.inner.heard.lock().unwrap().lanes.clone();
        for lane in lanes {
            lane.close(code, "test");
        }
    }

    /// Opens a stream on the newest lane.
    pub(super) fn open(&self, open: Open, end: bool) -> Stream {
        let lane = self.inner.heard.lock().unwrap().lanes.last().cloned().expect("an agent is connected");
        lane.open(open, end).unwrap()
    }

    /// A request without a body, and its whole answer.
    pub(super) async fn get(&self, target: &str) -> Result<Answer, ErrorCode> {
        answer(&self.open(request("GET", target, &[]), true)).await
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.inner.scope.abort();
    }
}

impl Inner {
    fn note(&self, note: impl FnOnce(&mut Heard)) {
        note(&mut self.heard.lock().unwrap());
        self.ticks.send_modify(|tick| *tick += 1);
    }

    async fn greet(self: Arc<Self>, mut pipe: TlsPipe) {
        let mut reader = FrameReader::new(Limits::Unauthenticated);
        let Ok((header, payload)) = reader.read(&mut pipe).await else {
            return;
        };
        let policy = self.policy.lock().unwrap().clone();
        if header.kind == FrameType::Join {
            let join: Join = message::decode(&payload).unwrap();
            assert!(join_proof_holds(SECRET, &join.session, &join.nonce, join.proof.expose()));
            self.note(|heard| heard.joins += 1);
            handshake::send(&mut pipe, FrameType::Join, flags::ACK, &JoinResponse::default()).await.unwrap();
        } else {
            self.note(|heard| heard.auth.push(message::decode(&payload).unwrap()));
            let session = {
                let mut heard = self.heard.lock().unwrap();
                heard.sessions += 1;
                format!("s{}", heard.sessions)
            };
            let refused = policy.auth_error.is_some();
            let response = AuthResponse {
                error: policy.auth_error,
                session,
                resume_secret: Opaque::new(SECRET),
                account: "acme".into(),
                data_cap: DATA_DEFAULT,
                window: 65_536,
                heartbeat_ms: 1000,
                lanes: policy.lanes,
                expires: policy.expires,
                ..AuthResponse::default()
            };
            let _ = handshake::send(&mut pipe, FrameType::AuthResponse, 0, &response).await;
            if refused {
                return;
            }
        }
        let config = LaneConfig { heartbeat: None, ..LaneConfig::default() };
        let machine = Lane::new(Side::Server, config, Pool::new(1 << 26, None), Instant::now());
        let lane = LaneShared::new(machine, 0);
        self.note(|heard| heard.lanes.push(Arc::clone(&lane)));
        let handler = Arc::new(Handler(Arc::clone(&self)));
        self.scope.spawn("fake lane", LaneTask::new(pipe, lane, handler, reader.into_parts(), DATA_DEFAULT));
    }

    fn register(&self, register: &Register) -> Registered {
        let policy = self.policy.lock().unwrap();
        let tunnels = register.tunnels.iter().map(|spec| TunnelResult {
            id: spec.id,
            error: policy.refuse.get(&spec.name).cloned(),
            url: format!("http://{}.test", spec.name),
            epoch: 1,
        });
        Registered { tunnels: tunnels.collect() }
    }
}

struct Handler(Arc<Inner>);

impl LaneHandler for Handler {
    fn opened(&self, _stream: Stream, _open: Open) {
        panic!("agents open no streams");
    }

    fn control(&self, lane: &Arc<LaneShared>, kind: FrameType, _flags: u8, payload: Vec<u8>) {
        match kind {
            FrameType::Register => {
                let register: Register = message::decode(&payload).unwrap();
                if self.0.policy.lock().unwrap().silent_register {
                    self.0.note(|heard| heard.unanswered += 1);
                } else {
                    lane.send_control(kind, flags::ACK, &message::encode(&self.0.register(&register)));
                }
                self.0.note(|heard| heard.registers.push(register));
            }
            FrameType::AuthRefresh => {
                lane.send_control(kind, flags::ACK, &message::encode(&RefreshResponse::default()));
                self.0.note(|heard| heard.refreshes.push(message::decode(&payload).unwrap()));
            }
            FrameType::TunnelState => {
                self.0.note(|heard| heard.states = message::decode(&payload).unwrap());
            }
            other => panic!("{other:?} is not for a server"),
        }
    }

    fn go_away(&self, _lane: &Arc<LaneShared>, message: GoAway) {
        self.0.note(|heard| heard.go_aways.push(message));
    }

    fn ended(&self, lane: &Arc<LaneShared>, end: LaneEnd) {
        self.0.note(|heard| {
            heard.lanes.retain(|known| !Arc::ptr_eq(known, lane));
            heard.ends.push(end.to_string());
        });
    }
}

/// A whole answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) trailers: http::HeaderMap,
    pub(super) timing: Timing,
    /// The stream was reset after the head.
    pub(super) cut: Option<ErrorCode>,
}

impl Answer {
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// An Open for the first tunnel.
pub(super) fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Open {
    let mut block = Open::header_writer();
    block.pair("host", b"app1.example.com");
    for (name, value) in headers {
        block.pair(name, value.as_bytes());
    }
    Open {
        kind: StreamKind::Http,
        method: Bytes::copy_from_slice(method.as_bytes()),
        target: Bytes::copy_from_slice(target.as_bytes()),
        headers: block.finish().into(),
        ..Open::tcp(1, Some("192.0.2.7:4711".parse().unwrap()), Some("198.51.100.1:443".parse().unwrap()))
    }
}

/// Reads an answer to its end; `Err` when the stream was reset before its head.
pub(super) async fn answer(stream: &Stream) -> Result<Answer, ErrorCode> {
    let mut answer = Answer::default();
    within(async {
        loop {
            match stream.recv().await {
                Ok(Incoming::Head(block)) => {
                    let head = AnswerHead::read(block).unwrap();
                    let headers = read_headers(head.headers).unwrap();
                    if head.status == 0 {
                        answer.trailers = headers;
                    } else {
                        (answer.status, answer.headers, answer.timing) = (head.status, headers, head.timing);
                    }
                }
                Ok(Incoming::Data(bytes)) => answer.body.extend_from_slice(&bytes),
                Ok(Incoming::End) => return Ok(answer),
                Err(StreamError::Reset(code)) if answer.status == 0 => return Err(code),
                Err(StreamError::Reset(code)) => {
                    answer.cut = Some(code);
                    return Ok(answer);
                }
                Err(StreamError::Closed) => panic!("only this test uses the stream"),
            }
        }
    })
    .await
}

/// Reads body bytes until there are as many as expected.
pub(super) async fn expect(stream: &Stream, want: &[u8]) {
    let mut got = Vec::new();
    within(async {
        while got.len() < want.len() {
            match stream.recv().await.unwrap() {
                Incoming::Data(bytes) => got.extend_from_slice(&bytes),
                Incoming::Head(_) => {}
                Incoming::End => panic!("ended after {:?}", String::from_utf8_lossy(&got)),
            }
        }
    })
    .await;
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(want));
}

/// A connection that speaks no protocol of ours, for agents to fail on.
pub(super) async fn silent_listener() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap().to_string(), listener)
}

/// Closes each connection at once.
pub(super) async fn closing(listener: TcpListener) {
    loop {
        let (tcp, _): (TcpStream, _) = listener.accept().await.unwrap();
        drop(tcp);
    }
}
