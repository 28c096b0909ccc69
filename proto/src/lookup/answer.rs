//! What the directory answers.

use core::net::IpAddr;

use super::MessageError;
use super::field::{Field, FilePath, List, Reader, choice, record};
use super::login::{KdfCost, SALT_BYTES};
use super::message::{decode, encode};
use super::record::{Location, Told};
use crate::name::Name;

/// An answer with the number of its request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The number of the request, or of the watch.
    pub id: u32,
    /// What is answered.
    pub body: Body,
}

choice! {
    /// What is answered.
    pub enum Body {
        /// It could not be done.
        1 => Refused(Refused),
        /// It is done.
        2 => Done(Done),
        /// It exists now, or its lease began anew.
        3 => Created(Created),
        /// GET_EP.
        4 => Endpoint(EndpointFound),
        /// GET_SERVICE.
        5 => Service(ServiceFound),
        /// What is watched has changed; sent unasked, with the number of the watch.
        6 => Changed(Changed),
        /// A server is known.
        7 => Announced(Announced),
        /// A challenge, to prove the password.
        8 => Challenge(Challenge),
        /// The proof is right.
        9 => Welcome(Welcome),
        /// Servers and a ticket.
        10 => Located(Located),
    }
}

/// There is nothing more to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done;

impl Field for Done {
    fn put(&self, _: &mut Vec<u8>) {}

    fn read(_: &mut Reader<'_>, _: &'static str) -> Result<Self, MessageError> {
        Ok(Done)
    }
}

record! {
    /// A lease.
    pub struct Created {
        /// For how long without a renewal; 0: for good.
        pub lease_s: u32,
    }
}

record! {
    /// Where an endpoint is.
    pub struct EndpointFound {
        /// Its addresses.
        pub addresses: List<IpAddr>,
        /// The key that made it.
        pub owner: [u8; 32],
        /// For how long this may be remembered.
        pub fresh_s: u32,
    }
}

record! {
    /// Where a service can be had.
    pub struct ServiceFound {
        /// The places, nearest first.
        pub places: List<Location>,
        /// For how long this may be remembered.
        pub fresh_s: u32,
    }
}

record! {
    /// What is watched, as it is now; neither: it is gone.
    pub struct Changed {
        /// An endpoint.
        pub endpoint: Option<EndpointFound>,
        /// A service.
        pub service: Option<ServiceFound>,
    }
}

record! {
    /// A server is known.
    pub struct Announced {
        /// It must announce itself again within this time.
        pub lease_s: u32,
        /// The directory has no list of files with the announced digest: send it.
        pub files_wanted: bool,
        /// Users whose tickets of before are good for nothing. Each is told once on a link.
        pub revoked: List<Revoked>,
        /// What the directory is.
        pub told: Told,
    }
}

record! {
    /// A user whose password was changed, or who was taken away.
    pub struct Revoked {
        /// Who.
        pub user: String,
        /// What was granted at this second or before it has ended, in seconds since 1970.
        pub until: u64,
    }
}

record! {
    /// A challenge to prove the password. An unknown user gets one as well, always the same.
    pub struct Challenge {
        /// To be signed.
        pub nonce: [u8; 32],
        /// The user's salt.
        pub salt: [u8; SALT_BYTES],
        /// The cost of deriving the keys.
        pub cost: KdfCost,
    }
}

record! {
    /// The user is known from now on, for as long as the link lives.
    pub struct Welcome {
        /// The gateway's clock, in seconds since 1970.
        pub now: u64,
        /// The cluster that its tickets open.
        pub cluster: String,
    }
}

record! {
    /// Servers and a ticket for them.
    pub struct Located {
        /// The service.
        pub service: Name,
        /// The file, in the service's tree.
        pub path: Option<FilePath>,
        /// Its length.
        pub size: u64,
        /// SHA-256 of its content.
        pub sha256: [u8; 32],
        /// The ticket, opaque.
        pub ticket: Vec<u8>,
        /// How long the ticket is good for.
        pub life_s: u32,
        /// [`super::encode_servers`], sealed with the user's list key.
        pub servers: Vec<u8>,
    }
}

record! {
    /// It could not be done.
    pub struct Refused {
        /// The reason, for a program.
        pub why: Refusal,
        /// How long the directory wants to be left alone; 0: it does not say.
        pub retry_after_ms: u32,
        /// The reason in words, for a person.
        pub text: String,
    }
}

/// Why the directory does not do what is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such name, file or server.
    #[error("not found")]
    NotFound,
    /// The name is taken.
    #[error("exists already")]
    Exists,
    /// It is another key's.
    #[error("belongs to another key")]
    NotOwner,
    /// The domain does not allow this key to make names, or is not kept here.
    #[error("not allowed")]
    NotAllowed,
    /// The request makes no sense.
    #[error("bad request")]
    BadRequest,
    /// User and password do not fit, or there is no such user.
    #[error("log-in refused")]
    LoginRefused,
    /// Only users who are logged in may ask this.
    #[error("log in first")]
    NotLoggedIn,
    /// Too many requests; wait.
    #[error("too many requests")]
    TooMany,
    /// A limit of this directory is reached.
    #[error("full")]
    Full,
    /// Nobody serves it now.
    #[error("no server has it")]
    NoServer,
    /// The store cannot be reached.
    #[error("unavailable")]
    Unavailable,
}

const REFUSALS: [Refusal; 11] = [
    Refusal::NotFound,
    Refusal::Exists,
    Refusal::NotOwner,
    Refusal::NotAllowed,
    Refusal::BadRequest,
    Refusal::LoginRefused,
    Refusal::NotLoggedIn,
    Refusal::TooMany,
    Refusal::Full,
    Refusal::NoServer,
    Refusal::Unavailable,
];

impl Refusal {
    /// All of them, in the order of their numbers.
    pub const ALL: [Refusal; 11] = REFUSALS;
}

impl Field for Refusal {
    fn put(&self, out: &mut Vec<u8>) {
        let index = REFUSALS.iter().position(|refusal| refusal == self).expect("all are there");
        out.push(u8::try_from(index + 1).expect("there are eleven"));
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError> {
        let index = usize::from(u8::read(from, name)?).checked_sub(1);
        let refusal = index.and_then(|index| REFUSALS.get(index));
        refusal.copied().ok_or(MessageError::BadValue(name))
    }
}

impl Body {
    /// A refusal with its reason in words.
    #[must_use]
    pub fn refused(why: Refusal, text: impl Into<String>) -> Body {
        Body::Refused(Refused { why, retry_after_ms: 0, text: text.into() })
    }
}

impl Answer {
    /// As a record of a link.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        encode(self.id, &self.body)
    }

    /// Reads a record of a link.
    pub fn decode(bytes: &[u8]) -> Result<Answer, MessageError> {
        let (id, body) = decode(bytes)?;
        Ok(Answer { id, body })
    }
}
