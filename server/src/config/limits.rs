//! The table `[limits]`: bounds and times, their defaults, and what of it can be had here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use stp_net::config::{ByteRate, ByteSize, ConfigError, Loaded, Span};
use stp_net::{machine, spool};
use stp_proto::budget::{self, Seats};

/// How long a busy session's link may be silent, as seen from here.
const SILENCE: Duration = Duration::from_secs(10);

/// Sessions, waiting links and relayed links, if neither memory nor descriptors are scarce.
const SESSIONS: usize = 10_000;
const LINKS: usize = 40_000;
const RELAYED: usize = 1_000;
/// With less, a server would have room for a few dozen sessions.
const MEMORY_MIN: u64 = 16 << 20;
/// What a client may send before the service has taken any of it.
const WINDOW_FIRST: usize = 64 << 10;

/// What is taken of the service of a session that is away, and of all such services.
const SPOOL: u64 = 256 << 20;
const SPOOLS: u64 = 4 << 30;
/// On a disk, and never in memory as /tmp may be.
const SPOOL_DIR: &str = "/var/tmp";

/// See [`Limits::read_ahead`].
const READ_AHEAD: u64 = 200_000_000;

/// Handshakes at once, if there are descriptors enough.
const HANDSHAKES_MAX: usize = 1024;

/// Bounds and times.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes that all sessions together hold, and have promised to take.
    pub memory: u64,
    /// Sessions at once.
    pub sessions: usize,
    /// Sessions of one client at once; none: as many as its share of the budget allows.
    pub sessions_per_client: Option<usize>,
    /// Handshakes at once.
    pub handshakes: usize,
    /// Links at once, those that carry no session included.
    pub links: usize,
    /// Links passed on to other servers at once.
    pub relayed: usize,
    /// Bounds of each session.
    pub session: stp_proto::session::Limits,
    /// How long a link may wait for its first frame.
    pub warm: Duration,
    /// Congestion control of the links.
    pub congestion: Option<String>,
    /// What may leave this server, bytes a second; none: no limit.
    pub egress: Option<u64>,
    /// Files of sessions elsewhere are read ahead at this rate, bytes a second; 0: they are not.
    pub read_ahead: u64,
    /// When a path counts as congested.
    pub rise: stp_proto::rise::Rule,
    /// A server that is being shut down waits for its sessions to go elsewhere, until none has gone
    /// for this long.
    pub drain: Duration,
    /// What is taken of the service of a session that is away, bytes; 0: nothing.
    pub spool: u64,
    /// Where that is put, and how much there is of it in all.
    pub spools: Arc<spool::Room>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileLimits {
    memory: Option<ByteSize>,
    sessions_max: Option<usize>,
    sessions_per_client: Option<usize>,
    links_max: Option<usize>,
    relayed_max: Option<usize>,
    send_buffer: Option<ByteSize>,
    receive_buffer: Option<ByteSize>,
    hold: Option<Span>,
    suspend_max: Option<Span>,
    heartbeat: Option<Span>,
    silence: Option<Span>,
    pub(super) ticket_life: Option<Span>,
    warm_links: Option<Span>,
    congestion: Option<String>,
    egress: Option<ByteRate>,
    read_ahead: Option<ByteRate>,
    rise_factor: Option<f64>,
    rise_above: Option<Span>,
    drain: Option<Span>,
    spool: Option<ByteSize>,
    spool_total: Option<ByteSize>,
    spool_dir: Option<PathBuf>,
}

