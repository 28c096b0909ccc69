//! Seeded random runs: whatever happens, what was delivered is a prefix of what was sent, and in
//! the end both have everything.

use std::time::Duration;

use super::fixture::*;
use crate::handle::Handle;
use crate::seam::Verifier;
use crate::session::{Input, Limits, LinkId, TicketOffer};
use crate::state::State;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

fn random_limits(random: &mut Random) -> Limits {
    if random.next(2) == 0 {
        return tiny();
    }
    Limits {
        send_buffer_max: 1 + random.next(40) as usize,
        receive_buffer_max: 1 + random.next(40) as usize,
        ack_every: 1 + random.next(20) as usize,
        checkpoint_every: 1 + random.next(30) as usize,
        chunk: 1 + random.next(9) as usize,
        fill_max: 1 + random.next(30) as usize,
        data_max: 1 + random.next(9) as usize,
        ..Limits::default()
    }
}

fn soak(seed: u64) {
    let mut random = Random(seed);
    let mut pair = Pair::with(random_limits(&mut random));
    pair.server_limits = random_limits(&mut random);
    let (up, down) = (stream(seed, 200), stream(seed + 1, 200));
    pair.broker.write(&up);
    pair.until(|pair| pair.server.is_some());
    pair.server().write(&down);
    for _ in 0..60 {
        match random.next(15) {
            0 => pair.cut(),
            1 => pair.silence(),
            2 => pair.broker_input(Input::PathChanged),
            3 => pair.broker_input(Input::Retry),
            4 => pair.broker_input(Input::Suspend { lasts: None }),
            5 => pair.server_input(Input::Suspend { lasts: None }),
            6 => pair.broker_input(Input::Resume),
            7 => pair.server_input(Input::Resume),
            8 => pair.path = !pair.path,
            9 => {
                if let Some(link) = pair.broker.session.link() {
                    pair.broker_input(Input::LinkLost { link });
                }
            }
            10 => {
                let link = pair.server().session.link().unwrap_or(LinkId(0));
                pair.server_input(Input::LinkLost { link });
            }
            11 => pair.server().appetite = random.next(50) as usize,
            12 => pair.broker.appetite = random.next(50) as usize,
            13 => {
                pair.restart_broker(false, random.next(2) == 0);
            }
            _ => pair.fates.push_back(random.next(20) as usize),
        }
        let pause = [1, 7, 30, 200, 4000][random.next(5) as usize];
        pair.run(Duration::from_millis(pause));
        assert!(up.starts_with(&pair.server().got), "seed {seed}");
        assert!(down.starts_with(&pair.broker.got), "seed {seed}");
        let (acked, pending) = pair.broker.session.cuts().offer();
        let shared = pair.server().session.cuts().common(acked, pending);
        assert!(shared.is_some() || pair.broker.session.state() == State::Closed, "seed {seed}");
    }
    pair.path = true;
    pair.broker.appetite = usize::MAX;
    pair.server().appetite = usize::MAX;
    pair.broker.fin_at_end = true;
    pair.server().fin_at_end = true;
    pair.broker_input(Input::Resume);
    pair.server_input(Input::Resume);
    pair.assert_clean(&up, &down);
    assert!(pair.broker.errors.is_empty() && pair.server().errors.is_empty(), "seed {seed}");
}

/// How many seeds: 500, or as many as STP_SOAK says.
fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("STP_SOAK").ok().and_then(|count| count.parse().ok()).unwrap_or(500)
}

#[test]
fn random_lives_lose_no_byte() {
    seeds().for_each(soak);
}

/// A replayable service that answers `down` from any position, on servers that die.
fn dying_servers(seed: u64) {
    let mut random = Random(seed);
    let mut pair = Pair::with(random_limits(&mut random));
    pair.replayable = true;
    let (up, down) = (stream(seed, 150), stream(seed + 1, 150));
    pair.broker.write(&up);
    let mut written = usize::MAX;
    let mut start = 0;
    let mut deaths = 0;
    for round in 0..1500 {
        pair.server_limits = random_limits(&mut random);
        if pair.server.is_some() && written == usize::MAX {
            let at = pair.server().session.start;
            (start, written) = (at.up as usize, at.down as usize);
        }
        if pair.server.is_some() && written < down.len() {
            let count = (random.next(12) as usize).min(down.len() - written);
            if random.next(3) == 0 || written == 0 {
                let session = &mut pair.server().session;
                let positions = session.positions();
                session.offer_ticket(TicketOffer {
                    at: positions.end,
                    covers: positions.received,
                    seam_from: 20,
                    transferable: true,
                    ticket: vec![1; 1 + random.next(20) as usize],
                });
            }
            pair.server().write(&down[written..written + count]);
            written += count;
            // The observer sees a byte before the next ticket's place is known.
            pair.run(Duration::from_millis(random.next(3)));
            if pair.server.as_ref().is_some_and(|server| !server.source.is_empty()) {
                pair.run(Duration::from_millis(500));
            }
        }
        match random.next(if round < 300 { 12 } else { 500 }) {
            0 => pair.cut(),
            1 => pair.silence(),
            2 => pair.broker_input(Input::PathChanged),
            3 if deaths < 4 && pair.server.is_some() => {
                deaths += 1;
                pair.server = None;
                pair.cut();
                pair.server_handle = Handle([deaths; 16]);
                written = usize::MAX;
            }
            4 => pair.fates.push_back(random.next(20) as usize),
            _ => (),
        }
        pair.run(Duration::from_millis([1, 30, 200][random.next(3) as usize]));
        if pair.broker.session.state() == State::ReadyResume && random.next(3) == 0 {
            pair.broker_input(Input::Retry);
            pair.run(Duration::from_millis(100));
        }
        assert!(down.starts_with(&pair.broker.got), "seed {seed}");
        if let Some(server) = &pair.server {
            assert!(up[start..].starts_with(&server.got) || written == usize::MAX, "seed {seed}");
        }
        assert!(pair.broker.errors.is_empty(), "seed {seed}: {:?}", pair.broker.errors);
        if pair.broker.got.len() == down.len() {
            break;
        }
    }
    assert!(pair.broker.got == down, "seed {seed}");
    if let Some(proof) = pair.broker.session.transfer_request().seam {
        let mut verifier = Verifier::new(proof);
        assert_eq!(verifier.push(&down[20..]), Ok(130), "seed {seed}");
        assert_eq!(verifier.finish(), Ok(()), "seed {seed}");
    }
}

#[test]
fn random_deaths_of_servers_lose_no_byte() {
    seeds().for_each(dying_servers);
}
