//! Makes one connection: the way there, the key exchange, the login.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use adit_core::target::SshServer;
use runtime::Scope;
use runtime::ack::AckedTcp;
use runtime::connect::{ConnectError, Io, TcpConnect};
use runtime::delivery::Ends;
use russh::client::{self, Handle};
use russh::keys::{Algorithm, PublicKey, PublicKeyOrCertificate};
use russh::{Preferred, SshId, cipher};
use tokio::io::BufReader;
use tokio::process::Command;

use super::ask::{Secrets, withhold_secrets};
use super::auth::Login;
use super::bastion::OpenedVia;
use super::error::SshError;
use super::gathered::Gathered;
use super::host_keys::{HostKeys, fingerprint};
use super::key_files::KeyFiles;
use super::link::{Client, Link, LinkShared};
use super::roomy::Roomy;
use super::servers::SshServers;
use super::settings::Known;
use super::transport::{Logging, Pipes, Watched};
use super::words::{each_line, printable};

/// What a server may send of a stream before we say go on. russh says it when half of that has come, so a far server sends half of it
/// in each round trip: as much as to OpenSSH, which has 2 MiB and says it all the time.
const WINDOW: u32 = 4 * 1024 * 1024;
/// The same through another server: what is under way to the inner connection has to find room in its stream of the outer one, and where
/// it does not the other streams of that wait for the inner one.
const WINDOW_THROUGH: u32 = 2 * 1024 * 1024;
/// The largest piece, as OpenSSH has it.
const PACKET: u32 = 32 * 1024;
/// Pieces of a stream that may wait: more than are let wait, see [`Limits`](super::link::Limits).
const PIECES: usize = 64 * 1024;

/// What is read at once: a large packet and the begin of the next one.
const READ_BUFFER: usize = 64 * 1024;

/// Told what is done, for `adit ssh test`.
pub(crate) type Notes<'a> = &'a (dyn Fn(String) + Send + Sync);

/// What a dial needs.
pub(crate) struct Dial<'a> {
    pub(crate) servers: &'a Arc<SshServers>,
    pub(crate) scope: &'a Scope,
    pub(crate) secrets: &'a Secrets,
    pub(crate) notes: Notes<'a>,
    /// A person wants it anew: so the servers on the way, too.
    pub(crate) asked: bool,
    /// The files of host keys of a server on the way whose key was not believed, or those of the login that it refused: it
    /// may have others than the last one.
    pub(super) hop_files: OnceLock<KeyFiles>,
}

/// What a server shows of itself.
#[derive(Clone, Debug)]
pub struct ShownKey {
    /// The server as it was written.
    pub server: String,
    /// The type of its key.
    pub kind: String,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// Why it is not accepted; `None`: it is known.
    pub refused: Option<SshError>,
    key: PublicKey,
}

