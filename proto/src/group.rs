//! What a broker knows of connections that were announced (R90 to R93): which are awaited, whose
//! they are, and which were made already.
//!
//! Deliberately not here: why an app has several connections, and how a listener is reached.

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, VecDeque};

use crate::handle::Handle;
use crate::mutant::mutant;
use crate::wire::Announcement;

/// Connections of one session that are remembered after they were made: what is announced twice
/// stands among the last few.
const MADE_MAX: usize = 64;

/// A session in whose stream something is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lead {
    /// Its number.
    pub id: u64,
    /// The program.
    pub pid: i32,
    /// Its peer, as the app knows it.
    pub ip: IpAddr,
    /// The name behind a virtual address.
    pub host: Option<String>,
}

/// A connection of an app that was announced and has not been made; or all to a range of ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// Whose it is.
    pub lead: Lead,
    /// The first port to which it goes, at the lead's peer.
    pub port: u16,
    /// The last one.
    pub last: u16,
    /// Names the session.
    pub token: Handle,
    /// As long as the lead lives, and not only once.
    pub lasting: bool,
}

/// What an announcement asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Todo {
    /// Nothing: it was carried out before.
    Nothing,
    /// The app's connection is awaited from now on: its route is to be published.
    Publish,
    /// The listener at this address is to be reached, and the session of this token begun.
    Reach(SocketAddr, Handle),
    /// The session of this token is to end with an error.
    Drop(Handle),
}

/// The connections that are awaited, and those that were made.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    awaited: Vec<Awaited>,
    made: BTreeMap<u64, VecDeque<Handle>>,
}

impl Groups {
    /// Something was announced in the stream of `lead`.
    pub fn announced(&mut self, lead: &Lead, announcement: &Announcement) -> Todo {
        let token = announcement.token();
        let made = self.made.get(&lead.id).is_some_and(|made| made.contains(&token));
        // R91: an announcement may come twice.
        if mutant!(AnnouncedTwice, made, false)
            && !matches!(announcement, Announcement::Drop { .. })
        {
            return Todo::Nothing;
        }
        match *announcement {
            Announcement::Await { port, token } => {
                let (lead, last) = (lead.clone(), port);
                self.wait_for(Awaited { lead, port, last, token, lasting: false })
            }
            Announcement::Range { first: port, last, token } => {
                let lead = lead.clone();
                self.wait_for(Awaited { lead, port, last, token, lasting: true })
            }
            Announcement::Reach { address, token } => {
                // The place is taken at once.
                self.note_made(lead.id, token);
                Todo::Reach(address, token)
            }
            Announcement::Drop { token } => Todo::Drop(token),
        }
    }

    fn wait_for(&mut self, new: Awaited) -> Todo {
        if self.awaited.iter().any(|one| one.token == new.token) {
            return Todo::Nothing;
        }
        // R93: a newer one replaces an unused one.
        self.awaited.retain(|one| one.lead.id != new.lead.id);
        self.awaited.push(new);
        Todo::Publish
    }

    /// This was announced to another process, and not made (R103).
    pub fn await_again(&mut self, awaited: Awaited) {
        let _to_be_published = self.wait_for(awaited);
    }

    /// A program connects: the connection that was awaited of it, if one was. It is one no more.
    pub fn take(&mut self, ip: IpAddr, port: u16, pid: i32) -> Option<Awaited> {
        let meets = |one: &Awaited| {
            // R93: only the lead's own program.
            let own = mutant!(AwaitedOfAnybody, one.lead.pid == pid, true);
            one.lead.ip == ip && (one.port..=one.last).contains(&port) && own
        };
        let at = self.awaited.iter().position(meets)?;
        if self.awaited[at].lasting {
            return Some(self.awaited[at].clone());
        }
        let one = self.awaited.remove(at);
        self.note_made(one.lead.id, one.token);
        Some(one)
    }

    fn note_made(&mut self, lead: u64, token: Handle) {
        let made = self.made.entry(lead).or_default();
        if made.len() == MADE_MAX {
            made.pop_front();
        }
        made.push_back(token);
    }

