//! Reading what the app wrote, and holding the last byte back.
//!
//! An app learns of an abort only when its peer closes with bytes of the app still unread: then
//! its next read says `ECONNRESET` instead of a clean end. So the last byte of a small burst is
//! looked at, handed on, and left in the kernel's queue; the next read skips it.
//! If the broker is killed, the app sees a reset too, never a silent end.
//! Urgent bytes come in line: a read stops before one, and the next takes it alone.
//! If a keeper holds the socket, the bytes go into its ring, and the kernel counts them.
//! Large bursts are read whole: their last piece would weigh so much that the app's socket might
//! never be writable again; and while more is queued there is no need.

use std::io::{self, ErrorKind, IoSliceMut};
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvAncillaryBuffer, RecvFlags};
use stp_net::kept::Kept;
use stp_net::urgent::at_mark;

/// Bursts up to this size leave their last byte in the queue.
const HOLD_MAX: usize = 16 << 10;
/// The most slices filled by one read.
const SLICES_MAX: usize = 8;

/// How the app's direction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    Fin,
    Gone,
    Reset,
}

pub(super) enum Got {
    Bytes(usize),
    /// One byte, which is urgent.
    Urgent,
    Nothing,
    End(Ended),
}

/// Where bytes go that are read.
pub(super) enum Sink<'a, 'b> {
    /// Into these.
    Slices(&'a mut [IoSliceMut<'b>]),
    /// Into the ring, from this position on, and so many at most.
    Ring(&'a Kept, u64, usize),
}

impl Sink<'_, '_> {
    fn room(&self) -> usize {
        match self {
            Sink::Slices(bufs) => bufs.iter().take(SLICES_MAX).map(|buf| buf.len()).sum(),
            Sink::Ring(_, _, room) => *room,
        }
    }

