//! Reads the key `health`.

use http::{HeaderName, HeaderValue, Method, Uri};

use super::{
    Credentials, ExecProbe, GrpcProbe, HealthConfig, HealthProbe, HttpProbe, INTERVAL, KafkaProbe, PostgresProbe,
    ProbeText, ProbeTls, RedisProbe, SaslMechanism, SslMode, StatusRange,
};
use crate::config::gateway::PasswordSource;
use crate::config::reader::{Complaint, Section, number, positive_duration};
use crate::health::HealthSettings;
use crate::name::Hostname;
use crate::secret::Secret;

/// A kind of probe in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
    Https,
    Postgres,
    Redis,
    Mysql,
    Grpc,
    Kafka,
    Exec,
}

/// The names of the kinds.
const KINDS: [(&str, Kind); 11] = [
    ("tcp", Kind::Tcp),
    ("http", Kind::Http),
    ("https", Kind::Https),
    ("postgres", Kind::Postgres),
    ("postgresql", Kind::Postgres),
    ("redis", Kind::Redis),
    ("mysql", Kind::Mysql),
    ("mariadb", Kind::Mysql),
    ("grpc", Kind::Grpc),
    ("kafka", Kind::Kafka),
    ("exec", Kind::Exec),
];

/// Keys that not every kind has, and whose they are.
const KEYS: [(&str, &[Kind]); 19] = [
    ("path", HTTP),
    ("url", HTTP),
    ("method", HTTP),
    ("status", HTTP),
    ("content", HTTP),
    ("headers", HTTP),
    ("host_header", &[Kind::Http, Kind::Https, Kind::Grpc]),
    ("database", &[Kind::Postgres]),
    ("sslmode", &[Kind::Postgres]),
    ("user", LOGIN),
    ("password", LOGIN),
    ("password_file", LOGIN),
    ("mechanism", &[Kind::Kafka]),
    ("service", &[Kind::Grpc]),
    ("command", &[Kind::Exec]),
    ("tls", &[Kind::Redis, Kind::Grpc, Kind::Kafka]),
    ("verify", &[Kind::Http, Kind::Https, Kind::Redis, Kind::Grpc, Kind::Kafka]),
    ("ca", TLS),
    ("server_name", TLS),
];

/// Keys that tell the kind when no type is given.
const SPEAKING: [(&str, Kind); 11] = [
    ("path", Kind::Http),
    ("method", Kind::Http),
    ("status", Kind::Http),
    ("content", Kind::Http),
    ("headers", Kind::Http),
    ("service", Kind::Grpc),
    ("command", Kind::Exec),
    ("mechanism", Kind::Kafka),
    ("database", Kind::Postgres),
    ("sslmode", Kind::Postgres),
    ("user", Kind::Postgres),
];

const HTTP: &[Kind] = &[Kind::Http, Kind::Https];
const LOGIN: &[Kind] = &[Kind::Postgres, Kind::Redis, Kind::Kafka];
const TLS: &[Kind] = &[Kind::Http, Kind::Https, Kind::Postgres, Kind::Redis, Kind::Grpc, Kind::Kafka];

/// Reads the key `health`: a map over what `base` says, or `off`.
pub(in crate::config::forwards) fn read(section: &Section<'_>, base: Option<&HealthConfig>) -> Option<HealthConfig> {
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
    let url = section.get("url", url);
    let kind = given.unwrap_or_else(|| implied(&section, base, url.as_ref()));
    // A type that is not known makes none of the other keys wrong.
    let unknown = given.is_none() && section.holds("type");
    let probe = probe(&section, kind, base.map(|base| &base.probe), url.as_ref());
    for (key, owners) in &KEYS {
        if !unknown && !owners.contains(&kind) && section.holds(key) {
            let message = format!("is for type {} only", names(owners));
            section.complain(key, Complaint::new(message, "leave it out, or set the type"));
        }
    }
    let settings = HealthSettings {
        interval: section.get("interval", positive_duration).unwrap_or(settings.interval),
        timeout: section.get("timeout", positive_duration).unwrap_or(settings.timeout),
        rise: section.number("rise", 1..=100).unwrap_or(settings.rise),
        fall: section.number("fall", 1..=100).unwrap_or(settings.fall),
    };
    section.finish();
    HealthConfig { probe, settings }
}

