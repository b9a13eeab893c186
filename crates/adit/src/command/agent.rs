//! What an agent is told, out of the section `publish` and the command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adit_core::config::publish::{
    CONNECT_TIMEOUT, HeaderEdits, PublicPlace, PublishConfig, PublishedTunnel, TrustConfig,
};
use adit_core::diagnose::Fault;
use adit_core::secret::Secret;
use adit_core::target::{Target, TargetKind};
use http::header::{HeaderName, HeaderValue};
use runtime::connect::{Connect, TlsConnect};
use runtime::tls::{ServerTrust, TlsError};
use runtime::watch::FileWatch;
use sha2::{Digest as _, Sha256};
use tunnel::agent::{AgentConfig, AgentTunnel, HeaderRules, LocalProtocol, TokenSource, Wanted};

use super::files;
use crate::report::{Failure, failure};

/// Opens streams to targets that are no plain addresses.
pub(super) type Connector<'a> = &'a dyn Fn(&Target) -> Arc<dyn Connect>;

/// A target that is started by the first visitor may take longer than an address that is there or not.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(30);

/// What an agent is told; `token` is where its credential comes from.
pub(super) fn agent_config(
    publish: &PublishConfig,
    token: TokenSource,
    connect: Connector<'_>,
) -> Result<AgentConfig, Failure> {
    let server = server(publish)?;
    let trust = match &publish.trust {
        TrustConfig::System => ServerTrust::Roots,
        TrustConfig::CaFile(file) => ServerTrust::CaFile(file.clone()),
        TrustConfig::Fingerprint(hash) => ServerTrust::Pinned(*hash),
    };
    let agent_id = publish.agent_id.clone().map_or_else(agent_id, Ok)?;
    let mut config = AgentConfig::new(&server, trust, token, &agent_id);
    config.server_name = publish.server_name.as_ref().map(|name| name.as_str().to_owned());
    config.lanes = u8::try_from(publish.lanes).unwrap_or(2);
    config.tunnels = publish.tunnels.iter().map(|tunnel| agent_tunnel(tunnel, connect)).collect::<Result<_, _>>()?;
    Ok(config)
}

/// The address of the server; without one, nothing else is worth asking for.
pub(super) fn server(publish: &PublishConfig) -> Result<String, Failure> {
    if let Some(via) = &publish.via {
        return Err(Failure::new(
            Fault::Usage,
            format!("adit.yaml publishes through the ssh server {via}, and `adit expose` through a tunnel server"),
            "run `adit up publish`; or name a tunnel server: publish.server instead of publish.via",
        ));
    }
    publish.server.as_ref().map(ToString::to_string).ok_or_else(|| {
        Failure::new(
            Fault::Usage,
            "no server is named",
            "say which one: --server HOST:8443, $ADIT_SERVER, or publish.server in adit.yaml",
        )
    })
}

/// One tunnel of a configuration as the agent wants it.
fn agent_tunnel(published: &PublishedTunnel, connect: Connector<'_>) -> Result<AgentTunnel, Failure> {
    let wanted = match &published.public {
        PublicPlace::Any => Wanted::AnyName,
        PublicPlace::Name(name) => Wanted::Name(name.as_str().to_owned()),
        PublicPlace::Host(host) => Wanted::Host(host.as_str().to_owned()),
        PublicPlace::Port(port) => Wanted::Port(*port),
    };
    let mut agent = match &published.to {
        Target::Local(local) => {
            AgentTunnel::to_target(&published.key, wanted, local, published.connect_timeout, published.verify)
        }
        target => through(published, wanted, connect(target)),
    }
    .map_err(|error| failure(&error))?;
    agent.host_header.clone_from(&published.host_header);
    agent.request_headers = rules(&published.headers)?;
    agent.response_headers = rules(&published.response_headers)?;
    agent.proxy_protocol = published.proxy_protocol;
    agent.health.clone_from(&published.health);
    agent.request_timeout = published.request_timeout;
    Ok(agent)
}

