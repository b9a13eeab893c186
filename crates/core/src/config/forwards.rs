//! The sections `defaults` and `forwards` of `adit.yaml`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::destination::{self, JumpSettings};
use super::reader::{Complaint, Section, listen_address};
use super::unit::parse_duration;
use crate::backoff::BackoffSettings;
use crate::forward::Start;
use crate::target::Target;

mod health;
mod limits;
mod restart;

pub use health::{
    Credentials, ExecProbe, GrpcProbe, HealthConfig, HealthProbe, HttpProbe, KafkaProbe, PostgresProbe, ProbeText,
    ProbeTls, RedisProbe, SaslMechanism, SslMode, StatusRange,
};
pub use limits::LimitsConfig;
pub use restart::RestartConfig;

/// After how long without use a forward that was started on demand ends.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// The longest name of a forward, as in `forward:NAME`.
const NAME_MAX: usize = 63;

/// What holds for all forwards that say nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// After how long without use a forward that was started on demand ends; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// How forwards are probed, if at all.
    pub health: Option<HealthConfig>,
    /// How trouble is answered.
    pub restart: RestartConfig,
    /// What each forward carries at most.
    pub limits: LimitsConfig,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            idle_timeout: Some(IDLE_TIMEOUT),
            health: None,
            restart: RestartConfig::default(),
            limits: LimitsConfig::default(),
        }
    }
}

/// One forward.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardConfig {
    /// Its key in the file.
    pub name: String,
    /// Whether it takes part at all.
    pub enabled: bool,
    /// What it is for, for people.
    pub description: Option<String>,
    /// Where it leads.
    pub to: Target,
    /// How a jump is made, when `to` is one and says more than a URL.
    pub jump: Option<JumpSettings>,
    /// The local addresses on which it is reached; none is through the gateway or by `forward:NAME` only. Port 0 is
    /// any free port.
    pub listen: Vec<SocketAddr>,
    /// When it starts.
    pub start: Start,
    /// After how long without use it ends, when it was started on demand; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// By what it can be chosen together with others.
    pub tags: Vec<String>,
    /// Whether connections are spread over all ready pods.
    pub balance: bool,
    /// How trouble is answered, as it was written.
    pub restart: RestartConfig,
    /// The same for the machine.
    pub backoff: BackoffSettings,
    /// How it is probed, if at all.
    pub health: Option<HealthConfig>,
    /// What it carries at most.
    pub limits: LimitsConfig,
}

impl ForwardConfig {
    /// A forward with nothing but what it needs.
    #[must_use]
    pub fn new(name: impl Into<String>, to: Target) -> Self {
        let restart = RestartConfig::default();
        Self {
            name: name.into(),
            enabled: true,
            description: None,
            to,
            jump: None,
            listen: Vec::new(),
            start: Start::OnDemand,
            idle_timeout: Some(IDLE_TIMEOUT),
            tags: Vec::new(),
            balance: false,
            backoff: restart.backoff(),
            restart,
            health: None,
            limits: LimitsConfig::default(),
        }
    }
}

pub(super) fn defaults(section: Section<'_>) -> Defaults {
    let base = Defaults::default();
    let found = Defaults {
        idle_timeout: section.get("idle_timeout", idle_timeout).unwrap_or(base.idle_timeout),
        health: health::read(&section, None),
        restart: restart::read(section.section("restart"), &base.restart),
        limits: limits::read(section.section("limits"), base.limits),
    };
    section.finish();
    found
}

pub(super) fn forwards(section: &Section<'_>, defaults: &Defaults) -> Vec<ForwardConfig> {
    let read = |(name, entry): (&str, Section<'_>)| forward(name, entry, defaults);
    section.named_sections().into_iter().filter_map(read).collect()
}

/// `0` and `off` are never.
pub(super) fn idle_timeout(text: &str) -> Result<Option<Duration>, Complaint> {
    if ["off", "never"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return Ok(None);
    }
    let wait = parse_duration(text)?;
    Ok((!wait.is_zero()).then_some(wait))
}

fn forward(name: &str, section: Section<'_>, defaults: &Defaults) -> Option<ForwardConfig> {
    if let Err(complaint) = check_name(name) {
        section.complain_here(complaint);
    }
    let hint = "say where it leads, such as k8s://CONTEXT/NAMESPACE/service/NAME:PORT";
    let to = destination::destination(&section, true, hint);
    let restart = restart::read(section.section("restart"), &defaults.restart);
    let limits = limits::read(section.section("limits"), defaults.limits);
    let listen = section.list("listen", |text| listen_address(text, IpAddr::V4(Ipv4Addr::LOCALHOST)));
    let start = section.word("start", &[("on-demand", Start::OnDemand), ("always", Start::Always)]);
    let found = to.map(|to| ForwardConfig {
        name: name.to_owned(),
        enabled: section.boolean("enabled").unwrap_or(true),
        description: section.text("description"),
        to: to.target,
        jump: to.jump,
        listen: listen.unwrap_or_default(),
        start: start.unwrap_or_default(),
        idle_timeout: section.get("idle_timeout", idle_timeout).unwrap_or(defaults.idle_timeout),
        tags: section.list("tags", tag).unwrap_or_default(),
        balance: section.boolean("balance").unwrap_or(false),
        backoff: restart.backoff(),
        restart,
        health: health::read(&section, defaults.health.as_ref()),
        limits,
    });
    if found.is_none() {
        // What else is wrong is reported all the same.
        section.boolean("enabled");
        section.text("description");
        section.get("idle_timeout", idle_timeout);
        section.list("tags", tag);
        section.boolean("balance");
        health::read(&section, defaults.health.as_ref());
    }
    section.finish();
    found
}

/// As `forward:NAME` takes it, so that each forward can be referred to.
fn check_name(name: &str) -> Result<(), Complaint> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts_well && name.len() <= NAME_MAX && name.bytes().all(legal) {
        return Ok(());
    }
    Err(Complaint::new(
        format!("`{name}` cannot be the name of a forward"),
        "use up to 63 letters, digits, hyphens, underscores and dots",
    ))
}

fn tag(text: &str) -> Result<String, Complaint> {
    let legal = |c: char| !c.is_whitespace() && !c.is_control() && c != ',';
    if text.is_empty() || !text.chars().all(legal) {
        return Err(Complaint::new(format!("`{text}` cannot be a tag"), "write one word, such as database"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
