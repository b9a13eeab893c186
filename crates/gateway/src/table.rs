//! The routes of one configuration. A reload makes the next table, which takes over what stays as it is.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use adit_core::config::gateway::{BasicAuth as BasicAuthConfig, GatewayTls, PasswordSource, UpstreamScheme as Scheme};
use adit_core::config::kubernetes::ProtectPattern;
use adit_core::config::{GatewayConfig, RouteConfig};
use adit_core::diagnose::{Diagnose, Fault};
use adit_core::route::{PathPrefix, RouteConflict, RouteTable};
use adit_core::target::Target;
use forward::{Clusters, Forward, ForwardSet};
use runtime::password::read_password;
use runtime::regular_file;
use runtime::scope::Scope;
use runtime::tls::ServerTrust;
use sha2::{Digest as _, Sha256};

use crate::dynamic::{Dynamic, DynamicSettings};
use crate::targets::{Targets, forward_name};
use crate::traffic::Traffic;
use crate::upstream::{
    BasicAuth, Instead, Upstream, UpstreamError, UpstreamOptions, UpstreamScheme, UpstreamTls, UpstreamTrust,
};

/// What tables are made from, beside the configuration.
#[derive(Clone, Copy, Debug)]
pub struct TableParts<'a> {
    /// Where streams to targets come from.
    pub targets: &'a Arc<Targets>,
    /// The forwards that will be in force with the table.
    pub forwards: &'a ForwardSet,
    /// For dynamic hosts.
    pub clusters: &'a Arc<Clusters>,
    /// The contexts that are touched only when they are named.
    pub protect: &'a [ProtectPattern],
    /// Where the tasks of upstreams and forwards live.
    pub scope: &'a Scope,
}

/// All routes of a configuration.
#[derive(Debug)]
pub struct Table {
    routes: RouteTable<Arc<Route>>,
    /// In the order of the file.
    list: Vec<Arc<Route>>,
    /// Those of them that are for some paths only.
    with_paths: Vec<Arc<Route>>,
    dynamic: Option<Arc<Dynamic>>,
    tls: GatewayTls,
}

/// One static route.
#[derive(Debug)]
pub struct Route {
    /// As it is written.
    pub config: RouteConfig,
    /// Requests to it.
    pub upstream: Arc<Upstream>,
    /// The forward behind it, if it is not a plain address.
    pub forward: Option<Forward>,
    /// TLS connections that are handed on.
    pub traffic: Arc<Traffic>,
    /// What the files said that it names.
    files: FilesSeen,
}

/// The contents of a route's CA and password files, as a digest; `None` for one that is not named or not there.
type FilesSeen = [Option<[u8; 32]>; 2];

