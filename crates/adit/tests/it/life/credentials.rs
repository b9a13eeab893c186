//! Tokens and JSON Web Tokens: who may connect, until when, and how the end is told.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use testkit::cert::TestCa;
use testkit::origin::HttpOrigin;
use testkit::raw;

use super::Tunnel;
use crate::support::{Agent, DEADLINE, Publish, Server, eventually};

#[tokio::test]
async fn a_revoked_token_ends_its_live_session_within_a_second_and_the_agent_says_so() {
    let tunnel = Tunnel::start().await;
    let list: serde_json::Value = serde_json::from_str(&tunnel.server.token_command(&["list", "-o", "json"])).unwrap();
    let id = list["tokens"][0]["id"].as_str().unwrap().to_owned();
    let other = Publish::with_token(&tunnel.server, &tunnel.server.token("other"))
        .http("app2", tunnel.origin.addr())
        .start()
        .await;
    tunnel.server.token_command(&["revoke", &id]);
    let revoked = Instant::now();
    eventually(DEADLINE, "the end of the session", || async {
        (tunnel.server.get("app1", "/").await.status == 502).then_some(())
    })
    .await;
    println!("revoked: the tunnel was gone after {:?}", revoked.elapsed());
    assert!(revoked.elapsed() < Duration::from_secs(1), "{:?}", revoked.elapsed());
    assert_eq!(tunnel.agent.exit_code(DEADLINE).await, Some(3), "credentials refused");
    assert!(tunnel.agent.process().stderr().contains("revoked"), "{}", tunnel.agent.process().stderr());
    assert_eq!(tunnel.server.audited("expelled").await["reason"], "token_revoked");
    assert!(other.process().is_running());
    assert_eq!(tunnel.server.get("app2", "/").await.status, 200, "others stay");
}

