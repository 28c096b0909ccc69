//! Links that come up, and links that do not, with the reason at both ends.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::admission::Denied;

#[tokio::test]
async fn a_server_with_another_key_is_refused_and_both_keys_are_named() {
    let (listener, addr) = listener();
    let (client_tls, server_tls) = (tls(), tls());
    let expected = tls().public_key();
    let found = server_tls.public_key();
    let accepting = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("it listens");
        Link::accept(tcp, &server_tls, &options(5_000)).await.map(|_| ())
    });
    let refused = Link::dial(addr, &expected, &client_tls, &options(5_000)).await;
    let refused = refused.expect_err("the wrong key");
    assert!(matches!(refused, DialError::WrongKey { .. }) && refused.blame() == Blame::Peer);
    let text = refused.to_string();
    assert!(text.contains(&expected.to_string()) && text.contains(&found.to_string()), "{text}");
    let accepted = accepting.await.expect("no panic").expect_err("the client left");
    assert_eq!(accepted.reason(), "key_refused", "{accepted}");
    assert!(accepted.to_string().contains("is our public key in its configuration"), "{accepted}");
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_the_paths_fault() {
    let (listener, addr) = listener();
    drop(listener);
    let error = Link::dial(addr, &tls().public_key(), &tls(), &options(5_000)).await;
    let error = error.expect_err("nobody listens");
    assert!(matches!(error, DialError::Refused { .. }), "{error}");
    assert_eq!((error.blame(), error.errno()), (Blame::Path, libc::ECONNREFUSED));
}

#[tokio::test]
async fn a_server_that_never_answers_is_left_in_time() {
    let (_listener, addr) = listener();
    let error = Link::dial(addr, &tls().public_key(), &tls(), &options(50)).await;
    let error = error.expect_err("nobody answers");
    assert_eq!(
        error.to_string(),
        format!("no answer from {addr} during the handshake within 50 ms")
    );
    assert_eq!((error.blame(), error.errno()), (Blame::Path, libc::ETIMEDOUT));
}

#[tokio::test]
async fn a_server_of_another_kind_is_shown_by_its_words() {
    let (listener, addr) = listener();
    let other = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await?;
        tcp.write_all(b"SSH-2.0-OpenSSH_10.0\r\n").await?;
        tcp.read_to_end(&mut Vec::new()).await
    });
    let error = Link::dial(addr, &tls().public_key(), &tls(), &options(5_000)).await;
    let error = error.expect_err("not a server of ours");
    assert!(error.to_string().contains("does not speak TLS: begins with \"SSH-2.0-"), "{error}");
    // A network's log-in page may answer for everybody.
    assert_eq!((error.blame(), error.errno()), (Blame::Path, libc::ETIMEDOUT));
    other.abort();
}

#[tokio::test]
async fn a_server_that_hangs_up_is_the_paths_fault() {
    let (listener, addr) = listener();
    let closing = tokio::spawn(async move { listener.accept().await.map(|_| ()) });
    let error = Link::dial(addr, &tls().public_key(), &tls(), &options(5_000)).await;
    let error = error.expect_err("it hung up");
    assert!(matches!(error, DialError::Lost { .. }), "{error}");
    closing.await.expect("no panic").expect("it listens");
}

#[tokio::test]
async fn an_unknown_congestion_control_is_no_reason_to_have_no_link() {
    let (listener, addr) = listener();
    let server_tls = tls();
    let key = server_tls.public_key();
    let options = LinkOptions { congestion: Some("warp".into()), ..options(5_000) };
    let accepting = async {
        let (tcp, _) = listener.accept().await.expect("it listens");
        Link::accept(tcp, &server_tls, &options).await
    };
    let client_tls = tls();
    let (dialled, accepted) =
        tokio::join!(Link::dial(addr, &key, &client_tls, &options), accepting);
    assert!(dialled.is_ok() && accepted.is_ok());
}

