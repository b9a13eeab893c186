//! The routes in force, as HTTP and TLS look them up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use adit_core::config::gateway::GatewayTls;
use adit_core::diagnose::Diagnose as _;
use adit_core::dynamic_host::Scheme as DynamicScheme;
use adit_core::forward::ForwardState;
use adit_core::name::Hostname;
use adit_core::target::Target;
use arc_swap::{ArcSwap, ArcSwapOption};
use forward::ForwardReport;
use runtime::connect::{Connect, MissingPart};

use crate::dynamic::{Dynamic, DynamicFault};
use crate::failures::{LastError, later};
use crate::http::{
    DynamicForm, ForwardEntry, Found, Listing, Lookup, RouteEntry, ServiceListing, ServicesAsked, State, is_local_name,
};
use crate::table::{Route, Table};
use crate::targets::Targets;
use crate::traffic::Traffic;
use crate::upstream::Upstream;

mod lists;

use lists::Lists;

/// How many near matches are told.
const NEAR: usize = 3;

/// Whoever asks for a name gets what the table in force says.
#[derive(Debug)]
pub struct Routes {
    table: ArcSwap<Table>,
    targets: Arc<Targets>,
    /// The local addresses of forwards, by name.
    ports: ArcSwap<Vec<(String, SocketAddr)>>,
    /// What these have carried.
    traffic: ArcSwap<Vec<(String, Arc<Traffic>)>>,
    lists: Arc<Lists>,
    /// Why a later version of the configuration is not in force.
    refused: ArcSwapOption<String>,
}

/// What a TLS connection for a name is for.
pub(crate) enum TlsFound {
    /// It is handed on, and counted here; the last is for requests by HTTP to the same target.
    Pass(Arc<dyn Connect>, Arc<Traffic>, Arc<Upstream>),
    /// It ends here, then its requests are looked up.
    Terminate,
    /// It ends here, too, and gets this answer, whatever it asks for.
    Answer(Found),
}

impl Routes {
    /// No routes yet.
    #[must_use]
    pub fn new(targets: &Arc<Targets>) -> Arc<Self> {
        Arc::new(Self {
            table: ArcSwap::from_pointee(Table::empty()),
            targets: Arc::clone(targets),
            ports: ArcSwap::default(),
            traffic: ArcSwap::default(),
            lists: Arc::default(),
            refused: ArcSwapOption::empty(),
        })
    }

    /// Why a later version of the configuration is not in force, for the index; `None` once one is.
    pub fn set_refused(&self, reason: Option<String>) {
        self.refused.store(reason.map(Arc::new));
    }

    /// The table in force.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Puts another table in force; the earlier one is returned, to be retired.
    pub fn replace(&self, table: Arc<Table>) -> Arc<Table> {
        self.targets.set_dynamic(table.dynamic().cloned());
        self.table.swap(table)
    }

    /// Tells where forwards listen, for the index.
    pub fn set_ports(&self, ports: Vec<(String, SocketAddr)>, traffic: Vec<(String, Arc<Traffic>)>) {
        self.ports.store(Arc::new(ports));
        self.traffic.store(Arc::new(traffic));
    }

    /// What a TLS connection for a name at this port is for.
    pub(crate) fn tls(&self, name: &Hostname, port: u16) -> TlsFound {
        let table = self.table.load();
        let host = name.as_str();
        // The path is within: whoever is let through unread would be at another route than the path's.
        if table.has_paths(host) || is_local(host) {
            return TlsFound::Terminate;
        }
        if let Some(route) = table.find(host, None) {
            if route.config.terminate {
                return TlsFound::Terminate;
            }
            if !route.config.passes_tls() {
                return TlsFound::Answer(plain_only(host, port));
            }
            let connect = self.targets.connect(&route.config.to);
            return TlsFound::Pass(connect, Arc::clone(&route.traffic), Arc::clone(&route.upstream));
        }
        // The index is there, too.
        if table.dynamic().is_some_and(|dynamic| dynamic.hosts().suffix() == name) {
            return TlsFound::Terminate;
        }
        match table.dynamic().and_then(|dynamic| dynamic.find(host)) {
            Some(Ok(_)) if table.tls() == GatewayTls::Local => TlsFound::Terminate,
            Some(Ok(route)) => {
                let connect = Arc::clone(&route.connect) as Arc<dyn Connect>;
                TlsFound::Pass(connect, Arc::clone(&route.traffic), Arc::clone(&route.upstream))
            }
            Some(Err(fault)) => TlsFound::Answer(nowhere(&table, host, &fault)),
            None => TlsFound::Answer(unknown(&table, host)),
        }
    }
}

