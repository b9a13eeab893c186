//! Jumps: a host as a pod sees it, reached by running socat or nc there.
//!
//! Each stream is a command of its own, in a pod that is chosen as for a port-forward: ready, the same one while it
//! lasts. The tool is looked for once per pod and container. If its user wants so, the pod is made first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adit_core::backoff::Backoff;
use adit_core::target::{JumpTarget, ObjectKind, Selection};
use runtime::Scope;
use runtime::connect::{ConnectError, Io};
use tokio::sync::{OnceCell, watch};

use super::api::{Api, ApiError};
use super::exec::Execs;
use super::resolve::{
    Candidate, Choice, NoTarget, Of, PodRef, PodState, Port, Resolution, Resolver, Spread, Wanted, pause,
};
use super::target::KubeStatus;
use super::unreached::Unreached;
use crate::error::{ForwardError, chain};
use crate::session::JumpOptions;

mod fault;
mod pod;
mod stream;
mod tool;

use fault::Way;
use pod::Maker;
use stream::JumpStream;
use tool::Equipped;

/// How long a pod in which no command could be run is passed over.
const SUSPECT_FOR: Duration = Duration::from_secs(5);
/// Pods tried before the first stream: each may have gone since it was chosen.
const ATTEMPTS: u32 = 20;

/// A running jump. Dropping it ends what looks for pods; streams go on.
pub(crate) struct JumpSession {
    shared: Arc<JumpShared>,
    scope: Scope,
}

struct JumpShared {
    api: Api,
    execs: Execs,
    resolver: Resolver,
    choice: Mutex<Choice>,
    tools: Mutex<HashMap<PodRef, Arc<OnceCell<Arc<Equipped>>>>>,
    target: JumpTarget,
    container: Option<String>,
    maker: Making,
    /// A tool was found once: what ends from now on did work.
    worked: AtomicBool,
    status: watch::Sender<KubeStatus>,
    patience: Duration,
}

/// Whether the pod is ours to make.
enum Making {
    No,
    Yes(Maker),
    /// It was asked for, but the target does not name a pod.
    Nameless,
}

impl JumpSession {
    /// Starts to look for the pod.
    pub(crate) fn start(
        scope: &Scope,
        api: Api,
        target: &JumpTarget,
        options: JumpOptions,
        patience: Duration,
    ) -> Self {
        let own = scope.child();
        let streams = scope.child();
        let namespace = target.namespace.clone().unwrap_or_else(|| api.default_namespace());
        let wanted = Wanted {
            context: target.context.clone(),
            flags: api.kubectl_flags().to_owned(),
            namespace: namespace.clone(),
            of: Of::selected(&target.via),
            port: Port::Any,
        };
        let maker = match (options.create, &target.via) {
            (None, _) => Making::No,
            (Some(create), Selection::Object { kind: ObjectKind::Pod, name }) => {
                Making::Yes(Maker::new(api.clone(), scope.clone(), streams.clone(), create, namespace, name.clone()))
            }
            (Some(_), _) => Making::Nameless,
        };
        let shared = Arc::new(JumpShared {
            resolver: Resolver::start_wanted(&own, api.clone(), wanted),
            execs: Execs::new(api.clone(), streams),
            api,
            choice: Mutex::new(Choice::new(Spread::Pinned)),
            tools: Mutex::default(),
            target: target.clone(),
            container: options.container,
            maker,
            worked: AtomicBool::new(false),
            status: watch::Sender::new(KubeStatus::default()),
            patience,
        });
        own.spawn("keep a cluster alive", shared.api.clone().keep_alive());
        own.spawn("follow a jump's pod", Arc::clone(&shared).follow());
        Self { shared, scope: own }
    }

    /// What is known, as it changes.
    pub(crate) fn status(&self) -> watch::Receiver<KubeStatus> {
        self.shared.status.subscribe()
    }

