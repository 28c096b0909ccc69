"""A bad FTP server, and bad FTP clients. Exit code 0: a client saw what it should.

serve PORT            a server that does to a client what its user name says
ask HOST PORT WHAT    a client that logs in there
storm HOST            a client that pours commands over a good server
flood HOST            one that agrees upon data, again and again
"""

import socket
import sys
import threading
import time


def serve(port):
    door = socket.create_server(("127.0.0.1", port))
    while True:
        client, _ = door.accept()
        threading.Thread(target=be_bad, args=(client,), daemon=True).start()


def be_bad(client):
    lines = client.makefile("rb")
    say = client.sendall
    try:
        say(b"220 welcome\r\n")
        what = lines.readline().split()[1].decode()
        if what == "endless":
            while True:
                say(b"x" * 65536)
        if what == "unending":
            say(b"230-begins\r\n")
            while True:
                say(b"230-and goes on\r\n" * 4096)
        if what == "binary":
            say(bytes(range(1, 256)) * 100 + b"\n")
        if what == "mute":
            time.sleep(5)
            return
        say(b"230 in\r\n")
        for line in lines:
            verb = line.split()[0].upper() if line.split() else b""
            if verb == b"PASV":
                # An address of somebody else, and a port at which nobody listens.
                say(b"227 Entering Passive Mode (192,0,2,1,0,1).\r\n")
            elif what == "storm" and verb == b"NOOP":
                say(b"200 ok\r\n" * 200_000)
            elif what == "telnet" and verb == b"NOOP":
                say(b"\xff\xfb\x01\xff\xfd\x03200 \xff\xf1ok\r\n")
            elif verb == b"QUIT":
                say(b"221 bye\r\n")
                return
            else:
                say(b"200 ok\r\n")
    except (OSError, IndexError):
        pass
    finally:
        client.close()


class Asking:
    def __init__(self, host, port):
        self.sock = socket.create_connection((host, port), timeout=60)
        self.lines = self.sock.makefile("rb")
        self.expect(b"220")

    def expect(self, *codes):
        """A reply of one of these codes; b"" is the end."""
        line = self.lines.readline(70_000)
        while line[3:4] == b"-":
            line = self.lines.readline(70_000)
        assert line[:3] in codes, line[:200]
        return line

    def say(self, line, *codes):
        self.sock.sendall(line + b"\r\n")
        return self.expect(*codes)


def ask(host, port, what):
    asking = Asking(host, port)
    user = b"USER " + what.encode()
    if what in ("endless", "unending", "binary"):
        print(asking.say(user, b"500"))
        asking.expect(b"")
        return
    if what == "mute":
        # The service has hung up: it is asked again, and hangs up again.
        print(asking.say(user, b"451", b"421"))
        return
    asking.say(user, b"230")
    if what == "storm":
        # The first one is the answer; nobody asked for the others.
        asking.say(b"NOOP", b"200")
        for _ in range(20):
            asking.say(b"SYST", b"200")
    elif what == "telnet":
        line = asking.say(b"NOOP", b"200", b"500")
        print(line)
        if line[:3] == b"500":
            return asking.expect(b"")
    else:
        # "nowhere": data are agreed upon with the client; the server's part comes to nothing.
        asking.say(b"PASV", b"227")
        print(asking.say(b"RETR x", b"425"))
    asking.say(b"QUIT", b"221")


def storm(host):
    asking = Asking(host, 21)
    asking.say(b"USER anonymous", b"331")
    asking.say(b"PASS x", b"230")
    # Nobody reads the answers yet.
    asking.sock.sendall(b"PASV\r\n" * 10 + b"NOOP\r\n" * 3_000)
    for number in range(3_010):
        asking.expect(b"227" if number < 10 else b"200")
    asking.sock.sendall(b"Y" * 3_000_000 + b"\r\n")
    asking.expect(b"500")
    asking.say(b"\xff\xfa\x18" + b"Z" * 100_000 + b"\xff\xf0NOOP", b"200")
    for place in (b"127,0,0,1,0,22", b"127,0,0,1,255,254", b"10,0,0,1,4,1"):
        if asking.say(b"PORT " + place, b"200", b"500")[:1] == b"2":
            if asking.say(b"NLST names", b"150", b"425", b"426")[:3] == b"150":
                asking.expect(b"425", b"426")
    asking.say(b"QUIT", b"221")


def flood(host):
    """More announcements than anybody has use for: answered, or the end of this login alone."""
    asking = Asking(host, 21)
    asking.say(b"USER anonymous", b"331")
    asking.say(b"PASS x", b"230")
    try:
        asking.sock.sendall(b"PASV\r\n" * 2_000)
        for _ in range(2_000):
            asking.expect(b"227")
        print("all were answered")
    except ConnectionError as error:
        print(error)


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
elif sys.argv[1] == "ask":
    ask(sys.argv[2], int(sys.argv[3]), sys.argv[4])
else:
    {"storm": storm, "flood": flood}[sys.argv[1]](sys.argv[2])
