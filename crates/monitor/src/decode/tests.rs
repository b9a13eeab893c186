use proptest::prelude::*;

use super::*;

/// A record as the kernel would write it.
pub(crate) struct Written(pub(crate) [u8; RECORD]);

impl Written {
    pub(crate) fn new(step: u8, family: u8) -> Self {
        let mut bytes = [0; RECORD];
        // What it is and what it was: established.
        bytes[36] = 0x11;
        bytes[154] = family;
        bytes[158] = step;
        Self(bytes)
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }
}

#[test]
fn a_record_of_an_outgoing_connection_is_read() {
    let written = Written::new(4, AF_INET)
        .put(0, &7_u64.to_ne_bytes())
        .put(8, &1_000_u64.to_ne_bytes())
        .put(16, &3_000_u64.to_ne_bytes())
        .put(24, &9_000_u64.to_ne_bytes())
        .put(36, &[0x97])
        .put(40, &40_000_u16.to_ne_bytes())
        .put(48, &20_000_001_u64.to_ne_bytes())
        .put(56, &5_u64.to_ne_bytes())
        .put(64, &42_u32.to_ne_bytes())
        .put(68, &1000_u32.to_ne_bytes())
        .put(72, b"curl\0")
        .put(88, &11_u64.to_ne_bytes())
        .put(96, &12_u64.to_ne_bytes())
        .put(108, &2_007_u32.to_ne_bytes())
        .put(112, &[0xff; 4])
        .put(116, &3_u32.to_ne_bytes())
        // What stands behind an address of IPv4 may be anything.
        .put(120, &[127, 0, 0, 1, 9, 9, 9, 9])
        .put(136, &[10, 0, 0, 9, 9, 9, 9, 9])
        .put(152, &443_u16.to_be_bytes());
    let record = record(&written.0).unwrap();
    assert_eq!(record.local.to_string(), "127.0.0.1:40000");
    assert_eq!(record.remote.to_string(), "10.0.0.9:443");
    assert_eq!(record.handshake(), Some(Duration::from_nanos(2_000)));
    assert_eq!(record.duration(Duration::ZERO), Duration::from_nanos(8_000));
    assert_eq!((record.sent, record.received, record.retransmits), (11, 12, 3));
    assert_eq!(record.rtt, Some(Duration::from_micros(250)), "it is in eighths");
    assert_eq!(record.min_rtt, None, "it was not measured");
    assert_eq!(record.state, State::Closed);
    assert_eq!(record.ended.unwrap().1, End::Closed);
    let owner = record.owner.unwrap();
    assert_eq!((owner.process, owner.user), (ProcessId { pid: 42, start: 2 }, Some(1000)));
    assert_eq!((owner.command.text().as_str(), owner.cgroup, owner.by), ("curl", 5, OwnedBy::Connect));
}

#[test]
fn the_fin_of_the_peer_is_no_byte() {
    for (has_ended, received, expected) in [(0, 12_u64, 12), (2, 12, 11), (3, 12, 11), (1, 12, 12), (2, 0, 0)] {
        let written = Written::new(4, AF_INET).put(96, &received.to_ne_bytes()).put(156, &[has_ended]);
        assert_eq!(record(&written.0).unwrap().received, expected);
    }
}

#[test]
fn how_an_owner_was_found_and_what_else_is_marked_are_read_together() {
    let written = Written::new(4, AF_INET).put(44, &[INCOMING | ABORTED, BY_CLOSE]).put(64, &1_u32.to_ne_bytes());
    let record = record(&written.0).unwrap();
    assert!(record.incoming && !record.seen_late && !record.gone);
    assert_eq!((record.owner.unwrap().by, record.ended.unwrap().1), (OwnedBy::Close, End::Aborted));
}

#[test]
fn an_ipv4_address_in_ipv6_clothes_is_shown_as_what_it_is() {
    let mut mapped = [0; 16];
    mapped[10..].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
    let written = Written::new(5, AF_INET6).put(136, &mapped).put(120, &Ipv6Addr::LOCALHOST.octets());
    let record = record(&written.0).unwrap();
    assert_eq!(record.remote.ip().to_string(), "192.0.2.1");
    assert_eq!(record.local.ip().to_string(), "::1");
}