/// Why a configuration makes no table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Two routes are for the same requests.
    #[error(transparent)]
    Conflict(#[from] RouteConflict),
    /// A route leads to a forward that is not there.
    #[error("gateway.routes.{key}: there is no forward `{name}`")]
    NoForward {
        /// The route.
        key: String,
        /// The forward's name.
        name: String,
    },
    /// A route cannot be set up.
    #[error("gateway.routes.{key}")]
    Upstream {
        /// The route.
        key: String,
        /// Why.
        #[source]
        source: UpstreamError,
    },
    /// A route's password cannot be read.
    #[error("gateway.routes.{key}: the password file {} cannot be used: {reason}", path.display())]
    Password {
        /// The route.
        key: String,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Diagnose for TableError {
    fn fault(&self) -> Fault {
        Fault::Config
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Conflict(conflict) => conflict.hint(),
            Self::NoForward { .. } => Some("name one of the section `forwards` that is not disabled".into()),
            Self::Upstream { source, .. } => source.hint(),
            Self::Password { path, .. } => {
                Some(format!("it must be there, and nobody else's to read: chmod 600 {}", path.display()))
            }
        }
    }
}

impl Table {
    /// A table without routes.
    #[must_use]
    pub fn empty() -> Self {
        let routes = RouteTable::new(Vec::new()).expect("nothing conflicts with nothing");
        Self { routes, list: Vec::new(), with_paths: Vec::new(), dynamic: None, tls: GatewayTls::Passthrough }
    }

    /// The table of `config`, with those routes of `self` that stay as they are.
    ///
    /// # Errors
    /// [`TableError`]; then nothing was changed.
    pub fn next(&self, config: &GatewayConfig, parts: TableParts<'_>) -> Result<Self, TableError> {
        let old: HashMap<&str, &Arc<Route>> =
            self.list.iter().map(|route| (route.config.key.as_str(), route)).collect();
        let mut list = Vec::with_capacity(config.routes.len());
        for route in &config.routes {
            list.push(next_route(old.get(route.key.as_str()).copied(), route, parts)?);
        }
        let entries =
            list.iter().map(|route| (route.config.host.clone(), route.config.path.clone(), Arc::clone(route)));
        let routes = RouteTable::new(entries.collect())?;
        let with_paths = list.iter().filter(|route| route.config.path.is_some()).map(Arc::clone).collect();
        Ok(Self { routes, list, with_paths, dynamic: self.next_dynamic(config, parts), tls: config.tls })
    }

    /// The keys of routes that are written as in `old` and have other files.
    #[must_use]
    pub fn remade(&self, old: &Self) -> Vec<String> {
        let before: HashMap<&str, &Arc<Route>> =
            old.list.iter().map(|route| (route.config.key.as_str(), route)).collect();
        let remade = self.list.iter().filter(|route| {
            let key = route.config.key.as_str();
            before.get(key).is_some_and(|old| old.config == route.config && old.files != route.files)
        });
        remade.map(|route| route.config.key.clone()).collect()
    }

    /// Dynamic hosts that neither of two tables shares with the other take nothing new.
    pub fn retire(&self, other: &Self) {
        if let Some(dynamic) = &self.dynamic
            && !other.dynamic.as_ref().is_some_and(|other| Arc::ptr_eq(dynamic, other))
        {
            dynamic.stop();
        }
    }

    /// The static routes in the order of the file.
    #[must_use]
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.list
    }

    /// The static route for a host (lower-case, without port and trailing dot) and a path; without a path that for
    /// all of a host.
    #[must_use]
    pub fn find(&self, host: &str, path: Option<&str>) -> Option<&Arc<Route>> {
        self.routes.find(host, path)
    }

    /// Whether the host has routes for some of its paths: then its TLS has to end here, as the path is within.
    #[must_use]
    pub fn has_paths(&self, host: &str) -> bool {
        self.paths(host).next().is_some()
    }

    /// The paths that a host has routes for.
    pub fn paths(&self, host: &str) -> impl Iterator<Item = &PathPrefix> {
        let own = self.with_paths.iter().filter(move |route| route.config.host.matches(host));
        own.filter_map(|route| route.config.path.as_ref())
    }

    /// Whether a path may be read in several ways that lead to different routes.
    #[must_use]
    pub fn is_ambiguous(&self, host: &str, path: &str) -> bool {
        self.routes.is_ambiguous(host, path)
    }

    /// Hosts of routes that are written nearly alike.
    #[must_use]
    pub fn near(&self, host: &str, most: usize) -> Vec<String> {
        self.routes.near(host, most)
    }

    /// Dynamic hosts, if there are any.
    #[must_use]
    pub fn dynamic(&self) -> Option<&Arc<Dynamic>> {
        self.dynamic.as_ref()
    }

    /// What is done with TLS.
    #[must_use]
    pub const fn tls(&self) -> GatewayTls {
        self.tls
    }

    fn next_dynamic(&self, config: &GatewayConfig, parts: TableParts<'_>) -> Option<Arc<Dynamic>> {
        let settings = DynamicSettings {
            suffix: config.dynamic_host.clone()?,
            aliases: config.aliases.clone(),
            allow: config.allow.clone(),
            protect: parts.protect.to_vec(),
            idle_timeout: config.idle_timeout,
        };
        let kept = self.dynamic.as_ref().filter(|dynamic| dynamic.is(&settings, parts.clusters));
        Some(kept.map_or_else(|| Dynamic::new(settings, parts.targets, parts.clusters, parts.scope), Arc::clone))
    }
}

