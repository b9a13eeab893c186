//! The section `publish` with an SSH server in the place of a tunnel server: what `ssh -R` does.

use std::net::SocketAddr;

use testkit::origin::TcpOrigin;
use testkit::process::{Signal, free_port};
use testkit::sshd::Sshd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::{Bed, Up, WEB, gateway};
use crate::support::{DEADLINE, within};

/// The section for a server, with these tunnels.
fn via(sshd: &Sshd, tunnels: &[&str]) -> String {
    let config = sshd.path("ssh_config");
    std::fs::write(&config, "Host *\n  IdentityAgent none\n").expect("a file is written");
    let tunnels: String = tunnels.iter().map(|line| format!("    {line}\n")).collect();
    format!(
        "publish:\n  via: {{ server: \"{}@{}\", key: {}, known_hosts: {}, config: {} }}\n  tunnels:\n{tunnels}",
        sshd.user(),
        sshd.addr(),
        sshd.key().display(),
        sshd.known_hosts().display(),
        config.display()
    )
}

async fn published(up: &Up, tunnel: &str) -> SocketAddr {
    let event = up.event_from(0, "published", |event| event["tunnel"] == tunnel).await;
    let port = u16::try_from(event["port"].as_u64().expect("a port")).expect("it works");
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn get(at: SocketAddr) -> String {
    let mut stream = TcpStream::connect(at).await.expect("it works");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("it works");
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.expect("it works");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_of_an_ssh_server_lead_into_a_cluster_and_to_this_machine() {
    let bed = Bed::start().await;
    let sshd = Sshd::start(&[]).await;
    let tcp = TcpOrigin::start().await.unwrap();
    let (web, local) =
        (format!("web: {{ to: \"{WEB}\", port: 0 }}"), format!("local: {{ to: {}, port: 0 }}", tcp.addr().port()));
    let up = bed.up(&format!("{}{}", gateway(&[], &[]), via(&sshd, &[&web, &local]))).await;
    let answer = get(published(&up, "web").await).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Hello, world!"), "{answer}");
    let mut stream = TcpStream::connect(published(&up, "local").await).await.unwrap();
    stream.write_all(b"echo\nhello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    within("an echo", stream.read_to_string(&mut back)).await.unwrap();
    assert_eq!(back, "hello");
    assert_eq!(up.end(Signal::INT).await, Some(130));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_leaves_the_visitors_of_what_stays_alone() {
    let bed = Bed::start().await;
    let sshd = Sshd::start(&[]).await;
    let tcp = TcpOrigin::start().await.unwrap();
    let (first, second) = (free_port().unwrap(), free_port().unwrap());
    let stays = format!("stays: {{ to: {}, port: {first} }}", tcp.addr().port());
    let goes = format!("goes: {{ to: {}, port: {second} }}", tcp.addr().port());
    let up = bed.up(&via(&sshd, &[&stays, &goes])).await;
    let mut held = TcpStream::connect(published(&up, "stays").await).await.unwrap();
    published(&up, "goes").await;
    held.write_all(b"echo\none").await.unwrap();
    let mut three = [0; 3];
    within("an echo", held.read_exact(&mut three)).await.unwrap();
    let comes = format!("comes: {{ to: \"{WEB}\", port: 0 }}");
    up.reload(&bed, &via(&sshd, &[&stays, &comes])).await;
    assert!(get(published(&up, "comes").await).await.contains("Hello, world!"));
    held.write_all(b"two").await.unwrap();
    within("an echo", held.read_exact(&mut three)).await.unwrap();
    let closed = async { while TcpStream::connect(("127.0.0.1", second)).await.is_ok() {} };
    within("the port is closed", closed).await;
    assert_eq!((&three, sshd.logins()), (b"two", 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forbids_it_or_is_away_is_told_with_what_to_do() {
    let bed = Bed::start().await;
    let sshd = Sshd::start(&["AllowTcpForwarding no"]).await;
    let up = bed.up(&via(&sshd, &[&format!("web: {{ to: \"{WEB}\", port: 8080 }}")])).await;
    let refused = up.event("refused").await;
    assert!(refused["hint"].as_str().unwrap().contains("AllowTcpForwarding"), "{refused}");
    sshd.kill().await;
    let lost = up.event("lost").await;
    assert!(lost["reason"].is_string() && lost["retry_in_ms"].is_u64(), "{lost}");
}

#[tokio::test]
async fn expose_says_that_a_tunnel_by_ssh_is_for_up() {
    let bed = Bed::start().await;
    let sshd = Sshd::start(&[]).await;
    bed.write(&via(&sshd, &["web: { to: 3000, port: 8080 }"]));
    let mut command = crate::support::adit(bed.home.path());
    command.args(["expose", "--config"]).arg(bed.file());
    let (status, process) = testkit::process::run(&mut command, b"", DEADLINE).unwrap();
    assert_eq!(status.code(), Some(2), "{}", process.output());
    assert!(process.stderr().contains("adit up publish"), "{}", process.stderr());
}
