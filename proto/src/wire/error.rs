//! What can be wrong with bytes that claim to be frames. The peer is always to blame.

/// The peer sent bytes that are not frames of this protocol.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than a frame header.
    #[error("peer sent {0} bytes where a frame header of 4 is needed")]
    NoHeader(usize),
    /// A record longer than one TLS record may be.
    #[error("peer sent a record of {0} bytes, the most is 16384")]
    RecordTooLong(usize),
    /// The header promises more than the record holds (R3: frames never span records).
    #[error("peer sent a frame of type {kind} and length {length} with {present} bytes in it")]
    CutShort {
        /// Frame type.
        kind: u8,
        /// Length in the header.
        length: usize,
        /// Bytes left in the record.
        present: usize,
    },
    /// A record without any frame.
    #[error("peer sent an empty record")]
    Empty,
    /// A type nobody defined.
    #[error("peer sent a frame of unknown type {0}")]
    UnknownType(u8),
    /// Flags that mean nothing on this type.
    #[error("peer sent flags {flags:#04x} on a frame of type {kind}")]
    BadFlags {
        /// Frame type.
        kind: u8,
        /// The flags.
        flags: u8,
    },
    /// The payload ends inside a field.
    #[error("peer sent a frame that ends inside its field `{0}`")]
    FieldCut(&'static str),
    /// Bytes after the last field.
    #[error("peer sent {0} bytes after the last field of a frame")]
    Trailing(usize),
    /// A field holds a value it must not.
    #[error("peer sent a bad value in the field `{0}`")]
    BadValue(&'static str),
    /// A link must begin with CONNECT, RESUME or CLOSE RST with handles (R2).
    #[error("peer began a link with a frame of type {0}")]
    NotFirst(u8),
}
