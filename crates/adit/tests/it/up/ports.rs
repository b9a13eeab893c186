//! TCP ports, each started by its first connection.

use std::process::Command;
use std::time::Duration;

use testkit::cluster::{Host, ServicePort};
use testkit::origin::TcpOrigin;
use testkit::process::Signal;
use testkit::raw;
use testkit::servers::{MariaDb, Postgres, Redis, mariadb, psql, redis_cli, run};
use testkit::sshd::Sshd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Bed, Up, streams};
use crate::support::{DEADLINE, SOON, eventually, within};

fn forward(name: &str, port: u16) -> String {
    format!("forwards:\n  {name}: {{ to: \"k8s://fake/default/service/{name}:{port}\", listen: 0 }}\n")
}

/// A bed whose service `tcp` speaks as the client asks it to, and a port that leads there.
async fn tcp() -> (Bed, TcpOrigin, Up) {
    let bed = Bed::start().await;
    let origin = TcpOrigin::start().await.expect("a service");
    bed.add_service("tcp", 7, origin.addr());
    let up = bed.up(&forward("tcp", 7)).await;
    (bed, origin, up)
}

async fn dial(up: &Up, first: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(up.port("tcp")).await.expect("the port takes it");
    stream.write_all(first).await.expect("it takes bytes");
    stream
}

/// Says something and waits for it to come back.
async fn echo(stream: &mut TcpStream) {
    stream.write_all(b"\x00hello").await.expect("it takes bytes");
    let mut got = [0; 6];
    within("the echo", stream.read_exact(&mut got)).await.expect("an echo");
    assert_eq!(&got, b"\x00hello");
}

