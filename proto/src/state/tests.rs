//! The golden table: every cell, and what must hold over all of them.

use super::*;

fn table() -> String {
    let mut text = String::new();
    for state in State::ALL {
        for event in StateEvent::ALL {
            let cell = |dialing| match state.on(event, dialing) {
                Some((next, action)) => format!("{next} {action:?}"),
                None => "-".to_string(),
            };
            let (dialer, listener) = (cell(Dialing::Dialer), cell(Dialing::Listener));
            let cells = match dialer == listener {
                true => dialer,
                false => format!("{dialer} | {listener}"),
            };
            text += &format!("{state} {event:?}: {cells}\n");
        }
    }
    text
}

#[test]
fn every_cell_is_as_printed() {
    let golden = include_str!("table.txt");
    for (line, (is, was)) in table().lines().zip(golden.lines()).enumerate() {
        assert_eq!(is, was, "line {}", line + 1);
    }
    assert_eq!(table(), golden);
}

#[test]
fn closed_is_never_left() {
    for event in StateEvent::ALL {
        for dialing in [Dialing::Dialer, Dialing::Listener] {
            if let Some((next, _)) = State::Closed.on(event, dialing) {
                assert_eq!(next, State::Closed, "{event:?}");
            }
        }
    }
}

#[test]
fn abort_ends_every_state() {
    for state in State::ALL {
        for dialing in [Dialing::Dialer, Dialing::Listener] {
            let next = state.on(StateEvent::Abort, dialing).map_or(state, |(next, _)| next);
            assert_eq!(next, State::Closed);
        }
    }
}

#[test]
fn a_listener_never_dials() {
    for state in State::ALL {
        for event in StateEvent::ALL {
            let action = state.on(event, Dialing::Listener).map(|(_, action)| action);
            assert_ne!(action, Some(Action::Dial), "{state} {event:?}");
            assert_ne!(action, Some(Action::StartAttempt), "{state} {event:?}");
        }
    }
}

#[test]
fn only_the_user_ends_a_suspension() {
    for event in StateEvent::ALL {
        for dialing in [Dialing::Dialer, Dialing::Listener] {
            match State::Suspended.on(event, dialing) {
                Some((State::Suspended | State::Closed, _)) | None => (),
                Some(_) => assert_eq!(event, StateEvent::UserResume),
            }
        }
    }
}

#[test]
fn every_resume_is_answered() {
    use StateEvent::{PeerResume, PeerResumeMisfit, PeerResumeStale};
    for state in State::ALL {
        for event in [PeerResume, PeerResumeStale, PeerResumeMisfit] {
            for dialing in [Dialing::Dialer, Dialing::Listener] {
                assert!(state.on(event, dialing).is_some(), "{state} {event:?}");
            }
        }
    }
}
