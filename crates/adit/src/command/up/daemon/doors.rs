//! The daemon's own TCP ports, `daemon.listen` and `daemon.metrics`: opened, changed and closed as the file says.
//!
//! One that cannot be had stops nothing else: it is told, and tried again.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_core::config::DaemonConfig;
use adit_core::diagnose::Fault;
use adit_core::token::Token;
use runtime::control::conversation;
use runtime::listener::BoundListener;
use runtime::places::Places;
use runtime::scope::Scope;
use runtime::unread::Unread;
use serde_json::{Value, json};
use tunnel::agent::TokenSource;

use super::api::Api;
use super::guarded::{Client, Door, Key};
use super::state::{Daemon, internal};
use crate::command::clock::ticks;
use crate::report::{Failure, failure};

/// Conversations at the same time at one port: some programs.
const CONNECTIONS: usize = 256;
/// How often a port that could not be had is tried.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a client may leave an answer unread.
const UNREAD: Duration = Duration::from_secs(30);
/// A shorter token could be guessed.
const TOKEN_MIN: usize = 16;

/// Which of the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Api,
    Metrics,
}

impl Which {
    const ALL: [Self; 2] = [Self::Api, Self::Metrics];

    /// Its key in the file, which is its label in a handover, too.
    const fn key(self) -> &'static str {
        match self {
            Self::Api => "daemon.listen",
            Self::Metrics => "daemon.metrics",
        }
    }

    const fn wanted(self, config: &DaemonConfig) -> Option<SocketAddr> {
        match self {
            Self::Api => config.listen,
            Self::Metrics => config.metrics,
        }
    }
}

/// The file of a token and what is in it; or why the daemon cannot make one now, as on a disk that is full.
pub(super) type Known = Result<(PathBuf, String), Failure>;

/// The ports of the daemon itself.
#[derive(Default)]
pub(super) struct Doors {
    key: Key,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// The addresses that were asked for last.
    wanted: Option<[Option<SocketAddr>; Which::ALL.len()]>,
    open: Vec<Open>,
    /// What is asked for and could not be had, with the reason.
    failed: Vec<(Which, SocketAddr, Failure)>,
    /// Sockets of a process before this one, by their labels.
    inherited: Vec<(String, TcpListener)>,
    token_file: Option<PathBuf>,
    /// Why there is no token: without one the API is not opened.
    no_token: Option<Failure>,
}

struct Open {
    which: Which,
    /// As the file has it; its port may be 0.
    asked: SocketAddr,
    address: SocketAddr,
    socket: OwnedFd,
    serving: Scope,
}

impl Doors {
    /// Takes listening sockets of a process before this one.
    pub(super) fn inherit(&self, sockets: Vec<(String, TcpListener)>) {
        self.held().inherited.extend(sockets);
    }

    /// The token that a version of the file asks for, read before anything of it is put in force.
    ///
    /// # Errors
    /// When the file names one that cannot be used, or the daemon's own is spoiled.
    pub(super) fn token(config: &DaemonConfig, own: &Path) -> Result<Option<Known>, Failure> {
        if config.listen.is_none() {
            return Ok(None);
        }
        let path = match &config.token_file {
            Some(path) => path.clone(),
            // No mistake of the file: its forwards run without the port, which is opened as soon as this works.
            None => match made(own) {
                Ok(path) => path,
                Err(failure) => return Ok(Some(Err(failure))),
            },
        };
        let token = match (read(&path), &config.token_file) {
            (Err(failure), None) => {
                let hint = format!("remove {}, and the daemon makes another one", path.display());
                return Err(Failure::new(Fault::Config, failure.message(), hint));
            }
            (token, _) => token?,
        };
        Ok(Some(Ok((path, token))))
    }

    /// Opens what a version of the file asks for and closes what it does not. To be called within the runtime.
    pub(super) fn apply(&self, daemon: &Arc<Daemon>, config: &DaemonConfig, token: Option<Known>) {
        let mut held = self.held();
        if let Some(token) = token {
            self.learn(&mut held, token, &daemon.place.token());
        }
        if held.no_token.is_some()
            && let Some(at) = held.open.iter().position(|open| open.which == Which::Api)
        {
            // Nobody gets in by a token that the file does not name any more.
            held.open.swap_remove(at).serving.drain();
            held.wanted = None;
        }
        let wanted = Some(Which::ALL.map(|which| which.wanted(config)));
        if held.wanted == wanted {
            // What could not be had was told, and is tried again anyway.
            return;
        }
        held.wanted = wanted;
        held.failed.clear();
        held.open.retain(|open| {
            let stays = open.which.wanted(config) == Some(open.asked);
            if !stays {
                open.serving.drain();
            }
            stays
        });
        for which in Which::ALL {
            let Some(asked) = which.wanted(config) else { continue };
            if !held.open.iter().any(|open| open.which == which) {
                self.open(&mut held, daemon, which, asked);
            }
        }
        // What nobody asks for any more is closed.
        held.inherited.clear();
        for (which, asked, failure) in &held.failed {
            let text = format!("{} {asked} is not open: {}", which.key(), failure.message());
            daemon.journal.note("not-opened", &text, &json!({ "key": which.key(), "hint": failure.hint() }));
        }
    }

