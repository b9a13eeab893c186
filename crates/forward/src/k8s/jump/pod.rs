//! The pod that is made to jump through, when its user asks for one.
//!
//! It is named by the target, bears our labels, lives twelve hours at most and can do nothing in the cluster. It is
//! removed at exit by the process that made it, and only by that one: another that shares it makes a new one when
//! it needs it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use adit_core::diagnose::Diagnose as _;
use runtime::Scope;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::api::{Api, ApiError};
use super::super::watch::encoded;
use crate::error::{ForwardError, chain};
use crate::session::CreatePod;

/// A pod that nobody removed ends by itself.
const LIFE: Duration = Duration::from_secs(12 * 3600);
/// At exit; when it is not enough, [`LIFE`] ends the pod.
const REMOVE_WITHIN: Duration = Duration::from_secs(5);
/// Attempts when pods of that name come and go meanwhile.
const ATTEMPTS: u8 = 3;
/// An unprivileged user that no image has: `nobody` of distroless images.
const USER: u32 = 65532;
/// The longest value of a label.
const LABEL_MAX: usize = 63;

const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const NAME: &str = "app.kubernetes.io/name";
const OWNER: &str = "adit.dev/owner";
const INSTANCE: &str = "adit.dev/instance";

/// Makes the pod, and removes what it made.
pub(super) struct Maker {
    api: Api,
    scope: Scope,
    /// Where streams run; the pod is not removed under them.
    streams: Scope,
    options: CreatePod,
    namespace: String,
    name: String,
    /// Tells what this process made from what another one did under the same name.
    instance: String,
    made: AtomicBool,
}

/// What is read of a pod before it is reused or replaced.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Known {
    metadata: Meta,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Meta {
    uid: String,
    labels: Option<std::collections::BTreeMap<String, String>>,
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

impl Meta {
    fn is_adits(&self) -> bool {
        self.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == "adit")
    }

    fn is_of(&self, instance: &str) -> bool {
        self.annotations.as_ref().and_then(|known| known.get(INSTANCE)).is_some_and(|known| known == instance)
    }
}

