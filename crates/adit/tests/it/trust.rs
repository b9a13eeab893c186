//! `adit trust` as a process, on a machine made of directories (`--root`) and with this user's home elsewhere.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;
use testkit::process;

use crate::support::{DEADLINE, adit};

/// A `certutil` that keeps one file per name.
const CERTUTIL: &str = r#"#!/bin/sh
PATH=/usr/bin:/bin
verb=$1; shift
while [ $# -gt 0 ]; do case $1 in
    -d) db=${2#sql:}; shift ;; -n) name=$2; shift ;; -i) file=$2; shift ;; -t|-u) shift ;;
esac; shift; done
case $verb in
    -A) cp "$file" "$db/$name.pem" ;;
    -D) rm "$db/$name.pem" ;;
    *) cat "$db/$name.pem" 2>/dev/null ;;
esac
"#;

fn script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("the file system works");
    fs::write(path, text).expect("the file system works");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the file system works");
}

/// Exit code, standard output, standard error.
fn trust(home: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = adit(home);
    command
        .env("PATH", home.join("path"))
        .env_remove("SUDO_USER")
        .arg("trust")
        .arg("--root")
        .arg(home.join("root"))
        .args(arguments);
    let (status, said) = process::run(&mut command, b"", DEADLINE).expect("adit ends");
    (status.code().expect("it ends by itself"), said.stdout().to_string(), said.stderr().to_string())
}

/// The result for a store, from the JSON report.
fn result_of(report: &str, store: &str) -> String {
    let report: Value = serde_json::from_str(report).expect("JSON");
    let stores = report["stores"].as_array().expect("a list");
    let found = stores.iter().find(|outcome| outcome["store"] == store).unwrap_or_else(|| panic!("{report}"));
    found["result"].as_str().expect("a word").to_owned()
}

fn home_with_chromium() -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a directory");
    script(&home.path().join("path/certutil"), CERTUTIL);
    fs::create_dir_all(home.path().join(".pki/nssdb")).expect("the file system works");
    fs::write(home.path().join(".pki/nssdb/cert9.db"), "").expect("the file system works");
    home
}

#[test]
fn the_authority_is_made_trusted_and_taken_out_again() {
    let home = home_with_chromium();
    let directory = home.path().join("state/adit/ca");
    let (code, said, _) = trust(home.path(), &["--dry-run"]);
    assert!(code == 0 && said.starts_with("authority  would be made: "), "{said}");
    assert!(!directory.exists());
    let (code, said, _) = trust(home.path(), &["-o", "json"]);
    assert_eq!((code, result_of(&said, "chromium").as_str()), (0, "trusted"), "{said}");
    let report: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(report["authority"]["state"], "made");
    assert_eq!(report["authority"]["path"], directory.join("ca.pem").display().to_string());
    let (code, said, _) = trust(home.path(), &["-o", "json"]);
    assert_eq!((code, result_of(&said, "chromium").as_str()), (0, "trusted_already"), "{said}");
    let (code, said, _) = trust(home.path(), &["--remove", "-o", "json"]);
    assert_eq!((code, result_of(&said, "chromium").as_str()), (0, "removed"), "{said}");
    assert!(directory.join("ca-key.pem").exists(), "the files stay");
    let (code, said, _) = trust(home.path(), &["--remove", "--delete"]);
    assert!(code == 0 && said.contains("ca-key.pem"), "{said}");
    assert!(!directory.exists());
    let (code, _, said) = trust(home.path(), &["--remove"]);
    assert!(code == 0 && said.contains("nothing to remove"), "{said}");
}

#[test]
fn without_any_store_it_fails_and_says_which_were_looked_for() {
    let home = tempfile::tempdir().expect("a directory");
    fs::create_dir(home.path().join("path")).expect("the file system works");
    let (code, said, _) = trust(home.path(), &["--dir", "mine"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("\nsystem     no store: ") && said.contains("\njava       left alone: "), "{said}");
    assert!(home.path().join("mine/ca.pem").exists());
}

#[test]
fn a_key_open_to_others_is_an_error_before_any_store_is_touched() {
    let home = home_with_chromium();
    trust(home.path(), &["--remove"]);
    let (code, ..) = trust(home.path(), &["--dir", "mine"]);
    assert_eq!(code, 0);
    let key = home.path().join("mine/ca-key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("the file system works");
    let (code, said, hint) = trust(home.path(), &["--dir", "mine"]);
    assert_eq!((code, said.as_str()), (2, ""));
    assert!(hint.contains("hint: chmod 600 "), "{hint}");
    let (code, said, _) = trust(home.path(), &["--dir", "mine", "--remove"]);
    assert!(code == 0 && said.contains("chromium   removed"), "it can be taken out all the same: {said}");
}
