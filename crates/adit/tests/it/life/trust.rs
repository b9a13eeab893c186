//! How an agent makes sure that the server is the right one.

use testkit::cert::TestCa;
use testkit::origin::HttpOrigin;

use crate::support::{Agent, DEADLINE, Publish, Server};

/// A server with a certificate of an authority for agents.
async fn certified(ca: &TestCa) -> Server {
    let leaf = ca.leaf("agents", &["localhost", "127.0.0.1", "tunnel.example"]).expect("a certificate");
    let tls = format!("agents: {{ tls: {{ cert: {}, key: {} }} }}", leaf.cert.display(), leaf.key.display());
    Server::setup().section(&tls).start().await
}

fn agent(server: &Server, origin: &HttpOrigin, trust: &[&str]) -> Agent {
    Publish::to(server).http("app1", origin.addr()).trusting(trust).spawn()
}

#[tokio::test]
async fn a_certificate_of_the_given_authority_is_accepted_for_its_names() {
    let ca = TestCa::new().unwrap();
    let server = certified(&ca).await;
    let origin = HttpOrigin::start().await.unwrap();
    let file = ca.path().display().to_string();
    for more in [&[][..], &["--server-name", "tunnel.example"]] {
        let trust = [&["--ca-file", file.as_str()], more].concat();
        let agent = agent(&server, &origin, &trust);
        agent.says("app1.localhost").await;
        assert_eq!(server.get("app1", "/").await.status, 200, "{more:?}");
    }
    let wrong = agent(&server, &origin, &["--ca-file", &file, "--server-name", "other.example"]);
    assert_ne!(wrong.exit_code(DEADLINE).await, Some(0));
    assert!(wrong.process().stderr().contains("not trusted"), "{}", wrong.process().stderr());
}

#[tokio::test]
async fn a_server_nobody_vouches_for_is_refused_before_the_token_is_sent() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let other = TestCa::new().unwrap();
    let file = other.path().display().to_string();
    let zeros = "sha256:".to_owned() + &"00".repeat(32);
    for trust in [&[][..], &["--ca-file", &file], &["--fingerprint", &zeros]] {
        let agent = agent(&server, &origin, trust);
        assert_eq!(agent.exit_code(DEADLINE).await, Some(4), "{trust:?}: {}", agent.process().output());
        let output = agent.process().stderr();
        assert!(output.contains("not trusted") && output.contains("hint: "), "{trust:?}: {output}");
    }
    assert!(server.audit().is_empty(), "no token has come: {:?}", server.audit());
}

#[tokio::test]
async fn a_fingerprint_stays_the_same_across_restarts() {
    let mut server = Server::start().await;
    let first = server.fingerprint.clone();
    server.kill().await;
    server.start_again().await;
    assert_eq!(server.fingerprint, first);
}

#[tokio::test]
async fn the_token_may_come_from_the_environment_or_from_stdin() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let token = server.token("acme");
    let command = |more: &[&str]| {
        let mut command = crate::support::adit(home.path());
        command.args(["expose", &format!("http://{}", origin.addr()), "--as", "app1"]);
        command.args(["--server", &server.agents.to_string(), "--fingerprint", &server.fingerprint]).args(more);
        command
    };
    let by_environment = testkit::process::Process::start(command(&[]).env("ADIT_TOKEN", &token)).unwrap();
    by_environment.line(DEADLINE, |line| line.contains("app1.localhost")).await.unwrap();
    by_environment.kill().unwrap();
    let by_stdin = testkit::process::Process::start(&mut command(&["--token-stdin"])).unwrap();
    by_stdin.write_stdin(format!("{token}\n").as_bytes()).unwrap();
    by_stdin.line(DEADLINE, |line| line.contains("app1.localhost")).await.unwrap();
    let without = testkit::process::Process::start(&mut command(&[])).unwrap();
    assert_eq!(without.exited(DEADLINE).await.unwrap().code(), Some(3));
    assert!(without.stderr().contains("--token-file"), "{}", without.stderr());
}
