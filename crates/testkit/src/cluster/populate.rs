//! What tests put into a cluster in one line.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::kinds::{self, EVENT, POD};
use super::objects::{self, NODE, PodSpec, ServicePort};
use super::{Cluster, Shared, clock, delete};

/// What every cluster has.
pub(super) fn base(shared: &Shared) {
    for name in ["default", "kube-system"] {
        shared.put(json!({
            "kind": "Namespace",
            "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name } },
            "spec": { "finalizers": ["kubernetes"] }, "status": { "phase": "Active" },
        }));
    }
    shared.put(json!({
        "kind": "Node",
        "metadata": { "name": NODE, "labels": { "kubernetes.io/hostname": NODE } },
        "status": {
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
            "addresses": [{ "type": "InternalIP", "address": "192.168.0.1" }],
            "nodeInfo": { "kubeletVersion": shared.options.version.git_version() },
        },
    }));
    let port = shared.listener.address().port();
    let labels = json!({ "component": "apiserver", "provider": "kubernetes" });
    shared.put(json!({
        "kind": "Service", "metadata": { "name": "kubernetes", "namespace": "default", "labels": labels },
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ports": [{ "name": "https", "port": 443, "targetPort": port, "protocol": "TCP" }],
        },
        "status": { "loadBalancer": {} },
    }));
    shared.put(json!({
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": "kubernetes", "namespace": "default", "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "endpoints": [{ "addresses": ["192.168.0.1"], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
    }));
}

impl Cluster {
    /// Adds a pod, or replaces the one of that name by a new one.
    #[expect(clippy::needless_pass_by_value, reason = "a description is built for this one call")]
    pub fn add_pod(&self, pod: PodSpec) {
        self.shared.remove(POD, &pod.namespace, &pod.name);
        for (port, addr) in &pod.backends {
            self.set_backend(&pod.namespace, &pod.name, *port, Some(*addr));
        }
        let mut object = pod.object(&self.shared.next_ip());
        if let Some((kind, name)) = &pod.owner {
            let place = kinds::named(kind).expect("a kind of this cluster");
            let owner = self.shared.store.get(place, &pod.namespace, name);
            let uid =
                owner.map_or(json!("00000000-0000-4000-8000-000000000000"), |owner| owner["metadata"]["uid"].clone());
            object["metadata"]["ownerReferences"] = json!([{
                "apiVersion": kinds::KINDS[place].api_version(), "kind": kinds::KINDS[place].kind, "name": name,
                "uid": uid, "controller": true, "blockOwnerDeletion": true,
            }]);
        }
        self.shared.put(object);
    }

    /// Makes a pod ready or not.
    pub fn set_ready(&self, ns: &str, pod: &str, ready: bool) {
        self.change_pod(ns, pod, |pod| objects::set_ready(pod, ready));
    }

    /// Marks a pod as terminating; it stays until [`Cluster::delete`].
    pub fn terminate(&self, ns: &str, pod: &str) {
        self.change_pod(ns, pod, |pod| delete::mark(pod, 30));
    }

    /// Sets a pod's phase with a reason and a message (`""`: none): `"Failed", "Evicted", "The node was low on …"`.
    pub fn set_phase(&self, ns: &str, pod: &str, phase: &str, reason: &str, message: &str) {
        self.change_pod(ns, pod, |pod| objects::set_phase(pod, phase, reason, message));
    }

    /// Makes a pod's containers wait: `"ImagePullBackOff"`, `"CrashLoopBackOff"`, with the message beside it.
    pub fn set_waiting(&self, ns: &str, pod: &str, reason: &str, message: &str) {
        let ip = self.shared.next_ip();
        self.change_pod(ns, pod, |pod| objects::wait(pod, &ip, reason, message));
    }

    /// Takes a pod's node away, with the scheduler's reason.
    pub fn set_unschedulable(&self, ns: &str, pod: &str, message: &str) {
        self.change_pod(ns, pod, |pod| objects::unschedulable(pod, message));
    }

    /// Makes a pod run that did not.
    pub fn set_running(&self, ns: &str, pod: &str, ready: bool) {
        let ip = self.shared.next_ip();
        self.change_pod(ns, pod, |pod| objects::run(pod, &ip, ready));
    }

    /// Restarts the containers of a pod: their open streams end, new ones work.
    pub fn restart_containers(&self, ns: &str, pod: &str) {
        self.change_pod(ns, pod, objects::restart);
    }

    /// Adds a service for the pods with these labels; its EndpointSlices follow them from now on.
    pub fn add_service(&self, ns: &str, name: &str, selector: &[(&str, &str)], ports: &[ServicePort]) {
        self.service(ns, name, selector, ports, &json!({}));
    }

    /// The same without an address of its own.
    pub fn add_headless(&self, ns: &str, name: &str, selector: &[(&str, &str)], ports: &[ServicePort]) {
        self.service(ns, name, selector, ports, &json!({ "clusterIP": "None", "clusterIPs": ["None"] }));
    }

    /// A service without a selector; its endpoints are whatever [`Cluster::add_endpoints`] says.
    pub fn add_selectorless(&self, ns: &str, name: &str, ports: &[ServicePort]) {
        self.service(ns, name, &[], ports, &json!({ "selector": null }));
    }

    /// A service that is another name for a host.
    pub fn add_external_name(&self, ns: &str, name: &str, host: &str) {
        let spec = json!({
            "type": "ExternalName", "externalName": host, "selector": null, "clusterIP": null, "clusterIPs": null,
        });
        self.service(ns, name, &[], &[], &spec);
    }

    /// Endpoints by hand: addresses, each with the pod behind it or none.
    pub fn add_endpoints(&self, ns: &str, service: &str, port: (&str, u16), endpoints: &[(&str, Option<&str>)]) {
        let endpoint = |(address, pod): &(&str, Option<&str>)| {
            let mut endpoint = json!({ "addresses": [address], "conditions": { "ready": true } });
            if let Some(pod) = pod {
                endpoint["targetRef"] = json!({ "kind": "Pod", "namespace": ns, "name": pod });
            }
            endpoint
        };
        self.apply(json!({
            "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": format!("{service}-manual"), "namespace": ns,
                "labels": { "kubernetes.io/service-name": service },
            },
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": [{ "name": port.0, "port": port.1, "protocol": "TCP" }],
        }));
    }

    /// Adds a deployment that selects these labels; its pods are added by the test.
    pub fn add_deployment(&self, ns: &str, name: &str, selector: &[(&str, &str)]) {
        self.workload("Deployment", ns, name, selector);
    }

    /// Adds a stateful set.
    pub fn add_statefulset(&self, ns: &str, name: &str, selector: &[(&str, &str)]) {
        self.workload("StatefulSet", ns, name, selector);
    }

    /// Adds a replica set.
    pub fn add_replicaset(&self, ns: &str, name: &str, selector: &[(&str, &str)]) {
        self.workload("ReplicaSet", ns, name, selector);
    }

    /// Adds a daemon set.
    pub fn add_daemonset(&self, ns: &str, name: &str, selector: &[(&str, &str)]) {
        self.workload("DaemonSet", ns, name, selector);
    }

    /// Adds a job.
    pub fn add_job(&self, ns: &str, name: &str, selector: &[(&str, &str)]) {
        self.workload("Job", ns, name, selector);
    }

    /// Adds an event about a pod: `"Warning", "FailedScheduling", "0/1 nodes are available"`.
    pub fn add_event(&self, ns: &str, pod: &str, level: &str, reason: &str, message: &str) {
        let uid = self.shared.pod(ns, pod).map_or(Value::Null, |pod| pod["metadata"]["uid"].clone());
        let name = format!("{pod}.{:x}", self.shared.store.version());
        let now = clock::timestamp();
        let place = &kinds::KINDS[EVENT];
        self.apply(json!({
            "kind": place.kind, "metadata": { "name": name, "namespace": ns },
            "involvedObject": { "kind": "Pod", "namespace": ns, "name": pod, "uid": uid, "apiVersion": "v1" },
            "type": level, "reason": reason, "message": message, "count": 1,
            "firstTimestamp": now, "lastTimestamp": now, "source": { "component": "kubelet" },
        }));
    }

    /// Where all ports of a service's pods lead: a shortcut over [`Cluster::set_backend`].
    pub fn set_backends(&self, ns: &str, pods: &[&str], port: u16, addr: Option<SocketAddr>) {
        for pod in pods {
            self.set_backend(ns, pod, port, addr);
        }
    }

    fn service(&self, ns: &str, name: &str, selector: &[(&str, &str)], ports: &[ServicePort], spec: &Value) {
        let ip = self.shared.next_ip().replace("10.244.", "10.96.");
        let mut object = json!({
            "kind": "Service", "metadata": { "name": name, "namespace": ns },
            "spec": {
                "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "selector": labels(selector),
                "ports": ports.iter().map(ServicePort::object).collect::<Vec<_>>(),
            },
            "status": { "loadBalancer": {} },
        });
        super::patch::merge(&mut object["spec"], spec);
        self.apply(object);
    }

    fn workload(&self, kind: &str, ns: &str, name: &str, selector: &[(&str, &str)]) {
        let labels = labels(selector);
        self.apply(json!({
            "kind": kind, "metadata": { "name": name, "namespace": ns, "labels": labels },
            "spec": {
                "replicas": 1, "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": { "containers": [{ "name": "main", "image": "example/main:1" }] },
                },
            },
            "status": {},
        }));
    }

    fn change_pod(&self, ns: &str, pod: &str, change: impl FnOnce(&mut Value)) {
        let changed = self.shared.update(POD, ns, pod, change);
        assert!(changed.is_some(), "no pod {ns}/{pod}");
    }
}

fn labels(pairs: &[(&str, &str)]) -> Value {
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    objects::map(&pairs)
}
