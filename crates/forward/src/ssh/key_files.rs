//! The files of host keys, as long as a key is not believed, and those of our own, as long as a login is refused: what a person
//! does there is seen at once.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use runtime::Scope;
use tokio::sync::watch;

use super::bastion::Bastion;
use super::settings::Known;

/// From one look to the next.
const LOOK: Duration = Duration::from_secs(1);

/// The files, and what tells one state of them from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyFiles(Vec<(PathBuf, Option<Stamp>)>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
    /// With its rights.
    mode: u32,
}

impl KeyFiles {
    pub(super) async fn of(scope: &Scope, known: &Known) -> Self {
        let files = known.user_known_hosts.iter().chain(&known.global_known_hosts).chain(&known.revoked);
        let all = Self(files.map(|path| (path.clone(), None)).collect());
        all.again(scope).await
    }

    /// What we log in with.
    pub(super) async fn of_credentials(scope: &Scope, known: &Known) -> Self {
        let options = &known.server.options;
        let secrets = options.passphrase_file.iter().chain(&options.password_file);
        let files = known.identities.iter().chain(&known.certificates).chain(secrets);
        let all = Self(files.map(|path| (path.clone(), None)).collect());
        all.again(scope).await
    }

    /// With those of a server on the way. A file of both is as it was when the later login began, or before.
    pub(super) fn add(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Waits until they are others than they were.
    pub(super) async fn changed(&self, scope: &Scope) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.clone().again(scope).await != *self {
                return;
            }
        }
    }

    /// The same files as they are now; a disk that is slow holds up no stream.
    async fn again(self, scope: &Scope) -> Self {
        let known = self.clone();
        let look = move || {
            let stamped = self.0.into_iter().map(|(path, _)| {
                let stamp = fs::metadata(&path).ok().map(|found| Stamp {
                    inode: found.ino(),
                    size: found.size(),
                    changed: (found.mtime(), found.mtime_nsec()),
                    mode: found.mode(),
                });
                (path, stamp)
            });
            Self(stamped.collect())
        };
        scope.spawn_blocking("look at keys", look).await.unwrap_or(known)
    }
}

impl Bastion {
    /// A key is not believed, or a login is refused: as soon as the files change it is tried again.
    pub(super) fn watch_key_files(self: &Arc<Self>, scope: &Scope) {
        let (files, failure) = {
            let state = self.state();
            let is_login = state.failure.as_ref().is_some_and(|(error, _)| error.is_login());
            let files = if is_login { &state.credential_files } else { &state.key_files };
            (files.clone(), state.failure.as_ref().map(|(_, until)| *until))
        };
        let mut changed = self.changed.subscribe();
        let (bastion, own) = (Arc::downgrade(self), scope.clone());
        scope.spawn("watch keys", async move {
            tokio::select! {
                biased;
                () = own.drained() => {}
                // Another attempt, which has a watch of its own, or nobody is left who wants one.
                () = until_another(&bastion, failure, &mut changed) => {}
                () = files.changed(&own) => {
                    if let Some(bastion) = bastion.upgrade() {
                        bastion.files_changed();
                    }
                }
            }
        });
    }

    /// Waits until what a person has to see to is over, or may be.
    pub(crate) async fn seen_to(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if !self.state().failure.as_ref().is_some_and(|(error, _)| error.is_for_a_person()) {
                return;
            }
            // The sender is ours.
            let _ = changed.changed().await;
        }
    }
}

async fn until_another(bastion: &Weak<Bastion>, failure: Option<Instant>, changed: &mut watch::Receiver<u64>) {
    while changed.changed().await.is_ok() {
        let Some(bastion) = bastion.upgrade() else { return };
        if bastion.state().failure.as_ref().map(|(_, until)| *until) != failure {
            return;
        }
    }
}
