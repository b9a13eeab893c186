//! Kinds and names of Kubernetes objects that lead to pods.

use std::fmt;

use super::escape::Encoded;
use super::kube::KubeTargetError;
use crate::diagnose::{Diagnose, Fault};
use crate::name::{HOST_MAX, LABEL_MAX};
use crate::near;

/// A kind of object that leads to pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// A service: its ready endpoints.
    Service,
    /// A deployment: its pods.
    Deployment,
    /// A stateful set: its pods.
    StatefulSet,
    /// A replica set: its pods.
    ReplicaSet,
    /// A job: its pods.
    Job,
    /// One pod.
    Pod,
}

/// Which pods are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selection {
    /// Those of one object.
    Object {
        /// Its kind.
        kind: ObjectKind,
        /// Its name.
        name: String,
    },
    /// Those that a label selector chooses, in the form of [`super::selector::check`].
    Labels(String),
}

impl ObjectKind {
    /// Every kind, in the order in which messages name them.
    pub const ALL: [Self; 6] =
        [Self::Pod, Self::Service, Self::Deployment, Self::StatefulSet, Self::ReplicaSet, Self::Job];

    /// The kind as one lower-case word, as it stands in target URLs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Deployment => "deployment",
            Self::StatefulSet => "statefulset",
            Self::ReplicaSet => "replicaset",
            Self::Job => "job",
            Self::Pod => "pod",
        }
    }

    /// Parses the kind's name, plural or short name, with or without the API group: `svc`, `pods`, `deployment.apps`,
    /// `deployments.v1.apps`. Case does not matter.
    ///
    /// # Errors
    /// When it is no kind, or one that leads to no pods or to one on every node.
    pub fn parse(text: &str) -> Result<Self, KindError> {
        let lower = text.to_ascii_lowercase();
        let (word, group) = lower.split_once('.').unwrap_or((&lower, ""));
        let named = |kind: &Self| kind.words().contains(&word) && kind.is_in(group);
        if let Some(kind) = Self::ALL.iter().find(|kind| named(kind)) {
            return Ok(*kind);
        }
        if matches!(word, "daemonset" | "daemonsets" | "ds") {
            return Err(KindError::DaemonSet);
        }
        let words = Self::ALL.iter().flat_map(|kind| kind.words()).copied();
        Err(KindError::Unknown { kind: text.to_owned(), near: near::nearest(word, words) })
    }

    /// Its name, its plural and its short name.
    const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Service => &["service", "services", "svc"],
            Self::Deployment => &["deployment", "deployments", "deploy"],
            Self::StatefulSet => &["statefulset", "statefulsets", "sts"],
            Self::ReplicaSet => &["replicaset", "replicasets", "rs"],
            Self::Job => &["job", "jobs"],
            Self::Pod => &["pod", "pods", "po"],
        }
    }

    /// Whether it belongs to the group that was written, with or without its version; nothing is any group.
    fn is_in(self, group: &str) -> bool {
        let own = match self {
            Self::Service | Self::Pod => "",
            Self::Deployment | Self::StatefulSet | Self::ReplicaSet => "apps",
            Self::Job => "batch",
        };
        let unversioned = group.strip_prefix("v1").map_or(group, |rest| rest.strip_prefix('.').unwrap_or(rest));
        group.is_empty() || unversioned == own
    }
}

/// Why a word is no kind of object that can be forwarded to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KindError {
    /// It is not known.
    #[error("`{kind}` is not a kind of object that leads to pods")]
    Unknown {
        /// What was written.
        kind: String,
        /// What was probably meant.
        near: Option<&'static str>,
    },
    /// Its pods are one on every node, and which is meant is not said.
    #[error("a daemonset has a pod on every node, so it does not say which one is meant")]
    DaemonSet,
}

impl Diagnose for KindError {
    fn fault(&self) -> Fault {
        match self {
            Self::Unknown { .. } | Self::DaemonSet => Fault::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { near: Some(near), .. } => Some(format!("did you mean `{near}`?")),
            Self::Unknown { near: None, .. } => {
                let all = ObjectKind::ALL.map(ObjectKind::as_str);
                Some(format!("known here: {}", all.join(", ")))
            }
            Self::DaemonSet => Some("name one of its pods, as pod/NAME".to_owned()),
        }
    }
}

