//! How an endpoint's directory is carried: out of this machine's folder to where its user wants it,
//! and from there into another machine's folder.
//!
//! Each way a whole copy is made beside the new place, synced, renamed, and only then the old one
//! is removed. So whenever the power is cut, the old directory is there, or the new one, or both,
//! and never half of one. If both are there, each is good, and the sessions go on from whichever is
//! used first (R132).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use stp_net::key::Identity;
use stp_proto::lookup::EndpointName;

use super::disk::{
    ENDPOINTS_MAX, Endpoint, EndpointError, FILE_MAX, KEY, SEALED_KEY, STATE, about, failed,
    numbers, private, read, remove, remove_tree, states, sync, write,
};
use super::passphrase;

/// The most files of a directory that are carried.
const FILES_MAX: usize = 10 * ENDPOINTS_MAX;
/// How deep folders in it may be.
const DEPTH_MAX: usize = 8;

/// What an endpoint's directory holds, as it can be seen without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// The endpoint.
    pub name: EndpointName,
    /// The numbers of its sessions.
    pub sessions: Vec<u64>,
    /// The files in which programs have saved their state.
    pub states: Vec<PathBuf>,
    /// Whether it is under a passphrase.
    pub sealed: bool,
}

/// A step after which the power may be cut; an error stops everything there.
type Step<'a> = &'a mut dyn FnMut(&'static str) -> io::Result<()>;

/// Looks into an endpoint's directory, wherever it is.
///
/// # Errors
/// It is none, or damaged.
pub fn peek(dir: &Path) -> Result<Carried, EndpointError> {
    let (_, name) = about(dir)?;
    let sealed = !dir.join(KEY).exists() && dir.join(SEALED_KEY).exists();
    Ok(Carried { name, sessions: numbers(dir), states: states(dir), sealed })
}

/// Takes an endpoint out of this machine's folder, to `to`, which must not be there yet; its key
/// under a passphrase, if there is one.
///
/// # Errors
/// Something is there already, or cannot be written. The endpoint is then where it was.
pub fn export(
    endpoint: &Endpoint,
    to: &Path,
    passphrase: Option<&str>,
) -> Result<(), EndpointError> {
    export_by(endpoint, to, passphrase, &mut |_| Ok(()))
}

pub(super) fn export_by(
    endpoint: &Endpoint,
    to: &Path,
    passphrase: Option<&str>,
    step: Step<'_>,
) -> Result<(), EndpointError> {
    if to.exists() {
        let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Err(EndpointError::Exists(name, to.display().to_string()));
    }
    let (parent, draft) = draft(to)?;
    step("begun").map_err(failed(&draft))?;
    copy(&endpoint.dir, &draft, 0, &mut 0, &|name| name == KEY || name == SEALED_KEY)?;
    step("copied").map_err(failed(&draft))?;
    let key = read(&endpoint.dir.join(KEY), FILE_MAX)?;
    match passphrase {
        None => write(&draft.join(KEY), &key)?,
        Some(words) => {
            let no_memory = || failed(&draft)(io::ErrorKind::OutOfMemory.into());
            let sealed = passphrase::seal(words, &key).ok_or_else(no_memory)?;
            write(&draft.join(SEALED_KEY), &sealed)?;
        }
    }
    step("key written").map_err(failed(&draft))?;
    put(&draft, to, &parent)?;
    step("put").map_err(failed(to))?;
    remove(&endpoint.dir)?;
    step("removed").map_err(failed(to))
}

/// Takes an endpoint's directory into this machine's folder. What it was in before is removed.
///
/// # Errors
/// It is none, the passphrase is wrong, or the endpoint is here already. Nothing has changed then.
pub fn import(
    from: &Path,
    folder: &Path,
    passphrase: Option<&str>,
) -> Result<Endpoint, EndpointError> {
    import_by(from, folder, passphrase, &mut |_| Ok(()))
}

pub(super) fn import_by(
    from: &Path,
    folder: &Path,
    passphrase: Option<&str>,
    step: Step<'_>,
) -> Result<Endpoint, EndpointError> {
    let carried = peek(from)?;
    let dir = folder.join(carried.name.as_str());
    if dir.exists() {
        let name = carried.name.to_string();
        return Err(EndpointError::Exists(name, dir.display().to_string()));
    }
    let (text, identity) = key_of(from, passphrase)?;
    // What cannot be opened stays where it is.
    let name = carried.name.clone();
    let there = Endpoint { name, dir: from.to_owned(), created: 0, identity };
    for number in there.sessions() {
        there.session(number)?;
    }
    private(folder)?;
    let (parent, draft) = draft(&dir)?;
    step("begun").map_err(failed(&draft))?;
    copy(from, &draft, 0, &mut 0, &|name| name == KEY || name == SEALED_KEY)?;
    step("copied").map_err(failed(&draft))?;
    write(&draft.join(KEY), &text)?;
    step("key written").map_err(failed(&draft))?;
    put(&draft, &dir, &parent)?;
    step("put").map_err(failed(&dir))?;
    remove(from)?;
    step("removed").map_err(failed(&dir))?;
    Endpoint::open(&dir)
}

/// The key in a directory that was carried, as text too.
fn key_of(from: &Path, passphrase: Option<&str>) -> Result<(Vec<u8>, Identity), EndpointError> {
    let (plain, sealed) = (from.join(KEY), from.join(SEALED_KEY));
    let text = if plain.exists() {
        read(&plain, FILE_MAX)?
    } else if sealed.exists() {
        let Some(words) = passphrase else {
            return Err(EndpointError::Passphrase(from.to_owned()));
        };
        let opened = passphrase::open(words, &read(&sealed, FILE_MAX)?);
        opened.ok_or_else(|| EndpointError::WrongPassphrase(from.to_owned()))?
    } else {
        return Err(EndpointError::NotOne(from.to_owned(), "it has no key".to_owned()));
    };
    let identity = Identity::from_pem(&String::from_utf8_lossy(&text), &plain)?;
    Ok((text, identity))
}

/// An empty private directory beside a place, and the directory that both are in.
fn draft(place: &Path) -> Result<(PathBuf, PathBuf), EndpointError> {
    let place = std::path::absolute(place).map_err(failed(place))?;
    let parent = place.parent().unwrap_or(Path::new("/")).to_owned();
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let draft = parent.join(format!(".{name}.part"));
    remove_tree(&draft)?;
    private(&draft)?;
    Ok((parent, draft))
}

/// What is whole gets its name.
fn put(draft: &Path, place: &Path, parent: &Path) -> Result<(), EndpointError> {
    sync(draft)?;
    fs::rename(draft, place).map_err(failed(place))?;
    sync(parent)
}

/// Copies plain files and folders, private to this user and synced. A large file on the same disk
/// is not copied but linked. Anything else, such as a symbolic link, is an error: it would lead out
/// of what is carried.
fn copy(
    from: &Path,
    to: &Path,
    depth: usize,
    count: &mut usize,
    without: &dyn Fn(&str) -> bool,
) -> Result<(), EndpointError> {
    for entry in fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Drafts that a power cut has left.
        let draft = name.starts_with('.') && (name.ends_with(".new") || name.ends_with(".part"));
        if depth == 0 && (without(&name) || draft && !name.starts_with(STATE)) {
            continue;
        }
        *count += 1;
        let (path, place) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(failed(&path))?;
        if *count > FILES_MAX || depth >= DEPTH_MAX {
            let what = format!("more than {FILES_MAX} files, or folders too deep");
            return Err(EndpointError::NotOne(from.to_owned(), what));
        }
        if kind.is_dir() {
            private(&place)?;
            copy(&path, &place, depth + 1, count, without)?;
            sync(&place)?;
        } else if kind.is_file() {
            copy_file(&path, &place).map_err(failed(&path))?;
        } else {
            let what = format!("{name} is neither a file nor a folder");
            return Err(EndpointError::NotOne(from.to_owned(), what));
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let private = fs::metadata(from)?.permissions().mode() & 0o077 == 0;
    if private && fs::hard_link(from, to).is_ok() {
        return File::open(to)?.sync_all();
    }
    let mut options = fs::OpenOptions::new();
    let mut into = options.write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut File::open(from)?, &mut into)?;
    into.sync_all()
}
