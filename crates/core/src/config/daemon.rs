//! The section `daemon` of `adit.yaml`: how the daemon is reached beside its socket, and how it ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Complaint, Section, listen_address, loopback_address};
use super::unit::parse_duration;
use crate::shutdown::PhaseTimes;

/// The longest that a phase of the end may be: a service manager would kill the process long before.
const PHASE_MAX: Duration = Duration::from_secs(60 * 60);

/// What holds for the daemon itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DaemonConfig {
    /// The loopback address of the API, beside the control socket; `None` is the socket only.
    pub listen: Option<SocketAddr>,
    /// The file with the token that the API there asks for; `None` is one that the daemon makes.
    pub token_file: Option<PathBuf>,
    /// The loopback address of the metrics, which needs no token.
    pub metrics: Option<SocketAddr>,
    /// How long each phase of the end may take.
    pub shutdown: PhaseTimes,
    /// Whether what happens to forwards is shown on the desktop.
    pub notify: bool,
}

pub(super) fn read(section: Section<'_>) -> DaemonConfig {
    let config = DaemonConfig {
        listen: section.get("listen", api_address),
        token_file: section.path("token_file"),
        metrics: section.get("metrics", loopback_address),
        shutdown: phases(section.section("shutdown")),
        notify: section.boolean("notify").unwrap_or(false),
    };
    // A token in the file itself would end in backups and repositories: rule S6.
    if section.has("token") {
        let complaint = Complaint::new(
            "a token must not stand in this file",
            "put it into a file of its own and set token_file, or leave both out: the daemon makes one",
        );
        section.complain("token", complaint);
    }
    section.finish();
    config
}

/// There is no TLS: whoever could listen in between would have the token.
fn api_address(text: &str) -> Result<SocketAddr, Complaint> {
    let address = listen_address(text, std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))?;
    if address.ip().to_canonical().is_loopback() {
        return Ok(address);
    }
    Err(Complaint::new(
        format!("{address} can be reached from other machines"),
        format!("use 127.0.0.1:{}; the API has no TLS, and it starts and stops what it likes", address.port()),
    ))
}

/// The lengths of the phases of an end: of the daemon's, and of a tunnel server's.
pub(super) fn phases(section: Section<'_>) -> PhaseTimes {
    let default = PhaseTimes::default();
    let time = |key, default| section.get(key, phase).unwrap_or(default);
    let times = PhaseTimes {
        accept: time("accept", default.accept),
        drain: time("drain", default.drain),
        cancel: time("cancel", default.cancel),
        abort: time("abort", default.abort),
    };
    section.finish();
    times
}

fn phase(text: &str) -> Result<Duration, Complaint> {
    let time = parse_duration(text)?;
    if time > PHASE_MAX {
        return Err(Complaint::new(format!("{text} is too long for a phase of the end"), "write at most 1h"));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AgentFile, Problems};

    fn section(body: &str) -> Result<DaemonConfig, Problems> {
        let env = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
        AgentFile::parse("dir/adit.yaml", &format!("daemon: {{ {body} }}"), &env).map(|file| file.daemon)
    }

    fn problem(body: &str) -> String {
        section(body).unwrap_err().to_string()
    }

    #[test]
    fn every_key_is_read() {
        let config = section(
            "listen: 9797, token_file: ~/t, metrics: '[::1]:9464', notify: yes, \
             shutdown: { accept: 1s, drain: 0, cancel: 1m, abort: 300ms }",
        )
        .unwrap();
        assert_eq!(config.listen, Some("127.0.0.1:9797".parse().unwrap()));
        assert_eq!(config.token_file.as_deref(), Some(std::path::Path::new("/home/me/t")));
        assert_eq!(config.metrics, Some("[::1]:9464".parse().unwrap()));
        assert!(config.notify);
        let times = [1000, 0, 60_000, 300].map(Duration::from_millis);
        let found = config.shutdown;
        assert_eq!([found.accept, found.drain, found.cancel, found.abort], times);
    }

    #[test]
    fn without_the_section_there_is_the_socket_only() {
        assert_eq!(section("").unwrap(), DaemonConfig::default());
        assert_eq!(DaemonConfig::default().listen, None);
        assert_eq!(DaemonConfig::default().shutdown, PhaseTimes::default());
    }

    #[test]
    fn s13_only_a_loopback_address_is_taken() {
        for address in ["0.0.0.0:9797", "'*:9797'", "192.168.1.2:9797", "'[::]:9797'"] {
            for key in ["listen", "metrics"] {
                let text = problem(&format!("{key}: {address}"));
                assert!(
                    text.contains("can be reached from other machines") && text.contains("127.0.0.1:9797"),
                    "{text}"
                );
            }
        }
        assert!(section("listen: '[::ffff:127.0.0.1]:1'").is_ok());
    }

    #[test]
    fn s6_a_token_never_stands_in_the_file() {
        let text = problem("token: adit_x");
        assert!(text.contains("must not stand in this file") && text.contains("token_file"), "{text}");
        assert!(!text.contains("adit_x"), "{text}");
    }

    #[test]
    fn a_phase_has_bounds_and_a_mistyped_key_is_told() {
        assert!(problem("shutdown: { drain: 2h }").contains("write at most 1h"));
        assert!(problem("shutdown: { drian: 2s }").contains("did you mean `drain`?"));
        assert!(problem("listn: 1").contains("did you mean `listen`?"));
    }

    #[test]
    fn the_phases_of_a_tunnel_server_have_the_same_bound() {
        let parse = |text: &str| crate::config::ServerConfig::parse("server.yaml", text, &|_| None);
        for phase in ["accept", "drain", "cancel", "abort"] {
            let told = parse(&format!("shutdown: {{ {phase}: 61m }}")).unwrap_err().to_string();
            assert!(told.contains(&format!("shutdown.{phase}")) && told.contains("write at most 1h"), "{told}");
        }
        assert_eq!(parse("shutdown: { drain: 1h }").unwrap().shutdown.drain, PHASE_MAX);
    }

    #[test]
    fn two_listeners_on_one_port_are_told() {
        let text = problem("listen: 9797, metrics: 9797");
        assert!(text.contains("is taken by daemon.listen"), "{text}");
    }
}
