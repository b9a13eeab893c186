//! Forwards: the machine of `adit-core` with its driver, and the handles that use it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use adit_core::backoff::BackoffSettings;
use adit_core::config::forwards::{HealthConfig, LimitsConfig};
use adit_core::forward::{ForwardAction, ForwardInput, ForwardSettings, ForwardState, ForwardStatus, Start};
use adit_core::target::Target;
use runtime::Scope;
use runtime::connect::{BoxFuture, Connect, ConnectError, Io};
use runtime::listener::{ConnectionLimit, ConnectionPermit};
use tokio::sync::{Notify, watch};

use crate::clusters::Clusters;
use crate::error::ForwardError;
use crate::k8s::target::KubeStatus;
use crate::reach::Reach;
use crate::report::{ForwardReport, HealthReport, LastTrouble};
use crate::session::{JumpOptions, Session, SessionOptions};

mod counted;
mod driver;
mod health;
mod limited;

use counted::Counted;
use driver::Driver;
use limited::Rate;

/// kubectl's `--pod-running-timeout`.
const FIRST_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a connection waits for a pod once the forward has worked.
const LATER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection waits for an SSH server, counted from when that was first not to be reached; and how long one that
/// comes later, so that it sees one more try.
const DOWN_TIMEOUT: Duration = Duration::from_secs(10);
const DOWN_LATER_TIMEOUT: Duration = Duration::from_secs(2);
/// An API server that was away is found this soon after its return: a connection that waits must not give up first.
const RETRY_AT_LEAST_EVERY: Duration = Duration::from_secs(2);

/// How a forward behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardOptions {
    /// When it starts, how long it idles, how it backs off.
    pub settings: ForwardSettings,
    /// Each connection to another ready pod, instead of all to one.
    pub balance: bool,
    /// How long [`Forward::ready`] waits at most.
    pub first_timeout: Duration,
    /// How long a connection waits at most.
    pub later_timeout: Duration,
    /// How long it waits once it is known that there is no way to the API server, while the forward has not worked.
    pub unreached_timeout: Duration,
    /// The same once it has worked: then the API server is probably only started again.
    pub unreached_again_timeout: Duration,
    /// For jumps.
    pub jump: JumpOptions,
    /// How it is probed while it is ready, if at all.
    pub health: Option<HealthConfig>,
    /// What it carries at most.
    pub limits: LimitsConfig,
}

impl Default for ForwardOptions {
    fn default() -> Self {
        Self {
            settings: ForwardSettings {
                start: Start::Always,
                idle_timeout: None,
                backoff: BackoffSettings { cap: RETRY_AT_LEAST_EVERY, ..BackoffSettings::default() },
                ..ForwardSettings::default()
            },
            balance: false,
            first_timeout: FIRST_TIMEOUT,
            later_timeout: LATER_TIMEOUT,
            unreached_timeout: LATER_TIMEOUT,
            unreached_again_timeout: LATER_TIMEOUT,
            jump: JumpOptions::default(),
            health: None,
            limits: LimitsConfig::default(),
        }
    }
}

/// A named path to a target; cloning gives another handle. With the last one it takes nothing new, and ends when what
/// it carries has ended.
#[derive(Clone)]
pub struct Forward {
    shared: Arc<Shared>,
    _handles: Arc<Handles>,
    /// How long connections by this handle wait.
    waiting: Waiting,
}

/// How long a connection waits once it is known that there is no way to the API server.
#[derive(Clone, Copy)]
enum Waiting {
    /// As the options say.
    AsSet,
    /// As long as for anything else.
    Long,
}

