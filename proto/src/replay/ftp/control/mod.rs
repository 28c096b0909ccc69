//! The control connection: between a client and the real FTP server.
//!
//! Whoever drives it brings bytes of either side and what became of data connections, and carries
//! out the [`Act`]s. One command is with the server at a time (ABOR beside a transfer excepted);
//! commands that come early wait. Where the data connection is agreed upon (PASV, PORT and kin) the
//! answer is given here, because the data connection is to become a session; the server is asked
//! for one of its own, always passive, when a command needs it.
//!
//! ```text
//! Greeting ──► Idle ──command──► Asked ──reply──► Idle
//!                └──RETR, STOR, LIST …──► Agreeing ──227──► Connecting ──► [Sizing, Resting]
//!                                            ──► Starting 1yz ──► Running ──2yz and data──► Idle
//! ```

mod agree;
mod client;
mod run;
mod server;

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

use sha2::{Digest, Sha256};

use super::command::{Command, Transfer};
use super::line::Lines;
use super::login::Login;
use super::reply::{Replies, Reply};
use super::state::{ControlState, Running, Waiting};
use crate::handle::Handle;
use crate::mutant::mutant;
use crate::wire::Announcement;

/// Commands that may wait for their turn.
const QUEUE_MAX: usize = 16;

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Send this to the server.
    Send(Vec<u8>),
    /// Give this to the client.
    Answer(Box<Answer>),
    /// Give this to the client as it is; no ticket belongs to it.
    Pass(Vec<u8>),
    /// Hang up on the server, if there is a connection to it.
    HangUp,
    /// Connect to the server and log in as [`Control::login`] says; then say
    /// [`Control::server_ready`] or [`Control::server_failed`].
    LogIn,
    /// A data connection was agreed upon: expect the session of this token.
    Expect(Handle),
    /// From here on every session of this token is a connection to the port of the server that its
    /// app asked for, if it is one of these.
    Range {
        /// Names the sessions.
        token: Handle,
        /// The first port.
        first: u16,
        /// The last one.
        last: u16,
    },
    /// That session is not needed any more; one that is there ends with an error.
    Forget(Handle),
    /// Connect to this port of the server for data; then say [`Control::connected`].
    Connect(u16),
    /// The transfer begins on the session of the token. `connected`: on the connection that
    /// [`Act::Connect`] made; otherwise the data side is to ask for the data by itself.
    Begin {
        /// What is transferred.
        running: Running,
        /// There is a connection.
        connected: bool,
    },
    /// How the transfer ended, as far as the server's replies say.
    Judge(Handle, Verdict),
    /// The data went to another server: the control connection should follow.
    AskToMove,
    /// From here on everything passes untouched, both ways.
    Opaque,
    /// The client is to see the end of the stream.
    End,
}

/// A reply for the client, and what belongs before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The reply.
    pub bytes: Vec<u8>,
    /// Up position: everything below it is dealt with.
    pub covers: u64,
    /// For the ticket; none: the login cannot be continued elsewhere from here on.
    pub state: Option<ControlState>,
    /// The broker has to know this before the client has the reply.
    pub announcement: Option<Announcement>,
}

/// What the data side is told of its transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The server says that it is complete.
    Done,
    /// It cannot be completed: end with an error.
    Failed,
    /// The server gave up; try to go on by yourself.
    Lost,
}

/// What became of the data side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataNews {
    /// Everything, and the end, has arrived at the client's side.
    Delivered,
    /// It could not be completed, and the client sees an error.
    Failed,
    /// The client itself closed it early.
    ClientGone,
    /// It goes on at another server.
    Moved,
    /// An upload can be gone on with nowhere else.
    Fixed,
}

/// Where the stream to the server stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    /// There, and logged in as far as the client is.
    Up,
    /// Being made.
    Opening,
    /// Gone; it is made again when it is needed.
    Away,
}

/// What is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Greeting,
    Idle,
    Asked(Command),
    Agreeing(Command),
    Connecting(Command),
    Sizing(Command),
    Resting(Command),
    Starting(Command),
    Running(Run),
    Opaque,
    Over,
}

/// A transfer whose first reply was given and whose last one was not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    running: Running,
    said: Said,
    news: Option<DataNews>,
    /// ABOR, once it has come.
    abort: Option<Command>,
    /// The server's answer to that, if it came before what became of the data.
    aborted: Option<Reply>,
}

/// What the server has said of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Nothing,
    Last(Reply),
    /// It is gone, or another server began the transfer.
    Gone,
}

/// A control connection.
#[derive(Debug, Clone)]
pub struct Control {
    login: Login,
    logged_in: bool,
    waiting: Option<Waiting>,
    phase: Phase,
    server: Server,
    /// The command under way was already sent once more.
    again: bool,
    lines: Lines,
    queue: VecDeque<Command>,
    replies: Replies,
    covers: u64,
    acts: VecDeque<Act>,
    /// The server's address as the client knows it.
    host: IpAddr,
    /// The server is asked by EPSV.
    extended: bool,
    seed: Handle,
    tokens: u64,
    client_ended: bool,
    /// The upload that is asked for makes its file from the first byte on.
    whole: bool,
    /// Commands that end below may have been executed by another server.
    guard: u64,
    secret_ports: Option<(u16, u16)>,
}

