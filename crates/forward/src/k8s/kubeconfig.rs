//! kubeconfig files: found, merged, and one context of them taken apart with errors that name the place.
//!
//! kube-rs parses and merges; what it accepts in silence (a user that is missing, a proxy that `NO_PROXY` rules
//! out for this cluster) is decided here, as `kubectl` decides it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_core::diagnose::{Diagnose, Fault};
use adit_core::near;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use runtime::regular_file;

use super::plugin::{ExecPlugin, PluginError};
use super::proxy::{NoProxy, ProxyError};

/// Where credentials and clusters are looked for.
#[derive(Clone, Debug, Default)]
pub struct KubeSettings {
    /// `--kubeconfig` or `kubernetes.kubeconfig`: one path, or several separated by colons.
    pub kubeconfig: Option<String>,
    /// Directories searched for credential plugins after `PATH` and the usual places.
    pub exec_path: Vec<PathBuf>,
    /// How often a cluster in use is asked for a sign of life; `None` is never.
    pub keepalive: Option<Duration>,
    /// Whoever runs this can say `--kubeconfig` and `--context`; for hints.
    pub has_flags: bool,
}

/// All kubeconfig files together, the first file that names something winning.
#[derive(Clone, Debug)]
pub struct Kubeconfigs {
    merged: Kubeconfig,
    files: Vec<PathBuf>,
    settings: KubeSettings,
    in_cluster: bool,
}

/// A context whose credentials come from a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginUse {
    /// The context.
    pub context: String,
    /// The program, as the kubeconfig names it.
    pub command: String,
    /// Where it is; `None` when it was not found.
    pub program: Option<PathBuf>,
}

/// One context, ready to be connected to.
#[derive(Clone, Debug)]
pub(crate) struct ContextConfig {
    /// The context's name; `in-cluster` inside a pod.
    pub(crate) name: String,
    /// What kube-rs makes of it, without its exec plugin.
    pub(crate) config: Config,
    /// The credential plugin, found on the path.
    pub(crate) plugin: Option<ExecPlugin>,
}

impl Kubeconfigs {
    /// Reads the files: those of the settings, of `$KUBECONFIG`, or `~/.kube/config`. Inside a pod without any,
    /// the pod's service account.
    ///
    /// # Errors
    /// [`KubeconfigError`] when there is none or one cannot be read.
    pub fn load(settings: &KubeSettings) -> Result<Self, KubeconfigError> {
        let (paths, asked_for) = paths(settings.kubeconfig.as_deref());
        let present: Vec<PathBuf> = paths.iter().filter(|path| path.exists()).cloned().collect();
        // As kubectl: a missing file of a list is passed over, one named by --kubeconfig is not.
        if let (true, Some(missing)) = (asked_for, paths.iter().find(|path| !path.exists())) {
            return Err(KubeconfigError::NoFile { looked_at: vec![missing.clone()], has_flags: settings.has_flags });
        }
        if present.is_empty() {
            let in_cluster = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
            if !in_cluster {
                return Err(KubeconfigError::NoFile { looked_at: paths, has_flags: settings.has_flags });
            }
            return Ok(Self {
                merged: Kubeconfig::default(),
                files: Vec::new(),
                settings: settings.clone(),
                in_cluster,
            });
        }
        let mut merged: Option<Kubeconfig> = None;
        for path in &present {
            let next = read_one(path)?;
            merged = Some(match merged {
                None => next,
                Some(before) => before.merge(next).map_err(|source| unusable(path, &source))?,
            });
        }
        Ok(Self { merged: merged.unwrap_or_default(), files: present, settings: settings.clone(), in_cluster: false })
    }

