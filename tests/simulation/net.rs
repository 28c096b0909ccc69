//! Links between machines: records in order after a delay, over a bounded bandwidth, until the link
//! breaks, falls silent or is closed. A link here is a TCP connection with its TLS handshake done.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use stp_proto::time::Instant;

use crate::plan::Wires;
use crate::random::Random;

/// A connection's number.
pub type ConnId = u64;

/// The end at the broker; also the way from there to the server.
pub const BROKER: usize = 0;
/// The end at the server; also the way from there to the broker.
pub const SERVER: usize = 1;

/// What arrives.
#[derive(Debug)]
pub enum Item {
    Record(Vec<u8>),
    /// The other end has closed, or the connection broke.
    End,
}

/// The owner of an end of a connection.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Owner {
    /// It has none: it is closed there.
    Nobody,
    /// Ready for use: the broker's pool, or a server that waits for the first frame.
    Spare,
    /// A server looks at its first frame.
    Parked,
    /// A session's; its number at this machine.
    Session(u64),
}

/// What moves in one direction.
#[derive(Debug, Default)]
pub struct Pipe {
    pub queue: VecDeque<(Instant, Item)>,
    free_at: Instant,
    last_at: Instant,
    /// Nothing arrives for now.
    pub frozen: bool,
    /// Nothing arrives any more.
    pub dead: bool,
    bytes: usize,
    /// The sender waits for room.
    pub blocked: bool,
    /// Bytes sent, those of them that the other machine has acknowledged, and those of these that
    /// its reader has seen come, if only as parts of a record.
    sent: u64,
    acknowledged: u64,
    noticed: u64,
}

/// A reader that finds this many new bytes, and no whole record, knows that the link is alive.
const SEGMENT: u64 = 1_448;
/// The largest record.
const RECORD_MAX: usize = 16_384;

/// A connection.
#[derive(Debug)]
pub struct Conn {
    pub server: usize,
    /// The server that the broker's packets go to: this one, or one that relays.
    pub path: usize,
    /// The broker's address when it was made.
    pub address: u32,
    pub ways: [Pipe; 2],
    pub owner: [Owner; 2],
}

/// All connections, and which paths there are.
#[derive(Debug)]
pub struct Net {
    pub now: Instant,
    pub conns: BTreeMap<ConnId, Conn>,
    next: ConnId,
    wires: Wires,
    pub random: Random,
    /// When something arrives that was sent since the world looked, and on which way.
    pub arrivals: Vec<(Instant, ConnId, usize)>,
    /// Ways on which there is room again.
    pub roomy: Vec<(ConnId, usize)>,
    /// Until when nothing comes through to this server.
    pub down_until: Vec<Instant>,
    /// Until when the way to this server takes longer, and by how much.
    pub slow_until: Vec<(Instant, Duration)>,
    /// The broker's address.
    pub address: u32,
    packed: bool,
}

impl Net {
    pub fn new(wires: Wires, packed: bool, random: Random) -> Net {
        let servers = wires.latency.len();
        Net {
            now: Instant::default(),
            conns: BTreeMap::new(),
            next: 0,
            wires,
            random,
            arrivals: Vec::new(),
            roomy: Vec::new(),
            down_until: vec![Instant::default(); servers],
            slow_until: vec![Default::default(); servers],
            address: 0,
            packed,
        }
    }

    pub fn is_up(&self, now: Instant, server: usize) -> bool {
        self.down_until[server] <= now
    }

    /// One way's time.
    pub fn delay(&mut self, now: Instant, server: usize) -> Duration {
        let jitter = u64::try_from(self.wires.jitter.as_micros()).unwrap_or(0);
        let (until, more) = self.slow_until[server];
        let more = if now < until { more } else { Duration::ZERO };
        self.wires.latency[server] + more + Duration::from_micros(self.random.below(jitter + 1))
    }

    /// A connection to a server, by a path that leads there.
    pub fn add(&mut self, server: usize, path: usize) -> ConnId {
        self.next += 1;
        let conn = Conn {
            server,
            path,
            address: self.address,
            ways: Default::default(),
            owner: [Owner::Spare, Owner::Spare],
        };
        self.conns.insert(self.next, conn);
        self.next
    }

