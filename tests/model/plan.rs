//! How large a run is: bytes, buffers, and how much may go wrong.

use std::time::Duration;

use stp_proto::session::{Limits, Mutant};

/// The bounds of one run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: &'static str,
    /// Bytes the app sends, and the service.
    pub up: u8,
    pub down: u8,
    /// Times the checkpoint timer fires, at the broker and at the server.
    pub cuts: [u8; 2],
    /// Links broken, paths changed, dials failed, timeouts before their time.
    pub faults: u8,
    /// Times the user suspends, at the broker and at the server.
    pub suspends: [u8; 2],
    /// Times an end is aborted, by its user or by its near side, at the broker and at the server.
    pub aborts: [u8; 2],
    /// Old first frames (CONNECT, RESUME) that come again on a link of their own.
    pub replays: u8,
    /// Times a server starts again without memory.
    pub crashes: u8,
    /// Times the process of the broker, or of a server, dies and the next one goes on.
    pub restarts: [u8; 2],
    /// Times the broker leaves a server that works.
    pub moves: u8,
    /// The broker may go while its link works, not only when it dials anyway.
    pub beside: bool,
    /// The byte of the service's stream at which the second server's copy is another one.
    pub differs: Option<u8>,
    /// Bytes of each buffer.
    pub send_buffer: usize,
    pub receive_buffer: usize,
    /// Bytes received before they are acknowledged at once.
    pub ack_every: usize,
    /// The acknowledgement timer may fire; otherwise bytes are acknowledged by cuts only.
    pub ack_timer: bool,
    /// Frames a driver may read on before it carries out what the session wants.
    pub batch: u8,
    /// DATA frames a link holds before it takes no more.
    pub pipe: u8,
    /// Near sides read when they like, a byte at a time; otherwise everything at once.
    pub lazy: bool,
    /// The session is established when the run begins.
    pub established: bool,
    /// The service is replayable: acknowledgements follow tickets, and there are two servers.
    pub replayable: bool,
    /// The last byte of each stream is urgent.
    pub urgent: bool,
    /// The mistake in the rules.
    pub mutant: Option<Mutant>,
}

/// Nothing goes wrong.
pub const CALM: Plan = Plan {
    name: "",
    up: 1,
    down: 1,
    cuts: [0, 0],
    faults: 0,
    suspends: [0, 0],
    aborts: [0, 0],
    replays: 0,
    crashes: 0,
    restarts: [0, 0],
    moves: 0,
    beside: false,
    differs: None,
    send_buffer: 16,
    receive_buffer: 64,
    ack_every: 16,
    ack_timer: false,
    batch: 0,
    pipe: u8::MAX,
    lazy: false,
    established: false,
    replayable: false,
    urgent: false,
    mutant: None,
};

impl Plan {
    /// The urgent byte of a stream of `count` bytes.
    pub fn urgent_of(&self, count: u8) -> Option<u64> {
        u64::from(count).checked_sub(1).filter(|_| self.urgent)
    }

    /// The session's limits: the shipped code, a few bytes.
    pub fn limits(&self) -> Limits {
        // The clock stands still, and timers are told one by one to expire. So it counts only which
        // timers are set.
        let never = Duration::MAX;
        Limits {
            send_buffer_max: self.send_buffer,
            receive_buffer_max: self.receive_buffer,
            ack_every: self.ack_every,
            checkpoint_every: 1 << 20,
            chunk: 2,
            fill_max: 1,
            data_max: 1,
            seam_block: 2,
            heartbeat_busy: never,
            heartbeat_idle: never,
            silence_max: never,
            ..Limits::default()
        }
    }
}
