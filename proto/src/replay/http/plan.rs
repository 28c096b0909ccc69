//! How a response goes on from another answer to the same question.
//!
//! The service is asked for the whole response again, and the whole part that the app has already
//! is compared before the first new byte goes out. So the result is always one server's file:
//! whatever follows the part that was compared belongs to the same file. Validators (entity tags
//! and dates) decide nothing, unless the operator wants that as well ([`Policy`]), the app itself
//! made its request depend on them, or there is too little to compare. An answer of another length
//! or of another kind is refused.

use super::body::Framing;
use super::exchange::Exchange;
use super::head::{RequestHead, ResponseHead};
use super::parts::Parts;
use super::range::ContentRange;
use super::splice::{Had, Splice};
use super::translate::Decoder;
use crate::chain::{self, Mark};
use crate::replay::{NoReplay, NoReplayKind, Policy};
use crate::seam::{BLOCK, SeamProof, Verifier};

/// Fewer equal bytes than this prove nothing: many files begin alike.
const PROOF_MIN: u64 = 64;

fn mismatch(text: impl Into<String>) -> NoReplay {
    NoReplay::new(NoReplayKind::Mismatch, text)
}

/// What a server does that goes on with a session.
#[derive(Debug)]
pub enum Plan {
    /// Nothing is under way.
    Fresh,
    /// Nothing is under way and nothing more will be answered.
    Closed,
    /// None of the response has reached the app's side: ask again and pass on whatever comes.
    Again {
        /// The request head.
        request: Vec<u8>,
    },
    /// The response has been received whole, but perhaps for the end of its head.
    Complete {
        /// What is missing of it.
        head_rest: Vec<u8>,
        /// Nothing more will be answered.
        close: bool,
    },
    /// The service must be asked for the rest.
    Ask(Box<Ask>),
}

/// A question to the replica's own server, and how its answer is judged.
#[derive(Debug)]
pub struct Ask {
    /// The request to be sent.
    pub request: Vec<u8>,
    /// What the app lacks of the response head.
    pub head_rest: Vec<u8>,
    /// The exchange that goes on.
    pub exchange: Exchange,
    question: RequestHead,
    original: ResponseHead,
    /// Where the body lies in the file.
    first: u64,
    /// Length of the body; none if it ends with the stream.
    length: Option<u64>,
    /// Body bytes the app has.
    have: u64,
    had: Had,
    /// Body bytes that are compared by somebody else when this has been joined.
    later: u64,
    policy: Policy,
    /// Where the answer begins and the check that goes on from there, if the front is known.
    known: Option<(u64, Verifier)>,
}

