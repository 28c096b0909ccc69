"""An HTTP origin that halts: twenty pieces, ten of them at once, the others after a silence.

halting.py PORT SILENCE_S [FILE]

The pieces are those of FILE, or of 40,000 bytes that patience.py and its kin know.
"""
import http.server
import sys
import time

PIECES = 20


class Halting(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        piece = len(BODY) // PIECES
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        for number in range(PIECES):
            if number == PIECES // 2:
                time.sleep(float(sys.argv[2]))
            last = number == PIECES - 1
            self.wfile.write(BODY[number * piece : None if last else (number + 1) * piece])
            time.sleep(0.1)


if len(sys.argv) > 3:
    with open(sys.argv[3], "rb") as file:
        BODY = file.read()
else:
    BODY = bytes(range(200)) * 200
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Halting).serve_forever()
