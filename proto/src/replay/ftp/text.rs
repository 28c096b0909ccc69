//! How bytes are written into tickets.

/// Bytes as text: nearly all of them are ASCII.
pub(super) mod latin {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = text.chars().map(|character| u8::try_from(u32::from(character)).ok());
        bytes.collect::<Option<_>>().ok_or_else(|| D::Error::custom("not Latin-1"))
    }
}
