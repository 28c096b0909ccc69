//! stub: signatures only
#![expect(
    clippy::unimplemented,
    unused_variables,
    missing_docs,
    reason = "signatures first, bodies follow"
)]
use serde::{Deserialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// "file:line: key: what"
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub file: PathBuf,
    pub line: Option<usize>,
    pub key: String,
    pub what: String,
}
impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        unimplemented!()
    }
}
impl std::error::Error for ConfigError {}

/// A configuration and where it was read from, so that what is wrong beyond types can name its line.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    pub config: T,
    file: PathBuf,
    text: String,
}
impl<T> Loaded<T> {
    pub fn file(&self) -> &Path {
        &self.file
    }
    /// An error about `key`, e.g. `service[1].server[0].address`.
    pub fn error(&self, key: &str, what: impl std::fmt::Display) -> ConfigError {
        unimplemented!()
    }
}
/// Use `#[serde(deny_unknown_fields)]` on T.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Loaded<T>, ConfigError> {
    unimplemented!()
}
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<Loaded<T>, ConfigError> {
    unimplemented!()
}
/// The first of `candidates` that exists.
pub fn find(candidates: &[PathBuf]) -> Option<&PathBuf> {
    unimplemented!()
}

/// "8MiB", "64k", "1GB", or a plain number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);
/// "72h", "3s", "250ms", "1h30m", or "off" where it is optional.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);
/// "192.0.2.1:4433" / "[2001:db8::1]:4433".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(pub std::net::SocketAddr);
impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        unimplemented!()
    }
}
impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        unimplemented!()
    }
}
impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        unimplemented!()
    }
}
