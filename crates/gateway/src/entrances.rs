//! All local entrances of one `adit.yaml`, and how the next version of the file takes their place.
//!
//! A change is a transaction: [`Entrances::prepare`] makes everything that is new, sockets included, and touches
//! nothing; [`Entrances::commit`] can fail only where an address takes the place of another one of its port, and then the
//! one before is opened again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_core::config::gateway::GatewayTls;
use adit_core::config::{AgentFile, GatewayConfig};
use adit_core::diagnose::{Diagnose, Fault};
use adit_core::target::Target;
use forward::{Clusters, ForwardSet};
use runtime::listener::{BindError, BoundListener, ConnectionLimit};
use runtime::scope::Scope;
use runtime::tls::TlsError;
use runtime::tls::authority::{Authority, LeafResolver};
use rustls::ServerConfig;

use crate::door::{Certificates, Door};
use crate::entrance::{Entrance, Handler};
use crate::places::Places;
use crate::port::TcpPort;
use crate::routes::Routes;
use crate::table::{Table, TableError, TableParts};
use crate::targets::{Targets, specs};
use crate::traffic::Traffic;

mod unopened;

pub use unopened::OpenedLate;
use unopened::{LeftOut, Unopened};

/// How long the end of an accept loop is waited for; it takes microseconds.
const CLOSING: Duration = Duration::from_secs(1);
/// Connections of the gateway's port at the same time.
const CONNECTIONS: usize = 50_000;
/// Connections of one TCP port at the same time.
const PORT_CONNECTIONS: usize = 20_000;
/// Who signs what is only an error page.
const PAGES_AUTHORITY: &str = "adit error pages";

/// The entrances that are open, and what is behind them.
pub struct Entrances {
    listening: Scope,
    carrying: Scope,
    authority_dir: Option<PathBuf>,
    targets: Arc<Targets>,
    routes: Arc<Routes>,
    door: Option<Arc<Door>>,
    tls: Option<(bool, Certificates)>,
    open: BTreeMap<Key, Arc<Entrance>>,
    ports: BTreeMap<String, Arc<Traffic>>,
    /// Forwards that the next change makes anew.
    renew: BTreeSet<String>,
    /// Whether the next change may leave out addresses that cannot be had.
    leaves_out: bool,
    unopened: LeftOut,
    /// Sockets of a process before this one, until they are asked for.
    inherited: Mutex<BTreeMap<String, StdListener>>,
    /// Descriptors for clients, counted when the first entrance is opened.
    places: Option<Places>,
}

/// Which entrance it is. Several may ask for any free port of one address, so those have their owner's name, too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    address: SocketAddr,
    owner: Option<String>,
}

impl Key {
    /// One line, for another process.
    fn label(&self) -> String {
        format!("{} {}", self.address, self.owner.as_deref().unwrap_or_default())
    }
}

/// A change that is ready to be made.
pub struct Prepared {
    forwards: Arc<ForwardSet>,
    table: Arc<Table>,
    tls: Option<(bool, Certificates)>,
    gateway: Option<GatewayConfig>,
    bound: Vec<(Key, BoundListener)>,
    /// What can only be bound when an entrance that goes has closed its socket.
    late: Vec<Key>,
    left_out: LeftOut,
    wanted: BTreeMap<Key, Owner>,
    /// What is to be let go if the change is given up.
    undo: Undo,
}

/// What became of a change.
#[derive(Debug, Default)]
pub struct Committed {
    /// The keys of routes that were made anew though they are written as before: their CA or password has changed.
    pub remade: Vec<String>,
    /// Addresses that could not be had after all; the entrances they were to replace are open again.
    pub failed: Vec<EntranceError>,
    /// The same, of ports where an entrance that was to be replaced could not be opened again: each address, and each
    /// entrance that is closed now.
    pub closed: Vec<EntranceError>,
}

/// Sockets that are bound, what has to wait for others to be closed, and what cannot be had.
type Bound = (Vec<(Key, BoundListener)>, Vec<Key>, LeftOut);

struct Undo {
    forwards: Arc<ForwardSet>,
    table: Arc<Table>,
}

/// Whose entrance it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    Gateway,
    Forward(String),
}

