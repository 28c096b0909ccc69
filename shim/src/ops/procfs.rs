//! What `/proc` says of the process's own descriptors.

use core::ffi::CStr;

use crate::raw::{self, Fd, Result};

/// What the list of descriptors shows for an epoll instance.
pub const EPOLL: &[u8] = b"anon_inode:[eventpoll]";

/// Calls with the number and the target of each open descriptor.
pub fn each_descriptor(mut each: impl FnMut(Fd, &[u8])) -> Result<()> {
    // Offsets in a `linux_dirent64`.
    const LENGTH_AT: usize = 16;
    const NAME_AT: usize = 19;
    let dir = raw::open(c"/proc/thread-self/fd", libc::O_DIRECTORY)?;
    let mut entries = [0; 2048];
    let mut result = Ok(());
    loop {
        let filled = match raw::getdents(dir, &mut entries) {
            Ok(0) => break,
            Ok(filled) => filled,
            Err(errno) => {
                result = Err(errno);
                break;
            }
        };
        let mut rest = &entries[..filled];
        while let Some(length) = rest.get(LENGTH_AT..LENGTH_AT + 2) {
            let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
            let Some(entry) = rest.get(..length) else { break };
            rest = &rest[length..];
            let name = entry.get(NAME_AT..).map(CStr::from_bytes_until_nul);
            let Some(Ok(name)) = name else { break };
            let Some(number) = decimal(name.to_bytes()) else { continue };
            let mut target = [0; 64];
            if number as Fd != dir
                && let Ok(length) = raw::readlink(dir, name, &mut target)
            {
                each(number as Fd, &target[..length]);
            }
        }
    }
    raw::close(dir);
    result
}

/// Calls with each line that the kernel writes about a descriptor.
pub fn each_line(of: Fd, mut each: impl FnMut(&[u8])) -> Result<()> {
    let mut path = [0; 48];
    let path = info_path(of, &mut path).ok_or(libc::EBADF)?;
    let fd = raw::open(path, 0)?;
    let mut text = [0; 2048];
    let mut filled = 0;
    let result = loop {
        match raw::read(fd, &mut text[filled..]) {
            Ok(0) => break Ok(()),
            Ok(count) => filled += count,
            Err(errno) => break Err(errno),
        }
        let mut begin = 0;
        while let Some(length) = text[begin..filled].iter().position(|byte| *byte == b'\n') {
            each(&text[begin..begin + length]);
            begin += length + 1;
        }
        if begin == 0 && filled == text.len() {
            break Err(libc::ENOBUFS);
        }
        text.copy_within(begin..filled, 0);
        filled -= begin;
    };
    raw::close(fd);
    result
}
fn info_path(fd: Fd, path: &mut [u8; 48]) -> Option<&CStr> {
    const PREFIX: &[u8] = b"/proc/thread-self/fdinfo/";
    path[..PREFIX.len()].copy_from_slice(PREFIX);
    let (mut at, mut rest) = (PREFIX.len() + 10, u32::try_from(fd).ok()?);
    let end = at;
    loop {
        at -= 1;
        path[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    path.copy_within(at..end, PREFIX.len());
    path[PREFIX.len() + end - at] = 0;
    CStr::from_bytes_until_nul(path).ok()
}

/// Reads a decimal number.
pub fn decimal(text: &[u8]) -> Option<u64> {
    number(text, 10)
}

/// Reads a hexadecimal number.
pub fn hexadecimal(text: &[u8]) -> Option<u64> {
    number(text, 16)
}

fn number(text: &[u8], base: u64) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, byte| {
        let digit = u64::from(char::from(*byte).to_digit(base as u32)?);
        sum.checked_mul(base)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_numbers() {
        let mut path = [0; 48];
        assert_eq!(info_path(0, &mut path), Some(c"/proc/thread-self/fdinfo/0"));
        assert_eq!(info_path(1_048_576, &mut path), Some(c"/proc/thread-self/fdinfo/1048576"));
        assert_eq!(info_path(-1, &mut path), None);
        assert_eq!(decimal(b"99999999999999999999"), None);
        assert_eq!(hexadecimal(b"2f2a"), Some(0x2f2a));
    }

    #[test]
    fn every_descriptor_is_seen_once() {
        let fd = raw::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0).unwrap();
        let mut seen = 0;
        each_descriptor(|number, target| seen += i32::from(number == fd && target[0] == b's'))
            .unwrap();
        assert_eq!(seen, 1);
        raw::close(fd);
    }
}
