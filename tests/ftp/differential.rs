//! What is read of a control connection, beside what Python's ftplib reads of the same bytes.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use stp_proto::replay::ftp::{Replies, Reply, port_of_reply};
use stp_tests::process::Plan;
use stp_tests::scene::{Scene, play};

use crate::world::CLIENT_MAX;

const CASES: usize = 4_000;

/// Replies as servers may send them: lines that look like the end and are not, odd line ends,
/// addresses with and without parentheses, numbers of any size.
fn reply(random: &mut fastrand::Rng) -> String {
    let code = *random.choice(&["227", "229", "226", "150", "211", "230"]).unwrap_or(&"200");
    let other = if code == "226" { "550" } else { "226" };
    let end = if random.u8(..) < 40 { "\n" } else { "\r\n" };
    let number = |random: &mut fastrand::Rng| random.u32(..300);
    let place = match (code, random.u8(..6)) {
        ("227", 0) => "no address".to_owned(),
        ("227", 1) => {
            let list: Vec<String> = (0..5).map(|_| number(random).to_string()).collect();
            format!("({})", list.join(","))
        }
        ("227", form) => {
            let list: Vec<String> = (0..6).map(|_| number(random).to_string()).collect();
            let list = list.join(",");
            if form % 2 == 0 { format!("({list}).") } else { list }
        }
        ("229", 0) => "(||||)".to_owned(),
        ("229", _) => {
            let bar = *random.choice(&["|", "!", "%"]).unwrap_or(&"|");
            format!("({bar}{bar}{bar}{}{bar})", random.u32(..70_000))
        }
        _ => "done".to_owned(),
    };
    let mut text = String::new();
    for line in 0..random.usize(..4) {
        let middle = match (line, random.u8(..6)) {
            (0, _) => format!("{code}-begins"),
            (_, 0) => format!("{code}-still"),
            (_, 1) => format!("{other} not this"),
            (_, 2) => format!(" {code} indented"),
            (_, 3) => String::new(),
            (_, 4) => "21".to_owned(),
            _ => "anything at all".to_owned(),
        };
        let _ = write!(text, "{middle}{end}");
    }
    let _ = write!(text, "{code} says {place}{end}");
    text
}

/// Replies one after the other, and the port in each.
fn ours(bytes: &[u8]) -> Result<Vec<(String, Option<u16>)>> {
    let (mut replies, mut rest, mut all) = (Replies::default(), bytes, Vec::new());
    while !rest.is_empty() {
        let (taken, reply) = replies.take(rest)?;
        rest = &rest[taken..];
        let Some(reply) = reply else { break };
        let text = String::from_utf8(reply.bytes.clone())?;
        all.push((text.lines().collect::<Vec<_>>().join("\n"), port_of_reply(&reply)));
    }
    Ok(all)
}

const THEIRS: &str = r#"
import ftplib, io, json, sys
ftp = ftplib.FTP()
ftp.file = open(sys.argv[1], newline="", encoding="utf-8")
class Lines:
    def __init__(self, file): self.file = io.BufferedReader(io.FileIO(file))
    def readline(self, limit): return self.file.readline(limit).decode()
ftp.file = Lines(sys.argv[1])
while True:
    try:
        text = ftp.getmultiline()
    except EOFError:
        break
    port = None
    try:
        if text[:3] == "227": port = ftplib.parse227(text)[1]
        if text[:3] == "229": port = ftplib.parse229(text, ("h", 1))[1]
    except (ftplib.Error, ValueError):
        pass
    print(json.dumps([text, port]))
"#;

#[test]
fn replies_are_read_as_ftplib_reads_them() {
    play("ftp-differential", differ);
}

fn differ(scene: &Scene) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(17);
    let text: String = (0..CASES).map(|_| reply(&mut random)).collect();
    let file = scene.path("replies");
    std::fs::write(&file, &text)?;
    let plan = Plan::new("/usr/bin/python3").called("ftplib").args(&["-c", THEIRS]).arg(&file);
    let theirs = plan.run(scene, None, CLIENT_MAX)?.ok()?.out;
    let ours = ours(text.as_bytes())?;
    ensure!(theirs.lines().count() == CASES && ours.len() == CASES, "not every reply was read");
    let mut ports = 0;
    for ((text, port), line) in ours.iter().zip(theirs.lines()) {
        let (their_text, their_port): (String, Option<u32>) = serde_json::from_str(line)?;
        ensure!(*text == their_text, "{text:?} and {their_text:?}");
        // Numbers that are no bytes and ports that are none are refused here.
        let strict = their_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        let bytes = text.split(|c: char| !c.is_ascii_digit());
        let wild = bytes.skip(1).any(|word| word.parse::<u32>().is_ok_and(|number| number > 255));
        ensure!(
            *port == strict || text.starts_with("227") && wild,
            "{text:?}: {port:?}, {strict:?}"
        );
        ports += usize::from(port.is_some());
    }
    scene.say(&format!("{CASES} replies, {ports} ports"));
    ensure!(ports > CASES / 8, "only {ports} ports");
    // What is told to clients is understood as well.
    let told = Reply::new(227, "Entering Passive Mode (198,18,0,1,156,65).");
    ensure!(port_of_reply(&told) == Some(40_001), "our own 227");
    Ok(())
}
