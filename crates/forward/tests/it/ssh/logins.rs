//! Who gets in, who does not, and what is said then.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use adit_core::diagnose::Fault;
use adit_core::secret::Secret;
use adit_core::target::SshOptions;

use super::bed::SshBed;
use crate::support::{DEADLINE, call, patience, ready, refusal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_all_kinds_are_taken() {
    let bed = SshBed::new().await;
    for kind in ["rsa", "ecdsa", "ed25519"] {
        let key = bed.sshd.make_key(&format!("id_{kind}"), kind, "");
        bed.sshd.authorize(&key);
        let forward = bed.forward_with(SshOptions { key: Some(key), ..bed.options() });
        ready(&forward).await;
        call(&forward).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_is_refused_once_and_not_tried_again() {
    let bed = SshBed::new().await;
    let key = bed.sshd.make_key("other", "ed25519", "");
    let forward = bed.forward_with(SshOptions { key: Some(key.clone()), ..bed.options() });
    let refused = refusal(&forward).await;
    refused.has(&["refused the login", &key.display().to_string(), "publickey"], &["IdentityFile"]);
    assert_eq!(refused.fault, Fault::Auth);
    for _ in 0..5 {
        let again = bed.forward_with(SshOptions { key: Some(key.clone()), ..bed.options() });
        refusal(&again).await;
    }
    assert_eq!(bed.sshd.connections(), 1, "logins are not hammered: {}", bed.sshd.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_key_is_opened_by_the_passphrase_of_a_file() {
    let bed = SshBed::new().await;
    let key = bed.sshd.make_key("locked", "ed25519", "open sesame");
    bed.sshd.authorize(&key);
    let file = bed.secret("passphrase", "open sesame");
    let options = SshOptions { key: Some(key.clone()), passphrase_file: Some(file.clone()), ..bed.options() };
    let forward = bed.forward_with(options.clone());
    ready(&forward).await;
    call(&forward).await;
    let wrong = SshOptions { passphrase_file: Some(bed.secret("wrong", "hunter2")), ..options };
    let refused = refusal(&bed.forward_with(wrong)).await;
    refused.has(&["wrong passphrase"], &[]);
    assert!(!refused.text.contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_asked_for_a_passphrase_and_only_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let bed = SshBed::asking(
        &[],
        Some(Arc::new(move |question, visible| {
            assert!(question.contains("Passphrase of") && !visible, "{question}");
            // The first time they mistype.
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            Some(Secret::new(if first { "opne" } else { "open" }.to_owned()))
        })),
    )
    .await;
    let key = bed.sshd.make_key("locked", "rsa", "open");
    bed.sshd.authorize(&key);
    let forward = bed.forward_with(SshOptions { key: Some(key), ..bed.options() });
    ready(&forward).await;
    call(&forward).await;
    forward.wake();
    call(&forward).await;
    assert_eq!((asked.load(Ordering::SeqCst), bed.sshd.logins()), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_lets_in_where_the_key_alone_does_not() {
    let bed = SshBed::with(&[]).await;
    bed.sshd.make_key("ca", "ed25519", "");
    let key = bed.sshd.make_key("signed", "ed25519", "");
    let user = bed.sshd.user().to_owned();
    bed.sshd.keygen(&["-q", "-s", "ca", "-I", "test", "-n", &user, "signed.pub"]);
    let line = format!("cert-authority {}", std::fs::read_to_string(bed.sshd.path("ca.pub")).unwrap());
    std::fs::write(bed.sshd.path("authorized"), line).unwrap();
    let forward = bed.forward_with(SshOptions { key: Some(key), ..bed.options() });
    ready(&forward).await;
    call(&forward).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_refused_and_never_shown() {
    let bed = SshBed::with(&["PasswordAuthentication yes", "PubkeyAuthentication no"]).await;
    let file = bed.secret("password", "hunter2-wrong");
    let forward = bed.forward_with(SshOptions { password_file: Some(file), ..bed.options() });
    let refused = refusal(&forward).await;
    refused.has(&["tried password", "it takes password"], &["ADIT_SSH_PASSWORD"]);
    assert!(!refused.text.contains("hunter2"), "{}", refused.text);
    assert_eq!(bed.sshd.refusals(), 1, "{}", bed.sshd.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_asked_for_again_where_sshd_ends_the_connection_for_it() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let ask: forward::SshAsk = Arc::new(move |question, _| {
        assert!(question.contains("Password of "), "{question}");
        count.fetch_add(1, Ordering::SeqCst);
        Some(Secret::new("hunter2-wrong".to_owned()))
    });
    let lines = ["PasswordAuthentication yes", "PubkeyAuthentication no", "MaxAuthTries 1"];
    let bed = SshBed::asking(&lines, Some(ask)).await;
    let forward = bed.forward();
    for times in 1..=2 {
        refusal(&forward).await.has(&["tried password"], &[]);
        bed.sshd.says(DEADLINE, |log| log.matches("Failed password").count() == times).await;
        assert_eq!(asked.load(Ordering::SeqCst), times);
        // The time after a refusal is over.
        forward.wake();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_logins_at_once_are_tried_again() {
    let bed = SshBed::with(&["MaxStartups 1:100:1", "LoginGraceTime 2"]).await;
    // One that does not log in takes the only place, until its time is over.
    let _held = tokio::net::TcpStream::connect(bed.sshd.addr()).await.unwrap();
    bed.sshd.says(DEADLINE, |log| log.contains("Connection from ")).await;
    let forward = bed.forward();
    ready(&forward).await;
    call(&forward).await;
    assert!(bed.sshd.connections() < 60, "it is not hammered: {}", bed.sshd.connections());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_allows_no_sessions_forwards_all_the_same() {
    let bed = SshBed::with(&["MaxSessions 0"]).await;
    let forward = bed.forward();
    ready(&forward).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(crate::support::open(&forward).await);
    }
    for io in &mut open {
        crate::support::trip(io, b"one of many\n").await.unwrap();
    }
    assert_eq!(bed.sshd.logins(), 1, "sessions are counted, and not streams: {}", bed.sshd.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_in_hardware_is_left_to_openssh_and_named_where_that_is_not_wanted() {
    let bed = SshBed::new().await;
    let (key, public) = (bed.sshd.path("id_sk"), bed.sshd.path("id_sk.pub"));
    std::fs::write(&key, HARDWARE.0).unwrap();
    std::fs::write(&public, HARDWARE.1).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    for file in [&key, &public] {
        let auto = SshOptions { key: Some(file.clone()), ..bed.options() };
        refusal(&bed.forward_with(auto.clone())).await.has(&["tried what the program ssh has"], &["ssh -v"]);
        let native = SshOptions { backend: adit_core::target::SshBackend::Native, ..auto };
        let refused = refusal(&bed.forward_with(native)).await;
        refused.has(&["id_sk", "a key in hardware"], &["`backend: openssh`"]);
    }
    // Beside another one it is passed over.
    let lines = format!("Host *\n  IdentityFile {}\n  IdentityFile {}\n", key.display(), bed.sshd.key().display());
    call(&bed.forward_with(SshOptions { key: None, config: Some(bed.config(&lines)), ..bed.options() })).await;
}

/// A made-up key of a FIDO token, as `ssh-keygen -t ed25519-sk` writes it: what the token is told, and the public half.
const HARDWARE: (&str, &str) = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\n\
     b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAASgAAABpzay1zc2\n\
     gtZWQyNTUxOUBvcGVuc3NoLmNvbQAAACAHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH\n\
     BwcHBwAAAARzc2g6AAAAqAAAAAUAAAAFAAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY2\n\
     9tAAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHAAAABHNzaDoBAAAAQAEB\n\
     AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ\n\
     EBAQEBAQEBAQEAAAAAAAAAAm1lAQIDBAUGBw==\n\
     -----END OPENSSH PRIVATE KEY-----\n",
    "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHAAAABHNzaDo= me\n",
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_banner_that_never_comes_is_not_waited_for_for_ever() {
    let bed = SshBed::new().await;
    let mute = testkit::sshd::mute().await.unwrap();
    let url = format!("ssh://me@{}/db:5432", mute.local_addr().unwrap());
    let target = adit_core::target::SshTarget::parse(&url).unwrap();
    let options = SshOptions { connect_timeout: Some(Duration::from_millis(300)), ..bed.options() };
    let target = adit_core::target::SshTarget { server: target.server.with(options), ..target };
    let forward = bed.forward_of(adit_core::target::Target::Ssh(target), patience(Duration::from_secs(2)));
    refusal(&forward).await.has(&["did not answer within 300ms"], &[]);
    // The time of `ssh_config` counts where the forward has none, for the login as well.
    let url = format!("ssh://me@{}/db:5432", mute.local_addr().unwrap());
    let target = adit_core::target::SshTarget::parse(&url).unwrap();
    let options = SshOptions { config: Some(bed.config("ConnectTimeout 1")), ..bed.options() };
    let target = adit_core::target::SshTarget { server: target.server.with(options), ..target };
    let forward = bed.forward_of(adit_core::target::Target::Ssh(target), patience(Duration::from_secs(3)));
    refusal(&forward).await.has(&["did not answer within 1s"], &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_speak_ssh_is_told_so() {
    let bed = SshBed::new().await;
    let url = format!("ssh://me@{}/db:5432", bed.origin.addr());
    let target = adit_core::target::SshTarget::parse(&url).unwrap();
    let options = SshOptions { connect_timeout: Some(Duration::from_millis(500)), ..bed.options() };
    let target = adit_core::target::SshTarget { server: target.server.with(options), ..target };
    let forward = bed.forward_of(adit_core::target::Target::Ssh(target), patience(Duration::from_secs(3)));
    let refused = refusal(&forward).await;
    assert!(
        refused.hint.contains("adit ssh test") || refused.text.contains("within"),
        "{} {}",
        refused.text,
        refused.hint
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s6_a_secret_in_a_file_that_others_may_read_is_not_used() {
    let bed = SshBed::with(&["PasswordAuthentication yes"]).await;
    let open = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    };
    let key = bed.sshd.make_key("locked", "ed25519", "open sesame");
    bed.sshd.authorize(&key);
    let (phrase, password) = (bed.secret("phrase", "open sesame"), bed.secret("password", "hunter2"));
    open(&phrase);
    open(&password);
    let options = SshOptions { key: Some(key), passphrase_file: Some(phrase), ..bed.options() };
    let refused = refusal(&bed.forward_with(SshOptions { password_file: Some(password), ..options })).await;
    refused.has(&["phrase: others may read it (mode 644)", "password: others may read it (mode 644)"], &[]);
    assert_eq!(bed.sshd.refusals(), 0, "{}", bed.sshd.log());
}

fn mode(path: &std::path::Path, mode: u32) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s6_a_private_key_that_others_may_read_is_not_used() {
    let bed = SshBed::new().await;
    mode(&bed.sshd.key(), 0o640);
    let chmod = format!("chmod 600 {}", bed.sshd.key().display());
    refusal(&bed.forward()).await.has(&["others may read it (mode 640)"], &[&chmod]);
    assert_eq!(bed.sshd.refusals(), 0, "nothing is offered: {}", bed.sshd.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_cannot_be_used_is_named_with_what_to_do() {
    let bed = SshBed::new().await;
    // Of different lengths, as the names of their configurations are by those.
    let locked = bed.sshd.make_key("locked-one", "ed25519", "open sesame");
    let junk = bed.secret("junk", "-----BEGIN CERTIFICATE-----");
    let dir = bed.sshd.path("dir");
    std::fs::create_dir(&dir).unwrap();
    let missing = bed.sshd.path("missing");
    for (key, reason, hint) in [
        (missing.clone(), "no such file", "correct it"),
        (bed.sshd.path("id.pub"), "a public key, and no agent has the private one", "name the private key, "),
        (locked, "no passphrase: none given", "$ADIT_SSH_PASSPHRASE"),
        (junk, "it is no key", "name the key"),
        (dir, "it is a directory", "name the key"),
    ] {
        let text = format!("not {} ({reason})", key.display());
        let by_key = SshOptions { key: Some(key.clone()), ..bed.options() };
        refusal(&bed.forward_with(by_key)).await.has(&[&text], &[hint]);
        let config = bed.config(&format!("IdentityFile {}\nIdentitiesOnly yes", key.display()));
        let configured = SshOptions { key: None, config: Some(config), ..bed.options() };
        refusal(&bed.forward_with(configured)).await.has(&[&text], &[hint]);
    }
    // Beside one that is let in it stops nothing.
    let lines = format!("Host *\n  IdentityFile {}\n  IdentityFile {}\n", missing.display(), bed.sshd.key().display());
    call(&bed.forward_with(SshOptions { key: None, config: Some(bed.config(&lines)), ..bed.options() })).await;
}
