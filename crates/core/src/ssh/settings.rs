//! How a server is reached, as `ssh -G HOST` prints it.

use std::path::PathBuf;
use std::time::Duration;

use crate::diagnose::{Diagnose, Fault};
use crate::target::{SshServer, SshTargetError};

/// From one keep-alive to the next, when nothing is configured: OpenSSH sends none.
const ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How many may be unanswered.
const ALIVE_COUNT: usize = 3;
/// What is none of a value's.
pub(super) const NONE: &str = "none";

/// How host keys are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrictHostKeys {
    /// An unknown key is refused.
    Yes,
    /// An unknown key would be asked about; nobody is there to answer, so it is refused with the command to accept it.
    Ask,
    /// An unknown key is written down; a changed one is refused.
    AcceptNew,
    /// An unknown key is written down, and a changed one is let pass as well.
    No,
}

/// How a server is reached and logged in to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshSettings {
    /// Who logs in.
    pub user: String,
    /// The host that is connected to.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The name in `known_hosts`, when it is not the host's.
    pub host_key_alias: Option<String>,
    /// Private keys to try, as they are written: with `~` and `%` tokens.
    pub identities: Vec<String>,
    /// Certificates to try, beside those next to the keys.
    pub certificates: Vec<String>,
    /// Keys of the agent that are none of `identities` are not tried.
    pub identities_only: bool,
    /// The agent's socket, when it is not that of the environment; `none` is no agent.
    pub agent: Option<String>,
    /// A key behind a PKCS#11 module.
    pub pkcs11: Option<String>,
    /// Servers on the way, the first one first.
    pub jumps: Vec<SshServer>,
    /// A command whose input and output are the connection.
    pub proxy_command: Option<String>,
    /// The user's host keys; the first file is written to.
    pub user_known_hosts: Vec<String>,
    /// The machine's host keys.
    pub global_known_hosts: Vec<String>,
    /// Files with keys that no server may show.
    pub revoked: Vec<String>,
    /// How host keys are checked.
    pub strict: StrictHostKeys,
    /// Whether names are hashed when they are written down.
    pub hash_known_hosts: bool,
    /// From one keep-alive to the next.
    pub alive_interval: Duration,
    /// How many may be unanswered.
    pub alive_count: usize,
    /// How long connecting and logging in may take.
    pub connect_timeout: Option<Duration>,
    /// Whether keys are tried.
    pub publickey: bool,
    /// Whether a password is tried.
    pub password: bool,
    /// Whether questions are answered.
    pub keyboard_interactive: bool,
    /// The methods in the order they are tried, when that is configured.
    pub preferred: Vec<String>,
}

impl SshSettings {
    /// What OpenSSH does for a host of which nothing is configured.
    #[must_use]
    pub fn new(user: &str, host: &str, port: u16) -> Self {
        Self {
            user: user.to_owned(),
            host: host.to_owned(),
            port,
            host_key_alias: None,
            identities: ["~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519"].map(str::to_owned).to_vec(),
            certificates: Vec::new(),
            identities_only: false,
            agent: None,
            pkcs11: None,
            jumps: Vec::new(),
            proxy_command: None,
            user_known_hosts: vec!["~/.ssh/known_hosts".to_owned(), "~/.ssh/known_hosts2".to_owned()],
            global_known_hosts: vec!["/etc/ssh/ssh_known_hosts".to_owned(), "/etc/ssh/ssh_known_hosts2".to_owned()],
            revoked: Vec::new(),
            strict: StrictHostKeys::Ask,
            hash_known_hosts: false,
            alive_interval: ALIVE_INTERVAL,
            alive_count: ALIVE_COUNT,
            connect_timeout: None,
            publickey: true,
            password: true,
            keyboard_interactive: true,
            preferred: Vec::new(),
        }
    }

