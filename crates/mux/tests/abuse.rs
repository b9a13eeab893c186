//! What a hostile or broken peer may try, and what exactly becomes of it (rules S3 and S4).

use std::time::{Duration, Instant};

use mux::abuse::{Cheap, Exhausted, TINY_GRANT};
use mux::flow::FLOOR;
use mux::frame::{CONTROL_CAP, DATA_DEFAULT, FrameType, HEADER_LEN, HeaderError, Limits, flags, put_frame};
use mux::lane::{LaneConfig, OpenStreamError, Violation};
use mux::message::GoAway;
use mux::{Decoder, ErrorCode, Event, Header, Incoming, Key, Lane, Open, Pool, Side};

/// One lane, and a peer that sends it whatever it likes.
struct Victim {
    now: Instant,
    lane: Lane<()>,
}

impl Victim {
    fn new(side: Side, config: LaneConfig) -> Self {
        let now = Instant::now();
        let mut lane = Lane::new(side, config, Pool::new(1 << 24, None), now);
        lane.poll_transmit(now, &mut Vec::new(), 1000);
        Self { now, lane }
    }

    fn agent() -> Self {
        Self::new(Side::Agent, LaneConfig::default())
    }

    fn takes(&mut self, kind: FrameType, flag_bits: u8, stream: u32, payload: &[u8]) -> Result<(), Violation> {
        let length = u32::try_from(payload.len()).expect("short payloads");
        self.lane.handle_frame(self.now, Header { kind, flags: flag_bits, stream, length }, payload)
    }

    /// The peer opens a stream.
    fn opened(&mut self, stream: u32) -> Key {
        self.takes(FrameType::Open, 0, stream, &tcp()).expect("a legal open");
        loop {
            match self.lane.poll_event().expect("the stream is announced") {
                Event::Opened(key, _) => return key,
                _ => continue,
            }
        }
    }

    /// The frames it sends now.
    fn sends(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut out = Vec::new();
        while self.lane.poll_transmit(self.now, &mut out, usize::MAX) > 0 {}
        let mut decoder = Decoder::new(Limits::Authenticated { data_cap: DATA_DEFAULT });
        let mut input = out.as_slice();
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next(&mut input, |h, p| (h, p.to_vec())).expect("our own frames") {
            frames.push(frame);
        }
        frames
    }

    /// The resets it sends now.
    fn resets(&mut self) -> Vec<(u32, ErrorCode)> {
        let is_reset = |(h, _): &(Header, Vec<u8>)| h.kind == FrameType::Close && h.has(flags::RST);
        let code = |p: &[u8]| ErrorCode::from_wire(u16::from_be_bytes([p[0], p[1]]));
        self.sends().into_iter().filter(is_reset).map(|(h, p)| (h.stream, code(&p))).collect()
    }

    /// Repeats a frame until it is one too many.
    fn flooded_by(&mut self, mut frame: impl FnMut(&mut Self, u32) -> Result<(), Violation>) -> (u32, Violation) {
        for count in 1..=1_000_000 {
            if let Err(violation) = frame(self, count) {
                return (count, violation);
            }
        }
        panic!("a million frames were taken");
    }
}

fn tcp() -> Vec<u8> {
    Open { credit: FLOOR, ..Open::tcp(1, None, None) }.encode().expect("short parts")
}

fn abuse(kind: Cheap) -> Violation {
    Violation::Abuse(Exhausted(kind))
}

#[test]
fn more_data_than_credit_resets_the_stream_and_the_second_time_ends_the_lane() {
    let mut v = Victim::agent();
    let first = v.opened(2);
    v.opened(4);
    let full = vec![0; FLOOR as usize];
    v.takes(FrameType::Data, 0, 2, &full).unwrap();
    assert_eq!(v.resets(), []);
    v.takes(FrameType::Data, 0, 2, b"x").unwrap();
    assert_eq!(v.resets(), [(2, ErrorCode::FlowControl)]);
    assert_eq!(v.lane.reset_by_peer(first), Some(ErrorCode::FlowControl));
    v.takes(FrameType::Data, 0, 4, &full).unwrap();
    let violation = v.takes(FrameType::Data, 0, 4, b"x").unwrap_err();
    assert_eq!((violation, violation.code()), (Violation::Flow, ErrorCode::FlowControl));
}

