//! What the program says at the command line: help, mistakes, exit codes. Read the snapshots with a stranger's eyes.

use std::path::Path;
use std::time::{Duration, Instant};

use testkit::process::{self, Process, Signal};
use testkit::raw;

use crate::support::{DEADLINE, Server, adit};

/// Runs `adit` in `home`, and tells exit code, stdout and stderr in one text.
pub(crate) fn run(home: &Path, arguments: &[&str]) -> String {
    let mut command = adit(home);
    command.env("COLUMNS", "100");
    let (status, said) = process::run(command.args(arguments), b"", DEADLINE).expect("adit ends");
    let code = status.code().map_or_else(|| "none".to_owned(), |code| code.to_string());
    let text = format!("exit code {code}\n---- stdout\n{}---- stderr\n{}", said.stdout(), said.stderr());
    text.replace(env!("CARGO_PKG_VERSION"), "VERSION").replace(&home.display().to_string(), "HOME")
}

/// Hides what differs from run to run: ports behind 127.0.0.1, fingerprints, milliseconds.
fn steady(text: &str) -> String {
    let mut text = text.to_owned();
    for start in ["127.0.0.1:", "sha256:"] {
        let mut out = String::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find(start) {
            let (before, after) = rest.split_at(at + start.len());
            out.push_str(before);
            let end = after.find(|c: char| !(c.is_ascii_hexdigit() || c == ':')).unwrap_or(after.len());
            let end = after[..end].trim_end_matches(':').len();
            out.push_str(if end > 0 { "…" } else { "" });
            rest = &after[end..];
        }
        text = out + rest;
    }
    let words = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let timed = |at: usize| words.get(at + 1) == Some(&"ms") && words[at].bytes().all(|b| b.is_ascii_digit());
        (0..words.len()).map(|at| if timed(at) { "…" } else { words[at] }).collect::<Vec<_>>().join(" ") + "\n"
    };
    text.lines().map(words).collect()
}

pub(crate) fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[test]
fn a_command_that_is_one_level_deeper_is_told_where() {
    let home = home();
    let said = run(home.path(), &["reload"]);
    assert!(said.contains("exit code 2") && said.contains("'daemon reload'"), "{said}");
    let said = run(home.path(), &["config", "restart"]);
    assert!(said.contains("'daemon restart'"), "{said}");
    let said = run(home.path(), &["frobnicate"]);
    assert!(!said.contains("similar"), "{said}");
}

#[test]
fn help_is_written_for_who_reads_it_first() {
    let home = home();
    insta::assert_snapshot!("help", run(home.path(), &["--help"]));
    insta::assert_snapshot!("help_expose", run(home.path(), &["expose", "--help"]));
    insta::assert_snapshot!("help_server", run(home.path(), &["server", "--help"]));
    insta::assert_snapshot!("help_server_token", run(home.path(), &["server", "token", "--help"]));
    insta::assert_snapshot!("help_server_token_create", run(home.path(), &["server", "token", "create", "--help"]));
    insta::assert_snapshot!("help_trust", run(home.path(), &["trust", "--help"]));
    insta::assert_snapshot!("help_doctor", run(home.path(), &["doctor", "--help"]));
    insta::assert_snapshot!("version", run(home.path(), &["--version"]));
}

