//! The exec subresource: a command in a container, its three streams and how it ended.
//!
//! SPDY `v4.channel.k8s.io` first, WebSocket `v5.channel.k8s.io` where that is refused. Never WebSocket v4: there
//! stdin cannot end. What ends without a status was cut off, whatever it looks like.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use adit_core::diagnose::Fault;
use runtime::Scope;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::api::{Api, ApiError};
use super::channels::Channels;
use super::connection::{Connection, ConnectionTask, Key, Machine, ReadOutcome};
use super::port_forward::{more_telling, spdy, websocket};
use super::resolve::PodRef;
use super::upgrade::{UpgradeError, Upgraded};
use super::watch::encoded;

/// Of what a command complains, this much is kept: its first words say why.
const STDERR_MAX: usize = 4096;
/// A status at the most; real ones have some hundred bytes.
const STATUS_MAX: usize = 64 * 1024;
/// A command whose caller is gone has had the end of its stdin, and gets this long to end by itself before the
/// connection goes: what was sent last must still reach it.
const LINGER: Duration = Duration::from_secs(10);
/// Of a short command's output, this much is kept.
const OUTPUT_MAX: usize = 16 * 1024;

static NUMBER: AtomicU64 = AtomicU64::new(1);

/// How the streams of a command are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExecTransport {
    /// SPDY by HTTP upgrade, `v4.channel.k8s.io`: every stream ends by itself.
    Spdy,
    /// WebSocket, `v5.channel.k8s.io`: stdin ends by itself, the output only with the command.
    Channels,
}

impl ExecTransport {
    /// For status and messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Spdy => "exec-spdy",
            Self::Channels => "exec-websocket",
        }
    }
}

/// Runs commands in pods of one cluster, and remembers what its server takes.
pub(crate) struct Execs {
    api: Api,
    scope: Scope,
    transport: AtomicU8,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ExecEnd {
    /// With this exit code.
    Exit(i32),
    /// It was not started: there is no such program, or the runtime says why not.
    NotStarted(String),
    /// Nobody said: the connection ended before.
    NoStatus(String),
}

/// What a short command gave.
#[derive(Debug)]
pub(crate) struct ExecOutput {
    pub(crate) end: ExecEnd,
    /// stdout and stderr.
    pub(crate) text: String,
}

/// A running command. Dropping it ends its stdin, and soon its connection.
pub(crate) struct Exec {
    connection: Arc<Connection>,
    keys: Keys,
    stderr: Vec<u8>,
    status: Vec<u8>,
    stderr_over: bool,
    end: Option<ExecEnd>,
    _driver: oneshot::Sender<()>,
}

#[derive(Debug, Clone, Copy)]
struct Keys {
    status: Key,
    stdin: Key,
    stdout: Key,
    stderr: Key,
}

impl Execs {
    /// Connections live in `scope`.
    pub(crate) fn new(api: Api, scope: Scope) -> Self {
        Self { api, scope, transport: AtomicU8::new(0) }
    }

    /// What carried the last command.
    pub(crate) fn transport(&self) -> Option<ExecTransport> {
        match self.transport.load(Ordering::Relaxed) {
            1 => Some(ExecTransport::Spdy),
            2 => Some(ExecTransport::Channels),
            _ => None,
        }
    }

    /// Starts a command in a container (`""`: the pod's only one), whose words may depend on what carries its
    /// streams. It is not known to run on return: the server accepts first and starts afterwards.
    ///
    /// # Errors
    /// The more telling of the transports' refusals.
    pub(crate) async fn open(
        &self,
        pod: &PodRef,
        container: &str,
        words: impl Fn(ExecTransport) -> Vec<String>,
    ) -> Result<Exec, ApiError> {
        let order = match self.transport() {
            Some(ExecTransport::Channels) => [ExecTransport::Channels, ExecTransport::Spdy],
            _ => [ExecTransport::Spdy, ExecTransport::Channels],
        };
        let mut worst = None;
        let mut verdicts = true;
        for transport in order {
            match self.attempt(&path(pod, container, &words(transport)), transport).await {
                Ok(upgraded) => {
                    if verdicts {
                        let number = if transport == ExecTransport::Spdy { 1 } else { 2 };
                        self.transport.store(number, Ordering::Relaxed);
                    }
                    return self.start(upgraded, transport);
                }
                Err(error) if is_final(&error) => return Err(error.into()),
                Err(error) => {
                    verdicts &= error.is_verdict();
                    let error = ApiError::from(error);
                    tracing::debug!(pod = pod.name, transport = transport.name(), %error, "exec refused");
                    worst = Some(more_telling(worst, error));
                }
            }
        }
        Err(worst.unwrap_or_else(|| self.lost("none was tried")))
    }

