//! A peer that breaks the rules: that session is reset, the rule and the blame are named.

use std::time::Duration;

use super::fixture::*;
use crate::cut::Id;
use crate::session::{ClosedWhy, Limits, LinkId, PeerMisbehaved, code};
use crate::wire::{
    Checkpoint, Close, ConnectOk, Data, Frame, Report, ResumeFrame, TicketFrame, WireError,
};

/// Sends `frame` to the server as if from the broker.
fn misbehave(encode: impl Fn(&mut Vec<u8>)) -> PeerMisbehaved {
    let mut pair = Pair::connected(Limits { receive_buffer_max: 1000, ..Limits::default() });
    pair.server().write(b"0123456789");
    pair.run(Duration::from_secs(1));
    let mut record = Vec::new();
    encode(&mut record);
    let now = pair.now;
    let server = &mut pair.server().session;
    let error = server.handle_record(now, LinkId(1), &record, &mut Vec::new()).unwrap_err();
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.server().closed(), Some(ClosedWhy::ResetHere { code: code::PROTOCOL }));
    // It may have seen what the server answered before; it is reset in any case.
    assert!(pair.broker.closed().is_some());
    let text = error.to_string();
    assert!(text.starts_with("peer "), "the blame is named: {text}");
    error
}

/// R10.
#[test]
fn data_at_the_wrong_position() {
    let bytes = b"xyz";
    for position in [1, u64::MAX - 9] {
        let error = misbehave(|out| Data { position, bytes }.encode(out));
        assert_eq!(error, PeerMisbehaved::WrongPosition { position, expected: 0 });
    }
}

/// R10, R32.
#[test]
fn data_beyond_the_window() {
    let error = misbehave(|out| Data { position: 0, bytes: &[0; 1001] }.encode(out));
    assert_eq!(error, PeerMisbehaved::WindowExceeded { end: 1001, limit: 1000 });
}

/// R10, R50.
#[test]
fn data_after_the_end() {
    let error = misbehave(|out| {
        Close::Fin { position: 0 }.encode(out);
        Data { position: 0, bytes: b"x" }.encode(out);
    });
    assert_eq!(error, PeerMisbehaved::DataAfterFin { position: 0 });
    let error = misbehave(|out| Close::Fin { position: 3 }.encode(out));
    assert_eq!(error, PeerMisbehaved::WrongFin { position: 3, expected: 0 });
}

/// R11.
#[test]
fn acknowledging_what_was_not_sent() {
    let report = Report { received: 11, acked: 0, limit: 0 };
    let error = misbehave(|out| Checkpoint::Ack { echo: false, report }.encode(out));
    assert_eq!(error, PeerMisbehaved::AckedUnsent { position: 11, sent: 10 });
    let error = misbehave(|out| Close::Ack { position: 10 }.encode(out));
    assert_eq!(error, PeerMisbehaved::AckedUnsent { position: 10, sent: 10 });
}

/// R41, R42, R43, R44.
#[test]
fn checkpoints_out_of_order() {
    let report = Report { received: 10, acked: 10, limit: 1000 };
    let id = Id::new(1).unwrap();
    let error = misbehave(|out| Checkpoint::Confirm { id, report }.encode(out));
    assert!(matches!(error, PeerMisbehaved::Cut(_)));
    let error = misbehave(|out| Checkpoint::Answer { id, sent: 0, report }.encode(out));
    assert!(matches!(error, PeerMisbehaved::Cut(_)));
    let error = misbehave(|out| Checkpoint::Request { id, sent: 0, report }.encode(out));
    assert!(matches!(error, PeerMisbehaved::Cut(_)));
    let error = misbehave(|out| Checkpoint::Request { id, sent: 5, report }.encode(out));
    assert_eq!(error, PeerMisbehaved::WrongCheckpoint { position: 5, received: 0 });
    let id = Id::new(2).unwrap();
    let error = misbehave(|out| {
        Checkpoint::Request { id, sent: 0, report }.encode(out);
        Checkpoint::Request { id: id.next(), sent: 0, report }.encode(out);
    });
    assert!(matches!(error, PeerMisbehaved::Cut(_)));
}

/// R2, R5.
#[test]
fn frames_that_have_no_place() {
    let zero = Default::default();
    let frames = [
        Frame::ConnectOk(ConnectOk {
            initiator: SH_A,
            acceptor: SH_B,
            epoch: 1,
            features: 0,
            up: 0,
            down: 0,
            limit: 0,
            hold: zero,
            tombstone: zero,
            server: "",
            upkeep: None,
        }),
        Frame::Resume(ResumeFrame {
            initiator: SH_A,
            acceptor: SH_B,
            epoch: 99,
            report: Report::default(),
            fin_received: false,
            acked: crate::cut::Cuts::start(0, 0).acked,
            pending: None,
        }),
        Frame::Ticket(TicketFrame {
            at: 0,
            covers: 0,
            seam_from: 0,
            transferable: false,
            ticket: b"",
        }),
        Frame::Close(Close::Done),
    ];
    for frame in frames {
        let error = misbehave(|out| frame.encode(out));
        assert!(matches!(error, PeerMisbehaved::Unexpected(_)), "{error}");
    }
}

/// R4, R5.
#[test]
fn bytes_that_are_no_frames() {
    let error = misbehave(|out| out.extend([0xff; 30]));
    assert!(matches!(error, PeerMisbehaved::Wire(WireError::CutShort { .. })), "{error}");
    let error = misbehave(|_| ());
    assert_eq!(error, PeerMisbehaved::Wire(WireError::Empty));
}

#[test]
fn good_frames_before_the_bad_one_do_not_count() {
    let mut pair = Pair::connected(Limits::default());
    let mut record = Vec::new();
    Data { position: 0, bytes: b"good" }.encode(&mut record);
    record.extend([9, 9, 0, 0]);
    let now = pair.now;
    let mut arrived = Vec::new();
    let server = &mut pair.server().session;
    assert!(server.handle_record(now, LinkId(1), &record, &mut arrived).is_err());
    assert_eq!(server.deliver(now, &arrived, |_| panic!("nothing is delivered")).unwrap(), 0);
}

/// R60.
#[test]
fn a_ticket_ahead_of_the_streams() {
    for (at, covers) in [(5, 0), (0, 5)] {
        let mut pair = Pair::connected(Limits::default());
        let frame = TicketFrame { at, covers, seam_from: 0, transferable: true, ticket: b"t" };
        let mut record = Vec::new();
        frame.encode(&mut record);
        let now = pair.now;
        let broker = &mut pair.broker.session;
        let error = broker.handle_record(now, LinkId(1), &record, &mut Vec::new()).unwrap_err();
        assert_eq!(error, PeerMisbehaved::WrongTicket { position: 5, reached: 0 });
    }
}
