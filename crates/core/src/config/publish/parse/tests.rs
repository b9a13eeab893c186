//! Tests of `adit.yaml`.

use std::time::Duration;

use proptest::prelude::*;

use crate::config::publish::*;
use crate::config::{Problems, PublishConfig};
use crate::target::TargetKind;

mod keys;

fn parse(text: &str) -> Result<PublishConfig, Problems> {
    let env = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
    PublishConfig::parse("adit.yaml", text, &env)
}

fn good(text: &str) -> PublishConfig {
    parse(text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn keys(text: &str) -> Vec<String> {
    parse(text).expect_err(text).0.into_iter().map(|p| p.key).collect()
}

/// One tunnel called `t`, written in flow style.
fn tunnel(body: &str) -> Result<PublishedTunnel, Problems> {
    let config = parse(&format!("publish: {{ tunnels: {{ t: {{ {body} }} }} }}"))?;
    Ok(config.tunnels.into_iter().next().unwrap())
}

fn tunnel_keys(body: &str) -> Vec<String> {
    tunnel(body).expect_err(body).0.into_iter().map(|p| p.key).collect()
}

const FULL: &str = r#"
version: 1
publish:
  server: tunnel.example.com:8443
  token_file: ~/.config/adit/token
  fingerprint: "sha256:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff"
  server_name: internal.example.com
  agent_id: laptop-1
  lanes: 4
  metrics: 127.0.0.1:9091
  tunnels:
    app1: { to: http://127.0.0.1:3000 }
    shop:
      to: https://localhost:8443
      as: my-shop
      host_header: shop.internal:8443
      headers: { add: { X-Team: blue }, remove: [X-Debug] }
      response_headers: { remove: Server }
      verify: false
      health: { type: http, path: /health, interval: 5s, timeout: 1s, rise: 2, fall: 4 }
      connect_timeout: 3s
      request_timeout: 1m
    own: { to: 3001, host: www.shop.example }
    db: { to: "tcp://10.0.0.5:5432", port: 15432, proxy_protocol: v2, health: { } }
"#;

#[test]
fn every_key_is_read() {
    let config = good(FULL);
    assert_eq!(config.server.unwrap().to_string(), "tunnel.example.com:8443");
    assert_eq!(config.token_file.unwrap().to_str(), Some("/home/me/.config/adit/token"));
    let TrustConfig::Fingerprint(pinned) = config.trust else { panic!() };
    assert_eq!(pinned[..3], [0x00, 0x11, 0x22]);
    assert_eq!(config.server_name.unwrap().as_str(), "internal.example.com");
    assert_eq!(config.agent_id.as_deref(), Some("laptop-1"));
    assert_eq!((config.lanes, config.metrics.unwrap().port()), (4, 9091));
    let names: Vec<_> = config.tunnels.iter().map(|t| t.key.as_str()).collect();
    assert_eq!(names, ["app1", "shop", "own", "db"]);
    let places: Vec<_> = config.tunnels.iter().map(|t| t.public.to_string()).collect();
    assert_eq!(places, ["app1", "my-shop", "www.shop.example", "port 15432"]);
    let shop = &config.tunnels[1];
    assert_eq!(shop.host_header.as_deref(), Some("shop.internal:8443"));
    assert_eq!(shop.headers.add[0].0, "x-team");
    assert_eq!(shop.response_headers.remove, ["server"]);
    assert!(!shop.verify);
    assert_eq!(shop.request_timeout, Some(Duration::from_secs(60)));
    let health = shop.health.as_ref().unwrap();
    assert_eq!(health.probe, Probe::Http { path: "/health".into() });
    assert_eq!((health.settings.rise, health.settings.fall), (2, 4));
    let db = &config.tunnels[3];
    assert!(db.proxy_protocol);
    assert_eq!(db.scheme, TargetKind::Tcp);
    assert_eq!(db.health.as_ref().unwrap().probe, Probe::Tcp);
}

#[test]
fn what_is_left_out_has_its_default() {
    let tunnel = tunnel("to: 3000").unwrap();
    assert_eq!(tunnel, PublishedTunnel::new("t".into(), tunnel.to.clone(), tunnel.public.clone()));
    assert_eq!(tunnel.public.to_string(), "t");
    assert_eq!(tunnel.connect_timeout, Duration::from_secs(10));
    assert_eq!(good("publish: {}"), PublishConfig::default());
}

#[test]
fn ports_of_an_ssh_server_lead_to_any_target_as_byte_pipes() {
    let text = "publish: { via: \"ssh://me@bastion:2222/\", tunnels: { web: { to: 3000, port: 8080 }, \
                api: { to: \"http://localhost:81\", port: 0, bind: \"*\" }, \
                pg: { to: k8s://dev/x/service/pg:5432, port: 5432, connect_timeout: 3s } } }";
    let config = good(text);
    assert_eq!(config.via.unwrap().to_string(), "me@bastion:2222");
    let said: Vec<_> = config.tunnels.iter().map(|t| (t.scheme, t.public.to_string(), t.bind.as_str())).collect();
    let port = |port: &str, bind: &'static str| (TargetKind::Tcp, format!("port {port}"), bind);
    assert_eq!(said, [port("8080", "localhost"), port("0", "*"), port("5432", "localhost")]);
    assert_eq!(config.tunnels[1].to.to_string(), "tcp://localhost:81");
    let by_map = good("publish: { via: { server: bastion, key: /k, backend: native }, tunnels: {} }").via.unwrap();
    assert_eq!(by_map.options.key.as_deref(), Some(std::path::Path::new("/k")));
}

#[test]
fn what_goes_with_a_tunnel_server_does_not_go_with_an_ssh_server() {
    let text = "publish: { via: bastion, server: t.example, lanes: 2, tunnels: { a: { to: 1, port: 2, as: x, verify: true }, \
                b: { to: 3 }, c: { to: 4, port: 2 }, d: { to: 5, port: 5, bind: \"a b\" } } }";
    let tunnel = |rest: &str| format!("publish.tunnels.{rest}");
    let mut expected = vec!["publish.server".to_owned(), "publish.lanes".to_owned()];
    expected.extend(["a.as", "a.verify", "b.port", "c", "d.bind"].map(tunnel));
    let mut found = keys(text);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(tunnel_keys("to: 5432, port: 1, bind: \"*\""), ["publish.tunnels.t.bind"]);
    assert_eq!(keys("publish: { via: \"ssh://b/db:5432\" }"), ["publish.via"]);
}

#[test]
fn any_target_can_be_published() {
    for (body, scheme) in [
        ("to: k8s://dev/shop/service/web:80", TargetKind::Http),
        ("to: k8s://dev/shop/service/web:443, scheme: https", TargetKind::Https),
        ("to: jump://dev/shop/service/web/db:5432, port: 15432", TargetKind::Tcp),
        ("to: { k8s: { service: pg, port: 5432 } }, port: 15432, scheme: tcp", TargetKind::Tcp),
        ("to: 5432, port: 15432", TargetKind::Tcp),
    ] {
        let found = tunnel(body).unwrap_or_else(|problems| panic!("{body}: {problems}"));
        assert_eq!(found.scheme, scheme, "{body}");
    }
    assert_eq!(tunnel_keys("to: k8s://dev/shop/service/web:80, port: 1, scheme: https"), ["publish.tunnels.t.to"]);
    assert_eq!(tunnel_keys("to: k8s://dev/shop/service/web:80, scheme: tcp"), ["publish.tunnels.t.port"]);
    assert_eq!(tunnel_keys("to: http://localhost:1, scheme: https"), ["publish.tunnels.t.scheme"]);
    assert_eq!(tunnel_keys("to: forward:nothing"), ["publish.tunnels.t.to"]);
}

#[test]
fn a_tunnel_may_lead_through_an_ssh_server() {
    for body in ["to: 'ssh://me@bastion/db:5432'", "to: { ssh: { server: me@bastion, host: db, port: 5432 } }"] {
        assert_eq!(tunnel(body).unwrap().to.to_string(), "ssh://me@bastion/db:5432");
    }
}

#[test]
fn the_section_kubernetes_is_accepted_beside_it() {
    assert_eq!(good("kubernetes: { protect: prod }\npublish: {}\n"), PublishConfig::default());
    assert_eq!(keys("kubernetes: { protect: '(' }\npublish: {}\n"), ["kubernetes.protect"]);
}

#[test]
fn five_mistakes_are_five_problems() {
    let text = "publish:\n  server: a b\n  lanes: 9\n  tunnels:\n    One_: { to: 3000 }\n    two: { to: ftp://x }\n    three: { too: 3000 }\n";
    let problems = parse(text).unwrap_err();
    let found: Vec<_> = problems.iter().map(|p| (p.line, p.key.as_str())).collect();
    assert_eq!(
        found,
        [
            (2, "publish.server"),
            (3, "publish.lanes"),
            (5, "publish.tunnels.One_"),
            (6, "publish.tunnels.two.to"),
            (7, "publish.tunnels.three.to"),
            (7, "publish.tunnels.three.too"),
        ]
    );
    assert!(problems.iter().all(|p| p.hint.is_some()));
}

#[test]
fn a_file_without_publish_is_told_so() {
    assert_eq!(keys("version: 1\n"), ["publish"]);
    assert_eq!(keys(""), ["publish"]);
}

#[test]
fn s6_a_token_in_the_file_is_refused_and_not_repeated() {
    let problems = parse("publish: { token: adit_secret }").unwrap_err();
    assert!(problems.to_string().contains("token_file"));
    assert!(!problems.to_string().contains("adit_secret"));
}

#[test]
fn a_tunnel_has_one_public_place() {
    assert_eq!(tunnel_keys("to: 3000, as: a, host: b.c"), ["publish.tunnels.t.host"]);
    assert_eq!(tunnel_keys("to: 3000, host: b.c, port: 1"), ["publish.tunnels.t.port"]);
    assert_eq!(tunnel_keys("to: 3000, as: a_b"), ["publish.tunnels.t.as"]);
    assert_eq!(tunnel_keys("to: 3000, port: 0"), ["publish.tunnels.t.port"]);
}

#[test]
fn two_tunnels_do_not_share_a_place() {
    let text = "publish: { tunnels: { a: { to: 1 }, b: { to: 2, as: A } } }";
    assert_eq!(keys(text), ["publish.tunnels.b"]);
}

#[test]
fn byte_pipes_have_ports_and_requests_have_names() {
    assert_eq!(tunnel_keys("to: 'tcp://h:1'"), ["publish.tunnels.t.port"]);
    assert_eq!(tunnel_keys("to: 'tcp://h:1', as: x"), ["publish.tunnels.t.to"]);
    assert_eq!(tunnel_keys("to: 'http://h:1', port: 15000"), ["publish.tunnels.t.to"]);
    let bare = tunnel("to: 5432, port: 15432").unwrap();
    assert_eq!(bare.to.to_string(), "tcp://127.0.0.1:5432");
}

#[test]
fn settings_of_the_other_kind_are_refused() {
    assert_eq!(
        tunnel_keys("to: 5432, port: 15432, host_header: a, request_timeout: 1s"),
        ["publish.tunnels.t.host_header", "publish.tunnels.t.request_timeout"]
    );
    assert_eq!(tunnel_keys("to: 3000, proxy_protocol: v2"), ["publish.tunnels.t.proxy_protocol"]);
    assert_eq!(tunnel_keys("to: 3000, verify: false"), ["publish.tunnels.t.verify"]);
}

#[test]
fn the_certificate_of_another_machine_is_always_verified() {
    assert_eq!(tunnel_keys("to: 'https://h:1', verify: false"), ["publish.tunnels.t.verify"]);
    assert!(!tunnel("to: 'https://127.0.0.1:1', verify: false").unwrap().verify);
}

#[test]
fn headers_of_the_connection_cannot_be_edited() {
    for name in ["Host", "Connection", "Transfer-Encoding", "Content-Length", "Upgrade", "a b"] {
        let found = tunnel_keys(&format!("to: 3000, headers: {{ remove: ['{name}'] }}"));
        assert_eq!(found, ["publish.tunnels.t.headers.remove"], "{name}");
    }
    assert_eq!(tunnel_keys("to: 3000, headers: { add: { X-A: \"a\\nb\" } }"), ["publish.tunnels.t.headers.add.X-A"]);
}

#[test]
fn header_edits_replace_and_remove() {
    let mut headers = http::HeaderMap::new();
    headers.append("x-a", "1".parse().unwrap());
    headers.append("x-a", "2".parse().unwrap());
    headers.append("x-b", "3".parse().unwrap());
    let edits = tunnel("to: 3000, headers: { add: { X-A: 9 }, remove: X-B }").unwrap().headers;
    assert!(!edits.is_empty());
    edits.apply(&mut headers);
    let all: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    assert_eq!(all, [("x-a", "9")]);
}

#[test]
fn trust_is_a_file_or_a_fingerprint_and_not_both() {
    let found = keys(&format!("publish: {{ ca_file: a, fingerprint: '{}' }}", "0".repeat(64)));
    assert_eq!(found, ["publish.fingerprint"]);
    let config = good("publish: { ca_file: ca.pem }");
    assert_eq!(config.trust, TrustConfig::CaFile("ca.pem".into()));
}

#[test]
fn fingerprints_are_read_in_all_common_forms() {
    let plain = "ab".repeat(32);
    let colons = vec!["AB"; 32].join(":");
    for text in [&plain, &colons, &format!("sha256:{plain}"), &format!("SHA256:{colons}")] {
        assert_eq!(parse_fingerprint(text), Ok([0xab; 32]), "{text}");
    }
    for text in ["", "ab", "sha256:", &format!("{plain}0"), &"é".repeat(32)] {
        assert!(parse_fingerprint(text).is_err(), "{text}");
    }
}

#[test]
fn server_addresses_are_read_in_all_common_forms() {
    let read = |text: &str| parse_server_address(text).map(|a| a.to_string());
    assert_eq!(read("Tunnel.Example.com").unwrap(), "tunnel.example.com:8443");
    assert_eq!(read("h:1").unwrap(), "h:1");
    assert_eq!(read("10.0.0.1").unwrap(), "10.0.0.1:8443");
    assert_eq!(read("10.0.0.1:99").unwrap(), "10.0.0.1:99");
    assert_eq!(read("[::1]:99").unwrap(), "[::1]:99");
    assert_eq!(read("::1").unwrap(), "[::1]:8443");
    assert_eq!(read("[::1]").unwrap(), "[::1]:8443");
    for text in ["", ":1", "h:", "h:0", "h:70000", "https://h", "a b", "h:x", "[x]:1", "10.0.0:1"] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn s13_agent_metrics_stay_on_loopback() {
    assert_eq!(keys("publish: { metrics: '0.0.0.0:9091' }"), ["publish.metrics"]);
    assert_eq!(good("publish: { metrics: 9091 }").metrics.unwrap().to_string(), "127.0.0.1:9091");
}

#[test]
fn a_path_makes_a_probe_http() {
    let probe = |body: &str| tunnel(&format!("to: 1, health: {{ {body} }}")).map(|t| t.health.unwrap().probe);
    assert_eq!(probe("path: /up").unwrap(), Probe::Http { path: "/up".into() });
    assert_eq!(probe("type: http").unwrap(), Probe::Http { path: "/".into() });
    assert_eq!(probe("interval: 1s").unwrap(), Probe::Tcp);
    assert!(probe("type: tcp, path: /up").is_err());
    assert!(probe("path: up").is_err());
    assert!(probe("type: postgres").is_err());
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = parse(&text);
        let _ = (parse_server_address(&text), parse_fingerprint(&text));
    }

    #[test]
    fn nor_does_any_tunnel(to in "\\PC{0,12}", extra in "(as|host|port|headers|health|verify): \\PC{0,8}") {
        let _ = tunnel(&format!("to: '{to}', {extra}"));
    }
}
