//! Sessions that belong together (PROTOCOL.md R90–R94): what a server announces in the stream of
//! one session, the *lead*, is carried out here: a route for a connection that the app will make,
//! or a connection to a listener of the app.
//!
//! Nothing here knows why an app has several connections.

pub mod awaited;
pub mod listener;
pub mod reached;

use std::net::IpAddr;
use std::sync::{Arc, Weak};

use stp_drive::Command;
use stp_proto::handle::Handle;
use stp_proto::select::Rank;
use stp_proto::session::code;
use stp_proto::wire::Announcement;
use tokio::sync::oneshot;

use crate::broker::Broker;
use crate::entry::{Entry, Order};
use awaited::{Awaited, Member, Reach};

/// Carries out what a server has announced in the stream of `lead`.
pub fn announced(broker: &Broker, lead: &Arc<Entry>, announcement: &Announcement) {
    let token = announcement.token();
    let known = lead.members.lock().iter().any(|(member, _)| *member == token);
    match *announcement {
        Announcement::Await { port, token } if !known => wait_for(broker, lead, port, token),
        Announcement::Reach { address, token } if !known => {
            // The place is taken at once: it may be announced again.
            lead.members.lock().push((token, Weak::new()));
            let member = Member { lead: Arc::clone(lead), token };
            let _the_broker_ends = broker.to_reach.sender.send(Reach { member, address });
        }
        Announcement::Await { .. } | Announcement::Reach { .. } => {}
        Announcement::Drop { token } => {
            for member in lead.living_members() {
                if member.lead.as_ref().is_some_and(|(_, own)| *own == token) {
                    let _over = member.inbox.try_send(Command::Abort { code: code::SERVICE });
                }
            }
        }
    }
}

fn wait_for(broker: &Broker, lead: &Arc<Entry>, port: u16, token: Handle) {
    let mut awaited = broker.awaited.lock();
    if awaited.iter().any(|one| one.token == token) {
        return;
    }
    awaited.retain(|one| one.lead_id != lead.id && one.lead.strong_count() > 0);
    awaited.push(Awaited {
        ip: lead.peer.ip().to_canonical(),
        host: lead.host.clone(),
        port,
        token,
        lead: Arc::downgrade(lead),
        lead_id: lead.id,
        pid: lead.app.pid,
    });
    broker.publish(&awaited);
}

/// The member that an app's connection is, if it was announced to this program.
pub fn take_awaited(broker: &Broker, ip: IpAddr, port: u16, pid: i32) -> Option<Member> {
    let mut awaited = broker.awaited.lock();
    let at = awaited.iter().position(|one| (one.ip, one.port, one.pid) == (ip, port, pid))?;
    let Awaited { lead, token, .. } = awaited.remove(at);
    broker.publish(&awaited);
    Some(Member { lead: lead.upgrade()?, token })
}

/// Whether what belongs to a session is still at this server (R94).
#[must_use]
pub fn has_members_at(lead: &Entry, home: Option<Rank>) -> bool {
    lead.living_members().iter().any(|member| member.view.lock().server == home)
}

/// A session has come to a server: the others of its group go there as well.
pub async fn gather(entry: Arc<Entry>) {
    let home = |entry: &Entry| {
        let view = entry.view.lock();
        view.server.filter(|_| view.attached)
    };
    let (to, members) = match entry.lead() {
        Some(lead) => (home(&lead), vec![entry]),
        None => (home(&entry), entry.living_members()),
    };
    for member in members {
        let here = home(&member);
        if to.is_some() && here.is_some() && here != to {
            let (answer, _nobody_asks) = oneshot::channel();
            let _over = member.orders.send(Order::Move { to, answer }).await;
        }
    }
}
