use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::decode::{Command, OwnedBy, State};

const SECOND: Duration = Duration::from_secs(1);

/// A connection of a process to 10.0.0.1:443.
pub(crate) fn live(number: u64, pid: u32) -> Record {
    Record {
        id: ConnectionId { socket: number, opened: 1_000 + number },
        step: Step::Live,
        local: SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000)),
        remote: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 443)),
        incoming: false,
        seen_late: false,
        gone: false,
        owner: (pid > 0).then(|| owner(pid, 1)),
        netns: 1,
        state: State::Established,
        established: Some(Duration::from_micros(101)),
        ended: None,
        sent: 0,
        received: 0,
        rtt: None,
        min_rtt: None,
        retransmits: 0,
    }
}

pub(crate) fn owner(pid: u32, start: u64) -> Owner {
    let process = ProcessId { pid, start };
    let command = Command::new(format!("p{pid}"));
    Owner { process, command, user: Some(0), cgroup: 0, by: OwnedBy::Connect }
}

pub(crate) fn ended(record: Record, end: End) -> Record {
    Record { step: Step::Ended, state: State::Closed, ended: Some((SECOND, end)), ..record }
}

/// Names with what was opened under them, in order.
fn opened<'a>(all: impl Iterator<Item = (&'a Arc<str>, &'a Sums)>) -> Vec<(&'a str, u64)> {
    let mut all: Vec<_> = all.map(|(name, sums)| (&**name, sums.opened)).collect();
    all.sort_unstable();
    all
}

fn only(table: &Table) -> &Process {
    let mut all = table.processes();
    assert_eq!(all.len(), 1);
    all.next().unwrap()
}

#[test]
fn a_connection_is_counted_once_however_often_it_is_seen() {
    let mut table = Table::default();
    let one = live(1, 7);
    table.handle_record(SECOND, &Record { sent: 10, ..one }, None);
    table.handle_record(SECOND, &Record { sent: 30, received: 5, ..one }, None);
    let process = only(&table);
    assert_eq!((process.open, process.sums.opened, process.sums.sent, process.sums.received), (1, 1, 30, 5));
    table.handle_record(SECOND, &ended(Record { sent: 31, received: 6, ..one }, End::Closed), None);
    let process = only(&table);
    assert_eq!((process.open, process.sums.closed, process.sums.sent, process.sums.received), (0, 1, 31, 6));
    assert_eq!(*table.totals(), process.sums);
    assert_eq!(table.connections().len(), 0);
}

#[test]
fn a_connection_that_was_never_seen_alive_is_counted_whole() {
    let mut table = Table::default();
    table.handle_record(SECOND, &ended(Record { sent: 9, ..live(1, 7) }, End::Failed(111)), None);
    let process = only(&table);
    assert_eq!((process.open, process.sums.opened, process.sums.failed, process.sums.sent), (0, 1, 1, 9));
    assert_eq!(table.ends().collect::<Vec<_>>(), [("failed", "ECONNREFUSED", 1)]);
}

#[test]
fn an_owner_who_is_found_late_gets_all_that_his_connection_carried() {
    let mut table = Table::default();
    let incoming = Record { incoming: true, ..live(1, 0) };
    table.handle_record(SECOND, &Record { received: 100, ..incoming }, None);
    assert_eq!((table.processes().len(), table.has_unowned()), (0, true));
    table.handle_record(SECOND, &Record { received: 150, owner: Some(owner(7, 1)), ..incoming }, None);
    assert_eq!((only(&table).sums.received, only(&table).sums.incoming), (150, 1));
    assert!(!table.has_unowned());
    // A record without him, as of an event that was on its way, does not take him away.
    table.handle_record(SECOND, &Record { received: 160, ..incoming }, None);
    assert_eq!(only(&table).sums.received, 160);
    assert_eq!(table.totals().received, 160);
}

