//! The kinds of object this cluster knows.

/// One kind, as discovery describes it.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) plural: &'static str,
    pub(super) singular: &'static str,
    pub(super) kind: &'static str,
    pub(super) short: &'static [&'static str],
    pub(super) namespaced: bool,
    /// Whether `kubectl get all` shows it.
    pub(super) in_all: bool,
    /// Subresources with their kind and verbs.
    pub(super) subresources: &'static [(&'static str, &'static str, &'static [&'static str])],
}

pub(super) const POD: usize = 0;
pub(super) const SERVICE: usize = 1;
pub(super) const ENDPOINT_SLICE: usize = 2;
pub(super) const DEPLOYMENT: usize = 3;
pub(super) const REPLICA_SET: usize = 4;
pub(super) const STATEFUL_SET: usize = 5;
pub(super) const DAEMON_SET: usize = 6;
pub(super) const JOB: usize = 7;
pub(super) const NAMESPACE: usize = 8;
pub(super) const NODE: usize = 9;
pub(super) const EVENT: usize = 10;

const STREAM: &[&str] = &["create", "get"];
const STATUS: &[&str] = &["get", "patch", "update"];
const POD_SUBRESOURCES: &[(&str, &str, &[&str])] = &[
    ("exec", "PodExecOptions", STREAM),
    ("log", "Pod", &["get"]),
    ("portforward", "PodPortForwardOptions", STREAM),
    ("status", "Pod", STATUS),
];

/// All of them; the constants above are places in it.
pub(super) static KINDS: [Kind; 15] = [
    Kind { short: &["po"], in_all: true, subresources: POD_SUBRESOURCES, ..core("pods", "pod", "Pod") },
    Kind { short: &["svc"], in_all: true, ..core("services", "service", "Service") },
    Kind { group: "discovery.k8s.io", in_all: false, ..apps("endpointslices", "endpointslice", "EndpointSlice", &[]) },
    Kind {
        subresources: &[("status", "Deployment", STATUS)],
        ..apps("deployments", "deployment", "Deployment", &["deploy"])
    },
    Kind {
        subresources: &[("status", "ReplicaSet", STATUS)],
        ..apps("replicasets", "replicaset", "ReplicaSet", &["rs"])
    },
    Kind {
        subresources: &[("status", "StatefulSet", STATUS)],
        ..apps("statefulsets", "statefulset", "StatefulSet", &["sts"])
    },
    apps("daemonsets", "daemonset", "DaemonSet", &["ds"]),
    Kind { group: "batch", ..apps("jobs", "job", "Job", &[]) },
    Kind { short: &["ns"], namespaced: false, ..core("namespaces", "namespace", "Namespace") },
    Kind { short: &["no"], namespaced: false, ..core("nodes", "node", "Node") },
    Kind { short: &["ev"], ..core("events", "event", "Event") },
    Kind { short: &["cm"], ..core("configmaps", "configmap", "ConfigMap") },
    core("secrets", "secret", "Secret"),
    Kind { short: &["sa"], ..core("serviceaccounts", "serviceaccount", "ServiceAccount") },
    Kind {
        short: &["rc"],
        in_all: true,
        ..core("replicationcontrollers", "replicationcontroller", "ReplicationController")
    },
];

impl Kind {
    /// `v1` or `apps/v1`.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods` or `deployments.apps`, as error messages have it.
    pub(super) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// The place of a kind by any of its names.
pub(super) fn named(name: &str) -> Option<usize> {
    KINDS.iter().position(|kind| {
        let names = [kind.kind, kind.plural, kind.singular];
        names.iter().chain(kind.short).any(|known| known.eq_ignore_ascii_case(name))
    })
}

/// The place of a kind by its resource path.
pub(super) fn resource(group: &str, version: &str, plural: &str) -> Option<usize> {
    KINDS.iter().position(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

const fn core(plural: &'static str, singular: &'static str, kind: &'static str) -> Kind {
    Kind {
        group: "",
        version: "v1",
        plural,
        singular,
        kind,
        short: &[],
        namespaced: true,
        in_all: false,
        subresources: &[],
    }
}

const fn apps(
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
) -> Kind {
    Kind { group: "apps", short, in_all: true, ..core(plural, singular, kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constants_name_their_places() {
        let places = [
            (POD, "Pod"),
            (SERVICE, "Service"),
            (ENDPOINT_SLICE, "EndpointSlice"),
            (DEPLOYMENT, "Deployment"),
            (REPLICA_SET, "ReplicaSet"),
            (STATEFUL_SET, "StatefulSet"),
            (DAEMON_SET, "DaemonSet"),
            (JOB, "Job"),
            (NAMESPACE, "Namespace"),
            (NODE, "Node"),
            (EVENT, "Event"),
        ];
        for (place, kind) in places {
            assert_eq!(KINDS[place].kind, kind);
            assert_eq!(named(KINDS[place].plural), Some(place));
        }
        assert_eq!(named("po"), Some(POD));
        assert_eq!(resource("apps", "v1", "deployments"), Some(DEPLOYMENT));
        assert_eq!(resource("", "v1", "deployments"), None);
    }
}
