"""PORT COUNT: as many connections in TLS, one after the other, each with one small request. Prints
the median and the 99th percentile of what one takes, from connect to the last byte, in
microseconds."""
import socket, ssl, sys, time

port, count = int(sys.argv[1]), int(sys.argv[2])
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.minimum_version = ssl.TLSVersion.TLSv1_3
ASKED = b"GET /small HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"


def once():
    start = time.perf_counter()
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as tls:
        tls.sendall(ASKED)
        answer = b"".join(iter(lambda: tls.recv(65536), b""))
    if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(b"x" * 1024):
        sys.exit(f"a wrong answer: {answer[:100]}")
    return (time.perf_counter() - start) * 1e6


times = sorted(once() for _ in range(count))
print(times[len(times) // 2], times[len(times) * 99 // 100])
