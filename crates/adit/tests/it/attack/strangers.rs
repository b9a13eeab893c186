//! Those who connect and never say who they are (S1, S2), and those who join a session that is not theirs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mux::frame::{FrameType, put_frame};
use mux::message::{self, Register};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};
use testkit::cert::trust_anything;
use testkit::origin::HttpOrigin;
use testkit::raw;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::wire::{RawAgent, Wire, http, idle_load, join_proof, request, try_join};
use crate::support::{DEADLINE, Publish, SOON, Server, eventually};

/// Times so short that a test can wait for them.
const SHORT: &str = "limits: { tls_timeout: 800ms, auth_timeout: 800ms, header_timeout: 800ms, idle_timeout: 60s }";

async fn silent(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(TcpStream::connect(address).await.expect("loopback connects"));
    }
    streams
}

/// Waits until the peer has closed; true when it said nothing before.
async fn closed_without_a_word(stream: &mut TcpStream) -> bool {
    let mut said = Vec::new();
    // A reset is an end too.
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut said)).await.expect("the peer closes");
    said.is_empty()
}

#[tokio::test]
async fn s1_silent_connections_on_each_listener_do_not_delay_a_new_agent() {
    let server = Server::start().await;
    let mut held = Vec::new();
    for address in [server.public, server.agents, server.admin] {
        held.extend(silent(address, 200).await);
    }
    let token = server.token("acme");
    // The quickest of a few: the machine may be busy with other tests, which is not what is measured here.
    let mut best = Duration::MAX;
    for number in 0..5 {
        let started = Instant::now();
        let mut agent = RawAgent::with_token(&server, &token, &format!("a{number}")).await.unwrap();
        agent.publish(&format!("a{number}")).await.unwrap();
        best = best.min(started.elapsed());
    }
    assert!(best < Duration::from_millis(200), "{best:?}");
    assert_eq!(server.admin("/health/ready").await.status, 200);
    drop(held);
}

