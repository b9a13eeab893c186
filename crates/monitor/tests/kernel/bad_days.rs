//! What goes wrong, on purpose.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use monitor::agent::Agent;
use monitor::decode::{End, Record, State, Step};
use monitor::source::{Options, Source};
use monitor::table::Limits;

use super::child::Child;
use super::{DEADLINE, ends, exchange, has_port, listen, open, open_with_files, pair, release, survey, take};

/// A port that nobody listens at, nor can: its socket is held until the program ends.
pub(crate) fn closed_port() -> u16 {
    let held = socket(false);
    rustix::net::bind(&held, &SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = SocketAddr::try_from(rustix::net::getsockname(&held).unwrap()).unwrap();
    let _ = std::os::fd::IntoRawFd::into_raw_fd(held);
    address.port()
}

#[test]
fn a_refused_connection_has_its_error_and_its_process() {
    let Some(mut source) = open(&Options::default()) else { return };
    let port = closed_port();
    TcpStream::connect(("127.0.0.1", port)).unwrap_err();
    let found = ends(&mut *source, port, 1);
    assert_eq!(found[0].ended.unwrap().1, End::Failed(111));
    assert_eq!(found[0].owner.unwrap().process.pid, std::process::id());
    assert!(found[0].local.port() > 0 && found[0].established.is_none(), "{:#?}", found[0]);
}

/// One that nobody answers; the port that it was for, which others are for as well.
pub(crate) fn times_out() -> u16 {
    // A listener without room does not answer.
    let socket = socket(false);
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    rustix::net::bind(&socket, &address).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let full: Vec<TcpStream> =
        (0..4).map_while(|_| TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok()).collect();
    assert!(full.len() < 4, "there is room for one or two");
    let client = socket_with_user_timeout(Duration::from_millis(300));
    rustix::net::connect(&client, &address).unwrap_err();
    address.port()
}

#[test]
fn a_connection_that_nobody_answers_times_out_with_its_error() {
    let Some(mut source) = open(&Options::default()) else { return };
    let port = times_out();
    let timed_out =
        take(&mut *source, 1, |record| has_port(record, port) && matches!(record.ended, Some((_, End::Failed(110)))));
    assert_eq!(timed_out.len(), 1);
    assert_eq!(timed_out[0].ended.unwrap().1.error(), Some("ETIMEDOUT"));
}

fn socket(v6: bool) -> std::os::fd::OwnedFd {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
}

fn socket_with_user_timeout(timeout: Duration) -> std::os::fd::OwnedFd {
    let socket = socket(false);
    rustix::net::sockopt::set_tcp_user_timeout(&socket, u32::try_from(timeout.as_millis()).unwrap()).unwrap();
    socket
}

#[test]
fn an_attempt_that_is_given_up_is_no_lack_of_ports() {
    let Some(mut source) = open(&Options::default()) else { return };
    let socket = socket(false);
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    rustix::net::bind(&socket, &address).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    for _ in 0..4 {
        // Each gives up by itself: it closes a socket that is still asking.
        let _ = TcpStream::connect_timeout(&address, Duration::from_millis(100));
    }
    let given_up = take(&mut *source, 1, |record| {
        has_port(record, address.port()) && matches!(record.ended, Some((_, End::Failed(_))))
    });
    assert_eq!(given_up[0].ended.unwrap().1, End::Failed(0), "{:#?}", given_up[0]);
}

#[test]
fn a_reset_is_told_apart_from_an_end_at_both_sides() {
    let Some(mut source) = open(&Options::default()) else { return };
    let (listener, port) = listen("127.0.0.1:0");
    let (client, served) = pair(&listener);
    // Closed with data unread: the kernel answers with a reset.
    (&client).write_all(b"unread").unwrap();
    served.peek(&mut [0]).unwrap();
    drop(served);
    (&client).read(&mut [0]).unwrap_err();
    drop(client);
    let found = ends(&mut *source, port, 2);
    for record in &found {
        let end = if record.incoming { End::Aborted } else { End::Reset };
        assert_eq!(record.ended.unwrap().1, end, "{record:#?}");
        assert_eq!(record.owner.unwrap().process.pid, std::process::id());
    }
    assert_eq!(found.len(), 2);
}

#[test]
fn a_connection_that_is_reset_before_its_server_is_known_is_still_its_servers() {
    let Some(mut source) = open(&Options { accept: Some("close".into()), ..Options::default() }) else { return };
    let mut server = Child::server();
    let port = server.port();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    let found = ends(&mut *source, port, 2);
    let incoming: Vec<&Record> = found.iter().filter(|record| record.incoming).collect();
    assert_eq!(incoming.len(), 1, "{found:#?}");
    assert_eq!(incoming[0].ended.unwrap().1, End::Reset);
    assert_eq!(incoming[0].owner.unwrap().process.pid, server.pid());
    server.stop();
}

#[test]
fn a_half_closed_connection_is_open_with_its_state() {
    let Some(mut source) = open(&Options::default()) else { return };
    let (listener, port) = listen("127.0.0.1:0");
    let (client, mut served) = pair(&listener);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(served.read(&mut [0]).unwrap(), 0);
    served.write_all(b"still").unwrap();
    let deadline = Instant::now() + DEADLINE;
    let states = loop {
        let mut states: Vec<(bool, State, u64)> =
            survey(&mut *source, port).iter().map(|record| (record.incoming, record.state, record.received)).collect();
        states.sort_unstable_by_key(|(incoming, ..)| *incoming);
        // The acknowledgements are on their way.
        if states.first().is_some_and(|state| state.1 == State::FinWait2 && state.2 == 5) || Instant::now() > deadline {
            break states;
        }
    };
    assert_eq!(states, [(false, State::FinWait2, 5), (true, State::CloseWait, 0)]);
}

#[test]
fn an_ipv4_client_of_an_ipv6_server_is_shown_with_its_ipv4_address() {
    let Some(mut source) = open(&Options::default()) else { return };
    let (listener, port) = listen("[::]:0");
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (served, _) = listener.accept().unwrap();
    drop(client);
    drop(served);
    let found = ends(&mut *source, port, 2);
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|record| record.local.is_ipv4() && record.remote.is_ipv4()), "{found:#?}");
    // And an address that is none of the two.
    if let Ok(client) = TcpStream::connect((Ipv6Addr::LOCALHOST, port)) {
        drop((client, listener.accept().unwrap()));
        assert!(ends(&mut *source, port, 2).iter().all(|record| record.local.is_ipv6()));
    }
}

