"""Tests for :mod:`wsock.cli.api`: what is asked, and what is made of answers, also of those of a real HTTP server."""

from __future__ import annotations

import json
import os
import socket
import ssl
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import click

from tests.base import SynchronousTestCase
from tests.cli_cases import URL, ScriptedServer
from wsock.cli import api as api_module
from wsock.cli.api import (
    Api,
    Fixed,
    Refusal,
    Reply,
    Unreachable,
    at,
    check_token,
    check_url,
    is_loopback,
    open_transport,
)


class ApiTests(SynchronousTestCase):
    """Requests and answers."""

    def setUp(self) -> None:
        self.server = ScriptedServer()
        self.api = Api(URL, self.server.open(URL, None), lambda: Fixed("token-1"))

    def test_request(self) -> None:
        """A request has its credential, its query without what is not given, and its body as JSON."""
        self.server.answers("GET", "/api/x", {"a": 1})
        self.server.answers("POST", "/api/x", {"b": 2})

        self.assertEqual(self.api.get("/api/x", q="a b&c", none=None, flag=True), {"a": 1})
        self.assertEqual(self.api.post("/api/x", {"name": "ü"}), {"b": 2})

        read, made = self.server.asked
        self.assertEqual((read.path, read.token, read.body), ("/api/x?q=a+b%26c&flag=true", "token-1", None))
        self.assertEqual((made.body, made.headers["Content-Type"]), ({"name": "ü"}, "application/json"))

    def test_nothing(self) -> None:
        """An answer without a body is an empty object."""
        self.server.answers("DELETE", "/api/x", None, 204)

        self.assertEqual(self.api.delete("/api/x"), {})

    def test_pages(self) -> None:
        """A list is read to its end, part by part; what a part says of itself is kept."""
        self.server.answers("GET", "/api/l", {"items": [1, 2], "next": "c1", "isComplete": False})
        self.server.answers("GET", "/api/l", {"items": [3], "next": None, "isComplete": True})

        found = self.api.pages("/api/l", 0, prefix="p")

        self.assertEqual(found, {"items": [1, 2, 3], "next": None, "isComplete": False})
        self.assertEqual(
            [asked.path for asked in self.server.asked],
            ["/api/l?prefix=p&limit=100", "/api/l?prefix=p&cursor=c1&limit=100"],
        )

    def test_limit(self) -> None:
        """With a limit no more is asked for, and the cursor tells that there is more."""
        self.server.answers("GET", "/api/l", {"items": list(range(100)), "next": "c1"})
        self.server.answers("GET", "/api/l", {"items": [100, 101], "next": "c2"})

        found = self.api.pages("/api/l", 102)

        self.assertEqual((len(found["items"]), found["next"]), (102, "c2"))
        self.assertEqual(self.server.asked[1].path, "/api/l?cursor=c1&limit=2")

    def test_refusal(self) -> None:
        """A refusal is told in the server's words, without what could move a cursor."""
        self.server.refuses("GET", "/api/x", 403, "forbidden", "not \x1b[31myou", hint="h")

        error = self.assertRaises(Refusal, self.api.get, "/api/x")

        self.assertEqual(error.message, r"not \x1b[31myou (forbidden)")
        self.assertEqual((error.exit_code, error.status, error.code, error.hint), (1, 403, "forbidden", "h"))

    def test_something_else(self) -> None:
        """What is no answer of a wsock is told from a refusal, and so is a redirect: no token is sent after it."""
        for content, status, words in (
            (b"<html>", 200, "is no wsock"),
            (b"<html>", 502, "answers 502"),
            ({"detail": "x"}, 404, "answers 404"),
            (None, 302, "redirects"),
        ):
            server = ScriptedServer()
            server.answers("GET", "/api/x", content, status)
            api = Api(URL, server.open(URL, None), lambda: Fixed("token-1"))
            error = self.assertRaises(Unreachable, api.get, "/api/x")
            self.assertIn(words, error.message)
            self.assertEqual(error.exit_code, 3)
            self.assertEqual(len(server.asked), 1)

    def test_fixed_credential(self) -> None:
        """A token that can't be renewed is not tried again."""
        self.server.refuses("GET", "/api/x", 401, "unauthorized")

        self.assertRaises(Refusal, self.api.get, "/api/x")

        self.assertEqual(len(self.server.asked), 1)


