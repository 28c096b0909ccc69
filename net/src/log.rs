//! The log: structured lines on stderr, filtered by `--log`, `SESSION_LOG`, or "info".
//!
//! Strangers make a daemon say things. So a line of one kind is written at most so often, and what
//! was left out is counted and said: a flood must not fill the disk, nor hide the other lines.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::Instant;

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, fmt};

/// Lines of one kind that are written a second, and at once.
const RATE: f64 = 20.0;
const BURST: f64 = 200.0;
/// How often it is said that lines were left out.
const SAID_EVERY_S: f64 = 10.0;

/// The environment variable that holds a filter such as `info,stp_net=debug`.
pub const VARIABLE: &str = "SESSION_LOG";

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error(
        "{from}: {text:?} is not a log filter ({source}); write a level such as \"debug\", or \
            \"info,stp_net=trace\""
    )]
    Filter {
        /// Where the text came from.
        from: &'static str,
        /// The text.
        text: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A log was set up before.
    #[error("the log is set up already: {0}")]
    Twice(#[from] TryInitError),
}

/// Sets up the log of this process; call it once. `wanted` is the command line's filter.
pub fn init(wanted: Option<&str>) -> Result<(), LogError> {
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let lines = lines.with_filter(Seldom::default());
    tracing_subscriber::registry().with(filter(wanted)?).with(lines).try_init()?;
    Ok(())
}

/// Leaves out lines of one kind that come too often. A kind is a place in the code. What is asked
/// for to find a mistake, `debug` and `trace`, is written in any case.
#[derive(Debug, Default)]
struct Seldom(Mutex<HashMap<Identifier, Bucket>>);

/// The lines of one kind that may be written now.
#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
    omitted: u64,
    said: Instant,
}

impl Seldom {
    /// Whether this line is written; and how many were not, if that is to be said now.
    fn passes(&self, kind: Identifier, now: Instant) -> (bool, u64) {
        let fresh = Bucket { left: BURST, at: now, omitted: 0, said: now };
        let mut buckets = self.0.lock();
        let bucket = buckets.entry(kind).or_insert(fresh);
        let since = |then| now.saturating_duration_since(then).as_secs_f64();
        bucket.left = (bucket.left + since(bucket.at) * RATE).min(BURST);
        bucket.at = now;
        let passes = bucket.left >= 1.0;
        if passes {
            bucket.left -= 1.0;
        } else {
            bucket.omitted += 1;
        }
        let due = bucket.omitted > 0 && since(bucket.said) >= SAID_EVERY_S;
        if due {
            bucket.said = now;
            return (passes, std::mem::take(&mut bucket.omitted));
        }
        (passes, 0)
    }
}

impl<S: Subscriber> Filter<S> for Seldom {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let about = event.metadata();
        if *about.level() > Level::INFO {
            return true;
        }
        let (passes, omitted) = self.passes(about.callsite(), Instant::now());
        if omitted > 0 {
            let place = format!("{}:{}", about.file().unwrap_or("?"), about.line().unwrap_or(0));
            let text = format!("{omitted} lines of the kind of {place} were left out of the log");
            // Who cannot be told on stderr cannot be told.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
        passes
    }
}

fn filter(wanted: Option<&str>) -> Result<EnvFilter, LogError> {
    let variable = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let (from, text) = match (wanted, variable) {
        (Some(text), _) => ("--log", text.to_owned()),
        (None, Some(text)) => (VARIABLE, text),
        (None, None) => ("default", "info".to_owned()),
    };
    EnvFilter::try_new(&text).map_err(|source| LogError::Filter { from, text, source })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_of_one_kind_are_written_so_often_and_those_left_out_are_counted() {
        static ONE: Place = Place(1);
        static OTHER: Place = Place(2);
        let (seldom, begun) = (Seldom::default(), Instant::now());
        let (mut written, mut omitted) = (0, 0);
        // A flood of 10,000 lines a second, for a minute.
        for number in 0..600_000_u32 {
            let now = begun + Duration::from_micros(u64::from(number) * 100);
            let (passes, said) = seldom.passes(Identifier(&ONE), now);
            written += u64::from(passes);
            omitted += said;
        }
        assert!((1_300..1_500).contains(&written), "{written}");
        assert!(written + omitted > 500_000, "{omitted}");
        let now = begun + Duration::from_secs(60);
        assert_eq!(seldom.passes(Identifier(&OTHER), now), (true, 0), "another kind");
        let now = begun + Duration::from_secs(80);
        assert!(seldom.passes(Identifier(&ONE), now).0, "and later on");
    }

    struct Place(#[expect(dead_code, reason = "two places differ by their address")] u8);

    impl tracing::Callsite for Place {
        fn set_interest(&self, _: tracing::subscriber::Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("only the place counts")
        }
    }

    #[test]
    fn a_bad_filter_is_refused_with_its_origin_and_a_good_one_taken() {
        let error = filter(Some("stp_net=louder")).expect_err("no such level").to_string();
        assert!(error.starts_with("--log: \"stp_net=louder\""), "{error}");
        filter(Some("info,stp_net=trace")).expect("a filter");
    }
}
