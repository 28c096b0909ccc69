//! An FTP control connection: what a client, a server and data connections do, in any order.

use std::net::IpAddr;

use stp_proto::handle::Handle;
use stp_proto::replay::ftp::{
    Act, Control, ControlState, DataNews, Exchange, Login, Place, Reply, port_of_reply,
};

use super::{Draw, bounded};

/// A queue of commands, a reply, a state in JSON.
const MEMORY: usize = 2 << 20;

/// Lines of a client and of a server that keep to the protocol.
const CLIENT: [&str; 18] = [
    "USER ann",
    "PASS x",
    "TYPE I",
    "CWD /a",
    "CDUP",
    "PASV",
    "EPSV",
    "EPSV ALL",
    "PORT 10,0,0,1,200,1",
    "EPRT |1|10.0.0.1|5000|",
    "REST 7",
    "RETR f",
    "STOR f",
    "LIST",
    "ABOR",
    "QUIT",
    "NOOP",
    "RNFR x",
];
const SERVER: [&str; 12] = [
    "220 hello",
    "331 pass",
    "230 in",
    "200 ok",
    "250 ok",
    "227 x (1,2,3,4,5,6)",
    "229 x (|||99|)",
    "150 here",
    "226 done",
    "426 cut",
    "421 bye",
    "350 more",
];

pub fn run(data: &[u8]) {
    let mut draw = Draw::new(data);
    bounded(MEMORY + 64 * data.len(), || live(&mut draw));
    let text = String::from_utf8_lossy(data);
    for verb in ["PORT", "EPRT", "LPRT", "EPSV"] {
        let _read_or_refused = Place::parse(verb, &text);
    }
    for code in [227, 228, 229] {
        let port = port_of_reply(&Reply::new(code, &text));
        assert_ne!(port, Some(0));
    }
    let _read_or_refused = serde_json::from_slice::<Exchange>(data);
}

struct Watch {
    /// Replies given that are not "another one follows".
    answers: u64,
    /// Something was sent for the transfer under way, and arrived.
    delivered: bool,
    up: bool,
    ended: bool,
    state: Option<(ControlState, u64)>,
}

fn live(draw: &mut Draw<'_>) {
    let host = IpAddr::from([127, 192, 0, 1]);
    let mut control = Control::new(host, Handle([7; 16]), draw.bool());
    let mut watch = Watch { answers: 0, delivered: false, up: false, ended: false, state: None };
    let mut commands = 0_u64;
    let mut steps = 0;
    while !draw.is_empty() && steps < 400 {
        steps += 1;
        match draw.below(12) {
            0..=3 => {
                let line = format!("{}\r\n", draw.pick(&CLIENT));
                commands += 1;
                if control.client(line.as_bytes()) < line.len() {
                    // It is not taken now: nothing more of the client until it is.
                    commands -= u64::from(!control.wants_client());
                }
            }
            4..=7 => control.server(format!("{}\r\n", draw.pick(&SERVER)).as_bytes()),
            8 => {
                let bytes = draw.bytes(300);
                commands += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
                let _taken = control.client(&bytes);
            }
            9 => control.server(&draw.bytes(300)),
            10 => {
                if let Some(token) = control.running() {
                    let news = draw.pick(&[
                        DataNews::Delivered,
                        DataNews::Failed,
                        DataNews::ClientGone,
                        DataNews::Moved,
                    ]);
                    watch.delivered |= news == DataNews::Delivered;
                    control.data(token, news);
                }
            }
            _ => match draw.below(4) {
                0 => control.server_lost(),
                1 => control.server_ready(draw.bool()),
                2 => control.server_failed("no"),
                _ => control.connected(draw.bool()),
            },
        }
        carry_out(&mut control, &mut watch);
    }
    // The greeting, a 150 for each command, and its last reply.
    assert!(watch.answers <= 2 * commands + 2, "{} answers to {commands}", watch.answers);
    let Some((state, covers)) = watch.state else { return };
    let json = serde_json::to_string(&Exchange::Control(Box::new(state.clone()))).expect("plain");
    let Ok(Exchange::Control(read)) = serde_json::from_str(&json) else { panic!("{json}") };
    assert_eq!(*read, state);
    let length = state.reply.len() as u64;
    let fresh = || Control::new(host, Handle([9; 16]), false);
    assert!(fresh().restored(&state, covers, length + 1).is_none());
    let mut other = fresh().restored(&state, covers, length).expect("all of it was received");
    other.server_lost();
    let mut watch = Watch { answers: 0, delivered: false, up: true, ended: false, state: None };
    carry_out(&mut other, &mut watch);
}

fn carry_out(control: &mut Control, watch: &mut Watch) {
    let mut acts = 0;
    while let Some(act) = control.poll_act() {
        acts += 1;
        assert!(acts < 1_000, "more is to be done than was asked for");
        match act {
            Act::Begin { running, .. } => {
                watch.delivered = false;
                watch.up = running.transfer == stp_proto::replay::ftp::Transfer::Up;
            }
            Act::Answer(answer) => {
                watch.answers += 1;
                assert!(!watch.ended, "an answer behind the end");
                if answer.bytes.starts_with(b"226 Transfer complete.") {
                    assert!(watch.delivered && !watch.up, "told of success without the data");
                }
                watch.state =
                    answer.state.map(|state| (state, answer.covers)).or(watch.state.take());
            }
            Act::End => watch.ended = true,
            _ => {}
        }
    }
    let login: &Login = control.login();
    assert!(login.steps().iter().map(|step| step.line.len()).sum::<usize>() < 40_000);
}
