//! Host names that say themselves which service they mean: their forwards are made when they are first asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adit_core::config::gateway::Allow;
use adit_core::config::kubernetes::ProtectPattern;
use adit_core::dynamic_host::{DynamicHostError, DynamicHosts, DynamicKind, DynamicTarget};
use adit_core::forward::ForwardState;
use adit_core::name::Hostname;
use adit_core::target::{PortRef, Scheme, Target};
use forward::{Clusters, Forward, ForwardReport};
use runtime::scope::Scope;

use crate::targets::on_demand;
use crate::traffic::Traffic;
use crate::upstream::{Upstream, UpstreamOptions, UpstreamScheme};

/// Names that are remembered. A page of some web site may ask for any number of them.
const KNOWN_MAX: usize = 1000;
/// How long a name that leads nowhere is remembered.
const MISTAKES: Duration = Duration::from_secs(60);

/// What dynamic hosts need to know; two that are equal find the same.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicSettings {
    /// What all of the names end in.
    pub suffix: Hostname,
    /// Contexts by the label that stands for them.
    pub aliases: Vec<(String, String)>,
    /// Contexts and namespaces that may be reached.
    pub allow: Allow,
    /// Contexts that may be reached only when `allow` names contexts.
    pub protect: Vec<ProtectPattern>,
    /// After how long without use a forward ends.
    pub idle_timeout: Option<Duration>,
}

/// The forwards behind dynamic names.
pub struct Dynamic {
    settings: DynamicSettings,
    hosts: DynamicHosts,
    clusters: Arc<Clusters>,
    scope: Scope,
    known: Mutex<HashMap<String, Known>>,
}

struct Known {
    route: Arc<DynamicRoute>,
    used: Instant,
}

impl Known {
    /// A name that leads nowhere and that nobody has asked for lately: it was mistyped.
    fn is_mistake(&self) -> bool {
        let failed = || self.route.forward.report().status.state == ForwardState::Failed;
        self.used.elapsed() > MISTAKES && failed()
    }
}

/// One dynamic name that was asked for.
#[derive(Debug)]
pub struct DynamicRoute {
    /// The name.
    pub host: String,
    /// What it means.
    pub target: DynamicTarget,
    /// The way there.
    pub forward: Forward,
    /// Requests from plain HTTP.
    pub upstream: Arc<Upstream>,
    /// TLS connections that are handed on.
    pub traffic: Arc<Traffic>,
}

/// Why a name under the suffix leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum DynamicFault {
    /// It does not follow the grammar.
    #[error(transparent)]
    Name(#[from] DynamicHostError),
    /// `gateway.allow` leaves it out.
    #[error("the namespace {namespace} of {context} is not among those that this gateway may reach")]
    Forbidden {
        /// The context.
        context: String,
        /// The namespace.
        namespace: String,
    },
    /// `kubernetes.protect` holds it back, and `gateway.allow` does not name it.
    #[error("the context {context} is protected by kubernetes.protect")]
    Protected {
        /// The context.
        context: String,
    },
}

impl Dynamic {
    /// Nothing is asked for yet.
    #[must_use]
    pub fn new(settings: DynamicSettings, clusters: &Arc<Clusters>, scope: &Scope) -> Arc<Self> {
        Arc::new(Self {
            hosts: DynamicHosts::new(settings.suffix.clone(), &settings.aliases),
            settings,
            clusters: Arc::clone(clusters),
            scope: scope.clone(),
            known: Mutex::default(),
        })
    }

    /// Whether one with these settings and clusters would be the same.
    #[must_use]
    pub fn is(&self, settings: &DynamicSettings, clusters: &Arc<Clusters>) -> bool {
        self.settings == *settings && Arc::ptr_eq(&self.clusters, clusters)
    }

    /// How the names are made up.
    #[must_use]
    pub const fn hosts(&self) -> &DynamicHosts {
        &self.hosts
    }

    /// What all of the names end in.
    #[must_use]
    pub const fn suffix(&self) -> &Hostname {
        &self.settings.suffix
    }

