//! A model of a group: an FTP login through the shipped sessions, the shipped control connection
//! and the shipped table of a broker, with every fault at every frame. What must hold: the app's
//! data connection meets a route, or its listener is reached, exactly once; every reply comes once
//! and in order; success is told after the data; and the login ends well whatever was lost.
//!
//! A data connection is a token here: it is there once the broker has made it, and its bytes have
//! arrived when the server that has its control connection says so a step later. Real data
//! connections, with bytes, are in `tests/ftp`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use stp_proto::group::{Groups, Lead, Todo};
use stp_proto::handle::Handle;
use stp_proto::replay::ftp::{self, ControlState, DataNews, Verdict};
use stp_proto::session::{
    Event, Input, Limits, LinkId, Mutant, Output, Peer, Session, StartAt, TicketOffer,
};
use stp_proto::time::Instant;
use stp_proto::wire::{ConnectMode, First, ResumeDenial, encode_resume_denied, first_frame};

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 1));
const PID: i32 = 10;
const LISTENER: &str = "PORT 10,0,0,1,200,1";

/// How many turns data take.
const ON_THE_WAY: usize = 8;

/// What breaks, at which frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Link,
    /// The server that has the session dies with everything.
    Server,
    /// The FTP server hangs up.
    Ftp,
}

const FAULTS: [Fault; 3] = [Fault::Link, Fault::Server, Fault::Ftp];

/// What the app says, and the code that it waits for. `+` means that it connects to the port that
/// it was told, beside saying this.
const PASSIVE: &[(&str, &str)] = &[
    ("", "220"),
    ("USER ann", "331"),
    ("PASS x", "230"),
    ("PASV", "227"),
    ("TYPE I", "200"),
    ("+RETR f", "150"),
    ("", "226"),
    ("PASV", "227"),
    ("+LIST", "150"),
    ("", "226"),
    ("QUIT", "221"),
];
const ACTIVE: &[(&str, &str)] = &[
    ("", "220"),
    ("USER ann", "331"),
    ("PASS x", "230"),
    (LISTENER, "200"),
    ("RETR f", "150"),
    ("", "226"),
    (LISTENER, "200"),
    ("LIST", "150"),
    ("", "226"),
    ("QUIT", "221"),
];

/// The server's end.
struct Server {
    session: Session,
    control: ftp::Control,
    /// Data connections that are expected, and what the control connection said of them.
    expected: BTreeSet<Handle>,
    /// Data that are on their way, and for how many turns more.
    begun: BTreeMap<Handle, usize>,
    over: bool,
}

struct World {
    now: Instant,
    broker: Session,
    groups: Groups,
    server: Option<Server>,
    /// Records on their way: to the server, to the broker.
    ways: [VecDeque<Vec<u8>>; 2],
    link: Option<LinkId>,
    links: u64,
    lives: u8,
    dialing: bool,
    /// Nothing was said on the link yet.
    fresh: bool,
    home_died: bool,
    /// What the app got that it has not read.
    heard: String,
    script: VecDeque<(&'static str, &'static str)>,
    /// Data connections that the broker made.
    made: BTreeMap<Handle, u32>,
    delivered: BTreeSet<Handle>,
    /// How often success was told.
    told: usize,
    frames: usize,
    faults: Vec<(usize, Fault)>,
    events: Vec<String>,
}

impl World {
    fn new(script: &[(&'static str, &'static str)], faults: &[(usize, Fault)]) -> World {
        let now = Instant(1_000_000);
        let limits = Limits { data_max: 40, ..Limits::default() };
        World {
            now,
            broker: Session::initiate(now, limits, Handle([0xaa; 16]), "ftp.a@b.org", ""),
            groups: Groups::default(),
            server: None,
            ways: Default::default(),
            link: None,
            links: 0,
            lives: 0,
            dialing: false,
            fresh: false,
            home_died: false,
            heard: String::new(),
            script: script.iter().copied().collect(),
            made: BTreeMap::new(),
            delivered: BTreeSet::new(),
            told: 0,
            frames: 0,
            faults: faults.to_vec(),
            events: Vec::new(),
        }
    }

    /// Plays the script. The error says what went wrong.
    fn run(&mut self) -> Result<(), String> {
        for _ in 0..20_000 {
            if self.script.is_empty() {
                return Ok(());
            }
            let busy = self.turn()?;
            if !busy && !self.deadline() {
                break;
            }
        }
        Err(format!("it never ends: {:?} is waited for, {:?} is there", self.script, self.heard))
    }

