//! Every format: there and back, cut short, with junk behind, and random bytes (R2-R5).

use core::time::Duration;

use super::*;
use crate::class::Class;
use crate::cut::{Cut, Id};
use crate::handle::Handle;
use crate::seam::SeamProof;

const A: Handle = Handle([0xaa; 16]);
const B: Handle = Handle([0xbb; 16]);

const UPKEEP: Upkeep = Upkeep { class: Class::Suspended, suspended: Duration::from_secs(8) };

fn report() -> Report {
    Report { received: 1 << 40, acked: 77, limit: u64::MAX }
}

fn proof() -> SeamProof {
    SeamProof { from: 5, until: 1 << 33, block: 65_536, last: 9, partial: 8, chain: [7; 32] }
}

/// One or more of every format.
fn all(ticket: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = connects(ticket);
    frames.extend(announcements());
    frames.extend(running(ticket));
    frames.extend(refusals());
    frames
}

fn connects(ticket: &[u8]) -> Vec<Frame<'_>> {
    let request = TransferRequest {
        ticket: (!ticket.is_empty()).then_some(ticket),
        covers: 10,
        down: 20,
        up_from: 5,
        up_sent: 30,
        up_fin: true,
        epoch: 6,
        seam: Some(proof()),
    };
    let connect = Connect {
        version: VERSION,
        handle: A,
        epoch: 1,
        features: 0,
        window: 8 << 20,
        service: "www.mirror@example.org",
        endpoint: "grüße@example.org",
        mode: ConnectMode::New,
        grant: None,
        rate: None,
        hold: None,
        upkeep: None,
        belongs: Belongs::default(),
        destination: None,
    };
    vec![
        Frame::Connect(connect.clone()),
        Frame::Connect(Connect { mode: ConnectMode::Transfer(request), ..connect.clone() }),
        Frame::Connect(Connect { grant: Some(b"v4.local.grant"), ..connect.clone() }),
        Frame::Connect(Connect {
            grant: Some(b"v4.local.grant"),
            mode: ConnectMode::Transfer(TransferRequest::default()),
            ..connect.clone()
        }),
        Frame::Connect(Connect {
            mode: ConnectMode::Transfer(TransferRequest::default()),
            features: FEATURE_PASS,
            rate: Some(12_500_000),
            ..connect.clone()
        }),
        Frame::Connect(Connect {
            rate: Some(1),
            hold: Some(Duration::from_secs(72 * 3_600)),
            upkeep: Some(UPKEEP),
            belongs: Belongs { token: Some(B), peer: Some("[2001:db8::1]:21".parse().unwrap()) },
            ..connect.clone()
        }),
        Frame::Connect(Connect {
            destination: Some(Destination { host: "db.internal", port: 5432 }),
            ..connect.clone()
        }),
        Frame::Connect(Connect {
            mode: ConnectMode::Relay(RelayRequest { home: [5; 32], pass: b"v4.local.pass" }),
            ..connect.clone()
        }),
        Frame::Connect(Connect {
            mode: ConnectMode::Prepare(PrepareRequest { ticket: b"v4.local.t", down: 1 << 40 }),
            ..connect
        }),
    ]
}

fn announcements() -> [Frame<'static>; 4] {
    [
        Frame::Announce(Announce {
            at: 7,
            announcement: Announcement::Await { port: 40_001, token: A },
        }),
        Frame::Announce(Announce {
            at: 8,
            announcement: Announcement::Reach {
                address: "[2001:db8::7]:40002".parse().unwrap(),
                token: B,
            },
        }),
        Frame::Announce(Announce { at: 9, announcement: Announcement::Drop { token: A } }),
        Frame::Announce(Announce {
            at: 9,
            announcement: Announcement::Range { first: 40_000, last: 40_009, token: A },
        }),
    ]
}

