//! The API of a daemon: HTTP and JSON, on the control socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | daemon, summary, forwards; `?clients=true` names the processes behind connections |
//! | `GET /v1/forwards`, `GET /v1/forwards/NAME` | forwards, one forward |
//! | `POST /v1/forwards/NAME/start`, `…/stop`, `…/restart` | how it is afterwards |
//! | `POST /v1/start`, `/v1/stop`, `/v1/restart` | the same for `{"names": [], "tags": [], "all": false}` |
//! | `POST /v1/reload` | what was added, changed and removed |
//! | `GET /v1/events` | a JSON object a line, as things happen |
//! | `GET /v1/logs?name=NAME&lines=100&follow=true` | lines of a log |
//! | `POST /v1/shutdown`, `POST /v1/handover` | it ends, another process takes over |
//! | `GET /metrics` | what monitoring reads |
//! | `GET /v1/openapi.json` | all of this for programs |

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use adit_core::diagnose::{Fault, http_status};
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use runtime::control::{Handler, Lines, LinesSender};
use runtime::scope::Scope;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::ending;
use super::handover::{self, NotHandedOver};
use super::logs::{self, Wanted};
use super::metrics;
use super::state::{Chosen, Daemon, Ending, Verb};
use crate::report::Failure;

/// A request's body is a list of names.
const BODY_MAX: usize = 256 * 1024;
/// How long it may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The description for programs, and what the reference page is made of.
pub(in crate::command) const OPENAPI: &str = include_str!("../../../../assets/openapi.json");

const READ: &str = "GET, HEAD";
const DO: &str = "POST";
/// Everything that there is: what is not here is not answered, and all of it is described.
const PATHS: [(&str, Asked); 16] = [
    ("/metrics", Asked::Read(Thing::Metrics)),
    ("/v1/status", Asked::Read(Thing::Status)),
    ("/v1/forwards", Asked::Read(Thing::Forwards)),
    ("/v1/forwards/{name}", Asked::Read(Thing::Forward)),
    ("/v1/forwards/{name}/start", Asked::Do(Deed::One(Verb::Start))),
    ("/v1/forwards/{name}/stop", Asked::Do(Deed::One(Verb::Stop))),
    ("/v1/forwards/{name}/restart", Asked::Do(Deed::One(Verb::Restart))),
    ("/v1/start", Asked::Do(Deed::Chosen(Verb::Start))),
    ("/v1/stop", Asked::Do(Deed::Chosen(Verb::Stop))),
    ("/v1/restart", Asked::Do(Deed::Chosen(Verb::Restart))),
    ("/v1/reload", Asked::Do(Deed::Reload)),
    ("/v1/events", Asked::Read(Thing::Events)),
    ("/v1/logs", Asked::Read(Thing::Logs)),
    ("/v1/shutdown", Asked::Do(Deed::Shutdown)),
    ("/v1/handover", Asked::Do(Deed::Handover)),
    ("/v1/openapi.json", Asked::Read(Thing::OpenApi)),
];

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// It is read.
    Read(Thing),
    /// Something is done.
    Do(Deed),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Metrics,
    Status,
    Forwards,
    Forward,
    Events,
    Logs,
    OpenApi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// Of the forward that the path names.
    One(Verb),
    /// Of those that the body chooses.
    Chosen(Verb),
    Reload,
    Shutdown,
    Handover,
}

impl Asked {
    /// What is at a path, with the name in it, if it has one.
    fn at(path: &str) -> Option<(Self, &str)> {
        PATHS.iter().find_map(|(pattern, asked)| named(pattern, path).map(|name| (*asked, name)))
    }

    /// How it is asked for.
    const fn methods(self) -> &'static str {
        match self {
            Self::Read(_) => READ,
            Self::Do(_) => DO,
        }
    }

    fn takes(self, method: &Method) -> bool {
        self.methods().split(", ").any(|one| method == one)
    }
}

