"""Has a daemon do something after a while, by its status.

act_later.py PORT TOKEN_FILE SECONDS PATH [SECONDS PATH]...
"""
import sys
import time
import urllib.request

port, token_file, *steps = sys.argv[1:]
with open(token_file) as file:
    head = {"Authorization": f"Bearer {file.read().strip()}", "Content-Type": "application/json"}
for seconds, path in zip(steps[::2], steps[1::2]):
    time.sleep(float(seconds))
    url = f"http://127.0.0.1:{port}{path}"
    with urllib.request.urlopen(urllib.request.Request(url, b"{}", head)) as answer:
        print(path, answer.read().decode(), flush=True)