#[test]
fn mistakes_at_the_command_line_are_answered_with_what_to_type() {
    let home = home();
    insta::assert_snapshot!("no_arguments", run(home.path(), &[]));
    insta::assert_snapshot!("unknown_command", run(home.path(), &["exposse", "3000"]));
    insta::assert_snapshot!("unknown_option", run(home.path(), &["expose", "3000", "--nam", "x"]));
    insta::assert_snapshot!("bad_target", run(home.path(), &["expose", "htp://x", "--server", "localhost"]));
    insta::assert_snapshot!(
        "ssh_password",
        run(home.path(), &["expose", "ssh://me:hunter2@bastion/db:5432", "--server", "localhost"])
    );
    insta::assert_snapshot!("bad_server", run(home.path(), &["expose", "3000", "--server", "http://x"]));
    insta::assert_snapshot!(
        "bad_name",
        run(home.path(), &["expose", "3000", "--server", "localhost", "--as", "Not a name"])
    );
    insta::assert_snapshot!(
        "bad_port",
        run(home.path(), &["expose", "tcp://127.0.0.1:1", "--server", "localhost", "--port", "99999"])
    );
    insta::assert_snapshot!("no_config", run(home.path(), &["server", "--config", "missing.yaml"]));
    insta::assert_snapshot!("nothing_to_check", run(home.path(), &["config", "check"]));
    insta::assert_snapshot!(
        "token_without_names",
        run(home.path(), &["server", "token", "create", "--account", "acme"])
    );
    insta::assert_snapshot!(
        "token_of_nobody",
        run(home.path(), &["server", "token", "revoke", "t000000000000", "--data-dir", "d"])
    );
    insta::assert_snapshot!(
        "token_with_a_bad_life",
        run(
            home.path(),
            &["server", "token", "create", "--account", "a", "--allow", "*", "--expires", "soon", "--data-dir", "d"]
        )
    );
}

#[test]
fn expose_says_what_it_needs() {
    let home = home();
    insta::assert_snapshot!("expose_without_target", run(home.path(), &["expose"]));
    insta::assert_snapshot!("expose_without_server", run(home.path(), &["expose", "3000"]));
    insta::assert_snapshot!("expose_without_token", run(home.path(), &["expose", "3000", "--server", "localhost:1"]));
    insta::assert_snapshot!(
        "expose_without_token_json",
        run(home.path(), &["expose", "3000", "--server", "localhost:1", "-o", "json"])
    );
    insta::assert_snapshot!(
        "expose_bad_fingerprint",
        run(home.path(), &["expose", "3000", "--server", "localhost:1", "--fingerprint", "sha256:12"])
    );
}

const FIVE_OF_A_SERVER: &str = "version: 1
public:
  listen: 0.0.0.0:99999
  base_domian: example.com
limits:
  header_timeout: 10 parsecs
quotas: { agents: many }
admin:
  listen: 0.0.0.0:9090
";

const FIVE_OF_AN_AGENT: &str = "version: 1
publish:
  server: https://example.com
  lanes: 99
  tokenfile: /dev/null
  tunnels:
    app1: { to: 70000 }
    Bad_Name!: { to: 3000 }
";

