//! One session's exchanges with its service: what they are made of, how they begin, and where they
//! stand.

use core::time::Duration;

use super::patience::{Failure, PATIENCE, Trouble};
use super::tickets::{Offer, Tickets};
use crate::replay::http::exchange::Exchange;
use crate::replay::http::observer::Observer;
use crate::replay::http::pieces::Waiting;
use crate::replay::http::plan::{Ask, Plan};
use crate::replay::http::splice::Joined;
use crate::replay::http::translate::Translation;
use crate::replay::{Again, Policy};
use crate::scope::Scope;
use crate::seam::Seam;
use crate::time::Instant;

/// What the driver must do.
#[derive(Debug)]
pub enum Action {
    /// Open a stream to the service, then call [`Machine::opened`] or [`Machine::failed`].
    Open,
    /// Ask the service for a response again and bring the answer to the byte that the app has,
    /// then call [`Machine::joined`] or [`Machine::failed`].
    Rejoin(Box<Ask>),
}

/// What comes next for the app's side.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Give it what is in [`Machine::out`], then call [`Machine::given`].
    Give,
    /// Send this ticket, then call [`Machine::offered`].
    Ticket(Offer),
    /// Ask the other end to take the session to another server, for this reason, then call
    /// [`Machine::asked_to_be_left`].
    Leave(String),
    /// Read from the service and call [`Machine::feed`].
    Read,
    /// Read at most this many bytes from the service straight to the app's side, showing them to
    /// [`Machine::passed`].
    Pass(u64),
    /// Nothing, until something happens.
    Wait,
    /// The end, when everything before it has been given. Call [`Machine::told_the_end`].
    End(How),
}

/// How a stream ends for the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// In order.
    Fin,
    /// By a reset, for this reason.
    Failed(String),
}

/// Where the stream to the service stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// There is none. One is opened when there is something to send.
    None,
    /// One is wanted, but not before this time.
    Wanted(Want, Instant),
    /// The driver was told so.
    Opening(Want),
    /// It is open.
    Open {
        /// What it has carried and may carry.
        carries: Carries,
        /// It takes what the app sends. If it does not, that is dropped: what the service said
        /// before it stopped reading is still to be read.
        hears: bool,
    },
}

/// What a stream is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// A request that waits.
    Request,
    /// The rest of the response under way.
    Rest,
}

/// What a stream has carried and may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carries {
    /// It has carried nothing yet.
    First,
    /// It has carried an exchange, and may carry another.
    Another,
    /// It carries nothing after the exchange under way.
    Last,
}

/// What the app's side does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum App {
    /// It may send.
    Sends,
    /// It has ended its side, and may still read.
    Ended,
}

/// What goes to the app.
#[derive(Debug)]
pub(super) enum Out {
    /// Responses.
    Goes,
    /// They end; the app is to be told. `early`: the service ended where another would have gone
    /// on, so no other server may say more behind it.
    Ends { how: How, early: bool },
    /// The app was told: nothing more is asked of the service.
    Told,
}

/// One session's exchanges with its service.
#[derive(Debug)]
pub struct Machine {
    pub(super) policy: Policy,
    /// What may be asked for, if that is not the whole service.
    pub(super) scope: Option<Scope>,
    pub(super) observer: Observer,
    pub(super) service: Service,
    pub(super) app: App,
    pub(super) out_state: Out,
    pub(super) tickets: Tickets,
    pub(super) trouble: Option<Trouble>,
    pub(super) again: Again,
    /// A service that cannot be reached is tried again for this long.
    pub(super) patience: Duration,
    /// Requests that begin below may have been executed by another server.
    pub(super) guard: u64,
    /// To the service: heads that are whole.
    pub(super) unsent: Waiting,
    /// From the service, not yet seen by the observer.
    pub(super) ahead: Waiting,
    /// The body under way does not reach the app as it comes.
    pub(super) translation: Option<Translation>,
    /// An interim head (1xx) that is to go to the app's side behind its ticket.
    pub(super) interim: Option<Vec<u8>>,
    /// For the app's side, already observed.
    pub(super) out: Waiting,
    /// The digest of the chunks that the app had when another server left it.
    pub(super) had: Option<Seam>,
}

/// How a machine begins: at a session's start, or where another server left it.
#[derive(Debug)]
pub struct Beginning {
    observer: Observer,
    service: Service,
    unsent: Vec<u8>,
    out: Vec<u8>,
    joined: Option<Joined>,
    guard: u64,
}

