//! Looks after the health of local services.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_core::config::publish::{HealthCheck, Probe};
use adit_core::diagnose::chain;
use adit_core::health::{Health, HealthState};
use http::header::HOST;
use runtime::Scope;
use runtime::upstream::UpstreamConnection;

use super::Shared;
use super::body::RequestBody;
use super::local::Local;
use super::settings::LocalProtocol;

/// However many visitors find the service down, it is not probed more often than this for it.
const HURRY: Duration = Duration::from_secs(1);

/// Probes a service until the scope drains.
pub(super) async fn run(local: Arc<Local>, shared: Arc<Shared>, scope: Scope) {
    let Some(check) = local.tunnel.health.clone() else {
        return;
    };
    let mut health = Health::new(check.settings, Instant::now());
    loop {
        let due = health.poll_timeout();
        tokio::select! {
            biased;
            () = scope.drained() => return,
            () = tokio::time::sleep_until(due.into()) => {}
            () = local.probe_soon.notified() => {
                let last = due.checked_sub(check.settings.interval).unwrap_or(due);
                health.probe_soon((last + HURRY).max(Instant::now()));
                continue;
            }
        }
        let result = tokio::select! {
            biased;
            () = scope.drained() => return,
            result = probe(&local, &check) => result,
        };
        // The probe's own failure to connect is no reason for another.
        tokio::select! {
            biased;
            () = local.probe_soon.notified() => {}
            () = std::future::ready(()) => {}
        }
        let change = health.handle_result(Instant::now(), result.is_ok(), 0);
        let Some(state) = change else { continue };
        let healthy = state != HealthState::Unhealthy;
        // That all is well from the start is not worth a word.
        if healthy != local.is_healthy() {
            local.set_health(healthy, result.err().as_deref().unwrap_or_default());
            if let Some(session) = shared.session() {
                session.tell_health(std::slice::from_ref(&local));
            }
        }
    }
}

/// One look; `Err` says what was seen.
async fn probe(local: &Local, check: &HealthCheck) -> Result<(), String> {
    let look = async {
        match &check.probe {
            Probe::Tcp => local.tunnel.connect.connect().await.map(drop).map_err(|error| chain(&error)),
            Probe::Http { path } => ask(local, path).await,
        }
    };
    match tokio::time::timeout(check.settings.timeout, look).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {:?}", check.settings.timeout)),
    }
}

async fn ask(local: &Local, path: &str) -> Result<(), String> {
    let response = if local.tunnel.protocol == LocalProtocol::H2c {
        let (mut sender, _) = local.h2.sender(local).await.map_err(|fault| chain(&fault))?;
        sender.send_request(request(local, path, true)?).await
    } else {
        let io = local.tunnel.connect.connect().await.map_err(|error| chain(&error))?;
        let mut connection = UpstreamConnection::begin(io).await.map_err(|error| chain(&error))?;
        connection.send(request(local, path, false)?).await
    };
    let status = response.map_err(|error| chain(&error))?.status();
    if status.is_client_error() || status.is_server_error() {
        return Err(format!("GET {path} answered {status}"));
    }
    Ok(())
}

fn request(local: &Local, path: &str, h2: bool) -> Result<http::Request<RequestBody>, String> {
    let host = match local.host_value().and_then(|value| value.to_str().ok()) {
        Some(host) => host.to_owned(),
        None => local.tunnel.connect.describe(),
    };
    let mut request = http::Request::get(if h2 { format!("http://{host}{path}") } else { path.to_owned() });
    if !h2 {
        request = request.header(HOST, host);
    }
    request
        .header("user-agent", concat!("adit-health/", env!("CARGO_PKG_VERSION")))
        .body(RequestBody::Empty)
        .map_err(|_| format!("`{path}` is not a path"))
}
