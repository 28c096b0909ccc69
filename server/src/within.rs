//! Serving a session whose other end is in the same process: a broker's own server, for
//! destinations that have no far end.
//!
//! It speaks the same protocol as any server, over a link in memory. Both ends live and die
//! together; but the next process of the broker has what this one's keeper held of the app's end,
//! and the ticket of an HTTP session is enough to begin the other end anew (R103). FTP has none.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use stp_drive::clock::now;
use stp_drive::{
    Act, Carrier, Command, DialFailed, Dialed, FIRST_LINK, MemoryLink, Near, Never, Purse,
    SessionStatus, Stake, Start,
};
use stp_proto::handle::Handle;
use stp_proto::replay::{Exchange, Policy};
use stp_proto::session::{Event, Limits, Session, StartAt, code};
use stp_proto::ticket::{Claims, Granted, Holder};
use stp_proto::time::Instant;
use stp_proto::wire::{Connect, ConnectMode, First, encode_connect_denied, first_frame};
use tokio::sync::mpsc;

use crate::denial::Denial;
use crate::service::direct::Direct;
use crate::service::ftp::DirectFtp;
use crate::service::takeover::{Opened, Takeover};
use crate::ticket::{BadTicket, Seal, random_handle, unix_now};

/// What the app's side is told that this server is called.
pub const NAME: &str = "this machine";

/// What a session in this process reaches.
#[derive(Clone, Debug)]
pub enum Target {
    /// HTTP at the app's destination, or at mirrors of it.
    Http(Direct),
    /// An FTP login there, or a data connection of one.
    Ftp(DirectFtp),
}

/// A session that is served in this process, as its other end sees it.
pub struct Within {
    target: Target,
    limits: Limits,
    /// What it holds comes out of this.
    purse: Arc<Purse>,
    /// Its loop, once there is one.
    commands: Option<mpsc::Sender<Command<MemoryLink>>>,
}

/// A server whose other end is gone has this long to hand the service what it has.
const REST_MAX: Duration = Duration::from_secs(300);

impl Within {
    /// A session to this destination. Nothing is opened yet.
    #[must_use]
    pub fn new(target: Target, limits: Limits, purse: Arc<Purse>) -> Within {
        Within { target, limits, purse, commands: None }
    }

    /// Whether a session was begun.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.commands.is_some()
    }

    /// A link to the session. Whoever gets the first one opens it, the others resume it.
    #[must_use]
    pub fn link(&mut self) -> MemoryLink {
        let (ours, theirs) = MemoryLink::pair(NAME);
        match &self.commands {
            Some(commands) => drop(tokio::spawn(attach(theirs, commands.clone()))),
            None => {
                let (sender, commands) = mpsc::channel(4);
                let watch = sender.downgrade();
                self.commands = Some(sender);
                let room = (self.limits.clone(), Stake::new(&self.purse, Vec::new()));
                let served = serve(theirs, commands, self.target.clone(), room);
                tokio::spawn(async move {
                    tokio::select! {
                        () = served => {}
                        () = abandoned(watch) => {}
                    }
                });
            }
        }
        ours
    }
}

