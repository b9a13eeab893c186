//! `adit top`: which process uses which TCP connections, live on a terminal, once as a table, or as JSON.

mod event;
mod rows;
mod view;

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::monitor::agent::{Agent, Shared};
use ::monitor::source::{self, Source};
use ::monitor::table::Limits;
use adit_core::diagnose::Fault;
use clap::Args;
use runtime::scope::Scope;
use runtime::signals::StopSignals;
use serde_json::json;

use self::rows::By;
use self::view::{After, View};
use super::monitor::{SourceArguments, interval, way};
use super::output::{Line, Output, Weight};
use super::up::daemon;
use super::{Global, on_runtime};
use crate::report::{Failure, Output as Format, chain, failure};
use crate::terminal::{self, Screen};

/// How long a key waits at most for its effect to be seen.
const KEYS: Duration = Duration::from_millis(100);
/// How often the daemon is asked for its forwards.
const FORWARDS: Duration = Duration::from_secs(5);

/// Show which process uses which TCP connections.
#[derive(Debug, Args)]
#[command(after_help = "\
Keys: 1 2 3 or Tab what is shown, < > the column to sort by, r the other way round, / filter, p pause, q quit.

With -o json every step of a connection is a line as it happens; with --once the table is one object.

Examples:
  sudo adit top
  adit top --once --by remote --sort sent
  sudo adit top -o json --filter curl")]
pub(crate) struct TopArguments {
    /// What a line is for
    #[arg(long, value_enum, default_value_t)]
    by: By,
    /// Print one table and end
    #[arg(long)]
    once: bool,
    /// The column to sort by
    #[arg(long, value_name = "COLUMN")]
    sort: Option<String>,
    /// Show only lines with this text
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Lines at most; all of them when it is left out
    #[arg(long, value_name = "N")]
    lines: Option<usize>,
    /// How often it is looked
    #[arg(long, value_name = "TIME", default_value = "1s")]
    interval: String,
    #[command(flatten)]
    source: SourceArguments,
}

/// The daemon's entrances: where they are and what they are called.
type Forwards = Arc<Mutex<HashMap<SocketAddr, String>>>;

pub(crate) fn run(global: &Global, arguments: TopArguments) -> Result<ExitCode, Failure> {
    global.start_logs(Some("warn"), false)?;
    let every = interval(&arguments.interval)?;
    let mut view = View::new(arguments.by, &arguments.filter);
    if let Some(column) = &arguments.sort {
        view.sort_by(column).map_err(|known| {
            Failure::new(Fault::Usage, format!("--sort {column}: no such column"), format!("it is one of {known}"))
        })?;
    }
    on_runtime(Some(1), show(global, arguments, every, view))?
}

async fn show(global: &Global, arguments: TopArguments, every: Duration, view: View) -> Result<ExitCode, Failure> {
    let signals = StopSignals::install().map_err(|error| Failure::new(Fault::Internal, error.to_string(), ""))?;
    let (scope, streams) = (Scope::root(), global.output == Format::Json && !arguments.once);
    let options = arguments.source.options(streams);
    let source = scope.spawn_blocking("load", move || source::open(&options)).await;
    let source = source.map_err(|lost| Failure::new(Fault::Internal, lost.to_string(), ""))?;
    let source = source.map_err(|error| failure(&error))?;
    let forwards = Forwards::default();
    learn(&forwards).await;
    if streams {
        return stream(&scope, source, every, view.filter(), &forwards, signals).await;
    }
    if arguments.once {
        return once(global, source, every, view, &forwards, arguments.lines).await;
    }
    live(&scope, source, every, view, &forwards, signals).await
}

/// Asks the daemon for its entrances.
async fn learn(forwards: &Forwards) {
    let found = daemon::entrances().await.into_iter().collect();
    *forwards.lock().unwrap_or_else(PoisonError::into_inner) = found;
}

