//! Deliberate mistakes in the shipped driver, the choice of servers and the HTTP service: the
//! scenarios and seeds must catch every one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Instant;

use stp_proto::session::Mutant;

use crate::{SEEDS, run, scenario};

/// The scenario or the seed that caught a mistake.
struct Catch {
    by: String,
    why: String,
}

fn fails(test: impl FnOnce()) -> Option<String> {
    let error = catch_unwind(AssertUnwindSafe(test)).err()?;
    let text = error.downcast_ref::<String>().cloned();
    let text = text.or(error.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    Some(text.unwrap_or_default())
}

fn hunt(mutant: Mutant) -> Option<Catch> {
    Mutant::set(Some(mutant));
    let by_scenario = scenario::ALL.iter().find_map(|(name, scenario)| {
        fails(scenario).map(|why| Catch { by: format!("scenario: {name}"), why })
    });
    let caught = by_scenario.or_else(|| {
        let seed = |seed| {
            fails(|| {
                run(seed, false);
            })
            .map(|why| (seed, why))
        };
        let (seed, why) = (0..SEEDS).find_map(seed)?;
        Some(Catch { by: format!("seed {seed}"), why })
    });
    Mutant::set(None);
    caught
}

#[test]
fn every_mistake_in_what_drives_sessions_is_caught() {
    std::panic::set_hook(Box::new(|_| ()));
    let todo = Mutex::new(Mutant::DRIVERS.iter());
    let rows = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = todo.lock().expect("no panic").next();
            let Some(mutant) = next else { return };
            let begun = Instant::now();
            let caught = hunt(*mutant);
            let seconds = begun.elapsed().as_secs_f64();
            rows.lock().expect("no panic").push((*mutant, caught, seconds));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let _ = std::panic::take_hook();
    let mut rows = rows.into_inner().expect("no panic");
    rows.sort_by_key(|(mutant, ..)| *mutant);
    println!("| mutant | mistake | caught by | how | s |\n|---|---|---|---|---|");
    for (mutant, caught, seconds) in &rows {
        let (by, why) = match caught {
            Some(Catch { by, why }) => (by.as_str(), why.as_str()),
            None => ("NOT CAUGHT", ""),
        };
        let why: String = why.lines().next().unwrap_or_default().chars().take(90).collect();
        println!("| {mutant:?} | {} | {by} | {why} | {seconds:.1} |", mutant.mistake());
    }
    let missed: Vec<_> = rows.iter().filter(|(_, caught, _)| caught.is_none()).collect();
    let missed: Vec<_> = missed.iter().map(|(mutant, ..)| mutant).collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
