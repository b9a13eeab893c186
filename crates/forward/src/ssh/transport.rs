//! What SSH is spoken over: TCP, a stream through another server, the pipes of a command.

use std::io;
use std::pin::{Pin, pin};
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use runtime::connect::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::openssh::Master;

/// A child that has closed its output ends within this time, or it has ended only this direction.
const ENDS: Duration = Duration::from_secs(1);

/// A way to a server that is given up when the server takes nothing for too long, or when whoever logs in is gone.
///
/// russh has a time limit for all that does not move. It would end a connection of which nothing was taken for that time
/// because a reader paused, and not because of the server.
pub(crate) struct Watched<S> {
    inner: S,
    /// How long the server may take nothing of what is sent.
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    login: Option<oneshot::Receiver<()>>,
}

/// Whoever logs in. Dropping it gives the way up.
pub(crate) struct Logging(oneshot::Sender<()>);

impl Logging {
    /// The way stays without it.
    pub(crate) fn done(self) {
        // An error says that the way is gone.
        let _ = self.0.send(());
    }
}

impl<S> Watched<S> {
    pub(crate) fn new(inner: S, patience: Duration) -> (Self, Logging) {
        let (logging, login) = oneshot::channel();
        (Self { inner, patience, waiting: None, login: Some(login) }, Logging(logging))
    }

    /// What came of a write.
    fn wait<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(login) = &mut self.login {
            match Pin::new(login).poll(cx) {
                Poll::Ready(Ok(())) => self.login = None,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                Poll::Pending => {}
            }
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wait(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.wait(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.wait(cx, ended)
    }
}

/// The input and output of a child process as one stream. Dropping it ends the child.
pub(crate) struct Pipes {
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    child: Child,
    output: Output,
    /// Another process that carries the stream. It is ours, and lives as long as we have it.
    master: Option<Arc<Master>>,
}

/// How far the child's output is.
enum Output {
    Flows,
    /// No more comes; how the child ends says whether all of it has come.
    Closed(Pin<Box<Sleep>>),
    /// The child has ended well; whether its master is there says the same of the stream.
    Doubted(BoxFuture<'static, bool>),
    Cut,
    Ended,
}

impl Pipes {
    /// Starts a command. What it says on standard error is for the caller.
    pub(crate) fn start(command: &mut Command) -> io::Result<(Self, Option<tokio::process::ChildStderr>)> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let stderr = child.stderr.take();
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => {
                Ok((Self { stdin: Some(stdin), stdout, child, output: Output::Flows, master: None }, stderr))
            }
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// The stream is carried by another process, which not always tells its child when it is cut off.
    pub(crate) fn carried_by(mut self, master: Arc<Master>) -> Self {
        self.master = Some(master);
        self
    }

    /// A child that was killed or failed has cut the stream: its end of file is none. Nor is one after which the process that
    /// carried it is gone.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let cut = |reason: String| Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, reason)));
        loop {
            match &mut self.output {
                Output::Flows => self.output = Output::Closed(Box::pin(tokio::time::sleep(ENDS))),
                Output::Closed(patience) => match pin!(self.child.wait()).poll(cx) {
                    Poll::Ready(Ok(status)) if !status.success() => {
                        return cut(format!("the program that carries it ended with {status}"));
                    }
                    Poll::Ready(_) => {
                        self.output = match self.master.take() {
                            Some(master) => Output::Doubted(Box::pin(answers(master))),
                            None => Output::Ended,
                        };
                    }
                    Poll::Pending => {
                        ready!(patience.as_mut().poll(cx));
                        self.output = Output::Ended;
                    }
                },
                Output::Doubted(answers) => {
                    self.output = if ready!(answers.as_mut().poll(cx)) { Output::Ended } else { Output::Cut };
                }
                Output::Cut => return cut("the connection that carried it is gone".to_owned()),
                Output::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Whether a master still does its work.
async fn answers(master: Arc<Master>) -> bool {
    tokio::time::timeout(ENDS, master.lives()).await.unwrap_or(false)
}

impl AsyncRead for Pipes {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Output::Flows = self.output {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.stdout).poll_read(cx, buf))?;
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_end(cx)
    }
}

impl AsyncWrite for Pipes {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_write(cx, buf),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(stdin) = &mut self.stdin {
            ready!(Pin::new(stdin).poll_flush(cx))?;
        }
        // Only closing it tells the child.
        self.stdin = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn run(script: &str) -> Pipes {
        Pipes::start(Command::new("/bin/sh").args(["-c", script])).unwrap().0
    }

    #[tokio::test(start_paused = true)]
    async fn a_way_is_given_up_when_nothing_is_taken_for_too_long_and_not_because_nothing_comes() {
        let (near, mut far) = tokio::io::duplex(16);
        let (mut way, logging) = Watched::new(near, Duration::from_secs(60));
        logging.done();
        let begun = tokio::time::Instant::now();
        let quiet = tokio::time::timeout(Duration::from_secs(3600), way.read_u8()).await;
        assert!(quiet.is_err(), "a quiet one may be quiet");
        // What is taken slowly is taken.
        let slowly = async {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                far.read_exact(&mut [0; 16]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(way.write_all(&[7; 80]), slowly);
        written.unwrap();
        let full = tokio::time::Instant::now();
        assert!(full - begun >= Duration::from_secs(3800));
        let error = way.write_all(b"more").await.unwrap_err();
        assert_eq!((error.kind(), full.elapsed().as_secs()), (io::ErrorKind::TimedOut, 60));
    }

    #[tokio::test]
    async fn a_way_by_which_nobody_logs_in_any_more_is_given_up() {
        let (near, _far) = tokio::io::duplex(16);
        let (mut way, logging) = Watched::new(near, Duration::from_secs(60));
        let (read, ()) = tokio::join!(way.read_u8(), async { drop(logging) });
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn a_child_that_fails_cuts_its_stream() {
        for script in ["printf part; exit 255", "printf part; kill -9 $$"] {
            let (mut pipes, mut text) = (run(script), Vec::new());
            let error = pipes.read_to_end(&mut text).await.unwrap_err();
            assert_eq!((error.kind(), text.as_slice()), (io::ErrorKind::ConnectionReset, &b"part"[..]), "{script}");
            assert!(pipes.read(&mut [0; 8]).await.is_err(), "{script}: it stays cut");
        }
    }

    #[tokio::test]
    async fn a_child_that_ends_well_ends_its_stream() {
        let (mut pipes, mut text) = (run("printf all"), String::new());
        pipes.read_to_string(&mut text).await.unwrap();
        assert_eq!((text.as_str(), pipes.read(&mut [0; 8]).await.unwrap()), ("all", 0));
    }

    #[tokio::test]
    async fn a_child_that_ends_one_direction_only_goes_on_with_the_other() {
        let (mut pipes, mut text) = (run("exec 3>&1; printf first; exec 1>&- 3>&-; cat >/dev/null"), String::new());
        pipes.read_to_string(&mut text).await.unwrap();
        pipes.write_all(b"more").await.unwrap();
        pipes.shutdown().await.unwrap();
        assert!(pipes.child.wait().await.unwrap().success());
    }
}
