//! A broker's and a server's session, joined by links that deliver records in order after a
//! latency, and break when told to. Time is virtual; everything is deterministic.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use crate::handle::Handle;
use crate::role::Role;
use crate::session::{
    Attempt, ClosedWhy, Detach, Event, Frozen, Input, Limits, LinkId, Output, Peer, PeerMisbehaved,
    Remains, Session, ShutNear, StartAt,
};
use crate::state::State;
use crate::time::Instant;
use crate::wire::{
    ConnectMode, First, ResumeDenial, encode_done, encode_resume_denied, first_frame,
};

pub const SH_A: Handle = Handle([0xaa; 16]);
pub const SH_B: Handle = Handle([0xbb; 16]);

/// One end with its near side.
pub struct End {
    pub session: Session,
    /// What the near side still writes.
    pub source: VecDeque<u8>,
    /// Places in its stream of bytes that it marks as urgent.
    pub urgent: VecDeque<u64>,
    /// How much it has written.
    written: u64,
    /// The near side ends its stream when `source` is empty.
    pub fin_at_end: bool,
    fin_told: bool,
    /// What the near side has read.
    pub got: Vec<u8>,
    /// The bytes among them that came with a mark.
    pub marks: Vec<u64>,
    /// How much more it reads.
    pub appetite: usize,
    /// The link takes DATA.
    pub room: bool,
    pub events: Vec<Event>,
    pub shut: Vec<ShutNear>,
    pub detached: Vec<(LinkId, Detach)>,
    pub errors: Vec<PeerMisbehaved>,
    pub frames_sent: usize,
    pub dials: usize,
    /// What was put by last before frames went out, and how much was received then.
    left: (Option<Vec<u8>>, u64),
    deadline: Option<Instant>,
}

impl End {
    fn new(session: Session) -> End {
        End {
            session,
            source: VecDeque::new(),
            urgent: VecDeque::new(),
            written: 0,
            fin_at_end: false,
            fin_told: false,
            got: Vec::new(),
            marks: Vec::new(),
            appetite: usize::MAX,
            room: true,
            events: Vec::new(),
            shut: Vec::new(),
            detached: Vec::new(),
            errors: Vec::new(),
            frames_sent: 0,
            dials: 0,
            left: (None, 0),
            deadline: None,
        }
    }

    /// R100: what must be there before the frames leave.
    fn put_by(&mut self) {
        let encoded = |remains: Remains| {
            let mut bytes = Vec::new();
            remains.encode(&mut bytes);
            bytes
        };
        let received = self.session.positions().received;
        self.left = (self.session.remains().map(encoded), received);
    }

    /// Its process dies, and another takes the session over; as [`Pair::restart_broker`].
    fn restart(&mut self, now: Instant, late: bool, looked: bool) -> bool {
        let (Some(left), received) = self.left.clone() else { return false };
        let remains = Remains::decode(&left).expect("what was put by");
        let p = self.session.positions();
        let read = if looked && p.end > 0 { p.end - 1 } else { p.end };
        let held = if late { received } else { p.received };
        let (at, looked_at) = remains.counts(read, p.delivered, held);
        // What was only looked at, and never told, is there to be read.
        let rest = self.written - at.end.min(self.written);
        let kept: Vec<u8> = self.session.kept_from(p.una).flatten().copied().collect();
        for byte in kept.iter().rev().take(rest as usize) {
            self.source.push_front(*byte);
        }
        assert!(looked_at || at.end == read);
        self.written = at.end;
        // What the peer has acknowledged may have been overwritten.
        let from = remains.needed_from(at, self.session.limits().send_buffer_max as u64);
        let old_byte = |at: u64| match at.checked_sub(p.una) {
            Some(index) => kept[index as usize],
            None => 0xee,
        };
        let up: Vec<u8> = (from..at.end).map(old_byte).collect();
        let mut down: Vec<u8> =
            self.session.undelivered_from(at.delivered).flatten().copied().collect();
        down.truncate((at.held - at.delivered) as usize);
        let limits = self.session.limits().clone();
        let service = self.session.service().to_owned();
        let restored = Session::restore(now, limits, &service, &remains, at, (&up, &down));
        self.session = restored.expect("what was put by fits");
        self.events.retain(|event| !matches!(event, Event::Closed { .. }));
        (self.deadline, self.fin_told) = (None, false);
        true
    }

