//! Each way to see changes of state tells the same of what goes well, of what goes wrong, and of both sides.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use monitor::decode::{End, Record, State, Step};
use monitor::source::{Options, Source};

use super::bad_days::{closed_port, times_out};
use super::child::Child;
use super::{DEADLINE, by, exchange, has_port, listen, open, pair, survey, take};

const ECONNREFUSED: u16 = 111;
const ETIMEDOUT: u16 = 110;

/// What is told of the end of a connection: which, whether it came in, how it ended, whether its ends are of IPv4, and its
/// process.
type Told = (&'static str, bool, String, bool, u32);

/// What happens, with the ports that are of it.
struct Play {
    server: Child,
    ports: Vec<(&'static str, u16)>,
}

impl Play {
    fn new(source: &mut dyn Source, sees_states: bool) -> Self {
        let mut ports = Vec::new();
        let refused = closed_port();
        TcpStream::connect(("127.0.0.1", refused)).unwrap_err();
        ports.push(("refused", refused));
        ports.push(("timed out", times_out()));
        let (listener, port) = listen("127.0.0.1:0");
        reset(&listener);
        ports.push(("reset", port));
        let (listener, port) = listen("127.0.0.1:0");
        half_close(&listener, |first| !sees_states || half_closed(source, port) == first);
        ports.push(("half closed", port));
        let (listener, port) = listen("127.0.0.1:0");
        cut_off(&listener);
        ports.push(("cut off", port));
        let (listener, port) = listen("[::1]:0");
        exchange(&listener, 10, 20);
        ports.push(("ipv6", port));
        let (listener, port) = listen("[::]:0");
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut served = listener.accept().unwrap().0;
        drop(client);
        assert_eq!(served.read(&mut [0]).unwrap(), 0);
        ports.push(("mapped", port));
        let mut server = Child::server();
        let port = server.port();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(&[1; 100]).unwrap();
        client.read_exact(&mut [0; 100]).unwrap();
        ports.push(("accepted", port));
        Self { server, ports }
    }

    fn name(&self, record: &Record) -> Option<&'static str> {
        self.ports.iter().find(|(_, port)| has_port(record, *port)).map(|(name, _)| *name)
    }
}

/// Closed with data unread.
fn reset(listener: &TcpListener) {
    let (client, served) = pair(listener);
    (&client).write_all(b"unread").unwrap();
    served.peek(&mut [0]).unwrap();
    drop(served);
    (&client).read(&mut [0]).unwrap_err();
}

/// The client has said all, and the server goes on until that is seen.
fn half_close(listener: &TcpListener, mut is_seen: impl FnMut([(bool, State); 2]) -> bool) {
    let (client, mut served) = pair(listener);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(served.read(&mut [0]).unwrap(), 0);
    let deadline = Instant::now() + DEADLINE;
    while !is_seen([(false, State::FinWait2), (true, State::CloseWait)]) {
        assert!(Instant::now() < deadline, "it is not seen to be half closed");
    }
    drop(served);
    assert_eq!((&client).read(&mut [0]).unwrap(), 0);
}

/// The client has said all, and does not read what it is told.
fn cut_off(listener: &TcpListener) {
    let (client, mut served) = pair(listener);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(served.read(&mut [0]).unwrap(), 0);
    served.write_all(b"unread").unwrap();
    client.peek(&mut [0]).unwrap();
    drop(client);
    // That it was reset is told in its own time.
    let deadline = Instant::now() + DEADLINE;
    while served.write(b"more").is_ok() {
        assert!(Instant::now() < deadline, "it is not reset");
    }
}

fn half_closed(source: &mut dyn Source, port: u16) -> [(bool, State); 2] {
    let found = survey(source, port);
    let state =
        |incoming| found.iter().find(|record| record.incoming == incoming).map_or(State::Closed, |one| one.state);
    [false, true].map(|incoming| (incoming, state(incoming)))
}

/// What every way but the oldest tells.
fn all(server: u32) -> BTreeSet<Told> {
    let this = std::process::id();
    let (closed, reset, aborted) = (End::Closed, End::Reset, End::Aborted);
    [
        ("refused", false, End::Failed(ECONNREFUSED), true, this),
        ("timed out", false, End::Failed(ETIMEDOUT), true, this),
        ("reset", false, reset, true, this),
        ("reset", true, aborted, true, this),
        ("half closed", false, closed, true, this),
        ("half closed", true, closed, true, this),
        ("cut off", false, aborted, true, this),
        ("cut off", true, reset, true, this),
        ("ipv6", false, closed, false, this),
        ("ipv6", true, closed, false, this),
        ("mapped", false, closed, true, this),
        ("mapped", true, closed, true, this),
        ("accepted", false, closed, true, this),
        ("accepted", true, closed, true, server),
    ]
    .map(|(name, incoming, end, v4, pid)| (name, incoming, format!("{end:?}"), v4, pid))
    .into()
}

/// Each end once, and nothing else.
fn tells_all(options: &Options) {
    let Some(mut source) = open(options) else { return };
    let mut play = Play::new(&mut *source, true);
    let wanted = all(play.server.pid());
    let found = take(&mut *source, wanted.len(), |record| {
        // Others are there to leave no room for the one that times out.
        let is_other =
            play.name(record) == Some("timed out") && record.ended.map(|end| end.1) != Some(End::Failed(ETIMEDOUT));
        record.step == Step::Ended && play.name(record).is_some() && !is_other
    });
    let told: Vec<Told> = found
        .iter()
        .map(|record| {
            let end = record.ended.unwrap().1;
            let is_v4 = record.local.is_ipv4() && record.remote.is_ipv4();
            let pid = record.owner.map_or(0, |owner| owner.process.pid);
            (play.name(record).unwrap(), record.incoming, format!("{end:?}"), is_v4, pid)
        })
        .collect();
    assert_eq!(told.len(), wanted.len(), "each once: {told:#?}");
    assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), wanted, "{found:#?}");
    play.server.stop();
}

#[test]
fn the_best_way_tells_what_goes_well_and_wrong_at_both_sides() {
    tells_all(&Options::default());
}

#[test]
fn a_typed_tracepoint_tells_what_goes_well_and_wrong_at_both_sides() {
    tells_all(&by("tp_btf"));
}

#[test]
fn a_raw_tracepoint_tells_what_goes_well_and_wrong_at_both_sides() {
    tells_all(&by("raw_tracepoint"));
}

#[test]
fn a_tracepoint_tells_what_goes_well_and_wrong_at_both_sides() {
    tells_all(&by("tracepoint"));
}

#[test]
fn a_kprobe_tells_what_goes_well_and_wrong_at_both_sides_where_the_kernel_has_them() {
    tells_all(&by("kprobe"));
}

#[test]
fn the_oldest_kprobe_tells_that_each_was_asked_for_and_of_no_end_and_of_nothing_that_came_in() {
    let Some(mut source) = open(&by("kprobe_connect")) else { return };
    let play = Play::new(&mut *source, false);
    let mut found = BTreeSet::new();
    let asked: BTreeSet<_> = all(0).into_iter().map(|told| told.0).collect();
    let deadline = Instant::now() + DEADLINE;
    while found != asked && Instant::now() < deadline {
        source
            .events(&mut |record| {
                let Some(name) = play.name(&record) else { return };
                assert_eq!((record.step, record.incoming), (Step::Opened, false), "{name} {record:#?}");
                assert_eq!(record.owner.unwrap().process.pid, std::process::id(), "{name}");
                found.insert(name);
            })
            .unwrap();
        source.wait(Duration::from_millis(20));
    }
    assert_eq!(found, asked);
}
