//! Everything that carries the load from here to the origin, each started anew for each row.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::process::{Process, Usage};
use testkit::raw;

use super::product::Product;
use super::runtimes;
use super::service::Origin;

pub(crate) mod proxies;
mod rathole;
mod ssh;

/// All peers there are, in the order of the tables.
pub(crate) const PEERS: &[&str] = &[
    "direct",
    "haproxy-tcp",
    "haproxy-http",
    "nginx-http",
    "ssh-R",
    "rathole-tcp",
    "rathole-tls",
    "adit-tcp",
    "adit-http",
];

/// A peer that does not carry a request after this long has failed.
const READY: Duration = Duration::from_secs(15);

/// A running peer.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its name in the tables.
    pub(crate) name: &'static str,
    /// Where HTTP requests to the origin go in.
    pub(crate) web: SocketAddr,
    /// The Host they carry.
    pub(crate) host: String,
    /// Where TCP streams to the origin go in; none for peers that carry HTTP only.
    pub(crate) raw: Option<SocketAddr>,
    pub(crate) processes: Vec<Process>,
    pub(crate) product: Option<Product>,
    pub(crate) _dir: Option<TempDir>,
}

/// Why a peer is not in a table.
#[derive(Debug)]
pub(crate) enum Missing {
    /// It is not on this machine.
    NotInstalled(String),
    /// It did not work.
    Failed(String),
}

/// CPU and time at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    at: Instant,
    cpu: Duration,
}

/// What was spent since a mark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// Time.
    pub(crate) elapsed: Duration,
    /// CPU of all processes of the peer.
    pub(crate) cpu: Duration,
}

impl Peer {
    /// A peer of other programs' processes, before it is known to work.
    fn of(name: &'static str, web: SocketAddr, raw: Option<SocketAddr>, processes: Vec<Process>, dir: TempDir) -> Self {
        Self { name, web, host: "localhost".to_owned(), raw, processes, product: None, _dir: Some(dir) }
    }

    /// Starts the peer called `name` and waits until it carries a request.
    pub(crate) fn start(name: &str, origin: &Origin) -> Result<Self, Missing> {
        let peer = match name {
            "direct" => Ok(Self::direct(origin)),
            "haproxy-tcp" => proxies::haproxy(origin, true),
            "haproxy-http" => proxies::haproxy(origin, false),
            "nginx-http" => proxies::nginx(origin),
            "ssh-R" => ssh::start(origin),
            "rathole-tcp" => rathole::start(origin, false),
            "rathole-tls" => rathole::start(origin, true),
            "adit-tcp" => Product::peer(origin, true),
            _ => Product::peer(origin, false),
        }?;
        peer.until_ready()?;
        Ok(peer)
    }

    fn direct(origin: &Origin) -> Self {
        Self {
            name: "direct",
            web: origin.http,
            host: "localhost".to_owned(),
            raw: Some(origin.tcp),
            processes: Vec::new(),
            product: None,
            _dir: None,
        }
    }

    /// What its processes have used so far.
    pub(crate) fn usage(&self) -> Usage {
        let product = self.product.iter().flat_map(Product::processes);
        self.processes.iter().chain(product).map(Process::usage).fold(Usage::default(), |sum, one| Usage {
            cpu: sum.cpu + one.cpu,
            resident: sum.resident + one.resident,
            private: sum.private + one.private,
            peak: sum.peak + one.peak,
            threads: sum.threads + one.threads,
            processes: sum.processes + one.processes,
        })
    }

    /// Now.
    pub(crate) fn mark(&self) -> Mark {
        Mark { at: Instant::now(), cpu: self.usage().cpu }
    }

    /// What was spent since `mark`.
    pub(crate) fn since(&self, mark: Mark) -> Spent {
        Spent { elapsed: mark.at.elapsed(), cpu: self.usage().cpu.saturating_sub(mark.cpu) }
    }

    /// The output of its processes, for the note about a failure.
    fn output(&self) -> String {
        let product = self.product.iter().flat_map(Product::processes);
        let all: String = self.processes.iter().chain(product).map(Process::output).collect();
        let lines: Vec<&str> = all.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn until_ready(&self) -> Result<(), Missing> {
        let runtime = runtimes::single().map_err(Missing::Failed)?;
        let end = Instant::now() + READY;
        loop {
            let answer = runtime.block_on(raw::get(self.web, &self.host, "/"));
            let raw = self.raw.is_none_or(|addr| {
                let ping = testkit::load::ping(addr, 1, Duration::ZERO, Duration::from_nanos(1));
                runtime.block_on(async {
                    tokio::time::timeout(Duration::from_secs(2), ping).await.is_ok_and(|ping| ping.is_ok())
                })
            });
            if raw && answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            if Instant::now() > end || self.processes.iter().any(|process| !process.is_running()) {
                let answer = answer.map(|answer| answer.line).unwrap_or_else(|error| error.to_string());
                return Err(Missing::Failed(format!("not ready ({answer}); its last output:\n{}", self.output())));
            }
            runtimes::pass(Duration::from_millis(20)).map_err(Missing::Failed)?;
        }
    }
}

impl From<std::io::Error> for Missing {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::NotInstalled(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotInstalled(what) => write!(f, "not on this machine: {what}"),
            Self::Failed(what) => write!(f, "failed: {what}"),
        }
    }
}

/// An address on loopback that was free a moment ago.
pub(crate) fn free_addr() -> std::io::Result<SocketAddr> {
    Ok(SocketAddr::from(([127, 0, 0, 1], testkit::process::free_port()?)))
}
