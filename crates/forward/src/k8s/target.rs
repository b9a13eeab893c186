//! A Kubernetes target as it is right now: its pod, the connections to it, and the move to the next one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use adit_core::backoff::{Backoff, BackoffSettings};
use adit_core::diagnose::Diagnose as _;
use adit_core::forward::Reason;
use adit_core::target::KubeTarget;
use runtime::Scope;
use runtime::connect::ConnectError;
use tokio::sync::watch;

use super::api::{Api, ApiError};
use super::connection::PortStream;
use super::pool::PodPool;
use super::port_forward::Transport;
use super::resolve::{Candidate, Choice, NoTarget, PodRef, Resolution, Resolver, Spread, Wanted, pause};
use super::stream::KubeStream;
use super::unreached::Unreached;
use crate::error::ForwardError;

/// How long a pod to which a connection failed is passed over.
const SUSPECT_FOR: Duration = Duration::from_secs(5);
/// The same for a pod whose probes fail.
const UNWELL_FOR: Duration = Duration::from_secs(60);
/// The longest pause of a connection that waits for a way to its pod.
const UNREACHED: Duration = Duration::from_secs(2);
/// A pool of a pod that is no longer chosen is kept so long, in case it is chosen again.
const PODS_KEPT: usize = 16;

/// The pools of one cluster, shared by all forwards that lead to the same pod.
#[derive(Default)]
pub(crate) struct PodPools(Mutex<HashMap<PodRef, Weak<PodPool>>>);

impl PodPools {
    /// The pool of a pod, a new one if there is none.
    fn of(&self, api: &Api, pod: &PodRef, scope: &Scope) -> Arc<PodPool> {
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = pools.get(pod).and_then(Weak::upgrade);
        // One of a forward that is being stopped would end with it.
        if let Some(pool) = known.filter(|pool| pool.is_usable() || scope.is_draining()) {
            return pool;
        }
        pools.retain(|_, pool| pool.strong_count() > 0);
        let pool = Arc::new(PodPool::new(api.clone(), pod.clone(), scope));
        pools.insert(pod.clone(), Arc::downgrade(&pool));
        pool
    }
}

/// What a user wants to know of a running target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KubeStatus {
    /// The pod that new connections go to.
    pub(crate) pod: Option<String>,
    /// Its port.
    pub(crate) port: Option<u16>,
    /// The service's port that leads to it, when a service was asked for.
    pub(crate) service_port: Option<u16>,
    /// How many pods take connections.
    pub(crate) pods: usize,
    /// The ports that the pods declare, when the one that was asked for is none of them.
    pub(crate) declared: Vec<String>,
    /// What is waited for.
    pub(crate) waiting: Option<Reason>,
    pub(crate) transport: Option<&'static str>,
    /// What to do about what is waited for.
    pub(crate) hint: Option<String>,
    /// There is no way to the API server.
    pub(crate) unreached: Option<Unreached>,
}

/// Resolves a target, keeps a connection to its pod warm, opens streams. Dropping it ends all of that.
pub(crate) struct KubeSession {
    shared: Arc<KubeTargetShared>,
    scope: Scope,
}

pub(crate) struct KubeTargetShared {
    api: Api,
    /// For pools: they outlive this session while streams run on them.
    pools_scope: Scope,
    pools: Arc<PodPools>,
    resolver: Resolver,
    choice: Mutex<Choice>,
    held: Mutex<HashMap<PodRef, Arc<PodPool>>>,
    status: watch::Sender<KubeStatus>,
    text: String,
    patience: Duration,
}

impl KubeSession {
    /// Starts to resolve, and connects as soon as there is a pod.
    pub(crate) fn start(
        scope: &Scope,
        api: Api,
        pools: Arc<PodPools>,
        target: &KubeTarget,
        balance: bool,
        patience: Duration,
    ) -> Self {
        let own = scope.child();
        let flags = api.kubectl_flags().to_owned();
        let wanted = Wanted { flags, ..Wanted::of(target, &api.default_namespace()) };
        let spread = if balance { Spread::Balanced } else { Spread::Pinned };
        let shared = Arc::new(KubeTargetShared {
            resolver: Resolver::start_wanted(&own, api.clone(), wanted),
            api,
            pools_scope: scope.clone(),
            pools,
            choice: Mutex::new(Choice::new(spread)),
            held: Mutex::default(),
            status: watch::Sender::new(KubeStatus::default()),
            text: target.to_string(),
            patience,
        });
        own.spawn("dial ahead", shared.api.clone().dial_ahead());
        own.spawn("keep a cluster alive", shared.api.clone().keep_alive());
        own.spawn("follow a target", Arc::clone(&shared).follow(own.clone()));
        Self { shared, scope: own }
    }