    /// A session has ended, and so has what was announced in it. Whether anything was awaited.
    pub fn ended(&mut self, lead: u64) -> bool {
        self.made.remove(&lead);
        let before = self.awaited.len();
        self.awaited.retain(|one| one.lead.id != lead);
        self.awaited.len() != before
    }

    /// What is awaited.
    #[must_use]
    pub fn awaited(&self) -> &[Awaited] {
        &self.awaited
    }
}

/// Where an app sees a connection come from that was made to its listener, if its lead is connected
/// to this peer (R93): from the same address, by the port below, as RFC 959 has it (20 below 21).
#[must_use]
pub fn seen_from(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port().saturating_sub(1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(198, 18, 0, 1));

    /// R93.
    #[test]
    fn an_app_is_reached_from_the_port_below() {
        let seen = |peer: &str| seen_from(peer.parse().unwrap()).to_string();
        assert_eq!(seen("198.18.0.1:21"), "198.18.0.1:20");
        assert_eq!(seen("[::ffff:198.18.0.1]:2121"), "198.18.0.1:2120");
        assert_eq!(seen("[fd00::1]:1"), "[fd00::1]:1");
    }

    fn lead(id: u64) -> Lead {
        Lead { id, pid: 10, ip: TO, host: None }
    }

    fn wait_for(number: u8) -> Announcement {
        Announcement::Await { port: 4_000 + u16::from(number), token: Handle([number; 16]) }
    }

    /// R91, R93.
    #[test]
    fn an_awaited_connection_is_made_once_by_its_own_program() {
        let mut groups = Groups::default();
        assert_eq!(groups.announced(&lead(1), &wait_for(1)), Todo::Publish);
        assert_eq!(groups.announced(&lead(1), &wait_for(1)), Todo::Nothing);
        assert_eq!(groups.take(TO, 4_001, 11), None);
        assert_eq!(groups.take(TO, 4_002, 10), None);
        assert_eq!(groups.take(TO, 4_001, 10).map(|one| one.token), Some(Handle([1; 16])));
        assert_eq!(groups.take(TO, 4_001, 10), None);
        assert_eq!(groups.announced(&lead(1), &wait_for(1)), Todo::Nothing);
        assert!(groups.awaited().is_empty());
    }

    /// R93.
    #[test]
    fn a_newer_one_replaces_an_unused_one_of_the_same_session() {
        let mut groups = Groups::default();
        groups.announced(&lead(1), &wait_for(1));
        groups.announced(&lead(2), &wait_for(2));
        assert_eq!(groups.announced(&lead(1), &wait_for(3)), Todo::Publish);
        assert_eq!(groups.take(TO, 4_001, 10), None);
        assert!(groups.take(TO, 4_002, 10).is_some());
        assert!(groups.ended(1) && !groups.ended(1) && groups.awaited().is_empty());
    }

    /// R90, R93.
    #[test]
    fn a_range_serves_as_long_as_its_session_lives() {
        let mut groups = Groups::default();
        let range = Announcement::Range { first: 4_000, last: 4_009, token: Handle([1; 16]) };
        assert_eq!(groups.announced(&lead(1), &range), Todo::Publish);
        for port in [4_000, 4_009, 4_009] {
            assert_eq!(groups.take(TO, port, 10).map(|one| one.token), Some(Handle([1; 16])));
        }
        assert_eq!(groups.take(TO, 4_010, 10), None);
        assert_eq!(groups.take(TO, 4_000, 11), None, "another program");
        assert!(groups.ended(1) && groups.take(TO, 4_000, 10).is_none());
    }

    /// R91.
    #[test]
    fn a_listener_is_reached_once_and_a_drop_always_counts() {
        let mut groups = Groups::default();
        let address = SocketAddr::new(TO, 5_000);
        let reach = Announcement::Reach { address, token: Handle([1; 16]) };
        assert_eq!(groups.announced(&lead(1), &reach), Todo::Reach(address, Handle([1; 16])));
        assert_eq!(groups.announced(&lead(1), &reach), Todo::Nothing);
        let drop = Announcement::Drop { token: Handle([1; 16]) };
        assert_eq!(groups.announced(&lead(1), &drop), Todo::Drop(Handle([1; 16])));
    }
}
