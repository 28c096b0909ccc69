//! Configuration files: TOML, and errors that say where, which key, what, and what to do.
//!
//! The daemons describe their files as serde structs with `deny_unknown_fields`; this module reads
//! them and turns every error into `file:line: key: what`. Checks that go beyond types (does the
//! file exist, is the name taken twice) use [`Loaded::error`], which finds the line of a key.

use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

pub use place::{broker_files, user_folder};
pub use value::{Address, ByteRate, ByteSize, FromText, Span};

mod place;
mod value;

/// A configuration file is a few KiB; a larger one is some other file.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// What is wrong with a configuration file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; none if the file as a whole is meant.
    pub line: Option<usize>,
    /// The key with its tables, such as `service[0].server[1].address`; may be empty.
    pub key: String,
    /// What is wrong, and what to do.
    pub what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for ConfigError {}

/// A configuration, and where each of its keys stands.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// What the file says.
    pub config: T,
    file: PathBuf,
    text: String,
}

impl<T> Loaded<T> {
    /// The file it was read from.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// An error about `key`, such as `service[1].server[0].address` (counted from 0). If the file
    /// does not mention the key, the line is that of the table it would stand in.
    #[must_use]
    pub fn error(&self, key: &str, what: impl fmt::Display) -> ConfigError {
        let places = places(&self.text);
        let mut wanted = key;
        let line = loop {
            if let Some(place) = places.iter().find(|place| place.key == wanted) {
                break Some(line_of(&self.text, place.span.start));
            }
            match wanted.rfind(['.', '[']) {
                Some(end) => wanted = &wanted[..end],
                None => break None,
            }
        };
        let (file, key) = (self.file.clone(), key.to_owned());
        ConfigError { file, line, key, what: what.to_string() }
    }
}

/// Reads the file at `path`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Loaded<T>, ConfigError> {
    let whole = |what| ConfigError { file: path.into(), line: None, key: String::new(), what };
    let read = || {
        let length = fs::metadata(path)?.len();
        if length > FILE_MAX {
            let what = format!("{length} bytes, this is no configuration");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        fs::read_to_string(path)
    };
    let text = read().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            whole("no such file; write one, or name another with --config".to_owned())
        }
        _ => whole(format!("cannot be read: {error}")),
    })?;
    parse(path, &text)
}

/// Reads `text` as if it were the file at `path`.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<Loaded<T>, ConfigError> {
    match toml::from_str(text) {
        Ok(config) => Ok(Loaded { config, file: path.into(), text: text.into() }),
        Err(error) => Err(explain(path, text, &error)),
    }
}

/// What a broker without a configuration file says instead of the file's name.
pub const BUILT_IN: &str = "(built in)";

/// The first of `candidates` that exists.
#[must_use]
pub fn find(candidates: &[PathBuf]) -> Option<&PathBuf> {
    candidates.iter().find(|path| path.exists())
}

fn explain(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let message = error.message();
    let offset = error.span().map(|span| span.start);
    let mut key = offset.and_then(|at| innermost(text, at)).unwrap_or_default();
    let mut what = message.to_owned();
    if let Some(missing) = message.strip_prefix("missing field ") {
        let name = missing.trim_matches('`');
        key = if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
        what = "is missing, and has no default".into();
    } else if let Some((name, known)) = unknown(message) {
        if key != name && !key.ends_with(&format!(".{name}")) {
            key = if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
        }
        what = format!("no such key; {known}");
    }
    // An empty file, or a whole one, is no particular line.
    let line = offset.filter(|_| !text.trim().is_empty()).map(|at| line_of(text, at));
    ConfigError { file: path.into(), line, key, what }
}

/// Takes serde's words about an unknown key apart: its name, and what it could have been.
fn unknown(message: &str) -> Option<(&str, String)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (name, rest) = rest.split_once('`')?;
    let known = rest.trim_start_matches([',', ' ']).replace('`', "");
    Some((name, if known.is_empty() { "none is known here".into() } else { known }))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Where a key stands, from its name to the end of its value.
struct KeySpan {
    key: String,
    span: Range<usize>,
}

fn innermost(text: &str, offset: usize) -> Option<String> {
    let around = places(text).into_iter().filter(|place| place.span.contains(&offset));
    around.min_by_key(|place| place.span.len()).map(|place| place.key)
}

/// Every key of a text that is TOML.
fn places(text: &str) -> Vec<KeySpan> {
    let (table, _errors) = DeTable::parse_recoverable(text);
    let mut places = Vec::new();
    walk_table("", table.get_ref(), &mut places);
    places
}

fn walk_table(prefix: &str, table: &DeTable<'_>, places: &mut Vec<KeySpan>) {
    for (name, value) in table {
        let dot = if prefix.is_empty() { "" } else { "." };
        let key = format!("{prefix}{dot}{}", name.get_ref());
        // A table written under its own header has the header's span; its name is in it.
        let start = name.span().start.min(value.span().start);
        let span = start..value.span().end.max(name.span().end);
        walk_value(&key, value.get_ref(), places);
        places.push(KeySpan { key, span });
    }
}

