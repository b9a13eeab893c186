//! Where records come from, one seam: programs in the kernel, a poll of its sockets, or nothing.

use std::time::Duration;

use adit_core::diagnose::{Diagnose, Fault};

use crate::decode::{Folded, Record};

#[cfg(all(has_object, feature = "ebpf"))]
pub mod ebpf;
#[cfg(target_os = "linux")]
pub mod rights;
#[cfg(target_os = "linux")]
pub mod sock_diag;
pub mod stub;

/// Brings what is known of connections. Every kind has the same API; what one cannot tell is said in [`Way::missing`].
pub trait Source: Send {
    /// How it does so, and why in this way.
    fn way(&self) -> &Way;

    /// Takes what has happened since the last time.
    ///
    /// # Errors
    /// When the system does not tell any more.
    fn events(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError>;

    /// Looks at every connection there is.
    ///
    /// # Errors
    /// When the system does not tell any more.
    fn survey(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError>;

    /// Looks for the owners of sockets that are not known yet. May take long on a system with many files.
    ///
    /// # Errors
    /// When the system does not tell any more.
    fn reconcile(&mut self) -> Result<(), SourceError> {
        Ok(())
    }

    /// What was added up in the place of single records since the last time, because there were too many.
    ///
    /// # Errors
    /// When the system does not tell any more.
    fn folded(&mut self, _each: &mut dyn FnMut(Folded)) -> Result<(), SourceError> {
        Ok(())
    }

    /// What was counted beside the records, also of those that did not fit.
    ///
    /// # Errors
    /// When the system does not tell any more.
    fn counts(&mut self) -> Result<Counts, SourceError>;

    /// Where events wait in several places: how many were found in the fullest when they were taken last, and for how many
    /// each has room.
    fn fill(&self) -> (u32, u32) {
        (0, u32::MAX)
    }

    /// Waits for events, at most so long.
    fn wait(&self, up_to: Duration);
}

/// The oldest way to see connections: attempts alone.
pub(crate) const CONNECTS: &str = "kprobe tcp_connect";

/// How a source gets at what it tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// `ebpf`, `sock_diag` or `stub`.
    pub source: &'static str,
    /// What was chosen for each purpose, in the order of the attempts.
    pub parts: Vec<Part>,
    /// What cannot be told in this way.
    pub missing: Vec<&'static str>,
    /// Why nothing better was to be had.
    pub reason: Option<Obstacle>,
    /// Why a way that was asked for was not to be had, where the rest works without.
    pub unmet: Option<Obstacle>,
    /// How many connections can be kept at the same time, with those that are over and wait for their process, before any
    /// is likely to find no room.
    pub capacity: usize,
}

impl Way {
    /// What was chosen for a purpose.
    #[must_use]
    pub fn chosen(&self, purpose: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.purpose == purpose && part.refused.is_none())
    }

    /// Whether it is seen that a connection fails: a poll and a look at attempts alone do not see that.
    #[must_use]
    pub fn sees_failures(&self) -> bool {
        self.chosen("state").is_some() && !self.sees_attempts_alone()
    }

    /// Whether nothing is seen of a connection but that it was asked for here.
    #[must_use]
    pub fn sees_attempts_alone(&self) -> bool {
        self.chosen("state").is_some_and(|part| part.way == CONNECTS)
    }
}

/// One attempt to attach something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What for: `state`, `accept`, `close`, `unreachable`, `owners`, `survey`.
    pub purpose: &'static str,
    /// The kind of program and what it is attached to.
    pub way: &'static str,
    /// What the system said, when it did not permit it.
    pub refused: Option<String>,
}

/// What stands in the way of something better, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What is missing.
    pub message: String,
    /// The command or setting that would help.
    pub hint: String,
}

/// What is counted in the kernel itself: exact, whatever became of the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that processes here asked for.
    pub opened: u64,
    /// Connections that others asked for.
    pub incoming: u64,
    /// Handshakes that went well, of both kinds.
    pub established: u64,
    /// Connections that never came to be.
    pub failed: u64,
    /// Connections that were there and are over.
    pub closed: u64,
    /// Connections that found no room in the map.
    pub map_full: u64,
    /// Records that found no room on their way.
    pub events_lost: u64,
    /// Connections that ended with nobody known to own them, or with a thread of the kernel that has only closed them.
    pub unowned: u64,
    /// Connections that are older than the monitor.
    pub seen_late: u64,
    /// Records that were added up instead.
    pub folded: u64,
    /// Records that could not be read.
    pub undecoded: u64,
    /// Ports that somebody listens at and that found no room: the direction of older connections there is not known.
    pub listeners_full: u64,
    /// Changes that the kernel did not tell a program of, because one ran already on that processor.
    pub hook_missed: u64,
    /// Connections that were over and told by nobody when their socket was gone.
    pub unseen: u64,
    /// Looks through open files that the system has refused.
    pub refused_looks: u64,
}

