//! What `to` says: a target as a URL, or as a map with what a URL has no room for.

use std::num::NonZeroU16;
use std::time::Duration;

use super::reader::{Complaint, Section, positive_duration};
use crate::diagnose::Diagnose as _;
use crate::target::{
    JumpHost, JumpTarget, KubeTarget, KubeTargetError, LocalTarget, ObjectKind, PortRef, Selection, SshBackend,
    SshOptions, SshServer, SshTarget, Target, TargetError, check_namespace, check_object_name, destination_host,
    selector,
};

/// How long a pod that is made may take to be ready.
pub const CREATE_TIMEOUT: Duration = Duration::from_secs(60);

/// An image's name at the most; registries refuse longer ones.
const IMAGE_MAX: usize = 256;

/// How a jump is made, beyond its URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JumpSettings {
    /// The container to run in; without it the pod's first one.
    pub container: Option<String>,
    /// The pod to make when there is none of that name.
    pub create: Option<CreateSettings>,
}

/// A pod that is made to jump through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSettings {
    /// Its image, which has socat or nc.
    pub image: String,
    /// What it runs; empty is `sleep infinity`.
    pub command: Vec<String>,
    /// How long it may take to be ready.
    pub timeout: Duration,
    /// Whether it is left where it is at the end.
    pub keep: bool,
}

/// A target with what belongs to it.
pub(super) struct Destination {
    pub(super) target: Target,
    pub(super) jump: Option<JumpSettings>,
}

/// Reads the key `to`. `bytes` says that a bare `host:port` is a byte pipe and no HTTP.
pub(super) fn destination(section: &Section<'_>, bytes: bool, hint: &str) -> Option<Destination> {
    if section.is_map("to") {
        return from_map(section.section("to"));
    }
    let target = section.require("to", hint, |text| parse_target(text, bytes))?;
    Some(Destination { target, jump: None })
}

/// The name of an image as it may stand in a pod's manifest and in a message.
///
/// # Errors
/// With a problem without a place.
pub fn parse_image(text: &str) -> Result<String, super::Problem> {
    image(text).map_err(Complaint::without_place)
}

fn parse_target(text: &str, bytes: bool) -> Result<Target, Complaint> {
    let found = match Target::parse(text) {
        Ok(Target::Local(_)) if bytes && !text.contains("://") => LocalTarget::parse(text, true).map(Target::Local),
        other => other,
    };
    found.map_err(|error| Complaint { hint: forms(&error).or_else(|| error.hint()), message: error.to_string() })
}

/// The hints of a target's error speak to the command line, where fewer forms are possible.
fn forms(error: &TargetError) -> Option<String> {
    let hint = match error {
        TargetError::Empty | TargetError::Scheme { .. } | TargetError::Host { .. } => {
            "write host:port or a URL: k8s://, jump://, ssh://, forward:NAME, http://, https://, h2c://, tcp://"
        }
        TargetError::Later { .. } => {
            "leave it out for now, or use k8s://, jump://, ssh://, forward:NAME, http://, https:// or tcp://"
        }
        TargetError::Port { .. }
        | TargetError::Surplus { .. }
        | TargetError::ForwardName { .. }
        | TargetError::Kubernetes(_)
        | TargetError::Ssh(_) => return None,
    };
    Some(hint.to_owned())
}

fn from_map(section: Section<'_>) -> Option<Destination> {
    let kube = section.optional_section("k8s").map(kube);
    let jump = section.optional_section("jump").map(jump);
    let ssh = section.optional_section("ssh").map(ssh);
    let given = [kube.is_some(), jump.is_some(), ssh.is_some()].into_iter().filter(|given| *given).count();
    if given != 1 {
        let message = if given == 0 { "names no target" } else { "names more than one target" };
        let hint = "write k8s: { …, service: …, port: … }, jump: { …, via: { … }, host: …, port: … } or ssh: { server: …, host: …, port: … }";
        section.complain_here(Complaint::new(message, hint));
    }
    section.finish();
    kube.flatten().or(jump.flatten()).or(ssh.flatten())
}

fn kube(section: Section<'_>) -> Option<Destination> {
    let (context, namespace) = place(&section);
    let selection = selection(&section);
    let port = section.require("port", "the number or the name of the port, such as port: 80", PortRef::parse);
    section.finish();
    let target = KubeTarget { context, namespace, selection: selection?, port: port? };
    Some(Destination { target: Target::Kubernetes(target), jump: None })
}

fn jump(section: Section<'_>) -> Option<Destination> {
    let (context, namespace) = place(&section);
    if !section.has("via") {
        section.missing("via", "say which pod to jump through: via: { service: NAME } or via: { pod: NAME }");
    }
    let via = section.optional_section("via").map(via);
    let host = section.require("host", "the host as the pod sees it, such as db.internal", JumpHost::parse);
    let port = section.require("port", "its port, such as port: 5432", jump_port);
    section.finish();
    let (selection, settings) = via?;
    let target = JumpTarget { context, namespace, via: selection?, host: host?, port: port? };
    let jump = (settings != JumpSettings::default()).then_some(settings);
    Some(Destination { target: Target::Jump(target), jump })
}

fn ssh(section: Section<'_>) -> Option<Destination> {
    let hint = "the server to log in to: USER@HOST:PORT, or a Host of ~/.ssh/config";
    let server = section.require("server", hint, SshServer::parse);
    let host = section.require("host", "the host as the server sees it, such as db.internal", destination_host);
    let port = section.require("port", "its port, such as port: 5432", jump_port);
    let options = ssh_options(&section);
    section.finish();
    let target = SshTarget { server: server?.with(options), host: host?, port: port? };
    Some(Destination { target: Target::Ssh(target), jump: None })
}

