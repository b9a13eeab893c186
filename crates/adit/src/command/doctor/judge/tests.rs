//! Tests of what facts mean.

use std::path::PathBuf;

use ::forward::{PluginUse, SshFacts};
use adit_core::config::AgentFile;
use adit_core::target::SshServer;

use super::*;
use crate::command::doctor::Grade;

fn trouble(message: &str) -> Trouble {
    Trouble { message: message.to_owned(), hint: None }
}

fn needs(contexts: &[Option<&str>]) -> Needs {
    Needs { contexts: contexts.iter().map(|name| name.map(str::to_owned)).collect(), ..Needs::default() }
}

fn found(current: Option<&str>) -> Kubeconfig {
    Kubeconfig::Found { files: "/k".to_owned(), contexts: 2, current: current.map(str::to_owned), missing: Vec::new() }
}

/// A machine on which all is well and nothing is configured.
fn facts() -> Facts {
    Facts {
        program: Some(PathBuf::from("/bin/adit")),
        config: Config::Good { path: "adit.yaml".into(), forwards: 1, tunnels: 2, gateway: true },
        needs: Needs::default(),
        kubeconfig: found(Some("dev")),
        plugins: Vec::new(),
        server: Some(Server { context: "dev".into(), answer: Ok(("v1.31.2".into(), Duration::from_millis(12))) }),
        ports: vec![port(PortState::Free), port(PortState::Ours)],
        names: Names { name: "x.k8s.localhost".into(), addresses: Ok(vec!["127.0.0.1".parse().unwrap()]) },
        authority: Authority::None,
        ssh: Ssh { program: Some("/usr/bin/ssh".into()), agent: Agent::Answers, known_hosts: true },
        ssh_servers: Vec::new(),
        place: RuntimeDirectory::Good("/run/user/1/adit".into()),
        daemon: Daemon::Runs { pid: 7, version: env!("CARGO_PKG_VERSION").into(), elsewhere: None },
        descriptors: Some(1 << 20),
        kernel: Kernel { release: "6.1".into(), btf: true, rights: Some(trouble("CAP_BPF is missing")), kernel: None },
        clock: Clock { now: SystemTime::UNIX_EPOCH + EPOCH * 2, synchronised: Some(true) },
    }
}

fn port(state: PortState) -> Port {
    Port { address: "127.0.0.1:5432".parse().unwrap(), wanted_by: "the forward db".into(), state }
}

#[test]
fn where_all_is_well_every_line_says_ok() {
    let checks = all(&facts());
    assert!(checks.iter().all(|check| check.grade == Grade::Ok && check.fix.is_none()), "{checks:#?}");
    let names: Vec<&str> = checks.iter().map(|check| check.name).collect();
    let expected = [
        "adit",
        "config",
        "kubeconfig",
        "cluster",
        "port",
        "names",
        "trust",
        "ssh",
        "runtime",
        "daemon",
        "files",
        "monitor",
        "clock",
    ];
    assert_eq!(names, expected, "names are stable: programs go by them");
    assert_eq!(checks[1].message, "adit.yaml: 1 forward, the gateway, 2 tunnels");
    assert_eq!(checks[4].message, "1 free, 1 with the daemon");
}

#[test]
fn whatever_is_not_ok_says_what_to_do() {
    let bad = Facts {
        config: Config::None,
        kubeconfig: Kubeconfig::None(trouble("no file")),
        server: Some(Server { context: "dev".into(), answer: Err(trouble("refused")) }),
        ports: vec![port(PortState::Refused(trouble("no")))],
        names: Names { name: "x".into(), addresses: Err("no such name".into()) },
        needs: Needs { dynamic_host: Some("k8s.localhost".into()), ssh: true, local_tls: true, ..Needs::default() },
        authority: Authority::Broken(trouble("no key")),
        ssh: Ssh { program: None, agent: Agent::None, known_hosts: false },
        place: RuntimeDirectory::Unknown,
        daemon: Daemon::Silent("hangs".into()),
        descriptors: Some(100),
        clock: Clock { now: SystemTime::UNIX_EPOCH, synchronised: None },
        ..facts()
    };
    for check in all(&bad) {
        let told = check.grade == Grade::Ok || check.fix.as_ref().is_some_and(|fix| !fix.is_empty());
        assert!(told, "{check:?}");
        assert!(check.grade != Grade::Ok || matches!(check.name, "adit" | "monitor"), "{check:?}");
    }
}

