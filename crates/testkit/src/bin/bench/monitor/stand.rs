//! A monitor in a process of its own, and connections in this one.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::thread::{NanosleepRelativeResult, Timespec, nanosleep};
use rustix::time::{ClockId, clock_gettime};
use testkit::process::Process;
use testkit::raw;
use tokio::runtime::Runtime;

use super::{Peer, told};
use crate::figures::Contender as _;
use crate::runtimes;
use crate::table::note;

/// Where the binary is unless `ADIT_BIN` says otherwise.
const ADIT: &str = "target/release/adit";
/// How long a start, or anything else, may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);
/// Connections a second, where there is a pace.
pub(super) const RATE: usize = 20_000;
/// So often connections are made, as many as are due.
const BEAT: Duration = Duration::from_millis(1);

/// A program of the crate `monitor`, beside this one.
const SWITCHED: &str = "adit-monitor-switched";

/// Other tools want the kernel's tracing files, which are not everywhere: they get them for themselves.
const TRACEFS: &str = "mount -t tracefs none /sys/kernel/tracing; exec \"$@\" >/dev/null";
/// What tcplife does, for bpftrace.
const LIFE_OF_TCP: &str = "\
tracepoint:sock:inet_sock_set_state /args->protocol == 6/ {
    if (args->newstate < 4) { @birth[args->skaddr] = nsecs; }
    if (args->newstate == 2 || args->newstate == 9) { @pid[args->skaddr] = pid; @comm[args->skaddr] = comm; }
    if (args->newstate == 7 && @birth[args->skaddr]) {
        $tcp = (struct tcp_sock *)args->skaddr;
        printf(\"%d %s %d %d %d %d %d\\n\", @pid[args->skaddr], @comm[args->skaddr], args->sport, args->dport,
            $tcp->bytes_acked, $tcp->bytes_received, (nsecs - @birth[args->skaddr]) / 1000000);
        delete(@birth[args->skaddr]); delete(@pid[args->skaddr]); delete(@comm[args->skaddr]);
    }
}";

/// The programs, and where they are asked from.
pub(super) struct Stand {
    adit: PathBuf,
    runtime: Runtime,
    /// Who cannot be measured here.
    missing: Vec<Peer>,
}

/// A monitor that is ready.
pub(super) struct Monitor {
    pub(super) process: Process,
    /// From the start of its process until it was.
    pub(super) ready_in: Duration,
    metrics: SocketAddr,
}

impl Stand {
    /// Looks for the program.
    pub(super) fn build() -> Result<Self, String> {
        let adit = std::env::var_os("ADIT_BIN").map_or_else(|| PathBuf::from(ADIT), PathBuf::from);
        if !adit.exists() {
            return Err(format!("{} is missing: build it, or set ADIT_BIN", adit.display()));
        }
        if !rustix::process::geteuid().is_root() {
            return Err("programs in the kernel need root: run it with sudo".to_owned());
        }
        let mut stand = Self { adit, runtime: runtimes::apart(1)?, missing: Vec::new() };
        for (peer, package) in [(Peer::Tcplife, "libbpf-tools"), (Peer::Bpftrace, "bpftrace")] {
            if let Err(error) = stand.watcher(peer).and_then(|process| end(&process)) {
                note(&format!("skipped: {} ({package}) cannot be measured ({error})", peer.name()));
                stand.missing.push(peer);
            }
        }
        Ok(stand)
    }

    /// Whether it can be measured here.
    pub(super) fn has(&self, peer: Peer) -> bool {
        !self.missing.contains(&peer)
    }

    /// What is measured, and where.
    pub(super) fn description(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        format!("adit monitor beside tcplife and bpftrace on Linux {}; {cores} cores; medians", kernel.trim())
    }

    /// Starts somebody who looks, and waits until his programs are there.
    pub(super) fn watcher(&self, peer: Peer) -> Result<Process, String> {
        match peer {
            Peer::Adit => Ok(self.monitor()?.process),
            Peer::Tcplife => other(&["tcplife"]),
            Peer::Bpftrace => other(&["bpftrace", "-e", LIFE_OF_TCP]),
        }
    }