    /// Takes `skip` bytes out of the queue and throws them away, and then at most `wanted`.
    fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        skip: usize,
        wanted: usize,
    ) -> rustix::io::Result<usize> {
        let bufs = match self {
            Sink::Ring(kept, position, _) => return kept.read(fd, skip, *position, wanted),
            Sink::Slices(bufs) => bufs,
        };
        let mut skipped = [0; 1];
        let mut rest = wanted;
        let mut slices: [IoSliceMut<'_>; SLICES_MAX + 1] =
            std::array::from_fn(|_| IoSliceMut::new(&mut []));
        slices[0] = IoSliceMut::new(&mut skipped[..skip]);
        for (slice, buf) in slices[1..].iter_mut().zip(bufs.iter_mut()) {
            let share = rest.min(buf.len());
            *slice = IoSliceMut::new(&mut buf[..share]);
            rest -= share;
        }
        let mut none = RecvAncillaryBuffer::default();
        let got = rustix::net::recvmsg(fd, &mut slices, &mut none, RecvFlags::DONTWAIT)?;
        Ok(got.bytes)
    }

    /// Looks at the next byte of the queue, which goes to place `at`; nothing without such a place.
    fn look(&mut self, fd: BorrowedFd<'_>, mut at: usize) -> Option<rustix::io::Result<usize>> {
        let bufs = match self {
            Sink::Ring(kept, position, room) => {
                return (at < *room).then(|| kept.peek(fd, *position + at as u64));
            }
            Sink::Slices(bufs) => bufs,
        };
        let buf = bufs.iter_mut().take(SLICES_MAX).find(|buf| {
            let here = at < buf.len();
            at -= if here { 0 } else { buf.len() };
            here
        });
        let slot = buf?.get_mut(at..=at)?;
        let looked = rustix::net::recv(fd, slot, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        Some(looked.map(|(_, count)| count))
    }
}

/// Reads fresh bytes; `held` says whether the first byte of the queue has been handed on before,
/// and `split` whether the last read may have left the rest of a large piece there: that weighs as
/// much as the whole, so its last byte may not stay.
pub(super) fn fresh(
    fd: BorrowedFd<'_>,
    held: &mut bool,
    split: &mut bool,
    into: &mut Sink<'_, '_>,
) -> io::Result<Got> {
    let room = into.room();
    if room == 0 {
        return Err(io::Error::new(ErrorKind::InvalidInput, "no room to read into"));
    }
    let mut count = unread(fd, *held)?;
    if count == 0 {
        match ended(fd)? {
            None => return Ok(Got::Nothing),
            Some(end) => {
                // Bytes may have come between the two questions; after the end none can.
                count = unread(fd, *held)?;
                if count == 0 {
                    return Ok(Got::End(end));
                }
            }
        }
    }
    if !*held && at_mark(fd) {
        return urgent(fd, held, into);
    }
    let whole = *split || count > HOLD_MAX || count > room;
    let wanted = if whole { room } else { count - 1 };
    let was_held = *held;
    let got = match (wanted, was_held) {
        (0, false) => Got::Nothing,
        _ => take(fd, held, into, wanted)?,
    };
    if whole {
        *split = matches!(got, Got::Bytes(taken) if taken == room);
    }
    match got {
        // Behind the held byte lies the urgent one, or the last.
        Got::Nothing if was_held && at_mark(fd) => urgent(fd, held, into),
        Got::Nothing if wanted == 0 => peek_last(fd, held, into, count),
        // A short read ends at an urgent byte, and that may be the last one too.
        Got::Bytes(taken) if !whole && taken == wanted && !at_mark(fd) => {
            peek_last(fd, held, into, count)
        }
        other => Ok(other),
    }
}

/// Looks at the urgent byte, which is next, and leaves it in the queue as any last one.
fn urgent(fd: BorrowedFd<'_>, held: &mut bool, into: &mut Sink<'_, '_>) -> io::Result<Got> {
    match peek_last(fd, held, into, 1)? {
        Got::Bytes(1) => Ok(Got::Urgent),
        other => Ok(other),
    }
}

/// The number of queued bytes that were not handed on yet.
fn unread(fd: BorrowedFd<'_>, held: bool) -> io::Result<usize> {
    let queued = rustix::io::ioctl_fionread(fd)?;
    Ok(usize::try_from(queued).unwrap_or(usize::MAX).saturating_sub(usize::from(held)))
}

/// Consumes the held byte and up to `room` fresh ones.
fn take(
    fd: BorrowedFd<'_>,
    held: &mut bool,
    into: &mut Sink<'_, '_>,
    room: usize,
) -> io::Result<Got> {
    let skip = usize::from(*held);
    match into.receive(fd, skip, room) {
        Ok(got) if got >= skip => {
            *held = false;
            Ok(if got > skip { Got::Bytes(got - skip) } else { Got::Nothing })
        }
        Ok(_) => Ok(Got::End(ended(fd)?.unwrap_or(Ended::Fin))),
        Err(rustix::io::Errno::AGAIN) => Ok(Got::Nothing),
        Err(rustix::io::Errno::CONNRESET) => Ok(Got::End(Ended::Reset)),
        Err(error) => Err(error.into()),
    }
}

/// Looks at the `count`-th byte of this read and leaves it where it is.
fn peek_last(
    fd: BorrowedFd<'_>,
    held: &mut bool,
    into: &mut Sink<'_, '_>,
    count: usize,
) -> io::Result<Got> {
    let before = if count > 1 { Got::Bytes(count - 1) } else { Got::Nothing };
    let Some(looked) = into.look(fd, count - 1) else { return Ok(before) };
    match looked {
        Ok(1) => {
            *held = true;
            Ok(Got::Bytes(count))
        }
        // FIONREAD may count an urgent byte that was fetched already: this is the end.
        Ok(_) if count == 1 => Ok(Got::End(ended(fd)?.unwrap_or(Ended::Fin))),
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(before),
        Err(rustix::io::Errno::CONNRESET) => Ok(before),
        Err(error) => Err(error.into()),
    }
}

/// Whether the app's direction has ended, and how (PROTOCOL A6, last paragraph).
pub(super) fn ended(fd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    let flags = PollFlags::IN | PollFlags::RDHUP;
    let mut polled = [PollFd::from_borrowed_fd(fd, flags)];
    rustix::event::poll(&mut polled, Some(&Timespec::default()))?;
    let events = polled[0].revents();
    Ok(if events.contains(PollFlags::ERR) {
        Some(Ended::Reset)
    } else if events.contains(PollFlags::HUP) {
        Some(Ended::Gone)
    } else if events.contains(PollFlags::RDHUP) {
        Some(Ended::Fin)
    } else {
        None
    })
}

/// Takes the held byte out of the queue, so that a close is an orderly one.
pub(super) fn drop_held(fd: BorrowedFd<'_>, held: &mut bool) {
    let mut byte = [0; 1];
    if std::mem::take(held) {
        let _gone_anyway = rustix::net::recv(fd, &mut byte, RecvFlags::DONTWAIT);
    }
}
