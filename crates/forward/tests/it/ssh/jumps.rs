//! Servers on the way.

use adit_core::target::{SshBackend, SshOptions, SshTarget, Target};
use forward::ForwardOptions;
use testkit::sshd::Sshd;

use super::bed::SshBed;
use super::streams::echo;
use crate::support::{DEADLINE, call, ready, refusal, within_of};

/// A bed whose server is reached through two others, by `ssh_config`.
async fn chain() -> (SshBed, Sshd, Sshd, SshOptions) {
    let bed = SshBed::new().await;
    let (first, second) = (Sshd::start(&[]).await, Sshd::start(&[]).await);
    let mut known = std::fs::read_to_string(bed.sshd.known_hosts()).unwrap();
    let mut config = String::new();
    for (name, hop) in [("first", &first), ("second", &second)] {
        known += &std::fs::read_to_string(hop.known_hosts()).unwrap();
        config += &format!(
            "Host {name}\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  IdentityFile {}\n  IdentitiesOnly yes\n",
            hop.addr().port(),
            hop.user(),
            hop.key().display(),
        );
    }
    std::fs::write(bed.sshd.known_hosts(), known).unwrap();
    let options =
        SshOptions { config: Some(bed.config(&config)), jump: Some("first,second".to_owned()), ..bed.options() };
    (bed, first, second, options)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_reached_through_two_others() {
    let (bed, first, second, options) = chain().await;
    let forward = bed.forward_with(options);
    ready(&forward).await;
    call(&forward).await;
    assert_eq!((first.logins(), second.logins(), bed.sshd.logins()), (1, 1, 1));
    second.says(DEADLINE, |log| log.contains("server_request_direct_tcpip")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hop_for_all_hosts_is_not_reached_through_itself() {
    for (backend, transport) in [(SshBackend::Native, "ssh"), (SshBackend::OpenSsh, "openssh")] {
        let (bed, first, _second, options) = chain().await;
        let config = options.config.clone().unwrap();
        let lines = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, format!("{lines}Host *\n  ProxyJump first\n")).unwrap();
        let options = SshOptions { jump: None, backend, ..options };
        let forward = bed.forward_with(options.clone());
        assert_eq!(ready(&forward).await.transport, Some(transport));
        call(&forward).await;
        assert_eq!(first.logins(), 1);
        // The hop itself is a server as well.
        let to_it = SshTarget::parse(&format!("ssh://first/{}", bed.origin.addr())).unwrap();
        let server = to_it.server.with(SshOptions { key: None, ..options });
        call(&bed.forward_of(Target::Ssh(SshTarget { server, ..to_it }), ForwardOptions::default())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jumps_in_a_circle_are_told_by_openssh_before_anything_is_started() {
    let (bed, first, second, options) = chain().await;
    let config = options.config.clone().unwrap();
    let lines = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("Host first\n  ProxyJump second\nHost second\n  ProxyJump first\n{lines}"))
        .unwrap();
    let options = SshOptions { jump: Some("first".to_owned()), backend: SshBackend::OpenSsh, ..options };
    refusal(&bed.forward_with(options)).await.has(&["its jumps lead in a circle", "first, second, first"], &[]);
    assert_eq!((first.logins(), second.logins()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hop_that_refuses_is_the_one_that_is_named() {
    let (bed, first, _second, options) = chain().await;
    std::fs::write(first.path("authorized"), "").unwrap();
    refusal(&bed.forward_with(options)).await.has(&["ssh server first refused the login"], &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_at_once_do_not_stop_each_other_through_a_hop() {
    let (bed, _first, _second, options) = chain().await;
    let forward = bed.forward_with(SshOptions { jump: Some("first".to_owned()), ..options });
    ready(&forward).await;
    // What deadlocked one time in two without bounds of our own.
    for _ in 0..3 {
        let echoes = (0..4).map(|_| echo(&forward, 16 * 1024 * 1024));
        within_of(DEADLINE * 8, "all come back", futures_util::future::join_all(echoes)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_command_is_a_way_too() {
    let bed = SshBed::new().await;
    // A program that is there wherever sshd is.
    let (key, hosts) = (bed.sshd.key(), bed.sshd.known_hosts());
    let way = format!(
        "ssh -F /dev/null -i {} -o UserKnownHostsFile={} -o BatchMode=yes -p %p -W %h:%p {}@127.0.0.1",
        key.display(),
        hosts.display(),
        bed.sshd.user(),
    );
    let config = bed.config(&format!("ProxyCommand {way}"));
    let forward = bed.forward_with(SshOptions { config: Some(config), ..bed.options() });
    ready(&forward).await;
    call(&forward).await;
    let broken = bed.sshd.path("broken");
    std::fs::write(&broken, "ProxyCommand /nowhere/at/all %h\n").unwrap();
    let forward = bed.forward_of(
        bed.target(SshOptions { config: Some(broken), ..bed.options() }),
        crate::support::patience(std::time::Duration::from_secs(2)),
    );
    refusal(&forward).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_command_may_say_what_is_no_text() {
    let bed = SshBed::new().await;
    let (key, hosts) = (bed.sshd.key(), bed.sshd.known_hosts());
    let way = format!(
        "sh -c 'printf \"\\\\377\\\\n\" >&2; sleep 0.2; echo more >&2 || exit 1; exec ssh -F /dev/null -i {} -o \
         UserKnownHostsFile={} -o BatchMode=yes -p %p -W %h:%p {}@127.0.0.1'",
        key.display(),
        hosts.display(),
        bed.sshd.user(),
    );
    let config = bed.config(&format!("ProxyCommand {way}"));
    call(&bed.forward_with(SshOptions { config: Some(config), ..bed.options() })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_goes_through_two_others_with_the_file_of_host_keys_of_the_forward() {
    let (bed, first, second, options) = chain().await;
    // A name with all that a shell and `ssh` might take for something else.
    let file = bed.sshd.path("known 100% 'hosts'");
    std::fs::rename(bed.sshd.known_hosts(), &file).unwrap();
    let options = SshOptions { backend: SshBackend::OpenSsh, known_hosts: Some(file), ..options };
    let forward = bed.forward_with(options);
    assert_eq!(ready(&forward).await.transport, Some("openssh"));
    call(&forward).await;
    assert_eq!((first.logins(), second.logins(), bed.sshd.logins()), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_goes_through_a_hop_whose_key_is_in_a_file_of_its_own() {
    let (bed, _first, second, options) = chain().await;
    // `ssh_config` names a file for each.
    let lines = format!(
        "Host second\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
         UserKnownHostsFile {}\nHost *\n  UserKnownHostsFile {}\n",
        second.addr().port(),
        second.user(),
        second.key().display(),
        second.known_hosts().display(),
        bed.sshd.known_hosts().display(),
    );
    let own = format!("{} {}\n", bed.sshd.known_name(), bed.sshd.host_key());
    std::fs::write(bed.sshd.known_hosts(), own).unwrap();
    let options = SshOptions {
        backend: SshBackend::OpenSsh,
        jump: Some("second".to_owned()),
        known_hosts: None,
        config: Some(bed.config(&lines)),
        ..options
    };
    call(&bed.forward_with(options.clone())).await;
    // Without it the hop is named, and what makes its key known.
    std::fs::write(second.known_hosts(), "").unwrap();
    let refused = refusal(&bed.forward_of(
        bed.target(SshOptions { keepalive: None, key: Some(bed.sshd.make_key("other", "ed25519", "")), ..options }),
        crate::support::patience(std::time::Duration::from_secs(5)),
    ))
    .await;
    refused
        .has(&["does not accept the host key of second: it is not known"], &["adit ssh trust --ssh-config", " second"]);
    assert_eq!(refused.fault, adit_core::diagnose::Fault::Auth);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_whose_key_openssh_does_not_accept_is_named_wherever_it_is() {
    for (unknown, named) in [("first", "first"), ("second", "second"), ("last", "127.0.0.1:")] {
        let (bed, first, second, options) = chain().await;
        let of = |sshd: &Sshd| sshd.known_name();
        let name = match unknown {
            "first" => of(&first),
            "second" => of(&second),
            _ => of(&bed.sshd),
        };
        let known = std::fs::read_to_string(bed.sshd.known_hosts()).unwrap();
        let others: String =
            known.lines().filter(|line| !line.starts_with(&name)).map(|line| format!("{line}\n")).collect();
        std::fs::write(bed.sshd.known_hosts(), &others).unwrap();
        let options = SshOptions { backend: SshBackend::OpenSsh, ..options };
        let refused = refusal(&bed.forward_with(options.clone())).await;
        refused.has(&["does not accept the host key of ", named, "it is not known"], &["adit ssh trust ", named]);
        // Another one is told as such.
        let wrong = format!("{others}{name} {}\n", std::fs::read_to_string(bed.sshd.path("id.pub")).unwrap().trim());
        std::fs::write(bed.sshd.known_hosts(), wrong).unwrap();
        let other = SshOptions { key: Some(bed.sshd.make_key("other", "ed25519", "")), ..options };
        refusal(&bed.forward_with(other))
            .await
            .has(&[named, "it HAS CHANGED"], &["delete the old line", "adit ssh trust "]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hop_that_refuses_openssh_is_the_one_that_is_named() {
    let (bed, first, _second, options) = chain().await;
    std::fs::write(first.path("authorized"), "").unwrap();
    let options = SshOptions { backend: SshBackend::OpenSsh, jump: Some("first".to_owned()), ..options };
    refusal(&bed.forward_with(options)).await.has(&["ssh server first refused the login"], &["ssh -v first"]);
}