    /// Time passes until somebody's deadline; false if there is none.
    fn deadline(&mut self) -> bool {
        let mut next = Vec::new();
        let mut out = Vec::new();
        let server = self.server.as_mut().map(|server| &mut server.session);
        for session in [Some(&mut self.broker), server].into_iter().flatten() {
            if let Output::Wait(Some(at)) = session.poll_output(self.now, true, &mut out) {
                next.push(at);
            }
        }
        let Some(at) = next.into_iter().min() else { return false };
        self.now = self.now.max(at);
        self.broker.handle_input(self.now, Input::Timeout);
        if let Some(server) = &mut self.server {
            server.session.handle_input(self.now, Input::Timeout);
        }
        true
    }

    fn turn(&mut self) -> Result<bool, String> {
        let mut busy = self.app()?;
        busy |= self.serve()?;
        busy |= self.drain(0);
        busy |= self.drain(1);
        if std::mem::take(&mut self.dialing) {
            busy = true;
            self.cut();
            self.links += 1;
            let link = LinkId(self.links);
            (self.link, self.fresh) = (Some(link), true);
            let peer = if self.home_died { Peer::Other } else { Peer::Same };
            self.broker.handle_input(self.now, Input::LinkUp { link, peer });
        }
        for way in 0..2 {
            if let Some(record) = self.ways[way].pop_front() {
                busy = true;
                self.frames += 1;
                let at = self.faults.iter().position(|(at, _)| *at == self.frames);
                if let Some((_, fault)) = at.map(|at| self.faults.remove(at)) {
                    self.happen(fault);
                    if fault != Fault::Ftp {
                        return Ok(true);
                    }
                }
                match way {
                    0 => self.at_server(&record)?,
                    _ => self.at_broker(&record)?,
                }
            }
        }
        Ok(busy)
    }

    fn happen(&mut self, fault: Fault) {
        self.events.push(format!("{fault:?} at frame {}", self.frames));
        match fault {
            Fault::Link => self.cut(),
            Fault::Server => {
                self.server = None;
                self.home_died = true;
                self.cut();
            }
            Fault::Ftp => {
                if let Some(server) = &mut self.server {
                    server.control.server_lost();
                }
            }
        }
    }

    fn cut(&mut self) {
        self.ways = Default::default();
        let Some(link) = self.link.take() else { return };
        self.broker.handle_input(self.now, Input::LinkLost { link });
        if let Some(server) = &mut self.server {
            server.session.handle_input(self.now, Input::LinkLost { link });
        }
    }

    fn drain(&mut self, end: usize) -> bool {
        let mut busy = false;
        loop {
            let session = match (end, &mut self.server) {
                (0, _) => &mut self.broker,
                (_, Some(server)) => &mut server.session,
                (_, None) => return busy,
            };
            let mut out = Vec::new();
            match session.poll_output(self.now, true, &mut out) {
                Output::Frame { link } if self.link == Some(link) => self.ways[end].push_back(out),
                Output::Dial => self.dialing = true,
                Output::Wait(_) => return busy,
                Output::Event(Event::Attached { .. }) if end == 0 => self.home_died = false,
                Output::Event(Event::Denied(_)) if end == 0 => {
                    self.home_died = true;
                    self.broker.handle_input(self.now, Input::Retry);
                }
                _ => {}
            }
            busy = true;
        }
    }

    fn at_server(&mut self, record: &[u8]) -> Result<(), String> {
        let Some(link) = self.link else { return Ok(()) };
        let fresh = std::mem::take(&mut self.fresh);
        if let (true, Ok(First::Connect(connect)), Some(server)) =
            (fresh, first_frame(record), &mut self.server)
        {
            if connect.mode == ConnectMode::New {
                server.session.reaccept(self.now, link, &connect);
                return Ok(());
            }
            // What another attempt brought over is replaced.
            self.server = None;
        }
        if let Some(server) = &mut self.server {
            let mut arrived = Vec::new();
            let session = &mut server.session;
            let done = session.handle_record(self.now, link, record, &mut arrived);
            done.map_err(|error| error.to_string())?;
            let control = &mut server.control;
            let delivered = session.deliver(self.now, &arrived, |slices| {
                let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                Ok(control.client(&bytes))
            });
            drop(delivered);
            return Ok(());
        }
        match first_frame(record) {
            Ok(First::Connect(connect)) => {
                let fresh = ftp::Control::new(PEER, Handle([self.lives + 1; 16]), false);
                let (control, at) = match &connect.mode {
                    ConnectMode::Transfer(request) if request.ticket.is_some() => {
                        let sealed = request.ticket.unwrap_or_default();
                        let (at, state) = open(sealed)?;
                        let have = request.down - at;
                        let control = fresh.restored(&state, request.covers, have);
                        let control = control.ok_or("the ticket does not fit")?;
                        let start = StartAt { up: request.covers, down: request.down };
                        (control.guarded(request.up_sent), start)
                    }
                    _ => (fresh, StartAt::default()),
                };
                self.lives += 1;
                let limits = Limits { data_max: 40, ..Limits::default() };
                let own = Handle([self.lives; 16]);
                let mut session =
                    Session::accept(self.now, limits, link, own, &connect, at, "server");
                session.hold_acks();
                let (expected, begun) = (BTreeSet::new(), BTreeMap::new());
                let mut server = Server { session, control, expected, begun, over: false };
                if at == StartAt::default() {
                    server.control.server(b"220 hello\r\n");
                }
                self.server = Some(server);
            }
            _ => {
                let mut answer = Vec::new();
                encode_resume_denied(0, ResumeDenial::Unknown, &mut answer);
                self.ways[1].push_back(answer);
            }
        }
        Ok(())
    }

