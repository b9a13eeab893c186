//! The units in `deploy/`: what a service manager reads, and that this program takes the arguments they give it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::process;

use crate::support::{DEADLINE, adit};

/// Where the units look for the program.
const INSTALLED: &str = "/usr/local/bin/adit";
const UNITS: [&str; 3] =
    ["systemd/adit-server.service", "systemd/user/adit-up.service", "systemd/user/adit-daemon.service"];

fn path(unit: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(unit)
}

fn read(unit: &str) -> String {
    std::fs::read_to_string(path(unit)).unwrap_or_else(|error| panic!("{unit}: {error}"))
}

/// The values of a systemd unit, by section and key.
fn keys(unit: &str) -> BTreeMap<(String, String), Vec<String>> {
    let mut keys: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in read(unit).lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            name.clone_into(&mut section);
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{unit}: {line}"));
        keys.entry((section.clone(), key.to_owned())).or_default().push(value.to_owned());
    }
    keys
}

/// Whether this program takes the arguments: `--help` behind them is answered only if all before it are known.
fn accepts(home: &Path, arguments: &[&str]) {
    let (status, said) = process::run(adit(home).args(arguments).arg("--help"), b"", DEADLINE).expect("adit ends");
    assert!(status.success() && said.stdout().contains("Usage: adit "), "{arguments:?}: {}", said.output());
}

#[test]
fn the_arguments_in_systemd_units_are_those_of_this_program() {
    let home = tempfile::tempdir().expect("a directory");
    for unit in UNITS {
        let keys = keys(unit);
        let value = |key: &str| keys.get(&("Service".to_owned(), key.to_owned())).map(|values| values.join("\n"));
        let start = value("ExecStart").expect("a program");
        for line in [Some(start), value("ExecReload")].into_iter().flatten() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[0] {
                INSTALLED => accepts(home.path(), &words[1..]),
                // The main process reads its file again.
                "/bin/kill" => assert_eq!(&words[1..], ["-HUP", "$MAINPID"], "{unit}"),
                other => panic!("{unit} runs {other}"),
            }
        }
        assert!(value("Restart").is_some() && value("LimitNOFILE").is_some(), "{unit}");
        let stop: u64 = value("TimeoutStopSec").and_then(|seconds| seconds.parse().ok()).expect("seconds");
        assert!(stop > 30, "{unit}: longer than the phases of a shutdown");
        assert!(keys.contains_key(&("Install".to_owned(), "WantedBy".to_owned())), "{unit}");
    }
}

#[test]
fn an_argument_that_is_not_this_programs_is_noticed() {
    let home = tempfile::tempdir().expect("a directory");
    let mut command = adit(home.path());
    let (status, _) = process::run(command.args(["up", "--cofnig", "x", "--help"]), b"", DEADLINE).expect("adit ends");
    assert_eq!(status.code(), Some(2));
}

#[test]
fn systemd_is_content_with_the_units() {
    let home = tempfile::tempdir().expect("a directory");
    let Ok((status, _)) = process::run(Command::new("systemd-analyze").arg("--version"), b"", DEADLINE) else {
        eprintln!("SKIPPED: there is no systemd-analyze here");
        return;
    };
    assert!(status.success());
    for unit in UNITS {
        // It looks whether the program is there.
        let text = read(unit).replace(INSTALLED, env!("CARGO_BIN_EXE_adit"));
        let name = Path::new(unit).file_name().expect("a name");
        let copy = home.path().join(name);
        std::fs::write(&copy, text).expect("the file system works");
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]).env("XDG_RUNTIME_DIR", home.path());
        if unit.contains("/user/") {
            command.arg("--user");
        }
        let (status, said) = process::run(command.arg(&copy), b"", DEADLINE).expect("it ends");
        let about: Vec<String> =
            said.output().lines().map(str::to_owned).filter(|line| line.contains("adit")).collect();
        assert!(about.is_empty(), "{unit}: {about:?}");
        // Without a system to ask, as in a container, it says nothing about units at all.
        assert!(
            status.success() || said.output().contains("Failed to initialize manager"),
            "{unit}: {}",
            said.output()
        );
    }
}

