//! Single forwards of the running daemon, its logs and its reload.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use testkit::sshd::Sshd;

use super::support::{Place, get};
use crate::support::{DEADLINE, SOON, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_is_stopped_and_started_by_name_and_by_tag() {
    let place = Place::new().await;
    place.write(&format!(
        "forwards:\n{}{}",
        place.forward("a", 0, ", start: always, tags: [db]"),
        place.forward("b", 0, ", start: always")
    ));
    place.start();
    let port = place.entrance("a");
    assert!(place.status("a")["is_healthy"].is_null(), "nobody has probed it");
    place.ok(&["stop", "--tag", "db"]);
    assert!(get(port).await.is_none(), "its port is closed");
    assert_eq!(get(place.entrance("b")).await, Some(200), "the other one is not touched");
    place.ok(&["start", "a"]);
    assert_eq!(get(place.entrance("a")).await, Some(200));
    place.ok(&["stop", "--all"]);
    assert_eq!(place.json(&["status"])["summary"]["stopped"], 2);
    let (code, text) = place.fails(&["start", "aa"]);
    assert!(code == 2 && text.contains("did you mean `a`?"), "{text}");
    let (code, text) = place.fails(&["start"]);
    assert!(code == 2 && text.contains("--all"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stopped_stays_stopped_when_that_cannot_be_written_down() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", start: always")));
    place.start();
    // In the way of the state, whoever runs this.
    let in_the_way = place.home.path().join("state/adit/desired.json.next");
    std::fs::create_dir(&in_the_way).unwrap();
    let output = place.run(&["stop", "web"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("until the daemon ends") && said.contains("desired.json"),
        "{said}"
    );
    place.ok(&["daemon", "reload"]);
    assert_eq!(place.status("web")["status"], "stopped");
    std::fs::remove_dir(in_the_way).unwrap();
    place.ok(&["daemon", "reload"]);
    place.ok(&["daemon", "restart"]);
    assert_eq!(place.status("web")["status"], "stopped", "it is written down when it can be");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_port_open_and_what_runs_finishes() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", start: always")));
    place.start();
    let port = place.entrance("web");
    let mut live = TcpStream::connect(port).unwrap();
    live.set_read_timeout(Some(DEADLINE)).unwrap();
    let connected = || async { (place.status("web")["streams"] == 1).then_some(()) };
    eventually(SOON, "one stream", connected).await;
    place.ok(&["restart", "web"]);
    assert_eq!(place.entrance("web"), port);
    place.logged("web: running after the restart").await;
    assert!(place.status("web")["wish"].is_null(), "nothing was said about when it starts by itself");
    assert_eq!(get(port).await, Some(200));
    live.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    live.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_touches_only_what_has_changed_and_says_what() {
    let place = Place::new().await;
    let keep = place.forward("keep", 0, "");
    place.write(&format!("forwards:\n{keep}{}", place.forward("other", 0, "")));
    place.start();
    let port = place.entrance("keep");
    let mut live = TcpStream::connect(port).unwrap();
    live.set_read_timeout(Some(DEADLINE)).unwrap();
    place.write(&format!("forwards:\n{keep}{}", place.forward("third", 0, "")));
    let listed = || async {
        let names = place.json(&["status"])["services"].to_string();
        names.contains("\"third\"").then_some(())
    };
    eventually(DEADLINE, "the watcher finds the change", listed).await;
    let answer = place.json(&["daemon", "reload"]);
    assert_eq!(answer["added"].as_array().map(Vec::len), Some(0), "{answer}");
    assert_eq!(answer["unchanged"], 2, "{answer}");
    assert_eq!(place.entrance("keep"), port);
    live.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    live.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let audit = std::fs::read_to_string(place.home.path().join("state/adit/logs/audit.log")).unwrap();
    assert!(audit.contains("forwards.third") && audit.contains("forwards.other"), "{audit}");
    place.write("forwards: { broken\n");
    let (code, text) = place.fails(&["daemon", "reload"]);
    assert_eq!(code, 2, "{text}");
    assert_eq!(get(port).await, Some(200), "an invalid file changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_that_is_stopped_stays_so_through_a_reload() {
    let place = Place::new().await;
    let web = place.forward("web", 0, ", start: always");
    place.write(&format!("forwards:\n{web}"));
    place.start();
    place.ok(&["stop", "web"]);
    place.write(&format!("forwards:\n{web}{}", place.forward("b", 0, "")));
    place.ok(&["daemon", "reload"]);
    assert_eq!(place.status("web")["status"], "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_by_forward_and_can_be_searched_without_a_daemon() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}{}", place.forward("a", 0, ", start: always"), place.forward("b", 0, "")));
    place.start();
    place.ok(&["stop", "a"]);
    place.ok(&["start", "a"]);
    place.ok(&["daemon", "stop"]);
    let own = place.ok(&["logs", "a"]);
    assert!(own.contains("a: stopped by a user") && own.contains("a: started by a user"), "{own}");
    assert!(!own.contains("the daemon ends"), "{own}");
    assert_eq!(place.ok(&["logs", "a", "--grep", "STOPPED"]).lines().count(), 1);
    assert_eq!(place.ok(&["logs", "a", "-n", "1"]).lines().count(), 1);
    assert_eq!(place.ok(&["logs", "--until", "1h"]), "");
    assert!(place.ok(&["logs", "--since", "1h"]).contains("the daemon ends"));
    assert!(place.ok(&["logs", "a", "--path"]).trim_end().ends_with("forwards/a.log"));
    // Nothing of the file has changed: there is no audit log yet.
    assert_eq!(place.ok(&["logs", "--list"]), "daemon\na\n");
    assert!(place.ok(&["logs", "daemon"]).contains("the daemon ends"));
    assert!(place.ok(&["logs", "audit", "--path"]).trim_end().ends_with("logs/audit.log"));
    assert!(!place.ok(&["logs", "a", "--since", "2026-01-01"]).is_empty());
    let mut following = place.command(&["logs", "-f", "a"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1];
    following.stdout.take().unwrap().read_exact(&mut first).expect("-f is for --follow, and a is the forward");
    assert!(following.wait().unwrap().success(), "it ends with its reader");
    let (code, text) = place.fails(&["logs", "aa"]);
    assert!(code == 2 && text.contains("did you mean `a`?"), "{text}");
    let (code, text) = place.fails(&["logs", "deamon"]);
    assert!(code == 2 && text.contains("did you mean `daemon`?"), "{text}");
    assert_eq!(place.ok(&["complete", "logs"]), "a\ndaemon\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_behind_a_connection_is_named() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    place.start();
    let live = TcpStream::connect(place.entrance("web")).unwrap();
    let named = || async {
        let client = place.json(&["-v", "status", "web"])["services"][0]["clients"][0].clone();
        (client["pid"] == std::process::id() && client["address"] == live.local_addr().unwrap().to_string())
            .then_some(())
    };
    eventually(DEADLINE, "this process is named", named).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_through_a_forward_that_is_stopped_is_counted_and_named() {
    let place = Place::new().await;
    let port = testkit::process::free_port().unwrap();
    place.write(&format!("forwards:\n{}", place.forward("web", port, "")));
    place.start();
    let mut live = TcpStream::connect(place.entrance("web")).unwrap();
    std::io::Write::write_all(&mut live, b"GET / HTTP/1.1\r\nHost: x\r\n").unwrap();
    let connected = || async { (place.status("web")["streams"] == 1).then_some(()) };
    eventually(DEADLINE, "one stream", connected).await;
    let said = place.ok(&["stop", "web"]);
    assert!(said.contains("1 open connection goes on until it ends"), "{said}");
    let status = place.json(&["-v", "status", "web"])["services"][0].clone();
    assert_eq!((status["status"].as_str(), status["streams"].as_u64()), (Some("stopped"), Some(1)));
    assert_eq!(status["clients"][0]["pid"], std::process::id(), "{status}");
    let name = status["clients"][0]["command"].as_str().unwrap();
    assert!(!name.contains([' ', '/']), "its program alone: {name}");
    drop(live);
    let ended = || async { (place.status("web")["streams"] == 0).then_some(()) };
    eventually(DEADLINE, "its end", ended).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_are_answered_while_a_reload_moves_a_port() {
    let place = Place::new().await;
    let port = testkit::process::free_port().unwrap();
    let at = |ip: &str| {
        format!("forwards: {{ web: {{ to: \"tcp://{}\", listen: \"{ip}:{port}\" }} }}\n", place.origin.addr())
    };
    place.write(&at("127.0.0.1"));
    place.start();
    for ip in ["0.0.0.0", "127.0.0.1", "0.0.0.0", "127.0.0.1"] {
        place.write(&at(ip));
        let mut reload = place.command(&["daemon", "reload"]);
        let mut reload = reload.stdout(std::process::Stdio::null()).spawn().unwrap();
        for _ in 0..5 {
            place.ok(&["status"]);
        }
        assert!(reload.wait().unwrap().success());
    }
    assert_eq!(get(place.entrance("web")).await, Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_that_begin_to_fail_and_succeed_again_are_in_the_log() {
    let place = Place::new().await;
    let sign = place.home.path().join("well");
    std::fs::write(&sign, "").unwrap();
    let health = format!(
        ", start: always, health: {{ type: exec, command: [test, -e, \"{}\"], interval: 1s, timeout: 1s, rise: 1, fall: 1 }}",
        sign.display()
    );
    place.write(&format!("forwards:\n{}", place.forward("web", 0, &health)));
    place.start();
    let well = || async { (place.status("web")["health"]["state"] == "healthy").then_some(()) };
    eventually(DEADLINE, "it is healthy", well).await;
    std::fs::remove_file(&sign).unwrap();
    place.logged("\"event\":\"unhealthy\"").await;
    std::fs::write(&sign, "").unwrap();
    place.logged("\"event\":\"healthy\"").await;
    let own = place.ok(&["logs", "web", "--level", "warn"]);
    assert!(own.contains("web: its probes fail"), "{own}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_came_by_itself_is_told_to_whoever_asks_for_it_later() {
    let place = Place::new().await;
    let web = place.forward("web", 0, "");
    place.write(&format!("forwards:\n{web}"));
    place.start();
    let text = place.ok(&["daemon", "reload"]);
    assert!(text.starts_with("nothing has changed since the start; 1 untouched"), "{text}");
    place.write(&format!("forwards:\n{web}{}", place.forward("other", 0, "")));
    place.logged("reloaded: added forward other").await;
    let text = place.ok(&["daemon", "reload"]);
    assert!(text.starts_with("already in force for ") && text.contains(" s: added: forward other; 1 "), "{text}");
    // What is started and stopped is no change of the file.
    place.ok(&["stop", "web"]);
    let answer = place.json(&["daemon", "reload"]);
    assert_eq!(answer["added"], serde_json::json!([]), "{answer}");
    let last = &answer["last"];
    assert!(last["added"][0] == "forward other" && last["ago_ms"].is_u64() && last["at"].is_string(), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_whose_context_is_not_there_says_so_before_anybody_uses_it() {
    let place = Place::new().await;
    let kubeconfig = place.home.path().join("kubeconfig");
    let with = |context: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{ name: c, cluster: {{ server: \"http://127.0.0.1:9\" }} }}]\n\
             users: [{{ name: u, user: {{}} }}]\ncontexts: [{{ name: {context}, context: {{ cluster: c, user: u }} }}]\n"
        );
        std::fs::write(&kubeconfig, text).unwrap();
    };
    with("prod");
    let yaml = format!(
        "kubernetes: {{ kubeconfig: {} }}\nforwards:\n{}  db: {{ to: \"k8s://prdo/x/service/db:80\", listen: 0 }}\n",
        kubeconfig.display(),
        place.forward("web", 0, "")
    );
    place.write(&yaml);
    assert_eq!(place.json(&["daemon", "start"])["failed"], 1);
    let db = place.status("db");
    assert_eq!((&db["status"], &db["state"]), (&"failed".into(), &"idle".into()), "{db}");
    assert!(db["reason"].as_str().unwrap().contains("context `prdo` is not in"), "{db}");
    assert!(db["hint"].as_str().unwrap().contains("did you mean `prod`?"), "{db}");
    assert_eq!(place.status("web")["status"], "idle");
    // Asked for once more nothing is told twice.
    place.ok(&["daemon", "reload"]);
    place.ok(&["stop", "web"]);
    assert_eq!(place.log().matches("\"event\":\"missing\"").count(), 1, "{}", place.log());
    with("prdo");
    let idle = || async { (place.status("db")["status"] == "idle").then_some(()) };
    eventually(DEADLINE, "the context is there", idle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_has_every_field_that_scripts_for_localport_read() {
    let place = Place::new().await;
    let more = ", start: always, tags: [dev], description: a shop, health: { type: tcp, interval: 1s, timeout: 1s }";
    place.write(&format!("forwards:\n{}", place.forward("web", 0, more)));
    place.start();
    let well = || async { (place.status("web")["is_healthy"] == true).then_some(()) };
    eventually(DEADLINE, "it is healthy", well).await;
    let status = place.json(&["status"]);
    for key in ["total", "running", "stopped", "failed", "healthy", "unhealthy", "success_rate", "health_rate"] {
        assert!(status["summary"][key].is_number(), "{key}: {status}");
    }
    let web = &status["services"][0];
    for (key, is) in [
        ("name", web["name"] == "web"),
        ("status", web["status"] == "running"),
        ("technology", web["technology"] == "tcp"),
        ("local_port", web["local_port"].as_u64() > Some(0)),
        ("remote_port", web["remote_port"] == place.origin.addr().port()),
        ("target", web["target"] == format!("tcp://{}", place.origin.addr())),
        ("uptime_seconds", web["uptime_seconds"].is_u64()),
        ("last_health_check", web["last_health_check"].is_string()),
        ("failure_count", web["failure_count"] == 0),
        ("restart_count", web["restart_count"] == 0),
        ("tags", web["tags"] == serde_json::json!(["dev"])),
        ("description", web["description"] == "a shop"),
    ] {
        assert!(is, "{key}: {web}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_expects_something_else_is_named_with_what_to_do() {
    let place = Place::new().await;
    let health = ", start: always, health: { type: http, status: [204], interval: 1s, timeout: 1s, fall: 1 }";
    place.write(&format!("forwards:\n{}", place.forward("web", 0, health)));
    place.start();
    let missed = || async { (place.status("web")["health"]["missed"].as_u64() > Some(1)).then_some(()) };
    eventually(DEADLINE, "some probes have failed", missed).await;
    let web = place.status("web");
    assert_eq!((&web["health"]["type"], &web["is_healthy"]), (&"http".into(), &false.into()), "{web}");
    let text = place.ok(&["status"]);
    assert!(
        text.contains("    the http probe fails, ")
            && text.contains(" times in a row: GET / answered 200 OK; expected 204"),
        "{text}"
    );
    assert!(text.contains("    hint: ") && text.contains("`health`") && text.ends_with("; unhealthy: web\n"), "{text}");
    assert!(web["last_error"]["text"].as_str().unwrap().starts_with("probe: GET / answered 200 OK"), "{web}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_nothing_answers_is_the_reason_for_restarts_in_the_status() {
    let place = Place::new().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let health = "health: { type: postgres, interval: 1s, timeout: 100ms, fall: 1 }";
    let to = silent.local_addr().unwrap();
    place.write(&format!("forwards:\n  db: {{ to: \"tcp://{to}\", listen: 0, start: always, {health} }}\n"));
    place.start();
    let anew = || async {
        let db = place.status("db");
        (db["status"] == "restarting" && db["health"]["restarts"].as_u64() > Some(0)).then_some(db)
    };
    let db = eventually(DEADLINE, "it was started anew", anew).await;
    assert!(db["hint"].as_str().is_some_and(|hint| hint.contains("postgres probe in `health`")), "{db}");
    let text = place.ok(&["status"]);
    assert!(text.contains("the postgres probe fails") && text.contains("because of it, which did not help"), "{text}");
    assert!(text.ends_with("1 forward: 1 restarting; unhealthy: db\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_error_is_the_last_one_by_whatever_way_it_came() {
    let place = Place::new().await;
    let closed = testkit::process::Closed::take().unwrap();
    let address = closed.address;
    place.write(&format!(
        "forwards:\n  db: {{ to: \"tcp://{address}\", listen: 0 }}\n\
         gateway: {{ listen: \"127.0.0.1:0\", routes: {{ db.localhost: {{ to: \"forward:db\" }} }} }}\n"
    ));
    place.start();
    assert_eq!(get(place.entrance("db")).await, None);
    let of_port = place.status("db")["last_error"]["at"].as_str().unwrap().to_owned();
    let gateway = place.json(&["status"])["gateway"]["addresses"][0].as_str().unwrap().parse().unwrap();
    let later = || async {
        let _ = testkit::raw::get(gateway, "db.localhost", "/").await;
        let last = place.status("db")["last_error"].clone();
        (last["at"].as_str() > Some(of_port.as_str())).then_some(last)
    };
    let last = eventually(DEADLINE, "what came by the gateway is the last one", later).await;
    assert!(last["text"].as_str().unwrap().contains("refused"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_leads_to_is_in_the_log_after_the_command() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    place.start();
    for _ in 0..5 {
        place.ok(&["start", "web"]);
        place.ok(&["restart", "web"]);
        place.ok(&["stop", "web"]);
    }
    place.ok(&["start", "web"]);
    let log = place.ok(&["logs", "-n", "1000"]);
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text}: {log}"));
    assert!(at("web: restarted by a user") < at("web: running after the restart"), "{log}");
    // That is told only of what was seen at rest before.
    assert!(log.find("ready in").is_none_or(|ready| at("web: started by a user") < ready), "{log}");
    let times: Vec<&str> = log.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(times.is_sorted(), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_started_and_stopped_can_be_forgotten() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}{}", place.forward("a", 0, ""), place.forward("b", 0, ", start: always")));
    place.start();
    place.ok(&["start", "a"]);
    place.ok(&["stop", "b"]);
    place.ok(&["start", "--all", "--as-file"]);
    assert!(place.status("a")["wish"].is_null() && place.status("b")["wish"].is_null());
    assert_eq!(place.status("b")["status"], "running");
    assert_eq!(place.status("a")["start"], "on-demand");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_demand_is_no_restart_and_the_time_counts_from_it() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", idle_timeout: 2s")));
    place.start();
    let port = place.entrance("web");
    let idle = || async { (place.status("web")["status"] == "idle").then_some(()) };
    for _ in 0..2 {
        assert_eq!(get(port).await, Some(200));
        eventually(DEADLINE, "nobody uses it", idle).await;
    }
    assert_eq!(get(port).await, Some(200));
    let status = place.status("web");
    assert_eq!((&status["status"], &status["restart_count"]), (&"running".into(), &0.into()), "{status}");
    assert!(status["uptime_seconds"].as_u64() < Some(2), "since this start: {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_file_switches_off_is_started_by_its_name_only() {
    let place = Place::new().await;
    let off = ", enabled: false, tags: [db]";
    place.write(&format!("forwards:\n{}{}", place.forward("a", 0, ""), place.forward("off", 0, off)));
    place.start();
    assert_eq!(place.status("off")["status"], "disabled");
    place.ok(&["start", "--all"]);
    assert_eq!(place.status("off")["status"], "disabled");
    let (code, text) = place.fails(&["start", "--tag", "db"]);
    assert!(code == 2 && text.contains("disabled"), "{text}");
    let text = place.ok(&["status"]);
    assert!(text.contains("2 forwards: 1 running, 1 disabled\n"), "{text}");
    assert!(place.ok(&["status", "off"]).contains("\n1 forward: 1 disabled\n"), "what is shown is counted");
    place.ok(&["start", "off"]);
    assert_eq!(place.status("off")["status"], "running");
    place.ok(&["stop", "--all"]);
    place.ok(&["start", "off", "--as-file"]);
    assert_eq!(place.status("off")["status"], "disabled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_the_saved_file_is_seen_in_every_status_until_it_is_mended() {
    let place = Place::new().await;
    let web = place.forward("web", 0, "");
    place.write(&format!("forwards:\n{web}"));
    place.start();
    place.write(&format!("forwards:\n{web}{}", place.forward("b", 0, ", lisen: 1")));
    let (code, text) = place.fails(&["daemon", "reload"]);
    assert!(code == 2 && text.contains("did you mean") && text.contains("everything stays as it is"), "{text}");
    for command in [&["status"][..], &["daemon", "status"]] {
        let text = place.ok(command);
        assert!(text.contains("the version before holds:\n") && text.contains("adit.yaml:4:"), "{text}");
    }
    let mistake = place.json(&["daemon", "status"])["daemon"]["mistake"].clone();
    assert!(mistake["since"].is_string() && mistake["problems"][0]["line"] == 4, "{mistake}");
    place.write(&format!("forwards:\n{web}"));
    place.ok(&["daemon", "reload"]);
    assert!(place.json(&["daemon", "status"])["daemon"]["mistake"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_is_told_that_the_daemon_has_ended_and_sees_the_next_one() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    place.start();
    let mut command = place.command(&["status", "--watch"]);
    let mut watching = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let (sender, lines) = std::sync::mpsc::sync_channel(64);
    let output = watching.stdout.take().unwrap();
    let reading = std::thread::spawn(move || {
        use std::io::BufRead as _;
        for line in std::io::BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let wait = |what: &str| loop {
        let line = lines.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("no line with {what}"));
        if line.contains(what) {
            return;
        }
    };
    wait("1 forward: 1 idle");
    place.ok(&["daemon", "stop"]);
    wait("; waiting");
    place.start();
    wait("1 forward: 1 idle");
    // Whoever reads goes, as `head` does.
    drop(lines);
    reading.join().unwrap();
    let ended = || async { (!super::support::is_alive(watching.id())).then_some(()) };
    eventually(DEADLINE, "it ends with its reader", ended).await;
    assert!(watching.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_refused_file_lacks_is_watched_for() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    place.start();
    let gateway = "gateway:\n  listen: 127.0.0.1:0\n  routes:\n    \
                   a.localhost: { to: forward:web, basic_auth: { user: a, password_file: secret } }\n";
    place.write(&format!("forwards:\n{}{gateway}", place.forward("web", 0, "")));
    let refused = || async { place.json(&["status"])["daemon"]["mistake"].is_object().then_some(()) };
    eventually(DEADLINE, "the refusal", refused).await;
    crate::support::write_secret(&place.home.path().join("secret"), "secret").unwrap();
    let taken = || async { place.json(&["status"])["daemon"]["mistake"].is_null().then_some(()) };
    eventually(DEADLINE, "the file is in force", taken).await;
    assert_eq!(place.json(&["status"])["entrances"][0]["name"], "a.localhost");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_started_by_hand_is_told_until_it_is_as_the_file_says_again() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}{}", place.forward("web", 0, ""), place.forward("db", 0, "")));
    place.start();
    let told = "by hand, not as the file says: web, db (started); undone by: adit start --as-file NAME (or --all)";
    let answer = place.ok(&["start", "--all"]);
    assert!(answer.contains(told), "{answer}");
    let status = place.ok(&["status", "-v"]);
    assert!(status.contains(told) && status.contains("started by hand; the file says `start: on-demand`"), "{status}");
    assert_eq!(place.status("web")["as_file"], false);
    let reload = place.ok(&["daemon", "reload"]);
    assert!(reload.contains("by hand, not as the file says: web, db;"), "{reload}");
    let answer = place.ok(&["start", "--as-file", "--all"]);
    assert!(!answer.contains("by hand") && place.status("web")["as_file"] == true, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_after_a_mistake_that_was_mended_tells_no_change_of_before() {
    let place = Place::new().await;
    let good = format!("forwards:\n{}", place.forward("web", 0, ""));
    place.write(&good);
    place.start();
    place.write(&format!("{good}{}", place.forward("other", 0, "")));
    place.logged("reloaded: added forward other").await;
    place.write("forwards: { web: { to: 1, lsten: 2 } }\n");
    place.fails(&["daemon", "reload"]);
    place.write(&format!("{good}{}", place.forward("other", 0, "")));
    let text = place.ok(&["daemon", "reload"]);
    assert!(
        text.starts_with("in force again for ") && text.contains("before the mistake in it; 2 untouched"),
        "{text}"
    );
    assert_eq!(place.json(&["daemon", "reload"])["last"]["mended"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_by_a_user_is_no_loss() {
    let (place, sshd) = (Place::new().await, Sshd::start(&[]).await);
    let (addr, key, known) = (sshd.addr(), sshd.key(), sshd.known_hosts());
    place.write(&format!(
        "forwards:\n  db:\n    listen: 0\n    start: always\n    to: {{ ssh: {{ server: \"{}@{addr}\", host: 127.0.0.1, port: {}, key: \"{}\", known_hosts: \"{}\" }} }}\n",
        sshd.user(),
        addr.port(),
        key.display(),
        known.display(),
    ));
    place.start();
    place.logged("\"event\":\"ready\"").await;
    place.ok(&["restart", "db"]);
    place.logged("db: running after the restart").await;
    place.ok(&["stop", "db"]);
    place.ok(&["start", "db"]);
    place.logged("db: started by a user").await;
    let warnings = place.ok(&["logs", "--level", "warn"]);
    assert!(!warnings.contains("lost"), "{warnings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_named_after_the_port_it_came_in_by_is_another_one() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    place.start();
    let before = place.entrance("web");
    let held = tokio::net::TcpStream::connect(before).await.unwrap();
    let carried = || async { (place.status("web")["streams"] == 1).then_some(()) };
    eventually(DEADLINE, "the connection is carried", carried).await;
    let port = testkit::process::free_port().unwrap();
    place.write(&format!("forwards:\n{}", place.forward("web", port, "")));
    place.ok(&["daemon", "reload"]);
    assert_eq!(place.entrance("web").port(), port);
    let status = place.json(&["-v", "status", "web"]);
    let clients = &status["services"][0]["clients"];
    assert_eq!(
        (clients[0]["pid"].as_u64(), clients.as_array().unwrap().len()),
        (Some(u64::from(std::process::id())), 1),
        "{status}"
    );
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_status_after_a_restart_names_the_process_that_still_carries_something() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let pid = place.start();
    let held = tokio::net::TcpStream::connect(place.entrance("web")).await.unwrap();
    let carried = || async { (place.status("web")["streams"] == 1).then_some(()) };
    eventually(DEADLINE, "the connection is carried", carried).await;
    place.ok(&["daemon", "restart"]);
    let status = place.ok(&["status"]);
    assert!(status.contains(&format!("the process before (pid {pid}) still carries: web (1 live)")), "{status}");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnels_name_is_told_as_such_where_a_forward_is_wanted() {
    let place = Place::new().await;
    let web = place.forward("web", 0, "");
    let token = place.home.path().join("token");
    std::fs::write(&token, "adit_x").unwrap();
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    place.write(&format!(
        "forwards:\n{web}publish: {{ server: \"127.0.0.1:9\", token_file: token, tunnels: {{ shop: {{ to: \"forward:web\" }} }} }}\n"
    ));
    place.start();
    for verb in ["start", "stop", "restart"] {
        let (code, text) = place.fails(&[verb, "shop"]);
        assert!(code == 2 && text.contains("`shop` is a tunnel of `publish`, not a forward"), "{text}");
        assert!(text.contains("adit restart web"), "{text}");
    }
    let status = place.ok(&["status", "shop"]);
    assert!(status.contains("published shop") && !status.contains("NAME"), "{status}");
}
