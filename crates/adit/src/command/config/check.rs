//! `adit config check`: the file itself, then what it names.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ::forward::Kubeconfigs;
use adit_core::config::gateway::PasswordSource;
use adit_core::config::publish::TrustConfig;
use adit_core::config::server::ServerConfig;
use adit_core::config::{AgentFile, Places, Problem, Problems};
use adit_core::diagnose::{Diagnose, Fault};
use adit_core::target::{SshOptions, Target};
use runtime::tls::{Identity, ServerTrust};
use serde_json::json;
use tunnel::agent::TokenSource;

use crate::command::{Global, files};
use crate::report::{Failure, Output, chain};
use crate::terminal;

/// Sections that only an agent's file has.
const AGENT_SECTIONS: [&str; 6] = ["kubernetes:", "defaults:", "forwards:", "gateway:", "publish:", "daemon:"];

pub(super) fn run(global: &Global, file: Option<&Path>) -> Result<(), Failure> {
    let given = file.or(global.config.as_deref());
    let paths: Vec<PathBuf> = match given {
        Some(path) => vec![path.to_owned()],
        None => ["server.yaml", "adit.yaml"].into_iter().filter_map(files::find).collect(),
    };
    if paths.is_empty() {
        return Err(Failure::new(
            Fault::Config,
            "there is no server.yaml or adit.yaml here",
            "name the file: adit config check FILE",
        ));
    }
    for path in paths {
        check(&path)?;
        match global.output {
            Output::Text => terminal::say(&format!("{}: fine", path.display())),
            Output::Json => terminal::data(&format!("{}\n", json!({ "file": path, "ok": true }))),
        }
    }
    Ok(())
}

/// Whether a file is an agent's; anything else is held to be a server's.
pub(super) fn is_agents(path: &Path, text: &str) -> bool {
    let has_section = |line: &str| AGENT_SECTIONS.iter().any(|section| line.starts_with(section));
    text.lines().any(has_section) || path.file_name().is_some_and(|file| file == "adit.yaml")
}

/// Where nothing leads to a cluster a kubeconfig that is not there harms nobody yet, but dynamic hosts.
fn note_kubeconfig(name: &str, file: &AgentFile) -> Option<String> {
    let is_in_cluster = |target: &Target| matches!(target, Target::Kubernetes(_) | Target::Jump(_));
    if file.kubernetes.kubeconfig.is_empty() || file.targets().iter().any(|(_, target)| is_in_cluster(target)) {
        return None;
    }
    let error = Kubeconfigs::load(&files::kube_settings(&file.kubernetes)).err()?;
    Some(format!("{name}: kubernetes.kubeconfig: {}", chain(&error)))
}

fn check(path: &Path) -> Result<(), Failure> {
    let text = files::read_once(path)?;
    let name = path.display().to_string();
    let mut named = Named::new(Places::read(&name, &text));
    let mut notes = Vec::new();
    if is_agents(path, &text) {
        let file = AgentFile::parse(&name, &text, &files::environment)?;
        notes.extend(note_kubeconfig(&name, &file));
        // One with other settings alone is of use to `adit forward`.
        if file == AgentFile::default() {
            let hint = "`adit config init` writes one with examples; `gateway: {}` is the gateway alone";
            return Err(Failure::new(Fault::Config, format!("{name} asks for nothing"), hint).with_notes(notes));
        }
        named.of_agent(&file);
    } else {
        named.of_server(&ServerConfig::parse(&name, &text, &files::environment)?);
    }
    notes.extend(named.notes.iter().map(|note| note.to_string().trim_end().to_owned()));
    if named.problems.is_empty() {
        notes.iter().for_each(|note| terminal::say(&format!("note: {note}")));
        return Ok(());
    }
    // What is wrong comes before what does no harm yet.
    Err(Failure::from(Problems::in_order(named.problems)).with_notes(notes))
}

/// Why contexts that a file names cannot be used.
#[derive(Clone)]
pub(in crate::command) struct Contexts {
    pub(in crate::command) problems: Vec<Problem>,
    /// They are mistakes: there is a kubeconfig, and it does not have these. Without one nobody knows yet.
    pub(in crate::command) are_mistakes: bool,
    /// Why each forward that leads to one of them cannot be used, by its name, with what to do.
    pub(in crate::command) of_forwards: HashMap<String, (String, Option<String>)>,
}

/// The contexts that a file names and the kubeconfig does not have.
pub(in crate::command) fn missing_contexts(path: &Path, text: &str, file: &AgentFile) -> Contexts {
    let mut named = Named::new(Places::read(&path.display().to_string(), text));
    let are_mistakes = named.contexts(file);
    Contexts { problems: named.problems, are_mistakes, of_forwards: named.of_forwards }
}

/// The contexts that a file leads to, each with the key of what does; `None` is the current one.
pub(in crate::command) fn wanted_contexts(file: &AgentFile) -> Vec<(String, Option<String>)> {
    let unused = unused(file);
    let targets = targets_in_contexts(file).into_iter().filter(|(keys, _)| !is_of(&unused, keys));
    targets.map(|(keys, context)| (keys.join("."), context)).collect()
}