/// An element of a property list.
#[derive(Debug, Default)]
struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// The value behind a key of a dictionary.
    fn get(&self, key: &str) -> &Element {
        let at = self.children.iter().position(|child| child.name == "key" && child.text == key);
        at.and_then(|at| self.children.get(at + 1)).unwrap_or_else(|| panic!("no key {key}"))
    }
}

/// Reads XML as far as property lists use it; panics where it is not well-formed.
fn parse(text: &str) -> Element {
    let mut open = vec![Element::default()];
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        assert!(!before.contains('&'), "no entities are needed here: {before}");
        open.last_mut().expect("the document").text.push_str(before.trim());
        if let Some(comment) = tag.strip_prefix("<!--") {
            let (comment, after) = comment.split_once("-->").expect("a comment has an end");
            assert!(!comment.contains("--"), "two hyphens in a comment: {comment}");
            rest = after;
            continue;
        }
        let (inside, after) = tag[1..].split_once('>').expect("a tag has an end");
        rest = after;
        if inside.starts_with(['?', '!']) {
            assert!(open.len() == 1, "a declaration inside: {inside}");
        } else if let Some(name) = inside.strip_prefix('/') {
            let element = open.pop().expect("something is open");
            assert_eq!(element.name, name, "it is closed in its turn");
            open.last_mut().expect("something is around it").children.push(element);
        } else {
            let name = inside.trim_end_matches('/').split_whitespace().next().expect("a name").to_owned();
            let element = Element { name, ..Element::default() };
            match inside.ends_with('/') {
                true => open.last_mut().expect("the document").children.push(element),
                false => open.push(element),
            }
        }
    }
    assert!(open.len() == 1 && rest.trim().is_empty(), "it has no end: {rest}");
    open.remove(0).children.into_iter().next().expect("an element")
}

#[test]
fn the_launchd_agent_is_well_formed_and_has_what_launchd_needs() {
    let home = tempfile::tempdir().expect("a directory");
    let all = parse(&read("launchd/adit.up.plist"));
    assert_eq!((all.name.as_str(), all.children.len()), ("plist", 1));
    let agent = &all.children[0];
    assert_eq!(agent.name, "dict");
    let pairs = agent.children.chunks(2).all(|pair| pair.len() == 2 && pair[0].name == "key" && pair[1].name != "key");
    assert!(pairs, "keys and values in turn");
    assert_eq!(agent.get("Label").text, "adit.up", "as its file is called");
    let words: Vec<&str> = agent.get("ProgramArguments").children.iter().map(|word| word.text.as_str()).collect();
    assert_eq!(words[0], INSTALLED);
    accepts(home.path(), &words[1..]);
    assert_eq!(agent.get("RunAtLoad").name, "true");
    assert_eq!(agent.get("KeepAlive").get("SuccessfulExit").name, "false");
    assert!(agent.get("EnvironmentVariables").get("PATH").text.contains("/opt/homebrew/bin"));
    assert!(agent.get("ExitTimeOut").text.parse::<u64>().expect("seconds") > 30);
    for log in ["StandardOutPath", "StandardErrorPath"] {
        assert!(agent.get(log).text.starts_with('/'), "launchd knows no ~");
    }
}

/// Words that begin so, such as names of metrics.
fn words<'a>(text: &'a str, start: &str) -> impl Iterator<Item = &'a str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let start = start.to_owned();
    text.split(move |c: char| !is_part(c)).filter(move |word| word.starts_with(&start))
}

#[test]
fn the_monitors_manifest_has_arguments_of_this_program_and_the_probes_of_the_tool_before() {
    let home = tempfile::tempdir().expect("a directory");
    let text = read("monitor/base/daemonset.yaml");
    let line = text.lines().find_map(|line| line.trim().strip_prefix("args: [")).expect("arguments");
    let arguments: Vec<&str> =
        line.trim_end_matches(']').split(',').map(|word| word.trim().trim_matches('"')).collect();
    accepts(home.path(), &arguments);
    for probe in ["/liveness", "/readiness"] {
        assert!(text.contains(&format!("path: {probe}, port: health")), "{probe}");
    }
    assert!(text.contains("drop: [ALL], add: [BPF, PERFMON]") && text.contains("hostPID: true"), "{text}");
    assert!(!text.contains("privileged: true"), "{text}");
}

