//! `Scope`: a set of tasks with three rising signals (drain, cancel, abort) and child scopes.
//!
//! This is the only place that spawns tasks. Nothing spawned is ever lost: a scope knows how many
//! tasks it has and what they are called, logs their panics, and can wait until none is left.
//! Spawning costs one allocation (tokio's own) and two short locks in a task's whole life.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;
use tokio::sync::{Notify, oneshot};

/// Take nothing new, finish what is in flight.
const DRAIN: u8 = 1;
/// Stop what is in flight at the next opportunity, tell the peers why.
const CANCEL: u8 = 2;
/// Drop the futures of every task.
const ABORT: u8 = 3;

/// A set of tasks and the three signals that end them; cloning gives another handle to the same set.
#[derive(Clone)]
pub struct Scope {
    inner: Arc<Inner>,
}

impl Scope {
    /// A scope without a parent: one per program, or per test.
    #[must_use]
    pub fn root() -> Self {
        Self { inner: Arc::new(Inner::new(None, 0)) }
    }

    /// A scope that receives this one's signals, and whose tasks this one waits for in [`Scope::idle`].
    #[must_use]
    pub fn child(&self) -> Self {
        let mut children = self.inner.children();
        // Read under the lock: a signal raised from now on finds the child in the list.
        let level = self.inner.level.load(Ordering::Acquire);
        let inner = Arc::new(Inner::new(Some(Arc::clone(&self.inner)), level));
        children.push(Arc::downgrade(&inner));
        Self { inner }
    }

    /// Starts a task. `name` says what it does, for panics and for what is still running at an abort.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let membership = Membership::enter(&self.inner, name);
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        drop(tokio::spawn(Task { future, membership }));
    }

    /// Runs blocking work (files, name look-ups) on tokio's blocking threads.
    ///
    /// # Errors
    /// [`TaskLost`] when the work panicked or the runtime is going away.
    pub async fn spawn_blocking<T, W>(&self, name: &'static str, work: W) -> Result<T, TaskLost>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let membership = Membership::enter(&self.inner, name);
        let (answer, result) = oneshot::channel();
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        drop(tokio::task::spawn_blocking(move || {
            match catch_unwind(AssertUnwindSafe(work)) {
                // Nobody waits any more: the work was done for nothing, which is not an error.
                Ok(value) => drop(answer.send(value)),
                Err(panic) => membership.record_panic(&*panic),
            }
        }));
        result.await.map_err(|_| TaskLost { name })
    }

    /// Raises the first signal: take nothing new, finish what is in flight.
    pub fn drain(&self) {
        self.inner.raise(DRAIN);
    }

    /// From now on a drain is not the beginning of an end that somebody waits for: what is in flight has its time, however
    /// long that is, until cancel is raised or [`Scope::hasten`] says that somebody waits after all.
    pub fn linger(&self) {
        self.inner.lingers.store(true, Ordering::Release);
    }

    /// Its drain is the beginning of an end that somebody waits for, though it was told to linger.
    pub fn hasten(&self) {
        self.inner.lingers.store(false, Ordering::Release);
        self.inner.hastened.notify_waiters();
    }

    /// Returns once somebody waits for the end: at the drain; where it lingers, when that is over or at the cancel.
    pub async fn awaited(&self) {
        self.drained().await;
        tokio::select! {
            biased;
            () = self.cancelled() => {}
            () = self.inner.lingered() => {}
        }
    }

    /// Whether somebody waits for the end: whether [`Scope::awaited`] would return.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        let mut now = Context::from_waker(Waker::noop());
        std::pin::pin!(self.awaited()).as_mut().poll(&mut now).is_ready()
    }

    /// Raises the second signal (and the first): end what is in flight, in an orderly way.
    pub fn cancel(&self) {
        self.inner.raise(CANCEL);
    }

    /// Raises the third signal (and the others): every task's future is dropped, now.
    pub fn abort(&self) {
        self.inner.raise(ABORT);
    }

    /// Whether drain (or more) was raised.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.is_raised(DRAIN)
    }

    /// Whether cancel (or more) was raised.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.inner.is_raised(CANCEL)
    }

    /// Whether abort was raised.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.inner.is_raised(ABORT)
    }

    /// Returns once drain was raised.
    pub async fn drained(&self) {
        self.inner.raised(DRAIN).await;
    }

    /// Returns once cancel was raised.
    pub async fn cancelled(&self) {
        self.inner.raised(CANCEL).await;
    }

    /// Returns once abort was raised; for code that is not itself a task of the scope.
    pub async fn aborted(&self) {
        self.inner.raised(ABORT).await;
    }

    /// Runs `future` unless cancel is raised before it ends: `None` then.
    pub async fn until_cancelled<F: Future>(&self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.cancelled() => None,
            value = future => Some(value),
        }
    }

    /// Returns once the scope and its children have no task.
    pub async fn idle(&self) {
        loop {
            let changed = self.inner.emptied.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.tasks_and_busy_children() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Whether no task is left in the scope and its children.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.tasks_and_busy_children() == 0
    }

    /// The running tasks by name, those of child scopes included.
    #[must_use]
    pub fn running(&self) -> BTreeMap<&'static str, usize> {
        let mut names = BTreeMap::new();
        self.inner.count_names(&mut names);
        names
    }

    /// How many tasks of this scope and its children have panicked so far.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.inner.panics.load(Ordering::Relaxed)
    }

    fn tasks_and_busy_children(&self) -> usize {
        self.inner.count.load(Ordering::Acquire)
    }
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope")
            .field("level", &self.inner.level.load(Ordering::Relaxed))
            .field("count", &self.inner.count.load(Ordering::Relaxed))
            .finish()
    }
}

