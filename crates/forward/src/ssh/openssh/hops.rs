//! The servers on the way of the program `ssh`, and what it says of host keys.

use std::path::Path;

use runtime::Scope;

use super::options;
use crate::ssh::dial::hop;
use crate::ssh::error::SshError;
use crate::ssh::host_keys::{accept, word};
use crate::ssh::settings::Known;

/// No chain of servers has more: each is a command within that of the next one, quoted once more.
const HOPS_MAX: usize = 8;

/// The servers on the way, the one that is nearest to the last server first.
pub(crate) struct Hops(Vec<Known>);

impl Hops {
    /// Finds them as our own logins do.
    ///
    /// # Errors
    /// When they lead in a circle, where processes would start processes without an end, or are too many.
    pub(crate) async fn of(scope: &Scope, known: &Known) -> Result<Self, SshError> {
        let (mut hops, mut at): (Vec<Known>, Known) = (Vec::new(), known.clone());
        while let Some((last, before)) = at.settings.jumps.split_last()
            && at.settings.proxy_command.is_none()
        {
            let next = Known::of(scope, &hop(last, before, &at.server)).await?;
            // By their names: behind a server the address of another one may be the same.
            let name = next.server.to_string();
            let is_circle = std::iter::once(known).chain(&hops).any(|one| one.server.to_string() == name);
            if is_circle || hops.len() == HOPS_MAX {
                let names = std::iter::once(known).chain(&hops).chain([&next]).map(|one| one.server.to_string());
                let names = names.collect::<Vec<_>>().join(", ");
                let what = if is_circle { "lead in a circle" } else { "are too many for the program ssh" };
                return Err(SshError::settings(&known.server.to_string(), format!("its jumps {what}: {names}")));
            }
            hops.push(next.clone());
            at = next;
        }
        Ok(Self(hops))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.0.iter()
    }

    /// The command that carries bytes through them. With `-J` the program would take over nothing but the file of settings:
    /// it would look for the keys of these servers elsewhere, and ask on the terminal.
    ///
    /// What they say goes to a file, as a master that is to stay has it thrown away.
    pub(super) fn command(&self, said: &Path) -> Option<String> {
        let way = self.0.iter().rev().fold(None, |way, hop| Some(through(hop, way)))?;
        let said = word(&said.to_string_lossy().replace('%', "%%"));
        // The user's own shell may have other words for it.
        Some(format!("/bin/sh -c {}", word(&format!("exec {way} 2>>{said}"))))
    }

    /// What a line says of a host key that is not accepted.
    pub(super) fn key_refusal(&self, known: &Known, line: &str) -> Option<SshError> {
        let (said, _) = line.split_once(" and you have requested strict checking")?;
        let (said, has_changed) = match said.strip_suffix(" has changed") {
            Some(said) => (said, true),
            None => (said, false),
        };
        let name = said.rsplit(' ').next()?;
        let found = std::iter::once(known).chain(self.iter()).find(|one| one.settings.known_name() == name);
        let server = &found.unwrap_or(known).server;
        let accept = accept(server);
        let (reason, hint) = if has_changed {
            let old = format!("the old line of {} from known_hosts", word(name));
            ("it HAS CHANGED", format!("ask the server's owner; if that was on purpose, delete {old}, then: {accept}"))
        } else {
            let compare = "compare the fingerprint with the one that the server's owner names, then accept it";
            ("it is not known", format!("{compare}: {accept}"))
        };
        Some(SshError::Unaccepted { server: server.to_string(), reason: reason.to_owned(), hint })
    }

    /// Whose refusal of a login it is: a hop that lets nobody in ends the connection of the one behind it.
    pub(super) fn refuses<'a>(&'a self, known: &'a Known, line: &str, said: &str) -> &'a Known {
        let is_of = |hop: &&Known| line.starts_with(&format!("{}@{}: ", hop.settings.user, hop.settings.host));
        let by_hop = said.contains("UNKNOWN port 65535");
        self.iter().find(|hop| by_hop && is_of(hop)).unwrap_or(known)
    }
}

/// A command that reaches `%h` and `%p` through a server.
fn through(hop: &Known, way: Option<String>) -> String {
    let mut words = vec!["ssh".to_owned()];
    words.extend(options(hop));
    words.extend(
        way.map(|way| format!("ProxyCommand={way}"))
            .or_else(|| no_jump(hop))
            .into_iter()
            .flat_map(|way| ["-o".to_owned(), way]),
    );
    // Tokens are those of the one behind it, and nothing else here is one.
    let words: Vec<String> = words.iter().map(|text| word(&text.replace('%', "%%"))).collect();
    format!("{} -W '[%h]:%p' -- {}", words.join(" "), word(&hop.server.host.replace('%', "%%")))
}

/// For a server that is reached directly. `Host *` with a ProxyJump means the hop itself as well, and the program would go there through
/// itself, again and again.
pub(super) fn no_jump(known: &Known) -> Option<String> {
    known.settings.proxy_command.is_none().then(|| "ProxyJump=none".to_owned())
}
