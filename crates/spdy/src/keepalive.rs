//! When to ask whether the peer still lives, and when to say that it does not.
//!
//! The timer is lazy: input only notes that it came, and the timer looks when it fires. So a busy session never
//! has its timer set anew, and an idle one wakes once a period.

use std::time::{Duration, Instant};

use crate::session::settings::Settings;
use crate::stream_id::{LAST, Role};

/// The machine of one session.
#[derive(Debug)]
pub(crate) struct Keepalive {
    ping_after: Duration,
    dead_after: Duration,
    blocked_dead_after: Duration,
    last_input: Instant,
    heard: bool,
    probe: Option<Probe>,
    timer: Instant,
    next_id: u32,
    first_id: u32,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Wait,
    /// Send a PING of this number.
    Ping(u32),
    Dead,
}

/// What the session is doing while the peer is silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Circumstances {
    /// It reads. If not, silence is its own doing.
    pub(crate) reads: bool,
    /// What it has to send is not taken, so the PING may not have got through.
    pub(crate) is_blocked: bool,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    id: u32,
    sent: Instant,
    /// Since when an answer could have come.
    waiting_since: Instant,
    was_blocked: bool,
}

impl Keepalive {
    pub(crate) fn new(role: Role, settings: &Settings, now: Instant) -> Self {
        Self {
            ping_after: settings.ping_after,
            dead_after: settings.dead_after,
            blocked_dead_after: settings.blocked_dead_after,
            last_input: now,
            heard: true,
            probe: None,
            timer: now + settings.ping_after,
            next_id: role.first_id(),
            first_id: role.first_id(),
        }
    }

    /// Something arrived.
    pub(crate) fn note_input(&mut self, now: Instant) {
        self.last_input = now;
        self.heard = true;
    }

    /// A PING of ours came back; how long it took, if it is the one last sent.
    pub(crate) fn note_answer(&mut self, now: Instant, id: u32) -> Option<Duration> {
        let probe = self.probe.take_if(|probe| probe.id == id)?;
        Some(now.saturating_duration_since(probe.sent))
    }

    pub(crate) fn poll_timeout(&self) -> Instant {
        self.timer
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, state: Circumstances) -> Verdict {
        if now < self.timer {
            return Verdict::Wait;
        }
        if !state.reads {
            self.note_input(now);
        }
        if let Some(probe) = self.probe
            && !self.heard
        {
            return self.judge(now, probe, state.is_blocked);
        }
        let due = self.last_input + self.ping_after;
        if now < due {
            self.timer = due;
            return Verdict::Wait;
        }
        Verdict::Ping(self.probe(now))
    }

    /// Asks now, whatever the timer says: the number of the PING to send, unless one is out that nothing came after.
    pub(crate) fn ask(&mut self, now: Instant) -> Option<u32> {
        let is_asked = self.probe.is_some() && !self.heard;
        (!is_asked).then(|| self.probe(now))
    }

    fn probe(&mut self, now: Instant) -> u32 {
        let id = self.next_id;
        self.next_id = if id > LAST - 2 { self.first_id } else { id + 2 };
        self.heard = false;
        self.probe = Some(Probe { id, sent: now, waiting_since: now, was_blocked: false });
        // Later than it was: an earlier call finds nothing to do.
        self.timer = now + self.dead_after;
        id
    }

