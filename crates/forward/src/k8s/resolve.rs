//! From what was asked for (a service, a workload, a pod, labels) to pods and ports: a plain function of what the API
//! server has told so far. [`driver`] looks it up and keeps it up to date.

mod choice;
mod driver;
mod mistyped;
mod none;
mod pod;
mod service;

pub(crate) use choice::{Choice, Spread};
pub(crate) use driver::{Resolver, pause};
pub(crate) use none::NoTarget;
pub(crate) use pod::plain;

use std::fmt;

use adit_core::forward::Reason;

use super::api::ApiError;
use super::objects::{EndpointSlice, Pod, Service, Workload, is_tcp};
use super::watch::Trouble;
use pod::PodTrouble;

/// The pods a forward leads to right now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolution {
    /// All pods that belong to the target: ready ones first, then by name.
    pub(crate) candidates: Vec<Candidate>,
    /// Why none of them can serve; `None` when one can.
    pub(crate) none: Option<NoTarget>,
    /// The number of the service's port, when it is a service's that was asked for.
    pub(crate) service_port: Option<u16>,
    /// The ports that the pods declare, when the one that was asked for is none of them. It may be there all the same.
    pub(crate) declared: Vec<String>,
    /// The API server could not be asked for a while; the rest is what it said last.
    pub(crate) trouble: Option<Trouble>,
}

/// A pod and its port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Candidate {
    pub(crate) pod: PodRef,
    pub(crate) port: u16,
    pub(crate) state: PodState,
}

/// A pod's identity. A pod that was replaced under the same name has another `uid`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PodRef {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Whether a pod can serve; the better one is the lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum PodState {
    /// It takes connections.
    Ready,
    /// It is being deleted, but still takes connections.
    Serving,
    /// It takes none.
    NotReady,
}

/// What was asked for, with its namespace settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// For hints only.
    pub(crate) context: Option<String>,
    /// What kubectl needs to be told to ask the same API server, with a space before it; for hints only.
    pub(crate) flags: String,
    pub(crate) namespace: String,
    pub(crate) of: Of,
    pub(crate) port: Port,
}

/// The object that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Service(String),
    Workload(WorkloadKind, String),
    Pod(String),
    Labels(String),
}

/// What starts pods and keeps them running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkloadKind {
    Deployment,
    StatefulSet,
    ReplicaSet,
    Job,
}

/// The port that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Number(u16),
    Name(String),
    /// None: what is wanted is the pod itself. Its candidates have port 0.
    Any,
}

/// What the API server has told so far.
#[derive(Clone, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) service: Look<Option<&'a Service>>,
    pub(crate) slices: Look<Vec<&'a EndpointSlice>>,
    pub(crate) workload: Look<Option<&'a Workload>>,
    pub(crate) pods: Look<Vec<&'a Pod>>,
    /// Whether `pods` is up to date: an older view must not take a pod out that a slice has since put in.
    pub(crate) pods_current: bool,
}

/// What is known of something.
#[derive(Clone, Debug)]
pub(crate) enum Look<T> {
    /// Nothing yet; perhaps because of an error.
    Pending(Option<ApiError>),
    /// It will not be told: no permission, or this server has no such thing.
    Withheld(ApiError),
    /// This.
    Seen(T),
}

impl Resolution {
    /// These candidates, in their order; `none` counts only when none of them can serve.
    pub(crate) fn of(mut candidates: Vec<Candidate>, none: Option<NoTarget>) -> Self {
        candidates.sort_by(|a, b| (a.state, &a.pod).cmp(&(b.state, &b.pod)));
        // Two slices may name one pod: in two address families, or while an endpoint moves between slices.
        let mut seen = std::collections::HashSet::new();
        candidates.retain(|candidate| seen.insert(candidate.pod.clone()));
        let mut resolution = Self { candidates, none: None, service_port: None, declared: Vec::new(), trouble: None };
        resolution.none = none.filter(|_| !resolution.is_usable());
        resolution
    }

    fn nothing(none: NoTarget) -> Self {
        Self::of(Vec::new(), Some(none))
    }

    /// Whether a connection can be sent somewhere.
    pub(crate) fn is_usable(&self) -> bool {
        self.candidates.iter().any(|candidate| candidate.state != PodState::NotReady)
    }

    /// How many pods take connections.
    pub(crate) fn ready_pods(&self) -> usize {
        self.candidates.iter().filter(|candidate| candidate.state == PodState::Ready).count()
    }

    /// What a user who waits wants to read; `None` when there is nothing to wait for.
    pub(crate) fn detail(&self) -> Option<String> {
        self.none.as_ref().map(NoTarget::detail)
    }

    /// The same, and whether it is the API server that is waited for.
    pub(crate) fn waiting(&self) -> Option<Reason> {
        let text = self.detail()?;
        Some(match &self.none {
            Some(NoTarget::Api { error, .. }) => error.reason(text),
            _ => text.into(),
        })
    }

