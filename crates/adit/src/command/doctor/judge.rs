//! Decides what the facts mean. Pure: the machine has been asked already.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use adit_core::timestamp;

use super::Check;
use super::facts::{
    Agent, Authority, Clock, Config, Daemon, Facts, Kernel, Kubeconfig, Names, Needs, Port, PortState,
    RuntimeDirectory, Server, Ssh, SshServerFacts, Trouble,
};
use crate::command::up::daemon::others;

/// Fewer files than this are not enough for a busy gateway: each stream needs two.
const DESCRIPTORS: u64 = 4096;
/// So few are used up by the forwards of one team.
const DESCRIPTORS_LEAST: u64 = 256;
/// No certificate in use today was valid before: 2026-01-01.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);
/// Time enough to make a new authority.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// Every check, in the order in which they are best read.
pub(super) fn all(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![program(facts), config(&facts.config), kubeconfig(&facts.kubeconfig, &facts.needs)];
    checks.extend(plugins(facts));
    checks.extend(facts.server.as_ref().map(|known| server(known, &facts.needs)));
    checks.extend(ports(&facts.ports));
    checks.push(names(&facts.names, facts.needs.dynamic_host.is_some()));
    checks.push(authority(&facts.authority, facts.needs.local_tls, facts.clock.now));
    checks.push(ssh(&facts.ssh, facts.needs.ssh));
    checks.extend(ssh_servers(&facts.ssh_servers));
    checks.push(place(&facts.place));
    checks.push(daemon(&facts.daemon));
    checks.push(descriptors(facts.descriptors));
    checks.push(kernel(&facts.kernel));
    checks.push(clock(&facts.clock));
    checks
}

fn program(facts: &Facts) -> Check {
    let place = facts.program.as_ref().map(|path| format!(", {}", path.display())).unwrap_or_default();
    Check::ok("adit", format!("version {}{place}", env!("CARGO_PKG_VERSION")))
}

fn config(config: &Config) -> Check {
    match config {
        Config::None => Check::warn(
            "config",
            "there is no adit.yaml: `adit forward` and dynamic hosts work without",
            "make one: adit config init",
        ),
        Config::Unreadable(trouble) => with_hint("config", trouble, "name another one with -f FILE"),
        Config::Wrong { path, problems } => {
            let more = problems.len().saturating_sub(1);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            let first = problems.first().map_or("it has problems", String::as_str);
            Check::fail("config", format!("{first}{more}"), format!("see all: adit config check {}", path.display()))
        }
        Config::Good { path, forwards, tunnels, gateway } => {
            let gateway = if *gateway { ", the gateway" } else { "" };
            let tunnels = if *tunnels > 0 { format!(", {}", several(*tunnels, "tunnel")) } else { String::new() };
            Check::ok("config", format!("{}: {}{gateway}{tunnels}", path.display(), several(*forwards, "forward")))
        }
    }
}

fn kubeconfig(kubeconfig: &Kubeconfig, needs: &Needs) -> Check {
    let wanted = !needs.contexts.is_empty();
    match kubeconfig {
        Kubeconfig::None(_) | Kubeconfig::Found { current: None, .. } if needs.no_cluster => {
            Check::ok("kubeconfig", "nothing in the file leads to a cluster")
        }
        Kubeconfig::None(trouble) => {
            let fix = trouble.hint.as_deref().unwrap_or("set KUBECONFIG, or kubernetes.kubeconfig in adit.yaml");
            Check::bad(wanted, "kubeconfig", &trouble.message, fix)
        }
        Kubeconfig::Found { missing, .. } if !missing.is_empty() => Check::fail(
            "kubeconfig",
            missing.join("; "),
            "see what there is: kubectl config get-contexts; or correct the name in adit.yaml",
        ),
        Kubeconfig::Found { files, contexts, current: None, .. } => Check::bad(
            needs.contexts.contains(&None),
            "kubeconfig",
            format!("{files}: {}, none of them current", several(*contexts, "context")),
            "choose one: kubectl config use-context NAME",
        ),
        Kubeconfig::Found { files, contexts, current: Some(current), .. } => {
            let files = if files.is_empty() { "the pod's service account" } else { files };
            Check::ok("kubeconfig", format!("{files}: {}, {current} is current", several(*contexts, "context")))
        }
    }
}

