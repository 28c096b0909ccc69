//! How an `http` or `file` service begins for a session: a new one, or one that comes from another
//! server (STP 10).
//!
//! A session that comes over is taken only when its next byte is at hand: the ticket was checked
//! against the request, the service was asked for the response, and the whole part that the app
//! has was compared. It is done by polling, with the time as an argument, so that a simulation can
//! run it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use stp_proto::mutant;
use stp_proto::replay::http::{Beginning, Machine, Plan};
use stp_proto::replay::{Exchange, Policy};
use stp_proto::session::StartAt;
use stp_proto::ticket::Claims;
use stp_proto::time::Instant;
use stp_proto::wire::{DenyReason, TransferRequest};

use super::http::Http;
use super::join::Join;
use super::upstream::Streams;
use crate::denial::Denial;
use crate::ticket::Seal;

/// A service that is being opened.
pub struct Takeover<S: Streams, M> {
    streams: S,
    policy: Policy,
    mint: Option<M>,
    at: StartAt,
    /// Requests that begin below this up position may have been executed by another server.
    guard: u64,
    phase: Phase<S>,
}

enum Phase<S: Streams> {
    /// The plan needs nothing of the service.
    Ready(Plan),
    /// A stream is being opened for the plan.
    Stream(Plan, S::Opening),
    /// A response is being joined.
    Rest(Box<Join<S>>),
    /// It was opened.
    Done,
}

/// A service that is open, and where the session's streams begin.
pub type Opened<S, M> = (Http<S, M>, StartAt);

impl<S: Streams, M: Seal> Takeover<S, M> {
    /// Begins: for a new session, or as the request of one that comes over says, whose ticket
    /// `admit` lets in.
    ///
    /// # Errors
    /// When that session cannot go on here.
    pub fn new(
        now: Instant,
        streams: S,
        policy: Policy,
        mut mint: Option<M>,
        request: Option<&TransferRequest<'_>>,
        admit: &dyn Fn(&Claims) -> Result<(), Denial>,
    ) -> Result<Self, Denial> {
        let (plan, at) = match request {
            None => (Plan::Fresh, StartAt::default()),
            Some(request) => plan(request, mint.as_mut(), policy, admit)?,
        };
        let guard = request.map_or(0, |request| request.up_sent);
        Ok(Self::planned(now, streams, policy, mint, (plan, at, guard)))
    }

    /// Begins as the plan says, the session's streams at these positions. Requests that begin below
    /// `guard` may have been executed by another server.
    pub fn planned(
        now: Instant,
        streams: S,
        policy: Policy,
        mint: Option<M>,
        (plan, at, guard): (Plan, StartAt, u64),
    ) -> Self {
        let phase = match plan {
            Plan::Ask(ask) => Phase::Rest(Box::new(Join::new(now, &streams, *ask))),
            plan if plan.needs_stream() => Phase::Stream(plan, streams.open()),
            plan => Phase::Ready(plan),
        };
        Self { streams, policy, mint, at, guard, phase }
    }

    /// A response that was followed (R69) goes on, if it is the one that is asked for.
    pub fn go_on_with(&mut self, now: Instant, followed: Join<S>) {
        mutant!(FollowedForgotten => return);
        self.phase = match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Rest(join) => {
                Phase::Rest(Box::new(match followed.turn_to(now, join.into_ask()) {
                    Ok(join) => join,
                    Err(ask) => Join::new(now, &self.streams, *ask),
                }))
            }
            other => other,
        };
    }

    /// How much of what the app has is compared, and of how much; none while nothing is.
    #[must_use]
    pub fn progress(&self) -> Option<(u64, u64)> {
        match &self.phase {
            Phase::Rest(join) => Some(join.progress()),
            Phase::Ready(_) | Phase::Stream(..) | Phase::Done => None,
        }
    }

    /// When it must be polled again even if nothing wakes it.
    pub fn due(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Rest(join) => Some(join.due()),
            Phase::Ready(_) | Phase::Stream(..) | Phase::Done => None,
        }
    }
}

impl<S: Streams + Clone, M: Seal> Takeover<S, M> {
    /// Goes on. Not to be called again after it is ready.
    pub fn poll(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Opened<S, M>, Denial>> {
        let (plan, stream, joined) = match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Done => return Poll::Pending,
            Phase::Ready(plan) => (plan, None, None),
            Phase::Stream(plan, mut opening) => match Pin::new(&mut opening).poll(cx) {
                Poll::Pending => {
                    self.phase = Phase::Stream(plan, opening);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(stream)) => (plan, Some(stream), None),
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(Denial::unreachable(&error)));
                }
            },
            Phase::Rest(mut join) => match join.poll(now, cx) {
                Poll::Pending => {
                    self.phase = Phase::Rest(join);
                    return Poll::Pending;
                }
                Poll::Ready(Ok((stream, joined))) => {
                    (Plan::Ask(Box::new(join.into_ask())), Some(stream), Some(joined))
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            },
        };
        let beginning = Beginning::planned(plan, self.at.up, self.at.down, joined);
        let Some(beginning) = beginning else {
            let text = "the ticket's exchange cannot be followed";
            return Poll::Ready(Err(Denial::new(DenyReason::Mismatch, text)));
        };
        let mint = self.mint.take();
        let mut machine = Machine::new(self.policy, mint.is_some(), beginning.guarded(self.guard));
        if let Some(scope) = mint.as_ref().and_then(Seal::scope) {
            machine.allow_only(scope.clone());
        }
        Poll::Ready(Ok((Http::new(self.streams.clone(), mint, machine, stream), self.at)))
    }
}

/// What to do for a session that comes over, and where its streams begin.
fn plan<M: Seal>(
    request: &TransferRequest<'_>,
    mint: Option<&mut M>,
    policy: Policy,
    admit: &dyn Fn(&Claims) -> Result<(), Denial>,
) -> Result<(Plan, StartAt), Denial> {
    let Some(claims) = opened(request, mint, admit)? else {
        return Ok((Plan::Fresh, StartAt::default()));
    };
    let Exchange::Http(exchange) = &claims.exchange else { return Err(of_another_kind()) };
    let proof = request.seam.clone();
    let plan = Plan::make(exchange, claims.down, request.down, proof, policy)?;
    Ok((plan, StartAt { up: claims.up, down: request.down }))
}

/// A ticket is of no use at this service.
pub(super) fn of_another_kind() -> Denial {
    Denial::new(DenyReason::Mismatch, "the ticket is for a service of another kind")
}

/// What the ticket of a session that comes over says; none if there is nothing to be continued.
pub(super) fn opened<M: Seal>(
    request: &TransferRequest<'_>,
    mint: Option<&mut M>,
    admit: &dyn Fn(&Claims) -> Result<(), Denial>,
) -> Result<Option<Claims>, Denial> {
    let Some(sealed) = request.ticket else {
        if request.down > 0 || request.up_from > 0 || request.covers > 0 {
            let text = format!(
                "no ticket, but {} bytes were received and {} freed",
                request.down, request.up_from
            );
            return Err(Denial::new(DenyReason::Mismatch, text));
        }
        return Ok(None);
    };
    let mint = mint.ok_or_else(|| {
        Denial::new(DenyReason::Unauthorized, "this server belongs to no cluster")
    })?;
    let claims = mint.open(sealed, request.down, request.up_from)?;
    if claims.up != request.covers {
        let text = format!("the ticket covers {}, not {}", claims.up, request.covers);
        return Err(Denial::new(DenyReason::Mismatch, text));
    }
    admit(&claims)?;
    mint.restrict(claims.granted.clone());
    Ok(Some(claims))
}
