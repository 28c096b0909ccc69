//! The app: a client of a file server, or of a service that Session knows nothing of. It knows
//! which bytes may come, and checks every one.

use std::io::{self, IoSlice, IoSliceMut};
use std::rc::Rc;

use stp_drive::Pulled;
use stp_proto::replay::http::{Body, Framing};
use stp_proto::session::{Event, Session, ShutNear};
use stp_proto::time::Instant;

use crate::kept::KeptSide;
use crate::near::copy;
use crate::origin::Origin;
use crate::plan::{Pace, Plan};
use crate::random::{Random, pattern, pattern_at, urgent_at};

/// How the app ends its session.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Leave {
    /// Half-closes behind its last byte and reads to the end.
    HalfClose,
    /// Half-closes when it has everything, and reads to the end.
    FinAfter,
    /// Closes both ways when it has everything.
    Close,
}

/// What the app does.
pub enum Task {
    /// Requests one after the other (or at once), each with the answers that are right.
    Exchanges {
        /// Whole requests.
        requests: Vec<Vec<u8>>,
        origins: Vec<Rc<Origin>>,
        /// Requests under way at once.
        pipeline: usize,
        asked: usize,
        written: usize,
        answered: usize,
        /// What the answer under way may be, and how much of it has come.
        candidates: Vec<Vec<u8>>,
        plain: Plain,
        seen: usize,
        not_before: Instant,
    },
    /// This many bytes of a pattern each way.
    Stream { up: (u64, u64), down: (u64, u64), written: u64, seen: u64 },
}

/// The app's end of a session.
pub struct App {
    task: Task,
    leave: Leave,
    read: Pace,
    write: Pace,
    think: std::time::Duration,
    pub established: bool,
    read_at: Instant,
    write_at: Instant,
    /// It reads nothing before this time.
    pub stalled_until: Instant,
    pub aborts: bool,
    pub quits: bool,
    /// It was told the end before it had everything, and closed.
    pub hung_up: bool,
    told_end: bool,
    pub shut: Option<ShutNear>,
    pub violation: Option<String>,
    pub got: u64,
}

impl App {
    pub fn new(task: Task, plan: &Plan, random: &mut Random) -> App {
        App {
            task,
            leave: random.pick(&[Leave::HalfClose, Leave::FinAfter, Leave::Close]),
            read: plan.app,
            write: plan.app_write,
            think: plan.think,
            established: false,
            read_at: Instant::default(),
            write_at: Instant::default(),
            stalled_until: Instant::default(),
            aborts: false,
            quits: false,
            hung_up: false,
            told_end: false,
            shut: None,
            violation: None,
            got: 0,
        }
    }

    /// It has all it wanted, and knows the end if it waits for it.
    pub fn reached_goal(&self) -> bool {
        self.has_all() && (self.shut == Some(ShutNear::Fin) || self.leave == Leave::Close)
    }

    /// Every byte has come.
    pub fn has_all(&self) -> bool {
        match &self.task {
            Task::Exchanges { requests, answered, .. } => *answered == requests.len(),
            Task::Stream { down, seen, up, written } => *seen == down.1 && *written == up.1,
        }
    }

    pub fn progress(&self) -> String {
        match &self.task {
            Task::Exchanges { requests, answered, asked, seen, .. } => {
                format!("{answered}/{asked}/{} exchanges, {seen} bytes of the next", requests.len())
            }
            Task::Stream { up, down, written, seen } => {
                format!("{written}/{} up, {seen}/{} down", up.1, down.1)
            }
        }
    }

    /// Faults are over: it goes on.
    pub fn hurry(&mut self) {
        self.stalled_until = Instant::default();
        self.think = std::time::Duration::ZERO;
        if let Task::Exchanges { not_before, .. } = &mut self.task {
            *not_before = Instant::default();
        }
        let quick = |pace: Pace| Pace {
            burst: pace.burst.max(2_000),
            pause: pace.pause.min(std::time::Duration::from_millis(100)),
        };
        (self.read, self.write) = (quick(self.read), quick(self.write));
    }

    /// When it may go on by itself.
    pub fn wake_at(&self, session: &Session, now: Instant) -> Option<Instant> {
        if self.shut.is_some_and(|shut| shut != ShutNear::Fin) {
            return None;
        }
        let read = (session.undelivered() > 0)
            .then(|| (self.read_at + self.read.pause).max(self.stalled_until));
        let thinks = match &self.task {
            Task::Exchanges { not_before, .. } => *not_before,
            Task::Stream { .. } => Instant::default(),
        };
        let writes = self.established && !self.told_end && session.send_room() > 0;
        let write = writes.then(|| (self.write_at + self.write.pause).max(thinks));
        read.into_iter().chain(write).filter(|at| *at > now).min()
    }

