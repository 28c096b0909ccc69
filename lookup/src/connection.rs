//! A link to a directory: requests go out, answers and changes come back, in a task of its own.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use stp_net::key::PublicKey;
use stp_net::link::{DialError, Link, LinkOptions, Tls};
use stp_proto::lookup::{Answer, Ask, Body, Changed, Refused, Request, Unwatch};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

/// The longest time for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Requests that wait for the link.
const QUEUE_MAX: usize = 1_024;
/// Changes that wait for one watcher. A watcher that is slower gets the newest one later.
const CHANGES_MAX: usize = 16;

/// A refusal for a person: the reason, and when to try again.
fn in_words(refused: &Refused) -> String {
    let Refused { why, retry_after_ms, text } = refused;
    // Mostly the directory gives a sentence of its own. If it does not, the kind is named.
    let what = if text.is_empty() { why.to_string() } else { text.clone() };
    match retry_after_ms.div_ceil(1_000) {
        0 => what,
        seconds => format!("{what}; try again in {seconds} s"),
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The directory says no.
    #[error("{}", in_words(.0))]
    Refused(Refused),
    /// The link was lost, or the directory is silent.
    #[error("the directory cannot be reached: {0}")]
    Lost(String),
    /// It answers what was not asked, or what cannot be opened.
    #[error("the directory misbehaves: {0}")]
    Misbehaved(String),
    /// The request is too long to be sent.
    #[error("the request cannot be sent: {0}")]
    TooLong(String),
}

/// A link to a directory.
#[derive(Clone, Debug)]
pub struct Connection {
    outbox: mpsc::Sender<Outgoing>,
    next: Arc<AtomicU32>,
    ours: PublicKey,
    theirs: PublicKey,
    address: SocketAddr,
    local: SocketAddr,
    task: AbortHandle,
}

#[derive(Debug)]
struct Outgoing {
    id: u32,
    bytes: Vec<u8>,
    answer: Option<oneshot::Sender<Body>>,
    changes: Option<mpsc::Sender<Changed>>,
    ends: Option<u32>,
}

/// The changes of one name; dropping it ends the watch.
#[derive(Debug)]
pub struct NameWatch {
    id: u32,
    changes: mpsc::Receiver<Changed>,
    connection: Connection,
}

impl NameWatch {
    /// The next change; none when the link is lost.
    pub async fn changed(&mut self) -> Option<Changed> {
        self.changes.recv().await
    }
}

impl Drop for NameWatch {
    fn drop(&mut self) {
        let id = self.connection.next.fetch_add(1, Ordering::Relaxed);
        let ask = Ask::Unwatch(Unwatch { watch: self.id });
        if let Ok(bytes) = (Request { id, ask }).encode() {
            let ends = Some(self.id);
            let end = Outgoing { id, bytes, answer: None, changes: None, ends };
            // If the queue is full or the link gone, the watch ends with the link.
            let _ = self.connection.outbox.try_send(end);
        }
    }
}

impl Connection {
    /// Connects to the directory that holds `key`.
    pub async fn open(
        address: SocketAddr,
        key: &PublicKey,
        tls: &Tls,
        options: &LinkOptions,
    ) -> Result<Connection, DialError> {
        let link = Link::dial(address, key, tls, options).await?;
        let (outbox, inbox) = mpsc::channel(QUEUE_MAX);
        let (ours, theirs, local) = (tls.public_key(), link.peer_key(), link.local_addr());
        let task = tokio::spawn(async move {
            if let Err(error) = run(link, inbox).await {
                tracing::debug!(%address, %error, "the link to the directory ended");
            }
        });
        let (next, task) = (Arc::new(AtomicU32::new(1)), task.abort_handle());
        Ok(Connection { outbox, next, ours, theirs, address, local, task })
    }

    /// Our key, as the directory knows us.
    #[must_use]
    pub fn our_key(&self) -> PublicKey {
        self.ours
    }

    /// The directory's key.
    #[must_use]
    pub fn directory_key(&self) -> PublicKey {
        self.theirs
    }

    /// Where the directory is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the link leaves this machine.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Whether the link still lives, as far as is known.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.outbox.is_closed()
    }

    /// Ends the link at once for all its users: everything that waits for an answer or watches is
    /// told.
    pub fn close(&self) {
        self.task.abort();
    }

    /// Asks, and waits for the answer; a refusal is an error.
    pub async fn ask(&self, ask: Ask) -> Result<Body, AskError> {
        self.send(ask, None).await.map(|(_, body)| body)
    }

    /// Watches a name; `ask` is a [`Ask::Watch`].
    pub async fn watch(&self, ask: Ask) -> Result<NameWatch, AskError> {
        let (sender, changes) = mpsc::channel(CHANGES_MAX);
        let (id, _) = self.send(ask, Some(sender)).await?;
        Ok(NameWatch { id, changes, connection: self.clone() })
    }

    async fn send(
        &self,
        ask: Ask,
        changes: Option<mpsc::Sender<Changed>>,
    ) -> Result<(u32, Body), AskError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let bytes =
            Request { id, ask }.encode().map_err(|error| AskError::TooLong(error.to_string()))?;
        let (sender, answer) = oneshot::channel();
        let outgoing = Outgoing { id, bytes, answer: Some(sender), changes, ends: None };
        let lost = |what: &str| AskError::Lost(format!("{what} ({})", self.address));
        let exchange = async {
            self.outbox.send(outgoing).await.map_err(|_| lost("the link is lost"))?;
            answer.await.map_err(|_| lost("the link was lost before the answer"))
        };
        match tokio::time::timeout(ANSWER_MAX, exchange).await {
            Err(_) => {
                // A link that seems dead must not keep watchers waiting.
                self.close();
                Err(lost("no answer in time"))
            }
            Ok(Err(error)) => Err(error),
            Ok(Ok(Body::Refused(refused))) => Err(AskError::Refused(refused)),
            Ok(Ok(body)) => Ok((id, body)),
        }
    }
}