    fn learn(&self, held: &mut Held, token: Known, own: &Path) {
        held.no_token = match token {
            Ok((path, token)) => {
                self.key.set(&token);
                held.token_file = Some(path);
                None
            }
            // Its file is gone, and the daemon knows what was in it.
            Err(_) if held.token_file.as_deref() == Some(own) => None,
            Err(failure) => {
                self.key.clear();
                held.token_file = None;
                Some(failure)
            }
        };
    }

    /// Tries once more what could not be had.
    fn try_again(&self, daemon: &Arc<Daemon>) {
        let mut held = self.held();
        if held.no_token.is_some() {
            let token = made(&daemon.place.token()).and_then(|path| Ok((path.clone(), read(&path)?)));
            self.learn(&mut held, token, &daemon.place.token());
        }
        for (which, asked, _) in std::mem::take(&mut held.failed) {
            self.open(&mut held, daemon, which, asked);
            if let Some(open) = held.open.iter().find(|open| open.which == which) {
                let text = format!("{} is open at last: {}", which.key(), open.address);
                daemon.journal.note("opened", &text, &Value::Null);
            }
        }
    }

    fn open(&self, held: &mut Held, daemon: &Arc<Daemon>, which: Which, asked: SocketAddr) {
        if let Some(failure) = held.no_token.clone().filter(|_| which == Which::Api) {
            held.failed.push((which, asked, failure));
            return;
        }
        let listener = match inherited(&mut held.inherited, which, asked) {
            Some(listener) => Ok(listener),
            None => BoundListener::bind_loopback(asked).map_err(|error| failure(&error)),
        };
        let opened = listener.and_then(|listener| {
            let socket = listener.share().map_err(|error| internal(&error))?;
            let (address, serving) = (listener.local_addr(), daemon.answering());
            let api = Api::new(daemon);
            let door = match which {
                Which::Api => Door::Api(api, address.ip(), self.key.clone()),
                Which::Metrics => Door::Metrics(api, address.ip()),
            };
            serve(listener, door, &serving);
            Ok(Open { which, asked, address, socket, serving })
        });
        match opened {
            Ok(open) => held.open.push(open),
            Err(failure) => held.failed.push((which, asked, failure)),
        }
    }

    /// The listening sockets with their labels, for a successor.
    pub(super) fn sockets(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let held = self.held();
        held.open.iter().map(|open| Ok((open.which.key().to_owned(), open.socket.try_clone()?))).collect()
    }

    /// Another process has them now: here they are closed, so that they end with that one.
    pub(super) fn let_go(&self) {
        *self.held() = Held::default();
    }

    /// How they are.
    pub(super) fn json(&self) -> Value {
        let held = self.held();
        let of = |which: Which| {
            let open = held.open.iter().find(|open| open.which == which).map(|open| open.address);
            let failed = held.failed.iter().find(|(failed, ..)| *failed == which);
            let address = open.or(failed.map(|(_, asked, _)| *asked));
            address.map_or(Value::Null, |address| {
                json!({
                    "address": address.to_string(),
                    "open": open.is_some(),
                    "error": failed.map(|(.., failure)| failure.message().to_owned()),
                    "hint": failed.and_then(|(.., failure)| failure.hint().map(str::to_owned)),
                })
            })
        };
        let mut api = of(Which::Api);
        if api.is_object() {
            api["token_file"] = held.token_file.as_ref().map(|path| path.display().to_string()).into();
        }
        json!({ "api": api, "metrics": of(Which::Metrics) })
    }

