//! Local ports: bound before anything is connected, held from then on, and never checked and released.

use std::net::SocketAddr;

use adit_core::diagnose::{Diagnose as _, Fault};
use adit_core::free_port;
use runtime::listener::{BindError, BoundListener};

use super::ForwardArguments;
use super::asked::{Address, Asked};
use crate::report::{Failure, chain};
use crate::terminal;

/// How often a random port is tried that all addresses have to have.
const ANY_TRIES: usize = 32;
/// Where the port of a service below 1024 is usually had without a privilege: 8080, 8443.
const HIGHER: u16 = 8000;
/// A local port to write in an example.
const INSTEAD: u16 = 8080;

/// How taken ports are dealt with.
pub(super) struct Plan<'a> {
    arguments: &'a ForwardArguments,
    auto: bool,
    /// Puts a question, where there is somebody to answer.
    ask: Option<Ask>,
}

/// A question, and its answer; `None` when the input has ended.
type Ask = fn(&str) -> Option<String>;

/// One local port with all its addresses.
pub(super) struct Held {
    pub(super) listeners: Vec<BoundListener>,
    /// The port that was asked for, when it is another one.
    pub(super) instead_of: Option<u16>,
}

impl<'a> Plan<'a> {
    pub(super) fn of(arguments: &'a ForwardArguments) -> Self {
        Self { arguments, auto: arguments.auto_port, ask: terminal::can_ask().then_some(terminal::ask as Ask) }
    }

    /// Binds every port whose number is known now. Those that were asked for come first, so that none of them is
    /// lost to another's replacement.
    pub(super) fn hold_known(&self, asked: &Asked) -> Result<Vec<Option<Held>>, Failure> {
        let mut first: Vec<Option<Result<Held, BindError>>> = Vec::with_capacity(asked.ports.len());
        for port in &asked.ports {
            let bound = port.known_local().map(|wanted| bind(&asked.addresses, wanted));
            first.push(bound.map(|bound| bound.map(|listeners| Held { listeners, instead_of: None })));
        }
        first
            .into_iter()
            .enumerate()
            .map(|(index, bound)| match bound {
                None => Ok(None),
                Some(Ok(held)) => Ok(Some(held)),
                Some(Err(error)) => self.replace(asked, index, &error).map(Some),
            })
            .collect()
    }

    /// Binds a port whose number became known when the target was resolved.
    pub(super) fn hold(&self, asked: &Asked, index: usize, wanted: u16) -> Result<Held, Failure> {
        match bind(&asked.addresses, wanted) {
            Ok(listeners) => Ok(Held { listeners, instead_of: None }),
            Err(error) => self.replace(asked, index, &error),
        }
    }

    /// Another port, if that is wanted; otherwise the failure says which one would do.
    fn replace(&self, asked: &Asked, index: usize, error: &BindError) -> Result<Held, Failure> {
        let wanted = error.address().port();
        let found = match error {
            BindError::Taken { .. } | BindError::NotPermitted { .. } => nearest(&asked.addresses, wanted),
            BindError::NoSuchAddress { .. } | BindError::NotLoopback { .. } | BindError::System { .. } => None,
        };
        let message = chain(error);
        let Some((port, listeners)) = found else {
            return Err(Failure::new(error.fault(), message, error.hint().unwrap_or_default()));
        };
        let bare = asked.ports.get(index).is_some_and(super::asked::AskedPort::is_bare);
        if self.auto || (bare && self.ask.is_some_and(|ask| agreed(ask, &message, port))) {
            return Ok(Held { listeners, instead_of: Some(wanted) });
        }
        let command = asked.command_with(self.arguments, index, port);
        Err(Failure::new(error.fault(), message, format!("use {port}, which is free: {command}")))
    }
}

impl Held {
    /// Its addresses.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(BoundListener::local_addr).collect()
    }
}