#[test]
fn a_connection_that_is_older_than_the_monitor_is_found_with_its_process() {
    let (listener, port) = listen("127.0.0.1:0");
    let (mut client, mut served) = pair(&listener);
    client.write_all(&[1; 500]).unwrap();
    served.read_exact(&mut [0; 500]).unwrap();
    let Some(mut source) = open_with_files(&Options::default()) else { return };
    let found = survey(&mut *source, port);
    assert_eq!(found.len(), 2, "{found:#?}");
    let (pid, user) = (std::process::id(), rustix::process::getuid().as_raw());
    assert!(found.iter().all(|record| record.seen_late && record.owner.unwrap().process.pid == pid));
    assert!(found.iter().all(|record| record.owner.unwrap().user == Some(user)), "{found:#?}");
    assert!(found.iter().all(|record| record.incoming == (record.local.port() == port)), "{found:#?}");
    drop(client);
    drop(served);
    assert_eq!(ends(&mut *source, port, 2).len(), 2);
}

/// What this network namespace has counted of connections that were opened here, and of those that came: every one.
fn counted_by_the_system() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let value = |wanted: &str| {
        let at = names.split(' ').position(|name| name == wanted).unwrap();
        values.split(' ').nth(at).unwrap().parse::<u64>().unwrap()
    };
    (value("ActiveOpens"), value("PassiveOpens"))
}

