//! Whether a session is better off elsewhere: ways compared, with the numbers for its history.

use core::time::Duration;

use super::action::{Around, Measured, Relay};
use crate::mutant::mutant;
use crate::rise::{self, Margin, Way};
use crate::select::Rank;

/// A link that lives leads to a server that is not gone, but at least this far, if its echo was
/// lost: a measurement waits this long for an answer.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// The servers to go to, best first; or why the session is to stay. Both with the numbers.
pub(super) fn servers(
    around: &impl Around,
    here: Measured<Rank>,
    others: &[Measured<Rank>],
    for_speed: bool,
) -> Result<(Vec<Rank>, String), String> {
    let name = |rank| around.server_name(rank);
    let mut said = vec![format!("{} {}", name(here.to), numbers(here.way))];
    let mut order = Vec::new();
    for other in sorted(others) {
        let told = format!("{} {}", name(other.to), numbers(other.way));
        // A server that must be left is left for one whose echo was lost as well, at last.
        let fits = match for_speed {
            true => {
                let better = rise::better(here.way, other.way, &Margin::default());
                mutant!(MeasuredIgnored, better, Ok(()))
            }
            false => Ok(()),
        };
        match fits {
            Ok(()) => {
                order.push(other.to);
                said.push(told);
            }
            Err(why) => said.push(format!("{told}: {why}")),
        }
    }
    let said = said.join(", ");
    if !order.is_empty() {
        return Ok((order, said));
    }
    Err(if others.is_empty() { format!("there is no other server: {said}") } else { said })
}

/// Another way to the session's home that is better than the present one, with the numbers; or why
/// there is none.
pub(super) fn ways(
    around: &impl Around,
    present: Measured<Option<Relay>>,
    others: &[Measured<Option<Relay>>],
) -> Result<(Option<Relay>, String), String> {
    let mut said = vec![format!("{} {}", way_name(around, present.to), numbers(present.way))];
    let mut best = None;
    for other in sorted(others) {
        let told = format!("{} {}", way_name(around, other.to), numbers(other.way));
        match rise::better(present.way, other.way, &Margin::default()) {
            Ok(()) => {
                best = best.or(Some(other.to));
                said.push(told);
            }
            Err(why) => said.push(format!("{told}: {why}")),
        }
    }
    let said = said.join(", ");
    match best {
        Some(to) => Ok((to, said)),
        None if others.is_empty() => Err(format!("no server relays to it: {said}")),
        None => Err(said),
    }
}

/// The nearest first; those that did not answer last.
fn sorted<T: Copy>(measured: &[Measured<T>]) -> Vec<Measured<T>> {
    let mut sorted = measured.to_vec();
    sorted.sort_by_key(|one| one.way.now.unwrap_or(Duration::MAX));
    sorted
}

/// What a way to a session's home is called.
pub(super) fn way_name(around: &impl Around, via: Option<Relay>) -> String {
    match via {
        Some(relay) => format!("through {}", around.relay_name(relay)),
        None => "straight".to_owned(),
    }
}

/// A way in words.
#[must_use]
pub fn numbers(way: Way) -> String {
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    match (way.now, way.base) {
        (Some(now), Some(base)) if base < now => format!("{} (at best {})", ms(now), ms(base)),
        (Some(now), _) => ms(now),
        (None, _) => "silent".to_owned(),
    }
}