/// Told when the last handle is dropped.
struct Handles {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    name: String,
    target: Target,
    options: ForwardOptions,
    machine: Mutex<Machine>,
    /// Wakes the driver when the machine wants something done.
    work: Notify,
    report: watch::Sender<Arc<ForwardReport>>,
    /// What streams are opened with while the machine is ready.
    session: watch::Sender<Option<Arc<Session>>>,
    /// The session whatever the state: it follows its target while nothing can be opened, too.
    kept: Mutex<Weak<Session>>,
    /// What it shares the way to its target with, as of its last dial.
    reach: Mutex<Option<Arc<Reach>>>,
    /// Why it failed, in full; the machine keeps the text only.
    error: Mutex<Option<ForwardError>>,
    /// What probes say, when it is probed.
    health: Mutex<Option<HealthReport>>,
    /// What went wrong last.
    last_error: Mutex<Option<LastTrouble>>,
    /// Streams that there may be, and the rate of all of them.
    places: Option<ConnectionLimit>,
    rate: Option<Arc<Rate>>,
    /// No handle is left: nobody can ask for it any more.
    abandoned: AtomicBool,
    /// How often it was stopped: whoever waits for it from before that waits in vain.
    stops: AtomicU64,
    /// The driver is gone: nothing will change any more.
    ended: AtomicBool,
}

/// The machine and what it wants done.
pub(crate) struct Machine {
    machine: adit_core::forward::Forward,
    actions: VecDeque<ForwardAction>,
}

/// The permission to use a forward: while one lives, the forward is started and kept.
pub struct Lease {
    shared: Arc<Shared>,
}

impl Forward {
    /// A forward that is driven by a task in `scope` and ends with it.
    #[must_use]
    pub fn new(scope: &Scope, clusters: &Arc<Clusters>, name: &str, target: Target, options: ForwardOptions) -> Self {
        if let Target::Ssh(target) = &target {
            clusters.ssh().look_again(&target.server);
        }
        let machine = adit_core::forward::Forward::new(options.settings, Instant::now());
        Self::driven(scope, clusters, name, target, options, machine)
    }

    /// The same, but nothing is done until a lease is taken or a stream is opened, also when it always runs.
    #[must_use]
    pub(crate) fn at_rest(
        scope: &Scope,
        clusters: &Arc<Clusters>,
        name: &str,
        target: Target,
        options: ForwardOptions,
    ) -> Self {
        let machine = adit_core::forward::Forward::at_rest(options.settings, Instant::now());
        Self::driven(scope, clusters, name, target, options, machine)
    }

    fn driven(
        scope: &Scope,
        clusters: &Arc<Clusters>,
        name: &str,
        target: Target,
        options: ForwardOptions,
        machine: adit_core::forward::Forward,
    ) -> Self {
        let report = ForwardReport {
            name: name.to_owned(),
            target: target.to_string(),
            status: machine.status(),
            context: None,
            namespace: None,
            pod: None,
            remote_port: None,
            service_port: None,
            pods: 0,
            declared: Vec::new(),
            transport: None,
            waiting_for: None,
            shared_trouble: None,
            ready_since: None,
            carried: false,
            restarts: 0,
            outages: 0,
            outage_time: Duration::ZERO,
            lost_since: None,
            took: None,
            health: options.health.as_ref().map(|_| HealthReport::unknown()),
            held_until: None,
            last_error: None,
        };
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            target,
            health: Mutex::new(report.health.clone()),
            places: options.limits.connections.map(|most| ConnectionLimit::new(most as usize)),
            rate: options.limits.bytes_per_second.map(Rate::new),
            options,
            machine: Mutex::new(Machine { machine, actions: VecDeque::new() }),
            work: Notify::new(),
            report: watch::Sender::new(Arc::new(report)),
            session: watch::Sender::new(None),
            kept: Mutex::default(),
            reach: Mutex::default(),
            error: Mutex::default(),
            last_error: Mutex::default(),
            abandoned: AtomicBool::new(false),
            stops: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let driver = Driver::new(Arc::clone(&shared), Arc::clone(clusters), scope.clone());
        scope.spawn("forward", driver.run());
        if let Some(config) = shared.options.health.clone() {
            scope.spawn("probes of a forward", health::run(Arc::clone(&shared), config, scope.clone()));
        }
        let handles = Arc::new(Handles { shared: Arc::clone(&shared) });
        Self { shared, _handles: handles, waiting: Waiting::AsSet }
    }

