//! Machines made of directories: their tools are scripts that keep a log, except for a real `certutil` where there is one.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use super::*;

/// The tool of Debian's store, as far as it matters: a bundle of whatever is in the directory.
const DEBIAN: &str = r#"cat "$ROOT"/usr/local/share/ca-certificates/*.crt > "$ROOT/etc/ssl/certs/ca-certificates.crt" 2>/dev/null; true"#;
const FEDORA: &str = r#"cat "$ROOT"/etc/pki/ca-trust/source/anchors/*.crt > "$ROOT/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem" 2>/dev/null; true"#;

/// A `certutil` that keeps one file per database and name.
const CERTUTIL: &str = r#"
verb=$1; shift
while [ $# -gt 0 ]; do case $1 in
    -d) db=${2#sql:}; shift ;; -n) name=$2; shift ;; -i) file=$2; shift ;; -t|-u) shift ;;
esac; shift; done
case $verb in
    -N) touch "$db/cert9.db" ;;
    -A) cp "$file" "$db/$name.pem" ;;
    -D) rm "$db/$name.pem" ;;
    *) cat "$db/$name.pem" 2>/dev/null ;;
esac"#;

struct Machine {
    directory: tempfile::TempDir,
    places: Places,
}

impl Machine {
    /// A machine without any store.
    fn bare() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("system");
        let home = directory.path().join("user");
        for path in [root.join("usr/sbin"), root.join("usr/bin"), home.clone(), directory.path().join("path")] {
            fs::create_dir_all(path).unwrap();
        }
        for name in ["install", "rm"] {
            symlink(format!("/usr/bin/{name}"), root.join("usr/bin").join(name)).unwrap();
        }
        let places = Places {
            root,
            home: Some(home),
            path: directory.path().join("path").into(),
            mac: false,
            privileged: true,
            interactive: false,
            behind_sudo: None,
        };
        Self { directory, places }
    }

    fn debian() -> Self {
        let machine = Self::bare();
        machine.mkdir("system/usr/local/share/ca-certificates");
        machine.mkdir("system/etc/ssl/certs");
        machine.script("system/usr/sbin/update-ca-certificates", DEBIAN);
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn mkdir(&self, path: &str) {
        fs::create_dir_all(self.at(path)).unwrap();
    }

    fn script(&self, path: &str, body: &str) {
        let text = format!(
            "#!/bin/sh\nexport ROOT='{}'\necho \"$(basename \"$0\")\" \"$@\" >> '{}'\n{body}\n",
            self.places.root.display(),
            self.at("log").display()
        );
        fs::write(self.at(path), text).unwrap();
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What the scripts were called with, without this machine's own path.
    fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.at("log")).unwrap_or_default();
        let _ = fs::remove_file(self.at("log"));
        log.replace(&self.directory.path().display().to_string(), "").lines().map(str::to_owned).collect()
    }

    fn run(&self, authority: &Authority, action: Action) -> Vec<Outcome> {
        self.job(authority, action, false)
    }

    fn job(&self, authority: &Authority, action: Action, dry_run: bool) -> Vec<Outcome> {
        let certificate = authority.path().unwrap();
        let job = Job { places: &self.places, certificate, facts: Some(authority.facts()), action, dry_run };
        let mut outcomes = vec![system::apply(&job)];
        outcomes.extend(browser::apply(&job));
        outcomes
    }

    fn authority(&self, name: &str) -> Authority {
        Authority::load_or_create(&self.at(name)).unwrap()
    }

    /// Every file below the root and the home, with its content.
    fn state(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        let mut left = vec![self.at("system/usr/local"), self.at("system/etc"), self.at("user")];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() { left.push(path) } else { files.push((path.clone(), fs::read(path).unwrap())) }
            }
        }
        files.sort();
        files
    }
}

fn verdicts(outcomes: &[Outcome]) -> Vec<(&'static str, Verdict)> {
    outcomes.iter().map(|outcome| (outcome.store, outcome.verdict)).collect()
}

fn report(outcomes: Vec<Outcome>, action: Action) -> Report {
    let subject = Subject { path: "/ca/ca.pem".into(), state: "kept", facts: None };
    Report { subject, outcomes, action, dry_run: false, deleted: Vec::new(), kept: false }
}

