//! How an `https` service begins for a session: with a handshake, or where another server left it.
//!
//! A session that comes over is taken as by an `http` service: its exchange goes on at the record
//! that the ticket names, after the plaintext before it was compared. Then the stream from there on
//! is made again and compared with the proof of what the app has.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use stp_drive::{Near, Pulled};
use stp_proto::replay::http::{Exchange, Plan};
use stp_proto::replay::{self, Policy, https};
use stp_proto::seam::{BLOCK, SeamProof};
use stp_proto::session::StartAt;
use stp_proto::ticket::Claims;
use stp_proto::time::Instant;
use stp_proto::wire::{DenyReason, TransferRequest};
use stp_tls::handshake::Handshake;
use stp_tls::reader::{Place, Reader};
use stp_tls::record::OVERHEAD;
use stp_tls::secret::Keys;
use stp_tls::writer::Writer;

use super::near::{Https, Stage};
use super::side::{Open, Sealed};
use crate::denial::Denial;
use crate::service::http::Http;
use crate::service::join::Join;
use crate::service::takeover::{self, of_another_kind, opened};
use crate::service::upstream::Streams;
use crate::ticket::{Seal, unix_now};

/// The service must go on within this time while its response is made again.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Steps that are taken in one turn, so that other sessions have theirs.
const STEPS_AT_ONCE: usize = 32;

/// A service that is being opened.
pub struct Takeover<S: Streams, M> {
    config: Arc<ServerConfig>,
    phase: Phase<S, M>,
}

enum Phase<S: Streams, M> {
    /// The exchanges begin.
    Exchanges(takeover::Takeover<S, M>, Option<Box<Left>>),
    /// The stream is made again. When that has taken too long without progress.
    Records(Box<Https<S, M>>, StartAt, Instant),
    /// It was opened.
    Done,
}

/// Of the first bytes behind a ticket's place so many are not of the plaintext: a change of keys
/// and what two records add to theirs. A third one is far behind.
const FRAMING_MAX: u64 = 27 + 2 * OVERHEAD as u64;

/// What another server has left.
struct Left {
    exchange: https::Exchange,
    keys: Keys,
    /// Of the ticket.
    at: (u64, u64),
    /// Down bytes that the app has, and the proof of those behind the ticket.
    have: u64,
    proof: Option<SeamProof>,
    /// The response's head, if the app has some of the record in which it begins.
    head: Vec<u8>,
    /// Up bytes that the other server may have had.
    sent: u64,
}

/// What polling came upon.
type Outcome<S, M> = Poll<Result<(Https<S, M>, StartAt), Denial>>;

impl<S: Streams, M: Seal> Takeover<S, M> {
    /// Begins, as [`takeover::Takeover::new`] does; the handshake of a new session will be done as
    /// `config` says.
    ///
    /// # Errors
    /// When a session that comes over cannot go on here.
    pub fn new(
        now: Instant,
        streams: S,
        (policy, config): (Policy, Arc<ServerConfig>),
        mut mint: Option<M>,
        request: Option<&TransferRequest<'_>>,
        admit: &dyn Fn(&Claims) -> Result<(), Denial>,
    ) -> Result<Self, Denial> {
        let claims = match request {
            Some(request) => opened(request, mint.as_mut(), admit)?,
            None => None,
        };
        let (plan, at, guard, left) = match (request, claims) {
            (Some(request), Some(claims)) => {
                let left = Left::new(request, claims)?;
                let have = left.exchange.plain + left.head.len() as u64;
                let (exchange, proof) = (&left.exchange, left.exchange.proof());
                let mut plan = Plan::make(&exchange.http, exchange.at, have, proof, policy)?;
                if let Plan::Ask(ask) = &mut plan {
                    ask.compared_later(left.compared_later());
                }
                let at = StartAt { up: exchange.covers, down: have };
                // How much of the plaintext that is, is known when its records come again.
                let guard = if left.sent > left.at.0 { u64::MAX } else { 0 };
                (plan, at, guard, Some(Box::new(left)))
            }
            _ => (Plan::Fresh, StartAt::default(), 0, None),
        };
        let inner = takeover::Takeover::planned(now, streams, policy, mint, (plan, at, guard));
        Ok(Self { config, phase: Phase::Exchanges(inner, left) })
    }

