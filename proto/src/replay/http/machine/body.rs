//! Bodies that do not reach the app as they come from the service.

use super::{Machine, Service};
use crate::replay::http::body::Framing;
use crate::replay::http::chunks::Cutter;
use crate::replay::http::pieces::Waiting;
use crate::replay::http::splice::Joined;
use crate::replay::http::translate::{Decoded, Decoder, Translation};
use crate::time::Instant;

impl Machine {
    /// A response head is whole.
    pub(super) fn begin_body(&mut self) {
        if self.observer.in_chunks() {
            let cutter = Cutter::begin(self.observer.body_at());
            self.translation = Some(Translation::new(Decoder::new(Framing::Chunked), Some(cutter)));
            self.observer.follow_no_chunks();
        }
    }

    /// Takes bytes of the service that are translated; says how many.
    pub(super) fn translate(&mut self, bytes: &[u8]) -> usize {
        let Some(translation) = &mut self.translation else { return 0 };
        let mut made = Vec::new();
        let (decoded, strict) = (translation.take(bytes, &mut made), translation.is_strict());
        self.observe(&made);
        match decoded {
            Decoded::More => bytes.len(),
            Decoded::Over(taken) => {
                self.body_ended();
                taken
            }
            Decoded::Broken(_) if strict => {
                self.translation = None;
                self.fail("the other server's ranges are not as they were asked for");
                bytes.len()
            }
            Decoded::Broken(taken) => {
                self.translation = None;
                self.observer.give_up("a response's chunks cannot be followed");
                taken
            }
        }
    }

    /// These bytes go to the app.
    fn observe(&mut self, made: &[u8]) {
        let (taken, _) = self.observer.down(made);
        debug_assert_eq!(taken, made.len(), "nothing ends in a body that is translated");
        self.out.push(made);
    }

    fn body_ended(&mut self) {
        self.observer.body_ended();
        self.settle();
    }

    /// The service has ended its stream in order: says whether that is the end of a body that is
    /// translated.
    pub(super) fn body_ends_with_the_stream(&mut self) -> bool {
        let Some(translation) = &mut self.translation else { return false };
        if !translation.until_close() {
            return false;
        }
        let mut made = Vec::new();
        translation.end(&mut made);
        self.observe(&made);
        self.body_ended();
        true
    }

    /// What waits for the rest of its chunk goes out; its ticket did.
    pub(super) fn emit(&mut self) {
        if let Some(translation) = &mut self.translation {
            let mut made = Vec::new();
            translation.emit(&mut made);
            self.observe(&made);
        }
    }

    /// The service has nothing to be read now, and the app's side has not received the last
    /// `behind` bytes that were given: says whether there is something for the app.
    pub fn service_pauses(&mut self, now: Instant, behind: u64) -> bool {
        let open = matches!(self.service, Service::Open { .. }) && self.ahead.is_empty();
        if let Some(translation) = self.translation.as_mut().filter(|_| open) {
            translation.pause(now, behind);
        }
        self.is_ready()
    }

    /// The session is about to go to another server.
    pub fn leaves(&mut self, now: Instant) {
        if let Some(translation) = &mut self.translation {
            translation.leaves(now);
        }
    }

    /// Goes on with a body behind what the app has of it.
    pub(super) fn join_body(&mut self, joined: Joined) {
        let Joined { begun, ahead, decoder, mut cutter, left, .. } = joined;
        if let (Some(cutter), Some(base)) =
            (&mut cutter, self.translation.as_ref().and_then(Translation::base))
        {
            cutter.announced(base.clone());
        }
        self.translation = None;
        if cutter.is_none() && (left.is_some() || (decoder.is_plain() && !decoder.over())) {
            self.ahead = ahead.into();
            self.observer.joined(left);
            return;
        }
        if cutter.is_some() {
            self.observer.follow_no_chunks();
        }
        let over = decoder.over();
        self.translation = Some(Translation::new(decoder, cutter));
        self.ahead = Waiting::default();
        self.observe(&begun);
        self.observe(&ahead);
        if over {
            self.body_ended();
        }
    }
}
