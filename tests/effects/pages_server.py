"""A loopback server whose answers a test changes while it runs: pages, statuses, delays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Pages:
    """``answer`` takes the path and the query (of a POST its form) and gives status and body."""

    def __init__(self, answer: Callable[[str, dict[str, list[str]]], tuple[int, str]]) -> None:
        self.answer = answer
        self.drip = False
        """Send the head and then nothing, until the server ends."""
        self.released = threading.Event()
        self.asked: list[str] = []
        self.endpoint = ""


@contextmanager
def serving(answer: Callable[[str, dict[str, list[str]]], tuple[int, str]]) -> Iterator[Pages]:
    """Answers on a free port until the end of the block."""
    pages = Pages(answer)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.tell(urlsplit(self.path).query)

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            self.tell(self.rfile.read(length).decode())

        def tell(self, query: str) -> None:
            url = urlsplit(self.path)
            pages.asked.append(self.path)
            if pages.drip:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"vllm:num_requests_running 1\n")
                self.wfile.flush()
                pages.released.wait(30)
                return
            status, body = pages.answer(url.path, parse_qs(query))
            self.send_response(status)
            self.send_header("content-type", "text/plain")
            self.end_headers()
            self.wfile.write(body.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    pages.endpoint = f"127.0.0.1:{server.server_port}"
    try:
        yield pages
    finally:
        pages.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
