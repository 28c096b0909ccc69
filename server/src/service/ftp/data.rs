//! A data connection's session.
//!
//! **Invariant:** the client sees an orderly end only after the server has said, on a control
//! connection, that the transfer is complete.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use stp_drive::{Near, Pulled};
use stp_proto::replay::ftp::{self, DataNews, DataState, Reply, Transfer, Verdict};
use stp_proto::replay::http::{Waiting, copy};
use stp_proto::replay::{Again, Exchange};
use stp_proto::seam::{BLOCK, Seam};
use stp_proto::session::{ClosedWhy, Event, Session, ShutNear, TicketOffer, code};
use stp_proto::time::Instant;
use tokio::time::Interval;

use super::connection::LOOK_EVERY;
use super::resume::{Resumed, resume_patiently};
use super::{Groups, Slot};
use crate::service::join::JoinError;
use crate::service::upstream::Upstream;
use crate::service::watch;
use crate::ticket::{Mint, Seal};

type Resuming = Pin<Box<dyn Future<Output = Result<Resumed, JoinError>> + Send>>;
type Finishing = Pin<Box<dyn Future<Output = Result<Reply, JoinError>> + Send>>;

/// The near side of a data connection.
pub struct Data {
    address: SocketAddr,
    slot: Arc<Slot>,
    groups: Arc<Groups>,
    mint: Option<Mint>,
    /// What is transferred, once that is known.
    state: Option<DataState>,
    ticketed: bool,
    source: Option<Upstream>,
    resuming: Option<Resuming>,
    /// The last reply on a control connection of its own.
    finishing: Option<Finishing>,
    own: Option<Verdict>,
    ahead: Waiting,
    seam: Seam,
    /// The server has sent everything.
    ended: bool,
    again: Again,
    /// The end was given to the session.
    over: bool,
    failed: bool,
    told: bool,
    /// When the stream to the server is looked at next.
    look: Interval,
}

impl Data {
    /// A data connection of which nothing is known yet.
    pub fn new(
        address: SocketAddr,
        slot: Arc<Slot>,
        groups: Arc<Groups>,
        mint: Option<Mint>,
    ) -> Self {
        slot.arrive();
        Self {
            address,
            slot,
            groups,
            mint,
            state: None,
            ticketed: false,
            source: None,
            resuming: None,
            finishing: None,
            own: None,
            ahead: Waiting::default(),
            seam: Seam::new(0, BLOCK),
            ended: false,
            again: Again::default(),
            over: false,
            failed: false,
            told: false,
            look: tokio::time::interval(LOOK_EVERY),
        }
    }

    /// One that was brought over from another server.
    pub fn resumed(mut self, state: DataState, resumed: Resumed) -> Self {
        self.state = Some(state);
        self.adopt(resumed);
        self
    }

    /// Acknowledgements wait for tickets, or for the server to take what comes.
    pub fn holds_acks(&self) -> bool {
        self.mint.is_some()
    }

    fn adopt(&mut self, resumed: Resumed) {
        let Resumed { mut control, data, ahead, seam } = resumed;
        self.source = Some(Upstream::Tcp(data));
        self.finishing = Some(Box::pin(async move {
            // What stands before the last reply says nothing.
            loop {
                let reply = control.reply_at_last().await?;
                if !reply.is_preliminary() {
                    return Ok(reply);
                }
            }
        }));
        (self.ahead, self.seam) = (ahead.into(), seam);
        (self.ended, self.own) = (false, None);
    }

