//! autotunnel's file, `~/.autotunnel.yaml`, with the checks that autotunnel itself makes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use super::comments::Comments;
use super::{Imported, Names, assemble};
use crate::config::destination::{CREATE_TIMEOUT, CreateSettings, JumpSettings, parse_image};
use crate::config::document::Written;
use crate::config::reader::{Complaint, Reader, Section, listen_address};
use crate::config::show;
use crate::config::unit::show_duration;
use crate::config::{Problems, tree};
use crate::name::Hostname;
use crate::target::{
    JumpHost, JumpTarget, KubeTarget, ObjectKind, PortRef, Selection, Target, check_namespace, check_object_name,
};

/// The only version there is.
const VERSION: &str = "autotunnel/v1";

/// The longest duration that is taken: what a file of ours may state.
const DURATION_MAX_SECONDS: f64 = 3.0e8;

/// The file while it is turned: comments are taken and notes written by all its parts.
struct Work {
    comments: Comments,
    notes: Vec<String>,
    names: Names,
    /// Local ports with the keys that take them.
    ports: HashMap<u16, String>,
}

pub(super) fn import(text: &str, file: &str) -> Result<Imported, Problems> {
    let (node, problems) = tree::read(file, text).map_err(Problems::one)?;
    // autotunnel knows no variables: a `${` is left as it is.
    let escaped = |_: &str| None;
    let reader = Reader::new(file, &escaped, problems);
    let mut work =
        Work { comments: Comments::read(text), notes: Vec::new(), names: Names::default(), ports: HashMap::new() };
    let yaml = whole(&reader.root(&node), &mut work);
    let left = work.comments.left();
    if !left.is_empty() {
        let lines: Vec<String> = left.iter().map(u32::to_string).collect();
        work.notes
            .push(format!("comments that belong to no key of the new file are left out: line {}", lines.join(", ")));
    }
    reader.finish(Imported { yaml, notes: work.notes })
}

fn whole(root: &Section<'_>, work: &mut Work) -> String {
    let mut header = vec!["Made from a file of autotunnel by `adit config import autotunnel`.".to_owned()];
    let first = root.entries().first().map_or(1, |entry| entry.place.line);
    // With the comments directly above the first key: they introduce the file more often than the key.
    header.extend(work.comments.take_header(first));
    root.get("apiVersion", |text| match text {
        "" | VERSION => Ok(()),
        _ => Err(Complaint::new(format!("unsupported config apiVersion `{text}`"), format!("write {VERSION}"))),
    });
    if root.boolean("verbose") == Some(true) {
        work.notes.push("verbose: true is no key here: write `adit up -v`".to_owned());
    }
    if root.boolean("auto_reload_config") == Some(false) {
        work.notes.push("auto_reload_config: false has no equivalent: adit.yaml is always watched".to_owned());
    }
    let exec_path = root.list("exec_path", plain);
    let exec_comments = comments_of(root, "exec_path", work);
    let http_comments = comments_of(root, "http", work);
    let tcp_comments = comments_of(root, "tcp", work);
    let http = http(&root.section("http"), work);
    let tcp = tcp(&root.section("tcp"), &http, work);
    for key in ["apiVersion", "verbose", "auto_reload_config"] {
        for comment in comments_of(root, key, work) {
            header.push(comment);
        }
    }
    root.finish_ref();
    let kubernetes = Written::map()
        .with_some("kubeconfig", http.kubeconfig.or(tcp.kubeconfig).map(Written::Text))
        .with_some_comments("exec_path", exec_path.filter(|all| !all.is_empty()).map(Written::texts), exec_comments);
    let defaults = Written::map().with_some("idle_timeout", tcp.idle_timeout.or(http.idle_timeout).map(time));
    assemble(
        header,
        vec![
            ("kubernetes", Vec::new(), kubernetes),
            ("defaults", Vec::new(), defaults),
            ("forwards", tcp_comments, tcp.forwards),
            ("gateway", http_comments, http.gateway),
        ],
    )
}

/// What the part `http` becomes.
struct Http {
    gateway: Written,
    idle_timeout: Option<Duration>,
    kubeconfig: Option<String>,
    listen: Option<SocketAddr>,
}

