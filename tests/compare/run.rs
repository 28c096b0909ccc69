//! One download of one program, on machines and networks of its own, and its outcome.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use stp_tests::file::{self, Payload};
use stp_tests::process::Process;
use stp_tests::scene::{self, Scene};
use stp_tests::wait;

use crate::fault::Fault;
use crate::tool::Tool;
use crate::world::{CLIENT, Layout, World};

/// The longest time that a download may take.
pub const BOUND: Duration = Duration::from_secs(200);
/// Before a fault, the slowest program may take this long to its third of the file.
const THIRD_MAX: Duration = Duration::from_secs(60);

/// The outcome of a download.
#[derive(Clone, Copy)]
pub struct Outcome {
    /// From its start to its end, or to [`BOUND`].
    pub took: Duration,
    /// How it ended.
    pub end: End,
}

/// How a download ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Exit code 0, right bytes.
    Right,
    /// Exit code 0, other bytes than the first server's.
    Wrong,
    /// Another exit code.
    Failed,
    /// It did not end by itself.
    Never,
}

/// Downloads under `fault`.
pub fn under(name: &str, tool: Tool, fault: Fault) -> Result<Outcome> {
    let layout = Layout { broker: tool.broker(), ..fault.layout(tool.tls()) };
    on(name, tool, &layout, fault)
}

/// Downloads on machines and networks that the caller gives.
pub fn on(name: &str, tool: Tool, layout: &Layout, fault: Fault) -> Result<Outcome> {
    played(name, |scene| download(scene, tool, layout, fault))
}

/// What `act` finds out in a scene of its own.
pub fn played<T>(name: &str, act: impl FnOnce(&Scene) -> Result<T>) -> Result<T> {
    let mut found = None;
    let play = || {
        scene::play(name, |scene| {
            found = Some(act(scene)?);
            Ok(())
        });
    };
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(play));
    played.ok().and(found).with_context(|| format!("{name} could not be run"))
}

fn download(scene: &Scene, tool: Tool, layout: &Layout, fault: Fault) -> Result<Outcome> {
    let mut world = World::lay(scene, layout)?;
    fault.prepare(&world)?;
    let to = scene.path("big");
    let begun = Instant::now();
    let mut app =
        tool.plan(&world, &to)?.start(scene, Some(&world.topology.hosts[CLIENT].namespace))?;
    let _others = if fault == Fault::None {
        Vec::new()
    } else {
        a_third(&world, &mut app)?;
        let place = if tool.has_servers() { world.serving()? } else { 0 };
        fault.strike(scene, &mut world, place)?
    };
    let outcome = outcome(scene, &mut app, begun, &to, &world.payload)?;
    if tool.in_session() {
        world.tell(scene)?;
    }
    Ok(outcome)
}

/// Waits for the end of a download to `to` that began at `begun`.
pub fn outcome(
    scene: &Scene,
    app: &mut Process,
    begun: Instant,
    to: &Path,
    payload: &Payload,
) -> Result<Outcome> {
    let left = BOUND.saturating_sub(begun.elapsed());
    let ended = wait::until("its end", left, || app.ended());
    let took = begun.elapsed();
    let end = match ended {
        Err(_) => End::Never,
        Ok(status) if !status.success() => End::Failed,
        Ok(_) if file::sha256(to)? == payload.sha256 => End::Right,
        Ok(_) => End::Wrong,
    };
    if end != End::Right {
        scene.say(app.log().lines().last().unwrap_or("it says nothing"));
    }
    Ok(Outcome { took, end })
}

/// Waits until a third of the file has come over the client's link.
fn a_third(world: &World, app: &mut Process) -> Result<()> {
    wait::until("a third of the file", THIRD_MAX, || {
        app.must_run()?;
        let down = world.topology.emulator.counters()?[CLIENT][1].bytes;
        Ok((down >= world.payload.len / 3).then_some(()))
    })
}