fn next_route(old: Option<&Arc<Route>>, config: &RouteConfig, parts: TableParts<'_>) -> Result<Arc<Route>, TableError> {
    let forward = match &config.to {
        Target::Local(_) => None,
        target => {
            let name = forward_name(target);
            let found = parts.forwards.get(&name).cloned();
            Some(found.ok_or_else(|| TableError::NoForward { key: config.key.clone(), name })?)
        }
    };
    let same = |old: &Route| match (&old.forward, &forward) {
        (Some(old), Some(new)) => old.is(new),
        (None, None) => true,
        _ => false,
    };
    let files = files_seen(config);
    if let Some(old) = old
        && old.config == *config
        && old.files == files
        && same(old)
    {
        return Ok(Arc::clone(old));
    }
    let options = upstream_options(config, parts)?;
    let upstream = Upstream::new(options).map_err(|source| TableError::Upstream { key: config.key.clone(), source })?;
    let traffic = old.map(|old| Arc::clone(&old.traffic)).unwrap_or_default();
    Ok(Arc::new(Route { config: config.clone(), upstream, forward, traffic, files }))
}

fn upstream_options(config: &RouteConfig, parts: TableParts<'_>) -> Result<UpstreamOptions, TableError> {
    let scheme = match config.scheme {
        Scheme::Http => UpstreamScheme::Http,
        Scheme::Https => UpstreamScheme::Https,
        Scheme::H2c => UpstreamScheme::H2c,
    };
    let connect = parts.targets.connect(&config.to);
    let mut options = UpstreamOptions::new(&config.key, connect, scheme, parts.scope);
    options.tls = UpstreamTls { server_name: server_name(config), trust: trust(config) };
    options.host_header.clone_from(&config.host_header);
    options.headers = config.headers.clone();
    options.response_headers = config.response_headers.clone();
    options.timeout = config.timeout;
    options.terminates = config.terminate;
    if let Target::Kubernetes(target) = &config.to {
        options.instead = Instead::of(target);
    }
    // What waits in a pool is a live stream to its forward: it must not outlast the idle time that was asked for.
    let idle = match &config.to {
        Target::Local(_) => None,
        target => parts.forwards.spec(&forward_name(target)).and_then(|spec| spec.options.settings.idle_timeout),
    };
    options.keep = options.keep.min(idle.unwrap_or(options.keep));
    if let Some(auth) = &config.basic_auth {
        let password = match &auth.password {
            PasswordSource::Value(password) => password.clone(),
            PasswordSource::File(path) => read_password(path).map_err(|reason| TableError::Password {
                key: config.key.clone(),
                path: path.clone(),
                reason,
            })?,
        };
        options.basic_auth = Some(BasicAuth { user: auth.user.clone(), password });
    }
    Ok(options)
}

/// The name that the certificate must have: the one that is configured, or the target's own.
fn server_name(config: &RouteConfig) -> String {
    config.tls.server_name.as_ref().map_or_else(|| config.to.host(), |name| name.as_str().to_owned())
}

fn trust(config: &RouteConfig) -> UpstreamTrust {
    match (&config.tls.ca, config.tls.verify) {
        (_, false) => UpstreamTrust::Anything,
        (Some(file), true) => UpstreamTrust::Verified(ServerTrust::CaFile(file.clone())),
        (None, true) => UpstreamTrust::Verified(ServerTrust::Roots),
    }
}

fn files_seen(config: &RouteConfig) -> FilesSeen {
    let password = match &config.basic_auth {
        Some(BasicAuthConfig { password: PasswordSource::File(path), .. }) => Some(path),
        _ => None,
    };
    [config.tls.ca.as_ref(), password]
        .map(|path| regular_file::read(path?).ok().map(|bytes| Sha256::digest(bytes).into()))
}
