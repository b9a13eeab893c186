//! Secrets, admin surfaces, full disks, taken ports (S6, S13, S18).

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use testkit::origin::HttpOrigin;
use testkit::process;
use testkit::raw;

use super::wire::RawAgent;
use crate::support::{DEADLINE, Publish, Server, adit, eventually};

/// Everything a program said or wrote that somebody could read later.
fn written(server: &Server) -> String {
    let mut all = server.process().output();
    for file in ["audit.jsonl", "access.log", "names.json", "tokens.json"] {
        all += &std::fs::read_to_string(server.data_dir().join(file)).unwrap_or_default();
    }
    all
}

#[tokio::test]
async fn s6_no_token_is_shown_anywhere_at_the_highest_log_level() {
    let server = Server::setup().arguments(&["-vv"]).start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let token = server.token("acme");
    let agent = Publish::with_token(&server, &token)
        .http("app1", origin.addr())
        .arguments(&["-vv", "--metrics", "127.0.0.1:0"])
        .start()
        .await;
    assert_eq!(server.get("app1", "/?q=1").await.status, 200);
    let wrong = format!("adit_{}", "Zz9".repeat(15).get(..43).unwrap());
    let refused =
        Publish::with_token(&server, &wrong).http("app2", origin.addr()).arguments(&["-vv"]).errors_expected().spawn();
    assert_eq!(refused.exit_code(DEADLINE).await, Some(3));
    let password = "hunter2-is-no-token";
    assert!(RawAgent::with_token(&server, password, "a").await.is_err());
    let other = server.token("acme");
    agent.set_token(&other);
    agent.says("token renewed").await;
    let secret_of = |token: &str| token.trim_start_matches("adit_").to_owned();
    let mut all = written(&server) + &agent.process().output() + &refused.process().output();
    all += &server.admin("/metrics").await.text();
    all += &server.admin("/tunnels").await.text();
    all += &server.admin("/health/detailed").await.text();
    let command_lines = [server.process().pid(), agent.process().pid()]
        .map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap());
    all += &command_lines.map(|line| String::from_utf8_lossy(&line).into_owned()).concat();
    for secret in [&token, &wrong, &other] {
        assert!(!all.contains(secret.as_str()) && !all.contains(&secret_of(secret)), "a token is shown");
        assert!(!all.contains(&secret_of(secret)[..16]), "a part of a token is shown");
    }
    assert!(!all.contains(password), "what was tried is shown");
    assert!(all.contains("agent connected") && all.contains("agent refused"), "there was something to be shown");
}

#[tokio::test]
async fn s6_no_resume_secret_and_no_query_is_logged() {
    let server = Server::setup().arguments(&["-vv"]).start().await;
    let mut agent = RawAgent::publishing(&server, "app1").await;
    let serve = async {
        let (stream, _) = agent.wire.opened().await;
        agent.wire.answer_text(stream, "ok").await.unwrap();
    };
    let (answer, ()) = tokio::join!(server.get("app1", "/path?password=swordfish"), serve);
    assert_eq!(answer.status, 200);
    server.accessed(|line| line.contains("/path")).await;
    let all = written(&server);
    assert!(!all.contains("swordfish"), "a query is logged");
    assert!(!all.contains(agent.welcome.resume_secret.expose()), "a resume secret is logged");
}

