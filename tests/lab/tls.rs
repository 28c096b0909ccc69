//! Downloads by HTTPS that outlive their links and their servers: two servers with one certificate,
//! 100 MB at 200 Mbit/s and 40 ms, real curl (OpenSSL) and real wget (GnuTLS). Each is one TLS
//! connection from its first byte to its last.

use std::time::Instant;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use stp_tests::daemon;
use stp_tests::scene::{Scene, play};

use crate::congestion::{crowded, left_in_time};
use crate::download::{changes_address, down};
use crate::world::{Fault, Layout, Tool, World, survive};

macro_rules! with_each_tool {
    ($($case:ident)*) => {$(
        mod $case {
            use super::*;
            #[test]
            fn curl() {
                play(concat!("tls_", stringify!($case), ".curl"), |scene| {
                    super::$case(scene, Tool::Curl)
                });
            }
            #[test]
            fn wget() {
                play(concat!("tls_", stringify!($case), ".wget"), |scene| {
                    super::$case(scene, Tool::Wget)
                });
            }
        }
    )*};
}

with_each_tool! { killed silent drained down_for_10_s new_address congested }

fn layout() -> Layout {
    Layout { servers: 2, megabytes: 100, tls: true, ..Layout::default() }
}

/// A fault of the server at which the session is; it must be at the other one then.
fn leaves(scene: &Scene, tool: Tool, signal: Signal) -> Result<()> {
    let mut left = 0;
    let fault = |world: &mut World| {
        left = world.serving()?;
        let at = Instant::now();
        world.servers[left].process()?.signal(signal)?;
        scene.say(&format!("{signal} to server {}", world.servers[left].name));
        Ok(Fault { at, over: at })
    };
    let mut world = survive(scene, tool, &layout(), fault)?;
    if signal == Signal::SIGSTOP {
        world.servers[left].process()?.signal(Signal::SIGCONT)?;
    }
    let told = daemon::happenings(&world.broker_status()?).join("\n");
    ensure!(told.contains("transferred"), "it did not leave:\n{told}");
    Ok(())
}

fn killed(scene: &Scene, tool: Tool) -> Result<()> {
    leaves(scene, tool, Signal::SIGKILL)
}

/// As a machine that has stopped: its kernel still takes what comes, and nothing answers.
fn silent(scene: &Scene, tool: Tool) -> Result<()> {
    leaves(scene, tool, Signal::SIGSTOP)
}

fn drained(scene: &Scene, tool: Tool) -> Result<()> {
    leaves(scene, tool, Signal::SIGTERM)
}

/// Longer than the service has patience with a reader that stalls: it has closed the connection
/// when the path is there again, and is asked for the rest.
fn down_for_10_s(scene: &Scene, tool: Tool) -> Result<()> {
    let world = survive(scene, tool, &layout(), |world| down(scene, world, 10))?;
    let mut log = String::new();
    for nginx in &world.nginx {
        log += &nginx.access_log()?;
    }
    scene.say(&format!("  nginx: {}", log.trim()));
    let asked = log.lines().filter(|line| line.contains("GET /big")).count();
    ensure!(asked >= 2, "the service was patient:\n{log}");
    Ok(())
}

fn new_address(scene: &Scene, tool: Tool) -> Result<()> {
    survive(scene, tool, &layout(), |world| changes_address(scene, world)).map(drop)
}

fn congested(scene: &Scene, tool: Tool) -> Result<()> {
    left_in_time(scene, tool, &Layout { tls: true, ..crowded(2)? })
}
