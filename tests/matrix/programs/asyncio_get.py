"""asyncio streams: HOST PATH FILE; four connections at once, a quarter of the file each."""
import asyncio
import sys

host, resource, path = sys.argv[1:]


async def ask(method, extra):
    reader, writer = await asyncio.open_connection(host, 80)
    lines = [f"{method} {resource} HTTP/1.1", f"Host: {host}", "Connection: close", *extra]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.read()
    writer.close()
    await writer.wait_closed()
    return head.decode().lower(), body


async def main():
    head, _ = await ask("HEAD", [])
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    edges = [length * part // 4 for part in range(5)]
    spans = [f"Range: bytes={a}-{b - 1}" for a, b in zip(edges, edges[1:])]
    answers = await asyncio.gather(*(ask("GET", [span]) for span in spans))
    with open(path, "wb") as file:
        file.writelines(body for _, body in answers)


asyncio.run(main())
