use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::*;

/// Byte `at` of a stream that repeats itself nowhere near.
fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ (at >> 3) as u8
}

fn queue_full(socket: &UnixStream, kept: &Kept) -> usize {
    let piece = [7; 1000];
    let mut all = 0;
    while let Ok(count) = kept.write(socket.as_fd(), &[IoSlice::new(&piece)], false) {
        all += count;
    }
    all
}

#[test]
fn counts_follow_what_the_socket_took_and_gave() {
    let (here, mut there) = UnixStream::pair().unwrap();
    let kept = Kept::new(10_000, 10_000).unwrap();
    let full = queue_full(&here, &kept);
    assert_eq!(kept.given(), full as u64);
    kept.skip(5);
    assert_eq!(kept.given(), full as u64 + 5);
    there.write_all(b"0123456789").unwrap();
    assert_eq!(kept.read(here.as_fd(), 1, 12_287, 4).unwrap(), 5);
    assert_eq!(kept.peek(here.as_fd(), 12_291).unwrap(), 1);
    assert_eq!(kept.taken(), 5);
    let mut got = [0; 5];
    kept.copy_up(12_287, 5, &mut [IoSliceMut::new(&mut got)]);
    assert_eq!(&got, b"12345", "across the end of the ring");
    let again = Kept::open(kept.file().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!((again.taken(), again.given()), (5, full as u64 + 5));
}

#[test]
fn errors_count_nothing() {
    let (here, there) = UnixStream::pair().unwrap();
    let kept = Kept::new(10_000, 10_000).unwrap();
    assert_eq!(kept.read(here.as_fd(), 0, 0, 10), Err(rustix::io::Errno::AGAIN));
    drop(there);
    assert_eq!(kept.read(here.as_fd(), 0, 0, 10), Ok(0), "the end");
    let sent = kept.write(here.as_fd(), &[IoSlice::new(b"x")], false);
    assert_eq!(sent, Err(rustix::io::Errno::PIPE));
    assert_eq!((kept.taken(), kept.given()), (0, 0));
}

#[test]
fn texts_and_held_bytes_are_found_again() {
    let kept = Kept::new(1, 4096).unwrap();
    assert_eq!((kept.face(), kept.record()), (None, None));
    kept.put_face(b"who");
    for text in ["one", "two", "three"] {
        assert!(kept.put_record(text.as_bytes()));
    }
    assert!(!kept.put_record(&[0; RECORD_MAX + 1]));
    kept.hold(4090, b"0123456789");
    kept.hold_until(4100);
    let again = Kept::open(kept.file().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!(again.face().unwrap(), b"who");
    assert_eq!(again.record().unwrap(), b"three");
    assert_eq!(again.held(4092, again.held_until()), b"23456789");
    again.give_back();
    assert_eq!(kept.held(4092, 4100), [0; 8]);
    assert_eq!(kept.record().unwrap(), b"three", "the texts stay");
}

#[test]
fn what_is_not_ours_is_refused() {
    let file = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    assert!(Kept::open(file).is_err());
    let kept = Kept::new(1, 1).unwrap();
    kept.memory.write(0, &[0; 8]);
    let error = Kept::open(kept.file().try_clone_to_owned().unwrap()).unwrap_err();
    assert!(error.to_string().contains("another version"), "{error}");
}

/// A process that gives back what it reads, until it is killed. It makes no call that needs more
/// than the kernel, because it was forked from one with several threads.
fn echo(socket: &UnixStream, kept: &Kept) -> ! {
    let ring = kept.up_max() as u64;
    loop {
        let (taken, given) = (kept.taken(), kept.given());
        let room = ring - (taken - given);
        if room > 0 {
            let _nothing_there = kept.read(socket.as_fd(), 0, taken, room as usize);
        }
        let mut bytes = [0; 5000];
        let here = ((kept.taken() - given) as usize).min(bytes.len());
        kept.copy_up(given, here, &mut [IoSliceMut::new(&mut bytes[..here])]);
        if here > 0 {
            let _full = kept.write(socket.as_fd(), &[IoSlice::new(&bytes[..here])], false);
        }
    }
}

#[test]
fn a_process_that_is_killed_at_any_moment_leaves_right_counts() {
    const KILLS: u32 = 300;
    let (here, there) = UnixStream::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    let kept = Kept::new(64 << 10, 1).unwrap();
    let mut reader = there.try_clone().unwrap();
    let mut writer = there;
    let write = std::thread::spawn(move || {
        let mut at = 0;
        loop {
            let piece: Vec<u8> = (at..at + 3001).map(byte).collect();
            match writer.write(&piece) {
                Ok(count) => at += count as u64,
                Err(_) => return at,
            }
        }
    });
    let read = std::thread::spawn(move || {
        let (mut at, mut piece) = (0, [0; 4000]);
        loop {
            match reader.read(&mut piece) {
                Ok(0) | Err(_) => return at,
                Ok(count) => {
                    for got in &piece[..count] {
                        assert_eq!(*got, byte(at), "at {at}");
                        at += 1;
                    }
                }
            }
        }
    });
    for kill in 0..KILLS {
        // SAFETY: the child calls `echo` alone, which allocates nothing and takes no lock.
        let child = unsafe { libc::fork() };
        if child == 0 {
            echo(&here, &kept);
        }
        std::thread::sleep(Duration::from_micros(u64::from(kill * 37 % 3000)));
        // SAFETY: a child of this test, not waited for yet.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
    let (taken, given) = (kept.taken(), kept.given());
    rustix::net::shutdown(&here, rustix::net::Shutdown::Both).unwrap();
    let (sent, got) = (write.join().unwrap(), read.join().unwrap());
    assert_eq!(got, given, "all that was counted came");
    assert!(taken <= sent && given <= taken && given > 1 << 20, "{given} of {taken} of {sent}");
}
