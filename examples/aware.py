"""A program that knows of its session, by ctypes.

`session run -- python3 aware.py HOST PORT`, or `... aware.py SERVICE.OBJECT@DOMAIN`.
"""
import ctypes
import os
import selectors
import socket
import sys


class Status(ctypes.Structure):
    """struct session_status of session.h."""

    _fields_ = [
        ("state", ctypes.c_int32),
        ("rtt_us", ctypes.c_uint32),
        ("paused_ms", ctypes.c_uint64),
        ("taken", ctypes.c_uint64),
        ("acknowledged", ctypes.c_uint64),
        ("received", ctypes.c_uint64),
        ("delivered", ctypes.c_uint64),
        ("server", ctypes.c_char * 256),
    ]


class Names(ctypes.Structure):
    """struct session_names of session.h."""

    _fields_ = [(name, ctypes.c_char * 256) for name in ("service", "server", "endpoint")]


ACTIVE, SUSPENDED = 0, 3
# The functions are in the library that `session run` has loaded already.
library = ctypes.CDLL(None)


def call(name, *arguments):
    result = getattr(library, name)(*arguments)
    if result < 0:
        raise OSError(-result, f"{name}: {os.strerror(-result)}")
    return result


def connected(host, port=None):
    if port is None:
        return socket.socket(fileno=call("session_connect", host.encode(), 0))
    return socket.create_connection((host, int(port)))


def until(selector, state):
    """Waits in an event loop of its own until the session is in this state."""
    last = None
    while last != state:
        [(key, _)] = selector.select(timeout=5)
        last = os.read(key.fd, 16)[-1]


def main(*where):
    peer = connected(*where)
    peer.sendall(b"hello")
    assert peer.recv(5, socket.MSG_WAITALL) == b"hello"
    status = Status()
    call("session_status", peer.fileno(), ctypes.byref(status))
    print(f"at {status.server.decode()}, {status.rtt_us} us away, state {status.state}")
    names = Names()
    call("session_names", peer.fileno(), ctypes.byref(names))
    print(f"{names.service.decode()} at the other end")
    selector = selectors.DefaultSelector()
    selector.register(call("session_events", peer.fileno()), selectors.EVENT_READ)
    call("session_suspend", peer.fileno())
    until(selector, SUSPENDED)
    call("session_resume", peer.fileno())
    until(selector, ACTIVE)
    peer.sendall(b"again")
    assert peer.recv(5, socket.MSG_WAITALL) == b"again"
    print("suspended and resumed")


main(*sys.argv[1:])
