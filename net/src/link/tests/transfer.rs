//! What is sent arrives, whole and in order.

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Sends `total` bytes in records of many sizes and takes as many, in one task; returns the
/// digests of both. The key is changed after that number of records.
async fn exchange(
    mut link: Link,
    seed: u64,
    total: usize,
    change_key_after: usize,
) -> (Vec<u8>, Vec<u8>) {
    let (mut sent, mut received) = (Sha256::new(), Sha256::new());
    let (mut to_send, mut to_receive, mut round) = (total, total, 0_usize);
    let block = noise(seed, RECORD_MAX);
    while to_send > 0 || to_receive > 0 || link.unsent() > 0 {
        while to_send > 0 && link.has_room() {
            let length = [RECORD_MAX, 1, 700, 16_000][round % 4].min(to_send);
            round += 1;
            sent.update(&block[..length]);
            if round.is_multiple_of(change_key_after) {
                link.change_key();
            }
            link.send(&block[..length]);
            to_send -= length;
        }
        let done = link.try_flush().expect("the peer is there");
        poll_fn(|cx| {
            let readable = to_receive > 0 && link.poll_readable(cx).is_ready();
            let writable = !done && link.poll_writable(cx).is_ready();
            if readable || writable || (done && to_send > 0) || (done && to_receive == 0) {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
        match link.try_read() {
            Ok(records) => {
                for record in records.iter() {
                    received.update(record);
                    to_receive -= record.len();
                }
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
        }
    }
    (sent.finalize().to_vec(), received.finalize().to_vec())
}

#[tokio::test]
async fn a_link_that_starts_slowly_is_held_back_only_at_first() {
    let (client, mut server) = pair().await;
    server.start_slowly(0).expect("the kernel can pace");
    let begun = Instant::now();
    let total = 64 * 1024 * 1024;
    let there = tokio::spawn(exchange(client, 1, total, usize::MAX));
    let back = tokio::spawn(exchange(server, 2, total, usize::MAX));
    let (there, back) = (there.await.expect("no panic"), back.await.expect("no panic"));
    assert_eq!((&there.0, &there.1), (&back.1, &back.0));
    // At the least rate all of it would take a minute.
    let took = begun.elapsed();
    assert!(took >= PACED && took.as_secs() < total as u64 / PACED_MIN, "{took:?}");
}

#[tokio::test]
async fn much_in_both_directions_at_once_arrives_as_it_was() {
    let (client, server) = pair().await;
    let total = 96 * 1024 * 1024;
    let there = tokio::spawn(exchange(client, 1, total, usize::MAX));
    let back = tokio::spawn(exchange(server, 2, total, usize::MAX));
    let (there, back) = (there.await.expect("no panic"), back.await.expect("no panic"));
    assert_eq!((there.0, there.1), (back.1, back.0));
}

#[tokio::test]
async fn records_keep_their_boundaries() {
    let (mut client, mut server) = pair().await;
    let sizes = [1, 2, 4_000, RECORD_MAX, 3, RECORD_MAX - 1, 1];
    for (at, size) in sizes.iter().enumerate() {
        client.send(&noise(at as u64, *size));
        client.compose(|_nothing| ());
    }
    client.flush().await.expect("the peer is there");
    let records = server.read_records(sizes.len()).await.expect("a link");
    let wanted: Vec<_> = sizes.iter().enumerate().map(|(at, n)| noise(at as u64, *n)).collect();
    assert_eq!(records, wanted);
}

/// Leads connections to `front` on to `to`. What comes from the client is passed on in pieces
/// of 1 to `piece_max` bytes, each after `hold`.
async fn relay(front: TcpListener, to: SocketAddr, piece_max: usize, hold: Duration) {
    let passing = async {
        let (near, _) = front.accept().await?;
        let far = TcpStream::connect(to).await?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
            (near.into_split(), far.into_split());
        let there = async {
            let (mut piece, mut size) = (vec![0; piece_max], piece_max / 2);
            loop {
                size = size % piece_max + 1;
                tokio::time::sleep(hold).await;
                let n = near_in.read(&mut piece[..size]).await?;
                if n == 0 {
                    return io::Result::Ok(());
                }
                far_out.write_all(&piece[..n]).await?;
                tokio::task::yield_now().await;
            }
        };
        let back = async { tokio::io::copy(&mut far_in, &mut near_out).await.map(|_| ()) };
        tokio::try_join!(there, back)
    };
    // It ends with an error or without, when both ends are gone.
    let _ = passing.await;
}

#[tokio::test]
async fn records_that_come_right_behind_the_handshake_are_not_lost() {
    let (behind, behind_addr) = listener();
    let (front, addr) = listener();
    let (client_tls, server_tls) = (tls(), tls());
    let key = server_tls.public_key();
    // Held back like this, the last handshake message and the first records come in one piece.
    tokio::spawn(relay(front, behind_addr, 8_000, Duration::from_millis(20)));
    let client = tokio::spawn(async move {
        let link = Link::dial(addr, &key, &client_tls, &options(5_000)).await;
        let mut link = link.expect("a good server");
        link.send(b"first");
        link.send(b"second");
        link.flush().await.expect("the peer is there");
        link
    });
    let (tcp, _) = behind.accept().await.expect("it listens");
    let server = Link::accept(tcp, &server_tls, &options(5_000)).await;
    let mut server = server.expect("a good client");
    assert!(server.fresh, "the records came with the handshake");
    let records = server.read_records(2).await.expect("a link");
    assert_eq!(records, [b"first".to_vec(), b"second".to_vec()]);
    client.await.expect("no panic");
}

#[tokio::test]
async fn bytes_that_trickle_in_make_the_same_records() {
    let (behind, behind_addr) = listener();
    let (front, front_addr) = listener();
    tokio::spawn(relay(front, behind_addr, 61, Duration::ZERO));
    let (mut client, mut server) = pair_through(front_addr, behind).await;
    let wanted: Vec<_> = (0..40).map(|n| noise(n, 1 + n as usize * 97)).collect();
    for record in &wanted {
        client.send(record);
    }
    client.flush().await.expect("the peer is there");
    assert_eq!(server.read_records(wanted.len()).await.expect("a link"), wanted);
}

#[tokio::test]
async fn keys_change_without_anybody_noticing() {
    let (client, server) = pair().await;
    let total = 4 * 1024 * 1024;
    let there = tokio::spawn(exchange(client, 1, total, 3));
    let back = tokio::spawn(exchange(server, 2, total, 5));
    let (there, back) = (there.await.expect("no panic"), back.await.expect("no panic"));
    assert_eq!((there.0, there.1), (back.1, back.0));
}

#[tokio::test]
async fn a_key_change_asked_for_is_answered_once() {
    let (mut client, mut server) = pair().await;
    for _ in 0..3 {
        client.change_key();
        client.send(b"with another key");
    }
    client.flush().await.expect("the peer is there");
    assert_eq!(server.read_records(3).await.expect("a link"), [b"with another key"; 3]);
    let text = b"with the second";
    server.send(text);
    // Header, content type and tag of each record; and the five bytes of one KeyUpdate.
    assert_eq!(server.unsent(), 2 * 22 + 5 + text.len());
    server.flush().await.expect("the peer is there");
    assert_eq!(client.read_records(1).await.expect("a link"), [text]);
    server.send(text);
    assert_eq!(server.unsent(), 22 + text.len());
}

#[tokio::test]
async fn a_waiting_link_holds_no_buffers() {
    let (mut client, mut server) = pair().await;
    client.send(&noise(1, RECORD_MAX));
    client.compose(|out| out.extend_from_slice(&noise(2, RECORD_MAX)));
    client.flush().await.expect("the peer is there");
    assert!(client.out.is_empty());
    server.read_records(2).await.expect("a link");
    poll_fn(|cx| {
        assert!(server.poll_readable(cx).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    assert!(server.inbox.is_empty());
    let size = size_of::<Link>() + size_of::<rustls::server::UnbufferedServerConnection>();
    assert!(size < 4096, "{size} bytes");
}

#[tokio::test]
async fn a_full_link_says_so_and_keeps_order() {
    let (mut client, mut server) = pair().await;
    let mut sent = 0;
    let block = noise(9, RECORD_MAX);
    // The peer does not read: in the end the kernel takes nothing and the link is full.
    for _ in 0..10_000 {
        if !client.has_room()
            && !client.try_flush().expect("the peer is there")
            && !client.has_room()
        {
            break;
        }
        client.send(&block);
        sent += 1;
    }
    assert!(!client.has_room() && client.unsent() < ROOM + 2 * RECORD_MAX);
    let reading = tokio::spawn(async move { server.read_records(sent).await });
    client.flush().await.expect("the peer is there");
    let records = reading.await.expect("no panic").expect("a link");
    assert!(records.len() == sent && records.iter().all(|record| *record == block));
}

#[tokio::test]
async fn the_kernel_tells_of_the_path() {
    let (mut client, mut server) = pair().await;
    client.send(&[1; 1_000]);
    client.flush().await.expect("the peer is there");
    server.read_records(1).await.expect("a link");
    // The peer's kernel may take its time to acknowledge.
    let mut info = client.tcp_info().expect("a TCP socket");
    for _ in 0..100 {
        if info.unacked == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        info = client.tcp_info().expect("a TCP socket");
    }
    assert!((1..1_000_000).contains(&info.rtt_us), "{info:?}");
    assert!(info.mss > 500 && info.cwnd > 0, "{info:?}");
    assert!(info.bytes_acked > 1_000 && info.bytes_acked < 100_000, "{info:?}");
    assert!(client.local_addr() == server.peer_addr() && client.peer_addr() == server.local_addr());
}
