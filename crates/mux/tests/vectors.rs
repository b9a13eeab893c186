//! Hex of every frame: a changed vector is a change of the protocol.
//!
//! The same lines stand in `docs/reference/protocol.md`.

use std::fmt::Write as _;

use bytes::Bytes;
use mux::frame::{DATA_DEFAULT, FrameType, HEADER_LEN, Limits, flags, put_frame};
use mux::headers::{AnswerHead, BlockReader, BlockWriter, STATIC_NAMES, Timing};
use mux::lane::StreamError;
use mux::message::{self, Fault, Opaque, TunnelKind, TunnelResult, TunnelSpec, TunnelState};
use mux::open::Scheme;
use mux::{Decoder, ErrorCode, Header, Open, StreamKind};

/// A vector: what it shows, and the frame as `header payload` in hex.
struct Vector {
    shows: &'static str,
    kind: FrameType,
    flags: u8,
    stream: u32,
    payload: fn() -> Vec<u8>,
    hex: &'static str,
}

const fn vector(
    shows: &'static str,
    (kind, flags, stream): (FrameType, u8, u32),
    payload: fn() -> Vec<u8>,
    hex: &'static str,
) -> Vector {
    Vector { shows, kind, flags, stream, payload, hex }
}

#[rustfmt::skip]
const VECTORS: &[Vector] = &[
    vector("Heartbeat", (FrameType::Heartbeat, 0, 0), || 1u64.to_be_bytes().to_vec(), 
        "010000000000000000000008 0000000000000001"),
    vector("Heartbeat, echo", (FrameType::Heartbeat, flags::ACK, 0), || 1u64.to_be_bytes().to_vec(), 
        "010002000000000000000008 0000000000000001"),
    vector("AuthRequest", (FrameType::AuthRequest, 0, 0), auth_request, 
        "0101000000000000000000ad 7b22746f6b656e223a22616469745f736563726574222c226167656e745f6964223a226c6170746f70222c22696e7374616e6365223a223030313132323333343435353636373738383939616162626363646465656666222c22736f667477617265223a22616469742f302e312e30222c226361706162696c6974696573223a5b5d2c22646174615f636170223a31363338342c2277696e646f77223a36353533362c226c616e6573223a327d"),
    vector("AuthResponse, welcome", (FrameType::AuthResponse, 0, 0), auth_response, 
        "0102000000000000000000de 7b2273657373696f6e223a227331222c22726573756d655f736563726574223a2230313233343536373839616263646566303132333435363738396162636465663031323334353637383961626364656630313233343536373839616263646566222c2265706f6368223a372c226163636f756e74223a2261222c22646174615f636170223a31363338342c2277696e646f77223a36353533362c226865617274626561745f6d73223a353030302c226c616e6573223a322c22736f667477617265223a22616469742f302e312e30222c2273657276657273223a5b5d7d"),
    vector("AuthResponse, refused", (FrameType::AuthResponse, 0, 0), auth_refused, 
        "0102000000000000000000ca 7b226572726f72223a7b22636f6465223a22696e76616c69645f746f6b656e222c226d657373616765223a2274686520746f6b656e206973206e6f74206b6e6f776e227d2c2273657373696f6e223a22222c22726573756d655f736563726574223a22222c2265706f6368223a302c226163636f756e74223a22222c22646174615f636170223a302c2277696e646f77223a302c226865617274626561745f6d73223a302c226c616e6573223a302c22736f667477617265223a22222c2273657276657273223a5b5d7d"),
    vector("Settings (no fields in this version)", (FrameType::Settings, 0, 0), || b"{}".to_vec(), 
        "010300000000000000000002 7b7d"),
    vector("AuthRefresh", (FrameType::AuthRefresh, 0, 0), || message::encode(&message::AuthRefresh { token: Opaque::new("adit_new") }), 
        "010400000000000000000014 7b22746f6b656e223a22616469745f6e6577227d"),
    vector("AuthRefresh, answer", (FrameType::AuthRefresh, flags::ACK, 0), || message::encode(&message::RefreshResponse { error: None, expires: Some(1_800_000_000) }), 
        "010402000000000000000016 7b2265787069726573223a313830303030303030307d"),
    vector("Register", (FrameType::Register, 0, 0), register, 
        "01100000000000000000007c 7b2274756e6e656c73223a5b7b226964223a312c226b696e64223a2268747470222c226e616d65223a2261707031222c22706f7274223a302c226865616c746879223a747275657d2c7b226964223a322c226b696e64223a22746370222c22706f7274223a31353433322c226865616c746879223a747275657d5d7d"),
    vector("Register, answer", (FrameType::Register, flags::ACK, 0), registered, 
        "0110020000000000000000c1 7b2274756e6e656c73223a5b7b226964223a312c2275726c223a2268747470733a2f2f617070312e6578616d706c652e636f6d222c2265706f6368223a377d2c7b226964223a322c226572726f72223a7b22636f6465223a2271756f74615f6578636565646564222c226d657373616765223a22746f6f206d616e79222c2268696e74223a22756e7075626c697368206f6e65222c2272657472795f61667465725f6d73223a313030307d2c2275726c223a22222c2265706f6368223a307d5d7d"),
    vector("Unregister", (FrameType::Unregister, 0, 0), || message::encode(&message::Unregister { ids: vec![1, 2] }), 
        "01110000000000000000000d 7b22696473223a5b312c325d7d"),
    vector("TunnelState", (FrameType::TunnelState, 0, 0), tunnel_state, 
        "011200000000000000000044 7b2274756e6e656c73223a5b7b226964223a312c226865616c746879223a66616c73652c22726561736f6e223a22636f6e6e656374696f6e2072656675736564227d5d7d"),
    vector("Open, http, no body", (FrameType::Open, flags::END, 2), open_http, 
        "01200100000000020000005b 010100000000000100010000abababababababababababababababab04c0000207126704c633640101bb03474554000a2f68656c6c6f3f613d310002010010617070312e6578616d706c652e636f6d000006782d64656d6f000131"),
    vector("Open, upgrade", (FrameType::Open, 0, 4), open_upgrade, 
        "01200000000000040000004c 0200000000000001000100000000000000000000000000000000000000000347455400072f736f636b65740002010010617070312e6578616d706c652e636f6d3b0009776562736f636b6574"),
    vector("Open, tcp", (FrameType::Open, 0, 6), open_tcp, 
        "012000000000000600000047 030000000000000200004000000000000000000000000000000000000620010db800000000000000000000000712670620010db80000000000000000000000013c480000000000"),
    vector("Data, answer head", (FrameType::Data, flags::HEADERS, 2), answer_head, 
        "01210400000000020000001d 00c80000007800000d4800021c000a746578742f706c61696e18000136"),
    vector("Data, body", (FrameType::Data, 0, 2), || b"hello".to_vec(), 
        "012100000000000200000005 68656c6c6f"),
    vector("Data, last of the body", (FrameType::Data, flags::END, 2), || b"!".to_vec(), 
        "012101000000000200000001 21"),
    vector("Data, bare END", (FrameType::Data, flags::END, 2), Vec::new, 
        "012101000000000200000000"),
    vector("Data, bulk hint", (FrameType::Data, flags::BULK, 2), || b"hello".to_vec(), 
        "012120000000000200000005 68656c6c6f"),
    vector("Data, trailers", (FrameType::Data, flags::HEADERS | flags::END, 2), trailers, 
        "012105000000000200000010 00000000000000000000000125000130"),
    vector("Close", (FrameType::Close, 0, 6), Vec::new, 
        "012200000000000600000000"),
    vector("Close, reset: cancel", (FrameType::Close, flags::RST, 2), || code(ErrorCode::Cancel), 
        "012208000000000200000002 0008"),
    vector("Close, reset: refused", (FrameType::Close, flags::RST, 8), || code(ErrorCode::Refused), 
        "012208000000000800000002 0007"),
    vector("Window", (FrameType::Window, 0, 2), || 65_536u32.to_be_bytes().to_vec(), 
        "012300000000000200000004 00010000"),
    vector("Window, credit handed back", (FrameType::Window, flags::ACK, 2), || 131_072u32.to_be_bytes().to_vec(), 
        "012302000000000200000004 00020000"),
    vector("Datagram (not used in this version)", (FrameType::Datagram, 0, 10), || b"ping".to_vec(), 
        "012500000000000a00000004 70696e67"),
    vector("GoAway", (FrameType::GoAway, 0, 0), go_away, 
        "01300000000000000000006c 7b226c6173745f73747265616d223a362c22726561736f6e223a2272657374617274222c2272657472795f61667465725f6d73223a3235302c227065726d616e656e74223a66616c73652c2273657276657273223a5b22622e6578616d706c652e636f6d3a38343433225d7d"),
    vector("Join", (FrameType::Join, 0, 0), join, 
        "013100000000000000000086 7b2273657373696f6e223a227331222c2270726f6f66223a2238636639643138616339396665313037303862656262356430646661383135316230663233383163363963306338376464656232613137346334363831376661222c226e6f6e6365223a226666656564646363626261613939383837373636353534343333323231313030227d"),
    vector("Join, answer", (FrameType::Join, flags::ACK, 0), || message::encode(&message::JoinResponse::default()), 
        "013102000000000000000002 7b7d"),
    vector("an optional type this version does not know", (FrameType::Optional(0x40), 0, 0), || b"?".to_vec(), 
        "014000000000000000000001 3f"),
    vector("Error", (FrameType::Error, 0, 0), error, 
        "01ff00000000000000000017 000b00746f6f206d616e792050696e67206672616d6573"),
];

