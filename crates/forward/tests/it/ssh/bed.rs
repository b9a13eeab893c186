//! An `sshd`, a service behind it, and forwards to that.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adit_core::target::{SshOptions, SshTarget, Target};
use forward::{Clusters, Forward, ForwardOptions, KubeSettings, SshAsk, SshServers};
use runtime::Scope;
use testkit::origin::TcpOrigin;
use testkit::sshd::Sshd;

use crate::support::patience;

pub(super) struct SshBed {
    pub(super) sshd: Sshd,
    pub(super) origin: TcpOrigin,
    pub(super) scope: Scope,
    pub(super) clusters: Arc<Clusters>,
}

impl SshBed {
    pub(super) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With lines of `sshd_config`.
    pub(super) async fn with(lines: &[&str]) -> Self {
        Self::asking(lines, None).await
    }

    pub(super) async fn asking(lines: &[&str], ask: Option<SshAsk>) -> Self {
        Self {
            sshd: Sshd::start(lines).await,
            origin: TcpOrigin::start().await.unwrap(),
            scope: Scope::root(),
            clusters: Clusters::with_ssh(KubeSettings::default(), SshServers::new(ask)),
        }
    }

    /// Options that know the server's key, have a key that it takes, and read no file of whoever runs the tests.
    pub(super) fn options(&self) -> SshOptions {
        SshOptions {
            key: Some(self.sshd.key()),
            known_hosts: Some(self.sshd.known_hosts()),
            config: Some(self.config("")),
            ..SshOptions::default()
        }
    }

    /// An `ssh_config` with these lines.
    pub(super) fn config(&self, lines: &str) -> PathBuf {
        let path = self.sshd.path(&format!("ssh_config-{}", lines.len()));
        std::fs::write(&path, format!("{lines}\nHost *\n  IdentityAgent none\n")).unwrap();
        path
    }

    /// A file with a secret that nobody else may read.
    pub(super) fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.sshd.path(name);
        std::fs::write(&path, format!("{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    pub(super) fn target(&self, options: SshOptions) -> Target {
        self.target_to(options, &self.origin.addr().to_string())
    }

    pub(super) fn target_to(&self, options: SshOptions, destination: &str) -> Target {
        let url = format!("ssh://{}@{}/{destination}", self.sshd.user(), self.sshd.addr());
        let target = SshTarget::parse(&url).unwrap();
        Target::Ssh(SshTarget { server: target.server.with(options), ..target })
    }

    /// A forward to the service.
    pub(super) fn forward(&self) -> Forward {
        self.forward_with(self.options())
    }

    pub(super) fn forward_with(&self, options: SshOptions) -> Forward {
        self.forward_to(self.target(options))
    }

    pub(super) fn forward_to(&self, target: Target) -> Forward {
        self.forward_of(target, patience(Duration::from_secs(10)))
    }

    pub(super) fn forward_of(&self, target: Target, options: ForwardOptions) -> Forward {
        Forward::new(&self.scope, &self.clusters, "db", target, options)
    }
}

impl Drop for SshBed {
    fn drop(&mut self) {
        self.scope.abort();
    }
}
