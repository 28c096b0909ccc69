"""Gets the bytes of halting.py with a time-out of three seconds.

patience.py socket|requests|asyncio|thread|alarm HOST PORT
"""
import asyncio
import queue
import signal
import socket
import sys
import threading

PATIENCE_S = 3
how, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def by_socket():
    s = socket.create_connection((host, port))
    s.settimeout(PATIENCE_S)
    s.sendall(request)
    data = b""
    while piece := s.recv(65536):
        data += piece
        if len(data.partition(b"\r\n\r\n")[2]) >= 40000:
            break
    return data.partition(b"\r\n\r\n")[2]


def by_thread():
    """A thread reads without a time-out; the other one waits for it, and for no descriptor."""
    pieces = queue.Queue()
    s = socket.create_connection((host, port))

    def read():
        while piece := s.recv(65536):
            pieces.put(piece)

    s.sendall(request)
    threading.Thread(target=read, daemon=True).start()
    data = b""
    while len(data.partition(b"\r\n\r\n")[2]) < 40000:
        data += pieces.get(timeout=PATIENCE_S)
    return data.partition(b"\r\n\r\n")[2]


def by_alarm():
    def too_late(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(PATIENCE_S)
    s = socket.create_connection((host, port))
    s.sendall(request)
    data = b""
    while len(data.partition(b"\r\n\r\n")[2]) < 40000:
        data += s.recv(65536)
        signal.alarm(PATIENCE_S)
    signal.alarm(0)
    return data.partition(b"\r\n\r\n")[2]


def by_requests():
    import requests

    return requests.get(f"http://{host}:{port}/", timeout=PATIENCE_S).content


async def by_asyncio():
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request)
    await reader.readuntil(b"\r\n\r\n")
    data = b""
    while len(data) < 40000:
        data += await asyncio.wait_for(reader.read(65536), PATIENCE_S)
    writer.close()
    return data


if how == "asyncio":
    got = asyncio.run(by_asyncio())
else:
    ways = {"socket": by_socket, "requests": by_requests, "thread": by_thread, "alarm": by_alarm}
    got = ways[how]()
assert got == bytes(range(200)) * 200, len(got)
