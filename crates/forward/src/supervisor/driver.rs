//! Does what the machine of one forward says.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use adit_core::forward::{Attempt, ForwardAction, ForwardInput, ForwardState, Reason, Trouble};
use adit_core::target::Target;
use runtime::Scope;
use runtime::connect::BoxFuture;
use tokio::sync::watch;

use super::{Shared, changed, until};
use crate::clusters::Clusters;
use crate::error::ForwardError;
use crate::k8s::target::KubeStatus;
use crate::reach::Reach;
use crate::report::{ForwardReport, HealthReport};
use crate::session::{Place, Session};

/// A start that takes longer is explained.
const SLOW_START: Duration = Duration::from_secs(1);

/// How long one forward alone may dial for all.
const TURN: Duration = Duration::from_secs(2);

/// What came of the work under way.
enum Outcome {
    /// The session is there and has a target.
    Resolved(Attempt, Arc<Session>, Place),
    ResolveFailed(Attempt, ForwardError),
    Connected(Attempt),
    ConnectFailed(Attempt, ForwardError),
    /// What waited for a person may be seen to.
    SeenTo,
    Lost(Attempt, Reason),
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    clusters: Arc<Clusters>,
    scope: Scope,
    /// Kept from one attempt to the next: its watches go on.
    session: Option<(Arc<Session>, Place)>,
    status: Option<watch::Receiver<KubeStatus>>,
    /// The one thing that is under way: resolving, connecting, or waiting for a loss.
    work: Option<BoxFuture<'static, Outcome>>,
    /// Since when it is ready, while it is.
    ready_since: Option<Instant>,
    /// Whether it ever was.
    worked: bool,
    /// Whether it was since it was last asked for: then it is not started, but started again.
    carried: bool,
    /// Whether there was an attempt since it was last asked for, and how many more of them there were in all.
    tried: bool,
    /// The last attempt failed because what it shares with others is away: the next one goes on with it.
    goes_on: bool,
    restarts: u64,
    /// How often it was lost, for how long, and since when it is.
    outages: u64,
    outage_time: Duration,
    lost_since: Option<Instant>,
    /// Since when it is being started.
    asked: Option<Instant>,
    took: Option<Duration>,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, clusters: Arc<Clusters>, scope: Scope) -> Self {
        Self {
            shared,
            clusters,
            scope,
            session: None,
            status: None,
            work: None,
            ready_since: None,
            worked: false,
            carried: false,
            tried: false,
            goes_on: false,
            restarts: 0,
            outages: 0,
            outage_time: Duration::ZERO,
            lost_since: None,
            asked: None,
            took: None,
        }
    }

    /// Runs until the scope drains, or nobody has a handle and nothing runs any more.
    pub(super) async fn run(mut self) {
        let drained = self.scope.clone();
        let drained = drained.drained();
        tokio::pin!(drained);
        loop {
            let (actions, due) = self.shared.turn();
            let acted = !actions.is_empty();
            for action in actions {
                self.act(action);
            }
            if acted {
                continue;
            }
            self.publish();
            if self.shared.abandoned.load(Ordering::Acquire) && self.shared.machine_status().state == ForwardState::Idle
            {
                break;
            }
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                biased;
                // 1. The end: what runs finishes with its own tasks.
                () = &mut drained => break,
                // 2. What callers want.
                () = shared.work.notified() => {}
                // 3. What came of the work.
                outcome = under_way(&mut self.work) => {
                    self.work = None;
                    self.came_of(outcome);
                }
                // 4. News of the target.
                () = changed(&mut self.status) => self.note_status(),
                // 5. A deadline.
                () = until(due) => {}
            }
        }
    }

    fn act(&mut self, action: ForwardAction) {
        match action {
            ForwardAction::Resolve { attempt } => {
                self.asked.get_or_insert_with(Instant::now);
                self.ready_since = None;
                self.restarts += u64::from(self.tried && !self.goes_on);
                (self.tried, self.goes_on) = (true, false);
                self.shared.session.send_replace(None);
                self.work = Some(self.resolve(attempt));
            }
            ForwardAction::Connect { attempt } => {
                if let Some((session, _)) = &self.session {
                    let (session, reach) = (Arc::clone(session), self.clusters.reach(&self.shared.target));
                    self.shared.reach.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&reach);
                    self.work = Some(Box::pin(async move {
                        match ready(&session, reach).await {
                            Ok(()) => Outcome::Connected(attempt),
                            Err(error) => Outcome::ConnectFailed(attempt, error),
                        }
                    }));
                }
            }
            ForwardAction::Cancel { .. } => self.work = None,
            ForwardAction::Retire { .. } => {
                self.work = None;
                self.ready_since = None;
                self.shared.session.send_replace(None);
            }
            ForwardAction::Disconnect { .. } => self.rest(),
            ForwardAction::Drain => {
                self.rest();
                self.shared.tell(ForwardInput::DrainDone);
            }
        }
        if matches!(self.shared.machine_status().state, ForwardState::Idle) {
            self.rest();
        }
    }

    /// Lets go of the target; streams that run keep what they need.
    fn rest(&mut self) {
        self.work = None;
        self.shared.session.send_replace(None);
        self.session = None;
        self.status = None;
        self.asked = None;
        self.ready_since = None;
        (self.carried, self.tried, self.goes_on) = (false, false, false);
    }

    fn resolve(&self, attempt: Attempt) -> BoxFuture<'static, Outcome> {
        let known = self.session.clone();
        let (shared, clusters, scope) = (Arc::clone(&self.shared), Arc::clone(&self.clusters), self.scope.clone());
        Box::pin(async move {
            let (session, place) = match known {
                Some(known) => known,
                None => match start(&scope, &clusters, &shared, attempt).await {
                    Ok((session, place)) => {
                        let session = Arc::new(session);
                        *shared.kept.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&session);
                        (session, place)
                    }
                    Err(error) => return Outcome::ResolveFailed(attempt, error),
                },
            };
            // Whoever looks meanwhile sees what is waited for.
            let mut status = session.status();
            let progress = async {
                loop {
                    let waiting = status.borrow_and_update().waiting.clone();
                    if let Some(reason) = waiting {
                        shared.tell(ForwardInput::NoTarget { attempt, reason });
                        shared.work.notify_one();
                    }
                    if status.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            tokio::select! {
                biased;
                resolved = session.resolved() => match resolved {
                    Ok(()) => Outcome::Resolved(attempt, Arc::clone(&session), place),
                    Err(error) => Outcome::ResolveFailed(attempt, error),
                },
                () = progress => Outcome::ResolveFailed(attempt, ForwardError::Stopped { name: shared.name.clone() }),
            }
        })
    }

    fn came_of(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Resolved(attempt, session, place) => {
                self.status = Some(session.status());
                self.session = Some((session, place));
                self.shared.tell(ForwardInput::Resolved { attempt });
            }
            Outcome::ResolveFailed(attempt, error) => {
                let trouble = self.trouble(error, false);
                self.shared.tell(ForwardInput::ResolveFailed { attempt, trouble });
            }
            Outcome::Connected(attempt) => {
                self.forget_error();
                self.ready_since = Some(Instant::now());
                (self.worked, self.carried) = (true, true);
                self.took = self.asked.take().map(|asked| asked.elapsed()).or(self.took);
                self.shared.tell(ForwardInput::Connected { attempt });
                if let Some((session, _)) = self.session.clone() {
                    self.work = Some(Box::pin({
                        let session = Arc::clone(&session);
                        async move { Outcome::Lost(attempt, session.lost().await) }
                    }));
                    // Before callers get it: whoever sees the session may use it.
                    self.publish();
                    self.shared.session.send_replace(Some(session));
                }
            }
            Outcome::ConnectFailed(attempt, error) => {
                let waits = error.is_for_a_person();
                let held = self.session.as_ref().and_then(|(session, _)| session.held_until());
                let trouble = self.trouble(error, true).held(held.filter(|_| waits));
                self.shared.tell(ForwardInput::ConnectFailed { attempt, trouble });
                if let Some((session, _)) = self.session.clone().filter(|_| waits) {
                    self.work = Some(Box::pin(async move {
                        session.seen_to().await;
                        Outcome::SeenTo
                    }));
                }
            }
            Outcome::SeenTo => self.shared.tell(ForwardInput::Wake),
            Outcome::Lost(attempt, reason) => {
                self.shared.note_error(format!("lost: {}", reason.text));
                self.shared.tell(ForwardInput::Lost { attempt, reason });
            }
        }
    }

    /// The last pod went while the forward was ready: callers wait until there is another.
    fn note_status(&mut self) {
        let Some(status) = &mut self.status else { return };
        let status = status.borrow_and_update().clone();
        let machine = self.shared.machine_status();
        if machine.state == ForwardState::Ready
            && let (None, Some(reason)) = (&status.pod, status.waiting)
        {
            self.shared.note_error(format!("lost: {}", reason.text));
            self.shared.tell(ForwardInput::NoTarget { attempt: machine.attempt, reason });
        }
    }

    /// What was permanent at the start may pass once it has worked: a deployment is deleted and made again. Only what is
    /// tried in turns may be tried again at once.
    fn trouble(&mut self, error: ForwardError, in_turns: bool) -> Trouble {
        let (permanent, away) = (!error.is_transient() && !self.worked, in_turns && error.is_away());
        self.goes_on = away && !permanent;
        let reason = error.reason();
        self.shared.note_error(reason.text.to_string());
        *self.shared.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        match (permanent, away) {
            (true, _) => Trouble::permanent(reason),
            (false, true) => Trouble::away(reason),
            (false, false) => Trouble::transient(reason),
        }
    }

    fn forget_error(&self) {
        *self.shared.error.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Between being ready and being ready again it is lost; one that is let go is not.
    fn count_outage(&mut self, state: ForwardState, doubted: bool) {
        let lost = self.carried
            && match state {
                ForwardState::Resolving | ForwardState::Connecting | ForwardState::Backoff | ForwardState::Failed => {
                    true
                }
                ForwardState::Ready => doubted,
                ForwardState::Idle | ForwardState::Draining => false,
            };
        match (lost, self.lost_since) {
            (true, None) => {
                self.outages += 1;
                self.lost_since = Some(Instant::now());
            }
            (false, Some(since)) => {
                self.outage_time += since.elapsed();
                self.lost_since = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    fn publish(&mut self) {
        let (status, health) = (self.shared.machine_status(), self.shared.health());
        let doubt = health.as_ref().and_then(HealthReport::doubt).filter(|_| status.state == ForwardState::Ready);
        self.count_outage(status.state, doubt.is_some());
        let target = self.status.as_ref().map(|status| status.borrow().clone()).unwrap_or_default();
        let place = self.session.as_ref().map(|(_, place)| place.clone()).unwrap_or_default();
        let of_machine = || Some(Reason { text: status.reason.clone()?, shared: status.shared.clone() });
        let waiting = target.waiting.or_else(of_machine);
        let waiting = waiting.filter(|_| !matches!(status.state, ForwardState::Ready | ForwardState::Idle));
        let (waiting_for, shared) = waiting.map(|reason| (reason.text.to_string(), reason.shared)).unzip();
        let waiting_for = doubt.or(waiting_for);
        let report = ForwardReport {
            name: self.shared.name.clone(),
            target: self.shared.target.to_string(),
            context: place.context,
            namespace: place.namespace,
            pod: target.pod,
            remote_port: target.port,
            service_port: target.service_port,
            pods: target.pods,
            declared: target.declared,
            transport: target.transport,
            waiting_for,
            shared_trouble: shared.flatten(),
            ready_since: self.ready_since,
            carried: self.carried,
            restarts: self.restarts,
            outages: self.outages,
            outage_time: self.outage_time,
            lost_since: self.lost_since,
            took: self.took,
            health,
            held_until: None,
            last_error: None,
            status,
        };
        self.shared.report.send_if_modified(|known| {
            let changed = !known.is_same(&report);
            if changed {
                *known = Arc::new(report);
            }
            changed
        });
    }
}

impl Drop for Driver {
    /// Ended or aborted: whoever waits hears of it.
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.session.send_replace(None);
        self.shared.report.send_modify(|_| {});
    }
}

/// Connects, when it is this forward's turn to.
async fn ready(session: &Session, reach: Option<Arc<Reach>>) -> Result<(), ForwardError> {
    // In a box once: it is large, and the places in which it is waited for would each have room for it.
    let mut connecting = Box::pin(session.ready());
    let Some(reach) = reach else { return connecting.await };
    let turn = reach.turn().await;
    let connected = tokio::select! {
        biased;
        connected = &mut connecting => connected,
        () = tokio::time::sleep(TURN) => {
            // Perhaps it waits for something of its own: others have their turn.
            drop(turn);
            connecting.await
        }
    };
    match &connected {
        Err(error) if error.is_away() => reach.is_away(rand::random()),
        Ok(()) | Err(_) => reach.is_back(),
    }
    connected
}

/// Starts a session; what takes long there is a program that should give credentials.
async fn start(
    scope: &Scope,
    clusters: &Clusters,
    shared: &Shared,
    attempt: Attempt,
) -> Result<(Session, Place), ForwardError> {
    let starting = Session::start(scope, clusters, &shared.target, shared.session_options());
    tokio::pin!(starting);
    tokio::select! {
        biased;
        started = &mut starting => return started,
        () = tokio::time::sleep(SLOW_START) => {}
    }
    let context = match &shared.target {
        Target::Kubernetes(target) => target.context.as_deref(),
        Target::Jump(target) => target.context.as_deref(),
        Target::Ssh(_) | Target::Local(_) | Target::Forward(_) => None,
    };
    if let Some(plugin) = clusters.plugin(context) {
        let reason = format!("waiting for the credential plugin `{plugin}`");
        shared.tell(ForwardInput::NoTarget { attempt, reason: reason.into() });
        shared.work.notify_one();
    }
    starting.await
}

async fn under_way(work: &mut Option<BoxFuture<'static, Outcome>>) -> Outcome {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}
