//! `adit top`: which process uses which TCP connections, live on a terminal, once as a table, or as JSON.

mod event;
mod keys;
mod lines;
mod look;
mod rows;
mod suspend;
mod uses;
mod view;

use std::convert::Infallible;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::monitor::agent::{Agent, Shared};
use ::monitor::source::{Source, Way};
use ::monitor::table::Limits;
use adit_core::diagnose::Fault;
use clap::Args;
use runtime::scope::Scope;
use runtime::signals::{Hangups, StopSignal, StopSignals};

use self::keys::Keys;
use self::lines::{Events, Teller};
use self::look::Look;
use self::rows::By;
use self::suspend::Suspension;
use self::uses::{Entrances, Uses};
use self::view::{After, View};
use super::monitor::{SourceArguments, Warned, interval, keep_warning, lacks, open_source, refuse_config, way};
use super::output::{ORDER, Output, PATIENCE, Weight};
use super::up::daemon;
use super::{Global, on_runtime, say_aside};
use crate::report::{Failure, Output as Format, chain, failure};
use crate::terminal::{self, Before, Screen};

/// How long a key waits at most for its effect to be seen.
const KEYS: Duration = Duration::from_millis(100);
/// How often the daemon is asked for its forwards.
const FORWARDS: Duration = Duration::from_secs(5);
/// How often it is looked whether somebody reads the steps.
const READER: Duration = Duration::from_millis(500);
/// How long it may take to answer: what it tells is an addition, and one that hangs holds up nothing.
const ANSWERS: Duration = Duration::from_secs(1);

/// How long the view has to leave when it is to end. When nobody reads the terminal, it stands in a write meanwhile.
const LEAVES: Duration = Duration::from_secs(2);
/// How often room is made for it then, and how long one of these is.
const ROOM: (usize, Duration) = (20, Duration::from_millis(100));

/// Show which process uses which TCP connections.
#[derive(Debug, Args)]
#[command(after_help = "\
Keys: 1 2 3 or Tab what is shown, < > the column to sort by, r the other way round, / filter, p pause, arrows, PgUp, PgDn, Home and End \
move, ? help, q quit, Ctrl-Z suspend.

With --events each connection that ended or failed is a line as it happens, for terminals, pipes and files. With -o json every step of a \
connection is one, as an object; with --once the table is one object. All fields: docs/reference/top.md.

Examples:
  sudo adit top
  sudo adit top --events
  adit top --once --by remote --sort sent
  sudo adit top -o json --filter curl")]
pub(crate) struct TopArguments {
    /// What a line is for [default: process]
    #[arg(long, value_enum)]
    by: Option<By>,
    /// Print one table and end
    #[arg(long)]
    once: bool,
    /// Print a line for each event as it happens, in the place of the live view; with -o json tell these alone
    #[arg(long, value_enum, value_name = "WHICH", num_args = 0..=1, default_missing_value = "ends")]
    events: Option<Events>,
    /// The column to sort by [default: rate]
    #[arg(long, value_name = "COLUMN", long_help = rows::sort_help())]
    sort: Option<String>,
    /// Show only lines with this text, in capitals or not, in a name, an address, a port or the number of a process
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    filter: String,
    /// Lines at most, with --once; all of them when it is left out
    #[arg(long, value_name = "N", value_parser = at_most, allow_negative_numbers = true)]
    lines: Option<usize>,
    /// Time between two looks: 100ms to 60s
    #[arg(long, value_name = "TIME", default_value = "1s")]
    interval: String,
    #[command(flatten)]
    source: SourceArguments,
}

/// So many lines at most: with none there would be no table.
fn at_most(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| "it takes a whole number from 1 on, as in 20".to_owned())
}

/// The daemon that is asked, and what it tells of its forwards and tunnels.
struct Asked {
    place: Option<daemon::Place>,
    uses: Mutex<Uses>,
}

