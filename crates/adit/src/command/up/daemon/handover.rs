//! One daemon takes the place of another: the listening sockets go from process to process, so that no connection is
//! refused in between.
//!
//! The successor is a child with a socket as its standard input: there is no name that another program could use.

use std::net::TcpListener;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use adit_core::diagnose::Fault;
use runtime::control::{ControlLock, ControlSocket};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

use super::launch::{Ready, Waiting, given_up, refused};
use super::state::{Daemon, Ending, internal, lock, of_its_start};
use crate::report::Failure;

/// The labels of what is no entrance.
const LOCK: &str = "lock";
const SOCKET: &str = "control";
const ENTRANCE: &str = "entrance ";
const DOOR: &str = "door ";
/// Sent with the control socket once more when a service manager holds that.
const ACTIVATED: &str = "activated";
/// How long a successor may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a process before this one has handed over.
pub(super) struct Inherited {
    pub(super) lock: ControlLock,
    pub(super) socket: ControlSocket,
    pub(super) entrances: Vec<(String, TcpListener)>,
    /// The daemon's own ports.
    pub(super) doors: Vec<(String, TcpListener)>,
    /// A service manager holds the control socket.
    pub(super) is_activated: bool,
}

/// Reads the descriptors from standard input.
pub(super) fn from_predecessor() -> Result<Inherited, Failure> {
    let wrong = |text: String| Failure::new(Fault::Internal, text, "use `adit daemon start`");
    let sockets = runtime::control::receive(std::io::stdin()).map_err(|error| wrong(error.to_string()))?;
    let (mut lock, mut socket, mut entrances, mut doors) = (None, None, Vec::new(), Vec::new());
    let mut is_activated = false;
    for (label, descriptor) in sockets {
        match label.as_str() {
            LOCK => lock = Some(ControlLock::inherited(descriptor)),
            SOCKET => socket = Some(ControlSocket::inherited(descriptor).map_err(|error| internal(&error))?),
            ACTIVATED => is_activated = true,
            other => {
                if let Some(label) = other.strip_prefix(ENTRANCE) {
                    entrances.push((label.to_owned(), TcpListener::from(descriptor)));
                } else if let Some(label) = other.strip_prefix(DOOR) {
                    doors.push((label.to_owned(), TcpListener::from(descriptor)));
                }
            }
        }
    }
    match (lock, socket) {
        (Some(lock), Some(socket)) => Ok(Inherited { lock, socket, entrances, doors, is_activated }),
        _ => Err(wrong("nothing was handed over".into())),
    }
}

/// Why nobody has taken over.
pub(super) enum NotHandedOver {
    /// Somebody else decides already who the daemon is.
    Busy(&'static str),
    /// Something went wrong; everything is as it was.
    Failed(Failure),
}

/// Starts another daemon, gives it the sockets, and ends this one when that is ready. If it does not get ready,
/// everything stays as it is.
pub(super) async fn to_successor(daemon: &Arc<Daemon>) -> Result<u32, NotHandedOver> {
    let turn = Turn::take(daemon)?;
    let failed = NotHandedOver::Failed;
    // Whoever was faster has its wish written down before the successor reads them; whoever comes later asks the successor.
    daemon.settled().await.map_err(failed)?;
    let program = program().map_err(failed)?;
    let entrances = daemon.sockets().await.map_err(failed)?;
    let doors = daemon.doors.sockets().map_err(|error| failed(internal(&error)))?;
    let labelled = |kind: &'static str| move |(label, socket): (String, OwnedFd)| (format!("{kind}{label}"), socket);
    let ports: Vec<(String, OwnedFd)> =
        entrances.into_iter().map(labelled(ENTRANCE)).chain(doors.into_iter().map(labelled(DOOR))).collect();
    let (lock_file, socket) = daemon.descriptors().map_err(failed)?;
    // All of it is there, whether whoever asked for it still listens or not: a successor that is ready and a
    // predecessor that does not know it would be two daemons.
    let scope = daemon.scope();
    let waiting = Waiting::new();
    let over = give_up_at_the_end(daemon, waiting.give_up());
    let handed = scope.spawn_blocking("handover", move || {
        let (daemon, _over) = (&turn.0, over);
        let (ours, theirs) = UnixStream::pair().map_err(|error| internal(&error))?;
        let mut child = start(&program, daemon, theirs)?;
        let sent = give(&ours, &lock_file, &socket, &ports, daemon.is_activated);
        let ready = sent.and_then(|()| waiting.wait_for(&mut child, PATIENCE));
        match ready {
            Ok(Ready::Yes) => settle(daemon, child),
            Ok(Ready::No(text)) => Err(of_its_start(refused(&text).within("the successor did not start"))),
            Err(failure) => {
                // Ours: it is a child that was not waited for.
                let _ = child.kill();
                let _ = child.wait();
                Err(failure)
            }
        }
    });
    let handed = handed.await.map_err(|lost| failed(Failure::new(Fault::Internal, lost.to_string(), "")))?;
    handed.map_err(failed)
}

/// Gives a successor up when the daemon is told to end, until what is returned is dropped.
fn give_up_at_the_end(daemon: &Arc<Daemon>, give_up: impl FnOnce() + Send + 'static) -> oneshot::Sender<()> {
    let (over, is_over) = oneshot::channel();
    let mut ending = daemon.ending.subscribe();
    daemon.scope().spawn("give a successor up", async move {
        let ends = async { ending.wait_for(Option::is_some).await.is_ok() };
        tokio::select! {
            biased;
            _ = is_over => {}
            // The sender lives as long as the daemon.
            _ = ends => give_up(),
        }
    });
    over
}

/// The successor is ready: it is the daemon, unless this one was told to end in the meantime.
fn settle(daemon: &Daemon, mut child: Child) -> Result<u32, Failure> {
    let pid = child.id();
    super::leaving::announce(&daemon.place.runtime, &super::ending::in_use(&lock(&daemon.running)));
    let goes_on = daemon.end(Ending::TakenOver);
    if !goes_on {
        super::leaving::take_back(&daemon.place.runtime);
    }
    if !goes_on && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Ours: it is a child that was not waited for. Whoever told this one to end meant that one, too.
        let _ = kill_process(pid, Signal::TERM);
    }
    // This process may stay for hours for what it carries; the end of its child is taken note of.
    let _ = std::thread::Builder::new().name("successor".into()).spawn(move || child.wait());
    if goes_on { Ok(pid) } else { Err(given_up()) }
}

