//! Cuts: pairs of positions that both ends agree on (the checkpoints of KTH 3.4.1, repaired: R40 to
//! R46).
//!
//! The thesis loses bytes when checkpoints collide or their answers are lost (flaws F1 and F2 of
//! PROTOCOL.md). The repair has three parts: one round at a time (request, answer, confirm), a
//! tie-break, and the rule that a cut which is only tentative is never offered at a resume.
//! Retransmission does not depend on cuts: it starts at the peer's receive position. This file is
//! the agreement alone; the positions belong to the session.

use crate::mutant::mutant;
use crate::role::Opening;

/// The number of a cut, modulo 3.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id(u8);

impl Id {
    /// The id of the cut every session starts with.
    pub const FIRST: Id = Id(0);

    /// 0, 1 or 2.
    pub fn new(number: u8) -> Option<Id> {
        (number < 3).then_some(Id(number))
    }

    /// The number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The id after this one.
    #[must_use]
    pub fn next(self) -> Id {
        Id((self.0 + 1) % 3)
    }
}

/// A pair of positions, as one end sees it: what it sent, what it received.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cut {
    /// Number.
    pub id: Id,
    /// Position in this end's outgoing stream.
    pub sent: u64,
    /// Position in this end's incoming stream.
    pub received: u64,
}

impl Cut {
    /// The same cut as the other end sees it.
    #[must_use]
    pub fn turned(self) -> Cut {
        Cut { id: self.id, sent: self.received, received: self.sent }
    }
}

/// Where the pending cut is in its round.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// Both ends hold the pending cut.
    Idle,
    /// This end proposed it, so it is tentative.
    Requested,
    /// This end accepted it, and the peer's confirm has not come yet.
    Answered,
}

/// The peer broke the rules of agreement.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum CutError {
    /// A request whose id does not follow.
    #[error("peer proposed checkpoint {got}, {expected} is next")]
    WrongId {
        /// Received.
        got: u8,
        /// Next in line.
        expected: u8,
    },
    /// A request while the confirm of the last round is due.
    #[error("peer proposed a checkpoint before it confirmed the last one")]
    Unconfirmed,
    /// An answer nobody asked for.
    #[error("peer answered a checkpoint that was not proposed")]
    NotRequested,
    /// A confirm nobody waits for.
    #[error("peer confirmed a checkpoint that was not answered")]
    NotAnswered,
    /// The answer repeats another position than was proposed.
    #[error("peer answered checkpoint position {got}, proposed was {expected}")]
    WrongPosition {
        /// Received.
        got: u64,
        /// Proposed.
        expected: u64,
    },
}

/// The two newest cuts of one end, and how far the newer one is agreed.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cuts {
    /// The newest cut known to be held by both ends with the same positions.
    pub acked: Cut,
    /// The one after it.
    pub pending: Cut,
    /// How far `pending` is.
    pub phase: Phase,
}

impl Cuts {
    /// The cuts of a session that begins at these positions; the same at both ends (R40).
    pub fn start(sent: u64, received: u64) -> Cuts {
        Cuts {
            acked: Cut { id: Id::FIRST, sent, received },
            pending: Cut { id: Id::FIRST.next(), sent, received },
            phase: Phase::Idle,
        }
    }

    /// Whether a new cut at these positions can and should be proposed.
    pub fn may_propose(&self, sent: u64, received: u64) -> bool {
        self.phase == Phase::Idle && (sent, received) != (self.pending.sent, self.pending.received)
    }

    /// R41: proposes a cut at these positions.
    pub fn propose(&mut self, sent: u64, received: u64) -> Option<Cut> {
        if !self.may_propose(sent, received) {
            return None;
        }
        self.acked = self.pending;
        self.pending = Cut { id: self.pending.id.next(), sent, received };
        self.phase = Phase::Requested;
        Some(self.pending)
    }

