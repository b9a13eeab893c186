//! An HTTP/1.1 service on raw sockets: fast where it counts, and able to behave in every way a tunnel must survive.
//!
//! | path | answer |
//! |---|---|
//! | `/` | 13 bytes |
//! | `/bytes/N[?chunked]` | N bytes of [`pattern`], by length or in chunks |
//! | `/slow?ms=M` | the answer comes after M ms |
//! | `/drip?pieces=N&ms=M` | N chunks of 100 bytes, M ms apart |
//! | `/sse?events=N&ms=M` | N server-sent events (0 = for ever) |
//! | `/echo` | the request's body, streamed back while it arrives |
//! | `/sink` | the number of body bytes, when all have arrived |
//! | `/head` | the request's head as it arrived |
//! | `/status/N` | that status |
//! | `/range` | [`RANGE_LENGTH`] bytes of [`pattern`]; honours `Range: bytes=A-B` |
//! | `/trailers` | chunked, with the trailer `x-checksum: 13` |
//! | `/early` | `103 Early Hints`, then `/` |
//! | `/hop` | hop-by-hop headers that a proxy must drop |
//! | `/no-length` | a body that ends with the connection |
//! | `/reject` | `413` before the body is read, then the end |
//! | `/reset` `/silent` `/garbage` | a reset, nothing, or nonsense instead of an answer |
//! | `/reset-mid-body` `/close-mid-body` | 1000 of 1000000 bytes, then a reset or the end |
//! | `/ws` | a WebSocket echo |
//! | `/ws-page` | a page that says something there and shows what comes back |
//! | `/upgrade` | `101` to whatever was asked for, then an echo of bytes |

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::task::{self, Task};
use crate::wire::{Framing, Wire, fields, invalid, lines};

mod answers;

/// Bytes of the resource at `/range`.
pub const RANGE_LENGTH: usize = 1_000_000;
/// How many request heads are kept for tests to look at.
const HEADS: usize = 256;
/// The whole answer to `/`.
const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!";

/// The running service.
#[derive(Debug)]
pub struct HttpOrigin {
    addr: SocketAddr,
    state: Arc<State>,
    _task: Task,
}

#[derive(Debug, Default)]
struct State {
    quiet: bool,
    connections: AtomicU64,
    open: AtomicU64,
    requests: AtomicU64,
    in_flight: AtomicU64,
    cancelled: AtomicU64,
    heads: Mutex<VecDeque<String>>,
}

impl HttpOrigin {
    /// Starts it on a free port.
    pub async fn start() -> io::Result<Self> {
        Self::launch(State::default())
    }

    /// Starts it on this address (to come back where an earlier one was).
    pub async fn start_on(addr: SocketAddr) -> io::Result<Self> {
        Self::launch_on(addr, State::default())
    }

    /// Starts it without keeping request heads: for load.
    pub async fn start_quiet() -> io::Result<Self> {
        Self::launch(State { quiet: true, ..State::default() })
    }

    fn launch(state: State) -> io::Result<Self> {
        Self::launch_on(SocketAddr::from(([127, 0, 0, 1], 0)), state)
    }

    fn launch_on(addr: SocketAddr, state: State) -> io::Result<Self> {
        let (listener, addr) = task::listen_on(addr)?;
        let state = Arc::new(state);
        let shared = Arc::clone(&state);
        let task = task::spawn(task::serve(listener, move |stream, _| {
            let state = Arc::clone(&shared);
            async move {
                state.connections.fetch_add(1, Ordering::Relaxed);
                let _open = Counted::new(&state.open);
                // How a client leaves is its own business.
                let _ = serve(&state, stream).await;
            }
        }));
        Ok(Self { addr, state, _task: task })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its address as a URL without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Connections accepted since the start.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.state.open.load(Ordering::Relaxed)
    }

    /// Requests whose head has arrived since the start.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// Requests being answered now.
    pub fn in_flight(&self) -> u64 {
        self.state.in_flight.load(Ordering::Relaxed)
    }

    /// Requests whose client left before the answer was complete.
    pub fn cancelled(&self) -> u64 {
        self.state.cancelled.load(Ordering::Relaxed)
    }

    /// The latest request heads, oldest first.
    pub fn heads(&self) -> Vec<String> {
        self.state.heads().iter().cloned().collect()
    }

    /// The last request's head.
    pub fn last_head(&self) -> Option<String> {
        self.state.heads().back().cloned()
    }
}

impl State {
    fn heads(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, head: &[u8]) {
        let mut heads = self.heads();
        if heads.len() == HEADS {
            heads.pop_front();
        }
        heads.push_back(String::from_utf8_lossy(head).into_owned());
    }
}

/// The body of every resource with a length: byte `at` is `at % 251`, so any slice can be checked.
pub fn pattern(start: usize, length: usize) -> Vec<u8> {
    (start..start + length).map(|at| u8::try_from(at % 251).unwrap_or_default()).collect()
}

/// A count of things there are now.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request said, as far as the service cares.
#[derive(Debug, Default)]
struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    head: Bytes,
}

impl Request {
    fn parse(head: Bytes) -> io::Result<Self> {
        let line = lines(&head).next().ok_or_else(|| invalid("an empty head"))?;
        let line = String::from_utf8_lossy(line).into_owned();
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(_)) = (words.next(), words.next(), words.next()) else {
            return Err(invalid("not a request line"));
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = fields(&head);
        Ok(Self { method: method.to_owned(), path: path.to_owned(), query: query.to_owned(), headers, head })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    }

    fn framing(&self) -> io::Result<Framing> {
        if self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Ok(Framing::Chunked(None));
        }
        let length = self.header("content-length").unwrap_or("0");
        length.parse().map(Framing::Length).map_err(|_| invalid("a Content-Length is not a number"))
    }

    fn wants_close(&self) -> bool {
        self.header("connection").is_some_and(|value| value.to_ascii_lowercase().contains("close"))
    }
}

/// What to do with the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Keep,
    Close,
}

async fn serve(state: &State, stream: TcpStream) -> io::Result<()> {
    let mut wire = Wire::new(stream);
    while let Some(head) = wire.head().await? {
        state.requests.fetch_add(1, Ordering::Relaxed);
        if state.quiet && is_plain(&head) {
            wire.io.write_all(HELLO).await?;
            continue;
        }
        if !state.quiet {
            state.keep(&head);
        }
        let request = Request::parse(head)?;
        if request.path == "/ws" || request.path == "/upgrade" {
            return answers::upgrade(&request, wire).await;
        }
        let _in_flight = Counted::new(&state.in_flight);
        let after = answers::answer(&request, &mut wire).await.inspect_err(|_| {
            state.cancelled.fetch_add(1, Ordering::Relaxed);
        })?;
        if after == After::Close || request.wants_close() {
            return wire.io.shutdown().await;
        }
    }
    Ok(())
}

/// Whether this is `GET /` without a body on a connection to be kept: nearly all there is under load.
fn is_plain(head: &[u8]) -> bool {
    head.starts_with(b"GET / HTTP/1.1\r\n")
        && lines(head).all(|line| match line.first().map(u8::to_ascii_lowercase) {
            Some(b'c') => !is_field(line, b"connection:") && !is_field(line, b"content-length:"),
            Some(b't') => !is_field(line, b"transfer-encoding:"),
            _ => true,
        })
}

fn is_field(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests;