#[test]
fn data_behind_the_end_resets_the_stream_and_the_second_time_ends_the_lane() {
    let mut v = Victim::agent();
    v.opened(2);
    v.opened(4);
    v.takes(FrameType::Data, flags::END, 2, b"bye").unwrap();
    v.takes(FrameType::Data, 0, 2, b"more").unwrap();
    assert_eq!(v.resets(), [(2, ErrorCode::StreamClosed)]);
    v.takes(FrameType::Close, 0, 4, &[]).unwrap();
    let violation = v.takes(FrameType::Data, flags::END, 4, &[]).unwrap_err();
    assert_eq!((violation, violation.code()), (Violation::Ended, ErrorCode::StreamClosed));
}

#[test]
fn an_oversized_open_is_refused_by_its_header_alone() {
    let limits = Limits::Authenticated { data_cap: DATA_DEFAULT };
    let header = Header { kind: FrameType::Open, flags: 0, stream: 2, length: CONTROL_CAP + 1 };
    let mut decoder = Decoder::new(limits);
    let error = decoder.next(&mut header.encode().as_slice(), |_, _| ()).unwrap_err();
    assert_eq!(error, HeaderError::TooLong { kind: 0x20, length: CONTROL_CAP + 1, cap: CONTROL_CAP });
}

#[test]
fn an_unknown_critical_type_is_refused_and_an_unknown_optional_one_is_not() {
    let decode = |byte: u8| {
        let mut decoder = Decoder::new(Limits::Authenticated { data_cap: DATA_DEFAULT });
        decoder.next(&mut [1, byte, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].as_slice(), |h, _| h.kind)
    };
    for byte in (0x60..=0x7f).chain([0x05, 0x13, 0x24, 0x32, 0x80, 0xfe]) {
        assert_eq!(decode(byte), Err(HeaderError::UnknownType(byte)));
    }
    let mut v = Victim::agent();
    let kind = decode(0x5f).unwrap().unwrap();
    v.takes(kind, 0xff, 77, b"from the future").unwrap();
    assert!(v.lane.poll_event().is_none());
}

#[test]
fn before_authentication_only_one_small_frame_of_two_types_passes() {
    let decode = |kind: FrameType, length: u32| {
        let wire = Header { kind, flags: 0, stream: 0, length }.encode();
        Decoder::new(Limits::Unauthenticated).next(&mut wire.as_slice(), |_, _| ())
    };
    assert_eq!(decode(FrameType::AuthRequest, 8192), Ok(None));
    assert_eq!(decode(FrameType::Join, 8192), Ok(None));
    assert_eq!(decode(FrameType::AuthRequest, 8193), Err(HeaderError::TooLong { kind: 1, length: 8193, cap: 8192 }));
    assert_eq!(decode(FrameType::Register, 10), Err(HeaderError::Unauthenticated(0x10)));
}

#[test]
fn a_flood_of_opens_and_resets_ends_the_lane() {
    let mut v = Victim::agent();
    let (count, violation) = v.flooded_by(|v, count| {
        let key = v.opened(count * 2);
        let result = v.takes(FrameType::Close, flags::RST, count * 2, &[0, 8]);
        v.lane.release(key);
        result
    });
    assert_eq!((count, violation), (Cheap::Reset.budget() + 1, abuse(Cheap::Reset)));
    assert_eq!(violation.code(), ErrorCode::EnhanceYourCalm);
    assert!(v.lane.streams() <= 1);
}

