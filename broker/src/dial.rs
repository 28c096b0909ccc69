//! Brings up a link where a session's course wants one.

use std::sync::Arc;
use std::time::Duration;

use stp_net::link::Link;
use stp_proto::course::{Dial, GaveUp, Seek, Target};
use stp_proto::select::Rank;
use stp_proto::time::Instant;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::around::Surroundings;
use crate::broker::Broker;
use crate::clock::{now, sleep_until};
use crate::measure;
use crate::relay;
use crate::search::{Reaches, search};

/// How long a link to a server that has just answered may take.
const LINK_MAX: Duration = Duration::from_secs(3);
/// How often it is tried whether the gateway is there, while a home is silent.
const KNOCK_EVERY: Duration = Duration::from_secs(10);

/// What a dial has come to.
pub enum Found {
    /// A link.
    Link(Target, Box<Link>),
    /// The server to which a move was decided gave none in time.
    Unreached(Rank),
    /// There is none by the way that was decided; says why.
    NoTurn(String),
    /// No server could be had at all.
    NoServer(GaveUp),
}

/// Brings up the link. Dropping the future ends the attempt.
pub async fn dial(around: Surroundings, dial: Dial, pass: Option<Arc<[u8]>>) -> Found {
    match dial {
        Dial::Move(rank) => {
            let reach = &around.entry.service.servers[rank].reach;
            match timeout(LINK_MAX, reach.link()).await {
                Ok(link) => Found::Link(Target { rank, via: None }, Box::new(link)),
                Err(_) => Found::Unreached(rank),
            }
        }
        Dial::Turn(target) => {
            let home = &around.entry.service.servers[target.rank];
            let link = match target.via {
                Some(relay) => relay::dial(&around.broker, relay, home, pass).await,
                None => relay::dial_straight(home).await,
            };
            match link {
                Ok(link) => Found::Link(target, Box::new(link)),
                Err(why) => Found::NoTurn(why),
            }
        }
        Dial::Search(seek) => seek_link(&around, &seek, pass).await,
    }
}

/// Waits until the gateway takes a connection, from `from` on; for ever without one.
async fn gateway_answers(broker: &Broker, from: Option<Instant>) {
    let places = broker.directory.gateway_places();
    if from.is_none() || places.is_empty() {
        return std::future::pending().await;
    }
    sleep_until(from).await;
    loop {
        for place in &places {
            let connecting = TcpStream::connect((place.host.as_str(), place.port));
            if matches!(timeout(LINK_MAX, connecting).await, Ok(Ok(_))) {
                return;
            }
        }
        tokio::time::sleep(KNOCK_EVERY).await;
    }
}

/// A link wherever it can be had.
async fn seek_link(around: &Surroundings, seek: &Seek, pass: Option<Arc<[u8]>>) -> Found {
    let (broker, servers) = (&around.broker, &around.entry.service.servers);
    measure::before_first_choice(servers, &seek.measured_first(now(), around)).await;
    let ways = Reaches(servers.iter().map(|server| Arc::clone(&server.reach)).collect());
    let wanted = seek.wanted(now(), around);
    let elsewhere = gateway_answers(broker, wanted.witness_at());
    let searching = search(ways, &broker.news, wanted, elsewhere);
    // A session that can go on nowhere else may be led to its home.
    let home = seek.home().filter(|_| seek.is_bound_to_home());
    let rescuing = async {
        match (home, pass) {
            (Some(rank), Some(pass)) => {
                let id = around.entry.id;
                let (via, link) = relay::rescue(broker, id, &servers[rank], &pass).await;
                Found::Link(Target { rank, via: Some(via) }, Box::new(link))
            }
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        found = searching => match found {
            Ok((rank, link)) => Found::Link(Target { rank, via: None }, Box::new(link)),
            Err(gave_up) => Found::NoServer(gave_up),
        },
        found = rescuing => found,
    }
}
