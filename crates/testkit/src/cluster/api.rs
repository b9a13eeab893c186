//! From a request to its answer: who asks, what for, and whether they may.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::auth::Caller;
use super::kinds::{self, KINDS, Kind};
use super::reply::{self, Body, Refusal};
use super::{Shared, create, delete, discovery, list, logs, patch, query, stream, table, upgrade, watching};

/// The longest request body, as the real server has it.
const BODY: usize = 3 * 1024 * 1024;

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) kind: usize,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) sub: Option<String>,
}

/// Everything about a request but its body.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) query: Vec<(String, String)>,
    /// Whether the answer is wanted as a Table.
    pub(super) table: bool,
}

/// Answers one request.
pub(super) async fn handle(
    shared: Arc<Shared>,
    certificate: Option<&'static str>,
    request: Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    let Some(path) = inside(&shared, request.uri().path()) else {
        return Ok(reply::text(StatusCode::NOT_FOUND, "404 page not found\n"));
    };
    shared.log(line(&request, path));
    if let Some(delay) = shared.faults.delay() {
        tokio::time::sleep(delay).await;
    }
    if let Some((status, body)) = shared.faults.answer(path) {
        return Ok(scripted(status, &body));
    }
    let user = match caller(&shared, certificate, &request, path) {
        Ok(user) => user,
        Err(refusal) => return Ok(refusal.response()),
    };
    let segments = query::segments(path);
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    if let Some(answer) = discovery::answer(&shared, &words, accept(&request)) {
        return Ok(answer);
    }
    let Some(target) = Target::parse(&words) else {
        return Ok(unknown(&words));
    };
    let asked = Asked {
        method: request.method().clone(),
        target,
        query: query::parse(request.uri().query().unwrap_or("")),
        table: table::wanted(accept(&request)),
    };
    if let Some(refusal) = asked.forbidden(&shared, user) {
        return Ok(refusal.response());
    }
    Ok(Box::pin(dispatch(&shared, &asked, request)).await.unwrap_or_else(|refusal| refusal.response()))
}

/// The request's body as JSON.
pub(super) async fn body(request: Request<Incoming>) -> Result<Value, Refusal> {
    let bytes = raw_body(request).await?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::bad_request(format!("the object provided is unrecognized: {error}")))
}

impl Target {
    fn parse(words: &[&str]) -> Option<Self> {
        let (group, version, rest) = match words {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let (plural, rest) = rest.split_first()?;
        let kind = kinds::resource(group, version, plural)?;
        let name = rest.first().map(|name| (*name).to_owned());
        let sub = (rest.len() > 1).then(|| rest[1..].join("/"));
        let fits = match (KINDS[kind].namespaced, &namespace) {
            (true, None) => name.is_none(),
            (false, Some(_)) => false,
            _ => true,
        };
        let known = |sub: &String| KINDS[kind].subresources.iter().any(|(known, ..)| known == sub);
        (fits && sub.as_ref().is_none_or(known)).then_some(Self { kind, namespace, name, sub })
    }

    pub(super) fn kind(&self) -> &'static Kind {
        &KINDS[self.kind]
    }

    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("")
    }

    pub(super) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("")
    }

    /// The object, or that there is none.
    pub(super) fn object(&self, shared: &Shared) -> Result<Arc<Value>, Refusal> {
        let object = shared.store.get(self.kind, self.namespace(), self.name());
        object.ok_or_else(|| Refusal::not_found(self.kind(), self.name()))
    }
}

impl Asked {
    fn verb(&self) -> &'static str {
        match (self.method.as_str(), self.target.name.is_some()) {
            ("GET" | "HEAD", false) if query::flag(&self.query, "watch") => "watch",
            ("GET" | "HEAD", false) => "list",
            ("GET" | "HEAD", true) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", false) => "deletecollection",
            _ => "delete",
        }
    }

    /// The refusal of a verb that is denied.
    fn forbidden(&self, shared: &Shared, user: &str) -> Option<Refusal> {
        let kind = self.target.kind();
        let resource = match &self.target.sub {
            Some(sub) => format!("{}/{sub}", kind.plural),
            None => kind.plural.to_owned(),
        };
        let streams = matches!(self.target.sub.as_deref(), Some("portforward" | "exec"));
        // Streams want the right to create, by whichever method they are asked for.
        let verb = if streams { "create" } else { self.verb() };
        let anonymous = user != shared.auth.user();
        (anonymous || shared.faults.denies(verb, &resource)).then(|| {
            let name = self.target.name.as_ref().map_or(String::new(), |name| format!(" \"{name}\""));
            let place = match &self.target.namespace {
                Some(namespace) => format!("in the namespace \"{namespace}\""),
                None => "at the cluster scope".to_owned(),
            };
            let message = format!(
                "{}{name} is forbidden: User \"{user}\" cannot {verb} resource \"{resource}\" in API group \"{}\" {place}",
                kind.qualified(),
                kind.group,
            );
            let details = Some((kind.group, kind.plural, self.target.name().to_owned()));
            Refusal { code: 403, reason: "Forbidden", message, details }
        })
    }
}

