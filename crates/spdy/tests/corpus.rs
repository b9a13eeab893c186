//! Replays the fuzz corpora on stable, so that what fuzzing found stays found.

use std::path::Path;

use proptest::prelude::*;

#[path = "support/fuzz_entries.rs"]
mod fuzz_entries;

#[expect(clippy::disallowed_methods, reason = "the ban on files is for the library; this test replays files")]
fn replay(target: &str, entry: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for file in std::fs::read_dir(&dir).expect("the corpus is part of the repository") {
        let path = file.expect("a readable directory").path();
        entry(&std::fs::read(&path).expect("a readable file"));
        count += 1;
    }
    assert!(count > 0, "no corpus in {}", dir.display());
}

#[test]
fn the_corpus_of_sessions_replays() {
    replay("spdy_session", fuzz_entries::spdy_session);
}

#[test]
fn the_corpus_of_header_blocks_replays() {
    replay("spdy_headers", fuzz_entries::spdy_headers);
}

/// A frame that is right or nearly so.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        prop::collection::vec(prop_oneof![Just(0u8), 0u8..8, any::<u8>()], 0..40),
        (0u8..8, 0u8..12).prop_map(|(id, status)| vec![0, 0, 0, id, 0, 0, 0, status]),
        (0u8..8).prop_map(|id| vec![0, 0, 0, id]),
        // An empty header block of a fresh connection.
        (0u8..8).prop_map(|id| {
            let block = [0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2, 0x02, 0xa6, 0x23, 0x06, 0, 0, 0, 0, 0xff, 0xff];
            [&[0, 0, 0, id][..], &block].concat()
        }),
    ];
    (prop_oneof![Just(0u8), 1u8..12], 0u8..4, 0u8..8, payload).prop_map(|(kind, flags, stream, payload)| {
        let length = u8::try_from(payload.len()).expect("a short one");
        let head = match kind {
            0 => [0, 0, 0, stream, flags, 0, 0, length],
            kind => [0x80, 3, 0, kind, flags, 0, 0, length],
        };
        [&head[..], &payload].concat()
    })
}

proptest! {
    #[test]
    fn any_chunking_of_what_a_peer_may_send_ends_alike(
        role in 0u8..2, cut in any::<u8>(), frames in prop::collection::vec(frame(), 0..30),
    ) {
        fuzz_entries::spdy_session(&[&[role, cut][..], &frames.concat()].concat());
    }

    #[test]
    fn flipped_bits_never_panic(
        frames in prop::collection::vec(frame(), 1..20), flips in prop::collection::vec(any::<(usize, u8)>(), 0..4),
    ) {
        let mut wire = [&[0, 9][..], &frames.concat()].concat();
        for (at, bits) in flips {
            let at = at % wire.len();
            wire[at] ^= bits;
        }
        fuzz_entries::spdy_session(&wire);
    }
}
