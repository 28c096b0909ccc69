//! Links against an unmodified rustls at the other end.

use std::io::{Read, Write};
use std::net;

use rustls::Error;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::UnbufferedServerConnection;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConnection, DigitallySignedStruct, DistinguishedName, ServerConnection,
    SignatureScheme, StreamOwned,
};

use super::*;

/// Reads `length` bytes, changes the key, and sends them back, changing it again on the way.
fn echo(mut stream: impl Read + Write, mut refresh: impl FnMut(), length: usize) {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).expect("all of it comes");
    for part in bytes.chunks(length / 3 + 1) {
        refresh();
        stream.write_all(part).expect("it is read");
    }
    stream.flush().expect("it is read");
}

async fn there_and_back(mut link: Link) {
    let data = noise(5, 300_000);
    for (at, part) in data.chunks(RECORD_MAX).enumerate() {
        if at % 7 == 6 {
            link.change_key();
        }
        link.send(part);
    }
    link.flush().await.expect("the peer is there");
    let mut back = Vec::new();
    while back.len() < data.len() {
        back.extend(link.read_once().await.expect("a link").0.concat());
    }
    assert!(back == data);
}

struct Shared<C>(std::rc::Rc<std::cell::RefCell<C>>);

impl<C: Read> Read for Shared<C> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(bytes)
    }
}

impl<C: Write> Write for Shared<C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.borrow_mut().flush()
    }
}

#[tokio::test]
async fn rustls_as_the_server_understands_us_and_we_it() {
    let (listener, client_tls, server_tls) = (net::TcpListener::bind("127.0.0.1:0"), tls(), tls());
    let listener = listener.expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let key = server_tls.public_key();
    let other = std::thread::spawn(move || {
        let (tcp, _) = listener.accept().expect("it listens");
        let conn = ServerConnection::new(server_tls.server_config()).expect("a configuration");
        let stream = std::rc::Rc::new(std::cell::RefCell::new(StreamOwned::new(conn, tcp)));
        let refresh = || stream.borrow_mut().conn.refresh_traffic_keys().expect("TLS 1.3");
        echo(Shared(stream.clone()), refresh, 300_000);
    });
    let link = Link::dial(addr, &key, &client_tls, &options(5_000)).await;
    there_and_back(link.expect("a good server")).await;
    other.join().expect("no panic");
}

#[tokio::test]
async fn rustls_as_the_client_understands_us_and_we_it() {
    let (listener, addr) = listener();
    let (client_tls, server_tls) = (tls(), tls());
    let key = server_tls.public_key();
    let other = std::thread::spawn(move || {
        let tcp = net::TcpStream::connect(addr).expect("it listens");
        let config = Arc::new(client_tls.client_config(&key));
        let name = rustls::pki_types::ServerName::IpAddress(addr.ip().into());
        let conn = ClientConnection::new(config, name).expect("a configuration");
        let stream = std::rc::Rc::new(std::cell::RefCell::new(StreamOwned::new(conn, tcp)));
        let refresh = || stream.borrow_mut().conn.refresh_traffic_keys().expect("TLS 1.3");
        echo(Shared(stream.clone()), refresh, 300_000);
    });
    let (tcp, _) = listener.accept().await.expect("it listens");
    let link = Link::accept(tcp, &server_tls, &options(5_000)).await;
    there_and_back(link.expect("a good client")).await;
    other.join().expect("no panic");
}

#[tokio::test]
async fn a_client_of_another_protocol_is_refused() {
    let (listener, addr) = listener();
    let (client_tls, server_tls) = (tls(), tls());
    let key = server_tls.public_key();
    let other = std::thread::spawn(move || {
        let mut tcp = net::TcpStream::connect(addr).expect("it listens");
        let mut config = client_tls.client_config(&key);
        config.alpn_protocols = Vec::new();
        let name = rustls::pki_types::ServerName::IpAddress(addr.ip().into());
        let mut conn = ClientConnection::new(Arc::new(config), name).expect("a configuration");
        let _ = conn.complete_io(&mut tcp);
    });
    let (tcp, _) = listener.accept().await.expect("it listens");
    let refused = Link::accept(tcp, &server_tls, &options(5_000)).await.expect_err("no ALPN");
    assert!(refused.to_string().contains("not our protocol"), "{refused}");
    other.join().expect("no panic");
}

/// Wants Ed25519 keys, and then none of them.
#[derive(Debug)]
struct Nobody;

impl ClientCertVerifier for Nobody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::BadSignature.into())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_client_whose_key_is_refused_learns_which_key_that_was() {
    let (listener, addr) = listener();
    let (client_tls, server_tls) = (tls(), tls());
    let (key, ours) = (server_tls.public_key(), client_tls.public_key());
    let config = Arc::new(server_tls.server_config_with(Arc::new(Nobody)));
    let conn = UnbufferedServerConnection::new(config);
    let refusing = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("it listens");
        handshake::accept(&tcp, conn.expect("a configuration")).await.map(|_| ())
    });
    // The server's word comes when the client believes the handshake over.
    let link = Link::dial(addr, &key, &client_tls, &options(5_000)).await;
    let error = link.expect("TLS 1.3").read_to_error().await;
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(error.to_string(), format!("the peer refused our key {ours} (alert AccessDenied)"));
    refusing.await.expect("no panic").expect_err("nobody is welcome");
}
