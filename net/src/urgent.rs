//! Urgent bytes (`MSG_OOB`) of stream sockets, TCP's and Unix ones alike.
//!
//! A caller that reads here has asked for urgent bytes in line ([`in_line`]): then no byte is ever
//! lost, the kernel stops a read before the urgent one, and says whether that is the next
//! ([`at_mark`]). What the mark means, and how it goes over a session, is told elsewhere.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{MsgFlags, recv};
use socket2::SockRef;

/// `SIOCATMARK` of asm-generic/sockios.h.
const SIOCATMARK: libc::c_ulong = 0x8905;

/// An urgent byte is read like any other, at its place. For TCP to be asked for before the socket
/// is connected: a lone urgent byte that came before wakes no reader.
///
/// # Errors
/// Those of `setsockopt`.
pub fn in_line(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_out_of_band_inline(true)
}

/// Whether the byte at the front of the queue is the urgent one. The answer stays true of that
/// byte, but an empty queue may get one at any time: a caller that asks has seen a byte there.
#[must_use]
pub fn at_mark(socket: BorrowedFd<'_>) -> bool {
    let mut answer: libc::c_int = 0;
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes one number, if it
    // knows the question at all (it may have been built without urgent bytes for Unix sockets).
    let asked = unsafe {
        let place = &raw mut answer;
        libc::ioctl(socket.as_raw_fd(), SIOCATMARK, place)
    };
    asked == 0 && answer != 0
}

/// Reads by `read`, never waiting, up to an urgent byte, or that byte alone; says how many bytes,
/// and whether it was that one.
///
/// # Errors
/// Those of `read`.
pub fn read(
    socket: BorrowedFd<'_>,
    slices: &mut [IoSliceMut<'_>],
    read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
) -> io::Result<(usize, bool)> {
    let mut first = [0; 1];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    if recv(socket.as_raw_fd(), &mut first, flags)? == 0 || !at_mark(socket) {
        return Ok((read(slices)?, false));
    }
    match slices.iter_mut().find(|slice| !slice.is_empty()) {
        Some(slice) => {
            let count = read(&mut [IoSliceMut::new(&mut slice[..1])])?;
            Ok((count, count == 1))
        }
        None => Ok((0, false)),
    }
}

/// Sends one byte as urgent.
///
/// # Errors
/// Those of `send`; `Unsupported` where the kernel has no urgent bytes for this kind of socket.
pub fn send(socket: &impl AsFd, byte: u8) -> io::Result<usize> {
    SockRef::from(socket).send_out_of_band(&[byte])
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Reads all that is there: the bytes of each read, and whether they were urgent.
    fn reads<S>(socket: &S) -> Vec<(Vec<u8>, bool)>
    where
        S: AsFd,
        for<'s> &'s S: Read,
    {
        let mut all = Vec::new();
        loop {
            let mut bytes = [0; 9];
            let got = read(socket.as_fd(), &mut [IoSliceMut::new(&mut bytes)], |slices| {
                (&*socket).read_vectored(slices)
            });
            match got {
                Ok((count, urgent)) => all.push((bytes[..count].to_vec(), urgent)),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    return all;
                }
            }
        }
    }

    fn marks_are_where_they_were_made<S>(mut here: S, there: &S)
    where
        S: AsFd + Write,
        for<'s> &'s S: Read,
    {
        in_line(there).unwrap();
        here.write_all(b"abc").unwrap();
        send(&here, b'!').unwrap();
        here.write_all(b"def").unwrap();
        let kept = |bytes: &[u8], urgent| (bytes.to_vec(), urgent);
        let all = [kept(b"abc", false), kept(b"!", true), kept(b"def", false)];
        assert_eq!(reads(there), all);
        send(&here, b'1').unwrap();
        assert_eq!(reads(there), [kept(b"1", true)]);
        send(&here, b'1').unwrap();
        send(&here, b'2').unwrap();
        assert_eq!(reads(there), [kept(b"1", false), kept(b"2", true)], "the newest");
    }

    #[test]
    fn a_read_stops_at_the_mark_and_takes_the_urgent_byte_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (there, _) = listener.accept().unwrap();
        here.set_nodelay(true).unwrap();
        there.set_nonblocking(true).unwrap();
        marks_are_where_they_were_made(here, &there);
        let (here, there) = UnixStream::pair().unwrap();
        there.set_nonblocking(true).unwrap();
        marks_are_where_they_were_made(here, &there);
    }
}
