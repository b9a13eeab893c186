//! One API client per context, made when a forward first needs it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use adit_core::target::{SshServer, Target};
use tokio::sync::OnceCell;

use crate::error::ForwardError;
use crate::k8s::api::Api;
use crate::k8s::kubeconfig::{KubeSettings, KubeconfigError, Kubeconfigs};
use crate::k8s::target::PodPools;
use crate::reach::Reach;
use crate::ssh::servers::{SshServers, login};

/// The clusters of a kubeconfig, and the SSH servers: whatever forwards share.
pub struct Clusters {
    settings: KubeSettings,
    ssh: Arc<SshServers>,
    kubeconfigs: Mutex<Option<Arc<Kubeconfigs>>>,
    known: Mutex<HashMap<String, Arc<OnceCell<Cluster>>>>,
    reaches: Mutex<HashMap<Shared, Arc<Reach>>>,
}

/// What forwards share the way to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Shared {
    /// A cluster, by the name of its context.
    Cluster(String),
    /// A login at an SSH server: another key or another hop is another way.
    Login(SshServer),
}

/// One context of it.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) api: Api,
    pub(crate) pools: Arc<PodPools>,
}

impl Clusters {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(settings: KubeSettings) -> Arc<Self> {
        Self::with_ssh(settings, SshServers::new(None))
    }

    /// The same with SSH servers beside them.
    #[must_use]
    pub fn with_ssh(settings: KubeSettings, ssh: Arc<SshServers>) -> Arc<Self> {
        Arc::new(Self {
            settings,
            ssh,
            kubeconfigs: Mutex::default(),
            known: Mutex::default(),
            reaches: Mutex::default(),
        })
    }

    /// The SSH servers.
    #[must_use]
    pub fn ssh(&self) -> &Arc<SshServers> {
        &self.ssh
    }

    /// The kubeconfig files, read once.
    ///
    /// # Errors
    /// [`KubeconfigError`] when there are none or they cannot be read.
    pub fn kubeconfigs(&self) -> Result<Arc<Kubeconfigs>, KubeconfigError> {
        let mut known = self.kubeconfigs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*known {
            return Ok(Arc::clone(known));
        }
        let read = Arc::new(Kubeconfigs::load(&self.settings)?);
        *known = Some(Arc::clone(&read));
        Ok(read)
    }

    /// The client of a context, or of the current one. After an error the files are read again: they may be mended.
    pub(crate) async fn cluster(&self, context: Option<&str>) -> Result<Cluster, ForwardError> {
        let kubeconfigs = self.kubeconfigs()?;
        let found = self.found(&kubeconfigs, context).await;
        if found.is_err() {
            let mut known = self.kubeconfigs.lock().unwrap_or_else(PoisonError::into_inner);
            // Whatever another caller has read since stays.
            *known = known.take().filter(|known| !Arc::ptr_eq(known, &kubeconfigs));
        }
        found
    }

    /// Whether there is a way to what a target shares with others; nothing for what it shares with none.
    pub(crate) fn reach(&self, target: &Target) -> Option<Arc<Reach>> {
        let context = |context: &Option<String>| Shared::Cluster(self.name_of(context.as_deref()));
        let shared = match target {
            Target::Kubernetes(target) => context(&target.context),
            Target::Jump(target) => context(&target.context),
            Target::Ssh(target) => Shared::Login(login(&target.server)),
            Target::Local(_) | Target::Forward(_) => return None,
        };
        let mut reaches = self.reaches.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(reaches.entry(shared).or_insert_with(Reach::new)))
    }

    /// The name of a context, of the current one too: whoever writes it shares it with whoever leaves it out.
    fn name_of(&self, context: Option<&str>) -> String {
        let named = self.kubeconfigs().ok().and_then(|known| known.context_name(context).ok());
        named.unwrap_or_else(|| context.unwrap_or_default().to_owned())
    }

    /// What the credentials of a context come from, when that is a program.
    pub(crate) fn plugin(&self, context: Option<&str>) -> Option<String> {
        self.kubeconfigs().ok()?.plugin_of(context)
    }

    async fn found(&self, kubeconfigs: &Kubeconfigs, context: Option<&str>) -> Result<Cluster, ForwardError> {
        let name = kubeconfigs.context_name(context)?;
        let cell = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(name.clone()).or_default())
        };
        let cluster = cell.get_or_try_init(|| async {
            let api = Api::new(kubeconfigs, &self.settings, Some(&name)).await?;
            Ok::<_, ForwardError>(Cluster { api, pools: Arc::default() })
        });
        cluster.await.cloned()
    }
}

impl std::fmt::Debug for Clusters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clusters").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_logins_at_one_address_wait_for_each_other_in_nothing() {
        let clusters = Clusters::new(KubeSettings::default());
        let mut target = Target::parse("ssh://root@bastion/db:5432").unwrap();
        let direct = clusters.reach(&target).unwrap();
        assert!(Arc::ptr_eq(&direct, &clusters.reach(&target).unwrap()));
        let Target::Ssh(ssh) = &mut target else { panic!("no SSH target") };
        ssh.server.options.connect_timeout = Some(std::time::Duration::from_secs(3));
        assert!(Arc::ptr_eq(&direct, &clusters.reach(&target).unwrap()), "how long is waited makes no other login");
        let Target::Ssh(ssh) = &mut target else { panic!("no SSH target") };
        ssh.server.options.jump = Some("dead.example".to_owned());
        assert!(!Arc::ptr_eq(&direct, &clusters.reach(&target).unwrap()));
    }

    #[test]
    fn the_current_context_is_one_cluster_with_and_without_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: one\n\
                    contexts:\n- { name: one, context: { cluster: c, user: u } }\n- { name: two, context: { cluster: c, user: u } }\n\
                    clusters:\n- { name: c, cluster: { server: \"https://127.0.0.1:1\" } }\nusers:\n- { name: u, user: {} }\n";
        std::fs::write(&path, text).unwrap();
        let settings = KubeSettings { kubeconfig: Some(path.to_str().unwrap().to_owned()), ..KubeSettings::default() };
        let clusters = Clusters::new(settings);
        let reach = |text: &str| clusters.reach(&Target::parse(text).unwrap()).unwrap();
        assert!(Arc::ptr_eq(&reach("k8s:///shop/service/api:80"), &reach("k8s://one/shop/service/web:80")));
        assert!(!Arc::ptr_eq(&reach("k8s:///shop/service/api:80"), &reach("k8s://two/shop/service/web:80")));
    }
}
