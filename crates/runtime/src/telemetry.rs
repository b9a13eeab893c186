//! Logging: what is written to stderr, how much of it, and in which form.

mod aside;

use std::sync::{Arc, Mutex, PoisonError};

use adit_core::diagnose::{Diagnose, Fault};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

pub use self::aside::{StandardError, flush, write_aside};

/// Overrides every other setting of the level; takes directives such as `info,tunnel=debug`.
pub const LEVEL_VARIABLE: &str = "ADIT_LOG";

/// Libraries of others, which say less than we do: at `-v` nothing below a warning, at `-vv` what we say at `-v`. A name
/// also stands for all that begin with it: `kube` for `kube_client`, `hyper` for `hyper_util`, `tower` for `tower_http`.
const CHATTY: [&str; 10] =
    ["h2", "hyper", "kube", "mio", "rustls", "tokio_tungstenite", "tokio_util", "tower", "tungstenite", "want"];

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What to log and how.
#[derive(Clone, Debug, Default)]
pub struct LogSettings {
    /// The form of a line.
    pub format: LogFormat,
    /// How many `-v` were given, minus one when `-q` was.
    pub verbosity: i8,
    /// The level from the configuration; `-v` and `-q` win over it.
    pub level: Option<String>,
    /// Colour; the caller knows whether stderr is a terminal that wants it.
    pub colour: bool,
}

/// Hears what is said at warning and above, beside stderr: where it was said, and the text. It must not wait.
pub type Listener = Box<dyn Fn(&str, &str) + Send + Sync>;

/// Starts logging to stderr for the whole process, and to a listener if there is one. Call it once.
///
/// # Errors
/// [`TelemetryError`] when a level cannot be read, or logging was started before.
pub fn start(settings: &LogSettings, listener: Option<Listener>) -> Result<(), TelemetryError> {
    let variable = std::env::var(LEVEL_VARIABLE).ok();
    let filter = filter(settings, variable.as_deref())?;
    let lines = tracing_subscriber::fmt::layer().with_writer(StandardError::default);
    let registry = tracing_subscriber::registry().with(filter).with(listener.map(Heard));
    let started = match settings.format {
        LogFormat::Text => {
            let lines = lines.with_ansi(settings.colour).with_target(settings.verbosity > 0);
            registry.with(lines).try_init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    started.map_err(|_| TelemetryError::StartedBefore)
}

/// Counts the ERROR events that pass by: the tests' rule is that there are none.
#[derive(Clone, Debug, Default)]
pub struct ErrorEvents {
    seen: Arc<Mutex<Vec<String>>>,
}

impl ErrorEvents {
    /// A counter at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The layer that feeds it.
    #[must_use]
    pub fn layer(&self) -> ErrorEventsLayer {
        ErrorEventsLayer { events: self.clone() }
    }

    /// Makes it see what the current thread logs, for as long as the guard lives.
    #[must_use]
    pub fn watch_this_thread(&self) -> tracing::subscriber::DefaultGuard {
        tracing_subscriber::registry().with(self.layer()).set_default()
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What they said.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// See [`ErrorEvents::layer`].
#[derive(Debug)]
pub struct ErrorEventsLayer {
    events: ErrorEvents,
}

impl<S: Subscriber> Layer<S> for ErrorEventsLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if *event.metadata().level() == Level::ERROR {
            let mut text = Text(String::new());
            event.record(&mut text);
            self.events.seen.lock().unwrap_or_else(PoisonError::into_inner).push(text.0);
        }
    }
}

/// Passes on what is worth a warning.
struct Heard(Listener);

impl<S: Subscriber> Layer<S> for Heard {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if *event.metadata().level() <= Level::WARN {
            let mut text = Text(String::new());
            event.record(&mut text);
            (self.0)(event.metadata().target(), &text.0);
        }
    }
}

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The text is no level and no list of directives.
    #[error("`{text}` is not a log level")]
    Level {
        /// The text.
        text: String,
    },
    /// There is a logger already.
    #[error("logging was started before")]
    StartedBefore,
}

impl Diagnose for TelemetryError {
    fn fault(&self) -> Fault {
        match self {
            Self::Level { .. } => Fault::Config,
            Self::StartedBefore => Fault::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Level { .. } => {
                Some(format!("use error, warn, info, debug or trace; {LEVEL_VARIABLE} also takes `info,tunnel=debug`"))
            }
            Self::StartedBefore => None,
        }
    }
}

/// The environment wins over the command line, and that over the configuration.
fn filter(settings: &LogSettings, variable: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    let chosen = variable.filter(|text| !text.is_empty());
    let text = match (chosen, settings.verbosity, &settings.level) {
        (Some(directives), _, _) => directives.to_owned(),
        (None, 0, Some(level)) => directives(level),
        (None, verbosity, _) => directives(match verbosity {
            ..0 => "warn",
            0 => "info",
            1 => "debug",
            2.. => "trace",
        }),
    };
    EnvFilter::builder().parse(&text).map_err(|_| TelemetryError::Level { text })
}

