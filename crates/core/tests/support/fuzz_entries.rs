//! What the fuzz targets run: bytes in, a panic when a rule of the library is broken.
//!
//! The same file is part of `fuzz/` and of the ordinary test `corpus`, which replays the corpora on stable.

use adit_core::client_hello::{ClientHelloError, ClientHelloReader, Progress};

/// A client's first bytes: every chunking reads alike, and a hello is done with its last byte, whatever follows.
pub(crate) fn client_hello(data: &[u8]) {
    let Some((&cut, wire)) = data.split_first() else {
        return;
    };
    let (front, back) = wire.split_at(usize::from(cut).min(wire.len()));
    let (outcome, needed) = read(wire.chunks(1));
    assert_eq!(outcome, read([wire]).0, "one chunk reads differently");
    assert_eq!(outcome, read([front, back]).0, "two chunks read differently");
    let needed = wire.get(..needed).unwrap_or_default();
    assert_eq!(outcome, read([needed]).0, "bytes behind it decided it");
    if let (Ok(Progress::Done(_)), Some((_, before))) = (&outcome, needed.split_last()) {
        assert_eq!(read([before]).0, Ok(Progress::More), "it was done before its end");
    }
}

/// The outcome, and how many bytes were pushed until it was there.
fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Result<Progress, ClientHelloError>, usize) {
    let mut reader = ClientHelloReader::new();
    let mut taken = 0;
    for chunk in chunks {
        taken += chunk.len();
        let progress = reader.push(chunk);
        if progress != Ok(Progress::More) {
            return (progress, taken);
        }
    }
    (Ok(Progress::More), taken)
}
