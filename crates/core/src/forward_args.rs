//! The arguments of `adit forward`, in kubectl's forms: `[TYPE/]NAME` and `[LOCAL:]REMOTE`.

use crate::diagnose::{Diagnose, Fault};
use crate::target::{KindError, KubeTargetError, ObjectKind, PortError, PortRef, Selection, check_object_name};

/// Reads `[TYPE/]NAME`; a bare name is a pod.
///
/// # Errors
/// When the type is not known or the name cannot be one.
pub fn parse_object(text: &str) -> Result<Selection, ForwardArgsError> {
    let (kind, name) = match text.split_once('/') {
        None => (ObjectKind::Pod, text),
        Some(("", _) | (_, "")) => return Err(ForwardArgsError::Object { text: text.to_owned() }),
        Some((kind, name)) => (ObjectKind::parse(kind)?, name),
    };
    if name.is_empty() {
        return Err(ForwardArgsError::Object { text: text.to_owned() });
    }
    check_object_name(name)?;
    Ok(Selection::Object { kind, name: name.to_owned() })
}

/// Reads all ports of one command.
///
/// # Errors
/// When there is none, one is wrong, or two want the same local port.
pub fn parse_ports<T: AsRef<str>>(texts: &[T]) -> Result<Vec<PortPair>, ForwardArgsError> {
    if texts.is_empty() {
        return Err(ForwardArgsError::NoPorts);
    }
    let mut pairs: Vec<PortPair> = Vec::with_capacity(texts.len());
    for text in texts {
        let pair = PortPair::parse(text.as_ref())?;
        let wanted = pair.fixed_local();
        if let Some(port) = wanted
            && pairs.iter().any(|other| other.fixed_local() == wanted)
        {
            return Err(ForwardArgsError::Duplicate { port });
        }
        pairs.push(pair);
    }
    Ok(pairs)
}

/// One port at both ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortPair {
    /// Where it listens on this machine.
    pub local: LocalPort,
    /// Where it leads to: a port of the service, or of the pod.
    pub remote: PortRef,
}

/// Which port is listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocalPort {
    /// This one.
    Fixed(u16),
    /// Any that is free.
    Any,
    /// That with the remote port's number, which is the service's when the target is a service.
    SameAsRemote,
}

impl PortPair {
    /// Reads `[LOCAL:]REMOTE`. REMOTE is a number or a name, LOCAL a number; an empty one and `0` mean any free port.
    ///
    /// # Errors
    /// When it is not of this form.
    pub fn parse(text: &str) -> Result<Self, ForwardArgsError> {
        if let Some((_, protocol)) = text.split_once('/') {
            return Err(of_protocol(text, protocol));
        }
        let (local, remote) = match text.split_once(':') {
            None => (LocalPort::SameAsRemote, text),
            Some((local, remote)) => (LocalPort::parse(local)?, remote),
        };
        if remote.is_empty() || remote.contains(':') {
            return Err(ForwardArgsError::Format { text: text.to_owned() });
        }
        if remote.bytes().all(|b| b == b'0') {
            return Err(ForwardArgsError::Zero { text: text.to_owned() });
        }
        Ok(Self { local, remote: PortRef::parse(remote)? })
    }

    /// The local port, where 0 is any free one, when the remote port's number is known.
    #[must_use]
    pub const fn wanted_local(&self, remote: u16) -> u16 {
        match self.local {
            LocalPort::Fixed(port) => port,
            LocalPort::Any => 0,
            LocalPort::SameAsRemote => remote,
        }
    }

    /// The local port that is asked for, when that can be said before the target is resolved.
    #[must_use]
    pub const fn fixed_local(&self) -> Option<u16> {
        match self.local {
            LocalPort::Fixed(port) => Some(port),
            LocalPort::Any => None,
            LocalPort::SameAsRemote => self.remote.number(),
        }
    }
}

impl LocalPort {
    /// Reads a number from 0 to 65535; nothing and `0` mean any free port.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str) -> Result<Self, ForwardArgsError> {
        if text.is_empty() {
            return Ok(Self::Any);
        }
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        match digits.then(|| text.parse().ok()).flatten() {
            Some(0) => Ok(Self::Any),
            Some(port) => Ok(Self::Fixed(port)),
            None => Err(ForwardArgsError::Local { text: text.to_owned() }),
        }
    }
}