#[test]
fn a_file_with_problems_names_the_first_and_counts_the_others() {
    let problems = vec!["adit.yaml:1:1: a: is wrong".to_owned(), "b".to_owned(), "c".to_owned()];
    let check = config(&Config::Wrong { path: "adit.yaml".into(), problems });
    assert_eq!(check.grade, Grade::Fail);
    assert_eq!(check.message, "adit.yaml:1:1: a: is wrong, and 2 more");
    assert_eq!(check.fix.as_deref(), Some("see all: adit config check adit.yaml"));
}

#[test]
fn clusters_are_in_the_way_only_where_they_are_used() {
    let none = || Kubeconfig::None(trouble("there is no kubeconfig"));
    assert_eq!(kubeconfig(&none(), &needs(&[])).grade, Grade::Warn);
    assert_eq!(kubeconfig(&none(), &needs(&[Some("a")])).grade, Grade::Fail);
    assert_eq!(kubeconfig(&found(None), &needs(&[Some("a")])).grade, Grade::Warn);
    assert_eq!(kubeconfig(&found(None), &needs(&[None])).grade, Grade::Fail);
    let down = Server { context: "dev".into(), answer: Err(trouble("refused")) };
    assert_eq!(server(&down, &needs(&[Some("prod")])).grade, Grade::Warn);
    assert_eq!(server(&down, &needs(&[None])).grade, Grade::Fail);
    assert_eq!(server(&down, &needs(&[Some("dev")])).grade, Grade::Fail);
}

#[test]
fn clusters_of_which_the_file_wants_none_are_no_trouble() {
    let needs = Needs { no_cluster: true, ..Needs::default() };
    for config in [Kubeconfig::None(trouble("there is no kubeconfig")), found(None)] {
        assert_eq!(kubeconfig(&config, &needs).grade, Grade::Ok);
    }
    let of = |text: &str| Needs::of(&AgentFile::parse("adit.yaml", text, &|_| None).unwrap()).no_cluster;
    assert!(of("forwards: { db: { to: 'ssh://bastion/db:5432' } }"));
    assert!(!of("forwards: { db: { to: 'k8s:///a/service/b:1' } }"));
    assert!(!of("gateway: { dynamic_host: k8s.localhost }"));
}

#[test]
fn what_keeps_ssh_servers_from_being_used_is_told_once() {
    let named = |host: &str, key: Option<&str>| {
        let mut server = SshServer::parse(host).unwrap();
        server.options.key = key.map(PathBuf::from);
        server
    };
    let facts = |server: &SshServer, open: &str| SshServerFacts {
        server: server.clone(),
        looked: Ok(SshFacts { without_host_key: vec![named("hop", None)], open_keys: vec![(open.into(), 0o644)] }),
    };
    let (one, two) = (named("a", Some("/k")), named("b", None));
    let broken = SshServerFacts { server: named("c", None), looked: Err(trouble("the ssh settings of c")) };
    let checks = ssh_servers(&[facts(&one, "/k"), facts(&two, "/other"), broken]);
    let lines: Vec<(Grade, &str)> = checks.iter().map(|check| (check.grade, check.message.as_str())).collect();
    assert_eq!(
        lines,
        [
            (Grade::Fail, "no host key of hop is known, so it is refused"),
            (Grade::Fail, "/k is not used for a: others may read it (mode 644)"),
            (Grade::Warn, "/other is not used for b: others may read it (mode 644)"),
            (Grade::Fail, "the ssh settings of c"),
        ]
    );
    assert_eq!(checks[0].fix.as_deref(), Some("compare its fingerprint and accept it: adit ssh trust hop"));
    assert!(checks.iter().all(|check| check.fix.is_some()));
}