impl Maker {
    pub(super) fn new(
        api: Api,
        scope: Scope,
        streams: Scope,
        options: CreatePod,
        namespace: String,
        name: String,
    ) -> Self {
        let instance = format!("{:016x}", rand::random::<u64>());
        Self { api, scope, streams, options, namespace, name, instance, made: AtomicBool::new(false) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn timeout(&self) -> Duration {
        self.options.timeout
    }

    pub(super) fn image(&self) -> &str {
        &self.options.image
    }

    /// Whether a pod was made.
    pub(super) fn has_made(&self) -> bool {
        self.made.load(Ordering::Relaxed)
    }

    /// Makes the pod, unless another process has made it in the meantime.
    ///
    /// # Errors
    /// When the API server does not let us.
    pub(super) async fn make(&self) -> Result<(), ForwardError> {
        let path = format!("/api/v1/namespaces/{}/pods", encoded(&self.namespace));
        let body = self.manifest().to_string().into_bytes();
        for _ in 0..ATTEMPTS {
            match self.api.send_text("POST", &path, body.clone()).await {
                Ok(text) => {
                    let made: Known = serde_json::from_str(&text).unwrap_or_default();
                    tracing::info!(
                        pod = self.name,
                        namespace = self.namespace,
                        image = self.options.image,
                        "made a pod to jump through"
                    );
                    self.made.store(true, Ordering::Relaxed);
                    self.remove_at_exit(made.metadata.uid);
                    return Ok(());
                }
                Err(ApiError::Status { code: 409, .. }) => match self.look().await {
                    // The answer to an earlier attempt was lost.
                    Ok(known) if known.metadata.is_of(&self.instance) => {
                        self.remove_at_exit(known.metadata.uid);
                        return Ok(());
                    }
                    Ok(_) => return Ok(()),
                    // It went just now.
                    Err(ApiError::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                },
                Err(error) => return Err(self.explain(error)),
            }
        }
        Err(ForwardError::Jump {
            message: format!("the pod {} is made and removed by others all the time", self.name),
            hint: Some("give the jump a pod name of its own".to_owned()),
        })
    }

    /// Removes a pod of this name that has ended, if it is one of ours; false if it is not.
    ///
    /// # Errors
    /// When the API server does not let us.
    pub(super) async fn clear(&self) -> Result<bool, ForwardError> {
        let known = match self.look().await {
            Ok(known) => known,
            Err(ApiError::NotFound { .. }) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        if !known.metadata.is_adits() {
            return Ok(false);
        }
        remove(&self.api, &self.namespace, &self.name, &known.metadata.uid)
            .await
            .map_err(|error| self.explain(error))?;
        Ok(true)
    }

    async fn look(&self) -> Result<Known, ApiError> {
        self.api.get(&pod_path(&self.namespace, &self.name)).await
    }

    fn explain(&self, error: ApiError) -> ForwardError {
        if error.is_transient() {
            return error.into();
        }
        let hint = match &error {
            ApiError::Forbidden { .. } => Some(format!(
                "ask for the right to `create` and `delete` pods in the namespace {}, or jump through a pod that is there",
                self.namespace
            )),
            error => error.hint(),
        };
        ForwardError::Jump { message: format!("the pod {} cannot be made: {}", self.name, chain(&error)), hint }
    }

    /// Watches over the pod's end: after the last stream once the program drains, at once when it cancels.
    fn remove_at_exit(&self, uid: String) {
        if self.options.keep || uid.is_empty() {
            return;
        }
        let (api, namespace, name) = (self.api.clone(), self.namespace.clone(), self.name.clone());
        let (scope, streams) = (self.scope.clone(), self.streams.clone());
        self.scope.spawn("remove a jump pod", async move {
            scope.drained().await;
            tokio::select! {
                biased;
                () = scope.cancelled() => {}
                () = streams.idle() => {}
            }
            let removed = tokio::time::timeout(REMOVE_WITHIN, remove(&api, &namespace, &name, &uid)).await;
            match removed {
                Ok(Ok(())) => tracing::debug!(pod = name, namespace, "removed the pod that was made to jump through"),
                Ok(Err(error)) => warn_of(&name, &namespace, &error.to_string()),
                Err(_) => warn_of(&name, &namespace, "the API server did not answer in time"),
            }
        });
    }

    fn manifest(&self) -> Value {
        let mut labels: serde_json::Map<String, Value> =
            self.options.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        labels.insert(NAME.to_owned(), json!("adit-jump"));
        labels.insert(MANAGED_BY.to_owned(), json!("adit"));
        labels.insert(OWNER.to_owned(), json!(owner()));
        let command = if self.options.command.is_empty() {
            vec!["sleep".to_owned(), "infinity".to_owned()]
        } else {
            self.options.command.clone()
        };
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": self.name, "labels": labels, "annotations": { INSTANCE: self.instance } },
            "spec": {
                // Never: a command that ends is told at once instead of crashing on until the time-out; a pod whose
                // life is over is replaced as a whole.
                "restartPolicy": "Never",
                "activeDeadlineSeconds": LIFE.as_secs(),
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "containers": [{
                    "name": "jump",
                    "image": self.options.image,
                    "command": command,
                    "resources": {
                        "requests": { "cpu": "10m", "memory": "16Mi" },
                        "limits": { "cpu": "100m", "memory": "64Mi" },
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "capabilities": { "drop": ["ALL"] },
                    },
                }],
            },
        })
    }
}

fn warn_of(name: &str, namespace: &str, reason: &str) {
    tracing::warn!(pod = name, namespace, reason, "the pod that was made to jump through could not be removed");
}

/// Removes this very pod, and no other that has its name by now. One that is gone is removed.
async fn remove(api: &Api, namespace: &str, name: &str, uid: &str) -> Result<(), ApiError> {
    let body = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": { "uid": uid } });
    match api.send_text("DELETE", &pod_path(namespace, name), body.to_string().into_bytes()).await {
        Ok(_) | Err(ApiError::NotFound { .. } | ApiError::Status { code: 409, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn pod_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", encoded(namespace), encoded(name))
}

/// Who made it, for those who find it.
fn owner() -> String {
    let user = ["USER", "LOGNAME", "USERNAME"].iter().find_map(|name| std::env::var(name).ok());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    label_value(&format!("{}@{host}", user.as_deref().unwrap_or("unknown")))
}

/// What a label may have as its value: 63 letters, digits, `-`, `_`, `.`, the outer ones alphanumeric.
fn label_value(text: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let value: String = text.chars().map(legal).take(LABEL_MAX).collect();
    value.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_user_at_any_host_is_a_label() {
        assert_eq!(label_value("jo@laptop.local"), "jo_laptop.local");
        assert_eq!(label_value("-ümläut@x_"), "ml_ut_x");
        assert_eq!(label_value(&"x".repeat(100)).len(), 63);
        assert_eq!(label_value("@"), "");
    }
}
