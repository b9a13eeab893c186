//! Host names that say themselves where they lead: `{name}-{port}.svc.{namespace}.ns.{context}.cx.k8s.localhost`.
//!
//! | part | what it is |
//! |---|---|
//! | `{name}` | the service, or with `.pod.` for `.svc.` the pod, dots included |
//! | `{port}` | behind the last hyphen: a number or a port's name. A port whose name has a hyphen needs its number |
//! | `.https` | behind `{name}-{port}`, when wanted: the upstream speaks TLS, whatever the client speaks |
//! | `{namespace}` | one label |
//! | `{context}` | an alias, or the context of the kubeconfig, dots included, other characters as `--` and two hex digits |
//!
//! It is read from the right, label by label, so names may be `svc`, `ns` or `cx` themselves. The escapes are those of
//! `escape`: `arn--3aaws…` is `arn:aws…`. A host is lower-cased before it comes here, so capital letters are escaped
//! too: `0--50rod` is `Prod`.

use std::fmt;

use crate::diagnose::{Diagnose, Fault};
use crate::name::Hostname;
use crate::near;
use crate::target::{KubeTarget, ObjectKind, PortError, PortRef, Selection, check_namespace, check_object_name};

mod escape;
mod meant;

pub use crate::target::Scheme;
pub use meant::Meant;

/// The label behind the context.
const CONTEXT: &str = "cx";
/// The label behind the namespace.
const NAMESPACE: &str = "ns";
/// The label behind the port that makes TLS of the upstream's connection.
const TLS: &str = "https";

/// Reads and writes the names under one suffix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamicHosts {
    suffix: Hostname,
    aliases: Vec<(String, String)>,
}

/// Where such a name leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DynamicTarget {
    /// What `name` is the name of.
    pub kind: DynamicKind,
    /// The service or the pod.
    pub name: String,
    /// Which port of it.
    pub port: PortRef,
    /// Its namespace.
    pub namespace: String,
    /// The context of the kubeconfig.
    pub context: String,
    /// How the upstream is spoken to when the client speaks plain HTTP.
    pub scheme: Scheme,
}

/// What a dynamic host can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DynamicKind {
    /// A service.
    Service,
    /// A pod.
    Pod,
}

/// Why a host under the suffix leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DynamicHostError {
    /// A part is missing.
    #[error("the host names no {part}")]
    Missing {
        /// Which part.
        part: &'static str,
        /// What the whole looks like.
        form: String,
    },
    /// What stands before the namespace is neither `svc` nor `pod`.
    #[error("`{word}` is neither `svc` nor `pod`")]
    Kind {
        /// What was written.
        word: String,
        /// What the whole looks like.
        form: String,
    },
    /// The port is neither a number nor a name.
    #[error(transparent)]
    Port(#[from] PortError),
    /// No service or pod is called so.
    #[error("`{name}` cannot be the name of a {kind}")]
    Name {
        /// What was written.
        name: String,
        /// What it should be the name of.
        kind: DynamicKind,
    },
    /// No namespace is called so.
    #[error("`{namespace}` cannot be the name of a namespace")]
    Namespace {
        /// What was written.
        namespace: String,
    },
    /// Escapes that make no text.
    #[error("the escapes in `{context}` make no name of a context")]
    Escape {
        /// What was written.
        context: String,
    },
}

impl DynamicHosts {
    /// For the names under a suffix, with short labels for contexts. Of two aliases for one label the first holds.
    #[must_use]
    pub fn new(suffix: Hostname, aliases: &[(String, String)]) -> Self {
        let mut known: Vec<(String, String)> = Vec::with_capacity(aliases.len());
        for (label, context) in aliases {
            if !known.iter().any(|(first, _)| first.eq_ignore_ascii_case(label)) {
                known.push((label.to_ascii_lowercase(), context.clone()));
            }
        }
        Self { suffix, aliases: known }
    }

    /// What all of the names end with.
    #[must_use]
    pub const fn suffix(&self) -> &Hostname {
        &self.suffix
    }

    /// The context that an alias stands for.
    #[must_use]
    pub fn aliased(&self, label: &str) -> Option<&str> {
        self.aliases.iter().find(|(known, _)| known.eq_ignore_ascii_case(label)).map(|(_, context)| context.as_str())
    }

