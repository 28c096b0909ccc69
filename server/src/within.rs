//! Serving a session whose other end is in the same process: a broker's own server, for
//! destinations that have no far end.
//!
//! It speaks the same protocol as any server, over a link in memory. There are no tickets: both
//! ends live and die together.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use stp_drive::clock::now;
use stp_drive::{
    Act, Carrier, Command, DialFailed, Dialed, FIRST_LINK, MemoryLink, Near, Never, Purse,
    SessionStatus, Stake, Start,
};
use stp_proto::replay::Policy;
use stp_proto::session::{Event, Limits, Session, StartAt, code};
use stp_proto::time::Instant;
use stp_proto::wire::{Connect, First, encode_connect_denied, first_frame};
use tokio::sync::mpsc;

use crate::denial::Denial;
use crate::service::direct::Direct;
use crate::service::ftp::DirectFtp;
use crate::service::takeover::{Opened, Takeover};
use crate::ticket::{Mint, random_handle};

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
        Target::Http(direct) => match open(direct, room.0.hold).await {
            Ok(opened) => return run(opened, link, &connect, commands, room).await,
            Err(denial) => denial,
        },
        Target::Ftp(ftp) => match ftp.open(&connect).await {
            Ok(opened) => return run(opened, link, &connect, commands, room).await,
            Err(denial) => denial,
        },
    };
    deny(link, &connect, &denial);
}

/// The session's loop.
async fn run<N: Near>(
    (near, at): (N, StartAt),
    link: MemoryLink,
    connect: &Connect<'_>,
    commands: mpsc::Receiver<Command<MemoryLink>>,
    (limits, stake): (Limits, Stake),
) {
    let session = Session::accept(now(), limits, FIRST_LINK, random_handle(), connect, at, NAME);
    let start = Start::Link(Box::new(link));
    let noted = (Arc::<SessionStatus>::default(), stake);
    stp_drive::run(session, near, Far, commands, start, noted).await;
}

async fn open(direct: Direct, patience: Duration) -> Result<Opened<Direct, Mint>, Denial> {
    let mut takeover = Takeover::new(now(), direct, Policy::default(), None, None, &|_| Ok(()))?;
    let (mut http, at) = poll_fn(|cx| takeover.poll(now(), cx)).await?;
    http.bear(patience);
    Ok((http, at))
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
