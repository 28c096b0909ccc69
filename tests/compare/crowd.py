"""Many sessions that ask and are answered, until a server dies: crowd.py KIND COUNT HOST DIRECTORY

KIND is http or ftp. "connected" is printed when every session has had an answer. When DIRECTORY has
the file `died`, with a time in seconds since 1970, each session goes on until it has an answer that
came later. The last line is JSON: for each session the seconds until then, or its error.
"""

import asyncio, json, os, sys, time

KIND, COUNT, HOST, DIRECTORY = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
PAUSE, LONGEST = 0.3, 120
# An answer that had left the server already.
ON_ITS_WAY = 0.1
died = None


async def line(reader):
    got = await reader.readuntil(b"\r\n")
    return got.decode().rstrip()


async def http(reader, writer, number):
    writer.write(f"GET /piece-{number % 7} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.lower().split("content-length:")[1].split("\r\n")[0])
    body = (await reader.readexactly(length)).decode()
    if not head.startswith("HTTP/1.1 200") or body != f"piece {number % 7}\n" * 100:
        raise RuntimeError("a wrong answer")


async def log_in(reader, writer):
    await line(reader)
    for word, code in [("USER anonymous", "331"), ("PASS me@", "230"), ("TYPE I", "200")]:
        writer.write(f"{word}\r\n".encode())
        answer = await line(reader)
        if not answer.startswith(code):
            raise RuntimeError(answer)


async def ftp(reader, writer, number):
    writer.write(f"SIZE piece-{number % 7}\r\n".encode())
    answer = await line(reader)
    if answer != "213 800":
        raise RuntimeError(answer)


async def session(place, ready, recovered):
    ask = {"http": http, "ftp": ftp}[KIND]
    try:
        reader, writer = await asyncio.open_connection(HOST, {"http": 80, "ftp": 21}[KIND])
        if KIND == "ftp":
            await log_in(reader, writer)
        number = place
        while True:
            await ask(reader, writer, number)
            now = time.time()
            if not ready[place].is_set():
                ready[place].set()
            if died is not None and now > died + ON_ITS_WAY:
                recovered[place] = now - died
                return
            number += 1
            await asyncio.sleep(PAUSE)
    except Exception as error:
        if died is None:
            sys.exit(f"before the fault: {type(error).__name__}: {error}")
        recovered[place] = f"{type(error).__name__}: {error}"
        ready[place].set()


async def watch():
    global died
    path = os.path.join(DIRECTORY, "died")
    while not os.path.exists(path):
        await asyncio.sleep(0.01)
    died = float(open(path).read())


async def main():
    ready, recovered = [asyncio.Event() for _ in range(COUNT)], [None] * COUNT
    watching = asyncio.create_task(watch())
    tasks = [asyncio.create_task(session(place, ready, recovered)) for place in range(COUNT)]
    for event in ready:
        await event.wait()
    print("connected", flush=True)
    await watching
    await asyncio.wait(tasks, timeout=LONGEST)
    print(json.dumps(recovered), flush=True)
    os._exit(0)


asyncio.run(main())
