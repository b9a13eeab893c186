//! Local ports: taken, free, several, on several addresses.

use std::net::TcpListener;

use testkit::process;

use super::{Bench, address, addresses, status};
use crate::support::DEADLINE;

/// A port of 127.0.0.1 that this process holds.
fn taken() -> (TcpListener, u16) {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = holder.local_addr().expect("its address").port();
    (holder, port)
}

#[tokio::test]
async fn a_taken_port_names_its_holder_and_the_command_that_works() {
    let bench = Bench::start().await;
    let (_holder, port) = taken();
    let pair = format!("{port}:80");
    let (status, said) = process::run(&mut bench.command(&["svc/web", &pair]), b"", DEADLINE).expect("it ends");
    assert_eq!(status.code(), Some(2));
    let stderr = said.stderr();
    let first = format!("error: port {port} on 127.0.0.1 is taken by ");
    assert!(stderr.starts_with(&first) && stderr.contains(&format!("(pid {}", std::process::id())), "{stderr}");
    let free = stderr.split("hint: use ").nth(1).and_then(|rest| rest.split(',').next()).expect("a free port");
    assert!(stderr.contains(&format!("which is free: adit forward svc/web {free}:80\n")), "{stderr}");
    assert_eq!(said.stdout(), "");
    assert_eq!(bench.cluster.requests().len(), 0, "nothing is connected before the ports are had");
}

#[tokio::test]
async fn with_auto_port_the_nearest_free_port_is_used_and_printed() {
    let bench = Bench::start().await;
    let (_holder, port) = taken();
    let process = bench.forward(&["svc/web", &format!("{port}:80"), "--auto-port"], 1).await;
    let actual = address(&process);
    assert!((1..=99).contains(&actual.port().abs_diff(port)), "{actual}");
    assert!(
        process.stderr().contains(&format!("port {port} is taken, using {}", actual.port())),
        "{}",
        process.stderr()
    );
    assert_eq!(status(actual).await, Some(200));
}

#[tokio::test]
async fn the_port_is_held_before_the_target_is_ready() {
    let bench = Bench::start().await;
    bench.cluster.set_ready("default", "web-1", false);
    let port = process::free_port().expect("a port");
    let process = bench.spawn(&["svc/web", &format!("{port}:80"), "-o", "json"]);
    process.line(DEADLINE, |line| line.contains("\"listening\"")).await.expect("the port is bound");
    TcpListener::bind(("127.0.0.1", port)).expect_err("it is held");
    let early = async { status(([127, 0, 0, 1], port).into()).await };
    let becomes_ready = async {
        process.line(DEADLINE, |line| line.contains("\"waiting\"")).await.expect("it waits");
        bench.cluster.set_ready("default", "web-1", true);
    };
    let (early, ()) = tokio::join!(early, becomes_ready);
    assert_eq!(early, Some(200), "a client that came early is served: {}", process.output());
}

#[tokio::test]
async fn several_ports_are_forwarded_at_once() {
    let bench = Bench::start().await;
    let process = bench.forward(&["pod/web-1", ":8080", ":http"], 2).await;
    let mut ports: Vec<u16> = addresses(&process).iter().map(std::net::SocketAddr::port).collect();
    ports.dedup();
    assert_eq!(ports.len(), 2, "in the order they were asked for: {}", process.output());
    for address in addresses(&process) {
        assert_eq!(status(address).await, Some(200), "{address}");
    }
}

#[tokio::test]
async fn a_list_of_addresses_is_listened_on() {
    let bench = Bench::start().await;
    let process = bench.forward(&["svc/web", ":80", "--address", "127.0.0.1,127.0.0.2"], 1).await;
    let found: Vec<String> = addresses(&process).iter().map(|address| address.ip().to_string()).collect();
    assert_eq!(found, ["127.0.0.1", "127.0.0.2"]);
    for address in addresses(&process) {
        assert_eq!(status(address).await, Some(200), "{address}");
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_an_error() {
    let bench = Bench::start().await;
    let mut command = bench.command(&["svc/web", ":80", "--address", "127.0.0.1,192.0.2.1"]);
    let (status, said) = process::run(&mut command, b"", DEADLINE).expect("it ends");
    assert_eq!(status.code(), Some(2));
    assert!(said.stderr().starts_with("error: 192.0.2.1 is not an address of this machine"), "{}", said.stderr());
}
