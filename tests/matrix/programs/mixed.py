"""The rule for sets of descriptors in a pause, by each way to wait: two sessions to an echo server
and a pipe; which session is paused is said by `session suspend` and `session resume`.

mixed.py poll|select|epoll SESSION HOST PORT
"""
import json
import os
import select
import socket
import subprocess
import sys
import time

how, command, host, port = sys.argv[1:]
TIMEOUT_S = 0.7
# How long a pause lasts that a wait is to outlast.
PAUSE_S = 1.5


def wait(*sources):
    """What is readable of these, and how long that took."""
    began = time.clock_gettime(time.CLOCK_REALTIME)
    fds = [source.fileno() for source in sources]
    if how == "select":
        ready = select.select(fds, [], [], TIMEOUT_S)[0]
    elif how == "poll":
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(TIMEOUT_S * 1000)]
    else:
        with select.epoll() as epoll:
            for fd in fds:
                epoll.register(fd, select.EPOLLIN)
            ready = [fd for fd, _ in epoll.poll(TIMEOUT_S)]
    took = time.clock_gettime(time.CLOCK_REALTIME) - began
    return [source for source in sources if source.fileno() in ready], took


def must(what, found, ready, least, most):
    got, took = found
    assert got == ready and least <= took <= most, f"{how}: {what}: {got} after {took:.2f} s"
    print(f"{how}: {what}: {took:.2f} s")


def session(*words):
    return subprocess.run([command, *words], check=True, capture_output=True, text=True).stdout


def later(seconds, *commands):
    line = f"sleep {seconds}; " + "; ".join(commands)
    return subprocess.Popen(["/bin/sh", "-c", line])


def mine():
    sessions = json.loads(session("status", "--json"))["sessions"]
    return {str(one["id"]) for one in sessions if one["app"]["pid"] == os.getpid()}


def connect():
    known = mine()
    peer = socket.create_connection((host, int(port)))
    peer.sendall(b"hello")
    assert peer.recv(5) == b"hello"
    (number,) = mine() - known
    return peer, number


(a, a_number), (b, _) = connect(), connect()
pipe = open(os.pipe()[0], "rb", buffering=0)
read, write = os.pipe()
written = open(read, "rb", buffering=0)
os.set_inheritable(write, True)
OWN = (TIMEOUT_S - 0.02, TIMEOUT_S + 0.5)
# A pause, the time-out, and what is left of a pause when nothing flows on the new link.
STILL = (PAUSE_S + TIMEOUT_S - 0.2, PAUSE_S + 2 + TIMEOUT_S + 1)

must("sessions with a link keep their time-out", wait(a, b), [], *OWN)
session("suspend", a_number)
must("1: a set without any session keeps its own", wait(pipe), [], *OWN)
must("3: one of two sessions has a link", wait(a, b), [], *OWN)
must("4: a pipe does not stop the clock", wait(b, pipe), [], *OWN)
ended = subprocess.Popen(["/bin/sh", "-c", f"sleep 0.3; echo >&{write}"], close_fds=False)
must("2: what becomes ready ends the wait", wait(a, written), [written], 0.1, TIMEOUT_S)
ended.wait()
ended = later(PAUSE_S, f"'{command}' resume {a_number}")
must("4: nor does it keep it running", wait(a, pipe), [], *STILL)
ended.wait()
session("suspend", "--all")
ended = later(PAUSE_S, f"'{command}' resume --all")
must("3: both are paused", wait(a, b), [], *STILL)
ended.wait()
a.sendall(b"again")
assert a.recv(5) == b"again"
