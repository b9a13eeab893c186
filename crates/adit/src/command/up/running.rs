//! What runs, and how the next version of the file takes its place.

use std::sync::Arc;

use ::forward::{Clusters, ForwardReport, KubeSettings};
use adit_core::config::diff::{ListDiff, SectionDiff};
use adit_core::config::{AgentFile, GatewayConfig, GatewayTls};
use adit_core::forward::ForwardState;
use adit_core::target::Target;
use gateway::entrances::{EntranceError, Entrances};
use gateway::rows::Row;
use runtime::scope::Scope;

use super::publish::{self, Chosen, Published};
use super::pulse::News;
use super::source::Read;
use super::view::View;
use crate::command::{files, trust};
use crate::report::{Failure, chain, failure};

/// Everything a file asks for, at work.
pub(super) struct Running {
    scope: Scope,
    file: AgentFile,
    clusters: Arc<Clusters>,
    kubeconfigs: KubeSeen,
    entrances: Entrances,
    published: Option<Published>,
    /// Numbers of published ports that another process had.
    chosen: Option<Arc<Chosen>>,
    /// Whether TLS ends here with certificates that have to be trusted, as whoever runs this was told; nothing yet.
    vouched: Option<bool>,
    view: Arc<View>,
    /// What was to be put in force last was refused for an address that could not be had.
    wants_address: bool,
}

/// What kubeconfig files said: another text is another cluster as far as we know.
type KubeSeen = Vec<(std::path::PathBuf, Option<Vec<u8>>)>;

/// How it is right now.
pub(super) struct Snapshot {
    pub(super) rows: Vec<Row>,
    pub(super) gateway: Vec<std::net::SocketAddr>,
    /// Whether it takes `https://` for all names.
    pub(super) secure: bool,
    /// Those of all that other machines can reach.
    pub(super) exposed: Vec<(String, std::net::SocketAddr)>,
    pub(super) dynamic: Option<String>,
    pub(super) published: Vec<publish::TunnelRow>,
}

impl Snapshot {
    /// What browsers are best given for names of the gateway.
    pub(super) const fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}

/// The kubeconfig, for whoever wonders which it is.
pub(super) struct KubeFound {
    pub(super) files: String,
    pub(super) contexts: Vec<String>,
    pub(super) problem: Option<String>,
}

/// What a reload has changed, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) added: Vec<String>,
    pub(super) changed: Vec<String>,
    pub(super) removed: Vec<String>,
    /// How many forwards, routes and tunnels stay as they are.
    pub(super) unchanged: usize,
}

impl Running {
    pub(super) fn new(scope: &Scope, listening: &Scope, view: Arc<View>) -> Self {
        let authority = files::state_dir().map(|directory| directory.join("ca"));
        let entrances = Entrances::new(listening, scope, authority);
        view.tell_in(entrances.routes());
        Self {
            scope: scope.clone(),
            file: AgentFile::default(),
            clusters: Clusters::new(KubeSettings::default()),
            kubeconfigs: Vec::new(),
            entrances,
            published: None,
            chosen: None,
            vouched: None,
            view,
            wants_address: false,
        }
    }

    /// Published ports that may have any number have the one that a process before had, and tell it to those that follow.
    pub(super) fn keep_numbers(&mut self, chosen: Chosen) {
        self.chosen = Some(Arc::new(chosen));
    }

    /// The version of the file that is in force.
    pub(super) const fn file(&self) -> &AgentFile {
        &self.file
    }

    /// Puts a version of the file in force, or leaves everything as it was.
    pub(super) fn apply(&mut self, read: &Read) -> Result<Change, Failure> {
        let file = &read.file;
        let seen = seen(read);
        let clusters = if file.kubernetes == self.file.kubernetes && seen == self.kubeconfigs {
            Arc::clone(&self.clusters)
        } else {
            // Servers know nothing of clusters: what they have refused holds, and logins are shared as before.
            Clusters::with_ssh(files::kube_settings(&file.kubernetes), Arc::clone(self.clusters.ssh()))
        };
        let prepared = self.entrances.prepare(file, &clusters);
        self.wants_address = matches!(prepared, Err(EntranceError::Bind { .. }));
        let prepared = prepared.map_err(|error| refused(&error))?;
        let agent = match publish::prepare(
            file,
            &self.file,
            self.published.as_ref(),
            self.entrances.targets(),
            clusters.ssh(),
            self.chosen.as_ref(),
            &self.view,
        ) {
            Ok(agent) => agent,
            Err(failure) => {
                self.entrances.abandon(prepared);
                return Err(failure);
            }
        };
        let committed = self.entrances.commit(prepared);
        committed.failed.iter().for_each(|error| self.view.not_opened(&failure(error), true));
        committed.closed.iter().for_each(|error| self.view.not_opened(&failure(error), false));
        let mut change = Change::between(&self.file, file);
        if file.kubernetes == self.file.kubernetes && seen != self.kubeconfigs {
            change.changed.push("kubeconfig".into());
        }
        change.changed.extend(committed.remade.into_iter().map(|key| format!("files of route {key}")));
        // An agent that had given up is started again.
        if matches!(agent, publish::Next::Other(_)) && self.file.publish == file.publish {
            change.changed.push("publish".into());
        }
        self.publish(agent);
        if self.vouched.is_some() {
            self.mention_trust();
        }
        (self.file, self.clusters, self.kubeconfigs) = (file.clone(), clusters, seen);
        self.view.applied();
        Ok(change)
    }

