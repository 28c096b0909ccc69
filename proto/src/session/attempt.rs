//! How a link begins: CONNECT, RESUME and transfer where they are sent, their acceptance where they
//! arrive, and the wait between attempts (R20 to R27).

use core::time::Duration;

use super::StartAt;
use super::clock::Timer;
use super::links::Pace;
use super::outbox::Control;
use super::{
    Attempt, ClosedWhy, Denied, Detach, Event, LinkId, LostCause, Peer, PeerMisbehaved, Session,
};
use crate::cut::Cuts;
use crate::mutant::mutant;
use crate::role::{Dialing, Opening};
use crate::state::{Action, State, StateEvent};
use crate::time::Instant;
use crate::wire::{
    Checkpoint, Close, Connect, ConnectDenied, ConnectMode, ConnectOk, DenyReason, ResumeDenial,
    ResumeDenied, ResumeFrame, ResumeOk,
};

/// A peer may be at most this many epochs ahead, so that it cannot push the counter to its end.
const EPOCH_LEAP_MAX: u32 = 1 << 16;

/// A peer that is suspended or refuses is asked again after this time at the earliest (R25).
const SLOW_MIN: Duration = Duration::from_secs(1);

impl Session {
    /// Waits for a link, and dials when it is time: in READY_RESUME, or with a reset still to be
    /// told.
    pub(super) fn await_link(&mut self, now: Instant, pace: Pace) {
        let since = *self.clock.unlinked.get_or_insert(now);
        for timer in [Timer::Attempt, Timer::Ack, Timer::Checkpoint] {
            self.clock.stop(timer);
        }
        (self.ack_due, self.ask_due) = (false, false);
        if self.state != State::Closed {
            // R72: a session without a link ends after a time.
            let unconfirmed = self.role.opening == Opening::Acceptor && !self.confirmed;
            let hold = if unconfirmed { self.limits.hold_unconfirmed } else { self.hold };
            // R75: that counts from the end of the peer's suspension on.
            let from = self.clock.away.map_or(since, |until| until.max(since));
            self.clock.arm(Timer::Hold, from + hold);
        }
        // R27: a listener waits. A dial that is under way will be answered.
        if self.role.dialing == Dialing::Listener || self.links.dialing {
            return;
        }
        let pause = match pace {
            Pace::Now => return self.dial(),
            // R71: an eighth of the time without a link.
            Pace::Soon => {
                let pause = (now - since) / 8;
                pause.clamp(self.limits.retry_min, self.limits.retry_max)
            }
            // R25: as long as the time without a link.
            Pace::Slow => {
                let pause = (now - since).clamp(SLOW_MIN, self.limits.retry_slow);
                mutant!(NoSlowProbe, pause, return)
            }
            Pace::After(pause) => pause.max(self.limits.retry_min),
        };
        let pause = self.clock.jitter(pause);
        self.clock.set(Timer::Retry, now + pause);
    }

    /// Asks the driver for a link.
    pub(super) fn dial(&mut self) {
        self.clock.stop(Timer::Retry);
        self.links.dialing = true;
        self.outbox.dial();
    }

    /// The driver brought a link up.
    pub(super) fn link_up(&mut self, now: Instant, link: LinkId, peer: Peer) {
        self.links.dialing = false;
        self.outbox.no_dial();
        if self.role.dialing == Dialing::Listener || !self.links.begin(link) {
            return;
        }
        let attempt = match (self.established, peer) {
            (false, _) => Attempt::Connect,
            (true, Peer::Same) => Attempt::Resume,
            (true, Peer::Other) => Attempt::Transfer,
        };
        let refused = attempt == Attempt::Transfer && self.transferable().is_err();
        if refused && self.state != State::Closed {
            self.outbox.detach(link, Detach::Close);
            let why = DenyReason::Unsafe;
            let text = "the session cannot be transferred".to_string();
            let denied = Denied::Connect { attempt, why, retry_after: Duration::ZERO, text };
            self.outbox.event(Event::Denied(denied));
            if self.state == State::ReadyResume {
                self.await_link(now, Pace::Slow);
            }
            return;
        }
        if attempt == Attempt::Transfer && self.goes_beside() {
            return self.start_beside(now, link);
        }
        match self.step(StateEvent::LinkUp) {
            Some(Action::StartAttempt) => self.start_attempt(now, link, attempt),
            Some(Action::Farewell) => self.farewell_on(now, link),
            Some(_) | None => self.outbox.detach(link, Detach::Close),
        }
    }