/// One line for all that were found, and one for each that was not.
fn plugins(facts: &Facts) -> Vec<Check> {
    let current = match &facts.kubeconfig {
        Kubeconfig::Found { current, .. } => current.as_deref(),
        Kubeconfig::None(_) => return Vec::new(),
    };
    if facts.needs.no_cluster {
        return Vec::new();
    }
    let mut by_command: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut found: Vec<&str> = Vec::new();
    for plugin in &facts.plugins {
        match plugin.program {
            Some(_) if found.contains(&plugin.command.as_str()) => {}
            Some(_) => found.push(&plugin.command),
            None => by_command.entry(&plugin.command).or_default().push(&plugin.context),
        }
    }
    let mut checks: Vec<Check> = by_command
        .into_iter()
        .map(|(command, contexts)| {
            let used = |context: &&str| current == Some(context) || facts.needs.uses(context, current);
            Check::bad(
                contexts.iter().any(used),
                "plugin",
                format!("{command} was not found; {} cannot log in without it", contexts.join(", ")),
                "install it, or add its directory to kubernetes.exec_path in adit.yaml",
            )
        })
        .collect();
    if !found.is_empty() {
        checks.push(Check::ok("plugin", format!("{} found", found.join(", "))));
    }
    checks
}

fn server(server: &Server, needs: &Needs) -> Check {
    match &server.answer {
        Ok((version, took)) => {
            Check::ok("cluster", format!("{} answers: {version}, {} ms", server.context, took.as_millis()))
        }
        Err(trouble) => Check::bad(
            needs.uses(&server.context, Some(&server.context)),
            "cluster",
            format!("{} does not answer: {}", server.context, trouble.message),
            trouble.hint.as_deref().unwrap_or("check the network or the VPN, then: kubectl version"),
        ),
    }
}

/// One line for all that are well, and one for each that is not.
fn ports(ports: &[Port]) -> Vec<Check> {
    let mut checks = Vec::new();
    let (mut free, mut ours) = (0usize, 0usize);
    let mut others: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for port in ports {
        let wanted = format!("{} for {}", port.address, port.wanted_by);
        match &port.state {
            PortState::Free => free += 1,
            PortState::Ours => ours += 1,
            PortState::OtherDaemon(pid) => others.entry(*pid).or_default().push(wanted),
            PortState::Taken { holder, by_up, trouble } => {
                let holder = holder.as_deref().unwrap_or("a process of another user");
                let fix = trouble.hint.clone().unwrap_or_else(|| "end it, or use another port in adit.yaml".to_owned());
                let fix = if *by_up {
                    "that is `adit up`; if it runs this file, leave it as it is, else end it".to_owned()
                } else {
                    fix
                };
                checks.push(Check::bad(!by_up, "port", format!("{wanted} is taken by {holder}"), fix));
            }
            PortState::Refused(trouble) => {
                let fix = trouble.hint.as_deref().unwrap_or("use another address in adit.yaml");
                checks.push(Check::fail("port", format!("{wanted}: {}", trouble.message), fix));
            }
        }
    }
    for (pid, wanted) in others {
        let rest = match wanted.len() {
            1 => String::new(),
            count => format!(" and {}", several(count - 1, "other port")),
        };
        let have = if wanted.len() == 1 { "has" } else { "have" };
        let text = format!("{}{rest} {have} been taken by a daemon that does not answer here (pid {pid})", wanted[0]);
        checks.push(Check::fail("port", text, others::hint(pid)));
    }
    let parts = [(free, "free"), (ours, "with the daemon")];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if !parts.is_empty() {
        checks.push(Check::ok("port", parts.join(", ")));
    }
    checks
}

fn names(names: &Names, wanted: bool) -> Check {
    let fix = "browsers and curl find *.localhost by themselves; for other programs install libnss-myhostname, or send the name in the Host header to 127.0.0.1";
    match &names.addresses {
        Ok(found) if !found.is_empty() && found.iter().all(|ip| ip.to_canonical().is_loopback()) => {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            Check::ok("names", format!("{} is {}", names.name, found.join(", ")))
        }
        Ok(found) => {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
            Check::warn("names", format!("{} is {found}, not this machine", names.name), fix)
        }
        Err(reason) if wanted => Check::warn("names", format!("{} is not found: {reason}", names.name), fix),
        Err(_) => Check::ok("names", format!("{} is not found; no gateway is configured", names.name)),
    }
}

