//! What an observer comes upon.

/// What the next bytes of a direction are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Part of a head; the observer keeps them until it is whole.
    Head,
    /// Body: at least this many bytes may pass before anything else begins.
    Body(u64),
    /// The next request, which waits for the exchange before it.
    Wait,
    /// Not followed (any more): whatever comes may pass.
    Opaque,
}

/// What a step of the up direction came upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Up {
    /// Nothing to be done.
    More,
    /// A request head is whole: let `Observer::request_head` go.
    Head {
        /// Up position at which the request begins.
        begin: u64,
        /// The request may be executed twice.
        repeatable: bool,
    },
    /// This is not HTTP/1: let `Observer::take_held_up` go, then all else.
    Opaque,
}

/// What a step of the down direction came upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// Nothing to be done.
    More,
    /// A head is whole: send a ticket, then let `Observer::release_head` go.
    Head,
    /// An interim head (1xx) is whole: let `Observer::take_held_down` go.
    Interim,
    /// This is not HTTP/1, or not from here on: let `Observer::take_held_down` go, then all.
    Opaque,
}

/// What it means that the server closed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Nothing is missing, or it cannot be told: the app sees the end.
    Fair,
    /// The request may be sent once more: nothing was answered.
    Unanswered,
    /// A response was cut that can be continued.
    Cut,
    /// A response was cut that cannot be continued.
    Lost,
}