    /// R21: detach first, then fix the positions, then CONNECT or RESUME.
    fn start_attempt(&mut self, now: Instant, link: LinkId, attempt: Attempt) {
        self.detach_all(Detach::Close);
        self.clock.unlinked.get_or_insert(now);
        for timer in [Timer::Retry, Timer::Ack, Timer::Checkpoint] {
            self.clock.stop(timer);
        }
        self.epoch =
            mutant!(SameEpoch, next_epoch(self.epoch, self.role.opening), self.epoch.max(1));
        self.links.trying = Some((link, attempt));
        let patience = match attempt {
            Attempt::Resume => self.limits.attempt_timeout,
            Attempt::Connect => self.limits.connect_timeout,
            Attempt::Transfer => self.transfer_patience(),
        };
        self.clock.set(Timer::Attempt, now + patience);
        let control = match attempt {
            Attempt::Connect => Control::Connect,
            Attempt::Transfer => Control::Transfer,
            Attempt::Resume => {
                let (acked, pending) = self.cuts.offer();
                Control::Resume(ResumeFrame {
                    initiator: self.initiator,
                    acceptor: self.acceptor,
                    epoch: self.epoch,
                    report: self.receive.tell(),
                    fin_received: self.receive.fin,
                    acked,
                    pending,
                })
            }
        };
        if attempt != Attempt::Resume {
            self.confirmed = true;
            self.receive.tell();
        }
        self.outbox.frame(link, control);
    }

    /// A link is lost: the driver says so, or it was silent, or an attempt was not answered in
    /// time.
    pub(super) fn link_lost(&mut self, now: Instant, link: LinkId, cause: LostCause) {
        if self.is_beside(link) {
            return self.beside_lost(link, cause);
        }
        if self.links.current() != Some(link) {
            return;
        }
        // A link that broke as soon as it was attached is no reason to hurry.
        let lasted = now - self.clock.attached >= self.limits.retry_min;
        let pace = match self.links.attached {
            Some(_) if lasted => Pace::Now,
            Some(_) | None => Pace::Soon,
        };
        if self.step(StateEvent::LinkLost) != Some(Action::Detach) {
            return;
        }
        self.detach_all(Detach::Close);
        self.outbox.event(Event::Lost { link, cause });
        if self.state == State::Closed {
            self.link_lost_when_closed(now);
        } else {
            self.await_link(now, pace);
        }
    }

    /// No link is attached or tried any more.
    pub(super) fn detach_all(&mut self, how: Detach) {
        self.drop_beside(Detach::Close);
        if let Some(link) = self.links.attached.take() {
            self.outbox.detach(link, how);
        }
        if let Some((link, _)) = self.links.trying.take() {
            self.outbox.detach(link, how);
        }
    }

    /// Data moves on `link` from now on.
    pub(super) fn attach(&mut self, now: Instant, link: LinkId, attempt: Attempt, again: u64) {
        self.links.attached = Some(link);
        self.links.trying = None;
        self.carried = false;
        for timer in [Timer::Retry, Timer::Attempt, Timer::Hold] {
            self.clock.stop(timer);
        }
        self.clock.alive(now);
        self.clock.attached = now;
        self.keep_trim(now);
        (self.ack_due, self.ask_due) = (false, false);
        mutant!(UrgentNotAgain, self.send.urgent_said = false, ());
        self.receive.forget_announced();
        self.clock.away = None;
        let gap = self.clock.unlinked.take().map_or(Duration::ZERO, |since| now - since);
        let received = self.receive.received;
        self.outbox.event(Event::Attached { link, attempt, gap, again, received });
        if self.send.nxt < self.send.end() || self.uncut > 0 {
            self.clock.arm(Timer::Checkpoint, now + self.limits.checkpoint_interval);
        }
    }

