//! The golden table: every cell, and what must hold over all of them.

use super::*;

fn table() -> String {
    let mut text = String::new();
    for state in State::ALL {
        for event in StateEvent::ALL {
            let cell = |side| match state.on(event, side) {
                Some((next, action)) => format!("{next} {action:?}"),
                None => "-".to_string(),
            };
            let (initiator, acceptor) = (cell(Side::Initiator), cell(Side::Acceptor));
            let cells = match initiator == acceptor {
                true => initiator,
                false => format!("{initiator} | {acceptor}"),
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
        for side in [Side::Initiator, Side::Acceptor] {
            if let Some((next, _)) = State::Closed.on(event, side) {
                assert_eq!(next, State::Closed, "{event:?}");
            }
        }
    }
}

#[test]
fn abort_ends_every_state() {
    for state in State::ALL {
        for side in [Side::Initiator, Side::Acceptor] {
            let next = state.on(StateEvent::Abort, side).map_or(state, |(next, _)| next);
            assert_eq!(next, State::Closed);
        }
    }
}

#[test]
fn an_acceptor_never_dials() {
    for state in State::ALL {
        for event in StateEvent::ALL {
            let action = state.on(event, Side::Acceptor).map(|(_, action)| action);
            assert_ne!(action, Some(Action::Dial), "{state} {event:?}");
            assert_ne!(action, Some(Action::StartAttempt), "{state} {event:?}");
        }
    }
}

#[test]
fn only_the_user_ends_a_suspension() {
    for event in StateEvent::ALL {
        for side in [Side::Initiator, Side::Acceptor] {
            match State::Suspended.on(event, side) {
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
            for side in [Side::Initiator, Side::Acceptor] {
                assert!(state.on(event, side).is_some(), "{state} {event:?}");
            }
        }
    }
}
