//! Paths that get congested by other people's traffic, and servers that are shut down in order:
//! 100 Mbit/s and 30 ms to every server, real nginx replicas, real curl, real cross traffic.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use stp_tests::daemon;
use stp_tests::emulator::Shape;
use stp_tests::file;
use stp_tests::growth::Growth;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::wait;

use crate::world::{CLIENT, Layout, Tool, World, reach};

/// How many flows the cross traffic has.
const FLOWS: usize = 8;

/// A wire whose queue holds 100 ms, as those that get congested do.
fn deep(mbit: u64, delay_ms: u64) -> Shape {
    let queue = usize::try_from(mbit * 1_000_000 / 8 / 10).expect("fits");
    Shape { queue, ..Shape::of(mbit, delay_ms) }
}

/// Others download from `server`, directly, into the namespace of host `to`.
fn cross_traffic(scene: &Scene, world: &World, server: usize, to: usize) -> Result<Vec<Process>> {
    let url = format!("http://{}/big", world.topology.hosts[server + 1].address());
    let flow = |number: usize| {
        Plan::new("curl")
            .called(&format!("cross-{number}"))
            .args(&["-sS", "-o", "/dev/null", &url, &url, &url])
            .start(scene, Some(&world.topology.hosts[to].namespace))
    };
    (0..FLOWS).map(flow).collect()
}

/// The events of the only session, each in a word.
fn events(world: &World, what: &str) -> Result<Vec<Value>> {
    let status = world.broker_status()?;
    let sessions = ["sessions", "ended"].map(|list| status[list].as_array().cloned());
    let events = sessions.into_iter().flatten().flatten().filter_map(|one| match &one["events"] {
        Value::Array(events) => Some(events.clone()),
        _ => None,
    });
    Ok(events.flatten().filter(|event| event["what"] == what).collect())
}

fn event(world: &World, what: &str) -> Result<Option<Value>> {
    Ok(events(world, what)?.into_iter().next())
}

fn told(world: &World) -> String {
    let told = world.broker_status().map(|status| daemon::happenings(&status).join("\n  "));
    told.unwrap_or_else(|error| error.to_string())
}

/// Two servers or more, and others who come to the first one.
pub fn crowded(servers: usize) -> Result<Layout> {
    let megabytes = match std::env::var("STP_CONGESTED_MB") {
        Ok(megabytes) => megabytes.parse().context("STP_CONGESTED_MB")?,
        Err(_) => 200,
    };
    let access = Shape { queue: 8 << 20, ..Shape::of(1000, 5) };
    Ok(Layout { servers, megabytes, access, crowd: true, ..Layout::default() })
}

/// A server is left for the sake of speed; the others come when the download has a fifth.
pub fn left_in_time(scene: &Scene, tool: Tool, layout: &Layout) -> Result<()> {
    let servers = layout.servers;
    let world = World::lay(scene, layout)?;
    // A server that is farther away is worse, so the best one at any moment is known.
    for server in 0..servers {
        world.topology.shape(server + 1, 0, deep(100, 10 + 10 * server as u64))?;
    }
    let start = Instant::now();
    let (mut process, growth, path) = world.download(scene, tool)?;
    reach(&growth, &mut process, world.payload.len / 5)?;
    ensure!(world.serving()? == 0, "the first server is not the first choice");
    let came = Instant::now();
    let others = cross_traffic(scene, &world, 0, world.crowd()?)?;
    let moved = wait::until("the move", Duration::from_secs(15), || {
        process.must_run()?;
        // Asking more often would load the machine, which is busy already.
        std::thread::sleep(Duration::from_millis(20));
        Ok(event(&world, "transferred")?.map(|event| (event, Instant::now())))
    });
    let (moved, seen) = moved.with_context(|| format!("it stayed:\n  {}", told(&world)))?;
    let asked = event(&world, "asked to leave")?.context("nobody asked")?;
    let since_asked = moved["at_ms"].as_u64().unwrap_or(0) - asked["at_ms"].as_u64().unwrap_or(0);
    let came_before = seen.saturating_duration_since(came);
    let asked_after = came_before.saturating_sub(Duration::from_millis(since_asked));
    let was_asked = came + asked_after;
    scene.say(&format!("asked {} ms after the others came", asked_after.as_millis()));
    scene.say(&format!("moved {since_asked} ms later"));
    scene.say(&format!("  moved: {}", moved["cause"]));
    world.must_be_right(process, &path)?;
    scene.say("exit code 0, right SHA-256");
    let end = growth.last()?;
    let seam = moved["at_byte"].as_u64().context("no byte")?;
    scene.say(&format!(
        "longest pause within 1 MB of the seam: {} ms (on the congested path before: {} ms)",
        growth.pause_around(seam)?.as_millis(),
        growth.pause_between(came, was_asked).as_millis()
    ));
    let second = growth.pause_between(seen, seen + Duration::from_secs(1));
    scene.say(&format!("longest pause in the second after it: {} ms", second.as_millis()));
    let best = oracle(scene, &world, others, growth.len_at(came))?;
    let phases = [("until the others came", start), ("until it was asked", came)];
    let phases = phases.into_iter().chain([("until it moved", was_asked), ("then", seen)]);
    account(scene, &growth, &phases.collect::<Vec<_>>(), end, world.payload.len, best);
    ensure!(moved["gap_ms"] == 0, "the old link did not go on: {moved}");
    ensure!(moved["from_server"] == "a" && moved["to_server"] == "b", "{moved}");
    let why = moved["cause"].as_str().unwrap_or_default();
    ensure!(why.starts_with("round-trip time rose") && why.contains("at best"), "{why}");
    Ok(())
}

