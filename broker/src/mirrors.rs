//! Mirrors that a program names itself: `session run --mirror`, or its environment.

use stp_proto::local::mirror::{Mirror, VARIABLE, list};

use crate::environment::variable;

/// The mirrors in the environment that the process was started with.
///
/// # Errors
/// When what stands there is no list of mirrors.
pub fn of_program(pid: i32) -> Result<Vec<Mirror>, String> {
    of_value(variable(pid, VARIABLE))
}

fn of_value(value: Option<Vec<u8>>) -> Result<Vec<Mirror>, String> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let text = str::from_utf8(&value).map_err(|_| format!("{VARIABLE} is no text"))?;
    list(text).map_err(|error| format!("{VARIABLE}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_variable_holds_is_a_list() {
        let of = |text: &str| of_value(Some(text.as_bytes().to_vec()));
        assert_eq!(of("http://a/x,http://b").expect("right").len(), 2);
        assert_eq!(of_value(None), Ok(Vec::new()));
        assert!(of("https://a").expect_err("no").contains("SESSION_MIRRORS"));
    }
}
