//! Two sessions and repeatable randomness.

use std::time::Instant;

use spdy::{Event, Session, Settings};

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

/// A client and a server that hear of each other what `run` carries.
pub(crate) struct Ends {
    pub(crate) client: Session,
    pub(crate) server: Session,
    pub(crate) now: Instant,
}

impl Ends {
    pub(crate) fn new() -> Self {
        Self::with(Settings::client(), Settings::server())
    }

    pub(crate) fn with(client: Settings, server: Settings) -> Self {
        let now = Instant::now();
        Self { client: Session::new(client, now), server: Session::new(server, now), now }
    }

    /// Carries everything both ways until both are silent.
    pub(crate) fn run(&mut self) {
        let mut wire = Vec::new();
        while self.client.has_output() || self.server.has_output() {
            wire.clear();
            self.client.poll_transmit(&mut wire, 16 * 1024);
            self.server.handle_input(self.now, &wire).expect("the client keeps to the protocol");
            wire.clear();
            self.server.poll_transmit(&mut wire, 16 * 1024);
            self.client.handle_input(self.now, &wire).expect("the server keeps to the protocol");
        }
    }
}

/// All that happened.
pub(crate) fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.poll_event()).collect()
}

/// All that is to be sent.
pub(crate) fn output(session: &mut Session) -> Vec<u8> {
    let mut out = Vec::new();
    while session.has_output() {
        assert!(session.poll_transmit(&mut out, 1 << 20) > 0, "there was said to be output");
    }
    out
}
