//! How fast is a link? Sends full records over loopback, one thread per end, and prints the rate
//! and the CPU time each end spends per GiB; beside it the same bytes over plain TCP. Then how long
//! a handshake takes, and how much memory a link holds that waits.
//!
//! `cargo run --release -p stp-net --example link_speed [-- GiB]`
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use stp_net::key::Identity;
use stp_net::link::{self, Link, LinkOptions, RECORD_MAX, Tls};

const GIB: u64 = 1 << 30;

fn main() -> anyhow::Result<()> {
    let gib: u64 = std::env::args().nth(1).map_or(Ok(4), |text| text.parse())?;
    println!("{:<14}{:>9}{:>16}{:>18}", "", "GB/s", "send s/GiB", "receive s/GiB");
    for _ in 0..3 {
        report("plain TCP", gib * GIB, plain(gib * GIB)?);
        report("link, send", gib * GIB, secured(gib * GIB, false)?);
        report("link, compose", gib * GIB, secured(gib * GIB, true)?);
    }
    on_this_thread(waiting(1_000))
}

/// Opens `count` links one after the other, keeps both ends of all, and lets them wait.
async fn waiting(count: u32) -> anyhow::Result<()> {
    let (server, client) = (Tls::new(&Identity::generate()), Tls::new(&Identity::generate()));
    let (key, options) = (server.public_key(), LinkOptions::default());
    let listener = link::listen("127.0.0.1:0".parse()?)?;
    let addr = listener.local_addr()?;
    let mut links = Vec::new();
    let (before, begun, cpu) = (resident_kib()?, Instant::now(), thread_cpu());
    for _ in 0..count {
        let accepting = async {
            let (tcp, _) = listener.accept().await?;
            anyhow::Ok(Link::accept(tcp, &server, &options).await?)
        };
        let dialling = async { anyhow::Ok(Link::dial(addr, &key, &client, &options).await?) };
        let (mut there, mut here) = tokio::try_join!(dialling, accepting)?;
        there.send(b"one record each way");
        here.send(b"one record each way");
        there.try_flush()?;
        here.try_flush()?;
        for link in [&mut there, &mut here] {
            poll_fn(|cx| link.poll_readable(cx)).await?;
            anyhow::ensure!(link.try_read()?.len() == 1, "one record came");
            poll_fn(|cx| Poll::Ready(link.poll_readable(cx))).await.is_pending();
        }
        links.push((there, here));
    }
    println!(
        "handshake: {} us, {} us CPU for both ends; a waiting link: {:.1} KiB",
        begun.elapsed().as_micros() / u128::from(count),
        thread_cpu().saturating_sub(cpu).as_micros() / u128::from(count),
        (resident_kib()? - before) / f64::from(2 * count),
    );
    Ok(())
}

fn resident_kib() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.and_then(|line| line.split_whitespace().next()).unwrap_or("0").parse()?)
}

struct Cost {
    wall: Duration,
    send_cpu: Duration,
    receive_cpu: Duration,
}

fn report(what: &str, bytes: u64, cost: Cost) {
    let gib = bytes as f64 / GIB as f64;
    println!(
        "{what:<14}{:>9.2}{:>16.3}{:>18.3}",
        bytes as f64 / 1e9 / cost.wall.as_secs_f64(),
        cost.send_cpu.as_secs_f64() / gib,
        cost.receive_cpu.as_secs_f64() / gib,
    );
}

fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has a clock");
    now.into()
}

/// Runs both ends, each in a thread of its own; `receive` is started first.
fn both(
    send: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    receive: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<Cost> {
    let begun = Instant::now();
    let receiver = thread::spawn(move || receive().map(|()| thread_cpu()));
    let sender = thread::spawn(move || send().map(|()| thread_cpu()));
    let send_cpu = sender.join().expect("the sender does not panic")?;
    let receive_cpu = receiver.join().expect("the receiver does not panic")?;
    Ok(Cost { wall: begun.elapsed(), send_cpu, receive_cpu })
}

fn plain(bytes: u64) -> anyhow::Result<Cost> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let send = move || {
        let mut tcp = TcpStream::connect(addr)?;
        let block = vec![7; 256 * 1024];
        for _ in 0..bytes / block.len() as u64 {
            tcp.write_all(&block)?;
        }
        Ok(())
    };
    let receive = move || {
        let (mut tcp, _) = listener.accept()?;
        let mut block = vec![0; 256 * 1024];
        while tcp.read(&mut block)? > 0 {}
        Ok(())
    };
    both(send, receive)
}

fn secured(bytes: u64, compose: bool) -> anyhow::Result<Cost> {
    let (server, client) = (Tls::new(&Identity::generate()), Tls::new(&Identity::generate()));
    let key = server.public_key();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let send = move || {
        on_this_thread(async move {
            let link = Link::dial(addr, &key, &client, &LinkOptions::default()).await?;
            send_all(link, bytes, compose).await
        })
    };
    let receive = move || {
        on_this_thread(async move {
            let (tcp, _) = tokio::net::TcpListener::from_std(listener)?.accept().await?;
            let link = Link::accept(tcp, &server, &LinkOptions::default()).await?;
            receive_all(link, bytes).await
        })
    };
    both(send, receive)
}

fn on_this_thread(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

async fn send_all(mut link: Link, bytes: u64, compose: bool) -> anyhow::Result<()> {
    let frame = [7; RECORD_MAX];
    let mut left = bytes;
    while left > 0 || link.unsent() > 0 {
        while left > 0 && link.has_room() {
            if compose {
                link.compose(|out| out.extend_from_slice(&frame));
            } else {
                link.send(&frame);
            }
            left -= RECORD_MAX as u64;
        }
        if !link.try_flush()? {
            poll_fn(|cx| link.poll_writable(cx)).await?;
        }
    }
    link.shut();
    link.try_flush()?;
    poll_fn(|cx| link.poll_readable(cx)).await?;
    Ok(())
}

async fn receive_all(mut link: Link, bytes: u64) -> anyhow::Result<()> {
    let mut received = 0;
    loop {
        poll_fn(|cx| link.poll_readable(cx)).await?;
        match link.try_read() {
            Ok(records) => {
                received += records.iter().map(|record| record.len() as u64).sum::<u64>();
                if records.closed() {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::ensure!(received == bytes, "{received} of {bytes} bytes came");
    Ok(())
}