/// The one handover that is under way.
struct Turn(Arc<Daemon>);

impl Turn {
    fn take(daemon: &Arc<Daemon>) -> Result<Self, NotHandedOver> {
        if !daemon.handing.send_if_modified(|handing| !std::mem::replace(handing, true)) {
            return Err(NotHandedOver::Busy("another process is taking over already"));
        }
        let turn = Self(Arc::clone(daemon));
        if daemon.ends() { Err(NotHandedOver::Busy("the daemon ends already")) } else { Ok(turn) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.handing.send_replace(false);
    }
}

fn give(
    to: &UnixStream,
    lock: &OwnedFd,
    socket: &OwnedFd,
    ports: &[(String, OwnedFd)],
    is_activated: bool,
) -> Result<(), Failure> {
    let mut all: Vec<(String, BorrowedFd<'_>)> = vec![(LOCK.into(), lock.as_fd()), (SOCKET.into(), socket.as_fd())];
    all.extend(ports.iter().map(|(label, socket)| (label.clone(), socket.as_fd())));
    all.extend(is_activated.then(|| (ACTIVATED.to_owned(), socket.as_fd())));
    let timed = to.set_write_timeout(Some(PATIENCE)).map_err(|error| internal(&error));
    timed.and_then(|()| {
        runtime::control::send(to, &all).map_err(|error| Failure::new(Fault::Internal, error.to_string(), ""))
    })
}

fn start(program: &PathBuf, daemon: &Daemon, socket: UnixStream) -> Result<Child, Failure> {
    let mut command = Command::new(program);
    command.arg("--config").arg(&daemon.config).args(arguments(daemon.has_no_file()));
    super::notify::pass_on(&mut command);
    command.stdin(Stdio::from(OwnedFd::from(socket))).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().map_err(|error| {
        let text = format!("{} cannot be started: {error}", program.display());
        Failure::new(Fault::Internal, text, "")
    })
}

/// What a successor is called with.
fn arguments(without_file: bool) -> impl Iterator<Item = &'static str> {
    let always = ["daemon", "run", "--background", "--take-over"];
    always.into_iter().chain(without_file.then_some("--without-file"))
}

/// The program that runs; after an upgrade the file of that name is the new one.
pub(super) fn program() -> Result<PathBuf, Failure> {
    let path = std::env::current_exe().map_err(|error| internal(&error))?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_learns_that_there_is_no_file_yet() {
        assert!(!arguments(false).any(|argument| argument == "--without-file"));
        assert!(arguments(true).any(|argument| argument == "--without-file"));
    }
}
