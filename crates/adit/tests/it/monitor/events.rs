//! `adit top --events`: a line for each event, as people read it, at a terminal and in a pipe.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testkit::process::{self, Closed, Process, Signal};
use testkit::terminal::Terminal;

use crate::cli::home;
use crate::support::{DEADLINE, adit, eventually};

/// One that tells of events, from the moment on that it sees them; and its titles.
fn start(home: &Path, more: &[&str]) -> (Process, String) {
    let mut command = adit(home);
    command.args(["top", "--interval", "100ms", "--events"]).args(more);
    let process = Process::start(&mut command).expect("it starts");
    let titles = process.wait_line(DEADLINE, |line| line.starts_with("TIME ")).expect("titles");
    (process, titles)
}

/// A connection that carries 5,000 bytes to who is connected to.
fn carry() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut client = TcpStream::connect(address).expect("a connection");
    let (mut served, _) = listener.accept().expect("its other end");
    client.write_all(&[7; 5_000]).expect("there is room");
    served.read_exact(&mut [0; 5_000]).expect("all of it");
    drop(client);
    assert_eq!(served.read(&mut [0; 1]).expect("the end"), 0);
    address
}

/// What a line has below a title.
fn below<'a>(titles: &str, line: &'a str, title: &str) -> &'a str {
    let at = titles.find(title).unwrap_or_else(|| panic!("{title}: {titles}"));
    let start = line.char_indices().nth(at).map_or(line.len(), |(at, _)| at);
    line[start..].split(' ').next().unwrap_or_default()
}

