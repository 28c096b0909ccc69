//! FTP at an app's own destination, for the server that a broker runs inside itself.

use std::io;
use std::sync::Arc;

use stp_net::key::PublicKey;
use stp_proto::session::StartAt;
use stp_proto::wire::Connect;

use super::Groups;
use super::open::{Asked, open};
use crate::denial::Denial;
use crate::service::Service;

/// The only client there is: this process.
const CLIENT: PublicKey = PublicKey([0; 32]);

/// Where the login of one app goes, and the data connections of it.
#[derive(Clone, Debug)]
pub struct DirectFtp {
    host: String,
    port: u16,
    groups: Arc<Groups>,
}

impl DirectFtp {
    /// A login at this host and port; its data connections are met in `groups`.
    #[must_use]
    pub fn new(host: String, port: u16, groups: Arc<Groups>) -> Self {
        Self { host, port, groups }
    }

    /// Opens the session that is asked for: a login, or a data connection of one.
    ///
    /// # Errors
    /// When no address of the host takes a connection.
    pub async fn open(&self, connect: &Connect<'_>) -> Result<(Service, StartAt), Denial> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let mut last = Denial::unreachable(&io::ErrorKind::AddrNotAvailable.into());
        for address in found.map_err(|error| Denial::unreachable(&error))? {
            let (belongs, groups) = (connect.belongs, Arc::clone(&self.groups));
            let asked = Asked { address, client: CLIENT, belongs, groups, secret_ports: None };
            match open(asked, &connect.mode, None).await {
                Ok(opened) => return Ok(opened),
                Err(denial) => last = denial,
            }
        }
        Err(last)
    }
}
