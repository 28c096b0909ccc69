//! What happens in a daemon, as it happens: `/events`.

use std::convert::Infallible;

use axum::response::sse::Event;
use futures_util::stream::{Stream, unfold};
use serde_json::Value;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Happenings that wait for a listener; a slower one is told how many it has missed.
const WAITING_MAX: usize = 1_024;

#[derive(Debug, Clone)]
struct Told {
    kind: &'static str,
    data: String,
}

/// Where a daemon tells what happens, and any number of people listen, or nobody.
#[derive(Debug, Clone)]
pub struct Feed(broadcast::Sender<Told>);

impl Default for Feed {
    fn default() -> Feed {
        Feed(broadcast::Sender::new(WAITING_MAX))
    }
}

impl Feed {
    /// Tells something, if anybody listens.
    pub fn tell(&self, kind: &'static str, what: impl FnOnce() -> Value) {
        if self.0.receiver_count() > 0 {
            // The last listener may just have gone.
            let _nobody = self.0.send(Told { kind, data: what().to_string() });
        }
    }

    /// For one listener: the status as it is, then everything that happens.
    pub(super) fn listen<F: FnOnce() -> Value>(
        &self,
        status: F,
    ) -> impl Stream<Item = Result<Event, Infallible>> + use<F> {
        let told = self.0.subscribe();
        let first = Told { kind: "status", data: status().to_string() };
        unfold((told, Some(first)), |(mut told, first)| async move {
            let next = match first {
                Some(first) => first,
                None => match told.recv().await {
                    Ok(next) => next,
                    Err(RecvError::Lagged(count)) => {
                        Told { kind: "missed", data: count.to_string() }
                    }
                    Err(RecvError::Closed) => return None,
                },
            };
            let event = Event::default().event(next.kind).data(next.data);
            Some((Ok(event), (told, None)))
        })
    }
}
