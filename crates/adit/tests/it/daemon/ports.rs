//! The daemon's own ports: its API with a token, and what reaches it while it ends.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use testkit::raw;

use super::support::{Place, get, is_alive};
use crate::support::{DEADLINE, eventually, within};

const AUTHORITY: &str = "localhost";

/// Where the API is, with its token.
fn api(place: &Place) -> (SocketAddr, String) {
    let port = place.json(&["daemon", "status"])["daemon"]["ports"]["api"].clone();
    assert_eq!(port["open"], true, "{port}");
    let token = std::fs::read_to_string(port["token_file"].as_str().expect("a token file")).expect("it can be read");
    (port["address"].as_str().and_then(|text| text.parse().ok()).expect("an address"), token.trim().to_owned())
}

async fn ask(to: SocketAddr, method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let head = raw::head(method, host, path, headers, (method == "POST").then_some(0));
    let mut client = raw::Client::connect(to).await.expect("a connection");
    client.send(&head).await.expect("it is sent");
    let answer = client.response(false).await.expect("an answer");
    (answer.status, serde_json::from_str(&answer.text()).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_on_a_port_for_whoever_has_the_token() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}daemon: {{ listen: 0 }}\n", place.forward("web", 0, "")));
    place.start();
    let (port, token) = api(&place);
    let mode = std::fs::metadata(place.home.path().join("state/adit/daemon.token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let bearer = format!("Bearer {token}");
    let authorised = [("authorization", bearer.as_str())];
    let (status, body) = ask(port, "GET", AUTHORITY, "/v1/forwards", &authorised).await;
    assert_eq!((status, &body["services"][0]["name"]), (200, &Value::from("web")), "{body}");
    let (status, body) = ask(port, "POST", AUTHORITY, "/v1/forwards/web/start", &authorised).await;
    assert_eq!((status, &body["services"][0]["status"]), (200, &Value::from("running")), "{body}");
    for wrong in [&[][..], &[("authorization", "Bearer adit_wrong")], &[("authorization", token.as_str())]] {
        let (status, body) = ask(port, "POST", AUTHORITY, "/v1/shutdown", wrong).await;
        assert_eq!((status, &body["error"]["fault"]), (401, &Value::from("auth")), "{body}");
        assert!(!body.to_string().contains(&token));
    }
    assert!(!place.log().contains(&token), "S6: it is in no log");
    let text = place.ok(&["daemon", "status"]);
    assert!(text.contains(&format!("api     http://{port}")) && !text.contains(&token), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_logs_that_are_of_no_forward_are_read_by_their_names_with_the_token_alone() {
    let place = Place::new().await;
    let web = place.forward("web", 0, "");
    place.write(&format!("forwards:\n{web}daemon: {{ listen: 0 }}\n"));
    place.start();
    let (port, token) = api(&place);
    place.write(&format!("forwards:\n{web}{}daemon: {{ listen: 0 }}\n", place.forward("second", 0, "")));
    place.ok(&["daemon", "reload"]);
    let bearer = format!("Bearer {token}");
    let logs = async |name: &str, headers: &[(&str, &str)]| {
        let mut client = raw::Client::connect(port).await.expect("a connection");
        let path = format!("/v1/logs?name={name}");
        let head = raw::head("GET", AUTHORITY, &path, headers, None);
        client.send(&head).await.expect("it is sent");
        let answer = client.response(false).await.expect("an answer");
        (answer.status, answer.text())
    };
    let authorised = [("authorization", bearer.as_str())];
    let changed = async || {
        let (status, text) = logs("audit", &authorised).await;
        assert_eq!(status, 200, "{text}");
        text.contains("forwards.second").then_some(())
    };
    eventually(DEADLINE, "the change in the audit log", changed).await;
    let (status, text) = logs("daemon", &authorised).await;
    assert!(status == 200 && text.contains("\"event\""), "{status} {text}");
    for name in ["audit", "daemon"] {
        let (status, text) = logs(name, &[]).await;
        assert!(status == 401 && !text.contains("forwards.second") && !text.contains("\"event\""), "{status} {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s13_no_web_page_reaches_the_api_even_with_the_token() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}daemon: {{ listen: 0, metrics: 0 }}\n", place.forward("web", 0, "")));
    let pid = place.start();
    let (port, token) = api(&place);
    let bearer = format!("Bearer {token}");
    let with = |name, value| [("authorization", bearer.as_str()), (name, value)];
    for (host, header) in [
        ("evil.example", with("accept", "*/*")),
        ("127.0.0.1.nip.io", with("accept", "*/*")),
        (AUTHORITY, with("origin", "http://localhost:3000")),
        (AUTHORITY, with("origin", "null")),
        (AUTHORITY, with("sec-fetch-site", "cross-site")),
        (AUTHORITY, with("sec-fetch-site", "same-site")),
    ] {
        let (status, body) = ask(port, "POST", host, "/v1/shutdown", &header).await;
        assert_eq!((status, &body["error"]["fault"]), (403, &Value::from("not_permitted")), "{host} {header:?}");
    }
    let metrics = place.json(&["daemon", "status"])["daemon"]["ports"]["metrics"]["address"].clone();
    let metrics: SocketAddr = metrics.as_str().unwrap().parse().unwrap();
    assert_eq!(ask(metrics, "GET", "evil.example", "/metrics", &[]).await.0, 403);
    assert_eq!(ask(metrics, "GET", AUTHORITY, "/v1/status", &[]).await.0, 404, "only the metrics are without a token");
    assert_eq!(ask(metrics, "POST", AUTHORITY, "/metrics", &[]).await.0, 405);
    assert_eq!(ask(metrics, "GET", AUTHORITY, "/metrics", &[]).await.0, 200);
    assert!(is_alive(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_moves_the_port_and_a_taken_one_stops_nothing_else() {
    let place = Place::new().await;
    let web = place.forward("web", 0, ", start: always");
    place.write(&format!("forwards:\n{web}"));
    place.start();
    let entrance = place.entrance("web");
    assert_eq!(place.json(&["daemon", "status"])["daemon"]["ports"]["api"], Value::Null);
    place.write(&format!("forwards:\n{web}daemon: {{ listen: 0 }}\n"));
    assert!(place.ok(&["daemon", "reload"]).contains("daemon"));
    let (first, token) = api(&place);
    // Another one takes the port that is wanted next.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let wanted = taken.local_addr().unwrap();
    place.write(&format!("forwards:\n{web}daemon: {{ listen: \"{wanted}\" }}\n"));
    place.ok(&["daemon", "reload"]);
    assert!(TcpStream::connect(first).is_err(), "the one before is closed");
    let status = place.json(&["daemon", "status"]);
    assert_eq!(status["daemon"]["ports"]["api"]["open"], false);
    assert_eq!(status["daemon"]["mistake"], Value::Null, "the rest of the file is in force");
    let text = place.ok(&["status"]);
    assert!(text.contains(&format!("daemon.listen {wanted} is not open")), "{text}");
    place.logged(&format!("daemon.listen {wanted} is not open")).await;
    assert_eq!((get(entrance).await, place.entrance("web")), (Some(200), entrance));
    drop(taken);
    let opened = || async {
        let port = place.json(&["daemon", "status"])["daemon"]["ports"]["api"].clone();
        (port["open"] == true).then_some(())
    };
    eventually(DEADLINE, "it is open once it is free", opened).await;
    assert_eq!(api(&place), (wanted, token.clone()), "with the same token");
    // A token that cannot be used is a mistake: everything stays.
    place.write(&format!("forwards:\n{web}daemon: {{ listen: \"{wanted}\", token_file: nowhere }}\n"));
    let (_, text) = place.fails(&["daemon", "reload"]);
    assert!(text.contains("nowhere") && text.contains("everything stays as it is"), "{text}");
    assert_eq!(
        ask(wanted, "GET", AUTHORITY, "/v1/status", &[("authorization", &format!("Bearer {token}"))]).await.0,
        200
    );
    // Another token holds at once, at the port that is open.
    let own = place.home.path().join("own");
    std::fs::write(&own, "a-token-of-my-own\n").unwrap();
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o600)).unwrap();
    place.write(&format!("forwards:\n{web}daemon: {{ listen: \"{wanted}\", token_file: own }}\n"));
    place.ok(&["daemon", "reload"]);
    assert_eq!(
        ask(wanted, "GET", AUTHORITY, "/v1/status", &[("authorization", "Bearer a-token-of-my-own")]).await.0,
        200
    );
    assert_eq!(
        ask(wanted, "GET", AUTHORITY, "/v1/status", &[("authorization", &format!("Bearer {token}"))]).await.0,
        401
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_has_the_same_port_and_token() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}daemon: {{ listen: 0, metrics: 0 }}\n", place.forward("web", 0, "")));
    let first = place.start();
    let before = api(&place);
    place.ok(&["daemon", "restart"]);
    let status = place.json(&["daemon", "status"]);
    assert_ne!(status["daemon"]["pid"], first);
    assert_eq!(api(&place), before, "port 0 is the one that it was");
    let bearer = format!("Bearer {}", before.1);
    let headers = [("authorization", bearer.as_str())];
    let answered = || async {
        let (code, body) = ask(before.0, "GET", AUTHORITY, "/v1/status", &headers).await;
        (code == 200 && body["daemon"]["pid"] != first).then_some(())
    };
    eventually(DEADLINE, "the new one answers there", answered).await;
}

/// A connection through a forward that stays as long as this does.
fn stays(port: SocketAddr) -> TcpStream {
    let mut live = TcpStream::connect(port).expect("a connection");
    live.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    live.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("it is sent");
    assert!(live.read(&mut [0; 1]).expect("an answer") > 0);
    live
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_ends_the_daemon_says_so_with_what_it_waits_for() {
    let place = Place::new().await;
    let web = place.forward("web", 0, ", start: always");
    place.write(&format!("forwards:\n{web}daemon: {{ shutdown: {{ drain: 1m }} }}\n"));
    let pid = place.start();
    let live = stays(place.entrance("web"));
    let mut stopping = place.command(&["daemon", "stop"]).spawn().unwrap();
    let ends = || async {
        let status = place.json(&["daemon", "status"]);
        (status["daemon"]["ending"]["phase"] == "draining").then_some(status)
    };
    let status = eventually(DEADLINE, "it drains", ends).await;
    assert_eq!(status["daemon"]["ending"]["live"][0], "web (1 live)", "{status}");
    assert!(status["daemon"]["ending"]["phase_seconds_left"].as_u64().unwrap() > 40, "of the minute in the file");
    let text = place.ok(&["status"]);
    assert!(text.contains("the daemon is ending: what is live finishes") && text.contains("web (1 live)"), "{text}");
    assert!(place.ok(&["daemon", "status"]).starts_with(&format!("ending, pid {pid}")));
    let (code, text) = place.fails(&["start", "web"]);
    assert!(code == 4 && text.contains(&format!("the daemon (pid {pid}) is ending")), "{text}");
    let (_, text) = place.fails(&["daemon", "reload"]);
    assert!(text.contains("is ending"), "{text}");
    drop(live);
    assert!(stopping.wait().unwrap().success());
    let gone = || async { (!is_alive(pid)).then_some(()) };
    eventually(DEADLINE, "it ends with the last of them", gone).await;
    assert!(place.log().contains("ended in"), "{}", place.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_phases_are_as_long_as_the_file_says_also_after_a_reload() {
    let place = Place::new().await;
    let web = place.forward("web", 0, ", start: always");
    place.write(&format!("forwards:\n{web}daemon: {{ shutdown: {{ drain: 1h }} }}\n"));
    place.start();
    place.write(&format!("forwards:\n{web}daemon: {{ shutdown: {{ drain: 100ms, cancel: 1s }} }}\n"));
    place.ok(&["daemon", "reload"]);
    let live = stays(place.entrance("web"));
    let begun = std::time::Instant::now();
    place.ok(&["daemon", "stop"]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(place.log().contains("cut off: web (1 live)"), "{}", place.log());
    drop(live);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_has_every_key_of_the_status() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}daemon: {{ listen: 0, metrics: 0 }}\n", place.forward("web", 0, "")));
    place.start();
    let (port, token) = api(&place);
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let (_, described) = ask(port, "GET", AUTHORITY, "/v1/openapi.json", &headers).await;
    let (_, status) = ask(port, "GET", AUTHORITY, "/v1/status", &headers).await;
    let schemas = &described["components"]["schemas"];
    let found = [
        ("Status", &status),
        ("Summary", &status["summary"]),
        ("Daemon", &status["daemon"]),
        ("Forward", &status["services"][0]),
    ];
    for (name, found) in found {
        for key in found.as_object().expect("a map").keys() {
            assert!(schemas[name]["properties"].get(key).is_some(), "{name}.{key} is not described");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_token_and_never_reads_keeps_nobody_away() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}daemon: {{ listen: 0 }}\n", place.forward("web", 0, "")));
    place.start();
    let (port, token) = api(&place);
    let many = "GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
    // As many as there are places at the port.
    let strangers: Vec<TcpStream> = (0..256)
        .map(|_| {
            let mut stranger = TcpStream::connect(port).expect("a connection");
            stranger.write_all(many.as_bytes()).expect("it is sent");
            stranger
        })
        .collect();
    let bearer = format!("Bearer {token}");
    let head = raw::head("GET", AUTHORITY, "/v1/forwards", &[("authorization", bearer.as_str())], None);
    let answered = || async {
        let mut client = raw::Client::connect(port).await.ok()?;
        client.send(&head).await.ok()?;
        (client.response(false).await.ok()?.status == 200).then_some(())
    };
    eventually(DEADLINE, "the owner is answered", answered).await;
    drop(strangers);
}

/// Somebody who goes on opening connections and never says a word.
struct Silent {
    opened: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Silent {
    /// More of them than there are places. Only those that the other side has ended are let go.
    const HELD: usize = 400;

    fn at(port: SocketAddr) -> Self {
        let (opened, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (Arc::clone(&opened), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            let mut held: Vec<TcpStream> = Vec::new();
            while !end.load(Ordering::Relaxed) {
                held.extend(TcpStream::connect(port));
                count.fetch_add(1, Ordering::Relaxed);
                if held.len() > Self::HELD {
                    held.retain(is_open);
                }
                pace();
            }
        });
        Self { opened, ends, thread: Some(thread) }
    }

    /// Waits until so many more were opened.
    async fn opens(&self, more: usize) {
        let goal = self.opened.load(Ordering::Relaxed) + more;
        let opened = || async { (self.opened.load(Ordering::Relaxed) >= goal).then_some(()) };
        eventually(DEADLINE, "connections are opened", opened).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own, so that others have some of the machine, too")]
fn pace() {
    std::thread::sleep(Duration::from_micros(200));
}

fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    stream.peek(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Has a request answered amidst strangers. Hundreds of them may come between a connection and its request: then it is
/// asked once more, and no oftener than that happens.
async fn answered(port: SocketAddr, head: &[u8]) {
    for _ in 0..5 {
        let asked = async {
            let mut client = raw::Client::connect(port).await.ok()?;
            client.send(head).await.ok()?;
            client.response(false).await.ok()
        };
        if let Some(answer) = within("an answer or its end", asked).await {
            assert_eq!(answer.status, 200);
            return;
        }
    }
    panic!("nobody is answered while strangers are silent");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_nothing_keeps_nobody_away_and_whoever_has_the_token_stays() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}daemon: {{ listen: 0 }}\n", place.forward("web", 0, "")));
    place.start();
    let (port, token) = api(&place);
    let bearer = format!("Bearer {token}");
    let head = raw::head("GET", AUTHORITY, "/v1/forwards", &[("authorization", bearer.as_str())], None);
    let mut owner = raw::Client::connect(port).await.expect("a connection");
    owner.send(&head).await.expect("it is sent");
    assert_eq!(owner.response(false).await.expect("an answer").status, 200);
    let silent = Silent::at(port);
    for _ in 0..3 {
        silent.opens(Silent::HELD).await;
        answered(port, &head).await;
        owner.send(&head).await.expect("the connection stays");
        assert_eq!(owner.response(false).await.expect("the connection stays").status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_nothing_keeps_nobody_from_the_metrics() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}daemon: {{ metrics: 0 }}\n", place.forward("web", 0, "")));
    place.start();
    let port = place.json(&["daemon", "status"])["daemon"]["ports"]["metrics"]["address"].clone();
    let port = port.as_str().and_then(|text| text.parse().ok()).expect("an address");
    let silent = Silent::at(port);
    for _ in 0..3 {
        silent.opens(Silent::HELD).await;
        answered(port, &raw::head("GET", AUTHORITY, "/metrics", &[], None)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forwards_are_started_and_stopped_though_the_token_has_gone_bad() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}daemon: {{ listen: 0 }}\n", place.forward("web", 0, "")));
    place.start();
    let (port, token) = api(&place);
    let file = place.home.path().join("state/adit/daemon.token");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    place.ok(&["start", "web"]);
    place.ok(&["stop", "web"]);
    let mistake = place.json(&["daemon", "status"])["daemon"]["mistake"].clone();
    assert!(mistake["message"].as_str().unwrap_or_default().contains("open to other users"), "{mistake}");
    let bearer = format!("Bearer {token}");
    let authorised = [("authorization", bearer.as_str())];
    assert_eq!(ask(port, "GET", AUTHORITY, "/v1/forwards", &authorised).await.0, 200, "with the token it had");
    let (_, text) = place.fails(&["daemon", "reload"]);
    assert!(text.contains("open to other users"), "{text}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    place.ok(&["start", "web"]);
    assert_eq!(place.json(&["daemon", "status"])["daemon"]["mistake"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_cannot_be_had_is_told_once_whatever_is_started_and_stopped() {
    let place = Place::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let wanted = taken.local_addr().unwrap();
    place.write(&format!("forwards:\n{}daemon: {{ listen: \"{wanted}\" }}\n", place.forward("web", 0, "")));
    place.start();
    for verb in ["start", "stop", "start"] {
        place.ok(&[verb, "web"]);
    }
    place.ok(&["daemon", "reload"]);
    place.ok(&["daemon", "stop"]);
    assert_eq!(place.log().matches("\"event\":\"not-opened\"").count(), 1, "{}", place.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_for_the_token_keeps_the_api_shut_and_nothing_else() {
    let place = Place::new().await;
    let port = "daemon: { listen: \"127.0.0.1:0\" }\n";
    place.write(&format!("forwards:\n{}{port}", place.forward("web", 0, ", start: always")));
    let state = place.home.path().join("state/adit");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).unwrap();
    // Every write to it says that no space is left.
    let next = state.join("daemon.token.next");
    std::os::unix::fs::symlink("/dev/full", &next).unwrap();
    place.start();
    assert_eq!(get(place.entrance("web")).await, Some(200));
    let api_now = || place.json(&["daemon", "status"])["daemon"]["ports"]["api"].clone();
    let shut = api_now();
    assert_eq!(shut["open"], false, "{shut}");
    assert!(shut["error"].as_str().unwrap().contains("No space left"), "{shut}");
    assert!(shut["hint"].as_str().unwrap().contains("daemon.token_file"), "{shut}");
    // Nor does it stand in the way of a version of the file.
    place.write(&format!("forwards:\n{}{}{port}", place.forward("web", 0, ""), place.forward("more", 0, "")));
    place.ok(&["daemon", "reload"]);
    assert_eq!(get(place.entrance("more")).await, Some(200));
    assert_eq!(api_now()["open"], false);
    // There is space again.
    std::fs::remove_file(&next).unwrap();
    let opened = async || (api_now()["open"] == true).then_some(());
    eventually(DEADLINE, "the API is open", opened).await;
    let (address, token) = api(&place);
    let bearer = format!("Bearer {token}");
    assert_eq!(ask(address, "GET", AUTHORITY, "/v1/forwards", &[("authorization", &bearer)]).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_taken_out_of_the_file_lets_nobody_in_though_another_cannot_be_made() {
    let place = Place::new().await;
    let named = place.home.path().join("tok");
    std::fs::write(&named, "sixteen-letters-and-more\n").unwrap();
    std::fs::set_permissions(&named, std::fs::Permissions::from_mode(0o600)).unwrap();
    let web = place.forward("web", 0, "");
    place.write(&format!("forwards:\n{web}daemon: {{ listen: \"127.0.0.1:0\", token_file: {} }}\n", named.display()));
    place.start();
    let (port, token) = api(&place);
    let bearer = format!("Bearer {token}");
    let authorised = [("authorization", bearer.as_str())];
    assert_eq!(ask(port, "GET", AUTHORITY, "/v1/forwards", &authorised).await.0, 200);
    let next = place.home.path().join("state/adit/daemon.token.next");
    std::os::unix::fs::symlink("/dev/full", &next).unwrap();
    place.write(&format!("forwards:\n{web}daemon: {{ listen: \"127.0.0.1:0\" }}\n"));
    place.ok(&["daemon", "reload"]);
    let shut = place.json(&["daemon", "status"])["daemon"]["ports"]["api"].clone();
    assert_eq!((&shut["open"], &shut["token_file"]), (&false.into(), &Value::Null), "{shut}");
    let closed = async || TcpStream::connect(port).is_err().then_some(());
    eventually(DEADLINE, "its port is closed", closed).await;
    std::fs::remove_file(&next).unwrap();
    let opened = async || (place.json(&["daemon", "status"])["daemon"]["ports"]["api"]["open"] == true).then_some(());
    eventually(DEADLINE, "the API is open", opened).await;
    let (port, other) = api(&place);
    assert_ne!(other, token);
    assert_eq!(ask(port, "GET", AUTHORITY, "/v1/forwards", &authorised).await.0, 401);
    let bearer = format!("Bearer {other}");
    assert_eq!(ask(port, "GET", AUTHORITY, "/v1/forwards", &[("authorization", bearer.as_str())]).await.0, 200);
    // One that is gone while it is in use goes on.
    std::os::unix::fs::symlink("/dev/full", &next).unwrap();
    std::fs::remove_file(place.home.path().join("state/adit/daemon.token")).unwrap();
    place.ok(&["start", "web"]);
    assert_eq!(ask(port, "GET", AUTHORITY, "/v1/forwards", &[("authorization", bearer.as_str())]).await.0, 200);
}