    /// The same CONNECT came again on a new link (its CONNECT_OK was lost): attaches that link and
    /// queues CONNECT_OK again. False if it does not fit this session; the link is untouched then.
    pub fn reaccept(&mut self, now: Instant, link: LinkId, connect: &Connect<'_>) -> bool {
        let at = match &connect.mode {
            ConnectMode::New => StartAt::default(),
            ConnectMode::Relay(_) | ConnectMode::Prepare(_) => return false,
            ConnectMode::Transfer(request) => StartAt { up: request.covers, down: request.down },
        };
        // R23: until the initiator was heard, nothing of the session can have moved at its end.
        let fits = self.role.opening == Opening::Acceptor
            && connect.handle == self.initiator
            && mutant!(ConnectAnyEpoch, connect.epoch > self.epoch, true)
            && !self.confirmed
            && at == self.start
            && matches!(self.state, State::Active | State::ReadyResume);
        if !fits {
            return mutant!(ConnectUnanswered, self.answer_connect(now, link, connect), false);
        }
        if self.step(StateEvent::PeerResume) != Some(Action::AcceptResume) {
            return false;
        }
        self.links.begin(link);
        self.detach_all(Detach::Close);
        self.epoch = connect.epoch;
        self.send.nxt = self.start.down;
        self.send.fin_sent = false;
        self.journal.roll_back(self.start.down);
        self.announcing.roll_back(self.start.down);
        self.cuts = Cuts::start(self.start.down, self.start.up);
        self.attach(now, link, Attempt::Connect, self.send.max - self.send.nxt);
        self.outbox.frame(link, Control::ConnectOk);
        true
    }

    /// R23: answers a repeated CONNECT while this end is suspended or has ended. Without an answer
    /// the initiator would ask again and again.
    fn answer_connect(&mut self, now: Instant, link: LinkId, connect: &Connect<'_>) -> bool {
        let known = self.role.opening == Opening::Acceptor
            && connect.handle == self.initiator
            && connect.epoch > self.epoch;
        let end = match (self.state, self.ending.why) {
            _ if !known => return false,
            (State::Suspended, _) => None,
            (State::Closed, Some(ClosedWhy::ResetHere { code })) => Some(code),
            (State::Closed, Some(ClosedWhy::ResetByPeer { code })) => Some(code),
            _ => return false,
        };
        self.links.begin(link);
        self.epoch = connect.epoch;
        match end {
            None => self.deny_suspended(now, link),
            Some(code) => {
                self.outbox.frame(link, Control::Close(Close::Reset { code }));
                self.outbox.detach(link, Detach::Linger);
            }
        }
        true
    }

    /// Takes a RESUME that came on a new link (T3, T6, T8, T17, T18). Only its epoch decides (R20).
    pub(super) fn on_resume(&mut self, now: Instant, link: LinkId, resume: &ResumeFrame) {
        if (resume.initiator, resume.acceptor) != (self.initiator, self.acceptor) {
            return self.deny(link, ResumeDenial::Unknown);
        }
        let base = self.cuts.common(resume.acked, resume.pending);
        // R22: the end of the stream may have come from the server before this one.
        let end_before = resume.report.received == self.start.down && !self.send.fin_ever;
        let before = mutant!(OldEndUnknown, end_before, false);
        let fits = self.send.fits(&resume.report, resume.fin_received && !before);
        let event = match base {
            _ if mutant!(NoEpochCheck, resume.epoch <= self.epoch, false) => {
                StateEvent::PeerResumeStale
            }
            Some(_) if fits => StateEvent::PeerResume,
            Some(_) | None => StateEvent::PeerResumeMisfit,
        };
        match (self.step(event), base) {
            (Some(Action::AcceptResume), Some(base)) => {
                mutant!(OldLinkKept, self.detach_all(Detach::Close), ());
                self.epoch = resume.epoch;
                self.confirmed = true;
                let again = self.send.roll_back(&resume.report);
                mutant!(TicketNotAgain, self.journal.roll_back(resume.report.received), ());
                self.announcing.roll_back(resume.report.received);
                let new = self.cuts.accept(base, self.send.nxt, self.receive.received);
                self.cut_made();
                self.attach(now, link, Attempt::Resume, again);
                let ok = ResumeOk {
                    epoch: self.epoch,
                    report: self.receive.tell(),
                    fin_received: self.receive.fin,
                    base: base.turned(),
                    new: new.turned(),
                };
                self.outbox.frame(link, Control::ResumeOk(ok));
                self.after_report(now);
            }
            (Some(Action::DenySuspended), _) => {
                self.epoch = self.epoch.max(resume.epoch);
                self.deny_suspended(now, link);
            }
            (Some(Action::DenyMismatch), _) => {
                self.detach_all(Detach::Close);
                self.epoch = resume.epoch;
                self.deny(link, ResumeDenial::Mismatch);
                self.await_link(now, Pace::Slow);
            }
            (Some(Action::DenyCollision), _) => self.deny(link, ResumeDenial::Collision),
            (Some(Action::DenyEnded), _) => {
                let (_, denial) = self.epitaph().unwrap_or((0, ResumeDenial::Unknown));
                self.deny(link, denial);
            }
            (Some(_) | None, _) => self.deny(link, ResumeDenial::Stale),
        }
    }