/// Checks the table.
pub(super) fn check<T>(loaded: &Loaded<T>, file: &FileLimits) -> Result<Limits, ConfigError> {
    let mut session = stp_proto::session::Limits::default();
    let buffer = |key: &str, size: Option<ByteSize>, default: usize| match size {
        None => Ok(default),
        Some(size) if (64 << 10..=1 << 30).contains(&size.0) => Ok(size.as_usize()),
        Some(_) => Err(loaded.error(&format!("limits.{key}"), "64KiB to 1GiB are possible")),
    };
    session.send_buffer_max = buffer("send_buffer", file.send_buffer, session.send_buffer_max)?;
    session.receive_buffer_max =
        buffer("receive_buffer", file.receive_buffer, session.receive_buffer_max)?;
    // A client is trusted with little at first.
    session.window_first = WINDOW_FIRST;
    session.checkpoint_every = session.send_buffer_max / 2;
    session.hold = file.hold.map_or(session.hold, |span| span.0);
    session.tombstone = session.hold;
    session.suspended_max = file.suspend_max.map_or(session.suspended_max, |span| span.0);
    session.heartbeat_idle = file.heartbeat.map_or(session.heartbeat_idle, |span| span.0);
    // Its broker sees to new links; a link that is slow is not to be lost for the server's sake.
    session.silence_max = file.silence.map_or(SILENCE, |span| span.0);
    for (key, span) in [
        ("hold", session.hold),
        ("heartbeat", session.heartbeat_idle),
        ("silence", session.silence_max),
    ] {
        if span < Duration::from_secs(1) {
            return Err(loaded.error(&format!("limits.{key}"), "at least 1s is needed"));
        }
    }
    if file.sessions_per_client == Some(0) {
        let what = "at least 1 is needed; leave it out for no bound of its own";
        return Err(loaded.error("limits.sessions_per_client", what));
    }
    let (memory, [sessions, links, relayed, handshakes]) = fit(loaded, file)?;
    Ok(Limits {
        memory,
        sessions,
        sessions_per_client: file.sessions_per_client,
        links,
        relayed,
        handshakes,
        session,
        warm: file.warm_links.map_or(Duration::from_secs(15 * 60), |span| span.0),
        congestion: stp_net::link::congestion(file.congestion.clone()),
        egress: file.egress.map(|rate| rate.0),
        read_ahead: file.read_ahead.map_or(READ_AHEAD, |rate| rate.0),
        rise: rise(loaded, file)?,
        drain: file.drain.map_or(Duration::from_secs(30), |span| span.0),
        spool: file.spool.map_or(SPOOL, |size| size.0),
        spools: spools(loaded, file)?,
    })
}

/// Where spools are, and what they hold together.
fn spools<T>(loaded: &Loaded<T>, file: &FileLimits) -> Result<Arc<spool::Room>, ConfigError> {
    if let Some(dir) = &file.spool_dir
        && !dir.is_dir()
    {
        let what = format!("{} is no directory; make it, or leave it out", dir.display());
        return Err(loaded.error("limits.spool_dir", what));
    }
    let dir = file.spool_dir.as_deref().unwrap_or(Path::new(SPOOL_DIR));
    Ok(spool::Room::new(dir, file.spool_total.map_or(SPOOLS, |size| size.0)))
}

fn rise<T>(loaded: &Loaded<T>, file: &FileLimits) -> Result<stp_proto::rise::Rule, ConfigError> {
    let mut rule = stp_proto::rise::Rule::default();
    rule.factor = file.rise_factor.unwrap_or(rule.factor);
    rule.above = file.rise_above.map_or(rule.above, |span| span.0);
    if !(1.0..=1e6).contains(&rule.factor) {
        return Err(loaded.error("limits.rise_factor", "a number from 1 to 1000000 is expected"));
    }
    Ok(rule)
}

/// Memory; and sessions, waiting links, relayed links and handshakes at once, as many as memory and
/// descriptors are enough for.
fn fit<T>(loaded: &Loaded<T>, file: &FileLimits) -> Result<(u64, [usize; 4]), ConfigError> {
    let memory = file.memory.map_or_else(machine::memory, |size| size.0);
    if memory < MEMORY_MIN {
        return Err(loaded.error("limits.memory", "at least 16MiB are needed"));
    }
    let most = budget::most_sessions(memory);
    let seats = |key, given: Option<usize>, usual: usize, (each, share)| Seats {
        key,
        wanted: (given.unwrap_or(usual), given.is_some()),
        each,
        share,
    };
    let fitted = budget::fit(
        machine::descriptors(),
        [
            // Its link, the one that takes its place, its service, and what is kept of it.
            seats("limits.sessions_max", file.sessions_max, most.min(SESSIONS), (4, 4)),
            seats("limits.links_max", file.links_max, LINKS, (1, 2)),
            seats("limits.relayed_max", file.relayed_max, RELAYED, (2, 1)),
            seats("", None, HANDSHAKES_MAX, (1, 1)),
        ],
    );
    let fitted = fitted.map_err(|error| loaded.error(error.key, &error))?;
    let sessions = fitted[0];
    if sessions > most {
        let what = format!(
            "{sessions} sessions need {} MiB in limits.memory, and there are {}",
            budget::memory_for(sessions).div_ceil(1 << 20),
            memory >> 20
        );
        return Err(loaded.error("limits.sessions_max", what));
    }
    Ok((memory, fitted))
}
