//! From the service to the app.

use super::{App, Carries, Failure, How, Machine, Next, Out, Service, Want};
use crate::replay::http::flow::{Down, Ending, Flow};
use crate::replay::http::translate::Translation;
use crate::time::Instant;

/// How a stream of the service ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// In order.
    Closed,
    /// By a reset or an error, for this reason.
    Broken(String),
}

impl Machine {
    /// What comes next for the app's side.
    pub fn step(&mut self) -> Next {
        loop {
            if !self.out.is_empty() {
                return Next::Give;
            }
            if let Some(interim) = self.interim.take() {
                let offer = self.offer_for_interim(&interim);
                self.out.push(&interim);
                match offer {
                    Some(offer) => return Next::Ticket(offer),
                    None => continue,
                }
            }
            if self.observer.holds_head() {
                if let Some(offer) = self.offer_for_head() {
                    return Next::Ticket(offer);
                }
                let head = self.observer.release_head();
                self.head_released();
                self.out.push(&head);
                self.settle();
                continue;
            }
            if let Some(offer) = self.offer_due() {
                return Next::Ticket(offer);
            }
            if self.translation.as_ref().is_some_and(Translation::flushes) {
                match self.offer_for_chunk() {
                    Some(offer) => return Next::Ticket(offer),
                    None => self.emit(),
                }
                continue;
            }
            if !self.ahead.is_empty() {
                let ahead = self.ahead.take();
                self.feed(&ahead);
                continue;
            }
            return self.next_of_service();
        }
    }

    fn next_of_service(&mut self) -> Next {
        if let Some(text) = self.trouble.as_ref().and_then(|trouble| trouble.wants_to_tell()) {
            return Next::Leave(text.to_owned());
        }
        match &self.out_state {
            Out::Told => return Next::Wait,
            Out::Ends { how, early } => {
                let (how, early) = (how.clone(), *early);
                if early && let Some(offer) = self.disclaim() {
                    return Next::Ticket(offer);
                }
                return Next::End(how);
            }
            Out::Goes if self.finished() => return Next::End(How::Fin),
            Out::Goes => {}
        }
        if !matches!(self.service, Service::Open { .. }) {
            return Next::Wait;
        }
        if self.translation.is_some() {
            return Next::Read;
        }
        match self.observer.down_flow() {
            Flow::Head => Next::Read,
            Flow::Wait => Next::Wait,
            Flow::Body(most) => Next::Pass(most),
            Flow::Opaque => Next::Pass(u64::MAX),
        }
    }

