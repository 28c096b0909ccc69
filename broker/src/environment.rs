//! What a program's environment says to the broker: `session run` has put it there.

use std::fs::File;
use std::io::Read;

/// An environment is read up to here: the kernel lets one be larger, nobody needs it.
const ENVIRONMENT_MAX: u64 = 1 << 20;

/// A variable of the environment that a process was started with. A program that has ended, or
/// shows its environment to nobody, has none.
#[must_use]
pub fn variable(pid: i32, name: &str) -> Option<Vec<u8>> {
    let mut environment = Vec::new();
    let file = File::open(format!("/proc/{pid}/environ")).ok()?;
    file.take(ENVIRONMENT_MAX).read_to_end(&mut environment).ok()?;
    find(&environment, name)
}

/// A name that is the value of a variable; none if that is empty.
pub fn name(pid: i32, variable_name: &str) -> Option<String> {
    let name = variable(pid, variable_name).filter(|name| !name.is_empty())?;
    Some(String::from_utf8_lossy(&name).into_owned())
}

fn find(environment: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut variables = environment.split(|byte| *byte == 0);
    let found =
        variables.find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    found.map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_found_among_others() {
        let of = |text: &str| find(text.as_bytes(), "SESSION_POLICY");
        assert_eq!(of("A=1\0SESSION_POLICY=desk\0B=2\0"), Some(b"desk".to_vec()));
        assert_eq!(of("SESSION_POLICY="), Some(Vec::new()));
        assert_eq!(of("A=1\0XSESSION_POLICY=desk\0"), None);
        assert_eq!(of("SESSION_POLICY_X=1"), None);
    }
}
