//! `session serve`: a service of this machine by a name of its user's own (KTH 3.2.2).
//!
//! The name is made here, so that a mistake is said at once. Then this process becomes the server:
//! `stp-server` with a configuration that is written for it, which keeps the name known from then
//! on, wherever the machine goes.

use std::fmt::Write;
use std::fs::{self, DirBuilder};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use serde_json::json;
use stp_lookup::gateway::{LoginError, connect};
use stp_lookup::known::Known;
use stp_lookup::own_names::{OwnNames, in_words};
use stp_lookup::{DirectoryAddress, KNOWN_FILE, PORT};
use stp_net::config::user_folder;
use stp_net::key::{Identity, PublicKey};
use stp_net::link::{LinkOptions, Tls};
use stp_net::place::Place;

use crate::args::Serve;
use crate::login::{explained, runtime, trusted};
use crate::places;
use crate::print::print;

/// What stands behind the service.
#[derive(Debug, PartialEq, Eq)]
enum Behind {
    Program(SocketAddr),
    Folder(PathBuf),
}

/// Makes the name, and serves until it is told to end.
///
/// # Errors
/// When the name cannot be had, or there is nothing to serve it from.
pub fn serve(args: &Serve) -> anyhow::Result<ExitCode> {
    let behind = behind(&args.to)?;
    let program = places::own_server_program()?;
    let place = args.name_server.clone().unwrap_or_else(|| {
        DirectoryAddress(Place { host: args.name.domain().to_owned(), port: PORT })
    });
    let folder = folder(args.name.as_str())?;
    let identity = Identity::load_or_create(&key_file(&folder, args.name.endpoint())?)?;
    let config = folder.join("server.toml");
    let listen = match args.listen {
        Some(listen) => listen,
        None => same_or_free(&config)?,
    };
    let known =
        Known::at(&stp_lookup::folder().context("no place for keys: set HOME")?.join(KNOWN_FILE));
    let key = runtime()?.block_on(async {
        let key = trusted(&known, &place, args.key).await?;
        let tls = Tls::new(&identity);
        let connection = connect(&place, &key, &tls, &LinkOptions::default()).await;
        let connection = connection.map_err(|error| explained(&place, error))?;
        let names =
            OwnNames::new(std::slice::from_ref(&args.name), &[listen], identity.public_key());
        let offered = names.offer(&connection).await;
        offered.map_err(|error| match &error {
            error @ stp_lookup::AskError::Refused(_) => anyhow::anyhow!("{}", in_words(error)),
            _ => explained(&place, LoginError::Ask(error)),
        })?;
        anyhow::Ok(key)
    })?;
    let text = text(args, &behind, (listen, &place, &key));
    fs::write(&config, text).with_context(|| config.display().to_string())?;
    print(&format!(
        "{} is known at {place} and leads to {}; this server's key is {}\n\
         Ctrl-C takes it back. As http: http://{}/\n",
        args.name,
        args.to,
        identity.public_key(),
        args.name.to_host()
    ))?;
    let failed = Command::new(&program).arg("--config").arg(&config).exec();
    Err(failed).with_context(|| program.display().to_string())
}

fn behind(to: &str) -> anyhow::Result<Behind> {
    if let Ok(port) = to.parse::<u16>() {
        return Ok(Behind::Program((Ipv4Addr::LOCALHOST, port).into()));
    }
    if let Ok(address) = to.parse() {
        return Ok(Behind::Program(address));
    }
    let folder = Path::new(to);
    match folder.is_dir() {
        true => Ok(Behind::Folder(folder.canonicalize()?)),
        false => bail!("--to {to}: no port, no ADDRESS:PORT, and no folder of this name"),
    }
}

/// Where the server of this service keeps what it needs.
fn folder(service: &str) -> anyhow::Result<PathBuf> {
    let state = user_folder("XDG_STATE_HOME", ".local/state").context("no home: set HOME")?;
    let folder = state.join("session/serve").join(service);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// The server shows the endpoint's own key, if there is a directory of that endpoint.
fn key_file(folder: &Path, endpoint: &str) -> anyhow::Result<PathBuf> {
    let key = folder.join("server.key");
    let data = user_folder("XDG_DATA_HOME", ".local/share").context("no home: set HOME")?;
    let of_endpoint = data.join("session/endpoints").join(endpoint).join("key");
    if of_endpoint.exists() && fs::read_link(&key).ok().as_ref() != Some(&of_endpoint) {
        let _there_was_none = fs::remove_file(&key);
        symlink(&of_endpoint, &key).with_context(|| key.display().to_string())?;
    }
    Ok(key)
}

/// The address of the last time, or a port that nobody has.
fn same_or_free(config: &Path) -> anyhow::Result<SocketAddr> {
    let before = fs::read_to_string(config).unwrap_or_default();
    let before = before.lines().find_map(|line| line.strip_prefix("listen = "));
    if let Some(Ok(before)) = before.map(|text| text.trim_matches('"').parse()) {
        return Ok(before);
    }
    let all = (Ipv6Addr::UNSPECIFIED, 0).into();
    let bound = TcpListener::bind::<SocketAddr>(all)
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)));
    Ok(bound.context("no port can be had")?.local_addr()?)
}

/// The server's configuration. JSON's strings and lists are TOML's as well.
fn text(
    args: &Serve,
    behind: &Behind,
    (listen, place, key): (SocketAddr, &DirectoryAddress, &PublicKey),
) -> String {
    let mut text = format!(
        "# Made by \"session serve\", which writes it anew each time.\n\
         name = {}\nlisten = \"{listen}\"\nkey_file = \"server.key\"\nstatus = \"off\"\n",
        json!(args.name.endpoint()),
    );
    if !args.client.is_empty() {
        let clients: Vec<String> = args.client.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "clients = {}", json!(clients));
    }
    let _ = write!(
        text,
        "\n[directory]\naddress = {}\nkey = \"{key}\"\nown_names = true\n\n\
         [[service]]\nname = {}\n",
        json!(place.to_string()),
        json!(args.name.as_str()),
    );
    let _ = match behind {
        Behind::Program(to) => write!(text, "kind = \"tcp\"\nto = \"{to}\"\n"),
        Behind::Folder(root) => {
            write!(text, "kind = \"file\"\nroot = {}\n", json!(root.display().to_string()))
        }
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_is_a_port_an_address_or_a_folder() {
        let here = |port| Behind::Program(([127, 0, 0, 1], port).into());
        assert_eq!(behind("8080").expect("a port"), here(8080));
        assert_eq!(behind("127.0.0.1:22").expect("an address"), here(22));
        assert_eq!(behind("/").expect("a folder"), Behind::Folder("/".into()));
        for bad in ["", "99999", "localhost", "/no/such/folder"] {
            assert!(behind(bad).is_err(), "{bad}");
        }
    }
}
