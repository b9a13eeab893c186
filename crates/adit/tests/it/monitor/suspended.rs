//! The live view of `adit top` that is stopped and goes on: by Ctrl-Z, and from outside.

use std::path::Path;
use std::process::{Command, ExitStatus};

use testkit::process::{self, Signal};
use testkit::terminal::{Screen, Seated, Terminal};

use crate::cli::home;
use crate::support::{DEADLINE, adit, eventually};

/// A shell with jobs that runs the program it is given in its front, and then `after`.
fn shell(terminal: &Terminal, home: &Path, after: &str) -> Seated {
    let script = format!(r#""$0" "$@"; echo "code $?"; {after}"#);
    terminal.control(&["sh", "-m", "-c", &script], &top(home)).expect("it runs")
}

fn top(home: &Path) -> Command {
    let mut command = adit(home);
    command.args(["top", "--interval", "100ms"]);
    command
}

async fn shows(terminal: &Terminal, what: &str, fits: impl Fn(&Screen) -> bool) {
    let look = || async { Some(()).filter(|()| fits(&terminal.screen())) };
    let seen = tokio::time::timeout(DEADLINE, eventually(DEADLINE * 2, what, look)).await;
    seen.unwrap_or_else(|_| panic!("{what} is not on the screen:\n{}", terminal.screen().text()));
}

/// The view, all of it.
async fn shows_view(terminal: &Terminal, word: &str) {
    shows(terminal, word, |screen| screen.alternate && screen.cursor_hidden && screen.text().contains(word)).await;
}

async fn end(program: &mut Seated) -> ExitStatus {
    let program = std::sync::Mutex::new(program);
    let end = || async { program.lock().expect("no panic").ended().expect("the system says") };
    eventually(DEADLINE, "its end", end).await
}

/// Waits until a process is stopped (T), or has ended and nobody has asked how yet (Z).
async fn becomes(pid: u32, wanted: char) {
    let look = || async {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").filter(|(_, state)| state.starts_with(wanted)).map(drop)
    };
    eventually(DEADLINE, &format!("a process that is {wanted}"), look).await;
}

#[tokio::test]
async fn with_ctrl_z_the_shell_has_its_terminal_and_after_fg_the_view_is_there_again() {
    let home = home();
    let terminal = Terminal::open(100, 24).expect("a terminal");
    let before = terminal.modes().expect("its modes");
    let mut program = shell(&terminal, home.path(), r#"read line; fg; echo "end $?""#);
    shows_view(&terminal, "COMMAND").await;
    let raw = terminal.modes().expect("its modes");
    // Also while a filter is typed.
    terminal.type_text("2/\x1a").unwrap();
    // 128 and the number of SIGTSTP.
    shows(&terminal, "code 148", |screen| screen.text().contains("code 148")).await;
    let screen = terminal.screen();
    assert!(!screen.alternate && !screen.cursor_hidden, "{}", screen.text());
    assert_eq!(terminal.modes().expect("its modes"), before);
    terminal.type_text("\n").unwrap();
    shows_view(&terminal, "LOCAL").await;
    assert_eq!(terminal.modes().expect("its modes"), raw);
    terminal.type_text("\x1b").unwrap();
    shows_view(&terminal, "q quit").await;
    terminal.type_text("q").unwrap();
    assert!(end(&mut program).await.success());
    shows(&terminal, "end 0", |screen| !screen.alternate && screen.text().contains("end 0")).await;
    assert_eq!(terminal.modes().expect("its modes"), before);
}

#[tokio::test]
async fn one_that_is_told_to_end_while_the_shell_has_its_turn_ends_in_the_background() {
    let home = home();
    let terminal = Terminal::open(100, 24).expect("a terminal");
    let before = terminal.modes().expect("its modes");
    let after = r#"kill -s TERM %1; kill -s CONT %1; read line; echo "and over""#;
    let mut program = shell(&terminal, home.path(), after);
    shows_view(&terminal, "COMMAND").await;
    let view =
        process::tree(program.pid()).into_iter().find(|pid| *pid != program.pid()).expect("a child of the shell");
    terminal.type_text("\x1a").unwrap();
    becomes(view, 'Z').await;
    terminal.type_text("\n").unwrap();
    shows(&terminal, "and over", |screen| !screen.alternate && screen.text().contains("and over")).await;
    assert!(end(&mut program).await.success());
    assert_eq!(terminal.modes().expect("its modes"), before);
}

#[tokio::test]
async fn one_that_goes_on_in_the_background_leaves_the_terminal_alone_until_it_is_in_front() {
    let home = home();
    let terminal = Terminal::open(100, 24).expect("a terminal");
    let before = terminal.modes().expect("its modes");
    let after = r#"bg; read line; jobs; read line; fg; echo "end $?""#;
    let mut program = shell(&terminal, home.path(), after);
    shows_view(&terminal, "COMMAND").await;
    terminal.type_text("\x1a").unwrap();
    shows(&terminal, "code 148", |screen| screen.text().contains("code 148")).await;
    terminal.type_text("\n").unwrap();
    shows(&terminal, "Running", |screen| screen.text().contains("Running")).await;
    assert!(!terminal.screen().alternate, "{}", terminal.screen().text());
    assert_eq!(terminal.modes().expect("its modes"), before);
    terminal.type_text("\n").unwrap();
    shows_view(&terminal, "COMMAND").await;
    terminal.type_text("q").unwrap();
    assert!(end(&mut program).await.success());
    shows(&terminal, "end 0", |screen| !screen.alternate && screen.text().contains("end 0")).await;
}

#[tokio::test]
async fn where_no_shell_could_let_it_go_on_ctrl_z_stops_nothing() {
    let home = home();
    let terminal = Terminal::open(100, 24).expect("a terminal");
    // The first of a session whose parent is in another one: the kernel stops nobody there.
    let mut program = terminal.control(&[], &top(home.path())).expect("it runs");
    shows_view(&terminal, "COMMAND").await;
    terminal.type_text("\x1a").unwrap();
    terminal.type_text("2").unwrap();
    shows_view(&terminal, "LOCAL").await;
    terminal.type_text("q").unwrap();
    assert!(end(&mut program).await.success());
    assert!(!terminal.screen().alternate);
}

#[tokio::test]
async fn one_that_was_stopped_from_outside_draws_its_screen_anew_when_it_goes_on() {
    let home = home();
    let terminal = Terminal::open(100, 24).expect("a terminal");
    let before = terminal.modes().expect("its modes");
    let mut program = terminal.control(&[], &top(home.path())).expect("it runs");
    shows_view(&terminal, "COMMAND").await;
    let raw = terminal.modes().expect("its modes");
    program.signal(Signal::STOP).expect("it is there");
    becomes(program.pid(), 'T').await;
    // As a shell does to a terminal, with a line of its own.
    let script = r"stty sane; printf '\033[?1049l\033[?25h\033[2J\033[HOTHERS'";
    let mut others = terminal.run(Command::new("sh").args(["-c", script])).expect("it runs");
    assert!(end(&mut others).await.success());
    shows(&terminal, "OTHERS", |screen| screen.text().contains("OTHERS")).await;
    program.signal(Signal::CONT).expect("it is there");
    shows_view(&terminal, "COMMAND").await;
    assert!(!terminal.screen().text().contains("OTHERS"), "{}", terminal.screen().text());
    assert_eq!(terminal.modes().expect("its modes"), raw);
    terminal.type_text("q").unwrap();
    assert!(end(&mut program).await.success());
    assert_eq!(terminal.modes().expect("its modes"), before);
}
