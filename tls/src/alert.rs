//! What the app is told, and tells, when something is wrong (RFC 8446, 6).

/// Why a connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Alert {
    /// Something came at a time when it may not.
    #[error("an unexpected message")]
    UnexpectedMessage,
    /// A record that was not sealed with the key in use, or was altered.
    #[error("a record that cannot be opened")]
    BadRecordMac,
    /// A record that is longer than any.
    #[error("a record that is too long")]
    RecordOverflow,
    /// Something that cannot be read.
    #[error("a message that cannot be read")]
    DecodeError,
}

impl Alert {
    /// Its number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::UnexpectedMessage => 10,
            Self::BadRecordMac => 20,
            Self::RecordOverflow => 22,
            Self::DecodeError => 50,
        }
    }

    /// The message, which ends the connection.
    #[must_use]
    pub fn message(self) -> [u8; 2] {
        [FATAL, self.code()]
    }
}

/// The level of an alert that ends a connection.
pub const FATAL: u8 = 2;

/// The message that nothing more will be sent.
pub const CLOSE_NOTIFY: [u8; 2] = [1, 0];
