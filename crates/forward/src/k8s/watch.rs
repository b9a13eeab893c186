//! Follows one collection of objects: a list, then a watch from there on, again and again, without ever losing what is
//! known. An API server that is gone leaves the last view as it is, with the trouble noted in it.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_core::backoff::Backoff;
use futures_util::StreamExt as _;
use kube::core::WatchEvent;
use runtime::scope::Scope;
use tokio::sync::watch;

use super::api::{Api, ApiError};
use super::objects::{List, Object};

/// Objects asked for at once; kubectl's number.
const PAGE: usize = 500;
/// Pages of one list. A server that always promises one more must not keep us here.
const PAGES: usize = 1_000;
/// How long a watch is asked to last: at least, and how much it is spread so that many do not end together.
const WATCH_SECONDS: u64 = 240;
const WATCH_SPREAD: u64 = 60;
/// How much longer than asked a watch may last before its connection counts as dead.
const WATCH_GRACE: Duration = Duration::from_secs(15);
/// A watch that lasted this long worked: its end is followed by another at once.
const STEADY: Duration = Duration::from_secs(1);
/// Between two looks where watching is not permitted, and how many looks until it is tried again.
const POLL: Duration = Duration::from_secs(2);
const POLLS: u32 = 150;
/// Until a refusal is asked about again.
const REFUSED: Duration = Duration::from_secs(30);
/// The same for credentials that do not work: their user may be about to log in again.
const UNKNOWN_USER: Duration = Duration::from_secs(10);
/// The longest wait while there is no way to the server: it asks nobody else for anything, and somebody waits.
const UNREACHED: Duration = Duration::from_secs(2);
/// The shortest wait after an answer that says that the server is overloaded or ill.
const OVERLOADED: Duration = Duration::from_secs(1);

/// What is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Collection {
    /// Such as `/api/v1/namespaces/default/pods`.
    path: String,
    labels: Option<String>,
    /// Only the object of this name.
    name: Option<String>,
}

impl Collection {
    /// The one object of that name. It can be followed with no more than the right to `get` it.
    pub(crate) fn single(path: String, name: &str) -> Self {
        Self { path, labels: None, name: Some(name.to_owned()) }
    }

    /// All objects with these labels.
    pub(crate) fn labelled(path: String, labels: &str) -> Self {
        Self { path, labels: Some(labels.to_owned()), name: None }
    }

    fn query(&self) -> String {
        let mut query = String::new();
        if let Some(labels) = &self.labels {
            query.push_str(&format!("&labelSelector={}", encoded(labels)));
        }
        if let Some(name) = &self.name {
            query.push_str(&format!("&fieldSelector={}", encoded(&format!("metadata.name={name}"))));
        }
        query
    }

    fn list(&self, next: Option<&str>) -> String {
        let next = next.map(|next| format!("&continue={}", encoded(next))).unwrap_or_default();
        format!("{}?limit={PAGE}{}{next}", self.path, self.query())
    }

    fn watch(&self, version: &str, seconds: u64) -> String {
        let (path, query, version) = (&self.path, self.query(), encoded(version));
        format!("{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}{query}")
    }

    fn get(&self) -> Option<String> {
        self.name.as_ref().map(|name| format!("{}/{}", self.path, encoded(name)))
    }
}

/// What is known of a collection.
#[derive(Clone, Debug)]
pub(crate) struct View<T> {
    pub(crate) state: State,
    /// By name, as they were when last heard of.
    pub(crate) objects: BTreeMap<String, Arc<T>>,
    /// What keeps the view from being up to date.
    pub(crate) trouble: Option<Trouble>,
}

/// How much is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing yet.
    Loading,
    /// The objects were listed.
    Known,
    /// They may not be listed; the trouble says why.
    Forbidden,
    /// This API server has no such collection.
    Missing,
}

/// An error that lasts.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) error: ApiError,
    /// Since when.
    pub(crate) since: Instant,
}

impl<T: Object> View<T> {
    const fn new() -> Self {
        Self { state: State::Loading, objects: BTreeMap::new(), trouble: None }
    }

    /// Whether it is what the API server says now.
    pub(crate) fn is_current(&self) -> bool {
        self.state == State::Known && self.trouble.is_none()
    }

    fn replace(&mut self, objects: Vec<T>) {
        self.objects = objects.into_iter().map(|object| (object.meta().name.clone(), Arc::new(object))).collect();
        self.state = State::Known;
        self.trouble = None;
    }

    fn put(&mut self, object: T) {
        self.objects.insert(object.meta().name.clone(), Arc::new(object));
    }

    fn remove(&mut self, object: &T) {
        let meta = object.meta();
        // The late end of an old object is not that of its successor of the same name.
        if self.objects.get(&meta.name).is_some_and(|known| known.meta().uid == meta.uid) {
            self.objects.remove(&meta.name);
        }
    }

    /// Notes an error; what was known stays.
    fn fail(&mut self, error: ApiError, now: Instant) {
        if self.state != State::Known {
            self.state = match error {
                ApiError::Forbidden { .. } => State::Forbidden,
                ApiError::NotFound { .. } => State::Missing,
                _ => State::Loading,
            };
        }
        let since = self.trouble.as_ref().map_or(now, |trouble| trouble.since);
        self.trouble = Some(Trouble { error, since });
    }
}