    /// The route of a name under the suffix; `None` when it is not under it. Nothing is connected yet.
    pub fn find(&self, host: &str) -> Option<Result<Arc<DynamicRoute>, DynamicFault>> {
        if let Some(known) = self.lock().get_mut(host) {
            known.used = Instant::now();
            return Some(Ok(Arc::clone(&known.route)));
        }
        let target = match self.hosts.parse(host)? {
            Ok(target) => target,
            Err(error) => return Some(Err(error.into())),
        };
        Some(self.allowed(&target).map(|()| self.add(host, target)))
    }

    /// A name in the current context, for people to change; `None` without a kubeconfig.
    #[must_use]
    pub fn example(&self) -> Option<String> {
        let kubeconfigs = self.clusters.kubeconfigs().ok()?;
        let context = kubeconfigs.current()?.to_owned();
        let namespace = kubeconfigs.namespace_of(&context).unwrap_or("default").to_owned();
        let port = PortRef::parse("80").ok()?;
        let kind = DynamicKind::Service;
        let target = DynamicTarget { kind, name: "web".into(), port, namespace, context, scheme: Scheme::Http };
        self.hosts.host(&target)
    }

    /// Those that were asked for and are remembered, by name.
    #[must_use]
    pub fn known(&self) -> Vec<(Arc<DynamicRoute>, ForwardReport)> {
        let mut known = self.lock();
        let forgotten: Vec<_> = known.extract_if(|_, known| known.is_mistake()).collect();
        let mut routes: Vec<_> = known.values().map(|known| Arc::clone(&known.route)).collect();
        drop(known);
        drop(forgotten);
        routes.sort_by(|a, b| a.host.cmp(&b.host));
        routes.into_iter().map(|route| (Arc::clone(&route), route.forward.report())).collect()
    }

    /// All take nothing new; what they carry finishes.
    pub fn stop(&self) {
        self.lock().values().for_each(|known| known.route.forward.stop());
    }

    /// The machine slept, or its network changed.
    pub fn wake(&self) {
        self.lock().values().for_each(|known| known.route.forward.wake());
    }

    fn allowed(&self, target: &DynamicTarget) -> Result<(), DynamicFault> {
        let DynamicTarget { context, namespace, .. } = target;
        let Self { settings: DynamicSettings { allow, protect, .. }, .. } = self;
        if !allow.permits(context, namespace) {
            return Err(DynamicFault::Forbidden { context: context.clone(), namespace: namespace.clone() });
        }
        // A web page can ask for any name, so here nobody can be asked whether it is meant.
        if allow.contexts.is_empty() && protect.iter().any(|pattern| pattern.matches(context)) {
            return Err(DynamicFault::Protected { context: context.clone() });
        }
        Ok(())
    }

    fn add(&self, host: &str, target: DynamicTarget) -> Arc<DynamicRoute> {
        let route = Arc::new(self.make(host, target));
        let mut known = self.lock();
        let now = Instant::now();
        // Another request for the name may have come first.
        let entry = known.entry(host.to_owned()).or_insert_with(|| Known { route: Arc::clone(&route), used: now });
        let found = Arc::clone(&entry.route);
        let evicted = (known.len() > KNOWN_MAX).then(|| evict(&mut known, host)).flatten();
        drop(known);
        if !Arc::ptr_eq(&found, &route) {
            route.forward.stop();
        }
        if let Some(evicted) = evicted {
            evicted.forward.stop();
        }
        found
    }

