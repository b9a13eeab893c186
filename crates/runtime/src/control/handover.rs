//! Open sockets from one process to the next, over a pair of Unix sockets (`unix(7)`, `SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// Descriptors in one message; the kernel takes up to 253.
const BATCH: usize = 64;
/// All of the labels together: a thousand addresses and their owners are far less.
const LABELS_MAX: usize = 1024 * 1024;

/// Why sockets were not handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The system refuses it.
    #[error(transparent)]
    System(#[from] io::Error),
    /// What comes is not what a daemon sends.
    #[error("what was handed over cannot be understood")]
    Malformed,
}

impl From<rustix::io::Errno> for HandoverError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::System(error.into())
    }
}

/// Sends descriptors, each with a label without line ends.
///
/// # Errors
/// [`HandoverError::System`], also when the receiver is gone.
pub fn send(to: &UnixStream, sockets: &[(String, BorrowedFd<'_>)]) -> Result<(), HandoverError> {
    for batch in sockets.chunks(BATCH) {
        let labels: String = batch.iter().map(|(label, _)| format!("{label}\n")).collect();
        let head = u32::try_from(labels.len()).map_err(|_| HandoverError::Malformed)?.to_be_bytes();
        let descriptors: Vec<BorrowedFd<'_>> = batch.iter().map(|(_, descriptor)| *descriptor).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(HandoverError::Malformed);
        }
        // The descriptors go with the first byte; four bytes are never taken in parts by an empty socket.
        let sent = rustix::net::sendmsg(to, &[IoSlice::new(&head)], &mut control, SendFlags::NOSIGNAL)?;
        if sent != head.len() {
            return Err(HandoverError::Malformed);
        }
        io::Write::write_all(&mut &*to, labels.as_bytes())?;
    }
    // A batch of nothing is the end.
    io::Write::write_all(&mut &*to, &[0; 4])?;
    Ok(())
}

/// Receives what [`send`] sends.
///
/// # Errors
/// [`HandoverError`].
pub fn receive(from: impl AsFd) -> Result<Vec<(String, OwnedFd)>, HandoverError> {
    let mut sockets = Vec::new();
    loop {
        let mut head = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got =
            rustix::net::recvmsg(&from, &mut [IoSliceMut::new(&mut head)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(these) = message {
                descriptors.extend(these);
            }
        }
        if got.bytes != head.len() {
            return Err(HandoverError::Malformed);
        }
        let length = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
        if length == 0 {
            return Ok(sockets);
        }
        if length > LABELS_MAX {
            return Err(HandoverError::Malformed);
        }
        let mut labels = vec![0; length];
        let mut filled = 0;
        while filled < length {
            let (read, _) = rustix::net::recv(&from, &mut labels[filled..], RecvFlags::empty())?;
            if read == 0 {
                return Err(HandoverError::Malformed);
            }
            filled += read;
        }
        let labels = String::from_utf8(labels).map_err(|_| HandoverError::Malformed)?;
        if labels.lines().count() != descriptors.len() {
            return Err(HandoverError::Malformed);
        }
        sockets.extend(labels.lines().map(str::to_owned).zip(descriptors));
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listening_sockets_arrive_with_their_labels_however_many() {
        let (here, there) = UnixStream::pair().unwrap();
        let listeners: Vec<TcpListener> = (0..150).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<String> = listeners.iter().map(|one| one.local_addr().unwrap().to_string()).collect();
        let sending = std::thread::spawn(move || {
            let labelled: Vec<_> =
                listeners.iter().map(|one| (one.local_addr().unwrap().to_string(), one.as_fd())).collect();
            send(&here, &labelled).unwrap();
        });
        let got = receive(&there).unwrap();
        sending.join().unwrap();
        assert_eq!(got.iter().map(|(label, _)| label.clone()).collect::<Vec<_>>(), addresses);
        for (label, socket) in got {
            let listener = TcpListener::from(socket);
            assert_eq!(listener.local_addr().unwrap().to_string(), label);
            // It listens on: the sender's descriptor is closed, the socket is not.
            std::net::TcpStream::connect(&label).unwrap();
        }
    }

    #[test]
    fn an_end_in_the_middle_and_lies_are_told() {
        let (here, there) = UnixStream::pair().unwrap();
        io::Write::write_all(&mut &here, &[0, 0]).unwrap();
        drop(here);
        assert!(matches!(receive(&there), Err(HandoverError::Malformed)));
        let (here, there) = UnixStream::pair().unwrap();
        io::Write::write_all(&mut &here, &[0, 0, 0, 2, b'a', b'\n']).unwrap();
        assert!(matches!(receive(&there), Err(HandoverError::Malformed)), "a label without a descriptor");
    }
}
