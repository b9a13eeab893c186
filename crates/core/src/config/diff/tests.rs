//! Tests of what a new file changes.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> AgentFile {
    AgentFile::parse("adit.yaml", text, &|_| None).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

fn names<T>(items: &[T], key: fn(&T) -> &str) -> Vec<&str> {
    items.iter().map(key).collect()
}

#[test]
fn the_same_file_changes_nothing() {
    let file =
        parse("forwards: { a: { to: 1, listen: 2 } }\ngateway: { routes: { a.b: { to: forward:a } } }\npublish: { }");
    let diff = file.diff(&file);
    assert!(diff.is_empty());
    assert_eq!((diff.ports.added.len(), diff.ports.removed.len()), (0, 0));
}

#[test]
fn each_change_is_told_by_its_name() {
    let old = parse("forwards: { a: { to: 1 }, b: { to: 2 }, c: { to: 3 } }");
    let new = parse("forwards: { b: { to: 2 }, c: { to: 4 }, d: { to: 5 } }");
    let diff = old.diff(&new).forwards;
    assert_eq!(names(&diff.added, forward_key), ["d"]);
    assert_eq!(names(&diff.changed, forward_key), ["c"]);
    assert_eq!(diff.removed, ["a"]);
    assert_eq!(diff.order, None);
}

#[test]
fn an_order_of_its_own_is_told_too() {
    let old = parse("forwards: { a: { to: 1 }, b: { to: 2 } }");
    let new = parse("forwards: { b: { to: 2 }, a: { to: 1 } }");
    assert_eq!(old.diff(&new).forwards.order, Some(vec!["b".to_owned(), "a".to_owned()]));
    assert!(!old.diff(&new).is_empty());
}

#[test]
fn a_default_that_changes_changes_the_forwards_that_have_it() {
    let old = parse("forwards: { a: { to: 1 }, b: { to: 2, idle_timeout: 1m } }");
    let new = parse("defaults: { idle_timeout: 5m }\nforwards: { a: { to: 1 }, b: { to: 2, idle_timeout: 1m } }");
    let diff = old.diff(&new);
    assert!(diff.defaults.is_some());
    assert_eq!(names(&diff.forwards.changed, forward_key), ["a"]);
}

#[test]
fn a_new_route_leaves_the_rest_of_the_gateway_alone() {
    let old = parse("gateway: { routes: { a.b: { to: 1 } } }");
    let new = parse("gateway: { routes: { a.b: { to: 1 }, c.d: { to: 2 } } }");
    let diff = old.diff(&new);
    assert_eq!(diff.gateway, SectionDiff::Same);
    assert_eq!(names(&diff.routes.added, route_key), ["c.d"]);
    let gone = old.diff(&AgentFile::default());
    assert_eq!((gone.gateway, gone.routes.removed.as_slice()), (SectionDiff::Gone, &["a.b".to_owned()][..]));
}

#[test]
fn listeners_are_told_with_their_owners() {
    let old = parse("forwards: { a: { to: 1, listen: 10 }, b: { to: 1 } }\ngateway: { listen: 127.0.0.1:80 }");
    let new = parse("forwards: { a: { to: 1 }, b: { to: 1, listen: [10, 11] } }\ngateway: { listen: 127.0.0.1:81 }");
    let show = |ports: &[ListenPort]| ports.iter().map(|p| format!("{:?} {}", p.owner, p.address)).collect::<Vec<_>>();
    let ports = old.diff(&new).ports;
    assert_eq!(
        show(&ports.added),
        ["Gateway 127.0.0.1:81", "Forward(\"b\") 127.0.0.1:10", "Forward(\"b\") 127.0.0.1:11",]
    );
    assert_eq!(show(&ports.removed), ["Gateway 127.0.0.1:80", "Forward(\"a\") 127.0.0.1:10"]);
    let off =
        parse("forwards: { a: { to: 1, listen: 10, enabled: no }, b: { to: 1 } }\ngateway: { listen: 127.0.0.1:80 }");
    assert_eq!(show(&old.diff(&off).ports.removed), ["Forward(\"a\") 127.0.0.1:10"]);
}

/// Names with bodies, each name once, in any order.
fn entries(names: &'static [&'static str], bodies: &'static [&'static str]) -> impl Strategy<Value = String> {
    let all = proptest::sample::subsequence(names, 0..=names.len()).prop_shuffle();
    all.prop_flat_map(move |names| {
        let count = names.len();
        let bodies = proptest::collection::vec(proptest::sample::select(bodies), count);
        bodies.prop_map(move |bodies| {
            names.iter().zip(bodies).map(|(name, body)| format!("\n    {name}: {{ {body} }}")).collect::<String>()
        })
    })
}

