//! `adit up` on a terminal.

use std::net::SocketAddr;
use std::path::Path;

use rustix::process::{Pid, kill_process};
use testkit::process::Signal;
use testkit::raw;
use testkit::terminal::{Screen, Seated, Terminal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Bed, WEB, gateway};
use crate::support::{DEADLINE, Server, adit, eventually, write_secret};

/// `adit up` as a person runs it.
fn command(bed: &Bed) -> std::process::Command {
    let mut command = adit(bed.home.path());
    command.arg("up").env("KUBECONFIG", bed.home.path().join("kubeconfig"));
    command
}

/// Waits until the screen shows what is wanted.
async fn shown(terminal: &Terminal, what: &str, wanted: impl Fn(&Screen) -> bool) -> Screen {
    let look = || async { Some(terminal.screen()).filter(&wanted) };
    let seen = tokio::time::timeout(DEADLINE, eventually(DEADLINE * 2, what, look)).await;
    seen.unwrap_or_else(|_| panic!("{what} is not on the screen:\n{}", terminal.screen().text()))
}

async fn ended(program: &mut Seated) -> std::process::ExitStatus {
    let program = std::sync::Mutex::new(program);
    let look = || async { program.lock().expect("no panic").ended().expect("the system says") };
    eventually(DEADLINE, "its end", look).await
}

/// What is after a word in the first line that has it.
fn after(screen: &Screen, word: &str) -> Option<String> {
    let lines = screen.lines();
    let rest = lines.iter().find_map(|line| line.split_once(word))?.1;
    rest.split_whitespace().next().map(str::to_owned)
}

fn gateway_of(screen: &Screen) -> Option<SocketAddr> {
    after(screen, "http://localhost:").and_then(|port| format!("127.0.0.1:{port}").parse().ok())
}

/// The line of a row, and the two below it.
fn row(screen: &Screen, name: &str) -> Option<String> {
    let lines = screen.lines();
    let at = lines.iter().position(|line| line.split_whitespace().nth(4) == Some(name))?;
    Some(lines[at..].iter().take(3).map(|line| line.trim_start()).collect::<Vec<_>>().join(" "))
}

#[tokio::test]
async fn what_a_server_refuses_to_publish_says_so_in_the_table_until_it_is_granted() {
    let bed = Bed::start().await;
    let server = Server::start().await;
    let token = bed.home.path().join("token");
    write_secret(&token, "adit_nobody").expect("the token file");
    let (agents, fingerprint) = (server.agents, &server.fingerprint);
    bed.write(&format!(
        "publish:\n  server: \"{agents}\"\n  fingerprint: \"{fingerprint}\"\n  token_file: token\n  tunnels:\n    \
         shop: {{ to: \"{WEB}\" }}\n"
    ));
    let terminal = Terminal::open(120, 24).expect("it works");
    let mut program = terminal.control(&[], &command(&bed)).expect("it works");
    let refused = |screen: &Screen| row(screen, "shop").is_some_and(|row| row.starts_with("refused"));
    let screen = shown(&terminal, "the refusal", refused).await;
    assert!(row(&screen, "shop").unwrap().contains("invalid_token"), "{}", screen.text());
    assert!(screen.text().contains("asking again in 1 min"), "{}", screen.text());
    write_secret(&token, &server.token("acme")).expect("the token file");
    shown(&terminal, "that it is published", |screen| row(screen, "shop").is_some_and(|row| row.starts_with("online")))
        .await;
    program.signal(Signal::INT).expect("it works");
    ended(&mut program).await;
}

async fn table_at(columns: u16, rows: u16) {
    let bed = Bed::start().await;
    bed.write(&format!(
        "forwards:\n  shop: {{ to: \"{WEB}\", listen: 0 }}\n  dead: {{ to: \"k8s://fake/default/service/web:81\", listen: 0 }}\n{}",
        gateway(&[], &["dead.localhost: \"forward:dead\""])
    ));
    let terminal = Terminal::open(columns, rows).expect("it works");
    let before = terminal.modes().expect("it works");
    let mut program = terminal.control(&[], &command(&bed)).expect("it works");
    let idle = |screen: &Screen| {
        ["shop", "dead"].iter().all(|name| row(screen, name).is_some_and(|row| row.starts_with("idle")))
    };
    let screen = shown(&terminal, "the rows", idle).await;
    let gateway = gateway_of(&screen).expect("an address");
    let shop: SocketAddr = after(&screen, "shop ").and_then(|at| at.parse().ok()).expect("its entrance");
    let mut stream = TcpStream::connect(shop).await.expect("it works");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it works");
    stream.read_exact(&mut [0; 12]).await.expect("it works");
    assert_eq!(raw::get(gateway, "dead.localhost", "/").await.expect("it works").status, 502);
    let whole = |screen: &Screen| {
        let shop = row(screen, "shop").unwrap_or_default();
        let dead = row(screen, "dead.localhost").unwrap_or_default();
        shop.starts_with("ready    1 ")
            && shop.contains("web-1")
            && dead.starts_with("failing")
            && dead.contains("refused")
    };
    let screen = shown(&terminal, "a stream and an error", whole).await;
    let shop = row(&screen, "shop").expect("it is there");
    assert!(!shop.contains(" 0B 0B ") && shop.contains("27B ") && shop.contains("k8s://"), "{shop}");
    let index =
        raw::request(gateway, "GET", "localhost", "/", &[("Accept", "application/json")], b"").await.expect("it works");
    let index: serde_json::Value = serde_json::from_slice(&index.body).expect("it works");
    assert_eq!(index["routes"][0]["state"], "failing", "the same word: {index}");
    terminal.type_text("\x03").expect("it works");
    shown(&terminal, "the wait", |screen| screen.text().contains("waiting for 1 stream to end")).await;
    drop(stream);
    assert_eq!(ended(&mut program).await.code(), Some(130));
    let screen = terminal.screen();
    assert_eq!((screen.broken, screen.unknown.len()), (0, 0), "{:?}\n{}", screen.unknown, screen.text());
    assert!(!screen.cursor_hidden && !screen.alternate && screen.column() == 0, "{}", screen.text());
    assert_eq!(terminal.modes().expect("it works"), before);
}

