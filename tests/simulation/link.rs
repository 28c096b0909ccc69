//! A session's end of a connection in the simulated network: what carries its frames.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use stp_drive::Carrier;
use stp_net::link::{Records, TcpInfo};

use crate::net::{ConnId, Item, Net, Owner};

/// The network, shared by all links.
pub type Wire = Rc<RefCell<Net>>;

/// An end of a connection.
pub struct SimLink {
    net: Wire,
    pub conn: ConnId,
    side: usize,
    owner: Owner,
    /// What the last read brought.
    bytes: Vec<u8>,
    ranges: Vec<Range<u32>>,
    /// Frames that the machine has not taken yet.
    queue: VecDeque<Vec<u8>>,
    unsent: usize,
}

impl SimLink {
    /// Gives this end of a connection to a session.
    pub fn new(net: &Wire, conn: ConnId, side: usize, session: u64) -> SimLink {
        let owner = Owner::Session(session);
        net.borrow_mut().give(conn, side, owner);
        SimLink {
            net: Rc::clone(net),
            conn,
            side,
            owner,
            bytes: Vec::new(),
            ranges: Vec::new(),
            queue: VecDeque::new(),
            unsent: 0,
        }
    }

    /// The session has no use for the connection, and others may have one.
    pub fn give_back(self) -> ConnId {
        self.net.borrow_mut().give(self.conn, self.side, Owner::Spare);
        self.conn
    }

    fn is_mine(&self) -> bool {
        self.net.borrow().conns.get(&self.conn).map(|conn| conn.owner[self.side])
            == Some(self.owner)
    }
}

impl Drop for SimLink {
    fn drop(&mut self) {
        if self.is_mine() {
            let mut net = self.net.borrow_mut();
            let abruptly = net.random.one_in(3);
            net.close(self.conn, self.side, abruptly);
        }
    }
}

impl Carrier for SimLink {
    fn poll_readable(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        let readable = self.net.borrow_mut().is_readable(self.conn, 1 - self.side);
        if readable { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_writable(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        let takes = self.net.borrow_mut().takes(self.conn, self.side);
        if takes { Poll::Ready(()) } else { Poll::Pending }
    }

    fn try_read(&mut self) -> io::Result<Records<'_>> {
        self.bytes.clear();
        self.ranges.clear();
        let mut net = self.net.borrow_mut();
        let way = 1 - self.side;
        let most = 1 + net.random.index(4);
        let mut closed = false;
        while self.ranges.len() < most && !closed {
            match net.due(self.conn, way) {
                Some(Item::Record(record)) => {
                    let at = |length: usize| u32::try_from(length).expect("records are short");
                    let start = at(self.bytes.len());
                    self.bytes.extend_from_slice(&record);
                    self.ranges.push(start..at(self.bytes.len()));
                }
                Some(Item::End) => closed = true,
                None => break,
            }
        }
        let partly = net.notice(self.conn, way);
        if self.ranges.is_empty() {
            if closed && net.random.one_in(2) {
                return Err(ErrorKind::ConnectionReset.into());
            }
            if !closed && !partly {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
        Ok(Records::new(&self.bytes, &self.ranges, closed))
    }

    fn send(&mut self, frame: &[u8]) {
        self.unsent += frame.len();
        self.queue.push_back(frame.to_vec());
    }

    fn try_flush(&mut self) -> io::Result<bool> {
        let mut net = self.net.borrow_mut();
        while let Some(frame) = self.queue.front() {
            if !net.takes(self.conn, self.side) {
                return Ok(false);
            }
            net.send(self.conn, self.side, frame);
            self.unsent -= frame.len();
            self.queue.pop_front();
        }
        Ok(true)
    }

    fn unsent(&self) -> usize {
        self.unsent
    }

    fn has_room(&self) -> bool {
        self.net.borrow_mut().room(self.conn, self.side, self.unsent)
    }

    fn tcp_info(&self) -> io::Result<TcpInfo> {
        let mut net = self.net.borrow_mut();
        let (now, best, busy) = net.round_trip(self.conn, self.side);
        let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        Ok(TcpInfo {
            rtt_us: micros(now),
            min_rtt_us: micros(best),
            delivery_rate: if busy { net.bandwidth() } else { 0 },
            app_limited: !busy,
            unacked: u32::from(busy),
            bytes_acked: net.acknowledged(self.conn, self.side),
            ..TcpInfo::default()
        })
    }

    fn ends(&self) -> String {
        self.conn.to_string()
    }

    fn linger(mut self) {
        let _all = self.try_flush();
        let mut net = self.net.borrow_mut();
        // The daemon's task would wait until the machine takes the rest.
        for frame in self.queue.drain(..) {
            net.send(self.conn, self.side, &frame);
        }
        net.close(self.conn, self.side, false);
    }
}
