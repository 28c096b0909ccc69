//! One session's search for a link: its home first, the others when they may be asked, and whoever is
//! right first (`broker/src/search.rs`).

use std::time::Duration;

use stp_proto::select::{self, GRACE, REFUSED_KNOWN_MAX, REFUSED_NEW_MAX, Rank, View};
use stp_proto::session::{Input, Peer, code};
use stp_proto::time::Instant;

use crate::net::{BROKER, ConnId};
use crate::world::{Ev, Who, World};

const STAGGER: Duration = Duration::from_millis(250);

/// A server that may be asked.
pub struct Candidate {
    pub rank: Rank,
    pub not_before: Option<Instant>,
}

/// A search under way.
pub struct Search {
    pub began: Instant,
    pub order: Vec<Candidate>,
    pub home: Option<Rank>,
    pub give_up_at: Option<Instant>,
    pub tired_after: Option<Duration>,
    /// Who was asked, and whether it was out of reach since.
    pub asked: Vec<(Rank, bool)>,
    pub last_asked: Option<Instant>,
    pub answered: Option<(Rank, ConnId, Instant, bool)>,
}

impl World {
    /// A search looks around.
    pub fn search(&mut self, number: u64) {
        let now = self.now;
        let Some(mut search) = self.broker.seat(number).search.take() else { return };
        for (rank, away) in &mut search.asked {
            *away |= self.broker.reaches[*rank].away.is_some();
        }
        self.collect(&mut search);
        let home = search.home;
        let right = search.answered.filter(|(rank, ..)| home.is_none_or(|home| home == *rank));
        let leave_at = search.answered.and_then(|(_, _, answered, was_away)| {
            let view = match home.map(|home| self.broker.reaches[home].away) {
                None => View::Refuses,
                Some(Some(away)) if away.refuses => View::Refuses,
                Some(_) => View::Silent,
            };
            Some(select::leave_home_at(search.began, view, GRACE, answered, was_away))
        });
        if right.is_some() || leave_at.is_some_and(|at| at <= now) {
            let (rank, conn, ..) = search.answered.take().expect("looked");
            return self.found(number, rank, conn);
        }
        if let Some(why) = self.hopeless(&search) {
            let began_new = search.give_up_at.is_some();
            if began_new && self.broker.seat(number).choice.home().is_some() {
                return self.input(Who::Broker(number), Input::DialFailed);
            }
            return self.search_failed(number, &why);
        }
        while let Some((rank, at)) = self.next_to_ask(&search) {
            if at > now {
                break;
            }
            search.asked.push((rank, self.broker.reaches[rank].away.is_some()));
            search.last_asked = Some(now);
            self.ask(rank);
            if !self.broker.reaches[rank].warm.is_empty() {
                self.at(now, Ev::Search(number));
            }
        }
        let wake = [
            self.next_to_ask(&search).map(|(_, at)| at),
            leave_at,
            search.give_up_at,
            self.home_refuses(&search).zip(search.tired_after).map(|(since, t)| since + t),
            search.give_up_at.and(self.all_refuse(&search)).map(|t| t + self.refused_max(&search)),
        ];
        if let Some(at) = wake.into_iter().flatten().filter(|at| *at > now).min() {
            self.at(at, Ev::Search(number));
        }
        self.broker.seat(number).search = Some(search);
    }

    /// Takes a link that is ready at a server that was asked.
    pub fn collect(&mut self, search: &mut Search) {
        let ranks: Vec<(Rank, bool)> = search.asked.clone();
        for (rank, was_away) in ranks {
            let right = search.home.is_none_or(|home| home == rank);
            if search.answered.is_some_and(|(held, ..)| held == rank || !right) {
                continue;
            }
            if let Some(conn) = self.take_warm(rank) {
                if let Some((_, other, ..)) =
                    search.answered.replace((rank, conn, self.now, was_away))
                {
                    self.close(other, BROKER, false);
                }
            } else if self.broker.reaches[rank].away.is_some() {
                self.start_prober(rank);
            } else if self.broker.reaches[rank].attempts.is_empty() {
                self.begin_dial(rank);
            }
        }
    }