    fn is_upload(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.running.transfer == Transfer::Up)
    }

    /// The server's word: on its own control connection, or on the client's.
    fn verdict(&self) -> Option<Verdict> {
        if self.finishing.is_some() || self.own.is_some() {
            // The client's own word to stop counts all the same.
            let stopped = self.slot.verdict() == Some(Verdict::Failed);
            return if stopped { Some(Verdict::Failed) } else { self.own };
        }
        self.slot.verdict()
    }

    fn tell(&mut self, news: DataNews) {
        if !self.told {
            self.told = true;
            self.slot.tell(news);
        }
    }

    fn fail(&mut self, why: &str) {
        tracing::info!(why, "a transfer cannot go on");
        self.failed = true;
        self.resuming = None;
        if let Some(source) = self.source.take() {
            source.reset_on_close();
        }
    }

    /// Asks for the data again, from where they stand.
    fn resume(&mut self) {
        self.source = None;
        self.finishing = None;
        self.own = Some(Verdict::Lost);
        let Some(state) = self.state.clone() else {
            return self.fail("nothing is known of it");
        };
        if state.running.transfer == Transfer::Up {
            return self.fail("what was sent to the server is lost");
        }
        let at = self.seam.position();
        let Some(pause) = self.again.ask(at) else {
            return self.fail("the server breaks off at the same place");
        };
        tracing::info!(at, "the server broke a transfer off: asking for it again");
        let (address, proof) = (self.address, (at > 0).then(|| self.seam.proof()));
        self.resuming = Some(Box::pin(resume_patiently(address, state, proof, pause)));
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) {
        while self.look.poll_tick(cx).is_ready() {
            let Some(Upstream::Tcp(source)) = &self.source else { continue };
            let lost = if self.is_upload() { watch::homeless } else { watch::lost };
            if let Some(why) = lost(source) {
                tracing::info!(why, "a data connection is lost");
                (self.ended, self.source) = (true, None);
            }
        }
        if let Some(resuming) = &mut self.resuming
            && let Poll::Ready(resumed) = resuming.as_mut().poll(cx)
        {
            self.resuming = None;
            match resumed {
                Ok(resumed) => self.adopt(resumed),
                Err(error) => self.fail(&error.to_string()),
            }
        }
        if let Some(finishing) = &mut self.finishing
            && let Poll::Ready(last) = finishing.as_mut().poll(cx)
        {
            self.finishing = None;
            let done = last.as_ref().is_ok_and(Reply::is_done);
            self.own = Some(if done { Verdict::Done } else { Verdict::Lost });
        }
    }

    /// The transfer begins: the first thing that the broker hears is a ticket.
    fn begin(&mut self, session: &mut Session) {
        if self.state.is_none()
            && let Some(begun) = self.slot.take_begun()
        {
            self.state = Some(begun.state);
            match begun.stream {
                Some(stream) => self.source = Some(Upstream::Tcp(stream)),
                None => self.resume(),
            }
        }
        let Some(state) = self.state.as_ref().filter(|_| !self.ticketed) else { return };
        self.ticketed = true;
        let Some(mint) = &self.mint else { return };
        let at = session.positions().end;
        let ticket = if state.running.transfer == Transfer::Down {
            let exchange = Exchange::Ftp(ftp::Exchange::Data(Box::new(state.clone())));
            mint.seal((0, at), exchange)
        } else {
            Vec::new()
        };
        let transferable = !ticket.is_empty();
        let (covers, seam_from) = (0, if transferable { 0 } else { at });
        session.offer_ticket(TicketOffer { at, covers, seam_from, transferable, ticket });
    }

    /// Reads into the session. Nothing at the end of the stream.
    fn read_through(&mut self, now: Instant, session: &mut Session) -> io::Result<Option<usize>> {
        let Some(source) = &self.source else { return Err(io::ErrorKind::WouldBlock.into()) };
        let (seam, mut ended) = (&mut self.seam, false);
        let taken = session.fill(now, |slices: &mut [IoSliceMut<'_>]| {
            let read = source.try_read(slices)?;
            ended = read == 0 && slices.iter().any(|slice| !slice.is_empty());
            let mut left = read;
            for slice in slices.iter() {
                let here = slice.len().min(left);
                seam.update(seam.position(), &slice[..here]);
                left -= here;
            }
            Ok(read)
        })?;
        Ok((!ended).then_some(taken))
    }

    fn give_ahead(&mut self, now: Instant, session: &mut Session) -> io::Result<usize> {
        let (ahead, seam) = (&mut self.ahead, &mut self.seam);
        let filled = session.fill(now, |slices| {
            let copied = copy(ahead.rest(), slices);
            seam.update(seam.position(), &ahead.rest()[..copied]);
            Ok(copied)
        })?;
        ahead.advance(filled);
        Ok(filled)
    }

    /// Everything was read: what the server says of it decides.
    fn end(&mut self) -> io::Result<Pulled> {
        match self.verdict() {
            Some(Verdict::Done) => {
                self.over = true;
                Ok(Pulled::Fin)
            }
            Some(Verdict::Failed) => {
                self.fail("the server gave up, or the client did");
                self.failure()
            }
            Some(Verdict::Lost) => {
                self.resume();
                if self.failed { self.failure() } else { Err(io::ErrorKind::WouldBlock.into()) }
            }
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn failure(&mut self) -> io::Result<Pulled> {
        self.over = true;
        self.tell(DataNews::Failed);
        Err(io::Error::other("the transfer is not complete"))
    }
}

impl Near for Data {
    fn poll_readable(&mut self, _now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_work(cx);
        let Some(_) = &self.state else { return self.slot.poll_begun(cx) };
        if self.failed || !self.ahead.is_empty() || !self.ticketed {
            return Poll::Ready(());
        }
        // Registered as well, even when it is not decisive yet.
        let judged = self.slot.poll_verdict(cx).is_ready() && self.verdict().is_some();
        if self.resuming.is_some() {
            return if self.slot.verdict() == Some(Verdict::Failed) {
                Poll::Ready(())
            } else {
                Poll::Pending
            };
        }
        if self.is_upload() || self.ended || self.source.is_none() {
            return if judged || self.verdict().is_some() {
                Poll::Ready(())
            } else {
                Poll::Pending
            };
        }
        if self.verdict().is_some_and(|verdict| verdict != Verdict::Done) {
            return Poll::Ready(());
        }
        self.source.as_ref().map_or(Poll::Pending, |source| source.poll_readable(cx))
    }

    fn poll_writable(&mut self, _now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_work(cx);
        match (&self.state, &self.source) {
            (None, _) => self.slot.poll_begun(cx),
            (Some(_), _) if !self.is_upload() => Poll::Ready(()),
            (Some(_), Some(source)) => source.poll_writable(cx),
            (Some(_), None) => Poll::Ready(()),
        }
    }

    fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled> {
        self.begin(session);
        if self.failed {
            return self.failure();
        }
        if self.state.is_none() {
            // Given up before it began.
            return if self.slot.verdict().is_some() { self.end() } else { blocked() };
        }
        if !self.ahead.is_empty() {
            return self.give_ahead(now, session).map(Pulled::Bytes);
        }
        if self.resuming.is_some() {
            return if self.slot.verdict() == Some(Verdict::Failed) {
                self.end()
            } else {
                blocked()
            };
        }
        let given_up = self.verdict().is_some_and(|verdict| verdict != Verdict::Done);
        if self.is_upload() || self.ended || given_up {
            return self.end();
        }
        match self.read_through(now, session) {
            Ok(Some(0)) => blocked(),
            Ok(Some(taken)) => Ok(Pulled::Bytes(taken)),
            Ok(None) => {
                (self.ended, self.source) = (true, None);
                self.end()
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(error) => {
                tracing::debug!(%error, "the data connection broke");
                (self.ended, self.source) = (true, None);
                // The server's own word comes, or its control connection breaks as well.
                self.end()
            }
        }
    }

    fn push(
        &mut self,
        now: Instant,
        session: &mut Session,
        arrived: &[&[u8]],
    ) -> io::Result<usize> {
        self.begin(session);
        let upload = self.is_upload();
        let (state, source) = (&self.state, &self.source);
        let pushed = session.deliver(now, arrived, |slices| match (state, source) {
            (None, _) => Err(io::ErrorKind::WouldBlock.into()),
            (Some(_), Some(source)) if upload => source.try_write(slices),
            // Nobody reads what a client sends on a download.
            (Some(_), _) => Ok(slices.iter().map(|slice| slice.len()).sum()),
        });
        if self.mint.is_some() && self.state.is_some() {
            session.release_acks(session.positions().delivered);
        }
        match pushed {
            Err(error) if upload && error.kind() != io::ErrorKind::WouldBlock => {
                tracing::debug!(%error, "the server takes no more");
                self.fail("the server takes no more of an upload");
                Ok(0)
            }
            pushed => pushed,
        }
    }

    fn shut(&mut self, _now: Instant, how: ShutNear) {
        match how {
            ShutNear::Fin => {
                if let Some(source) = self.source.as_ref().filter(|_| self.is_upload()) {
                    source.shut_write();
                }
            }
            ShutNear::Reset { code } => {
                if let Some(source) = self.source.take() {
                    source.reset_on_close();
                }
                self.resuming = None;
                let moved = code == code::MOVED;
                self.tell(if moved { DataNews::Moved } else { DataNews::ClientGone });
            }
        }
    }

    fn event(&mut self, _now: Instant, _session: &mut Session, event: &Event) {
        match event {
            Event::EndReceived | Event::Closed { why: ClosedWhy::Clean }
                if self.over && !self.failed =>
            {
                self.tell(DataNews::Delivered);
            }
            _ => {}
        }
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if let Some(source) = self.source.take().filter(|_| !self.over) {
            source.reset_on_close();
        }
        self.tell(DataNews::ClientGone);
        self.groups.keep(Arc::clone(&self.slot));
    }
}

fn blocked() -> io::Result<Pulled> {
    Err(io::ErrorKind::WouldBlock.into())
}
