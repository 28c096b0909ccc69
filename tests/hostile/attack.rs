//! The flood: what strangers, and clients with a key, do to the daemons.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use stp_lookup::Connection;
use stp_net::key::{Identity, PublicKey};
use stp_net::link::{Link, LinkOptions, Tls};
use stp_proto::handle::Handle;
use stp_proto::local::path::SOCKET_FILE;
use stp_proto::lookup::{Ask, Login, Prove};
use stp_proto::wire::{Belongs, Connect, ConnectMode, DATA_MAX, Data, VERSION};
use stp_tests::daemon::SERVER_PORT;
use stp_tests::sns::SNS_PORT;
use stp_tests::topology::Host;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UnixStream};
use tokio::time::{sleep, timeout};

use crate::bed::{Bed, SERVICE};

/// Addresses of each attacker, for what needs no handshake.
const ADDRESSES: u8 = 20;
/// The pause between two tries of one kind: the flood is to be refused by the rules, and not to
/// win by taking all processors of the machine on which everything runs.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a connection is kept that is good for nothing.
const HOLD: Duration = Duration::from_secs(5);

/// Where the daemons are.
pub struct Target {
    pub server: (SocketAddr, PublicKey),
    pub gateway: (SocketAddr, PublicKey),
    local: PathBuf,
}

impl Target {
    pub fn of(bed: &Bed) -> Result<Target> {
        let at = |host: &Host, port| anyhow::Ok(SocketAddr::new(host.address().parse()?, port));
        let key = bed.sns.key.parse().ok().context("the gateway's key")?;
        Ok(Target {
            server: (at(bed.server_host(), SERVER_PORT)?, bed.server_key),
            gateway: (at(bed.gateway_host(), SNS_PORT)?, key),
            local: bed.broker.dir.join(SOCKET_FILE),
        })
    }
}

/// What can be done to them, how many at a time from each attacker, and its name.
const KINDS: [(Kind, usize, &str); 10] = [
    (Kind::HalfOpen, 60, "half-open"),
    (Kind::Garbage, 4, "garbage"),
    (Kind::Throwaway, 8, "throwaway keys"),
    (Kind::SlowRecord, 4, "slow records"),
    (Kind::GiantWindow, 6, "giant windows"),
    (Kind::NoWindow, 4, "windows of nothing"),
    (Kind::BlankLines, 2, "blank lines"),
    (Kind::Unknown, 4, "unknown services"),
    (Kind::Guess, 2, "guessed passwords"),
    (Kind::Local, 20, "local silence"),
];

#[derive(Clone, Copy)]
enum Kind {
    /// Connections that say nothing, or a part of a handshake.
    HalfOpen,
    /// What is no handshake.
    Garbage,
    /// A key that nobody knows, and then silence.
    Throwaway,
    /// A record that never becomes whole.
    SlowRecord,
    /// A download that is never taken, and is left behind.
    GiantWindow,
    /// The same, without room for a byte.
    NoWindow,
    /// A request head of empty lines.
    BlankLines,
    /// What is refused, and written into the log, again and again.
    Unknown,
    /// Passwords of the honest user, and of nobody.
    Guess,
    /// Connections to the broker's own socket.
    Local,
}

/// How often each was done.
#[derive(Default)]
pub struct Attack([u64; KINDS.len()]);

