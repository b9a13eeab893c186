//! The peers side by side, and the services behind them.

use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::process::{Process, Usage};

use super::service::{self, HelloService};
use crate::figures::Contender;
use crate::k8s::load::open;
use crate::peers::free_addr;
use crate::runtimes;
use crate::service::Origin;
use crate::table::note;

/// Where the binary is unless `ADIT_BIN` says otherwise.
const ADIT: &str = "target/release/adit";
/// Where Debian puts the module for streams, which nginx needs to hand TLS on.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// How long a peer may take to carry the first request.
const READY: Duration = Duration::from_secs(15);
/// How long one exchange may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// The host of the HTTP service.
const WEB: &str = "web.localhost";
/// The server name of the service behind TLS.
pub(super) const NAME: &str = "tls.localhost";

/// Who carries the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Nobody: straight to the service.
    Direct,
    /// nginx with one worker.
    Nginx,
    /// HAProxy with one thread.
    Haproxy,
    /// The same, told to move bytes within the kernel.
    HaproxySplice,
    /// adit.
    Adit,
}

/// Services and programs.
#[derive(Debug)]
pub(crate) struct Stand {
    /// The HTTP and the TCP service.
    pub(super) origin: Origin,
    /// The service behind TLS.
    pub(super) hello: HelloService,
    /// What a client of it says first.
    pub(super) client_hello: Vec<u8>,
    adit: PathBuf,
    versions: Vec<(Peer, String)>,
}

/// A peer that runs, or the bare service.
#[derive(Debug)]
pub(super) struct Entrance {
    pub(super) addr: SocketAddr,
    /// What a request's Host is.
    pub(super) host: String,
    process: Option<Process>,
    _dir: Option<TempDir>,
}

impl Peer {
    /// All there are, in the order of the tables.
    pub(crate) const ALL: [Self; 5] = [Self::Direct, Self::Nginx, Self::Haproxy, Self::HaproxySplice, Self::Adit];
}

impl Contender for Peer {
    const ADIT: Self = Self::Adit;

    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy-splice",
            Self::Adit => "adit",
        }
    }
}

impl Stand {
    /// Starts the services and looks for the peers.
    pub(super) fn build() -> Result<Self, String> {
        let adit = std::env::var_os("ADIT_BIN").map_or_else(|| PathBuf::from(ADIT), PathBuf::from);
        if !adit.exists() {
            return Err(format!("{} is missing: build it, or set ADIT_BIN", adit.display()));
        }
        let client_hello = service::client_hello(NAME)?;
        let (origin, hello) = (Origin::start()?, HelloService::start()?);
        let mut versions = Vec::new();
        for (peer, program) in [(Peer::Nginx, "nginx"), (Peer::Haproxy, "haproxy")] {
            match Command::new(program).arg("-v").output() {
                Ok(output) => {
                    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
                    let words = said.lines().next().unwrap_or_default().trim_start_matches("nginx version: ");
                    versions.push((peer, words.to_owned()));
                }
                Err(error) => note(&format!("skipped: {program} cannot be measured ({error})")),
            }
        }
        if !Path::new(NGINX_STREAM).exists() {
            note(&format!("skipped: nginx cannot be measured with TLS ({NGINX_STREAM} is missing)"));
        }
        Ok(Self { origin, hello, client_hello, adit, versions })
    }

    /// What is compared.
    pub(super) fn description(&self) -> String {
        let peers: Vec<&str> = self.versions.iter().map(|(_, version)| version.as_str()).collect();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let beside = if peers.is_empty() { "nothing".to_owned() } else { peers.join(" and ") };
        format!(
            "adit beside {beside}; {cores} cores for proxies, services and load together; a ClientHello has {} bytes; medians",
            self.client_hello.len()
        )
    }

    /// Whether a peer can be measured in a row.
    pub(super) fn has(&self, row: &str, peer: Peer) -> bool {
        let installed = |wanted: Peer| self.versions.iter().any(|(peer, _)| *peer == wanted);
        match peer {
            Peer::Direct | Peer::Adit => true,
            Peer::Nginx => installed(peer) && (row != "tls" || self.has_tls(peer)),
            Peer::Haproxy | Peer::HaproxySplice => installed(Peer::Haproxy),
        }
    }

