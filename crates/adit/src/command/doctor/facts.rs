//! Asks the machine. Nothing is changed by it: ports are bound for a moment, the API server is asked for its version.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use ::forward::{Api, Kubeconfigs, PluginUse, SshFacts, SshServers};
use adit_core::config::gateway::GatewayTls;
use adit_core::config::{AgentFile, KubernetesConfig};
use adit_core::diagnose::{Diagnose, chain};
use adit_core::target::{SshServer, Target};
use runtime::{BindError, BoundListener, Scope};
use rustix::process::{Resource, getrlimit};
use serde_json::Value;

use crate::command::config::check;
use crate::command::up::daemon::{elsewhere, others};
use crate::command::{Global, files, trust};
use crate::report::Failure;

/// How long a peer may take that is asked.
pub(super) const DEADLINE: Duration = Duration::from_secs(3);

/// What was found out.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) program: Option<PathBuf>,
    pub(super) config: Config,
    pub(super) needs: Needs,
    pub(super) kubeconfig: Kubeconfig,
    pub(super) plugins: Vec<PluginUse>,
    pub(super) server: Option<Server>,
    pub(super) ports: Vec<Port>,
    pub(super) names: Names,
    pub(super) authority: Authority,
    pub(super) ssh: Ssh,
    pub(super) ssh_servers: Vec<SshServerFacts>,
    pub(super) place: RuntimeDirectory,
    pub(super) daemon: Daemon,
    /// As many files as this user may have open.
    pub(super) descriptors: Option<u64>,
    pub(super) kernel: Kernel,
    pub(super) clock: Clock,
}

/// What a message says, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Trouble {
    fn of<E: Diagnose>(error: &E) -> Self {
        Self { message: chain(error), hint: error.hint() }
    }

    fn of_failure(failure: &Failure) -> Self {
        Self { message: failure.message().to_owned(), hint: failure.hint().map(str::to_owned) }
    }
}

/// The configuration.
#[derive(Debug)]
pub(super) enum Config {
    None,
    Unreadable(Trouble),
    Wrong { path: PathBuf, problems: Vec<String> },
    Good { path: PathBuf, forwards: usize, tunnels: usize, gateway: bool },
}

/// What the configuration needs to work.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Contexts; `None` is the current one.
    pub(super) contexts: Vec<Option<String>>,
    /// There is a file, and nothing in it leads to a cluster.
    pub(super) no_cluster: bool,
    pub(super) ssh: bool,
    pub(super) local_tls: bool,
    /// The domain of dynamic hosts.
    pub(super) dynamic_host: Option<String>,
}

impl Needs {
    pub(super) fn of(file: &AgentFile) -> Self {
        let targets: Vec<&Target> = file.targets().into_iter().map(|(_, target)| target).collect();
        let context = |target: &&Target| match target {
            Target::Kubernetes(kube) => Some(kube.context.clone()),
            Target::Jump(jump) => Some(jump.context.clone()),
            _ => None,
        };
        let mut contexts: Vec<Option<String>> = targets.iter().filter_map(context).collect();
        contexts.sort();
        contexts.dedup();
        let gateway = file.gateway.as_ref();
        Self {
            no_cluster: contexts.is_empty() && gateway.is_none_or(|gateway| gateway.dynamic_host.is_none()),
            contexts,
            ssh: targets.iter().any(|target| target.to_string().starts_with("ssh://")),
            local_tls: gateway.is_some_and(|gateway| gateway.tls == GatewayTls::Local),
            dynamic_host: gateway.and_then(|gateway| gateway.dynamic_host.as_ref()).map(ToString::to_string),
        }
    }

    /// Whether a context is used, by name or as the current one.
    pub(super) fn uses(&self, context: &str, current: Option<&str>) -> bool {
        self.contexts.iter().any(|used| used.as_deref().or(current) == Some(context))
    }
}

/// The kubeconfig files.
#[derive(Debug)]
pub(super) enum Kubeconfig {
    None(Trouble),
    Found { files: String, contexts: usize, current: Option<String>, missing: Vec<String> },
}

/// The API server of the current context, which was asked as far as it can be.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) context: String,
    pub(super) answer: Result<(String, Duration), Trouble>,
}

/// A port that the configuration wants.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) address: SocketAddr,
    pub(super) wanted_by: String,
    pub(super) state: PortState,
}

/// How a port is.
#[derive(Debug)]
pub(super) enum PortState {
    Free,
    /// The daemon has it.
    Ours,
    Taken {
        holder: Option<String>,
        /// By `adit up`, perhaps of this very file.
        by_up: bool,
        trouble: Trouble,
    },
    /// A daemon of this user has it, and it is not the one that is asked here.
    OtherDaemon(u32),
    Refused(Trouble),
}

