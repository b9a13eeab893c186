//! Start and end of the daemon, and what is in its way.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, Signal, kill_process};

use testkit::ws::WebSocket;

use super::support::{Place, get, is_alive};
use crate::support::{DEADLINE, Server, eventually, write_secret};

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("a signal");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_in_the_background_forwards_and_ends_when_asked() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", start: always, tags: [a]")));
    let pid = place.start();
    assert!(is_alive(pid));
    assert_eq!(get(place.entrance("web")).await, Some(200));
    let status = place.json(&["status"]);
    assert_eq!(status["daemon"]["pid"], pid);
    assert_eq!(status["summary"]["running"], 1);
    assert_eq!(status["services"][0]["status"], "running");
    let port = place.entrance("web");
    place.ok(&["daemon", "stop"]);
    assert!(get(port).await.is_none(), "its port is closed");
    let gone = || async { (!is_alive(pid)).then_some(()) };
    eventually(DEADLINE, "the process ends", gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_refuses_to_publish_is_in_the_status_until_it_is_granted() {
    let place = Place::new().await;
    let server = Server::start().await;
    let token = place.home.path().join("token");
    write_secret(&token, "adit_nobody").expect("the token file");
    let (agents, fingerprint, origin) = (server.agents, &server.fingerprint, place.origin.addr());
    place.write(&format!(
        "publish:\n  server: \"{agents}\"\n  fingerprint: \"{fingerprint}\"\n  token_file: token\n  tunnels:\n    \
         shop: {{ to: \"http://{origin}\" }}\n"
    ));
    place.start();
    let published = |state: &'static str| {
        let place = &place;
        move || async move {
            let tunnel = place.json(&["status"])["published"][0].clone();
            (tunnel["state"] == state).then_some(tunnel)
        }
    };
    let tunnel = eventually(DEADLINE, "that it is refused", published("refused")).await;
    assert!(tunnel["reason"].as_str().is_some_and(|reason| reason.contains("invalid_token")), "{tunnel}");
    let table = place.ok(&["status"]);
    assert!(table.contains("published shop  refused") && table.contains("invalid_token"), "{table}");
    assert_eq!(place.log().matches("\"event\":\"failed\"").count(), 1, "{}", place.log());
    write_secret(&token, &server.token("acme")).expect("the token file");
    eventually(DEADLINE, "that it is published", published("online")).await;
    // Streams are those that are open, whatever was asked before.
    for _ in 0..2 {
        assert_eq!(server.get("shop", "/").await.status, 200);
    }
    let streams = |count: u64| {
        let place = &place;
        move || async move { (place.json(&["status"])["published"][0]["streams"] == count).then_some(()) }
    };
    eventually(DEADLINE, "that none is open", streams(0)).await;
    let socket = WebSocket::connect(server.public, &server.host("shop"), "/ws").await.expect("it works");
    eventually(DEADLINE, "an open stream", streams(1)).await;
    drop(socket);
    eventually(DEADLINE, "its end", streams(0)).await;
    assert_eq!(place.json(&["status"])["published"][0]["requests"], 3);
    place.ok(&["daemon", "stop"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn up_beside_the_daemon_of_the_same_file_says_that_it_is_that_one() {
    let place = Place::new().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it has one").port();
    place.write(&format!("forwards:\n{}", place.forward("web", free, "")));
    place.start();
    let (_, said) = place.fails(&["up"]);
    assert!(said.contains("the daemon, which runs this very file"), "{said}");
    assert!(said.contains("`adit daemon stop`") && !said.contains("which is free"), "{said}");
    let other = place.home.path().join("other.yaml");
    std::fs::copy(place.home.path().join("adit.yaml"), &other).expect("a copy");
    let (_, said) = place.fails(&["up", "-f", &other.display().to_string()]);
    assert!(said.contains("is taken by adit") && said.contains("which is free"), "{said}");
    place.ok(&["daemon", "stop"]);
}

#[tokio::test]
async fn without_a_daemon_every_command_says_how_to_start_one() {
    let place = Place::new().await;
    for command in [&["status"][..], &["start", "web"], &["stop", "--all"], &["daemon", "stop"], &["daemon", "reload"]]
    {
        let (code, text) = place.fails(command);
        assert_eq!(code, 4, "{text}");
        assert!(text.contains("no daemon runs") && text.contains("adit daemon start"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let pid = place.start();
    let (code, text) = place.fails(&["daemon", "start"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains(&format!("pid {pid}")), "{text}");
    assert!(is_alive(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_race_to_start_one_wins_and_the_other_names_it() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let starts: Vec<_> = (0..4)
        .map(|_| {
            let mut command = place.command(&["-o", "json", "daemon", "start"]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().expect("it starts")
        })
        .collect();
    let ended: Vec<_> = starts.into_iter().map(|child| child.wait_with_output().expect("it ends")).collect();
    let won = ended.iter().filter(|output| output.status.success()).count();
    assert_eq!(won, 1, "{ended:?}");
    for lost in ended.iter().filter(|output| !output.status.success()) {
        let text = String::from_utf8_lossy(&lost.stderr);
        assert!(text.contains("a daemon runs already"), "{text}");
    }
    place.ok(&["status"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_the_stale_socket_is_replaced_and_wishes_are_kept() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}{}", place.forward("a", 0, ", start: always"), place.forward("b", 0, "")));
    let pid = place.start();
    place.ok(&["stop", "a"]);
    place.ok(&["start", "b"]);
    signal(pid, Signal::KILL);
    let gone = || async { (!is_alive(pid)).then_some(()) };
    eventually(DEADLINE, "the process ends", gone).await;
    assert!(place.socket().exists(), "a stale socket");
    let (_, text) = place.fails(&["status"]);
    assert!(text.contains("no daemon runs"), "{text}");
    // The last of its threads may hold the lock a moment longer.
    let started = || async { place.run(&["daemon", "start"]).status.success().then_some(()) };
    eventually(DEADLINE, "another daemon starts", started).await;
    assert_eq!(place.status("a")["status"], "stopped");
    assert_eq!(place.status("b")["start"], "on-demand");
    assert_eq!(place.status("b")["wish"], "started");
}

#[tokio::test]
async fn a_file_with_mistakes_is_told_to_whoever_starts_it() {
    let place = Place::new().await;
    place.write("forwards: { web: { to: \"tcp://127.0.0.1:1\", lisen: 1 } }\n");
    let (code, text) = place.fails(&["daemon", "start"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("lisen"), "{text}");
}

#[tokio::test]
async fn s18_a_runtime_directory_that_others_can_write_is_refused() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let directory = place.home.path().join("state/adit/run");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).unwrap();
    let (code, text) = place.fails(&["daemon", "start"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("can be written by other users"), "{text}");
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s18_another_user_is_not_answered_even_where_the_socket_lets_him_in() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can be another user");
        return;
    }
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let pid = place.start();
    // As if somebody had opened the way to it.
    let home = place.home.path();
    for directory in ["", "state", "state/adit", "state/adit/run"] {
        std::fs::set_permissions(home.join(directory), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::set_permissions(place.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    let ask = |user: &str, verb: &str, path: &str| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", user, "--regid", user, "--clear-groups", "curl", "-s", "-m", "10", "-X", verb]);
        command.arg("--unix-socket").arg(place.socket()).arg(format!("http://adit{path}"));
        let output = command.output().expect("setpriv and curl run");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert!(ask("0", "GET", "/v1/status").1.contains("\"services\""));
    for (verb, path) in [("GET", "/v1/status"), ("POST", "/v1/shutdown")] {
        let (code, text) = ask("65534", verb, path);
        assert!(code != Some(0) && text.is_empty(), "{code:?}: {text}");
    }
    assert!(is_alive(pid));
    // He has come as far as that.
    let refusals = || async { (place.log().matches("refused a process of another user").count() == 2).then_some(()) };
    eventually(DEADLINE, "both are told", refusals).await;
    place.ok(&["status"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reload_report_and_end_it() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let pid = place.start();
    signal(pid, Signal::USR2);
    place.logged("\"event\":\"report\"").await;
    signal(pid, Signal::USR1);
    place.logged("\"event\":\"reloaded\"").await;
    signal(pid, Signal::TERM);
    let gone = || async { (!is_alive(pid)).then_some(()) };
    eventually(DEADLINE, "the process ends", gone).await;
    assert!(place.log().contains("\"event\":\"ended\""), "{}", place.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_no_logs_stops_nothing() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", start: always")));
    let logs = place.home.path().join("state/adit/logs");
    std::fs::create_dir_all(logs.parent().unwrap()).unwrap();
    std::fs::write(&logs, "").unwrap();
    place.start();
    assert_eq!(get(place.entrance("web")).await, Some(200));
    let lost = || async { (place.json(&["status"])["daemon"]["lost_log_entries"].as_u64() > Some(0)).then_some(()) };
    eventually(DEADLINE, "what is lost is counted", lost).await;
    place.ok(&["daemon", "stop"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_answers_json_with_its_description_and_refuses_what_it_does_not_know() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    place.start();
    let ask = |request: &str| asked(&place, request);
    assert!(ask("GET /v1/forwards").contains("\"summary\""));
    assert!(ask("GET /v1/forwards/web").contains("\"name\":\"web\""));
    assert!(ask("GET /v1/openapi.json").contains("/v1/forwards/{name}/restart"));
    assert!(ask("GET /v1/forwards/other").starts_with("HTTP/1.1 404"));
    assert!(ask("GET /").starts_with("HTTP/1.1 404"));
    assert!(ask("DELETE /v1/forwards/web").starts_with("HTTP/1.1 405"));
    assert!(ask("POST /v1/forwards/web/jump").starts_with("HTTP/1.1 404"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_that_is_described_is_answered() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("db", 0, "")));
    place.start();
    let described = asked(&place, "GET /v1/openapi.json");
    let described: serde_json::Value = serde_json::from_str(described.split_once("\r\n\r\n").unwrap().1).unwrap();
    for (path, verbs) in described["paths"].as_object().unwrap() {
        for verb in verbs.as_object().unwrap().keys() {
            // These two end the process that is asked; other tests have them. The events go on.
            if ["/v1/shutdown", "/v1/handover", "/v1/events"].contains(&path.as_str()) {
                continue;
            }
            let request = format!("{} {}", verb.to_uppercase(), path.replace("{name}", "db"));
            let answer = asked(&place, &request);
            let several = ["/v1/start", "/v1/stop", "/v1/restart"].contains(&path.as_str());
            // Without a body nothing is chosen, which is a mistake that they describe.
            let expected = if several { "HTTP/1.1 400" } else { "HTTP/1.1 200" };
            assert!(answer.starts_with(expected), "{request}: {answer}");
            let status = &verbs[verb]["responses"][&expected[9..]];
            assert!(status.is_object(), "{request}: {expected} is not described");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_of_the_reference_works() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("db", 0, ", tags: [dev]")));
    place.start();
    place.ok(&["start", "db"]);
    // Where the page says that the socket is.
    let runtime = place.home.path().join("x");
    std::fs::create_dir(&runtime).unwrap();
    std::os::unix::fs::symlink(place.home.path().join("state/adit/run"), runtime.join("adit")).unwrap();
    let page = include_str!("../../../../../docs/reference/api.md");
    let guide = include_str!("../../../../../docs/guide/daemon.md");
    let all = page.lines().chain(guide.lines()).filter_map(|line| line.strip_prefix("$ "));
    let mut examples: Vec<&str> = all.filter(|line| line.starts_with("curl --unix-socket")).collect();
    assert!(examples.len() >= 19, "{examples:?}");
    // These end the process that is asked.
    examples.sort_by_key(|line| line.contains("/handover") || line.contains("/shutdown"));
    examples.retain(|line| !line.contains("/handover"));
    for example in examples {
        let goes_on = example.contains(" -N ");
        // What goes on is read for a moment.
        let fast = if goes_on { "curl --max-time 1 " } else { "curl " };
        let line = example.replacen("curl ", fast, 1).replacen("curl ", "curl --silent --show-error --fail ", 1);
        let mut command = std::process::Command::new("sh");
        let output = command.args(["-c", &line]).env("XDG_RUNTIME_DIR", &runtime).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let is_cut = goes_on && output.status.code() == Some(28);
        assert!(output.status.success() || is_cut, "{line}: {errors}{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_name_is_answered_with_the_one_that_is_meant() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("database", 0, "")));
    place.start();
    let requests = ["GET /v1/forwards/databse", "POST /v1/forwards/databse/start", "POST /v1/forwards/databse/stop"];
    for request in requests {
        let answer = asked(&place, request);
        assert!(answer.starts_with("HTTP/1.1 404"), "{request}: {answer}");
        assert!(answer.contains("there is no forward `databse`"), "{request}: {answer}");
        assert!(answer.contains("did you mean `database`?"), "{request}: {answer}");
    }
    let answer = asked(&place, "POST /v1/forwards/quite-another/restart");
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("there are: database"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_in_another_way_is_answered_with_the_way() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    place.start();
    for (request, allow) in [
        ("GET /v1/reload", "POST"),
        ("GET /v1/stop", "POST"),
        ("GET /v1/forwards/web/start", "POST"),
        ("POST /v1/status", "GET, HEAD"),
        ("DELETE /v1/forwards/web", "GET, HEAD"),
    ] {
        let answer = asked(&place, request).to_lowercase();
        assert!(answer.starts_with("http/1.1 405"), "{request}: {answer}");
        assert!(answer.contains(&format!("\r\nallow: {}\r\n", allow.to_lowercase())), "{request}: {answer}");
    }
    assert!(asked(&place, "GET /v1/nothing").starts_with("HTTP/1.1 404"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_the_daemon_does_not_have_is_told_to_be_that_of_its_start() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    place.start();
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", description: \"${ADIT_TEST_NOT_SET}\"")));
    let (code, text) = place.fails(&["daemon", "reload"]);
    let hint = "the daemon has the environment of its start: adit daemon stop, then adit daemon start";
    assert!(code == 2 && text.contains("ADIT_TEST_NOT_SET") && text.contains(hint), "{text}");
    let (_, text) = place.fails(&["daemon", "restart"]);
    assert!(text.contains(hint), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_file_the_daemon_runs_is_told_to_whoever_names_another() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    place.start();
    let other = place.home.path().join("other.yaml");
    std::fs::copy(place.home.path().join("adit.yaml"), &other).unwrap();
    let own = place.home.path().join("adit.yaml").display().to_string();
    let other = other.display().to_string();
    let (code, text) = place.fails(&["status", "--config", &other]);
    assert!(code == 2 && text.contains(&format!("the daemon runs {own}")), "{text}");
    place.ok(&["status", "--config", &own]);
    // None of them does what it does for a file that is not the daemon's.
    let silent: [&[&str]; 6] = [
        &["daemon", "reload"],
        &["daemon", "status"],
        &["daemon", "stop"],
        &["start", "web"],
        &["stop", "web"],
        &["restart", "web"],
    ];
    for arguments in silent {
        let (code, text) = place.fails(&[arguments, &["--config", &other]].concat());
        assert!(code == 2 && text.contains(&format!("the daemon runs {own}")), "{arguments:?}: {text}");
        assert!(text.contains("hint: "), "{arguments:?}: {text}");
    }
    place.ok(&["daemon", "reload", "--config", &own]);
    let (_, text) = place.fails(&["daemon", "start", "--config", &other]);
    assert!(text.contains("a daemon runs already") && text.contains(&format!("that one runs {own}")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_cuts_something_has_an_exit_code_of_its_own() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let mut daemon = place.command(&["daemon", "start", "--foreground"]).spawn().unwrap();
    let ready = || async { place.run(&["status"]).status.success().then_some(()) };
    eventually(DEADLINE, "it answers", ready).await;
    let _live = std::net::TcpStream::connect(place.entrance("web")).unwrap();
    let connected = || async { (place.status("web")["streams"] == 1).then_some(()) };
    eventually(DEADLINE, "one stream", connected).await;
    signal(daemon.id(), Signal::TERM);
    place.logged("\"event\":\"stopping\"").await;
    signal(daemon.id(), Signal::TERM);
    assert_eq!(daemon.wait().unwrap().code(), Some(6), "not 1, after which systemd would start it again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_logs_that_has_paused_does_not_hold_up_the_end() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let logs = place.home.path().join("state/adit/logs");
    std::fs::create_dir_all(&logs).unwrap();
    // More than the sockets between them take.
    let line = format!("{{\"time\":\"2026-01-31T08:00:00Z\",\"level\":\"info\",\"text\":\"{}\"}}\n", "x".repeat(900));
    std::fs::write(logs.join("daemon.log"), line.repeat(9000)).unwrap();
    place.start();
    let mut paused = UnixStream::connect(place.socket()).unwrap();
    paused.write_all(b"GET /v1/logs?lines=9000&follow=true HTTP/1.1\r\nHost: adit\r\n\r\n").unwrap();
    // It has begun to answer, and nobody reads on.
    paused.set_read_timeout(Some(DEADLINE)).unwrap();
    paused.read_exact(&mut [0; 64]).unwrap();
    let ended = place.json(&["daemon", "stop"]);
    assert!(ended["took_ms"].as_u64() < Some(5000), "{ended}");
}

/// What the control socket answers to a request without a body.
fn asked(place: &Place, request: &str) -> String {
    let mut stream = UnixStream::connect(place.socket()).expect("the socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    stream
        .write_all(format!("{request} HTTP/1.1\r\nHost: adit\r\nConnection: close\r\n\r\n").as_bytes())
        .expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_told_as_they_happen() {
    use std::io::BufRead as _;
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", start: always")));
    place.start();
    let mut stream = UnixStream::connect(place.socket()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: adit\r\n\r\n").unwrap();
    let mut lines = std::io::BufReader::new(stream).lines().map(|line| line.unwrap());
    assert!(lines.next().unwrap().starts_with("HTTP/1.1 200"));
    // Its head is there, so whatever happens from now on is told.
    assert!(lines.by_ref().any(|line| line.is_empty()));
    place.ok(&["stop", "web"]);
    let event = lines.filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok());
    let mut event = event.filter(|event| event["event"] == "stopped");
    let event = event.next().expect("it is told");
    assert!(event["name"] == "web" && event["text"] == "web: stopped by a user", "{event}");
}
