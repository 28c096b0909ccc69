//! The app socket against a real Unix socket at the other end, without any shim.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::unix::net::UnixStream as Plain;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use stp_proto::local::wire::{
    Open, OpenFlags, Reply, Request as Asked, Resolve, Resolved, SocketState, WATCHED_BYTES,
};
use stp_proto::local::{Cookie, Family};

use stp_proto::state::State;
use tokio::sync::watch;

use super::{AppEnd, AppSocket, BindError, Listener, Request, Shut};

const COOKIE: Cookie = Cookie([5; 16]);

struct Broker {
    dir: tempfile::TempDir,
    listener: Listener,
}

impl Broker {
    fn new() -> Broker {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(dir.path(), None).unwrap();
        Broker { dir, listener }
    }

    fn dial(&self) -> Plain {
        Plain::connect(self.dir.path().join("broker.sock")).unwrap()
    }

    fn ask(&self, question: &Asked<'_>) -> Plain {
        let mut stream = self.dial();
        stream.write_all(question.encode().unwrap().as_bytes()).unwrap();
        stream
    }

    /// An app whose connect is under way.
    async fn open(&mut self) -> (Plain, AppSocket) {
        let open = Open {
            cookie: COOKIE,
            family: Family::V4,
            destination: "192.0.2.1:80".parse().unwrap(),
            local: "127.0.0.1:4000".parse().unwrap(),
            pid: 1,
            flags: OpenFlags::default(),
        };
        let mut app = self.ask(&Asked::Open(open));
        app.write_all(&[0; 100_000]).unwrap();
        app.write_all(&[1]).unwrap();
        match self.listener.next().await.unwrap() {
            Request::Open(socket) => (app, socket),
            other => panic!("{other:?}"),
        }
    }

    async fn established(&mut self) -> (Plain, AppSocket) {
        let (app, mut socket) = self.open().await;
        socket.establish().await.unwrap();
        (app, socket)
    }

    async fn socket_state(&self) -> SocketState {
        let mut stream = self.ask(&Asked::SocketState(COOKIE));
        let read = tokio::task::spawn_blocking(move || {
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            answer
        });
        match Reply::decode(&read.await.unwrap()).unwrap().unwrap().0 {
            Reply::SocketState(state) => state,
            other => panic!("{other:?}"),
        }
    }
}

