//! `adit up`: what `adit.yaml` says, in the foreground: forwards, the gateway, published tunnels.

pub(super) mod daemon;
mod hangup;
mod outages;
mod publish;
mod pulse;
mod reasons;
mod running;
mod same_file;
mod source;
pub(super) mod table;
mod thinned;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use adit_core::diagnose::Fault;
use adit_core::shutdown::{Phase, PhaseTimes};
use clap::Args;
use runtime::network::Network;
use runtime::scope::Scope;
use runtime::signals::{StopSignal, StopSignals};
use runtime::watch::FileWatch;

use super::{Global, clock, files, on_runtime};
use crate::report::Failure;
use crate::terminal;
use running::Running;
use source::{Selection, Source};
use view::View;

/// What is looked for in the usual places.
const FILE: &str = "adit.yaml";

/// Run what adit.yaml says: forwards, the gateway, published tunnels.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit up                   ./adit.yaml, else ~/.config/adit/adit.yaml
  adit up postgres grafana  these forwards only
  adit up --tag database    the forwards with this tag
  adit up --config prod.yaml -o json

Without a file there is the gateway on port 8989, which reaches every service
of every context:
  http://SERVICE-PORT.svc.NAMESPACE.ns.CONTEXT.cx.k8s.localhost:8989
`adit config init` writes a file to begin with.

The file is watched. A change without mistakes takes effect at once, and what
it does not touch keeps its connections; a file with mistakes changes nothing.
SIGHUP reads it again, too; when the terminal is closed, it ends.")]
pub(super) struct UpArguments {
    /// Only these: names of forwards, keys of published tunnels, or the words gateway and publish
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Only forwards with one of these tags
    #[arg(short, long, value_name = "TAG")]
    tag: Vec<String>,
}

pub(super) fn run(global: &Global, arguments: UpArguments) -> Result<ExitCode, Failure> {
    global.start_logs(Some("warn"), false)?;
    let selection = Selection::new(arguments.names, arguments.tag);
    let source = match path(global) {
        Some(path) => Source::new(path, selection),
        None if selection.is_all() => {
            terminal::say(
                "there is no adit.yaml here or in ~/.config/adit: only the gateway runs; `adit config init` writes one",
            );
            Source::none_yet(FILE.into())
        }
        None => {
            let hint = "write one with `adit config init`, or name one with --config";
            return Err(Failure::new(Fault::Config, "there is no adit.yaml here or in ~/.config/adit", hint));
        }
    };
    let read = source.read()?;
    read.check_asks_for_something()?;
    on_runtime(None, serve(global, source, read))?
}

/// The file that is named, or the one in the usual places.
pub(in crate::command) fn path(global: &Global) -> Option<PathBuf> {
    let named = global.config.clone().or_else(|| std::env::var_os("ADIT_CONFIG").map(PathBuf::from));
    named.or_else(|| files::find(FILE))
}

