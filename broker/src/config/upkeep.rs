//! The keys `class`, `hold` and `idle` of services, routes and policies.

use std::time::Duration;

use stp_net::config::Span;
use stp_proto::class::Class;

use super::text::{FromText, TIME_MIN};
use crate::upkeep::Upkeep;

/// The least time after which a session may count as idle: a program that thinks is not.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// Checks them; says which one is wrong, and why.
pub(super) fn read(
    class: Option<&FromText<Class>>,
    hold: Option<Span>,
    idle: Option<Span>,
) -> Result<Upkeep, (&'static str, String)> {
    let class = class.map(|class| class.0);
    let (hold, idle) = (hold.map(|span| span.0), idle.map(|span| span.0));
    for (key, given, least) in [("hold", hold, TIME_MIN), ("idle", idle, IDLE_MIN)] {
        if let Some(short) = given.filter(|given| *given < least) {
            let (short, least) = (short.as_millis(), least.as_millis());
            return Err((key, format!("{short} ms are too short; {least} ms is least")));
        }
    }
    Ok(Upkeep { class, hold, idle })
}
