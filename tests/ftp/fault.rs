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
    /// The login is idle for longer than the FTP server likes, before it does anything.
    Idle,
}

pub const FAULTS: [Fault; 8] = [
    Fault::None,
    Fault::Cut,
    Fault::Address,
    Fault::Server,
    Fault::Ftp,
    Fault::Silent,
    Fault::Drain,
    Fault::Idle,
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
            Fault::Idle => "idle 6 min, then",
        }
    }

    /// Lets it happen, to the server where the sessions are.
    pub fn happen(self, scene: &Scene, world: &mut World) -> Result<()> {
        let place = match self {
            Fault::Server | Fault::Ftp | Fault::Silent | Fault::Drain => world.serving()?,
            Fault::None | Fault::Cut | Fault::Address | Fault::Idle => 0,
        };
        self.strike(scene, world, place)
    }

    /// Lets it happen to this server, if it is one that happens to servers.
    pub fn strike(self, scene: &Scene, world: &mut World, place: usize) -> Result<()> {
        match self {
            Fault::None | Fault::Idle => {}
            Fault::Cut => {
                world.topology.cut(CLIENT, 0, true)?;
                std::thread::sleep(Duration::from_secs(5));
                world.topology.cut(CLIENT, 0, false)?;
            }
            Fault::Address => world.topology.hosts[CLIENT].replace_address(0)?,
            Fault::Server => world.servers[place].kill()?,
            Fault::Ftp => {
                world.ftp[place].kill()?;
                std::thread::sleep(Duration::from_secs(1));
                world.ftp[place].restart(scene, &world.topology.hosts[place + 1].namespace)?;
            }
            Fault::Silent => world.topology.cut(place + 1, 0, true)?,
            Fault::Drain => world.servers[place].process()?.signal(Signal::SIGTERM)?,
        }
        Ok(())
    }
}