#[test]
fn resets_of_streams_this_side_opened_are_no_abuse() {
    let mut v = Victim::new(Side::Server, LaneConfig::default());
    for _ in 0..=Cheap::Reset.budget() {
        let key = v.lane.open(v.now, Open::tcp(1, None, None), false, ()).unwrap();
        v.sends();
        // What an agent answers whose local service is down.
        v.takes(FrameType::Close, flags::RST, key.id(), &[0, 0x0a]).unwrap();
        while v.lane.poll_event().is_some() {}
        v.lane.release(key);
    }
    assert_eq!(v.lane.streams(), 0);
}

#[test]
fn a_flood_of_pings_ends_the_lane_and_costs_one_echo() {
    let mut v = Victim::agent();
    let (count, violation) =
        v.flooded_by(|v, count| v.takes(FrameType::Heartbeat, 0, 0, &u64::from(count).to_be_bytes()));
    assert_eq!((count, violation), (Cheap::Ping.budget() + 1, abuse(Cheap::Ping)));
    let echoes: Vec<_> = v.sends().into_iter().filter(|(h, _)| h.has(flags::ACK)).map(|(_, p)| p).collect();
    assert_eq!(echoes, [u64::from(Cheap::Ping.budget()).to_be_bytes()]);
}

#[test]
fn a_flood_of_empty_data_ends_the_lane() {
    let mut v = Victim::agent();
    v.opened(2);
    let (count, violation) = v.flooded_by(|v, _| v.takes(FrameType::Data, 0, 2, &[]));
    assert_eq!((count, violation), (Cheap::EmptyData.budget() + 1, abuse(Cheap::EmptyData)));
}

#[test]
fn a_flood_of_tiny_windows_ends_the_lane_and_large_ones_do_not_count() {
    let mut v = Victim::agent();
    v.opened(2);
    for _ in 0..=Cheap::TinyWindow.budget() {
        v.takes(FrameType::Window, 0, 2, &TINY_GRANT.to_be_bytes()).unwrap();
    }
    let (count, violation) = v.flooded_by(|v, _| v.takes(FrameType::Window, 0, 2, &1u32.to_be_bytes()));
    assert_eq!((count, violation), (Cheap::TinyWindow.budget() + 1, abuse(Cheap::TinyWindow)));
}

#[test]
fn a_flood_of_session_frames_ends_the_lane() {
    for kind in [FrameType::Register, FrameType::Settings, FrameType::Optional(0x55)] {
        let mut v = Victim::agent();
        let (count, violation) = v.flooded_by(|v, _| v.takes(kind, 0, 0, b"{}"));
        assert_eq!((count, violation), (Cheap::Control.budget() + 1, abuse(Cheap::Control)), "{kind:?}");
    }
}

#[test]
fn a_flood_for_a_stream_that_is_gone_ends_the_lane() {
    let mut v = Victim::agent();
    let key = v.opened(2);
    v.lane.reset(key, ErrorCode::Cancel);
    let (count, violation) = v.flooded_by(|v, _| v.takes(FrameType::Data, 0, 2, b"late"));
    assert_eq!((count, violation), (Cheap::Late.budget() + 1, abuse(Cheap::Late)));
}

#[test]
fn a_flood_of_header_blocks_resets_the_stream_and_the_second_time_ends_the_lane() {
    let mut v = Victim::agent();
    v.opened(2);
    v.opened(4);
    for stream in [2, 4] {
        for _ in 0..8 {
            v.takes(FrameType::Data, flags::HEADERS, stream, &[0; 12]).unwrap();
        }
    }
    v.takes(FrameType::Data, flags::HEADERS, 2, &[0; 12]).unwrap();
    assert_eq!(v.resets(), [(2, ErrorCode::EnhanceYourCalm)]);
    let violation = v.takes(FrameType::Data, flags::HEADERS, 4, &[0; 12]).unwrap_err();
    assert_eq!((violation, violation.code()), (abuse(Cheap::Heads), ErrorCode::EnhanceYourCalm));
}