/// The counts of the source together with those of the system, at a moment when nobody connects.
fn counts_at_rest(source: &mut dyn Source) -> (monitor::source::Counts, (u64, u64)) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let before = counted_by_the_system();
        let counts = source.counts().unwrap();
        if counted_by_the_system() == before {
            return (counts, before);
        }
        assert!(Instant::now() < deadline, "others connect all the time");
    }
}

#[test]
fn connections_that_find_no_room_are_counted_and_the_counts_stay_exact() {
    let Some(mut source) = open(&Options { capacity: Some(64), ..Options::default() }) else { return };
    let (before, (out_before, in_before)) = counts_at_rest(&mut *source);
    let (listener, port) = listen("127.0.0.1:0");
    let all: Vec<_> = (0..200).map(|_| pair(&listener)).collect();
    let (counts, (out, inn)) = counts_at_rest(&mut *source);
    let (opened, incoming) = (counts.opened - before.opened, counts.incoming - before.incoming);
    assert!(out - out_before >= 200 && inn - in_before >= 200);
    assert_eq!((opened, incoming), (out - out_before, inn - in_before), "those without room keep their direction");
    assert_eq!(counts.established - before.established, opened + incoming);
    let kept = survey(&mut *source, port);
    // Others may have found no room either, or have all of it.
    let lost = counts.map_full - before.map_full + kept.len() as u64;
    assert!((400..=opened + incoming).contains(&lost), "{lost} of {opened} and {incoming}");
    drop(all);
}

#[test]
fn old_connections_without_room_are_not_counted_again_at_each_look() {
    let (listener, port) = listen("127.0.0.1:0");
    let all: Vec<_> = (0..160).map(|_| pair(&listener)).collect();
    let Some(mut source) = open_with_files(&Options { capacity: Some(64), ..Options::default() }) else { return };
    let before = source.counts().unwrap();
    (0..5).for_each(|_| source.reconcile().unwrap());
    let after = source.counts().unwrap();
    // There are places for twice as many, some of which others may have.
    assert_eq!(source.way().capacity, 64);
    assert!(
        survey(&mut *source, port).len() <= 128 && after.seen_late <= 128 + (after.closed - before.closed),
        "{after:?}"
    );
    // New ones of others may have found none meanwhile; five looks at the old ones would be many more.
    let others = after.opened + after.incoming - before.opened - before.incoming;
    assert!(after.map_full - before.map_full <= others, "{before:?} {after:?}");
    drop(all);
}

#[test]
fn an_attempt_that_is_older_than_the_monitor_is_outgoing_when_it_succeeds() {
    let socket = socket(false);
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    rustix::net::bind(&socket, &address).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    // Its queue is full, so the next one is not answered, and asks again in a second.
    let first = TcpStream::connect(address).unwrap();
    let asking = self::socket(false);
    rustix::io::ioctl_fionbio(&asking, true).unwrap();
    let waits = rustix::net::connect(&asking, &address).unwrap_err();
    assert_eq!(waits, rustix::io::Errno::INPROGRESS);
    let Some(mut source) = open_with_files(&Options::default()) else { return };
    drop((listener.accept().unwrap(), first));
    let served = listener.accept().unwrap().0;
    // The second side of the handshake is here before the first has heard of it.
    let mut look = [rustix::event::PollFd::new(&asking, rustix::event::PollFlags::OUT)];
    rustix::event::poll(&mut look, None).unwrap();
    source.reconcile().unwrap();
    let found = survey(&mut *source, address.port());
    let client = found.iter().find(|record| record.remote.port() == address.port()).expect("the client's side");
    assert!(!client.incoming && client.seen_late, "{client:#?}");
    assert_eq!(client.owner.unwrap().process.pid, std::process::id());
    drop(served);
}

