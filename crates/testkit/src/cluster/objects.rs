//! Pods and services as tests describe them, and the states a pod goes through.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::clock;

/// The one node.
pub(super) const NODE: &str = "node-1";

/// A pod to add: running and ready unless it says otherwise.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) labels: Vec<(String, String)>,
    pub(super) annotations: Vec<(String, String)>,
    pub(super) containers: Vec<Container>,
    pub(super) ready: bool,
    pub(super) owner: Option<(String, String)>,
    pub(super) backends: Vec<(u16, SocketAddr)>,
}

/// One container of a pod.
#[derive(Clone, Debug)]
pub(super) struct Container {
    name: String,
    image: String,
    ports: Vec<(String, u16, &'static str)>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    name: Option<String>,
    port: u16,
    target: Value,
    protocol: &'static str,
}

impl PodSpec {
    /// A pod with one container `main` of the image `example/main:1`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: Vec::new(),
            annotations: Vec::new(),
            containers: vec![Container::new("main", "example/main:1")],
            ready: true,
            owner: None,
            backends: Vec::new(),
        }
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Names a port of the last container (`""`: without a name).
    #[must_use]
    pub fn port(self, name: &str, port: u16) -> Self {
        self.any_port(name, port, "TCP")
    }

    /// Names a UDP port of the last container.
    #[must_use]
    pub fn udp_port(self, name: &str, port: u16) -> Self {
        self.any_port(name, port, "UDP")
    }

    /// Sets the image of the last container.
    #[must_use]
    pub fn image(mut self, image: &str) -> Self {
        if let Some(container) = self.containers.last_mut() {
            image.clone_into(&mut container.image);
        }
        self
    }

    /// Adds another container; ports and images named from now on are its own.
    #[must_use]
    pub fn container(mut self, name: &str) -> Self {
        self.containers.push(Container::new(name, &format!("example/{name}:1")));
        self
    }

    /// Whether it is ready.
    #[must_use]
    pub fn ready(mut self, ready: bool) -> Self {
        self.ready = ready;
        self
    }

    /// Sets the controller that owns it.
    #[must_use]
    pub fn owner(mut self, kind: &str, name: &str) -> Self {
        self.owner = Some((kind.to_owned(), name.to_owned()));
        self
    }

    /// Leads a port to an address of this machine.
    #[must_use]
    pub fn backend(mut self, port: u16, addr: SocketAddr) -> Self {
        self.backends.push((port, addr));
        self
    }

    /// The pod's object, running with this address.
    pub(super) fn object(&self, ip: &str) -> Value {
        let mut pod = json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": { "name": self.name, "namespace": self.namespace, "labels": map(&self.labels) },
            "spec": {
                "nodeName": NODE, "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
                "serviceAccountName": "default",
                "containers": self.containers.iter().map(Container::object).collect::<Vec<_>>(),
            },
            "status": {},
        });
        if !self.annotations.is_empty() {
            pod["metadata"]["annotations"] = map(&self.annotations);
        }
        run(&mut pod, ip, self.ready);
        pod
    }

    fn any_port(mut self, name: &str, port: u16, protocol: &'static str) -> Self {
        if let Some(container) = self.containers.last_mut() {
            container.ports.push((name.to_owned(), port, protocol));
        }
        self
    }
}

impl Container {
    fn new(name: &str, image: &str) -> Self {
        Self { name: name.to_owned(), image: image.to_owned(), ports: Vec::new() }
    }

    fn object(&self) -> Value {
        let port = |(name, port, protocol): &(String, u16, &str)| {
            let mut object = json!({ "containerPort": port, "protocol": protocol });
            if !name.is_empty() {
                object["name"] = json!(name);
            }
            object
        };
        let ports: Vec<Value> = self.ports.iter().map(port).collect();
        json!({ "name": self.name, "image": self.image, "ports": ports, "imagePullPolicy": "IfNotPresent" })
    }
}

impl ServicePort {
    /// A port that leads to the same port of the pods.
    pub fn new(port: u16) -> Self {
        Self { name: None, port, target: json!(port), protocol: "TCP" }
    }

    /// Names it.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Leads it to another port of the pods.
    #[must_use]
    pub fn to(mut self, port: u16) -> Self {
        self.target = json!(port);
        self
    }

