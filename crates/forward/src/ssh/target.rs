//! A target behind an SSH server, for the driver of forwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use adit_core::target::SshTarget;
use runtime::Scope;
use runtime::connect::{ConnectError, Io};
use tokio::sync::watch;

use super::bastion::{Bastion, OpenedVia};
use super::servers::SshServers;
use crate::error::{ForwardError, chain};
use crate::k8s::target::KubeStatus;
use adit_core::diagnose::Diagnose as _;

/// A target behind a server that is shared with others.
pub(crate) struct SshSession {
    bastion: Arc<Bastion>,
    scope: Scope,
    host: String,
    port: u16,
    text: String,
    patience: Duration,
    status: watch::Sender<KubeStatus>,
    /// It was ready once.
    worked: AtomicBool,
}

impl SshSession {
    pub(crate) fn start(scope: &Scope, servers: &Arc<SshServers>, target: &SshTarget, patience: Duration) -> Self {
        let status = KubeStatus { port: Some(target.port.get()), ..KubeStatus::default() };
        Self {
            bastion: servers.bastion(&target.server),
            scope: scope.clone(),
            host: target.host.bare(),
            port: target.port.get(),
            text: target.to_string(),
            patience,
            status: watch::Sender::new(status),
            worked: AtomicBool::new(false),
        }
    }

    pub(crate) fn status(&self) -> watch::Receiver<KubeStatus> {
        self.status.subscribe()
    }

    /// Waits until the server is logged in to. A server that has worked and cannot be reached is no failure of this
    /// forward: it is waited for, at the server's pace, which is that of all its forwards.
    pub(crate) async fn ready(&self) -> Result<(), ForwardError> {
        while let Err(error) = self.bastion.way(&self.scope).await {
            let is_waited_for = error.is_away() && self.worked.load(Ordering::Relaxed);
            // What was waited for before is over, if this is something else.
            self.status.send_modify(|status| {
                status.waiting = is_waited_for.then(|| chain(&error).into());
                status.hint = error.hint();
            });
            if !is_waited_for {
                return Err(ForwardError::Ssh(error));
            }
        }
        self.worked.store(true, Ordering::Relaxed);
        let transport = self.bastion.transport();
        self.status.send_modify(|status| {
            status.transport = Some(transport);
            (status.waiting, status.hint) = (None, None);
        });
        Ok(())
    }

    pub(crate) async fn lost(&self) -> String {
        self.bastion.lost().await
    }

    pub(crate) async fn open(&self) -> Result<Io, ConnectError> {
        match self.bastion.open(&self.scope, &self.host, self.port, self.patience).await {
            Ok(io) => Ok(io),
            Err(OpenedVia::Stream(error)) => Err(error.towards(self.text.clone())),
            Err(OpenedVia::Ssh(error)) => {
                Err(ConnectError::Unavailable { target: self.text.clone(), reason: chain(&error), hint: error.hint() })
            }
        }
    }

    /// The server, as `adit ssh test` takes it.
    pub(crate) fn server(&self) -> String {
        self.bastion.server.to_string()
    }

    /// Since when the server cannot be reached.
    pub(crate) fn down_since(&self) -> Option<Instant> {
        self.bastion.down_since()
    }

    /// Until when no login is tried, as one was refused or a key is not believed.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        self.bastion.held_until()
    }

    /// Nothing comes back: perhaps the connection is dead. Others use it, too.
    pub(crate) fn renew(&self) {
        self.bastion.renew(&self.scope);
    }

    /// Somebody finds no place: perhaps the others hold theirs in vain.
    pub(crate) fn doubt(&self) {
        self.bastion.doubt(&self.scope);
    }

    /// Waits until what a person has to see to is over, or may be: a key that is not believed, a login that is refused.
    pub(crate) async fn seen_to(&self) {
        self.bastion.seen_to().await;
    }

    pub(crate) fn wake(&self) {
        self.bastion.wake();
    }
}
