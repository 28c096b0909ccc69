//! What one end of a session does that the other does not.
//!
//! A broker opens sessions, dials their links and holds the tickets; a server does none of the
//! three. They are three types because they are three questions: each rule asks the one that it is
//! about, and an end that dials without having opened the session would need no rule to change.

/// Which end opened the session.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Opening {
    /// It sent the first CONNECT; its epochs are odd, and its checkpoints win a collision.
    Initiator,
    /// It answered the first CONNECT; its epochs are even.
    Acceptor,
}

/// Which end brings links up.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Dialing {
    /// It dials.
    Dialer,
    /// It waits for the links of the other end: apps sit behind NAT.
    Listener,
}

/// Which daemon this end runs in, and so what its near side is.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Daemon {
    /// An app is its near side; it holds the newest ticket and decides where the session goes.
    Broker,
    /// A service is its near side; it issues the tickets and can ask the session to leave.
    Server,
}

/// All three answers for one end.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Role {
    /// Which end opened the session.
    pub opening: Opening,
    /// Which end brings links up.
    pub dialing: Dialing,
    /// Which daemon it runs in.
    pub daemon: Daemon,
}

impl Role {
    /// The broker's end.
    pub const BROKER: Role =
        Role { opening: Opening::Initiator, dialing: Dialing::Dialer, daemon: Daemon::Broker };
    /// The server's end.
    pub const SERVER: Role =
        Role { opening: Opening::Acceptor, dialing: Dialing::Listener, daemon: Daemon::Server };
}
