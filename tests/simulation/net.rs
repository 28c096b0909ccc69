//! Links between machines: records in order after a delay, over a bounded bandwidth, until the link
//! breaks, falls silent or is closed. A link here is a TCP connection with its TLS handshake done.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use stp_proto::session::LinkId;
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

/// Whose an end of a connection is.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Nobody's: it is closed there.
    Nobody,
    /// Ready for use: the broker's pool, or a server that waits for the first frame.
    Spare,
    /// A server looks at its first frame.
    Parked,
    /// A session's (its number at this machine), under this link number.
    Session(u64, LinkId),
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
}

/// A connection.
#[derive(Debug)]
pub struct Conn {
    pub server: usize,
    /// The broker's address when it was made.
    pub address: u32,
    pub ways: [Pipe; 2],
    pub owner: [Owner; 2],
}

/// All connections, and which paths there are.
#[derive(Debug)]
pub struct Net {
    pub conns: BTreeMap<ConnId, Conn>,
    next: ConnId,
    wires: Wires,
    random: Random,
    /// Until when nothing comes through to this server.
    pub down_until: Vec<Instant>,
    /// Until when the way to this server takes so much longer.
    pub slow_until: Vec<(Instant, Duration)>,
    /// The broker's address.
    pub address: u32,
    packed: bool,
}

impl Net {
    pub fn new(wires: Wires, packed: bool, random: Random) -> Net {
        let servers = wires.latency.len();
        Net {
            conns: BTreeMap::new(),
            next: 0,
            wires,
            random,
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

    pub fn add(&mut self, server: usize) -> ConnId {
        self.next += 1;
        let conn = Conn {
            server,
            address: self.address,
            ways: Default::default(),
            owner: [Owner::Spare, Owner::Spare],
        };
        self.conns.insert(self.next, conn);
        self.next
    }

    /// Whether the link takes DATA; if not, the sender will be told when it does again.
    pub fn room(&mut self, id: ConnId, way: usize) -> bool {
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        let pipe = &mut conn.ways[way];
        pipe.blocked = pipe.bytes >= self.wires.queue;
        !pipe.blocked
    }

    /// Sends a record; says when it arrives, unless it goes along with one that is on its way.
    pub fn send(&mut self, now: Instant, id: ConnId, way: usize, frame: &[u8]) -> Option<Instant> {
        const DATA: u8 = 4;
        let record_max = 16_384;
        let server = self.conns.get(&id)?.server;
        let delay = self.delay(now, server);
        let pipe = &mut self.conns.get_mut(&id)?.ways[way];
        pipe.bytes += frame.len();
        if self.packed
            && frame[0] == DATA
            && let Some((at, Item::Record(last))) = pipe.queue.back_mut()
            && last[0] == DATA
            && last.len() + frame.len() <= record_max
            && *at > now
        {
            last.extend_from_slice(frame);
            return None;
        }
        let micros = frame.len() as u64 * 1_000_000 / self.wires.bandwidth;
        pipe.free_at = pipe.free_at.max(now) + Duration::from_micros(micros);
        Some(pipe.push(pipe.free_at + delay, Item::Record(frame.to_vec())))
    }

    /// One end closes; what it sent still arrives, unless `abruptly`. Says when the end arrives.
    pub fn close(
        &mut self,
        now: Instant,
        id: ConnId,
        side: usize,
        abruptly: bool,
    ) -> Option<Instant> {
        let server = self.conns.get(&id)?.server;
        let delay = self.delay(now, server);
        let conn = self.conns.get_mut(&id)?;
        conn.owner[side] = Owner::Nobody;
        conn.ways[1 - side].clear();
        if conn.owner[1 - side] == Owner::Nobody {
            self.conns.remove(&id);
            return None;
        }
        let pipe = &mut conn.ways[side];
        if abruptly {
            pipe.clear();
        }
        Some(pipe.push(pipe.free_at.max(now) + delay, Item::End))
    }

    /// The connection breaks: what is on its way is lost. The end `side` learns it after `after`.
    pub fn break_towards(
        &mut self,
        now: Instant,
        id: ConnId,
        side: usize,
        after: Duration,
    ) -> Option<Instant> {
        let pipe = &mut self.conns.get_mut(&id)?.ways[1 - side];
        if pipe.dead {
            return None;
        }
        pipe.clear();
        pipe.frozen = false;
        let at = pipe.push(now + after, Item::End);
        Some(at)
    }

    /// Whether a record is getting through, bit by bit, in some direction.
    pub fn is_moving(&self, now: Instant, id: ConnId) -> bool {
        let moves = |pipe: &Pipe| !pipe.dead && !pipe.frozen && pipe.free_at > now;
        self.conns.get(&id).is_some_and(|conn| conn.ways.iter().any(moves))
    }

    /// What is due at the front of a way.
    pub fn due(&mut self, now: Instant, id: ConnId, way: usize) -> Option<Item> {
        let pipe = &mut self.conns.get_mut(&id)?.ways[way];
        if pipe.frozen || pipe.dead {
            return None;
        }
        let (_, item) = pipe.queue.pop_front_if(|(at, _)| *at <= now)?;
        if let Item::Record(record) = &item {
            pipe.bytes -= record.len();
        }
        Some(item)
    }

    /// Puts a record back that was for the next session on the link.
    pub fn put_back(&mut self, now: Instant, id: ConnId, way: usize, record: Vec<u8>) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.ways[way].bytes += record.len();
            conn.ways[way].queue.push_front((now, Item::Record(record)));
        }
    }

    /// Whether the sender waited for room that is there now.
    pub fn unblocked(&mut self, id: ConnId, way: usize) -> bool {
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        let pipe = &mut conn.ways[way];
        let free = pipe.blocked && pipe.bytes < self.wires.queue;
        pipe.blocked &= !free;
        free
    }

    /// Lets ways go on; says which have something due, and when.
    pub fn thaw(&mut self, now: Instant, server: usize) -> Vec<(ConnId, usize, Instant)> {
        let mut due = Vec::new();
        for (id, conn) in &mut self.conns {
            for (way, pipe) in conn.ways.iter_mut().enumerate() {
                if conn.server == server && pipe.frozen {
                    pipe.frozen = false;
                    due.extend(pipe.queue.front().map(|(at, _)| (*id, way, (*at).max(now))));
                    pipe.queue.iter().for_each(|(at, _)| {
                        due.push((*id, way, (*at).max(now)));
                    });
                }
            }
        }
        due
    }

    /// The connections to a server, or all.
    pub fn to(&self, server: Option<usize>) -> Vec<ConnId> {
        let to = |conn: &Conn| server.is_none_or(|server| conn.server == server);
        self.conns.iter().filter(|(_, conn)| to(conn)).map(|(id, _)| *id).collect()
    }
}

impl Pipe {
    fn push(&mut self, at: Instant, item: Item) -> Instant {
        self.last_at = self.last_at.max(at);
        self.queue.push_back((self.last_at, item));
        self.last_at
    }

    fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
    }
}
