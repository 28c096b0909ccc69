//! The machine with a driver that does as it says, in pieces of any size.

mod chunks;
mod ranges;

use core::time::Duration;
use std::io::IoSlice;

use super::*;
use crate::replay::Policy;
use crate::replay::http::exchange::Exchange;
use crate::replay::http::plan::Plan;
use crate::replay::http::splice::Joined;
use crate::time::Instant;

const REQUEST: &str = "GET /f HTTP/1.1\r\nHost: x\r\n\r\n";
const HEAD: &str = "HTTP/1.1 200 OK\r\nETag: \"a\"\r\nContent-Length: 1000\r\n\r\n";

/// A driver whose session always has room.
#[derive(Debug)]
struct Bed {
    machine: Machine,
    now: Instant,
    /// What went to the service and to the app.
    sent: Vec<u8>,
    got: Vec<u8>,
    offers: Vec<Offer>,
    told: Vec<String>,
    ends: Vec<How>,
    actions: Vec<Action>,
    /// What the next answer that is joined says of its length.
    left: Option<u64>,
}

impl Bed {
    fn new() -> Self {
        Self::at(Beginning::fresh(0, 0))
    }

    fn at(beginning: Beginning) -> Self {
        Self {
            machine: Machine::new(Policy::Prefix, true, beginning),
            now: Instant(1_000_000),
            sent: Vec::new(),
            got: Vec::new(),
            offers: Vec::new(),
            told: Vec::new(),
            ends: Vec::new(),
            actions: Vec::new(),
            left: None,
        }
    }

    fn app(&mut self, bytes: &[u8]) -> usize {
        let sent = &mut self.sent;
        let taken = self.machine.take(self.now, &[IoSlice::new(bytes)], |slices| {
            slices.iter().for_each(|slice| sent.extend_from_slice(slice));
            Ok(slices.iter().map(|slice| slice.len()).sum())
        });
        self.turn();
        taken
    }

    /// Does what the machine says until it waits.
    fn turn(&mut self) {
        let sent = &mut self.sent;
        self.machine.flush(|slices| {
            slices.iter().for_each(|slice| sent.extend_from_slice(slice));
            Ok(slices.iter().map(|slice| slice.len()).sum())
        });
        loop {
            match self.machine.step() {
                Next::Give => {
                    let out = self.machine.out().to_vec();
                    self.machine.given(out.len());
                    self.got.extend(out);
                }
                Next::Ticket(offer) => {
                    if offer.exchange.is_ok() {
                        assert_eq!(offer.at, self.got.len() as u64, "in its place");
                        assert_eq!(self.machine.offered(self.now, true), None);
                    }
                    self.offers.push(offer);
                }
                Next::Leave(text) => {
                    self.told.push(text);
                    self.machine.asked_to_be_left(self.now, true);
                }
                Next::End(how) => {
                    self.ends.push(how);
                    self.machine.told_the_end();
                }
                Next::Read | Next::Pass(_) | Next::Wait => break,
            }
        }
        self.actions.extend(self.machine.tick(self.now));
    }

    /// The service sends this, in pieces.
    fn service(&mut self, mut bytes: &[u8], piece: usize) {
        while !bytes.is_empty() {
            let most = match self.machine.step() {
                Next::Read => bytes.len(),
                Next::Pass(most) => usize::try_from(most).unwrap_or(usize::MAX),
                other => panic!("{other:?} with {} bytes to come", bytes.len()),
            };
            let (now, later) = bytes.split_at(most.min(piece).min(bytes.len()));
            if matches!(self.machine.step(), Next::Read) {
                self.machine.feed(now);
            } else {
                self.machine.passed(now);
                self.got.extend_from_slice(now);
            }
            bytes = later;
            self.turn();
        }
    }

    fn closes(&mut self) {
        self.machine.service_ended(self.now, Ended::Closed);
        self.turn();
    }

    fn later(&mut self, time: Duration) {
        self.now += time;
        self.turn();
    }