    /// What is known, as it changes.
    pub(crate) fn status(&self) -> watch::Receiver<KubeStatus> {
        self.shared.status.subscribe()
    }

    /// Waits until there is a pod to connect to.
    ///
    /// # Errors
    /// When waiting is of no use.
    pub(crate) async fn resolved(&self) -> Result<(), ForwardError> {
        if let Err(error) = self.shared.candidate().await {
            return Err(self.shared.resolver.explained(&self.shared.api, error).await);
        }
        self.shared.refresh();
        Ok(())
    }

    /// Waits until a connection to a ready pod is there.
    ///
    /// # Errors
    /// When waiting is of no use, or the pod cannot be connected to.
    pub(crate) async fn ready(&self) -> Result<(), ForwardError> {
        self.shared.warm().await
    }

    /// Waits until no connection to the chosen pod is left; why.
    pub(crate) async fn lost(&self) -> Reason {
        loop {
            let pool = self.shared.current().map(|candidate| (self.shared.pool(&candidate.pod), candidate.port));
            let mut status = self.shared.status.subscribe();
            tokio::select! {
                biased;
                _ = status.changed() => {}
                reason = lost(pool) => return reason,
            }
        }
    }

    /// Opens one stream.
    pub(crate) async fn open(&self, unreached: Duration) -> Result<KubeStream, ConnectError> {
        let (stream, pod) = self.shared.open(unreached).await?;
        Ok(KubeStream::new(stream, pod, Arc::clone(&self.shared), unreached))
    }

    /// Asks and dials anew: the machine slept, or its network changed.
    pub(crate) fn wake(&self) {
        self.shared.api.redial();
        self.shared.resolver.wake();
        for pool in self.shared.held().values() {
            pool.probe();
        }
    }
}

impl KubeSession {
    /// The pod is not well: others are preferred, and its connections are replaced.
    pub(crate) fn renew(&self) {
        let Some(candidate) = self.shared.current() else { return };
        self.shared.suspect_for(&candidate.pod, UNWELL_FOR);
        if let Some(pool) = self.shared.held().get(&candidate.pod) {
            pool.probe();
        }
        // The choice is made now, and stays when the suspicion has passed.
        drop(self.shared.choose(&self.shared.resolver.now()));
        self.shared.refresh();
    }
}

impl Drop for KubeSession {
    fn drop(&mut self) {
        self.scope.abort();
        self.shared.held().clear();
    }
}

async fn lost(pool: Option<(Arc<PodPool>, u16)>) -> Reason {
    match pool {
        Some((pool, port)) => pool.lost(port).await,
        None => std::future::pending().await,
    }
}

impl KubeTargetShared {
    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<PodRef, Arc<PodPool>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn choose(&self, resolution: &Resolution) -> Option<Candidate> {
        let mut choice = self.choice.lock().unwrap_or_else(PoisonError::into_inner);
        choice.choose(resolution, Instant::now()).cloned()
    }

    /// What would be chosen, without choosing.
    fn foresee(&self, resolution: &Resolution) -> Option<Candidate> {
        let choice = self.choice.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut choice = choice;
        choice.choose(resolution, Instant::now()).cloned()
    }

    pub(super) fn suspect(&self, pod: &PodRef) {
        self.suspect_for(pod, SUSPECT_FOR);
    }

    fn suspect_for(&self, pod: &PodRef, time: Duration) {
        let mut choice = self.choice.lock().unwrap_or_else(PoisonError::into_inner);
        choice.suspect(pod, Instant::now() + time);
    }

