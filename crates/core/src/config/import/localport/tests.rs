//! Tests of localport's file.

use proptest::prelude::*;

use super::*;
use crate::config::AgentFile;
use crate::config::import::localport;

fn import(text: &str) -> Imported {
    localport(text, "localport.yaml").unwrap_or_else(|problems| panic!("{problems}"))
}

fn read(text: &str) -> AgentFile {
    let yaml = import(text).yaml;
    AgentFile::parse("adit.yaml", &yaml, &|_| None).unwrap_or_else(|problems| panic!("{problems}\n{yaml}"))
}

fn said(text: &str) -> Vec<String> {
    let problems = localport(text, "l.yaml").expect_err(text).0;
    problems.into_iter().map(|problem| format!("{}: {}", problem.key, problem.message)).collect()
}

/// One service with what is given besides what it needs.
fn one(more: &str) -> String {
    format!(
        "services:\n- {{ name: a, technology: kubectl, local_port: 5432, remote_port: 80, connection: {{ resource_name: web }}, {more} }}\n"
    )
}

/// One service with a connection of its own.
fn through(technology: &str, connection: &str) -> String {
    format!(
        "services:\n- {{ name: a, technology: {technology}, local_port: 1, remote_port: 80, connection: {{ {connection} }} }}\n"
    )
}

/// The line of the only forward.
fn line(text: &str) -> String {
    let yaml = import(text).yaml;
    let (_, after) = yaml.split_once("forwards:\n").unwrap_or_else(|| panic!("{yaml}"));
    after.to_owned()
}

const KUBECTL: &str = include_str!("every_key.yaml");

#[test]
fn every_key_has_its_place() {
    let expected = include_str!("every_key.adit.yaml");
    assert_eq!(import(KUBECTL).yaml, expected);
}

#[test]
fn the_file_of_every_key_is_a_good_one() {
    let set = |name: &str| ["API_TOKEN", "DB_PASSWORD", "JUMP", "HOME"].contains(&name).then(|| "x".to_owned());
    let problems = match AgentFile::parse("adit.yaml", &import(KUBECTL).yaml, &set) {
        Ok(file) => {
            let targets: Vec<String> = file.forwards.iter().map(|one| one.to.to_string()).collect();
            assert_eq!(targets[0], "k8s://minikube/default/service/postgres:5432");
            assert_eq!(targets[6], "ssh://deploy@bastion.example.com:2222/redis.internal:6379");
            return;
        }
        Err(problems) => problems,
    };
    // As long as there are no targets behind SSH, nothing but that is wrong.
    let others: Vec<_> = problems.0.iter().filter(|one| !one.message.contains("ssh targets are not")).collect();
    assert!(others.is_empty(), "{others:#?}");
}

#[test]
fn what_has_no_equivalent_is_listed() {
    let notes = import(KUBECTL).notes;
    let expected = [
        "no equivalent for timeout, retry_attempts, failure_threshold, commands of cluster_health",
        "cluster_contexts (production, development) has no equivalent",
        "cluster_aware: false has no equivalent",
        "host and port of services[0].health_check.config are left out",
        "services[4].health_check.config.url: the probe goes through the forward, with api.example.com as",
        "services[5].health_check.config.bootstrap_servers has no equivalent",
        "services[6].connection.password has no equivalent",
        "services[7].restart_policy.enabled: false has no equivalent",
        "`team a/tool` is called team-a-tool",
        "a variable that is not set is a problem here, not a text of its own: API_TOKEN, DB_PASSWORD, JUMP;",
        "services[8].colour (line 134) is no key of localport",
        "comments that belong to no key of the new file are left out: line 137",
    ];
    for (note, start) in notes.iter().zip(expected) {
        assert!(note.starts_with(start), "{start}\n{notes:#?}");
    }
    assert_eq!(notes.len(), expected.len(), "{notes:#?}");
    assert!(!notes.join("").contains("hunter2"), "a secret is never repeated");
    assert_eq!(import("services: []").notes, [""; 0]);
}