/// Frames of a session that runs.
fn running(ticket: &[u8]) -> Vec<Frame<'_>> {
    let cut = Cut { id: Id::FIRST.next(), sent: 3, received: 4 };
    let id = Id::FIRST.next().next();
    let resume = ResumeFrame {
        initiator: A,
        acceptor: B,
        epoch: 3,
        report: report(),
        fin_received: true,
        acked: cut,
        pending: Some(cut),
    };
    vec![
        Frame::Pass(PassFrame { pass: b"v4.local.pass" }),
        Frame::Urgent(Urgent { position: 8 }),
        Frame::ConnectOk(ConnectOk {
            initiator: A,
            acceptor: B,
            epoch: 1,
            features: 2,
            up: 3,
            down: 4,
            limit: 5,
            hold: Duration::from_secs(6),
            tombstone: Duration::from_secs(7),
            server: "a",
            upkeep: Some(UPKEEP),
        }),
        Frame::Checkpoint(Checkpoint::Request { id, sent: 5, report: report() }),
        Frame::Checkpoint(Checkpoint::Answer { id, sent: 5, report: report() }),
        Frame::Checkpoint(Checkpoint::Confirm { id, report: report() }),
        Frame::Checkpoint(Checkpoint::Ack { echo: false, report: report() }),
        Frame::Checkpoint(Checkpoint::Ack { echo: true, report: report() }),
        Frame::Close(Close::Fin { position: 1 }),
        Frame::Close(Close::Ack { position: 2 }),
        Frame::Close(Close::Reset { code: 3 }),
        Frame::Close(Close::ResetFirst(ResetFrame { initiator: A, acceptor: B, code: 4 })),
        Frame::Close(Close::Done),
        Frame::Suspend(Suspend { epoch: 5, lasts: None }),
        Frame::Suspend(Suspend { epoch: 5, lasts: Some(Duration::from_secs(9)) }),
        Frame::Resume(resume),
        Frame::Resume(ResumeFrame { pending: None, fin_received: false, ..resume }),
        Frame::ResumeOk(ResumeOk {
            epoch: 1,
            report: report(),
            fin_received: false,
            base: cut,
            new: Cut { id, ..cut },
        }),
        Frame::Ticket(TicketFrame {
            at: 1,
            covers: 2,
            seam_from: 3,
            transferable: !ticket.is_empty(),
            ticket,
        }),
    ]
}

/// Every reason for not doing what was asked.
fn refusals() -> Vec<Frame<'static>> {
    let denials = [
        ResumeDenial::Suspended { left: Duration::ZERO },
        ResumeDenial::Suspended { left: Duration::from_secs(7) },
        ResumeDenial::Stale,
        ResumeDenial::Collision,
        ResumeDenial::Closed { received: 1 << 50 },
        ResumeDenial::Reset { code: 9 },
        ResumeDenial::Unknown,
        ResumeDenial::Mismatch,
        ResumeDenial::Moved,
    ];
    let reasons = [
        DenyReason::Overloaded,
        DenyReason::NotHere,
        DenyReason::Seam,
        DenyReason::Expired,
        DenyReason::Mismatch,
        DenyReason::Unsafe,
        DenyReason::Refused(111),
        DenyReason::Unauthorized,
        DenyReason::Version,
        DenyReason::Draining,
        DenyReason::Internal,
        DenyReason::Verifying,
    ];
    let wishes = [
        TransferReason::Congested,
        TransferReason::Overloaded,
        TransferReason::Draining,
        TransferReason::Operator,
        TransferReason::NobodyBetter,
        TransferReason::NotTransferable,
    ];
    let mut frames = Vec::new();
    frames.extend(denials.map(|why| Frame::ResumeDenied(ResumeDenied { seen: 4, why })));
    frames.extend(reasons.map(|why| {
        let retry_after = Duration::from_millis(1500);
        Frame::ConnectDenied(ConnectDenied { handle: A, why, retry_after, text: "no" })
    }));
    frames.extend(wishes.map(|reason| Frame::Transfer(Transfer { reason, text: "please" })));
    frames.extend(wishes.map(|reason| Frame::Stay(Transfer { reason, text: "" })));
    frames
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

/// R3, R4.
#[test]
fn every_frame_there_and_back() {
    for ticket in [&[][..], &[1; 100], &[2; TICKET_MAX]] {
        for frame in all(ticket) {
            let record = encoded(&frame);
            assert!(record.len() <= FRAME_MAX, "R3");
            let back: Vec<_> = frames(&record).collect();
            assert_eq!(back, [Ok(frame)]);
        }
    }
}

#[test]
fn data_there_and_back() {
    let bytes = vec![7; DATA_MAX];
    for length in [1, 2, DATA_MAX] {
        let frame = Frame::Data(Data { position: 1 << 60, bytes: &bytes[..length] });
        let record = encoded(&frame);
        assert_eq!(record.len(), HEADER + 8 + length);
        assert_eq!(frames(&record).collect::<Vec<_>>(), [Ok(frame)]);
    }
    assert_eq!(HEADER + 8 + DATA_MAX, FRAME_MAX);
}

