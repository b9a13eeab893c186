//! Starts, losses, ends: how sessions, agents and servers live.

mod credentials;
mod quotas;
mod restart;
mod shutdown;
mod trust;
mod watching;

use testkit::origin::HttpOrigin;

use crate::support::{Agent, Publish, Server, Setup};

/// A server, a local service, and an agent that publishes it as `app1`.
struct Tunnel {
    server: Server,
    origin: HttpOrigin,
    agent: Agent,
}

impl Tunnel {
    async fn start() -> Self {
        Self::start_with(Server::setup()).await
    }

    async fn start_with(setup: Setup) -> Self {
        let server = setup.start().await;
        let origin = HttpOrigin::start().await.expect("a local service");
        let agent = Publish::to(&server).http("app1", origin.addr()).start().await;
        Self { server, origin, agent }
    }
}
