//! `exec`: the streams of a process over SPDY or WebSocket channels, and its status at the end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::faults::What;
use super::handshake::Accepted;
use super::inbox::Inbox;
use super::intake::{Frames, Messages};
use super::link::{FRAME, Link};
use super::process::{Exit, Process};
use super::spdy::{self, Frame};
use super::{StreamTarget, flag};
use crate::cluster::Shared;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
/// The channel whose messages close the channel they name, from version 5 on.
const CLOSE: u8 = 255;
/// Bytes of output in one channel message.
const MESSAGE: usize = 4 << 10;

/// Where the output of a process goes.
#[derive(Clone)]
pub(super) struct Console {
    link: Arc<Link>,
    way: Way,
    version: u8,
    /// The process has closed its stdout.
    closed: Arc<AtomicBool>,
}

/// How the streams of a process are told apart.
#[derive(Clone, Debug, Default)]
enum Way {
    #[default]
    Channels,
    Spdy(Ids),
}

/// The SPDY streams of a process.
#[derive(Clone, Debug, Default)]
struct Ids {
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    resize: Option<u32>,
    error: Option<u32>,
}

/// Ends stdin when the client is gone; the process itself goes on.
struct Input(Arc<Inbox>);

impl Drop for Input {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Serves an exec over SPDY until the client goes or the process has ended.
pub(super) async fn serve_spdy<R: AsyncRead + Unpin>(
    mut frames: Frames<R>,
    shared: &Arc<Shared>,
    target: &Arc<StreamTarget>,
    link: &Arc<Link>,
    accepted: &Accepted,
) -> io::Result<()> {
    let input = Input(Arc::new(Inbox::default()));
    let Some(delay) = shared.faults.streams.delay_of_stream() else { return swallow(frames).await };
    let mut ids = Ids::default();
    let deadline = Instant::now() + shared.options.stream_pair_wait;
    let mut started = false;
    loop {
        let frame = tokio::select! {
            biased;
            frame = frames.next() => frame?,
            // kubelet hangs up on a client that does not create the streams it asked for.
            () = sleep_until(deadline), if !started => return Ok(()),
        };
        match frame {
            Some(Frame::Syn { id, headers, fin }) => {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                link.reply(id);
                let kind = headers.iter().find(|(name, _)| name == "streamtype").map(|(_, value)| value.as_str());
                ids.note(kind.unwrap_or_default(), id);
                if fin && ids.stdin == Some(id) {
                    input.0.end();
                }
            }
            Some(Frame::Data { id, bytes, fin }) if ids.stdin == Some(id) => {
                let room = input.0.push(bytes);
                if fin {
                    input.0.end();
                }
                if !room {
                    input.0.room().await;
                }
            }
            Some(Frame::Reset { id }) if ids.stdin == Some(id) => input.0.end(),
            Some(Frame::Ping { id }) => link.ping(id),
            Some(Frame::Data { .. } | Frame::Reset { .. }) => {}
            Some(Frame::GoAway) | None => return Ok(()),
        }
        if !started && ids.complete(target, accepted.version()) {
            started = true;
            let console = Console::new(link, Way::Spdy(ids.clone()), accepted.version());
            start(shared, target, &input, console);
        }
    }
}

/// Serves an exec over channels until the client goes or the process has ended.
pub(super) async fn serve_channels<R: AsyncRead + Unpin>(
    mut messages: Messages<R>,
    shared: &Arc<Shared>,
    target: &Arc<StreamTarget>,
    link: &Arc<Link>,
    accepted: &Accepted,
) -> io::Result<()> {
    let input = Input(Arc::new(Inbox::default()));
    let version = accepted.version();
    let first = [(STDOUT, "stdout"), (STDERR, "stderr")].into_iter().find(|(_, name)| flag(target, name));
    link.message(first.map_or(STATUS, |(channel, _)| channel), &[]);
    start(shared, target, &input, Console::new(link, Way::Channels, version));
    while let Some((channel, bytes)) = messages.next().await? {
        match channel {
            STDIN => {
                let room = input.0.push(bytes);
                if !room {
                    input.0.room().await;
                }
            }
            CLOSE if version >= 5 && bytes.first() == Some(&STDIN) => input.0.end(),
            _ => {}
        }
    }
    Ok(())
}

/// Starts the process. It is not one of the connection's tasks: it outlives the client.
fn start(shared: &Arc<Shared>, target: &Arc<StreamTarget>, input: &Input, console: Console) {
    if !flag(target, "stdin") {
        input.0.end();
    }
    let process = Process::new(shared, target, Arc::clone(&input.0), console.clone());
    let open = shared.faults.streams.counts.open(What::Process);
    let input = Arc::clone(&input.0);
    let args = process.args().to_vec();
    shared.hold(async move {
        let _open = open;
        let exit = process.run().await;
        input.close();
        console.finish(&exit, &args);
    });
}

async fn swallow<R: AsyncRead + Unpin>(mut frames: Frames<R>) -> io::Result<()> {
    while frames.next().await?.is_some() {}
    Ok(())
}

impl Ids {
    fn note(&mut self, kind: &str, id: u32) {
        let place = match kind {
            "stdin" => &mut self.stdin,
            "stdout" => &mut self.stdout,
            "stderr" => &mut self.stderr,
            "resize" => &mut self.resize,
            "error" => &mut self.error,
            _ => return,
        };
        *place = Some(id);
    }

