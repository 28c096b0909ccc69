//! What a ticket says of a login or of a transfer: everything that another server needs.

use core::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::command::Transfer;
use super::login::Login;
use super::place::Family;
use super::stored::{File, Stored};
use super::text::latin;
use crate::handle::Handle;

/// Where an FTP session stands, for a server that was not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Exchange {
    /// A control connection.
    Control(Box<ControlState>),
    /// A data connection.
    Data(Box<DataState>),
}

/// Where a control connection stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlState {
    /// How the login came about.
    pub login: Login,
    /// A data connection was agreed upon, and not used yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// A transfer whose last reply was not given yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Running>,
    /// ABOR came, and its reply was not given yet.
    #[serde(default)]
    pub aborting: bool,
    /// The client has said QUIT, or was told that the server ends.
    #[serde(default)]
    pub over: bool,
    /// The reply that begins where the ticket stands. Perhaps the client has a part of it.
    #[serde(with = "latin")]
    pub reply: Vec<u8>,
}

/// A data connection that was agreed upon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// Names it between broker and server.
    #[serde(with = "token")]
    pub token: Handle,
    /// The words in which it was agreed upon.
    pub family: Family,
    /// Where the client listens; none: it connects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<SocketAddr>,
}

/// A transfer under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Running {
    /// The data connection.
    #[serde(with = "token")]
    pub token: Handle,
    /// The command, without its line end.
    #[serde(with = "latin")]
    pub command: Vec<u8>,
    /// Which way.
    pub transfer: Transfer,
    /// Where in the file it began (REST).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<u64>,
    /// The file that an upload makes; none for others, and if nobody could go on with it elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<File>,
}

/// What another server needs to go on with a transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataState {
    /// How the login came about.
    pub login: Login,
    /// What is sent.
    pub running: Running,
    /// Of an upload, what is proven to be in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Stored>,
}

/// A token as 32 hexadecimal digits.
mod token {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::handle::Handle;

    pub fn serialize<S: Serializer>(token: &Handle, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", u128::from_be_bytes(token.0)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Handle, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_one = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = is_one.then(|| u128::from_str_radix(&text, 16).ok()).flatten();
        let bits = bits.ok_or_else(|| D::Error::custom("a token is 32 hexadecimal digits"))?;
        Ok(Handle(bits.to_be_bytes()))
    }
}
