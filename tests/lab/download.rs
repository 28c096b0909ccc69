//! Downloads and uploads of unmodified programs that outlive their links and their servers:
//! 300 MB at 200 Mbit/s and 40 ms, real curl and real wget, real nginx replicas.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use stp_tests::daemon;
use stp_tests::emulator::Shape;
use stp_tests::file::{self, Payload, change_byte};
use stp_tests::process::Plan;
use stp_tests::scene::{Scene, play};
use stp_tests::wait;

use crate::world::{CLIENT, DOWNLOAD_MAX, Fault, Layout, Tool, World, reach, survive};

/// Each case is two tests, so that they run beside each other.
macro_rules! with_each_tool {
    ($($case:ident)*) => {$(
        mod $case {
            use super::*;
            #[test]
            fn curl() {
                play(concat!(stringify!($case), ".curl"), |scene| super::$case(scene, Tool::Curl));
            }
            #[test]
            fn wget() {
                play(concat!(stringify!($case), ".wget"), |scene| super::$case(scene, Tool::Wget));
            }
        }
    )*};
}

with_each_tool! {
    d_down_for_70_s a_down_for_5_s b_new_address c_server_killed e_server_restarted
    f_wrong_byte f_wrong_length f_no_right_replica g_upload h_service_dies
}

fn a_down_for_5_s(scene: &Scene, tool: Tool) -> Result<()> {
    survive(scene, tool, &Layout::default(), |world| down(scene, world, 5)).map(drop)
}

fn d_down_for_70_s(scene: &Scene, tool: Tool) -> Result<()> {
    let world = survive(scene, tool, &Layout::default(), |world| down(scene, world, 70))?;
    for line in world.nginx[0].access_log()?.lines() {
        scene.say(&format!("  nginx: {line}"));
    }
    Ok(())
}

pub fn down(scene: &Scene, world: &World, seconds: u64) -> Result<Fault> {
    let at = Instant::now();
    world.topology.hosts[CLIENT].link_down(0)?;
    scene.say(&format!("link down for {seconds} s"));
    std::thread::sleep(Duration::from_secs(seconds));
    world.topology.hosts[CLIENT].link_up(0)?;
    scene.say("link up");
    Ok(Fault { at, over: Instant::now() })
}

fn b_new_address(scene: &Scene, tool: Tool) -> Result<()> {
    survive(scene, tool, &Layout::default(), |world| changes_address(scene, world)).map(drop)
}

pub fn changes_address(scene: &Scene, world: &mut World) -> Result<Fault> {
    let at = Instant::now();
    world.topology.hosts[CLIENT].replace_address(0)?;
    scene.say(&format!("the client is now {}", world.topology.hosts[CLIENT].address()));
    Ok(Fault { at, over: Instant::now() })
}

fn c_server_killed(scene: &Scene, tool: Tool) -> Result<()> {
    let layout = Layout { servers: 2, ..Layout::default() };
    let kill = |world: &mut World| {
        let place = world.serving()?;
        let at = Instant::now();
        world.kill_server(place)?;
        scene.say(&format!("kill -9 of server {}", world.servers[place].name));
        Ok(Fault { at, over: at })
    };
    survive(scene, tool, &layout, kill).map(drop)
}

fn e_server_restarted(scene: &Scene, tool: Tool) -> Result<()> {
    let restart = |world: &mut World| {
        let at = Instant::now();
        world.kill_server(0)?;
        scene.say("kill -9 of the only server");
        std::thread::sleep(Duration::from_secs(1));
        world.restart_server(scene, 0)?;
        scene.say("it runs again");
        Ok(Fault { at, over: Instant::now() })
    };
    survive(scene, tool, &Layout::default(), restart).map(drop)
}

/// Stops the stream at a byte that is known, lets `spoil` change the replicas, and kills the
/// server. Returns the moment and the length the app has.
fn stop_spoil_kill(
    scene: &Scene,
    world: &mut World,
    grown: &stp_tests::growth::Growth,
    spoil: impl Fn(&World, u64) -> Result<()>,
) -> Result<Instant> {
    ensure!(world.serving()? == 0, "the first server is not the first choice");
    world.topology.cut(1, 0, true)?;
    let mut len = grown.len();
    wait::until_true("the stream to stop", Duration::from_secs(2), || {
        std::thread::sleep(Duration::from_millis(120));
        let before = std::mem::replace(&mut len, grown.len());
        before == len
    })?;
    spoil(world, len)?;
    let at = Instant::now();
    world.kill_server(0)?;
    world.topology.cut(1, 0, false)?;
    scene.say(&format!("kill -9 of server a at byte {len}"));
    Ok(at)
}

/// A slow path, so that the replica can be spoiled before it is read.
fn slow(servers: usize) -> Layout {
    Layout { servers, access: Shape::of(40, 20), megabytes: 60, ..Layout::default() }
}

fn spoil_bytes(world: &World, len: u64) -> Result<()> {
    let spoiled = world.nginx[1].root.join("big");
    std::fs::remove_file(&spoiled)?;
    world.payload.copy(&spoiled)?;
    change_byte(&spoiled, len - 1_000)?;
    // If it were believed, this one would reach the app.
    change_byte(&spoiled, len + 10_000_000)
}