impl Asked {
    fn uses(&self) -> Uses {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the daemon once more.
    async fn learn(&self) {
        let Some(place) = &self.place else { return };
        let told = daemon::told(place, ANSWERS).await.unwrap_or_default();
        *self.uses.lock().unwrap_or_else(PoisonError::into_inner) = Uses::of_daemon(&told);
    }

    /// Asks it again and again.
    async fn keep_learning(&self) -> Infallible {
        loop {
            tokio::time::sleep(FORWARDS).await;
            self.learn().await;
        }
    }
}

/// Whose daemon is asked: with sudo that of the user who is at the keyboard, not root's.
struct Behind {
    user: u32,
    group: u32,
    home: PathBuf,
}

impl Behind {
    /// By what sudo says; root himself is nobody behind.
    fn sudo() -> Option<Self> {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        let user = number("SUDO_UID").filter(|user| *user != 0 && rustix::process::geteuid().is_root())?;
        Self::of(user, number("SUDO_GID")?, &std::fs::read_to_string("/etc/passwd").unwrap_or_default())
    }

    fn of(user: u32, group: u32, accounts: &str) -> Option<Self> {
        let account = |line: &str| {
            let mut fields = line.split(':');
            let is_his = fields.nth(2)?.parse() == Ok(user);
            is_his.then(|| fields.nth(2).map(PathBuf::from))?
        };
        // Who is in no file may have a session all the same.
        let home = accounts.lines().find_map(account).unwrap_or_else(|| PathBuf::from("/nonexistent"));
        Some(Self { user, group, home })
    }
}

impl TopArguments {
    /// What is made of it: each option is used, or refused.
    fn form(&self, global: &Global) -> Result<Form, Failure> {
        let form = match (self.once, global.output) {
            (true, Format::Json) => Form::Object,
            (true, Format::Text) => Form::Table,
            (false, Format::Json) => Form::Steps,
            (false, Format::Text) if self.events.is_some() => Form::Lines,
            (false, Format::Text) => Form::Live,
        };
        let refused = |option: &str, why: &str, hint: &str| {
            Err(Failure::new(Fault::Usage, format!("{option} has no meaning {why}"), hint))
        };
        match form {
            Form::Table | Form::Object if self.events.is_some() => {
                refused("--events", "with --once, which ends before anything happens", "leave one of them out")
            }
            Form::Lines if self.by.is_some() || self.sort.is_some() => {
                let option = if self.by.is_some() { "--by" } else { "--sort" };
                refused(option, "for events, which are told as they happen", "add --filter to choose among them")
            }
            Form::Steps if self.by.is_some() || self.sort.is_some() => {
                let option = if self.by.is_some() { "--by" } else { "--sort" };
                refused(option, "for steps, which are told as they happen", "add --once for tables as one object")
            }
            Form::Lines | Form::Steps | Form::Live if self.lines.is_some() => {
                let hint =
                    "add --once for one table; the live view fills the screen, and events go on until you stop it";
                refused("--lines", "without --once", hint)
            }
            _ => Ok(form),
        }
    }

    /// The view that is asked for.
    fn view(&self) -> Result<View, Failure> {
        let by = self.by.unwrap_or_default();
        let mut view = View::new(by, &self.filter, ::monitor::agent::now());
        if let Some(column) = &self.sort {
            view.sort_by(column).map_err(|known| {
                let hint = format!("{} have {known}; --by shows others", by.as_str());
                Failure::new(Fault::Usage, format!("--sort {column}: no such column"), hint)
            })?;
        }
        Ok(view)
    }
}

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The live view.
    Live,
    /// One table.
    Table,
    /// All tables as one object.
    Object,
    /// Each event as a line for people.
    Lines,
    /// Each step of a connection as a line for programs.
    Steps,
}

pub(crate) fn run(global: &Global, arguments: &TopArguments) -> Result<ExitCode, Failure> {
    refuse_config(global, "top")?;
    let form = arguments.form(global)?;
    global.start_logs(Some("warn"), form == Form::Steps)?;
    let every = interval(&arguments.interval)?;
    let mut view = arguments.view()?;
    if form == Form::Live && !terminal::is_interactive() {
        return Err(no_terminal());
    }
    let behind = Behind::sudo();
    let user = behind.as_ref().map(|behind| (behind.user, behind.group));
    let wanted = arguments.events.unwrap_or(Events::All);
    let every_step = matches!(form, Form::Steps | Form::Lines) && wanted.has_beginnings();
    let (source, _) = open_source(&arguments.source.options(every_step)?, user)?;
    if matches!(form, Form::Steps | Form::Lines) && wanted == Events::Failed {
        sees_failures(source.way())?;
    }
    // After that, as its thread is to have no more rights than the others.
    say_aside()?;
    if let Some(unused) = arguments.source.unused(source.way()) {
        if form == Form::Live {
            view.note(unused);
        } else {
            tracing::warn!("{unused}");
        }
    }
    let place = match &behind {
        Some(behind) => Some(daemon::Place::of_user(behind.user, &behind.home)),
        None => daemon::Place::find().ok(),
    };
    let asked = Arc::new(Asked { place, uses: Mutex::default() });
    on_runtime(Some(1), show((form, wanted), arguments.lines, source, every, view, &asked))?
}