/// The name in a path that is as the pattern says; an empty one where the pattern has none.
fn named<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let mut name = "";
    let (mut parts, mut asked) = (pattern.split('/'), path.split('/'));
    loop {
        match (parts.next(), asked.next()) {
            (None, None) => return Some(name),
            (Some("{name}"), Some(part)) => name = part,
            (Some(part), Some(same)) if part == same => {}
            _ => return None,
        }
    }
}

/// Answers requests for a daemon.
#[derive(Clone)]
pub(super) struct Api {
    daemon: Arc<Daemon>,
}

impl Api {
    pub(super) fn new(daemon: &Arc<Daemon>) -> Self {
        Self { daemon: Arc::clone(daemon) }
    }

    /// A request at a port that was not taken.
    pub(super) fn count_refused(&self) {
        self.daemon.refused.fetch_add(1, Ordering::Relaxed);
    }

    async fn get(&self, thing: Thing, name: &str, query: &str) -> Response<Lines> {
        match thing {
            Thing::Metrics => self.metrics().await,
            Thing::Status => self.status(query, |status| status).await,
            Thing::Forwards => self.status(query, |status| only_forwards(&status)).await,
            Thing::Forward => match (self.missing(name).await, self.daemon.forward(name).await) {
                (Some(answer), _) => answer,
                (None, Ok(Some(one))) => ok(&one),
                // A reload has just taken it away.
                (None, Ok(None)) => not_found(&format!("there is no forward `{name}`")),
                (None, Err(failure)) => failed(&failure),
            },
            Thing::Events => self.events(),
            Thing::Logs => self.logs(query),
            Thing::OpenApi => with(StatusCode::OK, Lines::whole(OPENAPI), "application/json"),
        }
    }

    /// With `clients=true` the processes behind the connections are looked for, which takes a moment.
    async fn status(&self, query: &str, part: impl FnOnce(Value) -> Value) -> Response<Lines> {
        let clients = query.split('&').any(|pair| pair == "clients=true");
        match self.daemon.status(clients).await {
            Ok(status) => ok(&part(status)),
            Err(failure) => failed(&failure),
        }
    }

    async fn metrics(&self) -> Response<Lines> {
        match self.daemon.metrics().await {
            Ok(text) => with(StatusCode::OK, Lines::whole(text), metrics::CONTENT_TYPE),
            Err(failure) => failed(&failure),
        }
    }

    async fn post(&self, deed: Deed, name: &str, body: &[u8]) -> Response<Lines> {
        match deed {
            Deed::One(verb) => {
                if let Some(answer) = self.missing(name).await {
                    return answer;
                }
                let chosen = Chosen { names: vec![name.to_owned()], ..Chosen::default() };
                self.command(verb, &chosen).await
            }
            Deed::Chosen(verb) => match serde_json::from_slice::<Chosen>(body) {
                Ok(chosen) => self.command(verb, &chosen).await,
                Err(error) => problem(StatusCode::BAD_REQUEST, "usage", &error.to_string(), None),
            },
            Deed::Reload => self.reload().await,
            Deed::Shutdown => {
                self.daemon.end(Ending::Asked);
                let most = u64::try_from(self.daemon.end.times().total().as_millis()).unwrap_or(u64::MAX);
                ok(&json!({ "pid": std::process::id(), "at_most_ms": most, "socket_stays": self.daemon.is_activated }))
            }
            Deed::Handover => match handover::to_successor(&self.daemon).await {
                Ok(pid) => ok(&json!({ "pid": pid })),
                Err(NotHandedOver::Busy(text)) => problem(StatusCode::CONFLICT, "usage", text, None),
                Err(NotHandedOver::Failed(failure)) => failed(&failure),
            },
        }
    }

    async fn reload(&self) -> Response<Lines> {
        let change = match self.daemon.reload().await {
            Ok(change) => change,
            Err(failure) => return failed(&failure),
        };
        match self.daemon.by_hand().await {
            Ok(by_hand) => ok(&json!({
                "added": change.added, "changed": change.changed, "removed": change.removed,
                "unchanged": change.unchanged, "last": self.daemon.last_change(), "by_hand": by_hand,
            })),
            Err(failure) => failed(&failure),
        }
    }

