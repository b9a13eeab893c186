//! The file, read whole, and the part of it that was asked for.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use adit_core::config::gateway::PasswordSource;
use adit_core::config::{AgentFile, DEFAULT_FILE, ForwardConfig, Problem, Problems};
use adit_core::diagnose::Fault;
use adit_core::near;
use adit_core::target::Target;

use crate::command::agent;
use crate::command::config::check::{self, Contexts};
use crate::command::files;
use crate::report::Failure;

/// The words that stand for whole sections.
const GATEWAY: &str = "gateway";
const PUBLISH: &str = "publish";

/// Where the configuration comes from.
pub(super) struct Source {
    path: PathBuf,
    selection: Selection,
    /// There is no file yet: as long as that is so, the defaults hold.
    none_yet: AtomicBool,
}

/// A version of the file.
#[derive(Clone)]
pub(super) struct Read {
    path: PathBuf,
    /// What of it is to run.
    pub(super) file: AgentFile,
    /// Contexts it names that cannot be used.
    pub(super) contexts: Contexts,
    /// Files it names that cannot be used.
    unreadable: Vec<Problem>,
}

/// What of a file is to run. Nothing named is everything.
#[derive(Debug, Default)]
pub(super) struct Selection {
    names: Vec<String>,
    tags: Vec<String>,
}

impl Source {
    pub(super) fn new(path: PathBuf, selection: Selection) -> Self {
        Self { path, selection, none_yet: AtomicBool::new(false) }
    }

    /// There is no file: the gateway is all there is, until a file appears at this path.
    pub(super) fn none_yet(path: PathBuf) -> Self {
        Self { path, selection: Selection::default(), none_yet: AtomicBool::new(true) }
    }

    /// Whether the file is still waited for.
    pub(super) fn has_no_file(&self) -> bool {
        self.none_yet.load(Ordering::Relaxed)
    }

    /// Reads and checks the file.
    pub(super) fn read(&self) -> Result<Read, Failure> {
        let text = if self.none_yet.load(Ordering::Relaxed) && !self.path.exists() {
            DEFAULT_FILE.to_owned()
        } else {
            self.none_yet.store(false, Ordering::Relaxed);
            files::read(&self.path)?
        };
        // A program that writes a file anew empties it first.
        if text.trim().is_empty() {
            let hint = "write what is to run, such as `forwards: { web: { to: \"tcp://127.0.0.1:3000\", listen: 8080 } }`; \
                        `adit config init` writes a file with examples";
            return Err(Failure::new(Fault::Config, format!("{} is empty", self.path.display()), hint));
        }
        let file = AgentFile::parse(&self.path.display().to_string(), &text, &files::environment)?;
        let file = self.selection.apply(file)?;
        let contexts = check::missing_contexts(&self.path, &text, &file);
        let unreadable = check::missing_files(&self.path, &text, &file);
        Ok(Read { path: self.path.clone(), file, contexts, unreadable })
    }
}

impl Read {
    /// Whether it may take the place of the version in force: what the file alone does not show to be wrong, and what
    /// `adit config check` calls a mistake, too.
    ///
    /// It is for what somebody has written just now. What the version in force names already does no harm to what leads
    /// elsewhere, and neither does what is missing at a start: a cluster that was deleted must not keep all else down.
    pub(super) fn check(&self, in_force: &AgentFile) -> Result<(), Failure> {
        self.check_asks_for_something()?;
        let before = check::missing_files(&self.path, "", in_force);
        let was_so = |problem: &&Problem| before.iter().any(|before| before.message == problem.message);
        let mut mistakes: Vec<Problem> = self.unreadable.iter().filter(|problem| !was_so(problem)).cloned().collect();
        if self.contexts.are_mistakes {
            let before: Vec<Option<String>> =
                check::wanted_contexts(in_force).into_iter().map(|(_, context)| context).collect();
            let wanted = check::wanted_contexts(&self.file).into_iter();
            let new: Vec<String> =
                wanted.filter(|(_, context)| !before.contains(context)).map(|(key, _)| key).collect();
            // An alias is another name for what may be there on another machine; nothing leads to it.
            mistakes.extend(self.contexts.problems.iter().filter(|problem| new.contains(&problem.key)).cloned());
        }
        match mistakes.is_empty() {
            true => Ok(()),
            false => Err(Problems::in_order(mistakes).into()),
        }
    }

    /// Whether there would be nothing to run.
    pub(super) fn check_asks_for_something(&self) -> Result<(), Failure> {
        if !asks_for_nothing(&self.file) {
            return Ok(());
        }
        let hint = "write `gateway: {}` into it to have the gateway alone; forwards, routes and tunnels are more";
        Err(Failure::new(Fault::Config, format!("{} asks for nothing", self.path.display()), hint))
    }