    fn has_failed(&self) -> bool {
        !self.held().failed.is_empty()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tries what could not be had, until the end.
pub(super) fn try_again(scope: &Scope, daemon: &Arc<Daemon>) {
    let (until, daemon) = (scope.clone(), Arc::downgrade(daemon));
    scope.spawn("daemon's ports", async move {
        let mut tick = ticks(AGAIN);
        loop {
            tokio::select! {
                biased;
                () = until.drained() => return,
                _ = tick.tick() => {}
            }
            let Some(daemon) = daemon.upgrade() else { return };
            if daemon.doors.has_failed() {
                daemon.doors.try_again(&daemon);
            }
        }
    });
}

fn serve(listener: BoundListener, door: Door, serving: &Scope) {
    let places = Places::new(CONNECTIONS);
    let (accepting, tasks) = (serving.clone(), serving.clone());
    serving.spawn("daemon's port", async move {
        let ending = tasks.clone();
        let accepted = listener.accept_loop(accepting, move |stream, _| {
            let Some(place) = places.take().map(Arc::new) else { return };
            let (client, ending) = (Client::new(door.clone(), &place), ending.clone());
            tasks.spawn("conversation at a port", async move {
                tokio::select! {
                    biased;
                    () = conversation(Unread::new(stream, UNREAD).at(&place), client, ending) => {}
                    () = place.given_away() => {}
                }
            });
        });
        if let Err(error) = accepted.await {
            tracing::error!(%error, "the daemon's port cannot accept");
        }
    });
}

/// The socket that a process before this one had at this address. Port 0 is whatever it had.
fn inherited(all: &mut Vec<(String, TcpListener)>, which: Which, asked: SocketAddr) -> Option<BoundListener> {
    let fits = |listener: &TcpListener| {
        listener.local_addr().is_ok_and(|local| local.ip() == asked.ip() && [0, local.port()].contains(&asked.port()))
    };
    let index = all.iter().position(|(label, listener)| label == which.key() && fits(listener))?;
    BoundListener::from_std(all.swap_remove(index).1).ok()
}

/// The token in a file.
fn read(path: &Path) -> Result<String, Failure> {
    let token = TokenSource::File(path.to_owned()).read().map_err(|error| failure(&error))?;
    if token.expose().len() >= TOKEN_MIN {
        return Ok(token.expose().clone());
    }
    let text = format!("the token in {} is shorter than {TOKEN_MIN} characters", path.display());
    let hint = "leave daemon.token_file out, and the daemon makes one that nobody guesses";
    Err(Failure::new(Fault::Config, text, hint))
}

/// The daemon's own token, made when it is not there yet.
fn made(path: &Path) -> Result<PathBuf, Failure> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let at = |error: io::Error| {
        let hint =
            format!("the API's token must be written to {}; or name another file as daemon.token_file", path.display());
        Failure::new(Fault::Config, format!("{}: {error}", path.display()), hint)
    };
    if let Some(directory) = path.parent() {
        super::place::make_private(directory).map_err(at)?;
    }
    // An empty one is what a full disk or the end of the machine has left: nobody has it.
    if std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file() || found.len() > 0) {
        return Ok(path.to_owned());
    }
    // Whole or not at all: half a token would be in the way of every start.
    let next = path.with_extension("token.next");
    let token = Token::from_random(rand::random());
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&next).map_err(at)?;
    writeln!(file, "{}", token.expose()).and_then(|()| file.sync_all()).map_err(at)?;
    std::fs::rename(&next, path).map_err(at)?;
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn config(token_file: Option<PathBuf>) -> DaemonConfig {
        DaemonConfig { listen: Some(([127, 0, 0, 1], 0).into()), token_file, ..DaemonConfig::default() }
    }

    fn own_token(own: &Path) -> (PathBuf, String) {
        let found = Doors::token(&config(None), own).unwrap_or_else(|e| panic!("{}", e.text())).unwrap();
        found.unwrap_or_else(|e| panic!("{}", e.text()))
    }

    #[test]
    fn a_token_that_cannot_be_made_now_is_no_mistake_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("state"), "no directory").unwrap();
        let own = directory.path().join("state/daemon.token");
        let found = Doors::token(&config(None), &own).unwrap_or_else(|e| panic!("{}", e.text())).unwrap();
        assert!(found.unwrap_err().hint().unwrap().contains("daemon.token_file"));
    }

    #[test]
    fn a_token_is_made_once_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("state/daemon.token");
        let (path, token) = own_token(&own);
        assert_eq!(path, own);
        assert_eq!(std::fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o600);
        let again = own_token(&own);
        assert_eq!(again.1, token);
        assert!(Token::parse(&token).is_ok());
    }

    #[test]
    fn an_empty_token_of_our_own_is_made_anew_and_a_spoiled_one_is_told_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("daemon.token");
        let write = |text: &str| {
            std::fs::write(&own, text).unwrap();
            std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        write("");
        let (_, token) = own_token(&own);
        assert!(Token::parse(&token).is_ok());
        for spoiled in ["\n", "adit_x\n"] {
            write(spoiled);
            let error = Doors::token(&config(None), &own).unwrap_err();
            assert!(error.hint().unwrap().contains("and the daemon makes another one"), "{}", error.text());
        }
        write("");
        assert!(Doors::token(&config(Some(own.clone())), &own).is_err(), "a file that the user names is the user's");
    }

    #[test]
    fn a_token_that_others_read_or_could_guess_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "short\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let error = Doors::token(&config(Some(path.clone())), Path::new("/nowhere")).unwrap_err();
        assert!(error.message().contains("shorter than 16"), "{}", error.text());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Doors::token(&config(Some(path)), Path::new("/nowhere")).unwrap_err();
        assert!(
            error.message().contains("open to other users") && !error.text().contains("short\n"),
            "{}",
            error.text()
        );
        assert!(matches!(Doors::token(&DaemonConfig::default(), Path::new("/nowhere")), Ok(None)));
    }
}