impl Beginning {
    /// With nothing under way at these positions, on a stream to the service that is open.
    #[must_use]
    pub fn fresh(up: u64, down: u64) -> Self {
        let service = Service::Open { carries: Carries::First, hears: true };
        Self::at(Observer::new(up, down), service)
    }

    fn at(observer: Observer, service: Service) -> Self {
        Self { observer, service, unsent: Vec::new(), out: Vec::new(), joined: None, guard: 0 }
    }

    /// Requests that begin below this up position may have been executed by another server.
    #[must_use]
    pub fn guarded(self, guard: u64) -> Self {
        Self { guard, ..self }
    }

    /// As the plan says, at these positions; the driver has opened a stream if the plan
    /// [needs one](Plan::needs_stream), and `joined` if it asks for a rest. `None` if the exchange
    /// cannot be followed.
    #[must_use]
    pub fn planned(plan: Plan, up: u64, have: u64, joined: Option<Joined>) -> Option<Self> {
        let open = Service::Open { carries: Carries::First, hears: true };
        let reached = |rest: &[u8]| have + u64::try_from(rest.len()).unwrap_or(0);
        Some(match plan {
            Plan::Fresh => Self::fresh(up, have),
            Plan::Closed => Self::at(Observer::closed(up, have), Service::None),
            Plan::Again { request } => {
                let observer = Observer::asked(up, have, &request)?;
                Self { unsent: request, ..Self::at(observer, open) }
            }
            Plan::Complete { head_rest, close } => {
                let reached = reached(&head_rest);
                let (observer, service) = if close {
                    (Observer::closed(up, reached), Service::None)
                } else {
                    (Observer::new(up, reached), open)
                };
                Self { out: head_rest, ..Self::at(observer, service) }
            }
            Plan::Ask(ask) => {
                let mut joined = joined?;
                let Ask { head_rest, exchange, .. } = *ask;
                let Exchange::Response { request, response, head_at, shortened, .. } = &exchange
                else {
                    return None;
                };
                let heads = (&**request, &**response, *head_at, *shortened);
                let reached = reached(&head_rest);
                let observer = Observer::inside(up, reached, heads, joined.seam.take())?;
                let joined = Some(joined);
                Self { out: head_rest, joined, ..Self::at(observer, Service::None) }
            }
        })
    }
}

impl Machine {
    /// A request that may not be repeated is under way.
    #[must_use]
    pub fn asks_for_good(&self) -> bool {
        self.observer.unsafe_request()
    }

    /// The same; its head has gone to the service, and nothing else is on its way to either side.
    #[must_use]
    pub fn has_just_asked_for_good(&self) -> bool {
        self.asks_for_good()
            && self.is_in_step()
            && self.unsent.is_empty()
            && self.out.is_empty()
            && self.ahead.is_empty()
            && self.interim.is_none()
            && self.observer.is_in_step(true)
    }

    /// What comes on either side goes to the other as it is; no part of a request head waits for
    /// the rest of it.
    #[must_use]
    pub fn is_in_step(&self) -> bool {
        self.translation.is_none() && self.unsent.is_empty() && self.observer.is_in_step(false)
    }

    /// Goes on from `beginning`. `tickets`: the server can make them.
    #[must_use]
    pub fn new(policy: Policy, tickets: bool, beginning: Beginning) -> Self {
        let mut machine = Self {
            policy,
            scope: None,
            observer: beginning.observer,
            service: beginning.service,
            app: App::Sends,
            out_state: Out::Goes,
            tickets: Tickets::new(tickets, beginning.joined.is_some()),
            trouble: None,
            again: Again::default(),
            patience: PATIENCE,
            guard: beginning.guard,
            unsent: beginning.unsent.into(),
            ahead: Waiting::default(),
            translation: None,
            interim: None,
            out: beginning.out.into(),
            had: None,
        };
        if let Some(mut joined) = beginning.joined {
            machine.had = joined.had.take();
            machine.joined(joined);
        }
        if machine.observer.closing() {
            machine.out_state = Out::Ends { how: How::Fin, early: false };
        }
        machine.settle();
        machine
    }

    /// Only this may be asked for.
    pub fn allow_only(&mut self, scope: Scope) {
        self.scope = Some(scope);
    }

    /// Positions of what was taken of the app (up) and observed of the service (down).
    #[must_use]
    pub fn positions(&self) -> (u64, u64) {
        self.observer.positions()
    }