/// Blocking work ended without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the task `{name}` ended without an answer")]
pub struct TaskLost {
    /// What the task was called.
    pub name: &'static str,
}

struct Inner {
    parent: Option<Arc<Inner>>,
    /// The highest signal raised so far.
    level: AtomicU8,
    /// Whether its drain is none that an end follows soon.
    lingers: AtomicBool,
    /// Told when that is over.
    hastened: Notify,
    signals: [Notify; ABORT as usize],
    /// Own tasks, plus one for each child scope that has any.
    count: AtomicUsize,
    emptied: Notify,
    panics: AtomicU64,
    tasks: Mutex<TaskTable>,
    children: Mutex<Children>,
}

impl Inner {
    fn new(parent: Option<Arc<Self>>, level: u8) -> Self {
        Self {
            parent,
            level: AtomicU8::new(level),
            lingers: AtomicBool::new(false),
            hastened: Notify::new(),
            signals: [const { Notify::const_new() }; ABORT as usize],
            count: AtomicUsize::new(0),
            emptied: Notify::new(),
            panics: AtomicU64::new(0),
            tasks: Mutex::new(TaskTable::new()),
            children: Mutex::new(Children::new()),
        }
    }

    // A panic while one of these locks is held leaves the tables whole: nothing in there can fail half-way.
    fn tasks(&self) -> MutexGuard<'_, TaskTable> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn children(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_raised(&self, level: u8) -> bool {
        self.level.load(Ordering::Acquire) >= level
    }

    /// Returns once neither it nor a scope above it lingers.
    async fn lingered(&self) {
        let mut scope = Some(self);
        while let Some(inner) = scope {
            while inner.lingers.load(Ordering::Acquire) {
                let hastened = inner.hastened.notified();
                tokio::pin!(hastened);
                hastened.as_mut().enable();
                if inner.lingers.load(Ordering::Acquire) {
                    hastened.await;
                }
            }
            scope = inner.parent.as_deref();
        }
    }

    async fn raised(&self, level: u8) {
        if self.is_raised(level) {
            return;
        }
        let signal = self.signals[usize::from(level) - 1].notified();
        tokio::pin!(signal);
        signal.as_mut().enable();
        if !self.is_raised(level) {
            signal.await;
        }
    }

    fn raise(&self, level: u8) {
        let before = self.level.fetch_max(level, Ordering::AcqRel);
        for signal in usize::from(before)..usize::from(level) {
            self.signals[signal].notify_waiters();
        }
        if level == ABORT && before < ABORT {
            let wakers = self.tasks().wakers();
            wakers.into_iter().for_each(Waker::wake);
        }
        let children: Vec<_> = self.children().alive();
        for child in children {
            child.raise(level);
        }
    }

    fn enter(&self) {
        if self.count.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(parent) = &self.parent
        {
            parent.enter();
        }
    }

    fn leave(&self) {
        if self.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.emptied.notify_waiters();
            if let Some(parent) = &self.parent {
                parent.leave();
            }
        }
    }

    fn count_names(&self, names: &mut BTreeMap<&'static str, usize>) {
        self.tasks().count_names(names);
        let children = self.children().alive();
        for child in children {
            child.count_names(names);
        }
    }

    fn add_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.add_panic();
        }
    }
}