/// A tunnel to what `connect` reaches, spoken to as the configuration says.
fn through(published: &PublishedTunnel, wanted: Wanted, connect: Arc<dyn Connect>) -> Result<AgentTunnel, TlsError> {
    let timeout = if published.connect_timeout == CONNECT_TIMEOUT { START_TIMEOUT } else { published.connect_timeout };
    let local = connect.describe();
    let tls = |alpn: &[u8]| -> Result<Arc<dyn Connect>, TlsError> {
        let (under, name) = (Arc::clone(&connect), published.to.host());
        Ok(if published.verify {
            let config = ServerTrust::Roots.client_config(&[alpn])?;
            Arc::new(TlsConnect::new(under, &name, config, timeout)?)
        } else {
            Arc::new(TlsConnect::unverified(under, &name, &[alpn], timeout)?)
        })
    };
    let (protocol, connect, connect_h2) = match published.scheme {
        TargetKind::Https => (LocalProtocol::Https, tls(b"http/1.1")?, Some(tls(b"h2")?)),
        TargetKind::H2c => (LocalProtocol::H2c, connect, None),
        TargetKind::Http | TargetKind::Tcp => (LocalProtocol::Http, connect, None),
    };
    let tunnel = AgentTunnel::new(&published.key, wanted, connect);
    Ok(AgentTunnel { connect_h2, protocol, local, connect_timeout: timeout, ..tunnel })
}

fn rules(edits: &HeaderEdits) -> Result<HeaderRules, Failure> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let add: Vec<(String, String)> = edits.add.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let add = add.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    HeaderRules::parse(add, edits.remove.iter().map(HeaderName::as_str)).map_err(|error| failure(&error))
}

/// Where the token comes from (S6): never an argument.
pub(super) fn token_source(publish: &PublishConfig, stdin: bool) -> Result<TokenSource, Failure> {
    if stdin {
        let mut line = String::new();
        std::io::stdin()
            .read_line(&mut line)
            .map_err(|error| Failure::new(Fault::Usage, format!("standard input: {error}"), ""))?;
        return Ok(TokenSource::Fixed(Secret::new(line.trim().to_owned())));
    }
    match std::env::var("ADIT_TOKEN") {
        Ok(token) if publish.token_file.is_none() => {
            return Ok(TokenSource::Fixed(Secret::new(token.trim().to_owned())));
        }
        _ => {}
    }
    token_file(publish).map(TokenSource::File).ok_or_else(|| {
        Failure::new(
            Fault::Auth,
            "no token is given",
            "put it into a file (chmod 600) and say --token-file FILE (~/.config/adit/token is found by itself), or set $ADIT_TOKEN, or use --token-stdin",
        )
    })
}

/// The file of the token: the one that is named, else the usual one, if the token is not in the environment.
pub(super) fn token_file(publish: &PublishConfig) -> Option<PathBuf> {
    let usual = || files::config_dir().map(|dir| dir.join("adit/token")).filter(|path| path.is_file());
    let in_environment = std::env::var_os("ADIT_TOKEN").is_some();
    publish.token_file.clone().or_else(|| usual().filter(|_| !in_environment))
}

/// This machine's agent id: made once and kept.
fn agent_id() -> Result<String, Failure> {
    let Some(directory) = files::state_dir() else { return Ok(new_agent_id()) };
    let path = directory.join("agent-id");
    if let Ok(id) = std::fs::read_to_string(&path)
        && !id.trim().is_empty()
    {
        // Several `adit expose` on one machine are several agents.
        return Ok(format!("{}.{}", id.trim(), instance_suffix()));
    }
    let id = new_agent_id();
    let kept = std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&path, format!("{id}\n")));
    if let Err(error) = kept {
        tracing::warn!(%error, path = %path.display(), "the agent id cannot be kept; the next start is another agent");
    }
    Ok(format!("{id}.{}", instance_suffix()))
}

fn new_agent_id() -> String {
    let random: [u8; 8] = rand::random();
    random.iter().fold(String::from("agent-"), |id, byte| id + &format!("{byte:02x}"))
}

/// Tells agents of one machine apart by what they publish, and is the same after a restart, and after an update of
/// this program.
fn instance_suffix() -> String {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let directory = std::env::current_dir().unwrap_or_default();
    suffix_of(arguments.iter().map(OsString::as_os_str).chain([directory.as_os_str()]))
}

fn suffix_of<'a>(parts: impl Iterator<Item = &'a OsStr>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_encoded_bytes());
        // No argument and no path contains it.
        hasher.update([0]);
    }
    let hash = hasher.finalize();
    hash.iter().take(4).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A token file that changes is sent to the server before the old token ends.
pub(super) fn watch_token(config: &mut AgentConfig) -> Option<FileWatch> {
    let TokenSource::File(path) = &config.token else { return None };
    let watch = FileWatch::start(vec![path.clone()])
        .inspect_err(|error| tracing::warn!(%error, "the token file cannot be watched"))
        .ok()?;
    config.token_changed = Some(watch.changes());
    Some(watch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_suffix_depends_on_each_part_and_never_changes() {
        let of = |parts: &[&str]| suffix_of(parts.iter().map(OsStr::new));
        assert_eq!(of(&["expose", "3000"]), "2693b20a");
        assert_ne!(of(&["expose", "3000"]), of(&["expose3", "000"]));
    }
}
