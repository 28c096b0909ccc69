//! Each client by itself beside the same client in a session, and lftp with its own way to go on:
//! `scripts/compare --ftp`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Result;
use stp_tests::process::Plan;
use stp_tests::scene::{Scene, play};
use stp_tests::wait;

use crate::client::{ANONYMOUS, Account, Client, Mode, Operation, Order};
use crate::fault::Fault;
use crate::world::{CLIENT, CLIENT_MAX, Work, World};

/// Nobody is waited for longer.
const BOUND: Duration = Duration::from_secs(60);
const MEGABYTES: u64 = 40;
const FAULTS: [Fault; 5] = [Fault::None, Fault::Cut, Fault::Address, Fault::Ftp, Fault::Silent];

/// A row.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Bare,
    /// lftp, which asks again by itself; without a session.
    OwnResume,
    Session,
}

fn rows() -> Vec<(String, Client, Way)> {
    let mut rows = Vec::new();
    let clients =
        [Client::Curl, Client::Wget, Client::Tnftp, Client::Ncftp, Client::Ftplib, Client::Lftp];
    for client in clients {
        rows.push((client.name().to_owned(), client, Way::Bare));
        if client == Client::Lftp {
            rows.push(("lftp, its own `get -c`".to_owned(), client, Way::OwnResume));
        }
        rows.push((format!("**{}, session**", client.name()), client, Way::Session));
    }
    rows
}

fn start(scene: &Scene, world: &World, client: Client, way: Way) -> Result<Work> {
    if way == Way::Session {
        return world.start(scene, client, Mode::Passive, Operation::Retr, 0);
    }
    let host = world.topology.hosts[1].address();
    let dir = scene.subdir("bare")?;
    let local = dir.join(if client == Client::Ncftp { "big" } else { "got" });
    let account = Account { host: &host, ..ANONYMOUS };
    let (mode, operation) = (Mode::Passive, Operation::Retr);
    let plan = if way == Way::OwnResume {
        let script = format!("open {host}; get -c big -o {}", local.display());
        Plan::new("lftp").called("client").args(&["--norc", "-c", &script])
    } else {
        client.plan(None, &Order { account, mode, operation, local: &local, idle: 0 })?
    };
    let process = plan.start(scene, Some(&world.topology.hosts[CLIENT].namespace))?;
    Ok(Work { process, client, operation, local })
}

/// How long it took, and how it ended.
fn run(scene: &Scene, client: Client, way: Way, fault: Fault) -> Result<(f64, &'static str)> {
    let mut world = World::lay(scene, MEGABYTES, "")?;
    let begun = Instant::now();
    let mut work = start(scene, &world, client, way)?;
    if fault != Fault::None {
        let third = world.payload.len / 3;
        wait::until("a third of it", CLIENT_MAX, || {
            let over = work.process.ended()?.is_some();
            Ok((over || world.progress(&work) >= third).then_some(()))
        })?;
        let place = if way == Way::Session { world.serving()? } else { 0 };
        fault.strike(scene, &mut world, place)?;
    }
    let left = BOUND.saturating_sub(begun.elapsed());
    let ended = wait::until("its end", left, || work.process.ended());
    let took = begun.elapsed().as_secs_f64();
    if ended.is_err() {
        return Ok((took, "never"));
    }
    let outcome = world.outcome(work)?;
    Ok((
        took,
        match (outcome.right, outcome.told) {
            (true, true) => "right",
            (false, true) => "wrong",
            (_, false) => "failed",
        },
    ))
}

type Cells = BTreeMap<(usize, &'static str), (f64, &'static str)>;

fn written(cells: &Cells, at: usize, fault: Fault) -> String {
    let Some((took, end)) = cells.get(&(at, fault.name())) else { return "–".to_owned() };
    let plain = cells.get(&(at, Fault::None.name())).map_or(0.0, |(took, _)| *took);
    match *end {
        "right" if fault == Fault::None => format!("{took:.1} s"),
        "right" => format!("{:+.1} s", took - plain),
        "wrong" => "**wrong bytes, told of success**".to_owned(),
        "failed" => format!("fails after {took:.0} s"),
        _ => format!("> {} s", BOUND.as_secs()),
    }
}

#[test]
#[ignore = "takes long: scripts/compare --ftp"]
fn ftp() {
    let rows = rows();
    let count = rows.len();
    let jobs = FAULTS.iter().flat_map(|fault| (0..count).map(move |at| (at, *fault)));
    let jobs: Vec<_> = jobs.collect();
    let beside = std::env::var("FTP_BESIDE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let (queue, cells) = (Mutex::new(jobs.into_iter()), Mutex::new(Cells::new()));
    let next = || queue.lock().ok()?.next();
    std::thread::scope(|scope| {
        for _ in 0..beside {
            scope.spawn(|| {
                while let Some((at, fault)) = next() {
                    let (_, client, way) = &rows[at];
                    let mut cell = None;
                    play(&format!("compare-ftp-{at}-{fault:?}"), |scene| {
                        cell = Some(run(scene, *client, *way, fault)?);
                        Ok(())
                    });
                    if let (Some(cell), Ok(mut cells)) = (cell, cells.lock()) {
                        cells.insert((at, fault.name()), cell);
                    }
                }
            });
        }
    });
    let cells = cells.into_inner().unwrap_or_default();
    let mut text = String::from("| |");
    for fault in FAULTS {
        let _ = write!(text, " {} |", fault.name());
    }
    let _ = write!(text, "\n|---|{}", "--:|".repeat(FAULTS.len()));
    for (at, (name, ..)) in rows.iter().enumerate() {
        let _ = write!(text, "\n| {name} |");
        for fault in FAULTS {
            let _ = write!(text, " {} |", written(&cells, at, fault));
        }
    }
    println!("{text}");
    let lies =
        cells.iter().filter(|((at, _), (_, end))| rows[*at].2 == Way::Session && *end == "wrong");
    assert_eq!(lies.count(), 0, "told of success without the file");
}
