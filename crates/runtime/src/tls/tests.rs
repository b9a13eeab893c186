//! TLS with real handshakes on loopback, and identities on a real disk.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::connect::{Connect, ConnectError, Io, TcpConnect, TlsConnect};

const DEADLINE: Duration = Duration::from_secs(5);

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

/// Serves one echo of five bytes per connection, for as many as come.
async fn echo_server(resolver: Arc<ReloadingResolver>, alpn: &[&[u8]]) -> SocketAddr {
    let config = server_config(resolver, alpn).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let scope = crate::Scope::root();
    let server = scope.clone();
    scope.spawn("echo server", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let config = Arc::clone(&config);
            server.spawn("echo", async move {
                let Ok(mut stream) = accept(&config, stream, DEADLINE).await else {
                    return;
                };
                let mut bytes = [0; 5];
                if stream.read_exact(&mut bytes).await.is_ok() {
                    stream.write_all(&bytes).await.ok();
                    stream.shutdown().await.ok();
                }
            });
        }
    });
    address
}

async fn dial(address: SocketAddr, name: &str, trust: &ServerTrust) -> Result<Io, ConnectError> {
    let config = trust.client_config(&[b"adit/1"]).unwrap();
    let tcp = TcpConnect::new(&address.ip().to_string(), address.port(), DEADLINE);
    TlsConnect::new(tcp, name, config, DEADLINE).unwrap().connect().await
}

async fn echoes(mut io: Io) {
    io.write_all(b"hello").await.unwrap();
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"hello");
}

#[tokio::test]
async fn a_pinned_server_is_accepted_whatever_its_name() {
    let identity = Identity::ephemeral(&names(&["somewhere.else"])).unwrap();
    let trust = ServerTrust::Pinned(identity.fingerprint().0);
    let address = echo_server(ReloadingResolver::fixed(identity), &[b"adit/1"]).await;
    let io = dial(address, "localhost", &trust).await.unwrap();
    assert_eq!(io.alpn(), Some(&b"adit/1"[..]));
    assert!(io.tcp().is_some());
    echoes(io).await;
}

#[tokio::test]
async fn another_certificate_than_the_pinned_one_is_refused_with_both_fingerprints() {
    let identity = Identity::ephemeral(&names(&["localhost"])).unwrap();
    let found = identity.fingerprint();
    let address = echo_server(ReloadingResolver::fixed(identity), &[]).await;
    let error = dial(address, "localhost", &ServerTrust::Pinned([7; 32])).await.unwrap_err();
    let ConnectError::Certificate { why, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(why.to_string().contains(&found.to_string()), "{why}");
    assert!(error.to_string().contains(&found.to_string()), "{error}");
    assert_eq!(error.fault(), Fault::Upstream);
}

#[tokio::test]
async fn a_ca_file_is_trusted_for_the_certificates_names_only() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::self_signed(dir.path(), &names(&["tunnel.test", "127.0.0.1"])).unwrap();
    let trust = ServerTrust::CaFile(dir.path().join("self-signed.pem"));
    let address = echo_server(ReloadingResolver::fixed(identity), &[b"adit/1"]).await;
    echoes(dial(address, "tunnel.test", &trust).await.unwrap()).await;
    echoes(dial(address, "127.0.0.1", &trust).await.unwrap()).await;
    let error = dial(address, "other.test", &trust).await.unwrap_err();
    assert!(matches!(error, ConnectError::Certificate { .. }), "{error:?}");
}

#[tokio::test]
async fn the_systems_roots_do_not_trust_a_self_signed_server() {
    let identity = Identity::ephemeral(&names(&["localhost"])).unwrap();
    let address = echo_server(ReloadingResolver::fixed(identity), &[]).await;
    let Ok(config) = ServerTrust::Roots.client_config(&[]) else {
        return; // a system without root certificates
    };
    let tcp = TcpConnect::new("localhost", address.port(), DEADLINE);
    let connect = TlsConnect::new(tcp, "localhost", config, DEADLINE).unwrap();
    let error = connect.connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Certificate { .. }), "{error:?}");
}

#[tokio::test]
async fn a_service_on_this_machine_may_show_any_certificate() {
    let identity = Identity::ephemeral(&names(&["whatever.test"])).unwrap();
    let address = echo_server(ReloadingResolver::fixed(identity), &[b"h2", b"http/1.1"]).await;
    let connect = TlsConnect::to_service("localhost", address.port(), DEADLINE, &[b"http/1.1"], false).unwrap();
    let io = connect.connect().await.unwrap();
    assert_eq!(io.alpn(), Some(&b"http/1.1"[..]));
    echoes(io).await;
}

#[tokio::test]
async fn a_replaced_certificate_is_used_from_the_next_handshake_on() {
    let first = Identity::ephemeral(&names(&["localhost"])).unwrap();
    let second = Identity::ephemeral(&names(&["localhost"])).unwrap();
    let resolver = ReloadingResolver::fixed(first.clone());
    let address = echo_server(Arc::clone(&resolver), &[b"adit/1"]).await;
    let open = dial(address, "localhost", &ServerTrust::Pinned(first.fingerprint().0)).await.unwrap();
    resolver.replace(second.clone());
    echoes(dial(address, "localhost", &ServerTrust::Pinned(second.fingerprint().0)).await.unwrap()).await;
    echoes(open).await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_given_up_at_the_deadline() {
    let identity = Identity::ephemeral(&names(&["localhost"])).unwrap();
    let config = server_config(ReloadingResolver::fixed(identity), &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let error = accept(&config, stream, Duration::from_millis(30)).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Timeout { .. }), "{error:?}");
    drop(silent);
}

