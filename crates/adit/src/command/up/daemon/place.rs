//! Where a daemon keeps what it needs: its socket, its state, its logs.

use std::path::{Path, PathBuf};

use adit_core::diagnose::Fault;
use runtime::control::PrivateDir;

use crate::command::files;
use crate::report::{Failure, failure};

/// Where things are.
#[derive(Clone, Debug)]
pub(in crate::command) struct Place {
    /// The directory of socket and lock: private, and gone after a restart of the machine.
    pub(super) runtime: PathBuf,
    /// What survives: desired states, logs.
    pub(super) state: PathBuf,
}

impl Place {
    /// By the environment: `$RUNTIME_DIRECTORY` (systemd), else `$XDG_RUNTIME_DIR/adit`, else a directory within the state.
    pub(in crate::command) fn find() -> Result<Self, Failure> {
        let found = files::state_dir().zip(files::runtime_dir());
        let (state, runtime) = found.ok_or_else(|| {
            Failure::new(Fault::Config, "there is no place for the daemon's state", "set HOME or XDG_STATE_HOME")
        })?;
        Ok(Self { runtime, state })
    }

    /// Of another user: for the administrator who was that one a moment ago. His environment is not ours, so the usual
    /// directories are taken.
    pub(in crate::command) fn of_user(user: u32, home: &Path) -> Self {
        let state = home.join(".local/state/adit");
        let session = PathBuf::from(format!("/run/user/{user}"));
        let runtime = if session.is_dir() { session.join("adit") } else { state.join("run") };
        Self { runtime, state }
    }

    /// Whether the socket is that of the user who asks: another one's would tell whatever it likes.
    pub(in crate::command) fn is_own(&self) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let found = std::fs::symlink_metadata(self.socket());
        found.is_ok_and(|found| found.uid() == rustix::process::geteuid().as_raw())
    }

    /// The directory of socket and lock, made if it is missing.
    pub(super) fn open(&self) -> Result<PrivateDir, Failure> {
        PrivateDir::open(&self.runtime).map_err(|error| failure(&error))
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.runtime.join("control.sock")
    }

    pub(super) fn desired(&self) -> PathBuf {
        self.state.join("desired.json")
    }

    /// The numbers of published ports.
    pub(super) fn published(&self) -> PathBuf {
        self.state.join("published.json")
    }

    /// The token of the API at a port, unless the file names another one.
    pub(super) fn token(&self) -> PathBuf {
        self.state.join("daemon.token")
    }

    pub(super) fn logs(&self) -> Logs {
        Logs { directory: self.state.join("logs") }
    }
}

/// Makes a directory for its owner alone.
pub(super) fn make_private(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// The log files.
#[derive(Clone, Debug)]
pub(super) struct Logs {
    directory: PathBuf,
}

impl Logs {
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the daemon says of itself and of everything.
    pub(super) fn daemon(&self) -> PathBuf {
        self.directory.join("daemon.log")
    }

    /// Changes of the configuration.
    pub(super) fn audit(&self) -> PathBuf {
        self.directory.join("audit.log")
    }

    /// How many files of single forwards there are.
    pub(super) fn count(&self) -> usize {
        std::fs::read_dir(self.directory.join("forwards")).map_or(0, Iterator::count)
    }

    /// What concerns one forward or tunnel. Anything that no file name should have becomes `_`.
    pub(super) fn forward(&self, name: &str) -> PathBuf {
        let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
        let name: String = name.trim_start_matches('.').chars().map(safe).take(100).collect();
        self.directory.join("forwards").join(format!("{name}.log"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_of_ones_own_is_asked() {
        let home = tempfile::tempdir().unwrap();
        // No user has this number, so neither has he a session.
        let place = Place::of_user(u32::MAX - 7, home.path());
        assert_eq!(place.socket(), home.path().join(".local/state/adit/run/control.sock"));
        assert!(!place.is_own(), "there is none");
        make_private(&place.runtime).unwrap();
        std::fs::write(place.socket(), "").unwrap();
        assert!(place.is_own());
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(place.socket(), Some(12_345), None).unwrap();
            assert!(!place.is_own());
        }
    }

    #[test]
    fn a_name_never_leads_out_of_the_directory() {
        let logs = Logs { directory: "/logs".into() };
        assert_eq!(logs.forward("db"), Path::new("/logs/forwards/db.log"));
        assert_eq!(logs.forward("../../etc/x"), Path::new("/logs/forwards/_.._etc_x.log"));
        assert_eq!(logs.forward("k8s://a/b"), Path::new("/logs/forwards/k8s___a_b.log"));
    }
}
