//! `ssh_config` as OpenSSH reads it, for machines without that program.
//!
//! The first value of a keyword wins, but for keys and certificates, which are collected. What only a program or a second
//! reading can decide is refused, where it matters.

mod words;

use crate::diagnose::{Diagnose, Fault};
use crate::glob::GlobPattern;

use super::settings::{NONE, SettingsError, SshSettings, jumps};
use words::{Line, split};

/// Files within files, as OpenSSH bounds them.
const DEPTH_MAX: usize = 16;

/// For whom a configuration is read.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The host as it was asked for.
    pub host: &'a str,
    /// Who logs in, when that was said.
    pub user: Option<&'a str>,
    /// The port, when that was said.
    pub port: Option<u16>,
    /// Who runs this.
    pub local_user: &'a str,
}

/// A file of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// Where it is, for messages.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// Finds the files that an `Include` means; why they cannot be read.
pub type Include<'a> = &'a mut dyn FnMut(&str) -> Result<Vec<ConfigFile>, String>;

/// Why a configuration is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientConfigError {
    /// A line cannot be read.
    #[error("{file}:{line}: {reason}")]
    Line {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// OpenSSH itself would be needed.
    #[error("{file}:{line}: `{what}` needs the program `ssh`, which is not found on PATH")]
    OnlyOpenSsh {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What the line asks for.
        what: String,
    },
    /// A value of the whole cannot be used.
    #[error(transparent)]
    Value(SettingsError),
}

impl Diagnose for ClientConfigError {
    fn fault(&self) -> Fault {
        Fault::Config
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Line { file, line, .. } => format!("correct line {line} of {file}"),
            Self::OnlyOpenSsh { .. } => "install OpenSSH's client, or take the line out".to_owned(),
            Self::Value(_) => "correct it in ~/.ssh/config".to_owned(),
        })
    }
}

/// What was read until now.
#[derive(Debug)]
pub struct ClientConfig<'a> {
    asked: Asked<'a>,
    /// Keywords and their values, in the order they came.
    found: Vec<(&'static str, Vec<String>)>,
    /// Where it is read.
    place: (String, usize),
    depth: usize,
}

/// How a keyword's values are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One word; the first one wins.
    One,
    /// Some words; the first line wins.
    Several,
    /// One word; all are kept.
    Each,
    /// The rest of the line as it is; the first one wins.
    Rest,
}

/// The keywords that matter here, with the names by which [`SshSettings`] knows them.
const KEYWORDS: [(&str, &str, Kind); 28] = [
    ("hostname", "hostname", Kind::One),
    ("user", "user", Kind::One),
    ("port", "port", Kind::One),
    ("hostkeyalias", "hostkeyalias", Kind::One),
    ("identityfile", "identityfile", Kind::Each),
    ("certificatefile", "certificatefile", Kind::Each),
    ("identitiesonly", "identitiesonly", Kind::One),
    ("identityagent", "identityagent", Kind::One),
    ("pkcs11provider", "pkcs11provider", Kind::One),
    ("smartcarddevice", "pkcs11provider", Kind::One),
    ("proxyjump", "proxyjump", Kind::Rest),
    ("proxycommand", "proxycommand", Kind::Rest),
    ("userknownhostsfile", "userknownhostsfile", Kind::Several),
    ("globalknownhostsfile", "globalknownhostsfile", Kind::Several),
    ("revokedhostkeys", "revokedhostkeys", Kind::One),
    ("stricthostkeychecking", "stricthostkeychecking", Kind::One),
    ("hashknownhosts", "hashknownhosts", Kind::One),
    ("serveraliveinterval", "serveraliveinterval", Kind::One),
    ("serveralivecountmax", "serveralivecountmax", Kind::One),
    ("connecttimeout", "connecttimeout", Kind::One),
    ("pubkeyauthentication", "pubkeyauthentication", Kind::One),
    ("dsaauthentication", "pubkeyauthentication", Kind::One),
    ("passwordauthentication", "passwordauthentication", Kind::One),
    ("kbdinteractiveauthentication", "kbdinteractiveauthentication", Kind::One),
    ("challengeresponseauthentication", "kbdinteractiveauthentication", Kind::One),
    ("skeyauthentication", "kbdinteractiveauthentication", Kind::One),
    ("tisauthentication", "kbdinteractiveauthentication", Kind::One),
    ("preferredauthentications", "preferredauthentications", Kind::One),
];

impl<'a> ClientConfig<'a> {
    /// Nothing is read yet; what was said to the command comes first.
    #[must_use]
    pub fn new(asked: Asked<'a>) -> Self {
        let mut found = Vec::new();
        if let Some(user) = asked.user {
            found.push(("user", vec![user.to_owned()]));
        }
        if let Some(port) = asked.port {
            found.push(("port", vec![port.to_string()]));
        }
        Self { asked, found, place: (String::new(), 0), depth: 0 }
    }

