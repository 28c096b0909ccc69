"""requests: URL FILE; a file in pieces over one kept connection, and a streamed answer."""
import sys

import requests

url, path = sys.argv[1:]
with requests.Session() as session, open(path, "wb") as file:
    length = int(session.head(url).headers["Content-Length"])
    half = length // 2
    for start in range(0, half, 500_000):
        end = min(start + 500_000, half) - 1
        answer = session.get(url, headers={"Range": f"bytes={start}-{end}"})
        assert answer.status_code == 206, answer.status_code
        file.write(answer.content)
    answer = session.get(url, headers={"Range": f"bytes={half}-"}, stream=True)
    for piece in answer.iter_content(65536):
        file.write(piece)
