//! HTTP/1.1 request load on raw sockets: one short parse a request, so that the peer's cost shows, not ours.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::histogram::Histogram;
use super::pace::Pace;
use crate::task::Group;
use crate::wire::{find, invalid, lines};

/// A request that has had no answer for this long counts as failed.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// A connection gives up after this many failures in a row.
const FAILURES: u32 = 20;
/// Rest after a failure, so that a dead peer is not hammered.
const FAILURE_PAUSE: Duration = Duration::from_millis(5);
/// Largest answer head, and the read size.
const BUFFER: usize = 16 << 10;

/// What to send, how and for how long.
#[derive(Clone, Debug)]
pub struct HttpLoad {
    /// Where to connect.
    pub addr: SocketAddr,
    /// The request, byte for byte.
    pub request: Bytes,
    /// How many connections send at the same time.
    pub connections: usize,
    /// How long.
    pub duration: Duration,
    /// A new connection for each request; the request should say `Connection: close`.
    pub fresh: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests answered with a status below 400.
    pub requests: u64,
    /// Requests failed or answered otherwise.
    pub errors: u64,
    /// What the first failure was.
    pub first_error: Option<String>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// From the (intended) send time to the end of the answer.
    pub latency: Histogram,
    /// From the (intended) send time to the first byte of the answer.
    pub first_byte: Histogram,
    /// Open loop only: how long after the intended time a request was really sent.
    pub late: Histogram,
}

impl Report {
    /// Requests a second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

impl HttpLoad {
    /// GETs of `path` on one kept-alive connection for a second.
    pub fn get(addr: SocketAddr, host: &str, path: &str) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: testkit\r\nAccept: */*\r\n\r\n");
        Self { addr, request: request.into(), connections: 1, duration: Duration::from_secs(1), fresh: false }
    }

    /// The same with a new connection for each request.
    pub fn get_fresh(addr: SocketAddr, host: &str, path: &str) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAccept: */*\r\n\r\n");
        Self { request: request.into(), fresh: true, ..Self::get(addr, host, path) }
    }

    /// The same over this many connections.
    pub fn connections(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// The same for this long.
    pub fn duration(self, duration: Duration) -> Self {
        Self { duration, ..self }
    }

    /// Closed loop: each connection sends its next request when it has the answer to the last.
    pub async fn closed(&self) -> Report {
        self.run(None).await
    }

    /// Open loop: `rate` requests a second are due whatever the peer does, and each is measured from when it
    /// was due. With too few connections the waiting for a free one counts as latency, as it should.
    pub async fn open(&self, rate: f64) -> Report {
        self.run(Some(Duration::from_secs_f64(1.0 / rate.max(0.001)))).await
    }

    async fn run(&self, interval: Option<Duration>) -> Report {
        let start = Instant::now();
        let shared = Arc::new(Shared {
            load: self.clone(),
            interval,
            start,
            end: start + self.duration,
            next: AtomicU64::new(0),
            report: Mutex::default(),
        });
        let mut workers = Group::new();
        for _ in 0..self.connections {
            workers.spawn(Arc::clone(&shared).work());
        }
        workers.finish().await;
        let mut report = std::mem::take(&mut *shared.report.lock().unwrap_or_else(PoisonError::into_inner));
        report.elapsed = start.elapsed();
        report
    }
}

struct Shared {
    load: HttpLoad,
    interval: Option<Duration>,
    start: Instant,
    end: Instant,
    next: AtomicU64,
    report: Mutex<Report>,
}

struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
}

struct Answer {
    first_byte: Instant,
    keep: bool,
}

impl Shared {
    async fn work(self: Arc<Self>) {
        let mut pace = match Pace::new() {
            Ok(pace) => pace,
            Err(error) => return self.failed(&error),
        };
        let mut connection = None;
        let mut failures = 0;
        while let Some(due) = self.turn(&mut pace).await {
            let sent = Instant::now();
            let result = timeout(REQUEST_DEADLINE, self.request(&mut connection)).await;
            match result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(answer) => {
                    failures = 0;
                    self.answered(due, sent, &answer);
                    if !answer.keep || self.load.fresh {
                        connection = None;
                    }
                }
                Err(error) => {
                    self.failed(&error);
                    connection = None;
                    failures += 1;
                    if failures == FAILURES {
                        return;
                    }
                    tokio::time::sleep(FAILURE_PAUSE).await;
                }
            }
        }
    }

    /// When the next request was due, once it is; `None` when the time is up.
    async fn turn(&self, pace: &mut Pace) -> Option<Instant> {
        let due = match self.interval {
            None => Instant::now(),
            Some(interval) => {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                self.start + interval.mul_f64(number as f64)
            }
        };
        if due >= self.end {
            return None;
        }
        pace.until(due).await.ok()?;
        Some(due)
    }

    async fn request(&self, connection: &mut Option<Connection>) -> io::Result<Answer> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(Connection::open(self.load.addr).await?),
        };
        connection.stream.write_all(&self.load.request).await?;
        let answer = connection.answer().await?;
        if self.load.fresh {
            // The peer closes first, so that this side's ports are not used up by TIME_WAIT.
            connection.until_closed().await?;
        }
        Ok(answer)
    }

    fn answered(&self, due: Instant, sent: Instant, answer: &Answer) {
        let now = Instant::now();
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.requests += 1;
        report.latency.record(now - due);
        report.first_byte.record(answer.first_byte - due);
        if self.interval.is_some() {
            report.late.record(sent.saturating_duration_since(due));
        }
    }

    fn failed(&self, error: &io::Error) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.errors += 1;
        report.first_error.get_or_insert_with(|| error.to_string());
    }
}

