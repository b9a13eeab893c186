//! The poll of the kernel's sockets by `sock_diag`(7) with /proc for their owners: for where programs in the kernel are
//! not permitted. It sees what is there when it looks, and says what it cannot see.

mod message;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use self::message::{Carried, Found, Socket};
use super::{Counts, Obstacle, Part, Source, SourceError, Way, rights};
use crate::agent::now;
use crate::decode::{ConnectionId, End, OwnedBy, Owner, Record, State, Step};
use crate::names;

/// An answer holds many sockets; the kernel fills at most so much at a time.
const BUFFER: usize = 64 * 1024;

/// The source.
pub struct SockDiag {
    way: Way,
    kernel: OwnedFd,
    known: HashMap<u64, Known>,
    owners: HashMap<u64, Option<Owner>>,
    listening: HashSet<u16>,
    /// What has happened since it was taken: beginnings and ends.
    events: Vec<Record>,
    counts: Counts,
    first: bool,
    buffer: Vec<u8>,
}

struct Known {
    record: Record,
    seen: bool,
    told: bool,
}

impl SockDiag {
    /// Opens it; `reason` says why there is nothing better.
    ///
    /// # Errors
    /// When the kernel has no `sock_diag` or does not permit it.
    pub fn open(reason: Option<Obstacle>) -> Result<Self, SourceError> {
        let mut missing = vec![
            "connections that begin and end between two looks",
            "failed connections and their errors",
            "handshake times",
            "other network namespaces",
        ];
        if !rights::Facts::here().sees_files_of_others() {
            missing.push("processes of other users");
        }
        missing.extend(super::unseen_processes());
        let part = Part { purpose: "survey", way: "sock_diag and /proc", refused: None };
        let way = Way { source: "sock_diag", parts: vec![part], missing, reason, ..Way::default() };
        let kernel = open().map_err(|error| SourceError::broken("sock_diag", &error))?;
        Ok(Self {
            way,
            kernel,
            known: HashMap::new(),
            owners: HashMap::new(),
            listening: HashSet::new(),
            events: Vec::new(),
            counts: Counts::default(),
            first: true,
            buffer: vec![0; BUFFER],
        })
    }

    fn look(&mut self) -> io::Result<Vec<Socket>> {
        let mut sockets = Vec::new();
        let mut listening = HashSet::new();
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            send(&self.kernel, &message::request(family), SendFlags::empty())?;
            loop {
                let (_, length) = recv(&self.kernel, self.buffer.as_mut_slice(), RecvFlags::empty())?;
                let end = message::read(&self.buffer[..length], &mut |found| match found {
                    Found::Listening(port) => {
                        listening.insert(port);
                    }
                    Found::Socket(socket) => sockets.push(socket),
                })?;
                if end {
                    break;
                }
            }
        }
        self.listening = listening;
        Ok(sockets)
    }

    /// The owners of sockets that were not seen before: all of /proc, as nothing leads from a socket to its process.
    fn find_owners(&mut self, sockets: &[Socket]) {
        let here: HashSet<u64> = sockets.iter().map(|socket| socket.inode).collect();
        self.owners.retain(|inode, _| here.contains(inode));
        if sockets.iter().all(|socket| socket.inode == 0 || self.owners.contains_key(&socket.inode)) {
            return;
        }
        let wanted: HashSet<u64> = here.into_iter().filter(|inode| !self.owners.contains_key(inode)).collect();
        for pid in processes() {
            let mut process = None;
            for inode in sockets_of(pid).filter(|inode| wanted.contains(inode)) {
                let found = process.get_or_insert_with(|| names::process(pid));
                let Some((id, command)) = *found else { break };
                let owner = Owner { process: id, command, user: None, cgroup: 0, by: OwnedBy::File };
                self.owners.entry(inode).or_insert(Some(owner));
            }
        }
        // One that cannot be found now is not looked for at each look.
        for inode in wanted {
            self.owners.entry(inode).or_insert(None);
        }
    }

    fn note(&mut self, socket: &Socket, at: Duration) -> Record {
        let incoming = self.listening.contains(&socket.local.port());
        let owner =
            self.owners.get(&socket.inode).copied().flatten().map(|owner| Owner { user: Some(socket.user), ..owner });
        let first = self.first;
        let counts = &mut self.counts;
        let known = self.known.entry(socket.cookie).or_insert_with(|| {
            if first {
                counts.seen_late += 1;
            } else if incoming {
                counts.incoming += 1;
            } else {
                counts.opened += 1;
            }
            let opened = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
            Known { record: record(socket, opened, incoming, first), seen: true, told: first }
        });
        known.seen = true;
        let before = known.record;
        known.record = Record {
            owner: owner.or(before.owner),
            // What it has carried stays, also when the kernel does not tell it any more.
            ..carrying(Record { local: socket.local, remote: socket.remote, state: socket.state, ..before }, socket)
        };
        if !first && !std::mem::replace(&mut known.told, true) {
            self.events.push(Record { step: Step::Established, ..known.record });
        }
        known.record
    }
}

