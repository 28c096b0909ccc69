//! `session get`: a file of a cluster, by user and path (STP steps 1 to 5), without any shim.
//!
//! The broker locates the file and holds the session: lost links, moves and dying servers are its
//! affair and not seen here. What is done here: ask for the bytes that are missing, write them to
//! `FILE.part`, show how it goes, and compare the SHA-256 of the whole with the gateway's word
//! before the file gets its name.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stp_lookup::here;
use stp_proto::local::wire::SocketState;

use crate::args::{Get, Run};
use crate::print::print;
use crate::{broker, login, stream};

/// Attempts without a new byte.
const ATTEMPTS_MAX: u32 = 10;
/// The broker holds a session without a path as long as it is configured to; so long without a
/// byte it is asked how it goes.
const SILENCE: Duration = Duration::from_secs(2);
/// The exit code after Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;
const HEAD_MAX: usize = 64 * 1024;
const PIECE: usize = 256 * 1024;

/// Where a file is to be had: `stp://user@gateway/path`.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    user: String,
    gateway: String,
    path: String,
}

/// What the broker says of a file.
struct Offer {
    address: SocketAddr,
    host: String,
    path: String,
    size: u64,
    sha256: String,
    servers: String,
}

/// Gets a file.
///
/// # Errors
/// When it cannot be had, or is not what the gateway says.
pub fn get(args: &Get) -> anyhow::Result<ExitCode> {
    let source = source(&args.url)?;
    let name = source.path.rsplit('/').next().unwrap_or_default();
    let target = args.output.clone().unwrap_or_else(|| PathBuf::from(name));
    let run = Run {
        config: args.config.clone(),
        no_broker: false,
        broker_log: None,
        anyway: false,
        quiet: false,
        command: Vec::new(),
    };
    broker::ensure(&run)?;
    let offer = locate(&source, 0)?;
    if target.exists() {
        if hash_of(&target)? == offer.sha256 {
            print(&format!("{} is there already, and right\n", target.display()))?;
            return Ok(ExitCode::SUCCESS);
        }
        bail!("{} exists, and is another file; name one with -o", target.display());
    }
    let part = part_of(&target);
    let bar = bar(offer.size, args.quiet);
    on_interrupt(&bar, &part)?;
    let sha256 = fetch(&source, offer, &part, &bar)?;
    let (sha256, expected) = sha256;
    if sha256 != expected {
        // What was there from an earlier attempt may have been of an older file.
        std::fs::remove_file(&part)?;
        bail!(
            "{} has the SHA-256 {}, not {expected} as the gateway says; it was taken away, try \
                again",
            part.display(),
            sha256
        );
    }
    std::fs::rename(&part, &target)?;
    bar.finish_and_clear();
    if !args.quiet {
        print(&format!("{}  {}\n", expected, target.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Ctrl-C leaves a clean line, and what has come so far for the next time.
fn on_interrupt(bar: &ProgressBar, part: &Path) -> anyhow::Result<()> {
    let (bar, part) = (bar.clone(), part.display().to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut interrupt = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?
    };
    std::thread::spawn(move || {
        runtime.block_on(interrupt.recv());
        bar.finish_and_clear();
        eprintln!("session: interrupted; {part} is kept, the same command goes on from there");
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

/// Gets all bytes that are missing; the SHA-256 of what is there then, and the one it should have.
fn fetch(
    source: &Source,
    first: Offer,
    part: &Path,
    bar: &ProgressBar,
) -> anyhow::Result<(String, String)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = &mut options.open(part).with_context(|| part.display().to_string())?;
    let mut hash = Sha256::new();
    let mut have = hash_prefix(file, first.size, &mut hash)?;
    let (size, expected) = (first.size, first.sha256.clone());
    bar.set_position(have);
    bar.reset_eta();
    let mut offer = Some(first);
    let mut attempts = 0;
    while have < size {
        let now = match offer.take() {
            Some(offer) if have == 0 => Ok(offer),
            _ => locate(source, have),
        };
        let before = have;
        let result = now.and_then(|offer| {
            if offer.sha256 != expected {
                bail!("the file has changed at the gateway; start again");
            }
            bar.set_message(offer.servers.clone());
            transfer(&offer, file, &mut hash, &mut have, bar)
        });
        let Err(error) = result else { continue };
        attempts = if have > before { 1 } else { attempts + 1 };
        if attempts >= ATTEMPTS_MAX || error.is::<Final>() {
            return Err(error);
        }
        bar.set_message(format!("{error:#}"));
        std::thread::sleep(Duration::from_millis(200 << attempts.min(5)));
    }
    file.sync_all()?;
    Ok((hex(&hash.finalize()), expected))
}

/// Trying again will not help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Final(String);

fn locate(source: &Source, from: u64) -> anyhow::Result<Offer> {
    let body = json!({
        "user": source.user, "gateway": source.gateway, "path": source.path, "from": from,
    });
    let (code, answer) = broker::post("/files", &body)?;
    if !code.is_success() {
        let why = answer["error"].as_str().unwrap_or("the broker refuses").to_owned();
        return Err(if code.as_u16() == 404 { Final(why).into() } else { anyhow::anyhow!(why) });
    }
    let text =
        |key: &str| answer[key].as_str().map(str::to_owned).with_context(|| format!("no {key}"));
    let servers = answer["servers"].as_array().cloned().unwrap_or_default();
    let servers: Vec<_> = servers.iter().filter_map(Value::as_str).collect();
    Ok(Offer {
        address: text("address")?.parse()?,
        host: text("host")?,
        path: text("path")?,
        size: answer["size"].as_u64().context("no size")?,
        sha256: text("sha256")?,
        servers: servers.join(", "),
    })
}

/// One session: asks for the rest from `have` on and takes what comes.
fn transfer(
    offer: &Offer,
    file: &mut File,
    hash: &mut Sha256,
    have: &mut u64,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let dir = here::session_dir()?;
    let (mut session, cookie) = stream::open(&dir, offer.address, SILENCE)?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nRange: bytes={have}-\r\nConnection: close\r\n\
         Accept-Encoding: identity\r\nUser-Agent: session-get\r\n\r\n",
        escaped(&offer.path),
        offer.host
    );
    let refused = |error: io::Error| match stream::socket_state(&dir, cookie) {
        Some(SocketState::Refused(errno) | SocketState::Reset(errno)) => {
            let error = io::Error::from_raw_os_error(errno);
            anyhow::anyhow!("the session was refused or ended: {error}{}", reason_of_end())
        }
        _ => anyhow::anyhow!("the session ended: {error}"),
    };
    session.write_all(request.as_bytes()).map_err(refused)?;
    let mut buffer = vec![0; PIECE];
    let (head, mut filled) = read_head(&mut session, &mut buffer, bar).map_err(refused)?;
    let mut left = check_head(&buffer[..head], *have)?;
    let mut at = head;
    let mut shown = Instant::now();
    loop {
        let piece = &buffer[at..filled];
        let take = usize::try_from(left).map_or(piece.len(), |left| piece.len().min(left));
        file.write_all(&piece[..take])?;
        hash.update(&piece[..take]);
        let taken = u64::try_from(take)?;
        (*have, left) = (*have + taken, left - taken);
        bar.set_position(*have);
        if left == 0 {
            return Ok(());
        }
        if shown.elapsed() > Duration::from_secs(1) {
            shown = Instant::now();
            show_server(bar);
        }
        at = 0;
        filled = match read(&mut session, &mut buffer, bar) {
            Ok(0) => return Err(refused(ErrorKind::UnexpectedEof.into())),
            Ok(read) => read,
            Err(error) => return Err(refused(error)),
        };
    }
}

/// Reads once; while nothing comes it shows how the session fares.
fn read(session: &mut impl Read, buffer: &mut [u8], bar: &ProgressBar) -> io::Result<usize> {
    loop {
        match session.read(buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                show_server(bar);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Reads until a head is whole: its length, and how many bytes are there.
fn read_head(
    session: &mut impl Read,
    buffer: &mut [u8],
    bar: &ProgressBar,
) -> io::Result<(usize, usize)> {
    let mut filled = 0;
    loop {
        let end = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            return Ok((end + 4, filled));
        }
        if filled >= HEAD_MAX {
            return Err(io::Error::new(ErrorKind::InvalidData, "a response head without an end"));
        }
        match read(session, &mut buffer[filled..], bar)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
}

/// The length of the body, if the response is the one asked for.
fn check_head(head: &[u8], from: u64) -> anyhow::Result<u64> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(head).context("the answer is not HTTP")?;
    let code = response.code.unwrap_or_default();
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    match code {
        206 => {
            let range = header("content-range").unwrap_or_default();
            let begin = range.strip_prefix("bytes ").and_then(|range| range.split_once('-'));
            if begin.and_then(|(begin, _)| begin.parse().ok()) != Some(from) {
                bail!("asked from byte {from}, the server sends {range:?}");
            }
        }
        200 if from == 0 => {}
        200 => bail!("the server cannot send from byte {from}"),
        code => return Err(Final(format!("the server answers {code}")).into()),
    }
    let length = header("content-length").and_then(|length| length.parse().ok());
    length.context("the server does not say how long it is")
}

/// Our session in the broker's status.
fn our_session(status: &Value, list: &str) -> Option<Value> {
    let pid = std::process::id();
    let ours = |session: &&Value| session["app"]["pid"].as_u64() == Some(pid.into());
    status[list].as_array()?.iter().rev().find(ours).cloned()
}

fn show_server(bar: &ProgressBar) {
    let Some(session) = broker::status().ok().and_then(|all| our_session(&all, "sessions")) else {
        return;
    };
    let server = session["server"].as_str().unwrap_or("no server");
    let state = session["state"].as_str().unwrap_or_default();
    let state = if state == "active" { String::new() } else { format!(" ({state})") };
    bar.set_message(format!("{server}{state}"));
}

fn reason_of_end() -> String {
    let ended = broker::status().ok().and_then(|all| our_session(&all, "ended"));
    let reason = ended.and_then(|ended| ended["reason"].as_str().map(str::to_owned));
    reason.map_or_else(String::new, |reason| format!(": {reason}"))
}

fn bar(size: u64, quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(size), target);
    let template = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {wide_msg}";
    let style = ProgressStyle::with_template(template).expect("a constant template is right");
    bar.set_style(style);
    bar
}

fn part_of(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Hashes what an earlier attempt has left, and stands behind it. More than the file can have is
/// cut off.
fn hash_prefix(file: &mut File, size: u64, hash: &mut Sha256) -> io::Result<u64> {
    if file.metadata()?.len() > size {
        file.set_len(0)?;
    }
    file.seek(SeekFrom::Start(0))?;
    hash_all(file, hash)
}

fn hash_all(from: &mut impl Read, hash: &mut Sha256) -> io::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut length = 0;
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(length),
            read => {
                hash.update(&piece[..read]);
                length += read as u64;
            }
        }
    }
}

fn hash_of(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    hash_all(&mut File::open(path)?, &mut hash)?;
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What stays as it is in a request's target.
const PLAIN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A path as a request's target.
fn escaped(path: &str) -> String {
    utf8_percent_encode(path, PLAIN).to_string()
}

/// Undoes percent encoding. A `%` without two hexadecimal digits stays a `%`.
fn unescaped(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)
}

fn source(url: &str) -> anyhow::Result<Source> {
    let wrong = || format!("\"{url}\" is not of the form stp://USER@GATEWAY/PATH");
    let rest = url.strip_prefix("stp://").with_context(wrong)?;
    let (account, path) = rest.split_once('/').with_context(wrong)?;
    let (user, gateway) = login::account(account)?;
    let path = unescaped(path).with_context(wrong)?;
    let path = stp_proto::lookup::FilePath::new(&format!("/{path}")).with_context(wrong)?;
    Ok(Source { user, gateway: gateway.to_string(), path: path.as_str().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let good = source("stp://alice@gw.example:99/a%20b/c.iso").expect("a good one");
        assert_eq!(good.user, "alice");
        assert_eq!(good.gateway, "gw.example:99");
        assert_eq!(good.path, "/a b/c.iso");
        for bad in [
            "http://a@b/c",
            "stp://b/c",
            "stp://a@b",
            "stp://a@b/",
            "stp://a@b/../c",
            "stp://A B@b/c",
            "stp://a@b/%ff",
        ] {
            assert!(source(bad).is_err(), "{bad}");
        }
        assert_eq!(escaped("/a b/ü"), "/a%20b/%C3%BC");
        assert_eq!(unescaped("/a%20b/%C3%BC").as_deref(), Some("/a b/ü"));
    }

    #[test]
    fn only_the_bytes_asked_for_are_taken() {
        let head = |text: &str| text.replace('\n', "\r\n").into_bytes();
        let good = head("HTTP/1.1 206 P\nContent-Range: bytes 5-9/10\nContent-Length: 5\n\n");
        assert_eq!(check_head(&good, 5).expect("as asked"), 5);
        assert!(check_head(&good, 6).is_err());
        let whole = head("HTTP/1.1 200 OK\nContent-Length: 10\n\n");
        assert_eq!(check_head(&whole, 0).expect("the whole"), 10);
        assert!(check_head(&whole, 5).is_err());
        assert!(check_head(&head("HTTP/1.1 404 N\nContent-Length: 0\n\n"), 0).is_err());
    }

    #[test]
    fn what_an_earlier_attempt_left_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f.part");
        std::fs::write(&path, b"hello").expect("ours");
        let mut file = OpenOptions::new().read(true).write(true).open(&path).expect("ours");
        let mut hash = Sha256::new();
        assert_eq!(hash_prefix(&mut file, 10, &mut hash).expect("read"), 5);
        assert_eq!(hex(&hash.finalize()), hash_of(&path).expect("read"));
        assert_eq!(hash_prefix(&mut file, 3, &mut Sha256::new()).expect("read"), 0);
    }
}
