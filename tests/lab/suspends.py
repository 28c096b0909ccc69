"""Suspends and resumes all the time, at both ends, while bytes flow (KTH 5.2.4).

    suspends.py serve PORT STATUS TOKEN   gives back what it is sent; its end is suspended by the
                                          status of its STP server, whose token is in a file
    suspends.py talk HOST PORT SECONDS    sends, and compares what comes back; its end is suspended
                                          by session.h
"""
import ctypes, errno, http.client, json, random, socket, sys, threading, time

PIECE = 4096
# After each call that moves bytes, with this chance.
CHANCE = 1 / 128


class Whim:
    """Suspends and resumes now and then; one for each thread."""

    def __init__(self, seed, suspend_and_resume):
        self.dice, self.act, self.done = random.Random(seed), suspend_and_resume, 0

    def maybe(self):
        if self.dice.random() < CHANCE:
            self.act()
            self.done += 1


def by_status(port, token):
    def post(action):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        headers = {"Authorization": f"Bearer {token}"}
        connection.request("POST", f"/sessions/all/{action}", "", headers)
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status == 200, said
        return json.loads(said)["sessions"]

    def act():
        assert post("suspend") == 1
        assert post("resume") == 1

    return act


def by_library(connection):
    library = ctypes.CDLL(None)

    def call(name):
        # One that is too busy to be told is asked again.
        for _ in range(1000):
            result = getattr(library, name)(connection.fileno())
            if result != -errno.ESHUTDOWN:
                assert result == 0, f"{name}: {errno.errorcode[-result]}"
                return
            time.sleep(0.01)
        raise AssertionError(f"{name}: nobody listens")

    def act():
        call("session_suspend")
        call("session_resume")

    return act


def serve(port, status, token):
    whim = Whim(1, by_status(int(status), open(token).read().strip()))
    listener = socket.create_server(("127.0.0.1", int(port)))
    print("listening", flush=True)
    connection, _ = listener.accept()
    while data := connection.recv(PIECE):
        whim.maybe()
        connection.sendall(data)
        whim.maybe()
    connection.shutdown(socket.SHUT_WR)
    print(f"{whim.done} times at the server", flush=True)


def talk(host, port, seconds):
    connection = socket.create_connection((host, int(port)))
    piece = lambda number: random.Random(number).randbytes(PIECE)
    end, sent = time.monotonic() + float(seconds), 0
    act = by_library(connection)

    def send():
        nonlocal sent
        whim = Whim(2, act)
        while time.monotonic() < end:
            connection.sendall(piece(sent))
            sent += 1
            whim.maybe()
        connection.shutdown(socket.SHUT_WR)
        print(f"{whim.done} times at the program's end, sending", flush=True)

    sender = threading.Thread(target=send)
    sender.start()
    whim, got, number = Whim(3, act), bytearray(), 0
    while data := connection.recv(PIECE):
        got += data
        while len(got) >= PIECE:
            assert got[:PIECE] == piece(number), f"wrong bytes in piece {number}"
            del got[:PIECE]
            number += 1
        whim.maybe()
    sender.join()
    assert number == sent and not got, f"{number} pieces and {len(got)} bytes came, not {sent}"
    print(f"{whim.done} times at the program's end, receiving; {number} pieces", flush=True)


{"serve": serve, "talk": talk}[sys.argv[1]](*sys.argv[2:])
