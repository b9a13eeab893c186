//! A file of localport in which every key is used, imported and run.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use testkit::cluster::{Cluster, ClusterOptions, PodSpec, ServicePort};
use testkit::origin::TcpOrigin;
use testkit::process::free_port;
use testkit::sshd::Sshd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::Up;
use crate::support::{DEADLINE, adit, eventually};

/// What the import is tested with in crate `core`.
const EVERY_KEY: &str = include_str!("../../../../core/src/config/import/localport/every_key.yaml");

/// Its local ports but that of the forward that is disabled.
const LOCAL: [u16; 8] = [5432, 5433, 8080, 8081, 8443, 9092, 9090, 7000];

/// The file with ports of this machine, and those.
fn file_for(sshd: &Sshd, origin: &TcpOrigin) -> (String, Vec<u16>) {
    let mut text = EVERY_KEY.replace("user: deploy", &format!("user: {}", sshd.user()));
    let remote = origin.addr().port();
    for port in [9090, 7000] {
        text = text.replace(&format!("remote_port: {port}"), &format!("remote_port: {remote}"));
    }
    let mut ports = Vec::new();
    for local in LOCAL {
        let free = free_port().expect("a free port");
        // One is the default of a variable.
        let (port, default) = (format!("local_port: {local}\n"), format!("${{TOOL_PORT:{local}}}"));
        assert!(text.contains(&port) || text.contains(&default), "{local} is a port of the file");
        text =
            text.replace(&port, &format!("local_port: {free}\n")).replace(&default, &format!("${{TOOL_PORT:{free}}}"));
        ports.push(free);
    }
    (text, ports)
}

/// The clusters it names: one has all but the pod of the other.
async fn clusters(home: &Path, origin: &TcpOrigin) -> [Cluster; 2] {
    let local = Cluster::start(ClusterOptions::default()).await;
    let far = Cluster::start(ClusterOptions::default()).await;
    let pod = |ns: &str, name: &str, app: &str, port: u16| {
        PodSpec::new(ns, name).label("app", app).port("", port).backend(port, origin.addr())
    };
    for (ns, name, port) in
        [("default", "postgres", 5432), ("default", "web", 80), ("default", "secure", 443), ("kafka", "kafka", 9092)]
    {
        local.add_service(ns, name, &[("app", name)], &[ServicePort::new(port)]);
        local.add_pod(pod(ns, &format!("{name}-1"), name, port));
    }
    local.add_deployment("default", "api-server", &[("app", "api-server")]);
    local.add_pod(pod("default", "api-server-1", "api-server", 80));
    far.add_pod(pod("data", "reports-0", "reports", 5432));
    let write = |name: &str, text: String| std::fs::write(home.join(name), text).expect("it can be written");
    write("local", local.kubeconfig_named("minikube", "local", "here"));
    write("far", far.kubeconfig_named("gke/prod", "far", "there"));
    [local, far]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_localport_with_every_key_runs_once_it_is_imported() {
    let (sshd, origin) = (Sshd::start(&[]).await, TcpOrigin::start().await.unwrap());
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let _clusters = clusters(home.path(), &origin).await;
    std::fs::create_dir(at(".ssh")).unwrap();
    let hosts = format!(
        "Host metrics.example.com tool\n  HostName {}\n  Port {}\n  IdentityFile {}\n  UserKnownHostsFile {}\nHost tool\n  User {}\n",
        sshd.addr().ip(),
        sshd.addr().port(),
        sshd.key().display(),
        sshd.known_hosts().display(),
        sshd.user(),
    );
    std::fs::write(at(".ssh/config"), hosts).unwrap();
    std::fs::set_permissions(at(".ssh/config"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let (theirs, ports) = file_for(&sshd, &origin);
    std::fs::write(at("localport.yaml"), theirs).unwrap();

    let imported = adit(home.path()).args(["config", "import", "localport", "localport.yaml"]).output().unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    std::fs::write(at("adit.yaml"), imported.stdout).unwrap();

    let mut up = adit(home.path());
    up.args(["up", "-o", "json"]).env_remove("SSH_AUTH_SOCK").env("PATH", home.path());
    up.env("KUBECONFIG", format!("{}:{}", at("local").display(), at("far").display()));
    for secret in ["DB_PASSWORD", "API_TOKEN", "JUMP"] {
        up.env(secret, "sesame");
    }
    // None of its services is what its probe takes it for.
    let _up = Up::start(&mut up).await.errors_expected();
    for (port, local) in ports.into_iter().zip(LOCAL) {
        let serves = || async {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
            stream.write_all(b"echo\nhello").await.ok()?;
            let mut back = [0; 5];
            stream.read_exact(&mut back).await.ok()?;
            (&back == b"hello").then_some(())
        };
        eventually(DEADLINE, &format!("a connection by the port that was {local}"), serves).await;
    }
}
