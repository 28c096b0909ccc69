//! The places of this user's files and sockets, and checks that they really are this user's.
//!
//! The broker's directory may be in `/tmp`, where everybody can make one first, and a variable can
//! point anywhere. So nothing in it is dialed, read or written before its owner and mode are
//! looked at, and a socket's peer is asked for its user: ours, or root.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use stp_proto::local::path::{LocalPath, Surroundings};

/// Why something of this user's cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HereError {
    /// The environment names no usable directory.
    #[error("SESSION_DIR or XDG_RUNTIME_DIR is not an absolute path, or is too long")]
    NoDirectory,
    /// It belongs to somebody else.
    #[error(
        "{} belongs to user {owner}, not to you: whoever made it could listen in; \
         remove it, or set SESSION_DIR to a directory of your own",
        path.display()
    )]
    Foreign {
        /// The directory or file.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
    },
    /// Others could replace what is in it.
    #[error(
        "others can write to {path} (mode {mode:04o}); say: chmod go-w {path}",
        path = path.display()
    )]
    Open {
        /// The directory or file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is a symbolic link, or something else than it should be.
    #[error("{} is not {what}; remove it", path.display())]
    Odd {
        /// The path.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// Another user's process listens there.
    #[error("a process of user {user} answers at {}, not one of yours", path.display())]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// The user that the kernel names.
        user: u32,
    },
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl HereError {
    /// Whether there simply is nothing: no directory, no file, nobody who listens.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        let HereError::Io { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> HereError {
    move |source| HereError::Io { path: path.to_owned(), source }
}

/// The directory of the broker's sockets, by the rule of [`LocalPath::directory`]. It may not
/// exist.
pub fn session_dir() -> Result<PathBuf, HereError> {
    let uid = rustix::process::geteuid().as_raw();
    let variable = |name: &str| std::env::var_os(name);
    let (session_dir, runtime_dir) = (variable("SESSION_DIR"), variable("XDG_RUNTIME_DIR"));
    let around = Surroundings {
        session_dir: session_dir.as_deref().map(OsStr::as_bytes),
        runtime_dir: runtime_dir.as_deref().map(OsStr::as_bytes),
        uid,
        has_run_user: Path::new(&format!("/run/user/{uid}")).is_dir(),
    };
    let place = LocalPath::directory(&around).ok_or(HereError::NoDirectory)?;
    Ok(OsString::from_vec(place.as_bytes().to_vec()).into())
}

/// Makes the directory if there is none, and sees to it that it is ours alone.
pub fn make_private(dir: &Path) -> Result<(), HereError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
    check_directory(dir)
}

/// Whether the directory is this user's (or root's), and nobody else can put anything into it.
pub fn check_directory(dir: &Path) -> Result<(), HereError> {
    let found = fs::symlink_metadata(dir).map_err(failed(dir))?;
    if !found.is_dir() {
        return Err(HereError::Odd { path: dir.to_owned(), what: "a directory" });
    }
    check_owner(dir, &found)
}

fn check_owner(path: &Path, found: &fs::Metadata) -> Result<(), HereError> {
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    if !is_us(owner) {
        return Err(HereError::Foreign { path: path.to_owned(), owner });
    }
    if mode & 0o022 != 0 {
        return Err(HereError::Open { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Whether it is this user or root. Root can act with this user's rights anyway.
fn is_us(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

/// Connects to a socket in the directory, and asks the kernel who listens there.
pub fn connect(dir: &Path, name: &str) -> Result<UnixStream, HereError> {
    check_directory(dir)?;
    let path = dir.join(name);
    let stream = UnixStream::connect(&path).map_err(failed(&path))?;
    let peer = rustix::net::sockopt::socket_peercred(&stream);
    let user = peer.map_err(|error| failed(&path)(error.into()))?.uid.as_raw();
    if is_us(user) { Ok(stream) } else { Err(HereError::Stranger { path, user }) }
}

/// Opens a file in the directory; a symbolic link there is not followed.
pub fn open(dir: &Path, name: &str) -> Result<File, HereError> {
    check_directory(dir)?;
    open_with(&dir.join(name), OpenOptions::new().read(true))
}

/// Opens a private file to append to it, and makes it if there is none.
pub fn append(path: &Path) -> Result<File, HereError> {
    open_with(path, OpenOptions::new().append(true).create(true).mode(0o600))
}

fn open_with(path: &Path, options: &mut OpenOptions) -> Result<File, HereError> {
    let no_link = OFlags::NOFOLLOW.bits().cast_signed();
    let file = options.custom_flags(no_link).open(path).map_err(|error| {
        if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            return HereError::Odd { path: path.to_owned(), what: "a plain file" };
        }
        failed(path)(error)
    })?;
    let found = file.metadata().map_err(failed(path))?;
    if !found.is_file() {
        return Err(HereError::Odd { path: path.to_owned(), what: "a plain file" });
    }
    check_owner(path, &found)?;
    Ok(file)
}

/// The user's configuration directory: credentials and known keys are in it.
#[must_use]
pub fn config_dir() -> Option<PathBuf> {
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || given("HOME").map(|home| PathBuf::from(home).join(".config"));
    given("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home).map(|dir| dir.join("session"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn folder(mode: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("ours");
        folder
    }

    #[test]
    fn a_directory_of_our_own_is_used() {
        let folder = folder(0o700);
        let _listener = UnixListener::bind(folder.path().join("s")).expect("free");
        connect(folder.path(), "s").expect("we listen ourselves");
        fs::write(folder.path().join("f"), "text").expect("ours");
        let mut text = String::new();
        open(folder.path(), "f").expect("ours").read_to_string(&mut text).expect("text");
        assert_eq!(text, "text");
        assert!(connect(folder.path(), "none").expect_err("nobody").is_absence());
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_not() {
        let folder = folder(0o777);
        let _listener = UnixListener::bind(folder.path().join("s")).expect("free");
        let refused = connect(folder.path(), "s").expect_err("anybody could have made it");
        assert!(matches!(refused, HereError::Open { mode: 0o777, .. }), "{refused}");
        assert!(make_private(folder.path()).is_err());
    }

    #[test]
    fn links_are_not_followed() {
        let (elsewhere, folder) = (folder(0o700), folder(0o700));
        let link = folder.path().join("dir");
        std::os::unix::fs::symlink(elsewhere.path(), &link).expect("ours");
        assert!(matches!(check_directory(&link), Err(HereError::Odd { .. })));
        let target = elsewhere.path().join("target");
        fs::write(&target, "kept").expect("ours");
        let log = folder.path().join("log");
        std::os::unix::fs::symlink(&target, &log).expect("ours");
        assert!(matches!(append(&log), Err(HereError::Odd { .. })));
        assert_eq!(fs::read(&target).expect("there"), b"kept");
    }

    /// Needs root: only root can give something away.
    #[test]
    fn what_belongs_to_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = folder(0o700);
        std::os::unix::fs::chown(folder.path(), Some(65_534), None).expect("we are root");
        let refused = check_directory(folder.path()).expect_err("nobody's");
        assert!(matches!(refused, HereError::Foreign { owner: 65_534, .. }), "{refused}");
    }
}