#[test]
fn the_systems_store_takes_the_certificate_and_gives_it_back() {
    let machine = Machine::debian();
    let authority = machine.authority("ca");
    let file = machine.at("system/usr/local/share/ca-certificates/adit-local-ca.crt");
    let other = machine.at("system/usr/local/share/ca-certificates/company.crt");
    fs::write(&other, Authority::in_memory("company").unwrap().certificate_pem()).unwrap();
    assert_eq!(verdicts(&machine.run(&authority, Action::Install))[0], ("system", Verdict::Done));
    assert_eq!(fs::read_to_string(&file).unwrap(), authority.certificate_pem());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(machine.log(), ["update-ca-certificates"]);
    assert_eq!(verdicts(&machine.run(&authority, Action::Install))[0], ("system", Verdict::Already));
    assert!(machine.log().is_empty(), "nothing to do the second time");
    assert_eq!(verdicts(&machine.run(&authority, Action::Remove))[0], ("system", Verdict::Done));
    assert!(!file.exists() && other.exists());
    assert_eq!(machine.log(), ["update-ca-certificates --fresh"]);
    assert_eq!(verdicts(&machine.run(&authority, Action::Remove))[0], ("system", Verdict::Already));
}

#[test]
fn fedoras_store_has_its_own_place_and_tool() {
    let machine = Machine::bare();
    machine.mkdir("system/etc/pki/ca-trust/source/anchors");
    machine.mkdir("system/etc/pki/ca-trust/extracted/pem");
    machine.script("system/usr/bin/update-ca-trust", FEDORA);
    let authority = machine.authority("ca");
    assert_eq!(verdicts(&machine.run(&authority, Action::Install))[0], ("system", Verdict::Done));
    assert_eq!(machine.log(), ["update-ca-trust extract"]);
    assert!(machine.at("system/etc/pki/ca-trust/source/anchors/adit-local-ca.crt").exists());
}

#[test]
fn the_macs_keychain_is_asked_by_fingerprint() {
    let mut machine = Machine::bare();
    machine.places.mac = true;
    let authority = machine.authority("ca");
    let hex: String = authority.fingerprint().0.iter().map(|byte| format!("{byte:02X}")).collect();
    let name = &authority.facts().common_name;
    let keychain = "/system/Library/Keychains/System.keychain";
    machine.script("system/usr/bin/security", "true");
    assert_eq!(verdicts(&machine.run(&authority, Action::Install))[0], ("system", Verdict::Done));
    let find = format!("security find-certificate -a -Z -c {name} {keychain}");
    let add = format!("security add-trusted-cert -d -r trustRoot -k {keychain} /ca/ca.pem");
    assert_eq!(machine.log(), [find.clone(), add]);
    machine.script("system/usr/bin/security", &format!("echo 'SHA-256 hash: {hex}'"));
    assert_eq!(verdicts(&machine.run(&authority, Action::Install))[0], ("system", Verdict::Already));
    machine.log();
    machine.run(&authority, Action::Remove);
    let untrust = "security remove-trusted-cert -d /ca/ca.pem".to_owned();
    assert_eq!(machine.log(), [find, untrust, format!("security delete-certificate -Z {hex} {keychain}")]);
}

#[test]
fn another_users_authority_keeps_its_file() {
    let machine = Machine::debian();
    let (theirs, mine) = (machine.authority("theirs"), machine.authority("mine"));
    machine.run(&theirs, Action::Install);
    let outcomes = machine.run(&mine, Action::Install);
    let plain = machine.at("system/usr/local/share/ca-certificates/adit-local-ca.crt");
    assert_eq!(outcomes[0].verdict, Verdict::Done);
    assert_ne!(outcomes[0].place, plain.display().to_string());
    assert_eq!(fs::read_to_string(&plain).unwrap(), theirs.certificate_pem());
    machine.run(&mine, Action::Remove);
    assert_eq!(fs::read_to_string(&plain).unwrap(), theirs.certificate_pem());
    assert!(!Path::new(&outcomes[0].place).exists());
}

#[test]
fn a_store_whose_tool_failed_half_way_is_finished_the_next_time() {
    let machine = Machine::debian();
    let authority = machine.authority("ca");
    fs::write(machine.at("system/etc/ssl/certs/ca-certificates.crt"), "").unwrap();
    machine.script("system/usr/sbin/update-ca-certificates", "echo 'disk full' >&2; exit 3");
    let failed = machine.run(&authority, Action::Install);
    assert_eq!(failed[0].verdict, Verdict::Failed);
    assert!(failed[0].detail.contains("disk full"), "{}", failed[0].detail);
    assert_eq!(report(failed, Action::Install).exit(), 1);
    machine.script("system/usr/sbin/update-ca-certificates", "true");
    assert_eq!(machine.run(&authority, Action::Install)[0].verdict, Verdict::Failed, "the bundle was not made");
    machine.script("system/usr/sbin/update-ca-certificates", DEBIAN);
    assert_eq!(machine.run(&authority, Action::Install)[0].verdict, Verdict::Done);
}