#[test]
fn which_side_asked_is_known_of_what_is_found_late_also_where_somebody_listens_only_since_then() {
    let Some(mut source) = open_with_files(&Options { capacity: Some(64), ..Options::default() }) else { return };
    // Begun after the monitor; there is no room for all of these.
    let (listener, port) = listen("127.0.0.1:0");
    let mut all: Vec<_> = (0..400).map(|_| pair(&listener)).collect();
    assert!(source.counts().unwrap().map_full > 0);
    // Now there is; what found none is found among files.
    all.drain(..200);
    ends(&mut *source, port, 1);
    let deadline = Instant::now() + DEADLINE;
    let found = loop {
        source.reconcile().unwrap();
        let found = survey(&mut *source, port);
        if found.iter().any(|record| record.seen_late) || Instant::now() > deadline {
            break found;
        }
    };
    if !found.iter().any(|record| record.seen_late) {
        eprintln!("SKIPPED: others have all the places: {:?}", source.counts());
        return;
    }
    assert!(found.iter().all(|record| record.incoming == (record.local.port() == port)), "{found:#?}");
    drop(all);
}

#[test]
fn resets_that_race_with_accept_are_each_told_once() {
    const COUNT: usize = 2_000;
    let Some(mut source) = open(&Options { accept: Some("sys_exit".into()), ..Options::default() }) else { return };
    if source.way().chosen("accept").is_none() {
        eprintln!("SKIPPED: {:?}", source.way().parts);
        return;
    }
    let (listener, port) = listen("127.0.0.1:0");
    let server = std::thread::spawn(move || (0..COUNT).for_each(|_| drop(listener.accept().unwrap())));
    for _ in 0..COUNT {
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        drop(client);
    }
    server.join().unwrap();
    let ends = ends(&mut *source, port, 2 * COUNT);
    let once: HashSet<_> = ends.iter().map(|record| record.id).collect();
    assert_eq!((ends.len(), once.len()), (2 * COUNT, 2 * COUNT));
    let mut more = 0;
    source.events(&mut |record| more += usize::from(has_port(&record, port))).unwrap();
    assert_eq!((more, survey(&mut *source, port).len()), (0, 0), "nothing is told twice, and nothing is left");
    assert!(ends.iter().all(|record| record.owner.is_some_and(|owner| owner.process.pid == std::process::id())));
}

#[test]
fn a_connection_that_was_reset_and_is_never_accepted_does_not_stay_for_ever() {
    let options = Options { accept: Some("close".into()), patience: Some(Duration::ZERO), ..Options::default() };
    let Some(mut source) = open(&options) else { return };
    let (listener, port) = listen("127.0.0.1:0");
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    let deadline = Instant::now() + DEADLINE;
    let ended = loop {
        let found = survey(&mut *source, port);
        if let Some(ended) = found.iter().find(|record| record.step == Step::Ended) {
            break *ended;
        }
        assert!(Instant::now() < deadline, "{found:#?}");
    };
    assert!(ended.incoming && ended.owner.is_none() && ended.ended.unwrap().1 == End::Reset, "{ended:#?}");
    assert!(survey(&mut *source, port).is_empty(), "it is told once");
    drop(listener);
    let mut again = 0;
    source.events(&mut |record| again += usize::from(record.id == ended.id)).unwrap();
    assert_eq!(again, 0);
}

#[test]
fn the_end_of_a_connection_that_its_process_has_yet_to_close_is_heard_of_with_the_process_and_once() {
    let patience = Some(Duration::from_millis(1));
    let options = Options { accept: Some("close".into()), patience, every_step: true, ..Options::default() };
    let Some(source) = open_with_files(&options) else { return };
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let (listener, port) = listen("127.0.0.1:0");
    let is_end = move |record: &Record| record.incoming && record.is_end() && has_port(record, port);
    let listen_to =
        move |record: &Record, _: Option<&str>| hears.lock().unwrap().extend(is_end(record).then_some(*record));
    let mut agent = Agent::new(source, Limits::default(), Duration::from_secs(1)).with_listener(Box::new(listen_to));
    let (client, served) = pair(&listener);
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    // Over, and nobody was seen to own it.
    (&served).read(&mut [0]).unwrap_err();
    let deadline = Instant::now() + DEADLINE;
    while heard.lock().unwrap().is_empty() {
        assert!(Instant::now() < deadline, "nobody hears of its end");
        agent.source().reconcile().unwrap();
        agent.survey().unwrap();
    }
    drop(served);
    agent.survey().unwrap();
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 1, "{heard:#?}");
    let owner = heard[0].owner.expect("the one that has the socket");
    assert_eq!((heard[0].ended.unwrap().1, owner.process.pid), (End::Reset, std::process::id()));
}