/// `http, https and grpc`.
fn names(kinds: &[Kind]) -> String {
    let name = |kind: &Kind| KINDS.iter().find(|(_, known)| known == kind).map_or("", |(name, _)| name);
    let all: Vec<&str> = kinds.iter().map(name).collect();
    match all.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => all.concat(),
    }
}

/// Without a type the base's, or what the keys speak of.
fn implied(section: &Section<'_>, base: Option<&HealthConfig>, url: Option<&Url>) -> Kind {
    if section.holds("url") {
        return if url.is_some_and(|url| url.tls) { Kind::Https } else { Kind::Http };
    }
    let name = base.map_or("tcp", |base| base.probe.as_str());
    let of_base = KINDS.iter().find(|(known, _)| *known == name).map_or(Kind::Tcp, |(_, kind)| *kind);
    if of_base != Kind::Tcp {
        return of_base;
    }
    SPEAKING.iter().find(|(key, _)| section.holds(key)).map_or(Kind::Tcp, |(_, kind)| *kind)
}

/// Every key is asked for whatever the kind is, so that each mistake is told.
fn probe(section: &Section<'_>, kind: Kind, base: Option<&HealthProbe>, url: Option<&Url>) -> HealthProbe {
    let login = login(section, base.and_then(HealthProbe::login));
    let tls = tls(section, base.and_then(HealthProbe::tls));
    let http = http(section, kind, base, url, &tls);
    let postgres = postgres(section, base, &login, &tls);
    let host_header = http.host_header.clone();
    let wished = section.boolean("tls");
    let optional = |known: Option<&ProbeTls>| match wished {
        Some(wished) => wished.then(|| tls.clone()),
        None => (known.is_some() || section.holds("ca") || section.holds("server_name")).then(|| tls.clone()),
    };
    let service = text(section, "service");
    let mechanism = section.word("mechanism", &MECHANISMS);
    let exec = exec(section, kind, base);
    match kind {
        Kind::Tcp => HealthProbe::Tcp,
        Kind::Http | Kind::Https => HealthProbe::Http(http),
        Kind::Postgres => postgres,
        Kind::Mysql => HealthProbe::Mysql,
        Kind::Redis => {
            let known = matches!(base, Some(HealthProbe::Redis(_))).then_some(base).flatten();
            HealthProbe::Redis(RedisProbe { login, tls: optional(known.and_then(HealthProbe::tls)) })
        }
        Kind::Grpc => {
            let known = if let Some(HealthProbe::Grpc(known)) = base { known.clone() } else { GrpcProbe::default() };
            HealthProbe::Grpc(GrpcProbe {
                service: service.unwrap_or(known.service),
                tls: optional(known.tls.as_ref()),
                host_header: host_header.or(known.host_header),
            })
        }
        Kind::Kafka => {
            let known = if let Some(HealthProbe::Kafka(known)) = base { known.clone() } else { KafkaProbe::default() };
            check_sasl(section, &login);
            let mechanism = mechanism.unwrap_or(known.mechanism);
            HealthProbe::Kafka(KafkaProbe { login, mechanism, tls: optional(known.tls.as_ref()) })
        }
        Kind::Exec => HealthProbe::Exec(exec),
    }
}

/// A text that is shown without what variables hold.
fn text(section: &Section<'_>, key: &'static str) -> Option<ProbeText> {
    section.text(key).map(|text| ProbeText::new(text, section.shown(key).pop()))
}

const MECHANISMS: [(&str, SaslMechanism); 3] = [
    ("plain", SaslMechanism::Plain),
    ("scram-sha-256", SaslMechanism::ScramSha256),
    ("scram-sha-512", SaslMechanism::ScramSha512),
];