/// Sends `bytes` to an acceptor and tells why it refused.
async fn stranger(acceptor: &Arc<Acceptor>, bytes: &[u8], stay: bool) -> AcceptError {
    let (listener, addr) = listener();
    let mut tcp = raw(addr).await;
    let (accepted, _) = listener.accept().await.expect("it listens");
    tcp.write_all(bytes).await.expect("it is read or buffered");
    if !stay {
        tcp.shutdown().await.expect("it is open");
    }
    let refused = acceptor.accept(accepted).await.expect_err("a stranger");
    drop(tcp);
    refused
}

#[tokio::test]
async fn strangers_are_refused_counted_and_harm_nobody() {
    let acceptor = Arc::new(Acceptor::new(tls(), options(60), 8));
    acceptor.welcome([127, 0, 0, 1].into());
    let http = stranger(&acceptor, b"GET / HTTP/1.1\r\n\r\n", true).await;
    assert!(http.to_string().contains("begins with \"GET / HTTP/1.1"), "{http}");
    stranger(&acceptor, &[0x16, 3, 1, 0xff, 0xff, 1, 1], true).await;
    stranger(&acceptor, &[0x16, 3, 1, 0, 4, 9, 9, 9, 9], true).await;
    stranger(&acceptor, &noise(3, 8_192), true).await;
    let silent = stranger(&acceptor, b"", true).await;
    assert!(matches!(silent, AcceptError::TimedOut { .. }), "{silent}");
    let slow = stranger(&acceptor, &[0x16, 3, 1, 2, 0, 1], true).await;
    assert!(matches!(slow, AcceptError::TimedOut { .. }), "{slow}");
    let gone = stranger(&acceptor, &[0x16, 3], false).await;
    assert!(matches!(gone, AcceptError::Lost { .. }), "{gone}");
    let counted = acceptor.refused();
    assert!(counted.contains(&("garbage", 4)), "{counted:?}");
    assert!(counted.contains(&("timeout", 2)) && counted.contains(&("lost", 1)), "{counted:?}");
    assert_eq!(acceptor.accepted(), 0);
}

#[tokio::test]
async fn too_many_handshakes_are_refused_at_once() {
    let acceptor = Arc::new(Acceptor::new(tls(), options(200), 1));
    let busy = tokio::spawn({
        let acceptor = acceptor.clone();
        async move { stranger(&acceptor, b"", true).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let begun = std::time::Instant::now();
    let refused = stranger(&acceptor, b"", true).await;
    assert!(matches!(refused, AcceptError::Denied { why: Denied::Full(1) }), "{refused}");
    assert!(begun.elapsed() < Duration::from_millis(100));
    assert_eq!(busy.await.expect("no panic").reason(), "timeout");
}

#[tokio::test]
async fn a_hello_altered_anywhere_is_survived() {
    let (listener, addr) = listener();
    let (client_tls, server_tls) = (tls(), tls());
    let key = server_tls.public_key();
    tokio::spawn(
        async move { Link::dial(addr, &key, &client_tls, &options(200)).await.map(|_| ()) },
    );
    let (mut tcp, _) = listener.accept().await.expect("it listens");
    let mut hello = vec![0; 4_096];
    let length = tcp.read(&mut hello).await.expect("a hello");
    hello.truncate(length);
    let acceptor = Arc::new(Acceptor::new(server_tls, options(2_000), 8));
    acceptor.welcome([127, 0, 0, 1].into());
    for at in 0..hello.len() {
        for flip in [1, 0x80] {
            let mut altered = hello.clone();
            altered[at] ^= flip;
            stranger(&acceptor, &altered, false).await;
        }
        stranger(&acceptor, &hello[..at], false).await;
    }
    let counted: u64 = acceptor.refused().iter().map(|(_, count)| count).sum();
    assert_eq!(counted, 3 * hello.len() as u64);
}

/// A broker that went elsewhere says nothing more: what it leaves behind at a gateway, and what
/// the gateway leaves behind at it, ends.
#[tokio::test]
async fn both_ends_of_a_link_have_the_kernel_ask_whether_the_other_lives() {
    let (client, server) = pair().await;
    for end in [&client, &server] {
        let socket = socket2::SockRef::from(&end.tcp);
        assert!(socket.keepalive().unwrap());
        let after = socket.tcp_keepalive_time().unwrap() + socket.tcp_keepalive_interval().unwrap();
        assert!(after <= Duration::from_secs(90), "{after:?}");
    }
}
