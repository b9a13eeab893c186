//! Redis and PostgreSQL, real ones, with their own clients, behind the fake cluster.

use std::net::SocketAddr;

use testkit::cluster::{PodSpec, ServicePort};
use testkit::servers::{Postgres, Redis, psql, redis_cli};

use super::{Bench, address};

/// A service of one pod that leads to a server of this machine.
async fn bench_for(name: &str, port: u16, server: SocketAddr) -> Bench {
    let bench = Bench::start().await;
    let pod = PodSpec::new("default", &format!("{name}-0")).label("app", name).port(name, port);
    bench.cluster.add_pod(pod.backend(port, server));
    bench.cluster.add_service("default", name, &[("app", name)], &[ServicePort::new(port).named(name)]);
    bench
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_works_through_a_forward() {
    let redis = Redis::start(&[]).await;
    let bench = bench_for("redis", 6379, redis.addr()).await;
    let process = bench.forward(&["svc/redis", ":6379"], 1).await;
    let port = address(&process).port();
    assert_eq!(redis_cli(port, &["PING"]), "PONG\n");
    let big = "x".repeat(100_000);
    assert_eq!(redis_cli(port, &["SET", "big", &big]), "OK\n");
    assert_eq!(redis_cli(port, &["GET", "big"]).trim_end().len(), 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_works_through_a_jump() {
    let redis = Redis::start(&[]).await;
    let bench = Bench::start().await;
    bench.cluster.set_host("default", "web-1", "cache.internal:6379", redis.addr());
    let process = bench.forward(&["jump:////pod/web-1/cache.internal:6379", ":"], 1).await;
    let port = address(&process).port();
    assert_eq!(redis_cli(port, &["PING"]), "PONG\n");
    let big = "x".repeat(100_000);
    assert_eq!(redis_cli(port, &["SET", "big", &big]), "OK\n");
    assert_eq!(redis_cli(port, &["GET", "big"]).trim_end().len(), 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_works_through_a_forward_to_a_named_port() {
    let postgres = Postgres::start().await;
    let bench = bench_for("pg", 5432, postgres.addr()).await;
    let process = bench.forward(&["svc/pg", ":pg"], 1).await;
    let port = address(&process).port();
    assert_eq!(psql(port, "select 40 + 2"), "42");
    let rows = psql(port, "select i, md5(i::text) from generate_series(1, 50000) as i");
    assert_eq!(rows.lines().count(), 50_000);
    assert_eq!(rows.lines().next(), Some("1|c4ca4238a0b923820dcc509a6f75849b"));
}
