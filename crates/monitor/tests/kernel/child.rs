//! Other processes: this test program once more, as a server or as clients.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use adit_core::diagnose::Diagnose as _;
use monitor::agent::Agent;
use monitor::source::{self, Options, Source, SourceError, Wanted};
use monitor::table::Limits;

/// What the other process is to be.
const ROLE: &str = "ADIT_TEST_ROLE";
/// What makes another process of this program.
const ARGUMENTS: [&str; 4] = ["--exact", "child::the_other_process", "--nocapture", "--test-threads=1"];

/// Another process; it is killed when this is dropped.
pub(crate) struct Child {
    process: std::process::Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Child {
    /// A server that answers what it reads.
    pub(crate) fn server() -> Self {
        Self::start("server")
    }

    /// So many connections to a port, one after the other.
    pub(crate) fn clients(port: u16, count: usize) -> Self {
        Self::start(&format!("clients {port} {count}"))
    }

    /// A monitor that runs until it is killed.
    pub(crate) fn monitor() -> Self {
        Self::start("monitor")
    }

    /// An agent that runs until it hears a line, and then waits.
    pub(crate) fn agent() -> Self {
        Self::start("agent")
    }

    /// A monitor that may lock 64 KiB of memory.
    pub(crate) fn with_little_memory_to_lock() -> Self {
        Self::start("little-memory")
    }

    /// A client and a server in a network namespace of their own, to their end.
    pub(crate) fn pair_in_a_network_namespace(port: u16) -> std::io::Result<Output> {
        Self::in_a_network_namespace(&format!("pair {port}"))
    }

    /// What this role does in a network namespace of its own, to its end.
    pub(crate) fn in_a_network_namespace(role: &str) -> std::io::Result<Output> {
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]).arg(std::env::current_exe()?);
        command.args(ARGUMENTS).env(ROLE, role).output()
    }

    fn start(role: &str) -> Self {
        let this = std::env::current_exe().expect("this program");
        let mut process = Command::new(this)
            .args(ARGUMENTS)
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("another process");
        let lines = BufReader::new(process.stdout.take().expect("its output"));
        Self { process, lines }
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The port a server listens at.
    pub(crate) fn port(&mut self) -> u16 {
        self.line("port ").parse().expect("a port")
    }

    /// Waits for a line that begins so; the rest of it.
    pub(crate) fn line(&mut self, begin: &str) -> String {
        let mut line = String::new();
        while self.lines.read_line(&mut line).expect("a line") > 0 {
            // The test runner says its own words before, without ending the line.
            if let Some((_, rest)) = line.trim_end().split_once(begin) {
                return rest.to_owned();
            }
            line.clear();
        }
        panic!("the other process ended without saying {begin:?}");
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) {
        let mut rest = String::new();
        let _ = self.lines.read_to_string(&mut rest);
        assert!(self.process.wait().expect("its end").success(), "{rest}");
    }

    /// Says a line to it.
    pub(crate) fn say(&mut self, line: &str) {
        let input = self.process.stdin.as_mut().expect("its input");
        writeln!(input, "{line}").expect("it listens");
    }

    /// Whether it is still there.
    pub(crate) fn is_there(&mut self) -> bool {
        self.process.try_wait().expect("the system says").is_none()
    }

    /// Kills it; nothing of it can run any more.
    pub(crate) fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

/// No test of its own: what another process does when a test has started it.
#[test]
fn the_other_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let words: Vec<&str> = role.split(' ').collect();
    match words[..] {
        ["server"] => serve(),
        ["clients", port, count] => {
            let (port, count): (u16, usize) = (port.parse().unwrap(), count.parse().unwrap());
            for _ in 0..count {
                // The server says goodbye first, so that no port of a client waits in TIME-WAIT.
                let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
                assert_eq!(client.read(&mut [0]).unwrap(), 0);
            }
        }
        ["monitor"] => {
            let source = ebpf();
            say(&format!("opened {}", source.is_ok()));
            let _ = std::io::stdin().read(&mut [0]);
            std::thread::park();
        }
        ["agent"] => watch_until_a_line_comes(),
        ["little-memory"] => {
            lock_no_more_than(64 * 1024);
            match ebpf() {
                Ok(_) => say("opened true"),
                Err(error) => say(&format!("opened false {error}; {}", error.hint().unwrap_or_default())),
            }
        }
        ["pair", port] => {
            let listener = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            drop((client, listener.accept().unwrap()));
        }
        ["attempts", port] => super::attempts::that_fail(port.parse().unwrap()),
        _ => panic!("{role}"),
    }
}

fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("port {}", listener.local_addr().unwrap().port());
    std::io::stdout().flush().unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read) = stream.read(&mut bytes) {
                if read == 0 || stream.write_all(&bytes[..read]).is_err() {
                    break;
                }
            }
        });
    }
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().unwrap();
}

fn ebpf() -> Result<Box<dyn Source>, SourceError> {
    source::open(&Options { wanted: Wanted::Ebpf, ..Options::default() })
}

/// As `adit monitor` does it, but that the process stays when the agent has ended.
fn watch_until_a_line_comes() {
    let agent = Agent::new(ebpf().unwrap(), Limits::default(), Duration::from_millis(100));
    let shared = agent.shared();
    let working = std::thread::spawn(move || agent.run());
    say("opened true");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    shared.stop();
    say(&format!("ended {}", working.join().unwrap().is_ok()));
    std::thread::park();
}

/// The limit, and no right to raise it.
fn lock_no_more_than(bytes: u64) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
    setrlimit(Resource::Memlock, Rlimit { current: Some(bytes), maximum: Some(bytes) }).unwrap();
    let have = capabilities(None).unwrap().permitted.difference(CapabilitySet::SYS_RESOURCE);
    let sets = CapabilitySets { effective: have, permitted: have, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).unwrap();
}