#[tokio::test]
async fn a_token_is_revoked_and_a_certificate_renewed_while_server_yaml_cannot_be_applied() {
    let ca = TestCa::new().unwrap();
    let leaf = ca.leaf("public", &["app1.localhost"]).unwrap();
    let tls = format!("tls: {{ cert: {}, key: {} }}", leaf.cert.display(), leaf.key.display());
    let server = Server::setup().public(&tls).errors_expected().start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let agent = Publish::to(&server).http("app1", origin.addr()).start().await;
    std::fs::write(server.config_path(), server.yaml("log: { access: off }\n")).unwrap();
    server.process().line(DEADLINE, |line| line.contains("not reloaded")).await.unwrap();
    // First a certificate that is as faulty, then a good one.
    std::fs::write(&leaf.cert, "not a certificate").unwrap();
    server.process().line(DEADLINE, |line| line.contains("holds no usable certificate")).await.unwrap();
    let list: serde_json::Value = serde_json::from_str(&server.token_command(&["list", "-o", "json"])).unwrap();
    server.token_command(&["revoke", list["tokens"][0]["id"].as_str().unwrap()]);
    assert_eq!(agent.exit_code(DEADLINE).await, Some(3), "credentials refused");
    assert_eq!(server.audited("expelled").await["reason"], "token_revoked");
    let renewed = ca.leaf("renewed", &["app1.localhost"]).unwrap();
    std::fs::copy(&renewed.key, &leaf.key).unwrap();
    std::fs::copy(&renewed.cert, &leaf.cert).unwrap();
    eventually(DEADLINE, "the renewed certificate", || async {
        let stream = raw::tls(server.public, "app1.localhost", ca.client(&[]).ok()?).await.ok()?;
        (stream.get_ref().1.peer_certificates()?.first() == Some(&renewed.der)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_that_expires_ends_its_session_until_the_agents_file_has_another() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let token = server.token_with("acme", &["--expires", "3s"]);
    let agent = Publish::with_token(&server, &token).http("app1", origin.addr()).start().await;
    assert_eq!(server.get("app1", "/").await.status, 200);
    assert_eq!(server.audited("expelled").await["reason"], "token_expired");
    agent.says("the token has expired").await;
    assert_eq!(server.get("app1", "/").await.status, 502);
    // Its file may get another one at any time: it waits for that, and is back by itself.
    agent.set_token(&server.token("acme"));
    eventually(DEADLINE, "the tunnel with the new token", || async {
        (server.get("app1", "/").await.status == 200).then_some(())
    })
    .await;
}

fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number = group.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            text.push(char::from(LETTERS[(number >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text
}

fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    i64::try_from(now).expect("before the year 292 billion") + seconds
}

/// The part of a JWT that is signed.
fn unsigned(algorithm: &str, claims: &serde_json::Value) -> String {
    let header = json!({ "alg": algorithm, "typ": "JWT" });
    format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()))
}

/// HMAC-SHA-256 (RFC 2104).
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

const KEY: &str = "a shared secret of 44 bytes, as one ought be";

fn hs256(claims: &serde_json::Value) -> String {
    let text = unsigned("HS256", claims);
    format!("{text}.{}", base64url(&hmac(KEY.as_bytes(), text.as_bytes())))
}

fn claims(seconds: i64) -> serde_json::Value {
    json!({ "sub": "laptop", "account": "acme", "names": ["app*"], "exp": in_seconds(seconds), "aud": "adit" })
}

/// A server that takes JWTs of one algorithm, with the key in a file of mode 0600.
async fn jwt_server(algorithm: &str, key: &str) -> Server {
    let auth = format!(
        "auth: {{ jwt: {{ algorithms: [{algorithm}], key_file: DATA/jwt.key, audience: adit, leeway: 0s, claims: {{ account: account, names: names }} }} }}"
    );
    Server::setup().section(&auth).secret("jwt.key", key).start().await
}

async fn refused(server: &Server, token: &str) -> Agent {
    let origin = HttpOrigin::start().await.expect("a local service");
    let agent = Publish::with_token(server, token).http("app1", origin.addr()).spawn();
    assert_eq!(agent.exit_code(DEADLINE).await, Some(3), "{}", agent.process().output());
    agent
}

#[tokio::test]
async fn a_jwt_is_accepted_for_what_it_names_and_ends_its_session_at_exp() {
    let server = jwt_server("HS256", KEY).await;
    let origin = HttpOrigin::start().await.unwrap();
    let agent = Publish::with_token(&server, &hs256(&claims(4))).http("app1", origin.addr()).start().await;
    assert_eq!(server.get("app1", "/").await.status, 200);
    let other = Publish::with_token(&server, &hs256(&claims(60))).http("shop", origin.addr()).spawn();
    assert_ne!(other.exit_code(DEADLINE).await, Some(0));
    assert!(other.process().stderr().contains("may not take"), "{}", other.process().stderr());
    assert_eq!(server.audited("expelled").await["reason"], "token_expired");
    agent.says("the token has expired").await;
    assert_eq!(server.get("app1", "/").await.status, 502);
}

#[tokio::test]
async fn jwts_that_are_expired_forged_or_for_others_are_refused() {
    let server = jwt_server("HS256", KEY).await;
    let good = claims(60);
    let mut other_audience = good.clone();
    other_audience["aud"] = "somebody else".into();
    let mut no_end = good.clone();
    no_end.as_object_mut().unwrap().remove("exp");
    let mut not_yet = good.clone();
    not_yet["nbf"] = in_seconds(3600).into();
    let mut no_account = good.clone();
    no_account.as_object_mut().unwrap().remove("account");
    let text = unsigned("HS256", &good);
    let cases = [
        ("expired", hs256(&claims(-60))),
        ("another key", format!("{text}.{}", base64url(&hmac(b"another secret, just as long as it", text.as_bytes())))),
        ("no signature", format!("{}.", unsigned("none", &good))),
        ("an algorithm that is not pinned", {
            let text = unsigned("HS512", &good);
            format!("{text}.{}", base64url(&hmac(KEY.as_bytes(), text.as_bytes())))
        }),
        ("another audience", hs256(&other_audience)),
        ("no exp", hs256(&no_end)),
        ("not yet", hs256(&not_yet)),
        ("no account", hs256(&no_account)),
    ];
    for (what, token) in cases {
        let agent = refused(&server, &token).await;
        let output = agent.process().output();
        assert!(!output.contains(&token), "{what}: the token is not shown");
        assert_eq!(output.contains("expired"), what == "expired", "{what}: {output}");
    }
    assert_eq!(server.audit().iter().filter(|line| line["event"] == "authentication_failed").count(), 8);
}

/// Runs openssl in a directory.
fn openssl(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let done = Command::new("openssl").args(arguments).current_dir(dir).output().expect("openssl runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// The 64 bytes JWS wants of an ECDSA signature (RFC 7518 section 3.4), out of its DER form.
fn raw_signature(der: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    let mut rest = &der[2..];
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = &rest[2..2 + length];
        let number = &number[number.len().saturating_sub(32)..];
        raw.resize(raw.len() + 32 - number.len(), 0);
        raw.extend_from_slice(number);
        rest = &rest[2 + length..];
    }
    raw
}

#[tokio::test]
async fn a_jwt_signed_with_es256_is_checked_with_the_public_key_alone() {
    let dir = tempfile::tempdir().unwrap();
    openssl(dir.path(), &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "private.pem"]);
    let public = openssl(dir.path(), &["ec", "-in", "private.pem", "-pubout"]);
    let public = String::from_utf8(public).unwrap();
    let server = jwt_server("ES256", &public).await;
    let text = unsigned("ES256", &claims(60));
    std::fs::write(dir.path().join("text"), &text).unwrap();
    let der = openssl(dir.path(), &["dgst", "-sha256", "-sign", "private.pem", "text"]);
    let origin = HttpOrigin::start().await.unwrap();
    let token = format!("{text}.{}", base64url(&raw_signature(&der)));
    let _agent = Publish::with_token(&server, &token).http("app1", origin.addr()).start().await;
    assert_eq!(server.get("app1", "/").await.status, 200);
    // The classic forgery: the public key taken for a shared secret.
    let forged = unsigned("HS256", &claims(60));
    let key = Sha256::digest(public.as_bytes());
    refused(&server, &format!("{forged}.{}", base64url(&hmac(&key, forged.as_bytes())))).await;
}

#[tokio::test]
async fn a_new_token_in_the_agents_file_keeps_its_session_beyond_the_old_ones_end() {
    let server = jwt_server("HS256", KEY).await;
    let origin = HttpOrigin::start().await.unwrap();
    let agent = Publish::with_token(&server, &hs256(&claims(4))).http("app1", origin.addr()).start().await;
    let end_of_the_first = Instant::now() + Duration::from_secs(5);
    agent.set_token(&hs256(&claims(120)));
    agent.says("token renewed").await;
    assert_eq!(server.audited("token_refreshed").await["account"], "acme");
    eventually(DEADLINE, "a time after the first token's end", || async {
        assert_eq!(server.get("app1", "/").await.status, 200);
        (Instant::now() > end_of_the_first).then_some(())
    })
    .await;
    assert!(!agent.process().output().contains("connection lost"), "{}", agent.process().output());
}
