//! The reasons why `session get` ends without its file, and their exit codes.

/// Why a file was not had, for scripts: the exit codes are those of aria2, and one of sysexits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No server has it.
    NotFound,
    /// The servers, or the broker, could not be reached.
    Network,
    /// The disk is full.
    DiskFull,
    /// There is another file of that name.
    Exists,
    /// The file cannot be written.
    Local,
    /// The gateway or a server refuses this user.
    Denied,
    /// The bytes that came have another SHA-256 than the gateway says.
    Checksum,
    /// The endpoint of its session was saved; it goes on where that is loaded.
    Moved,
}

impl Cause {
    /// The process's exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Cause::NotFound => 3,
            Cause::Network => 6,
            Cause::DiskFull => 9,
            Cause::Exists => 13,
            Cause::Local => 16,
            Cause::Denied => 24,
            Cause::Checksum => 32,
            Cause::Moved => 75,
        }
    }
}

/// An error after which trying again does not help.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Final {
    cause: Cause,
    text: String,
}

impl Final {
    /// Says why.
    #[must_use]
    pub fn new(cause: Cause, text: impl Into<String>) -> Final {
        Final { cause, text: text.into() }
    }

    /// Which of the causes it is.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }
}
