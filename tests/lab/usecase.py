"""KTH use cases 5 and 6: a program suspends its own sessions in the middle of a download and an
upload, and resumes them: usecase.py HOST SIZE UPLOAD SECONDS."""
import ctypes
import hashlib
import socket
import sys
import threading
import time

host, size, path, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
library = ctypes.CDLL(None)
moved = [0, 0]
digest = hashlib.sha256()


def down(peer):
    peer.sendall(f"GET /big HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    file = peer.makefile("rb")
    while file.readline().strip():
        pass
    while piece := file.read1(1 << 16):
        digest.update(piece)
        moved[0] += len(piece)


def up(peer):
    body = open(path, "rb").read()
    head = f"PUT /upload/big HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
    peer.sendall(head.encode() + b"Connection: close\r\n\r\n")
    for at in range(0, len(body), 1 << 16):
        peer.sendall(body[at : at + (1 << 16)])
        moved[1] = at
    answer = peer.recv(100)
    assert b" 201 " in answer or b" 204 " in answer, answer
    moved[1] = len(body)


def call(name, peer):
    assert getattr(library, name)(peer.fileno()) == 0, name


peers = [socket.create_connection((host, 80)) for _ in range(2)]
threads = [threading.Thread(target=work, args=[peer]) for work, peer in zip((down, up), peers)]
for thread in threads:
    thread.start()
while min(moved) < size // 4:
    assert all(thread.is_alive() for thread in threads), moved
    time.sleep(0.01)
for peer in peers:
    call("session_suspend", peer)
# What lies in the sockets already is still read, and taken.
time.sleep(1)
before = list(moved)
time.sleep(seconds)
assert moved == before, (before, moved)
assert all(thread.is_alive() for thread in threads)
print("suspended", *moved, flush=True)
for peer in peers:
    call("session_resume", peer)
for thread in threads:
    thread.join()
print("down", digest.hexdigest(), flush=True)
