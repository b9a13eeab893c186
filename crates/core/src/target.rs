//! What an entrance may lead to: a plain address, an object in a Kubernetes cluster, a host behind a pod or an SSH
//! server, a forward of the same file.
//!
//! | form | type |
//! |---|---|
//! | `3000`, `host:3000`, `http://`, `https://`, `h2c://`, `tcp://` | [`LocalTarget`] |
//! | `k8s://CONTEXT/NAMESPACE/KIND/NAME:PORT` | [`KubeTarget`] |
//! | `jump://CONTEXT/NAMESPACE/KIND/NAME/HOST:PORT` | [`JumpTarget`] |
//! | `ssh://[USER@]HOST[:PORT]/DESTHOST:DESTPORT` | [`SshTarget`] |
//! | `forward:NAME` | a name |

use std::fmt;

use crate::diagnose::{Diagnose, Fault};

mod escape;
mod jump;
mod kube;
mod local;
mod object;
mod port;
mod scheme;
pub mod selector;
mod ssh;

pub use jump::{JumpHost, JumpTarget};
pub use kube::{KubeTarget, KubeTargetError};
pub use local::{LocalTarget, TargetKind};
pub use object::{KindError, ObjectKind, Selection, check_namespace, check_object_name};
pub use port::{PortError, PortRef};
pub use scheme::Scheme;
pub use ssh::{
    SshBackend, SshOptions, SshServer, SshTarget, SshTargetError, checked_host, checked_user, destination_host,
};

/// What `to` and the argument of `adit expose` accept, for hints.
const FORMS: &str = "write a port (3000), host:port, or a URL: http://h:p, https://h:p, h2c://h:p, tcp://h:p";

/// Whatever an entrance may lead to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An object in a Kubernetes cluster.
    Kubernetes(KubeTarget),
    /// A host as a pod sees it.
    Jump(JumpTarget),
    /// A host as an SSH server sees it.
    Ssh(SshTarget),
    /// An address that this machine can reach.
    Local(LocalTarget),
    /// A forward of the same file, by its name.
    Forward(String),
}

impl Target {
    /// Parses a target. A bare port or `host:port` is HTTP, as with [`LocalTarget::parse`].
    ///
    /// # Errors
    /// When it is none of the known forms, or one that is not part of this version.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let text = text.trim();
        match local::special_scheme(text) {
            Some("k8s") => Ok(Self::Kubernetes(KubeTarget::parse(text)?)),
            Some("jump") => Ok(Self::Jump(JumpTarget::parse(text)?)),
            Some("ssh") => Ok(Self::Ssh(SshTarget::parse(text)?)),
            Some("forward") => forward_name(text).map(Self::Forward),
            Some(scheme) => Err(TargetError::Later { scheme }),
            None => LocalTarget::parse(text, false).map(Self::Local),
        }
    }

    /// The host that a TLS certificate of the target would be for: its address, its service's name, or, for a
    /// forward, that of the forward.
    #[must_use]
    pub fn host(&self) -> String {
        let last = match self {
            Self::Local(local) => return local.host.clone(),
            Self::Forward(name) => return name.clone(),
            Self::Kubernetes(kube) => kube.to_string(),
            Self::Jump(jump) => jump.to_string(),
            Self::Ssh(ssh) => ssh.to_string(),
        };
        let authority = last.rsplit('/').next().unwrap_or_default();
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        host.trim_matches(['[', ']']).to_owned()
    }

    /// Whether the text is a target URL and no name of a Kubernetes object, as `adit forward` has to know.
    #[must_use]
    pub fn is_url(text: &str) -> bool {
        text.contains("://") || text.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("forward"))
    }
}

