//! Changes through the API: replacement, and patches, which are all merged by the rules of JSON merge patch.

use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value};

use super::Shared;
use super::api::{self, Asked, Target};
use super::create;
use super::reply::{self, Body, Refusal};

/// Merges `patch` into `object`: RFC 7396.
pub(super) fn merge(object: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        object.clone_from(patch);
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Some(fields) = object.as_object_mut() else { return };
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

pub(super) async fn answer(
    shared: &Arc<Shared>,
    target: &Target,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let media = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let media = media.split(';').next().unwrap_or("").trim();
    if media == "application/json-patch+json" {
        let message = "the body of the request was in an unknown format - accepted media types include: \
                       application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";
        return Err(Refusal::plain(415, "UnsupportedMediaType", message));
    }
    let patch = api::body(request).await?;
    let patched = shared.update(target.kind, target.namespace(), target.name(), |object| merge(object, &patch));
    match patched {
        Some(object) => Ok(reply::json(StatusCode::OK, &object)),
        None if media.starts_with("application/apply-patch") => {
            let target = Target { name: None, ..target.clone() };
            let asked = Asked { method: Method::POST, target, query: Vec::new(), table: false };
            create::answer(shared, &asked, patch)
        }
        None => Err(Refusal::not_found(target.kind(), target.name())),
    }
}

pub(super) fn replace(shared: &Shared, target: &Target, object: Value) -> Result<Response<Body>, Refusal> {
    let now = target.object(shared)?;
    let seen = object["metadata"]["resourceVersion"].as_str().unwrap_or("");
    if !seen.is_empty() && now["metadata"]["resourceVersion"] != seen {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please apply your changes to the \
             latest version and try again",
            target.kind().qualified(),
            target.name(),
        );
        let details = Some((target.kind().group, target.kind().plural, target.name().to_owned()));
        return Err(Refusal { code: 409, reason: "Conflict", message, details });
    }
    let replaced = shared.update(target.kind, target.namespace(), target.name(), |now| *now = object);
    let replaced = replaced.ok_or_else(|| Refusal::not_found(target.kind(), target.name()))?;
    Ok(reply::json(StatusCode::OK, &replaced))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::merge;

    #[test]
    fn a_merge_patch_sets_nests_and_removes() {
        let mut object = json!({ "a": { "b": 1, "c": [1] }, "d": 2 });
        merge(&mut object, &json!({ "a": { "b": null, "c": [2, 3], "e": { "f": 1 } }, "d": { "g": 1 } }));
        assert_eq!(object, json!({ "a": { "c": [2, 3], "e": { "f": 1 } }, "d": { "g": 1 } }));
    }
}
