//! An HTTP origin that does to each request what a test says.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The stream is closed.
    Close,
    /// The stream is reset.
    Reset,
}

/// One answer: bytes as they are, how fast, and how it ends.
#[derive(Debug, Clone)]
pub struct Answer {
    pub head: String,
    pub body: Vec<u8>,
    /// Bytes a second; 0: as fast as they go.
    pub rate: usize,
    pub end: End,
}

impl Answer {
    /// An error without a body.
    pub fn status(status: &str) -> Answer {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        Answer { head, body: Vec::new(), rate: 0, end: End::Close }
    }

    /// A response whose head promises `length` bytes and whose body is this.
    pub fn sized(length: usize, fields: &str, body: &[u8], end: End) -> Answer {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {length}\r\n\r\n");
        Answer { head, body: body.to_vec(), rate: 0, end }
    }
}

/// Says what is answered to which request of a path (counted from 0).
type Script = dyn Fn(&str, usize) -> Answer + Send + Sync;

/// The origin; it ends with the test.
pub struct Liar {
    counts: Arc<Mutex<HashMap<String, usize>>>,
}

impl Liar {
    pub fn start(
        port: u16,
        script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Liar {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let counts: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let (script, counted): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&counts));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, counted) = (Arc::clone(&script), Arc::clone(&counted));
                std::thread::spawn(move || serve(stream, &*script, &counted));
            }
        });
        Liar { counts }
    }

    /// How many requests for a path have come.
    pub fn requests(&self, path: &str) -> usize {
        self.counts.lock().expect("no panic").get(path).copied().unwrap_or(0)
    }
}

fn serve(mut stream: TcpStream, script: &Script, counts: &Mutex<HashMap<String, usize>>) {
    let mut held = Vec::new();
    let mut piece = [0; 8192];
    loop {
        if let Some(end) = held.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&held[..end]).into_owned();
            held.drain(..end + 4);
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let number = {
                let mut counts = counts.lock().expect("no panic");
                let count = counts.entry(path.clone()).or_default();
                *count += 1;
                *count - 1
            };
            let answer = script(&path, number);
            if !send(&mut stream, &answer) {
                return;
            }
            match answer.end {
                End::Close => return,
                End::Reset => {
                    let socket = nix::sys::socket::sockopt::Linger;
                    let zero = libc::linger { l_onoff: 1, l_linger: 0 };
                    let _ = nix::sys::socket::setsockopt(&stream, socket, &zero);
                    return;
                }
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(count) => held.extend_from_slice(&piece[..count]),
        }
    }
}

fn send(stream: &mut TcpStream, answer: &Answer) -> bool {
    if stream.write_all(answer.head.as_bytes()).is_err() {
        return false;
    }
    let piece = if answer.rate == 0 { 1 << 16 } else { (answer.rate / 50).max(1) };
    for bytes in answer.body.chunks(piece) {
        if stream.write_all(bytes).is_err() {
            return false;
        }
        if answer.rate > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // What was sent is read before a reset destroys it.
    if answer.end == End::Reset {
        std::thread::sleep(Duration::from_millis(100));
    }
    true
}
