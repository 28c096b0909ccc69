//! Every bound and every time of a session, in one place. The defaults are the design's numbers;
//! the model checker runs the same code with a few bytes.

use core::time::Duration;

/// Bounds and times of one session.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Limits {
    /// Most bytes kept until the peer acknowledges them.
    pub send_buffer_max: usize,
    /// Most bytes kept for a near side that does not take them.
    pub receive_buffer_max: usize,
    /// Bytes received after which an acknowledgement is sent at once.
    pub ack_every: usize,
    /// Bytes moved, either way, after which a cut is proposed.
    pub checkpoint_every: usize,
    /// Most bytes of tickets waiting for their place in the stream; more is back-pressure.
    pub tickets_max: usize,
    /// Memory of a buffer comes in pieces of this size.
    pub chunk: usize,
    /// Most bytes of spare space offered to one read.
    pub fill_max: usize,
    /// Most bytes of the stream in one DATA frame.
    pub data_max: usize,
    /// Block size of the seam digest.
    pub seam_block: u32,
    /// A small amount received is acknowledged after this time.
    pub ack_delay: Duration,
    /// A cut is proposed after this time if data moved.
    pub checkpoint_interval: Duration,
    /// A busy session asks for a sign of life after this silence (R70).
    pub heartbeat_busy: Duration,
    /// An idle one after this.
    pub heartbeat_idle: Duration,
    /// A busy session's link is lost after this silence, two questions unanswered.
    pub silence_max: Duration,
    /// A session is busy for this long after data moved.
    pub busy_for: Duration,
    /// An unanswered RESUME is given up after this time.
    pub attempt_timeout: Duration,
    /// An unanswered CONNECT, whose server has to reach its service and check the seam, after this.
    pub connect_timeout: Duration,
    /// How long a server that shall take a session over may catch up beside the old one (R66).
    pub catch_up: Duration,
    /// And then with the old link not read; well within the time after which a link counts as silent.
    pub catch_up_max: Duration,
    /// Shortest pause before another attempt; it grows with the time without a link, with jitter.
    pub retry_min: Duration,
    /// Longest such pause.
    pub retry_max: Duration,
    /// Pause of a side that waits for the other, which is suspended or refused (R25).
    pub retry_slow: Duration,
    /// A session without a link is reset after this time.
    pub hold: Duration,
    /// The same at an acceptor that never heard the initiator after its CONNECT_OK.
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
            hold_unconfirmed: Duration::from_secs(600),
            closing_max: Duration::from_secs(120),
            farewell_max: Duration::from_secs(3600),
            tombstone: Duration::from_secs(72 * 3600),
        }
    }
}
