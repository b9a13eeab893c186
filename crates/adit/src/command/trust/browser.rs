//! The browsers' own stores: Chromium's and Firefox's databases, by NSS's `certutil`.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use runtime::tls::authority::CertificateFacts;

use super::places::Places;
use super::store::{Action, Job, Outcome, Step, Verdict};

/// Databases of Chromium and its kin, below the home directory.
const CHROMIUM: [&str; 3] = [".pki/nssdb", ".local/share/pki/nssdb", "snap/chromium/current/.pki/nssdb"];

/// Programs that make and use the first of them.
const CHROMIUM_PROGRAMS: [&str; 7] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "brave-browser",
    "microsoft-edge",
    "vivaldi",
];

/// Directories of Firefox profiles, below the home directory.
const FIREFOX: [&str; 5] = [
    ".mozilla/firefox",
    ".config/mozilla/firefox",
    "snap/firefox/common/.mozilla/firefox",
    ".var/app/org.mozilla.firefox/.mozilla/firefox",
    "Library/Application Support/Firefox/Profiles",
];

/// A database's file.
const DATABASE_FILE: &str = "cert9.db";

/// Earlier certificates of an authority that has been renewed can be as many as that.
const SAME_NAME: usize = 8;

/// Packages that have `certutil`, by the tool that installs them.
const PACKAGES: [(&str, &str); 5] = [
    ("apt-get", "apt-get install libnss3-tools"),
    ("dnf", "dnf install nss-tools"),
    ("apk", "apk add nss-tools"),
    ("pacman", "pacman -S nss"),
    ("zypper", "zypper install mozilla-nss-tools"),
];

/// Installs or removes the certificate in every database of this user.
pub(super) fn apply(job: &Job<'_>) -> Vec<Outcome> {
    let databases = databases(job);
    if databases.is_empty() {
        let outcome = Outcome::new("browsers", String::new(), job.action, Verdict::NoStore);
        return vec![outcome.with_detail("neither Chromium nor a Firefox profile was found for this user")];
    }
    let certutil = job.places.user_tool("certutil");
    databases.iter().map(|database| database.apply(job, certutil.as_deref())).collect()
}

fn databases(job: &Job<'_>) -> Vec<Database> {
    let Some(home) = &job.places.home else {
        return Vec::new();
    };
    let chromium = CHROMIUM.iter().map(|path| home.join(path)).filter(|path| path.join(DATABASE_FILE).is_file());
    let mut found: Vec<Database> =
        chromium.map(|directory| Database { store: "chromium", directory, missing: false }).collect();
    // A Chromium that was never started has none yet, and takes the one it finds.
    let installed = || CHROMIUM_PROGRAMS.iter().any(|name| job.places.user_tool(name).is_some());
    if found.is_empty() && job.action == Action::Install && !job.places.mac && installed() {
        found.push(Database { store: "chromium", directory: home.join(CHROMIUM[0]), missing: true });
    }
    let mut profiles: Vec<PathBuf> = FIREFOX
        .iter()
        .filter_map(|path| std::fs::read_dir(home.join(path)).ok())
        .flat_map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())))
        .filter(|path| path.join(DATABASE_FILE).is_file())
        .collect();
    profiles.sort();
    found.extend(profiles.into_iter().map(|directory| Database { store: "firefox", directory, missing: false }));
    found
}

struct Database {
    store: &'static str,
    directory: PathBuf,
    /// To be made.
    missing: bool,
}

/// What a database has under the authority's name.
enum Entry {
    None,
    /// Another certificate of the authority, or one that is not trusted.
    Stale,
    Trusted,
}

impl Database {
    fn apply(&self, job: &Job<'_>, certutil: Option<&Path>) -> Outcome {
        let outcome = Outcome::new(self.store, job.places.shown(&self.directory), job.action, Verdict::Already);
        let Some(certutil) = certutil else {
            return self.without_tool(job, outcome);
        };
        let entry = self.entry(job, certutil);
        match (job.action, entry) {
            (Action::Install, Entry::Trusted) | (Action::Remove, Entry::None) => outcome,
            (Action::Install, entry) => self.install(job, certutil, outcome, &entry),
            (Action::Remove, _) => self.remove(job, certutil, outcome),
        }
    }