impl Plan {
    /// Plans how to go on at down position `have`, `at` being the ticket's own down position.
    pub fn make(
        exchange: &Exchange,
        at: u64,
        have: u64,
        proof: Option<SeamProof>,
        policy: Policy,
    ) -> Result<Self, NoReplay> {
        let (request, response, head_at, shortened, chunks) = match exchange {
            Exchange::Idle { .. } if have != at => {
                let text = format!(
                    "{} bytes of a response without known length have been received",
                    have.saturating_sub(at)
                );
                return Err(NoReplay::new(NoReplayKind::Unsafe, text));
            }
            Exchange::Interim { interim, head_at } => return interim_rest(interim, *head_at, have),
            Exchange::Idle { close: true } => return Ok(Self::Closed),
            Exchange::Idle { close: false } => return Ok(Self::Fresh),
            Exchange::Response { request, response, head_at, shortened, chunks } => {
                (request, response, *head_at, *shortened, chunks)
            }
        };
        let broken = || mismatch("the ticket holds no exchange that can be continued");
        let (question, length) = RequestHead::parse(request).ok().flatten().ok_or_else(broken)?;
        let (original, head_length) =
            ResponseHead::parse(response, &question).ok().flatten().ok_or_else(broken)?;
        let partial = original.status == 206;
        if length != request.len()
            || head_length != response.len()
            || !question.repeatable()
            || (original.range.is_some() || original.parts.is_some()) != partial
        {
            return Err(broken());
        }
        if shortened && have == at && chunks.is_none() && at < head_at {
            return Ok(Self::Again { request: request.clone() });
        }
        let response_length = u64::try_from(response.len()).unwrap_or(u64::MAX);
        if shortened && have < head_at.saturating_add(response_length) {
            let text = format!("a long head was cut at byte {have}");
            return Err(NoReplay::new(NoReplayKind::Unsafe, text));
        }
        let Some(passed) = have.checked_sub(head_at) else {
            return Err(mismatch(format!("received {have}, but the response begins at {head_at}")));
        };
        if passed == 0 {
            return Ok(Self::Again { request: request.clone() });
        }
        let passed_head = usize::try_from(passed).unwrap_or(usize::MAX).min(response.len());
        let head_rest = response[passed_head..].to_vec();
        let body_have = passed - u64::try_from(passed_head).unwrap_or(passed);
        let body = match (original.framing, chunks) {
            (Framing::Empty, None) => Some(0),
            (Framing::Length(length), None) => Some(length),
            (Framing::Close, None) | (Framing::Chunked, Some(_)) => None,
            _ => return Err(broken()),
        };
        if let Some(body) = body.filter(|body| body_have > *body) {
            return Err(mismatch(format!("received {body_have} bytes of a body of {body}")));
        }
        if body == Some(body_have) {
            let close = !(question.keep_alive && original.keep_alive);
            return Ok(Self::Complete { head_rest, close });
        }
        let body_at = head_at.checked_add(response_length).ok_or_else(broken)?;
        let (body_have, had) = match chunks {
            None => (body_have, Had::Plain(sound(proof, body_at, have)?)),
            Some(base) if base.at >= body_at && base.is_sound() => {
                let had = Had::Chunks(base.clone(), sound(proof, base.at, have)?);
                (if body_have > 0 { base.body_at(have) } else { 0 }, had)
            }
            Some(_) => return Err(broken()),
        };
        let parts = (question, original, head_rest);
        let ask = Ask::new(exchange.clone(), parts, (body, body_have), had, policy)?;
        Ok(Self::Ask(Box::new(ask)))
    }

    /// A stream to the service is needed to carry it out, and nothing is asked on it yet.
    #[must_use]
    pub fn needs_stream(&self) -> bool {
        match self {
            Self::Fresh | Self::Again { .. } => true,
            Self::Complete { close, .. } => !close,
            Self::Closed | Self::Ask(_) => false,
        }
    }
}

/// The app has part of an interim head: it gets the rest, and the request is sent again.
fn interim_rest(interim: &[u8], head_at: u64, have: u64) -> Result<Plan, NoReplay> {
    let passed = have.checked_sub(head_at).and_then(|passed| usize::try_from(passed).ok());
    match passed.and_then(|passed| interim.get(passed..)) {
        Some(rest) => Ok(Plan::Complete { head_rest: rest.to_vec(), close: false }),
        None => {
            let text = format!("received {have}, but all that is known is a 1xx at {head_at}");
            Err(NoReplay::new(NoReplayKind::Unsafe, text))
        }
    }
}

/// The proof, if it is one of the stream between these positions.
fn sound(proof: Option<SeamProof>, body_at: u64, have: u64) -> Result<Option<SeamProof>, NoReplay> {
    if have <= body_at {
        return Ok(None);
    }
    let proof = proof.ok_or_else(|| NoReplay::new(NoReplayKind::Seam, "no digest was sent"))?;
    if (proof.from, proof.until, proof.block) != (body_at, have, BLOCK) {
        let (from, until, block) = (proof.from, proof.until, proof.block);
        return Err(mismatch(format!(
            "the digest covers {from}..{until} by {block}, not {body_at}..{have} by {BLOCK}"
        )));
    }
    Ok(Some(proof))
}

impl Ask {
    fn new(
        exchange: Exchange,
        (question, original, head_rest): (RequestHead, ResponseHead, Vec<u8>),
        (length, have): (Option<u64>, u64),
        had: Had,
        policy: Policy,
    ) -> Result<Self, NoReplay> {
        let first = original.range.map_or(0, |range| range.first);
        let span = original.range.map(|range| range.last - range.first + 1);
        if span.zip(length).is_some_and(|(span, length)| span != length) {
            return Err(mismatch("the range of the response is not as long as its body"));
        }
        let Exchange::Response { request, .. } = &exchange else {
            return Err(mismatch("no response is under way"));
        };
        let range = original.range.map(|range| format!("{first}-{}", range.last));
        let request = match (original.status, range.or(original.parts.as_ref().map(Parts::asked))) {
            (206, Some(range)) => rewrite(request, &format!("Range: bytes={range}\r\n")),
            (200, _) => rewrite(request, ""),
            _ => request.clone(),
        };
        Ok(Self {
            request,
            head_rest,
            exchange,
            question,
            original,
            first,
            length,
            have,
            had,
            later: 0,
            policy,
            known: None,
        })
    }

