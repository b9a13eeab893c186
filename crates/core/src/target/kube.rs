//! `k8s://CONTEXT/NAMESPACE/KIND/NAME:PORT`, and the parts that `jump://` shares with it.

use std::fmt;

use super::escape::{Encoded, decode};
use super::object::{KindError, ObjectKind, Selection, check_namespace, check_object_name};
use super::port::{PortError, PortRef};
use super::selector;
use crate::diagnose::{Diagnose, Fault};

/// The form of the URL, for messages.
const FORM: &str = "k8s://CONTEXT/NAMESPACE/KIND/NAME:PORT";

/// The longest name of a context. kubeconfig knows no limit; nobody types more.
const CONTEXT_MAX: usize = 1024;

/// The word that stands in the place of a kind before a label selector.
const SELECTOR: &str = "selector";

/// An object in a cluster, or the pods a label selector chooses, and a port there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KubeTarget {
    /// The context of the kubeconfig; without it the current one.
    pub context: Option<String>,
    /// The namespace; without it the context's.
    pub namespace: Option<String>,
    /// Which pods.
    pub selection: Selection,
    /// Which port of the service or the pod.
    pub port: PortRef,
}

impl KubeTarget {
    /// Parses the URL. Parts may have percent escapes; an empty context or namespace is the kubeconfig's.
    ///
    /// # Errors
    /// When a part is missing or wrong.
    pub fn parse(text: &str) -> Result<Self, KubeTargetError> {
        let fault = || KubeTargetError::Form { text: text.to_owned(), form: FORM };
        let mut parts = after_scheme(text, "k8s").ok_or_else(fault)?.splitn(4, '/');
        let mut part = || parts.next().ok_or_else(fault);
        let (context, namespace, kind, rest) = (part()?, part()?, part()?, part()?);
        let (name, port) = rest.rsplit_once(':').ok_or_else(fault)?;
        Ok(Self {
            context: context_of(context)?,
            namespace: namespace_of(namespace)?,
            selection: selection_of(kind, name)?,
            port: PortRef::parse(port)?,
        })
    }
}

/// Which part of a `k8s://` or `jump://` URL is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubeTargetError {
    /// Parts are missing.
    #[error("`{text}` is not of the form {form}")]
    Form {
        /// What was written.
        text: String,
        /// What it should look like.
        form: &'static str,
    },
    /// A `%` without two hexadecimal digits, or bytes that are no text.
    #[error("`{part}` has a broken percent escape")]
    Escape {
        /// The part of the URL.
        part: String,
    },
    /// No context is called so.
    #[error("`{context}` cannot be the name of a context")]
    Context {
        /// What was written.
        context: String,
    },
    /// No namespace is called so.
    #[error("`{namespace}` cannot be the name of a namespace")]
    Namespace {
        /// What was written.
        namespace: String,
    },
    /// It is no kind of object that leads to pods.
    #[error(transparent)]
    Kind(#[from] KindError),
    /// No object is called so.
    #[error("`{name}` cannot be the name of an object in Kubernetes")]
    Name {
        /// What was written.
        name: String,
    },
    /// It is no label selector.
    #[error("`{selector}` is not a label selector")]
    Selector {
        /// What was written.
        selector: String,
    },
    /// It is no port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// It is no host that may be asked for in a pod (rule S20).
    #[error("`{host}` is neither a host name nor an address")]
    Host {
        /// What was written.
        host: String,
    },
}

impl Diagnose for KubeTargetError {
    fn fault(&self) -> Fault {
        match self {
            Self::Form { .. }
            | Self::Escape { .. }
            | Self::Context { .. }
            | Self::Namespace { .. }
            | Self::Name { .. }
            | Self::Selector { .. }
            | Self::Host { .. } => Fault::Usage,
            Self::Kind(error) => error.fault(),
            Self::Port(error) => error.fault(),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Form { .. } => "an empty CONTEXT is the current one, an empty NAMESPACE the context's",
            Self::Escape { .. } => "write %25 for a percent sign, %2F for a slash",
            Self::Context { .. } => "write it as `kubectl config get-contexts` shows it, with %2F for each slash",
            Self::Namespace { .. } => "write up to 63 lower-case letters, digits and hyphens",
            Self::Kind(error) => return error.hint(),
            Self::Name { .. } => "write lower-case letters, digits, hyphens and dots",
            Self::Selector { .. } => "write it as app=web,tier!=cache or app in (web,api)",
            Self::Port(error) => return error.hint(),
            Self::Host { .. } => "write a host name, an IPv4 address or an IPv6 address in brackets, without a zone",
        };
        Some(hint.to_owned())
    }
}

impl fmt::Display for KubeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, "k8s", self.context.as_deref(), self.namespace.as_deref())?;
        write!(f, "{}:{}", self.selection, self.port)
    }
}

/// What follows `SCHEME://`.
pub(super) fn after_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let (found, rest) = text.split_once("://")?;
    found.eq_ignore_ascii_case(scheme).then_some(rest)
}

pub(super) fn context_of(part: &str) -> Result<Option<String>, KubeTargetError> {
    let context = decoded(part)?;
    // A raw `?` or `#` begins another part of a URL, which ours does not have.
    if context.len() > CONTEXT_MAX || context.chars().any(char::is_control) || part.contains(['?', '#']) {
        return Err(KubeTargetError::Context { context });
    }
    Ok((!context.is_empty()).then_some(context))
}

pub(super) fn namespace_of(part: &str) -> Result<Option<String>, KubeTargetError> {
    let namespace = decoded(part)?;
    if namespace.is_empty() {
        return Ok(None);
    }
    check_namespace(&namespace)?;
    Ok(Some(namespace))
}

pub(super) fn selection_of(kind: &str, name: &str) -> Result<Selection, KubeTargetError> {
    let (kind, name) = (decoded(kind)?, decoded(name)?);
    if kind.eq_ignore_ascii_case(SELECTOR) {
        return selector::check(&name).map(Selection::Labels);
    }
    let kind = ObjectKind::parse(&kind)?;
    check_object_name(&name)?;
    Ok(Selection::Object { kind, name })
}

pub(super) fn write_place(
    f: &mut fmt::Formatter<'_>,
    scheme: &str,
    context: Option<&str>,
    namespace: Option<&str>,
) -> fmt::Result {
    write!(f, "{scheme}://{}/{}/", Encoded(context.unwrap_or("")), namespace.unwrap_or(""))
}

fn decoded(part: &str) -> Result<String, KubeTargetError> {
    decode(part).map(std::borrow::Cow::into_owned).ok_or_else(|| KubeTargetError::Escape { part: part.to_owned() })
}

#[cfg(test)]
pub(super) mod tests;
