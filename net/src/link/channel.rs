//! The TLS connection of a link: rustls, which seals and opens every record from the first to the
//! last.
//!
//! rustls' unbuffered interface is used, so the buffers are ours and nothing is read or written
//! behind our back. It gives each received record out as a copy that lives until the next one. So
//! that the records of one read can be lent together, each is moved into the space that the ones
//! before it have left free in the same buffer (`buffer.rs`).

use rustls::Error;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError,
    UnbufferedStatus, WriteTraffic,
};

use super::buffer::{Inbox, Outbox};
use super::record::HEADER;

/// What TLS 1.3 adds to a record: the header, the inner content type, the tag.
const OVERHEAD: usize = HEADER + 1 + 16;
/// More than rustls ever has to say between two records.
const STEPS_MAX: usize = 64;

/// What both kinds of connection can do.
pub(super) trait Drive {
    type Data;
    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn alpn(&self) -> Option<&[u8]>;
    fn peer_keys(&self) -> Option<&[CertificateDer<'static>]>;
    /// rustls has something of its own to send.
    fn owes(&self) -> bool;
}

impl Drive for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(tls)
    }

    fn alpn(&self) -> Option<&[u8]> {
        self.alpn_protocol()
    }

    fn peer_keys(&self) -> Option<&[CertificateDer<'static>]> {
        self.peer_certificates()
    }

    fn owes(&self) -> bool {
        self.wants_write()
    }
}

impl Drive for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(tls)
    }

    fn alpn(&self) -> Option<&[u8]> {
        self.alpn_protocol()
    }

    fn peer_keys(&self) -> Option<&[CertificateDer<'static>]> {
        self.peer_certificates()
    }

    fn owes(&self) -> bool {
        self.wants_write()
    }
}

/// A connection that has shaken hands.
pub(super) enum Channel {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What is to be sealed.
#[derive(Clone, Copy)]
enum Send<'a> {
    Data(&'a [u8]),
    CloseNotify,
}

impl Channel {
    /// Opens every whole record of `inbox` and lends its plaintext there; answers of TLS' own go
    /// to `out`. True when the peer has said that it sends nothing more.
    pub fn open_all(&mut self, inbox: &mut Inbox, out: &mut Outbox) -> Result<bool, Error> {
        match self {
            Self::Client(tls) => open_all(&mut **tls, inbox, out),
            Self::Server(tls) => open_all(&mut **tls, inbox, out),
        }
    }

    /// Seals `plain` as one record.
    pub fn seal(&mut self, plain: &[u8], seen: &mut [u8], out: &mut Outbox) -> Result<(), Error> {
        self.put(Send::Data(plain), seen, out)
    }

    /// Says that nothing more will be sent.
    pub fn close(&mut self, seen: &mut [u8], out: &mut Outbox) -> Result<(), Error> {
        self.put(Send::CloseNotify, seen, out)
    }

    fn put(&mut self, what: Send<'_>, seen: &mut [u8], out: &mut Outbox) -> Result<(), Error> {
        match self {
            Self::Client(tls) => put(&mut **tls, what, seen, out),
            Self::Server(tls) => put(&mut **tls, what, seen, out),
        }
    }

    /// Changes our key and asks the peer to do the same, with the next record.
    #[cfg(test)]
    pub fn change_key(&mut self, seen: &mut [u8]) {
        fn change<D: Drive>(tls: &mut D, seen: &mut [u8]) {
            let Ok(ConnectionState::WriteTraffic(traffic)) = tls.process(seen).state else {
                panic!("rustls is ready to send");
            };
            traffic.refresh_traffic_keys().expect("TLS 1.3");
        }
        match self {
            Self::Client(tls) => change(&mut **tls, seen),
            Self::Server(tls) => change(&mut **tls, seen),
        }
    }

    /// After an error: puts the alert that tells the peer into `out`, if there is one.
    pub fn put_alert(&mut self, seen: &mut [u8], out: &mut Outbox) {
        match self {
            Self::Client(tls) => put_alert(&mut **tls, seen, out),
            Self::Server(tls) => put_alert(&mut **tls, seen, out),
        }
    }
}

fn open_all<D: Drive>(tls: &mut D, inbox: &mut Inbox, out: &mut Outbox) -> Result<bool, Error> {
    let mut closed = false;
    loop {
        let (mut lender, sealed) = inbox.split();
        let UnbufferedStatus { mut discard, state } = tls.process(sealed);
        let done = match state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    lender.lend(record.payload);
                }
                false
            }
            ConnectionState::EncodeTlsData(data) => {
                encode(data, out);
                false
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                false
            }
            ConnectionState::PeerClosed => {
                closed = true;
                false
            }
            ConnectionState::WriteTraffic(_) | ConnectionState::Closed => true,
            _ => return Err(Error::HandshakeNotComplete),
        };
        inbox.discard(discard);
        if done {
            return Ok(closed);
        }
    }
}

/// `seen` is what rustls was shown and did not tell to discard: parts of a message of its own may
/// stand there. Nothing new is in it, so there is nothing to be read.
fn put<D: Drive>(
    tls: &mut D,
    what: Send<'_>,
    seen: &mut [u8],
    out: &mut Outbox,
) -> Result<(), Error> {
    for _ in 0..STEPS_MAX {
        match tls.process(seen).state? {
            ConnectionState::EncodeTlsData(data) => encode(data, out),
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::WriteTraffic(mut traffic) => return write(&mut traffic, what, out),
            // Both directions have ended: nobody will read what comes now.
            ConnectionState::Closed => return Ok(()),
            _ => break,
        }
    }
    Err(Error::General("rustls is not ready to send".into()))
}

fn write<D>(
    traffic: &mut WriteTraffic<'_, D>,
    what: Send<'_>,
    out: &mut Outbox,
) -> Result<(), Error> {
    let mut room = OVERHEAD + if let Send::Data(plain) = what { plain.len() } else { 2 };
    loop {
        let spare = out.spare(room);
        let written = match what {
            Send::Data(plain) => traffic.encrypt(plain, spare),
            Send::CloseNotify => traffic.queue_close_notify(spare),
        };
        match written {
            Ok(written) => {
                out.fill(written);
                return Ok(());
            }
            // More than the record: rustls changes the key before it.
            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size }))
                if required_size > room =>
            {
                room = required_size;
            }
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}

/// After an error rustls holds the alert that tells the peer. It must not be driven further than
/// that: it would meet the error again.
pub(super) fn put_alert<D: Drive>(tls: &mut D, seen: &mut [u8], out: &mut Outbox) {
    while tls.owes() {
        let Ok(ConnectionState::EncodeTlsData(data)) = tls.process(seen).state else {
            return;
        };
        encode(data, out);
    }
}

pub(super) fn encode<D>(mut data: EncodeTlsData<'_, D>, out: &mut Outbox) {
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
        data.encode(&mut [])
    {
        let written = data.encode(out.spare(required_size));
        out.fill(written.expect("it gets the room it asked for"));
    }
}
