//! What controllers keep in order after every change: endpoints, and the counts of workloads.

use serde_json::{Value, json};

use super::kinds::{self, DAEMON_SET, DEPLOYMENT, ENDPOINT_SLICE, NAMESPACE, POD, REPLICA_SET, SERVICE, STATEFUL_SET};
use super::selector::selects;
use super::{Shared, endpoints, locked, objects};

/// Acts on an object that was changed or removed.
pub(super) fn run(shared: &Shared, object: &Value) {
    let Some(kind) = object["kind"].as_str().and_then(kinds::named) else { return };
    if kinds::KINDS[kind].namespaced {
        make_namespace(shared, object);
    }
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("");
    // One at a time: two that read the same state would undo each other's work.
    let _one = locked(&shared.controlling);
    match kind {
        POD => {
            endpoints::keep(shared, namespace);
            workloads(shared, namespace);
        }
        SERVICE => endpoints::keep(shared, namespace),
        DEPLOYMENT | REPLICA_SET | STATEFUL_SET | DAEMON_SET => workloads(shared, namespace),
        ENDPOINT_SLICE | NAMESPACE => {}
        _ => {}
    }
}

/// A namespace is there as soon as something is in it.
fn make_namespace(shared: &Shared, object: &Value) {
    let name = object["metadata"]["namespace"].as_str().unwrap_or("default");
    if shared.store.get(NAMESPACE, "", name).is_none() {
        let labels = json!({ "kubernetes.io/metadata.name": name });
        shared.store.put(json!({
            "kind": "Namespace", "metadata": { "name": name, "labels": labels },
            "spec": { "finalizers": ["kubernetes"] }, "status": { "phase": "Active" },
        }));
    }
}

/// Counts the pods of the workloads in a namespace.
fn workloads(shared: &Shared, namespace: &str) {
    let (_, pods) = shared.store.list(POD, Some(namespace));
    for kind in [DEPLOYMENT, REPLICA_SET, STATEFUL_SET, DAEMON_SET] {
        for workload in shared.store.list(kind, Some(namespace)).1 {
            let selector = &workload["spec"]["selector"];
            let mine = pods.iter().filter(|pod| {
                pod["metadata"]["deletionTimestamp"].is_null() && selects(selector, &pod["metadata"]["labels"])
            });
            let (all, ready) =
                mine.fold((0_u32, 0_u32), |(all, ready), pod| (all + 1, ready + u32::from(objects::has(pod, "Ready"))));
            let name = workload["metadata"]["name"].as_str().unwrap_or("");
            shared.store.update(kind, namespace, name, |workload| count(kind, workload, all, ready));
        }
    }
}

fn count(kind: usize, workload: &mut Value, all: u32, ready: u32) {
    let generation = workload["metadata"]["generation"].clone();
    let status = &mut workload["status"];
    status["observedGeneration"] = generation;
    if kind == DAEMON_SET {
        status["desiredNumberScheduled"] = json!(all);
        status["currentNumberScheduled"] = json!(all);
        status["numberReady"] = json!(ready);
        return;
    }
    for (field, number) in
        [("replicas", all), ("updatedReplicas", all), ("readyReplicas", ready), ("availableReplicas", ready)]
    {
        status[field] = json!(number);
    }
}
