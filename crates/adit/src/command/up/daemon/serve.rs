//! The daemon's life: from its lock to its end.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::diagnose::Fault;
use adit_core::shutdown::Phase;
use runtime::control::{ControlError, ControlLock, ControlSocket, PrivateDir};
use runtime::scope::Scope;
use runtime::signals::StopSignals;
use runtime::watch::FileWatch;
use serde_json::{Value, json};

use super::activation::{self, Activated};
use super::desired::{Desired, overlaid};
use super::desktop;
use super::doors::{self, Doors};
use super::ending::in_use;
use super::handover::{self, Inherited};
use super::heard::Heard;
use super::journal::Journal;
use super::launch::READY;
use super::leaving::{self, Leaving};
use super::left_out;
use super::notify::Notify;
use super::others::Process;
use super::place::Place;
use super::presence::{self, Presence};
use super::state::{Daemon, Ending, Parts, control, internal, lock};
use super::status;
use crate::command::up::publish::Chosen;
use crate::command::up::pulse;
use crate::command::up::running::Running;
use crate::command::up::source::{Selection, Source};
use crate::command::up::view::View;
use crate::command::up::{FILE, path, thinned, watch_clock};
use crate::command::{Global, on_runtime};
use crate::report::Failure;
use crate::terminal;

/// How long connections that were accepted before a successor took over have to ask for their target at least.
const SETTLE: Duration = Duration::from_millis(500);
/// How long they have to reach it when it is being started: they would not have been waited for longer anyway.
const REACH: Duration = Duration::from_secs(10);
/// How often it is looked whether one still waits: nobody tells of one that goes away meanwhile.
const REACH_LOOK: Duration = Duration::from_secs(1);

/// How long a daemon stays, after another has taken over, for the connections that it carries. A signal ends it earlier,
/// as it ends any daemon.
const LINGER: Duration = Duration::from_secs(12 * 60 * 60);
/// How often and from when to when the lock of a daemon that is no more is looked at: for two seconds.
const RELEASED_LOOKS: usize = 200;
const RELEASED_LOOK: Duration = Duration::from_millis(10);
/// How long the end waits for answers that are on their way.
const LAST_ANSWER: Duration = Duration::from_millis(200);
/// The exit code when something live was cut off. It was told to end: a service manager must not start it again.
const CUT: u8 = 6;

/// How it is run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mode {
    /// Nobody watches: the start is told on standard output, everything else to the log.
    pub(super) background: bool,
    /// Sockets come from a daemon before.
    pub(super) take_over: bool,
    /// The daemon before had no file; this one waits for it at the same path.
    pub(super) without_file: bool,
}

/// Runs the daemon until it is told to end.
pub(super) fn run(global: &Global, mode: Mode) -> Result<ExitCode, Failure> {
    let result = begin(global, mode);
    match result {
        Err(failure) if mode.background => {
            // Whoever started it reads this.
            terminal::data(&format!("{}\n", failure.json()));
            Ok(failure.exit())
        }
        other => other,
    }
}

fn begin(global: &Global, mode: Mode) -> Result<ExitCode, Failure> {
    let heard = Heard::default();
    global.start_logs_heard(Some("warn"), false, Some(heard.listener()))?;
    if mode.background {
        // No terminal any more, and none of its signals. It fails only for the leader of a group, which is none.
        let _ = rustix::process::setsid();
    }
    let place = Place::find()?;
    let directory = place.open()?;
    let mut activated = activation::take(&place)?;
    let inherited = if mode.take_over { Some(handover::from_predecessor()?) } else { None };
    let sockets = match inherited {
        Some(inherited) => inherited,
        None => {
            let lock = locked(&directory, pause).map_err(|error| control(&error))?;
            let given = activated.control.take();
            let is_activated = given.is_some();
            let socket = match given {
                Some(socket) => socket,
                None => ControlSocket::bind(&directory, &lock).map_err(|error| control(&error))?,
            };
            Inherited { lock, socket, entrances: Vec::new(), doors: Vec::new(), is_activated }
        }
    };
    let (config, source) = source(global, mode)?;
    let journal = Journal::start(place.logs()).map_err(|error| internal(&error))?;
    heard.tell(&journal);
    on_runtime(None, serve(global, mode, Start { place, config, source, journal, sockets, activated }))?
}

/// The lock. A process that was killed may hold it a moment longer than its number names one that lives: that is waited for.
fn locked(directory: &PrivateDir, mut pause: impl FnMut()) -> Result<ControlLock, ControlError> {
    for _ in 0..RELEASED_LOOKS {
        match ControlLock::take(directory) {
            Err(ControlError::Running { pid: Some(pid) }) if Process::of(pid).is_none() => pause(),
            taken => return taken,
        }
    }
    ControlLock::take(directory)
}

