//! What must hold between the two ends, in every state of the world. What must hold at one end
//! alone is checked with each of its steps, in `end.rs`.
//!
//! | | |
//! |---|---|
//! | P0 | no assertion of the code fails |
//! | P1 | what is delivered is a prefix of what was written, each byte once; nobody breaks the protocol |
//! | P2 | both ends share a resume point: nothing freed is still needed |
//! | P3 | both ends hold one identical final cut |
//! | P4 | delivered <= received <= sent; acknowledged <= received; freed <= acknowledged |
//! | P5 | buffers stay within their bounds |
//! | P6 | a clean end means that everything arrived both ways; no reset without a cause |
//! | P7 | the goal can be reached from every state without further faults; no dead end short of it |
//! | P8 | at most one link a side; two ACTIVE ends are on the same one |
//! | P9 | while a side is suspended, no data moves there |
//! | P10 | a link given back for another session carries nothing of this one |
//! | P11 | tickets fit what they are used for; the death of a server is survived while its tickets cover what was freed |
//! | P12 | a round of agreement on a cut ends while its link lives |
//! | P13 | while another server is asked beside the attached one, nothing it was promised is freed, nothing it was not told of is sent; it gets the session only if all bytes that came twice are the same |
//! | P14 | an urgent byte is delivered as such, and no other |
//! | P15 | what a process leaves is of use to the next one |

use stp_proto::cut::Phase;
use stp_proto::session::{ClosedWhy, Session};
use stp_proto::state::State;
use stp_proto::wire::ResumeDenial;

use crate::end::End;
use crate::net::Net;
use crate::plan::Plan;

/// P2, P3, P4, P8.
pub fn of_both(broker: &End, server: &End) -> Option<String> {
    let (Some(a), Some(b)) = (&broker.session, &server.session) else { return None };
    if a.handles() != b.handles() || a.state() == State::Closed || b.state() == State::Closed {
        return None;
    }
    for (sender, receiver, name) in [(a, b, "up"), (b, a, "down")] {
        let (from, to) = (sender.positions(), receiver.positions());
        if !(from.una..=from.max).contains(&to.received) || from.heard > to.received {
            return Some(format!(
                "P2 resume point: {name}: received {}, freed below {}, heard {}, sent {}",
                to.received, from.una, from.heard, from.max
            ));
        }
        if from.limit > to.told {
            return Some(format!("P4 window: {name}: {} used, {} told", from.limit, to.told));
        }
    }
    let (acked, pending) = a.cuts().offer();
    if b.cuts().common(acked, pending).is_none() {
        return Some(format!("P3 common cut: {:?} and {:?}", a.cuts(), b.cuts()));
    }
    let both = a.state() == State::Active && b.state() == State::Active;
    let both = both && broker.unasked == 0 && server.unasked == 0;
    let (link, other) = (broker.attached(), server.attached());
    if both && link != other {
        return Some(format!("P8 one link: {link:?} and {other:?}"));
    }
    None
}

/// P12.
pub fn of_rounds(broker: &End, server: &End, net: &Net) -> Option<String> {
    let (Some(a), Some(b)) = (&broker.session, &server.session) else { return None };
    let link = broker.attached()?;
    let wire = net.wires.iter().find(|wire| wire.id == link)?;
    let quiet = !wire.cut && wire.up.frames.is_empty() && wire.down.frames.is_empty();
    let together = server.attached() == Some(link);
    let idle = a.cuts().phase == Phase::Idle && b.cuts().phase == Phase::Idle;
    let asked = broker.unasked == 0 && server.unasked == 0;
    (together && quiet && asked && !idle)
        .then(|| format!("P12 rounds: stuck at {:?} and {:?}", a.cuts().phase, b.cuts().phase))
}

/// P6, P11.
pub fn of_ending(plan: &Plan, broker: &End, server: &End, harmed: bool) -> Option<String> {
    let reset = |end: &End| {
        end.near.got_reset.is_some()
            || matches!(
                end.closed,
                Some(ClosedWhy::ResetHere { .. } | ClosedWhy::ResetByPeer { .. })
            )
    };
    if !harmed && (reset(broker) || reset(server)) {
        return Some(format!("P6 clean end: {:?} {:?}", broker.closed, server.closed));
    }
    let down = u64::from(plan.down);
    let (app, service) = (&broker.near, &server.near);
    let early = app.got_fin && app.got < down && !service.gone
        || service.got_fin && (service.got != app.wrote || !(app.fin_said || app.gone));
    if early {
        return Some("P6 clean end: a stream ends before all of it was given".to_owned());
    }
    if broker.closed == Some(ClosedWhy::Clean) {
        let all = match (&server.session, server.tomb) {
            (Some(session), _) => session.positions().received == app.wrote,
            (None, Some((_, _, ResumeDenial::Closed { received }))) => received == app.wrote,
            (None, _) => harmed,
        };
        if !all || !(app.got_fin || app.gone) {
            return Some("P6 clean end: the broker's is clean, something is missing".to_owned());
        }
    }
    if server.closed == Some(ClosedWhy::Clean) {
        let received = broker.session.as_ref().map(|session| session.positions().received);
        let all = received.is_none_or(|received| received == service.wrote);
        if !all || !(service.got_fin || service.gone) {
            return Some("P6 clean end: the server's is clean, something is missing".to_owned());
        }
    }
    // Once the broker has acknowledged the end of the service's stream, nothing is replayed (D3).
    let had_all = broker.session.as_ref().is_some_and(Session::has_peer_end);
    let lost = broker.session.is_some() && app.got_reset.is_some() && !app.got_fin && !had_all;
    if plan.replayable && lost && !broker.aborted && !server.aborted {
        return Some("P11 survival: the death of a server ended the session".to_owned());
    }
    None
}