impl Routes {
    /// Whether a host is nobody's route, and means what it says itself.
    pub(crate) fn is_dynamic(&self, host: &str) -> bool {
        let table = self.table.load();
        table.find(host, None).is_none() && table.dynamic().is_some_and(|dynamic| dynamic.hosts().parse(host).is_some())
    }
}

impl Lookup for Routes {
    fn find(&self, host: &str, path: &str) -> Found {
        let table = self.table.load();
        if let Some(route) = table.find(host, Some(path)) {
            return Found::Upstream(Arc::clone(&route.upstream));
        }
        if is_local(host) {
            return Found::Index;
        }
        if table.has_paths(host) {
            return no_path(&table, host, path);
        }
        if table.dynamic().is_some_and(|dynamic| dynamic.suffix().as_str() == host && is_local_name(host)) {
            return Found::Index;
        }
        match table.dynamic().and_then(|dynamic| dynamic.find(host)) {
            Some(Ok(route)) => Found::Upstream(Arc::clone(&route.upstream)),
            Some(Err(fault)) => nowhere(&table, host, &fault),
            None => unknown(&table, host),
        }
    }

    fn mistyped(&self, host: &str) -> Option<Found> {
        meant(&self.table.load(), host)
    }

    fn listing(&self) -> Listing {
        let table = self.table.load();
        let mut routes: Vec<RouteEntry> = table
            .routes()
            .iter()
            .map(|route| {
                let report = route.forward.as_ref().map(forward::Forward::report);
                let (state, detail) = report.as_ref().map_or_else(|| (state_of_plain(route), None), state_of);
                let last_error = last_of(&route.upstream, &route.traffic);
                RouteEntry {
                    host: route.config.host.to_string(),
                    path: route.config.path.as_ref().map(ToString::to_string),
                    target: route.config.to.to_string(),
                    state: state.as_tried(last_error.as_ref()),
                    detail,
                    last_error,
                    tls: route.config.terminate || route.config.passes_tls(),
                    https: route.config.is_for_https() || route.config.terminate,
                }
            })
            .collect();
        let local = table.tls() == GatewayTls::Local;
        let known = table.dynamic().map(|dynamic| dynamic.known()).unwrap_or_default();
        // Whatever was never reached may be a slip of the pen.
        let known = known.into_iter().filter(|(_, report)| report.took.is_some());
        routes.extend(known.map(|(route, report)| {
            let (state, detail) = state_of(&report);
            let last_error = last_of(&route.upstream, &route.traffic);
            RouteEntry {
                host: route.host.clone(),
                path: None,
                target: report.target.clone(),
                state: state.as_tried(last_error.as_ref()),
                detail,
                last_error,
                tls: local || route.target.scheme == DynamicScheme::Https,
                https: local,
            }
        }));
        let dynamic = table.dynamic().map(|dynamic| form(dynamic, local));
        Listing { routes, forwards: self.forwards(), dynamic, refused: self.refused.load().as_deref().cloned() }
    }

    fn services(&self, context: &str) -> Option<ServicesAsked> {
        let table = self.table.load();
        let (dynamic, context) = (Arc::clone(table.dynamic()?), context.to_owned());
        let tls = table.tls() == GatewayTls::Local;
        let lists = Arc::clone(&self.lists);
        Some(Box::pin(async move {
            let asking = Box::pin(dynamic.services(&context));
            lists.get(&dynamic, &context, asking).await.map(|list| ServiceListing { tls, ..list })
        }))
    }

    fn context_of(&self, host: &str) -> Option<String> {
        let table = self.table.load();
        let dynamic = table.dynamic()?;
        let context = match table.find(host, None).map(|route| &route.config.to) {
            Some(Target::Kubernetes(target)) => target.context.clone()?,
            Some(_) => return None,
            None => dynamic.hosts().parse(host)?.ok()?.context,
        };
        dynamic.contexts().contains(&context).then_some(context)
    }

    fn near(&self, host: &str, part: MissingPart, instead: &[String]) -> Vec<String> {
        let table = self.table.load();
        table.dynamic().map(|dynamic| dynamic.near(host, part, instead)).unwrap_or_default()
    }

