//! A service as a client's CONNECT means it: an egress is a service of the destination there.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use stp_net::key::PublicKey;
use stp_proto::egress::ENOBUFS;
use stp_proto::wire::{Connect, DenyReason};

use crate::config::{Kind, ServiceConfig};
use crate::denial::Denial;
use crate::listener::Server;
use crate::registry::Ended;
use crate::service::egress::NotLed;
use crate::service::upstream::Target;

impl ServiceConfig {
    /// The service as this client's CONNECT means it.
    ///
    /// # Errors
    /// When the client is not led there.
    pub fn toward(
        &self,
        client: PublicKey,
        connect: &Connect<'_>,
    ) -> Result<Cow<'_, ServiceConfig>, Denial> {
        let Target::Egress(egress) = &self.target else { return Ok(Cow::Borrowed(self)) };
        let toward = egress.toward(client, connect.destination)?;
        let kind = if egress.speaks_http(&toward) { Kind::Http } else { Kind::Tcp };
        Ok(Cow::Owned(ServiceConfig { kind, target: Target::Toward(toward), ..self.clone() }))
    }
}

impl From<NotLed> for Denial {
    fn from(not: NotLed) -> Denial {
        let text = not.to_string();
        match not {
            NotLed::Stranger(_) => Denial::new(DenyReason::Unauthorized, text),
            NotLed::NoDestination | NotLed::NoHost(_) => Denial::new(DenyReason::Mismatch, text),
            NotLed::Spent(_) => Denial::counted(DenyReason::Refused(ENOBUFS), text, "egress_share"),
        }
    }
}

impl Server {
    /// Puts what an egress refuses to one of its clients on the list of ended sessions.
    pub(crate) fn note_refused(&self, client: PublicKey, connect: &Connect<'_>, denial: &Denial) {
        let Some(destination) = connect.destination else { return };
        if !matches!(denial.why, DenyReason::Refused(_)) {
            return;
        }
        let now = Instant::now();
        self.registry.note_end(Ended {
            own: connect.handle,
            service: connect.service.to_owned(),
            client,
            reason: format!("refused: {destination}: {} ({})", denial.text, denial.why),
            lived: Duration::ZERO,
            at: now,
        });
    }
}
