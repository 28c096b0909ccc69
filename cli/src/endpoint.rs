//! `session endpoint`: endpoints are made, shown and closed by the broker that has them; they are
//! carried to another machine here.

use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use stp_lookup::endpoint::{self, Carried};
use stp_net::table::Table;

use crate::args::{Endpoint, LoadEndpoint, SaveEndpoint, Sealed};
use crate::broker;
use crate::print::print;
use crate::state;

/// How long programs may take to save their state: a stick is slow.
const STATES_MAX: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const PASSPHRASE_BYTES_MAX: u64 = 4_096;

/// Does what the command line says.
///
/// # Errors
/// When no broker answers, or it refuses; says why.
pub fn endpoint(command: &Endpoint) -> anyhow::Result<ExitCode> {
    match command {
        Endpoint::Create { name } => create(name),
        Endpoint::List => list(),
        Endpoint::Show { name } => show(name),
        Endpoint::Close { name } => close(name),
        Endpoint::Save(args) => save(args),
        Endpoint::Load(args) => return load(args),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Asks the broker.
fn ask(action: &str, body: &Value) -> anyhow::Result<Value> {
    let (code, answer) = broker::post(&format!("/endpoints/{action}"), body)?;
    if !code.is_success() {
        bail!("{}", answer["error"].as_str().unwrap_or("the broker refuses"));
    }
    Ok(answer)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn create(name: &str) -> anyhow::Result<()> {
    broker::ensure_here(None)?;
    let made = ask("create", &json!({ "name": name }))?;
    let known = match made["registration"]["at"].as_str() {
        Some(at) => format!("known at its name server, at {at}"),
        None => match made["registration"]["why"].as_str() {
            Some(why) => format!("not known at its name server: {why}"),
            None => "no [[directory]] is configured for its domain, so nobody else knows it".into(),
        },
    };
    Ok(print(&format!(
        "{name} is made: {}\nits key is {}; {known}\n",
        word(&made["directory"]),
        word(&made["key"])
    ))?)
}

fn all() -> anyhow::Result<Vec<Value>> {
    Ok(broker::brief()?["endpoints"].as_array().cloned().unwrap_or_default())
}

fn list() -> anyhow::Result<()> {
    let mut table = Table::new(&["ENDPOINT", ">SESSIONS", ">SAVED", "KNOWN AT", "WHY NOT"]);
    for one in all()? {
        let saved = one["saved"].as_array().map_or(0, Vec::len);
        table.row(vec![
            word(&one["name"]).to_owned(),
            one["sessions"].to_string(),
            saved.to_string(),
            word(&one["registration"]["at"]).to_owned(),
            word(&one["registration"]["why"]).to_owned(),
        ]);
    }
    Ok(print(&if table.is_empty() { "no endpoints\n".to_owned() } else { table.fitted() })?)
}

fn show(name: &str) -> anyhow::Result<()> {
    let all = all()?;
    let one = all.iter().find(|one| one["name"] == name);
    let one = one.with_context(|| {
        format!("there is no endpoint {name} here; to make it: session endpoint create {name}")
    })?;
    Ok(print(&format!("{}\n", serde_json::to_string_pretty(one)?))?)
}

fn close(name: &str) -> anyhow::Result<()> {
    let closed = ask("close", &json!({ "name": name }))?;
    if let Some(warning) = closed["warning"].as_str() {
        eprintln!("session: {warning}");
    }
    Ok(print(&format!("{name} is closed, {} session(s) of it ended\n", closed["ended"]))?)
}

/// The passphrase, if one is wanted.
fn passphrase(args: &Sealed, twice: bool) -> anyhow::Result<Option<String>> {
    if args.passphrase_stdin {
        let mut text = String::new();
        std::io::stdin().lock().take(PASSPHRASE_BYTES_MAX).read_to_string(&mut text)?;
        return Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()));
    }
    if !args.passphrase {
        return Ok(None);
    }
    let ask = |what: &str| {
        rpassword::prompt_password(what)
            .context("it is asked for on the terminal; without one use --passphrase-stdin")
    };
    let first = ask("Passphrase: ")?;
    if twice && ask("The same again: ")? != first {
        bail!("these were two different passphrases; nothing was changed");
    }
    Ok(Some(first))
}

fn save(args: &SaveEndpoint) -> anyhow::Result<()> {
    let name = args.name.as_str();
    if args.directory.exists() {
        let place = args.directory.display();
        bail!(
            "{place} is there already: name a directory that is to be made, such as STICK/{name}"
        );
    }
    let passphrase = passphrase(&args.sealed, true)?;
    // It may have been left here by a save that was interrupted.
    if !all()?.iter().any(|one| one["name"] == name) {
        ask("take", &json!({ "name": name }))?;
    }
    let saved = ask("save", &json!({ "name": name }))?;
    wait_for_programs(name)?;
    let left = ask("leave", &json!({ "name": name }))?;
    let from = Path::new(word(&left["directory"]));
    let exported = endpoint::Endpoint::open(from)
        .and_then(|here| endpoint::export(&here, &args.directory, passphrase.as_deref()));
    if let Err(error) = exported {
        // It stays here, with its sessions.
        ask("take", &json!({ "name": name }))?;
        bail!("{error}; {name} is still here, with what was saved");
    }
    Ok(print(&format!(
        "{name} is in {} with {} session(s); {} program(s) that cannot be carried were reset\n\
         go on with it anywhere: session endpoint load {}\n",
        args.directory.display(),
        saved["saved"],
        saved["reset"],
        args.directory.display()
    ))?)
}

/// Programs save what they need to go on.
fn wait_for_programs(name: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < STATES_MAX {
        if ask("waiting", &json!({ "name": name }))?["waiting"] == 0 {
            return Ok(());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    ask("take", &json!({ "name": name }))?;
    bail!("programs are still saving their state after 10 min; {name} is still here")
}

fn load(args: &LoadEndpoint) -> anyhow::Result<ExitCode> {
    broker::ensure_here(args.config.as_deref())?;
    let folder = endpoint::folder()?;
    let name = match args.directory.to_str().and_then(|text| endpoint::name(text).ok()) {
        // It is here, with sessions that were saved.
        Some(name) if !args.directory.exists() => name,
        _ => {
            let seen = endpoint::peek(&args.directory)?;
            let passphrase = if seen.sealed { passphrase(&args.sealed, false)? } else { None };
            endpoint::import(&args.directory, &folder, passphrase.as_deref())?.name
        }
    };
    let taken = ask("take", &json!({ "name": name.as_str() }))?;
    let dir = folder.join(name.as_str());
    let here = endpoint::peek(&dir)?;
    let known = match taken["registration"]["at"].as_str() {
        Some(at) => format!(", known at {at}"),
        None => String::new(),
    };
    let count = here.sessions.len();
    print(&format!("{name} is here with {count} session(s) that were saved{known}\n"))?;
    start_programs(&here, args.no_start)
}

/// Has the programs go on that have saved their state. The exit code is that of the first one that
/// fails.
fn start_programs(here: &Carried, no_start: bool) -> anyhow::Result<ExitCode> {
    let mut running = Vec::new();
    for file in &here.states {
        let ours = state::is_ours(file);
        if no_start || !ours {
            eprintln!("session: not started; its program goes on with {}", file.display());
            continue;
        }
        let own = std::env::current_exe().context("where this program is")?;
        running.push(Command::new(own).args(["get", "--state"]).arg(file).spawn()?);
    }
    let mut first = ExitCode::SUCCESS;
    for mut program in running {
        let ended = program.wait()?;
        if !ended.success() && first == ExitCode::SUCCESS {
            first = ExitCode::from(u8::try_from(ended.code().unwrap_or(125)).unwrap_or(125));
        }
    }
    Ok(first)
}