    fn make(&self, host: &str, target: DynamicTarget) -> DynamicRoute {
        let options = on_demand(self.settings.idle_timeout);
        let kube = Target::Kubernetes(target.to_target());
        let forward = Forward::new(&self.scope, &self.clusters, host, kube, options);
        let scheme = match target.scheme {
            Scheme::Http => UpstreamScheme::Http,
            Scheme::Https => UpstreamScheme::Https,
        };
        let mut options = UpstreamOptions::new(host, Arc::new(forward.clone()), scheme, &self.scope);
        // Services within a cluster have certificates that nobody outside can check; the way there is the API server's.
        options.tls.trust = crate::upstream::UpstreamTrust::Anything;
        options.tls.server_name = in_cluster_name(&target);
        options.own_pages_only = true;
        // What waits in the pool is a live stream: it must not outlast the idle time that was asked for.
        options.keep = options.keep.min(self.settings.idle_timeout.unwrap_or(options.keep));
        let upstream = Upstream::new(options).expect("a name of Kubernetes is a server name, and no header is set");
        DynamicRoute { host: host.to_owned(), target, forward, upstream, traffic: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Dynamic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dynamic({}, {} known)", self.settings.suffix, self.lock().len())
    }
}

/// Takes out the name that was used longest ago, and carries nothing.
fn evict(known: &mut HashMap<String, Known>, but: &str) -> Option<Arc<DynamicRoute>> {
    let idle = known.iter().filter(|(host, known)| *host != but && known.route.forward.report().streams() == 0);
    let oldest = idle.min_by_key(|(_, known)| known.used).map(|(host, _)| host.clone())?;
    known.remove(&oldest).map(|known| known.route)
}

/// The name a certificate of a service would have.
fn in_cluster_name(target: &DynamicTarget) -> String {
    format!("{}.{}.svc", target.name, target.namespace)
}

#[cfg(test)]
mod tests {
    use adit_core::glob::GlobPattern;
    use forward::KubeSettings;

    use super::*;

    fn dynamic(scope: &Scope, change: impl FnOnce(&mut DynamicSettings)) -> Arc<Dynamic> {
        let mut settings = DynamicSettings {
            suffix: Hostname::parse("k8s.localhost").unwrap(),
            aliases: Vec::new(),
            allow: Allow::default(),
            protect: Vec::new(),
            idle_timeout: None,
        };
        change(&mut settings);
        Dynamic::new(settings, &Clusters::new(KubeSettings::default()), scope)
    }

    fn host(service: &str, context: &str) -> String {
        format!("{service}-80.svc.default.ns.{context}.cx.k8s.localhost")
    }

    #[tokio::test]
    async fn a_name_is_one_route_however_often_it_is_asked_for() {
        let scope = Scope::root();
        let dynamic = dynamic(&scope, |_| {});
        let find = || dynamic.find(&host("web", "prod")).unwrap().unwrap();
        assert!(Arc::ptr_eq(&find(), &find()));
        assert_eq!(find().target.context, "prod");
        assert!(dynamic.find("web.localhost").is_none(), "not under the suffix");
        assert!(dynamic.find("web.k8s.localhost").unwrap().is_err(), "under it, and not of the grammar");
        scope.cancel();
    }

    #[tokio::test]
    async fn what_is_not_allowed_or_protected_is_refused() {
        let scope = Scope::root();
        let pattern = |text: &str| vec![GlobPattern::parse(text).unwrap()];
        let allowed = dynamic(&scope, |settings| settings.allow.contexts = pattern("dev-*"));
        assert!(allowed.find(&host("web", "dev-1")).unwrap().is_ok());
        assert!(matches!(allowed.find(&host("web", "prod")), Some(Err(DynamicFault::Forbidden { .. }))));
        let protect = vec![ProtectPattern::parse("^prod").unwrap()];
        let protected = dynamic(&scope, |settings| settings.protect.clone_from(&protect));
        assert!(protected.find(&host("web", "dev-1")).unwrap().is_ok());
        assert!(matches!(protected.find(&host("web", "prod")), Some(Err(DynamicFault::Protected { .. }))));
        let named = dynamic(&scope, |settings| {
            settings.protect = protect;
            settings.allow.contexts = pattern("prod");
        });
        assert!(named.find(&host("web", "prod")).unwrap().is_ok());
        scope.cancel();
    }

    #[tokio::test]
    async fn any_number_of_names_keeps_a_bounded_number_of_forwards() {
        let scope = Scope::root();
        let dynamic = dynamic(&scope, |_| {});
        for number in 0..KNOWN_MAX + 200 {
            dynamic.find(&host(&format!("s{number}"), "prod")).unwrap().unwrap();
        }
        assert_eq!(dynamic.lock().len(), KNOWN_MAX);
        let ended = async {
            while scope.running().get("forward").copied().unwrap_or_default() > KNOWN_MAX {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("those that were evicted end");
        assert!(dynamic.find(&host(&format!("s{}", KNOWN_MAX + 199), "prod")).is_some());
        scope.cancel();
    }
}