fn spoil_length(world: &World, _: u64) -> Result<()> {
    let spoiled = world.nginx[1].root.join("big");
    std::fs::remove_file(&spoiled)?;
    world.payload.copy_with_length(&spoiled, world.payload.len - 1_000)
}

fn f_wrong_byte(scene: &Scene, tool: Tool) -> Result<()> {
    refused(scene, tool, spoil_bytes)
}

fn f_wrong_length(scene: &Scene, tool: Tool) -> Result<()> {
    refused(scene, tool, spoil_length)
}

/// Server a is killed, b has another file, c the right one.
fn refused(scene: &Scene, tool: Tool, spoil: impl Fn(&World, u64) -> Result<()>) -> Result<()> {
    let mut refusals = 0;
    let world = {
        let mut world = World::lay(scene, &slow(3))?;
        let (mut process, growth, path) = world.download(scene, tool)?;
        reach(&growth, &mut process, world.payload.len / 3)?;
        let killed = stop_spoil_kill(scene, &mut world, &growth, spoil)?;
        growth.grow_after(killed, Duration::from_secs(30))?;
        world.must_be_right(process, &path)?;
        let pause = growth.pause_after(killed)?;
        scene.say(&format!("next byte {} ms after the kill", (pause.to - killed).as_millis()));
        world
    };
    world.tell(scene)?;
    let status = world.server_status(1)?;
    for (_, count) in status["refused"].as_object().into_iter().flatten() {
        refusals += count.as_u64().unwrap_or(0);
    }
    scene.say(&format!("server b refused: {}", status["refused"]));
    let asked = world.nginx[1].access_log()?.contains("/big");
    // A broker may try c first; but if b was asked it must have refused.
    ensure!(refusals > 0 || !asked, "server b was asked and did not refuse");
    Ok(())
}

fn f_no_right_replica(scene: &Scene, tool: Tool) -> Result<()> {
    let mut world = World::lay(scene, &slow(2))?;
    let (mut process, growth, path) = world.download(scene, tool)?;
    reach(&growth, &mut process, world.payload.len / 3)?;
    stop_spoil_kill(scene, &mut world, &growth, spoil_bytes)?;
    let ended = process.end(DOWNLOAD_MAX)?;
    ensure!(!ended.status.success(), "it ended well without a right replica");
    let len = std::fs::metadata(&path)?.len();
    let of_right = file::sha256_of_first(&world.payload.path, len)?;
    ensure!(file::sha256(&path)? == of_right, "wrong bytes were delivered");
    scene.say(&format!("{} after {len} right bytes: {}", ended.status, ended.err.trim()));
    world.tell(scene)?;
    let told = daemon::happenings(&world.broker_status()?).join("\n").to_lowercase();
    ensure!(told.contains("seam") || told.contains("differ"), "the status does not say why");
    Ok(())
}

/// What server a's service had given takes longer on its way than another server may need to catch
/// up: that server takes the session when all of it is through.
fn h_service_dies(scene: &Scene, tool: Tool) -> Result<()> {
    let slow = Layout { servers: 2, access: Shape::of(10, 20), megabytes: 40, ..Layout::default() };
    let die = |world: &mut World| {
        ensure!(world.serving()? == 0, "the first server is not the first choice");
        world.nginx[0].process.kill()?;
        scene.say("kill -9 of nginx behind server a");
        let at = Instant::now();
        Ok(Fault { at, over: at })
    };
    let world = survive(scene, tool, &slow, die)?;
    ensure!(world.nginx[1].access_log()?.contains("/big"), "the other service was not asked");
    Ok(())
}

fn g_upload(scene: &Scene, tool: Tool) -> Result<()> {
    let world = World::lay(scene, &Layout { megabytes: 1, ..Layout::default() })?;
    let payload = Payload::make(100, 2)?;
    let url = "http://raw.lab/upload/big";
    let app = world.app(tool.name())?;
    let app: Plan = match tool {
        Tool::Curl => app.args(&["-sS", "--fail", "-T"]).arg(&payload.path).arg(url),
        Tool::Wget => app
            .args(&["-nv", "--tries=1", "--method=PUT", "-O", "/dev/null"])
            .arg(format!("--body-file={}", payload.path.display()))
            .arg(url),
    };
    let process = app.start(scene, Some(&world.topology.hosts[CLIENT].namespace))?;
    let sent = || world.topology.emulator.counters().map(|all| all[CLIENT][0].bytes);
    let mut process = process;
    let mut wait_for = |bytes: u64, bound| {
        wait::until("the upload to go on", bound, || {
            process.must_run()?;
            Ok((sent()? >= bytes).then_some(()))
        })
    };
    wait_for(30_000_000, DOWNLOAD_MAX)?;
    world.topology.cut(CLIENT, 0, true)?;
    scene.say("the wire is cut for 5 s, and nobody is told");
    std::thread::sleep(Duration::from_secs(5));
    let before = sent()?;
    world.topology.cut(CLIENT, 0, false)?;
    let over = Instant::now();
    wait_for(before + 100_000, Duration::from_secs(40))?;
    scene.say(&format!("bytes flow again {} ms after the path", over.elapsed().as_millis()));
    process.end(DOWNLOAD_MAX)?.ok()?;
    let sha256 = file::sha256(&world.nginx[0].root.join("upload/big"))?;
    ensure!(sha256 == payload.sha256, "wrong bytes were uploaded");
    scene.say("exit code 0, right SHA-256 at nginx");
    world.tell(scene)
}
