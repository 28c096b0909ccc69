//! How a transfer to the client is asked for once more.

use super::command::Transfer;
use super::login::{Login, Step, Steps, Want};
use super::state::Running;

/// How a transfer to the client is asked for once more, from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumption {
    /// The login, up to where the data connection is to be agreed upon.
    pub login: Steps,
    /// Only EPSV may be used.
    pub only_extended: bool,
    /// Said behind that, before the command: where in the file it began.
    pub rest: Option<Step>,
    /// The command: 1yz lets it go on.
    pub command: Step,
}

impl Resumption {
    /// The plan for this transfer. Nothing if it cannot be asked for again.
    #[must_use]
    pub fn make(login: &Login, running: &Running) -> Option<Self> {
        if running.transfer != Transfer::Down || !login.can_be_repeated() {
            return None;
        }
        let mut login = login.clone();
        login.used();
        let rest = running.rest.map(|at| Step::new(format!("REST {at}").as_bytes(), Want::Pending));
        Some(Self {
            login: login.steps(),
            only_extended: login.only_extended(),
            rest,
            command: Step::new(&running.command, Want::Anything),
        })
    }
}
