//! A gateway of a test's own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::config::publish::HeaderEdits;
use gateway::http::{Arrival, Found, Listing, Lookup, Scheme, Site, serve};
use gateway::upstream::{BasicAuth, Upstream, UpstreamOptions, UpstreamScheme, UpstreamTls, UpstreamTrust};
use runtime::tls::ServerTrust;
use runtime::{Connect, Scope, TcpConnect};
use tokio::net::TcpListener;

/// No wait of a test is longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Routes by exact host.
#[derive(Default)]
pub(crate) struct Routes {
    pub(crate) found: Mutex<Vec<(String, Found)>>,
    pub(crate) listing: Mutex<Listing>,
    /// The last host and path that were looked up.
    pub(crate) asked: Mutex<(String, String)>,
}

impl Lookup for Routes {
    fn find(&self, host: &str, path: &str) -> Found {
        *self.asked.lock().unwrap() = (host.to_owned(), path.to_owned());
        let found = self.found.lock().unwrap();
        let here = found.iter().find(|(name, _)| name == host).map(|(_, found)| found.clone());
        here.unwrap_or(Found::Unknown { near: vec!["app.localhost".into()], reason: None, hint: None })
    }

    fn is_ours(&self, host: &str) -> bool {
        host.ends_with(".our.test")
    }

    fn is_served(&self, host: &str) -> bool {
        host.ends_with(".served.localhost")
    }

    fn listing(&self) -> Listing {
        self.listing.lock().unwrap().clone()
    }
}

/// A running gateway.
pub(crate) struct Gate {
    pub(crate) addr: SocketAddr,
    pub(crate) site: Arc<Site>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) scope: Scope,
}

impl Gate {
    /// With one route, `app.localhost`, to `target`.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        Self::with(|scope| options(target, scope)).await
    }

    /// With one route, `app.localhost`.
    pub(crate) async fn with(options: impl FnOnce(&Scope) -> UpstreamOptions) -> Self {
        Self::whole(options, |_| {}).await
    }

    pub(crate) async fn whole(options: impl FnOnce(&Scope) -> UpstreamOptions, change: impl FnOnce(&mut Site)) -> Self {
        let scope = Scope::root();
        let routes = Arc::new(Routes::default());
        let mut site = Site::new(Arc::clone(&routes) as Arc<dyn Lookup>);
        change(&mut site);
        let gate = Self::serve(site, routes, scope, Scheme::Http, None).await;
        gate.add("app.localhost", options(&gate.scope));
        gate
    }

    pub(crate) async fn serve(
        site: Site,
        routes: Arc<Routes>,
        scope: Scope,
        scheme: Scheme,
        sni: Option<&'static str>,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (addr, site) = (listener.local_addr().unwrap(), Arc::new(site));
        let (inner, shared) = (scope.clone(), Arc::clone(&site));
        scope.spawn("accept", async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = inner.drained() => return,
                };
                let (tcp, peer) = accepted.unwrap();
                tcp.set_nodelay(true).unwrap();
                let arrival = Arrival { peer, local: addr, scheme, sni: sni.map(str::to_owned) };
                inner.spawn("client", serve(tcp, arrival, Arc::clone(&shared), inner.clone()));
            }
        });
        Self { addr, site, routes, scope }
    }

    pub(crate) fn add(&self, host: &str, options: UpstreamOptions) -> Arc<Upstream> {
        let upstream = Upstream::new(options).unwrap();
        self.found(host, Found::Upstream(Arc::clone(&upstream)));
        upstream
    }

    pub(crate) fn found(&self, host: &str, found: Found) {
        self.routes.found.lock().unwrap().push((host.to_owned(), found));
    }

    pub(crate) fn app(&self) -> Arc<Upstream> {
        match self.routes.find("app.localhost", "/") {
            Found::Upstream(upstream) => upstream,
            other => panic!("{other:?}"),
        }
    }

    /// How often an error was counted.
    pub(crate) fn errors(&self, word: &str) -> u64 {
        self.site.counters.errors().find(|(known, _)| known.as_str() == word).unwrap().1
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.scope.abort();
    }
}

pub(crate) fn tcp(target: SocketAddr) -> Arc<dyn Connect> {
    Arc::new(TcpConnect::new(&target.ip().to_string(), target.port(), PATIENCE))
}

pub(crate) fn options(target: SocketAddr, scope: &Scope) -> UpstreamOptions {
    UpstreamOptions {
        name: "app".into(),
        connect: tcp(target),
        scheme: UpstreamScheme::Http,
        tls: UpstreamTls { server_name: "localhost".into(), trust: UpstreamTrust::Verified(ServerTrust::Roots) },
        host_header: None,
        headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        basic_auth: None,
        timeout: None,
        keep: Duration::from_secs(30),
        own_pages_only: false,
        instead: None,
        terminates: false,
        scope: scope.clone(),
    }
}

pub(crate) fn basic(user: &str, password: &str) -> BasicAuth {
    BasicAuth { user: user.into(), password: adit_core::secret::Secret::new(password.into()) }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, looking).await.is_ok(), "{what} did not come to be");
}