    fn at_broker(&mut self, record: &[u8]) -> Result<(), String> {
        let Some(link) = self.link else { return Ok(()) };
        let mut arrived = Vec::new();
        let done = self.broker.handle_record(self.now, link, record, &mut arrived);
        done.map_err(|error| error.to_string())?;
        let lead = Lead { id: 1, pid: PID, ip: PEER, host: None };
        for announcement in self.broker.take_announced() {
            match self.groups.announced(&lead, &announcement) {
                Todo::Reach(_, token) => *self.made.entry(token).or_default() += 1,
                Todo::Publish | Todo::Nothing | Todo::Drop(_) => {}
            }
        }
        let heard = &mut self.heard;
        let delivered = self.broker.deliver(self.now, &arrived, |slices| {
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            heard.push_str(&String::from_utf8_lossy(&bytes));
            Ok(bytes.len())
        });
        delivered.map(drop).map_err(|error| error.to_string())
    }

    /// The app reads a reply, and says the next thing.
    fn app(&mut self) -> Result<bool, String> {
        let Some((line, rest)) = self.heard.split_once("\r\n") else { return Ok(false) };
        let (line, rest) = (line.to_owned(), rest.to_owned());
        let Some((_, wanted)) = self.script.pop_front() else { return Ok(false) };
        if !line.starts_with(wanted) {
            return Err(format!("{wanted} was wanted and {line:?} came; {:?}", self.events));
        }
        self.heard = rest;
        self.told += usize::from(wanted == "226");
        if self.told > self.delivered.len() {
            return Err(format!("success was told before the data arrived; {:?}", self.events));
        }
        if let Some(list) = line.split_once('(').filter(|_| wanted == "227") {
            let numbers: Vec<u16> =
                list.1.split(&[',', ')'][..]).filter_map(|word| word.parse().ok()).collect();
            let port = numbers[4] * 256 + numbers[5];
            // Another program knocks first.
            if self.groups.take(PEER, port, PID + 1).is_some() {
                return Err("another program got the data connection".to_owned());
            }
            let Some(one) = self.groups.take(PEER, port, PID) else {
                return Err(format!("no route for port {port}; {:?}", self.events));
            };
            *self.made.entry(one.token).or_default() += 1;
        }
        if let Some(&(say, _)) = self.script.front()
            && !say.is_empty()
        {
            self.say(say.trim_start_matches('+'));
        }
        if let Some((token, count)) = self.made.iter().find(|(_, count)| **count > 1) {
            return Err(format!("{token:?} was made {count} times; {:?}", self.events));
        }
        Ok(true)
    }

    fn say(&mut self, line: &str) {
        write(&mut self.broker, self.now, format!("{line}\r\n").as_bytes());
    }

