//! What the command line asks for: targets, ports, addresses, the time-out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ::forward::JumpOptions;
use adit_core::config::unit::parse_duration;
use adit_core::diagnose::Fault;
use adit_core::forward_args::{LocalPort, PortPair, parse_object, parse_ports};
use adit_core::target::{
    JumpTarget, KubeTarget, LocalTarget, Selection, Target, TargetError, check_namespace, selector,
};

use super::ForwardArguments;
use crate::report::{Failure, failure};

/// Everything that is asked for, before any of it is looked up.
pub(super) struct Asked {
    /// The target as it was written, for lines about it.
    pub(super) label: String,
    /// In the order they were written; never empty.
    pub(super) ports: Vec<AskedPort>,
    pub(super) addresses: Vec<Address>,
    /// How long the start may take.
    pub(super) patience: Duration,
    /// For a jump.
    pub(super) jump: JumpOptions,
}

/// One port.
pub(super) struct AskedPort {
    pub(super) local: LocalPort,
    pub(super) target: Target,
    /// Number or name of the port at the other end.
    pub(super) remote: String,
}

/// One address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) ip: IpAddr,
    /// It is left out on a machine that has no such address.
    pub(super) optional: bool,
}

impl Asked {
    pub(super) fn parse(arguments: &ForwardArguments) -> Result<Self, Failure> {
        let addresses = parse_addresses(&arguments.address)?;
        let patience = parse_timeout(&arguments.pod_running_timeout)?;
        if let Some(namespace) = &arguments.namespace {
            check_namespace(namespace).map_err(|error| failure(&error))?;
        }
        let (label, ports) = match arguments.positional.split_first() {
            _ if arguments.selector.is_some() => by_labels(arguments)?,
            Some((url, locals)) if Target::is_url(url) => (url.clone(), vec![by_url(arguments, url, locals)?]),
            Some((object, ports)) => {
                let selection = parse_object(object).map_err(|error| failure(&error))?;
                (object.clone(), by_selection(arguments, &selection, ports)?)
            }
            None => {
                by_selection(arguments, &Selection::Labels(String::new()), &[]).map(|ports| (String::new(), ports))?
            }
        };
        let jump = match ports.first() {
            Some(port) => arguments.jump.options(&port.target)?,
            None => JumpOptions::default(),
        };
        Ok(Self { label, ports, addresses, patience, jump })
    }

    /// The command line with another local port, to be typed as it is.
    pub(super) fn command_with(&self, arguments: &ForwardArguments, index: usize, local: u16) -> String {
        let mut words = vec!["adit forward".to_owned()];
        let flags = [
            ("-n", &arguments.namespace),
            ("--context", &arguments.context),
            ("--kubeconfig", &arguments.kubeconfig),
            ("-l", &arguments.selector),
        ];
        for (flag, value) in flags {
            words.extend(value.iter().flat_map(|value| [flag.to_owned(), quoted(value)]));
        }
        if arguments.address != ["localhost"] {
            words.extend(["--address".to_owned(), quoted(&arguments.address.join(","))]);
        }
        let is_url =
            arguments.selector.is_none() && arguments.positional.first().is_some_and(|arg| Target::is_url(arg));
        let leading = usize::from(arguments.selector.is_none());
        words.extend(arguments.positional.iter().take(leading).map(|arg| quoted(arg)));
        if is_url {
            words.push(local.to_string());
        } else {
            for (at, arg) in arguments.positional.iter().skip(leading).enumerate() {
                let remote = self.ports.get(at).map_or(arg.as_str(), |port| &port.remote);
                words.push(if at == index { format!("{local}:{remote}") } else { quoted(arg) });
            }
        }
        if !arguments.command.is_empty() {
            words.push("--".to_owned());
            words.extend(arguments.command.iter().map(|word| quoted(&word.to_string_lossy())));
        }
        words.join(" ")
    }
}

impl AskedPort {
    /// The local port, where 0 is any, when that can be said before the target is resolved.
    pub(super) fn known_local(&self) -> Option<u16> {
        match self.local {
            LocalPort::Fixed(port) => Some(port),
            LocalPort::Any => Some(0),
            LocalPort::SameAsRemote => self.remote.parse().ok(),
        }
    }

    /// Whether no local port was named, so that another one may be offered.
    pub(super) fn is_bare(&self) -> bool {
        self.local == LocalPort::SameAsRemote
    }

