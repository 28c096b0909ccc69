//! The wire between broker and server: one TCP hop that is cut in the middle of the bytes, at
//! given counts of them, so that a cut hits on a fast machine and on a slow one.
//!
//! It is also the only way from the client's namespace into the server's.

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sched::CloneFlags;
use stp_tests::namespace::Namespace;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, oneshot};

/// How long nothing comes through after a reset.
const OUTAGE: Duration = Duration::from_millis(300);

/// When the wire is cut, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Cuts {
    /// Bytes carried, both directions together.
    pub at: &'static [u64],
    /// How long nothing comes through, silently; none: [`OUTAGE`] after a reset, and nothing after
    /// a silent loss.
    pub away: Option<Duration>,
}

/// How a link is lost.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// Both ends are told by a reset, and for a while nothing comes through.
    Reset,
    /// Neither end is told: nothing comes through the connection any more. A new one works at once.
    Silence,
}

/// See the module. Every second cut is a [`Cut::Silence`].
pub struct Wire {
    line: Arc<Line>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// From `port` on loopback in `near` to the same port in `far`, cut whenever the bytes carried
    /// in both directions together pass one of those in `cuts`.
    pub fn lay(near: &Namespace, far: &Namespace, port: u16, cuts: Cuts) -> Result<Wire> {
        let place = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = near.inside(|| std::net::TcpListener::bind(place))??;
        listener.set_nonblocking(true)?;
        let there = far.open()?;
        let (stop, stopped) = oneshot::channel();
        let kept = Line::new(place, cuts);
        let line = Arc::clone(&kept);
        let thread = std::thread::spawn(move || {
            nix::sched::setns(there, CloneFlags::CLONE_NEWNET).expect("the namespace is there");
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = line.accept(listener) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Wire { line: kept, stop: Some(stop), thread: Some(thread) })
    }

    /// How often it has been cut.
    pub fn cuts(&self) -> usize {
        self.line.course().made
    }

    /// Bytes carried, both directions together.
    pub fn carried(&self) -> u64 {
        self.line.course().carried
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Both fail only if the thread has ended already.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What all connections of a wire share.
struct Line {
    to: SocketAddr,
    course: Mutex<Course>,
    cut: broadcast::Sender<Cut>,
    away: Option<Duration>,
}

struct Course {
    /// Bytes carried.
    carried: u64,
    /// Where the wire is still to be cut, the next one last.
    at: Vec<u64>,
    /// How often it was.
    made: usize,
    down_until: Option<Instant>,
}

impl Line {
    fn new(to: SocketAddr, cuts: Cuts) -> Arc<Line> {
        let at = cuts.at.iter().rev().copied().collect();
        let course = Mutex::new(Course { carried: 0, at, made: 0, down_until: None });
        Arc::new(Line { to, course, cut: broadcast::Sender::new(16), away: cuts.away })
    }

    async fn accept(self: Arc<Line>, listener: TcpListener) {
        while let Ok((near, _)) = listener.accept().await {
            let line = Arc::clone(&self);
            // It ends with its connection, or with the runtime.
            drop(tokio::spawn(async move { line.join(near).await }));
        }
    }

    /// Carries one connection to its end or to the next cut.
    async fn join(&self, mut near: TcpStream) -> io::Result<()> {
        if self.is_down() {
            return match self.away {
                Some(_) => pending().await,
                None => near.set_zero_linger(),
            };
        }
        let mut cut = self.cut.subscribe();
        let mut far = TcpStream::connect(self.to).await?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let how = {
            let (from_near, to_near) = near.split();
            let (from_far, to_far) = far.split();
            let both = async {
                tokio::join!(self.carry(from_near, to_far), self.carry(from_far, to_near))
            };
            tokio::select! {
                _ended = both => return Ok(()),
                how = cut.recv() => how.unwrap_or(Cut::Reset),
            }
        };
        match how {
            Cut::Reset => {
                near.set_zero_linger()?;
                far.set_zero_linger()
            }
            // Both sockets stay open and are never read again.
            Cut::Silence => pending().await,
        }
    }

    /// Carries one direction to its end.
    async fn carry(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return to.shutdown().await;
            }
            if self.breaks(count) {
                // The bytes in hand are lost with it.
                return pending().await;
            }
            to.write_all(&buffer[..count]).await?;
        }
    }

    /// Whether the wire is cut by the next `count` bytes.
    fn breaks(&self, count: usize) -> bool {
        let mut course = self.course();
        course.carried += count as u64;
        if course.at.last().is_none_or(|at| course.carried < *at) {
            return false;
        }
        course.at.pop();
        let resets = self.away.is_none() && course.made.is_multiple_of(2);
        let how = if resets { Cut::Reset } else { Cut::Silence };
        course.made += 1;
        let outage = self.away.or(resets.then_some(OUTAGE));
        course.down_until = outage.map(|outage| Instant::now() + outage);
        // The connection that asks is one of the receivers.
        let _ = self.cut.send(how);
        true
    }

    fn is_down(&self) -> bool {
        self.course().down_until.is_some_and(|end| Instant::now() < end)
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