fn authority(authority: &Authority, wanted: bool, now: SystemTime) -> Check {
    match authority {
        Authority::None if wanted => {
            Check::warn("trust", "there is no local authority yet, so browsers will warn", "run: adit trust")
        }
        Authority::None => Check::ok("trust", "no local authority, and none is needed"),
        Authority::Broken(trouble) if wanted => with_hint("trust", trouble, "make it anew: adit trust"),
        Authority::Broken(trouble) => {
            Check::warn("trust", &trouble.message, trouble.hint.as_deref().unwrap_or("make it anew: adit trust"))
        }
        Authority::There { not_after, .. } if *not_after < now + SOON => {
            let until = timestamp::format(*not_after);
            Check::warn("trust", format!("the local authority is valid until {until}"), "renew it: adit trust")
        }
        Authority::There { stores, .. } => {
            let of = |trusts: bool| {
                let stores = stores.iter().filter(|(_, trusted)| *trusted == trusts).map(|(store, _)| store.as_str());
                stores.collect::<Vec<_>>().join(", ")
            };
            let (with, without) = (of(true), of(false));
            match (without.is_empty(), with.is_empty()) {
                (true, false) => Check::ok("trust", format!("the local authority is in the stores of {with}")),
                _ if !wanted => Check::ok("trust", "there is a local authority, and nothing in the file needs it"),
                (true, true) => {
                    let message = "no store of certificates is known here, so browsers will warn";
                    Check::warn(
                        "trust",
                        message,
                        "run: adit trust; it says where the certificate is, to import it by hand",
                    )
                }
                (false, _) => {
                    let has = if with.is_empty() { String::new() } else { format!(" ({with} has it)") };
                    let message =
                        format!("the local authority is missing in the stores of {without}{has}, so they will warn");
                    Check::warn("trust", message, "run: adit trust")
                }
            }
        }
    }
}

fn ssh(ssh: &Ssh, wanted: bool) -> Check {
    let program = ssh.program.as_ref().map_or_else(|| "no ssh program".to_owned(), |path| path.display().to_string());
    let agent = match &ssh.agent {
        Agent::None => "no agent".to_owned(),
        Agent::Answers => "an agent".to_owned(),
        Agent::Silent(path) => format!("no agent at {}", path.display()),
    };
    let hosts = if ssh.known_hosts { "known hosts" } else { "no known hosts" };
    let message = format!("{program}, {agent}, {hosts}");
    if let Agent::Silent(_) = ssh.agent {
        return Check::warn("ssh", message, "start the agent anew, or unset SSH_AUTH_SOCK");
    }
    if wanted && ssh.program.is_none() {
        let fix = "install OpenSSH: without it keys in hardware and `Match exec` do not work";
        return Check::warn("ssh", message, fix);
    }
    Check::ok("ssh", message)
}

/// Nothing where all is well: the servers were not asked.
fn ssh_servers(servers: &[SshServerFacts]) -> Vec<Check> {
    let mut checks = Vec::new();
    for SshServerFacts { server, looked } in servers {
        let facts = match looked {
            Ok(facts) => facts,
            Err(trouble) => {
                let fix = trouble.hint.clone().unwrap_or_else(|| format!("see what is wrong: adit ssh test {server}"));
                checks.push(Check::fail("ssh", &trouble.message, fix));
                continue;
            }
        };
        for unknown in &facts.without_host_key {
            let fix = format!("compare its fingerprint and accept it: adit ssh trust {unknown}");
            checks.push(Check::fail("ssh", format!("no host key of {unknown} is known, so it is refused"), fix));
        }
        for (key, mode) in &facts.open_keys {
            let (file, is_named) = (key.display(), server.options.key.as_ref() == Some(key));
            let text = format!("{file} is not used for {server}: others may read it (mode {mode:o})");
            checks.push(Check::bad(is_named, "ssh", text, format!("chmod 600 {file}")));
        }
    }
    // Several forwards by one hop or one key.
    let mut told: Vec<Check> = Vec::new();
    for check in checks {
        if !told.contains(&check) {
            told.push(check);
        }
    }
    told
}

