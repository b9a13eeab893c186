//! Tests of `server.yaml`.

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use crate::config::server::*;
use crate::config::{Problems, ServerConfig};

mod keys;

fn env(name: &str) -> Option<String> {
    match name {
        "DOMAIN" => Some("tunnel.example.com".to_owned()),
        "HOME" => Some("/home/me".to_owned()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<ServerConfig, Problems> {
    ServerConfig::parse("server.yaml", text, &env)
}

fn good(text: &str) -> ServerConfig {
    parse(text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn bad(text: &str) -> Vec<(u32, String, String)> {
    let problems = parse(text).expect_err(text);
    problems.0.into_iter().map(|p| (p.line, p.key, p.message)).collect()
}

fn keys(text: &str) -> Vec<String> {
    bad(text).into_iter().map(|(_, key, _)| key).collect()
}

#[test]
fn an_empty_file_is_all_defaults() {
    let config = good("");
    assert_eq!(config, ServerConfig::default());
    assert_eq!(config.public.listen[0].to_string(), "0.0.0.0:8080");
    assert_eq!(config.agents.listen[0].to_string(), "0.0.0.0:8443");
    assert_eq!(config.public.base_domain.as_str(), "localhost");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9090");
    assert_eq!(config.limits.head_size, 64 * 1024);
    assert_eq!(config.names.cooldown, Duration::from_secs(86_400));
    assert_eq!(config.quotas.agents, 10);
}

/// Every key there is; a new one belongs here.
const FULL: &str = r#"
version: 1
data_dir: ~/adit
workers: 4
public:
  listen: ["0.0.0.0:443", "[::]:443"]
  base_domain: ${DOMAIN}
  url: https://tunnel.example.com
  tls: { cert: cert.pem, key: /etc/key.pem }
  trusted_proxies: [10.0.0.0/8, "::1"]
  tcp_ports: 15000-15999
  tcp_listen: "::"
agents:
  listen: 0.0.0.0:9443
  tls: { cert: a.pem, key: b.pem }
auth:
  tokens_file: tokens.json
  jwt:
    algorithms: [RS256, EdDSA]
    key_file: jwt.pem
    issuer: https://id.example.com
    audience: adit
    leeway: 5s
    claims: { account: sub, names: adit_names, ports: adit_ports, max_tunnels: adit_max }
quotas: { agents: 1, tunnels: 2, streams: 3, requests_per_second: 4, burst: 5, upload: 10MB/s, download: unlimited }
accounts:
  big:
    quotas: { tunnels: 500, upload: unlimited }
    hosts: [shop.example.com]
    ports: 15000-15099
  plain:
limits:
  connections: 100
  agents: 50
  unauthenticated: 20
  unauthenticated_per_prefix: 5
  head_size: 16KiB
  headers: 50
  memory: 1GiB
  header_timeout: 3s
  body_min_rate: 0
  idle_timeout: 1m
  response_timeout: 90s
  tls_timeout: 2s
  auth_timeout: 1s
names: { cooldown: 1h, reserved: [shop, Blog] }
admin: { listen: 127.0.0.1:0 }
log: { access: off, audit: audit.jsonl, level: debug, format: json }
shutdown: { accept: 1s, drain: 2s, cancel: 3s, abort: 4s }
tunnel: { heartbeat: 1s, dead_after: 3s, lanes_max: 4, window_max: 4MiB }
"#;

#[test]
fn every_key_is_read() {
    let config = good(FULL);
    assert_eq!(config.data_dir, Some(PathBuf::from("/home/me/adit")));
    assert_eq!(config.workers, Some(4));
    let public = &config.public;
    assert_eq!(public.listen.len(), 2);
    assert_eq!(public.base_domain.as_str(), "tunnel.example.com");
    assert_eq!(public.url, Some(PublicUrl { https: true, port: None }));
    let tls = public.tls.as_ref().unwrap();
    assert_eq!((tls.cert.to_str(), tls.key.to_str()), (Some("cert.pem"), Some("/etc/key.pem")));
    assert!(config.is_trusted_proxy("10.1.1.1".parse().unwrap()));
    assert!(!config.is_trusted_proxy("11.1.1.1".parse().unwrap()));
    assert_eq!(public.tcp_ports.unwrap().to_string(), "15000-15999");
    assert_eq!(public.tcp_address().to_string(), "::");
    assert_eq!(config.agents.listen[0].port(), 9443);
    assert!(config.agents.tls.is_some());
    assert_eq!(config.limits.headers, 50);
    assert_eq!(config.limits.body_min_rate, 0);
    assert_eq!(config.limits.memory, 1 << 30);
    assert!(config.is_reserved("blog") && config.is_reserved("www") && !config.is_reserved("x"));
    assert_eq!(config.admin.listen.port(), 0);
    assert_eq!(config.log.access, LogTarget::Off);
    assert_eq!(config.log.audit, Some(LogTarget::File("audit.jsonl".into())));
    assert_eq!(config.log.level.map(LogLevel::as_str), Some("debug"));
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.shutdown.abort, Duration::from_secs(4));
    assert_eq!(config.tunnel.window_max, 4 << 20);
}

#[test]
fn jwt_settings_are_read() {
    let jwt = good(FULL).auth.jwt.unwrap();
    assert_eq!(jwt.algorithms, [JwtAlgorithm::Rs256, JwtAlgorithm::EdDsa]);
    assert_eq!(jwt.keys, JwtKeys::KeyFile("jwt.pem".into()));
    assert_eq!(jwt.claims.account, "sub");
    assert_eq!(jwt.leeway, Duration::from_secs(5));
    let jwt = good("auth: { jwt: { algorithms: HS256, jwks_file: k.json } }").auth.jwt.unwrap();
    assert_eq!(jwt.keys, JwtKeys::JwksFile("k.json".into()));
    assert_eq!(jwt.claims, JwtClaims::default());
    assert!(JwtAlgorithm::ALL.iter().all(|(name, a)| a.as_str() == *name));
}

#[test]
fn an_account_takes_the_general_quotas_where_it_has_none() {
    let config = good(FULL);
    assert_eq!(config.quotas_of("big").tunnels, 500);
    assert_eq!(config.quotas_of("big").streams, 3);
    assert_eq!(config.quotas_of("big").upload, None);
    assert_eq!(config.quotas_of("plain"), &config.quotas);
    assert_eq!(config.quotas_of("unknown").upload, Some(10_000_000));
    assert_eq!(config.hosts_of("big")[0].as_str(), "shop.example.com");
    assert!(config.hosts_of("unknown").is_empty());
}

#[test]
fn five_mistakes_are_five_problems_with_file_line_key_and_hint() {
    let text = "public:\n  listen: 0.0.0.0:99999\n  base_doman: x.org\nquotas:\n  agents: many\nlimits:\n  header_timeout: 10\ntunnel:\n  lanes_max: 9\n";
    let problems = parse(text).unwrap_err();
    let found: Vec<_> = problems.iter().map(|p| (p.line, p.key.as_str())).collect();
    assert_eq!(
        found,
        [
            (2, "public.listen"),
            (3, "public.base_doman"),
            (5, "quotas.agents"),
            (7, "limits.header_timeout"),
            (9, "tunnel.lanes_max"),
        ]
    );
    assert!(problems.iter().all(|p| p.file == "server.yaml" && p.hint.is_some() && p.column > 0));
    assert_eq!(problems.0[1].hint.as_deref(), Some("did you mean `base_domain`?"));
    let shown = problems.to_string();
    assert!(shown.starts_with("server.yaml:2:11: public.listen: 99999 is no port\nhint: "), "{shown}");
}

#[test]
fn a_repeated_key_is_reported_beside_the_other_problems() {
    let found = bad("workers: 0\nadmin: {listen: 9090}\nworkers: 2\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0].1, "workers");
    assert!(found[1].2.contains("is there twice"));
}

#[test]
fn s13_an_admin_listener_on_a_public_address_is_refused() {
    assert_eq!(keys("admin: { listen: 0.0.0.0:9090 }"), ["admin.listen"]);
    assert_eq!(good("admin: { listen: 9191 }").admin.listen.to_string(), "127.0.0.1:9191");
    assert_eq!(good("admin: { listen: '[::1]:9191' }").admin.listen.to_string(), "[::1]:9191");
}

#[test]
fn s5_jwt_algorithms_are_pinned_and_not_mixed() {
    assert_eq!(keys("auth: { jwt: { key_file: k } }"), ["auth.jwt.algorithms"]);
    assert_eq!(keys("auth: { jwt: { key_file: k, algorithms: [none] } }"), ["auth.jwt.algorithms"]);
    assert_eq!(keys("auth: { jwt: { key_file: k, algorithms: [HS256, RS256] } }"), ["auth.jwt.algorithms"]);
    assert_eq!(keys("auth: { jwt: { algorithms: [RS256] } }"), ["auth.jwt.key_file"]);
    assert_eq!(keys("auth: { jwt: { algorithms: [RS256], key_file: a, jwks_file: b } }"), ["auth.jwt.jwks_file"]);
}

#[test]
fn a_certificate_needs_its_key() {
    assert_eq!(keys("public: { tls: { cert: a } }"), ["public.tls.key"]);
    assert_eq!(keys("agents: { tls: { key: a } }"), ["agents.tls.cert"]);
    assert_eq!(keys("agents: { tls: {} }"), ["agents.tls.cert", "agents.tls.key"]);
}

#[test]
fn the_public_url_is_one_of_the_base_domain() {
    let url = |text: &str| good(&format!("public: {{ base_domain: a.org, url: '{text}' }}")).public.url;
    assert_eq!(url("https://a.org"), Some(PublicUrl { https: true, port: None }));
    assert_eq!(url("http://*.a.org:81/"), Some(PublicUrl { https: false, port: Some(81) }));
    for text in ["a.org", "ftp://a.org", "https://b.org", "https://a.org:x", "https://a.org/p"] {
        let found = keys(&format!("public: {{ base_domain: a.org, url: '{text}' }}"));
        assert_eq!(found, ["public.url"], "{text}");
    }
}

#[test]
fn users_are_shown_the_url_they_can_open() {
    let host = Hostname::parse("app.a.org").unwrap();
    assert_eq!(good("").public_url(&host, 8080), "http://app.a.org:8080");
    assert_eq!(good("").public_url(&host, 80), "http://app.a.org");
    let tls = good("public: { tls: { cert: a, key: b } }");
    assert_eq!(tls.public_url(&host, 443), "https://app.a.org");
    assert_eq!(tls.public_url(&host, 8443), "https://app.a.org:8443");
    let behind = good("public: { base_domain: a.org, url: https://a.org }");
    assert_eq!(behind.public_url(&host, 8080), "https://app.a.org");
}

#[test]
fn ports_of_an_account_lie_within_the_public_ones() {
    assert_eq!(keys("accounts: { a: { ports: 15000 } }"), ["accounts.a.ports"]);
    assert_eq!(
        keys("public: { tcp_ports: 15000-15009 }\naccounts: { a: { ports: 15000-15010 } }"),
        ["accounts.a.ports"]
    );
    let config = good("public: { tcp_ports: 15000-15009 }\naccounts: { a: { ports: 15000-15009 } }");
    assert!(config.accounts["a"].ports.is_some());
}

#[test]
fn an_account_needs_a_usable_name() {
    assert_eq!(keys("accounts: { 'a b': {} }"), ["accounts.a b"]);
}

#[test]
fn a_lane_is_not_dead_before_its_heartbeat() {
    assert_eq!(keys("tunnel: { heartbeat: 5s, dead_after: 5s }"), ["tunnel.dead_after"]);
    assert_eq!(good("tunnel: { heartbeat: 30s }").tunnel.dead_after, Duration::from_secs(60));
    assert_eq!(good("tunnel: { heartbeat: 1s }").tunnel.dead_after, Duration::from_secs(10));
}

#[test]
fn values_out_of_range_are_refused() {
    assert_eq!(keys("limits: { head_size: 65KiB }"), ["limits.head_size"]);
    assert_eq!(keys("limits: { headers: 1000 }"), ["limits.headers"]);
    assert_eq!(keys("limits: { header_timeout: 0s }"), ["limits.header_timeout"]);
    assert_eq!(keys("tunnel: { window_max: 2GiB }"), ["tunnel.window_max"]);
    assert_eq!(keys("quotas: { upload: 5MB }"), ["quotas.upload"]);
    assert_eq!(keys("public: { listen: [] }"), ["public.listen"]);
}

#[test]
fn a_file_that_is_no_map_is_one_problem() {
    assert_eq!(bad("- a\n- b\n").len(), 1);
    assert_eq!(bad("just text\n").len(), 1);
    assert_eq!(bad("a: [\n").len(), 1);
}

/// A file with some of its bytes changed.
fn damaged() -> impl Strategy<Value = String> {
    proptest::collection::vec((0..FULL.len(), "[\\PC\\n]"), 1..6).prop_map(|changes| {
        let mut text = FULL.to_owned();
        for (at, with) in changes {
            if text.is_char_boundary(at) && text.is_char_boundary(at + 1) {
                text.replace_range(at..=at, &with);
            }
        }
        text
    })
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn nor_does_a_damaged_file_and_each_problem_says_something(text in damaged()) {
        if let Err(problems) = parse(&text) {
            prop_assert!(!problems.is_empty());
            prop_assert!(problems.iter().all(|p| !p.message.is_empty()));
        }
    }
}

#[test]
fn tcp_ports_are_for_this_machine_only_when_the_http_side_is() {
    let address = |text: &str| good(text).public.tcp_address().to_string();
    assert_eq!(address(""), "0.0.0.0");
    assert_eq!(address("public: { listen: '127.0.0.1:80' }"), "127.0.0.1");
    assert_eq!(address("public: { listen: ['[::1]:80', '127.0.0.1:80'] }"), "::1");
    assert_eq!(address("public: { listen: ['127.0.0.1:80', '0.0.0.0:81'] }"), "0.0.0.0");
    assert_eq!(address("public: { listen: '127.0.0.1:80', tcp_listen: 10.0.0.1 }"), "10.0.0.1");
}