/// What a name of the gateway resolves to.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) name: String,
    pub(super) addresses: Result<Vec<IpAddr>, String>,
}

/// The local certificate authority.
#[derive(Debug)]
pub(super) enum Authority {
    None,
    Broken(Trouble),
    There { not_after: SystemTime, stores: Vec<(String, bool)> },
}

/// What OpenSSH has here.
#[derive(Debug)]
pub(super) struct Ssh {
    pub(super) program: Option<PathBuf>,
    pub(super) agent: Agent,
    pub(super) known_hosts: bool,
}

/// An SSH server of the configuration, as far as it can be looked at without a word to it.
#[derive(Debug)]
pub(super) struct SshServerFacts {
    pub(super) server: SshServer,
    pub(super) looked: Result<SshFacts, Trouble>,
}

/// The agent with keys.
#[derive(Debug)]
pub(super) enum Agent {
    None,
    Answers,
    Silent(PathBuf),
}

/// The directory of the daemon's socket.
#[derive(Debug)]
pub(super) enum RuntimeDirectory {
    Unknown,
    /// It is made when it is needed.
    ToBeMade(PathBuf),
    Good(PathBuf),
    Bad {
        path: PathBuf,
        problem: &'static str,
    },
}

/// The daemon.
#[derive(Debug)]
pub(super) enum Daemon {
    None,
    Runs {
        pid: u64,
        version: String,
        /// That its file is not the one that is found from here.
        elsewhere: Option<String>,
    },
    Silent(String),
}

/// What a monitor of connections would find.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) release: String,
    pub(super) btf: bool,
    /// What this user lacks to see connections by programs in the kernel.
    pub(super) rights: Option<Trouble>,
    /// What keeps everybody from it.
    pub(super) kernel: Option<Trouble>,
}

/// The time.
#[derive(Debug)]
pub(super) struct Clock {
    pub(super) now: SystemTime,
    /// Whether the system says that it is set by others.
    pub(super) synchronised: Option<bool>,
}

/// Asks everything.
pub(super) async fn gather(global: &Global) -> Facts {
    let (config, file) = config(global);
    let needs = file.as_ref().map(|(_, _, file)| Needs::of(file)).unwrap_or_default();
    let kubernetes = file.as_ref().map(|(_, _, file)| file.kubernetes.clone()).unwrap_or_default();
    let kubeconfigs = Kubeconfigs::load(&files::kube_settings(&kubernetes));
    let plugins = kubeconfigs.as_ref().map(Kubeconfigs::plugins).unwrap_or_default();
    // Without its plugin the reason is known already.
    let is_needed = !needs.no_cluster;
    let lacks_plugin = |current: &str| plugins.iter().any(|known| known.context == current && known.program.is_none());
    let server = match &kubeconfigs {
        Ok(kubeconfigs) if is_needed && !kubeconfigs.current().is_some_and(lacks_plugin) => {
            server(kubeconfigs, &kubernetes).await
        }
        Ok(_) | Err(_) => None,
    };
    let kubeconfig = match kubeconfigs {
        Err(error) => Kubeconfig::None(Trouble::of(&error)),
        Ok(kubeconfigs) => Kubeconfig::Found {
            files: kubeconfigs.described(),
            contexts: kubeconfigs.contexts().count(),
            current: kubeconfigs.current().map(str::to_owned),
            missing: file
                .iter()
                .flat_map(|(path, text, file)| check::missing_contexts(path, text, file).problems)
                .map(|problem| problem.to_string().lines().next().unwrap_or_default().to_owned())
                .collect(),
        },
    };
    let daemon = daemon(global).await;
    let ports = file.as_ref().map(|(_, _, file)| ports(file, &daemon)).unwrap_or_default();
    Facts {
        program: std::env::current_exe().ok(),
        config,
        kubeconfig,
        plugins,
        server,
        ports,
        names: names(needs.dynamic_host.as_deref().unwrap_or("k8s.localhost")).await,
        needs,
        authority: authority(),
        ssh: ssh().await,
        ssh_servers: match &file {
            Some((.., file)) => ssh_servers(file).await,
            None => Vec::new(),
        },
        place: place(),
        daemon,
        descriptors: getrlimit(Resource::Nofile).maximum,
        kernel: kernel(),
        clock: clock(),
    }
}