#[test]
fn what_was_carried_before_the_monitor_was_there_is_in_no_sum() {
    let mut table = Table::default();
    let old = Record { seen_late: true, sent: 1_000_000, ..live(1, 7) };
    table.handle_record(SECOND, &old, None);
    table.handle_record(SECOND, &Record { sent: 1_000_010, ..old }, None);
    assert_eq!((only(&table).sums.sent, only(&table).sums.opened, only(&table).open), (10, 0, 1));
}

#[test]
fn a_number_that_is_used_again_is_another_process() {
    let mut table = Table::default();
    table.handle_record(SECOND, &ended(live(1, 7), End::Closed), None);
    let again = Record { owner: Some(owner(7, 99)), ..live(2, 7) };
    table.handle_record(SECOND, &again, None);
    assert_eq!((only(&table).id.start, only(&table).sums.opened), (99, 1));
    assert_eq!(opened(table.commands()), [("p7", 2)]);
}

#[test]
fn what_is_told_late_of_a_process_does_not_take_the_number_from_the_one_that_has_it_now() {
    let mut table = Table::default();
    let of = |start, number| Record { owner: Some(owner(7, start)), ..live(number, 7) };
    table.handle_record(SECOND, &ended(of(99, 2), End::Closed), None);
    table.handle_record(SECOND, &ended(of(50, 1), End::Closed), None);
    let mut kept: Vec<u64> = table.processes().map(|one| one.id.start).collect();
    kept.sort_unstable();
    assert_eq!(kept, [50, 99], "the newest has its sums");
    table.handle_record(SECOND, &ended(of(100, 3), End::Closed), None);
    let mut kept: Vec<u64> = table.processes().map(|one| one.id.start).collect();
    kept.sort_unstable();
    assert_eq!(kept, [50, 100], "which another one takes over");
}

#[test]
fn a_dead_process_is_kept_for_a_while_and_then_dropped_and_sums_by_name_stay() {
    let mut table = Table::default();
    table.handle_record(SECOND, &ended(live(1, 7), End::Closed), None);
    table.expire(SECOND, |_| true);
    table.expire(KEPT * 2, |_| false);
    assert_eq!(table.processes().len(), 1, "it was alive until now");
    table.expire(KEPT * 3, |_| false);
    assert_eq!((table.processes().len(), table.remotes().len()), (0, 0));
    assert_eq!(table.commands().count(), 1);
    // One with an open connection is never dropped.
    table.handle_record(SECOND, &live(2, 8), None);
    table.expire(KEPT * 9, |_| false);
    table.expire(KEPT * 99, |_| false);
    assert_eq!(table.processes().len(), 1);
}

#[test]
fn a_connection_that_several_surveys_do_not_find_is_gone() {
    let mut table = Table::default();
    table.begin_survey();
    table.handle_record(SECOND, &live(1, 7), None);
    assert!(table.end_survey(SECOND).is_empty());
    for _ in 1..MISSED {
        table.begin_survey();
        assert!(table.end_survey(SECOND).is_empty(), "it may have been left out");
    }
    table.begin_survey();
    let lost = table.end_survey(SECOND);
    let end = ended(live(1, 7), End::Unseen);
    assert_eq!(lost, [(end, None)]);
    assert_eq!((table.overflow().unseen, only(&table).open), (1, 0));
    // A poll tells it so itself.
    table.handle_record(SECOND, &live(2, 7), None);
    table.handle_record(SECOND, &ended(live(2, 7), End::Unseen), None);
    assert_eq!((table.overflow().unseen, only(&table).open), (2, 0));
}

