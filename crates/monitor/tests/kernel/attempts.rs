//! Attempts that fail within connect, before their first packet, or because a host does not answer in its network.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;

use monitor::decode::End;
use monitor::source::Options;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use super::child::Child;
use super::{by, open, take};

/// Ports of the attempts in the other namespace after the first, by why they fail.
const REFUSED: u16 = 1;
const FORBIDDEN: u16 = 2;
const NO_ROUTE: u16 = 3;
const UNREACHABLE: u16 = 4;
const PROHIBITED: u16 = 5;
const BLACKHOLE: u16 = 6;
const NO_ANSWER: u16 = 7;

const EACCES: u16 = 13;
const EINVAL: u16 = 22;
const EADDRNOTAVAIL: u16 = 99;
const ENETUNREACH: u16 = 101;
const ECONNREFUSED: u16 = 111;
const EHOSTUNREACH: u16 = 113;
const UNKNOWN: u16 = u16::MAX;

/// Where there is a way to it only once there is a route.
const ELSEWHERE: [u8; 4] = [192, 0, 2, 7];
/// What the other process says where there is no network for a host that does not answer.
const NO_NETWORK: &str = "no network to be silent in";

fn tcp() -> OwnedFd {
    socket_of(AddressFamily::INET)
}

fn socket_of(family: AddressFamily) -> OwnedFd {
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
}

fn connect(socket: &OwnedFd, to: impl Into<SocketAddr>) -> Errno {
    rustix::net::connect(socket, &to.into()).unwrap_err()
}

/// What fails in the other process, in a network namespace of its own.
pub(crate) fn that_fail(port: u16) {
    assert_eq!(connect(&tcp(), (ELSEWHERE, port + NO_ROUTE)), Errno::NETUNREACH);
    // There is no address that it could come from.
    assert!(ip(&["-6", "addr", "del", "::1/128", "dev", "lo"]));
    let other = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7), port + NO_ROUTE));
    assert_eq!(connect(&socket_of(AddressFamily::INET6), other), Errno::ADDRNOTAVAIL);
    for (kind, last, more, error) in [
        ("unreachable", 1, UNREACHABLE, Errno::HOSTUNREACH),
        ("prohibit", 2, PROHIBITED, Errno::ACCESS),
        ("blackhole", 3, BLACKHOLE, Errno::INVAL),
    ] {
        assert!(ip(&["route", "add", kind, &format!("203.0.113.{last}/32")]), "{kind}");
        assert_eq!(connect(&tcp(), ([203, 0, 113, last], port + more)), error, "{kind}");
    }
    if has_silent_network() {
        assert_eq!(connect(&tcp(), ([198, 51, 100, 2], port + NO_ANSWER)), Errno::HOSTUNREACH);
    } else {
        println!("{NO_NETWORK}");
    }
    let here = [127, 0, 0, 1];
    // This one had a connection that was cut off for another attempt: its error still stands at the socket.
    let (old, any) = (tcp(), TcpListener::bind(SocketAddr::from((here, 0))).unwrap());
    rustix::net::connect(&old, &any.local_addr().unwrap()).unwrap();
    rustix::net::connect_unspec(&old).unwrap();
    // One port is all there is, and one connection to this address has it.
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40000").unwrap();
    let listener = TcpListener::bind(SocketAddr::from((here, port))).unwrap();
    let has_it = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(connect(&tcp(), (here, port)), Errno::ADDRNOTAVAIL);
    // The same of a socket that had a port before.
    let again = tcp();
    assert_eq!(connect(&again, (here, port + REFUSED)), Errno::CONNREFUSED);
    assert_eq!(connect(&again, (here, port)), Errno::ADDRNOTAVAIL);
    // At once, and with that socket: what was noted of the attempt before is not taken for this one's.
    assert_eq!(connect(&again, (ELSEWHERE, port + NO_ROUTE)), Errno::NETUNREACH);
    assert_eq!(connect(&old, (here, port)), Errno::ADDRNOTAVAIL);
    drop((listener, has_it));
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "32768 60999").unwrap();
    // There is a route, but none from the port that was found.
    assert!(ip(&["route", "add", "default", "dev", "lo"]));
    forbid_ports();
    assert_eq!(connect(&tcp(), (ELSEWHERE, port + FORBIDDEN)), Errno::ACCESS);
}

fn ip(words: &[&str]) -> bool {
    Command::new("ip").args(words).status().is_ok_and(|status| status.success())
}

/// A network in which nobody answers, if this kernel has such devices: it asks for the host's address, and gives up.
fn has_silent_network() -> bool {
    let is_made = ip(&["link", "add", "silent", "type", "veth", "peer", "name", "nobody"])
        && ip(&["link", "set", "nobody", "up"])
        || ip(&["link", "add", "silent", "type", "dummy"]) && ip(&["link", "set", "silent", "arp", "on"]);
    let is_there =
        is_made && ip(&["link", "set", "silent", "up"]) && ip(&["addr", "add", "198.51.100.1/24", "dev", "silent"]);
    // Three times, and not a second apart each.
    is_there && std::fs::write("/proc/sys/net/ipv4/neigh/silent/retrans_time_ms", "100").is_ok()
}

