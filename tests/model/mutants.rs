//! Deliberate mistakes in the rules: the checker must catch every one. If a checker caught none of
//! them, its approval of the right rules would say nothing.

use stp_proto::session::Mutant;

use crate::explore::{Report, Verdict, explore};
use crate::plan::{CALM, Plan};
use crate::world::World;

/// Small runs that are tried in turn.
pub const HUNTS: &[Plan] = &[
    Plan { name: "M1 calm", up: 2, down: 1, cuts: [1, 1], ..CALM },
    Plan { name: "M2 fault", faults: 1, cuts: [1, 1], established: true, ack_timer: true, ..CALM },
    Plan { name: "M3 connect", faults: 2, ..CALM },
    Plan { name: "M4 suspend", suspends: [1, 1], faults: 1, established: true, ..CALM },
    Plan { name: "M5 replay", replays: 1, faults: 1, ..CALM },
    Plan {
        name: "M6 window",
        up: 3,
        down: 1,
        send_buffer: 2,
        receive_buffer: 2,
        ack_every: 2,
        ack_timer: true,
        lazy: true,
        established: true,
        ..CALM
    },
    Plan { name: "M7 abort", aborts: [1, 0], faults: 1, ..CALM },
    Plan {
        name: "M8 crash",
        replayable: true,
        crashes: 1,
        faults: 1,
        ack_timer: true,
        established: true,
        ..CALM
    },
    Plan {
        name: "M9 slow service",
        replayable: true,
        crashes: 1,
        lazy: true,
        ack_timer: true,
        established: true,
        ..CALM
    },
    Plan { name: "M10 read on", faults: 1, batch: 2, established: true, ..CALM },
    Plan {
        name: "M11 read on, crash",
        replayable: true,
        crashes: 1,
        faults: 1,
        batch: 2,
        ack_timer: true,
        established: true,
        ..CALM
    },
    Plan {
        name: "M12 abort, suspend",
        faults: 1,
        suspends: [0, 1],
        aborts: [1, 0],
        down: 0,
        established: true,
        ..CALM
    },
    Plan { name: "M13 service aborts", aborts: [0, 1], faults: 1, ..CALM },
    Plan { name: "M14 abort, cuts", cuts: [0, 1], aborts: [1, 0], established: true, ..CALM },
    Plan {
        name: "M15 move",
        replayable: true,
        moves: 1,
        faults: 2,
        up: 0,
        established: true,
        ..CALM
    },
    Plan {
        name: "M17 beside",
        replayable: true,
        moves: 1,
        beside: true,
        up: 1,
        down: 2,
        established: true,
        ..CALM
    },
    Plan {
        name: "M18 beside, wrong copy",
        replayable: true,
        moves: 1,
        beside: true,
        differs: Some(1),
        up: 0,
        down: 2,
        established: true,
        ..CALM
    },
    Plan { name: "M19 urgent", faults: 1, established: true, urgent: true, ..CALM },
    Plan {
        name: "M20 urgent, slow",
        faults: 1,
        lazy: true,
        established: true,
        urgent: true,
        ..CALM
    },
    Plan { name: "M16 cuts", cuts: [2, 2], faults: 1, up: 2, established: true, ..CALM },
];

/// The same for what outlives a process.
const RESTARTS: &[Plan] = &[
    Plan {
        name: "M21 the broker's process dies",
        restarts: [1, 0],
        lazy: true,
        ack_timer: true,
        established: true,
        ..CALM
    },
    Plan {
        name: "M22 it dies, and cuts are proposed",
        restarts: [1, 0],
        cuts: [1, 1],
        established: true,
        ..CALM
    },
];

/// The first hunt that catches a mutant.
fn hunt(hunts: &[Plan], mutant: Mutant) -> Option<(&'static str, Report)> {
    hunts.iter().find_map(|hunt| {
        let plan = Plan { mutant: Some(mutant), ..hunt.clone() };
        let report = explore(&mut World::new(plan), 3_000_000);
        (report.verdict != Verdict::Holds).then_some((hunt.name, report))
    })
}

#[test]
fn every_mistake_in_the_rules_is_caught() {
    catch_all(HUNTS, Mutant::RULES.iter());
}

/// The one that is left out is about a byte that only the broker's socket hands on; the unit tests
/// catch it.
#[test]
fn every_mistake_in_what_outlives_a_process_is_caught() {
    let remains = Mutant::REMAINS.iter().filter(|mutant| **mutant != Mutant::LookedAtForgotten);
    catch_all(RESTARTS, Mutant::PAGES.iter().chain(remains));
}

fn catch_all<'m>(hunts: &[Plan], mutants: impl Iterator<Item = &'m Mutant>) {
    let mut missed = Vec::new();
    println!(
        "| mutant | mistake | caught by | run | states | trace | s |\n|---|---|---|---|---|---|---|"
    );
    for mutant in mutants {
        let Some((run, report)) = hunt(hunts, *mutant) else {
            println!("| {mutant:?} | {} | NOT CAUGHT | | | | |", mutant.mistake());
            missed.push(*mutant);
            continue;
        };
        let property = match &report.verdict {
            Verdict::Broken(what) => what.clone(),
            Verdict::DeadEnd => "P7 goal: dead end".to_owned(),
            Verdict::Lost { states } => format!("P7 goal: lost in {states} states"),
            Verdict::TooMany => "more states than the right rules have".to_owned(),
            Verdict::Holds => unreachable!("not caught"),
        };
        println!(
            "| {mutant:?} | {} | {property} | {run} | {} | {} | {:.1} |",
            mutant.mistake(),
            report.states,
            report.trace.len(),
            report.took.as_secs_f64()
        );
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[test]
fn the_right_rules_pass_every_hunt() {
    for hunt in HUNTS.iter().chain(RESTARTS) {
        let report = explore(&mut World::new(hunt.clone()), 3_000_000);
        assert_eq!(report.verdict, Verdict::Holds, "{}: {:#?}", hunt.name, report.trace);
        println!("{}: {report}", hunt.name);
    }
}
