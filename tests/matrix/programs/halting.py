"""An HTTP origin that halts: twenty pieces, ten of them at once, the others after a silence.

halting.py PORT SILENCE_S
"""
import http.server
import sys
import time

PIECE = bytes(range(200)) * 10


class Halting(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(20 * len(PIECE)))
        self.end_headers()
        for number in range(20):
            if number == 10:
                time.sleep(float(sys.argv[2]))
            self.wfile.write(PIECE)
            time.sleep(0.1)


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Halting).serve_forever()
