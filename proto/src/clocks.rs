//! What is to be said of clocks that differ.

/// Clocks that differ by less are not worth a word, in milliseconds. Log-ins tolerate twice as much
/// ([`crate::ticket::LEEWAY_S`]), tickets an hour.
const SAID_MS: u64 = 60_000;

/// By how many milliseconds a server's clock is ahead of ours, with the server's name.
pub type Seen = (String, i64);

/// What to tell the person who runs the programs: one line for each server whose clock is off, or
/// one for this machine if they all agree that it is its own.
#[must_use]
pub fn warnings(seen: &[Seen]) -> Vec<String> {
    let off: Vec<&Seen> =
        seen.iter().filter(|(_, ahead)| ahead.unsigned_abs() >= SAID_MS).collect();
    let aheads = || off.iter().map(|(_, ahead)| *ahead);
    if let (Some(least), Some(most)) = (aheads().min(), aheads().max())
        && off.len() > 1
        && off.len() == seen.len()
        && most.abs_diff(least) < SAID_MS
    {
        // Several clocks do not go wrong by the same.
        return vec![format!("clock of this machine is {} its servers'", apart(-most, " of"))];
    }
    off.iter().map(|(name, ahead)| format!("clock of {name} is {}", apart(*ahead, ""))).collect()
}

/// "597 s behind", or ahead.
fn apart(ahead_ms: i64, of: &str) -> String {
    let seconds = (ahead_ms.unsigned_abs() + 500) / 1_000;
    if ahead_ms < 0 { format!("{seconds} s behind") } else { format!("{seconds} s ahead{of}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(seen: &[(&str, i64)]) -> Vec<String> {
        let seen: Vec<Seen> = seen.iter().map(|(name, ms)| ((*name).to_owned(), *ms)).collect();
        warnings(&seen)
    }

    #[test]
    fn a_clock_that_is_off_is_named_and_one_that_is_nearly_right_is_not() {
        assert_eq!(said(&[("a", 59_000), ("b", -597_100)]), ["clock of b is 597 s behind"]);
        assert_eq!(said(&[("a", 0), ("b", 90_000)]), ["clock of b is 90 s ahead"]);
        assert_eq!(said(&[("a", 600_000)]), ["clock of a is 600 s ahead"], "who of the two?");
        assert!(said(&[("a", 0), ("b", -1_000)]).is_empty());
        assert!(said(&[]).is_empty());
    }

    #[test]
    fn what_all_servers_say_is_of_this_machine() {
        let two = said(&[("a", 600_000), ("b", 601_000)]);
        assert_eq!(two, ["clock of this machine is 601 s behind its servers'"]);
        let two = said(&[("a", -600_000), ("b", -600_400)]);
        assert_eq!(two, ["clock of this machine is 600 s ahead of its servers'"]);
        assert_eq!(said(&[("a", 600_000), ("b", 900_000)]).len(), 2);
        assert_eq!(said(&[("a", 600_000), ("b", 600_000), ("c", 0)]).len(), 2);
    }
}