impl Counts {
    /// What has happened to connections, each with its name; none where the way that was taken does not see it, which is
    /// not 0.
    #[must_use]
    pub fn seen(&self, way: &Way) -> [(&'static str, Option<u64>); 5] {
        let (only_attempts, changes) = (way.sees_attempts_alone(), way.sees_failures());
        [
            ("opened", Some(self.opened)),
            ("incoming", (!only_attempts).then_some(self.incoming)),
            ("established", changes.then_some(self.established)),
            ("failed", changes.then_some(self.failed)),
            ("closed", (!only_attempts).then_some(self.closed)),
        ]
    }
}

/// Why a source cannot be had, or tells nothing any more.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Something is missing here.
    #[error("{}", .0.message)]
    NotPermitted(Obstacle),
    /// There is no object for this machine in the program.
    #[error("this program was built without the kernel programs for this machine")]
    NoObject,
    /// The system does not do what it did.
    #[error("{what}: {text}")]
    Broken {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        text: String,
    },
}

impl SourceError {
    /// The system said no to something that it did before.
    pub(crate) fn broken(what: &'static str, error: &dyn std::fmt::Display) -> Self {
        Self::Broken { what, text: error.to_string() }
    }
}

impl Diagnose for SourceError {
    fn fault(&self) -> Fault {
        match self {
            Self::NotPermitted(_) | Self::NoObject => Fault::NotPermitted,
            Self::Broken { .. } => Fault::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotPermitted(obstacle) => Some(obstacle.hint.clone()),
            Self::NoObject => {
                Some("`adit top` works without them; or build adit for x86_64 or aarch64 with the feature ebpf".into())
            }
            Self::Broken { .. } => Some("start it again; with -v it says more".into()),
        }
    }
}

/// Which source is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// The best there is.
    #[default]
    Best,
    /// Programs in the kernel or nothing.
    Ebpf,
    /// The poll of its sockets.
    SockDiag,
}

/// How a source is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which source.
    pub wanted: Wanted,
    /// The way to see changes of state, in the place of the best.
    pub state: Option<String>,
    /// The way to see who accepts, in the place of the best.
    pub accept: Option<String>,
    /// How many connections are kept at the same time.
    pub capacity: Option<u32>,
    /// Bytes of the ring that events come through: a power of two.
    pub ring: Option<u32>,
    /// Whether every step of a connection is told, or its end alone.
    pub every_step: bool,
    /// Whether connections go the general way also where the usual one would do: to test it.
    pub general: bool,
    /// How long a connection that a packet has ended waits for its process to close it, in the place of 90 seconds.
    pub patience: Option<Duration>,
}

/// Opens the source that is wanted, or the best there is.
///
/// # Errors
/// [`SourceError`] when the wanted one cannot be had.
pub fn open(options: &Options) -> Result<Box<dyn Source>, SourceError> {
    match options.wanted {
        Wanted::Ebpf => open_ebpf(options),
        Wanted::SockDiag => open_polled(None),
        Wanted::Best => open_ebpf(options).or_else(|error| {
            let hint = error.hint().unwrap_or_default();
            open_polled(Some(Obstacle { message: error.to_string(), hint }))
        }),
    }
}

/// What is to be said where /proc does not have the processes of the whole machine.
#[cfg(target_os = "linux")]
fn unseen_processes() -> Option<&'static str> {
    const UNSEEN: &str = "processes outside of this container's namespace: it needs that of the machine (hostPID)";
    (!crate::names::sees_all_processes()).then_some(UNSEEN)
}

#[cfg(all(has_object, feature = "ebpf"))]
fn open_ebpf(options: &Options) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(ebpf::Ebpf::open(options)?))
}

#[cfg(not(all(has_object, feature = "ebpf")))]
fn open_ebpf(_: &Options) -> Result<Box<dyn Source>, SourceError> {
    Err(SourceError::NoObject)
}

#[cfg(target_os = "linux")]
fn open_polled(reason: Option<Obstacle>) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(sock_diag::SockDiag::open(reason)?))
}

#[cfg(not(target_os = "linux"))]
fn open_polled(reason: Option<Obstacle>) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(stub::Stub::new(reason)))
}