impl Connection {
    async fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; BUFFER].into_boxed_slice() })
    }

    /// Reads one answer with a length or chunked; its body is counted, not kept.
    async fn answer(&mut self) -> io::Result<Answer> {
        let mut filled = 0;
        let mut first_byte = None;
        loop {
            let got = self.stream.read(&mut self.buffer[filled..]).await?;
            if got == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer ended before its answer"));
            }
            let first_byte = *first_byte.get_or_insert_with(Instant::now);
            let from = filled.saturating_sub(3);
            filled += got;
            if let Some(end) = find(&self.buffer[..filled], b"\r\n\r\n", from) {
                let head = Head::parse(&self.buffer[..end])?;
                self.skip_body(&head, end + 4, filled).await?;
                return Ok(Answer { first_byte, keep: head.keep });
            }
            if filled == self.buffer.len() {
                return Err(invalid("the answer's head is too long"));
            }
        }
    }

    async fn skip_body(&mut self, head: &Head, start: usize, filled: usize) -> io::Result<()> {
        let Some(length) = head.length else {
            return self.skip_chunks(start, filled).await;
        };
        let mut left = length.saturating_sub(filled - start);
        while left > 0 {
            match self.stream.read(&mut self.buffer).await? {
                0 => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer ended in the body"));
                }
                got => left = left.saturating_sub(got),
            }
        }
        Ok(())
    }

    /// Enough for the small answers of a load test: reads until the last bytes are an empty chunk.
    async fn skip_chunks(&mut self, start: usize, mut filled: usize) -> io::Result<()> {
        while !self.buffer[start..filled].ends_with(b"0\r\n\r\n") {
            if filled == self.buffer.len() {
                return Err(invalid("a chunked answer is too long for the load generator"));
            }
            match self.stream.read(&mut self.buffer[filled..]).await? {
                0 => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer ended in the body"));
                }
                got => filled += got,
            }
        }
        Ok(())
    }

    async fn until_closed(&mut self) -> io::Result<()> {
        while self.stream.read(&mut self.buffer).await? > 0 {}
        Ok(())
    }
}

struct Head {
    length: Option<usize>,
    keep: bool,
}

impl Head {
    fn parse(head: &[u8]) -> io::Result<Self> {
        let status =
            head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|text| text.parse().ok());
        match status {
            Some(100..400_u16) => {}
            Some(status) => return Err(io::Error::other(format!("status {status}"))),
            None => return Err(invalid("the answer does not start like HTTP/1")),
        }
        let mut parsed = Self { length: None, keep: true };
        for line in lines(head).skip(1) {
            if let Some(value) = value(line, b"content-length:") {
                let text = std::str::from_utf8(value).unwrap_or_default().trim();
                parsed.length = Some(text.parse().map_err(|_| invalid("a Content-Length is not a number"))?);
            } else if let Some(value) = value(line, b"connection:") {
                parsed.keep = !value.trim_ascii().eq_ignore_ascii_case(b"close");
            }
        }
        Ok(parsed)
    }
}

fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(rest)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::HttpLoad;
    use crate::faulty::{Behaviour, FaultyListener};
    use crate::origin::HttpOrigin;

    #[tokio::test]
    async fn a_closed_loop_counts_what_the_origin_served() {
        let origin = HttpOrigin::start().await.unwrap();
        let load = HttpLoad::get(origin.addr(), "origin", "/").connections(4).duration(Duration::from_millis(200));
        let report = load.closed().await;
        assert_eq!((report.errors, report.first_error), (0, None));
        assert_eq!(report.requests, origin.requests());
        assert_eq!(report.latency.count(), report.requests);
        assert!(report.requests > 50, "{}", report.requests);
        assert!(report.latency.quantile(0.5) > Duration::ZERO);
    }

    #[tokio::test]
    async fn fresh_connections_are_one_for_each_request() {
        let origin = HttpOrigin::start().await.unwrap();
        let report =
            HttpLoad::get_fresh(origin.addr(), "origin", "/").duration(Duration::from_millis(100)).closed().await;
        assert_eq!(report.first_error, None);
        assert_eq!(report.requests, origin.connections());
        assert!(report.first_byte.quantile(0.5) <= report.latency.quantile(0.5));
    }

    #[tokio::test]
    async fn an_open_loop_keeps_its_rate_and_counts_waiting_as_latency() {
        let origin = HttpOrigin::start().await.unwrap();
        let fast = HttpLoad::get(origin.addr(), "origin", "/").connections(8).duration(Duration::from_millis(500));
        let report = fast.open(200.0).await;
        assert_eq!(report.requests, 100);
        assert!(report.latency.quantile(0.5) < Duration::from_millis(20), "{:?}", report.latency.quantile(0.5));
        // One connection, 20 ms an answer, one due every 5 ms: the queue grows, and only an open loop sees it.
        let slow = HttpLoad::get(origin.addr(), "origin", "/slow?ms=20").duration(Duration::from_millis(300));
        let report = slow.open(200.0).await;
        assert_eq!(report.requests, 60);
        assert!(report.latency.max() > Duration::from_millis(500), "{:?}", report.latency.max());
    }

    #[tokio::test]
    async fn errors_are_counted_and_a_dead_peer_ends_the_run() {
        let dead = FaultyListener::start(Behaviour::Reset).await.unwrap();
        let report = HttpLoad::get(dead.addr(), "origin", "/").duration(Duration::from_secs(60)).closed().await;
        assert_eq!(report.requests, 0);
        assert!(report.errors >= 1);
        assert!(report.first_error.is_some());
    }
}