impl Control {
    /// A session that begins. `host` is the server's address as the client knows it, `seed` is
    /// random, `extended` says that the server has to be asked by EPSV.
    #[must_use]
    pub fn new(host: IpAddr, seed: Handle, extended: bool) -> Self {
        Self {
            login: Login::default(),
            logged_in: false,
            waiting: None,
            phase: Phase::Greeting,
            server: Server::Up,
            again: false,
            lines: Lines::default(),
            queue: VecDeque::new(),
            replies: Replies::default(),
            covers: 0,
            acts: VecDeque::new(),
            host: host.to_canonical(),
            extended,
            seed,
            tokens: 0,
            client_ended: false,
            whole: false,
            guard: 0,
            secret_ports: None,
        }
    }

    /// A session that another server left at up position `covers`; the login was made again.
    /// The client has `have` bytes of the reply in the ticket. Nothing if that cannot be.
    #[must_use]
    pub fn restored(mut self, state: &ControlState, covers: u64, have: u64) -> Option<Self> {
        let have = usize::try_from(have).ok()?;
        let rest = state.reply.get(have..)?.to_vec();
        self.login = state.login.clone();
        self.logged_in = self.login.is_complete();
        self.lines = Lines::at(covers);
        self.covers = covers;
        self.waiting.clone_from(&state.waiting);
        self.phase = Phase::Idle;
        if !rest.is_empty() {
            self.acts.push_back(Act::Pass(rest));
        }
        if let Some(waiting) = mutant!(PortForgotten, &self.waiting, &None) {
            self.acts.push_back(Act::Expect(waiting.token));
        }
        if state.over {
            self.phase = Phase::Over;
            self.acts.push_back(Act::End);
        } else if let Some(running) = &state.running {
            self.resume_run(running.clone(), state.aborting);
        }
        Some(self)
    }

    /// Commands of the client up to this position may have been executed by another server.
    #[must_use]
    pub fn guarded(mut self, sent: u64) -> Self {
        self.guard = sent;
        self
    }

    /// The server's passive ports, first and last, for logins whose 227 is encrypted.
    #[must_use]
    pub fn with_secret_ports(mut self, ports: Option<(u16, u16)>) -> Self {
        self.secret_ports = ports;
        self
    }

    /// The next thing to be done.
    pub fn poll_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// The login that a new connection to the server needs.
    #[must_use]
    pub fn login(&self) -> &Login {
        &self.login
    }

    /// Everything passes untouched.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        self.phase == Phase::Opaque
    }

    /// Nothing is under way and nobody is logged in anywhere but in memory.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// What is under way cannot be asked for again: the connection to the server is to wait for
    /// its path as long as TCP does.
    #[must_use]
    pub fn waits_for_its_path(&self) -> bool {
        match &self.phase {
            Phase::Running(run) => run.running.transfer == Transfer::Up,
            Phase::Asked(command) | Phase::Starting(command) => !command.is_repeatable(),
            Phase::Opaque => true,
            _ => false,
        }
    }

    /// The token of the transfer under way.
    #[must_use]
    pub fn running(&self) -> Option<Handle> {
        match &self.phase {
            Phase::Running(run) => Some(run.running.token),
            _ => None,
        }
    }

    fn token(&mut self) -> (Handle, u16) {
        self.tokens += 1;
        let mut hasher = Sha256::new();
        hasher.update(self.seed.0);
        hasher.update(self.tokens.to_be_bytes());
        let digest: [u8; 32] = hasher.finalize().into();
        let mut token = [0; 16];
        token.copy_from_slice(&digest[..16]);
        token[15] |= 1;
        let port = u16::from_be_bytes([digest[16], digest[17]]);
        // Neither a port of the system nor one that is easily met by accident.
        (Handle(token), 16_384 + port % 40_000)
    }

    /// Gives a reply to the client, with a ticket for the state behind it.
    fn answer(&mut self, bytes: Vec<u8>, announcement: Option<Announcement>) {
        let state = self.state(&bytes);
        let covers = self.covers;
        let answer = Answer { bytes, covers, state, announcement };
        self.acts.push_back(Act::Answer(Box::new(answer)));
    }

    /// What a ticket says that stands before `reply`.
    fn state(&self, reply: &[u8]) -> Option<ControlState> {
        let (running, aborting) = match &self.phase {
            Phase::Running(run) => (Some(run.running.clone()), run.abort.is_some()),
            Phase::Idle | Phase::Over => (None, false),
            // A reply that is not the last one: nobody else could give the rest.
            _ => return None,
        };
        self.login.can_be_repeated().then(|| ControlState {
            login: self.login.clone(),
            waiting: self.waiting.clone(),
            running,
            aborting,
            over: self.phase == Phase::Over,
            reply: reply.to_vec(),
        })
    }

    /// The last reply to the command under way.
    fn finish(&mut self, command: &Command, reply: Vec<u8>) {
        self.covers = self.covers.max(command.end);
        self.phase = Phase::Idle;
        self.again = false;
        self.answer(reply, None);
        self.next();
    }

    /// The session ends with this reply.
    fn end_with(&mut self, reply: Vec<u8>) {
        self.phase = Phase::Over;
        self.answer(reply, None);
        self.acts.push_back(Act::HangUp);
        self.acts.push_back(Act::End);
    }
}

/// Whether an address can be that of a client's listener: no port of the system's own.
fn may_listen(address: &SocketAddr) -> bool {
    address.port() >= 1024 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}
