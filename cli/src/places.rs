//! Where the shim and the broker's program are.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The shim.
///
/// # Errors
/// Says where it was looked for.
pub fn shim() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("SESSION_LIB").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("SESSION_LIB={} is not a file", path.display());
        }
        return std::path::absolute(&path).context("SESSION_LIB");
    }
    beside_us("libsession.so", &["../lib", "../lib/session"])
        .context("the shim libsession.so is not there; build it, or name it with SESSION_LIB")
}

/// The broker's program.
///
/// # Errors
/// Says where it was looked for.
pub fn broker_program() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("SESSION_BROKER").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    beside_us("stp-broker", &["../sbin", "../libexec/session"])
        .or_else(|missing| in_path(OsStr::new("stp-broker")).ok_or(missing))
        .context("the broker stp-broker is not there; build it, or name it with SESSION_BROKER")
}

/// The server's program for another machine of this kind: linked statically if there is one.
///
/// # Errors
/// Says what was looked for.
pub fn server_program(machine: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("SESSION_SERVER").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    if machine.is_empty()
        || !machine.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        bail!("that machine does not say what it is");
    }
    let name = format!("stp-server-{machine}-static");
    let missing = match beside_us(&name, &["../lib/session"]) {
        Ok(path) => return Ok(path),
        Err(missing) => missing,
    };
    if machine == env::consts::ARCH
        && let Ok(path) = own_server_program()
    {
        return Ok(path);
    }
    Err(missing.context(format!(
        "wrong architecture: there is no stp-server for {machine}; name one with SESSION_SERVER"
    )))
}

/// The server's program for this machine.
///
/// # Errors
/// Says where it was looked for.
pub fn own_server_program() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("SESSION_SERVER").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let linked = format!("stp-server-{}-static", env::consts::ARCH);
    beside_us("stp-server", &["../sbin"])
        .or_else(|missing| in_path(OsStr::new("stp-server")).ok_or(missing))
        .or_else(|missing| beside_us(&linked, &["../lib/session"]).map_err(|_| missing))
        .context("stp-server is not there: install session-server, or name it with SESSION_SERVER")
}

fn beside_us(name: &str, more: &[&str]) -> anyhow::Result<PathBuf> {
    let exe = env::current_exe().context("where this program is")?;
    let exe = exe.canonicalize().unwrap_or(exe);
    let dir = exe.parent().context("this program is in no directory")?;
    let places = std::iter::once(dir.to_owned()).chain(more.iter().map(|more| dir.join(more)));
    // `cargo test` and `cargo run` leave their programs in target/PROFILE and target/PROFILE/deps.
    let target = dir.file_name().filter(|name| *name == "deps").and(dir.parent());
    let tried: Vec<PathBuf> = places.chain(target.map(Path::to_owned)).collect();
    for place in &tried {
        let path = place.join(name);
        if path.is_file() {
            return Ok(path.canonicalize().unwrap_or(path));
        }
    }
    let tried: Vec<String> = tried.iter().map(|place| place.display().to_string()).collect();
    bail!("no {name} in {}", tried.join(", "))
}

/// A program as the shell would find it.
#[must_use]
pub fn in_path(name: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return path.exists().then_some(path);
    }
    let dirs = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    env::split_paths(&dirs).map(|dir| dir.join(name)).find(|path| {
        use nix::unistd::{AccessFlags, access};
        path.is_file() && access(path, AccessFlags::X_OK).is_ok()
    })
}
