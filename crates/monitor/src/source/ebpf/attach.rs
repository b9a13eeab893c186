//! Which program is attached to what: for each purpose the best way the kernel permits, with what it said of the others.

use std::any::Any;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::programs::{BtfTracePoint, FExit, Iter, KProbe, Program, ProgramError, RawTracePoint, TracePoint};
use aya::{Btf, Ebpf};

use crate::source::{CONNECTS, Options, Part, Way, rights};

/// What is attached.
pub(super) struct Attached {
    /// Runs over the map of connections.
    pub(super) survey: Option<OwnedFd>,
    /// Runs over open files.
    pub(super) files: Option<OwnedFd>,
    /// The same for those that listen.
    pub(super) listening: Option<OwnedFd>,
    /// The programs that the kernel runs when something happens.
    pub(super) hooks: Vec<Hook>,
}

/// A program that the kernel runs when something happens.
pub(super) struct Hook {
    pub(super) program: &'static str,
    kind: Kind,
    /// To ask the kernel about it.
    pub(super) descriptor: OwnedFd,
    /// It is attached as long as this is there.
    link: Option<Link>,
}

/// A link of aya's; of which kind is no matter to whoever lets it go.
type Link = Box<dyn Any + Send>;

impl Attached {
    /// Takes the programs that the kernel runs when something happens off what they are attached to.
    pub(super) fn detach(&mut self) {
        self.hooks.iter_mut().for_each(|hook| hook.link = None);
    }

    /// The same for changes of state alone: as if the kernel ran no program there.
    #[cfg(test)]
    pub(super) fn detach_state(&mut self) {
        self.hooks.iter_mut().filter(|hook| hook.program.starts_with("state_")).for_each(|hook| hook.link = None);
    }

    /// Attaches them again, in the order of the first time.
    pub(super) fn attach_again(&mut self, programs: &mut Ebpf) -> Result<(), String> {
        for hook in self.hooks.iter_mut().filter(|hook| hook.link.is_none()) {
            let program = named(programs, hook.program)?;
            hook.link = Some(link(program, hook.kind).map_err(|error| said(&error))?);
        }
        Ok(())
    }
}

/// One way to do something.
struct Try {
    /// What a user calls it.
    name: &'static str,
    /// What it is attached to.
    way: &'static str,
    /// The programs of the object, all of which must be attached.
    programs: &'static [(&'static str, Kind)],
}

