//! Authorities on a real disk.

use std::collections::HashSet;
use std::sync::Barrier;

use adit_core::diagnose::{Diagnose as _, Fault};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn home() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("state/ca");
    (home, directory)
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn files_of(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name() != LOCK_FILE)
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// The error, and that nothing in the directory changed for it.
fn refused(directory: &Path) -> TlsError {
    let before = files_of(directory);
    let error = Authority::load_or_create(directory).unwrap_err();
    assert_eq!(files_of(directory), before);
    assert_eq!(error.fault(), Fault::Config, "{error}");
    assert!(error.hint().is_some(), "{error}");
    error
}

#[test]
fn an_authority_is_made_once_and_its_key_is_its_owners_alone() {
    let (_home, directory) = home();
    assert!(Authority::load(&directory).unwrap().is_none());
    let made = Authority::load_or_create(&directory).unwrap();
    assert_eq!(made.origin(), Origin::Made);
    assert_eq!(made.path(), Some(directory.join("ca.pem").as_path()));
    assert_eq!((mode_of(&directory), mode_of(&directory.join("ca.pem"))), (0o700, 0o644));
    assert_eq!(mode_of(&directory.join("ca-key.pem")), 0o600);
    assert_eq!(files_of(&directory).len(), 2, "no draft is left");
    let again = Authority::load_or_create(&directory).unwrap();
    assert_eq!((again.origin(), again.fingerprint()), (Origin::Kept, made.fingerprint()));
    assert_eq!(again.certificate_pem(), fs::read_to_string(directory.join("ca.pem")).unwrap());
    let ends = made.facts().not_after.duration_since(SystemTime::now()).unwrap();
    assert!(ends > 3649 * DAY && ends <= 3650 * DAY, "{ends:?}");
}

#[test]
fn every_kept_authority_has_a_name_of_its_own() {
    let (_home, directory) = home();
    let one = Authority::load_or_create(&directory.join("one")).unwrap();
    let other = Authority::load_or_create(&directory.join("other")).unwrap();
    assert!(one.facts().common_name.starts_with(NAME_PREFIX), "{one:?}");
    assert_ne!(one.facts().common_name, other.facts().common_name);
}

#[test]
fn an_authority_in_memory_leaves_no_trace_and_lasts_a_year() {
    let authority = Authority::in_memory("adit pages").unwrap();
    assert_eq!(authority.path(), None);
    assert_eq!(authority.facts().common_name, "adit pages");
    let ends = authority.facts().not_after.duration_since(SystemTime::now()).unwrap();
    assert!(ends > 364 * DAY && ends <= 365 * DAY, "{ends:?}");
    let shown = format!("{authority:?}");
    assert!(shown.contains("adit pages") && !shown.contains("KEY"), "{shown}");
}

#[test]
fn many_who_make_it_at_once_end_with_the_same_one() {
    const MANY: usize = 8;
    let (_home, directory) = home();
    let start = Barrier::new(MANY);
    let made: Vec<(Fingerprint, Origin)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..MANY)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let authority = Authority::load_or_create(&directory).unwrap();
                    (authority.fingerprint(), authority.origin())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let different: HashSet<_> = made.iter().map(|(fingerprint, _)| *fingerprint).collect();
    assert_eq!(different.len(), 1);
    assert_eq!(made.iter().filter(|(_, origin)| *origin == Origin::Made).count(), 1);
}

#[test]
fn a_key_that_others_may_read_is_refused_with_the_command_that_mends_it() {
    let (_home, directory) = home();
    Authority::load_or_create(&directory).unwrap();
    let key = directory.join(KEY_FILE);
    for open in [0o640, 0o604, 0o620] {
        fs::set_permissions(&key, Permissions::from_mode(open)).unwrap();
        let error = refused(&directory);
        assert!(matches!(&error, TlsError::Exposed { path, .. } if *path == key), "{error:?}");
        assert_eq!(error.hint().unwrap(), format!("chmod 600 {}", key.display()));
    }
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    Authority::load_or_create(&directory).unwrap();
}

#[test]
fn a_directory_into_which_others_may_put_files_is_refused() {
    let (_home, directory) = home();
    Authority::load_or_create(&directory).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o775)).unwrap();
    assert!(matches!(refused(&directory), TlsError::Exposed { path, .. } if path == directory));
}

