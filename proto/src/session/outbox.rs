//! What waits to be given out by `poll_output`, in order.

use std::collections::VecDeque;

use super::{Detach, Event, LinkId, ShutNear};
use crate::wire::{
    Checkpoint, Close, ResumeDenied, ResumeFrame, ResumeOk, Suspend, TransferReason,
};

/// One thing to give out.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Queued {
    Frame(LinkId, Control),
    Dial,
    Detach(LinkId, Detach),
    Shut(ShutNear),
    Event(Event),
}

/// A frame that waits. DATA, TICKET and plain acknowledgements never do: they are made when the
/// link has room for them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Control {
    Connect,
    Transfer,
    /// A frame that was made when it was decided on.
    Encoded(Vec<u8>),
    ConnectOk,
    Resume(ResumeFrame),
    ResumeOk(ResumeOk),
    ResumeDenied(ResumeDenied),
    Checkpoint(Checkpoint),
    Close(Close),
    Suspend(Suspend),
    AskTransfer(TransferReason, String),
    Stay(TransferReason),
    Pass(Box<[u8]>),
}

/// What waits, in order.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Outbox(VecDeque<Queued>);

impl Outbox {
    pub fn frame(&mut self, link: LinkId, control: Control) {
        self.0.push_back(Queued::Frame(link, control));
    }

    pub fn event(&mut self, event: Event) {
        self.0.push_back(Queued::Event(event));
    }

    pub fn shut(&mut self, how: ShutNear) {
        self.0.push_back(Queued::Shut(how));
    }

    pub fn dial(&mut self) {
        if !self.0.contains(&Queued::Dial) {
            self.0.push_back(Queued::Dial);
        }
    }

    pub fn no_dial(&mut self) {
        self.0.retain(|queued| *queued != Queued::Dial);
    }

    /// Queues the end of a link. If the link is closed at once, what still waits for it is dropped.
    pub fn detach(&mut self, link: LinkId, how: Detach) {
        if how == Detach::Close {
            self.0.retain(|queued| !matches!(queued, Queued::Frame(on, _) if *on == link));
        }
        self.0.push_back(Queued::Detach(link, how));
    }

    pub fn pop(&mut self) -> Option<Queued> {
        let first = self.0.pop_front();
        if self.0.is_empty() && self.0.capacity() > 8 {
            self.0 = VecDeque::new();
        }
        first
    }
}
