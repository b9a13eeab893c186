//! Programs that decide.

use std::time::Duration;

use testkit::origin::{Canned, Manner};

use super::{ask_within, bad, good, loopback};
use crate::support::{DEADLINE, eventually};

#[tokio::test]
async fn a_program_reaches_the_target_by_a_port_of_its_own() {
    let server = Canned::start("hello from the pod\n", Manner::First).await.unwrap();
    let script =
        r#"exec 3<>"/dev/tcp/$ADIT_PROBE_HOST/$ADIT_PROBE_PORT"; read -r line <&3; echo "$ADIT_PROBE_ADDRESS: $line""#;
    let said = good(&format!("command: [bash, -c, '{script}']"), server.addr()).await;
    assert!(said.starts_with("127.0.0.1:") && said.ends_with(": hello from the pod"), "{said}");
    assert!(!said.contains(&server.addr().port().to_string()), "{said}");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn its_exit_code_and_last_words_are_told() {
    let at = loopback(1);
    assert_eq!(good("command: ['true']", at).await, "`true` is content");
    assert_eq!(bad("command: ['false']", at).await, "`false` ended with 1");
    let said = bad("command: [sh, -c, 'echo first >&2; echo no such table >&2; exit 3']", at).await;
    assert_eq!(said, "`sh` ended with 3: no such table");
    let said = bad("command: [sh, -c, 'kill -9 $$']", at).await;
    assert_eq!(said, "`sh` was ended by signal 9");
    let said = bad("command: [no-such-program]", at).await;
    assert!(said.contains("`no-such-program` could not be run: No such file"), "{said}");
}

#[tokio::test]
async fn a_target_that_cannot_be_reached_is_told_beside_the_programs_words() {
    let script = r#"exec 3<>"/dev/tcp/$ADIT_PROBE_HOST/$ADIT_PROBE_PORT"; read -r line <&3 || exit 4"#;
    let closed = testkit::process::free_port().unwrap();
    let said = bad(&format!("command: [bash, -c, '{script}']"), loopback(closed)).await;
    assert!(said.contains("ended with 4") && said.contains("refused"), "{said}");
}

#[tokio::test]
async fn at_the_deadline_all_that_it_started_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pids");
    let script = format!("sleep 600 & echo $! $$ > {}; wait", path.display());
    let error = ask_within(&format!("command: [sh, -c, '{script}']"), loopback(1), Duration::from_secs(1)).await;
    assert_eq!(error.unwrap_err().to_string(), "no answer within 1s while its command runs");
    let pids = std::fs::read_to_string(&path).unwrap();
    let pids: Vec<i32> = pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 2);
    let alive = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !status.is_empty() && !status.contains(") Z ")
    };
    eventually(DEADLINE, "both are gone", || !pids.iter().any(alive)).await;
}

#[tokio::test]
async fn what_it_prints_without_end_is_not_kept() {
    let said = good("command: [sh, -c, 'head -c 5000000 /dev/zero; exit 0']", loopback(1)).await;
    assert!(said.len() < 400, "{}", said.len());
}
