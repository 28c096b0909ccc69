//! A data connection's session.
//!
//! **Invariant:** the client sees an orderly end only after the server has said, on a control
//! connection, that the transfer is complete.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use stp_drive::{Near, Pulled};
use stp_proto::replay::ftp::{self, DataNews, DataState, Look, Reply, Transfer, Verdict};
use stp_proto::replay::http::{Waiting, copy};
use stp_proto::replay::{Again, Exchange};
use stp_proto::seam::{BLOCK, Seam};
use stp_proto::session::{ClosedWhy, Event, Session, ShutNear, TicketOffer, code};
use stp_proto::time::Instant;
use tokio::time::Interval;

use super::connection::{Connection, LOOK_EVERY};
use super::resume::{Resumed, resume_patiently};
use super::upload::Upward;
use super::{Groups, Slot};
use crate::service::join::JoinError;
use crate::service::upstream::Upstream;
use crate::service::watch;
use crate::ticket::{Mint, Seal};

type Resuming = Pin<Box<dyn Future<Output = Result<Resumed, JoinError>> + Send>>;
type Finishing = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// The near side of a data connection.
pub struct Data {
    address: SocketAddr,
    slot: Arc<Slot>,
    groups: Arc<Groups>,
    mint: Option<Mint>,
    /// What is transferred, once that is known.
    state: Option<DataState>,
    /// An upload that can be gone on with on another connection.
    upward: Option<Upward>,
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
            upward: None,
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
        self.is_about(state);
        self.adopt(resumed);
        self
    }

    /// Acknowledgements wait for tickets, or for the server to take what comes.
    pub fn holds_acks(&self) -> bool {
        self.mint.is_some()
    }

    /// What is transferred is known from here on.
    fn is_about(&mut self, state: DataState) {
        let file = state.running.file.as_ref();
        self.upward = file.map(|file| Upward::new(self.address, &state.login, file));
        self.state = Some(state);
    }

    fn adopt(&mut self, resumed: Resumed) {
        let Resumed { control, data, ahead, seam } = resumed;
        self.source = Some(Upstream::Tcp(data));
        if let Some(upward) = &mut self.upward {
            upward.reconnected(seam);
            let (look, expected) = upward.last_look();
            self.finishing = Some(Box::pin(finish_upload(control, look, expected)));
        } else {
            self.finishing = Some(Box::pin(finish_download(control)));
            (self.ahead, self.seam) = (ahead.into(), seam);
        }
        (self.ended, self.own) = (false, None);
    }

    fn has_room(&self) -> bool {
        self.upward.as_ref().is_none_or(Upward::has_room)
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
        self.upward = None;
        if let Some(source) = self.source.take() {
            source.reset_on_close();
        }
    }

    /// Asks for the data again, from where they stand.
    fn resume(&mut self) {
        self.source = None;
        self.finishing = None;
        self.own = Some(Verdict::Lost);
        let Some(mut state) = self.state.clone() else {
            return self.fail("nothing is known of it");
        };
        let mut at = self.seam.position();
        if state.running.transfer == Transfer::Up {
            let Some(upward) = &mut self.upward else {
                return self.fail("what was sent to the server is lost");
            };
            upward.disconnected();
            (at, state.stored) = (upward.upload().covers(), Some(upward.upload().stored()));
        }
        let Some(pause) = self.again.ask(at) else {
            return self.fail("the server breaks off at the same place");
        };
        tracing::info!(at, "the server broke a transfer off: asking for it again");
        let proof = (at > 0 && self.upward.is_none()).then(|| self.seam.proof());
        let address = self.address;
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
            && let Poll::Ready(own) = finishing.as_mut().poll(cx)
        {
            self.finishing = None;
            self.own = Some(own);
        }
        self.poll_upload(cx);
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) {
        let (Some(upward), Some(source)) = (&mut self.upward, &self.source) else { return };
        if let Err(error) = upward.poll_give(source, cx) {
            tracing::debug!(%error, "the server takes no more");
            return self.source = None;
        }
        if let Poll::Ready(more) = upward.poll_look(cx) {
            self.ticketed = false;
            if !more {
                // From here on it is as one that nobody can go on with.
                self.upward = None;
                self.slot.tell(DataNews::Fixed);
            }
        }
    }

    /// The transfer begins: the first thing that the broker hears is a ticket. Of an upload there
    /// are more, as more of it is proven to be in the file.
    fn begin(&mut self, session: &mut Session) {
        if self.state.is_none()
            && let Some(begun) = self.slot.take_begun()
        {
            self.is_about(begun.state);
            match begun.stream {
                Some(stream) => self.source = Some(Upstream::Tcp(stream)),
                None => self.resume(),
            }
        }
        let Some(state) = self.state.as_ref().filter(|_| !self.ticketed) else { return };
        self.ticketed = true;
        let Some(mint) = &self.mint else { return };
        let at = session.positions().end;
        let upload = self.upward.as_ref().map(Upward::upload);
        let stored = upload.map(ftp::Upload::stored);
        let covers = upload.map_or(0, ftp::Upload::covers);
        let ticket = if state.running.transfer == Transfer::Down || stored.is_some() {
            let state = DataState { stored, ..state.clone() };
            let exchange = Exchange::Ftp(ftp::Exchange::Data(Box::new(state)));
            mint.seal((covers, at), exchange)
        } else {
            Vec::new()
        };
        let transferable = !ticket.is_empty();
        let seam_from = if transferable { 0 } else { at };
        session.offer_ticket(TicketOffer { at, covers, seam_from, transferable, ticket });
    }

    /// What the client's side may forget: all that the server took, or what is proven.
    fn release(&self, session: &mut Session) {
        let proving = self.upward.is_some() && self.verdict() != Some(Verdict::Done);
        if self.mint.is_some() && self.state.is_some() && !proving {
            session.release_acks(session.positions().delivered);
        }
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
            (Some(_), _) if !self.is_upload() || self.failed => Poll::Ready(()),
            (Some(_), Some(source)) if self.has_room() => source.poll_writable(cx),
            // Something else is waited for first: the server's word, or another connection.
            (Some(_), _) => Poll::Pending,
        }
    }

    fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled> {
        self.begin(session);
        self.release(session);
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
        let waits = self.is_upload() && !self.failed;
        let (state, source, upward) = (&self.state, &self.source, &mut self.upward);
        let pushed =
            session.deliver(now, arrived, |slices| match (state, source, upward.as_mut()) {
                (None, _, _) => Err(io::ErrorKind::WouldBlock.into()),
                (Some(_), Some(source), Some(upward)) if waits => upward.write(source, slices),
                (Some(_), Some(source), None) if waits => source.try_write(slices),
                (Some(_), None, _) if waits => Err(io::ErrorKind::WouldBlock.into()),
                // Nobody reads what a client sends on a download.
                _ => Ok(slices.iter().map(|slice| slice.len()).sum()),
            });
        self.release(session);
        match pushed {
            Err(error) if waits && error.kind() != io::ErrorKind::WouldBlock => {
                tracing::debug!(%error, "the server takes no more");
                // Its own word comes, or its control connection breaks as well.
                self.source = None;
                if self.upward.is_none() {
                    self.fail("the server takes no more of an upload");
                }
                Ok(0)
            }
            pushed => pushed,
        }
    }

    fn shut(&mut self, _now: Instant, how: ShutNear) {
        match how {
            ShutNear::Fin if self.upward.is_some() => {
                self.upward.iter_mut().for_each(Upward::end);
            }
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

/// The server's last reply: what stands before it says nothing.
async fn last_reply(control: &mut Connection) -> Result<Reply, JoinError> {
    loop {
        let reply = control.reply_at_last().await?;
        if !reply.is_preliminary() {
            return Ok(reply);
        }
    }
}

async fn finish_download(mut control: Connection) -> Verdict {
    let done = last_reply(&mut control).await.is_ok_and(|reply| reply.is_done());
    if done { Verdict::Done } else { Verdict::Lost }
}

/// An upload that was gone on with is complete if the file has the size that it should have.
async fn finish_upload(mut control: Connection, look: Look, expected: Arc<AtomicU64>) -> Verdict {
    match last_reply(&mut control).await {
        Ok(reply) if reply.is_done() => {}
        Ok(_) => return Verdict::Failed,
        Err(_) => return Verdict::Lost,
    }
    let Ok(reply) = control.ask(&look.size).await else { return Verdict::Lost };
    let expected = expected.load(Ordering::Acquire);
    if reply.size().is_none_or(|size| size == expected) { Verdict::Done } else { Verdict::Failed }
}

fn blocked() -> io::Result<Pulled> {
    Err(io::ErrorKind::WouldBlock.into())
}