/// Binds one port on all addresses, or none.
fn bind(addresses: &[Address], port: u16) -> Result<Vec<BoundListener>, BindError> {
    if port != 0 {
        return bind_all(addresses, port);
    }
    let mut tries = 0;
    loop {
        tries += 1;
        let first = addresses.iter().find(|address| !address.optional).or(addresses.first());
        let first = first.map_or(SocketAddr::from(([127, 0, 0, 1], 0)), |first| SocketAddr::new(first.ip, 0));
        let listener = BoundListener::bind(first)?;
        let port = listener.local_addr().port();
        let others: Vec<Address> = addresses.iter().copied().filter(|address| address.ip != first.ip()).collect();
        match bind_all(&others, port) {
            Ok(listeners) => return Ok(std::iter::once(listener).chain(listeners).collect()),
            // Free on the first address, taken on another: the next one may be free on all.
            Err(BindError::Taken { .. }) if tries < ANY_TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

fn bind_all(addresses: &[Address], port: u16) -> Result<Vec<BoundListener>, BindError> {
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        match BoundListener::bind(SocketAddr::new(address.ip, port)) {
            Ok(listener) => listeners.push(listener),
            Err(BindError::NoSuchAddress { .. } | BindError::System { .. }) if address.optional => {}
            Err(error) => return Err(error),
        }
    }
    Ok(listeners)
}

/// The nearest port that all addresses have free, bound.
fn nearest(addresses: &[Address], wanted: u16) -> Option<(u16, Vec<BoundListener>)> {
    candidates(wanted).find_map(|port| bind_all(addresses, port).ok().map(|listeners| (port, listeners)))
}

fn candidates(wanted: u16) -> impl Iterator<Item = u16> {
    let privileged = wanted < free_port::FIRST;
    let higher = privileged.then(|| wanted + HIGHER);
    higher.into_iter().chain(higher.into_iter().flat_map(free_port::near)).chain(free_port::near(wanted))
}

fn agreed(ask: Ask, message: &str, port: u16) -> bool {
    let answer = ask(&format!("{message}\nuse {port}, which is free? [Y/n] "));
    answer.is_some_and(|answer| matches!(answer.to_ascii_lowercase().as_str(), "" | "y" | "yes"))
}

/// A port that cannot be said before the target is known, and then is not.
pub(super) fn unknown_port(asked: &Asked, arguments: &ForwardArguments, index: usize) -> Failure {
    let remote = asked.ports.get(index).map(|port| port.remote.as_str()).unwrap_or_default();
    Failure::new(
        Fault::Upstream,
        format!("{}: the number of the port `{remote}` is not known", asked.label),
        format!("name the local port: {}", asked.command_with(arguments, index, INSTEAD)),
    )
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::super::try_parse;
    use super::*;

    fn v4() -> Address {
        Address { ip: Ipv4Addr::LOCALHOST.into(), optional: false }
    }

    fn localhost() -> [Address; 2] {
        [v4(), Address { ip: Ipv6Addr::LOCALHOST.into(), optional: true }]
    }

    fn taken() -> (BoundListener, u16) {
        let holder = BoundListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let port = holder.local_addr().port();
        (holder, port)
    }

    fn number(held: &Held) -> u16 {
        held.addresses().first().unwrap().port()
    }

    fn hold(line: &[&str]) -> Result<Vec<Option<Held>>, Failure> {
        let arguments = try_parse(line).unwrap();
        let asked = Asked::parse(&arguments)?;
        let plan = Plan { arguments: &arguments, auto: arguments.auto_port, ask: None };
        plan.hold_known(&asked)
    }

    #[test]
    fn any_port_is_the_same_on_all_addresses() {
        let listeners = bind(&localhost(), 0).unwrap();
        let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().port()).collect();
        assert!(ports.iter().all(|port| *port == ports[0] && *port != 0), "{ports:?}");
    }

    #[test]
    fn a_taken_port_names_its_holder_and_the_command_that_works() {
        let (_holder, port) = taken();
        let failure = format!("{:?}", hold(&["svc/db", &format!("{port}:5432")]).err().expect("it is taken"));
        assert!(failure.contains(&format!("(pid {}", std::process::id())), "{failure}");
        assert!(failure.contains("which is free: adit forward svc/db "), "{failure}");
        assert!(failure.contains(":5432"), "{failure}");
    }

    #[test]
    fn with_auto_port_the_nearest_free_one_is_bound_and_held() {
        let (_holder, port) = taken();
        let held = hold(&["svc/db", &format!("{port}:5432"), "--auto-port"]).unwrap();
        let held = held[0].as_ref().unwrap();
        assert_eq!(held.instead_of, Some(port));
        assert!(number(held).abs_diff(port) <= free_port::REACH);
        let error = BoundListener::bind(SocketAddr::from(([127, 0, 0, 1], number(held)))).unwrap_err();
        assert!(matches!(error, BindError::Taken { .. }), "it is held: {error:?}");
    }

    #[test]
    fn on_a_terminal_a_bare_port_that_is_taken_is_asked_about() {
        let (_holder, port) = taken();
        let hold = |port: String, ask: Ask| {
            let arguments = try_parse(&["svc/db", &port]).unwrap();
            let asked = Asked::parse(&arguments).unwrap();
            Plan { arguments: &arguments, auto: false, ask: Some(ask) }.hold_known(&asked)
        };
        let yes: [Ask; 3] = [|_| Some(String::new()), |_| Some("y".into()), |_| Some("Yes".into())];
        for ask in yes {
            assert_eq!(hold(port.to_string(), ask).unwrap()[0].as_ref().unwrap().instead_of, Some(port));
        }
        let no: [Ask; 3] = [|_| Some("n".into()), |_| Some("5".into()), |_| None];
        for ask in no {
            let failure = format!("{:?}", hold(port.to_string(), ask).err().expect("it was not agreed to"));
            assert!(failure.contains("which is free: adit forward svc/db "), "{failure}");
        }
        let question: Ask = |question| {
            assert!(question.contains("is taken by") && question.ends_with(", which is free? [Y/n] "), "{question}");
            None
        };
        hold(port.to_string(), question).err().expect("no answer is no");
        // Whoever names a local port wants that one.
        hold(format!("{port}:5432"), |_| panic!("nothing is asked")).err().expect("it is taken");
    }

    #[test]
    fn a_replacement_never_takes_a_port_that_was_asked_for() {
        let (_holder, port) = taken();
        let next = port.checked_add(1).unwrap();
        let Ok(held) = hold(&["svc/db", &format!("{port}:1"), &format!("{next}:2"), "--auto-port"]) else {
            return; // the next one is taken by somebody else, and so are many more
        };
        if held[1].as_ref().unwrap().instead_of.is_none() {
            assert_eq!(number(held[1].as_ref().unwrap()), next);
            assert_ne!(number(held[0].as_ref().unwrap()), next);
        }
    }

    #[test]
    fn a_named_port_without_a_local_one_waits_for_its_number() {
        assert!(hold(&["svc/web", "http"]).unwrap()[0].is_none());
        assert!(hold(&["svc/web", ":http"]).unwrap()[0].is_some());
    }

    #[test]
    fn an_address_that_was_asked_for_and_is_not_had_is_an_error() {
        let failure = format!("{:?}", hold(&["svc/web", ":80", "--address", "127.0.0.1,192.0.2.1"]).err());
        assert!(failure.contains("192.0.2.1 is not an address of this machine"), "{failure}");
    }

    #[test]
    fn below_1024_the_usual_higher_port_is_offered_first() {
        assert_eq!(candidates(80).take(3).collect::<Vec<_>>(), [8080, 8081, 8079]);
        assert_eq!(candidates(443).next(), Some(8443));
        assert_eq!(candidates(5432).next(), Some(5433));
    }
}
