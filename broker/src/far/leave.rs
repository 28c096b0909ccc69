//! Leaving a server that works: links to where a session shall move, and what becomes of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stp_drive::{Act, DialFailed, Dialed};
use stp_net::link::Link;
use stp_proto::select::{Meaning, Rank, Rejection};
use stp_proto::session::{LostCause, Peer, Session, WhyNot};
use stp_proto::wire::{Close, ResetFrame, TransferReason};

use super::SessionFar;
use crate::dialer::ServerDialer;
use crate::moves;
use crate::reach::Reach;
use crate::relay::{self, Turn};

/// How long a server that was left, and is out of reach, may yet be told.
const LEAVE_MAX: Duration = Duration::from_secs(3_600);
const LEAVE_DIAL_MAX: Duration = Duration::from_secs(5);

/// Before a move that was overtaken is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Tells the server that a session has left, so that it need not keep it for days. If it is out of
/// reach it is told when others find it there again.
pub(super) async fn take_leave(reach: Arc<Reach<ServerDialer>>, reset: ResetFrame) {
    let told = tokio::time::timeout(LEAVE_MAX, async {
        let mut link = loop {
            reach.until_open().await;
            if let Ok(link) = tokio::time::timeout(LEAVE_DIAL_MAX, reach.link()).await {
                break link;
            }
        };
        let mut frame = Vec::new();
        Close::ResetFirst(reset).encode(&mut frame);
        link.send(&frame);
        link.linger();
    });
    if told.await.is_err() {
        tracing::debug!("a server that was left could not be told");
    }
}

impl SessionFar {
    /// A link to where the session shall move; the one it has goes on.
    pub(super) async fn dial_planned(&self, received: u64) -> Result<Dialed<Link>, DialFailed> {
        if let Some((rank, link)) = moves::dial(&self.entry).await {
            self.entry.course.lock().trying = Some(rank);
            return Ok((link, Peer::Other));
        }
        let why = "no other server could be reached".to_owned();
        let then = moves::stays(&self.entry, TransferReason::NobodyBetter, &why, received);
        Err(DialFailed { why, then })
    }

    /// A link by another way to the server that has the session; the one it has goes on.
    pub(super) async fn dial_turn(
        &self,
        turn: Turn,
        received: u64,
    ) -> Result<Dialed<Link>, DialFailed> {
        match relay::dial_turn(&self.broker, &self.entry, &turn).await {
            Ok(link) => {
                let mut course = self.entry.course.lock();
                course.trying = course.choice.home();
                (course.local, course.trying_via) = (Some(link.local_addr()), turn.via);
                Ok((link, Peer::Same))
            }
            Err(why) => {
                self.entry.course.lock().turn = None;
                let then = moves::stays(&self.entry, TransferReason::NobodyBetter, &why, received);
                Err(DialFailed { why, then })
            }
        }
    }

    /// A server refuses the session while another still has it.
    pub(super) fn denied_planned(&self, refusal: Rejection, cause: &str, received: u64) -> Act {
        let mut course = self.entry.course.lock();
        let Some(rank) = course.trying.take() else { return Act::Nothing };
        let mut list = self.broker.overloaded.lock();
        let name = (self.entry.service_number, rank);
        match refusal.meaning() {
            Meaning::List(asked) => list.add(self.broker.now(), name, asked),
            Meaning::NotThisSession => {
                course.choice.refused(self.broker.now(), rank, refusal, &mut list, name);
            }
            Meaning::GiveUp | Meaning::Forgotten => {}
        }
        drop((list, course));
        self.broker.count_refusal(refusal);
        self.go_on(rank, cause, received)
    }

    /// The next server of the plan, or none.
    fn go_on(&self, failed: Rank, cause: &str, received: u64) -> Act {
        if moves::next(&self.entry, failed) {
            return Act::Retry;
        }
        moves::stays(&self.entry, TransferReason::NobodyBetter, cause, received)
    }

    /// The link to another server came to nothing; the one the session has goes on.
    pub(super) fn lost_planned(&self, cause: LostCause, received: u64) -> Act {
        let mut course = self.entry.course.lock();
        let Some(rank) = course.trying.take() else { return Act::Nothing };
        let again = course.plan.as_mut().is_some_and(|plan| {
            plan.overtaken += u32::from(cause == LostCause::Overtaken);
            cause == LostCause::Overtaken && plan.overtaken <= moves::OVERTAKEN_MAX
        });
        drop(course);
        let server = self.entry.service.server_name(rank);
        let what = match cause {
            LostCause::Broken | LostCause::Silent => "broke off",
            LostCause::Unanswered => "did not catch up",
            LostCause::Overtaken => "was overtaken by another answer",
        };
        if again {
            return Act::RetryIn(AGAIN_AFTER);
        }
        match self.go_on(rank, &format!("{server} {what}"), received) {
            Act::Retry => Act::RetryIn(AGAIN_AFTER),
            act => act,
        }
    }

    /// STP 8: the server asks to be left.
    pub(super) fn asked_to_leave(
        &mut self,
        session: &Session,
        reason: TransferReason,
        text: &str,
    ) -> Act {
        let received = session.positions().received;
        let mut course = self.entry.course.lock();
        if course.deciding || session.is_moving() || course.plan.is_some() || course.turn.is_some()
        {
            return Act::Nothing;
        }
        course.deciding = true;
        self.asked = Some(Instant::now());
        let congested = reason == TransferReason::Congested;
        let may_turn = congested && course.pass.is_some();
        drop(course);
        let said = if text.is_empty() { String::new() } else { format!(": {text}") };
        self.entry.record("asked to leave", format!("{reason}{said}"), received);
        let (broker, entry) = (Arc::clone(&self.broker), Arc::clone(&self.entry));
        let text = text.to_owned();
        match session.transferable() {
            Ok(()) => drop(tokio::spawn(moves::decide(broker, entry, reason, text))),
            Err(_) if may_turn => drop(tokio::spawn(relay::decide(broker, entry, text))),
            Err(why) => {
                self.entry.course.lock().deciding = false;
                // Between two requests it may well be possible in a moment.
                let fixed = !matches!(why, WhyNot::Freed { .. });
                let reason = if fixed {
                    TransferReason::NotTransferable
                } else {
                    TransferReason::NobodyBetter
                };
                let why = format!("it cannot go elsewhere: {why}");
                return moves::stays(&self.entry, reason, &why, received);
            }
        }
        Act::Nothing
    }
}