#[test]
fn a_handshake_is_measured_when_it_is_heard_of_and_once() {
    let mut table = Table::default();
    table.handle_record(SECOND, &Record { established: None, ..live(1, 7) }, None);
    assert_eq!(table.times().handshake.count(), 0, "it is still asking");
    // It may stay open for days.
    table.handle_record(SECOND, &live(1, 7), None);
    assert_eq!(table.times().handshake.count(), 1);
    table.handle_record(SECOND, &live(1, 7), None);
    table.handle_record(SECOND, &ended(live(1, 7), End::Closed), None);
    table.handle_record(SECOND, &ended(live(2, 7), End::Closed), None);
    assert_eq!(table.times().handshake.count(), 2);
}

#[test]
fn the_room_of_connections_is_given_back_when_hardly_any_is_used() {
    let mut table = Table::default();
    let all = u64::try_from(SMALL * 4).unwrap();
    (0..all).for_each(|number| table.handle_record(SECOND, &live(number, 7), None));
    assert!(!table.shrink());
    for number in 10..all {
        table.handle_record(SECOND, &ended(live(number, 7), End::Closed), None);
    }
    assert!(table.connections.capacity() >= SMALL * 4);
    assert!(table.shrink());
    assert!(table.connections.capacity() < SMALL && table.connections().len() == 10);
    assert!(!table.shrink(), "what is small stays");
}

#[test]
fn what_has_no_room_is_counted() {
    let limits = Limits { connections: 2, processes: 2, remotes: 1, labels: 2 };
    let mut table = Table::new(limits);
    let record = |pid: u32| {
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(pid).unwrap()));
        Record { remote, ..live(pid.into(), pid) }
    };
    for pid in (1..=4).chain(1..=4) {
        table.handle_record(SECOND, &record(pid), None);
    }
    for _ in 0..3 {
        table.begin_survey();
        (1..=4).for_each(|pid| table.handle_record(SECOND, &record(pid), None));
        table.end_survey(SECOND);
    }
    assert_eq!(table.totals().opened, 2, "one without room is not counted again and again");
    for pid in 3..=4 {
        table.handle_record(SECOND, &ended(record(pid), End::Closed), None);
    }
    assert_eq!((table.totals().opened, table.totals().closed), (4, 2));
    assert_eq!(table.overflow(), Overflow { connections: 2, processes: 2, remotes: 3, unseen: 0 });
    assert_eq!((table.connections().len(), table.processes().len(), table.remotes().len()), (2, 2, 1));
    assert_eq!(opened(table.commands()), [("other", 2), ("p1", 1), ("p2", 1)]);
}

#[test]
fn an_idle_process_makes_room_for_a_new_one() {
    let mut table = Table::new(Limits { processes: 1, ..Limits::default() });
    table.handle_record(SECOND, &ended(live(1, 7), End::Closed), None);
    table.handle_record(SECOND, &live(2, 8), None);
    assert_eq!((only(&table).id.pid, table.overflow().processes), (8, 1), "it may live yet, so it is counted");
}

#[test]
fn when_there_is_no_room_the_dead_go_first_and_a_living_process_that_must_go_is_counted() {
    let mut table = Table::new(Limits { processes: 2, ..Limits::default() });
    table.handle_record(SECOND, &ended(live(1, 7), End::Closed), None);
    table.handle_record(SECOND * 2, &ended(live(2, 8), End::Closed), None);
    assert!(table.is_tight());
    table.expire(SECOND * 3, |id| id.pid == 7);
    table.handle_record(SECOND * 4, &ended(live(3, 9), End::Closed), None);
    let pids = |table: &Table| {
        let mut pids: Vec<u32> = table.processes().map(|process| process.id.pid).collect();
        pids.sort_unstable();
        pids
    };
    assert_eq!(
        (pids(&table), table.overflow().processes),
        (vec![7, 9], 0),
        "the daemon is idle for longest, but lives"
    );
    table.handle_record(SECOND * 5, &ended(live(4, 10), End::Closed), None);
    assert_eq!((pids(&table), table.overflow().processes), (vec![9, 10], 1));
}

