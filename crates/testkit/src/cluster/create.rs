//! Creation through the API, and what then becomes of a pod.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::api::Asked;
use super::kinds::{NAMESPACE, POD};
use super::objects;
use super::reply::{self, Body, Refusal};
use super::{Shared, locked};

/// What becomes of a pod that is created through the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodStart {
    /// It runs and is ready after a while.
    Running {
        /// How long after.
        after: Duration,
    },
    /// It has a node, but its container waits for this reason: `ImagePullBackOff`.
    Waiting {
        /// The reason.
        reason: String,
        /// The message beside it.
        message: String,
    },
    /// No node takes it, for this reason: `0/1 nodes are available: …`.
    Unschedulable {
        /// The scheduler's message.
        message: String,
    },
    /// It runs for a while and ends with this code.
    Ended {
        /// How long after.
        after: Duration,
        /// The container's exit code.
        code: i32,
    },
    /// It is not created, but answered 403 with this message, as a quota or an admission webhook does.
    Refused {
        /// The message.
        message: String,
    },
}

pub(super) fn answer(shared: &Arc<Shared>, asked: &Asked, object: Value) -> Result<Response<Body>, Refusal> {
    let created = create(shared, asked, object)?;
    Ok(reply::json(StatusCode::CREATED, &created))
}

/// Creates an object as the request asks.
pub(super) fn create(shared: &Arc<Shared>, asked: &Asked, mut object: Value) -> Result<Arc<Value>, Refusal> {
    let target = &asked.target;
    if !object.is_object() || !object["metadata"].is_object() {
        return Err(Refusal::bad_request("the object provided is unrecognized (must be of type Object)"));
    }
    if let Some(kind) = object["kind"].as_str().filter(|kind| *kind != target.kind().kind) {
        return Err(Refusal::bad_request(format!("{kind} in the request is not a {}", target.kind().kind)));
    }
    let named = |field: &str| object["metadata"][field].as_str().is_some_and(|name| !name.is_empty());
    if !named("name") && !named("generateName") {
        let message = format!(
            "{} \"\" is invalid: metadata.name: Required value: name or generateName is required",
            target.kind().kind
        );
        return Err(Refusal::plain(422, "Invalid", message));
    }
    if target.kind().namespaced {
        if shared.store.get(NAMESPACE, "", target.namespace()).is_none() {
            return Err(Refusal::not_found(&super::kinds::KINDS[NAMESPACE], target.namespace()));
        }
        object["metadata"]["namespace"] = json!(target.namespace());
    }
    let start = (target.kind == POD).then(|| locked(&shared.start).clone());
    if let Some(start) = &start {
        admit(start, &mut object)?;
    }
    let name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
    let created = shared.store.create(target.kind, object);
    let created = created.ok_or_else(|| Refusal::already_exists(target.kind(), &name))?;
    super::controllers::run(shared, &created);
    if let Some(start) = start {
        begin(shared, &created, start);
    }
    Ok(created)
}

/// Whether a pod may be, and what every new pod is given.
fn admit(start: &PodStart, pod: &mut Value) -> Result<(), Refusal> {
    let name = pod["metadata"]["name"].as_str().unwrap_or("").to_owned();
    if let PodStart::Refused { message } = start {
        let message = format!("pods \"{name}\" is forbidden: {message}");
        return Err(Refusal { code: 403, reason: "Forbidden", message, details: Some(("", "pods", name)) });
    }
    if pod["spec"]["containers"].as_array().is_none_or(Vec::is_empty) {
        let message = format!("Pod \"{name}\" is invalid: spec.containers: Required value");
        return Err(Refusal::plain(422, "Invalid", message));
    }
    pod["status"] = json!({ "phase": "Pending", "qosClass": "BestEffort" });
    Ok(())
}

/// Sets a new pod on its way.
fn begin(shared: &Arc<Shared>, pod: &Arc<Value>, start: PodStart) {
    let shared = Arc::clone(shared);
    let pod = Arc::clone(pod);
    match start {
        PodStart::Running { after } if after.is_zero() => change(&shared, &pod, |pod, ip| objects::run(pod, ip, true)),
        PodStart::Running { after } => Arc::clone(&shared).hold(async move {
            tokio::time::sleep(after).await;
            change(&shared, &pod, |pod, ip| objects::run(pod, ip, true));
        }),
        PodStart::Waiting { reason, message } => {
            change(&shared, &pod, |pod, ip| objects::wait(pod, ip, &reason, &message));
        }
        PodStart::Unschedulable { message } => change(&shared, &pod, |pod, _| objects::unschedulable(pod, &message)),
        PodStart::Ended { after, code } => Arc::clone(&shared).hold(async move {
            change(&shared, &pod, |pod, ip| objects::run(pod, ip, true));
            tokio::time::sleep(after).await;
            change(&shared, &pod, |pod, _| objects::end(pod, code));
        }),
        PodStart::Refused { .. } => {}
    }
}

/// Changes the pod, if it is still the same one.
fn change(shared: &Shared, pod: &Value, change: impl FnOnce(&mut Value, &str)) {
    let metadata = &pod["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap_or("");
    let ip = shared.next_ip();
    shared.update(POD, text("namespace"), text("name"), |now| {
        if now["metadata"]["uid"] == metadata["uid"] {
            change(now, &ip);
        }
    });
}
