//! From the framing in which a body comes to the one in which the app gets it.

use core::time::Duration;

use super::body::{Body, Framing};
use super::chunks::{Base, CELL, Cutter};
use super::parts::{Parts, Retelling};
use crate::time::Instant;

/// Bytes that wait for the rest of their chunk go out after this time at the latest, and at once
/// if the last chunk is longer ago: each that is cut short costs a ticket of 1 to 2 KiB. These four
/// hold for records of TLS as well, which are announced as chunks are.
pub const FLUSH_EVERY: Duration = Duration::from_millis(50);

/// The same while the app's side has much to receive before them.
pub const FLUSH_BUSY: Duration = Duration::from_millis(250);

/// The same while the session is about to go to another server: what that server was told does not
/// hold any more when a chunk is cut short.
pub const FLUSH_LEAVING: Duration = Duration::from_secs(2);
/// A session that has not gone within this time after it was asked to is not waited for.
pub const LEAVING_MAX: Duration = Duration::from_secs(10);

/// Follows a body as it comes, and says what of it is data.
#[derive(Debug)]
pub(super) struct Decoder {
    body: Body,
    /// Its several ranges are told in other words.
    retelling: Option<Retelling>,
    /// What came behind the last data: lines of chunks, trailers.
    framing: Vec<u8>,
}

/// What a [`Decoder`] made of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoded {
    /// All were taken.
    More,
    /// The body is over; so many bytes belonged to it.
    Over(usize),
    /// So many bytes were taken; the chunks cannot be understood from there on.
    Broken(usize),
}

impl Decoder {
    pub fn new(framing: Framing) -> Self {
        Self { body: Body::new(framing), retelling: None, framing: Vec::new() }
    }

    /// The same for a body of several ranges, which are told in other words.
    pub fn retelling(framing: Framing, theirs: Parts, ours: Parts) -> Self {
        Self { retelling: Some(Retelling::new(theirs, ours)), ..Self::new(framing) }
    }

    /// What is not understood must not reach the app.
    pub fn is_strict(&self) -> bool {
        self.retelling.is_some()
    }

    /// Takes bytes of the service; gives data to `sink`.
    pub fn take(&mut self, bytes: &[u8], mut sink: impl FnMut(&[u8])) -> Decoded {
        let mut taken = 0;
        while taken < bytes.len() && !self.body.over() {
            let (count, data) = self.body.next(&bytes[taken..]);
            if self.body.broken() {
                return Decoded::Broken(taken);
            }
            let part = &bytes[taken..taken + count];
            if !data {
                self.framing.extend_from_slice(part);
            } else if let Some(retelling) = &mut self.retelling {
                if !retelling.take(part, &mut sink) {
                    return Decoded::Broken(taken);
                }
            } else {
                self.framing.clear();
                sink(part);
            }
            taken += count;
        }
        if self.body.over() { Decoded::Over(taken) } else { Decoded::More }
    }

    /// Everything has come.
    pub fn over(&self) -> bool {
        self.body.over()
    }

    /// The end of the service's stream is the end of the body.
    pub fn until_close(&self) -> bool {
        self.body.until_close()
    }

    /// The bytes are framed by nothing but their number, or the end of the stream.
    pub fn is_plain(&self) -> bool {
        self.body.is_plain() && self.retelling.is_none()
    }

    /// What frames the body, behind the last data.
    fn framing(&self) -> &[u8] {
        self.framing.strip_prefix(b"\r\n").unwrap_or(&self.framing)
    }

    /// The lines behind the last chunk's, with the empty one.
    pub fn trailers(&self) -> &[u8] {
        match self.framing().iter().position(|&byte| byte == b'\n') {
            Some(line) => &self.framing()[line + 1..],
            None => b"\r\n",
        }
    }
}

/// A body that does not reach the app as it comes.
#[derive(Debug)]
pub(super) struct Translation {
    decoder: Decoder,
    /// Frames it anew; none: the app gets the mere body.
    cutter: Option<Cutter>,
    /// When what waits is to go out.
    flush_at: Option<Instant>,
    flushed: Option<Instant>,
    /// A whole chunk went out since anything was last known to wait.
    filled: bool,
    /// Until when the session is expected to go to another server.
    leaving: Option<Instant>,
    /// What waits is to go out now.
    flush: bool,
    /// The ticket for it was offered.
    announced: bool,
}