#[test]
fn a_port_that_was_asked_for_and_is_taken_is_a_lack_of_ports() {
    let Some(mut source) = open(&Options::default()) else { return };
    let (listener, port) = listen("127.0.0.1:0");
    let address = listener.local_addr().unwrap();
    let reusing = |local: SocketAddr| {
        let socket = socket(false);
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        rustix::net::bind(&socket, &local).unwrap();
        socket
    };
    let first = reusing("127.0.0.1:0".parse().unwrap());
    rustix::net::connect(&first, &address).unwrap();
    let first = TcpStream::from(first);
    // The same two ends once more: there can be only one such connection.
    let second = reusing(first.local_addr().unwrap());
    let refused = rustix::net::connect(&second, &address).unwrap_err();
    assert_eq!(refused, rustix::io::Errno::ADDRNOTAVAIL);
    let found = ends(&mut *source, port, 1);
    assert_eq!(found[0].ended.unwrap().1, End::Failed(99), "{found:#?}");
}

#[test]
fn an_attempt_without_a_way_to_the_address_is_told_with_its_error() {
    let Some(mut source) = open(&Options::default()) else { return };
    if source.way().chosen("unreachable").is_none() {
        assert!(source.way().missing.contains(&"attempts for which there is no route"), "{:?}", source.way());
        eprintln!("SKIPPED: this kernel does not let it be seen, and the source says so");
        return;
    }
    let before = source.counts().unwrap();
    // No connection leads to all of a network at the same time.
    let error = TcpStream::connect("224.0.0.1:9").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(101));
    let found = ends(&mut *source, 9, 1);
    assert_eq!(found[0].ended.unwrap().1, End::Failed(101), "{found:#?}");
    assert_eq!(found[0].remote, "224.0.0.1:9".parse().unwrap());
    assert_eq!(found[0].owner.unwrap().process.pid, std::process::id());
    let after = source.counts().unwrap();
    assert!(after.opened > before.opened && after.failed > before.failed);
}

#[test]
fn an_attempt_without_a_way_is_told_also_when_another_connection_has_just_ended_at_the_same_socket() {
    const COUNT: usize = 200;
    let Some(mut source) = open(&Options::default()) else { return };
    if source.way().chosen("unreachable").is_none() {
        eprintln!("SKIPPED: this kernel does not let it be seen, and the source says so");
        return;
    }
    let refused = closed_port();
    for _ in 0..COUNT {
        // The kernel gives the second socket the address that the first has left.
        TcpStream::connect(("127.0.0.1", refused)).unwrap_err();
        TcpStream::connect("224.0.0.1:9").unwrap_err();
    }
    assert_eq!(ends(&mut *source, 9, COUNT).len(), COUNT);
}

