//! A real MariaDB server.

use testkit::process::Process;
use testkit::servers::{MariaDb, mariadb};

use super::{bad, good};
use crate::support::DEADLINE;

#[tokio::test]
async fn its_greeting_has_its_version_and_probes_are_no_broken_connections() {
    let server = MariaDb::start(&["--max-connect-errors=3"]).await;
    for _ in 0..10 {
        let version = good("type: mysql", server.addr()).await;
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
        let mut command = mariadb("many", "select 7, sleep(60)");
        command.arg("--host=127.0.0.1").arg(format!("--port={}", server.addr().port()));
        held.push(Process::start(&mut command).unwrap());
    }
    let full = async {
        loop {
            if let Err(error) = super::ask_within("type: mysql", server.addr(), DEADLINE).await {
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