    /// Whether the link takes DATA while `unsent` bytes wait; if not, the sender will be told when
    /// it does again.
    pub fn room(&mut self, id: ConnId, way: usize, unsent: usize) -> bool {
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        let pipe = &mut conn.ways[way];
        pipe.blocked = pipe.bytes + unsent >= self.wires.queue;
        !pipe.blocked
    }

    /// Whether the sending machine takes a record, of whatever kind; if not, the sender will be
    /// told when it does again.
    pub fn takes(&mut self, id: ConnId, way: usize) -> bool {
        let Some(conn) = self.conns.get_mut(&id) else { return true };
        let pipe = &mut conn.ways[way];
        let takes = pipe.bytes < self.wires.queue + RECORD_MAX;
        pipe.blocked |= !takes;
        takes
    }

    /// Sends a record. It may go along with one that is on its way.
    pub fn send(&mut self, id: ConnId, way: usize, frame: &[u8]) {
        const DATA: u8 = 4;
        let now = self.now;
        let Some(conn) = self.conns.get(&id) else { return };
        let delay = self.delay(now, conn.path);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let pipe = &mut conn.ways[way];
        pipe.bytes += frame.len();
        pipe.sent += frame.len() as u64;
        if self.packed
            && frame[0] == DATA
            && let Some((at, Item::Record(last))) = pipe.queue.back_mut()
            && last[0] == DATA
            && last.len() + frame.len() <= RECORD_MAX
            && *at > now
        {
            last.extend_from_slice(frame);
            return;
        }
        let micros = frame.len() as u64 * 1_000_000 / self.wires.bandwidth;
        pipe.free_at = pipe.free_at.max(now) + Duration::from_micros(micros);
        let at = pipe.push(pipe.free_at + delay, Item::Record(frame.to_vec()));
        self.arrivals.push((at, id, way));
    }

    /// One end closes; what it sent still arrives, unless `abruptly`.
    pub fn close(&mut self, id: ConnId, side: usize, abruptly: bool) {
        let now = self.now;
        let Some(conn) = self.conns.get(&id) else { return };
        let delay = self.delay(now, conn.path);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.owner[side] = Owner::Nobody;
        conn.ways[1 - side].clear();
        if conn.owner[1 - side] == Owner::Nobody {
            self.conns.remove(&id);
            return;
        }
        let pipe = &mut conn.ways[side];
        if abruptly {
            pipe.clear();
        }
        let at = pipe.push(pipe.free_at.max(now) + delay, Item::End);
        self.arrivals.push((at, id, side));
    }

