//! What is decided about a stream before its connection is upgraded.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;

use super::Shared;
use super::api::Asked;
use super::objects;
use super::query;
use super::reply::{self, Body, Refusal};
use super::stream::{self, Kind, StreamTarget};

/// Refuses what a real server refuses before it looks at the upgrade, then hands on.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    asked: &Asked,
    kind: Kind,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let pod = asked.target.object(shared)?;
    let name = asked.target.name();
    let container = match kind {
        Kind::PortForward => None,
        Kind::Exec => {
            let container = objects::container(&pod, query::value(&asked.query, "container"));
            Some(container.map_err(|message| Refusal::bad_request(message.replace("{pod}", name)))?)
        }
    };
    if pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        return Err(Refusal::bad_request(format!("pod {name} does not have a host assigned")));
    }
    if ended(&pod) {
        let text = format!("pod not found (\"{name}_{}\")\n", asked.target.namespace());
        return Ok(reply::text(StatusCode::INTERNAL_SERVER_ERROR, text));
    }
    let target = StreamTarget {
        namespace: asked.target.namespace().to_owned(),
        pod: name.to_owned(),
        container,
        kind,
        query: asked.query.clone(),
    };
    Ok(stream::serve(Arc::clone(shared), target, request).await)
}

fn ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}
