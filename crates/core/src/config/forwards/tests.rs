//! Tests of `defaults` and `forwards`, and of what only the whole file tells.

use crate::config::forwards::*;
use crate::config::gateway::PasswordSource;
use crate::config::{AgentFile, Problems, export};
use crate::health::HealthSettings;
use crate::secret::Secret;

fn parse(text: &str) -> Result<AgentFile, Problems> {
    AgentFile::parse("adit.yaml", text, &|name| (name == "PG").then(|| "hunter2".to_owned()))
}

fn good(text: &str) -> AgentFile {
    parse(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// One forward, written in flow style behind its target.
fn forward(body: &str) -> ForwardConfig {
    good(&format!("forwards: {{ f: {{ to: 5432{body} }} }}")).forwards.remove(0)
}

fn found(text: &str) -> Vec<(u32, String, String)> {
    parse(text).expect_err(text).0.into_iter().map(|p| (p.line, p.key, p.message)).collect()
}

fn keys(text: &str) -> Vec<String> {
    found(text).into_iter().map(|(_, key, _)| key).collect()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_forward_may_be_its_target_alone() {
    let short = good("forwards: { f: 5432 }").forwards.remove(0);
    assert_eq!(short, forward(""));
    assert_eq!(keys("forwards: { f: 'x://' }"), ["forwards.f.to"]);
}

#[test]
fn what_must_hold_until_tries_begin_anew_is_ten_seconds_or_as_it_is_written() {
    assert_eq!(forward("").restart.window, seconds(10));
    assert_eq!(forward(", restart: { window: 5m }").restart.window, seconds(300));
    let inherited = good("defaults: { restart: { window: 1m } }\nforwards: { f: 5432 }").forwards.remove(0);
    assert_eq!(inherited.restart.window, seconds(60));
    assert_eq!(keys("forwards: { f: { to: 1, restart: { window: 0 } } }"), ["forwards.f.restart.window"]);
}

const EXAMPLE: &str = r#"
version: 1
kubernetes:
  kubeconfig: /k/config:/k/prod
  exec_path: [/bin]
  keepalive: 240s
defaults:
  idle_timeout: 60m
  health: { type: tcp, interval: 30s, timeout: 5s, rise: 1, fall: 3 }
  restart: { max_attempts: 5, initial_delay: 1s, multiplier: 2, max_delay: 5m }
forwards:
  postgres:
    to: k8s://prod/databases/service/postgresql:5432
    listen: 5432
    start: always
    tags: [database]
    health: { type: postgres, user: app, password: "${PG}", database: app }
  grafana:
    to: k8s://prod/monitoring/service/grafana:80
  rds:
    to:
      jump: { context: prod, namespace: default, via: { service: backend-api }, host: mydb.rds.amazonaws.com, port: 3306 }
    listen: 3306
gateway:
  listen: 127.0.0.1:8989
  dynamic_host: k8s.localhost
  routes:
    argocd.localhost: { to: k8s://prod/argocd/service/argocd-server:443, scheme: https }
    grafana.localhost: { to: forward:grafana }
publish:
  server: tunnel.example.com:8443
  token_file: /t
  tunnels:
    app1: { to: http://127.0.0.1:3000 }
    shop: { to: k8s://dev/shop/service/web:80, host_header: shop.internal }
"#;

#[test]
fn the_file_that_users_are_shown_is_read_whole() {
    let file = good(EXAMPLE);
    let postgres = file.forward("postgres").unwrap();
    assert_eq!(postgres.listen, ["127.0.0.1:5432".parse().unwrap()]);
    assert_eq!((postgres.start, postgres.tags.as_slice()), (Start::Always, &["database".to_owned()][..]));
    let health = postgres.health.as_ref().unwrap();
    assert_eq!(health.settings, HealthSettings { interval: seconds(30), timeout: seconds(5), rise: 1, fall: 3 });
    let HealthProbe::Postgres(probe) = &health.probe else { panic!() };
    assert_eq!((probe.login.user.as_deref(), probe.database.as_deref()), (Some("app"), Some("app")));
    assert_eq!(probe.login.password, Some(PasswordSource::Value(Secret::new("hunter2".to_owned()))));
    assert_eq!(postgres.restart.max_attempts, Some(5));
    assert_eq!(postgres.backoff.cap, seconds(300));
    assert_eq!(file.forward("grafana").unwrap().health.as_ref().unwrap().probe, HealthProbe::Tcp);
    assert!(matches!(file.forward("rds").unwrap().to, Target::Jump(_)));
    assert_eq!(file.gateway.as_ref().unwrap().routes.len(), 2);
    assert_eq!(file.publish.as_ref().unwrap().tunnels.len(), 2);
    assert_eq!(file.targets().len(), 7);
}

#[test]
fn s6_the_password_of_a_probe_is_not_shown() {
    assert!(!format!("{:?}", good(EXAMPLE)).contains("hunter2"));
}

#[test]
fn a_forward_with_nothing_but_a_target_has_the_defaults() {
    let found = forward("");
    assert_eq!(found, ForwardConfig::new("f", found.to.clone()));
    assert_eq!(found.backoff, BackoffSettings::default());
    assert_eq!(good("forwards: { }"), AgentFile::default());
}

#[test]
fn what_a_forward_leaves_out_comes_from_the_defaults() {
    let defaults =
        "defaults: { idle_timeout: off, health: { type: https, path: /h, fall: 9 }, restart: { max_delay: 1m } }";
    let read = |body: &str| good(&format!("{defaults}\nforwards: {{ f: {{ to: 1{body} }} }}")).forwards.remove(0);
    let plain = read("");
    assert_eq!((plain.idle_timeout, plain.restart.max_delay), (None, seconds(60)));
    assert_eq!(plain.health.as_ref().unwrap().probe.as_str(), "https");
    let own = read(", idle_timeout: 1m, health: { fall: 2, verify: no }, restart: { initial_delay: 2s }");
    assert_eq!((own.idle_timeout, own.restart.max_delay), (Some(seconds(60)), seconds(60)));
    let health = own.health.unwrap();
    assert_eq!(health.settings.fall, 2);
    let HealthProbe::Http(probe) = health.probe else { panic!() };
    assert_eq!((probe.path.as_str(), probe.tls.unwrap().verify), ("/h", false));
    assert_eq!(read(", health: off").health, None);
    let other = read(", health: { type: tcp }").health.unwrap();
    assert_eq!((other.probe, other.settings.fall), (HealthProbe::Tcp, 9));
}

#[test]
fn limits_that_a_forward_leaves_out_come_from_the_defaults() {
    let defaults = "defaults: { limits: { connections: 20, bytes_per_second: 1MiB/s } }";
    let read =
        |body: &str| good(&format!("{defaults}\nforwards: {{ f: {{ to: 1{body} }} }}")).forwards.remove(0).limits;
    let limits = |connections, bytes_per_second| LimitsConfig { connections, bytes_per_second };
    assert_eq!(read(""), limits(Some(20), Some(1 << 20)));
    assert_eq!(read(", limits: { connections: 5 }"), limits(Some(5), Some(1 << 20)));
    assert_eq!(read(", limits: { connections: unlimited, bytes_per_second: unlimited }"), limits(None, None));
}

#[test]
fn a_probe_is_of_the_kind_its_keys_speak_of() {
    let probe = |body: &str| forward(&format!(", health: {{ {body} }}")).health.unwrap().probe;
    assert_eq!(probe(""), HealthProbe::Tcp);
    assert_eq!(probe("path: /x").as_str(), "http");
    assert_eq!(probe("user: app").as_str(), "postgres");
    assert_eq!(probe("type: postgresql").as_str(), "postgres");
    assert_eq!(probe("type: kafka"), HealthProbe::Kafka(KafkaProbe::default()));
    assert_eq!(probe("sslmode: require").as_str(), "postgres");
    assert_eq!(probe("mechanism: plain").as_str(), "kafka");
    assert_eq!(probe("service: shop.Cart").as_str(), "grpc");
    assert_eq!(probe("type: mariadb"), HealthProbe::Mysql);
    assert_eq!(
        probe("command: pg_isready"),
        HealthProbe::Exec(ExecProbe { command: vec!["pg_isready".into()], shown: vec!["pg_isready".into()] })
    );
    let HealthProbe::Http(http) = probe("type: HTTP, status: [200, 204, 3xx, 400-404], content: ok") else { panic!() };
    assert_eq!(http.content.as_deref(), Some("ok"));
    let good: Vec<u16> = (100..600).filter(|status| http.accepts(*status)).collect();
    assert_eq!((good[0], good[1], good[2], good.len()), (200, 204, 300, 107));
}

#[test]
fn a_url_says_type_host_and_path() {
    let of = |body: &str| forward(&format!(", health: {{ {body} }}")).health.unwrap().probe;
    let HealthProbe::Http(http) = of("url: 'https://app.internal:8443/h?full=1'") else { panic!() };
    assert_eq!((http.path.as_str(), http.host_header.as_deref()), ("/h?full=1", Some("app.internal:8443")));
    assert!(http.tls.is_some());
    let HealthProbe::Http(http) = of("type: http, url: 'http://localhost', host_header: x.y, method: head") else {
        panic!()
    };
    assert_eq!((http.path.as_str(), http.host_header.as_deref()), ("/", Some("x.y")));
    assert_eq!((http.method, http.tls), (http::Method::HEAD, None));
}

#[test]
fn s6_what_a_probe_sends_to_be_let_in_is_not_shown() {
    let text = "forwards: { f: { to: 1, health: { path: /x, headers: { authorization: 'Bearer hunter2' } } }, \
                g: { to: 1, health: { type: redis, user: u, password: hunter2, tls: yes, ca: ca.pem } }, \
                h: { to: 1, health: { type: kafka, user: u, password_file: pw, mechanism: scram-sha-512 } } }";
    let file = good(text);
    let shown = format!("{file:?}{}{}", file.effective_yaml(), file.effective_json());
    assert!(!shown.contains("hunter2"), "{shown}");
    for word in ["authorization", "[redacted]", "scram-sha-512", "ca.pem", "password_file"] {
        assert!(shown.contains(word), "{word} in {shown}");
    }
}

#[test]
fn what_is_shown_of_a_probe_is_read_back() {
    for body in [
        "type: https, path: /h, status: [200-299, 404], verify: no, host_header: a.b, method: POST",
        "type: postgres, user: u, password_file: /pw, database: d, sslmode: verify-full, ca: /ca.pem",
        "type: redis, password_file: /pw, tls: yes, verify: no",
        "type: redis, tls: yes, server_name: redis.internal",
        "type: mysql, fall: 9",
        "type: grpc, service: a.B, host_header: c.d",
        "type: kafka, user: u, password_file: /pw, mechanism: scram-sha-256, tls: yes",
        "type: exec, command: [sh, -c, 'exit 0']",
    ] {
        let file = good(&format!("forwards: {{ f: {{ to: 1, health: {{ {body} }} }} }}"));
        let again = good(&file.effective_yaml());
        assert_eq!(again.forwards[0].health, file.forwards[0].health, "{body}");
    }
}

#[test]
fn keys_of_another_kind_of_probe_are_refused() {
    let of = |body: &str| keys(&format!("forwards: {{ f: {{ to: 1, health: {body} }} }}"));
    for (body, key) in [
        ("{ type: tcp, path: /x }", "path"),
        ("{ type: http, user: x }", "user"),
        ("{ type: kafka, content: x }", "content"),
        ("{ type: http, path: x }", "path"),
        ("{ type: http, status: 99 }", "status"),
        ("{ type: ping }", "type"),
        ("{ type: ping, path: /x }", "type"),
        ("{ type: http, path: /x, url: 'http://a/x' }", "path"),
        ("{ type: http, url: 'https://a/x' }", "url"),
        ("{ url: 'ftp://a/x' }", "url"),
        ("{ url: 'http://u:p@a/x' }", "url"),
        ("{ type: http, method: 'A B' }", "method"),
        ("{ type: http, status: 300-200 }", "status"),
        ("{ type: http, status: 6xx }", "status"),
        ("{ type: http, headers: { host: x } }", "headers.host"),
        ("{ type: https, verify: no, ca: x }", "ca"),
        ("{ type: mysql, user: x }", "user"),
        ("{ type: tcp, tls: yes }", "tls"),
        ("{ type: redis, password: a, password_file: b }", "password_file"),
        ("{ type: kafka, user: a }", "user"),
        ("{ type: kafka, password: a }", "password"),
        ("{ type: kafka, mechanism: gssapi }", "mechanism"),
        ("{ type: postgres, sslmode: maybe }", "sslmode"),
        ("{ type: exec }", "command"),
        ("{ type: postgres, verify: no }", "verify"),
        ("{ interval: 0 }", "interval"),
        ("{ rise: 0 }", "rise"),
    ] {
        assert_eq!(of(body), [format!("forwards.f.health.{key}")], "{body}");
    }
    assert_eq!(of("maybe"), ["forwards.f.health"]);
}

#[test]
fn waits_are_those_that_were_written() {
    let backoff = |body: &str| forward(&format!(", restart: {{ {body} }}")).backoff;
    assert_eq!(
        backoff("initial_delay: 1s, max_delay: 5m"),
        BackoffSettings {
            first: Duration::from_millis(100),
            base: Duration::from_millis(500),
            growth: 2.0,
            cap: seconds(300)
        }
    );
    assert_eq!(backoff("initial_delay: 10ms").first, Duration::from_millis(10));
    assert_eq!(forward(", restart: { max_attempts: unlimited }").restart.max_attempts, None);
    for (body, key) in [
        ("{ max_attempts: 0 }", "max_attempts"),
        ("{ multiplier: 0.5 }", "multiplier"),
        ("{ multiplier: NaN }", "multiplier"),
        ("{ initial_delay: 1m }", "initial_delay"),
        ("{ initial_delay: 1m, max_delay: 30s }", "max_delay"),
    ] {
        assert_eq!(
            keys(&format!("forwards: {{ f: {{ to: 1, restart: {body} }} }}")),
            [format!("forwards.f.restart.{key}")]
        );
    }
}

#[test]
fn a_forward_listens_where_it_is_told_to() {
    let listen = |text: &str| {
        let addresses = forward(&format!(", listen: {text}")).listen;
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(listen("5432"), ["127.0.0.1:5432"]);
    assert_eq!(
        listen("[':80', '[::1]:80', '0.0.0.0:81', 0, 0]"),
        ["127.0.0.1:80", "[::1]:80", "0.0.0.0:81", "127.0.0.1:0", "127.0.0.1:0",]
    );
    assert_eq!(keys("forwards: { f: { to: 1, listen: 70000 } }"), ["forwards.f.listen"]);
}

#[test]
fn each_mistake_of_a_forward_is_told_at_its_place() {
    let text = "forwards:\n  a b: { to: 1 }\n  b: { listen: x, start: soon, tags: ['a b'], idle_timeout: z }\n  c: { to: 1, balance: perhaps, lisen: 1 }\n";
    let found: Vec<(u32, String)> = found(text).into_iter().map(|(line, key, _)| (line, key)).collect();
    let expected = [
        (2, "forwards.a b"),
        (3, "forwards.b.to"),
        (3, "forwards.b.listen"),
        (3, "forwards.b.start"),
        (3, "forwards.b.tags"),
        (3, "forwards.b.idle_timeout"),
        (4, "forwards.c.balance"),
        (4, "forwards.c.lisen"),
    ];
    assert_eq!(found, expected.map(|(line, key)| (line, key.to_owned())));
}

#[test]
fn a_forward_that_is_not_there_is_named_with_the_nearest() {
    let text = "forwards: { grafana: { to: 3000 }, a: { to: 'forward:grafna' } }\ngateway: { routes: { x.localhost: { to: 'forward:zzz' } } }\npublish: { tunnels: { t: { to: forward:grafan } } }\n";
    let problems = parse(text).unwrap_err();
    assert_eq!(keys(text), ["forwards.a.to", "gateway.routes.x.localhost.to", "publish.tunnels.t.to"]);
    assert_eq!(problems.0[0].message, "there is no forward `grafna` (has: grafana, a)");
    assert_eq!(problems.0[0].hint.as_deref(), Some("did you mean `forward:grafana`?"));
    assert_eq!((problems.0[0].line, problems.0[0].column), (1, 45));
    assert!(problems.0[1].hint.as_ref().unwrap().contains("add `zzz`"));
}

#[test]
fn a_forward_with_a_mistake_of_its_own_is_still_known() {
    assert_eq!(keys("forwards: { a: { to: 'x://y' }, b: { to: forward:a } }"), ["forwards.a.to"]);
}

#[test]
fn forwards_that_lead_in_a_circle_are_refused_once() {
    let text = "forwards: { a: { to: forward:b }, b: { to: forward:c }, c: { to: forward:b }, d: { to: forward:d } }";
    let messages: Vec<String> = found(text).into_iter().map(|(_, _, message)| message).collect();
    assert_eq!(messages, ["the forward leads to itself: b → c → b", "the forward leads to itself: d → d"]);
    good("forwards: { a: { to: forward:b }, b: { to: forward:c }, c: { to: 1 } }");
}

#[test]
fn two_listeners_cannot_have_one_port() {
    let text = "forwards:\n  a: { to: 1, listen: 8989 }\n  b: { to: 1, listen: [5432, 5432] }\n  c: { to: 1, listen: 5432 }\n  d: { to: 1, listen: '0.0.0.0:5432' }\ngateway: { listen: 8989 }\npublish: { metrics: '127.0.0.1:9091' }\n";
    let said: Vec<(u32, String)> = found(text).into_iter().map(|(line, _, message)| (line, message)).collect();
    let expected = [
        (2, "127.0.0.1:8989 is taken by gateway.listen"),
        (3, "127.0.0.1:5432 is there twice"),
        (4, "127.0.0.1:5432 is taken by forwards.b.listen"),
        (5, "0.0.0.0:5432 is taken by forwards.b.listen"),
    ];
    assert_eq!(said, expected.map(|(line, text)| (line, text.to_owned())));
    assert_eq!(keys("forwards: { a: { to: 1, listen: 9091 } }\npublish: { metrics: 9091 }"), ["forwards.a.listen"]);
    good(
        "forwards: { a: { to: 1, listen: 1 }, b: { to: 1, listen: '[::1]:1' }, c: { to: 1, listen: 1, enabled: no } }",
    );
}

#[test]
fn a_thousand_forwards_and_routes_are_read_in_no_time() {
    let mut text = String::from("forwards:\n");
    (0..1000).for_each(|n| text += &format!("  f{n}: {{ to: tcp://10.0.0.1:80, listen: {} }}\n", 10_000 + n));
    text += "gateway:\n  routes:\n";
    (0..1000).for_each(|n| text += &format!("    h{n}.localhost: {{ to: forward:f{n} }}\n"));
    let file = good(&text);
    assert_eq!((file.forwards.len(), file.gateway.unwrap().routes.len()), (1000, 1000));
}

#[test]
fn waits_grow_as_the_file_says_and_the_second_is_the_initial_delay_at_most() {
    let found = forward(", restart: { initial_delay: 3s, multiplier: 1.5, max_delay: 1m }").backoff;
    assert_eq!((found.base, found.growth, found.cap), (Duration::from_secs(2), 1.5, Duration::from_secs(60)));
}

#[test]
fn what_variables_hold_in_a_probe_is_run_and_asked_for_but_not_shown() {
    let text = "version: 1\nforwards:\n  a: { to: 1, health: { type: exec, command: [redis-cli, -a, \"${PW}\", ping] } }\n  \
                b: { to: 2, health: { type: http, path: \"/health?token=${PW}\" } }\n  \
                c: { to: 3, health: { url: \"http://localhost/${PW}/live?key=${PW:-x}\" } }\n";
    let variable = |name: &str| (name == "PW").then(|| "hunter2".to_owned());
    let file = AgentFile::parse("adit.yaml", text, &variable).unwrap();
    let shown = file.effective_yaml() + &file.effective_json().to_string();
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("redis-cli") && shown.contains("/health?token=[redacted]"), "{shown}");
    let probe = |name: &str| file.forward(name).unwrap().health.clone().unwrap().probe;
    match probe("a") {
        HealthProbe::Exec(probe) => assert_eq!(probe.command, ["redis-cli", "-a", "hunter2", "ping"]),
        other => panic!("{other:?}"),
    }
    match probe("c") {
        HealthProbe::Http(probe) => {
            assert_eq!(probe.path, "/hunter2/live?key=hunter2");
            assert_eq!(probe.shown_path, "/[redacted]/live?key=[redacted]");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn s6_what_variables_hold_in_any_text_of_a_probe_is_not_shown() {
    let text = "version: 1\nforwards:\n  \
                a: { to: 1, health: { type: http, content: \"says ${PW}\", host_header: \"${PW}.test\" } }\n  \
                b: { to: 2, health: { type: grpc, service: \"${PW}\" } }\n  \
                c: { to: 3, health: { type: postgres, user: \"${PW}\", password: x, database: \"${PW}\" } }\n  \
                d: { to: 4, health: { url: \"http://${PW}:1/live\" } }\n  \
                e: { to: 5, health: { type: kafka, user: \"${PW}\", password: x } }\n";
    let variable = |name: &str| (name == "PW").then(|| "hunter2".to_owned());
    let file = AgentFile::parse("adit.yaml", text, &variable).unwrap();
    let shown = format!("{file:?}{}{}", file.effective_yaml(), file.effective_json());
    assert!(!shown.contains("content: Some(\"says hunter2"), "{shown}");
    let shown = file.effective_yaml() + &file.effective_json().to_string();
    assert!(!shown.contains("hunter2"), "{shown}");
    for word in ["says [redacted]", "[redacted].test", "[redacted]:1"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let exported = file.export(&export::Selection::default()).unwrap().with_references(text).yaml();
    assert!(!exported.contains("hunter2") && exported.matches("\"${PW}\"").count() == 4, "{exported}");
    let HealthProbe::Http(probe) = file.forward("a").unwrap().health.clone().unwrap().probe else { panic!() };
    assert_eq!(probe.content.as_deref(), Some("says hunter2"), "it is looked for");
}
