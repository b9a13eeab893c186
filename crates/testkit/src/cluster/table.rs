//! Tables: what `kubectl get` prints is made by the server.

use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::{
    DAEMON_SET, DEPLOYMENT, ENDPOINT_SLICE, EVENT, JOB, NAMESPACE, NODE, POD, REPLICA_SET, SERVICE, STATEFUL_SET,
};
use super::{clock, objects, selector};

/// Name and type of a column, and 1 for those that `-o wide` shows alone.
type Column = (&'static str, &'static str, u8);

const NAME: Column = ("Name", "string", 0);
const AGE: Column = ("Age", "string", 0);

/// Whether a client prefers a Table to the objects.
pub(super) fn wanted(accept: &str) -> bool {
    accept.split(',').next().is_some_and(|first| first.contains("as=Table"))
}

/// The Table of these objects.
pub(super) fn render(
    kind: usize,
    objects: &[Arc<Value>],
    version: &str,
    include: Option<&str>,
    with_columns: bool,
) -> Value {
    let rows: Vec<Value> = objects.iter().map(|object| row(kind, object, include)).collect();
    let columns = columns(kind).iter().map(|(name, of, priority)| {
        let format = if *name == "Name" { "name" } else { "" };
        json!({ "name": name, "type": of, "format": format, "description": name, "priority": priority })
    });
    let columns = if with_columns { Value::Array(columns.collect()) } else { Value::Null };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": { "resourceVersion": version },
        "columnDefinitions": columns, "rows": rows,
    })
}

fn row(kind: usize, object: &Arc<Value>, include: Option<&str>) -> Value {
    let mut row = json!({ "cells": cells(kind, object) });
    match include {
        Some("None") => {}
        Some("Object") => row["object"] = (**object).clone(),
        _ => {
            row["object"] = json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
            });
        }
    }
    row
}

fn columns(kind: usize) -> &'static [Column] {
    match kind {
        POD => &[
            NAME,
            ("Ready", "string", 0),
            ("Status", "string", 0),
            ("Restarts", "string", 0),
            AGE,
            ("IP", "string", 1),
            ("Node", "string", 1),
            ("Nominated Node", "string", 1),
            ("Readiness Gates", "string", 1),
        ],
        SERVICE => &[
            NAME,
            ("Type", "string", 0),
            ("Cluster-IP", "string", 0),
            ("External-IP", "string", 0),
            ("Port(s)", "string", 0),
            AGE,
            ("Selector", "string", 1),
        ],
        ENDPOINT_SLICE => {
            &[NAME, ("AddressType", "string", 0), ("Ports", "string", 0), ("Endpoints", "string", 0), AGE]
        }
        DEPLOYMENT => &[
            NAME,
            ("Ready", "string", 0),
            ("Up-to-date", "string", 0),
            ("Available", "string", 0),
            AGE,
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        REPLICA_SET => &[NAME, ("Desired", "integer", 0), ("Current", "integer", 0), ("Ready", "integer", 0), AGE],
        STATEFUL_SET => &[NAME, ("Ready", "string", 0), AGE],
        DAEMON_SET => &[NAME, ("Desired", "integer", 0), ("Current", "integer", 0), ("Ready", "integer", 0), AGE],
        JOB => &[NAME, ("Status", "string", 0), ("Completions", "string", 0), AGE],
        NAMESPACE => &[NAME, ("Status", "string", 0), AGE],
        NODE => &[NAME, ("Status", "string", 0), ("Roles", "string", 0), AGE, ("Version", "string", 0)],
        EVENT => &[
            ("Last Seen", "string", 0),
            ("Type", "string", 0),
            ("Reason", "string", 0),
            ("Object", "string", 0),
            ("Message", "string", 0),
            ("Name", "string", 1),
        ],
        _ => &[NAME, AGE],
    }
}

fn cells(kind: usize, object: &Value) -> Vec<Value> {
    let name = object["metadata"]["name"].clone();
    let age = json!(since(&object["metadata"]["creationTimestamp"]));
    let status = &object["status"];
    let number = |field: &str| json!(status[field].as_u64().unwrap_or(0));
    match kind {
        POD => pod(object, name, age),
        SERVICE => service(object, name, age),
        ENDPOINT_SLICE => vec![name, object["addressType"].clone(), slice_ports(object), slice_addresses(object), age],
        DEPLOYMENT => vec![
            name,
            ready(object),
            number("updatedReplicas"),
            number("availableReplicas"),
            age,
            containers(object, "name"),
            containers(object, "image"),
            json!(selector::text(&object["spec"]["selector"]["matchLabels"])),
        ],
        REPLICA_SET => vec![name, object["spec"]["replicas"].clone(), number("replicas"), number("readyReplicas"), age],
        STATEFUL_SET => vec![name, ready(object), age],
        DAEMON_SET => {
            let counts = ["desiredNumberScheduled", "currentNumberScheduled", "numberReady"].map(number);
            [vec![name], counts.to_vec(), vec![age]].concat()
        }
        JOB => vec![name, json!("Running"), json!("0/1"), age],
        NAMESPACE => vec![name, status["phase"].clone(), age],
        NODE => {
            let state = if objects::has(object, "Ready") { "Ready" } else { "NotReady" };
            vec![name, json!(state), json!("<none>"), age, status["nodeInfo"]["kubeletVersion"].clone()]
        }
        EVENT => vec![
            json!(since(&object["lastTimestamp"])),
            object["type"].clone(),
            object["reason"].clone(),
            json!(format!(
                "{}/{}",
                object["involvedObject"]["kind"].as_str().unwrap_or("").to_lowercase(),
                object["involvedObject"]["name"].as_str().unwrap_or(""),
            )),
            object["message"].clone(),
            name,
        ],
        _ => vec![name, age],
    }
}