async fn show(
    (form, wanted): (Form, Events),
    lines: Option<usize>,
    source: Box<dyn Source>,
    every: Duration,
    view: View,
    asked: &Arc<Asked>,
) -> Result<ExitCode, Failure> {
    let mut signals = StopSignals::install().map_err(|error| Failure::new(Fault::Internal, error.to_string(), ""))?;
    let scope = Scope::root();
    tokio::select! {
        biased;
        signal = signals.next() => return Ok(cut_off(signal)),
        () = asked.learn() => {}
    }
    match form {
        Form::Steps => stream(&scope, source, every, Teller::steps(wanted, view.filter()), asked, signals).await,
        Form::Lines => {
            let teller = Teller::lines(wanted, view.filter(), room(), !asked.uses().is_empty());
            stream(&scope, source, every, teller, asked, signals).await
        }
        Form::Live => live(&scope, source, every, view, asked, signals).await,
        Form::Table | Form::Object => once(&scope, source, every, view, asked, signals, (form, lines)).await,
    }
}

/// Refuses to tell of failures alone where none is ever seen.
fn sees_failures(way: &Way) -> Result<(), Failure> {
    if way.sees_failures() {
        return Ok(());
    }
    let how = if way.source == "ebpf" { "in the way that was taken" } else { "by polling" };
    let text = format!("--events failed would never tell anything: attempts that fail are not seen {how}");
    Err(match &way.reason {
        Some(reason) => {
            Failure::new(Fault::NotPermitted, format!("{text}, as {}", reason.message), reason.hint.clone())
        }
        None => Failure::new(Fault::Usage, text, "take --events ends; `adit doctor` says what takes more to be seen"),
    })
}

/// Of a signal that came before anything was shown.
fn cut_off(signal: StopSignal) -> ExitCode {
    ExitCode::from(if signal == StopSignal::Interrupt { 130 } else { 143 })
}

/// How wide a line may be.
fn room() -> usize {
    if terminal::is_interactive() { terminal::width() } else { usize::MAX }
}

fn no_terminal() -> Failure {
    let hint = "use --events for a line for each connection that ended or failed, --once for one table, or -o json";
    Failure::new(Fault::Usage, "the live view needs a terminal", hint)
}

/// One table, of two looks: a rate takes two.
async fn once(
    scope: &Scope,
    source: Box<dyn Source>,
    every: Duration,
    view: View,
    asked: &Arc<Asked>,
    mut signals: StopSignals,
    (form, lines): (Form, Option<usize>),
) -> Result<ExitCode, Failure> {
    let mut agent = Agent::new(source, Limits::default(), every);
    agent.survey().map_err(|error| failure(&error))?;
    tokio::select! {
        biased;
        signal = signals.next() => return Ok(cut_off(signal)),
        () = tokio::time::sleep(every) => {}
    }
    agent.source().reconcile().map_err(|error| failure(&error))?;
    agent.survey().map_err(|error| failure(&error))?;
    let shared = agent.shared();
    let look = Look::of(&shared, asked.uses());
    // It stands in a write for as long as nobody reads.
    let printing = scope.spawn_blocking("table", move || print(look, &shared, view, form, lines));
    tokio::select! {
        biased;
        signal = signals.next() => Ok(cut_off(signal)),
        printed = printing => match printed {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(lost) => Err(Failure::new(Fault::Internal, lost.to_string(), "")),
        },
    }
}

/// Prints a look: all tables as an object, or the one that is asked for.
fn print(look: Look, shared: &Shared, mut view: View, form: Form, lines: Option<usize>) {
    if form == Form::Object {
        let mut value = rows::json(&look, &view, lines);
        value["source"] = way(shared.way());
        terminal::data(&format!("{value}\n"));
        return;
    }
    let lacking = lacks(&shared.counts(), shared.way());
    for note in view::notes(shared.way(), &lacking) {
        terminal::say(&note);
    }
    // Before the table, where both are read in one place.
    let _ = terminal::said(ORDER);
    view.look(look);
    for line in view.table(room(), lines.unwrap_or(usize::MAX)) {
        terminal::data(&format!("{}\n", line.trim_end()));
    }
}

