//! The tasks of a cluster: any of them may start another, and all end with it.

use std::sync::Mutex;

use super::locked;
use crate::task::Group;

/// Running tasks; finished ones are forgotten as new ones come.
#[derive(Debug)]
pub(super) struct Tasks(Mutex<Option<Group>>);

impl Tasks {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Some(Group::new())))
    }

    /// Starts a task, unless all have been ended.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(group) = locked(&self.0).as_mut() {
            group.reap();
            group.spawn(task);
        }
    }

    /// Ends all of them, without waiting.
    pub(super) fn abandon(&self) {
        // Outside the lock: a task that is dropped here may want it.
        let group = locked(&self.0).take();
        drop(group);
    }

    /// Ends all of them and waits until they are gone.
    pub(super) async fn end(&self) {
        let group = locked(&self.0).take();
        if let Some(mut group) = group {
            group.end().await;
        }
    }
}