    /// Its app is one that took over at these positions.
    pub fn took_up(&mut self, end: u64, delivered: u64) {
        assert_eq!(end, self.written, "nothing was read since");
        self.got.truncate(delivered as usize);
        self.events.retain(|event| !matches!(event, Event::Closed { .. }));
        (self.deadline, self.fin_told) = (None, false);
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.source.extend(bytes);
    }

    pub fn closed(&self) -> Option<ClosedWhy> {
        self.events.iter().find_map(|event| match event {
            Event::Closed { why } => Some(*why),
            _ => None,
        })
    }

    pub fn attached(&self) -> Vec<(Attempt, Duration, u64)> {
        let attached = |event: &Event| match event {
            Event::Attached { attempt, gap, again, .. } => Some((*attempt, *gap, *again)),
            _ => None,
        };
        self.events.iter().filter_map(attached).collect()
    }

    /// The near side reads and writes what it can.
    fn near(&mut self, now: Instant) {
        while !self.source.is_empty() && self.session.send_room() > 0 {
            let source = &mut self.source;
            // A read ends at an urgent byte.
            let most = self.urgent.front().map_or(u64::MAX, |urgent| urgent - self.written + 1);
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let count = self
                .session
                .fill(now, |slices| {
                    let mut count = 0;
                    for slice in slices.iter_mut() {
                        let here = slice.len().min(source.len()).min(most - count);
                        source.drain(..here).zip(slice.iter_mut()).for_each(|(b, s)| *s = b);
                        count += here;
                    }
                    Ok(count)
                })
                .unwrap();
            assert!(count > 0, "there was room and there were bytes");
            self.written += count as u64;
            if self.urgent.pop_front_if(|urgent| *urgent + 1 == self.written).is_some() {
                self.session.mark_urgent();
            }
        }
        if self.source.is_empty() && self.fin_at_end && !self.fin_told {
            self.fin_told = true;
            self.session.handle_input(now, Input::NearFin);
        }
        if self.session.undelivered() > 0 {
            self.deliver(now, &[]);
        }
    }

