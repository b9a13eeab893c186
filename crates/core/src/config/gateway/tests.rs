//! Tests of `gateway`.

use crate::config::gateway::*;
use crate::config::{AgentFile, Problems};

fn parse(text: &str) -> Result<AgentFile, Problems> {
    AgentFile::parse("dir/adit.yaml", text, &|name| (name == "PW").then(|| "hunter2".to_owned()))
}

fn gateway(body: &str) -> GatewayConfig {
    let text = format!("gateway: {{ {body} }}");
    parse(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}")).gateway.unwrap()
}

fn route(key: &str, body: &str) -> RouteConfig {
    gateway(&format!("routes: {{ '{key}': {{ {body} }} }}")).routes.remove(0)
}

fn keys(body: &str) -> Vec<String> {
    let text = format!("gateway: {{ {body} }}");
    parse(&text).expect_err(&text).0.into_iter().map(|p| p.key).collect()
}

fn route_keys(body: &str) -> Vec<String> {
    let start = "gateway.routes.a.localhost";
    let keys = keys(&format!("routes: {{ a.localhost: {{ {body} }} }}"));
    keys.into_iter().map(|key| key.strip_prefix(start).unwrap_or(&key).trim_start_matches('.').to_owned()).collect()
}

#[test]
fn an_empty_section_is_the_default() {
    assert_eq!(gateway(""), GatewayConfig::default());
    assert_eq!(parse("version: 1").unwrap().gateway, None);
    let listen: Vec<String> = GatewayConfig::default().listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:8989", "[::1]:8989"]);
    assert_eq!(GatewayConfig::default().dynamic_host.unwrap().as_str(), "k8s.localhost");
}

#[test]
fn a_port_alone_is_on_both_loopback_addresses() {
    let listen = |text: &str| gateway(&format!("listen: {text}")).listen.len();
    assert_eq!(listen("80"), 2);
    assert_eq!(listen("0"), 1);
    assert_eq!(listen("127.0.0.1:80"), 1);
    assert_eq!(listen("[80, '0.0.0.0:81']"), 3);
    assert_eq!(keys("listen: []"), ["gateway.listen"]);
    assert_eq!(keys("listen: [80, x]"), ["gateway.listen[1]"]);
    assert_eq!(keys("listen: [80, '0.0.0.0:80']"), ["gateway.listen"]);
}

#[test]
fn dynamic_hosts_can_be_switched_off() {
    for value in ["off", "''", "OFF", "false", "No", "none"] {
        assert_eq!(gateway(&format!("dynamic_host: {value}")).dynamic_host, None, "{value}");
    }
    assert_eq!(gateway("dynamic_host: K8s.Example.").dynamic_host.unwrap().as_str(), "k8s.example");
    assert_eq!(keys("dynamic_host: 127.0.0.1"), ["gateway.dynamic_host"]);
}

#[test]
fn aliases_are_labels_for_contexts() {
    let aliases = gateway("aliases: { EKS: 'arn:aws:eks:eu:1:cluster/p', b: user@c }").aliases;
    assert_eq!(aliases, [("eks".into(), "arn:aws:eks:eu:1:cluster/p".into()), ("b".into(), "user@c".into())]);
    assert_eq!(
        keys("aliases: { a.b: x, -c: y, d: '', e: x, E: y }"),
        ["gateway.aliases.a.b", "gateway.aliases.-c", "gateway.aliases.d", "gateway.aliases.E",]
    );
}

#[test]
fn only_what_is_allowed_is_permitted() {
    let allow = gateway("allow: { contexts: [dev-*, test], namespaces: team-* }").allow;
    assert!(allow.permits("dev-1", "team-a") && allow.permits("test", "team-b"));
    assert!(!allow.permits("prod", "team-a") && !allow.permits("test", "kube-system"));
    assert!(Allow::default().permits("prod", "kube-system"));
    assert_eq!(
        keys("allow: { contexts: [], namespaces: '' }"),
        ["gateway.allow.contexts", "gateway.allow.namespaces", "gateway.allow.namespaces",]
    );
}

