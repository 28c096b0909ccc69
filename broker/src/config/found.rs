//! Where the configuration is looked for.

use std::env;
use std::path::{Path, PathBuf};

use stp_net::config::ConfigError;

use super::{BUILT_IN, Config, DEFAULT, load, parse};

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
    let own = xdg("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("session/broker.toml"));
    let all: Vec<PathBuf> = own.into_iter().chain(["/etc/session/broker.toml".into()]).collect();
    stp_net::config::find(&all).cloned()
}

/// A directory of this user by the XDG Base Directory Specification.
#[must_use]
pub fn xdg(variable: &str, under_home: &str) -> Option<PathBuf> {
    let given = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let home = || given("HOME").map(|home| PathBuf::from(home).join(under_home));
    given(variable).map(PathBuf::from).or_else(home)
}
