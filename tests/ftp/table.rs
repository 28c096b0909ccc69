//! All of it, as a table: `scripts/ftp`.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use stp_tests::scene::{Scene, play};
use stp_tests::wait;

use crate::client::{CLIENTS, Client, Mode, Operation};
use crate::fault::{FAULTS, Fault};
use crate::world::{CLIENT_MAX, Outcome, World};

/// Runs one cell.
pub fn cell(
    scene: &Scene,
    megabytes: u64,
    (client, mode, operation): (Client, Mode, Operation),
    fault: Fault,
) -> Result<Outcome> {
    let mut world = World::lay(scene, megabytes, "")?;
    let mut work = world.start(scene, client, mode, operation, 0)?;
    let third = world.payload.len / 3;
    let wanted = if operation == Operation::List { 1 } else { third };
    if fault != Fault::None {
        wait::until("a part of it", CLIENT_MAX, || {
            let over = work.process.ended()?.is_some();
            Ok((over || world.progress(&work) >= wanted).then_some(()))
        })?;
        fault.happen(scene, &mut world)?;
    }
    let outcome = world.outcome(work);
    if !outcome.as_ref().is_ok_and(|outcome| outcome.right && outcome.told) {
        for line in stp_tests::daemon::happenings(&world.broker_status()?) {
            scene.say(&format!("  broker: {line}"));
        }
    }
    outcome
}

/// What the table says of an outcome.
fn word(outcome: Result<Outcome>) -> &'static str {
    match outcome {
        Ok(Outcome { right: true, told: true, .. }) => "good",
        Ok(Outcome { right: true, told: false, .. }) => "whole, told of an error",
        Ok(Outcome { right: false, told: false, .. }) => "error told",
        Ok(Outcome { right: false, told: true, .. }) => "WRONG",
        Err(_) => "stuck",
    }
}

#[test]
#[ignore = "takes long: scripts/ftp"]
fn table() {
    let only = std::env::var("FTP_ONLY").unwrap_or_default();
    let mut lines = String::from("| client | mode | operation |");
    for fault in FAULTS {
        let _ = write!(lines, " {} |", fault.name());
    }
    lines.push_str("\n|---|---|---|");
    lines.push_str(&"---|".repeat(FAULTS.len()));
    let mut wrong = Vec::new();
    for client in CLIENTS {
        for mode in [Mode::Passive, Mode::Active] {
            for operation in [Operation::Retr, Operation::Stor, Operation::List] {
                let what = format!("{}-{mode:?}-{operation:?}", client.name());
                if !client.can(mode, operation) || !what.contains(&only) {
                    continue;
                }
                let _ = write!(lines, "\n| {} | {mode:?} | {operation:?} |", client.name());
                for fault in FAULTS {
                    let name = format!("table-{what}-{fault:?}");
                    let mut said = "skipped";
                    play(&name, |scene| {
                        let begun = std::time::Instant::now();
                        said = word(cell(scene, 40, (client, mode, operation), fault));
                        let took: Duration = begun.elapsed();
                        scene.say(&format!("{said} ({:.1} s)", took.as_secs_f64()));
                        Ok(())
                    });
                    if said == "WRONG" {
                        wrong.push(name);
                    }
                    let _ = write!(lines, " {said} |");
                }
            }
        }
    }
    println!("{lines}");
    assert!(wrong.is_empty(), "told of success for a file that is not whole: {wrong:?}");
}