#[test]
fn a_configuration_with_five_mistakes_is_told_all_of_them() {
    let home = home();
    std::fs::write(home.path().join("server.yaml"), FIVE_OF_A_SERVER).expect("a file");
    std::fs::write(home.path().join("adit.yaml"), FIVE_OF_AN_AGENT).expect("a file");
    let said = run(home.path(), &["server", "--config", "server.yaml"]);
    for key in ["public.listen", "base_domian", "limits.header_timeout", "quotas.agents", "admin.listen"] {
        assert!(said.contains(key), "{key}: {said}");
    }
    assert!(said.starts_with("exit code 2"), "{said}");
    assert_eq!(said.matches("server.yaml:").count(), 5, "{said}");
    assert_eq!(said.matches("hint: ").count(), 5, "{said}");
    insta::assert_snapshot!("five_mistakes_server", said);
    let said = run(home.path(), &["expose", "--config", "adit.yaml"]);
    assert!(said.starts_with("exit code 2"), "{said}");
    assert_eq!(said.matches("adit.yaml:").count(), 5, "{said}");
    assert_eq!(said.matches("hint: ").count(), 5, "{said}");
    insta::assert_snapshot!("five_mistakes_agent", said);
    insta::assert_snapshot!("five_mistakes_json", run(home.path(), &["config", "check", "server.yaml", "-o", "json"]));
    let fine = "version: 1\npublic: { base_domain: example.com }\n";
    std::fs::write(home.path().join("server.yaml"), fine).expect("a file");
    insta::assert_snapshot!("a_good_file", run(home.path(), &["config", "check", "server.yaml"]));
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_told_apart_by_exit_code() {
    let server = Server::start().await;
    let token = server.token_file("token", &server.token("acme"));
    let token = token.to_str().expect("a path").to_owned();
    let wrong = server.token_file("wrong", &format!("adit_{}", "A".repeat(43)));
    let wrong = wrong.to_str().expect("a path").to_owned();
    let agents = server.agents.to_string();
    let run = |arguments: &[&str]| {
        let said = run(server.dir(), &[&["expose", "3000", "--as", "app1"], arguments].concat());
        steady(&said)
    };
    let zeros = format!("sha256:{}", ["00"; 32].join(":"));
    let said = run(&["--server", &agents, "--token-file", &token, "--fingerprint", &zeros]);
    assert!(said.starts_with("exit code 4"), "{said}");
    insta::assert_snapshot!("wrong_fingerprint", said);
    let said = run(&["--server", &agents, "--token-file", &token]);
    assert!(said.starts_with("exit code 4"), "{said}");
    insta::assert_snapshot!("no_trust", said);
    let said = run(&["--server", &agents, "--token-file", &wrong, "--fingerprint", &server.fingerprint]);
    assert!(said.starts_with("exit code 3"), "{said}");
    insta::assert_snapshot!("wrong_token", said);
    let said = run(&["--server", &agents, "--token-file", &wrong, "--fingerprint", &server.fingerprint, "-o", "json"]);
    assert!(said.starts_with("exit code 3"), "{said}");
    insta::assert_snapshot!("wrong_token_json", said);
    let said = run(&["--server", &agents, "--token-file", &token, "--fingerprint", &server.fingerprint, "--as", "www"]);
    assert!(said.starts_with("exit code 2"), "--as twice is a mistake: {said}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_said_once_and_tried_on() {
    let server = Server::start().await;
    let home = home();
    let free = process::free_port().expect("a port");
    for (snapshot, address) in
        [("server_unreachable", format!("127.0.0.1:{free}")), ("not_an_agents_port", server.public.to_string())]
    {
        let mut command = adit(home.path());
        command.args(["expose", "3000", "--server", &address]).env("ADIT_TOKEN", "adit_x");
        let agent = Process::start(&mut command).expect("it starts");
        agent.line(DEADLINE, |line| line.contains("hint: ")).await.expect("a hint");
        insta::assert_snapshot!(snapshot, steady(&agent.output()));
        // The time in which no second line may come, though there are several attempts.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(agent.output().matches("cannot connect").count(), 1, "{}", agent.output());
        agent.signal(Signal::INT).expect("a signal");
        assert_eq!(agent.exited(DEADLINE).await.expect("it ends").code(), Some(130));
    }
}

#[tokio::test]
async fn a_name_that_cannot_be_had_is_said_with_the_reason() {
    let server = Server::start().await;
    let token = server.token_file("token", &server.token_with("acme", &["--allow", "app*"]));
    let token = token.to_str().expect("a path").to_owned();
    for (snapshot, name) in [("name_reserved", "www"), ("name_not_allowed", "shop")] {
        let arguments = [
            "expose",
            "3000",
            "--as",
            name,
            "--server",
            &server.agents.to_string(),
            "--token-file",
            &token,
            "--fingerprint",
            &server.fingerprint,
        ];
        let said = run(server.dir(), &arguments);
        assert!(said.starts_with("exit code 3"), "{said}");
        insta::assert_snapshot!(snapshot, steady(&said));
    }
}

#[test]
fn tokens_are_made_listed_and_revoked() {
    let home = home();
    let token =
        |arguments: &[&str]| run(home.path(), &[&["server", "token"], arguments, &["--data-dir", "d"]].concat());
    let made = token(&[
        "create",
        "--account",
        "acme",
        "--allow",
        "app*",
        "--ports",
        "15000-15010",
        "--max-tunnels",
        "3",
        "-o",
        "json",
    ]);
    let line = made.lines().find(|line| line.starts_with('{')).expect("an object");
    let made: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let id = made["id"].as_str().expect("an id").to_owned();
    let secret = made["token"].as_str().expect("a token").to_owned();
    let listed = token(&["list"]);
    assert!(
        listed.contains(&id) && listed.contains("app*") && listed.contains("15000-15010") && !listed.contains(&secret),
        "{listed}"
    );
    insta::assert_snapshot!("token_revoked", token(&["revoke", &id]).replace(&id, "ID"));
    assert!(token(&["list"]).contains("revoked"));
    insta::assert_snapshot!("token_created", hidden(&token(&["create", "--account", "acme", "--allow", "app*"])));
}

/// Without the token and its id.
fn hidden(text: &str) -> String {
    let word = |word: &str| match word {
        word if word.starts_with("adit_") => "TOKEN".to_owned(),
        word if word.len() == 13 && word.starts_with('t') => "ID".to_owned(),
        word => word.to_owned(),
    };
    text.lines().map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" ") + "\n").collect()
}