/// Why a file cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum EntranceError {
    /// An address cannot be listened on.
    #[error("{key}")]
    Bind {
        /// Where the address is written.
        key: String,
        /// Why.
        #[source]
        source: BindError,
    },
    /// The routes cannot be set up.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The local authority cannot be used.
    #[error("the local certificate authority cannot be used")]
    Authority(#[source] TlsError),
    /// There is no directory to keep the local authority in.
    #[error("there is no place for the local certificate authority")]
    NoPlace,
    /// An address cannot be had because this program has the port at another one.
    #[error("{key}: {address} cannot be listened on while {own} is, which this program has open")]
    Own {
        /// Where the address is written.
        key: String,
        /// The address.
        address: SocketAddr,
        /// The one that is in its way.
        own: SocketAddr,
    },
    /// An entrance that made room for another one could not be opened again.
    #[error("{address} was open, and could not be opened again")]
    Lost {
        /// Where it was.
        address: SocketAddr,
        /// Why.
        #[source]
        source: Box<BindError>,
    },
}

impl EntranceError {
    /// A port that could be had in the place of one that is taken.
    #[must_use]
    pub fn free_port(&self) -> Option<u16> {
        match self {
            Self::Bind { source: BindError::Taken { free, .. }, .. } => *free,
            _ => None,
        }
    }
}

impl Diagnose for EntranceError {
    fn fault(&self) -> Fault {
        match self {
            Self::Bind { source, .. } => source.fault(),
            Self::Lost { source, .. } => source.fault(),
            Self::Table(error) => error.fault(),
            Self::Authority(error) => error.fault(),
            Self::NoPlace | Self::Own { .. } => Fault::Config,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Bind { source, .. } => source.hint(),
            Self::Lost { source, .. } => source.hint(),
            Self::Table(error) => error.hint(),
            Self::Authority(error) => error.hint(),
            Self::NoPlace => Some("set HOME or XDG_STATE_HOME".into()),
            Self::Own { .. } => Some("give one of the two another port".into()),
        }
    }
}

impl Entrances {
    /// None yet. Sockets are accepted from in `listening`, all else lives in `carrying`; the local authority is kept in
    /// `authority_dir`.
    #[must_use]
    pub fn new(listening: &Scope, carrying: &Scope, authority_dir: Option<PathBuf>) -> Self {
        let targets = Arc::default();
        Self {
            listening: listening.clone(),
            carrying: carrying.clone(),
            authority_dir,
            routes: Routes::new(&targets),
            targets,
            door: None,
            tls: None,
            open: BTreeMap::new(),
            ports: BTreeMap::new(),
            renew: BTreeSet::new(),
            leaves_out: false,
            unopened: LeftOut::new(),
            inherited: Mutex::default(),
            places: None,
        }
    }

    /// The next change makes these forwards anew, as they are written: what they carry finishes, new streams go to
    /// new connections.
    pub fn renew(&mut self, names: &[String]) {
        self.renew = names.iter().cloned().collect();
    }

    /// Listening sockets of another process, by the labels of [`Entrances::sockets`]: they are used in place of binding.
    pub fn inherit(&mut self, sockets: Vec<(String, StdListener)>) {
        self.inherited.get_mut().unwrap_or_else(PoisonError::into_inner).extend(sockets);
    }

    /// The label of the entrance at an address as the file has it; `owner` is the forward, or none for the gateway.
    #[must_use]
    pub fn label(asked: SocketAddr, owner: Option<&str>) -> String {
        key(asked, owner).label()
    }

    /// Closes the sockets that were inherited and that nothing has asked for.
    pub fn close_inherited(&mut self) {
        self.inherited.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The listening sockets for another process, each with a label that says what it is for. A connection that nobody
    /// has accepted yet stays in its queue.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn sockets(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        self.open.iter().map(|(key, entrance)| Ok((key.label(), entrance.share()?))).collect()
    }

    /// Where streams to targets come from, for other entrances: published tunnels.
    #[must_use]
    pub const fn targets(&self) -> &Arc<Targets> {
        &self.targets
    }

    /// The routes in force.
    #[must_use]
    pub const fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// What each forward's ports have carried.
    pub fn ports(&self) -> impl Iterator<Item = (&str, &Arc<Traffic>)> {
        self.ports.iter().map(|(name, traffic)| (name.as_str(), traffic))
    }

