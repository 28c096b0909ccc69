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

/// The longest name of a server that is told.
pub const SERVER_BYTES_MAX: usize = 255;

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
    /// The states by their numbers, as programs know them.
    const STATES: [State; 5] =
        [State::Active, State::ReadyResume, State::SentResume, State::Suspended, State::Closed];

    /// The number of its state.
    #[must_use]
    pub fn state_number(&self) -> u8 {
        let at = Self::STATES.iter().position(|state| *state == self.state);
        at.and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
    }

    pub(super) fn put(&self, out: &mut Writer<'_>) {
        out.u8(self.state_number());
        out.u32(self.rtt_us);
        for count in [self.paused_ms, self.taken, self.acknowledged, self.received, self.delivered]
        {
            out.bytes(&count.to_le_bytes());
        }
        let end = self.server.floor_char_boundary(SERVER_BYTES_MAX);
        out.bytes(&self.server.as_bytes()[..end]);
    }

    pub(super) fn read(mut input: Reader<'a>) -> Option<Told<'a>> {
        let state = *Self::STATES.get(usize::from(input.u8()?))?;
        let rtt_us = input.u32()?;
        let mut count = || input.array().map(u64::from_le_bytes);
        let (paused_ms, taken, acknowledged) = (count()?, count()?, count()?);
        let (received, delivered) = (count()?, count()?);
        let server = core::str::from_utf8(input.rest()).ok()?;
        let told =
            Told { state, rtt_us, paused_ms, taken, acknowledged, received, delivered, server };
        (server.len() <= SERVER_BYTES_MAX).then_some(told)
    }
}
