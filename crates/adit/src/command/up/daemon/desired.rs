//! What a user wants of single forwards beyond what the file says; it survives the daemon.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use adit_core::config::{AgentFile, ForwardConfig};
use adit_core::forward::Start;
use serde::{Deserialize, Serialize};

use super::place::make_private;
use crate::command::up::same_file::other_spellings;
use crate::command::up::source::Read;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Wish {
    /// It runs, whatever the file says.
    Started,
    /// It does not, and its port is closed.
    Stopped,
}

impl Wish {
    /// Whether the file asks for the same.
    pub(super) fn is_as_written(self, forward: &ForwardConfig) -> bool {
        match self {
            Self::Started => forward.enabled && forward.start == Start::Always,
            Self::Stopped => !forward.enabled,
        }
    }
}

/// The wishes for the forwards of one file.
#[derive(Clone, Debug)]
pub(super) struct Desired {
    path: PathBuf,
    /// The configuration that they are about.
    config: String,
    kept: Kept,
    /// Why the state file could not be read: what is in it is not to be overwritten.
    unread: Option<String>,
}

/// The state file: wishes by configuration and name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kept {
    version: u32,
    #[serde(default)]
    configs: BTreeMap<String, BTreeMap<String, Wish>>,
}

impl Desired {
    /// Reads them. A file that cannot be understood is put aside, and one that cannot be read stays; both are told of.
    pub(super) fn load(path: PathBuf, config: &Path) -> Self {
        let mut unread = None;
        let mut kept = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                let aside = path.with_extension("json.unreadable");
                // What cannot be renamed is overwritten with the next wish.
                let _ = std::fs::rename(&path, &aside);
                tracing::warn!(kept = %aside.display(), %error, "what was started and stopped is forgotten");
                Kept::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(error) => {
                let file = path.display();
                tracing::warn!(%file, %error, "what was started and stopped cannot be read, and is not in force");
                unread = Some(error.to_string());
                Kept::default()
            }
        };
        let config_key = config.display().to_string();
        for other in other_spellings(config, &config_key, kept.configs.keys()) {
            let wishes = kept.configs.remove(&other).unwrap_or_default();
            let own = kept.configs.entry(config_key.clone()).or_default();
            wishes.into_iter().for_each(|(name, wish)| _ = own.entry(name).or_insert(wish));
        }
        Self { path, config: config_key, kept, unread }
    }

    /// What is wished for a forward.
    pub(super) fn get(&self, name: &str) -> Option<Wish> {
        self.kept.configs.get(&self.config)?.get(name).copied()
    }

    /// The forwards that are otherwise than the file says.
    pub(super) fn against(&self, file: &AgentFile) -> Vec<String> {
        let is_against =
            |forward: &&ForwardConfig| self.get(&forward.name).is_some_and(|wish| !wish.is_as_written(forward));
        file.forwards.iter().filter(is_against).map(|forward| forward.name.clone()).collect()
    }

    /// Changes the wishes of these forwards.
    pub(super) fn set(&mut self, names: &[String], wish: Wish) {
        let wishes = self.kept.configs.entry(self.config.clone()).or_default();
        wishes.extend(names.iter().map(|name| (name.clone(), wish)));
    }

    /// Forgets the wishes for these forwards: they are as the file says.
    pub(super) fn forget(&mut self, names: &[String]) {
        if let Some(wishes) = self.kept.configs.get_mut(&self.config) {
            wishes.retain(|name, _| !names.contains(name));
        }
    }

    /// Writes them down, whole or not at all.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn save(&mut self) -> io::Result<()> {
        if let Some(error) = &self.unread {
            if std::fs::symlink_metadata(&self.path).is_ok() {
                let text = format!("it could not be read ({error}); mend or remove it, then: adit daemon restart");
                return Err(io::Error::other(text));
            }
            self.unread = None;
        }
        self.kept.version = 1;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        make_private(directory)?;
        let next = self.path.with_extension("json.next");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        serde_json::to_writer_pretty(&mut file, &self.kept)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&next, &self.path)
    }

    /// Puts them over what the file says. Wishes for forwards that are gone are forgotten with the next change.
    pub(super) fn apply(&self, file: &mut AgentFile) {
        for forward in &mut file.forwards {
            match self.get(&forward.name) {
                Some(Wish::Stopped) => forward.enabled = false,
                Some(Wish::Started) => (forward.enabled, forward.start) = (true, Start::Always),
                None => {}
            }
        }
    }

    /// Forgets forwards that the file does not have.
    pub(super) fn keep_only(&mut self, file: &AgentFile) {
        if let Some(wishes) = self.kept.configs.get_mut(&self.config) {
            wishes.retain(|name, _| file.forward(name).is_some());
        }
    }
}

