"""Urgent data there and back, each end a bulk around one urgent byte. `serve PORT` is the service
and wants it in line; `HOST PORT` is the program, which is signalled and takes it out of line."""
import fcntl
import os
import select
import signal
import socket
import struct
import sys

HALF = bytes(range(250)) * 2000
SIOCATMARK = 0x8905


def at_mark(sock):
    return struct.unpack("i", fcntl.ioctl(sock, SIOCATMARK, bytes(4)))[0] == 1


def send(sock):
    sock.sendall(HALF)
    assert sock.send(b"!", socket.MSG_OOB) == 1
    sock.sendall(HALF)


def take(sock, inline):
    """Reads both halves; the mark must be between them."""
    got, marks, urgent = bytearray(), [], b""
    while len(got) < 2 * len(HALF) + inline:
        wait = select.select([sock], [], [] if urgent or inline else [sock], 60)
        assert wait[0] or wait[2], "nothing comes"
        if wait[2]:
            urgent = sock.recv(1, socket.MSG_OOB)
            continue
        # What is asked holds for a byte that is there.
        if not sock.recv(1, socket.MSG_PEEK):
            break
        mark = at_mark(sock)
        if mark:
            marks.append(len(got))
        got += sock.recv(1 if mark else 65536)
    assert bytes(got) == HALF + b"!" * inline + HALF, len(got)
    assert marks == [len(HALF)], marks
    assert inline or urgent == b"!", urgent


def serve(port):
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            sock, _ = listener.accept()
            with sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
                if not sock.recv(1, socket.MSG_PEEK):
                    continue
                take(sock, True)
                send(sock)
                # The program has said that it has everything.
                sock.recv(1)


def run(host, port):
    rang = []
    signal.signal(signal.SIGURG, lambda *_: rang.append(1))
    with socket.create_connection((host, port)) as sock:
        fcntl.fcntl(sock, fcntl.F_SETOWN, os.getpid())
        send(sock)
        take(sock, False)
        assert rang, "no SIGURG"
        sock.sendall(b".")


if __name__ == "__main__":
    serve(int(sys.argv[2])) if sys.argv[1] == "serve" else run(sys.argv[1], int(sys.argv[2]))
