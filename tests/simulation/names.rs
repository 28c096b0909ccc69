//! Those that ask the directory: servers that announce themselves (`server/src/lookup.rs`), the
//! owner of an endpoint, and the broker, which looks names up and follows servers that move
//! (`broker/src/lookup.rs`). They use links that die silently; an end notices that only when it
//! sends something.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use stp_proto::lookup::{
    Announce, Answer, Ask, Body, ChangeEndpoint, NewEndpoint, NewService, OneEndpoint, OneName,
    OneService, Protocol, Refusal, Request, ServiceFound, Told,
};
use stp_proto::profile::Profile;
use stp_proto::select::Rank;
use stp_proto::time::Instant;

use crate::directory::{Asker, Directory, FILES, HOST, server_key, server_name};
use crate::plan::Work;
use crate::world::{Ev, World};

const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The kernel gives a link up that takes this long to deliver.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
const DIAL_MAX: Duration = Duration::from_secs(4);
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(15);
const FOLLOW_AGAIN: Duration = Duration::from_secs(1);
const FOLLOW_LOOK: Duration = Duration::from_secs(30);
const STALE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The purpose of a request.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Want {
    /// To announce the client itself.
    Told,
    /// A name, for apps that wait.
    Find(ServiceNumber),
    Watch(ServiceNumber),
    Refresh(ServiceNumber),
}

/// The service, by number: files, host.
type ServiceNumber = usize;

fn service_of(work: Work) -> usize {
    match work {
        Work::Http { .. } => 0,
        Work::Tcp => 1,
    }
}

fn name_of(service: usize) -> &'static str {
    [FILES, HOST][service]
}

/// A client of the directory.
#[derive(Default)]
struct Asking {
    line: Option<u64>,
    calling: bool,
    next: u32,
    pending: BTreeMap<u32, Want>,
    /// Requests that wait for a link.
    queue: Vec<(Ask, Want)>,
    watches: BTreeMap<u32, ServiceNumber>,
    /// How long a server waits after an announcement that failed.
    wait: Duration,
}

/// What the owner of the endpoint has done so far.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Owned {
    Nothing,
    Endpoint,
    Service(SocketAddr),
}

/// What the broker found.
struct Kept {
    at: Instant,
    fresh: Duration,
    servers: Vec<(Rank, SocketAddr)>,
}

/// What the broker knows of a service.
#[derive(Default)]
struct Known {
    kept: Option<Kept>,
    /// Sessions that wait for it.
    waiting: Vec<u64>,
    following: bool,
    /// The link that it is watched over.
    watched: Option<u64>,
}

/// The directory and all its clients.
pub struct Names {
    pub directory: Directory,
    askers: BTreeMap<Asker, Asking>,
    owned: Owned,
    known: [Known; 2],
    swept_at: Option<Instant>,
    /// Where servers are.
    pub addresses: Vec<SocketAddr>,
    moves: u8,
}

impl Names {
    pub fn new(now: Instant, servers: usize, lease_s: u32) -> Names {
        let all = (0..servers).map(Asker::Server).chain([Asker::Broker, Asker::Owner]);
        let asking = |asker| (asker, Asking { wait: RETRY_MIN, ..Asking::default() });
        let mut names = Names {
            directory: Directory::new(now, servers, lease_s),
            askers: all.map(asking).collect(),
            owned: Owned::Nothing,
            known: Default::default(),
            swept_at: None,
            addresses: Vec::new(),
            moves: 0,
        };
        names.addresses = (0..servers).map(|server| names.address(server)).collect();
        names
    }

    fn address(&self, server: usize) -> SocketAddr {
        let ip = IpAddr::from([10, 0, u8::try_from(server).expect("a few"), self.moves + 1]);
        SocketAddr::new(ip, 4433)
    }

    /// A server is elsewhere.
    pub fn moved(&mut self, server: usize) {
        self.moves = self.moves.wrapping_add(1) % 200;
        self.addresses[server] = self.address(server);
    }

    fn asking(&mut self, asker: Asker) -> &mut Asking {
        self.askers.get_mut(&asker).expect("all are listed")
    }
}