pin_project! {
    /// What tokio runs: the caller's future, and after it (fields drop in order) its place in the scope.
    struct Task<F> {
        #[pin]
        future: F,
        membership: Membership,
    }
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let task = self.project();
        task.membership.register(cx.waker());
        if task.membership.scope.is_raised(ABORT) {
            // Returning ready makes tokio drop the future.
            return Poll::Ready(());
        }
        // Not observed again after a panic: it is dropped at once.
        match catch_unwind(AssertUnwindSafe(|| task.future.poll(cx))) {
            Ok(poll) => poll,
            Err(panic) => {
                task.membership.record_panic(&*panic);
                Poll::Ready(())
            }
        }
    }
}

/// A task's place in its scope, given back on drop.
struct Membership {
    scope: Arc<Inner>,
    name: &'static str,
    key: Option<usize>,
}

impl Membership {
    fn enter(scope: &Arc<Inner>, name: &'static str) -> Self {
        scope.enter();
        Self { scope: Arc::clone(scope), name, key: None }
    }

    /// On the first poll: leaves the waker where an abort finds it. A tokio task keeps one waker for life.
    fn register(&mut self, waker: &Waker) {
        if self.key.is_none() {
            let waker = waker.clone();
            self.key = Some(self.scope.tasks().insert(self.name, waker));
        }
    }

    fn record_panic(&self, panic: &(dyn Any + Send)) {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        self.scope.add_panic();
        tracing::error!(task = self.name, panic = text, "a task panicked");
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = self.scope.tasks().remove(key);
            // Dropped after the lock is given back: it may be the last reference to the task.
            drop(waker);
        }
        self.scope.leave();
    }
}

/// The polled tasks of one scope: a slab, so that keeping track of a task allocates nothing as a rule.
struct TaskTable {
    slots: Vec<Slot>,
    /// Head of the list of vacant slots.
    vacant: Option<usize>,
}

enum Slot {
    Taken { name: &'static str, waker: Waker },
    Vacant { next: Option<usize> },
}

impl TaskTable {
    const fn new() -> Self {
        Self { slots: Vec::new(), vacant: None }
    }

    fn insert(&mut self, name: &'static str, waker: Waker) -> usize {
        let taken = Slot::Taken { name, waker };
        let Some(key) = self.vacant else {
            self.slots.push(taken);
            return self.slots.len() - 1;
        };
        if let Slot::Vacant { next } = std::mem::replace(&mut self.slots[key], taken) {
            self.vacant = next;
        }
        key
    }

    fn remove(&mut self, key: usize) -> Option<Waker> {
        let slot = self.slots.get_mut(key)?;
        if let Slot::Vacant { .. } = slot {
            return None;
        }
        let vacant = Slot::Vacant { next: self.vacant };
        self.vacant = Some(key);
        match std::mem::replace(slot, vacant) {
            Slot::Taken { waker, .. } => Some(waker),
            Slot::Vacant { .. } => None,
        }
    }

    fn wakers(&self) -> Vec<Waker> {
        self.slots
            .iter()
            .filter_map(|slot| match slot {
                Slot::Taken { waker, .. } => Some(waker.clone()),
                Slot::Vacant { .. } => None,
            })
            .collect()
    }

