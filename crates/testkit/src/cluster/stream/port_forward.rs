//! Port-forward over SPDY, as kubelet and containerd do it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::StreamTarget;
use super::fate::{Fate, Fates, Pod};
use super::faults::What;
use super::inbox::Inbox;
use super::intake::Frames;
use super::link::Link;
use super::spdy::{self, Frame};
use crate::cluster::{Shared, locked};
use crate::task::Group;

/// Longest wait for a backend to accept; on loopback only a full backlog is slow.
const CONNECT: Duration = Duration::from_secs(30);

/// How a request's head ends.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// The streams of a connection that take bytes, by id.
type Streams = Arc<Mutex<HashMap<u32, Arc<Inbox>>>>;

/// Serves a connection until the client ends it.
pub(super) async fn serve<R: AsyncRead + Unpin>(
    mut frames: Frames<R>,
    shared: &Arc<Shared>,
    target: &Arc<StreamTarget>,
    link: &Arc<Link>,
) -> io::Result<()> {
    let mut session = Session {
        shared: Arc::clone(shared),
        link: Arc::clone(link),
        pod: Arc::new(Pod::new(shared, target)),
        fates: Fates::default(),
        streams: Streams::default(),
        pairs: HashMap::new(),
        last: 0,
        tasks: Group::new(),
    };
    session.tasks.spawn(session.fates.follow(Arc::clone(&session.pod)));
    loop {
        let overdue = session.next_deadline();
        tokio::select! {
            biased;
            frame = frames.next() => match frame? {
                Some(Frame::GoAway) | None => return Ok(()),
                Some(frame) => session.take(frame).await,
            },
            Some(_) = session.tasks.next() => {}
            () = overdue => session.expire(),
        }
    }
}

/// One connection.
struct Session {
    shared: Arc<Shared>,
    link: Arc<Link>,
    pod: Arc<Pod>,
    fates: Fates,
    streams: Streams,
    /// Pairs of which one half has come.
    pairs: HashMap<String, Half>,
    last: u32,
    tasks: Group,
}

/// The half of a pair that came first.
struct Half {
    stream: Stream,
    error: bool,
    deadline: Instant,
}

/// One SPDY stream.
struct Stream {
    id: u32,
    port: u16,
    inbox: Arc<Inbox>,
}

/// A complete pair.
struct Pair {
    shared: Arc<Shared>,
    link: Arc<Link>,
    pod: Arc<Pod>,
    fate: Fate,
    streams: Streams,
    data: Stream,
    error: Stream,
    delay: Duration,
}

impl Session {
    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Syn { id, fin, headers } => self.open(id, fin, &headers),
            Frame::Data { id, bytes, fin } => {
                let Some(inbox) = self.inbox(id) else { return };
                let room = inbox.push(bytes);
                if fin {
                    inbox.end();
                }
                if !room {
                    inbox.room().await;
                }
            }
            Frame::Reset { id } => {
                if let Some(inbox) = self.inbox(id) {
                    inbox.reset();
                }
            }
            Frame::Ping { id } => self.link.ping(id),
            Frame::GoAway => {}
        }
    }

    fn open(&mut self, id: u32, fin: bool, headers: &[(String, String)]) {
        if id.is_multiple_of(2) || id <= self.last {
            self.link.reset(id, spdy::PROTOCOL_ERROR);
            return;
        }
        self.last = id;
        let Some(delay) = self.shared.faults.streams.delay_of_stream() else { return };
        if self.link.gone_away() {
            return;
        }
        let value = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let port = value("port").and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
        let error = match value("streamtype") {
            Some("error") => true,
            Some("data") => false,
            _ => return self.link.reset(id, spdy::CANCEL),
        };
        let Some(port) = port.filter(|_| !(error && fin)) else {
            return self.link.reset(id, spdy::CANCEL);
        };
        if delay.is_zero() {
            self.link.reply(id);
        }
        let inbox = Arc::new(Inbox::default());
        if error {
            inbox.close();
        }
        if fin {
            inbox.end();
        }
        locked(&self.streams).insert(id, Arc::clone(&inbox));
        let request = match value("requestid") {
            Some(request) if !request.is_empty() => request.to_owned(),
            // An old client names none: its two streams follow each other, the error stream first.
            _ => if error { id } else { id.wrapping_sub(2) }.to_string(),
        };
        self.pair(request, Stream { id, port, inbox }, error, delay);
    }

    fn pair(&mut self, request: String, stream: Stream, error: bool, delay: Duration) {
        let Some(half) = self.pairs.remove(&request) else {
            let deadline = Instant::now() + self.shared.options.stream_pair_wait;
            self.pairs.insert(request, Half { stream, error, deadline });
            return;
        };
        if half.error == error {
            let kind = if error { "error" } else { "data" };
            let text = format!("error processing stream for request {request}: {kind} stream already assigned");
            if half.error {
                self.link.data(half.stream.id, text.as_bytes(), false);
            }
            self.pairs.insert(request, half);
            return;
        }
        let (data, error) = if error { (half.stream, stream) } else { (stream, half.stream) };
        let pair = Pair {
            shared: Arc::clone(&self.shared),
            link: Arc::clone(&self.link),
            pod: Arc::clone(&self.pod),
            fate: self.fates.of(&self.pod),
            streams: Arc::clone(&self.streams),
            data,
            error,
            delay,
        };
        self.tasks.spawn(pair.run());
    }

    fn inbox(&self, id: u32) -> Option<Arc<Inbox>> {
        locked(&self.streams).get(&id).cloned()
    }

    /// Ready when a half has waited too long for its other one.
    fn next_deadline(&self) -> impl Future<Output = ()> + use<> {
        let deadline = self.pairs.values().map(|half| half.deadline).min();
        async move {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        for (request, half) in self.pairs.extract_if(|_, half| half.deadline <= now) {
            locked(&self.streams).remove(&half.stream.id);
            if half.error {
                let text = format!("(conn=&{{0xc000}}, request={request}) timed out waiting for streams");
                self.link.data(half.stream.id, text.as_bytes(), false);
            }
        }
    }
}