    fn is_ours(&self, host: &str) -> bool {
        let table = self.table.load();
        table.find(host, None).is_some() || table.has_paths(host)
    }

    fn is_served(&self, host: &str) -> bool {
        let table = self.table.load();
        let means = || table.dynamic().and_then(|dynamic| dynamic.hosts().parse(host));
        self.is_ours(host) || matches!(means(), Some(Ok(_)))
    }
}

impl Routes {
    fn forwards(&self) -> Vec<ForwardEntry> {
        let (ports, traffic) = (self.ports.load(), self.traffic.load());
        let forwards = self.targets.forwards();
        forwards
            .iter()
            // Those that only have their URL for a name are seen at the entrances that lead to them.
            .filter(|(spec, _)| !spec.name.contains("://"))
            .map(|(spec, forward)| {
                let report = forward.report();
                let (state, detail) = state_of(&report);
                let own = ports.iter().filter(|(name, _)| *name == spec.name).map(|(_, address)| *address);
                let traffic = traffic.iter().find(|(name, _)| *name == spec.name);
                let last_error = traffic.and_then(|(_, traffic)| traffic.last_error());
                let state = state.as_tried(last_error.as_ref());
                let (name, target, listen) = (spec.name.clone(), report.target, own.collect());
                ForwardEntry { name, target, state, detail, last_error, listen }
            })
            .collect()
    }
}

/// The host has routes, and none of them is for the path. What the name would else mean must not take their place.
fn no_path(table: &Table, host: &str, path: &str) -> Found {
    if table.is_ambiguous(host, path) {
        return Found::Refused {
            reason: "the path may be read in two ways that lead to different routes".into(),
            hint: Some("write it without `..`, `;`, double slashes, backslashes and escaped slashes".into()),
        };
    }
    // No URLs: the port is not known here.
    let paths: Vec<String> = table.paths(host).take(NEAR).map(|path| format!("{host}{path}")).collect();
    let reason = format!("none of its routes is for this path; there are {}", paths.join(", "));
    Found::Unknown { near: Vec::new(), reason: Some(reason), hint: None }
}

/// A name that always means this machine (RFC 6761 section 6.3).
fn is_local(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "::1" | "[::1]")
}

/// What went wrong last at a host, by whatever way.
fn last_of(upstream: &Upstream, traffic: &Traffic) -> Option<LastError> {
    later(upstream.counters().failures().last(), traffic.last_error())
}

/// A plain address has no state but what was seen of it.
pub(crate) fn state_of_plain(route: &Route) -> State {
    let asked = route.upstream.counters().requests.load(Ordering::Relaxed) + route.traffic.opened();
    if asked == 0 { State::Unchecked } else { State::Ready }
}

pub(crate) fn state_of(report: &ForwardReport) -> (State, Option<String>) {
    let pod = || report.pod.as_ref().map(|pod| format!("pod {pod}"));
    let why = || report.waiting_for.clone().or_else(|| report.status.reason.as_deref().map(str::to_owned));
    match report.status.state {
        ForwardState::Idle | ForwardState::Draining => (State::Idle, None),
        ForwardState::Resolving | ForwardState::Connecting => (State::Starting, why()),
        // What was there before was ready, too, and did not answer.
        ForwardState::Ready if report.is_doubted() => (State::Starting, why()),
        ForwardState::Ready => (State::Ready, pod()),
        ForwardState::Backoff | ForwardState::Failed => (State::Failed, why()),
    }
}

/// A host under the suffix that leads nowhere.
fn nowhere(table: &Table, host: &str, fault: &DynamicFault) -> Found {
    let meant = if matches!(fault, DynamicFault::Name(_)) { meant(table, host) } else { None };
    meant.unwrap_or_else(|| refused(fault))
}

/// What a host was meant to be that is nearly a dynamic one.
fn meant(table: &Table, host: &str) -> Option<Found> {
    let dynamic = table.dynamic()?;
    let (wrong, near) = dynamic.meant(host)?;
    let under = |suffix: &str| host.strip_suffix(suffix).is_some_and(|front| front.ends_with('.'));
    // What is wrong says how it should end: a stranger's name that was made to point here must not learn that (S14).
    let reason = (is_local_name(host) || under(dynamic.suffix().as_str())).then_some(wrong);
    Some(Found::Unknown { near, reason, hint: None })
}