#[test]
fn what_is_left_out_without_a_loss_is_listed_too() {
    let text = |check: &str, policy: &str| {
        format!(
            "version: \"1.0\"\nservices:\n  - {{ name: a, technology: kubectl, local_port: 5432, remote_port: 80, \
             connection: {{ resource_name: web }}, health_check: {{ {check} }}, restart_policy: {{ {policy} }} }}\n"
        )
    };
    for (check, note) in [
        ("type: http, config: { url: 'http://localhost/', verify_ssl: false }", "config.verify_ssl is left out"),
        ("type: postgres, config: { host: localhost, port: 5432 }", "are left out: the probe goes through the forward"),
        ("type: kafka, config: { bootstrap_servers: ['localhost:5432'] }", "bootstrap_servers is left out"),
    ] {
        let notes = import(&text(check, "enabled: true")).notes.join("\n");
        assert!(notes.contains(note), "{check}: {notes}");
    }
    let notes = import(&text("type: tcp", "enabled: false, max_attempts: 7")).notes.join("\n");
    assert!(notes.contains("max_attempts: 1 comes nearest, instead of the one that is written"), "{notes}");
}

#[test]
fn kubectl_services_lead_into_the_cluster() {
    let file = read(&through("kubectl", "resource_type: pod, resource_name: web, namespace: shop, context: a/b"));
    assert_eq!(file.forwards[0].to.to_string(), "k8s://a%2Fb/shop/pod/web:80");
    assert_eq!(file.forwards[0].listen, ["127.0.0.1:1".parse().unwrap()]);
    assert_eq!(file.forwards[0].start, crate::forward::Start::Always);
    let bare = read(&through("kubectl", "resource_name: web"));
    assert_eq!(bare.forwards[0].to.to_string(), "k8s:///default/service/web:80", "not the context's namespace");
}

#[test]
fn a_variable_in_a_target_makes_it_a_map() {
    let text = through("kubectl", "resource_name: web, namespace: '${NS:shop}', context: \"${CTX:a/b}\"");
    assert_eq!(read(&text).forwards[0].to.to_string(), "k8s://a%2Fb/shop/service/web:80");
    assert!(line(&text).contains("\"${CTX:a/b}\""), "{}", line(&text));
}

#[test]
fn ssh_services_lead_through_the_server() {
    for (connection, to) in [
        ("host: bastion, user: me", "ssh://me@bastion/localhost:80"),
        ("host: bastion, port: 2222, remote_host: db.internal", "ssh://bastion:2222/db.internal:80"),
        ("host: '::1', remote_host: '::1'", "\"ssh://[::1]/[::1]:80\""),
        (
            "host: bastion, key_file: ~/.ssh/id",
            "{ ssh: { server: bastion, host: localhost, port: 80, key: ~/.ssh/id } }",
        ),
        (
            "host: '${H:b}', user: '${U:me}', jump_host: 'me@hop'",
            "{ ssh: { server: \"${U:me}@${H:b}\", host: localhost, port: 80, jump: me@hop } }",
        ),
    ] {
        let line = line(&through("ssh", connection));
        assert!(line.contains(&format!(" to: {to}")), "{line}\n{to}");
    }
    for wrong in ["host: -oProxyCommand=x", "host: 'a b'", "host: b, user: '-l x'", "host: b, remote_host: '$(x)'"] {
        assert_eq!(said(&through("ssh", wrong)).len(), 1, "{wrong}");
    }
}

#[test]
fn times_get_their_units_even_when_they_are_variables() {
    let line = line(&one("health_check: { type: tcp, interval: '${I:10}', timeout: 2.5 }"));
    assert!(line.contains("interval: \"${I:10}s\", timeout: 2500ms"), "{line}");
    read(&one("health_check: { type: tcp, interval: '${I:10}', timeout: '${T:0.5}' }"));
}

