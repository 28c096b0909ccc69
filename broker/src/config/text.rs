//! Values that are written as text.

use std::time::Duration;

pub(super) use stp_net::config::FromText;

/// The least that a time may be configured to.
pub(super) const TIME_MIN: Duration = Duration::from_millis(100);