    /// Another handle, whose connections wait for the API server as long as for anything else: for clients that give up
    /// for good where a browser would be told to try again.
    #[must_use]
    pub fn patient(&self) -> Self {
        Self { waiting: Waiting::Long, ..self.clone() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// How it is now, streams counted.
    #[must_use]
    pub fn report(&self) -> ForwardReport {
        let known = Arc::clone(&self.shared.report.borrow());
        let (status, health, last_error) =
            (self.shared.machine_status(), self.shared.health(), self.shared.last_error());
        let held_until = self.shared.kept_session().and_then(|session| session.held_until());
        ForwardReport { status, health, held_until, last_error, ..(*known).clone() }
    }

    /// What to do about why it is not ready.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        if self.shared.report.borrow().is_ready() {
            return None;
        }
        // What is waited for now goes before what the last attempt failed with.
        let waited = self.shared.target_status().map(|status| status.borrow().clone());
        if let Some(KubeStatus { waiting: Some(_), hint: Some(hint), .. }) = waited {
            return Some(hint);
        }
        let known = self.shared.error.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().and_then(adit_core::diagnose::Diagnose::hint)
    }

    /// How it is, as it changes; streams that come and go are no change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<ForwardReport>> {
        self.shared.report.subscribe()
    }

    /// Starts it and waits until it is ready: for the first time-out, or until waiting is of no use.
    ///
    /// # Errors
    /// [`ForwardError`], with what was waited for.
    pub async fn ready(&self) -> Result<Arc<ForwardReport>, ForwardError> {
        let _lease = self.lease();
        let after = self.shared.options.first_timeout;
        match tokio::time::timeout(after, self.shared.wait_ready()).await {
            Ok(result) => result,
            Err(_) => {
                let report = self.shared.report.borrow();
                let reason = report.waiting_for.clone().or_else(|| report.status.reason.as_deref().map(str::to_owned));
                let reason = reason.unwrap_or_else(|| "no answer".into());
                Err(ForwardError::Timeout { name: self.shared.name.clone(), after, reason })
            }
        }
    }

    /// Asks for it; it is kept until the lease is dropped.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease::new(&self.shared)
    }

    /// Whether both are handles of the same forward.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The machine slept, or its network changed: everything is dialled anew.
    pub fn wake(&self) {
        if let Some(session) = self.shared.kept_session() {
            session.wake();
        }
        if let Some(reach) = &*self.shared.reach.lock().unwrap_or_else(PoisonError::into_inner) {
            reach.wake();
        }
        self.shared.tell(ForwardInput::Wake);
    }

    /// The file was read anew: what a person had to do about a server's key may be done, and is not waited for any longer.
    pub(crate) fn look_again(&self) {
        let is_key = {
            let known = self.shared.error.lock().unwrap_or_else(PoisonError::into_inner);
            matches!(&*known, Some(ForwardError::Ssh(error)) if error.is_host_key())
        };
        if is_key {
            self.shared.tell(ForwardInput::Wake);
        }
    }

    /// Takes nothing new; what is live finishes.
    pub fn stop(&self) {
        self.shared.stops.fetch_add(1, Ordering::AcqRel);
        self.shared.tell(ForwardInput::Stop);
        // Those who wait count as streams: the drain would wait for them, and they for a start.
        self.shared.report.send_modify(|_| {});
    }
}

impl Connect for Forward {
    fn connect(&self) -> BoxFuture<'_, Result<Io, ConnectError>> {
        Box::pin(self.shared.connect(self.waiting))
    }

    fn describe(&self) -> String {
        self.shared.target.to_string()
    }
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Forward({} → {})", self.shared.name, self.shared.target)
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.shared.abandoned.store(true, Ordering::Release);
        self.shared.tell(ForwardInput::Stop);
        self.shared.work.notify_one();
    }
}

impl Lease {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.tell(ForwardInput::LeaseTaken);
        Self { shared: Arc::clone(shared) }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.shared.name)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.tell(ForwardInput::LeaseDropped);
    }
}

