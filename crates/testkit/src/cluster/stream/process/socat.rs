//! `socat`: two addresses, one of which is stdin and stdout.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::Process;
use super::dial::{self, Unreachable};

/// How long the other direction may be quiet after one has ended, unless `-t` says otherwise.
const QUIET: Duration = Duration::from_millis(500);
/// In front of every line, as socat writes them.
const STAMP: &str = "2026/01/01 00:00:00 socat[7]";

pub(super) async fn run(process: &Process, args: &[String]) -> u8 {
    if args.first().is_some_and(|arg| arg == "-V") {
        let text = "socat by Gerhard Rieger and contributors - see www.dest-unreach.org\nsocat version 1.8.0.3\n";
        return process.say(text).await;
    }
    let mut quiet = QUIET;
    let mut warns = false;
    let mut addresses = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-t" => quiet = seconds(args.next().map_or("", String::as_str)).unwrap_or(QUIET),
            "-d" => warns = true,
            "-b" | "-T" | "-lf" => {
                args.next();
            }
            short if short.starts_with("-t") => quiet = seconds(&short[2..]).unwrap_or(QUIET),
            option if option.len() > 1 && option.starts_with('-') => {}
            address => addresses.push(address),
        }
    }
    let [first, second] = addresses[..] else {
        let text = format!("{STAMP} E exactly 2 addresses required (there are {})\n", addresses.len());
        return process.complain(&text).await;
    };
    let stdio = |address: &str| {
        let kind = address.split(',').next().unwrap_or_default();
        kind == "-" || kind.eq_ignore_ascii_case("stdio")
    };
    let (local, remote) = if stdio(first) { (first, second) } else { (second, first) };
    let ends = Ends { quiet, closes: local.split(',').any(|option| option == "shut-close"), warns };
    let Some((host, port, options)) = parse(remote) else {
        return process.complain(&format!("{STAMP} E unknown device/address \"{remote}\"\n")).await;
    };
    let wait = options.iter().find_map(|option| option.strip_prefix("connect-timeout=")).and_then(seconds);
    match dial::connect(process, host, port, wait).await {
        Ok(socket) => copy(process, &socket, &ends).await,
        Err(why) => process.complain(&refusal(why, host, port)).await,
    }
}

/// What becomes of the other direction when one has ended.
struct Ends {
    quiet: Duration,
    /// stdout is closed at once (`shut-close`); without it, it stays open until socat ends.
    closes: bool,
    /// Warnings are written too.
    warns: bool,
}

async fn copy(process: &Process, socket: &std::sync::Arc<tokio::net::TcpStream>, ends: &Ends) -> u8 {
    let mut first = tokio::select! {
        up = dial::up(process, socket) => up.map(|()| true),
        down = dial::down(process, socket, None) => down.map(|()| false),
    };
    if first.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset) {
        // A reset is an end of file with a warning.
        if ends.warns {
            process.complain(&format!("{STAMP} W read(5, 0x7f0000000000, 8192): Connection reset by peer\n")).await;
        }
        first = Ok(false);
    }
    let ended = match first {
        Ok(true) => {
            dial::half_close(socket);
            dial::down(process, socket, Some(ends.quiet)).await
        }
        Ok(false) => {
            if ends.closes {
                process.console.end_stdout();
            }
            timeout(ends.quiet, dial::up(process, socket)).await.unwrap_or(Ok(()))
        }
        Err(error) => Err(error),
    };
    u8::from(ended.is_err())
}

/// `TCP:host:port,options` and its relatives.
fn parse(address: &str) -> Option<(&str, u16, Vec<&str>)> {
    let (kind, rest) = address.split_once(':')?;
    let kinds = ["tcp", "tcp4", "tcp6", "tcp-connect", "tcp4-connect", "tcp6-connect"];
    kinds.iter().find(|known| known.eq_ignore_ascii_case(kind))?;
    let mut parts = rest.split(',');
    let (host, port) = parts.next()?.rsplit_once(':')?;
    Some((host, port.parse().ok()?, parts.collect()))
}

fn seconds(text: &str) -> Option<Duration> {
    text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

fn refusal(why: Unreachable, host: &str, port: u16) -> String {
    match why.reason() {
        Some((IpAddr::V4(ip), words)) => format!("{STAMP} E connect(5, AF=2 {ip}:{port}, 16): {words}\n"),
        Some((IpAddr::V6(ip), words)) => {
            let full: Vec<String> = ip.segments().iter().map(|segment| format!("{segment:04x}")).collect();
            format!("{STAMP} E connect(5, AF=10 [{}]:{port}, 28): {words}\n", full.join(":"))
        }
        None => format!("{STAMP} E getaddrinfo({host:?}, \"NULL\", {{1,0,1,6}}, {{}}): Name or service not known\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn an_address_is_taken_apart() {
        assert_eq!(parse("TCP:db:5432,connect-timeout=5"), Some(("db", 5432, vec!["connect-timeout=5"])));
        assert_eq!(parse("tcp6:[::1]:80"), Some(("[::1]", 80, vec![])));
        assert_eq!(parse("UNIX:/tmp/x"), None);
        assert_eq!(parse("TCP:db"), None);
    }
}
