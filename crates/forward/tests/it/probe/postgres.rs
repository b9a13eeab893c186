//! A real PostgreSQL server, with each of its ways to log in.

use testkit::cert::TestCa;
use testkit::process;
use testkit::servers::{Postgres, open_dir};

use super::{bad, good, password_file};
use crate::support::DEADLINE;

#[tokio::test]
async fn each_way_to_log_in_works_and_a_wrong_password_is_told() {
    for method in ["scram-sha-256", "md5", "password"] {
        let settings: &[&str] = if method == "md5" { &["-c", "password_encryption=md5"] } else { &[] };
        let server = Postgres::start_with(method, "hunter2", settings).await;
        let at = server.addr();
        let login = "type: postgres, user: app, database: postgres, password: hunter2";
        let version = good(login, at).await;
        assert!(version.starts_with("PostgreSQL 1"), "{version}");
        let file = password_file(server.dir(), "hunter2");
        good(&format!("type: postgres, user: app, database: postgres, password_file: {}", file.display()), at).await;
        let said = bad("type: postgres, user: app, database: postgres, password: hunter3", at).await;
        assert_eq!(said, "password authentication failed for user \"app\" (code 28P01)", "{method}");
        let said = bad("type: postgres, user: app, database: nowhere, password: hunter2", at).await;
        assert_eq!(said, "database \"nowhere\" does not exist (code 3D000)", "{method}");
        let said = bad("type: postgres, user: app", at).await;
        assert_eq!(said, "it asks for the password of `app`, and the probe has none");
        assert_eq!(good("type: postgres", at).await, "it asks for a password");
        let said = bad(&format!("{login}, sslmode: require"), at).await;
        assert_eq!(said, "the server speaks no tls, and sslmode wants it");
    }
}

#[tokio::test]
async fn who_is_trusted_needs_no_password_and_a_stranger_is_answered_all_the_same() {
    let server = Postgres::start_with("trust", "hunter2", &[]).await;
    let at = server.addr();
    good("type: postgres, user: app, database: postgres", at).await;
    let said = bad("type: postgres, user: nobody", at).await;
    assert_eq!(said, "role \"nobody\" does not exist (code 28000)");
    // There is no role `postgres`, and that it says so is answer enough.
    assert_eq!(good("type: postgres, sslmode: disable", at).await, "it answers");
}

#[tokio::test]
async fn a_full_server_is_not_well() {
    let server = Postgres::start_with(
        "trust",
        "hunter2",
        &[
            "-c",
            "max_connections=1",
            "-c",
            "superuser_reserved_connections=0",
            "-c",
            "max_wal_senders=0",
            "-c",
            "autovacuum_max_workers=1",
        ],
    )
    .await;
    let at = server.addr();
    let mut held = tokio::net::TcpStream::connect(at).await.unwrap();
    let mut hello = Vec::new();
    for part in [&[0, 0, 0, 41, 0, 3, 0, 0][..], b"user\0app\0database\0postgres\0\0"] {
        hello.extend_from_slice(part);
    }
    hello[3] = u8::try_from(hello.len()).unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut held, &hello).await.unwrap();
    let mut first = [0; 1];
    tokio::io::AsyncReadExt::read_exact(&mut held, &mut first).await.unwrap();
    assert_eq!(&first, b"R");
    for body in ["type: postgres", "type: postgres, user: app, database: postgres"] {
        assert_eq!(bad(body, at).await, "sorry, too many clients already (code 53300)", "{body}");
    }
}

#[tokio::test]
async fn tls_is_spoken_as_the_mode_says() {
    let ca = TestCa::new().unwrap();
    let leaf = ca.leaf("server", &["db.internal"]).unwrap();
    let dir = open_dir();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::copy(&leaf.cert, &cert).unwrap();
    std::fs::copy(&leaf.key, &key).unwrap();
    // Nobody else may read it, and the server's user must.
    process::run(std::process::Command::new("chown").arg("nobody").args([&cert, &key]), b"", DEADLINE).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (cert, key) = (format!("ssl_cert_file={}", cert.display()), format!("ssl_key_file={}", key.display()));
    let server = Postgres::start_with("scram-sha-256", "hunter2", &["-c", "ssl=on", "-c", &cert, "-c", &key]).await;
    let at = server.addr();
    let login = "type: postgres, user: app, database: postgres, password: hunter2";
    let ca = ca.path();
    for mode in [
        String::new(),
        ", sslmode: require".to_owned(),
        format!(", sslmode: require, server_name: db.internal, ca: {}", ca.display()),
        format!(", sslmode: verify-full, server_name: db.internal, ca: {}", ca.display()),
    ] {
        good(&format!("{login}{mode}"), at).await;
    }
    let said = bad(&format!("{login}, sslmode: verify-full, ca: {}", ca.display()), at).await;
    assert!(said.contains("certificate"), "{said}");
    let said = bad(&format!("{login}, sslmode: require, ca: /nowhere/ca.pem"), at).await;
    assert!(said.contains("cannot read /nowhere/ca.pem"), "{said}");
}
