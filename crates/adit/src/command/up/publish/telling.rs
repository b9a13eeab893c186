//! Why targets of what is published cannot be reached: visitors learn only that the service does not answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use runtime::connect::{BoxFuture, Connect, ConnectError, Io, without_waits};

use super::lock;
use super::untrusted::of_target;
use crate::command::up::view::View;

/// Whoever opens a connection waits so much longer than the limit that is kept here: what takes too long must be told,
/// and who is not waited for any more tells nothing.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// Why targets could not be reached when they were needed last, by tunnel.
pub(super) type Troubles = Arc<Mutex<HashMap<String, String>>>;

/// A way to a tunnel's target that tells why it could not be gone, and that it can be gone again.
pub(super) struct Telling {
    tunnel: String,
    limit: Duration,
    inner: Arc<dyn Connect>,
    view: Arc<View>,
    troubles: Troubles,
}

impl Telling {
    pub(super) fn new(
        tunnel: &str,
        limit: Duration,
        inner: Arc<dyn Connect>,
        view: Arc<View>,
        troubles: Troubles,
    ) -> Self {
        Self { tunnel: tunnel.to_owned(), limit, inner, view, troubles }
    }

    /// Each reason is worth one line, until there is another one or none.
    fn tell(&self, opened: &Result<Io, ConnectError>) {
        match opened {
            Ok(_) => {
                if lock(&self.troubles).remove(&self.tunnel).is_some() {
                    self.view.reachable(&self.tunnel, &self.inner.describe());
                }
            }
            Err(error) => {
                let failure = of_target(error);
                if is_news(&self.troubles, &self.tunnel, failure.message()) {
                    self.view.unreachable(&self.tunnel, &self.inner.describe(), &failure);
                }
            }
        }
    }
}

/// Keeps why a tunnel's target cannot be reached; whether there was another reason before, or none.
fn is_news(troubles: &Troubles, tunnel: &str, reason: &str) -> bool {
    let reason = without_waits(reason);
    let mut troubles = lock(troubles);
    troubles.get(tunnel) != Some(&reason) && {
        troubles.insert(tunnel.to_owned(), reason);
        true
    }
}

impl Connect for Telling {
    fn connect(&self) -> BoxFuture<'_, Result<Io, ConnectError>> {
        Box::pin(async {
            let opened = match tokio::time::timeout(self.limit, self.inner.connect()).await {
                Ok(opened) => opened,
                Err(_) => Err(ConnectError::Timeout { target: self.inner.describe(), after: self.limit }),
            };
            self.tell(&opened);
            opened
        })
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_once_however_long_was_waited_for_it_each_time() {
        let troubles = Troubles::default();
        assert!(is_news(&troubles, "shop", "the API server says nothing (waited 3.1s)"));
        assert!(!is_news(&troubles, "shop", "the API server says nothing (waited 20s)"));
        assert!(is_news(&troubles, "shop", "it is refused"));
        assert!(is_news(&troubles, "other", "it is refused"));
    }
}
