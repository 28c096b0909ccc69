//! What a ticket says of the exchange under way.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::chunks::Base;
use super::head::{RequestHead, ResponseHead};

/// Where an exchange stands, for a server that was not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Exchange {
    /// Everything asked for has been answered.
    Idle {
        /// The server has closed, or is about to: no other request will be answered.
        close: bool,
    },
    /// Nothing but interim heads (1xx) has been answered to a request that may be repeated.
    Interim {
        /// The interim head that begins at `head_at`, to its empty line.
        #[serde(with = "latin")]
        interim: Vec<u8>,
        /// Down position of its first byte.
        head_at: u64,
    },
    /// A response is under way whose request may be repeated.
    Response {
        /// The request head, to its empty line. There is no request body.
        #[serde(with = "latin")]
        request: Vec<u8>,
        /// The response head, to its empty line.
        #[serde(with = "latin")]
        response: Vec<u8>,
        /// Down position of the first byte of the response head.
        head_at: u64,
        /// The response head is not what the app got, but a shorter one that says the same of the
        /// body. Where it is said to begin, it ends where the app's does.
        #[serde(default, skip_serializing_if = "core::ops::Not::not")]
        shortened: bool,
        /// How a body in chunks is cut; none for other bodies.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chunks: Option<Base>,
    },
}

impl Exchange {
    /// The same in less room, if that can be: a response head only as far as it must be known when
    /// the app has all of it.
    #[must_use]
    pub fn shortened(&self) -> Option<Self> {
        let Self::Response { request, response, head_at, shortened: false, chunks } = self else {
            return None;
        };
        let question = RequestHead::parse(request).ok()??.0;
        let short = ResponseHead::short(response, &question)?;
        let saved = response.len().checked_sub(short.len())?;
        let head_at = head_at.checked_add(u64::try_from(saved).ok()?)?;
        let (request, chunks) = (request.clone(), chunks.clone());
        Some(Self::Response { request, response: short, head_at, shortened: true, chunks })
    }

    /// With this base of its chunks.
    #[must_use]
    pub(super) fn cut(mut self, base: Option<Base>) -> Self {
        if let Self::Response { chunks, .. } = &mut self {
            *chunks = base;
        }
        self
    }
}

/// Heads are nearly all ASCII: as text they take less room in JSON than as base64. Long ones are
/// compressed; what marks those cannot begin a head.
mod latin {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    use serde::de::Error;

    use super::{Deserialize, Deserializer, Serializer};
    use crate::replay::http::HEAD_MAX;

    /// Begins the text of a compressed head: no method and no version begins so.
    const MARK: &str = "~z:";
    /// Longer heads are compressed.
    const LONG: usize = 1_024;
    /// How hard is tried: a ticket is made every few seconds.
    const LEVEL: u8 = 6;

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        if bytes.len() > LONG {
            let packed = miniz_oxide::deflate::compress_to_vec(bytes, LEVEL);
            let packed = STANDARD_NO_PAD.encode(packed);
            if packed.len() < bytes.len() {
                return serializer.collect_str(&format_args!("{MARK}{packed}"));
            }
        }
        let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if let Some(packed) = text.strip_prefix(MARK) {
            let packed = STANDARD_NO_PAD.decode(packed).map_err(D::Error::custom)?;
            return miniz_oxide::inflate::decompress_to_vec_with_limit(&packed, HEAD_MAX + 1)
                .map_err(D::Error::custom);
        }
        let bytes = text.chars().map(|character| u8::try_from(u32::from(character)).ok());
        bytes.collect::<Option<_>>().ok_or_else(|| D::Error::custom("not Latin-1"))
    }
}
