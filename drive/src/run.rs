//! Runs a driver in a task: with the machine's clock, a timer and real wakers.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use stp_proto::session::Session;
use tokio::sync::mpsc;
use tokio::time::Sleep;

use crate::clock::now;
use crate::command::Command;
use crate::driver::{Driver, Start, Turn};
use crate::far::Far;
use crate::near::Near;
use crate::stake::Stake;
use crate::status::SessionStatus;

/// Runs a session to its end and returns why it ended; what it holds is noted in its stake. The
/// near side is shut by then.
pub async fn run<N: Near, F: Far>(
    session: Session,
    near: N,
    far: F,
    inbox: mpsc::Receiver<Command<F::Link>>,
    start: Start<F::Link>,
    (status, stake): (Arc<SessionStatus>, Stake),
) -> String {
    let driver = Driver::new(session, near, far, inbox, start, status);
    let mut driver = driver.with_stake(stake);
    let mut sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
    poll_fn(|cx| {
        loop {
            let now = now();
            match driver.turn(now, cx) {
                Turn::Again => {}
                Turn::Over(reason) => return Poll::Ready(reason),
                Turn::Waits(at) => {
                    let in_time = at.map(|at| poll_sleep(sleep.as_mut(), cx, at - now));
                    if in_time.is_none_or(|slept| slept.is_pending()) {
                        return Poll::Pending;
                    }
                }
            }
        }
    })
    .await
}

fn poll_sleep(mut sleep: Pin<&mut Sleep>, cx: &mut Context<'_>, pause: Duration) -> Poll<()> {
    sleep.as_mut().reset(tokio::time::Instant::now() + pause);
    sleep.poll(cx)
}