    /// Runs a short command without input to its end.
    ///
    /// # Errors
    /// As [`Execs::open`], and when it takes longer than `deadline`.
    pub(crate) async fn run(
        &self,
        pod: &PodRef,
        container: &str,
        words: &[&str],
        deadline: Duration,
    ) -> Result<ExecOutput, ApiError> {
        let running = async {
            let words = |_| words.iter().map(|word| (*word).to_owned()).collect();
            let mut exec = self.open(pod, container, words).await?;
            exec.finish();
            let mut output = Vec::new();
            let mut piece = Vec::new();
            while std::future::poll_fn(|cx| exec.poll_out(cx, &mut piece)).await {
                let room = OUTPUT_MAX.saturating_sub(output.len());
                output.extend_from_slice(&piece[..piece.len().min(room)]);
                piece.clear();
            }
            let end = std::future::poll_fn(|cx| exec.poll_end(cx)).await;
            output.extend_from_slice(exec.stderr());
            Ok(ExecOutput { end, text: String::from_utf8_lossy(&output).into_owned() })
        };
        match tokio::time::timeout(deadline, running).await {
            Ok(result) => result,
            Err(_) => {
                Err(ApiError::Timeout { server: format!("`{}` in pod {}", words.join(" "), pod.name), after: deadline })
            }
        }
    }

    async fn attempt(&self, path: &str, transport: ExecTransport) -> Result<Upgraded, UpgradeError> {
        match transport {
            ExecTransport::Spdy => spdy(&self.api, path, "v4.channel.k8s.io").await,
            ExecTransport::Channels => websocket(&self.api, path, "v5.channel.k8s.io").await,
        }
    }

    fn start(&self, upgraded: Upgraded, transport: ExecTransport) -> Result<Exec, ApiError> {
        let now = Instant::now();
        let machine = match transport {
            ExecTransport::Spdy => Machine::spdy(false, now),
            ExecTransport::Channels => Machine::channels(Channels::new(true, false), now),
        };
        let connection = Connection::new(machine, NUMBER.fetch_add(1, Ordering::Relaxed), &self.api.describe());
        let task = ConnectionTask::new(upgraded.pipe, upgraded.early, Arc::clone(&connection));
        let keys = match transport {
            ExecTransport::Spdy => {
                let open = |kind| {
                    connection.open_stream(&[("streamtype", kind)]).map_err(|error| self.lost(&error.to_string()))
                };
                // In the order in which every server takes them.
                Keys { status: open("error")?, stdin: open("stdin")?, stdout: open("stdout")?, stderr: open("stderr")? }
            }
            ExecTransport::Channels => Keys {
                stdin: Key::Channel(0),
                stdout: Key::Channel(1),
                stderr: Key::Channel(2),
                status: Key::Channel(3),
            },
        };
        let (alive, dropped) = oneshot::channel();
        self.scope.spawn("exec", drive(task, Arc::clone(&connection), keys, dropped, self.scope.clone()));
        Ok(Exec {
            connection,
            keys,
            stderr: Vec::new(),
            status: Vec::new(),
            stderr_over: false,
            end: None,
            _driver: alive,
        })
    }

