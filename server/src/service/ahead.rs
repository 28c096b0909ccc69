//! What is taken of a service while its session is away, so that it does not give its client up.
//!
//! How fast is [`stp_proto::trickle`]'s decision; where it is put is a [`Spool`]. Everything that
//! the service sends later goes through the spool as well until that is empty: the order stays.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use stp_net::spool::{Room, Spool, View};
use stp_proto::session::Session;
use stp_proto::time::Instant;
use stp_proto::trickle::{LOOK_EVERY, Take, Trickle};

use super::upstream::Upstream;

/// What may be taken of a service.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The most bytes of one session.
    pub most: u64,
    /// Where they are put, and how many there may be of all sessions.
    pub room: Arc<Room>,
    /// The shortest time for which the service waits for a client that takes nothing.
    pub patience: Option<Duration>,
}

/// See the module.
#[derive(Debug)]
pub struct Ahead {
    spool: Spool,
    trickle: Trickle,
    /// The last byte up to here in the spool is urgent.
    urgent: Option<u64>,
    /// How the service ended behind what is in the spool.
    end: Option<io::Result<()>>,
    due: Option<Instant>,
}

impl Ahead {
    /// Of a session that begins.
    #[must_use]
    pub fn of(terms: &Terms) -> Ahead {
        let spool = Spool::new(&terms.room, terms.most);
        let trickle = Trickle::new(terms.patience);
        Ahead { spool, trickle, urgent: None, end: None, due: None }
    }

    /// What the spool tells of itself.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.spool.view()
    }

    /// Memory that it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.spool.memory()
    }

    /// When it wants to be looked at again.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// There is something to be had before the service is read again.
    #[must_use]
    pub fn has_some(&self) -> bool {
        !self.spool.is_empty() || self.end.is_some()
    }

    /// The service is read by the session itself.
    pub fn flows(&mut self) {
        self.trickle.flows();
        self.due = None;
    }

    /// The session has no room: takes what is to be taken now.
    pub fn look(&mut self, now: Instant, session: &Session, upstream: &Upstream) {
        self.due = None;
        while self.end.is_none() {
            let held = self.spool.len();
            let most = held + self.spool.room();
            let take = self.trickle.look(now, session.is_away(now), held, most);
            self.spool.say_full(take == Take::Full);
            match take {
                Take::Now(count) => self.take(count, upstream),
                Take::Later(at) => return self.due = Some(at),
                // Other sessions may give some of the common room back.
                Take::Full => return self.due = Some(now + LOOK_EVERY),
            }
        }
    }

    fn take(&mut self, mut count: u64, upstream: &Upstream) {
        while count > 0 {
            let mut urgent = false;
            let filled = self.spool.fill(count, |slices| {
                let read;
                (read, urgent) = upstream.try_read_marked(slices)?;
                Ok(read)
            });
            match filled {
                Ok(0) => return self.end = Some(Ok(())),
                Ok(read) => count = count.saturating_sub(read as u64),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.end = Some(Err(error)),
            }
            if urgent {
                self.urgent = Some(self.spool.len());
            }
        }
    }

    /// Moves bytes into the session; how many, and whether the last one is urgent. 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` when the session has no room; otherwise the service was reset, or its spool is
    /// lost.
    pub fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<(usize, bool)> {
        if self.spool.is_empty() {
            return match self.end.take() {
                Some(Err(error)) => Err(error),
                _ => Ok((0, false)),
            };
        }
        let most = self.urgent.unwrap_or(u64::MAX);
        let spool = &mut self.spool;
        let taken = session.fill(now, |slices| {
            let room: usize = slices.iter().map(|slice| slice.len()).sum();
            spool.give(most.min(room as u64), |bytes| {
                let mut rest = &bytes[0][..];
                for slice in slices {
                    let (here, later) = rest.split_at(rest.len().min(slice.len()));
                    slice[..here.len()].copy_from_slice(here);
                    rest = later;
                }
                Ok(bytes[0].len() - rest.len())
            })
        })?;
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let urgent = self.urgent.as_mut().is_some_and(|urgent| {
            *urgent -= taken as u64;
            *urgent == 0
        });
        if urgent {
            self.urgent = None;
        }
        Ok((taken, urgent))
    }
}
