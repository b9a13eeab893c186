//! A log file that is put aside when it is large: `daemon.log`, `daemon.log.1`, …

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A file is put aside when it has so many bytes.
const SIZE_MAX: u64 = 10 * 1024 * 1024;
/// Files that were put aside and are kept.
pub(super) const KEPT: u32 = 4;

/// An open log file.
#[derive(Debug)]
pub(super) struct Rotating {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    max: u64,
}

impl Rotating {
    /// The file is opened with the first line.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, size: 0, max: SIZE_MAX }
    }

    /// Appends a line.
    ///
    /// # Errors
    /// What the system says, such as a full disk. The next line tries again with the file opened anew.
    pub(super) fn write(&mut self, line: &str) -> io::Result<()> {
        let result = self.try_write(line);
        if result.is_err() {
            self.file = None;
        }
        result
    }

    fn try_write(&mut self, line: &str) -> io::Result<()> {
        if self.size >= self.max {
            self.put_aside();
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                if let Some(directory) = self.path.parent() {
                    super::place::make_private(directory)?;
                }
                let mut options = OpenOptions::new();
                let mut file = options.read(true).append(true).create(true).mode(0o600).open(&self.path)?;
                self.size = file.metadata()?.len();
                if !ends_a_line(&mut file, self.size)? {
                    // A full disk or a kill has cut the last line: the next one is none of it.
                    file.write_all(b"\n")?;
                    self.size += 1;
                }
                self.file.insert(file)
            }
        };
        // One write, so that a reader never sees half a line but on a full disk.
        file.write_all(format!("{line}\n").as_bytes())?;
        self.size += line.len() as u64 + 1;
        Ok(())
    }

    /// What cannot be renamed is written on: a log that grows is better than one that is lost.
    fn put_aside(&mut self) {
        // Another daemon, which took over or is about to end, may have done it already.
        let is_ours = self.file.as_ref().is_none_or(|file| is_at(file, &self.path));
        self.file = None;
        if !is_ours {
            return;
        }
        self.size = 0;
        for number in (1..KEPT).rev() {
            let _ = std::fs::rename(aside(&self.path, number), aside(&self.path, number + 1));
        }
        let _ = std::fs::rename(&self.path, aside(&self.path, 1));
    }
}

/// Whether the last byte of a file is the end of a line; that of an empty one is.
fn ends_a_line(file: &mut File, size: u64) -> io::Result<bool> {
    if size == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Whether an open file is the one that has this name now.
fn is_at(file: &File, path: &Path) -> bool {
    let of = |found: std::fs::Metadata| (found.dev(), found.ino());
    matches!((file.metadata().map(of), std::fs::metadata(path).map(of)), (Ok(ours), Ok(theirs)) if ours == theirs)
}

/// The name of a file that was put aside; a higher number is older.
pub(super) fn aside(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/x.log");
        let mut log = Rotating { max: 10, ..Rotating::new(path.clone()) };
        for at in 0..8 {
            log.write(&format!("line {at} long")).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line 7 long\n");
        assert_eq!(std::fs::read_to_string(aside(&path, 1)).unwrap(), "line 6 long\n");
        assert_eq!(std::fs::read_to_string(aside(&path, KEPT)).unwrap(), "line 3 long\n");
        assert!(!aside(&path, KEPT + 1).exists());
    }

    #[test]
    fn a_log_that_cannot_be_written_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let blocked = directory.path().join("logs");
        std::fs::write(&blocked, "").unwrap();
        let mut log = Rotating::new(blocked.join("x.log"));
        assert!(log.write("lost").is_err());
        std::fs::remove_file(&blocked).unwrap();
        log.write("kept").unwrap();
        assert_eq!(std::fs::read_to_string(blocked.join("x.log")).unwrap(), "kept\n");
    }

    #[test]
    fn a_line_after_one_that_was_cut_is_a_line_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.log");
        std::fs::write(&path, "{\"cut in the mid").unwrap();
        let mut log = Rotating::new(path.clone());
        log.write("whole").unwrap();
        log.write("next").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"cut in the mid\nwhole\nnext\n");
    }

    #[test]
    fn of_two_daemons_at_one_log_only_one_puts_it_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.log");
        let mut old = Rotating { max: 10, ..Rotating::new(path.clone()) };
        let mut new = Rotating { max: 10, ..Rotating::new(path.clone()) };
        old.write("from the old").unwrap();
        new.write("from the new").unwrap();
        new.write("second file").unwrap();
        old.write("also there").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second file\nalso there\n");
        assert!(!aside(&path, 2).exists());
    }
}