    /// The open sockets: where, and the forward behind it, or none for the gateway.
    pub fn open(&self) -> impl Iterator<Item = (SocketAddr, Option<String>)> {
        self.open.values().map(|entrance| {
            let owner = match &*entrance.handler() {
                Handler::Gateway(_) => None,
                Handler::Port(port) => Some(port.name.clone()),
            };
            (entrance.local_addr(), owner)
        })
    }

    /// Makes ready what a file asks for.
    ///
    /// # Errors
    /// [`EntranceError`]; everything stays as it was.
    pub fn prepare(&self, file: &AgentFile, clusters: &Arc<Clusters>) -> Result<Prepared, EntranceError> {
        let (old_forwards, old_table) = (self.targets.forwards(), self.routes.table());
        let renew = |name: &str| self.renew.contains(name);
        let forwards = Arc::new(old_forwards.next_but(&self.carrying, clusters, specs(file), renew));
        let protect = &file.kubernetes.protect;
        let parts =
            TableParts { targets: &self.targets, forwards: &forwards, clusters, protect, scope: &self.carrying };
        let table = match &file.gateway {
            Some(gateway) => old_table.next(gateway, parts),
            None => Ok(Table::empty()),
        };
        let undo = |table: &Arc<Table>| Undo { forwards: Arc::clone(&forwards), table: Arc::clone(table) };
        let table = match table {
            Ok(table) => Arc::new(table),
            Err(error) => {
                forwards.retire(&old_forwards);
                return Err(error.into());
            }
        };
        let wanted = wanted(file);
        let rest = self.next_tls(file.gateway.as_ref()).and_then(|tls| Ok((tls, self.bind(file, &wanted)?)));
        match rest {
            Ok((tls, (bound, late, left_out))) => {
                let (undo, gateway) = (undo(&table), file.gateway.clone());
                Ok(Prepared { forwards, table, tls, gateway, bound, late, left_out, wanted, undo })
            }
            Err(error) => {
                self.undo(&undo(&table));
                Err(error)
            }
        }
    }

    /// Gives up a change.
    pub fn abandon(&self, prepared: Prepared) {
        let Prepared { undo, .. } = prepared;
        self.undo(&undo);
    }

    /// Makes a change. What is untouched by it keeps its connections; what is gone takes nothing new. Where an address
    /// takes the place of another one of the same port this waits for that socket's end, so it must not be called from
    /// within the runtime then.
    pub fn commit(&mut self, prepared: Prepared) -> Committed {
        let Prepared { forwards, table, tls, gateway, bound, late, left_out, wanted, undo: _ } = prepared;
        self.renew.clear();
        (self.leaves_out, self.unopened) = (false, left_out);
        // Not before: whoever refuses the change must not have dialled anybody. And before the first stream by them.
        forwards.start();
        let old_forwards = self.targets.replace(Arc::clone(&forwards));
        let old_table = self.routes.replace(Arc::clone(&table));
        if let Some(gateway) = &gateway {
            self.keep_door(gateway, tls);
        }
        self.places(wanted.len()).are_for(wanted.len());
        let gone = self.close_unwanted(&wanted);
        let mut bound: BTreeMap<Key, BoundListener> = bound.into_iter().collect();
        let outcome = self.bind_late(late, &gone, &wanted, &mut bound);
        for (key, owner) in &wanted {
            let Some(handler) = self.handler(owner) else { continue };
            match (self.open.get(key), bound.remove(key)) {
                (Some(entrance), _) => {
                    if !is_same(&entrance.handler(), owner) {
                        entrance.set(handler);
                    }
                }
                (None, Some(listener)) => {
                    self.open_at(key, listener, handler);
                }
                (None, None) => {}
            }
        }
        self.tell_ports();
        let remade = table.remade(&old_table);
        old_table.retire(&table);
        old_forwards.retire(&forwards);
        Committed { remade, ..outcome }
    }

    /// The machine slept, or its network changed: everything is dialled anew.
    pub fn wake(&self) {
        self.targets.forwards().wake();
        if let Some(dynamic) = self.routes.table().dynamic() {
            dynamic.wake();
        }
    }

    /// Forwards take nothing new.
    pub fn stop(&self) {
        self.targets.forwards().stop();
        if let Some(dynamic) = self.routes.table().dynamic() {
            dynamic.stop();
        }
    }

