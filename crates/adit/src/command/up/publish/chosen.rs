//! The numbers that an SSH server chose for published ports. Visitors know them, so they survive the daemon.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::command::up::same_file::other_spellings;

/// The numbers for one file, and where they are written down.
pub(in crate::command::up) struct Chosen {
    path: PathBuf,
    /// The configuration that they are about.
    config: PathBuf,
    kept: Mutex<Kept>,
    /// The file is there and could not be read: nothing is written over it.
    unread: Option<io::ErrorKind>,
}

/// The state file, by configuration: a file publishes by one server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kept {
    version: u32,
    #[serde(default)]
    configs: BTreeMap<PathBuf, OfServer>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct OfServer {
    server: String,
    tunnels: BTreeMap<String, Port>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Port {
    bind: String,
    port: u16,
}

impl Chosen {
    /// Reads them. Of a file that cannot be understood nothing is known: the server chooses anew.
    pub(in crate::command::up) fn load(path: PathBuf, config: &Path) -> Self {
        let (text, unread) = match std::fs::read(&path) {
            Ok(text) => (text, None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), None),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "the numbers of published ports cannot be read, and none is written down");
                (Vec::new(), Some(error.kind()))
            }
        };
        let mut kept: Kept = serde_json::from_slice(&text).unwrap_or_default();
        let config = config.to_owned();
        for other in other_spellings(&config, &config, kept.configs.keys()) {
            let known = kept.configs.remove(&other).unwrap_or_default();
            kept.configs.entry(config.clone()).or_insert(known);
        }
        Self { path, config, kept: Mutex::new(kept), unread }
    }

    /// The number that a tunnel had at a server.
    pub(super) fn get(&self, server: &str, tunnel: &str, bind: &str) -> Option<u16> {
        let kept = self.kept();
        let known = kept.configs.get(&self.config).filter(|known| known.server == server)?;
        known.tunnels.get(tunnel).filter(|known| known.bind == bind).map(|known| known.port)
    }

    /// Writes a number down, and forgets tunnels and files that are not there any more. May take a moment.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn set(&self, server: &str, tunnel: &str, bind: &str, port: u16, tunnels: &[String]) -> io::Result<()> {
        // Held while it is written: what was chosen last is there in the end.
        let mut kept = self.kept();
        let port = Port { bind: bind.to_owned(), port };
        kept.configs.retain(|config, _| config.exists());
        let known = kept.configs.entry(self.config.clone()).or_default();
        if known.server != server {
            *known = OfServer { server: server.to_owned(), tunnels: BTreeMap::new() };
        }
        known.tunnels.retain(|name, _| tunnels.contains(name));
        if known.tunnels.insert(tunnel.to_owned(), port.clone()) == Some(port) {
            return Ok(());
        }
        kept.version = 1;
        if let Some(kind) = self.unread {
            return Err(kind.into());
        }
        self.save(&kept)
    }

    /// Whole or not at all.
    fn save(&self, kept: &Kept) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let next = self.path.with_extension("json.next");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        serde_json::to_writer_pretty(&mut file, kept)?;
        file.write_all(b"\n")?;
        std::fs::rename(&next, &self.path)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_known_for_the_same_place_of_the_same_file_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (path, config) = (directory.path().join("state/published.json"), directory.path().join("adit.yaml"));
        std::fs::write(&config, "").unwrap();
        let (web, both) = (["web".to_owned()], ["web".to_owned(), "api".to_owned()]);
        let chosen = Chosen::load(path.clone(), &config);
        chosen.set("ssh://a", "web", "localhost", 4001, &both).unwrap();
        chosen.set("ssh://a", "api", "localhost", 4002, &both).unwrap();
        let again = Chosen::load(path.clone(), &config);
        let of = |chosen: &Chosen, server, tunnel, bind| chosen.get(server, tunnel, bind);
        assert_eq!(of(&again, "ssh://a", "web", "localhost"), Some(4001));
        assert_eq!(of(&again, "ssh://a", "api", "localhost"), Some(4002));
        assert_eq!(of(&again, "ssh://b", "web", "localhost"), None);
        assert_eq!(of(&again, "ssh://a", "web", "*"), None);
        assert_eq!(of(&Chosen::load(path.clone(), Path::new("/y")), "ssh://a", "web", "localhost"), None);
        let other = directory.path().join("link");
        std::os::unix::fs::symlink(&config, &other).unwrap();
        assert_eq!(of(&Chosen::load(path.clone(), &other), "ssh://a", "web", "localhost"), Some(4001), "the same file");
        again.set("ssh://a", "web", "localhost", 4003, &web).unwrap();
        assert_eq!(of(&again, "ssh://a", "api", "localhost"), None, "nobody publishes it any more");
        again.set("ssh://b", "web", "localhost", 4004, &web).unwrap();
        assert_eq!(of(&Chosen::load(path.clone(), &config), "ssh://a", "web", "localhost"), None);
        std::fs::write(&path, "{ broken").unwrap();
        assert_eq!(of(&Chosen::load(path, &config), "ssh://b", "web", "localhost"), None);
    }
}