    /// The next action, as soon as it is due.
    fn action(&mut self) -> Action {
        for _ in 0..10 {
            if let Some(action) = self.actions.pop() {
                return action;
            }
            self.now = self.machine.due().expect("something is due");
            self.turn();
        }
        panic!("nothing is done");
    }

    fn join(&mut self, ahead: &[u8]) {
        self.machine.joined(Joined::plain(ahead, self.left));
        self.turn();
    }
}

fn body(from: usize, to: usize) -> Vec<u8> {
    (from..to).map(|at| (at % 251) as u8).collect()
}

/// A session that has the head and the first 300 bytes of a body of 1000.
fn cut_at_300() -> Bed {
    let mut bed = Bed::new();
    assert_eq!(bed.app(REQUEST.as_bytes()), REQUEST.len());
    assert_eq!(bed.sent, REQUEST.as_bytes());
    bed.service(HEAD.as_bytes(), 7);
    bed.service(&body(0, 300), 128);
    bed.closes();
    bed
}

#[test]
fn an_exchange_passes_unchanged_with_its_ticket_before_the_head() {
    for piece in [1, 10, 5000] {
        let mut bed = Bed::new();
        bed.app(REQUEST.as_bytes());
        bed.service(HEAD.as_bytes(), piece);
        bed.service(&body(0, 1000), piece);
        assert_eq!(bed.got, [HEAD.as_bytes(), &body(0, 1000)].concat());
        let offer = &bed.offers[0];
        assert!(matches!(offer.exchange, Ok(Exchange::Response { head_at: 0, .. })));
        assert_eq!((offer.at, offer.covers), (0, REQUEST.len() as u64));
        assert_eq!(bed.offers.len(), 1, "the response had its ticket");
        assert!(bed.ends.is_empty() && bed.actions.is_empty());
    }
}

#[test]
fn a_cut_response_goes_on_where_it_was_cut() {
    let mut bed = cut_at_300();
    let Action::Rejoin(ask) = bed.action() else { panic!("the rest is asked for") };
    assert_eq!(ask.request, REQUEST.as_bytes());
    bed.join(&body(300, 400));
    bed.service(&body(400, 1000), 100);
    assert_eq!(bed.got, [HEAD.as_bytes(), &body(0, 1000)].concat());
    assert!(bed.ends.is_empty() && bed.told.is_empty());
    assert_eq!(bed.app(REQUEST.as_bytes()), REQUEST.len());
    assert_eq!(bed.sent.len(), 2 * REQUEST.len(), "the stream carries another request");
}

#[test]
fn a_service_that_gives_no_more_is_left_or_else_ends_short() {
    let mut bed = cut_at_300();
    let mut asked = 0;
    while bed.told.is_empty() {
        let Action::Rejoin(_) = bed.action() else { panic!("the rest is asked for") };
        asked += 1;
        bed.join(&[]);
        bed.closes();
    }
    assert_eq!(asked, 3);
    assert!(bed.ends.is_empty(), "the broker decides first");
    assert!(bed.told[0].contains(&format!("at byte {}", HEAD.len() + 300)), "{}", bed.told[0]);
    bed.machine.stays(bed.now);
    bed.turn();
    assert_eq!(bed.ends, [How::Fin]);
    assert_eq!(bed.got.len(), HEAD.len() + 300, "all that came is given");
    assert!(bed.offers.last().unwrap().exchange.is_err(), "nobody may say more behind the end");
}

#[test]
fn a_broker_that_does_not_answer_is_waited_for_only_while_there_is_a_link() {
    let mut bed = cut_at_300();
    bed.action();
    bed.machine.failed(bed.now, Failure::Refused("410".to_owned()));
    bed.turn();
    assert_eq!(bed.told.len(), 1);
    bed.machine.unlinked();
    bed.later(Duration::from_secs(3600));
    assert!(bed.ends.is_empty());
    bed.machine.linked();
    bed.turn();
    assert_eq!(bed.told.len(), 2);
    bed.now = bed.machine.due().expect("the answer is waited for");
    bed.turn();
    bed.turn();
    assert_eq!(bed.ends, [How::Fin]);
}

