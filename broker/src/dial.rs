//! Brings up a link where a session's course wants one.

use std::sync::Arc;
use std::time::Duration;

use stp_net::link::Link;
use stp_proto::course::{Dial, Seek, Target};
use stp_proto::time::Instant;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::any_link::AnyLink;
use crate::around::Surroundings;
use crate::broker::Broker;
use crate::clock::{now, sleep_until};
use crate::far;
use crate::measure;
use crate::relay;
use crate::search::{Reaches, search};

/// How long a link to a server that has just answered may take.
const LINK_MAX: Duration = Duration::from_secs(3);
/// How often it is tried whether the gateway is there, while a home is silent.
const KNOCK_EVERY: Duration = Duration::from_secs(10);

type Found = far::Found<AnyLink>;

fn link(target: Target, link: Link) -> Found {
    Found::Link(target, Box::new(AnyLink::Secured(link)))
}

/// Brings up the link. Dropping the future ends the attempt.
pub async fn dial(around: Surroundings, dial: Dial, pass: Option<Arc<[u8]>>) -> Found {
    match dial {
        Dial::Move(rank) => {
            let reach = &around.entry.service.servers[rank].reach;
            match timeout(LINK_MAX, reach.link()).await {
                Ok(there) => link(Target { rank, via: None }, there),
                Err(_) => Found::Unreached(rank),
            }
        }
        Dial::Turn(target) => {
            let home = &around.entry.service.servers[target.rank];
            let there = match target.via {
                Some(relay) => relay::dial(&around.broker, relay, home, pass).await,
                None => relay::dial_straight(home).await,
            };
            match there {
                Ok(there) => link(target, there),
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
                let (via, there) = relay::rescue(broker, id, &servers[rank], &pass).await;
                link(Target { rank, via: Some(via) }, there)
            }
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        found = searching => match found {
            Ok((rank, there)) => link(Target { rank, via: None }, there),
            Err(gave_up) => Found::NoServer(gave_up),
        },
        found = rescuing => found,
    }
}
