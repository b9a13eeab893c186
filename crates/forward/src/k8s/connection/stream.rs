//! The two streams of one forwarded port, as one byte stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use super::machine::Key;
use super::shared::{Connection, ConnectionEnd, ReadOutcome};
use crate::k8s::resolve::plain;

/// The local end of file is held back until the pod has been silent for this long: containerd gives an answer one
/// second after it, and what comes later is lost.
const QUIET: Duration = Duration::from_secs(30);
/// After the data's end the error stream says why, or that nothing is wrong; both come together.
const SETTLE: Duration = Duration::from_millis(500);
/// Of a reason, this much is kept.
const REASON_MAX: usize = 4096;

/// Why a stream was cut.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum StreamFault {
    /// The kubelet told why, on the error stream.
    #[error("{}", .0.text)]
    Pod(PodFault),
    /// The stream was reset without a word.
    #[error("the stream was reset by the server")]
    Reset,
    /// The server takes no streams on this connection any more, and has not looked at this one.
    #[error("the server took no new stream")]
    Refused,
    /// The connection that carried it is over.
    #[error(transparent)]
    Lost(ConnectionEnd),
}

/// What a kubelet says of a stream that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodFault {
    /// What kind it is.
    pub(crate) kind: PodFaultKind,
    /// In few words.
    pub(crate) text: String,
}

/// Kinds of failures in a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PodFaultKind {
    /// Nothing listens on the port.
    Refused,
    /// The application cut the connection.
    Reset,
    /// The pod is gone, or its container is.
    Gone,
    /// Anything else.
    Other,
}

impl PodFault {
    /// Sorts the text of an error stream: of containerd, CRI-O, cri-dockerd and the kubelet itself.
    pub(crate) fn of(text: &str) -> Self {
        let lower = text.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let kind = if has(&["executable file not found"]) {
            // Old runtimes forward by socat on the node; its absence is no pod's fault.
            PodFaultKind::Other
        } else if has(&[
            "failed to find sandbox",
            "network namespace for sandbox",
            "no such container",
            "container not found",
            "is not running",
            "sandbox not found",
        ]) || (lower.contains("netns") && lower.contains("no such file or directory"))
        {
            PodFaultKind::Gone
        } else if has(&["connection refused"]) {
            PodFaultKind::Refused
        } else if has(&["connection reset", "broken pipe"]) {
            PodFaultKind::Reset
        } else {
            PodFaultKind::Other
        };
        let text = match kind {
            PodFaultKind::Refused => match port_in(text) {
                Some(port) => format!("the connection was refused in the pod: nothing listens on port {port} there"),
                None => "the connection was refused in the pod: nothing listens on that port there".to_owned(),
            },
            PodFaultKind::Reset => "the connection was reset in the pod".to_owned(),
            PodFaultKind::Gone => "the pod is gone".to_owned(),
            PodFaultKind::Other => plain(text),
        };
        Self { kind, text }
    }
}

/// The port a kubelet speaks of.
fn port_in(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("forwarding port ").or_else(|| text.split_once("localhost:"))?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
    digits.parse().ok()
}

impl StreamFault {
    /// Whether nothing reached an application, so that the same bytes may go to another pod.
    pub(crate) fn is_pod_gone(&self) -> bool {
        matches!(self, Self::Pod(PodFault { kind: PodFaultKind::Gone, .. }))
    }

    /// As an I/O error; the fault is inside it.
    pub(crate) fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Pod(PodFault { kind: PodFaultKind::Refused, .. }) => io::ErrorKind::ConnectionRefused,
            Self::Pod(_) | Self::Reset | Self::Refused => io::ErrorKind::ConnectionReset,
            Self::Lost(_) => io::ErrorKind::ConnectionAborted,
        };
        io::Error::new(kind, self)
    }
}

/// How far the local end of file got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    No,
    /// Asked for, and held back.
    Held,
    Sent,
}

