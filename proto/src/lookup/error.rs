//! Why bytes are no message of the directory.

/// Most bytes of a message: one record of a link.
pub const MESSAGE_MAX: usize = 16_384;

/// Why bytes are no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MessageError {
    /// It is longer than a record, or a field does not fit.
    #[error("the message has {0} bytes, more than {MESSAGE_MAX}")]
    TooLong(usize),
    /// It does not begin as one.
    #[error("version {0:#04x} of the directory is not spoken")]
    Version(u8),
    /// It ends in a field.
    #[error("the message ends in its field `{0}`")]
    Cut(&'static str),
    /// A field cannot be.
    #[error("the field `{0}` cannot have this value")]
    BadValue(&'static str),
    /// A kind that is not known.
    #[error("kind {0} of message is not known")]
    Unknown(u8),
    /// Something stands behind it.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}
