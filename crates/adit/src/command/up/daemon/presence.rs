//! Where the daemon is found: its lock and its control socket, kept in their place.
//!
//! The directory of both may be removed under a running daemon: by hand, or by the system, which clears a user's
//! runtime directory at the end of the last session. A daemon that nobody can ask would hold its ports for ever.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use runtime::control::{ControlLock, ControlSocket, FileId};
use runtime::scope::Scope;
use serde_json::Value;

use super::api::Api;
use super::place::Place;
use super::state::{Daemon, control};
use crate::command::clock::ticks;
use crate::report::Failure;

/// How often the daemon looks whether it can be found; whoever misses it waits no longer than this.
const LOOK: Duration = Duration::from_secs(2);

/// What a daemon is found by.
pub(super) struct Presence {
    /// The parent of wherever the socket is answered.
    answering: Scope,
    held: Mutex<Held>,
}

struct Held {
    /// Nothing once another process is the daemon: whatever of it stays open here would outlast that one.
    kept: Option<Kept>,
    /// The socket's file, as it was when it was last known to be ours.
    file: Option<FileId>,
    /// Where this socket is answered.
    answering: Scope,
    /// Why it cannot be found, as was told.
    told: Option<String>,
}

struct Kept {
    /// Nobody else is the daemon as long as this is open.
    lock: ControlLock,
    socket: OwnedFd,
}

impl Presence {
    /// Of a lock and a socket that are in their place.
    pub(super) fn new(answering: &Scope, place: &Place, lock: ControlLock, socket: &ControlSocket) -> io::Result<Self> {
        let (socket, file) = (socket.share()?, FileId::at(&place.socket()));
        let kept = Some(Kept { lock, socket });
        let held = Held { kept, file, answering: answering.child(), told: None };
        Ok(Self { answering: answering.clone(), held: Mutex::new(held) })
    }

    /// Both, for a successor.
    pub(super) fn descriptors(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        let held = self.held();
        let Some(kept) = &held.kept else { return Err(io::Error::other("another process is the daemon")) };
        Ok((kept.lock.as_fd().try_clone_to_owned()?, kept.socket.try_clone()?))
    }

    /// Another process has them now: here they are closed, so that they end with that one.
    pub(super) fn let_go(&self) {
        self.held().kept = None;
    }

    /// From now on the lock names this process.
    pub(super) fn sign(&self) -> io::Result<()> {
        self.held().kept.as_ref().map_or(Ok(()), |kept| kept.lock.sign())
    }

    /// Answers at the socket.
    pub(super) fn answer(&self, daemon: &Arc<Daemon>, socket: ControlSocket) -> io::Result<()> {
        let answering = self.held().answering.clone();
        socket.serve(&answering, Api::new(daemon))
    }

    /// Puts back what is gone from its place, unless another daemon has the place. To be called within the runtime.
    pub(super) fn restore(&self, daemon: &Arc<Daemon>) {
        let mut held = self.held();
        if held.kept.is_none() {
            return;
        }
        if held.is_found(&daemon.place) {
            held.told = None;
            return;
        }
        match self.again(&mut held, daemon) {
            Ok(()) => {
                held.told = None;
                let text = format!("{} was gone: the daemon is found there again", daemon.place.socket().display());
                daemon.journal.note("found-again", &text, &Value::Null);
            }
            Err(failure) => {
                // Once for each reason: it is tried again as long as it lasts.
                let reason = failure.message().to_owned();
                if held.told.as_ref() != Some(&reason) {
                    tracing::warn!(%reason, "nobody can ask this daemon: its control socket is gone");
                    held.told = Some(reason);
                }
            }
        }
    }

    /// Whether nothing is gone, as far as can be said at once.
    pub(super) fn is_found(&self, place: &Place) -> bool {
        self.held.try_lock().is_ok_and(|held| held.kept.is_none() || held.told.is_none() && held.is_found(place))
    }

    fn again(&self, held: &mut Held, daemon: &Arc<Daemon>) -> Result<(), Failure> {
        let Some(kept) = &mut held.kept else { return Ok(()) };
        let directory = daemon.place.open()?;
        let lock = match kept.lock.is_in(directory.path()) {
            true => None,
            false => Some(ControlLock::take(&directory).map_err(|error| control(&error))?),
        };
        let socket = ControlSocket::bind(&directory, lock.as_ref().unwrap_or(&kept.lock));
        let socket = socket.map_err(|error| control(&error))?;
        let share = socket.share().map_err(|error| super::state::internal(&error))?;
        let answering = self.answering.child();
        socket.serve(&answering, Api::new(daemon)).map_err(|error| super::state::internal(&error))?;
        std::mem::replace(&mut held.answering, answering).drain();
        kept.socket = share;
        if let Some(lock) = lock {
            kept.lock = lock;
        }
        held.file = FileId::at(&directory.socket());
        Ok(())
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn is_found(&self, place: &Place) -> bool {
        let has_lock = self.kept.as_ref().is_some_and(|kept| kept.lock.is_in(&place.runtime));
        has_lock && self.file.is_some() && self.file == FileId::at(&place.socket())
    }
}

/// Looks now and then, until the end.
pub(super) fn keep(scope: &Scope, daemon: &Arc<Daemon>) {
    let (until, daemon) = (scope.clone(), Arc::downgrade(daemon));
    scope.spawn("presence", async move {
        let mut tick = ticks(LOOK);
        loop {
            tokio::select! {
                biased;
                () = until.drained() => return,
                _ = tick.tick() => {}
            }
            let Some(daemon) = daemon.upgrade() else { return };
            // Two looks at a directory in memory; only what is gone is worth a thread.
            if !daemon.is_found() {
                daemon.be_found().await;
            }
        }
    });
}