#[test]
fn a_broker_is_waited_for_while_its_app_takes_what_the_service_had_given() {
    let mut bed = cut_at_300();
    bed.action();
    bed.machine.failed(bed.now, Failure::Refused("410".to_owned()));
    bed.turn();
    for _ in 0..10 {
        bed.later(Duration::from_secs(15));
        bed.machine.acknowledged(bed.now);
        bed.turn();
    }
    assert!(bed.ends.is_empty(), "there is more to take");
    bed.later(Duration::from_secs(21));
    bed.turn();
    assert_eq!(bed.ends, [How::Fin]);
}

#[test]
fn a_busy_service_is_asked_three_times_in_all() {
    let mut bed = cut_at_300();
    let mut asked = 0;
    for _ in 0..3 {
        let Action::Rejoin(_) = bed.action() else { panic!("the rest is asked for") };
        asked += 1;
        bed.machine.failed(bed.now, Failure::Busy("503".to_owned()));
        bed.turn();
    }
    assert_eq!((asked, bed.told.len()), (3, 1));
    bed.machine.stays(bed.now);
    bed.turn();
    assert_eq!(bed.ends, [How::Fin]);
}

#[test]
fn a_service_that_is_down_is_left_after_a_second_and_waited_for_twenty() {
    let mut bed = cut_at_300();
    let began = bed.now;
    let mut left_after = None;
    while bed.ends.is_empty() {
        let Action::Rejoin(_) = bed.action() else { panic!("the rest is asked for") };
        bed.machine.failed(bed.now, Failure::Down("refused".to_owned()));
        bed.turn();
        if !bed.told.is_empty() && left_after.is_none() {
            left_after = Some(bed.now.since(began));
            bed.machine.stays(bed.now);
        }
    }
    bed.turn();
    assert_eq!(bed.ends, [How::Fin]);
    let (left_after, all) = (left_after.unwrap(), bed.now.since(began));
    assert!((1..3).contains(&left_after.as_secs()), "{left_after:?}");
    assert!((20..23).contains(&all.as_secs()), "{all:?}");
}

#[test]
fn after_the_app_has_ended_its_side_a_cut_is_what_plain_tcp_shows() {
    let mut bed = Bed::new();
    bed.app(REQUEST.as_bytes());
    bed.service(HEAD.as_bytes(), 100);
    bed.machine.app_ended(bed.now);
    bed.service(&body(0, 300), 100);
    bed.closes();
    assert_eq!(bed.ends, [How::Fin]);
    assert!(bed.actions.is_empty() && bed.machine.due().is_none());
}

#[test]
fn what_may_have_been_executed_elsewhere_is_not_sent_again() {
    let post = "POST /f HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi";
    let mut bed = Bed::at(Beginning::fresh(0, 0).guarded(post.len() as u64));
    bed.app(post.as_bytes());
    assert!(bed.sent.is_empty() && matches!(bed.ends[..], [How::Failed(_)]), "{:?}", bed.ends);
    let mut bed = Bed::at(Beginning::fresh(0, 0).guarded(REQUEST.len() as u64));
    bed.app(REQUEST.as_bytes());
    assert_eq!(bed.sent, REQUEST.as_bytes());
}

#[test]
fn a_request_that_may_not_be_repeated_needs_not_be_kept() {
    let mut bed = Bed::new();
    let post = "POST /f HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi";
    bed.app(post.as_bytes());
    let (covers, offer) = bed.machine.unrepeatable().expect("it may not be repeated");
    assert_eq!(covers, post.len() as u64);
    let why = offer.expect("said once").exchange.expect_err("it cannot be continued");
    assert!(why.starts_with("POST, "), "{why}");
    assert_eq!(bed.machine.unrepeatable(), Some((covers, None)));
}

