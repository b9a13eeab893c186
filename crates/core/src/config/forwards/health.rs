//! `health` of forwards: what a probe does, and what its results mean.

use std::time::Duration;

use crate::config::reader::{Complaint, Section, number, positive_duration};
use crate::health::HealthSettings;
use crate::secret::Secret;

/// From one probe of a forward to the next. Each costs a connection through the cluster, so it is longer than for
/// published services.
const INTERVAL: Duration = Duration::from_secs(30);

/// How a forward is probed.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthConfig {
    /// What a probe does.
    pub probe: HealthProbe,
    /// How often, and what its results mean.
    pub settings: HealthSettings,
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthProbe {
    /// Opens a connection.
    Tcp,
    /// Sends a request.
    Http(HttpProbe),
    /// Logs in and asks `SELECT 1`.
    Postgres {
        /// The user; without it only whether PostgreSQL answers.
        user: Option<String>,
        /// The user's password.
        password: Option<Secret<String>>,
        /// The database; without it the user's.
        database: Option<String>,
    },
    /// Asks a Kafka broker which versions it speaks.
    Kafka,
}

/// A request that is sent as a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// Whether it is spoken over TLS.
    pub tls: bool,
    /// The path that is asked for, with its slash.
    pub path: String,
    /// The statuses that are good; none is all below 400.
    pub status: Vec<u16>,
    /// What the answer must contain.
    pub content: Option<String>,
    /// Whether the certificate is verified.
    pub verify: bool,
}

impl Default for HttpProbe {
    fn default() -> Self {
        Self { tls: false, path: "/".to_owned(), status: Vec::new(), content: None, verify: true }
    }
}

impl HealthProbe {
    /// As it is written in a file.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(HttpProbe { tls: false, .. }) => "http",
            Self::Http(HttpProbe { tls: true, .. }) => "https",
            Self::Postgres { .. } => "postgres",
            Self::Kafka => "kafka",
        }
    }
}

/// A kind of probe in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
    Https,
    Postgres,
    Kafka,
}

/// The names of the kinds.
const KINDS: [(&str, Kind); 6] = [
    ("tcp", Kind::Tcp),
    ("http", Kind::Http),
    ("https", Kind::Https),
    ("postgres", Kind::Postgres),
    ("postgresql", Kind::Postgres),
    ("kafka", Kind::Kafka),
];

/// Keys that only requests have, and those that only PostgreSQL has.
const HTTP_KEYS: [&str; 4] = ["path", "status", "content", "verify"];
const POSTGRES_KEYS: [&str; 3] = ["user", "password", "database"];

/// Reads the key `health`: a map over what `base` says, or `off`.
pub(super) fn read(section: &Section<'_>, base: Option<&HealthConfig>) -> Option<HealthConfig> {
    if !section.has("health") {
        return base.cloned();
    }
    if section.is_map("health") {
        return Some(read_map(section.section("health"), base));
    }
    section.get("health", |text| match text {
        "off" | "false" | "no" => Ok(()),
        _ => Err(Complaint::new(
            format!("`{text}` is no probe"),
            "write a map, such as { type: tcp, interval: 30s }, or off",
        )),
    });
    None
}

fn read_map(section: Section<'_>, base: Option<&HealthConfig>) -> HealthConfig {
    let default = HealthSettings { interval: INTERVAL, ..HealthSettings::default() };
    let settings = base.map_or(default, |base| base.settings);
    let given = section.word("type", &KINDS);
    let kind = given.unwrap_or_else(|| implied(&section, base));
    let probe = probe(&section, kind, base.map(|base| &base.probe));
    let settings = HealthSettings {
        interval: section.get("interval", positive_duration).unwrap_or(settings.interval),
        timeout: section.get("timeout", positive_duration).unwrap_or(settings.timeout),
        rise: section.number("rise", 1..=100).unwrap_or(settings.rise),
        fall: section.number("fall", 1..=100).unwrap_or(settings.fall),
    };
    section.finish();
    HealthConfig { probe, settings }
}

/// Without a type the base's, or what the keys speak of.
fn implied(section: &Section<'_>, base: Option<&HealthConfig>) -> Kind {
    let name = base.map_or("tcp", |base| base.probe.as_str());
    let of_base = KINDS.iter().find(|(known, _)| *known == name).map_or(Kind::Tcp, |(_, kind)| *kind);
    match of_base {
        Kind::Tcp if HTTP_KEYS.iter().any(|key| section.holds(key)) => Kind::Http,
        Kind::Tcp if POSTGRES_KEYS.iter().any(|key| section.holds(key)) => Kind::Postgres,
        other => other,
    }
}

fn probe(section: &Section<'_>, kind: Kind, base: Option<&HealthProbe>) -> HealthProbe {
    let http = http(section, kind, base);
    let postgres = postgres(section, base);
    let is_http = matches!(kind, Kind::Http | Kind::Https);
    let misplaced = HTTP_KEYS.iter().filter(|_| !is_http).map(|key| (key, "http and https"));
    let misplaced =
        misplaced.chain(POSTGRES_KEYS.iter().filter(|_| kind != Kind::Postgres).map(|key| (key, "postgres")));
    for (key, owner) in misplaced.filter(|(key, _)| section.holds(key)) {
        section.complain(key, Complaint::new(format!("is for type {owner} only"), "leave it out, or set the type"));
    }
    match kind {
        Kind::Tcp => HealthProbe::Tcp,
        Kind::Http | Kind::Https => HealthProbe::Http(http),
        Kind::Postgres => postgres,
        Kind::Kafka => HealthProbe::Kafka,
    }
}

fn http(section: &Section<'_>, kind: Kind, base: Option<&HealthProbe>) -> HttpProbe {
    let base = match base {
        Some(HealthProbe::Http(base)) => base.clone(),
        _ => HttpProbe::default(),
    };
    HttpProbe {
        tls: kind == Kind::Https,
        path: section.get("path", path).unwrap_or(base.path),
        status: section.list("status", |text| number(text, &(100..=599))).unwrap_or(base.status),
        content: section.text("content").or(base.content),
        verify: section.boolean("verify").unwrap_or(base.verify),
    }
}

fn postgres(section: &Section<'_>, base: Option<&HealthProbe>) -> HealthProbe {
    let (user, password, database) = match base {
        Some(HealthProbe::Postgres { user, password, database }) => (user.clone(), password.clone(), database.clone()),
        _ => (None, None, None),
    };
    HealthProbe::Postgres {
        user: section.text("user").or(user),
        password: section.text("password").map(Secret::new).or(password),
        database: section.text("database").or(database),
    }
}

fn path(text: &str) -> Result<String, Complaint> {
    if text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(Complaint::new(format!("`{text}` is not a path"), "write it with its slash, such as /health"))
}
