//! Which server is believed.

use adit_core::diagnose::Fault;
use adit_core::target::{SshOptions, SshServer};

use super::bed::SshBed;
use crate::support::{call, ready, refusal, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_key_is_refused_before_any_login_and_can_be_trusted() {
    let bed = SshBed::new().await;
    let options = SshOptions { known_hosts: Some(bed.sshd.path("empty")), ..bed.options() };
    let refused = refusal(&bed.forward_with(options.clone())).await;
    refused.has(&["host key of", "is not known", "SHA256:"], &["adit ssh trust"]);
    assert_eq!((refused.fault, bed.sshd.logins()), (Fault::Auth, 0));

    let server = SshServer::parse(&format!("{}@{}", bed.sshd.user(), bed.sshd.addr())).unwrap().with(options.clone());
    let servers = bed.clusters.ssh();
    let shown = within("the key is shown", servers.shown_key(&bed.scope, &server)).await.unwrap();
    assert!(refused.text.contains(&shown.fingerprint) && shown.refused.is_some());
    servers.trust(&bed.scope, &server, &shown).await.unwrap();
    let shown = within("the key is shown", servers.shown_key(&bed.scope, &server)).await.unwrap();
    assert!(shown.refused.is_none());
    let forward = bed.forward_with(options);
    forward.wake();
    ready(&forward).await;
    call(&forward).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_key_is_refused_loudly_with_the_line() {
    let bed = SshBed::new().await;
    call(&bed.forward()).await;
    bed.sshd.change_host_key().await;
    let options = bed.config("StrictHostKeyChecking accept-new");
    let forward = bed.forward_with(SshOptions {
        config: Some(options),
        keepalive: Some(std::time::Duration::from_secs(9)),
        ..bed.options()
    });
    let refused = refusal(&forward).await;
    let line = format!("{}:1", bed.sshd.known_hosts().display());
    refused.has(&["HAS CHANGED", "SHA256:", &line], &["adit ssh trust", "delete"]);
    assert_eq!((refused.fault, bed.sshd.logins()), (Fault::Auth, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hashed_name_is_recognised() {
    let bed = SshBed::new().await;
    let file = bed.sshd.known_hosts().display().to_string();
    bed.sshd.keygen(&["-q", "-H", "-f", &file]);
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("|1|"));
    let forward = bed.forward();
    ready(&forward).await;
    call(&forward).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_is_written_down_hashed_when_the_settings_say_so() {
    let bed = SshBed::new().await;
    let config = bed.config("StrictHostKeyChecking accept-new\nHashKnownHosts yes");
    let file = bed.sshd.path("new");
    let options = SshOptions { config: Some(config), known_hosts: Some(file.clone()), ..bed.options() };
    let forward = bed.forward_with(options);
    ready(&forward).await;
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.starts_with("|1|") && written.contains(&bed.sshd.host_key()), "{written}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_is_refused() {
    let bed = SshBed::new().await;
    let file = bed.sshd.known_hosts();
    let known = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{known}@revoked * {}\n", bed.sshd.host_key())).unwrap();
    refusal(&bed.forward()).await.has(&["must not be used", "revokes", ":2"], &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_certificate_is_believed_when_its_authority_is() {
    let bed = SshBed::with(&[]).await;
    bed.sshd.kill().await;
    bed.sshd.make_key("ca", "ed25519", "");
    bed.sshd.keygen(&["-q", "-s", "ca", "-I", "host", "-h", "-n", "127.0.0.1", "host.pub"]);
    let path = bed.sshd.path("sshd_config");
    let config = std::fs::read_to_string(&path).unwrap();
    let line = format!("HostCertificate {}\n", bed.sshd.path("host-cert.pub").display());
    std::fs::write(&path, line + &config).unwrap();
    bed.sshd.restart().await;
    let ca = std::fs::read_to_string(bed.sshd.path("ca.pub")).unwrap();
    let name = bed.sshd.known_name();
    std::fs::write(bed.sshd.known_hosts(), format!("@cert-authority {name} {ca}")).unwrap();
    let forward = bed.forward();
    ready(&forward).await;
    call(&forward).await;
    // Until the authority is on the list of revoked keys.
    std::fs::write(bed.sshd.path("list"), &ca).unwrap();
    let config = bed.config(&format!("RevokedHostKeys {}", bed.sshd.path("list").display()));
    let revoked = bed.forward_with(SshOptions { config: Some(config), ..bed.options() });
    refusal(&revoked).await.has(&["must not be used", "RevokedHostKeys has it"], &[]);
    // An authority for other hosts is none for this one.
    let other = bed.sshd.path("other");
    std::fs::write(&other, format!("@cert-authority *.example.com {ca}")).unwrap();
    let refused = refusal(&bed.forward_with(SshOptions { known_hosts: Some(other), ..bed.options() })).await;
    refused.has(&["is not known"], &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_key_that_is_let_pass_gets_no_password() {
    let bed = SshBed::with(&["PasswordAuthentication yes"]).await;
    bed.sshd.change_host_key().await;
    let config = bed.config("StrictHostKeyChecking no");
    let password = bed.secret("password", "secret");
    let options = SshOptions { config: Some(config), password_file: Some(password), ..bed.options() };
    // A key logs in.
    call(&bed.forward_with(options.clone())).await;
    // Without one that the server takes, nothing else is tried.
    let other = bed.sshd.make_key("other", "ed25519", "");
    let refused = refusal(&bed.forward_with(SshOptions { key: Some(other), ..options })).await;
    refused.has(&["refused the login"], &["host key has changed", "adit ssh trust"]);
    assert!(!bed.sshd.log().contains("Failed password"), "{}", bed.sshd.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_on_the_list_of_revoked_keys_is_refused() {
    let bed = SshBed::new().await;
    let list = bed.sshd.path("list");
    let config = bed.config(&format!("RevokedHostKeys {}", list.display()));
    let options = SshOptions { config: Some(config), ..bed.options() };
    // Without the list nobody is believed.
    let missing = bed.forward_with(options.clone());
    refusal(&missing).await.has(&["whether it is revoked cannot be told"], &[]);
    std::fs::write(&list, format!("# stolen\n{} a comment\n", bed.sshd.host_key())).unwrap();
    missing.wake();
    refusal(&missing).await.has(&["must not be used", "RevokedHostKeys has it"], &[]);
    std::fs::write(&list, "# nothing\n").unwrap();
    missing.wake();
    call(&missing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binary_list_of_revoked_keys_is_left_to_openssh() {
    let bed = SshBed::new().await;
    bed.sshd.keygen(&["-q", "-k", "-f", "krl", "host.pub"]);
    let config = bed.config(&format!("RevokedHostKeys {}", bed.sshd.path("krl").display()));
    let options = SshOptions { config: Some(config), ..bed.options() };
    refusal(&bed.forward_with(options.clone())).await.has(&["the program ssh does not accept it"], &[]);
    let native = SshOptions { backend: adit_core::target::SshBackend::Native, ..options };
    refusal(&bed.forward_with(native)).await.has(&["only `backend: openssh` can read this list"], &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_certificate_with_an_unknown_critical_option_is_refused() {
    let bed = SshBed::new().await;
    bed.sshd.kill().await;
    bed.sshd.make_key("ca", "ed25519", "");
    bed.sshd.keygen(&["-q", "-s", "ca", "-I", "host", "-h", "-O", "critical:x@example.com=1", "host.pub"]);
    let path = bed.sshd.path("sshd_config");
    let config = std::fs::read_to_string(&path).unwrap();
    let line = format!("HostCertificate {}\n", bed.sshd.path("host-cert.pub").display());
    std::fs::write(&path, line + &config).unwrap();
    bed.sshd.restart().await;
    let ca = std::fs::read_to_string(bed.sshd.path("ca.pub")).unwrap();
    std::fs::write(bed.sshd.known_hosts(), format!("@cert-authority {} {ca}", bed.sshd.known_name())).unwrap();
    refusal(&bed.forward()).await.has(&["critical option x@example.com"], &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_known_without_a_port_serves_every_port() {
    let bed = SshBed::new().await;
    let (key, list) = (bed.sshd.host_key(), bed.sshd.known_hosts());
    std::fs::write(&list, format!("127.0.0.1 {key}\n")).unwrap();
    call(&bed.forward()).await;
    // Another key under that name says nothing of this port.
    let other = std::fs::read_to_string(bed.sshd.make_key("other", "ed25519", "").with_extension("pub")).unwrap();
    let file = bed.sshd.path("others");
    std::fs::write(&file, format!("127.0.0.1 {other}")).unwrap();
    let options = SshOptions { known_hosts: Some(file), ..bed.options() };
    refusal(&bed.forward_with(options.clone())).await.has(&["is not known"], &[]);
    // And under the name with the port it is not looked at.
    std::fs::write(&list, format!("{} {other}127.0.0.1 {key}\n", bed.sshd.known_name())).unwrap();
    let keepalive = Some(std::time::Duration::from_secs(9));
    let backend = adit_core::target::SshBackend::Native;
    refusal(&bed.forward_with(SshOptions { keepalive, backend, ..bed.options() })).await.has(&["HAS CHANGED"], &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_key_is_not_looked_at_again_and_again_until_the_forward_is_made_anew() {
    let bed = SshBed::new().await;
    let forward = bed.forward();
    call(&forward).await;
    bed.sshd.change_host_key().await;
    crate::support::waiting(&forward, "HAS CHANGED").await;
    // Whoever wants a stream is told so without another look.
    let before = bed.sshd.connections();
    for _ in 0..3 {
        let asked = tokio::time::timeout(std::time::Duration::from_secs(2), runtime::Connect::connect(&forward)).await;
        assert!(!matches!(asked, Ok(Ok(_))));
    }
    assert_eq!(bed.sshd.connections(), before, "{}", bed.sshd.log());
    let line = format!("{} {}\n", bed.sshd.known_name(), bed.sshd.host_key());
    std::fs::write(bed.sshd.known_hosts(), line).unwrap();
    call(&bed.forward()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_key_of_a_server_that_was_down_first_is_told_with_its_own_hint() {
    let bed = SshBed::new().await;
    let forward = bed.forward();
    call(&forward).await;
    let _lease = forward.lease();
    bed.sshd.kill().await;
    crate::support::waiting(&forward, "connection refused").await;
    assert!(forward.hint().unwrap().contains("adit ssh test"), "{:?}", forward.hint());
    bed.sshd.change_host_key().await;
    crate::support::waiting(&forward, "HAS CHANGED").await;
    assert!(forward.hint().unwrap().contains("adit ssh trust"), "{:?}", forward.hint());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_key_that_is_not_believed_and_it_is_seen_when_it_is_trusted() {
    use adit_core::backoff::BackoffSettings;
    use std::time::{Duration, Instant};
    let bed = SshBed::new().await;
    // A forward that by itself would try again in a minute.
    let minute = Duration::from_secs(60);
    let slow = BackoffSettings { first: minute, base: minute, growth: 2.0, cap: minute };
    let mut options = crate::support::patience(Duration::from_secs(10));
    (options.settings.backoff, options.settings.stable_after) = (slow, Duration::ZERO);
    let forward = bed.forward_of(bed.target(bed.options()), options);
    call(&forward).await;
    bed.sshd.change_host_key().await;
    crate::support::waiting(&forward, "HAS CHANGED").await;
    for _ in 0..3 {
        let begun = Instant::now();
        let error = within("it is told", runtime::Connect::connect(&forward)).await.unwrap_err();
        assert!(error.to_string().contains("HAS CHANGED"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    // As `adit ssh trust` does, without a word to whoever runs the forward.
    let line = format!("{} {}\n", bed.sshd.known_name(), bed.sshd.host_key());
    std::fs::write(bed.sshd.known_hosts(), line).unwrap();
    let begun = Instant::now();
    ready(&forward).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    call(&forward).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_a_hop_is_seen_when_it_is_trusted() {
    use std::time::{Duration, Instant};
    let bed = SshBed::new().await;
    let hop = testkit::sshd::Sshd::start(&[]).await;
    let lines = format!(
        "Host hop\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  IdentityFile {}\nHost *\n  UserKnownHostsFile {}\n",
        hop.addr().port(),
        hop.user(),
        hop.key().display(),
        bed.sshd.known_hosts().display(),
    );
    let options = SshOptions { jump: Some("hop".to_owned()), config: Some(bed.config(&lines)), ..bed.options() };
    let forward = bed.forward_with(SshOptions { known_hosts: None, ..options });
    let _lease = forward.lease();
    refusal(&forward).await.has(&["the host key of hop", "is not known"], &["adit ssh trust --ssh-config ", " hop"]);
    let both = [bed.sshd.known_hosts(), hop.known_hosts()].map(|file| std::fs::read_to_string(file).unwrap());
    std::fs::write(bed.sshd.known_hosts(), both.concat()).unwrap();
    let begun = Instant::now();
    let mut reports = forward.status();
    within("it is ready", reports.wait_for(|report| report.is_ready())).await.map(drop).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    call(&forward).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_value_of_strict_host_key_checking_means_what_it_means_to_ssh() {
    for (value, is_let_in) in [("yes", false), ("ask", false), ("accept-new", true), ("no", true), ("off", true)] {
        let bed = SshBed::new().await;
        let config = bed.config(&format!("StrictHostKeyChecking {value}"));
        std::fs::write(bed.sshd.known_hosts(), "").unwrap();
        let forward = bed.forward_with(SshOptions { config: Some(config), ..bed.options() });
        if is_let_in {
            call(&forward).await;
        } else {
            refusal(&forward).await.has(&["is not known"], &["adit ssh trust"]);
        }
        let written = std::fs::read_to_string(bed.sshd.known_hosts()).unwrap();
        assert_eq!(written.contains(&bed.sshd.host_key()), is_let_in, "{value}: {written}");
    }
}
