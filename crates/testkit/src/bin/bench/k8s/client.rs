//! The clients side by side, and the stand they are measured on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use testkit::process::{self, Process, Usage};

use super::home::{BUSY, Home, RAW, WEB};
use super::load;
use crate::service::Origin;
use crate::table::note;

/// Where the binary is unless `ADIT_BIN` says otherwise.
const ADIT: &str = "target/release/adit";
/// How long a client may take to forward.
const DEADLINE: Duration = Duration::from_secs(15);

/// Who carries the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Nobody: straight to the service.
    Direct,
    /// kubectl over WebSocket, its default since 1.31.
    KubectlWs,
    /// kubectl over SPDY.
    KubectlSpdy,
    /// adit.
    Adit,
}

/// Services, cluster and the programs of the clients.
#[derive(Debug)]
pub(crate) struct Stand {
    origin: Origin,
    /// The cluster.
    pub(crate) home: Home,
    /// The cluster of [`BUSY`]: one worker answers many small requests with the least CPU, of which clients are to
    /// have what there is. Bulk is carried better by two.
    busy: Home,
    adit: PathBuf,
    kubectl: Option<Kubectl>,
}

/// The program that does the work: `kubectl` may be a dispatcher that starts another one.
#[derive(Debug)]
struct Kubectl {
    program: PathBuf,
    version: String,
}

/// A client that forwards, or the bare services.
#[derive(Debug)]
pub(crate) struct Forward {
    process: Option<Process>,
    /// Where HTTP requests go in.
    pub(crate) web: SocketAddr,
    /// Where streams to the TCP service go in.
    pub(crate) raw: SocketAddr,
}

impl Who {
    /// All there are, in the order of the tables.
    pub(crate) const ALL: [Self; 4] = [Self::Direct, Self::KubectlWs, Self::KubectlSpdy, Self::Adit];

    /// Its name on the command line and in the tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::KubectlWs => "kubectl-ws",
            Self::KubectlSpdy => "kubectl-spdy",
            Self::Adit => "adit",
        }
    }
}

impl Stand {
    /// Starts services and cluster, and looks for the clients.
    pub(crate) fn build() -> Result<Self, String> {
        let adit = std::env::var_os("ADIT_BIN").map_or_else(|| PathBuf::from(ADIT), PathBuf::from);
        if !adit.exists() {
            return Err(format!("{} is missing: build it, or set ADIT_BIN", adit.display()));
        }
        let origin = Origin::start()?;
        let (home, busy) = (Home::start(&origin, 2)?, Home::start(&origin, 1)?);
        let mut stand = Self { origin, home, busy, adit, kubectl: None };
        match stand.find_kubectl() {
            Ok(kubectl) => stand.kubectl = Some(kubectl),
            Err(error) => note(&format!("skipped: kubectl cannot be measured ({error})")),
        }
        Ok(stand)
    }

    /// What is compared.
    pub(crate) fn description(&self) -> String {
        let kubectl = self.kubectl.as_ref().map_or("no kubectl", |kubectl| &kubectl.version);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        format!("adit beside {kubectl}; {cores} cores for clients, cluster, services and load together; medians")
    }

    /// Who can be measured.
    pub(crate) fn clients(&self) -> Vec<Who> {
        let kubectl = |who: &Who| self.kubectl.is_some() || !matches!(who, Who::KubectlWs | Who::KubectlSpdy);
        Who::ALL.into_iter().filter(kubectl).collect()
    }

    /// The command that forwards ports of a target to free local ports.
    pub(crate) fn command(&self, who: Who, target: &str, ports: &[u16]) -> Command {
        let mut command = match who {
            Who::Adit => Command::new(&self.adit),
            _ => Command::new(self.kubectl.as_ref().map_or(Path::new("kubectl"), |kubectl| &kubectl.program)),
        };
        command.env("KUBECONFIG", self.home.kubeconfig()).env("HOME", self.home.home());
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", if who == Who::KubectlWs { "true" } else { "false" });
        command.args([if who == Who::Adit { "forward" } else { "port-forward" }, target]);
        command.args(ports.iter().map(|port| format!(":{port}"))).args(["--address", "127.0.0.1"]);
        command
    }

    /// Starts a client and waits until it carries a request to both services.
    pub(crate) fn forward(&self, who: Who, service: &str) -> Result<Forward, String> {
        if who == Who::Direct {
            return Ok(Forward { process: None, web: self.origin.http, raw: self.origin.tcp });
        }
        let told = |error: std::io::Error| error.to_string();
        let mut command = self.command(who, &format!("svc/{service}"), &[80, 7]);
        if service == BUSY {
            command.env("KUBECONFIG", self.busy.kubeconfig());
        }
        let process = Process::start(&mut command).map_err(told)?;
        let (web, raw) = (listening(&process, Some(WEB))?, listening(&process, Some(RAW))?);
        let forward = Forward { process: Some(process), web, raw };
        load::request(web, DEADLINE)
            .and_then(|_| load::echo(raw, DEADLINE))
            .map_err(|error| format!("it carries nothing ({error}); its output:\n{}", forward.output()))?;
        Ok(forward)
    }

    /// Starts `kubectl` once, sees which program serves in the end, and asks that one for its version.
    fn find_kubectl(&self) -> Result<Kubectl, String> {
        let asked = std::env::var_os("KUBECTL_BIN").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
        let mut kubectl = Kubectl { program: asked, version: String::new() };
        let mut command = self.command(Who::KubectlSpdy, "pod/web-0", &[WEB]);
        if command.get_program() != kubectl.program {
            let mut own = Command::new(&kubectl.program);
            own.args(command.get_args());
            own.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command = own;
        }
        let process = Process::start(&mut command).map_err(|error| error.to_string())?;
        listening(&process, None)?;
        let last = process::tree(process.pid()).last().copied().unwrap_or_else(|| process.pid());
        if let Ok(program) = std::fs::read_link(format!("/proc/{last}/exe")) {
            kubectl.program = program;
        }
        drop(process);
        let mut ask = Command::new(&kubectl.program);
        let (_, answer) = process::run(ask.args(["version", "--client", "-o", "json"]), b"", DEADLINE)
            .map_err(|error| error.to_string())?;
        let answer: serde_json::Value = serde_json::from_str(&answer.stdout()).unwrap_or_default();
        let version = answer["clientVersion"]["gitVersion"].as_str().unwrap_or("of unknown version");
        kubectl.version = format!("kubectl {version}");
        Ok(kubectl)
    }
}

impl Forward {
    /// CPU so far.
    pub(crate) fn cpu(&self) -> Duration {
        self.usage().cpu
    }

    /// What it has used so far, with its children.
    pub(crate) fn usage(&self) -> Usage {
        self.process.as_ref().map(Process::usage).unwrap_or_default()
    }

    /// All it said, or the end of it.
    pub(crate) fn output(&self) -> String {
        let all = self.process.as_ref().map(Process::output).unwrap_or_default();
        let lines: Vec<&str> = all.lines().filter(|line| !line.starts_with("Handling connection")).collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Where a client listens for a port of the pod, as its line says.
pub(crate) fn listening(process: &Process, port: Option<u16>) -> Result<SocketAddr, String> {
    let end = port.map(|port| format!(" -> {port}")).unwrap_or_default();
    let wanted = |line: &str| line.starts_with("Forwarding from 127.0.0.1:") && line.ends_with(&end);
    let line = process.wait_line(DEADLINE, wanted).map_err(|error| error.to_string())?;
    let address = line.split(' ').nth(2).and_then(|word| word.parse().ok());
    address.ok_or_else(|| format!("no address in {line:?}"))
}