impl World {
    fn names(&mut self) -> &mut Names {
        self.names.as_mut().expect("only where there is a directory")
    }

    /// Where a server is, and where the broker thinks it is.
    pub fn is_known(&self, rank: Rank, dialed: Option<SocketAddr>) -> bool {
        self.names.as_ref().is_none_or(|names| dialed == Some(names.addresses[rank]))
    }

    /// All begin.
    pub fn begin_names(&mut self) {
        for server in 0..self.servers.len() {
            self.at(self.now, Ev::Tell(Asker::Server(server)));
        }
        self.at(self.now, Ev::Tell(Asker::Owner));
    }

    fn place(&mut self, asker: Asker) -> SocketAddr {
        let address = self.net().address;
        match asker {
            Asker::Broker => {
                let [high, low] = u16::try_from(address % 60_000).expect("less").to_be_bytes();
                SocketAddr::new(IpAddr::from([10, 1, high, low]), 1)
            }
            Asker::Server(server) => self.names().addresses[server],
            Asker::Owner => SocketAddr::new(self.names().addresses[0].ip(), 22),
        }
    }

    /// When something that is sent now arrives; never, if that takes too long.
    fn delivery(&mut self, asker: Asker) -> Option<Instant> {
        let until = match asker {
            Asker::Broker => Instant::default(),
            Asker::Server(server) => self.net().down_until[server],
            Asker::Owner => self.net().down_until[0],
        };
        let until = until.max(self.names().directory.down_until);
        let delay = self.random.millis(1, 100);
        if until <= self.now {
            return Some(self.now + delay);
        }
        (until - self.now < USER_TIMEOUT).then_some(until + delay)
    }

    // The askers' side.

    fn ask_directory(&mut self, asker: Asker, ask: Ask, want: Want) {
        let place = self.place(asker);
        let asking = self.names().asking(asker);
        let Some(line) = asking.line else {
            asking.queue.push((ask, want));
            return self.call(asker);
        };
        asking.next += 1;
        let id = asking.next;
        asking.pending.insert(id, want);
        let bytes = Request { id, ask }.encode().expect("a short request");
        self.after(ANSWER_MAX, Ev::Unanswered(asker, id));
        let leads = self.names().directory.leads(line, place);
        match self.delivery(asker).filter(|_| leads) {
            Some(at) => self.at(at, Ev::Request(line, bytes)),
            None => self.after(USER_TIMEOUT, Ev::LineLost(asker, line)),
        }
    }

    fn call(&mut self, asker: Asker) {
        if std::mem::replace(&mut self.names().asking(asker).calling, true) {
            return;
        }
        let place = self.place(asker);
        match self.delivery(asker) {
            Some(at) if at - self.now < DIAL_MAX => self.at(at, Ev::Called(asker, Some(place))),
            _ => self.after(DIAL_MAX, Ev::Called(asker, None)),
        }
    }

    /// A link to the directory is there, or not.
    pub fn called(&mut self, asker: Asker, from: Option<SocketAddr>) {
        let place = self.place(asker);
        let names = self.names();
        names.asking(asker).calling = false;
        let from = from.filter(|from| *from == place);
        let line = from.and_then(|from| names.directory.connect(asker, from));
        names.asking(asker).line = line;
        let queue = std::mem::take(&mut names.asking(asker).queue);
        self.say(|_| format!("{asker:?} has link {line:?} to the directory"));
        for (ask, want) in queue {
            match line {
                Some(_) => self.ask_directory(asker, ask, want),
                None => self.failed(asker, want),
            }
        }
    }

    /// The kernel gives a link up.
    pub fn line_lost(&mut self, asker: Asker, line: u64) {
        let asking = self.names().asking(asker);
        if asking.line != Some(line) {
            return;
        }
        asking.line = None;
        asking.watches.clear();
        let pending = std::mem::take(&mut asking.pending);
        self.names().directory.hang_up(line);
        pending.into_values().for_each(|want| self.failed(asker, want));
        if asker != Asker::Broker {
            return;
        }
        for service in 0..2 {
            if self.names().known[service].watched.take().is_some() {
                self.after(FOLLOW_AGAIN, Ev::Follow(service));
            }
        }
    }

