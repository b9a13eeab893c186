//! Whether connections live, and what becomes of those that do not.
//!
//! A keep-alive is patient, as a server may be slow: a minute and a half when nothing is configured. Whoever waits for a stream is not. So
//! a connection that has not opened one for a while is asked by itself, and left when it says nothing. Its streams are ended only when
//! another connection to the same server was made: then it is not the server that is slow. If the silence began with the stream itself
//! that is no proof either: sshd answers nothing while it looks up a name, and each connection has an sshd of its own. Then the streams
//! are left to the keep-alives, and the same host and port is no reason to leave another connection soon after. That holds as long as the
//! server's system acknowledges what is sent, as it does for a server that is busy, and for one that stands still: those two nobody can
//! tell from one another. Where not even that comes it is the way that is dead, and no server is blamed for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use runtime::Scope;

use super::bastion::Bastion;
use super::link::{Link, OpenError};
use super::stream::SshStream;

/// A stream that is not opened within this time makes one wonder about its connection.
const SLOW: Duration = Duration::from_secs(2);
/// A connection that is in the way has shown no life for long enough. This is for one that was only slow.
const LAST_CHANCE: Duration = Duration::from_secs(1);

impl Bastion {
    /// Connections that do not answer are left: what is opened next is opened by another one.
    pub(super) fn ask_for_life(self: &Arc<Self>, scope: &Scope, links: Vec<Arc<Link>>) {
        let (bastion, life, own) = (Arc::clone(self), self.servers.limits().life, scope.clone());
        scope.spawn("ssh sign of life", async move {
            let _proving = Proving { bastion };
            // All at once: every stream that is opened meanwhile waits for this.
            leave_the_silent(&own, links, life, |link| link.retire()).await;
        });
    }

    /// Somebody waits for a place that the streams of others have: whether their connections live is asked, and nobody waits for the answer.
    pub(crate) fn doubt(self: &Arc<Self>, scope: &Scope) {
        let (links, retired) = {
            let mut state = self.state();
            state.clean();
            let is_idle = state.links.is_empty() && state.retired.is_empty();
            if is_idle || std::mem::replace(&mut state.doubted, true) {
                return;
            }
            (state.links.clone(), std::mem::take(&mut state.retired))
        };
        let (bastion, life, own) = (Arc::clone(self), self.servers.limits().life, scope.clone());
        scope.spawn("ssh sign of life", async move {
            let doubting = Doubting { bastion };
            let all = links.iter().chain(&retired).cloned().collect();
            let leave = |link: &Link| {
                link.be_in_the_way();
                link.retire();
            };
            leave_the_silent(&own, all, life, leave).await;
            let mut state = doubting.bastion.state();
            state.clean();
            let (over, rest): (Vec<_>, Vec<_>) =
                retired.into_iter().partition(|link| link.is_in_the_way() && !state.links.is_empty());
            state.retired.extend(rest);
            drop(state);
            over.into_iter().for_each(|link| doubting.bastion.end_if_silent(link));
        });
    }

    /// Opens a stream by a connection; one that shows no life meanwhile is as good as lost.
    pub(super) async fn open_by(&self, link: Arc<Link>, host: &str, port: u16) -> Result<SshStream, OpenError> {
        let life = self.servers.limits().life;
        let silent = async {
            tokio::time::sleep(SLOW).await;
            // One that has just been made is not replaced for that: each would be a login.
            if !self.has_been_there_for(life * 2) || link.is_alive(life).await {
                // It is the target that is slow.
                return std::future::pending().await;
            }
            let is_cut_off = link.is_cut_off().await;
            if !is_cut_off && self.is_blamed(host, port) {
                // It may be the same name again.
                return std::future::pending().await;
            }
            is_cut_off
        };
        // Nothing was carried by it yet, so whoever waits for it need not stay when it is left: the machine slept, or its network changed.
        let left = async {
            link.retired().await;
            tokio::time::sleep(LAST_CHANCE).await;
        };
        tokio::select! {
            biased;
            opened = Arc::clone(&link).open(host.to_owned(), port) => opened,
            () = left => Err(OpenError::Lost),
            is_cut_off = silent => {
                tracing::debug!(server = %self.server, is_cut_off, "an ssh connection shows no life, and is left");
                if !is_cut_off {
                    self.blame(host, port);
                    link.be_busy();
                }
                link.retire();
                self.tell();
                Err(OpenError::Lost)
            }
        }
    }

    /// Whether a connection was left a short time ago that was silent when this was asked for.
    fn is_blamed(&self, host: &str, port: u16) -> bool {
        let renew = self.servers.limits().renew;
        let mut state = self.state();
        state.blamed.retain(|(_, _, since)| since.elapsed() < renew);
        state.blamed.iter().any(|(name, number, _)| name == host && *number == port)
    }

    fn blame(&self, host: &str, port: u16) {
        self.state().blamed.push((host.to_owned(), port, Instant::now()));
    }

    /// There is another connection to the server: one that was left and shows no life is dead, and whoever waits for it is told.
    pub(super) fn end_if_silent(&self, link: Arc<Link>) {
        let (scope, server, limits) = (link.scope().clone(), self.server.clone(), self.servers.limits());
        if link.may_be_busy() && !link.is_in_the_way() {
            return;
        }
        let patience = if link.is_in_the_way() { LAST_CHANCE.min(limits.life) } else { limits.dead };
        scope.clone().spawn("ssh sign of life", async move {
            let asking = async {
                if !link.is_alive(patience).await {
                    tracing::info!(%server, streams = link.streams(), "an old ssh connection shows no life, and is ended");
                    link.give_up();
                }
            };
            tokio::select! {
                biased;
                () = scope.drained() => {}
                () = asking => {}
            }
        });
    }
}

async fn leave_the_silent(scope: &Scope, links: Vec<Arc<Link>>, life: Duration, leave: impl Fn(&Link)) {
    let asking = links.iter().map(async |link| {
        if !link.is_alive(life).await {
            leave(link);
        }
    });
    tokio::select! {
        biased;
        // At the end nobody opens another one.
        () = scope.drained() => {}
        _ = join_all(asking) => {}
    }
}

/// Connections are asked for a sign of life; also when its task is dropped, those who wait are told.
struct Proving {
    bastion: Arc<Bastion>,
}

impl Drop for Proving {
    fn drop(&mut self) {
        self.bastion.state().proving = false;
        self.bastion.tell();
    }
}

/// The same, when nobody waits for it.
struct Doubting {
    bastion: Arc<Bastion>,
}

impl Drop for Doubting {
    fn drop(&mut self) {
        self.bastion.state().doubted = false;
        self.bastion.tell();
    }
}
