//! The port for HTTP and TLS: the first byte of each connection says which it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::cidr::Cidr;
use adit_core::diagnose::{Diagnose as _, chain};
use adit_core::name::Hostname;
use arc_swap::ArcSwap;
use runtime::connect::{ConnectError, MissingPart};
use runtime::listener::{ConnectionLimit, ConnectionPermit};
use runtime::scope::Scope;
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::hello::{Opening, OpeningError, opening};
use crate::http::{self, Arrival, Found, Listing, Lookup, Scheme, ServicesAsked, Site};
use crate::passthrough::pass;
use crate::replay::Replay;
use crate::routes::{Routes, TlsFound};

/// A client's handshake with us.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How TLS that ends here is answered.
#[derive(Clone)]
pub struct Certificates {
    /// For routes: by the kept authority, or, when none is used, as [`Certificates::pages`].
    pub own: Arc<ServerConfig>,
    /// For what is only told: by an authority in memory that nobody trusts.
    pub pages: Arc<ServerConfig>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}

/// What is behind the port.
pub struct Door {
    routes: Arc<Routes>,
    site: Arc<Site>,
    /// For TLS that ends here: with certificates of the kept authority, which clients may trust, or of one in memory,
    /// which only carries error pages.
    certificates: ArcSwap<Certificates>,
    connections: ConnectionLimit,
}

impl Door {
    /// A door to these routes; TLS that ends here is answered with these certificates.
    #[must_use]
    pub fn new(routes: &Arc<Routes>, certificates: Certificates, connections: ConnectionLimit) -> Arc<Self> {
        let lookup: Arc<dyn Lookup> = Arc::clone(routes) as Arc<dyn Lookup>;
        Arc::new(Self {
            routes: Arc::clone(routes),
            site: Arc::new(Site::new(lookup)),
            certificates: ArcSwap::from_pointee(certificates),
            connections,
        })
    }

    /// Believes these proxies from now on, on connections that are there already as well.
    pub fn set_trusted_proxies(&self, proxies: Vec<Cidr>) {
        self.site.trusted_proxies.set(proxies);
    }

    /// Answers TLS that ends here in another way from now on.
    pub fn set_certificates(&self, certificates: Certificates) {
        self.certificates.store(Arc::new(certificates));
    }

    /// A place for one more connection, if there is one.
    pub(crate) fn admit(&self, peer: SocketAddr) -> Option<ConnectionPermit> {
        let permit = self.connections.try_acquire();
        if permit.is_none() {
            tracing::warn!(%peer, max = self.connections.max(), "too many connections");
        }
        permit
    }

    /// Serves one connection.
    pub(crate) async fn connection(&self, mut client: TcpStream, ends: Ends, scope: Scope) {
        let _ = client.set_nodelay(true);
        let opening = tokio::select! {
            biased;
            // Whoever has said nothing yet must not hold up the end.
            () = scope.drained() => return,
            opening = opening(&client) => opening,
        };
        match opening {
            Ok(Opening::Plain) => {
                let arrival = ends.arrival(Scheme::Http, None);
                // Boxed, as is the rest: a connection that goes another way has no room for it.
                Box::pin(http::serve(client, arrival, Arc::clone(&self.site), scope)).await;
            }
            Ok(Opening::Tls { name, bytes }) => {
                scope.clone().until_cancelled(self.tls(client, name, bytes, ends, scope)).await;
            }
            Ok(Opening::Misnamed { name, bytes }) => {
                // Whatever the host of the requests is, it is understood or refused there.
                let answer = Some(Found::Nameless);
                let telling = Box::pin(self.terminate(client, Some(name), bytes, answer, ends, scope.clone()));
                scope.until_cancelled(telling).await;
            }
            Err(OpeningError::Hello(error)) => {
                tracing::debug!(peer = %ends.peer, %error, "not a tls client hello");
                // Best effort: many who send such things do not read.
                if let Some(description) = error.alert() {
                    let _ = client.try_write(&alert(description));
                }
                let _ = client.shutdown().await;
            }
            Err(OpeningError::Silent | OpeningError::Gone(_)) => {}
        }
    }

    /// A site that says the same to every request, each on a connection of its own: what is wrong may be mended meanwhile.
    fn fixed(&self, found: Found) -> Site {
        let lookup = Arc::new(Fixed { routes: Arc::clone(&self.routes), found });
        Site { lookup, once: true, ..Site::clone(&self.site) }
    }

    async fn tls(&self, client: TcpStream, name: Option<Hostname>, bytes: Vec<u8>, ends: Ends, scope: Scope) {
        let found =
            name.as_ref().map_or(TlsFound::Answer(Found::Nameless), |name| self.routes.tls(name, ends.local.port()));
        let answer = match found {
            TlsFound::Pass(connect, traffic, upstream) => {
                let _live = traffic.begin();
                match connect.connect().await {
                    Ok(target) => return pass(client, bytes, target, &traffic, &upstream).await,
                    Err(error) => {
                        traffic.fail(chain(&error));
                        Some(self.failed(name.as_ref(), &error))
                    }
                }
            }
            TlsFound::Terminate => None,
            TlsFound::Answer(found) => Some(found),
        };
        let name = name.map(|name| name.as_str().to_owned());
        Box::pin(self.terminate(client, name, bytes, answer, ends, scope)).await;
    }

