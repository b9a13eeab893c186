//! What autotunnel's own integration tests ask of it, asked of `adit up`.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use testkit::cluster::{Host, PodSpec, PodStart, ServicePort};
use testkit::noise;
use testkit::origin::{HttpOrigin, TcpOrigin};
use testkit::process::Signal;
use testkit::raw::{self, Client};
use testkit::ws::{Message, WebSocket};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::{Bed, Up, WEB, gateway, together, web};
use crate::support::{DEADLINE, SOON, eventually, within};

const HOST: &str = "web.localhost";
const DYNAMIC: &str = "web-80.svc.default.ns.fake.cx.k8s.localhost";

#[tokio::test]
async fn a_route_and_a_dynamic_host_start_with_their_first_request() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    assert_eq!(bed.cluster.requests().len(), 0, "nothing is asked of the cluster before");
    for host in [HOST, DYNAMIC] {
        let answer = up.get(host, "/").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "Hello, world!"), "{host}");
    }
    let ready = up.event("ready").await;
    assert_eq!((&ready["pod"], &ready["state"]), (&"web-1".into(), &"ready".into()));
}

#[tokio::test]
async fn an_unknown_host_is_a_404_with_those_that_could_be_meant() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let (status, page) = up.json("wbe.localhost", "/").await;
    assert_eq!(status, 404);
    assert_eq!(page["error"]["near"][0], HOST, "{page}");
    assert_eq!(up.get("nothing.like.it.example", "/").await.status, 404);
}

#[tokio::test]
async fn ports_may_be_called_by_their_names() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &["named.localhost: { to: \"k8s://fake/default/service/web:http\" }"])).await;
    assert_eq!(up.get("named.localhost", "/").await.status, 200);
    assert_eq!(up.get("web-http.svc.default.ns.fake.cx.k8s.localhost", "/").await.status, 200);
}

#[tokio::test]
async fn each_port_of_a_service_leads_where_it_should() {
    let bed = Bed::start().await;
    let admin = HttpOrigin::start().await.unwrap();
    let ports = [ServicePort::new(80).named("http").to(8080), ServicePort::new(90).named("admin").to(9090)];
    bed.cluster.add_service("default", "multi", &[("app", "multi")], &ports);
    let pod = PodSpec::new("default", "multi-1").label("app", "multi").port("http", 8080).port("admin", 9090);
    bed.cluster.add_pod(pod.backend(8080, bed.origin.addr()).backend(9090, admin.addr()));
    let up = bed.up(&gateway(&[], &[])).await;
    for (port, requests) in [("80", (1, 0)), ("90", (1, 1)), ("admin", (1, 2)), ("http", (2, 2))] {
        let host = format!("multi-{port}.svc.default.ns.fake.cx.k8s.localhost");
        assert_eq!(up.get(&host, "/").await.status, 200, "{host}");
        assert_eq!((bed.origin.requests(), admin.requests()), requests, "{host}");
    }
}

#[tokio::test]
async fn a_websocket_opens_a_cold_route_and_carries_large_messages() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let mut socket = WebSocket::connect(up.gateway(), &up.host(HOST), "/ws").await.unwrap();
    for size in [0, 125, 70_000, 1 << 20] {
        let sent = Message::Binary(noise::bytes(1, size));
        socket.send(sent.clone()).await.unwrap();
        assert!(socket.receive().await.unwrap() == Some(sent), "{size} bytes");
    }
    socket.close().await.unwrap();
    eventually(DEADLINE, "its end in the pod", || async { (bed.origin.open() == 0).then_some(()) }).await;
}

#[tokio::test]
async fn the_host_may_be_written_in_any_case_with_any_port_or_a_trailing_dot() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web(), &format!("\"*.Apps.Localhost\": {{ to: \"{WEB}\" }}")])).await;
    let dynamic = DYNAMIC.to_uppercase().replace("WEB-80", "Web-80");
    for host in ["WEB.LocalHost", "web.localhost.", "web.localhost:1", "a.b.APPS.localhost", &dynamic] {
        let answer = raw::get(up.gateway(), host, "/head").await.unwrap();
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
        let kept = format!("\r\nhost: {}\r\n", host.to_lowercase().trim_end_matches('.'));
        assert!(answer.text().contains(&kept), "{kept}: {}", answer.text());
    }
    assert_eq!(raw::get(up.gateway(), "apps.localhost", "/").await.unwrap().status, 404);
}

