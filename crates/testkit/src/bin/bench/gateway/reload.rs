//! A change of a large file while streams run.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use testkit::load::Pace;
use testkit::process::Process;
use testkit::raw;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Figure;
use super::stand::{NAME, Peer, Stand, last_words, millis};
use crate::asked::Options;
use crate::k8s::figures::median;
use crate::peers::free_addr;
use crate::runtimes;

/// The route that is another after each change.
const CHANGED: &str = "changed.localhost";
/// Routes of the file that stay as they are, nearly all of them to a service of a cluster each.
const ROUTES: usize = 1_000;
/// Event streams, TLS connections and connections to a port: fifty together.
const STREAMS: [usize; 3] = [20, 15, 15];
/// Changes in a round.
const CHANGES: usize = 5;
/// The watch waits so long after the last change of a file.
const QUIET: Duration = Duration::from_millis(200);
/// How often it is asked whether the change is in force.
const ASK: Duration = Duration::from_millis(1);
/// A cluster that nobody asks.
const KUBECONFIG: &str = "apiVersion: v1
kind: Config
current-context: bench
contexts: [{ name: bench, context: { cluster: bench, user: bench } }]
clusters: [{ name: bench, cluster: { server: 'http://127.0.0.1:9' } }]
users: [{ name: bench, user: {} }]
";
/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("applied, without the watch's 200 ms of quiet, ms", 1).values(200.0, 30.0),
    Figure::lower("streams lost", 0).values(0.0, 0.0),
    Figure::lower("from the rename to the changed route's answer, ms", 1),
    Figure::lower("longest, without the quiet, ms", 1),
    Figure::lower("CPU of a change, with the asking for it, ms", 1),
    Figure::lower("start with these routes, ms", 1),
];

/// One round.
pub(super) fn measure(stand: &Stand, _: Peer, options: &Options) -> Result<Vec<f64>, String> {
    let told = |error: io::Error| error.to_string();
    let dir = tempfile::tempdir().map_err(told)?;
    let at = At { gateway: free_addr().map_err(told)?, port: free_addr().map_err(told)? };
    let file = dir.path().join("adit.yaml");
    fs::write(&file, at.yaml(stand, 0)).map_err(told)?;
    let mut command = stand.adit(&["up", "-o", "json", "--config"]);
    let start = Instant::now();
    let kubeconfig = dir.path().join("kubeconfig");
    fs::write(&kubeconfig, KUBECONFIG).map_err(told)?;
    let process = Process::start(command.arg(&file).env("KUBECONFIG", &kubeconfig)).map_err(told)?;
    process.wait_line(DEADLINE, |line| line.contains("\"started\"")).map_err(|error| error.to_string())?;
    let started = start.elapsed();
    let runtime = runtimes::single()?;
    let changes = options.count(CHANGES);
    let run = async {
        let mut streams = at.open(stand).await?;
        let cpu = process.usage().cpu;
        let mut times = Vec::new();
        for change in 1..=changes {
            let text = at.yaml(stand, change);
            let new = file.with_extension("new");
            fs::write(&new, text)?;
            let begun = Instant::now();
            fs::rename(&new, &file)?;
            at.until(change).await?;
            times.push(millis(begun.elapsed()));
        }
        let cpu = process.usage().cpu.saturating_sub(cpu);
        let mut lost = 0;
        for stream in &mut streams {
            lost += usize::from(!stream.lives().await);
        }
        Ok::<_, io::Error>((times, cpu, lost))
    };
    let (times, cpu, lost) =
        runtime.block_on(run).map_err(|error| format!("{error}; its output:\n{}", last_words(&process)))?;
    let longest = times.iter().copied().fold(0.0, f64::max) - millis(QUIET);
    let median = median(times).unwrap_or(f64::NAN);
    let each = millis(cpu) / changes as f64;
    Ok(vec![median - millis(QUIET), lost as f64, median, longest, each, millis(started)])
}

