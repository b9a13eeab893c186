//! Wrong arguments and refusals: read the snapshots with a stranger's eyes.

use testkit::process;

use super::Bench;
use crate::support::{DEADLINE, adit};

fn run(bench: &Bench, arguments: &[&str]) -> String {
    let mut command = bench.command(arguments);
    command.env("COLUMNS", "100");
    let (status, said) = process::run(&mut command, b"", DEADLINE).expect("adit ends");
    let code = status.code().map_or_else(|| "none".to_owned(), |code| code.to_string());
    let text = format!("exit code {code}\n---- stdout\n{}---- stderr\n{}", said.stdout(), said.stderr());
    text.replace(&bench.home.path().display().to_string(), "HOME")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_answered_with_what_to_type() {
    let bench = Bench::start().await;
    for (name, arguments) in [
        ("forward_help", &["--help"][..]),
        ("forward_nothing", &[]),
        ("forward_no_port", &["svc/web"]),
        ("forward_bad_port", &["svc/web", "80:http:1"]),
        ("forward_port_zero", &["svc/web", "8080:0"]),
        ("forward_port_too_large", &["svc/web", "8080:99999"]),
        ("forward_udp", &["svc/web", "53/udp"]),
        ("forward_unknown_type", &["servce/web", "80"]),
        ("forward_daemonset", &["ds/web", "80"]),
        ("forward_ssh", &["ssh://bastion"]),
        ("forward_unknown_scheme", &["htp://web:80"]),
        ("forward_unknown_option", &["svc/web", "80", "--namespase", "x"]),
        ("forward_missing_context", &["svc/web", "80", "--context", "fkae"]),
        ("forward_missing_file", &["svc/web", "80", "--kubeconfig", "nowhere"]),
        ("forward_missing_service", &["svc/wbe", ":80"]),
        ("forward_missing_pod", &["web-9", ":80"]),
        ("forward_port_not_in_service", &["svc/web", ":82"]),
        ("forward_port_name_not_in_service", &["svc/web", ":https"]),
        ("forward_bad_address", &["svc/web", "80", "--address", "example.com"]),
        ("forward_bad_timeout", &["svc/web", "80", "--pod-running-timeout", "soon"]),
        ("forward_protected", &["svc/web", "80", "--protect", "^fa"]),
        ("forward_bad_protect", &["svc/web", "80", "--protect", "("]),
        ("forward_port_twice", &["svc/web", "8080:80", "8080:81"]),
    ] {
        insta::assert_snapshot!(name, run(&bench, arguments));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_json_where_events_are() {
    let bench = Bench::start().await;
    let said = run(&bench, &["svc/wbe", ":80", "-o", "json"]);
    let failure = said.lines().last().and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let failure = failure.unwrap_or_else(|| panic!("{said}"));
    assert_eq!(failure["error"]["message"], "services \"wbe\" not found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_in_a_hint_keeps_the_flags_that_were_given() {
    let bench = Bench::start().await;
    let file = bench.home.path().join("kubeconfig").display().to_string();
    let said = run(&bench, &["svc/postgres", ":80", "-n", "default", "--kubeconfig", &file]);
    assert!(said.contains("`kubectl get services -n default --context fake --kubeconfig HOME/kubeconfig`"), "{said}");
}

#[test]
fn without_a_kubeconfig_the_way_to_one_is_said() {
    let home = tempfile::tempdir().expect("a directory");
    let mut command = adit(home.path());
    let (status, said) = process::run(command.args(["forward", "svc/web", "80"]), b"", DEADLINE).expect("adit ends");
    assert_eq!(status.code(), Some(2));
    insta::assert_snapshot!("forward_no_kubeconfig", said.stderr().replace(&home.path().display().to_string(), "HOME"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protected_context_is_touched_only_after_yes() {
    let bench = Bench::start().await;
    let file = "kubernetes: { protect: [^fake$] }\n";
    std::fs::write(bench.home.path().join("adit.yaml"), file).expect("adit.yaml");
    let refused = run(&bench, &["svc/web", ":80", "--", "true"]);
    assert!(refused.starts_with("exit code 5") && refused.contains("context `fake` is protected"), "{refused}");
    assert_eq!(bench.cluster.requests().len(), 0, "it was not touched");
    let agreed = run(&bench, &["svc/web", ":80", "--yes", "--", "true"]);
    assert!(agreed.starts_with("exit code 0"), "{agreed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kubeconfig_of_the_file_is_used() {
    let bench = Bench::start().await;
    let file = "kubernetes: { kubeconfig: kubeconfig }\n";
    std::fs::write(bench.home.path().join("adit.yaml"), file).expect("adit.yaml");
    let mut command = adit(bench.home.path());
    command.args(["forward", "svc/web", ":80", "--", "true"]);
    let (status, said) = process::run(&mut command, b"", DEADLINE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", said.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adit_config_check_reads_the_section_kubernetes() {
    let bench = Bench::start().await;
    std::fs::write(bench.home.path().join("adit.yaml"), "kubernetes: { protect: [prod] }\n").expect("adit.yaml");
    std::fs::write(bench.home.path().join("bad.yaml"), "kubernetes: { keepalive: soon }\n").expect("bad.yaml");
    let check = |file: &str| {
        let mut command = adit(bench.home.path());
        command.args(["config", "check", file]);
        let (status, said) = process::run(&mut command, b"", DEADLINE).expect("it ends");
        (status.code(), said.stderr())
    };
    assert_eq!(check("adit.yaml").0, Some(0));
    let (code, said) = check("bad.yaml");
    assert!(code == Some(2) && said.contains("kubernetes.keepalive"), "{said}");
}