#[test]
fn waits_between_restarts_fit_together_as_ours_must() {
    let long = read(&one("restart_policy: { initial_delay: 20 }"));
    assert_eq!(long.forwards[0].restart.max_delay, MAX_DELAY, "as localport has it");
    let text = one("restart_policy: { initial_delay: 20, max_delay: 5 }");
    assert_eq!(read(&text).forwards[0].restart.max_delay.as_secs(), 20);
    assert!(import(&text).notes[0].contains("as long as initial_delay"), "{:?}", import(&text).notes);
    let inherited = one("restart_policy: { max_delay: 5 }") + "defaults: { restart_policy: { initial_delay: 7 } }";
    let file = read(&inherited);
    assert_eq!(
        (file.forwards[0].restart.initial_delay.as_secs(), file.forwards[0].restart.max_delay.as_secs()),
        (7, 7)
    );
}

#[test]
fn both_spellings_are_read() {
    let text = "version: '1.0'\nservices:\n- name: a\n  technology: kubectl\n  localPort: 1\n  remotePort: 80\n  connection: \
                { resourceName: web, resourceType: deployment }\n  healthCheck: { type: postgresql, failureThreshold: 2 }\n";
    let file = read(text);
    assert_eq!(file.forwards[0].to.to_string(), "k8s:///default/deployment/web:80");
    assert_eq!(file.forwards[0].health.as_ref().unwrap().settings.fall, 2);
    assert_eq!(import(text).notes, [""; 0]);
    for codes in ["expected_status: 201", "expected_status_codes: [201]", "status_codes: [201]"] {
        let line = line(&one(&format!("health_check: {{ type: http, config: {{ {codes} }} }}")));
        assert!(line.contains("{ type: http, path: /health, status: [201] }"), "{line}");
    }
}

#[test]
fn a_postgres_check_logs_in_as_localport_would() {
    let line_of = |config: &str| line(&one(&format!("health_check: {{ type: postgres, config: {{ {config} }} }}")));
    assert!(line_of("port: 5432").contains("health: { type: postgres }"));
    let line = line_of("password: '${P}', sslmode: allow");
    assert!(
        line.contains("{ type: postgres, user: postgres, database: postgres, password: \"${P}\", sslmode: prefer }"),
        "{line}"
    );
    let plain = import(&one("health_check: { type: postgres, config: { password: hunter2, port: 5433 } }"));
    assert_eq!(plain.notes.len(), 2, "{:?}", plain.notes);
}

#[test]
fn the_type_of_an_http_check_is_that_of_its_url() {
    let line_of = |config: &str| line(&one(&format!("health_check: {{ type: http, config: {{ {config} }} }}")));
    assert!(line_of("url: 'https://localhost:1/x?y', verify_ssl: false").contains("type: https, path: \"/x?y\""));
    assert!(line_of("url: 'https://localhost:1/x', verify_ssl: false").contains("verify: false"));
    assert!(!line_of("url: 'http://localhost:1/x', verify_ssl: false").contains("verify"));
    assert!(line_of("url: '${URL}'").contains("{ type: http, url: \"${URL}\""));
}

#[test]
fn a_service_of_an_unknown_technology_is_left_out_with_a_note_and_the_others_are_there() {
    let text = format!("{}- {{ name: old, technology: telnet, port: 1 }}\n", through("kubectl", "resource_name: web"));
    let imported = localport(&text, "localport.yaml").unwrap();
    assert!(imported.notes.iter().any(|note| note.contains("old is left out") && note.contains("telnet")));
    assert!(imported.yaml.contains("  a:") && !imported.yaml.contains("old"), "{}", imported.yaml);
}

#[test]
fn a_check_of_an_unknown_type_is_replaced_with_a_note_and_the_rest_is_there() {
    let check = |check: &str| {
        let text = one(&format!("health_check: {{ {check}, interval: 7, config: {{ collection: x }} }}"));
        let imported = localport(&text, "localport.yaml").unwrap_or_else(|problems| panic!("{problems}"));
        (read(&text), imported.notes.join("\n"))
    };
    let (file, notes) = check("type: mongodb");
    assert_eq!(file.forwards[0].health.as_ref().map(|health| health.probe.as_str()), Some("tcp"));
    assert_eq!(file.forwards[0].health.as_ref().unwrap().settings.interval, Duration::from_secs(7));
    assert!(notes.contains("health_check.type: `mongodb` is not known here: a tcp check takes its place"), "{notes}");
    assert!(notes.contains("config.collection is left out with the check"), "{notes}");
    let (file, notes) = check("type: Redis");
    assert_eq!(file.forwards[0].health.as_ref().map(|health| health.probe.as_str()), Some("redis"));
    assert!(notes.contains("none of localport's"), "{notes}");
}

