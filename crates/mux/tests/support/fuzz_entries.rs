//! What the fuzz targets run: bytes in, a panic when a rule of the library is broken.
//!
//! The same file is part of `fuzz/` and of the ordinary test `corpus`, which replays the corpora on stable.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mux::frame::{DATA_DEFAULT, FrameType, HeaderError, Limits, put_frame};
use mux::headers::{AnswerHead, BlockReader, BlockWriter};
use mux::lane::{LaneConfig, Side};
use mux::message;
use mux::{Decoder, ErrorCode, Event, Header, Incoming, Key, Lane, Open, Pool};

type Frames = Vec<(Header, Vec<u8>)>;

/// Bytes as frames: every chunking gives the same, and what was decoded encodes to the same bytes.
pub(crate) fn frame(data: &[u8]) {
    let Some((&cut, wire)) = data.split_first() else {
        return;
    };
    let (front, back) = wire.split_at(usize::from(cut).min(wire.len()));
    for limits in [Limits::Unauthenticated, Limits::Authenticated { data_cap: DATA_DEFAULT }] {
        let whole = decode(limits, &[wire]);
        assert_eq!(whole, decode(limits, &[front, back]), "two chunks decode differently");
        let single: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(whole, decode(limits, &single), "single bytes decode differently");
        let mut again = Vec::new();
        for (header, payload) in &whole.0 {
            put_frame(&mut again, header.kind, header.flags, header.stream, payload);
            read_payload(header.kind, payload);
        }
        assert!(wire.starts_with(&again), "decoded frames encode differently");
    }
}