#[test]
fn without_rights_the_commands_are_printed_and_the_browsers_are_served_all_the_same() {
    let mut machine = Machine::debian();
    machine.places.privileged = false;
    let authority = machine.authority("ca");
    let outcomes = machine.run(&authority, Action::Install);
    assert_eq!(outcomes[0].verdict, Verdict::NotPermitted);
    let commands: Vec<String> = outcomes[0].commands.iter().map(ToString::to_string).collect();
    let short: Vec<_> =
        commands.iter().map(|c| c.replace(&machine.directory.path().display().to_string(), "")).collect();
    let file = "/system/usr/local/share/ca-certificates/adit-local-ca.crt";
    assert_eq!(short[0], format!("sudo /system/usr/bin/install -D -m 0644 /ca/ca.pem {file}"));
    assert_eq!(short[1], "sudo /system/usr/sbin/update-ca-certificates");
    assert_eq!(report(outcomes, Action::Install).exit(), 5);
    machine.script("path/certutil", CERTUTIL);
    machine.mkdir("user/.pki/nssdb");
    fs::write(machine.at("user/.pki/nssdb/cert9.db"), "").unwrap();
    let outcomes = machine.run(&authority, Action::Install);
    assert_eq!(verdicts(&outcomes), [("system", Verdict::NotPermitted), ("chromium", Verdict::Done)]);
    assert_eq!(report(outcomes, Action::Install).exit(), 0, "one store took it");
    assert!(machine.state().iter().all(|(path, _)| !path.ends_with("adit-local-ca.crt")));
}

#[test]
fn somebody_at_a_terminal_is_asked_by_sudo() {
    let mut machine = Machine::debian();
    machine.places.privileged = false;
    machine.places.interactive = true;
    let authority = machine.authority("ca");
    assert_eq!(machine.run(&authority, Action::Install)[0].verdict, Verdict::NotPermitted, "there is no sudo");
    machine.script("system/usr/bin/sudo", "shift; exec \"$@\"");
    assert_eq!(machine.run(&authority, Action::Install)[0].verdict, Verdict::Done);
    let log = machine.log();
    assert!(log[0].starts_with("sudo -- /system/usr/bin/install -D -m 0644 "), "{log:?}");
    assert_eq!(log[1..], ["sudo -- /system/usr/sbin/update-ca-certificates", "update-ca-certificates"]);
}

