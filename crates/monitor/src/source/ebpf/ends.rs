//! Ends of connections, a ring for each processor, read where the kernel's programs write them.
//!
//! The programs write a record and then count it as written; here it is read and then counted as read. Both counts only
//! rise, and their difference is never more than the ring has room for. There are such rings only where stores are seen in
//! the order in which they were made; elsewhere all records are in the kernel's own ring.

use std::borrow::BorrowMut;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Array, MapData, MapError};

use crate::decode::RECORD;

/// Bytes of `struct turn` in `bpf/record.h`, and where the count of what was read is.
const TURN: usize = 128;
const READ: usize = 64;
/// And where somebody says that he writes.
const BUSY: usize = 12;
/// Records that are taken before those who write hear of it: the line that says so is theirs to read at each.
const TOLD_EACH: usize = 64;

/// The rings.
pub(super) struct Ends {
    turns: Mapped,
    records: Mapped,
    processors: usize,
    /// Records of a ring: a power of two.
    each: usize,
    /// Records of the fullest, when they were taken last.
    fullest: usize,
}

impl Ends {
    /// Makes the two maps readable here.
    pub(super) fn new(
        turns: BorrowedFd<'_>,
        records: BorrowedFd<'_>,
        processors: usize,
        each: usize,
    ) -> io::Result<Self> {
        let turns = Mapped::new(turns, processors * TURN)?;
        let records = Mapped::new(records, processors * each * RECORD)?;
        Ok(Self { turns, records, processors, each, fullest: 0 })
    }

    /// How many records were found in the fullest ring at the last time, and for how many each has room.
    pub(super) fn fill(&self) -> (u32, u32) {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        (number(self.fullest), number(self.each))
    }

    /// Takes what there is, of each processor no more than its ring has room for: the rest is for the next turn.
    pub(super) fn take(&mut self, mut record: impl FnMut(&[u8; RECORD])) {
        self.fullest = 0;
        for processor in 0..self.processors {
            let written = self.turns.count(processor * TURN).load(Ordering::Acquire);
            let read = self.turns.count(processor * TURN + READ);
            let mut next = read.load(Ordering::Relaxed);
            self.fullest = self.fullest.max(usize::try_from(written.wrapping_sub(next)).unwrap_or(self.each));
            for taken in 1..=self.each {
                if next == written {
                    break;
                }
                // The ring is a power of two, so the lower bits of the count are the place.
                let at = usize::try_from(next).unwrap_or_default() & (self.each - 1);
                let copy = self.records.bytes((processor * self.each + at) * RECORD);
                next = next.wrapping_add(1);
                // What was taken has room again while the rest is worked on.
                if taken % TOLD_EACH == 0 {
                    read.store(next, Ordering::Release);
                }
                record(&copy);
            }
            read.store(next, Ordering::Release);
        }
    }
}

/// Lets nobody write there, as nobody can read it; to be called before any program runs. They write into the kernel's ring.
pub(super) fn shut(turns: &mut Array<impl BorrowMut<MapData>, [u8; TURN]>) -> Result<(), MapError> {
    let mut taken = [0; TURN];
    taken[BUSY] = 1;
    (0..turns.len()).try_for_each(|processor| turns.set(processor, taken, 0))
}

/// How many records the ring of each processor has, of so many bytes for all.
pub(super) fn records_of_each(bytes: u32, processors: usize) -> u32 {
    let all = bytes / u32::try_from(RECORD).unwrap_or(u32::MAX);
    let each = all / u32::try_from(processors).unwrap_or(u32::MAX).max(1);
    // A power of two that is not more.
    1 << each.max(8).ilog2()
}

/// Memory that is shared with the kernel.
struct Mapped {
    start: NonNull<u8>,
    length: usize,
}

#[expect(unsafe_code, reason = "a pointer is not sent by itself")]
// SAFETY: the memory belongs to this value alone in this process, and any thread may use it.
unsafe impl Send for Mapped {}

impl Mapped {
    fn new(map: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        let (may, map) = (libc::PROT_READ | libc::PROT_WRITE, map.as_raw_fd());
        #[expect(unsafe_code, reason = "the rings are read where they lie")]
        // SAFETY: the kernel chooses where, so nothing else is touched; and it has checked the length against the map's.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, may, libc::MAP_SHARED, map, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, length })
    }