    /// A PING is out and nothing has come since.
    fn judge(&mut self, now: Instant, mut probe: Probe, is_blocked: bool) -> Verdict {
        let given_up = self.last_input + self.ping_after + self.blocked_dead_after;
        let waited = now.saturating_duration_since(probe.waiting_since);
        let verdict = if is_blocked || probe.was_blocked {
            // The peer gets its whole time to answer once the way is free again.
            probe.waiting_since = now;
            probe.was_blocked = is_blocked;
            if now >= given_up { Verdict::Dead } else { Verdict::Wait }
        } else if waited >= self.dead_after {
            Verdict::Dead
        } else {
            Verdict::Wait
        };
        self.probe = Some(probe);
        self.timer = probe.waiting_since + self.dead_after;
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const FREE: Circumstances = Circumstances { reads: true, is_blocked: false };
    const BLOCKED: Circumstances = Circumstances { reads: true, is_blocked: true };
    const STALLED: Circumstances = Circumstances { reads: false, is_blocked: false };

    fn machine() -> (Keepalive, Instant) {
        let now = Instant::now();
        (Keepalive::new(Role::Client, &Settings::client(), now), now)
    }

    /// Lets the timer fire whenever it wants to, until `end`; what came of it, with the seconds.
    fn run(keepalive: &mut Keepalive, from: Instant, end: u64, state: Circumstances) -> Vec<(u64, Verdict)> {
        let mut got = Vec::new();
        for _ in 0..1000 {
            let at = keepalive.poll_timeout();
            if at > from + S * u32::try_from(end).unwrap() {
                return got;
            }
            let verdict = keepalive.handle_timeout(at, state);
            if verdict != Verdict::Wait {
                got.push(((at - from).as_secs(), verdict));
            }
            if verdict == Verdict::Dead {
                return got;
            }
        }
        panic!("the timer does not get on");
    }

    #[test]
    fn who_asks_at_once_asks_once_and_waits_as_long_for_an_answer() {
        let (mut keepalive, start) = machine();
        assert_eq!((keepalive.ask(start + S), keepalive.ask(start + S * 2)), (Some(1), None));
        assert_eq!(run(&mut keepalive, start, 100, FREE), [(21, Verdict::Dead)]);
        let (mut keepalive, start) = machine();
        keepalive.ask(start + S);
        keepalive.note_input(start + S * 2);
        assert_eq!(keepalive.ask(start + S * 3), Some(3));
    }

    #[test]
    fn a_silent_peer_is_asked_after_20_seconds_and_dead_after_40() {
        let (mut keepalive, start) = machine();
        let got = run(&mut keepalive, start, 100, FREE);
        assert_eq!(got, [(20, Verdict::Ping(1)), (40, Verdict::Dead)]);
    }

    #[test]
    fn input_puts_the_question_off_without_a_new_timer() {
        let (mut keepalive, start) = machine();
        let timer = keepalive.poll_timeout();
        keepalive.note_input(start + S * 15);
        assert_eq!(keepalive.poll_timeout(), timer);
        assert_eq!(run(&mut keepalive, start, 40, FREE), [(35, Verdict::Ping(1))]);
    }

    #[test]
    fn any_input_counts_as_life_and_the_answer_tells_the_time_it_took() {
        let (mut keepalive, start) = machine();
        run(&mut keepalive, start, 20, FREE);
        keepalive.note_input(start + S * 25);
        assert_eq!(run(&mut keepalive, start, 50, FREE), [(45, Verdict::Ping(3))]);
        assert_eq!(keepalive.note_answer(start + S * 46, 1), None);
        assert_eq!(keepalive.note_answer(start + S * 46, 3), Some(S));
        assert_eq!(keepalive.note_answer(start + S * 46, 3), None);
    }

    #[test]
    fn silence_of_a_connection_that_is_not_read_is_nobodys_fault() {
        let (mut keepalive, start) = machine();
        assert_eq!(run(&mut keepalive, start, 1000, STALLED), []);
        assert_eq!(run(&mut keepalive, start, 1060, FREE), [(1020, Verdict::Ping(1)), (1040, Verdict::Dead)]);
    }

    #[test]
    fn a_peer_that_takes_nothing_is_not_judged_by_a_ping_that_may_not_have_got_through() {
        let (mut keepalive, start) = machine();
        assert_eq!(run(&mut keepalive, start, 20, FREE), [(20, Verdict::Ping(1))]);
        assert_eq!(run(&mut keepalive, start, 500, BLOCKED), []);
        // Free again: it has its time to answer.
        keepalive.note_input(start + S * 505);
        let got = run(&mut keepalive, start, 600, FREE);
        assert_eq!(got, [(525, Verdict::Ping(3)), (545, Verdict::Dead)]);
    }

    #[test]
    fn a_way_that_is_free_again_gives_the_peer_its_whole_time() {
        let (mut keepalive, start) = machine();
        run(&mut keepalive, start, 100, BLOCKED);
        let got = run(&mut keepalive, start, 1000, FREE);
        assert_eq!(got, [(140, Verdict::Dead)]);
    }

    #[test]
    fn a_peer_that_takes_nothing_for_ever_is_dead_in_the_end() {
        let (mut keepalive, start) = machine();
        let got = run(&mut keepalive, start, 2000, BLOCKED);
        assert_eq!(got, [(20, Verdict::Ping(1)), (620, Verdict::Dead)]);
    }

    #[test]
    fn the_numbers_of_pings_stay_this_ends_own_when_they_begin_anew() {
        let (mut keepalive, start) = machine();
        keepalive.next_id = LAST;
        for at in [20, 40] {
            let verdict = keepalive.handle_timeout(start + S * at, FREE);
            let Verdict::Ping(id) = verdict else { panic!("{verdict:?}") };
            assert!(Role::Client.owns(id) && id <= LAST, "{id}");
            keepalive.note_input(start + S * at);
            keepalive.timer = start;
        }
    }
}
