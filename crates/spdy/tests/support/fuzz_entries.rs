//! What the fuzz targets run: bytes in, a panic when a rule of the library is broken.
//!
//! The same file is part of `fuzz/` and of the ordinary test `corpus`, which replays the corpora on stable.

use std::time::{Duration, Instant};

use spdy::block::{HeaderReader, HeaderWriter};
use spdy::headers::{INFLATED_MAX, NAMES_MAX};
use spdy::{Event, ReadState, ResetStatus, Session, Settings, StreamId, Violation};

/// Bytes as the header blocks of a connection, each behind its length in 16 bits. What can be read can be written,
/// and is read again as the same.
pub(crate) fn spdy_headers(mut data: &[u8]) {
    let (mut reader, mut writer, mut second_reader) = (HeaderReader::new(), HeaderWriter::new(), HeaderReader::new());
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (block, rest) = rest.split_at(length);
        data = rest;
        let Ok(headers) = reader.read(block) else {
            return;
        };
        assert!(headers.len() <= NAMES_MAX, "too many names were let through");
        let pairs: Vec<(&str, &str)> = headers.iter().collect();
        // A byte that is no text becomes a mark of three.
        let size: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(size <= 3 * INFLATED_MAX, "too much was inflated");
        let mut again = Vec::new();
        writer.write(&pairs, &mut again);
        if size < INFLATED_MAX / 2 {
            assert_eq!(second_reader.read(&again), Ok(headers.clone()), "what was written is read differently");
        } else {
            return;
        }
    }
}

/// Bytes as the input of a session, in one chunk, in two and in single bytes: all end alike. The first byte says
/// which end it is, the second where to cut.
pub(crate) fn spdy_session(data: &[u8]) {
    let Some(([role, cut], wire)) = data.split_first_chunk::<2>() else {
        return;
    };
    let settings = if role % 2 == 0 { Settings::client() } else { Settings::server() };
    let now = Instant::now();
    let (front, back) = wire.split_at(usize::from(*cut).min(wire.len()));
    let single: Vec<&[u8]> = wire.chunks(1).collect();
    let whole = run(&settings, now, &[wire]);
    assert_eq!(whole, run(&settings, now, &[front, back]), "two chunks end differently");
    assert_eq!(whole, run(&settings, now, &single), "single bytes end differently");
    use_up(&settings, now, wire);
}

/// What a peer's bytes come to.
#[derive(Debug, PartialEq)]
struct Outcome {
    verdict: Result<(), Violation>,
    events: Vec<Event>,
    received: Vec<(StreamId, Vec<u8>, ReadState)>,
    answers: Vec<u8>,
    discarded: u64,
}

fn begin(settings: &Settings, now: Instant) -> Session {
    let mut session = Session::new(settings.clone(), now);
    for _ in 0..3 {
        session.open(&[], false).expect("a fresh session takes streams");
    }
    let mut out = Vec::new();
    session.poll_transmit(&mut out, 1 << 20);
    session
}

fn run(settings: &Settings, now: Instant, chunks: &[&[u8]]) -> Outcome {
    let mut session = begin(settings, now);
    let verdict = chunks.iter().try_for_each(|chunk| session.handle_input(now, chunk));
    let events: Vec<Event> = std::iter::from_fn(|| session.poll_event()).collect();
    let mut received = Vec::new();
    for event in &events {
        if let Event::Readable(id) = event {
            let mut bytes = Vec::new();
            let _ = session.read(*id, &mut bytes);
            let end = session.read(*id, &mut Vec::new());
            received.push((*id, bytes, end));
        }
    }
    assert!(session.wants_input(), "all was read");
    let mut answers = Vec::new();
    while session.has_output() {
        session.poll_transmit(&mut answers, 64 * 1024);
    }
    Outcome { verdict, events, received, answers, discarded: session.discarded_bytes() }
}

/// A user who does all kinds of things between the chunks; what is counted has to add up.
fn use_up(settings: &Settings, now: Instant, wire: &[u8]) {
    let mut session = begin(settings, now);
    let mut out = Vec::new();
    for (step, chunk) in wire.chunks(7).enumerate() {
        let now = now + Duration::from_secs(step as u64);
        if session.handle_input(now, chunk).is_err() {
            break;
        }
        let _ = session.handle_timeout(now);
        let id = StreamId::new(u32::try_from(step % 8).unwrap_or(0));
        match chunk[0] % 8 {
            0 => drop(session.read(id, &mut Vec::new())),
            1 => drop(session.write(id, chunk)),
            2 => session.finish(id),
            3 => session.reset(id, ResetStatus::from_wire(u32::from(chunk[0]))),
            4 => session.release(id),
            5 => session.reply(id, &[("a", "b")], chunk.len() % 2 == 0),
            6 => drop(session.open(&[("c", "d")], false)),
            _ => drop(session.poll_transmit(&mut out, 2048)),
        }
    }
    while session.has_output() {
        assert!(session.poll_transmit(&mut out, 2048) > 0, "there was said to be output");
    }
    for id in 0..10_000 {
        session.release(StreamId::new(id));
    }
    assert!(session.wants_input(), "streams that are gone keep it from reading");
}
