//! Runs the forwards: waits until they are ready, accepts, carries, tells what happens, ends.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ::forward::{Clusters, Forward, ForwardOptions, ForwardReport, Lease};
use adit_core::diagnose::Fault;
use adit_core::shutdown::{Phase, PhaseTimes};
use runtime::connect::{Connect as _, ConnectError, with_wait};
use runtime::listener::BoundListener;
use runtime::scope::Scope;
use runtime::signals::{StopSignal, StopSignals};
use runtime::splice::{Cut, SpliceEnd, Unanswered, splice};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

use super::ForwardArguments;
use super::asked::{Asked, AskedPort};
use super::bind::{Held, Plan, unknown_port};
use super::child::Running;
use super::news::{News, Seen};
use super::show::{Ended, ReadyPort, Show};
use crate::command::Global;
use crate::command::clock;
use crate::report::{Failure, chain, failure};

/// The start is told about from here on, and then as often.
const PROGRESS: Duration = Duration::from_secs(1);

/// What all ports share.
struct Shared {
    asked: Asked,
    arguments: ForwardArguments,
    show: Show,
    started: Instant,
    scope: Scope,
    /// Whose tasks accept.
    listeners: Scope,
    /// Connections of local clients that are open.
    live: AtomicUsize,
    /// Failures were kept back, to be said later.
    kept_back: Notify,
}

/// How it ends without a signal.
enum End {
    Failed(Failure),
    /// The command has ended, with this code.
    Command(u8),
}

/// A port that takes connections.
struct Ready {
    index: usize,
    port: ReadyPort,
    report: Arc<ForwardReport>,
    /// Since the start of the program.
    took: Duration,
}

pub(super) async fn serve(
    global: &Global,
    arguments: ForwardArguments,
    asked: Asked,
    clusters: &Arc<Clusters>,
    held: Vec<Option<Held>>,
    started: Instant,
) -> Result<ExitCode, Failure> {
    runtime::socket::raise_descriptor_limit();
    let internal = |error: io::Error| Failure::new(Fault::Internal, error.to_string(), "");
    let signals = StopSignals::install().map_err(internal)?;
    let scope = Scope::root();
    let command = arguments.command.clone();
    let shared = Arc::new(Shared {
        show: Show::new(global, !command.is_empty()).map_err(internal)?,
        asked,
        arguments,
        started,
        listeners: scope.child(),
        scope: scope.clone(),
        live: AtomicUsize::new(0),
        kept_back: Notify::new(),
    });
    let forwards: Vec<Forward> = shared.asked.ports.iter().map(|port| shared.forward(clusters, port)).collect();
    let leases: Vec<Lease> = forwards.iter().map(Forward::lease).collect();
    let (told, ready) = mpsc::channel(forwards.len().max(1));
    for (index, (forward, held)) in forwards.iter().zip(held).enumerate() {
        if let Some(held) = &held {
            shared.show.listening(&shared.asked.label, &held.addresses(), held.instead_of);
        }
        let port = Port { index, forward: forward.clone(), shared: Arc::clone(&shared) };
        let told = told.clone();
        scope.spawn("a port", async move { port.run(held, told).await });
    }
    drop(told);
    watch_clock(&shared, &forwards);
    say_failures(&shared);
    let running = Running::default();
    let mut signals = if command.is_empty() { signals } else { running.signals(&scope, signals) };
    let end: Mutex<Option<End>> = Mutex::default();
    let stop = async {
        let reason = conduct(&shared, ready, &running, &command).await;
        *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        // Whoever still uses the ports of a command that has ended is not waited for.
        shared.scope.cancel();
    };
    let on_phase = |phase| match phase {
        Phase::StopAccepting => forwards.iter().for_each(Forward::stop),
        Phase::Draining => shared.show.finishing(shared.live.load(Ordering::Relaxed)),
        Phase::Aborting => shared.show.cutting(shared.live.load(Ordering::Relaxed)),
        Phase::Running | Phase::Cancelling | Phase::Done => {}
    };
    let outcome =
        runtime::shutdown::run(&scope, &shared.listeners, PhaseTimes::default(), &mut signals, stop, on_phase).await;
    drop(leases);
    let end = end.into_inner().unwrap_or_else(PoisonError::into_inner);
    let finished = finish(&shared.show, end, outcome.signal);
    shared.show.flush().await;
    finished
}

fn finish(show: &Show, end: Option<End>, signal: Option<StopSignal>) -> Result<ExitCode, Failure> {
    match (end, signal) {
        (Some(End::Failed(failure)), _) => {
            show.gave_up(&failure);
            Err(failure)
        }
        (Some(End::Command(code)), _) => {
            show.stopped(None, Some(code));
            Ok(ExitCode::from(code))
        }
        (None, signal) => {
            show.stopped(signal, None);
            let interrupted = signal == Some(StopSignal::Interrupt);
            Ok(if interrupted { ExitCode::from(130) } else { ExitCode::SUCCESS })
        }
    }
}