    /// The count at this place.
    fn count(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.length, "a count lies within the map");
        #[expect(unsafe_code, reason = "the kernel changes it meanwhile")]
        // SAFETY: it is within the memory and aligned, as was just seen, lives as long as this value, and is changed by
        // others only as a whole.
        unsafe {
            self.start.byte_add(at).cast::<AtomicU64>().as_ref()
        }
    }

    /// A copy of the record at this place.
    fn bytes(&self, at: usize) -> [u8; RECORD] {
        assert!(at + RECORD <= self.length, "a record lies within the map");
        #[expect(unsafe_code, reason = "the kernel has written it")]
        // SAFETY: it is within the memory, as was just seen. The kernel's programs do not write it between counting it as
        // written and our counting it as read; and if they did, there are no bytes that are no record's.
        unsafe {
            self.start.byte_add(at).cast::<[u8; RECORD]>().read_volatile()
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "it was mapped by hand")]
        // SAFETY: it is what was mapped, and nobody has a reference into it any more.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    /// Rings that no kernel writes.
    fn rings(processors: usize, each: usize) -> Ends {
        let [turns, records] = [TURN, each * RECORD].map(|size| {
            let file = tempfile::tempfile().unwrap();
            file.set_len((processors * size) as u64).unwrap();
            file
        });
        Ends::new(turns.as_fd(), records.as_fd(), processors, each).unwrap()
    }

    /// As a program does it; false when there is no room.
    fn write(ends: &Ends, processor: usize, mark: u8) -> bool {
        let written = ends.turns.count(processor * TURN);
        let count = written.load(Ordering::Relaxed);
        if count - ends.turns.count(processor * TURN + READ).load(Ordering::Relaxed) >= ends.each as u64 {
            return false;
        }
        let at = (processor * ends.each + usize::try_from(count).unwrap() % ends.each) * RECORD;
        // The marks are read as a part of the record, eight bytes of it.
        ends.records.count(at).store(u64::from_ne_bytes([mark; 8]), Ordering::Relaxed);
        written.store(count + 1, Ordering::Release);
        true
    }

    fn taken(ends: &mut Ends) -> Vec<u8> {
        let mut marks = Vec::new();
        ends.take(|bytes| marks.push(bytes[0]));
        marks
    }

    #[test]
    fn each_record_is_taken_once_and_in_order_however_often_the_ring_goes_round() {
        let mut ends = rings(2, 8);
        let mut mark = 0;
        for count in [3, 0, 8, 7, 8, 1] {
            let wrote: Vec<u8> = (mark..mark + count).collect();
            mark += count;
            assert!(wrote.iter().all(|mark| write(&ends, 1, *mark)));
            assert_eq!(taken(&mut ends), wrote);
        }
        assert!(write(&ends, 1, 200) && write(&ends, 0, 100));
        assert_eq!(taken(&mut ends), [100, 200], "each processor has its own");
        assert!(taken(&mut ends).is_empty());
    }

    #[test]
    fn a_full_ring_has_room_again_when_it_was_read() {
        let mut ends = rings(1, 8);
        assert_eq!((0..10).filter(|mark| write(&ends, 0, *mark)).count(), 8);
        assert_eq!(taken(&mut ends), (0..8).collect::<Vec<_>>());
        assert!(write(&ends, 0, 9));
    }

    #[test]
    fn a_ring_has_room_again_while_what_was_taken_from_it_is_worked_on() {
        let mut ends = rings(1, 256);
        assert_eq!((0..=255).filter(|mark| write(&ends, 0, *mark)).count(), 256);
        let read = ends.turns.start;
        let mut room = Vec::new();
        ends.take(|_| {
            #[expect(unsafe_code, reason = "the rings are lent out")]
            // SAFETY: it is the count of what was read, in memory that lives as long as the rings.
            room.push(unsafe { read.byte_add(READ).cast::<AtomicU64>().as_ref() }.load(Ordering::Relaxed));
        });
        assert_eq!((room[0], room[63], room[200], room[255]), (0, 64, 192, 256));
    }

    #[test]
    fn all_rings_together_have_no_more_bytes_than_the_kernels_own() {
        assert_eq!(records_of_each(2 * 1024 * 1024, 2), 4_096);
        assert_eq!(records_of_each(2 * 1024 * 1024, 64), 128);
        assert_eq!(records_of_each(4_096, 2), 8);
        assert_eq!(records_of_each(0, 0), 8, "never none");
    }
}
