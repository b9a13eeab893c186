//! Liveness, round trips, and what has to happen now and then.

use std::time::{Duration, Instant};

use super::{Key, Lane};
use crate::flow::SHRINK_AFTER;
use crate::frame::{FrameType, HEADER_LEN, flags, put_frame};

/// Assumed until the first echo is back.
const FIRST_GUESS: Duration = Duration::from_millis(50);
/// A round trip older than this is measured anew while windows grow.
const STALE: Duration = Duration::from_secs(1);

/// After two of these a path that has become longer is believed.
const PERIOD: Duration = Duration::from_secs(60);

/// When the peer was last heard, and how far away it is.
#[derive(Debug)]
pub(super) struct Liveness {
    heard: Instant,
    spoke: Instant,
    /// Smoothed, for people.
    round_trip: Duration,
    /// The shortest of this period and of the one before: the path without our own queues.
    shortest: [Option<Duration>; 2],
    period: Instant,
    /// Number and time of the heartbeat whose echo is awaited.
    asked: Option<(u64, Instant)>,
    asks: u64,
    last_asked: Instant,
    want_ask: bool,
    last_sweep: Instant,
}

impl Liveness {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            spoke: now,
            round_trip: FIRST_GUESS,
            shortest: [None; 2],
            period: now,
            asked: None,
            asks: 0,
            last_asked: now,
            want_ask: false,
            last_sweep: now,
        }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    pub(super) fn spoke(&mut self, now: Instant) {
        self.spoke = now;
    }

    pub(super) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// The path's own round trip, as far as it was ever seen without queues.
    pub(super) fn path_round_trip(&self) -> Duration {
        self.shortest.into_iter().flatten().min().unwrap_or(FIRST_GUESS)
    }

    /// A fresh round trip is wanted, unless the last one is recent.
    pub(super) fn refresh_round_trip(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_asked) >= STALE {
            self.want_ask = true;
        }
    }

    pub(super) fn echoed(&mut self, now: Instant, number: u64) {
        let Some((asked, at)) = self.asked else { return };
        if asked != number {
            return;
        }
        self.asked = None;
        let sample = now.saturating_duration_since(at);
        if now.saturating_duration_since(self.period) >= PERIOD {
            self.period = now;
            self.shortest = [None, self.shortest[0]];
        }
        self.shortest[0] = Some(self.shortest[0].map_or(sample, |shortest| shortest.min(sample)));
        let first = number == 1;
        // Queueing only ever adds to a sample, so a shorter one is believed at once.
        self.round_trip =
            if first || sample < self.round_trip { sample } else { self.round_trip + (sample - self.round_trip) / 8 };
    }
}

/// What a timeout found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// The peer is heard from.
    Alive,
    /// Nothing was heard for longer than the peer has.
    Dead,
}

impl<D: Default> Lane<D> {
    /// When [`Lane::handle_timeout`] is next to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let dead = self.liveness.heard + self.config.dead_after;
        let beat = self.config.heartbeat.map(|every| self.next_beat(every));
        let sweep = (!self.ids.is_empty()).then(|| self.liveness.last_sweep + SHRINK_AFTER);
        [beat, sweep].into_iter().flatten().fold(dead, Instant::min)
    }

    /// Does what is due: heartbeat, shrinking of windows, handing back of unused credit.
    pub fn handle_timeout(&mut self, now: Instant) -> Health {
        if now.saturating_duration_since(self.liveness.heard) >= self.config.dead_after {
            return Health::Dead;
        }
        if self.config.heartbeat.is_some_and(|every| now >= self.next_beat(every)) {
            self.ping(now);
        }
        if now.saturating_duration_since(self.liveness.last_sweep) >= SHRINK_AFTER {
            self.liveness.last_sweep = now;
            self.sweep(now);
        }
        Health::Alive
    }

    /// Asks for an echo if a growing window wants a fresh round trip. Cheap enough to be asked at every turn.
    pub fn ask_round_trip(&mut self, now: Instant) {
        if std::mem::take(&mut self.liveness.want_ask) && self.liveness.asked.is_none() {
            self.ping(now);
        }
    }

    pub(super) fn ping(&mut self, now: Instant) {
        self.liveness.asks += 1;
        self.stats.heartbeats += 1;
        self.liveness.asked = Some((self.liveness.asks, now));
        self.liveness.last_asked = now;
        let number = self.liveness.asks.to_be_bytes();
        self.send_control(FrameType::Heartbeat, 0, &number);
    }

    /// Due when nothing was heard or nothing was said for the interval, and never twice within it. A side that
    /// only listens must beat too: the other one, which does not, would take it for dead.
    fn next_beat(&self, every: Duration) -> Instant {
        self.liveness.heard.min(self.liveness.spoke).max(self.liveness.last_asked) + every
    }

    fn sweep(&mut self, now: Instant) {
        let round_trip = self.liveness.path_round_trip();
        let keys: Vec<Key> = self.ids.iter().map(|(id, slot)| Key { slot: *slot, id: *id }).collect();
        for key in keys {
            let Some(stream) = self.get_mut(key) else { continue };
            stream.window.shrink(now, round_trip);
            if let Some(surplus) = stream.credit.hand_back(now) {
                let mut frame = Vec::with_capacity(HEADER_LEN + 4);
                put_frame(&mut frame, FrameType::Window, flags::ACK, key.id, &surplus.to_be_bytes());
                self.push_control(frame);
            }
        }
    }
}
