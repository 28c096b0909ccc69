//! One attempt at a file: the broker says where it is, a session asks for the bytes from a
//! position on, and what comes is handed on.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use stp_lookup::here;
use stp_proto::local::Cookie;
use stp_proto::local::wire::{EMOVED, SocketState};

use crate::cause::{Cause, Final};
use crate::state::Moved;
use crate::{broker, state, stream};

/// After this time without a byte, the broker is asked for the state of the session. (How long a
/// session may go without a link is the broker's configuration.)
const SILENCE: Duration = Duration::from_secs(2);
const HEAD_MAX: usize = 64 * 1024;
const PIECE: usize = 256 * 1024;

/// The address of a file: `stp://user@gateway/path`.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The user.
    pub user: String,
    /// The gateway.
    pub gateway: String,
    /// The path in the user's tree.
    pub path: String,
    /// The endpoint of the session, if it is to have one.
    pub endpoint: Option<String>,
}

/// What the broker says of a file.
pub struct Offer {
    address: SocketAddr,
    host: String,
    path: String,
    /// Its length.
    pub size: u64,
    /// Its SHA-256, as the gateway says.
    pub sha256: String,
    /// The servers that have it.
    pub servers: String,
}

/// Asks the broker for the file from a position on.
///
/// # Errors
/// When no broker answers, or no server has it.
pub fn locate(source: &Source, from: u64) -> anyhow::Result<Offer> {
    let body = json!({
        "user": source.user, "gateway": source.gateway, "path": source.path, "from": from,
        "endpoint": source.endpoint, "pid": std::process::id(),
    });
    let (code, answer) = broker::post("/files", &body)?;
    if !code.is_success() {
        let why = answer["error"].as_str().unwrap_or("the broker refuses").to_owned();
        return Err(match code.as_u16() {
            404 => Final::new(Cause::NotFound, why).into(),
            401 | 403 => Final::new(Cause::Denied, why).into(),
            _ => anyhow::anyhow!(why),
        });
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

/// One session: asks for the rest from `have` on, and hands on what comes.
///
/// # Errors
/// When the session ends before all bytes have come. Those that were handed on count.
pub fn transfer(
    offer: &Offer,
    have: u64,
    bar: &ProgressBar,
    take: impl FnMut(&[u8]) -> Result<(), Final>,
) -> anyhow::Result<()> {
    let dir = here::session_dir()?;
    let (mut session, cookie) = stream::open(&dir, offer.address, SILENCE)?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nRange: bytes={have}-\r\nConnection: close\r\n\
         Accept-Encoding: identity\r\nUser-Agent: session-get\r\n\r\n",
        escaped(&offer.path),
        offer.host
    );
    let refused = |error: io::Error| refused(&dir, cookie, &error);
    session.write_all(request.as_bytes()).map_err(refused)?;
    let mut buffer = vec![0; PIECE];
    let (head, filled) = read_head(&mut session, &mut buffer, bar).map_err(refused)?;
    let left = check_head(&buffer[..head], have)?;
    state::say_aware(cookie);
    take_body((session, cookie, &dir), (buffer, head, filled), left, bar, take)
}

/// A session that was saved with its endpoint: hands on the rest of the response, of which so much
/// is still to come.
///
/// # Errors
/// When the session cannot go on, or ends before all bytes have come.
pub fn go_on(
    address: SocketAddr,
    left: u64,
    bar: &ProgressBar,
    take: impl FnMut(&[u8]) -> Result<(), Final>,
) -> anyhow::Result<()> {
    let dir = here::session_dir()?;
    let (session, cookie) = stream::open(&dir, address, SILENCE)?;
    take_body((session, cookie, &dir), (vec![0; PIECE], 0, 0), left, bar, take)
}

/// Why a session has ended.
fn refused(dir: &Path, cookie: Cookie, error: &io::Error) -> anyhow::Error {
    match stream::socket_state(dir, cookie) {
        Some(SocketState::Refused(errno) | SocketState::Reset(errno)) => {
            let error = io::Error::from_raw_os_error(errno);
            anyhow::anyhow!("the session was refused or ended: {error}{}", reason_of_end())
        }
        _ => anyhow::anyhow!("the session ended: {error}"),
    }
}

/// Hands on the body, of which so much is left. The buffer is filled up to there, and handed on up
/// to here.
fn take_body(
    (mut session, cookie, dir): (UnixStream, Cookie, &Path),
    (mut buffer, mut at, mut filled): (Vec<u8>, usize, usize),
    mut left: u64,
    bar: &ProgressBar,
    mut take: impl FnMut(&[u8]) -> Result<(), Final>,
) -> anyhow::Result<()> {
    let refused = |error: io::Error, left: u64| match stream::socket_state(dir, cookie) {
        Some(SocketState::Reset(EMOVED)) => Moved { cookie, left }.into(),
        _ => refused(dir, cookie, &error),
    };
    let mut shown = Instant::now();
    loop {
        let piece = &buffer[at..filled];
        let count = usize::try_from(left).map_or(piece.len(), |left| piece.len().min(left));
        take(&piece[..count])?;
        left -= u64::try_from(count)?;
        if left == 0 {
            return Ok(());
        }
        if shown.elapsed() > Duration::from_secs(1) {
            shown = Instant::now();
            show_server(bar);
        }
        at = 0;
        filled = match read(&mut session, &mut buffer, bar) {
            Ok(0) => return Err(refused(ErrorKind::UnexpectedEof.into(), left)),
            Ok(read) => read,
            Err(error) => return Err(refused(error, left)),
        };
    }
}

/// Reads once; while nothing comes it shows the state of the session.
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

/// Reads until a response head is complete. Returns its length, and how many bytes were read.
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
        404 => return Err(Final::new(Cause::NotFound, "the server has it no more").into()),
        code => {
            return Err(Final::new(Cause::Network, format!("the server answers {code}")).into());
        }
    }
    let length = header("content-length").and_then(|length| length.parse().ok());
    length.context("the server does not say how long it is")
}