    /// A response that was followed (R69) goes on, if it is the one that is asked for.
    pub fn go_on_with(&mut self, now: Instant, followed: Join<S>) {
        if let Phase::Exchanges(inner, _) = &mut self.phase {
            inner.go_on_with(now, followed);
        }
    }

    /// How much of what the app has is compared, and of how much; none while nothing is.
    #[must_use]
    pub fn progress(&self) -> Option<(u64, u64)> {
        match &self.phase {
            Phase::Exchanges(inner, _) => inner.progress(),
            Phase::Records(..) | Phase::Done => None,
        }
    }

    /// When it must be polled again even if nothing wakes it.
    pub fn due(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Exchanges(inner, _) => inner.due(),
            Phase::Records(https, _, until) => https.http.due().into_iter().chain([*until]).min(),
            Phase::Done => None,
        }
    }
}

impl<S: Streams + Clone, M: Seal> Takeover<S, M> {
    /// Goes on. Not to be called again after it is ready.
    pub fn poll(&mut self, now: Instant, cx: &mut Context<'_>) -> Outcome<S, M> {
        loop {
            match std::mem::replace(&mut self.phase, Phase::Done) {
                Phase::Done => return Poll::Pending,
                Phase::Exchanges(mut inner, left) => match inner.poll(now, cx) {
                    Poll::Pending => {
                        self.phase = Phase::Exchanges(inner, left);
                        return Poll::Pending;
                    }
                    Poll::Ready(Err(denial)) => return Poll::Ready(Err(denial)),
                    Poll::Ready(Ok((http, at))) => {
                        let Some(left) = left else {
                            return Poll::Ready(self.greet(http).map(|https| (https, at)));
                        };
                        let at = StartAt { up: left.at.0, down: left.have };
                        let https = Box::new(left.go_on(http));
                        self.phase = Phase::Records(https, at, now + SILENCE_MAX);
                    }
                },
                Phase::Records(mut https, at, until) => {
                    let (until, outcome) = https.make_again(now, until, cx);
                    match outcome {
                        Poll::Ready(Ok(())) => return Poll::Ready(Ok((*https, at))),
                        Poll::Ready(Err(denial)) => return Poll::Ready(Err(denial)),
                        Poll::Pending => {
                            self.phase = Phase::Records(https, at, until);
                            return Poll::Pending;
                        }
                    }
                }
            }
        }
    }

    fn greet(&self, http: Http<S, M>) -> Result<Https<S, M>, Denial> {
        let handshake = Handshake::new(&self.config)
            .map_err(|error| Denial::new(DenyReason::Internal, error.to_string()))?;
        Ok(Https::new(http, Stage::Handshake(Box::new(handshake))))
    }
}

impl Left {
    fn new(request: &TransferRequest<'_>, claims: Claims) -> Result<Self, Denial> {
        let replay::Exchange::Https(exchange) = claims.exchange else {
            return Err(of_another_kind());
        };
        let mismatch = |text: &str| Denial::new(DenyReason::Mismatch, text);
        let keys = Keys::from_bytes(exchange.keys.bytes())
            .ok_or_else(|| mismatch("the ticket's keys are of no suite that is known here"))?;
        let has_more = request.down > claims.down;
        let proof = request.seam.clone().filter(|_| has_more);
        let span = (claims.down, request.down, BLOCK);
        if has_more
            && proof.as_ref().map(|proof| (proof.from, proof.until, proof.block)) != Some(span)
        {
            return Err(mismatch("the digest is not of what follows the ticket"));
        }
        // The head comes again as it was: another server's answer has another date.
        let head = match &exchange.http {
            Exchange::Response { response, head_at, .. }
                if has_more && *head_at == exchange.plain =>
            {
                response.clone()
            }
            _ => Vec::new(),
        };
        let (at, have, sent) = ((claims.up, claims.down), request.down, request.up_sent);
        Ok(Self { exchange: *exchange, keys, at, have, proof, head, sent })
    }

