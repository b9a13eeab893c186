//! What keeps a login from being made that can be seen without a word to the server.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use adit_core::ssh::StrictHostKeys;
use adit_core::target::SshServer;
use runtime::Scope;

use super::dial::hop;
use super::error::SshError;
use super::host_keys::HostKeys;
use super::keys::{self, FileKey};
use super::servers::SshServers;
use super::settings::Known;

/// No chain of servers has more.
const HOPS_MAX: usize = 16;

/// What was seen of a server and of those on the way to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshFacts {
    /// Servers of which no host key is known, so that theirs is refused.
    pub without_host_key: Vec<SshServer>,
    /// Private keys that are not used as others may read them, with their modes.
    pub open_keys: Vec<(PathBuf, u32)>,
}

impl SshServers {
    /// Looks at settings, known hosts and keys; no server is asked.
    ///
    /// # Errors
    /// [`SshError`] when the settings cannot be read.
    pub async fn look(self: &Arc<Self>, scope: &Scope, server: &SshServer) -> Result<SshFacts, SshError> {
        let (mut facts, mut left) = (SshFacts::default(), VecDeque::from([server.clone()]));
        let mut seen: Vec<SshServer> = Vec::new();
        while let Some(server) = left.pop_front() {
            if seen.contains(&server) || seen.len() == HOPS_MAX {
                continue;
            }
            seen.push(server.clone());
            let known = Known::of(scope, &server).await?;
            let host_keys = HostKeys::of(scope, &known).await?;
            let writes_down = matches!(known.settings.strict, StrictHostKeys::AcceptNew | StrictHostKeys::No);
            if !writes_down && !host_keys.has_any() {
                facts.without_host_key.push(server);
            }
            let identities = known.identities.clone();
            let read = move || {
                let open = identities.into_iter().filter_map(|path| match keys::read(&path) {
                    FileKey::Open(mode) => Some((path, mode)),
                    _ => None,
                });
                open.collect::<Vec<_>>()
            };
            let open = scope.spawn_blocking("read ssh keys", read).await.unwrap_or_default();
            facts.open_keys.extend(open);
            // A proxy command goes before, as in a login.
            if let Some((last, before)) = known.settings.jumps.split_last()
                && known.settings.proxy_command.is_none()
            {
                left.push_back(hop(last, before, &known.server));
            }
        }
        Ok(facts)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn an_unknown_host_key_and_an_open_private_key_are_seen_of_each_hop() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| dir.path().join(name);
        let mut command = std::process::Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-C", "me", "-f"]).arg(of("id"));
        assert!(command.status().unwrap().success());
        let public = fs::read_to_string(of("id.pub")).unwrap();
        let key: Vec<&str> = public.split(' ').take(2).collect();
        fs::write(of("known"), format!("inner.example {}\n", key.join(" "))).unwrap();
        let text = format!(
            "Host *\n  UserKnownHostsFile {known}\n  GlobalKnownHostsFile none\n  IdentityFile {id}\n  IdentitiesOnly yes\n\
             Host inner.example\n  ProxyJump hop.example\nHost new.example\n  StrictHostKeyChecking accept-new\n",
            known = of("known").display(),
            id = of("id").display(),
        );
        fs::write(of("config"), text).unwrap();
        let look = async |host: &str| {
            let mut server = SshServer::parse(host).unwrap();
            server.options.config = Some(of("config"));
            SshServers::new(None).look(&Scope::root(), &server).await.unwrap()
        };
        let hosts = |facts: &SshFacts| facts.without_host_key.iter().map(|one| one.host.clone()).collect::<Vec<_>>();
        let inner = look("inner.example").await;
        assert_eq!((hosts(&inner), inner.open_keys), (vec!["hop.example".to_owned()], vec![]));
        assert_eq!(hosts(&look("new.example").await), Vec::<String>::new(), "it would be written down");
        fs::set_permissions(of("id"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(look("other.example").await.open_keys, [(of("id"), 0o644)]);
    }
}
