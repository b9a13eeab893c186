//! What people read, and how it ends.

use std::time::{Duration, Instant};

use testkit::origin::HttpOrigin;
use testkit::process::{self, Process, Signal};
use testkit::raw;
use tokio::net::TcpStream;

use super::support::{Bed, WEB, gateway, web};
use crate::support::{DEADLINE, adit, eventually};

#[tokio::test]
async fn people_read_what_is_open_what_happens_and_what_a_reload_changed() {
    let bed = Bed::start().await;
    bed.write(&format!("forwards:\n  shop: {{ to: \"{WEB}\", listen: 0 }}\n{}", gateway(&[], &[&web()])));
    let mut command = adit(bed.home.path());
    let process = Process::start(command.arg("up").env("KUBECONFIG", bed.home.path().join("kubeconfig"))).unwrap();
    let line = |text: &'static str| process.line(DEADLINE, move |line: &str| line.contains(text));
    line("started in").await.expect("the last line of the start");
    let port = process.line(DEADLINE, |line| line.starts_with("shop  127.0.0.1:")).await.expect("the port");
    assert!(port.ends_with(&format!(" → {WEB}  on demand")), "{port}");
    let route = process.line(DEADLINE, |line| line.starts_with("web.localhost  http://web.localhost:")).await;
    assert!(route.expect("the route").ends_with(WEB));
    let address = port.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("an address");
    assert_eq!(raw::get(address, "localhost", "/").await.unwrap().status, 200);
    let ready = line("ready in").await.expect("its start");
    assert!(ready.contains("shop") && ready.contains("(pod web-1)"), "{ready}");
    let gateway_at = process.line(DEADLINE, |line| line.starts_with("gateway  http://localhost:")).await.expect("it");
    let gateway_port = gateway_at.split_whitespace().nth(1).and_then(|url| url.rsplit(':').next()).expect("its port");
    let host = format!("web-80.svc.default.ns.fake.cx.k8s.localhost:{gateway_port}");
    let gateway_address = format!("127.0.0.1:{gateway_port}").parse().expect("an address");
    assert_eq!(raw::get(gateway_address, &host, "/").await.unwrap().status, 200);
    // A host's URL says its name: once is enough.
    let told = process.line(DEADLINE, |line| line.contains(".cx.k8s.localhost") && line.contains("ready in")).await;
    assert!(told.expect("its start").starts_with(&format!("http://{host} → {WEB}")));
    bed.write(&gateway(&[], &[&web()]));
    line("reloaded: removed forward shop").await.expect("the reload");
    bed.write("gateway: { liste: 1 }\n");
    line("not reloaded, everything stays as it is:").await.expect("the refusal");
    line("did you mean `listen`?").await.expect("the hint");
    process.signal(Signal::TERM).unwrap();
    assert_eq!(process.exited(DEADLINE).await.unwrap().code(), Some(0), "{}", process.output());
    assert!(!process.output().contains(" ERROR "), "{}", process.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_wrong_ends_it_with_2_and_all_that_is_wrong_is_said() {
    let bed = Bed::start().await;
    bed.write("gateway: { listen: nowhere:x }\nforwards: { a: { to: \"k8s://a\" } }\n");
    let (status, said) = process::run(&mut bed.command(), b"", DEADLINE).unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(said.stderr().contains("gateway.listen") && said.stderr().contains("forwards.a.to"), "{}", said.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_asks_for_nothing_ends_it_and_a_gateway_without_keys_is_something() {
    let bed = Bed::start().await;
    for text in ["", "kubernetes: { keepalive: 1m }\n", "publish: {}\n"] {
        bed.write(text);
        let (status, said) = process::run(&mut bed.command(), b"", DEADLINE).unwrap();
        assert_eq!(status.code(), Some(2), "{text}");
        assert!(
            said.stderr().contains("asks for nothing") && said.stderr().contains("gateway: {}"),
            "{}",
            said.output()
        );
    }
    let up = bed.up(&gateway(&[], &[])).await;
    assert_eq!(up.end(Signal::TERM).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_at_the_start_ends_it_and_nothing_was_opened() {
    let bed = Bed::start().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    bed.write(&format!("forwards:\n  a: {{ to: \"{WEB}\", listen: {port} }}\n"));
    let (status, said) = process::run(&mut bed.command(), b"", DEADLINE).unwrap();
    assert_ne!(status.code(), Some(0));
    assert!(said.stderr().contains("forwards.a.listen") && said.stderr().contains("is free"), "{}", said.output());
    assert_eq!(said.stdout(), "");
}

#[tokio::test]
async fn clients_that_are_silent_or_idle_do_not_hold_up_the_end() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let _silent = TcpStream::connect(up.gateway()).await.unwrap();
    let mut idle = raw::Client::connect(up.gateway()).await.unwrap();
    assert_eq!(idle.get(&up.host("web.localhost"), "/").await.unwrap().status, 200);
    let start = Instant::now();
    assert_eq!(up.end(Signal::INT).await, Some(130));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// S6.
#[tokio::test]
async fn s6_no_password_of_a_route_and_no_authorization_is_told_whatever_is_logged() {
    let bed = Bed::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let file = |password: &str| {
        let auth = format!("basic_auth: {{ user: me, password: {password} }}");
        gateway(&[], &[&format!("a.localhost: {{ to: \"http://{}\", {auth} }}", origin.addr())])
    };
    bed.write(&file("first-Secret-1"));
    let mut command = adit(bed.home.path());
    command.args(["up", "-vvv", "--log-format", "json"]).env("KUBECONFIG", bed.home.path().join("kubeconfig"));
    let process = Process::start(&mut command).unwrap();
    process.line(DEADLINE, |line| line.contains("started in")).await.expect("the start");
    let route = process.line(DEADLINE, |line| line.starts_with("a.localhost  http://a.localhost:")).await.unwrap();
    let port = route.split("a.localhost:").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    // me:first-Secret-1, me:second-Secret-2
    for (token, status) in [("bWU6Zmlyc3QtU2VjcmV0LTE=", 200), ("bWU6c2Vjb25kLVNlY3JldC0y", 401)] {
        let headers = [("Authorization", format!("Basic {token}"))];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = raw::request(address, "GET", "a.localhost", "/", &headers, b"").await.unwrap();
        assert_eq!(answer.status, status);
        assert!(!answer.text().contains(token), "{}", answer.text());
    }
    assert!(!origin.last_head().unwrap().to_ascii_lowercase().contains("authorization"), "it is the gateway's own");
    bed.write(&file("second-Secret-2"));
    process.line(DEADLINE, |line| line.contains("reloaded: changed route a.localhost")).await.expect("the reload");
    process.signal(Signal::TERM).unwrap();
    process.exited(DEADLINE).await.unwrap();
    let said = process.output();
    for secret in ["first-Secret-1", "second-Secret-2", "bWU6Zmlyc3QtU2VjcmV0LTE", "bWU6c2Vjb25kLVNlY3JldC0y"] {
        assert!(!said.contains(secret), "{secret} was told");
    }
}

#[tokio::test]
async fn a_failure_is_told_once_and_which_kubeconfig_it_is() {
    let bed = Bed::start().await;
    let gone = "gone.localhost: { to: \"forward:gone\" }";
    let forwards = "forwards:\n  gone: { to: \"k8s://fake/default/service/gone:80\" }\n";
    bed.write(&format!("{forwards}{}", gateway(&[], &[gone])));
    let mut command = adit(bed.home.path());
    let process = Process::start(command.arg("up").env("KUBECONFIG", bed.home.path().join("kubeconfig"))).unwrap();
    let line = |text: &'static str| process.line(DEADLINE, move |line: &str| line.contains(text));
    let kubeconfig = line("kubeconfig  ").await.expect("the files");
    assert!(kubeconfig.ends_with(": 1 context"), "{kubeconfig}");
    let route = line("gone.localhost  http://").await.unwrap();
    let port = route.split("gone.localhost:").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    for _ in 0..3 {
        assert_eq!(raw::get(address, "gone.localhost", "/").await.unwrap().status, 502);
    }
    line("gone: ").await.expect("the forward's line");
    // A change is told after what came before it.
    bed.write(&format!("{forwards}{}", gateway(&["idle_timeout: 1h"], &[gone, &web()])));
    line("reloaded:").await.expect("the reload");
    let told = process.output().lines().filter(|line| line.contains("not found")).count();
    assert_eq!(told, 1, "{}", process.output());
    process.signal(Signal::TERM).unwrap();
    process.exited(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn one_outage_of_a_cluster_is_one_line_for_all_that_wait_for_it_and_so_is_its_end() {
    let bed = Bed::start().await;
    let forwards = format!("forwards:\n  a: {{ to: \"{WEB}\", listen: 0 }}\n  b: {{ to: \"{WEB}\", listen: 0 }}\n");
    bed.write(&format!("{forwards}{}", gateway(&[], &[&web()])));
    let mut command = adit(bed.home.path());
    let process = Process::start(command.arg("up").env("KUBECONFIG", bed.home.path().join("kubeconfig"))).unwrap();
    let line = |text: &'static str| process.line(DEADLINE, move |line: &str| line.contains(text));
    line("started in").await.expect("the start");
    let mut used = Vec::new();
    for name in ["a  ", "b  ", "gateway  "] {
        let opened = process.line(DEADLINE, |line| line.starts_with(name)).await.expect("an address");
        let at = opened.split_whitespace().nth(1).expect("an address").replace("http://localhost:", "127.0.0.1:");
        used.push(at.parse().expect("an address"));
    }
    for address in &used {
        assert_eq!(raw::get(*address, "web.localhost", "/").await.unwrap().status, 200);
    }
    process.line(DEADLINE, |line| line.starts_with("http://web.localhost")).await.expect("the last start");
    let before = process.line_count();
    bed.cluster.faults().stop().await;
    line("context fake: 3 entrances wait: ").await.expect("the outage");
    line("those are a, b, web.localhost").await.expect("whom it concerns");
    bed.cluster.faults().restart();
    line("context fake: back after").await.expect("its end");
    for address in &used {
        let works =
            || async { raw::get(*address, "web.localhost", "/").await.ok().filter(|answer| answer.status == 200) };
        eventually(DEADLINE, "an answer", works).await;
    }
    process.signal(Signal::TERM).unwrap();
    assert_eq!(process.exited(DEADLINE).await.unwrap().code(), Some(0));
    assert_eq!(process.line_count() - before, 3, "{}", process.output());
}
