//! Why there is no pod to send a connection to, with kubectl's words where kubectl has some.

use adit_core::diagnose::{Diagnose, Fault};

use runtime::connect::MissingPart;

use super::pod::PodTrouble;
use crate::error::Missing;
use crate::k8s::api::ApiError;

/// Pods whose reasons are spelt out; of more, only their number is told.
const SPELT_OUT: usize = 3;

/// Why there is no pod to send a connection to.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NoTarget {
    /// The API server has not answered yet.
    #[error("{what} has not been looked up yet")]
    Unknown { what: String },
    /// The API server does not tell.
    #[error("{what} could not be looked up")]
    Api {
        what: String,
        #[source]
        error: ApiError,
    },
    /// There is no object of that name.
    #[error("{resource} \"{name}\" not found")]
    NotFound { resource: &'static str, name: String, place: String },
    /// The service has no such port.
    #[error("{}", no_service_port(service, port))]
    ServicePort { service: String, port: String, has: Vec<String> },
    /// The pods have no port of that name.
    #[error("Pod '{pod}' does not have a named port '{port}'")]
    PodPort { pod: String, port: String, has: Vec<String> },
    /// The port is not a TCP port.
    #[error("{protocol} protocol is not supported for {port}")]
    Protocol { protocol: String, port: String },
    /// The service is another name of a host.
    #[error("service {service} is of type ExternalName: it stands for the host {host}, not for pods")]
    ExternalName { service: String, host: String, jump: String },
    /// The service has no selector, and none of its endpoints is a pod.
    #[error("invalid service '{service}': Service is defined without a selector")]
    NoSelector { service: String, addresses: Vec<String>, jump: String },
    /// No pod belongs to it. `aside` is what the reason may be.
    #[error("no pod belongs to {what}{}", aside.as_ref().map(|aside| format!("; {aside}")).unwrap_or_default())]
    NoPods { what: String, selector: String, place: String, aside: Option<String> },
    /// It is scaled to nothing, or suspended.
    #[error("{what} runs no pods: it is {how}")]
    Zero { what: String, how: &'static str, command: String },
    /// The pod that was asked for does not run.
    #[error("unable to forward port because pod is not running. Current status={}", pod.phase)]
    NotRunning { pod: Box<PodTrouble>, place: String },
    /// Pods belong to it, but none is ready.
    #[error("{}", none_ready(what, pods))]
    NoneReady { what: String, pods: Vec<PodTrouble>, place: String },
}

impl NoTarget {
    /// Whether waiting at start is useless: what was asked for has to be changed, not the cluster. Later, when it did
    /// work once, all of it may come back.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::NotFound { .. }
            | Self::ServicePort { .. }
            | Self::PodPort { .. }
            | Self::Protocol { .. }
            | Self::ExternalName { .. }
            | Self::NoSelector { .. } => true,
            Self::NotRunning { pod, .. } => pod.why.is_final(),
            Self::Api { error, .. } => {
                matches!(
                    error,
                    ApiError::Forbidden { .. }
                        | ApiError::Unauthorized { .. }
                        | ApiError::Credentials { .. }
                        | ApiError::Unreachable { fault: Fault::Config, .. }
                )
            }
            Self::Unknown { .. } | Self::NoPods { .. } | Self::Zero { .. } | Self::NoneReady { .. } => false,
        }
    }

    /// What is not there at all, as opposed to not ready.
    pub(crate) fn missing(&self) -> Option<Missing> {
        let (part, near) = match self {
            Self::NotFound { .. } => (MissingPart::Name, Vec::new()),
            Self::ServicePort { has, .. } | Self::PodPort { has, .. } => {
                let first = |port: &String| port.split(' ').next().unwrap_or_default().to_owned();
                (MissingPart::Port, has.iter().map(first).collect())
            }
            _ => return None,
        };
        Some(Missing { part, near })
    }

    /// What a user who waits wants to read.
    pub(crate) fn detail(&self) -> String {
        match self {
            Self::NotRunning { pod, .. } => format!("waiting for pod {pod}"),
            Self::NoneReady { pods, what, .. } => match pods.as_slice() {
                [] => format!("waiting for a ready pod of {what}"),
                [pod] => format!("waiting for pod {pod}"),
                [pod, others @ ..] => format!("waiting for pod {pod} (and {} more)", others.len()),
            },
            Self::Unknown { what } => format!("looking up {what}"),
            Self::Api { error, .. } => format!("{self}: {error}"),
            Self::NotFound { .. }
            | Self::ServicePort { .. }
            | Self::PodPort { .. }
            | Self::Protocol { .. }
            | Self::ExternalName { .. }
            | Self::NoSelector { .. } => self.to_string(),
            Self::NoPods { .. } | Self::Zero { .. } => format!("waiting: {self}"),
        }
    }

    /// The pods whose reasons are told, to add what is learnt later.
    pub(crate) fn pods_mut(&mut self) -> &mut [PodTrouble] {
        match self {
            Self::NotRunning { pod, .. } => std::slice::from_mut(pod),
            Self::NoneReady { pods, .. } => pods,
            _ => &mut [],
        }
    }
}

