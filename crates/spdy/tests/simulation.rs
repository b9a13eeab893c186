//! Two sessions under random schedules, against a trivial model: what is written comes out, once and in order.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use spdy::{Event, Health, ReadState, ResetStatus, Session, Settings, StreamId, Written};

#[path = "support/ends.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod ends;

use ends::Dice;

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// What one side says on a stream.
#[derive(Debug, Default)]
struct Half {
    plan: usize,
    sent: usize,
    received: usize,
    is_finished: bool,
    is_ended: bool,
    /// The writer was told that it is full, and has not been told otherwise.
    waits_for_room: bool,
    /// There may be something to read.
    is_readable: bool,
    /// Its reader does not read until this step.
    paused_until: usize,
}

#[derive(Debug)]
struct Talk {
    halves: [Half; 2],
    is_opened: bool,
    /// Who resets it, and behind how many received bytes.
    reset: Option<(usize, usize)>,
    is_reset: bool,
    is_released: [bool; 2],
}

impl Talk {
    fn new(dice: &mut Dice) -> Self {
        let mut half = || {
            let scale = 6 + dice.below(14);
            Half { plan: if dice.one_in(5) { 0 } else { dice.below(1 << scale) }, ..Half::default() }
        };
        let halves = [half(), half()];
        let reset = dice.one_in(6).then(|| (dice.below(2), dice.below(60_000)));
        Self { halves, is_opened: false, reset, is_reset: false, is_released: [false; 2] }
    }
}

struct Net {
    sessions: [Session; 2],
    /// What is on its way to each side.
    wires: [VecDeque<u8>; 2],
    talks: BTreeMap<StreamId, Talk>,
    now: Instant,
    step: usize,
    receive_limit: usize,
    context: String,
}

impl Net {
    fn new(seed: u64, dice: &mut Dice) -> Self {
        let now = Instant::now();
        let receive_limit = 1_000 << dice.below(9);
        let send_limit = 1_000 << dice.below(9);
        let settings = |settings: Settings| {
            // A peer that does not read answers no PING either, and here it may not read for long.
            Settings { receive_limit, send_limit, dead_after: Duration::from_secs(1_000_000), ..settings }
        };
        let sessions = [settings(Settings::client()), settings(Settings::server())].map(|s| Session::new(s, now));
        let wires = [VecDeque::new(), VecDeque::new()];
        let context = format!("seed {seed}");
        Self { sessions, wires, talks: BTreeMap::new(), now, step: 0, receive_limit, context }
    }

    /// One random thing on each side.
    fn tick(&mut self, dice: &mut Dice) {
        self.step += 1;
        for side in [CLIENT, SERVER] {
            self.transmit(side, 1024 + dice.below(40_000));
            self.deliver(side, dice.below(40_000));
            self.take_events(side);
            let ids: Vec<StreamId> = self.talks.keys().copied().collect();
            for id in ids {
                if dice.one_in(2) {
                    self.act(dice, side, id);
                }
            }
        }
        if dice.one_in(50) {
            self.now += Duration::from_secs(7);
            for session in &mut self.sessions {
                assert_eq!(session.handle_timeout(self.now), Health::Alive, "{}", self.context);
            }
        }
    }

    fn transmit(&mut self, side: usize, limit: usize) {
        // A socket takes only so much ahead of its reader.
        if self.wires[1 - side].len() < 100_000 {
            let mut out = Vec::new();
            let had = self.sessions[side].has_output();
            let n = self.sessions[side].poll_transmit(&mut out, limit);
            assert!(n == out.len() && n <= limit && had == (n > 0), "{}: {n} of {limit}, {had}", self.context);
            self.wires[1 - side].extend(out);
        }
    }

    fn deliver(&mut self, side: usize, most: usize) {
        if self.sessions[side].wants_input() {
            let most = most.min(self.wires[side].len());
            let bytes: Vec<u8> = self.wires[side].drain(..most).collect();
            let outcome = self.sessions[side].handle_input(self.now, &bytes);
            assert_eq!(outcome, Ok(()), "{}", self.context);
        }
    }

    fn take_events(&mut self, side: usize) {
        while let Some(event) = self.sessions[side].poll_event() {
            match event {
                Event::Opened { id, headers, .. } => {
                    assert_eq!(headers.get("requestid"), Some(id.to_string().as_str()), "{}", self.context);
                    self.talks.get_mut(&id).expect("it was planned").is_opened = true;
                    self.sessions[side].reply(id, &[], false);
                }
                Event::Readable(id) => self.half(id, 1 - side, |half| half.is_readable = true),
                Event::Writable(id) => self.half(id, side, |half| half.waits_for_room = false),
                Event::Replied { .. } | Event::Pong { .. } => {}
                Event::GoAway { .. } => panic!("{}: nobody goes away", self.context),
            }
        }
    }

    fn half(&mut self, id: StreamId, side: usize, change: impl FnOnce(&mut Half)) {
        if let Some(talk) = self.talks.get_mut(&id) {
            change(&mut talk.halves[side]);
        }
    }

