//! What a ticket says of the exchange under way.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where an exchange stands, for a server that was not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Exchange {
    /// Everything asked for has been answered.
    Idle {
        /// The server has closed, or is about to: no other request will be answered.
        close: bool,
    },
    /// A response is under way whose request may be repeated and whose length is known.
    Response {
        /// The request head, to its empty line. There is no request body.
        #[serde(with = "latin")]
        request: Vec<u8>,
        /// The response head, to its empty line.
        #[serde(with = "latin")]
        response: Vec<u8>,
        /// Down position of the first byte of the response head.
        head_at: u64,
    },
}

/// Heads are nearly all ASCII: as text they take less room in JSON than as base64.
mod latin {
    use super::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = text.chars().map(|character| u8::try_from(u32::from(character)).ok());
        bytes.collect::<Option<_>>().ok_or_else(|| serde::de::Error::custom("not Latin-1"))
    }
}