fn walk_value(key: &str, value: &DeValue<'_>, places: &mut Vec<KeySpan>) {
    match value {
        DeValue::Table(table) => walk_table(key, table, places),
        DeValue::Array(array) => {
            for (index, item) in array.iter().enumerate() {
                let key = format!("{key}[{index}]");
                walk_value(&key, item.get_ref(), places);
                places.push(KeySpan { key, span: item.span() });
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::key::PublicKey;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct Server {
        address: Address,
        key: Option<PublicKey>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct Service {
        name: String,
        #[serde(default)]
        server: Vec<Server>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct Limits {
        send_buffer: Option<ByteSize>,
        hold: Option<Span>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct File {
        status: Option<String>,
        #[serde(default)]
        service: Vec<Service>,
        limits: Option<Limits>,
    }

    const GOOD: &str = "status = \"off\"\n\n[[service]]\nname = \"a\"\n[[service.server]]\n\
        address = \"192.0.2.1:4433\"\n\n[[service]]\nname = \"b\"\n\
        server = [{ address = \"[::1]:4\" }]\n\n[limits]\nsend_buffer = \"8MiB\"\nhold = \"72h\"\n";

    fn refused(text: &str) -> String {
        let error = parse::<File>(Path::new("broker.toml"), text).expect_err("a bad file");
        error.to_string()
    }

    fn refused_with(good: &str, bad: &str) -> String {
        assert!(GOOD.contains(good), "{good}");
        refused(&GOOD.replace(good, bad))
    }

    #[test]
    fn a_good_file_loads() {
        let loaded = parse::<File>(Path::new("broker.toml"), GOOD).expect("a good file");
        assert_eq!(loaded.config.service.len(), 2);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_what_is_known() {
        let error = refused_with("send_buffer", "sendbuffer");
        let wanted = "broker.toml:13: limits.sendbuffer: no such key; expected send_buffer or hold";
        assert_eq!(error, wanted);
        let error = refused_with("status", "statuss");
        assert!(
            error.starts_with("broker.toml:1: statuss: no such key; expected one of"),
            "{error}"
        );
    }

    #[test]
    fn a_bad_value_is_named_with_its_line_key_and_the_right_form() {
        let error = refused_with("192.0.2.1:4433", "192.0.2.1");
        assert!(error.starts_with("broker.toml:6: service[0].server[0].address: "), "{error}");
        assert!(error.contains("\"192.0.2.1\"") && error.contains("192.0.2.1:4433"), "{error}");
        let error = refused_with("[::1]:4", "::1");
        assert!(error.starts_with("broker.toml:10: service[1].server[0].address: "), "{error}");
        let error = refused_with("8MiB", "8 bananas");
        assert!(error.starts_with("broker.toml:13: limits.send_buffer: "), "{error}");
        let error = refused_with("\"72h\"", "72");
        assert!(error.starts_with("broker.toml:14: limits.hold: "), "{error}");
    }

    #[test]
    fn a_wrong_type_and_a_bad_key_are_named_too() {
        let error = refused_with("\"off\"", "5");
        assert!(error.starts_with("broker.toml:1: status: invalid type: integer"), "{error}");
        let error = refused_with("address = \"192", "key = \"rsa:x\"\naddress = \"192");
        assert!(error.starts_with("broker.toml:6: service[0].server[0].key: "), "{error}");
        assert!(error.contains("ed25519:"), "{error}");
    }

    #[test]
    fn a_missing_key_is_named_with_the_line_of_its_table() {
        let error = refused_with("name = \"b\"\n", "");
        assert_eq!(error, "broker.toml:8: service[1].name: is missing, and has no default");
    }

    #[test]
    fn broken_toml_and_missing_files_are_said_so() {
        let error = refused("status = \"off\"\nservice = [[\n");
        assert!(error.starts_with("broker.toml:"), "{error}");
        let error = load::<File>(Path::new("/nowhere/broker.toml")).expect_err("no file");
        assert!(error.to_string().starts_with("/nowhere/broker.toml: no such file"), "{error}");
    }

    #[test]
    fn a_check_beyond_types_finds_its_line() {
        let loaded = parse::<File>(Path::new("broker.toml"), GOOD).expect("a good file");
        let at = |key: &str| loaded.error(key, "is wrong").to_string();
        assert_eq!(at("service[1].name"), "broker.toml:9: service[1].name: is wrong");
        assert_eq!(at("service[0].root"), "broker.toml:3: service[0].root: is wrong");
        assert_eq!(at("limits.hold"), "broker.toml:14: limits.hold: is wrong");
        assert_eq!(at("key_file"), "broker.toml: key_file: is wrong");
    }
}
