//! Files that configuration names: read whole, as often as they change, and none that never ends.
//!
//! A pipe gives what it has once, and whoever opens one without a writer waits for ever; a device may have no end.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The largest file that is read: a thousand times what any of them has.
pub const SIZE_MAX: u64 = 16 * 1024 * 1024;

/// Should a pipe take the place of a file in between, its writer is not waited for.
const NO_WAIT: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

/// What a file holds; of `/dev/null`, nothing. It blocks.
///
/// # Errors
/// It cannot be read; [`io::ErrorKind::InvalidInput`] when it is a pipe or anything else than a file, or too large.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    if file.metadata()?.is_file() {
        file.take(SIZE_MAX + 1).read_to_end(&mut bytes)?;
    }
    // It may have grown.
    if bytes.len() as u64 > SIZE_MAX { Err(too_large()) } else { Ok(bytes) }
}

/// The same, of a file that holds text.
///
/// # Errors
/// As [`read`], and [`io::ErrorKind::InvalidData`] when it is no UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    let no_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is no text in UTF-8");
    String::from_utf8(read(path)?).map_err(no_text)
}

/// Opens a file to be read. It does not wait.
///
/// # Errors
/// As [`read`].
pub fn open(path: &Path) -> io::Result<File> {
    // First without opening it: that alone would be noticed by whoever wants to write into a pipe.
    check(&fs::metadata(path)?)?;
    let file = fs::OpenOptions::new().read(true).custom_flags(NO_WAIT).open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

fn check(found: &Metadata) -> io::Result<()> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let kind = found.file_type();
    match found.is_file() {
        true if found.len() > SIZE_MAX => Err(too_large()),
        true => Ok(()),
        false if kind.is_fifo() => refused("it is a pipe, which can be read only once"),
        false if kind.is_dir() => refused("it is a directory"),
        false if is_null(found) => Ok(()),
        false => refused("it is no file"),
    }
}

/// `/dev/null` says in many places that there is no file.
fn is_null(found: &Metadata) -> bool {
    let null = || fs::metadata("/dev/null").is_ok_and(|null| null.rdev() == found.rdev());
    found.file_type().is_char_device() && null()
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is larger than 16 MiB")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_no_file_is_not_waited_for_and_has_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let refused = |path: &Path| {
            let error = read(path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{}", path.display());
            error.to_string()
        };
        assert_eq!(refused(&pipe), "it is a pipe, which can be read only once");
        assert_eq!(refused(Path::new("/dev/zero")), "it is no file");
        assert_eq!(refused(directory.path()), "it is a directory");
        let large = directory.path().join("large");
        File::create(&large).unwrap().set_len(SIZE_MAX + 1).unwrap();
        assert_eq!(refused(&large), "it is larger than 16 MiB");
        assert_eq!(read(Path::new("/dev/null")).unwrap(), b"");
        assert_eq!(read(&directory.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_follows_a_link_to_a_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert_eq!(read_to_string(&link).unwrap(), "text");
        fs::write(&file, [0xff]).unwrap();
        assert_eq!(read_to_string(&link).unwrap_err().to_string(), "it is no text in UTF-8");
    }
}
