//! A fake Kubernetes cluster: a real TLS server on loopback that stock `kubectl` takes for an API server.
//!
//! It keeps objects, lists and watches them, checks who asks, and carries `portforward` and `exec`; pods are entries
//! of its store whose ports lead to addresses of this machine. What a test must survive is switched on at run time
//! through [`Faults`].

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

mod api;
mod auth;
mod clock;
mod connection;
mod controllers;
mod create;
mod delete;
mod discovery;
mod endpoints;
mod faults;
mod gate;
mod kinds;
mod kubeconfig;
mod list;
mod listener;
mod logs;
mod objects;
mod patch;
mod populate;
mod query;
mod reply;
mod selector;
mod store;
mod stream;
mod table;
mod tasks;
mod upgrade;
mod watching;

pub use auth::AuthMode;
pub use create::PodStart;
pub use faults::Faults;
pub use objects::{PodSpec, ServicePort};
pub use stream::{Host, Inside, StreamFaults, Transport};

use auth::Auth;
use listener::Listener;
use logs::Logs;
use store::Store;
use tasks::Tasks;

/// How many request lines are kept for tests to look at; older ones are forgotten.
const REQUESTS: usize = 16_384;
/// How long [`Cluster::shutdown`] waits for its tasks.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// The running cluster; dropping it ends all its tasks and connections.
pub struct Cluster {
    shared: Arc<Shared>,
}

/// What a cluster is like.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Which upgrades it accepts and which version it names.
    pub version: ServerVersion,
    /// A path before every request path, as a Rancher proxy has: `/k8s/clusters/c-x`.
    pub path_prefix: Option<String>,
    /// How clients show who they are.
    pub auth: AuthMode,
    /// How long the other direction of a forwarded stream may go on after one has ended (containerd: 1 s).
    pub half_close_wait: Duration,
    /// How long an error stream waits for its data stream and the other way round (kubelet: 30 s).
    pub stream_pair_wait: Duration,
    /// Where to listen; a free port of 127.0.0.1 by default.
    pub listen: Option<SocketAddr>,
    /// Whether the API speaks TLS.
    pub tls: bool,
    /// What becomes of a pod that is created through the API.
    pub pod_start: PodStart,
    /// The longest a pod deleted through the API keeps running, whatever grace period the request names.
    pub pod_grace: Duration,
    /// How many changes are kept for watches that start at an old version.
    pub history: usize,
    /// How often a watch that allows them gets a bookmark.
    pub bookmarks: Duration,
    /// Whether `/api` and `/apis` answer in the aggregated form to who asks for it.
    pub aggregated_discovery: bool,
}

/// The versions whose upgrade answers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerVersion {
    /// 1.28 and before: WebSockets reach the kubelet as they are.
    V1_28,
    /// 1.31 to 1.35: the API server unwraps WebSockets.
    V1_31,
    /// 1.36.
    V1_36,
}

/// What all connections and tasks of one cluster share.
pub(crate) struct Shared {
    pub(crate) options: ClusterOptions,
    pub(crate) faults: Faults,
    store: Arc<Store>,
    auth: Auth,
    logs: Logs,
    listener: Arc<Listener>,
    start: Mutex<PodStart>,
    backends: Mutex<HashMap<(String, String), HashMap<u16, SocketAddr>>>,
    requests: Mutex<VecDeque<String>>,
    /// Held while the controllers act.
    controlling: Mutex<()>,
    addresses: AtomicU32,
    tasks: Tasks,
}

impl Cluster {
    /// Starts a cluster with the namespace `default`, one node, and nothing else.
    ///
    /// # Panics
    /// When loopback, a temporary directory or a certificate cannot be had.
    #[expect(clippy::unused_async, reason = "it must run inside a runtime, and callers await it")]
    pub async fn start(options: ClusterOptions) -> Self {
        let listener = Arc::new(Listener::bind(options.listen).expect("the cluster's address is free"));
        let store = Arc::new(Store::new(options.history));
        let shared = Arc::new(Shared {
            faults: Faults::new(Arc::clone(&store), Arc::clone(&listener)),
            auth: Auth::new(&options.auth).expect("certificates and a temporary directory can be made"),
            start: Mutex::new(options.pod_start.clone()),
            logs: Logs::default(),
            backends: Mutex::default(),
            requests: Mutex::default(),
            controlling: Mutex::default(),
            addresses: AtomicU32::new(0),
            tasks: Tasks::new(),
            options,
            store,
            listener,
        });
        populate::base(&shared);
        shared.listener.serve(&shared).expect("the reserved address takes a listener");
        Self { shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.listener.address()
    }

    /// The API's base, with the path prefix.
    pub fn url(&self) -> String {
        self.shared.url()
    }

    /// A kubeconfig with the context `fake` and the namespace `default`.
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_named("fake", "fake", "fake")
    }

