//! The work of the apps of a seed, and the services that the servers play for them.

use std::cell::RefCell;
use std::rc::Rc;

use crate::app::{Plain, Task};
use crate::origin::Ledger;
use crate::plan::{Plan, Work};
use crate::random::{Random, pattern};
use crate::server::Server;

/// What a server needs to know to serve a session.
#[derive(Clone, Debug)]
pub enum Script {
    Http,
    /// Patterns and lengths up and down; whether the service ends only after the app.
    Tcp {
        up: (u64, u64),
        down: (u64, u64),
        waits: bool,
    },
}

impl Script {
    pub fn service(&self) -> &'static str {
        match self {
            Script::Http => "www.files@example.org",
            Script::Tcp { .. } => "ssh.host@example.org",
        }
    }
}

pub fn draw(
    plan: &Plan,
    random: &mut Random,
    servers: &[Server],
    ledger: &Rc<RefCell<Ledger>>,
    number: u64,
    work: Work,
) -> (Task, Script) {
    let Work::Http { safe } = work else {
        let length = |random: &mut Random| {
            if random.one_in(8) { 0 } else { random.scale(1, plan.size) }
        };
        let up = (number * 2 + 1, length(random));
        let down = (number * 2 + 2, length(random));
        let script = Script::Tcp { up, down, waits: random.one_in(2) };
        return (Task::Stream { up, down, written: 0, seen: 0 }, script);
    };
    let count = random.size(1, 8);
    let mut requests = Vec::new();
    for index in 0..count {
        let last = index + 1 == count;
        let mut closes = last && random.one_in(3);
        let id = number * 1000 + index as u64 + 1;
        let request = request(plan, random, id, safe, &mut closes, last);
        if request.starts_with(b"P") {
            ledger.borrow_mut().expect(id, request.clone());
        }
        requests.push(request);
    }
    let task = Task::Exchanges {
        requests,
        origins: servers.iter().map(|server| Rc::clone(&server.origin)).collect(),
        pipeline: random.pick(&[1, 1, 1, 3]),
        asked: 0,
        written: 0,
        answered: 0,
        candidates: Vec::new(),
        plain: Plain::default(),
        seen: 0,
        not_before: stp_proto::time::Instant::default(),
    };
    (task, Script::Http)
}

fn request(
    plan: &Plan,
    random: &mut Random,
    id: u64,
    safe: bool,
    closes: &mut bool,
    last: bool,
) -> Vec<u8> {
    let file = random.below(4);
    let connection = |closes: bool| if closes { "Connection: close\r\n" } else { "" };
    let padding = "X-Pad: y\r\n".repeat(random.index(4) * random.index(40));
    let kind = if safe { random.below(5) } else { random.below(9) };
    let head = match kind {
        0..=2 => format!("GET /f{file} HTTP/1.1\r\nHost: a\r\n{padding}{}", connection(*closes)),
        3 => format!("HEAD /f{file} HTTP/1.1\r\nHost: a\r\n{}", connection(*closes)),
        4 => {
            let first = random.below(plan.size.max(2));
            let end = if random.one_in(2) {
                String::new()
            } else {
                (first + random.below(plan.size)).to_string()
            };
            let range = format!("Range: bytes={first}-{end}\r\n");
            format!("GET /f{file} HTTP/1.1\r\nHost: a\r\n{range}{}", connection(*closes))
        }
        5 => format!("GET /c{file} HTTP/1.1\r\nHost: a\r\n{}", connection(*closes)),
        6 if last => {
            *closes = true;
            format!("GET /d{file} HTTP/1.1\r\nHost: a\r\n")
        }
        _ => {
            let mut body = vec![0; random.size(1, plan.size)];
            pattern(id + 77, 0, &mut body);
            let chunked = random.one_in(3);
            let method = random.pick(&["PUT", "POST"]);
            let framing = if chunked {
                "Transfer-Encoding: chunked\r\n".to_owned()
            } else {
                format!("Content-Length: {}\r\n", body.len())
            };
            let head = format!(
                "{method} /u HTTP/1.1\r\nX-Id: {id}\r\n{framing}{}\r\n",
                connection(*closes)
            );
            let mut whole = head.into_bytes();
            if chunked {
                for piece in body.chunks(1000) {
                    whole.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    whole.extend_from_slice(piece);
                    whole.extend_from_slice(b"\r\n");
                }
                whole.extend_from_slice(b"0\r\n\r\n");
            } else {
                whole.extend_from_slice(&body);
            }
            return whole;
        }
    };
    format!("{head}\r\n").into_bytes()
}
