//! Hex of every frame: a changed vector is a change of the protocol.
//!
//! The header blocks of the peer's frames were made by another zlib (Python's, at level 9, as Go's peers do).
//! Ours are compared as they are read again: what a compressor makes of the same words is its own affair.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use spdy::block::HeaderReader;
use spdy::{Event, GoAwayStatus, Headers, ReadState, ResetStatus, Session, Settings, StreamId, Violation, Written};

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "support/ends.rs"]
mod ends;

use ends::{events, output};

const PEER_SYN_1: &str = "80030001 0000003c 00000001 00000000 0000 78f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45a024cc64610024398b209198094adc8c0600000000ffff";
const PEER_SYN_3: &str = "80030001 00000018 00000003 00000000 0000 c2aa15540a2512d209000000ffff";
const PEER_REPLY_1: &str = "80030002 00000014 00000001 78f9e3c6a7c202a6230600000000ffff";
const PEER_REPLY_3: &str = "80030002 0000000c 00000003 020100000000ffff";
const PEER_REPLY_5_FIN: &str = "80030002 01000015 00000005 020246100625706643062300000000ffff";
const PEER_HEADERS_3: &str = "80030008 00000016 00000003 82f2d92a747320c99ab932b518000000ffff";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).expect("two digits")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

fn plain(hex: &str) -> String {
    hex.replace(' ', "")
}

fn client() -> Session {
    Session::new(Settings::client(), Instant::now())
}

fn server() -> Session {
    Session::new(Settings::server(), Instant::now())
}

/// A client with the streams 1, 3 and 5 that the peer knows of.
fn client_with_three_streams() -> Session {
    let mut client = client();
    for _ in 0..3 {
        client.open(&[], false).expect("a fresh session takes streams");
    }
    output(&mut client);
    client
}

fn feed(session: &mut Session, hex: &str) -> Result<(), Violation> {
    session.handle_input(Instant::now(), &bytes(hex))
}

fn pairs(headers: &Headers) -> Vec<(&str, &str)> {
    headers.iter().collect()
}

#[test]
fn syn_streams_of_a_peer_are_read_with_one_compression_for_both() {
    let mut server = server();
    feed(&mut server, &format!("{PEER_SYN_1} {PEER_SYN_3}")).unwrap();
    let opened = events(&mut server);
    let [Event::Opened { id: first, headers: error, fin: false }, Event::Opened { id: second, headers: data, .. }] =
        opened.as_slice()
    else {
        panic!("{opened:?}");
    };
    assert_eq!((first.get(), second.get()), (1, 3));
    assert_eq!(pairs(error), [("streamtype", "error"), ("port", "80"), ("requestid", "0")]);
    assert_eq!(pairs(data), [("streamtype", "data"), ("port", "80"), ("requestid", "0")]);
}