    /// The server's task: carries out what its control connection wants. The FTP server answers at
    /// once.
    fn serve(&mut self) -> Result<bool, String> {
        let mut busy = false;
        let Some(server) = &mut self.server else { return Ok(false) };
        while let Some(act) = server.control.poll_act() {
            busy = true;
            match act {
                ftp::Act::Send(bytes) => {
                    for reply in replies(&bytes) {
                        server.control.server(reply.as_bytes());
                    }
                }
                ftp::Act::Answer(answer) => give(&mut server.session, self.now, &answer)?,
                ftp::Act::Pass(bytes) => write(&mut server.session, self.now, &bytes),
                ftp::Act::LogIn => server.control.server_ready(false),
                ftp::Act::Expect(token) => drop(server.expected.insert(token)),
                ftp::Act::Connect(_) => server.control.connected(true),
                ftp::Act::Begin { running, .. } => {
                    server.begun.insert(running.token, ON_THE_WAY);
                }
                ftp::Act::End if !server.over => {
                    server.over = true;
                    server.session.handle_input(self.now, Input::NearFin);
                }
                ftp::Act::Judge(_, Verdict::Failed) => return Err("a transfer failed".to_owned()),
                _ => {}
            }
        }
        let there =
            |token: &&Handle| self.made.contains_key(*token) && server.expected.contains(*token);
        if let Some(token) = server.begun.keys().find(there).copied() {
            // What is asked for again ends as well.
            busy = true;
            let left = server.begun.entry(token).or_default();
            if *left > 0 {
                *left -= 1;
                return Ok(true);
            }
            server.begun.remove(&token);
            self.delivered.insert(token);
            server.control.data(token, DataNews::Delivered);
        }
        Ok(busy)
    }
}

/// A ticket and what belongs before a reply, and the reply.
fn give(session: &mut Session, now: Instant, answer: &ftp::Answer) -> Result<(), String> {
    if let Some(announcement) = answer.announcement {
        session.announce(announcement);
    }
    let at = session.positions().end;
    let state = answer.state.as_ref().ok_or("a reply without a ticket")?;
    let mut ticket = at.to_be_bytes().to_vec();
    ticket.extend(serde_json::to_vec(state).map_err(|error| error.to_string())?);
    let covers = answer.covers;
    session.offer_ticket(TicketOffer { at, covers, seam_from: at, transferable: true, ticket });
    write(session, now, &answer.bytes);
    Ok(())
}

fn open(sealed: &[u8]) -> Result<(u64, ControlState), String> {
    let (at, state) = sealed.split_first_chunk::<8>().ok_or("no ticket of ours")?;
    let state = serde_json::from_slice(state).map_err(|error| error.to_string())?;
    Ok((u64::from_be_bytes(*at), state))
}

fn write(session: &mut Session, now: Instant, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let filled = session.fill(now, |slices| {
            let mut count = 0;
            for slice in slices {
                let here = slice.len().min(rest.len() - count);
                slice[..here].copy_from_slice(&rest[count..count + here]);
                count += here;
            }
            Ok(count)
        });
        rest = &rest[filled.unwrap_or(0)..];
    }
}

/// What the FTP server says to a command.
fn replies(command: &[u8]) -> Vec<String> {
    let command = String::from_utf8_lossy(command).into_owned();
    let all: &[&str] = match command.split_whitespace().next().unwrap_or_default() {
        "USER" => &["331 password"],
        "PASS" => &["230 in"],
        "PASV" => &["227 Entering (10,9,8,7,4,1)"],
        "RETR" | "LIST" => &["150 opening", "226 complete"],
        "QUIT" => &["221 bye"],
        _ => &["200 ok"],
    };
    all.iter().map(|reply| format!("{reply}\r\n")).collect()
}

/// Every fault at every frame, and pairs of faults; the first thing that goes wrong.
fn hunt(mutant: Option<Mutant>) -> Option<String> {
    Mutant::set(mutant);
    let found = hunt_all();
    Mutant::set(None);
    found
}

fn hunt_all() -> Option<String> {
    for script in [PASSIVE, ACTIVE] {
        let mut calm = World::new(script, &[]);
        if let Err(what) = calm.run() {
            return Some(format!("without a fault: {what}"));
        }
        for first in 1..=calm.frames {
            for fault in FAULTS {
                let mut faults = vec![vec![(first, fault)]];
                for gap in [1, 2, 3, 5, 8, 13] {
                    faults.extend(FAULTS.map(|next| vec![(first, fault), (first + gap, next)]));
                }
                for faults in faults {
                    if let Err(what) = World::new(script, &faults).run() {
                        return Some(format!("{faults:?}: {what}"));
                    }
                }
            }
        }
    }
    None
}

/// R90 to R93.
#[test]
fn a_login_outlives_every_fault_at_every_frame() {
    assert_eq!(hunt(None), None);
}

#[test]
fn every_mistake_in_groups_is_caught() {
    println!("| mutant | mistake | caught by |\n|---|---|---|");
    let mut missed = Vec::new();
    for mutant in Mutant::GROUPS {
        match hunt(Some(*mutant)) {
            Some(what) => println!("| {mutant:?} | {} | {what} |", mutant.mistake()),
            None => missed.push(*mutant),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
