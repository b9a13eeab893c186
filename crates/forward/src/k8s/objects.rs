//! The parts of Kubernetes objects that are read here. Everything may be missing: what an old or a new server leaves
//! out or adds must not stop a forward.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// What a list, a watch and the resolution need to know of any object.
pub(crate) trait Object: DeserializeOwned + Clone + Send + Sync + 'static {
    /// The object's metadata.
    fn meta(&self) -> &ObjectMeta;
}

/// Name, identity and age of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ObjectMeta {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) name: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) namespace: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) uid: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) resource_version: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) labels: BTreeMap<String, String>,
    /// Set as soon as somebody asked for the object's end.
    pub(crate) deletion_timestamp: Option<String>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Pod {
    pub(crate) metadata: ObjectMeta,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) spec: PodSpec,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) status: PodStatus,
}

/// What a pod should run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodSpec {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) containers: Vec<Container>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) init_containers: Vec<Container>,
    pub(crate) node_name: Option<String>,
}

/// A container of a pod, as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Container {
    pub(crate) name: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) image: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) ports: Vec<ContainerPort>,
    /// `Always` on an init container makes it a sidecar.
    pub(crate) restart_policy: Option<String>,
}

/// A port that a container declares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerPort {
    pub(crate) name: Option<String>,
    pub(crate) container_port: u16,
    pub(crate) protocol: Option<String>,
}

/// How a pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodStatus {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) phase: String,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
    #[serde(rename = "podIP")]
    pub(crate) pod_ip: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) conditions: Vec<PodCondition>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) init_container_statuses: Vec<ContainerStatus>,
}

/// One statement about a pod: `Ready`, `PodScheduled` and others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodCondition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
}

/// How a container is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerStatus {
    pub(crate) name: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) image: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) ready: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) restart_count: u32,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) state: ContainerState,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) last_state: ContainerState,
}

/// What a container does now, or did before its last restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerState {
    pub(crate) waiting: Option<Waiting>,
    pub(crate) running: Option<Running>,
    pub(crate) terminated: Option<Terminated>,
}

/// A container that does not run yet, or not again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Waiting {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
}

/// A container that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Running {
    pub(crate) started_at: Option<String>,
}

/// A container that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Terminated {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) exit_code: i32,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Service {
    pub(crate) metadata: ObjectMeta,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) spec: ServiceSpec,
}

/// What a service offers and to whom it leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ServiceSpec {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) selector: BTreeMap<String, String>,
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: Option<String>,
    pub(crate) external_name: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) ports: Vec<ServicePort>,
    /// Pods that are not ready are published as if they were.
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) publish_not_ready_addresses: bool,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ServicePort {
    pub(crate) name: Option<String>,
    pub(crate) port: u16,
    pub(crate) target_port: Option<TargetPort>,
    pub(crate) protocol: Option<String>,
}

/// The pod's port behind a service's port: its number, or the name that the pod gives it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum TargetPort {
    /// The number itself.
    Number(u16),
    /// A name, looked up in each pod.
    Name(String),
}

/// A part of the endpoints of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct EndpointSlice {
    pub(crate) metadata: ObjectMeta,
    pub(crate) address_type: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) ports: Vec<EndpointPort>,
}

/// Who answers for a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Endpoint {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) addresses: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) conditions: EndpointConditions,
    pub(crate) target_ref: Option<TargetRef>,
    pub(crate) node_name: Option<String>,
}

/// How an endpoint is; what is not said counts as good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct EndpointConditions {
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
}

/// The object behind an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct TargetRef {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) name: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) namespace: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) uid: String,
}

/// A port that all endpoints of a slice have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct EndpointPort {
    pub(crate) name: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) protocol: Option<String>,
}

/// A deployment, stateful set, replica set or job: all that matters is which pods are its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Workload {
    pub(crate) metadata: ObjectMeta,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) spec: WorkloadSpec,
}

/// Which pods a workload owns, and how many it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct WorkloadSpec {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) selector: LabelSelector,
    pub(crate) replicas: Option<u32>,
    /// A job that is suspended starts no pods.
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) suspend: bool,
}

/// A condition on labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct LabelSelector {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) match_labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) match_expressions: Vec<LabelRequirement>,
}

/// One term of a condition on labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct LabelRequirement {
    pub(crate) key: String,
    pub(crate) operator: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) values: Vec<String>,
}

/// One page of a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "T: DeserializeOwned"))]
pub(crate) struct List<T> {
    #[serde(default)]
    pub(crate) metadata: ListMeta,
    #[serde(default = "Vec::new", deserialize_with = "null_is_default")]
    pub(crate) items: Vec<T>,
}

/// Where a list ends and a watch goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ListMeta {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) resource_version: String,
    /// Present when there are more pages.
    #[serde(rename = "continue")]
    pub(crate) next: Option<String>,
}

impl Pod {
    /// The condition of that type.
    pub(crate) fn condition(&self, kind: &str) -> Option<&PodCondition> {
        self.status.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Whether the pod passed all that its readiness depends on.
    pub(crate) fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(|condition| condition.status == "True")
    }

