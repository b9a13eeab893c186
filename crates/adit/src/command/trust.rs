//! `adit trust`: makes the stores of this machine accept the local certificate authority, and undoes it.

mod browser;
mod places;
mod store;
mod system;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adit_core::diagnose::{Fault, exit_code};
use adit_core::timestamp;
use clap::Args;
use runtime::tls::authority::{Authority, CERTIFICATE_FILE, CertificateFacts, KEY_FILE, LOCK_FILE, Origin};
use serde_json::json;

use self::places::Places;
use self::store::{Action, Job, Outcome, Verdict};
use super::{Global, files};
use crate::report::{Failure, Output, failure};
use crate::terminal;

/// Width of the first column.
const NAMES: usize = 10;

/// What `adit trust` takes.
#[derive(Debug, Args)]
#[command(after_help = "Exit code 5 when no store could be changed for lack of rights; the commands are printed then.")]
pub(crate) struct TrustArguments {
    /// Take the authority out of the stores again; its files stay
    #[arg(long)]
    remove: bool,
    /// With --remove: delete the authority's files, too
    #[arg(long, requires = "remove")]
    delete: bool,
    /// Where the authority is kept [default: ca in adit's state directory]
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// The system's root directory, for tests and images
    #[arg(long, value_name = "DIRECTORY", hide = true)]
    root: Option<PathBuf>,
}

pub(crate) fn run(global: &Global, arguments: &TrustArguments) -> Result<ExitCode, Failure> {
    let directory = directory(arguments.dir.as_deref())?;
    let places = Places::of_this_machine(arguments.root.as_deref());
    let action = if arguments.remove { Action::Remove } else { Action::Install };
    if let Some(user) = places.behind_sudo.as_ref().filter(|_| global.output == Output::Text) {
        terminal::say(&format!("hint: run it as {user}, without sudo: this run sees root's files and browsers"));
    }
    let subject = match action {
        Action::Install => to_install(&directory, arguments.dry_run)?,
        Action::Remove => match to_remove(&directory)? {
            Some(subject) => subject,
            None => return Ok(nothing_to_remove(global.output, &directory)),
        },
    };
    let job = Job {
        places: &places,
        certificate: &subject.path,
        facts: subject.facts.as_ref(),
        action,
        dry_run: arguments.dry_run,
    };
    let mut outcomes = vec![system::apply(&job)];
    outcomes.extend(browser::apply(&job));
    outcomes.extend(store::left_alone(&job));
    let mut report = Report { subject, outcomes, action, dry_run: arguments.dry_run, deleted: Vec::new(), kept: false };
    if arguments.delete {
        report.delete(&directory)?;
    }
    terminal::data(&match global.output {
        Output::Text => report.text(),
        Output::Json => format!("{}\n", report.json()),
    });
    Ok(ExitCode::from(report.exit()))
}

/// Who trusts the authority already.
pub(super) struct Trusted {
    pub(super) not_after: std::time::SystemTime,
    /// Each store, and whether it does.
    pub(super) stores: Vec<(String, bool)>,
}

/// Asks every store, and changes none; `None` without an authority.
pub(super) fn trusted() -> Result<Option<Trusted>, Failure> {
    let directory = directory(None)?;
    let Some(authority) = Authority::load(&directory).map_err(|error| failure(&error))? else { return Ok(None) };
    let places = Places::of_this_machine(None);
    let certificate = directory.join(CERTIFICATE_FILE);
    let facts = Some(authority.facts());
    let job = Job { places: &places, certificate: &certificate, facts, action: Action::Install, dry_run: true };
    let outcomes = std::iter::once(system::apply(&job)).chain(browser::apply(&job));
    let stores = outcomes
        .filter(|outcome| !matches!(outcome.verdict, Verdict::NoStore | Verdict::LeftAlone))
        .map(|outcome| (outcome.store.to_owned(), outcome.verdict == Verdict::Already))
        .collect();
    Ok(Some(Trusted { not_after: authority.facts().not_after, stores }))
}

fn directory(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let directory = given.map(Path::to_owned).or_else(|| files::state_dir().map(|state| state.join("ca")));
    let directory = directory
        .ok_or_else(|| Failure::new(Fault::Config, "there is no place for the authority", "give one with --dir"))?;
    std::path::absolute(&directory)
        .map_err(|error| Failure::new(Fault::Usage, format!("--dir {}: {error}", directory.display()), ""))
}

/// The certificate that this is about.
struct Subject {
    path: PathBuf,
    state: &'static str,
    /// None in a dry run, as long as there is no authority.
    facts: Option<CertificateFacts>,
}

