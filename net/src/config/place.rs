//! The places where configuration files are looked for.

use std::env;
use std::path::PathBuf;

/// A folder of this user by the XDG Base Directory Specification: what the variable says,
/// otherwise the folder below `$HOME`.
#[must_use]
pub fn user_folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let given = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let home = || given("HOME").map(|home| PathBuf::from(home).join(below_home));
    given(variable).map(PathBuf::from).or_else(home)
}

/// The files that a broker looks for, in this order, if none was named to it.
#[must_use]
pub fn broker_files() -> Vec<PathBuf> {
    let own = user_folder("XDG_CONFIG_HOME", ".config");
    let own = own.map(|folder| folder.join("session/broker.toml"));
    own.into_iter().chain(["/etc/session/broker.toml".into()]).collect()
}