    fn deliver(&mut self, now: Instant, arrived: &[&[u8]]) {
        let (got, appetite, marks) = (&mut self.got, &mut self.appetite, &mut self.marks);
        let result = self.session.deliver_marked(now, arrived, |slices, urgent| {
            if *appetite == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if urgent {
                assert_eq!(slices.iter().map(|slice| slice.len()).sum::<usize>(), 1);
                marks.push(got.len() as u64);
            }
            let mut count = 0;
            for slice in slices {
                let here = slice.len().min(*appetite);
                got.extend_from_slice(&slice[..here]);
                *appetite -= here;
                count += here;
            }
            Ok(count)
        });
        if let Err(error) = result {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
    }
}

/// A link: records on their way, each way.
#[derive(Default)]
pub struct Link {
    /// To the server, to the broker.
    ways: [VecDeque<(Instant, Vec<u8>)>; 2],
    /// Each end sees it as open.
    open: [bool; 2],
    /// Records vanish.
    pub silent: bool,
    /// It breaks after this many more records are delivered.
    pub breaks_after: Option<usize>,
    /// An end learns that the other has closed it.
    ends: [Option<Instant>; 2],
}

impl Link {
    /// The record that arrives next, at the server (0) or the broker (1).
    pub fn first(&mut self, way: usize) -> &mut Vec<u8> {
        &mut self.ways[way].front_mut().expect("one is on its way").1
    }
}

/// The two ends and what is between them.
pub struct Pair {
    pub now: Instant,
    pub latency: Duration,
    pub broker: End,
    pub server: Option<End>,
    pub server_limits: Limits,
    pub links: BTreeMap<u64, Link>,
    next_link: u64,
    dialing: Option<Instant>,
    /// Dials succeed.
    pub path: bool,
    /// Where new links lead.
    pub peer: Peer,
    /// Every new link breaks after this many records, in turn.
    pub fates: VecDeque<usize>,
    /// How a server session starts at a transfer.
    pub transfer_at: Option<StartAt>,
    pub server_handle: Handle,
    /// Records that arrive at one moment are handed over before the session is polled.
    pub batch: bool,
    /// Records delivered in all.
    pub delivered: usize,
    /// A server that ended and was dropped answers from its tombstone.
    pub tombstone: Option<(u32, ResumeDenial)>,
    pub resets_first: usize,
    /// Its service holds acknowledgements back.
    pub replayable: bool,
    /// The broker, or the server, dies after so many more records, before it has put anything by.
    pub broker_dies_after: Option<usize>,
    pub server_dies_after: Option<usize>,
}

impl Pair {
    pub fn new() -> Pair {
        Pair::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Pair {
        let now = Instant(1_000_000);
        let session =
            Session::initiate(now, limits.clone(), SH_A, "www.web@example.org", "me@here");
        Pair {
            now,
            latency: Duration::from_millis(20),
            broker: End::new(session),
            server: None,
            server_limits: limits,
            links: BTreeMap::new(),
            next_link: 0,
            dialing: None,
            path: true,
            peer: Peer::Same,
            fates: VecDeque::new(),
            transfer_at: None,
            server_handle: SH_B,
            batch: false,
            delivered: 0,
            tombstone: None,
            resets_first: 0,
            replayable: false,
            broker_dies_after: None,
            server_dies_after: None,
        }
    }

    /// Connected and quiet.
    pub fn connected(limits: Limits) -> Pair {
        let mut pair = Pair::with(limits);
        pair.run(Duration::from_millis(500));
        assert_eq!(pair.broker.session.state(), State::Active);
        pair
    }

    pub fn server(&mut self) -> &mut End {
        self.server.as_mut().expect("the server has the session")
    }

    pub fn broker_input(&mut self, input: Input) {
        self.broker.session.handle_input(self.now, input);
        self.settle();
    }

    pub fn server_input(&mut self, input: Input) {
        let now = self.now;
        self.server().session.handle_input(now, input);
        self.settle();
    }

    /// Breaks all links; both ends learn at once.
    pub fn cut(&mut self) {
        let links: Vec<u64> = self.links.keys().copied().collect();
        links.into_iter().for_each(|link| self.break_link(link));
        self.settle();
    }

    /// From now on records of all links vanish.
    pub fn silence(&mut self) {
        self.links.values_mut().for_each(|link| link.silent = true);
    }

    fn break_link(&mut self, id: u64) {
        let Some(link) = self.links.remove(&id) else { return };
        let lost = Input::LinkLost { link: LinkId(id) };
        if link.open[0] {
            self.broker.session.handle_input(self.now, lost);
        }
        if let (true, Some(server)) = (link.open[1], &mut self.server) {
            server.session.handle_input(self.now, lost);
        }
    }

    /// Lets both near sides and both sessions do all they can at this moment.
    pub fn settle(&mut self) {
        for _ in 0..1000 {
            if !self.drain(0) & !self.drain(1) {
                return;
            }
        }
        panic!("the sessions never come to rest");
    }

    /// Polls one end to its Wait; whether anything came out.
    fn drain(&mut self, index: usize) -> bool {
        let now = self.now;
        let end = match index {
            0 => &mut self.broker,
            _ => match &mut self.server {
                Some(server) => server,
                None => return false,
            },
        };
        let mut busy = false;
        end.near(now);
        let mut out = Vec::new();
        for _ in 0..100_000 {
            out.clear();
            let output = end.session.poll_output(now, end.room, &mut out);
            assert_eq!(out.is_empty(), !matches!(output, Output::Frame { .. }));
            match output {
                Output::Frame { link } => {
                    end.frames_sent += 1;
                    if let Some(link) = self.links.get_mut(&link.0)
                        && link.open[index]
                        && !link.silent
                    {
                        link.ways[index].push_back((now + self.latency, out.clone()));
                    }
                }
                Output::Dial => {
                    end.dials += 1;
                    self.dialing = Some(now + self.latency * 2);
                }
                Output::Detach { link, how } => {
                    end.detached.push((link, how));
                    if let Some(link) = self.links.get_mut(&link.0) {
                        link.open[index] = false;
                        if how == Detach::Close {
                            link.ways[index].clear();
                        }
                        if how == Detach::Reuse {
                            // R52: nothing of the session comes after the peer's last word.
                            assert!(link.ways[1 - index].is_empty(), "clean in this direction");
                        }
                        if how != Detach::Reuse && link.open[1 - index] && !link.silent {
                            link.ends[1 - index] = Some(now + self.latency);
                        }
                    }
                }
                Output::ShutNear(how) => end.shut.push(how),
                Output::Event(event) => end.events.push(event),
                Output::Wait(deadline) => {
                    end.deadline = deadline;
                    end.put_by();
                    check(&end.session);
                    return busy;
                }
            }
            busy = true;
            end.near(now);
        }
        panic!("poll_output never waits");
    }

    /// The broker's process dies, and another takes the session over. `late` says that what it did
    /// with the near side last was not put by, `looked` that the last byte it took was only looked
    /// at. False if there was nothing to take over yet.
    pub fn restart_broker(&mut self, late: bool, looked: bool) -> bool {
        let goes_on = self.broker.restart(self.now, late, looked);
        if goes_on {
            self.dialing = None;
            self.died(0, late);
        }
        goes_on
    }

    /// The broker's end is one that was saved, `away` ago, and its links are gone.
    pub fn load_broker(&mut self, frozen: &Frozen, away: Duration) {
        let limits = self.broker.session.limits().clone();
        let service = self.broker.session.service().to_owned();
        let thawed = Session::thaw(self.now, limits, &service, away, frozen);
        self.broker.session = thawed.expect("what was saved fits");
        let (end, delivered) = frozen.positions();
        self.broker.took_up(end, delivered);
        self.dialing = None;
        self.died(0, false);
    }

    /// The same of the server's process.
    pub fn restart_server(&mut self, late: bool) -> bool {
        let now = self.now;
        let goes_on = self.server.as_mut().is_some_and(|server| server.restart(now, late, false));
        if goes_on {
            self.died(1, late);
        } else {
            // What was not put by was not told either.
            self.server = None;
        }
        goes_on
    }

    /// The links of an end whose process died.
    fn died(&mut self, index: usize, late: bool) {
        for link in self.links.values_mut() {
            link.open[index] = false;
            link.ends[1 - index] = Some(self.now + self.latency);
            if late {
                // The path was cut as well.
                link.ways[index].clear();
            }
        }
    }

    /// The next moment at which something happens.
    fn next(&self) -> Option<Instant> {
        let mut next: Vec<Instant> = Vec::new();
        next.extend(self.dialing);
        next.extend(self.broker.deadline);
        next.extend(self.server.as_ref().and_then(|server| server.deadline));
        for link in self.links.values() {
            next.extend(link.ways.iter().filter_map(|way| way.front().map(|(at, _)| *at)));
            next.extend(link.ends.iter().flatten());
        }
        next.into_iter().min()
    }

    /// Runs for `time`.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_to(end, |_| false);
        self.now = end;
    }