#[test]
fn many_frames_in_one_record() {
    let all = all(b"t");
    let record: Vec<u8> = all.iter().flat_map(encoded).collect();
    assert!(record.len() < FRAME_MAX);
    let back: Result<Vec<_>, _> = frames(&record).collect();
    assert_eq!(back, Ok(all));
}

/// R4.
#[test]
fn a_frame_cut_anywhere_is_an_error() {
    for frame in all(b"ticket") {
        let record = encoded(&frame);
        for length in 0..record.len() {
            // Cut in transit: the header promises more.
            assert!(frames(&record[..length]).any(|frame| frame.is_err()), "{frame:?}");
            // Made short: the header agrees.
            if length >= HEADER {
                let mut short = record[..length].to_vec();
                let payload = u16::try_from(length - HEADER).unwrap();
                short[2..4].copy_from_slice(&payload.to_be_bytes());
                let reset = matches!(frame, Frame::Close(Close::ResetFirst(_)));
                if !(reset && length == HEADER + 4) {
                    assert!(frames(&short).any(|frame| frame.is_err()), "{frame:?} {length}");
                }
            }
        }
    }
}

/// R4.
#[test]
fn bytes_after_the_last_field_are_an_error() {
    for frame in all(b"ticket") {
        let mut record = encoded(&frame);
        record.push(0);
        let payload = u16::try_from(record.len() - HEADER).unwrap();
        record[2..4].copy_from_slice(&payload.to_be_bytes());
        assert!(frames(&record).any(|frame| frame.is_err()), "{frame:?}");
    }
}

/// R6.
#[test]
fn fields_and_abilities_of_later_versions_are_skipped() {
    let connect = all(b"").into_iter().find_map(|frame| match frame {
        Frame::Connect(connect) => Some(Connect { rate: Some(7), ..connect }),
        _ => None,
    });
    let connect = connect.expect("one of every format");
    let (header, features) = (4, 4 + 2 + 16 + 4);
    let mut record = encoded(&Frame::Connect(connect.clone()));
    // Bit 6: a field nobody knows yet, behind the rate. Bit 20: something the initiator can.
    record[features + 1] |= 1 << (20 - 16);
    record[features + 3] |= 1 << 6;
    record.extend_from_slice(b"a later field");
    let length = u16::try_from(record.len() - header).unwrap();
    record[2..header].copy_from_slice(&length.to_be_bytes());
    let later = Connect { features: 1 << 20, ..connect.clone() };
    assert_eq!(frames(&record).next(), Some(Ok(Frame::Connect(later))));

    // Without the bit it is what R4 calls an error.
    record[features + 3] &= !(1 << 6);
    assert!(matches!(frames(&record).next(), Some(Err(_))));
}

/// R4.
#[test]
fn unknown_types_and_flags_are_errors() {
    fn first(record: &[u8]) -> Option<Result<Frame<'_>, WireError>> {
        frames(record).next()
    }
    assert_eq!(first(&[99, 0, 0, 0]), Some(Err(WireError::UnknownType(99))));
    assert_eq!(first(&[0, 0, 0, 0]), Some(Err(WireError::UnknownType(0))));
    for frame in all(b"ticket") {
        let mut record = encoded(&frame);
        for flags in 0..=255u8 {
            record[1] = flags;
            match first(&record) {
                Some(Ok(back)) => assert_eq!(encoded(&back)[1], flags, "{frame:?}"),
                Some(Err(_)) => (),
                None => panic!("a frame is there"),
            }
        }
    }
}

#[test]
fn records_are_bounded() {
    assert_eq!(frames(&[]).next(), Some(Err(WireError::Empty)));
    let long = vec![0; FRAME_MAX + 1];
    assert_eq!(frames(&long).next(), Some(Err(WireError::RecordTooLong(FRAME_MAX + 1))));
}