/// Why the arguments cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardArgsError {
    /// There is no port.
    #[error("TYPE/NAME and list of ports are required for forward")]
    NoPorts,
    /// The target is empty, or a part of it.
    #[error("`{text}` is not of the form [TYPE/]NAME")]
    Object {
        /// What was written.
        text: String,
    },
    /// The type is not known.
    #[error(transparent)]
    Kind(#[from] KindError),
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] KubeTargetError),
    /// It is not of the form of a port.
    #[error("invalid port format '{text}'")]
    Format {
        /// What was written.
        text: String,
    },
    /// The local port is no port.
    #[error("error parsing local port '{text}'")]
    Local {
        /// What was written.
        text: String,
    },
    /// The remote port is 0.
    #[error("remote port must be > 0 in '{text}'")]
    Zero {
        /// What was written.
        text: String,
    },
    /// The remote port is neither number nor name.
    #[error(transparent)]
    Remote(#[from] PortError),
    /// A protocol that cannot be forwarded.
    #[error("{protocol} is not supported: '{text}'")]
    Protocol {
        /// The protocol, in capitals.
        protocol: String,
        /// What was written.
        text: String,
    },
    /// Two ports of the command want the same local port.
    #[error("local port {port} is asked for twice")]
    Duplicate {
        /// Which port.
        port: u16,
    },
}

impl Diagnose for ForwardArgsError {
    fn fault(&self) -> Fault {
        match self {
            Self::NoPorts
            | Self::Object { .. }
            | Self::Format { .. }
            | Self::Local { .. }
            | Self::Zero { .. }
            | Self::Protocol { .. }
            | Self::Duplicate { .. } => Fault::Usage,
            Self::Kind(error) => error.fault(),
            Self::Name(error) => error.fault(),
            Self::Remote(error) => error.fault(),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoPorts => "name at least one port: adit forward svc/web 8080:80",
            Self::Object { .. } => "write pod/NAME, svc/NAME, deploy/NAME; a bare NAME is a pod",
            Self::Kind(error) => return error.hint(),
            Self::Name(error) => return error.hint(),
            Self::Format { .. } => "write [LOCAL:]REMOTE: 8080:80, 80, :80 for any free local port, 8080:http",
            Self::Local { .. } => "write a number from 1 to 65535, or nothing for any free port",
            Self::Zero { .. } => "write the port of the service or pod; only the local port may be 0",
            Self::Remote(error) => return error.hint(),
            Self::Protocol { .. } => "Kubernetes forwards TCP only; write the port without a protocol",
            Self::Duplicate { port } => {
                return Some(format!("give one of them another: :REMOTE takes any free port, {port}:REMOTE this one"));
            }
        };
        Some(hint.to_owned())
    }
}