    /// The answer about a name that no forward has.
    async fn missing(&self, name: &str) -> Option<Response<Lines>> {
        match self.daemon.missing(name).await {
            Ok(missing) => missing.map(|failure| with_failure(StatusCode::NOT_FOUND, &failure)),
            Err(failure) => Some(failed(&failure)),
        }
    }

    async fn command(&self, verb: Verb, chosen: &Chosen) -> Response<Lines> {
        match self.daemon.command(verb, chosen).await {
            Ok(value) => ok(&value),
            // Whatever it was: the other one knows.
            Err(_) if self.daemon.hands_over() || self.daemon.was_taken_over() => misdirected(),
            Err(failure) if self.daemon.ends() && failure.kind() == Fault::Upstream => unavailable(&failure),
            Err(failure) => failed(&failure),
        }
    }

    fn events(&self) -> Response<Lines> {
        let (sender, body) = Lines::channel();
        let mut listening = self.daemon.journal.listen();
        let scope = self.daemon.scope();
        let until = scope.clone();
        scope.spawn("events", async move {
            loop {
                let line = tokio::select! {
                    biased;
                    () = until.drained() => return,
                    () = sender.closed() => return,
                    event = listening.recv() => match event {
                        Ok(entry) => format!("{}\n", entry.line),
                        Err(RecvError::Lagged(count)) => format!("{}\n", json!({ "event": "left-out", "entries": count })),
                        Err(RecvError::Closed) => return,
                    },
                };
                if !pass_on(&sender, &until, line).await {
                    return;
                }
            }
        });
        with(StatusCode::OK, body, "application/x-ndjson")
    }

    fn logs(&self, query: &str) -> Response<Lines> {
        let wanted = match Wanted::from_query(query) {
            Ok(wanted) => wanted,
            Err(text) => return problem(StatusCode::BAD_REQUEST, "usage", &text, None),
        };
        let (sender, body) = Lines::channel();
        let scope = self.daemon.scope();
        let (until, place) = (scope.clone(), self.daemon.place.clone());
        scope.clone().spawn("log reader", async move {
            let mut reader = logs::Reader::new(&place.logs(), wanted);
            loop {
                // It may be much, on a slow disk: no thread that runs tasks reads it.
                let read = scope.spawn_blocking("log read", move || {
                    let lines = reader.next_lines();
                    (reader, lines)
                });
                let Ok((back, lines)) = read.await else { return };
                reader = back;
                for line in lines {
                    if !pass_on(&sender, &until, format!("{line}\n")).await {
                        return;
                    }
                }
                if !reader.follows() {
                    return;
                }
                tokio::select! {
                    biased;
                    () = until.drained() => return,
                    () = sender.closed() => return,
                    () = tokio::time::sleep(logs::LOOK) => {}
                }
            }
        });
        with(StatusCode::OK, body, "application/x-ndjson")
    }
}

impl Handler for Api {
    type Body = Lines;

    async fn answer(&self, request: Request<Incoming>) -> Response<Lines> {
        let (head, body) = request.into_parts();
        let found = Asked::at(head.uri.path());
        let asked = found.map(|(asked, _)| asked);
        // It knows nothing of what is, and what it did would be undone; the same socket leads to the other one. That is so
        // of changes from the moment on in which the other one may have read how things are.
        let is_of_daemon = matches!(asked, Some(Asked::Do(Deed::Shutdown | Deed::Handover)));
        let is_late = head.method == Method::POST && !is_of_daemon && self.daemon.hands_over();
        let is_measured = asked == Some(Asked::Read(Thing::Metrics));
        if !is_measured && (is_late || self.daemon.was_taken_over()) {
            return misdirected();
        }
        if head.method == Method::POST && self.daemon.ends() && asked != Some(Asked::Do(Deed::Shutdown)) {
            return unavailable(&ending::refused());
        }
        let Some((asked, name)) = found else { return nothing_at(head.uri.path()) };
        if !asked.takes(&head.method) {
            let text = format!("{} is not for this; it takes {}", head.method, asked.methods());
            let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "usage", &text, None);
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(asked.methods()));
            return answer;
        }
        match asked {
            Asked::Read(thing) => self.get(thing, name, head.uri.query().unwrap_or_default()).await,
            Asked::Do(deed) => {
                let body = match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await {
                    Ok(Ok(body)) => body.to_bytes(),
                    Ok(Err(_)) => {
                        return problem(StatusCode::PAYLOAD_TOO_LARGE, "usage", "the body is too long", None);
                    }
                    Err(_) => return problem(StatusCode::REQUEST_TIMEOUT, "usage", "the body does not come", None),
                };
                let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
                self.post(deed, name, &body).await
            }
        }
    }
}

