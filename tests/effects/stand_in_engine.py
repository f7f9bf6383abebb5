#!/usr/bin/env -S python3 -S
"""A stand-in for an engine: answers one token over HTTP, and misbehaves on request.

Spelled like `vllm serve`; run with a bare interpreter, so that a test starts many of them quickly.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

parser = argparse.ArgumentParser(prog="stand-in", allow_abbrev=False)
parser.add_argument("verb")
parser.add_argument("model")
parser.add_argument("--served-model-name", required=True)
parser.add_argument("--host", required=True)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--refuse", help="exit 1 with this message instead of serving")
parser.add_argument("--no-token", type=int, help="answer completions with this status")
parser.add_argument("--never-listen", action="store_true")
parser.add_argument("--say", action="append", default=[], help="print this line at the start")
parser.add_argument("--say-env", help="print the value of this variable")
parser.add_argument("--lines", type=int, default=0, help="print so many numbered lines")
parser.add_argument("--child", action="store_true", help="have a child without environment")
parser.add_argument("--stubborn", action="store_true", help="ignore SIGTERM")
parser.add_argument("--hold", help="listen only once this file exists")
args = parser.parse_args()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200 if self.path in ("/health", "/metrics") else 404, b"")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        if args.no_token:
            self._answer(args.no_token, b'{"message": "no tokens here"}')
        elif body["model"] != args.served_model_name:
            self._answer(404, b'{"message": "no such model"}')
        else:
            time.sleep(float(body.get("wait_s", 0)))
            answer = {"choices": [{"text": "x"}], "pid": os.getpid()}
            self._answer(200, json.dumps(answer).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


for line in args.say:
    print(line, flush=True)
if args.say_env:
    print(f"{args.say_env}={os.environ.get(args.say_env)}", flush=True)
for number in range(args.lines):
    print(f"line {number} " + "." * 80, flush=True)
if args.refuse:
    print("INFO loading", flush=True)
    print(f"ValueError: {args.refuse}", file=sys.stderr, flush=True)
    sys.exit(1)
if args.child:
    subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], env={})
if args.never_listen:
    time.sleep(600)
while args.hold and not Path(args.hold).exists():
    time.sleep(0.02)
server = Server((args.host, args.port), Handler)


def stop(*_: object) -> None:
    threading.Thread(target=server.shutdown).start()


signal.signal(signal.SIGTERM, signal.SIG_IGN if args.stubborn else stop)
print("Application startup complete.", flush=True)
server.serve_forever()
