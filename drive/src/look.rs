//! What the kernel knows of a link, for the session and for its far side.

use core::time::Duration;

use stp_proto::liveness::Last;
use stp_proto::mutant;
use stp_proto::session::{Input, LinkId, LostCause};
use stp_proto::time::Instant;

use crate::carrier::Carrier;
use crate::driver::Driver;
use crate::far::Far;
use crate::near::Near;

impl<N: Near, F: Far> Driver<N, F> {
    /// R70: on a slow link questions and answers wait behind a large record, or behind other links.
    pub(crate) fn look_at_link(&mut self, now: Instant) {
        let (link, unanswered) = (self.session.link(), self.session.unanswered());
        let Some(look) = self.liveness.look(now, link, unanswered) else { return };
        let mut alive = look.others && self.far.speaks_elsewhere(now);
        if look.kernel
            && let Some(Ok(info)) = self.links.get_mut(look.link).map(|link| link.tcp_info())
        {
            alive |= self.liveness.acked(now, look.link, info.bytes_acked);
        }
        if mutant!(SlowIsDead, alive, false) {
            self.session.handle_input(now, Input::LinkAlive { link: look.link });
        }
    }

    /// A link is closed: what the kernel knew of it.
    pub(crate) fn remember(&mut self, id: LinkId, link: &F::Link) {
        let Ok(info) = link.tcp_info() else { return };
        let last = Last {
            data: Duration::from_millis(info.last_data_recv_ms.into()),
            any: Duration::from_millis(info.last_recv_ms.into()),
            timeouts: info.timeouts,
        };
        self.closed_links.push((id, last));
    }

    /// Says of a link that was lost whether it has lost long packets only.
    pub(crate) fn tell_of_loss(&mut self, id: LinkId, cause: LostCause) {
        let mut closed = self.closed_links.iter();
        if closed.any(|(link, last)| *link == id && last.loses_long(cause)) {
            self.far.loses_long();
        }
    }

    /// What the kernel knows of the attached link, for a far side that watches it.
    pub(crate) fn sample(&mut self, now: Instant) {
        if !self.far.wants_sample(now) {
            return;
        }
        let link = self.session.link().and_then(|id| self.links.get_mut(id));
        if let Some(Ok(info)) = link.map(|link| link.tcp_info()) {
            let act = self.far.sample(now, &mut self.session, &info);
            self.act(now, act);
        }
    }
}
