//! Measures how far servers are, for a session that has to choose.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use stp_proto::course::{FIRST_MAX, Measured, PATIENCE, first_longer};
use stp_proto::select::Rank;
use tokio::time::timeout;

use crate::service::Server;

/// A measurement of another session that is not older is as good as one's own.
pub const SAME: Duration = Duration::from_millis(250);

/// STP 3: measures these servers before a session's first choice, those that are not known.
pub async fn before_first_choice(servers: &[Arc<Server>], first: &[Rank]) {
    let mut asked = FuturesUnordered::new();
    for rank in first {
        let server = Arc::clone(&servers[*rank]);
        if server.distance.is_fresh() || !server.reach.is_open() {
            continue;
        }
        let known = server.distance.way().now.is_some();
        let measured = tokio::spawn(async move {
            server.distance.measure(server.reach.dialer().find(), FIRST_MAX, FIRST_MAX).await
        });
        // What is merely old is good enough for this session, and fresh for the next.
        if !known {
            asked.push(measured);
        }
    }
    // A server that is much farther than the nearest, or silent, is not waited for.
    let all = async {
        let begun = Instant::now();
        while let Some(way) = asked.next().await {
            if way.is_ok_and(|way| way.now.is_some()) {
                let rest = async { while asked.next().await.is_some() {} };
                let _late = timeout(first_longer(begun.elapsed()), rest).await;
                break;
            }
        }
    };
    let _late = timeout(FIRST_MAX, all).await;
}

/// Measures a session's home and the others at once, the others in random order.
pub async fn servers(
    servers: Vec<Arc<Server>>,
    home: Rank,
    mut others: Vec<Rank>,
    mut random: impl FnMut() -> u64,
) -> Vec<Measured<Rank>> {
    for k in (1..others.len()).rev() {
        let other = usize::try_from(random() % (k as u64 + 1)).unwrap_or(0);
        others.swap(k, other);
    }
    let asked = std::iter::once(home).chain(others).map(|rank| {
        let server = Arc::clone(&servers[rank]);
        async move {
            let at = server.reach.dialer().find();
            Measured { to: rank, way: server.distance.measure(at, SAME, PATIENCE).await }
        }
    });
    futures_util::future::join_all(asked).await
}
