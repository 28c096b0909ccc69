"""A longer login with Python's ftplib: HOST WHAT SECONDS. Exit code 0: all is well."""

import ftplib
import io
import random
import socket
import subprocess
import sys
import time

host, what, seconds = sys.argv[1:4]
if what == "ipv6":
    # ftplib takes the first address that works, which is the IPv4 one.
    host = socket.getaddrinfo(host, 21, socket.AF_INET6, socket.SOCK_STREAM)[0][4][0]
ftp = ftplib.FTP(host, timeout=60)
ftp.login()


def whole(command):
    data = io.BytesIO()
    ftp.retrbinary(command, data.write)
    return data.getvalue()


if what == "idle":
    ftp.cwd("names")
    before = ftp.nlst()
    ftp.cwd("/")
    big = whole("RETR big")
    ftp.cwd("names")
    ftp.sendcmd("REST 0")
    time.sleep(float(seconds))
    assert ftp.pwd() == "/names", ftp.pwd()
    assert sorted(ftp.nlst()) == sorted(before)
    tail = io.BytesIO()
    ftp.retrbinary("RETR ../big", tail.write, rest=1000)
    assert tail.getvalue() == big[1000:], "other bytes behind REST"
    ftp.quit()
elif what == "abort":
    connection = ftp.transfercmd("RETR big")
    connection.recv(100_000)
    connection.close()
    try:
        ftp.abort()
        ftp.voidresp()
    except ftplib.all_errors as error:
        assert str(error)[0] in "24", error
    assert len(ftp.nlst("names")) == 2000
    ftp.quit()
elif what == "active":
    # Whoever checks where the data come from sees the server, and its port 20.
    for family in socket.AF_INET, socket.AF_INET6:
        address = socket.getaddrinfo(host, 21, family, socket.SOCK_STREAM)[0][4]
        ftp = ftplib.FTP(address[0], timeout=60)
        ftp.login()
        assert ftp.af == family
        with ftp.makeport() as listener:
            assert ftp.sendcmd("NLST names")[0] == "1"
            data, seen = listener.accept()
        assert seen[:2] == (address[0], 20), seen
        with data, data.dup() as twin:
            assert twin.getpeername()[:2] == (address[0], 20), twin.getpeername()
            assert twin.getsockname()[0] == ftp.sock.getsockname()[0]
            count = len(b"".join(iter(lambda: data.recv(65536), b"")).split())
        assert count == 2000 and ftp.voidresp()[0] == "2", count
        ftp.quit()
    # What comes from elsewhere is seen as it comes.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as own:
            other, seen = listener.accept()
            assert seen == own.getsockname() == other.getpeername(), seen
            other.close()
elif what == "accepts":
    # Whoever reads "cut" cuts the path, and kills the broker at "kill".
    with ftp.makeport() as listener:
        print("cut", flush=True)
        time.sleep(float(seconds))
        ftp.putcmd("NLST names")
        print("kill", flush=True)
        data, _ = listener.accept()
    with data:
        count = len(b"".join(iter(lambda: data.recv(65536), b"")).split())
    assert count == 2000, count
    assert ftp.getresp()[0] == "1" and ftp.voidresp()[0] == "2"
    ftp.quit()
elif what == "announced":
    place = ftp.makepasv()
    print("cut", flush=True)
    time.sleep(float(seconds))
    ftp.putcmd("NLST names")
    print("kill", flush=True)
    time.sleep(float(seconds))
    with socket.create_connection(place) as data:
        count = len(b"".join(iter(lambda: data.recv(65536), b"")).split())
    assert count == 2000, count
    assert ftp.getresp()[0] == "1" and ftp.voidresp()[0] == "2"
    ftp.quit()
elif what == "extended":
    assert ftp.sendcmd("EPSV ALL")[0] == "2"
    try:
        ftp.sendcmd("PASV")
        raise SystemExit("PASV after EPSV ALL")
    except ftplib.error_perm:
        pass
    peer = ftp.sock.getpeername()
    ftp.makepasv = lambda: ftplib.parse229(ftp.sendcmd("EPSV"), peer)
    big = whole("RETR big")
    time.sleep(float(seconds))
    assert whole("RETR big") == big and len(ftp.nlst("names")) == 2000
    ftp.quit()