    /// Whether a peer can hand TLS on.
    pub(super) fn has_tls(&self, peer: Peer) -> bool {
        peer != Peer::Nginx || Path::new(NGINX_STREAM).exists()
    }

    /// `adit` with these arguments.
    pub(super) fn adit(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.adit);
        command.args(arguments);
        command
    }

    /// A peer in front of the HTTP service, when it answers.
    pub(super) fn http(&self, peer: Peer) -> Result<Entrance, String> {
        let entrance = self.start(peer, false)?;
        entrance.until(|| ask(entrance.addr, &entrance.host).map(drop))?;
        Ok(entrance)
    }

    /// A peer in front of the service behind TLS, when it answers.
    pub(super) fn tls(&self, peer: Peer) -> Result<Entrance, String> {
        let entrance = self.start(peer, true)?;
        entrance.until(|| {
            let mut stream = self.greet(entrance.addr, b"p")?;
            let mut answer = [0];
            stream.read_exact(&mut answer)?;
            // An answer in TLS is the gateway's own.
            if answer == *b"p" { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
        })?;
        Ok(entrance)
    }

    /// A connection to the service behind TLS that has said its hello and what it wants.
    pub(super) fn greet(&self, addr: SocketAddr, wanted: &[u8]) -> io::Result<std::net::TcpStream> {
        let mut stream = open(addr, DEADLINE)?;
        stream.write_all(&self.greeting(wanted))?;
        Ok(stream)
    }

    /// A hello and what follows it.
    pub(super) fn greeting(&self, wanted: &[u8]) -> Vec<u8> {
        [&self.client_hello, wanted].concat()
    }

    fn start(&self, peer: Peer, tls: bool) -> Result<Entrance, String> {
        let told = |error: io::Error| error.to_string();
        if peer == Peer::Direct {
            let addr = if tls { self.hello.addr } else { self.origin.http };
            return Ok(Entrance { addr, host: addr.to_string(), process: None, _dir: None });
        }
        let dir = tempfile::tempdir().map_err(told)?;
        let addr = free_addr().map_err(told)?;
        let file = dir.path().join("config.yaml");
        let (text, mut command) = match peer {
            Peer::Adit => {
                let mut command = self.adit(&["up", "--config"]);
                command.arg(&file);
                (self.adit_yaml(addr), command)
            }
            Peer::Nginx => {
                let mut command = Command::new("nginx");
                command.arg("-p").arg(dir.path()).arg("-e").arg(dir.path().join("error.log")).arg("-c").arg(&file);
                (self.nginx_conf(addr, dir.path(), tls), command)
            }
            Peer::Haproxy | Peer::HaproxySplice | Peer::Direct => {
                let mut command = Command::new("haproxy");
                command.args(["-db", "-f"]).arg(&file);
                (self.haproxy_cfg(addr, tls, peer == Peer::HaproxySplice), command)
            }
        };
        fs::write(&file, text).map_err(told)?;
        let process = Process::start(&mut command).map_err(told)?;
        let host = format!("{WEB}:{}", addr.port());
        Ok(Entrance { addr, host, process: Some(process), _dir: Some(dir) })
    }

    fn adit_yaml(&self, addr: SocketAddr) -> String {
        format!(
            "version: 1\ngateway:\n  listen: \"{addr}\"\n  dynamic_host: off\n  routes:\n\
             \x20   {WEB}: {{ to: \"http://{}\" }}\n\
             \x20   {NAME}: {{ to: \"https://{}\", tls: passthrough }}\n",
            self.origin.http, self.hello.addr
        )
    }

    fn nginx_conf(&self, addr: SocketAddr, dir: &Path, tls: bool) -> String {
        // Workers of a master run by root become another user, who may not enter the directory.
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let path = dir.display();
        let head = format!(
            "{user} worker_processes 1; daemon off; pid {path}/pid; error_log {path}/error.log; worker_rlimit_nofile 20000;
             events {{ worker_connections 19000; }}\n"
        );
        if tls {
            return format!(
                "load_module {NGINX_STREAM}; {head}
                 stream {{
                   map $ssl_preread_server_name $target {{ {NAME} {}; }}
                   server {{ listen {addr} backlog=4096; ssl_preread on; proxy_pass $target; tcp_nodelay on; }}
                 }}\n",
                self.hello.addr
            );
        }
        format!(
            "{head}
             http {{
               access_log off; client_max_body_size 0; keepalive_requests 1000000000; tcp_nodelay on;
               client_body_temp_path {path}/b; proxy_temp_path {path}/p; fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;
               upstream origin {{ server {}; keepalive 256; keepalive_requests 1000000000; }}
               server {{
                 listen {addr} backlog=4096;
                 server_name {WEB};
                 location / {{
                   proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\";
                   proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr;
                   proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host;
                   proxy_request_buffering off; proxy_max_temp_file_size 0;
                 }}
               }}
             }}\n",
            self.origin.http
        )
    }

    fn haproxy_cfg(&self, addr: SocketAddr, tls: bool, splice: bool) -> String {
        // The pipes of splicing need descriptors too.
        let most = if splice { 4000 } else { 9800 };
        let head = format!(
            "global\n  nbthread 1\n  maxconn {most}\ndefaults\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n{}",
            if splice { "  option splice-request\n  option splice-response\n" } else { "" }
        );
        if tls {
            return format!(
                "{head}frontend tls\n  bind {addr} backlog 4096\n  mode tcp\n  tcp-request inspect-delay 5s\n  \
                 tcp-request content accept if {{ req.ssl_hello_type 1 }}\n  use_backend hello if {{ req.ssl_sni -i {NAME} }}\n\
                 backend hello\n  mode tcp\n  server hello {}\n",
                self.hello.addr
            );
        }
        format!(
            "{head}frontend web\n  bind {addr} backlog 4096\n  mode http\n  option forwardfor\n  \
             http-request set-header X-Forwarded-Proto http\n  use_backend web if {{ req.hdr(host),field(1,:) -i {WEB} }}\n\
             backend web\n  mode http\n  http-reuse always\n  server origin {}\n",
            self.origin.http
        )
    }
}

