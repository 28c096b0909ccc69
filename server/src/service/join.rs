//! Going on with a response: asks the service for it again on a fresh stream, and compares the
//! answer with what the app has, before the first byte of it reaches the app's side.
//!
//! What is asked and what fits is decided by [`stp_proto::replay::http`]; here is the waiting. It
//! is done by polling, with the time as an argument, so that a simulation can run it.

use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use stp_proto::chain::MARK_EVERY;
use stp_proto::mutant;
use stp_proto::replay::http::{Ask, Failure, HEAD_MAX, Joined, Judged, Splice, SpliceStep};
use stp_proto::replay::{NoReplay, NoReplayKind};
use stp_proto::time::Instant;

use super::chains::Known;
use super::upstream::{Stream, Streams};

/// The service must accept a connection, and then answer and go on, within this time.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Bodies are compared in pieces of this size.
const PIECE: usize = 256 * 1024;
/// A response that is followed for a session of another server is dropped if nobody says for this
/// time that it goes on there. Most services have given up by then, since nothing is read.
const FOLLOWED: Duration = Duration::from_secs(90);
/// Pieces that are compared in one turn, so that other sessions have theirs.
const PIECES_AT_ONCE: usize = 8;

/// Why a stream could not be brought to the byte that the app has.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The service cannot be reached now.
    #[error("its service cannot be reached: {0}")]
    Down(io::Error),
    /// Something that was tried with it failed.
    #[error("{action} the service: {source}")]
    Service {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The service was asked, and broke off.
    #[error("its service broke off: {0}")]
    Broken(io::Error),
    /// The service said that it cannot answer now.
    #[error("{0}")]
    Busy(NoReplay),
    /// It answers, but not so that it can be joined.
    #[error(transparent)]
    Refused(#[from] NoReplay),
}

/// A stream failed that was open: by its path, or by what the service did.
fn broke(error: io::Error) -> JoinError {
    match error.kind() {
        io::ErrorKind::TimedOut
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown => JoinError::Down(error),
        _ => JoinError::Broken(error),
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        let text = error.to_string();
        match error {
            JoinError::Down(_) => Self::Down(text),
            JoinError::Service { .. } | JoinError::Broken(_) | JoinError::Busy(_) => {
                Self::Busy(text)
            }
            JoinError::Refused(_) => Self::Refused(text),
        }
    }
}

/// A response that is being joined.
pub struct Join<S: Streams> {
    ask: Ask,
    phase: Phase<S>,
    /// When the service has been silent for too long.
    until: Instant,
    /// What was known of the file before it was asked for.
    known: Option<Known>,
    /// Bytes of the answer's body that were compared, the known ones included.
    compared: u64,
    /// The response is only followed, up to this byte of the body; and the head of the answer.
    followed: Option<(u64, Vec<u8>)>,
}

enum Phase<S: Streams> {
    Opening(S::Opening),
    /// This much of the request was written.
    Asking(S::Stream, usize),
    /// The head of the answer, as far as it has come.
    Judging(S::Stream, Vec<u8>),
    Comparing(S::Stream, Box<Splice>, Vec<u8>),
    Done,
}

/// What polling came upon.
type Outcome<S> = Poll<Result<(<S as Streams>::Stream, Joined), JoinError>>;

impl<S: Streams> Join<S> {
    /// Begins to ask.
    pub fn new(now: Instant, streams: &S, ask: Ask) -> Self {
        let ask = match streams.place() {
            Some(place) => ask.elsewhere(&place),
            None => ask,
        };
        let known = ask.front().and_then(|have| streams.known(&ask.request, have));
        if let Some(known) = &known {
            tracing::info!(marks = known.number, "compares behind the last mark");
        }
        let ask = match &known {
            Some(known) => ask.behind(known.number, known.mark),
            None => ask,
        };
        let compared = known.as_ref().map_or(0, |known| known.number * MARK_EVERY);
        let (phase, until) = (Phase::Opening(streams.reopen()), now + SILENCE_MAX);
        Self { ask, phase, until, known, compared, followed: None }
    }

    /// Begins to follow a response that is under way elsewhere (R69): asks for it, and reads as
    /// much of it as the app has there. It never becomes ready, but can be [turned
    /// to](Self::turn_to) going on.
    pub fn follow(now: Instant, streams: &S, ask: Ask) -> Self {
        let followed = Some((ask.have(), Vec::new()));
        let (phase, until) = (Phase::Opening(streams.reopen()), now + FOLLOWED);
        Self { ask, phase, until, known: None, compared: 0, followed }
    }

    /// The app has more of the response that is followed. False if it is another response.
    pub fn went_on(&mut self, now: Instant, ask: &Ask) -> bool {
        let same = self.ask.request == ask.request;
        if let Some((upto, _)) = self.followed.as_mut().filter(|_| same) {
            (*upto, self.until) = (ask.have().max(*upto), now + FOLLOWED);
        }
        same
    }

    /// How many bytes were read of a response that is followed.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.compared
    }

    /// What was followed goes on with what is asked now.
    ///
    /// # Errors
    /// The question, if it is about another response, or nothing has been answered yet.
    pub fn turn_to(self, now: Instant, ask: Ask) -> Result<Self, Box<Ask>> {
        let (Phase::Comparing(stream, before, held), Some((_, head))) = (self.phase, self.followed)
        else {
            return Err(Box::new(ask));
        };
        let splice = match ask.judge(&head) {
            Ok(Judged::Splice(_, splice)) if self.ask.request == ask.request => splice,
            _ => return Err(Box::new(ask)),
        };
        let Some(splice) = splice.goes_on_from(*before) else { return Err(Box::new(ask)) };
        tracing::info!(read = self.compared, "goes on with a response that was followed");
        let (phase, until) = (Phase::Comparing(stream, Box::new(splice), held), now + SILENCE_MAX);
        Ok(Self { ask, phase, until, known: None, compared: self.compared, followed: None })
    }

    /// How much of the next piece is wanted.
    fn wanted(&self) -> usize {
        mutant!(FollowedTooFar => return PIECE);
        let left = self.followed.as_ref().map(|(upto, _)| upto.saturating_sub(self.compared));
        left.and_then(|left| usize::try_from(left).ok()).unwrap_or(PIECE).min(PIECE)
    }

    /// What is asked.
    pub fn into_ask(self) -> Ask {
        self.ask
    }

    /// How many bytes were compared, and how many are to be.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.compared.min(self.ask.have()), self.ask.have())
    }

    /// When it must be polled again even if nothing wakes it.
    pub fn due(&self) -> Instant {
        self.until
    }

    /// Goes on. Not to be called again after it is ready.
    pub fn poll(&mut self, now: Instant, cx: &mut Context<'_>) -> Outcome<S> {
        for _ in 0..PIECES_AT_ONCE {
            match self.step(now, cx) {
                Step::Went => self.until = self.until.max(now + SILENCE_MAX),
                Step::Waits if now < self.until => return Poll::Pending,
                Step::Waits => {
                    return Poll::Ready(Err(JoinError::Down(io::ErrorKind::TimedOut.into())));
                }
                Step::Done(outcome) => return Poll::Ready(outcome.map(|done| *done)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn step(&mut self, now: Instant, cx: &mut Context<'_>) -> Step<S> {
        let _ = now;
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Opening(mut opening) => match Pin::new(&mut opening).poll(cx) {
                Poll::Pending => self.wait(Phase::Opening(opening)),
                Poll::Ready(Ok(stream)) => self.go_on(Phase::Asking(stream, 0)),
                Poll::Ready(Err(error)) => Step::Done(Err(JoinError::Down(error))),
            },
            Phase::Asking(stream, sent) => self.ask(stream, sent, cx),
            Phase::Judging(stream, held) => self.judge(stream, held, cx),
            Phase::Comparing(stream, splice, held) => self.compare(stream, splice, held, cx),
            Phase::Done => Step::Waits,
        }
    }

    fn wait(&mut self, phase: Phase<S>) -> Step<S> {
        self.phase = phase;
        Step::Waits
    }

    fn go_on(&mut self, phase: Phase<S>) -> Step<S> {
        self.phase = phase;
        Step::Went
    }

    fn ask(&mut self, stream: S::Stream, sent: usize, cx: &mut Context<'_>) -> Step<S> {
        if sent == self.ask.request.len() {
            return self.go_on(Phase::Judging(stream, Vec::new()));
        }
        match stream.try_write(&[IoSlice::new(&self.ask.request[sent..])]) {
            Ok(count) => self.go_on(Phase::Asking(stream, sent + count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match stream.poll_writable(cx) {
                    Poll::Ready(()) => self.go_on(Phase::Asking(stream, sent)),
                    Poll::Pending => self.wait(Phase::Asking(stream, sent)),
                }
            }
            Err(error) => Step::Done(Err(broke(error))),
        }
    }

    fn judge(&mut self, stream: S::Stream, mut held: Vec<u8>, cx: &mut Context<'_>) -> Step<S> {
        match self.ask.judge(&held) {
            Ok(Judged::Partial) => match read_more(&stream, &mut held, HEAD_MAX, cx) {
                Read::Some => self.go_on(Phase::Judging(stream, held)),
                Read::Nothing => self.wait(Phase::Judging(stream, held)),
                Read::End(error) => Step::Done(Err(broke(error))),
            },
            Ok(Judged::Interim(length)) => {
                held.drain(..length);
                self.go_on(Phase::Judging(stream, held))
            }
            Ok(Judged::Splice(..)) if self.known.as_ref().is_some_and(|known| !known.holds()) => {
                let text = "the file was replaced just now";
                Step::Done(Err(JoinError::Busy(NoReplay::new(NoReplayKind::Busy, text))))
            }
            Ok(Judged::Splice(length, mut splice)) => {
                if let Some((_, head)) = &mut self.followed {
                    *head = held[..length].to_vec();
                }
                held.drain(..length);
                self.compared += u64::try_from(held.len()).unwrap_or(0);
                match splice.feed(&held) {
                    Ok(step) => self.compared(stream, splice, held, step),
                    Err(why) => Step::Done(Err(why.into())),
                }
            }
            Err(why) if why.kind == NoReplayKind::Busy => Step::Done(Err(JoinError::Busy(why))),
            // This machine's network may answer in the place of an origin on the other side of it.
            Err(why) if why.kind == NoReplayKind::Elsewhere && stream.is_watched() => {
                Step::Done(Err(JoinError::Down(io::Error::other(why))))
            }
            Err(why) => Step::Done(Err(why.into())),
        }
    }

    fn compare(
        &mut self,
        stream: S::Stream,
        mut splice: Box<Splice>,
        mut held: Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Step<S> {
        held.clear();
        let wanted = self.wanted();
        if wanted == 0 {
            return self.wait(Phase::Comparing(stream, splice, held));
        }
        match read_more(&stream, &mut held, wanted, cx) {
            Read::Some => {
                self.compared += u64::try_from(held.len()).unwrap_or(0);
                match splice.feed(&held) {
                    Ok(step) => self.compared(stream, splice, held, step),
                    Err(why) => Step::Done(Err(why.into())),
                }
            }
            Read::Nothing => self.wait(Phase::Comparing(stream, splice, held)),
            Read::End(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                match splice.until_close().then(|| splice.ended()) {
                    Some(Ok(step)) => self.compared(stream, splice, held, step),
                    Some(Err(why)) => Step::Done(Err(why.into())),
                    None => Step::Done(Err(broke(error))),
                }
            }
            Read::End(error) => Step::Done(Err(broke(error))),
        }
    }

    fn compared(
        &mut self,
        stream: S::Stream,
        splice: Box<Splice>,
        held: Vec<u8>,
        step: SpliceStep,
    ) -> Step<S> {
        match step {
            SpliceStep::More => self.go_on(Phase::Comparing(stream, splice, held)),
            SpliceStep::Joined => Step::Done(Ok(Box::new((stream, splice.into_joined())))),
        }
    }
}

/// What one step of a [`Join`] came upon.
enum Step<S: Streams> {
    Went,
    Waits,
    Done(Result<Box<(S::Stream, Joined)>, JoinError>),
}

/// What reading came upon.
enum Read {
    Some,
    Nothing,
    End(io::Error),
}

fn read_more<S: Stream>(stream: &S, held: &mut Vec<u8>, most: usize, cx: &mut Context<'_>) -> Read {
    let start = held.len();
    held.resize(start + most.min(PIECE), 0);
    let read = loop {
        let read = stream.try_read(&mut [IoSliceMut::new(&mut held[start..])]);
        let blocked = read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        if !blocked || stream.poll_readable(cx).is_pending() {
            break read;
        }
    };
    held.truncate(start + *read.as_ref().unwrap_or(&0));
    match read {
        Ok(0) => Read::End(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => Read::Some,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Nothing,
        Err(error) => Read::End(error),
    }
}
