//! Two lanes on a virtual clock, joined by wires with latency and a rate.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mux::frame::{DATA_DEFAULT, FrameType, Limits};
use mux::lane::{LaneConfig, Side, Violation};
use mux::{Decoder, Event, Health, Key, Lane, Open, Pool};

pub(crate) const SERVER: usize = 0;
pub(crate) const AGENT: usize = 1;
/// Room of one TLS record, as the driver gives it.
const RECORD: usize = 16 * 1024;
/// What a socket takes ahead of the wire.
const SOCKET: Duration = Duration::from_millis(2);

/// Repeatable randomness (xorshift64*).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap_or(0) % bound.max(1)
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// One direction of the path.
pub(crate) struct Wire {
    pub(crate) latency: Duration,
    /// `None` is as fast as can be.
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) cut: bool,
    free_at: Instant,
    flight: VecDeque<(Instant, Vec<u8>)>,
}

impl Wire {
    fn new(now: Instant) -> Self {
        Self { latency: Duration::ZERO, bytes_per_second: None, cut: false, free_at: now, flight: VecDeque::new() }
    }

    fn takes_more(&self, now: Instant) -> bool {
        self.free_at <= now + SOCKET
    }

    fn put(&mut self, now: Instant, bytes: Vec<u8>) {
        let begin = self.free_at.max(now);
        let micros = self.bytes_per_second.map_or(0, |rate| bytes.len() as u64 * 1_000_000 / rate);
        self.free_at = begin + Duration::from_micros(micros);
        if !self.cut {
            self.flight.push_back((self.free_at + self.latency, bytes));
        }
    }

    fn take(&mut self, now: Instant) -> Option<Vec<u8>> {
        let due = self.flight.front().is_some_and(|(at, _)| *at <= now);
        due.then(|| self.flight.pop_front()).flatten().map(|(_, bytes)| bytes)
    }
}

/// One end of the lane.
pub(crate) struct End {
    pub(crate) lane: Lane<()>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) opened: Vec<Key>,
    pub(crate) events: Vec<Event>,
    pub(crate) health: Health,
    pub(crate) violation: Option<Violation>,
    decoder: Decoder,
}

/// Both ends and what is between them.
pub(crate) struct Net {
    pub(crate) now: Instant,
    pub(crate) ends: [End; 2],
    /// `wires[i]` carries what end `i` sends.
    pub(crate) wires: [Wire; 2],
    pub(crate) dice: Dice,
    /// Data frames without bytes, END or HEADERS: there must be none.
    pub(crate) empty_frames: usize,
}

impl Net {
    pub(crate) fn new(seed: u64, configs: [LaneConfig; 2], pool_limit: u64) -> Self {
        let now = Instant::now();
        let [server, agent] = configs;
        let end = |side, config| {
            let pool = Pool::new(pool_limit, None);
            End {
                lane: Lane::new(side, config, Arc::clone(&pool), now),
                pool,
                opened: Vec::new(),
                events: Vec::new(),
                health: Health::Alive,
                violation: None,
                decoder: Decoder::new(Limits::Authenticated { data_cap: DATA_DEFAULT }),
            }
        };
        Self {
            now,
            ends: [end(Side::Server, server), end(Side::Agent, agent)],
            wires: [Wire::new(now), Wire::new(now)],
            dice: Dice::new(seed),
            empty_frames: 0,
        }
    }

    /// Default lanes on a path with a round trip.
    pub(crate) fn path(round_trip: Duration, bytes_per_second: Option<u64>) -> Self {
        let server = LaneConfig { heartbeat: None, ..LaneConfig::default() };
        let mut net = Self::new(1, [server, LaneConfig::default()], 64 << 20);
        for wire in &mut net.wires {
            wire.latency = round_trip / 2;
            wire.bytes_per_second = bytes_per_second;
        }
        net
    }

    /// Opens a stream from `side`; the other side's key comes with [`Net::accepted`].
    pub(crate) fn open(&mut self, side: usize) -> Key {
        self.ends[side].lane.open(self.now, Open::tcp(1, None, None), false, ()).expect("there is room")
    }

