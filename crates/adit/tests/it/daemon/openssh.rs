//! Forwards whose SSH is spoken by the program `ssh`.

use testkit::sshd::Sshd;

use super::support::{Place, get, ssh_server};
use crate::support::{DEADLINE, eventually};

/// The end of a session takes the directory of runtime files away from whoever stays.
#[tokio::test(flavor = "multi_thread")]
async fn when_the_directory_of_sockets_is_removed_one_login_is_made_and_streams_go_on() {
    let (place, sshd) = (Place::new().await, Sshd::start(&[]).await);
    let (server, port) = (ssh_server(&sshd), place.origin.addr().port());
    place.write(&format!(
        "forwards:\n  web: {{ listen: 0, to: {{ ssh: {{ host: 127.0.0.1, port: {port}, backend: openssh, {server} }} }} }}\n"
    ));
    let temporary = place.home.path().join("t");
    std::fs::create_dir(&temporary).unwrap();
    let started = place.command(&["daemon", "start"]).env("TMPDIR", &temporary).output().unwrap();
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let web = place.entrance("web");
    assert_eq!((get(web).await, get(web).await), (Some(200), Some(200)));
    assert_eq!(sshd.logins(), 1, "{}", sshd.log());
    let sockets = || async {
        let mut found = std::fs::read_dir(&temporary).unwrap().flatten().map(|entry| entry.path());
        found.find(|path| path.to_string_lossy().contains("/adit-ssh-"))
    };
    std::fs::remove_dir_all(eventually(DEADLINE, "the directory", sockets).await).unwrap();
    for _ in 0..3 {
        assert_eq!(get(web).await, Some(200), "{}", place.log());
    }
    assert_eq!(sshd.logins(), 2, "{}", sshd.log());
}
