//! Ten clients at once through one broker, for a minute of random faults: no file is wrong, and no
//! client is told of success for one that is not whole. In CI for a few seconds.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use stp_tests::scene::{Scene, play};

use crate::client::{CLIENTS, Client, Mode, Operation};
use crate::fault::Fault;
use crate::world::{CLIENT, Work, World};

const AT_ONCE: usize = 10;

/// What became of all that was begun.
#[derive(Default, Debug)]
struct Tally {
    whole: usize,
    told_of_an_error: usize,
    lies: Vec<String>,
}

impl Tally {
    fn add(&mut self, world: &World, work: Work) -> Result<()> {
        let what = format!("{} {:?}", work.client.name(), work.operation);
        let outcome = world.outcome(work)?;
        match (outcome.right, outcome.told) {
            (true, _) => self.whole += 1,
            (false, false) => self.told_of_an_error += 1,
            (false, true) => self.lies.push(format!("{what}: {}", outcome.said)),
        }
        Ok(())
    }
}

fn begin(scene: &Scene, world: &World, random: &mut fastrand::Rng, number: usize) -> Result<Work> {
    let client = CLIENTS[number % CLIENTS.len()];
    let mut mode = if random.bool() { Mode::Passive } else { Mode::Active };
    if client == Client::Busybox {
        mode = Mode::Passive;
    }
    // ncftpls lists to its output, which all clients of one name share.
    let lists = client != Client::Ncftp && client.can(mode, Operation::List);
    let list = random.u8(..4) == 0 && lists;
    let operation = if list { Operation::List } else { Operation::Retr };
    world.start(scene, client, mode, operation, number)
}

/// One of the faults; the machines are whole again afterwards.
fn happen(scene: &Scene, world: &mut World, random: &mut fastrand::Rng) -> Result<()> {
    let pause = Duration::from_millis(random.u64(300..3_000));
    let place = random.usize(..world.servers.len());
    match random.u8(..5) {
        0 => Fault::Address.happen(scene, world),
        1 => {
            world.topology.cut(CLIENT, 0, true)?;
            std::thread::sleep(pause);
            world.topology.cut(CLIENT, 0, false)
        }
        2 => {
            world.topology.cut(place + 1, 0, true)?;
            std::thread::sleep(pause * 2);
            world.topology.cut(place + 1, 0, false)
        }
        3 => {
            world.ftp[place].kill()?;
            std::thread::sleep(pause);
            world.ftp[place].restart(scene, &world.topology.hosts[place + 1].namespace)
        }
        _ => {
            world.servers[place].kill()?;
            std::thread::sleep(pause);
            world.servers[place].restart(scene, &world.topology.hosts[place + 1].namespace)
        }
    }
}

fn crowd(scene: &Scene, lasts: Duration, seed: u64) -> Result<Tally> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::lay(scene, 10, "")?;
    let (begun, mut tally) = (Instant::now(), Tally::default());
    let (mut works, mut number, mut faults) = (Vec::<Work>::new(), 0, 0);
    while begun.elapsed() < lasts {
        let mut at_work = Vec::new();
        for mut work in works {
            if work.process.ended()?.is_some() {
                tally.add(&world, work)?;
            } else {
                at_work.push(work);
            }
        }
        works = at_work;
        while works.len() < AT_ONCE {
            works.push(begin(scene, &world, &mut random, number)?);
            number += 1;
        }
        happen(scene, &mut world, &mut random)?;
        faults += 1;
        std::thread::sleep(Duration::from_millis(random.u64(200..2_000)));
    }
    for work in works {
        tally.add(&world, work)?;
    }
    let (whole, errors) = (tally.whole, tally.told_of_an_error);
    scene.say(&format!("{number} transfers, {faults} faults: {whole} whole, {errors} told so"));
    ensure!(tally.lies.is_empty(), "told of success without the file: {:?}", tally.lies);
    ensure!(whole > 0 && whole + errors == number, "{tally:?}");
    Ok(tally)
}

#[test]
fn ten_clients_for_a_few_seconds() {
    play("ftp-crowd-short", |scene| crowd(scene, Duration::from_secs(8), 5).map(drop));
}

#[test]
#[ignore = "takes long: scripts/ftp crowd"]
fn ten_clients_for_a_minute() {
    let seed = std::env::var("STP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    play("ftp-crowd-long", |scene| crowd(scene, Duration::from_secs(60), seed).map(drop));
}
