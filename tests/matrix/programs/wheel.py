"""Makes a wheel of some 40,000 bytes in this directory: wait-1.0-py3-none-any.whl."""
import base64
import hashlib
import random
import zipfile

files = {
    "wait/__init__.py": b"",
    "wait/noise": random.Random(1).randbytes(40_000),
    "wait-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: wait\nVersion: 1.0\n",
    "wait-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\n"
    b"Root-Is-Purelib: true\nTag: py3-none-any\n",
}


def line(name, data):
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}\n"


record = "".join(line(*file) for file in files.items()) + "wait-1.0.dist-info/RECORD,,\n"
files["wait-1.0.dist-info/RECORD"] = record.encode()
with zipfile.ZipFile("wait-1.0-py3-none-any.whl", "w") as wheel:
    for name, data in files.items():
        wheel.writestr(name, data)