fn directives(level: &str) -> String {
    let calmer = match level {
        "trace" => "debug",
        "debug" | "info" => "warn",
        _ => return level.to_owned(),
    };
    let mut text = level.to_owned();
    for library in CHATTY {
        text.push_str(&format!(",{library}={calmer}"));
    }
    text
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        if field.name() == "message" {
            self.0.push_str(&format!("{value:?}"));
        } else {
            self.0.push_str(&format!("{}={value:?}", field.name()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing::level_filters::LevelFilter;

    use super::*;

    fn level(verbosity: i8, level: Option<&str>, variable: Option<&str>) -> Option<LevelFilter> {
        let settings = LogSettings { verbosity, level: level.map(str::to_owned), ..LogSettings::default() };
        filter(&settings, variable).unwrap().max_level_hint()
    }

    #[test]
    fn the_command_line_sets_the_level() {
        assert_eq!(level(-1, None, None), Some(LevelFilter::WARN));
        assert_eq!(level(0, None, None), Some(LevelFilter::INFO));
        assert_eq!(level(1, None, None), Some(LevelFilter::DEBUG));
        assert_eq!(level(2, None, None), Some(LevelFilter::TRACE));
    }

    #[test]
    fn the_environment_wins_over_the_command_line_and_that_over_the_configuration() {
        assert_eq!(level(0, Some("error"), None), Some(LevelFilter::ERROR));
        assert_eq!(level(1, Some("error"), None), Some(LevelFilter::DEBUG));
        assert_eq!(level(1, Some("error"), Some("warn,tunnel=info")), Some(LevelFilter::INFO));
        assert_eq!(level(0, None, Some("")), Some(LevelFilter::INFO));
    }

    #[test]
    fn libraries_of_others_are_quiet_at_v_and_heard_at_vv() {
        let said = |verbosity: i8, event: fn()| {
            let settings = LogSettings { verbosity, ..LogSettings::default() };
            let seen = Arc::new(AtomicUsize::new(0));
            let layer = Counted(Arc::clone(&seen));
            let registry = tracing_subscriber::registry().with(filter(&settings, None).unwrap()).with(layer);
            tracing::subscriber::with_default(registry, event);
            seen.load(Ordering::Relaxed)
        };
        // A callsite remembers who wants it: each is used once.
        assert_eq!(said(1, || tracing::debug!(target: "tower::buffer::worker", "service.ready")), 0);
        assert_eq!(said(1, || tracing::debug!(target: "kube_client::client", "requesting")), 0);
        assert_eq!(said(1, || tracing::debug!(target: "forward::k8s", "ours")), 1);
        assert_eq!(said(1, || tracing::warn!(target: "hyper_util::client", "theirs, and bad")), 1);
        assert_eq!(said(2, || tracing::debug!(target: "tower::buffer::worker", "service.ready")), 1);
    }

    struct Counted(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Counted {
        fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_level_that_is_none_is_reported_with_the_choice() {
        let error = filter(&LogSettings::default(), Some("tunnel=loudly")).unwrap_err();
        assert_eq!(error.to_string(), "`tunnel=loudly` is not a log level");
        assert!(error.hint().unwrap().contains("debug"));
    }

    #[test]
    fn error_events_are_counted_with_their_text() {
        let events = ErrorEvents::new();
        let guard = events.watch_this_thread();
        tracing::warn!("not this");
        tracing::error!(task = "x", "this");
        drop(guard);
        tracing::error!("not seen any more");
        assert_eq!(events.count(), 1);
        assert_eq!(events.texts(), ["this task=\"x\""]);
    }

    #[test]
    fn a_listener_hears_warnings_and_errors_only() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        let heard = Heard(Box::new(move |target, text| kept.lock().unwrap().push(format!("{target}: {text}"))));
        let registry = tracing_subscriber::registry().with(Some(heard));
        tracing::subscriber::with_default(registry, || {
            tracing::info!("not this");
            tracing::warn!(target: "here", file = "x", "cannot be read");
            tracing::error!(target: "there", "worse");
        });
        assert_eq!(*seen.lock().unwrap(), ["here: cannot be read file=\"x\"", "there: worse"]);
    }

    #[tokio::test]
    async fn a_panic_in_a_scopes_task_is_an_error_event() {
        let events = ErrorEvents::new();
        let _guard = events.watch_this_thread();
        let scope = crate::Scope::root();
        scope.spawn("reader", async { panic!("on purpose") });
        scope.idle().await;
        assert_eq!(events.texts(), ["a task panicked task=\"reader\" panic=\"on purpose\""]);
    }
}