    /// What to do about that.
    pub(crate) fn hint(&self) -> Option<String> {
        self.none.as_ref().and_then(adit_core::diagnose::Diagnose::hint)
    }

    /// Why the API server does not tell, now.
    pub(crate) fn api_trouble(&self) -> Option<&ApiError> {
        match &self.none {
            Some(NoTarget::Api { error, .. }) => Some(error),
            _ => self.trouble.as_ref().map(|trouble| &trouble.error),
        }
    }

    /// Whether nothing that matters differs.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.candidates == other.candidates
            && self.service_port == other.service_port
            && self.declared == other.declared
            && self.trouble.is_some() == other.trouble.is_some()
            // Errors have no equality of their own; their whole text has.
            && format!("{:?}", self.none) == format!("{:?}", other.none)
    }
}

impl PodRef {
    fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        Self { namespace: meta.namespace.clone(), name: meta.name.clone(), uid: meta.uid.clone() }
    }
}

impl Wanted {
    /// The jump form that reaches a host from within a pod.
    fn jump(&self, host: &str, port: &str) -> String {
        let context = self.context.as_deref().unwrap_or_default().replace('%', "%25").replace('/', "%2F");
        format!("jump://{context}/{}/pod/POD/{}:{port}", self.namespace, plain(host))
    }

    /// Where kubectl has to look.
    fn place(&self) -> String {
        format!("-n {}{}", self.namespace, self.flags)
    }

    fn what(&self) -> String {
        self.of.to_string()
    }
}

impl WorkloadKind {
    /// The kind in one word, as kubectl writes it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::StatefulSet => "statefulset",
            Self::ReplicaSet => "replicaset",
            Self::Job => "job",
        }
    }

    /// The resource with its group, as the API server writes it in errors.
    pub(crate) const fn resource(self) -> &'static str {
        match self {
            Self::Deployment => "deployments.apps",
            Self::StatefulSet => "statefulsets.apps",
            Self::ReplicaSet => "replicasets.apps",
            Self::Job => "jobs.batch",
        }
    }
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "service {name}"),
            Self::Workload(kind, name) => write!(f, "{} {name}", kind.word()),
            Self::Pod(name) => write!(f, "pod {name}"),
            Self::Labels(labels) => write!(f, "selector {labels}"),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Any => f.write_str("any"),
        }
    }
}

impl<T> Look<T> {
    /// What was seen, or why it was not.
    fn or_none(&self, what: &str) -> Result<&T, NoTarget> {
        match self {
            Self::Seen(seen) => Ok(seen),
            Self::Pending(None) => Err(NoTarget::Unknown { what: what.to_owned() }),
            Self::Pending(Some(error)) | Self::Withheld(error) => {
                Err(NoTarget::Api { what: what.to_owned(), error: error.clone() })
            }
        }
    }
}

/// The pods and ports for what is wanted, as far as it can be told from what was seen.
pub(crate) fn resolve(wanted: &Wanted, seen: &Seen<'_>) -> Resolution {
    let resolved = match &wanted.of {
        Of::Service(name) => service::resolve(wanted, name, seen),
        Of::Workload(kind, name) => of_workload(wanted, *kind, name, seen),
        Of::Pod(name) => of_pod(wanted, name, seen),
        Of::Labels(labels) => of_pods(wanted, labels, seen),
    };
    resolved.unwrap_or_else(Resolution::nothing)
}

fn of_workload(wanted: &Wanted, kind: WorkloadKind, name: &str, seen: &Seen<'_>) -> Result<Resolution, NoTarget> {
    let Some(workload) = seen.workload.or_none(&wanted.what())? else {
        return Err(wanted.not_found(kind.resource(), name));
    };
    let Some(selector) = workload.spec.selector.to_query() else {
        return Err(wanted.no_pods(String::new()));
    };
    let (what, place) = (wanted.what(), wanted.place());
    let zero = |how, command| Err(NoTarget::Zero { what, how, command });
    match &seen.pods {
        Look::Seen(pods) if !pods.is_empty() => of_pods(wanted, &selector, seen),
        _ if workload.spec.replicas == Some(0) => {
            zero("scaled to zero", format!("kubectl scale {} {name} {place} --replicas=1", kind.word()))
        }
        _ if workload.spec.suspend => {
            zero("suspended", format!("kubectl patch job {name} {place} -p '{{\"spec\":{{\"suspend\":false}}}}'"))
        }
        _ => of_pods(wanted, &selector, seen),
    }
}

