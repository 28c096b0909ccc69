//! `session via`: makes a far end of one's own out of an ssh account, and looks after it.
//!
//! Everything that happens there is done by one script for `sh` (`far.sh`), over the user's own
//! ssh. No root is needed, and nothing is left but one directory below the account's home.

mod check;
mod far;
pub mod profile;
mod ssh;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use stp_net::key::PublicKey;
use stp_net::place::{Place, Places};
use stp_net::table::Table;

use self::far::{Said, far, of, own_key, ssh_of};
use self::profile::Profile;
use self::ssh::{Input, Ssh};
use crate::args::{Via, ViaAdd};
use crate::print::print;
use crate::{broker, places};

/// Where the program goes: a command for whatever shell the account has.
const UPLOAD: &str = "sh -c 'umask 077; cd && mkdir -p .local/share/session/via && \
     cat > .local/share/session/via/stp-server.new && \
     chmod 700 .local/share/session/via/stp-server.new'";
/// Ports that are tried, unless one is named.
const PORTS: &str = "4433 4434 4435 4436 8443";

/// Carries out the command.
///
/// # Errors
/// When the far machine cannot be reached, or does not do it; says what to do.
pub fn via(command: &Via) -> anyhow::Result<ExitCode> {
    match command {
        Via::Add(add) => self::add(add),
        Via::List => list(),
        Via::Check { name } => check::check(&Profile::load(name)?),
        Via::Upgrade { name } => upgrade(name),
        Via::Remove { name, forget } => remove(name, *forget),
    }
}

fn add(args: &ViaAdd) -> anyhow::Result<ExitCode> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => name_of(&args.target)?,
    };
    let path = profile::path(&name)?;
    if path.exists() {
        bail!(
            "there is a via \"{name}\" already ({}): session via upgrade {name}, or another --name",
            path.display()
        );
    }
    let ssh = Ssh::new(&args.target)?;
    let key = own_key()?;
    let seen = far(&ssh, "look", &name, &key, "")?;
    let ports = args.port.map_or_else(|| PORTS.to_owned(), |port| port.to_string());
    let made = put(&ssh, &seen, (&name, &key, &ports))?;
    let profile = Profile {
        address: addresses(args, &ssh, &seen, &made)?,
        key: of(&made, "key").parse().context("the server's key")?,
        service: of(&made, "service").to_owned(),
        ssh: ssh.words(),
        name: name.clone(),
    };
    let path = profile.store()?;
    let how = match of(&made, "how") {
        "systemd" => "as a service of systemd, which outlives log-outs and reboots",
        _ => "in the background, which outlives log-outs (after a reboot: session via upgrade)",
    };
    print(&format!(
        "{name}: {} runs {how}\n  at {}\n  profile {}\nNow: session run --via {name} -- PROGRAM\n",
        args.target,
        profile.address,
        path.display()
    ))?;
    tell_broker();
    Ok(ExitCode::SUCCESS)
}

/// A name for a far end, out of the host's.
fn name_of(target: &str) -> anyhow::Result<String> {
    let host = target.rsplit('@').next().unwrap_or(target);
    let first = host.split('.').next().unwrap_or(host).to_ascii_lowercase();
    let is_number = first.bytes().all(|byte| byte.is_ascii_digit());
    if is_number || !stp_proto::name::is_label(&first) {
        bail!("say what it is to be called here: session via add {target} --name home");
    }
    Ok(first)
}

/// Puts the program there, and starts it.
fn put(
    ssh: &Ssh,
    seen: &Said,
    (name, key, ports): (&str, &PublicKey, &str),
) -> anyhow::Result<Said> {
    let program = program_for(seen)?;
    let file = File::open(&program).with_context(|| program.display().to_string())?;
    let needed = file.metadata()?.len() / 1024 + 1024;
    if let Some(trouble) = check::no_room(seen, needed) {
        bail!("{trouble}");
    }
    ssh.run(UPLOAD, Input::File(&file)).context("the program was not copied")?;
    far(ssh, "install", name, key, ports)
}