/// `ip rule add priority 1 sport 1-65534 prohibit`, which not every `ip` can say.
fn forbid_ports() {
    const NEW_RULE: u16 = 32;
    // It is asked for, is made anew, and an answer is wanted.
    const FLAGS: u16 = 1 | 4 | 0x200 | 0x400;
    const PRIORITY: u16 = 6;
    const SOURCE_PORTS: u16 = 23;
    let mut rule = Vec::new();
    // IPv4, no addresses, prohibit.
    rule.extend([2, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
    let mut attribute = |kind: u16, value: [u8; 4]| {
        rule.extend(8_u16.to_ne_bytes());
        rule.extend(kind.to_ne_bytes());
        rule.extend(value);
    };
    attribute(PRIORITY, 1_u32.to_ne_bytes());
    let (first, last) = (1_u16.to_ne_bytes(), 65_534_u16.to_ne_bytes());
    attribute(SOURCE_PORTS, [first[0], first[1], last[0], last[1]]);
    let mut message = Vec::new();
    message.extend(u32::try_from(16 + rule.len()).unwrap().to_ne_bytes());
    message.extend([NEW_RULE, FLAGS].map(u16::to_ne_bytes).concat());
    message.extend([0; 8]);
    message.extend(rule);
    // Without a number it is the one of routes.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
    send(&socket, &message, SendFlags::empty()).unwrap();
    let mut answer = [0; 64];
    let (read, _) = recv(&socket, &mut answer, RecvFlags::empty()).unwrap();
    assert!(read >= 20 && answer[16..20] == [0; 4], "{:?}", &answer[..read]);
}

/// Each attempt is told with what connect says, or with nothing that is wrong.
fn have_their_errors(options: &Options, port: u16) {
    let Some(mut source) = open(options) else { return };
    let ran = Child::in_a_network_namespace(&format!("attempts {port}")).unwrap();
    if String::from_utf8_lossy(&ran.stderr).contains("unshare") {
        eprintln!("SKIPPED, as there is no other network namespace to be had: {ran:?}");
        return;
    }
    assert!(ran.status.success(), "{ran:?}");
    // Where no exit of connect is seen nobody says why; what is found out without it is told all the same.
    let says_why = source.way().chosen("unreachable").is_some();
    let told = |error: u16| if says_why { error } else { UNKNOWN };
    let mut wanted = vec![
        (port, EADDRNOTAVAIL),
        (port, told(EADDRNOTAVAIL)),
        (port, told(EADDRNOTAVAIL)),
        (port + REFUSED, ECONNREFUSED),
        (port + FORBIDDEN, told(EACCES)),
    ];
    // Nothing is seen of these but the exit of connect.
    let at_once = [(NO_ROUTE, ENETUNREACH), (NO_ROUTE, EADDRNOTAVAIL), (NO_ROUTE, ENETUNREACH)];
    wanted.extend(at_once.iter().filter(|_| says_why).map(|(more, error)| (port + more, *error)));
    let at_once = [(UNREACHABLE, EHOSTUNREACH), (PROHIBITED, EACCES), (BLACKHOLE, EINVAL)];
    wanted.extend(at_once.iter().filter(|_| says_why).map(|(more, error)| (port + more, *error)));
    // This one has sent packets, and is told by any way.
    let is_silent = !String::from_utf8_lossy(&ran.stdout).contains(NO_NETWORK);
    wanted.extend(is_silent.then_some((port + NO_ANSWER, EHOSTUNREACH)));
    let mut found = take(&mut *source, wanted.len(), |record| {
        let is_failure = matches!(record.ended, Some((_, End::Failed(_))));
        is_failure && (port..=port + NO_ANSWER).contains(&record.remote.port())
    });
    assert!(found.iter().all(|record| record.owner.is_some()), "{found:#?}");
    found.sort_unstable_by_key(|record| (record.remote.port(), record.opened()));
    let found: Vec<_> = found.iter().map(|record| (record.remote.port(), record.ended.unwrap().1)).collect();
    let wanted: Vec<_> = wanted.iter().map(|(port, error)| (*port, End::Failed(*error))).collect();
    assert_eq!(found, wanted);
}

#[test]
fn an_attempt_that_fails_within_connect_is_told_with_its_error_or_with_none_by_the_best_way() {
    have_their_errors(&Options::default(), 18_481);
}

#[test]
fn an_attempt_that_fails_within_connect_is_told_with_its_error_or_with_none_by_raw_tracepoint() {
    have_their_errors(&by("raw_tracepoint"), 18_489);
}

#[test]
fn an_attempt_that_fails_within_connect_is_told_with_its_error_or_with_none_by_tracepoint() {
    have_their_errors(&by("tracepoint"), 18_497);
}

#[test]
fn an_attempt_that_fails_within_connect_is_told_with_its_error_or_with_none_by_kprobe_where_the_kernel_has_them() {
    have_their_errors(&by("kprobe"), 18_505);
}