    /// Reads a host, lower-case and without port and trailing dot. `None` when it does not lie under the suffix.
    #[must_use]
    pub fn parse(&self, host: &str) -> Option<Result<DynamicTarget, DynamicHostError>> {
        let front = host.strip_suffix(self.suffix.as_str())?.strip_suffix('.')?;
        Some(self.parse_front(front))
    }

    /// The host to type for a target. `None` when it would not fit into a name (63 characters for a label, 253 for
    /// all), or the port's name has a hyphen: then an alias for the context or the port's number helps.
    #[must_use]
    pub fn host(&self, target: &DynamicTarget) -> Option<String> {
        self.host_in(target, &self.context_labels(&target.context))
    }

    /// The same, with the context as `typed`, another host of it, has it: of several spellings people keep to theirs.
    #[must_use]
    pub fn host_as_typed(&self, target: &DynamicTarget, typed: &str) -> Option<String> {
        let labels = self.labels_of(typed).filter(|labels| self.context(labels).as_ref() == Ok(&target.context));
        labels.map_or_else(|| self.host(target), |labels| self.host_in(target, labels))
    }

    /// The labels of a host that name its context.
    fn labels_of<'a>(&self, host: &'a str) -> Option<&'a str> {
        let front = host.strip_suffix(self.suffix.as_str())?.strip_suffix('.')?;
        let front = front.strip_suffix(CONTEXT)?.strip_suffix('.')?;
        split_at_last_label(front, NAMESPACE).map(|(_, context)| context)
    }

    fn host_in(&self, target: &DynamicTarget, context: &str) -> Option<String> {
        let DynamicTarget { kind, name, port, namespace, .. } = target;
        let tls = if target.scheme == Scheme::Https { ".https" } else { "" };
        let kind = kind.label();
        let host = format!("{name}-{port}{tls}.{kind}.{namespace}.{NAMESPACE}.{context}.{CONTEXT}.{}", self.suffix);
        let legal = Hostname::parse(&host).is_ok_and(|legal| legal.as_str() == host);
        (legal && self.parse(&host)? == Ok(target.clone())).then_some(host)
    }

    fn parse_front(&self, front: &str) -> Result<DynamicTarget, DynamicHostError> {
        let missing = |part| DynamicHostError::Missing { part, form: self.form() };
        let front = front.strip_suffix(CONTEXT).and_then(|front| front.strip_suffix('.'));
        let front = front.ok_or_else(|| missing("context, which stands before `.cx`"))?;
        let (front, context) = split_at_last_label(front, NAMESPACE)
            .filter(|(_, context)| !context.is_empty())
            .ok_or_else(|| missing("namespace and context, with `.ns.` between them"))?;
        let (front, namespace) =
            front.rsplit_once('.').ok_or_else(|| missing("service or pod before its namespace"))?;
        let (front, word) =
            front.rsplit_once('.').ok_or_else(|| missing("service or pod, and `svc` or `pod` behind it"))?;
        let kind = DynamicKind::parse(word)
            .ok_or_else(|| DynamicHostError::Kind { word: word.to_owned(), form: self.form() })?;
        let (front, scheme) = match front.strip_suffix(TLS).and_then(|front| front.strip_suffix('.')) {
            Some(front) => (front, Scheme::Https),
            None => (front, Scheme::Http),
        };
        let (name, port) = front.rsplit_once('-').ok_or_else(|| {
            let tls = if scheme == Scheme::Https { ".https" } else { "" };
            let rest = format!("{word}.{namespace}.{NAMESPACE}.{context}.{CONTEXT}.{}", self.suffix);
            let form = format!("{front}-PORT{tls}.{rest}");
            DynamicHostError::Missing { part: "port, which stands behind a hyphen", form }
        })?;
        let port = PortRef::parse(port)?;
        check_name(kind, name)?;
        check_namespace(namespace).map_err(|_| DynamicHostError::Namespace { namespace: namespace.to_owned() })?;
        let (name, namespace, context) = (name.to_owned(), namespace.to_owned(), self.context(context)?);
        Ok(DynamicTarget { kind, name, port, namespace, context, scheme })
    }

    fn context(&self, labels: &str) -> Result<String, DynamicHostError> {
        if let Some((_, context)) = self.aliases.iter().find(|(label, _)| label == labels) {
            return Ok(context.clone());
        }
        escape::decode(labels).ok_or_else(|| DynamicHostError::Escape { context: labels.to_owned() })
    }

    fn context_labels(&self, context: &str) -> String {
        if let Some((label, _)) = self.aliases.iter().find(|(_, aliased)| aliased == context) {
            return label.clone();
        }
        let labels = escape::encode(context, escape::First::AsItIs);
        if self.aliases.iter().any(|(label, _)| *label == labels) {
            return escape::encode(context, escape::First::Escaped);
        }
        labels
    }

    fn form(&self) -> String {
        format!("NAME-PORT.svc.NAMESPACE.ns.CONTEXT.cx.{}", self.suffix)
    }
}