impl Dial<'_> {
    /// Connects and logs in.
    pub(crate) async fn link(&self, known: &Known) -> Result<Link, SshError> {
        self.link_with(known, LinkShared::new(self.scope, self.servers.limits(), self.servers.budget())).await
    }

    /// The same, with what the connection shares with its streams.
    pub(crate) async fn link_with(&self, known: &Known, shared: Arc<LinkShared>) -> Result<Link, SshError> {
        let refused = Arc::new(OnceLock::new());
        let (mut handle, logging) = self.handshake(known, &shared, &refused).await?;
        let only_keys = shared.is_doubted();
        (self.notes)(
            if only_keys { "the host key has CHANGED; the settings let it pass" } else { "the host key is known" }
                .to_owned(),
        );
        let timeout = known.connect_timeout;
        let login = Login {
            handle: &mut handle,
            known,
            secrets: self.secrets,
            scope: self.scope,
            notes: self.notes,
            timeout,
            only_keys,
            tried: Vec::new(),
            unfit: None,
        };
        let by = login.run().await?;
        logging.done();
        (self.notes)(format!("logged in as {} by {by}", known.settings.user));
        tracing::debug!(server = %known.server, by, "logged in");
        Ok(Link::new(handle, shared))
    }

    /// Connects as far as the server's key.
    pub(crate) async fn shown_key(&self, known: &Known) -> Result<ShownKey, SshError> {
        let shown = Arc::new(OnceLock::new());
        let host_keys = HostKeys::of(self.scope, known).await?;
        let ends = OnceLock::new();
        let transport = self.transport(known, &ends);
        let looking = async {
            let client = Looker { shown: Arc::clone(&shown) };
            let config = Arc::new(config(known, &host_keys));
            let (transport, _looking) = Watched::new(transport.await?, patience(known));
            client::connect_stream(config, transport, client).await.map_err(|error| protocol(known, &error))
        };
        let looked = tokio::time::timeout(known.connect_timeout, Box::pin(looking)).await;
        match (shown.get(), looked) {
            (Some(key), _) => {
                let key: &PublicKeyOrCertificate = key;
                let (public, server) = (key.public_key(), known.server.to_string());
                let refused = host_keys.check(key).err();
                let (kind, fingerprint) = (public.algorithm().to_string(), fingerprint(&public));
                Ok(ShownKey { server, kind, fingerprint, refused, key: public })
            }
            (None, Ok(Err(error))) => Err(error),
            (None, _) => Err(slow(known, "its host key")),
        }
    }

    async fn handshake(
        &self,
        known: &Known,
        shared: &Arc<LinkShared>,
        refused: &Arc<OnceLock<SshError>>,
    ) -> Result<(Handle<Client>, Logging), SshError> {
        let host_keys = Arc::new(HostKeys::of(self.scope, known).await?);
        let config = Arc::new(config(known, &host_keys));
        let client = Client::new(host_keys, Arc::clone(shared), Arc::clone(refused));
        let step = async {
            // russh reads the length of each packet by itself: without a buffer that is a system call more for each.
            let (transport, logging) = Watched::new(self.transport(known, &shared.ends).await?, patience(known));
            let transport = Gathered::new(BufReader::with_capacity(READ_BUFFER, transport));
            match client::connect_stream(config, transport, client).await {
                Ok(handle) => Ok((handle, logging)),
                Err(error) => Err(refused.get().cloned().unwrap_or_else(|| protocol(known, &error))),
            }
        };
        match tokio::time::timeout(known.connect_timeout, step).await {
            Ok(handle) => handle,
            Err(_) => Err(slow(known, "the SSH handshake")),
        }
    }

    /// The way to the server. When it is a TCP connection, its ends are told.
    async fn transport(&self, known: &Known, ends: &OnceLock<Ends>) -> Result<Io, SshError> {
        let settings = &known.settings;
        if let Some(command) = &settings.proxy_command {
            let command = known.expanded(command);
            (self.notes)(format!("the way there is the command `{command}`"));
            return self.by_command(known, &command);
        }
        if let Some((last, before)) = settings.jumps.split_last() {
            (self.notes)(format!("the way to {}:{} is through {last}", settings.host, settings.port));
            let hop = hop(last, before, &known.server);
            if self.asked {
                self.servers.prove(&hop);
            }
            let via = self.servers.bastion(&hop);
            // Boxed: a hop may have hops.
            let opening: runtime::connect::BoxFuture<'_, _> =
                Box::pin(via.open(self.scope, &settings.host, settings.port, known.connect_timeout));
            return match opening.await {
                // The next one who comes by this hop finds it logged in.
                Ok(io) => Ok(Io::other(Roomy::new(self.scope, io)).with(via)),
                Err(OpenedVia::Ssh(error)) => {
                    if error.is_for_a_person() {
                        let state = via.state();
                        let files = if error.is_host_key() { &state.key_files } else { &state.credential_files };
                        let _ = self.hop_files.set(files.clone());
                    }
                    Err(error.of_hop(&hop))
                }
                Err(OpenedVia::Stream(error)) => {
                    // Its connection may be dead without anybody having noticed.
                    if matches!(error, ConnectError::Timeout { .. }) {
                        via.renew(self.scope);
                    }
                    Err(unreachable(known, &error))
                }
            };
        }
        (self.notes)(format!("connecting to {}:{}", settings.host, settings.port));
        let connect = TcpConnect::new(&settings.host, settings.port, known.connect_timeout);
        let stream = connect.open().await.map_err(|error| match error {
            ConnectError::Timeout { .. } => slow(known, "tcp"),
            error => unreachable(known, &error),
        })?;
        // Keystrokes and small answers are not to wait for more, and sshd waits with its own until we have acknowledged.
        let _ = stream.set_nodelay(true);
        if let Ok(known) = Ends::of(&stream) {
            let _ = ends.set(known);
        }
        Ok(Io::other(AckedTcp::new(stream)))
    }

    fn by_command(&self, known: &Known, command: &str) -> Result<Io, SshError> {
        let fault = |reason: String| SshError::Command {
            server: known.server.to_string(),
            command: command.to_owned(),
            reason,
            logged_in: false,
        };
        let mut shell = Command::new("/bin/sh");
        withhold_secrets(&mut shell);
        shell.args(["-c", &format!("exec {command}")]).stderr(std::process::Stdio::piped());
        let (pipes, stderr) = Pipes::start(&mut shell).map_err(|error| fault(crate::error::words(&error)))?;
        if let Some(stderr) = stderr {
            let server = known.server.to_string();
            self.scope.spawn("words of a proxy command", async move {
                each_line(stderr, |line| tracing::info!(server, "proxy command: {}", printable(line))).await;
            });
        }
        Ok(Io::other(pipes))
    }
}

