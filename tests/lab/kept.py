"""Programs whose connections outlive their broker, and the service that they talk to.

    kept.py serve PORT             gives back what it is sent
    kept.py stream HOST MEGABYTES  sends and receives that much at once; every byte is compared
    kept.py poll HOST SECONDS      the same in small pieces, with epoll
    kept.py turns HOST SECONDS     one question at a time, answers read by a blocking call
    kept.py beats HOST STOP        the same until there is a file STOP; the time of each answer
    kept.py idle HOST COUNT        so many connections, one word on each when a line comes on stdin
    kept.py events HOST COUNT      session_events() of session.h, over so many brokers that die
    kept.py connects HOST SECONDS  one new connection after the other, blocking and not
"""
import ctypes, os, random, select, socket, sys, threading, time

PORT = 7
PIECE = 50_000


def piece(number):
    return random.Random(number).randbytes(PIECE)


def fail(text):
    print(text, file=sys.stderr)
    sys.exit(3)


def give_back(connection):
    try:
        while data := connection.recv(1 << 16):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    except OSError as error:
        print("service:", error, flush=True)


def serve(port):
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=512)
    print("listening", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=give_back, args=(connection,), daemon=True).start()


def stream(host, megabytes):
    connection = socket.create_connection((host, PORT))
    count = int(megabytes) * 1_000_000 // PIECE

    def send():
        for number in range(count):
            connection.sendall(piece(number))
        connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=send, daemon=True).start()
    got, number = bytearray(), 0
    while data := connection.recv(1 << 18):
        got += data
        while len(got) >= PIECE:
            if got[:PIECE] != piece(number):
                fail(f"wrong bytes in piece {number}")
            del got[:PIECE]
            number += 1
        print(number, flush=True)
    if number != count or got:
        fail(f"the end came after {number} pieces and {len(got)} bytes, not {count}")


def poll(host, seconds):
    connection = socket.create_connection((host, PORT))
    connection.setblocking(False)
    poller = select.epoll()
    poller.register(connection, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
    end = time.monotonic() + float(seconds)
    sent, got = 0, 0
    word = lambda at: (at * 7 + (at >> 8)) & 255
    while got < sent or time.monotonic() < end:
        for _, events in poller.poll(1):
            if events & (select.EPOLLHUP | select.EPOLLERR):
                fail(f"event {events:#x} after {got} bytes")
        try:
            while data := connection.recv(4096):
                for byte in data:
                    if byte != word(got):
                        fail(f"wrong byte {got}")
                    got += 1
        except BlockingIOError:
            pass
        try:
            while time.monotonic() < end and sent - got < 20_000:
                sent += connection.send(bytes(word(at) for at in range(sent, sent + 777)))
        except BlockingIOError:
            pass
        time.sleep(0.002)
    print("bytes", got)


def ask(connection, number, question):
    """Sends a question, and waits for the same as its answer."""
    connection.sendall(question)
    answer = b""
    while len(answer) < len(question):
        data = connection.recv(len(question) - len(answer))
        if not data:
            fail(f"an end after {number} answers")
        answer += data
    if answer != question:
        fail(f"{answer} for {question}")


def turns(host, seconds):
    connection = socket.create_connection((host, PORT))
    end, number, worst = time.monotonic() + float(seconds), 0, 0.0
    while time.monotonic() < end:
        begun = time.monotonic()
        ask(connection, number, f"question {number}\n".encode())
        number, worst = number + 1, max(worst, time.monotonic() - begun)
        time.sleep(0.01)
    print(f"answers {number}, the slowest {worst * 1e3:.0f} ms")


def beats(host, stop):
    connection = socket.create_connection((host, PORT))
    number = 0
    while not os.path.exists(stop):
        ask(connection, number, b"%8d" % number)
        print(f"{time.time():.4f}", flush=True)
        number += 1
        time.sleep(0.005)


def idle(host, count):
    all = [socket.create_connection((host, PORT)) for _ in range(int(count))]
    print("connected", flush=True)
    for line in sys.stdin:
        for number, connection in enumerate(all):
            connection.sendall(b"%d" % number)
        for number, connection in enumerate(all):
            if connection.recv(100) != b"%d" % number:
                fail(f"connection {number}")
        print("all answered", flush=True)


def events(host, count):
    connection = socket.create_connection((host, PORT))
    library, fd = ctypes.CDLL(None), connection.fileno()

    def watched():
        end = time.monotonic() + 20
        while (got := library.session_events(fd)) < 0:
            if time.monotonic() > end:
                fail(f"no events: {os.strerror(-got)}")
            time.sleep(0.01)
        return got

    def changes(descriptor, state):
        while True:
            select.select([descriptor], [], [], 20)
            states = os.read(descriptor, 16)
            if states[-1:] == state:
                return

    descriptor = watched()
    for number in range(int(count)):
        print("watches", flush=True)
        # It ends with the broker, and not without it.
        changes(descriptor, b"")
        os.close(descriptor)
        descriptor = watched()
        for act, state in ((library.session_suspend, 3), (library.session_resume, 0)):
            if act(fd) < 0:
                fail("the next broker does not know of the session")
            changes(descriptor, bytes([state]))
        connection.sendall(b"%d" % number)
        if connection.recv(100) != b"%d" % number:
            fail("nothing came back")
    print("went on", flush=True)


def connects(host, seconds):
    end, number, worst, refused = time.monotonic() + float(seconds), 0, 0.0, 0
    while time.monotonic() < end:
        begun = time.monotonic()
        number += 1
        if number % 2:
            address = (socket.gethostbyname(host), PORT)
            connection = socket.socket()
            connection.setblocking(False)
            if connection.connect_ex(address) != 115:
                fail("the connect was not under way")
            select.select([], [connection], [], 20)
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                refused += 1
                continue
            connection.setblocking(True)
        else:
            try:
                connection = socket.create_connection((host, PORT))
            except ConnectionError:
                refused += 1
                continue
        connection.sendall(b"here")
        if connection.recv(4) != b"here":
            fail(f"connection {number} gave nothing")
        connection.close()
        worst = max(worst, time.monotonic() - begun)
        time.sleep(0.01)
    print(f"connections {number}, refused {refused}, the slowest {worst * 1e3:.0f} ms")
    # A connect that a broker has accepted and not given to its keeper yet is lost with it.
    if refused > 2:
        fail("too many were refused")


globals()[sys.argv[1]](*sys.argv[2:])