impl Source for SockDiag {
    fn way(&self) -> &Way {
        &self.way
    }

    fn events(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
        self.events.drain(..).for_each(each);
        Ok(())
    }

    fn survey(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
        let at = now();
        let sockets = self.look().or_else(|error| {
            // What is left of a broken answer must not be taken for the next one's. It may have been for the moment.
            tracing::debug!(%error, "sock_diag is asked once more");
            self.kernel = open()?;
            self.look()
        });
        let sockets = sockets.map_err(|error| SourceError::broken("sock_diag", &error))?;
        self.find_owners(&sockets);
        for socket in &sockets {
            each(self.note(socket, at));
        }
        self.first = false;
        let events = &mut self.events;
        let counts = &mut self.counts;
        self.known.retain(|_, known| {
            if !std::mem::take(&mut known.seen) {
                counts.closed += 1;
                counts.unowned += u64::from(known.record.owner.is_none());
                events.push(Record {
                    step: Step::Ended,
                    state: State::Closed,
                    ended: Some((at, End::Unseen)),
                    ..known.record
                });
                return false;
            }
            true
        });
        Ok(())
    }

    fn counts(&mut self) -> Result<Counts, SourceError> {
        Ok(self.counts)
    }

    fn wait(&self, up_to: Duration) {
        // Nobody wakes us: there are no events.
        std::thread::park_timeout(up_to);
    }
}

fn open() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?)
}

fn record(socket: &Socket, opened: u64, incoming: bool, seen_late: bool) -> Record {
    let record = Record {
        id: ConnectionId { socket: socket.cookie, opened },
        step: Step::Live,
        local: socket.local,
        remote: socket.remote,
        incoming,
        seen_late,
        gone: false,
        owner: None,
        netns: 0,
        state: socket.state,
        established: None,
        ended: None,
        sent: 0,
        received: 0,
        rtt: None,
        min_rtt: None,
        retransmits: 0,
    };
    carrying(record, socket)
}

/// The same with what the socket has carried, if that is told.
fn carrying(record: Record, socket: &Socket) -> Record {
    let Some(Carried { sent, received, rtt, min_rtt, retransmits }) = socket.carried else { return record };
    Record { sent, received, rtt, min_rtt, retransmits, ..record }
}

/// The numbers of all processes.
fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The sockets among a process's files, as far as they may be seen.
fn sockets_of(pid: u32) -> impl Iterator<Item = u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| inode(fs::read_link(entry.path()).ok()?.to_str()?))
}

