//! Where things are on this machine. Tests have a machine of their own: a directory.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::terminal;

/// Where an administrator's tools are. Not `PATH`, which may name directories that others than root write to.
const SYSTEM_TOOLS: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];

/// The machine that is to trust the authority.
#[derive(Debug)]
pub(super) struct Places {
    /// The system's root directory.
    pub(super) root: PathBuf,
    /// The user's home directory.
    pub(super) home: Option<PathBuf>,
    /// Where the user's programs are.
    pub(super) path: OsString,
    /// Whether this is a Mac.
    pub(super) mac: bool,
    /// Whether this process may change the system.
    pub(super) privileged: bool,
    /// Whether somebody is there who could type a password.
    pub(super) interactive: bool,
    /// Who called `sudo` for this process.
    pub(super) behind_sudo: Option<String>,
}

impl Places {
    /// This machine; `root` is given for tests and images.
    pub(super) fn of_this_machine(root: Option<&Path>) -> Self {
        let privileged = rustix::process::geteuid().is_root();
        Self {
            root: root.map_or_else(|| PathBuf::from("/"), Path::to_owned),
            home: std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute()),
            path: std::env::var_os("PATH").unwrap_or_default(),
            mac: cfg!(target_os = "macos"),
            privileged,
            interactive: terminal::can_ask(),
            behind_sudo: std::env::var("SUDO_USER").ok().filter(|user| privileged && user != "root"),
        }
    }

    /// A path of the system.
    pub(super) fn system(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A tool for the system's stores, which may be run with root's rights.
    pub(super) fn system_tool(&self, name: &str) -> Option<PathBuf> {
        SYSTEM_TOOLS.iter().map(|directory| self.system(directory).join(name)).find(|path| is_program(path))
    }

    /// A program that is run with the user's rights.
    pub(super) fn user_tool(&self, name: &str) -> Option<PathBuf> {
        let on_path = std::env::split_paths(&self.path).filter(|directory| directory.is_absolute());
        on_path.map(|directory| directory.join(name)).find(|path| is_program(path))
    }

    /// A path as the user writes it.
    pub(super) fn shown(&self, path: &Path) -> String {
        match self.home.as_ref().and_then(|home| path.strip_prefix(home).ok()) {
            Some(inside) => format!("~/{}", inside.display()),
            None => path.display().to_string(),
        }
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