/// This command's session in the broker's status.
fn our_session(status: &Value, list: &str) -> Option<Value> {
    let pid = std::process::id();
    let ours = |session: &&Value| session["app"]["pid"].as_u64() == Some(pid.into());
    status[list].as_array()?.iter().rev().find(ours).cloned()
}

fn show_server(bar: &ProgressBar) {
    let Some(session) = broker::status().ok().and_then(|all| our_session(&all, "sessions")) else {
        return;
    };
    bar.set_message(course_of(&session));
}

/// Where a session is, and what it has been through: "b (lost), 2 moves, 1 cut".
fn course_of(session: &Value) -> String {
    let server = session["server"].as_str().unwrap_or("no server");
    let state = session["state"].as_str().unwrap_or_default();
    let state = if state == "active" { String::new() } else { format!(" ({state})") };
    let events = session["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    let count =
        |what: &str, one: &str| match events.iter().filter(|event| event["what"] == what).count() {
            0 => String::new(),
            1 => format!(", 1 {one}"),
            several => format!(", {several} {one}s"),
        };
    format!("{server}{state}{}{}", count("transferred", "move"), count("resumed", "cut"))
}

fn reason_of_end() -> String {
    let ended = broker::status().ok().and_then(|all| our_session(&all, "ended"));
    let reason = ended.and_then(|ended| ended["reason"].as_str().map(str::to_owned));
    reason.map_or_else(String::new, |reason| format!(": {reason}"))
}

/// The bytes that are not escaped in a request's target.
const PLAIN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A path as a request's target.
fn escaped(path: &str) -> String {
    utf8_percent_encode(path, PLAIN).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_says_where_the_session_is_and_what_it_went_through() {
        let session = |state: &str, events: &[&str]| {
            let events: Vec<_> = events.iter().map(|what| json!({ "what": what })).collect();
            course_of(&json!({ "server": "b", "state": state, "events": events }))
        };
        assert_eq!(session("active", &["connected"]), "b");
        let events = ["connected", "resumed", "transferred", "transferred"];
        assert_eq!(session("lost", &events), "b (lost), 2 moves, 1 cut");
    }

    #[test]
    fn a_path_is_escaped_as_a_target() {
        assert_eq!(escaped("/a b/ü"), "/a%20b/%C3%BC");
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
}