    fn lost(&self, reason: &str) -> ApiError {
        let server = self.api.describe();
        ApiError::Unreachable { server, reason: reason.to_owned(), fault: Fault::Upstream, hint: None, silent: false }
    }
}

impl Exec {
    /// Swaps output into an empty buffer; false at its end, of which [`Exec::poll_end`] tells more.
    pub(crate) fn poll_out(&mut self, cx: &Context<'_>, into: &mut Vec<u8>) -> Poll<bool> {
        loop {
            match self.connection.poll_read(cx, self.keys.stdout, into) {
                Poll::Ready(ReadOutcome::Data) => return Poll::Ready(true),
                Poll::Ready(ReadOutcome::End | ReadOutcome::Reset | ReadOutcome::Refused | ReadOutcome::Lost(_)) => {
                    return Poll::Ready(false);
                }
                Poll::Pending => {
                    let ended = self.end.is_some();
                    self.gather(cx);
                    match (ended, &self.end) {
                        (_, None) => return Poll::Pending,
                        // What came before the status is looked for once more.
                        (false, Some(_)) => {}
                        (true, Some(_)) => return Poll::Ready(false),
                    }
                }
            }
        }
    }

    /// Queues input; `None` when the command takes no more.
    pub(crate) fn poll_in(&self, cx: &Context<'_>, bytes: &[u8]) -> Poll<Option<usize>> {
        self.connection.poll_write(cx, self.keys.stdin, bytes)
    }

    /// Ends the input behind what is queued.
    pub(crate) fn finish(&self) {
        self.connection.finish(self.keys.stdin);
    }

    /// How it ended, once it did.
    pub(crate) fn poll_end(&mut self, cx: &Context<'_>) -> Poll<ExecEnd> {
        self.gather(cx);
        self.end.clone().map_or(Poll::Pending, Poll::Ready)
    }

    /// What it complained of so far.
    pub(crate) fn stderr(&self) -> &[u8] {
        &self.stderr
    }

    /// Takes what is there of stderr and of the status.
    fn gather(&mut self, cx: &Context<'_>) {
        let mut more = Vec::new();
        while !self.stderr_over {
            match self.connection.poll_read(cx, self.keys.stderr, &mut more) {
                Poll::Ready(ReadOutcome::Data) => keep(&mut self.stderr, &mut more, STDERR_MAX),
                Poll::Ready(_) => self.stderr_over = true,
                Poll::Pending => break,
            }
        }
        while self.end.is_none() {
            match self.connection.poll_read(cx, self.keys.status, &mut more) {
                Poll::Ready(ReadOutcome::Data) => {
                    keep(&mut self.status, &mut more, STATUS_MAX);
                    self.end = end_of(&self.status);
                }
                Poll::Ready(over) => {
                    let reason = match over {
                        ReadOutcome::Lost(end) => end.to_string(),
                        _ => "the server ended it".to_owned(),
                    };
                    self.end = Some(ExecEnd::NoStatus(reason));
                }
                Poll::Pending => break,
            }
        }
        // stderr comes before the status, but the two were looked at one after the other.
        while self.end.is_some() && !self.stderr_over {
            match self.connection.poll_read(cx, self.keys.stderr, &mut more) {
                Poll::Ready(ReadOutcome::Data) => keep(&mut self.stderr, &mut more, STDERR_MAX),
                _ => self.stderr_over = true,
            }
        }
    }
}

/// Drives the connection; once its user is gone, lets the command end.
async fn drive(
    task: ConnectionTask,
    connection: Arc<Connection>,
    keys: Keys,
    dropped: oneshot::Receiver<()>,
    scope: Scope,
) {
    tokio::pin!(task);
    tokio::select! {
        biased;
        () = &mut task => return,
        // 1. Shutdown does not wait for a command that nobody ends.
        () = scope.cancelled() => {}
        // 2. Its user is gone. Nothing is ever sent: the sender is dropped.
        _ = dropped => {}
    }
    connection.finish(keys.stdin);
    let mut nothing = Vec::new();
    let ended = std::future::poll_fn(|cx| {
        for key in [keys.stdout, keys.stderr, keys.status] {
            loop {
                nothing.clear();
                match connection.poll_read(cx, key, &mut nothing) {
                    Poll::Ready(ReadOutcome::Data) if key != keys.status => {}
                    Poll::Pending => break,
                    // The status has come, or nothing will.
                    Poll::Ready(_) if key == keys.status => return Poll::Ready(()),
                    Poll::Ready(_) => break,
                }
            }
        }
        Poll::Pending
    });
    tokio::select! {
        biased;
        () = &mut task => return,
        () = scope.cancelled() => {}
        _ = tokio::time::timeout(LINGER, ended) => {}
    }
    connection.close();
    task.await;
}

fn keep(kept: &mut Vec<u8>, more: &mut Vec<u8>, limit: usize) {
    let room = limit.saturating_sub(kept.len());
    kept.extend_from_slice(&more[..more.len().min(room)]);
    more.clear();
}

fn path(pod: &PodRef, container: &str, words: &[String]) -> String {
    let (namespace, name) = (encoded(&pod.namespace), encoded(&pod.name));
    let mut path = format!("/api/v1/namespaces/{namespace}/pods/{name}/exec?stdin=true&stdout=true&stderr=true");
    if !container.is_empty() {
        path.push_str("&container=");
        path.push_str(&encoded(container));
    }
    for word in words {
        path.push_str("&command=");
        path.push_str(&encoded(word));
    }
    path
}

/// `metav1.Status`, as it ends a command.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    status: String,
    reason: String,
    message: String,
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    causes: Vec<Cause>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
    message: String,
}