    pub fn found(&mut self, number: u64, rank: Rank, conn: ConnId) {
        let established = {
            let seat = self.broker.seat(number);
            seat.trying = Some(rank);
            seat.end.as_ref().is_some_and(|end| end.session.is_established())
        };
        // The choice's home, not the search's: that may have been set aside.
        let home = self.broker.seat(number).choice.home();
        let same = !established || home == Some(rank);
        let peer = if same { Peer::Same } else { Peer::Other };
        self.say(|_| format!("session {number} gets link {conn} to server {rank}, {peer:?}"));
        match self.hand_over(Who::Broker(number), conn) {
            Some(link) => self.input(Who::Broker(number), Input::LinkUp { link, peer }),
            None => self.close(conn, BROKER, false),
        }
    }

    pub fn search_failed(&mut self, number: u64, why: &str) {
        self.give_up(number, why);
        self.input(Who::Broker(number), Input::DialFailed);
        self.input(Who::Broker(number), Input::Abort { code: code::NO_SERVER });
    }

    pub fn give_up(&mut self, number: u64, why: &str) {
        self.say(|_| format!("session {number} is given up: {why}"));
        self.broker.seat(number).facts.gave_up.get_or_insert(why.to_owned());
    }

    pub fn next_to_ask(&self, search: &Search) -> Option<(Rank, Instant)> {
        let fresh = |c: &&Candidate| !search.asked.iter().any(|(rank, _)| *rank == c.rank);
        let order = search.order.iter().filter(fresh);
        let next = order.min_by_key(|c| c.not_before.filter(|at| *at > self.now))?;
        let hopeless = |rank: Rank| {
            let away = self.broker.reaches[rank].away;
            away.is_some_and(|away| away.refuses || Some(rank) != search.home)
        };
        let turn = match search.asked.last() {
            None => self.now,
            Some((last, _)) if hopeless(*last) => self.now,
            Some((last, _)) if Some(*last) == search.home => search.began + GRACE / 2,
            Some(_) => search.last_asked.unwrap_or(self.now) + STAGGER,
        };
        Some((next.rank, next.not_before.map_or(turn, |at| at.max(turn))))
    }

    pub fn home_refuses(&self, search: &Search) -> Option<Instant> {
        let away = self.broker.reaches[search.home?].away?;
        away.refuses.then_some(away.since)
    }

    pub fn all_refuse(&self, search: &Search) -> Option<Instant> {
        let mut since = search.began;
        for candidate in &search.order {
            let away = self.broker.reaches[candidate.rank].away.filter(|away| away.refuses)?;
            since = since.max(away.since);
        }
        (!search.order.is_empty()).then_some(since)
    }

    pub fn refused_max(&self, search: &Search) -> Duration {
        let known = |c: &Candidate| self.broker.reaches[c.rank].was_reached;
        if search.order.iter().any(known) { REFUSED_KNOWN_MAX } else { REFUSED_NEW_MAX }
    }

    pub fn hopeless(&self, search: &Search) -> Option<String> {
        let now = self.now;
        if search.order.is_empty() {
            return Some("no server is left that could take it".to_owned());
        }
        if let Some(give_up_at) = search.give_up_at {
            let refused = self.all_refuse(search);
            if refused.is_some_and(|since| now >= since + self.refused_max(search)) {
                return Some("every server refuses".to_owned());
            }
            return (now >= give_up_at).then(|| "no server answers".to_owned());
        }
        let refused = self.home_refuses(search).zip(search.tired_after);
        let tired = refused.is_some_and(|(since, patience)| now >= since + patience);
        tired.then(|| "its home refuses, and all others have".to_owned())
    }
}
