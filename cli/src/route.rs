//! `session route`: shows, tries and adds routes, which say what destinations become sessions.

use std::io::Write;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use stp_net::config::broker_files;
use stp_net::table::Table;

use crate::args::Route;
use crate::print::print;
use crate::{broker, places};

/// The exit code for a destination that no route takes.
const NOT_ROUTED: u8 = 3;
/// What a broker without a configuration does; a file that is made begins with it.
const DEFAULT: &str = "\
# Which destinations become sessions; examples/broker.toml shows every key.
[[service]]
kind = \"direct\"                  # this machine asks the host itself
[[route]]
to = \"*:80\"
service = \"http.direct@localhost\"
";

/// Carries out the command.
///
/// # Errors
/// When no broker answers, or the configuration would not be right.
pub fn route(command: &Route) -> anyhow::Result<ExitCode> {
    match command {
        Route::List => list(),
        Route::Test { to } => test(to),
        Route::Add { to, service, config } => add(to, service, config.as_deref()),
    }
}

fn list() -> anyhow::Result<ExitCode> {
    let status = broker::brief()?;
    let mut table = Table::new(&["DESTINATION", "SERVICE"]);
    for route in status["routes"].as_array().into_iter().flatten() {
        let word = |key: &str| route[key].as_str().unwrap_or_default().to_owned();
        table.row(vec![word("to"), word("service")]);
    }
    let file = status["broker"]["config"].as_str().unwrap_or_default();
    print(&format!("{}\nfrom {file}; the first that matches counts\n", table.fitted()))?;
    Ok(ExitCode::SUCCESS)
}

/// Tells which route a connection takes: by the name, or by an address of the name.
fn test(to: &str) -> anyhow::Result<ExitCode> {
    let (host, port) = to.rsplit_once(':').context("write HOST:PORT")?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0).context("write HOST:PORT")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let by_name = ask(&[host.to_owned()], port)?;
    if by_name["rule"].is_string() || by_name["directory"] == true {
        return tell(to, &by_name, None);
    }
    if host.parse::<IpAddr>().is_err() {
        // An app that finds no route for the name asks for its addresses, and connects to one.
        let addresses = (host, port).to_socket_addrs().into_iter().flatten();
        let addresses: Vec<String> = addresses.map(|address| address.ip().to_string()).collect();
        let by_address = ask(&addresses, port)?;
        if by_address["rule"].is_string() {
            return tell(to, &by_address, by_address["host"].as_str());
        }
    }
    print(&format!("{to}: no route; it goes its usual way\n"))?;
    Ok(ExitCode::from(NOT_ROUTED))
}

/// Asks the broker which route the first of these hosts takes that has one.
fn ask(hosts: &[String], port: u16) -> anyhow::Result<Value> {
    let (code, answer) = broker::post("/route", &json!({ "hosts": hosts, "port": port }))?;
    if !code.is_success() {
        bail!("{}", answer["error"].as_str().unwrap_or("the broker refuses"));
    }
    Ok(answer)
}

fn tell(to: &str, answer: &Value, address: Option<&str>) -> anyhow::Result<ExitCode> {
    let by =
        address.map_or_else(String::new, |address| format!(", which holds its address {address}"));
    let text = match (answer["rule"].as_str(), answer["service"].as_str()) {
        (Some(rule), Some(service)) if answer["direct"] == true => format!(
            "{to}: route \"{rule}\"{by}, service {service}: this machine asks the host itself"
        ),
        (Some(rule), Some(service)) => format!("{to}: route \"{rule}\"{by}, service {service}"),
        _ => format!("{to}: no route, but a name that the gateway or a name server may know"),
    };
    print(&format!("{text}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Adds a route at the end of the configuration, if the result is valid, and has the broker use it.
fn add(to: &str, service: &str, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let file = file_in_use(config)?;
    let old = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => DEFAULT.to_owned(),
        Err(error) => return Err(error).with_context(|| file.display().to_string()),
    };
    let end = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
    // JSON's strings are strings of TOML as well.
    let (to_text, service_text) = (json!(to), json!(service));
    let new = format!("{old}{end}\n[[route]]\nto = {to_text}\nservice = {service_text}\n");
    let folder = file.parent().context("the configuration is in no folder")?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let draft = file.with_extension("toml.new");
    write_draft(&draft, &new, &file)?;
    if let Err(error) = check(&draft) {
        let _gone_already = std::fs::remove_file(&draft);
        return Err(error);
    }
    std::fs::rename(&draft, &file).with_context(|| file.display().to_string())?;
    print(&format!("{}: {to} leads to {service}\n", file.display()))?;
    match broker::status() {
        Ok(_) => broker::reload(),
        Err(_) => Ok(ExitCode::SUCCESS),
    }
}

/// The configuration that the broker uses. If none runs, it is the one that a broker would find;
/// otherwise the place where it would look first.
fn file_in_use(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let used = broker::brief().ok().and_then(|status| {
        let used = PathBuf::from(status["broker"]["config"].as_str()?);
        used.is_absolute().then_some(used)
    });
    let candidates = broker_files();
    let found = candidates.iter().find(|file| file.exists()).or(candidates.first()).cloned();
    used.or(found).context("no place for a configuration: set HOME")
}

fn write_draft(draft: &Path, text: &str, as_file: &Path) -> anyhow::Result<()> {
    let mut file = std::fs::File::create(draft).with_context(|| draft.display().to_string())?;
    if let Ok(about) = std::fs::metadata(as_file) {
        file.set_permissions(about.permissions())?;
    }
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

/// Asks the broker's program what it thinks of a configuration.
fn check(file: &Path) -> anyhow::Result<()> {
    let output = Command::new(places::broker_program()?)
        .arg("--config")
        .arg(file)
        .arg("--check")
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("nothing was changed: {}", said.trim().trim_start_matches("stp-broker: "));
    }
    Ok(())
}