#[test]
fn a_tool_on_the_users_path_is_not_run_with_roots_rights() {
    let machine = Machine::bare();
    machine.mkdir("system/usr/local/share/ca-certificates");
    machine.script("path/update-ca-certificates", "true");
    assert_eq!(machine.run(&machine.authority("ca"), Action::Install)[0].verdict, Verdict::NoStore);
    assert!(machine.log().is_empty());
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_it_would_do() {
    let machine = Machine::debian();
    machine.script("path/certutil", CERTUTIL);
    machine.script("path/chromium", "true");
    let authority = machine.authority("ca");
    let before = machine.state();
    let outcomes = machine.job(&authority, Action::Install, true);
    assert_eq!(verdicts(&outcomes), [("system", Verdict::WouldBeDone), ("chromium", Verdict::WouldBeDone)]);
    assert!(outcomes.iter().all(|outcome| outcome.commands.len() == 2));
    assert_eq!(machine.state(), before);
    assert!(!machine.at("user/.pki").exists());
    machine.run(&authority, Action::Install);
    let before = machine.state();
    machine.job(&authority, Action::Remove, true);
    assert_eq!(machine.state(), before);
}

#[test]
fn every_firefox_profile_wherever_it_was_installed_from_is_found() {
    let machine = Machine::debian();
    machine.script("path/certutil", CERTUTIL);
    let profiles = [
        ".mozilla/firefox/a.default",
        ".mozilla/firefox/b.work",
        ".var/app/org.mozilla.firefox/.mozilla/firefox/c.default",
        "snap/firefox/common/.mozilla/firefox/d.default",
    ];
    for profile in profiles {
        machine.mkdir(&format!("user/{profile}"));
        fs::write(machine.at(&format!("user/{profile}/cert9.db")), "").unwrap();
    }
    machine.mkdir("user/.mozilla/firefox/Crash Reports");
    let outcomes = machine.run(&machine.authority("ca"), Action::Install);
    let places: Vec<_> = outcomes[1..].iter().map(|outcome| outcome.place.as_str()).collect();
    assert_eq!(places, profiles.map(|profile| format!("~/{profile}")));
    assert!(outcomes[1..].iter().all(|outcome| outcome.verdict == Verdict::Done));
}

#[test]
fn without_certutil_its_package_is_named() {
    let machine = Machine::debian();
    machine.script("system/usr/bin/apt-get", "true");
    machine.mkdir("user/.pki/nssdb");
    fs::write(machine.at("user/.pki/nssdb/cert9.db"), "SQLite").unwrap();
    let authority = machine.authority("ca");
    let outcomes = machine.run(&authority, Action::Install);
    assert_eq!(outcomes[1].verdict, Verdict::ToolMissing);
    assert!(outcomes[1].detail.contains("apt-get install libnss3-tools"), "{}", outcomes[1].detail);
    assert_eq!(verdicts(&machine.run(&authority, Action::Remove))[1].1, Verdict::Already, "it never was in there");
    let name = &authority.facts().common_name;
    fs::write(machine.at("user/.pki/nssdb/cert9.db"), format!("SQLite\0{name}\0")).unwrap();
    let outcomes = machine.run(&authority, Action::Remove);
    assert_eq!(outcomes[1].verdict, Verdict::ToolMissing);
    assert_eq!(report(outcomes, Action::Remove).exit(), 1, "it may still be trusted");
}

#[test]
fn a_renewed_authority_replaces_its_earlier_certificate() {
    let machine = Machine::debian();
    machine.script("path/certutil", CERTUTIL);
    machine.script("path/chromium", "true");
    let authority = machine.authority("ca");
    machine.run(&authority, Action::Install);
    fs::remove_file(machine.at("ca/ca.pem")).unwrap();
    let renewed = machine.authority("ca");
    assert_eq!(renewed.facts().common_name, authority.facts().common_name);
    assert_ne!(renewed.fingerprint(), authority.fingerprint());
    let outcomes = machine.run(&renewed, Action::Install);
    assert_eq!(verdicts(&outcomes), [("system", Verdict::Done), ("chromium", Verdict::Done)]);
    let held = fs::read_to_string(machine.at("system/usr/local/share/ca-certificates/adit-local-ca.crt")).unwrap();
    assert_eq!(held, renewed.certificate_pem());
    assert_eq!(verdicts(&machine.run(&renewed, Action::Install))[1].1, Verdict::Already);
}

fn real_certutil() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join("certutil")).find(|path| path.is_file())
}