    /// Where it was read.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The files whose change is a change of the configuration.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.path.clone()];
        files.extend(files_of(&self.file));
        files
    }

    /// The files that decide whether it may take the place of the version in force, and those of that one.
    pub(super) fn files_until_taken(&self, in_force: &AgentFile) -> Vec<PathBuf> {
        let mut files = self.files();
        for file in files_of(in_force).into_iter().chain(check::named_files(&self.file)) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
        files
    }

    /// The kubeconfig files that are read, whether they are there or not.
    pub(super) fn kubeconfigs(&self) -> Vec<PathBuf> {
        kubeconfigs_of(&self.file)
    }
}

impl Selection {
    pub(super) fn new(names: Vec<String>, tags: Vec<String>) -> Self {
        Self { names, tags }
    }

    /// Whether everything is to run.
    pub(super) const fn is_all(&self) -> bool {
        self.names.is_empty() && self.tags.is_empty()
    }

    /// Leaves out what was not asked for. Forwards that something selected leads to stay, without their ports.
    fn apply(&self, mut file: AgentFile) -> Result<AgentFile, Failure> {
        if self.is_all() {
            return Ok(file);
        }
        file.forwards.retain(|forward| forward.enabled);
        self.check(&file)?;
        let named = |name: &str| self.names.iter().any(|known| known == name);
        if !named(GATEWAY) {
            file.gateway = None;
        }
        if let Some(publish) = &mut file.publish
            && !named(PUBLISH)
        {
            publish.tunnels.retain(|tunnel| named(&tunnel.key));
            if publish.tunnels.is_empty() {
                file.publish = None;
            }
        }
        let tagged = |tags: &[String]| tags.iter().any(|tag| self.tags.contains(tag));
        let chosen = |forward: &ForwardConfig| named(&forward.name) || tagged(&forward.tags);
        let needed = needed(&file, &chosen);
        file.forwards.retain_mut(|forward| {
            if chosen(forward) {
                return true;
            }
            forward.listen.clear();
            needed.contains(&forward.name)
        });
        Ok(file)
    }

