//! TLS 1.3 with raw public keys both ways (RFC 7250), and nothing else: no certificates, no
//! resumption, no early data, one protocol name.
//!
//! The handshake is the proof of possession of both keys, so it is all the authentication that
//! the session protocol needs.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer,
    UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage, UnbufferedServerConnection,
};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    ServerConfig, SignatureScheme,
};

use crate::key::{Identity, PublicKey};

/// The protocol's name in the handshake (ALPN): nobody's client or server is taken for ours.
pub(super) const ALPN: &[u8] = b"stp/1";

/// An identity made ready to begin and to accept links; made once per process.
pub struct Tls {
    public: PublicKey,
    provider: Arc<CryptoProvider>,
    certified: Arc<CertifiedKey>,
    server: Arc<ServerConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Tls {
    /// Makes `identity` ready.
    #[must_use]
    pub fn new(identity: &Identity) -> Arc<Self> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        });
        let public = identity.public_key();
        let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.pkcs8().to_vec()));
        let key = provider.key_provider.load_private_key(pkcs8);
        let certified = Arc::new(CertifiedKey::new(
            vec![CertificateDer::from(public.to_spki())],
            key.expect("an identity holds an Ed25519 key, which the provider knows"),
        ));
        let verifier = Arc::new(AnyKey { provider: provider.clone() });
        let server = Arc::new(server_config(&provider, &certified, verifier));
        Arc::new(Self { public, provider, certified, server })
    }

    /// The key that this end shows to the peer.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// The client's end of a handshake with the holder of `expect`.
    pub(super) fn client(&self, expect: &PublicKey, peer: IpAddr) -> UnbufferedClientConnection {
        let name = ServerName::IpAddress(peer.into());
        UnbufferedClientConnection::new(Arc::new(self.client_config(expect)), name)
            .expect("this configuration offers all that a ClientHello needs")
    }

    pub(super) fn client_config(&self, expect: &PublicKey) -> ClientConfig {
        let verifier = ExpectedKey { expect: *expect, provider: self.provider.clone() };
        let shown = AlwaysResolvesClientRawPublicKeys::new(self.certified.clone());
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the suites are of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(shown));
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config
    }

    /// The server's end of a handshake.
    pub(super) fn server(&self) -> UnbufferedServerConnection {
        UnbufferedServerConnection::new(self.server.clone())
            .expect("this configuration holds all that a server needs")
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    certified: &Arc<CertifiedKey>,
    verifier: Arc<dyn ClientCertVerifier>,
) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .expect("the suites are of TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified.clone())));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

#[cfg(test)]
impl Tls {
    pub(super) fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    pub(super) fn server_config_with(&self, verifier: Arc<dyn ClientCertVerifier>) -> ServerConfig {
        server_config(&self.provider, &self.certified, verifier)
    }
}

/// The server showed another key than the one it is known by.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub(super) struct WrongKey {
    pub expected: PublicKey,
    pub found: PublicKey,
}

/// Accepts one server key.
#[derive(Debug)]
struct ExpectedKey {
    expect: PublicKey,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ExpectedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = ed25519(end_entity)?;
        if found == self.expect {
            return Ok(ServerCertVerified::assertion());
        }
        let wrong = WrongKey { expected: self.expect, found };
        Err(CertificateError::Other(OtherError(Arc::new(wrong))).into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(&self.provider, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Accepts every client that proves some Ed25519 key; which keys are welcome is the daemon's
/// decision.
#[derive(Debug)]
struct AnyKey {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        ed25519(end_entity).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(&self.provider, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Under RFC 7250 the "certificate" is the bare SubjectPublicKeyInfo.
pub(super) fn ed25519(spki: &CertificateDer<'_>) -> Result<PublicKey, Error> {
    PublicKey::from_spki(spki).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
}

fn verify(
    provider: &CryptoProvider,
    message: &[u8],
    spki: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let spki = SubjectPublicKeyInfoDer::from(spki.as_ref());
    let known = &provider.signature_verification_algorithms;
    verify_tls13_signature_with_raw_key(message, &spki, dss, known)
}