#[test]
fn the_monitors_board_and_alerts_ask_for_metrics_that_there_are() {
    let home = tempfile::tempdir().expect("a directory");
    let (_, said) = process::run(adit(home.path()).args(["reference", "metrics"]), b"", DEADLINE).expect("adit ends");
    let known: Vec<String> = words(&said.stdout(), "adit_").map(str::to_owned).collect();
    let board = read("monitor/grafana/adit-monitor.json");
    serde_json::from_str::<serde_json::Value>(&board).expect("JSON");
    let alerts = read("monitor/alerts.yaml");
    let mut asked = 0;
    for word in words(&board, "adit_").chain(words(&alerts, "adit_")) {
        let name = ["_total", "_info", "_bucket"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
        let is_known = known.iter().any(|known| known == name || known == word);
        assert!(is_known, "{word} is no metric of this program");
        asked += 1;
    }
    assert!(asked > 20, "{asked}");
    // The operator's form has the same rules.
    let rules = read("monitor/overlays/prometheus-operator/prometheus-rule.yaml");
    let inner: Vec<&str> = rules.lines().skip_while(|line| *line != "spec:").skip(1).collect();
    assert_eq!(inner.len(), alerts.lines().count());
    let same = |(inner, outer): (&&str, &str)| inner.strip_prefix("  ").unwrap_or_default() == outer;
    assert!(inner.iter().zip(alerts.lines()).all(same), "deploy/monitor/alerts.yaml and its copy differ");
}

#[test]
fn the_monitors_alerts_do_what_they_say() {
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts-test.yaml"]] {
        let mut command = Command::new("promtool");
        command.args(arguments).current_dir(path("monitor"));
        let Ok((status, said)) = process::run(&mut command, b"", DEADLINE) else {
            eprintln!("SKIPPED: there is no promtool here");
            return;
        };
        assert!(status.success(), "{}", said.output());
    }
}

/// What Kubernetes reads in the end: named rights and nothing else, and no file of the machine.
fn has_the_least_rights(overlay: &str, rendered: &str) {
    let lines: Vec<&str> = rendered.lines().map(str::trim).collect();
    for wanted in [
        "hostPID: true",
        "readOnlyRootFilesystem: true",
        "allowPrivilegeEscalation: false",
        "automountServiceAccountToken: false",
    ] {
        assert!(lines.contains(&wanted), "{overlay}: {wanted}");
    }
    let rights: Vec<&str> = lines.iter().skip_while(|line| **line != "capabilities:").take(6).copied().collect();
    assert_eq!(rights, ["capabilities:", "add:", "- BPF", "- PERFMON", "drop:", "- ALL"], "{overlay}");
    for unwanted in ["privileged: true", "hostNetwork: true", "hostIPC: true", "hostPath:", "- SYS_ADMIN"] {
        assert!(!lines.contains(&unwanted), "{overlay}: {unwanted}");
    }
}

#[test]
fn the_monitors_kustomizations_are_whole() {
    let Ok((status, _)) = process::run(Command::new("kubectl").args(["version", "--client"]), b"", DEADLINE) else {
        eprintln!("SKIPPED: there is no kubectl here");
        return;
    };
    assert!(status.success());
    for overlay in ["monitor", "monitor/base", "monitor/overlays/prometheus-operator"] {
        let mut command = Command::new("kubectl");
        let (status, said) =
            process::run(command.arg("kustomize").arg(path(overlay)), b"", DEADLINE).expect("kubectl ends");
        assert!(status.success() && said.stdout().contains("kind: DaemonSet"), "{overlay}: {}", said.output());
        has_the_least_rights(overlay, &said.stdout());
    }
}