/// How long the file takes without any session, by the best server at every moment: `free` bytes
/// from the first one, whose path is free before the others come, the rest from one they do not
/// come to.
fn oracle(scene: &Scene, world: &World, others: Vec<Process>, free: u64) -> Result<Duration> {
    let part = |server: usize, range: String| {
        let url = format!("http://{}/big", world.topology.hosts[server + 1].address());
        let begun = Instant::now();
        Plan::new("curl")
            .called(&format!("oracle-{server}"))
            .args(&["-sS", "--fail", "-r", &range, "-o"])
            .arg(scene.path("oracle"))
            .arg(&url)
            .run(scene, Some(&world.topology.hosts[CLIENT].namespace), Duration::from_secs(300))?
            .ok()?;
        anyhow::Ok(begun.elapsed())
    };
    // The others cost it processor time as they cost the session.
    let rest = part(1, format!("{free}-"))?;
    drop(others);
    std::thread::sleep(Duration::from_millis(500));
    Ok(part(0, format!("0-{}", free - 1))? + rest)
}

/// Tells the time it took against the best there is, and in which phases it was lost.
fn account(
    scene: &Scene,
    growth: &Growth,
    phases: &[(&str, Instant)],
    end: Instant,
    len: u64,
    best: Duration,
) {
    let took = (end - phases[0].1).as_secs_f64();
    scene.say(&format!(
        "{took:.1} s; {:.1} s directly from the best server at every moment: {:.2} of that",
        best.as_secs_f64(),
        took / best.as_secs_f64()
    ));
    let ends = phases.iter().skip(1).map(|(_, at)| *at).chain([end]);
    for ((phase, from), to) in phases.iter().zip(ends) {
        let (took, bytes) = ((to - *from).as_secs_f64(), growth.len_at(to) - growth.len_at(*from));
        let lost = took - bytes as f64 / len as f64 * best.as_secs_f64();
        let mbit = bytes as f64 * 8.0 / 1e6 / took;
        scene.say(&format!("  {phase}: {took:.2} s at {mbit:.1} Mbit/s, {lost:.2} s lost"));
    }
}

#[test]
fn a_path_congested_by_others_is_left_while_the_old_link_goes_on() {
    play("congested_path.curl", |scene| left_in_time(scene, Tool::Curl, &crowded(2)?));
}

#[test]
fn the_better_of_two_others_is_taken_when_a_path_is_congested() {
    play("congested_path.wget", |scene| left_in_time(scene, Tool::Wget, &crowded(3)?));
}

#[test]
fn servers_congested_in_turn_do_not_make_a_session_flap() {
    play("congested_in_turn", |scene| {
        let layout = Layout { servers: 2, megabytes: 100, crowd: true, ..Layout::default() };
        let world = World::lay(scene, &layout)?;
        for server in 0..2 {
            world.topology.shape(server + 1, 0, deep(25, 10))?;
        }
        let (mut process, growth, path) = world.download(scene, Tool::Curl)?;
        reach(&growth, &mut process, 5_000_000)?;
        let turns = Instant::now();
        for turn in 0.. {
            if process.ended()?.is_some() || turns.elapsed() > Duration::from_secs(45) {
                break;
            }
            let _others = cross_traffic(scene, &world, turn % 2, world.crowd()?)?;
            std::thread::sleep(Duration::from_secs(5));
        }
        world.must_be_right(process, &path)?;
        world.tell(scene)?;
        let moves: Vec<u64> = events(&world, "transferred")?
            .iter()
            .filter_map(|event| event["at_ms"].as_u64())
            .collect();
        scene.say(&format!("moved at {moves:?} ms"));
        ensure!(!moves.is_empty(), "it never moved");
        // 10 s after the first move, 20 s after the second, …
        for (number, pair) in moves.windows(2).enumerate() {
            let pause = 10_000_u64 << number;
            ensure!(pair[1] - pair[0] >= pause, "moved again within {pause} ms: {moves:?}");
        }
        Ok(())
    });
}