#[test]
fn the_password_of_a_redis_check_is_kept() {
    let text = one("health_check: { type: redis, config: { password: hunter2, db: 1 } }");
    let imported = localport(&text, "localport.yaml").unwrap_or_else(|problems| panic!("{problems}"));
    assert!(imported.yaml.contains("hunter2"), "{}", imported.yaml);
    let notes = imported.notes.join("\n");
    assert!(notes.contains("config.password stands in the new file as it is"), "{notes}");
    assert!(notes.contains("config.db is left out") && !notes.contains("config.password is left out"), "{notes}");
    let probe = read(&text).forwards[0].health.as_ref().map(|health| health.probe.as_str());
    assert_eq!(probe, Some("redis"));
}

#[test]
fn what_localport_refuses_is_refused_all_at_once() {
    let text = "version: '2.0'
services:
- { technology: ssh, local_port: 0, remote_port: 70000 }
- { name: b, technology: kubectl, local_port: 1, remote_port: 1, connection: { namespace: 'A!' }, health_check: { type: icmp, interval: 0, config: { x: 1 } } }
- { name: b, technology: ssh, local_port: 1, remote_port: 1, connection: {}, restart_policy: { max_attempts: 0, backoff_multiplier: 11 } }
";
    assert_eq!(
        said(text),
        [
            "version: version `2.0` is not known",
            "services[0].name: is missing",
            "services[0].connection: is missing",
            "services[0].connection.host: is missing",
            "services[0].local_port: 0 is out of range",
            "services[0].remote_port: `70000` is not a number that fits here",
            "services[1].connection.resource_name: is missing",
            "services[1].connection.namespace: `A!` cannot be the name of a namespace",
            "services[1].health_check.interval: 0 is out of range",
            "services[2].name: `b` is there twice",
            "services[2].local_port: local port 1 is used by `b` as well",
            "services[2].connection.host: is missing",
            "services[2].restart_policy.max_attempts: 0 is out of range",
            "services[2].restart_policy.backoff_multiplier: 11 is out of range",
        ]
    );
    assert_eq!(said("version: '1.0'"), ["services: is missing"]);
    assert_eq!(said("services: {}"), ["services: must be a list, not a map"]);
}

proptest! {
    /// Whatever names, ports and variables there are, the new file has no problem and as many forwards.
    #[test]
    fn what_is_written_is_always_a_good_file(
        services in proptest::collection::btree_map(1u16.., ("[a-zA-Z0-9 _./-]{1,70}", "[a-z]{1,20}", "[ -~]{0,12}"), 0..6),
        comment in "[ -~é]{0,20}",
    ) {
        let mut text = format!("# {comment}\nversion: '1.0'\nservices: # {comment}\n");
        for (port, (name, service, description)) in &services {
            let name = serde_json::Value::from(format!("{port}{name}"));
            let description = serde_json::Value::from(format!("x{description}"));
            text += &format!("  # {comment}\n  - name: {name}\n    technology: kubectl # {comment}\n    local_port: {port}\n");
            text += &format!("    remote_port: ${{R:{port}}}\n    description: {description}\n");
            text += &format!("    connection: {{ resource_name: {service}, context: \"${{C:-x/y}}\" }}\n");
        }
        prop_assume!(!text.replace("${R", "").replace("${C", "").contains("${"));
        let text = if services.is_empty() { "services: []".to_owned() } else { text };
        let file = read(&text);
        prop_assert_eq!(file.forwards.len(), services.len());
    }

    #[test]
    fn no_file_makes_it_panic(text in "(services|name|technology|ssh|connection|host|health_check|config|url|type|[a-z0-9 :{}#'\"\\[\\],\\n$-]){0,60}") {
        let _ = localport(&text, "l.yaml");
    }
}