fn auth_request() -> Vec<u8> {
    message::encode(&message::AuthRequest {
        token: Opaque::new("adit_secret"),
        agent_id: "laptop".into(),
        instance: "00112233445566778899aabbccddeeff".into(),
        software: "adit/0.1.0".into(),
        capabilities: vec![],
        data_cap: 16_384,
        window: 65_536,
        lanes: 2,
    })
}

fn auth_response() -> Vec<u8> {
    message::encode(&message::AuthResponse {
        session: "s1".into(),
        resume_secret: Opaque::new("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
        epoch: 7,
        account: "a".into(),
        data_cap: 16_384,
        window: 65_536,
        heartbeat_ms: 5_000,
        lanes: 2,
        software: "adit/0.1.0".into(),
        ..message::AuthResponse::default()
    })
}

fn auth_refused() -> Vec<u8> {
    message::encode(&message::AuthResponse {
        error: Some(Fault {
            code: "invalid_token".into(),
            message: "the token is not known".into(),
            ..Fault::default()
        }),
        ..message::AuthResponse::default()
    })
}

fn register() -> Vec<u8> {
    let http =
        TunnelSpec { id: 1, kind: TunnelKind::Http, name: "app1".into(), healthy: true, ..TunnelSpec::default() };
    let tcp = TunnelSpec { id: 2, kind: TunnelKind::Tcp, port: 15_432, healthy: true, ..TunnelSpec::default() };
    message::encode(&message::Register { tunnels: vec![http, tcp] })
}

fn registered() -> Vec<u8> {
    let published = TunnelResult { id: 1, url: "https://app1.example.com".into(), epoch: 7, ..TunnelResult::default() };
    let fault = Fault {
        code: "quota_exceeded".into(),
        message: "too many".into(),
        hint: "unpublish one".into(),
        retry_after_ms: 1_000,
    };
    let refused = TunnelResult { id: 2, error: Some(fault), ..TunnelResult::default() };
    message::encode(&message::Registered { tunnels: vec![published, refused] })
}

fn tunnel_state() -> Vec<u8> {
    let down = TunnelState { id: 1, healthy: false, reason: "connection refused".into() };
    message::encode(&message::TunnelStates { tunnels: vec![down] })
}

fn open_http() -> Vec<u8> {
    let mut block = Open::header_writer();
    assert!(block.pair("host", b"app1.example.com") && block.pair("x-demo", b"1"));
    let open = Open {
        kind: StreamKind::Http,
        scheme: Scheme::Tls,
        hops: 0,
        tunnel: 1,
        credit: 65_536,
        trace: [0xab; 16],
        visitor: Some(([192, 0, 2, 7], 4711).into()),
        entrance: Some(([198, 51, 100, 1], 443).into()),
        method: Bytes::from_static(b"GET"),
        target: Bytes::from_static(b"/hello?a=1"),
        headers: block.finish().into(),
    };
    open.encode().expect("short parts")
}

fn open_upgrade() -> Vec<u8> {
    let mut block = Open::header_writer();
    assert!(block.pair("host", b"app1.example.com") && block.pair("upgrade", b"websocket"));
    let open = Open {
        kind: StreamKind::Upgrade,
        method: Bytes::from_static(b"GET"),
        target: Bytes::from_static(b"/socket"),
        credit: 65_536,
        headers: block.finish().into(),
        ..Open::tcp(1, None, None)
    };
    open.encode().expect("short parts")
}

fn open_tcp() -> Vec<u8> {
    let visitor = "[2001:db8::7]:4711".parse().expect("an address");
    let entrance = "[2001:db8::1]:15432".parse().expect("an address");
    let open = Open { credit: 16_384, ..Open::tcp(2, Some(visitor), Some(entrance)) };
    open.encode().expect("short parts")
}

fn answer_head() -> Vec<u8> {
    let mut block = AnswerHead::writer(200, Timing { agent_micros: 120, local_micros: 3_400 });
    assert!(block.pair("content-type", b"text/plain") && block.pair("content-length", b"6"));
    block.finish()
}

fn trailers() -> Vec<u8> {
    let mut block = AnswerHead::writer(0, Timing::default());
    assert!(block.pair("grpc-status", b"0"));
    block.finish()
}

fn code(code: ErrorCode) -> Vec<u8> {
    code.to_wire().to_be_bytes().to_vec()
}

fn go_away() -> Vec<u8> {
    message::encode(&message::GoAway {
        last_stream: 6,
        reason: "restart".into(),
        retry_after_ms: 250,
        permanent: false,
        servers: vec!["b.example.com:8443".into()],
    })
}

fn join() -> Vec<u8> {
    message::encode(&message::Join {
        session: "s1".into(),
        proof: Opaque::new(PROOF),
        nonce: "ffeeddccbbaa99887766554433221100".into(),
    })
}

/// HMAC-SHA256 with the resume secret of the AuthResponse vector over `adit join v1\0s1\0` and the nonce.
const PROOF: &str = "8cf9d18ac99fe10708bebb5d0dfa8151b0f2381c69c0c87ddeb2a174c46817fa";

fn error() -> Vec<u8> {
    let mut payload = code(ErrorCode::EnhanceYourCalm);
    payload.push(0);
    payload.extend_from_slice(b"too many Ping frames");
    payload
}

fn frame(v: &Vector) -> Vec<u8> {
    let mut wire = Vec::new();
    put_frame(&mut wire, v.kind, v.flags, v.stream, &(v.payload)());
    wire
}

fn hex(wire: &[u8]) -> String {
    let mut text = String::new();
    for (at, byte) in wire.iter().enumerate() {
        if at == HEADER_LEN {
            text.push(' ');
        }
        write!(text, "{byte:02x}").expect("text takes all");
    }
    text
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b' ').collect();
    let pair = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).expect("ascii"), 16).expect("hex digits");
    digits.chunks(2).map(pair).collect()
}

