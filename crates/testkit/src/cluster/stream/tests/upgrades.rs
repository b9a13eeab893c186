//! Which upgrades are accepted, by which server.

use super::*;

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

async fn websocket(site: &Site, method: &str, target: &str, protocols: &str) -> (u16, String) {
    let headers: Vec<_> = WEBSOCKET.into_iter().chain([("Sec-WebSocket-Protocol", protocols)]).collect();
    let (response, _) = site.ask(method, target, &headers).await;
    let chosen = response.header("sec-websocket-protocol").unwrap_or_default().to_owned();
    (response.status, chosen)
}

async fn spdy(site: &Site, target: &str, upgrade: &str, protocol: Option<&str>) -> Response {
    let mut headers = vec![("Connection", "Upgrade"), ("Upgrade", upgrade)];
    headers.extend(protocol.map(|protocol| ("X-Stream-Protocol-Version", protocol)));
    site.ask("POST", target, &headers).await.0
}

#[tokio::test]
async fn websockets_are_answered_as_each_version_does() {
    for version in [ServerVersion::V1_36, ServerVersion::V1_31, ServerVersion::V1_28] {
        let site = Site::with(|options| options.version = version).await;
        let old = version == ServerVersion::V1_28;
        let both = format!("v4.channel.k8s.io, {TUNNEL}");
        let v4 = "v4.channel.k8s.io";
        let exec = "exec?command=true&stdout=true";
        let cases: [(&str, &str, &str, u16, &str); 17] = [
            ("GET", "portforward", TUNNEL, if old { 400 } else { 101 }, if old { "" } else { TUNNEL }),
            ("GET", "portforward?ports=7000", TUNNEL, if old { 403 } else { 101 }, if old { "" } else { TUNNEL }),
            ("GET", "portforward?ports=7000", &both, 101, if old { v4 } else { TUNNEL }),
            ("POST", "portforward", TUNNEL, if old { 400 } else { 405 }, ""),
            ("GET", "portforward?ports=7000", v4, 101, v4),
            ("GET", "portforward?ports=7000", "v4.base64.channel.k8s.io", 101, "v4.base64.channel.k8s.io"),
            ("GET", "portforward?ports=7000", "v5.channel.k8s.io", 403, ""),
            ("GET", "portforward?ports=7000", "portforward.k8s.io", 403, ""),
            ("GET", exec, "v5.channel.k8s.io", if old { 403 } else { 101 }, if old { "" } else { "v5.channel.k8s.io" }),
            ("GET", exec, v4, 101, v4),
            ("GET", exec, "channel.k8s.io", 101, "channel.k8s.io"),
            ("GET", exec, "base64.channel.k8s.io", 101, "base64.channel.k8s.io"),
            ("GET", exec, "v2.channel.k8s.io", 403, ""),
            ("GET", exec, "v3.channel.k8s.io", 403, ""),
            ("GET", exec, "v6.channel.k8s.io", 403, ""),
            ("GET", "exec?command=true", v4, 400, ""),
            ("GET", "portforward", v4, 400, ""),
        ];
        for (method, target, protocols, status, chosen) in cases {
            let answer = websocket(&site, method, target, protocols).await;
            assert_eq!(answer, (status, chosen.to_owned()), "{version:?} {method} {target} {protocols}");
        }
    }
}

#[tokio::test]
async fn spdy_is_answered_alike_by_all_versions() {
    let site = Site::start().await;
    let exec = "exec?command=true&stdout=true";
    for upgrade in ["SPDY/3.1", "spdy/3.1"] {
        let response = spdy(&site, "portforward", upgrade, Some("portforward.k8s.io")).await;
        assert_eq!(response.status, 101);
        assert_eq!(response.header("x-stream-protocol-version"), Some("portforward.k8s.io"));
        assert_eq!(response.header("upgrade"), Some("SPDY/3.1"));
    }
    assert_eq!(spdy(&site, "portforward", "SPDY/3.1", None).await.status, 400);
    let response = spdy(&site, "portforward", "SPDY/3.1", Some("v4.channel.k8s.io")).await;
    assert_eq!(response.status, 403);
    assert_eq!(response.header("x-accepted-stream-protocol-versions"), Some("portforward.k8s.io"));
    for protocol in ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"] {
        let response = spdy(&site, exec, "SPDY/3.1", Some(protocol)).await;
        assert_eq!((response.status, response.header("x-stream-protocol-version")), (101, Some(protocol)));
    }
    assert_eq!(spdy(&site, exec, "SPDY/3.1", Some("v5.channel.k8s.io")).await.status, 403);
}

#[tokio::test]
async fn a_request_without_an_upgrade_is_a_status_400() {
    let site = Site::start().await;
    let mut client = raw::Client::connect(site.cluster.address()).await.unwrap();
    let target = "/api/v1/namespaces/default/pods/web/portforward";
    let response = client.request("POST", "localhost", target, &[], b"").await.unwrap();
    assert_eq!(response.status, 400);
    assert!(String::from_utf8_lossy(&response.body).contains("Upgrade request required"));
}
