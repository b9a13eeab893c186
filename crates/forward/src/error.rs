//! Why a forward does not work, for people.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use adit_core::diagnose::chain;
use adit_core::diagnose::{Diagnose, Fault};
use adit_core::forward::Reason;
use runtime::connect::{ConnectError, MissingPart};
use runtime::tls::in_words;

use crate::k8s::api::ApiError;
use crate::k8s::kubeconfig::KubeconfigError;
use crate::k8s::resolve::NoTarget;
use crate::ssh::error::SshError;

/// Why a forward does not work.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ForwardError {
    /// The kubeconfig cannot be used.
    #[error(transparent)]
    Kubeconfig(Arc<KubeconfigError>),
    /// The API server, or who we are there.
    #[error(transparent)]
    Api(ApiError),
    /// What was asked for leads to no pod.
    #[error("{message}")]
    NoTarget {
        /// Why.
        message: String,
        /// Whose fault it is.
        fault: Fault,
        /// What to do.
        hint: Option<String>,
        /// What is not there at all.
        missing: Option<Missing>,
        /// The part of why that is about the cluster.
        shared: Option<Arc<str>>,
    },
    /// There is a pod, and no connection to it.
    #[error("no connection to pod {pod}")]
    Connect {
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: ApiError,
    },
    /// It was not ready in time.
    #[error("{name} was not ready within {after:?}: {reason}")]
    Timeout {
        /// The forward.
        name: String,
        /// The deadline.
        after: Duration,
        /// What was waited for.
        reason: String,
    },
    /// The target cannot be a forward's.
    #[error("{target} cannot be forwarded here: {reason}")]
    Unsupported {
        /// The target.
        target: String,
        /// Why not.
        reason: String,
    },
    /// A jump does not work.
    #[error("{message}")]
    Jump {
        /// Why.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// An SSH server cannot be used.
    #[error(transparent)]
    Ssh(SshError),
    /// It was stopped.
    #[error("{name} was stopped")]
    Stopped {
        /// The forward.
        name: String,
    },
}

/// A part of a target that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub part: MissingPart,
    /// What is there and could be meant, nearest first.
    pub near: Vec<String>,
}

impl ForwardError {
    /// As a connection's error.
    pub(crate) fn into_connect(self, target: String) -> ConnectError {
        let (reason, hint) = (chain(&self), self.hint());
        match self {
            Self::NoTarget { missing: Some(Missing { part, near }), .. } => {
                ConnectError::Missing { target, reason, hint, part, near }
            }
            _ => ConnectError::Unavailable { target, reason, hint },
        }
    }

    /// Whether waiting may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Api(error) | Self::Connect { source: error, .. } => error.is_transient(),
            Self::Ssh(error) => error.is_transient(),
            Self::Timeout { .. } => true,
            Self::Kubeconfig(_)
            | Self::NoTarget { .. }
            | Self::Unsupported { .. }
            | Self::Jump { .. }
            | Self::Stopped { .. } => false,
        }
    }

    /// As the reason of a forward.
    pub(crate) fn reason(&self) -> Reason {
        let text = chain(self);
        match self {
            Self::Api(error) | Self::Connect { source: error, .. } => error.reason(text),
            Self::NoTarget { shared, .. } => Reason { text: text.into(), shared: shared.clone() },
            _ => text.into(),
        }
    }

    /// Whether there is no way to what it shares with other forwards, its cluster or its SSH server: that is no failure of
    /// its own.
    pub(crate) fn is_away(&self) -> bool {
        match self {
            Self::Api(error @ (ApiError::Unreachable { .. } | ApiError::Timeout { .. })) => error.is_transient(),
            // A pod that does not answer in time may be the only one.
            Self::Connect { source: error @ ApiError::Unreachable { .. }, .. } => error.is_transient(),
            Self::Ssh(error) => error.is_away() || matches!(error, SshError::Timeout { .. }),
            _ => false,
        }
    }

    /// Whether it waits for a person, and nobody is to wait with it.
    pub(crate) fn is_for_a_person(&self) -> bool {
        matches!(self, Self::Ssh(error) if error.is_for_a_person())
    }

    pub(crate) fn no_target(none: &NoTarget) -> Self {
        let shared = match none {
            NoTarget::Api { error, .. } => error.reason("").shared,
            _ => None,
        };
        Self::NoTarget { message: chain(none), fault: none.fault(), hint: none.hint(), missing: none.missing(), shared }
    }
}

impl From<ApiError> for ForwardError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Config(error) => Self::Kubeconfig(error),
            error => Self::Api(error),
        }
    }
}

impl From<KubeconfigError> for ForwardError {
    fn from(error: KubeconfigError) -> Self {
        Self::Kubeconfig(Arc::new(error))
    }
}

impl Diagnose for ForwardError {
    fn fault(&self) -> Fault {
        match self {
            Self::Kubeconfig(error) => error.fault(),
            Self::Api(error) | Self::Connect { source: error, .. } => error.fault(),
            Self::Ssh(error) => error.fault(),
            Self::NoTarget { fault, .. } => *fault,
            Self::Timeout { .. } | Self::Jump { .. } => Fault::Upstream,
            Self::Unsupported { .. } => Fault::Usage,
            Self::Stopped { .. } => Fault::Downstream,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Kubeconfig(error) => error.hint(),
            Self::Api(error) | Self::Connect { source: error, .. } => error.hint(),
            Self::Ssh(error) => error.hint(),
            Self::NoTarget { hint, .. } | Self::Jump { hint, .. } => hint.clone(),
            Self::Timeout { .. } => {
                Some("see why with `kubectl describe pod`; adit forward takes --pod-running-timeout".into())
            }
            Self::Unsupported { .. } => {
                Some("write k8s://CONTEXT/NAMESPACE/KIND/NAME:PORT, jump://…, ssh://… or tcp://HOST:PORT".into())
            }
            Self::Stopped { .. } => None,
        }
    }
}

/// An error of the system or of TLS in words: without its number or name, which say nothing to the reader.
pub(crate) fn words(error: &(dyn Error + 'static)) -> String {
    let of_io = |error: &std::io::Error| error.get_ref()?.downcast_ref::<rustls::Error>().map(in_words);
    let tls = match error.downcast_ref::<std::io::Error>() {
        Some(error) => of_io(error),
        None => error.downcast_ref::<rustls::Error>().map(in_words),
    };
    if let Some(text) = tls {
        return text;
    }
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if letters.clone().next().is_some_and(char::is_lowercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_systems_error_is_told_in_words() {
        let refused = std::io::Error::from_raw_os_error(111);
        assert_eq!(words(&refused), "connection refused");
        assert_eq!(words(&std::io::Error::other("TLS failed")), "TLS failed");
        let tls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert_eq!(words(&tls), "its answer is not TLS");
        assert_eq!(words(&std::io::Error::other(tls)), "its answer is not TLS");
    }
}
