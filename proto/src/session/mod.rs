//! The session.

mod event;
mod limit;

pub use event::{
    Attempt, ClosedWhy, Denied, Detach, Event, Input, LinkId, LostCause, Output, Peer, ShutNear,
    Side,
};
pub use limit::Limits;

use std::io::{self, IoSlice, IoSliceMut};

use crate::cut::{Cut, CutError};
use crate::handle::Handle;
use crate::state::State;
use crate::time::Instant;
use crate::wire::{Connect, TransferReason, TransferRequest, WireError};

/// Why a session was reset (CLOSE RST).
pub mod code {
    /// The near side aborted.
    pub const NEAR_RESET: u32 = 1;
    /// The near side is gone and nobody reads what comes.
    pub const NEAR_GONE: u32 = 2;
    /// A user or operator ended the session.
    pub const USER: u32 = 3;
    /// No link for longer than the hold time.
    pub const HOLD: u32 = 4;
    /// The peer broke the protocol.
    pub const PROTOCOL: u32 = 5;
    /// The session went to another server.
    pub const MOVED: u32 = 6;
    /// The server's service failed.
    pub const SERVICE: u32 = 7;
    /// No server can continue the session.
    pub const NO_SERVER: u32 = 8;
    /// The daemon is stopping.
    pub const SHUTDOWN: u32 = 9;
}

/// Where a new acceptor begins: 0, 0 for a new session; at a transfer the position the ticket
/// covers and the broker's receive position.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct StartAt {
    /// First up byte wanted.
    pub up: u64,
    /// First down byte sent.
    pub down: u64,
}

/// A ticket for the broker (D4).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TicketOffer {
    /// Down position before whose DATA it is sent.
    pub at: u64,
    /// Up position it covers.
    pub covers: u64,
    /// First down position that can be compared on a replica.
    pub seam_from: u64,
    /// Whether it allows a transfer.
    pub transferable: bool,
    /// Sealed bytes, at most [`crate::wire::TICKET_MAX`].
    pub ticket: Vec<u8>,
}

/// All positions of one end.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Positions {
    /// Send: freed below.
    pub una: u64,
    /// Send: next to transmit.
    pub nxt: u64,
    /// Send: highest transmitted.
    pub max: u64,
    /// Send: taken from the near side.
    pub end: u64,
    /// Send: the peer has received this much.
    pub heard: u64,
    /// Send: the peer's limit.
    pub limit: u64,
    /// Receive: given to the near side.
    pub delivered: u64,
    /// Receive: received.
    pub received: u64,
    /// Receive: what the peer may free (D3).
    pub acked: u64,
    /// Receive: limit told to the peer.
    pub told: u64,
}

/// Why a session cannot be transferred now.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum WhyNot {
    /// Not established.
    #[error("not established yet")]
    NotEstablished,
    /// No ticket was given, and something was already exchanged.
    #[error("the server gave no ticket")]
    NoTicket,
    /// The newest ticket says so.
    #[error("the server says that it cannot be transferred")]
    NotTransferable,
    /// Up bytes the ticket does not cover are already freed.
    #[error("up bytes from {covers} on are needed, kept are those from {kept} on")]
    Freed {
        /// Covered by the ticket.
        covers: u64,
        /// First byte kept.
        kept: u64,
    },
    /// It has ended.
    #[error("closed")]
    Closed,
}

/// The peer broke the protocol. The session has reset itself; nothing else is harmed.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum PeerMisbehaved {
    /// Not frames.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Checkpoint rules broken.
    #[error(transparent)]
    Cut(#[from] CutError),
}

/// One end of a session.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Session {
    state: State,
    side: Side,
    limits: Limits,
}

#[expect(unused_variables, reason = "signatures first")]
impl Session {
    /// The broker's end of a new session.
    pub fn initiate(
        now: Instant,
        limits: Limits,
        handle: Handle,
        service: &str,
        endpoint: &str,
    ) -> Session {
        Session { state: State::ReadyResume, side: Side::Initiator, limits }
    }

    /// The server's end; queues CONNECT_OK on `link`.
    pub fn accept(
        now: Instant,
        limits: Limits,
        link: LinkId,
        own: Handle,
        connect: &Connect<'_>,
        at: StartAt,
        server_id: &str,
    ) -> Session {
        Session { state: State::Active, side: Side::Acceptor, limits }
    }

