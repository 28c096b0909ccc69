//! An endpoint's directory on this machine.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use stp_net::key::{Identity, KeyError};
use stp_proto::lookup::EndpointName;

/// The file that makes a directory an endpoint.
pub const FILE: &str = ".endpoint";
/// What begins the names of the files in which programs save their state.
pub const STATE: &str = ".state.";
/// The folder of sessions that were saved.
pub const SESSIONS: &str = "sessions";
pub(super) const KEY: &str = "key";
pub(super) const SEALED_KEY: &str = "key.sealed";
/// The version of the directory.
const VERSION: u32 = 1;
/// The longest `.endpoint`, in bytes.
pub(super) const FILE_MAX: u64 = 16 << 10;
/// The longest session that was saved: two buffers and what surrounds them, in bytes.
const SESSION_MAX: u64 = 2 * (1 << 30) + (1 << 20);
/// The most endpoints of one user.
pub const ENDPOINTS_MAX: usize = 1_000;
/// What a sealed session is sealed for.
const PURPOSE: &str = "session endpoint: a saved session 1";

/// Why something cannot be done with an endpoint directory.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// There is no such place.
    #[error("no place for endpoints: set HOME or XDG_DATA_HOME")]
    NoHome,
    /// The name is none.
    #[error("\"{0}\" is no endpoint name like laptop@example.org: {1}")]
    Name(String, String),
    /// It is there already.
    #[error("{0} is there already: {1}")]
    Exists(String, String),
    /// It is not there.
    #[error("there is no endpoint {0} here; to make it: session endpoint create {0}")]
    Absent(String),
    /// It is none.
    #[error("{0} is no endpoint's directory: {1}")]
    NotOne(PathBuf, String),
    /// Something in it is not what was written.
    #[error("{0}: {1}; nothing was changed")]
    Damaged(PathBuf, String),
    /// It was made by another version.
    #[error("{0} is of version {1}, this program reads {VERSION}")]
    Version(PathBuf, u32),
    /// It is under a passphrase.
    #[error("{0} is sealed with a passphrase: give it with --passphrase")]
    Passphrase(PathBuf),
    /// Under another one.
    #[error("{0}: that is not its passphrase; nothing was changed")]
    WrongPassphrase(PathBuf),
    /// A key's file is wrong.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The system refuses.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

pub(super) fn failed(path: &Path) -> impl Fn(io::Error) -> EndpointError {
    move |error| EndpointError::Io(path.to_owned(), error)
}

/// What stands in `.endpoint`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    version: u32,
    name: String,
    /// Seconds since 1970.
    created: u64,
}

/// An endpoint on this machine.
#[derive(Debug)]
pub struct Endpoint {
    /// `object@domain`.
    pub name: EndpointName,
    /// Its directory.
    pub dir: PathBuf,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Its key.
    pub identity: Identity,
}

/// Where this user's endpoints are.
///
/// # Errors
/// The environment names no place.
pub fn folder() -> Result<PathBuf, EndpointError> {
    let place = stp_net::config::user_folder("XDG_DATA_HOME", ".local/share");
    place.map(|place| place.join("session/endpoints")).ok_or(EndpointError::NoHome)
}

/// Reads a name.
///
/// # Errors
/// It is none; says why.
pub fn name(text: &str) -> Result<EndpointName, EndpointError> {
    text.parse().map_err(|error: stp_proto::name::NameError| {
        EndpointError::Name(text.to_owned(), error.to_string())
    })
}

/// Makes a private directory with those above it.
pub(super) fn private(dir: &Path) -> Result<(), EndpointError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))
}

/// What is in a directory is on the disk.
pub(super) fn sync(dir: &Path) -> Result<(), EndpointError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir))
}