    /// A kubeconfig with other names.
    pub fn kubeconfig_named(&self, context: &str, cluster: &str, user: &str) -> String {
        kubeconfig::text(&self.shared, context, cluster, user)
    }

    /// Writes [`Cluster::kubeconfig`] to a file, mode 0600.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path) {
        kubeconfig::write(path, &self.kubeconfig()).expect("the kubeconfig can be written");
    }

    /// The certificate authority as PEM.
    pub fn ca_pem(&self) -> String {
        self.shared.auth.ca_pem().to_owned()
    }

    /// Creates an object or replaces it; watches see it.
    pub fn apply(&self, object: Value) {
        self.shared.put(object);
    }

    /// Merges into an object by the rules of JSON merge patch.
    ///
    /// # Panics
    /// When there is no such object.
    #[expect(clippy::needless_pass_by_value, reason = "tests hand over a json! literal")]
    pub fn patch(&self, kind: &str, ns: &str, name: &str, merge: Value) {
        let kind = kinds::named(kind).expect("a kind of this cluster");
        let patched = self.shared.update(kind, ns, name, |object| patch::merge(object, &merge));
        patched.unwrap_or_else(|| panic!("no {kind} {ns}/{name}", kind = kinds::KINDS[kind].kind));
    }

    /// Removes an object at once, without a grace period; false when there is none.
    pub fn delete(&self, kind: &str, ns: &str, name: &str) -> bool {
        kinds::named(kind).is_some_and(|kind| self.shared.remove(kind, ns, name).is_some())
    }

    /// The object as it is now.
    pub fn get(&self, kind: &str, ns: &str, name: &str) -> Option<Value> {
        kinds::named(kind).and_then(|kind| self.shared.store.get(kind, ns, name)).map(|object| (*object).clone())
    }

    /// All objects of a kind, in all namespaces.
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let objects = kinds::named(kind).map(|kind| self.shared.store.list(kind, None).1).unwrap_or_default();
        objects.iter().map(|object| (**object).clone()).collect()
    }

    /// Where a port of a pod leads.
    pub fn backend(&self, ns: &str, pod: &str, port: u16) -> Option<SocketAddr> {
        self.shared.backend(ns, pod, port)
    }

    /// Leads a port of a pod somewhere; `None`: nothing listens in the pod.
    pub fn set_backend(&self, ns: &str, pod: &str, port: u16, addr: Option<SocketAddr>) {
        self.shared.set_backend(ns, pod, port, addr);
    }

    /// What `kubectl logs` gives for a container (`""`: any container of the pod).
    pub fn set_log(&self, ns: &str, pod: &str, container: &str, text: &str) {
        self.shared.logs.set(ns, pod, container, false, text);
    }

    /// What `kubectl logs --previous` gives.
    pub fn set_previous_log(&self, ns: &str, pod: &str, container: &str, text: &str) {
        self.shared.logs.set(ns, pod, container, true, text);
    }

    /// What becomes of pods created through the API from now on.
    pub fn on_create(&self, start: PodStart) {
        *locked(&self.shared.start) = start;
    }

    /// Makes a new token (and, with a plugin, the credential it prints); the old one gets 401 from now on.
    pub fn rotate_token(&self) -> String {
        self.shared.auth.rotate()
    }

    /// How often the credential plugin ran.
    pub fn plugin_runs(&self) -> usize {
        self.shared.auth.plugin_runs()
    }

    /// The switches for what goes wrong.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The latest requests as `GET /api/v1/…`, with their queries and without the path prefix.
    pub fn requests(&self) -> Vec<String> {
        locked(&self.shared.requests).iter().cloned().collect()
    }

    /// How many of [`Cluster::requests`] start like this.
    pub fn count_requests(&self, prefix: &str) -> usize {
        locked(&self.shared.requests).iter().filter(|line| line.starts_with(prefix)).count()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        locked(&self.shared.requests).clear();
    }

    /// How many client connections are open.
    pub fn open_connections(&self) -> usize {
        self.shared.listener.gates().open()
    }

    /// Ends it and waits until its port is closed.
    pub async fn shutdown(self) {
        self.shared.listener.stop().await;
        // Aborted tasks end at once, but for one that is in the middle of something long.
        let _ = tokio::time::timeout(SHUTDOWN, self.shared.tasks.end()).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Tasks hold the shared state, so it would never go by itself.
        self.shared.listener.abandon();
        self.shared.tasks.abandon();
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("url", &self.url()).finish_non_exhaustive()
    }
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            version: ServerVersion::V1_36,
            path_prefix: None,
            auth: AuthMode::random_token(),
            half_close_wait: Duration::from_secs(1),
            stream_pair_wait: Duration::from_secs(30),
            listen: None,
            tls: true,
            pod_start: PodStart::Running { after: Duration::from_millis(50) },
            pod_grace: Duration::from_secs(1),
            history: 8192,
            bookmarks: Duration::from_secs(60),
            aggregated_discovery: true,
        }
    }
}

