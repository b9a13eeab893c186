//! Leaves as a client checks them.

use std::collections::HashSet;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{CertificateError, Error, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use super::*;
use crate::tls::{accept, negotiated, provider, server_config};

const HOUR: Duration = Duration::from_secs(3_600);

fn resolver() -> LeafResolver {
    LeafResolver::new(Arc::new(Authority::in_memory("adit test").unwrap())).unwrap()
}

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).unwrap();
    Arc::new(roots)
}

/// What a client says that trusts the authority and wants `name`.
fn verify(authority: &Authority, leaf: &CertifiedKey, name: &str, now: SystemTime) -> Result<(), Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(authority), provider()).build().unwrap();
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(&leaf.cert[0], &leaf.cert[1..], &name, &[], now).map(drop)
}

#[test]
fn a_leaf_is_good_for_its_name_and_for_no_other() {
    let resolver = resolver();
    let now = SystemTime::now();
    let leaf = resolver.certificate(Some("argocd.localhost")).unwrap();
    assert_eq!(leaf.cert.len(), 2, "leaf and authority");
    assert!(leaf.keys_match().is_ok());
    verify(resolver.authority(), &leaf, "argocd.localhost", now).unwrap();
    for other in ["localhost", "x.argocd.localhost", "grafana.localhost", "127.0.0.1"] {
        let error = verify(resolver.authority(), &leaf, other, now).unwrap_err();
        assert!(matches!(error, Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })), "{error}");
    }
    let stranger = Authority::in_memory("adit test").unwrap();
    assert!(verify(&stranger, &leaf, "argocd.localhost", now).is_err());
}

#[test]
fn addresses_and_clients_that_ask_for_no_name_get_a_good_leaf_too() {
    let resolver = resolver();
    let now = SystemTime::now();
    let default = resolver.certificate(None).unwrap();
    for name in ["localhost", "127.0.0.1", "::1"] {
        verify(resolver.authority(), &default, name, now).unwrap();
    }
    let address = resolver.certificate(Some("[fd00::17]")).unwrap();
    verify(resolver.authority(), &address, "fd00::17", now).unwrap();
}

#[test]
fn a_leaf_has_what_browsers_ask_for() {
    let resolver = resolver();
    let leaf = resolver.certificate(Some("web.localhost")).unwrap();
    let other = resolver.certificate(Some("api.localhost")).unwrap();
    let (_, certificate) = X509Certificate::from_der(&leaf.cert[0]).unwrap();
    let (_, second) = X509Certificate::from_der(&other.cert[0]).unwrap();
    let (_, authority) = X509Certificate::from_der(&leaf.cert[1]).unwrap();
    assert_ne!(certificate.raw_serial(), second.raw_serial());
    assert!(certificate.raw_serial().len() >= 16 && certificate.raw_serial()[0] < 0x80);
    assert_eq!(certificate.public_key().raw, second.public_key().raw, "one key for all");
    assert!(!certificate.is_ca() && authority.is_ca());
    assert_eq!(authority.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth && !usage.any);
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 1);
    let identifier = |certificate: &X509Certificate<'_>, of_issuer: bool| {
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) if of_issuer => {
                id.key_identifier.as_ref().map(|id| id.0.to_vec())
            }
            ParsedExtension::SubjectKeyIdentifier(id) if !of_issuer => Some(id.0.to_vec()),
            _ => None,
        })
    };
    assert!(identifier(&certificate, false).is_some());
    assert_eq!(identifier(&certificate, true), identifier(&authority, false));
}

#[test]
fn leaves_of_a_kept_authority_last_a_month_and_never_longer_than_it() {
    let home = tempfile::tempdir().unwrap();
    let kept = Arc::new(Authority::load_or_create(&home.path().join("ca")).unwrap());
    let resolver = LeafResolver::new(Arc::clone(&kept)).unwrap();
    let now = SystemTime::now();
    let leaf = resolver.certificate_at(Some("a.localhost"), now).unwrap();
    verify(&kept, &leaf, "a.localhost", now - 23 * HOUR).unwrap();
    verify(&kept, &leaf, "a.localhost", now + 30 * 24 * HOUR - HOUR).unwrap();
    assert!(verify(&kept, &leaf, "a.localhost", now + 30 * 24 * HOUR + HOUR).is_err());
    let late = kept.facts().not_after - 2 * HOUR;
    let (_, ends) = kept.issue(&["a.localhost".into()], &resolver.key, late).unwrap();
    assert_eq!(ends, kept.facts().not_after);
}

#[test]
fn a_leaf_is_made_once_and_again_before_it_ends() {
    let resolver = resolver();
    let now = SystemTime::now();
    let first = resolver.certificate_at(Some("web.localhost"), now).unwrap();
    let spelled = resolver.certificate_at(Some("WEB.Localhost."), now + 17 * HOUR).unwrap();
    assert!(Arc::ptr_eq(&first, &spelled));
    let later = resolver.certificate_at(Some("web.localhost"), now + 19 * HOUR).unwrap();
    assert!(!Arc::ptr_eq(&first, &later));
    verify(resolver.authority(), &later, "web.localhost", now + 40 * HOUR).unwrap();
    assert_eq!(resolver.leaves().len(), 1);
}

#[test]
fn the_cache_is_bounded_and_forgets_what_was_not_used_for_longest() {
    let resolver = resolver();
    *resolver.leaves() = Leaves::new(3);
    let of = |name: &str| resolver.certificate(Some(name)).unwrap();
    let (a, b) = (of("a.localhost"), of("b.localhost"));
    of("c.localhost");
    assert!(Arc::ptr_eq(&a, &of("a.localhost")));
    of("d.localhost");
    assert!(Arc::ptr_eq(&a, &of("a.localhost")), "it was used again");
    assert!(!Arc::ptr_eq(&b, &of("b.localhost")), "it was the oldest");
    for number in 0..50 {
        of(&format!("n{number}.localhost"));
    }
    let leaves = resolver.leaves();
    assert_eq!((leaves.by_name.len(), leaves.by_turn.len()), (3, 3));
    let names: HashSet<_> = leaves.by_turn.values().collect();
    assert_eq!(names, leaves.by_name.keys().collect());
}

#[test]
fn a_name_no_certificate_can_have_is_refused() {
    let resolver = resolver();
    for bad in ["", "a b", "*.localhost", "a..b", "ä.localhost", &"a".repeat(300)] {
        assert!(matches!(resolver.certificate(Some(bad)), Err(TlsError::NotAName { .. })), "{bad:?}");
    }
    let long = format!("{}.{}.localhost", "a".repeat(63), "b".repeat(63));
    let leaf = resolver.certificate(Some(&long)).unwrap();
    verify(resolver.authority(), &leaf, &long, SystemTime::now()).unwrap();
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_gets_through_by_name_and_protocol() {
    let resolver = Arc::new(resolver());
    let authority = Arc::clone(resolver.authority());
    let server = server_config(resolver, &[b"h2", b"http/1.1"]).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(&authority))
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let (near, far) = duplex(16 * 1024);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let visit = async {
        let mut stream = connector.connect("shop.localhost".try_into().unwrap(), near).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        // Stays until the server ends: what it sends after the handshake would have no reader.
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    };
    let serve = async {
        let mut stream = accept(&server, far, Duration::from_secs(5)).await.unwrap();
        assert_eq!(negotiated(stream.get_ref().1), (Some("shop.localhost"), Some(&b"h2"[..])));
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello");
        stream.shutdown().await.unwrap();
    };
    tokio::join!(visit, serve);
}
