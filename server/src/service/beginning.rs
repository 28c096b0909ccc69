//! How an HTTP service begins: at a session's start, or where another server left it.

use stp_proto::replay::http::Observer;

use super::upstream::Upstream;

/// How a service begins.
pub struct Beginning {
    /// Knows where the session stands.
    pub observer: Observer,
    /// A stream to the service, if one is needed at once.
    pub upstream: Option<Upstream>,
    /// To be sent on it first.
    pub unsent: Vec<u8>,
    /// For the app before anything else: observed already.
    pub out: Vec<u8>,
    /// Read from the stream, not yet observed.
    pub ahead: Vec<u8>,
    /// The stream can carry another request.
    pub reusable: bool,
    /// Requests that begin below may have been executed by another server.
    pub guard: u64,
    /// The response under way can be continued with a ticket the broker has.
    pub ticketed: bool,
}

impl Beginning {
    /// A new session.
    #[must_use]
    pub fn new(upstream: Upstream) -> Self {
        Self::at(Observer::new(0, 0), Some(upstream))
    }

    /// Where the observer stands.
    #[must_use]
    pub fn at(observer: Observer, upstream: Option<Upstream>) -> Self {
        Self {
            observer,
            upstream,
            unsent: Vec::new(),
            out: Vec::new(),
            ahead: Vec::new(),
            reusable: true,
            guard: 0,
            ticketed: false,
        }
    }
}