    /// What is open.
    pub(super) const fn entrances(&self) -> &Entrances {
        &self.entrances
    }

    /// The next version of the file makes these forwards anew.
    pub(super) fn renew(&mut self, names: &[String]) {
        self.entrances.renew(names);
    }

    /// The first version of the file is put in force without the addresses that cannot be had.
    pub(super) const fn leave_out(&mut self) {
        self.entrances.leave_out();
    }

    /// Tries once more what could not be opened.
    pub(super) fn try_again(&mut self) {
        for opened in self.entrances.try_again() {
            self.view.opened_late(opened.owner.as_deref(), opened.address);
        }
    }

    /// Whether it may only be waited for that somebody lets go of an address.
    pub(super) const fn wants_address(&self) -> bool {
        self.wants_address
    }

    /// Listening sockets of a process before this one.
    pub(super) fn inherit(&mut self, sockets: Vec<(String, std::net::TcpListener)>) {
        self.entrances.inherit(sockets);
    }

    /// Closes those that the file does not ask for.
    pub(super) fn close_inherited(&mut self) {
        self.entrances.close_inherited();
    }

    /// The kubeconfig, when the file leads to clusters.
    pub(super) fn kubeconfig(&self) -> Option<KubeFound> {
        let dynamic = self.file.gateway.as_ref().is_some_and(|gateway| gateway.dynamic_host.is_some());
        let leads_there =
            |(_, target): &(Vec<&str>, &Target)| matches!(target, Target::Kubernetes(_) | Target::Jump(_));
        if !dynamic && !self.file.targets().iter().any(leads_there) {
            return None;
        }
        Some(match self.clusters.kubeconfigs() {
            Ok(found) => KubeFound {
                files: found.described(),
                contexts: found.contexts().map(str::to_owned).collect(),
                problem: None,
            },
            Err(error) => KubeFound { files: String::new(), contexts: Vec::new(), problem: Some(chain(&error)) },
        })
    }

    /// The machine was asleep.
    pub(super) fn wake(&self) {
        self.entrances.wake();
        if let Some(published) = &self.published {
            published.wake();
        }
    }

    /// Takes nothing new.
    pub(super) fn stop(&self) {
        self.entrances.stop();
    }

    /// Whether a connection waits for a forward that is being started.
    pub(super) fn awaits_a_target(&self) -> bool {
        let waits = |report: &ForwardReport| {
            let starts = matches!(report.status.state, ForwardState::Resolving | ForwardState::Connecting);
            starts && report.streams() > 0
        };
        self.entrances.targets().forwards().iter().any(|(_, forward)| waits(&forward.report()))
    }

    /// How its forwards are, as it changes.
    pub(super) fn news(&self) -> News {
        self.entrances.targets().forwards().iter().map(|(_, forward)| forward.status()).collect()
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let gateway = self.entrances.open().filter(|(_, owner)| owner.is_none()).map(|(address, _)| address);
        let exposed = self.entrances.open().filter(|(address, _)| !address.ip().to_canonical().is_loopback());
        let exposed = exposed.map(|(address, owner)| (owner.unwrap_or_else(|| "gateway".into()), address));
        let dynamic = self.file.gateway.as_ref().and_then(|gateway| gateway.dynamic_host.as_ref());
        Snapshot {
            rows: self.entrances.rows(),
            gateway: gateway.collect(),
            secure: self.file.gateway.as_ref().is_some_and(|gateway| gateway.tls == GatewayTls::Local),
            exposed: exposed.collect(),
            dynamic: dynamic.map(|host| host.as_str().to_owned()),
            published: self.published.as_ref().map(Published::rows).unwrap_or_default(),
        }
    }

    /// Says how browsers come to trust the local authority, if none of this machine's stores has it: once, and again
    /// whenever a version of the file begins to use it.
    pub(super) fn mention_trust(&mut self) {
        let before = self.vouched.replace(self.entrances.vouches());
        if before == Some(true) || self.vouched != Some(true) {
            return;
        }
        let (view, blocking) = (Arc::clone(&self.view), self.scope.clone());
        self.scope.spawn("trust", async move {
            // Programs are run to ask browsers' stores.
            let trusted = blocking.spawn_blocking("trust", trust::trusted).await;
            let somewhere = |trusted: &trust::Trusted| trusted.stores.iter().any(|(_, trusts)| *trusts);
            if !matches!(trusted, Ok(Ok(Some(ref trusted))) if somewhere(trusted)) {
                view.untrusted();
            }
        });
    }