/// Checks the name of an object: an RFC 1123 subdomain of up to 253 lower-case letters, digits, hyphens and dots.
///
/// # Errors
/// When it is none.
pub fn check_object_name(name: &str) -> Result<(), KubeTargetError> {
    if name.len() > HOST_MAX || !name.split('.').all(is_label) {
        return Err(KubeTargetError::Name { name: name.to_owned() });
    }
    Ok(())
}

/// Checks the name of a namespace: an RFC 1123 label of up to 63 lower-case letters, digits and hyphens.
///
/// # Errors
/// When it is none.
pub fn check_namespace(namespace: &str) -> Result<(), KubeTargetError> {
    if namespace.len() > LABEL_MAX || !is_label(namespace) {
        return Err(KubeTargetError::Namespace { namespace: namespace.to_owned() });
    }
    Ok(())
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// As it stands in a target URL: `service/web`, `selector/app=web`.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object { kind, name } => write!(f, "{kind}/{name}"),
            Self::Labels(labels) => write!(f, "selector/{}", Encoded(labels)),
        }
    }
}

/// Kubernetes limits a label within a subdomain by the whole only.
fn is_label(label: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !label.is_empty() && label.bytes().all(legal) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kinds_have_the_names_that_kubectl_gives_them() {
        use ObjectKind::{Deployment, Job, Pod, ReplicaSet, Service, StatefulSet};
        for (words, kind) in [
            ("pod pods po POD pods.v1", Pod),
            ("service services svc Svc", Service),
            ("deployment deployments deploy deployment.apps deployments.v1.apps deploy.apps", Deployment),
            ("statefulset statefulsets sts sts.apps", StatefulSet),
            ("replicaset replicasets rs rs.v1.apps", ReplicaSet),
            ("job jobs job.batch jobs.v1.batch", Job),
        ] {
            words.split(' ').for_each(|word| assert_eq!(ObjectKind::parse(word), Ok(kind), "{word}"));
        }
        for kind in ObjectKind::ALL {
            assert_eq!(ObjectKind::parse(kind.as_str()), Ok(kind));
        }
    }

    #[test]
    fn an_unknown_kind_is_told_what_it_is_near_to_or_what_there_is() {
        let hint = |word: &str| ObjectKind::parse(word).unwrap_err().hint().unwrap();
        assert_eq!(hint("deploymet"), "did you mean `deployment`?");
        assert_eq!(hint("scv"), "did you mean `svc`?");
        assert_eq!(hint("node"), "known here: pod, service, deployment, statefulset, replicaset, job");
        assert!(hint("").starts_with("known here"));
        assert!(ObjectKind::parse("deployment.example.com").is_err(), "a kind of somebody else's");
        assert!(ObjectKind::parse("svc.apps").is_err());
    }

    #[test]
    fn a_daemonset_is_refused_with_the_way_out() {
        for word in ["ds", "daemonset", "daemonsets.apps"] {
            let error = ObjectKind::parse(word).unwrap_err();
            assert_eq!((&error, error.fault()), (&KindError::DaemonSet, Fault::Usage));
            assert!(error.hint().unwrap().contains("pod/NAME"));
        }
    }

    #[test]
    fn names_and_namespaces_are_those_of_rfc_1123() {
        let (longest, label) = (format!("{}.b", "a".repeat(251)), "a".repeat(63));
        for name in ["a", "web-0", "a.b.c", "0", &longest] {
            assert_eq!(check_object_name(name), Ok(()), "{name}");
        }
        let too_long = format!("{longest}b");
        for name in ["", ".", "a.", ".a", "a..b", "-a", "a-", "A", "a_b", "a b", "a/b", "é", &too_long] {
            assert!(check_object_name(name).is_err(), "{name}");
        }
        assert_eq!(check_namespace(&label), Ok(()));
        let too_long = format!("{label}a");
        for name in ["", "a.b", "-a", "A", &too_long] {
            assert!(check_namespace(name).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in any::<String>()) {
            let _ = (ObjectKind::parse(&text), check_object_name(&text), check_namespace(&text));
        }
    }
}