/// Writes a private file whole or not at all, and so that a power cut cannot undo it.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), EndpointError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = dir.join(format!(".{name}.new"));
    let written = (|| {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    written.map_err(failed(path))?;
    sync(dir)
}

/// Reads a file of at most so many bytes.
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>, EndpointError> {
    let file = File::open(path).map_err(failed(path))?;
    let length = file.metadata().map_err(failed(path))?.len();
    if length > most {
        let what = format!("{length} bytes are more than it can have");
        return Err(EndpointError::Damaged(path.to_owned(), what));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map_err(failed(path))?;
    Ok(bytes)
}

pub(super) fn about(dir: &Path) -> Result<(About, EndpointName), EndpointError> {
    let path = dir.join(FILE);
    let bytes = read(&path, FILE_MAX).map_err(|error| match error {
        EndpointError::Io(_, io) if io.kind() == io::ErrorKind::NotFound => {
            EndpointError::NotOne(dir.to_owned(), format!("it has no file {FILE}"))
        }
        other => other,
    })?;
    let about: About = serde_json::from_slice(&bytes)
        .map_err(|error| EndpointError::Damaged(path.clone(), error.to_string()))?;
    if about.version != VERSION {
        return Err(EndpointError::Version(path, about.version));
    }
    let name = about.name.parse();
    let name = name.map_err(|_| {
        EndpointError::Damaged(path, format!("\"{}\" is no endpoint name", about.name))
    })?;
    Ok((about, name))
}

impl Endpoint {
    /// Makes one with a key of its own.
    ///
    /// # Errors
    /// It is there already, or it cannot be written.
    pub fn create(folder: &Path, name: &EndpointName) -> Result<Endpoint, EndpointError> {
        let dir = folder.join(name.as_str());
        if dir.exists() {
            let where_it_is = dir.display().to_string();
            return Err(EndpointError::Exists(name.to_string(), where_it_is));
        }
        private(folder)?;
        let draft = folder.join(format!(".{name}.new"));
        remove_tree(&draft)?;
        private(&draft)?;
        Identity::load_or_create(&draft.join(KEY))?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let about = About { version: VERSION, name: name.to_string(), created };
        write(&draft.join(FILE), &serde_json::to_vec_pretty(&about).unwrap_or_default())?;
        fs::rename(&draft, &dir).map_err(failed(&dir))?;
        sync(folder)?;
        Endpoint::open(&dir)
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is none, damaged, or under a passphrase.
    pub fn open(dir: &Path) -> Result<Endpoint, EndpointError> {
        let (about, name) = about(dir)?;
        let key = dir.join(KEY);
        if !key.exists() {
            return Err(match dir.join(SEALED_KEY).exists() {
                true => EndpointError::Passphrase(dir.to_owned()),
                false => EndpointError::NotOne(dir.to_owned(), "it has no key".to_owned()),
            });
        }
        let identity = Identity::load_or_create(&key)?;
        Ok(Endpoint { name, dir: dir.to_owned(), created: about.created, identity })
    }

    /// The endpoints in a folder, by name; those that cannot be read with why.
    ///
    /// # Errors
    /// The folder cannot be read. One that is not there is empty.
    pub fn all(folder: &Path) -> Result<Vec<Result<Endpoint, EndpointError>>, EndpointError> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(folder)(error)),
        };
        let mut names: Vec<String> = entries
            .take(2 * ENDPOINTS_MAX)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.parse::<EndpointName>().is_ok())
            .collect();
        names.sort();
        names.truncate(ENDPOINTS_MAX);
        Ok(names.iter().map(|name| Endpoint::open(&folder.join(name))).collect())
    }

    /// Removes its directory: with its key it is gone for good.
    ///
    /// # Errors
    /// The system refuses.
    pub fn remove(&self) -> Result<(), EndpointError> {
        remove(&self.dir)
    }

    /// Puts a session by, sealed with the endpoint's key.
    ///
    /// # Errors
    /// The disk is full, or the system refuses otherwise.
    pub fn put_session(&self, number: u64, plain: &[u8]) -> Result<(), EndpointError> {
        let sessions = self.dir.join(SESSIONS);
        private(&sessions)?;
        let sealed = self.identity.seal(PURPOSE, &self.bound_to(number), plain);
        write(&sessions.join(number.to_string()), &sealed)
    }

    /// Reads a session that was put by.
    ///
    /// # Errors
    /// It is not there, was changed, or belongs to another endpoint.
    pub fn session(&self, number: u64) -> Result<Vec<u8>, EndpointError> {
        let path = self.dir.join(SESSIONS).join(number.to_string());
        let sealed = read(&path, SESSION_MAX)?;
        let opened = self.identity.open(PURPOSE, &self.bound_to(number), &sealed);
        opened.ok_or_else(|| {
            let what = "it was changed, or sealed with another key".to_owned();
            EndpointError::Damaged(path, what)
        })
    }

    /// Forgets a session that goes on.
    ///
    /// # Errors
    /// The system refuses.
    pub fn drop_session(&self, number: u64) -> Result<(), EndpointError> {
        let sessions = self.dir.join(SESSIONS);
        let path = sessions.join(number.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path)(error)),
            _ => sync(&sessions),
        }
    }

    /// The numbers of the sessions that were put by.
    #[must_use]
    pub fn sessions(&self) -> Vec<u64> {
        numbers(&self.dir)
    }

    /// The first name of that kind that is free: `.state.get.0`, `.state.get.1` and so on
    /// (KTH 4.3.3).
    #[must_use]
    pub fn free_state(&self, program: &str) -> PathBuf {
        let name = |number: u32| self.dir.join(format!("{STATE}{program}.{number}"));
        (0..u32::MAX).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(u32::MAX))
    }

    fn bound_to(&self, number: u64) -> Vec<u8> {
        format!("{}/{number}", self.name).into_bytes()
    }
}

/// The files in which programs have saved their state, by name.
#[must_use]
pub fn states(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let named = entries.filter(|entry| {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(STATE)) else {
            return false;
        };
        rest.rsplit_once('.').is_some_and(|(_, number)| number.parse::<u32>().is_ok())
    });
    let mut all: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    all.sort();
    all
}

pub(super) fn numbers(dir: &Path) -> Vec<u64> {
    let entries = fs::read_dir(dir.join(SESSIONS)).into_iter().flatten().filter_map(Result::ok);
    let mut all: Vec<u64> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    all.sort_unstable();
    all
}

/// Removes an endpoint's directory. Its name is free at once, whenever the power is cut.
pub(super) fn remove(dir: &Path) -> Result<(), EndpointError> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let parent = dir.parent().unwrap_or(Path::new("."));
    let gone = parent.join(format!(".{name}.gone"));
    remove_tree(&gone)?;
    match fs::rename(dir, &gone) {
        // The directory is the root of a stick, perhaps.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
            return remove_tree(dir);
        }
        other => other.map_err(failed(dir))?,
    }
    sync(parent)?;
    remove_tree(&gone)
}

pub(super) fn remove_tree(dir: &Path) -> Result<(), EndpointError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(dir)(error)),
        _ => Ok(()),
    }
}
