//! Tests of files of other tools.

use proptest::prelude::*;

use super::*;
use crate::config::AgentFile;
use crate::config::gateway::UpstreamScheme;

fn import(text: &str) -> Imported {
    autotunnel(text, "autotunnel.yaml").unwrap_or_else(|problems| panic!("{problems}"))
}

fn read(text: &str) -> AgentFile {
    let yaml = import(text).yaml;
    AgentFile::parse("adit.yaml", &yaml, &|_| None).unwrap_or_else(|problems| panic!("{problems}\n{yaml}"))
}

fn said(text: &str) -> Vec<String> {
    let problems = autotunnel(text, "a.yaml").expect_err(text).0;
    problems.into_iter().map(|problem| format!("{}: {}", problem.key, problem.message)).collect()
}

const FILE: &str = r#"# My tunnels.

# The version.
apiVersion: autotunnel/v1
verbose: true
auto_reload_config: false
# For aws.
exec_path:
  - /opt/aws/bin
http:
  # The port.
  listen: "127.0.0.1:8989"
  idle_timeout: 1h30m
  k8s:
    kubeconfig: /k/config:/k/prod
    dynamic_host: k8s.localhost
    routes:
      # Dashboards.
      # Ask Ann.
      grafana.localhost: # the new one
        context: prod
        namespace: monitoring
        service: grafana
        port: 3000
      argocd.localhost:
        context: arn:aws:eks:eu:1:cluster/prod
        namespace: argocd
        service: argocd-server
        port: 443
        scheme: https
      debug.localhost: { context: dev, namespace: default, pod: debug-0, port: 80 }
tcp:
  idle_timeout: 30m
  k8s:
    kubeconfig: /other
    routes:
      # The database.
      5432: { context: prod, namespace: databases, service: postgresql, port: 5432 }
      5433: { context: dev, namespace: databases, service: postgresql, port: 5432 }
    jump:
      # RDS.
      3306:
        context: prod
        namespace: default
        via: { service: backend-api }
        target: { host: mydb.rds.amazonaws.com, port: 3306 }
      6379:
        context: prod
        namespace: default
        via: { pod: jump, container: c, create: { image: alpine/socat, command: [sleep, "9"], timeout: 90s } }
        target: { host: 10.0.0.7, port: 6379 }
        method: socat
# At the end.
"#;

#[test]
fn everything_that_has_an_equivalent_is_taken_over() {
    let file = read(FILE);
    let paths = |paths: &[std::path::PathBuf]| paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
    assert_eq!(paths(&file.kubernetes.kubeconfig), ["/k/config", "/k/prod"]);
    assert_eq!(paths(&file.kubernetes.exec_path), ["/opt/aws/bin"]);
    let gateway = file.gateway.as_ref().unwrap();
    assert_eq!(gateway.listen, ["127.0.0.1:8989".parse().unwrap()]);
    assert_eq!(gateway.idle_timeout.unwrap().as_secs(), 5400);
    let targets: Vec<String> = gateway.routes.iter().map(|route| route.to.to_string()).collect();
    assert_eq!(
        targets,
        [
            "k8s://prod/monitoring/service/grafana:3000",
            "k8s://arn%3Aaws%3Aeks%3Aeu%3A1%3Acluster%2Fprod/argocd/service/argocd-server:443",
            "k8s://dev/default/pod/debug-0:80",
        ]
    );
    assert_eq!((gateway.routes[1].scheme, gateway.routes[1].tls.verify), (UpstreamScheme::Https, false));
    let forwards: Vec<String> = file.forwards.iter().map(|f| format!("{} {} {}", f.name, f.listen[0], f.to)).collect();
    assert_eq!(
        forwards,
        [
            "postgresql 127.0.0.1:5432 k8s://prod/databases/service/postgresql:5432",
            "postgresql-5433 127.0.0.1:5433 k8s://dev/databases/service/postgresql:5432",
            "mydb 127.0.0.1:3306 jump://prod/default/service/backend-api/mydb.rds.amazonaws.com:3306",
            "10-0-0-7 127.0.0.1:6379 jump://prod/default/pod/jump/10.0.0.7:6379",
        ]
    );
    assert!(file.forwards.iter().all(|forward| forward.idle_timeout.unwrap().as_secs() == 1800));
    let jump = file.forwards[3].jump.as_ref().unwrap();
    let create = jump.create.as_ref().unwrap();
    assert_eq!(
        (jump.container.as_deref(), create.image.as_str(), create.timeout.as_secs()),
        (Some("c"), "alpine/socat", 90)
    );
    assert!(create.keep, "autotunnel leaves the pods that it made");
}

#[test]
fn comments_stay_before_what_they_speak_of() {
    let yaml = import(FILE).yaml;
    let before = |key: &str, comments: &[&str]| {
        let lines: Vec<&str> = yaml.lines().map(str::trim_start).collect();
        let at = lines.iter().position(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}\n{yaml}"));
        assert_eq!(&lines[at - comments.len()..at], comments, "{yaml}");
    };
    before("version:", &["# My tunnels.", "# The version."]);
    before("exec_path:", &["# For aws."]);
    before("listen: 127", &["# The port."]);
    before("grafana.localhost:", &["# Dashboards.", "# Ask Ann.", "# the new one"]);
    before("postgresql:", &["# The database."]);
    before("mydb:", &["# RDS."]);
}