#[test]
fn an_idle_service_that_closed_is_opened_again_for_the_next_request() {
    let mut bed = Bed::new();
    bed.app(REQUEST.as_bytes());
    bed.service(HEAD.as_bytes(), 100);
    bed.service(&body(0, 1000), 1000);
    // It closes at the moment the next request reaches it.
    bed.app(REQUEST.as_bytes());
    bed.closes();
    let Action::Open = bed.action() else { panic!("a stream is opened") };
    bed.sent.clear();
    bed.machine.opened();
    bed.turn();
    assert_eq!(bed.sent, REQUEST.as_bytes());
    // A second time it has closed without an answer.
    bed.closes();
    assert_eq!(bed.ends, [How::Fin]);
}

#[test]
fn only_the_path_of_the_ticket_may_be_asked_for() {
    for (path, allowed) in [("/f", true), ("/g", false)] {
        let mut bed = Bed::new();
        bed.machine.allow_only(crate::scope::Scope::Path(path.into()));
        bed.app(REQUEST.as_bytes());
        assert_eq!(bed.sent.is_empty(), !allowed);
        assert_eq!(bed.ends.is_empty(), allowed);
    }
}

#[test]
fn a_body_that_ends_with_its_stream_goes_on_after_a_reset_and_never_ends_by_one() {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let begun = || {
        let mut bed = Bed::new();
        bed.app(REQUEST.as_bytes());
        bed.service(head.as_bytes(), 100);
        bed.service(&body(0, 300), 100);
        assert!(bed.offers[0].exchange.is_ok());
        bed
    };
    let mut bed = begun();
    bed.closes();
    assert_eq!(bed.ends, [How::Fin], "the end of the stream is the end of the body");
    // The rest comes with a length, or without.
    for left in [Some(100), None] {
        let mut bed = begun();
        bed.machine.service_ended(bed.now, Ended::Broken("reset".to_owned()));
        bed.turn();
        let Action::Rejoin(_) = bed.action() else { panic!("the rest is asked for") };
        bed.left = left;
        bed.join(&body(300, 350));
        bed.service(&body(350, 400), 30);
        if left.is_none() {
            assert!(bed.ends.is_empty());
            bed.closes();
        }
        assert_eq!(bed.ends, [How::Fin]);
        assert_eq!(bed.got, [head.as_bytes(), &body(0, 400)].concat());
    }
    let mut bed = begun();
    bed.machine.service_ended(bed.now, Ended::Broken("reset".to_owned()));
    bed.turn();
    bed.action();
    bed.machine.failed(bed.now, Failure::Refused("404".to_owned()));
    bed.turn();
    bed.machine.stays(bed.now);
    bed.turn();
    assert!(matches!(bed.ends[..], [How::Failed(_)]), "{:?}", bed.ends);
}

#[test]
fn behind_interim_heads_a_request_is_asked_again() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </s.css>\r\n\r\n";
    let mut bed = Bed::new();
    bed.app(REQUEST.as_bytes());
    bed.service(hints.as_bytes(), 9);
    let offer = bed.offers[0].clone();
    assert_eq!((offer.at, offer.covers), (0, 0), "the request is kept");
    let exchange = offer.exchange.expect("it can be continued");
    for have in [0, 5, hints.len()] {
        let plan = Plan::make(&exchange, 0, have as u64, None, Policy::Prefix);
        let Ok(Plan::Complete { head_rest, close: false }) = plan else { panic!("{plan:?}") };
        assert_eq!(head_rest, hints.as_bytes()[have..]);
    }
    assert!(Plan::make(&exchange, 0, hints.len() as u64 + 1, None, Policy::Prefix).is_err());
    bed.closes();
    bed.sent.clear();
    let Action::Open = bed.action() else { panic!("it is asked again") };
    bed.machine.opened();
    bed.turn();
    assert_eq!(bed.sent, REQUEST.as_bytes());
    bed.service(HEAD.as_bytes(), 100);
    bed.service(&body(0, 1000), 1000);
    assert_eq!(bed.got, [hints.as_bytes(), HEAD.as_bytes(), &body(0, 1000)].concat());
}
