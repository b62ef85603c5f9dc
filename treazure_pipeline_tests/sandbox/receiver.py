"""A bare receiver of webhooks, which keeps what it gets and answers as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver(ThreadingHTTPServer):
    """`answers` are statuses for the next requests, 0 for a closed connection; after that it is 200."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[int] = []
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.lock = threading.Lock()
        self.hold = threading.Event()
        self.hold.set()

    def handle_error(self, request: object, client_address: object) -> None:
        """A sender that has hung up is no error here."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/webhooks/engage"

    @property
    def ids(self) -> list[str]:
        return [headers["svix-id"] for headers, _ in self.got]

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:
            self.server.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            status = self.server.answers.pop(0) if self.server.answers else 200
        self.server.hold.wait(30)
        if not status:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        pass


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.hold.set()
            server.shutdown()
            thread.join()