async fn read_all(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    within("its end", stream.read_to_end(&mut all)).await.map(|_| all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_starts_with_its_first_connection() {
    let bed = Bed::start().await;
    let redis = Redis::start(&[]).await;
    bed.add_service("redis", 6379, redis.addr());
    let up = bed.up(&forward("redis", 6379)).await;
    assert_eq!(bed.cluster.requests().len(), 0, "nothing is asked of the cluster before");
    let port = up.port("redis").port();
    let cli = |arguments: &[&str]| redis_cli(port, arguments);
    assert_eq!(cli(&["PING"]), "PONG\n");
    let big = "x".repeat(100_000);
    assert_eq!(cli(&["SET", "big", &big]), "OK\n");
    assert_eq!(cli(&["GET", "big"]).trim_end().len(), 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_starts_with_its_first_connection() {
    let bed = Bed::start().await;
    let postgres = Postgres::start().await;
    bed.add_service("pg", 5432, postgres.addr());
    let up = bed.up(&forward("pg", 5432)).await;
    let port = up.port("pg").port();
    let sql = |text: &str| psql(port, text);
    assert_eq!(sql("select 40 + 2"), "42");
    sql("create table noise as select i, md5(i::text) as hash from generate_series(1, 20000) as i");
    assert_eq!(sql("select i, hash from noise order by i").lines().count(), 20_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_starts_with_its_first_connection() {
    let bed = Bed::start().await;
    let server = MariaDb::start(&[]).await;
    server.sql("create user 'app'@'127.0.0.1'; grant all on *.* to 'app'@'127.0.0.1'");
    bed.add_service("maria", 3306, server.addr());
    let up = bed.up(&forward("maria", 3306)).await;
    let port = format!("--port={}", up.port("maria").port());
    let sql = |text: &str| run(mariadb("app", text).args(["--host=127.0.0.1", &port])).trim().to_owned();
    assert_eq!(sql("select 40 + 2"), "42");
    let rows = sql("select help_topic_id, md5('1') from mysql.help_topic order by 1 limit 100");
    assert_eq!(rows.lines().count(), 100);
    assert!(rows.ends_with("\tc4ca4238a0b923820dcc509a6f75849b"), "{rows}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_starts_with_its_first_connection() {
    let bed = Bed::start().await;
    let sshd = Sshd::start(&[]).await;
    bed.add_service("ssh", 22, sshd.addr());
    let up = bed.up(&forward("ssh", 22)).await;
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]);
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}", sshd.known_hosts().display()));
    ssh.arg("-o").arg(format!("HostKeyAlias={}", sshd.known_name())).arg("-i").arg(sshd.key());
    ssh.args(["-p", &up.port("ssh").port().to_string(), &format!("{}@127.0.0.1", sshd.user()), "seq 20000"]);
    assert_eq!(run(&mut ssh).lines().last(), Some("20000"));
}

#[tokio::test]
async fn a_service_that_speaks_first_is_heard_though_the_client_says_nothing() {
    let bed = Bed::start().await;
    // Speaks as soon as it is connected to, as PostgreSQL's and SMTP's clients expect.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _greeting = super::support::beside(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"220 ready\r\n").await;
            held.push(stream);
        }
    });
    bed.add_service("smtp", 25, address);
    let up = bed.up(&forward("smtp", 25)).await;
    let mut stream = TcpStream::connect(up.port("smtp")).await.unwrap();
    let mut greeting = [0; 11];
    within("the greeting", stream.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
}

#[tokio::test]
async fn a_client_that_ends_its_direction_gets_its_answer() {
    let bed = Bed::start().await;
    let origin = TcpOrigin::start().await.unwrap();
    bed.cluster.faults().streams().inside().set_host("default", "web-1", "db:7", Host::At(origin.addr()));
    let file = format!(
        "forwards:\n  jump: {{ to: \"jump://fake/default/service/web/db:7\", listen: 0 }}\n  \
         plain: {{ to: \"tcp://{}\", listen: 0 }}\n",
        origin.addr()
    );
    let up = bed.up(&file).await;
    for name in ["jump", "plain"] {
        let mut stream = TcpStream::connect(up.port(name)).await.unwrap();
        stream.write_all(b"sink\nhello").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(read_all(&mut stream).await.unwrap(), b"5", "{name}");
    }
}

#[tokio::test]
async fn a_service_that_ends_its_direction_still_gets_what_the_client_says() {
    let (_bed, origin, up) = tcp().await;
    let mut stream = dial(&up, b"first half\n").await;
    // The end is told when the cluster has said that it is no failure; until then both sides may speak.
    let mut hello = [0; 5];
    within("the answer", stream.read_exact(&mut hello)).await.unwrap();
    assert_eq!(&hello, b"hello");
    stream.write_all(&[b'x'; 1000]).await.unwrap();
    stream.shutdown().await.unwrap();
    eventually(DEADLINE, "the bytes after the half-close", || async { (origin.tally("half") == 1000).then_some(()) })
        .await;
    assert_eq!(read_all(&mut stream).await.unwrap(), b"");
}

#[tokio::test]
async fn a_reset_of_the_service_is_a_reset_of_the_client() {
    let (_bed, _origin, up) = tcp().await;
    let mut stream = dial(&up, b"reset 0\n").await;
    let end = read_all(&mut stream).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// A plain port and one with a rate, and the service of both.
async fn plain_and_limited() -> (Bed, TcpListener, Up) {
    let bed = Bed::start().await;
    let service = TcpListener::bind("127.0.0.1:0").await.expect("the test's own connection");
    let to = service.local_addr().expect("the test's own connection");
    let file = format!(
        "forwards:\n  plain: {{ to: \"tcp://{to}\", listen: 0 }}\n  \
         limited: {{ to: \"tcp://{to}\", listen: 0, limits: {{ bytes_per_second: 10MB/s }} }}\n"
    );
    let up = bed.up(&file).await;
    (bed, service, up)
}

/// A client that has said half of something, and what the service has of it.
async fn half_said(up: &Up, name: &str, service: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(up.port(name)).await.expect("the test's own connection");
    client.write_all(b"half of it").await.expect("the test's own connection");
    let (mut served, _) = within("a connection", service.accept()).await.expect("the test's own connection");
    within("its bytes", served.read_exact(&mut [0; 10])).await.expect("the test's own connection");
    (client, served)
}

#[tokio::test]
async fn a_reset_of_the_client_is_a_reset_of_the_service() {
    let (_bed, service, up) = plain_and_limited().await;
    for name in ["plain", "limited"] {
        let (client, mut served) = half_said(&up, name, &service).await;
        raw::Client::new(client).reset();
        let end = read_all(&mut served).await;
        assert_eq!(end.expect_err(name).kind(), std::io::ErrorKind::ConnectionReset, "{name}");
    }
}

#[tokio::test]
async fn what_an_end_cuts_is_a_reset_at_both_sides_with_a_rate_as_well() {
    let (_bed, service, up) = plain_and_limited().await;
    let mut sides = Vec::new();
    for name in ["plain", "limited"] {
        let (client, served) = half_said(&up, name, &service).await;
        sides.extend([(name, "client", client), (name, "service", served)]);
    }
    up.process.signal(Signal::INT).unwrap();
    up.process.signal(Signal::INT).unwrap();
    for (name, side, mut stream) in sides {
        let end = read_all(&mut stream).await;
        assert_eq!(end.expect_err(side).kind(), std::io::ErrorKind::ConnectionReset, "{name}: {side}");
    }
}

#[tokio::test]
async fn every_port_zero_is_a_port_of_its_own_and_one_forward_may_have_several() {
    let bed = Bed::start().await;
    let origin = TcpOrigin::start().await.unwrap();
    bed.add_service("tcp", 7, origin.addr());
    let to = "k8s://fake/default/service/tcp:7";
    let named = testkit::process::free_port().unwrap();
    let file = format!(
        "forwards:\n  one: {{ to: \"{to}\", listen: 0 }}\n  two: {{ to: \"{to}\", listen: 0 }}\n  \
         three: {{ to: \"forward:one\", listen: [\"127.0.0.1:{named}\", \"127.0.0.2:{named}\"] }}\n"
    );
    let up = bed.up(&file).await;
    assert_ne!(up.port("one"), up.port("two"));
    let addresses = [up.port("one"), up.port("two"), ([127, 0, 0, 1], named).into(), ([127, 0, 0, 2], named).into()];
    for address in addresses {
        let mut stream = TcpStream::connect(address).await.unwrap();
        echo(&mut stream).await;
    }
}

#[tokio::test]
async fn a_client_that_never_says_a_byte_holds_up_nobody_and_not_the_end() {
    let (bed, _origin, up) = tcp().await;
    let silent = TcpStream::connect(up.port("tcp")).await.unwrap();
    streams(&bed, 1).await;
    let mut stream = dial(&up, b"").await;
    echo(&mut stream).await;
    drop((silent, stream));
    streams(&bed, 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_start_is_over_leaves_nothing_behind() {
    let bed = Bed::start().await;
    let origin = TcpOrigin::start().await.unwrap();
    bed.add_service("tcp", 7, origin.addr());
    bed.cluster.faults().api_delay(Duration::from_millis(200));
    let up = bed.up(&forward("tcp", 7)).await;
    for _ in 0..5 {
        drop(TcpStream::connect(up.port("tcp")).await.unwrap());
    }
    up.event("ready").await;
    eventually(DEADLINE, "no stream", || async {
        (bed.cluster.faults().streams().open_streams() == 0 && origin.open() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_target_that_cannot_be_had_resets_the_client_and_is_said_once() {
    let bed = Bed::start().await;
    bed.cluster.add_service("default", "empty", &[("app", "nobody")], &[ServicePort::new(7)]);
    let up = bed.up("forwards:\n  gone: { to: \"k8s://fake/default/service/gone:7\", listen: 0 }\n").await;
    for _ in 0..3 {
        // It may come before the client has looked whether it is connected.
        let end = match TcpStream::connect(up.port("gone")).await {
            Ok(mut stream) => read_all(&mut stream).await,
            Err(error) => Err(error),
        };
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    let error = up.event("error").await;
    assert!(error["message"].as_str().unwrap().contains("\"gone\" not found"), "{error}");
}

/// `adit up` with a limit of descriptors.
pub(super) fn with_descriptors(bed: &Bed, count: u32) -> Command {
    // The limit is set for good: `adit up` would raise a soft one.
    let inner = bed.command();
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {count} && exec \"$0\" \"$@\"")])
        .arg(inner.get_program())
        .args(inner.get_args());
    command.current_dir(bed.home.path());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

#[tokio::test]
async fn with_few_descriptors_it_goes_on_after_clients_leave() {
    let bed = Bed::start().await;
    let origin = TcpOrigin::start().await.unwrap();
    bed.add_service("tcp", 7, origin.addr());
    bed.write(&forward("tcp", 7));
    let up = Up::start(&mut with_descriptors(&bed, 64)).await.errors_expected();
    // While there is room the way is made.
    let mut first = dial(&up, b"").await;
    echo(&mut first).await;
    let mut held = vec![first];
    for _ in 0..100 {
        held.push(TcpStream::connect(up.port("tcp")).await.unwrap());
    }
    eventually(DEADLINE, "as many as there is room for", || async { (origin.open() >= 8).then_some(()) }).await;
    assert!(up.process.is_running());
    drop(held);
    eventually(DEADLINE, "their end", || async { (origin.open() == 0).then_some(()) }).await;
    for _ in 0..10 {
        let mut stream = dial(&up, b"").await;
        echo(&mut stream).await;
    }
    assert_eq!(up.end(Signal::TERM).await, Some(0));
}

/// Twenty ports idle, and the places for clients are fewer.
#[tokio::test]
async fn with_more_ports_than_places_for_clients_each_port_answers() {
    let bed = Bed::start().await;
    let origin = TcpOrigin::start().await.unwrap();
    let forward = |number| format!("  p{number}: {{ to: \"tcp://{}\", listen: 0 }}\n", origin.addr());
    bed.write(&format!("forwards:\n{}", (0..18).map(forward).collect::<String>()));
    let up = Up::start(&mut with_descriptors(&bed, 64)).await.errors_expected();
    for number in (0..18).rev() {
        let mut stream = TcpStream::connect(up.port(&format!("p{number}"))).await.unwrap();
        stream.write_all(b"echo\n").await.unwrap();
        echo(&mut stream).await;
    }
}

/// Each client of a target with an address takes two descriptors.
#[tokio::test]
async fn with_few_descriptors_a_crowd_at_a_plain_target_is_served_in_turn() {
    let bed = Bed::start().await;
    let origin = TcpOrigin::start().await.unwrap();
    bed.write(&format!("forwards:\n  p: {{ to: \"tcp://{}\", listen: 0 }}\n", origin.addr()));
    let up = Up::start(&mut with_descriptors(&bed, 64)).await.errors_expected();
    let mut crowd = Vec::new();
    for _ in 0..60 {
        let mut stream = TcpStream::connect(up.port("p")).await.unwrap();
        stream.write_all(b"echo\n").await.unwrap();
        crowd.push(stream);
    }
    for mut stream in crowd {
        echo(&mut stream).await;
    }
}

/// `ulimit -n 64`, and a crowd is there before anything was dialled.
#[tokio::test]
async fn a_crowd_before_the_first_start_leaves_descriptors_to_dial_with_and_is_served_in_turn() {
    let bed = Bed::start().await;
    bed.write(&super::support::gateway(&[], &[]));
    let up = Up::start(&mut with_descriptors(&bed, 64)).await.errors_expected();
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(TcpStream::connect(up.gateway()).await.unwrap());
    }
    let host = up.host("web-80.svc.default.ns.fake.cx.k8s.localhost");
    let answers = crowd.into_iter().map(|stream| {
        let host = host.clone();
        async move { raw::Client::new(stream).get(&host, "/").await.map(|answer| answer.status) }
    });
    let answers = super::support::together(answers).await;
    let good = answers.iter().filter(|status| matches!(status, Ok(200))).count();
    assert_eq!(good, 200, "{answers:?}");
}

#[tokio::test]
async fn what_was_started_always_is_ready_before_anybody_comes() {
    let bed = Bed::start().await;
    let origin = TcpOrigin::start().await.unwrap();
    bed.add_service("tcp", 7, origin.addr());
    let up = bed
        .up("forwards:\n  tcp: { to: \"k8s://fake/default/service/tcp:7\", listen: 0, start: always, idle_timeout: 1s }\n")
        .await;
    up.event("ready").await;
    assert_eq!(origin.connections(), 0);
    // Longer than its idle time-out, which is for those that start on demand.
    let idle = tokio::time::timeout(
        Duration::from_millis(2500),
        up.process.line(SOON, |line| line.contains("\"event\":\"idle\"")),
    );
    assert!(!matches!(idle.await, Ok(Ok(_))));
}

#[tokio::test]
async fn an_interrupt_ends_it_with_130_and_live_streams_are_waited_for() {
    let (bed, _origin, up) = tcp().await;
    let mut stream = dial(&up, b"drip 10 50\n").await;
    streams(&bed, 1).await;
    up.process.signal(Signal::INT).unwrap();
    assert_eq!(read_all(&mut stream).await.unwrap().len(), 1000, "it is finished");
    drop(stream);
    assert_eq!(up.process.exited(DEADLINE).await.unwrap().code(), Some(130));
    assert_eq!(up.event("stopped").await["signal"], "interrupt");
}