fn decode(limits: Limits, chunks: &[&[u8]]) -> (Frames, Option<HeaderError>) {
    let mut decoder = Decoder::new(limits);
    let mut frames = Vec::new();
    for chunk in chunks {
        let mut input = *chunk;
        loop {
            match decoder.next(&mut input, |header, payload| (header, payload.to_vec())) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fn read_payload(kind: FrameType, payload: &[u8]) {
    match kind {
        FrameType::AuthRequest => drop(message::decode::<message::AuthRequest>(payload)),
        FrameType::AuthResponse => drop(message::decode::<message::AuthResponse>(payload)),
        FrameType::AuthRefresh => drop(message::decode::<message::AuthRefresh>(payload)),
        FrameType::Register => {
            drop(message::decode::<message::Register>(payload));
            drop(message::decode::<message::Registered>(payload));
        }
        FrameType::Unregister => drop(message::decode::<message::Unregister>(payload)),
        FrameType::TunnelState => drop(message::decode::<message::TunnelStates>(payload)),
        FrameType::GoAway => drop(message::decode::<message::GoAway>(payload)),
        FrameType::Join => drop(message::decode::<message::Join>(payload)),
        FrameType::Open | FrameType::Data => header_block(payload),
        _ => {}
    }
}

/// Bytes as a header block, as an answer head and as an Open: what is read is written back alike.
pub(crate) fn header_block(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(block) = BlockReader::new(bytes.clone()) {
        rewrite(block, BlockWriter::new(Vec::new()), 0);
    }
    if let Ok(head) = AnswerHead::read(bytes.clone()) {
        rewrite(head.headers, AnswerHead::writer(head.status, head.timing), 10);
    }
    if let Ok(open) = Open::decode(bytes) {
        let wire = open.encode().expect("what was decoded has lengths that fit");
        assert_eq!((&wire[..3], &wire[4..]), (&data[..3], &data[4..]), "an open is written differently");
        if let Ok(block) = open.read_headers() {
            rewrite(block, Open::header_writer(), 0);
        }
    }
}

/// Reads a block, writes it, reads it again.
fn rewrite(block: BlockReader, mut writer: BlockWriter, skip: usize) {
    let Ok(pairs) = block.collect::<Result<Vec<_>, _>>() else {
        return;
    };
    for (name, value) in &pairs {
        assert!(writer.pair(name.as_str(), value), "a pair that was read does not fit");
    }
    let wire = Bytes::from(writer.finish()).split_off(skip);
    let again = BlockReader::new(wire).expect("our own block").collect::<Result<Vec<_>, _>>().expect("our own pairs");
    assert_eq!(pairs.len(), again.len());
    for ((a, x), (b, y)) in pairs.iter().zip(&again) {
        assert_eq!((a.as_str(), x), (b.as_str(), y));
    }
}

/// Bytes as operations on two lanes that talk to each other, honest until a hostile frame is put on the wire.
///
/// Honest lanes never accuse each other, never send an empty frame, deliver every byte once and in order, and
/// leave nothing in their pools.
pub(crate) fn session_ops(data: &[u8]) {
    let mut session = Session::new();
    let mut ops = Ops(data.iter());
    while let Some(op) = ops.0.next() {
        session.run(*op, &mut ops);
    }
    session.settle();
    let pools = session.pools.clone();
    drop(session);
    assert!(pools.iter().all(|pool| pool.used() == 0), "memory is left in a pool");
}

struct Ops<'a>(std::slice::Iter<'a, u8>);

impl Ops<'_> {
    fn byte(&mut self) -> usize {
        self.0.next().copied().map_or(0, usize::from)
    }
}

/// A direction of a stream: its number and the side that sends.
type Direction = (u32, usize);

struct Session {
    now: Instant,
    lanes: [Lane<()>; 2],
    decoders: [Decoder; 2],
    /// What is under way *to* each side, whole frames.
    wires: [VecDeque<u8>; 2],
    keys: [Vec<Key>; 2],
    pools: [Arc<Pool>; 2],
    sent: HashMap<Direction, usize>,
    received: HashMap<Direction, usize>,
    heads: HashMap<Direction, usize>,
    /// Streams that did not run to their ends.
    broken: HashSet<u32>,
    dead: [bool; 2],
    hostile: bool,
}

impl Session {
    fn new() -> Self {
        let now = Instant::now();
        let pools = [Pool::new(1 << 20, None), Pool::new(1 << 20, None)];
        let config = LaneConfig { max_streams: 40, ..LaneConfig::default() };
        let lane = |side, pool: &Arc<Pool>| Lane::new(side, config.clone(), Arc::clone(pool), now);
        let decoder = || Decoder::new(Limits::Authenticated { data_cap: DATA_DEFAULT });
        Self {
            now,
            lanes: [lane(Side::Server, &pools[0]), lane(Side::Agent, &pools[1])],
            decoders: [decoder(), decoder()],
            wires: [VecDeque::new(), VecDeque::new()],
            keys: [Vec::new(), Vec::new()],
            pools,
            sent: HashMap::new(),
            received: HashMap::new(),
            heads: HashMap::new(),
            broken: HashSet::new(),
            dead: [false; 2],
            hostile: false,
        }
    }

    fn run(&mut self, op: u8, ops: &mut Ops<'_>) {
        let side = usize::from(op >> 7);
        let now = self.now;
        match op & 0x0f {
            0 => self.open(side, ops.byte()),
            1 | 2 => self.send(side, ops),
            3 => self.send_head(side, ops),
            4 => self.on_stream(side, ops, |lane, key| {
                let _ = lane.finish(now, key);
            }),
            5 | 6 => {
                if let Some(key) = self.pick(side, ops.byte()) {
                    self.receive(side, key, ops.byte());
                }
            }
            7 => self.breaking(side, ops, |lane, key| lane.reset(key, ErrorCode::Cancel)),
            8 => self.breaking(side, ops, Lane::release),
            9 | 10 => self.transmit(side, 600 + ops.byte() * 64),
            11 => self.deliver(side, 1 + ops.byte() * 16),
            12 => {
                let step = ops.byte();
                self.now += Duration::from_millis(u64::try_from(step * step).unwrap_or(0));
                let _ = self.lanes[side].handle_timeout(self.now);
                self.lanes[side].ask_round_trip(self.now);
            }
            13 => self.lanes[side].go_away(message::GoAway::default()),
            14 => self.hostile_frame(side, ops),
            _ => self.lanes[side].send_control(FrameType::Register, 0, b"{}"),
        }
        self.take_events(side);
    }

    fn open(&mut self, side: usize, arg: usize) {
        let open = Open::tcp(u32::try_from(arg).unwrap_or(0), None, None);
        if let Ok(key) = self.lanes[side].open(self.now, open, arg & 1 == 1, ()) {
            self.keys[side].push(key);
        }
    }

    fn pick(&self, side: usize, arg: usize) -> Option<Key> {
        let keys = &self.keys[side];
        keys.get(arg.checked_rem(keys.len())?).copied()
    }

    fn on_stream(&mut self, side: usize, ops: &mut Ops<'_>, act: impl FnOnce(&mut Lane<()>, Key)) {
        if let Some(key) = self.pick(side, ops.byte()) {
            act(&mut self.lanes[side], key);
        }
    }

    /// Acts on a stream that from then on need not run to its ends.
    fn breaking(&mut self, side: usize, ops: &mut Ops<'_>, act: impl FnOnce(&mut Lane<()>, Key)) {
        if let Some(key) = self.pick(side, ops.byte()) {
            self.broken.insert(key.id());
            act(&mut self.lanes[side], key);
        }
    }

    fn send(&mut self, side: usize, ops: &mut Ops<'_>) {
        let Some(key) = self.pick(side, ops.byte()) else {
            return;
        };
        let sent = self.sent.entry((key.id(), side)).or_default();
        let mut chunk: Bytes = (0..ops.byte() * 300).map(|at| pattern(key.id(), side, *sent + at)).collect();
        *sent += self.lanes[side].send(self.now, key, &mut chunk).unwrap_or(0);
    }

    fn send_head(&mut self, side: usize, ops: &mut Ops<'_>) {
        let (Some(key), size) = (self.pick(side, ops.byte()), ops.byte()) else {
            return;
        };
        let waiting = self.heads.entry((key.id(), side)).or_default();
        // More unread heads are the sender's fault, not the lane's.
        if *waiting < 8 && self.lanes[side].send_head(self.now, key, vec![7; size * 40], size % 5 == 4).is_ok() {
            *waiting += 1;
        }
    }

    fn receive(&mut self, side: usize, key: Key, most: usize) {
        let from = (key.id(), 1 - side);
        for _ in 0..most {
            match self.lanes[side].recv(self.now, key) {
                Ok(Some(Incoming::Data(bytes))) => {
                    let at = self.received.entry(from).or_default();
                    let right = bytes.iter().enumerate().all(|(i, b)| *b == pattern(key.id(), 1 - side, *at + i));
                    assert!(right || self.hostile, "stream {} delivers other bytes than were sent", key.id());
                    *at += bytes.len();
                }
                Ok(Some(Incoming::Head(_))) => {
                    let waiting = self.heads.entry(from).or_default();
                    *waiting = waiting.saturating_sub(1);
                }
                Ok(Some(Incoming::End) | None) | Err(_) => return,
            }
        }
    }

    fn transmit(&mut self, side: usize, limit: usize) {
        let mut out = Vec::new();
        self.lanes[side].poll_transmit(self.now, &mut out, limit);
        self.wires[1 - side].extend(out);
    }

    fn deliver(&mut self, side: usize, most: usize) {
        let most = most.min(self.wires[side].len());
        let bytes: Vec<u8> = self.wires[side].drain(..most).collect();
        let mut input = bytes.as_slice();
        while !self.dead[side] {
            let (lane, now, hostile) = (&mut self.lanes[side], self.now, self.hostile);
            let handled = self.decoders[side].next(&mut input, |header, payload| {
                let empty = header.kind == FrameType::Data && header.flags == 0 && payload.is_empty();
                assert!(hostile || !empty, "an empty frame was sent");
                lane.handle_frame(now, header, payload)
            });
            match handled {
                Ok(None) => break,
                Ok(Some(Ok(()))) => self.take_events(side),
                Ok(Some(Err(violation))) => {
                    assert!(self.hostile, "an honest lane is accused: {violation}");
                    self.lanes[side].close(violation.code(), &violation.to_string());
                    self.dead[side] = true;
                }
                Err(error) => {
                    assert!(self.hostile, "an honest lane's frame is refused: {error}");
                    self.dead[side] = true;
                }
            }
        }
    }

    fn take_events(&mut self, side: usize) {
        while let Some(event) = self.lanes[side].poll_event() {
            match event {
                Event::Opened(key, _) => self.keys[side].push(key),
                Event::Reset(key, _) => drop(self.broken.insert(key.id())),
                Event::Closed(..) => self.dead[side] = true,
                _ => {}
            }
        }
    }

    /// A frame no honest lane would send, on the way to `side`.
    fn hostile_frame(&mut self, side: usize, ops: &mut Ops<'_>) {
        let kind = u8::try_from(ops.byte()).unwrap_or(0);
        let Some(kind) = FrameType::from_wire(kind) else {
            return;
        };
        let flag_bits = u8::try_from(ops.byte()).unwrap_or(0);
        let stream = u32::try_from(ops.byte()).unwrap_or(0);
        let length = ops.byte();
        let payload: Vec<u8> = (0..length).map_while(|_| ops.0.next().copied()).collect();
        let mut wire = Vec::new();
        put_frame(&mut wire, kind, flag_bits, stream, &payload);
        self.hostile = true;
        self.wires[side].extend(wire);
    }

    /// Lets everything that was sent arrive and be read, and looks whether it was all.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            for side in 0..2 {
                self.transmit(side, 16 * 1024);
                self.deliver(1 - side, usize::MAX);
                for key in self.keys[1 - side].clone() {
                    self.receive(1 - side, key, usize::MAX);
                }
                self.take_events(side);
            }
            let done = (0..2).all(|side| !self.lanes[side].has_output() && self.wires[side].is_empty());
            if done || self.dead.contains(&true) {
                break;
            }
        }
        if self.hostile {
            return;
        }
        for (direction, sent) in &self.sent {
            let whole = self.received.get(direction).copied().unwrap_or(0) == *sent;
            assert!(whole || self.broken.contains(&direction.0), "stream {direction:?} lost bytes");
        }
    }
}

/// What a stream carries in a direction at an offset.
fn pattern(id: u32, side: usize, at: usize) -> u8 {
    let sum = usize::try_from(id).unwrap_or(0) * 31 + side * 101 + at;
    u8::try_from(sum % 251).unwrap_or(0)
}
