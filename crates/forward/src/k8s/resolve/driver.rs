//! Looks up what a target needs, all at once, keeps it up to date, and resolves anew with each change.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;

use adit_core::backoff::Backoff;
use adit_core::target::{KubeTarget, ObjectKind, PortRef, Selection};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use runtime::scope::Scope;
use tokio::sync::watch;

use super::pod::{Crash, PodWhy, plain};
use super::{Candidate, Look, NoTarget, Of, Port, Resolution, Seen, Wanted, WorkloadKind, mistyped, resolve};
use crate::error::ForwardError;
use crate::k8s::api::Api;
use crate::k8s::objects::{EndpointSlice, Object, Pod, Service, Workload, labels_query};
use crate::k8s::watch::{Collection, State, Trouble, View, encoded, follow};

/// Pods whose last log line is fetched when they crash: as many as are told of.
const LOGS: usize = 3;
/// Lines of a log that are asked for: the last one may be empty.
const LOG_LINES: usize = 5;
/// Bytes of them that are asked for. The server cuts at the end, so a long line must not hide the one behind it.
const LOG_BYTES: usize = 64 * 1024;

/// Keeps a target resolved for as long as it lives.
#[derive(Debug)]
pub(crate) struct Resolver {
    wanted: Wanted,
    resolution: watch::Receiver<Arc<Resolution>>,
    wake: watch::Sender<u64>,
}

impl Resolver {
    /// Starts to look up. Nothing is known until the first answer: see [`NoTarget::Unknown`].
    pub(crate) fn start_wanted(scope: &Scope, api: Api, wanted: Wanted) -> Self {
        let none = NoTarget::Unknown { what: wanted.what() };
        let (out, resolution) = watch::channel(Arc::new(Resolution::nothing(none)));
        let (wake, woken) = watch::channel(0);
        let driver = Driver::new(scope.clone(), api, wanted.clone(), woken);
        scope.spawn("target resolution", driver.run(out));
        Self { wanted, resolution, wake }
    }

    /// The pods the target leads to, as they change.
    pub(crate) fn resolution(&self) -> watch::Receiver<Arc<Resolution>> {
        self.resolution.clone()
    }

    /// The pods the target leads to now.
    pub(crate) fn now(&self) -> Arc<Resolution> {
        Arc::clone(&self.resolution.borrow())
    }