    fn act(&mut self, dice: &mut Dice, side: usize, id: StreamId) {
        let session = &mut self.sessions[side];
        let talk = self.talks.get_mut(&id).expect("it is listed");
        if talk.is_released[side] || (side == SERVER && !talk.is_opened) {
            return;
        }
        if let Some((who, behind)) = talk.reset
            && who == side
            && talk.halves[1 - side].received >= behind
        {
            session.reset(id, ResetStatus::Cancel);
            talk.is_reset = true;
            talk.is_released[side] = true;
            return;
        }
        if dice.one_in(30) {
            talk.halves[1 - side].paused_until = self.step + dice.below(60);
        }
        write(session, dice, talk, side, id);
        if talk.halves[1 - side].paused_until <= self.step {
            read(session, talk, side, id, &self.context);
        }
        let [mine, theirs] = [&talk.halves[side], &talk.halves[1 - side]];
        if mine.is_finished && theirs.is_ended {
            session.release(id);
            talk.is_released[side] = true;
        }
    }

    /// Lets everything that is under way arrive.
    fn settle(&mut self) {
        for _ in 0..1000 {
            for side in [CLIENT, SERVER] {
                self.transmit(side, 16 * 1024);
                self.deliver(side, usize::MAX);
                self.take_events(side);
            }
        }
    }

    fn check(&self) {
        for session in &self.sessions {
            assert_eq!(session.wants_input(), session.blocking_streams() == 0);
            assert!(session.blocking_streams() <= session.open_streams(), "{}", self.context);
        }
    }

    fn is_over(&self) -> bool {
        self.talks.values().all(|talk| talk.is_released == [true; 2])
    }
}

fn write(session: &mut Session, dice: &mut Dice, talk: &mut Talk, side: usize, id: StreamId) {
    let half = &mut talk.halves[side];
    if half.is_finished || half.waits_for_room {
        return;
    }
    let most = (half.plan - half.sent).min(1 + dice.below(50_000));
    let chunk: Vec<u8> = (half.sent..half.sent + most).map(|at| pattern(id, side, at)).collect();
    match session.write(id, &chunk) {
        Written::Taken(n) => {
            half.sent += n;
            half.waits_for_room = n < most;
        }
        Written::Closed => {
            assert!(talk.reset.is_some(), "only a reset closes a stream");
            half.is_finished = true;
        }
    }
    if half.sent == half.plan && dice.one_in(2) {
        session.finish(id);
        half.is_finished = true;
    }
}

fn read(session: &mut Session, talk: &mut Talk, side: usize, id: StreamId, context: &str) {
    let half = &mut talk.halves[1 - side];
    if !std::mem::take(&mut half.is_readable) {
        return;
    }
    let mut into = Vec::new();
    match session.read(id, &mut into) {
        ReadState::Data => {
            assert!(!half.is_ended, "{context}: data behind the end of {id}");
            for (at, byte) in into.iter().enumerate() {
                assert_eq!(*byte, pattern(id, 1 - side, half.received + at), "{context}: stream {id}");
            }
            half.received += into.len();
        }
        ReadState::Finished => {
            assert!(half.is_finished && half.received == half.plan, "{context}: early end of {id}, {half:?}");
            half.is_ended = true;
        }
        ReadState::Reset(status) => {
            assert!(talk.is_reset && status == ResetStatus::Cancel, "{context}: {id} is reset by nobody");
            session.release(id);
            talk.is_released[side] = true;
        }
        ReadState::Pending => panic!("{context}: told readable without cause, {half:?}"),
        ReadState::Gone => panic!("{context}: stream {id} is gone"),
    }
}

/// What a side sends on a stream at an offset.
fn pattern(id: StreamId, side: usize, at: usize) -> u8 {
    let mixed = usize::try_from(id.get()).unwrap_or(0) * 37 + side * 113 + at + at / 251;
    u8::try_from(mixed % 253).unwrap_or(0)
}

fn random_schedule(seed: u64) {
    let mut dice = Dice::new(seed);
    let mut net = Net::new(seed, &mut dice);
    let count = 1 + dice.below(25);
    for step in 0..400_000 {
        if net.talks.len() < count && dice.one_in(10) {
            let number = (2 * net.talks.len() + 1).to_string();
            let id = net.sessions[CLIENT].open(&[("requestId", &number)], false).expect("there is room");
            net.talks.insert(id, Talk::new(&mut dice));
        }
        net.tick(&mut dice);
        net.check();
        if net.talks.len() == count && net.is_over() {
            break;
        }
        let left = || net.talks.iter().find(|(_, talk)| talk.is_released != [true; 2]);
        assert!(step < 399_999, "{}: stalled, {:?}", net.context, left());
    }
    net.settle();
    for session in &net.sessions {
        let left = (session.open_streams(), session.blocking_streams(), session.has_output());
        assert_eq!(left, (0, 0, false), "{}, receive limit {}", net.context, net.receive_limit);
    }
}

#[test]
fn every_byte_arrives_once_and_in_order_under_random_schedules() {
    for seed in 0..48 {
        println!("seed {seed}");
        random_schedule(seed);
    }
}