    /// The pages show what is open.
    fn tell_ports(&self) {
        let listen = self.open().filter_map(|(address, owner)| Some((owner?, address))).collect();
        let traffic = self.ports().map(|(name, traffic)| (name.to_owned(), Arc::clone(traffic))).collect();
        self.routes.set_ports(listen, traffic);
    }

    fn undo(&self, undo: &Undo) {
        undo.forwards.retire(&self.targets.forwards());
        undo.table.retire(&self.routes.table());
    }

    /// Binds what is not open yet, and tells what has to wait for a socket of our own.
    fn bind(&self, file: &AgentFile, wanted: &BTreeMap<Key, Owner>) -> Result<Bound, EntranceError> {
        let (mut bound, mut late, mut left_out) = (Vec::new(), Vec::new(), LeftOut::new());
        let unnamed = file.gateway.as_ref().is_some_and(|gateway| gateway.listen == GatewayConfig::default().listen);
        let asked: BTreeSet<u16> = wanted.keys().map(|key| key.address.port()).collect();
        for (key, owner) in wanted {
            if self.open.contains_key(key) {
                continue;
            }
            match self.bind_one(key) {
                Ok(listener) => bound.push((key.clone(), listener)),
                // A machine without IPv6 has no such loopback, and nobody asked for it by name.
                Err(BindError::NoSuchAddress { .. } | BindError::System { .. })
                    if *owner == Owner::Gateway && unnamed && key.address.is_ipv6() => {}
                Err(source) => match self.must_wait(key, owner, wanted, source.but_ports(|port| asked.contains(&port)))
                {
                    Ok(()) => late.push(key.clone()),
                    Err(error) if self.may_leave_out(key) => {
                        left_out.insert(key.clone(), Unopened { owner: owner.clone(), error });
                    }
                    Err(error) => return Err(error),
                },
            }
        }
        Ok((bound, late, left_out))
    }