#[tokio::test]
async fn an_empty_or_missing_or_second_host_is_a_bad_request() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    for head in [
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web.localhost\r\nHost: web.localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web.localhost/x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    ] {
        let mut client = Client::connect(up.gateway()).await.unwrap();
        client.send(head.as_bytes()).await.unwrap();
        let answer = client.response(false).await.unwrap();
        assert_eq!(answer.status, 400, "{head:?}: {}", answer.text());
    }
    assert_eq!(bed.origin.requests(), 0);
}

#[tokio::test]
async fn a_port_stops_when_it_is_idle_and_starts_again() {
    let bed = Bed::start().await;
    let origin = TcpOrigin::start().await.unwrap();
    bed.add_service("tcp", 7, origin.addr());
    let to = "k8s://fake/default/service/tcp:7";
    let up = bed.up(&format!("forwards:\n  tcp: {{ to: \"{to}\", listen: 0, idle_timeout: 1s }}\n")).await;
    for _ in 0..2 {
        let from = up.process.line_count();
        let mut stream = TcpStream::connect(up.port("tcp")).await.unwrap();
        stream.write_all(b"head\n").await.unwrap();
        within("an answer", stream.read_exact(&mut [0; 6])).await.unwrap();
        up.event_from(from, "ready", |_| true).await;
        drop(stream);
        up.event_from(from, "idle", |_| true).await;
        let connections = || bed.cluster.faults().streams().open_connections();
        eventually(DEADLINE, "the end of the session", || async { (connections() == 0).then_some(()) }).await;
    }
}

#[tokio::test]
async fn a_route_stops_when_it_is_idle_and_starts_again() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&["idle_timeout: 1s"], &[&web()])).await;
    assert_eq!(up.get(HOST, "/").await.status, 200);
    up.event("ready").await;
    // The connection to the service that is kept for the next request is no use of it.
    let idle = up.event("idle").await;
    assert_eq!(idle["name"], HOST);
    let connections = || bed.cluster.faults().streams().open_connections();
    eventually(DEADLINE, "the end of the session", || async { (connections() == 0).then_some(()) }).await;
    assert_eq!(up.get(HOST, "/").await.status, 200);
}

#[tokio::test]
async fn a_forward_with_one_live_websocket_is_not_idle() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&["idle_timeout: 1s"], &[&web()])).await;
    let mut socket = WebSocket::connect(up.gateway(), &up.host(HOST), "/ws").await.unwrap();
    up.event("ready").await;
    // Longer than the time-out: this silence is what is tested.
    assert!(tokio::time::timeout(Duration::from_millis(2500), socket.receive_patiently()).await.is_err());
    socket.send_text("still there").await.unwrap();
    assert_eq!(socket.receive().await.unwrap(), Some(Message::Text("still there".into())));
    assert_eq!(up.count("idle"), 0);
    socket.close().await.unwrap();
    up.event("idle").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_first_requests_at_once_share_one_start() {
    let bed = Bed::start().await;
    bed.cluster.faults().api_delay(Duration::from_millis(50));
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let (address, host) = (up.gateway(), up.host(HOST));
    let requests = (0..500).map(|_| {
        let host = host.clone();
        async move { raw::get(address, &host, "/").await.map(|answer| answer.status).map_err(|error| error.to_string()) }
    });
    let statuses = together(requests).await;
    let bad: Vec<_> = statuses.iter().filter(|status| **status != Ok(200)).collect();
    assert!(bad.is_empty(), "{} of 500: {:?}", bad.len(), bad.first());
    // The sessions of one pool, over which streams are spread; and the objects were asked for once.
    assert!(bed.cluster.faults().streams().connections() <= 8, "{}", bed.cluster.faults().streams().connections());
    let asked = bed.cluster.requests();
    let about: Vec<_> = asked.iter().filter(|line| !line.contains("/portforward")).collect();
    assert!(about.len() <= 12, "{about:?}");
    // What has changed is looked at four times a second.
    up.event("ready").await;
    assert_eq!(up.count("ready"), 1);
}

