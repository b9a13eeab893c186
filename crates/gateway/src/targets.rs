//! What entrances lead to: the forwards of the configuration in force, found anew for each stream.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use adit_core::config::{AgentFile, ForwardConfig, JumpSettings};
use adit_core::near;
use adit_core::target::{LocalTarget, Target};
use arc_swap::{ArcSwap, ArcSwapOption};
use forward::{CreatePod, Forward, ForwardOptions, ForwardSet, ForwardSpec, JumpOptions};
use runtime::connect::{BoxFuture, Connect, ConnectError, Io, TcpConnect};

use crate::dynamic::Dynamic;

/// How long a plain address may take to answer.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A forward that starts on demand is waited for so long by the connection that asked for it.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request waits once it is known that there is no way to the cluster: whoever sits before it learns soon that
/// the VPN is off. Connections to TCP ports wait as long as for a start: their clients seldom try again.
const UNREACHED_TIMEOUT: Duration = Duration::from_secs(3);
/// The same where the way has been there: an API server that is started again is back within seconds.
const UNREACHED_AGAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The forwards in force. Entrances hold on to this, not to the forwards, so that a reload reaches them all at once.
#[derive(Debug, Default)]
pub struct Targets {
    forwards: ArcSwap<ForwardSet>,
    dynamic: ArcSwapOption<Dynamic>,
}

impl Targets {
    /// The forwards in force.
    #[must_use]
    pub fn forwards(&self) -> Arc<ForwardSet> {
        self.forwards.load_full()
    }

    /// Puts other forwards in force; the caller retires the earlier ones, which are returned.
    pub fn replace(&self, forwards: Arc<ForwardSet>) -> Arc<ForwardSet> {
        self.forwards.swap(forwards)
    }

    /// Puts other dynamic hosts in force, or none.
    pub(crate) fn set_dynamic(&self, dynamic: Option<Arc<Dynamic>>) {
        self.dynamic.store(dynamic);
    }

    /// Opens streams to a target: to plain addresses at once, to all else through the forward that has it.
    #[must_use]
    pub fn connect(self: &Arc<Self>, target: &Target) -> Arc<dyn Connect> {
        match target {
            Target::Local(local) => Arc::new(direct(local)),
            _ => Arc::new(self.by_name(target)),
        }
    }

    /// The same for a TCP port: its connections wait longer for an API server that is away.
    pub(crate) fn connect_port(self: &Arc<Self>, target: &Target) -> Arc<dyn Connect> {
        match target {
            Target::Local(local) => Arc::new(direct(local)),
            _ => Arc::new(ByName { is_port: true, ..self.by_name(target) }),
        }
    }

    fn by_name(self: &Arc<Self>, target: &Target) -> ByName {
        let (targets, name, target) = (Arc::clone(self), forward_name(target), target.to_string());
        ByName { targets, name, target, is_port: false }
    }
}

/// A connection to a plain address.
pub(crate) fn direct(local: &LocalTarget) -> TcpConnect {
    TcpConnect::new(&local.host, local.port, DIRECT_TIMEOUT)
}

/// The name of the forward that leads to a target. Those that an entrance names by URL are called by that URL, which
/// no forward of the file can be: so two entrances with the same URL share one.
#[must_use]
pub fn forward_name(target: &Target) -> String {
    match target {
        Target::Forward(name) => name.clone(),
        other => other.to_string(),
    }
}

/// The forwards that a file asks for: those it names, and those its routes and tunnels name by URL.
#[must_use]
pub fn specs(file: &AgentFile) -> Vec<ForwardSpec> {
    let enabled = file.forwards.iter().filter(|forward| forward.enabled);
    let mut specs: Vec<ForwardSpec> = enabled.filter_map(|forward| named(file, forward)).collect();
    let idle_timeout = file.gateway.as_ref().map_or(file.defaults.idle_timeout, |gateway| gateway.idle_timeout);
    let routes = file.gateway.iter().flat_map(|gateway| gateway.routes.iter().map(|route| (&route.to, &route.jump)));
    let tunnels =
        file.publish.iter().flat_map(|publish| publish.tunnels.iter().map(|tunnel| (&tunnel.to, &tunnel.jump)));
    let mut known: HashSet<String> = specs.iter().map(|spec| spec.name.clone()).collect();
    for (target, settings) in routes.chain(tunnels) {
        if matches!(target, Target::Forward(_) | Target::Local(_)) {
            continue;
        }
        let name = forward_name(target);
        if !known.insert(name.clone()) {
            continue;
        }
        let options = ForwardOptions { jump: jump(settings.as_ref()), ..on_demand(idle_timeout) };
        specs.push(ForwardSpec { name, target: target.clone(), options });
    }
    specs
}

