//! The names that were given virtual addresses, in a file of the session directory: programs may
//! use an address that a broker gave them which was killed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use parking_lot::Mutex;

/// In the session directory.
const NAMES_FILE: &str = "names";
/// More than all names that there can be.
const BYTES_MAX: u64 = 64 << 20;

/// The file.
#[derive(Debug)]
pub struct NamesFile(Mutex<File>);

impl NamesFile {
    /// Opens it, and returns the names that are there, in the order in which they were asked for.
    /// `goes_on` says that the broker before was killed; otherwise nobody uses what it gave out.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn open(dir: &Path, goes_on: bool) -> io::Result<(NamesFile, Vec<String>)> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(!goes_on).mode(0o600);
        let mut file = options.open(dir.join(NAMES_FILE))?;
        let mut text = Vec::new();
        (&mut file).take(BYTES_MAX).read_to_end(&mut text)?;
        // A last line without its end was being written.
        let text = String::from_utf8_lossy(&text);
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let names = whole.lines().map(str::to_owned).collect();
        Ok((NamesFile(Mutex::new(file)), names))
    }

    /// A name was given an address.
    pub fn add(&self, name: &str) {
        if let Err(error) = self.0.lock().write_all(format!("{name}\n").as_bytes()) {
            tracing::debug!(%error, "a name cannot be written down");
        }
    }
}
