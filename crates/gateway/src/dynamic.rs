//! Host names that say themselves which service they mean: their forwards are made when they are first asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use adit_core::config::gateway::Allow;
use adit_core::config::kubernetes::ProtectPattern;
use adit_core::diagnose::{Diagnose as _, chain};
use adit_core::dynamic_host::{DynamicHostError, DynamicHosts, DynamicKind, DynamicTarget};
use adit_core::forward::ForwardState;
use adit_core::glob::GlobPattern;
use adit_core::name::Hostname;
use adit_core::near;
use adit_core::target::{PortRef, Scheme, Target};
use forward::{Clusters, Forward, ForwardReport, ServiceEntry, WantedServices};
use runtime::connect::{Connect, MissingPart};
use runtime::scope::Scope;
use tokio::sync::Semaphore;

use crate::http::{Found, PortRow, ServiceListing, ServiceRow};
use crate::routes::refused;
use crate::speaks::{Instead, other_than_http};
use crate::targets::{ByHost, Targets, on_demand};
use crate::traffic::Traffic;
use crate::upstream::{Upstream, UpstreamOptions, UpstreamScheme};

/// Names that are remembered. A page of some web site may ask for any number of them.
const KNOWN_MAX: usize = 1000;
/// How long a name that leads nowhere is remembered.
const MISTAKES: Duration = Duration::from_secs(60);
/// Lists of services that are asked for at the same time, and how long another waits for its turn.
const LISTING: usize = 4;
const LISTING_WAIT: Duration = Duration::from_secs(5);
/// Contexts that are told; a kubeconfig may hold hundreds.
const CONTEXTS: usize = 200;
/// Hosts that are told instead of one whose context is not there.
const NEAR: usize = 3;
/// The same when the context resembles none that is there.
const INSTEAD: usize = 5;

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
    targets: Weak<Targets>,
    scope: Scope,
    known: Mutex<HashMap<String, Known>>,
    /// Lists of services that are asked for at the same time.
    listing: Semaphore,
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
    /// What makes the way there.
    pub forward: Forward,
    /// The way there, after a reload by whatever the name means then.
    pub(crate) connect: Arc<ByHost>,
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
    /// There is no such context.
    #[error("the context `{context}` is not in the kubeconfig")]
    Context {
        /// The context.
        context: String,
        /// The same with contexts that are there.
        near: Vec<String>,
    },
    /// `gateway.allow` leaves it out.
    #[error("the namespace {namespace} of {context} is not among those that this gateway may reach")]
    Forbidden {
        /// The context.
        context: String,
        /// The namespace.
        namespace: String,
    },
    /// `gateway.allow` leaves the whole context out.
    #[error("the context {context} is not among those that this gateway may reach")]
    ForbiddenContext {
        /// The context.
        context: String,
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
    pub fn new(
        settings: DynamicSettings,
        targets: &Arc<Targets>,
        clusters: &Arc<Clusters>,
        scope: &Scope,
    ) -> Arc<Self> {
        Arc::new(Self {
            hosts: DynamicHosts::new(settings.suffix.clone(), &settings.aliases),
            settings,
            clusters: Arc::clone(clusters),
            targets: Arc::downgrade(targets),
            scope: scope.clone(),
            known: Mutex::default(),
            listing: Semaphore::new(LISTING),
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
        let checked = self.allowed(&target.context, &target.namespace).and_then(|()| self.context_is_there(&target));
        Some(checked.map(|()| self.add(host, target)))
    }

    /// The contexts that may be reached.
    #[must_use]
    pub fn contexts(&self) -> Vec<String> {
        let Ok(kubeconfigs) = self.clusters.kubeconfigs() else { return Vec::new() };
        let mut contexts: Vec<&str> = kubeconfigs.contexts().collect();
        if contexts.is_empty() {
            contexts.extend(kubeconfigs.current());
        }
        let open = contexts.into_iter().filter(|context| self.context_allowed(context).is_ok());
        open.take(CONTEXTS).map(str::to_owned).collect()
    }

    /// Why no context is known: there is no kubeconfig that can be used.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        self.clusters.kubeconfigs().err().map(|error| chain(&error))
    }

    /// The services of a context that may be reached, each port with its host.
    ///
    /// # Errors
    /// Why there is no list: it is not allowed, there is no such context, or the cluster does not tell.
    pub async fn services(&self, context: &str) -> Result<ServiceListing, Found> {
        // The links of the page have it so.
        let context = self.hosts.aliased(context).unwrap_or(context);
        self.context_allowed(context).map_err(|fault| refused(&fault))?;
        self.known_context(context).map_err(|near| Found::Unknown { near, reason: None, hint: None })?;
        let busy = |_| Found::Failed { reason: "too many lists of services are being read".into(), hint: None };
        let _turn = tokio::time::timeout(LISTING_WAIT, self.listing.acquire()).await.map_err(busy)?;
        let namespaces = &self.settings.allow.namespaces;
        let named: Vec<&str> = namespaces.iter().filter_map(GlobPattern::literal).collect();
        let wants = |namespace: &str| self.settings.allow.permits(context, namespace);
        let named_only = !named.is_empty() && named.len() == namespaces.len();
        let wanted = WantedServices { named: &named, named_only, wants: &wants };
        let list = self.clusters.services(context, wanted).await;
        let list = list.map_err(|error| Found::Failed { reason: chain(&error), hint: error.hint() })?;
        let note = match (&list.only, list.more) {
            (Some(only), _) => Some(only_these(only)),
            (None, true) => Some("there are more: `kubectl get services -A` lists them all".to_owned()),
            (None, false) => None,
        };
        let services = list.services.into_iter().map(|service| self.service_row(context, service)).collect();
        Ok(ServiceListing { context: context.to_owned(), services, note, tls: false })
    }

    fn service_row(&self, context: &str, service: ServiceEntry) -> ServiceRow {
        let ServiceEntry { namespace, name, ports } = service;
        let row = |(number, port_name): (u16, Option<String>)| {
            let tls = matches!(number, 443 | 8443 | 6443) || port_name.as_ref().is_some_and(|n| n.starts_with("https"));
            let scheme = if tls { Scheme::Https } else { Scheme::Http };
            let speaks = other_than_http(&name, number, port_name.as_deref());
            let port = PortRef::parse(&number.to_string()).ok()?;
            let (service, namespace, context) = (name.clone(), namespace.clone(), context.to_owned());
            let kind = DynamicKind::Service;
            let target = DynamicTarget { kind, name: service, port, namespace, context, scheme };
            let (host, to) = (self.hosts.host(&target), Target::Kubernetes(target.to_target()));
            Some(PortRow { number, name: port_name, host, speaks, target: to.to_string() })
        };
        let ports = ports.into_iter().filter_map(row).collect();
        ServiceRow { namespace, name, ports }
    }

    /// Hosts that differ from this one in the part that is not there, by what is there instead.
    #[must_use]
    pub fn near(&self, host: &str, part: MissingPart, instead: &[String]) -> Vec<String> {
        let Some(Ok(target)) = self.hosts.parse(host) else { return Vec::new() };
        let other = |instead: &String| {
            let mut target = target.clone();
            match part {
                MissingPart::Name => target.name.clone_from(instead),
                MissingPart::Namespace => target.namespace.clone_from(instead),
                MissingPart::Port => target.port = PortRef::parse(instead).ok()?,
            }
            self.allowed(&target.context, &target.namespace).ok()?;
            self.hosts.host_as_typed(&target, host)
        };
        instead.iter().filter_map(other).take(NEAR).collect()
    }

    /// What is wrong with a host that is nearly one of these, and hosts that could be meant.
    #[must_use]
    pub fn meant(&self, host: &str) -> Option<(String, Vec<String>)> {
        let kubeconfigs = self.clusters.kubeconfigs().ok();
        let current = kubeconfigs.as_ref().and_then(|kubeconfigs| kubeconfigs.current());
        let meant = self.hosts.meant(host, current)?;
        let mut near = match self.context_is_there(&meant.target) {
            Err(DynamicFault::Context { near, .. }) if !near.is_empty() => near,
            _ => self.hosts.host(&meant.target).into_iter().collect(),
        };
        // Of no use to whoever opens it, it would only be refused.
        near.retain(|host| {
            let target = self.hosts.parse(host).and_then(Result::ok);
            target.is_some_and(|target| self.allowed(&target.context, &target.namespace).is_ok())
        });
        Some((meant.wrong.join("; "), near))
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

    fn allowed(&self, context: &str, namespace: &str) -> Result<(), DynamicFault> {
        self.context_allowed(context)?;
        if !self.settings.allow.permits(context, namespace) {
            let (context, namespace) = (context.to_owned(), namespace.to_owned());
            return Err(DynamicFault::Forbidden { context, namespace });
        }
        Ok(())
    }

    fn context_allowed(&self, context: &str) -> Result<(), DynamicFault> {
        let DynamicSettings { allow, protect, .. } = &self.settings;
        if !allow.permits_context(context) {
            return Err(DynamicFault::ForbiddenContext { context: context.to_owned() });
        }
        // A web page can ask for any name, so here nobody can be asked whether it is meant.
        if allow.contexts.is_empty() && protect.iter().any(|pattern| pattern.matches(context)) {
            return Err(DynamicFault::Protected { context: context.to_owned() });
        }
        Ok(())
    }

    /// Without a kubeconfig the forward says best what is wrong.
    fn context_is_there(&self, target: &DynamicTarget) -> Result<(), DynamicFault> {
        let host = |context: String| self.hosts.host(&DynamicTarget { context, ..target.clone() });
        self.known_context(&target.context).map_err(|near| {
            let near = near.into_iter().filter_map(host).collect();
            DynamicFault::Context { context: target.context.clone(), near }
        })
    }

    /// Whether there is this context; else those that could be meant, or, when none resembles it, some that there are.
    /// Without a kubeconfig it is not known.
    fn known_context(&self, context: &str) -> Result<(), Vec<String>> {
        let Ok(kubeconfigs) = self.clusters.kubeconfigs() else { return Ok(()) };
        if kubeconfigs.context_name(Some(context)).is_ok() {
            return Ok(());
        }
        let known = self.contexts();
        let near = near::near_matches(context, known.iter().map(String::as_str), NEAR);
        if near.is_empty() {
            return Err(known.into_iter().take(INSTEAD).collect());
        }
        Err(near.into_iter().map(str::to_owned).collect())
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
        let by = ByHost { targets: Weak::clone(&self.targets), host: host.to_owned(), forward: forward.clone() };
        let connect = Arc::new(by);
        let mut options = UpstreamOptions::new(host, Arc::clone(&connect) as Arc<dyn Connect>, scheme, &self.scope);
        // Services within a cluster have certificates that nobody outside can check; the way there is the API server's.
        options.tls.trust = crate::upstream::UpstreamTrust::Anything;
        options.tls.server_name = in_cluster_name(&target);
        options.own_pages_only = true;
        options.instead = Instead::of(&target.to_target()).or_else(|| {
            let tls = DynamicTarget { scheme: Scheme::Https, ..target.clone() };
            let host = (target.scheme == Scheme::Http).then(|| self.hosts.host_as_typed(&tls, host)).flatten();
            host.map(Instead::Tls)
        });
        // What waits in the pool is a live stream: it must not outlast the idle time that was asked for.
        options.keep = options.keep.min(self.settings.idle_timeout.unwrap_or(options.keep));
        let upstream = Upstream::new(options).expect("a name of Kubernetes is a server name, and no header is set");
        DynamicRoute { host: host.to_owned(), target, forward, connect, upstream, traffic: Arc::default() }
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

fn only_these(namespaces: &str) -> String {
    let noun = if namespaces.contains(',') { "namespaces" } else { "namespace" };
    format!("only the {noun} {namespaces}: the others may not be listed")
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
        // Not the one of whoever runs the tests.
        let nowhere = KubeSettings { kubeconfig: Some("/nonexistent".into()), ..KubeSettings::default() };
        Dynamic::new(settings, &Arc::default(), &Clusters::new(nowhere), scope)
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
        assert!(matches!(allowed.find(&host("web", "prod")), Some(Err(DynamicFault::ForbiddenContext { .. }))));
        let spaces = dynamic(&scope, |settings| settings.allow.namespaces = pattern("shop-*"));
        assert!(matches!(spaces.find(&host("web", "prod")), Some(Err(DynamicFault::Forbidden { .. }))));
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
    async fn what_is_not_allowed_is_not_suggested_for_a_name_that_is_mistyped() {
        let scope = Scope::root();
        let pattern = |text: &str| vec![GlobPattern::parse(text).unwrap()];
        let dynamic = dynamic(&scope, |settings| settings.allow.namespaces = pattern("shop-*"));
        let near = |namespace: &str| {
            let (wrong, near) = dynamic.meant(&format!("web-80.scv.{namespace}.ns.prod.cx.k8s.localhost")).unwrap();
            assert_eq!(wrong, "`scv` is neither `svc` nor `pod`");
            near
        };
        assert_eq!(near("shop-1"), ["web-80.svc.shop-1.ns.prod.cx.k8s.localhost"]);
        assert_eq!(near("default"), [""; 0]);
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