#[test]
fn the_idle_timeout_comes_from_the_defaults() {
    let of = |text: &str| parse(text).unwrap().gateway.unwrap().idle_timeout.map(|wait| wait.as_secs());
    assert_eq!(of("defaults: { idle_timeout: 5m }\ngateway: {}"), Some(300));
    assert_eq!(of("defaults: { idle_timeout: 5m }\ngateway: { idle_timeout: off }"), None);
}

#[test]
fn a_route_has_every_key_it_may_have() {
    let found = route(
        "*.Shop.localhost/api",
        "to: k8s://dev/shop/service/web:443, scheme: https, \
         tls: { mode: terminate, ca: ca.pem, server_name: shop.internal }, host_header: 'shop:8443', \
         headers: { add: { x-a: b }, remove: [cookie] }, response_headers: { remove: server }, \
         basic_auth: { user: me, password: \"${PW}\" }, timeout: 30s",
    );
    assert_eq!(
        (found.host.to_string().as_str(), found.path.unwrap().to_string().as_str()),
        ("*.shop.localhost", "/api")
    );
    assert_eq!((found.scheme, found.terminate), (UpstreamScheme::Https, true));
    assert_eq!(found.tls.ca.as_deref(), Some(std::path::Path::new("dir/ca.pem")));
    assert_eq!(found.tls.server_name.unwrap().as_str(), "shop.internal");
    assert!(found.tls.verify);
    assert_eq!(found.host_header.as_deref(), Some("shop:8443"));
    assert_eq!((found.headers.add.len(), found.response_headers.remove.len()), (1, 1));
    let password = PasswordSource::Value(Secret::new("hunter2".to_owned()));
    assert_eq!(found.basic_auth, Some(BasicAuth { user: "me".into(), password }));
    assert_eq!(found.timeout, Some(Duration::from_secs(30)));
}

#[test]
fn a_route_with_nothing_but_a_target_has_the_defaults() {
    let found = route("a.localhost", "to: k8s://dev/shop/service/web:80");
    assert_eq!((found.scheme, found.terminate, found.timeout), (UpstreamScheme::Http, false, None));
    assert_eq!(found.tls, UpstreamTls::default());
    assert!(found.headers.is_empty() && found.response_headers.is_empty() && found.basic_auth.is_none());
}

#[test]
fn the_scheme_is_the_urls_or_what_is_written() {
    for (body, scheme) in [
        ("to: 3000", UpstreamScheme::Http),
        ("to: 'https://h'", UpstreamScheme::Https),
        ("to: 'h2c://h:1'", UpstreamScheme::H2c),
        ("to: 'k8s:////service/a:1', scheme: h2c", UpstreamScheme::H2c),
        ("to: 'tcp://h:1', scheme: https", UpstreamScheme::Https),
        ("to: 'https://h', scheme: https", UpstreamScheme::Https),
    ] {
        assert_eq!(route("a.localhost", body).scheme, scheme, "{body}");
    }
    assert_eq!(route_keys("to: 'http://h:1', scheme: https"), ["scheme"]);
}

#[test]
fn tls_of_a_route_is_a_word_or_a_map() {
    assert!(route("a.b", "to: 1, tls: terminate").terminate);
    assert!(!route("a.b", "to: 1").terminate);
    let both = gateway("tls: local, routes: { a.b: { to: 1 }, c.d: { to: 1, tls: passthrough } }");
    assert_eq!(both.routes.iter().map(|route| route.terminate).collect::<Vec<_>>(), [true, false]);
    assert!(!route("a.b", "to: 'https://h', tls: { verify: no }").tls.verify);
    assert_eq!(route_keys("to: 1, tls: { verify: no }"), ["tls"]);
    assert_eq!(route_keys("to: 'https://h', tls: { verify: no, ca: x }"), ["tls.ca"]);
    assert_eq!(route_keys("to: 1, tls: maybe"), ["tls"]);
}

#[test]
fn hosts_of_routes_are_checked_at_their_keys() {
    for key in ["a.b:80", "*.*.b", "a_b!", "127.0.0.1", "a.b/x?y", "a.b/../x", "*"] {
        let found = keys(&format!("routes: {{ '{key}': {{ to: 1 }} }}"));
        assert_eq!(found, [format!("gateway.routes.{key}")], "{key}");
    }
    assert_eq!(route("A.Localhost/", "to: 1").path, None);
}