#[expect(clippy::disallowed_methods, reason = "the ban on files is for the library; this test reads a page")]
fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/protocol.md");
    std::fs::read_to_string(path).expect("the page is part of the repository")
}

#[test]
fn every_frame_encodes_to_its_vector() {
    for v in VECTORS {
        assert_eq!(hex(&frame(v)), v.hex, "{}", v.shows);
    }
}

#[test]
fn every_vector_decodes_to_its_frame() {
    for v in VECTORS {
        let wire = unhex(v.hex);
        let mut decoder = Decoder::new(Limits::Authenticated { data_cap: DATA_DEFAULT });
        let mut input = wire.as_slice();
        let (header, payload) = decoder.next(&mut input, |h, p| (h, p.to_vec())).unwrap().unwrap();
        let length = u32::try_from(payload.len()).unwrap();
        assert_eq!(header, Header { kind: v.kind, flags: v.flags, stream: v.stream, length }, "{}", v.shows);
        assert_eq!(payload, (v.payload)(), "{}", v.shows);
        assert!(input.is_empty() && decoder.is_between_frames());
    }
}

#[test]
fn every_type_has_a_vector() {
    let shown: Vec<u8> = VECTORS.iter().map(|v| v.kind.to_wire()).collect();
    for byte in (0..=0xff).filter(|byte| !(0x41..=0x5f).contains(byte)) {
        assert!(FrameType::from_wire(byte).is_none() || shown.contains(&byte), "type {byte:#04x}");
    }
}

