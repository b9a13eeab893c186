//! The system's store, which curl, most command-line programs and some browsers use.

use std::path::{Path, PathBuf};

use runtime::tls::authority::{CertificateFacts, NAME_PREFIX};

use super::places::Places;
use super::store::{Action, Job, Outcome, Step, Verdict};

const STORE: &str = "system";

/// The certificate's file in the directory of the administrator's own authorities.
const FILE: &str = "adit-local-ca";

/// How a family of systems keeps its trusted authorities.
struct Family {
    /// Where an administrator puts authorities.
    anchors: &'static str,
    /// What makes the bundle of them.
    tool: &'static str,
    after_install: &'static [&'static str],
    after_removal: &'static [&'static str],
    /// What the tool makes.
    bundle: &'static str,
}

const FAMILIES: [Family; 4] = [
    // Fedora, RHEL and kin
    Family {
        anchors: "etc/pki/ca-trust/source/anchors",
        tool: "update-ca-trust",
        after_install: &["extract"],
        after_removal: &["extract"],
        bundle: "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    },
    // Arch
    Family {
        anchors: "etc/ca-certificates/trust-source/anchors",
        tool: "trust",
        after_install: &["extract-compat"],
        after_removal: &["extract-compat"],
        bundle: "etc/ssl/certs/ca-certificates.crt",
    },
    // openSUSE
    Family {
        anchors: "usr/share/pki/trust/anchors",
        tool: "update-ca-certificates",
        after_install: &[],
        after_removal: &[],
        bundle: "etc/ssl/ca-bundle.pem",
    },
    // Debian, Ubuntu, Alpine; without `--fresh` the link to a file that is gone would stay
    Family {
        anchors: "usr/local/share/ca-certificates",
        tool: "update-ca-certificates",
        after_install: &[],
        after_removal: &["--fresh"],
        bundle: "etc/ssl/certs/ca-certificates.crt",
    },
];

const MAC_KEYCHAIN: &str = "Library/Keychains/System.keychain";

/// Installs or removes the certificate.
pub(super) fn apply(job: &Job<'_>) -> Outcome {
    if job.places.mac {
        return keychain(job);
    }
    let found = FAMILIES.iter().find_map(|family| {
        let tool = job.places.system_tool(family.tool)?;
        let anchors = job.places.system(family.anchors);
        // Debian's directory may be missing although its tool is there.
        (anchors.is_dir() || family.anchors.starts_with("usr/local")).then_some((family, tool, anchors))
    });
    let Some((family, tool, anchors)) = found else {
        let outcome = Outcome::new(STORE, String::new(), job.action, Verdict::NoStore);
        return outcome.with_detail("none that adit knows; on Debian, Ubuntu and Alpine install ca-certificates");
    };
    let store = SystemStore { family, tool, anchors, places: job.places };
    match job.action {
        Action::Install => store.install(job),
        Action::Remove => store.remove(job),
    }
}

struct SystemStore<'a> {
    family: &'static Family,
    tool: PathBuf,
    anchors: PathBuf,
    places: &'a Places,
}

