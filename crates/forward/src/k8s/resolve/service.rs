//! The way of a service: its port, the slices of its endpoints, their pods. Where slices may not be read, its selector.

use super::pod::{self, plain};
use super::{Candidate, Look, NoTarget, PodRef, PodState, Port, Resolution, Seen, Wanted, no_pod_port};
use crate::k8s::objects::{Endpoint, EndpointSlice, Pod, Service, ServicePort, TargetPort, is_tcp, labels_query};

/// Addresses of a service without pods that are told.
const TOLD: usize = 3;

pub(super) fn resolve(wanted: &Wanted, name: &str, seen: &Seen<'_>) -> Result<Resolution, NoTarget> {
    let Some(service) = seen.service.or_none(&wanted.what())? else {
        return Err(wanted.not_found("services", name));
    };
    if service.spec.kind.as_deref() == Some("ExternalName") {
        return Err(external_name(wanted, service));
    }
    let port = WayIn::of(service, &wanted.port)?;
    let resolution = match &seen.slices {
        Look::Withheld(_) if !service.spec.selector.is_empty() => from_pods(wanted, service, port, seen)?,
        slices => {
            let slices = slices.or_none(&format!("endpoints of {}", wanted.what()))?;
            from_slices(wanted, service, port, slices, seen)
        }
    };
    let service_port = match port {
        WayIn::Service(port) => Some(port.port),
        WayIn::Direct(_) => None,
    };
    Ok(Resolution { service_port, ..resolution })
}

/// How the port that was asked for leads into a pod.
#[derive(Clone, Copy, Debug)]
enum WayIn<'a> {
    /// Through this port of the service.
    Service(&'a ServicePort),
    /// As it is.
    Direct(u16),
}

impl<'a> WayIn<'a> {
    fn of(service: &'a Service, port: &Port) -> Result<Self, NoTarget> {
        let fits = |have: &&ServicePort| match port {
            Port::Number(number) => have.port == *number,
            Port::Name(name) => have.name.as_deref() == Some(name),
            Port::Any => false,
        };
        if *port == Port::Any {
            return Ok(Self::Direct(0));
        }
        let mut other = None;
        for found in service.spec.ports.iter().filter(fits) {
            if is_tcp(found.protocol.as_deref()) {
                return Ok(Self::Service(found));
            }
            other = other.or_else(|| found.protocol.clone());
        }
        match (other, port) {
            (Some(protocol), port) => Err(NoTarget::Protocol { protocol: plain(&protocol), port: port.to_string() }),
            // A headless service leads to any port of its pods: it has no address on which a port would be translated.
            (None, Port::Number(number)) if service.is_headless() => Ok(Self::Direct(*number)),
            (None, port) => Err(NoTarget::ServicePort {
                service: service.metadata.name.clone(),
                port: port.to_string(),
                has: service.spec.ports.iter().map(written).collect(),
            }),
        }
    }

    /// The pod's port, as a slice says it.
    fn in_slice(self, slice: &EndpointSlice) -> Option<u16> {
        match self {
            Self::Direct(number) => Some(number),
            Self::Service(port) => {
                let name = |name: &Option<String>| name.clone().unwrap_or_default();
                let same = slice
                    .ports
                    .iter()
                    .find(|have| name(&have.name) == name(&port.name) && is_tcp(have.protocol.as_deref()));
                // A slice's port without a number stands for every port.
                same.and_then(|found| found.port.or_else(|| self.in_service()))
            }
        }
    }

    /// The pod's port, as a pod says it.
    fn in_pod(self, pod: &Pod) -> Option<u16> {
        match self {
            Self::Service(ServicePort { target_port: Some(TargetPort::Name(name)), .. }) => pod.named_port(name),
            _ => self.in_service(),
        }
    }

    /// The pod's port, where no pod is needed to tell it.
    fn in_service(self) -> Option<u16> {
        match self {
            Self::Direct(number) => Some(number),
            Self::Service(port) => match &port.target_port {
                Some(TargetPort::Number(number)) if *number != 0 => Some(*number),
                Some(TargetPort::Name(name)) if !name.is_empty() => None,
                _ => Some(port.port),
            },
        }
    }

    /// The name by which the pods are asked for their port.
    fn name(self) -> Option<&'a str> {
        match self {
            Self::Service(ServicePort { target_port: Some(TargetPort::Name(name)), .. }) => Some(name),
            _ => None,
        }
    }
}

fn from_slices(
    wanted: &Wanted,
    service: &Service,
    port: WayIn<'_>,
    slices: &[&EndpointSlice],
    seen: &Seen<'_>,
) -> Resolution {
    let mut candidates = Vec::new();
    let mut addresses = Vec::new();
    let mut without_port = None;
    for slice in slices {
        let number = port.in_slice(slice);
        for endpoint in &slice.endpoints {
            let Some(pod) = pod_of(wanted, endpoint) else {
                addresses.extend(endpoint.addresses.iter().map(|address| plain(address)));
                continue;
            };
            let Some(number) = number else {
                without_port = without_port.or(Some(pod));
                continue;
            };
            candidates.extend(judged(service, endpoint, pod, number, seen));
        }
    }
    let usable = candidates.iter().any(|candidate| candidate.state != PodState::NotReady);
    let none = (!usable).then(|| match (without_port, port.name()) {
        (Some(pod), Some(name)) if candidates.is_empty() => missing_in(&pod, name, seen),
        _ if service.spec.selector.is_empty() && candidates.is_empty() => no_selector(wanted, service, addresses, port),
        _ => none_ready(wanted, service, !candidates.is_empty(), seen),
    });
    Resolution::of(candidates, none)
}