impl Pair {
    async fn run(self) {
        let _open = self.shared.faults.streams.counts.open(What::Stream);
        if !self.delay.is_zero() {
            sleep(self.delay).await;
            self.link.reply(self.error.id);
            self.link.reply(self.data.id);
        }
        let outcome = self.forward().await;
        self.data.inbox.close();
        let mut streams = locked(&self.streams);
        streams.remove(&self.data.id);
        streams.remove(&self.error.id);
        drop(streams);
        if !self.data.inbox.was_reset() {
            self.link.data(self.data.id, &[], true);
        }
        match outcome {
            _ if self.error.inbox.was_reset() => {}
            Ok(()) => self.link.data(self.error.id, &[], true),
            Err(text) => {
                let text = self.pod.forwarding_failed(self.data.port, &text);
                self.link.data(self.error.id, text.as_bytes(), false);
                self.link.reset(self.error.id, spdy::CANCEL);
            }
        }
    }

    async fn forward(&self) -> Result<(), String> {
        if let Some(text) = self.shared.faults.streams.error() {
            return Err(text);
        }
        let inside = self.shared.faults.streams.inside();
        if let Some(answer) = inside.answer(self.pod.namespace(), self.pod.name(), self.data.port) {
            return self.answer(&answer).await;
        }
        let socket = Arc::new(dial(&self.shared, &self.pod, self.data.port).await?);
        let down = async {
            loop {
                socket.readable().await?;
                self.link.room().await?;
                if self.data.inbox.was_reset() {
                    return Ok(());
                }
                match self.link.read_from(self.data.id, &socket) {
                    Ok(0) => return Ok(()),
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
        };
        let wait = self.shared.options.half_close_wait;
        both(down, self.data.inbox.drain(&socket), self.fate.clone().ended(), wait)
            .await
            .map_err(|error| self.pod.copy_failed(&socket, self.data.port, &error))
    }
}

impl Pair {
    /// Answers every request head with the same bytes until the client or the pod ends.
    async fn answer(&self, answer: &[u8]) -> Result<(), String> {
        let answering = async {
            let mut seen = 0;
            while let Some(bytes) = self.data.inbox.next().await {
                for byte in bytes {
                    seen = if byte == HEAD_END[seen] { seen + 1 } else { usize::from(byte == HEAD_END[0]) };
                    if seen == HEAD_END.len() {
                        seen = 0;
                        if self.link.room().await.is_err() {
                            return;
                        }
                        self.link.data(self.data.id, answer, false);
                    }
                }
            }
        };
        tokio::select! {
            () = answering => {}
            rest = self.fate.clone().ended() => sleep(rest).await,
        }
        Ok(())
    }
}

/// Connects to a port of a pod, or says why not in containerd's words.
pub(super) async fn dial(shared: &Shared, pod: &Pod, port: u16) -> Result<TcpStream, String> {
    if !pod.lives() {
        return Err(pod.no_sandbox());
    }
    let refused = || pod.refused(port, "connection refused");
    let address = shared.backend(pod.namespace(), pod.name(), port).ok_or_else(refused)?;
    match timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(socket)) => {
            // Best effort: a socket that is already dead refuses the option.
            let _ = socket.set_nodelay(true);
            Ok(socket)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(refused()),
        Ok(Err(error)) => Err(pod.refused(port, &error.to_string())),
        Err(_) => Err(pod.refused(port, "connection timed out")),
    }
}

/// Copies both ways; when one way has ended the other one has `wait`, as containerd gives it.
pub(super) async fn both(
    down: impl Future<Output = io::Result<()>>,
    up: impl Future<Output = io::Result<()>>,
    ended: impl Future<Output = Duration>,
    wait: Duration,
) -> io::Result<()> {
    let (mut down, mut up) = (std::pin::pin!(down), std::pin::pin!(up));
    let mut ended = std::pin::pin!(ended);
    let (first, down_ended) = tokio::select! {
        first = &mut down => (first, true),
        first = &mut up => (first, false),
        rest = &mut ended => {
            sleep(rest).await;
            return Ok(());
        }
    };
    let second = tokio::select! {
        second = &mut down, if !down_ended => second,
        second = &mut up, if down_ended => second,
        () = sleep(wait) => Ok(()),
        rest = &mut ended => {
            sleep(rest).await;
            Ok(())
        }
    };
    first.and(second)
}
