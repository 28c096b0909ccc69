//! Where the configuration is looked for.

use std::path::{Path, PathBuf};

use stp_net::config::{BUILT_IN, ConfigError};

use super::{Config, DEFAULT, load, parse};

/// The configuration that was named or found; otherwise the built-in one.
///
/// # Errors
/// When it cannot be read or is wrong; names file, line and key.
pub fn read(named: Option<&Path>) -> Result<Config, ConfigError> {
    let file = match named {
        Some(file) => Some(file.canonicalize().unwrap_or_else(|_| file.to_owned())),
        None => find(),
    };
    match file {
        Some(file) => load(&file),
        None => parse(Path::new(BUILT_IN), DEFAULT),
    }
}

/// The same file again. In place of the built-in configuration a file may be there by now.
///
/// # Errors
/// As [`read`].
pub fn read_again(file: &Path) -> Result<Config, ConfigError> {
    read((file != Path::new(BUILT_IN)).then_some(file))
}

/// The first file that exists of those that need not be named.
#[must_use]
pub fn find() -> Option<PathBuf> {
    stp_net::config::find(&stp_net::config::broker_files()).cloned()
}