    /// Whether somebody asked for the pod's end.
    pub(crate) const fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// The containers that live as long as the pod: the main ones, then the sidecars.
    pub(crate) fn lasting_containers(&self) -> impl Iterator<Item = &Container> {
        let sidecars = self.spec.init_containers.iter().filter(|container| container.is_sidecar());
        self.spec.containers.iter().chain(sidecars)
    }

    /// The declared ports of those.
    pub(crate) fn ports(&self) -> impl Iterator<Item = &ContainerPort> {
        self.lasting_containers().flat_map(|container| &container.ports)
    }

    /// The number of a named TCP port.
    pub(crate) fn named_port(&self, name: &str) -> Option<u16> {
        let named = |port: &&ContainerPort| port.name.as_deref() == Some(name) && is_tcp(port.protocol.as_deref());
        self.ports().find(named).map(|port| port.container_port)
    }
}

impl Container {
    /// Whether this init container goes on beside the main ones.
    pub(crate) fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

impl Service {
    /// Whether the service has no address of its own.
    pub(crate) fn is_headless(&self) -> bool {
        self.spec.cluster_ip.as_deref() == Some("None")
    }
}

impl LabelSelector {
    /// The selector as the API server's query understands it; `None` when it selects nothing in particular.
    pub(crate) fn to_query(&self) -> Option<String> {
        let labels = self.match_labels.iter().map(|(key, value)| format!("{key}={value}"));
        let terms: Vec<_> =
            labels.chain(self.match_expressions.iter().filter_map(LabelRequirement::to_query)).collect();
        (!terms.is_empty()).then(|| terms.join(","))
    }
}

impl LabelRequirement {
    fn to_query(&self) -> Option<String> {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator.as_str() {
            "In" => Some(format!("{key} in ({values})")),
            "NotIn" => Some(format!("{key} notin ({values})")),
            "Exists" => Some(key.clone()),
            "DoesNotExist" => Some(format!("!{key}")),
            _ => None,
        }
    }
}

impl Object for Pod {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for Service {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for EndpointSlice {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for Workload {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// The selector of a service as a query; `None` when it has none.
pub(crate) fn labels_query(labels: &BTreeMap<String, String>) -> Option<String> {
    let terms: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    (!terms.is_empty()).then(|| terms.join(","))
}

/// Whether a protocol, as written in a port, is TCP: also when nothing is written.
pub(crate) fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

/// Go writes empty lists and maps as `null`.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_read_however_little_is_written_in_them() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        assert_eq!(pod.metadata.name, "a");
        assert!(!pod.is_ready() && !pod.is_terminating());
        let slice: EndpointSlice =
            serde_json::from_value(json!({"metadata": {}, "endpoints": null, "ports": null})).unwrap();
        assert!(slice.endpoints.is_empty() && slice.ports.is_empty());
        let list: List<Service> = serde_json::from_value(json!({"items": null})).unwrap();
        assert!(list.items.is_empty() && list.metadata.next.is_none());
    }

    #[test]
    fn what_is_not_known_here_is_passed_over() {
        let pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "managedFields": [{"x": 1}], "labels": null},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}], "nodeName": "n"},
            "status": {"podIP": "10.0.0.1", "qosClass": "Burstable"}
        }))
        .unwrap();
        assert_eq!(pod.status.pod_ip.as_deref(), Some("10.0.0.1"));
        assert_eq!(pod.spec.node_name.as_deref(), Some("n"));
    }

    #[test]
    fn a_target_port_is_a_number_or_a_name() {
        let port: ServicePort = serde_json::from_value(json!({"port": 80, "targetPort": 8080})).unwrap();
        assert_eq!(port.target_port, Some(TargetPort::Number(8080)));
        let port: ServicePort = serde_json::from_value(json!({"port": 80, "targetPort": "web"})).unwrap();
        assert_eq!(port.target_port, Some(TargetPort::Name("web".into())));
    }

    #[test]
    fn a_named_port_is_found_in_containers_and_sidecars_but_not_in_mere_init_containers() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}],
            "initContainers": [
                {"name": "i", "ports": [{"name": "once", "containerPort": 1}]},
                {"name": "s", "restartPolicy": "Always", "ports": [{"name": "mesh", "containerPort": 2}]}
            ]
        }}))
        .unwrap();
        assert_eq!(pod.named_port("web"), Some(80));
        assert_eq!(pod.named_port("mesh"), Some(2));
        assert_eq!(pod.named_port("once"), None);
        assert_eq!(pod.named_port("dns"), None);
    }

    #[test]
    fn a_label_selector_becomes_the_text_of_a_query() {
        let selector: LabelSelector = serde_json::from_value(json!({
            "matchLabels": {"app": "web", "tier": "x"},
            "matchExpressions": [
                {"key": "a", "operator": "In", "values": ["1", "2"]}, {"key": "b", "operator": "NotIn", "values": ["3"]},
                {"key": "c", "operator": "Exists"}, {"key": "d", "operator": "DoesNotExist"}, {"key": "e", "operator": "Gt"}
            ]
        }))
        .unwrap();
        assert_eq!(selector.to_query().unwrap(), "app=web,tier=x,a in (1,2),b notin (3),c,!d");
        assert_eq!(LabelSelector::default().to_query(), None);
    }
}
