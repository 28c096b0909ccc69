//! What a session's loop publishes for the status, and how often.

use std::time::Duration;

use stp_proto::time::Instant;

use crate::carrier::Carrier;
use crate::driver::Driver;
use crate::far::Far;
use crate::near::Near;
use crate::published::Published;
use crate::status::{Moment, Positions, Snapshot};

/// How often a busy session publishes its numbers.
const PUBLISH_EVERY: Duration = Duration::from_millis(200);

impl<N: Near, F: Far> Driver<N, F> {
    /// Publishes, or says when it is to be done.
    pub(crate) fn publish_or_later(&mut self, now: Instant) -> Option<Instant> {
        if !self.published.stale {
            return None;
        }
        let due = self.published.at + PUBLISH_EVERY;
        // Another state is told at once: a program may wait for it.
        if now < due && self.published.state == Some(self.session.state()) {
            return Some(due);
        }
        self.publish(now, false);
        None
    }

    pub(crate) fn publish(&mut self, now: Instant, last: bool) {
        let at = self.session.positions();
        let elapsed = now - self.published.at;
        let seconds = elapsed.as_secs_f64().max(1e-3);
        let rate = |new: u64, old: u64| (new.saturating_sub(old) as f64 / seconds) as u64;
        let (rate_in, rate_out) =
            (rate(at.delivered, self.published.delivered), rate(at.end, self.published.taken));
        let link = if last { None } else { self.links.newest() };
        let info = link.and_then(|link| link.tcp_info().ok());
        let ms = |micros: u32| f64::from(micros) / 1e3;
        let rtt_ms = info.map(|info| ms(info.rtt_us));
        if let Some(info) = info {
            self.status.note(Moment {
                at_ms: now.0 / 1000,
                rtt_ms: ms(info.rtt_us),
                rtt_ms_min: ms(info.min_rtt_us),
                delivery_rate: info.delivery_rate,
                rate: rate_in + rate_out,
            });
        }
        let received = at.delivered.saturating_sub(self.published.delivered);
        self.rate.note(now, received, elapsed);
        self.status.publish(Snapshot {
            state: self.session.state(),
            state_ms: 0,
            epoch: self.session.epoch(),
            positions: Positions {
                una: at.una,
                nxt: at.nxt,
                end: at.end,
                rcv: at.received,
                dlv: at.delivered,
            },
            unacknowledged: at.end - at.una,
            undelivered: self.session.undelivered() as u64,
            cost: self.cost(),
            again: self.session.can_be_had_again(),
            rtt_ms,
            rate_in,
            rate_out,
            link: link.map(Carrier::ends),
            last_checkpoint: self
                .session
                .last_checkpoint()
                .map(|cut| format!("sent {} received {}", cut.sent, cut.received)),
            transferable: self.session.transferable(),
            class: self.session.class(),
            hold_s: self.session.hold().as_secs(),
            suspendable_s: self.session.suspendable(now).as_secs(),
            suspended_s: None,
            kept_s: None,
            ends: (self.session.suspended_until(), self.session.kept_until()),
            fixed: self.session.why_fixed().map(|why| format!("cannot go on elsewhere: {why}")),
        });
        self.published = Published {
            at: now,
            delivered: at.delivered,
            taken: at.end,
            state: Some(self.session.state()),
            stale: false,
        };
    }
}