    /// Context and namespace of a target in a cluster.
    pub(super) fn place_mut(&mut self) -> Option<(&mut Option<String>, &mut Option<String>)> {
        match &mut self.target {
            Target::Kubernetes(KubeTarget { context, namespace, .. })
            | Target::Jump(JumpTarget { context, namespace, .. }) => Some((context, namespace)),
            Target::Ssh(_) | Target::Local(_) | Target::Forward(_) => None,
        }
    }

    /// The target in a ready line: an object in a cluster without its scheme.
    pub(super) fn shown(&self) -> String {
        let text = self.target.to_string();
        text.strip_prefix("k8s://").map(str::to_owned).unwrap_or(text)
    }
}

fn by_labels(arguments: &ForwardArguments) -> Result<(String, Vec<AskedPort>), Failure> {
    let written = arguments.selector.as_deref().unwrap_or_default();
    if let Some(first) = arguments.positional.first().filter(|first| first.contains('/') && !first.contains("/udp")) {
        return Err(Failure::new(
            Fault::Usage,
            format!("--selector and the target `{first}` exclude each other"),
            "leave out one of them: adit forward -l app=web 8080:80",
        ));
    }
    let labels = selector::check(written).map_err(|error| failure(&error))?;
    let ports = by_selection(arguments, &Selection::Labels(labels), &arguments.positional)?;
    Ok((written.to_owned(), ports))
}

fn by_selection(
    arguments: &ForwardArguments,
    selection: &Selection,
    ports: &[String],
) -> Result<Vec<AskedPort>, Failure> {
    let pairs = parse_ports(ports).map_err(|error| failure(&error))?;
    let port = |pair: PortPair| AskedPort {
        local: pair.local,
        remote: pair.remote.to_string(),
        target: Target::Kubernetes(KubeTarget {
            context: arguments.context.clone(),
            namespace: arguments.namespace.clone(),
            selection: selection.clone(),
            port: pair.remote,
        }),
    };
    Ok(pairs.into_iter().map(port).collect())
}

fn by_url(arguments: &ForwardArguments, url: &str, locals: &[String]) -> Result<AskedPort, Failure> {
    let target = Target::parse(url).map_err(|error| {
        let failure = failure(&error);
        match error {
            TargetError::Later { .. } | TargetError::Scheme { .. } => {
                Failure::new(Fault::Usage, error.to_string(), URL_FORMS)
            }
            _ => failure,
        }
    })?;
    let remote = match &target {
        Target::Kubernetes(target) => target.port.to_string(),
        Target::Jump(target) => target.port.to_string(),
        Target::Ssh(target) => target.port.to_string(),
        Target::Local(LocalTarget { port, .. }) => port.to_string(),
        Target::Forward(_) => {
            let message = format!("`{url}` is a forward of adit.yaml, and this version reads none");
            return Err(Failure::new(Fault::Usage, message, URL_FORMS));
        }
    };
    let local = match locals {
        [] => LocalPort::SameAsRemote,
        [pair] if pair.split_once(':').is_some_and(|(_, remote)| !remote.is_empty()) => {
            let local = pair.split(':').next().unwrap_or_default();
            return Err(Failure::new(
                Fault::Usage,
                format!("`{pair}` names a port of the target, and a target URL has that in itself"),
                format!(
                    "write the local port alone: adit forward {} {}",
                    quoted(url),
                    if local.is_empty() { ":" } else { local }
                ),
            ));
        }
        [local] => LocalPort::parse(local.strip_suffix(':').unwrap_or(local)).map_err(|error| failure(&error))?,
        [_, more, ..] => {
            let message = format!("`{more}` is one port too many: a target URL has its port in itself");
            return Err(Failure::new(
                Fault::Usage,
                message,
                "write the URL and one local port, or `:` for any free one",
            ));
        }
    };
    let mut port = AskedPort { local, target, remote };
    let flags = [("--context", &arguments.context), ("--namespace", &arguments.namespace)];
    let given = flags.into_iter().filter_map(|(flag, value)| Some((flag, value.as_ref()?)));
    for (flag, value) in given {
        let slot = port.place_mut().map(|(context, namespace)| if flag == "--context" { context } else { namespace });
        match slot {
            Some(slot) if slot.as_ref().is_none_or(|there| there == value) => *slot = Some(value.clone()),
            _ => {
                let message = format!("{flag} {value} and the target `{url}` contradict each other");
                return Err(Failure::new(Fault::Usage, message, "say it in one place"));
            }
        }
    }
    Ok(port)
}