/// Waits until all ports are ready, then runs the command if there is one; without, for ever.
async fn conduct(
    shared: &Shared,
    mut ready: mpsc::Receiver<Result<Ready, Failure>>,
    running: &Running,
    command: &[OsString],
) -> End {
    let mut ports: Vec<ReadyPort> = Vec::new();
    let mut early: BTreeMap<usize, Ready> = BTreeMap::new();
    while ports.len() < shared.asked.ports.len() {
        match ready.recv().await {
            Some(Ok(port)) => early.insert(port.index, port),
            Some(Err(failure)) => return End::Failed(failure),
            // The tasks are gone: the end has begun.
            None => std::future::pending().await,
        };
        // In the order they were asked for: that is how a script tells ports apart that may be any.
        while let Some(next) = early.remove(&ports.len()) {
            shared.show.ready(&next.port, &next.report, next.took);
            ports.push(next.port);
        }
    }
    if command.is_empty() {
        return std::future::pending().await;
    }
    // The command's own lines come after these.
    shared.show.flush().await;
    running.hangups(&shared.scope);
    match running.run(command, &ports).await {
        Ok(code) => End::Command(code),
        Err(failure) => End::Failed(failure),
    }
}

impl Shared {
    fn forward(&self, clusters: &Arc<Clusters>, port: &AskedPort) -> Forward {
        let options = ForwardOptions {
            balance: self.arguments.balance,
            first_timeout: self.asked.patience,
            jump: self.asked.jump.clone(),
            ..ForwardOptions::default()
        };
        Forward::new(&self.scope, clusters, &self.asked.label, port.target.clone(), options)
    }
}

/// One port, from its start to its end.
struct Port {
    index: usize,
    forward: Forward,
    shared: Arc<Shared>,
}

impl Port {
    async fn run(self, held: Option<Held>, told: mpsc::Sender<Result<Ready, Failure>>) {
        let draining = self.shared.scope.clone();
        let started = tokio::select! {
            biased;
            () = draining.drained() => return,
            started = self.start(held) => started,
        };
        let report = started.as_ref().ok().map(|ready| Arc::clone(&ready.report));
        // There is room for one from each port.
        let _ = told.send(started).await;
        drop(told);
        if let Some(report) = report {
            self.follow(&report).await;
        }
    }

    async fn start(&self, held: Option<Held>) -> Result<Ready, Failure> {
        let shared = &self.shared;
        let asked = shared.asked.ports.get(self.index).expect("a task for each port that is asked for");
        let report = self.wait_ready().await.map_err(|error| failure(&error))?;
        let held = match held {
            Some(held) => held,
            None => self.hold(&report).await?,
        };
        let port = ReadyPort {
            label: shared.asked.label.clone(),
            addresses: held.addresses(),
            to: asked.shown(),
            remote: asked.remote.clone(),
            balanced: shared.arguments.balance,
        };
        for listener in held.listeners {
            self.accept(listener);
        }
        Ok(Ready { index: self.index, port, report, took: shared.started.elapsed() })
    }

    /// Binds a port whose number is known only now.
    async fn hold(&self, report: &ForwardReport) -> Result<Held, Failure> {
        let shared = Arc::clone(&self.shared);
        // As kubectl: a service's own port where one was asked for.
        let number = report
            .service_port
            .or(report.remote_port)
            .ok_or_else(|| unknown_port(&shared.asked, &shared.arguments, self.index))?;
        let index = self.index;
        // It may ask a question.
        let held = self
            .shared
            .scope
            .spawn_blocking("bind a port", move || Plan::of(&shared.arguments).hold(&shared.asked, index, number));
        let held = held.await.map_err(|error| Failure::new(Fault::Internal, error.to_string(), ""))??;
        self.shared.show.listening(&self.shared.asked.label, &held.addresses(), held.instead_of);
        Ok(held)
    }

    async fn wait_ready(&self) -> Result<Arc<ForwardReport>, ::forward::ForwardError> {
        let start = tokio::time::Instant::now();
        let mut progress = tokio::time::interval_at(start + PROGRESS, PROGRESS);
        let status = self.forward.status();
        let ready = self.forward.ready();
        tokio::pin!(ready);
        loop {
            tokio::select! {
                biased;
                result = &mut ready => return result,
                _ = progress.tick() => {
                    let seen = Seen::of(&status.borrow());
                    if let Some(text) = seen.waiting.or(seen.cause) {
                        let Shared { show, asked, .. } = &*self.shared;
                        show.waiting(&asked.label, &text, start.elapsed(), asked.patience);
                    }
                }
            }
        }
    }

