//! Tests of the emulated network, and of plain TCP on it, without Session. If one of these fails,
//! no other result of the lab means anything.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stp_tests::emulator::Shape;
use stp_tests::file::{Payload, sha256};
use stp_tests::growth::Growth;
use stp_tests::nginx::Nginx;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::topology::Topology;

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// A client and a server with nginx, 200 Mbit/s and 40 ms there and back.
struct Ground {
    nginx: Nginx,
    topology: Topology,
    payload: Payload,
}

impl Ground {
    fn lay(scene: &Scene, megabytes: u64) -> Result<Ground> {
        let topology = Topology::build(&[("client", 2), ("server", 1)])?;
        topology.shape(SERVER, 0, Shape::of(200, 20))?;
        let nginx = Nginx::start(scene, "nginx", &topology.hosts[SERVER].namespace)?;
        let payload = Payload::make(megabytes, 1)?;
        payload.link(&nginx.root.join("big"))?;
        Ok(Ground { nginx, topology, payload })
    }

    fn curl(&self, scene: &Scene, more: &[&str]) -> Result<Process> {
        Plan::new("curl")
            .args(&["-sS", "-o"])
            .arg(scene.path("big"))
            .args(&["-w", "%{time_connect} %{time_total}"])
            .args(more)
            .arg(format!("http://{}/big", self.topology.hosts[SERVER].address()))
            .start(scene, Some(&self.topology.hosts[CLIENT].namespace))
    }
}

#[test]
fn the_path_has_the_delay_and_the_rate_it_was_given() {
    play("path_figures", |scene| {
        let ground = Ground::lay(scene, 50)?;
        let ended = ground.curl(scene, &[])?.end(Duration::from_secs(30))?.ok()?;
        let times: Vec<f64> = ended.out.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [connect, total] = times[..] else { anyhow::bail!("curl said {:?}", ended.out) };
        scene.say(&format!("connect {:.1} ms, 50 MB in {total:.2} s", connect * 1e3));
        ensure!((0.040..0.060).contains(&connect), "connect took {connect} s");
        // 50 MB and their headers need 2.06 s on the wire.
        ensure!((2.0..4.0).contains(&total), "the download took {total} s");
        ensure!(sha256(&scene.path("big"))? == ground.payload.sha256, "wrong bytes");
        Ok(())
    });
}

#[test]
fn a_cut_stalls_a_download_and_its_end_lets_it_go_on() {
    play("plain_cut", |scene| {
        let ground = Ground::lay(scene, 50)?;
        let growth = Growth::watch(&scene.path("big"));
        let curl = ground.curl(scene, &[])?;
        growth.reach(10_000_000, Duration::from_secs(20))?;
        ground.topology.cut(CLIENT, 0, true)?;
        let cut = Instant::now();
        std::thread::sleep(Duration::from_secs(2));
        let len = growth.len();
        std::thread::sleep(Duration::from_millis(300));
        ensure!(growth.len() == len, "bytes came through a cut");
        ground.topology.cut(CLIENT, 0, false)?;
        let joined = Instant::now();
        growth.grow_after(joined, Duration::from_secs(20))?;
        let pause = growth.pause_after(cut)?;
        scene.say(&format!("plain TCP: next byte {} ms after the path", ms(pause.to - joined)));
        curl.end(Duration::from_secs(30))?.ok()?;
        ensure!(sha256(&scene.path("big"))? == ground.payload.sha256, "wrong bytes");
        Ok(())
    });
}

#[test]
fn a_link_that_goes_down_really_goes_down() {
    play("plain_down", |scene| {
        let ground = Ground::lay(scene, 50)?;
        let growth = Growth::watch(&scene.path("big"));
        let curl = ground.curl(scene, &[])?;
        growth.reach(10_000_000, Duration::from_secs(20))?;
        // Both interfaces, or the default route would move to the other one.
        let client = &ground.topology.hosts[CLIENT];
        client.link_down(1)?;
        client.link_down(0)?;
        let down = Instant::now();
        let server = format!("{}:80", ground.topology.hosts[SERVER].address());
        let refused = client.namespace.inside(|| TcpStream::connect(&server))?;
        let error = refused.err().context("a connection was made over no link")?;
        ensure!(error.raw_os_error() == Some(libc::ENETUNREACH), "connect: {error}");
        client.link_up(0)?;
        growth.grow_after(down + Duration::from_millis(50), Duration::from_secs(20))?;
        curl.end(Duration::from_secs(30))?.ok()?;
        ensure!(sha256(&scene.path("big"))? == ground.payload.sha256, "wrong bytes");
        Ok(())
    });
}

#[test]
fn an_address_change_kills_a_plain_download() {
    play("plain_address", |scene| {
        let mut ground = Ground::lay(scene, 50)?;
        let growth = Growth::watch(&scene.path("big"));
        let curl = ground.curl(scene, &["--speed-limit", "1", "--speed-time", "5"])?;
        growth.reach(10_000_000, Duration::from_secs(20))?;
        ground.topology.hosts[CLIENT].replace_address(0)?;
        let ended = curl.end(Duration::from_secs(30))?;
        scene.say(&format!("plain curl: {} at {} bytes", ended.status, growth.len()));
        ensure!(!ended.status.success() && growth.len() < ground.payload.len, "it survived");
        let again = ground.curl(scene, &[])?.end(Duration::from_secs(30))?;
        again.ok().context("the new address does not work")?;
        Ok(())
    });
}