#[test]
fn ends_that_find_no_room_are_added_up_by_process() {
    // A page of ring, and nobody who reads it before the end.
    let Some(mut source) = open(&Options { ring: Some(4096), ..Options::default() }) else { return };
    let (listener, port) = listen("127.0.0.1:0");
    (0..100).for_each(|_| exchange(&listener, 10, 20));
    let mut records = Vec::new();
    let mut sums = (0, 0, 0, 0, 0);
    let deadline = Instant::now() + DEADLINE;
    // The last ends come with packets that are on their way.
    while records.len() + sums.2 < 200 && Instant::now() < deadline {
        let keep = &mut |record: Record| records.extend(has_port(&record, port).then_some(record));
        source.events(keep).unwrap();
        let add = &mut |folded: monitor::decode::Folded| {
            if folded.owner.process.pid == std::process::id() {
                let closed = usize::try_from(folded.closed).unwrap();
                let (opened, incoming, all, sent, received) = sums;
                let (sent, received) = (sent + folded.sent, received + folded.received);
                sums = (opened + folded.opened, incoming + folded.incoming, all + closed, sent, received);
            }
        };
        source.folded(add).unwrap();
    }
    let (opened, incoming, closed, sent, received) = sums;
    let told = |wanted: bool| records.iter().filter(|record| record.incoming == wanted).count() as u64;
    assert!(closed > 100 && !records.is_empty(), "{sums:?} {}", records.len());
    assert_eq!((opened + told(false), incoming + told(true)), (100, 100));
    let carried = |count: fn(&Record) -> u64| records.iter().map(count).sum::<u64>();
    assert_eq!((sent + carried(|one| one.sent), received + carried(|one| one.received)), (3_000, 3_000));
    assert_eq!(source.counts().unwrap().events_lost, 0);
}

#[test]
fn ends_that_find_no_room_are_told_singly_when_the_connection_was_told_before() {
    // A page of ring, and nobody who reads it before the end.
    let Some(mut source) = open(&Options { ring: Some(4096), ..Options::default() }) else { return };
    let (listener, port) = listen("127.0.0.1:0");
    let all: Vec<_> = (0..100).map(|_| pair(&listener)).collect();
    let told: HashSet<_> = survey(&mut *source, port).iter().map(|record| record.id).collect();
    for (client, served) in &all {
        (&mut &*client).write_all(&[1; 10]).unwrap();
        (&mut &*served).read_exact(&mut [0; 10]).unwrap();
    }
    drop(all);
    let ended = ends(&mut *source, port, 200);
    assert_eq!(ended.iter().map(|record| record.id).collect::<HashSet<_>>(), told);
    assert_eq!(ended.iter().map(|record| record.sent).sum::<u64>(), 1_000);
    assert!(ended.len() == 200 && ended.iter().all(|record| record.owner.is_some()));
    assert_eq!(source.counts().unwrap().events_lost, 0);
}

#[test]
fn two_monitors_see_the_same() {
    let (Some(mut first), Some(mut second)) = (open(&Options::default()), open(&Options::default())) else { return };
    let (listener, port) = listen("127.0.0.1:0");
    exchange(&listener, 10, 20);
    let told = |source: &mut dyn Source| {
        let ends = ends(source, port, 2);
        ends.iter().map(|record| (record.incoming, record.sent, record.received)).collect::<HashSet<_>>()
    };
    let seen = told(&mut *first);
    assert_eq!((seen.len(), told(&mut *second)), (2, seen));
}

/// Programs and maps of ours that the kernel has.
fn loaded() -> (usize, usize) {
    const NAMES: [&[u8]; 4] = [b"state_", b"destroy_", b"accept", b"connect"];
    let ours = |name: &[u8]| NAMES.iter().any(|begin| name.starts_with(begin));
    let programs = aya::programs::loaded_programs().filter(|info| info.as_ref().is_ok_and(|info| ours(info.name())));
    let maps = aya::maps::loaded_maps().filter(|info| {
        info.as_ref().is_ok_and(|info| [&b"connections"[..], b"listeners", b"folded"].contains(&info.name()))
    });
    (programs.count(), maps.count())
}

/// A monitor in another process runs, is ended, and nothing of it is left. These tests run alone.
fn leaves_nothing(mut start: impl FnMut() -> Child, end: impl FnOnce(&mut Child)) {
    if open(&Options::default()).is_none() {
        return;
    }
    let until = |done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + DEADLINE;
        while !done() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    };
    // The kernel frees programs and maps a moment after their last descriptor is gone.
    until(&|| loaded() == (0, 0));
    let before = loaded();
    let mut child = start();
    assert_eq!(child.line("opened "), "true");
    let during = loaded();
    assert!(during.0 >= before.0 + 2 && during.1 >= before.1 + 3, "{before:?} {during:?}");
    end(&mut child);
    until(&|| loaded() == before);
    assert_eq!(loaded(), before);
}