#[expect(clippy::disallowed_methods, reason = "nothing else runs yet")]
fn pause() {
    std::thread::sleep(RELEASED_LOOK);
}

struct Start {
    place: Place,
    config: PathBuf,
    source: Source,
    journal: Arc<Journal>,
    sockets: Inherited,
    activated: Activated,
}

/// The file, by its full path: another process may take over from anywhere.
fn source(global: &Global, mode: Mode) -> Result<(PathBuf, Source), Failure> {
    match path(global) {
        Some(path) => {
            let path = std::path::absolute(path).map_err(|error| internal(&error))?;
            Ok((path.clone(), source_at(path, mode.without_file)))
        }
        None => {
            let directory = crate::command::files::config_dir().map(|directory| directory.join("adit"));
            let path = directory.unwrap_or_default().join(FILE);
            let hint = "write one with `adit config init`, or name one with --config";
            if path.is_absolute() {
                return Ok((path.clone(), Source::none_yet(path)));
            }
            Err(Failure::new(Fault::Config, "there is no adit.yaml here or in ~/.config/adit", hint))
        }
    }
}

/// The file at a path, which need not be there when that of the daemon before was not.
fn source_at(path: PathBuf, without_file: bool) -> Source {
    if without_file { Source::none_yet(path) } else { Source::new(path, Selection::default()) }
}

async fn serve(global: &Global, mode: Mode, start: Start) -> Result<ExitCode, Failure> {
    let Start { place, config, source, journal, sockets, activated } = start;
    runtime::socket::raise_descriptor_limit();
    let mut signals = StopSignals::install().map_err(|error| internal(&error))?;
    let scope = Scope::root();
    let listening = scope.child();
    // No child of it: the end is told to whoever asks, to its last moment.
    let answering = Scope::root();
    let first = source.read()?;
    first.check_asks_for_something()?;
    let watch = Arc::new(FileWatch::start(first.files()).map_err(|error| internal(&error))?);
    // Once more: whatever changes from here on is seen by the watch, also the rest of what is only half written now.
    let as_written = source.read().unwrap_or(first);
    let desired = Desired::load(place.desired(), &config);
    let (read, as_written) = overlaid(as_written, &desired);
    watch.set_files(read.files());
    watch.trigger_on_hangup(&scope).map_err(|error| internal(&error))?;
    let form = if mode.background { None } else { Some(global) };
    let view = View::with_journal(form, &journal).map_err(|error| internal(&error))?;
    let mut running = Running::new(&scope, &listening, Arc::clone(&view));
    running.keep_numbers(Chosen::load(place.published(), &config));
    running.inherit(sockets.entrances);
    let passed = activated.sorted(&read.file);
    running.inherit(passed.entrances);
    passed.strange.iter().for_each(|text| tracing::warn!("{text}"));
    let doors = Doors::default();
    doors.inherit(sockets.doors.into_iter().chain(passed.doors).collect());
    running.leave_out();
    running.apply(&read)?;
    left_out::tell(&running, &view)?;
    running.close_inherited();
    view.started(&running.snapshot());
    view.missing(&read.contexts.problems);
    running.mention_trust();
    let running = Arc::new(Mutex::new(running));
    let notify = Notify::from_environment();
    let presence = Presence::new(&answering, &place, sockets.lock, &sockets.socket);
    let presence = presence.map_err(|error| internal(&error))?;
    let daemon = Daemon::new(Parts {
        place,
        config,
        journal: Arc::clone(&journal),
        running: Arc::clone(&running),
        source,
        watch: Arc::clone(&watch),
        view: Arc::clone(&view),
        scope: scope.clone(),
        answering: answering.clone(),
        doors,
        is_activated: sockets.is_activated,
        read: as_written,
        missing: read.contexts,
        desired,
        presence,
        notify: notify.clone(),
    });
    daemon.answer(sockets.socket)?;
    daemon.open_doors().await?;
    presence::keep(&scope, &daemon);
    doors::try_again(&scope, &daemon);
    desktop::follow(&scope, &daemon);
    reload_on_change(&scope, &daemon, &watch);
    user_signals(&scope, &daemon)?;
    watch_clock(&scope, &running, &view);
    left_out::try_again(&scope, &daemon);
    view.follow(&scope, &running);
    notify.ready(&scope);
    journal.note("started", &format!("the daemon runs (pid {})", std::process::id()), &Value::Null);
    // One that takes over is the daemon from here on, not earlier.
    daemon.sign()?;
    if mode.background {
        terminal::data(&format!("{READY}\n"));
    }
    let ended = until_the_end(&scope, &listening, &mut signals, &daemon).await;
    answering.drain();
    // Who asks now gets the answer that is being made, not another one.
    let _ = tokio::time::timeout(LAST_ANSWER, answering.idle()).await;
    view.stopped(ended.signal).await;
    journal.flush();
    Ok(if ended.clean { ExitCode::SUCCESS } else { ExitCode::from(CUT) })
}

