//! All endings: both streams through, a reset from either end, and what is left to tell (R50 to
//! R55).
//!
//! An end's last word on a link is DONE or RST; after it the end says nothing more of the session
//! there. When both have said theirs, nothing is in flight on the link in either direction, and it
//! may serve another session (R52). As a listener never dials (R27), the dialer lets go last: it
//! waits for the listener's last word, and dials to tell a reset.

use super::clock::Timer;
use super::journal::Journal;
use super::links::Pace;
use super::outbox::Control;
use super::{ClosedWhy, Detach, Event, LinkId, PeerMisbehaved, Session, ShutNear, code};
use crate::mutant::mutant;
use crate::role::{Daemon, Dialing};
use crate::state::{Action, State, StateEvent};
use crate::time::Instant;
use crate::wire::{Close, Frame, ResetFrame};

impl Session {
    pub(super) fn on_close(
        &mut self,
        now: Instant,
        link: LinkId,
        close: Close,
    ) -> Result<(), PeerMisbehaved> {
        match close {
            Close::Fin { position } => {
                self.receive.on_fin(position)?;
                self.overtaken(None);
                self.check_drained();
                self.check_complete(now);
            }
            Close::Ack { position } => {
                // RESUME_OK may have said that FIN was received. Then CLOSE ACK comes before FIN is
                // sent again.
                let end = self.send.end();
                if !self.send.fin_ever || self.send.nxt < end || position != end {
                    let sent = self.send.nxt;
                    return Err(PeerMisbehaved::AckedUnsent { position, sent });
                }
                self.send.fin_sent = true;
                self.send.heard = position;
                self.send.free(position);
                self.send.fin_acked = true;
                // R60: the broker has everything; nothing will be replayed any more.
                self.receive.hold = false;
                self.outbox.event(Event::EndReceived);
                self.after_report(now);
                mutant!(ReuseEarly => self.reuse_early(link));
                self.check_complete(now);
            }
            Close::Reset { code } => self.reset_by_peer(now, link, code),
            Close::Done if self.role.dialing == Dialing::Dialer && self.done_fits() => {
                let end = self.send.end();
                self.send.heard = end;
                self.send.free(end);
                self.send.fin_acked = true;
                self.outbox.frame(link, Control::Close(Close::Done));
                self.links.attached = None;
                self.outbox.detach(link, Detach::Reuse);
                self.finish(now, StateEvent::Finished);
            }
            Close::Done => return Err(PeerMisbehaved::Unexpected("CLOSE DONE")),
            Close::ResetFirst(_) => return Err(PeerMisbehaved::Unexpected("CLOSE RST")),
        }
        Ok(())
    }

    /// Whether both streams are through, and both ends know it.
    fn complete(&self) -> bool {
        self.receive.fin
            && mutant!(DoneEarly, self.send.fin_acked, self.send.fin_sent)
            && !self.receive.fin_ack_due
    }

    /// R51: whether DONE fits. The acceptor has received our FIN, and its own was acknowledged. Its
    /// CLOSE ACK may have been lost with an older link, but DONE says the same. Our CLOSE ACK may
    /// still be owed, for a FIN that came again.
    fn done_fits(&self) -> bool {
        let all_sent = self.send.fin_ever && self.send.nxt == self.send.end();
        let acked = self.send.fin_acked || mutant!(DoneNoAck, all_sent, false);
        self.receive.fin && acked
    }

    /// R51: when both streams are through, the listener says DONE, and the dialer waits for it.
    pub(super) fn check_complete(&mut self, now: Instant) {
        if !self.complete() || self.state != State::Active {
            return;
        }
        match (self.role.dialing, self.links.attached) {
            (Dialing::Listener, Some(link)) => {
                self.finish(now, StateEvent::Finished);
                self.outbox.frame(link, Control::Close(Close::Done));
                self.clock.set(Timer::LastWord, now + self.limits.attempt_timeout);
            }
            (Dialing::Dialer, _) => {
                self.clock.arm(Timer::Closing, now + self.limits.closing_max);
            }
            (Dialing::Listener, None) => (),
        }
    }