/// `socket:[123]`.
fn inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn survey(source: &mut SockDiag) -> Vec<Record> {
        let mut found = Vec::new();
        source.survey(&mut |record| found.push(record)).expect("the kernel tells");
        found
    }

    #[test]
    fn a_connection_of_this_process_is_found_with_owner_bytes_and_direction_and_its_end_is_noticed() {
        let mut source = SockDiag::open(None).expect("the kernel has sock_diag");
        survey(&mut source);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        client.write_all(&[7; 1000]).unwrap();
        served.read_exact(&mut [0; 1000]).unwrap();
        let port = listener.local_addr().unwrap().port();
        let of_ours = |record: &Record| record.local.port() == port || record.remote.port() == port;
        let found: Vec<Record> = survey(&mut source).into_iter().filter(of_ours).collect();
        assert_eq!(found.len(), 2, "{found:#?}");
        for record in &found {
            assert_eq!(record.owner.unwrap().process.pid, std::process::id());
            assert_eq!(record.incoming, record.local.port() == port);
            let carried = if record.incoming { record.received } else { record.sent };
            assert_eq!(carried, 1000);
        }
        drop((client, served));
        survey(&mut source);
        survey(&mut source);
        let mut ended = Vec::new();
        source.events(&mut |record| ended.push(record)).unwrap();
        assert_eq!(ended.iter().filter(|record| of_ours(record) && record.is_end()).count(), 2, "{ended:#?}");
    }

    /// Whether the kernel may have had no room for what is left of a socket that was closed: then nothing is left of it. It
    /// has some for 60 s after each.
    fn no_room_for_closed() -> bool {
        let number = |text: &str, name| text.split_once(name)?.1.split_whitespace().next()?.parse::<u64>().ok();
        let waiting = fs::read_to_string("/proc/net/sockstat").ok().and_then(|text| number(&text, " tw "));
        let most = fs::read_to_string("/proc/sys/net/ipv4/tcp_max_tw_buckets").ok().and_then(|text| number(&text, ""));
        waiting.zip(most).is_some_and(|(waiting, most)| waiting > most / 2)
    }

    #[test]
    fn a_connection_that_was_closed_here_keeps_its_bytes_while_the_other_side_has_yet_to_close_it() {
        let mut source = SockDiag::open(None).expect("the kernel has sock_diag");
        let deadline = std::time::Instant::now() + Duration::from_secs(100);
        loop {
            survey(&mut source);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut served, _) = listener.accept().unwrap();
            let local = client.local_addr().unwrap();
            client.write_all(&[7; 1000]).unwrap();
            served.read_exact(&mut [0; 1000]).unwrap();
            let mut look = || survey(&mut source).into_iter().find(|record| record.local == local);
            let before = look().expect("it is there");
            assert_eq!((before.sent, before.state), (1000, State::Established));
            drop(client);
            // Then the kernel has put away all but its addresses: nobody has a file of it.
            let after = loop {
                match look() {
                    Some(after) if after.state != State::FinWait2 => assert!(std::time::Instant::now() < deadline),
                    other => break other,
                }
            };
            let Some(after) = after else {
                // Other tests close many.
                assert!(no_room_for_closed() && std::time::Instant::now() < deadline, "it is gone");
                std::thread::yield_now();
                continue;
            };
            assert_eq!((after.id, after.owner, after.sent), (before.id, before.owner, 1000));
            assert!(after.rtt.is_some(), "{after:#?}");
            return;
        }
    }

    #[test]
    fn a_connection_that_is_gone_and_was_nobodys_is_counted() {
        let mut source = SockDiag::open(None).expect("the kernel has sock_diag");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let record = Record { owner: None, ..survey(&mut source)[0] };
        // The kernel gives no socket this number.
        source.known.insert(u64::MAX, Known { record, seen: false, told: true });
        let before = source.counts().unwrap();
        survey(&mut source);
        let counts = source.counts().unwrap();
        assert!(counts.unowned > before.unowned && counts.closed > before.closed, "{counts:?}");
        drop(client);
    }

    #[test]
    fn an_answer_that_broke_off_is_asked_for_once_more() {
        let mut source = SockDiag::open(None).expect("the kernel has sock_diag");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // Not a socket of the kernel: nothing can be asked there.
        source.kernel = fs::File::open("/dev/null").unwrap().into();
        assert!(!survey(&mut source).is_empty());
        drop(client);
    }

    #[test]
    fn only_sockets_have_a_number() {
        assert_eq!(inode("socket:[42]"), Some(42));
        assert_eq!(inode("/dev/null"), None);
        assert_eq!(inode("socket:[x]"), None);
    }
}