/// The file, and what it says when it says something.
fn config(global: &Global) -> (Config, Option<(PathBuf, String, AgentFile)>) {
    let given = global.config.clone().or_else(|| std::env::var_os("ADIT_CONFIG").map(PathBuf::from));
    let Some(path) = given.or_else(|| files::find("adit.yaml")) else { return (Config::None, None) };
    let text = match files::read_once(&path) {
        Ok(text) => text,
        Err(failure) => return (Config::Unreadable(Trouble::of_failure(&failure)), None),
    };
    let problems = |all: Vec<adit_core::config::Problem>| {
        all.iter().map(|problem| problem.to_string().lines().next().unwrap_or_default().to_owned()).collect()
    };
    match AgentFile::parse(&path.display().to_string(), &text, &files::environment) {
        Err(wrong) => (Config::Wrong { path, problems: problems(wrong.0) }, None),
        Ok(file) => {
            let missing = check::missing_files(&path, &text, &file);
            let config = if missing.is_empty() {
                Config::Good {
                    path: path.clone(),
                    forwards: file.forwards.len(),
                    tunnels: file.publish.as_ref().map_or(0, |publish| publish.tunnels.len()),
                    gateway: file.gateway.is_some(),
                }
            } else {
                Config::Wrong { path: path.clone(), problems: problems(missing) }
            };
            (config, Some((path, text, file)))
        }
    }
}

async fn server(kubeconfigs: &Kubeconfigs, kubernetes: &KubernetesConfig) -> Option<Server> {
    let context = kubeconfigs.current()?.to_owned();
    let begun = Instant::now();
    let asking = async {
        let api = Api::new(kubeconfigs, &files::kube_settings(kubernetes), Some(&context)).await?;
        api.version().await
    };
    let answer = match tokio::time::timeout(DEADLINE, asking).await {
        Ok(Ok(version)) => Ok((version, begun.elapsed())),
        Ok(Err(error)) => Err(Trouble::of(&error)),
        Err(_) => {
            let message = format!("no answer within {} s", DEADLINE.as_secs());
            Err(Trouble { message, hint: Some("check the network or the VPN, then: kubectl version".to_owned()) })
        }
    };
    Some(Server { context, answer })
}

/// Every port of the file, each address once.
fn ports(file: &AgentFile, daemon: &Daemon) -> Vec<Port> {
    let of_gateway = file.gateway.iter().flat_map(|gateway| &gateway.listen).map(|at| (*at, "the gateway".to_owned()));
    let enabled = file.forwards.iter().filter(|forward| forward.enabled);
    let of_forwards =
        enabled.flat_map(|forward| forward.listen.iter().map(|at| (*at, format!("the forward {}", forward.name))));
    let wanted = of_gateway.chain(of_forwards).filter(|(address, _)| address.port() != 0);
    let wanted: Vec<(SocketAddr, String)> = wanted.collect();
    let is_wanted = |port: u16| wanted.iter().any(|(address, _)| address.port() == port);
    let port = |(address, wanted_by): &(SocketAddr, String)| Port {
        address: *address,
        wanted_by: wanted_by.clone(),
        state: port(*address, daemon, is_wanted),
    };
    wanted.iter().map(port).collect()
}

fn port(address: SocketAddr, daemon: &Daemon, is_wanted: impl Fn(u16) -> bool) -> PortState {
    match BoundListener::bind(address).map_err(|error| error.but_ports(is_wanted)) {
        Ok(_) => PortState::Free,
        Err(error) => {
            let trouble = Trouble::of(&error);
            match (&error, daemon) {
                (BindError::Taken { holder: Some(holder), .. }, Daemon::Runs { pid, .. })
                    if u64::from(holder.pid) == *pid && holder.connection.is_none() =>
                {
                    PortState::Ours
                }
                (BindError::Taken { holder: Some(holder), .. }, _)
                    if others::is_daemon(holder.pid) && holder.connection.is_none() =>
                {
                    PortState::OtherDaemon(holder.pid)
                }
                (BindError::Taken { holder, .. }, _) => PortState::Taken {
                    holder: holder.as_ref().map(ToString::to_string),
                    by_up: holder.as_ref().is_some_and(|holder| others::is_up(holder.pid)),
                    trouble,
                },
                _ => PortState::Refused(trouble),
            }
        }
    }
}

async fn names(domain: &str) -> Names {
    let name = format!("x.{domain}");
    let looked_up = tokio::time::timeout(DEADLINE, tokio::net::lookup_host((name.clone(), 80))).await;
    let addresses = match looked_up {
        Ok(Ok(found)) => Ok(found.map(|address| address.ip()).collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
    };
    Names { name, addresses }
}

fn authority() -> Authority {
    match trust::trusted() {
        Ok(None) => Authority::None,
        Ok(Some(trusted)) => Authority::There { not_after: trusted.not_after, stores: trusted.stores },
        Err(failure) => Authority::Broken(Trouble::of_failure(&failure)),
    }
}

async fn ssh() -> Ssh {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path)
        .map(|directory| directory.join("ssh"))
        .find(|path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0));
    let agent = match std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from) {
        None => Agent::None,
        Some(socket) => match tokio::time::timeout(DEADLINE, tokio::net::UnixStream::connect(&socket)).await {
            Ok(Ok(_)) => Agent::Answers,
            Ok(Err(_)) | Err(_) => Agent::Silent(socket),
        },
    };
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let known_hosts = home.is_some_and(|home| home.join(".ssh/known_hosts").is_file());
    Ssh { program, agent, known_hosts }
}