    /// What there is to say about a target that was not reached.
    fn failed(&self, name: Option<&Hostname>, error: &ConnectError) -> Found {
        let (reason, hint) = (chain(error), error.hint());
        match (error, name) {
            (ConnectError::Missing { part, near, .. }, Some(name)) if self.routes.is_dynamic(name.as_str()) => {
                let near = self.routes.near(name.as_str(), *part, near);
                Found::Unknown { near, reason: Some(reason), hint }
            }
            _ => Found::Failed { reason, hint },
        }
    }

    /// TLS that ends here, with `answer` for all its requests if there is one.
    async fn terminate(
        &self,
        client: TcpStream,
        name: Option<String>,
        bytes: Vec<u8>,
        answer: Option<Found>,
        ends: Ends,
        scope: Scope,
    ) {
        let certificates = self.certificates.load_full();
        // An authority that is trusted on this machine vouches for hosts that are routed here, for the machine itself,
        // which is meant without a name, and for no other.
        let config = if answer.is_some() && name.is_some() { &certificates.pages } else { &certificates.own };
        let site = answer.map_or_else(|| Arc::clone(&self.site), |found| Arc::new(self.fixed(found)));
        let accepted = runtime::tls::accept(config, Replay::new(bytes, client), HANDSHAKE).await;
        match accepted {
            Ok(stream) => {
                http::serve(stream, ends.arrival(Scheme::Https, name), site, scope).await;
            }
            Err(error) => tracing::debug!(peer = %ends.peer, error = %chain(&error), "no handshake"),
        }
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Door({} connections)", self.connections.in_use())
    }
}

/// Both ends of a client's connection.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

impl Ends {
    const fn arrival(self, scheme: Scheme, sni: Option<String>) -> Arrival {
        Arrival { peer: self.peer, local: self.local, scheme, sni }
    }
}

/// A fatal alert in a record of TLS 1.2 (RFC 8446 section 6).
const fn alert(description: u8) -> [u8; 7] {
    [0x15, 3, 3, 0, 2, 2, description]
}

struct Fixed {
    routes: Arc<Routes>,
    found: Found,
}

impl Lookup for Fixed {
    fn find(&self, _: &str, _: &str) -> Found {
        self.found.clone()
    }

    fn listing(&self) -> Listing {
        self.routes.listing()
    }

    fn mistyped(&self, host: &str) -> Option<Found> {
        self.routes.mistyped(host)
    }

    fn services(&self, context: &str) -> Option<ServicesAsked> {
        self.routes.services(context)
    }

    fn near(&self, host: &str, part: MissingPart, instead: &[String]) -> Vec<String> {
        self.routes.near(host, part, instead)
    }

    fn context_of(&self, host: &str) -> Option<String> {
        self.routes.context_of(host)
    }

    fn is_ours(&self, host: &str) -> bool {
        self.routes.is_ours(host)
    }

    fn is_served(&self, host: &str) -> bool {
        self.routes.is_served(host)
    }
}

#[cfg(test)]
mod tests {
    use adit_core::config::AgentFile;
    use forward::{Clusters, ForwardSet, KubeSettings};
    use runtime::tls::authority::{Authority, LeafResolver};

    use super::*;
    use crate::table::{Table, TableParts};
    use crate::targets::Targets;

    fn door(routes: &Arc<Routes>) -> Arc<Door> {
        let authority = Authority::in_memory("test").unwrap();
        let config =
            runtime::tls::server_config(Arc::new(LeafResolver::new(Arc::new(authority)).unwrap()), &[]).unwrap();
        let certificates = Certificates { own: Arc::clone(&config), pages: config };
        Door::new(routes, certificates, ConnectionLimit::new(1))
    }

    #[tokio::test]
    async fn a_host_that_is_no_legal_name_is_understood_where_all_requests_get_one_answer_too() {
        let (targets, clusters, scope) = (Arc::default(), Clusters::new(KubeSettings::default()), Scope::root());
        let forwards = ForwardSet::default();
        let parts =
            TableParts { targets: &targets, forwards: &forwards, clusters: &clusters, protect: &[], scope: &scope };
        let file = AgentFile::parse("adit.yaml", "gateway: {}", &|_| None).unwrap();
        let routes = Routes::new(&targets);
        routes.replace(Arc::new(Table::empty().next(file.gateway.as_ref().unwrap(), parts).unwrap()));
        let site = door(&routes).fixed(Found::Nameless);
        let mistyped = site.lookup.mistyped("web_80.svc.default.ns.fake.cx.k8s.localhost");
        assert!(matches!(mistyped, Some(Found::Unknown { .. })));
        scope.cancel();
    }

    #[test]
    fn proxies_of_a_reload_and_what_is_remembered_of_clients_hold_for_what_gets_one_answer_too() {
        let door = door(&Routes::new(&Arc::new(Targets::default())));
        let fixed = door.fixed(Found::Nameless);
        let proxy = [10, 1, 2, 3].into();
        assert!(!fixed.trusted_proxies.contain(proxy));
        door.set_trusted_proxies(vec![Cidr::parse("10.0.0.0/8").unwrap()]);
        assert!(door.site.trusted_proxies.contain(proxy) && fixed.trusted_proxies.contain(proxy));
        assert!(Arc::ptr_eq(&door.site.guesses, &fixed.guesses) && Arc::ptr_eq(&door.site.counters, &fixed.counters));
    }
}
