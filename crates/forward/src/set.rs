//! The forwards of one configuration, by name; the next configuration takes over those that stay as they are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use adit_core::forward::Start;
use adit_core::target::Target;
use runtime::Scope;

use crate::clusters::Clusters;
use crate::ssh::servers::SshServers;
use crate::supervisor::{Forward, ForwardOptions, Lease};

/// What a forward of a configuration is: two that are equal are the same forward.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardSpec {
    /// Its name, unique in its configuration.
    pub name: String,
    /// What it leads to; never [`Target::Forward`].
    pub target: Target,
    /// How it behaves.
    pub options: ForwardOptions,
}

/// The forwards of one configuration. Entrances keep handles of those they use, so a set is only changed by
/// being replaced: see [`ForwardSet::next`].
#[derive(Debug, Default)]
pub struct ForwardSet {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    spec: ForwardSpec,
    clusters: Arc<Clusters>,
    forward: Forward,
    /// Keeps one that always runs.
    lease: OnceLock<Arc<Lease>>,
    /// It was not started yet: nothing of it may be seen outside.
    is_new: AtomicBool,
    /// Somebody wants it anew: a connection that it shares must show that it lives.
    is_renewed: bool,
}

impl ForwardSet {
    /// A set with these forwards. One whose specification and clusters are the same as in `self` is taken over with
    /// all that runs through it; the others are made in `scope`, and nothing of them is started yet, whatever their
    /// settings say: nobody is dialled before [`ForwardSet::start`]. `self` stays usable, so that a change may still be
    /// given up: then retire the new set for the old.
    #[must_use]
    pub fn next(&self, scope: &Scope, clusters: &Arc<Clusters>, wanted: Vec<ForwardSpec>) -> Self {
        self.next_but(scope, clusters, wanted, |_| false)
    }

    /// [`ForwardSet::next`], but forwards that `renew` names are made anew though nothing about them has changed.
    #[must_use]
    pub fn next_but(
        &self,
        scope: &Scope,
        clusters: &Arc<Clusters>,
        wanted: Vec<ForwardSpec>,
        renew: impl Fn(&str) -> bool,
    ) -> Self {
        let entries = wanted.into_iter().map(|spec| {
            let kept = self.entries.get(&spec.name).filter(|old| {
                !renew(&spec.name)
                    && old.spec == spec
                    && (!needs_cluster(&spec.target) || Arc::ptr_eq(&old.clusters, clusters))
            });
            let is_renewed = renew(&spec.name);
            let entry = kept.map_or_else(|| Entry::new(scope, clusters, &spec, is_renewed), Entry::again);
            (spec.name, entry)
        });
        Self { entries: entries.collect() }
    }

    /// The forward of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Forward> {
        self.entries.get(name).map(|entry| &entry.forward)
    }

    /// What the forward of this name is.
    #[must_use]
    pub fn spec(&self, name: &str) -> Option<&ForwardSpec> {
        self.entries.get(name).map(|entry| &entry.spec)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ForwardSpec, &Forward)> {
        self.entries.values().map(|entry| (&entry.spec, &entry.forward))
    }

    /// Puts the set in force: those that always run are started.
    pub fn start(&self) {
        // Before the first of them dials: they may share a server.
        self.entries.values().for_each(Entry::look_again);
        for entry in self.entries.values() {
            if entry.spec.options.settings.start == Start::Always {
                entry.lease.get_or_init(|| Arc::new(entry.forward.lease()));
            }
        }
    }

    /// Lets go of the forwards that `other` does not have: they take nothing new, and what they carry finishes.
    pub fn retire(&self, other: &Self) {
        for (name, entry) in &self.entries {
            let stays = other.entries.get(name).is_some_and(|new| new.forward.is(&entry.forward));
            if !stays {
                entry.forward.stop();
            }
        }
    }

    /// The machine slept, or its network changed.
    pub fn wake(&self) {
        // Each once, and before the first of them dials: a login that has begun would be given up.
        let mut woken: Vec<&Arc<SshServers>> = Vec::new();
        for entry in self.entries.values() {
            let servers = entry.clusters.ssh();
            if !woken.iter().any(|known| Arc::ptr_eq(known, servers)) {
                servers.wake();
                woken.push(servers);
            }
        }
        self.entries.values().for_each(|entry| entry.forward.wake());
    }

    /// All take nothing new.
    pub fn stop(&self) {
        self.entries.values().for_each(|entry| entry.forward.stop());
    }
}