/// Waits until the other end is gone, and then long enough for what it has sent.
async fn abandoned(watch: mpsc::WeakSender<Command<MemoryLink>>) {
    while watch.upgrade().is_some() {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    tokio::time::sleep(REST_MAX).await;
}

/// Hands a further link to the session.
async fn attach(mut link: MemoryLink, commands: mpsc::Sender<Command<MemoryLink>>) {
    let Some(record) = first_record(&mut link).await else { return };
    let command = match first_frame(&record) {
        Ok(First::Reset(reset)) => Command::Abort { code: reset.code },
        _ => Command::Attach { link: Box::new(link), record },
    };
    // A session that has just ended needs nothing more.
    let _ = commands.send(command).await;
}

/// Serves the session that is asked for on `link`, until it ends.
async fn serve(
    mut link: MemoryLink,
    commands: mpsc::Receiver<Command<MemoryLink>>,
    target: Target,
    room: (Limits, Stake),
) {
    let Some(record) = first_record(&mut link).await else { return };
    let Ok(First::Connect(connect)) = first_frame(&record) else {
        tracing::warn!("a session in memory was not opened first");
        return;
    };
    let denial = match target {
        Target::Http(direct) => match open(direct, &connect, room.0.hold).await {
            Ok(opened) => return run(opened, true, (link, commands), &connect, room).await,
            Err(denial) => denial,
        },
        Target::Ftp(ftp) => match ftp.open(&connect).await {
            Ok(opened) => return run(opened, false, (link, commands), &connect, room).await,
            Err(denial) => denial,
        },
    };
    deny(link, &connect, &denial);
}

/// The session's loop.
async fn run<N: Near>(
    (near, at): (N, StartAt),
    makes_tickets: bool,
    (link, commands): (MemoryLink, mpsc::Receiver<Command<MemoryLink>>),
    connect: &Connect<'_>,
    (limits, stake): (Limits, Stake),
) {
    let own = random_handle();
    let mut session = Session::accept(now(), limits, FIRST_LINK, own, connect, at, NAME);
    if makes_tickets {
        session.hold_acks();
    }
    let start = Start::Link(Box::new(link));
    let noted = (Arc::<SessionStatus>::default(), stake);
    stp_drive::run(session, near, Far, commands, start, noted).await;
}

async fn open(
    direct: Direct,
    connect: &Connect<'_>,
    patience: Duration,
) -> Result<Opened<Direct, Unsealed>, Denial> {
    let request = match &connect.mode {
        ConnectMode::Transfer(request) => Some(request),
        _ => None,
    };
    let mint = Some(Unsealed::new(connect.service, connect.handle, patience));
    let policy = Policy::default();
    let mut takeover = Takeover::new(now(), direct, policy, mint, request, &|_| Ok(()))?;
    let (mut http, at) = poll_fn(|cx| takeover.poll(now(), cx)).await?;
    http.bear(patience);
    Ok((http, at))
}

/// Makes tickets that need no seal: who shows them is the broker of which this server is a part, or
/// the next process of it.
#[derive(Debug)]
struct Unsealed {
    holder: Holder,
    life: Duration,
}

impl Unsealed {
    fn new(service: &str, handle: Handle, life: Duration) -> Unsealed {
        let (audience, service) = (NAME.to_owned(), service.to_owned());
        Unsealed { holder: Holder { audience, service, client: [0; 32], handle }, life }
    }
}

impl Seal for Unsealed {
    fn restrict(&mut self, _granted: Option<Granted>) {}

    fn granted(&self) -> Option<&Granted> {
        None
    }

    fn seal(&self, at: (u64, u64), exchange: Exchange) -> Vec<u8> {
        let (id, times) = (Handle::default(), (unix_now(), self.life.as_secs()));
        let claims = Claims::new(&self.holder, id, times, at, exchange);
        claims.encode().unwrap_or_else(|error| {
            tracing::debug!(%error, "no ticket for this exchange");
            Vec::new()
        })
    }

    fn open(&self, ticket: &[u8], have: u64, up_from: u64) -> Result<Claims, BadTicket> {
        let claims = Claims::decode(ticket)?;
        claims.check(&self.holder, unix_now(), (have, up_from))?;
        Ok(claims)
    }
}

fn deny(mut link: MemoryLink, connect: &Connect<'_>, denial: &Denial) {
    let mut frame = Vec::new();
    encode_connect_denied(connect.handle, denial.why, Duration::ZERO, &denial.text, &mut frame);
    link.send(&frame);
    link.linger();
}

async fn first_record(link: &mut MemoryLink) -> Option<Vec<u8>> {
    loop {
        poll_fn(|cx| link.poll_readable(cx)).await;
        match link.try_read() {
            Ok(records) => return records.iter().next().map(<[u8]>::to_vec),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
}

/// The far side of such a session: links come to it, it dials none.
struct Far;

impl stp_drive::Far for Far {
    type Link = MemoryLink;
    type Found = Result<Dialed<MemoryLink>, DialFailed>;
    type Dialing = Never<MemoryLink>;

    fn dial(&mut self, _now: Instant, _session: &Session) -> Never<MemoryLink> {
        std::future::pending()
    }

    fn dialed(
        &mut self,
        _now: Instant,
        _session: &mut Session,
        found: Self::Found,
    ) -> Result<Dialed<MemoryLink>, DialFailed> {
        found
    }

    fn event(&mut self, _now: Instant, _session: &mut Session, event: &Event) -> Act {
        match event {
            // Nothing breaks a link in memory but the end of the other side.
            Event::Lost { .. } => {
                Act::Abort { code: code::NO_SERVER, reason: "the app's side is gone".to_owned() }
            }
            _ => Act::Nothing,
        }
    }

    fn reuse(&mut self, _now: Instant, _link: MemoryLink, _first: Option<Vec<u8>>) {}
}
