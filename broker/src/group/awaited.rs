//! Members that are to be begun, and the way from where one is announced to where it is begun.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use stp_proto::handle::Handle;
use tokio::sync::mpsc;

use crate::entry::Entry;

/// A member that is to be begun.
pub struct Member {
    /// The session it belongs to.
    pub lead: Arc<Entry>,
    /// Its token.
    pub token: Handle,
}

impl Member {
    /// This is it: in place of any before with the same token.
    pub fn has_begun(self, entry: &Arc<Entry>) {
        let mut members = self.lead.members.lock();
        members.retain(|(other, _)| *other != self.token);
        members.push((self.token, Arc::downgrade(entry)));
    }
}

/// A listener of an app that is to be reached.
pub struct Reach {
    /// Whose it is.
    pub member: Member,
    /// Where the app listens, as its server says.
    pub address: SocketAddr,
}

/// The way from where a listener is announced to where sessions are begun.
pub struct ToReach {
    /// The one end.
    pub sender: mpsc::UnboundedSender<Reach>,
    /// The other, until somebody takes it.
    pub receiver: Mutex<Option<mpsc::UnboundedReceiver<Reach>>>,
}

impl Default for ToReach {
    fn default() -> ToReach {
        let (sender, receiver) = mpsc::unbounded_channel();
        ToReach { sender, receiver: Mutex::new(Some(receiver)) }
    }
}