    fn complete(&self, target: &StreamTarget, version: u8) -> bool {
        let tty = flag(target, "tty");
        let had = |name: &str, id: Option<u32>| !flag(target, name) || id.is_some();
        self.error.is_some()
            && had("stdin", self.stdin)
            && had("stdout", self.stdout)
            && (tty || had("stderr", self.stderr))
            && (!tty || version < 3 || self.resize.is_some())
    }
}

impl Console {
    fn new(link: &Arc<Link>, way: Way, version: u8) -> Self {
        Self { link: Arc::clone(link), way, version, closed: Arc::default() }
    }

    /// The process closes its stdout and goes on. Only SPDY has a word for that.
    pub(super) fn end_stdout(&self) {
        if let Way::Spdy(Ids { stdout: Some(id), .. }) = &self.way
            && !self.closed.swap(true, Ordering::Relaxed)
        {
            self.link.data(*id, &[], true);
        }
    }

    /// Waits for room and writes output; an error when nobody is there to read it.
    pub(super) async fn stdout(&self, bytes: &[u8]) -> io::Result<()> {
        self.output(STDOUT, bytes).await
    }

    /// The same for the other output.
    pub(super) async fn stderr(&self, bytes: &[u8]) -> io::Result<()> {
        self.output(STDERR, bytes).await
    }

    /// Copies what a socket has now; 0 is its end.
    pub(super) fn copy(&self, socket: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
        if let Way::Spdy(Ids { stdout: Some(id), .. }) = &self.way {
            return self.link.read_from(*id, socket);
        }
        if !self.link.is_open() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        buffer.resize(FRAME, 0);
        let length = socket.try_read(buffer)?;
        self.put(STDOUT, &buffer[..length]);
        Ok(length)
    }

    /// Waits until output can be written.
    pub(super) async fn room(&self) -> io::Result<()> {
        self.link.room().await
    }

    async fn output(&self, channel: u8, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(FRAME) {
            self.link.room().await?;
            self.put(channel, piece);
        }
        Ok(())
    }

    fn put(&self, channel: u8, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        match &self.way {
            Way::Channels => bytes.chunks(MESSAGE).for_each(|piece| self.link.message(channel, piece)),
            Way::Spdy(ids) => {
                let id = if channel == STDOUT { ids.stdout } else { ids.stderr };
                if let Some(id) = id {
                    self.link.data(id, bytes, false);
                }
            }
        }
    }

    /// Says how the process ended, and ends the connection.
    fn finish(&self, exit: &Exit, args: &[String]) {
        let status = status(exit, args);
        let text = match self.version {
            4.. => Some(status.to_string()),
            _ if status["status"] == "Success" => None,
            _ => status["message"].as_str().map(str::to_owned),
        };
        match &self.way {
            Way::Channels => {
                if let Some(text) = text {
                    self.link.message(STATUS, text.as_bytes());
                }
            }
            Way::Spdy(ids) => {
                self.end_stdout();
                if let Some(id) = ids.stderr {
                    self.link.data(id, &[], true);
                }
                if let (Some(id), Some(text)) = (ids.error, text) {
                    self.link.data(id, text.as_bytes(), false);
                }
                for id in [ids.stdin, ids.resize, ids.error].into_iter().flatten() {
                    self.link.reset(id, spdy::CANCEL);
                }
                self.link.go_away();
            }
        }
        self.link.finish();
    }
}

/// The Status object for the end of a process.
fn status(exit: &Exit, args: &[String]) -> Value {
    match exit {
        Exit::Code(0) => json!({ "metadata": {}, "status": "Success" }),
        Exit::Code(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: error executing command [{}], exit code {code}", args.join(" ")),
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        Exit::NotStarted(program) => {
            let cause = format!(
                "error executing command in container: failed to exec in container: failed to start exec: OCI runtime exec \
                 failed: exec failed: unable to start container process: exec: {program:?}: executable file not found in $PATH"
            );
            json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("Internal error occurred: {cause}"),
                "details": { "causes": [{ "message": cause }] },
            })
        }
    }
}