/// Where the program listens.
struct At {
    gateway: SocketAddr,
    port: SocketAddr,
}

/// An open stream, and how it is seen whether it lives.
enum Stream {
    /// Something comes all the time.
    Events(TcpStream),
    /// What is sent comes back.
    Echo(TcpStream),
}

impl At {
    /// The file, with one route that differs from change to change.
    fn yaml(&self, stand: &Stand, change: usize) -> String {
        let (http, tcp, hello) = (stand.origin.http, stand.origin.tcp, stand.hello.addr);
        let mut text = format!(
            "version: 1\nforwards:\n  raw: {{ to: \"tcp://{tcp}\", listen: \"{}\" }}\n\
             gateway:\n  listen: \"{}\"\n  dynamic_host: off\n  routes:\n\
             \x20   {NAME}: {{ to: \"https://{hello}\", tls: passthrough }}\n\
             \x20   {CHANGED}: {{ to: \"http://{http}\", response_headers: {{ add: {{ x-change: \"{change}\" }} }} }}\n",
            self.port, self.gateway
        );
        for route in 0..ROUTES {
            // Those that are used lead to the service; each of the others to a forward of its own, which is never started.
            let _ = match route < STREAMS[0] {
                true => writeln!(text, "    route-{route}.localhost: {{ to: \"http://{http}\" }}"),
                false => {
                    writeln!(text, "    route-{route}.localhost: {{ to: \"k8s:///default/service/s{route}:80\" }}")
                }
            };
        }
        text
    }

    async fn open(&self, stand: &Stand) -> io::Result<Vec<Stream>> {
        let [events, tls, port] = STREAMS;
        let mut streams = Vec::new();
        for number in 0..events {
            let request = format!("GET /sse?events=0&ms=20 HTTP/1.1\r\nHost: route-{number}.localhost\r\n\r\n");
            streams.push(Stream::Events(greet(self.gateway, request.as_bytes(), b"HTTP/1.1 200").await?));
        }
        for _ in 0..tls {
            streams.push(Stream::Echo(greet(self.gateway, &stand.greeting(b"ex"), b"x").await?));
        }
        for _ in 0..port {
            streams.push(Stream::Echo(greet(self.port, b"echo\nx", b"x").await?));
        }
        Ok(streams)
    }

    /// Asks until the route answers as this change has it.
    async fn until(&self, change: usize) -> io::Result<()> {
        let wanted = change.to_string();
        let mut pace = Pace::new()?;
        let end = Instant::now() + DEADLINE;
        while raw::get(self.gateway, CHANGED, "/").await?.header("x-change") != Some(wanted.as_str()) {
            if Instant::now() > end {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the change is not in force"));
            }
            pace.rest(ASK).await?;
        }
        Ok(())
    }
}

impl Stream {
    async fn lives(&mut self) -> bool {
        let seen = async {
            match self {
                Self::Events(stream) => {
                    // What has come meanwhile says nothing of now.
                    let mut buffer = vec![0; 64 << 10];
                    while matches!(stream.try_read(&mut buffer), Ok(got) if got > 0) {}
                    Ok::<_, io::Error>(stream.read(&mut buffer).await? > 0)
                }
                Self::Echo(stream) => {
                    stream.write_all(b"y").await?;
                    Ok(stream.read_u8().await? == b'y')
                }
            }
        };
        matches!(timeout(DEADLINE, seen).await, Ok(Ok(true)))
    }
}

async fn greet(addr: SocketAddr, greeting: &[u8], wanted: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    stream.write_all(greeting).await?;
    let mut answer = vec![0; wanted.len()];
    timeout(DEADLINE, stream.read_exact(&mut answer)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    match answer == wanted {
        true => Ok(stream),
        false => Err(io::Error::other(format!("the answer was {:?}", String::from_utf8_lossy(&answer)))),
    }
}