#[test]
fn those_are_looked_at_first_that_were_not_for_longest() {
    let mut table = Table::default();
    for pid in 1..=3 {
        table.handle_record(SECOND * pid, &ended(live(pid.into(), pid), End::Closed), None);
    }
    table.handle_record(SECOND, &live(4, 4), None);
    let pids = |idle: Vec<(ProcessId, Duration)>| idle.into_iter().map(|(id, _)| id.pid).collect::<HashSet<_>>();
    let first = pids(table.idle(SECOND * 5, 2));
    let second = pids(table.idle(SECOND * 6, 1));
    assert_eq!((first.len(), second.len(), first.union(&second).count()), (2, 1, 3), "one with a connection lives");
    assert_eq!(pids(table.idle(SECOND * 7, 9)).len(), 3);
}

#[test]
fn a_connection_that_had_no_room_takes_nothing_back_from_another() {
    let mut table = Table::new(Limits { remotes: 1, processes: 1, ..Limits::default() });
    let to = |number: u64, pid: u32, host: u8| Record {
        remote: SocketAddr::from((Ipv4Addr::new(10, 0, 0, host), 443)),
        ..live(number, pid)
    };
    table.handle_record(SECOND, &to(1, 7, 1), None);
    // No room for its process, nor for its remote.
    table.handle_record(SECOND, &to(2, 8, 2), None);
    table.handle_record(SECOND, &ended(to(1, 7, 1), End::Closed), None);
    table.handle_record(SECOND * 2, &to(3, 8, 2), None);
    table.handle_record(SECOND * 2, &ended(to(2, 8, 2), End::Closed), None);
    assert_eq!((only(&table).id.pid, only(&table).open, table.remotes().next().unwrap().open), (8, 1, 1));
}

#[test]
fn containers_of_a_pod_are_counted_together() {
    let mut table = Table::default();
    let places = ["pod/1b6f/aaa", "pod/1b6f/bbb", "pod/1b6f", "pod/2c/aaa", "container/aaa"];
    for (number, place) in (1..).zip(places) {
        table.handle_record(SECOND, &live(number, 7), Some(&place.into()));
    }
    assert_eq!(opened(table.places()), [("container/aaa", 1), ("pod/1b6f", 3), ("pod/2c", 1)]);
}

#[test]
fn three_hundred_names_of_one_user_leave_room_for_a_real_one() {
    let mut table = Table::default();
    let named = |number: u64, name: &str, user: u32| {
        let owner = Owner { command: Command::new(name), user: Some(user), ..owner(7, 1) };
        ended(Record { owner: Some(owner), ..live(number, 7) }, End::Closed)
    };
    for number in 0..300 {
        table.handle_record(SECOND, &named(number, &format!("n{number}"), 65_534), None);
    }
    table.handle_record(SECOND, &named(300, "nginx", 33), None);
    table.handle_record(SECOND, &named(301, "sshd", 0), None);
    let all = opened(table.commands());
    assert_eq!(all.iter().map(|(_, count)| count).sum::<u64>(), 302);
    assert!(all.contains(&("nginx", 1)) && all.contains(&("sshd", 1)) && all.contains(&("other", 236)), "{all:?}");
}

#[test]
fn a_user_cannot_fill_the_places_with_control_groups_that_look_like_containers() {
    let mut table = Table::default();
    let owned = |number: u64, user: u32| {
        let owner = Owner { user: Some(user), ..owner(7, 1) };
        ended(Record { owner: Some(owner), ..live(number, 7) }, End::Closed)
    };
    for number in 0..300 {
        let path = format!("0::/user.slice/user-1000.slice/user@1000.service/{number:012x}{:052x}", 0);
        let place = crate::names::Place::of(&path).to_string();
        table.handle_record(SECOND, &owned(number, 1_000), Some(&place.into()));
    }
    let place = crate::names::Place::of(&format!("0::/system.slice/docker-{:064x}.scope", 7)).to_string();
    table.handle_record(SECOND, &owned(300, 101), Some(&place.into()));
    let all = opened(table.places());
    assert!(all.contains(&("container/000000000000", 1)) && all.contains(&("other", 236)), "{all:?}");
}

