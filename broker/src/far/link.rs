//! What is noted when a link of a session comes up or goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stp_drive::Act;
use stp_proto::course::{FailureKind, Standing};
use stp_proto::select::Rank;
use stp_proto::session::{Attempt, LostCause, Session};

use super::SessionFar;
use crate::relay;

impl SessionFar {
    pub(super) fn attached(
        &self,
        session: &Session,
        attempt: Attempt,
        gap: Duration,
        received: u64,
    ) {
        let mut course = self.entry.course.lock();
        let from = course.choice.last();
        let to = course.trying.take();
        course.attached = true;
        course.unanswered = 0;
        course.came_from = from.filter(|from| to.is_some_and(|to| to != *from));
        let gap = course.away_since.take().map_or(gap, |since| gap.max(since.elapsed()));
        if let Some(rank) = to {
            course.choice.taken_by(rank);
            self.entry.service.servers[rank].named(session.server());
            self.broker.overloaded.lock().remove(&(self.entry.service_number, rank));
        }
        let what = match attempt {
            Attempt::Connect => "connected",
            Attempt::Resume => "resumed",
            Attempt::Transfer => "transferred",
        };
        let name = |rank| self.entry.service.server_name(rank);
        let mut cause = std::mem::take(&mut course.lost);
        let plan = course.plan.take();
        let via = course.trying_via.take();
        if let Some(turn) = course.turn.take() {
            if turn.congested {
                let now = self.broker.now();
                course.cool.moved(now);
            }
            cause = turn.why;
        }
        if via.is_some() || course.via.is_some() {
            cause += &via
                .as_ref()
                .map_or("; straight".to_owned(), |v| format!("; through {}", v.name()));
        }
        course.via = via;
        if course.via.is_some() && !std::mem::replace(&mut course.watched, true) {
            tokio::spawn(relay::watch(Arc::clone(&self.broker), Arc::clone(&self.entry)));
        }
        match (course.came_from, plan) {
            (Some(rank), Some(plan)) => {
                if plan.congested {
                    let (now, left) = (self.broker.now(), (self.entry.service_number, rank));
                    course.cool.moved(now);
                    self.broker.overloaded.lock().add(now, left, Duration::ZERO);
                }
                cause = plan.why;
            }
            (Some(rank), None) => cause += &self.why_left(rank),
            (None, _) => {}
        }
        let mut history = self.entry.history(what, cause, received);
        drop(course);
        let gap_ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
        history.gap_ms = (attempt != Attempt::Connect).then_some(gap_ms);
        history.from_server = from.map(name);
        history.to_server = to.or(from).map(name);
        let server = history.to_server.as_deref().unwrap_or_default();
        if attempt == Attempt::Connect {
            let destination = &self.entry.destination;
            tracing::info!(session = self.entry.id, server, %destination, "connected");
        } else {
            let cause = &history.cause;
            tracing::info!(session = self.entry.id, server, gap_ms, at_byte = received, %cause, "{what}");
        }
        self.broker.count_attach(attempt);
        self.entry.status.record(history);
    }

    /// What is known of the server that a session left.
    fn why_left(&self, rank: Rank) -> String {
        let server = &self.entry.service.servers[rank];
        match server.reach.standing() {
            Standing::Open => String::new(),
            Standing::Away { last, .. } if last.kind == FailureKind::Refused => {
                format!(", {} is gone", server.name())
            }
            Standing::Away { .. } => format!(", {} is out of reach", server.name()),
        }
    }

    pub(super) fn lost(&self, cause: LostCause, received: u64) -> Act {
        let mut course = self.entry.course.lock();
        course.local = None;
        let was_attached = std::mem::take(&mut course.attached);
        // A dial to another server, or by another way, may be under way: all servers are to be asked
        // now.
        let planned = was_attached && course.plan.take().is_some();
        let tried = course.trying.take();
        let home = course.choice.last();
        let turned = course.turn.take().is_some();
        let via = course.trying_via.take().or_else(|| course.via.clone());
        if let Some(rank) = tried.or(home) {
            let reach = match &via {
                Some(via) => &via.reach,
                None => &self.entry.service.servers[rank].reach,
            };
            match cause {
                LostCause::Broken => reach.lost(),
                LostCause::Silent | LostCause::Unanswered => reach.suspect(),
                LostCause::Overtaken => {}
            }
        }
        if cause == LostCause::Unanswered {
            match tried {
                Some(rank) if Some(rank) == course.choice.home() => course.unanswered += 1,
                Some(rank) => {
                    let name = (self.entry.service_number, rank);
                    self.broker.overloaded.lock().add(self.broker.now(), name, Duration::ZERO);
                }
                None => {}
            }
        }
        let silence = match cause {
            LostCause::Silent => self.broker.config.limits.silence,
            LostCause::Broken | LostCause::Unanswered | LostCause::Overtaken => Duration::ZERO,
        };
        course.away_since.get_or_insert(Instant::now() - silence);
        if was_attached {
            let text = match cause {
                LostCause::Broken => "link broke",
                LostCause::Silent => "link silent",
                LostCause::Unanswered => "attempt unanswered",
                LostCause::Overtaken => "overtaken",
            };
            text.clone_into(&mut course.lost);
            drop(course);
            tracing::info!(session = self.entry.id, at_byte = received, "{text}");
            self.entry.record("lost", text.to_owned(), received);
        }
        if planned || (was_attached && turned) { Act::Retry } else { Act::Nothing }
    }
}