    fn publish(&mut self, agent: publish::Next) {
        match agent {
            publish::Next::Same => {
                if let Some(published) = &self.published {
                    published.look_again();
                }
            }
            publish::Next::None => self.published = None,
            publish::Next::Other(ready) => {
                let before = self.published.take();
                self.published = Some(Published::start(*ready, before, &self.scope, &self.view));
            }
        }
    }
}

impl Change {
    pub(super) fn between(old: &AgentFile, new: &AgentFile) -> Self {
        let diff = old.diff(new);
        let mut change = Self::default();
        let count = |file: &AgentFile| {
            let routes = file.gateway.as_ref().map_or(0, |gateway| gateway.routes.len());
            let tunnels = file.publish.as_ref().map_or(0, |publish| publish.tunnels.len());
            file.forwards.iter().filter(|forward| forward.enabled).count() + routes + tunnels
        };
        change.list("forward", &diff.forwards, |forward| &forward.name);
        change.list("route", &diff.routes, |route| &route.key);
        change.list("tunnel", &diff.tunnels, |tunnel| &tunnel.key);
        match (&old.gateway, &diff.gateway) {
            (Some(old), SectionDiff::Set(new)) => {
                change.changed.extend(changed_keys(old, new).into_iter().map(|key| format!("gateway.{key}")));
            }
            _ => change.section("gateway", &diff.gateway),
        }
        change.section("publish", &diff.publish);
        if diff.kubernetes.is_some() {
            change.changed.push("kubernetes".into());
        }
        if diff.daemon.is_some() {
            change.changed.push("daemon".into());
        }
        let touched = |list: &[usize]| list.iter().sum::<usize>();
        let new_ones = touched(&[
            diff.forwards.added.len(),
            diff.forwards.changed.len(),
            diff.routes.added.len(),
            diff.routes.changed.len(),
            diff.tunnels.added.len(),
            diff.tunnels.changed.len(),
        ]);
        change.unchanged = count(new).saturating_sub(new_ones);
        change
    }

    fn list<T>(&mut self, what: &str, list: &ListDiff<T>, name: fn(&T) -> &String) {
        let of = |items: &[T]| items.iter().map(|item| format!("{what} {}", name(item))).collect::<Vec<_>>();
        self.added.extend(of(&list.added));
        self.changed.extend(of(&list.changed));
        self.removed.extend(list.removed.iter().map(|name| format!("{what} {name}")));
    }

    fn section<T>(&mut self, name: &str, section: &SectionDiff<T>) {
        match section {
            SectionDiff::Same => {}
            SectionDiff::Set(_) => self.changed.push(name.to_owned()),
            SectionDiff::Gone => self.removed.push(name.to_owned()),
        }
    }

    /// How many of how many forwards, routes and tunnels are gone, when most are: fewer than half are left, and two are
    /// gone at least. A file that is cut off may still be one.
    pub(super) fn most_gone(&self) -> Option<(usize, usize)> {
        let count = |list: &[String]| {
            let is_entry = |name: &&String| ["forward ", "route ", "tunnel "].iter().any(|what| name.starts_with(what));
            list.iter().filter(is_entry).count()
        };
        let stay = self.unchanged + count(&self.changed);
        let (gone, left) = (count(&self.removed), stay + count(&self.added));
        let before = stay + gone;
        (left * 2 < before && before - left >= 2).then_some((gone, before))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

fn refused(error: &EntranceError) -> Failure {
    failure(error).with_free_port(error.free_port())
}

/// The keys of the gateway that say something else, beside its routes.
fn changed_keys(old: &GatewayConfig, new: &GatewayConfig) -> Vec<&'static str> {
    let keys = [
        ("listen", old.listen == new.listen),
        ("dynamic_host", old.dynamic_host == new.dynamic_host),
        ("aliases", old.aliases == new.aliases),
        ("allow", old.allow == new.allow),
        ("idle_timeout", old.idle_timeout == new.idle_timeout),
        ("tls", old.tls == new.tls),
        ("trusted_proxies", old.trusted_proxies == new.trusted_proxies),
    ];
    keys.into_iter().filter_map(|(key, same)| (!same).then_some(key)).collect()
}

fn seen(read: &Read) -> KubeSeen {
    let kubeconfigs = read.kubeconfigs();
    kubeconfigs.into_iter().map(|path| (path.clone(), runtime::regular_file::read(&path).ok())).collect()
}