/// Tells of steps as they happen.
async fn stream(
    scope: &Scope,
    source: Box<dyn Source>,
    every: Duration,
    mut teller: Teller,
    asked: &Arc<Asked>,
    mut signals: StopSignals,
) -> Result<ExitCode, Failure> {
    let output =
        Output::start(teller.left_out()).map_err(|error| Failure::new(Fault::Internal, error.to_string(), ""))?;
    let output = Arc::new(output);
    for line in teller.begin(source.way()) {
        output.put(line, Weight::Full);
    }
    let (lines, known) = (Arc::clone(&output), Arc::clone(asked));
    let mut entrances = Entrances::default();
    let agent = Agent::new(source, Limits::default(), every).with_listener(Box::new(move |record, place| {
        let forward = {
            let known = known.uses.lock().unwrap_or_else(PoisonError::into_inner);
            entrances.note(record, &known);
            known.of(record, &entrances).map(str::to_owned)
        };
        if let Some(line) = teller.line(record, place, forward.as_deref()) {
            lines.put(line, Weight::Full);
        }
    }));
    let shared = agent.shared();
    let working = scope.spawn_blocking("monitor", move || agent.run());
    let mut warned = Warned::one_by_one();
    let (code, ended) = {
        let learning = asked.keep_learning();
        let (left, warning) = (unread(), keep_warning(&shared, every, &mut warned));
        tokio::pin!(working, learning, left, warning);
        let mut code = ExitCode::SUCCESS;
        loop {
            tokio::select! {
                biased;
                signal = signals.next() => {
                    shared.stop();
                    code = ended_by(signal);
                }
                ended = &mut working => break (code, ended),
                () = &mut left, if !shared.is_stopped() => shared.stop(),
                never = &mut warning => match never {},
                never = &mut learning => match never {},
            }
        }
    };
    let unwritten = output.flush().await;
    for text in warned.rest(::monitor::agent::now(), &shared.counts(), shared.way()) {
        tracing::warn!("{text}");
    }
    match ended {
        Ok(Ok(())) if unwritten > 0 => Err(not_taken(unwritten)),
        Ok(Ok(())) => Ok(code),
        Ok(Err(error)) => Err(failure(&error)),
        Err(lost) => Err(Failure::new(Fault::Internal, lost.to_string(), "")),
    }
}

/// Of lines that are lost, as their reader stands still.
fn not_taken(lines: u64) -> Failure {
    let (noun, limit) = (if lines == 1 { "line was" } else { "lines were" }, PATIENCE.as_secs());
    let message = format!("{lines} {noun} not written: nobody has read them within {limit} seconds of the end");
    Failure::new(
        Fault::Internal,
        message,
        "to have all of them, let the reader read to the end, or write them to a file",
    )
}

/// Waits until nobody reads any more, or nothing can be written.
async fn unread() {
    while !terminal::is_unread() {
        tokio::time::sleep(READER).await;
    }
}

/// What goes on until it is stopped has done its work when it is told to end; Ctrl-C is told as such, as everywhere in adit.
fn ended_by(signal: StopSignal) -> ExitCode {
    if signal == StopSignal::Interrupt { ExitCode::from(130) } else { ExitCode::SUCCESS }
}

