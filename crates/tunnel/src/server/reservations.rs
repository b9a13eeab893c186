//! Names that belong to an account while their agent is away (S7), kept across restarts.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use adit_core::timestamp;
use serde::{Deserialize, Serialize};

/// Who holds a name, and since when it is not served (seconds since 1970; 0 while it is).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Reservation {
    account: String,
    #[serde(default)]
    released: u64,
}

/// Who held a name before it was taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Before(Option<Reservation>);

/// Names an account may hold while nobody serves them; far more than one has agents for. Beyond, its oldest is
/// forgotten: registering and leaving must not be a way to take all names, or all memory.
const HELD_MAX: usize = 500;

/// Names and who holds them.
#[derive(Debug)]
pub(crate) struct Reservations {
    path: PathBuf,
    by_name: Mutex<HashMap<String, Reservation>>,
    changed: AtomicBool,
}

impl Reservations {
    /// Reads what an earlier run left; a file that cannot be read is kept aside and said so.
    pub(crate) fn load(path: &Path, now: SystemTime) -> Self {
        let by_name = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                let aside = path.with_extension("damaged");
                tracing::warn!(file = %path.display(), %error, kept = %aside.display(), "name reservations cannot be read");
                let _ = std::fs::rename(path, aside);
                HashMap::new()
            }),
            Err(_) => HashMap::new(),
        };
        let mut by_name: HashMap<String, Reservation> = by_name;
        // Whoever was served when the last run ended is away from now on.
        for reservation in by_name.values_mut().filter(|r| r.released == 0) {
            reservation.released = timestamp::unix(now);
        }
        Self { path: path.to_owned(), by_name: Mutex::new(by_name), changed: AtomicBool::new(false) }
    }

    /// Takes a name for an account; the error is how long it is still held for another one. What is returned
    /// goes to [`Reservations::undo`] when nothing came of it.
    pub(crate) fn take(
        &self,
        name: &str,
        account: &str,
        now: SystemTime,
        cooldown: Duration,
    ) -> Result<Before, Duration> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = by_name.get(name)
            && held.account != account
        {
            if held.released == 0 {
                return Err(cooldown);
            }
            let free = timestamp::from_unix(held.released) + cooldown;
            if let Ok(left) = free.duration_since(now)
                && !left.is_zero()
            {
                return Err(left);
            }
        }
        let before = by_name.insert(name.to_owned(), Reservation { account: account.to_owned(), released: 0 });
        self.changed.store(true, Ordering::Relaxed);
        Ok(Before(before))
    }

    /// The name is held as it was before it was taken.
    pub(crate) fn undo(&self, name: &str, before: Before) {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        match before.0 {
            Some(held) => by_name.insert(name.to_owned(), held),
            None => by_name.remove(name),
        };
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Nobody serves the name any more.
    pub(crate) fn released(&self, name: &str, now: SystemTime) {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = by_name.get_mut(name) {
            held.released = timestamp::unix(now).max(1);
            self.changed.store(true, Ordering::Relaxed);
            let account = held.account.clone();
            forget_oldest(&mut by_name, &account);
        }
    }

    /// Whether some account holds the name.
    pub(crate) fn is_held(&self, name: &str) -> bool {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }

    /// Writes the file if anything changed; forgets names free for longer than the cooldown.
    pub(crate) fn save(&self, now: SystemTime, cooldown: Duration) -> std::io::Result<()> {
        if !self.changed.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let text = {
            let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
            by_name.retain(|_, r| r.released == 0 || timestamp::from_unix(r.released) + cooldown > now);
            serde_json::to_vec(&*by_name).map_err(std::io::Error::other)?
        };
        let written = write_whole(&self.path, &text);
        if written.is_err() {
            self.changed.store(true, Ordering::Relaxed);
        }
        written
    }
}

/// Makes an account keep to [`HELD_MAX`].
fn forget_oldest(by_name: &mut HashMap<String, Reservation>, account: &str) {
    // Far below the bound nobody can be over it.
    if by_name.len() <= HELD_MAX {
        return;
    }
    let held = || by_name.iter().filter(|(_, r)| r.released > 0 && r.account == account);
    if held().count() > HELD_MAX
        && let Some(oldest) = held().min_by_key(|(_, r)| r.released).map(|(name, _)| name.clone())
    {
        by_name.remove(&oldest);
    }
}

/// Writes a file so that a reader sees the old or the new one, never half of it.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_name_stays_with_its_account_for_the_cooldown_and_across_restarts() {
        let dir = std::env::temp_dir().join(format!("adit-reservations-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("names.json");
        let now = timestamp::from_unix(1_800_000_000);
        let names = Reservations::load(&path, now);
        names.take("app", "a", now, DAY).unwrap();
        assert!(names.take("app", "b", now, DAY).is_err(), "served by its owner");
        names.released("app", now);
        names.save(now, DAY).unwrap();
        let names = Reservations::load(&path, now);
        assert_eq!(names.take("app", "b", now + DAY / 2, DAY), Err(DAY / 2));
        assert!(names.take("app", "a", now + DAY / 2, DAY).is_ok(), "its owner gets it back at once");
        names.released("app", now);
        assert!(names.take("app", "b", now + DAY, DAY).is_ok());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn s7_one_account_cannot_hold_names_without_end() {
        let names = Reservations::load(Path::new("/nowhere/names.json"), timestamp::from_unix(1));
        names.take("theirs", "b", timestamp::from_unix(5), DAY).unwrap();
        names.released("theirs", timestamp::from_unix(5));
        for number in 0..HELD_MAX as u64 + 10 {
            let (name, now) = (format!("n{number}"), timestamp::from_unix(10 + number));
            names.take(&name, "a", now, DAY).unwrap();
            names.released(&name, now);
        }
        assert!(!names.is_held("n0") && names.is_held("n10") && names.is_held("theirs"));
    }

    #[test]
    fn a_name_that_was_taken_in_vain_is_held_as_before() {
        let names = Reservations::load(Path::new("/nowhere/names.json"), timestamp::from_unix(1));
        let now = timestamp::from_unix(10);
        let before = names.take("new", "a", now, DAY).unwrap();
        names.undo("new", before);
        assert!(!names.is_held("new"));
        names.take("app", "a", now, DAY).unwrap();
        names.released("app", now);
        let before = names.take("app", "b", now + DAY, DAY).unwrap();
        names.undo("app", before);
        assert_eq!(names.take("app", "b", now + DAY / 2, DAY), Err(DAY / 2), "still of its first account");
    }

    #[test]
    fn a_damaged_file_is_kept_aside() {
        let dir = std::env::temp_dir().join(format!("adit-reservations-damaged-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("names.json");
        std::fs::write(&path, "{").unwrap();
        assert!(!Reservations::load(&path, SystemTime::now()).is_held("app"));
        assert!(dir.join("names.damaged").exists());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
