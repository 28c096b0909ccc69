//! What is asked of the directory.

use core::net::{IpAddr, SocketAddr};

use super::field::{FilePath, List, choice, record};
use super::message::{decode, encode};
use super::record::{EndpointName, FileEntry, Protocol, Told, addresses_are_good};
use super::{MessageError, user_is_good};
use crate::name::Name;

/// A request with its number; the answer has the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Chosen by the client.
    pub id: u32,
    /// What is asked.
    pub ask: Ask,
}

choice! {
    /// What is asked. The first eight are those of KTH 3.3.6.
    pub enum Ask {
        /// NEW_EP: an endpoint that does not exist yet.
        1 => NewEndpoint(NewEndpoint),
        /// CHANGE_EP: it is elsewhere now.
        2 => ChangeEndpoint(ChangeEndpoint),
        /// DEL_EP: it is gone, and its services with it.
        3 => DeleteEndpoint(OneEndpoint),
        /// GET_EP: where is it?
        4 => GetEndpoint(OneEndpoint),
        /// NEW_SERVICE: a service at an endpoint of ours.
        5 => NewService(NewService),
        /// CHANGE_SERVICE: it has another port, protocol or key.
        6 => ChangeService(ChangeService),
        /// DEL_SERVICE: it is gone.
        7 => DeleteService(OneService),
        /// GET_SERVICE: where can it be had?
        8 => GetService(OneService),
        /// The endpoint lives; its lease, and that of its services, begins anew.
        9 => Renew(OneEndpoint),
        /// Tell me whenever what GET_EP or GET_SERVICE would answer changes.
        10 => Watch(OneName),
        /// The end of a watch.
        11 => Unwatch(Unwatch),
        /// A server tells that it is there, and what it offers. Sent again to renew the lease.
        12 => Announce(Announce),
        /// A part of the list of files a server holds.
        13 => Files(Files),
        /// Somebody wants to be known to the gateway.
        14 => Login(Login),
        /// The answer to the gateway's challenge.
        15 => Prove(Prove),
        /// Which servers have it, and a ticket for them.
        16 => Locate(Locate),
    }
}

record! {
    /// NEW_EP.
    pub struct NewEndpoint {
        /// Its name.
        pub name: EndpointName,
        /// Where it is.
        pub addresses: List<IpAddr>,
        /// For how long without a renewal; 0: until it is deleted.
        pub lease_s: u32,
    }
}

record! {
    /// CHANGE_EP.
    pub struct ChangeEndpoint {
        /// Its name.
        pub name: EndpointName,
        /// Where it is now.
        pub addresses: List<IpAddr>,
    }
}

record! {
    /// DEL_EP, GET_EP, a renewal.
    pub struct OneEndpoint {
        /// Its name.
        pub name: EndpointName,
    }
}

record! {
    /// NEW_SERVICE. It lives as long as its endpoint.
    pub struct NewService {
        /// Its name.
        pub name: Name,
        /// Where it listens at the endpoint's addresses.
        pub port: u16,
        /// How it is spoken to.
        pub protocol: Protocol,
        /// The key it shows.
        pub key: [u8; 32],
    }
}

record! {
    /// CHANGE_SERVICE.
    pub struct ChangeService {
        /// Its name.
        pub name: Name,
        /// Where it listens now.
        pub port: u16,
        /// How it is spoken to.
        pub protocol: Protocol,
        /// The key it shows.
        pub key: [u8; 32],
    }
}

record! {
    /// DEL_SERVICE, GET_SERVICE.
    pub struct OneService {
        /// Its name.
        pub name: Name,
    }
}

record! {
    /// A service or an endpoint to be watched.
    pub struct OneName {
        /// Its name, `service.object@domain` or `object@domain`.
        pub name: String,
        /// Whether it is an endpoint.
        pub endpoint: bool,
    }
}

record! {
    /// The end of a watch.
    pub struct Unwatch {
        /// The number of the request that began it.
        pub watch: u32,
    }
}

record! {
    /// A server, what it offers and where. Its key is the one it has proved.
    pub struct Announce {
        /// What it is called in the cluster.
        pub server: String,
        /// Where it listens.
        pub addresses: List<SocketAddr>,
        /// The services it offers.
        pub services: List<Name>,
        /// SHA-256 over its list of files; tells whether the directory has the same list.
        pub inventory: [u8; 32],
        /// What it is, to be compared with the others of the cluster.
        pub told: Told,
    }
}

record! {
    /// A part of a server's list of files. The parts of one list follow each other; the last one
    /// makes it the list that holds.
    pub struct Files {
        /// The server, as announced.
        pub server: String,
        /// The service whose tree this is.
        pub service: Name,
        /// It begins a new list.
        pub first: bool,
        /// It ends it.
        pub last: bool,
        /// The digest of the whole list, as announced.
        pub inventory: [u8; 32],
        /// The files.
        pub files: List<FileEntry>,
    }
}

record! {
    /// The beginning of a log-in.
    pub struct Login {
        /// The user's name.
        pub user: String,
    }
}

record! {
    /// The proof (see [`super::login_statement`]).
    pub struct Prove {
        /// Ed25519 over the statement, by the key derived from the password.
        pub signature: [u8; 64],
    }
}

record! {
    /// A service, or a file in the user's tree.
    pub struct Locate {
        /// The service; none: whichever has the file.
        pub service: Option<Name>,
        /// The file; none: the service as a whole.
        pub path: Option<FilePath>,
        /// The first byte wanted of it.
        pub from: u64,
    }
}

impl Request {
    /// As a record of a link.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        encode(self.id, &self.ask)
    }

    /// Reads a record of a link.
    pub fn decode(bytes: &[u8]) -> Result<Request, MessageError> {
        let (id, ask) = decode(bytes)?;
        check(&ask)?;
        Ok(Request { id, ask })
    }
}

/// What the types of the fields do not say.
fn check(ask: &Ask) -> Result<(), MessageError> {
    let port = |port: u16| if port == 0 { Err(MessageError::BadValue("port")) } else { Ok(()) };
    let addresses = |addresses: &[IpAddr]| match addresses_are_good(addresses) {
        true => Ok(()),
        false => Err(MessageError::BadValue("addresses")),
    };
    match ask {
        Ask::NewEndpoint(new) => addresses(&new.addresses),
        Ask::ChangeEndpoint(change) => addresses(&change.addresses),
        Ask::NewService(new) => port(new.port),
        Ask::ChangeService(change) => port(change.port),
        Ask::Login(login) if !user_is_good(&login.user) => Err(MessageError::BadValue("user")),
        Ask::Locate(locate) if locate.service.is_none() && locate.path.is_none() => {
            Err(MessageError::BadValue("path"))
        }
        _ => Ok(()),
    }
}
