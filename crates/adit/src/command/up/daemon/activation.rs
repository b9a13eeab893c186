//! Sockets that systemd hands to the daemon: the control socket, and ports by the names of forwards.
//!
//! They are used in place of binding, in the way of those of a daemon before this one.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use adit_core::config::{AgentFile, DaemonConfig};
use gateway::entrances::Entrances;
use runtime::activation::Passed;
use runtime::control::ControlSocket;

use super::place::Place;
use super::state::internal;
use crate::report::Failure;

/// The name of sockets that are no forward's.
const GATEWAY: &str = "gateway";

/// What was handed over.
#[derive(Default)]
pub(super) struct Activated {
    pub(super) control: Option<ControlSocket>,
    ports: Vec<(String, TcpListener)>,
    /// What cannot be used, in words.
    strange: Vec<String>,
}

/// The ports by their labels, those of entrances and those of the daemon itself, and what nobody asked for.
#[derive(Default)]
pub(super) struct Ports {
    pub(super) entrances: Vec<(String, TcpListener)>,
    pub(super) doors: Vec<(String, TcpListener)>,
    pub(super) strange: Vec<String>,
}

/// Takes what systemd hands over. To be called before there are threads.
pub(super) fn take(place: &Place) -> Result<Activated, Failure> {
    let mut activated = Activated::default();
    for passed in runtime::activation::take() {
        match passed {
            Passed::Unix(name, listener) if activated.control.is_some() || !is_control(place, &listener) => {
                let at = place.socket();
                let text = format!("the socket `{name}` is not used: the control socket is {}", at.display());
                activated.strange.push(text);
            }
            Passed::Unix(_, listener) => {
                // Whatever its unit says (S18).
                let only_ours = std::fs::Permissions::from_mode(0o600);
                std::fs::set_permissions(place.socket(), only_ours).map_err(|error| internal(&error))?;
                let socket = ControlSocket::inherited(OwnedFd::from(listener));
                activated.control = Some(socket.map_err(|error| internal(&error))?);
            }
            Passed::Tcp(name, listener) => activated.ports.push((name, listener)),
            Passed::Other(name) => {
                activated.strange.push(format!("the socket `{name}` is not used: nothing can be accepted from it"));
            }
            Passed::NoSocket(name) => {
                activated.strange.push(format!("what is handed over as `{name}` is closed: it is no socket"));
            }
        }
    }
    Ok(activated)
}

fn is_control(place: &Place, listener: &UnixListener) -> bool {
    let own = listener.local_addr();
    let bound = own.as_ref().ok().and_then(|address| address.as_pathname());
    let whole = |path: &std::path::Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    bound.is_some_and(|path| whole(path) == whole(&place.socket()))
}

impl Activated {
    /// Finds out what each port is for.
    pub(super) fn sorted(self, file: &AgentFile) -> Ports {
        let mut ports = Ports { strange: self.strange, ..Ports::default() };
        for (name, listener) in self.ports {
            let Ok(local) = listener.local_addr() else { continue };
            if let Some(wanted) = door(&file.daemon, &name) {
                match wanted.filter(|wanted| fits(*wanted, local)) {
                    Some(_) => ports.doors.push((name, listener)),
                    None => {
                        let why = format!("the file has {}", wanted.map_or("none".into(), |other| other.to_string()));
                        ports.strange.push(format!("the socket `{name}` at {local} is not used: {why} in `{name}`"));
                    }
                }
                continue;
            }
            match asked(file, &name, local) {
                Ok((address, owner)) => ports.entrances.push((Entrances::label(address, owner), listener)),
                Err(why) => ports.strange.push(format!("the socket `{name}` at {local} is not used: {why}")),
            }
        }
        ports
    }
}

/// What the file says of a port of the daemon itself, when the name is one's.
fn door(config: &DaemonConfig, name: &str) -> Option<Option<SocketAddr>> {
    match name {
        "daemon.listen" => Some(config.listen),
        "daemon.metrics" => Some(config.metrics),
        _ => None,
    }
}

/// Port 0 is whatever it has.
fn fits(asked: SocketAddr, local: SocketAddr) -> bool {
    asked.ip() == local.ip() && [0, local.port()].contains(&asked.port())
}

/// The address as the file has it, and whose it is.
fn asked<'a>(
    file: &AgentFile,
    name: &'a str,
    local: SocketAddr,
) -> Result<(SocketAddr, Option<&'a str>), &'static str> {
    let (listen, owner) = match file.forward(name) {
        Some(forward) if forward.enabled => (&forward.listen, Some(name)),
        Some(_) => return Err("the forward is disabled"),
        None if name == GATEWAY => (&file.gateway.as_ref().ok_or("there is no gateway in the file")?.listen, None),
        None => return Err("no forward has this name; set FileDescriptorName in its unit"),
    };
    let found = listen.iter().find(|address| fits(**address, local));
    found.map(|address| (*address, owner)).ok_or("the file has another address in `listen`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_for_whoever_has_its_name_and_its_address() {
        let text = "forwards: { web: { to: 1, listen: 80 }, any: { to: 1, listen: 0 }, off: { to: 1, listen: 81, enabled: no } }\n\
                    gateway: { listen: 127.0.0.1:8989 }";
        let file = AgentFile::parse("adit.yaml", text, &|_| None).unwrap();
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(asked(&file, "web", at(80)), Ok((at(80), Some("web"))));
        assert_eq!(asked(&file, "any", at(4711)), Ok((at(0), Some("any"))));
        assert_eq!(asked(&file, "gateway", at(8989)), Ok((at(8989), None)));
        assert!(asked(&file, "web", at(82)).unwrap_err().contains("another address"));
        assert!(asked(&file, "off", at(81)).unwrap_err().contains("disabled"));
        assert!(asked(&file, "unknown", at(80)).unwrap_err().contains("FileDescriptorName"));
    }

    #[test]
    fn a_port_of_the_daemon_that_the_file_does_not_have_is_told() {
        let sorted = |text: &str| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let file = AgentFile::parse("adit.yaml", &text.replace("PORT", &port.to_string()), &|_| None).unwrap();
            let ports = vec![("daemon.metrics".to_owned(), listener)];
            Activated { ports, ..Activated::default() }.sorted(&file)
        };
        for (text, said) in [
            ("forwards: { web: { to: 1 } }", "the file has none in `daemon.metrics`"),
            ("daemon: { metrics: 1 }", "the file has 127.0.0.1:1 in `daemon.metrics`"),
        ] {
            let ports = sorted(text);
            assert!(ports.doors.is_empty() && ports.strange[0].contains(said), "{:?}", ports.strange);
        }
        for text in ["daemon: { metrics: PORT }", "daemon: { metrics: 0 }"] {
            let ports = sorted(text);
            assert!(ports.doors.len() == 1 && ports.strange.is_empty(), "{:?}", ports.strange);
        }
    }
}
