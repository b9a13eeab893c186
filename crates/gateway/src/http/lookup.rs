//! Which route a request is for, and what there is: the seam between HTTP and the routes.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use runtime::connect::MissingPart;

use crate::failures::LastError;
use crate::upstream::Upstream;

/// Knows the routes.
pub trait Lookup: Send + Sync + 'static {
    /// What a request for `path` at `host` is for. The host is lower-case, without port and trailing dot; the path is
    /// without its query.
    fn find(&self, host: &str, path: &str) -> Found;

    /// Everything there is, for the index.
    fn listing(&self) -> Listing;

    /// The services of a context, asked for now; `None` when nobody knows of contexts.
    fn services(&self, context: &str) -> Option<ServicesAsked> {
        let _ = context;
        None
    }

    /// Dynamic hosts that differ from this one in the part that is not there, by what is there instead.
    fn near(&self, host: &str, part: MissingPart, instead: &[String]) -> Vec<String> {
        let _ = (host, part, instead);
        Vec::new()
    }

    /// The context that a dynamic host names or a route leads to, if there is such a context.
    fn context_of(&self, host: &str) -> Option<String> {
        let _ = host;
        None
    }

    /// What could be meant by a host that is no legal name, if it looks like one of ours.
    fn mistyped(&self, host: &str) -> Option<Found> {
        let _ = host;
        None
    }

    /// Whether pages at this host may be a service's own: it has a route for some of its paths, or is a dynamic host. What
    /// such a page asks for it can read, so it is not told what else there is (S14).
    fn is_served(&self, host: &str) -> bool {
        let _ = host;
        false
    }

    /// Whether a host is one of ours though no route has it: a name that a stranger cannot make point here, so that a
    /// page at it may see what there is. `localhost`, what ends in it, and loopback addresses are so without asking.
    fn is_ours(&self, host: &str) -> bool {
        let _ = host;
        false
    }
}

/// A list that is being asked for; or why there is none.
pub type ServicesAsked = Pin<Box<dyn Future<Output = Result<ServiceListing, Found>> + Send>>;

/// What a request is for.
#[derive(Clone, Debug)]
pub enum Found {
    /// A route.
    Upstream(Arc<Upstream>),
    /// The index, at a name of the gateway's own.
    Index,
    /// A TLS connection that names no host, so that nothing is known of where it should go.
    Nameless,
    /// No route has this host.
    Unknown {
        /// Hosts that could be meant, nearest first.
        near: Vec<String>,
        /// What is wrong with the host as a dynamic one, in lower case, if it looks like one.
        reason: Option<String>,
        /// What to do about that.
        hint: Option<String>,
    },
    /// The host is understood and not allowed.
    Refused {
        /// Why, in lower case.
        reason: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The route is known and cannot be used now.
    Failed {
        /// Why, in lower case.
        reason: String,
        /// What to do.
        hint: Option<String>,
    },
}

/// Everything there is.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The routes by host.
    pub routes: Vec<RouteEntry>,
    /// The forwards by name.
    pub forwards: Vec<ForwardEntry>,
    /// How to write a host that needs no route, when there are such.
    pub dynamic: Option<DynamicForm>,
    /// Why a later version of the configuration is not in force, in lines.
    pub refused: Option<String>,
}

/// A route as the index shows it.
#[derive(Clone, Debug)]
pub struct RouteEntry {
    /// The host, or a pattern.
    pub host: String,
    /// The path it begins with, if not every path.
    pub path: Option<String>,
    /// Where it leads, as a user would write it.
    pub target: String,
    /// How that is.
    pub state: State,
    /// More of it: the pod, what is waited for.
    pub detail: Option<String>,
    /// What went wrong last, and whether it still does.
    pub last_error: Option<LastError>,
    /// It takes TLS, too: whoever reads the index by `https` gets such links.
    pub tls: bool,
    /// It is for `https`: every link to it is one.
    pub https: bool,
}

/// A forward as the index shows it.
#[derive(Clone, Debug)]
pub struct ForwardEntry {
    /// Its name.
    pub name: String,
    /// Where it leads.
    pub target: String,
    /// How it is.
    pub state: State,
    /// More of it: the pod, what is waited for.
    pub detail: Option<String>,
    /// What went wrong last, and whether it still does.
    pub last_error: Option<LastError>,
    /// The ports that lead to it.
    pub listen: Vec<SocketAddr>,
}

/// How a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A plain address that nobody has asked for yet.
    Unchecked,
    /// It has not been needed, or not for a while.
    Idle,
    /// It is being started.
    Starting,
    /// It can be used.
    Ready,
    /// It was started, and whatever was tried of it lately failed.
    Failing,
    /// It could not be started and will be tried again.
    Failed,
}

impl State {
    /// With what is known of those who tried: what is ready and fails is failing.
    pub(crate) fn as_tried(self, last: Option<&LastError>) -> Self {
        match self {
            Self::Ready if last.is_some_and(|last| last.since.is_some()) => Self::Failing,
            state => state,
        }
    }

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Failing => "failing",
            Self::Failed => "failed",
        }
    }
}

/// How to write a host that needs no route.
#[derive(Clone, Debug)]
pub struct DynamicForm {
    /// The grammar: `{service}-{port}.svc.{namespace}.ns.{context}.cx.k8s.localhost`.
    pub forms: Vec<String>,
    /// A host that could be.
    pub example: Option<String>,
    /// The contexts that may be reached.
    pub contexts: Vec<String>,
    /// Why none can be: there is no kubeconfig that can be used.
    pub missing: Option<String>,
    /// Every dynamic host takes TLS, too.
    pub tls: bool,
}

/// The services of a context.
#[derive(Clone, Debug)]
pub struct ServiceListing {
    /// The context.
    pub context: String,
    /// By namespace and name.
    pub services: Vec<ServiceRow>,
    /// What is left out, in lower case.
    pub note: Option<String>,
    /// Their hosts take TLS, too.
    pub tls: bool,
}

/// A service as its context's page shows it.
#[derive(Clone, Debug)]
pub struct ServiceRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its ports.
    pub ports: Vec<PortRow>,
}

/// A port of a service.
#[derive(Clone, Debug)]
pub struct PortRow {
    /// Its number.
    pub number: u16,
    /// Its name.
    pub name: Option<String>,
    /// Its host, unless that would be too long for a name.
    pub host: Option<String>,
    /// What it speaks if it is not HTTP, as people call it.
    pub speaks: Option<&'static str>,
    /// Where it is, as the target of a forward.
    pub target: String,
}

impl PortRow {
    /// As it is shown: `5432 (postgresql)`.
    #[must_use]
    pub fn shown(&self) -> String {
        self.name.as_ref().map_or_else(|| self.number.to_string(), |name| format!("{} ({name})", self.number))
    }
}