#[tokio::test]
async fn tcp_bodies_from_one_byte_to_sixteen_megabytes_come_back_whole() {
    let bed = Bed::start().await;
    let origin = TcpOrigin::start().await.unwrap();
    bed.add_service("echo", 7, origin.addr());
    let up = bed.up("forwards:\n  echo: { to: \"k8s://fake/default/service/echo:7\", listen: 0 }\n").await;
    for size in [1, 100, 1 << 10, 64 << 10, (64 << 10) + 1, 1 << 20, 16 << 20] {
        let sent = noise::bytes(3, size);
        let mut stream = TcpStream::connect(up.port("echo")).await.unwrap();
        let (mut read, mut write) = stream.split();
        let mut got = vec![0; size];
        let both = async {
            let writing = async {
                write.write_all(b"echo\n").await?;
                write.write_all(&sent).await
            };
            tokio::try_join!(writing, read.read_exact(&mut got)).map(|_| ())
        };
        within("the echo", both).await.unwrap();
        assert!(got == sent, "{size} bytes");
    }
}

/// A file with one jump.
fn jump(via: &str, host: &str) -> String {
    format!(
        "forwards:\n  db:\n    to:\n      jump: {{ context: fake, namespace: default, via: {{ {via} }}, host: {host}, \
         port: 5432 }}\n    listen: 0\n"
    )
}

async fn ask(up: &Up, port: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(up.port(port)).await?;
    stream.write_all(b"sink\nabc").await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    within("an answer", stream.read_to_end(&mut answer)).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_jump_runs_in_the_container_that_is_named() {
    let bed = Bed::start().await;
    let origin = TcpOrigin::start().await.unwrap();
    bed.cluster.add_pod(PodSpec::new("default", "two").container("tools"));
    let inside = bed.cluster.faults().streams().inside();
    inside.set_tools("default", "two", &["cat"]);
    inside.set_tools("default", "two/tools", &["socat"]);
    inside.set_host("default", "two", "db.internal:5432", Host::At(origin.addr()));
    let up = bed.up(&jump("pod: two, container: tools", "db.internal")).await;
    assert_eq!(ask(&up, "db").await.unwrap(), b"3");
    assert!(bed.cluster.requests().iter().any(|line| line.contains("/pods/two/exec") && line.contains("=tools")));
}

#[tokio::test]
async fn a_jump_takes_nc_where_there_is_no_socat() {
    let bed = Bed::start().await;
    let origin = TcpOrigin::start().await.unwrap();
    let inside = bed.cluster.faults().streams().inside();
    inside.set_host("default", "web-1", "db.internal:5432", Host::At(origin.addr()));
    inside.set_tools("default", "web-1", &["nc"]);
    let up = bed.up(&jump("service: web", "db.internal")).await;
    assert_eq!(ask(&up, "db").await.unwrap(), b"3");
}

#[tokio::test]
async fn a_jump_to_a_host_that_cannot_be_reached_says_so() {
    let bed = Bed::start().await;
    bed.cluster.faults().streams().inside().set_host("default", "web-1", "db.internal:5432", Host::Refused);
    let file =
        format!("{}{}", jump("service: web", "db.internal"), gateway(&[], &["db.localhost: { to: \"forward:db\" }"]));
    let up = bed.up(&file).await;
    let end = ask(&up, "db").await.expect_err("nothing listens there");
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    let error = up.event("error").await;
    assert!(error["message"].as_str().unwrap().contains("db.internal:5432 refused the connection"), "{error}");
    let answer = up.get("db.localhost", "/").await;
    assert_eq!(answer.status, 502, "{}", answer.text());
}

#[tokio::test]
async fn a_pod_to_jump_through_that_does_not_get_ready_fails_in_its_time() {
    let bed = Bed::start().await;
    bed.cluster.on_create(PodStart::Waiting { reason: "ImagePullBackOff".into(), message: "no such image".into() });
    let via = "pod: adit-jump, create: { image: example/socat, timeout: 1s }";
    let file = format!("{}{}", jump(via, "db.internal"), gateway(&[], &["db.localhost: { to: \"forward:db\" }"]));
    let up = bed.up(&file).await;
    let answer = up.get("db.localhost", "/").await;
    assert!(matches!(answer.status, 502 | 504), "{}", answer.text());
    assert!(answer.text().contains("ImagePullBackOff"), "{}", answer.text());
    assert_eq!(up.end(Signal::TERM).await, Some(0));
    eventually(DEADLINE, "the pod's removal", || async {
        bed.cluster.get("Pod", "default", "adit-jump").is_none().then_some(())
    })
    .await;
}

/// A second route is there after `write`.
async fn is_reloaded(up: &Up, write: impl FnOnce(&str)) {
    assert_eq!(up.get("second.localhost", "/").await.status, 404);
    let from = up.process.line_count();
    write(&format!("version: 1\n{}", with_second()));
    let event = up.event_from(from, "reloaded", |_| true).await;
    assert_eq!(event["added"], serde_json::json!(["route second.localhost"]), "{event}");
    assert_eq!(up.get("second.localhost", "/").await.status, 200);
}

fn with_second() -> String {
    gateway(&[], &[&web(), &format!("second.localhost: {{ to: \"{WEB}\" }}")])
}

#[tokio::test]
async fn a_file_that_is_written_over_is_read_again() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    is_reloaded(&up, |text| std::fs::write(bed.file(), text).unwrap()).await;
}