const URL_FORMS: &str = "this version forwards to [TYPE/]NAME with ports, k8s://CONTEXT/NAMESPACE/KIND/NAME:PORT, \
                         jump://CONTEXT/NAMESPACE/KIND/NAME/HOST:PORT, ssh://USER@HOST/DESTHOST:DESTPORT and tcp://HOST:PORT";

fn parse_addresses(texts: &[String]) -> Result<Vec<Address>, Failure> {
    let mut addresses: Vec<Address> = Vec::new();
    let mut add = |ip: IpAddr, optional: bool| match addresses.iter_mut().find(|known| known.ip == ip) {
        Some(known) => known.optional &= optional,
        None => addresses.push(Address { ip, optional }),
    };
    for text in texts {
        let text = text.trim();
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if text == "localhost" {
            add(Ipv4Addr::LOCALHOST.into(), false);
            add(Ipv6Addr::LOCALHOST.into(), true);
        } else if let Ok(ip) = bare.parse() {
            add(ip, false);
        } else {
            return Err(Failure::new(
                Fault::Usage,
                format!("--address {text}: neither an address nor `localhost`"),
                "write addresses of this machine, such as 127.0.0.1, ::1, or 0.0.0.0 for all",
            ));
        }
    }
    // All addresses of a family are one listener: another one on a single address would be in its way.
    let all: Vec<IpAddr> = addresses.iter().map(|address| address.ip).filter(IpAddr::is_unspecified).collect();
    addresses.retain(|address| !all.iter().any(|all| *all != address.ip && (all.is_ipv6() || address.ip.is_ipv4())));
    Ok(addresses)
}

/// A time as Go writes it (`1m30s`), or a number of seconds.
fn parse_timeout(text: &str) -> Result<Duration, Failure> {
    let fault = |message: String| {
        Failure::new(Fault::Usage, format!("--pod-running-timeout {text}: {message}"), "write it as 30s, 5m or 1m30s")
    };
    let seconds = text.bytes().all(|b| b.is_ascii_digit()).then(|| format!("{text}s"));
    let total = parts(seconds.as_deref().unwrap_or(text))
        .try_fold(Duration::ZERO, |sum, part| sum.checked_add(parse_duration(part).ok()?));
    match total {
        None => Err(fault("not a time".into())),
        Some(Duration::ZERO) => Err(fault("it must be more than nothing".into())),
        Some(total) => Ok(total),
    }
}

