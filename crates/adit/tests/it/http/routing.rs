//! Who gets a request: names, custom hosts, several agents; and what is said when nobody does.

use std::collections::HashSet;
use std::time::Duration;

use testkit::origin::HttpOrigin;
use testkit::raw;

use crate::support::{DEADLINE, Publish, Server, eventually};

#[tokio::test]
async fn several_tunnels_of_one_agent_are_kept_apart() {
    let server = Server::start().await;
    let (one, two) = (HttpOrigin::start().await.unwrap(), HttpOrigin::start().await.unwrap());
    let tunnels = [
        format!("one: {{ to: \"http://{}\" }}", one.addr()),
        format!("two: {{ to: \"http://{}\", as: second }}", two.addr()),
    ];
    let agent = Publish::to(&server).file(&[&tunnels[0], &tunnels[1]]).start().await;
    assert_eq!(agent.urls.len(), 2);
    assert_eq!(server.get("one", "/").await.status, 200);
    assert_eq!((one.requests(), two.requests()), (1, 0));
    assert_eq!(server.get("second", "/").await.status, 200);
    assert_eq!((one.requests(), two.requests()), (1, 1));
    assert_eq!(server.get("two", "/").await.status, 404);
}

#[tokio::test]
async fn a_custom_host_is_routed_by_its_exact_name() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let token = server.token_with("acme", &["--host", "shop.example.org"]);
    let target = format!("http://{}", origin.addr());
    let _agent = Publish::with_token(&server, &token).target(&target, &["--host", "shop.example.org"]).start().await;
    let answer = raw::get(server.public, "shop.example.org", "/head").await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.text().to_lowercase().contains("host: shop.example.org\r\n"));
    for host in ["www.shop.example.org", "example.org", "shop.example.org.evil.test"] {
        assert_eq!(raw::get(server.public, host, "/").await.unwrap().status, 404, "{host}");
    }
}

#[tokio::test]
async fn a_custom_host_the_token_does_not_allow_is_refused_with_what_to_do() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let target = format!("http://{}", origin.addr());
    let agent = Publish::to(&server).target(&target, &["--host", "bank.example.org"]).spawn();
    assert_ne!(agent.exit_code(DEADLINE).await, Some(0));
    let output = agent.process().stderr();
    assert!(output.contains("bank.example.org") && output.contains("hint: "), "{output}");
}

#[tokio::test]
async fn agents_of_one_name_share_its_requests_and_one_that_dies_is_not_missed() {
    let server = Server::start().await;
    let (one, two) = (HttpOrigin::start().await.unwrap(), HttpOrigin::start().await.unwrap());
    let mut first = Publish::to(&server).http("app1", one.addr()).start().await;
    let _second = Publish::to(&server).http("app1", two.addr()).start().await;
    for _ in 0..60 {
        assert_eq!(server.get("app1", "/").await.status, 200);
    }
    assert!(one.requests() >= 10 && two.requests() >= 10, "{} and {}", one.requests(), two.requests());
    first.kill().await;
    eventually(DEADLINE, "the end of the first agent's session", || async {
        (server.metric("tunnel_connections_total").await == Some(1.0)).then_some(())
    })
    .await;
    for _ in 0..20 {
        assert_eq!(server.get("app1", "/").await.status, 200);
    }
}

#[tokio::test]
async fn an_unknown_host_is_answered_in_the_form_the_visitor_reads() {
    let server = Server::start().await;
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let page = server.request("GET", "nobody", "/", &[("Accept", browser)], b"").await;
    assert_eq!((page.status, page.header("content-type")), (404, Some("text/html; charset=utf-8")));
    assert!(page.text().starts_with("<!doctype html>") && page.text().contains("nobody.localhost"));
    let json = server.request("GET", "nobody", "/", &[("Accept", "application/json")], b"").await;
    let value: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
    assert_eq!(
        (value["error"]["status"].as_u64(), value["error"]["code"].as_str()),
        (Some(404), Some("unknown_tunnel"))
    );
    assert_eq!(value["error"]["request_id"].as_str(), json.header("x-request-id"));
    let text = server.get("nobody", "/").await;
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(text.text().contains("hint: ") && text.text().contains("request id: "), "{}", text.text());
    for answer in [page, json, text] {
        assert_eq!(answer.header("x-adit-error"), Some("unknown_tunnel"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}

#[tokio::test]
async fn a_name_whose_agent_is_away_says_so() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let mut agent = Publish::to(&server).http("app1", origin.addr()).start().await;
    assert_eq!(server.get("app1", "/").await.status, 200);
    agent.kill().await;
    let answer = eventually(Duration::from_secs(3), "the agent's end", || async {
        Some(server.get("app1", "/").await).filter(|answer| answer.header("x-adit-error") == Some("no_agent"))
    })
    .await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("not connected") && answer.header("retry-after").is_some(), "{}", answer.text());
}

#[tokio::test]
async fn a_name_is_chosen_when_none_is_asked_for_and_differs_each_time() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let token = server.token_with("acme", &["--allow", "dev-*"]);
    let mut names = HashSet::new();
    for _ in 0..3 {
        let agent =
            Publish::with_token(&server, &token).target(&format!("http://{}", origin.addr()), &[]).start().await;
        let name = agent.url().trim_start_matches("http://").split('.').next().unwrap().to_owned();
        assert!(name.starts_with("dev-"), "{name}");
        assert_eq!(server.get(&name, "/").await.status, 200);
        names.insert(name);
    }
    assert_eq!(names.len(), 3);
}
