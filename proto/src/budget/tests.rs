use super::*;

const MIB: u64 = 1 << 20;

/// A hundred sessions, and 100 MiB beyond their own.
fn budget() -> Budget<char> {
    Budget::new(100 * MIB + 100 * OWN, 100)
}

#[test]
fn half_of_the_memory_is_left_beyond_what_sessions_have_of_their_own() {
    let sessions = most_sessions(64 * MIB);
    assert_eq!(sessions, 256);
    assert_eq!(memory_for(sessions), 64 * MIB);
    assert_eq!(Budget::<char>::new(64 * MIB, sessions).held(), (0, 32 * MIB));
}

#[test]
fn it_is_short_from_three_quarters_on_until_half_is_free() {
    let mut budget = budget();
    let mut cost = OWN;
    let mut to = |budget: &mut Budget<char>, mib: u64| {
        let before = std::mem::replace(&mut cost, OWN + mib * MIB);
        budget.note(&[], before, cost)
    };
    assert_eq!(to(&mut budget, 74), Level::Plenty);
    assert_eq!(to(&mut budget, 75), Level::Short);
    assert_eq!(to(&mut budget, 60), Level::Short);
    assert_eq!(to(&mut budget, 49), Level::Plenty);
    assert_eq!(to(&mut budget, 60), Level::Plenty);
    assert_eq!(to(&mut budget, 100), Level::Full);
    assert_eq!(to(&mut budget, 80), Level::Full);
    assert_eq!(to(&mut budget, 74), Level::Short);
    assert_eq!(to(&mut budget, 0), Level::Plenty);
    assert_eq!(budget.held().0, 0);
}

#[test]
fn what_a_session_has_of_its_own_does_not_count() {
    let mut budget = budget();
    for holder in ['a', 'b', 'c'] {
        budget.enter(&[holder]);
        budget.note(&[holder], 0, OWN);
    }
    assert_eq!(budget.held().0, 0);
    for holder in ['a', 'b', 'c'] {
        budget.leave(&[holder], OWN);
    }
    assert!(budget.holders.is_empty());
}

#[test]
fn one_holder_has_half_at_most_and_the_others_do_not_notice() {
    let mut budget = budget();
    for holders in [['k', 'n'], ['l', 'n'], ['x', 'o']] {
        budget.enter(&holders);
    }
    assert_eq!(budget.note(&['k', 'n'], 0, OWN + 38 * MIB), Level::Short);
    assert_eq!(budget.note(&['l', 'n'], 0, OWN + 12 * MIB), Level::Full, "its network is n");
    assert_eq!(budget.admit(&['x', 'n']).unwrap_err().word(), "memory_share");
    assert_eq!(budget.admit(&['l', 'o']), Ok(()));
    assert_eq!(budget.note(&['x', 'o'], 0, OWN + MIB), Level::Plenty);
    assert_eq!(budget.networks, 2);
    budget.leave(&['k', 'n'], OWN + 38 * MIB);
    assert_eq!(budget.admit(&['x', 'n']), Ok(()));
}

#[test]
fn one_holder_has_three_quarters_of_the_sessions_at_most() {
    let mut budget = budget();
    for _ in 0..75 {
        assert_eq!(budget.admit(&['k']), Ok(()));
        budget.enter(&['k']);
    }
    assert_eq!(budget.admit(&['k']), Err(Spent::Sessions(75)));
    assert!(!budget.is_crowded());
    assert_eq!(budget.admit(&['l']), Ok(()));
    budget.leave(&['k'], 0);
    assert_eq!(budget.admit(&['k']), Ok(()));
}

/// Three who flood with a key for each session, and one who comes late.
#[test]
fn when_it_is_crowded_nobody_has_more_than_a_fair_share() {
    let mut budget = budget();
    let mut key = 0_u8;
    let mut flood = |budget: &mut Budget<char>| {
        for round in 0..100 {
            let holders = [char::from(200 + key % 50), ['m', 'n', 'o'][round % 3]];
            key += 1;
            if budget.admit(&holders).is_ok() {
                budget.enter(&holders);
            }
        }
    };
    flood(&mut budget);
    assert_eq!(budget.taken, 76, "beyond three quarters each has a fourth at most");
    assert!(budget.is_crowded());
    for _ in 0..20 {
        assert_eq!(budget.admit(&['k', 'h']), Ok(()));
        budget.enter(&['k', 'h']);
    }
    assert!(budget.admit(&['k', 'h']).is_err(), "with four networks, a fifth each");
    assert_eq!(budget.admit(&['z', 'i']), Ok(()), "and there is room for another one");
}

#[test]
fn when_memory_is_short_it_is_spent_for_those_who_have_more_than_a_fair_share() {
    let mut budget = budget();
    for (network, mib) in [('m', 40), ('n', 35)] {
        budget.enter(&[network]);
        budget.note(&[network], 0, OWN + mib * MIB);
    }
    budget.enter(&['h']);
    assert_eq!(budget.level(), Level::Short);
    assert_eq!(budget.level_of(&['m']), Level::Full);
    assert_eq!(budget.note(&['h'], 0, OWN + 10 * MIB), Level::Short);
}

#[test]
fn nothing_new_is_taken_when_it_is_spent() {
    let mut budget = budget();
    for (holder, mib) in [('a', 49), ('b', 49), ('c', 2)] {
        assert_eq!(budget.admit(&[holder]), Ok(()));
        budget.enter(&[holder]);
        budget.note(&[holder], 0, OWN + mib * MIB);
    }
    let spent = budget.admit(&['d']).unwrap_err();
    assert_eq!(spent.word(), "memory");
    assert_eq!(spent.to_string(), "sessions hold 100 of 100 MiB");
}