/// How a forward behaves that nobody configured.
pub(crate) fn on_demand(idle_timeout: Option<Duration>) -> ForwardOptions {
    let mut options = ForwardOptions {
        later_timeout: START_TIMEOUT,
        unreached_timeout: UNREACHED_TIMEOUT,
        unreached_again_timeout: UNREACHED_AGAIN_TIMEOUT,
        ..ForwardOptions::default()
    };
    options.settings.start = adit_core::forward::Start::OnDemand;
    options.settings.idle_timeout = idle_timeout;
    options
}

fn named(file: &AgentFile, forward: &ForwardConfig) -> Option<ForwardSpec> {
    let mut options = on_demand(forward.idle_timeout);
    options.settings.start = forward.start;
    options.settings.backoff = forward.backoff;
    options.settings.max_attempts = forward.restart.max_attempts;
    options.settings.stable_after = forward.restart.window;
    options.balance = forward.balance;
    options.jump = jump(forward.jump.as_ref());
    options.health.clone_from(&forward.health);
    options.limits = forward.limits;
    let target = real_target(file, &forward.to)?;
    Some(ForwardSpec { name: forward.name.clone(), target, options })
}

fn jump(settings: Option<&JumpSettings>) -> JumpOptions {
    let Some(settings) = settings else { return JumpOptions::default() };
    let create = settings.create.as_ref().map(|create| CreatePod {
        image: create.image.clone(),
        command: create.command.clone(),
        timeout: create.timeout,
        labels: BTreeMap::new(),
        keep: create.keep,
    });
    JumpOptions { container: settings.container.clone(), create }
}

/// What a chain of `forward:NAME` leads to in the end; the file was checked for circles.
fn real_target(file: &AgentFile, target: &Target) -> Option<Target> {
    let mut target = target;
    for _ in 0..=file.forwards.len() {
        let Target::Forward(name) = target else { return Some(target.clone()) };
        target = &file.forwards.iter().find(|forward| forward.name == *name)?.to;
    }
    None
}

/// A stream to whatever the forward of this name is when it is opened.
struct ByName {
    targets: Arc<Targets>,
    name: String,
    target: String,
    is_port: bool,
}

impl ByName {
    fn forward(&self) -> Result<Forward, ConnectError> {
        let forwards = self.targets.forwards.load();
        let forward = forwards.get(&self.name);
        let forward = forward.map(|forward| if self.is_port { forward.patient() } else { forward.clone() });
        forward.ok_or_else(|| {
            let near = near::nearest(&self.name, forwards.iter().map(|(spec, _)| spec.name.as_str()));
            let hint = near.map(|near| format!("did you mean `{near}`?"));
            let reason = "no forward of this name is configured any more".to_owned();
            ConnectError::Unavailable { target: self.target.clone(), reason, hint }
        })
    }
}

/// A stream to what a dynamic host means when it is opened: its own forward, and when a reload has put another in the
/// place of that one, the other.
pub(crate) struct ByHost {
    /// Weak, as the targets lead here by way of their dynamic hosts.
    pub(crate) targets: Weak<Targets>,
    pub(crate) host: String,
    pub(crate) forward: Forward,
}

impl Connect for ByHost {
    fn connect(&self) -> BoxFuture<'_, Result<Io, ConnectError>> {
        Box::pin(async move {
            let fault = match self.forward.connect().await {
                Ok(io) => return Ok(io),
                Err(fault) => fault,
            };
            let dynamic = self.targets.upgrade().and_then(|targets| targets.dynamic.load_full());
            match dynamic.and_then(|dynamic| dynamic.find(&self.host)) {
                Some(Ok(now)) if !now.forward.is(&self.forward) => now.forward.connect().await,
                Some(Ok(_) | Err(_)) | None => Err(fault),
            }
        })
    }

    fn describe(&self) -> String {
        self.forward.describe()
    }
}

