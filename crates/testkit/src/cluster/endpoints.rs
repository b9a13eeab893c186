//! EndpointSlices, kept the way the endpoint slice controller keeps them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::{ENDPOINT_SLICE, POD, SERVICE};
use super::selector::covers;
use super::store::suffix;
use super::{Shared, objects};

/// The label that names a slice's service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that names who keeps a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// Brings the slices of all services in a namespace up to date.
pub(super) fn keep(shared: &Shared, namespace: &str) {
    let (_, services) = shared.store.list(SERVICE, Some(namespace));
    let (_, pods) = shared.store.list(POD, Some(namespace));
    let mut kept = Vec::new();
    for service in services.iter().filter(|service| !service["spec"]["selector"].is_null()) {
        for slice in slices(service, &pods) {
            let name = slice["metadata"]["name"].as_str().unwrap_or("").to_owned();
            let same = shared.store.get(ENDPOINT_SLICE, namespace, &name).is_some_and(|now| {
                now["endpoints"] == slice["endpoints"]
                    && now["ports"] == slice["ports"]
                    && now["metadata"]["labels"] == slice["metadata"]["labels"]
            });
            if !same {
                shared.store.put(slice);
            }
            kept.push(name);
        }
    }
    for slice in shared.store.list(ENDPOINT_SLICE, Some(namespace)).1 {
        let name = slice["metadata"]["name"].as_str().unwrap_or("");
        if slice["metadata"]["labels"][MANAGED_BY] == CONTROLLER && !kept.iter().any(|kept| kept == name) {
            shared.store.delete(ENDPOINT_SLICE, namespace, name);
        }
    }
}

/// The slices of one service: pods that give its ports the same numbers share one.
fn slices(service: &Value, pods: &[Arc<Value>]) -> Vec<Value> {
    let selector = &service["spec"]["selector"];
    let mut groups: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| covers(selector, &pod["metadata"]["labels"]) && counts(pod)) {
        let ports = ports(service, pod);
        let group = groups.entry(ports.to_string()).or_insert_with(|| (ports, Vec::new()));
        group.1.push(endpoint(service, pod));
    }
    if groups.is_empty() {
        return vec![slice(service, 0, &Value::Null, Value::Null)];
    }
    let numbers = groups.into_values().map(|(ports, endpoints)| {
        // The first number of the first port tells slices of one service apart, and stays when pods come and go.
        let seed = ports[0]["port"].as_u64().unwrap_or(0);
        slice(service, seed, &ports, json!(endpoints))
    });
    numbers.collect()
}

/// Whether a pod is an endpoint at all: it has an address and has not ended.
fn counts(pod: &Value) -> bool {
    !pod["status"]["podIP"].is_null() && !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn slice(service: &Value, seed: u64, ports: &Value, endpoints: Value) -> Value {
    let metadata = &service["metadata"];
    let name = metadata["name"].as_str().unwrap_or("");
    // A service without endpoints keeps one empty slice, so names must not depend on the ports alone.
    let mixed = name.bytes().fold(seed, |mixed, byte| mixed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut labels = json!({ SERVICE_NAME: name, MANAGED_BY: CONTROLLER });
    if service["spec"]["clusterIP"] == "None" {
        labels["service.kubernetes.io/headless"] = json!("");
    }
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        labels[key] = value.clone();
    }
    json!({
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{name}-{}", suffix(mixed)), "namespace": metadata["namespace"],
            "generateName": format!("{name}-"), "labels": labels,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": name, "uid": metadata["uid"],
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "endpoints": if endpoints.is_null() { json!([]) } else { endpoints },
        "ports": if ports.is_null() { json!([]) } else { ports.clone() },
    })
}

fn endpoint(service: &Value, pod: &Value) -> Value {
    let metadata = &pod["metadata"];
    let terminating = !metadata["deletionTimestamp"].is_null();
    let serving = objects::has(pod, "Ready");
    let always = service["spec"]["publishNotReadyAddresses"] == true;
    json!({
        "addresses": [pod["status"]["podIP"]],
        "conditions": { "ready": always || (serving && !terminating), "serving": always || serving, "terminating": terminating },
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {
            "kind": "Pod", "namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"],
        },
    })
}