/// Whole files that have no problem.
pub(in crate::config) fn files() -> impl Strategy<Value = AgentFile> {
    let kubernetes = proptest::sample::select(&["", "keepalive: off", "protect: [prod]", "kubeconfig: [/a, /b]"][..]);
    let defaults = proptest::sample::select(
        &[
            "",
            "idle_timeout: 5m",
            "health: { type: https, path: /x }",
            "restart: { max_attempts: 3, multiplier: 1.5 }",
            "limits: { connections: 7, bytes_per_second: 2KiB }",
        ][..],
    );
    let forwards = entries(
        &["a", "b", "c", "d.e", "f_1"],
        &[
            "to: 5432",
            "to: 'k8s://prod/db/service/pg:pg', start: always, tags: [x, y], balance: yes",
            "to: { jump: { via: { pod: j, container: c, create: { image: i, keep: yes } }, host: '::1', port: 1 } }",
            "to: 'jump://a%2Fb//selector/app=x/h:1', listen: 0, health: off, description: 'it: is'",
            "to: 'tcp://h:1', enabled: no, health: { type: postgres, user: u, database: d }",
            "to: 1, health: { type: http, status: [200, 301], content: '# ok' }, restart: { initial_delay: 1s }",
            "to: 1, limits: { connections: 3, bytes_per_second: 1MiB/s }",
            "to: 1, limits: { connections: unlimited }",
        ],
    );
    let gateway = proptest::sample::select(
        &[
            "listen: 0",
            "dynamic_host: off, listen: ['127.0.0.1:0']",
            "tls: local, allow: { contexts: '*' }",
            "aliases: { eks: 'arn:a/b' }, trusted_proxies: [10.0.0.0/8], idle_timeout: off",
        ][..],
    );
    let routes = entries(
        &["a.localhost", "'*.localhost'", "a.localhost/api", "b.c"],
        &[
            "to: 3000",
            "to: 'https://h', tls: { verify: no, mode: terminate }",
            "to: 'k8s:////service/a:1', scheme: h2c, host_header: h, timeout: 1500ms",
            "to: 'tcp://h:1', tls: terminate, headers: { add: { x-a: 'b c' }, remove: [cookie] }",
            "to: 1, basic_auth: { user: u, password_file: /p }",
        ],
    );
    let tunnels = entries(
        &["one", "two", "three"],
        &[
            "to: 3000",
            "to: 'k8s://a/b/service/c:80', scheme: https, verify: no",
            "to: 'https://localhost', health: { type: http, path: /h }",
            "to: 'h2c://h:1', response_headers: { remove: server }, request_timeout: 2s",
        ],
    );
    let publish = proptest::sample::select(
        &["lanes: 3", "server: 'h:1', token_file: /t", "ca_file: /c, agent_id: x", "metrics: '127.0.0.1:0'"][..],
    );
    let daemon =
        proptest::sample::select(&["", "listen: 0, token_file: /t", "shutdown: { drain: 1m }, notify: yes"][..]);
    let gateway = (gateway, routes, any::<bool>());
    let publish = (publish, tunnels, any::<bool>());
    let all = (kubernetes, defaults, forwards, daemon, gateway, publish);
    all.prop_map(|(kubernetes, defaults, forwards, daemon, gateway, publish)| {
        let mut text = format!(
            "kubernetes: {{ {kubernetes} }}\ndefaults: {{ {defaults} }}\ndaemon: {{ {daemon} }}\nforwards:{forwards}\n"
        );
        for (name, list, (body, entries, there)) in [("gateway", "routes", gateway), ("publish", "tunnels", publish)] {
            if there {
                let lines = body.replace(", ", ",\u{1}").split('\u{1}').map(str::to_owned).collect::<Vec<_>>();
                text += &block(name, &lines.concat(), list, &entries);
            }
        }
        parse(&text)
    })
}

/// A section with its own keys in flow style merged before its list.
fn block(name: &str, body: &str, list: &str, entries: &str) -> String {
    format!("{name}:\n  <<: {{ {} }}\n  {list}:{entries}\n", body.replace(',', ", "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_diff_applied_to_the_old_file_is_the_new_one(old in files(), new in files()) {
        let diff = old.diff(&new);
        prop_assert_eq!(diff.apply(&old), new.clone());
        prop_assert_eq!(diff.is_empty(), old == new);
    }

    #[test]
    fn what_is_told_of_listeners_leads_from_the_old_to_the_new(old in files(), new in files()) {
        let diff = old.diff(&new).ports;
        let mut ports: HashSet<ListenPort> = ports_of(&old).into_iter().collect();
        prop_assert!(diff.removed.iter().all(|port| ports.remove(port)));
        prop_assert!(diff.added.into_iter().all(|port| ports.insert(port)));
        prop_assert_eq!(ports, ports_of(&new).into_iter().collect::<HashSet<_>>());
    }
}