const SSL_MODES: [(&str, SslMode); 5] = [
    ("disable", SslMode::Disable),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-full", SslMode::Verify),
    ("verify-ca", SslMode::Verify),
];

fn login(section: &Section<'_>, base: Option<&Credentials>) -> Credentials {
    let known = base.cloned().unwrap_or_default();
    let value = section.text("password").map(|text| PasswordSource::Value(Secret::new(text)));
    let file = section.path("password_file").map(PasswordSource::File);
    if section.holds("password") && section.holds("password_file") {
        section.complain("password_file", Complaint::new("there is a password as well", "keep one of the two"));
    }
    Credentials { user: text(section, "user").or(known.user), password: value.or(file).or(known.password) }
}

fn check_sasl(section: &Section<'_>, login: &Credentials) {
    if login.user.is_some() && login.password.is_none() {
        section.complain("user", Complaint::new("has no password", "write password: \"${PASSWORD}\" or password_file"));
    }
    if login.user.is_none() && login.password.is_some() {
        section.complain("password", Complaint::new("is nobody's", "say whose with user: NAME"));
    }
}

fn tls(section: &Section<'_>, base: Option<&ProbeTls>) -> ProbeTls {
    let known = base.cloned().unwrap_or_default();
    let tls = ProbeTls {
        verify: section.boolean("verify").unwrap_or(known.verify),
        ca: section.path("ca").or(known.ca),
        server_name: section.get("server_name", Hostname::parse).or(known.server_name),
    };
    if !tls.verify && section.holds("ca") {
        section.complain("ca", Complaint::new("is of no use without verification", "leave verify out"));
    }
    tls
}

fn http(section: &Section<'_>, kind: Kind, base: Option<&HealthProbe>, url: Option<&Url>, tls: &ProbeTls) -> HttpProbe {
    let base = match base {
        Some(HealthProbe::Http(base)) => base.clone(),
        _ => HttpProbe::default(),
    };
    if let Some(url) = url {
        if section.holds("path") {
            section.complain("path", Complaint::new("there is a url as well", "keep one of the two"));
        }
        if url.tls != (kind == Kind::Https) && matches!(kind, Kind::Http | Kind::Https) {
            let complaint = Complaint::new("is of another type", "leave the type out, the url says it");
            section.complain("url", complaint);
        }
    }
    let shown_url = section.shown("url").pop();
    let host = url.map(|url| ProbeText::new(url.host.clone(), shown_url.as_deref().map(host_of_url)));
    let headers = section.optional_section("headers").map(|section| headers(&section));
    let own_host = section.get("host_header", host_header);
    let own_host = own_host.map(|host| ProbeText::new(host, section.shown("host_header").pop()));
    let shown_path = match (section.shown("path").pop(), shown_url) {
        (Some(path), _) => path,
        (None, Some(url)) => path_of_url(&url),
        (None, None) => base.shown_path,
    };
    HttpProbe {
        shown_path,
        tls: (kind == Kind::Https).then(|| tls.clone()),
        method: section.get("method", method).unwrap_or(base.method),
        path: section.get("path", path).or_else(|| url.map(|url| url.path.clone())).unwrap_or(base.path),
        status: section.list("status", status).unwrap_or(base.status),
        content: text(section, "content").or(base.content),
        headers: headers.unwrap_or(base.headers),
        host_header: own_host.or(host).or(base.host_header),
    }
}

fn postgres(section: &Section<'_>, base: Option<&HealthProbe>, login: &Credentials, tls: &ProbeTls) -> HealthProbe {
    let known = match base {
        Some(HealthProbe::Postgres(known)) => known.clone(),
        _ => PostgresProbe::default(),
    };
    HealthProbe::Postgres(PostgresProbe {
        login: login.clone(),
        database: text(section, "database").or(known.database),
        sslmode: section.word("sslmode", &SSL_MODES).unwrap_or(known.sslmode),
        tls: tls.clone(),
    })
}