    /// Starts a monitor, and waits until it says that it is ready.
    pub(super) fn monitor(&self) -> Result<Monitor, String> {
        let mut command = Command::new(&self.adit);
        let anywhere = "127.0.0.1:0";
        command.args(["monitor", "--source", "ebpf", "--interval", "1s"]);
        command.args(["--metrics", anywhere, "--health", anywhere]).env("NO_COLOR", "1");
        let start = Instant::now();
        let process = Process::start(&mut command).map_err(told)?;
        let address = |name: &str, path: &str| -> Result<SocketAddr, String> {
            let line = process.wait_line(DEADLINE, |line| line.contains(path)).map_err(told)?;
            let found = line.split("http://").nth(1).and_then(|rest| rest.strip_suffix(path)?.parse().ok());
            found.ok_or_else(|| format!("no address of {name} in {line:?}"))
        };
        let metrics = address("metrics", "/metrics")?;
        let health = address("health", "/health")?;
        while self.get(health, "/readiness")?.0 != 200 {
            if start.elapsed() > DEADLINE {
                return Err(format!("it is not ready; its output:\n{}", process.output()));
            }
        }
        Ok(Monitor { process, ready_in: start.elapsed(), metrics })
    }

    /// Starts the monitor that is switched.
    pub(super) fn switched(&self) -> Result<Switched, String> {
        let mut program = std::env::current_exe().map_err(told)?;
        program.set_file_name(SWITCHED);
        let process = Process::start(&mut Command::new(&program))
            .map_err(|error| format!("{}: {error}; ./dev bench builds it", program.display()))?;
        Ok(Switched { process, switches: 0 })
    }

    fn get(&self, address: SocketAddr, path: &str) -> Result<(u16, String), String> {
        let answer = self.runtime.block_on(raw::get(address, "localhost", path)).map_err(told)?;
        Ok((answer.status, answer.text()))
    }