async fn until_the_end(
    scope: &Scope,
    listening: &Scope,
    signals: &mut StopSignals,
    daemon: &Arc<Daemon>,
) -> runtime::shutdown::Outcome {
    let mut ending = daemon.ending.subscribe();
    let told = async {
        // The sender lives as long as the daemon.
        let taken_over = ending.wait_for(Option::is_some).await.is_ok_and(|why| *why == Some(Ending::TakenOver));
        if taken_over {
            // From here on, so that what was announced is taken back whatever happens.
            let leaving = Leaving::new(&daemon.place.runtime);
            // Whoever was accepted last is connected before forwards take nothing new.
            listening.drain();
            daemon.stop_answering();
            settle(daemon).await;
            // Nobody waits for its end: what takes its time to be closed has it.
            scope.linger();
            // Its phases begin only when it carries nothing more: nobody waits for its end.
            daemon.journal.note("stopping", "another process has taken over", &Value::Null);
            lock(&daemon.running).stop();
            scope.drain();
            tokio::select! {
                biased;
                () = scope.idle() => {}
                () = say_what_stays(daemon, leaving) => {}
                () = tokio::time::sleep(LINGER) => {}
            }
        }
    };
    let mut cut = Vec::new();
    let on_phase = |phase| {
        daemon.end.enter(phase);
        if phase == Phase::StopAccepting {
            // Whatever it was told before, somebody waits for its end now.
            scope.hasten();
            lock(&daemon.running).stop();
            // A signal leads here without asking: a successor that is being started is told to go.
            if daemon.end(Ending::Asked) || !daemon.was_taken_over() {
                daemon.notify.stopping();
                daemon.journal.note("stopping", "the daemon ends", &Value::Null);
            } else {
                daemon.journal.note("stopping", "what a process that was replaced still carries ends", &Value::Null);
            }
        }
        // A second signal leads past the cancelling.
        if phase == Phase::Cancelling || phase == Phase::Aborting && cut.is_empty() {
            let left: Vec<String> = scope.running().iter().map(|(name, count)| format!("{count} × {name}")).collect();
            cut = in_use(&lock(&daemon.running));
            let what = if cut.is_empty() { &left } else { &cut };
            let text = format!("not finished in time, cancelling: {}", what.join(", "));
            daemon.journal.note("cancelling", &text, &json!({ "entrances": cut, "tasks": left }));
        }
    };
    let times = || daemon.end.times();
    let ended = runtime::shutdown::run_for(scope, listening, times, signals, told, on_phase).await;
    let left: Vec<String> = ended.left.iter().map(|(name, count)| format!("{count} × {name}")).collect();
    let left = if cut.is_empty() { left } else { cut };
    let text = if left.is_empty() {
        format!("ended in {} ms", ended.took.as_millis())
    } else {
        format!("ended in {} ms, cut off: {}", ended.took.as_millis(), left.join(", "))
    };
    let took = u64::try_from(ended.took.as_millis()).unwrap_or(u64::MAX);
    let details = json!({ "clean": ended.clean, "took_ms": took, "pid": std::process::id(), "cut": left });
    daemon.journal.note("ended", &text, &details);
    ended
}

/// Waits until whoever was accepted has reached its target, as far as that is to be had.
async fn settle(daemon: &Daemon) {
    let begun = tokio::time::Instant::now();
    tokio::time::sleep(SETTLE).await;
    let reached = async {
        loop {
            // Before it is looked: what changes after that is told.
            let mut news = lock(&daemon.running).news();
            if !lock(&daemon.running).awaits_a_target() {
                return;
            }
            let _ = tokio::time::timeout(REACH_LOOK, pulse::any(&mut news)).await;
            // The target is there before those are that waited for it.
            tokio::time::sleep(SETTLE).await;
        }
    };
    let _ = tokio::time::timeout_at(begun + REACH, reached).await;
}

