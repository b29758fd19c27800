"""A webhook receiver for the tests: a real HTTP server in a thread, and odd ones."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhook:
    """What a receiver got, and what it answers."""

    port: int
    answer: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?from=fluxdrop"

    @property
    def contents(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]


def free_port() -> int:
    """A port on which nothing listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


@contextmanager
def listening(port: int = 0, answer: int = 204, **headers: str) -> Iterator[Webhook]:
    """A receiver that answers every request with this status."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {k.lower(): v for k, v in self.headers.items()}
            webhook.got.append(({"path": self.path, **headers}, body))
            self.send_response(webhook.answer)
            for name, value in webhook.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *given: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    webhook = Webhook(server.server_address[1], answer, headers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield webhook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def saying(*parts: bytes) -> Iterator[str]:
    """The URL of a server that says these, without an end, and nothing where there are none."""
    over = threading.Event()

    def serve() -> None:
        with socket_ as server:
            while not over.is_set():
                with closing(server.accept()[0]) as caller:
                    caller.settimeout(0.2)
                    try:
                        for part in parts:
                            caller.sendall(part)
                        while not over.wait(0.01):
                            caller.sendall(parts[-1] if parts else b"")
                    except OSError:
                        pass

    socket_ = socket.create_server(("127.0.0.1", 0))
    port = socket_.getsockname()[1]
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        over.set()
        # It may wait for a caller.
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port))):
            pass
        thread.join()