    /// Reads one more file: that of the user first, then that of the machine.
    ///
    /// # Errors
    /// What cannot be read, or not without OpenSSH.
    pub fn read(&mut self, file: &ConfigFile, include: Include<'_>) -> Result<(), ClientConfigError> {
        self.read_in(file, true, include)
    }

    /// What holds for the host.
    ///
    /// # Errors
    /// A value that is none.
    pub fn settings(&self) -> Result<SshSettings, ClientConfigError> {
        let user = self.first("user").unwrap_or(self.asked.local_user);
        let mut settings = SshSettings::new(user, &self.host_name().to_ascii_lowercase(), 22);
        for (collected, list) in
            [("identityfile", &mut settings.identities), ("certificatefile", &mut settings.certificates)]
        {
            if self.first(collected).is_some() {
                list.clear();
            }
        }
        for (key, values) in &self.found {
            let several = || values.iter().filter(|value| !value.eq_ignore_ascii_case(NONE)).cloned().collect();
            let value = values.first().map_or("", String::as_str);
            match *key {
                "hostname" | "user" | "proxyjump" => {}
                "userknownhostsfile" => settings.user_known_hosts = several(),
                "globalknownhostsfile" => settings.global_known_hosts = several(),
                // The same file may be named twice.
                "identityfile" if settings.identities.iter().any(|known| known == value) => {}
                "certificatefile" if settings.certificates.iter().any(|known| known == value) => {}
                "revokedhostkeys" => settings.revoked.extend(several()),
                "serveraliveinterval" | "connecttimeout" if value != NONE => {
                    let seconds = words::seconds(value).map(|seconds| seconds.to_string());
                    let set = seconds.ok_or_else(|| "it is no time".to_owned());
                    let set = set.and_then(|seconds| settings.set(key, &seconds));
                    set.map_err(|reason| self.value(key, value, reason))?;
                }
                _ => settings.set(key, value).map_err(|reason| self.value(key, value, reason))?,
            }
        }
        settings.host_key_alias = settings.host_key_alias.map(|alias| alias.to_ascii_lowercase());
        if let Some(jump) = self.first("proxyjump").filter(|jump| !jump.eq_ignore_ascii_case(NONE)) {
            let expanded = super::settings::expand_text(jump, &settings, self.asked.host, None, "");
            let hops = jumps(&expanded).map_err(|error| self.value("proxyjump", jump, error.to_string()))?;
            settings.jumps = hops;
        }
        Ok(settings)
    }

    #[expect(clippy::unused_self, reason = "reads like the other faults")]
    fn value(&self, key: &str, value: &str, reason: String) -> ClientConfigError {
        ClientConfigError::Value(SettingsError { key: key.to_owned(), value: value.to_owned(), reason })
    }

    fn first(&self, key: &str) -> Option<&str> {
        let (_, values) = self.found.iter().find(|(known, _)| *known == key)?;
        values.first().map(String::as_str)
    }

    /// The host that is connected to, as far as is known.
    fn host_name(&self) -> String {
        let Some(written) = self.first("hostname") else { return self.asked.host.to_owned() };
        let plain = SshSettings::new("", self.asked.host, 22);
        super::settings::expand_text(written, &plain, self.asked.host, None, "")
    }

    fn read_in(&mut self, file: &ConfigFile, begin: bool, include: Include<'_>) -> Result<(), ClientConfigError> {
        if self.depth > DEPTH_MAX {
            return Err(self.fault(format!("more than {DEPTH_MAX} files within each other")));
        }
        let outer = std::mem::take(&mut self.place);
        self.depth += 1;
        // Within a block that does not apply no line of an included file does, whatever it says.
        let mut applies = begin;
        for (at, text) in file.text.lines().enumerate() {
            self.place = (file.path.clone(), at + 1);
            let Some(line) = split(text).map_err(|reason| self.fault(reason))? else { continue };
            match line.keyword.as_str() {
                "host" => applies = begin && self.host_applies(&line)?,
                "match" => applies = begin && self.match_applies(&line)?,
                "include" => {
                    for pattern in &self.some(&line)? {
                        for file in include(pattern).map_err(|reason| self.fault(reason))? {
                            self.read_in(&file, applies, include)?;
                        }
                    }
                }
                _ if applies => self.take(&line)?,
                _ => {}
            }
        }
        self.depth -= 1;
        self.place = outer;
        Ok(())
    }