impl ServerVersion {
    /// The version's name as `/version` gives it.
    pub fn git_version(self) -> &'static str {
        match self {
            Self::V1_28 => "v1.28.15",
            Self::V1_31 => "v1.31.14",
            Self::V1_36 => "v1.36.2",
        }
    }

    /// The minor version.
    pub fn minor(self) -> u32 {
        match self {
            Self::V1_28 => 28,
            Self::V1_31 => 31,
            Self::V1_36 => 36,
        }
    }
}

impl Shared {
    /// Where a port of a pod that exists leads; `None`: connection refused in the pod.
    pub(crate) fn backend(&self, ns: &str, pod: &str, port: u16) -> Option<SocketAddr> {
        locked(&self.backends).get(&(ns.to_owned(), pod.to_owned()))?.get(&port).copied()
    }

    fn set_backend(&self, ns: &str, pod: &str, port: u16, addr: Option<SocketAddr>) {
        let mut backends = locked(&self.backends);
        let ports = backends.entry((ns.to_owned(), pod.to_owned())).or_default();
        match addr {
            Some(addr) => ports.insert(port, addr),
            None => ports.remove(&port),
        };
    }

    /// The pod as it is now; its `metadata.uid` tells whether it is still the same one.
    pub(crate) fn pod(&self, ns: &str, name: &str) -> Option<Arc<Value>> {
        self.store.get(kinds::POD, ns, name)
    }

    /// Changes its value with every change of any object: wait on it, then look again.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.store.changes()
    }

    /// Runs a task that ends with the cluster at the latest.
    pub(crate) fn hold(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Creates or replaces an object and lets the controllers act.
    fn put(&self, object: Value) -> Arc<Value> {
        let stored = self.store.put(object);
        controllers::run(self, &stored);
        stored
    }

    /// Changes an object and lets the controllers act; `None` when there is none.
    fn update(&self, kind: usize, ns: &str, name: &str, change: impl FnOnce(&mut Value)) -> Option<Arc<Value>> {
        let stored = self.store.update(kind, ns, name, change)?;
        controllers::run(self, &stored);
        Some(stored)
    }

    /// Removes an object and lets the controllers act.
    fn remove(&self, kind: usize, ns: &str, name: &str) -> Option<Arc<Value>> {
        let removed = self.store.delete(kind, ns, name)?;
        if kind == kinds::POD {
            locked(&self.backends).remove(&(ns.to_owned(), name.to_owned()));
        }
        controllers::run(self, &removed);
        Some(removed)
    }

    /// An address that no pod has had.
    fn next_ip(&self) -> String {
        let number = self.addresses.fetch_add(1, Ordering::Relaxed) + 2;
        format!("10.244.{}.{}", number / 250 % 256, number % 250 + 1)
    }

    fn url(&self) -> String {
        let scheme = if self.options.tls { "https" } else { "http" };
        let prefix = self.options.path_prefix.as_deref().unwrap_or("");
        format!("{scheme}://{}{prefix}", self.listener.address())
    }

    fn log(&self, line: String) {
        let mut requests = locked(&self.requests);
        if requests.len() == REQUESTS {
            requests.pop_front();
        }
        requests.push_back(line);
    }
}

/// The lock, whoever panicked while holding it: a failed test must not fail the others' clean-up.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