fn exec(section: &Section<'_>, kind: Kind, base: Option<&HealthProbe>) -> ExecProbe {
    let given = section.list("command", |text| Ok::<_, Complaint>(text.to_owned()));
    let (command, shown) = match (given, base) {
        (Some(command), _) => (command, section.shown("command")),
        (None, Some(HealthProbe::Exec(known))) => (known.command.clone(), known.shown.clone()),
        (None, _) => (Vec::new(), Vec::new()),
    };
    if kind == Kind::Exec && command.first().is_none_or(String::is_empty) {
        section.missing("command", "write the program and its arguments, such as [pg_isready, -q]");
    }
    ExecProbe { command, shown }
}

/// What a probe's URL says; the connection itself is the forward's.
struct Url {
    tls: bool,
    host: String,
    path: String,
}

fn url(text: &str) -> Result<Url, Complaint> {
    let fault = || Complaint::new(format!("`{text}` is not a url"), "write it as http://localhost/health");
    let uri: Uri = text.parse().map_err(|_| fault())?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(fault()),
    };
    let authority = uri.authority().ok_or_else(fault)?;
    if authority.as_str().contains('@') {
        return Err(Complaint::new("has a user", "send a header instead: headers: { authorization: \"${TOKEN}\" }"));
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok(Url { tls, host: authority.as_str().to_owned(), path: path.to_owned() })
}

/// The host of such a URL.
fn host_of_url(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default().to_owned()
}

/// The path of a URL in which variables are hidden: what is hidden may be no part of a URL.
fn path_of_url(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').map_or_else(|| "/".to_owned(), |at| rest[at..].to_owned())
}

fn headers(section: &Section<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut found = Vec::new();
    for (name, text) in section.named_texts() {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            let complaint = Complaint::new("cannot be the name of a header", "use letters, digits and hyphens");
            section.complain(name, complaint);
            continue;
        };
        let taken = [http::header::HOST, http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING];
        let Ok(mut value) = HeaderValue::from_str(&text) else {
            section.complain(name.as_str(), Complaint::new("cannot be a header", "write it on one line"));
            continue;
        };
        if taken.contains(&name) {
            section.complain(name.as_str(), Complaint::new("is not set here", "for Host set host_header"));
            continue;
        }
        // Tokens travel in headers: none shows in a log.
        value.set_sensitive(true);
        found.push((name, value));
    }
    found
}

fn host_header(text: &str) -> Result<String, Complaint> {
    text.parse::<http::uri::Authority>()
        .map(|authority| authority.as_str().to_owned())
        .map_err(|_| Complaint::new(format!("`{text}` is not a host"), "write it as app.example.com"))
}

fn method(text: &str) -> Result<Method, Complaint> {
    let wrong = || Complaint::new(format!("`{text}` is not a method"), "write GET, HEAD, POST or OPTIONS");
    let method = Method::from_bytes(text.to_ascii_uppercase().as_bytes()).map_err(|_| wrong())?;
    if method == Method::CONNECT { Err(wrong()) } else { Ok(method) }
}

/// `204`, `200-299`, or `2xx`.
fn status(text: &str) -> Result<StatusRange, Complaint> {
    if let Some(hundreds) = text.strip_suffix("xx") {
        let first = number(hundreds, &(1..=5))? * 100;
        return Ok(StatusRange { first, last: first + 99 });
    }
    let Some((first, last)) = text.split_once('-') else {
        let status = number(text, &(100..=599))?;
        return Ok(StatusRange { first: status, last: status });
    };
    let range = StatusRange { first: number(first.trim(), &(100..=599))?, last: number(last.trim(), &(100..=599))? };
    if range.last < range.first {
        return Err(Complaint::new(
            format!("`{text}` has no status in it"),
            "write the lower one first, as in 200-299",
        ));
    }
    Ok(range)
}

fn path(text: &str) -> Result<String, Complaint> {
    let legal = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic());
    if legal && text.parse::<Uri>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(Complaint::new(format!("`{text}` is not a path"), "write it with its slash, such as /health"))
}