    pub fn unanswered(&mut self, asker: Asker, id: u32) {
        if let Some(want) = self.names().asking(asker).pending.remove(&id) {
            self.failed(asker, want);
        }
    }

    /// Something came from the directory.
    pub fn told(&mut self, asker: Asker, line: u64, bytes: &[u8]) {
        let asking = self.names().asking(asker);
        if asking.line != Some(line) {
            return;
        }
        let Answer { id, body } = Answer::decode(bytes).expect("the directory writes well");
        if let Body::Changed(_) = body {
            if let Some(service) = asking.watches.get(&id).copied() {
                self.refresh(service);
            }
            return;
        }
        let Some(want) = asking.pending.remove(&id) else { return };
        if let Want::Watch(service) = want {
            asking.watches.insert(id, service);
        }
        self.say(|_| format!("{asker:?} hears of {want:?}: {body:?}"));
        match (want, body) {
            (Want::Told, body) => self.heard(asker, &body),
            (Want::Watch(service), Body::Done(_)) => {
                self.names().known[service].watched = Some(line);
                self.refresh(service);
                self.after(FOLLOW_LOOK, Ev::Follow(service));
            }
            (Want::Find(service), Body::Service(found)) => self.found_name(service, &found),
            (Want::Refresh(service), Body::Service(found)) => self.keep_name(service, &found),
            (Want::Find(service), _) => self.apps_try_again(service),
            (Want::Refresh(_), _) => {}
            (want, _) => self.failed(asker, want),
        }
    }

    fn failed(&mut self, asker: Asker, want: Want) {
        match want {
            Want::Told => {
                let wait = self.names().asking(asker).wait;
                self.names().asking(asker).wait = (wait * 2).min(RETRY_MAX);
                self.after(wait, Ev::Tell(asker));
            }
            Want::Find(service) => {
                let now = self.now;
                let known = &mut self.names().known[service];
                match &known.kept {
                    Some(kept) if now - kept.at < STALE_MAX => self.begin_waiting(service),
                    _ => self.apps_try_again(service),
                }
            }
            Want::Watch(service) => self.after(FOLLOW_AGAIN, Ev::Follow(service)),
            Want::Refresh(_) => {}
        }
    }

    // Clients that announce themselves.

    /// It announces itself, or renews its lease.
    pub fn tell(&mut self, asker: Asker) {
        if self.mended && self.all_over() {
            return;
        }
        let (lease_s, addresses) = (self.names().directory.lease_s, self.names().addresses.clone());
        let machine = if let Asker::Server(server) = asker { server } else { 0 };
        if self.servers[machine].gone {
            return self.after(RETRY_MAX, Ev::Tell(asker));
        }
        let endpoint = || HOST.strip_prefix("ssh.").expect("it is").parse().expect("a name");
        let ask = match (asker, self.names().owned) {
            (Asker::Server(server), _) => {
                if !self.servers[server].alive {
                    // Its process announces itself when it is back.
                    return self.after(RETRY_MIN, Ev::Tell(asker));
                }
                Ask::Announce(Announce {
                    server: server_name(server).to_owned(),
                    addresses: vec![addresses[server]].into(),
                    services: vec![FILES.parse().expect("a name")].into(),
                    inventory: [0; 32],
                    told: Told::new(&Profile::default(), 0),
                })
            }
            (_, Owned::Nothing) => Ask::NewEndpoint(NewEndpoint {
                name: endpoint(),
                addresses: vec![addresses[0].ip()].into(),
                lease_s,
            }),
            (_, Owned::Endpoint) => Ask::NewService(NewService {
                name: HOST.parse().expect("a name"),
                port: addresses[0].port(),
                protocol: Protocol::Session,
                key: server_key(0),
            }),
            (_, Owned::Service(at)) if at != addresses[0] => Ask::ChangeEndpoint(ChangeEndpoint {
                name: endpoint(),
                addresses: vec![addresses[0].ip()].into(),
            }),
            (_, Owned::Service(_)) => Ask::Renew(OneEndpoint { name: endpoint() }),
        };
        self.ask_directory(asker, ask, Want::Told);
    }