#[test]
fn a_session_holds_less_when_memory_is_short() {
    let most = 8 << 20;
    let shares = [Level::Plenty, Level::Short, Level::Full].map(|level| level.share_of(most));
    assert_eq!(shares, [8 << 20, 256 << 10, 64 << 10]);
    assert_eq!(Level::Full.share_of(100), 100);
}

#[test]
fn the_oldest_that_can_be_had_again_are_given_up_until_half_is_free() {
    let mut budget = budget();
    let idle = |id: u8, mib: u64, since: u64, again| Idle {
        id,
        cost: OWN + mib * MIB,
        since: Instant(since * 1_000_000),
        again,
        class: Class::Temporary,
    };
    let all = vec![
        idle(1, 20, 7, true),
        idle(2, 20, 1, false),
        idle(3, 8, 5, true),
        idle(4, 8, 3, true),
        idle(5, 8, 98, true),
        idle(6, 0, 2, true),
    ];
    let now = Instant(100_000_000);
    for one in &all {
        budget.note(&[], 0, one.cost);
    }
    assert!(budget.given_up(now, all.clone()).is_empty(), "64 of 100 are plenty left");
    budget.note(&[], 0, OWN + 11 * MIB);
    assert_eq!(budget.level(), Level::Short);
    // 25 MiB are to go: what is unique, what has just lost its link, and what holds nothing stays.
    assert_eq!(budget.given_up(now, all), [4, 3, 1]);
}

#[test]
fn when_it_is_crowded_places_are_given_up_whatever_they_hold() {
    let mut budget = budget();
    (0..75).for_each(|_| budget.enter(&[]));
    let since = |id: u64| Instant(id * 1_000);
    let idle =
        |id| Idle { id, cost: 0, since: since(id), again: id % 2 == 0, class: Class::Temporary };
    let all: Vec<_> = (0..75).map(idle).collect();
    let now = Instant(100_000_000);
    assert!(budget.given_up(now, all.clone()).is_empty());
    budget.enter(&[]);
    let gone = budget.given_up(now, all);
    assert_eq!(gone, (0..26).map(|number| number * 2).collect::<Vec<_>>());
}

fn places(sessions: (usize, bool), links: (usize, bool)) -> [Seats; 2] {
    [
        Seats { key: "limits.sessions_max", wanted: sessions, each: 3, share: 2 },
        Seats { key: "limits.links_max", wanted: links, each: 1, share: 1 },
    ]
}

#[test]
fn what_the_configuration_leaves_open_is_made_to_fit_the_descriptors() {
    let usual = places((10_000, false), (40_000, false));
    assert_eq!(fit(1 << 20, usual), Ok([10_000, 40_000]));
    assert_eq!(fit(20_000, usual), Ok([4_433, 6_650]));
    let [sessions, links] = fit(256, usual).unwrap();
    assert_eq!((sessions, links), (46, 69));
    assert!(sessions as u64 * 3 + links as u64 + OWN_DESCRIPTORS <= 256);
    assert_eq!(fit(20_000, places((6_000, true), (40_000, false))), Ok([6_000, 1_952]));
}

#[test]
fn what_it_says_and_cannot_have_is_refused_by_its_key() {
    let error = fit(1_024, places((5_000, true), (40_000, false))).unwrap_err();
    assert_eq!(error.key, "limits.sessions_max");
    assert!(error.to_string().starts_with("15049 descriptors would be needed, and"), "{error}");
    assert!(fit(40, places((1, false), (1, false))).is_err());
}

/// A session of this class that has been without a link since that second.
fn of(id: u8, class: Class, since: u64, again: bool) -> Idle<u8> {
    Idle { id, cost: OWN + MIB, since: Instant(since * 1_000_000), again, class }
}

fn who_goes_first_is_said_by_the_classes() {
    use Class::{Critical, Suspended, Temporary};
    let now = Instant(100_000_000);
    let mut budget = Budget::<char>::new(100 * MIB + 8 * OWN, 8);
    (0..8).for_each(|_| budget.enter(&[]));
    let all = [
        of(1, Suspended, 1, true),
        of(2, Critical, 2, true),
        of(3, Temporary, 30, true),
        of(4, Temporary, 20, true),
        of(5, Suspended, 3, true),
        of(6, Temporary, 10, false),
    ];
    assert_eq!(budget.given_up(now, all.to_vec()), [4, 3, 1, 5], "four of eight are wanted");
    for (left, goes) in [
        (&all[..], Some(4)),
        (&[all[5], all[2]], Some(3)),
        (&[all[5], all[0]], Some(6)),
        (&[all[0], all[1], all[4]], None),
        (&[of(7, Temporary, 98, true)], None),
        (&[], None),
    ] {
        let found = makes_room(now, left.iter().copied()).map(|idle| idle.id);
        assert_eq!(found, goes, "of {left:?}");
    }
}

/// R74.
#[test]
fn classes_are_heeded_when_something_must_go() {
    who_goes_first_is_said_by_the_classes();
}

#[cfg(feature = "model")]
#[test]
fn a_server_that_ignores_classes_is_caught() {
    use crate::mutant::Mutant;
    for mutant in Mutant::PRESSURE {
        Mutant::set(Some(*mutant));
        let kept = std::panic::catch_unwind(who_goes_first_is_said_by_the_classes);
        Mutant::set(None);
        assert!(kept.is_err(), "{}", mutant.mistake());
    }
}
