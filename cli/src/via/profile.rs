//! The profile of a far end: a broker's configuration of its own, `via/NAME.toml` beside the
//! user's.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::json;
use stp_lookup::here;
use stp_net::key::PublicKey;
use stp_net::place::Places;

/// What is kept of a far end.
#[derive(Debug, Clone)]
pub struct Profile {
    /// What it is called here.
    pub name: String,
    /// How ssh gets there: the program, its options, the target.
    pub ssh: Vec<String>,
    /// Its service.
    pub service: String,
    /// Where its server listens.
    pub address: Places,
    /// Its server's key.
    pub key: PublicKey,
}

#[derive(Deserialize)]
struct File {
    service: Vec<FileService>,
}

#[derive(Deserialize)]
struct FileService {
    name: String,
    server: Vec<FileServer>,
}

#[derive(Deserialize)]
struct FileServer {
    address: Places,
    key: PublicKey,
    #[serde(default)]
    ssh: Vec<String>,
}

/// Where profiles are.
///
/// # Errors
/// When there is no place for them.
pub fn folder() -> anyhow::Result<PathBuf> {
    Ok(here::config_dir().context("no place for a profile: set HOME")?.join("via"))
}

/// Where the profile of this name is.
///
/// # Errors
/// When it is no name, or there is no place.
pub fn path(name: &str) -> anyhow::Result<PathBuf> {
    if !stp_proto::name::is_label(name) {
        bail!("{name:?} is no name: small letters, digits, and - between them, such as \"home\"");
    }
    Ok(folder()?.join(format!("{name}.toml")))
}

/// The directory of the broker that leads through this far end.
///
/// # Errors
/// When there is no place for it.
pub fn session_dir(name: &str) -> anyhow::Result<PathBuf> {
    let now = here::session_dir()?;
    // A program that is led through one far end may begin another one that is led through another.
    let own = now.parent().filter(|parent| parent.ends_with("via")).and_then(Path::parent);
    Ok(own.unwrap_or(&now).join("via").join(name))
}

/// Every profile's name.
///
/// # Errors
/// When there is no place for them.
pub fn names() -> anyhow::Result<Vec<String>> {
    let entries = std::fs::read_dir(folder()?).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_suffix(".toml").map(str::to_owned)
    });
    let mut names: Vec<String> = names.filter(|name| stp_proto::name::is_label(name)).collect();
    names.sort_unstable();
    Ok(names)
}

impl Profile {
    /// Reads one.
    ///
    /// # Errors
    /// When there is none of this name, or it says nothing of a server.
    pub fn load(name: &str) -> anyhow::Result<Profile> {
        let path = path(name)?;
        if !path.exists() {
            let known = names()?.join(", ");
            let known = if known.is_empty() { "none".to_owned() } else { known };
            bail!("there is no via \"{name}\" (there is: {known}); session via add makes one");
        }
        let file = stp_net::config::load::<File>(&path)?.config;
        let found = file.service.into_iter().find_map(|service| {
            let server = service.server.into_iter().next()?;
            Some(Profile {
                name: name.to_owned(),
                ssh: server.ssh,
                service: service.name,
                address: server.address,
                key: server.key,
            })
        });
        found.with_context(|| format!("{}: no [[service.server]]", path.display()))
    }

    /// Writes it, for nobody else to read.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self) -> anyhow::Result<PathBuf> {
        let path = path(&self.name)?;
        let folder = folder()?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let draft = path.with_extension("new");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .with_context(|| draft.display().to_string())?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, &path).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    fn text(&self) -> String {
        // JSON's strings and lists are TOML's as well.
        let address: Vec<String> = self.address.all().iter().map(ToString::to_string).collect();
        let (name, service) = (json!(self.name), json!(self.service));
        let (address, key, ssh) = (json!(address), json!(self.key.to_string()), json!(self.ssh));
        format!(
            "# Made by \"session via add\". \"session run --via {plain} -- PROGRAM\" goes by this \
             file alone;\n# a route with via = \"{plain}\" in broker.toml goes by its server.\n\n\
             [[service]]\nname = {service}\nkind = \"egress\"\n\n[[service.server]]\n\
             name = {name}\naddress = {address}\nkey = {key}\n\
             # How links go when the address cannot be reached.\nssh = {ssh}\n\n\
             # Everything, by name and by address, but this machine and its link's neighbours.\n\
             [[route]]\nto = \"*:*\"\nservice = {service}\n# except = [\"10.0.0.0/8\"]\n",
            plain = self.name,
        )
    }
}
