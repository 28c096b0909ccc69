//! A session whose peer sends any frames: each is well formed, but none needs to be expected.

use std::io;
use std::time::Duration;

use stp_proto::session::{Input, Limits, LinkId, Output, Peer, Session, StartAt, TicketOffer};
use stp_proto::time::Instant;
use stp_proto::wire::{
    Belongs, Checkpoint, Close, Connect, ConnectMode, ConnectOk, DATA_MAX, Data, FEATURE_URGENT,
    Frame, Report, ResumeFrame, ResumeOk, Urgent, VERSION, frames,
};

use super::wire::make;
use super::{Draw, bounded};

/// One run is no longer than this.
const STEPS_MAX: usize = 200;
/// What a session may hold beside its two buffers: tickets, events, and the frame under way.
const MEMORY: usize = 512 * 1024;

pub fn run(data: &[u8]) {
    bounded(MEMORY, || {
        let mut draw = Draw::new(data);
        let mut run = Run::new(&mut draw);
        for _ in 0..STEPS_MAX {
            if draw.is_empty() {
                break;
            }
            run.step(&mut draw);
            run.drain();
        }
    });
}

struct Run {
    session: Session,
    now: Instant,
    links: u64,
}

fn limits() -> Limits {
    Limits {
        send_buffer_max: 4_096,
        receive_buffer_max: 4_096,
        ack_every: 512,
        checkpoint_every: 1_024,
        tickets_max: 16_384,
        chunk: 256,
        fill_max: 1_024,
        ..Limits::default()
    }
}

impl Run {
    fn new(draw: &mut Draw<'_>) -> Self {
        let (now, own) = (Instant(1_000_000), draw.handle());
        let session = if draw.bool() {
            Session::initiate(now, limits(), own, "www.web@example.org", "")
        } else {
            let connect = Connect {
                version: VERSION,
                handle: draw.handle(),
                epoch: draw.u32(),
                features: draw.pick(&[0, FEATURE_URGENT]),
                window: draw.position(),
                service: "www.web@example.org",
                endpoint: "",
                mode: ConnectMode::New,
                grant: None,
                rate: None,
                hold: None,
                upkeep: None,
                belongs: Belongs::default(),
                destination: None,
            };
            // A server makes sure that a session has room for as many bytes as anybody can send.
            let place = |draw: &mut Draw<'_>| draw.position() >> 2;
            let at = StartAt { up: place(draw), down: place(draw) };
            Session::accept(now, limits(), LinkId(1), own, &connect, at, "a")
        };
        Self { session, now, links: 1 }
    }

    fn step(&mut self, draw: &mut Draw<'_>) {
        match draw.below(16) {
            0 => {
                self.links += 1;
                let peer = draw.pick(&[Peer::Same, Peer::Same, Peer::Other]);
                self.input(Input::LinkUp { link: LinkId(self.links), peer });
            }
            1 => {
                let link = LinkId(self.links.saturating_sub(draw.below(3) as u64));
                self.input(draw.pick(&[Input::LinkLost { link }, Input::LinkAlive { link }]));
            }
            2 => {
                let pause = draw.pick(&[1, 30, 1_100, 3_100, 11_000, 70_000, 90_000_000]);
                self.now += Duration::from_millis(pause);
                self.input(Input::Timeout);
            }
            3 => self.input(draw.pick(&[
                Input::DialFailed,
                Input::PathChanged,
                Input::NearFin,
                Input::Suspend { lasts: None },
                Input::Suspend { lasts: Some(Duration::from_secs(40)) },
                Input::Resume,
                Input::Retry,
            ])),
            4 if draw.below(4) == 0 => {
                let code = draw.u32();
                self.input(draw.pick(&[Input::NearReset, Input::NearGone, Input::Abort { code }]));
            }
            5 => {
                self.fill(draw.below(3_000));
                if draw.bool() {
                    self.session.mark_urgent();
                }
            }
            6 => {
                let most = draw.below(5_000);
                self.deliver(&[], most);
            }
            7 => self.offer(draw),
            _ => self.record(draw),
        }
    }

    fn input(&mut self, input: Input) {
        self.session.handle_input(self.now, input);
    }

    fn fill(&mut self, mut count: usize) {
        let read = |slices: &mut [io::IoSliceMut<'_>]| {
            let room: usize = slices.iter().map(|slice| slice.len()).sum();
            count = count.min(room);
            Ok(count)
        };
        self.session.fill(self.now, read).expect("it reads");
    }

    fn deliver(&mut self, arrived: &[&[u8]], mut most: usize) {
        let write = |slices: &[io::IoSlice<'_>], urgent: bool| {
            let offered = slices.iter().map(|slice| slice.len()).sum::<usize>();
            assert!(offered == 1 || !urgent, "an urgent byte comes alone");
            let count = offered.min(most);
            most -= count;
            if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
        };
        let _ = self.session.deliver_marked(self.now, arrived, write);
    }