enum Step {
    Out(Option<Outgoing>),
    Read,
    Write,
}

#[derive(Default)]
struct Waiting {
    answers: HashMap<u32, oneshot::Sender<Body>>,
    watches: HashMap<u32, mpsc::Sender<Changed>>,
}

/// Carries requests and answers until nobody asks any more or the link is lost.
async fn run(mut link: Link, mut inbox: mpsc::Receiver<Outgoing>) -> io::Result<()> {
    let mut waiting = Waiting::default();
    loop {
        let step = poll_fn(|cx| {
            if link.unsent() > 0 && link.poll_writable(cx).is_ready() {
                return Poll::Ready(Step::Write);
            }
            if link.poll_readable(cx).is_ready() {
                return Poll::Ready(Step::Read);
            }
            if link.has_room() {
                return inbox.poll_recv(cx).map(Step::Out);
            }
            Poll::Pending
        })
        .await;
        match step {
            Step::Out(None) => {
                link.linger();
                return Ok(());
            }
            Step::Out(Some(first)) => {
                waiting.send(&mut link, first);
                while link.has_room()
                    && let Ok(next) = inbox.try_recv()
                {
                    waiting.send(&mut link, next);
                }
                link.try_flush()?;
            }
            Step::Write => {
                link.try_flush()?;
            }
            Step::Read => match link.try_read() {
                Ok(records) => {
                    for record in records.iter() {
                        waiting.handle_record(record)?;
                    }
                    if records.closed() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            },
        }
    }
}

impl Waiting {
    fn send(&mut self, link: &mut Link, outgoing: Outgoing) {
        // A question whose asker gave up is forgotten here, so that the table stays as small as the
        // queue.
        if self.answers.len() >= QUEUE_MAX {
            self.answers.retain(|_, answer| !answer.is_closed());
        }
        if let Some(watch) = outgoing.ends {
            self.watches.remove(&watch);
        }
        if let Some(changes) = outgoing.changes {
            self.watches.insert(outgoing.id, changes);
        }
        if let Some(answer) = outgoing.answer {
            self.answers.insert(outgoing.id, answer);
        }
        link.send(&outgoing.bytes);
    }

    fn handle_record(&mut self, record: &[u8]) -> io::Result<()> {
        let answer = Answer::decode(record)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if let Body::Changed(changed) = answer.body {
            if let Some(watch) = self.watches.get(&answer.id) {
                let _ = watch.try_send(changed);
            }
            return Ok(());
        }
        if matches!(answer.body, Body::Refused(_)) {
            self.watches.remove(&answer.id);
        }
        if let Some(waiting) = self.answers.remove(&answer.id) {
            let _ = waiting.send(answer.body);
        }
        Ok(())
    }
}
