//! A real Redis server.

use testkit::servers::Redis;

use super::{bad, good, password_file};

#[tokio::test]
async fn an_open_server_answers() {
    let server = Redis::start(&[]).await;
    assert_eq!(good("type: redis", server.addr()).await, "PONG");
}

#[tokio::test]
async fn a_password_is_given_and_a_wrong_one_is_told() {
    let server = Redis::start(&["requirepass hunter2", "user probe on >hunter4 +ping"]).await;
    let at = server.addr();
    assert_eq!(good("type: redis", at).await, "it asks for a password");
    assert_eq!(good("type: redis, password: hunter2", at).await, "PONG");
    assert_eq!(good("type: redis, user: probe, password: hunter4", at).await, "PONG");
    let file = password_file(server.dir(), "hunter2");
    assert_eq!(good(&format!("type: redis, password_file: {}", file.display()), at).await, "PONG");
    let said = bad("type: redis, password: hunter3", at).await;
    assert!(said.starts_with("WRONGPASS") && !said.contains("hunter3"), "{said}");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let said = bad(&format!("type: redis, password_file: {}", file.display()), at).await;
    assert!(said.contains("others may read it (mode 644)"), "{said}");
    let said = bad("type: redis, password_file: /nowhere/pw", at).await;
    assert!(said.contains("/nowhere/pw: No such file"), "{said}");
}