/// One forwarded connection. Dropping it ends it: in an orderly way when the local side had ended, with a reset
/// otherwise.
pub(crate) struct PortStream {
    connection: Arc<Connection>,
    data: Key,
    error: Key,
    finish: Finish,
    /// The pod has ended its half.
    ended: bool,
    reason: Vec<u8>,
    reason_ended: bool,
    /// While the FIN is held back.
    timer: Option<Pin<Box<Sleep>>>,
    settle: Option<Pin<Box<Sleep>>>,
    last_data: Instant,
    /// The pod has sent something.
    answered: bool,
    /// When the first bytes since its last word were written to it.
    asked: Option<Instant>,
    carried: u64,
}

impl std::fmt::Debug for PortStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PortStream({}/{:?})", self.connection.number(), self.data)
    }
}

impl PortStream {
    pub(super) fn new(connection: Arc<Connection>, data: Key, error: Key) -> Self {
        Self {
            connection,
            data,
            error,
            finish: Finish::No,
            ended: false,
            reason: Vec::new(),
            reason_ended: false,
            timer: None,
            settle: None,
            last_data: Instant::now(),
            answered: false,
            asked: None,
            carried: 0,
        }
    }

    /// Swaps what arrived into an empty buffer; false at the end.
    pub(crate) fn poll_take(&mut self, cx: &mut Context<'_>, into: &mut Vec<u8>) -> Poll<Result<bool, StreamFault>> {
        if !self.ended {
            match self.connection.poll_read(cx, self.data, into) {
                Poll::Ready(ReadOutcome::Data) => {
                    self.passed(into.len());
                    (self.answered, self.asked) = (true, None);
                    if self.finish == Finish::Held {
                        self.last_data = Instant::now();
                    }
                    return Poll::Ready(Ok(true));
                }
                Poll::Ready(ReadOutcome::End) => self.pod_ended(),
                Poll::Ready(ReadOutcome::Reset) => {
                    self.ended = true;
                    self.gather_reason(cx);
                    return Poll::Ready(Err(self.fault().unwrap_or(StreamFault::Reset)));
                }
                Poll::Ready(ReadOutcome::Refused) => {
                    self.ended = true;
                    return Poll::Ready(Err(StreamFault::Refused));
                }
                Poll::Ready(ReadOutcome::Lost(end)) => {
                    self.ended = true;
                    return Poll::Ready(Err(self.fault().unwrap_or(StreamFault::Lost(end))));
                }
                Poll::Pending => {
                    self.gather_reason(cx);
                    self.poll_quiet(cx);
                    if self.ended {
                        return Poll::Ready(Ok(false));
                    }
                    // After the wakers are in place: whoever cuts wakes those.
                    if let Some(end) = self.connection.cut_of(self.answered, self.asked) {
                        self.ended = true;
                        return Poll::Ready(Err(self.fault().unwrap_or(StreamFault::Lost(end))));
                    }
                    if self.reason.is_empty() {
                        return Poll::Pending;
                    }
                    // A reason without an end of the data: the kubelet has given up on this pair.
                    ready!(self.poll_settled(cx));
                    self.pod_ended();
                }
            }
        }
        self.gather_reason(cx);
        ready!(self.poll_settled(cx));
        match self.fault() {
            Some(fault) => Poll::Ready(Err(fault)),
            None => Poll::Ready(Ok(false)),
        }
    }

