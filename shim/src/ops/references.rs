//! What else refers to a socket that is about to be replaced: other descriptors of it, and the
//! epoll instances it is registered in.
//!
//! [`super::process`] knows whether there can be any. Only then `/proc` is read, and only as much
//! of it as is needed. Whatever cannot be carried over is an error: the connect then goes to the
//! kernel, and the broker is told why.

use super::process;
use super::procfs::{EPOLL, decimal, each_descriptor, each_line, hexadecimal};
use crate::raw::{self, Fd};

/// The most registrations that are carried over.
const REGISTRATIONS_MAX: usize = 128;
/// The most other descriptors of the same socket that are carried over.
const TWINS_MAX: usize = 128;
/// The most epoll instances that are looked at.
const EPOLLS_MAX: usize = 512;

/// Why references to a socket cannot be carried over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// There are more than fit.
    TooMany,
    /// The kernel does not say which there are.
    Unreadable,
}

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

    fn push(&mut self, item: T) -> Result<(), Lost> {
        *self.items.get_mut(self.length).ok_or(Lost::TooMany)? = item;
        self.length += 1;
        Ok(())
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

impl Default for References {
    /// Nothing does.
    fn default() -> References {
        References { twins: List::new(), registrations: List::new() }
    }
}

impl References {
    /// Finds them for the socket behind `fd`.
    pub fn find(fd: Fd) -> Result<References, Lost> {
        let mut found = References::default();
        let mut epolls: List<Fd, EPOLLS_MAX> = List::new();
        match process::epolls() {
            Some(mut known) if !process::may_have_twins() => {
                known.try_for_each(|epoll| epolls.push(epoll))?;
                if epolls.length == 0 {
                    return Ok(found);
                }
            }
            _ => found.look_everywhere(fd, &mut epolls)?,
        }
        let inode = inode(fd)?;
        for epoll in epolls.as_slice() {
            found.look_into(*epoll, fd, inode)?;
        }
        Ok(found)
    }

    /// Finds twins and epoll instances among all descriptors.
    fn look_everywhere(&mut self, fd: Fd, epolls: &mut List<Fd, EPOLLS_MAX>) -> Result<(), Lost> {
        let inode = inode(fd)?;
        let mut pushed = Ok(());
        each_descriptor(|number, target| {
            let fits = if target == EPOLL {
                epolls.push(number)
            } else if number != fd && socket_inode(target) == Some(inode) {
                self.twins.push(number)
            } else {
                Ok(())
            };
            pushed = pushed.and(fits);
        })
        .map_err(|_| Lost::Unreadable)?;
        pushed
    }

    /// Finds the socket's registrations in one epoll instance.
    fn look_into(&mut self, epoll: Fd, fd: Fd, inode: u64) -> Result<(), Lost> {
        // A registration may have the number of a twin, which only the kernel's list shows.
        let alone = !process::may_have_twins();
        match raw::is_registered(epoll, fd) {
            Ok(false) if alone => return Ok(()),
            Err(libc::EINVAL | libc::EBADF) => {
                process::lost_epoll(epoll);
                return Ok(());
            }
            Ok(true) if alone => {
                if let Some((events, data)) = process::last_registration(epoll, fd) {
                    return self.registrations.push(Registration { epoll, fd, events, data });
                }
            }
            // Registered, or the kernel does not tell: its list shows it.
            _ => {}
        }
        let mut pushed = Ok(());
        each_registration(epoll, inode, |registration| {
            pushed = pushed.and(self.registrations.push(registration));
        })?;
        pushed
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

fn inode(fd: Fd) -> Result<u64, Lost> {
    raw::stat(fd).map(|(_, _, inode)| inode).map_err(|_| Lost::Unreadable)
}

/// Calls with each registration of the socket with this inode in an epoll instance.
fn each_registration(
    epoll: Fd,
    inode: u64,
    mut each: impl FnMut(Registration),
) -> Result<(), Lost> {
    each_line(epoll, |line| {
        if let Some(found) = registration(epoll, line)
            && line_inode(line) == Some(inode)
        {
            each(found);
        }
    })
    .map_err(|_| Lost::Unreadable)
}

/// Calls with each descriptor number that is registered in an epoll instance.
pub fn each_registered(epoll: Fd, mut each: impl FnMut(Fd)) -> raw::Result<()> {
    each_line(epoll, |line| {
        if let Some(found) = registration(epoll, line) {
            each(found.fd);
        }
    })
}

/// Reads a line like `tfd: 5 events: 19 data: 1234 pos:0 ino:2f2f sdev:9`.
fn registration(epoll: Fd, line: &[u8]) -> Option<Registration> {
    Some(Registration {
        epoll,
        fd: decimal(field(line, b"tfd:")?)? as Fd,
        events: hexadecimal(field(line, b"events:")?)? as u32,
        data: hexadecimal(field(line, b"data:")?)?,
    })
}

fn line_inode(line: &[u8]) -> Option<u64> {
    hexadecimal(field(line, b"ino:")?)
}

/// The value behind a name in such a line.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let at = line.windows(name.len()).position(|window| window == name)? + name.len();
    let rest = &line[at..];
    let begin = rest.iter().position(|byte| *byte != b' ')?;
    let rest = &rest[begin..];
    let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
    Some(&rest[..end])
}

fn socket_inode(target: &[u8]) -> Option<u64> {
    decimal(target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let line =
            b"tfd:        5 events:       19 data:     deadbeef00000005  pos:0 ino:2f2a sdev:9";
        let expected = Registration { epoll: 3, fd: 5, events: 0x19, data: 0xdead_beef_0000_0005 };
        assert_eq!(registration(3, line), Some(expected));
        assert_eq!(line_inode(line), Some(0x2f2a));
        assert_eq!(registration(3, b"pos:\t0"), None);
    }

    #[test]
    fn a_sockets_inode_is_read() {
        assert_eq!(socket_inode(b"socket:[4711]"), Some(4711));
        assert_eq!(socket_inode(b"pipe:[4711]"), None);
    }
}