#[test]
fn a_second_interface_takes_over_the_default_route() {
    play("second_interface", |scene| {
        let ground = Ground::lay(scene, 1)?;
        ground.topology.hosts[CLIENT].link_down(0)?;
        ground.curl(scene, &[])?.end(Duration::from_secs(20))?.ok()?;
        let counters = ground.topology.emulator.counters()?;
        ensure!(counters[1][0].packets > 10, "nothing went over the second interface");
        ensure!(sha256(&scene.path("big"))? == ground.payload.sha256, "wrong bytes");
        Ok(())
    });
}

#[test]
fn random_loss_and_a_full_queue_leave_no_wrong_byte() {
    play("plain_loss", |scene| {
        let ground = Ground::lay(scene, 20)?;
        let lossy = Shape { loss: 0.005, queue: 100_000, burst: 16_384, ..Shape::of(200, 5) };
        ground.topology.shape(SERVER, 0, lossy)?;
        ground.curl(scene, &[])?.end(Duration::from_secs(60))?.ok()?;
        let up = ground.topology.emulator.counters()?[2][0];
        scene.say(&format!(
            "{} packets, {} lost by chance, {} to the queue",
            up.packets, up.lost_chance, up.lost_queue
        ));
        ensure!(up.lost_chance > 20, "nothing was lost");
        ensure!(sha256(&scene.path("big"))? == ground.payload.sha256, "wrong bytes");
        Ok(())
    });
}

#[test]
fn cross_traffic_and_a_download_share_a_wire() {
    play("cross_traffic", |scene| {
        let topology = Topology::build(&[("client", 1), ("server", 1), ("cross", 1)])?;
        topology.shape(SERVER, 0, Shape::of(100, 10))?;
        let nginx = Nginx::start(scene, "nginx", &topology.hosts[SERVER].namespace)?;
        Payload::make(50, 1)?.link(&nginx.root.join("big"))?;
        let url = format!("http://{}/big", topology.hosts[SERVER].address());
        let fetch = |host: usize, name: &str| {
            Plan::new("curl")
                .called(name)
                .args(&["-sS", "-o", "/dev/null", "-w", "%{time_total}", &url])
                .start(scene, Some(&topology.hosts[host].namespace))
        };
        let (client, cross) = (fetch(0, "curl")?, fetch(2, "cross")?);
        let bound = Duration::from_secs(60);
        for (name, process) in [("client", client), ("cross", cross)] {
            let took: f64 = process.end(bound)?.ok()?.out.parse()?;
            scene.say(&format!("{name}: 50 MB in {took:.2} s of a shared 100 Mbit/s"));
            ensure!(took > 5.0, "{name} had more than half of the wire in {took} s");
        }
        Ok(())
    });
}

#[test]
fn ipv6_works_as_ipv4_does() {
    play("ipv6", |scene| {
        let topology = Topology::build(&[("client", 1), ("server", 1)])?;
        let address = format!("[{}]:9", topology.hosts[1].interfaces[0].v6());
        let listener = topology.hosts[1].namespace.inside(|| TcpListener::bind(&address))??;
        let client = topology.hosts[0].namespace.inside(|| TcpStream::connect(&address))??;
        let (mut server, _) = listener.accept()?;
        (&client).write_all(b"hello")?;
        let mut bytes = [0; 5];
        server.read_exact(&mut bytes)?;
        ensure!(&bytes == b"hello", "{bytes:?}");
        scene.say("hello over IPv6");
        Ok(())
    });
}

#[test]
fn two_gigabits_at_40_ms_need_little_processor() {
    play("two_gigabits", |scene| {
        let mut ground = Ground::lay(scene, 300)?;
        ground.nginx.process.must_run()?;
        let shape = Shape { queue: 10 << 20, ..Shape::of(2000, 20) };
        ground.topology.shape(SERVER, 0, shape)?;
        let before = cpu_of_thread("emulator")?;
        let start = Instant::now();
        let ended = ground.curl(scene, &[])?.end(Duration::from_secs(30))?.ok()?;
        let (took, cpu) = (start.elapsed().as_secs_f64(), cpu_of_thread("emulator")? - before);
        scene.say(&format!(
            "300 MB in {took:.2} s; emulator and receiving kernel: {cpu:.2} s of processor ({})",
            ended.out
        ));
        // All tests of this process are in the figure, so it only excludes the absurd.
        ensure!(took < 15.0, "it took {took} s");
        Ok(())
    });
}

/// Processor seconds of the emulator threads of this process.
fn cpu_of_thread(name: &str) -> Result<f64> {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let Ok(stat) = std::fs::read_to_string(task?.path().join("stat")) else {
            continue;
        };
        let Some((head, tail)) = stat.rsplit_once(')') else {
            continue;
        };
        if head.ends_with(name) {
            let times = tail.split_whitespace().skip(11).take(2);
            ticks += times.filter_map(|time| time.parse::<u32>().ok()).sum::<u32>();
        }
    }
    Ok(f64::from(ticks) / 100.0)
}

fn ms(duration: Duration) -> u128 {
    duration.as_millis()
}
