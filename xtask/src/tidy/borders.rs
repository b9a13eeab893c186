//! The borders between crates: who may depend on whom, and what each crate must not name.
//!
//! Clippy bans single methods where it sees them. These checks ban whole subjects, and they hold
//! for a crate from its first line.

use std::path::Path;

use super::Finding;
use super::files::File;
use super::manifest::{self, Kind};
use super::shape::is_test_path;
use super::source::Source;

/// The crates that hold rules only. Time, randomness, bytes and the environment come in.
const PURE: [&str; 3] = ["mux", "spdy", "core"];

/// Our crates, and which of ours each may depend on. `testkit` is for tests, so it is no one's
/// normal dependency and has none of ours, or test builds would run in circles.
const ARROWS: [(&str, &[&str]); 10] = [
    ("mux", &[]),
    ("spdy", &[]),
    ("core", &[]),
    ("runtime", &["adit-core"]),
    ("forward", &["adit-core", "runtime", "spdy"]),
    ("tunnel", &["adit-core", "runtime", "mux"]),
    ("gateway", &["adit-core", "runtime", "forward"]),
    ("monitor", &["adit-core", "runtime"]),
    ("adit", &["adit-core", "runtime", "mux", "forward", "gateway", "tunnel", "monitor"]),
    ("testkit", &[]),
];

/// Our crates by the names manifests use.
const OURS: [&str; 10] =
    ["adit-core", "mux", "spdy", "runtime", "forward", "gateway", "tunnel", "monitor", "adit", "testkit"];

/// Crates that a pure crate must not depend on, by the start of their names.
const IMPURE: [&str; 14] = [
    "tokio",
    "hyper",
    "mio",
    "async-",
    "socket2",
    "rustix",
    "libc",
    "nix",
    "rand",
    "getrandom",
    "notify",
    "rustls",
    "tracing",
    "futures-executor",
];

/// Crates that speak to a cluster or over SSH: the `forward` crate's business alone.
const TARGETS: [&str; 4] = ["kube", "k8s-openapi", "russh", "ssh"];

/// A word that must not stand in some crates.
struct Ban {
    word: &'static str,
    applies: fn(krate: &str, path: &Path) -> bool,
    why: &'static str,
}

const PURE_WHY: &str = "a pure crate: it comes in as an argument";

const BANS: &[Ban] = &[
    pure("tokio"),
    pure("TcpStream"),
    pure("TcpListener"),
    pure("UdpSocket"),
    pure("ToSocketAddrs"),
    pure("std::fs"),
    pure("std::env"),
    pure("std::process"),
    pure("std::thread"),
    pure("Instant::now"),
    pure("SystemTime::now"),
    tunnel("kube"),
    tunnel("k8s_openapi"),
    tunnel("russh"),
    quiet("println!"),
    quiet("eprintln!"),
    quiet("print!"),
    quiet("eprint!"),
    quiet("process::exit"),
    quiet("env::args"),
    spawning("tokio::spawn"),
    spawning("task::spawn"),
    spawning("spawn_local"),
    spawning("JoinSet"),
    Ban { word: "unsafe", applies: |krate, _| krate != "monitor", why: "only the monitor may use it" },
];

const fn pure(word: &'static str) -> Ban {
    Ban { word, applies: |krate, _| PURE.contains(&krate), why: PURE_WHY }
}

const fn tunnel(word: &'static str) -> Ban {
    Ban { word, applies: |krate, _| krate == "tunnel", why: "an agent publishes whatever `Connect` it is given" }
}

const fn quiet(word: &'static str) -> Ban {
    Ban {
        word,
        applies: |krate, path| krate != "adit" && !is_test_program(krate, path) && !path.ends_with("build.rs"),
        why: "only the binary prints, reads arguments or exits",
    }
}

const fn spawning(word: &'static str) -> Ban {
    Ban { word, applies: |krate, _| krate != "runtime" && krate != "testkit", why: "spawn through `runtime::Scope`" }
}

/// The programs that come with testkit, such as the bench, talk to a person too.
fn is_test_program(krate: &str, path: &Path) -> bool {
    let in_bin = path.components().any(|part| part.as_os_str() == "bin");
    let is_bench = path.components().any(|part| part.as_os_str() == "bench");
    krate == "testkit" && (in_bin || is_bench)
}

/// Reports banned words in a crate's sources. Test code may do what it needs.
pub(super) fn check_source(path: &Path, source: &Source, found: &mut Vec<Finding>) {
    let Some(krate) = crate_of(path) else { return };
    if is_test_path(path) {
        return;
    }
    let tests = source.test_ranges();
    let in_tests = |at: usize| tests.iter().any(|(from, to)| (*from..=*to).contains(&at));
    for ban in BANS.iter().filter(|ban| (ban.applies)(krate, path)) {
        for at in source.find_word(ban.word).filter(|at| !in_tests(*at)) {
            let text = format!("`{}` in {krate}: {}", ban.word, ban.why);
            found.push(Finding::new(path, source.line_of(at), text));
        }
    }
}

/// Reports dependencies that cross a border.
pub(super) fn check_manifest(file: &File, found: &mut Vec<Finding>) {
    let (Some(krate), Some(text)) = (crate_of(&file.path), file.text()) else {
        return;
    };
    if file.path.file_name().is_none_or(|name| name != "Cargo.toml") {
        return;
    }
    for dependency in manifest::dependencies(text) {
        if let Some(why) = crosses_border(krate, &dependency.name, dependency.kind) {
            let text = format!("{krate} must not depend on {}: {why}", dependency.name);
            found.push(Finding::new(&file.path, dependency.line, text));
        }
    }
}

