//! What `ssh -G` says of a server, or its files without that program, and our options over it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use adit_core::ssh::{SshSettings, expand};
use adit_core::target::{SshBackend, SshServer};
use runtime::Scope;
use tokio::process::Command;

use super::ask::withhold_secrets;
use super::error::SshError;
use super::own_config;

/// How long connecting and logging in may take when nothing is configured.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// `ssh -G` reads files; `Match exec` may run something.
const DEADLINE: Duration = Duration::from_secs(10);

/// A setting that we have no use for and that `ssh -G` prints with the home directory put in.
const HOME: &str = "~/adit";

/// The keys in `~/.ssh` that OpenSSH looks for when none is named.
const LOOKED_FOR: [&str; 7] = ["id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk", "id_xmss", "id_dsa"];

/// Everything that is known of a server before it is connected to.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) settings: SshSettings,
    pub(crate) reader: Reader,
    pub(crate) server: SshServer,
    /// Private keys, in the order they are tried.
    pub(crate) identities: Vec<PathBuf>,
    pub(crate) certificates: Vec<PathBuf>,
    pub(crate) user_known_hosts: Vec<PathBuf>,
    pub(crate) global_known_hosts: Vec<PathBuf>,
    /// Files with keys that no server may show.
    pub(crate) revoked: Vec<PathBuf>,
    pub(crate) agent: Option<PathBuf>,
    pub(crate) connect_timeout: Duration,
    /// Why only OpenSSH can do it.
    pub(crate) only_openssh: Option<&'static str>,
    /// The name of the socket of this server's master, when child processes speak SSH.
    pub(crate) socket: String,
    home: Option<String>,
    local_user: String,
}

/// Who read the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// The program `ssh`.
    OpenSsh,
    /// We, since it is not there.
    Own,
}

impl Known {
    /// Asks `ssh -G`; without that program its files are read here.
    pub(crate) async fn of(scope: &Scope, server: &SshServer) -> Result<Self, SshError> {
        let fault = |reason: String| SshError::settings(&server.to_string(), reason);
        let mut home = std::env::var("HOME").ok().filter(|home| !home.is_empty());
        let local_user = local_user();
        let (mut settings, reader) = match printed(server).await.map_err(fault)? {
            Some(text) => {
                // It reads its files there whatever the environment says, so the keys are there, too.
                home = home_of(&text).or(home);
                (SshSettings::parse(&text).map_err(|error| fault(error.to_string()))?, Reader::OpenSsh)
            }
            None => {
                let (server, home, local_user) = (server.clone(), home.clone(), local_user.clone());
                let read = move || own_config::settings(&server, home.as_deref(), &local_user);
                let read = scope.spawn_blocking("read ssh_config", read).await;
                (read.map_err(|lost| fault(lost.to_string()))??, Reader::Own)
            }
        };
        let options = &server.options;
        if let Some(jump) = &options.jump {
            let hops = jump.split(',').map(|hop| SshServer::parse(hop.trim())).collect::<Result<_, _>>();
            settings.jumps = hops.map_err(|error| fault(error.to_string()))?;
            settings.proxy_command = None;
        }
        // `Host *` with a ProxyJump means the hop as well, which cannot be reached through itself.
        let port = settings.port;
        let is_itself = |hop: &SshServer| hop.host == server.host && hop.port.is_none_or(|known| known.get() == port);
        if settings.jumps.iter().any(is_itself) {
            settings.jumps.clear();
        }
        if let Some(interval) = options.keepalive {
            settings.alive_interval = interval;
        }
        if options.key.is_some() {
            settings.identities.clear();
            settings.certificates.clear();
            settings.identities_only = true;
        }
        let path = |text: &String| expand(text, &settings, &server.host, home.as_deref(), &local_user);
        let paths = |texts: &[String]| texts.iter().map(path).collect::<Vec<_>>();
        let identities = options.key.clone().into_iter().chain(paths(&settings.identities)).collect();
        let user_known_hosts =
            options.known_hosts.clone().map_or_else(|| paths(&settings.user_known_hosts), |file| vec![file]);
        let global_known_hosts =
            if options.known_hosts.is_some() { Vec::new() } else { paths(&settings.global_known_hosts) };
        let agent = match settings.agent.as_deref() {
            Some("none") => None,
            Some("SSH_AUTH_SOCK") | None => std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from),
            Some(text) => match text.strip_prefix('$') {
                Some(variable) => std::env::var_os(variable).map(PathBuf::from),
                None => Some(path(&text.to_owned())),
            },
        };
        let mut known = Self {
            certificates: paths(&settings.certificates),
            revoked: paths(&settings.revoked),
            connect_timeout: options.connect_timeout.or(settings.connect_timeout).unwrap_or(CONNECT_TIMEOUT),
            only_openssh: settings.only_openssh(),
            settings,
            reader,
            server: server.clone(),
            identities,
            user_known_hosts,
            global_known_hosts,
            agent,
            socket: format!("{:08x}", rand::random::<u32>()),
            home,
            local_user,
        };
        if known.only_openssh.is_none() {
            let (identities, revoked) = (known.identities.clone(), known.revoked.clone());
            let read = move || only_openssh(&identities, &revoked);
            let read = scope.spawn_blocking("read ssh keys", read).await;
            known.only_openssh = read.map_err(|lost| fault(lost.to_string()))?;
        }
        Ok(known)
    }

    /// Whether child processes speak SSH.
    pub(crate) fn by_openssh(&self) -> bool {
        match self.server.options.backend {
            SshBackend::OpenSsh => true,
            SshBackend::Native => false,
            SshBackend::Auto => self.only_openssh.is_some(),
        }
    }

    /// Whether it is one of the keys that OpenSSH looks for when none is named.
    pub(crate) fn is_looked_for(&self, key: &Path) -> bool {
        let of_home = self.home.as_ref().and_then(|home| key.strip_prefix(home).ok()?.strip_prefix(".ssh").ok());
        self.server.options.key.is_none()
            && of_home.is_some_and(|name| LOOKED_FOR.iter().any(|known| name == Path::new(known)))
    }

    /// A proxy command with its tokens.
    pub(crate) fn expanded(&self, command: &str) -> String {
        let path = expand(command, &self.settings, &self.server.host, self.home.as_deref(), &self.local_user);
        path.to_string_lossy().into_owned()
    }
}

