//! Asks the running daemon.

use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

use adit_core::diagnose::Fault;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::others;
use super::place::Place;
use crate::report::Failure;

/// How long a daemon may take to take a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take to answer: a start waits for targets.
const ANSWER: Duration = Duration::from_secs(120);

/// After so long without an answer it is looked at whether the daemon lives, and so long that takes at most.
const SILENT: Duration = Duration::from_secs(3);
/// What every daemon answers at once.
const SIGN_OF_LIFE: &str = "/v1/openapi.json";

/// Bytes of an answer at most: far more than the longest log or list, so that what is no daemon takes no memory at will.
const ANSWER_MOST: usize = 64 * 1024 * 1024;

/// The file beside the socket that has the daemon's process id.
const LOCK: &str = "daemon.lock";
/// The pause before the successor of a daemon is asked.
const AGAIN: Duration = Duration::from_millis(20);

/// A way to the daemon.
#[derive(Clone, Debug)]
pub(in crate::command) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(in crate::command) fn new(place: &Place) -> Self {
        Self { socket: place.socket() }
    }

    /// Asks for something.
    pub(in crate::command) async fn get(&self, path: &str) -> Result<Value, Failure> {
        read(&self.ask(Method::GET, path, None).await?)
    }

    /// Asks for a text that is no JSON.
    pub(in crate::command) async fn text(&self, path: &str) -> Result<String, Failure> {
        self.ask(Method::GET, path, None).await
    }

    /// Has something done.
    pub(in crate::command) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        read(&self.ask(Method::POST, path, body).await?)
    }

    /// Whether a daemon answers.
    pub(in crate::command) async fn is_there(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<String, Failure> {
        let answering = async {
            loop {
                // A daemon that was just replaced takes a connection or two more.
                match self.exchange(method.clone(), path, body).await? {
                    Some(answer) => return Ok::<_, Failure>(answer),
                    None => tokio::time::sleep(AGAIN).await,
                }
            }
        };
        let answered = async {
            tokio::select! {
                biased;
                answer = answering => answer,
                () = self.hangs() => Err(self.silent()),
            }
        };
        match tokio::time::timeout(ANSWER, answered).await {
            // It was about to end when it was asked.
            Ok(Err(failure)) if failure.kind() == Fault::Upstream && !self.is_there().await => Err(self.none_answers()),
            Ok(answer) => answer,
            Err(_) => Err(Failure::new(
                Fault::Internal,
                format!("the daemon has not answered for {} s", ANSWER.as_secs()),
                "see `adit logs`; `adit daemon stop` asks it to end",
            )),
        }
    }

    /// Ready when the daemon does not even answer what costs it nothing.
    async fn hangs(&self) {
        loop {
            tokio::time::sleep(SILENT).await;
            let sign = self.exchange(Method::GET, SIGN_OF_LIFE, None);
            if tokio::time::timeout(SILENT, sign).await.is_err() {
                return;
            }
        }
    }

    fn silent(&self) -> Failure {
        let lock = std::fs::read_to_string(self.socket.with_file_name(LOCK)).unwrap_or_default();
        match lock.trim().parse::<u32>().ok().filter(|pid| others::is_daemon(*pid)) {
            Some(pid) => {
                let text = format!("the daemon (pid {pid}) does not answer: it is stopped or hangs");
                let hint =
                    format!("`kill -CONT {pid}` lets a stopped one go on, `kill -9 {pid}` ends it; see `adit logs`");
                Failure::new(Fault::Internal, text, hint)
            }
            None => none_runs(),
        }
    }

    /// One request; nothing when it came to a daemon that is none any more.
    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Option<String>, Failure> {
        let broken = |error: hyper::Error| {
            Failure::new(Fault::Upstream, format!("the daemon does not answer: {error}"), "see `adit logs`")
        };
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| Failure::new(Fault::Internal, format!("no path: {path}"), ""))?;
        request.headers_mut().insert(HOST, HeaderValue::from_static("adit"));
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let whole = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            // An answer that breaks off is told by its own error, one that is too long by none.
            let body = match Limited::new(response.into_body(), ANSWER_MOST).collect().await {
                Ok(body) => Some(body.to_bytes()),
                Err(error) => match error.downcast::<hyper::Error>() {
                    Ok(error) => return Err(*error),
                    Err(_) => None,
                },
            };
            Ok::<_, hyper::Error>((status, body))
        };
        // The connection runs only while it is polled; its end may come before the answer was taken from it.
        tokio::pin!(whole, connection);
        let answer = tokio::select! {
            biased;
            answer = &mut whole => answer,
            _ = &mut connection => whole.await,
        };
        let (status, body) = match answer {
            Ok(answer) => answer,
            // It was never sent.
            Err(error) if error.is_canceled() || error.is_closed() => return Ok(None),
            // It had closed the connection before it had all of the request.
            Err(error) if was_not_taken(&error) => return Ok(None),
            // It ended between taking the connection and reading from it, or before its answer was out.
            Err(error) if error.is_incomplete_message() && may_be_repeated(path) => return Ok(None),
            Err(error) => return Err(broken(error)),
        };
        let Some(body) = body else {
            let text = format!("the daemon's answer has more than {} MiB", ANSWER_MOST / 1024 / 1024);
            return Err(Failure::new(Fault::Internal, text, "see `adit logs`"));
        };
        let text = String::from_utf8_lossy(&body);
        if status == StatusCode::MISDIRECTED_REQUEST {
            return Ok(None);
        }
        if !status.is_success() {
            let other = || Failure::new(Fault::Internal, format!("the daemon answers {status}"), "");
            return Err(Failure::from_json(&text).unwrap_or_else(other));
        }
        Ok(Some(text.into_owned()))
    }

    /// Nobody takes a connection: either no daemon runs, or one that does takes nothing new.
    fn none_answers(&self) -> Failure {
        let lock = std::fs::read_to_string(self.socket.with_file_name(LOCK)).unwrap_or_default();
        match lock.trim().parse().ok().filter(|pid| others::is_daemon(*pid)) {
            Some(pid) => {
                let hint = "what is live finishes first; if it was not told to end, ask again in a few seconds";
                Failure::new(Fault::Upstream, format!("the daemon (pid {pid}) is ending"), hint)
            }
            None => none_runs(),
        }
    }

    async fn connect(&self) -> Result<UnixStream, Failure> {
        match tokio::time::timeout(CONNECT, UnixStream::connect(&self.socket)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(_)) => Err(self.none_answers()),
            Err(_) => {
                Err(Failure::new(Fault::Internal, "the daemon does not take a connection", "it hangs: see `adit logs`"))
            }
        }
    }
}