/// The files that a file names and that cannot be used.
pub(in crate::command) fn missing_files(path: &Path, text: &str, file: &AgentFile) -> Vec<Problem> {
    let mut named = Named::new(Places::read(&path.display().to_string(), text));
    named.files(file);
    named.problems
}

/// The files that are looked at for that, beside those whose every change counts.
pub(in crate::command) fn named_files(file: &AgentFile) -> Vec<PathBuf> {
    let password = |password: &PasswordSource| match password {
        PasswordSource::File(path) => Some(path.clone()),
        PasswordSource::Value(_) => None,
    };
    let mut files = Vec::new();
    for probe in file.forwards.iter().filter_map(|forward| Some(&forward.health.as_ref()?.probe)) {
        files.extend(probe.login().and_then(|login| password(login.password.as_ref()?)));
        files.extend(probe.tls().and_then(|tls| tls.ca.clone()));
    }
    let targets = file.targets();
    let servers = targets.iter().filter_map(|(_, target)| match target {
        Target::Ssh(target) => Some(&target.server),
        _ => None,
    });
    let publish = file.publish.as_ref();
    for server in servers.chain(publish.and_then(|publish| publish.via.as_ref())) {
        let SshOptions { password_file, passphrase_file, key, config, known_hosts, .. } = &*server.options;
        files.extend([password_file, passphrase_file, key, config, known_hosts].into_iter().flatten().cloned());
    }
    if let Some(TrustConfig::CaFile(path)) = publish.map(|publish| &publish.trust) {
        files.push(path.clone());
    }
    files
}

/// What a file names, and what is wrong with it.
struct Named {
    places: Places,
    problems: Vec<Problem>,
    /// What is wrong with forwards that are not used: it harms nobody until they are.
    notes: Vec<Problem>,
    unused: Vec<String>,
    /// Forwards whose context is not there.
    of_forwards: HashMap<String, (String, Option<String>)>,
}

impl Named {
    fn new(places: Places) -> Self {
        Self { places, problems: Vec::new(), notes: Vec::new(), unused: Vec::new(), of_forwards: HashMap::new() }
    }

    fn of_server(&mut self, config: &ServerConfig) {
        for (section, files) in [("public", &config.public.tls), ("agents", &config.agents.tls)] {
            if let Some(files) = files
                && let Err(error) = Identity::load(&files.cert, &files.key)
            {
                self.fault(&[section, "tls"], &error);
            }
        }
    }

    fn of_agent(&mut self, config: &AgentFile) {
        self.contexts(config);
        self.files(config);
    }

    fn files(&mut self, config: &AgentFile) {
        self.unused = unused(config);
        self.of_probes(config);
        self.of_ssh(config);
        for route in config.gateway.iter().flat_map(|gateway| &gateway.routes) {
            let keys = ["gateway", "routes", route.key.as_str()];
            if let Some(path) = &route.tls.ca {
                self.authorities(&[&keys[..], &["tls", "ca"]].concat(), path);
            }
            if let Some(auth) = &route.basic_auth
                && let PasswordSource::File(path) = &auth.password
            {
                self.password(&[&keys[..], &["basic_auth", "password_file"]].concat(), path);
            }
        }
        if let Some(path) = &config.daemon.token_file
            && let Err(error) = TokenSource::File(path.clone()).read()
        {
            self.fault(&["daemon", "token_file"], &error);
        }
        let Some(publish) = &config.publish else { return };
        if publish.server.is_none()
            && publish.via.is_none()
            && !publish.tunnels.is_empty()
            && files::environment("ADIT_SERVER").is_none()
        {
            let hint = "add server: HOST:8443; only `adit expose` may take it from --server or $ADIT_SERVER";
            self.problem(&["publish"], "no server is named".into(), Some(hint.into()));
        }
        if let TrustConfig::CaFile(path) = &publish.trust {
            self.authorities(&["publish", "ca_file"], path);
        }
        if let Some(path) = &publish.token_file
            && let Err(error) = TokenSource::File(path.clone()).read()
        {
            self.fault(&["publish", "token_file"], &error);
        }
    }

    /// What probes log in with, and whom they believe.
    fn of_probes(&mut self, config: &AgentFile) {
        for forward in &config.forwards {
            let Some(health) = &forward.health else { continue };
            let keys = |key| ["forwards", forward.name.as_str(), "health", key];
            if let Some(PasswordSource::File(path)) = health.probe.login().and_then(|login| login.password.as_ref()) {
                self.password(&keys("password_file"), path);
            }
            if let Some(path) = health.probe.tls().and_then(|tls| tls.ca.as_ref()) {
                self.authorities(&keys("ca"), path);
            }
        }
    }

    /// What SSH servers are logged in to with.
    fn of_ssh(&mut self, config: &AgentFile) {
        for (keys, target) in config.targets() {
            if let Target::Ssh(target) = target {
                self.of_ssh_server(&[&keys[..], &["ssh"]].concat(), &target.server.options);
            }
        }
        if let Some(server) = config.publish.as_ref().and_then(|publish| publish.via.as_ref()) {
            self.of_ssh_server(&["publish", "via"], &server.options);
        }
    }

