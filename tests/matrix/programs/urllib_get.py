"""urllib: URL FILE"""
import shutil
import sys
import urllib.request

url, path = sys.argv[1:]
with urllib.request.urlopen(url, timeout=60) as answer, open(path, "wb") as file:
    shutil.copyfileobj(answer, file)
