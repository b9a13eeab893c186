//! Which of the candidates the next connection goes to.
//!
//! By default a forward stays with one pod for as long as that pod is ready; with balancing each connection goes to the
//! next ready one. A pod to which a connection has just failed is passed over for a while, unless there is no other.

use std::time::Instant;

use super::{Candidate, PodRef, PodState, Resolution};

/// Suspects that are remembered. More than that at once means that the trouble is not one of pods.
const SUSPECTS: usize = 64;

/// Chooses a candidate for each connection.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    spread: Spread,
    current: Option<PodRef>,
    suspects: Vec<(PodRef, Instant)>,
}

impl Choice {
    /// A choice that was never made.
    pub(crate) const fn new(spread: Spread) -> Self {
        Self { spread, current: None, suspects: Vec::new() }
    }

    /// A connection to the pod failed: others are preferred until then.
    pub(crate) fn suspect(&mut self, pod: &PodRef, until: Instant) {
        self.suspects.retain(|(known, _)| known != pod);
        if self.suspects.len() == SUSPECTS {
            self.suspects.remove(0);
        }
        self.suspects.push((pod.clone(), until));
    }

    /// A connection to the pod succeeded.
    pub(crate) fn trust(&mut self, pod: &PodRef) {
        self.suspects.retain(|(known, _)| known != pod);
    }

    /// The candidate for the next connection; `None` when no pod can serve.
    pub(crate) fn choose<'a>(&mut self, resolution: &'a Resolution, now: Instant) -> Option<&'a Candidate> {
        self.suspects.retain(|(_, until)| *until > now);
        let chosen =
            [(PodState::Ready, false), (PodState::Serving, false), (PodState::Ready, true), (PodState::Serving, true)]
                .into_iter()
                .find_map(|(state, suspected)| {
                    let fits = |candidate: &&Candidate| {
                        candidate.state == state && self.is_suspect(&candidate.pod) == suspected
                    };
                    self.among(resolution.candidates.iter().filter(fits))
                })?;
        if self.current.as_ref() != Some(&chosen.pod) {
            self.current = Some(chosen.pod.clone());
        }
        Some(chosen)
    }

    fn is_suspect(&self, pod: &PodRef) -> bool {
        self.suspects.iter().any(|(known, _)| known == pod)
    }

    /// The current one if it may stay, else the one that follows it by name, else the first.
    fn among<'a>(&self, fitting: impl Iterator<Item = &'a Candidate>) -> Option<&'a Candidate> {
        let (mut first, mut next) = (None, None);
        for candidate in fitting {
            let Some(current) = &self.current else { return Some(candidate) };
            if candidate.pod == *current && self.spread == Spread::Pinned {
                return Some(candidate);
            }
            first.get_or_insert(candidate);
            if candidate.pod > *current {
                next.get_or_insert(candidate);
            }
        }
        next.or(first)
    }
}

