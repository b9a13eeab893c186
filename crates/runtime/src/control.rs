//! The control socket of a daemon: HTTP on a Unix socket in a directory of the user's own (S18).
//!
//! One lock says who the daemon is: whoever holds it may replace the socket file, so a stale one is recognised without
//! asking whether some process id is still ours. Nobody is ever signalled.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adit_core::diagnose::{Diagnose, Fault};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::FlockOperation;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};

use crate::listener::{ConnectionLimit, Spell};
use crate::scope::Scope;

mod body;
mod handover;

pub use body::{Lines, LinesSender};
pub use handover::{HandoverError, receive, send};

/// The socket in the directory.
const SOCKET: &str = "control.sock";
/// The file that is locked for as long as the daemon lives; it has the daemon's process id.
const LOCK: &str = "daemon.lock";
/// Conversations at the same time: some terminals and a few programs.
const CONNECTIONS: usize = 256;
/// How long a client may take for a request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Enough for any head of a program of this machine.
const HEAD_MAX: usize = 16 * 1024;
/// How long an answer may take after the end has begun.
const LAST_ANSWER: Duration = Duration::from_secs(2);
/// The pause after running out of descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// A directory that only its owner can enter.
#[derive(Clone, Debug)]
pub struct PrivateDir {
    path: PathBuf,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another daemon runs.
    #[error("a daemon runs already{}", pid.map_or_else(String::new, |pid| format!(" (pid {pid})")))]
    Running {
        /// Its process id, as it wrote it.
        pid: Option<u32>,
    },
    /// The directory is not the user's own.
    #[error("{path} {problem}", path = path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The system refuses something.
    #[error("{path}: {source}", path = path.display())]
    System {
        /// What was to be used.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Diagnose for ControlError {
    fn fault(&self) -> Fault {
        match self {
            Self::Running { .. } => Fault::Usage,
            Self::NotOurs { .. } => Fault::Config,
            Self::System { .. } => Fault::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Running { .. } => Some("see `adit daemon status`; `adit daemon restart` replaces it".into()),
            Self::NotOurs { path, .. } => {
                Some(format!("remove {} or set XDG_RUNTIME_DIR to another place", path.display()))
            }
            Self::System { .. } => Some("set XDG_RUNTIME_DIR to a directory of your own on a local disk".into()),
        }
    }
}

impl PrivateDir {
    /// The directory, made with mode 0700 if it is missing.
    ///
    /// # Errors
    /// [`ControlError::NotOurs`] for a link, a directory of somebody else, or one that others may enter.
    pub fn open(path: &Path) -> Result<Self, ControlError> {
        let system = |source| ControlError::System { path: path.to_owned(), source };
        match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(system(error)),
            Ok(()) | Err(_) => {}
        }
        let found = std::fs::symlink_metadata(path).map_err(system)?;
        let not_ours = |problem| ControlError::NotOurs { path: path.to_owned(), problem };
        if !found.is_dir() {
            return Err(not_ours("is no directory"));
        }
        if found.uid() != rustix::process::geteuid().as_raw() {
            return Err(not_ours("belongs to another user"));
        }
        if found.mode() & 0o022 != 0 {
            return Err(not_ours("can be written by other users"));
        }
        if found.mode() & 0o077 != 0 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(system)?;
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the control socket is, whether it is there or not.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join(SOCKET)
    }
}

/// Which file it is, whatever its path: its device and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(u64, u64);

impl FileId {
    /// The file at a path, a link not followed; `None` when none can be seen.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        std::fs::symlink_metadata(path).ok().map(|found| Self(found.dev(), found.ino()))
    }
}

/// The right to be the daemon of a directory; it ends with the last process that has the open file.
#[derive(Debug)]
pub struct ControlLock {
    file: File,
}