#[test]
fn two_routes_for_one_place_are_refused() {
    assert_eq!(
        keys("routes: { a.b: { to: 1 }, A.b: { to: 2 }, a.b/x: { to: 3 }, a.b/: { to: 4 }, '*.b': { to: 5 } }"),
        ["gateway.routes.A.b", "gateway.routes.a.b/",]
    );
}

#[test]
fn basic_auth_needs_a_user_and_one_password() {
    let of = |body: &str| route_keys(&format!("to: 1, basic_auth: {{ {body} }}"));
    assert_eq!(of("user: a"), ["basic_auth.password"]);
    assert_eq!(of("password: a"), ["basic_auth.user"]);
    assert_eq!(of("user: 'a:b', password: c"), ["basic_auth.user"]);
    assert_eq!(of("user: a, password: b, password_file: c"), ["basic_auth.password_file"]);
    let auth = route("a.b", "to: 1, basic_auth: { user: a, password_file: pw }").basic_auth.unwrap();
    assert_eq!(auth.password, PasswordSource::File("dir/pw".into()));
}

#[test]
fn s6_a_password_is_not_shown() {
    let config = gateway("routes: { a.b: { to: 1, basic_auth: { user: a, password: hunter2 } } }");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn s6_what_a_variable_holds_is_not_told_with_what_is_wrong() {
    let text = "gateway: { routes: { a.localhost: { to: 'http://127.0.0.1:1', host_header: 'x ${PW}', timeout: '${PW}', \
                headers: { remove: ['no ${PW}', 'x-${PW} y'] } } } }";
    let problems = parse(text).unwrap_err();
    assert_eq!(problems.len(), 4);
    let told = problems.to_string();
    assert!(!told.contains("hunter2") && told.contains("`x ${PW}` cannot be a Host header"), "{told}");
}

#[test]
fn a_route_may_be_its_target_alone() {
    let route = gateway("routes: { a.localhost: 'http://127.0.0.1:3000' }").routes.remove(0);
    assert_eq!(route.to.to_string(), "http://127.0.0.1:3000");
    assert_eq!(route, self::route("a.localhost", "to: 'http://127.0.0.1:3000'"));
    assert_eq!(keys("routes: { a.localhost: 'x://' }"), ["gateway.routes.a.localhost.to"]);
}

#[test]
fn a_url_for_a_route_and_a_port_out_of_range_are_told_with_what_to_write() {
    let hint = |body: &str| {
        let problem = parse(&format!("gateway: {{ {body} }}")).expect_err(body).0.remove(0);
        problem.hint.unwrap()
    };
    let text = hint("routes: { 'http://a.localhost:80/x': { to: 3000 } }");
    assert_eq!(text, "leave out http:// and the port: a.localhost/x");
    for (key, host) in [("http://[::1]:80/x", "[::1]/x"), ("http://[::1]/x", "[::1]/x"), ("http://a.b:80", "a.b")] {
        let text = hint(&format!("routes: {{ '{key}': {{ to: 3000 }} }}"));
        assert_eq!(text, format!("leave out http:// and the port: {host}"));
    }
    assert_eq!(hint("listen: 99999"), "write a port from 1 to 65535; 0 is any free one");
    assert_eq!(hint("listen: 127.0.0.1:99999"), "write a port from 1 to 65535; 0 is any free one");
}

#[test]
fn https_is_the_way_to_a_route_that_hands_tls_on_and_says_nothing_of_certificates() {
    let text = "gateway: { routes: { a.x: { to: k8s://c/n/service/s:443, scheme: https }, \
                b.x: { to: k8s://c/n/service/s:443, scheme: https, tls: { verify: false } }, \
                c.x: { to: k8s://c/n/service/s:443, scheme: https, tls: terminate }, d.x: { to: k8s://c/n/service/s:80 } } }";
    let file = AgentFile::parse("adit.yaml", text, &|_| None).expect("a good file");
    let routes = file.gateway.expect("the section").routes;
    assert_eq!(routes.iter().map(RouteConfig::is_for_https).collect::<Vec<_>>(), [true, false, false, false]);
}