#[test]
fn the_end_says_whose_doing_it_was() {
    assert_eq!(end(State::SynSent, 111, 0), End::Failed(111));
    assert_eq!(end(State::SynSent, u16::MAX, 0).error(), Some("unknown"));
    assert_eq!(end(State::SynSent, 111, 0).error(), Some("ECONNREFUSED"));
    assert_eq!(end(State::Established, 104, 0), End::Reset);
    assert_eq!(end(State::Established, 0, ABORTED), End::Aborted);
    assert_eq!(end(State::Established, 110, 0), End::Broken(110));
    assert_eq!(end(State::LastAck, 0, 0), End::Closed);
    assert_eq!(end(State::FinWait2, 0, 0), End::Closed);
}

#[test]
fn a_name_that_would_upset_a_terminal_is_made_harmless() {
    assert_eq!(Command::new("a\u{1b}[31mb").text(), "a\u{fffd}[31mb");
    assert_eq!(Command::new("a name that is much too long").text(), "a name that is ");
    let written = Written::new(5, AF_INET).put(64, &1_u32.to_ne_bytes()).put(72, &[0xff, b'x', 0]);
    assert_eq!(record(&written.0).unwrap().owner.unwrap().command.text(), "\u{fffd}x");
}

#[test]
fn what_is_not_known_is_refused() {
    assert_eq!(record(&[0; 3]), Err(DecodeError::Length(3)));
    assert_eq!(record(&[0; RECORD]), Err(DecodeError::Kind(0)));
    assert_eq!(record(&Written::new(5, 3).0), Err(DecodeError::Family(3)));
    assert_eq!(record(&Written::new(4, AF_INET).put(36, &[0xe7]).0), Err(DecodeError::State(14)));
    assert_eq!(record(&Written::new(5, AF_INET).put(36, &[0x0e]).0), Err(DecodeError::State(14)));
}

proptest! {
    #[test]
    fn nothing_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = record(&bytes);
    }

    #[test]
    fn nothing_panics_on_any_record(bytes in any::<[u8; 32]>(), at in 0..RECORD - 32, step in 1_u8..6) {
        let written = Written::new(step, AF_INET6).put(at, &bytes);
        if let Ok(record) = record(&written.0) {
            let _ = (record.handshake(), record.duration(Duration::ZERO), record.owner.map(|owner| owner.command.text()));
        }
    }
}

#[test]
fn sums_of_a_process_are_read() {
    let mut process = [0; PROCESS];
    process[..8].copy_from_slice(&50_000_000_u64.to_ne_bytes());
    process[8..12].copy_from_slice(&7_u32.to_ne_bytes());
    let mut sums = [0; SUMS];
    for (at, number) in (1..=7_u64).enumerate() {
        sums[at * 8..at * 8 + 8].copy_from_slice(&number.to_ne_bytes());
    }
    sums[64..72].copy_from_slice(&9_u64.to_ne_bytes());
    sums[76..80].copy_from_slice(&1000_u32.to_ne_bytes());
    sums[80..83].copy_from_slice(b"web");
    let folded = folded(&process, &sums);
    assert_eq!(folded.owner.process, ProcessId { pid: 7, start: 5 });
    assert_eq!((folded.owner.cgroup, folded.owner.user), (9, Some(1000)));
    assert_eq!(folded.owner.command.text(), "web");
    assert_eq!((folded.opened, folded.incoming, folded.failed, folded.closed), (1, 2, 3, 4));
    assert_eq!((folded.sent, folded.received, folded.retransmits), (5, 6, 7));
}

#[test]
fn bytes_alone_that_were_added_up_are_something() {
    let nothing = folded(&[0; PROCESS], &[0; SUMS]);
    assert!(nothing.is_nothing());
    // One processor has counted an end, which was taken; what it carried comes after.
    for part in [Folded { sent: 1, ..nothing }, Folded { received: 1, ..nothing }, Folded { retransmits: 1, ..nothing }]
    {
        assert!(!part.is_nothing(), "{part:?}");
    }
    assert!(!Folded { failed: 1, ..nothing }.is_nothing());
}
