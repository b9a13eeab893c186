//! `~/.ssh/config` and `/etc/ssh/ssh_config`, read by ourselves: for machines without an `ssh` program.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use adit_core::diagnose::Diagnose as _;
use adit_core::ssh::{Asked, ClientConfig, ClientConfigError, ConfigFile, FilePattern, SshSettings};
use adit_core::target::SshServer;
use runtime::regular_file;

use super::error::SshError;

/// The file of the machine, and where what it includes is.
const SYSTEM: &str = "/etc/ssh/ssh_config";
/// Instead of a file: none at all.
const NO_FILE: &str = "none";
/// Files that one pattern may mean.
const FILES_MAX: usize = 1024;

/// What `ssh -G` would say of a server.
pub(crate) fn settings(server: &SshServer, home: Option<&str>, local_user: &str) -> Result<SshSettings, SshError> {
    let read = Reader { home: home.map(PathBuf::from), system: PathBuf::from(SYSTEM) };
    let asked = Asked {
        host: &server.host,
        user: server.user.as_deref(),
        port: server.port.map(std::num::NonZeroU16::get),
        local_user,
    };
    read.all(server.options.config.as_deref(), asked).map_err(|(reason, hint)| SshError::Settings {
        server: server.to_string(),
        reason,
        hint,
    })
}

/// Why it cannot be read, and what to do.
type Trouble = (String, String);

struct Reader {
    home: Option<PathBuf>,
    system: PathBuf,
}

impl Reader {
    /// The file that was named, or those of the user and the machine.
    fn all(&self, named: Option<&Path>, asked: Asked<'_>) -> Result<SshSettings, Trouble> {
        let mut config = ClientConfig::new(asked);
        let own = self.home.as_ref().map(|home| home.join(".ssh"));
        let told = |error: ClientConfigError| (error.to_string(), error.hint().unwrap_or_default());
        let mut read = |file: Option<ConfigFile>, beside: Option<&Path>| {
            let Some(file) = file else { return Ok(()) };
            config.read(&file, &mut |pattern| self.included(pattern, beside)).map_err(told)
        };
        match named {
            Some(path) if path == Path::new(NO_FILE) => {}
            Some(path) => {
                let file = text_of(path).map_err(|error| {
                    let reason = format!("{}: {}", path.display(), crate::error::words(&error));
                    (reason, "name a file that can be read".to_owned())
                })?;
                read(Some(file), own.as_deref())?;
            }
            None => {
                let user = own.as_ref().map(|own| own.join("config"));
                read(user.map(|path| checked(&path)).transpose().map_err(trouble)?.flatten(), own.as_deref())?;
                read(optional(&self.system).map_err(trouble)?, self.system.parent())?;
            }
        }
        config.settings().map_err(told)
    }

    /// The files that an `Include` means, by name. What is not there is not included.
    fn included(&self, pattern: &str, beside: Option<&Path>) -> Result<Vec<ConfigFile>, String> {
        let path = match (pattern.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ if Path::new(pattern).is_absolute() => PathBuf::from(pattern),
            _ => beside.ok_or("there is no home directory, in which it would be looked for")?.join(pattern),
        };
        let found = matching(&path);
        if found.len() > FILES_MAX {
            return Err(format!("`{pattern}` means more than {FILES_MAX} files"));
        }
        let files = found.iter().filter(|path| path.is_file()).map(|path| checked(path));
        files.filter_map(Result::transpose).collect()
    }
}

fn trouble(reason: String) -> Trouble {
    (reason, "see its owner and permissions: ls -l".to_owned())
}

fn text_of(path: &Path) -> io::Result<ConfigFile> {
    let bytes = regular_file::read(path)?;
    // As OpenSSH does: what is no text is found in the line that has it.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(ConfigFile { path: path.display().to_string(), text })
}

fn optional(path: &Path) -> Result<Option<ConfigFile>, String> {
    match text_of(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(format!("{}: {}", path.display(), crate::error::words(&error))),
    }
}

/// A file that nobody else can write: whoever could would choose the commands that are run.
fn checked(path: &Path) -> Result<Option<ConfigFile>, String> {
    if let Ok(found) = fs::metadata(path) {
        let is_ours = found.uid() == 0 || found.uid() == rustix::process::getuid().as_raw();
        if !is_ours || found.mode() & 0o022 != 0 {
            return Err(format!("{} can be changed by others: its owner or permissions are bad", path.display()));
        }
    }
    optional(path)
}

/// The paths that fit, sorted.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let wild = match part {
            Component::Normal(name) => name.to_str().and_then(FilePattern::parse),
            _ => None,
        };
        let Some(wild) = wild else {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        };
        found = found.iter().flat_map(|directory| fitting(directory, &wild)).collect();
    }
    found.retain(|path| path.exists());
    found
}

fn fitting(directory: &Path, wild: &FilePattern) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| wild.matches(name)).take(FILES_MAX + 1).collect();
    names.sort();
    names.into_iter().map(|name| directory.join(name)).collect()
}

#[cfg(test)]
mod tests;
