//! What happens to forwards, shown on the desktop by `notify-send` when the file wants it. What mends itself within
//! seconds is nobody's news.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use runtime::scope::Scope;
use tokio::process::Command;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::journal::Entry;
use super::state::Daemon;

/// The program.
const PROGRAM: &str = "notify-send";
/// Trouble that lasts so long is shown.
const LASTS: Duration = Duration::from_secs(5);
/// How long the program may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names in one notification; more are counted.
const NAMES: usize = 5;
/// A longer text is cut.
const TEXT_MAX: usize = 300;

/// What a notification says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    title: String,
    body: String,
}

/// Trouble by the name of its forward: since when, its text, whether it was shown.
#[derive(Debug, Default)]
struct Troubles {
    by_name: BTreeMap<String, (Instant, String, bool)>,
    back: Vec<String>,
}

impl Troubles {
    fn handle_event(&mut self, now: Instant, event: &str, name: &str, text: &str) {
        match event {
            "lost" | "failed" | "unhealthy" => {
                let known = self.by_name.entry(name.to_owned()).or_insert_with(|| (now, String::new(), false));
                text.clone_into(&mut known.1);
            }
            "back" | "healthy" | "ready" => {
                let shown = self.by_name.remove(name).is_some_and(|(.., shown)| shown);
                self.back.extend(shown.then(|| name.to_owned()));
            }
            _ => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.by_name.values().filter(|(.., shown)| !shown);
        waiting.map(|(since, ..)| *since + LASTS).min()
    }

    /// What is to be shown now: many at once are one.
    fn poll_shown(&mut self, now: Instant) -> Vec<Shown> {
        let mut shown = Vec::new();
        let (mut names, mut texts) = (Vec::new(), Vec::new());
        for (name, (since, text, told)) in &mut self.by_name {
            if !*told && now.saturating_duration_since(*since) >= LASTS {
                *told = true;
                names.push(name.as_str());
                texts.push(text.as_str());
            }
        }
        match (names.as_slice(), texts.as_slice()) {
            ([], _) => {}
            ([name], [text, ..]) => shown.push(Shown { title: format!("adit: {name} is down"), body: cut(text) }),
            _ => shown.push(Shown { title: format!("adit: {} forwards are down", names.len()), body: listed(&names) }),
        }
        let back = std::mem::take(&mut self.back);
        let back: Vec<&str> = back.iter().map(String::as_str).collect();
        match back.as_slice() {
            [] => {}
            [name] => shown.push(Shown { title: format!("adit: {name} is back"), body: String::new() }),
            all => shown.push(Shown { title: format!("adit: {} forwards are back", all.len()), body: listed(all) }),
        }
        shown
    }
}

fn listed(names: &[&str]) -> String {
    let more = names.len().saturating_sub(NAMES);
    let first = names.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

/// The body of a notification may have markup: a text has none.
fn cut(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Shows what happens, until the end.
pub(super) fn follow(scope: &Scope, daemon: &Arc<Daemon>) {
    let (until, events, weak) = (scope.clone(), daemon.journal.listen(), Arc::downgrade(daemon));
    let is_wanted = move || weak.upgrade().map(|daemon| daemon.notifies.load(Ordering::Relaxed));
    scope.spawn("desktop notifications", async move {
        let told = Arc::new(AtomicBool::new(false));
        let showing = watch(events, is_wanted, move |shown| {
            let told = Arc::clone(&told);
            async move {
                if let Err(error) = show(&shown).await
                    && !told.swap(true, Ordering::Relaxed)
                {
                    tracing::warn!(%error, "daemon.notify: {PROGRAM} cannot be used");
                }
            }
        });
        tokio::select! {
            biased;
            () = until.drained() => {}
            () = showing => {}
        }
    });
}

/// Shows what lasts, until there are no more events, or nobody is there any more who wants or does not want it.
async fn watch<F: Future<Output = ()>>(
    mut events: Receiver<Arc<Entry>>,
    is_wanted: impl Fn() -> Option<bool>,
    mut show: impl FnMut(Shown) -> F,
) {
    let mut troubles = Troubles::default();
    loop {
        let due = troubles.poll_timeout();
        let event = tokio::select! {
            biased;
            event = events.recv() => match event {
                Ok(entry) => Some(entry),
                Err(RecvError::Lagged(_)) => {
                    // Who was in trouble may be back without our having heard of it.
                    troubles = Troubles::default();
                    continue;
                }
                Err(RecvError::Closed) => return,
            },
            () = wait(due) => None,
        };
        match is_wanted() {
            Some(true) => {}
            Some(false) => {
                troubles = Troubles::default();
                continue;
            }
            None => return,
        }
        let now = tokio::time::Instant::now().into_std();
        if let Some(entry) = event
            && let Some(name) = &entry.name
        {
            let (event, text) = told_by(&entry);
            troubles.handle_event(now, &event, name, &text);
        }
        for shown in troubles.poll_shown(now) {
            show(shown).await;
        }
    }
}

fn told_by(entry: &Entry) -> (String, String) {
    let value: serde_json::Value = serde_json::from_str(&entry.line).unwrap_or_default();
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    (text("event"), text("text"))
}

async fn wait(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

async fn show(shown: &Shown) -> std::io::Result<()> {
    let mut command = Command::new(PROGRAM);
    for name in ::forward::SECRET_VARIABLES {
        command.env_remove(name);
    }
    command.args(["--app-name=adit", "--category=network", "--", &shown.title, &shown.body]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let status = tokio::time::timeout(PATIENCE, command.status()).await;
    match status.unwrap_or_else(|_| Err(std::io::Error::other("it does not end"))) {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(std::io::Error::other(format!("it ended with {status}; is there a desktop?"))),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mends_itself_within_seconds_is_not_shown() {
        let (mut troubles, now) = (Troubles::default(), Instant::now());
        troubles.handle_event(now, "lost", "db", "db: lost: refused");
        assert_eq!(troubles.poll_timeout(), Some(now + LASTS));
        assert_eq!(troubles.poll_shown(now), []);
        troubles.handle_event(now, "back", "db", "");
        assert_eq!((troubles.poll_shown(now + LASTS), troubles.poll_timeout()), (vec![], None));
    }

    #[test]
    fn what_lasts_is_shown_once_with_its_text_and_so_is_its_end() {
        let (mut troubles, now) = (Troubles::default(), Instant::now());
        troubles.handle_event(now, "lost", "db", "db: lost");
        troubles.handle_event(now, "failed", "db", "db: <refused> & more");
        let shown = troubles.poll_shown(now + LASTS);
        let body = "db: &lt;refused&gt; &amp; more".to_owned();
        assert_eq!(shown, [Shown { title: "adit: db is down".into(), body }]);
        assert_eq!((troubles.poll_shown(now + 2 * LASTS), troubles.poll_timeout()), (vec![], None));
        troubles.handle_event(now, "ready", "db", "");
        assert_eq!(troubles.poll_shown(now)[0].title, "adit: db is back");
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_be_back_without_our_having_heard_of_it_is_not_shown() {
        let (sender, events) = tokio::sync::broadcast::channel(2);
        let happens = |event: &str, name: &str| {
            let line = serde_json::json!({ "event": event, "text": "a text" }).to_string();
            let _ = sender.send(Arc::new(Entry { line, name: Some(name.to_owned()) }));
        };
        let mut shown = Vec::new();
        let watching = watch(
            events,
            || Some(true),
            |one| {
                shown.push(one.title);
                std::future::ready(())
            },
        );
        let life = async {
            happens("lost", "db");
            // It is heard of before more happens than there is room for.
            tokio::time::sleep(Duration::from_secs(1)).await;
            happens("back", "db");
            happens("ready", "other");
            happens("ready", "other");
            happens("lost", "web");
            tokio::time::sleep(4 * LASTS).await;
        };
        tokio::select! {
            () = watching => {}
            () = life => {}
        }
        assert_eq!(shown, ["adit: web is down"]);
    }

    #[test]
    fn many_at_once_are_one() {
        let (mut troubles, now) = (Troubles::default(), Instant::now());
        (0..8).for_each(|at| troubles.handle_event(now, "lost", &format!("f{at}"), "lost"));
        let shown = troubles.poll_shown(now + LASTS);
        assert_eq!(shown.len(), 1);
        assert_eq!(shown[0].title, "adit: 8 forwards are down");
        assert_eq!(shown[0].body, "f0, f1, f2, f3, f4 and 3 more");
    }
}
