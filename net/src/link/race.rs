//! Several places of one server: one is tried after the other, without waiting for each to fail
//! (RFC 8305, section 5).

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use crate::place::Place;

/// The next address is tried when the one before it has taken this long.
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// Why nothing came of any address.
#[derive(Debug)]
pub enum Lost<E> {
    /// No place is known.
    NoPlace(io::Error),
    /// What was said of the address that was tried first, or, if `telling` holds for one, of that.
    Failed(E),
}

/// Tries the addresses that are known, and those that `more` finds; gives the first success.
pub async fn race<T, E, F: Future<Output = Result<T, E>>>(
    known: Vec<Place>,
    more: impl Future<Output = io::Result<Vec<Place>>>,
    attempt: impl Fn(Place) -> F,
    telling: impl Fn(&E) -> bool,
) -> Result<T, Lost<E>> {
    let mut more = pin!(more);
    let (mut waiting, mut seen) = (VecDeque::from(known.clone()), known);
    let mut trying = FuturesUnordered::new();
    let (mut failed, mut unknown, mut looked_up) = (None, None, false);
    let mut next_at = Instant::now();
    loop {
        if (trying.is_empty() || Instant::now() >= next_at)
            && let Some(address) = waiting.pop_front()
        {
            trying.push(attempt(address));
            next_at = Instant::now() + NEXT_AFTER;
        }
        if trying.is_empty() && waiting.is_empty() && looked_up {
            let none = || io::Error::new(io::ErrorKind::NotFound, "it has no address");
            return Err(
                failed.map_or_else(|| Lost::NoPlace(unknown.unwrap_or_else(none)), Lost::Failed)
            );
        }
        tokio::select! {
            Some(outcome) = trying.next(), if !trying.is_empty() => match outcome {
                Ok(success) => return Ok(success),
                Err(error) => {
                    if failed.is_none() || telling(&error) {
                        failed = Some(error);
                    }
                    next_at = Instant::now();
                }
            },
            found = &mut more, if !looked_up => {
                looked_up = true;
                match found {
                    Ok(found) => for address in found {
                        if !seen.contains(&address) {
                            seen.push(address.clone());
                            waiting.push_back(address);
                        }
                    },
                    Err(error) => unknown = Some(error),
                }
            }
            () = sleep_until(next_at), if !waiting.is_empty() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn at(port: u16) -> Place {
        Place { host: "h".to_owned(), port }
    }

    /// Ports below 10 fail at once, ports below 20 never answer, others answer after as many ms.
    async fn attempt(address: Place) -> Result<u16, u16> {
        match address.port {
            port @ 0..10 => Err(port),
            10..20 => std::future::pending().await,
            port => {
                tokio::time::sleep(Duration::from_millis(port.into())).await;
                Ok(port)
            }
        }
    }

    async fn run(known: &[u16], more: io::Result<Vec<u16>>, after: u64) -> Result<u16, String> {
        let more = async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            more.map(|ports| ports.into_iter().map(at).collect())
        };
        let known = known.iter().map(|port| at(*port)).collect();
        let outcome = race(known, more, attempt, |port| *port == 9).await;
        outcome.map_err(|lost| match lost {
            Lost::NoPlace(error) => error.to_string(),
            Lost::Failed(port) => port.to_string(),
        })
    }

    #[tokio::test]
    async fn the_next_is_tried_when_one_fails_or_takes_long() {
        assert_eq!(run(&[1, 30], Ok(vec![]), 0).await, Ok(30));
        assert_eq!(run(&[10, 11, 30], Ok(vec![]), 0).await, Ok(30));
        // A slow one is not given up.
        assert_eq!(run(&[300, 10], Ok(vec![]), 0).await, Ok(300));
    }

    #[tokio::test]
    async fn a_name_that_is_slow_does_not_hold_up_what_is_known() {
        assert_eq!(run(&[30], Ok(vec![40]), 60_000).await, Ok(30));
        // What is known has moved: the name's address comes in.
        assert_eq!(run(&[10], Ok(vec![10, 40]), 100).await, Ok(40));
        assert_eq!(run(&[1], Ok(vec![40]), 100).await, Ok(40));
        assert_eq!(run(&[], Ok(vec![40]), 100).await, Ok(40));
    }

    #[tokio::test]
    async fn the_most_telling_failure_is_told() {
        assert_eq!(run(&[1, 2], Ok(vec![3]), 0).await, Err("1".to_owned()));
        assert_eq!(run(&[1, 9], Ok(vec![3]), 0).await, Err("9".to_owned()));
        let unknown = || Err(io::Error::other("nobody knows"));
        assert_eq!(run(&[], unknown(), 0).await, Err("nobody knows".to_owned()));
        assert_eq!(run(&[1], unknown(), 0).await, Err("1".to_owned()));
        assert_eq!(run(&[], Ok(vec![]), 0).await, Err("it has no address".to_owned()));
    }

    #[tokio::test]
    async fn an_address_is_tried_once() {
        let tried = Mutex::new(Vec::new());
        let attempt = |address: Place| {
            tried.lock().expect("no panic").push(address.port);
            async move { Err::<(), _>(address) }
        };
        let more = async { Ok(vec![at(1), at(2)]) };
        let _lost = race(vec![at(1)], more, attempt, |_| false).await;
        assert_eq!(*tried.lock().expect("no panic"), [1, 2]);
    }
}