impl SystemStore<'_> {
    fn install(&self, job: &Job<'_>) -> Outcome {
        let Some((file, held)) = self.file_for(job) else {
            let outcome = Outcome::new(STORE, self.anchors.display().to_string(), job.action, Verdict::Failed);
            return outcome.with_detail(format!("{FILE}.crt and its like hold other certificates"));
        };
        let outcome = Outcome::new(STORE, file.display().to_string(), job.action, Verdict::Already);
        let there = held.as_ref().is_some_and(|held| job.is_it(held));
        if there && self.bundle_has(job) != Some(false) {
            return outcome;
        }
        let mut steps = Vec::new();
        if !there {
            let Some(install) = self.places.system_tool("install") else {
                return Outcome { verdict: Verdict::ToolMissing, ..outcome }.with_detail("install is missing");
            };
            let (from, to) = (job.certificate.as_os_str(), file.as_os_str());
            steps.push(Step::root(&install, ["-D".as_ref(), "-m".as_ref(), "0644".as_ref(), from, to]));
        }
        steps.push(Step::root(&self.tool, self.family.after_install));
        let outcome = job.carry_out(outcome, steps);
        if outcome.verdict == Verdict::Done && self.bundle_has(job) == Some(false) {
            let detail = format!("{} ran, but the certificate is not in {}", self.family.tool, self.bundle().display());
            return Outcome { verdict: Verdict::Failed, ..outcome }.with_detail(detail);
        }
        outcome
    }

    fn remove(&self, job: &Job<'_>) -> Outcome {
        let ours: Vec<PathBuf> =
            self.candidates(job).into_iter().filter(|file| held(file).is_some_and(|held| job.is_ours(&held))).collect();
        let place = ours.first().map_or_else(|| self.anchors.display().to_string(), |file| file.display().to_string());
        let outcome = Outcome::new(STORE, place, job.action, Verdict::Already);
        if ours.is_empty() && self.bundle_has(job) != Some(true) {
            return outcome;
        }
        let Some(rm) = self.places.system_tool("rm") else {
            return Outcome { verdict: Verdict::ToolMissing, ..outcome }.with_detail("rm is missing");
        };
        let mut steps: Vec<Step> = ours.iter().map(|file| Step::root(&rm, ["-f".as_ref(), file.as_os_str()])).collect();
        steps.push(Step::root(&self.tool, self.family.after_removal));
        let outcome = job.carry_out(outcome, steps);
        if outcome.verdict == Verdict::Done && self.bundle_has(job) == Some(true) {
            let detail = format!("the certificate is still in {}: another file has it, too", self.bundle().display());
            return Outcome { verdict: Verdict::Failed, ..outcome }.with_detail(detail);
        }
        outcome
    }

    /// The file that has this authority's certificate, or a free one. The plain name may belong to another user's.
    fn file_for(&self, job: &Job<'_>) -> Option<(PathBuf, Option<CertificateFacts>)> {
        let candidates = self.candidates(job);
        let ours = candidates.iter().find_map(|file| {
            let held = held(file).filter(|held| job.is_ours(held))?;
            Some((file.clone(), Some(held)))
        });
        ours.or_else(|| {
            // A dangling link counts as taken.
            candidates.into_iter().find(|file| file.symlink_metadata().is_err()).map(|file| (file, None))
        })
    }

    fn candidates(&self, job: &Job<'_>) -> Vec<PathBuf> {
        let own = job.nickname().strip_prefix(NAME_PREFIX).map(str::trim).unwrap_or_default();
        let own = own.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
        let own = (!own.is_empty()).then(|| format!("{FILE}-{own}.crt"));
        [format!("{FILE}.crt")].into_iter().chain(own).map(|name| self.anchors.join(name)).collect()
    }

    /// Whether programs see the certificate; none when there is no bundle to look into.
    fn bundle_has(&self, job: &Job<'_>) -> Option<bool> {
        let pem = std::fs::read(self.bundle()).ok()?;
        Some(CertificateFacts::all_in_pem(&pem).iter().any(|found| job.is_it(found)))
    }

    fn bundle(&self) -> PathBuf {
        self.places.system(self.family.bundle)
    }
}

fn held(file: &Path) -> Option<CertificateFacts> {
    CertificateFacts::all_in_pem(&std::fs::read(file).ok()?).into_iter().next()
}

/// The Mac's store, which Safari, Chrome and curl use.
fn keychain(job: &Job<'_>) -> Outcome {
    let keychain = job.places.system(MAC_KEYCHAIN);
    let outcome = Outcome::new(STORE, keychain.display().to_string(), job.action, Verdict::Already);
    let Some(security) = job.places.system_tool("security") else {
        return Outcome { verdict: Verdict::ToolMissing, ..outcome }.with_detail("security is missing");
    };
    let hex = job.facts.map(|facts| facts.fingerprint.0.iter().map(|byte| format!("{byte:02X}")).collect::<String>());
    let list = ["find-certificate", "-a", "-Z", "-c", job.nickname()].map(AsRef::as_ref);
    let list = Step::own(&security, list.into_iter().chain([keychain.as_os_str()]));
    let listed = list.output(job.places).unwrap_or_default();
    let listed = String::from_utf8_lossy(&listed).to_uppercase();
    let there = hex.as_ref().is_some_and(|hex| listed.contains(hex));
    let certificate = job.certificate.as_os_str();
    let steps = match job.action {
        Action::Install if there => return outcome,
        Action::Remove if !there => return outcome,
        Action::Install => {
            let add = ["add-trusted-cert", "-d", "-r", "trustRoot", "-k"].map(AsRef::as_ref);
            vec![Step::root(&security, add.into_iter().chain([keychain.as_os_str(), certificate]))]
        }
        Action::Remove => {
            let delete = ["delete-certificate", "-Z", hex.as_deref().unwrap_or_default()].map(AsRef::as_ref);
            vec![
                Step::root(&security, ["remove-trusted-cert".as_ref(), "-d".as_ref(), certificate]),
                Step::root(&security, delete.into_iter().chain([keychain.as_os_str()])),
            ]
        }
    };
    job.carry_out(outcome, steps)
}
