//! `health_check`: what a probe does, and what its results mean.

use http::Uri;

use super::Work;
use super::connection::filled;
use super::given::{Given, given};
use crate::config::document::Written;
use crate::config::reader::{Complaint, Section, number};

/// Who logs in to PostgreSQL, and where, when the file does not say.
const POSTGRES: &str = "postgres";

/// What is asked for when there is no URL.
const PATH: &str = "/health";

/// What is good when the file says nothing.
const STATUSES: [u16; 4] = [200, 201, 202, 204];

/// A kind of check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
    Https,
    Postgres,
    Kafka,
    /// None that localport knows, and what comes nearest here.
    Other(&'static str),
}

/// Kinds of ours that say themselves what they need.
const OURS: [&str; 3] = ["redis", "mysql", "grpc"];

const KINDS: [(&str, Kind); 6] = [
    ("tcp", Kind::Tcp),
    ("http", Kind::Http),
    ("https", Kind::Https),
    ("postgres", Kind::Postgres),
    ("postgresql", Kind::Postgres),
    ("kafka", Kind::Kafka),
];

/// What the check becomes. `local` is the service's port, to which the check connects.
pub(super) fn read(section: &Section<'_>, local: Option<u16>, work: &mut Work) -> Written {
    let kind = section.get("type", |text| Ok::<_, Complaint>(kind_of(text, section, work)));
    let interval = given(section, "interval", |text| super::seconds(text, 1.0, 3600.0));
    let timeout = given(section, "timeout", |text| super::seconds(text, 0.1, 300.0));
    let fall = given(section, "failure_threshold", |text| number(text, &(1u32..=100)));
    let rise = given(section, "success_threshold", |text| number(text, &(1u32..=100)));
    if section.boolean("cluster_aware") == Some(false) {
        work.note_once("cluster_aware: false has no equivalent: a cluster that is away always pauses the restarts of its forwards, and they come back with it");
    }
    let has_config = section.has("config");
    let config = section.section("config");
    let probe = match kind {
        Some(Kind::Tcp) => Written::map().with("type", Written::text("tcp")),
        Some(Kind::Http) => http(&config, "http", work),
        Some(Kind::Https) => http(&config, "https", work),
        Some(Kind::Postgres) => postgres(&config, local, work),
        Some(Kind::Kafka) => kafka(&config, local, work),
        Some(Kind::Other(kind)) => {
            let password = (kind == "redis").then(|| password(&config, work)).flatten();
            let is_left_out = |key: &str| password.is_none() || key != "password";
            let left_out = config.entries().iter().filter(|entry| is_left_out(&entry.key));
            left_out.for_each(|entry| work.left_out(&config, &entry.key));
            Written::map().with("type", Written::text(kind)).with_some("password", password)
        }
        // The type is inherited; what is configured belongs to it.
        None if !has_config || section.holds("type") => Written::map(),
        None => {
            section.missing("type", "a check with a config needs its type: http, https, postgres or kafka");
            return Written::map();
        }
    };
    if !matches!(kind, Some(Kind::Other(_))) {
        work.unknown(&config);
    }
    work.unknown(section);
    probe
        .with_some("interval", interval.map(|wait| wait.time()))
        .with_some("timeout", timeout.map(|wait| wait.time()))
        .with_some("rise", rise.map(|rise| rise.written(Written::bare)))
        .with_some("fall", fall.map(|fall| fall.written(Written::bare)))
}

/// The kind of a word. The rest of the file is of use whatever that is: the nearest one takes its place, and a note says so.
fn kind_of(text: &str, section: &Section<'_>, work: &mut Work) -> Kind {
    if let Some((_, kind)) = KINDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)) {
        return *kind;
    }
    let ours = OURS.iter().find(|word| word.eq_ignore_ascii_case(text)).copied();
    let place = section.whereabouts();
    work.notes.push(match ours {
        Some(kind) => format!("{place}.type: `{text}` is none of localport's; the {kind} check of adit is written"),
        None => format!("{place}.type: `{text}` is not known here: a tcp check takes its place"),
    });
    Kind::Other(ours.unwrap_or("tcp"))
}

/// A request; the connection is the forward's own, so host and port of the URL only name the host.
fn http(config: &Section<'_>, kind: &'static str, work: &mut Work) -> Written {
    let url = given(config, "url", url);
    let method = given(config, "method", filled);
    let codes = ["expected_status_codes", "expected_status", "status_codes"];
    let codes = codes.map(|key| config.list(key, status)).into_iter().flatten().next();
    let content = given(config, "expected_content", filled);
    let verify = given(config, "verify_ssl", boolean);
    let headers = headers(&config.section("headers"));
    // The scheme of the URL is what localport goes by.
    let (kind, place) = match &url {
        Some(Given::Value(url)) => (if url.tls { "https" } else { "http" }, Some(url)),
        Some(Given::Variable(text)) if text.starts_with("https:") => ("https", None),
        Some(Given::Variable(text)) if text.starts_with("http:") => ("http", None),
        Some(Given::Variable(_)) | None => (kind, None),
    };
    if kind == "http" && verify.is_some() {
        work.notes.push(format!("{}.verify_ssl is left out: there is no TLS in a check by http", config.whereabouts()));
    }
    let map = Written::map().with("type", Written::text(kind));
    let map = match (&url, place) {
        (Some(Given::Variable(text)), _) => map.with("url", Written::Template(text.clone())),
        (_, Some(url)) => {
            let foreign = !is_here(&url.host);
            if foreign {
                work.notes.push(format!(
                    "{}.url: the probe goes through the forward, with {} as the host that is asked for",
                    config.whereabouts(),
                    url.host
                ));
            }
            map.with("path", Written::text(&url.path))
                .with_some("host_header", foreign.then(|| Written::text(&url.host)))
        }
        _ => map.with("path", Written::text(PATH)),
    };
    // Everything below 400 is good here, those four are there.
    let codes = codes.unwrap_or_else(|| STATUSES.map(Given::Value).to_vec());
    let codes = codes.iter().map(|code| code.written(Written::bare)).collect();
    let method = method.filter(|method| method.value().is_none_or(|method| !method.eq_ignore_ascii_case("GET")));
    map.with_some("method", method.map(|method| method.written(Written::text)))
        .with("status", Written::List(codes))
        .with_some("content", content.map(|content| content.written(Written::text)))
        .with_some("headers", (!headers.is_empty()).then_some(headers))
        .with_some("verify", verify.filter(|_| kind == "https").map(|verify| verify.written(Written::bare)))
}

