//! Goes on with the sessions of a server process that died (R103).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stp_drive::clock::now;
use stp_drive::keep::{Base, Counted, is_deadly};
use stp_drive::{Holder, SessionStatus, Stake, Start};
use stp_keeper::lease::{Held, predecessor_died};
use stp_net::key::PublicKey;
use stp_proto::handle::Handle;
use stp_proto::session::{NotRestored, Remains, Session};
use tokio::sync::mpsc;

use crate::config::Kind;
use crate::keeping::{Face, Keeping};
use crate::life::{INBOX, Ready};
use crate::listener::Server;
use crate::registry::{Ended, Entry};
use crate::service::Service;
use crate::service::ahead::Ahead;
use crate::service::egress::NotLed;
use crate::service::kept::KeptStream;
use crate::service::tcp::Tcp;
use crate::service::upstream::Target;

const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Why a session cannot be gone on with.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    State(#[from] NotRestored),
    #[error("there is no service of kind tcp or egress with this name any more")]
    NoService,
    #[error("{0}")]
    NotLed(#[from] NotLed),
    #[error("three servers died within a minute while they worked for it")]
    Deadly,
    #[error("another session has its place")]
    Taken,
}

/// Takes over what the process before had. It must come before links are taken.
pub fn take_up(server: &Arc<Server>, keeping: &Keeping, held: Vec<Held>) {
    let count = held.len();
    for held in held {
        let number = held.0;
        let (stream, face) = match keeping.take_up(held) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(number, %error, "a socket to a service cannot be taken over");
                continue;
            }
        };
        // Without a record its session was never told of, or has ended.
        let Some(record) = stream.kept().record().filter(|record| !record.is_empty()) else {
            continue;
        };
        let (base, record) = match Base::decode(&record).filter(|_| face.bound) {
            Some((base, rest)) => (Some(base), rest),
            None => (None, record.as_slice()),
        };
        let own = match Remains::decode(record) {
            Ok(remains) => {
                let own = remains.handles().1;
                go_on(server, &stream, &face, (&remains, base)).err().map(|why| (own, why))
            }
            Err(why) => Some((Handle::NONE, why.into())),
        };
        if let Some((own, why)) = own {
            lose(server, &stream, face, own, &why);
        }
    }
    if count > 0 {
        tracing::info!(sessions = server.registry.len(), "goes on where the server before was");
    }
}

/// The service sees a reset, and so does the app, when its broker asks.
fn lose(server: &Server, stream: &KeptStream, face: Face, own: Handle, why: &Lost) {
    let reason = format!("it was not taken over from the process before: {why}");
    tracing::warn!(session = %own, service = face.service, reason, "session ended");
    let _gone_already = socket2::SockRef::from(stream.tcp()).set_linger(Some(Duration::ZERO));
    server.registry.note_end(Ended {
        own,
        service: face.service,
        client: PublicKey(face.client),
        reason,
        lived: Duration::ZERO,
        at: Instant::now(),
    });
}

fn go_on(
    server: &Arc<Server>,
    stream: &Arc<KeptStream>,
    face: &Face,
    (remains, base): (&Remains, Option<Base>),
) -> Result<(), Lost> {
    let kept = stream.kept();
    if is_deadly(kept, predecessor_died(), now()) {
        return Err(Lost::Deadly);
    }
    let mut services = server.config.services.iter();
    let service = services.find(|known| known.name == face.service);
    let service = service.filter(|known| match known.kind {
        Kind::Tcp | Kind::Egress => true,
        Kind::Http => base.is_some(),
        Kind::Https | Kind::File | Kind::Ftp => false,
    });
    let service = service.ok_or(Lost::NoService)?;
    let led = match &service.target {
        Target::Egress(egress) => {
            // One that has closed already has none.
            let peer = stream.tcp().peer_addr().unwrap_or(NOWHERE);
            Some(Target::Toward(egress.again(PublicKey(face.client), peer)?))
        }
        _ => None,
    };
    let ahead = service.ahead.as_ref().map(Ahead::of);
    let near = Tcp::found(Arc::clone(stream), remains.end_given(), ahead, base);
    kept.set_at_work(true);
    let counted_bytes = Counted::since(kept, remains, kept.taken(), base.unwrap_or_default());
    let Counted { at, up, down, .. } = counted_bytes;
    let mut limits = service.limits(&server.config.limits.session);
    limits.send_buffer_max = limits.send_buffer_max.min(kept.up_max());
    limits.receive_buffer_max = limits.receive_buffer_max.min(kept.down_max());
    let session = Session::restore(now(), limits, &face.service, remains, at, (&up, &down))?;
    let (initiator, own) = remains.handles();
    let (client, since) = (PublicKey(face.client), Instant::now());
    let (inbox, commands) = mpsc::channel(INBOX);
    let status = SessionStatus::told_to(server.feed.clone(), own.to_string().into());
    let entry = Entry {
        own,
        inbox,
        status: Arc::new(status),
        service: face.service.clone(),
        endpoint: face.endpoint.clone(),
        since,
        transferred: false,
        wanted: 0,
        epoch: face.epoch,
        fixed: Arc::default(),
        granted: face.granted.clone(),
        spool: near.spool(),
    };
    let (status, fixed) = (Arc::clone(&entry.status), Arc::clone(&entry.fixed));
    let key = (client, initiator);
    let (running, _) = server.registry.replace(key, entry).ok_or(Lost::Taken)?;
    let status = (status, Stake::new(&server.purse, vec![Holder::Key(client)]));
    let (service, passes) = (face.service.clone(), server.passes_for(Kind::Tcp, client));
    let ready = Ready {
        session,
        near: Service::Tcp(near),
        own,
        commands,
        status,
        service,
        since,
        fixed,
        passes,
        led,
    };
    tracing::info!(
        session = %own, service = face.service, client = %client,
        "goes on after a restart, at byte {} of the service, {} for it", at.end, at.delivered
    );
    tokio::spawn(server.life(key, running).run(ready, Start::Unlinked));
    Ok(())
}
