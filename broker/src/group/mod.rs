//! Sessions that belong together (PROTOCOL.md R90–R94): what a server announces in the stream of
//! one session, the *lead*, is carried out here: a route for a connection that the app will make,
//! or a connection to a listener of the app.
//!
//! Nothing here knows why an app has several connections.

pub mod awaited;
pub mod listener;
pub mod reached;

use std::net::IpAddr;
use std::sync::Arc;

use stp_drive::Command;
use stp_proto::group::{Awaited, Groups, Lead, Todo};
use stp_proto::select::Rank;
use stp_proto::session::code;
use stp_proto::wire::Announcement;
use tokio::sync::oneshot;

use crate::broker::Broker;
use crate::entry::{Entry, Order};
use crate::remains::Awaits;
use awaited::{Member, Reach};

/// Carries out what a server has announced in the stream of `entry`.
pub fn announced(broker: &Broker, entry: &Arc<Entry>, announcement: &Announcement) {
    let lead = Lead {
        id: entry.id,
        pid: entry.app.pid,
        ip: entry.peer.ip().to_canonical(),
        host: entry.host.clone(),
    };
    let mut groups = broker.groups.lock();
    let todo = groups.announced(&lead, announcement);
    *entry.awaits.lock() = awaits(&groups, entry.id);
    match todo {
        Todo::Nothing => {}
        Todo::Publish => broker.publish(groups.awaited()),
        Todo::Reach(address, token) => {
            let member = Member { lead: Arc::clone(entry), token };
            let _the_broker_ends = broker.to_reach.sender.send(Reach { member, address });
        }
        Todo::Drop(token) => {
            for member in entry.living_members() {
                if member.lead.as_ref().is_some_and(|(_, own)| *own == token) {
                    let _over = member.inbox.try_send(Command::Abort { code: code::SERVICE });
                }
            }
        }
    }
}

/// What is awaited of a session's app.
fn awaits(groups: &Groups, lead: u64) -> Option<Awaits> {
    let one = groups.awaited().iter().find(|one| one.lead.id == lead)?;
    Some(Awaits { ports: (one.port, one.last), lasting: one.lasting, token: one.token })
}

/// The broker before this one awaited this of a session's app.
pub fn await_again(broker: &Broker, entry: &Entry, awaits: Awaits) {
    let lead = Lead {
        id: entry.id,
        pid: entry.app.pid,
        ip: entry.peer.ip().to_canonical(),
        host: entry.host.clone(),
    };
    *entry.awaits.lock() = Some(awaits);
    let Awaits { ports: (port, last), lasting, token } = awaits;
    let mut groups = broker.groups.lock();
    groups.await_again(Awaited { lead, port, last, token, lasting });
    broker.publish(groups.awaited());
}

/// The member that an app's connection is, if it was announced to this program.
pub fn take_awaited(broker: &Broker, ip: IpAddr, port: u16, pid: i32) -> Option<Member> {
    let mut groups = broker.groups.lock();
    let Awaited { lead, token, lasting, .. } = groups.take(ip, port, pid)?;
    if !lasting {
        broker.publish(groups.awaited());
    }
    let left = awaits(&groups, lead.id);
    drop(groups);
    let lead = broker.session(lead.id)?;
    *lead.awaits.lock() = left;
    Some(Member { lead, token })
}

/// Whether what belongs to a session is still at this server (R94).
#[must_use]
pub fn has_members_at(lead: &Entry, home: Option<Rank>) -> bool {
    lead.living_members().iter().any(|member| member.view.lock().server == home)
}

/// A session has come to a server: the others of its group go there as well.
pub fn gather(entry: &Arc<Entry>) {
    let home = |entry: &Entry| {
        let view = entry.view.lock();
        view.server.filter(|_| view.attached)
    };
    let (to, members) = match entry.lead() {
        Some(lead) => (home(&lead), vec![Arc::clone(entry)]),
        None => (home(entry), entry.living_members()),
    };
    for member in members {
        let here = home(&member);
        if to.is_some() && here.is_some() && here != to {
            let (answer, _nobody_asks) = oneshot::channel();
            let _over = member.orders.try_send(Order::Move { to, answer });
        }
    }
}
