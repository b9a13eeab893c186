//! One SSH server: its connections, one login at a time, and when to try again.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use adit_core::backoff::{Backoff, BackoffSettings};
use adit_core::target::SshServer;
use runtime::Scope;
use runtime::connect::{ConnectError, Io};
use tokio::sync::watch;

use super::ask::Secrets;
use super::dial::{Dial, Notes};
use super::error::SshError;
use super::key_files::KeyFiles;
use super::link::{Link, OpenError};
use super::openssh::hops::Hops;
use super::openssh::{self, Master};
use super::refusals::Denial;
use super::servers::{Refusal, SshServers};
use super::settings::{Known, Reader};
use crate::reach::{AGAIN, RESTART, RESTARTING};

/// Connections to one server. Each is a login, and servers bound those; more than one is made only when streams of
/// the others are not read.
const LINKS_MAX: usize = 8;
/// After a refused login: servers lock out whoever tries often.
pub(super) const REFUSED: BackoffSettings = BackoffSettings {
    first: Duration::from_secs(60),
    base: Duration::from_secs(60),
    growth: 2.0,
    cap: Duration::from_secs(900),
};
/// After a host key that is not believed: it waits for a person.
pub(super) const KEY: BackoffSettings = BackoffSettings {
    first: Duration::from_secs(30),
    base: Duration::from_secs(30),
    growth: 2.0,
    cap: Duration::from_secs(60),
};
/// A stream whose connection is lost while it is opened is opened on another, so often.
const OPENS: usize = 3;

/// One SSH server.
pub(crate) struct Bastion {
    pub(super) servers: Arc<SshServers>,
    pub(super) server: SshServer,
    secrets: Secrets,
    state: Mutex<State>,
    /// Told when a login ended, well or not.
    pub(super) changed: watch::Sender<u64>,
    /// Told when everything is to be dialled anew: a login under way goes over the old network.
    woken: watch::Sender<u64>,
}

pub(super) struct State {
    pub(super) links: Vec<Arc<Link>>,
    pub(super) dialing: bool,
    /// The login under way is for a successor of all connections.
    renewing: bool,
    /// Its connections have to show that they live before they take another stream.
    pub(super) unproven: bool,
    /// They are asked for it.
    pub(super) proving: bool,
    /// Somebody wants it anew: what the next login goes through has to show as much.
    pub(super) asked: bool,
    /// Connections that take nothing new and have streams: those that show no life are ended when there is another.
    pub(super) retired: Vec<Arc<Link>>,
    /// Whether they live is asked for somebody who waits in vain.
    pub(super) doubted: bool,
    /// The files of host keys as they were before the last login.
    pub(super) key_files: KeyFiles,
    /// Those of our own keys and passwords.
    pub(super) credential_files: KeyFiles,
    /// For which hosts and ports a connection was left as it was silent, and when.
    pub(super) blamed: Vec<(String, u16, Instant)>,
    /// When the last login succeeded.
    since: Option<Instant>,
    again: Backoff,
    refused: Backoff,
    pub(super) key: Backoff,
    /// Since when it cannot be reached.
    away: Option<Instant>,
    /// The same, also when it only says nothing.
    down: Option<Instant>,
    /// What the last attempt failed with, and when the next may be.
    pub(super) failure: Option<(SshError, Instant)>,
    /// Child processes speak SSH.
    pub(super) openssh: Option<Arc<Master>>,
    /// Until when its successor is waited for.
    awaited: Option<Instant>,
}

impl State {
    /// Leaves what is gone.
    pub(super) fn clean(&mut self) {
        let gone = self.links.extract_if(.., |link| !link.is_usable()).filter(|link| link.has_live_streams());
        self.retired.extend(gone);
        self.retired.retain(|link| link.has_live_streams());
        self.openssh.take_if(|master| master.has_ended());
    }

    /// Whether the last attempt failed, and it is too soon for the next.
    fn is_held(&self, now: Instant) -> bool {
        self.failure.as_ref().is_some_and(|(_, until)| *until > now)
    }