    pub fn pull(
        &mut self,
        now: Instant,
        session: &mut Session,
        kept: Option<&KeptSide>,
    ) -> io::Result<Pulled> {
        if self.aborts {
            self.told_end = true;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.quits {
            self.told_end = true;
            return Ok(Pulled::Gone);
        }
        if !self.established || self.told_end || session.send_room() == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.write_at > Instant::default() && now < self.write_at + self.write.pause {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let burst = self.write.burst;
        let task = &mut self.task;
        let count = session
            .fill(now, |slices| {
                let count = task.write(now, slices, burst);
                if let Some(kept) = kept {
                    kept.sent(slices, count);
                }
                Ok(count)
            })
            .expect("the app's writes do not fail");
        if count > 0 {
            self.write_at = now;
            if let Task::Stream { up, written, .. } = &self.task
                && urgent_at(up.0, *written - 1)
            {
                session.mark_urgent();
            }
            return Ok(Pulled::Bytes(count));
        }
        let written = match &self.task {
            Task::Exchanges { requests, asked, written, .. } => {
                *asked == requests.len() && *written == 0
            }
            Task::Stream { up, written, .. } => *written == up.1,
        };
        let done = written
            && match self.leave {
                Leave::HalfClose => true,
                Leave::FinAfter | Leave::Close => self.has_all(),
            };
        if !done {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.told_end = true;
        Ok(if self.leave == Leave::Close { Pulled::Gone } else { Pulled::Fin })
    }

    /// Takes bytes.
    pub fn take(
        &mut self,
        now: Instant,
        slices: &[IoSlice<'_>],
        urgent: bool,
    ) -> io::Result<usize> {
        if self.quits || self.aborts {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let paused = self.read_at > Instant::default() && now < self.read_at + self.read.pause;
        if now < self.stalled_until || paused {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.shut.is_some() {
            self.fail("bytes came behind the end".to_owned());
        }
        let may_be = match &self.task {
            Task::Stream { down, seen, .. } => urgent_at(down.0, *seen),
            Task::Exchanges { .. } => false,
        };
        if urgent && !may_be {
            self.fail("a byte is urgent that was not sent as such".to_owned());
        }
        let mut left = self.read.burst;
        let mut total = 0;
        for slice in slices {
            let piece = &slice[..slice.len().min(left)];
            left -= piece.len();
            total += piece.len();
            if let Err(text) = self.task.see(now, self.think, piece) {
                self.fail(text);
            }
        }
        self.got += total as u64;
        self.read_at = now;
        Ok(total)
    }

    pub fn shut(&mut self, how: ShutNear) {
        if self.shut.is_some_and(|shut| shut != ShutNear::Fin) {
            self.fail(format!("told {how:?} after {:?}", self.shut));
        }
        if how == ShutNear::Fin && self.shut.is_some() {
            self.fail("told the end twice".to_owned());
        }
        // A client whose server hangs up early closes as well.
        self.hung_up |= how == ShutNear::Fin && !self.may_still_write();
        self.quits |= self.hung_up;
        self.shut = Some(how);
    }

    /// The other side's end is no reason to stop.
    fn may_still_write(&self) -> bool {
        match &self.task {
            Task::Exchanges { .. } => self.has_all(),
            Task::Stream { down, seen, .. } => *seen == down.1,
        }
    }

    pub fn event(&mut self, event: &Event) {
        self.established |= matches!(event, Event::Established { .. });
    }

    fn fail(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }
}

impl Task {
    /// Writes what is to be said now.
    fn write(&mut self, now: Instant, slices: &mut [IoSliceMut<'_>], burst: usize) -> usize {
        let mut count = 0;
        match self {
            Task::Exchanges {
                requests, pipeline, asked, written, answered, not_before, ..
            } => {
                while *asked < requests.len() && *asked < *answered + *pipeline {
                    if now < *not_before && *written == 0 {
                        break;
                    }
                    let rest = &requests[*asked][*written..];
                    let here = copy(&rest[..rest.len().min(burst - count)], slices, count);
                    count += here;
                    *written += here;
                    if *written < requests[*asked].len() {
                        break;
                    }
                    (*asked, *written) = (*asked + 1, 0);
                }
            }
            Task::Stream { up, written, .. } => {
                for slice in slices {
                    let left = usize::try_from(up.1 - *written).unwrap_or(usize::MAX);
                    let here = slice.len().min(left).min(burst - count);
                    pattern(up.0, *written, &mut slice[..here]);
                    *written += here as u64;
                    count += here;
                }
            }
        }
        count
    }

    /// Looks at bytes that came.
    fn see(
        &mut self,
        now: Instant,
        think: std::time::Duration,
        bytes: &[u8],
    ) -> Result<(), String> {
        match self {
            Task::Stream { down, seen, .. } => {
                for byte in bytes {
                    if *seen == down.1 || *byte != pattern_at(down.0, *seen) {
                        return Err(format!("byte {seen} of {} is wrong", down.1));
                    }
                    *seen += 1;
                }
                Ok(())
            }
            Task::Exchanges {
                requests,
                origins,
                asked,
                written,
                answered,
                candidates,
                plain,
                seen,
                not_before,
                ..
            } => {
                let mut bytes = bytes;
                while !bytes.is_empty() {
                    if *answered == *asked && *written == 0 {
                        return Err(format!("{} bytes behind the last answer", bytes.len()));
                    }
                    if candidates.is_empty() {
                        let request = &requests[*answered];
                        *plain = Plain::of(request);
                        let whole = |o: &Rc<Origin>| plain.clone().take(&o.render(request).0).1;
                        *candidates = origins.iter().map(whole).collect();
                        *seen = 0;
                    }
                    let (taken, said) = plain.take(bytes);
                    let fits = |whole: &Vec<u8>| {
                        let rest = &whole[*seen..];
                        let here = rest.len().min(said.len());
                        rest[..here] == said[..here] && (here == said.len() || !plain.in_chunks())
                    };
                    candidates.retain(fits);
                    let Some(first) = candidates.first() else {
                        return Err(format!(
                            "answer {answered} is no right one near byte {seen}: {:?}",
                            String::from_utf8_lossy(&bytes[..bytes.len().min(120)])
                        ));
                    };
                    let here = (first.len() - *seen).min(said.len());
                    *seen += here;
                    bytes = &bytes[if plain.in_chunks() { taken } else { here }..];
                    let same = candidates.iter().any(|whole| whole.len() == *seen);
                    if plain.is_over(same) {
                        *answered += 1;
                        (*seen, *not_before) = (0, now + think);
                        candidates.clear();
                    }
                }
                Ok(())
            }
        }
    }
}

/// An answer without its chunks: how a body is cut may change on its way.
#[derive(Clone, Debug, Default)]
pub struct Plain {
    /// The request may be repeated, so that its answer may be cut anew.
    any: bool,
    head: Vec<u8>,
    body: Option<Box<Body>>,
}

impl Plain {
    fn of(request: &[u8]) -> Plain {
        let get = request.starts_with(b"GET ");
        Plain { any: get, ..Plain::default() }
    }

    /// It is cut into chunks, and they have begun.
    fn in_chunks(&self) -> bool {
        self.body.is_some()
    }

    /// Whether the answer has come whole; `same` if all that it says has.
    fn is_over(&self, same: bool) -> bool {
        same && self.body.as_ref().is_none_or(|body| body.over())
    }

    /// How many bytes belong to the answer, if it is in chunks, and what they say.
    fn take(&mut self, bytes: &[u8]) -> (usize, Vec<u8>) {
        let (mut taken, mut said) = (0, Vec::new());
        while taken < bytes.len() {
            match &mut self.body {
                Some(body) if body.over() || body.broken() => break,
                Some(body) => {
                    let (count, data) = body.next(&bytes[taken..]);
                    if data {
                        said.extend_from_slice(&bytes[taken..taken + count]);
                    }
                    taken += count;
                }
                None => {
                    said.push(bytes[taken]);
                    self.head.push(bytes[taken]);
                    taken += 1;
                    if self.any && self.head.ends_with(b"\r\n\r\n") {
                        let head = std::mem::take(&mut self.head);
                        let text = String::from_utf8_lossy(&head);
                        if text.contains("Transfer-Encoding: chunked") {
                            self.body = Some(Box::new(Body::new(Framing::Chunked)));
                        }
                        self.any &= self.body.is_some() || text.starts_with("HTTP/1.1 1");
                    }
                }
            }
        }
        (taken, said)
    }
}
