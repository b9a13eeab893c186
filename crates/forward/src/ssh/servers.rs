//! The SSH servers in use, each once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use adit_core::backoff::Backoff;
use adit_core::target::SshServer;
use runtime::Scope;

use super::ask::{Secrets, SshAsk};
use super::bastion::{Bastion, REFUSED};
use super::budget::Budget;
use super::dial::{Dial, ShownKey};
use super::error::SshError;
use super::link::Limits;
use super::settings::Known;

/// The SSH servers in use.
pub struct SshServers {
    ask: Option<SshAsk>,
    limits: Limits,
    budget: Arc<Budget>,
    /// By what a login is made with.
    known: Mutex<HashMap<SshServer, Weak<Bastion>>>,
    /// Refused logins, for as long as each counts: who comes when the last user is gone waits as long as that one would.
    refusals: Mutex<HashMap<SshServer, Refusal>>,
    /// Servers that somebody wants anew and that nobody uses yet, see [`Bastion::prove`].
    asked: Mutex<HashSet<SshServer>>,
}

/// That a server has refused a login.
#[derive(Clone)]
pub(crate) struct Refusal {
    pub(crate) error: SshError,
    /// When it may be tried again.
    pub(crate) until: Instant,
    /// What the wait after the next refusal is by.
    pub(crate) backoff: Backoff,
}

impl Refusal {
    /// Whether the wait after another one is still by this one: forwards on demand come and go.
    pub(crate) fn counts(&self, now: Instant) -> bool {
        self.until + REFUSED.cap > now
    }
}

impl SshServers {
    /// Connects to none yet. `ask` puts questions to a person, when there is one.
    #[must_use]
    pub fn new(ask: Option<SshAsk>) -> Arc<Self> {
        Self::with_limits(ask, Limits::default())
    }

    pub(crate) fn with_limits(ask: Option<SshAsk>, limits: Limits) -> Arc<Self> {
        let budget = Budget::new(limits.total);
        Arc::new(Self {
            ask,
            limits,
            budget,
            known: Mutex::default(),
            refusals: Mutex::default(),
            asked: Mutex::default(),
        })
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// What waits in all streams of all servers.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// A server, by what was written; the same for all who write the same. How long is waited for it makes no other
    /// login: the first one's times hold.
    pub(crate) fn bastion(self: &Arc<Self>, server: &SshServer) -> Arc<Bastion> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let login = login(server);
        if let Some(bastion) = known.get(&login).and_then(Weak::upgrade) {
            return bastion;
        }
        known.retain(|_, bastion| bastion.strong_count() > 0);
        let refusal = self.refusals().get(&login).cloned();
        let bastion = Bastion::with_refusal(Arc::clone(self), server.clone(), self.secrets(), refusal);
        if self.asked().remove(&login) {
            bastion.prove();
        }
        known.insert(login, Arc::downgrade(&bastion));
        bastion
    }

    /// A server has refused a login.
    pub(crate) fn refuses(&self, server: &SshServer, refusal: Refusal) {
        let now = Instant::now();
        let mut refusals = self.refusals();
        refusals.retain(|_, refusal| refusal.counts(now));
        refusals.insert(login(server), refusal);
    }

    /// What was refused by a server before holds no longer.
    pub(crate) fn forgive(&self, server: &SshServer) {
        self.refusals().remove(&login(server));
    }

    /// The machine slept, or its network changed: nothing that is known of refusals holds, and hops, which no forward
    /// wakes, are dialled anew.
    pub(crate) fn wake(&self) {
        self.refusals().clear();
        let known: Vec<_> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.values().filter_map(Weak::upgrade).collect()
        };
        known.iter().for_each(|bastion| bastion.wake());
    }

    fn refusals(&self) -> MutexGuard<'_, HashMap<SshServer, Refusal>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, HashSet<SshServer>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A forward through the server is made, perhaps because its key is trusted now.
    pub(crate) fn look_again(&self, server: &SshServer) {
        if let Some(bastion) = self.known(server) {
            bastion.look_again();
        }
    }

    /// Somebody has a forward through the server made anew: a connection that is there must show that it lives, and a
    /// login that was refused may be let in now. The same holds for the servers on the way, which the next login finds.
    pub(crate) fn prove(&self, server: &SshServer) {
        self.forgive(server);
        match self.known(server) {
            Some(bastion) => bastion.prove(),
            None => drop(self.asked().insert(login(server))),
        }
    }

    fn known(&self, server: &SshServer) -> Option<Arc<Bastion>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&login(server)).and_then(Weak::upgrade)
    }

    /// What is known of passwords, for one more connection to a server.
    pub(crate) fn secrets(&self) -> Secrets {
        Secrets::new(self.ask.clone())
    }

    /// The key that a server shows, for `adit ssh trust`.
    ///
    /// # Errors
    /// [`SshError`] when it shows none.
    pub async fn shown_key(self: &Arc<Self>, scope: &Scope, server: &SshServer) -> Result<ShownKey, SshError> {
        let known = Known::of(scope, server).await?;
        let secrets = self.secrets();
        let dial =
            Dial { servers: self, scope, secrets: &secrets, notes: &|_| {}, asked: false, hop_files: OnceLock::new() };
        dial.shown_key(&known).await
    }

    /// Writes a key down as the server's; the name of the file.
    ///
    /// # Errors
    /// [`SshError`] when the file cannot be written.
    pub async fn trust(
        self: &Arc<Self>,
        scope: &Scope,
        server: &SshServer,
        key: &ShownKey,
    ) -> Result<String, SshError> {
        key.accept(scope, &Known::of(scope, server).await?).await
    }

    /// Logs in once and says each step; with a host and a port it opens a stream there as well.
    ///
    /// # Errors
    /// [`SshError`] of the step that failed.
    pub async fn test(
        self: &Arc<Self>,
        scope: &Scope,
        server: &SshServer,
        destination: Option<(&str, u16)>,
        notes: &(dyn Fn(String) + Send + Sync),
    ) -> Result<Result<(), runtime::connect::ConnectError>, SshError> {
        super::bastion::test(self, scope, server, self.secrets(), destination, notes).await
    }
}

/// A server without what makes no difference to who logs in where.
pub(crate) fn login(server: &SshServer) -> SshServer {
    let mut login = server.clone();
    login.options.keepalive = None;
    login.options.connect_timeout = None;
    login
}

impl std::fmt::Debug for SshServers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("SshServers").field("known", &known.len()).finish_non_exhaustive()
    }
}
