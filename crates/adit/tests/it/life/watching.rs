//! What operators look at: metrics, health, logs.

use std::collections::HashSet;

use testkit::process::Process;
use testkit::raw;
use testkit::ws::WebSocket;

use super::Tunnel;
use crate::support::{DEADLINE, Publish, Server, eventually};

#[tokio::test]
async fn the_metrics_have_the_names_that_are_promised() {
    let tunnel = Tunnel::start().await;
    assert_eq!(tunnel.server.get("app1", "/bytes/1000").await.status, 200);
    assert_eq!(tunnel.server.get("nobody", "/").await.status, 404);
    let page = tunnel.server.admin("/metrics").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").is_some_and(|kind| kind.contains("openmetrics-text")));
    let text = page.text();
    for name in [
        "tunnel_connections_total 1",
        "tunnel_requests_total{",
        "tunnel_request_duration_seconds_bucket",
        "tunnel_request_size_bytes_count",
        "tunnel_response_size_bytes_sum",
        "tunnel_registry_size 1",
        "tunnel_streams_total",
        "tunnel_streams_active 0",
        "tunnel_errors_total{",
        "tunnel_first_byte_seconds_bucket",
        "tunnel_mux_queue_microseconds",
        "tunnel_credit_stalls",
        "tunnel_takeovers_total 0",
        "tunnel_config_reloads_total",
        "tunnel_bandwidth_bytes",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is missing in:\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let names: HashSet<&str> = families.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(families.len(), names.len(), "each family once");
}

#[tokio::test]
async fn gauges_return_to_zero_when_everything_is_over() {
    let mut tunnel = Tunnel::start().await;
    let host = tunnel.server.host("app1");
    let socket = WebSocket::connect(tunnel.server.public, &host, "/ws").await.unwrap();
    for path in ["/", "/garbage", "/reset", "/reset-mid-body", "/status/204"] {
        let _ = raw::get(tunnel.server.public, &host, path).await;
    }
    drop(socket);
    eventually(DEADLINE, "no stream left", || async {
        (tunnel.server.metric("tunnel_streams_active").await == Some(0.0)).then_some(())
    })
    .await;
    eventually(DEADLINE, "no stream counted for the account", || async {
        (tunnel.server.metric("tunnel_streams_per_account").await == Some(0.0)).then_some(())
    })
    .await;
    tunnel.agent.kill().await;
    for gauge in
        ["tunnel_connections_total", "tunnel_registry_size", "tunnel_visitor_connections", "tunnel_window_memory_bytes"]
    {
        eventually(DEADLINE, gauge, || async { (tunnel.server.metric(gauge).await == Some(0.0)).then_some(()) }).await;
    }
}

#[tokio::test]
async fn the_server_has_health_pages() {
    let tunnel = Tunnel::start().await;
    for path in ["/health", "/health/live", "/health/ready", "/health/detailed", "/tunnels"] {
        let answer = tunnel.server.admin(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(serde_json::from_slice::<serde_json::Value>(&answer.body).is_ok(), "{path}: {}", answer.text());
    }
    let tunnels: serde_json::Value = serde_json::from_slice(&tunnel.server.admin("/tunnels").await.body).unwrap();
    assert_eq!(tunnels["tunnels"][0]["url"], tunnel.agent.url());
    assert_eq!(tunnel.server.admin("/nothing").await.status, 404);
    // S13, S14: a page of another site cannot have a browser read it.
    assert_ne!(raw::get(tunnel.server.admin, "rebound.example", "/metrics").await.unwrap().status, 200);
}

#[tokio::test]
async fn the_agent_has_metrics_and_health_when_asked() {
    let tunnel_server = Server::start().await;
    let origin = testkit::origin::HttpOrigin::start().await.unwrap();
    let agent = Publish::to(&tunnel_server)
        .file(&[&format!("app1: {{ to: \"http://{}\" }}", origin.addr())])
        .arguments(&["--metrics", "127.0.0.1:0", "-v"])
        .start()
        .await;
    assert_eq!(tunnel_server.get("app1", "/").await.status, 200);
    let address = metrics_address(agent.process()).await;
    let text = raw::get(address, &address.to_string(), "/metrics").await.unwrap().text();
    for name in [
        "agent_connection_status 1",
        "agent_requests_total{",
        "agent_request_duration_seconds_bucket",
        "agent_reconnections_total 0",
        "agent_heartbeats_sent",
        "agent_local_requests_total",
        "agent_streams_active 0",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is missing in:\n{text}");
    }
    assert_eq!(raw::get(address, &address.to_string(), "/health/ready").await.unwrap().status, 200);
}

/// Where an agent serves its metrics, as it says.
async fn metrics_address(process: &Process) -> std::net::SocketAddr {
    let line = process.line(DEADLINE, |line| line.contains("/metrics")).await.expect("a line that says where");
    let from = line.find("127.0.0.1:").expect("an address");
    let end = line[from..].find('/').map_or(line.len(), |at| from + at);
    line[from..end].parse().expect("an address")
}

#[tokio::test]
async fn the_audit_log_tells_who_came_what_they_took_and_how_it_ended() {
    let mut tunnel = Tunnel::start().await;
    let _refused = Publish::with_token(&tunnel.server, "adit_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
        .http("app2", tunnel.origin.addr())
        .spawn();
    let failed = tunnel.server.audited("authentication_failed").await;
    assert_eq!(failed["reason"], "invalid_token");
    assert!(failed["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")));
    let came = tunnel.server.audited("authenticated").await;
    assert_eq!(came["account"], "acme");
    assert!(came["token"].as_str().is_some_and(|id| id.starts_with('t')));
    assert!(came["time"].as_str().is_some_and(|time| time.ends_with('Z')));
    let took = tunnel.server.audited("registered").await;
    assert_eq!((took["url"].as_str(), took["session"].clone()), (Some(tunnel.agent.url()), came["session"].clone()));
    tunnel.agent.kill().await;
    assert_eq!(tunnel.server.audited("session_ended").await["session"], came["session"]);
}

#[tokio::test]
async fn access_lines_may_be_json_with_stable_names() {
    let setup = Server::setup().section("log: { access: DATA/access.log, format: json }");
    let tunnel = Tunnel::start_with(setup).await;
    let answer = tunnel.server.request("POST", "app1", "/echo?secret=1", &[], b"hello").await;
    assert_eq!(answer.text(), "hello");
    let line = tunnel.server.accessed(|line| line.contains("/echo")).await;
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(!line.contains("secret"), "a query may hold secrets: {line}");
    for (key, expected) in [
        ("method", "POST"),
        ("host", "app1.localhost"),
        ("path", "/echo"),
        ("account", "acme"),
        ("visitor", "127.0.0.1"),
    ] {
        assert_eq!(value[key], expected, "{key} in {line}");
    }
    assert_eq!(
        (value["status"].as_u64(), value["bytes_in"].as_u64(), value["bytes_out"].as_u64()),
        (Some(200), Some(5), Some(5))
    );
    assert_eq!(value["request_id"].as_str(), answer.header("x-request-id"));
}

#[tokio::test]
async fn logs_that_were_moved_away_are_opened_anew_on_sighup() {
    let tunnel = Tunnel::start().await;
    tunnel.server.get("app1", "/one").await;
    tunnel.server.accessed(|line| line.contains("/one")).await;
    let log = tunnel.server.data_dir().join("access.log");
    std::fs::rename(&log, log.with_extension("old")).unwrap();
    tunnel.server.process().signal(testkit::process::Signal::HUP).unwrap();
    eventually(DEADLINE, "a new file", || async {
        tunnel.server.get("app1", "/two").await;
        tunnel.server.access_log().iter().any(|line| line.contains("/two")).then_some(())
    })
    .await;
}
