"""gap.py PORT: downloads 8 MiB a second for 10 s; prints its longest pause.

Before that it prints a line when the download flows."""
import socket, sys, time

s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"GET /slow/big HTTP/1.1\r\nHost: bench\r\n\r\n")
begun, told, longest, last = time.monotonic(), False, 0, None
while time.monotonic() < begun + 10:
    if not s.recv(1 << 20):
        sys.exit("the download ended early")
    now = time.monotonic()
    if told:
        longest = max(longest, now - last)
    elif now > begun + 1:
        told = True
        print("it flows", flush=True)
    last = now
print(longest)
