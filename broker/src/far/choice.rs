//! Which server a session is tried at: measuring before the first choice, the order, the search, and
//! giving up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use stp_drive::{Act, DialFailed, Dialed};
use stp_net::link::Link;
use stp_proto::course::{AppError, Candidate, GaveUp, Wanted};
use stp_proto::select::{self, Next, Rank, Rejection, Want};
use stp_proto::session::{Peer, code};

use super::SessionFar;
use crate::broker::Broker;
use crate::entry::{Course, Entry};
use crate::relay;
use crate::search::{Reaches, search};

/// Attempts at a session's home that may go unanswered before another server is asked first.
const UNANSWERED_MAX: u32 = 2;

/// Servers measured before a first choice, how long that may take, and how much longer than the
/// nearest another may.
const FIRST_ASKED: usize = 3;
const FIRST_MAX: Duration = Duration::from_millis(400);
const FIRST_LONGER: Duration = Duration::from_millis(20);

impl SessionFar {
    /// STP 3: the best three that are not known yet are measured, before the first choice only.
    async fn measure(&self) {
        let order = self.order(&self.entry.course.lock(), Want::Connect);
        if order.len() < 2 {
            return;
        }
        let mut asked = tokio::task::JoinSet::new();
        for rank in order.into_iter().take(FIRST_ASKED) {
            let server = Arc::clone(&self.entry.service.servers[rank]);
            let known = server.distance.way().now.is_some();
            if server.distance.is_fresh() || !server.reach.is_open() {
                continue;
            }
            let measured = async move {
                let address = server.reach.dialer().address();
                server.distance.measure(address, FIRST_MAX, FIRST_MAX).await
            };
            // What is merely old is good enough for this session, and fresh for the next.
            if known {
                tokio::spawn(measured);
            } else {
                asked.spawn(measured);
            }
        }
        // Who is much farther than the nearest, or silent, is not waited for.
        let all = async {
            let begun = Instant::now();
            while let Some(way) = asked.join_next().await {
                if way.is_ok_and(|way| way.now.is_some()) {
                    let longer = begun.elapsed() + FIRST_LONGER;
                    let _late = tokio::time::timeout(longer, async {
                        while asked.join_next().await.is_some() {}
                    })
                    .await;
                    break;
                }
            }
        };
        let _late = tokio::time::timeout(FIRST_MAX, all).await;
        asked.detach_all();
    }

    /// The servers that may be asked, best first; who is hardly farther than the nearest counts as
    /// just as near.
    fn order(&self, course: &Course, want: Want) -> Vec<Rank> {
        let (service, number) = (&self.entry.service, self.entry.service_number);
        let now = self.broker.now();
        let list = self.broker.overloaded.lock();
        let listed = |rank| list.contains(now, &(number, rank));
        let rtts: Vec<_> = service.servers.iter().map(|one| one.distance.way().now).collect();
        let rtts = select::near_enough(&rtts);
        course.choice.order(want, listed, |rank| rtts[rank])
    }

    fn wanted(&self, want: Want, course: &mut Course) -> Wanted {
        let number = self.entry.service_number;
        let established = want != Want::Connect;
        let order = self.order(course, want);
        let now = self.broker.now();
        let list = self.broker.overloaded.lock();
        let home = course.choice.home();
        let candidate = |rank: Rank| {
            let until = list.until(now, &(number, rank));
            let waits = established && Some(rank) != home;
            Candidate { rank, not_before: until.filter(|_| waits) }
        };
        let mut order: Vec<Candidate> = order.into_iter().map(candidate).collect();
        let mut home = home;
        // A home that lets itself be connected to and then says nothing is asked last.
        if course.unanswered >= UNANSWERED_MAX && order.len() > 1 {
            order.rotate_left(1);
            home = None;
        }
        if let Some(leave) = course.leave.take()
            && order.len() > 1
        {
            order.retain(|candidate| candidate.rank != leave);
            home = home.filter(|rank| *rank != leave);
        }
        let left = self.broker.config.limits.connect.saturating_sub(self.entry.started.elapsed());
        let give_up_at = now + left;
        Wanted {
            order,
            home,
            give_up_at: (!established).then_some(give_up_at),
            tired_after: course.choice.patience(),
        }
    }