    /// No connection takes anything new.
    fn retire_all(&mut self) {
        self.links.iter().for_each(|link| link.retire());
        let left = self.links.drain(..).filter(|link| link.has_live_streams());
        self.retired.extend(left);
    }

    fn forgive(&mut self) {
        self.failure = None;
        self.away = None;
        self.down = None;
        self.again.reset();
        self.refused.reset();
        self.key.reset();
    }
}

/// Why no stream was opened through a server.
pub(crate) enum OpenedVia {
    /// There is no connection to the server.
    Ssh(SshError),
    /// The server did not open it.
    Stream(ConnectError),
}

/// A connection, or what stands for it.
#[derive(Clone)]
pub(crate) enum Way {
    Link(Arc<Link>),
    OpenSsh(Arc<Master>),
}

/// What a caller of [`Bastion::way`] has to do next.
enum Next {
    Take(Way),
    Fail(SshError),
    Wait { until: Option<Instant> },
}

impl Bastion {
    pub(crate) fn new(servers: Arc<SshServers>, server: SshServer, secrets: Secrets) -> Arc<Self> {
        Self::with_refusal(servers, server, secrets, None)
    }

    /// One that may have been refused a login when others used it; a refusal whose time has passed makes the next wait longer.
    pub(crate) fn with_refusal(
        servers: Arc<SshServers>,
        server: SshServer,
        secrets: Secrets,
        refusal: Option<Refusal>,
    ) -> Arc<Self> {
        let now = Instant::now();
        let (failure, refused) = match refusal.filter(|refusal| refusal.counts(now)) {
            Some(Refusal { error, until, backoff }) => (Some((error, until)).filter(|_| until > now), backoff),
            None => (None, Backoff::new(REFUSED)),
        };
        let state = State {
            links: Vec::new(),
            dialing: false,
            renewing: false,
            unproven: false,
            proving: false,
            asked: false,
            retired: Vec::new(),
            doubted: false,
            key_files: KeyFiles::default(),
            credential_files: KeyFiles::default(),
            blamed: Vec::new(),
            since: None,
            again: Backoff::new(AGAIN),
            refused,
            key: Backoff::new(KEY),
            away: None,
            down: None,
            failure,
            openssh: None,
            awaited: None,
        };
        Arc::new(Self {
            servers,
            server,
            secrets,
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
            woken: watch::Sender::new(0),
        })
    }