fn crosses_border(krate: &str, dependency: &str, kind: Kind) -> Option<&'static str> {
    if OURS.contains(&dependency) {
        let arrows = ARROWS.iter().find(|(name, _)| *name == krate)?;
        let as_test = kind == Kind::Dev && krate != "testkit";
        let allowed = as_test || arrows.1.contains(&dependency);
        return (!allowed).then_some("arrows point down only, see ARCHITECTURE.md");
    }
    if kind == Kind::Dev {
        return None;
    }
    if PURE.contains(&krate) && IMPURE.iter().any(|start| dependency.starts_with(start)) {
        return Some("it is a pure crate");
    }
    if krate != "forward" && TARGETS.iter().any(|start| dependency.starts_with(start)) {
        return Some("only `forward` sees Kubernetes and SSH types");
    }
    None
}

/// The crate a path belongs to: the directory under `crates`.
fn crate_of(path: &Path) -> Option<&str> {
    let mut parts = path.components().map(|part| part.as_os_str().to_str());
    (parts.next()?? == "crates").then_some(())?;
    parts.next()?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_source(path: &str, raw: &str) -> Vec<String> {
        let mut found = Vec::new();
        check_source(Path::new(path), &Source::new(raw), &mut found);
        found.iter().map(ToString::to_string).collect()
    }

    fn in_manifest(path: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let file = File { path: path.into(), bytes: text.as_bytes().to_vec() };
        check_manifest(&file, &mut found);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pure_crate_has_no_clock_sockets_files_or_tasks() {
        for word in [
            "Instant::now()",
            "std::time::SystemTime::now()",
            "tokio::time::sleep(d)",
            "std::fs::read(p)",
            "std::net::TcpStream::connect(a)",
        ] {
            let raw = format!("fn f() {{ {word}; }}");
            assert_eq!(in_source("crates/core/src/a.rs", &raw).len(), 1, "{word}");
            let elsewhere = in_source("crates/adit/src/a.rs", &raw);
            assert!(elsewhere.is_empty(), "{elsewhere:?}");
        }
    }

    #[test]
    fn addresses_and_durations_are_no_sockets_and_clocks() {
        let raw = "use std::net::IpAddr;\nuse std::time::{Duration, Instant};\n";
        assert!(in_source("crates/core/src/a.rs", raw).is_empty());
    }

    #[test]
    fn tests_may_look_at_the_clock() {
        let raw = "#[cfg(test)]\nmod tests { fn f() { Instant::now(); } }\nfn g() {}\n";
        assert!(in_source("crates/mux/src/a.rs", raw).is_empty());
        assert!(in_source("crates/mux/src/tests.rs", "fn f() { Instant::now(); }").is_empty());
    }

    #[test]
    fn only_the_binary_prints_and_exits() {
        let raw = "fn f() { println!(); std::process::exit(1); }";
        assert_eq!(in_source("crates/tunnel/src/a.rs", raw).len(), 2);
        assert!(in_source("crates/adit/src/a.rs", raw).is_empty());
        assert!(in_source("crates/testkit/src/bin/bench.rs", raw).is_empty());
    }

    #[test]
    fn only_runtime_spawns() {
        let raw = "fn f() { tokio::spawn(x); tokio::task::spawn_blocking(y); }";
        assert_eq!(in_source("crates/tunnel/src/a.rs", raw).len(), 1);
        assert!(in_source("crates/runtime/src/scope.rs", raw).is_empty());
    }

    #[test]
    fn a_build_script_speaks_to_cargo() {
        assert!(in_source("crates/monitor/build.rs", "fn main() { println!(); }").is_empty());
        assert_eq!(in_source("crates/monitor/src/a.rs", "fn main() { println!(); }").len(), 1);
    }

    #[test]
    fn unsafe_is_found_as_a_word() {
        assert!(in_source("crates/monitor/src/a.rs", "unsafe { f() }").is_empty());
        assert_eq!(in_source("crates/adit/src/a.rs", "unsafe { f() }").len(), 1);
        assert!(in_source("crates/adit/src/a.rs", "#![deny(unsafe_code)]").is_empty());
    }

    #[test]
    fn arrows_point_down_only() {
        let up = "[dependencies]\ntunnel.workspace = true\n";
        assert_eq!(
            in_manifest("crates/runtime/Cargo.toml", up),
            [
                "crates/runtime/Cargo.toml:2: runtime must not depend on tunnel: arrows point down only, see ARCHITECTURE.md"
            ]
        );
        assert!(in_manifest("crates/adit/Cargo.toml", up).is_empty());
        assert_eq!(in_manifest("crates/testkit/Cargo.toml", "[dev-dependencies]\nmux = \"0\"\n").len(), 1);
        assert!(in_manifest("crates/mux/Cargo.toml", "[dev-dependencies]\ntestkit = \"0\"\n").is_empty());
    }

    #[test]
    fn pure_crates_and_the_tunnel_keep_their_distance() {
        let tokio = "[dependencies]\ntokio-util = \"1\"\n";
        assert_eq!(in_manifest("crates/mux/Cargo.toml", tokio).len(), 1);
        assert!(in_manifest("crates/tunnel/Cargo.toml", tokio).is_empty());
        let kube = "[dependencies]\nkube = \"5\"\n";
        assert_eq!(in_manifest("crates/tunnel/Cargo.toml", kube).len(), 1);
    }

    #[test]
    fn files_outside_the_crates_have_no_border() {
        assert_eq!(crate_of(Path::new("xtask/src/main.rs")), None);
        assert_eq!(crate_of(Path::new("crates/mux/src/lib.rs")), Some("mux"));
    }
}