    /// Runs until `done`; fails after a virtual day.
    #[track_caller]
    pub fn until(&mut self, done: impl Fn(&Pair) -> bool) {
        let end = self.now + Duration::from_secs(86_400);
        assert!(self.run_to(end, &done), "it never happened");
    }

    fn run_to(&mut self, end: Instant, done: impl Fn(&Pair) -> bool) -> bool {
        self.settle();
        for _ in 0..3_000_000 {
            if done(self) {
                return true;
            }
            let Some(next) = self.next().filter(|next| *next <= end) else { return false };
            self.now = self.now.max(next);
            self.happen();
            self.settle();
        }
        panic!("too many events");
    }

    fn happen(&mut self) {
        let now = self.now;
        if self.dialing.is_some_and(|at| at <= now) {
            self.dialing = None;
            self.dialed();
        }
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.deliver(id);
        }
        if self.broker.deadline.is_some_and(|at| at <= now) {
            self.broker.session.handle_input(now, Input::Timeout);
        }
        if let Some(server) = &mut self.server
            && server.deadline.is_some_and(|at| at <= now)
        {
            server.session.handle_input(now, Input::Timeout);
        }
    }

    fn dialed(&mut self) {
        if !self.path {
            return self.broker.session.handle_input(self.now, Input::DialFailed);
        }
        self.next_link += 1;
        let link =
            Link { open: [true, true], breaks_after: self.fates.pop_front(), ..Link::default() };
        self.links.insert(self.next_link, link);
        // A driver goes elsewhere when its server is dead.
        let holds = |server: &End| server.session.handles().1 == self.broker.session.handles().1;
        let peer = match self.server.as_ref().is_some_and(holds) {
            false if self.replayable => Peer::Other,
            true | false => self.peer,
        };
        let up = Input::LinkUp { link: LinkId(self.next_link), peer };
        self.broker.session.handle_input(self.now, up);
    }

