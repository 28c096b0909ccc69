//! What happens to links and servers while a client is at work.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use stp_tests::scene::Scene;

use crate::world::{CLIENT, World};

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The client's path is cut for 5 s.
    Cut,
    /// The client has another address.
    Address,
    /// The STP server is killed.
    Server,
    /// The FTP server is killed and started again a second later.
    Ftp,
    /// The server's machine falls silent.
    Silent,
    /// The STP server is asked to end.
    Drain,
}

pub const FAULTS: [Fault; 7] = [
    Fault::None,
    Fault::Cut,
    Fault::Address,
    Fault::Server,
    Fault::Ftp,
    Fault::Silent,
    Fault::Drain,
];

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Fault::None => "no fault",
            Fault::Cut => "path cut 5 s",
            Fault::Address => "new address",
            Fault::Server => "STP server killed",
            Fault::Ftp => "FTP server killed",
            Fault::Silent => "machine silent",
            Fault::Drain => "drained",
        }
    }

    /// Lets it happen.
    pub fn happen(self, scene: &Scene, world: &mut World) -> Result<()> {
        match self {
            Fault::None => {}
            Fault::Cut => {
                world.topology.cut(CLIENT, 0, true)?;
                std::thread::sleep(Duration::from_secs(5));
                world.topology.cut(CLIENT, 0, false)?;
            }
            Fault::Address => world.topology.hosts[CLIENT].replace_address(0)?,
            Fault::Server => {
                let place = world.serving()?;
                world.servers[place].kill()?;
            }
            Fault::Ftp => {
                let place = world.serving()?;
                world.ftp[place].kill()?;
                std::thread::sleep(Duration::from_secs(1));
                world.ftp[place].restart(scene, &world.topology.hosts[place + 1].namespace)?;
            }
            Fault::Silent => {
                let place = world.serving()?;
                world.topology.cut(place + 1, 0, true)?;
            }
            Fault::Drain => {
                let place = world.serving()?;
                world.servers[place].process()?.signal(Signal::SIGTERM)?;
            }
        }
        Ok(())
    }
}
