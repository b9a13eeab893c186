//! The programs on this very kernel, with real connections. They need root or the two capabilities; without them each
//! test says loudly that it was skipped.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "all of it is test code")]

#[path = "kernel/again.rs"]
mod again;
#[path = "kernel/attempts.rs"]
mod attempts;
#[path = "kernel/bad_days.rs"]
mod bad_days;
#[path = "kernel/child.rs"]
mod child;
#[path = "kernel/processes.rs"]
mod processes;
#[path = "kernel/ways.rs"]
mod ways;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use child::Child;
use monitor::decode::{End, OwnedBy, Record, State, Step};
use monitor::source::{self, Options, Source, Wanted};

const DEADLINE: Duration = Duration::from_secs(10);

/// The source, unless this process may not have it. With all rights it is there in every way that the kernel has.
fn open(options: &Options) -> Option<Box<dyn Source>> {
    let options = Options { wanted: Wanted::Ebpf, ..options.clone() };
    match source::open(&options) {
        Ok(source) => {
            let parts = &source.way().parts;
            for purpose in ["close", "state", "owners", "survey"] {
                let is_said = || !source.way().missing.is_empty() && !looks_through_files();
                let is_of_no_use = purpose == "close" && source.way().sees_attempts_alone();
                let is_missed = || purpose == "owners" && is_said();
                let is_there = source.way().chosen(purpose).is_some() || is_of_no_use || is_missed();
                assert!(is_there, "nothing was found for {purpose}: {parts:#?}");
            }
            // Where one exit of a function is seen, so are others.
            let exits = source.way().chosen("accept").is_some_and(|part| part.way.starts_with("fexit"));
            assert!(!exits || source.way().chosen("unreachable").is_some(), "{parts:#?}");
            Some(source)
        }
        Err(error) => {
            let may = rustix::process::geteuid().is_root() && std::env::var_os("ADIT_NO_EBPF").is_none();
            assert!(!may || !has(options.state.as_deref()), "root may load programs, but: {error}");
            eprintln!("SKIPPED, as the kernel does not permit it: {error}");
            None
        }
    }
}

/// Whether the kernel has what a look through open files needs: that came with 5.11.
fn looks_through_files() -> bool {
    release() >= (5, 11)
}

/// The kernel's version.
fn release() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split(|one: char| !one.is_ascii_digit()).map(|number| number.parse().unwrap_or_default());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}

/// The source, where it finds owners and old connections among open files.
fn open_with_files(options: &Options) -> Option<Box<dyn Source>> {
    let source = open(options)?;
    if source.way().chosen("owners").is_none() {
        assert!(source.way().missing.contains(&"connections that are older than the monitor"), "{:?}", source.way());
        eprintln!("SKIPPED: this kernel does not let files be looked through, and the source says so");
        return None;
    }
    Some(source)
}

/// Whether the kernel has what a way to see changes of state needs.
fn has(state: Option<&str>) -> bool {
    let is_there = |path: &str| std::path::Path::new(path).exists();
    match state {
        Some("tracepoint") => ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
            .iter()
            .any(|mounted| is_there(&format!("{mounted}/events/sock/inet_sock_set_state"))),
        // The process that runs, by its type: since 5.11.
        Some("tp_btf") => release() >= (5, 11),
        Some("kprobe" | "kprobe_connect") => is_there("/sys/bus/event_source/devices/kprobe"),
        _ => true,
    }
}

/// Takes records that fit until enough have come, under a deadline.
fn take(source: &mut dyn Source, enough: usize, fits: impl Fn(&Record) -> bool) -> Vec<Record> {
    let deadline = Instant::now() + DEADLINE;
    let mut found = Vec::new();
    while found.len() < enough && Instant::now() < deadline {
        let mut keep = |record: Record| {
            if fits(&record) {
                found.push(record);
            }
        };
        source.events(&mut keep).expect("events");
        source.wait(Duration::from_millis(20));
    }
    found
}

