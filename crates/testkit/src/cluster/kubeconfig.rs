//! The kubeconfig of a cluster.

use std::io;
use std::path::Path;

use super::Shared;
use super::auth::{AuthMode, base64};

/// The file's text, in YAML.
pub(super) fn text(shared: &Shared, context: &str, cluster: &str, user: &str) -> String {
    let (context, cluster, user) = (quoted(context), quoted(cluster), quoted(user));
    let mut authority = String::new();
    if shared.options.tls {
        authority = format!("\n    certificate-authority-data: {}", base64(shared.auth.ca_pem().as_bytes()));
    }
    format!(
        "apiVersion: v1
kind: Config
current-context: {context}
clusters:
- name: {cluster}
  cluster:
    server: {}{authority}
contexts:
- name: {context}
  context:
    cluster: {cluster}
    user: {user}
    namespace: default
users:
- name: {user}
  user:{}
",
        shared.url(),
        credentials(shared),
    )
}

/// Writes a file that only its owner may read.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn credentials(shared: &Shared) -> String {
    match shared.auth.mode() {
        AuthMode::Token(_) => format!("\n    token: {}", shared.auth.token()),
        AuthMode::ClientCert => {
            let client = shared.auth.client();
            let (cert, key) = (base64(client.cert.as_bytes()), base64(client.key.as_bytes()));
            format!("\n    client-certificate-data: {cert}\n    client-key-data: {key}")
        }
        AuthMode::Basic { username, password } => {
            format!("\n    username: {}\n    password: {}", quoted(username), quoted(password))
        }
        AuthMode::ExecPlugin { .. } => format!(
            "
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: {}
      interactiveMode: Never
      provideClusterInfo: false",
            quoted(&shared.auth.plugin_path().to_string_lossy()),
        ),
        // kubectl asks at the terminal when there is nothing at all.
        AuthMode::None => "\n    token: none".to_owned(),
    }
}

/// A YAML string in double quotes, which are those of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