    /// Delivers what is due on a link.
    fn deliver(&mut self, id: u64) {
        for way in 0..2 {
            loop {
                let Some(link) = self.links.get_mut(&id) else { return };
                let Some((_, record)) = link.ways[way].pop_front_if(|(at, _)| *at <= self.now)
                else {
                    break;
                };
                if let Some(left) = &mut link.breaks_after {
                    if *left == 0 {
                        self.break_link(id);
                        return;
                    }
                    *left -= 1;
                }
                let open = link.open[1 - way];
                self.delivered += 1;
                match way {
                    0 if open => self.at_server(id, &record),
                    1 if open => self.at_broker(id, &record),
                    _ => (),
                }
                if !self.batch {
                    self.settle();
                }
            }
            self.settle();
        }
        for end in 0..2 {
            let Some(link) = self.links.get_mut(&id) else { return };
            if link.ends[end].is_some_and(|at| at <= self.now) && link.ways[1 - end].is_empty() {
                link.ends[end] = None;
                let lost = Input::LinkLost { link: LinkId(id) };
                if core::mem::replace(&mut link.open[end], false) {
                    match (end, &mut self.server) {
                        (0, _) => self.broker.session.handle_input(self.now, lost),
                        (_, Some(server)) => server.session.handle_input(self.now, lost),
                        (_, None) => (),
                    }
                }
                self.settle();
            }
        }
    }

    fn at_broker(&mut self, id: u64, record: &[u8]) {
        take(self.now, &mut self.broker, LinkId(id), record);
        match &mut self.broker_dies_after {
            Some(0) => {
                self.broker_dies_after = None;
                // It has read what there was room for, and told nobody.
                self.broker.near(self.now);
                self.restart_broker(true, true);
            }
            Some(left) => *left -= 1,
            None => {}
        }
    }