impl Machine {
    fn collect(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            self.actions.push_back(action);
        }
    }
}

impl Shared {
    pub(crate) fn session_options(&self) -> SessionOptions {
        SessionOptions {
            balance: self.options.balance,
            patience: self.options.later_timeout,
            jump: self.options.jump.clone(),
        }
    }

    /// Passes something on to the machine; the driver is woken only if that leaves something to do.
    pub(crate) fn tell(&self, input: ForwardInput) {
        let mut core = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (core.machine.poll_timeout(), core.machine.state());
        core.machine.handle_input(Instant::now(), input, rand::random());
        core.collect();
        let due = !core.actions.is_empty() || (core.machine.poll_timeout(), core.machine.state()) != before;
        drop(core);
        if due {
            self.work.notify_one();
        }
    }

    /// What there is to do, and when to look again.
    pub(crate) fn turn(&self) -> (VecDeque<ForwardAction>, Option<Instant>) {
        let mut core = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        core.machine.handle_timeout(Instant::now());
        core.collect();
        (std::mem::take(&mut core.actions), core.machine.poll_timeout())
    }

    pub(crate) fn machine_status(&self) -> ForwardStatus {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).machine.status()
    }

    /// What probes say now.
    pub(crate) fn health(&self) -> Option<HealthReport> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What went wrong last.
    pub(crate) fn last_error(&self) -> Option<LastTrouble> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Something went wrong.
    pub(crate) fn note_error(&self, text: String) {
        let last = LastTrouble { at: SystemTime::now(), text };
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
    }

    async fn wait_ready(&self) -> Result<Arc<ForwardReport>, ForwardError> {
        let mut reports = self.report.subscribe();
        loop {
            let report = Arc::clone(&reports.borrow_and_update());
            if report.status.state == ForwardState::Ready {
                return Ok(report);
            }
            if self.has_failed() {
                return Err(self.failure(&report));
            }
            if self.ended.load(Ordering::Acquire) {
                return Err(ForwardError::Stopped { name: self.name.clone() });
            }
            if reports.changed().await.is_err() {
                return Err(ForwardError::Stopped { name: self.name.clone() });
            }
        }
    }

    /// Whether it has failed and was not started again: the report of that comes later.
    fn has_failed(&self) -> bool {
        self.machine_status().state == ForwardState::Failed
    }

    /// Whether it waits for a person to do something: nobody is made to wait with it.
    fn waits_for_a_person(&self) -> bool {
        let is_asked_for = || {
            let known = self.error.lock().unwrap_or_else(PoisonError::into_inner);
            known.as_ref().is_some_and(ForwardError::is_for_a_person)
        };
        self.machine_status().state == ForwardState::Backoff && is_asked_for()
    }

    fn failure(&self, report: &ForwardReport) -> ForwardError {
        let known = self.error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.unwrap_or_else(|| ForwardError::NoTarget {
            message: report.status.reason.as_deref().unwrap_or("it failed").to_owned(),
            fault: adit_core::diagnose::Fault::Upstream,
            hint: None,
            missing: None,
            shared: report.status.shared.clone(),
        })
    }

    async fn connect(self: &Arc<Self>, waiting: Waiting) -> Result<Io, ConnectError> {
        self.open(waiting).await.inspect_err(|error| self.note_error(crate::error::chain(error)))
    }

    async fn open(self: &Arc<Self>, waiting: Waiting) -> Result<Io, ConnectError> {
        let place = self.place()?;
        // Counted from here on, so that it is not stopped while the stream is opened.
        let count = Counted::begin(self, place);
        let session = self.running(waiting).await?;
        let io = session.open(self.unreached(waiting)).await?;
        Ok(count.carry(io))
    }

    /// How long a connection waits once it is known that there is no way to the API server.
    fn unreached(&self, waiting: Waiting) -> Duration {
        match waiting {
            Waiting::Long => self.options.later_timeout,
            Waiting::AsSet if self.report.borrow().carried => self.options.unreached_again_timeout,
            Waiting::AsSet => self.options.unreached_timeout,
        }
    }

    /// A place for one more stream; they are not waited for.
    fn place(&self) -> Result<Option<ConnectionPermit>, ConnectError> {
        let Some(places) = &self.places else { return Ok(None) };
        places.try_acquire().map(Some).ok_or_else(|| {
            if let Some(session) = &*self.session.borrow() {
                session.doubt();
            }
            ConnectError::Full { target: self.target.to_string(), most: places.max() }
        })
    }

    /// The session, once the machine is ready; waits for the later time-out at most.
    async fn running(&self, waiting: Waiting) -> Result<Arc<Session>, ConnectError> {
        if let Some(session) = &*self.session.borrow() {
            return Ok(Arc::clone(session));
        }
        let (after, stops) = (self.options.later_timeout, self.stops.load(Ordering::Acquire));
        let begun = Instant::now();
        let unavailable =
            |reason: String, hint| ConnectError::Unavailable { target: self.target.to_string(), reason, hint };
        let waited = tokio::time::timeout(after, async {
            let mut sessions = self.session.subscribe();
            let mut reports = self.report.subscribe();
            let mut unreached_since = None;
            loop {
                if let Some(session) = sessions.borrow_and_update().clone() {
                    return Ok(session);
                }
                reports.mark_unchanged();
                let mut target = self.target_status();
                let unreached = target.as_mut().and_then(|status| status.borrow_and_update().unreached.clone());
                let give_up = unreached
                    .as_ref()
                    .map(|_| *unreached_since.get_or_insert_with(Instant::now) + self.unreached(waiting));
                if unreached.is_none() {
                    unreached_since = None;
                }
                if self.ended.load(Ordering::Acquire) || self.stops.load(Ordering::Acquire) != stops {
                    return Err(unavailable("it was stopped".into(), None));
                }
                if self.has_failed() || self.waits_for_a_person() {
                    let report = Arc::clone(&self.report.borrow());
                    return Err(self.failure(&report).into_connect(self.target.to_string()));
                }
                tokio::select! {
                    biased;
                    changed = sessions.changed() => changed,
                    changed = reports.changed() => changed,
                    () = changed(&mut target) => Ok(()),
                    () = until(self.until_down(begun)) => return Err(self.not_ready(begun.elapsed())),
                    () = until(give_up) => match unreached {
                        Some(unreached) => {
                            return Err(unreached.into_connect(self.target.to_string(), begun.elapsed()));
                        }
                        None => Ok(()),
                    },
                }
                .map_err(|_| unavailable("it was stopped".into(), None))?;
            }
        });
        match waited.await {
            Ok(result) => result,
            Err(_) => Err(self.not_ready(after)),
        }
    }

    /// What is known of the target, also while nothing can be opened.
    fn target_status(&self) -> Option<watch::Receiver<KubeStatus>> {
        Some(self.kept_session()?.status())
    }

    fn kept_session(&self) -> Option<Arc<Session>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// Until when a connection that came at a time waits for a server that is known to be away.
    fn until_down(&self, begun: Instant) -> Option<Instant> {
        let since = self.kept_session()?.down_since()?;
        Some((since + DOWN_TIMEOUT).max(begun + DOWN_LATER_TIMEOUT))
    }

    /// That it took too long, with what was waited for.
    fn not_ready(&self, after: Duration) -> ConnectError {
        let report = self.report.borrow();
        let reason = report.waiting_for.clone().or_else(|| report.status.reason.as_deref().map(str::to_owned));
        let reason = reason.unwrap_or_else(|| "it takes long to start".into());
        let hint = self.target_status().and_then(|status| status.borrow().hint.clone());
        ConnectError::NotReady { target: self.target.to_string(), after, reason, hint }
    }
}

/// Waits for news; where there are none to come, for ever.
async fn changed(status: &mut Option<watch::Receiver<KubeStatus>>) {
    if let Some(status) = status
        && status.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