impl Connect for ByName {
    fn connect(&self) -> BoxFuture<'_, Result<Io, ConnectError>> {
        Box::pin(async move {
            let forward = self.forward()?;
            let fault = match forward.connect().await {
                Ok(io) => return Ok(io),
                Err(fault) => fault,
            };
            // A reload has put another in its place while this one was waited for: that is whom the name means now.
            match self.forward() {
                Ok(now) if !now.is(&forward) => now.connect().await,
                Ok(_) | Err(_) => Err(fault),
            }
        })
    }

    fn describe(&self) -> String {
        self.target.clone()
    }
}

impl fmt::Debug for ByHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByHost({})", self.host)
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByName({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use forward::{Clusters, KubeSettings};
    use runtime::scope::Scope;
    use tokio::net::TcpListener;

    use super::*;

    fn wanted(to: &str) -> Vec<ForwardSpec> {
        let text = format!("forwards: {{ web: {{ to: '{to}', listen: 1 }} }}");
        specs(&AgentFile::parse("adit.yaml", &text, &|_| None).unwrap())
    }

    /// Clusters whose one API server is at this address.
    fn clusters(server: std::net::SocketAddr, place: &std::path::Path) -> Arc<Clusters> {
        let path = place.join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'http://{server}'}}}}]\n\
             users: [{{name: u, user: {{}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
        );
        std::fs::write(&path, text).unwrap();
        Clusters::new(KubeSettings { kubeconfig: Some(path.display().to_string()), ..KubeSettings::default() })
    }

    #[tokio::test]
    async fn who_waits_for_a_dynamic_host_when_the_kubeconfig_changes_gets_the_one_in_force() {
        let (scope, places) = (Scope::root(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let next = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let targets = Arc::<Targets>::default();
        let settings = crate::dynamic::DynamicSettings {
            suffix: adit_core::name::Hostname::parse("k8s.localhost").unwrap(),
            aliases: Vec::new(),
            allow: adit_core::config::gateway::Allow::default(),
            protect: Vec::new(),
            idle_timeout: None,
        };
        let dynamic = |server: &TcpListener, place: &std::path::Path| {
            let clusters = clusters(server.local_addr().unwrap(), place);
            Dynamic::new(settings.clone(), &targets, &clusters, &scope)
        };
        let first = dynamic(&silent, places[0].path());
        targets.set_dynamic(Some(Arc::clone(&first)));
        let route = first.find("web-80.svc.default.ns.c.cx.k8s.localhost").unwrap().unwrap();
        let reload = async {
            // It has begun to start: its cluster is asked, and says nothing.
            let _asked = silent.accept().await.unwrap();
            targets.set_dynamic(Some(dynamic(&next, places[1].path())));
            first.stop();
            // Whoever waited asks the other cluster.
            next.accept().await.unwrap()
        };
        let both = async {
            tokio::select! {
                ended = route.connect.connect() => panic!("it does not wait: {ended:?}"),
                asked = reload => asked,
            }
        };
        tokio::time::timeout(Duration::from_secs(10), both).await.expect("in time");
        scope.cancel();
    }

    #[tokio::test]
    async fn who_waits_for_a_forward_that_a_reload_replaces_gets_the_one_in_force() {
        let (scope, place) = (Scope::root(), tempfile::tempdir().unwrap());
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let clusters = clusters(silent.local_addr().unwrap(), place.path());
        let targets = Arc::<Targets>::default();
        let first = Arc::new(ForwardSet::default().next(&scope, &clusters, wanted("k8s://c/default/service/web:80")));
        targets.replace(Arc::clone(&first));
        let connect = targets.connect(&Target::Forward("web".into()));
        let reload = async {
            // It has begun to start: its cluster is asked, and says nothing.
            let asked = silent.accept().await.unwrap();
            let to = format!("tcp://{}", service.local_addr().unwrap());
            let next = Arc::new(first.next(&scope, &clusters, wanted(&to)));
            targets.replace(Arc::clone(&next)).retire(&next);
            asked
        };
        let both = async { tokio::join!(connect.connect(), reload) };
        let (io, _asked) = tokio::time::timeout(Duration::from_secs(10), both).await.expect("in time");
        io.unwrap();
        scope.cancel();
    }
}