/// Starts to follow. It ends when the scope drains, or when nobody holds the receiver any more. Each change of `wake`
/// makes it ask anew at once.
pub(crate) fn follow<T: Object>(
    scope: &Scope,
    api: Api,
    what: Collection,
    wake: watch::Receiver<u64>,
) -> watch::Receiver<Arc<View<T>>> {
    let (sender, receiver) = watch::channel(Arc::new(View::new()));
    let redials = api.redials();
    let follow = Follow { api, sender: sender.clone(), cursor: Cursor::new(what), objects: PhantomData };
    let ends = Ends { scope: scope.clone(), wake, redials, closed: sender };
    scope.spawn("kubernetes watch", follow.run(ends));
    receiver
}

/// What interrupts a turn.
struct Ends<T> {
    scope: Scope,
    wake: watch::Receiver<u64>,
    redials: watch::Receiver<u64>,
    closed: watch::Sender<T>,
}

impl<T> Ends<T> {
    /// `None` at the end of everything, `Some(None)` when woken.
    async fn or<R>(&mut self, work: impl Future<Output = R>) -> Option<Option<R>> {
        tokio::select! {
            biased;
            // 1. The end.
            () = self.scope.drained() => None,
            () = self.closed.closed() => None,
            // 2. The laptop woke: whatever is under way may wait for a dead connection.
            Ok(()) = self.wake.changed() => Some(None),
            Ok(()) = self.redials.changed() => Some(None),
            // 3. The work itself.
            done = work => Some(Some(done)),
        }
    }
}

struct Follow<T> {
    api: Api,
    sender: watch::Sender<Arc<View<T>>>,
    cursor: Cursor,
    objects: PhantomData<fn() -> T>,
}

impl<T: Object> Follow<T> {
    async fn run(mut self, mut ends: Ends<Arc<View<T>>>) {
        loop {
            let begun = tokio::time::Instant::now();
            let Some(done) = ends.or(self.turn()).await else { return };
            let Some(result) = done else {
                self.cursor.woken();
                continue;
            };
            let wait = self.settle(result, begun.elapsed());
            if wait.is_zero() {
                continue;
            }
            match ends.or(tokio::time::sleep(wait)).await {
                None => return,
                Some(None) => self.cursor.woken(),
                Some(Some(())) => {}
            }
        }
    }

    /// One conversation with the API server. Dropped at any point, it leaves a whole view.
    async fn turn(&mut self) -> Result<(), ApiError> {
        match self.cursor.way {
            Way::Watch => {
                let version = match self.cursor.version.clone() {
                    Some(version) => version,
                    None => self.list().await?,
                };
                self.watch(&version).await
            }
            Way::PollList => self.list().await.map(drop),
            Way::PollGet => self.get().await,
        }
    }

    async fn list(&mut self) -> Result<String, ApiError> {
        let mut objects = Vec::new();
        let mut next = None;
        for _ in 0..PAGES {
            let page: List<T> = self.api.get(&self.cursor.what.list(next.as_deref())).await?;
            objects.extend(page.items);
            next = page.metadata.next.filter(|next| !next.is_empty());
            if next.is_none() {
                let version = page.metadata.resource_version;
                if version.is_empty() {
                    let reason = "it is no list: it has no version".to_owned();
                    return Err(ApiError::Decode { what: self.cursor.what.path.clone(), reason });
                }
                self.change(|view| view.replace(objects));
                self.cursor.version = Some(version.clone());
                return Ok(version);
            }
        }
        let reason = format!("it has more than {} objects", PAGE * PAGES);
        Err(ApiError::Decode { what: self.cursor.what.path.clone(), reason })
    }

    async fn get(&mut self) -> Result<(), ApiError> {
        let Some(path) = self.cursor.what.get() else { return self.list().await.map(drop) };
        let found = match self.api.get::<T>(&path).await {
            Ok(object) => vec![object],
            Err(ApiError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        self.change(|view| view.replace(found));
        Ok(())
    }

    async fn watch(&mut self, version: &str) -> Result<(), ApiError> {
        let seconds = WATCH_SECONDS + rand::random::<u64>() % WATCH_SPREAD;
        let mut events = self.api.watch::<T>(&self.cursor.what.watch(version, seconds)).await?;
        self.answered();
        let end = tokio::time::Instant::now() + Duration::from_secs(seconds) + WATCH_GRACE;
        while let Ok(Some(event)) = tokio::time::timeout_at(end, events.next()).await {
            self.apply(event?)?;
        }
        Ok(())
    }

    fn apply(&mut self, event: WatchEvent<T>) -> Result<(), ApiError> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.cursor.seen(&object.meta().resource_version);
                self.change(|view| view.put(object));
            }
            WatchEvent::Deleted(object) => {
                self.cursor.seen(&object.meta().resource_version);
                self.change(|view| view.remove(&object));
            }
            WatchEvent::Bookmark(bookmark) => self.cursor.seen(&bookmark.metadata.resource_version),
            WatchEvent::Error(status) => {
                return Err(ApiError::of_status(status.code, &status.reason, &status.message));
            }
        }
        Ok(())
    }

    /// The server answers again: what is known counts as current.
    fn answered(&mut self) {
        if self.sender.borrow().trouble.is_some() {
            self.change(|view| view.trouble = None);
        }
    }

    /// What the end of a turn means: notes a trouble, and says how long to wait.
    fn settle(&mut self, result: Result<(), ApiError>, lasted: Duration) -> Duration {
        let Settled { wait, trouble } = self.cursor.settle(result, lasted, rand::random());
        if let Some(error) = trouble {
            tracing::debug!(what = self.cursor.what.path, %error, "the API server does not tell");
            self.change(|view| view.fail(error, Instant::now()));
        }
        wait
    }

    fn change(&self, change: impl FnOnce(&mut View<T>)) {
        self.sender.send_modify(|view| change(Arc::make_mut(view)));
    }
}

