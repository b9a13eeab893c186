//! Passwords from files.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use adit_core::secret::Secret;

/// The longest file that is read.
const FILE_MAX: u64 = 64 * 1024;

/// The first line of a file that only its owner may read (S6). It blocks.
///
/// # Errors
/// Why it cannot be used, in words that follow the file's name.
pub fn read_password(path: &Path) -> Result<Secret<String>, String> {
    let file = crate::regular_file::open(path).map_err(|error| error.to_string())?;
    // Of the open file: the name may lead to another one in the next moment.
    let mode = file.metadata().map_err(|error| error.to_string())?.mode();
    if mode & 0o077 != 0 {
        return Err(format!("others may read it (mode {:03o})", mode & 0o777));
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    match text.lines().next() {
        None | Some("") => Err("its first line is empty".to_owned()),
        Some(password) => Ok(Secret::new(password.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn read(text: &str, mode: u32) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        read_password(&path).map(Secret::into_exposed)
    }

    #[test]
    fn the_first_line_is_the_password() {
        assert_eq!(read(" se cret \r\nsecond\n", 0o600), Ok(" se cret ".to_owned()));
        assert_eq!(read("secret", 0o400), Ok("secret".to_owned()));
        assert_eq!(read("\nsecret\n", 0o600), Err("its first line is empty".to_owned()));
    }

    #[test]
    fn s6_a_password_file_that_others_may_read_is_refused() {
        for mode in [0o644, 0o640, 0o604, 0o620] {
            assert_eq!(read("secret\n", mode), Err(format!("others may read it (mode {mode:03o})")));
        }
    }

    #[test]
    fn a_file_without_an_end_is_not_read_for_ever() {
        // Nobody but its owner may use it in any way, or it would be refused for that.
        assert!(read(&"x".repeat(200_000), 0o600).unwrap().len() <= 64 * 1024);
    }
}