fn of_pod(wanted: &Wanted, name: &str, seen: &Seen<'_>) -> Result<Resolution, NoTarget> {
    let pods = seen.pods.or_none(&wanted.what())?;
    let Some(pod) = pods.iter().find(|pod| pod.metadata.name == name) else {
        return Err(wanted.not_found("pods", name));
    };
    let candidate =
        Candidate { pod: PodRef::of(pod), port: pod_port(pod, &wanted.port)?, state: pod::state_by_name(pod) };
    let none = NoTarget::NotRunning { pod: Box::new(PodTrouble::of(pod)), place: wanted.place() };
    Ok(Resolution { declared: declared(&wanted.port, &[pod]), ..Resolution::of(vec![candidate], Some(none)) })
}

fn of_pods(wanted: &Wanted, selector: &str, seen: &Seen<'_>) -> Result<Resolution, NoTarget> {
    let pods = seen.pods.or_none(&format!("pods of {}", wanted.what()))?;
    if pods.is_empty() {
        return Err(wanted.no_pods(selector.to_owned()));
    }
    let mut candidates = Vec::new();
    let mut no_port = None;
    for pod in pods {
        match pod_port(pod, &wanted.port) {
            Ok(port) => candidates.push(Candidate { pod: PodRef::of(pod), port, state: pod::state(pod) }),
            Err(error) => no_port = no_port.or(Some(error)),
        }
    }
    match no_port {
        Some(error) if candidates.is_empty() => Err(error),
        _ => {
            let declared = declared(&wanted.port, pods);
            Ok(Resolution { declared, ..Resolution::of(candidates, Some(wanted.none_ready(pods))) })
        }
    }
}

impl Wanted {
    fn not_found(&self, resource: &'static str, name: &str) -> NoTarget {
        NoTarget::NotFound { resource, name: name.to_owned(), place: self.place() }
    }

    fn no_pods(&self, selector: String) -> NoTarget {
        let aside = matches!(self.of, Of::Labels(_)).then(|| "is it mistyped?".to_owned());
        NoTarget::NoPods { what: self.what(), selector, place: self.place(), aside }
    }

    /// Why none of the pods is ready: those that have ended are told of only when there is no other.
    fn none_ready(&self, pods: &[&Pod]) -> NoTarget {
        let waiting = pods.iter().filter(|pod| pod::state(pod) == PodState::NotReady);
        let (ended, mut living): (Vec<_>, Vec<_>) =
            waiting.map(|pod| PodTrouble::of(pod)).partition(|trouble| trouble.why.is_final());
        if living.is_empty() {
            living = ended;
        }
        living.sort_by(|a, b| a.pod.cmp(&b.pod));
        NoTarget::NoneReady { what: self.what(), pods: living, place: self.place() }
    }
}

/// The number of a port that was asked of a pod itself.
fn pod_port(pod: &Pod, port: &Port) -> Result<u16, NoTarget> {
    match port {
        Port::Any => Ok(0),
        Port::Number(number) => {
            let mut declared = pod.ports().filter(|port| port.container_port == *number).peekable();
            let other = declared.peek().and_then(|port| port.protocol.clone());
            if other.is_some() && declared.all(|port| !is_tcp(port.protocol.as_deref())) {
                return Err(NoTarget::Protocol { protocol: other.unwrap_or_default(), port: number.to_string() });
            }
            Ok(*number)
        }
        Port::Name(name) => pod.named_port(name).ok_or_else(|| {
            let named = |port: &&super::objects::ContainerPort| port.name.as_deref() == Some(name);
            match pod.ports().find(named).and_then(|port| port.protocol.clone()) {
                Some(protocol) => NoTarget::Protocol { protocol, port: name.clone() },
                None => no_pod_port(pod, name),
            }
        }),
    }
}

/// The ports that pods declare when none of them declares this one; nothing when they declare none at all, as they may.
fn declared(port: &Port, pods: &[&Pod]) -> Vec<String> {
    let Port::Number(wanted) = port else { return Vec::new() };
    let tcp = |port: &&super::objects::ContainerPort| is_tcp(port.protocol.as_deref());
    let ports: Vec<_> = pods.iter().flat_map(|pod| pod.ports()).filter(tcp).collect();
    if ports.iter().any(|port| port.container_port == *wanted) {
        return Vec::new();
    }
    let mut written: Vec<String> = Vec::new();
    for port in ports {
        let text = match port.name.as_deref() {
            Some(name) if !name.is_empty() => format!("{} ({})", port.container_port, plain(name)),
            _ => port.container_port.to_string(),
        };
        if !written.contains(&text) {
            written.push(text);
        }
    }
    written
}

/// The error for a named port that a pod does not have.
fn no_pod_port(pod: &Pod, port: &str) -> NoTarget {
    let has = pod.ports().filter(|port| is_tcp(port.protocol.as_deref()));
    let has = has.filter_map(|port| Some(format!("{} ({})", plain(port.name.as_deref()?), port.container_port)));
    NoTarget::PodPort { pod: pod.metadata.name.clone(), port: plain(port), has: has.collect() }
}

#[cfg(test)]
mod cases;
#[cfg(test)]
mod tests;