#[test]
fn header_blocks_that_wait_are_bounded_in_bytes_too() {
    let mut v = Victim::agent();
    let key = v.opened(2);
    let long = vec![0; CONTROL_CAP as usize];
    v.takes(FrameType::Data, flags::HEADERS, 2, &long).unwrap();
    assert!(matches!(v.lane.recv(v.now, key), Ok(Some(Incoming::Head(_)))));
    v.takes(FrameType::Data, flags::HEADERS, 2, &long).unwrap();
    assert_eq!(v.resets(), [], "what was read does not count");
    v.takes(FrameType::Data, flags::HEADERS, 2, &long).unwrap();
    assert_eq!(v.resets(), [(2, ErrorCode::EnhanceYourCalm)]);
}

#[test]
fn a_drip_stays_within_every_budget() {
    let mut v = Victim::agent();
    v.opened(2);
    for _ in 0..1_000 {
        v.now += Duration::from_secs(1);
        v.takes(FrameType::Heartbeat, 0, 0, &[0; 8]).unwrap();
        v.takes(FrameType::Data, 0, 2, &[]).unwrap();
        v.takes(FrameType::Window, 0, 2, &[0; 4]).unwrap();
    }
}

#[test]
fn stream_numbers_must_rise_and_be_of_the_peers_parity() {
    for (numbers, wrong) in [(&[2, 6][..], 4), (&[2, 4], 4), (&[2], 2), (&[], 1), (&[8], 3)] {
        let mut v = Victim::agent();
        for number in numbers {
            v.opened(*number);
        }
        let violation = v.takes(FrameType::Open, 0, wrong, &tcp()).unwrap_err();
        assert_eq!((violation, violation.code()), (Violation::StreamOrder(wrong), ErrorCode::Protocol));
    }
}

#[test]
fn a_number_is_not_used_again_once_its_stream_is_gone() {
    let mut v = Victim::agent();
    let key = v.opened(2);
    v.lane.reset(key, ErrorCode::Cancel);
    assert_eq!(v.takes(FrameType::Open, 0, 2, &tcp()), Err(Violation::StreamOrder(2)));
}

#[test]
fn a_frame_for_a_stream_that_was_never_opened_ends_the_lane() {
    for (kind, payload) in [(FrameType::Data, &b"x"[..]), (FrameType::Window, &[0, 1, 0, 0]), (FrameType::Close, &[])] {
        for number in [4, 1] {
            let mut v = Victim::agent();
            v.opened(2);
            let violation = v.takes(kind, 0, number, payload).unwrap_err();
            assert_eq!((violation, violation.code()), (Violation::NeverOpened(number), ErrorCode::Protocol));
        }
    }
}

#[test]
fn a_credit_sum_over_two_to_the_31_resets_the_stream_and_the_second_time_ends_the_lane() {
    let mut v = Victim::agent();
    v.opened(2);
    v.opened(4);
    let most = (1u32 << 31) - FLOOR;
    for stream in [2, 4] {
        v.takes(FrameType::Window, 0, stream, &most.to_be_bytes()).unwrap();
    }
    assert_eq!(v.resets(), []);
    v.takes(FrameType::Window, 0, 2, &1u32.to_be_bytes()).unwrap();
    assert_eq!(v.resets(), [(2, ErrorCode::FlowControl)]);
    assert_eq!(v.takes(FrameType::Window, 0, 4, &1u32.to_be_bytes()), Err(Violation::Flow));
}

#[test]
fn handing_back_more_than_was_granted_resets_the_stream_and_the_second_time_ends_the_lane() {
    let mut v = Victim::agent();
    v.opened(2);
    v.opened(4);
    v.takes(FrameType::Window, flags::ACK, 2, &FLOOR.to_be_bytes()).unwrap();
    v.takes(FrameType::Window, flags::ACK, 2, &1u32.to_be_bytes()).unwrap();
    assert_eq!(v.resets(), [(2, ErrorCode::FlowControl)]);
    assert_eq!(v.takes(FrameType::Window, flags::ACK, 4, &(FLOOR + 1).to_be_bytes()), Err(Violation::Flow));
}

