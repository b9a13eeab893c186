//! Each key by itself: a wrong value is one problem at that key, and a misspelt key is found.

use super::*;

/// Every key with a value that is wrong for it and one that is right.
const KEYS: [(&str, &str, &str); 58] = [
    ("version", "2", "1"),
    ("data_dir", "''", "/var/lib/adit"),
    ("workers", "0", "8"),
    ("public.listen", "nowhere", "0.0.0.0:80"),
    ("public.base_domain", "127.0.0.1", "example.com"),
    ("public.url", "localhost", "https://localhost"),
    ("public.trusted_proxies", "10.0.0.0/99", "10.0.0.0/8"),
    ("public.tcp_ports", "9-5", "5-9"),
    ("public.tcp_listen", "localhost", "127.0.0.1"),
    ("agents.listen", "here", "':8443'"),
    ("auth.tokens_file", "''", "tokens.json"),
    ("quotas.agents", "-1", "5"),
    ("quotas.tunnels", "1.5", "5"),
    ("quotas.streams", "many", "5"),
    ("quotas.requests_per_second", "1/s", "100"),
    ("quotas.burst", "0", "5"),
    ("quotas.upload", "10MB", "10MB/s"),
    ("quotas.download", "fast", "unlimited"),
    ("accounts.a.quotas.agents", "x", "1"),
    ("accounts.a.hosts", "a_b", "[a.b, c.d]"),
    ("accounts.a.ports", "0", "~"),
    ("limits.connections", "0", "10"),
    ("limits.agents", "none", "10"),
    ("limits.unauthenticated", "0", "10"),
    ("limits.unauthenticated_per_prefix", "0", "10"),
    ("limits.head_size", "1", "2KiB"),
    ("limits.headers", "257", "256"),
    ("limits.memory", "1KiB", "1GiB"),
    ("limits.header_timeout", "0s", "1s"),
    ("limits.body_min_rate", "1KiB", "1KiB/s"),
    ("limits.idle_timeout", "1 week", "1d"),
    ("limits.response_timeout", "60", "60s"),
    ("limits.tls_timeout", "-1s", "1s"),
    ("limits.auth_timeout", "x", "1s"),
    ("names.cooldown", "1", "0"),
    ("names.reserved", "a.b", "[a, b]"),
    ("admin.listen", "0.0.0.0:1", "'[::1]:1'"),
    ("log.access", "''", "access.log"),
    ("log.audit", "''", "stdout"),
    ("log.level", "loud", "WARN"),
    ("log.format", "xml", "json"),
    ("shutdown.accept", "1", "1s"),
    ("shutdown.drain", "1", "1s"),
    ("shutdown.cancel", "1", "0"),
    ("shutdown.abort", "1", "1s"),
    ("tunnel.heartbeat", "0", "1s"),
    ("tunnel.dead_after", "1ms", "1m"),
    ("tunnel.lanes_max", "0", "1"),
    ("tunnel.window_max", "1KiB", "64KiB"),
    ("quotas", "5", "{}"),
    ("limits", "[a]", "{}"),
    ("public", "text", "~"),
    ("accounts", "[a]", "{}"),
    ("accounts.a", "5", "{}"),
    ("auth", "token", "{}"),
    ("log", "debug", "{}"),
    ("names", "5", "{}"),
    ("shutdown", "30s", "{}"),
];

/// A file with one key, in block style.
fn file(path: &str, value: &str) -> String {
    let mut text = String::new();
    let parts: Vec<&str> = path.split('.').collect();
    for (depth, part) in parts.iter().enumerate() {
        let end = if depth + 1 == parts.len() { format!(" {value}") } else { String::new() };
        text += &format!("{}{part}:{end}\n", "  ".repeat(depth));
    }
    text
}

#[test]
fn a_wrong_value_is_one_problem_at_its_key_and_line() {
    for (path, wrong, _) in KEYS {
        let problems = parse(&file(path, wrong)).expect_err(path);
        assert_eq!(problems.len(), 1, "{path}: {problems}");
        let problem = &problems.0[0];
        assert_eq!(problem.key, path, "{problem}");
        assert_eq!(problem.line as usize, path.split('.').count(), "{problem}");
        assert!(problem.column > 0 && !problem.message.is_empty(), "{problem}");
    }
}

#[test]
fn a_right_value_is_no_problem() {
    for (path, _, right) in KEYS {
        good(&file(path, right));
    }
}

#[test]
fn a_key_without_a_value_is_as_if_it_were_not_there() {
    for (path, _, _) in KEYS.iter().filter(|(path, _, _)| !path.starts_with("accounts.")) {
        assert_eq!(good(&file(path, "")), ServerConfig::default(), "{path}");
    }
}

#[test]
fn a_misspelt_key_is_found_by_its_neighbour() {
    for (path, _, right) in KEYS.iter().filter(|(path, _, _)| *path != "accounts.a") {
        let misspelt = format!("{path}x");
        let problems = parse(&file(&misspelt, right)).expect_err(path);
        assert_eq!(problems.len(), 1, "{path}: {problems}");
        let last = path.rsplit('.').next().unwrap();
        let hint = problems.0[0].hint.clone().unwrap();
        assert_eq!(hint, format!("did you mean `{last}`?"), "{path}");
    }
}

#[test]
fn a_variable_may_stand_for_any_single_value() {
    for (path, wrong, right) in KEYS {
        let value = right.trim_matches('\'');
        if value.starts_with(['{', '[', '~']) {
            continue;
        }
        let text = file(path, "\"${VALUE}\"");
        let with = |value: &str| {
            let env = |name: &str| (name == "VALUE").then(|| value.to_owned());
            ServerConfig::parse("server.yaml", &text, &env)
        };
        assert_eq!(with(value), parse(&file(path, right)), "{path}");
        if !wrong.starts_with(['[', '\'']) {
            assert!(with(wrong).is_err(), "{path}");
        }
    }
}

#[test]
fn all_wrong_values_together_are_all_reported() {
    // One file with every scalar key wrong; sections stay as they are.
    let text = "version: 9\nworkers: x\npublic: { listen: x, tcp_ports: x, tcp_listen: x }\nagents: { listen: x }\nquotas: { agents: x, burst: x, upload: x }\nlimits: { memory: x, headers: x, tls_timeout: x }\nadmin: { listen: x }\nlog: { level: x, format: x }\nshutdown: { drain: x }\ntunnel: { lanes_max: x }\n";
    let problems = parse(text).unwrap_err();
    assert_eq!(problems.len(), 17, "{problems}");
    assert!(problems.0.is_sorted_by_key(|p| (p.line, p.column)));
}