#[tokio::test]
async fn the_table_fits_a_small_terminal_and_leaves_it_as_it_was() {
    table_at(80, 24).await;
}

#[tokio::test]
async fn the_table_fits_a_large_terminal_and_leaves_it_as_it_was() {
    table_at(120, 40).await;
}

#[tokio::test]
async fn a_terminal_that_is_closed_ends_it_and_frees_its_ports() {
    let bed = Bed::start().await;
    bed.write(&gateway(&[], &[]));
    let mut terminal = Terminal::open(80, 24).unwrap();
    let mut program = terminal.control(&[], &command(&bed)).unwrap();
    let screen = shown(&terminal, "the gateway", |screen| gateway_of(screen).is_some()).await;
    let address = gateway_of(&screen).expect("an address");
    program.signal(Signal::HUP).unwrap();
    shown(&terminal, "the reload", |screen| screen.text().contains("reloaded: nothing has changed")).await;
    terminal.close();
    assert_eq!(ended(&mut program).await.code(), Some(0));
    TcpListener::bind(address).await.expect("the port is free");
}

/// The gateway of one whose lines go into a file.
async fn gateway_in(said: &Path) -> SocketAddr {
    let find = || async {
        let text = std::fs::read_to_string(said).ok()?;
        let port = text.split_once("http://localhost:")?.1.split_whitespace().next()?.to_owned();
        format!("127.0.0.1:{port}").parse::<SocketAddr>().ok()
    };
    eventually(DEADLINE, "the gateway", find).await
}

/// Waits until a file has so many lines with this text.
async fn lines_with(said: &Path, text: &str, count: usize) {
    let look = || async {
        let said = std::fs::read_to_string(said).ok()?;
        (said.lines().filter(|line| line.contains(text)).count() == count).then_some(())
    };
    eventually(DEADLINE, text, look).await;
}

#[tokio::test]
async fn under_nohup_it_outlives_its_terminal_and_a_hangup_reads_the_file_again() {
    let bed = Bed::start().await;
    bed.write(&gateway(&[], &[]));
    let mut terminal = Terminal::open(80, 24).unwrap();
    let mut program = terminal.control(&["nohup"], &command(&bed)).unwrap();
    let said = bed.home.path().join("nohup.out");
    let address = gateway_in(&said).await;
    program.signal(Signal::HUP).unwrap();
    lines_with(&said, "reloaded: nothing has changed", 1).await;
    // The terminal sends one, too.
    terminal.close();
    lines_with(&said, "reloaded: nothing has changed", 2).await;
    program.signal(Signal::HUP).unwrap();
    lines_with(&said, "reloaded: nothing has changed", 3).await;
    assert_eq!(raw::get(address, "localhost", "/").await.unwrap().status, 200);
    program.signal(Signal::TERM).unwrap();
    assert_eq!(ended(&mut program).await.code(), Some(0));
}

#[tokio::test]
async fn a_hangup_long_after_the_terminal_went_without_one_reads_the_file_again() {
    let bed = Bed::start().await;
    bed.write(&gateway(&[], &[]));
    let mut terminal = Terminal::open(80, 24).unwrap();
    // A shell that sends its jobs nothing when it is hung up, as after `disown`.
    let shell = ["sh", "-c", "set -m; \"$0\" \"$@\" >said 2>&1 & echo $! >pid; read line"];
    let mut shell = terminal.control(&shell, command(&bed).env("ADIT_LOG", "info")).unwrap();
    let said = bed.home.path().join("said");
    let address = gateway_in(&said).await;
    let program = Orphan::of(&bed.home.path().join("pid"));
    terminal.close();
    ended(&mut shell).await;
    lines_with(&said, "the terminal is gone, and no SIGHUP came", 1).await;
    program.signal(Signal::HUP);
    lines_with(&said, "reloaded: nothing has changed", 1).await;
    assert_eq!(raw::get(address, "localhost", "/").await.unwrap().status, 200);
    program.signal(Signal::TERM);
    let free = || async { TcpListener::bind(address).await.ok() };
    eventually(DEADLINE, "its end", free).await;
}

/// A program that a shell has left behind; killed when this is dropped.
struct Orphan(Pid);

impl Orphan {
    fn of(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).expect("the shell wrote it");
        Self(text.trim().parse().ok().and_then(Pid::from_raw).expect("a process id"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.0, signal).expect("it runs");
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}