    /// Waits until there is a pod to jump through; makes it if that was asked for.
    ///
    /// # Errors
    /// When waiting is of no use, or the pod that was made is not ready in time.
    pub(crate) async fn resolved(&self) -> Result<(), ForwardError> {
        match &self.shared.maker {
            Making::No => match self.shared.candidate().await {
                Ok(_) => Ok(()),
                Err(error) => Err(self.shared.resolver.explained(&self.shared.api, error).await),
            },
            Making::Yes(maker) => self.shared.made(maker).await,
            Making::Nameless => Err(ForwardError::Unsupported {
                target: self.shared.target.to_string(),
                reason: "only a pod can be made, so `create` needs jump://CONTEXT/NAMESPACE/pod/NAME/HOST:PORT".into(),
            }),
        }
    }

    /// Waits until a tool is found in the pod.
    ///
    /// # Errors
    /// When there is none, or no command may be run there.
    pub(crate) async fn ready(&self) -> Result<(), ForwardError> {
        let shared = &self.shared;
        let mut resolution = shared.resolver.resolution();
        let mut backoff = Backoff::default();
        loop {
            resolution.mark_unchanged();
            let candidate = shared.candidate().await?;
            match shared.equipped(&candidate.pod).await {
                Ok(_) => {
                    shared.worked.store(true, Ordering::Relaxed);
                    shared.publish(&shared.resolver.now());
                    return Ok(());
                }
                // It went meanwhile, or its container does not run yet.
                Err(ForwardError::Connect {
                    source: ApiError::NotFound { .. } | ApiError::Status { code: 400 | 500, .. },
                    ..
                }) if backoff.attempts() < ATTEMPTS => {
                    shared.suspect(&candidate.pod);
                    if !pause(&mut resolution, &mut backoff).await {
                        std::future::pending::<()>().await;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens a stream. Whether the host takes it is told by reading: exec says nothing when a connection is made.
    ///
    /// # Errors
    /// When no command could be run in any pod within the patience.
    pub(crate) async fn open(&self) -> Result<Io, ConnectError> {
        let shared = &self.shared;
        let last = Mutex::new(None);
        match tokio::time::timeout(shared.patience, JumpShared::open_somewhere(shared, &last)).await {
            Ok(result) => result.map(Io::other),
            Err(_) => {
                let last = last.into_inner().unwrap_or_else(PoisonError::into_inner);
                let reason = last.or_else(|| shared.resolver.detail()).unwrap_or_else(|| "no pod answered".into());
                Err(shared.unavailable(format!("{reason} (waited {:?})", shared.patience)))
            }
        }
    }

    /// The machine slept, or its network changed.
    pub(crate) fn wake(&self) {
        self.shared.api.redial();
        self.shared.resolver.wake();
    }
}

impl JumpSession {
    /// What is behind the pod is not well: another pod may see it better.
    pub(crate) fn renew(&self) {
        let now = self.shared.resolver.now();
        if let Some(candidate) = self.shared.foresee(&now) {
            self.shared.suspect(&candidate.pod);
            drop(self.shared.choose(&now));
            self.shared.publish(&now);
        }
    }
}

impl Drop for JumpSession {
    fn drop(&mut self) {
        self.scope.abort();
    }
}

impl JumpShared {
    fn choice(&self) -> MutexGuard<'_, Choice> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tools(&self) -> MutexGuard<'_, HashMap<PodRef, Arc<OnceCell<Arc<Equipped>>>>> {
        self.tools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn choose(&self, resolution: &Resolution) -> Option<Candidate> {
        self.usable(self.choice().choose(resolution, Instant::now()))
    }

    /// What would be chosen, without choosing.
    fn foresee(&self, resolution: &Resolution) -> Option<Candidate> {
        let mut choice = self.choice().clone();
        self.usable(choice.choose(resolution, Instant::now()))
    }

    /// A pod that is being removed is no place for new streams when another one can be made.
    fn usable(&self, chosen: Option<&Candidate>) -> Option<Candidate> {
        let ends = |candidate: &&Candidate| candidate.state == PodState::Ready || !matches!(self.maker, Making::Yes(_));
        chosen.filter(ends).cloned()
    }

    fn suspect(&self, pod: &PodRef) {
        self.choice().suspect(pod, Instant::now() + SUSPECT_FOR);
    }

    /// The tool is looked for anew.
    fn forget(&self, pod: &PodRef) {
        self.tools().remove(pod);
    }

    fn unavailable(&self, reason: String) -> ConnectError {
        ConnectError::Unavailable { target: self.target.to_string(), reason, hint: None }
    }

    async fn follow(self: Arc<Self>) {
        let mut resolution = self.resolver.resolution();
        loop {
            let now = resolution.borrow_and_update().clone();
            self.tools().retain(|pod, _| now.candidates.iter().any(|candidate| candidate.pod == *pod));
            self.publish(&now);
            if resolution.changed().await.is_err() {
                return;
            }
        }
    }

    fn publish(&self, now: &Resolution) {
        let chosen = self.foresee(now);
        let waiting = match (&self.maker, &now.none) {
            (Making::Yes(maker), Some(NoTarget::NotFound { .. })) => {
                Some(format!("making pod {} with the image {}", maker.name(), maker.image()).into())
            }
            _ => now.waiting(),
        };
        let waits = chosen.is_none();
        let status = KubeStatus {
            waiting: waiting.filter(|_| chosen.is_none()),
            pod: chosen.map(|candidate| candidate.pod.name),
            port: Some(self.target.port.get()),
            service_port: None,
            pods: now.ready_pods(),
            declared: Vec::new(),
            transport: self.execs.transport().map(super::exec::ExecTransport::name),
            hint: now.hint().filter(|_| waits),
            unreached: now.api_trouble().and_then(|error| Unreached::of(&self.api, error)),
        };
        self.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
    }

    /// Waits for a pod.
    async fn candidate(&self) -> Result<Candidate, ForwardError> {
        self.resolver.candidate(|now| self.foresee(now), |none| self.hopeless(none)).await
    }

    /// Why waiting for a pod is of no use.
    fn hopeless(&self, none: &NoTarget) -> Option<ForwardError> {
        match (&self.maker, none) {
            (Making::Yes(maker), NoTarget::NotFound { .. }) => {
                // Another one can be made: this passes.
                let message = format!("the pod {} was removed", maker.name());
                Some(ForwardError::Api(ApiError::Gone { message }))
            }
            (Making::Yes(maker), NoTarget::NotRunning { pod, .. }) if has_ended(none) => {
                if !maker.has_made() || self.worked.load(Ordering::Relaxed) {
                    return Some(ForwardError::Api(ApiError::Gone { message: format!("the pod has ended: {pod}") }));
                }
                Some(ForwardError::Jump {
                    message: format!("the pod that was made to jump through has ended: {pod}"),
                    hint: Some("its command has to go on, as `sleep infinity` does".to_owned()),
                })
            }
            _ => (none.is_permanent() || has_ended(none)).then(|| ForwardError::no_target(none)),
        }
    }

    /// Waits for the pod, and makes it when there is none; once, for a pod that ends by itself would be made for ever.
    async fn made(&self, maker: &Maker) -> Result<(), ForwardError> {
        let mut resolution = self.resolver.resolution();
        let mut made = false;
        let mut deadline = tokio::time::Instant::now() + maker.timeout();
        loop {
            let now = resolution.borrow_and_update().clone();
            if self.foresee(&now).is_some() {
                return Ok(());
            }
            match &now.none {
                Some(NoTarget::NotFound { .. }) if !made => {
                    maker.make().await?;
                    made = true;
                    deadline = tokio::time::Instant::now() + maker.timeout();
                }
                Some(NoTarget::NotFound { .. }) => {}
                Some(none) if has_ended(none) => {
                    if maker.has_made()
                        && let Some(error) = self.hopeless(none).filter(|error| !error.is_transient())
                    {
                        return Err(error);
                    }
                    if !maker.clear().await? {
                        return Err(ForwardError::no_target(none));
                    }
                }
                Some(none) if none.is_permanent() => return Err(ForwardError::no_target(none)),
                _ => {}
            }
            match tokio::time::timeout_at(deadline, resolution.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => std::future::pending::<()>().await,
                Err(_) => {
                    let reason = self.resolver.detail().unwrap_or_else(|| "it is not there".into());
                    return Err(ForwardError::Jump {
                        message: format!(
                            "the pod {} was not ready within {:?}: {reason}",
                            maker.name(),
                            maker.timeout()
                        ),
                        hint: Some("check `create.image`, or give it more time with `create.timeout`".to_owned()),
                    });
                }
            }
        }
    }

    /// The tool of a pod: looked for once, however many ask.
    async fn equipped(&self, pod: &PodRef) -> Result<Arc<Equipped>, ForwardError> {
        let cell = Arc::clone(self.tools().entry(pod.clone()).or_default());
        let found = cell.get_or_try_init(|| async {
            let found = tool::find(&self.api, &self.execs, pod, self.container.as_deref()).await?;
            tracing::debug!(
                pod = pod.name,
                container = found.container,
                tool = found.tool.name(),
                "found a tool to jump with"
            );
            Ok::<_, ForwardError>(Arc::new(found))
        });
        found.await.cloned()
    }

    async fn open_somewhere(shared: &Arc<Self>, last: &Mutex<Option<String>>) -> Result<JumpStream, ConnectError> {
        let mut resolution = shared.resolver.resolution();
        let mut backoff = Backoff::default();
        let note = |text: String| *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        loop {
            let now = resolution.borrow_and_update().clone();
            let Some(candidate) = shared.choose(&now) else {
                if let Some(detail) = now.detail() {
                    note(detail);
                }
                if resolution.changed().await.is_err() {
                    return Err(shared.unavailable("it was stopped".into()));
                }
                continue;
            };
            match Self::open_in(shared, &candidate.pod).await {
                Ok(stream) => return Ok(stream),
                // No other pod and no later time will help.
                Err(error) if !may_pass(&error) => return Err(shared.unavailable(chain(&error))),
                Err(error) => {
                    tracing::debug!(pod = candidate.pod.name, %error, "no command in this pod");
                    note(chain(&error));
                    shared.suspect(&candidate.pod);
                    if !pause(&mut resolution, &mut backoff).await {
                        return Err(shared.unavailable("it was stopped".into()));
                    }
                }
            }
        }
    }

    async fn open_in(shared: &Arc<Self>, pod: &PodRef) -> Result<JumpStream, ForwardError> {
        let equipped = shared.equipped(pod).await?;
        let words = |transport| equipped.tool.words(&shared.target, transport);
        let exec =
            shared.execs.open(pod, &equipped.container, words).await.map_err(|error| tool::refused(pod, error))?;
        let way = Way { host: shared.target.authority(), pod: pod.name.clone(), tool: equipped.tool.name() };
        Ok(JumpStream::new(exec, Arc::new(way), pod.clone(), Arc::clone(shared)))
    }
}

/// Whether the pod that was asked for by its name will never run again.
fn has_ended(none: &NoTarget) -> bool {
    matches!(none, NoTarget::NotRunning { pod, .. } if matches!(pod.phase.as_str(), "Failed" | "Succeeded"))
}

/// Whether another pod, or the same one later, may take what this one did not.
fn may_pass(error: &ForwardError) -> bool {
    match error {
        ForwardError::Connect { source, .. } => !matches!(
            source,
            ApiError::Unauthorized { .. }
                | ApiError::Forbidden { .. }
                | ApiError::Plugin { .. }
                | ApiError::Credentials { .. }
        ),
        _ => false,
    }
}