    /// The connection breaks: what is on its way is lost. The end `side` learns it after `after`.
    pub fn break_towards(&mut self, id: ConnId, side: usize, after: Duration) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let pipe = &mut conn.ways[1 - side];
        if pipe.dead {
            return;
        }
        pipe.clear();
        pipe.frozen = false;
        let at = pipe.push(self.now + after, Item::End);
        self.arrivals.push((at, id, 1 - side));
    }

    /// Whether a whole record has come on a way.
    pub fn is_record_due(&self, id: ConnId, way: usize) -> bool {
        let front = self.conns.get(&id).and_then(|conn| conn.ways[way].queue.front());
        front.is_some_and(|(at, item)| *at <= self.now && matches!(item, Item::Record(_)))
    }

    /// The round trip of a connection now, and at best; and how much waits to be sent.
    pub fn round_trip(&self, id: ConnId, way: usize) -> (Duration, Duration, bool) {
        let Some(conn) = self.conns.get(&id) else { return Default::default() };
        let (until, more) = self.slow_until[conn.path];
        let more = if self.now < until { more } else { Duration::ZERO };
        let best = self.wires.latency[conn.path] * 2;
        let backlog = conn.ways[way].free_at.since(self.now);
        (best + more * 2 + backlog, best, backlog > Duration::ZERO)
    }

    /// Bytes a second.
    pub fn bandwidth(&self) -> u64 {
        self.wires.bandwidth
    }

    /// Bytes sent on a way that the other machine has acknowledged.
    pub fn acknowledged(&mut self, id: ConnId, way: usize) -> u64 {
        self.reached(id, way, 2)
    }

    /// Bytes sent on a way that were on the wire this many latencies ago.
    fn reached(&mut self, id: ConnId, way: usize, latencies: u32) -> u64 {
        let Some(conn) = self.conns.get(&id) else { return 0 };
        let (until, more) = self.slow_until[conn.path];
        let more = if self.now < until { more } else { Duration::ZERO };
        let then = self.now - (self.wires.latency[conn.path] + more) * latencies;
        let Some(conn) = self.conns.get_mut(&id) else { return 0 };
        conn.ways[way].reached(then, self.wires.bandwidth)
    }

    /// Whether a part of a record has come on a way since its reader looked.
    fn is_coming(&mut self, id: ConnId, way: usize) -> bool {
        let reached = self.reached(id, way, 1);
        let Some(conn) = self.conns.get(&id) else { return false };
        reached >= conn.ways[way].noticed + SEGMENT
    }

    /// Whether there is something to be read on a way: a record, its end, or a part of a record.
    pub fn is_readable(&mut self, id: ConnId, way: usize) -> bool {
        let Some(conn) = self.conns.get(&id) else { return false };
        let pipe = &conn.ways[way];
        if pipe.frozen || pipe.dead {
            return false;
        }
        pipe.queue.front().is_some_and(|(at, _)| *at <= self.now) || self.is_coming(id, way)
    }

    /// The reader of a way has looked at what came; says whether that was a part of a record.
    pub fn notice(&mut self, id: ConnId, way: usize) -> bool {
        let came = self.is_coming(id, way);
        let reached = self.reached(id, way, 1);
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.ways[way].noticed = reached;
        }
        came
    }

    /// What is due at the front of a way.
    pub fn due(&mut self, id: ConnId, way: usize) -> Option<Item> {
        let now = self.now;
        let queue = self.wires.queue;
        let pipe = &mut self.conns.get_mut(&id)?.ways[way];
        if pipe.frozen || pipe.dead {
            return None;
        }
        let (_, item) = pipe.queue.pop_front_if(|(at, _)| *at <= now)?;
        if let Item::Record(record) = &item {
            pipe.bytes -= record.len();
        }
        if pipe.blocked && pipe.bytes < queue {
            pipe.blocked = false;
            self.roomy.push((id, way));
        }
        Some(item)
    }

    /// Puts a record back that was for the next session on the link.
    pub fn put_back(&mut self, id: ConnId, way: usize, record: Vec<u8>) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.ways[way].bytes += record.len();
            conn.ways[way].queue.push_front((self.now, Item::Record(record)));
            self.arrivals.push((self.now, id, way));
        }
    }

    /// Gives an end of a connection to another owner, with the bytes that have come already.
    pub fn give(&mut self, id: ConnId, side: usize, owner: Owner) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.owner[side] = owner;
            self.arrivals.push((self.now, id, 1 - side));
        }
    }

    /// Lets ways go on.
    pub fn thaw(&mut self, server: usize) {
        for (id, conn) in &mut self.conns {
            for (way, pipe) in conn.ways.iter_mut().enumerate() {
                if conn.path == server && pipe.frozen {
                    pipe.frozen = false;
                    let due = pipe.queue.iter().map(|(at, _)| ((*at).max(self.now), *id, way));
                    self.arrivals.extend(due);
                }
            }
        }
    }

    /// The connections to a server and through it, or all.
    pub fn to(&self, server: Option<usize>) -> Vec<ConnId> {
        let to =
            |conn: &Conn| server.is_none_or(|server| conn.server == server || conn.path == server);
        self.conns.iter().filter(|(_, conn)| to(conn)).map(|(id, _)| *id).collect()
    }
}

impl Pipe {
    fn push(&mut self, at: Instant, item: Item) -> Instant {
        self.last_at = self.last_at.max(at);
        self.queue.push_back((self.last_at, item));
        self.last_at
    }

    /// Bytes that had passed the sending machine's interface at a time; no fewer than before.
    fn reached(&mut self, then: Instant, bandwidth: u64) -> u64 {
        if !self.dead && !self.frozen {
            let micros = u64::try_from((self.free_at - then).as_micros()).unwrap_or(u64::MAX);
            let backlog = micros.saturating_mul(bandwidth) / 1_000_000;
            self.acknowledged = self.acknowledged.max(self.sent.saturating_sub(backlog));
        }
        self.acknowledged
    }

    fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
    }
}
