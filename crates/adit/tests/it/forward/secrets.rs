//! S6: what a user sees, logs and writes holds no credential, however much is logged.

use testkit::cluster::{AuthMode, Cluster, ClusterOptions, PodSpec};
use testkit::origin::HttpOrigin;
use testkit::process::Process;

use super::{address, ready, status};
use crate::support::{DEADLINE, adit, eventually};

/// A forward at the highest log level, and what it said.
async fn said_of(auth: AuthMode) -> (String, Vec<String>) {
    let cluster = Cluster::start(ClusterOptions { auth, ..ClusterOptions::default() }).await;
    let origin = HttpOrigin::start().await.expect("a service");
    cluster.add_pod(PodSpec::new("default", "web-1").port("http", 8080).backend(8080, origin.addr()));
    let home = tempfile::tempdir().expect("a directory");
    let kubeconfig = home.path().join("kubeconfig");
    cluster.write_kubeconfig(&kubeconfig);
    let mut command = adit(home.path());
    command.args(["forward", "web-1", ":8080", "-vvv"]).env("KUBECONFIG", &kubeconfig);
    let process = Process::start(&mut command).expect("adit starts");
    ready(&process).await;
    assert_eq!(status(address(&process)).await, Some(200));
    let new_token = cluster.rotate_token();
    // Its requests are refused from here on, and it reads its credentials again.
    cluster.faults().cut_connections();
    cluster.faults().drop_watches();
    eventually(DEADLINE, "requests after the token's end", || async {
        (process.output().to_lowercase().contains("credential")).then_some(())
    })
    .await;
    let text = std::fs::read_to_string(&kubeconfig).expect("the kubeconfig");
    let secrets = text
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .filter(|(key, _)| matches!(*key, "token" | "password" | "client-key-data"))
        .map(|(_, value)| value.trim_matches('"').to_owned())
        .chain([new_token])
        .filter(|secret| secret.len() >= 8)
        .collect();
    (process.output(), secrets)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s6_no_token_of_a_kubeconfig_is_shown_at_the_highest_log_level() {
    let (said, secrets) = said_of(AuthMode::random_token()).await;
    assert!(secrets.len() >= 2, "there was something to be shown");
    for secret in secrets {
        assert!(!said.contains(&secret[..8]), "a part of a token is shown");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s6_no_token_of_a_plugin_is_shown_at_the_highest_log_level() {
    let plugin = AuthMode::ExecPlugin { lifetime: std::time::Duration::from_secs(600) };
    let (said, secrets) = said_of(plugin).await;
    assert!(!secrets.is_empty(), "there was something to be shown");
    for secret in secrets {
        assert!(!said.contains(&secret[..8]), "a part of a token is shown");
    }
}