/// Where a follow stands, and how it goes on: a plain function of what happened.
#[derive(Debug)]
struct Cursor {
    what: Collection,
    way: Way,
    /// From where the next watch goes on; without it, everything is listed anew.
    version: Option<String>,
    backoff: Backoff,
    /// Whether the next failure is followed by another attempt at once.
    eager: bool,
    polls: u32,
}

/// How news are had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By list and watch.
    Watch,
    /// By list again and again: the watch is not permitted.
    PollList,
    /// By get again and again: no more than that is permitted.
    PollGet,
}

/// What follows from the end of a turn.
#[derive(Debug)]
struct Settled {
    wait: Duration,
    /// An error that the view should show.
    trouble: Option<ApiError>,
}

impl Cursor {
    fn new(what: Collection) -> Self {
        Self { what, way: Way::Watch, version: None, backoff: Backoff::default(), eager: false, polls: 0 }
    }

    /// Remembers how far the watch has come.
    fn seen(&mut self, version: &str) {
        if !version.is_empty() {
            self.version = Some(version.to_owned());
        }
    }

    /// Whatever was waited for: now is the time.
    fn woken(&mut self) {
        self.backoff.reset();
        self.eager = true;
        self.polls = POLLS;
    }

    fn settle(&mut self, result: Result<(), ApiError>, lasted: Duration, random: u64) -> Settled {
        if self.way == Way::Watch && self.version.is_some() && lasted >= STEADY {
            self.backoff.reset();
            self.eager = true;
        }
        match result {
            Ok(()) if self.way != Way::Watch => Settled { wait: self.polled(), trouble: None },
            Ok(()) => Settled { wait: self.again(random), trouble: None },
            Err(ApiError::Gone { .. }) => {
                self.version = None;
                Settled { wait: self.again(random), trouble: None }
            }
            Err(error @ ApiError::Forbidden { .. }) => self.refused(error),
            Err(error @ ApiError::NotFound { .. }) => {
                self.version = None;
                Settled { wait: REFUSED, trouble: Some(error) }
            }
            Err(error) => self.failed(error, random),
        }
    }

    fn polled(&mut self) -> Duration {
        self.backoff.reset();
        self.polls += 1;
        if self.polls >= POLLS {
            (self.way, self.version, self.polls) = (Way::Watch, None, 0);
        }
        POLL
    }

    /// The wait before the same is tried again.
    fn again(&mut self, random: u64) -> Duration {
        if std::mem::take(&mut self.eager) { Duration::ZERO } else { self.backoff.next_wait(random) }
    }

    /// Tries the next lesser right.
    fn refused(&mut self, error: ApiError) -> Settled {
        let next = match self.way {
            Way::Watch if self.version.is_some() => Some((Way::PollList, POLL)),
            Way::Watch if self.what.name.is_some() => Some((Way::PollGet, Duration::ZERO)),
            _ => None,
        };
        self.version = None;
        match next {
            Some((way, wait)) => {
                (self.way, self.polls) = (way, 0);
                Settled { wait, trouble: None }
            }
            None => {
                self.way = Way::Watch;
                Settled { wait: REFUSED, trouble: Some(error) }
            }
        }
    }

    fn failed(&mut self, error: ApiError, random: u64) -> Settled {
        // A watch that worked has broken: perhaps it is the connection alone, and the next one will do.
        if std::mem::take(&mut self.eager) {
            return Settled { wait: Duration::ZERO, trouble: None };
        }
        if matches!(error, ApiError::Decode { .. }) {
            self.version = None;
        }
        let mut wait = self.backoff.next_wait(random);
        if let ApiError::Unreachable { .. } | ApiError::Timeout { .. } = error {
            wait = wait.min(UNREACHED);
        }
        let least = match &error {
            ApiError::Status { .. } | ApiError::Decode { .. } => OVERLOADED,
            error if error.is_transient() => Duration::ZERO,
            _ => UNKNOWN_USER,
        };
        Settled { wait: wait.max(least), trouble: Some(error) }
    }
}

/// A text as a part of a path or a query.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests;
