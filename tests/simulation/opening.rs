//! Opening the replayable service of a session: a new one, or one that comes from another server
//! (`server/src/open.rs`, `server/src/service/replay.rs`). Plan, splice and claims are the shipped
//! ones.

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::rc::Rc;
use std::time::Duration;

use stp_proto::handle::Handle;
use stp_proto::replay::http::{self, Ask, Judged, Observer, Plan, SpliceStep};
use stp_proto::replay::{Exchange, NoReplay, NoReplayKind, Policy};
use stp_proto::seam::Seam;
use stp_proto::session::StartAt;
use stp_proto::ticket::{Claims, Holder, TicketError};
use stp_proto::time::Instant;
use stp_proto::wire::{DenyReason, TransferRequest};

use crate::http::Http;
use crate::origin::{Origin, Upstream};

/// The simulation begins at this second since 1970, by a clock that is right.
pub const EPOCH_S: u64 = 1_700_000_000;

/// Makes and opens tickets: the claims as they are, without a seal.
#[derive(Clone)]
pub struct Mint {
    pub holder: Holder,
    pub life: Duration,
    /// What the machine's clock showed when the simulation began.
    pub clock: Rc<Cell<u64>>,
}

impl Mint {
    /// Seconds since 1970, as this machine has it.
    fn unix(&self, now: Instant) -> u64 {
        self.clock.get() + now.0 / 1_000_000
    }

    pub fn seal(&self, now: Instant, at: (u64, u64), exchange: Exchange) -> Vec<u8> {
        let times = (self.unix(now), self.life.as_secs());
        let id = Handle([1; 16]);
        Claims::new(&self.holder, id, times, at, exchange).encode().unwrap_or_default()
    }
}

/// A refusal to take a session.
pub type Denial = (DenyReason, String);

fn denied(refusal: NoReplay) -> Denial {
    let why = match refusal.kind {
        NoReplayKind::Mismatch => DenyReason::Mismatch,
        NoReplayKind::Seam => DenyReason::Seam,
        NoReplayKind::NotHere => DenyReason::NotHere,
        NoReplayKind::Busy => DenyReason::Overloaded,
        NoReplayKind::Unsafe => DenyReason::Unsafe,
    };
    (why, refusal.text)
}

/// Why there is none.
pub enum JoinError {
    Service,
    Refused(NoReplay),
}

/// A stream that stands at the seam.
pub struct Joined {
    pub upstream: Upstream,
    pub ahead: Vec<u8>,
    seam: Option<Seam>,
    pub reusable: bool,
}

fn read_more(now: Instant, upstream: &mut Upstream, held: &mut Vec<u8>) -> Result<(), JoinError> {
    let mut piece = [0; 8192];
    match upstream.read(now, &mut [IoSliceMut::new(&mut piece)], usize::MAX) {
        Ok(0) | Err(_) => Err(JoinError::Service),
        Ok(count) => {
            held.extend_from_slice(&piece[..count]);
            Ok(())
        }
    }
}

