//! Which cluster: the kubeconfig, the context and its namespace, and whether it may be touched.

use std::path::PathBuf;
use std::sync::Arc;

use ::forward::{Clusters, KubeSettings, SshServers};
use adit_core::config::{AgentFile, KubernetesConfig};

use super::ForwardArguments;
use super::asked::Asked;
use crate::command::protection::Protection;
use crate::command::{Global, files};
use crate::report::{Failure, failure};

/// Where a context has none.
const DEFAULT_NAMESPACE: &str = "default";

/// Reads what is needed to reach the targets, and writes context and namespace into them. Connects to nothing.
pub(super) fn open(global: &Global, arguments: &ForwardArguments, asked: &mut Asked) -> Result<Arc<Clusters>, Failure> {
    let config = config(global)?;
    let clusters = Clusters::with_ssh(settings(arguments, &config), SshServers::new(crate::command::ssh::ask()));
    let mut touched: Vec<String> = Vec::new();
    for (context, namespace) in asked.ports.iter_mut().filter_map(super::asked::AskedPort::place_mut) {
        let kubeconfigs = clusters.kubeconfigs().map_err(|error| failure(&error))?;
        let name = kubeconfigs.context_name(context.as_deref()).map_err(|error| failure(&error))?;
        if namespace.is_none() {
            *namespace = Some(kubeconfigs.namespace_of(&name).unwrap_or(DEFAULT_NAMESPACE).to_owned());
        }
        *context = Some(name.clone());
        if !touched.contains(&name) {
            touched.push(name);
        }
    }
    let protection = Protection::new(&arguments.protect, arguments.yes, config)?;
    touched.iter().try_for_each(|context| protection.check(context))?;
    Ok(clusters)
}

/// The section `kubernetes` of `adit.yaml`, if there is one.
fn config(global: &Global) -> Result<KubernetesConfig, Failure> {
    let path = global
        .config
        .clone()
        .or_else(|| std::env::var_os("ADIT_CONFIG").map(PathBuf::from))
        .or_else(|| files::find("adit.yaml"));
    match path {
        Some(path) => {
            let file = AgentFile::parse(&path.display().to_string(), &files::read_once(&path)?, &files::environment)?;
            Ok(file.kubernetes)
        }
        None => Ok(KubernetesConfig::default()),
    }
}

fn settings(arguments: &ForwardArguments, config: &KubernetesConfig) -> KubeSettings {
    let of_file = files::kube_settings(config);
    KubeSettings { kubeconfig: arguments.kubeconfig.clone().or(of_file.kubeconfig), has_flags: true, ..of_file }
}

#[cfg(test)]
mod tests {
    use super::super::try_parse;
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_file() {
        let config = KubernetesConfig::parse("adit.yaml", "kubernetes: { kubeconfig: '/a:/b' }", &|_| None).unwrap();
        let of = |line: &[&str]| settings(&try_parse(&[&["web", "80"], line].concat()).unwrap(), &config).kubeconfig;
        assert_eq!(of(&[]).as_deref(), Some("/a:/b"));
        assert_eq!(of(&["--kubeconfig", "/c"]).as_deref(), Some("/c"));
    }
}