    fn check(&self, file: &AgentFile) -> Result<(), Failure> {
        let mut known: Vec<&str> = file.forwards.iter().map(|forward| forward.name.as_str()).collect();
        known.extend(file.gateway.iter().map(|_| GATEWAY));
        if let Some(publish) = &file.publish {
            known.push(PUBLISH);
            known.extend(publish.tunnels.iter().map(|tunnel| tunnel.key.as_str()));
        }
        let unknown = |what: &str, name: &str, known: &[&str]| {
            let hint = match near::nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`? there are: {}", known.join(", ")),
                None if known.is_empty() => {
                    format!("no forward has a {what}: write `{what}s: [{name}]` into those that are meant")
                }
                None => format!("there are: {}", known.join(", ")),
            };
            Failure::new(Fault::Usage, format!("there is no {what} `{name}` in this file"), hint)
        };
        if let Some(name) = self.names.iter().find(|name| !known.contains(&name.as_str())) {
            return Err(unknown("forward or tunnel", name, &known));
        }
        let mut tags: Vec<&str> =
            file.forwards.iter().flat_map(|forward| forward.tags.iter().map(String::as_str)).collect();
        tags.sort_unstable();
        tags.dedup();
        match self.tags.iter().find(|tag| !tags.contains(&tag.as_str())) {
            Some(tag) => Err(unknown("tag", tag, &tags)),
            None => Ok(()),
        }
    }
}

/// The files whose change is a change of what this one says.
fn files_of(file: &AgentFile) -> Vec<PathBuf> {
    let mut files = kubeconfigs_of(file);
    // An agent that had given up for want of a good token starts again with another one.
    files.extend(file.publish.as_ref().filter(|publish| publish.via.is_none()).and_then(agent::token_file));
    files.extend(file.daemon.token_file.clone());
    if let Some(gateway) = &file.gateway {
        files.extend(gateway.routes.iter().filter_map(|route| route.tls.ca.clone()));
        let passwords = gateway.routes.iter().filter_map(|route| match &route.basic_auth.as_ref()?.password {
            PasswordSource::File(path) => Some(path.clone()),
            PasswordSource::Value(_) => None,
        });
        files.extend(passwords);
    }
    files
}

fn kubeconfigs_of(file: &AgentFile) -> Vec<PathBuf> {
    let of_file = &file.kubernetes.kubeconfig;
    if !of_file.is_empty() {
        return of_file.clone();
    }
    match std::env::var_os("KUBECONFIG").filter(|paths| !paths.is_empty()) {
        Some(paths) => std::env::split_paths(&paths).collect(),
        None => std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config")).into_iter().collect(),
    }
}

/// Whether there is nothing to run.
fn asks_for_nothing(file: &AgentFile) -> bool {
    let publishes = file.publish.as_ref().is_some_and(|publish| !publish.tunnels.is_empty());
    file.gateway.is_none() && file.forwards.is_empty() && !publishes
}

/// The forwards that what is chosen leads to, at once or by way of others.
fn needed(file: &AgentFile, chosen: &dyn Fn(&ForwardConfig) -> bool) -> Vec<String> {
    let routes = file.gateway.iter().flat_map(|gateway| gateway.routes.iter().map(|route| &route.to));
    let tunnels = file.publish.iter().flat_map(|publish| publish.tunnels.iter().map(|tunnel| &tunnel.to));
    let forwards = file.forwards.iter().filter(|forward| chosen(forward)).map(|forward| &forward.to);
    let mut open: Vec<&Target> = routes.chain(tunnels).chain(forwards).collect();
    let mut needed: Vec<String> = Vec::new();
    while let Some(target) = open.pop() {
        let Target::Forward(name) = target else { continue };
        if !needed.contains(name) {
            needed.push(name.clone());
            open.extend(file.forward(name).map(|forward| &forward.to));
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
forwards:
  db: { to: 'tcp://127.0.0.1:5432', listen: 15432, tags: [database] }
  web: { to: 'tcp://127.0.0.1:80', listen: 18080 }
gateway:
  routes:
    web.localhost: { to: 'forward:web' }
publish:
  server: h:1
  tunnels:
    shop: { to: 'forward:web' }
";

    fn select(names: &[&str], tags: &[&str]) -> Result<AgentFile, Failure> {
        let file = AgentFile::parse("adit.yaml", FILE, &|_| None).unwrap();
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Selection::new(owned(names), owned(tags)).apply(file)
    }

    fn names(file: &AgentFile) -> Vec<(&str, bool)> {
        file.forwards.iter().map(|forward| (forward.name.as_str(), !forward.listen.is_empty())).collect()
    }

    #[test]
    fn nothing_named_is_everything() {
        let file = select(&[], &[]).unwrap();
        assert_eq!(names(&file), [("db", true), ("web", true)]);
        assert!(file.gateway.is_some() && file.publish.is_some());
    }

    #[test]
    fn a_tag_or_a_name_selects_and_what_is_led_to_stays_without_its_port() {
        let file = select(&[], &["database"]).unwrap();
        assert_eq!(names(&file), [("db", true)]);
        assert!(file.gateway.is_none() && file.publish.is_none());
        let file = select(&["shop"], &[]).unwrap();
        assert_eq!(names(&file), [("web", false)]);
        assert!(file.gateway.is_none() && file.publish.is_some());
        assert!(select(&["gateway", "db"], &[]).unwrap().gateway.is_some());
    }

    #[test]
    fn what_is_not_there_is_told_with_what_could_be_meant() {
        let hint = |names: &[&str], tags: &[&str]| select(names, tags).unwrap_err().hint().unwrap().to_owned();
        assert_eq!(hint(&["dbb"], &[]), "did you mean `db`? there are: db, web, gateway, publish, shop");
        assert_eq!(hint(&[], &["q"]), "there are: database");
        let file = AgentFile::parse("adit.yaml", "forwards: { a: { to: 1, listen: 1 } }", &|_| None).unwrap();
        let untagged = Selection::new(Vec::new(), vec!["q".into()]).apply(file).unwrap_err();
        assert_eq!(untagged.hint(), Some("no forward has a tag: write `tags: [q]` into those that are meant"));
    }

    #[test]
    fn without_a_file_the_gateway_is_all_there_is_until_a_file_appears() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("adit.yaml");
        let source = Source::none_yet(path.clone());
        let file = source.read().unwrap().file;
        assert!(file.gateway.is_some_and(|gateway| gateway.dynamic_host.is_some()));
        assert!(file.forwards.is_empty() && file.publish.is_none());
        std::fs::write(&path, "version: 1\nforwards: { db: { to: 5432, listen: 0 } }\n").unwrap();
        assert_eq!(source.read().unwrap().file.forwards.len(), 1);
        std::fs::remove_file(&path).unwrap();
        assert!(source.read().is_err(), "a file that is away for a moment does not undo what runs");
    }
}