#[tokio::test]
async fn s6_a_token_file_open_to_others_is_refused_with_the_way_to_mend_it() {
    let server = Server::start().await;
    let path = server.token_file("loose", &server.token("acme"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = adit(server.dir());
    command.args(["expose", "3000", "--server", &server.agents.to_string(), "--fingerprint", &server.fingerprint]);
    command.arg("--token-file").arg(&path);
    let (status, said) = process::run(&mut command, b"", DEADLINE).unwrap();
    assert_eq!(status.code(), Some(2), "{}", said.output());
    assert!(said.stderr().contains(&format!("hint: chmod 600 {}", path.display())), "{}", said.stderr());
    // The server's own file of hashes, too.
    let tokens = server.data_dir().join("tokens.json");
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o640)).unwrap();
    let mut command = adit(server.dir());
    command.args(["server", "token", "list", "--config"]).arg(server.config_path());
    let (status, said) = process::run(&mut command, b"", DEADLINE).unwrap();
    assert_eq!(status.code(), Some(2), "{}", said.output());
    assert!(said.stderr().contains("chmod 600 "), "{}", said.stderr());
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn s6_a_token_is_no_argument_and_files_with_secrets_are_their_owners_alone() {
    let server = Server::start().await;
    let token = server.token("acme");
    let mut command = adit(server.dir());
    command.args(["expose", "3000", "--server", "127.0.0.1:1", "--token", &token]);
    let (status, said) = process::run(&mut command, b"", DEADLINE).unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(!said.stdout().contains(&token));
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o077;
    for entry in std::fs::read_dir(server.data_dir()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.contains("key")
            || name.contains("token")
            || name.ends_with(".pem") && std::fs::read_to_string(&path).unwrap().contains("PRIVATE")
        {
            assert_eq!(mode(&path), 0, "{name} is open to others");
        }
    }
}

#[tokio::test]
async fn s13_the_admin_server_is_for_this_machine_and_its_names_alone() {
    let server = Server::start().await;
    for host in ["evil.example", "app1.localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""] {
        let answer = raw::get(server.admin, host, "/metrics").await.unwrap();
        assert!(matches!(answer.status, 400 | 403), "{host}: {}", answer.status);
        assert!(!answer.text().contains("tunnel_"), "{host}");
    }
    for (method, target) in [("POST", "/metrics"), ("DELETE", "/tunnels"), ("PUT", "/health")] {
        let host = server.admin.to_string();
        let answer = raw::request(server.admin, method, &host, target, &[], b"").await.unwrap();
        assert_eq!(answer.status, 405);
    }
    for path in ["/../../etc/passwd", "//metrics/..", "/%2e%2e/", "/health/../metrics"] {
        assert_eq!(server.admin(path).await.status, 404, "{path}");
    }
    // Nothing of it on the visitors' port.
    assert_eq!(raw::get(server.public, "localhost", "/metrics").await.unwrap().status, 404);
}

#[tokio::test]
async fn s13_admin_and_metrics_refuse_public_addresses() {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = adit(home.path());
        let (status, said) = process::run(command.args(arguments), b"", DEADLINE).unwrap();
        (status.code(), said.stderr())
    };
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9090"] {
        let server = [
            "server",
            "--public-listen",
            "127.0.0.1:0",
            "--agents-listen",
            "127.0.0.1:0",
            "--data-dir",
            "d",
            "--admin-listen",
            address,
        ];
        let (code, said) = run(&server);
        assert_eq!(code, Some(2), "{address}: {said}");
        assert!(said.contains("admin.listen") && said.contains("hint: "), "{said}");
        std::fs::write(home.path().join("token"), "adit_x").unwrap();
        std::fs::set_permissions(home.path().join("token"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let (code, said) =
            run(&["expose", "3000", "--server", "127.0.0.1:1", "--token-file", "token", "--metrics", address]);
        assert_eq!(code, Some(2), "{address}: {said}");
        assert!(said.contains("hint: "), "{said}");
    }
}

/// Local addresses a process listens on, in the kernel's hex form.
fn listening(pid: u32) -> Vec<String> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs");
    let sockets: Vec<String> = descriptors
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned))
        .collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        for line in std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[3] == "0A" && sockets.iter().any(|inode| inode == fields[9]) {
                found.push(fields[1].split(':').next().expect("an address").to_owned());
            }
        }
    }
    found
}

#[tokio::test]
async fn s18_the_demo_and_the_agent_listen_on_loopback_alone() {
    let home = tempfile::tempdir().unwrap();
    let demo = process::Process::start(adit(home.path()).arg("demo")).unwrap();
    demo.line(DEADLINE, |line| line.starts_with("http://hello.localhost:")).await.unwrap();
    let listeners = listening(demo.pid());
    assert!(listeners.len() >= 4, "{listeners:?}");
    assert!(listeners.iter().all(|address| address == "0100007F"), "{listeners:?}");

    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let agent = Publish::to(&server).http("app1", origin.addr()).arguments(&["--metrics", "127.0.0.1:0"]).start().await;
    let listeners = listening(agent.process().pid());
    assert_eq!(listeners, ["0100007F"], "metrics, when asked for, and nothing else");
}

#[tokio::test]
async fn a_full_disk_for_both_logs_stops_nobody() {
    let server = Server::setup().section("log: { access: /dev/full, audit: /dev/full }").start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let _agent = Publish::to(&server).http("app1", origin.addr()).start().await;
    for _ in 0..50 {
        assert_eq!(server.get("app1", "/").await.status, 200);
    }
    let said = server.process().stderr();
    assert!(
        said.lines().filter(|line| line.contains("No space left")).count() < 20,
        "a full disk is not said for each line: {said}"
    );
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_written_stops_nobody_and_is_said() {
    let server = Server::start().await;
    // As good as read-only, and works for root too: a directory where the new file is to be.
    std::fs::create_dir(server.data_dir().join("names.new")).unwrap();
    let origin = HttpOrigin::start().await.unwrap();
    let _agent = Publish::to(&server).http("app1", origin.addr()).start().await;
    eventually(DEADLINE, "a word about it", || async {
        server.process().stderr().contains("name reservations cannot be saved").then_some(())
    })
    .await;
    assert_eq!(server.get("app1", "/").await.status, 200);
    std::fs::remove_dir(server.data_dir().join("names.new")).unwrap();
    eventually(DEADLINE, "they are saved after all", || async {
        std::fs::read_to_string(server.data_dir().join("names.json"))
            .is_ok_and(|text| text.contains("app1"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_holder_and_a_free_one() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = tempfile::tempdir().unwrap();
    for option in ["--public-listen", "--agents-listen", "--admin-listen"] {
        let mut command: Command = adit(home.path());
        command.args(["server", "--data-dir", "d"]);
        for each in ["--public-listen", "--agents-listen", "--admin-listen"] {
            command.args([each, if each == option { &address } else { "127.0.0.1:0" }]);
        }
        let (status, said) = process::run(&mut command, b"", DEADLINE).unwrap();
        let said = said.stderr();
        assert_eq!(status.code(), Some(2), "{said}");
        let port = address.rsplit(':').next().unwrap();
        assert!(said.contains(&format!("port {port} on 127.0.0.1 is taken by")), "{said}");
        assert!(said.contains(&format!("pid {}", std::process::id())), "{said}");
        assert!(said.contains("hint: ") && said.contains("free"), "{said}");
    }
}