    /// No exchange is under way: what was given of the last one is all of it.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.observer.idle() && self.out.is_empty() && self.ahead.is_empty()
    }

    /// The digest of what the app had of the stream when another server left it, from where it can
    /// be compared. Of use before anything else was given.
    #[must_use]
    pub fn digest(&self) -> Option<Seam> {
        self.had.clone().or_else(|| self.observer.seam().cloned())
    }

    /// Requests that begin below this up position may have been executed by another server.
    pub fn guard(&mut self, guard: u64) {
        self.guard = guard;
    }

    /// A stream to the service is open, or being opened. The driver drops one that the machine
    /// does not have.
    #[must_use]
    pub fn has_stream(&self) -> bool {
        !matches!(self.service, Service::None | Service::Wanted(..))
    }

    /// Whether the stream that is open takes what the app sends.
    #[must_use]
    pub fn hears(&self) -> bool {
        matches!(self.service, Service::Open { hears: true, .. })
    }

    /// When [`Machine::tick`] is to be called at the latest.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let wanted = match self.service {
            Service::Wanted(_, at) => Some(at),
            Service::Open { .. } => self.translation.as_ref().and_then(Translation::due),
            Service::None | Service::Opening(_) => None,
        };
        let verdict = self.trouble.as_ref().and_then(Trouble::due);
        wanted.into_iter().chain(verdict).min()
    }

    /// Time has passed: says what the driver must do now.
    pub fn tick(&mut self, now: Instant) -> Option<Action> {
        self.judge(now);
        let Service::Wanted(want, at) = self.service else { return None };
        if at > now {
            return None;
        }
        self.service = Service::Opening(want);
        if want == Want::Request {
            return Some(Action::Open);
        }
        match self.plan_rest() {
            Ok(ask) => Some(Action::Rejoin(ask)),
            Err(text) => {
                self.failed(now, Failure::Refused(text));
                None
            }
        }
    }

    pub(super) fn plan_rest(&self) -> Result<Box<Ask>, String> {
        let have = self.observer.positions().1;
        let cannot = || "it cannot be continued".to_owned();
        let base = self.translation.as_ref().and_then(|translation| translation.base_here(have));
        let exchange = self.observer.exchange().ok_or_else(cannot)?.cut(base);
        match Plan::make(&exchange, have, have, self.observer.proof(), self.policy) {
            Ok(Plan::Ask(ask)) => Ok(ask),
            Ok(_) => Err(cannot()),
            Err(refusal) => Err(refusal.text),
        }
    }

    /// The stream that was wanted is open.
    pub fn opened(&mut self) {
        self.trouble = None;
        self.service = Service::Open { carries: Carries::First, hears: true };
    }

    /// The response was joined.
    pub fn joined(&mut self, joined: Joined) {
        self.trouble = None;
        let carries = if joined.reusable { Carries::First } else { Carries::Last };
        self.service = Service::Open { carries, hears: true };
        self.join_body(joined);
        self.settle();
    }

    /// A service that cannot be reached is tried again for this long.
    pub fn bear(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The end is told, or the app's side was reset: nothing more is asked of the service.
    pub fn told_the_end(&mut self) {
        self.out_state = Out::Told;
        self.service = Service::None;
        self.translation = None;
        self.trouble = None;
    }

    /// The app was told the end of what goes to it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.out_state, Out::Told)
    }

    /// Nothing more can come.
    pub(super) fn finished(&self) -> bool {
        self.app == App::Ended
            && self.service == Service::None
            && self.unsent.is_empty()
            && self.ahead.is_empty()
            && self.observer.idle()
    }

    pub(super) fn fail(&mut self, why: &str) {
        self.service = Service::None;
        self.out_state = Out::Ends { how: How::Failed(why.to_owned()), early: false };
    }

    /// After every step of the observer.
    pub(super) fn settle(&mut self) {
        if !self.observer.take_ended() {
            return;
        }
        self.again = Again::default();
        self.tickets.exchange_ended(self.translation.take().is_some());
        if self.observer.closing() {
            self.service = Service::None;
            if matches!(self.out_state, Out::Goes) {
                self.out_state = Out::Ends { how: How::Fin, early: false };
            }
        } else if let Service::Open { carries, .. } = &mut self.service {
            match carries {
                Carries::First | Carries::Another => *carries = Carries::Another,
                Carries::Last => self.service = Service::None,
            }
        }
    }
}
