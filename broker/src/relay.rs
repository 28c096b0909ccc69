//! Reaching a session's server through another server of its cluster (PROTOCOL.md R80–R83), when
//! the straight way is congested or dead, and going straight again.
//!
//! A session that no other server can continue stays at its home; what can change is the way there.
//! Any server that the broker knows may be a relay: asked by echo with the home's key, it says how
//! far it is from there, or nothing. A change of the way is a rebind: the new link is complete
//! before the old one is let go. What is decided is decided by [`stp_proto::course`].

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use stp_net::key::PublicKey;
use stp_net::link::Link;
use stp_proto::course::{Measured, PATIENCE, Relay, RescuePauses};
use stp_proto::handle::Handle;
use stp_proto::rise::Way;
use stp_proto::wire::{Connect, ConnectMode, Frame, RelayRequest, VERSION, frames};
use tokio::time::timeout;

use crate::broker::Broker;
use crate::measure::SAME;
use crate::reach::Dialer;
use crate::service::Server;

/// Relays measured at once.
const ASKED_MAX: usize = 8;
/// For a link to the relay, its answer, and the link through it, each.
const STEP_MAX: Duration = Duration::from_secs(3);
/// How often a session that is led through a relay looks at the straight way.
const LOOK_EVERY: Duration = Duration::from_secs(3);

fn key(server: &Server) -> PublicKey {
    server.reach.dialer().key
}

fn relay(server: &Server) -> Relay {
    Relay(key(server).0)
}

/// The way to `home` through `relay`, measured now.
async fn measure(broker: &Broker, relay: &Server, home: &Server) -> Way {
    let (at, home) = (relay.reach.dialer().find(), key(home));
    let distance = broker.relays.distance(key(relay), home);
    distance.measure_through(at, &home, SAME, PATIENCE).await
}

/// The servers that may be a relay to `home`.
fn candidates(broker: &Broker, home: &Server) -> Vec<Arc<Server>> {
    // The ways to relays know nothing of policies.
    if home.reach.dialer().leave.is_some() {
        return Vec::new();
    }
    let now = broker.now();
    let mut others = broker.all_servers();
    others.retain(|server| {
        let pair = (key(server), key(home));
        pair.0 != pair.1 && !broker.relays.refused.lock().contains(now, &pair)
    });
    // Those that led there the last time come first.
    others.sort_by_key(|server| {
        let way = broker.relays.distance(key(server), key(home)).way();
        way.now.unwrap_or(Duration::MAX)
    });
    others
}

/// The relays that lead to `home` now, nearest first.
async fn find(broker: &Broker, home: &Server) -> Vec<(Arc<Server>, Way)> {
    let asked = candidates(broker, home).into_iter().take(ASKED_MAX).map(|server| async move {
        let way = measure(broker, &server, home).await;
        (server, way)
    });
    let mut ways = join_all(asked).await;
    ways.retain(|(_, way)| way.now.is_some());
    ways.sort_by_key(|(_, way)| way.now);
    ways
}

/// A link to `home` through `relay`: to the relay with the pass, and in it one to the home, of
/// which the relay sees nothing.
async fn link(broker: &Broker, relay: &Server, home: &Server, pass: &[u8]) -> Result<Link, String> {
    let name = relay.name();
    let slow = |_| format!("{name} does not answer");
    let mut to_relay = to_relay(relay, home).await?;
    let handle = broker.handle().unwrap_or(Handle([1; 16]));
    let mut frame = Vec::new();
    Connect {
        version: VERSION,
        handle,
        epoch: 1,
        features: 0,
        window: 0,
        service: "",
        endpoint: "",
        mode: ConnectMode::Relay(RelayRequest { home: key(home).0, pass }),
        grant: None,
        rate: None,
        hold: None,
        upkeep: None,
        belongs: Default::default(),
        destination: None,
    }
    .encode(&mut frame);
    to_relay.send(&frame);
    let answered = timeout(STEP_MAX, answer(&mut to_relay));
    let answered = answered.await.map_err(slow)?;
    match answered.map_err(|error| format!("{name}: {error}"))? {
        Ok(()) => {}
        Err((why, retry_after)) => {
            let pair = (key(relay), key(home));
            broker.relays.refused.lock().add(broker.now(), pair, retry_after);
            return Err(format!("{name} does not relay: {why}"));
        }
    }
    let dialer = home.reach.dialer();
    let led = to_relay.through(&dialer.key, &dialer.tls, &dialer.options);
    let led = timeout(STEP_MAX, led).await.map_err(slow)?;
    led.map_err(|error| format!("through {name}: {error}"))
}