    fn take(&mut self, line: &Line) -> Result<(), ClientConfigError> {
        let keyword = line.keyword.as_str();
        let flag = line.words.first().map(|flag| flag.to_ascii_lowercase()).unwrap_or_default();
        let wants_second_reading = keyword == "canonicalizehostname" && !matches!(flag.as_str(), "" | "no" | "false");
        if wants_second_reading || (keyword == "proxyusefdpass" && matches!(flag.as_str(), "yes" | "true")) {
            return Err(self.only_openssh(line));
        }
        let Some((_, name, kind)) = KEYWORDS.iter().find(|(written, ..)| *written == keyword) else { return Ok(()) };
        let values = match kind {
            Kind::Rest if line.rest.is_empty() => return Err(self.fault(format!("`{keyword}` has no value"))),
            Kind::Rest => vec![line.rest.clone()],
            Kind::Several => self.some(line)?,
            Kind::One | Kind::Each => self.some(line)?.into_iter().take(1).collect(),
        };
        // A jump and a command are ways to the same host: the first one of both wins.
        let is_known = match *name {
            "proxyjump" | "proxycommand" => self.first("proxyjump").or(self.first("proxycommand")).is_some(),
            name => *kind != Kind::Each && self.first(name).is_some(),
        };
        if !is_known {
            self.found.push((name, values));
        }
        Ok(())
    }

    fn host_applies(&self, line: &Line) -> Result<bool, ClientConfigError> {
        let mut applies = false;
        for pattern in &self.some(line)? {
            let (negated, pattern) = match pattern.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, pattern.as_str()),
            };
            if fits(pattern, self.asked.host) {
                if negated {
                    return Ok(false);
                }
                applies = true;
            }
        }
        Ok(applies)
    }

    fn match_applies(&self, line: &Line) -> Result<bool, ClientConfigError> {
        let words = self.some(line)?;
        if words.len() == 1 && words[0].eq_ignore_ascii_case("all") {
            return Ok(true);
        }
        let mut applies = true;
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (negated, word) = match word.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, word.as_str()),
            };
            // `host=NAME` in one word, or with spaces somewhere in it.
            let (criterion, beside) = word.split_once('=').unwrap_or((word, ""));
            let criterion = criterion.to_ascii_lowercase();
            if matches!(criterion.as_str(), "canonical" | "final") {
                return Err(self.only_openssh(line));
            }
            let mut value = Some(beside).filter(|value| !value.is_empty());
            while value.is_none() {
                let Some(next) = words.next() else {
                    return Err(self.fault(format!("`Match {criterion}` has no value, or stands beside others")));
                };
                value = Some(next.strip_prefix('=').unwrap_or(next)).filter(|value| !value.is_empty());
            }
            let wanted = value.unwrap_or_default();
            let fits = match criterion.as_str() {
                "host" => host_fits(wanted, &self.host_name()),
                "originalhost" => host_fits(wanted, self.asked.host),
                "user" => list_fits(wanted, self.first("user").unwrap_or(self.asked.local_user)),
                "localuser" => list_fits(wanted, self.asked.local_user),
                // OpenSSH does not ask either when the rest does not fit.
                _ if !applies => continue,
                _ => return Err(self.only_openssh(line)),
            };
            applies &= fits != negated;
        }
        Ok(applies)
    }

    /// The words of a line, of which there have to be some.
    fn some(&self, line: &Line) -> Result<Vec<String>, ClientConfigError> {
        if line.words.iter().all(String::is_empty) {
            return Err(self.fault(format!("`{}` has no value", line.keyword)));
        }
        Ok(line.words.clone())
    }

    fn fault(&self, reason: String) -> ClientConfigError {
        let (file, line) = self.place.clone();
        ClientConfigError::Line { file, line, reason }
    }

    fn only_openssh(&self, line: &Line) -> ClientConfigError {
        let (file, number) = self.place.clone();
        let what = format!("{} {}", line.written, line.words.join(" "));
        ClientConfigError::OnlyOpenSsh { file, line: number, what }
    }
}

fn fits(pattern: &str, text: &str) -> bool {
    GlobPattern::parse(pattern).is_ok_and(|pattern| pattern.matches(text))
}

/// Names of hosts have no large letters, unlike the names of a `Host` line.
fn host_fits(patterns: &str, host: &str) -> bool {
    list_fits(&patterns.to_ascii_lowercase(), &host.to_ascii_lowercase())
}

/// Patterns with commas between them: one fits, and none with `!` does.
fn list_fits(patterns: &str, text: &str) -> bool {
    let mut found = false;
    for pattern in patterns.split(',') {
        match pattern.strip_prefix('!') {
            Some(rest) if fits(rest, text) => return false,
            Some(_) => {}
            None => found |= fits(pattern, text),
        }
    }
    found
}

#[cfg(test)]
mod tests;
