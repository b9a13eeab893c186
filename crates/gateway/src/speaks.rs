//! What a service's port speaks, as far as its number and its name tell: a link of a browser to a database leads nowhere.

use adit_core::target::{KubeTarget, PortRef, Selection, Target};

/// Ports that are always something else than HTTP, by what they speak.
const NUMBERS: [(u16, &str); 27] = [
    (22, "SSH"),
    (25, "SMTP"),
    (53, "DNS"),
    (389, "LDAP"),
    (465, "SMTP"),
    (587, "SMTP"),
    (636, "LDAP"),
    (1433, "SQL Server"),
    (1521, "Oracle"),
    (1883, "MQTT"),
    (2181, "ZooKeeper"),
    (3306, "MySQL"),
    (4222, "NATS"),
    (5432, "PostgreSQL"),
    (5433, "PostgreSQL"),
    (5671, "AMQP"),
    (5672, "AMQP"),
    (6379, "Redis"),
    (6432, "PostgreSQL"),
    (8883, "MQTT"),
    (9042, "Cassandra"),
    (9092, "Kafka"),
    (11211, "memcached"),
    (26257, "PostgreSQL"),
    (26379, "Redis"),
    (27017, "MongoDB"),
    (33060, "MySQL"),
];

/// The same by the word that a port's name begins with, or that is a service's whole name.
const WORDS: [(&str, &str); 30] = [
    ("amqp", "AMQP"),
    ("amqps", "AMQP"),
    ("cassandra", "Cassandra"),
    ("cql", "Cassandra"),
    ("dns", "DNS"),
    ("kafka", "Kafka"),
    ("ldap", "LDAP"),
    ("ldaps", "LDAP"),
    ("mariadb", "MySQL"),
    ("memcache", "memcached"),
    ("memcached", "memcached"),
    ("mongo", "MongoDB"),
    ("mongodb", "MongoDB"),
    ("mqtt", "MQTT"),
    ("mqtts", "MQTT"),
    ("mssql", "SQL Server"),
    ("mysql", "MySQL"),
    ("nats", "NATS"),
    ("oracle", "Oracle"),
    ("pg", "PostgreSQL"),
    ("pgbouncer", "PostgreSQL"),
    ("postgres", "PostgreSQL"),
    ("postgresql", "PostgreSQL"),
    ("redis", "Redis"),
    ("rediss", "Redis"),
    ("smtp", "SMTP"),
    ("smtps", "SMTP"),
    ("ssh", "SSH"),
    ("valkey", "Redis"),
    ("zookeeper", "ZooKeeper"),
];

/// Words for what a browser can open, whatever the number.
const WEB: [&str; 10] = ["http", "https", "http2", "h2c", "web", "grpc", "ui", "console", "metrics", "api"];

/// What a port of a service speaks if that is not HTTP, as people call it.
pub(crate) fn other_than_http(service: &str, number: u16, name: Option<&str>) -> Option<&'static str> {
    let by_word = |word: &str| WORDS.iter().find(|(known, _)| *known == word).map(|(_, speaks)| *speaks);
    if let Some(name) = name {
        // Names are made of words with hyphens, as `tcp-postgresql` or `http-metrics`.
        let words = || name.split('-');
        if words().any(|word| WEB.contains(&word)) {
            return None;
        }
        if let Some(speaks) = words().find_map(by_word) {
            return Some(speaks);
        }
    }
    let by_number = NUMBERS.iter().find(|(known, _)| *known == number).map(|(_, speaks)| *speaks);
    // A service that is called so has other ports beside, and those of the web are known.
    by_number.or_else(|| by_word(service).filter(|_| !matches!(number, 80 | 443 | 3000 | 8000..=8999 | 9090..=9999)))
}

/// What to do about a target that was asked by HTTP and has not answered so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instead {
    /// It speaks something else: how it is reached.
    Port(String),
    /// It may want TLS: the host that is for this.
    Tls(String),
}