/// What in files only OpenSSH can do.
fn only_openssh(identities: &[PathBuf], revoked: &[PathBuf]) -> Option<&'static str> {
    if super::keys::are_in_hardware(identities) {
        return Some("a key in hardware");
    }
    let is_binary = revoked.iter().any(|path| super::host_keys::is_binary_list(path));
    is_binary.then_some("a binary list of RevokedHostKeys")
}

/// The arguments by which `ssh` finds the same settings.
pub(crate) fn arguments(server: &SshServer) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(config) = &server.options.config {
        words.extend(["-F".to_owned(), config.display().to_string()]);
    }
    if let Some(user) = &server.user {
        words.extend(["-l".to_owned(), user.clone()]);
    }
    if let Some(port) = server.port {
        words.extend(["-p".to_owned(), port.to_string()]);
    }
    words
}

/// The home directory that `ssh` takes `~` for: that of the user, whatever `$HOME` is.
fn home_of(printed: &str) -> Option<String> {
    let home = printed.lines().find_map(|line| line.strip_prefix("controlpath "))?.strip_suffix(&HOME[1..])?;
    home.starts_with('/').then(|| home.to_owned())
}

/// What `ssh -G` prints; `None` when there is no such program.
async fn printed(server: &SshServer) -> Result<Option<String>, String> {
    let mut command = Command::new("ssh");
    withhold_secrets(&mut command);
    command.arg("-G").args(arguments(server)).args(["-o", &format!("ControlPath={HOME}"), "--", &server.host]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let running = match command.spawn() {
        Ok(child) => child.wait_with_output(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("`ssh -G` cannot be run: {}", crate::error::words(&error))),
    };
    let output = tokio::time::timeout(DEADLINE, running).await;
    let output = output.map_err(|_| format!("`ssh -G` took longer than {DEADLINE:?}"))?;
    let output = output.map_err(|error| crate::error::words(&error))?;
    if !output.status.success() {
        return Err(complaint(&output.stderr).unwrap_or_else(|| format!("`ssh -G` ended with {}", output.status)));
    }
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// What `ssh` has against its files: the line that it names, which is not its last word.
fn complaint(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let named = text.lines().find(|line| line.contains(" line "));
    named.map(|line| super::words::printable(line.trim())).or_else(|| last_line(said))
}

/// The last words of a program.
pub(crate) fn last_line(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(super::words::printable(line))
}

fn local_user() -> String {
    let found = ["USER", "LOGNAME"].into_iter().find_map(|variable| std::env::var(variable).ok());
    found.filter(|user| !user.is_empty()).unwrap_or_else(|| "root".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_ssh_complains_about_is_told() {
        let said = b"/h/.ssh/config: line 2: Bad configuration option: fancy\r\n/h/.ssh/config: terminating, 1 bad configuration options\r\n";
        assert_eq!(complaint(said).unwrap(), "/h/.ssh/config: line 2: Bad configuration option: fancy");
        let said = b"/h/.ssh/config line 3: no argument after keyword \"port\"\n/h/.ssh/config: terminating, 1 bad\n";
        assert_eq!(complaint(said).unwrap(), "/h/.ssh/config line 3: no argument after keyword \"port\"");
        assert_eq!(
            complaint(b"Bad owner or permissions on /h/.ssh/config\n").unwrap(),
            "Bad owner or permissions on /h/.ssh/config"
        );
    }

    #[tokio::test]
    async fn only_keys_that_nobody_named_may_be_missing_without_a_word() {
        let server = SshServer::parse("me@bastion.example").unwrap();
        let mut known = Known::of(&Scope::root(), &server).await.unwrap();
        known.home = Some("/home/me".to_owned());
        assert!(known.is_looked_for(Path::new("/home/me/.ssh/id_ed25519")));
        assert!(!known.is_looked_for(Path::new("/home/me/.ssh/company")));
        assert!(!known.is_looked_for(Path::new("/keys/id_ed25519")));
        known.server.options.key = Some("/home/me/.ssh/id_rsa".into());
        assert!(!known.is_looked_for(Path::new("/home/me/.ssh/id_rsa")), "it was asked for");
    }
}