fn payload_of(shows: &str) -> Bytes {
    let v = VECTORS.iter().find(|v| v.shows == shows).expect("a vector of that name");
    Bytes::from(unhex(v.hex)).slice(HEADER_LEN..)
}

fn pairs(block: BlockReader) -> Vec<(String, Bytes)> {
    let pair = |p: Result<(mux::headers::Name, Bytes), _>| p.expect("a legal pair");
    block.map(pair).map(|(n, v)| (n.as_str().to_owned(), v)).collect()
}

#[test]
fn the_parts_of_an_open_are_where_the_page_says() {
    let open = Open::decode(payload_of("Open, http, no body")).unwrap();
    assert_eq!((open.kind, open.scheme, open.hops, open.tunnel), (StreamKind::Http, Scheme::Tls, 0, 1));
    assert_eq!((open.credit, open.trace), (65_536, [0xab; 16]));
    assert_eq!(open.visitor.unwrap().to_string(), "192.0.2.7:4711");
    assert_eq!(open.entrance.unwrap().to_string(), "198.51.100.1:443");
    assert_eq!((&open.method[..], &open.target[..]), (&b"GET"[..], &b"/hello?a=1"[..]));
    let got = pairs(open.read_headers().unwrap());
    assert_eq!(
        got,
        [("host".into(), Bytes::from_static(b"app1.example.com")), ("x-demo".into(), Bytes::from_static(b"1"))]
    );
    let tcp = Open::decode(payload_of("Open, tcp")).unwrap();
    assert_eq!((tcp.kind, tcp.tunnel, tcp.credit), (StreamKind::Tcp, 2, 16_384));
    assert_eq!(tcp.visitor.unwrap().to_string(), "[2001:db8::7]:4711");
    let upgrade = Open::decode(payload_of("Open, upgrade")).unwrap();
    assert_eq!((upgrade.kind, upgrade.visitor, upgrade.entrance), (StreamKind::Upgrade, None, None));
}