    /// R25, and R75: for how much longer.
    fn deny_suspended(&mut self, now: Instant, link: LinkId) {
        let until = self.clock.at(Timer::Wake);
        let left = until.filter(|until| *until > now).map_or(Duration::ZERO, |until| until - now);
        self.deny(link, ResumeDenial::Suspended { left });
    }

    fn deny(&mut self, link: LinkId, why: ResumeDenial) {
        let denied = ResumeDenied { seen: self.epoch, why };
        self.outbox.frame(link, Control::ResumeDenied(denied));
        let how = mutant!(DenyAndClose, Detach::Linger, Detach::Close);
        self.outbox.detach(link, how);
    }

    /// Takes RESUME_OK on the link of the attempt (T14).
    pub(super) fn on_resume_ok(
        &mut self,
        now: Instant,
        link: LinkId,
        ok: &ResumeOk,
    ) -> Result<(), PeerMisbehaved> {
        self.check_epoch(ok.epoch)?;
        let mut cuts = self.cuts;
        let fits = self.send.fits(&ok.report, ok.fin_received)
            && ok.new.sent == ok.report.received
            && ok.new.received == self.receive.received
            && cuts.adopt(ok.base, ok.new);
        if !fits {
            self.refused(now, Pace::Slow, Denied::Resume(ResumeDenial::Mismatch));
            return Ok(());
        }
        if self.step(StateEvent::PeerAccepts) == Some(Action::Adopt) {
            self.cuts = cuts;
            self.cut_made();
            let again = self.send.roll_back(&ok.report);
            self.attach(now, link, Attempt::Resume, again);
            // R24: the confirm is sent first, even if nothing else is to be sent.
            let confirm = Checkpoint::Confirm { id: ok.new.id, report: self.receive.tell() };
            mutant!(NoConfirmAtResume, self.outbox.frame(link, Control::Checkpoint(confirm)), ());
            self.outbox.event(Event::Acknowledged(self.cuts.pending));
            self.after_report(now);
        }
        Ok(())
    }

    /// Takes CONNECT_OK on the link of the attempt.
    pub(super) fn on_connect_ok(
        &mut self,
        now: Instant,
        link: LinkId,
        attempt: Attempt,
        ok: &ConnectOk<'_>,
    ) -> Result<(), PeerMisbehaved> {
        self.check_epoch(ok.epoch)?;
        let known = self.send.una()..=self.send.max;
        let fits = ok.initiator == self.initiator
            && known.contains(&ok.up)
            && ok.down == self.receive.received
            && ok.limit >= ok.up;
        if !fits {
            let why = DenyReason::Mismatch;
            let text = format!("its answer does not fit: up {}, down {}", ok.up, ok.down);
            let denied = Denied::Connect { attempt, why, retry_after: Duration::ZERO, text };
            self.refused(now, Pace::Slow, denied);
            return Ok(());
        }
        self.adopt_connect_ok(now, link, attempt, false, ok);
        Ok(())
    }

    /// From now on the session is at the acceptor that answered. `told` says whether the one that
    /// had it before was told so.
    pub(super) fn adopt_connect_ok(
        &mut self,
        now: Instant,
        link: LinkId,
        attempt: Attempt,
        told: bool,
        ok: &ConnectOk<'_>,
    ) {
        if self.step(StateEvent::PeerAccepts) != Some(Action::Adopt) {
            return;
        }
        let old = core::mem::replace(&mut self.acceptor, ok.acceptor);
        self.server = ok.server.into();
        self.peer_features = ok.features;
        self.agree_on(ok.hold, ok.upkeep);
        self.cuts = Cuts::start(ok.up, ok.down);
        (self.send.nxt, self.send.heard, self.send.limit) = (ok.up, ok.up, ok.limit);
        (self.send.fin_sent, self.send.fin_acked) = (false, false);
        // If the server before this one sent FIN, it is acknowledged when this server sends it.
        mutant!(OldEndOwed, self.receive.fin_ack_due = false, ());
        if !core::mem::replace(&mut self.established, true) {
            self.outbox.event(Event::Established { server: ok.server.to_string() });
        }
        self.attach(now, link, attempt, self.send.max - self.send.nxt);
        if attempt == Attempt::Transfer {
            self.outbox.event(Event::Moved { old, told });
        }
        // R23: the acceptor must learn that its answer arrived, even if the app stays silent.
        self.ack_due = self.send.nxt == self.send.end();
    }