async fn dispatch(shared: &Arc<Shared>, asked: &Asked, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let target = &asked.target;
    match (asked.method.as_str(), target.sub.as_deref()) {
        ("GET" | "POST", Some("portforward")) => {
            upgrade::serve(shared, asked, stream::Kind::PortForward, request).await
        }
        ("GET" | "POST", Some("exec")) => upgrade::serve(shared, asked, stream::Kind::Exec, request).await,
        ("GET", Some("log")) => logs::answer(shared, asked),
        ("GET", None) if target.name.is_none() && query::flag(&asked.query, "watch") => watching::answer(shared, asked),
        ("GET", None) if target.name.is_none() => list::answer(shared, asked),
        ("GET", None | Some("status")) => single(shared, asked),
        ("POST", None) if target.name.is_none() => create::answer(shared, asked, body(request).await?),
        ("PUT", None | Some("status")) if target.name.is_some() => patch::replace(shared, target, body(request).await?),
        ("PATCH", None | Some("status")) if target.name.is_some() => patch::answer(shared, target, request).await,
        ("DELETE", None) => delete::answer(shared, asked, &body(request).await?),
        _ => Err(Refusal::no_method()),
    }
}

fn single(shared: &Shared, asked: &Asked) -> Result<Response<Body>, Refusal> {
    let object = asked.target.object(shared)?;
    if !asked.table {
        return Ok(reply::json(StatusCode::OK, &object));
    }
    let include = query::value(&asked.query, "includeObject");
    let version = object["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
    Ok(reply::json(StatusCode::OK, &table::render(asked.target.kind, &[object], &version, include, true)))
}

async fn raw_body(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let collected = Limited::new(request.into_body(), BODY).collect().await;
    let collected = collected.map_err(|error| Refusal::plain(413, "RequestEntityTooLarge", error.to_string()))?;
    Ok(collected.to_bytes())
}

/// The path behind the prefix.
fn inside<'a>(shared: &Shared, path: &'a str) -> Option<&'a str> {
    let Some(prefix) = &shared.options.path_prefix else { return Some(path) };
    let rest = path.strip_prefix(prefix.trim_end_matches('/'))?;
    if rest.is_empty() { Some("/") } else { rest.starts_with('/').then_some(rest) }
}

fn line(request: &Request<Incoming>, path: &str) -> String {
    match request.uri().query() {
        Some(query) => format!("{} {path}?{query}", request.method()),
        None => format!("{} {path}", request.method()),
    }
}

fn accept(request: &Request<Incoming>) -> &str {
    request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// Who asks; anybody may see the version and the health.
fn caller(
    shared: &Shared,
    certificate: Option<&'static str>,
    request: &Request<Incoming>,
    path: &str,
) -> Result<&'static str, Refusal> {
    let shown = request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap_or(""));
    match shared.auth.caller(certificate, shown) {
        Caller::User(_) if shared.faults.expired() => Err(Refusal::unauthorized()),
        Caller::User(user) => Ok(user),
        Caller::Wrong => Err(Refusal::unauthorized()),
        Caller::Anonymous if path.starts_with("/api") || path == "/" => {
            // A resource is refused with its name, later.
            if path.matches('/').count() > 3 || path.starts_with("/api/v1/") {
                return Ok("system:anonymous");
            }
            let message = format!("forbidden: User \"system:anonymous\" cannot get path \"{path}\"");
            Err(Refusal::plain(403, "Forbidden", message))
        }
        Caller::Anonymous => Ok("system:anonymous"),
    }
}

fn scripted(status: u16, body: &str) -> Response<Body> {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if !body.is_empty() {
        let media = if body.starts_with('{') { "application/json" } else { "text/plain; charset=utf-8" };
        return reply::bytes(code, media, Bytes::copy_from_slice(body.as_bytes()));
    }
    let (reason, message) = match status {
        401 => ("Unauthorized", "Unauthorized"),
        403 => ("Forbidden", "forbidden"),
        404 => ("NotFound", "the server could not find the requested resource"),
        410 => ("Expired", "too old resource version"),
        429 => ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504 => ("Timeout", "request did not complete within the allowed duration"),
        _ => ("InternalError", "an error on the server has prevented the request from succeeding"),
    };
    let mut response = Refusal::plain(code.as_u16(), reason, message).response();
    if status == 429 {
        response.headers_mut().insert(http::header::RETRY_AFTER, http::HeaderValue::from_static("1"));
    }
    response
}

fn unknown(words: &[&str]) -> Response<Body> {
    match words.first() {
        Some(&("api" | "apis")) => {
            let mut refusal = Refusal::no_resource().status();
            refusal["details"] = json!({});
            reply::json(StatusCode::NOT_FOUND, &refusal)
        }
        _ => reply::text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::Target;
    use crate::cluster::kinds::{DEPLOYMENT, NAMESPACE, POD};

    fn parse(path: &str) -> Option<(usize, String, String, String)> {
        let words: Vec<&str> = path.split('/').collect();
        let target = Target::parse(&words)?;
        let text = |part: Option<String>| part.unwrap_or_default();
        Some((target.kind, text(target.namespace), text(target.name), text(target.sub)))
    }

    #[test]
    fn a_path_names_its_target() {
        let some = |kind, ns: &str, name: &str, sub: &str| Some((kind, ns.into(), name.into(), sub.into()));
        assert_eq!(parse("api/v1/pods"), some(POD, "", "", ""));
        assert_eq!(parse("api/v1/namespaces/x/pods/a/log"), some(POD, "x", "a", "log"));
        assert_eq!(parse("api/v1/namespaces"), some(NAMESPACE, "", "", ""));
        assert_eq!(parse("api/v1/namespaces/x"), some(NAMESPACE, "", "x", ""));
        assert_eq!(parse("apis/apps/v1/namespaces/x/deployments/a"), some(DEPLOYMENT, "x", "a", ""));
        for wrong in ["api/v1/pods/a", "api/v1/namespaces/x/services/s/portforward", "api/v2/pods", "metrics"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
