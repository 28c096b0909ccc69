"""Uploads a file, with options of TCP that say how long to wait; prints how that ends.

patience.py MODE HOST FILE: "before" and "after" set TCP_USER_TIMEOUT to 4 s before or after the
connect; "keepalive" sets keep-alive options that would end a TCP connection after 3 s.
"""

import errno
import socket
import sys
import time

mode, host, file = sys.argv[1:]
body = open(file, "rb").read()
tcp = socket.socket()
if mode == "before":
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 4000)
if mode == "keepalive":
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
        tcp.setsockopt(socket.IPPROTO_TCP, option, 1)
tcp.connect((host, 80))
if mode == "after":
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 4000)
head = f"PUT /upload/{mode} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
begun = time.monotonic()
try:
    try:
        tcp.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    except BrokenPipeError:
        pass  # who sends first after an abort sees that, and why when it reads
    print("ended", tcp.recv(12).decode(), flush=True)
except OSError as error:
    print("ended", errno.errorcode[error.errno], f"{time.monotonic() - begun:.1f} s", flush=True)
