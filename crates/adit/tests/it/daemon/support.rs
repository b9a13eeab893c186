//! A directory, a service in it, and a daemon.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use testkit::origin::HttpOrigin;
use testkit::raw;
use testkit::sshd::Sshd;

use crate::support::{DEADLINE, adit, eventually, report};

/// A place for a daemon; whatever daemon runs there ends with this.
pub(crate) struct Place {
    pub(crate) home: TempDir,
    pub(crate) origin: HttpOrigin,
}

impl Place {
    pub(crate) async fn new() -> Self {
        Self { home: tempfile::tempdir().expect("a directory"), origin: HttpOrigin::start().await.expect("a service") }
    }

    /// Writes adit.yaml: what comes after the version.
    pub(crate) fn write(&self, yaml: &str) {
        std::fs::write(self.home.path().join("adit.yaml"), format!("version: 1\n{yaml}")).expect("it can be written");
    }

    /// A forward in the file to the service here, on a port.
    pub(crate) fn forward(&self, name: &str, port: u16, more: &str) -> String {
        format!("  {name}: {{ to: \"tcp://{}\", listen: {port}{more} }}\n", self.origin.addr())
    }

    /// A forward to the service here by an SSH server, on a port that is free.
    pub(crate) fn ssh_forward(&self, name: &str, sshd: &Sshd, more: &str) -> String {
        let (server, port) = (ssh_server(sshd), self.origin.addr().port());
        format!("  {name}: {{ listen: 0{more}, to: {{ ssh: {{ host: 127.0.0.1, port: {port}, {server} }} }} }}\n")
    }

    /// Where its socket is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("state/adit/run/control.sock")
    }

    /// Its log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("state/adit/logs/daemon.log")).unwrap_or_default()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = adit(self.home.path());
        command.args(arguments).env_remove("XDG_RUNTIME_DIR").env_remove("RUNTIME_DIRECTORY");
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("adit runs")
    }

    /// The same, which must succeed; its output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}\n{}", self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The same, as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["-o", "json"];
        all.extend(arguments);
        let text = self.ok(&all);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The same, which must fail; exit code and what it said.
    pub(crate) fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Starts the daemon; its process id.
    pub(crate) fn start(&self) -> u32 {
        let answer = self.json(&["daemon", "start"]);
        answer["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
    }

    /// Every process that is a daemon of this place, or about to be one.
    pub(crate) fn daemons(&self) -> Vec<u32> {
        let home = self.home.path().to_string_lossy().into_owned();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_daemon = |pid: &u32| {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments).into_owned();
            arguments.contains(&home) && arguments.contains("\0daemon\0run\0")
        };
        pids.filter(is_daemon).filter(|pid| is_alive(*pid)).collect()
    }

    /// What `adit status` says of a forward.
    pub(crate) fn status(&self, name: &str) -> Value {
        self.json(&["status", name])["services"][0].clone()
    }

    /// Where a forward listens.
    pub(crate) fn entrance(&self, name: &str) -> SocketAddr {
        let status = self.status(name);
        let text = status["entrances"][0].as_str().unwrap_or_else(|| panic!("no entrance: {status}"));
        text.parse().expect("an address")
    }

    /// Waits until the log has this text.
    pub(crate) async fn logged(&self, text: &str) {
        let found = || async { self.log().contains(text).then_some(()) };
        eventually(DEADLINE, &format!("`{text}` in the log"), found).await;
    }
}

/// An SSH server as the file has it: the fields of a map.
pub(crate) fn ssh_server(sshd: &Sshd) -> String {
    let config = sshd.path("ssh_config");
    std::fs::write(&config, "Host *\n  IdentityAgent none\n").expect("it can be written");
    let (key, known) = (sshd.key(), sshd.known_hosts());
    let files = format!("key: {}, known_hosts: {}, config: {}", key.display(), known.display(), config.display());
    format!("server: \"{}@{}\", {files}", sshd.user(), sshd.addr())
}

/// A request through a forward; the status.
pub(crate) async fn get(port: SocketAddr) -> Option<u16> {
    raw::get(port, "localhost", "/").await.ok().map(|answer| answer.status)
}

/// Whether a process of this id is there.
pub(crate) fn is_alive(pid: u32) -> bool {
    // A process that has ended and that nobody waited for is none any more.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            report("adit daemon", &self.log());
        }
        // None runs in many tests: fine.
        let _ = self.run(&["daemon", "stop"]);
    }
}
