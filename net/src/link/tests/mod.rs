//! Two links over loopback, and strangers at one end.

mod closing;
mod hostile;
mod interop;
mod opening;
mod transfer;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};

use super::secured::{LINGER_MAX, PACED, PACED_MIN};
use super::*;
use crate::key::{Identity, PublicKey};

fn tls() -> Arc<Tls> {
    Tls::new(&Identity::generate())
}

fn options(timeout_ms: u64) -> LinkOptions {
    LinkOptions { timeout: Duration::from_millis(timeout_ms), ..LinkOptions::default() }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    (listener, addr)
}

/// A client's and a server's end of one link.
async fn pair() -> (Link, Link) {
    let (listener, addr) = listener();
    pair_through(addr, listener).await
}

/// The same, with the client dialling `addr`, behind which something leads to `listener`.
async fn pair_through(addr: SocketAddr, listener: TcpListener) -> (Link, Link) {
    let (client_tls, server_tls) = (tls(), tls());
    let (server_key, client_key) = (server_tls.public_key(), client_tls.public_key());
    let accepting = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("it listens");
        Link::accept(tcp, &server_tls, &options(5_000)).await.expect("a good client")
    });
    let client = Link::dial(addr, &server_key, &client_tls, &options(5_000)).await;
    let (client, server) = (client.expect("a good server"), accepting.await.expect("no panic"));
    assert_eq!((client.peer_key(), server.peer_key()), (server_key, client_key));
    (client, server)
}

impl Link {
    /// Changes our key with the next record.
    fn change_key(&mut self) {
        self.channel.change_key(self.inbox.seen());
    }

    /// What the next read that has something to say says: records, and whether the end was said.
    async fn read_once(&mut self) -> io::Result<(Vec<Vec<u8>>, bool)> {
        loop {
            poll_fn(|cx| self.poll_readable(cx)).await?;
            match self.try_read() {
                Ok(records) if records.is_empty() && !records.closed() => {}
                Ok(records) => {
                    return Ok((records.iter().map(<[u8]>::to_vec).collect(), records.closed()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads until `count` records came.
    async fn read_records(&mut self, count: usize) -> io::Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(self.read_once().await?.0);
        }
        Ok(all)
    }

    /// The error that reading ends with.
    async fn read_to_error(&mut self) -> io::Error {
        loop {
            match self.read_once().await {
                Ok((_, closed)) => assert!(!closed, "a clean end"),
                Err(error) => return error,
            }
        }
    }
}

/// Bytes that look random and are the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

async fn raw(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).await.expect("it listens")
}