async fn read(socket: &mut AppSocket, room: usize) -> Vec<u8> {
    let mut bytes = vec![0; room];
    loop {
        std::future::poll_fn(|cx| socket.poll_readable(cx)).await.unwrap();
        let (front, back) = bytes.split_at_mut(room / 3);
        match socket.try_read(&mut [IoSliceMut::new(front), IoSliceMut::new(back)]) {
            Ok(count) => {
                bytes.truncate(count);
                return bytes;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

#[tokio::test]
async fn small_bursts_arrive_once_and_leave_one_byte_behind() {
    let mut broker = Broker::new();
    let (mut app, mut socket) = broker.established().await;
    for burst in ["a", "bc", "def", "g", "hello world"] {
        app.write_all(burst.as_bytes()).unwrap();
        assert_eq!(read(&mut socket, 64).await, burst.as_bytes());
        let again = socket.try_read(&mut [IoSliceMut::new(&mut [0; 8])]);
        assert_eq!(again.unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    socket.shut(Shut::Reset { errno: 110 });
    let error = app.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(104));
    assert_eq!(broker.socket_state().await, SocketState::Reset(110));
}

#[tokio::test]
async fn bytes_of_any_sizes_arrive_in_order() {
    let mut broker = Broker::new();
    let (mut app, mut socket) = broker.established().await;
    let sent: Vec<u8> =
        (0..3_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || {
        let mut rest = &copy[..];
        let mut size = 1;
        while !rest.is_empty() {
            let count = size.min(rest.len());
            app.write_all(&rest[..count]).unwrap();
            rest = &rest[count..];
            size = size * 7 % 40_961;
        }
        app
    });
    let (mut got, mut room) = (Vec::<u8>::new(), 1);
    loop {
        let piece = read(&mut socket, room).await;
        got.extend(&piece);
        if got.len() == sent.len() {
            break;
        }
        room = room * 5 % 70_001;
    }
    assert!(got == sent);
    assert_eq!(socket.positions().0, sent.len() as u64);
    drop(writer.join().unwrap());
    assert!(read(&mut socket, 9).await.is_empty());
    assert_eq!(socket.end(), AppEnd::Gone);
}

/// Whatever was sent before it, urgent or not, and however it is read: an urgent byte comes alone
/// and at its place, and the newest of those not yet read has the mark.
#[tokio::test]
async fn urgent_bytes_keep_their_place_beside_the_held_one() {
    let (mut broker, mut draw) = (Broker::new(), 1_u64);
    let (mut app, mut socket) = broker.established().await;
    let mut below = |bound: u64| {
        draw = draw.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (draw >> 33) % bound
    };
    let (mut sent, mut got, mut newest) = (0_u64, 0_u64, None);
    for _ in 0..2_000 {
        for _ in 0..below(4) {
            let count = if below(50) == 0 { 20_000 } else { below(4) };
            let bytes: Vec<u8> = (sent..sent + count).map(|at| at as u8).collect();
            app.write_all(&bytes).unwrap();
            sent += count;
            if below(3) == 0 {
                stp_net::urgent::send(&app, sent as u8).unwrap();
                newest = Some(sent);
                sent += 1;
            }
        }
        while got < sent && below(4) > 0 {
            let room = if below(20) == 0 { 30_000 } else { 3 + below(6) };
            let bytes = read(&mut socket, room as usize).await;
            let urgent = newest.filter(|newest| (got..got + bytes.len() as u64).contains(newest));
            assert_eq!(socket.is_urgent(), urgent.is_some(), "bytes from {got}");
            assert!(urgent.is_none() || bytes.len() == 1);
            assert!(bytes.iter().zip(got..).all(|(byte, at)| *byte == at as u8));
            got += bytes.len() as u64;
        }
    }
    while got < sent {
        got += read(&mut socket, 30_000).await.len() as u64;
    }
    assert_eq!((got, socket.positions().0), (sent, sent));
    app.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(read(&mut socket, 9).await.is_empty());
}

#[tokio::test]
async fn the_ends_of_an_app_are_told_apart() {
    let mut broker = Broker::new();
    let (mut app, mut socket) = broker.established().await;
    app.write_all(b"last").unwrap();
    app.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read(&mut socket, 64).await, b"last");
    assert!(read(&mut socket, 64).await.is_empty());
    assert_eq!(socket.end(), AppEnd::Fin);
    std::future::poll_fn(|cx| socket.poll_writable(cx)).await.unwrap();
    assert_eq!(socket.try_write(&[IoSlice::new(b"answer")]).unwrap(), 6);
    socket.close();
    let mut answer = String::new();
    app.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
    assert_eq!(broker.socket_state().await, SocketState::Closed);
    drop(app);

    let mut broker = Broker::new();
    let (app, mut socket) = broker.established().await;
    std::future::poll_fn(|cx| socket.poll_writable(cx)).await.unwrap();
    socket.try_write(&[IoSlice::new(b"unread")]).unwrap();
    drop(app);
    assert!(read(&mut socket, 64).await.is_empty());
    assert_eq!(socket.end(), AppEnd::Reset);
}

#[tokio::test]
async fn a_refusal_is_an_error_for_the_app_and_a_verdict_for_the_shim() {
    let mut broker = Broker::new();
    let (mut app, socket) = broker.open().await;
    assert_eq!(broker.socket_state().await, SocketState::Pending);
    socket.refuse(113);
    assert_eq!(app.read(&mut [0; 8]).unwrap_err().raw_os_error(), Some(104));
    assert_eq!(broker.socket_state().await, SocketState::Refused(113));
}

#[tokio::test]
async fn an_app_that_gives_up_its_connect_is_noticed() {
    let mut broker = Broker::new();
    let (app, mut socket) = broker.open().await;
    assert!(!socket.has_given_up());
    drop(app);
    assert!(socket.has_given_up());
    // The filler is still there to be read; what counts is that nothing hangs.
    let _established_or_gone = socket.establish().await;
    assert!(read(&mut socket, 9).await.is_empty());
}

#[tokio::test]
async fn something_else_than_filler_ends_the_connect() {
    let mut broker = Broker::new();
    let (mut app, mut socket) = broker.open().await;
    drop(app.write_all(b"x"));
    socket.establish().await.unwrap();
    assert_eq!(read(&mut socket, 9).await, b"x");
    let mut other = Broker::new();
    let open = Open {
        cookie: COOKIE,
        family: Family::V4,
        destination: "192.0.2.1:80".parse().unwrap(),
        local: "127.0.0.1:4000".parse().unwrap(),
        pid: 1,
        flags: OpenFlags::default(),
    };
    let mut app = other.ask(&Asked::Open(open));
    app.write_all(&[0, 0, 7]).unwrap();
    let Some(Request::Open(mut socket)) = other.listener.next().await else { panic!() };
    assert_eq!(socket.establish().await.unwrap_err().kind(), ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_second_broker_is_told_of_the_first_and_a_dead_ones_socket_is_replaced() {
    let broker = Broker::new();
    let second = Listener::bind(broker.dir.path(), None);
    assert!(matches!(second, Err(BindError::AlreadyRunning(_))), "{second:?}");
    let dir = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("broker.sock")).unwrap());
    Listener::bind(dir.path(), None).unwrap();
}

#[tokio::test]
async fn who_says_nothing_is_shown_out() {
    let broker = Broker::new();
    let silent = broker.dial();
    let count = || broker.listener.counters().silent.load(Ordering::Relaxed);
    for _ in 0..100 {
        if count() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(count(), 1);
    drop(silent);
}

#[tokio::test]
async fn a_change_of_state_is_told_until_the_session_ends() {
    let mut broker = Broker::new();
    let (sender, states) = watch::channel(Some(State::Active));
    let mut stream = broker.ask(&Asked::Watch(COOKIE));
    let Some(Request::Watch(request)) = broker.listener.next().await else { panic!() };
    assert_eq!(request.cookie, COOKIE);
    request.answer(Some(states));
    let read = tokio::task::spawn_blocking(move || {
        let mut told = [0; WATCHED_BYTES];
        stream.read_exact(&mut told).unwrap();
        assert_eq!(Reply::decode(&told), Ok(Some((Reply::Watched(0), WATCHED_BYTES))));
        sender.send_replace(Some(State::Suspended));
        let mut states = vec![0];
        stream.read_exact(&mut states).unwrap();
        sender.send_replace(Some(State::Closed));
        drop(sender);
        stream.read_to_end(&mut states).unwrap();
        states
    });
    assert_eq!(read.await.unwrap(), [3, 4]);
}

#[tokio::test]
async fn a_program_that_lets_go_of_a_watch_frees_its_place() {
    let mut broker = Broker::new();
    let (sender, states) = watch::channel(None);
    let stream = broker.ask(&Asked::Watch(COOKIE));
    let Some(Request::Watch(request)) = broker.listener.next().await else { panic!() };
    request.answer(Some(states));
    assert_eq!(sender.receiver_count(), 1);
    drop(stream);
    tokio::time::timeout(Duration::from_secs(10), sender.closed()).await.unwrap();
}

#[tokio::test]
async fn nobody_watches_a_session_that_is_not_there() {
    let mut broker = Broker::new();
    let mut stream = broker.ask(&Asked::Watch(COOKIE));
    let Some(Request::Watch(request)) = broker.listener.next().await else { panic!() };
    request.answer(None);
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let told = read.await.unwrap();
    assert_eq!(Reply::decode(&told).unwrap().unwrap().0, Reply::Watched(Errno::ESHUTDOWN as i32));
}

#[tokio::test]
async fn names_are_answered_by_the_broker_or_try_again() {
    let mut broker = Broker::new();
    let question = Asked::Resolve(Resolve { host: "a.test", port: Some(80) });
    for answer in [Some(Resolved::NotRouted), None] {
        let mut stream = broker.ask(&question);
        let Some(Request::Resolve(request)) = broker.listener.next().await else { panic!() };
        assert_eq!((request.host.as_str(), request.port), ("a.test", Some(80)));
        match answer {
            Some(answer) => request.answer(answer),
            None => drop(request),
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let bytes = read.await.unwrap();
        let expected = Reply::Resolved(answer.unwrap_or(Resolved::TryAgain));
        assert_eq!(Reply::decode(&bytes).unwrap().unwrap().0, expected);
    }
}
