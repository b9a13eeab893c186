//! Lets hyper start its tasks in a scope.

use std::future::Future;

use crate::Scope;

/// An executor for hyper's HTTP/2, whose tasks belong to a scope.
#[derive(Clone)]
pub struct ScopeExecutor {
    scope: Scope,
    name: &'static str,
}

impl ScopeExecutor {
    /// Tasks are started in `scope` and called `name`.
    #[must_use]
    pub fn new(scope: Scope, name: &'static str) -> Self {
        Self { scope, name }
    }
}

impl<F> hyper::rt::Executor<F> for ScopeExecutor
where
    F: Future + Send + 'static,
{
    fn execute(&self, future: F) {
        self.scope.spawn(self.name, async move {
            future.await;
        });
    }
}