#[test]
fn a_plugin_that_is_missing_names_its_contexts_once() {
    let plugin = |context: &str, command: &str, there: bool| PluginUse {
        context: context.into(),
        command: command.into(),
        program: there.then(|| PathBuf::from("/bin/x")),
    };
    let plugins_of = |current: &str| {
        let plugins = vec![
            plugin("a", "aws", false),
            plugin("b", "aws", false),
            plugin("c", "gke", true),
            plugin("d", "gke", true),
        ];
        super::plugins(&Facts { plugins, kubeconfig: found(Some(current)), ..facts() })
    };
    let checks = plugins_of("c");
    let lines: Vec<(Grade, &str)> = checks.iter().map(|check| (check.grade, check.message.as_str())).collect();
    assert_eq!(lines, [(Grade::Warn, "aws was not found; a, b cannot log in without it"), (Grade::Ok, "gke found")]);
    assert_eq!(plugins_of("b")[0].grade, Grade::Fail);
}

#[test]
fn a_port_of_a_stranger_is_in_the_way_and_one_of_ours_is_not() {
    let taken = |by_up: bool, hint: Option<&str>| {
        let trouble = Trouble { message: "taken".into(), hint: hint.map(str::to_owned) };
        port(PortState::Taken { holder: Some("nginx (pid 3)".into()), by_up, trouble })
    };
    let checks = ports(&[port(PortState::Free), taken(false, Some("use 5433, which is free")), taken(true, None)]);
    let lines: Vec<(Grade, &str)> = checks.iter().map(|check| (check.grade, check.message.as_str())).collect();
    assert_eq!(
        lines,
        [
            (Grade::Fail, "127.0.0.1:5432 for the forward db is taken by nginx (pid 3)"),
            (Grade::Warn, "127.0.0.1:5432 for the forward db is taken by nginx (pid 3)"),
            (Grade::Ok, "1 free"),
        ]
    );
    assert_eq!(checks[0].fix.as_deref(), Some("use 5433, which is free"));
    assert_eq!(ports(&[]), []);
}

#[test]
fn all_ports_of_a_daemon_that_cannot_be_asked_are_one_line_with_its_process() {
    let checks = ports(&[port(PortState::OtherDaemon(7)), port(PortState::OtherDaemon(7))]);
    assert_eq!(checks.len(), 1, "{checks:?}");
    let text = "127.0.0.1:5432 for the forward db and 1 other port have been taken by a daemon that does not answer here (pid 7)";
    assert_eq!((checks[0].grade, checks[0].message.as_str()), (Grade::Fail, text));
    assert!(checks[0].fix.as_deref().is_some_and(|fix| fix.contains("kill 7")));
}

#[test]
fn names_must_lead_to_this_machine() {
    let resolved = |addresses: &[&str]| Names {
        name: "x.k8s.localhost".into(),
        addresses: Ok(addresses.iter().map(|text| text.parse().unwrap()).collect()),
    };
    assert_eq!(names(&resolved(&["127.0.0.1", "::1"]), true).grade, Grade::Ok);
    for wrong in [&["127.0.0.1", "10.0.0.1"][..], &[]] {
        assert_eq!(names(&resolved(wrong), true).grade, Grade::Warn, "{wrong:?}");
    }
}