#[test]
fn syn_replies_of_a_peer_are_read_even_those_of_streams_that_are_gone() {
    let mut client = client_with_three_streams();
    client.release(StreamId::new(1));
    feed(&mut client, &format!("{PEER_REPLY_1} {PEER_REPLY_3} {PEER_REPLY_5_FIN} {PEER_HEADERS_3}")).unwrap();
    let got = events(&mut client);
    let [Event::Replied { id, headers }, Event::Replied { headers: last, .. }, Event::Readable(ended)] = got.as_slice()
    else {
        panic!("{got:?}");
    };
    assert!(id.get() == 3 && headers.is_empty());
    assert_eq!(last.values("a").collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(ended.get(), 5);
    assert_eq!(client.read(*ended, &mut Vec::new()), ReadState::Finished);
}

#[test]
fn our_syn_stream() {
    let mut client = client();
    client.open(&[("streamType", "error"), ("port", "80"), ("requestID", "0")], false).unwrap();
    let frame = output(&mut client);
    assert_eq!(hex(&frame[..7]), plain("80030001 000000"));
    assert_eq!(hex(&frame[8..18]), plain("00000001 00000000 0000"));
    assert_eq!(hex(&frame[20..24]), "e3c6a7c2", "the dictionary's checksum");
    assert!(frame.ends_with(&[0, 0, 0xff, 0xff]), "flushed: {}", hex(&frame));
    assert_eq!(frame.len(), 8 + usize::from(frame[7]));
    let headers = HeaderReader::new().read(&frame[18..]).unwrap();
    assert_eq!(pairs(&headers), [("streamtype", "error"), ("port", "80"), ("requestid", "0")]);
}

#[test]
fn our_syn_stream_with_fin_and_our_syn_reply() {
    let mut client = client();
    client.open(&[], true).unwrap();
    assert_eq!(output(&mut client)[..5], [0x80, 3, 0, 1, 1]);
    let mut server = server();
    feed(&mut server, PEER_SYN_1).unwrap();
    server.reply(StreamId::new(1), &[], false);
    let frame = output(&mut server);
    assert_eq!(hex(&frame[..7]), plain("80030002 000000"));
    assert_eq!(hex(&frame[8..12]), "00000001");
    assert!(HeaderReader::new().read(&frame[12..]).unwrap().is_empty());
}

#[test]
fn data_and_its_end() {
    let mut client = client_with_three_streams();
    let id = StreamId::new(3);
    assert_eq!(client.write(id, b"hello"), Written::Taken(5));
    assert_eq!(hex(&output(&mut client)), plain("00000003 00000005 68656c6c6f"));
    client.write(id, b"bye");
    client.finish(id);
    assert_eq!(hex(&output(&mut client)), plain("00000003 01000003 627965"));
    client.finish(StreamId::new(1));
    assert_eq!(hex(&output(&mut client)), plain("00000001 01000000"), "an empty frame ends a stream without data");
    feed(&mut client, "00000003 01000002 6f6b").unwrap();
    let mut got = Vec::new();
    assert_eq!(client.read(id, &mut got), ReadState::Data);
    assert_eq!(got, b"ok");
    assert_eq!(client.read(id, &mut Vec::new()), ReadState::Finished);
}

#[test]
fn rst_stream() {
    let mut client = client_with_three_streams();
    client.reset(StreamId::new(1), ResetStatus::Cancel);
    assert_eq!(hex(&output(&mut client)), plain("80030003 00000008 00000001 00000005"));
    feed(&mut client, "80030003 00000008 00000003 00000005").unwrap();
    assert_eq!(events(&mut client), [Event::Readable(StreamId::new(3))]);
    assert_eq!(client.read(StreamId::new(3), &mut Vec::new()), ReadState::Reset(ResetStatus::Cancel));
    feed(&mut client, "80030003 00000008 00000005 000000c8").unwrap();
    assert_eq!(client.read(StreamId::new(5), &mut Vec::new()), ReadState::Reset(ResetStatus::Unknown(200)));
}

#[test]
fn pings_are_answered_and_asked() {
    let start = Instant::now();
    let mut client = Session::new(Settings::client(), start);
    client.handle_input(start, &bytes("80030006 00000004 00000002")).unwrap();
    assert_eq!(hex(&output(&mut client)), plain("80030006 00000004 00000002"));
    let at = client.poll_timeout();
    let _ = client.handle_timeout(at);
    assert_eq!(hex(&output(&mut client)), plain("80030006 00000004 00000001"));
    client.handle_input(at + Duration::from_millis(3), &bytes("80030006 00000004 00000001")).unwrap();
    assert_eq!(events(&mut client), [Event::Pong { after: Duration::from_millis(3) }]);
    assert!(!client.has_output(), "the answer to our own is not answered");
}

#[test]
fn goaway() {
    let mut server = server();
    feed(&mut server, PEER_SYN_1).unwrap();
    server.go_away(GoAwayStatus::Ok);
    assert_eq!(hex(&output(&mut server)), plain("80030007 00000008 00000001 00000000"));
    let mut client = client_with_three_streams();
    feed(&mut client, "80030007 00000008 00000003 00000002").unwrap();
    let told = Event::GoAway { last: StreamId::new(3), status: GoAwayStatus::InternalError };
    // The third stream was on its way: the peer has not seen it. The others go on.
    assert_eq!(events(&mut client), [told, Event::Readable(StreamId::new(5))]);
    let mut data = Vec::new();
    assert_eq!(client.read(StreamId::new(5), &mut data), ReadState::Reset(ResetStatus::RefusedStream));
    assert_eq!(client.read(StreamId::new(3), &mut data), ReadState::Pending);
}

#[test]
fn settings_window_updates_and_unknown_frames_are_read_and_ignored() {
    let mut client = client_with_three_streams();
    for frame in [
        "80030004 0100000c 00000001 01000007 00010000",
        "80030004 00000004 00000000",
        "80030009 00000008 00000001 00010000",
        "80030009 00000008 00000000 00010000",
        "8003000a 00000003 010203",
        "80030005 00000000",
    ] {
        feed(&mut client, frame).unwrap();
    }
    assert_eq!(events(&mut client), []);
    assert!(!client.has_output());
}

#[test]
fn what_breaks_the_protocol_ends_the_session_with_goaway() {
    let malformed = |frame| Violation::Malformed { frame };
    for (frame, violation) in [
        ("80020006 00000004 00000002", Violation::Version { version: 2 }),
        ("80030002 00010001", Violation::Oversized { frame: "SYN_REPLY", length: 65_537 }),
        ("80030006 00000003 000000", malformed("PING")),
        ("80030006 00000005 0000000000", malformed("PING")),
        ("80030007 00000004 00000000", malformed("GOAWAY")),
        ("80030003 00000008 00000001 00000000", malformed("RST_STREAM")),
        ("80030003 00000004 00000001", malformed("RST_STREAM")),
        ("80030004 00000004 00000001", malformed("SETTINGS")),
        ("80030004 00000002 0000", malformed("SETTINGS")),
        ("80030004 00000004 ffffffff", malformed("SETTINGS")),
        ("80030009 00000004 00000001", malformed("WINDOW_UPDATE")),
        ("80030001 00000009 000000020000000000", malformed("SYN_STREAM")),
        ("80030003 00000008 00000000 00000001", Violation::StreamId { id: 0 }),
        ("00000000 00000000", Violation::StreamId { id: 0 }),
    ] {
        let mut client = client_with_three_streams();
        assert_eq!(feed(&mut client, frame), Err(violation.clone()), "{frame}");
        assert_eq!(hex(&output(&mut client)), plain("80030007 00000008 00000000 00000001"));
        assert!(client.is_going_away());
        assert_eq!(feed(&mut client, PEER_REPLY_1), Err(violation), "it stays over");
    }
}

#[test]
fn stream_numbers_a_peer_may_not_use_end_the_session() {
    let mut server = server();
    feed(&mut server, PEER_SYN_1).unwrap();
    let again = format!("80030001 00000018 00000001 {}", &PEER_SYN_3[27..]);
    assert_eq!(feed(&mut server, &again), Err(Violation::StreamId { id: 1 }));
    let mut client = client();
    assert_eq!(feed(&mut client, PEER_SYN_1), Err(Violation::StreamId { id: 1 }));
}