#[test]
fn a_command_that_runs_once_an_hour_is_counted_under_its_name_alone() {
    let mut table = Table::default();
    for hour in 0..3 {
        let now = SECOND * 3_600 * u32::try_from(hour).unwrap();
        table.handle_record(now, &ended(live(hour, 7), End::Closed), Some(&"backup.service".into()));
        table.expire(now + SECOND * 3_000, |_| false);
        assert_eq!(opened(table.commands()), [("p7", hour + 1)]);
        assert_eq!(opened(table.places()), [("backup.service", hour + 1)]);
    }
}

#[test]
fn what_is_open_is_counted_by_direction() {
    let mut table = Table::default();
    table.handle_record(SECOND, &live(1, 7), None);
    table.handle_record(SECOND, &Record { incoming: true, ..live(2, 0) }, None);
    assert_eq!(table.open(), Open { outgoing: 1, incoming: 1, unowned: 1 });
    table.handle_record(SECOND, &Record { incoming: true, ..live(2, 7) }, None);
    table.handle_record(SECOND, &ended(live(1, 7), End::Closed), None);
    assert_eq!(table.open(), Open { outgoing: 0, incoming: 1, unowned: 0 });
}

#[test]
fn rates_are_of_the_time_between_two_looks() {
    let mut table = Table::default();
    table.handle_record(SECOND, &Record { sent: 500, ..live(1, 7) }, None);
    table.handle_tick(SECOND);
    table.handle_record(SECOND * 3, &Record { sent: 2_500, ..live(1, 7) }, None);
    table.handle_tick(SECOND * 3);
    let rate = Rate { sent: 1_000, received: 0 };
    assert_eq!(only(&table).rate, rate);
    assert_eq!(table.connections().next().unwrap().rate, rate);
    assert_eq!(table.remotes().next().unwrap().rate, rate);
    table.handle_tick(SECOND * 4);
    assert_eq!(only(&table).rate, Rate::default());
}

#[test]
fn what_was_added_up_in_the_kernel_is_in_the_sums() {
    let mut table = Table::default();
    table.handle_record(SECOND, &live(1, 7), None);
    let folded = Folded {
        owner: owner(7, 1),
        opened: 5,
        incoming: 0,
        failed: 2,
        closed: 3,
        sent: 10,
        received: 20,
        retransmits: 1,
    };
    table.handle_folded(SECOND, &folded, Some(&"host".into()));
    let sums = Sums { opened: 6, failed: 2, closed: 3, sent: 10, received: 20, retransmits: 1, ..Sums::default() };
    assert_eq!((only(&table).sums, *table.totals(), only(&table).open), (sums, sums, 1));
    assert_eq!(folded.since(&folded).opened, 0);
    assert_eq!(opened(table.places()), [("host", 5)]);
    // How they ended is in no record: they have a row of their own, and the sum is whole.
    let mut ends: Vec<_> = table.ends().collect();
    ends.sort_unstable();
    assert_eq!(ends, [("failed", OTHER, 2), (OTHER, "", 3)]);
    table.handle_folded(SECOND, &folded, None);
    assert_eq!(opened(table.places()), [("host", 5), (UNKNOWN, 5)]);
}