#[tokio::test]
async fn a_file_that_vim_saves_is_read_again() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let backup = bed.home.path().join("adit.yaml~");
    is_reloaded(&up, |text| {
        std::fs::rename(bed.file(), &backup).unwrap();
        std::fs::write(bed.file(), text).unwrap();
        std::fs::remove_file(&backup).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_replaced_by_renaming_is_read_again_each_time() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let beside = bed.home.path().join(".adit.yaml.swp");
    is_reloaded(&up, |text| {
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, bed.file()).unwrap();
    })
    .await;
    let from = up.process.line_count();
    std::fs::write(&beside, format!("version: 1\n{}", gateway(&[], &[&web()]))).unwrap();
    std::fs::rename(&beside, bed.file()).unwrap();
    let event = up.event_from(from, "reloaded", |_| true).await;
    assert_eq!(event["removed"], serde_json::json!(["route second.localhost"]), "{event}");
}

#[tokio::test]
async fn a_mounted_config_map_that_is_swapped_is_read_again() {
    let bed = Bed::start().await;
    let mount = bed.home.path().join("mount");
    let version = |name: &str, text: &str| {
        std::fs::create_dir_all(mount.join(name)).unwrap();
        std::fs::write(mount.join(name).join("adit.yaml"), text).unwrap();
    };
    version("..2026_1", &format!("version: 1\n{}", gateway(&[], &[&web()])));
    symlink("..2026_1", mount.join("..data")).unwrap();
    symlink("..data/adit.yaml", mount.join("adit.yaml")).unwrap();
    let mut command = bed.command();
    let up = Up::start(command.arg("--config").arg(mount.join("adit.yaml"))).await;
    is_reloaded(&up, |text| {
        version("..2026_2", text);
        symlink("..2026_2", mount.join("..data_tmp")).unwrap();
        std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        std::fs::remove_dir_all(mount.join("..2026_1")).unwrap();
    })
    .await;
    assert!(Path::new(&mount).join("adit.yaml").exists());
}

#[tokio::test]
async fn a_file_that_is_gone_for_a_while_changes_nothing() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    std::fs::remove_file(bed.file()).unwrap();
    let failed = up.event("reload-failed").await;
    assert!(failed["message"].as_str().is_some_and(|message| message.contains("adit.yaml")), "{failed}");
    assert_eq!(up.get(HOST, "/").await.status, 200);
    up.reload(&bed, &with_second()).await;
    let found = || async { (up.status("second.localhost").await == Some(200)).then_some(()) };
    eventually(SOON, "the second route", found).await;
}