fn place(place: &RuntimeDirectory) -> Check {
    match place {
        RuntimeDirectory::Unknown => {
            Check::fail("runtime", "there is no place for the daemon's socket", "set HOME or XDG_RUNTIME_DIR")
        }
        RuntimeDirectory::Good(path) => Check::ok("runtime", path.display().to_string()),
        RuntimeDirectory::ToBeMade(path) => {
            Check::ok("runtime", format!("{} is made when it is needed", path.display()))
        }
        RuntimeDirectory::Bad { path, problem } => Check::fail(
            "runtime",
            format!("{} {problem}", path.display()),
            format!("make it a directory of yours alone: chmod 700 {}, or set XDG_RUNTIME_DIR", path.display()),
        ),
    }
}

fn daemon(daemon: &Daemon) -> Check {
    let ours = env!("CARGO_PKG_VERSION");
    match daemon {
        Daemon::None => Check::ok("daemon", "none runs; start one with `adit daemon start`"),
        Daemon::Runs { pid, elsewhere: Some(text), .. } => {
            let (what, fix) = text.split_once("; ").unwrap_or((text, "see `adit daemon status`"));
            Check::warn("daemon", format!("runs, pid {pid}, with another file: {what}"), fix)
        }
        Daemon::Runs { pid, version, .. } if version == ours => Check::ok("daemon", format!("runs, pid {pid}")),
        Daemon::Runs { pid, version, .. } => Check::warn(
            "daemon",
            format!("runs, pid {pid}, but is version {version}; this is {ours}"),
            "put the new one in its place: adit daemon restart",
        ),
        Daemon::Silent(reason) => {
            Check::fail("daemon", format!("does not answer: {reason}"), "see `adit logs`, then: adit daemon stop")
        }
    }
}

fn descriptors(limit: Option<u64>) -> Check {
    let fix = "raise the hard limit: ulimit -Hn, /etc/security/limits.conf, or LimitNOFILE= in a unit";
    match limit {
        None => Check::ok("files", "no limit"),
        Some(limit) if limit < DESCRIPTORS => Check::bad(
            limit < DESCRIPTORS_LEAST,
            "files",
            format!("{limit} may be open; a busy gateway needs {DESCRIPTORS}"),
            fix,
        ),
        Some(limit) => Check::ok("files", format!("{limit} may be open")),
    }
}

/// Nothing but `adit monitor` and `adit top` needs it, and both have another way: what is missing is said, no more.
fn kernel(kernel: &Kernel) -> Check {
    let btf = if kernel.btf { "BTF" } else { "no BTF" };
    let release = &kernel.release;
    match (&kernel.kernel, &kernel.rights) {
        (Some(trouble), _) => {
            let text = format!("kernel {release}, {btf}: adit monitor polls, as {}", trouble.message);
            Check::warn("monitor", text, trouble.hint.clone().unwrap_or_default())
        }
        (None, Some(trouble)) => {
            Check::ok("monitor", format!("kernel {release}, {btf}; without sudo it polls, as {}", trouble.message))
        }
        (None, None) => Check::ok("monitor", format!("kernel {release}, {btf}, and the rights for its programs")),
    }
}

fn clock(clock: &Clock) -> Check {
    let now = timestamp::format(clock.now);
    let fix = "set it: timedatectl set-ntp true";
    if clock.now.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|now| now < EPOCH) {
        return Check::fail("clock", format!("it is {now}: every certificate seems to be from the future"), fix);
    }
    match clock.synchronised {
        Some(false) => Check::warn("clock", format!("{now}, not synchronised yet"), fix),
        Some(true) => Check::ok("clock", format!("{now}, synchronised")),
        None => Check::ok("clock", now),
    }
}

fn with_hint(name: &'static str, trouble: &Trouble, otherwise: &str) -> Check {
    Check::fail(name, &trouble.message, trouble.hint.as_deref().unwrap_or(otherwise))
}

fn several(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests;