#[test]
fn credit_handed_back_cannot_be_spent() {
    let mut v = Victim::agent();
    v.opened(2);
    v.takes(FrameType::Window, flags::ACK, 2, &FLOOR.to_be_bytes()).unwrap();
    v.takes(FrameType::Data, 0, 2, b"x").unwrap();
    assert_eq!(v.resets(), [(2, ErrorCode::FlowControl)]);
}

#[test]
fn a_peer_that_makes_us_answer_and_does_not_read_is_cut_off() {
    let mut v = Victim::new(Side::Agent, LaneConfig { max_streams: 0, ..LaneConfig::default() });
    let (count, violation) = v.flooded_by(|v, count| v.takes(FrameType::Open, 0, count * 2, &tcp()));
    assert_eq!((violation, violation.code()), (Violation::Stuck, ErrorCode::EnhanceYourCalm));
    let reset = u32::try_from(HEADER_LEN).unwrap() + 2;
    assert!((1 << 20) / reset < count && count < (1 << 20) / reset + 10, "{count}");
}

#[test]
fn a_burst_of_own_opens_on_a_slow_path_is_not_held_against_the_peer() {
    let mut v = Victim::new(Side::Server, LaneConfig::default());
    let mut block = Open::header_writer();
    assert!(block.pair("cookie", &[b'c'; 4000]));
    let open = Open { headers: block.finish().into(), ..Open::tcp(1, None, None) };
    for _ in 0..1_000 {
        v.lane.open(v.now, open.clone(), false, ()).unwrap();
    }
    v.takes(FrameType::Heartbeat, 0, 0, &[0; 8]).unwrap();
    assert_eq!(v.sends().iter().filter(|(h, _)| h.kind == FrameType::Open).count(), 1_000);
}

#[test]
fn payloads_that_cannot_be_read_end_the_lane() {
    for (kind, stream, payload) in [
        (FrameType::Window, 2, &[0, 0, 1][..]),
        (FrameType::Heartbeat, 0, &[0; 7]),
        (FrameType::Open, 4, &[9; 40]),
        (FrameType::Open, 4, &[]),
        (FrameType::GoAway, 0, b"{\"last_stream\":-1}"),
    ] {
        let mut v = Victim::agent();
        v.opened(2);
        let violation = v.takes(kind, 0, stream, payload).unwrap_err();
        assert_eq!((violation, violation.code()), (Violation::Payload(kind), ErrorCode::Protocol));
    }
}

#[test]
fn a_thousand_one_byte_frames_arrive_as_a_few_chunks() {
    let mut v = Victim::agent();
    let key = v.opened(2);
    for _ in 0..1_000 {
        v.takes(FrameType::Data, 0, 2, b"x").unwrap();
    }
    let Ok(Some(Incoming::Data(bytes))) = v.lane.recv(v.now, key) else { panic!("data is there") };
    assert_eq!(bytes.len(), 1_000);
}

#[test]
fn nothing_follows_an_error_frame() {
    let mut v = Victim::agent();
    let key = v.opened(2);
    v.lane.send(v.now, key, &mut "answer".into()).unwrap();
    v.lane.close(ErrorCode::Protocol, "enough");
    v.takes(FrameType::Heartbeat, 0, 0, &[0; 8]).unwrap();
    v.lane.reset(key, ErrorCode::Cancel);
    v.lane.go_away(GoAway::default());
    v.lane.send_control(FrameType::Register, 0, b"{}");
    v.lane.close(ErrorCode::Internal, "again");
    let frames = v.sends();
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert_eq!((frames[0].0.kind, &frames[0].1[..]), (FrameType::Error, &b"\x00\x01\x00enough"[..]));
    assert_eq!(v.lane.open(v.now, Open::tcp(1, None, None), false, ()), Err(OpenStreamError::GoingAway));
}

