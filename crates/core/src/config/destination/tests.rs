//! Tests of targets in files.

use proptest::prelude::*;

use super::*;
use crate::config::{AgentFile, ForwardConfig, Problems};

fn forward(to: &str) -> Result<ForwardConfig, Problems> {
    let text = format!("forwards: {{ f: {{ to: {to} }} }}\n");
    AgentFile::parse("adit.yaml", &text, &|_| None).map(|file| file.forwards.into_iter().next().unwrap())
}

fn keys(to: &str) -> Vec<String> {
    forward(to).expect_err(to).0.into_iter().map(|problem| problem.key).collect()
}

fn says(to: &str) -> String {
    forward(to).expect_err(to).to_string()
}

#[test]
fn a_map_says_the_same_as_a_url() {
    for (map, url) in [
        ("{ k8s: { context: prod, namespace: db, service: pg, port: 5432 } }", "k8s://prod/db/service/pg:5432"),
        ("{ k8s: { deployment: web, port: http } }", "k8s:////deployment/web:http"),
        ("{ k8s: { context: 'arn:a/b', pod: web-0, port: 80 } }", "k8s://arn%3Aa%2Fb//pod/web-0:80"),
        ("{ k8s: { selector: 'app=web,tier!=x', port: 80 } }", "k8s:////selector/app=web,tier!=x:80"),
        (
            "{ jump: { context: prod, namespace: default, via: { service: api }, host: db.internal, port: 3306 } }",
            "jump://prod/default/service/api/db.internal:3306",
        ),
        ("{ jump: { via: { deployment: api }, host: '::1', port: 1 } }", "jump:////deployment/api/[::1]:1"),
    ] {
        let of_map = forward(map).unwrap_or_else(|problems| panic!("{map}: {problems}"));
        let of_url = forward(&format!("'{url}'")).unwrap_or_else(|problems| panic!("{url}: {problems}"));
        assert_eq!(of_map, of_url, "{map}");
        assert_eq!(of_map.jump, None);
    }
}

#[test]
fn a_jump_may_name_its_container_and_make_its_pod() {
    let found = forward(
        "{ jump: { via: { pod: jump, container: tools, create: { image: 'alpine/socat:1.8', command: [sleep, '60'], \
         timeout: 5s, keep: yes } }, host: db, port: 1 } }",
    )
    .unwrap();
    let create = CreateSettings {
        image: "alpine/socat:1.8".into(),
        command: vec!["sleep".into(), "60".into()],
        timeout: Duration::from_secs(5),
        keep: true,
    };
    assert_eq!(found.jump, Some(JumpSettings { container: Some("tools".into()), create: Some(create) }));
    let found = forward("{ jump: { via: { pod: j, create: { image: socat } }, host: db, port: 1 } }").unwrap();
    let create = found.jump.unwrap().create.unwrap();
    assert_eq!((create.command.len(), create.timeout, create.keep), (0, CREATE_TIMEOUT, false));
}

#[test]
fn a_bare_address_is_a_byte_pipe_for_a_forward() {
    for (text, shown) in [("5432", "tcp://127.0.0.1:5432"), ("'h:1'", "tcp://h:1"), ("'http://h:1'", "http://h:1")] {
        assert_eq!(forward(text).unwrap().to.to_string(), shown);
    }
}

#[test]
fn what_a_map_lacks_or_has_too_much_is_said_at_its_key() {
    for (map, expected) in [
        ("{ }", &["forwards.f.to"][..]),
        ("{ k8s: { service: a, port: 1 }, jump: { via: { pod: a }, host: h, port: 1 } }", &["forwards.f.to"]),
        ("{ k8s: { port: 1 } }", &["forwards.f.to.k8s"]),
        ("{ k8s: { service: a } }", &["forwards.f.to.k8s.port"]),
        ("{ k8s: { service: a, pod: b, port: 1 } }", &["forwards.f.to.k8s.service"]),
        ("{ k8s: { service: A_, port: 0 } }", &["forwards.f.to.k8s.service", "forwards.f.to.k8s.port"]),
        (
            "{ k8s: { context: '', namespace: A, service: a, port: 1 } }",
            &["forwards.f.to.k8s.context", "forwards.f.to.k8s.namespace"],
        ),
        ("{ jump: { host: h, port: 1 } }", &["forwards.f.to.jump.via"]),
        (
            "{ jump: { via: { pod: a }, host: '-e', port: 70000 } }",
            &["forwards.f.to.jump.host", "forwards.f.to.jump.port"],
        ),
        (
            "{ jump: { via: { service: a, create: { image: x } }, host: h, port: 1 } }",
            &["forwards.f.to.jump.via.create"],
        ),
        (
            "{ jump: { via: { deployment: a, create: { image: x } }, host: h, port: 1 } }",
            &["forwards.f.to.jump.via.create"],
        ),
        (
            "{ jump: { via: { pod: a, create: { image: 'x;rm' } }, host: h, port: 1 } }",
            &["forwards.f.to.jump.via.create.image"],
        ),
        ("{ jump: { via: { pod: a, create: { } }, host: h, port: 1 } }", &["forwards.f.to.jump.via.create.image"]),
        ("{ k8s: { servce: a, port: 1 } }", &["forwards.f.to.k8s", "forwards.f.to.k8s.servce"]),
    ] {
        assert_eq!(keys(map), expected, "{map}");
    }
    assert!(says("{ k8s: { servce: a, port: 1 } }").contains("did you mean `service`?"));
}

#[test]
fn hints_name_the_forms_that_a_file_may_have() {
    assert!(says("'ftp://x'").contains("k8s://") && says("'ftp://x'").contains("ssh://"));
    assert!(says("'k8s://a'").contains("k8s://CONTEXT/NAMESPACE/KIND/NAME:PORT"));
    assert!(says("[a]").contains("must be a single value"));
}

#[test]
fn an_ssh_map_says_what_a_url_has_no_room_for() {
    let body = "{ ssh: { server: 'me@bastion:2222', host: db.internal, port: 5432, key: /k/id, jump: 'a@one,two', \
                keepalive: 5s, connect_timeout: 3s, backend: openssh } }";
    let Target::Ssh(ssh) = forward(body).unwrap().to else { panic!("an ssh target") };
    assert_eq!(ssh.to_string(), "ssh://me@bastion:2222/db.internal:5432");
    assert_eq!(ssh.server.options.key.as_deref(), Some(std::path::Path::new("/k/id")));
    assert_eq!(ssh.server.options.jump.as_deref(), Some("a@one,two"));
    assert_eq!(ssh.server.options.backend, SshBackend::OpenSsh);
    for wrong in ["server: -oX", "jump: 'a,-oX'", "backend: putty", "password: hunter2"] {
        assert!(forward(&format!("{{ ssh: {{ server: b, host: db, port: 1, {wrong} }} }}")).is_err(), "{wrong}");
    }
}

#[test]
fn images_are_what_a_manifest_may_name() {
    for good in ["alpine", "alpine/socat:1.8.0.0", "registry.example.com:5000/a/b@sha256:0011"] {
        assert_eq!(parse_image(good).as_deref(), Ok(good));
    }
    let long = "a".repeat(257);
    for bad in ["", "-x", "a b", "a;b", "$(x)", "a\nb", &long] {
        assert!(parse_image(bad).unwrap_err().hint.is_some(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_map_makes_the_parser_panic(body in "[a-z0-9: {}'\\[\\],-]{0,60}") {
        let _ = forward(&format!("{{ {body} }}"));
        let _ = forward(&format!("{{ jump: {{ {body} }} }}"));
    }
}
