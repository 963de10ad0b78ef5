"""Tests for :mod:`wsock.edges.http.site`."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure

from tests.base import SynchronousTestCase
from tests.http_client import World, answers, open_http, request
from wsock.interfaces import Outcome
from wsock.protocol.messages import Receipt

MESSAGES = "/api/channels/news/messages"
POST = b"POST /api/channels/news/messages HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer key-a\r\n"


class SiteTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(max_body_bytes=1000)
        self.successResultOf(self.world.create())
        self.transport: Any = open_http(self.world.site)

    def says(self, data: bytes) -> None:
        """The client sends this."""
        self.transport.protocol.dataReceived(data)

    def statuses(self) -> list[int]:
        """The statuses of what was answered."""
        return [answer.status for answer in answers(self.transport.value())]

    def sequence(self) -> int:
        """How many messages were published."""
        return int(self.world.ask("POST", MESSAGES, {}).json["sequence"]) - 1


class BodyTests(SiteTestCase):
    def test_announced(self) -> None:
        """A body that says it is too large is refused before it comes, and the rest is dropped."""
        self.says(POST + b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
        [answer] = answers(self.transport.value())
        self.says(b"x" * 1001 + request("GET", "/health"))

        self.assertEqual((answer.status, answer.json["code"]), (413, "too_large"))
        self.assertIn("limits.http_body_bytes", answer.json["error"])
        self.assertEqual(answer.headers["connection"], "close")
        self.assertEqual(self.statuses(), [413])

    def test_ends(self) -> None:
        """A refused connection ends soon, but not before the client could read why."""
        self.says(POST + b"Content-Length: 1001\r\n\r\n")
        self.assertFalse(self.transport.disconnecting)

        self.world.clock.advance(2)
        self.assertTrue(self.transport.disconnecting)
        self.world.clock.advance(15)
        self.assertTrue(self.transport.disconnected)

    def test_client_ends(self) -> None:
        """When the client ends first nothing is left to do."""
        self.says(POST + b"Content-Length: 1001\r\n\r\n")
        self.transport.protocol.connectionLost(Failure(ConnectionDone()))

        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def test_exactly(self) -> None:
        """A body of just the limit is read."""
        body = b'{"data":"' + b"x" * 989 + b'"}'
        self.says(POST + b"Content-Length: 1000\r\n\r\n" + body)

        self.assertEqual((len(body), self.statuses()), (1000, [200]))

    def test_chunked(self) -> None:
        """A body may come in chunks."""
        self.says(POST + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"dat\r\n5\r\na":1}\r\n0\r\n\r\n')

        self.assertEqual(self.statuses(), [200])

    def test_chunked_too_large(self) -> None:
        """Chunks are counted as they come; the request is refused and never performed."""
        chunk = b"1F4\r\n" + b" " * 500 + b"\r\n"
        self.says(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2)
        self.assertEqual(self.statuses(), [])
        self.says(chunk + b"2\r\n{}\r\n0\r\n\r\n" + request("GET", "/health"))

        self.assertEqual(self.statuses(), [413])
        self.assertEqual(self.sequence(), 0)

    def test_two_lengths(self) -> None:
        """A request whose end two parsers could see at different places is refused and not performed."""
        heads = (
            b"Content-Length: 2\r\nContent-Length: 2\r\n",
            b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: gzip\r\n",
            b"Content-Length: +2\r\n",
            b"Content-Length: " + b"1" * 5000 + b"\r\n",
            b"Bad Header\r\nContent-Length: 2\r\n",
        )
        for head in heads:
            self.transport = open_http(self.world.site)
            self.says(POST + head + b"\r\n{}" + request("GET", "/health"))
            [answer] = answers(self.transport.value())
            self.assertEqual((answer.status, answer.json["code"]), (400, "bad_request"), head)
        self.assertEqual(self.sequence(), 0)

    def test_bad_chunk(self) -> None:
        """A malformed chunk is 400."""
        self.says(POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")

        self.assertEqual(self.statuses(), [400])

    def test_too_large_and_bad(self) -> None:
        """One refusal is enough."""
        self.says(POST + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + b" " * 1001 + b"\r\nzz\r\n")

        self.assertEqual(self.statuses(), [413])

    def test_form(self) -> None:
        """A form is just a body that is no JSON."""
        types = ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
        for text in types:
            head = f"Content-Type: {text}\r\nContent-Length: 3\r\n\r\n".encode()
            self.says(POST + head + b"a=1")

        self.assertEqual(self.statuses(), [400, 400])


class TimeTests(SiteTestCase):
    def test_idle(self) -> None:
        """An idle connection ends."""
        self.says(request("GET", "/health"))
        self.world.clock.advance(59)
        self.assertFalse(self.transport.disconnecting)
        self.world.clock.advance(1)

        self.assertTrue(self.transport.disconnecting)

    def test_slow_body(self) -> None:
        """A body that trickles in does not hold the connection: its first byte started the time."""
        self.says(POST + b"Content-Length: 900\r\n\r\n")
        for _ in range(6):
            self.world.clock.advance(10)
            self.says(b" ")

        self.assertTrue(self.transport.disconnecting)

    def test_slow_head(self) -> None:
        """Nor does a head."""
        for _ in range(6):
            self.says(b"G")
            self.world.clock.advance(10)

        self.assertTrue(self.transport.disconnecting)

    def test_used(self) -> None:
        """Each request restarts the time."""
        for _ in range(5):
            self.world.clock.advance(50)
            self.says(request("GET", "/health"))

        self.assertFalse(self.transport.disconnecting)
        self.assertEqual(self.statuses(), [200] * 5)

    def test_only_the_clock(self) -> None:
        """The site uses the clock that it was given and no timer of its own."""
        self.world.site.doStart()
        self.addCleanup(self.world.site.doStop)

        self.assertEqual(len(self.world.clock.getDelayedCalls()), 1)


class ConnectionTests(SiteTestCase):
    def test_pipelined(self) -> None:
        """Requests that come at once are answered in their order."""
        posts = b"".join(request("POST", MESSAGES, {"data": n}) for n in range(20))
        self.says(posts + request("GET", "/health"))
        found = answers(self.transport.value())

        self.assertEqual([a.json["sequence"] for a in found[:-1]], list(range(1, 21)))
        self.assertEqual(found[-1].json, {"status": "ok"})
        self.assertFalse(self.transport.disconnecting)

    def test_byte_by_byte(self) -> None:
        """It doesn't matter how the bytes are cut."""
        for byte in request("POST", MESSAGES, {"data": 1}) * 2:
            self.says(bytes([byte]))

        self.assertEqual(self.statuses(), [200, 200])

    def test_http_10(self) -> None:
        """HTTP/1.0 is answered with a length and the end of the connection, with or without a host."""
        self.says(b"GET /health HTTP/1.0\r\n\r\n")
        [answer] = answers(self.transport.value())

        self.assertEqual((answer.status, answer.json), (200, {"status": "ok"}))
        self.assertTrue(self.transport.disconnecting)

    def test_close(self) -> None:
        """A client may ask for the end."""
        self.says(request("GET", "/health", headers={"Connection": "close"}))

        self.assertEqual(self.statuses(), [200])
        self.assertTrue(self.transport.disconnecting)

    def test_absolute_form(self) -> None:
        """A target in absolute form is the path in it."""
        self.says(request("GET", "http://other/health?x=1") + request("GET", "HTTPS://other"))

        self.assertEqual(self.statuses(), [200, 404])

    def test_end(self) -> None:
        """When the server ends, idle connections end at once and the others after their answer."""
        outcomes: list[Outcome] = []
        self.patch(self.world.broker, "publish", lambda _, outcome: outcomes.append(outcome))
        idle: Any = open_http(self.world.site)
        idle.protocol.dataReceived(request("GET", "/health"))
        self.says(request("POST", MESSAGES, {"data": 1}))
        self.world.site.end_connections()
        self.assertEqual((idle.disconnecting, self.transport.disconnecting), (True, False))
        outcomes.pop().callback(Receipt("x", "news", 1, "e", 1))

        self.assertEqual(self.statuses(), [200])
        self.assertTrue(self.transport.disconnecting)
        for transport in (idle, self.transport):
            transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.world.site.channels, {})

    def test_silent(self) -> None:
        """No request is logged, no header names the software, and no HTTP/2 is offered."""
        observer = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)  # type: ignore[arg-type]  # any test case has addCleanup
        self.says(request("GET", MESSAGES + "?key=secret") + request("HEAD", "/health"))
        self.world.clock.advance(60)

        self.assertNotIn(b"server", self.transport.value().lower().replace(b"the server", b""))
        self.assertEqual([e for e in observer if e["log_level"] >= LogLevel.info], [])
        self.assertEqual(self.world.site.acceptableProtocols(), [b"http/1.1"])