fn ssh_options(section: &Section<'_>) -> SshOptions {
    SshOptions {
        key: section.path("key"),
        passphrase_file: section.path("passphrase_file"),
        password_file: section.path("password_file"),
        config: section.path("config"),
        known_hosts: section.path("known_hosts"),
        jump: section.get("jump", hops),
        keepalive: section.get("keepalive", positive_duration),
        connect_timeout: section.get("connect_timeout", positive_duration),
        backend: section.word("backend", &SshBackend::WORDS).unwrap_or_default(),
    }
}

/// Reads the key `via` of the section `publish`: a server, as a URL or as a map with how to log in.
pub(super) fn ssh_server(section: &Section<'_>) -> Option<SshServer> {
    let hint = "the server to log in to: ssh://USER@HOST:PORT, or a Host of ~/.ssh/config";
    if section.is_map("via") {
        let map = section.section("via");
        let server = map.require("server", hint, server_url);
        let options = ssh_options(&map);
        map.finish();
        return server.map(|server| server.with(options));
    }
    section.require("via", hint, server_url)
}

fn server_url(text: &str) -> Result<SshServer, Complaint> {
    let server = text.strip_prefix("ssh://").unwrap_or(text);
    let server = server.strip_suffix('/').unwrap_or(server);
    if server.contains('/') {
        let complaint = Complaint::new(
            format!("`{text}` names more than a server"),
            "write ssh://USER@HOST:PORT; what is published stands in tunnels",
        );
        return Err(complaint);
    }
    SshServer::parse(server).map_err(Complaint::from)
}

/// Servers on the way, with commas between them.
fn hops(text: &str) -> Result<String, crate::target::SshTargetError> {
    text.split(',').try_for_each(|hop| SshServer::parse(hop.trim()).map(drop))?;
    Ok(text.to_owned())
}

fn via(section: Section<'_>) -> (Option<Selection>, JumpSettings) {
    let selection = selection(&section);
    let container = section.get("container", container);
    let create = section.optional_section("create").map(create);
    if create.is_some() && section.holds("service") {
        let complaint =
            Complaint::new("a pod cannot be made for a service", "name the pod: via: { pod: NAME, create: … }");
        section.complain("create", complaint);
    } else if create.is_some() && !section.holds("pod") {
        let complaint = Complaint::new("needs the name of the pod", "name it: via: { pod: NAME, create: … }");
        section.complain("create", complaint);
    }
    section.finish();
    (selection, JumpSettings { container, create: create.flatten() })
}

fn create(section: Section<'_>) -> Option<CreateSettings> {
    let image = section.require("image", "an image that has socat or nc, such as alpine/socat:1.8.0.0", image);
    let command = section.list("command", |word: &str| Ok::<_, Complaint>(word.to_owned())).unwrap_or_default();
    let timeout = section.get("timeout", positive_duration).unwrap_or(CREATE_TIMEOUT);
    let keep = section.boolean("keep").unwrap_or(false);
    section.finish();
    Some(CreateSettings { image: image?, command, timeout, keep })
}

fn place(section: &Section<'_>) -> (Option<String>, Option<String>) {
    let context = section.get("context", |text| match text.is_empty() || text.chars().any(char::is_control) {
        true => Err(KubeTargetError::Context { context: text.to_owned() }),
        false => Ok(text.to_owned()),
    });
    let namespace = section.get("namespace", |text| check_namespace(text).map(|()| text.to_owned()));
    (context, namespace)
}

/// One of `service`, `deployment`, `pod` and so on, or a label selector.
fn selection(section: &Section<'_>) -> Option<Selection> {
    let object = |kind: ObjectKind| {
        let parse = |name: &str| check_object_name(name).map(|()| Selection::Object { kind, name: name.to_owned() });
        section.get(kind.as_str(), parse)
    };
    let mut found: Vec<Selection> = ObjectKind::ALL.into_iter().filter_map(object).collect();
    found.extend(section.get("selector", selector::check).map(Selection::Labels));
    let keys = ObjectKind::ALL.into_iter().map(ObjectKind::as_str).chain(["selector"]);
    let given: Vec<&str> = keys.filter(|key| section.holds(key)).collect();
    match given[..] {
        [] => {
            section.complain_here(Complaint::new(
                "says no pods",
                "add service: NAME, pod: NAME, deployment: NAME or selector: app=NAME",
            ));
            None
        }
        [_] => found.pop(),
        [first, second, ..] => {
            section.complain(second, Complaint::new(format!("there is `{first}` as well"), "keep one of the two"));
            None
        }
    }
}

fn container(text: &str) -> Result<String, KubeTargetError> {
    check_object_name(text).map(|()| text.to_owned())
}

fn jump_port(text: &str) -> Result<NonZeroU16, Complaint> {
    text.parse()
        .map_err(|_| Complaint::new(format!("`{text}` is not the number of a port"), "write a number from 1 to 65535"))
}

fn image(text: &str) -> Result<String, Complaint> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts_well || text.len() > IMAGE_MAX || !text.bytes().all(legal) {
        return Err(Complaint::new(
            format!("`{text}` is not the name of an image"),
            "write it as alpine/socat:1.8.0.0 or registry.example.com/tools@sha256:…",
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
