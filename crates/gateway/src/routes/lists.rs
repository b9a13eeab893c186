//! Lists of services that are shared: each costs its cluster a call, and may run a program for credentials.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use crate::dynamic::Dynamic;
use crate::http::{Found, ServiceListing};

/// A list is told again for so long.
const FRESH: Duration = Duration::from_secs(5);
/// Lists that are kept at the same time; any others are asked for anew.
const KEPT: usize = 64;

/// What was found, and when.
type Answer = (Instant, Result<ServiceListing, Found>);

/// The lists that were asked for lately, by context.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    kept: Mutex<HashMap<String, Kept>>,
}

#[derive(Debug)]
struct Kept {
    /// Whoever found it: with other settings another list may be told.
    by: Weak<Dynamic>,
    answer: Arc<OnceCell<Answer>>,
}

impl Kept {
    fn is_fresh(&self) -> bool {
        self.answer.get().is_none_or(|(at, _)| at.elapsed() < FRESH)
    }

    /// Nobody waits for it any more, and it was not found.
    fn is_abandoned(&self) -> bool {
        !self.answer.initialized() && Arc::strong_count(&self.answer) == 1
    }
}

impl Lists {
    /// The list of a context as it was found a moment ago, or is being found, or else as `asking` finds it.
    pub(crate) async fn get(
        &self,
        by: &Arc<Dynamic>,
        context: &str,
        asking: impl Future<Output = Result<ServiceListing, Found>>,
    ) -> Result<ServiceListing, Found> {
        let answer = self.cell(by, context);
        // Of those who wait one asks; when it leaves, another does.
        let (_, found) = answer
            .get_or_init(|| async {
                let found = asking.await;
                (Instant::now(), found)
            })
            .await;
        found.clone()
    }

    fn cell(&self, by: &Arc<Dynamic>, context: &str) -> Arc<OnceCell<Answer>> {
        let by = Arc::downgrade(by);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.get(context).filter(|known| known.is_fresh() && known.by.ptr_eq(&by)) {
            return Arc::clone(&known.answer);
        }
        kept.retain(|_, known| known.is_fresh() && !known.is_abandoned());
        let answer = Arc::new(OnceCell::new());
        if kept.len() < KEPT {
            kept.insert(context.to_owned(), Kept { by, answer: Arc::clone(&answer) });
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use adit_core::config::gateway::Allow;
    use adit_core::name::Hostname;
    use forward::{Clusters, KubeSettings};
    use runtime::Scope;

    use super::*;
    use crate::dynamic::DynamicSettings;

    fn dynamic(scope: &Scope) -> Arc<Dynamic> {
        let settings = DynamicSettings {
            suffix: Hostname::parse("k8s.localhost").unwrap(),
            aliases: Vec::new(),
            allow: Allow::default(),
            protect: Vec::new(),
            idle_timeout: None,
        };
        let nowhere = KubeSettings { kubeconfig: Some("/nonexistent".into()), ..KubeSettings::default() };
        Dynamic::new(settings, &Arc::default(), &Clusters::new(nowhere), scope)
    }

    #[tokio::test]
    async fn a_list_is_asked_for_once_by_all_who_want_it_and_anew_by_other_settings() {
        let (scope, lists, asked) = (Scope::root(), Lists::default(), AtomicU32::new(0));
        let (one, other) = (dynamic(&scope), dynamic(&scope));
        let get = |by, context| {
            let asked = &asked;
            lists.get(by, context, async move {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Err(Found::Nameless)
            })
        };
        let (first, second) = tokio::join!(get(&one, "dev"), get(&one, "dev"));
        assert!(first.is_err() && second.is_err());
        assert!(get(&one, "dev").await.is_err());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(get(&one, "prod").await.is_err());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        assert!(get(&other, "dev").await.is_err());
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        let many: Vec<_> = (0..KEPT * 2).map(|number| format!("c{number}")).collect();
        for context in &many {
            assert!(get(&one, context).await.is_err());
        }
        assert_eq!(lists.kept.lock().unwrap().len(), KEPT);
        scope.cancel();
    }
}