    fn offer(&mut self, draw: &mut Draw<'_>) {
        match draw.below(3) {
            0 => self.session.hold_acks(),
            1 => self.session.release_acks(draw.position()),
            _ => {
                let positions = self.session.positions();
                self.session.offer_ticket(TicketOffer {
                    at: positions.end,
                    covers: draw.position().min(positions.received),
                    seam_from: positions.end,
                    transferable: true,
                    ticket: b"ticket".to_vec(),
                });
            }
        }
    }

    /// Frames from the peer, over some link: their numbers near those of the session, or any.
    fn record(&mut self, draw: &mut Draw<'_>) {
        let text = draw.text(20);
        let bytes = draw.bytes(300);
        let mut record = Vec::new();
        for _ in 0..=draw.below(3) {
            let frame = match draw.below(3) {
                0 => make(draw, (&text, "a", &bytes)),
                _ => self.apt(draw, &bytes),
            };
            let mut more = Vec::new();
            frame.encode(&mut more);
            if record.len() + more.len() <= DATA_MAX {
                record.extend(more);
            }
        }
        if draw.below(16) == 0 {
            record.extend(draw.bytes(10));
        }
        let link = match draw.below(8) {
            0 => {
                self.links += 1;
                LinkId(self.links)
            }
            _ => self.session.link().unwrap_or(LinkId(self.links)),
        };
        let mut arrived = Vec::new();
        let _ = self.session.handle_record(self.now, link, &record, &mut arrived);
        let most = draw.below(3_000);
        self.deliver(&arrived, most);
    }

    /// A frame that may be called for.
    fn apt<'a>(&self, draw: &mut Draw<'_>, bytes: &'a [u8]) -> Frame<'a> {
        let positions = self.session.positions();
        let (initiator, acceptor) = self.session.handles();
        let near = |draw: &mut Draw<'_>, position: u64| match draw.below(4) {
            0 => position.saturating_add(draw.u8().into()),
            1 => position.saturating_sub(draw.u8().into()),
            _ => position,
        };
        let received = near(draw, positions.max);
        let acked = draw.pick(&[positions.una, received]).min(received);
        let limit = received.saturating_add(u64::from(draw.u16()) % 5_000);
        let report = Report { received, acked, limit };
        let sent = near(draw, positions.received);
        let agreed = self.session.cuts().agreed().id;
        let id = draw.pick(&[agreed, agreed.next()]);
        let cut = |id| stp_proto::cut::Cut { id, sent, received };
        match draw.below(11) {
            0 | 1 => {
                let bytes = if bytes.is_empty() { b"x" } else { bytes };
                let position = near(draw, positions.received).min(u64::MAX - bytes.len() as u64);
                Frame::Data(Data { position, bytes })
            }
            2 => Frame::Checkpoint(Checkpoint::Ack { echo: draw.bool(), report }),
            3 => Frame::Checkpoint(Checkpoint::Request { id, sent, report }),
            4 => Frame::Checkpoint(Checkpoint::Answer { id, sent, report }),
            5 => Frame::Checkpoint(Checkpoint::Confirm { id, report }),
            6 => Frame::Close(draw.pick(&[
                Close::Fin { position: sent },
                Close::Ack { position: received },
                Close::Done,
            ])),
            7 => Frame::ConnectOk(ConnectOk {
                initiator,
                acceptor: draw.handle(),
                epoch: self.session.epoch(),
                features: draw.pick(&[0, FEATURE_URGENT]),
                up: received,
                down: sent,
                limit,
                hold: Duration::from_secs(3),
                tombstone: Duration::from_secs(3),
                server: "a",
                upkeep: None,
            }),
            8 => Frame::Resume(ResumeFrame {
                initiator,
                acceptor,
                epoch: self.session.epoch().wrapping_add(u32::from(draw.u8() & 3)),
                report,
                fin_received: draw.bool(),
                acked: cut(id),
                pending: draw.bool().then(|| cut(id.next())),
            }),
            9 => Frame::Urgent(Urgent { position: sent }),
            _ => Frame::ResumeOk(ResumeOk {
                epoch: self.session.epoch(),
                report,
                fin_received: draw.bool(),
                base: cut(id),
                new: cut(id.next()),
            }),
        }
    }

    /// Does what the session wants, and checks what a session promises.
    fn drain(&mut self) {
        let mut out = Vec::new();
        for _ in 0..1_000 {
            out.clear();
            match self.session.poll_output(self.now, true, &mut out) {
                Output::Wait(_) => {
                    let (send, receive) = self.session.buffered();
                    let limits = self.session.limits();
                    assert!(send <= limits.send_buffer_max, "{send} bytes wait for the peer");
                    assert!(receive <= limits.receive_buffer_max, "{receive} for the near side");
                    return;
                }
                Output::Frame { .. } => {
                    assert!(frames(&out).all(|frame| frame.is_ok()), "{out:?}");
                    assert_eq!(frames(&out).count(), 1);
                }
                _ => assert!(out.is_empty()),
            }
        }
        panic!("a session that never waits");
    }
}
