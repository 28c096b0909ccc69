//! The log: structured lines on stderr, filtered by `--log`, `SESSION_LOG`, or "info".

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;

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
    use tracing_subscriber::util::SubscriberInitExt;
    tracing_subscriber::fmt()
        .with_env_filter(filter(wanted)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .finish()
        .try_init()?;
    Ok(())
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
    use super::*;

    #[test]
    fn a_bad_filter_is_refused_with_its_origin_and_a_good_one_taken() {
        let error = filter(Some("stp_net=louder")).expect_err("no such level").to_string();
        assert!(error.starts_with("--log: \"stp_net=louder\""), "{error}");
        filter(Some("info,stp_net=trace")).expect("a filter");
    }
}