    /// Binds, unless the socket is there already.
    fn bind_one(&self, key: &Key) -> Result<BoundListener, BindError> {
        let known = self.inherited.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.label());
        match known {
            Some(listener) => {
                BoundListener::from_std(listener).map_err(|source| BindError::System { address: key.address, source })
            }
            None => BoundListener::bind(key.address),
        }
    }

    /// Whether an address that could not be bound can be had once entrances of our own that go have closed.
    fn must_wait(
        &self,
        key: &Key,
        owner: &Owner,
        wanted: &BTreeMap<Key, Owner>,
        source: BindError,
    ) -> Result<(), EntranceError> {
        let is_ours = match &source {
            // Whose it is cannot be seen everywhere.
            BindError::Taken { holder, .. } => holder.as_ref().is_none_or(|holder| holder.pid == std::process::id()),
            _ => false,
        };
        let mut in_the_way = self.open.iter().filter(|(_, entrance)| conflict(entrance.local_addr(), key.address));
        let Some(first) = in_the_way.next().filter(|_| is_ours) else {
            return Err(EntranceError::Bind { key: place(owner), source });
        };
        match std::iter::once(first).chain(in_the_way).find(|(of, _)| wanted.contains_key(of)) {
            Some((_, stays)) => {
                Err(EntranceError::Own { key: place(owner), address: key.address, own: stays.local_addr() })
            }
            None => Ok(()),
        }
    }

    /// Binds what sockets of entrances that go were in the way of: of each port all, or none, and then what went is
    /// opened again.
    fn bind_late(
        &mut self,
        late: Vec<Key>,
        gone: &[(Key, Arc<Entrance>)],
        wanted: &BTreeMap<Key, Owner>,
        bound: &mut BTreeMap<Key, BoundListener>,
    ) -> Committed {
        let mut outcome = Committed::default();
        let mut ports: BTreeMap<u16, Vec<Key>> = BTreeMap::new();
        for key in late {
            ports.entry(key.address.port()).or_default().push(key);
        }
        for keys in ports.into_values() {
            let is_before = |(_, entrance): &&(Key, Arc<Entrance>)| {
                keys.iter().any(|key| conflict(entrance.local_addr(), key.address))
            };
            let before: Vec<_> = gone.iter().filter(is_before).collect();
            before.iter().for_each(|(_, entrance)| wait_for_end(entrance));
            let place_of = |key: &Key| wanted.get(key).map(place).unwrap_or_default();
            let (mut had, mut failed) = (Vec::new(), Vec::new());
            for key in keys.iter().cloned() {
                match BoundListener::bind(key.address) {
                    Ok(listener) => had.push((key, listener)),
                    Err(source) => failed.push(EntranceError::Bind { key: place_of(&key), source }),
                }
            }
            if failed.is_empty() {
                bound.extend(had);
                continue;
            }
            let given_up: Vec<Key> = had.into_iter().map(|(key, _)| key).collect();
            for key in &given_up {
                let own = before.iter().map(|(_, entrance)| entrance.local_addr());
                if let Some(own) = own.into_iter().find(|own| conflict(*own, key.address)) {
                    failed.push(EntranceError::Own { key: place_of(key), address: key.address, own });
                }
            }
            let lost = self.reopen(&before, &keys, wanted);
            let of = if lost.is_empty() { &mut outcome.failed } else { &mut outcome.closed };
            of.extend(failed.into_iter().chain(lost));
        }
        outcome
    }

    /// Opens what was closed, and tells what could not be opened. Where nobody has its forward any more, it leads
    /// where the address leads that was to take its place.
    fn reopen(
        &mut self,
        before: &[&(Key, Arc<Entrance>)],
        late: &[Key],
        wanted: &BTreeMap<Key, Owner>,
    ) -> Vec<EntranceError> {
        let mut lost = Vec::new();
        for (key, entrance) in before {
            let address = entrance.local_addr();
            let listener = match BoundListener::bind(address) {
                Ok(listener) => listener,
                Err(source) => {
                    lost.push(EntranceError::Lost { address, source: Box::new(source) });
                    continue;
                }
            };
            let mut handler = (*entrance.handler()).clone();
            if !wanted.values().any(|owner| is_same(&handler, owner)) {
                let heir = late.iter().find(|key| conflict(address, key.address)).and_then(|key| wanted.get(key));
                handler = heir.and_then(|owner| self.handler(owner)).unwrap_or(handler);
            }
            self.open_at(key, listener, handler);
        }
        lost
    }

    /// Places for clients, counted the first time.
    fn places(&mut self, entrances: usize) -> &mut Places {
        self.places.get_or_insert_with(|| Places::count(entrances))
    }

    fn open_at(&mut self, key: &Key, listener: BoundListener, handler: Handler) {
        let places = Arc::clone(self.places(1).free());
        let entrance = Entrance::open(listener, handler, &self.listening, &self.carrying, &places);
        self.open.insert(key.clone(), entrance);
    }

    fn close_unwanted(&mut self, wanted: &BTreeMap<Key, Owner>) -> Vec<(Key, Arc<Entrance>)> {
        let gone: Vec<_> = self.open.extract_if(.., |key, _| !wanted.contains_key(key)).collect();
        gone.iter().for_each(|(_, entrance)| entrance.close());
        let names: Vec<&String> = wanted.values().filter_map(Owner::forward).collect();
        // What is carried goes on, though its port is closed.
        self.ports.retain(|name, traffic| names.contains(&name) || traffic.live() > 0);
        gone
    }

    fn keep_door(&mut self, gateway: &GatewayConfig, tls: Option<(bool, Certificates)>) {
        self.tls = tls.or_else(|| self.tls.take());
        let Some((_, certificates)) = &self.tls else { return };
        let door = self
            .door
            .get_or_insert_with(|| Door::new(&self.routes, certificates.clone(), ConnectionLimit::new(CONNECTIONS)));
        door.set_certificates(certificates.clone());
        door.set_trusted_proxies(gateway.trusted_proxies.clone());
    }

    fn handler(&mut self, owner: &Owner) -> Option<Handler> {
        match owner {
            Owner::Gateway => self.door.clone().map(Handler::Gateway),
            Owner::Forward(name) => {
                let traffic = Arc::clone(self.ports.entry(name.clone()).or_default());
                let connect = self.targets.connect_port(&Target::Forward(name.clone()));
                Some(Handler::Port(Arc::new(TcpPort {
                    name: name.clone(),
                    connect,
                    traffic,
                    connections: ConnectionLimit::new(PORT_CONNECTIONS),
                })))
            }
        }
    }

    /// Whether TLS ends here with certificates of the kept authority, which clients have to be made to trust.
    #[must_use]
    pub fn vouches(&self) -> bool {
        self.tls.as_ref().is_some_and(|(kept, _)| *kept)
    }

    /// Certificates, when they are not there yet or have to be others: whether they are by the kept authority.
    fn next_tls(&self, gateway: Option<&GatewayConfig>) -> Result<Option<(bool, Certificates)>, EntranceError> {
        let Some(gateway) = gateway else { return Ok(None) };
        let kept = gateway.tls == GatewayTls::Local || gateway.routes.iter().any(|route| route.terminate);
        let known = self.tls.as_ref();
        if known.is_some_and(|(known, _)| *known == kept) {
            return Ok(None);
        }
        let pages = match known {
            Some((_, certificates)) => Arc::clone(&certificates.pages),
            None => by_authority(Authority::in_memory(PAGES_AUTHORITY))?,
        };
        let own = match &self.authority_dir {
            _ if !kept => Arc::clone(&pages),
            Some(dir) => by_authority(Authority::load_or_create(dir))?,
            None => return Err(EntranceError::NoPlace),
        };
        Ok(Some((kept, Certificates { own, pages })))
    }
}

