//! `handle_record`: what comes in over links.

use core::time::Duration;

use super::clock::Timer;
use super::links::Pace;
use super::outbox::Control;
use super::{Detach, Event, LinkId, LostCause, PeerMisbehaved, Session, code};
use crate::mutant::mutant;
use crate::role::{Daemon, Dialing};
use crate::state::{Action, State, StateEvent};
use crate::time::Instant;
use crate::wire::{Checkpoint, Close, Data, First, Frame, Report, WireError, first_frame, frames};

impl Session {
    /// Decodes the frames in one record. The payloads that were accepted are pushed to `arrived`;
    /// pass them to [`Session::deliver`] before the memory of the record goes. Records of links
    /// that the session is done with are ignored. On error the session has reset itself.
    pub fn handle_record<'b>(
        &mut self,
        now: Instant,
        link: LinkId,
        record: &'b [u8],
        arrived: &mut Vec<&'b [u8]>,
    ) -> Result<(), PeerMisbehaved> {
        if self.is_beside(link) {
            return self.record_beside(now, link, record, arrived);
        }
        if self.links.current() != Some(link) {
            if self.role.dialing == Dialing::Listener && self.links.begin(link) {
                self.on_first(now, link, record);
            }
            return Ok(());
        }
        self.clock.alive(now);
        self.on_frames(now, link, frames(record), arrived)
    }

    fn on_frames<'b>(
        &mut self,
        now: Instant,
        link: LinkId,
        frames: impl Iterator<Item = Result<Frame<'b>, WireError>>,
        arrived: &mut Vec<&'b [u8]>,
    ) -> Result<(), PeerMisbehaved> {
        for frame in frames {
            // An earlier frame may have ended the link (R2).
            if self.links.current() != Some(link) {
                break;
            }
            let result = frame
                .map_err(PeerMisbehaved::from)
                .and_then(|frame| self.on_frame(now, link, frame, arrived));
            if let Err(error) = result {
                self.abort(now, code::PROTOCOL);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes the frames of a server that does not have the session yet. One of them may move the
    /// session; the frames after it are handled like any others.
    fn record_beside<'b>(
        &mut self,
        now: Instant,
        link: LinkId,
        record: &'b [u8],
        arrived: &mut Vec<&'b [u8]>,
    ) -> Result<(), PeerMisbehaved> {
        let mut frames = frames(record);
        while self.is_beside(link) {
            match frames.next() {
                None => return Ok(()),
                Some(Err(_)) => self.beside_lost(link, LostCause::Broken),
                Some(Ok(frame)) => {
                    if let Some(data) = self.on_beside(now, link, frame) {
                        let fresh = Frame::Data(data);
                        self.on_frames(now, link, core::iter::once(Ok(fresh)), arrived)?;
                    }
                }
            }
        }
        self.on_frames(now, link, frames, arrived)
    }

    /// R2: takes the first record of a new link at a listener. What does not fit harms that link
    /// alone.
    fn on_first(&mut self, now: Instant, link: LinkId, record: &[u8]) {
        match first_frame(record) {
            Ok(First::Resume(resume)) => self.on_resume(now, link, &resume),
            Ok(First::Connect(connect)) if self.reaccept(now, link, &connect) => (),
            Ok(First::Reset(reset)) if reset.initiator == self.initiator => {
                self.reset_first(now, link, reset.code);
            }
            Ok(_) | Err(_) => self.outbox.detach(link, Detach::Close),
        }
    }

    fn on_frame<'b>(
        &mut self,
        now: Instant,
        link: LinkId,
        frame: Frame<'b>,
        arrived: &mut Vec<&'b [u8]>,
    ) -> Result<(), PeerMisbehaved> {
        if self.state == State::Closed {
            self.on_last_word(now, &frame);
            return Ok(());
        }
        if let Some((_, attempt)) = self.links.trying {
            return match frame {
                Frame::ConnectOk(ok) => self.on_connect_ok(now, link, attempt, &ok),
                Frame::ConnectDenied(denied) => {
                    self.on_connect_denied(now, attempt, &denied);
                    Ok(())
                }
                Frame::ResumeOk(ok) => self.on_resume_ok(now, link, &ok),
                Frame::ResumeDenied(denied) => self.on_resume_denied(now, &denied),
                Frame::Close(Close::Reset { code }) => {
                    self.ended_by_peer(now, code);
                    Ok(())
                }
                other => Err(PeerMisbehaved::Unexpected(name(&other))),
            };
        }
        self.confirmed = true;
        match frame {
            Frame::Data(data) => self.on_data(now, data, arrived),
            Frame::Checkpoint(checkpoint) => self.on_checkpoint(now, link, checkpoint),
            Frame::Urgent(urgent) => self.receive.on_urgent(urgent.position),
            Frame::Close(close) => self.on_close(now, link, close),
            Frame::Suspend(suspend) => {
                self.on_suspend(now, suspend.lasts);
                Ok(())
            }
            Frame::Ticket(ticket) if self.role.daemon == Daemon::Broker => self.on_ticket(&ticket),
            Frame::Transfer(wish) if self.role.daemon == Daemon::Broker => {
                let (reason, text) = (wish.reason, wish.text.to_string());
                self.outbox.event(Event::TransferWanted { reason, text });
                Ok(())
            }
            Frame::Pass(pass) if self.role.daemon == Daemon::Broker => {
                self.outbox.event(Event::PassGiven { pass: pass.pass.into() });
                Ok(())
            }
            Frame::Announce(announce) if self.role.daemon == Daemon::Broker => {
                self.on_announce(&announce)
            }
            Frame::Stay(stay) if self.role.daemon == Daemon::Server => {
                self.outbox.event(Event::Stays { reason: stay.reason });
                Ok(())
            }
            other => Err(PeerMisbehaved::Unexpected(name(&other))),
        }
    }

    /// R10: bytes of the stream.
    fn on_data<'b>(
        &mut self,
        now: Instant,
        data: Data<'b>,
        arrived: &mut Vec<&'b [u8]>,
    ) -> Result<(), PeerMisbehaved> {
        self.receive.on_data(data.position, data.bytes.len())?;
        if let Some(seam) = &mut self.seam {
            seam.update(data.position, data.bytes);
        }
        self.note_beside(data.position, data.bytes);
        self.moved(now, data.bytes.len());
        self.clock.arm(Timer::Ack, now + self.limits.ack_delay);
        if self.receive.discard {
            self.check_stop(now);
        } else {
            arrived.push(data.bytes);
        }
        Ok(())
    }

    /// Takes note that DATA moved, in either direction.
    pub(super) fn moved(&mut self, now: Instant, count: usize) {
        self.clock.traffic = now;
        self.uncut = self.uncut.saturating_add(count as u64);
        self.clock.arm(Timer::Checkpoint, now + self.limits.checkpoint_interval);
        self.clock.arm(Timer::Trim, now + self.limits.heartbeat_busy);
    }

    fn on_checkpoint(
        &mut self,
        now: Instant,
        link: LinkId,
        checkpoint: Checkpoint,
    ) -> Result<(), PeerMisbehaved> {
        let report = match checkpoint {
            Checkpoint::Request { sent, report, .. } | Checkpoint::Answer { sent, report, .. } => {
                self.check_cut(sent)?;
                report
            }
            Checkpoint::Confirm { report, .. } | Checkpoint::Ack { report, .. } => report,
        };
        self.on_report(now, &report)?;
        // The report may have ended the session: nothing follows the last word (R52).
        if mutant!(AnswerAfterReset, self.state != State::Active, false) {
            return Ok(());
        }
        match checkpoint {
            Checkpoint::Request { id, sent, .. } => {
                let answer = self.cuts.on_request(id, sent, self.send.nxt, self.role.opening)?;
                if let Some(cut) = answer {
                    let report = self.receive.tell();
                    let answer = Checkpoint::Answer { id: cut.id, sent: cut.sent, report };
                    self.outbox.frame(link, Control::Checkpoint(answer));
                    self.cut_made();
                }
            }
            Checkpoint::Answer { id, sent, report } => {
                let cut = self.cuts.on_answer(id, sent, report.received)?;
                let report = self.receive.tell();
                let confirm = Checkpoint::Confirm { id: cut.id, report };
                self.outbox.frame(link, Control::Checkpoint(confirm));
                self.outbox.event(Event::Acknowledged(cut));
            }
            Checkpoint::Confirm { id, .. } => {
                let cut = self.cuts.on_confirm(id)?;
                self.outbox.event(Event::Acknowledged(cut));
            }
            Checkpoint::Ack { echo, .. } => self.ack_due |= echo,
        }
        Ok(())
    }

    /// R41: a cut must lie where the stream is, because links are first in, first out.
    fn check_cut(&self, position: u64) -> Result<(), PeerMisbehaved> {
        let received = self.receive.received;
        if position == received {
            Ok(())
        } else {
            Err(PeerMisbehaved::WrongCheckpoint { position, received })
        }
    }

    /// A round began here or was answered, so the next one is due a full interval later.
    pub(super) fn cut_made(&mut self) {
        (self.uncut, self.cut_due) = (0, false);
        self.clock.stop(Timer::Checkpoint);
    }

    fn on_report(&mut self, now: Instant, report: &Report) -> Result<(), PeerMisbehaved> {
        self.send.on_report(report)?;
        self.after_report(now);
        Ok(())
    }

    /// Does what is possible once the peer has more than before.
    pub(super) fn after_report(&mut self, now: Instant) {
        self.announcing.on_heard(self.send.heard);
        if let Some(covers) = self.journal.on_heard(self.send.heard) {
            self.receive.released = self.receive.released.max(covers);
        }
        self.keep_trim(now);
        self.check_stop(now);
    }

    /// T4: the peer's user suspends the session.
    fn on_suspend(&mut self, now: Instant, lasts: Option<Duration>) {
        if self.step(StateEvent::PeerSuspend) == Some(Action::DetachAndWait) {
            self.detach_all(Detach::Close);
            self.outbox.event(Event::Suspended { by_peer: true, lasts });
            self.peer_is_away(now, lasts.unwrap_or_default());
            self.await_link(now, Pace::Slow);
        }
    }
}

/// The frame's name, for errors.
fn name(frame: &Frame<'_>) -> &'static str {
    match frame {
        Frame::Connect(_) => "CONNECT",
        Frame::ConnectOk(_) => "CONNECT_OK",
        Frame::ConnectDenied(_) => "CONNECT_DENIED",
        Frame::Data(_) => "DATA",
        Frame::Checkpoint(_) => "CHECKPOINT",
        Frame::Close(_) => "CLOSE",
        Frame::Suspend(_) => "SUSPEND",
        Frame::Resume(_) => "RESUME",
        Frame::ResumeOk(_) => "RESUME_OK",
        Frame::ResumeDenied(_) => "RESUME_DENIED",
        Frame::Ticket(_) => "TICKET",
        Frame::Transfer(_) => "TRANSFER",
        Frame::Stay(_) => "STAY",
        Frame::Pass(_) => "PASS",
        Frame::Urgent(_) => "URGENT",
        Frame::Announce(_) => "ANNOUNCE",
    }
}
