"""A receiver of webhooks, in threads of this process, that believes nothing it can't verify."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from typing import Any

from standardwebhooks import Webhook

__all__ = ["Receiver", "Taken"]


class Taken:
    """What one endpoint took: the ids and the bodies, in their order."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.bodies: list[Any] = []
        self.wrong: list[str] = []
        self.refused = 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *args: object) -> None:
        """A sender that is killed leaves its connections broken."""


class Receiver:
    """Takes what is posted to ``/NAME``; ``secrets`` are those of the names. A third of it, by chance, fails.

    Of those that fail, some are answered, and some lose their connection before the answer.
    """

    def __init__(self, *, fails: float = 1 / 3) -> None:
        self.secrets: dict[str, str] = {}
        self.taken: dict[str, Taken] = defaultdict(Taken)
        self.fails = fails
        self._count = 0
        self._changed = Condition()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def url(self, name: str) -> str:
        """Where it takes what is for the name."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{name}"

    def has(self, done: Callable[[], bool], seconds: float) -> bool:
        """Waits until that is so."""
        with self._changed:
            return self._changed.wait_for(done, seconds)

    def stop(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()

    def takes(self, name: str, headers: dict[str, str], body: bytes) -> int | None:
        """The status that the request is answered with; ``None`` when it is answered with nothing."""
        with self._changed:
            taken = self.taken[name]
            self._changed.notify_all()
            try:
                content = Webhook(self.secrets[name]).verify(body, headers)
            except Exception as e:
                taken.wrong.append(f"{type(e).__name__} {e}")
                return 400
            self._count += 1
            chance = hashlib.sha256(b"%d" % self._count).digest()
            if chance[0] < 256 * self.fails:
                taken.refused += 1
                return (500, 503, None)[chance[1] % 3]
            taken.ids.append(headers["webhook-id"])
            taken.bodies.append(content)
            return 200

    def _handler(receiver) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            """One connection."""

            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # noqa: N802
                """Http.server's hook."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = receiver.takes(self.path[1:], headers, body)
                if status is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *args: object) -> None:
                """Says nothing."""

        return Handler
