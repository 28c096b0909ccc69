//! Several things at once.

use std::time::Duration;

use super::fixture::*;
use crate::session::{Input, Limits, LinkId};
use crate::state::State;

#[test]
fn a_path_change_and_a_broken_link_in_either_order_lead_to_one_session() {
    for link_first in [false, true] {
        let mut pair = Pair::connected(Limits::default());
        pair.broker.write(&stream(1, 500_000));
        pair.server().write(&stream(2, 500_000));
        if link_first {
            pair.broker_input(Input::LinkLost { link: LinkId(1) });
        }
        pair.broker_input(Input::PathChanged);
        if !link_first {
            pair.broker_input(Input::LinkLost { link: LinkId(1) });
        }
        pair.run(Duration::from_secs(2));
        assert_eq!(pair.server().got, stream(1, 500_000));
        assert_eq!(pair.broker.got, stream(2, 500_000));
        assert_eq!(pair.broker.session.state(), State::Active);
    }
}

#[test]
fn a_rebind_while_the_other_end_suspends_waits_for_it() {
    let mut pair = Pair::connected(Limits::default());
    let now = pair.now;
    pair.server().session.handle_input(now, Input::Suspend { lasts: None });
    pair.broker_input(Input::PathChanged);
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.server().session.state(), State::Suspended);
    assert_eq!(pair.broker.session.state(), State::ReadyResume);
    pair.server_input(Input::Resume);
    pair.run(Duration::from_secs(61));
    assert_eq!(pair.broker.session.state(), State::Active);
}

#[test]
fn an_abort_here_and_an_end_there_at_once_end_both() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker.fin_at_end = true;
    pair.run(Duration::from_secs(1));
    pair.server().fin_at_end = true;
    pair.settle();
    pair.broker_input(Input::NearReset);
    pair.run(Duration::from_secs(10));
    assert!(pair.broker.session.is_over() && pair.server().session.is_over());
}

#[test]
fn many_rebinds_in_a_row_lose_nothing() {
    let mut pair = Pair::connected(Limits::default());
    let (up, down) = (stream(1, 3_000_000), stream(2, 3_000_000));
    pair.broker.write(&up);
    pair.server().write(&down);
    for _ in 0..50 {
        pair.broker_input(Input::PathChanged);
        pair.run(Duration::from_millis(37));
    }
    pair.broker.fin_at_end = true;
    pair.server().fin_at_end = true;
    pair.assert_clean(&up, &down);
}
