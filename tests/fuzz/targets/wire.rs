//! Frames of a link, the first frame among them: the payloads of the session's handshake.

use std::time::Duration;

use std::net::SocketAddr;

use stp_proto::class::Class;
use stp_proto::cut::{Cut, Id};
use stp_proto::seam::SeamProof;
use stp_proto::wire::{
    Announce, Announcement, Belongs, Checkpoint, Close, Connect, ConnectDenied, ConnectMode,
    ConnectOk, DATA_MAX, Data, DenyReason, Destination, FRAME_MAX, Frame, GRANT_MAX, HEADER,
    NAME_MAX, PASS_MAX, PassFrame, PrepareRequest, REASON_MAX, RelayRequest, Report, ResetFrame,
    ResumeDenial, ResumeDenied, ResumeFrame, ResumeOk, Suspend, TICKET_MAX, TicketFrame, Transfer,
    TransferReason, TransferRequest, Upkeep, Urgent, VERSION, first_frame, frames,
};

use super::{Draw, bounded};

pub fn run(data: &[u8]) {
    let (good, all) = bounded(0, || {
        frames(data).fold((0, 0), |(good, all), frame| (good + usize::from(frame.is_ok()), all + 1))
    });
    assert!(all <= data.len() / HEADER + 1 && all - good <= 1);
    for frame in frames(data).flatten() {
        survives(&frame);
    }
    let first = bounded(0, || first_frame(data).is_ok());
    assert!(!first || (good, all) == (1, 1), "the first frame is alone in its record");
    let mut draw = Draw::new(data);
    let (text, more, bytes) =
        (draw.text(REASON_MAX), draw.text(NAME_MAX), draw.bytes(TICKET_MAX.min(DATA_MAX)));
    let made = make(&mut draw, (&text, &more, &bytes));
    survives(&made);
}

/// A frame is written and read as it was.
pub fn survives(frame: &Frame<'_>) {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    assert!(bytes.len() <= FRAME_MAX);
    let again: Vec<_> = frames(&bytes).collect();
    assert_eq!(again, [Ok(frame.clone())]);
    // Part of a frame is none.
    assert!(frames(&bytes[..bytes.len() - 1]).all(|frame| frame.is_err()));
}

/// Texts and bytes that a frame borrows.
pub type Borrowed<'a> = (&'a str, &'a str, &'a [u8]);

/// A good frame.
pub fn make<'a>(draw: &mut Draw<'_>, (text, more, bytes): Borrowed<'a>) -> Frame<'a> {
    match draw.below(16) {
        15 => {
            let at = draw.position();
            Frame::Announce(Announce { at, announcement: announcement(draw) })
        }
        0 => Frame::Connect(connect(draw, (text, more, bytes))),
        1 => Frame::ConnectOk(ConnectOk {
            initiator: draw.handle(),
            acceptor: draw.handle(),
            epoch: draw.u32(),
            features: draw.u32() & !0xffff,
            up: draw.position(),
            down: draw.position(),
            limit: draw.position(),
            hold: Duration::from_secs(draw.u32().into()),
            tombstone: Duration::from_secs(draw.u32().into()),
            server: more,
            upkeep: upkeep(draw),
        }),
        2 => Frame::ConnectDenied(ConnectDenied {
            handle: draw.handle(),
            why: deny_reason(draw),
            retry_after: Duration::from_millis(draw.u32().into()),
            text,
        }),
        3 => Frame::Data(data(draw, bytes)),
        4 => Frame::Checkpoint(checkpoint(draw)),
        5 => Frame::Close(match draw.below(5) {
            0 => Close::Fin { position: draw.position() },
            1 => Close::Ack { position: draw.position() },
            2 => Close::Reset { code: draw.u32() },
            3 => Close::ResetFirst(ResetFrame {
                initiator: draw.handle(),
                acceptor: draw.handle(),
                code: draw.u32(),
            }),
            _ => Close::Done,
        }),
        6 => Frame::Suspend(Suspend { epoch: draw.u32(), lasts: seconds(draw) }),
        7 => Frame::Resume(resume(draw)),
        8 => Frame::ResumeOk(ResumeOk {
            epoch: draw.u32(),
            report: report(draw),
            fin_received: draw.bool(),
            base: cut(draw),
            new: cut(draw),
        }),
        9 => Frame::ResumeDenied(ResumeDenied { seen: draw.u32(), why: denial(draw) }),
        10 => Frame::Ticket(TicketFrame {
            at: draw.position(),
            covers: draw.position(),
            seam_from: draw.position(),
            transferable: draw.bool() && !bytes.is_empty(),
            ticket: bytes,
        }),
        11 => Frame::Pass(PassFrame { pass: &bytes[..bytes.len().min(PASS_MAX)] }),
        12 => Frame::Urgent(Urgent { position: draw.position() }),
        13 => Frame::Transfer(Transfer { reason: transfer_reason(draw), text }),
        _ => Frame::Stay(Transfer { reason: transfer_reason(draw), text }),
    }
}

