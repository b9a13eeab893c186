//! Each key by itself: a wrong value is one problem at that key, and a misspelt key is found.

use super::*;

/// Every key of a tunnel with the target it needs, a value that is wrong for it and one that is right.
const KEYS: [(&str, &str, &str, &str); 21] = [
    ("as", "3000", "a b", "name"),
    ("host", "3000", "10.0.0.1", "a.b"),
    ("port", "5432", "70000", "15432"),
    ("host_header", "3000", "a/b", "a.b:80"),
    ("headers", "3000", "5", "{}"),
    ("headers.add", "3000", "[a]", "{}"),
    ("headers.add.X-A", "3000", "[a]", "b"),
    ("headers.remove", "3000", "Host", "[X-A, X-B]"),
    ("response_headers", "3000", "x", "{}"),
    ("response_headers.remove", "3000", "a b", "Server"),
    ("verify", "https://localhost", "perhaps", "false"),
    ("health", "3000", "tcp", "{}"),
    ("health.type", "3000", "icmp", "tcp"),
    ("health.path", "3000", "up", "/up"),
    ("health.interval", "3000", "0", "1s"),
    ("health.timeout", "3000", "x", "1s"),
    ("health.rise", "3000", "0", "1"),
    ("health.fall", "3000", "101", "3"),
    ("connect_timeout", "3000", "0s", "1s"),
    ("request_timeout", "3000", "never", "1m"),
    ("proxy_protocol", "5432", "v1", "v2"),
];

/// A file with one tunnel `t`, its target and one key, in block style.
fn file(path: &str, to: &str, value: &str) -> String {
    let mut text = format!("publish:\n  tunnels:\n    t:\n      to: {to}\n");
    if path == "proxy_protocol" {
        text += "      port: 15432\n";
    }
    let parts: Vec<&str> = path.split('.').collect();
    for (depth, part) in parts.iter().enumerate() {
        let end = if depth + 1 == parts.len() { format!(" {value}") } else { String::new() };
        text += &format!("{}{part}:{end}\n", "  ".repeat(depth + 3));
    }
    text
}

#[test]
fn a_wrong_value_is_one_problem_at_its_key() {
    for (path, to, wrong, _) in KEYS {
        let problems = parse(&file(path, to, wrong)).expect_err(path);
        assert_eq!(problems.len(), 1, "{path}: {problems}");
        assert_eq!(problems.0[0].key, format!("publish.tunnels.t.{path}"), "{problems}");
        assert!(problems.0[0].line > 4, "{problems}");
    }
}

#[test]
fn a_right_value_is_no_problem() {
    for (path, to, _, right) in KEYS {
        assert_eq!(good(&file(path, to, right)).tunnels.len(), 1, "{path}");
    }
}

#[test]
fn a_misspelt_key_is_found_by_its_neighbour() {
    for (path, to, _, right) in KEYS.iter().filter(|(path, ..)| !matches!(*path, "as" | "port" | "headers.add.X-A")) {
        let problems = parse(&file(&format!("{path}x"), to, right)).expect_err(path);
        assert_eq!(problems.len(), 1, "{path}: {problems}");
        let last = path.rsplit('.').next().unwrap();
        assert_eq!(problems.0[0].hint, Some(format!("did you mean `{last}`?")), "{problems}");
    }
}

#[test]
fn the_keys_of_the_agent_are_checked_one_by_one() {
    for (key, wrong, right) in [
        ("server", "a b", "h:1"),
        ("token_file", "''", "token"),
        ("ca_file", "''", "ca.pem"),
        ("fingerprint", "abc", "~"),
        ("server_name", "10.0.0.1", "a.b"),
        ("agent_id", "a/b", "laptop"),
        ("lanes", "0", "8"),
        ("metrics", "0.0.0.0:1", "9091"),
        ("tunnels", "[a]", "{}"),
    ] {
        let file = |key: &str, value: &str| format!("publish:\n  {key}: {value}\n");
        assert_eq!(keys(&file(key, wrong)), [format!("publish.{key}")]);
        good(&file(key, right));
        let problems = parse(&file(&format!("{key}x"), right)).unwrap_err();
        assert_eq!(problems.0[0].hint, Some(format!("did you mean `{key}`?")));
    }
}
