//! Reaching a session's server through another server of its cluster (PROTOCOL.md
//! R80–R83), when the straight way is congested or dead, and going straight again.
//!
//! A session that no other server can continue stays at its home; what can change is the way there.
//! Any server that the broker knows may be a relay: asked by echo with the home's key, it says how
//! far it is from there, or nothing. A change of the way is a rebind: the new link is complete before
//! the old one is let go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stp_drive::Command;
use stp_net::key::PublicKey;
use stp_net::link::Link;
use stp_proto::handle::Handle;
use stp_proto::rise::{self, Margin, Way};
use stp_proto::select::{GRACE, Overloaded};
use stp_proto::wire::{Connect, ConnectMode, Frame, RelayRequest, TransferReason, VERSION, frames};
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::distance::Distance;
use crate::entry::Entry;
use crate::moves::{self, PATIENCE, SAME};
use crate::service::Server;

/// Relays measured at once.
const ASKED_MAX: usize = 8;
/// For a link to the relay, its answer, and the link through it, each.
const STEP_MAX: Duration = Duration::from_secs(3);
/// A session whose server is out of reach looks again for a relay after so long, at most.
const AGAIN_MAX: Duration = Duration::from_secs(5);
/// How often a session that is led through a relay looks at the straight way.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// So many looks must agree that it is good again.
const LOOKS: u32 = 2;

/// A change of the way that was decided.
#[derive(Clone)]
pub struct Turn {
    /// Through which server; none: straight.
    pub via: Option<Arc<Server>>,
    /// Why, for the history.
    pub why: String,
    /// For the sake of speed: there is none for a while after it.
    pub congested: bool,
}

/// What the broker knows of ways through relays, by the keys of relay and home.
#[derive(Default)]
pub struct Relays {
    ways: Mutex<BTreeMap<(PublicKey, PublicKey), Arc<Distance>>>,
    refused: Mutex<Overloaded<(PublicKey, PublicKey)>>,
}

impl Relays {
    fn distance(&self, relay: PublicKey, home: PublicKey) -> Arc<Distance> {
        Arc::clone(self.ways.lock().entry((relay, home)).or_default())
    }

    /// The network has changed: what was measured is of other paths.
    pub fn forget(&self) {
        self.ways.lock().clear();
    }
}

fn key(server: &Server) -> PublicKey {
    server.reach.dialer().key
}

/// The session's home.
fn home(entry: &Entry) -> Option<Arc<Server>> {
    let rank = entry.course.lock().choice.home()?;
    Some(Arc::clone(&entry.service.servers[rank]))
}

/// The way to `home` through `relay`, measured now.
async fn measure(broker: &Broker, relay: &Server, home: &Server) -> Way {
    let (address, home) = (relay.reach.dialer().address(), key(home));
    let distance = broker.relays.distance(key(relay), home);
    distance.measure_through(address, &home, SAME, PATIENCE).await
}

/// Who may be a relay to `home`.
fn candidates(broker: &Broker, home: &Server) -> Vec<Arc<Server>> {
    let now = broker.now();
    let mut others = broker.all_servers();
    others.retain(|server| {
        let pair = (key(server), key(home));
        pair.0 != pair.1 && !broker.relays.refused.lock().contains(now, &pair)
    });
    // Those that were there the last time first.
    others.sort_by_key(|server| {
        let way = broker.relays.distance(key(server), key(home)).way();
        way.now.unwrap_or(Duration::MAX)
    });
    others
}

/// The relays that lead to `home` now, nearest first.
async fn find(broker: &Arc<Broker>, home: &Arc<Server>) -> Vec<(Arc<Server>, Way)> {
    let mut asked = JoinSet::new();
    for server in candidates(broker, home).into_iter().take(ASKED_MAX) {
        let (broker, home) = (Arc::clone(broker), Arc::clone(home));
        asked.spawn(async move {
            let way = measure(&broker, &server, &home).await;
            (server, way)
        });
    }
    let mut ways = asked.join_all().await;
    ways.retain(|(_, way)| way.now.is_some());
    ways.sort_by_key(|(_, way)| way.now);
    ways
}

/// A link to `home` through `relay`: to the relay with the pass, and in it one to the home, of
/// which the relay sees nothing.
async fn link(broker: &Broker, relay: &Server, home: &Server, pass: &[u8]) -> Result<Link, String> {
    let name = relay.name();
    let slow = |_| format!("{name} does not answer");
    let mut to_relay = tokio::time::timeout(STEP_MAX, relay.reach.link()).await.map_err(slow)?;
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
        belongs: Default::default(),
    }
    .encode(&mut frame);
    to_relay.send(&frame);
    let answered = tokio::time::timeout(STEP_MAX, answer(&mut to_relay));
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
    let led = tokio::time::timeout(STEP_MAX, led).await.map_err(slow)?;
    led.map_err(|error| format!("through {name}: {error}"))
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

/// Decides whether a session that cannot go to another server takes another way to its own.
pub async fn decide(broker: Arc<Broker>, entry: Arc<Entry>, text: String) {
    let decided = choose(&broker, &entry).await;
    entry.course.lock().deciding = false;
    match decided {
        Ok((via, numbers)) => {
            let why = format!("{}: {text}; {numbers}", TransferReason::Congested);
            turn(&entry, Turn { via, why, congested: true }).await;
        }
        Err(why) => {
            let received = entry.status.snapshot().positions.rcv;
            moves::stay(&entry, TransferReason::NobodyBetter, why, received).await;
        }
    }
}

