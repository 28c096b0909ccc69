//! Where a session goes: to a service, with the key of an endpoint, over what a policy allows.

use std::sync::Arc;

use stp_proto::policy::VARIABLE;

use crate::broker::Broker;
use crate::endpoints::Endpoint;
use crate::entry::Entry;
use crate::environment;
use crate::routes::Freeze;
use crate::service::Service;
use crate::upkeep::Upkeep;

/// Where a new session goes.
pub(crate) struct Goal {
    pub(crate) service: Arc<Service>,
    /// Its number on the overloaded list.
    pub(crate) number: usize,
    /// The gateway's ticket.
    pub(crate) grant: Option<Arc<[u8]>>,
    /// Whether time-outs of the program stand still while there is no link.
    pub(crate) freeze: Freeze,
    /// How the session is to be kept.
    pub(crate) upkeep: Upkeep,
}

impl Goal {
    /// The same under a policy: the program's own, or else that of its route or service.
    pub(crate) fn under(
        self,
        broker: &Broker,
        pid: i32,
        configured: Option<&str>,
    ) -> Result<Goal, String> {
        let own = environment::name(pid, VARIABLE);
        let Some(name) = own.as_deref().or(configured) else { return Ok(self) };
        let service = broker.policies.under(&broker.maker.lock(), &self.service, name)?;
        let own = service.leave.as_ref().map(|leave| leave.upkeep()).unwrap_or_default();
        Ok(Goal { service, upkeep: own.or(self.upkeep), ..self })
    }

    /// The same with the key of an endpoint, if the program has one: its own, or else that of its
    /// route, or of the configuration.
    pub(crate) fn of_endpoint(
        self,
        broker: &Broker,
        pid: i32,
        configured: Option<&str>,
    ) -> Result<Goal, String> {
        if self.service.direct.is_some() {
            return Ok(self);
        }
        let Some(endpoint) = broker.endpoint_of(pid, configured)? else {
            return Ok(self);
        };
        Ok(self.owned_by(broker, &endpoint))
    }

    /// The same with the key of this endpoint.
    pub(crate) fn owned_by(self, broker: &Broker, endpoint: &Endpoint) -> Goal {
        let service = endpoint.service(&broker.maker.lock(), &self.service);
        Goal { service, ..self }
    }

    /// Where a session that belongs to another one goes.
    pub(crate) fn of(lead: &Entry) -> Goal {
        let service = Arc::clone(&lead.service);
        let freeze = lead.pause().freeze();
        let (number, upkeep) = (lead.service_number, lead.upkeep);
        Goal { service, number, grant: None, freeze, upkeep }
    }
}