/// Says what is still carried here, for the process that is the daemon now.
async fn say_what_stays(daemon: &Daemon, mut leaving: Leaving) {
    loop {
        leaving.tell(in_use(&lock(&daemon.running)));
        tokio::time::sleep(leaving::LOOK).await;
    }
}

/// Reads the file again when it or a file it names has changed, and on SIGHUP.
fn reload_on_change(scope: &Scope, daemon: &Arc<Daemon>, watch: &Arc<FileWatch>) {
    let (mut changes, task_scope, daemon) = (watch.changes(), scope.clone(), Arc::downgrade(daemon));
    scope.spawn("reload", async move {
        loop {
            tokio::select! {
                biased;
                () = task_scope.drained() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            let Some(daemon) = daemon.upgrade() else { return };
            // A successor reads it, though this one still connects whom it has accepted.
            daemon.handed_over().await;
            let mut is_told = false;
            let takes_most = || {
                let looking = Arc::clone(&daemon);
                let look = move || thinned::takes_most(&looking.source, &looking.running);
                let looked = task_scope.spawn_blocking("reload", look);
                // Told before the wait that follows, once.
                let tells = !std::mem::replace(&mut is_told, true);
                let daemon = Arc::clone(&daemon);
                async move {
                    let takes_most = looked.await.unwrap_or(false);
                    if takes_most && tells {
                        daemon.journal.note("reload-waits", thinned::WAITS, &Value::Null);
                    }
                    takes_most
                }
            };
            if !thinned::settled(&task_scope, &mut changes, takes_most).await {
                return;
            }
            // A successor may have come meanwhile.
            daemon.handed_over().await;
            if daemon.ends() {
                return;
            }
            // It is told where it happens.
            let _ = daemon.reload().await;
        }
    });
}

/// SIGUSR1 reloads, SIGUSR2 writes a report into the log.
fn user_signals(scope: &Scope, daemon: &Arc<Daemon>) -> Result<(), Failure> {
    let mut users = runtime::signals::UserSignals::install().map_err(|error| internal(&error))?;
    let (until, daemon) = (scope.clone(), Arc::downgrade(daemon));
    scope.spawn("user signals", async move {
        loop {
            let second = tokio::select! {
                biased;
                () = until.drained() => return,
                second = users.next() => second,
            };
            let Some(daemon) = daemon.upgrade() else { return };
            if second {
                daemon.be_found().await;
                let Ok(report) = daemon.status(false).await else { continue };
                daemon.journal.note("report", &status::in_words(&report), &json!({ "report": report }));
            } else if !daemon.ends() {
                let _ = daemon.reload().await;
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_does_not_start_again_what_was_told_to_end() {
        let unit = include_str!("../../../../../../deploy/systemd/user/adit-daemon.service");
        assert!(
            unit.contains("Restart=on-failure") && unit.contains(&format!("\nSuccessExitStatus={CUT}\n")),
            "{unit}"
        );
    }

    #[test]
    fn every_exit_code_is_in_the_help() {
        use clap::CommandFactory as _;

        let help = crate::command::Arguments::command().render_long_help().to_string();
        let codes = Fault::ALL.map(adit_core::diagnose::exit_code);
        for code in codes.into_iter().chain([0, CUT, 130]) {
            assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{code} "))), "{code}: {help}");
        }
    }

    #[test]
    fn a_successor_of_a_daemon_without_a_file_waits_for_the_same_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("adit.yaml");
        assert!(source_at(path.clone(), false).read().is_err(), "a file that was there must be there");
        let source = source_at(path.clone(), true);
        assert!(source.read().is_ok() && source.has_no_file());
        std::fs::write(&path, "version: 1\nforwards: { web: { to: 1 } }\n").unwrap();
        let read = source.read().unwrap_or_else(|failure| panic!("{}", failure.text()));
        assert!(read.file.forward("web").is_some() && !source.has_no_file(), "and takes it");
    }

    #[test]
    fn a_lock_that_a_dead_process_still_holds_is_waited_for_and_no_other() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = PrivateDir::open(&temporary.path().join("run")).unwrap();
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        let held = ControlLock::take(&directory).unwrap();
        assert!(locked(&directory, || unreachable!("it lives")).is_err());
        let say = |pid: u32| std::fs::write(directory.path().join("daemon.lock"), format!("{pid}\n")).unwrap();
        say(dead.id());
        let mut looks = 0;
        assert!(locked(&directory, || looks += 1).is_err(), "it is never let go");
        assert_eq!(looks, RELEASED_LOOKS);
        let mut held = Some(held);
        assert!(locked(&directory, || drop(held.take())).is_ok());
    }
}
