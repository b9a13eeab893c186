//! The running daemon: what the file says, with what was asked for of single forwards, in force.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ::forward::Forward;
use adit_core::config::{ForwardConfig, Problem};
use adit_core::diagnose::Fault;
use adit_core::timestamp;
use runtime::control::ControlSocket;
use runtime::scope::Scope;
use runtime::watch::FileWatch;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::desired::{Desired, Wish};
use super::doors::Doors;
use super::ending::End;
use super::journal::Journal;
use super::last_change::LastChange;
use super::metrics;
use super::notify::Notify;
use super::place::Place;
use super::ports_before::PortsBefore;
use super::presence::Presence;
use super::status;
use super::unknown::{other_than_a_forward, unknown};
use crate::command::config::check::Contexts;
use crate::command::up::running::{Change, Running};
use crate::command::up::source::{Read, Source};
use crate::command::up::view::View;
use crate::report::{Failure, failure};

/// How long a start that is waited for may take, unless told otherwise.
const WAIT: Duration = Duration::from_secs(30);

/// Why the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was asked to.
    Asked,
    /// Another process has taken over.
    TakenOver,
}

/// Shared by the control socket, the watcher and the signals.
pub(super) struct Daemon {
    pub(super) place: Place,
    pub(super) config: PathBuf,
    pub(super) journal: Arc<Journal>,
    pub(super) started: SystemTime,
    /// The same by the clock that nobody sets.
    begun: Instant,
    pub(super) ending: watch::Sender<Option<Ending>>,
    /// A successor is being started.
    pub(super) handing: watch::Sender<bool>,
    pub(super) running: Arc<Mutex<Running>>,
    pub(super) notify: Notify,
    /// Its own TCP ports.
    pub(super) doors: Doors,
    /// A service manager holds the control socket: it is there when the daemon is not.
    pub(super) is_activated: bool,
    /// Whether what happens is shown on the desktop.
    pub(super) notifies: AtomicBool,
    /// Requests at them that were not taken.
    pub(super) refused: AtomicU64,
    /// Where the end is, once it has begun.
    pub(super) end: End,
    pub(super) source: Source,
    watch: Arc<FileWatch>,
    view: Arc<View>,
    scope: Scope,
    /// Where questions are answered: longer than anything else lives, so that the end can be watched.
    answering: Scope,
    presence: Presence,
    reloads: AtomicU64,
    reloads_refused: AtomicU64,
    /// Why the file as it is now is not in force, and since when.
    mistake: Mutex<Option<(SystemTime, Failure)>>,
    /// The last change of what is in force that the file asked for.
    last: Mutex<Option<LastChange>>,
    /// What was read last and what is wished; held during a change, so that there is one at a time.
    known: Mutex<Known>,
}

struct Known {
    /// The version in force, as it is written.
    read: Read,
    desired: Desired,
    /// The version of the file that was refused for an address that cannot be had: it is tried again.
    waiting: Option<Read>,
    /// Contexts that the version in force names and that are not there, as they were told.
    missing: Contexts,
    /// Addresses that forwards had before: what came in there goes on.
    ports_before: PortsBefore,
    /// Why the wishes are not written down. They hold, and are written with the next change that can be.
    unsaved: Option<String>,
}

/// What a daemon is made of.
pub(super) struct Parts {
    pub(super) place: Place,
    pub(super) config: PathBuf,
    pub(super) journal: Arc<Journal>,
    pub(super) running: Arc<Mutex<Running>>,
    pub(super) source: Source,
    pub(super) watch: Arc<FileWatch>,
    pub(super) view: Arc<View>,
    pub(super) scope: Scope,
    pub(super) answering: Scope,
    pub(super) doors: Doors,
    pub(super) is_activated: bool,
    pub(super) read: Read,
    pub(super) missing: Contexts,
    pub(super) desired: Desired,
    pub(super) presence: Presence,
    pub(super) notify: Notify,
}

/// Why something is to be put in force.
enum Cause {
    /// The file has changed, or somebody wants it to be read again.
    File,
    /// An address that a version of the file was refused for may be free.
    Address,
    /// Somebody wants something of forwards, and some of them anew.
    Command { wish: Box<dyn FnOnce(&mut Desired) + Send>, renew: Vec<String>, told: Vec<Told> },
}