    fn heard(&mut self, asker: Asker, body: &Body) {
        let here = self.names().addresses[0];
        let lease = Duration::from_secs(self.names().directory.lease_s.into());
        let owned = self.names().owned;
        if asker == Asker::Owner {
            let missing = matches!(body, Body::Refused(r) if r.why == Refusal::NotFound);
            let exists = matches!(body, Body::Refused(r) if r.why == Refusal::Exists);
            let done = matches!(body, Body::Created(_) | Body::Done(_)) || exists;
            self.names().owned = match owned {
                _ if missing => Owned::Nothing,
                Owned::Nothing if done => Owned::Endpoint,
                // Where it was made it may have been somewhere else.
                Owned::Endpoint if done => Owned::Service(SocketAddr::new(here.ip(), 0)),
                Owned::Service(at) if done && at != here => Owned::Service(here),
                other => other,
            };
            if matches!(body, Body::Refused(r) if r.why == Refusal::Unavailable) {
                return self.failed(asker, Want::Told);
            }
            let settled = self.names().owned == Owned::Service(here);
            let pause = if settled { lease / 3 } else { RETRY_MIN };
            self.names().asking(asker).wait = RETRY_MIN;
            return self.after(pause, Ev::Tell(asker));
        }
        match body {
            Body::Announced(announced) => {
                self.names().asking(asker).wait = RETRY_MIN;
                let lease = Duration::from_secs(announced.lease_s.max(2).into());
                self.after(lease / 3, Ev::Tell(asker));
            }
            _ => self.failed(asker, Want::Told),
        }
    }

    // The broker.

    /// The service behind an app's name, before its session begins; false if it has to wait.
    pub fn resolve(&mut self, number: u64) -> bool {
        let now = self.now;
        let service = service_of(self.broker().seat(number).work);
        let known = &mut self.names().known[service];
        if known.kept.as_ref().is_some_and(|kept| now - kept.at < kept.fresh) {
            return true;
        }
        known.waiting.push(number);
        if known.waiting.len() == 1 {
            let ask = Ask::GetService(OneService { name: name_of(service).parse().expect("good") });
            self.ask_directory(Asker::Broker, ask, Want::Find(service));
        }
        false
    }

    /// The servers that offer the service of a session that begins now.
    pub fn offered(&mut self, number: u64) -> Option<Vec<Rank>> {
        self.names.as_ref()?;
        let service = service_of(self.broker().seat(number).work);
        let known = &mut self.names().known[service];
        let ranks = known.kept.as_ref()?.servers.iter().map(|(rank, _)| *rank).collect();
        if !std::mem::replace(&mut known.following, true) {
            self.after(FOLLOW_AGAIN, Ev::Follow(service));
        }
        Some(ranks)
    }

    fn found_name(&mut self, service: usize, found: &ServiceFound) {
        self.keep_name(service, found);
        self.begin_waiting(service);
    }

    fn begin_waiting(&mut self, service: usize) {
        for number in std::mem::take(&mut self.names().known[service].waiting) {
            self.begin_session(number);
        }
    }

    /// The name is not known now: the user tries again.
    fn apps_try_again(&mut self, service: usize) {
        for number in std::mem::take(&mut self.names().known[service].waiting) {
            let pause = self.random.millis(1_000, 20_000);
            self.after(pause, Ev::Start(number));
        }
    }

    fn refresh(&mut self, service: usize) {
        let ask = Ask::GetService(OneService { name: name_of(service).parse().expect("good") });
        self.ask_directory(Asker::Broker, ask, Want::Refresh(service));
    }

