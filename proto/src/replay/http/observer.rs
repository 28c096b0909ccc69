//! Watches one session's bytes go by between an app and an HTTP/1 server.
//!
//! One exchange is under way at a time: bytes of a pipelined request wait ([`Flow::Wait`]) until
//! the response before it is over. Heads are kept until they are whole, so that a ticket can go
//! out before the first byte of a response does. Body bytes are only counted.

use super::body::{Body, Framing};
use super::exchange::Exchange;
use super::flow::{Down, Ending, Flow, Up};
use super::head::{HEAD_MAX, RequestHead, ResponseHead};
use super::scan::{Scan, Scanned};
use crate::seam::{BLOCK, Seam, SeamProof};

/// One direction of the exchange under way.
#[derive(Debug)]
struct Message<H> {
    /// Position of its first byte.
    at: u64,
    /// The head, as far as it has come.
    raw: Vec<u8>,
    scan: Scan,
    head: Option<H>,
    body: Body,
}

impl<H> Message<H> {
    fn new(at: u64) -> Self {
        let body = Body::new(Framing::Empty);
        Self { at, raw: Vec::new(), scan: Scan::default(), head: None, body }
    }

    fn over(&self) -> bool {
        self.head.is_some() && self.body.over()
    }
}

/// The observer of one session.
#[derive(Debug)]
pub struct Observer {
    /// Up bytes taken.
    up: u64,
    /// Down bytes that may be let go.
    down: u64,
    request: Message<RequestHead>,
    response: Message<ResponseHead>,
    /// A response head that is whole, and its length, while what belongs to it of the body is not.
    alone: Option<(ResponseHead, usize)>,
    /// The response head is not what the app got, but a shorter one.
    shortened: bool,
    /// Interim heads of this exchange have been let go.
    interim: bool,
    /// The response can be continued.
    continuable: bool,
    /// A whole response head waits for [`Observer::release_head`].
    held: bool,
    seam: Option<Seam>,
    opaque: Option<&'static str>,
    closing: bool,
    ended: bool,
}

impl Observer {
    /// Between two exchanges, at these positions.
    #[must_use]
    pub fn new(up: u64, down: u64) -> Self {
        Self {
            up,
            down,
            request: Message::new(up),
            response: Message::new(down),
            alone: None,
            shortened: false,
            interim: false,
            continuable: false,
            held: false,
            seam: None,
            opaque: None,
            closing: false,
            ended: false,
        }
    }

    /// After a request that has not been answered; `up` is where the request ends.
    ///
    /// `None` if `request` is not one whole request head.
    #[must_use]
    pub fn asked(up: u64, down: u64, request: &[u8]) -> Option<Self> {
        let (head, length) = RequestHead::parse(request).ok()??;
        if length != request.len() {
            return None;
        }
        let mut observer = Self::new(up, down);
        observer.request = Message {
            at: up.checked_sub(u64::try_from(length).ok()?)?,
            raw: request.to_vec(),
            scan: Scan::default(),
            body: Body::new(head.framing),
            head: Some(head),
        };
        Some(observer)
    }

    /// Inside a response, `down` being at or behind the end of its head. `seam` has seen all of
    /// its body before `down`, if anything.
    #[must_use]
    pub fn inside(
        up: u64,
        down: u64,
        (request, response, head_at, shortened): (&[u8], &[u8], u64, bool),
        seam: Option<Seam>,
    ) -> Option<Self> {
        let mut observer = Self::asked(up, head_at, request)?;
        let mut rest = response;
        while !rest.is_empty() && !observer.held {
            let (taken, _) = observer.down(rest);
            rest = rest.get(taken..).filter(|_| taken > 0)?;
        }
        if !rest.is_empty() || !observer.held || !observer.continuable {
            return None;
        }
        let passed = down.checked_sub(observer.body_at())?;
        observer.response.body = match observer.response.head.as_ref()?.framing {
            Framing::Length(length) => Body::new(Framing::Length(length.checked_sub(passed)?)),
            Framing::Close | Framing::Chunked => Body::new(Framing::Close),
            Framing::Empty => Body::new(Framing::Empty),
        };
        observer.seam = seam.or(observer.seam.take());
        (observer.held, observer.shortened) = (false, shortened);
        observer.down = down;
        observer.finish();
        Some(observer)
    }