impl ShownKey {
    /// Writes it down as the server's; the file.
    pub(crate) async fn accept(&self, scope: &Scope, known: &Known) -> Result<String, SshError> {
        HostKeys::of(scope, known).await?.accept(&self.key)
    }
}

/// Takes the key and goes.
struct Looker {
    shown: Arc<OnceLock<PublicKeyOrCertificate>>,
}

impl client::Handler for Looker {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let shown = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.clone().into(),
            PublicKeyOrCertificate::Certificate(certificate) => certificate.clone().into(),
        };
        let _ = self.shown.set(shown);
        Ok(false)
    }
}

fn config(known: &Known, host_keys: &HostKeys) -> client::Config {
    let settings = &known.settings;
    let default = Preferred::DEFAULT;
    let all: Vec<Algorithm> =
        default.key.iter().filter(|key| !matches!(key, Algorithm::Rsa { hash: None })).cloned().collect();
    let certificates = if host_keys.has_authority() { all.clone() } else { Vec::new() };
    let preferred = Preferred {
        key: Cow::Owned(host_keys.algorithms(&all)),
        cipher: ciphers(has_aes()),
        host_key_certificates: Cow::Owned(certificates),
        ..default
    };
    client::Config {
        client_id: SshId::Standard(Cow::Borrowed(concat!("SSH-2.0-adit_", env!("CARGO_PKG_VERSION")))),
        window_size: if settings.jumps.is_empty() { WINDOW } else { WINDOW_THROUGH },
        maximum_packet_size: PACKET,
        channel_buffer_size: PIECES,
        preferred,
        keepalive_interval: Some(settings.alive_interval),
        // The one after the last that is allowed ends it.
        keepalive_max: asks(known) - 1,
        // See `Watched`.
        inactivity_timeout: None,
        ..client::Config::default()
    }
}

/// After so many intervals without an answer a server is given up. Fewer than two cannot be told to russh.
fn asks(known: &Known) -> usize {
    known.settings.alive_count.max(2)
}

/// How long a server may take nothing of what is sent: while a write to a dead peer waits no keep-alive is sent. A little
/// longer than keep-alives take, which say it better.
fn patience(known: &Known) -> Duration {
    let count = u32::try_from(asks(known)).unwrap_or(u32::MAX);
    known.settings.alive_interval.saturating_mul(count.saturating_add(1))
}

/// russh's ciphers in an order of ours: AES-GCM before ChaCha20 where the processor has instructions for it, since it takes
/// a fraction of the time then; without them it is the slower one.
fn ciphers(aes: bool) -> Cow<'static, [cipher::Name]> {
    let default = Preferred::DEFAULT.cipher;
    if !aes {
        return default;
    }
    let rest = default.iter().copied().filter(|name| *name != cipher::AES_256_GCM);
    Cow::Owned(std::iter::once(cipher::AES_256_GCM).chain(rest).collect())
}

fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// A server on the way: with the servers before it, and with the files that were named for the last one.
pub(super) fn hop(hop: &SshServer, before: &[SshServer], target: &SshServer) -> SshServer {
    let mut options = adit_core::target::SshOptions {
        config: target.options.config.clone(),
        known_hosts: target.options.known_hosts.clone(),
        keepalive: target.options.keepalive,
        connect_timeout: target.options.connect_timeout,
        ..adit_core::target::SshOptions::default()
    };
    if !before.is_empty() {
        options.jump = Some(before.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    }
    hop.clone().with(options)
}

fn protocol(known: &Known, error: &russh::Error) -> SshError {
    let server = known.server.to_string();
    match error {
        russh::Error::IO(error) => SshError::Unreachable { server, reason: crate::error::words(error), hint: None },
        russh::Error::HUP | russh::Error::Disconnect => {
            let reason =
                "it ended the connection before the login; it may have too many of them (MaxStartups)".to_owned();
            SshError::Protocol { server, reason, transient: true }
        }
        russh::Error::NoCommonAlgo { kind, theirs, .. } => {
            let reason = format!("no {kind:?} algorithm in common; it has {}", printable(&theirs.join(", ")));
            SshError::Protocol { server, reason, transient: false }
        }
        russh::Error::Version => {
            let reason = "it does not speak ssh".to_owned();
            SshError::Protocol { server, reason, transient: false }
        }
        error => SshError::Protocol { server, reason: printable(&error.to_string()), transient: true },
    }
}

fn unreachable(known: &Known, error: &ConnectError) -> SshError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let of_hop = || known.settings.jumps.last().map(|hop| format!("check the name: it is {hop} that looks it up"));
    let hint = matches!(error, ConnectError::Resolve { .. }).then(|| no_such_name(known).or_else(of_hop)).flatten();
    SshError::Unreachable { server: known.server.to_string(), reason: crate::error::words(cause), hint }
}

/// For a name that nobody knows and that looks like one of `~/.ssh/config`: it says nothing of it.
fn no_such_name(known: &Known) -> Option<String> {
    let (server, settings) = (&known.server, &known.settings);
    let is_alias = !server.host.contains(['.', ':']) && settings.host == server.host.to_ascii_lowercase();
    let file =
        server.options.config.as_ref().map_or_else(|| "~/.ssh/config".to_owned(), |path| path.display().to_string());
    is_alias.then(|| {
        format!(
            "no Host {} in {file} names a HostName for it: add it there, or write the server's full name",
            server.host
        )
    })
}

fn slow(known: &Known, step: &'static str) -> SshError {
    let after: Duration = known.connect_timeout;
    SshError::Timeout { server: known.server.to_string(), after, step }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use adit_core::target::{SshOptions, SshServer};
    use runtime::Scope;
    use russh::cipher::{AES_256_GCM, CHACHA20_POLY1305};

    use super::{HostKeys, Known, Preferred, ciphers, config, patience};

    #[tokio::test]
    async fn a_server_that_is_frozen_for_a_minute_stays_and_one_that_is_dead_is_noticed_in_a_minute_and_a_half() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        let gives_up_after = async |lines: &str| {
            std::fs::write(&file, lines).unwrap();
            let options = SshOptions { config: Some(file.clone()), ..SshOptions::default() };
            let server = SshServer::parse("me@bastion.example").unwrap().with(options);
            let known = Known::of(&Scope::root(), &server).await.unwrap();
            let config = config(&known, &HostKeys::of(&Scope::root(), &known).await.unwrap());
            // russh asks after each interval, and ends it instead of asking once more than this.
            let asks = u32::try_from(config.keepalive_max).unwrap() + 1;
            assert_eq!(config.inactivity_timeout, None, "a reader that pauses is not the server");
            let by_asking = config.keepalive_interval.unwrap() * asks;
            assert!(patience(&known) > by_asking, "keep-alives come first");
            by_asking
        };
        let seconds = Duration::from_secs;
        assert_eq!(gives_up_after("").await, seconds(90));
        assert_eq!(gives_up_after("Host *\n  ServerAliveInterval 10\n").await, seconds(30));
        assert_eq!(gives_up_after("Host *\n  ServerAliveInterval 10\n  ServerAliveCountMax 5\n").await, seconds(50));
        // Fewer than two cannot be told to russh.
        assert_eq!(gives_up_after("Host *\n  ServerAliveInterval 10\n  ServerAliveCountMax 1\n").await, seconds(20));
    }

    #[test]
    fn the_cipher_that_the_processor_is_quick_at_comes_first_and_none_is_lost() {
        let (with, without) = (ciphers(true), ciphers(false));
        assert_eq!((with[0], without[0]), (AES_256_GCM, CHACHA20_POLY1305));
        let mut sorted = [with.into_owned(), Preferred::DEFAULT.cipher.into_owned()];
        sorted.iter_mut().for_each(|names| names.sort_by(|one, other| one.as_ref().cmp(other.as_ref())));
        assert_eq!(sorted[0], sorted[1]);
    }
}
