//! `connection`: where a service is, and how it is reached.

use std::net::Ipv6Addr;

use super::Work;
use super::given::{Given, given, required};
use crate::config::document::Written;
use crate::config::reader::{Complaint, Section};
use crate::target::{KubeTarget, ObjectKind, PortRef, Selection, Target, check_namespace, check_object_name};

/// Where localport looks when no namespace is given, whatever the context says.
const NAMESPACE: &str = "default";

/// Where `ssh -L` leads when no other host is named.
const SSH_HOST: &str = "localhost";

/// What may be forwarded.
const KINDS: [(&str, ObjectKind); 6] = [
    ("service", ObjectKind::Service),
    ("svc", ObjectKind::Service),
    ("deployment", ObjectKind::Deployment),
    ("deploy", ObjectKind::Deployment),
    ("pod", ObjectKind::Pod),
    ("statefulset", ObjectKind::StatefulSet),
];

/// `technology: kubectl`.
pub(super) fn kubectl(section: &Section<'_>, port: Option<&Given<u16>>, work: &mut Work) -> Option<Written> {
    let kind = section.word("resource_type", &KINDS).unwrap_or(ObjectKind::Service);
    let name = required(section, "resource_name", "write the name of the service", |text| {
        check_object_name(text)?;
        Ok(text.to_owned())
    });
    let namespace = given(section, "namespace", |text| {
        check_namespace(text)?;
        Ok(text.to_owned())
    });
    let context = given(section, "context", filled);
    work.unknown(section);
    let (name, port) = (name?, port?);
    let namespace = namespace.unwrap_or_else(|| Given::Value(NAMESPACE.to_owned()));
    if let (Given::Value(name), Given::Value(port), Given::Value(namespace)) = (&name, port, &namespace)
        && !matches!(context, Some(Given::Variable(_)))
    {
        let target = KubeTarget {
            context: context.as_ref().and_then(Given::value).cloned(),
            namespace: Some(namespace.clone()),
            selection: Selection::Object { kind, name: name.clone() },
            port: PortRef::parse(&port.to_string()).ok()?,
        };
        return Some(Written::text(&Target::Kubernetes(target)));
    }
    // A variable may hold what a URL would have to escape.
    let kube = Written::map()
        .with_some("context", context.map(|context| context.written(Written::text)))
        .with("namespace", namespace.written(Written::text))
        .with(kind.as_str(), name.written(Written::text))
        .with("port", port.written(Written::bare));
    Some(Written::map().with("k8s", kube))
}

/// `technology: ssh`.
pub(super) fn ssh(section: &Section<'_>, port: Option<&Given<u16>>, work: &mut Work) -> Option<Written> {
    let host = required(section, "host", "write the SSH server's name", host);
    let user = given(section, "user", user);
    let ssh_port = given(section, "port", super::port);
    let key = ["key_file", "identity_file"].map(|key| given(section, key, filled)).into_iter().flatten().next();
    let remote = ["remote_host", "target_host"].map(|key| given(section, key, self::host)).into_iter().flatten().next();
    let jump = ["jump_host", "proxy_jump", "bastion_host"];
    let jump = jump.map(|key| given(section, key, filled)).into_iter().flatten().next();
    if section.has("password") {
        work.notes.push(format!(
            "{}.password has no equivalent: log in with a key, or put the password into a file of yours alone and name it with ssh: {{ password_file: … }}",
            section.whereabouts()
        ));
    }
    work.unknown(section);
    let (host, port) = (host?, port?);
    let server = server(user.as_ref(), &host, ssh_port.as_ref());
    let remote = remote.unwrap_or_else(|| Given::Value(SSH_HOST.to_owned()));
    if let (Given::Value(server), Given::Value(remote), Given::Value(port)) = (&server, &remote, port)
        && key.is_none()
        && jump.is_none()
    {
        return Some(Written::Text(format!("ssh://{server}/{}:{port}", bracketed(remote))));
    }
    let ssh = Written::map()
        .with("server", server.written(Written::text))
        .with("host", remote.written(Written::text))
        .with("port", port.written(Written::bare))
        .with_some("key", key.map(|key| key.written(Written::text)))
        .with_some("jump", jump.map(|jump| jump.written(Written::text)));
    Some(Written::map().with("ssh", ssh))
}

/// `USER@HOST:PORT`; without a port `~/.ssh/config` says it.
fn server(user: Option<&Given<String>>, host: &Given<String>, port: Option<&Given<u16>>) -> Given<String> {
    let user_part = user.map(|user| format!("{}@", user.part())).unwrap_or_default();
    let port_part = port.map(|port| format!(":{}", port.part())).unwrap_or_default();
    let text = format!("{user_part}{}{port_part}", bracketed(&host.part()));
    let known = host.value().is_some()
        && user.is_none_or(|user| user.value().is_some())
        && port.is_none_or(|port| port.value().is_some());
    if known { Given::Value(text) } else { Given::Variable(text) }
}

fn bracketed(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() }
}

/// A name, an alias of `~/.ssh/config`, or an address: nothing that could be an option of a program.
fn host(text: &str) -> Result<String, Complaint> {
    let legal = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:%".contains(&b));
    if text.is_empty() || text.starts_with('-') || !legal {
        return Err(Complaint::new(format!("`{text}` is not a host"), "write a name or an address"));
    }
    Ok(text.to_owned())
}

fn user(text: &str) -> Result<String, Complaint> {
    let legal = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+@\\".contains(&b));
    if text.is_empty() || text.starts_with('-') || !legal {
        return Err(Complaint::new(format!("`{text}` is not a user"), "write the name to log in with"));
    }
    Ok(text.to_owned())
}

pub(super) fn filled(text: &str) -> Result<String, Complaint> {
    match text.is_empty() || text.chars().any(char::is_control) {
        true => Err(Complaint::new("must not be empty", "give it a value or leave the key out")),
        false => Ok(text.to_owned()),
    }
}
