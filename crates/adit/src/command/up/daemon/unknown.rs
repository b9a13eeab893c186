//! Names that no forward has: what they are, or what may be meant.

use adit_core::config::AgentFile;
use adit_core::diagnose::Fault;
use adit_core::near;
use adit_core::target::Target;

use crate::report::Failure;

/// A name that something else of the file has.
pub(super) fn other_than_a_forward(file: &AgentFile, name: &str) -> Option<Failure> {
    let tunnels = file.publish.iter().flat_map(|publish| &publish.tunnels);
    let tunnels = tunnels.map(|tunnel| (&tunnel.key, "a tunnel of `publish`", &tunnel.to));
    let routes = file.gateway.iter().flat_map(|gateway| &gateway.routes);
    let routes = routes.map(|route| (&route.key, "a route of the gateway", &route.to));
    let (_, what, to) = tunnels.chain(routes).find(|(key, ..)| *key == name)?;
    let forward = match to {
        Target::Forward(to) => Some(to.as_str()),
        _ => None,
    };
    Some(no_forward(name, what, forward))
}

/// That a name is not a forward's, what it is, and what can be done.
pub(super) fn no_forward(name: &str, what: &str, forward: Option<&str>) -> Failure {
    let through = forward.map(|forward| format!("; it leads to the forward `{forward}`: adit restart {forward}"));
    let hint = format!(
        "only forwards are started and stopped; what else is in the file runs as long as it is there: see `adit status`, \
         and take it out to end it{}",
        through.unwrap_or_default()
    );
    Failure::new(Fault::Usage, format!("`{name}` is {what}, not a forward"), hint)
}

/// What is not there, with what may be meant.
pub(super) fn unknown(what: &str, name: &str, known: &[&str]) -> Failure {
    let hint = match near::nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => String::new(),
        None => format!("there are: {}", known.join(", ")),
    };
    Failure::new(Fault::Usage, format!("there is no {what} `{name}`"), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_tunnel_or_a_route_is_told_as_what_it_is() {
        let text = "forwards: { web: { to: 1 } }\ngateway: { routes: { web.localhost: { to: \"forward:web\" } } }\n\
                    publish: { server: \"h:1\", tunnels: { shop: { to: \"forward:web\" }, plain: { to: 3 } } }\n";
        let file = AgentFile::parse("adit.yaml", text, &|_| None).unwrap();
        let of = |name: &str| other_than_a_forward(&file, name).map(|failure| failure.text());
        let shop = of("shop").unwrap();
        assert!(shop.contains("`shop` is a tunnel of `publish`, not a forward"), "{shop}");
        assert!(shop.contains("adit status") && shop.contains("adit restart web"), "{shop}");
        assert!(!of("plain").unwrap().contains("leads to the forward"), "{:?}", of("plain"));
        assert!(of("web.localhost").unwrap().contains("a route of the gateway"));
        assert_eq!((of("web"), of("other")), (None, None));
    }
}