/// What is read, with the wishes over it; and as it is written.
pub(super) fn overlaid(mut read: Read, desired: &Desired) -> (Read, Read) {
    let as_written = read.clone();
    desired.apply(&mut read.file);
    (read, as_written)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const FILE: &str = "version: 1\nforwards: { a: { to: 1, start: always }, b: { to: 2 }, c: { to: 3 } }\n";

    #[test]
    fn wishes_survive_and_win_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/desired.json");
        let mut desired = Desired::load(path.clone(), Path::new("/x/adit.yaml"));
        desired.set(&["a".into()], Wish::Stopped);
        desired.set(&["b".into()], Wish::Started);
        desired.save().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600), "nobody else's business");
        let mut file = AgentFile::parse("adit.yaml", FILE, &|_| None).unwrap();
        Desired::load(path.clone(), Path::new("/x/adit.yaml")).apply(&mut file);
        let of = |name: &str| file.forward(name).map(|one| (one.enabled, one.start)).unwrap();
        assert_eq!(of("a"), (false, Start::Always));
        assert_eq!(of("b"), (true, Start::Always));
        assert_eq!(of("c"), (true, Start::OnDemand));
        assert_eq!(Desired::load(path.clone(), Path::new("/y/adit.yaml")).get("a"), None, "of another file");
        desired.set(&["c".into()], Wish::Stopped);
        let written = AgentFile::parse("adit.yaml", &FILE.replace("c: {", "c: { enabled: false,"), &|_| None).unwrap();
        assert_eq!(desired.against(&written), ["a", "b"], "one that the file switches off is stopped anyway");
        desired.set(&["a".into()], Wish::Started);
        assert_eq!(desired.against(&written), ["b"], "it always runs by the file, too");
        std::fs::write(&path, "{ broken").unwrap();
        assert_eq!(Desired::load(path.clone(), Path::new("/x/adit.yaml")).get("a"), None);
        let kept = path.with_extension("json.unreadable");
        assert_eq!(std::fs::read_to_string(kept).unwrap(), "{ broken", "nothing is overwritten");
    }

    #[test]
    fn wishes_for_a_file_hold_however_its_path_is_spelled() {
        let directory = tempfile::tempdir().unwrap();
        let (path, real) = (directory.path().join("desired.json"), directory.path().join("real"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink("real", directory.path().join("link")).unwrap();
        let (config, other) = (real.join("adit.yaml"), directory.path().join("link/../link/adit.yaml"));
        std::fs::write(&config, "").unwrap();
        let mut first = Desired::load(path.clone(), &config);
        first.set(&["a".into(), "b".into()], Wish::Stopped);
        first.save().unwrap();
        let mut second = Desired::load(path.clone(), &other);
        assert_eq!(second.get("a"), Some(Wish::Stopped));
        second.forget(&["a".into()]);
        second.save().unwrap();
        let first = Desired::load(path.clone(), &config);
        assert_eq!((first.get("a"), first.get("b")), (None, Some(Wish::Stopped)), "there is one of each");
        std::fs::write(real.join("other.yaml"), "").unwrap();
        assert_eq!(Desired::load(path, &real.join("other.yaml")).get("b"), None, "of another file");
    }

    #[test]
    fn wishes_that_cannot_be_read_are_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("desired.json");
        // Nobody can read it, not even root.
        std::os::unix::fs::symlink("desired.json", &path).unwrap();
        let mut desired = Desired::load(path.clone(), Path::new("/x/adit.yaml"));
        desired.set(&["a".into()], Wish::Stopped);
        let error = desired.save().unwrap_err().to_string();
        assert!(error.contains("it could not be read") && error.contains("adit daemon restart"), "{error}");
        assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink(), "it is as it was");
        std::fs::remove_file(&path).unwrap();
        desired.save().unwrap();
        assert_eq!(Desired::load(path, Path::new("/x/adit.yaml")).get("a"), Some(Wish::Stopped));
    }
}
