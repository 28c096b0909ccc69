//! `handle_input`: what happened, and the deadlines that passed.

use core::time::Duration;

use super::clock::Timer;
use super::links::Pace;
use super::outbox::Control;
use super::{Detach, Event, Input, LostCause, Session, code};
use crate::mutant::mutant;
use crate::state::{Action, State, StateEvent};
use crate::time::Instant;
use crate::wire::Suspend;

impl Session {
    /// Tells the session what happened.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::LinkUp { link, peer } => self.link_up(now, link, peer),
            Input::LinkAlive { link } => {
                if self.links.current() == Some(link) {
                    self.clock.alive(now);
                }
            }
            Input::LinkLost { link } => self.link_lost(now, link, LostCause::Broken),
            Input::DialFailed => self.dial_failed(now),
            Input::PathChanged => self.attempt_wanted(StateEvent::PathChanged),
            Input::Retry => self.attempt_wanted(StateEvent::RetryDue),
            Input::NearFin => self.near_fin(),
            Input::NearReset => self.abort(now, code::NEAR_RESET),
            Input::NearGone => self.near_gone(now),
            Input::Suspend { lasts } => self.suspend(now, lasts),
            Input::Resume => self.resume(now),
            Input::Abort { code } => self.abort(now, code),
            Input::Timeout => self.timeout(now),
        }
    }

    fn dial_failed(&mut self, now: Instant) {
        if !core::mem::replace(&mut self.links.dialing, false) {
            return;
        }
        self.outbox.no_dial();
        let waiting = match self.state {
            State::ReadyResume => true,
            State::Closed => self.ending.farewell.is_some() && self.links.current().is_none(),
            State::Active | State::SentResume | State::Suspended => false,
        };
        if waiting {
            self.await_link(now, Pace::Soon);
        }
    }

    /// T7, T16: another attempt, because of a new path, a timer, or the driver.
    fn attempt_wanted(&mut self, event: StateEvent) {
        let told = self.state == State::Closed
            && (self.ending.farewell.is_none() || self.links.current().is_some());
        if !told && self.step(event) == Some(Action::Dial) {
            self.dial();
        }
    }

    /// T2, T5: the user suspends the session. Only the same user can end that (R25).
    fn suspend(&mut self, now: Instant, lasts: Option<Duration>) {
        let lasts = lasts.map(|lasts| lasts.min(self.suspendable(now)));
        match self.step(StateEvent::UserSuspend) {
            Some(Action::SendSuspend) => {
                if let Some(link) = self.links.attached {
                    let lasts = lasts.filter(|_| self.upkeep.is_some());
                    let suspend = Suspend { epoch: self.epoch, lasts };
                    self.outbox.frame(link, Control::Suspend(suspend));
                }
                self.detach_all(Detach::Linger);
            }
            Some(Action::Halt) => self.detach_all(Detach::Close),
            Some(_) | None => return,
        }
        if let Some(lasts) = lasts {
            self.clock.set(Timer::Wake, now + lasts);
        }
        for timer in [Timer::Retry, Timer::Attempt, Timer::Ack, Timer::Checkpoint, Timer::Hold] {
            self.clock.stop(timer);
        }
        self.links.dialing = false;
        self.outbox.no_dial();
        (self.ack_due, self.ask_due) = (false, false);
        self.outbox.event(Event::Suspended { by_peer: false, lasts });
    }

    /// R75: how long this end can be suspended, counted from now on, so that the peer still has the
    /// session then. One that cannot be told keeps it for `hold`, of which a tenth is left for the
    /// way back.
    pub fn suspendable(&self, now: Instant) -> Duration {
        match self.upkeep {
            Some(upkeep) if self.links.attached.is_some() => upkeep.suspended,
            Some(_) | None => {
                let gone = self.clock.unlinked.map_or(Duration::ZERO, |since| now - since);
                (self.hold / 10 * 9).saturating_sub(gone)
            }
        }
    }

    /// R75: the peer has said that it is suspended for so long.
    pub(super) fn peer_is_away(&mut self, now: Instant, lasts: Duration) {
        let bound = self.limits.suspended_max;
        let lasts = mutant!(SuspensionUnbounded, lasts.min(bound), lasts);
        mutant!(SuspensionForgotten => return);
        if !lasts.is_zero() {
            self.clock.away = Some(now + lasts);
            self.clock.stop(Timer::Hold);
        }
    }

    fn resume(&mut self, now: Instant) {
        self.clock.stop(Timer::Wake);
        // R77: what the near side has waited so far does not count.
        self.clock.wrote = now;
        match self.step(StateEvent::UserResume) {
            Some(Action::Dial) => {
                self.clock.unlinked.get_or_insert(now);
                self.await_link(now, Pace::Now);
            }
            Some(Action::Await) => self.await_link(now, Pace::Slow),
            Some(_) | None => (),
        }
    }

    fn timeout(&mut self, now: Instant) {
        if self.clock.expired(Timer::Retry, now) {
            self.attempt_wanted(StateEvent::RetryDue);
        }
        if self.clock.expired(Timer::Attempt, now) {
            let trying = self.links.trying.map(|(link, _)| link);
            match (trying, self.beside_link()) {
                (Some(link), _) => self.link_lost(now, link, LostCause::Unanswered),
                (None, Some(link)) => self.beside_late(now, link),
                (None, None) => {}
            }
        }
        if self.clock.expired(Timer::Ack, now) && self.receive.report_pending() {
            self.ack_due = true;
        }
        if self.clock.expired(Timer::Checkpoint, now) {
            self.cut_due = self.uncut > 0;
        }
        if self.clock.expired(Timer::Wake, now) {
            self.outbox.event(Event::Woken);
            self.resume(now);
        }
        if self.clock.expired(Timer::Hold, now) {
            self.abort(now, code::HOLD);
        }
        if self.clock.expired(Timer::Closing, now) {
            self.closing_timeout(now);
        }
        if self.clock.expired(Timer::LastWord, now) && self.state == State::Closed {
            self.detach_all(Detach::Close);
            self.link_lost_when_closed(now);
        }
        if self.clock.expired(Timer::Trim, now) {
            self.trim(now);
        }
        if self.idle_deadline().is_some_and(|end| end <= now) {
            return self.abort(now, code::IDLE);
        }
        if self.unacked_deadline().is_some_and(|end| end <= now) {
            return self.abort(now, code::USER_TIMEOUT);
        }
        self.check_liveness(now);
    }

    /// The near side wants no more than this time for what it writes (R77).
    pub fn set_user_timeout(&mut self, most: Option<Duration>) {
        self.limits.user_timeout = most;
    }

    /// R77: when it ends, if what the near side wrote is not acknowledged until then. While the
    /// peer is suspended nobody waits.
    pub(super) fn unacked_deadline(&self) -> Option<Instant> {
        let waits = matches!(self.state, State::ReadyResume | State::SentResume)
            && self.established
            && self.clock.away.is_none()
            && self.send.una() < self.send.end();
        let since = self.clock.heard.max(self.clock.wrote);
        self.limits.user_timeout.filter(|_| waits).map(|most| since + most)
    }

    /// R76: when it ends, if nothing passes until then.
    pub(super) fn idle_deadline(&self) -> Option<Instant> {
        let since = self.clock.traffic.max(self.clock.attached);
        let linked = self.state == State::Active && self.links.attached.is_some();
        self.limits.idle.filter(|_| linked).map(|idle| since + idle)
    }

    /// R73: gives spare memory back once nothing moves any more.
    fn trim(&mut self, now: Instant) {
        let quiet = self.clock.traffic + self.limits.heartbeat_busy;
        if now < quiet {
            self.clock.set(Timer::Trim, quiet);
        } else {
            self.send.buffer.trim();
            self.receive.buffer.trim();
        }
    }

    /// Memory is in use, so another look is due later.
    pub(super) fn keep_trim(&mut self, now: Instant) {
        if !self.send.buffer.is_bare() || !self.receive.buffer.is_bare() {
            self.clock.arm(Timer::Trim, now + self.limits.heartbeat_busy);
        }
    }

    /// R70: the time at which the next question is due, or the link is given up.
    pub(super) fn liveness_deadline(&self) -> Option<Instant> {
        if self.state != State::Active || self.links.attached.is_none() {
            return None;
        }
        if self.clock.asked > 0 {
            return Some(self.clock.asked_last + self.limits.heartbeat_busy);
        }
        let busy = self.clock.heard + self.limits.heartbeat_busy;
        let unheard = self.send.heard < self.send.nxt;
        if unheard || busy <= self.clock.traffic + self.limits.busy_for {
            Some(busy)
        } else {
            Some(self.clock.heard + self.limits.heartbeat_idle)
        }
    }

    /// R70: asks after silence. When two questions were not answered and the time is over, the link
    /// is lost. Time counts from the first question on, and a machine that slept asks before it
    /// judges.
    fn check_liveness(&mut self, now: Instant) {
        let Some(link) = self.links.attached else { return };
        let Some(deadline) = self.liveness_deadline().filter(|deadline| now >= *deadline) else {
            return;
        };
        // The machine slept, so what was asked before says nothing.
        if now - deadline >= self.limits.heartbeat_busy {
            self.clock.asked = 0;
        }
        let patience = self.limits.silence_max.saturating_sub(self.limits.heartbeat_busy);
        if self.clock.asked >= 2 && now - self.clock.asked_first >= patience {
            return self.link_lost(now, link, LostCause::Silent);
        }
        if self.clock.asked == 0 {
            self.clock.asked_first = now;
        }
        self.clock.asked_last = now;
        self.clock.asked = self.clock.asked.saturating_add(1);
        self.ask_due = true;
    }
}