/// How connections are spread over the ready pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Spread {
    /// All to one pod, for as long as it is ready.
    #[default]
    Pinned,
    /// Each to the next one.
    Balanced,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn pod(name: &str) -> PodRef {
        PodRef { namespace: "ns".into(), name: name.into(), uid: format!("uid-{name}") }
    }

    fn resolution(pods: &[(&str, PodState)]) -> Resolution {
        let candidates =
            pods.iter().map(|(name, state)| Candidate { pod: pod(name), port: 80, state: *state }).collect();
        Resolution::of(candidates, None)
    }

    fn chosen(choice: &mut Choice, resolution: &Resolution, now: Instant) -> String {
        choice.choose(resolution, now).map_or_else(|| "none".into(), |candidate| candidate.pod.name.clone())
    }

    #[test]
    fn a_pinned_forward_stays_with_its_pod_while_it_is_ready() {
        let (now, mut choice) = (Instant::now(), Choice::new(Spread::Pinned));
        let all = resolution(&[("b", PodState::Ready), ("c", PodState::Ready)]);
        assert_eq!(chosen(&mut choice, &all, now), "b");
        let more = resolution(&[("a", PodState::Ready), ("b", PodState::Ready), ("c", PodState::Ready)]);
        assert_eq!(chosen(&mut choice, &more, now), "b");
        assert_eq!(choice.current.as_ref(), Some(&pod("b")));
    }

    #[test]
    fn a_pinned_forward_moves_on_before_its_terminating_pod_is_gone() {
        let (now, mut choice) = (Instant::now(), Choice::new(Spread::Pinned));
        choice.choose(&resolution(&[("a", PodState::Ready), ("b", PodState::Ready)]), now);
        let moved = resolution(&[("b", PodState::Ready), ("a", PodState::Serving)]);
        assert_eq!(chosen(&mut choice, &moved, now), "b");
        let back = resolution(&[("a", PodState::Ready), ("b", PodState::Ready)]);
        assert_eq!(chosen(&mut choice, &back, now), "b", "it does not go back");
    }

    #[test]
    fn a_terminating_pod_serves_when_nothing_is_ready() {
        let (now, mut choice) = (Instant::now(), Choice::new(Spread::Pinned));
        let last = resolution(&[("a", PodState::Serving), ("b", PodState::NotReady)]);
        assert_eq!(chosen(&mut choice, &last, now), "a");
        assert_eq!(chosen(&mut choice, &resolution(&[("b", PodState::NotReady)]), now), "none");
    }

    #[test]
    fn a_suspect_is_passed_over_until_its_time_is_up() {
        let (now, mut choice) = (Instant::now(), Choice::new(Spread::Pinned));
        let all = resolution(&[("a", PodState::Ready), ("b", PodState::Ready)]);
        choice.suspect(&pod("a"), now + Duration::from_secs(5));
        assert_eq!(chosen(&mut choice, &all, now), "b");
        choice.suspect(&pod("b"), now + Duration::from_secs(9));
        assert_eq!(chosen(&mut choice, &all, now + Duration::from_secs(6)), "a");
    }

    #[test]
    fn a_suspect_is_better_than_nothing() {
        let (now, mut choice) = (Instant::now(), Choice::new(Spread::Pinned));
        choice.suspect(&pod("a"), now + Duration::from_secs(5));
        assert_eq!(chosen(&mut choice, &resolution(&[("a", PodState::Ready)]), now), "a");
        choice.trust(&pod("a"));
        assert!(choice.suspects.is_empty());
    }

    #[test]
    fn balancing_goes_round_by_name_and_survives_a_change_of_members() {
        let (now, mut choice) = (Instant::now(), Choice::new(Spread::Balanced));
        let all = resolution(&[("a", PodState::Ready), ("b", PodState::Ready), ("c", PodState::Ready)]);
        let names: Vec<_> = (0..4).map(|_| chosen(&mut choice, &all, now)).collect();
        assert_eq!(names, ["a", "b", "c", "a"]);
        assert_eq!(chosen(&mut choice, &resolution(&[("c", PodState::Ready)]), now), "c");
    }

    #[test]
    fn the_memory_of_suspects_is_bounded() {
        let (now, mut choice) = (Instant::now(), Choice::new(Spread::Pinned));
        for n in 0..1000 {
            choice.suspect(&pod(&n.to_string()), now + Duration::from_secs(60));
        }
        assert_eq!(choice.suspects.len(), SUSPECTS);
    }

    fn states() -> impl Strategy<Value = Vec<PodState>> {
        let state = prop_oneof![Just(PodState::Ready), Just(PodState::Serving), Just(PodState::NotReady)];
        proptest::collection::vec(state, 0..6)
    }

    fn of_states(states: &[PodState]) -> Resolution {
        let names: Vec<_> = (0..states.len()).map(|n| format!("p{n}")).collect();
        resolution(&names.iter().map(String::as_str).zip(states.iter().copied()).collect::<Vec<_>>())
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_always_the_best_there_is(
            rounds in proptest::collection::vec((states(), any::<Option<u8>>()), 1..30), balanced in any::<bool>()
        ) {
            let mut choice = Choice::new(if balanced { Spread::Balanced } else { Spread::Pinned });
            let mut now = Instant::now();
            for (states, suspect) in rounds {
                now += Duration::from_secs(1);
                if let Some(n) = suspect {
                    choice.suspect(&pod(&format!("p{}", n % 6)), now + Duration::from_secs(u64::from(n % 4)));
                }
                let resolution = of_states(&states);
                let before = choice.clone();
                let chosen = choice.choose(&resolution, now).cloned();
                let rank = |c: &Candidate| {
                    let suspect = choice.is_suspect(&c.pod);
                    if c.state == PodState::NotReady { 9 } else { u8::from(suspect) * 2 + u8::from(c.state == PodState::Serving) }
                };
                let best = resolution.candidates.iter().map(rank).filter(|rank| *rank < 9).min();
                prop_assert_eq!(chosen.as_ref().map(rank), best);
                if let (Some(chosen), Some(current), false) = (&chosen, &before.current, balanced) {
                    let kept = resolution.candidates.iter().any(|c| c.pod == *current && Some(rank(c)) == best);
                    prop_assert_eq!(kept, chosen.pod == *current);
                }
            }
        }

        #[test]
        fn balancing_serves_each_ready_pod_once_a_round(states in states()) {
            let (mut choice, now) = (Choice::new(Spread::Balanced), Instant::now());
            let resolution = of_states(&states);
            let ready = states.iter().filter(|state| **state == PodState::Ready).count();
            prop_assume!(ready > 0);
            let names: BTreeSet<_> = (0..ready).map(|_| chosen(&mut choice, &resolution, now)).collect();
            prop_assert_eq!(names.len(), ready);
        }
    }
}
