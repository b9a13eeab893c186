//! `adit config`: first files, checks of what a file names, the effective file, other tools' files.

use std::path::Path;

use crate::cli::{home, run};

const KUBECONFIG: &str = "apiVersion: v1
kind: Config
current-context: staging
clusters: [{ name: c, cluster: { server: 'https://127.0.0.1:1' } }]
users: [{ name: u, user: { token: hunter2 } }]
contexts:
- { name: prod, context: { cluster: c, user: u } }
- { name: staging, context: { cluster: c, user: u } }
";

const AGENT: &str = "version: 1
defaults:
  idle_timeout: 30m
forwards:
  postgres:
    to: k8s://prod/databases/service/postgresql:5432
    listen: 5432
    health: { type: postgres, user: app, password: hunter2 }
gateway:
  listen: 127.0.0.1:8989
  aliases: { st: staging }
  routes:
    argocd.localhost: { to: k8s://prod/argocd/service/argocd-server:443, scheme: https }
    db.localhost: { to: forward:postgres, basic_auth: { user: me, password: hunter2 } }
publish:
  server: tunnel.example.com
  tunnels:
    shop: { to: k8s://staging/shop/service/web:80, host_header: shop.internal }
";

fn write(home: &Path, name: &str, text: &str) {
    let path = home.join(name);
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    std::fs::write(path, text).expect("a file");
}

#[test]
fn a_first_file_is_written_once_and_has_no_problem() {
    let home = home();
    insta::assert_snapshot!("config_init", run(home.path(), &["config", "init"]));
    assert!(run(home.path(), &["config", "check"]).contains("adit.yaml: fine"));
    write(home.path(), "adit.yaml", "version: 1 # mine\n");
    insta::assert_snapshot!("config_init_again", run(home.path(), &["config", "init"]));
    let kept = std::fs::read_to_string(home.path().join("adit.yaml")).expect("the file");
    assert_eq!(kept, "version: 1 # mine\n");
}

#[test]
fn a_file_that_names_what_is_there_is_fine() {
    let home = home();
    write(home.path(), ".kube/config", KUBECONFIG);
    write(home.path(), "adit.yaml", AGENT);
    insta::assert_snapshot!("config_fine", run(home.path(), &["config", "check", "adit.yaml", "-o", "json"]));
}

#[test]
fn a_context_that_is_not_there_is_named_with_the_nearest() {
    let home = home();
    write(home.path(), ".kube/config", KUBECONFIG);
    let text = AGENT.replace("k8s://prod/databases", "k8s://prd/databases").replace("st: staging", "st: stagng");
    write(home.path(), "adit.yaml", &text);
    insta::assert_snapshot!("config_unknown_context", run(home.path(), &["config", "check"]));
}

#[test]
fn what_a_disabled_forward_lacks_is_a_note_unless_another_leads_through_it() {
    let home = home();
    write(home.path(), ".kube/config", KUBECONFIG);
    let old = "forwards:
  old: { to: k8s://gone/default/service/db:5432, listen: 5432, enabled: false }
  far: { to: { ssh: { server: host, key: missing, host: db, port: 5432 } }, listen: 5433, enabled: false }
";
    write(home.path(), "adit.yaml", &format!("{old}gateway:\n"));
    let said = run(home.path(), &["config", "check"]);
    for text in [
        "exit code 0",
        "adit.yaml: fine",
        "note: adit.yaml:2:14: forwards.old.to: the context `gone`",
        "forwards.far.to.ssh.key: missing cannot be read",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
    write(home.path(), "adit.yaml", &format!("{old}  new: {{ to: 'forward:old', listen: 5434 }}\n"));
    let said = run(home.path(), &["config", "check"]);
    assert!(said.contains("exit code 2") && said.contains("\nadit.yaml:2:14: forwards.old.to"), "{said}");
}

#[test]
fn mistakes_are_told_before_notes() {
    let home = home();
    write(home.path(), ".kube/config", KUBECONFIG);
    let text = "forwards:
  old: { to: k8s://gone/default/service/db:5432, listen: 5432, enabled: false }
  new: { to: { ssh: { server: host, key: missing, host: db, port: 5432 } }, listen: 5433 }
";
    write(home.path(), "adit.yaml", text);
    let said = run(home.path(), &["config", "check"]);
    let at = |text: &str| said.find(text).unwrap_or_else(|| panic!("{text}: {said}"));
    assert!(at("forwards.new.to.ssh.key: missing cannot be read") < at("error: 1 problem"), "{said}");
    assert!(at("error: 1 problem") < at("note: adit.yaml:2:14: forwards.old.to: the context `gone`"), "{said}");
}

#[test]
fn files_that_a_file_names_are_opened() {
    let home = home();
    write(home.path(), "empty", "\n");
    write(home.path(), "token", "adit_x\n");
    let text = "gateway:
  routes:
    a.localhost: { to: 'https://127.0.0.1:1', tls: { ca: missing.pem } }
    b.localhost: { to: 3000, basic_auth: { user: me, password_file: empty } }
    c.localhost: { to: 3000, basic_auth: { user: me, password_file: missing } }
    d.localhost: { to: k8s:////service/web:80 }
publish: { token_file: token, ca_file: token, tunnels: { a: { to: 3000 } } }
";
    write(home.path(), "adit.yaml", text);
    insta::assert_snapshot!("config_files_named", run(home.path(), &["config", "check"]));
    write(home.path(), "server.yaml", "public: { base_domain: example.com, tls: { cert: token, key: token } }\n");
    insta::assert_snapshot!("config_server_files_named", run(home.path(), &["config", "check", "server.yaml"]));
}

#[test]
fn every_problem_of_every_section_is_told_at_once() {
    let home = home();
    let text = "defaults: { idle_timeout: soon }
forwards:
  postgres: { to: k8s://prod/databases/servce/postgresql:5432, listen: 5432 }
  other: { to: forward:postgre, listen: 5432 }
gateway:
  listen: 127.0.0.1:5432
  routes:
    a.localhost:80: { to: 3000 }
    b.localhost: { to: http://127.0.0.1:3000, scheme: https, tsl: terminate }
publish: { tunnels: { pg: { to: forward:other, scheme: tcp } } }
";
    write(home.path(), "adit.yaml", text);
    insta::assert_snapshot!("config_many_problems", run(home.path(), &["config", "check"]));
}

#[test]
fn the_effective_file_has_every_default_and_no_secret() {
    let home = home();
    write(home.path(), "adit.yaml", AGENT);
    let shown = run(home.path(), &["config", "show"]);
    assert!(!shown.contains("hunter2"), "{shown}");
    insta::assert_snapshot!("config_show", shown);
    insta::assert_snapshot!("config_show_json", run(home.path(), &["config", "show", "adit.yaml", "-o", "json"]));
    write(home.path(), "server.yaml", "public: { base_domain: example.com }\n");
    insta::assert_snapshot!("config_show_of_a_server", run(home.path(), &["config", "show", "server.yaml"]));
    std::fs::remove_file(home.path().join("adit.yaml")).expect("the file");
    insta::assert_snapshot!("config_show_nothing", run(home.path(), &["config", "show"]));
}

#[test]
fn the_schema_is_json() {
    let home = home();
    let said = run(home.path(), &["config", "schema"]);
    let schema = said.split_once("---- stdout\n").and_then(|(_, rest)| rest.split_once("---- stderr")).expect("both");
    let schema: serde_json::Value = serde_json::from_str(schema.0).expect("JSON");
    assert_eq!(schema["title"], "adit.yaml");
}

#[test]
fn a_file_of_autotunnel_becomes_ours_with_notes() {
    let home = home();
    let text = "# My tunnels.
apiVersion: autotunnel/v1
verbose: true
http:
  listen: 127.0.0.1:8989
  idle_timeout: 60m
  k8s:
    dynamic_host: k8s.localhost
    routes:
      # The dashboards.
      grafana.localhost: { context: prod, namespace: monitoring, service: grafana, port: 3000 }
      argocd.localhost: { context: prod, namespace: argocd, service: argocd-server, port: 443, scheme: https }
tcp:
  k8s:
    routes:
      5432: { context: prod, namespace: databases, service: postgresql, port: 5432 }
";
    write(home.path(), ".autotunnel.yaml", text);
    insta::assert_snapshot!("config_import", run(home.path(), &["config", "import", "autotunnel", ".autotunnel.yaml"]));
    write(home.path(), "bad.yaml", &text.replace("service: grafana", "pod: g, service: grafana").replace("/v1", "/v2"));
    insta::assert_snapshot!("config_import_bad", run(home.path(), &["config", "import", "autotunnel", "bad.yaml"]));
    insta::assert_snapshot!("config_import_unknown", run(home.path(), &["config", "import", "kubefwd", "bad.yaml"]));
}

#[test]
fn a_file_of_localport_becomes_ours_with_notes() {
    let home = home();
    let text = "# My forwards.
version: \"1.0\"
defaults:
  restart_policy: { max_attempts: 5 }
  cluster_health: { interval: 120, timeout: 30 }
services:
  # The database.
  - name: postgres
    technology: kubectl
    local_port: 5432
    remote_port: 5432
    connection: { resource_name: postgres, namespace: data, context: \"${CONTEXT:prod}\" }
    tags: [database]
    health_check: { type: postgres, interval: 20, config: { user: app, password: \"${PASSWORD:x}\" } }
  - name: web
    technology: kubectl
    local_port: 8080
    remote_port: 80
    connection: { resource_type: deployment, resource_name: web }
    enabled: false
";
    write(home.path(), "localport.yaml", text);
    let said = run(home.path(), &["config", "import", "localport", "localport.yaml"]);
    insta::assert_snapshot!("config_import_localport", said);
    let yaml = said.split_once("---- stdout\n").and_then(|(_, rest)| rest.split_once("---- stderr")).expect("both").0;
    write(home.path(), "adit.yaml", yaml);
    write(home.path(), ".kube/config", KUBECONFIG);
    assert!(run(home.path(), &["config", "check"]).contains("adit.yaml: fine"), "{yaml}");
    write(home.path(), "bad.yaml", &text.replace("local_port: 8080", "local_port: 5432").replace("1.0", "3"));
    let said = run(home.path(), &["config", "import", "localport", "bad.yaml"]);
    insta::assert_snapshot!("config_import_localport_bad", said);
}

#[test]
fn forwards_are_exported_by_name_and_tag_without_secrets() {
    let home = home();
    let text = AGENT.replace("    listen: 5432\n", "    listen: 5432\n    tags: [database]\n") + "\n";
    let text = text.replace("gateway:\n", "  old: { to: 'tcp://h:1', tags: [database], enabled: false }\ngateway:\n");
    write(home.path(), "adit.yaml", &text);
    let export = |more: &[&str]| run(home.path(), &[&["config", "export"][..], more].concat());
    let whole = export(&[]);
    assert!(!whole.contains("hunter2") && !whole.contains("old:"), "{whole}");
    insta::assert_snapshot!("config_export", whole);
    insta::assert_snapshot!(
        "config_export_short",
        export(&["--tag", "database", "--no-defaults", "--include-disabled"])
    );
    insta::assert_snapshot!("config_export_json", export(&["postgres", "-o", "json", "--no-defaults"]));
    assert_eq!(export(&["-o", "yaml"]), whole);
    // Where text is no YAML it is not given in its place.
    for other in [&["top", "--once"][..], &["monitor"], &["doctor"], &["config", "check"], &["status"]] {
        let said = run(home.path(), &[other, &["-o", "yaml"]].concat());
        assert!(said.contains("this command gives text or JSON, not YAML") && said.contains("use -o json"), "{said}");
    }
    insta::assert_snapshot!("config_export_unknown", export(&["postgre"]));
    assert!(export(&["-t", "databse"]).contains("did you mean `database`?"));
}

#[test]
fn a_file_that_publishes_nothing_does_not_stop_one_target() {
    let home = home();
    write(home.path(), "adit.yaml", "forwards: { a: { to: 3000 } }\n");
    let said = run(home.path(), &["expose", "3000", "--server", "localhost:1"]);
    assert!(said.contains("no token is given"), "{said}");
    let said = run(home.path(), &["expose", "3000"]);
    assert!(said.contains("no server is named"), "{said}");
    let said = run(home.path(), &["expose"]);
    assert!(said.contains("adit.yaml:1:1: publish: is missing"), "{said}");
}

#[test]
fn a_kubeconfig_that_is_not_there_is_noted_though_nothing_leads_to_a_cluster() {
    let home = home();
    write(home.path(), "adit.yaml", "kubernetes: { kubeconfig: ./none }\ngateway: {}\n");
    let said = run(home.path(), &["config", "check"]);
    assert!(said.contains("note: adit.yaml: kubernetes.kubeconfig: there is no kubeconfig"), "{said}");
    assert!(said.contains("adit.yaml: fine"), "{said}");
}

#[test]
fn help_says_what_each_does() {
    let home = home();
    insta::assert_snapshot!("help_config", run(home.path(), &["config", "--help"]));
    insta::assert_snapshot!("help_config_export", run(home.path(), &["config", "export", "--help"]));
    insta::assert_snapshot!("help_config_import", run(home.path(), &["config", "import", "--help"]));
}

#[test]
fn tunnels_without_a_server_are_found_by_the_check() {
    let home = home();
    write(home.path(), "adit.yaml", "version: 1\npublish: { tunnels: { a: { to: 3000 } } }\n");
    let said = run(home.path(), &["config", "check", "adit.yaml"]);
    assert!(said.contains("adit.yaml:2:10: publish: no server is named"), "{said}");
    write(home.path(), "adit.yaml", "version: 1\npublish: { server: h, tunnels: { a: { to: 3000 } } }\n");
    assert!(run(home.path(), &["config", "check", "adit.yaml"]).contains("adit.yaml: fine"));
}

#[test]
fn files_of_probes_and_of_ssh_are_looked_at_and_a_file_that_asks_for_nothing_is_not_fine() {
    let home = home();
    let text = "version: 1
forwards:
  db:
    to: { ssh: { server: me@bastion, host: db, port: 5432, key: keys/gone, password_file: pw/gone } }
    listen: 15432
    health: { type: postgres, user: me, password_file: pw/health, ca: ca/gone.pem }
";
    write(home.path(), "adit.yaml", text);
    let said = run(home.path(), &["config", "check"]);
    for (line, what) in [(4, "keys/gone"), (4, "pw/gone"), (6, "pw/health"), (6, "ca/gone.pem")] {
        let found = said.lines().any(|one| one.contains(&format!("adit.yaml:{line}:")) && one.contains(what));
        assert!(found, "{what}: {said}");
    }
    write(home.path(), "adit.yaml", "# nothing yet\n");
    let said = run(home.path(), &["config", "check"]);
    assert!(said.contains("adit.yaml asks for nothing") && !said.contains("fine"), "{said}");
}

#[test]
fn files_of_the_server_that_is_published_by_are_looked_at() {
    let home = home();
    write(home.path(), "open", "secret\n");
    std::fs::set_permissions(home.path().join("open"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let text = "publish:
  via: { server: me@bastion, key: missing, known_hosts: none.such, password_file: open }
  tunnels: { a: { to: 3000, port: 8080 } }
";
    write(home.path(), "adit.yaml", text);
    let said = run(home.path(), &["config", "check"]);
    for key in ["publish.via.key", "publish.via.known_hosts", "publish.via.password_file"] {
        assert!(said.contains(key), "{key}: {said}");
    }
}
