"""What the functions of session.h refuse, and how a descriptor of session_events() ends."""
import ctypes
import errno
import fcntl
import os
import select
import socket
import sys

library = ctypes.CDLL(None)
name = sys.argv[1].encode()


def refused(result, why):
    assert -result == why, (result, errno.errorcode[why])


refused(library.session_connect(b"www.nobody@lab.example", 0), errno.ENOENT)
refused(library.session_connect(b"no.name", 0), errno.EINVAL)
refused(library.session_connect(b"a@b@c", 0), errno.ENOENT)
refused(library.session_connect(name, 1), errno.EINVAL)
refused(library.session_connect(None, 0), errno.EFAULT)
refused(library.session_events(99), errno.EBADF)
refused(library.session_events(0), errno.ENOTCONN)
refused(library.session_names(0, None), errno.ENOTCONN)

fd = library.session_connect(name, socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
assert fd > 0, fd
assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
_, writable, _ = select.select([], [fd], [], 10)
assert writable == [fd]
peer = socket.socket(fileno=fd)
assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
peer.sendall(b"x")
select.select([fd], [], [], 10)
assert peer.recv(1) == b"x"
refused(library.session_names(fd, None), errno.EFAULT)

events = library.session_events(fd)
assert events > 0, events
assert fcntl.fcntl(events, fcntl.F_GETFL) & os.O_NONBLOCK
assert fcntl.fcntl(events, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
assert select.select([events], [], [], 0)[0] == [], "nothing has changed"
# A child sees the changes as well, and its end leaves the parent's descriptor alone.
child = os.fork()
if child == 0:
    os.close(events)
    os._exit(0)
os.waitpid(child, 0)
twin = os.dup(fd)
peer.close()
assert library.session_abort(twin) == 0
told = b""
while True:
    select.select([events], [], [], 10)
    got = os.read(events, 16)
    if not got:
        break
    told += got
assert told.endswith(bytes([4])), told
refused(library.session_events(twin), errno.ESHUTDOWN)
print("all said")