/// `1m30s` in its parts, each with its unit.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let unit = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let end = text[unit..].find(|c: char| !c.is_ascii_alphabetic()).map_or(text.len(), |at| unit + at);
        let (part, more) = text.split_at(end);
        rest = (!more.is_empty()).then_some(more);
        Some(part)
    })
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::super::try_parse;
    use super::*;

    fn asked(arguments: &[&str]) -> Result<Asked, Failure> {
        Asked::parse(&try_parse(arguments).unwrap())
    }

    fn targets(arguments: &[&str]) -> Vec<(LocalPort, String)> {
        let asked = asked(arguments).unwrap_or_else(|failure| panic!("{arguments:?}: {failure:?}"));
        asked.ports.into_iter().map(|port| (port.local, port.target.to_string())).collect()
    }

    fn refusal(arguments: &[&str]) -> String {
        asked(arguments).err().map(|failure| format!("{failure:?}")).unwrap_or_else(|| panic!("{arguments:?}"))
    }

    #[test]
    fn kubectls_arguments_are_understood_in_any_order() {
        let fixed = (LocalPort::Fixed(8080), "k8s://prod/shop/service/web:80".to_owned());
        for arguments in [
            &["svc/web", "8080:80", "-n", "shop", "--context", "prod"][..],
            &["-n", "shop", "--context=prod", "service/web", "8080:80"],
            &["--namespace=shop", "svc/web", "--context", "prod", "8080:80"],
        ] {
            assert_eq!(targets(arguments).first(), Some(&fixed), "{arguments:?}");
        }
        let many = targets(&["web-0", "80", ":81", "8082:http"]);
        assert_eq!(many[0], (LocalPort::SameAsRemote, "k8s:///pod/web-0:80".replace(":///", ":////")));
        assert_eq!((many[1].0, many[2].0), (LocalPort::Any, LocalPort::Fixed(8082)));
    }

    #[test]
    fn with_labels_all_arguments_are_ports() {
        let found = targets(&["-l", "app = web", "8080:80", "81"]);
        assert!(found[0].1.contains("selector/app=web") || found[0].1.contains("selector/app%3Dweb"), "{found:?}");
        assert_eq!(found.len(), 2);
        assert!(refusal(&["-l", "app=web", "svc/web", "80"]).contains("exclude each other"));
    }

    #[test]
    fn a_url_takes_one_local_port_or_its_own() {
        let local = |arguments: &[&str]| targets(arguments)[0].0;
        assert_eq!(local(&["tcp://db:5432"]), LocalPort::SameAsRemote);
        assert_eq!(local(&["tcp://db:5432", "15432"]), LocalPort::Fixed(15432));
        assert_eq!(local(&["tcp://db:5432", "15432:"]), LocalPort::Fixed(15432));
        assert_eq!(local(&["jump://a/b/pod/c/db:3306", ":"]), LocalPort::Any);
        assert_eq!(asked(&["jump://a/b/pod/c/db:3306"]).unwrap().ports[0].known_local(), Some(3306));
        assert!(refusal(&["tcp://db:5432", "1", "2"]).contains("one port too many"));
        assert!(refusal(&["tcp://db:5432", "18101:80"]).contains("alone: adit forward tcp://db:5432 18101"));
        assert!(refusal(&["tcp://db:5432", ":80"]).contains("alone: adit forward tcp://db:5432 :"));
        assert!(refusal(&["ftp://bastion/db:5432"]).contains("this version forwards"));
        assert!(refusal(&["forward:db"]).contains("reads none"));
    }

    #[test]
    fn flags_fill_what_a_url_leaves_open_and_never_contradict_it() {
        let filled = targets(&["k8s:////svc/web:80", "--context", "prod", "-n", "shop"]);
        assert_eq!(filled[0].1, "k8s://prod/shop/service/web:80");
        assert!(refusal(&["k8s://dev/a/svc/web:80", "--context", "prod"]).contains("contradict"));
        assert!(refusal(&["tcp://h:1", "-n", "shop"]).contains("contradict"));
    }

    #[test]
    fn addresses_are_numbers_or_localhost() {
        let addresses = |arguments: &[&str]| {
            let asked = asked(&[&["web", "80"], arguments].concat()).unwrap();
            asked.addresses.iter().map(|a| format!("{}{}", a.ip, if a.optional { "?" } else { "" })).collect::<Vec<_>>()
        };
        assert_eq!(addresses(&[]), ["127.0.0.1", "::1?"]);
        assert_eq!(addresses(&["--address", "localhost,10.0.0.1"]), ["127.0.0.1", "::1?", "10.0.0.1"]);
        assert_eq!(addresses(&["--address", "::1", "--address", "localhost"]), ["::1", "127.0.0.1"]);
        assert_eq!(addresses(&["--address", "[::1]"]), ["::1"]);
        assert_eq!(addresses(&["--address", "0.0.0.0,127.0.0.1,::1"]), ["0.0.0.0", "::1"]);
        assert_eq!(addresses(&["--address", "localhost,0.0.0.0,::"]), ["::"]);
        assert!(refusal(&["web", "80", "--address", "example.com"]).contains("neither an address"));
    }

    #[test]
    fn times_are_written_as_in_go_or_in_seconds() {
        for (text, ms) in [("1m", 60_000), ("5m0s", 300_000), ("1h1m1.5s", 3_661_500), ("30", 30_000), ("250ms", 250)] {
            assert_eq!(parse_timeout(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "0", "0s", "m", "1m-1s", "1x", "soon", "1.m", "é"] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_that_is_proposed_is_the_same_but_for_the_port() {
        let proposed = |line: &[&str], index, port| {
            let arguments = try_parse(line).unwrap();
            Asked::parse(&arguments).unwrap().command_with(&arguments, index, port)
        };
        assert_eq!(proposed(&["svc/postgresql", "5432"], 0, 5433), "adit forward svc/postgresql 5433:5432");
        assert_eq!(
            proposed(&["svc/a", "80:http", "81", "-n", "x"], 1, 8081),
            "adit forward -n x svc/a 80:http 8081:81"
        );
        assert_eq!(proposed(&["-l", "a in (b)", "80"], 0, 8080), "adit forward -l 'a in (b)' 8080:80");
        assert_eq!(proposed(&["tcp://h:1", "2"], 0, 3), "adit forward tcp://h:1 3");
        assert_eq!(
            proposed(&["a", "80", "--context", "p", "--kubeconfig", "k", "--address", "::1", "--", "x", "a b"], 0, 8),
            "adit forward --context p --kubeconfig k --address ::1 a 8:80 -- x 'a b'"
        );
    }
}