#[test]
fn the_parts_of_an_answer_are_where_the_page_says() {
    let head = AnswerHead::read(payload_of("Data, answer head")).unwrap();
    assert_eq!((head.status, head.timing.agent_micros, head.timing.local_micros), (200, 120, 3_400));
    assert_eq!(pairs(head.headers).len(), 2);
    let trailers = AnswerHead::read(payload_of("Data, trailers")).unwrap();
    assert_eq!(trailers.status, 0);
    assert_eq!(pairs(trailers.headers), [("grpc-status".into(), Bytes::from_static(b"0"))]);
}

#[test]
fn messages_of_the_vectors_are_understood() {
    let request: message::AuthRequest = message::decode(&payload_of("AuthRequest")).unwrap();
    assert_eq!((request.token.expose(), request.data_cap, request.lanes), ("adit_secret", 16_384, 2));
    let refused: message::AuthResponse = message::decode(&payload_of("AuthResponse, refused")).unwrap();
    assert_eq!(refused.error.unwrap().code, "invalid_token");
    let registered: message::Registered = message::decode(&payload_of("Register, answer")).unwrap();
    assert_eq!(registered.tunnels[1].error.as_ref().unwrap().retry_after_ms, 1_000);
    let away: message::GoAway = message::decode(&payload_of("GoAway")).unwrap();
    assert_eq!((away.last_stream, away.retry_after_ms), (6, 250));
}

#[test]
fn the_page_shows_every_vector() {
    let page = page();
    let missing: Vec<_> = VECTORS.iter().filter(|v| !page.lines().any(|line| line == v.hex)).map(|v| v.shows).collect();
    assert!(missing.is_empty(), "not in the page: {missing:?}");
}

#[test]
fn the_page_lists_every_static_name_and_every_error_code() {
    let page = page();
    for (at, name) in STATIC_NAMES.iter().enumerate() {
        let cell = format!("| {} | `{name}` ", at + 1);
        assert!(page.contains(&cell), "the page lacks `{cell}`");
    }
    for code in ErrorCode::ALL {
        let row = format!("| {:#04x} | `{}` |", code.to_wire(), code.name());
        assert!(page.contains(&row), "the page lacks `{row}`");
    }
}

#[test]
fn an_error_code_reads_as_its_name_in_errors_too() {
    assert_eq!(StreamError::Reset(ErrorCode::Refused).to_string(), "the stream was reset by the peer: refused");
}

#[test]
fn a_block_may_be_built_behind_other_bytes() {
    let mut block = BlockWriter::new(vec![1, 2, 3]);
    assert!(block.pair("te", b"trailers"));
    assert_eq!(block.finish(), [&[1, 2, 3, 0, 1, 58, 0, 8][..], b"trailers"].concat());
}