    /// Leads it to a named port of the pods, whatever number each gives it.
    #[must_use]
    pub fn to_named(mut self, name: &str) -> Self {
        self.target = json!(name);
        self
    }

    /// Makes it a UDP port.
    #[must_use]
    pub fn udp(mut self) -> Self {
        self.protocol = "UDP";
        self
    }

    pub(super) fn object(&self) -> Value {
        let mut port = json!({ "port": self.port, "targetPort": self.target, "protocol": self.protocol });
        if let Some(name) = &self.name {
            port["name"] = json!(name);
        }
        port
    }
}

/// Makes a pod run.
pub(super) fn run(pod: &mut Value, ip: &str, ready: bool) {
    place(pod, ip);
    pod["status"]["phase"] = json!("Running");
    set_ready(pod, ready);
    let now = clock::timestamp();
    statuses(pod, |status| status["state"] = json!({ "running": { "startedAt": now } }));
}

/// Makes a pod ready or not, with its containers.
pub(super) fn set_ready(pod: &mut Value, ready: bool) {
    condition(pod, "Ready", ready, (!ready).then_some(("ContainersNotReady", "containers with unready status")));
    condition(pod, "ContainersReady", ready, None);
    statuses(pod, |status| {
        status["ready"] = json!(ready);
        status["started"] = json!(true);
    });
}

/// Makes the containers of a pod wait for a reason.
pub(super) fn wait(pod: &mut Value, ip: &str, reason: &str, message: &str) {
    place(pod, ip);
    // A container that has crashed has run before; what cannot be pulled has not.
    let crashed = reason == "CrashLoopBackOff";
    pod["status"]["phase"] = json!(if crashed { "Running" } else { "Pending" });
    set_ready(pod, false);
    statuses(pod, |status| {
        status["state"] = json!({ "waiting": { "reason": reason, "message": message } });
        status["started"] = json!(false);
        if crashed {
            status["restartCount"] = json!(status["restartCount"].as_u64().unwrap_or(0).max(1));
            status["lastState"] = json!({ "terminated": { "exitCode": 1, "reason": "Error" } });
        }
    });
}

/// Makes a pod wait for a node.
pub(super) fn unschedulable(pod: &mut Value, message: &str) {
    if let Some(spec) = pod["spec"].as_object_mut() {
        spec.remove("nodeName");
    }
    pod["status"] = json!({ "phase": "Pending", "qosClass": "BestEffort" });
    condition(pod, "PodScheduled", false, Some(("Unschedulable", message)));
}

/// Ends the containers of a pod, and the pod.
pub(super) fn end(pod: &mut Value, code: i32) {
    let reason = if code == 0 { "Completed" } else { "Error" };
    pod["status"]["phase"] = json!(if code == 0 { "Succeeded" } else { "Failed" });
    set_ready(pod, false);
    let now = clock::timestamp();
    statuses(pod, |status| {
        status["state"] = json!({ "terminated": { "exitCode": code, "reason": reason, "finishedAt": now } });
    });
}

/// Sets a phase, with reason and message when there are any: `Failed`, `Evicted`, `The node was low on …`.
pub(super) fn set_phase(pod: &mut Value, phase: &str, reason: &str, message: &str) {
    match phase {
        "Succeeded" => end(pod, 0),
        "Failed" => end(pod, 1),
        "Running" => {}
        _ => set_ready(pod, false),
    }
    pod["status"]["phase"] = json!(phase);
    for (field, text) in [("reason", reason), ("message", message)] {
        if !text.is_empty() {
            pod["status"][field] = json!(text);
        }
    }
}

/// Starts the containers of a pod anew, as a crash that is over does.
pub(super) fn restart(pod: &mut Value) {
    let now = clock::timestamp();
    statuses(pod, |status| {
        status["restartCount"] = json!(status["restartCount"].as_u64().unwrap_or(0) + 1);
        status["lastState"] = json!({ "terminated": { "exitCode": 137, "reason": "Error" } });
        status["state"] = json!({ "running": { "startedAt": now } });
    });
}