impl ControlLock {
    /// Takes the lock and writes this process's id into it.
    ///
    /// # Errors
    /// [`ControlError::Running`] when another process has it.
    pub fn take(directory: &PrivateDir) -> Result<Self, ControlError> {
        let path = directory.path.join(LOCK);
        let system = |source| ControlError::System { path: path.clone(), source };
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = opened.map_err(system)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Unreadable is unknown.
                let _ = file.read_to_string(&mut text);
                return Err(ControlError::Running { pid: text.trim().parse().ok() });
            }
            Err(error) => return Err(system(error.into())),
        }
        let lock = Self { file };
        lock.sign().map_err(system)?;
        Ok(lock)
    }

    /// Whether the file that is locked is the one in this directory: one that was removed keeps nobody away.
    #[must_use]
    pub fn is_in(&self, directory: &Path) -> bool {
        let own = self.file.metadata().ok().map(|found| FileId(found.dev(), found.ino()));
        own.is_some() && own == FileId::at(&directory.join(LOCK))
    }

    /// The lock of a daemon that hands over to this process. That one's id stays in it until this one signs: it may yet
    /// fail to start.
    #[must_use]
    pub fn inherited(file: OwnedFd) -> Self {
        Self { file: file.into() }
    }

    /// Writes this process's id into it.
    ///
    /// # Errors
    /// What the system says against it.
    pub fn sign(&self) -> io::Result<()> {
        let mut file = &self.file;
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    }
}

impl AsFd for ControlLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A bound control socket.
#[derive(Debug)]
pub struct ControlSocket {
    listener: StdUnixListener,
}

impl ControlSocket {
    /// Binds it in place of whatever a daemon before has left: the lock says that there is none any more.
    ///
    /// # Errors
    /// [`ControlError::System`].
    pub fn bind(directory: &PrivateDir, _lock: &ControlLock) -> Result<Self, ControlError> {
        let path = directory.socket();
        let system = |source| ControlError::System { path: path.clone(), source };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(system(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = StdUnixListener::bind(&path).map_err(system)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(system)?;
        listener.set_nonblocking(true).map_err(system)?;
        Ok(Self { listener })
    }

    /// The socket of a daemon that hands over to this process.
    ///
    /// # Errors
    /// What the system says.
    pub fn inherited(socket: OwnedFd) -> io::Result<Self> {
        let listener = StdUnixListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// Another descriptor of the same socket, for a process that takes over.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Answers this user's (and root's) requests in `scope` until it drains.
    ///
    /// # Errors
    /// When called outside a runtime.
    pub fn serve<H>(self, scope: &Scope, handler: H) -> io::Result<()>
    where
        H: Handler,
    {
        let listener = UnixListener::from_std(self.listener)?;
        let (accepting, tasks) = (scope.clone(), scope.clone());
        let limit = ConnectionLimit::new(CONNECTIONS);
        scope.spawn("control socket", async move {
            let mut exhausted = Spell::default();
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = accepting.drained() => return,
                    accepted = listener.accept() => accepted,
                };
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        exhausted.failed(Instant::now(), |failed| {
                            tracing::warn!(%error, failed, "cannot accept at the control socket, trying again shortly");
                        });
                        tokio::time::sleep(EXHAUSTED_PAUSE).await;
                        continue;
                    }
                };
                exhausted.over(|failed| tracing::warn!(failed, "the control socket accepts again"));
                if !is_ours(&stream) {
                    tracing::warn!("refused a process of another user at the control socket");
                    continue;
                }
                let Some(permit) = limit.try_acquire() else { continue };
                let (handler, ending) = (handler.clone(), tasks.clone());
                tasks.spawn("control conversation", async move {
                    let _permit = permit;
                    conversation(stream, handler, ending).await;
                });
            }
        });
        Ok(())
    }
}

/// Answers requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The body of an answer.
    type Body: Body<Data = Bytes, Error = Infallible> + Send + 'static;

    /// Answers one.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// One client's requests, one after another; at the end of `scope` the one that is being answered is finished.
pub async fn conversation<S, H>(stream: S, handler: H, scope: Scope)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEAD_MAX);
    let answering = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.answer(request).await) }
    });
    let serving = builder.serve_connection(TokioIo::new(stream), answering);
    tokio::pin!(serving);
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        () = scope.drained() => {
            serving.as_mut().graceful_shutdown();
            // A reader that has paused takes nothing more, and nobody's end waits for it.
            match scope.until_cancelled(tokio::time::timeout(LAST_ANSWER, serving)).await {
                Some(Ok(ended)) => ended,
                Some(Err(_)) | None => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a control conversation ended early");
    }
}

/// Whether the process at the other end is of this user, or root.
fn is_ours(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

#[cfg(test)]
mod tests;
