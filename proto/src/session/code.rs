//! Why a session was reset: the numbers that CLOSE RST carries.

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
/// The peer ended the session without having everything.
pub const LOST: u32 = 10;
/// Nothing passed for longer than the idle limit.
pub const IDLE: u32 = 11;
/// It was temporary and without a link, and its server had no place for another one.
pub const ROOM: u32 = 12;
/// What the program wrote was not acknowledged within the time that it had set for that.
pub const USER_TIMEOUT: u32 = 13;
/// Another copy of what was carried to another machine has gone on (R132).
pub const CARRIED: u32 = 14;
