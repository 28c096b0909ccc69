//! Has sessions do what their policies say, and says where they are and why.

use serde_json::{Value, json};
use stp_proto::course::GapWhy;
use stp_proto::policy::{Place, Step};

use crate::any_link::Command;
use crate::broker::Broker;
use crate::entry::{Entry, Order};

/// Where the session's link leaves.
fn interface(broker: &Broker, entry: &Entry) -> Option<(bool, Option<String>)> {
    let view = entry.view.lock();
    let local = view.local.filter(|_| view.attached)?;
    drop(view);
    let ip = local.ip();
    Some((ip.is_loopback(), broker.policies.interface_of(ip)))
}

/// Has a session do what its policy says now.
pub fn apply(broker: &Broker, entry: &Entry, since: stp_proto::time::Instant) {
    let Some(leave) = &entry.service.leave else { return };
    // The streams of one without a far end keep to it by themselves.
    if entry.service.direct.is_some() {
        return;
    }
    // One that no server has yet looks for one over what is allowed, or fails as plain TCP does.
    if !entry.was_linked() {
        return;
    }
    let mut held = entry.held.lock();
    let over = interface(broker, entry);
    let place = match &over {
        _ if held.by_policy.is_some() => Place::Held,
        Some((true, _)) => Place::Here,
        Some((false, Some(name))) => Place::Over(name),
        Some((false, None)) | None => Place::Nowhere,
    };
    let send = |command| drop(entry.inbox.try_send(command));
    let record = |what: &'static str, why: String| {
        tracing::info!(session = entry.id, policy = leave.name, why, "{what}");
        entry.record(what, why, entry.status.snapshot().positions.rcv);
    };
    match leave.step(place) {
        Step::Stay => {}
        Step::Move => {
            let Some(best) = leave.best() else { return };
            if !held.is_wanted() || !held.tries(best) {
                return;
            }
            let _ended_already =
                entry.orders.try_send(Order::PathChanged { why: GapWhy::Policy, since });
            send(Command::PathChanged);
        }
        Step::Leave => {
            let Some((_, Some(name))) = over else { return };
            record("leaves", leave.forbids(&name));
            if held.is_wanted() {
                send(Command::Suspend { lasts: None });
                send(Command::Resume);
            }
        }
        Step::Suspend => {
            let why = leave.why_not();
            record("held", why.clone());
            held.by_policy = Some(why);
            if held.is_wanted() {
                send(Command::Suspend { lasts: None });
            }
        }
        Step::Resume => {
            held.by_policy = None;
            let best = leave.best().unwrap_or_default();
            record("released", format!("the policy \"{}\" allows {best}", leave.name));
            if held.is_wanted() {
                send(Command::Resume);
            }
        }
    }
}

/// Where a session is and why, for the status; nothing for one without a policy.
#[must_use]
pub fn told(broker: &Broker, entry: &Entry) -> Value {
    let over = interface(broker, entry).and_then(|(_, name)| name);
    let Some(leave) = &entry.service.leave else {
        let rule = over.as_ref().map(|_| "the system's route");
        return json!({ "name": null, "interface": over, "rule": rule });
    };
    let held = entry.held.lock().by_policy.clone();
    let rule = held.or_else(|| over.as_deref().and_then(|name| leave.rule(name)));
    json!({ "name": leave.name, "interface": over, "rule": rule })
}

/// Interfaces or policies have changed, at `since`: ready links that do not leave over the best
/// interface are dropped, and every session with a policy does what that says now.
pub fn changed(broker: &Broker, since: stp_proto::time::Instant) {
    for server in broker.policies.servers() {
        let dialer = server.reach.dialer();
        server.reach.network_changed(|link| {
            let leave = dialer.leave.as_ref();
            leave.is_none_or(|leave| broker.policies.is_best(leave, link.local_addr().ip()))
        });
    }
    apply_all(broker, since);
}

/// Every session with a policy does what that says now.
pub fn apply_all(broker: &Broker, since: stp_proto::time::Instant) {
    for entry in broker.sessions() {
        if entry.service.leave.is_some() {
            apply(broker, &entry, since);
        }
    }
}