/// A local port for one of a service that anybody may listen on: those below 1024 are the system's.
pub(crate) const fn unprivileged(number: u16) -> u16 {
    if number < 1024 { number + 10_000 } else { number }
}

impl Instead {
    /// For the target of a route or a dynamic host, when its port speaks something else by all that is known.
    pub(crate) fn of(target: &KubeTarget) -> Option<Self> {
        let Selection::Object { name, .. } = &target.selection else { return None };
        let (number, word) = match &target.port {
            PortRef::Number(number) => (number.get(), None),
            PortRef::Name(word) => (0, Some(word.as_str())),
        };
        let speaks = other_than_http(name, number, word)?;
        let usual = NUMBERS.iter().find(|(_, known)| *known == speaks).map(|(number, _)| *number);
        let local = if number == 0 { usual? } else { number };
        let local = unprivileged(local);
        let to = Target::Kubernetes(target.clone());
        Some(Self::Port(format!(
            "this port speaks {speaks}, not HTTP: a forward leads to it, `{{ to: \"{to}\", listen: {local} }}` in the \
             section forwards, or `adit forward {to} {local}`"
        )))
    }

    /// As a sentence's words, with links to this port.
    pub(crate) fn hint(&self, port: u16) -> String {
        match self {
            Self::Port(hint) => hint.clone(),
            Self::Tls(host) => {
                let port = if port == 80 { String::new() } else { format!(":{port}") };
                format!("check that the port speaks HTTP; if it wants TLS, open http://{host}{port}/")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_speaks_no_http_is_told_with_the_forward_that_leads_there() {
        let of = |url: &str| match Target::parse(url).unwrap() {
            Target::Kubernetes(target) => Instead::of(&target),
            _ => panic!("{url} is in a cluster"),
        };
        let hint = of("k8s://fake/databases/service/postgresql:5432").unwrap().hint(8989);
        let to = "k8s://fake/databases/service/postgresql:5432";
        assert!(hint.starts_with("this port speaks PostgreSQL, not HTTP"), "{hint}");
        assert!(hint.contains(&format!("`{{ to: \"{to}\", listen: 5432 }}`")), "{hint}");
        assert!(hint.contains(&format!("`adit forward {to} 5432`")), "{hint}");
        let named = of("k8s://fake/x/service/mariadb:mysql").unwrap().hint(8989);
        assert!(named.contains("listen: 3306"), "{named}");
        assert_eq!(of("k8s://fake/x/service/web:80"), None);
        let tls = |port| Instead::Tls("web-443.https.svc.x".into()).hint(port);
        assert!(tls(8989).ends_with("open http://web-443.https.svc.x:8989/"), "{}", tls(8989));
        assert!(tls(80).ends_with("open http://web-443.https.svc.x/"), "{}", tls(80));
    }

    #[test]
    fn databases_are_known_by_number_by_name_and_by_their_service() {
        for (service, number, name, speaks) in [
            ("db", 5432, None, "PostgreSQL"),
            ("db", 3306, Some("tcp"), "MySQL"),
            ("db", 15432, Some("tcp-postgresql"), "PostgreSQL"),
            ("cache", 6380, Some("redis-tls"), "Redis"),
            ("mongodb", 27018, None, "MongoDB"),
            ("redis", 7000, None, "Redis"),
        ] {
            assert_eq!(other_than_http(service, number, name), Some(speaks), "{service} {number} {name:?}");
        }
    }

    #[test]
    fn what_a_browser_can_open_stays_so() {
        for (service, number, name) in [
            ("web", 80, None),
            ("web", 8080, Some("http")),
            ("odd", 5432, Some("http")),
            ("postgres", 9187, Some("metrics")),
            ("postgres", 9187, Some("http-metrics")),
            ("redis", 8080, None),
            ("mysql-ui", 3000, None),
            ("any", 12345, Some("tcp")),
        ] {
            assert_eq!(other_than_http(service, number, name), None, "{service} {number} {name:?}");
        }
    }
}
