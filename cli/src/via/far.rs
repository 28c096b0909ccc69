//! The script that does everything on the far machine, and what it answers.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use stp_net::config::user_folder;
use stp_net::key::{Identity, PublicKey};

use super::profile::Profile;
use super::ssh::{Input, Ssh};

const SCRIPT: &str = include_str!("far.sh");

/// What the script says.
pub(super) type Said = BTreeMap<String, String>;

/// Runs the script there.
pub(super) fn far(
    ssh: &Ssh,
    action: &str,
    name: &str,
    key: &PublicKey,
    ports: &str,
) -> anyhow::Result<Said> {
    let script = format!("ACTION={action} NAME={name} KEY={key} PORTS='{ports}'\n{SCRIPT}");
    let text = ssh.run("exec sh -s", Input::Text(&script))?;
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let said: Said = lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    match said.get("error") {
        Some(error) => bail!("{error}"),
        None if said.contains_key("end") => Ok(said),
        None => bail!("the script broke off there; it said: {}", text.trim()),
    }
}

/// The key that this user's brokers show.
pub(super) fn own_key() -> anyhow::Result<PublicKey> {
    let folder = user_folder("XDG_STATE_HOME", ".local/state");
    let folder = folder.context("no place for this user's key: set HOME")?;
    Ok(Identity::load_or_create(&folder.join("session/client.key"))?.public_key())
}

/// One answer; nothing if there is none.
pub(super) fn of<'a>(said: &'a Said, key: &str) -> &'a str {
    said.get(key).map_or("", String::as_str)
}

/// The way to the machine of a profile.
pub(super) fn ssh_of(profile: &Profile) -> anyhow::Result<Ssh> {
    let (target, program) = profile.ssh.split_last().context("the profile has no ssh")?;
    Ssh::by(program.to_vec(), target)
}