impl Diagnose for NoTarget {
    fn fault(&self) -> Fault {
        match self {
            Self::Api { error, .. } => error.fault(),
            Self::ServicePort { .. } | Self::PodPort { .. } | Self::Protocol { .. } | Self::ExternalName { .. } => {
                Fault::Usage
            }
            Self::Unknown { .. }
            | Self::NotFound { .. }
            | Self::NoSelector { .. }
            | Self::NoPods { .. }
            | Self::Zero { .. }
            | Self::NotRunning { .. }
            | Self::NoneReady { .. } => Fault::Upstream,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { .. } => None,
            Self::Api { error, .. } => error.hint(),
            Self::NotFound { resource, place, .. } => {
                Some(format!("`kubectl get {resource} {place}` lists what there is"))
            }
            Self::ServicePort { has, .. } if has.is_empty() => {
                Some("the service has no ports: name a pod instead".to_owned())
            }
            // Whoever writes a high number may have meant the port here.
            Self::ServicePort { has, port, .. } if port.parse().is_ok_and(|port: u16| port >= 1024) => {
                let first = has.first().and_then(|first| first.split(' ').next()).unwrap_or_default();
                Some(format!(
                    "it has {}; name the service's port, not one of this machine (adit forward takes both: {port}:{first})",
                    has.join(", ")
                ))
            }
            Self::ServicePort { has, .. } => Some(format!("it has {}", has.join(", "))),
            Self::PodPort { has, .. } if has.is_empty() => Some("the pod names no ports: give a number".to_owned()),
            Self::PodPort { has, .. } => Some(format!("it has {}; or give a number", has.join(", "))),
            Self::Protocol { .. } => Some("only TCP can be forwarded through an API server".to_owned()),
            Self::ExternalName { jump, .. } => Some(format!("reach it from within a pod: {jump}")),
            Self::NoSelector { addresses, jump, .. } if addresses.is_empty() => {
                Some(format!("it has no endpoints either; a host is reached from within a pod: {jump}"))
            }
            Self::NoSelector { addresses, jump, .. } => {
                Some(format!("it leads to {}; reach that from within a pod: {jump}", addresses.join(", ")))
            }
            Self::NoPods { selector, place, .. } if !selector.is_empty() => {
                Some(format!("`kubectl get pods {place} -l '{selector}'` shows when there is one"))
            }
            Self::NoPods { .. } => None,
            Self::Zero { command, .. } => Some(format!("start it: `{command}`")),
            Self::NotRunning { pod, place } => {
                Some(format!("{pod}; `kubectl describe pod {} {place}` tells more", pod.pod))
            }
            Self::NoneReady { pods, place, .. } => {
                pods.first().map(|pod| format!("`kubectl describe pod {} {place}` tells more", pod.pod))
            }
        }
    }
}

fn no_service_port(service: &str, port: &str) -> String {
    if port.bytes().all(|b| b.is_ascii_digit()) {
        format!("Service {service} does not have a service port {port}")
    } else {
        format!("Service '{service}' does not have a named port '{port}'")
    }
}

fn none_ready(what: &str, pods: &[PodTrouble]) -> String {
    let mut text = format!("no pod of {what} is ready");
    for (n, pod) in pods.iter().take(SPELT_OUT).enumerate() {
        text.push_str(if n == 0 { ": " } else { "; " });
        text.push_str(&pod.to_string());
    }
    if pods.len() > SPELT_OUT {
        text.push_str(&format!("; and {} more", pods.len() - SPELT_OUT));
    }
    text
}