    /// The names of all contexts, in the order of the files.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        self.merged.contexts.iter().map(|context| context.name.as_str())
    }

    /// The context used when none is named.
    #[must_use]
    pub fn current(&self) -> Option<&str> {
        if self.in_cluster {
            return Some(IN_CLUSTER);
        }
        self.merged.current_context.as_deref().filter(|name| !name.is_empty())
    }

    /// The namespace a context names, else `default`.
    #[must_use]
    pub fn namespace_of(&self, context: &str) -> Option<&str> {
        let found = self.merged.contexts.iter().find(|named| named.name == context)?;
        found.context.as_ref()?.namespace.as_deref()
    }

    /// Finds a context by name, or the current one.
    ///
    /// # Errors
    /// [`KubeconfigError::UnknownContext`] with near matches, [`KubeconfigError::NoCurrentContext`].
    pub fn context_name(&self, wanted: Option<&str>) -> Result<String, KubeconfigError> {
        if self.in_cluster {
            return Ok(IN_CLUSTER.to_owned());
        }
        let known: Vec<String> = self.contexts().map(str::to_owned).collect();
        match wanted.or_else(|| self.current()) {
            Some(name) if known.iter().any(|known| known == name) => Ok(name.to_owned()),
            Some(name) => Err(KubeconfigError::UnknownContext {
                context: name.to_owned(),
                files: self.described(),
                nearest: near::nearest(name, known.iter().map(String::as_str)).map(str::to_owned),
                known,
            }),
            None => {
                let (files, has_flags) = (self.described(), self.settings.has_flags);
                Err(KubeconfigError::NoCurrentContext { files, known, has_flags })
            }
        }
    }

    /// The credential plugin that a context names.
    pub(crate) fn plugin_of(&self, context: Option<&str>) -> Option<String> {
        let name = self.context_name(context).ok()?;
        let context = self.merged.contexts.iter().find(|context| context.name == name)?.context.as_ref()?;
        let user = self.merged.auth_infos.iter().find(|known| Some(&known.name) == context.user.as_ref())?;
        user.auth_info.as_ref()?.exec.as_ref()?.command.clone()
    }

    /// The credential plugins of all contexts, each with where it was found.
    #[must_use]
    pub fn plugins(&self) -> Vec<PluginUse> {
        let names: Vec<&str> = self.contexts().collect();
        let used = names.into_iter().filter_map(|name| Some((name, self.plugin_of(Some(name))?)));
        used.map(|(context, command)| PluginUse {
            context: context.to_owned(),
            program: super::plugin::program(&command, &self.settings.exec_path),
            command,
        })
        .collect()
    }

    /// One context taken apart: server, certificates, user, proxy, plugin.
    ///
    /// # Errors
    /// [`KubeconfigError`], naming what is missing or cannot be read.
    pub(crate) fn context(&self, wanted: Option<&str>) -> Result<ContextConfig, KubeconfigError> {
        if self.in_cluster {
            let config = Config::incluster_env().map_err(|error| KubeconfigError::Unusable {
                files: "the pod's service account".into(),
                reason: error.to_string(),
            })?;
            return Ok(ContextConfig { name: IN_CLUSTER.to_owned(), config, plugin: None });
        }
        let name = self.context_name(wanted)?;
        self.check_parts(&name)?;
        let options = KubeConfigOptions { context: Some(name.clone()), ..KubeConfigOptions::default() };
        let mut kubeconfig = self.merged.clone();
        self.check_files(&name)?;
        // Ours, below: kube-rs looks up NO_PROXY by the proxy's own name.
        let proxy = take_proxy(&mut kubeconfig, &name);
        let loaded = futures_util::FutureExt::now_or_never(Config::from_custom_kubeconfig(kubeconfig, &options));
        let mut config = loaded
            .ok_or_else(|| KubeconfigError::Unusable {
                files: self.described(),
                reason: "it was not read at once".into(),
            })?
            .map_err(|source| self.explain(&name, &source))?;
        self.check_server(&name, &config)?;
        let proxy = match proxy {
            Some(proxy) => Some(proxy),
            None => proxy_from_environment(&config.cluster_url),
        };
        config.proxy_url = match proxy {
            None => None,
            Some(text) => Some(
                super::proxy::parse(&text)
                    .map_err(|source| KubeconfigError::Proxy { context: name.clone(), source })?,
            ),
        };
        let plugin = match config.auth_info.exec.take() {
            Some(exec) => Some(
                ExecPlugin::find(exec, &self.settings.exec_path)
                    .map_err(|source| KubeconfigError::Plugin { context: name.clone(), source })?,
            ),
            None => None,
        };
        Ok(ContextConfig { name, config, plugin })
    }

    /// What kube-rs would pass over: a context without its cluster or user.
    fn check_parts(&self, name: &str) -> Result<(), KubeconfigError> {
        let named = self.merged.contexts.iter().find(|context| context.name == name);
        let Some(context) = named.and_then(|named| named.context.as_ref()) else {
            return Err(KubeconfigError::Unusable {
                files: self.described(),
                reason: format!("the context `{name}` is empty"),
            });
        };
        let cluster = self.merged.clusters.iter().find(|cluster| cluster.name == context.cluster);
        let Some(cluster) = cluster.and_then(|named| named.cluster.as_ref()) else {
            return Err(KubeconfigError::Missing {
                context: name.to_owned(),
                what: "cluster",
                name: context.cluster.clone(),
                files: self.described(),
            });
        };
        if cluster.server.as_deref().unwrap_or_default().is_empty() {
            return Err(KubeconfigError::Missing {
                context: name.to_owned(),
                what: "server of the cluster",
                name: context.cluster.clone(),
                files: self.described(),
            });
        }
        match context.user.as_deref().filter(|user| !user.is_empty()) {
            Some(user) if !self.merged.auth_infos.iter().any(|known| known.name == user) => {
                Err(KubeconfigError::Missing {
                    context: name.to_owned(),
                    what: "user",
                    name: user.to_owned(),
                    files: self.described(),
                })
            }
            _ => Ok(()),
        }
    }

    /// What kube-rs would wait for, or read without an end.
    fn check_files(&self, name: &str) -> Result<(), KubeconfigError> {
        let context = self.merged.contexts.iter().find(|named| named.name == name);
        let Some(context) = context.and_then(|named| named.context.as_ref()) else { return Ok(()) };
        let cluster = self.merged.clusters.iter().find(|named| named.name == context.cluster);
        let cluster = cluster.and_then(|named| named.cluster.as_ref());
        let user = self.merged.auth_infos.iter().find(|named| Some(&named.name) == context.user.as_ref());
        let user = user.and_then(|named| named.auth_info.as_ref());
        let files = [
            ("certificate authority", cluster.and_then(|cluster| cluster.certificate_authority.as_ref())),
            ("client certificate", user.and_then(|user| user.client_certificate.as_ref())),
            ("client key", user.and_then(|user| user.client_key.as_ref())),
        ];
        for (what, path) in files {
            // What else is wrong with it is told by whoever reads it, if anybody does.
            if let Some(path) = path
                && let Err(error) = regular_file::open(Path::new(path))
                && error.kind() == std::io::ErrorKind::InvalidInput
            {
                let reason = format!("{path}: {error}");
                return Err(KubeconfigError::Certificate { context: name.to_owned(), what, reason });
            }
        }
        Ok(())
    }

    /// What kube-rs would find out with the first connection only, or never.
    fn check_server(&self, name: &str, config: &Config) -> Result<(), KubeconfigError> {
        let url = &config.cluster_url;
        let scheme = url.scheme_str().unwrap_or_default();
        if !matches!(scheme, "https" | "http") || !super::proxy::has_plain_authority(url) {
            return Err(KubeconfigError::Unusable {
                files: self.described(),
                reason: format!("the server `{url}` of the context `{name}` is no https://HOST:PORT"),
            });
        }
        if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
            return Err(KubeconfigError::Certificate {
                context: name.to_owned(),
                what: "certificate authority",
                reason: "it holds no certificate".to_owned(),
            });
        }
        Ok(())
    }

    fn explain(&self, context: &str, source: &kube::config::KubeconfigError) -> KubeconfigError {
        use kube::config::KubeconfigError as Theirs;
        let what = match source {
            Theirs::LoadCertificateAuthority(_) | Theirs::ParseCertificates(_) => "certificate authority",
            Theirs::LoadClientCertificate(_) => "client certificate",
            Theirs::LoadClientKey(_) => "client key",
            other => {
                return KubeconfigError::Unusable { files: self.described(), reason: other.to_string() };
            }
        };
        KubeconfigError::Certificate { context: context.to_owned(), what, reason: source.to_string() }
    }

    /// The files as text, for messages.
    #[must_use]
    pub fn described(&self) -> String {
        described(&self.files)
    }
}

