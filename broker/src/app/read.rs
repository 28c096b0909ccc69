//! Reading what the app wrote, and holding the last byte back.
//!
//! An app learns of an abort only when its peer closes with bytes of the app still unread: then
//! its next read says `ECONNRESET` instead of a clean end. So the last byte of a small burst is
//! looked at, handed on, and left in the kernel's queue; the next read skips it.
//! If the broker is killed, the app sees a reset too, never a silent end.
//! Urgent bytes come in line: a read stops before one, and the next takes it alone.
//! Large bursts are read whole: their last piece would weigh so much that the app's socket might
//! never be writable again; and while more is queued there is no need.

use std::io::{self, ErrorKind, IoSliceMut};
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvAncillaryBuffer, RecvFlags};
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

/// Reads fresh bytes; `held` says whether the first byte of the queue has been handed on before,
/// and `split` whether the last read may have left the rest of a large piece there: that weighs as
/// much as the whole, so its last byte may not stay.
pub(super) fn fresh(
    fd: BorrowedFd<'_>,
    held: &mut bool,
    split: &mut bool,
    bufs: &mut [IoSliceMut<'_>],
) -> io::Result<Got> {
    let slices = bufs.len().min(SLICES_MAX);
    let bufs = &mut bufs[..slices];
    let room: usize = bufs.iter().map(|buf| buf.len()).sum();
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
        return urgent(fd, held, bufs);
    }
    let whole = *split || count > HOLD_MAX || count > room;
    let wanted = if whole { room } else { count - 1 };
    let was_held = *held;
    let got = match (wanted, was_held) {
        (0, false) => Got::Nothing,
        _ => take(fd, held, bufs, wanted)?,
    };
    if whole {
        *split = matches!(got, Got::Bytes(taken) if taken == room);
    }
    match got {
        // Behind the held byte lies the urgent one, or the last.
        Got::Nothing if was_held && at_mark(fd) => urgent(fd, held, bufs),
        Got::Nothing if wanted == 0 => peek_last(fd, held, bufs, count),
        // A short read ends at an urgent byte, and that may be the last one too.
        Got::Bytes(taken) if !whole && taken == wanted && !at_mark(fd) => {
            peek_last(fd, held, bufs, count)
        }
        other => Ok(other),
    }
}

/// Looks at the urgent byte, which is next, and leaves it in the queue as any last one.
fn urgent(fd: BorrowedFd<'_>, held: &mut bool, bufs: &mut [IoSliceMut<'_>]) -> io::Result<Got> {
    match peek_last(fd, held, bufs, 1)? {
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
    bufs: &mut [IoSliceMut<'_>],
    room: usize,
) -> io::Result<Got> {
    let mut skipped = [0; 1];
    let skip = usize::from(*held);
    let mut rest = room;
    let mut slices: [IoSliceMut<'_>; SLICES_MAX + 1] =
        std::array::from_fn(|_| IoSliceMut::new(&mut []));
    slices[0] = IoSliceMut::new(&mut skipped[..skip]);
    for (slice, buf) in slices[1..].iter_mut().zip(bufs) {
        let share = rest.min(buf.len());
        *slice = IoSliceMut::new(&mut buf[..share]);
        rest -= share;
    }
    let mut none = RecvAncillaryBuffer::default();
    let flags = RecvFlags::DONTWAIT;
    match rustix::net::recvmsg(fd, &mut slices, &mut none, flags) {
        Ok(got) if got.bytes >= skip => {
            *held = false;
            Ok(if got.bytes > skip { Got::Bytes(got.bytes - skip) } else { Got::Nothing })
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
    bufs: &mut [IoSliceMut<'_>],
    count: usize,
) -> io::Result<Got> {
    let mut at = count - 1;
    let buf = bufs.iter_mut().find(|buf| {
        let here = at < buf.len();
        at -= if here { 0 } else { buf.len() };
        here
    });
    let before = if count > 1 { Got::Bytes(count - 1) } else { Got::Nothing };
    let Some(slot) = buf.and_then(|buf| buf.get_mut(at..=at)) else { return Ok(before) };
    match rustix::net::recv(fd, slot, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, 1)) => {
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