impl Entry {
    fn new(scope: &Scope, clusters: &Arc<Clusters>, spec: &ForwardSpec, is_renewed: bool) -> Self {
        let forward = Forward::at_rest(scope, clusters, &spec.name, spec.target.clone(), spec.options.clone());
        let (spec, clusters, lease) = (spec.clone(), Arc::clone(clusters), OnceLock::new());
        Self { spec, clusters, forward, lease, is_new: AtomicBool::new(true), is_renewed }
    }

    fn again(&self) -> Self {
        Self {
            spec: self.spec.clone(),
            clusters: Arc::clone(&self.clusters),
            forward: self.forward.clone(),
            lease: self.lease.clone(),
            is_new: AtomicBool::new(false),
            is_renewed: false,
        }
    }

    /// A new one comes, or the file was read anew: what a person had to do about its server's key may be done.
    fn look_again(&self) {
        let is_new = self.is_new.swap(false, Ordering::AcqRel);
        if let Target::Ssh(target) = &self.spec.target {
            self.clusters.ssh().look_again(&target.server);
            if is_new && self.is_renewed {
                self.clusters.ssh().prove(&target.server);
            }
        }
        if !is_new {
            self.forward.look_again();
        }
    }
}

/// Whether it is reached by way of a kubeconfig.
fn needs_cluster(target: &Target) -> bool {
    matches!(target, Target::Kubernetes(_) | Target::Jump(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, target: &str) -> ForwardSpec {
        ForwardSpec { name: name.into(), target: Target::parse(target).unwrap(), options: ForwardOptions::default() }
    }

    #[tokio::test]
    async fn nobody_is_dialled_before_a_set_is_put_in_force() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scope = Scope::root();
        let clusters = Clusters::new(crate::KubeSettings::default());
        let target = format!("ssh://x@{}/db:1", listener.local_addr().unwrap());
        let wanted = || vec![spec("ssh", &target), spec("plain", "tcp://127.0.0.1:1")];
        let (first, second) = (ForwardSet::default(), ForwardSet::default());
        // Both start always.
        let given_up = first.next(&scope, &clusters, wanted());
        let next = second.next(&scope, &clusters, wanted());
        for (_, forward) in given_up.iter().chain(next.iter()) {
            assert_eq!(forward.report().status.attempt.number(), 0, "{forward:?}");
        }
        given_up.retire(&first);
        next.start();
        let deadline = std::time::Duration::from_secs(10);
        let dialled = tokio::time::timeout(deadline, listener.accept()).await;
        dialled.expect("it is dialled").unwrap();
        let dialled = next.iter().map(|(_, forward)| forward.report().status.attempt.number());
        assert_eq!(dialled.collect::<Vec<_>>(), [1, 1]);
        scope.drain();
        scope.abort();
    }

    #[tokio::test]
    async fn the_next_set_takes_over_what_stays_as_it_is() {
        let scope = Scope::root();
        let clusters = Clusters::new(crate::KubeSettings::default());
        let first = ForwardSet::default().next(
            &scope,
            &clusters,
            vec![spec("a", "tcp://127.0.0.1:1"), spec("b", "tcp://127.0.0.1:2"), spec("c", "k8s:///default/pod/x:1")],
        );
        let others = Clusters::new(crate::KubeSettings::default());
        let next = first.next(
            &scope,
            &others,
            vec![spec("a", "tcp://127.0.0.1:1"), spec("b", "tcp://127.0.0.1:3"), spec("c", "k8s:///default/pod/x:1")],
        );
        let same = |name| next.get(name).unwrap().is(first.get(name).unwrap());
        assert!(same("a"), "untouched");
        assert!(!same("b"), "another target");
        assert!(!same("c"), "another kubeconfig");
        assert!(next.get("d").is_none());
        let kept = first.get("a").unwrap().clone();
        first.retire(&next);
        assert!(next.get("a").unwrap().is(&kept));
        // What nobody has a handle of is over; only a forward's own task tells.
        drop((first, kept));
        let tasks = |scope: &Scope| scope.running().get("forward").copied().unwrap_or_default();
        let gone = async {
            while tasks(&scope) > 3 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(5), gone).await.expect("the three that were replaced end");
        drop(next);
        let gone = async {
            while tasks(&scope) > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(5), gone).await.expect("all end");
        scope.cancel();
    }
}
