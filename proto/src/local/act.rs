//! What a program that knows of sessions asks of its own, and is told (`session.h`).

use super::bytes::{Reader, Writer};
use crate::state::State;

/// What a program wants of a session of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Only to know how it fares.
    Look,
    /// To have it suspended.
    Suspend,
    /// To have it resumed.
    Resume,
    /// To have it ended by an error at both ends.
    Abort,
}

/// How a session fares, for a program that knows of sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told<'a> {
    /// The state of this end.
    pub state: State,
    /// Smoothed round-trip time of the link, 0 when there is none.
    pub rtt_us: u32,
    /// For how long it has been without a link, 0 when it has one.
    pub paused_ms: u64,
    /// Bytes taken from the app.
    pub taken: u64,
    /// Those of them that the server has acknowledged.
    pub acknowledged: u64,
    /// Bytes received for the app.
    pub received: u64,
    /// Those of them that the app has taken.
    pub delivered: u64,
    /// The server that has it, as it calls itself; cut if it is long.
    pub server: &'a str,
}

/// The longest name of a server, a service or an endpoint that is told; a longer one is cut.
pub const NAMED_BYTES_MAX: usize = 255;

/// The error of functions for an endpoint that was saved to go on elsewhere (KTH 4.4). No errno of
/// Linux has this number.
pub const EMOVED: i32 = 4_001;

/// What the ends of a session are called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Names<'a> {
    /// The service at the other end, `service.object@domain`.
    pub service: &'a str,
    /// The server that has the session, as it calls itself.
    pub server: &'a str,
    /// This end's endpoint, `object@domain`; empty if it belongs to none.
    pub endpoint: &'a str,
}

/// The number of a state, as programs know it.
#[must_use]
pub fn state_number(state: State) -> u8 {
    let at = STATES.iter().position(|known| *known == state);
    at.and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
}

const STATES: [State; 5] =
    [State::Active, State::ReadyResume, State::SentResume, State::Suspended, State::Closed];

/// As much of a name as is told.
fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAMED_BYTES_MAX)]
}

impl<'a> Names<'a> {
    pub(super) fn put(&self, out: &mut Writer<'_>) {
        for name in [self.service, self.server, self.endpoint].map(cut) {
            // Cut to fit.
            out.u8(name.len() as u8);
            out.bytes(name.as_bytes());
        }
    }

    pub(super) fn read(input: &mut Reader<'a>) -> Option<Names<'a>> {
        let mut name = || {
            let length = usize::from(input.u8()?);
            core::str::from_utf8(input.bytes(length)?).ok()
        };
        Some(Names { service: name()?, server: name()?, endpoint: name()? })
    }
}

impl Act {
    pub(super) fn to_number(self) -> u8 {
        match self {
            Act::Look => 0,
            Act::Suspend => 1,
            Act::Resume => 2,
            Act::Abort => 3,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Act> {
        [Act::Look, Act::Suspend, Act::Resume, Act::Abort].get(usize::from(number)).copied()
    }
}

impl<'a> Told<'a> {
    pub(super) fn put(&self, out: &mut Writer<'_>) {
        out.u8(state_number(self.state));
        out.u32(self.rtt_us);
        for count in [self.paused_ms, self.taken, self.acknowledged, self.received, self.delivered]
        {
            out.bytes(&count.to_le_bytes());
        }
        out.bytes(cut(self.server).as_bytes());
    }

    pub(super) fn read(mut input: Reader<'a>) -> Option<Told<'a>> {
        let state = *STATES.get(usize::from(input.u8()?))?;
        let rtt_us = input.u32()?;
        let mut count = || input.array().map(u64::from_le_bytes);
        let (paused_ms, taken, acknowledged) = (count()?, count()?, count()?);
        let (received, delivered) = (count()?, count()?);
        let server = core::str::from_utf8(input.rest()).ok()?;
        let told =
            Told { state, rtt_us, paused_ms, taken, acknowledged, received, delivered, server };
        (server.len() <= NAMED_BYTES_MAX).then_some(told)
    }
}