    /// A connection that takes a stream; logs in if there is none.
    pub(crate) async fn way(self: &Arc<Self>, scope: &Scope) -> Result<Way, SshError> {
        let mut changed = self.changed.subscribe();
        let (mut waited, mut is_told) = (false, false);
        loop {
            changed.mark_unchanged();
            match self.next(scope, waited) {
                Next::Take(way) => return Ok(way),
                Next::Fail(error) => return Err(error),
                Next::Wait { until } => {
                    let pause = async {
                        match until {
                            Some(until) => tokio::time::sleep_until(until.into()).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        biased;
                        _ = changed.changed() => waited = true,
                        () = pause => {}
                        () = scope.awaited(), if !is_told => is_told = true,
                    }
                }
            }
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last login was so long ago.
    pub(super) fn has_been_there_for(&self, long: Duration) -> bool {
        self.state().since.is_some_and(|since| since.elapsed() >= long)
    }

    /// Tells those who wait.
    pub(super) fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn next(self: &Arc<Self>, scope: &Scope, waited: bool) -> Next {
        let mut state = self.state();
        state.clean();
        if let Some(master) = state.openssh.clone() {
            return self.by_openssh(scope, state, master);
        }
        if std::mem::take(&mut state.unproven) && !state.links.is_empty() {
            state.proving = true;
            let links = state.links.clone();
            drop(state);
            self.ask_for_life(scope, links);
            return Next::Wait { until: None };
        }
        if state.proving {
            return Next::Wait { until: None };
        }
        let best = state.links.iter().filter(|link| !link.is_behind()).min_by_key(|link| link.streams());
        if let Some(link) = best.cloned() {
            // It lives, and so does its way.
            state.asked = false;
            if link.is_worn() && !state.dialing && !state.is_held(Instant::now()) {
                (state.dialing, state.renewing) = (true, true);
                drop(state);
                self.log_in(scope);
            }
            return Next::Take(Way::Link(link));
        }
        let least = state.links.iter().min_by_key(|link| link.streams()).cloned();
        if state.dialing {
            return Next::Wait { until: None };
        }
        if scope.is_awaited() {
            // A login would end as soon as it begins, and whoever waits would begin another.
            let ending = || Next::Fail(SshError::ending(&self.server.to_string()));
            return least.map_or_else(ending, |link| Next::Take(Way::Link(link)));
        }
        let now = Instant::now();
        let held = state.failure.as_ref().filter(|(_, until)| *until > now);
        match (held, least) {
            // Better beside a stream that nobody reads than nowhere.
            (Some(_), Some(link)) => return Next::Take(Way::Link(link)),
            (_, Some(link)) if state.links.len() >= LINKS_MAX => return Next::Take(Way::Link(link)),
            (Some((error, _)), None) if waited || !error.is_transient() => return Next::Fail(error.clone()),
            (Some((_, until)), None) => return Next::Wait { until: Some(*until) },
            (None, _) => {}
        }
        state.dialing = true;
        drop(state);
        self.log_in(scope);
        Next::Wait { until: None }
    }

    /// A master cannot be asked whether its server answers, so a proof is another login. The one that is there stays until then,
    /// or there would be none if that fails; and nobody waits for the finger of somebody for long.
    fn by_openssh(self: &Arc<Self>, scope: &Scope, mut state: MutexGuard<'_, State>, master: Arc<Master>) -> Next {
        let now = Instant::now();
        if std::mem::take(&mut state.unproven) && !state.is_held(now) {
            let until = now + self.servers.limits().life;
            state.awaited = Some(until);
            if !state.dialing {
                (state.dialing, state.renewing) = (true, true);
                drop(state);
                self.log_in(scope);
            }
            return Next::Wait { until: Some(until) };
        }
        match state.awaited.filter(|until| state.dialing && *until > now) {
            Some(until) => Next::Wait { until: Some(until) },
            None => Next::Take(Way::OpenSsh(master)),
        }
    }

    /// A task: whoever gives up waiting does not waste the login of the others.
    fn log_in(self: &Arc<Self>, scope: &Scope) {
        let (bastion, own) = (Arc::clone(self), scope.clone());
        let mut woken = self.woken.subscribe();
        scope.spawn("ssh login", async move {
            let mut dialing = Dialing { bastion: Arc::clone(&bastion), result: None };
            dialing.result = tokio::select! {
                biased;
                _ = woken.changed() => None,
                // At the end nobody takes what it would bring; one that was replaced goes on for those who wait.
                () = own.awaited() => None,
                result = bastion.dial(&own, &|_| {}) => Some(result),
            };
            let is_for_a_person = matches!(&dialing.result, Some(Err(error)) if error.is_for_a_person());
            drop(dialing);
            if is_for_a_person {
                bastion.watch_key_files(&own);
            }
        });
    }

    /// Somebody has a forward through it made anew: a login that is there may be dead without anybody having noticed, and
    /// one that was refused, or a key that was not believed, is not made to wait for its time: a person asks, not a machine again and again.
    pub(crate) fn prove(&self) {
        let mut state = self.state();
        (state.unproven, state.asked) = (true, true);
        if !state.failure.as_ref().is_some_and(|(error, _)| error.is_for_a_person()) {
            return;
        }
        state.failure = None;
        state.refused.reset();
        state.key.reset();
        drop(state);
        self.tell();
    }

    /// A target behind it says nothing. Others use these connections and may be well: they are left when a successor is
    /// there, and not before; and one target that is dead for long does not make a login of each of its probes.
    pub(crate) fn renew(self: &Arc<Self>, scope: &Scope) {
        let now = Instant::now();
        let mut state = self.state();
        let is_young = state.since.is_none_or(|since| now - since < self.servers.limits().renew);
        if is_young || state.is_held(now) || state.dialing || state.links.is_empty() {
            return;
        }
        (state.dialing, state.renewing) = (true, true);
        drop(state);
        self.log_in(scope);
    }

    async fn dial(&self, scope: &Scope, notes: Notes<'_>) -> Result<Way, SshError> {
        let asked = std::mem::take(&mut self.state().asked);
        let known = Known::of(scope, &self.server).await?;
        // Before they are read: what changes from here on is seen.
        let files = (KeyFiles::of(scope, &known).await, KeyFiles::of_credentials(scope, &known).await);
        (self.state().key_files, self.state().credential_files) = files;
        if known.by_openssh() {
            let hops = Hops::of(scope, &known).await?;
            for hop in hops.iter() {
                let files = KeyFiles::of(scope, hop).await;
                self.state().key_files.add(files);
            }
            return Master::log_in(scope, known, &hops).await.map(Way::OpenSsh);
        }
        let dial =
            Dial { servers: &self.servers, scope, secrets: &self.secrets, notes, asked, hop_files: OnceLock::new() };
        let linked = dial.link(&known).await;
        if let Some(files) = dial.hop_files.into_inner() {
            let mut state = self.state();
            state.key_files.add(files.clone());
            state.credential_files.add(files);
        }
        linked.map(|link| Way::Link(Arc::new(link)))
    }

    fn dialed(&self, result: Option<Result<Way, SshError>>) {
        let mut state = self.state();
        state.dialing = false;
        let renewed = std::mem::take(&mut state.renewing);
        let mut left = Vec::new();
        match result {
            Some(Ok(way)) => {
                state.since = Some(Instant::now());
                if renewed {
                    state.retire_all();
                    state.openssh = None;
                }
                left = std::mem::take(&mut state.retired);
                match way {
                    Way::Link(link) => state.links.push(link),
                    Way::OpenSsh(master) => state.openssh = Some(master),
                }
                self.forgive(&mut state);
            }
            Some(Err(error)) => self.failed(&mut state, error),
            // Its scope ended, or it was given up for another.
            None => {}
        }
        drop(state);
        self.tell();
        left.into_iter().for_each(|link| self.end_if_silent(link));
    }

    fn failed(&self, state: &mut State, error: SshError) {
        let (random, now): (u64, _) = (rand::random(), Instant::now());
        if !error.is_away() {
            state.away = None;
        }
        let is_down = error.is_away() || matches!(error, SshError::Timeout { .. });
        state.down = is_down.then(|| state.down.unwrap_or(now));
        // The whole wait: jitter would let the first tries after a refusal come at once.
        let whole = |backoff: &mut Backoff| {
            let wait = backoff.longest();
            backoff.next_wait(random);
            wait
        };
        let wait = if error.is_login() {
            whole(&mut state.refused)
        } else if error.is_host_key() {
            whole(&mut state.key)
        } else if error.is_away() && now - *state.away.get_or_insert(now) < RESTARTING {
            state.again.next_wait(random).min(RESTART)
        } else {
            state.again.next_wait(random)
        };
        tracing::debug!(server = %self.server, %error, ?wait, "no ssh connection");
        if error.is_login() {
            let (error, until, backoff) = (error.clone(), now + wait, state.refused.clone());
            self.servers.refuses(&self.server, Refusal { error, until, backoff });
        }
        state.failure = Some((error, now + wait));
    }

    fn forgive(&self, state: &mut State) {
        self.servers.forgive(&self.server);
        state.forgive();
    }

    /// The master of the child processes is gone, and a stream that noticed it first was not let in: the next login is made
    /// by the pace of all logins, and not by each stream. The late end of an older one says nothing of its successor.
    pub(super) fn openssh_failed(&self, failed: &Weak<Master>, error: SshError) {
        let mut state = self.state();
        if state.openssh.take_if(|master| std::ptr::eq(Arc::as_ptr(master), failed.as_ptr())).is_none() {
            return;
        }
        self.failed(&mut state, error);
        drop(state);
        self.tell();
    }

    /// A forward through it is made anew: what a person had to do about its key may be done.
    pub(crate) fn look_again(&self) {
        let mut state = self.state();
        if !state.failure.as_ref().is_some_and(|(error, _)| error.is_host_key()) {
            return;
        }
        state.failure = None;
        state.key.reset();
        drop(state);
        self.tell();
    }

    /// A file that the last login was made with is another one than then: what a person had to do may be done. How long is
    /// waited after the next refused login goes on from the last one.
    pub(super) fn files_changed(&self) {
        let mut state = self.state();
        // The key may be that of a server on the way.
        state.asked = true;
        let is_login = match &state.failure {
            Some((error, _)) if error.is_host_key() => false,
            Some((error, _)) if error.is_login() => true,
            _ => return,
        };
        state.failure = None;
        state.key.reset();
        drop(state);
        if is_login {
            self.servers.forgive(&self.server);
        }
        self.tell();
    }

    /// Since when it cannot be reached, as far as is known.
    pub(crate) fn down_since(&self) -> Option<Instant> {
        self.state().down
    }

    /// Until when no login is tried, as a person has to do something.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        let state = self.state();
        let held = state.failure.as_ref().filter(|(error, _)| error.is_for_a_person());
        held.map(|(_, until)| *until).filter(|until| *until > Instant::now())
    }

    /// Opens a stream to a host as the server sees it.
    pub(crate) async fn open(
        self: &Arc<Self>,
        scope: &Scope,
        host: &str,
        port: u16,
        patience: Duration,
    ) -> Result<Io, OpenedVia> {
        let target = || format!("ssh://{}/{}", self.server, authority(host, port));
        let opening = async {
            for _ in 0..OPENS {
                match self.way(scope).await.map_err(OpenedVia::Ssh)? {
                    Way::OpenSsh(master) => {
                        let (bastion, failed) = (Arc::downgrade(self), Arc::downgrade(&master));
                        let refused = move |error| {
                            if let Some(bastion) = bastion.upgrade() {
                                bastion.openssh_failed(&failed, error);
                            }
                        };
                        return openssh::open(scope, &master, host, port, refused).map_err(OpenedVia::Ssh);
                    }
                    Way::Link(link) => match self.open_by(link, host, port).await {
                        Ok(stream) => return Ok(Io::buffered(stream)),
                        Err(OpenError::Lost) => {}
                        Err(OpenError::Denied(denial)) => {
                            return Err(OpenedVia::Stream(self.refusal(&denial, target(), host, port)));
                        }
                    },
                }
            }
            let reason = "the ssh connection was lost again and again".to_owned();
            Err(OpenedVia::Stream(ConnectError::Unavailable { target: target(), reason, hint: None }))
        };
        match tokio::time::timeout(patience, opening).await {
            Ok(result) => result,
            Err(_) => Err(OpenedVia::Stream(ConnectError::Timeout { target: target(), after: patience })),
        }
    }

    fn refusal(&self, denial: &Denial, target: String, host: &str, port: u16) -> ConnectError {
        let (server, there) = (&self.server, authority(host, port));
        match denial {
            Denial::Prohibited(words) => ConnectError::Unavailable {
                target,
                reason: format!("{server} forbids to forward there{}", as_said("administratively prohibited", words)),
                hint: Some(format!("allow it there: AllowTcpForwarding and PermitOpen {there} in sshd_config")),
            },
            Denial::Busy(words) => ConnectError::Unavailable {
                target,
                reason: format!("{server} has no room for another stream{}", as_said("resource shortage", words)),
                hint: None,
            },
            Denial::Failed(words) if has_no_address(words) => {
                let text = format!("{server} does not know {host}{}", as_said("connect failed", words));
                ConnectError::Resolve { target, source: std::io::Error::other(text) }
            }
            Denial::Failed(words) => {
                let text = format!("{server} got no connection to {there}{}", as_said("connect failed", words));
                ConnectError::Refused {
                    target,
                    source: std::io::Error::new(std::io::ErrorKind::ConnectionRefused, text),
                }
            }
        }
    }

    /// Waits until no connection is left; why.
    pub(crate) async fn lost(&self) -> String {
        let mut changed = self.changed.subscribe();
        let mut reason = format!("the ssh connection to {} is given up", self.server);
        loop {
            changed.mark_unchanged();
            let last = {
                let mut state = self.state();
                state.clean();
                match (state.links.last(), &state.openssh) {
                    (Some(link), _) => Way::Link(Arc::clone(link)),
                    (None, Some(master)) => Way::OpenSsh(Arc::clone(master)),
                    (None, None) => return reason,
                }
            };
            let ended = async {
                match &last {
                    Way::Link(link) => link.ended().await,
                    Way::OpenSsh(master) => master.ended().await,
                }
            };
            tokio::select! {
                biased;
                _ = changed.changed() => {}
                ended = ended => reason = ended,
            }
        }
    }

    /// The machine slept or its network changed, or somebody wants it anew: nothing that is known of failures holds.
    pub(crate) fn wake(&self) {
        {
            let mut state = self.state();
            self.forgive(&mut state);
            // Its settings may have changed.
            state.openssh = None;
            state.retire_all();
        }
        self.woken.send_modify(|count| *count += 1);
        self.tell();
    }

    /// How long is waited after the next refused login.
    #[cfg(test)]
    pub(super) fn next_refusal(&self) -> Duration {
        self.state().refused.longest()
    }

    /// How bytes are carried.
    pub(crate) fn transport(&self) -> &'static str {
        let state = self.state();
        if state.openssh.is_some() { "openssh" } else { "ssh" }
    }
}

/// A login under way; also when its task is dropped, those who wait are told.
struct Dialing {
    bastion: Arc<Bastion>,
    result: Option<Result<Way, SshError>>,
}

impl Drop for Dialing {
    fn drop(&mut self) {
        self.bastion.dialed(self.result.take());
    }
}

/// One login, each step told.
pub(crate) async fn test(
    servers: &Arc<SshServers>,
    scope: &Scope,
    server: &SshServer,
    secrets: Secrets,
    destination: Option<(&str, u16)>,
    notes: Notes<'_>,
) -> Result<Result<(), ConnectError>, SshError> {
    let known = Known::of(scope, server).await?;
    let settings = &known.settings;
    notes(match known.reader {
        Reader::OpenSsh => "the settings are those of `ssh -G`".to_owned(),
        Reader::Own => "there is no `ssh` on PATH: the settings are read from its files by adit".to_owned(),
    });
    notes(format!("{server} is {}@{}:{}", settings.user, settings.host, settings.port));
    let bastion = Bastion::new(Arc::clone(servers), server.clone(), secrets);
    let way = bastion.dial(scope, notes).await?;
    if let Way::OpenSsh(_) = &way {
        notes(format!("a child process `ssh` is used ({})", known.only_openssh.unwrap_or("backend: openssh")));
    }
    bastion.dialed(Some(Ok(way)));
    let Some((host, port)) = destination else { return Ok(Ok(())) };
    match bastion.open(scope, host, port, known.connect_timeout).await {
        Ok(_) => {
            notes(format!("{server} reaches {}", authority(host, port)));
            Ok(Ok(()))
        }
        Err(OpenedVia::Ssh(error)) => Err(error),
        Err(OpenedVia::Stream(error)) => Ok(Err(error)),
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The reason as `ssh` would print it.
fn as_said(code: &str, words: &str) -> String {
    // What sshd says when it says nothing.
    if words.is_empty() || words == "open failed" { format!(" ({code})") } else { format!(" ({code}: {words})") }
}

/// Whether they are the words of a resolver.
fn has_no_address(words: &str) -> bool {
    let of_resolvers =
        ["not known", "name resolution", "No address associated", "no such host", "Non-recoverable failure"];
    of_resolvers.iter().any(|part| words.contains(part))
}