/// One table, of two looks: a rate takes two.
async fn once(
    global: &Global,
    source: Box<dyn Source>,
    every: Duration,
    mut view: View,
    forwards: &Forwards,
    lines: Option<usize>,
) -> Result<ExitCode, Failure> {
    let mut agent = Agent::new(source, Limits::default(), every);
    agent.survey().map_err(|error| failure(&error))?;
    tokio::time::sleep(every).await;
    agent.source().reconcile().map_err(|error| failure(&error))?;
    agent.survey().map_err(|error| failure(&error))?;
    let shared = agent.shared();
    if global.output == Format::Json {
        let table = shared.table();
        let mut value = rows::json(&table, &names(forwards), view.filter(), lines);
        value["source"] = way(shared.way());
        terminal::data(&format!("{value}\n"));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(reason) = &shared.way().reason {
        terminal::say(&format!("seen by polling only: {}\nhint: {}", reason.message, reason.hint));
    }
    if !shared.way().missing.is_empty() {
        terminal::say(&format!("not seen: {}", shared.way().missing.join("; ")));
    }
    let width = if terminal::is_interactive() { terminal::width() } else { usize::MAX };
    view.look(&shared.table(), &names(forwards));
    for line in view.table(width, lines.unwrap_or(usize::MAX)) {
        terminal::data(&format!("{}\n", line.trim_end()));
    }
    Ok(ExitCode::SUCCESS)
}

fn names(forwards: &Forwards) -> HashMap<SocketAddr, String> {
    forwards.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Every step of a connection as a line.
async fn stream(
    scope: &Scope,
    source: Box<dyn Source>,
    every: Duration,
    filter: &str,
    forwards: &Forwards,
    mut signals: StopSignals,
) -> Result<ExitCode, Failure> {
    let left_out = |count| Line::Data(json!({ "event": "left-out", "lines": count }).to_string());
    let output = Output::start(left_out).map_err(|error| Failure::new(Fault::Internal, error.to_string(), ""))?;
    let output = Arc::new(output);
    let begun = json!({ "event": "started", "source": way(source.way()) });
    output.put(Line::Data(begun.to_string()), Weight::Full);
    let (lines, known, filter) = (Arc::clone(&output), Arc::clone(forwards), filter.to_lowercase());
    let agent = Agent::new(source, Limits::default(), every).with_listener(Box::new(move |record, place| {
        let forward = {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            rows::forward(&known, record).cloned()
        };
        let line = event::value(record, place, forward.as_deref()).to_string();
        if filter.is_empty() || line.to_lowercase().contains(&filter) {
            lines.put(Line::Data(line), Weight::Full);
        }
    }));
    let shared = agent.shared();
    let working = scope.spawn_blocking("monitor", move || agent.run());
    tokio::pin!(working);
    let ended = loop {
        tokio::select! {
            biased;
            _ = signals.next() => shared.stop(),
            ended = &mut working => break ended,
            () = tokio::time::sleep(FORWARDS) => {
                learn(forwards).await;
                if terminal::is_unread() {
                    shared.stop();
                }
            }
        }
    };
    output.flush().await;
    match ended {
        Ok(Ok(())) => Ok(ExitCode::SUCCESS),
        Ok(Err(error)) => Err(failure(&error)),
        Err(lost) => Err(Failure::new(Fault::Internal, lost.to_string(), "")),
    }
}

/// The live view.
async fn live(
    scope: &Scope,
    source: Box<dyn Source>,
    every: Duration,
    view: View,
    forwards: &Forwards,
    mut signals: StopSignals,
) -> Result<ExitCode, Failure> {
    let Some(screen) = Screen::take() else {
        let hint = "use --once for one table, or -o json for a line for each event";
        return Err(Failure::new(Fault::Usage, "the live view needs a terminal", hint));
    };
    let agent = Agent::new(source, Limits::default(), every);
    let shared = agent.shared();
    let working = scope.spawn_blocking("monitor", move || agent.run());
    let (seen, known) = (Arc::clone(&shared), Arc::clone(forwards));
    let drawing = scope.spawn_blocking("view", move || draw(&screen, &seen, &known, view, every));
    tokio::pin!(working, drawing);
    let mut end = None;
    loop {
        tokio::select! {
            biased;
            _ = signals.next() => shared.stop(),
            ended = &mut working, if end.is_none() => {
                end = Some(match ended {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(chain(&error)),
                    Err(lost) => Some(lost.to_string()),
                });
                shared.stop();
            }
            // Its screen is given back before anything is said.
            _ = &mut drawing => {
                shared.stop();
                let problem = match end {
                    Some(problem) => problem,
                    None => working.await.ok().and_then(|ended| ended.err().map(|error| chain(&error))),
                };
                return match problem {
                    None => Ok(ExitCode::SUCCESS),
                    Some(problem) => Err(Failure::new(Fault::Internal, problem, "start it again")),
                };
            }
            () = tokio::time::sleep(FORWARDS) => learn(forwards).await,
        }
    }
}

/// Draws and takes keys until somebody wants to leave.
fn draw(screen: &Screen, shared: &Arc<Shared>, forwards: &Forwards, mut view: View, every: Duration) {
    let mut looked = None::<Duration>;
    while !shared.is_stopped() {
        let at = ::monitor::agent::now();
        if looked.is_none_or(|last| at.saturating_sub(last) >= every) && !view.is_paused() {
            view.look(&shared.table(), &names(forwards));
            looked = Some(at);
        }
        screen.draw(&view.draw(shared.way(), &shared.counts(), terminal::width(), terminal::height()));
        for key in screen.keys(KEYS) {
            if view.handle_key(key) == After::Leave {
                shared.stop();
            }
        }
    }
    let _ = std::io::stdout().flush();
}