#[test]
fn the_text_of_an_error_is_cut_and_cleaned() {
    let mut v = Victim::agent();
    let mut payload = vec![0, 0x0c, 0];
    payload.extend_from_slice("a\x1b[2Jb\n".repeat(100).as_bytes());
    v.takes(FrameType::Error, 0, 0, &payload).unwrap();
    let Some(Event::Closed(code, text)) = v.lane.poll_event() else { panic!("the end is told") };
    assert_eq!(code, ErrorCode::Unauthorized);
    assert!(text.len() <= 256 && !text.chars().any(char::is_control), "{text:?}");
    let mut long = Victim::agent();
    long.lane.close(ErrorCode::Protocol, &"ä".repeat(1_000));
    assert!(long.sends()[0].1.len() <= 3 + 256);
}

/// Found by reading: the first record had room left behind a head that did not fit, and body bytes took it.
#[test]
fn data_never_overtakes_the_open_of_its_stream() {
    let mut v = Victim::new(Side::Server, LaneConfig::default());
    let mut block = Open::header_writer();
    assert!(block.pair("cookie", &vec![b'c'; 10_000]));
    let open = Open { headers: block.finish().into(), ..Open::tcp(1, None, None) };
    for _ in 0..3 {
        let key = v.lane.open(v.now, open.clone(), false, ()).unwrap();
        v.lane.send(v.now, key, &mut vec![1; 3_000].into()).unwrap();
    }
    let mut wire = Vec::new();
    loop {
        let mut record = Vec::new();
        if v.lane.poll_transmit(v.now, &mut record, DATA_DEFAULT as usize) == 0 {
            break;
        }
        wire.extend(record);
    }
    let mut peer = Victim::agent();
    let mut decoder = Decoder::new(Limits::Authenticated { data_cap: DATA_DEFAULT });
    let mut input = wire.as_slice();
    let mut data = 0;
    while let Some((header, payload)) = decoder.next(&mut input, |h, p| (h, p.to_vec())).unwrap() {
        peer.takes(header.kind, header.flags, header.stream, &payload).unwrap();
        data += if header.kind == FrameType::Data { payload.len() } else { 0 };
    }
    assert_eq!(data, 9_000);
}

/// Found by reading: the turn that a stream run empty still had became an empty frame, and a hundred of these
/// end the lane.
#[test]
fn a_stream_that_ran_empty_sends_no_empty_frame_in_its_turn() {
    let mut v = Victim::new(Side::Server, LaneConfig::default());
    let bulk = v.lane.open(v.now, Open::tcp(1, None, None), false, ()).unwrap();
    let echo = v.lane.open(v.now, Open::tcp(1, None, None), false, ()).unwrap();
    v.lane.send(v.now, bulk, &mut vec![0; 60_000].into()).unwrap();
    let mut out = Vec::new();
    v.lane.poll_transmit(v.now, &mut out, 40_000);
    v.lane.send(v.now, echo, &mut "ping".into()).unwrap();
    let empty = v.sends().into_iter().filter(|(h, p)| h.kind == FrameType::Data && p.is_empty()).count();
    assert_eq!(empty, 0);
}

#[test]
fn an_unknown_reset_code_reads_as_internal() {
    let mut wire = Vec::new();
    put_frame(&mut wire, FrameType::Close, flags::RST, 2, &[0xff, 0xfe]);
    let mut v = Victim::agent();
    let key = v.opened(2);
    v.takes(FrameType::Close, flags::RST, 2, &wire[HEADER_LEN..]).unwrap();
    assert_eq!(v.lane.reset_by_peer(key), Some(ErrorCode::Internal), "an unknown code reads as internal");
}