elif what in ("STOR", "APPE", "STOU"):
    # Exit code 3: an error was told.
    data = random.Random(1).randbytes(60_000_000)
    ftp.cwd("in")
    ftp.voidcmd("TYPE I")
    command = what if what == "STOU" else what + " file"
    try:
        with ftp.transfercmd(command) as connection:
            connection.sendall(data)
        answer = ftp.voidresp()
    except (ftplib.Error, EOFError, OSError) as error:
        print(repr(error))
        sys.exit(3)
    names = ftp.nlst()
    assert len(names) == 1, names
    assert whole("RETR " + names[0]) == data, "told of success: " + answer
    ftp.quit()
elif what == "ipv6":
    assert ftp.af == socket.AF_INET6
    big = whole("RETR big")
    ftp.set_pasv(False)
    assert whole("RETR big") == big and len(big) == 5_000_000
    assert len(ftp.nlst("names")) == 2000
    ftp.storbinary("STOR in/put6", io.BytesIO(big))
    ftp.quit()
elif what == "steal":
    # A program of its own, with the same user and the same shim, knocks first.
    knock = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
except OSError:
    sys.exit(0)
sys.exit("another program got the data connection")
"""
    place = ftp.makepasv()
    subprocess.run([sys.executable, "-c", knock, place[0], str(place[1])], check=True)
    data = socket.create_connection(place, timeout=20)
    assert ftp.sendcmd("NLST names")[0] == "1"
    count = len(b"".join(iter(lambda: data.recv(65536), b"")).split())
    assert count == 2000 and ftp.voidresp()[0] == "2", count
    try:
        socket.create_connection(place, timeout=5)
        raise SystemExit("the port served twice")
    except OSError:
        pass
    ftp.quit()
elif what == "uploads":
    data = bytes(range(256)) * 80_000
    for command in ("STOR in/stored", "APPE in/stored", "STOU", "STOR in/stored"):
        if command == "STOU":
            ftp.cwd("in")
        with ftp.transfercmd(command) as connection:
            connection.sendall(data)
        answer = ftp.voidresp()
        assert answer[0] == "2", (command, answer)
        ftp.cwd("/")
        expected = len(data) * (2 if command[:4] == "APPE" else 1)
        sizes = [ftp.size("in/" + name.split("/")[-1]) for name in ftp.nlst("in")]
        assert expected in sizes, (command, sizes)
    assert len(ftp.nlst("in")) == 2, ftp.nlst("in")
    assert whole("RETR in/stored") == data
    ftp.quit()
elif what == "pipelined":
    codes = b"\xff\xfb\x01\xff\xfd\x03\xff\xfa\x18\x01\xff\xf0"
    lines = [b"CWD names", b"NOOP", b"PWD", b"CDUP", b"PWD"] * 12
    ftp.sock.sendall(codes.join(line + b"\r\n" for line in lines))
    answers = [ftp.getresp() for _ in lines]
    places = [answer.split(chr(34))[1] for answer in answers if answer[:3] == "257"]
    assert places == ["/names", "/"] * 12, places
    assert len(ftp.nlst("names")) == 2000
    ftp.quit()
elif what == "bounce":
    # A listener of another process, and one that is nobody's.
    for port in (4711, 22, 1):
        for host in ("127.0.0.1", "192.0.2.1"):
            try:
                ftp.sendport(host, port)
                ftp.voidcmd("NOOP")
            except ftplib.error_perm:
                continue
            ftp.sock.settimeout(20)
            try:
                ftp.sendcmd("NLST names")
                answer = ftp.voidresp()
                raise SystemExit(f"{host}:{port} was accepted: {answer}")
            except (ftplib.Error, EOFError):
                pass
            except socket.timeout:
                raise SystemExit(f"{host}:{port}: no answer")
    ftp.cwd("names")
    assert len(ftp.nlst()) == 2000
    # Lines that are too long, empty and strange are answered.
    for line in ("X" * 20_000, "", "\x01\x02", "USER", "RETR"):
        ftp.sock.sendall(line.encode() + b"\r\n")
        answer = ftp.getmultiline()
        assert answer[0] in "345", (line[:20], answer)
    ftp.quit()
