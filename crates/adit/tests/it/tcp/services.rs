//! Redis and PostgreSQL, real ones, through a tunnel with their own clients.

use testkit::servers::{Postgres, Redis, psql, redis_cli};

use crate::support::{Publish, Server};

#[tokio::test]
async fn redis_works_through_a_tunnel() {
    let redis = Redis::start(&[]).await;
    let server = Server::setup().tcp_ports().start().await;
    let agent = Publish::to(&server).tcp(redis.addr(), 0).start().await;
    let public = agent.port().port();
    let cli = |arguments: &[&str]| redis_cli(public, arguments);
    assert_eq!(cli(&["PING"]), "PONG\n");
    assert_eq!(cli(&["SET", "key", "through the tunnel"]), "OK\n");
    assert_eq!(cli(&["GET", "key"]), "through the tunnel\n");
    let big = "x".repeat(100_000);
    assert_eq!(cli(&["SET", "big", &big]), "OK\n");
    assert_eq!(cli(&["STRLEN", "big"]), "100000\n");
    assert_eq!(cli(&["GET", "big"]).trim_end().len(), 100_000);
    let text = cli(&["EVAL", "for i=1,1000 do redis.call('RPUSH','list',i) end return redis.call('LLEN','list')", "0"]);
    assert_eq!(text, "1000\n");
}

#[tokio::test]
async fn postgresql_works_through_a_tunnel() {
    let postgres = Postgres::start().await;
    let server = Server::setup().tcp_ports().start().await;
    let agent = Publish::to(&server).tcp(postgres.addr(), 0).start().await;
    let public = agent.port().port();
    let sql = |text: &str| psql(public, text);
    assert_eq!(sql("select 40 + 2"), "42");
    sql("create table noise as select i, md5(i::text) as hash from generate_series(1, 50000) as i");
    assert_eq!(
        sql("select count(*), min(hash) = '00003e3b9e5336685200ae85d21b4f5e' is not null from noise"),
        "50000|t"
    );
    let rows = sql("select i, hash from noise order by i");
    assert_eq!(rows.lines().count(), 50_000);
    assert_eq!(rows.lines().next(), Some("1|c4ca4238a0b923820dcc509a6f75849b"));
    // What the database sees is the agent's connection.
    assert_eq!(sql("select host(inet_client_addr())"), "127.0.0.1");
}
