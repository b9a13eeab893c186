//! Iterators of the kernel: programs that are run over everything of a kind when their file is read.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// `BPF_LINK_CREATE`, `BPF_ITER_CREATE` and `BPF_TRACE_ITER` of linux/bpf.h.
const LINK_CREATE: libc::c_long = 28;
const ITER_CREATE: libc::c_long = 33;
const TRACE_ITER: u32 = 28;

/// The part of `union bpf_attr` for a link to an iterator.
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    info: u64,
    info_length: u32,
    pad: u32,
}

/// The part of `union bpf_attr` for a run of an iterator.
#[repr(C)]
struct IterCreate {
    link: u32,
    flags: u32,
}

/// `union bpf_iter_link_info`, of which maps use the first word.
#[repr(C)]
struct LinkInfo {
    map: u32,
    pad: [u32; 3],
}

/// A run over all elements of a map.
pub(super) fn over_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<File> {
    let info = LinkInfo { map: number(map), pad: [0; 3] };
    create(program, Some(&info))
}

/// A run over everything of the program's kind.
pub(super) fn over_all(program: BorrowedFd<'_>) -> io::Result<File> {
    create(program, None)
}

/// Runs one whose program does all the work in the kernel.
pub(super) fn run(mut file: impl Read) -> io::Result<()> {
    let mut buffer = [0; 4096];
    while read(&mut file, &mut buffer)? > 0 {}
    Ok(())
}

/// The next bytes, none at the end. The kernel stops after each million of things of which there was nothing to tell, and
/// says "try again": there is more.
pub(super) fn read(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(buffer) {
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            done => return done,
        }
    }
}

fn create(program: BorrowedFd<'_>, info: Option<&LinkInfo>) -> io::Result<File> {
    let mut attr = LinkCreate {
        program: number(program),
        target: 0,
        attach_type: TRACE_ITER,
        flags: 0,
        info: info.map_or(0, |info| std::ptr::from_ref(info).addr() as u64),
        info_length: if info.is_some() { 16 } else { 0 },
        pad: 0,
    };
    let link = bpf(LINK_CREATE, &mut attr)?;
    let mut attr = IterCreate { link: number(std::os::fd::AsFd::as_fd(&link)), flags: 0 };
    Ok(File::from(bpf(ITER_CREATE, &mut attr)?))
}

/// One call of bpf(2) that gives a descriptor.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "no library has this call for iterators over maps")]
    // SAFETY: `attr` is a valid prefix of `union bpf_attr` for this command, of the size that is said, and what it
    // points to lives until the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = libc::c_int::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    #[expect(unsafe_code, reason = "the descriptor comes from the call above")]
    // SAFETY: the kernel has just given it to us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor's number; one that is open is never negative.
fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel's file is read while it looks through more than a million things of which nothing is told.
    struct Halting(Vec<io::Result<usize>>);

    impl Read for Halting {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.0.pop().unwrap_or(Ok(0))
        }
    }

    #[test]
    fn an_iterator_that_stops_to_be_asked_again_is_read_to_its_end() {
        let halts = || Err(io::ErrorKind::WouldBlock.into());
        let mut file = Halting(vec![Ok(5), halts(), halts(), Ok(7), halts()]);
        assert_eq!(read(&mut file, &mut [0; 8]).unwrap(), 7);
        run(&mut file).unwrap();
        assert!(file.0.is_empty());
        let mut broken = Halting(vec![Ok(1), Err(io::ErrorKind::OutOfMemory.into())]);
        assert_eq!(run(&mut broken).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }
}
