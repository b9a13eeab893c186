//! Which cluster: the kubeconfig, the context and its namespace, and whether it may be touched.

use std::path::PathBuf;
use std::sync::Arc;

use ::forward::{Clusters, KubeSettings};
use adit_core::config::kubernetes::ProtectPattern;
use adit_core::config::{AgentFile, KubernetesConfig};
use adit_core::diagnose::Fault;

use super::ForwardArguments;
use super::asked::Asked;
use crate::command::{Global, files};
use crate::report::{Failure, failure};
use crate::terminal;

/// Where a context has none.
const DEFAULT_NAMESPACE: &str = "default";

/// Reads what is needed to reach the targets, and writes context and namespace into them. Connects to nothing.
pub(super) fn open(global: &Global, arguments: &ForwardArguments, asked: &mut Asked) -> Result<Arc<Clusters>, Failure> {
    let config = config(global)?;
    let clusters = Clusters::new(settings(arguments, &config));
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
    let protection = Protection::new(arguments, config)?;
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
            let file = AgentFile::parse(&path.display().to_string(), &files::read(&path)?, &files::environment)?;
            Ok(file.kubernetes)
        }
        None => Ok(KubernetesConfig::default()),
    }
}

fn settings(arguments: &ForwardArguments, config: &KubernetesConfig) -> KubeSettings {
    let of_file = files::kube_settings(config);
    KubeSettings { kubeconfig: arguments.kubeconfig.clone().or(of_file.kubeconfig), ..of_file }
}

/// The contexts that are touched only after a question.
struct Protection {
    of_arguments: Vec<ProtectPattern>,
    of_file: KubernetesConfig,
    yes: bool,
}

impl Protection {
    fn new(arguments: &ForwardArguments, of_file: KubernetesConfig) -> Result<Self, Failure> {
        let parse = |text: &String| {
            ProtectPattern::parse(text).map_err(|problem| {
                Failure::new(Fault::Usage, format!("--protect: {}", problem.message), problem.hint.unwrap_or_default())
            })
        };
        let of_arguments = arguments.protect.iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { of_arguments, of_file, yes: arguments.yes })
    }

    fn pattern(&self, context: &str) -> Option<&ProtectPattern> {
        self.of_arguments.iter().find(|pattern| pattern.matches(context)).or_else(|| self.of_file.protects(context))
    }

    fn check(&self, context: &str) -> Result<(), Failure> {
        let Some(pattern) = self.pattern(context) else { return Ok(()) };
        if self.yes {
            return Ok(());
        }
        let refusal = |message: String, hint: &str| Err(Failure::new(Fault::NotPermitted, message, hint));
        if !terminal::can_ask() {
            let message = format!("context `{context}` is protected (by `{}`)", pattern.as_str());
            return refusal(message, "add --yes if you mean this context; on a terminal adit asks instead");
        }
        match terminal::ask(&format!("context `{context}` is protected: type its name to go on: ")) {
            Some(answer) if answer == context => Ok(()),
            _ => refusal(
                format!("context `{context}` was not confirmed"),
                "type the name of the context exactly, or add --yes",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::try_parse;
    use super::*;

    fn protection(line: &[&str], file: &str) -> Result<Protection, Failure> {
        let arguments = try_parse(&[&["web", "80"], line].concat()).unwrap();
        let config = KubernetesConfig::parse("adit.yaml", file, &|_| None).unwrap();
        Protection::new(&arguments, config)
    }

    #[test]
    fn a_context_is_protected_by_either_place() {
        let both = protection(&["--protect", "^prod"], "kubernetes: { protect: [live$] }").unwrap();
        assert_eq!(both.pattern("prod-1").map(ProtectPattern::as_str), Some("^prod"));
        assert_eq!(both.pattern("eu-live").map(ProtectPattern::as_str), Some("live$"));
        assert!(both.pattern("dev").is_none());
        assert!(both.check("dev").is_ok());
    }

    #[test]
    fn yes_answers_the_question_beforehand() {
        assert!(protection(&["--protect", "prod", "--yes"], "").unwrap().check("prod").is_ok());
    }

    #[test]
    fn a_pattern_that_is_none_is_a_mistake() {
        let failure = format!("{:?}", protection(&["--protect", "("], "").err().expect("no expression"));
        assert!(failure.contains("is not a regular expression"), "{failure}");
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let config = KubernetesConfig::parse("adit.yaml", "kubernetes: { kubeconfig: '/a:/b' }", &|_| None).unwrap();
        let of = |line: &[&str]| settings(&try_parse(&[&["web", "80"], line].concat()).unwrap(), &config).kubeconfig;
        assert_eq!(of(&[]).as_deref(), Some("/a:/b"));
        assert_eq!(of(&["--kubeconfig", "/c"]).as_deref(), Some("/c"));
    }
}