fn of_protocol(text: &str, protocol: &str) -> ForwardArgsError {
    let protocol = protocol.to_ascii_uppercase();
    match protocol.as_str() {
        "UDP" | "SCTP" => ForwardArgsError::Protocol { protocol, text: text.to_owned() },
        _ => ForwardArgsError::Format { text: text.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(text: &str) -> Result<String, ForwardArgsError> {
        parse_object(text).map(|selection| selection.to_string())
    }

    fn pair(text: &str) -> (LocalPort, String) {
        let pair = PortPair::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        (pair.local, pair.remote.to_string())
    }

    #[test]
    fn objects_are_named_as_in_kubectl() {
        for (text, canonical) in [
            ("web-0", "pod/web-0"),
            ("pod/x", "pod/x"),
            ("po/x", "pod/x"),
            ("svc/x", "service/x"),
            ("services/x", "service/x"),
            ("deploy/x", "deployment/x"),
            ("deployment.apps/x", "deployment/x"),
            ("sts/x", "statefulset/x"),
            ("rs/x", "replicaset/x"),
            ("job/x", "job/x"),
            ("x.y", "pod/x.y"),
        ] {
            assert_eq!(object(text).as_deref(), Ok(canonical), "{text}");
        }
    }

    #[test]
    fn a_wrong_object_is_told_why() {
        for text in ["", "/", "pod/", "/x"] {
            assert!(matches!(object(text), Err(ForwardArgsError::Object { .. })), "{text}");
        }
        assert_eq!(object("servce/x").unwrap_err().hint().as_deref(), Some("did you mean `service`?"));
        assert!(object("node/x").unwrap_err().hint().unwrap().starts_with("known here: pod, service"));
        assert!(matches!(object("ds/x"), Err(ForwardArgsError::Kind(KindError::DaemonSet))));
        for text in ["pod/X", "a b", "pod/x/y", "svc/-x"] {
            assert!(matches!(object(text), Err(ForwardArgsError::Name(_))), "{text}");
        }
    }

    #[test]
    fn ports_are_written_as_in_kubectl() {
        assert_eq!(pair("8080:80"), (LocalPort::Fixed(8080), "80".into()));
        assert_eq!(pair("8080:http"), (LocalPort::Fixed(8080), "http".into()));
        assert_eq!(pair("80"), (LocalPort::SameAsRemote, "80".into()));
        assert_eq!(pair("http"), (LocalPort::SameAsRemote, "http".into()));
        for text in [":80", "0:80", "00:80"] {
            assert_eq!(pair(text), (LocalPort::Any, "80".into()), "{text}");
        }
    }

    #[test]
    fn the_local_port_follows_from_the_remote_one_once_that_is_known() {
        let wanted = |text: &str, remote| PortPair::parse(text).unwrap().wanted_local(remote);
        assert_eq!((wanted("8080:http", 80), wanted("http", 80), wanted(":http", 80)), (8080, 80, 0));
        let fixed = |text: &str| PortPair::parse(text).unwrap().fixed_local();
        assert_eq!((fixed("8080:http"), fixed("80"), fixed("http"), fixed(":80")), (Some(8080), Some(80), None, None));
    }

    #[test]
    fn a_wrong_port_is_told_why() {
        use ForwardArgsError as E;
        let error = |text: &str| PortPair::parse(text).unwrap_err();
        for text in ["", ":", "8080:", "1:2:3", "80/tcp", "80/"] {
            assert!(matches!(error(text), E::Format { .. }), "{text}");
        }
        for text in ["x:80", "65536:80", "-1:80", " 1:80", "127.0.0.1:80"] {
            assert!(matches!(error(text), E::Local { .. }), "{text}");
        }
        for text in ["0", "8080:0", ":000"] {
            assert!(matches!(error(text), E::Zero { .. }), "{text}");
        }
        for text in ["65536", "8080:HTTP", "a_b", "80-81"] {
            assert!(matches!(error(text), E::Remote(_)), "{text}");
        }
    }

    #[test]
    fn other_protocols_than_tcp_are_refused_by_name() {
        assert_eq!(PortPair::parse("53/UDP").unwrap_err().to_string(), "UDP is not supported: '53/UDP'");
        assert!(PortPair::parse("5353:53/udp").unwrap_err().to_string().starts_with("UDP is not supported"));
        assert!(PortPair::parse("9/sctp").unwrap_err().to_string().starts_with("SCTP is not supported"));
    }

    #[test]
    fn one_command_does_not_ask_for_a_local_port_twice() {
        let ports = |texts: &[&str]| parse_ports(texts).map(|pairs| pairs.len());
        assert_eq!(ports(&["8080:80", "8443:443", ":80", ":80", "0:80", "http", "http"]), Ok(7));
        for texts in [["8080:80", "8080:81"], ["80", "80:81"], ["80", "80"]] {
            assert!(matches!(ports(&texts), Err(ForwardArgsError::Duplicate { .. })), "{texts:?}");
        }
        assert_eq!(ports(&[]), Err(ForwardArgsError::NoPorts));
    }

    #[test]
    fn every_refusal_is_a_usage_fault_with_a_hint() {
        let ports = ["", "x:1", "0", "HTTP", "1/udp"].map(|text| PortPair::parse(text).unwrap_err());
        let objects = ["", "node/x", "pod/X"].map(|text| parse_object(text).unwrap_err());
        let lists = [parse_ports::<&str>(&[]).unwrap_err(), parse_ports(&["1", "1"]).unwrap_err()];
        for error in ports.into_iter().chain(objects).chain(lists) {
            assert_eq!(error.fault(), Fault::Usage, "{error}");
            assert!(error.hint().is_some(), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in any::<String>(), like in "[0-9a-c:/ -]{0,12}") {
            for text in [text, like] {
                let _ = (parse_object(&text), PortPair::parse(&text), LocalPort::parse(&text));
            }
        }

        #[test]
        fn no_two_fixed_local_ports_of_an_accepted_list_are_alike(
            texts in proptest::collection::vec("([0-3]?:)?[1-3a]", 1..6)
        ) {
            if let Ok(pairs) = parse_ports(&texts) {
                let mut fixed: Vec<u16> = pairs.iter().filter_map(PortPair::fixed_local).collect();
                let count = fixed.len();
                fixed.sort_unstable();
                fixed.dedup();
                prop_assert_eq!(fixed.len(), count);
            }
        }
    }
}
