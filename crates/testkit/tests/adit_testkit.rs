//! The command `adit-testkit cluster`, run as a user runs it.

use std::process::Command;
use std::time::Duration;

use testkit::process::{Process, run};

/// Longest wait for anything the command does.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn the_cluster_says_what_to_try_obeys_typed_lines_and_tidies_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit-testkit"));
    command.env("TMPDIR", dir.path()).args(["cluster", "--prefix", "k8s", "--backend", "svc/db:5432=127.0.0.1:1"]);
    let testkit = Process::start(&mut command).unwrap();
    let line = testkit.wait_line(SOON, |line| line.contains("KUBECONFIG=")).unwrap();
    let config = line.split('=').nth(1).unwrap().to_owned();
    assert!(std::fs::read_to_string(&config).unwrap().contains("/k8s\n"));
    testkit.write_stdin(b"unready web-7d4b9c-2xk8p\npods\n").unwrap();
    testkit.wait_line(SOON, |line| line == "default/web-7d4b9c-2xk8p Running").unwrap();
    testkit.wait_line(SOON, |line| line == "default/db-0 Running ready").unwrap();
    testkit.terminate().unwrap();
    assert!(testkit.wait(SOON).unwrap().success());
    assert!(!std::path::Path::new(&config).exists());
}

#[test]
fn a_mistake_on_the_command_line_is_named() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit-testkit"));
    let (status, testkit) = run(command.args(["cluster", "--backend", "nonsense"]), b"", SOON).unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(testkit.stderr().starts_with("error: --backend nonsense: expected"), "{}", testkit.output());
}