const IN_CLUSTER: &str = "in-cluster";

fn described(files: &[PathBuf]) -> String {
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    names.join(", ")
}

/// The files to read, and whether the user named them on the command line or in the configuration.
fn paths(setting: Option<&str>) -> (Vec<PathBuf>, bool) {
    if let Some(list) = setting.filter(|list| !list.is_empty()) {
        let paths: Vec<PathBuf> =
            std::env::split_paths(list).filter(|p| !p.as_os_str().is_empty()).map(expand).collect();
        let single = paths.len() == 1;
        return (paths, single);
    }
    if let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        return (std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect(), false);
    }
    (vec![expand(PathBuf::from("~/.kube/config"))], false)
}

/// `~` at the start is the user's home.
pub(crate) fn expand(path: PathBuf) -> PathBuf {
    let Ok(rest) = path.strip_prefix("~") else { return path };
    match home() {
        Some(home) => Path::new(&home).join(rest),
        None => path,
    }
}

pub(crate) fn home() -> Option<OsString> {
    std::env::var_os("HOME").filter(|home| !home.is_empty())
}

fn read_one(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
    use kube::config::KubeconfigError as Theirs;
    regular_file::open(path).map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })?;
    Kubeconfig::read_from(path).map_err(|source| match source {
        Theirs::ReadConfig(source, _) => KubeconfigError::Read { path: path.to_owned(), source },
        other => unusable(path, &other),
    })
}