/// A service's ports with the numbers of this pod; a name the pod does not have is left out.
fn ports(service: &Value, pod: &Value) -> Value {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let resolved = ports.filter_map(|port| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let number = match &port["targetPort"] {
            Value::String(name) => named_port(pod, name, protocol)?,
            Value::Number(number) => json!(number),
            _ => port["port"].clone(),
        };
        Some(json!({ "name": port["name"].as_str().unwrap_or(""), "port": number, "protocol": protocol }))
    });
    resolved.collect()
}

fn named_port(pod: &Value, name: &str, protocol: &str) -> Option<Value> {
    let containers = pod["spec"]["containers"].as_array()?;
    let mut ports = containers.iter().filter_map(|container| container["ports"].as_array()).flatten();
    let port = ports.find(|port| port["name"] == name && port["protocol"].as_str().unwrap_or("TCP") == protocol)?;
    Some(port["containerPort"].clone())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{SERVICE_NAME, ports};
    use crate::cluster::{Cluster, ClusterOptions, PodSpec, ServicePort, kinds};

    fn slices(cluster: &Cluster, service: &str) -> Vec<Value> {
        let (_, slices) = cluster.shared.store.list(kinds::ENDPOINT_SLICE, Some("default"));
        let mine = slices.iter().filter(|slice| slice["metadata"]["labels"][SERVICE_NAME] == service);
        mine.map(|slice| (**slice).clone()).collect()
    }

    async fn cluster() -> Cluster {
        let cluster = Cluster::start(ClusterOptions::default()).await;
        cluster.add_service("default", "web", &[("app", "web")], &[ServicePort::new(80).to_named("http")]);
        cluster
    }

    fn web(name: &str, port: u16) -> PodSpec {
        PodSpec::new("default", name).label("app", "web").port("http", port)
    }

    #[tokio::test]
    async fn a_service_follows_its_pods() {
        let cluster = cluster().await;
        assert_eq!(slices(&cluster, "web")[0]["endpoints"], json!([]));
        cluster.add_pod(web("a", 8080));
        cluster.add_pod(web("b", 8080).ready(false));
        let conditions = |cluster: &Cluster, index: usize| {
            let found = slices(cluster, "web");
            assert_eq!(found.len(), 1);
            let all = &found[0]["endpoints"][index]["conditions"];
            (all["ready"] == true, all["serving"] == true, all["terminating"] == true)
        };
        assert_eq!(conditions(&cluster, 0), (true, true, false));
        assert_eq!(conditions(&cluster, 1), (false, false, false));
        cluster.set_ready("default", "b", true);
        cluster.terminate("default", "a");
        assert_eq!(conditions(&cluster, 0), (false, true, true));
        assert_eq!(conditions(&cluster, 1), (true, true, false));
        cluster.delete("Pod", "default", "a");
        assert_eq!(slices(&cluster, "web")[0]["endpoints"][0]["targetRef"]["name"], "b");
        cluster.delete("Service", "default", "web");
        assert!(slices(&cluster, "web").is_empty());
    }

    #[tokio::test]
    async fn pods_that_number_a_named_port_differently_are_in_different_slices() {
        let cluster = cluster().await;
        cluster.add_pod(web("a", 8080));
        cluster.add_pod(web("b", 9090));
        let numbers: Vec<Value> =
            slices(&cluster, "web").iter().map(|slice| slice["ports"][0]["port"].clone()).collect();
        assert_eq!(numbers.len(), 2);
        assert!(numbers.contains(&json!(8080)) && numbers.contains(&json!(9090)));
    }

    #[test]
    fn a_name_the_pod_does_not_have_is_left_out() {
        let service =
            json!({ "spec": { "ports": [{ "port": 80, "targetPort": "none" }, { "port": 81, "name": "x" }] } });
        let pod = PodSpec::new("default", "a").object("10.0.0.1");
        assert_eq!(ports(&service, &pod), json!([{ "name": "x", "port": 81, "protocol": "TCP" }]));
    }
}