fn postgres(config: &Section<'_>, local: Option<u16>, work: &mut Work) -> Written {
    elsewhere(config, local, work);
    let user = given(config, "user", filled).or_else(|| given(config, "username", filled));
    let database = given(config, "database", filled).or_else(|| given(config, "dbname", filled));
    let password = password(config, work);
    let sslmode = given(config, "sslmode", |text| match text {
        "allow" => Ok("prefer".to_owned()),
        _ => filled(text),
    });
    // Nobody logs in here unless somebody is named; there it is always postgres.
    let login = user.is_some() || password.is_some() || database.is_some();
    let or_postgres = |known: Option<Given<String>>| known.unwrap_or_else(|| Given::Value(POSTGRES.to_owned()));
    let map = Written::map().with("type", Written::text("postgres"));
    let map = if login {
        map.with("user", or_postgres(user).written(Written::text))
            .with("database", or_postgres(database).written(Written::text))
    } else {
        map
    };
    map.with_some("password", password).with_some("sslmode", sslmode.map(|mode| mode.written(Written::text)))
}

/// The password of a check.
fn password(config: &Section<'_>, work: &mut Work) -> Option<Written> {
    let password = given(config, "password", filled)?;
    if matches!(password, Given::Value(_)) {
        work.notes.push(format!(
            "{}.password stands in the new file as it is: better \"${{PASSWORD}}\", or password_file",
            config.whereabouts()
        ));
    }
    Some(password.written(Written::text))
}

/// `host` and `port` of a check.
fn elsewhere(config: &Section<'_>, local: Option<u16>, work: &mut Work) {
    let host = given(config, "host", filled);
    let port = given(config, "port", super::port);
    let is_local = |host: &Given<String>| host.value().is_some_and(|host| is_here(host));
    let is_port = |port: &Given<u16>| port.value().copied() == local;
    let is_said = host.is_some() || port.is_some();
    if host.is_some_and(|host| !is_local(&host)) || port.is_some_and(|port| !is_port(&port)) {
        work.notes.push(format!(
            "host and port of {} have no equivalent: the probe goes through the forward",
            config.whereabouts()
        ));
    } else if is_said {
        let place = config.whereabouts();
        work.notes.push(format!("host and port of {place} are left out: the probe goes through the forward anyway"));
    }
}

fn kafka(config: &Section<'_>, local: Option<u16>, work: &mut Work) -> Written {
    let servers = config.list("bootstrap_servers", filled).unwrap_or_default();
    let servers: Vec<&str> = servers.iter().flat_map(|servers| servers.split(',')).map(str::trim).collect();
    let is_ours = |server: &&str| {
        let (host, port) = server.rsplit_once(':').unwrap_or((server, "9092"));
        is_here(host) && port.parse().ok() == local
    };
    if servers.iter().any(|server| !is_ours(server)) {
        work.notes.push(format!(
            "{}.bootstrap_servers has no equivalent: the probe goes through the forward",
            config.whereabouts()
        ));
    } else if !servers.is_empty() {
        let place = config.whereabouts();
        work.notes.push(format!("{place}.bootstrap_servers is left out: the probe goes through the forward anyway"));
    }
    Written::map().with("type", Written::text("kafka"))
}

fn headers(section: &Section<'_>) -> Written {
    section.named_texts().into_iter().fold(Written::map(), |map, (name, text)| {
        let value = super::given::template(&text).map_or_else(|| Written::text(&text), Written::Template);
        map.with(name, value)
    })
}

struct Url {
    tls: bool,
    host: String,
    path: String,
}

fn url(text: &str) -> Result<Url, Complaint> {
    let fault = || Complaint::new(format!("`{text}` is not a url"), "write it as http://localhost:8080/health");
    let uri: Uri = text.parse().map_err(|_| fault())?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(fault()),
    };
    let host = uri.host().ok_or_else(fault)?.to_owned();
    Ok(Url { tls, host, path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned() })
}

fn status(text: &str) -> Result<Given<u16>, Complaint> {
    match super::given::template(text) {
        Some(template) => Ok(Given::Variable(template)),
        None => number(text, &(100..=599)).map(Given::Value),
    }
}

fn boolean(text: &str) -> Result<bool, Complaint> {
    match text {
        "true" | "yes" | "on" | "True" => Ok(true),
        "false" | "no" | "off" | "False" => Ok(false),
        _ => Err(Complaint::new(format!("`{text}` is neither true nor false"), "write true or false")),
    }
}

fn is_here(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "::1" | "[::1]" | "0.0.0.0")
}