    fn check_epoch(&self, got: u32) -> Result<(), PeerMisbehaved> {
        let expected = self.epoch;
        if got == expected { Ok(()) } else { Err(PeerMisbehaved::WrongEpoch { got, expected }) }
    }

    pub(super) fn on_connect_denied(
        &mut self,
        now: Instant,
        attempt: Attempt,
        denied: &ConnectDenied<'_>,
    ) {
        let pace = match denied.retry_after {
            Duration::ZERO => Pace::Slow,
            pause => Pace::After(pause),
        };
        let (why, retry_after) = (denied.why, denied.retry_after);
        let text = denied.text.to_string();
        self.refused(now, pace, Denied::Connect { attempt, why, retry_after, text });
    }

    /// Takes RESUME_DENIED on the link of the attempt (T15, R26).
    pub(super) fn on_resume_denied(
        &mut self,
        now: Instant,
        denied: &ResumeDenied,
    ) -> Result<(), PeerMisbehaved> {
        if denied.seen > self.epoch.saturating_add(EPOCH_LEAP_MAX) {
            let expected = self.epoch;
            return Err(PeerMisbehaved::WrongEpoch { got: denied.seen, expected });
        }
        self.epoch = self.epoch.max(denied.seen);
        let ended = self.receive.fin && self.send.fin;
        // R132: another copy of what was carried has gone on.
        let went_on = match denied.why {
            ResumeDenial::Stale | ResumeDenial::Mismatch | ResumeDenial::Moved => true,
            ResumeDenial::Closed { .. } => !ended,
            _ => false,
        };
        if mutant!(CopyAsksAgain, self.carried && went_on, false) {
            self.ended_by_peer(now, super::code::CARRIED);
            return Ok(());
        }
        match denied.why {
            ResumeDenial::Suspended { .. } | ResumeDenial::Collision => {
                if self.step(StateEvent::PeerWaits) == Some(Action::DetachAndWait) {
                    self.detach_all(Detach::Close);
                    if let ResumeDenial::Suspended { left } = denied.why {
                        let lasts = Some(left).filter(|left| !left.is_zero());
                        self.outbox.event(Event::Suspended { by_peer: true, lasts });
                        self.peer_is_away(now, left);
                    }
                    self.await_link(now, Pace::Slow);
                }
            }
            ResumeDenial::Stale => {
                if self.step(StateEvent::PeerAhead) == Some(Action::DetachAndRetry) {
                    self.detach_all(Detach::Close);
                    self.await_link(now, Pace::Now);
                }
            }
            ResumeDenial::Closed { received } if ended && received == self.send.end() => {
                self.finish(now, StateEvent::PeerClosed);
            }
            // R55: the tombstone is gone, but only the acknowledgement of our FIN was missing.
            ResumeDenial::Unknown if ended && self.send.una() == self.send.end() => {
                self.finish(now, StateEvent::PeerClosed);
            }
            ResumeDenial::Closed { .. } => self.ended_by_peer(now, super::code::LOST),
            ResumeDenial::Reset { code } => self.ended_by_peer(now, code),
            why @ (ResumeDenial::Unknown | ResumeDenial::Mismatch | ResumeDenial::Moved) => {
                self.refused(now, Pace::Slow, Denied::Resume(why));
            }
        }
        Ok(())
    }

    /// The attempt came to nothing for good; the driver decides.
    fn refused(&mut self, now: Instant, pace: Pace, denied: Denied) {
        if self.step(StateEvent::PeerRefuses) == Some(Action::DetachRefused) {
            self.detach_all(Detach::Close);
            self.outbox.event(Event::Denied(denied));
            self.await_link(now, pace);
        }
    }
}

/// R20: initiators use odd numbers, acceptors even ones.
pub(super) fn next_epoch(epoch: u32, opening: Opening) -> u32 {
    let odd = u32::from(opening == Opening::Initiator);
    let next = epoch.saturating_add(1);
    if next % 2 == odd { next } else { next.saturating_add(1) }
}