/// The ends of connections with this port at one of their ends.
fn ends(source: &mut dyn Source, port: u16, enough: usize) -> Vec<Record> {
    take(source, enough, |record| record.step == Step::Ended && has_port(record, port))
}

fn has_port(record: &Record, port: u16) -> bool {
    record.local.port() == port || record.remote.port() == port
}

fn survey(source: &mut dyn Source, port: u16) -> Vec<Record> {
    let mut found = Vec::new();
    let mut keep = |record: Record| {
        if has_port(&record, port) && !record.gone {
            found.push(record);
        }
    };
    source.survey(&mut keep).expect("a survey");
    found
}

fn listen(address: &str) -> (TcpListener, u16) {
    let listener = TcpListener::bind(address).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// A request of so many bytes, an answer of so many, and an end from the client.
fn exchange(listener: &TcpListener, up: usize, down: usize) {
    let (mut client, mut served) = pair(listener);
    client.write_all(&vec![1; up]).unwrap();
    served.read_exact(&mut vec![0; up]).unwrap();
    served.write_all(&vec![2; down]).unwrap();
    client.read_exact(&mut vec![0; down]).unwrap();
    drop(client);
    // The end is read, so that closing is no reset.
    assert_eq!(served.read(&mut [0]).unwrap(), 0);
}

/// Five connections, as each way to attach must see them.
fn five_are_seen(options: &Options, address: &str) {
    let Some(mut source) = open(options) else { return };
    eprintln!("{:#?}", source.way());
    let (listener, port) = listen(address);
    (0..5).for_each(|_| exchange(&listener, 1000, 25_000));
    let found = ends(&mut *source, port, 10);
    assert_eq!(found.len(), 10, "{found:#?}");
    let (this, _) = monitor::names::process(std::process::id()).unwrap();
    for record in &found {
        let owner = record.owner.expect("somebody owns it");
        assert_eq!(owner.process.pid, this.pid);
        assert!(owner.process.start.abs_diff(this.start) <= 1);
        assert_eq!(record.incoming, record.local.port() == port);
        let (sent, received) = if record.incoming { (25_000, 1000) } else { (1000, 25_000) };
        assert_eq!((record.sent, record.received), (sent, received), "{record:#?}");
        assert_eq!(record.ended.unwrap().1, End::Closed);
        assert!(record.rtt.is_some() && record.min_rtt.is_some() && record.established.is_some(), "{record:#?}");
        assert_eq!(record.handshake().is_some(), !record.incoming);
    }
    let counts = source.counts().unwrap();
    assert!(counts.opened >= 5 && counts.incoming >= 5 && counts.events_lost == 0, "{counts:?}");
}

fn by(state: &str) -> Options {
    // The best way is the typed tracepoint as well, but for the program of the usual way.
    Options { state: Some(state.into()), general: true, ..Options::default() }
}

#[test]
fn five_connections_are_seen_at_both_ends_with_process_and_bytes_by_the_best_way() {
    five_are_seen(&Options::default(), "127.0.0.1:0");
}

#[test]
fn the_same_over_ipv6() {
    five_are_seen(&Options::default(), "[::1]:0");
}

#[test]
fn the_same_by_typed_tracepoint() {
    five_are_seen(&by("tp_btf"), "127.0.0.1:0");
}

#[test]
fn the_same_by_raw_tracepoint() {
    five_are_seen(&by("raw_tracepoint"), "[::1]:0");
}

#[test]
fn the_same_by_tracepoint() {
    five_are_seen(&by("tracepoint"), "127.0.0.1:0");
}

#[test]
fn the_same_by_kprobe_where_the_kernel_has_them() {
    five_are_seen(&by("kprobe"), "127.0.0.1:0");
}

#[test]
fn connects_alone_are_seen_by_the_oldest_kprobe() {
    let Some(mut source) = open(&by("kprobe_connect")) else { return };
    let (listener, port) = listen("127.0.0.1:0");
    exchange(&listener, 1, 1);
    let found = take(&mut *source, 1, |record| record.step == Step::Opened && has_port(record, port));
    assert_eq!(found[0].owner.unwrap().process.pid, std::process::id());
    assert!(!source.way().missing.is_empty());
    assert!(survey(&mut *source, port).is_empty(), "nothing is kept, as nobody sees the end");
}

/// The times are those of what has happened, whether a packet did it, of which the kernel has the time, or a process.
fn times_are_right(options: &Options) {
    let Some(mut source) = open(options) else { return };
    let (listener, port) = listen("127.0.0.1:0");
    let now = monitor::agent::now;
    let asked = now();
    let (client, mut served) = pair(&listener);
    let there = now();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(served.read(&mut [0]).unwrap(), 0);
    let (other, other_served) = pair(&listener);
    let port_of = |stream: &TcpStream| stream.peer_addr().unwrap().port();
    let (first, second) = (port_of(&served), port_of(&other_served));
    // The acknowledgement is here; after that no packet comes.
    let deadline = Instant::now() + DEADLINE;
    let is_half_closed = |record: &Record| record.local.port() == first && record.state == State::FinWait2;
    while !survey(&mut *source, port).iter().any(is_half_closed) {
        assert!(Instant::now() < deadline, "{:#?}", survey(&mut *source, port));
    }
    let closing = now();
    // Half closed, and closed with that: no packet of the other side says so.
    drop(client);
    let closed = now();
    let ending = now();
    drop((other, other_served));
    let found = ends(&mut *source, port, 3);
    // The packets of the last ends may have come at any time until now.
    let end = now();
    let of = |port: u16, incoming: bool| {
        let mine = |record: &&Record| record.incoming == incoming && has_port(record, port);
        *found.iter().find(mine).unwrap_or_else(|| panic!("{port} {incoming} {found:#?}"))
    };
    let client = of(first, false);
    let between =
        |from: Duration, at: Duration, to: Duration| assert!(from <= at && at <= to, "{from:?} {at:?} {to:?}");
    between(asked, client.opened(), client.established.unwrap());
    between(client.opened(), client.established.unwrap(), there);
    between(closing, client.ended.unwrap().0, closed);
    for record in [of(second, false), of(second, true)] {
        between(there, record.established.unwrap(), closing);
        between(ending, record.ended.unwrap().0, end);
    }
    drop(served);
}

/// Both sides have said all they will say, this one first or last, but that has not arrived when it closes with data unread.
fn what_is_cut_off_at_last_ends_then(options: &Options, is_last: bool) {
    let Some(mut source) = open(options) else { return };
    let (listener, port) = listen("127.0.0.1:0");
    let (client, served) = pair(&listener);
    (&client).write_all(b"unread").unwrap();
    let deadline = Instant::now() + DEADLINE;
    let mut until = |wanted: State| {
        let is_so = |record: &Record| record.incoming && record.state == wanted;
        while !survey(&mut *source, port).iter().any(is_so) {
            assert!(Instant::now() < deadline, "{:#?}", survey(&mut *source, port));
        }
    };
    served.set_nonblocking(true).unwrap();
    // Until there is no more room at both sides.
    while (&served).write(&[0; 65_536]).is_ok() {
        assert!(Instant::now() < deadline, "it takes everything");
    }
    let ways = [(&client, State::CloseWait, State::LastAck), (&served, State::FinWait1, State::Closing)];
    let (first, between, at_last) = ways[usize::from(!is_last)];
    first.shutdown(std::net::Shutdown::Write).unwrap();
    until(between);
    let second = if is_last { &served } else { &client };
    second.shutdown(std::net::Shutdown::Write).unwrap();
    until(at_last);
    let closing = monitor::agent::now();
    drop(served);
    let closed = monitor::agent::now();
    let found = ends(&mut *source, port, 2);
    let (at, end) = found.iter().find(|record| record.incoming).and_then(|record| record.ended).unwrap();
    assert!(closing <= at && at <= closed, "{closing:?} {at:?} {closed:?}");
    assert_eq!(end, End::Aborted);
}

#[test]
fn what_is_cut_off_at_last_ends_then_by_the_best_way() {
    for is_last in [true, false] {
        what_is_cut_off_at_last_ends_then(&Options::default(), is_last);
    }
}

#[test]
fn what_is_cut_off_at_last_ends_then_by_raw_tracepoint() {
    for is_last in [true, false] {
        what_is_cut_off_at_last_ends_then(&by("raw_tracepoint"), is_last);
    }
}

#[test]
fn times_are_right_by_the_best_way() {
    times_are_right(&Options::default());
}

#[test]
fn times_are_right_by_raw_tracepoint() {
    times_are_right(&by("raw_tracepoint"));
}

#[test]
fn times_are_right_by_tracepoint() {
    times_are_right(&by("tracepoint"));
}

#[test]
fn times_are_right_by_kprobe_where_the_kernel_has_them() {
    times_are_right(&by("kprobe"));
}

#[test]
fn a_reset_connection_whose_socket_is_kept_is_told_once_it_is_found_among_files() {
    let options = Options { accept: Some("close".to_owned()), ..Options::default() };
    let Some(mut source) = open(&options) else { return };
    if source.way().chosen("owners").is_none() {
        eprintln!("SKIPPED: there is no look through files: {:?}", source.way().parts);
        return;
    }
    let (listener, port) = listen("127.0.0.1:0");
    let (client, served) = pair(&listener);
    (&served).write_all(b"unread").unwrap();
    client.peek(&mut [0]).unwrap();
    drop(client);
    (&served).read(&mut [0]).unwrap_err();
    source.reconcile().unwrap();
    let found = ends(&mut *source, port, 2);
    let told = found.iter().find(|record| record.incoming).unwrap();
    assert_eq!(told.ended.unwrap().1, End::Reset);
    assert_eq!(told.owner.map(|owner| (owner.process.pid, owner.by)), Some((std::process::id(), OwnedBy::File)));
    drop(served);
    // Nor is it told again.
    let mut again = 0;
    source.events(&mut |record| again += usize::from(record.step == Step::Ended && has_port(&record, port))).unwrap();
    assert_eq!(again, 0);
}

/// It is reset before it is accepted, and then kept.
#[test]
fn a_connection_that_is_over_before_it_is_accepted_is_told_with_who_accepts_it() {
    let options = Options { accept: Some("sys_exit".to_owned()), ..Options::default() };
    let Some(mut source) = open(&options) else { return };
    if source.way().chosen("accept").is_none() {
        eprintln!("SKIPPED: {:?}", source.way().parts);
        return;
    }
    let (listener, port) = listen("127.0.0.1:0");
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    let served = listener.accept().unwrap().0;
    let found = ends(&mut *source, port, 2);
    let told = found.iter().find(|record| record.incoming).unwrap();
    assert_eq!(told.ended.unwrap().1, End::Reset);
    assert_eq!(told.owner.map(|owner| (owner.process.pid, owner.by)), Some((std::process::id(), OwnedBy::Accept)));
    drop(served);
}

/// The process that accepts is another one, and packets of the client change the states of its sockets.
fn an_accepted_connection_is_its_servers(accept: Option<&str>, by: &[OwnedBy]) {
    let options = Options { accept: accept.map(str::to_owned), ..Options::default() };
    let Some(mut source) = open(&options) else { return };
    if accept.is_some_and(|accept| accept != "close") && source.way().chosen("accept").is_none() {
        eprintln!("SKIPPED: {:?}", source.way().parts);
        return;
    }
    let mut server = Child::server();
    let port = server.port();
    for _ in 0..10 {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(&[1; 100]).unwrap();
        client.read_exact(&mut [0; 100]).unwrap();
    }
    let found = ends(&mut *source, port, 20);
    assert_eq!(found.len(), 20, "{found:#?}");
    for record in &found {
        let owner = record.owner.expect("somebody owns it");
        let pid = if record.incoming { server.pid() } else { std::process::id() };
        assert_eq!(owner.process.pid, pid, "{record:#?}");
        assert!(!record.incoming || by.contains(&owner.by), "{owner:?}");
    }
    server.stop();
}

#[test]
fn an_accepted_connection_belongs_to_the_process_that_accepted_it() {
    an_accepted_connection_is_its_servers(None, &[OwnedBy::Accept, OwnedBy::Close, OwnedBy::File]);
}

#[test]
fn who_closes_an_accepted_connection_has_accepted_it() {
    an_accepted_connection_is_its_servers(Some("close"), &[OwnedBy::Close]);
}

#[test]
fn the_system_calls_tell_who_accepts() {
    an_accepted_connection_is_its_servers(Some("sys_exit"), &[OwnedBy::Accept]);
}

#[test]
fn the_exit_of_accept_tells_who_accepts() {
    an_accepted_connection_is_its_servers(Some("fexit"), &[OwnedBy::Accept]);
}

#[test]
fn the_return_of_accept_tells_who_accepts() {
    an_accepted_connection_is_its_servers(Some("kretprobe"), &[OwnedBy::Accept]);
}

#[test]
fn the_owner_of_an_open_accepted_connection_is_found_among_files() {
    let options = Options { accept: Some("close".into()), ..Options::default() };
    let Some(mut source) = open_with_files(&options) else { return };
    let mut server = Child::server();
    let port = server.port();
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.write_all(&[1; 100]).unwrap();
    client.read_exact(&mut [0; 100]).unwrap();
    source.reconcile().unwrap();
    let found = survey(&mut *source, port);
    let incoming: Vec<&Record> = found.iter().filter(|record| record.incoming).collect();
    assert_eq!((found.len(), incoming.len()), (2, 1), "{found:#?}");
    let owner = incoming[0].owner.unwrap();
    assert_eq!((owner.process.pid, owner.by), (server.pid(), OwnedBy::File));
    assert_eq!((incoming[0].sent, incoming[0].received), (100, 100));
    drop(client);
    server.stop();
}

/// Waits for nothing but time, which is what is measured.
fn pass(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// Each side has its end when it is there: who closes first leaves nothing but a small thing for the kernel to wait with, and the
/// other closes later.
fn ends_have_their_times(options: &Options) {
    let Some(mut source) = open(options) else { return };
    let (listener, port) = listen("127.0.0.1:0");
    let begin = Instant::now();
    let (client, mut served) = pair(&listener);
    let paired = begin.elapsed();
    pass(Duration::from_millis(150));
    let before = begin.elapsed();
    drop(client);
    assert_eq!(served.read(&mut [0]).unwrap(), 0);
    let after = begin.elapsed();
    pass(Duration::from_millis(300));
    let last = begin.elapsed();
    drop(served);
    let closed = begin.elapsed();
    let found = ends(&mut *source, port, 2);
    assert_eq!(found.len(), 2, "{found:#?}");
    for record in &found {
        let (least, most) = if record.incoming { (last, closed) } else { (before, after) };
        let (least, most) = (least - paired, most + Duration::from_millis(200));
        let took = record.duration(Duration::ZERO);
        assert!((least..most).contains(&took), "{took:?} is not within {least:?} and {most:?}: {record:#?}");
    }
}

#[test]
fn each_side_has_the_time_of_its_own_end_by_the_best_way() {
    ends_have_their_times(&Options::default());
}

#[test]
fn each_side_has_the_time_of_its_own_end_by_typed_tracepoint() {
    ends_have_their_times(&by("tp_btf"));
}