    fn of_ssh_server(&mut self, keys: &[&str], options: &SshOptions) {
        let at = |key| [keys, &[key]].concat();
        for (key, path) in [("password_file", &options.password_file), ("passphrase_file", &options.passphrase_file)] {
            if let Some(path) = path {
                self.password(&at(key), path);
            }
        }
        let others = [("key", &options.key), ("config", &options.config), ("known_hosts", &options.known_hosts)];
        for (key, path) in others {
            let Some(path) = path else { continue };
            if let Err(error) = runtime::regular_file::open(path) {
                let message = format!("{} cannot be read: {error}", path.display());
                let hint = "check that it is there, and that you may read it";
                self.problem(&at(key), message, Some(hint.into()));
            }
        }
    }

    /// Contexts are looked for only when the file leads to a cluster. Whether there was a kubeconfig to look in.
    fn contexts(&mut self, config: &AgentFile) -> bool {
        self.unused = unused(config);
        let aliases = config.gateway.iter().flat_map(|gateway| &gateway.aliases);
        let aliases =
            aliases.map(|(label, context)| (vec!["gateway", "aliases", label.as_str()], Some(context.clone())));
        let wanted: Vec<Wanted<'_>> = targets_in_contexts(config).into_iter().chain(aliases).collect();
        if wanted.is_empty() {
            return true;
        }
        let kubeconfigs = match Kubeconfigs::load(&files::kube_settings(&config.kubernetes)) {
            Ok(kubeconfigs) => kubeconfigs,
            Err(error) => {
                // Where the files are named, or else where they are needed first.
                let of_file = ["kubernetes", "kubeconfig"];
                let first = wanted.iter().map(|(keys, _)| keys.as_slice()).find(|keys| !self.is_unused(keys));
                let first = first.unwrap_or_else(|| wanted[0].0.as_slice());
                let keys = if config.kubernetes.kubeconfig.is_empty() { first } else { &of_file };
                self.fault(keys, &error);
                wanted.iter().for_each(|(keys, _)| self.note_forward(keys, &error));
                return false;
            }
        };
        for (keys, context) in wanted {
            if let Err(error) = kubeconfigs.context_name(context.as_deref()) {
                self.fault(&keys, &error);
                self.note_forward(&keys, &error);
            }
        }
        true
    }

    /// A forward, if the keys are those of one, cannot be used.
    fn note_forward(&mut self, keys: &[&str], error: &impl Diagnose) {
        if let ["forwards", name, ..] = keys {
            self.of_forwards.insert((*name).to_owned(), (chain(error), error.hint()));
        }
    }

    fn authorities(&mut self, keys: &[&str], path: &Path) {
        if let Err(error) = ServerTrust::CaFile(path.to_owned()).client_config(&[]) {
            self.fault(keys, &error);
        }
    }

    fn password(&mut self, keys: &[&str], path: &Path) {
        if let Err(reason) = runtime::password::read_password(path) {
            let message = format!("{} cannot be used: {reason}", path.display());
            let hint = format!("put the password into its first line, and chmod 600 {}", path.display());
            self.problem(keys, message, Some(hint));
        }
    }

    fn fault<E: Diagnose>(&mut self, keys: &[&str], error: &E) {
        self.problem(keys, chain(error), error.hint());
    }

    fn problem(&mut self, keys: &[&str], message: String, hint: Option<String>) {
        let problem = self.places.problem(keys, message, hint);
        if self.is_unused(keys) { &mut self.notes } else { &mut self.problems }.push(problem);
    }

    fn is_unused(&self, keys: &[&str]) -> bool {
        is_of(&self.unused, keys)
    }
}

/// The keys of what leads to a context, and that context.
type Wanted<'a> = (Vec<&'a str>, Option<String>);

/// The targets that are in a context.
fn targets_in_contexts(config: &AgentFile) -> Vec<Wanted<'_>> {
    let context_of = |target: &Target| match target {
        Target::Kubernetes(target) => Some(target.context.clone()),
        Target::Jump(target) => Some(target.context.clone()),
        Target::Ssh(_) | Target::Local(_) | Target::Forward(_) => None,
    };
    config.targets().into_iter().filter_map(|(keys, target)| Some((keys, context_of(target)?))).collect()
}

/// Whether keys lead to one of these forwards.
fn is_of(forwards: &[String], keys: &[&str]) -> bool {
    matches!(keys, ["forwards", name, ..] if forwards.iter().any(|forward| forward == name))
}

/// The forwards that are disabled, and that no other leads through.
fn unused(config: &AgentFile) -> Vec<String> {
    let mut used: Vec<&str> = Vec::new();
    for forward in config.forwards.iter().filter(|forward| forward.enabled) {
        used.push(&forward.name);
        let mut next = &forward.to;
        // The file was checked for circles.
        while let Target::Forward(name) = next {
            used.push(name);
            let Some(forward) = config.forward(name) else { break };
            next = &forward.to;
        }
    }
    let names = config.forwards.iter().map(|forward| &forward.name);
    names.filter(|name| !used.contains(&name.as_str())).cloned().collect()
}
