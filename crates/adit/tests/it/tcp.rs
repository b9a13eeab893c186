//! TCP tunnels: byte pipes with half-close, in front of real services.

mod services;

use std::net::SocketAddr;
use std::time::Duration;

use testkit::load;
use testkit::noise;
use testkit::origin::TcpOrigin;
use testkit::raw;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Agent, DEADLINE, Publish, Server, eventually, narrow, within};

struct Tunnel {
    server: Server,
    origin: TcpOrigin,
    agent: Agent,
}

async fn tunnel() -> Tunnel {
    let server = Server::setup().tcp_ports().start().await;
    let origin = TcpOrigin::start().await.expect("a local service");
    let agent = Publish::to(&server).tcp(origin.addr(), 0).start().await;
    Tunnel { server, origin, agent }
}

#[tokio::test]
async fn all_six_half_close_cases_pass() {
    let tunnel = tunnel().await;
    let results = load::half_close(tunnel.agent.port(), DEADLINE).await;
    assert_eq!(results.len(), 6);
    for (case, result) in results {
        assert_eq!(result, Ok(()), "{case}");
    }
    eventually(DEADLINE, "the end of the local connections", || async { (tunnel.origin.open() == 0).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_times_eight_megabytes_of_noise_come_back_equal() {
    let tunnel = tunnel().await;
    assert_eq!(load::noise_echo(tunnel.agent.port(), 8, 8 << 20).await, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_visitor_who_ends_its_direction_at_once_and_reads_slowly_gets_all_of_a_large_answer() {
    let answer = noise::bytes(7, 16 << 20);
    let server = Server::setup().tcp_ports().start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let agent = Publish::to(&server).tcp(listener.local_addr().unwrap(), 0).start().await;
    let mut visitor = narrow(agent.port()).await;
    visitor.write_all(b"all of it, please").await.unwrap();
    visitor.shutdown().await.unwrap();
    let serving = async {
        let (mut service, _) = within("the local connection", listener.accept()).await.unwrap();
        let mut asked = Vec::new();
        within("the visitor's end", service.read_to_end(&mut asked)).await.unwrap();
        assert_eq!(asked, b"all of it, please");
        service.write_all(&answer).await.unwrap();
        service.shutdown().await.unwrap();
        service
    };
    let reading = async {
        let (mut got, mut piece) = (Vec::new(), vec![0; 1 << 18]);
        loop {
            let length = within("more of it", visitor.read(&mut piece)).await.unwrap();
            if length == 0 {
                return got;
            }
            got.extend_from_slice(&piece[..length]);
            // The pace is what is tested: nothing is taken in between.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (_service, got) = tokio::join!(serving, reading);
    assert!(got == answer, "{} of {} bytes", got.len(), answer.len());
}

#[tokio::test]
async fn a_service_that_speaks_first_is_heard() {
    let tunnel = tunnel().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let agent = Publish::to(&tunnel.server).tcp(listener.local_addr().unwrap(), 0).start().await;
    let mut visitor = TcpStream::connect(agent.port()).await.unwrap();
    let (mut service, _) = within("the local connection", listener.accept()).await.unwrap();
    service.write_all(b"220 ready\r\n").await.unwrap();
    let mut said = [0; 11];
    within("the greeting", visitor.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"220 ready\r\n");
}

#[tokio::test]
async fn a_server_for_this_machine_opens_its_tcp_ports_to_this_machine_only_and_says_so() {
    let server = Server::setup().tcp_ports().start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let agent = Publish::to(&server).tcp(listener.local_addr().unwrap(), 0).start().await;
    let line = server.process().line(DEADLINE, |line| line.starts_with("tcp ports ")).await.expect("a line");
    let ports = server.ports.as_ref().unwrap();
    assert!(line.ends_with(&format!("127.0.0.1:{}-{}", ports.first, ports.last())), "{line}");
    let other = SocketAddr::from(([127, 0, 0, 2], agent.port().port()));
    TcpListener::bind(other).await.expect("it is not listened on at other addresses");
}

#[tokio::test]
async fn the_service_sees_the_visitor_by_proxy_protocol_version_2() {
    let server = Server::setup().tcp_ports().start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = listener.local_addr().unwrap();
    let agent = Publish::to(&server).tcp(local, 0).arguments(&["--proxy-protocol"]).start().await;
    let mut visitor = TcpStream::connect(agent.port()).await.unwrap();
    visitor.write_all(b"hello").await.unwrap();
    let (mut service, _) = within("the local connection", listener.accept()).await.unwrap();
    let mut got = [0; 28 + 5];
    within("the header", service.read_exact(&mut got)).await.unwrap();
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01".to_vec();
    expected.extend_from_slice(&visitor.local_addr().unwrap().port().to_be_bytes());
    expected.extend_from_slice(&agent.port().port().to_be_bytes());
    expected.extend_from_slice(b"hello");
    assert_eq!(got.as_slice(), expected.as_slice());
}

#[tokio::test]
async fn port_0_gives_any_port_of_the_range_and_each_agent_another() {
    let tunnel = tunnel().await;
    let ports = tunnel.server.ports.unwrap();
    let other = Publish::to(&tunnel.server).tcp(tunnel.origin.addr(), 0).start().await;
    for port in [tunnel.agent.port().port(), other.port().port()] {
        assert!((ports.first..=ports.last()).contains(&port), "{port}");
    }
    assert_ne!(tunnel.agent.port(), other.port());
    assert_eq!(load::echo_whole(other.port(), b"hello").await.unwrap(), b"hello");
}

#[tokio::test]
async fn port_0_passes_over_a_port_that_another_program_has() {
    let server = Server::setup().tcp_ports().start().await;
    let ports = server.ports.unwrap();
    let _other = TcpListener::bind(ports.address(0)).await.unwrap();
    let origin = TcpOrigin::start().await.unwrap();
    let agent = Publish::to(&server).tcp(origin.addr(), 0).start().await;
    assert_eq!(agent.port(), ports.address(1));
}

#[tokio::test]
async fn a_port_that_is_asked_for_is_the_one_that_is_given() {
    let server = Server::setup().tcp_ports().start().await;
    let wanted = server.ports.unwrap().address(5);
    let origin = TcpOrigin::start().await.unwrap();
    let agent = Publish::to(&server).tcp(origin.addr(), wanted.port()).start().await;
    assert_eq!(agent.port(), wanted);
    assert_eq!(load::echo_whole(wanted, b"hello").await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_port_outside_the_range_is_refused_with_the_range_as_hint() {
    let server = Server::setup().tcp_ports().start().await;
    let ports = server.ports.unwrap();
    let origin = TcpOrigin::start().await.unwrap();
    let agent = Publish::to(&server).tcp(origin.addr(), ports.last() + 1).spawn();
    assert_ne!(agent.exit_code(DEADLINE).await, Some(0));
    let output = agent.process().stderr();
    assert!(
        output.contains("is not one of this server's")
            && output.contains("hint: ")
            && output.contains(&format!("{}-{}", ports.first, ports.last())),
        "{output}"
    );
}

#[tokio::test]
async fn a_server_without_tcp_ports_says_so() {
    let server = Server::start().await;
    let origin = TcpOrigin::start().await.unwrap();
    let agent = Publish::to(&server).tcp(origin.addr(), 0).spawn();
    assert_ne!(agent.exit_code(DEADLINE).await, Some(0));
    assert!(agent.process().stderr().contains("publishes no TCP ports"), "{}", agent.process().stderr());
}

#[tokio::test]
async fn connections_are_refused_once_the_agent_is_gone() {
    let mut tunnel = tunnel().await;
    let port = tunnel.agent.port();
    assert_eq!(load::echo_whole(port, b"hello").await.unwrap(), b"hello");
    let mut open = TcpStream::connect(port).await.unwrap();
    open.write_all(b"echo\nabc").await.unwrap();
    let mut got = [0; 3];
    within("the echo", open.read_exact(&mut got)).await.unwrap();
    tunnel.agent.kill().await;
    let end = within("the end of the open connection", open.read(&mut got)).await;
    assert!(!matches!(end, Ok(n) if n > 0), "{end:?}");
    eventually(Duration::from_secs(3), "the refusal", || async { TcpStream::connect(port).await.err() }).await;
}

#[tokio::test]
async fn a_local_service_that_is_down_ends_the_visitors_connection_and_the_next_one_works() {
    let server = Server::setup().tcp_ports().start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = listener.local_addr().unwrap();
    drop(listener);
    let agent = Publish::to(&server).tcp(local, 0).start().await;
    let mut visitor = TcpStream::connect(agent.port()).await.unwrap();
    let end = within("the end", visitor.read(&mut [0; 1])).await;
    assert!(!matches!(end, Ok(n) if n > 0), "{end:?}");
    let listener = TcpListener::bind(local).await.unwrap();
    let _visitor = TcpStream::connect(agent.port()).await.unwrap();
    within("the local connection", listener.accept()).await.unwrap();
}

#[tokio::test]
async fn a_reset_of_the_service_reaches_the_visitor_as_one() {
    let tunnel = tunnel().await;
    let mut visitor = TcpStream::connect(tunnel.agent.port()).await.unwrap();
    visitor.write_all(b"reset 1000\n").await.unwrap();
    let mut got = Vec::new();
    let end = within("the reset", visitor.read_to_end(&mut got)).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_server_that_is_told_to_end_at_once_resets_what_it_cuts() {
    let tunnel = tunnel().await;
    let mut visitor = TcpStream::connect(tunnel.agent.port()).await.unwrap();
    visitor.write_all(b"echo\nhalf of it").await.unwrap();
    within("the first half", visitor.read_exact(&mut [0; 10])).await.unwrap();
    let server = tunnel.server.process();
    server.terminate().unwrap();
    server.line(DEADLINE, |line| line.contains("Draining")).await.unwrap();
    server.terminate().unwrap();
    let end = within("the cut", visitor.read(&mut [0; 8])).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "it is no end of the answer");
}

#[tokio::test]
async fn a_visitor_who_resets_ends_the_local_connection() {
    let tunnel = tunnel().await;
    let mut visitor = raw::Client::connect(tunnel.agent.port()).await.unwrap();
    visitor.send(b"silent\nabc").await.unwrap();
    eventually(DEADLINE, "the local connection", || async { (tunnel.origin.open() == 1).then_some(()) }).await;
    visitor.reset();
    eventually(Duration::from_secs(2), "its end", || async { (tunnel.origin.open() == 0).then_some(()) }).await;
}

#[tokio::test]
async fn a_visitor_who_closes_ends_the_local_connection_though_the_service_is_silent() {
    let server = Server::setup().tcp_ports().start().await;
    let service = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let agent = Publish::to(&server).tcp(service.local_addr().unwrap(), 0).start().await;
    let mut visitor = TcpStream::connect(agent.port()).await.unwrap();
    visitor.write_all(b"question").await.unwrap();
    let (mut local, _) = within("the connection", service.accept()).await.unwrap();
    // An end like that of one who waits for the answer; but nobody does.
    drop(visitor);
    let mut question = String::new();
    within("the question", local.read_to_string(&mut question)).await.unwrap();
    assert_eq!(question, "question");
    // Nobody reads what it says: the connection is closed, as a visitor's own would be.
    let refused = async { while local.write_all(b"x").await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("the local connection is closed");
}

#[tokio::test]
async fn what_a_visitor_said_before_it_closed_arrives_whole_at_a_slow_service() {
    const MUCH: usize = 3 << 20;
    let server = Server::setup().tcp_ports().start().await;
    let service = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let agent = Publish::to(&server).tcp(service.local_addr().unwrap(), 0).start().await;
    let mut visitor = TcpStream::connect(agent.port()).await.unwrap();
    let (mut local, _) = within("the connection", service.accept()).await.unwrap();
    let send = async {
        visitor.write_all(&vec![7; MUCH]).await.unwrap();
        drop(visitor);
    };
    let receive = async {
        let mut got = 0;
        let mut piece = vec![0; 64 << 10];
        loop {
            tokio::time::sleep(Duration::from_millis(15)).await;
            match local.read(&mut piece).await.unwrap() {
                0 => return got,
                n => got += n,
            }
        }
    };
    let ((), got) = within("all of it", async { tokio::join!(send, receive) }).await;
    assert_eq!(got, MUCH);
}

#[tokio::test]
async fn a_stalled_reader_does_not_stop_its_neighbours() {
    let tunnel = tunnel().await;
    let _stalled = load::StalledReaders::open(tunnel.agent.port(), 8).await.unwrap();
    let sent = noise::bytes(1, 1 << 20);
    for _ in 0..5 {
        assert!(load::echo_whole(tunnel.agent.port(), &sent).await.unwrap() == sent);
    }
}

#[tokio::test]
async fn the_access_log_has_one_line_for_each_connection() {
    let tunnel = tunnel().await;
    load::echo_whole(tunnel.agent.port(), b"hello").await.unwrap();
    let port = tunnel.agent.port().port();
    let line = tunnel.server.accessed(|line| line.contains("TCP")).await;
    assert!(line.contains(&format!(":{port}")) && line.contains("127.0.0.1"), "{line}");
}
