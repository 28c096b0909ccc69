//! What goes over the lease: one message is one byte that says what it is, a number, and up to
//! three descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Descriptors of one message at most.
const DESCRIPTORS_MAX: usize = 3;

/// What a message says.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    /// These descriptors are to be held under this number, or were.
    Hold(u64),
    /// Those under this number are needed no more.
    Drop(u64),
    /// To the daemon: that was all. To the keeper: the daemon has ended in order.
    End,
}

pub(crate) fn send(
    socket: BorrowedFd<'_>,
    word: Word,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let (kind, number) = match word {
        Word::Hold(number) => (1, number),
        Word::Drop(number) => (2, number),
        Word::End => (3, 0),
    };
    let mut bytes = [kind; 9];
    bytes[1..].copy_from_slice(&number.to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    loop {
        match rustix::net::sendmsg(
            socket,
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// The next message. Nothing when the other side is gone.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Word, Vec<OwnedFd>)>> {
    let mut bytes = [0; 9];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            descriptors.extend(more);
        }
    }
    let [kind, number @ ..] = bytes;
    let number = u64::from_le_bytes(number);
    match (got.bytes, kind) {
        (0, _) => Ok(None),
        (9, 1) => Ok(Some((Word::Hold(number), descriptors))),
        (9, 2) => Ok(Some((Word::Drop(number), descriptors))),
        (9, 3) => Ok(Some((Word::End, descriptors))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not a word of ours")),
    }
}