#[test]
fn a_connection_without_a_name_is_counted_as_unknown_once_it_is_over_so_that_sums_agree() {
    let mut table = Table::default();
    // Its process has gone before its place was read.
    table.handle_record(SECOND, &ended(Record { sent: 9, ..live(1, 7) }, End::Reset), None);
    // Nobody knows whose it was; part of what it carried is older than the monitor.
    let nobodys = Record { seen_late: true, received: 100, ..live(2, 0) };
    table.handle_record(SECOND, &nobodys, None);
    let open = Record { sent: 5, ..live(3, 8) };
    table.handle_record(SECOND, &open, None);
    assert_eq!(opened(table.places()), [(UNKNOWN, 1)], "of one that is open it may become known");
    table.handle_record(SECOND, &ended(Record { received: 130, ..nobodys }, End::Closed), None);
    table.handle_record(SECOND, &ended(Record { sent: 50, ..open }, End::Closed), Some(&"host".into()));
    let sums = |all: Vec<(&Arc<str>, &Sums)>| {
        all.into_iter().fold([0; 5], |[opened, closed, reset, sent, received], (_, sums)| {
            [opened + sums.opened, closed + sums.closed, reset + sums.reset, sent + sums.sent, received + sums.received]
        })
    };
    assert_eq!(sums(table.places().collect()), [2, 3, 1, 59, 30]);
    assert_eq!(sums(table.commands().collect()), [2, 3, 1, 59, 30]);
    let totals = table.totals();
    assert_eq!([totals.opened, totals.closed, totals.reset, totals.sent, totals.received], [2, 3, 1, 59, 30]);
    assert_eq!(opened(table.places()), [("host", 1), (UNKNOWN, 1)]);
    assert_eq!(opened(table.commands()), [("p7", 1), ("p8", 1), (UNKNOWN, 0)]);
}

#[test]
fn the_loopback_address_of_another_network_namespace_is_another_remote() {
    let mut table = Table::default();
    let remotes = |table: &Table| {
        let mut all: Vec<_> = table.remotes().map(|remote| (remote.id.netns, remote.sums.opened)).collect();
        all.sort_unstable();
        all
    };
    for (number, netns) in [(1, 5), (2, 6), (3, 6)] {
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        table.handle_record(SECOND, &Record { netns, remote, ..live(number, 7) }, None);
    }
    assert_eq!(remotes(&table), [(5, 1), (6, 2)]);
    for (number, netns) in [(4, 5), (5, 6)] {
        table.handle_record(SECOND, &Record { netns, ..live(number, 7) }, None);
    }
    assert_eq!(remotes(&table), [(0, 2), (5, 1), (6, 2)], "a machine is the same for all");
}

#[test]
fn a_connection_that_is_half_closed_for_minutes_stays_with_its_process() {
    let mut table = Table::default();
    let half = Record { state: State::FinWait2, sent: 5, ..live(1, 7) };
    for at in (0..600).step_by(5).map(|at| SECOND * at) {
        table.begin_survey();
        table.handle_record(at, &half, None);
        assert!(table.end_survey(at).is_empty());
        table.handle_tick(at);
        // Nobody can say whether the process lives.
        table.expire(at, |_| false);
    }
    assert_eq!((table.connections().len(), only(&table).open, table.open().outgoing), (1, 1, 1));
    assert_eq!(table.connections().next().unwrap().record.state, State::FinWait2);
    table.handle_record(SECOND * 601, &ended(half, End::Closed), None);
    assert_eq!((table.connections().len(), only(&table).sums.closed, table.overflow().unseen), (0, 1, 0));
}

#[test]
fn a_remote_is_an_address_with_the_port_of_the_service() {
    let mut table = Table::default();
    let incoming = Record {
        incoming: true,
        local: SocketAddr::from((Ipv4Addr::LOCALHOST, 22)),
        remote: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 9), 50_000)),
        ..live(1, 7)
    };
    table.handle_record(SECOND, &incoming, None);
    let remote = table.remotes().next().unwrap();
    assert_eq!((remote.id.address.to_string(), remote.id.port, remote.id.incoming), ("10.0.0.9".into(), 22, true));
    assert_eq!(table.ports().map(|(name, sums)| (name, sums.incoming)).collect::<Vec<_>>(), [("ssh", 1)]);
}

