//! The admin pages: metrics, health, and what is connected.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use prometheus_client::registry::Registry as Prometheus;
use runtime::admin::{AdminAnswer, Routes};
use runtime::readiness::Readiness;
use serde_json::{Value, json};

use super::state::State;

const PROMETHEUS_TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The routes of the admin server.
pub(super) fn routes(state: &Arc<State>, readiness: Readiness, prometheus: Prometheus) -> Routes {
    let state = Arc::downgrade(state);
    // The encoder is not shared between threads while it runs.
    let prometheus = Mutex::new(prometheus);
    Arc::new(move |path: &str| match path {
        "/metrics" => {
            let mut text = String::new();
            let registry = prometheus.lock().unwrap_or_else(PoisonError::into_inner);
            match prometheus_client::encoding::text::encode(&mut text, &registry) {
                Ok(()) => AdminAnswer::new(PROMETHEUS_TEXT, text),
                Err(_) => AdminAnswer::text("metrics cannot be encoded\n")
                    .with_status(http::StatusCode::INTERNAL_SERVER_ERROR),
            }
        }
        "/health/detailed" => AdminAnswer::json(&detailed(&state, &readiness)),
        "/tunnels" => AdminAnswer::json(&tunnels(&state)),
        path => readiness.answer(path).unwrap_or_else(AdminAnswer::not_found),
    })
}

fn detailed(state: &Weak<State>, readiness: &Readiness) -> Value {
    let Some(state) = state.upgrade() else { return json!({ "ready": false }) };
    let agents = state.all_sessions().len();
    let most = state.config.load().limits.agents;
    let level = match agents {
        n if n >= most => "unhealthy",
        n if n * 10 > most * 9 => "degraded",
        _ => "ok",
    };
    json!({
        "health": readiness.report(),
        "connections": { "status": level, "agents": agents, "max": most },
        "routes": state.registry.size(),
        "draining": state.is_draining(),
    })
}

fn tunnels(state: &Weak<State>) -> Value {
    let Some(state) = state.upgrade() else { return json!({ "tunnels": [] }) };
    let mut list = Vec::new();
    for session in state.all_sessions() {
        session.with_tunnels(|tunnels| {
            for tunnel in tunnels.values() {
                list.push(json!({
                    "url": tunnel.url,
                    "account": session.account.name(),
                    "agent": session.agent_id,
                    "peer": session.remote.to_string(),
                    "healthy": tunnel.healthy,
                    "in_flight": session.in_flight(),
                    "connected_seconds": session.started.elapsed().as_secs(),
                }));
            }
        });
    }
    list.sort_by(|a, b| a["url"].as_str().cmp(&b["url"].as_str()));
    json!({ "tunnels": list })
}