    /// After the last exchange: the server has closed.
    #[must_use]
    pub fn closed(up: u64, down: u64) -> Self {
        Self { closing: true, ..Self::new(up, down) }
    }

    /// No exchange is under way; part of a request head may be there.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.opaque.is_none() && self.request.head.is_none()
    }

    /// No other request will be answered.
    #[must_use]
    pub fn closing(&self) -> bool {
        self.closing
    }

    /// Why the stream is not followed any more.
    #[must_use]
    pub fn opaque(&self) -> Option<&'static str> {
        self.opaque
    }

    /// An exchange came to its end since the last call.
    pub fn take_ended(&mut self) -> bool {
        std::mem::take(&mut self.ended)
    }

    /// Positions of what has been taken (up) and let go (down).
    #[must_use]
    pub fn positions(&self) -> (u64, u64) {
        (self.up, self.down)
    }

    /// What the next up bytes are.
    #[must_use]
    pub fn up_flow(&self) -> Flow {
        if self.opaque.is_some() || self.closing {
            Flow::Opaque
        } else if self.request.head.is_none() {
            Flow::Head
        } else if self.request.body.over() {
            Flow::Wait
        } else {
            Flow::Body(self.request.body.at_least())
        }
    }

    /// What the next down bytes are.
    #[must_use]
    pub fn down_flow(&self) -> Flow {
        if self.held {
            Flow::Wait
        } else if self.opaque.is_some() || self.closing {
            Flow::Opaque
        } else if self.response.head.is_none() || self.response.body.over() {
            Flow::Head
        } else if let Some(Framing::Length(_)) = self.response.head.as_ref().map(|h| h.framing) {
            Flow::Body(self.response.body.at_least())
        } else {
            // No other request is at the server, so nothing but this body can come.
            Flow::Body(u64::MAX)
        }
    }

    /// How many of these body bytes belong to the request under way.
    #[must_use]
    pub fn up_room(&self, slices: &[&[u8]]) -> usize {
        let mut body = self.request.body;
        let mut room = 0;
        for slice in slices {
            let taken = body.take(slice);
            room += taken;
            if taken < slice.len() {
                break;
            }
        }
        room
    }

    /// Takes bytes of the app from the front of `bytes`: part of one head or of one body.
    pub fn up(&mut self, bytes: &[u8]) -> (usize, Up) {
        match self.up_flow() {
            Flow::Opaque => {
                self.up += count(bytes.len());
                (bytes.len(), Up::More)
            }
            Flow::Wait => (0, Up::More),
            Flow::Head => self.up_head(bytes),
            Flow::Body(_) => {
                let taken = self.request.body.take(bytes);
                self.up += count(taken);
                if self.request.body.broken() {
                    self.become_opaque("a request's chunks cannot be followed");
                    return (taken, Up::Opaque);
                }
                self.finish();
                (taken, Up::More)
            }
        }
    }

    fn up_head(&mut self, bytes: &[u8]) -> (usize, Up) {
        let Scanned { taken, look } = self.request.scan.take(bytes);
        self.request.raw.extend_from_slice(&bytes[..taken]);
        self.up += count(taken);
        let parsed = if look { RequestHead::parse(&self.request.raw) } else { Ok(None) };
        match parsed {
            _ if self.request.raw.len() > HEAD_MAX => {
                self.not_http(taken, "a request head is too long")
            }
            Ok(Some((head, length))) if length == self.request.raw.len() => {
                let repeatable = head.repeatable();
                self.request.body = Body::new(head.framing);
                self.request.head = Some(head);
                self.response = Message::new(self.down);
                (taken, Up::Head { begin: self.request.at, repeatable })
            }
            Ok(None) => (taken, Up::More),
            Ok(Some(_)) => self.not_http(taken, "a request head ends in two places"),
            Err(_) if self.request.raw.starts_with(b"PRI * HTTP/2") => {
                self.not_http(taken, "HTTP/2 in clear")
            }
            Err(_) => self.not_http(taken, "not an HTTP/1 request"),
        }
    }

    fn not_http(&mut self, taken: usize, why: &'static str) -> (usize, Up) {
        self.become_opaque(why);
        (taken, Up::Opaque)
    }

    /// Takes bytes of the server from the front of `bytes`: part of one head or of one body.
    pub fn down(&mut self, bytes: &[u8]) -> (usize, Down) {
        match self.down_flow() {
            Flow::Opaque => {
                self.down += count(bytes.len());
                (bytes.len(), Down::More)
            }
            Flow::Wait => (0, Down::More),
            Flow::Head if self.request.head.is_none() || self.response.head.is_some() => {
                self.become_opaque("the server spoke unasked");
                (0, Down::Opaque)
            }
            Flow::Head => self.down_head(bytes),
            Flow::Body(_) => {
                let taken = self.response.body.take(bytes);
                if let Some(seam) = &mut self.seam {
                    seam.update(self.down, &bytes[..taken]);
                }
                self.down += count(taken);
                if self.response.body.broken() {
                    self.become_opaque("a response's chunks cannot be followed");
                    return (taken, Down::Opaque);
                }
                self.finish();
                (taken, Down::More)
            }
        }
    }

    fn down_head(&mut self, bytes: &[u8]) -> (usize, Down) {
        if let Some((head, length)) = self.alone.take() {
            return self.down_first(head, length, bytes);
        }
        let Scanned { taken, look } = self.response.scan.take(bytes);
        self.response.raw.extend_from_slice(&bytes[..taken]);
        let Some(request) = &self.request.head else { return (0, Down::Opaque) };
        let parsed = if look { ResponseHead::alone(&self.response.raw, request) } else { Ok(None) };
        let why = match parsed {
            _ if self.response.raw.len() > HEAD_MAX => "a response head is too long",
            Ok(Some((head, length))) if length == self.response.raw.len() => {
                return (taken, self.down_first(head, length, &[]).1);
            }
            Ok(None) => return (taken, Down::More),
            Ok(Some(_)) => "a response head ends in two places",
            Err(_) => "not an HTTP/1 response",
        };
        self.become_opaque(why);
        (taken, Down::Opaque)
    }

    /// Takes what belongs to a head, whose own length this is, of the front of a body.
    fn down_first(&mut self, head: ResponseHead, length: usize, bytes: &[u8]) -> (usize, Down) {
        let Some(request) = &self.request.head else { return (0, Down::Opaque) };
        let before = self.response.raw.len();
        self.response.raw.extend_from_slice(bytes);
        match head.with_first(&self.response.raw[length..], request) {
            Some((head, more)) => {
                self.response.raw.truncate(length + more);
                (length + more - before, self.response_head_whole(head))
            }
            None => {
                self.alone = Some((head, length));
                (bytes.len(), Down::More)
            }
        }
    }

    fn response_head_whole(&mut self, head: ResponseHead) -> Down {
        let connected = self.request.head.as_ref().is_some_and(|request| request.connect)
            && (200..300).contains(&head.status);
        if head.status == 101 || connected {
            self.become_opaque("the protocol was changed");
            return Down::Opaque;
        }
        if head.status < 200 {
            self.interim = true;
            return Down::Interim;
        }
        self.continuable = self.continuable_with(&head);
        self.response.body = Body::new(head.framing);
        // Who cuts a body into chunks keeps the digest of it.
        let digested = self.continuable && head.framing != Framing::Chunked;
        self.seam = digested.then(|| Seam::new(self.body_at(), BLOCK));
        self.response.head = Some(head);
        self.held = true;
        Down::Head
    }

    /// A response head is whole and waits for [`Observer::release_head`].
    #[must_use]
    pub fn holds_head(&self) -> bool {
        self.held
    }

    /// The response head that has just become whole, to be let go now.
    pub fn release_head(&mut self) -> Vec<u8> {
        let head = if self.continuable {
            self.response.raw.clone()
        } else {
            std::mem::take(&mut self.response.raw)
        };
        self.down += count(head.len());
        self.held = false;
        self.finish();
        head
    }

    /// Down position of the first byte of the body.
    #[must_use]
    pub fn body_at(&self) -> u64 {
        self.response.at + count(self.response.raw.len())
    }

    fn continuable_with(&self, head: &ResponseHead) -> bool {
        let is_known = head.status != 206 || head.range.is_some();
        self.request.head.as_ref().is_some_and(RequestHead::repeatable)
            && match head.framing {
                Framing::Empty | Framing::Length(_) => is_known || head.parts.is_some(),
                Framing::Close | Framing::Chunked => is_known,
            }
    }

    /// The server closed its side; what does that mean?
    #[must_use]
    pub fn ending(&self) -> Ending {
        if self.opaque.is_some() || self.closing || self.request.head.is_none() {
            return Ending::Fair;
        }
        let repeatable = self.request.head.as_ref().is_some_and(RequestHead::repeatable);
        if self.response.head.is_none() {
            let untouched = self.response.raw.is_empty();
            return if repeatable && untouched { Ending::Unanswered } else { Ending::Lost };
        }
        if self.response.body.until_close() && !self.in_chunks() {
            Ending::Fair
        } else if self.continuable {
            Ending::Cut
        } else {
            Ending::Lost
        }
    }

    /// The rest of the response comes from another answer, which says how much of it there is:
    /// none, if it ends with its stream.
    pub fn joined(&mut self, left: Option<u64>) {
        let until_close = self.ends_with_the_stream();
        if let Some(left) = left.filter(|_| until_close) {
            self.response.body = Body::new(Framing::Length(left));
            self.finish();
        }
    }

    /// The app gets the body of the response under way, which can be continued, in chunks.
    #[must_use]
    pub fn in_chunks(&self) -> bool {
        let framing = self.response.head.as_ref().map(|head| head.framing);
        self.continuable && framing == Some(Framing::Chunked)
    }

    /// The body of the response under way is framed by somebody else, who will say when it
    /// [ends](Observer::body_ended).
    pub fn follow_no_chunks(&mut self) {
        self.response.body = Body::new(Framing::Close);
    }

    /// The body of the response under way has been let go, whole.
    pub fn body_ended(&mut self) {
        self.response.body = Body::new(Framing::Empty);
        self.finish();
    }

    /// The service's bytes are not understood from here on.
    pub fn give_up(&mut self, why: &'static str) {
        self.become_opaque(why);
    }

    /// The response under way ends, for the app, with the stream.
    #[must_use]
    pub fn ends_with_the_stream(&self) -> bool {
        self.response.head.as_ref().is_some_and(|head| head.framing == Framing::Close)
    }

    /// Nothing but interim heads has been answered.
    #[must_use]
    pub fn only_interim(&self) -> bool {
        self.interim && self.response.head.is_none()
    }

    /// Why the exchange under way cannot be continued on another server, if it cannot.
    #[must_use]
    pub fn why_not(&self) -> String {
        let word = self.request.raw.split(|byte| *byte == b' ').next().unwrap_or_default();
        let method = String::from_utf8_lossy(&word[..word.len().min(16)]);
        let why = match (self.opaque, &self.request.head, &self.response.head) {
            (Some(why), ..) => why,
            (None, Some(request), _) if !request.safe => {
                return format!("{method}, which is never sent twice");
            }
            (None, Some(request), _) if !request.repeatable() => "a request with a body",
            (None, _, Some(head))
                if head.status == 206 && head.range.is_none() && head.parts.is_none() =>
            {
                "a response of several ranges that are not as they were asked for"
            }
            _ => "heads too long for a ticket",
        };
        why.to_owned()
    }

    /// The head of the request under way, once it is whole.
    #[must_use]
    pub fn request_head(&self) -> &[u8] {
        &self.request.raw
    }

    /// Up bytes that were kept as a head and are none, or not a whole one.
    pub fn take_held_up(&mut self) -> Vec<u8> {
        if self.request.head.is_some() {
            return Vec::new();
        }
        std::mem::take(&mut self.request.raw)
    }

    /// Down bytes that were kept as a head and are none, or an interim one.
    pub fn take_held_down(&mut self) -> Vec<u8> {
        if self.response.head.is_some() {
            return Vec::new();
        }
        self.alone = None;
        let held = std::mem::take(&mut self.response.raw);
        self.response.scan = Scan::default();
        self.down += count(held.len());
        self.response.at = self.down;
        held
    }

    /// What a ticket for the present moment says; `None` if the exchange cannot be continued.
    #[must_use]
    pub fn exchange(&self) -> Option<Exchange> {
        if self.opaque.is_some() {
            None
        } else if self.response_under_way() {
            self.continuable.then(|| Exchange::Response {
                request: self.request.raw.clone(),
                response: self.response.raw.clone(),
                head_at: self.response.at,
                shortened: self.shortened,
                chunks: None,
            })
        } else if self.unsafe_request() {
            None
        } else {
            Some(Exchange::Idle { close: self.closing })
        }
    }

    /// Up to which up position such a ticket covers; without a ticket, what need not be kept.
    #[must_use]
    pub fn covers(&self) -> u64 {
        let answered = self.request.head.is_some() && self.response_under_way();
        if answered || self.opaque.is_some() || self.unsafe_request() {
            self.up
        } else {
            self.request.at
        }
    }

    /// First down position that can be compared on a replica.
    #[must_use]
    pub fn seam_from(&self) -> u64 {
        self.seam.as_ref().map_or(self.down, Seam::from)
    }

    /// Proof of the body let go so far.
    #[must_use]
    pub fn proof(&self) -> Option<SeamProof> {
        self.seam.as_ref().map(Seam::proof)
    }

    /// The digest of the body let go so far.
    #[must_use]
    pub fn seam(&self) -> Option<&Seam> {
        self.seam.as_ref()
    }

    /// The digest of the body let go so far, to go on with.
    pub fn take_seam(&mut self) -> Option<Seam> {
        self.seam.take()
    }

    /// Up bytes may be acknowledged without a ticket: they may not be repeated anyway.
    #[must_use]
    pub fn unsafe_request(&self) -> bool {
        self.request.head.as_ref().is_some_and(|head| !head.repeatable())
    }

    pub(super) fn is_in_step(&self, new: bool) -> bool {
        let answer = self.held || self.response.head.is_some() || !self.response.raw.is_empty();
        !(new && answer) && (self.request.head.is_some() || self.request.raw.is_empty())
    }

    /// A final response head has been let go and the exchange is not over.
    #[must_use]
    pub fn response_under_way(&self) -> bool {
        self.request.head.is_some() && self.response.head.is_some()
    }

    fn become_opaque(&mut self, why: &'static str) {
        self.opaque = Some(why);
        self.seam = None;
        self.continuable = false;
    }

    /// Ends the exchange if both messages have gone by.
    fn finish(&mut self) {
        let (Some(request), Some(response)) = (&self.request.head, &self.response.head) else {
            return;
        };
        let keep = request.keep_alive && response.keep_alive;
        if self.held || !self.response.over() || (keep && !self.request.over()) {
            return;
        }
        self.closing = !keep;
        self.request = Message::new(self.up);
        self.response = Message::new(self.down);
        (self.interim, self.continuable, self.seam) = (false, false, None);
        self.shortened = false;
        self.ended = true;
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