/// What is noted of a command: an event, its words, and the forward.
struct Told(&'static str, String, Value);

/// Which forwards a command is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::command) struct Chosen {
    /// By name.
    pub(in crate::command) names: Vec<String>,
    /// By tag.
    pub(in crate::command) tags: Vec<String>,
    /// Every one.
    pub(in crate::command) all: bool,
    /// They are again as the file says, whatever was started and stopped.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::command) forget: bool,
    /// How long to wait until they are ready, in milliseconds; 0 is not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::command) wait_ms: Option<u64>,
}

impl Daemon {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let Parts { place, config, journal, running, source, watch, view, .. } = parts;
        let Parts { scope, answering, doors, is_activated, read, missing, desired, presence, notify, .. } = parts;
        Arc::new(Self {
            place,
            config,
            journal,
            started: SystemTime::now(),
            begun: Instant::now(),
            ending: watch::Sender::new(None),
            handing: watch::Sender::new(false),
            running,
            notify,
            doors,
            is_activated,
            notifies: AtomicBool::new(read.file.daemon.notify),
            refused: AtomicU64::new(0),
            end: End::new(read.file.daemon.shutdown),
            source,
            watch,
            view,
            scope,
            answering,
            presence,
            reloads: AtomicU64::new(0),
            reloads_refused: AtomicU64::new(0),
            mistake: Mutex::default(),
            last: Mutex::default(),
            known: Mutex::new(Known {
                read,
                desired,
                waiting: None,
                missing,
                ports_before: PortsBefore::default(),
                unsaved: None,
            }),
        })
    }

    /// Has it end, for the first reason that is given; whether this was it.
    pub(super) fn end(&self, why: Ending) -> bool {
        self.ending.send_if_modified(|ending| {
            let is_first = ending.is_none();
            *ending = ending.or(Some(why));
            is_first
        })
    }

    /// Whether it was told to end, or another process has taken over.
    pub(super) fn ends(&self) -> bool {
        self.ending.borrow().is_some()
    }

    /// Whether another process is the daemon now.
    pub(super) fn was_taken_over(&self) -> bool {
        *self.ending.borrow() == Some(Ending::TakenOver)
    }

    /// Whether another process is being made the daemon: what is wished here would be lost.
    pub(super) fn hands_over(&self) -> bool {
        *self.handing.borrow()
    }

    /// Waits until no other process is being made the daemon.
    pub(super) async fn handed_over(&self) {
        // The sender is here.
        let _ = self.handing.subscribe().wait_for(|handing| !handing).await;
    }

    /// Waits for the change that is under way, with what it writes down.
    pub(super) async fn settled(self: &Arc<Self>) -> Result<(), Failure> {
        self.look(|daemon| drop(daemon.known())).await
    }

    /// From now on the lock names this process.
    pub(super) fn sign(&self) -> Result<(), Failure> {
        self.presence.sign().map_err(|error| internal(&error))
    }

    /// Sees to it that the daemon is found where it is looked for.
    pub(super) async fn be_found(self: &Arc<Self>) {
        let (handle, daemon) = (tokio::runtime::Handle::current(), Arc::clone(self));
        let looked = self.scope.spawn_blocking("presence", move || {
            let _inside = handle.enter();
            if !daemon.ends() && !daemon.hands_over() {
                daemon.presence.restore(&daemon);
            }
        });
        // It fails only at the end of everything.
        let _ = looked.await;
    }

    /// Whether it is found where it is looked for, as far as can be said at once.
    pub(super) fn is_found(&self) -> bool {
        self.presence.is_found(&self.place)
    }

    /// Whether every address is open and the file in force, as far as can be said at once: then nothing is to be tried again.
    pub(super) fn has_all(&self) -> bool {
        let is_open = self.running.try_lock().is_ok_and(|running| running.entrances().unopened().next().is_none());
        is_open && self.mistake.try_lock().is_ok_and(|mistake| mistake.is_none())
    }

    /// Answers at the control socket.
    pub(super) fn answer(self: &Arc<Self>, socket: ControlSocket) -> Result<(), Failure> {
        self.presence.answer(self, socket).map_err(|error| internal(&error))
    }

    /// Where its tasks live.
    pub(super) fn scope(&self) -> Scope {
        self.scope.clone()
    }

    /// Where questions at one more socket are answered.
    pub(super) fn answering(&self) -> Scope {
        self.answering.child()
    }

    /// Takes no more questions: another process answers them.
    pub(super) fn stop_answering(&self) {
        self.answering.drain();
        self.presence.let_go();
        self.doors.let_go();
    }

    /// Whether it waits for its file to appear.
    pub(super) fn has_no_file(&self) -> bool {
        self.source.has_no_file()
    }

    /// The lock and the control socket, for a successor.
    pub(super) fn descriptors(&self) -> Result<(OwnedFd, OwnedFd), Failure> {
        self.presence.descriptors().map_err(|error| internal(&error))
    }

    /// Does something that has to wait for a change under way. A change may itself wait for tasks, so no thread that
    /// runs tasks waits for it.
    async fn look<T: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let daemon = Arc::clone(self);
        let looked = self.scope.spawn_blocking("look", move || look(&daemon)).await;
        looked.map_err(|lost| Failure::new(Fault::Internal, lost.to_string(), "ask again"))
    }

    /// How everything is; `clients` names the processes behind connections, which takes a moment.
    pub(super) async fn status(self: &Arc<Self>, clients: bool) -> Result<Value, Failure> {
        self.look(move |daemon| {
            let mut status = daemon.status_now();
            if clients {
                let mut known = daemon.known();
                known.ports_before.forget_idle(&status);
                let before = known.ports_before.clone();
                drop(known);
                status::add_clients(&mut status, &before);
            }
            status
        })
        .await
    }

    /// What monitoring reads.
    pub(super) async fn metrics(self: &Arc<Self>) -> Result<String, Failure> {
        self.look(|daemon| {
            let known = daemon.known();
            let of_daemon = metrics::OfDaemon {
                started: daemon.started,
                reloads: daemon.reloads.load(Ordering::Relaxed),
                reloads_refused: daemon.reloads_refused.load(Ordering::Relaxed),
                in_force: daemon.mistake.lock().unwrap_or_else(PoisonError::into_inner).is_none(),
                lost_entries: daemon.journal.dropped(),
                requests_refused: daemon.refused.load(Ordering::Relaxed),
                ends: daemon.ends(),
            };
            metrics::text(&of_daemon, &known.read.file, lock(&daemon.running).entrances())
        })
        .await
    }

    /// The listening sockets of forwards and gateway, for a successor.
    pub(super) async fn sockets(self: &Arc<Self>) -> Result<Vec<(String, OwnedFd)>, Failure> {
        let sockets = self.look(|daemon| lock(&daemon.running).entrances().sockets()).await?;
        sockets.map_err(|error| internal(&error))
    }

    /// Opens its own ports for the first time.
    pub(super) async fn open_doors(self: &Arc<Self>) -> Result<(), Failure> {
        let (handle, daemon) = (tokio::runtime::Handle::current(), Arc::clone(self));
        self.look(move |now| {
            let _inside = handle.enter();
            let config = now.known().read.file.daemon.clone();
            let token = Doors::token(&config, &now.place.token())?;
            now.doors.apply(&daemon, &config, token);
            Ok(())
        })
        .await?
    }

    fn status_now(&self) -> Value {
        let known = self.known();
        let running = lock(&self.running);
        let mut value =
            status::forwards(&known.read.file, &known.desired, running.entrances(), &known.missing.of_forwards);
        let socket = self.place.socket();
        let logs = self.place.logs();
        let daemon = status::OfDaemon {
            started: self.started,
            uptime: self.begun.elapsed(),
            config: &self.config,
            socket: &socket,
            logs: logs.directory(),
            reloads: self.reloads.load(Ordering::Relaxed),
            lost_entries: self.journal.dropped(),
            ends: self.ends(),
            waits_for_file: self.has_no_file(),
        };
        value["daemon"] = daemon.json();
        value["daemon"]["predecessors"] = super::leaving::all(&self.place.runtime).into();
        value["daemon"]["mistake"] = self.mistake();
        value["daemon"]["ports"] = self.doors.json();
        value["daemon"]["ending"] = self.end.json(&running);
        let snapshot = running.snapshot();
        value["gateway"] = status::gateway(running.entrances(), snapshot.dynamic.as_deref());
        value["published"] = snapshot.published.iter().map(|row| status::published(row, &known.read.file)).collect();
        value["entrances"] = snapshot.rows.iter().filter(|row| row.kind != "port").map(row).collect();
        value
    }

    /// One forward; `None` when there is none of that name.
    pub(super) async fn forward(self: &Arc<Self>, name: &str) -> Result<Option<Value>, Failure> {
        let all = self.status(false).await?;
        let services = all["services"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(services.iter().find(|one| one["name"] == name).cloned())
    }

    /// That no forward has this name, with the one that may be meant; `None` when one has it.
    pub(super) async fn missing(self: &Arc<Self>, name: &str) -> Result<Option<Failure>, Failure> {
        let name = name.to_owned();
        self.look(move |daemon| {
            let known = daemon.known();
            let names: Vec<&str> = known.read.file.forwards.iter().map(|forward| forward.name.as_str()).collect();
            let missing =
                || other_than_a_forward(&known.read.file, &name).unwrap_or_else(|| unknown("forward", &name, &names));
            (!names.contains(&name.as_str())).then(missing)
        })
        .await
    }

    /// Reads the file again and puts it in force.
    pub(super) async fn reload(self: &Arc<Self>) -> Result<Change, Failure> {
        self.notify.reloading();
        self.be_found().await;
        let changed = self.change(Cause::File).await.map(Option::unwrap_or_default);
        self.notify.reloaded();
        match &changed {
            Ok(_) => {
                self.reloads.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => {
                self.reloads_refused.fetch_add(1, Ordering::Relaxed);
                self.view.not_reloaded(failure);
            }
        }
        changed
    }

    /// Tries once more to put the version of the file in force that was refused for an address; another reason is told, the
    /// same is not. The file is not read: it may be half written just now, and whoever watches it knows when it is whole.
    pub(super) async fn reload_again(self: &Arc<Self>) {
        let before = self.mistake()["text"].clone();
        if before.is_null() || self.ends() {
            return;
        }
        match self.change(Cause::Address).await {
            Ok(None) => {}
            Ok(Some(_)) => {
                self.reloads.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) if before == failure.text().trim_end() => {}
            Err(failure) => self.view.not_reloaded(&failure),
        }
    }

    /// Starts, stops or starts anew what is chosen; returns how it is afterwards.
    pub(super) async fn command(self: &Arc<Self>, verb: Verb, chosen: &Chosen) -> Result<Value, Failure> {
        let asked = chosen.clone();
        let names = self.look(move |daemon| daemon.choose(&asked)).await??;
        let mut list = names.clone();
        let renew = if verb == Verb::Restart { names.clone() } else { Vec::new() };
        let forget = chosen.forget;
        let wish = move |desired: &mut Desired| {
            if forget {
                return desired.forget(&list);
            }
            // Starting anew says nothing about when it starts by itself, unless it was stopped.
            if verb == Verb::Restart {
                list.retain(|name| desired.get(name) == Some(Wish::Stopped));
            }
            desired.set(&list, if verb == Verb::Stop { Wish::Stopped } else { Wish::Started });
        };
        let told = names.iter().map(|name| {
            let text = match forget {
                true => format!("{name}: as the file says, by a user"),
                false => format!("{name}: {} by a user", verb.past()),
            };
            Told(verb.past(), text, json!({ "name": name }))
        });
        let told = told.collect();
        self.change(Cause::Command { wish: Box::new(wish), renew, told }).await?;
        if verb != Verb::Stop && !forget {
            let wait = chosen.wait_ms.map_or(WAIT, Duration::from_millis);
            self.wait_ready(&names, wait).await?;
        }
        let status = self.status(false).await?;
        let services = status["services"].as_array().cloned().unwrap_or_default();
        let about = services.into_iter().filter(|one| names.iter().any(|name| one["name"] == **name));
        let about: Vec<Value> = about.collect();
        if verb == Verb::Restart && chosen.wait_ms != Some(0) {
            about.iter().for_each(|one| self.note_result(one));
        }
        let mut answer = json!({ "services": about });
        if let Some(reason) = self.look(|daemon| daemon.known().unsaved.clone()).await? {
            answer["unsaved"] = reason.into();
        }
        Ok(answer)
    }

    /// What has become of a forward that was started anew.
    fn note_result(&self, one: &Value) {
        let text = |key: &str| one[key].as_str().unwrap_or_default();
        let (name, status) = (text("name"), text("status"));
        let why = one["reason"].as_str().filter(|_| status != "running").map(|why| format!(": {why}"));
        let text = format!("{name}: {status} after the restart{}", why.unwrap_or_default());
        self.journal.note("restart-result", &text, &json!({ "name": name, "status": status }));
    }

    async fn wait_ready(self: &Arc<Self>, names: &[String], wait: Duration) -> Result<(), Failure> {
        let forwards = self.look(|daemon| lock(&daemon.running).entrances().targets().forwards()).await?;
        let waited: Vec<Forward> = names.iter().filter_map(|name| forwards.get(name).cloned()).collect();
        drop(forwards);
        let all = async {
            for forward in &waited {
                // Why it is not is in its report.
                let _ = forward.ready().await;
            }
        };
        tokio::select! {
            biased;
            // Whoever waits at the end would wait for nothing.
            () = self.scope.drained() => return Err(super::ending::refused()),
            _ = tokio::time::timeout(wait, all) => {}
        }
        Ok(())
    }

    fn choose(&self, chosen: &Chosen) -> Result<Vec<String>, Failure> {
        let known = self.known();
        let all: Vec<&ForwardConfig> = known.read.file.forwards.iter().collect();
        for name in &chosen.names {
            if !all.iter().any(|forward| forward.name == *name) {
                return Err(other_than_a_forward(&known.read.file, name).unwrap_or_else(|| {
                    let names: Vec<&str> = all.iter().map(|forward| forward.name.as_str()).collect();
                    unknown("forward", name, &names)
                }));
            }
        }
        for tag in &chosen.tags {
            if !all.iter().any(|forward| forward.tags.contains(tag)) {
                let tags: std::collections::BTreeSet<&str> =
                    all.iter().flat_map(|forward| forward.tags.iter().map(String::as_str)).collect();
                return Err(unknown("tag", tag, &Vec::from_iter(tags)));
            }
        }
        // What the file switches off is chosen by its name, or when a wish for it is to be forgotten.
        let is_on = |forward: &ForwardConfig| {
            forward.enabled || chosen.forget || known.desired.get(&forward.name) == Some(Wish::Started)
        };
        let is_chosen = |forward: &&&ForwardConfig| {
            chosen.names.contains(&forward.name)
                || is_on(forward) && (chosen.all || status::is_chosen(forward, &[], &chosen.tags))
        };
        let names: Vec<String> = all.iter().filter(is_chosen).map(|forward| forward.name.clone()).collect();
        if names.is_empty() && (chosen.all || !chosen.tags.is_empty()) && !all.is_empty() {
            let hint = "one that says `enabled: false` is started by its name: adit start NAME";
            return Err(Failure::new(Fault::Usage, "all of them are disabled in the file", hint));
        }
        if names.is_empty() {
            let hint = "name forwards, a tag with --tag, or everything with --all";
            return Err(Failure::new(Fault::Usage, "nothing is chosen", hint));
        }
        Ok(names)
    }

    /// Puts the file with what is wished in force, or changes nothing. Nothing is to be done when no version of it waits
    /// for an address.
    async fn change(self: &Arc<Self>, cause: Cause) -> Result<Option<Change>, Failure> {
        // Reading files and binding ports may take a moment; the handle lets what it makes be driven here.
        let handle = tokio::runtime::Handle::current();
        let daemon = Arc::clone(self);
        let changed = self.scope.spawn_blocking("change", move || {
            let _inside = handle.enter();
            daemon.change_now(cause)
        });
        match changed.await {
            Ok(changed) => changed,
            Err(lost) => Err(Failure::new(Fault::Internal, lost.to_string(), "")),
        }
    }

    /// Keeps in mind why the file as it is now could not be put in force. Since when holds until it is in force.
    fn blame(&self, failure: &Failure) {
        let mut mistake = self.mistake.lock().unwrap_or_else(PoisonError::into_inner);
        let since = mistake.take().map_or_else(SystemTime::now, |(since, _)| since);
        *mistake = Some((since, failure.clone()));
    }

    fn blamed<T>(&self, changed: Result<T, Failure>) -> Result<T, Failure> {
        changed.inspect_err(|failure| self.blame(failure))
    }

    /// The file as it is now is in force, whoever had it read.
    fn in_force(&self) {
        *self.mistake.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.view.in_force();
    }

    fn mistake(&self) -> Value {
        let mistake = self.mistake.lock().unwrap_or_else(PoisonError::into_inner);
        mistake.as_ref().map_or(Value::Null, |(since, failure)| {
            let mut value = failure.json()["error"].take();
            value["since"] = timestamp::format(*since).into();
            value["text"] = failure.text().trim_end().into();
            value
        })
    }

    /// The file as it is now, if it may take the place of the version in force.
    fn read(&self, known: &Known) -> Result<Read, Failure> {
        let read = self.source.read().map_err(of_its_start);
        if let Ok(read) = &read {
            // Should it be refused for one of them, that one is mended without a change of the file.
            self.watch.set_files(read.files_until_taken(&known.read.file));
        }
        // What is started and stopped is no change of the file.
        let checked = |read: Read| read.check(&known.read.file).map(|()| read);
        self.blamed(read.and_then(|read| if read.file == known.read.file { Ok(read) } else { checked(read) }))
    }

    /// Whether the file is the version in force, and without a mistake.
    fn is_written(&self, known: &Known) -> bool {
        self.source.read().is_ok_and(|written| written.file == known.read.file)
    }

    fn change_now(self: &Arc<Self>, cause: Cause) -> Result<Option<Change>, Failure> {
        let mut known = self.known();
        let (read, wish, renew, told) = match cause {
            Cause::File => {
                known.waiting = None;
                (self.read(&known)?, None, Vec::new(), Vec::new())
            }
            Cause::Address => match known.waiting.clone() {
                Some(read) => (read, None, Vec::new(), Vec::new()),
                None => return Ok(None),
            },
            // The successor may have read what was wished before: it is to be asked.
            Cause::Command { .. } if self.hands_over() => return Err(super::ending::given_up_to_another()),
            // What is written now may be half a file, or a mistaken one: that is for the watch to find.
            Cause::Command { wish, renew, told } => (known.read.clone(), Some(wish), renew, told),
        };
        let is_command = wish.is_some();
        // Not from the disk: what could not be written there holds as well.
        let mut desired = known.desired.clone();
        if let Some(wish) = wish {
            wish(&mut desired);
        }
        let (next, as_written) = super::desired::overlaid(read.clone(), &desired);
        let own = as_written.file.daemon.clone();
        let (token, spoiled) = match Doors::token(&own, &self.place.token()) {
            // What is asked for of forwards has nothing to do with it: the port goes on with the token it has.
            Err(failure) if is_command && own == known.read.file.daemon => (None, Some(failure)),
            token => (self.blamed(token)?, None),
        };
        let (applied, wants_address) = {
            let mut running = lock(&self.running);
            known.ports_before.note(running.entrances().open());
            running.renew(&renew);
            let applied = running.apply(&next).map(|change| (change, running.snapshot()));
            // While nobody sees what comes of it: what it leads to is told after it.
            if let Ok((change, _)) = &applied {
                told.iter().for_each(|Told(event, text, details)| self.journal.note(event, text, details));
                if !is_command {
                    self.view.reloaded(change);
                }
            }
            (applied, running.wants_address())
        };
        let (change, snapshot) = match applied {
            Ok(applied) => applied,
            // What was asked for of forwards is no mistake of the file, and is not tried again.
            Err(failure) if is_command => return Err(failure),
            Err(failure) => {
                known.waiting = wants_address.then_some(read);
                self.blame(&failure);
                return Err(failure);
            }
        };
        known.waiting = known.waiting.take().filter(|_| is_command);
        let was_mistaken = !self.mistake().is_null();
        match &spoiled {
            Some(failure) => {
                self.view.in_force();
                self.blame(failure);
            }
            // The mistake of a version that is not this one stays.
            None if is_command && !(was_mistaken && self.is_written(&known)) => {}
            None => self.in_force(),
        }
        self.view.exposed(&snapshot);
        if own != known.read.file.daemon || token.is_some() {
            self.end.set_times(own.shutdown);
            self.notifies.store(own.notify, Ordering::Relaxed);
            self.doors.apply(self, &own, token);
        }
        if !is_command {
            self.tell_missing(&mut known, next.contexts.clone());
            self.watch.set_files(next.files());
            self.note_last(&change, was_mistaken && spoiled.is_none());
        }
        if let Some(diff) = super::audit::diff(&known.read.file, &as_written.file) {
            self.journal.audit(&json!({ "config": self.config.display().to_string(), "changes": diff }));
        }
        desired.keep_only(&as_written.file);
        known.ports_before.keep_only(&as_written.file);
        // While another process takes over the wishes are its own: it may know of more.
        if is_command || !self.hands_over() {
            known.unsaved = self.save(&mut desired);
        }
        (known.read, known.desired) = (as_written, desired);
        Ok(Some(change))
    }

    /// Says which contexts are not there that were, or that nobody asked for before.
    fn tell_missing(&self, known: &mut Known, missing: Contexts) {
        let was_told = |problem: &&Problem| {
            known.missing.problems.iter().any(|told| (&told.key, &told.message) == (&problem.key, &problem.message))
        };
        let news: Vec<Problem> = missing.problems.iter().filter(|problem| !was_told(problem)).cloned().collect();
        self.view.missing(&news);
        known.missing = missing;
    }

    /// Keeps in mind what the file has changed, for whoever asks for a reload when the watcher was quicker.
    fn note_last(&self, change: &Change, mended: bool) {
        let next = match (!change.is_empty(), mended) {
            (true, _) => LastChange::now(change.clone()),
            // What was changed before the mistake is not what whoever has just mended it asks about.
            (false, true) => LastChange::mended(Change { unchanged: change.unchanged, ..Change::default() }),
            (false, false) => return,
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
    }

    /// The forwards that are otherwise than the file says, because somebody wished it.
    pub(super) async fn by_hand(self: &Arc<Self>) -> Result<Vec<String>, Failure> {
        self.look(|daemon| {
            let known = daemon.known();
            known.desired.against(&known.read.file)
        })
        .await
    }

    /// What the file has changed last, and when; nothing since the start.
    pub(super) fn last_change(&self) -> Value {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map_or(Value::Null, LastChange::json)
    }

    /// Writes the wishes down; why not.
    fn save(&self, desired: &mut Desired) -> Option<String> {
        let error = desired.save().err()?;
        let reason = format!("{}: {error}", self.place.desired().display());
        tracing::warn!(reason, "what was started and stopped will be forgotten when the daemon ends");
        Some(reason)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A variable that is not set here may be set where the user looks.
pub(super) fn of_its_start(failure: Failure) -> Failure {
    let text = failure.text();
    if !(text.contains("the variable ") && text.contains(" is not set")) {
        return failure;
    }
    failure.and("the daemon has the environment of its start: adit daemon stop, then adit daemon start where it is set")
}

/// What is done with forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::command) enum Verb {
    Start,
    Stop,
    Restart,
}

impl Verb {
    pub(in crate::command) const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }

    const fn past(self) -> &'static str {
        match self {
            Self::Start => "started",
            Self::Stop => "stopped",
            Self::Restart => "restarted",
        }
    }
}

fn row(row: &gateway::rows::Row) -> Value {
    crate::command::up::view::of_row(row)
}

pub(super) fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What went wrong, as the answer of the control socket.
pub(super) fn internal(error: &std::io::Error) -> Failure {
    Failure::new(Fault::Internal, error.to_string(), "")
}

/// A control error as a failure.
pub(super) fn control(error: &runtime::control::ControlError) -> Failure {
    failure(error)
}

#[cfg(test)]
mod tests;
