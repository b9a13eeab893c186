//! `adit doctor`: what it says of a machine that is made for it. What only this machine decides is not looked at here.

use std::path::Path;

use serde_json::Value;
use testkit::cluster::{Cluster, ClusterOptions};
use testkit::process;

use crate::cli::{home, run};
use crate::support::{DEADLINE, adit};

/// Checks that depend on the machine, not on the files of the test.
const OF_THE_MACHINE: [&str; 7] = ["adit", "names", "ssh", "files", "monitor", "clock", "cluster"];

/// Exit code and report.
fn doctor(home: &Path, more: &[(&str, &str)]) -> (i32, Value) {
    let mut command = adit(home);
    command.env_remove("XDG_RUNTIME_DIR").env_remove("RUNTIME_DIRECTORY").env_remove("SSH_AUTH_SOCK");
    command.envs(more.iter().copied()).args(["doctor", "-o", "json"]);
    let (status, said) = process::run(&mut command, b"", DEADLINE).expect("adit ends");
    let report = serde_json::from_str(&said.stdout()).unwrap_or_else(|_| panic!("{}", said.stderr()));
    (status.code().expect("it ends by itself"), report)
}

/// All results of a check, as `result message`.
fn of(report: &Value, name: &str) -> Vec<String> {
    let checks = report["checks"].as_array().expect("a list").iter().filter(|check| check["name"] == name);
    checks.map(|check| format!("{} {}", check["result"], check["message"]).replace('"', "")).collect()
}

fn write(home: &Path, name: &str, text: &str) {
    let path = home.join(name);
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    std::fs::write(path, text).expect("a file");
}

/// The lines of the text that the files of the test decide.
fn steady(said: &str) -> String {
    let mut lines = Vec::new();
    let mut left_out = false;
    for line in said.lines() {
        if !line.starts_with(' ') {
            left_out = line.split_whitespace().nth(1).is_some_and(|name| OF_THE_MACHINE.contains(&name));
        }
        if !left_out && !line.ends_with(" in the way") {
            lines.push(line);
        }
    }
    lines.join("\n")
}

#[test]
fn a_runtime_directory_that_others_may_read_is_none_in_the_way_and_one_that_they_may_write_is() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = home();
    let directory = home.path().join("state/adit/run");
    std::fs::create_dir_all(&directory).unwrap();
    let with = |mode: u32| {
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(mode)).unwrap();
        of(&doctor(home.path(), &[]).1, "runtime").concat()
    };
    assert!(with(0o755).starts_with("ok"), "the daemon makes it private");
    assert!(with(0o775).contains("can be written by others"));
}

#[test]
fn a_machine_without_anything_can_still_be_used() {
    let home = home();
    let said = run(home.path(), &["doctor"]);
    assert!(said.starts_with("exit code 0\n"), "{said}");
    insta::assert_snapshot!("doctor_nothing", steady(&said));
}

#[test]
fn what_is_in_the_way_is_said_with_what_to_do() {
    let home = home();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = holder.local_addr().expect("an address").port();
    let kubeconfig = "apiVersion: v1\nkind: Config\ncurrent-context: dev\n\
        clusters: [{ name: c, cluster: { server: 'http://127.0.0.1:1' } }]\n\
        users: [{ name: u, user: { exec: { apiVersion: client.authentication.k8s.io/v1, command: no-such-plugin } } }]\n\
        contexts: [{ name: dev, context: { cluster: c, user: u } }]\n";
    write(home.path(), ".kube/config", kubeconfig);
    let file = format!(
        "forwards:\n  db: {{ to: k8s://dev/data/service/db:5432, listen: {port} }}\n  web: {{ to: k8s://prd/a/service/web:80 }}\n\
         gateway: {{ listen: '127.0.0.1:0', tls: local }}\n"
    );
    write(home.path(), "adit.yaml", &file);
    write(home.path(), "state/adit/run", "a file where the directory should be");
    let (code, report) = doctor(home.path(), &[]);
    assert_eq!((code, &report["ok"]), (1, &Value::Bool(false)), "{report:#}");
    assert_eq!(of(&report, "config"), ["ok adit.yaml: 2 forwards, the gateway"]);
    assert!(of(&report, "kubeconfig")[0].starts_with("fail adit.yaml:3:"), "{report:#}");
    assert_eq!(of(&report, "plugin"), ["fail no-such-plugin was not found; dev cannot log in without it"]);
    assert!(of(&report, "cluster").is_empty(), "the plugin is why: {report:#}");
    let taken = format!("fail 127.0.0.1:{port} for the forward db is taken by ");
    assert!(of(&report, "port").iter().any(|line| line.starts_with(&taken)), "{report:#}");
    assert!(of(&report, "trust")[0].starts_with("warn there is no local authority yet"), "{report:#}");
    assert!(of(&report, "runtime")[0].ends_with("state/adit/run is not a directory"), "{report:#}");
    let fixes = report["checks"].as_array().expect("a list").iter().filter(|check| check["result"] != "ok");
    for check in fixes {
        assert!(check["fix"].is_string(), "{check}");
    }
}

