//! What the daemons do around a session: a small form of a server's `listener.rs`, and a broker's
//! verdict.

use stp_proto::handle::Handle;
use stp_proto::session::{Denied, Detach, Input, Session, StartAt, code};
use stp_proto::wire::{
    Connect, ConnectMode, First, ResumeDenial, ResumeFrame, encode_done, encode_resume_denied,
    first_frame,
};

use crate::act::Act;
use crate::end::{Effect, NOW, Near};

impl Act<'_> {
    /// The first record of a link at a server.
    pub fn first(&mut self, link: u8, number: u8, record: &[u8]) -> Result<(), String> {
        match first_frame(record) {
            Ok(First::Connect(connect)) => self.connect(link, number, &connect),
            Ok(First::Resume(resume)) => self.resume(link, number, &resume, record),
            Ok(First::Reset(reset)) => {
                let own = self.session().map(|session| session.handles().1);
                if own.is_some_and(|own| reset.acceptor.is_none() || own == reset.acceptor) {
                    self.input(Input::Abort { code: reset.code });
                }
                let mut frame = Vec::new();
                encode_done(&mut frame);
                self.answer(link, frame);
                Ok(())
            }
            Err(error) => Err(format!("P1 protocol: first frame: {error}")),
        }
    }

    /// The daemon's own answer; the link is of no more use.
    fn answer(&mut self, link: u8, frame: Vec<u8>) {
        self.out.effects.push(Effect::Send { link, frame });
        self.out.effects.push(Effect::Detach { link, how: Detach::Linger });
    }

    fn resume(
        &mut self,
        link: u8,
        number: u8,
        resume: &ResumeFrame,
        record: &[u8],
    ) -> Result<(), String> {
        if self.session().is_some_and(|session| session.handles().1 == resume.acceptor) {
            let id = self.end().hold(link, number);
            return self.hand(id, record);
        }
        let tomb = self.end().tomb.filter(|(own, _, _)| *own == resume.acceptor);
        let (seen, why) =
            tomb.map_or((resume.epoch, ResumeDenial::Unknown), |(_, seen, why)| (seen, why));
        let mut frame = Vec::new();
        encode_resume_denied(seen, why, &mut frame);
        self.answer(link, frame);
        Ok(())
    }

    fn connect(&mut self, link: u8, number: u8, connect: &Connect<'_>) -> Result<(), String> {
        if self.session().is_some() && connect.mode == ConnectMode::New {
            let id = self.end().hold(link, number);
            let reaccepted =
                self.session().is_some_and(|session| session.reaccept(NOW, id, connect));
            if !reaccepted {
                self.end().let_go(id);
                self.out.effects.push(Effect::Detach { link, how: Detach::Close });
            }
            return Ok(());
        }
        // An attempt that the broker gave up long ago must not replace what came after it. Where
        // only a tombstone is left, it would begin a session that nobody speaks to and that is
        // reset after its hold time; that is left out here.
        let buried = self.end().tomb.is_some_and(|(_, seen, _)| connect.epoch <= seen);
        let replaced = self.session().is_some() && connect.epoch <= self.end().begun;
        if buried || replaced {
            self.out.effects.push(Effect::Detach { link, how: Detach::Close });
            return Ok(());
        }
        self.open(link, number, connect)
    }

    /// A session begins here.
    fn open(&mut self, link: u8, number: u8, connect: &Connect<'_>) -> Result<(), String> {
        let at = match &connect.mode {
            ConnectMode::New | ConnectMode::Relay(_) | ConnectMode::Prepare(_) => {
                StartAt::default()
            }
            ConnectMode::Transfer(request) => {
                let claims = match request.ticket {
                    Some([0xee, covers, at]) => (u64::from(*covers), u64::from(*at)),
                    Some(_) => return Err("P11 ticket: not one of ours".to_owned()),
                    None => (0, 0),
                };
                if claims.0 != request.covers || claims.1 > request.down {
                    return Err(format!("P11 ticket: {claims:?} for {request:?}"));
                }
                if request.up_from > claims.0 {
                    return Err(format!(
                        "P2 resume point: up {} needed, freed below {}",
                        claims.0, request.up_from
                    ));
                }
                StartAt { up: claims.0, down: request.down }
            }
        };
        let lives = self.end().lives + 1;
        (self.end().lives, self.end().begun) = (lives, connect.epoch);
        let own = Handle([number * 16 + lives; 16]);
        let limits = self.plan.limits();
        let old = std::mem::take(&mut self.end().links);
        self.end().next = 0;
        let id = self.end().hold(link, number);
        let mut session = Session::accept(NOW, limits, id, own, connect, at, "");
        if self.plan.replayable {
            session.hold_acks();
        }
        let end = self.end();
        end.near = Near { got: at.up, wrote: at.down, ..Near::default() };
        (end.session, end.closed, end.blocked) = (Some(session), None, false);
        for held in old {
            self.out.effects.push(Effect::Detach { link: held.wire, how: Detach::Close });
        }
        self.ticket();
        Ok(())
    }

    /// The broker's verdict: another server if that is possible, otherwise the session ends.
    pub fn denied(&mut self, denied: &Denied) {
        let possible = self.plan.replayable
            && self.session().is_some_and(|session| session.transferable().is_ok());
        // Another server was only asked beside the one that goes on (R67).
        if self.session().is_some_and(|session| session.link().is_some()) {
            return;
        }
        let elsewhere = match denied {
            Denied::Resume(ResumeDenial::Unknown) => true,
            Denied::Resume(_) | Denied::Connect { .. } => false,
        };
        if elsewhere && possible {
            self.end().leave = true;
            self.input(Input::Retry);
        } else {
            self.input(Input::Abort { code: code::NO_SERVER });
        }
    }

    /// The loop ends with the session; a server keeps the tombstone.
    pub fn bury(&mut self) {
        let Some(session) = &self.out.end.session else { return };
        if self.out.end.closed.is_none() || session.undelivered() > 0 {
            return;
        }
        let epitaph = session.epitaph();
        let own = session.handles().1;
        if !self.end().is_broker() {
            self.end().tomb = epitaph.map(|(seen, why)| (own, seen, why));
        }
        let end = self.end();
        (end.session, end.dialing) = (None, false);
        for held in std::mem::take(&mut end.links) {
            self.out.effects.push(Effect::Detach { link: held.wire, how: Detach::Close });
        }
    }
}
