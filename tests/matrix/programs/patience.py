"""Gets the bytes of halting.py with a time-out of three seconds.

patience.py socket|requests|asyncio HOST PORT
"""
import asyncio
import socket
import sys

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
    got = {"socket": by_socket, "requests": by_requests}[how]()
assert got == bytes(range(200)) * 200, len(got)
