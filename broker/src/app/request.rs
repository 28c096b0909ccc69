//! What the broker is asked for, one value per question.

use std::net::{IpAddr, SocketAddr};

use stp_proto::local::Cookie;
use stp_proto::local::wire::{self, Accepted, Act, Passed, Resolved};
use stp_proto::state::State;
use tokio::sync::{oneshot, watch};

use super::{AppInfo, AppSocket};

/// A question of an app that the broker must decide; the others are answered by the listener.
#[derive(Debug)]
pub enum Request {
    /// A connect to a routed destination.
    Open(AppSocket),
    /// A socket that the broker before this one had, and did not end.
    Found(AppSocket),
    /// A name that is routed, or one of ours.
    Resolve(ResolveRequest),
    /// The name behind a virtual address.
    Name(NameRequest),
    /// A routed connect went to the kernel; nothing is to be answered.
    Passed(PassedConnect),
    /// A connection that the app has accepted from this machine.
    Accepted(AcceptedRequest),
    /// A program wants something of a session of its own.
    Act(ActRequest),
    /// A program wants to know what the ends of a session of its own are called.
    Names(OfSession<Names>),
    /// A program wants to see the state of a session of its own change.
    Watch(OfSession<States>),
    /// What a program writes may be unacknowledged for so many milliseconds; 0: as long as it must.
    UserTimeout(Cookie, u32),
}

/// What a program wants of a session of its own.
#[derive(Debug)]
pub struct ActRequest {
    /// Which session.
    pub cookie: Cookie,
    /// What is to be done to it.
    pub act: Act,
    pub(super) reply: oneshot::Sender<Option<Told>>,
}

/// A question about a session, answered with nothing when there is no such session.
#[derive(Debug)]
pub struct OfSession<T> {
    /// Which session.
    pub cookie: Cookie,
    pub(super) reply: oneshot::Sender<Option<T>>,
}

impl<T> OfSession<T> {
    /// Answers.
    pub fn answer(self, answer: Option<T>) {
        let _nobody_waits = self.reply.send(answer);
    }
}

/// The states of a session, as they change.
pub type States = watch::Receiver<Option<State>>;

/// What the ends of a session are called.
#[derive(Debug, Default)]
pub struct Names {
    /// The service at the other end.
    pub service: String,
    /// The server that has the session.
    pub server: String,
    /// This end's endpoint; empty for none.
    pub endpoint: String,
}

/// How a session fares.
#[derive(Debug)]
pub struct Told {
    /// All but the server's name.
    pub told: wire::Told<'static>,
    /// That name.
    pub server: String,
}

impl ActRequest {
    /// Answers, with nothing when there is no such session.
    pub fn answer(self, told: Option<Told>) {
        let _nobody_waits = self.reply.send(told);
    }
}

/// A routed connect that went to the kernel.
#[derive(Debug)]
pub struct PassedConnect {
    /// Whose it is.
    pub info: AppInfo,
    /// Where it went, and why no session carries it.
    pub passed: Passed,
}

/// A name to be turned into a virtual address. Dropped without an answer it says "try again".
#[derive(Debug)]
pub struct ResolveRequest {
    /// The host name as the app wrote it.
    pub host: String,
    /// The port it is wanted for, where the app said one.
    pub port: Option<u16>,
    /// Who wants it.
    pub info: AppInfo,
    pub(super) reply: oneshot::Sender<Resolved>,
}

impl ResolveRequest {
    /// Answers. Whether anybody still waits for it does not matter.
    pub fn answer(self, resolved: Resolved) {
        let _nobody_waits = self.reply.send(resolved);
    }
}

/// A virtual address whose name is wanted: the app connects to a port that is not routed.
#[derive(Debug)]
pub struct NameRequest {
    /// The virtual address.
    pub address: IpAddr,
    pub(super) reply: oneshot::Sender<Option<String>>,
}

impl NameRequest {
    /// Answers, with nothing when the address was never given out.
    pub fn answer(self, host: Option<String>) {
        let _nobody_waits = self.reply.send(host);
    }
}

/// A connection that the app has accepted, and wants to know the peer of.
#[derive(Debug)]
pub struct AcceptedRequest {
    /// Its ends.
    pub accepted: Accepted,
    pub(super) reply: oneshot::Sender<Option<SocketAddr>>,
}

impl AcceptedRequest {
    /// Answers, with nothing when it is as the kernel says.
    pub fn answer(self, peer: Option<SocketAddr>) {
        let _nobody_waits = self.reply.send(peer);
    }
}
