//! Child processes `ssh -W` as the other way.

use std::time::Duration;

use adit_core::target::{SshBackend, SshOptions};
use forward::ForwardError;
use runtime::Connect as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::bed::SshBed;
use super::streams::{MIB, echo};
use crate::support::{DEADLINE, call, patience, ready, refusal, rest, say, within, within_of};

fn options(bed: &SshBed) -> SshOptions {
    SshOptions { backend: SshBackend::OpenSsh, ..bed.options() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_is_the_other_backend() {
    let bed = SshBed::new().await;
    let options = SshOptions { backend: SshBackend::OpenSsh, ..bed.options() };
    let forward = bed.forward_with(options);
    let report = ready(&forward).await;
    assert_eq!(report.transport, Some("openssh"));
    call(&forward).await;
    within_of(DEADLINE * 2, "both ways", echo(&forward, 4 * MIB)).await;
    let wrong = SshOptions {
        backend: SshBackend::OpenSsh,
        key: Some(bed.sshd.make_key("other", "ed25519", "")),
        ..bed.options()
    };
    let error = within("it is refused", bed.forward_with(wrong).ready()).await.unwrap_err();
    assert!(matches!(error, ForwardError::Ssh(forward::SshError::Refused { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_allows_no_sessions_is_logged_in_to_once() {
    let bed = SshBed::with(&["MaxSessions 0"]).await;
    let forward = bed.forward_with(options(&bed));
    ready(&forward).await;
    call(&forward).await;
    call(&forward).await;
    assert_eq!(bed.sshd.logins(), 1, "{}", bed.sshd.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_of_the_users_own_sessions_are_not_opened_by_openssh() {
    let bed = SshBed::new().await;
    // It is taken, and would be the end of the login.
    let taken = bed.config(&format!("Host *\n  LocalForward {} localhost:1", bed.origin.addr()));
    call(&bed.forward_with(SshOptions { config: Some(taken), ..options(&bed) })).await;
    assert_eq!(bed.sshd.logins(), 1, "{}", bed.sshd.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_openssh_that_was_cut_is_no_end_of_file() {
    let bed = SshBed::new().await;
    let forward = bed.forward_with(options(&bed));
    let mut io = say(&forward, "source\n").await;
    let mut piece = vec![0; MIB];
    within("it flows", io.read_exact(&mut piece)).await.unwrap();
    bed.sshd.kill().await;
    let end = async {
        loop {
            match io.read(&mut piece).await {
                Ok(0) => panic!("a cut is no end"),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    };
    let error = within("the stream is cut", end).await;
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_ends_first_is_heard_to_the_end_through_openssh() {
    let bed = SshBed::new().await;
    let forward = bed.forward_with(options(&bed));
    let mut io = say(&forward, "source 100000\n").await;
    assert_eq!(rest(&mut io).await.unwrap().len(), 100_000);
    let mut io = say(&forward, "sink\n").await;
    within("it is written", io.write_all(&[7; 1000])).await.unwrap();
    within("our end is told", io.shutdown()).await.unwrap();
    assert!(String::from_utf8(rest(&mut io).await.unwrap()).unwrap().contains("1000"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_do_not_log_in_again_and_again_where_openssh_is_refused() {
    let bed = SshBed::new().await;
    let forward = bed.forward_of(bed.target(options(&bed)), patience(Duration::from_secs(2)));
    call(&forward).await;
    std::fs::write(bed.sshd.path("authorized"), "").unwrap();
    bed.sshd.drop_connections();
    let refused = async {
        while let Ok(mut io) = forward.connect().await {
            // The stream of whoever finds out is cut.
            assert!(!matches!(io.read(&mut [0; 8]).await, Ok(1..)));
        }
    };
    within("it is refused", refused).await;
    let tries = bed.sshd.connections();
    for _ in 0..3 {
        assert!(within("it is refused", forward.connect()).await.is_err());
    }
    assert_eq!(bed.sshd.connections(), tries, "{}", bed.sshd.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_host_keys_with_a_blank_in_its_name_is_one_file() {
    let bed = SshBed::new().await;
    let file = bed.sshd.path("known 100% hosts");
    std::fs::rename(bed.sshd.known_hosts(), &file).unwrap();
    call(&bed.forward_with(SshOptions { known_hosts: Some(file), ..options(&bed) })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_only_openssh_understands_counts_with_either_backend() {
    let bed = SshBed::new().await;
    let (key, hosts) = (bed.sshd.key(), bed.sshd.known_hosts());
    let (host, port) = (bed.sshd.addr().ip(), bed.sshd.addr().port());
    let lines = format!(
        "Match originalhost work exec \"test %n = work\"\n  HostName {host}\n  Port {port}\n  User {}\n  IdentityFile {}\n  \
         UserKnownHostsFile {}\nMatch final\n  IdentitiesOnly yes\n",
        bed.sshd.user(),
        key.display(),
        hosts.display(),
    );
    for (backend, transport) in
        [(SshBackend::OpenSsh, "openssh"), (SshBackend::Native, "ssh"), (SshBackend::Auto, "ssh")]
    {
        let target = adit_core::target::SshTarget::parse(&format!("ssh://work/{}", bed.origin.addr())).unwrap();
        let options = SshOptions { config: Some(bed.config(&lines)), backend, ..SshOptions::default() };
        let target = adit_core::target::SshTarget { server: target.server.with(options), ..target };
        let forward = bed.forward_to(adit_core::target::Target::Ssh(target));
        assert_eq!(ready(&forward).await.transport, Some(transport));
        call(&forward).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_openssh_can_do_is_left_to_it_and_named_where_that_is_not_wanted() {
    let bed = SshBed::new().await;
    for (lines, why) in [
        ("PreferredAuthentications gssapi-with-mic,gssapi-keyex", "GSSAPI"),
        ("PKCS11Provider /nowhere/at/all.so\nPreferredAuthentications password", "PKCS11Provider"),
    ] {
        let auto = SshOptions { config: Some(bed.config(lines)), ..bed.options() };
        refusal(&bed.forward_with(auto.clone())).await.has(&["tried what the program ssh has"], &["ssh -v"]);
        let native = SshOptions { backend: SshBackend::Native, ..auto };
        refusal(&bed.forward_with(native)).await.has(&[], &[why, "`backend: openssh`"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_only_what_openssh_has_is_told_as_such() {
    let bed = SshBed::with(&["GSSAPIAuthentication yes", "PubkeyAuthentication no"]).await;
    let refused = refusal(&bed.forward()).await;
    refused.has(&["tried nothing; it takes gssapi-with-mic"], &["GSSAPI", "`backend: openssh`"]);
}
