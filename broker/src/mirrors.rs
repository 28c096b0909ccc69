//! Mirrors that a program names itself: `session run --mirror`, or its environment.

use std::fs::File;
use std::io::Read;

use stp_proto::local::mirror::{Mirror, VARIABLE, list};

/// An environment is read up to here: the kernel lets one be larger, nobody needs it.
const ENVIRONMENT_MAX: u64 = 1 << 20;

/// The mirrors in the environment that the process was started with.
///
/// # Errors
/// When what stands there is no list of mirrors.
pub fn of_program(pid: i32) -> Result<Vec<Mirror>, String> {
    let mut environment = Vec::new();
    let read = File::open(format!("/proc/{pid}/environ"))
        .and_then(|file| file.take(ENVIRONMENT_MAX).read_to_end(&mut environment));
    // A program that has ended, or shows its environment to nobody, names none.
    if read.is_err() {
        return Ok(Vec::new());
    }
    of_environment(&environment)
}

fn of_environment(environment: &[u8]) -> Result<Vec<Mirror>, String> {
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables
        .find_map(|variable| variable.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"="));
    let Some(value) = value else { return Ok(Vec::new()) };
    let text = std::str::from_utf8(value).map_err(|_| format!("{VARIABLE} is no text"))?;
    list(text).map_err(|error| format!("{VARIABLE}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_found_among_others() {
        let of = |text: &str| of_environment(text.as_bytes());
        let found = of("A=1\0SESSION_MIRRORS=http://a/x,http://b\0B=2\0").expect("right");
        assert_eq!(found.len(), 2);
        assert_eq!(of("A=1\0XSESSION_MIRRORS=http://a\0"), Ok(Vec::new()));
        assert!(of("SESSION_MIRRORS=https://a").expect_err("no").contains("SESSION_MIRRORS"));
    }
}