    /// The question for a response that is under way at another server, to be followed here until
    /// it is needed (R69); `have` is the down position there. None if it is not one with a length
    /// whose bytes are the body's.
    #[must_use]
    pub fn follow(exchange: &Exchange, have: u64, policy: Policy) -> Option<Self> {
        let Exchange::Response { request, response, head_at, chunks: None, .. } = exchange else {
            return None;
        };
        let (question, _) = RequestHead::parse(request).ok()??;
        let (original, head) = ResponseHead::parse(response, &question).ok()??;
        let Framing::Length(length) = original.framing else { return None };
        let body_at = head_at.checked_add(u64::try_from(head).ok()?)?;
        let have = have.checked_sub(body_at).filter(|have| *have < length)?;
        if original.parts.is_some() || !question.repeatable() {
            return None;
        }
        let parts = (question, original, Vec::new());
        Self::new(exchange.clone(), parts, (Some(length), have), Had::Follows, policy).ok()
    }

    /// So many bytes of the body behind those that the app has for sure are compared as well,
    /// before anything is sent.
    pub fn compared_later(&mut self, bytes: u64) {
        self.later = bytes;
    }

    /// Bytes of the body that the app has.
    #[must_use]
    pub fn have(&self) -> u64 {
        self.have
    }

    /// How many bytes of the file's front are to be proved; none if it is not its front.
    #[must_use]
    pub fn front(&self) -> Option<u64> {
        let proved = matches!(self.had, Had::Plain(Some(_)));
        let one = self.original.parts.is_none();
        let is_front = self.first == 0 && self.length.is_some() && proved && one;
        is_front.then_some(self.have)
    }

    /// The same question for what lies behind a mark of the very file that is to be read: as many
    /// [`MARK_EVERY`](crate::chain::MARK_EVERY) as `number` says are known.
    #[must_use]
    pub fn behind(self, number: u64, mark: Mark) -> Self {
        let proof = match &self.had {
            Had::Plain(proof) => proof.as_ref(),
            Had::Known(_) | Had::Chunks(..) | Had::Follows => None,
        };
        let check = proof.and_then(|proof| chain::verifier(proof, number, mark));
        let (Some(check), Some(length), Some(_)) = (check, self.length, self.front()) else {
            return self;
        };
        let at = number.saturating_mul(chain::MARK_EVERY);
        let last = length.saturating_sub(1);
        let request = rewrite(&self.request, &format!("Range: bytes={at}-{last}\r\n"));
        Self { request, known: Some((at, check)), ..self }
    }

    /// The same question to another origin of the same files. Its answer may go on with this
    /// response, but nothing else should be asked there.
    #[must_use]
    pub fn elsewhere(self, place: &Locator) -> Self {
        Self { request: relocate(&self.request, place), ..self }
    }

    /// Judges the head of the replica's answer.
    ///
    /// `Ok(None)` while the head is not whole (or an interim one has to be dropped: its length is
    /// then given).
    pub fn judge(&self, bytes: &[u8]) -> Result<Judged, NoReplay> {
        let parsed = ResponseHead::parse(bytes, &self.question);
        let Some((answer, length)) = parsed.map_err(|error| mismatch(error.to_string()))? else {
            return if bytes.len() <= super::head::HEAD_MAX {
                Ok(Judged::Partial)
            } else {
                Err(mismatch("the answer's head is too long"))
            };
        };
        if answer.status < 200 && answer.status != 101 {
            return Ok(Judged::Interim(length));
        }
        self.splice(&answer).map(|splice| Judged::Splice(length, Box::new(splice)))
    }

