//! What is done to a store, and how it went.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use runtime::tls::authority::CertificateFacts;
use serde_json::json;

use super::places::Places;

/// Into the stores, or out of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Install,
    Remove,
}

/// What every store is asked to do.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) places: &'a Places,
    /// The certificate's file.
    pub(super) certificate: &'a Path,
    /// What it says; none in a dry run without an authority.
    pub(super) facts: Option<&'a CertificateFacts>,
    pub(super) action: Action,
    pub(super) dry_run: bool,
}

impl Job<'_> {
    /// The name the certificate has in stores that know names.
    pub(super) fn nickname(&self) -> &str {
        self.facts.map_or("adit local CA", |facts| &facts.common_name)
    }

    /// Whether it is the very certificate.
    pub(super) fn is_it(&self, found: &CertificateFacts) -> bool {
        self.facts.is_some_and(|facts| facts.fingerprint == found.fingerprint)
    }

    /// Whether it is the certificate or an earlier one of the same authority.
    pub(super) fn is_ours(&self, found: &CertificateFacts) -> bool {
        self.is_it(found) || self.facts.is_some_and(|facts| facts.common_name == found.common_name && found.authority)
    }

    /// Runs steps one after the other, or says which would be run.
    pub(super) fn carry_out(&self, outcome: Outcome, steps: Vec<Step>) -> Outcome {
        if self.dry_run {
            return Outcome { verdict: Verdict::WouldBeDone, commands: steps, ..outcome };
        }
        let locked_out = |step: &Step| step.privileged && !self.places.privileged;
        if steps.iter().any(locked_out) && !(self.places.interactive && self.places.system_tool("sudo").is_some()) {
            let detail = "root's rights are needed; run:".to_owned();
            return Outcome { verdict: Verdict::NotPermitted, detail, commands: steps, ..outcome };
        }
        for (at, step) in steps.iter().enumerate() {
            if let Err(Refusal { verdict, detail }) = step.run(self.places) {
                return Outcome { verdict, detail, commands: steps[at..].to_vec(), ..outcome };
            }
        }
        Outcome { verdict: Verdict::Done, ..outcome }
    }
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Changed as asked.
    Done,
    /// Nothing to change.
    Already,
    /// There is no such store.
    NoStore,
    /// This is a dry run.
    WouldBeDone,
    /// The rights are missing.
    NotPermitted,
    /// A program is missing.
    ToolMissing,
    /// It did not work.
    Failed,
    /// Stores that adit does not touch.
    LeftAlone,
}

/// What became of one store.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) store: &'static str,
    /// The file or directory.
    pub(super) place: String,
    pub(super) action: Action,
    pub(super) verdict: Verdict,
    /// Why, or what to do.
    pub(super) detail: String,
    /// What would have to be run.
    pub(super) commands: Vec<Step>,
}

impl Outcome {
    pub(super) fn new(store: &'static str, place: String, action: Action, verdict: Verdict) -> Self {
        Self { store, place, action, verdict, detail: String::new(), commands: Vec::new() }
    }

    pub(super) fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    fn word(&self) -> &'static str {
        match (self.verdict, self.action) {
            (Verdict::Done, Action::Install) => "trusted",
            (Verdict::Done, Action::Remove) => "removed",
            (Verdict::Already, Action::Install) => "trusted already",
            (Verdict::Already, Action::Remove) => "not there",
            (Verdict::NoStore, _) => "no store",
            (Verdict::WouldBeDone, Action::Install) => "would be trusted",
            (Verdict::WouldBeDone, Action::Remove) => "would be removed",
            (Verdict::NotPermitted, _) => "not permitted",
            (Verdict::ToolMissing, _) => "not done",
            (Verdict::Failed, _) => "failed",
            (Verdict::LeftAlone, _) => "left alone",
        }
    }

    pub(super) fn summary(&self) -> String {
        let parts = [self.place.as_str(), self.detail.as_str()];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        format!("{}: {}", self.word(), parts.join("; "))
    }

    pub(super) fn json(&self) -> serde_json::Value {
        json!({
            "store": self.store,
            "place": self.place,
            "result": self.word().replace(' ', "_"),
            "detail": self.detail,
            "commands": self.commands.iter().map(Step::vector).collect::<Vec<_>>(),
        })
    }
}

/// Stores that adit does not touch, and what to do about them.
pub(super) fn left_alone(job: &Job<'_>) -> Vec<Outcome> {
    if job.action == Action::Remove {
        return Vec::new();
    }
    let file = quoted(job.certificate.as_os_str());
    let outcome =
        |store, detail: String| Outcome::new(store, String::new(), job.action, Verdict::LeftAlone).with_detail(detail);
    vec![
        outcome("java", format!("keytool -importcert -cacerts -alias adit-local-ca -file {file}")),
        outcome("node", format!("export NODE_EXTRA_CA_CERTS={file}")),
    ]
}

/// A command, as an argument vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    program: PathBuf,
    arguments: Vec<OsString>,
    privileged: bool,
}

struct Refusal {
    verdict: Verdict,
    detail: String,
}

impl Step {
    /// A command with this user's rights.
    pub(super) fn own<A: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = A>) -> Self {
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        Self { program: program.to_owned(), arguments, privileged: false }
    }

    /// A command with root's rights.
    pub(super) fn root<A: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = A>) -> Self {
        Self { privileged: true, ..Self::own(program, arguments) }
    }

    /// What it prints, when it ends well.
    pub(super) fn output(&self, places: &Places) -> Option<Vec<u8>> {
        let output = self.command(places).ok()?.output().ok()?;
        output.status.success().then_some(output.stdout)
    }

    fn run(&self, places: &Places) -> Result<(), Refusal> {
        let failed = |detail: String| Refusal { verdict: Verdict::Failed, detail };
        let name = self.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut command = self.command(places)?;
        let output = command.output().map_err(|error| failed(format!("{name}: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing").to_owned();
        Err(failed(format!("{name} ended with {}: {said}", output.status)))
    }

    fn command(&self, places: &Places) -> Result<Command, Refusal> {
        if !self.privileged || places.privileged {
            let mut command = Command::new(&self.program);
            command.args(&self.arguments).stdin(Stdio::null());
            return Ok(command);
        }
        let missing = || Refusal { verdict: Verdict::NotPermitted, detail: "there is no sudo".to_owned() };
        let mut command = Command::new(places.system_tool("sudo").ok_or_else(missing)?);
        // Its question for the password goes to the terminal itself.
        command.arg("--").arg(&self.program).args(&self.arguments).stdin(Stdio::inherit());
        Ok(command)
    }

    fn vector(&self) -> Vec<String> {
        let sudo = self.privileged.then_some(OsStr::new("sudo"));
        let words =
            sudo.into_iter().chain([self.program.as_os_str()]).chain(self.arguments.iter().map(OsString::as_os_str));
        words.map(|word| word.to_string_lossy().into_owned()).collect()
    }
}

/// As it would be typed.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.vector().iter().map(|word| quoted(OsStr::new(word))).collect();
        f.write_str(&words.join(" "))
    }
}

/// A word for a shell, in quotes only if it needs them.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@+%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