fn unknown(table: &Table, host: &str) -> Found {
    if let Some(meant) = meant(table, host) {
        return meant;
    }
    let near = table.near(host, NEAR).into_iter().filter(|near| near != host).collect();
    let Some((suffix, (service, namespace))) = table.dynamic().map(|dynamic| dynamic.suffix()).zip(in_cluster(host))
    else {
        return Found::Unknown { near, reason: None, hint: None };
    };
    Found::Unknown {
        near,
        reason: Some("it is a name of a cluster's own DNS, which says neither port nor context".into()),
        hint: Some(format!("write {service}-PORT.svc.{namespace}.ns.CONTEXT.cx.{suffix}")),
    }
}

/// Service and namespace of `web.default.svc.cluster.local`, which is how pods call it.
fn in_cluster(host: &str) -> Option<(&str, &str)> {
    let host = host.strip_suffix(".cluster.local").unwrap_or(host);
    let (service, namespace) = host.strip_suffix(".svc")?.split_once('.')?;
    (!namespace.contains('.') && !service.is_empty()).then_some((service, namespace))
}

pub(crate) fn refused(fault: &DynamicFault) -> Found {
    match fault {
        DynamicFault::Name(error) => {
            Found::Unknown { near: Vec::new(), reason: Some(error.to_string()), hint: error.hint() }
        }
        DynamicFault::Context { near, .. } => {
            // What is near says what there is, so it is not for everybody; the page asks whether it was meant.
            let hint = near.is_empty().then(|| "`kubectl config get-contexts` lists what there is".to_owned());
            Found::Unknown { near: near.clone(), reason: Some(fault.to_string()), hint }
        }
        DynamicFault::Forbidden { .. } | DynamicFault::ForbiddenContext { .. } => Found::Refused {
            reason: fault.to_string(),
            hint: Some("add it to gateway.allow in adit.yaml, if it is meant".into()),
        },
        DynamicFault::Protected { .. } => Found::Refused {
            reason: fault.to_string(),
            hint: Some("name it in gateway.allow.contexts in adit.yaml, if it is meant".into()),
        },
    }
}

fn plain_only(host: &str, port: u16) -> Found {
    let port = if port == 80 { String::new() } else { format!(":{port}") };
    Found::Failed {
        reason: "this route leads to a service without TLS, and the gateway passes TLS through as it is".into(),
        hint: Some(format!(
            "open http://{host}{port} instead, or write `tls: terminate` into the route, or `gateway.tls: local` into adit.yaml, \
             to have TLS end here"
        )),
    }
}

fn form(dynamic: &Dynamic, tls: bool) -> DynamicForm {
    let suffix = dynamic.suffix();
    let form = |kind: &str, name: &str| format!("{{{name}}}-{{port}}.{kind}.{{namespace}}.ns.{{context}}.cx.{suffix}");
    DynamicForm {
        forms: vec![form("svc", "service"), form("pod", "pod")],
        example: dynamic.example(),
        contexts: dynamic.contexts(),
        missing: dynamic.missing(),
        tls,
    }
}

#[cfg(test)]
mod tests {
    use adit_core::config::AgentFile;
    use forward::{Clusters, ForwardSet, KubeSettings};
    use runtime::scope::Scope;

    use super::*;
    use crate::table::TableParts;

    fn routes(gateway: &str) -> Arc<Routes> {
        let file = AgentFile::parse("adit.yaml", &format!("gateway:\n{gateway}"), &|_| None).unwrap();
        let (targets, clusters, scope) = (Arc::default(), Clusters::new(KubeSettings::default()), Scope::root());
        let forwards = ForwardSet::default();
        let parts =
            TableParts { targets: &targets, forwards: &forwards, clusters: &clusters, protect: &[], scope: &scope };
        let table = Table::empty().next(file.gateway.as_ref().unwrap(), parts).unwrap();
        let routes = Routes::new(&targets);
        routes.replace(Arc::new(table));
        routes
    }