    /// Ends the session well. If a link is left, it waits for the peer's last word.
    pub(super) fn finish(&mut self, now: Instant, event: StateEvent) {
        if self.step(event) != Some(Action::Finish) {
            return;
        }
        self.stop_timers();
        self.ending.why = Some(ClosedWhy::Clean);
        let end = self.send.end();
        self.send.free(end);
        self.keep_trim(now);
        if self.role.dialing == Dialing::Dialer {
            self.detach_all(Detach::Close);
            self.links.dialing = false;
            self.outbox.no_dial();
        }
        self.check_drained();
        self.check_over();
    }

    /// This end resets the session.
    pub(super) fn abort(&mut self, now: Instant, code: u32) {
        if self.step(StateEvent::Abort) != Some(Action::Reset) {
            return;
        }
        self.stop_timers();
        self.ending.why = Some(ClosedWhy::ResetHere { code });
        if !self.near_gone && !matches!(code, code::NEAR_GONE | code::NEAR_RESET) {
            self.outbox.shut(ShutNear::Reset { code });
        }
        self.drop_beside(Detach::Close);
        self.forget();
        let link = self.links.current();
        self.links.attached = link;
        self.links.trying = None;
        if self.role.dialing == Dialing::Dialer && self.confirmed {
            let told = mutant!(ResetUntold, false, link.is_none());
            self.ending.farewell = (!told).then_some(code);
            self.clock.set(Timer::Closing, now + self.limits.farewell_max);
        }
        match link {
            Some(link) => self.say_reset(now, link, Close::Reset { code }),
            None => self.link_lost_when_closed(now),
        }
    }

    fn say_reset(&mut self, now: Instant, link: LinkId, reset: Close) {
        self.outbox.frame(link, Control::Close(reset));
        self.clock.set(Timer::LastWord, now + self.limits.attempt_timeout);
    }

    /// Forgets everything that was received or kept.
    fn forget(&mut self) {
        self.receive.stop();
        self.send.fin = true;
        let end = self.send.end();
        self.send.free(end);
        self.send.buffer.trim();
        self.receive.buffer.trim();
        self.journal = Journal::default();
        (self.held, self.seam) = (None, None);
    }

    fn stop_timers(&mut self) {
        for timer in [
            Timer::Retry,
            Timer::Attempt,
            Timer::Ack,
            Timer::Checkpoint,
            Timer::Hold,
            Timer::Closing,
            Timer::LastWord,
        ] {
            self.clock.stop(timer);
        }
        (self.ack_due, self.ask_due, self.cut_due) = (false, false, false);
    }

    /// Takes RST on the attached link. DONE is the answer, and the link is free for another
    /// session.
    fn reset_by_peer(&mut self, now: Instant, link: LinkId, code: u32) {
        self.outbox.frame(link, Control::Close(Close::Done));
        self.outbox.detach(link, Detach::Reuse);
        self.links.attached = None;
        self.ended_by_peer(now, code);
    }

    /// Takes RST as the first frame of a link (R52).
    pub(super) fn reset_first(&mut self, now: Instant, link: LinkId, code: u32) {
        self.outbox.frame(link, Control::Close(Close::Done));
        self.outbox.detach(link, Detach::Reuse);
        self.ended_by_peer(now, code);
    }

    /// The peer has reset the session.
    pub(super) fn ended_by_peer(&mut self, now: Instant, code: u32) {
        self.detach_all(Detach::Close);
        match self.step(StateEvent::PeerReset) {
            Some(Action::ResetByPeer) => {
                self.stop_timers();
                self.ending.why = Some(ClosedWhy::ResetByPeer { code });
                let reset = ShutNear::Reset { code };
                // R54: the peer's near side is gone, but what it said before is good.
                if code == code::NEAR_GONE && !self.receive.drained() && !self.near_gone {
                    self.ending.shut = Some(reset);
                    self.keep_handing_over(now);
                    self.send.fin = true;
                    let end = self.send.end();
                    self.send.free(end);
                } else {
                    if !self.near_gone {
                        self.outbox.shut(reset);
                    }
                    self.forget();
                }
                self.check_over();
            }
            Some(_) | None => self.let_go(),
        }
    }

