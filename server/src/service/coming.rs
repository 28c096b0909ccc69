//! A service that is being opened and may have much to compare: one of HTTP, in TLS or not.

use std::task::{Context, Poll};

use stp_proto::session::StartAt;
use stp_proto::time::Instant;

use super::bound::BoundHttp;
use super::join::Join;
use super::upstream::Target;
use super::{Service, https, takeover};
use crate::denial::Denial;
use crate::ticket::Mint;

/// A service that is being opened.
pub enum Coming {
    /// Without TLS.
    Http(takeover::Takeover<Target, Mint>),
    /// In TLS.
    Https(https::Takeover<Target, Mint>),
}

/// A service that is open, and where the session's streams begin.
pub type Opened = (Service, StartAt);

impl Coming {
    /// A response that was followed (R69) goes on, if it is the one that is asked for.
    pub fn go_on_with(&mut self, now: Instant, followed: Join<Target>) {
        match self {
            Self::Http(takeover) => takeover.go_on_with(now, followed),
            Self::Https(takeover) => takeover.go_on_with(now, followed),
        }
    }

    /// How much of what the app has is compared, and of how much; none while nothing is.
    #[must_use]
    pub fn progress(&self) -> Option<(u64, u64)> {
        match self {
            Self::Http(takeover) => takeover.progress(),
            Self::Https(takeover) => takeover.progress(),
        }
    }

    /// When it must be polled again even if nothing wakes it.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        match self {
            Self::Http(takeover) => takeover.due(),
            Self::Https(takeover) => takeover.due(),
        }
    }

    /// Goes on. Not to be called again after it is ready.
    pub fn poll(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Result<Opened, Denial>> {
        match self {
            Self::Http(takeover) => takeover.poll(now, cx).map(|opened| {
                opened.map(|(http, at)| (Service::Http(Box::new(BoundHttp::new(http))), at))
            }),
            Self::Https(takeover) => takeover
                .poll(now, cx)
                .map(|opened| opened.map(|(https, at)| (Service::Https(Box::new(https)), at))),
        }
    }
}
