//! Deletion through the API: pods get their grace period, everything else goes at once.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::api::{Asked, Target};
use super::kinds::POD;
use super::reply::{self, Body, Refusal};
use super::{Shared, clock, list, query};

/// The grace period of a pod that names none.
const GRACE: u64 = 30;

pub(super) fn answer(shared: &Arc<Shared>, asked: &Asked, options: &Value) -> Result<Response<Body>, Refusal> {
    let grace = query::value(&asked.query, "gracePeriodSeconds").and_then(|text| text.parse().ok());
    let grace = options["gracePeriodSeconds"].as_u64().or(grace);
    if asked.target.name.is_some() {
        let object = asked.target.object(shared)?;
        check(&asked.target, &object, options)?;
        return Ok(reply::json(StatusCode::OK, &delete(shared, asked.target.kind, &object, grace)));
    }
    let filter = list::filter(asked)?;
    let (version, objects) = shared.store.list(asked.target.kind, asked.target.namespace.as_deref());
    let matching: Vec<_> = objects.into_iter().filter(|object| filter.matches(object)).collect();
    for object in &matching {
        delete(shared, asked.target.kind, object, grace);
    }
    let kind = asked.target.kind();
    let items: Vec<&Value> = matching.iter().map(|object| &**object).collect();
    let list = json!({
        "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
        "metadata": { "resourceVersion": version.to_string() }, "items": items,
    });
    Ok(reply::json(StatusCode::OK, &list))
}

/// Marks a pod as terminating; `grace` is what its object says, not how long it lives.
pub(super) fn mark(pod: &mut Value, grace: u64) {
    if pod["metadata"]["deletionTimestamp"].is_null() {
        pod["metadata"]["deletionTimestamp"] = json!(clock::format(clock::now() + grace));
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    }
}

fn check(target: &Target, object: &Value, options: &Value) -> Result<(), Refusal> {
    let wanted = &options["preconditions"]["uid"];
    if wanted.is_null() || *wanted == object["metadata"]["uid"] {
        return Ok(());
    }
    let message = format!(
        "Operation cannot be fulfilled on {} \"{}\": the UID in the precondition ({wanted}) does not match the UID in \
         record ({})",
        target.kind().qualified(),
        target.name(),
        object["metadata"]["uid"],
    );
    let details = Some((target.kind().group, target.kind().plural, target.name().to_owned()));
    Err(Refusal { code: 409, reason: "Conflict", message, details })
}

fn delete(shared: &Arc<Shared>, kind: usize, object: &Value, grace: Option<u64>) -> Value {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    let grace = grace.or_else(|| object["spec"]["terminationGracePeriodSeconds"].as_u64()).unwrap_or(GRACE);
    let lives = kind == POD && grace > 0 && !object["spec"]["nodeName"].is_null();
    if !lives {
        shared.remove(kind, &namespace, &name);
        return reply::removed(kind, &name, &object["metadata"]["uid"]);
    }
    let marked = shared.update(kind, &namespace, &name, |pod| mark(pod, grace));
    let after = Duration::from_secs(grace).min(shared.options.pod_grace);
    let (cluster, uid) = (Arc::clone(shared), object["metadata"]["uid"].clone());
    shared.hold(async move {
        tokio::time::sleep(after).await;
        let same = cluster.pod(&namespace, &name).is_some_and(|pod| pod["metadata"]["uid"] == uid);
        if same {
            cluster.remove(POD, &namespace, &name);
        }
    });
    marked.as_deref().unwrap_or(object).clone()
}