    /// Runs until the stream's other end knows it.
    pub(crate) fn accepted(&mut self, side: usize, id: u32) -> Key {
        for _ in 0..10_000 {
            if let Some(key) = self.ends[side].opened.iter().find(|key| key.id() == id) {
                return *key;
            }
            self.tick(Duration::from_millis(1));
        }
        panic!("stream {id} was never announced");
    }

    /// Opens a stream from the server and waits for its other end.
    pub(crate) fn pair(&mut self) -> [Key; 2] {
        let near = self.open(SERVER);
        [near, self.accepted(AGENT, near.id())]
    }

    /// Lets time pass: what is due arrives, timers run, sockets take what fits.
    pub(crate) fn tick(&mut self, step: Duration) {
        self.now += step;
        for side in [SERVER, AGENT] {
            self.arrive(side);
            let lane = &mut self.ends[side].lane;
            if lane.poll_timeout() <= self.now {
                self.ends[side].health = lane.handle_timeout(self.now);
            }
            self.ends[side].lane.ask_round_trip(self.now);
            self.transmit(side);
        }
    }

    pub(crate) fn run(&mut self, time: Duration, step: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.tick(step);
        }
    }

    pub(crate) fn transmit(&mut self, side: usize) {
        while self.wires[side].takes_more(self.now) {
            let mut record = Vec::with_capacity(RECORD);
            if self.ends[side].lane.poll_transmit(self.now, &mut record, RECORD) == 0 {
                break;
            }
            self.wires[side].put(self.now, record);
        }
        self.collect(side);
    }

    fn arrive(&mut self, side: usize) {
        while let Some(bytes) = self.wires[1 - side].take(self.now) {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                // TCP keeps no borders.
                let cut = if self.dice.one_in(3) { 1 + self.dice.below(rest.len()) } else { rest.len() };
                let (mut chunk, later) = rest.split_at(cut);
                rest = later;
                self.feed(side, &mut chunk);
            }
        }
        self.collect(side);
    }

    fn feed(&mut self, side: usize, chunk: &mut &[u8]) {
        let now = self.now;
        let end = &mut self.ends[side];
        loop {
            let (lane, empty) = (&mut end.lane, &mut self.empty_frames);
            let handled = end.decoder.next(chunk, |header, payload| {
                if header.kind == FrameType::Data && header.flags == 0 && payload.is_empty() {
                    *empty += 1;
                }
                lane.handle_frame(now, header, payload)
            });
            match handled.expect("our own headers are legal") {
                None => return,
                Some(Ok(())) => {}
                Some(Err(violation)) => end.violation = Some(violation),
            }
        }
    }

    fn collect(&mut self, side: usize) {
        let end = &mut self.ends[side];
        while let Some(event) = end.lane.poll_event() {
            match event {
                Event::Opened(key, _) => end.opened.push(key),
                event => end.events.push(event),
            }
        }
    }

    /// Sends as many bytes as the lane takes, at most `most`.
    pub(crate) fn send(&mut self, side: usize, key: Key, most: usize) -> usize {
        let mut chunk = Bytes::from(vec![0; most]);
        self.ends[side].lane.send(self.now, key, &mut chunk).unwrap_or(0)
    }

    /// Reads all there is; the bytes' count and whether the end was seen.
    pub(crate) fn read(&mut self, side: usize, key: Key) -> (usize, bool) {
        let mut count = 0;
        while let Ok(Some(incoming)) = self.ends[side].lane.recv(self.now, key) {
            match incoming {
                mux::Incoming::Data(bytes) => count += bytes.len(),
                mux::Incoming::End => return (count, true),
                mux::Incoming::Head(_) => {}
            }
        }
        (count, false)
    }

    /// Fails when the lanes found fault with each other.
    pub(crate) fn check(&self, context: &str) {
        for end in &self.ends {
            assert_eq!(end.violation, None, "{context}");
        }
        assert_eq!(self.empty_frames, 0, "{context}");
    }
}
