//! What `session get` saves of itself when the endpoint of its session is saved (KTH 4.3.3): the
//! part of the file that has come, and how much of the response is still to come. So it goes on
//! with the same session on another machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;
use stp_lookup::endpoint::STATE;
use stp_proto::local::Cookie;

use crate::broker;

/// What this program is called among those that save their state.
const PROGRAM: &str = "get";
const VERSION: u32 = 1;
/// The longest state, in bytes.
const STATE_MAX: u64 = 64 << 10;
/// The ending of the file with the part that has come.
const PART: &str = "part";

/// The state of a `session get`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    /// The endpoint.
    pub endpoint: String,
    /// The number of its saved session.
    pub session: u64,
    /// The file's address.
    pub url: String,
    /// What the file is to be called.
    pub file: String,
    /// Its SHA-256, as the gateway said.
    pub sha256: String,
    /// Its length.
    pub size: u64,
    /// How much of the response is still to come.
    pub left: u64,
}

/// The endpoint of the session was saved, and the session with it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the session's endpoint was saved")]
pub struct Moved {
    /// The session's name at the broker.
    pub cookie: Cookie,
    /// How much of the response is still to come.
    pub left: u64,
}

/// Whether a file is the state of this program.
#[must_use]
pub fn is_ours(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(&format!("{STATE}{PROGRAM}.")))
}

/// As the broker wants it.
#[must_use]
pub fn digits(cookie: Cookie) -> String {
    cookie.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn part_of(state: &Path) -> PathBuf {
    let mut name = state.as_os_str().to_owned();
    name.push(".");
    name.push(PART);
    name.into()
}

/// Tells the broker that this program can go on elsewhere with its session.
pub fn say_aware(cookie: Cookie) {
    // A broker that does not know of it resets the session when its endpoint is saved.
    let _not_carried = broker::post("/endpoints/aware", &json!({ "cookie": digits(cookie) }));
}

/// Saves the state, and the part of the file with it.
///
/// # Errors
/// It cannot be written. The part is then where it was.
pub fn save(
    moved: &Moved,
    part: &Path,
    (url, file): (&str, &str),
    (sha256, size): (&str, u64),
) -> anyhow::Result<State> {
    let cookie = digits(moved.cookie);
    let ask = json!({ "cookie": cookie, "program": PROGRAM });
    let (code, answer) = broker::post("/endpoints/moved", &ask)?;
    if !code.is_success() {
        bail!("{}", answer["error"].as_str().unwrap_or("the broker refuses"));
    }
    let text = |key: &str| answer[key].as_str().with_context(|| format!("no {key}"));
    let place = PathBuf::from(text("state")?);
    let state = State {
        version: VERSION,
        endpoint: text("name")?.to_owned(),
        session: answer["session"].as_u64().context("no session")?,
        url: url.to_owned(),
        file: file.to_owned(),
        sha256: sha256.to_owned(),
        size,
        left: moved.left,
    };
    let written = move_file(part, &part_of(&place)).and_then(|()| {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&place)?;
        file.write_all(&serde_json::to_vec_pretty(&state)?)?;
        file.sync_all()
    });
    // In any case nobody need wait any more.
    let told = broker::post("/endpoints/done", &json!({ "cookie": cookie }));
    written.with_context(|| place.display().to_string())?;
    told?;
    Ok(state)
}

/// This program cannot be carried after all: nobody need wait for its state.
pub fn give_up(cookie: Cookie) {
    let _nobody_waits = broker::post("/endpoints/done", &json!({ "cookie": digits(cookie) }));
}

/// The address by which the saved session goes on.
///
/// # Errors
/// The session is not here, such as when a program has gone on with it.
pub fn address(state: &State) -> anyhow::Result<SocketAddr> {
    let ask = json!({ "name": state.endpoint, "session": state.session });
    let (code, answer) = broker::post("/endpoints/attach", &ask)?;
    if !code.is_success() {
        bail!("{}", answer["error"].as_str().unwrap_or("the broker refuses"));
    }
    Ok(answer["address"].as_str().context("no address")?.parse()?)
}

/// Reads a state.
///
/// # Errors
/// It is none.
pub fn read(file: &Path) -> anyhow::Result<State> {
    let name = || file.display().to_string();
    let mut text = String::new();
    let from = File::open(file).with_context(name)?;
    from.take(STATE_MAX).read_to_string(&mut text).with_context(name)?;
    let state: State = serde_json::from_str(&text).with_context(name)?;
    if state.version != VERSION {
        bail!("{} is of version {}, this program reads {VERSION}", name(), state.version);
    }
    Ok(state)
}

/// Takes the part of the file out of the endpoint.
///
/// # Errors
/// It cannot be read, or written there.
pub fn take_part(state: &Path, to: &Path) -> io::Result<()> {
    move_file(&part_of(state), to)
}

/// Removes a state with which the session goes on.
pub fn forget(state: &Path) {
    let _gone_already = fs::remove_file(state);
}

/// The old file is removed when the new one is on the disk.
fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    if fs::rename(from, to).is_err() {
        let mut options = OpenOptions::new();
        let mut into = options.write(true).create(true).truncate(true).mode(0o600).open(to)?;
        io::copy(&mut File::open(from)?, &mut into)?;
        into.sync_all()?;
        fs::remove_file(from)?;
    }
    Ok(())
}