fn pod(pod: &Value, name: Value, age: Value) -> Vec<Value> {
    let none = || vec![];
    let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_else(none);
    let total = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
    let ready = statuses.iter().filter(|status| status["ready"] == true).count();
    let restarts: u64 = statuses.iter().filter_map(|status| status["restartCount"].as_u64()).sum();
    let or_none = |value: &Value| value.as_str().map_or(json!("<none>"), |text| json!(text));
    vec![
        name,
        json!(format!("{ready}/{total}")),
        json!(pod_state(pod, &statuses)),
        json!(restarts.to_string()),
        age,
        or_none(&pod["status"]["podIP"]),
        or_none(&pod["spec"]["nodeName"]),
        json!("<none>"),
        json!("<none>"),
    ]
}

/// What stands under STATUS.
fn pod_state(pod: &Value, statuses: &[Value]) -> String {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return "Terminating".to_owned();
    }
    let of_container = statuses.iter().find_map(|status| {
        let state = &status["state"];
        state["waiting"]["reason"].as_str().or_else(|| state["terminated"]["reason"].as_str())
    });
    let reason = pod["status"]["reason"].as_str().or(of_container);
    reason.or_else(|| pod["status"]["phase"].as_str()).unwrap_or("Unknown").to_owned()
}

fn service(service: &Value, name: Value, age: Value) -> Vec<Value> {
    let spec = &service["spec"];
    let port = |port: &Value| format!("{}/{}", port["port"], port["protocol"].as_str().unwrap_or("TCP"));
    let ports: Vec<String> = spec["ports"].as_array().into_iter().flatten().map(port).collect();
    let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
    let text = |value: &Value| value.as_str().unwrap_or("<none>").to_owned();
    vec![
        name,
        json!(text(&spec["type"])),
        json!(text(&spec["clusterIP"])),
        json!(text(&spec["externalName"])),
        json!(ports),
        age,
        json!(selector::text(&spec["selector"])),
    ]
}

fn ready(workload: &Value) -> Value {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    json!(format!("{}/{}", number(&workload["status"]["readyReplicas"]), number(&workload["spec"]["replicas"])))
}

fn containers(workload: &Value, field: &str) -> Value {
    let containers = workload["spec"]["template"]["spec"]["containers"].as_array();
    let texts: Vec<&str> = containers.into_iter().flatten().filter_map(|one| one[field].as_str()).collect();
    json!(texts.join(","))
}

fn slice_ports(slice: &Value) -> Value {
    let ports: Vec<String> =
        slice["ports"].as_array().into_iter().flatten().map(|port| port["port"].to_string()).collect();
    json!(if ports.is_empty() { "<unset>".to_owned() } else { ports.join(",") })
}

fn slice_addresses(slice: &Value) -> Value {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let addresses: Vec<&str> = endpoints.filter_map(|endpoint| endpoint["addresses"][0].as_str()).collect();
    json!(match addresses.len() {
        0 => "<unset>".to_owned(),
        1..=3 => addresses.join(","),
        all => format!("{} + {} more...", addresses[..3].join(","), all - 3),
    })
}

fn since(timestamp: &Value) -> String {
    let then = timestamp.as_str().and_then(clock::parse);
    then.map_or_else(|| "<unknown>".to_owned(), |then| clock::age(clock::now().saturating_sub(then)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::{cells, columns, render, wanted};
    use crate::cluster::PodSpec;
    use crate::cluster::kinds::{KINDS, POD};

    #[test]
    fn every_row_has_a_cell_for_every_column() {
        for (place, kind) in KINDS.iter().enumerate() {
            assert_eq!(cells(place, &json!({})).len(), columns(place).len(), "{}", kind.kind);
        }
    }

    #[test]
    fn a_table_shows_the_state_of_a_pod() {
        let mut pod = PodSpec::new("default", "a").object("10.0.0.1");
        let state = |pod: &serde_json::Value| {
            let table = render(POD, &[Arc::new(pod.clone())], "7", None, false);
            assert!(table["columnDefinitions"].is_null());
            format!("{} {}", table["rows"][0]["cells"][1], table["rows"][0]["cells"][2]).replace('"', "")
        };
        assert_eq!(state(&pod), "1/1 Running");
        crate::cluster::objects::wait(&mut pod, "10.0.0.1", "ImagePullBackOff", "");
        assert_eq!(state(&pod), "0/1 ImagePullBackOff");
        crate::cluster::objects::end(&mut pod, 0);
        assert_eq!(state(&pod), "0/1 Completed");
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(state(&pod), "0/1 Terminating");
    }

    #[test]
    fn a_table_is_given_to_who_prefers_it() {
        assert!(wanted("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"));
        assert!(!wanted("application/json, application/json;as=Table"));
        assert!(!wanted("*/*"));
    }
}