impl Entrance {
    /// CPU so far, of all its processes.
    pub(super) fn cpu(&self) -> Duration {
        self.usage().cpu
    }

    /// What it has used so far.
    pub(super) fn usage(&self) -> Usage {
        self.process.as_ref().map(Process::usage).unwrap_or_default()
    }

    /// A failure, and the end of what the peer said.
    pub(super) fn failed(&self, error: &dyn std::fmt::Display) -> String {
        let said = self.process.as_ref().map(last_words).unwrap_or_default();
        format!("{error}; its output:\n{said}")
    }

    /// Waits until it carries something.
    fn until(&self, carries: impl Fn() -> io::Result<()>) -> Result<(), String> {
        let end = Instant::now() + READY;
        loop {
            let Err(error) = carries() else { return Ok(()) };
            if Instant::now() > end || self.process.as_ref().is_some_and(|process| !process.is_running()) {
                return Err(self.failed(&format!("it carries nothing ({error})")));
            }
            runtimes::pass(Duration::from_millis(10))?;
        }
    }
}

/// The end of what a process said, without the many lines of a start.
pub(super) fn last_words(process: &Process) -> String {
    let all = process.output();
    let lines: Vec<&str> = all.lines().filter(|line| !line.starts_with("{\"event\":\"open\"")).collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// One request on a new connection: the time to the first byte of a good answer.
pub(super) fn ask(addr: SocketAddr, host: &str) -> io::Result<Duration> {
    let start = Instant::now();
    let mut stream = open(addr, DEADLINE)?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n").as_bytes())?;
    let mut status = [0; 12];
    let got = stream.read(&mut status)?;
    let first = start.elapsed();
    stream.read_exact(&mut status[got..])?;
    match &status[9..] {
        b"200" => Ok(first),
        other => Err(io::Error::other(format!("status {}", String::from_utf8_lossy(other)))),
    }
}

/// Microseconds of CPU for each of `count`.
pub(super) fn micros(cpu: Duration, count: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / count.max(1) as f64
}

/// Milliseconds.
pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