/// The live view.
async fn live(
    scope: &Scope,
    source: Box<dyn Source>,
    every: Duration,
    view: View,
    asked: &Arc<Asked>,
    mut signals: StopSignals,
) -> Result<ExitCode, Failure> {
    // By itself it would end us at once, and leave the terminal without its modes.
    let no_signal = |error: std::io::Error| Failure::new(Fault::Internal, error.to_string(), "");
    let mut hangups = Hangups::install().map_err(no_signal)?;
    let (suspension, mut suspender) = suspend::start().map_err(no_signal)?;
    let Some(screen) = Screen::take() else {
        return Err(no_terminal());
    };
    let before = screen.before();
    let agent = Agent::new(source, Limits::default(), every);
    let shared = agent.shared();
    let working = scope.spawn_blocking("monitor", move || agent.run());
    let (seen, known) = (Arc::clone(&shared), Arc::clone(asked));
    let drawing = scope.spawn_blocking("view", move || draw(&screen, &seen, &known, view, every, &suspension));
    let (learning, suspending) = (asked.keep_learning(), suspender.serve(&shared));
    // Its time begins with the first look, which is when the end has begun.
    let cutting = cut_loose(&before);
    tokio::pin!(working, drawing, learning, suspending, cutting);
    let (mut end, mut code) = (None, ExitCode::SUCCESS);
    loop {
        tokio::select! {
            biased;
            signal = signals.next() => {
                shared.stop();
                code = ended_by(signal);
            }
            () = hangups.next() => shared.stop(),
            ended = &mut working, if end.is_none() => {
                end = Some(match ended {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(chain(&error)),
                    Err(lost) => Some(lost.to_string()),
                });
                shared.stop();
            }
            // Its screen is given back before anything is said.
            drawn = &mut drawing => {
                shared.stop();
                let problem = match end {
                    Some(problem) => problem,
                    None => working.await.ok().and_then(|ended| ended.err().map(|error| chain(&error))),
                };
                return match (problem, drawn) {
                    (None, Ok(key)) => Ok(key.unwrap_or(code)),
                    (Some(problem), _) => Err(Failure::new(Fault::Internal, problem, "start it again")),
                    (None, Err(lost)) => Err(Failure::new(Fault::Internal, lost.to_string(), "start it again")),
                };
            }
            // There nothing can be said, either.
            () = &mut cutting, if shared.is_stopped() => return Ok(ExitCode::FAILURE),
            never = &mut suspending => match never {},
            never = &mut learning => match never {},
        }
    }
}

/// Ends a view that nobody reads, as in a frozen window: room is made for what it still writes. When that does not help, the
/// terminal gets its modes back without it.
async fn cut_loose(terminal: &Before) {
    tokio::time::sleep(LEAVES).await;
    for _ in 0..ROOM.0 {
        terminal.make_room();
        tokio::time::sleep(ROOM.1).await;
    }
    terminal.restore();
}

/// Draws and takes keys until somebody wants to leave; with the exit code, when it was by Ctrl-C. What has not changed is not
/// computed anew.
fn draw(
    screen: &Screen,
    shared: &Arc<Shared>,
    asked: &Asked,
    mut view: View,
    every: Duration,
    suspension: &Suspension,
) -> Option<ExitCode> {
    screen.begin();
    let mut code = None;
    let (mut looked, mut drawn, mut keys) = (None::<Duration>, None::<(usize, usize)>, Keys::default());
    while !shared.is_stopped() {
        if suspension.go_on(screen, shared) {
            // What was there before the stop is old, and no longer on the screen.
            (looked, drawn) = (None, None);
        }
        let at = ::monitor::agent::now();
        let is_due = looked.is_none_or(|last| at.saturating_sub(last) >= every) || view.is_bare();
        if is_due && !view.is_paused() {
            view.look(Look::of(shared, asked.uses()));
            (looked, drawn) = (Some(at), None);
        }
        let size = screen.size();
        if drawn != Some(size) {
            screen.draw(&view.draw(shared.way(), size.0, size.1));
            drawn = Some(size);
        }
        for key in keys.read(&screen.keys(KEYS)) {
            drawn = None;
            match view.handle_key(key) {
                After::Stay => {}
                After::GoOn => looked = None,
                After::Redraw => screen.clear(),
                After::Suspend => {
                    suspension.suspend(screen, shared);
                    looked = None;
                }
                After::Leave => shared.stop(),
                After::Interrupted => {
                    code = Some(ended_by(StopSignal::Interrupt));
                    shared.stop();
                }
            }
        }
    }
    let _ = std::io::stdout().flush();
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_one_line_at_least() {
        assert_eq!(at_most("1").unwrap(), 1);
        for text in ["0", "-5", "x", "", "99999999999999999999999"] {
            assert!(at_most(text).unwrap_err().contains("from 1 on"), "{text}");
        }
    }

    #[test]
    fn the_one_behind_sudo_is_found_with_his_home() {
        let accounts = "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000:Ann:/srv/ann:/bin/sh\n";
        let home = |user| Behind::of(user, 1_000, accounts).map(|behind| behind.home);
        assert_eq!(home(1_000), Some("/srv/ann".into()));
        assert_eq!(home(1_001), Some("/nonexistent".into()));
    }
}