    /// How many bytes of the body are compared at least when the stream is made again.
    fn compared_later(&self) -> u64 {
        let behind = self.have - self.at.1;
        behind.saturating_sub(self.head.len() as u64 + FRAMING_MAX)
    }

    fn go_on<S: Streams, M: Seal>(self, mut http: Http<S, M>) -> Https<S, M> {
        let Self { exchange, keys, at: (up, down), proof, head, sent, .. } = self;
        let place = Place { at: up, skip: exchange.skip, direction: keys.up };
        let reader = Reader::new(place, exchange.covers);
        let seam = http.machine().digest();
        let writer = Writer::resume(&exchange, keys.down, (down, proof), seam, unix_now());
        let mut open = Box::new(Open { reader, writer });
        let mut tickets = Vec::new();
        let mut side = Sealed { open: &mut open, session: None, tickets: &mut tickets };
        side.write(http.mint(), &head);
        let guard = (sent > up).then_some(sent);
        let mut https = Https::new(http, Stage::Open(open));
        (https.guard, https.tickets) = (guard, tickets);
        https
    }
}

impl<S: Streams, M: Seal> Https<S, M> {
    /// Makes again what the app has. Says until when it may take without progress.
    fn make_again(
        &mut self,
        now: Instant,
        until: Instant,
        cx: &mut Context<'_>,
    ) -> (Instant, Poll<Result<(), Denial>>) {
        let mut until = until;
        for _ in 0..STEPS_AT_ONCE {
            match self.make_some(now, cx) {
                Ok(Made::Joined) => return (until, Poll::Ready(Ok(()))),
                Ok(Made::Some) => until = now + SILENCE_MAX,
                Ok(Made::Nothing) if now < until => return (until, Poll::Pending),
                Ok(Made::Nothing) => {
                    let text = "the service has fallen silent";
                    let denial = Denial::new(DenyReason::Overloaded, text);
                    return (until, Poll::Ready(Err(denial)));
                }
                Err(denial) => return (until, Poll::Ready(Err(denial))),
            }
        }
        cx.waker().wake_by_ref();
        (until, Poll::Pending)
    }

    fn make_some(&mut self, now: Instant, cx: &mut Context<'_>) -> Result<Made, Denial> {
        if self.joined()? {
            return Ok(Made::Joined);
        }
        let Stage::Open(open) = &mut self.stage else { return Ok(Made::Joined) };
        let mut side = Sealed { open, session: None, tickets: &mut self.tickets };
        let pulled = self.http.pull_to(now, &mut side);
        let between = self.http.machine().is_between();
        if between {
            side.complete(self.http.mint());
        }
        match pulled {
            Ok(Pulled::Bytes(_)) => return Ok(Made::Some),
            Ok(Pulled::Fin | Pulled::Gone) => {
                side.close(self.http.mint());
                self.over = true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !between {
                    return Ok(match self.http.poll_service(now, cx) {
                        Poll::Ready(()) => Made::Some,
                        Poll::Pending => Made::Nothing,
                    });
                }
            }
            Err(error) => return Err(Denial::new(DenyReason::Seam, error.to_string())),
        }
        if self.joined()? {
            return Ok(Made::Joined);
        }
        Err(Denial::new(DenyReason::Seam, "the answer is shorter than what the app has"))
    }

    fn joined(&self) -> Result<bool, Denial> {
        let Stage::Open(open) = &self.stage else { return Ok(true) };
        let joined = open.writer.is_joined();
        joined.map_err(|differs| Denial::new(DenyReason::Seam, differs.to_string()))
    }
}

/// What a step came to.
enum Made {
    /// All that the app has is the same here.
    Joined,
    /// There is more to be made.
    Some,
    /// The service has nothing now.
    Nothing,
}