/// What is known of each server that the file leads to, once.
async fn ssh_servers(file: &AgentFile) -> Vec<SshServerFacts> {
    let targets = file.targets().into_iter().filter_map(|(_, target)| match target {
        Target::Ssh(target) => Some(target.server.clone()),
        _ => None,
    });
    let mut servers: Vec<SshServer> = Vec::new();
    for server in targets.chain(file.publish.iter().filter_map(|publish| publish.via.clone())) {
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    let (scope, known) = (Scope::root(), SshServers::new(None));
    let mut facts = Vec::new();
    for server in servers {
        let looked = match tokio::time::timeout(DEADLINE, known.look(&scope, &server)).await {
            Ok(looked) => looked.map_err(|error| Trouble::of(&error)),
            Err(_) => Err(Trouble { message: format!("{server}: its settings take long to be read"), hint: None }),
        };
        facts.push(SshServerFacts { server, looked });
    }
    facts
}

fn place() -> RuntimeDirectory {
    let Some(path) = files::runtime_dir() else { return RuntimeDirectory::Unknown };
    let bad = |problem: &'static str| RuntimeDirectory::Bad { path: path.clone(), problem };
    match std::fs::symlink_metadata(&path) {
        Ok(meta) if meta.file_type().is_symlink() => bad("is a symbolic link"),
        Ok(meta) if !meta.is_dir() => {
            bad(if meta.file_type().is_socket() { "is a socket" } else { "is not a directory" })
        }
        Ok(meta) if meta.uid() != rustix::process::geteuid().as_raw() => bad("belongs to another user"),
        // One that others may only read is made private by the daemon itself.
        Ok(meta) if meta.mode() & 0o022 != 0 => bad("can be written by others"),
        Ok(_) if !may_write(&path) => bad("cannot be written to"),
        Ok(_) => RuntimeDirectory::Good(path),
        Err(_) => match path.ancestors().skip(1).find(|above| above.exists()) {
            Some(above) if above.is_dir() && may_write(above) => RuntimeDirectory::ToBeMade(path),
            Some(_) | None => bad("is missing and cannot be made"),
        },
    }
}

fn may_write(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

/// By the command that people use: a daemon that does not answer it is none.
async fn daemon(global: &Global) -> Daemon {
    let Ok(program) = std::env::current_exe() else { return Daemon::None };
    let mut command = tokio::process::Command::new(program);
    command.args(["daemon", "status", "-o", "json"]).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(DEADLINE, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Daemon::Silent(error.to_string()),
        Err(_) => return Daemon::Silent(format!("no answer within {} s", DEADLINE.as_secs())),
    };
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if let Some(pid) = answer["daemon"]["pid"].as_u64() {
        let version = answer["daemon"]["version"].as_str().unwrap_or_default().to_owned();
        return Daemon::Runs { pid, version, elsewhere: elsewhere::told(global, &answer) };
    }
    let failure = Failure::from_json(String::from_utf8_lossy(&output.stderr).trim());
    match failure {
        Some(failure) if failure.message() != "no daemon runs" => Daemon::Silent(failure.message().to_owned()),
        Some(_) | None => Daemon::None,
    }
}

#[cfg(target_os = "linux")]
fn kernel() -> Kernel {
    use ::monitor::source::rights;
    let facts = rights::Facts::here();
    let trouble = |facts: &rights::Facts| {
        let obstacle = rights::foresee(facts)?;
        Some(Trouble { message: obstacle.message, hint: Some(obstacle.hint) })
    };
    Kernel {
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        btf: facts.btf,
        rights: trouble(&facts),
        // Rights can be had by sudo; this cannot.
        kernel: trouble(&rights::Facts { capabilities: u64::MAX, ..facts }),
    }
}

#[cfg(not(target_os = "linux"))]
fn kernel() -> Kernel {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    Kernel { release, btf: false, rights: None, kernel: None }
}

fn clock() -> Clock {
    // systemd's own word for it; without systemd nobody says.
    let synchronised =
        Path::new("/run/systemd/timesync").is_dir().then(|| Path::new("/run/systemd/timesync/synchronized").exists());
    Clock { now: SystemTime::now(), synchronised }
}
