//! One session's search for a link: asks the servers that [`stp_proto::course::Search`] says are
//! to be asked, and waits for what it waits for.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use stp_proto::course::{GaveUp, Search, Standing, Step, Wanted, Ways};
use stp_proto::select::Rank;

use crate::clock::{now, sleep_until};
use crate::reach::{Dialer, News, Reach};

/// The ways to the servers of a service.
pub struct Reaches<D: Dialer>(pub Vec<Arc<Reach<D>>>);

impl<D: Dialer> Ways for Reaches<D> {
    fn standing(&self, server: Rank) -> Standing {
        self.0[server].standing()
    }

    fn last_link(&self, server: Rank) -> Option<Duration> {
        self.0[server].last_link()
    }
}

/// Searches until there is a link or no hope. Dropping the future ends the search. `elsewhere`
/// comes when something that is no server of the service has answered.
///
/// # Errors
/// When no server can be had; says why.
pub async fn search<D: Dialer>(
    ways: Reaches<D>,
    news: &News,
    wanted: Wanted,
    elsewhere: impl Future<Output = ()>,
) -> Result<(Rank, D::Link), GaveUp> {
    let (mut elsewhere, mut is_heard) = (pin!(elsewhere), false);
    let mut news = news.subscribe();
    let mut search = Search::new(now(), wanted);
    let mut asking = FuturesUnordered::new();
    let mut held: Vec<(Rank, D::Link)> = Vec::new();
    let found = loop {
        match search.poll(now(), &ways) {
            Step::Ask(rank) => {
                let reach = &ways.0[rank];
                asking.push(async move { (rank, reach.link().await) });
            }
            Step::Take(rank) => break Ok(rank),
            Step::GiveUp(gave_up) => break Err(gave_up),
            Step::Wait(wake_at) => tokio::select! {
                Some((rank, link)) = asking.next() => {
                    if search.handle_link(now(), rank) {
                        held.push((rank, link));
                    } else {
                        ways.0[rank].keep(link);
                    }
                }
                () = &mut elsewhere, if !is_heard => {
                    is_heard = true;
                    search.handle_witness();
                }
                // It cannot fail: the ways hold the sender.
                _changed = news.changed() => {}
                () = sleep_until(wake_at) => {}
            },
        }
    };
    let right = found.as_ref().ok().and_then(|found| held.iter().position(|(r, _)| r == found));
    let right = right.map(|at| held.remove(at));
    // Links that came too late serve the next session.
    for (rank, link) in held {
        ways.0[rank].keep(link);
    }
    found.map(|_| right.expect("only a link that is held is taken"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reach::fake::{Server, reach};
    use stp_proto::course::{AppError, Candidate};

    /// The server that is found, of servers of which the last is the session's home.
    async fn found(servers: &[Server], home: Option<Rank>) -> Result<Rank, GaveUp> {
        let news = News::default();
        let ways = servers.iter().map(|server| reach(*server, &news).0).collect();
        let mut order: Vec<Candidate> =
            (0..servers.len()).map(|rank| Candidate { rank, not_before: None }).collect();
        order.sort_by_key(|candidate| Some(candidate.rank) != home);
        let give_up_at = home.is_none().then(|| now() + Duration::from_secs(5));
        let (lost_at, witnesses) = (now(), Vec::new());
        let wanted = Wanted { order, home, give_up_at, lost_at, bound: None, witnesses };
        let searching = search(Reaches(ways), &news, wanted, std::future::pending());
        let result = tokio::time::timeout(Duration::from_secs(15), searching).await;
        result.expect("it comes to an end").map(|(rank, _)| rank)
    }

    #[tokio::test]
    async fn a_link_comes_from_the_server_that_the_search_takes() {
        assert_eq!(found(&[Server::Refuses, Server::Up], None).await, Ok(1));
        assert_eq!(found(&[Server::Up, Server::Refuses], Some(1)).await, Ok(0));
        assert_eq!(found(&[Server::Up, Server::Up], Some(1)).await, Ok(1));
        assert_eq!(found(&[Server::Up, Server::Silent], Some(1)).await, Ok(0));
    }

    #[tokio::test]
    async fn a_search_without_hope_says_so() {
        let gave_up = found(&[Server::Refuses], None).await.expect_err("nobody is there");
        assert_eq!(gave_up.error, AppError::Refused);
        assert_eq!(gave_up.why, "as told");
    }
}
