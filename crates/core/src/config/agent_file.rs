//! `adit.yaml` as a whole: read once, with the problems of all its sections, whichever of them is asked for.

use super::reader::Reader;
use super::{
    DaemonConfig, Defaults, Environment, ForwardConfig, GatewayConfig, KubernetesConfig, Problems, PublishConfig,
    check, daemon, forwards, gateway, kubernetes, publish, tree,
};
use crate::target::Target;

/// Everything `adit.yaml` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentFile {
    /// `kubernetes`: how clusters are reached; as if it were empty when it is not there.
    pub kubernetes: KubernetesConfig,
    /// `defaults`: what holds for forwards that say nothing else. It is in them already.
    pub defaults: Defaults,
    /// `forwards` in the order of the file.
    pub forwards: Vec<ForwardConfig>,
    /// `gateway`: the port for HTTP and TLS, when the section is there.
    pub gateway: Option<GatewayConfig>,
    /// `publish`: what is published, when the section is there.
    pub publish: Option<PublishConfig>,
    /// `daemon`: what holds for the daemon itself; as if it were empty when it is not there.
    pub daemon: DaemonConfig,
}

impl AgentFile {
    /// Parses the file. `file` is its name, for messages and relative paths; `env` looks up variables.
    ///
    /// # Errors
    /// With every problem of the file at once.
    pub fn parse(file: &str, text: &str, env: Environment<'_>) -> Result<Self, Problems> {
        read(file, text, env, false)
    }

    /// A forward by its name.
    #[must_use]
    pub fn forward(&self, name: &str) -> Option<&ForwardConfig> {
        self.forwards.iter().find(|forward| forward.name == name)
    }

    /// Every target of the file, with the keys that lead to its `to`.
    #[must_use]
    pub fn targets(&self) -> Vec<(Vec<&str>, &Target)> {
        check::references(self)
    }

    /// What is an alias in a host is one in a target, too.
    fn resolve_aliases(&mut self) {
        let Some(gateway) = &mut self.gateway else { return };
        let aliases = &gateway.aliases;
        let forwards = self.forwards.iter_mut().map(|forward| &mut forward.to);
        let routes = gateway.routes.iter_mut().map(|route| &mut route.to);
        let tunnels = self.publish.iter_mut().flat_map(|publish| &mut publish.tunnels).map(|tunnel| &mut tunnel.to);
        for target in forwards.chain(routes).chain(tunnels) {
            let context = match target {
                Target::Kubernetes(target) => &mut target.context,
                Target::Jump(target) => &mut target.context,
                Target::Ssh(_) | Target::Local(_) | Target::Forward(_) => continue,
            };
            // Not by another case: contexts tell `Prod` from `prod`, and the wrong cluster is worse than none.
            let named = |(label, _): &&(String, String)| context.as_ref() == Some(label);
            if let Some((_, meant)) = aliases.iter().find(named) {
                *context = Some(meant.clone());
            }
        }
    }
}

/// Reads the file; `publishes` says that nothing can be done without a section `publish`.
pub(super) fn read(file: &str, text: &str, env: Environment<'_>, publishes: bool) -> Result<AgentFile, Problems> {
    let (mut node, problems) = tree::read(file, text).map_err(Problems::one)?;
    // A route or a forward may be its target alone.
    node.spread(&["gateway", "routes"], "to");
    node.spread(&["forwards"], "to");
    let reader = Reader::new(file, env, problems);
    let found = {
        let root = reader.root(&node);
        root.version();
        let has_publish = root.has("publish");
        if publishes && !has_publish {
            root.missing("publish", "say what to publish: publish: { server: …, tunnels: { … } }");
        }
        let kubernetes = kubernetes::read(root.section("kubernetes"));
        let defaults = forwards::defaults(root.section("defaults"));
        let forwards = forwards::forwards(&root.section("forwards"), &defaults);
        let has_gateway = root.has("gateway");
        let gateway = gateway::parse::gateway(root.section("gateway"), &defaults);
        let publish = publish::parse::publish(root.section("publish"));
        let daemon = daemon::read(root.section("daemon"));
        let mut file = AgentFile {
            kubernetes,
            defaults,
            forwards,
            gateway: has_gateway.then_some(gateway),
            publish: has_publish.then_some(publish),
            daemon,
        };
        file.resolve_aliases();
        check::whole(&root, &file);
        root.finish();
        file
    };
    reader.finish(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AgentFile, Problems> {
        AgentFile::parse("adit.yaml", text, &|_| None)
    }

    #[test]
    fn every_section_may_be_left_out() {
        assert_eq!(parse(""), Ok(AgentFile::default()));
        let file = parse("kubernetes: { keepalive: 1m }\n").unwrap();
        assert_eq!(file.publish, None);
        assert_eq!(file.kubernetes.keepalive, Some(std::time::Duration::from_secs(60)));
        assert_eq!(parse("publish: {}").unwrap().publish, Some(PublishConfig::default()));
    }

    #[test]
    fn an_alias_names_its_context_in_every_target() {
        let text = "
forwards: { f: { to: 'k8s://eks/ns/service/db:1', listen: 1 }, j: { to: 'jump://eks/ns/pod/p/h:1', listen: 2 } }
gateway:
  aliases: { eks: 'arn:aws:eks:eu:1:cluster/p' }
  routes: { w.localhost: 'k8s://eks/ns/service/w:80', other.localhost: 'k8s://EKS/ns/service/w:80' }
publish: { server: 'h:1', tunnels: { t: { to: 'k8s://eks/ns/service/w:80' } } }
";
        let contexts = |file: &AgentFile| {
            let context = |target: &Target| match target {
                Target::Kubernetes(target) => target.context.clone(),
                Target::Jump(target) => target.context.clone(),
                _ => None,
            };
            file.targets().into_iter().filter_map(|(_, target)| context(target)).collect::<Vec<_>>()
        };
        let eks = "arn:aws:eks:eu:1:cluster/p";
        let file = parse(text).unwrap();
        assert_eq!(contexts(&file), [eks, eks, eks, "EKS", eks]);
        // What is shown means the same when it is read.
        let shown = parse(&file.effective_yaml()).unwrap();
        assert_eq!(contexts(&shown), contexts(&file));
    }

    #[test]
    fn the_problems_of_all_sections_are_reported_whichever_is_asked_for() {
        let text = "kubernetes: { keepalive: x }\npublish: { lanes: 0 }\nforwards: { a: {} }\n";
        let keys = |problems: Problems| problems.0.into_iter().map(|p| p.key).collect::<Vec<_>>();
        let expected = ["kubernetes.keepalive", "publish.lanes", "forwards.a.to"];
        let env = |_: &str| None;
        assert_eq!(keys(parse(text).unwrap_err()), expected);
        assert_eq!(keys(PublishConfig::parse("adit.yaml", text, &env).unwrap_err()), expected);
        assert_eq!(keys(KubernetesConfig::parse("adit.yaml", text, &env).unwrap_err()), expected);
    }
}