/// The container a request is for: the one it names, or the only one, or the annotated one. The error names the pod
/// as `{pod}`.
pub(super) fn container(pod: &Value, named: Option<&str>) -> Result<String, String> {
    let containers = pod["spec"]["containers"].as_array();
    let names: Vec<&str> =
        containers.into_iter().flatten().filter_map(|container| container["name"].as_str()).collect();
    match (named.filter(|name| !name.is_empty()), names.as_slice()) {
        (Some(name), names) if names.contains(&name) => Ok(name.to_owned()),
        (Some(name), _) => Err(format!("container {name} is not valid for pod {{pod}}")),
        (None, [only]) => Ok((*only).to_owned()),
        (None, names) => {
            let choice = names.join(" ");
            Err(format!("a container name must be specified for pod {{pod}}, choose one of: [{choice}]"))
        }
    }
}

/// The state of a condition.
pub(super) fn has(pod: &Value, condition: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == condition && one["status"] == "True")
}

pub(super) fn map(pairs: &[(String, String)]) -> Value {
    Value::Object(pairs.iter().map(|(key, value)| (key.clone(), json!(value))).collect::<Map<_, _>>())
}

/// Gives a pod its node and its address.
fn place(pod: &mut Value, ip: &str) {
    if pod["spec"]["nodeName"].is_null() {
        pod["spec"]["nodeName"] = json!(NODE);
    }
    let status = &mut pod["status"];
    if status["podIP"].is_null() {
        status["podIP"] = json!(ip);
        status["podIPs"] = json!([{ "ip": ip }]);
        status["hostIP"] = json!("192.168.0.1");
        status["startTime"] = json!(clock::timestamp());
        status["qosClass"] = json!("BestEffort");
    }
    condition(pod, "PodScheduled", true, None);
    condition(pod, "Initialized", true, None);
}

fn condition(pod: &mut Value, kind: &str, state: bool, why: Option<(&str, &str)>) {
    let state = if state { "True" } else { "False" };
    let status = &mut pod["status"];
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    if conditions.iter().any(|known| known["type"] == kind && known["status"] == state) && why.is_none() {
        return;
    }
    let mut condition = json!({ "type": kind, "status": state, "lastTransitionTime": clock::timestamp() });
    if let Some((reason, message)) = why {
        condition["reason"] = json!(reason);
        condition["message"] = json!(message);
    }
    match conditions.iter_mut().find(|known| known["type"] == kind) {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

/// Changes the status of every container; makes those that are missing.
fn statuses(pod: &mut Value, change: impl Fn(&mut Value)) {
    if !pod["status"]["containerStatuses"].is_array() {
        let containers = pod["spec"]["containers"].as_array();
        let status = |container: &Value| {
            json!({
                "name": container["name"], "image": container["image"], "imageID": "", "ready": false,
                "restartCount": 0, "state": {}, "lastState": {}, "started": true,
            })
        };
        let made: Vec<Value> = containers.into_iter().flatten().map(status).collect();
        pod["status"]["containerStatuses"] = json!(made);
    }
    pod["status"]["containerStatuses"].as_array_mut().into_iter().flatten().for_each(change);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_goes_through_its_states() {
        let mut pod = PodSpec::new("default", "a").port("http", 80).object("10.0.0.1");
        assert!(has(&pod, "Ready") && pod["status"]["phase"] == "Running");
        set_ready(&mut pod, false);
        assert!(!has(&pod, "Ready") && pod["status"]["containerStatuses"][0]["ready"] == false);
        wait(&mut pod, "10.0.0.2", "CrashLoopBackOff", "back-off 10s");
        assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "CrashLoopBackOff");
        assert_eq!(pod["status"]["podIP"], "10.0.0.1");
        set_phase(&mut pod, "Failed", "Evicted", "The node was low on resource: memory.");
        assert_eq!((&pod["status"]["phase"], &pod["status"]["reason"]), (&json!("Failed"), &json!("Evicted")));
        unschedulable(&mut pod, "0/1 nodes are available");
        assert!(pod["spec"]["nodeName"].is_null());
    }

    #[test]
    fn a_container_is_found_or_must_be_named() {
        let one = PodSpec::new("default", "a").object("10.0.0.1");
        let two = PodSpec::new("default", "a").container("side").object("10.0.0.1");
        assert_eq!(container(&one, None), Ok("main".to_owned()));
        assert_eq!(container(&two, Some("side")), Ok("side".to_owned()));
        assert!(container(&two, None).unwrap_err().ends_with("[main side]"));
        assert!(container(&one, Some("x")).is_err());
    }
}