    /// A database that does not even mention the name has nothing to be removed.
    fn without_tool(&self, job: &Job<'_>, outcome: Outcome) -> Outcome {
        let mentioned = || {
            let file = std::fs::read(self.directory.join(DATABASE_FILE)).unwrap_or_default();
            let name = job.nickname().as_bytes();
            file.windows(name.len().max(1)).any(|window| window == name)
        };
        if job.action == Action::Remove && !mentioned() {
            return outcome;
        }
        let detail = format!("certutil is missing: {}, then run this again", package(job.places));
        Outcome { verdict: Verdict::ToolMissing, ..outcome }.with_detail(detail)
    }

    fn install(&self, job: &Job<'_>, certutil: &Path, outcome: Outcome, entry: &Entry) -> Outcome {
        let mut steps = Vec::new();
        if self.missing {
            let made = || DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
            if let Err(error) = if job.dry_run { Ok(()) } else { made() } {
                return Outcome { verdict: Verdict::Failed, ..outcome }.with_detail(error.to_string());
            }
            steps.push(self.step(certutil, &["-N", "--empty-password"]));
        }
        if matches!(entry, Entry::Stale) {
            steps.push(self.step(certutil, &["-D", "-n", job.nickname()]));
        }
        let mut add = self.arguments(&["-A", "-t", "C,,", "-n", job.nickname(), "-i"]);
        add.push(job.certificate.into());
        if !job.places.interactive {
            // Or it would ask the terminal that this process may still have for the database's password.
            add.extend(["-f".into(), "/dev/null".into()]);
        }
        steps.push(Step::own(certutil, add));
        let outcome = job.carry_out(outcome, steps);
        if outcome.verdict == Verdict::Failed {
            return self.clean_up(job, certutil, outcome);
        }
        if outcome.verdict == Verdict::Done && !matches!(self.entry(job, certutil), Entry::Trusted) {
            return Outcome { verdict: Verdict::Failed, ..outcome }.with_detail("certutil ran, but nothing changed");
        }
        let restart = if outcome.verdict == Verdict::Done { "restart the browser if it runs" } else { "" };
        if restart.is_empty() { outcome } else { outcome.with_detail(restart) }
    }

    /// A database with a password takes the certificate without one, but then does not trust it.
    fn clean_up(&self, job: &Job<'_>, certutil: &Path, outcome: Outcome) -> Outcome {
        if matches!(self.entry(job, certutil), Entry::Stale) {
            self.step(certutil, &["-D", "-n", job.nickname()]).output(job.places);
        }
        if !outcome.detail.to_lowercase().contains("password") {
            return outcome;
        }
        outcome.with_detail("it has a primary password: run this on a terminal and type it there")
    }

    fn remove(&self, job: &Job<'_>, certutil: &Path, outcome: Outcome) -> Outcome {
        let step = self.step(certutil, &["-D", "-n", job.nickname()]);
        for _ in 0..SAME_NAME {
            let next = job.carry_out(outcome.clone(), vec![step.clone()]);
            if next.verdict != Verdict::Done || matches!(self.entry(job, certutil), Entry::None) {
                return next;
            }
        }
        Outcome { verdict: Verdict::Failed, ..outcome }.with_detail("certutil ran, but the certificate is still there")
    }

    fn entry(&self, job: &Job<'_>, certutil: &Path) -> Entry {
        if self.missing && !self.directory.join(DATABASE_FILE).is_file() {
            return Entry::None;
        }
        let list = self.step(certutil, &["-L", "-a", "-n", job.nickname()]);
        let found = list.output(job.places).map(|pem| CertificateFacts::all_in_pem(&pem)).unwrap_or_default();
        if found.is_empty() {
            return Entry::None;
        }
        let valid = self.step(certutil, &["-V", "-u", "L", "-n", job.nickname()]);
        let trusted = found.iter().any(|found| job.is_it(found)) && valid.output(job.places).is_some();
        if trusted { Entry::Trusted } else { Entry::Stale }
    }

    fn step(&self, certutil: &Path, arguments: &[&str]) -> Step {
        Step::own(certutil, self.arguments(arguments))
    }

    fn arguments(&self, arguments: &[&str]) -> Vec<OsString> {
        let mut database = OsString::from("sql:");
        database.push(&self.directory);
        let (verb, rest) = arguments.split_first().unwrap_or((&"", &[]));
        let rest = rest.iter().map(OsString::from);
        [OsString::from(verb), "-d".into(), database].into_iter().chain(rest).collect()
    }
}

fn package(places: &Places) -> &'static str {
    if places.mac {
        return "brew install nss";
    }
    let known = PACKAGES.iter().find(|(tool, _)| places.system_tool(tool).is_some());
    known.map_or("install NSS's tools (libnss3-tools, nss-tools)", |(_, command)| command)
}
