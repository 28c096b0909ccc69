"""A program that knows of its session, by ctypes: `session run -- python3 aware.py HOST PORT`."""
import ctypes
import os
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


ACTIVE, SUSPENDED = 0, 3
# The functions are in the library that `session run` has loaded already.
library = ctypes.CDLL(None)


def call(name, *arguments):
    result = getattr(library, name)(*arguments)
    if result < 0:
        raise OSError(-result, f"{name}: {os.strerror(-result)}")


def main(host, port):
    peer = socket.create_connection((host, int(port)))
    peer.sendall(b"hello")
    assert peer.recv(5, socket.MSG_WAITALL) == b"hello"
    status = Status()
    call("session_status", peer.fileno(), ctypes.byref(status))
    print(f"at {status.server.decode()}, {status.rtt_us} us away, state {status.state}")
    call("session_suspend", peer.fileno())
    call("session_wait", peer.fileno(), ACTIVE, 5000, ctypes.byref(status))
    assert status.state == SUSPENDED, status.state
    call("session_resume", peer.fileno())
    while status.state != ACTIVE:
        call("session_wait", peer.fileno(), status.state, 5000, ctypes.byref(status))
    peer.sendall(b"again")
    assert peer.recv(5, socket.MSG_WAITALL) == b"again"
    print("suspended and resumed")


main(*sys.argv[1:])
