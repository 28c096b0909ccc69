//! A link inside one process: two ends that hand each other frames through memory.
//!
//! The broker serves destinations that have no far end by a server of its own. Both ends of such a
//! session are in one process, so its frames need neither a socket nor encryption.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use stp_net::link::{Records, TcpInfo};
use stp_proto::wire::FRAME_MAX;

use crate::carrier::Carrier;

/// No more data is queued while this many bytes wait for the other end to take them: a few full
/// frames, so that both ends stay busy and little memory is held.
const ROOM_BYTES: usize = 8 * FRAME_MAX;

/// What travels one way.
#[derive(Default)]
struct Lane {
    bytes: Vec<u8>,
    frames: Vec<Range<u32>>,
    /// The sending end is gone: nothing more comes.
    ended: bool,
    /// The receiving end is gone: nothing more is taken.
    deaf: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Lane {
    fn wake(waker: &mut Option<Waker>) {
        if let Some(waker) = waker.take() {
            waker.wake();
        }
    }
}

/// One end of a link in memory.
pub struct MemoryLink {
    out: Arc<Mutex<Lane>>,
    into: Arc<Mutex<Lane>>,
    /// What the last read took from the lane; swapped with it, so that no frame is copied.
    bytes: Vec<u8>,
    frames: Vec<Range<u32>>,
    name: &'static str,
}

impl MemoryLink {
    /// Both ends. `name` is what the status shows for the way between them.
    #[must_use]
    pub fn pair(name: &'static str) -> (MemoryLink, MemoryLink) {
        let (there, back) = (Arc::<Mutex<Lane>>::default(), Arc::<Mutex<Lane>>::default());
        let end = |out: &Arc<Mutex<Lane>>, into: &Arc<Mutex<Lane>>| MemoryLink {
            out: Arc::clone(out),
            into: Arc::clone(into),
            bytes: Vec::new(),
            frames: Vec::new(),
            name,
        };
        (end(&there, &back), end(&back, &there))
    }
}

impl Carrier for MemoryLink {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut lane = self.into.lock();
        if !lane.frames.is_empty() || lane.ended {
            return Poll::Ready(());
        }
        lane.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut lane = self.out.lock();
        if lane.bytes.len() < ROOM_BYTES || lane.deaf {
            return Poll::Ready(());
        }
        lane.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn try_read(&mut self) -> io::Result<Records<'_>> {
        self.bytes.clear();
        self.frames.clear();
        let mut lane = self.into.lock();
        let ended = lane.ended;
        if lane.frames.is_empty() && !ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        std::mem::swap(&mut lane.bytes, &mut self.bytes);
        std::mem::swap(&mut lane.frames, &mut self.frames);
        Lane::wake(&mut lane.writer);
        drop(lane);
        Ok(Records::new(&self.bytes, &self.frames, ended))
    }

    fn send(&mut self, frame: &[u8]) {
        let mut lane = self.out.lock();
        if lane.deaf {
            return;
        }
        let from = lane.bytes.len();
        lane.bytes.extend_from_slice(frame);
        let position = |at: usize| u32::try_from(at).expect("at most ROOM_BYTES and some frames");
        let frame = position(from)..position(lane.bytes.len());
        lane.frames.push(frame);
        Lane::wake(&mut lane.reader);
    }

    fn try_flush(&mut self) -> io::Result<bool> {
        // A frame is with the other end as soon as it is sent.
        if self.out.lock().deaf { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(true) }
    }

    fn unsent(&self) -> usize {
        // What the other end has not taken holds back more data, so the loop waits until it is
        // writable.
        (self.out.lock().bytes.len() + 1).saturating_sub(ROOM_BYTES)
    }

    fn has_room(&self) -> bool {
        self.out.lock().bytes.len() < ROOM_BYTES
    }

    fn tcp_info(&self) -> io::Result<TcpInfo> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn ends(&self) -> String {
        self.name.to_owned()
    }

    fn linger(self) {
        // Whatever was sent is in the other end's lane already.
        drop(self);
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        let mut out = self.out.lock();
        out.ended = true;
        Lane::wake(&mut out.reader);
        drop(out);
        let mut into = self.into.lock();
        into.deaf = true;
        Lane::wake(&mut into.writer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noop() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn frames_arrive_whole_and_in_order_and_then_the_end() {
        let (mut a, mut b) = MemoryLink::pair("here");
        assert!(b.poll_readable(&mut noop()).is_pending());
        a.send(b"one");
        a.send(b"three");
        assert!(b.poll_readable(&mut noop()).is_ready());
        let records = b.try_read().unwrap();
        assert_eq!(records.iter().collect::<Vec<_>>(), [b"one".as_slice(), b"three"]);
        assert!(!records.closed());
        assert_eq!(b.try_read().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        a.send(b"last");
        a.linger();
        let records = b.try_read().unwrap();
        assert_eq!((records.len(), records.closed()), (1, true));
        assert_eq!(b.try_flush().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_full_lane_takes_no_more_data_until_the_other_end_has_read() {
        let (mut a, mut b) = MemoryLink::pair("here");
        while a.has_room() {
            a.send(&[7; FRAME_MAX]);
        }
        a.send(&[7; 16]);
        assert!(a.unsent() > 0 && a.poll_writable(&mut noop()).is_pending());
        assert_eq!(b.try_read().unwrap().len(), ROOM_BYTES / FRAME_MAX + 1);
        assert!(a.has_room() && a.unsent() == 0 && a.poll_writable(&mut noop()).is_ready());
    }
}