/// Whether a request was refused while it was written: nobody has acted on it.
fn was_not_taken(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The daemon in the usual directory of this user, and that directory, when no variable says where it is.
fn in_runtime_directory() -> Option<(u32, String)> {
    let is_said = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if is_said("XDG_RUNTIME_DIR") || is_said("RUNTIME_DIRECTORY") {
        return None;
    }
    let directory = format!("/run/user/{}", rustix::process::geteuid().as_raw());
    let lock = std::fs::read_to_string(PathBuf::from(&directory).join("adit").join(LOCK)).ok()?;
    let pid = lock.trim().parse().ok().filter(|pid| others::is_daemon(*pid))?;
    Some((pid, directory))
}

/// Whether asking twice is like asking once: a successor would be replaced, or ended, in its turn.
fn may_be_repeated(path: &str) -> bool {
    !matches!(path, "/v1/handover" | "/v1/shutdown")
}

fn read(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::new(Fault::Internal, format!("the daemon's answer cannot be read: {error}"), ""))
}

fn none_runs() -> Failure {
    if let Some((pid, directory)) = in_runtime_directory() {
        let text = format!("no daemon runs in this environment; one of yours (pid {pid}) has its socket elsewhere");
        let hint = format!("XDG_RUNTIME_DIR is not set here: export XDG_RUNTIME_DIR={directory}");
        return Failure::new(Fault::Upstream, text, hint);
    }
    let hint = "start one with `adit daemon start`, or run everything in the foreground with `adit up`";
    Failure::new(Fault::Upstream, "no daemon runs", hint)
}
