use std::process::Stdio;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::*;

fn target(host: &str) -> JumpTarget {
    JumpTarget::parse(&format!("jump:////pod/p/{host}:5432")).unwrap()
}

#[test]
fn a_command_is_a_list_of_words_in_which_the_host_is_only_a_host() {
    let words = |tool: Tool, host: &str| tool.words(&target(host), ExecTransport::Spdy).join("|");
    let socat = "socat|-d|-b|65536|-t|600|STDIO,shut-close|";
    assert_eq!(words(Tool::Socat, "db.internal"), format!("{socat}TCP:db.internal:5432,connect-timeout=10"));
    assert_eq!(words(Tool::Socat, "10.0.0.1"), format!("{socat}TCP:10.0.0.1:5432,connect-timeout=10"));
    assert_eq!(words(Tool::Socat, "[fd00::1]"), format!("{socat}TCP6:[fd00::1]:5432,connect-timeout=10"));
    assert_eq!(words(Tool::Nc { shuts: false }, "[fd00::1]"), "nc|fd00::1|5432");
    assert_eq!(words(Tool::Nc { shuts: true }, "db"), "nc|-N|-v|db|5432");
    let channels = Tool::Socat.words(&target("db"), ExecTransport::Channels);
    assert!(channels.windows(2).any(|two| two == ["-t", "10"]), "{channels:?}");
}

#[test]
fn the_kinds_of_nc_are_told_apart_by_their_help() {
    assert!(has_shutdown("\t\t-n\t\tSuppress name\n\t\t-N\t\tShutdown the network socket after EOF on stdin\n"));
    assert!(!has_shutdown(
        "BusyBox v1.35.0 multi-call binary.\n\nUsage: nc [-iN] [-wN] [-l] [-p PORT] [-f FILE|IPADDR PORT]\n"
    ));
    assert!(!has_shutdown("usage: nc [-46CDdFhklNnrStUuvZz] [-I length]\n"));
}

#[test]
fn runtimes_say_in_their_own_words_that_a_program_is_missing() {
    for text in [
        "exec: \"socat\": executable file not found in $PATH: unknown",
        "executable file `socat` not found in $PATH: No such file or directory",
        "OCI runtime exec failed: exec: \"nc\": stat nc: no such file or directory",
    ] {
        assert!(is_missing(text), "{text}");
    }
    assert!(!is_missing("cannot exec in a stopped container"));
}

/// The real socat on the words for a host of this machine; `None` where there is no socat.
fn real_socat(port: u16) -> Option<Child> {
    let target = JumpTarget::parse(&format!("jump:////pod/p/127.0.0.1:{port}")).unwrap();
    let words = Tool::Socat.words(&target, ExecTransport::Spdy);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    match command.spawn() {
        Ok(child) => Some(child),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
            eprintln!("skipped: socat is not installed");
            None
        }
    }
}

#[tokio::test]
async fn the_real_socat_waits_for_an_answer_after_the_end_of_its_input() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let Some(mut socat) = real_socat(listener.local_addr().unwrap().port()) else { return };
    let (mut host, _) = listener.accept().await.unwrap();
    let mut stdin = socat.stdin.take().unwrap();
    stdin.write_all(b"question").await.unwrap();
    drop(stdin);
    let mut question = String::new();
    host.read_to_string(&mut question).await.unwrap();
    // Three times what socat waits by default.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    host.write_all(b"answer").await.unwrap();
    drop(host);
    let output = socat.wait_with_output().await.unwrap();
    assert_eq!((question.as_str(), &output.stdout[..], output.status.code()), ("question", &b"answer"[..], Some(0)));
}

#[tokio::test]
async fn the_real_socat_passes_the_hosts_end_on_at_once_and_goes_on_the_other_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let Some(mut socat) = real_socat(listener.local_addr().unwrap().port()) else { return };
    let (mut host, _) = listener.accept().await.unwrap();
    host.write_all(b"hello").await.unwrap();
    host.shutdown().await.unwrap();
    let begun = Instant::now();
    let mut hello = String::new();
    let mut stdout = socat.stdout.take().unwrap();
    let read = tokio::time::timeout(Duration::from_secs(10), stdout.read_to_string(&mut hello)).await;
    read.expect("the end comes while stdin is open").unwrap();
    assert!(hello == "hello" && begun.elapsed() < Duration::from_secs(5));
    let mut stdin = socat.stdin.take().unwrap();
    stdin.write_all(b"more").await.unwrap();
    drop(stdin);
    let mut more = String::new();
    host.read_to_string(&mut more).await.unwrap();
    assert_eq!(more, "more");
    assert!(socat.wait().await.unwrap().success());
}

#[tokio::test]
async fn the_words_of_the_real_socat_are_understood() {
    use super::super::fault::{JumpFault, Way};
    let closed = testkit::process::Closed::take().unwrap();
    let port = closed.address.port();
    let Some(socat) = real_socat(port) else { return };
    let output = socat.wait_with_output().await.unwrap();
    let way = std::sync::Arc::new(Way { host: format!("127.0.0.1:{port}"), pod: "p".into(), tool: "socat" });
    let end = ExecEnd::Exit(output.status.code().unwrap());
    let fault = JumpFault::of(&way, &end, &output.stderr);
    assert!(matches!(fault, Some(JumpFault::Refused(_))), "{fault:?}: {}", String::from_utf8_lossy(&output.stderr));
}