#[test]
fn each_connection_that_ends_or_fails_is_a_line_below_the_titles_as_it_happens() {
    let home = home();
    let (process, titles) = start(home.path(), &["--filter", &std::process::id().to_string()]);
    if process.stderr().contains("polling") {
        eprintln!("SKIPPED: failed connections are seen by programs in the kernel only");
        return;
    }
    let address = carry().to_string();
    let closed = Closed::take().unwrap();
    assert!(TcpStream::connect(closed.address).is_err());
    let line = |remote: &str, way: &str| {
        let fits = |line: &str| below(&titles, line, "REMOTE") == remote && below(&titles, line, "WAY") == way;
        process.wait_line(DEADLINE, fits).unwrap_or_else(|_| panic!("{remote}: {}", process.output()))
    };
    let ended = line(&address, "out");
    let word = |line: &str, title: &str| below(&titles, line, title).to_owned();
    assert_eq!([word(&ended, "EVENT"), word(&ended, "ERROR")], ["closed", "–"], "{ended}");
    assert!(ended.contains(&format!(" {} ", std::process::id())) && ended.contains(" 4.9K "), "{ended}");
    let failed = line(&closed.address.to_string(), "out");
    assert_eq!([word(&failed, "EVENT"), word(&failed, "ERROR")], ["failed", "ECONNREFUSED"], "{failed}");
    // The house's time, in UTC and with milliseconds.
    assert!(ended.split(' ').next().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{ended}");
    assert!(!process.stdout().contains(" opened "), "ends alone: {}", process.stdout());
    process.signal(Signal::INT).unwrap();
    assert_eq!(process.wait(DEADLINE).expect("it ends").code(), Some(130));
    assert_eq!(process.stdout().matches("COMMAND").count(), 1, "titles are there once");
}

#[test]
fn a_choice_and_a_filter_leave_out_all_other_lines_for_people_and_for_programs() {
    let home = home();
    let closed = Closed::take().unwrap();
    let (process, titles) = start(home.path(), &["failed", "--filter", &closed.address.to_string()]);
    if process.stderr().contains("polling") {
        eprintln!("SKIPPED: failed connections are seen by programs in the kernel only");
        return;
    }
    let mut command = adit(home.path());
    command.args(["top", "-o", "json", "--events", "failed", "--interval", "100ms"]);
    let json = Process::start(&mut command).expect("it starts");
    json.wait_line(DEADLINE, |line| line.contains("\"started\"")).expect("it says how it sees");
    let (all, _) = start(home.path(), &["all"]);
    let other = Closed::take().unwrap();
    carry();
    assert!(TcpStream::connect(other.address).is_err());
    assert!(TcpStream::connect(closed.address).is_err());
    let remote = closed.address.to_string();
    process.wait_line(DEADLINE, |line| below(&titles, line, "REMOTE") == remote).expect("the one that fits");
    assert_eq!(process.stdout().lines().count(), 2, "{}", process.stdout());
    let last = json.wait_line(DEADLINE, |line| line.contains(&remote)).expect("the failure");
    assert_eq!(serde_json::from_str::<Value>(&last).expect("JSON")["end"], "failed");
    assert!(json.stdout().lines().skip(1).all(|line| line.contains("\"end\":\"failed\"")), "{}", json.stdout());
    for step in [" opened ", " established ", " closed ", " failed "] {
        all.wait_line(DEADLINE, |line| line.contains(step)).unwrap_or_else(|_| panic!("{step}: {}", all.stdout()));
    }
}

#[test]
fn a_reader_who_has_enough_ends_it_and_that_is_no_failure() {
    let home = home();
    let program = adit(home.path()).get_program().to_owned();
    let script = r#"{ "$0" top --interval 100ms --events; echo "code $?" >&2; } | head -n 1"#;
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(&program).env("HOME", home.path()).env_remove("SUDO_UID");
    let (_, said) = process::run(&mut command, b"", DEADLINE).expect("it ends when nobody reads any more");
    assert!(said.stderr().ends_with("code 0\n") && !said.stderr().contains("error"), "{}", said.stderr());
    assert!(said.stdout().starts_with("TIME ") && said.stdout().lines().count() == 1, "{}", said.stdout());
}

#[tokio::test]
async fn a_poll_without_rights_says_once_what_it_does_not_see_and_tells_begins_and_ends_of_the_rest() {
    let home = home();
    let mut command = adit(home.path());
    command.args(["top", "--interval", "100ms", "--source", "sock-diag", "--events", "all"]);
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    let Ok(process) = Process::start(&mut command) else {
        eprintln!("SKIPPED: nobody may not run the program where it is");
        return;
    };
    let titles = process.wait_line(DEADLINE, |line| line.starts_with("TIME ")).expect("titles");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let is_told = |step: &str| {
        let fits = |line: &str| below(&titles, line, "REMOTE") == address.to_string() && line.contains(step);
        process.stdout().lines().any(fits)
    };
    // What is there at the first look is older than it, so one more is opened each time.
    let clients = std::cell::RefCell::new(Vec::new());
    let seen = || async {
        clients.borrow_mut().push((TcpStream::connect(address).unwrap(), listener.accept().unwrap()));
        is_told(" established ").then_some(())
    };
    eventually(DEADLINE, "one that is seen", seen).await;
    clients.borrow_mut().clear();
    eventually(DEADLINE, "one that is missed", || async { is_told(" unseen ").then_some(()) }).await;
    assert_eq!(process.stderr().matches("not seen: ").count(), 1, "{}", process.stderr());
}

#[tokio::test]
async fn a_narrow_terminal_is_told_for_which_columns_it_has_no_room() {
    let home = home();
    let terminal = Terminal::open(90, 24).expect("a terminal");
    let mut program =
        terminal.run(adit(home.path()).args(["top", "--events", "--interval", "100ms"])).expect("it runs");
    let begun = || async { Some(()).filter(|()| terminal.screen().text().contains("REMOTE")) };
    eventually(DEADLINE, "the titles", begun).await;
    let text = terminal.screen().text();
    assert!(text.contains("no room on this terminal for TIME, LOCAL") && text.contains("DURATION"), "{text}");
    program.signal(Signal::INT).expect("it is told");
    let program = std::sync::Mutex::new(&mut program);
    let end = || async { program.lock().expect("no panic").ended().expect("the system says") };
    assert_eq!(eventually(DEADLINE, "its end", end).await.code(), Some(130));
}

#[test]
fn connections_that_end_too_fast_for_a_line_each_are_warned_of_while_it_runs() {
    let home = home();
    let (process, _) = start(home.path(), &["--filter", "none fits"]);
    if process.stderr().contains("polling") {
        eprintln!("SKIPPED: a poll has no ring that could be full");
        return;
    }
    // Nobody empties the kernel's ring meanwhile, which has room for a third of a second.
    process.signal(Signal::STOP).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for _ in 0..16_000 {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // A reset leaves no port behind that is taken for a minute.
        rustix::net::sockopt::set_socket_linger(&client, Some(std::time::Duration::ZERO)).unwrap();
        drop((client, listener.accept().unwrap()));
    }
    process.signal(Signal::CONT).unwrap();
    let told = process.wait_line(DEADLINE, |line| line.contains(" connections ended too fast to be told one by one"));
    assert!(told.is_ok() && process.is_running(), "{}", process.output());
    process.terminate().unwrap();
    assert!(process.wait(DEADLINE).expect("it ends").success());
    assert_eq!(process.stderr().matches("one by one").count(), 1, "it is said already: {}", process.stderr());
}

#[test]
fn a_live_view_without_a_terminal_names_the_forms_that_need_none() {
    let home = home();
    let (status, said) = process::run(adit(home.path()).arg("top"), b"", DEADLINE).expect("it ends");
    assert_eq!(status.code(), Some(2));
    let text = said.stderr();
    assert!(["--events", "--once", "-o json"].iter().all(|word| text.contains(word)), "{text}");
}