    fn splice(&self, answer: &ResponseHead) -> Result<Splice, NoReplay> {
        let original = &self.original;
        if let Some(ours) = &original.parts {
            return self.retell(ours, answer);
        }
        let body = match (answer.framing, self.length) {
            (Framing::Length(body), _) => Some(body),
            (Framing::Close | Framing::Chunked, None) => None,
            _ => return Err(self.not_this(answer, "without a length")),
        };
        let whole = original.range.map_or(self.length, |range| range.total);
        let ranged = original.status == 206 || self.known.is_some();
        // Where the answer's body lies in the original's file.
        let begin = match (answer.status, answer.range) {
            (206, Some(range)) => self.begin_of(range, body, whole, answer)?,
            (200, None) if ranged && self.length.is_some() => 0,
            (status, None) if status == original.status && status != 206 => 0,
            _ => return Err(self.not_this(answer, "which does not fit")),
        };
        if answer.status != 206 && whole.is_some() && whole != body {
            return Err(other_length(body, whole));
        }
        // The end of chunks comes from the body itself.
        let (left, excess) = match &self.had {
            Had::Plain(_) | Had::Known(_) | Had::Follows => self.rest(begin, body)?,
            Had::Chunks(..) => (None, 0),
        };
        if answer.encoding != original.encoding {
            return Err(mismatch("another content encoding"));
        }
        self.compare(answer)?;
        let keep_alive = answer.keep_alive && self.question.keep_alive;
        let decoder = Decoder::new(answer.framing);
        if let Some((at, check)) = &self.known
            && *at == begin
        {
            let had = Had::Known(Box::new(check.clone()));
            return Ok(Splice::new(decoder, 0, had, (left, excess), keep_alive));
        }
        let Some(skip) = self.first.checked_sub(begin) else {
            let text = format!("the answer begins at {begin}, not {}", self.first);
            return Err(mismatch(text));
        };
        if matches!(self.had, Had::Follows) && skip > 0 {
            return Err(self.not_this(answer, "without this range"));
        }
        Ok(Splice::new(decoder, skip, self.had.clone(), (left, excess), keep_alive))
    }

    /// Another server's answer of several ranges, to be told in the words of the first one's.
    fn retell(&self, ours: &Parts, answer: &ResponseHead) -> Result<Splice, NoReplay> {
        let theirs = answer.parts.as_ref().filter(|_| answer.status == 206);
        let theirs = theirs.ok_or_else(|| self.not_this(answer, "without these ranges"))?;
        if theirs.total != ours.total {
            return Err(other_length(Some(theirs.total), Some(ours.total)));
        }
        if !ours.fit(theirs) || answer.encoding != self.original.encoding {
            return Err(self.not_this(answer, "with other ranges"));
        }
        self.compare(answer)?;
        let decoder = Decoder::retelling(answer.framing, theirs.clone(), ours.clone());
        let keep_alive = answer.keep_alive && self.question.keep_alive;
        Ok(Splice::new(decoder, 0, self.had.clone(), (None, 0), keep_alive))
    }

    /// How much of an answer's body that begins at `begin` is for the app (none: until the stream
    /// ends), and how many bytes behind that it must not see.
    fn rest(&self, begin: u64, body: Option<u64>) -> Result<(Option<u64>, u64), NoReplay> {
        let Some(length) = self.length else {
            // A file of any length that begins with what the app has.
            let Some(body) = body else { return Ok((None, 0)) };
            let left = body.checked_sub(self.have).ok_or_else(|| {
                let text = format!("length {body}, but {} bytes were received", self.have);
                NoReplay::new(NoReplayKind::Seam, text)
            })?;
            return Ok((Some(left), 0));
        };
        let end = self.first + length;
        let reach = body.and_then(|body| begin.checked_add(body)).unwrap_or(0);
        match reach.checked_sub(end) {
            Some(excess) => Ok((Some(length - self.have), excess)),
            None => Err(mismatch(format!("the answer ends at {reach}, not {end}"))),
        }
    }

    /// A 206 must be the range asked for, of a file of the same length.
    fn begin_of(
        &self,
        range: ContentRange,
        body: Option<u64>,
        whole: Option<u64>,
        answer: &ResponseHead,
    ) -> Result<u64, NoReplay> {
        if range.total != whole {
            return Err(other_length(range.total, whole));
        }
        let first = self.known.as_ref().map_or(self.first, |(at, _)| *at);
        let last = match (self.original.range, self.length) {
            (Some(range), _) => range.last,
            (None, length) => (self.first + length.unwrap_or(1)).saturating_sub(1),
        };
        let spans = last.checked_sub(first).map(|span| span + 1);
        let ranged = self.original.status == 206 || self.known.is_some();
        let other = body.is_some_and(|body| Some(body) != spans);
        if !ranged || (range.first, range.last) != (first, last) || other {
            return Err(self.not_this(answer, "for another range"));
        }
        Ok(range.first)
    }

