//! A real Redis server.

use testkit::process::{self, Process};

use super::{bad, good, loopback, password_file, program};
use crate::support::DEADLINE;

struct Redis {
    _process: Process,
    port: u16,
    dir: tempfile::TempDir,
}

async fn redis(more: &[&str]) -> Redis {
    let dir = tempfile::tempdir().unwrap();
    let port = process::free_port().unwrap();
    let mut command = std::process::Command::new(program("redis-server"));
    let config = dir.path().join("redis.conf");
    std::fs::write(&config, more.join("\n")).unwrap();
    command.arg(&config).args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
    let process = Process::start(command.arg("--dir").arg(dir.path())).unwrap();
    process.line(DEADLINE, |line| line.contains("eady to accept connections")).await.unwrap();
    Redis { _process: process, port, dir }
}

#[tokio::test]
async fn an_open_server_answers() {
    let server = redis(&[]).await;
    assert_eq!(good("type: redis", loopback(server.port)).await, "PONG");
}

#[tokio::test]
async fn a_password_is_given_and_a_wrong_one_is_told() {
    let server = redis(&["requirepass hunter2", "user probe on >hunter4 +ping"]).await;
    let at = loopback(server.port);
    assert_eq!(good("type: redis", at).await, "it asks for a password");
    assert_eq!(good("type: redis, password: hunter2", at).await, "PONG");
    assert_eq!(good("type: redis, user: probe, password: hunter4", at).await, "PONG");
    let file = password_file(&server.dir, "hunter2");
    assert_eq!(good(&format!("type: redis, password_file: {}", file.display()), at).await, "PONG");
    let said = bad("type: redis, password: hunter3", at).await;
    assert!(said.starts_with("WRONGPASS") && !said.contains("hunter3"), "{said}");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let said = bad(&format!("type: redis, password_file: {}", file.display()), at).await;
    assert!(said.contains("others may read it (mode 644)"), "{said}");
    let said = bad("type: redis, password_file: /nowhere/pw", at).await;
    assert!(said.contains("/nowhere/pw: No such file"), "{said}");
}