#[tokio::test]
async fn a_peer_that_speaks_no_tls_is_told_apart_from_a_bad_certificate() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let scope = crate::Scope::root();
    scope.spawn("plain server", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // Left open: a reset could overtake the answer.
        stream.read_to_end(&mut Vec::new()).await.ok();
    });
    let error = dial(address, "localhost", &ServerTrust::Pinned([0; 32])).await.unwrap_err();
    assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}");
}

#[test]
fn a_self_signed_identity_is_made_once_and_kept_private() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("data/tls");
    let first = Identity::self_signed(&home, &names(&["localhost"])).unwrap();
    let again = Identity::self_signed(&home, &names(&["another.name"])).unwrap();
    assert_eq!(first.fingerprint(), again.fingerprint());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home), 0o700);
    assert_eq!(mode(&home.join("self-signed.pem")), 0o600);
    assert_eq!(fs::read_dir(&home).unwrap().count(), 1, "no draft is left");
}

#[test]
fn a_kept_key_that_others_may_read_is_refused_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    Identity::self_signed(dir.path(), &names(&["localhost"])).unwrap();
    let path = dir.path().join("self-signed.pem");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Identity::self_signed(dir.path(), &[]).unwrap_err();
    assert_eq!(error.hint().unwrap(), format!("chmod 600 {}", path.display()));
}

#[test]
fn a_directory_that_everybody_may_write_to_gets_no_key() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = Identity::self_signed(dir.path(), &names(&["localhost"])).unwrap_err();
    assert!(matches!(error, TlsError::Exposed { .. }), "{error:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (left, right) = (dir.path().join("left"), dir.path().join("right"));
    Identity::self_signed(&left, &names(&["a.test"])).unwrap();
    Identity::self_signed(&right, &names(&["a.test"])).unwrap();
    let error = Identity::load(&left.join("self-signed.pem"), &right.join("self-signed.pem")).unwrap_err();
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error:?}");
}

#[test]
fn files_without_certificate_or_key_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    fs::write(&empty, "nothing here").unwrap();
    Identity::self_signed(dir.path(), &names(&["a.test"])).unwrap();
    let good = dir.path().join("self-signed.pem");
    for (certificate, key, wanted) in [(&empty, &good, "certificate"), (&good, &empty, "private key")] {
        let error = Identity::load(certificate, key).unwrap_err();
        assert_eq!(error.to_string(), format!("{} holds no usable {wanted}", empty.display()));
    }
    let missing = dir.path().join("missing.pem");
    let error = Identity::load(&missing, &good).unwrap_err();
    assert!(matches!(error, TlsError::Read { .. }) && error.fault() == Fault::Config);
}

#[test]
fn a_failed_reload_keeps_the_identity_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let first = Identity::self_signed(&old, &names(&["a.test"])).unwrap();
    let second = Identity::self_signed(&new, &names(&["a.test"])).unwrap();
    let path = old.join("self-signed.pem");
    let resolver = ReloadingResolver::from_files(&path, &path).unwrap();
    assert!(!resolver.reload().unwrap());
    fs::write(&path, "half of a file").unwrap();
    assert!(resolver.reload().is_err());
    assert_eq!(resolver.identity().fingerprint(), first.fingerprint());
    fs::copy(new.join("self-signed.pem"), &path).unwrap();
    assert!(resolver.reload().unwrap());
    assert_eq!(resolver.identity().fingerprint(), second.fingerprint());
    assert_eq!(resolver.files(), [path.clone(), path]);
}

#[test]
fn fingerprints_are_read_in_every_usual_form() {
    let identity = Identity::ephemeral(&names(&["a.test"])).unwrap();
    let fingerprint = identity.fingerprint();
    let shown = fingerprint.to_string();
    assert!(shown.starts_with("sha256:") && shown.len() == 6 + 32 * 3);
    let bare = shown.replace("sha256", "").replace(':', "");
    for text in
        [shown.clone(), shown.to_lowercase(), shown.replace("sha256:", ""), bare.clone(), format!("SHA256:{bare}\n")]
    {
        assert_eq!(text.parse(), Ok(fingerprint), "{text}");
    }
    for text in ["", "sha256:", &bare[1..], &format!("{bare}00"), &bare.replace(&bare[..1], "g"), "sha1:é"] {
        assert_eq!(text.parse::<Fingerprint>(), Err(NotAFingerprint), "{text}");
    }
}

#[test]
fn debug_output_shows_no_key() {
    let identity = Identity::ephemeral(&names(&["a.test"])).unwrap();
    assert_eq!(format!("{identity:?}"), format!("Identity({})", identity.fingerprint()));
}

#[tokio::test]
async fn a_certificate_that_may_sign_others_is_a_servers_own_when_the_file_has_that_very_one() {
    let authority = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(names(&[name])).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let dir = tempfile::tempdir().unwrap();
    let (file, other) = (dir.path().join("own.pem"), dir.path().join("other.pem"));
    let (certificate, key) = authority("tunnel.test");
    fs::write(&file, certificate + &key).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&other, authority("tunnel.test").0).unwrap();
    let identity = Identity::load(&file, &file).unwrap();
    let address = echo_server(ReloadingResolver::fixed(identity), &[b"adit/1"]).await;
    echoes(dial(address, "tunnel.test", &ServerTrust::CaFile(file.clone())).await.unwrap()).await;
    for (name, trust) in [("other.test", file), ("tunnel.test", other)] {
        let error = dial(address, name, &ServerTrust::CaFile(trust)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Certificate { .. }), "{name}: {error:?}");
    }
}
