use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::unread::Unread;

fn directory() -> (tempfile::TempDir, PrivateDir) {
    let temporary = tempfile::tempdir().unwrap();
    let directory = PrivateDir::open(&temporary.path().join("adit")).unwrap();
    (temporary, directory)
}

#[derive(Clone)]
struct Echo;

impl Handler for Echo {
    type Body = Lines;

    async fn answer(&self, request: Request<Incoming>) -> Response<Lines> {
        Response::new(Lines::whole(request.uri().path().to_owned()))
    }
}

async fn ask(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[test]
fn s18_a_directory_that_others_can_write_or_a_link_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let open = temporary.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(PrivateDir::open(&open), Err(ControlError::NotOurs { .. })));
    let real = temporary.path().join("real");
    std::fs::create_dir(&real).unwrap();
    let link = temporary.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    assert!(matches!(PrivateDir::open(&link), Err(ControlError::NotOurs { .. })));
    let file = temporary.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(PrivateDir::open(&file).is_err());
}

#[test]
fn s18_socket_and_directory_are_for_their_owner_only() {
    let (_temporary, directory) = directory();
    let lock = ControlLock::take(&directory).unwrap();
    let _socket = ControlSocket::bind(&directory, &lock).unwrap();
    let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(directory.path()), 0o700);
    assert_eq!(mode(&directory.socket()), 0o600);
}

#[test]
fn a_second_daemon_is_refused_with_the_pid_of_the_first_and_a_dead_one_is_replaced() {
    let (_temporary, directory) = directory();
    let lock = ControlLock::take(&directory).unwrap();
    let socket = ControlSocket::bind(&directory, &lock).unwrap();
    let own = std::process::id();
    match ControlLock::take(&directory) {
        Err(ControlError::Running { pid }) => assert_eq!(pid, Some(own)),
        other => panic!("{other:?}"),
    }
    drop((socket, lock));
    assert!(directory.socket().exists(), "as after a kill");
    let lock = ControlLock::take(&directory).unwrap();
    ControlSocket::bind(&directory, &lock).unwrap();
}

#[test]
fn whoever_is_handed_the_lock_holds_it_after_the_first_has_gone() {
    let (_temporary, directory) = directory();
    let lock = ControlLock::take(&directory).unwrap();
    let next = ControlLock::inherited(lock.as_fd().try_clone_to_owned().unwrap());
    drop(lock);
    assert!(ControlLock::take(&directory).is_err());
    drop(next);
    ControlLock::take(&directory).unwrap();
}

#[test]
fn a_lock_that_was_removed_is_in_no_directory_though_another_is_there() {
    let (_temporary, directory) = directory();
    let lock = ControlLock::take(&directory).unwrap();
    assert!(lock.is_in(directory.path()));
    std::fs::remove_file(directory.path().join(LOCK)).unwrap();
    assert!(!lock.is_in(directory.path()));
    let other = ControlLock::take(&directory).unwrap();
    assert!(other.is_in(directory.path()) && !lock.is_in(directory.path()));
}

#[tokio::test]
async fn requests_are_answered_and_the_end_waits_for_nobody_who_is_silent() {
    let (_temporary, directory) = directory();
    let lock = ControlLock::take(&directory).unwrap();
    let scope = Scope::root();
    ControlSocket::bind(&directory, &lock).unwrap().serve(&scope, Echo).unwrap();
    let path = directory.socket();
    let answer = ask(&path, "GET /v1/x HTTP/1.1\r\nHost: adit\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("/v1/x"), "{answer}");
    let _silent = UnixStream::connect(&path).await.unwrap();
    scope.drain();
    tokio::time::timeout(Duration::from_secs(5), scope.idle()).await.expect("nobody lingers");
}

/// A client that asks and asks and reads nothing; how long it is put up with.
async fn put_up_with(requests: usize) -> Duration {
    let (mut client, server) = tokio::io::duplex(256);
    let scope = Scope::root();
    let begun = tokio::time::Instant::now();
    let serving = conversation(Unread::new(server, Duration::from_secs(30)), Echo, scope.clone());
    let asking = async {
        let text = "GET /a HTTP/1.1\r\nHost: adit\r\n\r\n".repeat(requests);
        // It fails when the other end is gone.
        let _ = client.write_all(text.as_bytes()).await;
        std::future::pending::<()>().await;
    };
    let ended = tokio::time::timeout(Duration::from_secs(600), async {
        tokio::select! {
            () = serving => {}
            () = asking => {}
        }
    });
    assert!(ended.await.is_ok(), "it is put up with for ever");
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_or_asks_nothing_is_given_up() {
    assert!((30..60).contains(&put_up_with(10_000).await.as_secs()));
    assert!(put_up_with(0).await <= HEADER_TIMEOUT);
    assert!(put_up_with(1).await <= HEADER_TIMEOUT * 2, "and after an answer that is not read");
}