#[tokio::test]
async fn s1_running_out_of_descriptors_neither_ends_nor_spins_the_server_and_it_recovers() {
    // A reload that comes just then cannot read its files, and says so.
    let server = Server::setup().errors_expected().start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let agent = Publish::to(&server).http("app1", origin.addr()).start().await;
    let pid = Pid::from_raw(i32::try_from(server.process().pid()).unwrap()).unwrap();
    let few = Rlimit { current: Some(64), maximum: Some(64) };
    prlimit(Some(pid), Resource::Nofile, few).unwrap();
    let mut held = Vec::new();
    for address in [server.public, server.agents, server.admin] {
        held.extend(silent(address, 150).await);
    }
    eventually(DEADLINE, "a warning about descriptors", || async {
        server.process().output().contains("Too many open files").then_some(())
    })
    .await;
    let load = idle_load(server.process()).await;
    assert!(load < 0.5, "the server spins: {load}");
    assert!(server.process().is_running());
    drop(held);
    eventually(DEADLINE, "an answer after the flood", || async {
        let answer = raw::get(server.public, &server.host("app1"), "/").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    let token = server.token("acme");
    eventually(DEADLINE, "a token made after the flood is known", || async {
        RawAgent::with_token(&server, &token, "late").await.ok()
    })
    .await;
    assert!(!server.process().stderr().contains("panicked"));
    drop(agent);
}

#[tokio::test]
async fn s2_silent_strangers_are_shown_the_door() {
    let server = Server::setup().section(SHORT).start().await;
    let started = Instant::now();
    let mut mute = TcpStream::connect(server.agents).await.unwrap();
    assert!(closed_without_a_word(&mut mute).await);
    let mut polite = Wire::connect(server.agents).await.unwrap();
    assert_eq!(polite.end().await, None);
    let took = started.elapsed();
    assert!(took > Duration::from_millis(1500) && took < Duration::from_secs(8), "{took:?}");
    // Counted just after the stranger is shown the door.
    let counted =
        || async { (server.metric("tunnel_errors_total{type=\"auth_timeout\"").await == Some(1.0)).then_some(()) };
    eventually(DEADLINE, "it is counted", counted).await;
}

#[tokio::test]
async fn s2_a_stranger_that_drips_its_frame_has_no_more_time_than_a_silent_one() {
    let server = Server::setup().section(SHORT).start().await;
    let mut wire = Wire::connect(server.agents).await.unwrap();
    let mut frame = Vec::new();
    put_frame(&mut frame, FrameType::AuthRequest, 0, 0, &message::encode(&request("x", "slow")));
    let started = Instant::now();
    let mut ended = false;
    for byte in frame {
        if wire.raw(&[byte]).await.is_err() || started.elapsed() > Duration::from_secs(5) {
            ended = true;
            break;
        }
        // The pace of the drip, which is the attack itself.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(ended && started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn s2_nothing_but_one_small_frame_is_taken_before_authentication() {
    let server = Server::start().await;
    let header = |kind: u8, length: u32| {
        let mut bytes = vec![1, kind, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes
    };
    let attempts: [(&str, Vec<u8>); 7] = [
        ("an auth frame over 8 KiB, by its header alone", header(0x01, 8193)),
        ("a Register", [header(0x10, 2), b"{}".to_vec()].concat()),
        ("a heartbeat", [header(0x00, 8), vec![0; 8]].concat()),
        ("an Open", header(0x20, 40)),
        ("another version", [vec![9], header(0x01, 10)[1..].to_vec()].concat()),
        ("HTTP", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("an auth frame that is no JSON", [header(0x01, 4), b"\xff\xfe{{".to_vec()].concat()),
    ];
    for (what, bytes) in attempts {
        let started = Instant::now();
        let mut wire = Wire::connect(server.agents).await.unwrap();
        wire.raw(&bytes).await.unwrap();
        assert_eq!(wire.end().await, None, "{what}");
        assert!(started.elapsed() < SOON, "{what}: {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn s2_a_frame_behind_a_refused_authentication_is_not_looked_at() {
    let server = Server::start().await;
    let token = server.token("acme");
    let mut wire = Wire::connect(server.agents).await.unwrap();
    let mut bytes = Vec::new();
    put_frame(&mut bytes, FrameType::AuthRequest, 0, 0, &message::encode(&request("adit_wrong", "two")));
    put_frame(&mut bytes, FrameType::AuthRequest, 0, 0, &message::encode(&request(&token, "two")));
    let register = Register { tunnels: vec![http(1, "sneaky")] };
    put_frame(&mut bytes, FrameType::Register, 0, 0, &message::encode(&register));
    let started = Instant::now();
    wire.raw(&bytes).await.unwrap();
    let answer: message::AuthResponse = wire.hear(FrameType::AuthResponse).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(250), "a failed authentication is delayed");
    assert_eq!(answer.error.unwrap().code, "invalid_token");
    assert!(answer.session.is_empty());
    assert_eq!(wire.end().await, None);
    assert_eq!(server.get("sneaky", "/").await.status, 404);
    let line = server.audited("authentication_failed").await;
    assert_eq!(line["reason"], "invalid_token");
    assert_eq!(server.metric("tunnel_errors_total{type=\"auth\"").await, Some(1.0));
}

#[tokio::test]
async fn s2_strangers_have_so_many_places_and_no_more() {
    let server = Server::setup().section("limits: { unauthenticated: 8 }").start().await;
    let mut held = silent(server.agents, 8).await;
    let mut ninth = TcpStream::connect(server.agents).await.unwrap();
    let started = Instant::now();
    assert!(closed_without_a_word(&mut ninth).await);
    assert!(started.elapsed() < SOON);
    held.truncate(4);
    let token = server.token("acme");
    eventually(DEADLINE, "a place for an agent", || async {
        let mut wire = Wire::connect(server.agents).await.ok()?;
        wire.tell(FrameType::AuthRequest, 0, &request(&token, "patient")).await.ok()?;
        wire.hear::<message::AuthResponse>(FrameType::AuthResponse).await.ok()
    })
    .await;
    assert!(server.metric("tunnel_errors_total{type=\"unauthenticated_limit\"").await.is_some());
}

#[tokio::test]
async fn s2_a_join_needs_the_sessions_secret_and_a_nonce_of_its_own() {
    let server = Server::start().await;
    let agent = RawAgent::start(&server).await;
    let nonce = "00112233445566778899aabbccddeeff";
    let good = agent.join(nonce);

    let mut wrong_proof = good.clone();
    wrong_proof.proof = message::Opaque::new(join_proof("0".repeat(64).as_str(), &agent.welcome.session, nonce));
    let mut no_proof = good.clone();
    no_proof.proof = message::Opaque::new("");
    let mut other_session = good.clone();
    other_session.session = "00".repeat(12);
    let short_nonce = agent.join("0011");
    for (what, join) in [
        ("wrong proof", &wrong_proof),
        ("no proof", &no_proof),
        ("unknown session", &other_session),
        ("short nonce", &short_nonce),
    ] {
        assert_eq!(try_join(&server, join).await.err().as_deref(), Some("join_refused"), "{what}");
    }
    // A refused Join has not used the nonce up; an accepted one has.
    let second = try_join(&server, &good).await.expect("the proof is right");
    assert_eq!(try_join(&server, &good).await.err().as_deref(), Some("join_refused"), "a replay");
    let third = try_join(&server, &agent.join("ffeeddccbbaa99887766554433221100")).await;
    assert_eq!(third.err().as_deref(), Some("lanes_exceeded"), "two lanes were granted");
    drop((agent, second));
    assert_eq!(server.audited("authentication_failed").await["reason"], "join_refused");
}

#[tokio::test]
async fn s2_a_join_cannot_follow_a_session_that_has_ended() {
    let server = Server::start().await;
    let agent = RawAgent::start(&server).await;
    let join = agent.join("00112233445566778899aabbccddeeff");
    drop(agent);
    server.audited("session_ended").await;
    assert_eq!(try_join(&server, &join).await.err().as_deref(), Some("join_refused"));
}

/// TLS 1.3 records made by hand (RFC 8446, 5.2 and 5.3).
struct Sealer {
    key: aws_lc_rs::aead::LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Sealer {
    fn new(secrets: ExtractedSecrets) -> Self {
        use aws_lc_rs::aead;
        let (sequence, secret) = secrets.tx;
        let (algorithm, key, iv) = match secret {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => panic!("a cipher of TLS 1.3"),
        };
        let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, key.as_ref()).expect("the key fits"));
        Self { key, iv: iv.as_ref().try_into().expect("12 bytes"), sequence }
    }

    /// A record of this content type.
    fn seal(&mut self, content: &[u8], kind: u8) -> Vec<u8> {
        use aws_lc_rs::aead;
        let length = u16::try_from(content.len() + 17).expect("a short record").to_be_bytes();
        let head = [0x17, 3, 3, length[0], length[1]];
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        let mut inner = [content, &[kind]].concat();
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, aead::Aad::from(head), &mut inner).expect("it can be sealed");
        [head.to_vec(), inner].concat()
    }
}

/// A connection whose TLS is made by hand from here on.
async fn by_hand(server: SocketAddr) -> (TcpStream, Sealer) {
    let mut config = trust_anything(&[]);
    config.enable_secret_extraction = true;
    let (tcp, tls) = raw::tls(server, "localhost", config).await.expect("a handshake").into_inner();
    (tcp, Sealer::new(tls.dangerous_extract_secrets().expect("secrets")))
}

const HANDSHAKE: u8 = 22;

#[tokio::test]
async fn s1_a_cut_handshake_message_after_the_handshake_neither_stops_nor_spins_the_server() {
    let server = Server::setup().section(SHORT).start().await;
    let (mut tcp, mut sealer) = by_hand(server.agents).await;
    // A KeyUpdate (RFC 8446, 4.6.3) without its last byte.
    tcp.write_all(&sealer.seal(&[24, 0, 0, 1], HANDSHAKE)).await.unwrap();
    let mut agent = RawAgent::start(&server).await;
    agent.publish("still").await.unwrap();
    let load = idle_load(server.process()).await;
    assert!(load < 0.5, "the server spins: {load}");
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, tcp.read_to_end(&mut rest)).await.expect("its time runs out");
}

#[tokio::test]
async fn s3_a_large_handshake_message_in_many_records_is_refused() {
    let server = Server::setup().section(SHORT).start().await;
    let (mut tcp, mut sealer) = by_hand(server.agents).await;
    // It claims to be 60,000 bytes long, which TLS allows, and comes in pieces of 4 KiB.
    let mut piece = vec![24, 0, 0xea, 0x60];
    piece.resize(4096, 0);
    for _ in 0..15 {
        if tcp.write_all(&sealer.seal(&piece, HANDSHAKE)).await.is_err() {
            break;
        }
        piece.fill(0);
    }
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, tcp.read_to_end(&mut rest)).await.expect("it is refused");
    RawAgent::start(&server).await;
}

#[tokio::test]
async fn s1_a_key_update_in_every_record_is_not_answered_for_ever() {
    let server = Server::setup().section(SHORT).start().await;
    let (mut tcp, mut sealer) = by_hand(server.agents).await;
    // Asking for an answer; the sender's own key must change with each, so only the first can be read.
    for _ in 0..3 {
        let _ = tcp.write_all(&sealer.seal(&[24, 0, 0, 1, 1], HANDSHAKE)).await;
    }
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, tcp.read_to_end(&mut rest)).await.expect("it ends");
    assert!(rest.len() < 4096, "{}", rest.len());
    RawAgent::start(&server).await;
}

#[tokio::test]
async fn s1_a_session_survives_the_ends_of_strangers() {
    let server = Server::start().await;
    let mut agent = RawAgent::publishing(&server, "steady").await;
    for _ in 0..20 {
        let tcp = TcpStream::connect(server.agents).await.unwrap();
        raw::Client::new(tcp).reset();
        drop(Wire::connect(server.agents).await.unwrap());
    }
    let visitor = server.get("steady", "/");
    let serve = async {
        let (stream, _) = agent.wire.opened().await;
        agent.wire.answer_text(stream, "here").await.unwrap();
    };
    let (answer, ()) = tokio::join!(visitor, serve);
    assert_eq!(answer.text(), "here");
}
