//! Why bytes are no message of the directory.

/// The most bytes of a message: one record of a link.
pub const MESSAGE_MAX: usize = 16_384;

/// Why bytes are no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MessageError {
    /// The message is longer than a record, or a field does not fit.
    #[error("the message has {0} bytes, more than {MESSAGE_MAX}")]
    TooLong(usize),
    /// It does not begin as a message of this version.
    #[error("version {0:#04x} of the directory is not spoken")]
    Version(u8),
    /// It ends inside a field.
    #[error("the message ends in its field `{0}`")]
    Cut(&'static str),
    /// A field has a value that it cannot have.
    #[error("the field `{0}` cannot have this value")]
    BadValue(&'static str),
    /// The kind of message is not known.
    #[error("kind {0} of message is not known")]
    Unknown(u8),
    /// Bytes follow the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}