impl Translation {
    pub fn new(decoder: Decoder, cutter: Option<Cutter>) -> Self {
        let (flush_at, flushed, leaving) = (None, None, None);
        let (filled, flush, announced) = (false, false, false);
        Self { decoder, cutter, flush_at, flushed, filled, leaving, flush, announced }
    }

    /// Takes bytes of the service; what the app gets of them goes to `out`.
    pub fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Decoded {
        let (cutter, before) = (&mut self.cutter, out.len());
        let decoded = self.decoder.take(bytes, |data| match cutter {
            Some(cutter) => cutter.push(data, out),
            None => out.extend_from_slice(data),
        });
        match decoded {
            Decoded::More => {}
            Decoded::Over(_) => self.end(out),
            Decoded::Broken(_) if self.is_strict() => {}
            Decoded::Broken(_) => self.give_up(out),
        }
        self.filled |= out.len() > before;
        if !self.waits() {
            self.flush_at = None;
        }
        decoded
    }

    /// The body is over.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if let Some(cutter) = &mut self.cutter {
            cutter.end(self.decoder.trailers(), out);
        }
    }

    /// The chunks cannot be followed: what is there goes out as it came.
    fn give_up(&mut self, out: &mut Vec<u8>) {
        if let Some(cutter) = self.cutter.as_mut().filter(|cutter| cutter.waits()) {
            cutter.emit(out);
        }
        out.extend_from_slice(self.decoder.framing());
    }

    /// The end of the service's stream is the end of the body.
    pub fn until_close(&self) -> bool {
        self.decoder.until_close()
    }

    /// If the service's stream ended now, its body would lack its end.
    pub fn is_cut(&self) -> bool {
        !self.decoder.until_close() && !self.decoder.over()
    }

    /// What is not understood must not reach the app.
    pub fn is_strict(&self) -> bool {
        self.decoder.is_strict()
    }

    /// Bytes wait for the rest of their chunk.
    pub fn waits(&self) -> bool {
        self.cutter.as_ref().is_some_and(Cutter::waits)
    }

    /// Nothing more is there now: what waits goes out when its time has come.
    /// `behind` bytes before it are still on their way: if they are many, it is in no hurry.
    pub fn pause(&mut self, now: Instant, behind: u64) {
        if !self.waits() {
            return;
        }
        // Of a body that fills its chunks, none is cut short.
        if std::mem::take(&mut self.filled) {
            (self.flushed, self.flush_at) = (Some(now), None);
        }
        let leaving = self.leaving.is_some_and(|until| now < until);
        let every = match behind >= u64::from(CELL) {
            _ if leaving => FLUSH_LEAVING,
            true => FLUSH_BUSY,
            false => FLUSH_EVERY,
        };
        let flushed = self.flushed.map_or(now, |at| at + every);
        let at = *self.flush_at.get_or_insert(flushed.max(now));
        self.flush |= at <= now;
        if self.flush {
            self.flushed = Some(now);
        }
    }

    /// When [`Translation::pause`] is to be called again.
    pub fn due(&self) -> Option<Instant> {
        self.flush_at.filter(|_| !self.flush)
    }

    /// The session is about to go to another server.
    pub fn leaves(&mut self, now: Instant) {
        self.leaving = Some(now + LEAVING_MAX);
        (self.flushed, self.flush_at) = (Some(now), None);
    }

    /// What waits goes out, whatever comes.
    pub fn flush(&mut self) {
        self.flush = self.waits();
    }

    /// What waits stays until it is known how the body goes on.
    pub fn hold(&mut self) {
        (self.flush, self.flush_at) = (false, None);
    }

    /// What waits is to go out now.
    pub fn flushes(&self) -> bool {
        self.flush && self.waits()
    }

    /// Announces what is to go out now, at this down position; says whether that is new.
    pub fn announce(&mut self, at: u64) -> bool {
        let new = !self.announced;
        if let Some(cutter) = self.cutter.as_mut().filter(|_| new) {
            cutter.announce(at);
        }
        self.announced = true;
        new
    }

    /// What waits goes out.
    pub fn emit(&mut self, out: &mut Vec<u8>) {
        if let Some(cutter) = &mut self.cutter {
            cutter.emit(out);
        }
        (self.flush, self.announced, self.flush_at) = (false, false, None);
    }

    /// The base of its chunks that was announced.
    pub fn base(&self) -> Option<&Base> {
        self.cutter.as_ref().map(Cutter::base)
    }

    /// A base at the present down position.
    pub fn base_here(&self, at: u64) -> Option<Base> {
        self.cutter.as_ref().map(|cutter| cutter.base_here(at))
    }
}