/// A link to the relay. A pass is bound to the key of which the home knows the session, so one of
/// an endpoint's goes there with the endpoint's key.
async fn to_relay(relay: &Server, home: &Server) -> Result<Link, String> {
    let name = relay.name();
    let slow = |_| format!("{name} does not answer");
    let (dialer, tls) = (relay.reach.dialer(), &home.reach.dialer().tls);
    if Arc::ptr_eq(&dialer.tls, tls) {
        return timeout(STEP_MAX, relay.reach.link()).await.map_err(slow);
    }
    let dialed = timeout(STEP_MAX, dialer.with_key(tls).dial()).await.map_err(slow)?;
    dialed.map_err(|failure| format!("{name}: {}", failure.why))
}

/// Yes, or why not and when again.
async fn answer(link: &mut Link) -> std::io::Result<Result<(), (String, Duration)>> {
    link.flush().await?;
    loop {
        std::future::poll_fn(|cx| link.poll_readable(cx)).await?;
        let records = match link.try_read() {
            Ok(records) => records,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let strange = || std::io::Error::other("an unexpected answer");
        let Some(record) = records.iter().next() else {
            if records.closed() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            continue;
        };
        return match frames(record).next() {
            Some(Ok(Frame::ConnectOk(_))) => Ok(Ok(())),
            Some(Ok(Frame::ConnectDenied(denied))) => {
                let why = format!("{}: {}", denied.why, denied.text);
                Ok(Err((why, denied.retry_after)))
            }
            _ => Err(strange()),
        };
    }
}

/// How far `home` is straight.
async fn measure_straight(home: &Server) -> Way {
    home.distance.measure(home.reach.dialer().find(), SAME, PATIENCE).await
}

/// The straight way to `home` and those through relays.
pub async fn ways(broker: Arc<Broker>, home: Arc<Server>) -> Vec<Measured<Option<Relay>>> {
    let (straight, through) = tokio::join!(measure_straight(&home), find(&broker, &home));
    let through = through.iter().map(|(server, way)| (Some(relay(server)), *way));
    let all = std::iter::once((None, straight)).chain(through);
    all.map(|(to, way)| Measured { to, way }).collect()
}

/// A look, after a while, at the way through a relay and at the straight one.
pub async fn look(broker: Arc<Broker>, via: Relay, home: Arc<Server>) -> (Way, Way) {
    tokio::time::sleep(LOOK_EVERY).await;
    let present = async {
        match broker.server_with_key(via) {
            Some(relay) => measure(&broker, &relay, &home).await,
            None => Way { now: None, base: None },
        }
    };
    tokio::join!(present, measure_straight(&home))
}

/// A link to `home` straight.
///
/// # Errors
/// Why it cannot be had.
pub async fn dial_straight(home: &Server) -> Result<Link, String> {
    let straight = timeout(STEP_MAX, home.reach.link()).await;
    straight.map_err(|_| format!("{} does not answer", home.name()))
}

/// A link to `home` through a relay.
///
/// # Errors
/// Why it cannot be had.
pub async fn dial(
    broker: &Broker,
    via: Relay,
    home: &Server,
    pass: Option<Arc<[u8]>>,
) -> Result<Link, String> {
    let relay = broker.server_with_key(via).ok_or("the relay is not known any more")?;
    let pass = pass.ok_or("its server has given no pass")?;
    link(broker, &relay, home, &pass).await
}

/// A link through whichever relay gives one, for a session whose server is out of reach. Never ends
/// without one.
pub async fn rescue(
    broker: &Broker,
    session: u64,
    home: &Arc<Server>,
    pass: &[u8],
) -> (Relay, Link) {
    let mut pauses = RescuePauses::default();
    if home.reach.is_open() {
        tokio::time::sleep(RescuePauses::default().next_pause()).await;
    }
    loop {
        let mut relays = find(broker, home).await;
        // Where echo does not pass, asking for a link tells which servers relay.
        let silent = candidates(broker, home).into_iter().take(ASKED_MAX);
        let known: Vec<PublicKey> = relays.iter().map(|(relay, _)| key(relay)).collect();
        let silent = silent.filter(|relay| !known.contains(&key(relay)));
        relays.extend(silent.map(|relay| (relay, Way { now: None, base: None })));
        for (server, _) in relays {
            match link(broker, &server, home, pass).await {
                Ok(link) => return (relay(&server), link),
                Err(why) => tracing::info!(session, why, "no way through a relay"),
            }
        }
        tokio::time::sleep(pauses.next_pause()).await;
    }
}
