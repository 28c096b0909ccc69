//! Why the directory did not find something.

use nix::errno::Errno;
use stp_lookup::AskError;
use stp_lookup::gateway::LoginError;
use stp_proto::lookup::Refusal;

/// Why nothing was found.
#[derive(Clone, Debug)]
pub struct Lacking {
    /// What an app is told.
    pub errno: Errno,
    /// What a person is told.
    pub why: String,
    /// It does not exist, as far as can be known.
    pub unknown: bool,
}

pub(crate) fn lacking(errno: Errno, why: impl Into<String>) -> Lacking {
    Lacking { errno, why: why.into(), unknown: false }
}

impl From<AskError> for Lacking {
    fn from(error: AskError) -> Lacking {
        let unknown = matches!(&error, AskError::Refused(r) if r.why == Refusal::NotFound);
        let errno = match &error {
            AskError::Refused(refused) => match refused.why {
                Refusal::NoServer => Errno::ECONNREFUSED,
                Refusal::NotLoggedIn | Refusal::LoginRefused => Errno::EACCES,
                _ => Errno::EHOSTUNREACH,
            },
            _ => Errno::EHOSTUNREACH,
        };
        Lacking { errno, why: format!("directory: {error}"), unknown }
    }
}

impl From<LoginError> for Lacking {
    fn from(error: LoginError) -> Lacking {
        match error {
            LoginError::Ask(error) => error.into(),
            other => lacking(Errno::EHOSTUNREACH, format!("directory: {other}")),
        }
    }
}
