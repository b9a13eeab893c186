//! rathole, plain or with TLS, when a binary of that name is on the PATH.

use std::fs;
use std::process::Command;
use std::time::Duration;

use testkit::cert::TestCa;
use testkit::process::{self, Process};

use super::{Missing, Peer, free_addr};
use crate::service::Origin;

/// How long turning PEM into PKCS 12 may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// The password of the PKCS 12 file, which rathole wants to be there.
const PASSWORD: &str = "bench";

/// Starts both ends.
pub(super) fn start(origin: &Origin, tls: bool) -> Result<Peer, Missing> {
    let dir = tempfile::tempdir()?;
    let (control, web, raw) = (free_addr()?, free_addr()?, free_addr()?);
    let (server_transport, client_transport) = if tls { transport(dir.path())? } else { Default::default() };
    let server = format!(
        "[server]\nbind_addr = \"{control}\"\ndefault_token = \"bench\"\n{server_transport}\
         [server.services.web]\nbind_addr = \"{web}\"\n[server.services.raw]\nbind_addr = \"{raw}\"\n"
    );
    let client = format!(
        "[client]\nremote_addr = \"{control}\"\ndefault_token = \"bench\"\n{client_transport}\
         [client.services.web]\nlocal_addr = \"{}\"\n[client.services.raw]\nlocal_addr = \"{}\"\n",
        origin.http, origin.tcp
    );
    let mut processes = Vec::new();
    for (role, config) in [("server", server), ("client", client)] {
        let file = dir.path().join(format!("{role}.toml"));
        fs::write(&file, config)?;
        let mut command = Command::new("rathole");
        command.arg(format!("--{role}")).arg(&file).env("RUST_LOG", "warn");
        processes.push(Process::start(&mut command)?);
    }
    let name = if tls { "rathole-tls" } else { "rathole-tcp" };
    Ok(Peer::of(name, web, Some(raw), processes, dir))
}

/// The transport sections of server and client, with a certificate made for this run.
fn transport(dir: &std::path::Path) -> Result<(String, String), Missing> {
    let ca = TestCa::new()?;
    let leaf = ca.leaf("server", &["localhost"])?;
    let (identity, root) = (dir.join("identity.pfx"), dir.join("ca.pem"));
    fs::copy(ca.path(), &root)?;
    let mut command = Command::new("openssl");
    command.args(["pkcs12", "-export", "-passout", &format!("pass:{PASSWORD}"), "-out"]).arg(&identity);
    command.arg("-inkey").arg(&leaf.key).arg("-in").arg(&leaf.cert).arg("-certfile").arg(&root);
    let made = process::run(&mut command, b"", DEADLINE).map_err(|error| Missing::Failed(error.to_string()))?;
    if !made.0.success() {
        return Err(Missing::Failed(made.1.output()));
    }
    let server = format!(
        "[server.transport]\ntype = \"tls\"\n[server.transport.tls]\npkcs12 = \"{}\"\npkcs12_password = \"{PASSWORD}\"\n",
        identity.display()
    );
    let client = format!(
        "[client.transport]\ntype = \"tls\"\n[client.transport.tls]\ntrusted_root = \"{}\"\nhostname = \"localhost\"\n",
        root.display()
    );
    Ok((server, client))
}