#[test]
fn what_has_no_equivalent_is_listed() {
    let notes = import(FILE).notes.join("\n");
    for word in ["verbose", "auto_reload_config", "verify: false", "tcp.k8s.kubeconfig: /other", "line 53"] {
        assert!(notes.contains(word), "{word}: {notes}");
    }
    assert_eq!(import("http: { listen: 127.0.0.1:1, idle_timeout: 1m }").notes, [""; 0]);
}

#[test]
fn dynamic_hosts_that_were_off_stay_off() {
    let off = read("http: { listen: ':1', idle_timeout: 60m, k8s: { dynamic_host: '' } }");
    assert_eq!(off.gateway.as_ref().unwrap().dynamic_host, None);
    assert_eq!(off.gateway.unwrap().listen[0].to_string(), "0.0.0.0:1", "as autotunnel listens");
}

#[test]
fn what_autotunnel_refuses_is_refused_all_at_once() {
    assert_eq!(
        said("apiVersion: v2\nhttp: {}\nvrbose: 1"),
        [
            "apiVersion: unsupported config apiVersion `v2`",
            "http.listen: is missing",
            "http.idle_timeout: is missing",
            "vrbose: there is no such key",
        ]
    );
    let http = "http: { listen: '127.0.0.1:8989', idle_timeout: 0, k8s: { routes: { a.b: ";
    assert_eq!(
        said(&format!("{http}{{ }} }} }} }}")),
        [
            "http.idle_timeout: must be positive",
            "http.k8s.routes.a.b.context: is missing",
            "http.k8s.routes.a.b.namespace: is missing",
            "http.k8s.routes.a.b: service or pod is required",
            "http.k8s.routes.a.b.port: is missing",
        ]
    );
    let tcp = |body: &str| said(&format!("http: {{ listen: '127.0.0.1:8989', idle_timeout: 1m }}\ntcp: {{ {body} }}"));
    let route = "{ context: a, namespace: b, service: c, port: 1 }";
    assert_eq!(tcp("idle_timeout: -1s"), ["tcp.idle_timeout: must not be negative"]);
    assert_eq!(
        tcp(&format!("k8s: {{ routes: {{ 8989: {route}, 0: {route} }} }}")),
        [
            "tcp.k8s.routes.8989: local port 8989 conflicts with http.listen",
            "tcp.k8s.routes.0: `0` is not a local port",
        ]
    );
    let jump = "{ context: a, namespace: b, via: { service: s, pod: p, create: { image: 'a;b' } }, target: { host: '$(x)', port: 0 }, method: nc }";
    assert_eq!(
        tcp(&format!("k8s: {{ routes: {{ 1: {route} }}, jump: {{ 1: {jump} }} }}")),
        [
            "tcp.k8s.jump.1: local port 1 is used in `routes` as well",
            "tcp.k8s.jump.1.via.pod: there is a service as well",
            "tcp.k8s.jump.1.via.create: does not go with via.service",
            "tcp.k8s.jump.1.via.create.image: `a;b` is not the name of an image",
            "tcp.k8s.jump.1.target.host: `$(x)` is neither a host name nor an address",
            "tcp.k8s.jump.1.target.port: `0` is not the number of a port",
            "tcp.k8s.jump.1.method: unsupported method `nc`",
        ]
    );
}

#[test]
fn every_forward_gets_a_name_of_its_own() {
    let mut names = Names::default();
    let chosen = [("a-5", 1), ("a", 2), ("a", 5), ("a", 6)].map(|(wanted, port)| names.choose(wanted, port));
    assert_eq!(chosen, ["a-5", "a", "a-5-2", "a-6"]);
}

#[test]
fn a_dollar_does_no_harm() {
    let text = "http: { listen: '127.0.0.1:1', idle_timeout: 1m, k8s: { kubeconfig: '$HOME/x' } }";
    assert!(import(text).yaml.contains("kubeconfig: \"$HOME/x\""), "{}", import(text).yaml);
}

proptest! {
    /// Whatever hosts, ports and services there are, the new file has no problem and as many entries.
    #[test]
    fn what_is_written_is_always_a_good_file(
        routes in proptest::collection::btree_map("[a-z]{1,8}\\.localhost", "[a-z]{1,20}", 0..5),
        ports in proptest::collection::btree_map(2u16..60_000, "[a-z]{1,3}(-[a-z0-9]{1,30})?", 0..6),
        comment in "[ -~é]{0,20}",
    ) {
        let route = |service: &str| format!("{{ context: 'c/1', namespace: n, service: {service}, port: 80 }}");
        let mut text = format!("# {comment}\nhttp:\n  listen: 127.0.0.1:1\n  idle_timeout: 1m\n  k8s:\n    routes:\n");
        routes.iter().for_each(|(host, service)| text += &format!("      {host}: {} # {comment}\n", route(service)));
        text += "tcp:\n  k8s:\n    routes:\n";
        ports.iter().for_each(|(port, service)| text += &format!("      {port}: {}\n", route(service)));
        let file = read(&text);
        prop_assert_eq!(file.gateway.unwrap().routes.len(), routes.len());
        prop_assert_eq!(file.forwards.len(), ports.len());
    }

    #[test]
    fn no_file_makes_it_panic(text in "(http|tcp|k8s|routes|jump|via|port|[a-z0-9 :{}#'\"\\[\\],\\n-]){0,60}") {
        let _ = autotunnel(&text, "a.yaml");
    }
}