    /// Reads what `ssh -G` printed.
    ///
    /// # Errors
    /// When a value that we need is none.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let mut settings = Self::new("", "", 22);
        let (mut alias, mut jump) = ("", "");
        settings.identities.clear();
        settings.user_known_hosts.clear();
        settings.global_known_hosts.clear();
        for line in text.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            let value = value.trim();
            match key {
                "host" => alias = value,
                "proxyjump" => jump = value,
                _ => settings.set(key, value).map_err(|reason| fault(key, value, reason))?,
            }
        }
        if settings.host.is_empty() || settings.user.is_empty() {
            let key = if settings.host.is_empty() { "hostname" } else { "user" };
            return Err(fault(key, "", "it is missing".to_owned()));
        }
        // Printed as it is written: its tokens are those of the other lines.
        let expanded = expand_text(jump, &settings, alias, None, "");
        settings.jumps = jumps(&expanded).map_err(|error| fault("proxyjump", jump, error.to_string()))?;
        Ok(settings)
    }

    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let is_none = value.eq_ignore_ascii_case(NONE);
        let some = || (!is_none && !value.is_empty()).then(|| value.to_owned());
        let several = || match is_none {
            true => Vec::new(),
            false => value.split_ascii_whitespace().map(str::to_owned).collect(),
        };
        let flag = value.to_ascii_lowercase();
        let is_on = flag == "yes" || flag == "true";
        match key {
            "user" => value.clone_into(&mut self.user),
            "hostname" => value.clone_into(&mut self.host),
            "port" => self.port = value.parse().map_err(|_| "it is no port".to_owned())?,
            "hostkeyalias" => self.host_key_alias = some(),
            "identityfile" => self.identities.extend(some()),
            "certificatefile" => self.certificates.extend(some()),
            "identitiesonly" => self.identities_only = is_on,
            "identityagent" => self.agent = Some(if is_none { NONE } else { value }.to_owned()),
            "pkcs11provider" => self.pkcs11 = some(),
            "proxycommand" => self.proxy_command = some(),
            "userknownhostsfile" => self.user_known_hosts = several(),
            "revokedhostkeys" => self.revoked.extend(several()),
            "globalknownhostsfile" => self.global_known_hosts = several(),
            "stricthostkeychecking" => self.strict = strict(&flag)?,
            "hashknownhosts" => self.hash_known_hosts = is_on,
            "serveraliveinterval" => {
                let interval = seconds(value)?;
                self.alive_interval = if interval.is_zero() { ALIVE_INTERVAL } else { interval };
            }
            "serveralivecountmax" => {
                self.alive_count = value.parse().map_err(|_| "it is no number".to_owned())?;
            }
            "connecttimeout" if value != NONE => self.connect_timeout = Some(seconds(value)?),
            "pubkeyauthentication" => self.publickey = flag != "no" && flag != "false",
            "passwordauthentication" => self.password = is_on,
            "kbdinteractiveauthentication" => self.keyboard_interactive = is_on,
            "preferredauthentications" => self.preferred = value.split(',').map(str::to_owned).collect(),
            _ => {}
        }
        Ok(())
    }

    /// Whether the method may be tried.
    #[must_use]
    pub fn allows(&self, method: &str) -> bool {
        let on = match method {
            "publickey" => self.publickey,
            "password" => self.password,
            "keyboard-interactive" => self.keyboard_interactive,
            _ => false,
        };
        on && (self.preferred.is_empty() || self.preferred.iter().any(|preferred| preferred == method))
    }

    /// The name in `known_hosts`.
    #[must_use]
    pub fn known_name(&self) -> String {
        self.host_key_alias.clone().unwrap_or_else(|| super::host_name(&self.host, self.port))
    }

    /// The name without a port, under which a key serves every port, as with OpenSSH; `None` when that is the name anyway.
    #[must_use]
    pub fn bare_name(&self) -> Option<String> {
        let has_port = self.host_key_alias.is_none() && self.port != 22;
        has_port.then(|| super::host_name(&self.host, 22))
    }

    /// What these settings need that only OpenSSH itself can do.
    #[must_use]
    pub fn only_openssh(&self) -> Option<&'static str> {
        let first_is_gssapi = self.preferred.iter().all(|method| method.starts_with("gssapi"));
        if self.pkcs11.is_some() {
            Some("PKCS11Provider")
        } else if !self.preferred.is_empty() && first_is_gssapi {
            Some("GSSAPI")
        } else {
            None
        }
    }
}

/// A value of `ssh -G` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key} {value}` of the ssh configuration cannot be used: {reason}")]
pub struct SettingsError {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Diagnose for SettingsError {
    fn fault(&self) -> Fault {
        Fault::Config
    }