    fn accept(&self, listener: BoundListener) {
        let local = listener.local_addr();
        let (forward, shared) = (self.forward.clone(), Arc::clone(&self.shared));
        let until = self.shared.listeners.clone();
        self.shared.listeners.spawn("accept", async move {
            let accepted = listener.accept_loop(until, |stream, peer| {
                let connection = Connection { port: local.port(), peer, shared: Arc::clone(&shared) };
                let forward = forward.clone();
                shared.scope.spawn("a connection", async move { connection.carry(stream, &forward).await });
            });
            if let Err(error) = accepted.await {
                tracing::error!(%error, %local, "cannot accept connections");
            }
        });
    }

    /// Tells what happens to the target, until the end.
    async fn follow(&self, first: &ForwardReport) {
        let shared = &self.shared;
        let mut news = News::new(first.pod.clone(), shared.arguments.balance);
        let mut status = self.forward.status();
        loop {
            let due = async {
                match news.next() {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let item = tokio::select! {
                biased;
                () = shared.scope.drained() => return,
                changed = status.changed() => match changed {
                    Ok(()) => {
                        let seen = Seen::of(&status.borrow_and_update());
                        news.take(seen, Instant::now())
                    }
                    Err(_) => return,
                },
                () = due => news.due(Instant::now()),
            };
            if let Some(item) = item {
                shared.show.news(&shared.asked.label, &item);
            }
        }
    }
}

/// One connection of a local client.
struct Connection {
    port: u16,
    peer: SocketAddr,
    shared: Arc<Shared>,
}

impl Connection {
    async fn carry(&self, stream: TcpStream, forward: &Forward) {
        let show = &self.shared.show;
        let _live = Live::count(&self.shared.live);
        show.opened(self.port, self.peer);
        let opened = Instant::now();
        let stream = Unanswered::new(stream);
        let carried = self.shared.scope.until_cancelled(async {
            match forward.connect().await {
                Ok(io) => {
                    let SpliceEnd { inward, outward, cut } = splice(stream.into_inner(), io).await;
                    (inward, outward, cut)
                }
                Err(error) => (0, 0, Some(Cut::Target(io::Error::other(reason(&error))))),
            }
        });
        let Some((up, down, cut)) = carried.await else { return };
        if let Some(Cut::Target(error)) = &cut
            && show.failed(self.port, &error.to_string()).is_some()
        {
            self.shared.kept_back.notify_one();
        }
        let error = cut.map(|(Cut::Client(error) | Cut::Target(error))| error.to_string());
        show.closed(&Ended { port: self.port, peer: self.peer, up, down, took: opened.elapsed(), error });
    }
}

/// Counts a connection as long as it lives, also when its task is dropped.
struct Live<'a>(&'a AtomicUsize);

impl<'a> Live<'a> {
    fn count(live: &'a AtomicUsize) -> Self {
        live.fetch_add(1, Ordering::Relaxed);
        Self(live)
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why no stream could be opened; the line it stands in says where.
fn reason(error: &ConnectError) -> String {
    match error {
        ConnectError::Unavailable { reason, .. } | ConnectError::Missing { reason, .. } => reason.clone(),
        ConnectError::NotReady { reason, after, .. } => with_wait(reason, *after),
        error => chain(error),
    }
}

/// Says what was kept back of failures, as long as there is something.
fn say_failures(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    shared.scope.clone().spawn("failures", async move {
        loop {
            tokio::select! {
                biased;
                () = shared.scope.drained() => return,
                () = shared.kept_back.notified() => {}
            }
            while let Some(at) = shared.show.failures_due() {
                tokio::select! {
                    biased;
                    () = shared.scope.drained() => return,
                    () = tokio::time::sleep_until(at.into()) => {}
                }
            }
        }
    });
}

/// After the machine slept everything is dialled anew.
fn watch_clock(shared: &Arc<Shared>, forwards: &[Forward]) {
    let (shared, forwards) = (Arc::clone(shared), forwards.to_vec());
    shared.scope.clone().spawn("the clock", async move {
        let woke = |slept| {
            shared.show.woke(slept);
            forwards.iter().for_each(Forward::wake);
        };
        let moved = || {
            tracing::info!("this machine is in another network: dialling anew");
            forwards.iter().for_each(Forward::wake);
        };
        tokio::join!(
            clock::watch(&shared.scope, || (Instant::now(), SystemTime::now()), woke),
            clock::watch_network(&shared.scope, runtime::network::Network::now, moved),
        );
    });
}