    fn count_names(&self, names: &mut BTreeMap<&'static str, usize>) {
        for slot in &self.slots {
            if let Slot::Taken { name, .. } = slot {
                *names.entry(name).or_default() += 1;
            }
        }
    }
}

/// The child scopes, without keeping them alive.
struct Children {
    list: Vec<Weak<Inner>>,
    /// The length at which dead entries are thrown out; doubling it makes that cheap on average.
    prune_at: usize,
}

impl Children {
    const FIRST_PRUNE: usize = 16;

    const fn new() -> Self {
        Self { list: Vec::new(), prune_at: Self::FIRST_PRUNE }
    }

    fn push(&mut self, child: Weak<Inner>) {
        if self.list.len() >= self.prune_at {
            self.list.retain(|child| child.strong_count() > 0);
            self.prune_at = Self::FIRST_PRUNE.max(self.list.len() * 2);
        }
        self.list.push(child);
    }

    fn alive(&self) -> Vec<Arc<Inner>> {
        self.list.iter().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    struct SetOnDrop(Arc<AtomicBool>);

    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    async fn idle(scope: &Scope) {
        timeout(DEADLINE, scope.idle()).await.expect("the scope becomes idle");
    }

    #[tokio::test]
    async fn the_end_of_a_scope_that_lingers_is_awaited_from_its_cancel_on() {
        let (usual, lingering) = (Scope::root(), Scope::root());
        let (of_usual, of_lingering) = (usual.child(), lingering.child().child());
        lingering.linger();
        usual.drain();
        lingering.drain();
        of_usual.awaited().await;
        let mut awaited = std::pin::pin!(of_lingering.awaited());
        assert!(awaited.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        lingering.cancel();
        awaited.await;
    }

    #[tokio::test]
    async fn whoever_waits_for_the_end_of_a_scope_that_lingers_has_it_awaited_at_once() {
        let lingering = Scope::root();
        let child = lingering.child().child();
        lingering.linger();
        lingering.drain();
        let mut awaited = std::pin::pin!(child.awaited());
        let mut context = Context::from_waker(Waker::noop());
        assert!(awaited.as_mut().poll(&mut context).is_pending());
        lingering.hasten();
        assert!(awaited.as_mut().poll(&mut context).is_ready());
        assert!(!child.is_cancelled(), "what is in flight has the time of any other end");
    }

    #[tokio::test]
    async fn a_scope_without_tasks_is_idle_at_once() {
        let scope = Scope::root();
        assert!(scope.is_idle());
        idle(&scope).await;
    }

    #[tokio::test]
    async fn idle_waits_for_tasks_of_the_scope_and_of_its_children() {
        let scope = Scope::root();
        let grandchild = scope.child().child();
        let (finish, finished) = oneshot::channel::<()>();
        grandchild.spawn("waits", async move {
            finished.await.ok();
        });
        assert!(!scope.is_idle());
        assert!(timeout(Duration::from_millis(20), scope.idle()).await.is_err());
        finish.send(()).unwrap();
        idle(&scope).await;
        assert!(grandchild.is_idle());
    }

    #[tokio::test]
    async fn a_higher_signal_raises_the_lower_ones() {
        let scope = Scope::root();
        scope.cancel();
        assert!(scope.is_draining() && scope.is_cancelled() && !scope.is_aborted());
        timeout(DEADLINE, scope.drained()).await.unwrap();
        timeout(DEADLINE, scope.cancelled()).await.unwrap();
        assert!(timeout(Duration::from_millis(10), scope.aborted()).await.is_err());
    }

    #[tokio::test]
    async fn a_lower_signal_after_a_higher_one_changes_nothing() {
        let scope = Scope::root();
        scope.abort();
        scope.drain();
        assert!(scope.is_aborted());
    }

    #[tokio::test]
    async fn signals_reach_children_made_before_and_after() {
        let scope = Scope::root();
        let before = scope.child();
        let waiting = before.clone();
        let (tell, told) = oneshot::channel();
        before.spawn("waits for drain", async move {
            waiting.drained().await;
            tell.send(()).unwrap();
        });
        scope.drain();
        let after = scope.child();
        assert!(before.is_draining() && after.is_draining());
        timeout(DEADLINE, told).await.unwrap().unwrap();
        assert!(!after.is_cancelled());
    }

    #[tokio::test]
    async fn a_childs_signal_does_not_touch_the_parent_or_its_other_children() {
        let scope = Scope::root();
        let (left, right) = (scope.child(), scope.child());
        left.abort();
        assert!(!scope.is_draining() && !right.is_draining());
    }

    #[tokio::test]
    async fn abort_drops_the_futures_of_sleeping_tasks() {
        let scope = Scope::root();
        let dropped = Arc::new(AtomicBool::new(false));
        let guard = SetOnDrop(Arc::clone(&dropped));
        let (started, running) = oneshot::channel();
        scope.child().spawn("sleeps for ever", async move {
            let _guard = guard;
            started.send(()).unwrap();
            pending::<()>().await;
        });
        running.await.unwrap();
        scope.abort();
        idle(&scope).await;
        assert!(dropped.load(Ordering::SeqCst), "idle comes after the drop");
    }

    #[tokio::test]
    async fn a_task_spawned_after_abort_never_runs() {
        let scope = Scope::root();
        scope.abort();
        let ran = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ran);
        scope.spawn("too late", async move { flag.store(true, Ordering::SeqCst) });
        idle(&scope).await;
        assert!(!ran.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn panics_are_counted_up_to_the_root_and_the_scope_goes_on() {
        let scope = Scope::root();
        let child = scope.child();
        child.spawn("panics", async { panic!("on purpose") });
        idle(&scope).await;
        assert_eq!((child.panics(), scope.panics()), (1, 1));
        let (tell, told) = oneshot::channel();
        child.spawn("goes on", async move { tell.send(7).unwrap() });
        assert_eq!(told.await, Ok(7));
    }

    #[tokio::test]
    async fn running_tasks_are_listed_by_name() {
        let scope = Scope::root();
        let child = scope.child();
        for _ in 0..3 {
            child.spawn("reader", pending());
        }
        scope.spawn("writer", pending());
        // The test's runtime has one thread: a task polled later has seen the earlier ones polled.
        let (tell, told) = oneshot::channel();
        scope.spawn("last", async move { tell.send(()).unwrap() });
        told.await.unwrap();
        while scope.running().contains_key("last") {
            tokio::task::yield_now().await;
        }
        assert_eq!(scope.running(), BTreeMap::from([("reader", 3), ("writer", 1)]));
        scope.abort();
        idle(&scope).await;
        assert!(scope.running().is_empty());
    }

    #[tokio::test]
    async fn blocking_work_answers_and_its_panic_is_an_error() {
        let scope = Scope::root();
        assert_eq!(scope.spawn_blocking("adds", || 1 + 1).await.unwrap(), 2);
        let lost = scope.spawn_blocking("panics", || -> u8 { panic!("on purpose") }).await;
        assert_eq!(lost.unwrap_err().name, "panics");
        idle(&scope).await;
        assert_eq!(scope.panics(), 1);
    }

    #[tokio::test]
    async fn until_cancelled_gives_up_when_the_signal_comes() {
        let scope = Scope::root();
        assert_eq!(scope.until_cancelled(async { 5 }).await, Some(5));
        scope.cancel();
        assert_eq!(scope.until_cancelled(pending::<u8>()).await, None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_tasks_and_an_abort_in_the_middle_leave_nothing_behind() {
        let scope = Scope::root();
        let spawner = scope.child();
        for round in 0..50 {
            for _ in 0..100 {
                let child = spawner.child();
                child.spawn("short", async { tokio::task::yield_now().await });
                spawner.spawn("long", pending());
            }
            if round == 25 {
                scope.abort();
            }
        }
        idle(&scope).await;
        assert!(scope.running().is_empty());
        assert!(spawner.inner.children().list.len() < 5000, "dead children are pruned");
    }

    #[test]
    fn slots_of_ended_tasks_are_used_again() {
        let mut table = TaskTable::new();
        let first = table.insert("a", Waker::noop().clone());
        let second = table.insert("b", Waker::noop().clone());
        assert!(table.remove(first).is_some());
        assert!(table.remove(first).is_none());
        assert_eq!(table.insert("c", Waker::noop().clone()), first);
        assert_eq!(table.insert("d", Waker::noop().clone()), second + 1);
    }
}