fn unusable(path: &Path, source: &kube::config::KubeconfigError) -> KubeconfigError {
    KubeconfigError::Unusable { files: path.display().to_string(), reason: source.to_string() }
}

/// Takes `proxy-url` of the context's cluster out.
fn take_proxy(kubeconfig: &mut Kubeconfig, context: &str) -> Option<String> {
    let cluster = kubeconfig
        .contexts
        .iter()
        .find(|named| named.name == context)
        .and_then(|named| named.context.as_ref())
        .map(|context| context.cluster.clone())?;
    let named = kubeconfig.clusters.iter_mut().find(|named| named.name == cluster)?;
    named.cluster.as_mut()?.proxy_url.take().filter(|url| !url.is_empty())
}

/// `HTTPS_PROXY` (or `HTTP_PROXY` for a plain server), unless `NO_PROXY` has the server's host.
fn proxy_from_environment(server: &http::Uri) -> Option<String> {
    let either = |name: &str| {
        [name.to_owned(), name.to_lowercase()]
            .into_iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    };
    let proxy = either(if server.scheme_str() == Some("http") { "HTTP_PROXY" } else { "HTTPS_PROXY" })?;
    let host = server.host().unwrap_or_default();
    let port = server.port_u16().unwrap_or(443);
    let excluded = either("NO_PROXY").is_some_and(|list| NoProxy::parse(&list).covers(host, port));
    (!excluded).then_some(proxy)
}