/// Why a text is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nothing was written.
    #[error("the target is empty")]
    Empty,
    /// A kind of target that comes later.
    #[error("{scheme} targets are not part of this version")]
    Later {
        /// Which kind.
        scheme: &'static str,
    },
    /// A URL of another scheme.
    #[error("`{scheme}://` is not a kind of target")]
    Scheme {
        /// The scheme that was written.
        scheme: String,
    },
    /// The host is missing or has characters that no host has.
    #[error("`{text}` has no usable host")]
    Host {
        /// What was written.
        text: String,
    },
    /// The port is missing or is no number from 1 to 65535.
    #[error("`{text}` has no usable port")]
    Port {
        /// What was written.
        text: String,
    },
    /// A path, a query or user information behind or before the address.
    #[error("`{text}` says more than an address")]
    Surplus {
        /// What was written.
        text: String,
    },
    /// What follows `forward:` names no forward.
    #[error("`{name}` cannot be the name of a forward")]
    ForwardName {
        /// What was written.
        name: String,
    },
    /// A part of a `k8s://` or `jump://` URL is wrong.
    #[error(transparent)]
    Kubernetes(#[from] KubeTargetError),
    /// A part of an `ssh://` URL is wrong.
    #[error(transparent)]
    Ssh(#[from] SshTargetError),
}

impl Diagnose for TargetError {
    fn fault(&self) -> Fault {
        match self {
            Self::Empty
            | Self::Later { .. }
            | Self::Scheme { .. }
            | Self::Host { .. }
            | Self::Port { .. }
            | Self::Surplus { .. }
            | Self::ForwardName { .. } => Fault::Usage,
            Self::Kubernetes(error) => error.fault(),
            Self::Ssh(error) => error.fault(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Empty | Self::Scheme { .. } | Self::Host { .. } => Some(FORMS.to_owned()),
            Self::Later { .. } => {
                Some("expose a local port, or a host this machine can reach, such as tcp://10.0.0.5:5432".to_owned())
            }
            Self::Port { .. } => Some("add a port from 1 to 65535, such as :3000".to_owned()),
            Self::Surplus { .. } => {
                Some("leave out the path, the query and the user: they come with each request".to_owned())
            }
            Self::ForwardName { .. } => {
                Some("write forward:NAME, up to 63 letters, digits, hyphens, underscores and dots".to_owned())
            }
            Self::Kubernetes(error) => error.hint(),
            Self::Ssh(error) => error.hint(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kubernetes(target) => target.fmt(f),
            Self::Jump(target) => target.fmt(f),
            Self::Ssh(target) => target.fmt(f),
            Self::Local(target) => target.fmt(f),
            Self::Forward(name) => write!(f, "forward:{name}"),
        }
    }
}

impl std::str::FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        Self::parse(text)
    }
}

fn forward_name(text: &str) -> Result<String, TargetError> {
    let name = text.split_once(':').map_or("", |(_, name)| name);
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts_well || name.len() > 63 || !name.bytes().all(legal) {
        return Err(TargetError::ForwardName { name: name.to_owned() });
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_scheme_is_its_kind_of_target() {
        for (text, back) in [
            ("k8s://prod/db/svc/pg:5432", "k8s://prod/db/service/pg:5432"),
            ("K8S://prod/db/pod/pg-0:pg", "k8s://prod/db/pod/pg-0:pg"),
            ("jump://prod/default/service/api/db.internal:3306", "jump://prod/default/service/api/db.internal:3306"),
            ("ssh://me@bastion/db:5432", "ssh://me@bastion/db:5432"),
            ("forward:grafana", "forward:grafana"),
            ("tcp://10.0.0.5:5432", "tcp://10.0.0.5:5432"),
            ("3000", "http://127.0.0.1:3000"),
            (" https://h ", "https://h:443"),
        ] {
            assert_eq!(Target::parse(text).map(|t| t.to_string()).as_deref(), Ok(back), "{text}");
        }
        assert!(matches!(Target::parse("k8s:22"), Ok(Target::Local(_))), "a host called k8s");
    }

    #[test]
    fn a_target_has_a_host_for_its_certificate() {
        for (text, host) in [
            ("https://h:1", "h"),
            ("k8s://prod/argocd/service/argocd-server:443", "argocd-server"),
            ("jump://p/n/pod/c/[::1]:3306", "::1"),
            ("jump://p/n/pod/c/db.internal:3306", "db.internal"),
            ("ssh://me@bastion/db.internal:443", "db.internal"),
            ("forward:x", "x"),
        ] {
            assert_eq!(Target::parse(text).unwrap().host(), host);
        }
    }

    #[test]
    fn a_forward_has_a_name() {
        for text in ["forward:", "forward:a b", "forward://x", "forward:-x", "forward:../x"] {
            assert!(matches!(Target::parse(text), Err(TargetError::ForwardName { .. })), "{text}");
        }
    }

    #[test]
    fn urls_are_told_from_names_of_objects() {
        for text in ["k8s://a/b/svc/c:1", "tcp://h:1", "forward:x", "ftp://h"] {
            assert!(Target::is_url(text), "{text}");
        }
        for text in ["web", "svc/web", "deployment.apps/web", "8080:80", ""] {
            assert!(!Target::is_url(text), "{text}");
        }
    }

    #[test]
    fn every_refusal_has_a_hint() {
        for text in ["", "x://h", "tcp://:1", "h", "http://h/p", "ssh://a", "forward:", "k8s://", "jump://a"] {
            let error = Target::parse(text).unwrap_err();
            assert_eq!(error.fault(), Fault::Usage, "{text}");
            assert!(error.hint().is_some(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = Target::parse(&text);
        }

        #[test]
        fn what_is_accepted_is_read_back_from_its_text(
            text in "(k8s|jump|forward|tcp):(//)?[a-c%2F]{0,4}/[a-c]{0,3}/(pod|svc|selector)/[a-c.=,-]{0,6}(/\\[?[:a0-9.-]{1,5}\\]?)?:[0-9a-c-]{1,4}"
        ) {
            if let Ok(target) = Target::parse(&text) {
                prop_assert_eq!(Target::parse(&target.to_string()), Ok(target));
            }
        }
    }
}