    pub(super) fn trust(&self, pod: &PodRef) {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner).trust(pod);
    }

    fn pool(&self, pod: &PodRef) -> Arc<PodPool> {
        let mut held = self.held();
        if let Some(pool) = held.get(pod).filter(|pool| pool.is_usable() || self.pools_scope.is_draining()) {
            return Arc::clone(pool);
        }
        let pool = self.pools.of(&self.api, pod, &self.pools_scope);
        held.insert(pod.clone(), Arc::clone(&pool));
        pool
    }

    /// Follows the target: connects to the next pod as soon as it is the one, lets go of those that are gone.
    async fn follow(self: Arc<Self>, scope: Scope) {
        let mut resolution = self.resolver.resolution();
        loop {
            let now = resolution.borrow_and_update().clone();
            let chosen = self.refresh();
            self.let_go(&now, chosen.as_ref());
            if let Some(candidate) = chosen {
                let (pool, shared) = (self.pool(&candidate.pod), Arc::clone(&self));
                scope.spawn("warm a connection", async move {
                    match pool.warm(candidate.port).await {
                        Ok(()) => drop(shared.refresh()),
                        Err(error) => tracing::debug!(pod = candidate.pod.name, %error, "cannot connect ahead"),
                    }
                });
            }
            if resolution.changed().await.is_err() {
                return;
            }
        }
    }

    /// Tells what is known now; gives back the pod new connections go to.
    fn refresh(&self) -> Option<Candidate> {
        let now = self.resolver.now();
        let chosen = self.foresee(&now);
        let status = KubeStatus {
            pod: chosen.as_ref().map(|candidate| candidate.pod.name.clone()),
            port: chosen.as_ref().map(|candidate| candidate.port),
            service_port: now.service_port,
            pods: now.ready_pods(),
            declared: now.declared.clone(),
            waiting: now.waiting().filter(|_| chosen.is_none()),
            transport: chosen.as_ref().and_then(|chosen| self.transport_to(chosen)),
            hint: now.hint().filter(|_| chosen.is_none()),
            unreached: now.api_trouble().and_then(|error| Unreached::of(&self.api, error)),
        };
        self.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
        chosen
    }

    fn transport_to(&self, candidate: &Candidate) -> Option<&'static str> {
        self.held().get(&candidate.pod)?.transport().map(Transport::name)
    }

    /// Pools of pods that are no candidates any more end with their last stream.
    fn let_go(&self, resolution: &Resolution, chosen: Option<&Candidate>) {
        let mut held = self.held();
        held.retain(|pod, _| resolution.candidates.iter().any(|candidate| candidate.pod == *pod));
        if held.len() > PODS_KEPT {
            held.retain(|pod, pool| chosen.is_some_and(|chosen| chosen.pod == *pod) || pool.connections() > 0);
        }
    }

    /// The pod new connections go to, as far as is known now.
    fn current(&self) -> Option<Candidate> {
        self.foresee(&self.resolver.now())
    }

    /// Waits for a pod.
    async fn candidate(&self) -> Result<Candidate, ForwardError> {
        let hopeless = |none: &NoTarget| none.is_permanent().then(|| ForwardError::no_target(none));
        self.resolver.candidate(|now| self.foresee(now), hopeless).await
    }

    /// The server answers again: watches that wait after a failure need not wait any longer.
    fn ask_anew(&self) {
        if self.resolver.now().trouble.is_some() {
            self.resolver.wake();
        }
    }

    /// Waits for a ready pod and a connection to it. A pod that vanished meanwhile is passed over.
    async fn warm(&self) -> Result<(), ForwardError> {
        let mut resolution = self.resolver.resolution();
        let mut backoff = Backoff::default();
        loop {
            resolution.mark_unchanged();
            let candidate = self.candidate().await?;
            let warmed = self.pool(&candidate.pod).warm(candidate.port).await;
            if matches!(warmed, Ok(()) | Err(ApiError::NotFound { .. })) {
                self.ask_anew();
            }
            match warmed {
                Ok(()) => {
                    self.refresh();
                    return Ok(());
                }
                Err(ApiError::NotFound { .. } | ApiError::Status { code: 400 | 500, .. })
                    if backoff.attempts() < 20 =>
                {
                    self.suspect(&candidate.pod);
                    if !pause(&mut resolution, &mut backoff).await {
                        std::future::pending::<()>().await;
                    }
                }
                Err(source) => return Err(ForwardError::Connect { pod: candidate.pod.name, source }),
            }
        }
    }

    /// Opens a stream to a ready pod, waiting for one within the patience.
    pub(super) async fn open(&self, unreached: Duration) -> Result<(PortStream, PodRef), ConnectError> {
        let deadline = tokio::time::Instant::now() + self.patience;
        let last = Mutex::new(None);
        match tokio::time::timeout_at(deadline, self.open_somewhere(&last, unreached)).await {
            Ok(result) => result,
            Err(_) => {
                let reason = last.into_inner().unwrap_or_else(PoisonError::into_inner);
                let known = self.resolver.now().hint();
                let (reason, hint) = match reason.or_else(|| Some((self.resolver.detail()?, None))) {
                    Some((reason, hint)) => (reason, known.or(hint)),
                    // A pod is known, and nobody has refused anything: it is the way there that hangs.
                    None => (
                        format!("the API server (context `{}`) opens no stream to its pod", self.api.context()),
                        Some(format!("is the VPN up? `kubectl{} cluster-info` tells more", self.api.kubectl_flags())),
                    ),
                };
                Err(ConnectError::NotReady { target: self.text.clone(), after: self.patience, reason, hint })
            }
        }
    }

    /// Opens a stream after one to `gone` found no pod: at once when there is another pod, else with the next news of
    /// the pods, or after `wait`.
    pub(super) async fn open_instead(
        &self,
        gone: &PodRef,
        wait: Duration,
        unreached: Duration,
    ) -> Result<(PortStream, PodRef), ConnectError> {
        let mut resolution = self.resolver.resolution();
        let now = resolution.borrow_and_update().clone();
        if self.foresee(&now).is_some_and(|candidate| candidate.pod == *gone) {
            let _ = tokio::time::timeout(wait, resolution.changed()).await;
        }
        self.open(unreached).await
    }

    /// How long a connection waits for a pod.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    async fn open_somewhere(
        &self,
        last: &Mutex<Option<(String, Option<String>)>>,
        patience: Duration,
    ) -> Result<(PortStream, PodRef), ConnectError> {
        let mut resolution = self.resolver.resolution();
        let mut backoff = Backoff::new(BackoffSettings { cap: UNREACHED, ..BackoffSettings::default() });
        let unavailable = |reason: String, hint| ConnectError::Unavailable { target: self.text.clone(), reason, hint };
        let mut unreached_since = None;
        loop {
            let now = resolution.borrow_and_update().clone();
            let Some(candidate) = self.choose(&now) else {
                if let Some(none) = now.none.as_ref() {
                    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some((none.detail(), None));
                }
                if resolution.changed().await.is_err() {
                    return Err(unavailable("it was stopped".into(), None));
                }
                continue;
            };
            match self.pool(&candidate.pod).open(candidate.port).await {
                Ok(stream) => return Ok((stream, candidate.pod)),
                Err(error @ (ApiError::Forbidden { .. } | ApiError::Unauthorized { .. } | ApiError::Plugin { .. })) => {
                    return Err(unavailable(crate::error::chain(&error), error.hint()));
                }
                Err(error) => {
                    tracing::debug!(pod = candidate.pod.name, %error, "no stream to this pod");
                    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some((crate::error::chain(&error), None));
                    if let Some(unreached) = Unreached::of(&self.api, &error) {
                        *last.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some((crate::error::chain(&error), Some(unreached.hint().to_owned())));
                        let since = *unreached_since.get_or_insert_with(Instant::now);
                        if since.elapsed() >= patience {
                            return Err(unreached.into_connect(self.text.clone(), since.elapsed()));
                        }
                    } else {
                        unreached_since = None;
                    }
                    // That there is no way to the API server is no pod's fault.
                    if !matches!(error, ApiError::Unreachable { .. } | ApiError::Timeout { .. }) {
                        self.suspect(&candidate.pod);
                    }
                    if !pause(&mut resolution, &mut backoff).await {
                        return Err(unavailable("it was stopped".into(), None));
                    }
                }
            }
        }
    }
}