/// The server's program for that machine.
fn program_for(seen: &Said) -> anyhow::Result<PathBuf> {
    let (kernel, machine) = (of(seen, "kernel"), of(seen, "machine"));
    if kernel != "Linux" {
        bail!("that machine runs {kernel:?}: stp-server runs on Linux");
    }
    places::server_program(machine)
}

/// Where it can be dialed: what the user says; otherwise the host as ssh knows it, and the address
/// that ssh came to.
fn addresses(args: &ViaAdd, ssh: &Ssh, seen: &Said, made: &Said) -> anyhow::Result<Places> {
    let port = of(made, "listen").rsplit(':').next().and_then(|port| port.parse().ok());
    let port: u16 = port.context("the server does not say its port")?;
    let mut found: Vec<Place> = Vec::new();
    if args.address.is_empty() {
        let came_to = of(seen, "connection").split(' ').nth(2).unwrap_or_default().to_owned();
        let hosts = ssh.host().into_iter().chain([came_to]);
        found.extend(hosts.filter_map(|host| Place::parse(&host, Some(port))));
    }
    for host in &args.address {
        let place = Place::parse(host, Some(port));
        found.push(place.with_context(|| format!("--address {host}: no host"))?);
    }
    let mut found = found.into_iter();
    let mut places = Places::from(found.next().context("no address: name one with --address")?);
    found.for_each(|place| places.add(place));
    Ok(places)
}

/// A broker that runs takes notice of what routes may name now.
fn tell_broker() {
    if broker::brief().is_ok() {
        let _says_why_itself = broker::reload();
    }
}

fn list() -> anyhow::Result<ExitCode> {
    let mut table = Table::new(&["NAME", "SSH", "ADDRESS"]);
    for name in profile::names()? {
        let row = match Profile::load(&name) {
            Ok(profile) => {
                let target = profile.ssh.last().cloned().unwrap_or_default();
                vec![name, target, profile.address.to_string()]
            }
            Err(error) => vec![name, "?".to_owned(), format!("{error:#}")],
        };
        table.row(row);
    }
    print(&format!("{}\n", table.fitted()))?;
    Ok(ExitCode::SUCCESS)
}

fn upgrade(name: &str) -> anyhow::Result<ExitCode> {
    let mut profile = Profile::load(name)?;
    let (ssh, key) = (ssh_of(&profile)?, own_key()?);
    let seen = far(&ssh, "look", name, &key, "")?;
    let made = put(&ssh, &seen, (name, &key, PORTS))?;
    profile.key = of(&made, "key").parse().context("the server's key")?;
    of(&made, "service").clone_into(&mut profile.service);
    profile.store()?;
    print(&format!("{name}: stp-server {} runs there\n", env!("CARGO_PKG_VERSION")))?;
    tell_broker();
    Ok(ExitCode::SUCCESS)
}

fn remove(name: &str, forget: bool) -> anyhow::Result<ExitCode> {
    let profile = Profile::load(name)?;
    if !forget {
        let said = far(&ssh_of(&profile)?, "remove", name, &own_key()?, "");
        let said = said.with_context(|| {
            format!(
                "nothing was removed; to forget it here alone: session via remove {name} --forget"
            )
        })?;
        if said.contains_key("left") {
            print("others use that server: it stays, without you\n")?;
        }
    }
    end_broker(name);
    let path = profile::path(name)?;
    std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
    print(&format!("{name}: removed\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Ends the broker that leads through this far end alone.
fn end_broker(name: &str) {
    let (Ok(own), Ok(dir)) = (std::env::current_exe(), profile::session_dir(name)) else { return };
    let mut stop = Command::new(own);
    stop.args(["stop", "--force"]).env("SESSION_DIR", dir);
    // There may be none.
    let _ended = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Has this process's command go by another broker: the one that leads through this far end. Does
/// not return if it can.
///
/// # Errors
/// When there is no such far end.
pub fn lead_through(name: &str, config: bool) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt;
    let path = profile::path(name)?;
    let dir = profile::session_dir(name)?;
    if std::env::var_os("SESSION_DIR").is_some_and(|now| Path::new(&now) == dir) {
        return Ok(());
    }
    Profile::load(name)?;
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1)).env("SESSION_DIR", &dir);
    if config {
        again.env("SESSION_CONFIG", path);
    }
    Err(again.exec()).context("cannot begin again")
}