    fn tls(routes: &Routes, host: &str) -> &'static str {
        match routes.tls(&Hostname::parse(host).unwrap(), 8989) {
            TlsFound::Pass(..) => "pass",
            TlsFound::Terminate => "terminate",
            TlsFound::Answer(_) => "answer",
        }
    }

    #[tokio::test]
    async fn tls_is_handed_on_only_where_nothing_within_it_is_asked_for() {
        let routes = routes(
            "  routes:
    plain.localhost: { to: 'http://127.0.0.1:1' }
    tls.localhost: { to: 'https://127.0.0.1:1' }
    auth.localhost: { to: 'https://127.0.0.1:1', basic_auth: { user: u, password: p } }
    edits.localhost: { to: 'https://127.0.0.1:1', headers: { remove: [cookie] } }
    host.localhost: { to: 'https://127.0.0.1:1', host_header: x.internal }
    ended.localhost: { to: 'https://127.0.0.1:1', tls: terminate }
    pipe.localhost: { to: 'tcp://127.0.0.1:1' }
    authpipe.localhost: { to: 'tcp://127.0.0.1:1', basic_auth: { user: u, password: p } }\n",
        );
        for (host, way) in [
            ("tls.localhost", "pass"),
            ("plain.localhost", "answer"),
            ("auth.localhost", "terminate"),
            ("edits.localhost", "terminate"),
            ("host.localhost", "terminate"),
            ("ended.localhost", "terminate"),
            ("pipe.localhost", "pass"),
            ("authpipe.localhost", "terminate"),
            ("unknown.localhost", "answer"),
            ("localhost", "terminate"),
            ("k8s.localhost", "terminate"),
        ] {
            assert_eq!(tls(&routes, host), way, "{host}");
        }
    }

    #[tokio::test]
    async fn a_host_with_paths_is_never_handed_on_by_a_route_for_all_of_it() {
        let routes = routes(
            "  routes:
    '*.w.localhost': { to: 'https://127.0.0.1:1' }
    x.w.localhost/admin: { to: 'https://127.0.0.1:2', basic_auth: { user: u, password: p } }
    both.localhost: { to: 'https://127.0.0.1:1' }
    both.localhost/api: { to: 'https://127.0.0.1:2' }\n",
        );
        assert_eq!(tls(&routes, "x.w.localhost"), "terminate");
        assert_eq!(tls(&routes, "both.localhost"), "terminate");
        assert_eq!(tls(&routes, "y.w.localhost"), "pass");
    }

    #[tokio::test]
    async fn a_page_of_a_service_may_be_at_hosts_with_routes_and_dynamic_ones() {
        let routes = routes("  routes:\n    x.localhost/admin: { to: 'http://127.0.0.1:1' }\n");
        let dynamic = "web-80.svc.default.ns.prod.cx.k8s.localhost";
        for (host, is) in [("x.localhost", true), (dynamic, true), ("web.k8s.localhost", false), ("y.localhost", false)]
        {
            assert_eq!(routes.is_served(host), is, "{host}");
        }
    }

    #[tokio::test]
    async fn a_strangers_name_is_not_told_how_ours_end() {
        let routes = routes("  dynamic_host: k8s.corp.internal\n");
        let reason = |found: Option<Found>| match found {
            Some(Found::Unknown { reason, .. }) => reason,
            _ => panic!("it is unknown"),
        };
        for host in ["x-80.svc.a.ns.b.cx.evil.com", "x-80.svc.a.ns.b.cx.k8s.corp.internal.evil.com"] {
            assert_eq!(reason(Some(routes.find(host, "/"))), None, "{host}");
        }
        // A name that is not legal can be looked up, too.
        assert_eq!(reason(routes.mistyped("x_80.svc.a.ns.b.cx.evil.com")), None);
        let told = |host: &str| reason(Some(routes.find(host, "/"))).unwrap();
        assert_eq!(told("x-80.svc.a.ns.b.cx.k8s.localhost"), "it ends in `k8s.localhost`, not in `k8s.corp.internal`");
        assert_eq!(told("x-80.scv.a.ns.b.cx.k8s.corp.internal"), "`scv` is neither `svc` nor `pod`");
    }

    #[tokio::test]
    async fn a_path_without_a_route_does_not_fall_through_to_what_the_name_would_else_mean() {
        let host = "web-80.svc.default.ns.prod.cx.k8s.localhost";
        let routes = routes(&format!("  routes:\n    {host}/admin: {{ to: 'http://127.0.0.1:1' }}\n"));
        assert!(matches!(routes.find(host, "/admin/x"), Found::Upstream(_)));
        assert!(matches!(routes.find(host, "/x/../admin"), Found::Refused { .. }));
        let Found::Unknown { near, reason, .. } = routes.find(host, "/other") else { panic!("it has no route") };
        assert_eq!(near, [""; 0]);
        assert!(reason.unwrap().contains("/admin"));
    }
}
