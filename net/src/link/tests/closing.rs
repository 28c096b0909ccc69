//! Ends, clean and other.

use tokio::io::AsyncWriteExt;

use super::*;

#[tokio::test]
async fn one_direction_ends_and_the_other_goes_on() {
    let (mut client, mut server) = pair().await;
    client.send(b"last");
    client.shut();
    client.flush().await.expect("the peer is there");
    let mut got = server.read_once().await.expect("a link");
    if !got.1 {
        got.1 = server.read_once().await.expect("a link").1;
    }
    assert_eq!(got, (vec![b"last".to_vec()], true));
    let sending = tokio::spawn(async move {
        for n in 0..50_u8 {
            server.send(&[n; 9_000]);
            server.flush().await.expect("the peer is there");
        }
        server
    });
    let records = client.read_records(50).await.expect("a link");
    assert!(records.iter().enumerate().all(|(n, record)| usize::from(record[0]) == n));
    let mut server = sending.await.expect("no panic");
    server.shut();
    server.flush().await.expect("the peer is there");
    assert_eq!(client.read_once().await.expect("a link"), (vec![], true));
    assert!(client.try_read().expect("still a clean end").closed());
}

#[tokio::test]
async fn an_end_without_a_word_is_an_error() {
    let (client, mut server) = pair().await;
    drop(client);
    let error = server.read_to_error().await;
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    let again = server.try_read().expect_err("for good");
    assert_eq!(again.kind(), io::ErrorKind::UnexpectedEof, "{again}");
}

#[tokio::test]
async fn a_lingering_close_delivers_everything_although_input_is_unread() {
    for _ in 0..10 {
        let (client, mut server) = pair().await;
        let mut client = client;
        // Unread input makes a plain close reset the connection.
        server.send(&[7; 5_000]);
        server.flush().await.expect("the peer is there");
        let mut sent = 0;
        while client.has_room() {
            client.send(&[sent; 16_000]);
            sent += 1;
        }
        client.send(b"the last frame");
        client.linger();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut records = server.read_records(usize::from(sent) + 1).await.expect("a link");
        assert_eq!(records.pop(), Some(b"the last frame".to_vec()));
    }
}

#[tokio::test]
async fn a_lingering_close_does_not_wait_for_ever() {
    let (client, server) = pair().await;
    let addr = client.local_addr();
    client.linger();
    // The server's end stays open and says nothing.
    tokio::time::sleep(LINGER_MAX + Duration::from_millis(300)).await;
    let tcp = std::fs::read_to_string("/proc/net/tcp").expect("proc is mounted");
    let port = format!(":{:04X} ", addr.port());
    let held = tcp.lines().filter(|line| line.contains(&port) && !line.contains(" 06 "));
    let ours = held
        .filter(|line| line.split_whitespace().nth(1).is_some_and(|a| a.ends_with(port.trim())));
    for line in ours {
        let inode = line.split_whitespace().nth(9).unwrap_or_default();
        assert_eq!(inode, "0", "the socket is still held: {line}");
    }
    drop(server);
}

#[tokio::test]
async fn garbage_after_good_records_is_noticed_and_the_good_ones_count() {
    for garbage in
        [&[0x17, 3, 3, 0, 40][..], &[0x15, 3, 3, 0, 2, 1, 0], &[0; 64], &[0x17, 3, 3, 0xff, 0xff]]
    {
        let (mut client, mut server) = pair().await;
        client.send(b"good");
        client.flush().await.expect("the peer is there");
        client.tcp.writable().await.expect("the peer is there");
        let mut bytes = garbage.to_vec();
        bytes.extend_from_slice(&noise(4, 40));
        client.tcp.write_all(&bytes).await.expect("the peer is there");
        assert_eq!(server.read_records(1).await.expect("the good one"), [b"good"]);
        let error = server.read_to_error().await;
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(error.to_string().starts_with("peer misbehaved: "), "{error}");
        // The peer is told.
        assert!(matches!(client.read_to_error().await.kind(), io::ErrorKind::ConnectionAborted));
    }
}

#[tokio::test]
async fn an_altered_record_is_never_lent() {
    let (mut client, mut server) = pair().await;
    client.send(&[5; 1_000]);
    client.out.unsent_mut()[500] ^= 1;
    client.flush().await.expect("the peer is there");
    let error = server.read_once().await.expect_err("altered");
    assert!(error.to_string().contains("cannot decrypt"), "{error}");
}

#[tokio::test]
async fn a_record_sent_again_is_never_lent() {
    let (mut client, mut server) = pair().await;
    client.send(b"once");
    let copy = client.out.unsent().to_vec();
    client.out.spare(copy.len())[..copy.len()].copy_from_slice(&copy);
    client.out.fill(copy.len());
    client.flush().await.expect("the peer is there");
    assert_eq!(server.read_records(1).await.expect("the first"), [b"once"]);
    let error = server.read_to_error().await;
    assert!(error.to_string().contains("cannot decrypt"), "{error}");
}
