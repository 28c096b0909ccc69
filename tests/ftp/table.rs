//! All of it, as a table: `scripts/ftp`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;
use stp_tests::scene::{Scene, play};
use stp_tests::wait;

use crate::client::{CLIENTS, Client, Mode, Operation};
use crate::fault::{FAULTS, Fault};
use crate::world::{CLIENT_MAX, Outcome, World};

/// How long a login is idle in the table; vsftpd ends one after five minutes.
const IDLE: Duration = Duration::from_secs(360);
/// Cells beside each other that mostly sleep.
const IDLE_BESIDE: usize = 8;

/// Runs one cell.
pub fn cell(
    scene: &Scene,
    megabytes: u64,
    (client, mode, operation): (Client, Mode, Operation),
    fault: Fault,
) -> Result<Outcome> {
    let mut world = World::lay(scene, megabytes, "")?;
    if fault == Fault::Idle {
        return idle(scene, &world, (client, mode, operation), IDLE);
    }
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

/// Logs in, does nothing for so long, and then does it.
pub fn idle(
    scene: &Scene,
    world: &World,
    (client, mode, operation): (Client, Mode, Operation),
    idle: Duration,
) -> Result<Outcome> {
    let mut work = world.start_after(scene, client, (mode, operation), 0, idle)?;
    wait::until("its end", idle + CLIENT_MAX, || work.process.ended())?;
    world.outcome(work)
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

type Row = (Client, Mode, Operation);

/// The size of the file, in 10⁶ bytes.
fn megabytes(operation: Operation) -> u64 {
    match operation {
        Operation::Retr => 100,
        Operation::Stor => 50,
        Operation::List => 1,
    }
}

fn rows(only: &str) -> Vec<(String, Row)> {
    let mut rows = Vec::new();
    for client in CLIENTS {
        for mode in [Mode::Passive, Mode::Active] {
            for operation in [Operation::Retr, Operation::Stor, Operation::List] {
                let what = format!("{}-{mode:?}-{operation:?}", client.name());
                if client.can(mode, operation) && what.contains(only) {
                    rows.push((what, (client, mode, operation)));
                }
            }
        }
    }
    rows
}

/// Runs cells beside each other, and says what became of each.
fn play_all(cells: Vec<(usize, String, Row, Fault)>, beside: usize) -> Cells {
    let (queue, said) = (Mutex::new(cells.into_iter()), Mutex::new(Cells::new()));
    let next = || queue.lock().ok()?.next();
    std::thread::scope(|scope| {
        for _ in 0..beside {
            scope.spawn(|| {
                while let Some((at, what, row, fault)) = next() {
                    let mut word_said = "skipped";
                    play(&format!("table-{what}-{fault:?}"), |scene| {
                        let begun = std::time::Instant::now();
                        word_said = word(cell(scene, megabytes(row.2), row, fault));
                        let took = begun.elapsed().as_secs_f64();
                        scene.say(&format!("{word_said} ({took:.1} s)"));
                        Ok(())
                    });
                    if let Ok(mut said) = said.lock() {
                        said.insert((at, fault.name()), word_said);
                    }
                }
            });
        }
    });
    said.into_inner().unwrap_or_default()
}

type Cells = BTreeMap<(usize, &'static str), &'static str>;

#[test]
#[ignore = "takes long: scripts/ftp"]
fn table() {
    let wish = |name: &str| std::env::var(name).unwrap_or_default();
    let (rows, only) = (rows(&wish("FTP_ONLY")), wish("FTP_FAULT"));
    let faults: Vec<Fault> = FAULTS.into_iter().filter(|it| it.name().contains(&only)).collect();
    let cells = |idle: bool| {
        let mut cells = Vec::new();
        for (at, (what, row)) in rows.iter().enumerate() {
            let wanted = faults.iter().filter(|fault| (**fault == Fault::Idle) == idle);
            let able = wanted.filter(|_| !idle || row.0.idles());
            cells.extend(able.map(|fault| (at, what.clone(), *row, *fault)));
        }
        cells
    };
    let mut said = play_all(cells(true), IDLE_BESIDE);
    said.extend(play_all(cells(false), wish("FTP_BESIDE").parse().unwrap_or(1)));
    let mut lines = String::from("| client | mode | operation |");
    for fault in &faults {
        let _ = write!(lines, " {} |", fault.name());
    }
    let _ = write!(lines, "\n|---|---|---|{}", "---|".repeat(faults.len()));
    for (at, (_, (client, mode, operation))) in rows.iter().enumerate() {
        let _ = write!(lines, "\n| {} | {mode:?} | {operation:?} |", client.name());
        for fault in &faults {
            let _ = write!(lines, " {} |", said.get(&(at, fault.name())).unwrap_or(&"–"));
        }
    }
    println!("{lines}");
    let wrong: Vec<_> = said.iter().filter(|(_, word)| **word == "WRONG").collect();
    assert!(wrong.is_empty(), "told of success for a file that is not whole: {wrong:?}");
}
