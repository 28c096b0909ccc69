//! A peer with a good key that seals records no TLS library would make.

use std::io::Write;
use std::net;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::{ClientConnection, ConnectionTrafficSecrets};

use super::*;

const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
/// A KeyUpdate that asks for one in return.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 1];

/// A client that has shaken hands by rustls and seals by itself.
struct Hostile {
    tcp: net::TcpStream,
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Hostile {
    fn connect(addr: SocketAddr, client: &Tls, server: &PublicKey) -> Self {
        let mut tcp = net::TcpStream::connect(addr).expect("it listens");
        let mut config = client.client_config(server);
        config.enable_secret_extraction = true;
        let name = rustls::pki_types::ServerName::IpAddress(addr.ip().into());
        let mut conn = ClientConnection::new(Arc::new(config), name).expect("a configuration");
        while conn.is_handshaking() || conn.wants_write() {
            conn.complete_io(&mut tcp).expect("a good server");
        }
        let secrets = conn.dangerous_extract_secrets().expect("enabled above");
        let (sequence, ConnectionTrafficSecrets::Aes128Gcm { key, iv }) = secrets.tx else {
            panic!("AES-128-GCM comes first");
        };
        let key = UnboundKey::new(&AES_128_GCM, key.as_ref()).expect("16 bytes");
        let iv = iv.as_ref().try_into().expect("12 bytes");
        Self { tcp, key: LessSafeKey::new(key), iv, sequence }
    }

    fn send(&mut self, kind: u8, plain: &[u8]) {
        let mut body = plain.to_vec();
        body.push(kind);
        let [high, low] = u16::try_from(body.len() + 16).expect("a short record").to_be_bytes();
        let header = [DATA, 3, 3, high, low];
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        self.sequence += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut body);
        sealed.expect("a short record");
        self.tcp.write_all(&[&header[..], &body].concat()).expect("the peer is there");
    }
}

/// The hostile client, and our end of the link.
async fn hostile_pair() -> (Hostile, Link) {
    let (listener, addr) = listener();
    let (client_tls, server_tls) = (tls(), tls());
    let key = server_tls.public_key();
    let connecting = tokio::task::spawn_blocking(move || Hostile::connect(addr, &client_tls, &key));
    let (tcp, _) = listener.accept().await.expect("it listens");
    let link = Link::accept(tcp, &server_tls, &options(5_000)).await.expect("a good client");
    (connecting.await.expect("no panic"), link)
}

#[tokio::test]
async fn a_message_in_pieces_does_not_disturb_what_is_sent() {
    let (mut peer, mut link) = hostile_pair().await;
    peer.send(DATA, b"before");
    assert_eq!(link.read_records(1).await.expect("a link"), [b"before"]);
    for piece in KEY_UPDATE[..4].chunks(1) {
        peer.send(HANDSHAKE, piece);
        tokio::time::sleep(Duration::from_millis(5)).await;
        poll_fn(|cx| link.poll_readable(cx)).await.expect("a link");
        assert!(link.try_read().expect("part of a message").is_empty());
        assert!(!link.inbox.is_empty(), "the part is kept");
        link.send(b"in between");
        link.flush().await.expect("the peer is there");
    }
    link.send(b"seven");
    let before = link.unsent();
    peer.send(HANDSHAKE, &KEY_UPDATE[4..]);
    tokio::time::sleep(Duration::from_millis(5)).await;
    poll_fn(|cx| link.poll_readable(cx)).await.expect("a link");
    assert!(link.try_read().expect("a whole message").is_empty());
    link.send(b"eight");
    assert_eq!(link.unsent() - before, 2 * 22 + KEY_UPDATE.len() + b"eight".len());
}

#[tokio::test]
async fn a_message_without_end_is_refused() {
    let (mut peer, mut link) = hostile_pair().await;
    // The message announces 16 MiB.
    peer.send(HANDSHAKE, &[24, 0xff, 0xff, 0xff]);
    let sending = std::thread::spawn(move || {
        for _ in 0..8 {
            peer.send(HANDSHAKE, &[0; 16_000]);
        }
        peer
    });
    let error = link.read_to_error().await;
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    sending.join().expect("the kernel takes it all");
}

#[tokio::test]
async fn empty_records_without_end_are_refused() {
    let (mut peer, mut link) = hostile_pair().await;
    for _ in 0..64 {
        peer.send(DATA, b"");
    }
    let error = link.read_to_error().await;
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

#[tokio::test]
async fn data_in_the_middle_of_a_message_is_refused() {
    let (mut peer, mut link) = hostile_pair().await;
    peer.send(HANDSHAKE, &KEY_UPDATE[..2]);
    peer.send(DATA, b"between");
    let error = link.read_to_error().await;
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    link.send(b"after the end");
    assert_eq!(link.unsent(), 0);
}