fn connect<'a>(draw: &mut Draw<'_>, (text, more, bytes): Borrowed<'a>) -> Connect<'a> {
    let (up_from, up_sent) = draw.span();
    let transfer = TransferRequest {
        ticket: (!bytes.is_empty()).then_some(bytes),
        covers: draw.position().min(up_sent),
        down: draw.position(),
        up_from,
        up_sent,
        up_fin: draw.bool(),
        epoch: draw.u32(),
        seam: draw.bool().then(|| proof(draw)),
    };
    let mode = match draw.below(4) {
        0 => ConnectMode::Transfer(transfer),
        1 => ConnectMode::New,
        2 => ConnectMode::Prepare(PrepareRequest {
            ticket: &bytes[..bytes.len().min(TICKET_MAX)],
            down: draw.position(),
        }),
        _ => ConnectMode::Relay(RelayRequest {
            home: draw.array(),
            pass: &bytes[..bytes.len().min(PASS_MAX)],
        }),
    };
    let wants_grant = mode.wants_grant() && draw.bool();
    Connect {
        version: VERSION,
        handle: draw.handle(),
        epoch: draw.u32(),
        features: draw.u32() & !0xffff,
        window: draw.position(),
        service: more,
        endpoint: text,
        mode,
        grant: wants_grant.then_some(&bytes[..bytes.len().min(GRANT_MAX)]),
        rate: draw.bool().then(|| draw.position()),
        hold: seconds(draw),
        upkeep: upkeep(draw),
        belongs: Belongs {
            token: draw.bool().then(|| draw.handle()),
            peer: draw.bool().then(|| place(draw)),
        },
        destination: draw
            .bool()
            .then(|| Destination { host: "db.internal", port: draw.u32() as u16 | 1 }),
    }
}

fn seconds(draw: &mut Draw<'_>) -> Option<Duration> {
    draw.bool().then(|| Duration::from_secs(draw.u32().into()))
}

fn upkeep(draw: &mut Draw<'_>) -> Option<Upkeep> {
    let class = draw.pick(&Class::ALL);
    seconds(draw).map(|suspended| Upkeep { class, suspended })
}

/// As frames carry addresses: IPv4 never as mapped IPv6.
fn place(draw: &mut Draw<'_>) -> SocketAddr {
    let address = draw.address();
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn announcement(draw: &mut Draw<'_>) -> Announcement {
    let token = draw.handle();
    match draw.below(3) {
        0 => Announcement::Await { port: draw.u16().max(1), token },
        1 => Announcement::Reach { address: place(draw), token },
        _ => Announcement::Drop { token },
    }
}

fn proof(draw: &mut Draw<'_>) -> SeamProof {
    let (from, until) = draw.span();
    SeamProof {
        from,
        until,
        block: draw.u32().max(1),
        last: u128::from_be_bytes(draw.array()),
        partial: u128::from_be_bytes(draw.array()),
        chain: draw.array(),
    }
}

fn deny_reason(draw: &mut Draw<'_>) -> DenyReason {
    let errno = draw.u16();
    draw.pick(&[
        DenyReason::Overloaded,
        DenyReason::NotHere,
        DenyReason::Seam,
        DenyReason::Expired,
        DenyReason::Mismatch,
        DenyReason::Unsafe,
        DenyReason::Refused(errno),
        DenyReason::Unauthorized,
        DenyReason::Version,
        DenyReason::Draining,
        DenyReason::Internal,
        DenyReason::Verifying,
    ])
}

fn data<'a>(draw: &mut Draw<'_>, bytes: &'a [u8]) -> Data<'a> {
    let bytes = if bytes.is_empty() { b"x" } else { bytes };
    Data { position: draw.position().min(u64::MAX - bytes.len() as u64), bytes }
}

fn checkpoint(draw: &mut Draw<'_>) -> Checkpoint {
    let (id, sent, report) = (id(draw), draw.position(), report(draw));
    match draw.below(4) {
        0 => Checkpoint::Request { id, sent, report },
        1 => Checkpoint::Answer { id, sent, report },
        2 => Checkpoint::Confirm { id, report },
        _ => Checkpoint::Ack { echo: draw.bool(), report },
    }
}

fn resume(draw: &mut Draw<'_>) -> ResumeFrame {
    ResumeFrame {
        initiator: draw.handle(),
        acceptor: draw.handle(),
        epoch: draw.u32(),
        report: report(draw),
        fin_received: draw.bool(),
        acked: cut(draw),
        pending: draw.bool().then(|| cut(draw)),
    }
}

fn denial(draw: &mut Draw<'_>) -> ResumeDenial {
    let (received, code) = (draw.position(), draw.u32());
    let left = Duration::from_secs(draw.u32().into());
    draw.pick(&[
        ResumeDenial::Suspended { left },
        ResumeDenial::Stale,
        ResumeDenial::Collision,
        ResumeDenial::Closed { received },
        ResumeDenial::Reset { code },
        ResumeDenial::Unknown,
        ResumeDenial::Mismatch,
        ResumeDenial::Moved,
    ])
}

fn transfer_reason(draw: &mut Draw<'_>) -> TransferReason {
    draw.pick(&[
        TransferReason::Congested,
        TransferReason::Overloaded,
        TransferReason::Draining,
        TransferReason::Operator,
        TransferReason::NobodyBetter,
        TransferReason::NotTransferable,
    ])
}

fn report(draw: &mut Draw<'_>) -> Report {
    let (acked, received) = draw.span();
    Report { received, acked, limit: draw.position() }
}

fn id(draw: &mut Draw<'_>) -> Id {
    Id::new(draw.pick(&[0, 1, 2])).expect("there are three")
}

fn cut(draw: &mut Draw<'_>) -> Cut {
    Cut { id: id(draw), sent: draw.position(), received: draw.position() }
}