    /// Takes a frame in CLOSED, where only a last word matters.
    pub(super) fn on_last_word(&mut self, now: Instant, frame: &Frame<'_>) {
        match frame {
            Frame::Close(Close::Done | Close::Reset { .. }) => {
                if let Some(link) = self.links.attached.take() {
                    self.outbox.detach(link, Detach::Reuse);
                }
                self.let_go();
            }
            // R55: the peer still has the session and did not hear the reset, so it is told on
            // another link.
            Frame::ResumeDenied(denied)
                if mutant!(DeniedResetUntold, !denied.why.is_final(), false) =>
            {
                self.detach_all(Detach::Close);
                self.link_lost_when_closed(now);
            }
            // The peer has no such session, or has it no more.
            Frame::ConnectDenied(_) | Frame::ResumeDenied(_) => {
                self.detach_all(Detach::Close);
                self.let_go();
            }
            _ => (),
        }
    }

    /// The peer knows how the session ended, so nothing is left to tell.
    fn let_go(&mut self) {
        if self.step(StateEvent::Finished) == Some(Action::LetGo) {
            self.ending.farewell = None;
            self.links.dialing = false;
            self.outbox.no_dial();
            self.stop_timers();
            self.check_over();
        }
    }

    /// The link is gone in CLOSED: the reset is told on another one, or the session is over.
    pub(super) fn link_lost_when_closed(&mut self, now: Instant) {
        self.clock.stop(Timer::LastWord);
        if self.ending.farewell.is_some() {
            let fresh = self.clock.unlinked.is_none();
            self.await_link(now, if fresh { Pace::Now } else { Pace::Soon });
        } else {
            self.check_over();
        }
    }

    /// Takes a link for the reset that is still to be told.
    pub(super) fn farewell_on(&mut self, now: Instant, link: LinkId) {
        let Some(code) = self.ending.farewell.filter(|_| self.links.attached.is_none()) else {
            return self.outbox.detach(link, Detach::Close);
        };
        self.clock.stop(Timer::Retry);
        self.links.attached = Some(link);
        let (initiator, acceptor) = (self.initiator, self.acceptor);
        self.say_reset(now, link, Close::ResetFirst(ResetFrame { initiator, acceptor, code }));
    }

    /// R55: the time for the peer's last word, or for telling a reset, is over.
    pub(super) fn closing_timeout(&mut self, now: Instant) {
        // R54: a session whose bytes cannot move must not wait for ever.
        let lasted = now - self.clock.attached >= self.limits.closing_max;
        let stuck = self.ending.heard == self.send.heard && lasted && self.state == State::Active;
        if self.state == State::Closed {
            self.detach_all(Detach::Close);
            self.let_go();
            if let Some(shut) = self.ending.shut.take() {
                self.receive.stop();
                self.outbox.shut(shut);
                self.check_over();
            }
        } else if self.complete() {
            self.finish(now, StateEvent::Finished);
        } else if self.near_gone && (self.send.heard == self.send.end() || stuck) {
            self.abort(now, code::NEAR_GONE);
        } else {
            self.ending.heard = self.send.heard;
            self.clock.set(Timer::Closing, now + self.limits.closing_max);
        }
    }

    /// R54: the service took bytes of an app that is gone, so it gets the full time for more.
    pub(super) fn keep_handing_over(&mut self, now: Instant) {
        if self.role.daemon == Daemon::Server && self.ending.shut.is_some() {
            self.clock.set(Timer::Closing, now + self.limits.closing_max);
        }
    }

    /// Gives out the last event when nothing is left to tell or to hand over.
    pub(super) fn check_over(&mut self) {
        let Some(why) = self.ending.why else { return };
        let handed = self.receive.discard || self.receive.fin_given;
        let left = self.ending.farewell.is_some()
            || self.ending.shut.is_some()
            || self.links.current().is_some()
            || !handed;
        if !left && !self.ending.over {
            self.ending.over = true;
            self.stop_timers();
            self.clock.stop(Timer::Trim);
            self.outbox.event(Event::Closed { why });
        }
    }
}
