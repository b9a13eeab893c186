//! Other processes: this test program once more, as a server or as clients.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

/// What the other process is to be.
const ROLE: &str = "ADIT_TEST_ROLE";

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

    fn start(role: &str) -> Self {
        let this = std::env::current_exe().expect("this program");
        let mut process = Command::new(this)
            .args(["--exact", "child::the_other_process", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
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

    /// Tells it to end, and waits until it has.
    pub(crate) fn terminate(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a process to tell");
        let _ = self.process.wait();
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
            let source = monitor::source::open(&monitor::source::Options {
                wanted: monitor::source::Wanted::Ebpf,
                ..Default::default()
            });
            println!("opened {}", source.is_ok());
            std::io::stdout().flush().unwrap();
            let _ = std::io::stdin().read(&mut [0]);
            std::thread::park();
        }
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