    /// R42: the peer proposes a cut at its sent position `peer_sent`; ours is `sent`. Returns the
    /// cut to answer with, or nothing when our own proposal stands (the peer will answer that).
    pub fn on_request(
        &mut self,
        id: Id,
        peer_sent: u64,
        sent: u64,
        opening: Opening,
    ) -> Result<Option<Cut>, CutError> {
        let expected = match self.phase {
            Phase::Idle => self.pending.id.next(),
            // Flaw F1: both ends have proposed the successor of the same cut.
            Phase::Requested => self.pending.id,
            Phase::Answered => return Err(CutError::Unconfirmed),
        };
        if id != expected {
            return Err(CutError::WrongId { got: id.0, expected: expected.0 });
        }
        match (self.phase, opening) {
            (Phase::Requested, Opening::Initiator) => mutant!(BothYield, return Ok(None), ()),
            // Our tentative cut is dropped; `acked` is already the peer's pending one.
            (Phase::Requested, Opening::Acceptor) => mutant!(NeitherYields, (), return Ok(None)),
            (Phase::Idle | Phase::Answered, _) => self.acked = self.pending,
        }
        self.pending = Cut { id, sent, received: peer_sent };
        self.phase = mutant!(NoConfirm, Phase::Answered, Phase::Idle);
        Ok(Some(self.pending))
    }

    /// R43: the peer answered our proposal. Returns the cut to confirm.
    pub fn on_answer(
        &mut self,
        id: Id,
        peer_sent: u64,
        peer_received: u64,
    ) -> Result<Cut, CutError> {
        if self.phase != Phase::Requested || id != self.pending.id {
            return Err(CutError::NotRequested);
        }
        if peer_received != self.pending.sent {
            let expected = self.pending.sent;
            return Err(CutError::WrongPosition { got: peer_received, expected });
        }
        self.pending.received = peer_sent;
        self.phase = Phase::Idle;
        Ok(self.pending)
    }

    /// R44: the peer knows that both hold the pending cut. Returns it.
    pub fn on_confirm(&mut self, id: Id) -> Result<Cut, CutError> {
        if self.phase != Phase::Answered || id != self.pending.id {
            return Err(CutError::NotAnswered);
        }
        self.phase = Phase::Idle;
        Ok(self.pending)
    }

    /// R45: what may be offered at a resume: never a tentative cut (flaw F2).
    pub fn offer(&self) -> (Cut, Option<Cut>) {
        let last = mutant!(OfferTentative, self.phase != Phase::Requested, true);
        (self.acked, last.then_some(self.pending))
    }

    /// R46: the newest cut final on both sides with equal id and positions. The arguments are the
    /// peer's offer as the peer sees it.
    pub fn common(&self, acked: Cut, pending: Option<Cut>) -> Option<Cut> {
        let (own_acked, own_pending) = self.offer();
        let peer = [pending.map(Cut::turned), Some(acked.turned())];
        [own_pending, Some(own_acked)].into_iter().flatten().find(|own| peer.contains(&Some(*own)))
    }

    /// Accepts a resume: makes a new cut on top of `base`, which the peer's first frame will
    /// confirm, and returns it.
    pub fn accept(&mut self, base: Cut, sent: u64, received: u64) -> Cut {
        self.acked = base;
        self.pending = Cut { id: base.id.next(), sent, received };
        self.phase = Phase::Answered;
        self.pending
    }

    /// Has a resume accepted: takes over what the peer answered. False if that does not fit.
    #[must_use]
    pub fn adopt(&mut self, base: Cut, new: Cut) -> bool {
        let (acked, pending) = self.offer();
        if (base != acked && Some(base) != pending) || new.id != base.id.next() {
            return false;
        }
        self.acked = base;
        self.pending = new;
        self.phase = Phase::Idle;
        true
    }