fn nothing_at(path: &str) -> Response<Lines> {
    not_found(match path.strip_prefix("/v1/").map(|path| path.split('/').collect::<Vec<_>>()).as_deref() {
        None => "everything is below /v1/; see /v1/openapi.json",
        Some(["forwards", _, _]) => "a forward can be started, stopped and restarted",
        Some(_) => "there is nothing of this name; see /v1/openapi.json",
    })
}

/// Hands a line to a reader; not when it has gone, nor at the end, which no reader holds up.
async fn pass_on(sender: &LinesSender, until: &Scope, line: String) -> bool {
    tokio::select! {
        biased;
        () = until.drained() => false,
        sent = sender.send(Bytes::from(line)) => sent.is_ok(),
    }
}

fn only_forwards(status: &Value) -> Value {
    json!({ "summary": status["summary"], "services": status["services"] })
}

fn ok(value: &Value) -> Response<Lines> {
    with(StatusCode::OK, Lines::whole(format!("{value}\n")), "application/json")
}

pub(super) fn not_found(text: &str) -> Response<Lines> {
    problem(StatusCode::NOT_FOUND, "usage", text, None)
}

fn failed(failure: &Failure) -> Response<Lines> {
    let status = StatusCode::from_u16(http_status(failure.kind())).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    with_failure(status, failure)
}

/// Another process is the daemon, or is about to be.
fn misdirected() -> Response<Lines> {
    problem(StatusCode::MISDIRECTED_REQUEST, "internal", "another process takes over; ask again", None)
}

/// The daemon is ending.
fn unavailable(failure: &Failure) -> Response<Lines> {
    with_failure(StatusCode::SERVICE_UNAVAILABLE, failure)
}

fn with_failure(status: StatusCode, failure: &Failure) -> Response<Lines> {
    with(status, Lines::whole(format!("{}\n", failure.json())), "application/json")
}

pub(super) fn problem(status: StatusCode, fault: &str, message: &str, hint: Option<&str>) -> Response<Lines> {
    let value = json!({ "error": { "fault": fault, "message": message, "hint": hint, "problems": null } });
    with(status, Lines::whole(format!("{value}\n")), "application/json")
}

fn with(status: StatusCode, body: Lines, content_type: &'static str) -> Response<Lines> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_answered_is_described_and_the_other_way_round() {
        let described: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut found = BTreeSet::new();
        for (path, verbs) in described["paths"].as_object().unwrap() {
            for verb in verbs.as_object().unwrap().keys() {
                found.insert((path.clone(), verb.to_uppercase()));
            }
        }
        let first = |asked: &Asked| asked.methods().split(", ").next().unwrap_or_default().to_owned();
        let answered: BTreeSet<_> = PATHS.iter().map(|(path, asked)| ((*path).to_owned(), first(asked))).collect();
        assert_eq!(found, answered);
        assert_eq!(Asked::at("/v1/forwards/a/start"), Some((Asked::Do(Deed::One(Verb::Start)), "a")));
        assert_eq!(Asked::at("/v1/status"), Some((Asked::Read(Thing::Status), "")));
        assert_eq!(["/v1/forwards/a/jump", "/v1/nothing", "/v1/status/x", "/"].map(Asked::at), [None; 4]);
    }
}
