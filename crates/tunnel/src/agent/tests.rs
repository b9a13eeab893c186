//! An agent against a small server of the test's own, and real local services.

mod fake_server;
mod http;
mod session;
mod tcp;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::secret::Secret;
use prometheus_client::registry::Registry;
use runtime::{Scope, TcpConnect};
use tokio::sync::{broadcast, oneshot};

use super::*;
use fake_server::FakeServer;

const DEADLINE: Duration = Duration::from_secs(20);

/// Fails a test that hangs.
async fn within<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(DEADLINE, what).await.expect("it happens in time")
}

/// An agent at work.
struct Running {
    scope: Scope,
    events: broadcast::Receiver<AgentEvent>,
    result: oneshot::Receiver<Result<(), AgentError>>,
    registry: Registry,
}

fn config(server: &FakeServer, tunnels: Vec<AgentTunnel>) -> AgentConfig {
    let token = TokenSource::Fixed(Secret::new("adit_secret".to_owned()));
    let mut config = AgentConfig::new(&server.address(), server.trust(), token, "agent-1");
    config.tunnels = tunnels;
    config
}

fn tunnel(name: &str, wanted: Wanted, to: SocketAddr) -> AgentTunnel {
    let connect = TcpConnect::new(&to.ip().to_string(), to.port(), Duration::from_secs(2));
    AgentTunnel::new(name, wanted, Arc::new(connect))
}

fn web(to: SocketAddr) -> AgentTunnel {
    tunnel("web", Wanted::Name("app1".into()), to)
}

fn start(config: AgentConfig) -> Running {
    let mut registry = Registry::default();
    let agent = Agent::new(config, Arc::new(AgentMetrics::new(&mut registry))).unwrap();
    let events = agent.events();
    let scope = Scope::root();
    let (tell, result) = oneshot::channel();
    let own = scope.clone();
    // In a scope of its own, so that the agent's can be waited for.
    Scope::root().spawn("agent", async move {
        let _ = tell.send(agent.run(own).await);
    });
    Running { scope, events, result, registry }
}

impl Running {
    /// The next event that `pick` takes.
    async fn event<T>(&mut self, mut pick: impl FnMut(AgentEvent) -> Option<T>) -> T {
        within(async {
            loop {
                let event = self.events.recv().await.expect("the agent runs and the test keeps up");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        })
        .await
    }

    async fn published(&mut self) -> String {
        self.event(|event| match event {
            AgentEvent::Published { url, .. } => Some(url),
            _ => None,
        })
        .await
    }

    async fn end(self) -> Result<(), AgentError> {
        within(self.result).await.expect("the agent's task ends")
    }

    /// The value of a metric, by its line's beginning.
    fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// An address nobody listens on, nor can until the program ends.
fn closed() -> SocketAddr {
    Box::leak(Box::new(testkit::process::Closed::take().unwrap())).address
}
