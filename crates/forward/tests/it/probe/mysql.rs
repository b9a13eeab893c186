//! A real MariaDB server.

use std::process::Command;

use testkit::process::{self, Process, Signal};

use super::{as_ordinary_user, bad, good, loopback, open_dir, program};
use crate::support::DEADLINE;

struct MariaDb {
    process: Process,
    port: u16,
    socket: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl MariaDb {
    async fn start(more: &[&str]) -> Self {
        let dir = open_dir();
        let data = dir.path().join("data");
        let mut install = as_ordinary_user(program("mariadb-install-db"));
        install.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]).current_dir(dir.path());
        let (status, out) = process::run(&mut install, b"", DEADLINE * 4).unwrap();
        assert!(status.success(), "{}", out.output());
        let port = process::free_port().unwrap();
        let socket = dir.path().join("socket");
        let mut command = as_ordinary_user(program("mariadbd"));
        command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        command.arg(format!("--socket={}", socket.display())).arg(format!("--port={port}"));
        command.args(["--bind-address=127.0.0.1", "--innodb-flush-log-at-trx-commit=0"]).args(more);
        let process = Process::start(command.current_dir(dir.path())).unwrap();
        process.line(DEADLINE * 4, |line| line.contains("ready for connections")).await.unwrap();
        Self { process, port, socket, _dir: dir }
    }

    /// What the server's own client prints for a statement.
    fn sql(&self, statement: &str) -> String {
        let mut command = Command::new(program("mariadb"));
        command.args(["--no-defaults", "-u", "root", "-N", "-B", "-e", statement]);
        let (status, out) =
            process::run(command.arg(format!("--socket={}", self.socket.display())), b"", DEADLINE).unwrap();
        assert!(status.success(), "{}", out.output());
        out.stdout()
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        for pid in process::tree(self.process.pid()).into_iter().rev() {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            let _ = pid.map(|pid| rustix::process::kill_process(pid, Signal::TERM));
        }
        let _ = self.process.wait(DEADLINE);
    }
}

#[tokio::test]
async fn its_greeting_has_its_version_and_probes_are_no_broken_connections() {
    let server = MariaDb::start(&["--max-connect-errors=3"]).await;
    for _ in 0..10 {
        let version = good("type: mysql", loopback(server.port)).await;
        assert!(version.contains("MariaDB"), "{version}");
    }
    let aborted = server.sql("show global status like 'Aborted_connects_preauth'");
    assert_eq!(aborted.trim(), "Aborted_connects_preauth\t0");
}

#[tokio::test]
async fn a_server_that_takes_nobody_says_so() {
    let server = MariaDb::start(&["--max-connections=10", "--extra-max-connections=1"]).await;
    server.sql("create user 'many'@'127.0.0.1'");
    let mut held = Vec::new();
    for _ in 0..40 {
        let mut command = Command::new(program("mariadb"));
        let port = format!("--port={}", server.port);
        command.args(["--no-defaults", "-u", "many", "-h", "127.0.0.1", &port, "-e", "select 7, sleep(60)"]);
        held.push(Process::start(&mut command).unwrap());
    }
    let full = async {
        loop {
            if let Err(error) = super::ask_within("type: mysql", loopback(server.port), DEADLINE).await {
                return error.to_string();
            }
            tokio::task::yield_now().await;
        }
    };
    let said = tokio::time::timeout(DEADLINE, full).await.unwrap();
    assert_eq!(said, "Too many connections (error 1040)");
    held.iter().for_each(|client| client.kill().unwrap());
}

#[tokio::test]
async fn an_error_in_place_of_the_greeting_is_told() {
    let packet = [
        &[0x45, 0, 0, 0, 0xff, 0x69, 0x04][..],
        b"Host '10.0.0.1' is blocked because of many connection errors, and so on",
    ];
    let mut packet = packet.concat();
    packet[0] = u8::try_from(packet.len() - 4).unwrap();
    let server = testkit::origin::Canned::start(packet, testkit::origin::Manner::First).await.unwrap();
    let said = bad("type: mysql", server.addr()).await;
    assert!(said.starts_with("Host '10.0.0.1' is blocked") && said.ends_with("(error 1129)"), "{said}");
}