/// TLS with a certificate for each name that is asked for.
fn by_authority(authority: Result<Authority, TlsError>) -> Result<Arc<ServerConfig>, EntranceError> {
    authority
        .and_then(|authority| LeafResolver::new(Arc::new(authority)))
        .and_then(|resolver| runtime::tls::server_config(Arc::new(resolver), &[b"h2", b"http/1.1"]))
        .map_err(EntranceError::Authority)
}

impl std::fmt::Debug for Entrances {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.open.values().map(|entrance| entrance.local_addr())).finish()
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl Owner {
    fn forward(&self) -> Option<&String> {
        match self {
            Self::Gateway => None,
            Self::Forward(name) => Some(name),
        }
    }
}

/// Every socket the file asks for.
fn wanted(file: &AgentFile) -> BTreeMap<Key, Owner> {
    let gateway =
        file.gateway.iter().flat_map(|gateway| gateway.listen.iter().map(|address| (*address, Owner::Gateway)));
    let forwards = file
        .forwards
        .iter()
        .filter(|forward| forward.enabled)
        .flat_map(|forward| forward.listen.iter().map(|address| (*address, Owner::Forward(forward.name.clone()))));
    let all = gateway.chain(forwards);
    all.map(|(address, owner)| (key(address, owner.forward().map(String::as_str)), owner)).collect()
}

fn key(address: SocketAddr, owner: Option<&str>) -> Key {
    Key { address, owner: (address.port() == 0).then(|| owner.unwrap_or_default().to_owned()) }
}

/// Whether two sockets cannot both listen at these addresses.
fn conflict(a: SocketAddr, b: SocketAddr) -> bool {
    // `[::]` takes IPv4 as well.
    let covers = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    let (one, other) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && a.port() != 0 && (one == other || covers(one, other) || covers(other, one))
}

/// Until the socket is closed, within the time its loop needs to see that it is to end, which is microseconds.
fn wait_for_end(entrance: &Entrance) {
    let closed = async { tokio::time::timeout(CLOSING, entrance.closed()).await };
    if tokio::runtime::Handle::current().block_on(closed).is_err() {
        tracing::warn!(local = %entrance.local_addr(), "a socket is not closed yet");
    }
}

fn place(owner: &Owner) -> String {
    match owner {
        Owner::Gateway => "gateway.listen".into(),
        Owner::Forward(name) => format!("forwards.{name}.listen"),
    }
}

fn is_same(handler: &Handler, owner: &Owner) -> bool {
    match (handler, owner) {
        (Handler::Gateway(_), Owner::Gateway) => true,
        (Handler::Port(port), Owner::Forward(name)) => port.name == *name,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn addresses_conflict_when_they_are_one_or_one_covers_the_other() {
        let conflict = |a: &str, b: &str| {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(super::conflict(a, b), super::conflict(b, a));
            super::conflict(a, b)
        };
        for (a, b) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("127.0.0.1:80", "0.0.0.0:80"),
            ("127.0.0.1:80", "[::]:80"),
            ("0.0.0.0:80", "[::]:80"),
            ("[::1]:80", "[::]:80"),
        ] {
            assert!(conflict(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("127.0.0.1:80", "127.0.0.2:80"),
            ("127.0.0.1:80", "127.0.0.1:81"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("0.0.0.0:80", "[::1]:80"),
        ] {
            assert!(!conflict(a, b), "{a} {b}");
        }
    }
}
