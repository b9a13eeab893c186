//! Where forwards listened before: whoever came in there is connected still, though the port is closed.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use adit_core::config::AgentFile;
use serde_json::Value;

/// So many addresses of a forward are kept: a port of 0 is another one each time.
const MOST: usize = 16;

/// Addresses by the name of their forward.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PortsBefore(BTreeMap<String, Vec<SocketAddr>>);

impl PortsBefore {
    /// What is open now, before a change.
    pub(super) fn note(&mut self, open: impl Iterator<Item = (SocketAddr, Option<String>)>) {
        for (address, owner) in open {
            let Some(owner) = owner else { continue };
            let known = self.0.entry(owner).or_default();
            known.retain(|other| *other != address);
            known.push(address);
            let surplus = known.len().saturating_sub(MOST);
            known.drain(..surplus);
        }
    }

    /// Forgets forwards that the file does not have.
    pub(super) fn keep_only(&mut self, file: &AgentFile) {
        self.0.retain(|name, _| file.forward(name).is_some());
    }

    /// Of a forward without a connection nobody asks.
    pub(super) fn forget_idle(&mut self, status: &Value) {
        let services = status["services"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_used = |name: &String| services.iter().any(|one| one["name"] == **name && one["streams"] != 0);
        self.0.retain(|name, _| is_used(name));
    }

    /// Those of a forward.
    pub(super) fn of(&self, name: &str) -> &[SocketAddr] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_kept_while_something_runs_through_the_forward() {
        let (mut before, at) = (PortsBefore::default(), |port: u16| SocketAddr::from(([127, 0, 0, 1], port)));
        before.note([(at(1), Some("db".to_owned())), (at(9), None)].into_iter());
        before.note([(at(2), Some("db".to_owned())), (at(2), Some("db".to_owned()))].into_iter());
        assert_eq!(before.of("db"), [at(1), at(2)]);
        (10..40).for_each(|port| before.note([(at(port), Some("web".to_owned()))].into_iter()));
        assert_eq!(before.of("web").len(), MOST);
        before.forget_idle(&json!({ "services": [{ "name": "db", "streams": 1 }, { "name": "web", "streams": 0 }] }));
        assert_eq!((before.of("db").len(), before.of("web")), (2, [].as_slice()));
    }
}