#[test]
fn an_authority_is_looked_at_where_there_is_one() {
    let now = SystemTime::UNIX_EPOCH + EPOCH;
    let there = |trusted: bool, left: Duration| Authority::There {
        not_after: now + left,
        stores: vec![("system".into(), true), ("chromium".into(), trusted)],
    };
    assert_eq!(authority(&Authority::None, false, now).grade, Grade::Ok);
    assert_eq!(authority(&Authority::None, true, now).grade, Grade::Warn);
    assert_eq!(
        authority(&there(true, SOON * 2), true, now).message,
        "the local authority is in the stores of system, chromium"
    );
    let not = authority(&there(false, SOON * 2), true, now);
    let says = "the local authority is missing in the stores of chromium (system has it), so they will warn";
    assert_eq!((not.grade, not.message.as_str()), (Grade::Warn, says));
    assert_eq!(authority(&there(false, SOON * 2), false, now).grade, Grade::Ok, "nothing needs it");
    let nowhere = Authority::There { not_after: now + SOON * 2, stores: Vec::new() };
    assert_eq!(authority(&nowhere, true, now).grade, Grade::Warn, "no store at all is no trust");
    assert_eq!(authority(&there(true, SOON / 2), true, now).fix.as_deref(), Some("renew it: adit trust"));
}

#[test]
fn a_daemon_of_another_version_is_to_be_replaced() {
    let check = daemon(&Daemon::Runs { pid: 7, version: "0.0.1".into(), elsewhere: None });
    assert_eq!(
        (check.grade, check.fix.as_deref()),
        (Grade::Warn, Some("put the new one in its place: adit daemon restart"))
    );
}

#[test]
fn a_daemon_with_another_file_is_told_with_the_way_to_this_one() {
    let elsewhere = Some("the daemon runs /a.yaml, not ./adit.yaml; `x` takes this one".into());
    let check = daemon(&Daemon::Runs { pid: 7, version: env!("CARGO_PKG_VERSION").into(), elsewhere });
    assert_eq!((check.grade, check.fix.as_deref()), (Grade::Warn, Some("`x` takes this one")));
    let check = daemon(&Daemon::Runs { pid: 7, version: env!("CARGO_PKG_VERSION").into(), elsewhere: None });
    assert_eq!((check.grade, check.fix), (Grade::Ok, None));
}

#[test]
fn limits_and_the_clock_have_their_bounds() {
    let grades = [None, Some(1 << 20), Some(1024), Some(64)].map(|limit| descriptors(limit).grade);
    assert_eq!(grades, [Grade::Ok, Grade::Ok, Grade::Warn, Grade::Fail]);
    let at = |seconds: u64, synchronised| {
        clock(&Clock { now: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), synchronised }).grade
    };
    assert_eq!(at(1_000_000, None), Grade::Fail);
    assert_eq!(at(1_900_000_000, Some(false)), Grade::Warn);
}

#[test]
fn what_a_file_needs_follows_from_its_targets() {
    let text =
        "forwards: { a: { to: 'k8s://c/n/service/s:1' }, b: { to: 'k8s:///n/service/s:1' }, c: { to: 'tcp://h:1' } }
gateway: { tls: local }
";
    let file = AgentFile::parse("adit.yaml", text, &|_| None).unwrap();
    let needs = Needs::of(&file);
    assert_eq!(needs.contexts, [None, Some("c".to_owned())]);
    assert_eq!((needs.ssh, needs.local_tls), (false, true));
    assert_eq!(needs.dynamic_host.as_deref(), Some("k8s.localhost"));
    assert!(needs.uses("c", None) && needs.uses("d", Some("d")) && !needs.uses("e", Some("d")));
}

#[test]
fn a_kernel_that_takes_no_programs_is_told_with_what_to_do_and_missing_rights_are_no_trouble() {
    let mut facts = facts();
    assert_eq!(kernel(&facts.kernel).message, "kernel 6.1, BTF; without sudo it polls, as CAP_BPF is missing");
    facts.kernel = Kernel {
        btf: false,
        kernel: Some(Trouble { hint: Some("another".into()), ..trouble("there are no types") }),
        ..facts.kernel
    };
    let check = kernel(&facts.kernel);
    assert_eq!((check.grade, check.fix.as_deref()), (Grade::Warn, Some("another")));
    assert_eq!(check.message, "kernel 6.1, no BTF: adit monitor polls, as there are no types");
    let well = Kernel { release: "6.1".into(), btf: true, rights: None, kernel: None };
    assert_eq!(kernel(&well).message, "kernel 6.1, BTF, and the rights for its programs");
}