#[test]
fn a_congested_link_that_all_servers_share_is_no_reason_to_move() {
    play("congested_access", |scene| {
        let layout =
            Layout { servers: 3, megabytes: 100, access: deep(100, 5), ..Layout::default() };
        let world = World::lay(scene, &layout)?;
        for server in 0..3 {
            world.topology.shape(server + 1, 0, Shape::of(1000, 10))?;
        }
        let (mut process, growth, path) = world.download(scene, Tool::Curl)?;
        reach(&growth, &mut process, 40_000_000)?;
        let others = cross_traffic(scene, &world, 2, CLIENT)?;
        let stayed = wait::until("a decision", Duration::from_secs(15), || {
            process.must_run()?;
            event(&world, "stays")
        });
        let stayed = stayed.with_context(|| format!("nothing was decided:\n  {}", told(&world)))?;
        scene.say(&format!("stays: {}", stayed["cause"]));
        std::thread::sleep(Duration::from_secs(5));
        drop(others);
        world.must_be_right(process, &path)?;
        world.tell(scene)?;
        ensure!(event(&world, "transferred")?.is_none(), "it moved");
        let why = stayed["cause"].as_str().unwrap_or_default().to_owned();
        ensure!(why.contains("shared bottleneck") || why.contains("no nearer"), "{why}");
        Ok(())
    });
}

#[test]
fn a_bulk_download_alone_stays_where_it_is() {
    play("own_queue", |scene| {
        let layout = Layout { servers: 2, megabytes: 100, ..Layout::default() };
        let world = World::lay(scene, &layout)?;
        for server in 0..2 {
            world.topology.shape(server + 1, 0, deep(100, 10))?;
        }
        let (process, _growth, path) = world.download(scene, Tool::Curl)?;
        world.must_be_right(process, &path)?;
        ensure!(event(&world, "transferred")?.is_none(), "it moved:\n  {}", told(&world));
        scene.say("stayed");
        Ok(())
    });
}

#[test]
fn a_server_that_is_shut_down_gives_its_sessions_away_first() {
    play("drain", |scene| {
        let count = match std::env::var("STP_DRAIN_SESSIONS") {
            Ok(count) => count.parse()?,
            Err(_) => 20,
        };
        // Hundreds share a wire that the processors of a small machine can fill, and starve each
        // other.
        let (megabytes, access, bound) = match count {
            0..=20 => (10, Layout::default().access, 60),
            _ => (5, Shape { queue: 4 << 20, ..Shape::of(200, 20) }, 200),
        };
        let layout = Layout { servers: 2, megabytes, access, ..Layout::default() };
        let mut world = World::lay(scene, &layout)?;
        let client = &world.topology.hosts[CLIENT].namespace;
        let mut downloads = Vec::new();
        for number in 0..count {
            let to = scene.path(&format!("big.{number}"));
            let curl = world.app("curl")?.called(&format!("curl-{number}"));
            let curl = curl.args(&["-sS", "--fail", "-o"]).arg(&to).arg("http://mirror.lab/big");
            downloads.push((curl.start(scene, Some(client))?, to));
        }
        wait::until_true("all to be under way", Duration::from_secs(60), || {
            downloads
                .iter()
                .all(|(_, to)| std::fs::metadata(to).is_ok_and(|meta| meta.len() > 200_000))
        })?;
        let at = Instant::now();
        world.servers[0].process()?.signal(Signal::SIGTERM)?;
        let left = wait::until("the server's end", Duration::from_secs(bound), || {
            Ok(world.servers[0].process()?.ended()?.map(|status| (status, at.elapsed())))
        });
        let (status, took) = left.with_context(|| told(&world))?;
        scene.say(&format!("server a ended after {} ms: {status}", took.as_millis()));
        for (process, to) in downloads {
            process.end(Duration::from_secs(120))?.ok()?;
            ensure!(file::sha256(&to)? == world.payload.sha256, "wrong bytes in {}", to.display());
        }
        let status = world.broker_status()?;
        let moved = &status["counters"]["transferred"];
        scene.say(&format!("{count} downloads, all right; {moved} moved"));
        let for_speed = |event: &&Value| {
            event["cause"].as_str().is_some_and(|cause| cause.starts_with("round-trip time"))
        };
        let transferred = events(&world, "transferred")?;
        scene.say(&format!("{} moved for speed", transferred.iter().filter(for_speed).count()));
        let lost = events(&world, "lost")?;
        scene.say(&format!("{} lost a link", lost.len()));
        if let Some(event) = lost.first() {
            bail!("a session lost its link: {event}");
        }
        ensure!(moved.as_u64() > Some(0), "none was moved");
        Ok(())
    });
}