async fn serve(global: &Global, source: Source, read: source::Read) -> Result<ExitCode, Failure> {
    runtime::socket::raise_descriptor_limit();
    let internal = |error: std::io::Error| Failure::new(Fault::Internal, error.to_string(), "");
    let mut signals = StopSignals::install().map_err(internal)?;
    let scope = Scope::root();
    let listening = scope.child();
    // Its handler first: whoever reads that something is ready may send a SIGHUP.
    let watch = Arc::new(FileWatch::start(read.files()).map_err(internal)?);
    let closed = hangup::listen(&scope, watch.trigger()).map_err(internal)?;
    let view = View::start(global).map_err(internal)?;
    let mut running = Running::new(&scope, &listening, Arc::clone(&view));
    match running.apply(&read) {
        Ok(_) => {}
        Err(failure) if source.has_no_file() => return Err(without_file(&failure)),
        Err(failure) => return Err(daemon::beside::explained(failure, read.path()).await),
    }
    if let Some(found) = running.kubeconfig() {
        view.kubeconfig(&found);
    }
    view.started(&running.snapshot());
    view.missing(&read.contexts.problems);
    running.mention_trust();
    let running = Arc::new(Mutex::new(running));
    reload_on_change(&scope, &running, source, &watch, &view);
    watch_clock(&scope, &running, &view);
    view.follow(&scope, &running);
    let on_phase = |phase| match phase {
        Phase::StopAccepting => lock(&running).stop(),
        Phase::Draining => view.finishing(&lock(&running).snapshot()),
        Phase::Running | Phase::Cancelling | Phase::Aborting | Phase::Done => {}
    };
    let outcome =
        runtime::shutdown::run(&scope, &listening, PhaseTimes::default(), &mut signals, closed.notified(), on_phase)
            .await;
    drop(watch);
    view.stopped(outcome.signal).await;
    Ok(if outcome.signal == Some(StopSignal::Interrupt) { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// Why the gateway alone does not start, for those who have written no file.
fn without_file(failure: &Failure) -> Failure {
    let Some(why) = failure.message().strip_prefix("gateway.listen: ") else { return failure.clone() };
    let other = failure.free_port().map_or_else(|| "PORT".to_owned(), |port| port.to_string());
    let hint = format!(
        "end that program, or take another port: `adit config init` writes {FILE}; `gateway: {{ listen: {other} }}` in it, \
         then `adit up` again"
    );
    Failure::new(failure.kind(), format!("the gateway cannot start: {why}"), hint)
}

/// Reads the file again when it or a file it names has changed, and on SIGHUP.
fn reload_on_change(
    scope: &Scope,
    running: &Arc<Mutex<Running>>,
    source: Source,
    watch: &Arc<FileWatch>,
    view: &Arc<View>,
) {
    let (mut changes, task_scope) = (watch.changes(), scope.clone());
    let (running, view, watch) = (Arc::clone(running), Arc::clone(view), Arc::downgrade(watch));
    let source = Arc::new(source);
    scope.spawn("reload", async move {
        loop {
            tokio::select! {
                biased;
                () = task_scope.drained() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            let takes_most = || {
                let (source, running) = (Arc::clone(&source), Arc::clone(&running));
                let looked = task_scope.spawn_blocking("reload", move || thinned::takes_most(&source, &running));
                async move { looked.await.unwrap_or(false) }
            };
            if !thinned::settled(&task_scope, &mut changes, takes_most).await {
                return;
            }
            // Reading files and binding ports may take a moment; the handle lets what it makes be driven here.
            let handle = tokio::runtime::Handle::current();
            let (source, running, watch) = (Arc::clone(&source), Arc::clone(&running), watch.clone());
            let reloaded = task_scope.spawn_blocking("reload", move || {
                let _inside = handle.enter();
                let read = source.read()?;
                let watch = |files| watch.upgrade().map(|watch| watch.set_files(files));
                let mut running = lock(&running);
                // Should it be refused for one of them, that one is mended without a change of the file.
                watch(read.files_until_taken(running.file()));
                if running.file() != &read.file {
                    read.check(running.file())?;
                }
                let change = running.apply(&read)?;
                watch(read.files());
                let snapshot = running.snapshot();
                Ok::<_, Failure>((change, snapshot, read))
            });
            match reloaded.await {
                Ok(Ok((change, snapshot, read))) => {
                    view.reloaded(&change);
                    view.exposed(&snapshot);
                    view.missing(&read.contexts.problems);
                }
                Ok(Err(failure)) => view.not_reloaded(&failure),
                Err(lost) => tracing::error!(%lost, "the reload was lost"),
            }
        }
    });
}

/// After a sleep of the machine everything is dialled anew: what was connected is gone, though nothing says so.
fn watch_clock(scope: &Scope, running: &Arc<Mutex<Running>>, view: &Arc<View>) {
    watch_machine(scope, running, view, || (Instant::now(), SystemTime::now()), Network::now);
}

/// The same by the clocks and the network that it is told of.
fn watch_machine(
    scope: &Scope,
    running: &Arc<Mutex<Running>>,
    view: &Arc<View>,
    now: impl Fn() -> (Instant, SystemTime) + Send + 'static,
    network: impl Fn() -> Network + Send + 'static,
) {
    let (task_scope, running, view) = (scope.clone(), Arc::downgrade(running), Arc::clone(view));
    scope.spawn("clock", async move {
        // A reload may hold it and wait for a task: that must not be one of this thread.
        let blocking = task_scope.clone();
        let wake = || {
            let Some(running) = running.upgrade() else { return };
            let waking = blocking.clone();
            blocking.spawn("wake", async move {
                // It fails only at the end of everything.
                let _ = waking.spawn_blocking("wake", move || lock(&running).wake()).await;
            });
        };
        let woke = |slept| {
            view.woke(slept);
            wake();
        };
        let moved = || {
            view.moved();
            wake();
        };
        tokio::join!(clock::watch(&task_scope, now, woke), clock::watch_network(&task_scope, network, moved));
    });
}

fn lock(running: &Mutex<Running>) -> std::sync::MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    /// What is in a file, at work, with a forward that always runs.
    fn at_work(scope: &Scope, directory: &std::path::Path) -> Arc<Mutex<Running>> {
        let file = directory.join("adit.yaml");
        std::fs::write(&file, "forwards: { web: { to: \"tcp://127.0.0.1:1\", listen: 0, start: always } }").unwrap();
        let read = Source::new(file, Selection::default()).read().unwrap();
        let mut running = Running::new(scope, &scope.child(), View::silent());
        running.apply(&read).unwrap();
        Arc::new(Mutex::new(running))
    }

    /// How often the forward was dialled, once it is ready by so many.
    async fn dialled(running: &Mutex<Running>, times: u64) {
        let forwards = lock(running).entrances().targets().forwards();
        let mut reports = forwards.get("web").unwrap().status();
        let ready = reports.wait_for(|report| report.is_ready() && report.status.attempt.number() == times);
        // Longer than either look takes to come round.
        tokio::time::timeout(Duration::from_secs(60), ready).await.expect("it is dialled").unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_of_the_machine_and_another_network_reach_the_forwards() {
        let (scope, directory) = (Scope::root(), tempfile::tempdir().unwrap());
        let running = at_work(&scope, directory.path());
        let (start, moved, slept) = (tokio::time::Instant::now(), Arc::new(AtomicBool::new(false)), Arc::default());
        let elsewhere = Arc::clone(&moved);
        let network = move || {
            let address = if elsewhere.load(Ordering::Relaxed) { [10, 0, 0, 2] } else { [192, 168, 1, 2] };
            Network::from_iter([std::net::IpAddr::from(address)])
        };
        let asleep: Arc<AtomicBool> = Arc::clone(&slept);
        let now = move || {
            let awake = start.elapsed();
            let hour = Duration::from_secs(if asleep.load(Ordering::Relaxed) { 3600 } else { 0 });
            (start.into_std() + awake, SystemTime::UNIX_EPOCH + awake + hour)
        };
        watch_machine(&scope, &running, &View::silent(), now, network);
        dialled(&running, 1).await;
        moved.store(true, Ordering::Relaxed);
        dialled(&running, 2).await;
        slept.store(true, Ordering::Relaxed);
        dialled(&running, 3).await;
        scope.abort();
    }

    #[test]
    fn a_taken_port_without_a_file_is_told_without_words_of_a_file_that_nobody_wrote() {
        let taken = "gateway.listen: port 8989 on 127.0.0.1 is taken by web (pid 7)";
        // Numbers of the hint are not all ports.
        let failure = Failure::new(Fault::Config, taken, "end pid 7, or use 8990, which is free");
        let told = without_file(&failure.clone().with_free_port(Some(8990)));
        assert_eq!(told.message(), "the gateway cannot start: port 8989 on 127.0.0.1 is taken by web (pid 7)");
        let hint = told.hint().unwrap();
        assert!(hint.contains("adit config init") && hint.contains("`gateway: { listen: 8990 }`"), "{hint}");
        assert!(without_file(&failure).hint().unwrap().contains("`gateway: { listen: PORT }`"), "none is free");
        let other = Failure::new(Fault::Config, "something else", "");
        assert_eq!(without_file(&other).text(), other.text());
    }
}