    /// The newest cut both ends hold, as far as this end knows.
    pub fn agreed(&self) -> Cut {
        if self.phase == Phase::Idle { self.pending } else { self.acked }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends of a session whose first cut is agreed.
    fn pair() -> (Cuts, Cuts) {
        (Cuts::start(0, 0), Cuts::start(0, 0))
    }

    #[test]
    fn a_round_leaves_both_with_the_same_cut() {
        let (mut a, mut b) = pair();
        assert!(!a.may_propose(0, 0), "nothing moved");
        let request = a.propose(5, 0).unwrap();
        assert_eq!(a.propose(6, 0), None, "one round at a time");
        let answer = b.on_request(request.id, request.sent, 3, Opening::Acceptor).unwrap().unwrap();
        assert_eq!((answer.sent, answer.received), (3, 5));
        let confirm = a.on_answer(answer.id, answer.sent, answer.received).unwrap();
        let last = b.on_confirm(confirm.id).unwrap();
        assert_eq!(confirm, last.turned());
        assert_eq!((a.phase, b.phase), (Phase::Idle, Phase::Idle));
        assert_eq!(a.agreed(), b.agreed().turned());
    }

    #[test]
    fn a_collision_is_won_by_the_initiator() {
        let (mut a, mut b) = pair();
        let (from_a, from_b) = (a.propose(5, 0).unwrap(), b.propose(3, 0).unwrap());
        assert_eq!(a.on_request(from_b.id, from_b.sent, 5, Opening::Initiator), Ok(None));
        let answer = b.on_request(from_a.id, from_a.sent, 3, Opening::Acceptor).unwrap().unwrap();
        a.on_answer(answer.id, answer.sent, answer.received).unwrap();
        b.on_confirm(answer.id).unwrap();
        assert_eq!(a.pending, b.pending.turned());
    }

    #[test]
    fn whatever_is_lost_of_a_round_a_common_cut_is_left() {
        for step in 0..3 {
            let (mut a, mut b) = pair();
            let request = a.propose(5, 2).unwrap();
            if step > 0 {
                let answer = b.on_request(request.id, 5, 2, Opening::Acceptor).unwrap().unwrap();
                if step > 1 {
                    a.on_answer(answer.id, answer.sent, answer.received).unwrap();
                }
            }
            let (acked, pending) = a.offer();
            let base = b.common(acked, pending).expect("a common cut");
            let new = b.accept(base, 1, 4);
            assert!(a.adopt(base.turned(), new.turned()));
            assert_eq!(a.pending, b.pending.turned());
            b.on_confirm(a.pending.id).unwrap();
        }
    }

    #[test]
    fn a_tentative_cut_is_never_offered() {
        let (mut a, _) = pair();
        a.propose(5, 0).unwrap();
        assert_eq!(a.offer().1, None);
    }

    #[test]
    fn equal_ids_with_other_positions_are_not_equal_cuts() {
        let b = Cuts::start(0, 0);
        let wrong = Cut { id: Id::FIRST, sent: 1, received: 0 };
        assert_eq!(b.common(wrong, Some(Cut { id: Id::FIRST.next(), ..wrong })), None);
    }

    #[test]
    fn what_does_not_fit_is_not_adopted() {
        let (mut a, b) = pair();
        let before = a;
        let new = Cut { id: Id::FIRST, sent: 9, received: 9 };
        assert!(!a.adopt(Cut { sent: 1, ..b.acked }, new));
        assert!(!a.adopt(b.acked, new), "its id does not follow");
        assert_eq!(a, before);
    }

    #[test]
    fn broken_rules_are_named() {
        let (mut a, mut b) = pair();
        let wrong = a.on_request(Id::FIRST, 1, 1, Opening::Initiator).unwrap_err();
        assert_eq!(wrong.to_string(), "peer proposed checkpoint 0, 2 is next");
        assert_eq!(a.on_answer(Id::FIRST, 1, 1), Err(CutError::NotRequested));
        assert_eq!(a.on_confirm(Id::FIRST), Err(CutError::NotAnswered));
        let request = a.propose(5, 0).unwrap();
        b.on_request(request.id, 5, 0, Opening::Acceptor).unwrap();
        let again = b.on_request(request.id.next(), 6, 0, Opening::Acceptor);
        assert_eq!(again, Err(CutError::Unconfirmed));
        let wrong = a.on_answer(request.id, 0, 4);
        assert_eq!(wrong, Err(CutError::WrongPosition { got: 4, expected: 5 }));
    }
}