/// How a program is loaded and attached.
#[derive(Clone, Copy)]
enum Kind {
    Typed(&'static str),
    Raw(&'static str),
    Trace(&'static str, &'static str),
    Probe(&'static str),
    Exit(&'static str),
}

/// The first where changes of state do not interrupt each other and only ends are told: quicker than the second, and else the same.
const STATE: [Try; 6] = [
    Try {
        name: "tp_btf",
        way: "tp_btf inet_sock_set_state",
        programs: &[("state_usual", Kind::Typed("inet_sock_set_state"))],
    },
    Try {
        name: "tp_btf",
        way: "tp_btf inet_sock_set_state",
        programs: &[("state_typed", Kind::Typed("inet_sock_set_state"))],
    },
    Try {
        name: "raw_tracepoint",
        way: "raw_tracepoint inet_sock_set_state",
        programs: &[("state_raw", Kind::Raw("inet_sock_set_state"))],
    },
    Try {
        name: "tracepoint",
        way: "tracepoint sock/inet_sock_set_state",
        programs: &[("state_tracepoint", Kind::Trace("sock", "inet_sock_set_state"))],
    },
    Try { name: "kprobe", way: "kprobe tcp_set_state", programs: &[("state_probe", Kind::Probe("tcp_set_state"))] },
    Try { name: "kprobe_connect", way: CONNECTS, programs: &[("connect_probe", Kind::Probe("tcp_connect"))] },
];

/// None of these is needed to know who closes. The system calls cost every process something at each of its calls, so
/// they are used only when asked for.
const ACCEPT: [Try; 2] = [
    Try { name: "fexit", way: "fexit inet_csk_accept", programs: &[("accept_exit", Kind::Exit("inet_csk_accept"))] },
    Try {
        name: "kretprobe",
        way: "kretprobe inet_csk_accept",
        programs: &[("accept_probe", Kind::Probe("inet_csk_accept"))],
    },
];

const ACCEPT_CALLS: [Try; 1] = [Try {
    name: "sys_exit",
    way: "tracepoint syscalls/sys_exit_accept and sys_exit_accept4",
    programs: &[
        ("accept_call", Kind::Trace("syscalls", "sys_exit_accept")),
        ("accept4_call", Kind::Trace("syscalls", "sys_exit_accept4")),
    ],
}];

const CLOSE: [Try; 2] = [
    Try {
        name: "tp_btf",
        way: "tp_btf tcp_destroy_sock",
        programs: &[("destroy_typed", Kind::Typed("tcp_destroy_sock"))],
    },
    Try {
        name: "raw_tracepoint",
        way: "raw_tracepoint tcp_destroy_sock",
        programs: &[("destroy_raw", Kind::Raw("tcp_destroy_sock"))],
    },
];

/// An attempt that ends for lack of a way there changes no state. Where IPv6 is left out of the kernel, the other alone.
const UNREACHABLE: [Try; 2] = [
    Try {
        name: "fexit",
        way: "fexit tcp_v6_connect and tcp_v4_connect",
        programs: &[("connect6_exit", Kind::Exit("tcp_v6_connect")), ("connect4_exit", Kind::Exit("tcp_v4_connect"))],
    },
    Try { name: "fexit", way: "fexit tcp_v4_connect", programs: &[("connect4_exit", Kind::Exit("tcp_v4_connect"))] },
];

/// Attaches all that can be, and notes what was tried.
pub(super) fn attach(
    programs: &mut Ebpf,
    btf: &Btf,
    options: &Options,
    nests: bool,
    parts: &mut Vec<Part>,
) -> Attached {
    let mut hooks = Vec::new();
    let mut first = |purpose, tries: &[Try], only| first_of(programs, btf, (purpose, tries, only), parts, &mut hooks);
    // The end first: from the first change of state on, none must be missed.
    first("close", &CLOSE, None);
    match options.accept.as_deref() {
        Some("close") => {}
        Some("sys_exit") => first("accept", &ACCEPT_CALLS, None),
        only => first("accept", &ACCEPT, only),
    }
    let is_quick = cfg!(target_arch = "x86_64") && !nests && !options.every_step && !options.general;
    let state = if is_quick { &STATE[..] } else { &STATE[1..] };
    first("state", state, options.state.as_deref());
    first("unreachable", &UNREACHABLE, None);
    if parts.iter().any(|part| part.way == CONNECTS && part.refused.is_none()) {
        // Where no change of state is seen, the end of a socket says nothing of how its connection ended.
        hooks.retain(|hook| !hook.program.starts_with("destroy_"));
        parts.retain(|part| part.purpose != "close");
    }
    let mut iterator = |purpose, program: &str, over: &'static str, way| {
        let loaded = load_iterator(programs, btf, program, over);
        let (fd, refused) = match loaded {
            Ok(fd) => (Some(fd), None),
            Err(error) => (None, Some(error)),
        };
        parts.push(Part { purpose, way, refused });
        fd
    };
    let files = iterator("owners", "files", "task_file", "iter task_file");
    let survey = iterator("survey", "live", "bpf_map_elem", "iter bpf_map_elem");
    let listening = load_iterator(programs, btf, "listening", "task_file").ok();
    Attached { survey, files, listening, hooks }
}

/// What cannot be told with what was attached.
pub(super) fn missing(way: &Way, release: (u32, u32)) -> Vec<&'static str> {
    let protocols = std::fs::read_to_string("/proc/net/protocols").unwrap_or_default();
    let has_ipv6 = std::path::Path::new("/proc/net/if_inet6").exists();
    let mut missing = missing_of(way, has_ipv6, has_multipath(&protocols));
    missing.extend(uncounted(way, release));
    missing
}

/// What is left out is counted by the kernel, but for tracepoints and probes of the older kind before 6.7.
fn uncounted(way: &Way, release: (u32, u32)) -> Option<&'static str> {
    let is_older_kind = |way: &str| way.starts_with("tracepoint") || way.starts_with("kprobe");
    let is_silent = release < (6, 7) && way.chosen("state").is_some_and(|part| is_older_kind(part.way));
    is_silent.then_some("how many steps the kernel leaves out while another program runs on the processor")
}

/// Whether somebody here has sockets of Multipath TCP: what is said of them is of no use to all others.
fn has_multipath(protocols: &str) -> bool {
    let mut lines = protocols.lines().map(str::split_ascii_whitespace);
    lines.any(|mut fields| {
        let is_multipath = fields.next().is_some_and(|name| name.starts_with("MPTCP"));
        is_multipath && fields.nth(1).and_then(|sockets| sockets.parse().ok()) > Some(0)
    })
}

fn missing_of(way: &Way, has_ipv6: bool, has_multipath: bool) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if way.sees_attempts_alone() {
        missing.push("ends, failures and bytes of connections, and incoming ones");
    }
    match (way.chosen("accept"), way.chosen("owners")) {
        (Some(_), _) => {}
        _ if way.sees_attempts_alone() => {}
        // It is looked for, or who closes it is taken for it.
        (None, Some(_)) => missing.push("who has accepted a connection, until it closes or is looked for"),
        (None, None) => missing.push("the processes of incoming connections before they close them"),
    }
    if way.chosen("owners").is_none() {
        missing.push("connections that are older than the monitor");
    } else if has_multipath {
        // Their sockets are in no file.
        missing.push("connections of Multipath TCP that are older than the monitor");
    }
    if way.chosen("close").is_none() && !way.sees_attempts_alone() {
        missing.push("until they are looked for: connections that were reset before their process was known");
    }
    match way.chosen("unreachable") {
        None => {
            missing.push("attempts for which there is no route");
            // Where failures are seen at all.
            missing.extend(way.sees_failures().then_some("why some attempts fail within connect (unknown)"));
        }
        Some(part) if has_ipv6 && !part.way.contains("tcp_v6_connect") => {
            missing.push("attempts over IPv6 for which there is no route");
            missing.push("why some attempts over IPv6 fail within connect (unknown)");
        }
        Some(_) => {}
    }
    if way.chosen("survey").is_none() {
        missing.push("bytes and round-trip times of connections that are open");
    }
    missing
}