    /// The sum of the samples of a metric whose labels have one of these words; of all, without words.
    pub(super) fn metric(&self, monitor: &Monitor, name: &str, words: &[&str]) -> Result<f64, String> {
        let (_, text) = self.get(monitor.metrics, "/metrics")?;
        let wanted = |line: &&str| words.is_empty() || words.iter().any(|word| line.contains(word));
        let of_name = text.lines().filter(|line| line.starts_with(name)).filter(wanted);
        Ok(of_name.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

/// Starts another tool, and waits until its programs are there.
fn other(command: &[&str]) -> Result<Process, String> {
    let mut shell = Command::new("unshare");
    shell.args(["-m", "sh", "-c", TRACEFS, "sh"]).args(command);
    let process = Process::start(&mut shell).map_err(told)?;
    let start = Instant::now();
    // It says nothing when it is ready.
    while programs(&process).2 == 0 {
        if !process.is_running() || start.elapsed() > DEADLINE {
            let said = process.output();
            return Err(said.lines().last().unwrap_or("it says nothing").to_owned());
        }
        runtimes::pass(Duration::from_millis(20))?;
    }
    runtimes::pass(Duration::from_millis(100))?;
    if process.is_running() { Ok(process) } else { Err("it has ended".to_owned()) }
}

/// A monitor whose programs can be switched off and on.
pub(super) struct Switched {
    process: Process,
    switches: usize,
}

impl Switched {
    /// Returns once it is so.
    pub(super) fn switch(&mut self, on: bool) -> Result<(), String> {
        self.switches += 1;
        let asked = format!("{} {}", if on { "on" } else { "off" }, self.switches);
        self.process.write_stdin(format!("{asked}\n").as_bytes()).map_err(told)?;
        self.process.wait_line(DEADLINE, |line| line == asked).map(drop).map_err(told)
    }

    /// Ends it.
    pub(super) fn end(self) -> Result<(), String> {
        self.process.close_stdin();
        let status = self.process.wait(DEADLINE).map_err(told)?;
        if status.success() { Ok(()) } else { Err(format!("the monitor that is switched: {status}")) }
    }
}

impl Monitor {
    /// See [`end`].
    pub(super) fn end(self) -> Result<(), String> {
        end(&self.process)
    }
}

/// Ends somebody who looks; everything of his is out of the kernel then.
pub(super) fn end(process: &Process) -> Result<(), String> {
    process.terminate().map_err(told)?;
    process.wait(DEADLINE).map_err(told)?;
    // The kernel frees programs a moment after their last descriptor is gone.
    runtimes::pass(Duration::from_millis(20))
}

/// How long a process's programs have run, in nanoseconds, and how often, while the kernel was told to count that; and how
/// many there are.
pub(super) fn programs(process: &Process) -> (f64, f64, usize) {
    let facts = fs::read_dir(format!("/proc/{}/fdinfo", process.pid())).into_iter().flatten().flatten();
    let mut seen: Vec<[f64; 3]> = Vec::new();
    for text in facts.filter_map(|fact| fs::read_to_string(fact.path()).ok()) {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        let [Some(id), Some(time), Some(runs)] = ["prog_id:", "run_time_ns:", "run_cnt:"].map(value) else {
            continue;
        };
        // A program has several descriptors.
        if !seen.iter().any(|[other, ..]| *other == id) {
            seen.push([id, time, runs]);
        }
    }
    let sum = |at: usize| seen.iter().map(|program| program[at]).sum();
    (sum(1), sum(2), seen.len())
}

/// Processor time of this thread, in microseconds.
pub(super) fn spent() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// The mean without the slowest tenth. There is what the host of a virtual machine has taken of the processor meanwhile, which
/// is booked to whoever had it: a hundred times what a connection takes, in some blocks and not in others.
pub(super) fn usual(mut each: Vec<f64>) -> f64 {
    each.sort_by(f64::total_cmp);
    each.truncate(each.len() - each.len() / 10);
    each.iter().sum::<f64>() / each.len() as f64
}

/// So many addresses of this machine.
const ADDRESSES: u8 = 250;

/// Addresses of services, in turn. Who makes 20,000 connections a second to a single one spends most of the time in the
/// kernel's search for a free port, and does not get to as many.
pub(super) struct Turns {
    port: u16,
    last: u8,
}

impl Turns {
    /// All have the same port.
    pub(super) fn new(port: u16) -> Self {
        Self { port, last: 0 }
    }

    /// The next one.
    pub(super) fn next(&mut self) -> SocketAddr {
        self.last = self.last % ADDRESSES + 1;
        SocketAddr::from(([127, 1, 0, self.last], self.port))
    }
}

/// A listener at each of them.
pub(super) struct Services {
    turns: Turns,
    listeners: Vec<TcpListener>,
}

impl Services {
    /// At a port that is free.
    pub(super) fn bind() -> Result<Self, String> {
        let first = TcpListener::bind(Turns::new(0).next()).map_err(told)?;
        let port = first.local_addr().map_err(told)?.port();
        let mut turns = Turns { last: 1, ..Turns::new(port) };
        let more = (1..ADDRESSES).map(|_| TcpListener::bind(turns.next()).map_err(told));
        let listeners = std::iter::once(Ok(first)).chain(more).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { turns: Turns::new(port), listeners })
    }

    /// The port of all.
    pub(super) fn port(&self) -> u16 {
        self.turns.port
    }

    /// The listener whose turn it is, and where it is.
    pub(super) fn next(&mut self) -> (&TcpListener, SocketAddr) {
        let address = self.turns.next();
        (&self.listeners[usize::from(self.turns.last) - 1], address)
    }

    /// One connection, from its beginning to its end at both sides.
    pub(super) fn one(&mut self) -> Result<(), String> {
        let (listener, address) = self.next();
        let client = TcpStream::connect(address).map_err(told)?;
        let served = listener.accept().map_err(told)?;
        drop(client);
        drop(served);
        Ok(())
    }
}

/// Makes and ends so many connections, at the pace or as fast as it goes. Gives what each has taken of the processor, in
/// microseconds.
pub(super) fn block(services: &mut Services, count: usize, paced: bool) -> Result<f64, String> {
    let (start, mut before) = (Instant::now(), spent());
    let mut each = Vec::with_capacity(count);
    for done in 1..=count {
        services.one()?;
        if paced {
            keep_pace(start, done);
        }
        // With what waking up has cost.
        let now = spent();
        each.push(now - before);
        before = now;
    }
    Ok(usual(each))
}

/// Waits, where more was done since the start than is due by a beat: sleeping costs no time of the processor.
pub(super) fn keep_pace(start: Instant, done: usize) {
    let due = Duration::from_secs_f64(done as f64 / RATE as f64);
    if let Some(early) = due.checked_sub(start.elapsed()).filter(|early| *early >= BEAT) {
        rest(early);
    }
}

/// The thread that is measured waits by itself: a runtime would add its own time.
fn rest(time: Duration) {
    let Ok(mut left) = Timespec::try_from(time) else { return };
    while let NanosleepRelativeResult::Interrupted(more) = nanosleep(&left) {
        left = more;
    }
}
