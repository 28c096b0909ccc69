"""Many sessions at once: crowd.py COUNT HOST PORT PATH LENGTH SHA256 DIRECTORY PHASES

Half of the connections stop in the middle of a response and half are idle between two whenever a
phase ends; the file `go-N` in DIRECTORY begins phase N, in which every connection must finish what
it began and fetch the file once more. Each phase ends with one line of JSON.
"""

import asyncio, hashlib, json, os, sys

COUNT, HOST, PORT, PATH = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
LENGTH, SHA256, DIRECTORY, PHASES = int(sys.argv[5]), sys.argv[6], sys.argv[7], int(sys.argv[8])
HALF = 64 * 1024
TIMEOUT = 120


class One:
    """One connection."""

    def __init__(self, number):
        self.number, self.pending, self.error = number, None, None

    async def open(self):
        # A small limit, or asyncio itself would read a stopped response to its end.
        self.reader, self.writer = await asyncio.open_connection(HOST, PORT, limit=32 * 1024)

    async def begin(self):
        self.writer.write(f"GET {PATH} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        await self.writer.drain()
        head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.split(b"\r\n")[0].decode())
        self.hash, self.left = hashlib.sha256(), LENGTH

    async def take(self, length):
        length = min(length, self.left)
        while length:
            piece = await self.reader.read(min(length, 65536))
            if not piece:
                raise RuntimeError(f"ended with {self.left} bytes missing")
            self.hash.update(piece)
            self.left -= len(piece)
            length -= len(piece)

    async def finish(self):
        await self.take(self.left)
        if self.hash.hexdigest() != SHA256:
            raise RuntimeError("wrong bytes")

    async def phase(self, phase, last):
        if phase == 0:
            await self.open()
        elif self.number % 2:
            await self.finish()
        await self.begin()
        if self.number % 2 and not last:
            await self.take(HALF)
        else:
            await self.finish()


async def guarded(one, phase, last):
    if one.error is None:
        try:
            await asyncio.wait_for(one.phase(phase, last), TIMEOUT)
        except Exception as error:
            one.error = f"{type(error).__name__}: {error}"


async def main():
    crowd = [One(number) for number in range(COUNT)]
    for phase in range(PHASES):
        while phase and not os.path.exists(os.path.join(DIRECTORY, f"go-{phase}")):
            await asyncio.sleep(0.05)
        await asyncio.gather(*(guarded(one, phase, phase == PHASES - 1) for one in crowd))
        errors = {}
        for one in crowd:
            if one.error:
                errors[one.error] = errors.get(one.error, 0) + 1
        ok = sum(one.error is None for one in crowd)
        print(json.dumps({"phase": phase, "ok": ok, "errors": errors}), flush=True)


asyncio.run(main())
