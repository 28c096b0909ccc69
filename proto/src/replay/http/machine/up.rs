//! From the app to the service.

use std::io::{self, IoSlice};

use super::{App, Machine, Out, Service, Want};
use crate::mutant::mutant;
use crate::replay::http::flow::{Flow, Up};
use crate::replay::http::pieces::{at_most, beyond};
use crate::time::Instant;

/// Whether the app's side may give more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Now.
    More,
    /// When the stream to the service takes bytes.
    Room,
    /// Not before something else has happened.
    Nothing,
}

impl Machine {
    /// Whether [`Machine::take`] makes progress.
    #[must_use]
    pub fn wants(&self) -> Wants {
        match (self.observer.up_flow(), self.service) {
            _ if self.is_over() => Wants::More,
            (Flow::Wait, _) => Wants::Nothing,
            (Flow::Head, _) => Wants::More,
            (_, Service::Open { hears: true, .. }) => Wants::Room,
            (_, Service::Open { hears: false, .. } | Service::None) => Wants::More,
            (_, Service::Wanted(..) | Service::Opening(_)) => Wants::Nothing,
        }
    }

    /// Takes bytes of the app, as many as can go on now; says how many. `write` sends to the
    /// service and is called only while a stream is open.
    pub fn take<W>(&mut self, now: Instant, slices: &[IoSlice<'_>], mut write: W) -> usize
    where
        W: FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    {
        if self.is_over() {
            return slices.iter().map(|slice| slice.len()).sum();
        }
        let mut total = 0;
        loop {
            let pieces = beyond(slices, total);
            let Some(first) = pieces.first() else { break };
            let before = self.observer.up_flow();
            let taken = match before {
                Flow::Wait => break,
                Flow::Head => self.show(now, first),
                Flow::Body(_) | Flow::Opaque => self.pass_up(now, &pieces, &mut write),
            };
            total += taken;
            let stuck = taken == 0 && self.observer.up_flow() == before;
            if stuck || !matches!(self.out_state, Out::Goes) {
                break;
            }
        }
        self.flush(&mut write);
        total
    }

    /// Shows the observer what the app sent; says how much it took.
    fn show(&mut self, now: Instant, bytes: &[u8]) -> usize {
        let (taken, event) = self.observer.up(bytes);
        match event {
            Up::More => {}
            Up::Head { begin, repeatable } => self.request(begin, repeatable),
            Up::Opaque if self.scope.is_some() => {
                self.fail("the ticket is for a path, and this is no request for one");
            }
            Up::Opaque if self.observer.positions().0 < self.guard => {
                self.fail("bytes that are not HTTP may have been sent before");
            }
            Up::Opaque => {
                let held = self.observer.take_held_up();
                self.unsent.push(&held);
            }
        }
        self.want_stream(now);
        taken
    }

    fn request(&mut self, begin: u64, repeatable: bool) {
        let repeatable = mutant!(GuardSkipped, repeatable, true);
        if begin < self.guard && !repeatable {
            self.fail("a request that may not be repeated may have been executed before");
            return;
        }
        let head = self.observer.request_head();
        if self.scope.as_ref().is_some_and(|scope| !scope.allows(head)) {
            self.fail("the ticket is for another path");
            return;
        }
        self.unsent.push(head);
    }

    /// What waits to be sent needs a stream.
    pub(super) fn want_stream(&mut self, now: Instant) {
        let goes = matches!(self.out_state, Out::Goes);
        if goes && self.service == Service::None && !self.unsent.is_empty() {
            self.service = Service::Wanted(Want::Request, now);
        }
    }

    /// Writes body bytes through; says how many are dealt with.
    fn pass_up<W>(&mut self, now: Instant, pieces: &[&[u8]], write: &mut W) -> usize
    where
        W: FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    {
        let opaque = self.observer.up_flow() == Flow::Opaque;
        let room = if opaque { usize::MAX } else { self.observer.up_room(pieces) };
        if room == 0 {
            return self.show(now, pieces[0]);
        }
        self.flush(&mut *write);
        let all = room.min(pieces.iter().map(|piece| piece.len()).sum());
        let written = match &mut self.service {
            Service::Open { hears: false, .. } | Service::None => all,
            Service::Wanted(..) | Service::Opening(_) => 0,
            Service::Open { .. } if !self.unsent.is_empty() => 0,
            Service::Open { hears, .. } => match write(&at_most(pieces, room)) {
                Ok(written) => written,
                Err(error) => {
                    *hears = error.kind() == io::ErrorKind::WouldBlock;
                    0
                }
            },
        };
        let mut left = written;
        for piece in pieces {
            let mut seen = &piece[..piece.len().min(left)];
            left -= seen.len();
            while !seen.is_empty() {
                seen = &seen[self.show(now, seen)..];
            }
        }
        self.settle();
        written
    }

    /// Something waits to be written to a stream that is open.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.hears() && !self.unsent.is_empty()
    }

    /// Writes heads that wait. Returns whether the app has ended its side and everything before
    /// that end was written: then the service is to be told.
    pub fn flush<W>(&mut self, mut write: W) -> bool
    where
        W: FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    {
        let Service::Open { hears, .. } = &mut self.service else { return false };
        while *hears && !self.unsent.is_empty() {
            match write(&[IoSlice::new(self.unsent.rest())]) {
                Ok(written) => self.unsent.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => *hears = false,
            }
        }
        self.app == App::Ended && self.unsent.is_empty()
    }

    /// The app has ended its side.
    pub fn app_ended(&mut self, now: Instant) {
        self.app = App::Ended;
        let held = self.observer.take_held_up();
        self.unsent.push(&held);
        self.want_stream(now);
    }
}