#[test]
fn a_monitor_that_is_killed_leaves_nothing_in_the_kernel() {
    leaves_nothing(Child::monitor, Child::stop);
}

#[test]
fn an_agent_that_is_stopped_has_detached_everything_while_its_process_goes_on() {
    leaves_nothing(Child::agent, |child| {
        child.say("stop");
        assert_eq!(child.line("ended "), "true");
        assert!(child.is_there());
    });
}

#[test]
fn a_small_limit_of_locked_memory_is_no_matter_or_is_named() {
    if open(&Options::default()).is_none() {
        return;
    }
    // 64 KiB, and no right to raise it: before 5.11 maps count as such memory.
    let mut child = Child::with_little_memory_to_lock();
    let said = child.line("opened ");
    if release() < (5, 11) {
        assert!(said.starts_with("false only 64 KiB of memory may be locked"), "{said}");
        assert!(said.contains("cap_sys_resource"), "{said}");
    } else {
        assert_eq!(said, "true");
    }
}

#[test]
fn a_refusal_of_the_kernel_is_told_and_the_poll_takes_its_place() {
    use monitor::source::{Wanted, open};
    use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
    if super::open(&Options::default()).is_none() {
        return;
    }
    // Of a thread of its own that may load programs, but none that look into the kernel.
    let refused = std::thread::spawn(|| {
        let have = capabilities(None).unwrap().permitted.difference(CapabilitySet::SYS_ADMIN | CapabilitySet::PERFMON);
        let sets = CapabilitySets { effective: have, permitted: have, inheritable: CapabilitySet::empty() };
        set_capabilities(None, sets).unwrap();
        let with = |wanted| open(&Options { wanted, ..Options::default() });
        let said = with(Wanted::Ebpf).map(drop).unwrap_err().to_string();
        let polls = with(Wanted::Best).unwrap();
        (said, polls.way().clone())
    });
    let (said, way) = refused.join().unwrap();
    assert_eq!(said, "CAP_PERFMON is missing");
    assert_eq!((way.source, way.reason.unwrap().message), ("sock_diag", said));
    assert!(way.missing.contains(&"failed connections and their errors"), "{:?}", way.missing);
}

#[test]
fn connections_of_another_network_namespace_are_seen_and_told_apart() {
    let Some(mut source) = open(&Options::default()) else { return };
    let ran = Child::pair_in_a_network_namespace(18_471);
    if !ran.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED, as there is no other network namespace to be had: {ran:?}");
        return;
    }
    let found = ends(&mut *source, 18_471, 2);
    assert_eq!(found.len(), 2);
    let (listener, port) = listen("127.0.0.1:0");
    exchange(&listener, 1, 1);
    let here = ends(&mut *source, port, 1)[0].netns;
    assert!(here != 0 && found.iter().all(|record| record.netns != here && record.netns != 0));
}

#[test]
fn ten_thousand_open_connections_are_in_one_survey() {
    let Some(mut source) = open(&Options::default()) else { return };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = 10_400;
    if limit.maximum.is_some_and(|most| most < wanted) {
        eprintln!("SKIPPED: no more than {limit:?} files");
        return;
    }
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let (listener, port) = listen("127.0.0.1:0");
    let all: Vec<_> = (0..5_000).map(|_| pair(&listener)).collect();
    let begun = Instant::now();
    let found = survey(&mut *source, port);
    eprintln!("a survey of {} took {:?}", found.len(), begun.elapsed());
    assert_eq!(found.len(), 10_000);
    drop(all);
}

#[test]
fn fifty_thousand_short_connections_of_two_hundred_processes_are_counted_exactly() {
    are_counted_exactly(200, 250, Duration::from_millis(200), &Options::default());
}