fn http(section: &Section<'_>, work: &mut Work) -> Http {
    let hint = "write the port for HTTP and TLS, such as 127.0.0.1:8989";
    let listen = section.require("listen", hint, |text| listen_address(text, IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    let idle_timeout = section.require("idle_timeout", "write it as 60m", positive);
    let k8s = section.section("k8s");
    let kubeconfig = k8s.get("kubeconfig", plain).filter(|text| !text.is_empty());
    let dynamic = k8s.get("dynamic_host", |text| match text {
        "" => Ok(None),
        text => Hostname::parse(text).map(Some),
    });
    let mut gateway = Written::map();
    gateway =
        gateway.with_some_comments("listen", listen.as_ref().map(Written::text), comments_of(section, "listen", work));
    let dynamic_host = match dynamic.flatten() {
        Some(host) => Written::text(&host),
        // Ours is on unless it is switched off.
        None => Written::text("off"),
    };
    let comments = comments_of(&k8s, "dynamic_host", work);
    gateway = gateway.with_comments("dynamic_host", dynamic_host, comments);
    let comments = comments_of(section, "idle_timeout", work);
    gateway = gateway.with_some_comments("idle_timeout", idle_timeout.map(time), comments);
    let comments = [comments_of(section, "k8s", work), comments_of(&k8s, "kubeconfig", work)].concat();
    let comments = [comments, comments_of(&k8s, "routes", work)].concat();
    let routes = routes(&k8s.section("routes"), work);
    gateway = gateway.with_some_comments("routes", (!routes.is_empty()).then_some(routes), comments);
    k8s.finish_ref();
    section.finish_ref();
    Http { gateway, idle_timeout, kubeconfig, listen }
}

fn routes(section: &Section<'_>, work: &mut Work) -> Written {
    let mut routes = Written::map();
    let mut unverified = Vec::new();
    for (host, entry) in section.named_sections() {
        let comments = comments_of(section, host, work);
        let https = entry.word("scheme", &[("http", false), ("https", true)]).unwrap_or(false);
        if let Err(error) = Hostname::parse(host) {
            entry.complain_here(error);
        }
        let target = kube_target(&entry);
        entry.finish();
        let Some(target) = target else { continue };
        let mut route = Written::map().with("to", Written::text(&target));
        if https {
            unverified.push(host);
            route = route
                .with("scheme", Written::text("https"))
                .with("tls", Written::map().with("verify", Written::bare(&false)));
        }
        routes = routes.with_comments(host, route, comments);
    }
    if !unverified.is_empty() {
        let hosts = unverified.join(", ");
        work.notes.push(format!(
            "autotunnel verifies no certificate of a service; tls: {{ verify: false }} says so for {hosts}: take it out where the certificate is good"
        ));
    }
    routes
}

/// What the part `tcp` becomes.
struct Tcp {
    forwards: Written,
    idle_timeout: Option<Duration>,
    kubeconfig: Option<String>,
}

fn tcp(section: &Section<'_>, http: &Http, work: &mut Work) -> Tcp {
    let idle_timeout = section.get("idle_timeout", |text| {
        if text.starts_with('-') {
            return Err(Complaint::new("must not be negative", "write it as 60m, or leave it out"));
        }
        go_duration(text)
    });
    let k8s = section.section("k8s");
    let kubeconfig = k8s.get("kubeconfig", plain).filter(|text| !text.is_empty());
    if let (Some(of_tcp), Some(of_http)) = (&kubeconfig, &http.kubeconfig)
        && of_tcp != of_http
    {
        work.notes.push(format!(
            "tcp.k8s.kubeconfig: {of_tcp} has no equivalent: one list of kubeconfig files holds for all; add it to kubernetes.kubeconfig if its contexts are needed"
        ));
    }
    let mut comments = comments_of(section, "idle_timeout", work);
    for (section, key) in [(section, "k8s"), (&k8s, "kubeconfig"), (&k8s, "routes")] {
        comments.extend(comments_of(section, key, work));
    }
    let mut forwards = Vec::new();
    for (port, entry) in k8s.section("routes").named_sections() {
        let place = comments_of(&k8s.section("routes"), port, work);
        let local = local_port(port, "routes", &entry, http.listen, work);
        let target = kube_target(&entry);
        entry.finish();
        if let (Some(local), Some(target)) = (local, target) {
            let wanted = name_of(&target.selection);
            forwards.push((wanted, local, place, Written::text(&target)));
        }
    }
    let jumps = k8s.section("jump");
    let jump_comments = comments_of(&k8s, "jump", work);
    for (index, (port, entry)) in jumps.named_sections().into_iter().enumerate() {
        let mut place = if index == 0 { jump_comments.clone() } else { Vec::new() };
        place.extend(comments_of(&jumps, port, work));
        let local = local_port(port, "jump", &entry, http.listen, work);
        let jump = jump_target(&entry);
        entry.finish();
        if let (Some(local), Some((target, settings))) = (local, jump) {
            let wanted = first_label(&target.host.bare());
            let to = show::destination(&Target::Jump(target), settings.as_ref());
            forwards.push((wanted, local, place, to));
        }
    }
    k8s.finish_ref();
    section.finish_ref();
    let mut written = Written::map();
    for (index, (wanted, port, place, to)) in forwards.into_iter().enumerate() {
        let name = work.names.choose(&wanted, port);
        let forward = Written::map().with("to", to).with("listen", Written::bare(&port));
        let place = if index == 0 { [std::mem::take(&mut comments), place].concat() } else { place };
        written = written.with_comments(name, forward, place);
    }
    Tcp { forwards: written, idle_timeout: idle_timeout.filter(|wait| !wait.is_zero()), kubeconfig }
}

/// The key of a TCP route.
fn local_port(
    key: &str,
    table: &str,
    entry: &Section<'_>,
    gateway: Option<SocketAddr>,
    work: &mut Work,
) -> Option<u16> {
    let Some(port) = key.parse::<NonZeroU16>().ok().map(NonZeroU16::get) else {
        entry.complain_here(Complaint::new(
            format!("`{key}` is not a local port"),
            "write a number from 1 to 65535 as the key",
        ));
        return None;
    };
    if gateway.is_some_and(|gateway| gateway.port() == port) {
        entry.complain_here(Complaint::new(
            format!("local port {port} conflicts with http.listen"),
            "give one of them another port",
        ));
    }
    if let Some(other) = work.ports.insert(port, table.to_owned()) {
        entry.complain_here(Complaint::new(
            format!("local port {port} is used in `{other}` as well"),
            "give one of them another port",
        ));
    }
    Some(port)
}

/// `context`, `namespace`, `service` or `pod`, `port`.
fn kube_target(section: &Section<'_>) -> Option<KubeTarget> {
    let context = section.require("context", "write the context of the kubeconfig", filled);
    let namespace = section.require("namespace", "write the namespace", namespace);
    let selection = service_or_pod(section);
    let port = section.require("port", "write a number from 1 to 65535", |text| match PortRef::parse(text) {
        Ok(port @ PortRef::Number(_)) => Ok(port),
        Ok(PortRef::Name(_)) | Err(_) => {
            Err(Complaint::new(format!("`{text}` is not the number of a port"), "write a number from 1 to 65535"))
        }
    });
    Some(KubeTarget { context: Some(context?), namespace: Some(namespace?), selection: selection?, port: port? })
}

fn jump_target(section: &Section<'_>) -> Option<(JumpTarget, Option<JumpSettings>)> {
    let context = section.require("context", "write the context of the kubeconfig", filled);
    let namespace = section.require("namespace", "write the namespace", namespace);
    section.get("method", |text| match text {
        "" | "socat" => Ok(()),
        _ => Err(Complaint::new(format!("unsupported method `{text}`"), "write socat, or leave it out")),
    });
    let via = via(section.section("via"));
    let target = section.section("target");
    let host = target.require("host", "write the host as the pod sees it", JumpHost::parse);
    let port = target.require("port", "write a number from 1 to 65535", |text| {
        text.parse::<NonZeroU16>().map_err(|_| {
            Complaint::new(format!("`{text}` is not the number of a port"), "write a number from 1 to 65535")
        })
    });
    target.finish();
    let (selection, settings) = via?;
    let jump =
        JumpTarget { context: Some(context?), namespace: Some(namespace?), via: selection, host: host?, port: port? };
    Some((jump, (settings != JumpSettings::default()).then_some(settings)))
}

fn via(section: Section<'_>) -> Option<(Selection, JumpSettings)> {
    let selection = service_or_pod(&section);
    let container = section.get("container", plain).filter(|text| !text.is_empty());
    let create = section.optional_section("create").map(create);
    if create.is_some() && section.holds("service") {
        section.complain("create", Complaint::new("does not go with via.service", "name the pod: via.pod"));
    }
    section.finish();
    Some((selection?, JumpSettings { container, create: create.flatten() }))
}

fn create(section: Section<'_>) -> Option<CreateSettings> {
    let image = section.require("image", "write the image that has socat or nc", |text| {
        parse_image(text).map_err(|problem| Complaint { message: problem.message, hint: problem.hint })
    });
    let command = section.list("command", plain).unwrap_or_default();
    let timeout = section.get("timeout", positive).unwrap_or(CREATE_TIMEOUT);
    section.finish();
    Some(CreateSettings { image: image?, command, timeout, keep: true })
}

fn service_or_pod(section: &Section<'_>) -> Option<Selection> {
    let object = |kind: ObjectKind| {
        let parse = |name: &str| check_object_name(name).map(|()| Selection::Object { kind, name: name.to_owned() });
        section.get(kind.as_str(), parse)
    };
    let (service, pod) = (object(ObjectKind::Service), object(ObjectKind::Pod));
    match (section.holds("service"), section.holds("pod")) {
        (true, true) => {
            section.complain("pod", Complaint::new("there is a service as well", "keep one of the two"));
            None
        }
        (false, false) => {
            section.complain_here(Complaint::new("service or pod is required", "write service: NAME or pod: NAME"));
            None
        }
        (true, false) | (false, true) => service.or(pod),
    }
}

fn name_of(selection: &Selection) -> String {
    match selection {
        Selection::Object { name, .. } => short(name),
        Selection::Labels(_) => "pods".to_owned(),
    }
}

/// A host's first label, or its address with what a name may hold.
fn first_label(host: &str) -> String {
    let is_address = host.parse::<IpAddr>().is_ok();
    let label = if is_address { host } else { host.split('.').next().unwrap_or(host) };
    short(&label.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "-"))
}

/// Room for a port behind it, and a letter or digit before it.
fn short(name: &str) -> String {
    let name: String = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).chars().take(50).collect();
    if name.is_empty() { "forward".to_owned() } else { name }
}