    fn hint(&self) -> Option<String> {
        Some("see what applies with `ssh -G HOST`".to_owned())
    }
}

/// Resolves `~` and the tokens of a file's name or a command: `%d`, `%h`, `%n`, `%p`, `%r`, `%u`, `%%`.
#[must_use]
pub fn expand(text: &str, settings: &SshSettings, alias: &str, home: Option<&str>, local_user: &str) -> PathBuf {
    PathBuf::from(expand_text(text, settings, alias, home, local_user))
}

/// The same as a text.
#[must_use]
pub(crate) fn expand_text(
    text: &str,
    settings: &SshSettings,
    alias: &str,
    home: Option<&str>,
    local_user: &str,
) -> String {
    let text = match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => format!("{home}/{rest}"),
        _ => text.to_owned(),
    };
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('%') => out.push('%'),
            Some('h') => out.push_str(&settings.host),
            Some('n') => out.push_str(alias),
            Some('p') => out.push_str(&settings.port.to_string()),
            Some('r') => out.push_str(&settings.user),
            Some('u') => out.push_str(local_user),
            Some('d') => out.push_str(home.unwrap_or_default()),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

fn fault(key: &str, value: &str, reason: String) -> SettingsError {
    SettingsError { key: key.to_owned(), value: value.to_owned(), reason }
}

pub(super) fn jumps(value: &str) -> Result<Vec<SshServer>, SshTargetError> {
    if value.eq_ignore_ascii_case(NONE) || value.is_empty() {
        return Ok(Vec::new());
    }
    value.split(',').map(|hop| SshServer::parse(hop.trim().strip_prefix("ssh://").unwrap_or(hop.trim()))).collect()
}

fn strict(value: &str) -> Result<StrictHostKeys, String> {
    match value {
        "yes" | "true" => Ok(StrictHostKeys::Yes),
        "ask" => Ok(StrictHostKeys::Ask),
        "accept-new" => Ok(StrictHostKeys::AcceptNew),
        "no" | "off" | "false" => Ok(StrictHostKeys::No),
        _ => Err("it is none of yes, ask, accept-new and no".to_owned()),
    }
}

fn seconds(value: &str) -> Result<Duration, String> {
    value.parse().map(Duration::from_secs).map_err(|_| "it is no number of seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PRINTED: &str = "\
host bastion
user deploy
hostname bastion.example.com
port 2222
gssapiauthentication yes
identitiesonly yes
stricthostkeychecking accept-new
hashknownhosts yes
serveralivecountmax 2
serveraliveinterval 5
identityfile ~/.ssh/id_ed25519
identityfile /keys/%h-%r
globalknownhostsfile /etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2
userknownhostsfile /home/me/.ssh/known_hosts
revokedhostkeys /etc/ssh/revoked
connecttimeout 7
proxyjump me@first:2200,second
";

    #[test]
    fn what_ssh_prints_is_read() {
        let settings = SshSettings::parse(PRINTED).unwrap();
        assert_eq!(
            (settings.user.as_str(), settings.host.as_str(), settings.port),
            ("deploy", "bastion.example.com", 2222)
        );
        assert_eq!(settings.identities, ["~/.ssh/id_ed25519", "/keys/%h-%r"]);
        assert_eq!(settings.strict, StrictHostKeys::AcceptNew);
        assert_eq!(settings.revoked, ["/etc/ssh/revoked"]);
        assert_eq!((settings.alive_interval, settings.alive_count), (Duration::from_secs(5), 2));
        assert_eq!(settings.connect_timeout, Some(Duration::from_secs(7)));
        assert_eq!(settings.jumps.iter().map(ToString::to_string).collect::<Vec<_>>(), ["me@first:2200", "second"]);
        assert_eq!(settings.known_name(), "[bastion.example.com]:2222");
        assert!(settings.identities_only && settings.hash_known_hosts && settings.only_openssh().is_none());
    }

    #[test]
    fn keep_alives_are_sent_though_openssh_would_send_none() {
        let settings = SshSettings::parse("user a\nhostname b\nserveraliveinterval 0\nconnecttimeout none").unwrap();
        assert_eq!((settings.alive_interval, settings.alive_count), (Duration::from_secs(30), 3));
        assert_eq!(settings.connect_timeout, None);
    }

    #[test]
    fn a_value_that_is_none_is_named() {
        let error = SshSettings::parse("user a\nhostname b\nport x").unwrap_err();
        assert_eq!(error.to_string(), "`port x` of the ssh configuration cannot be used: it is no port");
        assert!(SshSettings::parse("user a\nhostname b\nproxyjump -oX=1").is_err());
        assert!(SshSettings::parse("").is_err());
    }

    #[test]
    fn what_only_openssh_can_do_is_known() {
        let with = |more: &str| SshSettings::parse(&format!("user a\nhostname b\n{more}")).unwrap();
        assert_eq!(with("pkcs11provider /lib/x.so").only_openssh(), Some("PKCS11Provider"));
        assert_eq!(with("preferredauthentications gssapi-with-mic").only_openssh(), Some("GSSAPI"));
        assert_eq!(with("preferredauthentications gssapi-with-mic,publickey").only_openssh(), None);
        assert!(!with("preferredauthentications password").allows("publickey"));
    }

    #[test]
    fn tokens_of_a_jump_are_put_in() {
        let text = "host alias\nproxyjump %r@%n-gate:2%p,%h\nuser me\nhostname h.example\nport 200";
        let settings = SshSettings::parse(text).unwrap();
        assert_eq!(
            settings.jumps.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["me@alias-gate:2200", "h.example"]
        );
    }

    #[test]
    fn none_is_no_file_of_host_keys() {
        let settings =
            SshSettings::parse("user a\nhostname b\nuserknownhostsfile none\nglobalknownhostsfile none").unwrap();
        assert_eq!((settings.user_known_hosts, settings.global_known_hosts), (Vec::new(), Vec::new()));
    }

    #[test]
    fn tokens_and_home_are_put_in() {
        let settings = SshSettings::new("deploy", "h.example", 2222);
        let text = expand_text("~/k/%n-%h-%p-%r-%u-%%-%C", &settings, "alias", Some("/home/me"), "me");
        assert_eq!(text, "/home/me/k/alias-h.example-2222-deploy-me-%-%C");
    }

    proptest! {
        #[test]
        fn no_output_makes_it_panic(text in "((user|hostname|port|proxyjump|connecttimeout) [a-z0-9@:,%-]{0,9}\n){0,6}") {
            let _ = SshSettings::parse(&text);
        }
    }
}
