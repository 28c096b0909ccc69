//! A client's link: requests are read, carried out one after the other, and answered. In between,
//! the client is told of changes of the names that it watches. Each link has a task.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

use stp_net::limit::network;
use stp_net::link::{AcceptError, Acceptor, Link};
use stp_proto::lookup::{Answer, Ask, Body, Done, OneName, Refusal, Refused, Request};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::gateway::Pending;
use crate::servers::{Sending, ToldRevoked};
use crate::sns::{Caller, Sns, too_many};
use crate::tables::Watching;

/// The most changes that wait to be told. A change that does not fit is told with the next one.
const CHANGES_MAX: usize = 64;
/// The most failed log-ins on one link.
const FAILURES_MAX: u32 = 3;

/// Accepts links for ever.
pub async fn serve(sns: Arc<Sns>, acceptor: Arc<Acceptor>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((tcp, from)) => {
                let (sns, acceptor) = (Arc::clone(&sns), Arc::clone(&acceptor));
                let most = sns.config.limits.links_per_network;
                let Some(place) = sns.links.take(network(from.ip()), most) else {
                    sns.counters.refused(Refusal::Full);
                    continue;
                };
                tokio::spawn(async move {
                    welcome(&sns, &acceptor, tcp, from.ip()).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Mostly the process is out of file descriptors: other links must get time to give
                // some back.
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn welcome(sns: &Arc<Sns>, acceptor: &Acceptor, tcp: TcpStream, from: IpAddr) {
    match Box::pin(acceptor.accept(tcp)).await {
        Ok(link) => {
            let caller = Caller { key: link.peer_key(), address: from, user: None };
            if let Err(error) = Client::new(Arc::clone(sns), caller).run(link, acceptor).await {
                tracing::debug!(%from, %error, "a link ended");
            }
        }
        Err(
            error @ (AcceptError::Lost { .. }
            | AcceptError::TimedOut { .. }
            | AcceptError::Denied { .. }),
        ) => {
            tracing::debug!(%from, %error, "no link");
        }
        Err(error) => tracing::info!(%from, %error, "no link"),
    }
}

enum Step {
    Read,
    Write,
    Changed(u32),
    Idle,
}

/// A client while its link lives: what is known of it, and its requests under way.
pub struct Client {
    sns: Arc<Sns>,
    caller: Caller,
    pending: Option<Pending>,
    failures: u32,
    sending: Sending,
    told_revoked: ToldRevoked,
    watches: HashMap<u32, (OneName, [Watching; 2])>,
    changes: mpsc::Sender<u32>,
    told: mpsc::Receiver<u32>,
}

impl Client {
    /// The client at the other end of a link that has just come up.
    #[must_use]
    pub fn new(sns: Arc<Sns>, caller: Caller) -> Client {
        let (changes, told) = mpsc::channel(CHANGES_MAX);
        Client {
            sns,
            caller,
            pending: None,
            failures: 0,
            sending: Sending::new(),
            told_revoked: ToldRevoked::default(),
            watches: HashMap::new(),
            changes,
            told,
        }
    }

    async fn run(mut self, mut link: Link, acceptor: &Acceptor) -> io::Result<()> {
        let idle = tokio::time::sleep(self.sns.config.limits.idle);
        tokio::pin!(idle);
        loop {
            let step = poll_fn(|cx| {
                if link.unsent() > 0 && link.poll_writable(cx).is_ready() {
                    return Poll::Ready(Step::Write);
                }
                // A client that does not read its answers may not ask for more.
                if link.has_room() {
                    if let Poll::Ready(Some(number)) = self.told.poll_recv(cx) {
                        return Poll::Ready(Step::Changed(number));
                    }
                    if link.poll_readable(cx).is_ready() {
                        return Poll::Ready(Step::Read);
                    }
                }
                idle.as_mut().poll(cx).map(|()| Step::Idle)
            })
            .await;
            match step {
                Step::Idle if self.watches.is_empty() => {
                    link.linger();
                    return Ok(());
                }
                Step::Idle => {}
                Step::Write => {
                    link.try_flush()?;
                    continue;
                }
                Step::Changed(number) => {
                    if let Some(answer) = self.change(number) {
                        send(&mut link, answer)?;
                        link.try_flush()?;
                    }
                    continue;
                }
                Step::Read => {
                    let Some(requests) = read(&mut link)? else {
                        link.linger();
                        return Ok(());
                    };
                    for request in requests {
                        let id = request.id;
                        let body = self.answer(request).await;
                        if matches!(body, Body::Welcome(_) | Body::Announced(_)) {
                            acceptor.welcome(self.caller.address);
                        }
                        if let Body::Refused(refused) = &body {
                            self.sns.counters.refused(refused.why);
                        }
                        send(&mut link, Answer { id, body })?;
                    }
                    link.try_flush()?;
                    if self.failures >= FAILURES_MAX {
                        link.linger();
                        return Ok(());
                    }
                }
            }
            idle.as_mut().reset(tokio::time::Instant::now() + self.sns.config.limits.idle);
        }
    }

    /// The message about a watched name, if a change that waits is still of interest.
    pub fn next_change(&mut self) -> Option<Answer> {
        while let Ok(number) = self.told.try_recv() {
            if let Some(answer) = self.change(number) {
                return Some(answer);
            }
        }
        None
    }

    fn change(&self, number: u32) -> Option<Answer> {
        let (name, _) = self.watches.get(&number)?;
        let changed = self.sns.changed(&self.caller, &name.name, name.endpoint);
        self.sns.counters.told.fetch_add(1, Ordering::Relaxed);
        Some(Answer { id: number, body: Body::Changed(changed) })
    }

    /// Carries out a request.
    pub async fn answer(&mut self, request: Request) -> Body {
        // A log-in costs more than a look-up.
        let cost = if matches!(request.ask, Ask::Login(_) | Ask::Prove(_)) { 5.0 } else { 1.0 };
        // A server's list of files has a bound of its own, and comes from a server that is allowed.
        let free = matches!(request.ask, Ask::Files(_)) && !self.sending.is_empty();
        if !free
            && let Err(wait) = self.sns.requests.take(&self.caller.network(), cost, Instant::now())
        {
            return too_many(wait, "too many requests from this network");
        }
        let sns = Arc::clone(&self.sns);
        let caller = &self.caller;
        match request.ask {
            Ask::GetEndpoint(one) => return sns.get_endpoint(&one.name),
            Ask::GetService(one) => return sns.get_service(caller, &one.name),
            ref ask => sns.counters.asked(kind(ask)),
        }
        match request.ask {
            Ask::NewEndpoint(new) => sns.new_endpoint(caller, new).await,
            Ask::ChangeEndpoint(change) => sns.change_endpoint(caller, change).await,
            Ask::DeleteEndpoint(one) => sns.delete_endpoint(caller, &one.name).await,
            Ask::NewService(new) => sns.new_service(caller, new).await,
            Ask::ChangeService(change) => sns.change_service(caller, change).await,
            Ask::DeleteService(one) => sns.delete_service(caller, &one.name).await,
            Ask::Renew(one) => sns.renew(caller, &one.name).await,
            Ask::Watch(name) => self.watch(request.id, name),
            Ask::Unwatch(end) => {
                self.watches.remove(&end.watch);
                Body::Done(Done)
            }
            Ask::Announce(announce) => sns.announce(caller, announce, &mut self.told_revoked).await,
            Ask::Files(files) => sns.files(caller, files, &mut self.sending).await,
            Ask::Login(login) => {
                let (challenge, pending) = sns.login(&login);
                self.pending = Some(pending);
                challenge
            }
            Ask::Prove(prove) => {
                // A challenge can be used for one proof.
                let Some(pending) = self.pending.take() else {
                    return Body::refused(Refusal::BadRequest, "there is no challenge");
                };
                let (body, user) = sns.prove(caller, &pending, &prove);
                if let Body::Refused(Refused { why: Refusal::LoginRefused, .. }) = &body {
                    self.failures += 1;
                }
                self.caller.user = user;
                body
            }
            Ask::Locate(locate) => sns.locate(caller, &locate),
            Ask::GetEndpoint(_) | Ask::GetService(_) => unreachable!("answered above"),
        }
    }

    fn watch(&mut self, number: u32, name: OneName) -> Body {
        let max = self.sns.config.limits.watches_per_link;
        if self.watches.len() >= max {
            return Body::refused(Refusal::Full, format!("this link watches {max} names"));
        }
        // If its endpoint moves, a service moves as well.
        let endpoint = match name.name.parse::<stp_proto::name::Name>() {
            _ if name.endpoint => name.name.clone(),
            Ok(service) => service.endpoint().to_owned(),
            Err(error) => return Body::refused(Refusal::BadRequest, error.to_string()),
        };
        let watch = |name: &str| self.sns.tables.watch(name, number, self.changes.clone());
        let watching = [watch(&name.name), watch(&endpoint)];
        self.watches.insert(number, (name, watching));
        Body::Done(Done)
    }
}

fn kind(ask: &Ask) -> &'static str {
    match ask {
        Ask::NewEndpoint(_) => "new_ep",
        Ask::ChangeEndpoint(_) => "change_ep",
        Ask::DeleteEndpoint(_) => "del_ep",
        Ask::GetEndpoint(_) | Ask::GetService(_) => "look_up",
        Ask::NewService(_) => "new_service",
        Ask::ChangeService(_) => "change_service",
        Ask::DeleteService(_) => "del_service",
        Ask::Renew(_) => "renew",
        Ask::Watch(_) => "watch",
        Ask::Unwatch(_) => "unwatch",
        Ask::Announce(_) => "announce",
        Ask::Files(_) => "files",
        Ask::Login(_) => "login",
        Ask::Prove(_) => "prove",
        Ask::Locate(_) => "locate",
    }
}

/// The next request; `None` at the end. Anything that is not a request ends the link.
fn read(link: &mut Link) -> io::Result<Option<Vec<Request>>> {
    let records = match link.try_read() {
        Ok(records) => records,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(Vec::new())),
        Err(error) => return Err(error),
    };
    if records.is_empty() && records.closed() {
        return Ok(None);
    }
    let decode = |record| {
        Request::decode(record).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    };
    records.iter().map(decode).collect::<Result<_, _>>().map(Some)
}

fn send(link: &mut Link, answer: Answer) -> io::Result<()> {
    let id = answer.id;
    let bytes = answer.encode().or_else(|error| {
        tracing::error!(%error, "an answer does not fit a record");
        Answer { id, body: Body::refused(Refusal::Full, "the answer is too long") }.encode()
    });
    let bytes = bytes.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    link.send(&bytes);
    Ok(())
}