fn to_install(directory: &Path, dry_run: bool) -> Result<Subject, Failure> {
    let path = directory.join(CERTIFICATE_FILE);
    let authority = if dry_run { Authority::load(directory) } else { Authority::load_or_create(directory).map(Some) };
    let Some(authority) = authority.map_err(|error| failure(&error))? else {
        return Ok(Subject { path, state: "would be made", facts: None });
    };
    let state = match authority.origin() {
        Origin::Kept => "kept",
        Origin::Made => "made",
        Origin::Renewed => "renewed",
    };
    Ok(Subject { path, state, facts: Some(authority.facts().clone()) })
}

/// Needs the certificate only: an authority whose key is lost or open to others has to be removable all the more.
fn to_remove(directory: &Path) -> Result<Option<Subject>, Failure> {
    let path = directory.join(CERTIFICATE_FILE);
    let pem = match std::fs::read(&path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::new(Fault::Config, format!("{}: {error}", path.display()), "check --dir"));
        }
    };
    let facts = CertificateFacts::all_in_pem(&pem).into_iter().next().ok_or_else(|| {
        let hint = "without it adit cannot know what to remove; look for `adit local CA` in the stores";
        Failure::new(Fault::Config, format!("{} holds no certificate", path.display()), hint)
    })?;
    Ok(Some(Subject { path, state: "kept", facts: Some(facts) }))
}

fn nothing_to_remove(output: Output, directory: &Path) -> ExitCode {
    match output {
        Output::Text => terminal::say(&format!("there is no authority in {}: nothing to remove", directory.display())),
        Output::Json => terminal::data(&format!("{}\n", json!({ "authority": null, "stores": [] }))),
    }
    ExitCode::SUCCESS
}

/// What happened, store by store.
struct Report {
    subject: Subject,
    outcomes: Vec<Outcome>,
    action: Action,
    dry_run: bool,
    deleted: Vec<PathBuf>,
    /// `--delete` was asked for, but a store may still have the certificate.
    kept: bool,
}

impl Report {
    fn any(&self, verdict: Verdict) -> bool {
        self.outcomes.iter().any(|outcome| outcome.verdict == verdict)
    }

    /// Installed is installed when one store has it; removed is removed when none has.
    fn exit(&self) -> u8 {
        let (failed, forbidden) = (exit_code(Fault::Internal), exit_code(Fault::NotPermitted));
        if self.dry_run {
            return 0;
        }
        match self.action {
            Action::Install if self.any(Verdict::Done) || self.any(Verdict::Already) => 0,
            Action::Install if self.any(Verdict::NotPermitted) => forbidden,
            Action::Install => failed,
            Action::Remove if self.any(Verdict::Failed) || self.any(Verdict::ToolMissing) => failed,
            Action::Remove if self.any(Verdict::NotPermitted) => forbidden,
            Action::Remove => 0,
        }
    }

    /// Deletes the authority, unless a store may still have its certificate: that could not be found again then.
    fn delete(&mut self, directory: &Path) -> Result<(), Failure> {
        if self.exit() != 0 {
            self.kept = true;
            return Ok(());
        }
        for name in [KEY_FILE, CERTIFICATE_FILE, LOCK_FILE] {
            let path = directory.join(name);
            if !self.dry_run {
                match std::fs::remove_file(&path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => {
                        return Err(Failure::new(Fault::NotPermitted, format!("{}: {error}", path.display()), ""));
                    }
                }
            }
            self.deleted.push(path);
        }
        if !self.dry_run {
            let _ = std::fs::remove_dir(directory); // only when nothing else is in it
        }
        Ok(())
    }

    fn text(&self) -> String {
        let mut text = line("authority", &format!("{}: {}", self.subject.state, self.subject.path.display()));
        if let Some(facts) = &self.subject.facts {
            let until = timestamp::format(facts.not_after);
            let until = until.split('T').next().unwrap_or_default();
            text += &line("", &format!("{}, {}, until {until}", facts.common_name, facts.fingerprint));
        }
        for outcome in &self.outcomes {
            text += &line(outcome.store, &outcome.summary());
            for command in &outcome.commands {
                text += &line("", &format!("  {command}"));
            }
        }
        let verb = if self.dry_run { "would be deleted" } else { "deleted" };
        for path in &self.deleted {
            text += &line(verb, &path.display().to_string());
        }
        if self.kept {
            text += &line("files", "kept, as a store may still have the certificate");
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let facts = self.subject.facts.as_ref();
        json!({
            "authority": {
                "path": self.subject.path,
                "state": self.subject.state.replace(' ', "_"),
                "name": facts.map(|facts| &facts.common_name),
                "fingerprint": facts.map(|facts| facts.fingerprint.to_string()),
                "not_after": facts.map(|facts| timestamp::format(facts.not_after)),
            },
            "stores": self.outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
            "deleted": self.deleted,
            "dry_run": self.dry_run,
        })
    }
}

fn line(name: &str, text: &str) -> String {
    format!("{name:NAMES$} {text}\n")
}

#[cfg(test)]
mod tests;