impl Attack {
    pub fn add(&mut self, other: &Attack) {
        self.0.iter_mut().zip(other.0).for_each(|(all, one)| *all += one);
    }
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, ((.., name), count)) in KINDS.iter().zip(self.0).enumerate() {
            write!(f, "{}{count} {name}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// Floods from one host until it is over.
pub fn run(host: &Host, target: &Target, over: &AtomicBool) -> Result<Attack> {
    let first: Ipv4Addr = host.address().parse()?;
    let more = |number: u8| {
        let [a, b, c, _] = first.octets();
        Ipv4Addr::new(a, b, c, 100 + number)
    };
    for number in 0..ADDRESSES {
        let device = &host.interfaces[0].device;
        host.namespace.ip(&["addr", "add", &format!("{}/24", more(number)), "dev", device])?;
    }
    let counts: [AtomicU64; KINDS.len()] = Default::default();
    let flood = || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut all: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = Vec::new();
        for ((kind, at_once, _), count) in KINDS.iter().zip(&counts) {
            for number in 0..*at_once {
                let from = more(u8::try_from(number % usize::from(ADDRESSES)).unwrap_or(0));
                all.push(Box::pin(async move {
                    while !over.load(Ordering::Relaxed) {
                        // It comes to nothing, mostly: that is what is wanted.
                        let _ = timeout(HOLD, attack(*kind, from.into(), target)).await;
                        count.fetch_add(1, Ordering::Relaxed);
                        sleep(PAUSE).await;
                    }
                }));
            }
        }
        runtime.block_on(futures_util::future::join_all(all));
        Ok(())
    };
    host.namespace.inside(flood)??;
    Ok(Attack(counts.map(AtomicU64::into_inner)))
}

async fn attack(kind: Kind, from: IpAddr, target: &Target) -> Result<()> {
    match kind {
        Kind::HalfOpen => {
            for (at, _) in [target.server, target.gateway] {
                let mut tcp = connect(from, at).await?;
                tcp.write_all(&[22, 3, 1]).await?;
                until_closed(&mut tcp).await?;
            }
        }
        Kind::Garbage => {
            for (at, _) in [target.server, target.gateway] {
                let mut tcp = connect(from, at).await?;
                tcp.write_all(&[b'x'; 300]).await?;
                until_closed(&mut tcp).await?;
            }
        }
        Kind::Throwaway => {
            let mut link = dial(target.server).await?;
            until_lost(&mut link).await?;
        }
        Kind::SlowRecord => {
            let mut tcp = dial(target.server).await?.into_tcp()?;
            tcp.write_all(&[23, 3, 3, 0x40, 0]).await?;
            loop {
                tcp.write_all(b"x").await?;
                sleep(Duration::from_millis(100)).await;
            }
        }
        Kind::GiantWindow => leave_behind(target, u64::MAX >> 1).await?,
        Kind::NoWindow => leave_behind(target, 0).await?,
        Kind::BlankLines => {
            let mut link = open(target, SERVICE, 1 << 20).await?;
            let mut position = 0;
            for _ in 0..4 {
                let bytes = vec![b'\n'; DATA_MAX];
                say(&mut link, position, &bytes).await?;
                position += bytes.len() as u64;
            }
            until_lost(&mut link).await?;
        }
        Kind::Unknown => drop(open(target, "no.such@lab.example", 1 << 20).await?),
        Kind::Guess => guess(target).await?,
        Kind::Local => {
            let mut socket = UnixStream::connect(&target.local).await?;
            socket.write_all(b"\n").await?;
            let mut byte = [0];
            socket.read_exact(&mut byte).await?;
        }
    }
    Ok(())
}

async fn connect(from: IpAddr, to: SocketAddr) -> Result<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    Ok(socket.connect(to).await?)
}

async fn until_closed(tcp: &mut tokio::net::TcpStream) -> Result<()> {
    let mut bytes = [0; 512];
    while tcp.read(&mut bytes).await? > 0 {}
    Ok(())
}

/// A link with a key of its own.
async fn dial((at, key): (SocketAddr, PublicKey)) -> Result<Link> {
    let tls: Arc<Tls> = Tls::new(&Identity::generate());
    Ok(Link::dial(at, &key, &tls, &LinkOptions::default()).await?)
}

async fn until_lost(link: &mut Link) -> Result<()> {
    loop {
        std::future::poll_fn(|cx| link.poll_readable(cx)).await?;
        match link.try_read() {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                return Err(error.into());
            }
            Ok(records) if records.closed() => return Ok(()),
            _ => {}
        }
    }
}

/// Opens a session; the answer has come.
async fn open(target: &Target, service: &str, window: u64) -> Result<Link> {
    let mut link = dial(target.server).await?;
    let connect = Connect {
        version: VERSION,
        handle: Handle(Identity::generate().public_key().0[..16].try_into()?),
        epoch: 1,
        features: 0,
        window,
        service,
        endpoint: "",
        mode: ConnectMode::New,
        grant: None,
        rate: None,
        hold: None,
        upkeep: None,
        belongs: Belongs::default(),
        destination: None,
    };
    let mut frame = Vec::new();
    connect.encode(&mut frame);
    link.send(&frame);
    link.flush().await?;
    std::future::poll_fn(|cx| link.poll_readable(cx)).await?;
    let _answer = link.try_read()?;
    Ok(link)
}

async fn say(link: &mut Link, position: u64, bytes: &[u8]) -> Result<()> {
    let mut frame = Vec::new();
    Data { position, bytes }.encode(&mut frame);
    link.send(&frame);
    Ok(link.flush().await?)
}

/// Asks for much, takes nothing, and goes away: the session stays behind.
async fn leave_behind(target: &Target, window: u64) -> Result<()> {
    let mut link = open(target, SERVICE, window).await?;
    say(&mut link, 0, b"GET /big HTTP/1.1\r\nHost: mirror.lab\r\n\r\n").await?;
    sleep(Duration::from_secs(1)).await;
    Ok(())
}

async fn guess(target: &Target) -> Result<()> {
    let (at, key) = target.gateway;
    let tls = Tls::new(&Identity::generate());
    let connection = Connection::open(at, &key, &tls, &LinkOptions::default()).await?;
    for user in [crate::bed::USER, "nobody"] {
        connection.ask(Ask::Login(Login { user: user.to_owned() })).await?;
        let _refused = connection.ask(Ask::Prove(Prove { signature: [7; 64] })).await;
    }
    Ok(())
}