/// Attaches the first that the kernel permits.
fn first_of(
    programs: &mut Ebpf,
    btf: &Btf,
    (purpose, tries, only): (&'static str, &[Try], Option<&str>),
    parts: &mut Vec<Part>,
    hooks: &mut Vec<Hook>,
) {
    for one in tries.iter().filter(|one| only.is_none_or(|only| only == one.name)) {
        let before = hooks.len();
        let mut attach = |(program, kind): &(&'static str, Kind)| match load(programs, btf, program, *kind) {
            Ok(hook) => {
                hooks.push(hook);
                None
            }
            Err(refused) => Some(refused),
        };
        let refused = one.programs.iter().find_map(&mut attach);
        let works = refused.is_none();
        parts.push(Part { purpose, way: one.way, refused });
        if works {
            return;
        }
        // Half of a way is none.
        hooks.truncate(before);
    }
}

fn named<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, String> {
    programs.program_mut(name).ok_or_else(|| format!("the object has no program {name}"))
}

/// Loads and attaches.
fn load(programs: &mut Ebpf, btf: &Btf, name: &'static str, kind: Kind) -> Result<Hook, String> {
    let program = named(programs, name)?;
    let load = |program: &mut Program| match kind {
        Kind::Typed(point) => <&mut BtfTracePoint>::try_from(program)?.load(point, btf),
        Kind::Raw(_) => <&mut RawTracePoint>::try_from(program)?.load(),
        Kind::Trace(..) => <&mut TracePoint>::try_from(program)?.load(),
        Kind::Probe(_) => <&mut KProbe>::try_from(program)?.load(),
        Kind::Exit(function) => <&mut FExit>::try_from(program)?.load(function, btf),
    };
    let mut attach = || -> Result<Hook, ProgramError> {
        load(program)?;
        let descriptor = program.fd()?.as_fd().try_clone_to_owned()?;
        Ok(Hook { program: name, kind, descriptor, link: Some(link(program, kind)?) })
    };
    attach().map_err(|error| said(&error))
}

/// Attaches what is loaded.
fn link(program: &mut Program, kind: Kind) -> Result<Link, ProgramError> {
    Ok(match kind {
        Kind::Typed(_) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            let link = program.attach()?;
            Box::new(program.take_link(link)?)
        }
        Kind::Raw(point) => {
            let program: &mut RawTracePoint = program.try_into()?;
            let link = program.attach(point)?;
            Box::new(program.take_link(link)?)
        }
        Kind::Trace(category, point) => {
            let program: &mut TracePoint = program.try_into()?;
            let link = program.attach(category, point)?;
            Box::new(program.take_link(link)?)
        }
        Kind::Probe(function) => {
            let program: &mut KProbe = program.try_into()?;
            let link = program.attach(function, 0)?;
            Box::new(program.take_link(link)?)
        }
        Kind::Exit(_) => {
            let program: &mut FExit = program.try_into()?;
            let link = program.attach()?;
            Box::new(program.take_link(link)?)
        }
    })
}