#[tokio::test]
async fn the_demo_prints_an_address_that_answers_and_ends_at_once() {
    let home = home();
    let demo = Process::start(adit(home.path()).arg("demo")).expect("the demo starts");
    let url = demo.line(DEADLINE, |line| line.starts_with("http://hello.localhost:")).await.expect("an address");
    let authority = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let port: u16 = authority.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let page = raw::request(address, "GET", &authority, "/", &[("Accept", "text/html")], b"").await.expect("a page");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("<html"), "{}", page.text());
    let text = raw::get(address, &authority, "/").await.expect("the same for programs");
    assert!(text.text().starts_with("It works"), "{}", text.text());
    demo.line(DEADLINE, |line| line.contains("Ctrl-C ends it")).await.expect("the last line");
    let started = Instant::now();
    demo.signal(Signal::INT).expect("a signal");
    let status = demo.exited(DEADLINE).await.expect("it ends");
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    assert_eq!(status.code(), Some(0), "{}", demo.output());
    let left: Vec<_> = std::fs::read_dir(std::env::temp_dir())
        .expect("a directory")
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.starts_with(&format!("adit-demo-{}-", demo.pid())))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_names_of_forwards_are_completed_from_the_file_when_no_daemon_runs() {
    let home = home();
    let file = "version: 1\nforwards:\n  database: { to: 1, listen: 1, tags: [dev] }\n  web: { to: \"${NOT_SET}\", listen: 2 }\n";
    std::fs::write(home.path().join("adit.yaml"), file.replace("\"${NOT_SET}\"", "3")).unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_adit")).parent().unwrap().to_owned();
    let script = "source <(adit completions bash)\n\
        try() { COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _adit_with_names adit \"${@: -1}\" \"${@: -2:1}\"; echo \"${COMPREPLY[*]}\"; }\n\
        try adit start ''\ntry adit stop da\ntry adit status -t ''\ntry adit -f adit.yaml restart w\ntry adit start -o ''\n";
    let mut command = adit(home.path());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", script]).current_dir(home.path()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            bash.env(name, value);
        }
    }
    let output = bash.env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "database web\ndatabase\ndev\nweb\ntext json\n", "{}", String::from_utf8_lossy(&output.stderr));
    // What is mistyped in the file, or not there, is no message for whoever presses a key.
    std::fs::write(home.path().join("adit.yaml"), "forwards: nonsense").unwrap();
    let output = command.args(["complete", "forwards"]).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty());
}

#[test]
fn completions_and_the_manual_are_printed() {
    let home = home();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let said = run(home.path(), &["completions", shell]);
        assert!(said.starts_with("exit code 0") && said.contains("expose"), "{shell}");
    }
    let said = run(home.path(), &["man"]);
    assert!(said.starts_with("exit code 0") && said.contains(".TH adit"), "{said}");
    for page in ["metrics", "cli", "api"] {
        assert!(run(home.path(), &["reference", page]).starts_with("exit code 0"));
    }
}