/// What may happen to a few connections of a few processes, in any order.
#[derive(Clone, Debug)]
enum Happening {
    Seen { number: u64, pid: u32, sent: u64 },
    Ended { number: u64, pid: u32, sent: u64, failed: bool },
    Survey,
    Expire,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0..6_u64, 0..4_u32, 0..1_000_u64).prop_map(|(number, pid, sent)| Happening::Seen { number, pid, sent }),
        (0..6_u64, 0..4_u32, 0..1_000_u64, any::<bool>()).prop_map(|(number, pid, sent, failed)| Happening::Ended {
            number,
            pid,
            sent,
            failed
        }),
        Just(Happening::Survey),
        Just(Happening::Expire),
    ]
}

proptest! {
    #[test]
    fn open_counts_fit_the_open_connections_and_bounds_hold(all in proptest::collection::vec(happening(), 0..60)) {
        let limits = Limits { connections: 4, processes: 3, remotes: 2, labels: 2 };
        let mut table = Table::new(limits);
        for (turn, one) in all.into_iter().enumerate() {
            let now = SECOND * u32::try_from(turn).unwrap() * 30;
            match one {
                Happening::Seen { number, pid, sent } => {
                    table.handle_record(now, &Record { sent, ..live(number, pid) }, None);
                }
                Happening::Ended { number, pid, sent, failed } => {
                    let end = if failed { End::Failed(0) } else { End::Closed };
                    table.handle_record(now, &ended(Record { sent, ..live(number, pid) }, end), None);
                }
                Happening::Survey => {
                    table.begin_survey();
                    table.end_survey(now);
                    table.handle_tick(now);
                }
                Happening::Expire => table.expire(now, |_| false),
            }
            let open = table.connections().len();
            prop_assert!(open <= 4 && table.processes().len() <= 3 && table.remotes().len() <= 2);
            let counted = |is: fn(&Connection) -> bool| table.connections().filter(|one| is(one)).count();
            let by_process = table.processes().map(|process| process.open).sum::<usize>();
            prop_assert_eq!(by_process, counted(|one| one.in_process));
            prop_assert_eq!(table.remotes().map(|remote| remote.open).sum::<usize>(), counted(|one| one.remote.is_some()));
            prop_assert_eq!(table.open().outgoing + table.open().incoming, open);
            prop_assert_eq!(table.open().unowned, counted(|one| one.record.owner.is_none()));
            let begun = |sums: &Sums| sums.opened + sums.incoming;
            let ended = |sums: &Sums| sums.closed + sums.failed;
            for process in table.processes() {
                prop_assert_eq!(begun(&process.sums), ended(&process.sums) + process.open as u64);
            }
            let by_command: u64 = table.commands().map(|(_, sums)| sums.opened).sum();
            prop_assert!(by_command <= table.totals().opened);
            let sent: u64 = table.ports().map(|(_, sums)| sums.sent).sum();
            prop_assert_eq!(sent, table.totals().sent);
        }
    }
}

#[test]
fn what_a_connection_carried_before_anybody_looked_is_in_no_sum_but_in_the_whole_of_its_process_and_remote() {
    let mut table = Table::default();
    let old = |sent| Record { seen_late: true, sent, received: 30, retransmits: 2, ..live(1, 0) };
    table.handle_record(SECOND, &old(500), None);
    // Whose it is becomes known later.
    table.handle_record(SECOND, &Record { owner: Some(owner(7, 1)), ..old(600) }, None);
    let process = only(&table);
    assert_eq!((process.sums.sent, process.whole().sent, process.whole().retransmits), (100, 600, 2));
    let remote = table.remotes().next().unwrap();
    assert_eq!((remote.sums.sent, remote.whole().sent, remote.whole().received), (100, 600, 30));
    // One that begins before our eyes has nothing before.
    table.handle_record(SECOND, &Record { sent: 50, ..live(2, 7) }, None);
    assert_eq!((only(&table).sums.sent, only(&table).whole().sent), (150, 650));
}
