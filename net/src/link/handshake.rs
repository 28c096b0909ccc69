//! Drives rustls through a handshake, record by record.
//!
//! rustls is shown one record at a time, so that it never sees application data that came right
//! behind the peer's last handshake message: that is left for the link to open.

use std::io;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{AlertDescription, CertificateError, Error};
use tokio::net::TcpStream;

use super::buffer::Outbox;
use super::channel::{self, Channel, Drive};
use super::record::{HEADER, WIRE_MAX};
use super::tls::{self, WrongKey};
use crate::key::PublicKey;

/// A handshake of ours takes about 1 KiB each way; nobody may make us hold or chew more than this.
const BYTES_MAX: usize = 32 * 1024;
const READ_CHUNK: usize = 4 * 1024;

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("closed after {0} bytes of the handshake")]
    Closed(usize),
    #[error("{0}")]
    NotTls(String),
    #[error("alert {0:?}")]
    Alert(AlertDescription),
    #[error("{0}")]
    WrongKey(WrongKey),
    #[error("no key shown")]
    NoKey,
    #[error("{0}")]
    Tls(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::AlertReceived(alert) => Self::Alert(alert),
            Error::NoCertificatesPresented => Self::NoKey,
            Error::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<WrongKey>() {
                    Some(wrong) => Self::WrongKey(*wrong),
                    None => Self::Tls(Error::InvalidCertificate(CertificateError::Other(other))),
                }
            }
            error => Self::Tls(error),
        }
    }
}

/// A finished handshake.
pub(super) struct Done {
    pub peer: PublicKey,
    pub channel: Channel,
    /// Bytes read from the socket that belong to records after the handshake.
    pub rest: Vec<u8>,
}

/// Shakes hands over a connected socket. Does not bound its time: the caller does.
pub(super) async fn begin(
    tcp: &TcpStream,
    tls: UnbufferedClientConnection,
) -> Result<Done, Failure> {
    let mut tls = Box::new(tls);
    let rest = drive(tcp, &mut *tls).await?;
    Ok(Done { peer: agreed(&*tls)?, channel: Channel::Client(tls), rest })
}

/// The server's end of [`begin`].
pub(super) async fn accept(
    tcp: &TcpStream,
    tls: UnbufferedServerConnection,
) -> Result<Done, Failure> {
    let mut tls = Box::new(tls);
    let rest = drive(tcp, &mut *tls).await?;
    Ok(Done { peer: agreed(&*tls)?, channel: Channel::Server(tls), rest })
}

fn agreed<D: Drive>(tls: &D) -> Result<PublicKey, Failure> {
    if tls.alpn() != Some(tls::ALPN) {
        return Err(Failure::NotTls("speaks TLS, but not our protocol (ALPN \"stp/1\")".into()));
    }
    let key = tls.peer_keys().and_then(|keys| keys.first()).ok_or(Failure::NoKey)?;
    Ok(tls::ed25519(key)?)
}

enum Step {
    Again,
    NeedsInput,
    Finished,
}

/// The bytes of a handshake under way.
#[derive(Default)]
struct Flight {
    inbox: Vec<u8>,
    /// Whole records that rustls may see end here.
    shown: usize,
    taken: usize,
    out: Outbox,
}

async fn drive<D: Drive>(tcp: &TcpStream, tls: &mut D) -> Result<Vec<u8>, Failure> {
    let mut flight = Flight::default();
    loop {
        let step = flight.advance(tls);
        if step.is_err() {
            let seen = &mut flight.inbox[..flight.shown];
            channel::put_alert(tls, seen, &mut flight.out);
        }
        flight.send(tcp).await?;
        match step {
            Err(failure) => {
                part(tcp);
                return Err(failure);
            }
            Ok(Step::Again) => {}
            Ok(Step::NeedsInput) => flight.read_record(tcp).await?,
            Ok(Step::Finished) => return Ok(flight.inbox),
        }
    }
}

impl Flight {
    fn advance<D: Drive>(&mut self, tls: &mut D) -> Result<Step, Failure> {
        let UnbufferedStatus { discard, state } = tls.process(&mut self.inbox[..self.shown]);
        let step = match state {
            Ok(ConnectionState::EncodeTlsData(data)) => {
                channel::encode(data, &mut self.out);
                Ok(Step::Again)
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Step::Again)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Step::NeedsInput),
            Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Finished),
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                Err(Failure::Closed(self.taken))
            }
            Ok(_) => Err(Failure::NotTls("sent data before the handshake was over".into())),
            Err(error) => Err(error.into()),
        };
        self.inbox.drain(..discard);
        self.shown -= discard;
        step
    }

    async fn send(&mut self, tcp: &TcpStream) -> io::Result<()> {
        while !self.out.unsent().is_empty() {
            tcp.writable().await?;
            match tcp.try_write(self.out.unsent()) {
                Ok(written) => self.out.take(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.out.rest();
        Ok(())
    }

    /// Reads until one more whole record can be shown.
    async fn read_record(&mut self, tcp: &TcpStream) -> Result<(), Failure> {
        loop {
            if let Some(length) = handshake_record(&self.inbox[self.shown..])? {
                self.shown += length;
                return Ok(());
            }
            if self.taken > BYTES_MAX {
                return Err(Failure::NotTls(format!(
                    "sent more than {BYTES_MAX} bytes of handshake"
                )));
            }
            tcp.readable().await?;
            let at = self.inbox.len();
            self.inbox.resize(at + READ_CHUNK, 0);
            let read = tcp.try_read(&mut self.inbox[at..]);
            self.inbox.truncate(at + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(Failure::Closed(self.taken)),
                Ok(read) => self.taken += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The length of the record that begins `bytes`, `None` if it is not all there; plain words about
/// what is none.
fn handshake_record(bytes: &[u8]) -> Result<Option<usize>, Failure> {
    let looks_right = match bytes {
        [] => return Ok(None),
        [kind, rest @ ..] => {
            (20..=23).contains(kind) && rest.first().is_none_or(|major| *major == 3)
        }
    };
    let length = match bytes.first_chunk::<HEADER>() {
        Some(&[_, _, _, high, low]) => HEADER + usize::from(u16::from_be_bytes([high, low])),
        None => HEADER,
    };
    if !looks_right || length > WIRE_MAX {
        let start = &bytes[..bytes.len().min(16)];
        return Err(Failure::NotTls(format!(
            "does not speak TLS: begins with \"{}\"",
            start.escape_ascii()
        )));
    }
    Ok((bytes.len() >= length && bytes.len() >= HEADER).then_some(length))
}

/// Ends a failed handshake so that our alert arrives: a close with unread input would reset it
/// away.
fn part(tcp: &TcpStream) {
    let _ = socket2::SockRef::from(tcp).shutdown(std::net::Shutdown::Write);
    let mut rest = [0; 4096];
    for _ in 0..16 {
        if !matches!(tcp.try_read(&mut rest), Ok(read) if read > 0) {
            return;
        }
    }
}

/// Is this alert about our key?
pub(super) fn blames_key(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired
    )
}
