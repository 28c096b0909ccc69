//! Putting a new route map where the shims find it.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use stp_proto::local::path::ROUTES_FILE;
use stp_proto::local::routes::SUPERSEDED_AT;

/// Replaces the route map in `dir` by `map`, as built by [`stp_proto::local::routes::Builder`].
///
/// The new file takes the old one's name in one step; then the old one is marked, so that programs
/// which have it mapped look again.
///
/// # Errors
/// When the directory cannot be written to.
pub fn publish_routes(dir: &Path, map: &[u8]) -> io::Result<()> {
    let path = dir.join(ROUTES_FILE);
    let old = match OpenOptions::new().write(true).open(&path) {
        Ok(old) => Some(old),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let fresh = dir.join(format!("{ROUTES_FILE}.{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&fresh)?;
    let put = file.write_all(map).and_then(|()| fs::rename(&fresh, &path));
    if let Err(error) = put {
        let _the_first_error_counts = fs::remove_file(&fresh);
        return Err(error);
    }
    match old {
        Some(old) => old.write_all_at(&1u32.to_le_bytes(), SUPERSEDED_AT as u64),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn the_old_map_is_marked_and_the_new_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        publish_routes(dir.path(), &[0; 64]).unwrap();
        let old = File::open(dir.path().join(ROUTES_FILE)).unwrap();
        publish_routes(dir.path(), &[0; 80]).unwrap();
        let mut word = [0; 4];
        old.read_exact_at(&mut word, SUPERSEDED_AT as u64).unwrap();
        assert_eq!(word, 1u32.to_le_bytes());
        assert_eq!(fs::read(dir.path().join(ROUTES_FILE)).unwrap(), [0; 80]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