#[test]
fn impossible_values_are_errors() {
    let ahead = Report { received: 1, acked: 2, limit: 3 };
    let ack = encoded(&Frame::Checkpoint(Checkpoint::Ack { echo: false, report: ahead }));
    assert_eq!(frames(&ack).next(), Some(Err(WireError::BadValue("acked"))));
    let empty = encoded(&Frame::Data(Data { position: 0, bytes: &[] }));
    assert_eq!(frames(&empty).next(), Some(Err(WireError::BadValue("bytes"))));
    let end = encoded(&Frame::Data(Data { position: u64::MAX, bytes: &[1] }));
    assert_eq!(frames(&end).next(), Some(Err(WireError::BadValue("bytes"))));
    let ticket = TicketFrame { at: 0, covers: 0, seam_from: 0, transferable: true, ticket: &[] };
    let ticket = encoded(&Frame::Ticket(ticket));
    assert_eq!(frames(&ticket).next(), Some(Err(WireError::BadValue("ticket"))));
}

/// R2.
#[test]
fn a_link_begins_with_one_of_three_frames() {
    for frame in all(b"ticket") {
        let record = encoded(&frame);
        match (first_frame(&record), frame) {
            (Ok(First::Connect(got)), Frame::Connect(sent)) => assert_eq!(got, sent),
            (Ok(First::Resume(got)), Frame::Resume(sent)) => assert_eq!(got, sent),
            (Ok(First::Reset(got)), Frame::Close(Close::ResetFirst(sent))) => {
                assert_eq!(got, sent);
            }
            (Err(WireError::NotFirst(_)), _) => (),
            (other, frame) => panic!("{frame:?} gave {other:?}"),
        }
        let twice = [&record[..], &record[..]].concat();
        assert!(first_frame(&twice).is_err());
    }
}

#[test]
fn another_version_is_seen_before_anything_else_is_read() {
    let mut record = encoded(&all(b"t")[0]);
    record[4..6].copy_from_slice(&9u16.to_be_bytes());
    record.truncate(4 + 2 + 16);
    record[2..4].copy_from_slice(&18u16.to_be_bytes());
    let Ok(First::Connect(connect)) = first_frame(&record) else { panic!("still a CONNECT") };
    assert_eq!((connect.version, connect.handle), (9, A));
}

/// R4.
#[test]
fn texts_are_cut_and_cleaned_by_the_sender_and_checked_by_the_receiver() {
    let mut out = Vec::new();
    let text = format!("{}\u{1b}[31m", "ü".repeat(300));
    encode_connect_denied(A, DenyReason::Internal, Duration::ZERO, &text, &mut out);
    let Some(Ok(Frame::ConnectDenied(denied))) = frames(&out).next() else { panic!("a frame") };
    assert_eq!(denied.text, "ü".repeat(100));
    let position = out.len() - 1;
    out[position] = 0x07;
    assert_eq!(frames(&out).next(), Some(Err(WireError::BadValue("text"))));
}

#[test]
fn random_bytes_and_mutations_never_panic_and_what_is_read_is_written_alike() {
    let mut seed = 1u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let corpus: Vec<Vec<u8>> = all(b"ticket").iter().map(encoded).collect();
    for _ in 0..200_000 {
        let mut record = corpus[(random() % corpus.len() as u64) as usize].clone();
        for _ in 0..random() % 4 {
            let at = (random() % record.len() as u64) as usize;
            record[at] = random() as u8;
        }
        for frame in frames(&record).flatten() {
            let again = encoded(&frame);
            assert_eq!(frames(&again).next(), Some(Ok(frame)));
        }
        let _ = first_frame(&record);
    }
}

/// R74, R75: ends of before know of no classes and of no suspension with an end.
#[test]
fn what_older_ends_write_is_read_as_before() {
    let mut bytes = Vec::new();
    Frame::Suspend(Suspend { epoch: 5, lasts: None }).encode(&mut bytes);
    assert_eq!(bytes, [7, 0, 0, 4, 0, 0, 0, 5]);
    let before = ConnectOk {
        initiator: A,
        acceptor: B,
        epoch: 1,
        features: FEATURE_PASS,
        up: 3,
        down: 4,
        limit: 5,
        hold: Duration::from_secs(6),
        tombstone: Duration::from_secs(7),
        server: "a",
        upkeep: None,
    };
    bytes.clear();
    before.encode(&mut bytes);
    let length = bytes.len();
    ConnectOk { upkeep: Some(UPKEEP), ..before }.encode(&mut bytes);
    assert_eq!(bytes.len(), length + length + 5, "a byte of class, four of seconds");
    let read: Vec<_> = frames(&bytes[..length]).collect();
    assert_eq!(read, [Ok(Frame::ConnectOk(before))]);
}