impl DynamicTarget {
    /// The same as a target in a cluster.
    #[must_use]
    pub fn to_target(&self) -> KubeTarget {
        let kind = match self.kind {
            DynamicKind::Service => ObjectKind::Service,
            DynamicKind::Pod => ObjectKind::Pod,
        };
        KubeTarget {
            context: Some(self.context.clone()),
            namespace: Some(self.namespace.clone()),
            selection: Selection::Object { kind, name: self.name.clone() },
            port: self.port.clone(),
        }
    }
}

impl DynamicKind {
    /// The label that stands for it in a host.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Service => "svc",
            Self::Pod => "pod",
        }
    }

    fn parse(label: &str) -> Option<Self> {
        [Self::Service, Self::Pod].into_iter().find(|kind| kind.label() == label)
    }
}

impl Diagnose for DynamicHostError {
    fn fault(&self) -> Fault {
        match self {
            Self::Missing { .. }
            | Self::Kind { .. }
            | Self::Name { .. }
            | Self::Namespace { .. }
            | Self::Escape { .. } => Fault::Usage,
            Self::Port(error) => error.fault(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            // The name without its port says which kind it is.
            Self::Missing { form, .. } if !form.starts_with("NAME-") => Some(format!("write {form}")),
            Self::Missing { form, .. } => Some(format!("write {form}, or `pod` for `svc`")),
            Self::Kind { word, form } => {
                let meant = near::nearest(word, ["svc", "service", "services", "pod", "pods"]);
                Some(match meant {
                    Some("svc" | "service" | "services") => "did you mean `svc`?".to_owned(),
                    Some(_) => "did you mean `pod`?".to_owned(),
                    None => format!("write {form}, or `pod` for `svc`"),
                })
            }
            Self::Port(_) => {
                Some("write the port's number from 1 to 65535, or its name, behind the last hyphen".to_owned())
            }
            Self::Name { kind: DynamicKind::Service, .. } => {
                Some("write up to 63 lower-case letters, digits and hyphens, then a hyphen and the port".to_owned())
            }
            Self::Name { kind: DynamicKind::Pod, .. } => {
                Some("write lower-case letters, digits, hyphens and dots, then a hyphen and the port".to_owned())
            }
            Self::Namespace { .. } => Some("write up to 63 lower-case letters, digits and hyphens".to_owned()),
            Self::Escape { .. } => Some(
                "write --2d- for two hyphens before two hex digits, or set an alias under `gateway.aliases`".to_owned(),
            ),
        }
    }
}

impl fmt::Display for DynamicKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "service",
            Self::Pod => "pod",
        })
    }
}

/// What stands before and behind the last label that is this word.
fn split_at_last_label<'a>(labels: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    let mut end = labels.len();
    loop {
        let (front, label) = labels.get(..end)?.rsplit_once('.')?;
        if label == word {
            return Some((front, labels.get(end + 1..).unwrap_or("")));
        }
        end = front.len();
    }
}

/// A pod's name may have dots; a service's is one label.
fn check_name(kind: DynamicKind, name: &str) -> Result<(), DynamicHostError> {
    let checked = match kind {
        DynamicKind::Service => check_namespace(name),
        DynamicKind::Pod => check_object_name(name),
    };
    checked.map_err(|_| DynamicHostError::Name { name: name.to_owned(), kind })
}

#[cfg(test)]
mod tests;
