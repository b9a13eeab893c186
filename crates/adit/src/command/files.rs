//! Where files are: configuration, tokens, state.

use std::io;
use std::path::{Path, PathBuf};

use ::forward::KubeSettings;
use adit_core::config::KubernetesConfig;
use adit_core::config::server::ServerConfig;
use adit_core::diagnose::Fault;
use runtime::regular_file;

use crate::report::Failure;

/// Reads an environment variable for `${NAME}` in a configuration.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Reads a text file that will be read again.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    regular_file::read_to_string(path).map_err(|error| unreadable(path, &error))
}

/// Reads a text file by those who want it this once: it may be a pipe, too.
pub(crate) fn read_once(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::InvalidInput => "name a file: it is read again when it has changed",
        _ => "check that it is there, and that you may read it",
    };
    Failure::new(Fault::Config, format!("{}: {error}", path.display()), hint)
}

/// The first of the usual places that has `name`: this directory, then the user's configuration directory.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let here = PathBuf::from(name);
    let user = config_dir().map(|dir| dir.join("adit").join(name));
    std::iter::once(here).chain(user).find(|path| path.is_file())
}

/// `$XDG_CONFIG_HOME`, else `~/.config`.
pub(crate) fn config_dir() -> Option<PathBuf> {
    absolute("XDG_CONFIG_HOME").or_else(|| home().map(|home| home.join(".config")))
}

/// `$STATE_DIRECTORY` (systemd), else `$XDG_STATE_HOME`, else `~/.local/state`; then `adit`.
pub(crate) fn state_dir() -> Option<PathBuf> {
    if let Some(directory) = absolute("STATE_DIRECTORY") {
        return Some(directory);
    }
    absolute("XDG_STATE_HOME").or_else(|| home().map(|home| home.join(".local/state"))).map(|dir| dir.join("adit"))
}

/// Where the daemon has its socket: `$RUNTIME_DIRECTORY` (systemd), else `$XDG_RUNTIME_DIR/adit`, else within the state.
pub(crate) fn runtime_dir() -> Option<PathBuf> {
    let of_user = || absolute("XDG_RUNTIME_DIR").filter(|path| path.is_dir()).map(|path| path.join("adit"));
    absolute("RUNTIME_DIRECTORY").or_else(of_user).or_else(|| state_dir().map(|state| state.join("run")))
}

/// The section `kubernetes` of `adit.yaml` as the connector wants it.
pub(crate) fn kube_settings(config: &KubernetesConfig) -> KubeSettings {
    let paths: Vec<String> = config.kubeconfig.iter().map(|path| path.display().to_string()).collect();
    let kubeconfig = (!paths.is_empty()).then(|| paths.join(":"));
    KubeSettings { kubeconfig, exec_path: config.exec_path.clone(), keepalive: config.keepalive, has_flags: false }
}

fn home() -> Option<PathBuf> {
    absolute("HOME")
}

fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The server's configuration and where its data lies.
pub(crate) struct ServerFiles {
    /// The file it came from, if any.
    pub(crate) path: Option<PathBuf>,
    pub(crate) config: ServerConfig,
    pub(crate) data_dir: PathBuf,
}

/// Reads the server's configuration: the file given, or `server.yaml` in the usual places, or defaults.
pub(crate) fn server_config(given: Option<&Path>) -> Result<ServerFiles, Failure> {
    let path = given.map(Path::to_owned).or_else(|| find("server.yaml"));
    let config = match &path {
        Some(path) => ServerConfig::parse(&path.display().to_string(), &read(path)?, &environment)?,
        None => ServerConfig::default(),
    };
    let data_dir = config.data_dir.clone().or_else(|| state_dir().map(|dir| dir.join("server"))).ok_or_else(|| {
        Failure::new(Fault::Config, "there is no place for the server's data", "set data_dir in server.yaml")
    })?;
    Ok(ServerFiles { path, config, data_dir })
}
