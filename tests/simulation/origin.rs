//! The real HTTP server behind a session's server (nginx in life): files, ranges, validators,
//! chunks, uploads. It closes idle connections, breaks off responses that are not read, and can be
//! down.
//!
//! What is checked here: no request that may not be repeated begins twice anywhere, and every
//! body that comes is the one the app sent.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::rc::Rc;
use std::time::Duration;

use stp_proto::replay::http::{Body, RequestHead};
use stp_proto::time::Instant;

use crate::plan::{Pace, Replica, Validator};
use crate::random::{Random, pattern};

/// A response that is not read is broken off after this time.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// The number of its bytes that the kernel still delivers.
const KERNEL: usize = 16_000;

/// Unsafe requests by their id: the head as the app wrote it, the body's seed, and whether an
/// origin has seen it.
#[derive(Default)]
pub struct Ledger {
    requests: BTreeMap<u64, (Vec<u8>, bool)>,
    /// What went wrong.
    pub violation: Option<String>,
    pub executed: u64,
}

impl Ledger {
    pub fn expect(&mut self, id: u64, request: Vec<u8>) {
        self.requests.insert(id, (request, false));
    }

    fn begin(&mut self, id: u64, head: &[u8]) {
        self.executed += 1;
        match self.requests.get_mut(&id) {
            Some((whole, false)) if whole.starts_with(head) => {
                self.requests.entry(id).and_modify(|(_, seen)| *seen = true);
            }
            Some((_, true)) => self.fail(format!("request {id} was executed twice")),
            Some(_) => self.fail(format!("the head of request {id} was changed")),
            None => self.fail(format!("request {id} was never sent")),
        }
    }

    fn body(&mut self, id: u64, at: usize, bytes: &[u8]) {
        let same = self.requests.get(&id).is_some_and(|(whole, _)| whole[at..].starts_with(bytes));
        if !same {
            self.fail(format!("the body of request {id} was changed at byte {at}"));
        }
    }

    fn fail(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }
}

/// A file server.
pub struct Origin {
    pub name: usize,
    pub replica: Replica,
    pub validator: Validator,
    pub content: u64,
    /// How long its files are.
    pub files: RefCell<Vec<u64>>,
    pub pace: Pace,
    /// An idle connection is closed after this time.
    pub keepalive: Duration,
    pub ledger: Rc<RefCell<Ledger>>,
    pub down_until: Cell<Instant>,
    /// Counts up when all its connections break.
    pub breaks: Cell<u32>,
    /// Connections it broke off or closed early, for what may be blamed on it.
    pub troubles: Cell<u32>,
    /// The heads of requests whose files were read ahead.
    pub read_ahead: RefCell<Vec<Vec<u8>>>,
    /// Requests answered.
    pub answers: Cell<u32>,
    pub random: RefCell<Random>,
}

/// What a request asks for, as far as these origins care.
struct Wish<'a> {
    method: &'a str,
    path: &'a str,
    range: Option<(u64, u64)>,
    if_range: Option<&'a str>,
    id: u64,
    close: bool,
}

fn wish(head: &str) -> Wish<'_> {
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let mut wish = Wish {
        method: first.next().unwrap_or_default(),
        path: first.next().unwrap_or_default(),
        range: None,
        if_range: None,
        id: 0,
        close: false,
    };
    for line in lines {
        let Some((name, value)) = line.split_once(": ") else { continue };
        match name {
            "Range" => {
                let numbers = value.trim_start_matches("bytes=").split_once('-');
                wish.range = numbers
                    .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().unwrap_or(u64::MAX))));
            }
            "If-Range" => wish.if_range = Some(value),
            "X-Id" => wish.id = value.parse().unwrap_or(0),
            "Connection" => wish.close = value == "close",
            _ => {}
        }
    }
    wish
}

