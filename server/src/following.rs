//! Responses of sessions elsewhere that are followed here (R69): an `http` service is asked for the
//! same response beforehand, and it is read as far as the app is there. A session that then comes
//! over goes on with that very response, so that next to nothing has to be compared, and what
//! arrives is still one answer of one server.
//!
//! An HTTP server's word for a file is not enough to keep digests by, as is done of the files of a
//! `file` service: a new build may have the same tag, date and length.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stp_drive::clock::now;
use stp_proto::replay::http::Ask;
use tokio::sync::{mpsc, oneshot};

use crate::registry::Key;
use crate::service::join::Join;
use crate::service::upstream::Target;

/// Shorter fronts are not followed: a service of the same machine sends them in a quarter of a
/// second.
pub const FRONT_MIN: u64 = 64 << 20;
/// Responses followed at a time; each is a connection to the service.
const MOST: usize = 16;
/// A response that could not be followed to its end is not asked for again before this time.
const REST: Duration = Duration::from_secs(600);
/// The task that follows gives its response away at its next step.
const HAND_OVER: Duration = Duration::from_millis(200);
/// Words that wait for it.
const INBOX: usize = 4;

enum Word {
    /// The app has more.
    WentOn(Box<Ask>),
    /// The response is needed.
    HandOver(oneshot::Sender<Join<Target>>),
}

/// One that is followed, or was.
struct One {
    request: Vec<u8>,
    inbox: mpsc::Sender<Word>,
    told: Instant,
}

impl One {
    fn is_followed(&self) -> bool {
        !self.inbox.is_closed()
    }
}

/// Those that are followed, by the session that has them elsewhere.
#[derive(Default)]
pub struct Followings(Mutex<HashMap<Key, One>>);

impl Followings {
    /// A session has this much of a response elsewhere: it is followed here, at this rate, in bytes
    /// a second.
    pub fn tell(&self, key: Key, target: &Target, ask: Ask, rate: u64) {
        let mut all = self.0.lock();
        all.retain(|_, one| one.is_followed() || one.told.elapsed() < REST);
        if let Some(one) = all.get_mut(&key).filter(|one| one.request == ask.request) {
            // One that was given up rests: it would be read again from its first byte.
            if one.inbox.try_send(Word::WentOn(Box::new(ask))).is_ok() {
                one.told = Instant::now();
            }
            return;
        }
        let followed = all.iter().filter(|(other, one)| **other != key && one.is_followed());
        if ask.have() < FRONT_MIN || followed.count() >= MOST {
            return;
        }
        let (inbox, words) = mpsc::channel(INBOX);
        all.insert(key, One { request: ask.request.clone(), inbox, told: Instant::now() });
        tokio::spawn(follow(Join::follow(now(), target, ask), words, rate));
    }

    /// The response that was followed for this session, which comes over now.
    pub async fn take(&self, key: &Key) -> Option<Join<Target>> {
        let one = self.0.lock().remove(key)?;
        let (answer, join) = oneshot::channel();
        one.inbox.try_send(Word::HandOver(answer)).ok()?;
        tokio::time::timeout(HAND_OVER, join).await.ok()?.ok()
    }
}

/// Reads it until nobody asks for it any more, or it cannot be read.
async fn follow(mut join: Join<Target>, mut words: mpsc::Receiver<Word>, rate: u64) {
    let mut not_before = tokio::time::Instant::now();
    loop {
        let due = join.due() - now();
        let read = async {
            tokio::time::sleep_until(not_before).await;
            let before = join.read();
            let step = std::future::poll_fn(|cx| match join.poll(now(), cx) {
                std::task::Poll::Ready(outcome) => std::task::Poll::Ready(Some(outcome)),
                std::task::Poll::Pending if join.read() > before => std::task::Poll::Ready(None),
                std::task::Poll::Pending => std::task::Poll::Pending,
            });
            // When it is due it must be polled: then the silence is seen.
            let step = tokio::time::timeout(due, step).await.unwrap_or(None);
            (step, join.read() - before)
        };
        tokio::select! {
            biased;
            word = words.recv() => match word {
                Some(Word::WentOn(ask)) => {
                    join.went_on(now(), &ask);
                }
                Some(Word::HandOver(answer)) => return drop(answer.send(join)),
                None => return,
            },
            (step, count) = read => {
                if let Some(Err(error)) = step {
                    return tracing::debug!(%error, read = join.read(), "follows no longer");
                }
                let takes = count.saturating_mul(1_000_000) / rate.max(1);
                not_before = tokio::time::Instant::now() + Duration::from_micros(takes);
            }
        }
    }
}