fn comments_of(section: &Section<'_>, key: &str, work: &mut Work) -> Vec<String> {
    let line = section.entries().iter().find(|entry| entry.key == key).map(|entry| entry.place.line);
    line.map_or_else(Vec::new, |line| work.comments.take(line))
}

fn time(wait: Duration) -> Written {
    Written::Text(show_duration(wait))
}

fn plain(text: &str) -> Result<String, Complaint> {
    Ok(text.to_owned())
}

fn filled(text: &str) -> Result<String, Complaint> {
    match text.is_empty() || text.chars().any(char::is_control) {
        true => Err(Complaint::new("must not be empty", "write the context of the kubeconfig")),
        false => Ok(text.to_owned()),
    }
}

fn namespace(text: &str) -> Result<String, Complaint> {
    check_namespace(text)?;
    Ok(text.to_owned())
}

fn positive(text: &str) -> Result<Duration, Complaint> {
    match go_duration(text)? {
        wait if wait.is_zero() => Err(Complaint::new("must be positive", "write it as 60m")),
        wait => Ok(wait),
    }
}

/// A duration as Go writes it: `1h30m`, `60m`, `1.5s`.
fn go_duration(text: &str) -> Result<Duration, Complaint> {
    let fault = || Complaint::new(format!("`{text}` is not a positive duration"), "write it as 60m or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut seconds = 0.0f64;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(fault)?;
        let number: f64 = rest[..end].parse().map_err(|_| fault())?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |at| end + at);
        seconds += number
            * match &rest[end..unit_end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                "us" | "µs" => 0.000_001,
                "ns" => 0.000_000_001,
                _ => return Err(fault()),
            };
        rest = &rest[unit_end..];
    }
    if text.is_empty() || !(0.0..=DURATION_MAX_SECONDS).contains(&seconds) {
        return Err(fault());
    }
    // Ours are whole milliseconds.
    let wait = Duration::try_from_secs_f64(seconds).map_err(|_| fault())?;
    u64::try_from(wait.as_millis()).map(Duration::from_millis).map_err(|_| fault())
}
