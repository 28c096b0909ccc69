//! What outlives the process of a session: the shipped memory with its counts and texts, as its
//! keeper would hold it, and the shipped way back from it. The kernel's part is a socket pair,
//! through which everything goes that a near side sends; what it is given is counted as given.

use std::io::{IoSliceMut, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use stp_drive::keep::{Counted, Keep};
use stp_net::kept::Kept;
use stp_proto::session::{Event, Limits, Remains, Session};
use stp_proto::time::Instant;

/// What the socket pair holds without being read.
const PIECE: usize = 32 << 10;

/// What is kept of one near side.
pub struct KeptSide {
    kept: Kept,
    keep: Keep,
    here: UnixStream,
    there: UnixStream,
}

impl KeptSide {
    pub fn new(limits: &Limits) -> KeptSide {
        let (here, there) = UnixStream::pair().expect("a socket pair");
        let kept = Kept::new(limits.send_buffer_max, limits.receive_buffer_max);
        KeptSide { kept: kept.expect("some memory"), keep: Keep::default(), here, there }
    }

    /// The near side has sent the first `count` bytes of these: they are read from its socket.
    pub fn sent(&self, slices: &mut [IoSliceMut<'_>], mut count: usize) {
        for slice in slices {
            let here = slice.len().min(count);
            count -= here;
            for piece in slice[..here].chunks_mut(PIECE) {
                (&self.there).write_all(piece).expect("it fits");
                let mut done = 0;
                while done < piece.len() {
                    let (at, rest) = (self.kept.taken(), piece.len() - done);
                    let read = self.kept.read(self.here.as_fd(), 0, at, rest);
                    done += read.expect("it is there");
                    let fresh = &mut piece[done - read.unwrap_or(0)..done];
                    self.kept.copy_up(at, fresh.len(), &mut [IoSliceMut::new(fresh)]);
                }
            }
        }
    }

    /// Bytes were read into the ring.
    pub fn moved(&mut self) {
        self.keep.moved();
    }

    /// The near side has taken so many bytes.
    pub fn took(&self, count: usize) {
        self.kept.skip(count as u64);
    }

    /// Before and after the near side is given something.
    pub fn put_ticket(&mut self, session: &Session) {
        self.keep.put_ticket(&self.kept, session);
    }

    pub fn hold(&mut self, session: &Session) {
        if session.undelivered() > 0 {
            self.keep.hold(&self.kept, session);
        }
    }

    pub fn event(&mut self, event: &Event) {
        if matches!(event, Event::TicketStored { .. }) {
            self.keep.ticket_came();
        }
    }

    pub fn put(&mut self, session: &Session) {
        self.put_ticket(session);
        if let Some(remains) = session.remains() {
            let fits = self.keep.put(&self.kept, session, |out| remains.encode(out));
            assert!(fits, "the state of a session is short");
        }
    }

    /// The session again, in the next process.
    pub fn restore(&mut self, now: Instant, limits: &Limits, service: &str) -> Option<Session> {
        let file = self.kept.file().try_clone_to_owned().expect("a descriptor");
        self.kept = Kept::open(file).expect("it was made so");
        self.keep = Keep::found();
        let record = self.kept.record()?;
        let remains = Remains::decode(&record).expect("what was put by");
        let Counted { at, up, down, .. } = Counted::of(&self.kept, &remains, self.kept.taken());
        let bytes = (up.as_slice(), down.as_slice());
        let session = Session::restore(now, limits.clone(), service, &remains, at, bytes);
        let mut session = session.expect("what was put by fits");
        if let Some(note) = self.kept.note().filter(|note| !note.is_empty()) {
            session.take_up_ticket(&note).expect("what was put by");
        }
        Some(session)
    }
}