    /// The same CONNECT came again on a new link (its CONNECT_OK was lost): attaches that link and
    /// queues CONNECT_OK again. False if it does not fit this session; the link is untouched then.
    pub fn reaccept(&mut self, now: Instant, link: LinkId, connect: &Connect<'_>) -> bool {
        false
    }

    /// Tells the session what happened.
    pub fn handle_input(&mut self, now: Instant, input: Input) {}

    /// Decodes the frames in one record. Payloads accepted are pushed to `arrived`; pass them to
    /// [`Session::deliver`] before the record's memory goes. On error the session has reset itself.
    pub fn handle_record<'b>(
        &mut self,
        now: Instant,
        link: LinkId,
        record: &'b [u8],
        arrived: &mut Vec<&'b [u8]>,
    ) -> Result<(), PeerMisbehaved> {
        Ok(())
    }

    /// Writes what is buffered and what arrived to the near side (vectored), keeps the rest, also
    /// on error. Returns bytes written by this call.
    pub fn deliver<W: FnMut(&[IoSlice<'_>]) -> io::Result<usize>>(
        &mut self,
        now: Instant,
        arrived: &[&[u8]],
        write: W,
    ) -> io::Result<usize> {
        Ok(0)
    }

    /// Bytes kept for the near side.
    pub fn undelivered(&self) -> usize {
        0
    }

    /// Room for bytes of the near side; 0 is back-pressure.
    pub fn send_room(&self) -> usize {
        0
    }

    /// Lets `read` fill spare buffer space. `Ok(0)` is passed on, not interpreted.
    pub fn fill<R: FnMut(&mut [IoSliceMut<'_>]) -> io::Result<usize>>(
        &mut self,
        now: Instant,
        read: R,
    ) -> io::Result<usize> {
        Ok(0)
    }

    /// The next thing to do. DATA only if `room`. At most one frame is appended to `out`.
    pub fn poll_output(&mut self, now: Instant, room: bool, out: &mut Vec<u8>) -> Output {
        Output::Wait(None)
    }

    /// Acceptor: from now on acknowledgements move only by tickets and `release_acks` (D3).
    pub fn hold_acks(&mut self) {}

    /// Acceptor: acknowledges without a ticket.
    pub fn release_acks(&mut self, covers: u64) {}

    /// Acceptor: a ticket to send at its place in the stream (D4).
    pub fn offer_ticket(&mut self, offer: TicketOffer) {}

    /// Acceptor: asks the broker to go elsewhere.
    pub fn request_transfer(&mut self, reason: TransferReason, text: &str) {}

    /// Initiator: declines that.
    pub fn decline_transfer(&mut self, reason: TransferReason) {}

    /// What a transfer CONNECT would carry now.
    pub fn transfer_request(&self) -> TransferRequest<'_> {
        TransferRequest::default()
    }

    /// Whether a transfer is possible now.
    pub fn transferable(&self) -> Result<(), WhyNot> {
        Ok(())
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Which end this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// All positions.
    pub fn positions(&self) -> Positions {
        Positions::default()
    }

    /// (SH_A, SH_B); SH_B is [`Handle::NONE`] before it is known.
    pub fn handles(&self) -> (Handle, Handle) {
        (Handle::NONE, Handle::NONE)
    }

    /// Highest epoch seen or used.
    pub fn epoch(&self) -> u32 {
        0
    }

    /// The newest cut known to be held by both ends.
    pub fn last_checkpoint(&self) -> Option<Cut> {
        None
    }

    /// (send, receive) bytes held.
    pub fn buffered(&self) -> (usize, usize) {
        (0, 0)
    }

    /// The attached link.
    pub fn link(&self) -> Option<LinkId> {
        None
    }

    /// The server's name once established.
    pub fn server(&self) -> &str {
        ""
    }

    /// The service asked for.
    pub fn service(&self) -> &str {
        ""
    }

    /// The endpoint that asked.
    pub fn endpoint(&self) -> &str {
        ""
    }

    /// Whether the first CONNECT was answered.
    pub fn is_established(&self) -> bool {
        false
    }

    /// Whether [`Event::Closed`] was given out: the session can be dropped.
    pub fn is_over(&self) -> bool {
        false
    }

    /// What a tombstone of this session answers to a late RESUME.
    pub fn epitaph(&self) -> Option<(u32, crate::wire::ResumeDenial)> {
        None
    }
}