/// Another way and the numbers, or why it is none.
async fn choose(
    broker: &Arc<Broker>,
    entry: &Entry,
) -> Result<(Option<Arc<Server>>, String), String> {
    let home = home(entry).ok_or("it has no server now")?;
    let via = {
        let course = entry.course.lock();
        if let Some(left) = course.cool.left(broker.now()) {
            return Err(format!(
                "changed its way lately: not for another {} s",
                left.as_secs() + 1
            ));
        }
        course.via.clone()
    };
    let address = home.reach.dialer().address();
    let (straight, through) =
        tokio::join!(home.distance.measure(address, SAME, PATIENCE), find(broker, &home));
    let mut ways = vec![(None, straight)];
    ways.extend(through.into_iter().map(|(server, way)| (Some(server), way)));
    let is_present = |way: &Option<Arc<Server>>| match (way, &via) {
        (None, None) => true,
        (Some(one), Some(other)) => key(one) == key(other),
        _ => false,
    };
    let here = ways.iter().find(|(way, _)| is_present(way)).map(|(_, way)| *way);
    let here = here.unwrap_or(Way { now: None, base: None });
    let mut said = vec![format!("{} {}", name(via.as_ref()), moves::numbers(here))];
    let mut best: Option<(Option<Arc<Server>>, Way)> = None;
    for (to, way) in ways.into_iter().filter(|(to, _)| !is_present(to)) {
        let numbers = format!("{} {}", name(to.as_ref()), moves::numbers(way));
        match rise::better(here, way, &Margin::default()) {
            Ok(()) => {
                said.push(numbers);
                if best.as_ref().is_none_or(|(_, found)| way.now < found.now) {
                    best = Some((to, way));
                }
            }
            Err(why) => said.push(format!("{numbers}: {why}")),
        }
    }
    let numbers = said.join(", ");
    match best {
        Some((to, _)) => Ok((to, numbers)),
        None if said.len() == 1 => Err(format!("no server relays to it: {numbers}")),
        None => Err(numbers),
    }
}

fn name(via: Option<&Arc<Server>>) -> String {
    via.map_or_else(|| "straight".to_owned(), |via| format!("through {}", via.name()))
}

/// The session takes another way to its server.
async fn turn(entry: &Entry, turn: Turn) {
    tracing::info!(session = entry.id, to = name(turn.via.as_ref()), why = turn.why, "turns");
    entry.course.lock().turn = Some(turn);
    let _ended = entry.inbox.send(Command::Retry).await;
}

/// The link of a change that was decided; the old one goes on until it is there.
///
/// # Errors
/// Why it cannot be had.
pub async fn dial_turn(broker: &Broker, entry: &Entry, turn: &Turn) -> Result<Link, String> {
    let home = home(entry).ok_or("it has no server now")?;
    let Some(relay) = &turn.via else {
        let straight = tokio::time::timeout(STEP_MAX, home.reach.link()).await;
        return straight.map_err(|_| format!("{} does not answer", home.name()));
    };
    let pass = entry.course.lock().pass.clone().ok_or("its server has given no pass")?;
    link(broker, relay, &home, &pass).await
}

/// A link through whichever relay gives one, for a session whose server is out of reach. Never ends
/// without one.
pub async fn rescue(broker: &Arc<Broker>, entry: &Entry) -> (Arc<Server>, Link) {
    let Some((home, pass)) = home(entry).zip(entry.course.lock().pass.clone()) else {
        return std::future::pending().await;
    };
    if home.reach.is_open() {
        tokio::time::sleep(GRACE / 2).await;
    }
    let mut pause = GRACE / 2;
    loop {
        let mut relays = find(broker, &home).await;
        // Where echo does not pass, asking for a link tells who relays.
        let silent = candidates(broker, &home).into_iter().take(ASKED_MAX);
        let known: Vec<PublicKey> = relays.iter().map(|(relay, _)| key(relay)).collect();
        let silent = silent.filter(|relay| !known.contains(&key(relay)));
        relays.extend(silent.map(|relay| (relay, Way { now: None, base: None })));
        for (relay, _) in relays {
            match link(broker, &relay, &home, &pass).await {
                Ok(link) => return (relay, link),
                Err(why) => tracing::info!(session = entry.id, why, "no way through a relay"),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN_MAX);
    }
}

/// Looks after a session that is led through a relay, until it goes straight again or has ended.
pub async fn watch(broker: Arc<Broker>, entry: Arc<Entry>) {
    let mut agreed = 0;
    let mut said = None;
    loop {
        tokio::select! {
            () = entry.inbox.closed() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let (via, attached, cool) = {
            let mut course = entry.course.lock();
            course.watched = course.via.is_some();
            (course.via.clone(), course.attached, course.cool.left(broker.now()))
        };
        let Some(via) = via else { return };
        let Some(home) = home(&entry).filter(|_| attached) else { continue };
        let address = home.reach.dialer().address();
        let (present, straight) = tokio::join!(
            measure(&broker, &via, &home),
            home.distance.measure(address, SAME, PATIENCE)
        );
        let judged = rise::straight_again(present, straight, &Margin::default());
        agreed = if judged.is_ok() { agreed + 1 } else { 0 };
        let numbers = format!(
            "{} {}, straight {}",
            name(Some(&via)),
            moves::numbers(present),
            moves::numbers(straight)
        );
        if let Err(why) = judged {
            // Once for every reason: it looks often.
            if said != Some(why) {
                let received = entry.status.snapshot().positions.rcv;
                entry.record("stays", format!("{numbers}: {why}"), received);
            }
            said = Some(why);
        }
        let busy = {
            let course = entry.course.lock();
            course.deciding || course.turn.is_some()
        };
        if agreed >= LOOKS && cool.is_none() && !busy {
            agreed = 0;
            let why = format!("the straight way is good again: {numbers}");
            turn(&entry, Turn { via: None, why, congested: false }).await;
        }
    }
}
