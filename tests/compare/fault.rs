//! The faults that happen to a download when a third of the file has come.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use stp_tests::emulator::Shape;
use stp_tests::file::Payload;
use stp_tests::nginx::Nginx;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::Scene;

use crate::world::{CLIENT, Layout, World};

/// Size of the file, 10⁶ bytes.
pub const MEGABYTES: u64 = 50;
/// The rate of the client's access link, and of each server's, in Mbit/s.
const ACCESS_MBIT: u64 = 40;
const SERVER_MBIT: u64 = 50;
/// Downloads of others that share the first server's wire.
const OTHERS: usize = 16;

/// A column of the tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No fault, to compare the others with.
    None,
    /// The client's link is down for this many seconds.
    Down(u64),
    /// The client gets another address.
    Address,
    /// The first server's machine vanishes, without any sign to the others.
    Machine,
    /// The same, and the next mirror has another file of the same size and time.
    WrongReplica,
    /// The machine vanishes, and the mirrors have the same file with another time.
    OtherTags,
    /// Another build of the same size and time is put in the file's place at the first server, and
    /// its nginx is started anew.
    Replaced,
    /// Others download from the first server, from now on.
    Congestion,
}

impl Fault {
    /// All columns but the first, in the order of the tables.
    pub const ALL: [Fault; 8] = [
        Fault::Down(5),
        Fault::Down(70),
        Fault::Address,
        Fault::Machine,
        Fault::WrongReplica,
        Fault::OtherTags,
        Fault::Replaced,
        Fault::Congestion,
    ];

    /// Those of HTTPS: whatever of the others has to do with what is inside is the same there.
    pub const TLS: [Fault; 6] = [
        Fault::Down(5),
        Fault::Down(70),
        Fault::Address,
        Fault::Machine,
        Fault::WrongReplica,
        Fault::Congestion,
    ];

    /// Its heading.
    pub fn name(self) -> String {
        match self {
            Fault::None => "undisturbed".to_owned(),
            Fault::Down(seconds) => format!("link down {seconds} s"),
            Fault::Address => "new address".to_owned(),
            Fault::Machine => "server dies".to_owned(),
            Fault::WrongReplica => "server dies, wrong mirror".to_owned(),
            Fault::OtherTags => "server dies, mirror has other ETags".to_owned(),
            Fault::Replaced => "file replaced during the download".to_owned(),
            Fault::Congestion => "path congested".to_owned(),
        }
    }

    /// The machines and networks that the fault needs, with or without HTTPS.
    pub fn layout(self, tls: bool) -> Layout {
        Layout {
            servers: if self == Fault::WrongReplica { 3 } else { 2 },
            megabytes: MEGABYTES,
            access: Shape::of(ACCESS_MBIT, 10),
            crowd: self == Fault::Congestion,
            tls,
            ..Layout::default()
        }
    }

    /// Prepares the fault before the download begins.
    pub fn prepare(self, world: &World) -> Result<()> {
        for place in 1..=world.servers.len() {
            // A queue of 100 ms, as wires that get congested have.
            let queue = usize::try_from(SERVER_MBIT * 1_000_000 / 8 / 10)?;
            let wire = Shape { queue, ..Shape::of(SERVER_MBIT, 10) };
            world.topology.shape(place, 0, wire)?;
        }
        if self == Fault::WrongReplica {
            let wrong = world.nginx[1].root.join("big");
            std::fs::remove_file(&wrong)?;
            Payload::make(MEGABYTES, 2)?.link(&wrong)?;
        }
        if self == Fault::OtherTags {
            for web in world.nginx.iter().skip(1) {
                let other = web.root.join("big");
                std::fs::remove_file(&other)?;
                world.payload.copy(&other)?;
                let file = std::fs::File::options().write(true).open(&other)?;
                file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_234_567_890))?;
            }
        }
        Ok(())
    }

    /// Makes the fault happen to the server at `place`. The value returned keeps it going until it
    /// is dropped.
    pub fn strike(self, scene: &Scene, world: &mut World, place: usize) -> Result<Vec<Process>> {
        match self {
            Fault::None => {}
            Fault::Down(seconds) => {
                world.topology.hosts[CLIENT].link_down(0)?;
                sleep(Duration::from_secs(seconds));
                world.topology.hosts[CLIENT].link_up(0)?;
            }
            Fault::Address => world.topology.hosts[CLIENT].replace_address(0)?,
            Fault::Machine | Fault::WrongReplica | Fault::OtherTags => {
                world.topology.cut(place + 1, 0, true)?;
            }
            Fault::Replaced => replace(scene, world, place)?,
            Fault::Congestion => return others(scene, world, place),
        }
        Ok(Vec::new())
    }
}

/// Replaces a file as a deployment does, while downloads are under way.
fn replace(scene: &Scene, world: &mut World, place: usize) -> Result<()> {
    let namespace = &world.topology.hosts[place + 1].namespace;
    let web = &mut world.nginx[place];
    let (root, new) = (web.root.clone(), web.root.join("new"));
    Payload::make(MEGABYTES, 2)?.copy(&new)?;
    std::fs::rename(&new, root.join("big"))?;
    web.process.kill()?;
    *web = Nginx::start_at(scene, &format!("nginx-new-{place}"), namespace, 80, &root, "")?;
    Ok(())
}

fn others(scene: &Scene, world: &World, place: usize) -> Result<Vec<Process>> {
    let crowd = &world.topology.hosts[world.crowd()?].namespace;
    // Longer than any download here.
    let url = format!("http://{}/big?[1-1000]", world.topology.hosts[place + 1].address());
    let flow = |number: usize| {
        Plan::new("curl")
            .called(&format!("other-{number}"))
            .args(&["-s", "-o", "/dev/null", &url])
            .start(scene, Some(crowd))
    };
    (0..OTHERS).map(flow).collect()
}
