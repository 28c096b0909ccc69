//! When the service gives no more: how often it is asked again, and when the session should be
//! taken to another server.

use core::time::Duration;

use super::patience::{Failure, Told, Trouble};
use super::{How, Machine, Out, Service, Want};
use crate::time::Instant;

/// The first pause between two tries; each further one is twice as long, up to the most.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A service that cannot be reached may just be starting anew: only after this time the broker is
/// asked to go elsewhere.
const STARTING: Duration = Duration::from_secs(1);

impl Machine {
    /// A response was cut that can be continued.
    pub(super) fn ask_for_the_rest(&mut self, now: Instant) {
        if let Some(translation) = &mut self.translation {
            translation.hold();
        }
        match self.again.ask(self.observer.positions().1) {
            Some(pause) => self.service = Service::Wanted(Want::Rest, now + pause),
            None => self.failed(now, Failure::Refused("it gives no more".to_owned())),
        }
    }

    /// The service did not do what was wanted.
    pub fn failed(&mut self, now: Instant, failure: Failure) {
        let want = match self.service {
            Service::Wanted(want, _) | Service::Opening(want) => want,
            Service::None | Service::Open { .. } => Want::Rest,
        };
        let at = self.observer.positions().1;
        let trouble = self.trouble.get_or_insert_with(|| Trouble::new(now));
        let lasts = now.since(trouble.since);
        let (pause, leave) = match &failure {
            Failure::Down(_) => {
                trouble.pause = (trouble.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                ((lasts < self.patience).then_some(trouble.pause), lasts >= STARTING)
            }
            Failure::Busy(_) => (self.again.ask(at), true),
            Failure::Refused(_) => (None, true),
        };
        let (Failure::Down(text) | Failure::Busy(text) | Failure::Refused(text)) = failure;
        trouble.text = format!("{text}, at byte {at}");
        if leave && trouble.told == Told::Nothing {
            trouble.told = Told::Due;
        }
        self.service = match pause {
            Some(pause) => Service::Wanted(want, now + pause),
            None => Service::None,
        };
        trouble.over = pause.is_none();
        self.judge(now);
    }

    /// The broker was asked to take the session elsewhere, if there was a link to it.
    pub fn asked_to_be_left(&mut self, now: Instant, linked: bool) {
        if let Some(trouble) = &mut self.trouble {
            trouble.told = if linked { Told::At(now) } else { Told::Lost };
        }
    }

    /// The broker says that the session stays here.
    pub fn stays(&mut self, now: Instant) {
        if let Some(trouble) = &mut self.trouble
            && matches!(trouble.told, Told::At(_))
        {
            trouble.told = Told::Stays;
        }
        self.judge(now);
    }

    /// The app still takes what the service has given: a server that is to continue cannot catch up
    /// before that is through, so the broker's answer may take longer.
    pub(super) fn drains(&mut self, now: Instant) {
        if let Some(Trouble { told: Told::At(at), .. }) = &mut self.trouble {
            *at = now;
        }
    }

    /// There is a link to the broker again.
    pub fn linked(&mut self) {
        if let Some(trouble) = &mut self.trouble
            && matches!(trouble.told, Told::At(_) | Told::Lost)
        {
            trouble.told = Told::Due;
        }
    }

    /// The link to the broker is lost.
    pub fn unlinked(&mut self) {
        if let Some(trouble) = &mut self.trouble
            && matches!(trouble.told, Told::At(_))
        {
            trouble.told = Told::Lost;
        }
    }

    /// Ends what nobody can go on with.
    pub(super) fn judge(&mut self, now: Instant) {
        let Some(trouble) = &self.trouble else { return };
        let late = trouble.due().is_some_and(|due| due <= now);
        if !trouble.over || !(trouble.told == Told::Stays || late) {
            return;
        }
        let why = self.trouble.take().map(|trouble| trouble.text).unwrap_or_default();
        if self.observer.response_under_way() {
            self.end_short();
        } else {
            self.service = Service::None;
            self.out_state = Out::Ends { how: How::Failed(why), early: false };
        }
    }
}
