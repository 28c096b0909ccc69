//! `scripts/compare`: the same file and the same faults for the programs people download with, and
//! for curl and wget in a session. Each run has its own namespaces; several run beside each other,
//! because most of them wait. The tables on stdout are the result, progress goes to stderr.
#![allow(clippy::print_stdout, reason = "the tables are what this program is for")]

mod crowd;
mod fault;
mod run;
mod table;
mod tool;
mod tunnel;
#[path = "../lab/world.rs"]
#[allow(dead_code, reason = "the lab uses all of it")]
mod world;

use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};
use stp_tests::emulator::Shape;

use fault::{Fault, MEGABYTES};
use run::Outcome;
use table::Row;
use tool::{PLAIN, SESSION, TLS, TOOLS, Tool};
use world::Layout;

const USAGE: &str = "usage: compare [--https] [--quick] [--only TEXT] [--fault TEXT] [--beside N]\n\
    \x20 --crowd      a server that dies under many sessions, and nothing else\n\
    \x20 --tunnels    curl through tunnels and proxies, whose daemons are killed as well\n\
    \x20 --https      by HTTPS, from two mirrors with one certificate\n\
    \x20 --quick      only a link that is down 5 s, a new address and a server that dies\n\
    \x20 --only TEXT  only the programs whose line has this in its name\n\
    \x20 --fault TEXT only the faults whose heading has this in it\n\
    \x20 --beside N   runs beside each other (default 8)";

const LOSSES: [(&str, f64); 3] = [("0 %", 0.0), ("0.1 %", 0.001), ("1 %", 0.01)];
const LOSSY_MBIT: u64 = 100;

fn main() -> ExitCode {
    match obey() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn obey() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "it makes network namespaces: run it as root");
    let (mut quick, mut tls, mut many, mut tunnels, mut beside) = (false, false, false, false, 8);
    let (mut only, mut column) = (String::new(), String::new());
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--quick" => quick = true,
            "--https" => tls = true,
            "--crowd" => many = true,
            "--tunnels" => tunnels = true,
            "--only" => only = rest.next().context(USAGE)?,
            "--fault" => column = rest.next().context(USAGE)?,
            "--beside" => beside = rest.next().context(USAGE)?.parse().context(USAGE)?,
            _ => bail!("{USAGE}"),
        }
    }
    if many {
        println!("{}", crowd::table(quick)?);
        return Ok(());
    }
    if tunnels {
        let rows = tunnel::rows(&only, beside)?;
        println!("{}", table::summary(&rows, &tunnel::headings()));
        return Ok(());
    }
    let mut faults: Vec<Fault> = match quick {
        true => vec![Fault::Down(5), Fault::Address, Fault::Machine],
        false if tls => Fault::TLS.to_vec(),
        false => Fault::ALL.to_vec(),
    };
    let tools = if tls { TLS } else { TOOLS };
    faults.retain(|fault| fault.name().contains(&column));
    let tools: Vec<Tool> = tools.iter().copied().filter(|tool| tool.name.contains(&only)).collect();
    let rows = faulty(&tools, &faults, beside)?;
    let headings: Vec<String> = faults.iter().map(|fault| fault.name()).collect();
    println!("{}", table::summary(&rows, &headings));
    if !quick && !tls && column.is_empty() {
        println!("{}", lossy(beside)?);
    }
    println!("{}", table::details(&rows, &headings));
    Ok(())
}

/// Every program under every fault.
fn faulty(tools: &[Tool], faults: &[Fault], beside: usize) -> Result<Vec<Row>> {
    let mut jobs = Vec::new();
    for fault in std::iter::once(&Fault::None).chain(faults) {
        for (number, tool) in tools.iter().enumerate() {
            let name = format!("{}.{number}", fault.name().replace([' ', ','], "-"));
            jobs.push(move || run::under(&name, *tool, *fault));
        }
    }
    let outcomes = all(jobs, beside)?;
    let row = |number: usize| {
        let mut its = outcomes.iter().skip(number).step_by(tools.len()).copied();
        let plain = its.next().context("the undisturbed runs come first")?;
        Ok(Row { name: tools[number].name, plain, under: its.map(Some).collect() })
    };
    (0..tools.len()).map(row).collect()
}

/// Random loss at 40 ms: the plain program, and sessions over two kinds of links.
fn lossy(beside: usize) -> Result<String> {
    let ways: [(&str, Tool, &'static str); 3] = [
        ("curl", PLAIN, ""),
        ("curl, session (BBR)", SESSION, "bbr"),
        ("curl, session (CUBIC)", SESSION, "cubic"),
    ];
    let mut jobs = Vec::new();
    for (number, (_, tool, congestion)) in ways.into_iter().enumerate() {
        for (chance, loss) in LOSSES {
            let name = format!("loss-{}.{number}", chance.replace([' ', '%'], ""));
            let access = Shape { loss, ..Shape::of(LOSSY_MBIT, 20) };
            jobs.push(move || {
                let layout =
                    Layout { megabytes: MEGABYTES, access, congestion, ..Layout::default() };
                run::on(&name, tool, &layout, Fault::None)
            });
        }
    }
    let outcomes: Vec<Vec<Outcome>> =
        all(jobs, beside)?.chunks(LOSSES.len()).map(<[Outcome]>::to_vec).collect();
    let names = ways.map(|(name, ..)| name);
    let chances = LOSSES.map(|(chance, _)| chance);
    Ok(table::loss(&names, &chances, &outcomes, MEGABYTES))
}

/// Runs all jobs, a number of them at a time; the outcomes are in the order of the jobs.
fn all<T, J>(jobs: Vec<J>, beside: usize) -> Result<Vec<T>>
where
    T: Send,
    J: FnOnce() -> Result<T> + Send,
{
    let slots: Vec<Mutex<Option<T>>> = jobs.iter().map(|_| Mutex::default()).collect();
    let queue = Mutex::new(jobs.into_iter().enumerate());
    let next = || queue.lock().ok()?.next();
    std::thread::scope(|scope| {
        let worker = || -> Result<()> {
            while let Some((number, job)) = next() {
                let outcome = job()?;
                if let Ok(mut slot) = slots[number].lock() {
                    *slot = Some(outcome);
                }
            }
            Ok(())
        };
        let workers: Vec<_> = (0..beside.max(1)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("runs catch panics"))
    })?;
    let done = slots.into_iter().map(|slot| slot.into_inner().ok().flatten());
    done.map(|outcome| outcome.context("a run is missing")).collect()
}
