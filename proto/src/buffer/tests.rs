//! Bytes kept are bytes given back, whatever the pieces (R30).

use super::*;

fn fill(buffer: &mut SendBuffer, bytes: &[u8], room: usize, max: usize) -> usize {
    let mut left = bytes;
    buffer
        .fill(room, max, |slices| {
            for slice in slices {
                let here = slice.len().min(left.len());
                slice[..here].copy_from_slice(&left[..here]);
                left = &left[here..];
            }
            Ok(bytes.len() - left.len())
        })
        .unwrap()
}

fn at(buffer: &SendBuffer, position: u64, max: usize) -> Vec<u8> {
    buffer.at(position, max).flatten().copied().collect()
}

#[test]
fn every_range_can_be_read_back_until_it_is_freed() {
    for piece in [1, 3, 4, 64] {
        let bytes: Vec<u8> = (0..100).collect();
        let mut buffer = SendBuffer::new(1000, piece);
        let mut done = 0;
        while done < 100 {
            done += fill(&mut buffer, &bytes[done..(done + 7).min(100)], 1000, 16);
        }
        assert_eq!((buffer.start(), buffer.end()), (1000, 1100));
        for freed in [0, 1, 50, 99, 100] {
            buffer.free(1000 + freed);
            for from in freed..=100 {
                for max in [0, 1, 5, 200] {
                    let end = (from as usize + max).min(100);
                    assert_eq!(at(&buffer, 1000 + from, max), bytes[from as usize..end]);
                }
            }
        }
        assert!(buffer.is_empty());
        buffer.trim();
        assert!(buffer.is_bare() && buffer.memory() == 0);
    }
}

#[test]
fn no_more_is_offered_than_there_is_room() {
    let mut buffer = SendBuffer::new(0, 8);
    assert_eq!(fill(&mut buffer, &[1; 100], 5, 64), 5);
    assert_eq!(fill(&mut buffer, &[2; 100], 1, 64), 1);
    assert_eq!(fill(&mut buffer, &[3; 100], 0, 64), 0);
    assert_eq!(at(&buffer, 0, 100), [1, 1, 1, 1, 1, 2]);
}

#[test]
fn a_failed_read_changes_nothing() {
    let mut buffer = SendBuffer::new(0, 8);
    fill(&mut buffer, b"abc", 100, 64);
    let before = buffer.clone();
    let result = buffer.fill(100, 64, |_| Err(io::ErrorKind::WouldBlock.into()));
    assert!(result.is_err());
    assert_eq!(buffer, before);
    assert_eq!(buffer.fill(100, 64, |_| Ok(0)).unwrap(), 0);
    assert_eq!(buffer, before);
}

#[test]
fn memory_freed_is_used_again_last_first() {
    let mut buffer = SendBuffer::new(0, 64 << 10);
    let block = vec![1; 64 << 10];
    let mut addresses = std::collections::BTreeSet::new();
    for _ in 0..100 {
        fill(&mut buffer, &block, 8 << 20, 64 << 10);
        addresses.insert(buffer.at(buffer.start(), 1).next().unwrap().as_ptr() as usize);
        buffer.free(buffer.end());
    }
    assert_eq!(addresses.len(), 1, "always the same warm piece");
    assert!(buffer.memory() <= 2 * (64 << 10));
}

#[test]
fn equal_bytes_in_other_pieces_are_equal() {
    let (mut one, mut other) = (SendBuffer::new(3, 2), SendBuffer::new(3, 50));
    for byte in b"hello world" {
        fill(&mut one, &[*byte], 100, 100);
    }
    fill(&mut other, b"hello", 100, 100);
    assert_ne!(one, other);
    fill(&mut other, b" world", 100, 100);
    assert_eq!(one, other);
    let hash = |buffer: &SendBuffer| {
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        buffer.hash(&mut hasher);
        hasher.finish()
    };
    assert_eq!(hash(&one), hash(&other));
}

#[test]
fn what_the_near_side_does_not_take_is_kept_in_order() {
    let stream: Vec<u8> = (0..=255).collect();
    for step in 1..20 {
        let mut buffer = ReceiveBuffer::new(5);
        let mut got = Vec::new();
        let mut given = 0;
        while got.len() < stream.len() {
            let end = (given + 13).min(stream.len());
            let middle = given + (end - given) / 3;
            let arrived = [&stream[given..middle], &stream[middle..end]];
            given = end;
            let mut appetite = step;
            let result = buffer.deliver(&arrived, None, |slices, _| {
                if appetite == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let mut count = 0;
                for slice in slices {
                    let here = slice.len().min(appetite - count);
                    got.extend_from_slice(&slice[..here]);
                    count += here;
                }
                appetite -= count;
                Ok(count)
            });
            assert!(result.is_ok_and(|count| count <= step));
            assert_eq!(buffer.len(), given - got.len());
        }
        assert_eq!(got, stream);
    }
}

#[test]
fn an_error_after_some_bytes_is_told_at_the_next_call() {
    let mut buffer = ReceiveBuffer::new(5);
    let mut calls = 0;
    let mut write = |slices: &[IoSlice<'_>], _: bool| {
        calls += 1;
        if calls == 1 { Ok(slices[0].len()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    assert_eq!(buffer.deliver(&[b"abc", b"def"], None, &mut write).unwrap(), 3);
    let error = buffer.deliver(&[], None, &mut write).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(buffer.len(), 3, "kept");
    assert_eq!(buffer.discard(), 3);
}

#[test]
fn interrupted_writes_are_repeated() {
    let mut buffer = ReceiveBuffer::new(5);
    let mut calls = 0;
    let result = buffer.deliver(&[b"abc"], None, |slices, _| {
        calls += 1;
        if calls < 3 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(slices[0].len()) }
    });
    assert_eq!(result.unwrap(), 3);
}

#[test]
fn an_urgent_byte_is_written_alone_wherever_it_lies() {
    let stream: Vec<u8> = (0..20).collect();
    for urgent in 0..20 {
        for held in 1..20 {
            for stop in 0..20 {
                let mut buffer = ReceiveBuffer::new(3);
                let mut got = Vec::new();
                let mut marks = Vec::new();
                let full = |_: &[IoSlice<'_>], _| Err(io::ErrorKind::WouldBlock.into());
                buffer.deliver(&[&stream[..held]], None, full).unwrap_err();
                // It takes two bytes at a time, and nothing when it has `stop`.
                let mut write = |most: usize, slices: &[IoSlice<'_>], alone: bool| {
                    let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                    if got.len() >= most {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    if alone {
                        marks.push((got.len(), all.len()));
                    }
                    let count = all.len().min(2);
                    got.extend_from_slice(&all[..count]);
                    Ok(count)
                };
                let arrived = [&stream[held..(held + 20) / 2], &stream[(held + 20) / 2..]];
                let place = Some(urgent as u64);
                let first = buffer.deliver(&arrived, place, |s, alone| write(stop, s, alone));
                let first = first.unwrap_or(0);
                let place = (urgent as u64).checked_sub(first as u64);
                let rest = buffer.deliver(&[], place, |s, alone| write(99, s, alone)).unwrap();
                assert_eq!((first + rest, &got), (20, &stream));
                assert_eq!(marks, [(urgent, 1)]);
            }
        }
    }
}
