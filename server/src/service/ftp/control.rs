//! The control connection's session.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use stp_drive::{Near, Pulled};
use stp_net::key::PublicKey;
use stp_proto::replay::Exchange;
use stp_proto::replay::ftp::{self, Answer, Verdict};
use stp_proto::replay::http::{Waiting, copy};
use stp_proto::session::{Event, Session, ShutNear, TicketOffer, code};
use stp_proto::time::Instant;
use stp_proto::wire::TransferReason;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use super::Groups;
use super::task::{Current, Out, Task};
use crate::ticket::{Mint, Seal};

/// Replies that may wait for room.
const OUT_MAX: usize = 8;

/// The near side of a control connection.
pub struct Control {
    /// To the task.
    up: UnixStream,
    /// From it.
    out: mpsc::Receiver<Out>,
    next: Option<Out>,
    /// The task has ended.
    over: bool,
    waiting: Waiting,
    mint: Option<Mint>,
    /// Nothing can be continued elsewhere.
    disclaimed: bool,
    opaque: bool,
    current: Current,
    /// The session went to another server.
    moved: bool,
    task: tokio::task::JoinHandle<()>,
}

impl Control {
    /// Starts the task. Without a mint there are no tickets.
    pub fn new(
        control: ftp::Control,
        (address, stream): (std::net::SocketAddr, Option<TcpStream>),
        (groups, key): (Arc<Groups>, PublicKey),
        mint: Option<Mint>,
    ) -> io::Result<Self> {
        let (up, client) = UnixStream::pair()?;
        let (sender, out) = mpsc::channel(OUT_MAX);
        let current = Current::default();
        let task = Task {
            control,
            address,
            stream,
            client,
            out: sender,
            groups,
            key,
            current: Arc::clone(&current),
            range: None,
        };
        Ok(Self {
            up,
            out,
            next: None,
            over: false,
            waiting: Waiting::default(),
            mint,
            disclaimed: false,
            opaque: false,
            current,
            moved: false,
            task: tokio::spawn(task.run()),
        })
    }

    /// Acknowledgements wait for tickets.
    pub fn holds_acks(&self) -> bool {
        self.mint.is_some()
    }

    fn answer(&mut self, session: &mut Session, answer: Answer) {
        if let Some(announcement) = answer.announcement {
            session.announce(announcement);
        }
        match answer.state {
            Some(mut state) => {
                if !self.ticket(session, answer.covers, &state) {
                    // A reply that is too long for a ticket: nobody else could give the rest of it.
                    self.disclaim(session, answer.covers);
                    self.waiting.push(&answer.bytes);
                    state.reply.clear();
                    self.next = Some(Out::Answer(Box::new(Answer {
                        bytes: Vec::new(),
                        covers: answer.covers,
                        state: Some(state),
                        announcement: None,
                    })));
                    return;
                }
            }
            None => self.disclaim(session, answer.covers),
        }
        self.waiting.push(&answer.bytes);
    }

    fn ticket(&mut self, session: &mut Session, covers: u64, state: &ftp::ControlState) -> bool {
        let Some(mint) = &self.mint else { return true };
        let at = session.positions().end;
        let exchange = Exchange::Ftp(ftp::Exchange::Control(Box::new(state.clone())));
        let ticket = mint.seal((covers, at), exchange);
        if ticket.is_empty() {
            return state.reply.is_empty();
        }
        self.disclaimed = false;
        session.offer_ticket(TicketOffer { at, covers, seam_from: at, transferable: true, ticket });
        true
    }

    fn disclaim(&mut self, session: &mut Session, covers: u64) {
        if self.mint.is_none() {
            return;
        }
        session.release_acks(covers);
        if !self.disclaimed {
            self.disclaimed = true;
            let at = session.positions().end;
            let ticket = Vec::new();
            session.offer_ticket(TicketOffer {
                at,
                covers,
                seam_from: at,
                transferable: false,
                ticket,
            });
        }
    }
}

impl Near for Control {
    fn poll_readable(&mut self, _now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.over || self.next.is_some() || !self.waiting.is_empty() {
            return Poll::Ready(());
        }
        match self.out.poll_recv(cx) {
            Poll::Ready(next) => {
                self.over = next.is_none();
                self.next = next;
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_writable(&mut self, _now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.up.poll_write_ready(cx).map(drop)
    }

    fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled> {
        let mut total = 0;
        loop {
            if !self.waiting.is_empty() {
                let filled = session.fill(now, |slices| Ok(copy(self.waiting.rest(), slices)))?;
                self.waiting.advance(filled);
                total += filled;
                if !self.waiting.is_empty() {
                    break;
                }
            }
            let next = self.next.take().or_else(|| self.out.try_recv().ok());
            match next {
                Some(Out::Answer(answer)) => self.answer(session, *answer),
                Some(Out::Pass(bytes)) => self.waiting.push(&bytes),
                Some(Out::Opaque) => {
                    self.opaque = true;
                    let received = session.positions().received;
                    self.disclaim(session, received);
                }
                Some(Out::AskToMove) => {
                    let text = "its data went to another server";
                    session.request_transfer(TransferReason::Operator, text);
                }
                None if self.over && total == 0 => return Ok(Pulled::Fin),
                None => break,
            }
        }
        if total == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(Pulled::Bytes(total)) }
    }

    fn push(
        &mut self,
        now: Instant,
        session: &mut Session,
        arrived: &[&[u8]],
    ) -> io::Result<usize> {
        let up = &self.up;
        let pushed = session.deliver(now, arrived, |slices| match up.try_write_vectored(slices) {
            // The task has ended: what comes is dropped.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(slices.iter().map(|slice| slice.len()).sum())
            }
            done => done,
        });
        if self.opaque && self.mint.is_some() {
            session.release_acks(session.positions().delivered);
        }
        pushed
    }

    fn shut(&mut self, _now: Instant, how: ShutNear) {
        match how {
            ShutNear::Fin => {
                let up = socket2::SockRef::from(&self.up);
                if let Err(error) = up.shutdown(std::net::Shutdown::Write) {
                    tracing::trace!(%error, "the task has ended already");
                }
            }
            ShutNear::Reset { code } => {
                self.moved = code == code::MOVED;
                self.task.abort();
            }
        }
    }

    fn event(&mut self, _now: Instant, _session: &mut Session, _event: &Event) {}
}

impl Drop for Control {
    /// Data that go on after their control connection has moved do so by themselves.
    fn drop(&mut self) {
        self.task.abort();
        if let Some((_, slot)) = self.current.lock().take() {
            if self.moved {
                slot.judge(Verdict::Lost);
            } else {
                slot.stop();
            }
        }
    }
}