/// Real databases, where `certutil` is installed (`./dev setup`).
#[test]
fn real_databases_take_the_certificate_and_give_back_only_that() {
    let Some(certutil) = real_certutil() else {
        return;
    };
    let machine = Machine::debian();
    symlink(&certutil, machine.at("path/certutil")).unwrap();
    machine.script("path/chromium", "true");
    machine.mkdir("user/.mozilla/firefox/x.default");
    let nss = |arguments: &[&str]| {
        let output = Command::new(&certutil).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let firefox = format!("sql:{}", machine.at("user/.mozilla/firefox/x.default").display());
    let chromium = format!("sql:{}", machine.at("user/.pki/nssdb").display());
    nss(&["-N", "-d", &firefox, "--empty-password"]);
    let company = machine.at("company.pem");
    fs::write(&company, Authority::in_memory("company").unwrap().certificate_pem()).unwrap();
    nss(&["-A", "-d", &firefox, "-t", "C,,", "-n", "company", "-i", company.to_str().unwrap()]);

    let authority = machine.authority("ca");
    let outcomes = machine.run(&authority, Action::Install);
    let done = [("system", Verdict::Done), ("chromium", Verdict::Done), ("firefox", Verdict::Done)];
    assert_eq!(verdicts(&outcomes), done, "{outcomes:?}");
    let again = machine.run(&authority, Action::Install);
    assert!(again.iter().all(|outcome| outcome.verdict == Verdict::Already), "{again:?}");
    let name = &authority.facts().common_name;
    for database in [&firefox, &chromium] {
        assert!(nss(&["-L", "-d", database]).lines().any(|line| line.starts_with(name) && line.contains("C,,")));
    }
    nss(&["-M", "-d", &firefox, "-t", ",,", "-n", name]);
    assert_eq!(verdicts(&machine.run(&authority, Action::Install))[2].1, Verdict::Done, "trust was taken away");

    fs::remove_file(machine.at("ca/ca.pem")).unwrap();
    let renewed = machine.authority("ca");
    assert_eq!(verdicts(&machine.run(&renewed, Action::Install)), done, "renewed");
    assert_eq!(verdicts(&machine.run(&renewed, Action::Remove)), done);
    let again = machine.run(&renewed, Action::Remove);
    assert!(again.iter().all(|outcome| outcome.verdict == Verdict::Already), "{again:?}");
    let left = nss(&["-L", "-d", &firefox]);
    assert!(left.contains("company") && !left.contains("adit local CA"), "{left}");
    assert!(!nss(&["-L", "-d", &chromium]).contains("adit local CA"));
}

/// Firefox calls it primary password. Without a terminal nobody can be asked for it.
#[test]
fn a_database_with_a_password_is_left_as_it_was_and_the_reason_said() {
    let Some(certutil) = real_certutil() else {
        return;
    };
    let machine = Machine::bare();
    symlink(&certutil, machine.at("path/certutil")).unwrap();
    machine.mkdir("user/.mozilla/firefox/x.default");
    let database = format!("sql:{}", machine.at("user/.mozilla/firefox/x.default").display());
    fs::write(machine.at("password"), "Long1Enough\n").unwrap();
    let password = machine.at("password");
    let made = Command::new(&certutil).args(["-N", "-d", &database, "-f"]).arg(password).status().unwrap();
    assert!(made.success());
    let authority = machine.authority("ca");
    let outcomes = machine.run(&authority, Action::Install);
    assert_eq!(outcomes[1].verdict, Verdict::Failed);
    assert!(outcomes[1].detail.contains("primary password"), "{}", outcomes[1].detail);
    let listed = Command::new(&certutil).args(["-L", "-d", &database]).output().unwrap();
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("adit"), "nothing half-trusted is left");
}

#[test]
fn files_are_deleted_only_when_no_store_can_have_the_certificate() {
    let machine = Machine::debian();
    let directory = machine.at("ca");
    machine.authority("ca");
    let outcome = |verdict| vec![Outcome::new("system", String::new(), Action::Remove, verdict)];
    let mut undone = report(outcome(Verdict::NotPermitted), Action::Remove);
    undone.delete(&directory).unwrap();
    assert!(undone.kept && directory.join(KEY_FILE).exists());
    let mut done = report(outcome(Verdict::Done), Action::Remove);
    done.delete(&directory).unwrap();
    assert_eq!(done.deleted.len(), 3);
    assert!(!directory.exists());
}

#[test]
fn a_lost_key_does_not_keep_the_certificate_in_the_stores() {
    let machine = Machine::debian();
    machine.authority("ca");
    fs::remove_file(machine.at("ca/ca-key.pem")).unwrap();
    assert!(to_install(&machine.at("ca"), false).is_err());
    assert!(to_remove(&machine.at("ca")).unwrap().is_some());
    assert!(to_remove(&machine.at("nowhere")).unwrap().is_none());
}

#[test]
fn commands_can_be_pasted_into_a_shell() {
    let step = store::Step::root(Path::new("/usr/bin/install"), ["-m", "0644", "/a b/it's", ""]);
    assert_eq!(step.to_string(), r"sudo /usr/bin/install -m 0644 '/a b/it'\''s' ''");
}

#[test]
fn the_report_says_for_each_store_what_became_of_it() {
    let outcomes = vec![
        Outcome::new("system", "/usr/x.crt".into(), Action::Install, Verdict::Done),
        Outcome::new("java", String::new(), Action::Install, Verdict::LeftAlone).with_detail("keytool"),
    ];
    let report = report(outcomes, Action::Install);
    let text = "authority  kept: /ca/ca.pem\nsystem     trusted: /usr/x.crt\njava       left alone: keytool\n";
    assert_eq!(report.text(), text);
    assert_eq!(report.json()["stores"][1]["result"], "left_alone");
    assert_eq!(report.exit(), 0);
}