fn load_iterator(programs: &mut Ebpf, btf: &Btf, name: &str, over: &str) -> Result<OwnedFd, String> {
    let program = named(programs, name)?;
    let mut load = || -> Result<OwnedFd, ProgramError> {
        let program: &mut Iter = program.try_into()?;
        program.load(over, btf)?;
        let fd = program.fd()?;
        Ok(fd.as_fd().try_clone_to_owned()?)
    };
    load().map_err(|error| said(&error))
}

/// What the system said, in a line. The verifier's log is long, and for those who asked for more.
fn said(error: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        let log = verifier_log.to_string();
        if !log.is_empty() {
            tracing::debug!(%log, "the verifier");
        }
        let is_refused = io_error.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error());
        // Some kernels refuse whole kinds of programs to everybody: no right would help.
        if is_refused && rights::Facts::here().missing().is_empty() {
            return format!("the kernel refuses programs of this kind, though the rights are there: {io_error}");
        }
        return format!("the kernel does not load it: {io_error}");
    }
    super::chain(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that there is, with this way for attempts without a route.
    fn way(unreachable: &'static str) -> Way {
        let part = |purpose, way| Part { purpose, way, refused: None };
        let parts = ["state", "accept", "close", "owners", "survey"].map(|purpose| part(purpose, "a way"));
        Way { parts: [&parts[..], &[part("unreachable", unreachable)]].concat(), ..Way::default() }
    }

    #[test]
    fn what_is_seen_over_ipv4_alone_is_said() {
        assert!(missing_of(&way(UNREACHABLE[0].way), true, false).is_empty());
        let over_ipv6 = [
            "attempts over IPv6 for which there is no route",
            "why some attempts over IPv6 fail within connect (unknown)",
        ];
        assert_eq!(missing_of(&way(UNREACHABLE[1].way), true, false), over_ipv6);
        assert!(missing_of(&way(UNREACHABLE[1].way), false, false).is_empty(), "there is no IPv6");
    }

    #[test]
    fn that_it_is_not_seen_who_accepts_is_said() {
        let mut without = way(UNREACHABLE[0].way);
        without.parts.retain(|part| part.purpose != "accept");
        assert_eq!(
            missing_of(&without, true, false),
            ["who has accepted a connection, until it closes or is looked for"]
        );
        without.parts.retain(|part| part.purpose != "owners");
        let said = missing_of(&without, true, false);
        assert_eq!(said[0], "the processes of incoming connections before they close them");
    }

    #[test]
    fn that_errors_are_not_known_is_said_where_the_exit_of_connect_is_not_seen_but_failures_are() {
        let mut none = way(UNREACHABLE[0].way);
        none.parts.retain(|part| part.purpose != "unreachable");
        let said = ["attempts for which there is no route", "why some attempts fail within connect (unknown)"];
        assert_eq!(missing_of(&none, true, false), said);
        none.parts[0].way = CONNECTS;
        let said = missing_of(&none, true, false);
        assert!(said.contains(&"attempts for which there is no route") && said.len() == 2, "{said:?}");
    }

    #[test]
    fn what_the_kernel_leaves_out_without_counting_is_said() {
        let mut old = way(UNREACHABLE[0].way);
        assert_eq!(uncounted(&old, (6, 1)), None);
        for (name, is_said) in
            [("tracepoint sock/inet_sock_set_state", true), ("kprobe tcp_set_state", true), ("tp_btf", false)]
        {
            old.parts[0].way = name;
            assert_eq!(uncounted(&old, (6, 6)).is_some(), is_said, "{name}");
            assert_eq!(uncounted(&old, (6, 7)), None, "{name}");
        }
    }

    #[test]
    fn old_connections_of_multipath_tcp_are_told_as_not_seen_where_somebody_has_such_sockets() {
        const HEAD: &str =
            "protocol  size sockets  memory press maxhdr  slab module\nTCP  2240  9  165  no  304  yes  kernel\n";
        let protocols = |sockets: u32| format!("{HEAD}MPTCPv6   2064  {sockets}  165   no  0  yes  kernel\n");
        assert_eq!(
            [has_multipath(&protocols(0)), has_multipath(&protocols(2)), has_multipath("")],
            [false, true, false]
        );
        let mut all = way(UNREACHABLE[0].way);
        assert_eq!(missing_of(&all, true, true), ["connections of Multipath TCP that are older than the monitor"]);
        all.parts.retain(|part| part.purpose != "owners");
        assert_eq!(missing_of(&all, true, true), ["connections that are older than the monitor"], "of any kind");
    }
}
