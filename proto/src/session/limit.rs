//! Every bound and every time of a session, in one place. The model checker runs the same code with
//! bounds of a few bytes.

use core::time::Duration;

use crate::class::Class;

/// Bounds and times of one session.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Limits {
    /// The most bytes that are kept until the peer acknowledges them.
    pub send_buffer_max: usize,
    /// The most bytes that are kept for a near side that does not take them.
    pub receive_buffer_max: usize,
    /// The most bytes that are taken from the near side ahead of what was sent (R36).
    pub ahead_max: usize,
    /// What the peer may send at first; it grows to `receive_buffer_max` (R35).
    pub window_first: usize,
    /// Bytes received after which an acknowledgement is sent at once.
    pub ack_every: usize,
    /// Bytes moved, either way, after which a cut is proposed.
    pub checkpoint_every: usize,
    /// The most bytes of tickets that wait for their place in the stream; more is back-pressure.
    pub tickets_max: usize,
    /// Memory of a buffer comes in pieces of this size.
    pub chunk: usize,
    /// The most bytes of spare space that one read is offered.
    pub fill_max: usize,
    /// The most bytes of the stream in one DATA frame.
    pub data_max: usize,
    /// The block size of the seam digest.
    pub seam_block: u32,
    /// A small amount received is acknowledged after this time.
    pub ack_delay: Duration,
    /// A cut is proposed after this time if data moved.
    pub checkpoint_interval: Duration,
    /// A busy session asks for a sign of life after this silence (R70).
    pub heartbeat_busy: Duration,
    /// An idle session asks after this silence.
    pub heartbeat_idle: Duration,
    /// The link of a busy session is lost after this silence, if two questions were not answered.
    pub silence_max: Duration,
    /// A session is busy for this long after data moved.
    pub busy_for: Duration,
    /// An unanswered RESUME is given up after this time.
    pub attempt_timeout: Duration,
    /// An unanswered CONNECT is given up after this time; its server has to reach its service and
    /// to check the seam before it answers.
    pub connect_timeout: Duration,
    /// How long a server to which the session moves may catch up beside the old one (R66).
    pub catch_up: Duration,
    /// How long it may then catch up while the old link is not read. This must be well below the
    /// time after which a link counts as silent.
    pub catch_up_max: Duration,
    /// The shortest pause before another attempt. Pauses grow with the time without a link (R71).
    pub retry_min: Duration,
    /// The longest such pause.
    pub retry_max: Duration,
    /// The longest pause of an end whose peer is suspended or refused (R25).
    pub retry_slow: Duration,
    /// A session without a link is reset after this time.
    pub hold: Duration,
    /// The longest suspension by the other end that the session is kept through; `hold` counts from
    /// its end on (R75).
    pub suspended_max: Duration,
    /// How well the session is to be kept: what an initiator asks for, and the best that an
    /// acceptor grants (R74).
    pub class: Class,
    /// A session on whose link nothing passed for so long is reset; none: it stays (R76).
    pub idle: Option<Duration>,
    /// A session without a link is reset when what its near side wrote has been unacknowledged for
    /// so long; none: after `hold` (R77).
    pub user_timeout: Option<Duration>,
    /// The same as `hold` at an acceptor that has not heard the initiator since its CONNECT_OK
    /// (R23).
    pub hold_unconfirmed: Duration,
    /// How long a session whose near side is gone waits for the peer's end.
    pub closing_max: Duration,
    /// How long an aborted session tries to tell the acceptor.
    pub farewell_max: Duration,
    /// How long the daemon remembers an ended session; told to the initiator.
    pub tombstone: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        let send_buffer_max = 8 << 20;
        Limits {
            send_buffer_max,
            receive_buffer_max: 8 << 20,
            ahead_max: 256 << 10,
            window_first: 256 << 10,
            ack_every: 256 << 10,
            checkpoint_every: send_buffer_max / 2,
            tickets_max: 1 << 20,
            chunk: 64 << 10,
            fill_max: 256 << 10,
            data_max: crate::wire::DATA_MAX,
            seam_block: crate::seam::BLOCK,
            ack_delay: Duration::from_millis(25),
            checkpoint_interval: Duration::from_secs(5),
            heartbeat_busy: Duration::from_secs(1),
            heartbeat_idle: Duration::from_secs(10),
            silence_max: Duration::from_secs(3),
            busy_for: Duration::from_secs(30),
            attempt_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(20),
            catch_up: Duration::from_millis(500),
            catch_up_max: Duration::from_secs(2),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(30),
            retry_slow: Duration::from_secs(60),
            hold: Duration::from_secs(72 * 3600),
            suspended_max: Duration::from_secs(7 * 24 * 3600),
            class: Class::Temporary,
            idle: None,
            user_timeout: None,
            hold_unconfirmed: Duration::from_secs(600),
            closing_max: Duration::from_secs(120),
            farewell_max: Duration::from_secs(3600),
            tombstone: Duration::from_secs(72 * 3600),
        }
    }
}
