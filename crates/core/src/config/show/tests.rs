//! Tests of the effective file.

use proptest::prelude::*;

use super::*;
use crate::config::diff::tests::files;

fn parse(text: &str) -> AgentFile {
    AgentFile::parse("adit.yaml", text, &|_| None).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

#[test]
fn an_empty_file_shows_what_holds() {
    let expected = "version: 1\n\nkubernetes:\n  keepalive: 4m\n\ndefaults:\n  idle_timeout: 1h\n  restart: { \
                    max_attempts: unlimited, initial_delay: 200ms, multiplier: 2, max_delay: 10s, window: 10s }\n  limits: { connections: unlimited, \
                    bytes_per_second: unlimited }\n\ndaemon:\n  shutdown: { accept: 2s, drain: 8s, cancel: 15s, abort: 5s }\n  notify: false\n";
    assert_eq!(AgentFile::default().effective_yaml(), expected);
}

#[test]
fn s6_no_secret_is_shown() {
    let text = "forwards: { a: { to: 1, health: { type: postgres, password: hunter2 } } }\ngateway: { routes: { a.b: { to: 1, \
                basic_auth: { user: me, password: hunter2 }, headers: { add: { authorization: hunter2, x-api-key: hunter2, \
                x-env: dev } } } } }\n";
    let file = parse(text);
    let (yaml, json) = (file.effective_yaml(), file.effective_json().to_string());
    for shown in [&yaml, &json] {
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(shown.matches(REDACTED).count(), 4, "{shown}");
        assert!(shown.contains("dev"), "{shown}");
    }
}

#[test]
fn numbers_and_truths_are_such_in_json() {
    let json = parse("forwards: { a: { to: 1, balance: yes } }\npublish: { lanes: 3 }").effective_json();
    assert_eq!((&json["publish"]["lanes"], &json["forwards"]["a"]["balance"]), (&Value::from(3), &Value::from(true)));
    assert_eq!(json["forwards"]["a"]["to"], "tcp://127.0.0.1:1");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_shown_is_read_back_as_the_same(file in files()) {
        prop_assert_eq!(parse(&file.effective_yaml()), file);
    }

    #[test]
    fn yaml_and_json_say_the_same(file in files()) {
        // JSON is YAML too.
        prop_assert_eq!(parse(&file.effective_json().to_string()).forwards.len(), file.forwards.len());
    }
}