#[test]
fn a_damaged_file_is_named_and_nothing_is_overwritten() {
    let (_home, directory) = home();
    Authority::load_or_create(&directory).unwrap();
    for name in [CERTIFICATE_FILE, KEY_FILE] {
        let path = directory.join(name);
        let good = fs::read(&path).unwrap();
        let half = &good[..good.len() / 2];
        let mut flipped = good.clone();
        flipped[60] ^= 1;
        for bad in [&b""[..], b"\xff\xfe", b"rubbish\n", half] {
            fs::write(&path, bad).unwrap();
            let error = refused(&directory);
            assert!(matches!(&error, TlsError::Authority { path: named, .. } if *named == path), "{error:?}");
            assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        }
        fs::write(&path, flipped).unwrap();
        let before = files_of(&directory);
        assert!(Authority::load_or_create(&directory).is_err(), "{name} with a wrong bit");
        assert_eq!(files_of(&directory), before);
        fs::write(&path, good).unwrap();
    }
    Authority::load_or_create(&directory).unwrap();
}

#[test]
fn a_certificate_without_its_key_or_with_another_one_is_refused() {
    let (_home, directory) = home();
    Authority::load_or_create(&directory).unwrap();
    let key = directory.join(KEY_FILE);
    fs::remove_file(&key).unwrap();
    assert!(matches!(refused(&directory), TlsError::Authority { path, .. } if path == key));
    write_whole(&key, 0o600, &new_key().unwrap().serialize_pem()).unwrap();
    assert!(matches!(refused(&directory), TlsError::Mismatch { .. }));
}

#[test]
fn a_servers_certificate_is_not_an_authority() {
    let (_home, directory) = home();
    let authority = Authority::load_or_create(&directory).unwrap();
    let key = new_key().unwrap();
    let (leaf, _) = authority.issue(&["localhost".to_owned()], &key, SystemTime::now()).unwrap();
    let encoded = armoured(&leaf);
    write_whole(&directory.join(KEY_FILE), 0o600, &key.serialize_pem()).unwrap();
    write_whole(&directory.join(CERTIFICATE_FILE), 0o644, &encoded).unwrap();
    let error = refused(&directory);
    assert!(error.to_string().contains("not one of an authority"), "{error}");
}

/// A certificate in PEM form: the library writes only those that it made itself.
fn armoured(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let bits = chunk.iter().chain([&0, &0]).take(3).fold(0usize, |bits, byte| bits << 8 | usize::from(*byte));
        for at in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * at) & 63];
            text.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

#[test]
fn a_maker_that_was_killed_half_way_is_continued_with_its_key() {
    let (_home, directory) = home();
    create_private_directory(&directory).unwrap();
    let key = new_key().unwrap();
    write_whole(&directory.join(KEY_FILE), 0o600, &key.serialize_pem()).unwrap();
    fs::write(directory.join("ca.new"), "half of a certif").unwrap();
    let authority = Authority::load_or_create(&directory).unwrap();
    assert_eq!(authority.origin(), Origin::Made);
    assert_eq!(authority.facts().common_name, kept_name(&key));
    assert_eq!(files_of(&directory).len(), 2);
}

#[test]
fn an_authority_about_to_expire_is_renewed_for_the_same_key() {
    let (_home, directory) = home();
    let start = SystemTime::now();
    let old = Authority::load_or_create_at(&directory, start).unwrap();
    let still_good = Authority::load_or_create_at(&directory, start + 3619 * DAY).unwrap();
    assert_eq!((still_good.origin(), still_good.fingerprint()), (Origin::Kept, old.fingerprint()));
    for days in [3621, 3650, 3700] {
        let before = Authority::load(&directory).unwrap().unwrap();
        let key = fs::read(directory.join(KEY_FILE)).unwrap();
        let now = start + days * DAY;
        if before.expires_soon(now) {
            let renewed = Authority::load_or_create_at(&directory, now).unwrap();
            assert_eq!(renewed.origin(), Origin::Renewed);
            assert_ne!(renewed.fingerprint(), before.fingerprint());
            assert_eq!(renewed.facts().common_name, old.facts().common_name);
            assert!(!renewed.expires_soon(now));
        }
        assert_eq!(fs::read(directory.join(KEY_FILE)).unwrap(), key);
    }
    assert_eq!(Authority::load_or_create(&directory).unwrap().origin(), Origin::Kept);
}

#[test]
fn facts_are_read_from_any_pem_text_without_panic() {
    let authority = Authority::in_memory("one").unwrap();
    let both = format!("# a comment\n{}\n{}", authority.certificate_pem(), Authority::in_memory("two").unwrap().pem);
    let names: Vec<_> = CertificateFacts::all_in_pem(both.as_bytes()).into_iter().map(|f| f.common_name).collect();
    assert_eq!(names, ["one", "two"]);
    let der = authority.certificate.to_vec();
    for at in 0..der.len() {
        let mut bad = der.clone();
        bad[at] ^= 0x55;
        let _ = CertificateFacts::of(&bad);
        assert_eq!(CertificateFacts::of(&der[..at]), None);
    }
}
