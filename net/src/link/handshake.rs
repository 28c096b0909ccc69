//! Drives rustls through a handshake, record by record, and takes over the keys.
//!
//! rustls is shown one record at a time, so that it never sees application data that came right
//! behind the peer's last handshake message: that is left for our own record layer.

use std::io;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{
    AlertDescription, CertificateError, ConnectionTrafficSecrets, Error, ExtractedSecrets,
};
use tokio::net::TcpStream;

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

/// What derives the next keys of a running link.
pub(super) enum Keys {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Keys {
    pub fn next_to_send(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(keys) => keys.update_tx_secret(),
            Self::Server(keys) => keys.update_tx_secret(),
        }
    }

    pub fn next_to_receive(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(keys) => keys.update_rx_secret(),
            Self::Server(keys) => keys.update_rx_secret(),
        }
    }
}

/// A finished handshake.
pub(super) struct Done {
    pub peer: PublicKey,
    pub secrets: ExtractedSecrets,
    pub keys: Keys,
    /// Bytes read from the socket that belong to records after the handshake.
    pub rest: Vec<u8>,
}

/// Shakes hands over a connected socket. Does not bound its time: the caller does.
pub(super) async fn begin(
    tcp: &TcpStream,
    mut tls: UnbufferedClientConnection,
) -> Result<Done, Failure> {
    let rest = drive(tcp, &mut tls).await?;
    let peer = agreed(tls.alpn_protocol(), tls.peer_certificates())?;
    let (secrets, keys) = tls.dangerous_into_kernel_connection()?;
    Ok(Done { peer, secrets, keys: Keys::Client(keys), rest })
}

/// The server's end of [`begin`].
pub(super) async fn accept(
    tcp: &TcpStream,
    mut tls: UnbufferedServerConnection,
) -> Result<Done, Failure> {
    let rest = drive(tcp, &mut tls).await?;
    let peer = agreed(tls.alpn_protocol(), tls.peer_certificates())?;
    let (secrets, keys) = tls.dangerous_into_kernel_connection()?;
    Ok(Done { peer, secrets, keys: Keys::Server(keys), rest })
}

fn agreed(alpn: Option<&[u8]>, keys: Option<&[CertificateDer<'_>]>) -> Result<PublicKey, Failure> {
    if alpn != Some(tls::ALPN) {
        return Err(Failure::NotTls("speaks TLS, but not our protocol (ALPN \"stp/1\")".into()));
    }
    let key = keys.and_then(|keys| keys.first()).ok_or(Failure::NoKey)?;
    Ok(tls::ed25519(key)?)
}

trait Drive {
    type Data;
    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Drive for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(tls)
    }
}

impl Drive for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(tls)
    }
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
    out: Vec<u8>,
}

async fn drive<D: Drive>(tcp: &TcpStream, tls: &mut D) -> Result<Vec<u8>, Failure> {
    let mut flight = Flight::default();
    loop {
        let step = flight.advance(tls);
        if step.is_err() {
            flight.encode_alert(tls);
        }
        if !flight.out.is_empty() {
            write_all(tcp, &flight.out).await?;
            flight.out.clear();
        }
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
                encode(data, &mut self.out);
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

    /// After an error rustls holds the alert that tells the peer, and gives it out first.
    fn encode_alert<D: Drive>(&mut self, tls: &mut D) {
        for _ in 0..4 {
            let UnbufferedStatus { discard, state } = tls.process(&mut self.inbox[..self.shown]);
            let Ok(ConnectionState::EncodeTlsData(data)) = state else {
                return;
            };
            encode(data, &mut self.out);
            self.inbox.drain(..discard);
            self.shown -= discard;
        }
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

/// The length of the record that begins `bytes`, as [`super::record::whole_record`], but with the
/// record types of a handshake, and plain words about what is none.
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

fn encode<D>(mut data: EncodeTlsData<'_, D>, out: &mut Vec<u8>) {
    let at = out.len();
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
        data.encode(&mut [])
    {
        out.resize(at + required_size, 0);
        let written = data.encode(&mut out[at..]).expect("it gets the room it asked for");
        out.truncate(at + written);
    }
}

async fn write_all(tcp: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        tcp.writable().await?;
        match tcp.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Ends a failed handshake so that our alert arrives: a close with unread input would reset it away.
fn part(tcp: &TcpStream) {
    let _ = socket2::SockRef::from(tcp).shutdown(std::net::Shutdown::Write);
    let mut rest = [0; 4096];
    for _ in 0..16 {
        if !matches!(tcp.try_read(&mut rest), Ok(read) if read > 0) {
            return;
        }
    }
}
