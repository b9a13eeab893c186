//! Both ends of each connection in one thread: `connect`, `accept` and two `close`, and nothing else. It is the least that
//! a connection can cost, so the most that the monitor can add to it.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use tempfile::TempDir;

use super::stand::{Services, spent};
use super::switched::{Kept, Load, Taken, processors};
use super::told;

/// The thread, its listeners, and what it is kept to.
pub(super) struct Alone {
    seen: Services,
    others: UnixListener,
    path: PathBuf,
    _kept: Kept,
    _directory: TempDir,
}

impl Alone {
    /// Keeps this thread to one processor, until it is dropped.
    pub(super) fn build() -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(told)?;
        let path = directory.path().join("other");
        let others = UnixListener::bind(&path).map_err(told)?;
        let seen = Services::bind()?;
        let kept = Kept::to(processors()?.last().copied().unwrap_or_default())?;
        Ok(Self { seen, others, path, _kept: kept, _directory: directory })
    }

    /// A connection of local sockets: the same four calls.
    fn other(&self) -> Result<(), String> {
        let client = UnixStream::connect(&self.path).map_err(told)?;
        let served = self.others.accept().map_err(told)?;
        drop(client);
        drop(served);
        Ok(())
    }
}

impl Load for Alone {
    const STEP: usize = 1;

    fn step(&mut self) -> Result<Taken, String> {
        let first = spent();
        self.seen.one()?;
        let second = spent();
        self.other()?;
        self.other()?;
        Ok(Taken { connection: second - first, other: (spent() - second) / 2.0 })
    }
}