#[test]
fn short_connections_are_counted_exactly_also_when_there_is_never_room_and_surveys_tell_many_before_their_end() {
    are_counted_exactly(20, 200, Duration::from_millis(5), &Options { ring: Some(4096), ..Options::default() });
}

/// So many processes open so many connections each, while an agent surveys this often.
fn are_counted_exactly(processes: usize, each: usize, every: Duration, options: &Options) {
    let Some(mut source) = open(options) else { return };
    let (before, (out_before, in_before)) = counts_at_rest(&mut *source);
    let (listener, port) = listen("127.0.0.1:0");
    let done = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&done);
    let server = std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            drop(listener.accept().unwrap());
        }
    });
    let agent = Agent::new(source, Limits::default(), every);
    let shared = agent.shared();
    let working = std::thread::spawn(move || agent.run());
    let clients: Vec<Child> = (0..processes).map(|_| Child::clients(port, each)).collect();
    let pids: Vec<u32> = clients.iter().map(Child::pid).collect();
    clients.into_iter().for_each(Child::wait);
    let deadline = Instant::now() + DEADLINE;
    let count = || {
        let table = shared.table();
        let ours = table.processes().filter(|process| pids.contains(&process.id.pid));
        ours.map(|process| (process.sums.opened, process.sums.closed - process.sums.incoming, process.open as u64))
            .collect::<Vec<_>>()
    };
    // (A client that is being forked may hold, and so close, a socket that the server accepted: those are not counted.)
    let each = each as u64;
    // The kernel does not run a program that it has interrupted, and says how often: seldom, and for some packets at once. What is
    // not seen of a connection is not counted, and if that is its end, it stays open until a survey.
    let off = |found: &[(u64, u64, u64)]| {
        let of_one = |one: &(u64, u64, u64)| one.0.abs_diff(each) + one.1.abs_diff(each) + one.2;
        found.iter().map(of_one).sum::<u64>() + (processes - found.len()) as u64 * 2 * each
    };
    let allowed = || 2 * shared.counts().hook_missed;
    while off(&count()) > allowed() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    let (found, counts) = (count(), shared.counts());
    assert!(off(&found) <= allowed(), "{counts:?} {found:?}");
    assert!(found.iter().all(|one| one.0 <= each && one.1 <= each), "never too many: {counts:?} {found:?}");
    assert_eq!((counts.events_lost, counts.map_full), (0, 0));
    // And by what the programs have counted themselves, against what the system has.
    let by_programs = || {
        let counts = shared.counts();
        (counts.opened - before.opened, counts.incoming - before.incoming)
    };
    let by_the_system = || {
        let (out, inn) = counted_by_the_system();
        (out - out_before, inn - in_before)
    };
    let agree = || {
        let (seen, there, missed) = (by_programs(), by_the_system(), shared.counts().hook_missed);
        let near = |seen: u64, there: u64| seen <= there && seen + missed >= there;
        (near(seen.0, there.0) && near(seen.1, there.1), seen, there)
    };
    while !agree().0 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    let (agreed, seen, there) = agree();
    let wanted = processes as u64 * each;
    assert!(agreed && there.0 >= wanted && there.1 >= wanted, "{seen:?} of {there:?}: {:?}", shared.counts());
    shared.stop();
    working.join().unwrap().unwrap();
    done.store(true, Ordering::Relaxed);
    drop(TcpStream::connect(("127.0.0.1", port)));
    server.join().unwrap();
}

#[test]
fn every_step_is_told_when_it_is_asked_for() {
    let Some(mut source) = open(&Options { every_step: true, ..Options::default() }) else { return };
    let (listener, port) = listen("127.0.0.1:0");
    exchange(&listener, 1, 1);
    let found = take(&mut *source, 6, |record| has_port(record, port));
    let steps = |incoming| {
        found.iter().filter(|record| record.incoming == incoming).map(|record| record.step).collect::<Vec<_>>()
    };
    assert_eq!(steps(false), [Step::Opened, Step::Established, Step::Ended]);
    assert_eq!(steps(true), [Step::Established, Step::Claimed, Step::Ended]);
}