/// Asks for the rest and brings the answer to the seam.
pub fn join(now: Instant, origin: &Rc<Origin>, ask: &Ask) -> Result<Joined, JoinError> {
    let mut upstream = Upstream::open(now, origin).map_err(|_| JoinError::Service)?;
    let mut sent = 0;
    while sent < ask.request.len() {
        let slices = [IoSlice::new(&ask.request[sent..])];
        sent += upstream.try_write(now, &slices).map_err(|_| JoinError::Service)?;
    }
    let mut held = Vec::new();
    let mut splice = loop {
        match ask.judge(&held).map_err(JoinError::Refused)? {
            Judged::Partial => read_more(now, &mut upstream, &mut held)?,
            Judged::Interim(length) => drop(held.drain(..length)),
            Judged::Splice(length, splice) => {
                held.drain(..length);
                break splice;
            }
        }
    };
    loop {
        match splice.feed(&held).map_err(JoinError::Refused)? {
            SpliceStep::More => {
                held.clear();
                read_more(now, &mut upstream, &mut held)?;
            }
            SpliceStep::Joined(needed) => {
                held.drain(..needed);
                break;
            }
        }
    }
    let left = usize::try_from(splice.left.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    assert!(held.len() <= left || splice.excess > 0, "the origin sends what it says");
    held.truncate(left);
    let reusable = splice.keep_alive && splice.excess == 0;
    Ok(Joined { upstream, ahead: held, seam: splice.take_seam(), reusable })
}

/// How a service begins.
pub struct Beginning {
    pub observer: Observer,
    pub upstream: Option<Upstream>,
    pub unsent: Vec<u8>,
    pub out: Vec<u8>,
    pub ahead: Vec<u8>,
    pub reusable: bool,
    pub guard: u64,
    pub ticketed: bool,
}

impl Beginning {
    fn at(observer: Observer, upstream: Option<Upstream>) -> Beginning {
        Beginning {
            observer,
            upstream,
            unsent: Vec::new(),
            out: Vec::new(),
            ahead: Vec::new(),
            reusable: true,
            guard: 0,
            ticketed: false,
        }
    }
}

/// Opens the service as the CONNECT wants it; says where the session's streams begin.
pub fn open(
    now: Instant,
    origin: &Rc<Origin>,
    request: Option<&TransferRequest<'_>>,
    mint: Mint,
    policy: Policy,
) -> Result<(Http, StartAt), Denial> {
    let connect =
        || Upstream::open(now, origin).map_err(|_| (DenyReason::Refused(111), "down".to_owned()));
    let (beginning, at) = match request {
        None => (Beginning::at(Observer::new(0, 0), Some(connect()?)), StartAt::default()),
        Some(request) => {
            let guard = request.up_sent;
            let (beginning, at) = match request.ticket {
                None if request.down > 0 || request.up_from > 0 || request.covers > 0 => {
                    return Err((DenyReason::Mismatch, "no ticket".to_owned()));
                }
                None => (Beginning::at(Observer::new(0, 0), Some(connect()?)), StartAt::default()),
                Some(ticket) => continue_from(now, origin, request, ticket, &mint, policy)?,
            };
            (Beginning { guard, ..beginning }, at)
        }
    };
    Ok((Http::new(Rc::clone(origin), policy, mint, beginning), at))
}

fn continue_from(
    now: Instant,
    origin: &Rc<Origin>,
    request: &TransferRequest<'_>,
    ticket: &[u8],
    mint: &Mint,
    policy: Policy,
) -> Result<(Beginning, StartAt), Denial> {
    let connect =
        || Upstream::open(now, origin).map_err(|_| (DenyReason::Refused(111), "down".to_owned()));
    let bad = |error: TicketError| match error {
        TicketError::Expired(_) => (DenyReason::Expired, error.to_string()),
        _ => (DenyReason::Mismatch, error.to_string()),
    };
    let broken = || (DenyReason::Mismatch, "the exchange cannot be followed".to_owned());
    let claims = Claims::decode(ticket).map_err(bad)?;
    claims.check(&mint.holder, mint.unix(now), (request.down, request.up_from)).map_err(bad)?;
    if claims.up != request.covers {
        return Err((DenyReason::Mismatch, "the ticket covers another position".to_owned()));
    }
    let (up, have) = (claims.up, request.down);
    let exchange = claims.exchange.http().ok_or_else(broken)?;
    let plan = Plan::make(exchange, claims.down, have, request.seam.clone(), policy);
    let beginning = match plan.map_err(denied)? {
        Plan::Fresh => Beginning::at(Observer::new(up, have), Some(connect()?)),
        Plan::Closed => Beginning::at(Observer::closed(up, have), None),
        Plan::Again { request } => {
            let observer = Observer::asked(up, have, &request).ok_or_else(broken)?;
            Beginning { unsent: request, ..Beginning::at(observer, Some(connect()?)) }
        }
        Plan::Complete { head_rest, close } => {
            let reached = have + head_rest.len() as u64;
            let beginning = if close {
                Beginning::at(Observer::closed(up, reached), None)
            } else {
                Beginning::at(Observer::new(up, reached), Some(connect()?))
            };
            Beginning { out: head_rest, ..beginning }
        }
        Plan::Ask(ask) => {
            let http::Exchange::Response { request, response, head_at } = exchange else {
                return Err(broken());
            };
            let joined = join(now, origin, &ask).map_err(|error| match error {
                JoinError::Service => (DenyReason::Refused(111), "down".to_owned()),
                JoinError::Refused(refusal) => denied(refusal),
            })?;
            let reached = have + ask.head_rest.len() as u64;
            let exchange = (request.as_slice(), response.as_slice(), *head_at);
            let observer =
                Observer::inside(up, reached, exchange, joined.seam).ok_or_else(broken)?;
            Beginning {
                out: ask.head_rest,
                ahead: joined.ahead,
                reusable: joined.reusable,
                ticketed: true,
                ..Beginning::at(observer, Some(joined.upstream))
            }
        }
    };
    Ok((beginning, StartAt { up, down: have }))
}