class PlaceTests(SynchronousTestCase):
    """Paths, URLs and tokens."""

    def test_paths(self) -> None:
        """Whatever a name holds stays in its segment; an empty one is refused."""
        self.assertEqual(at("channels", "a/b c?#ü"), "/api/channels/a%2Fb%20c%3F%23%C3%BC")
        self.assertEqual(at("channels", "..", "."), "/api/channels/%2E%2E/%2E")
        self.assertRaises(click.UsageError, at, "apps", "")

    def test_urls(self) -> None:
        """A URL is brought into one form; that of a WebSocket will do."""
        for given, plain in (
            ("http://a:9001/", "http://a:9001"),
            ("ws://a", "http://a"),
            ("wss://a:443/x/", "https://a:443/x"),
            ("https://[::1]:9001", "https://[::1]:9001"),
        ):
            self.assertEqual(check_url(given), plain)

    def test_wrong_urls(self) -> None:
        """What is none is refused, and no password of one is shown."""
        for text in ("", "a:9001", "ftp://a", "http://", "http://a:x", "http://a?b", "http://a#b", "http://u:secret@a"):
            error = self.assertRaises(click.UsageError, check_url, text)
            self.assertNotIn("secret", error.message)

    def test_loopback(self) -> None:
        """This machine is told from others."""
        self.assertTrue(all(map(is_loopback, ("http://localhost:1", "http://127.0.0.2", "http://[::1]:1"))))
        self.assertFalse(any(map(is_loopback, ("http://a", "http://128.0.0.1"))))

    def test_tokens(self) -> None:
        """A token is a word; what is none is not shown."""
        self.assertEqual(check_token(" wst_a-b.c\n", "X"), "wst_a-b.c")
        for text in ("", "  ", "secret word", "secret\r\nX-Y: z", "sécret"):
            error = self.assertRaises(click.UsageError, check_token, text, "WSOCK_TOKEN")
            self.assertIn("WSOCK_TOKEN", error.message)
            self.assertNotIn("cret", error.message)

    def test_representation(self) -> None:
        """A credential does not show itself."""
        self.assertNotIn("wst_secret", repr(Fixed("wst_secret")))


class _Answering(BaseHTTPRequestHandler):
    """Answers as :attr:`answer` does; what was asked is kept."""

    answer: Callable[[Any], None]
    seen: list[Any]

    def do_GET(self) -> None:  # noqa: N802  # the standard library's hook
        type(self).seen.append((self.path, dict(self.headers)))
        type(self).answer(self)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *args: Any) -> None:
        pass


class TransportTests(SynchronousTestCase):
    """The real way, to servers on loopback."""

    def serve(self, answer: Callable[[Any], None]) -> str:
        """A server that answers so; its URL."""
        self.seen: list[Any] = []
        kind = type("Answering", (_Answering,), {"answer": staticmethod(answer), "seen": self.seen})
        server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return f"http://127.0.0.1:{server.server_address[1]}"

    def test_answer(self) -> None:
        """Status and body come through, of refusals too."""
        url = self.serve(lambda request: _answer(request, 418, b'{"a": 1}'))

        reply = open_transport(url, None)("POST", "/api/x?y=z", {"Authorization": "Bearer t"}, b"{}")

        self.assertEqual(reply, Reply(418, b'{"a": 1}'))
        [(path, headers)] = self.seen
        self.assertEqual((path, headers["Authorization"]), ("/api/x?y=z", "Bearer t"))

    def test_redirect(self) -> None:
        """A redirect is not followed."""
        url = self.serve(lambda request: _answer(request, 302, b"", {"Location": "/elsewhere"}))

        reply = open_transport(url, None)("GET", "/api/x", {}, None)

        self.assertEqual((reply.status, reply.location), (302, "/elsewhere"))
        self.assertEqual(len(self.seen), 1)

    def test_no_proxy_for_this_machine(self) -> None:
        """A server on this machine is asked directly, whatever proxy the environment names."""
        url = self.serve(lambda request: _answer(request, 200, b"{}"))
        self.patch(os, "environ", {**os.environ, "http_proxy": "http://127.0.0.1:1"})

        self.assertEqual(open_transport(url, None)("GET", "/", {}, None).status, 200)

    def test_nobody(self) -> None:
        """Where nobody listens, what to do is said."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{probe.getsockname()[1]}"

        self.assertIn("nothing listens at", self.failing(url))

    def test_no_http(self) -> None:
        """What speaks something else is no server."""

        def babble(request: Any) -> None:
            request.wfile.write(b"SSH-2.0\r\n")

        self.assertIn("does not speak HTTP", self.failing(self.serve(babble)))

    def test_no_tls(self) -> None:
        """Where there is no TLS, https is not spoken."""
        url = self.serve(lambda request: _answer(request, 200, b"{}"))

        self.assertIn("by TLS", self.failing(url.replace("http:", "https:")))

    def test_reasons(self) -> None:
        """What the system says is told in words, with what to do."""
        untrusted = ssl.SSLCertVerificationError()
        untrusted.verify_message = "self-signed certificate"
        for error, words in (
            (untrusted, "self-signed certificate; --cacert"),
            (TimeoutError(), "may have been done all the same"),
            (OSError(113, "No route to host"), "No route to host"),
        ):
            self.assertIn(words, api_module._unreachable(URL, error).message)

    def test_certificates(self) -> None:
        """A file without certificates is refused."""
        error = self.assertRaises(click.UsageError, open_transport, "https://a", "/nowhere.pem")

        self.assertIn("--cacert /nowhere.pem", error.message)

    def failing(self, url: str) -> str:
        """What is said when a request can't be made."""
        transport = open_transport(url, None)
        return str(self.assertRaises(Unreachable, transport, "GET", "/api/x", {}, None).message)


def _answer(request: Any, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


class MessageTests(SynchronousTestCase):
    """That nothing is lost on the way."""

    def test_big_numbers(self) -> None:
        """Whole numbers of any size come through."""
        server = ScriptedServer()
        server.answers("GET", "/api/x", json.dumps({"n": 1 << 70}).encode())

        self.assertEqual(Api(URL, server.open(URL, None), lambda: Fixed("t")).get("/api/x"), {"n": 1 << 70})
