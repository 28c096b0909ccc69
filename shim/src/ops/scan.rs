//! Which of the process's descriptors have to do with a socket that is about to be replaced:
//! other numbers of the same socket, and the epoll instances it is registered in.
//!
//! Found by reading /proc, so that neither dup nor epoll_ctl needs a hook (SHIM.md 1.4). Where
//! /proc is not to be had, registrations made before connect are not carried over.

use core::ffi::CStr;

use crate::raw::{self, Fd};

/// Registrations carried over at most.
const REGISTRATIONS_MAX: usize = 64;
/// Other numbers of the same socket carried over at most.
const TWINS_MAX: usize = 16;
/// Epoll instances looked at at most.
const EPOLLS_MAX: usize = 64;

/// A registration of the socket in an epoll instance.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Registration {
    epoll: Fd,
    fd: Fd,
    events: u32,
    data: u64,
}

/// A short list in a fixed place.
#[derive(Clone, Copy)]
struct List<T, const N: usize> {
    items: [T; N],
    length: usize,
}

impl<T: Copy + Default, const N: usize> List<T, N> {
    fn new() -> Self {
        List { items: [T::default(); N], length: 0 }
    }

    fn push(&mut self, item: T) {
        if let Some(slot) = self.items.get_mut(self.length) {
            *slot = item;
            self.length += 1;
        }
    }

    fn as_slice(&self) -> &[T] {
        &self.items[..self.length]
    }
}

/// Everything that refers to one socket.
pub struct References {
    twins: List<Fd, TWINS_MAX>,
    registrations: List<Registration, REGISTRATIONS_MAX>,
}

impl References {
    /// Finds them for the socket behind `fd`.
    pub fn find(fd: Fd) -> References {
        let mut found = References { twins: List::new(), registrations: List::new() };
        let Ok((_, _, inode)) = raw::stat(fd) else { return found };
        let mut epolls: List<Fd, EPOLLS_MAX> = List::new();
        each_descriptor(|number, target| {
            if target == b"anon_inode:[eventpoll]" {
                epolls.push(number);
            } else if number != fd && socket_inode(target) == Some(inode) {
                found.twins.push(number);
            }
        });
        for epoll in epolls.as_slice() {
            each_registration(*epoll, inode, |registration| found.registrations.push(registration));
        }
        found
    }

    /// The other numbers of the socket.
    pub fn twins(&self) -> &[Fd] {
        self.twins.as_slice()
    }

    /// Takes the socket out of its epoll instances, before it is replaced.
    pub fn leave(&self) {
        for it in self.registrations.as_slice() {
            let _not_there = raw::epoll_ctl(it.epoll, libc::EPOLL_CTL_DEL, it.fd, 0, 0);
        }
    }

    /// Registers what stands in its place now, with the same events and user data.
    pub fn join(&self) {
        for it in self.registrations.as_slice() {
            let operation = libc::EPOLL_CTL_ADD;
            let _by_twin = raw::epoll_ctl(it.epoll, operation, it.fd, it.events, it.data);
        }
    }
}

/// Calls with the number and the target of each open descriptor.
fn each_descriptor(mut each: impl FnMut(Fd, &[u8])) {
    // Offsets in a `linux_dirent64`.
    const LENGTH_AT: usize = 16;
    const NAME_AT: usize = 19;
    let Ok(dir) = raw::open(c"/proc/thread-self/fd", libc::O_DIRECTORY) else { return };
    let mut entries = [0; 2048];
    while let Ok(filled @ 1..) = raw::getdents(dir, &mut entries) {
        let mut rest = &entries[..filled];
        while let Some(length) = rest.get(LENGTH_AT..LENGTH_AT + 2) {
            let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
            let Some(entry) = rest.get(..length) else { break };
            rest = &rest[length..];
            let name = entry.get(NAME_AT..).map(CStr::from_bytes_until_nul);
            let Some(Ok(name)) = name else { break };
            let Some(number) = decimal(name.to_bytes()) else { continue };
            let mut target = [0; 64];
            if let Ok(length) = raw::readlink(dir, name, &mut target) {
                each(number as Fd, &target[..length]);
            }
        }
    }
    raw::close(dir);
}

/// Calls with each registration of the socket with this inode in an epoll instance.
fn each_registration(epoll: Fd, inode: u64, mut each: impl FnMut(Registration)) {
    let mut path = [0; 48];
    let path = info_path(epoll, &mut path);
    let Some(fd) = path.and_then(|path| raw::open(path, 0).ok()) else { return };
    let mut text = [0; 2048];
    let mut filled = 0;
    while let Ok(count @ 1..) = raw::read(fd, &mut text[filled..]) {
        filled += count;
        let mut begin = 0;
        while let Some(length) = text[begin..filled].iter().position(|byte| *byte == b'\n') {
            if let Some(found) = registration(epoll, inode, &text[begin..begin + length]) {
                each(found);
            }
            begin += length + 1;
        }
        if begin == 0 && filled == text.len() {
            break;
        }
        text.copy_within(begin..filled, 0);
        filled -= begin;
    }
    raw::close(fd);
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

/// Reads a line like `tfd: 5 events: 19 data: 1234 pos:0 ino:2f2f sdev:9`.
fn registration(epoll: Fd, inode: u64, line: &[u8]) -> Option<Registration> {
    let field = |name: &[u8]| {
        let at = line.windows(name.len()).position(|window| window == name)? + name.len();
        let rest = &line[at..];
        let begin = rest.iter().position(|byte| *byte != b' ')?;
        let rest = &rest[begin..];
        let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        Some(&rest[..end])
    };
    if hexadecimal(field(b"ino:")?)? != inode {
        return None;
    }
    Some(Registration {
        epoll,
        fd: decimal(field(b"tfd:")?)? as Fd,
        events: hexadecimal(field(b"events:")?)? as u32,
        data: hexadecimal(field(b"data:")?)?,
    })
}

fn socket_inode(target: &[u8]) -> Option<u64> {
    decimal(target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

fn decimal(text: &[u8]) -> Option<u64> {
    number(text, 10)
}

fn hexadecimal(text: &[u8]) -> Option<u64> {
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
    fn a_line_of_the_kernel_is_read() {
        let line =
            b"tfd:        5 events:       19 data:     deadbeef00000005  pos:0 ino:2f2a sdev:9";
        let expected = Registration { epoll: 3, fd: 5, events: 0x19, data: 0xdead_beef_0000_0005 };
        assert_eq!(registration(3, 0x2f2a, line), Some(expected));
        assert_eq!(registration(3, 0x2f2b, line), None);
        assert_eq!(registration(3, 0x2f2a, b"pos:\t0"), None);
    }

    #[test]
    fn paths_and_numbers() {
        let mut path = [0; 48];
        assert_eq!(info_path(0, &mut path), Some(c"/proc/thread-self/fdinfo/0"));
        assert_eq!(info_path(1_048_576, &mut path), Some(c"/proc/thread-self/fdinfo/1048576"));
        assert_eq!(info_path(-1, &mut path), None);
        assert_eq!(socket_inode(b"socket:[4711]"), Some(4711));
        assert_eq!(socket_inode(b"pipe:[4711]"), None);
        assert_eq!(decimal(b"99999999999999999999"), None);
    }
}