#[test]
fn an_ssh_server_whose_key_is_not_known_is_in_the_way_and_clusters_are_no_matter_without_one() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = home();
    write(home.path(), "key", "no key yet");
    let key = home.path().join("key");
    let mode = |mode: u32| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let file = "forwards:\n  db:\n    to: { ssh: { server: me@bastion.invalid, host: db, port: 5432, key: key, known_hosts: known } }\n";
    write(home.path(), "adit.yaml", file);
    write(home.path(), "known", "");
    let (code, report) = doctor(home.path(), &[]);
    assert_eq!(code, 1, "{report:#}");
    assert_eq!(of(&report, "kubeconfig"), ["ok nothing in the file leads to a cluster"]);
    let told = of(&report, "ssh");
    assert!(
        told.iter().any(|line| line == "fail no host key of me@bastion.invalid is known, so it is refused"),
        "{told:?}"
    );
    assert!(
        told.iter().any(|line| line.ends_with("others may read it (mode 644)") && line.starts_with("fail ")),
        "{told:?}"
    );
    mode(0o600);
    write(
        home.path(),
        "known",
        "bastion.invalid ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH\n",
    );
    let (code, report) = doctor(home.path(), &[]);
    assert_eq!(code, 0, "{report:#}");
}

#[test]
fn a_file_with_problems_is_in_the_way() {
    let home = home();
    write(home.path(), "adit.yaml", "forwards: { a: { to: 'ftp://x', lsten: 1 } }\n");
    let (code, report) = doctor(home.path(), &[]);
    assert_eq!(code, 1);
    assert!(of(&report, "config")[0].ends_with("and 1 more"), "{report:#}");
    write(home.path(), "adit.yaml", "publish: { token_file: missing, tunnels: { a: { to: 3000 } } }\n");
    let (code, report) = doctor(home.path(), &[]);
    assert_eq!(code, 1, "{report:#}");
    assert!(of(&report, "config")[0].starts_with("fail adit.yaml:1:"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_answers_says_its_version() {
    let (home, cluster) = (home(), Cluster::start(ClusterOptions::default()).await);
    cluster.write_kubeconfig(&home.path().join("kubeconfig"));
    write(home.path(), "adit.yaml", "forwards: { web: { to: 'k8s:///default/service/web:80' } }\n");
    let kubeconfig = home.path().join("kubeconfig").display().to_string();
    let (code, report) = doctor(home.path(), &[("KUBECONFIG", &kubeconfig)]);
    assert_eq!(code, 0, "{report:#}");
    assert!(of(&report, "cluster")[0].starts_with("ok fake answers: v1."), "{report:#}");
}

#[test]
fn fields_of_the_report_are_stable() {
    let home = home();
    let (_, report) = doctor(home.path(), &[]);
    let keys = |value: &Value| value.as_object().expect("a map").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&report), ["checks", "ok", "summary", "version"]);
    assert_eq!(keys(&report["summary"]), ["fail", "ok", "warn"]);
    assert_eq!(keys(&report["checks"][0]), ["fix", "message", "name", "result"]);
}
