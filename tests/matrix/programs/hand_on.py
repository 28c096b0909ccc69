"""multiprocessing: HOST PORT FILE; one connection read in turn by this process, a forked one and
spawned ones that got it by descriptor passing."""
import multiprocessing
import socket
import sys


def read(connection, count, path):
    with open(path, "ab") as file:
        while count > 0 and (piece := connection.recv(min(count, 65536))):
            file.write(piece)
            count -= len(piece)


def in_process(context, connection, count, path):
    process = context.Process(target=read, args=(connection, count, path))
    process.start()
    process.join()
    assert process.exitcode == 0, process.exitcode


if __name__ == "__main__":
    host, port, path = sys.argv[1:]
    connection = socket.create_connection((host, int(port)))
    connection.sendall(b"GET /big HTTP/1.0\r\n\r\n")
    while not (head := connection.recv(4096, socket.MSG_PEEK)).count(b"\r\n\r\n"):
        pass
    connection.recv(head.index(b"\r\n\r\n") + 4)
    read(connection, 1_000_000, path)
    in_process(multiprocessing.get_context("fork"), connection, 2_000_000, path)
    in_process(multiprocessing.get_context("spawn"), connection, 2_000_000, path)
    in_process(multiprocessing.get_context("forkserver"), connection, 1 << 30, path)