    /// Something is there for the app's side without reading from the service.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.out_state, Out::Ends { .. })
            || !self.out.is_empty()
            || !self.ahead.is_empty()
            || self.interim.is_some()
            || self.observer.holds_head()
            || self.tickets.is_due()
            || self.translation.as_ref().is_some_and(Translation::flushes)
            || self.trouble.as_ref().is_some_and(|trouble| trouble.wants_to_tell().is_some())
            || (self.finished() && !self.is_over())
    }

    /// What is to be given to the app's side.
    #[must_use]
    pub fn out(&self) -> &[u8] {
        self.out.rest()
    }

    /// This much of it was given.
    pub fn given(&mut self, count: usize) {
        self.out.advance(count);
    }

    /// Takes bytes of the service, until something has to happen first; the rest is kept.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.observer.holds_head() && self.interim.is_none() {
            let last = self.service == Service::None
                || matches!(self.service, Service::Open { carries: Carries::Last, .. });
            if self.observer.idle() && last {
                // The rest of an answer that was longer than needed.
                return;
            }
            if self.translation.is_some() {
                bytes = &bytes[self.translate(bytes)..];
                continue;
            }
            let head = self.observer.down_flow() == Flow::Head;
            let (taken, event) = self.observer.down(bytes);
            match event {
                Down::More if head => {}
                Down::More => self.out.push(&bytes[..taken]),
                Down::Head => self.begin_body(),
                Down::Interim => self.interim = Some(self.observer.take_held_down()),
                Down::Opaque if head => {
                    let held = self.observer.take_held_down();
                    self.out.push(&held);
                }
                Down::Opaque => self.out.push(&bytes[..taken]),
            }
            bytes = &bytes[taken..];
            self.settle();
        }
        if !bytes.is_empty() {
            self.ahead = bytes.to_vec().into();
        }
    }

    /// These bytes went from the service straight to the app's side, as [`Next::Pass`] said.
    pub fn passed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.observer.down(bytes).0..];
        }
        self.settle();
    }

    /// The service ended its stream.
    pub fn service_ended(&mut self, now: Instant, ended: Ended) {
        let used = matches!(self.service, Service::Open { carries: Carries::Another, .. });
        self.service = Service::None;
        let broken = matches!(ended, Ended::Broken(_));
        if !broken && self.body_ends_with_the_stream() {
            return;
        }
        // The app's body ends with its stream, but the service's has an end of its own.
        let cut = self.translation.as_ref().is_some_and(Translation::is_cut);
        match self.observer.ending() {
            // A body that ends with its stream does not end by a reset.
            Ending::Fair if (broken || cut) && self.is_continuable() => self.ask_for_the_rest(now),
            Ending::Fair if cut => self.end_short(),
            // A service may close when its client has ended its side. Plain TCP shows that too.
            Ending::Cut if self.app == App::Ended => self.end_short(),
            Ending::Cut => self.ask_for_the_rest(now),
            Ending::Unanswered if used || self.observer.only_interim() => self.ask_once_more(now),
            Ending::Fair | Ending::Unanswered | Ending::Lost => {
                let early = !(self.app == App::Ended && self.observer.idle());
                let held = self.observer.take_held_down();
                self.out.push(&held);
                let how = match ended {
                    Ended::Closed => How::Fin,
                    Ended::Broken(why) => How::Failed(why),
                };
                self.out_state = Out::Ends { how, early };
            }
        }
    }

    /// Whether the service would be asked again if its stream were lost now. Then the stream need
    /// not be kept in the hope that its path comes back.
    #[must_use]
    pub fn would_ask_again(&self) -> bool {
        self.has_stream()
            && self.app == App::Sends
            && matches!(self.observer.ending(), Ending::Cut | Ending::Unanswered)
    }

    /// The path of the stream is gone, for this reason: the service itself has done nothing wrong.
    /// To be called only if it [would be asked again](Machine::would_ask_again).
    pub fn path_lost(&mut self, now: Instant) {
        let want = match self.observer.ending() {
            Ending::Cut => {
                if let Some(translation) = &mut self.translation {
                    translation.hold();
                }
                Want::Rest
            }
            Ending::Unanswered => {
                self.unsent = self.observer.request_head().to_vec().into();
                Want::Request
            }
            Ending::Fair | Ending::Lost => return,
        };
        self.service = Service::Wanted(want, now);
    }

    /// A response was cut and nobody has the rest: the app gets what came of it, then the end of
    /// the stream, which is short of what the head promised.
    pub(super) fn end_short(&mut self) {
        self.service = Service::None;
        if let Some(translation) = &mut self.translation {
            translation.flush();
        }
        let how = if self.observer.ends_with_the_stream() {
            // Its end would look like that of the whole.
            How::Failed("the rest of a body that ends with its stream is missing".to_owned())
        } else {
            How::Fin
        };
        self.out_state = Out::Ends { how, early: true };
    }

    /// A response is under way that can be continued.
    fn is_continuable(&self) -> bool {
        self.app == App::Sends
            && self.observer.response_under_way()
            && self.observer.exchange().is_some()
    }

    /// A request was not answered, and may be sent again.
    fn ask_once_more(&mut self, now: Instant) {
        match self.again.ask(self.observer.positions().1) {
            Some(pause) => {
                self.unsent = self.observer.request_head().to_vec().into();
                self.service = Service::Wanted(Want::Request, now + pause);
            }
            None => self.failed(now, Failure::Refused("it gives no answer".to_owned())),
        }
    }
}
