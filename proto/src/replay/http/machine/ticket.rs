//! When a ticket goes out, and what it says.

use core::time::Duration;

use super::Machine;
use super::tickets::{Held, Offer};
use crate::mutant::mutant;
use crate::replay::http::exchange::Exchange;
use crate::replay::http::translate::Translation;
use crate::time::Instant;

/// A ticket is refreshed at most this often.
const REFRESH: Duration = Duration::from_secs(5);

impl Machine {
    /// A ticket for the present moment, if one can be made. All that was observed has been given.
    fn offer(&self) -> Option<Offer> {
        let exchange = self.observer.exchange().filter(|_| self.tickets.made)?;
        let (covers, at) = (self.observer.covers(), self.observer.positions().1);
        let base = self.translation.as_ref().and_then(Translation::base);
        let seam_from = base.map_or(self.observer.seam_from(), |base| base.at);
        let exchange = Ok(exchange.cut(base.cloned()));
        Some(Offer { at, covers, seam_from, exchange })
    }

    /// The ticket that goes before a response head, once.
    pub(super) fn offer_for_head(&mut self) -> Option<Offer> {
        mutant!(NoTicketForHead => return None);
        let told = std::mem::replace(&mut self.tickets.before_head, true);
        if told { None } else { self.offer() }
    }

    /// The ticket that goes before an interim head.
    pub(super) fn offer_for_interim(&self, interim: &[u8]) -> Option<Offer> {
        if !self.tickets.made || self.observer.unsafe_request() {
            return None;
        }
        let length = u64::try_from(interim.len()).unwrap_or(u64::MAX);
        let at = self.observer.positions().1.saturating_sub(length);
        let exchange = Exchange::Interim { interim: interim.to_vec(), head_at: at };
        let covers = self.observer.covers();
        Some(Offer { at, covers, seam_from: at, exchange: Ok(exchange) })
    }

    /// The head is let go.
    pub(super) fn head_released(&mut self) {
        self.tickets.before_head = false;
    }

    /// The ticket that says how long the chunk is that is to go out now, once.
    pub(super) fn offer_for_chunk(&mut self) -> Option<Offer> {
        let at = self.observer.positions().1;
        let new = self.translation.as_mut().is_some_and(|translation| translation.announce(at));
        if new { self.offer() } else { None }
    }

    /// A ticket after an exchange that had none.
    pub(super) fn offer_due(&mut self) -> Option<Offer> {
        std::mem::take(&mut self.tickets.due).then(|| self.offer()).flatten()
    }

    /// The word that the session cannot be continued from here on, if the other end does not have
    /// it yet.
    pub(super) fn disclaim(&mut self) -> Option<Offer> {
        if !self.tickets.made || self.tickets.held == Held::Disclaimer {
            return None;
        }
        self.tickets.held = Held::Disclaimer;
        let at = self.observer.positions().1;
        let (covers, exchange) = (self.observer.covers(), Err(self.observer.why_not()));
        Some(Offer { at, covers, seam_from: at, exchange })
    }

    /// A ticket was offered. `made`: it could be sealed. If it could not, the answer is to be
    /// offered instead.
    pub fn offered(&mut self, now: Instant, made: bool) -> Option<Offer> {
        if !made {
            return self.disclaim();
        }
        let under_way = self.observer.response_under_way();
        self.tickets.held = if under_way { Held::Ticket } else { Held::Nothing };
        self.tickets.refreshed = now;
        None
    }

    /// Something was acknowledged: says what is to be offered now.
    pub fn acknowledged(&mut self, now: Instant) -> Option<Offer> {
        self.drains(now);
        if self.is_over() || !self.out.is_empty() || self.observer.holds_head() {
            return None;
        }
        let Some(offer) = self.offer() else { return self.disclaim() };
        let old = now.since(self.tickets.refreshed) >= REFRESH;
        (old && self.observer.response_under_way()).then_some(offer)
    }

    /// After bytes were taken of the app: up to which up position they need not be kept, because
    /// they may not be repeated anyway, and what is to be offered for that.
    pub fn unrepeatable(&mut self) -> Option<(u64, Option<Offer>)> {
        let released = self.observer.unsafe_request() || self.observer.opaque().is_some();
        if self.is_over() || !self.tickets.made || !released {
            return None;
        }
        Some((self.observer.covers(), self.disclaim()))
    }
}