    /// Whether the validators of the answer allow it to go on with the response.
    fn compare(&self, answer: &ResponseHead) -> Result<(), NoReplay> {
        let (had, has) = (&self.original, answer);
        let other = || {
            let (had, has) = (named(had), named(has));
            Err(NoReplay::new(NoReplayKind::Seam, format!("another version: {has} is not {had}")))
        };
        let strong = had.strong_etag().is_some() && had.strong_etag() == has.strong_etag();
        if self.policy == Policy::Validators && !strong {
            return other();
        }
        let same = strong
            || (had.strong_etag().is_none()
                && (&had.etag, &had.modified) == (&has.etag, &has.modified));
        // The app keeps parts of a version that it named, or of which too little can be compared.
        let bound = self.question.conditional || self.have.saturating_add(self.later) < PROOF_MIN;
        if bound && !same { other() } else { Ok(()) }
    }

    fn not_this(&self, answer: &ResponseHead, what: &str) -> NoReplay {
        let kind = match answer.status {
            403 | 404 | 410 => NoReplayKind::NotHere,
            300..=399 | 511 => NoReplayKind::Elsewhere,
            408 | 429 | 500..=599 => NoReplayKind::Busy,
            _ => NoReplayKind::Mismatch,
        };
        let (got, had) = (answer.status, self.original.status);
        let what = if got == 401 { "and wants another log-in" } else { what };
        NoReplay::new(kind, format!("the service answered {got} {what} (the app has a {had})"))
    }
}

/// A shorter file may be one that is being copied there: it is asked for again.
fn other_length(here: Option<u64>, there: Option<u64>) -> NoReplay {
    let (here, there) = (here.unwrap_or(0), there.unwrap_or(0));
    let kind = if here < there { NoReplayKind::NotHere } else { NoReplayKind::Seam };
    NoReplay::new(kind, format!("length {here}, not {there}"))
}

fn named(head: &ResponseHead) -> &str {
    head.etag.as_deref().or(head.modified.as_deref()).unwrap_or("no validator")
}

/// What [`Ask::judge`] found.
#[derive(Debug)]
pub enum Judged {
    /// The head is not whole yet.
    Partial,
    /// An interim head of this length, to be dropped.
    Interim(usize),
    /// A head of this length that fits; its body is to be fed to the splice.
    Splice(usize, Box<Splice>),
}

/// Another origin of the same files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locator {
    /// What stands in the field `Host`.
    pub host: String,
    /// What stands before the path that was asked for; empty or beginning with a slash.
    pub path: String,
}

/// The request for the same file at another origin.
fn relocate(request: &[u8], place: &Locator) -> Vec<u8> {
    let mut relocated = Vec::with_capacity(request.len() + place.path.len() + place.host.len());
    for (number, line) in request.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        match line.iter().position(|&byte| byte == b' ') {
            Some(space) if number == 0 && line.get(space + 1) == Some(&b'/') => {
                relocated.extend_from_slice(&line[..=space]);
                relocated.extend_from_slice(place.path.as_bytes());
                relocated.extend_from_slice(&line[space + 1..]);
            }
            _ if number > 0 && name.eq_ignore_ascii_case(b"host") => {
                relocated.extend_from_slice(format!("Host: {}\r\n", place.host).as_bytes());
            }
            _ => relocated.extend_from_slice(line),
        }
    }
    relocated
}

/// The request again, with `fields` in place of what makes it conditional or ranged.
fn rewrite(request: &[u8], fields: &str) -> Vec<u8> {
    const DROPPED: [&[u8]; 4] = [b"range", b"if-range", b"if-none-match", b"if-modified-since"];
    let mut rewritten = Vec::with_capacity(request.len() + fields.len());
    for line in request.split_inclusive(|&byte| byte == b'\n') {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        let empty = line.trim_ascii().is_empty();
        if empty && !rewritten.is_empty() {
            rewritten.extend_from_slice(fields.as_bytes());
            rewritten.extend_from_slice(b"\r\n");
        } else if !empty && !DROPPED.iter().any(|dropped| name.eq_ignore_ascii_case(dropped)) {
            rewritten.extend_from_slice(line);
        }
    }
    rewritten
}