    /// What the server's daemon does with a record.
    fn at_server(&mut self, id: u64, record: &[u8]) {
        let link = LinkId(id);
        if let Some(server) = &mut self.server
            && !server.session.is_over()
        {
            take(self.now, server, link, record);
            if self.server_dies_after.take_if(|left| *left == 0).is_some() {
                server.near(self.now);
                self.restart_server(true);
            }
            self.server_dies_after = self.server_dies_after.map(|left| left - 1);
            return;
        }
        match first_frame(record) {
            Ok(First::Connect(connect)) if self.server.is_none() && self.tombstone.is_none() => {
                let asked = match &connect.mode {
                    ConnectMode::New | ConnectMode::Relay(_) | ConnectMode::Prepare(_) => {
                        StartAt::default()
                    }
                    ConnectMode::Transfer(request) => {
                        StartAt { up: request.covers, down: request.down }
                    }
                };
                let at = self.transfer_at.unwrap_or(asked);
                let limits = self.server_limits.clone();
                let own = self.server_handle;
                let mut session = Session::accept(self.now, limits, link, own, &connect, at, "a");
                if self.replayable {
                    session.hold_acks();
                }
                self.server = Some(End::new(session));
            }
            Ok(First::Reset(_)) => {
                self.resets_first += 1;
                self.answer(id, encode_done);
            }
            Ok(First::Connect(_)) => self.break_link(id),
            Ok(First::Resume(_)) => {
                let epitaph = self.server.as_ref().and_then(|server| server.session.epitaph());
                let epitaph = epitaph.or(self.tombstone);
                let (seen, why) = epitaph.unwrap_or((0, ResumeDenial::Unknown));
                self.answer(id, |out| encode_resume_denied(seen, why, out));
            }
            Err(error) => {
                // The broker's own last word may follow the server's.
                let done = crate::wire::frames(record).next();
                let close = crate::wire::Frame::Close(crate::wire::Close::Done);
                assert_eq!(done, Some(Ok(close)), "{error}");
            }
        }
    }

    fn answer(&mut self, id: u64, encode: impl Fn(&mut Vec<u8>)) {
        let mut out = Vec::new();
        encode(&mut out);
        if let Some(link) = self.links.get_mut(&id) {
            link.ways[1].push_back((self.now + self.latency, out));
            link.open[1] = false;
            link.ends[0] = Some(self.now + self.latency);
        }
    }

    /// Both ends are over and everything arrived.
    #[track_caller]
    pub fn assert_clean(&mut self, up: &[u8], down: &[u8]) {
        self.until(|pair| {
            pair.broker.session.is_over()
                && pair.server.as_ref().is_some_and(|server| server.session.is_over())
        });
        self.settle();
        assert!(self.server().got == up, "every byte up");
        assert!(self.broker.got == down, "every byte down");
        assert_eq!(self.broker.closed(), Some(ClosedWhy::Clean));
        assert_eq!(self.server().closed(), Some(ClosedWhy::Clean));
        assert_eq!(self.broker.shut, [ShutNear::Fin]);
        assert_eq!(self.server().shut, [ShutNear::Fin]);
    }
}

fn take(now: Instant, end: &mut End, link: LinkId, record: &[u8]) {
    let mut arrived = Vec::new();
    if let Err(error) = end.session.handle_record(now, link, record, &mut arrived) {
        end.errors.push(error);
    }
    end.deliver(now, &arrived);
}

/// What holds at every rest.
fn check(session: &Session) {
    let p = session.positions();
    let limits = session.limits();
    assert!(p.delivered <= p.received && p.acked <= p.received, "{p:?}");
    let (send, receive) = session.buffered();
    assert!(send <= limits.send_buffer_max && receive <= limits.receive_buffer_max);
    assert!(session.link().is_some() || session.state() != State::Active);
    if session.state() == State::Closed {
        assert_eq!(send, 0, "nothing is kept for a session that is over");
        return;
    }
    assert!(p.una <= p.nxt && p.nxt <= p.max && p.max <= p.end, "{p:?}");
    assert!(p.una <= p.heard && p.heard <= p.max, "{p:?}");
    assert!(p.received <= p.told, "{p:?}");
    if session.role() == Role::SERVER {
        assert_ne!(session.state(), State::SentResume);
    }
}

/// Bytes that tell their position.
pub fn stream(seed: u64, count: usize) -> Vec<u8> {
    (0..count as u64).map(|i| ((i * 31 + seed * 101) ^ ((i >> 8) * 7)) as u8).collect()
}

/// Limits of a few bytes, frames of one.
pub fn tiny() -> Limits {
    Limits {
        send_buffer_max: 8,
        receive_buffer_max: 6,
        ack_every: 2,
        checkpoint_every: 4,
        chunk: 4,
        fill_max: 4,
        data_max: 2,
        seam_block: 4,
        ..Limits::default()
    }
}