fn pod_of(wanted: &Wanted, endpoint: &Endpoint) -> Option<PodRef> {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod" && !target.name.is_empty())?;
    let namespace = if target.namespace.is_empty() { &wanted.namespace } else { &target.namespace };
    // An API server reaches into the namespace it is asked for: a reference to another one is not the service's own.
    (*namespace == wanted.namespace).then(|| PodRef {
        namespace: namespace.clone(),
        name: target.name.clone(),
        uid: target.uid.clone(),
    })
}

/// The endpoint as a candidate. What the pod says of itself is newer than what its slice says.
fn judged(service: &Service, endpoint: &Endpoint, mut pod: PodRef, port: u16, seen: &Seen<'_>) -> Option<Candidate> {
    let mut state = endpoint_state(endpoint);
    // Without a selector, the pods that were looked up are not those of the service.
    if let (Look::Seen(pods), false) = (&seen.pods, service.spec.selector.is_empty()) {
        let known = pods.iter().find(|known| known.metadata.name == pod.name);
        let known = known.filter(|known| pod.uid.is_empty() || known.metadata.uid == pod.uid);
        match known {
            Some(known) => {
                pod.uid.clone_from(&known.metadata.uid);
                state = state.max(own_state(service, known, seen.pods_current));
            }
            // It is gone already, or another one has taken its name.
            None if seen.pods_current => return None,
            None => {}
        }
    }
    Some(Candidate { pod, port, state })
}

fn endpoint_state(endpoint: &Endpoint) -> PodState {
    let conditions = endpoint.conditions;
    let ready = conditions.ready.unwrap_or(true);
    match (conditions.terminating.unwrap_or(false), conditions.serving.unwrap_or(ready)) {
        (false, _) if ready => PodState::Ready,
        (true, true) => PodState::Serving,
        _ => PodState::NotReady,
    }
}

/// The best that a pod can be, by its own word.
fn own_state(service: &Service, pod: &Pod, current: bool) -> PodState {
    if current && !service.spec.publish_not_ready_addresses {
        return pod::state(pod);
    }
    // That a pod is being deleted stays true however old the news is.
    if pod.is_terminating() { PodState::Serving } else { PodState::Ready }
}

fn from_pods(wanted: &Wanted, service: &Service, port: WayIn<'_>, seen: &Seen<'_>) -> Result<Resolution, NoTarget> {
    let pods = seen.pods.or_none(&format!("pods of {}", wanted.what()))?;
    let state = if service.spec.publish_not_ready_addresses { pod::state_by_name } else { pod::state };
    let mut candidates = Vec::new();
    let mut without_port = None;
    for pod in pods {
        match port.in_pod(pod) {
            Some(port) => candidates.push(Candidate { pod: PodRef::of(pod), port, state: state(pod) }),
            None => without_port = without_port.or(Some(PodRef::of(pod))),
        }
    }
    match (without_port, port.name()) {
        (Some(pod), Some(name)) if candidates.is_empty() => Err(missing_in(&pod, name, seen)),
        _ => {
            let none = none_ready(wanted, service, !candidates.is_empty(), seen);
            Ok(Resolution::of(candidates, Some(none)))
        }
    }
}

fn none_ready(wanted: &Wanted, service: &Service, endpoints: bool, seen: &Seen<'_>) -> NoTarget {
    match &seen.pods {
        Look::Seen(pods) if !pods.is_empty() => wanted.none_ready(pods),
        Look::Pending(_) | Look::Withheld(_) if endpoints => wanted.none_ready(&[]),
        _ => wanted.no_pods(labels_query(&service.spec.selector).unwrap_or_default()),
    }
}

fn missing_in(pod: &PodRef, port: &str, seen: &Seen<'_>) -> NoTarget {
    let known = match &seen.pods {
        Look::Seen(pods) => pods.iter().find(|known| known.metadata.name == pod.name),
        Look::Pending(_) | Look::Withheld(_) => None,
    };
    match known {
        Some(known) => no_pod_port(known, port),
        None => NoTarget::PodPort { pod: pod.name.clone(), port: plain(port), has: Vec::new() },
    }
}

fn no_selector(wanted: &Wanted, service: &Service, mut addresses: Vec<String>, port: WayIn<'_>) -> NoTarget {
    addresses.truncate(TOLD);
    let host = addresses.first().map_or("HOST", String::as_str);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let port = port.in_service().filter(|port| *port != 0);
    let port = port.map_or_else(|| "PORT".to_owned(), |port| port.to_string());
    NoTarget::NoSelector { service: service.metadata.name.clone(), jump: wanted.jump(&host, &port), addresses }
}

fn external_name(wanted: &Wanted, service: &Service) -> NoTarget {
    let host = plain(service.spec.external_name.as_deref().unwrap_or("HOST"));
    let named = |name: &str| service.spec.ports.iter().find(|port| port.name.as_deref() == Some(name));
    let port = match &wanted.port {
        Port::Number(number) => number.to_string(),
        Port::Name(name) => named(name).map_or_else(|| "PORT".to_owned(), |port| port.port.to_string()),
        Port::Any => "PORT".to_owned(),
    };
    let jump = wanted.jump(&host, &port);
    NoTarget::ExternalName { service: service.metadata.name.clone(), host, jump }
}

/// A port of a service, as it is listed: `80 (http)`.
fn written(port: &ServicePort) -> String {
    let protocol = port.protocol.as_deref().filter(|protocol| !is_tcp(Some(protocol)));
    let number = protocol.map_or_else(|| port.port.to_string(), |other| format!("{}/{}", port.port, plain(other)));
    match port.name.as_deref() {
        Some(name) if !name.is_empty() => format!("{number} ({})", plain(name)),
        _ => number,
    }
}