    /// Queues bytes; an error is told by reading.
    pub(crate) fn poll_put(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Option<usize>> {
        let taken = ready!(self.connection.poll_write(cx, self.data, bytes));
        if let Some(taken) = taken {
            self.asked.get_or_insert_with(Instant::now);
            self.passed(taken);
        }
        Poll::Ready(taken)
    }

    /// The local side sends nothing more. That is passed on when the pod has ended too, or has been silent.
    pub(crate) fn hold_finish(&mut self) {
        if self.finish != Finish::No {
            return;
        }
        if self.ended {
            self.connection.finish(self.data);
            self.finish = Finish::Sent;
        } else {
            self.finish = Finish::Held;
            self.last_data = Instant::now();
            self.timer = Some(Box::pin(sleep_until((self.last_data + QUIET).into())));
        }
    }

    fn pod_ended(&mut self) {
        self.ended = true;
        self.timer = None;
        if self.finish == Finish::Held {
            self.connection.finish(self.data);
            self.finish = Finish::Sent;
        }
    }

    /// Sends the end of file that was held back once the pod has been silent for long.
    ///
    /// Only reading comes here, and that is enough: the pod is silent only when a reader finds nothing. While the local
    /// client takes nothing, `splice` does not read, for bytes of the pod wait to be taken; the end of file is then late by
    /// as long as the client is, and nothing is lost.
    fn poll_quiet(&mut self, cx: &mut Context<'_>) {
        let Some(timer) = self.timer.as_mut().filter(|_| self.finish == Finish::Held) else { return };
        while timer.as_mut().poll(cx).is_ready() {
            let until = self.last_data + QUIET;
            if until > Instant::now() {
                timer.as_mut().reset(until.into());
            } else {
                self.connection.finish(self.data);
                self.finish = Finish::Sent;
                self.timer = None;
                if matches!(self.data, Key::Channel(_)) {
                    // No word of this protocol ends one half: the whole connection is what can be ended.
                    self.ended = true;
                    self.reason_ended = true;
                }
                return;
            }
        }
    }

    /// Waits for the end of the error stream. It comes with the next bytes; a server that forgets it must not hold us.
    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.reason_ended {
            let settle = self.settle.get_or_insert_with(|| Box::pin(sleep_until((Instant::now() + SETTLE).into())));
            ready!(settle.as_mut().poll(cx));
            self.reason_ended = true;
        }
        Poll::Ready(())
    }

    fn gather_reason(&mut self, cx: &Context<'_>) {
        let mut more = Vec::new();
        while !self.reason_ended {
            match self.connection.poll_read(cx, self.error, &mut more) {
                Poll::Ready(ReadOutcome::Data) => {
                    let room = REASON_MAX.saturating_sub(self.reason.len());
                    self.reason.extend_from_slice(&more[..more.len().min(room)]);
                    more.clear();
                }
                Poll::Ready(ReadOutcome::End | ReadOutcome::Reset | ReadOutcome::Refused | ReadOutcome::Lost(_)) => {
                    self.reason_ended = true;
                }
                // More of the text may be on its way: its end says that it is whole.
                Poll::Pending => return,
            }
        }
    }

    fn fault(&self) -> Option<StreamFault> {
        (!self.reason.is_empty()).then(|| StreamFault::Pod(PodFault::of(&String::from_utf8_lossy(&self.reason))))
    }

    fn passed(&mut self, bytes: usize) {
        self.connection.count(self.carried, bytes);
        self.carried += bytes as u64;
    }
}

impl Drop for PortStream {
    fn drop(&mut self) {
        let orderly = self.finish != Finish::No || self.ended;
        self.connection.release_pair(self.data, self.error, orderly, self.carried);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_container_runtimes_are_sorted() {
        let refused = "error forwarding port 9999 to pod 9ff, uid : failed to execute portforward in network namespace \
             \"/var/run/netns/cni-1\": failed to connect to localhost:9999 inside namespace \"9ff\", IPv4: dial tcp4 \
             127.0.0.1:9999: connect: connection refused IPv6 dial tcp6: address localhost: no suitable address found";
        assert_eq!(PodFault::of(refused).kind, PodFaultKind::Refused);
        assert!(PodFault::of(refused).text.ends_with("nothing listens on port 9999 there"));
        assert!(PodFault::of("dial tcp: connection refused").text.ends_with("on that port there"));
        for gone in
            ["failed to find sandbox \"9ff\" in store: not found", "network namespace for sandbox \"9ff\" is closed"]
        {
            assert_eq!(PodFault::of(gone).kind, PodFaultKind::Gone, "{gone}");
        }
        assert_eq!(PodFault::of("read: connection reset by peer").kind, PodFaultKind::Reset);
        let tool = "exec: \"socat\": executable file not found in $PATH";
        assert_eq!(PodFault::of(tool).kind, PodFaultKind::Other);
        let other = PodFault::of("something\nnew");
        assert_eq!((other.kind, other.text.as_str()), (PodFaultKind::Other, "something new"));
    }
}