    /// Remembers which servers offer a service; servers that have moved are dialed where they are
    /// now.
    fn keep_name(&mut self, service: usize, found: &ServiceFound) {
        let rank = |key: [u8; 32]| usize::from(key[0]) - 1;
        let servers: Vec<(Rank, SocketAddr)> =
            found.places.iter().map(|place| (rank(place.key), place.address)).collect();
        for (rank, address) in &servers {
            let old = self.broker().servers.list[*rank].address.replace(*address);
            if old.is_some_and(|old| old != *address) {
                self.counts.followed += 1;
                self.broker().server_moved(*rank);
            }
        }
        let (at, fresh) = (self.now, Duration::from_secs(found.fresh_s.into()));
        self.names().known[service].kept = Some(Kept { at, fresh, servers });
    }

    /// Time to watch a service, or to look whether it is watched still.
    pub fn follow(&mut self, service: usize) {
        let uses = |seat: &crate::broker::Seat| {
            service_of(seat.work) == service && seat.begun && !seat.over
        };
        if !self.broker.borrow().seats.iter().any(uses) {
            self.names().known[service].following = false;
            return;
        }
        if self.names().known[service].watched.is_some() {
            // A link that died silently is noticed only when something is said on it.
            self.refresh(service);
            return self.after(FOLLOW_LOOK, Ev::Follow(service));
        }
        let ask = Ask::Watch(OneName { name: name_of(service).to_owned(), endpoint: false });
        self.ask_directory(Asker::Broker, ask, Want::Watch(service));
    }

    /// The broker's network has changed: its link to the directory is of no use.
    pub fn forget_line(&mut self) {
        if self.names.is_some()
            && let Some(line) = self.names().asking(Asker::Broker).line
        {
            self.line_lost(Asker::Broker, line);
        }
    }

    // The directory's side.

    /// A request arrives.
    pub fn request(&mut self, line: u64, bytes: &[u8]) {
        let now = self.now;
        let Some(asker) = self.names().directory.asker(line) else { return };
        if let Some(answer) = self.names().directory.request(now, line, bytes) {
            self.answer_line(asker, line, answer);
        }
        self.after_directory();
    }

    fn answer_line(&mut self, asker: Asker, line: u64, bytes: Vec<u8>) {
        let place = self.place(asker);
        let leads = self.names().directory.leads(line, place);
        match self.delivery(asker).filter(|_| leads) {
            Some(at) => self.at(at, Ev::Told(asker, line, bytes)),
            None => self.names().directory.hang_up(line),
        }
    }

    /// What follows from whatever the directory has done.
    pub fn after_directory(&mut self) {
        let now = self.now;
        for (line, bytes) in self.names().directory.changes() {
            // Hung up, if what was told before could not be delivered.
            let Some(asker) = self.names().directory.asker(line) else { continue };
            self.answer_line(asker, line, bytes);
        }
        self.names().directory.check(now);
        let Some(at) = self.names().directory.next_lapse() else { return };
        // What cannot be deleted now is tried again later.
        let at = if at <= now { now + Duration::from_secs(5) } else { at };
        let names = self.names();
        if names.swept_at.is_none_or(|swept| swept <= now || swept > at) {
            names.swept_at = Some(at);
            self.at(at, Ev::Sweep);
        }
    }

    /// Leases are looked at.
    pub fn sweep(&mut self) {
        let now = self.now;
        self.names().directory.sweep(now);
        self.after_directory();
    }

    /// The directory's process dies; it, or its machine.
    pub fn directory_dies(&mut self, power: bool) {
        if !self.names().directory.runs() {
            return;
        }
        let mut random = crate::random::Random::new(self.random.next());
        let lines: Vec<(Asker, u64)> = self
            .names()
            .askers
            .iter()
            .filter_map(|(asker, asking)| Some((*asker, asking.line?)))
            .collect();
        self.names().directory.die(power.then_some(&mut random));
        if !power {
            lines
                .into_iter()
                .for_each(|(asker, line)| self.at(self.now, Ev::LineLost(asker, line)));
        }
        let pause = self.random.millis(100, 600_000);
        self.after(pause, Ev::DirectoryBack);
    }

    /// It is started again, and once more if that fails.
    pub fn directory_back(&mut self) {
        let now = self.now;
        if self.names().directory.runs() {
            return;
        }
        if !self.names().directory.start(now) {
            self.after(Duration::from_secs(1), Ev::DirectoryBack);
        }
        self.after_directory();
    }
}
