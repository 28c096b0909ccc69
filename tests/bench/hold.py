"""hold.py PORT COUNT MIB: opens connections, prints how long that took, holds them.

With MIB each of them first receives that much. It ends when its input does."""
import resource, socket, sys, time

port, count, mib = map(int, sys.argv[1:])
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def opened():
    s = socket.create_connection(("127.0.0.1", port))
    left = mib << 20
    if left:
        s.sendall(b"GET /big HTTP/1.1\r\nHost: bench\r\nRange: bytes=0-%d\r\n\r\n" % (left - 1))
        head = b""
        while b"\r\n\r\n" not in head:
            head += s.recv(65536)
        left -= len(head.split(b"\r\n\r\n", 1)[1])
        while left > 0:
            left -= len(s.recv(min(left, 1 << 20)))
    return s


start = time.monotonic()
held = [opened() for _ in range(count)]
print(time.monotonic() - start, flush=True)
sys.stdin.read()
