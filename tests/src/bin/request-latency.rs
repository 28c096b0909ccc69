//! Times small requests, each on a new connection: `request-latency HOST PORT PATH COUNT`.
//!
//! Prints one line, microseconds: `p50 p99 mean`. Used by `scripts/bench`, bare and with the shim
//! preloaded.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, path, count] = args.as_slice() else {
        eprintln!("usage: request-latency HOST PORT PATH COUNT");
        std::process::exit(2);
    };
    let number = |text: &str| text.parse::<usize>().map_err(std::io::Error::other);
    let (port, count) = (number(port)? as u16, number(count)?.clamp(1, 100_000));
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut micros = Vec::with_capacity(count);
    let mut answer = Vec::with_capacity(4096);
    for _ in 0..count {
        answer.clear();
        let start = Instant::now();
        let mut stream = TcpStream::connect((host.as_str(), port))?;
        stream.write_all(request.as_bytes())?;
        stream.read_to_end(&mut answer)?;
        micros.push(start.elapsed().as_secs_f64() * 1e6);
        if !answer.starts_with(b"HTTP/1.1 200") || answer.len() < 1024 {
            return Err(std::io::Error::other("the answer is not what was asked for"));
        }
    }
    micros.sort_by(f64::total_cmp);
    let at = |share: f64| micros[((micros.len() - 1) as f64 * share) as usize];
    let mean = micros.iter().sum::<f64>() / micros.len() as f64;
    #[expect(clippy::print_stdout, reason = "this is the program's answer")]
    {
        println!("{:.1} {:.1} {:.1}", at(0.5), at(0.99), mean);
    }
    Ok(())
}