/// What a status says; `None` while it is not whole.
fn end_of(status: &[u8]) -> Option<ExecEnd> {
    let status: Status = serde_json::from_slice(status).ok()?;
    if status.status == "Success" {
        return Some(ExecEnd::Exit(0));
    }
    let code = status.details.causes.iter().find(|cause| cause.reason == "ExitCode");
    let code = code.and_then(|cause| cause.message.parse().ok());
    Some(match code {
        Some(code) if status.reason == "NonZeroExitCode" => ExecEnd::Exit(code),
        _ => ExecEnd::NotStarted(status.message),
    })
}

/// Whether the other transport would fare no better.
fn is_final(error: &UpgradeError) -> bool {
    match error {
        UpgradeError::Dropped(_) => false,
        UpgradeError::Failed(_) => true,
        UpgradeError::Refused { code, reason, message } => match code {
            401 | 429 | 503 => true,
            // A Status object is the API server's own word; a proxy that knows no SPDY has no such.
            400 => reason == "BadRequest" && (message.contains("container") || message.contains("host assigned")),
            404 => reason == "NotFound" || message.contains("not found"),
            500 => message.contains("not found"),
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_how_a_command_ended() {
        let code = br#"{"metadata":{},"status":"Failure","reason":"NonZeroExitCode","message":"m","details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#;
        assert_eq!(end_of(code), Some(ExecEnd::Exit(42)));
        assert_eq!(end_of(br#"{"metadata":{},"status":"Success"}"#), Some(ExecEnd::Exit(0)));
        let internal =
            br#"{"status":"Failure","message":"executable file not found","reason":"InternalError","code":500}"#;
        assert_eq!(end_of(internal), Some(ExecEnd::NotStarted("executable file not found".into())));
        for cut in 0..code.len() {
            assert_eq!(end_of(&code[..cut]), None);
        }
    }

    #[test]
    fn every_word_of_a_command_is_one_parameter() {
        let pod = PodRef { namespace: "n".into(), name: "p".into(), uid: String::new() };
        let words = ["socat", "-", "TCP6:[::1]:80,a=b", "a b&c"].map(str::to_owned);
        let path = path(&pod, "main", &words);
        assert!(
            path.ends_with("&command=socat&command=-&command=TCP6%3A%5B%3A%3A1%5D%3A80%2Ca%3Db&command=a%20b%26c"),
            "{path}"
        );
        assert!(
            path.starts_with("/api/v1/namespaces/n/pods/p/exec?stdin=true&stdout=true&stderr=true&container=main&"),
            "{path}"
        );
    }

    #[test]
    fn a_missing_container_is_not_the_transports_fault() {
        let refused = |code, reason: &str, message: &str| UpgradeError::Refused {
            code,
            reason: reason.into(),
            message: message.into(),
        };
        assert!(is_final(&refused(400, "BadRequest", "container x is not valid for pod y")));
        assert!(is_final(&refused(404, "NotFound", "pods \"x\" not found")));
        assert!(is_final(&refused(500, "", "unable to upgrade connection: container not found (\"main\")")));
        for (code, message) in [(400, "bad request"), (403, ""), (502, "bad gateway"), (405, "")] {
            assert!(!is_final(&refused(code, "", message)), "{code}");
        }
    }
}