    /// Waits for a pod that `choose` takes, or until `hopeless` sees that waiting is of no use.
    pub(crate) async fn candidate<E>(
        &self,
        choose: impl Fn(&Resolution) -> Option<Candidate>,
        hopeless: impl Fn(&NoTarget) -> Option<E>,
    ) -> Result<Candidate, E> {
        let mut resolution = self.resolution();
        loop {
            let now = resolution.borrow_and_update().clone();
            if let Some(candidate) = choose(&now) {
                return Ok(candidate);
            }
            if let Some(error) = now.none.as_ref().and_then(&hopeless) {
                return Err(error);
            }
            if resolution.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// An error of [`Resolver::candidate`] with what may have been meant, when there is no object of that name.
    pub(crate) async fn explained(&self, api: &Api, error: ForwardError) -> ForwardError {
        match &self.now().none {
            Some(NoTarget::NotFound { name, .. }) => mistyped::explain(api, &self.wanted, name, error).await,
            _ => error,
        }
    }

    /// What a user who waits wants to read; `None` when there is nothing to wait for.
    pub(crate) fn detail(&self) -> Option<String> {
        self.now().detail()
    }

    /// Asks everything anew, at once: the machine slept, and its connections may be dead.
    pub(crate) fn wake(&self) {
        self.wake.send_modify(|times| *times += 1);
    }
}

impl Wanted {
    /// What a target asks for, in the namespace of its context when it names none.
    pub(crate) fn of(target: &KubeTarget, default_namespace: &str) -> Self {
        let port = match &target.port {
            PortRef::Number(number) => Port::Number((*number).into()),
            PortRef::Name(name) => Port::Name(name.clone()),
        };
        let namespace = target.namespace.clone().unwrap_or_else(|| default_namespace.to_owned());
        Self {
            context: target.context.clone(),
            flags: String::new(),
            namespace,
            of: Of::selected(&target.selection),
            port,
        }
    }
}

impl Of {
    /// The object that a selection means.
    pub(crate) fn selected(selection: &Selection) -> Self {
        let workload = |kind, name: &String| Self::Workload(kind, name.clone());
        match selection {
            Selection::Labels(labels) => Self::Labels(labels.clone()),
            Selection::Object { kind, name } => match kind {
                ObjectKind::Service => Self::Service(name.clone()),
                ObjectKind::Pod => Self::Pod(name.clone()),
                ObjectKind::Deployment => workload(WorkloadKind::Deployment, name),
                ObjectKind::StatefulSet => workload(WorkloadKind::StatefulSet, name),
                ObjectKind::ReplicaSet => workload(WorkloadKind::ReplicaSet, name),
                ObjectKind::Job => workload(WorkloadKind::Job, name),
            },
        }
    }
}

type Views<T> = watch::Receiver<Arc<View<T>>>;

struct Driver {
    scope: Scope,
    api: Api,
    wanted: Wanted,
    wake: watch::Receiver<u64>,
    service: Option<Views<Service>>,
    slices: Option<Views<EndpointSlice>>,
    workload: Option<Views<Workload>>,
    pods: Option<Views<Pod>>,
    /// The selector that `pods` follows.
    selector: Option<String>,
    logs: Logs,
    aside: Aside,
}

/// What labels without a pod may have been meant to be. It is asked for once, and only until there was a pod.
#[derive(Default)]
struct Aside {
    over: bool,
    /// There was a pod.
    worked: bool,
    text: Option<String>,
    fetch: Option<BoxFuture<'static, Option<String>>>,
}

/// Last words of containers that crash, by pod, container and restart.
#[derive(Default)]
struct Logs {
    lines: HashMap<LogKey, Option<String>>,
    fetch: Option<BoxFuture<'static, (LogKey, Option<String>)>>,
}

type LogKey = (String, String, u32);

impl Driver {
    fn new(scope: Scope, api: Api, wanted: Wanted, wake: watch::Receiver<u64>) -> Self {
        let (service, slices, workload, pods) = (None, None, None, None);
        let (logs, aside) = (Logs::default(), Aside::default());
        let mut driver =
            Self { scope, api, wanted, wake, service, slices, workload, pods, selector: None, logs, aside };
        match driver.wanted.of.clone() {
            Of::Service(name) => {
                let slices = format!("kubernetes.io/service-name={name}");
                let slices = Collection::labelled(driver.path("apis/discovery.k8s.io/v1", "endpointslices"), &slices);
                driver.service = Some(driver.follow(Collection::single(driver.path("api/v1", "services"), &name)));
                driver.slices = Some(driver.follow(slices));
            }
            Of::Workload(kind, name) => {
                let (group, resource) = group_and_resource(kind);
                driver.workload = Some(driver.follow(Collection::single(driver.path(group, resource), &name)));
            }
            Of::Pod(name) => {
                driver.pods = Some(driver.follow(Collection::single(driver.path("api/v1", "pods"), &name)));
            }
            Of::Labels(labels) => driver.follow_pods(Some(labels)),
        }
        driver
    }

    async fn run(mut self, out: watch::Sender<Arc<Resolution>>) {
        loop {
            tokio::select! {
                biased;
                // 1. The end.
                () = self.scope.drained() => return,
                () = out.closed() => return,
                // 2. News.
                () = changed(&mut self.service) => {}
                () = changed(&mut self.slices) => {}
                () = changed(&mut self.workload) => {}
                () = changed(&mut self.pods) => {}
                // 3. What only helps to understand.
                (key, line) = fetched(&mut self.logs.fetch) => {
                    self.logs.fetch = None;
                    self.logs.lines.insert(key, line);
                }
                text = fetched(&mut self.aside.fetch) => {
                    self.aside.fetch = None;
                    self.aside.text = text;
                }
            }
            self.publish(&out);
        }
    }

    fn publish(&mut self, out: &watch::Sender<Arc<Resolution>>) {
        self.select_pods();
        let mut resolution = self.resolve();
        self.add_logs(&mut resolution);
        self.add_aside(&mut resolution);
        out.send_if_modified(|last| {
            let differs = !last.is_same(&resolution);
            if differs {
                *last = Arc::new(resolution);
            }
            differs
        });
    }

    /// Follows the pods of the selector that the service or the workload has now.
    fn select_pods(&mut self) {
        let selector = match &self.wanted.of {
            Of::Pod(_) | Of::Labels(_) => return,
            Of::Service(name) => {
                let Some(view) = current(&mut self.service) else { return };
                view.objects.get(name).and_then(|service| labels_query(&service.spec.selector))
            }
            Of::Workload(_, name) => {
                let Some(view) = current(&mut self.workload) else { return };
                view.objects.get(name).and_then(|workload| workload.spec.selector.to_query())
            }
        };
        if selector != self.selector {
            self.follow_pods(selector);
        }
    }

    fn follow_pods(&mut self, selector: Option<String>) {
        let pods = |labels: &String| self.follow(Collection::labelled(self.path("api/v1", "pods"), labels));
        self.pods = selector.as_ref().map(pods);
        self.selector = selector;
    }

    fn resolve(&mut self) -> Resolution {
        let (service, slices) = (current(&mut self.service), current(&mut self.slices));
        let (workload, pods) = (current(&mut self.workload), current(&mut self.pods));
        let name = match &self.wanted.of {
            Of::Service(name) | Of::Workload(_, name) | Of::Pod(name) => name.as_str(),
            Of::Labels(_) => "",
        };
        let seen = Seen {
            service: look(service.as_deref(), |view| view.objects.get(name).map(|found| &**found)),
            slices: look(slices.as_deref(), all),
            workload: look(workload.as_deref(), |view| view.objects.get(name).map(|found| &**found)),
            pods: look(pods.as_deref(), all),
            pods_current: pods.as_deref().is_some_and(View::is_current),
        };
        let mut resolution = resolve(&self.wanted, &seen);
        let troubles = [
            trouble(service.as_deref()),
            trouble(slices.as_deref()),
            trouble(workload.as_deref()),
            trouble(pods.as_deref()),
        ];
        resolution.trouble = troubles.into_iter().flatten().min_by_key(|trouble| trouble.since).cloned();
        resolution
    }

    /// Adds the last log lines that are known, and fetches one that is not.
    fn add_logs(&mut self, resolution: &mut Resolution) {
        let mut wanted = HashMap::new();
        let mut missing = None;
        let troubles = resolution.none.as_mut().map(NoTarget::pods_mut).unwrap_or_default();
        for trouble in troubles.iter_mut().take(LOGS) {
            let PodWhy::Crash(crash) = &mut trouble.why else { continue };
            if !crash.message.is_empty() {
                continue;
            }
            let key = (trouble.uid.clone(), crash.container.clone(), crash.restarts);
            match self.logs.lines.remove(&key) {
                Some(line) => {
                    crash.log.clone_from(&line);
                    wanted.insert(key, line);
                }
                None if missing.is_none() => {
                    missing = Some((key, log_path(&self.wanted.namespace, &trouble.pod, crash)));
                }
                None => {}
            }
        }
        // What nobody asks about any more is forgotten.
        self.logs.lines = wanted;
        if let (None, Some((key, path))) = (&self.logs.fetch, missing) {
            let api = self.api.clone();
            let fetch = async move { (key, api.get_text(&path).await.ok().and_then(|text| last_line(&text))) };
            self.logs.fetch = Some(fetch.boxed());
        }
    }

    /// Says what labels that no pod has may have been meant to be.
    fn add_aside(&mut self, resolution: &mut Resolution) {
        let Of::Labels(labels) = &self.wanted.of else { return };
        match &mut resolution.none {
            Some(NoTarget::NoPods { aside, .. }) if resolution.candidates.is_empty() => {
                if !std::mem::replace(&mut self.aside.over, true) {
                    let (api, namespace, labels) = (self.api.clone(), self.wanted.namespace.clone(), labels.clone());
                    self.aside.fetch = Some(async move { mistyped::labels(&api, &namespace, &labels).await }.boxed());
                }
                match &self.aside.text {
                    Some(text) => *aside = Some(text.clone()),
                    // There were pods with these labels: they are right.
                    None if self.aside.worked => *aside = None,
                    None => {}
                }
            }
            _ if resolution.candidates.is_empty() => {}
            _ => self.aside = Aside { over: true, worked: true, text: None, fetch: None },
        }
    }

    fn follow<T: Object>(&self, what: Collection) -> Views<T> {
        follow(&self.scope, self.api.clone(), what, self.wake.clone())
    }

    fn path(&self, group: &str, resource: &str) -> String {
        format!("/{group}/namespaces/{}/{resource}", encoded(&self.wanted.namespace))
    }
}

impl Wanted {
    /// Where all objects of the kind that was asked for are listed.
    pub(super) fn all_of_the_kind(&self) -> String {
        let (group, resource) = match &self.of {
            Of::Service(_) => ("api/v1", "services"),
            Of::Workload(kind, _) => group_and_resource(*kind),
            Of::Pod(_) | Of::Labels(_) => ("api/v1", "pods"),
        };
        format!("/{group}/namespaces/{}/{resource}", encoded(&self.namespace))
    }
}

/// Waits before the next attempt; news end the wait. False: there will be none, the target was let go.
pub(crate) async fn pause(resolution: &mut watch::Receiver<Arc<Resolution>>, backoff: &mut Backoff) -> bool {
    let wait = backoff.next_wait(rand::random());
    !matches!(tokio::time::timeout(wait, resolution.changed()).await, Ok(Err(_)))
}

const fn group_and_resource(kind: WorkloadKind) -> (&'static str, &'static str) {
    match kind {
        WorkloadKind::Deployment => ("apis/apps/v1", "deployments"),
        WorkloadKind::StatefulSet => ("apis/apps/v1", "statefulsets"),
        WorkloadKind::ReplicaSet => ("apis/apps/v1", "replicasets"),
        WorkloadKind::Job => ("apis/batch/v1", "jobs"),
    }
}

fn log_path(namespace: &str, pod: &str, crash: &Crash) -> String {
    // Between two starts, the container that is told of is the current one; while it waits, it is the previous one.
    let previous = crash.reason == "CrashLoopBackOff";
    let (namespace, pod, container) = (encoded(namespace), encoded(pod), encoded(&crash.container));
    format!(
        "/api/v1/namespaces/{namespace}/pods/{pod}/log?container={container}&tailLines={LOG_LINES}&limitBytes={LOG_BYTES}&previous={previous}"
    )
}

fn last_line(text: &str) -> Option<String> {
    text.lines().rev().map(plain).find(|line| !line.is_empty())
}

fn current<T>(views: &mut Option<Views<T>>) -> Option<Arc<View<T>>> {
    views.as_mut().map(|views| Arc::clone(&views.borrow_and_update()))
}

fn look<'a, T: Object, R>(view: Option<&'a View<T>>, read: impl FnOnce(&'a View<T>) -> R) -> Look<R> {
    let Some(view) = view else { return Look::Pending(None) };
    match (view.state, &view.trouble) {
        (State::Known, _) => Look::Seen(read(view)),
        (State::Forbidden | State::Missing, Some(trouble)) => Look::Withheld(trouble.error.clone()),
        (_, trouble) => Look::Pending(trouble.as_ref().map(|trouble| trouble.error.clone())),
    }
}

fn all<T>(view: &View<T>) -> Vec<&T> {
    view.objects.values().map(|object| &**object).collect()
}

fn trouble<T>(view: Option<&View<T>>) -> Option<&Trouble> {
    view.filter(|view| view.state == State::Known).and_then(|view| view.trouble.as_ref())
}

async fn changed<T>(views: &mut Option<Views<T>>) {
    if let Some(views) = views
        && views.changed().await.is_ok()
    {
        return;
    }
    // A follow that has ended tells nothing more: it ends with its scope.
    pending::<()>().await;
}

async fn fetched<T>(fetch: &mut Option<BoxFuture<'static, T>>) -> T {
    match fetch {
        Some(fetch) => fetch.await,
        None => pending().await,
    }
}