fn chunks(body: &[u8], out: &mut Vec<u8>) {
    for piece in body.chunks(3000) {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
}

impl Origin {
    /// The field with the validator, if there is one.
    fn tag(&self, strong: &str) -> String {
        match self.validator {
            Validator::Strong => format!("ETag: {strong}\r\n"),
            Validator::Weak => format!("ETag: W/{strong}\r\n"),
            Validator::Modified => String::new(),
        }
    }

    /// How long it takes to accept a connection.
    pub fn accepts_after(&self) -> Duration {
        let mut random = self.random.borrow_mut();
        if random.one_in(2) { random.millis(1, 2_000) } else { Duration::ZERO }
    }

    fn length(&self, file: usize) -> u64 {
        let files = self.files.borrow();
        files[file % files.len()]
    }

    fn body(&self, seed: u64, from: u64, to: u64) -> Vec<u8> {
        let mut body = vec![0; usize::try_from(to - from).expect("files are small")];
        pattern(seed, from, &mut body);
        if self.replica == Replica::SameValidator {
            body.iter_mut().for_each(|byte| *byte = !*byte);
        }
        body
    }

    /// The whole answer to a request, and whether the connection ends behind it.
    pub fn render(&self, head: &[u8]) -> (Vec<u8>, bool) {
        let end = head.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(head.len());
        let text = String::from_utf8_lossy(&head[..end]);
        let wish = wish(&text);
        let mut close = wish.close;
        let connection = if close { "Connection: close\r\n" } else { "" };
        let name = self.name;
        let bodiless = wish.method == "HEAD";
        let mut out;
        let kind = wish.path.as_bytes().get(1).copied().unwrap_or(b'f');
        let file = wish.path.get(2..).and_then(|number| number.parse::<usize>().ok()).unwrap_or(0);
        let (content, length) = match self.replica {
            Replica::Right | Replica::SameValidator => (self.content, self.length(file)),
            Replica::OtherBytes => (self.content + 7, self.length(file)),
            Replica::OtherLength => (self.content, self.length(file) + 3),
            Replica::Empty => {
                let text = format!(
                    "HTTP/1.1 404 Not Found\r\nServer: {name}\r\n{connection}\
                     Content-Length: 5\r\n\r\n"
                );
                out = text.into_bytes();
                if !bodiless {
                    out.extend_from_slice(b"none\n");
                }
                return (out, close);
            }
        };
        let wrong = self.replica.named();
        let strong = format!("\"{wrong}-{file}\"");
        let tag = self.tag(&strong);
        let modified = if wrong == "right" { "Mon, 01 Jun" } else { "Tue, 02 Jun" };
        let common = format!("Server: {name}\r\n{connection}{tag}Last-Modified: {modified}\r\n");
        let seed = content * 1000 + file as u64;
        if wish.method == "PUT" || wish.method == "POST" {
            out = format!(
                "HTTP/1.1 201 Created\r\nServer: {name}\r\n{connection}Content-Length: 9\r\n\r\n"
            )
            .into_bytes();
            out.extend_from_slice(b"received\n");
            return (out, close);
        }
        let (mut from, mut to) = (0, length);
        let conditional =
            wish.if_range.is_some_and(|tag| self.validator != Validator::Strong || tag != strong);
        let ranged =
            wish.range.filter(|(first, _)| *first < length && !conditional && kind == b'f');
        if let Some((first, last)) = ranged {
            (from, to) = (first, length.min(last.saturating_add(1)));
        }
        let status = if ranged.is_some() { "206 Partial Content" } else { "200 OK" };
        let body = self.body(seed, from, to);
        let framing = match kind {
            b'c' => "Transfer-Encoding: chunked\r\n".to_owned(),
            b'd' => {
                close = true;
                "Connection: close\r\n".to_owned()
            }
            _ => format!("Content-Length: {}\r\n", to - from),
        };
        let range = match ranged {
            Some(_) => format!("Content-Range: bytes {from}-{}/{length}\r\n", to - 1),
            None => String::new(),
        };
        out = format!("HTTP/1.1 {status}\r\n{common}{framing}{range}\r\n").into_bytes();
        match kind {
            _ if bodiless => {}
            b'c' => chunks(&body, &mut out),
            _ => out.extend_from_slice(&body),
        }
        (out, close)
    }
}

/// A connection to an origin.
pub struct Upstream {
    origin: Rc<Origin>,
    breaks: u32,
    inbox: Vec<u8>,
    /// The request under way: its id if it is unsafe, its bytes so far, its head and body.
    request: Option<(u64, usize, Vec<u8>, Body)>,
    out: Vec<u8>,
    gone: usize,
    /// Nothing follows what is in `out`.
    last: bool,
    /// It was broken off: what is in `out` is followed by a reset.
    broken: bool,
    no_more: bool,
    touched: Instant,
    read_at: Instant,
}

impl Upstream {
    pub fn open(now: Instant, origin: &Rc<Origin>) -> io::Result<Upstream> {
        if now < origin.down_until.get() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(Upstream {
            origin: Rc::clone(origin),
            breaks: origin.breaks.get(),
            inbox: Vec::new(),
            request: None,
            out: Vec::new(),
            gone: 0,
            last: false,
            broken: false,
            no_more: false,
            touched: now,
            read_at: Instant::default(),
        })
    }

    fn left(&self) -> usize {
        self.out.len() - self.gone
    }

    /// The effect of the time that has passed.
    fn age(&mut self, now: Instant) {
        let idle = self.request.is_none() && self.inbox.is_empty() && self.left() == 0;
        if self.last || self.broken {
            return;
        }
        if self.breaks != self.origin.breaks.get() {
            let keep = self.origin.random.borrow_mut().index(self.left() + 1);
            self.break_off(keep);
        } else if idle && now - self.touched >= self.origin.keepalive {
            self.origin.troubles.set(self.origin.troubles.get() + 1);
            self.last = true;
        } else if self.left() > KERNEL && now - self.touched >= SEND_TIMEOUT {
            self.break_off(KERNEL);
        }
    }

    fn break_off(&mut self, keep: usize) {
        self.origin.troubles.set(self.origin.troubles.get() + 1);
        self.out.truncate(self.gone + keep.min(self.left()));
        self.last = true;
        self.broken = self.origin.random.borrow_mut().one_in(2);
        self.request = None;
    }

    /// Takes bytes.
    pub fn try_write(&mut self, now: Instant, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.age(now);
        if self.last || self.no_more {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.touched = now;
        let most = self.origin.pace.burst.max(1);
        let mut total = 0;
        for slice in slices {
            let taken = slice.len().min(most - total);
            self.inbox.extend_from_slice(&slice[..taken]);
            total += taken;
        }
        self.parse();
        Ok(total)
    }

    /// The other side will write no more.
    pub fn shut_write(&mut self) {
        self.no_more = true;
        self.last |= self.request.is_none();
    }

    fn parse(&mut self) {
        while !self.last && !self.inbox.is_empty() {
            if self.request.is_none() {
                let Ok(Some((head, length))) = RequestHead::parse(&self.inbox) else { return };
                let raw: Vec<u8> = self.inbox.drain(..length).collect();
                let text = String::from_utf8_lossy(&raw).into_owned();
                let id = if head.safe { 0 } else { wish(&text).id };
                if !head.safe {
                    self.origin.ledger.borrow_mut().begin(id, &raw);
                }
                self.request = Some((id, length, raw, Body::new(head.framing)));
            }
            let Some((id, at, _, body)) = &mut self.request else { return };
            let taken = body.take(&self.inbox);
            if *id > 0 {
                self.origin.ledger.borrow_mut().body(*id, *at, &self.inbox[..taken]);
            }
            *at += taken;
            self.inbox.drain(..taken);
            if !body.over() {
                return;
            }
            let Some((_, _, head, _)) = self.request.take() else { return };
            self.origin.answers.set(self.origin.answers.get() + 1);
            let (answer, close) = self.origin.render(&head);
            self.out.drain(..self.gone);
            self.gone = 0;
            self.out.extend_from_slice(&answer);
            self.last |= close;
        }
        self.last |= self.no_more;
    }

    /// When more may be read, if it has something.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        let changed = self.breaks != self.origin.breaks.get();
        if self.left() > 0 || self.last || self.broken || changed {
            return Some((self.read_at + self.origin.pace.pause).max(now));
        }
        let idle = self.request.is_none() && self.inbox.is_empty();
        idle.then_some(self.touched + self.origin.keepalive)
    }

    pub fn try_read(&mut self, now: Instant, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.age(now);
        let most = self.origin.pace.burst;
        if self.left() > 0 && now < self.read_at + self.origin.pace.pause {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.left() == 0 {
            return match (self.broken, self.last) {
                (true, _) => Err(io::ErrorKind::ConnectionReset.into()),
                (false, true) => Ok(0),
                (false, false) => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        (self.touched, self.read_at) = (now, now);
        let mut total = 0;
        for slice in slices {
            let count = slice.len().min(self.left()).min(most.max(1) - total);
            slice[..count].copy_from_slice(&self.out[self.gone..self.gone + count]);
            self.gone += count;
            total += count;
        }
        Ok(total)
    }
}
