//! What SSH is spoken over: TCP, a stream through another server, the pipes of a command.

use std::io;
use std::pin::{Pin, pin};
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use runtime::connect::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::Sleep;

use super::openssh::Master;

/// A child that has closed its output ends within this time, or it has ended only this direction.
const ENDS: Duration = Duration::from_secs(1);

/// The input and output of a child process as one stream. Dropping it ends the child.
pub(crate) struct Pipes {
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    child: Child,
    output: Output,
    master: Option<Carrier>,
}

/// Another process that carries the stream.
enum Carrier {
    /// It is ours, and lives as long as we have it.
    Master(Arc<Master>),
    /// By the socket at which it listens.
    #[cfg(test)]
    Socket(std::path::PathBuf),
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
        self.master = Some(Carrier::Master(master));
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

/// Whether a master still does its work: it greets whoever connects. One that is about to end does not.
async fn answers(master: Carrier) -> bool {
    let greeting = async {
        let socket = match &master {
            Carrier::Master(master) => master.socket(),
            #[cfg(test)]
            Carrier::Socket(socket) => socket,
        };
        let mut stream = UnixStream::connect(socket).await?;
        stream.read_u8().await
    };
    matches!(tokio::time::timeout(ENDS, greeting).await, Ok(Ok(_)))
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
    use tokio::io::AsyncWriteExt as _;

    fn run(script: &str) -> Pipes {
        Pipes::start(Command::new("/bin/sh").args(["-c", script])).unwrap().0
    }

    fn over(mut pipes: Pipes, master: &std::path::Path) -> Pipes {
        pipes.master = Some(Carrier::Socket(master.to_owned()));
        pipes
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

    #[tokio::test]
    async fn a_stream_whose_master_is_gone_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let mut pipes = over(run("printf all"), &path);
        let mut text = String::new();
        let greeting = async {
            let (mut who, _) = listener.accept().await.unwrap();
            who.write_all(b"hello").await.unwrap();
        };
        let (read, ()) = tokio::join!(pipes.read_to_string(&mut text), greeting);
        assert_eq!((read.unwrap(), text.as_str()), (3, "all"));
        drop(listener);
        let error = over(run("printf all"), &path).read_to_string(&mut text).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