/// Why a context cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// There is no file.
    #[error("there is no kubeconfig (looked at {})", described(looked_at))]
    NoFile {
        /// The places looked at.
        looked_at: Vec<PathBuf>,
        /// Whether `--kubeconfig` can be given.
        has_flags: bool,
    },
    /// A file cannot be read.
    #[error("cannot read the kubeconfig {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("the kubeconfig {files} cannot be used: {reason}")]
    Unusable {
        /// The file or files.
        files: String,
        /// What is wrong.
        reason: String,
    },
    /// No context is named and none is current.
    #[error("{files} has no current context")]
    NoCurrentContext {
        /// The files.
        files: String,
        /// Contexts there are.
        known: Vec<String>,
        /// Whether `--context` can be given.
        has_flags: bool,
    },
    /// A context of that name does not exist.
    #[error("the context `{context}` is not in {files}{}", has(known))]
    UnknownContext {
        /// The name.
        context: String,
        /// The files.
        files: String,
        /// The nearest name there is.
        nearest: Option<String>,
        /// Contexts there are.
        known: Vec<String>,
    },
    /// The context names something that is not in the files.
    #[error("the {what} `{name}` of the context `{context}` is not in {files}")]
    Missing {
        /// The context.
        context: String,
        /// What is missing.
        what: &'static str,
        /// Its name.
        name: String,
        /// The files.
        files: String,
    },
    /// A certificate or key cannot be read.
    #[error("the {what} of the context `{context}` cannot be used: {reason}")]
    Certificate {
        /// The context.
        context: String,
        /// Which one.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The credential plugin is not there.
    #[error("the credential plugin of the context `{context}` cannot be run")]
    Plugin {
        /// The context.
        context: String,
        /// Why not.
        #[source]
        source: PluginError,
    },
    /// The proxy cannot be used.
    #[error("the proxy of the context `{context}` cannot be used")]
    Proxy {
        /// The context.
        context: String,
        /// Why not.
        #[source]
        source: ProxyError,
    },
}

impl Diagnose for KubeconfigError {
    fn fault(&self) -> Fault {
        match self {
            Self::NoFile { .. }
            | Self::Read { .. }
            | Self::Unusable { .. }
            | Self::NoCurrentContext { .. }
            | Self::UnknownContext { .. }
            | Self::Missing { .. }
            | Self::Certificate { .. }
            | Self::Proxy { .. } => Fault::Config,
            Self::Plugin { source, .. } => source.fault(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoFile { has_flags: true, .. } => {
                Some("name one: --kubeconfig FILE, $KUBECONFIG, or kubernetes.kubeconfig in adit.yaml".into())
            }
            Self::NoFile { has_flags: false, .. } => {
                Some("name one in kubernetes.kubeconfig of adit.yaml, or in $KUBECONFIG".into())
            }
            Self::Read { source, .. } if source.kind() == std::io::ErrorKind::InvalidInput => {
                Some("name a file: it is read again when credentials are refused, or it has changed".into())
            }
            Self::Read { .. } => Some("check the path, and that this user may read the file".into()),
            Self::Unusable { .. } => Some("`kubectl config view` shows what kubectl makes of it".into()),
            Self::NoCurrentContext { known, .. } if known.is_empty() => Some("it has no contexts either".into()),
            Self::NoCurrentContext { known, has_flags, .. } => {
                let flag = if *has_flags { "with --context or " } else { "" };
                Some(format!("name one, {flag}in the target (k8s://CONTEXT/…): {}", known.join(", ")))
            }
            Self::UnknownContext { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            Self::UnknownContext { .. } => Some("`kubectl config get-contexts` lists them".into()),
            Self::Missing { what, .. } => Some(format!("add the {what} to the file, or use another context")),
            Self::Certificate { .. } => Some("the file may have moved: paths are relative to the kubeconfig".into()),
            Self::Plugin { source, .. } => source.hint(),
            Self::Proxy { source, .. } => source.hint(),
        }
    }
}

fn has(known: &[String]) -> String {
    const SHOWN: usize = 8;
    match known.len() {
        0 => String::from(" (it has none)"),
        n if n <= SHOWN => format!(" (has: {})", known.join(", ")),
        n => format!(" (has: {} and {} more)", known[..SHOWN].join(", "), n - SHOWN),
    }
}