    pub(super) fn refuse(&self, course: &mut Course, why: Rejection, text: &str) -> Option<Next> {
        let rank = course.trying.take()?;
        let name = (self.entry.service_number, rank);
        let mut list = self.broker.overloaded.lock();
        let next = course.choice.refused(self.broker.now(), rank, why, &mut list, name);
        let server = self.entry.service.server_name(rank);
        let said = if text.is_empty() { String::new() } else { format!(" ({text})") };
        tracing::info!(session = self.entry.id, %server, "refused: {why}{said}");
        self.broker.count_refusal(why);
        Some(next)
    }

    /// A link to whoever can have the session.
    pub(super) async fn dial_any(
        &self,
        want: Want,
        received: u64,
    ) -> Result<Dialed<Link>, DialFailed> {
        let established = want != Want::Connect;
        if !established {
            self.measure().await;
        }
        let (wanted, worst) = {
            let mut course = self.entry.course.lock();
            let worst = course.choice.worst();
            (self.wanted(want, &mut course), worst)
        };
        // Who can go on nowhere else may be led to its home.
        let stuck = want == Want::Resume { transferable: false };
        let reaches = self.entry.service.servers.iter().map(|server| Arc::clone(&server.reach));
        let ways = Reaches(reaches.collect());
        let found = tokio::select! {
            found = search(ways, &self.broker.news, wanted) => found,
            (relay, link) = relay::rescue(&self.broker, &self.entry), if stuck => {
                let mut course = self.entry.course.lock();
                course.trying = course.choice.home();
                (course.local, course.trying_via) = (Some(link.local_addr()), Some(relay));
                return Ok((link, Peer::Same));
            }
        };
        match found {
            Ok((rank, link)) => {
                let mut course = self.entry.course.lock();
                (course.trying, course.trying_via) = (Some(rank), None);
                course.local = Some(link.local_addr());
                // As it is now: an earlier attempt may have been answered meanwhile.
                let home = course.choice.home();
                let same = home.map_or(!established, |home| home == rank);
                Ok((link, if same { Peer::Same } else { Peer::Other }))
            }
            // An earlier attempt was answered meanwhile: it has a home, and will ask again.
            Err(GaveUp { why, .. }) if !established && self.has_home() => Err(DialFailed::new(why)),
            Err(GaveUp { error, why }) => {
                let errno = errno(error);
                let why = if established {
                    format!("no server can go on with it: {worst}; {why}")
                } else {
                    why
                };
                give_up(&self.broker, &self.entry, errno, &why, received);
                let then = Act::Abort { code: code::NO_SERVER, reason: why.clone() };
                Err(DialFailed { why, then })
            }
        }
    }

    fn has_home(&self) -> bool {
        self.entry.course.lock().choice.home().is_some()
    }
}

/// The error number of what an app is told.
fn errno(error: AppError) -> i32 {
    match error {
        AppError::Refused => Errno::ECONNREFUSED as i32,
        AppError::Unreachable => Errno::EHOSTUNREACH as i32,
        AppError::TimedOut => Errno::ETIMEDOUT as i32,
        AppError::Reset => Errno::ECONNRESET as i32,
        AppError::Number(errno) => errno,
    }
}

/// No server is left. The session counts as ended, though its loop may yet try to tell a server.
pub(super) fn give_up(broker: &Broker, entry: &Entry, errno: i32, why: &str, received: u64) {
    let mut course = entry.course.lock();
    if course.gave_up.is_some() {
        return;
    }
    course.gave_up = Some((errno, why.to_owned()));
    drop(course);
    entry.record("gave up", why.to_owned(), received);
    broker.session_ended(entry, why);
}
