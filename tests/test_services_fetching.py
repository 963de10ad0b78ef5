"""Tests for :mod:`wsock.services.fetching`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from tests.base import SynchronousTestCase
from wsock.errors import Code, Refused
from wsock.services.addresses import Guard
from wsock.services.fetching import Fetcher, FetchFailed
from wsock.services.outgoing import Outgoing

SETTING = "keys.jwks_allowed_hosts"


class FetchingCase(SynchronousTestCase):
    """A fetcher on a network that is not there; ``addresses`` are those of every host."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.addresses: Sequence[str] = ["127.0.0.1"]
        guard = Guard(SETTING, allows_loopback=True)
        # The client's own guard lets nothing through: the fetcher has one of its own.
        outgoing = Outgoing(self.reactor, Guard("none"), resolve=self.resolve)
        self.fetcher = Fetcher(outgoing, guard, max_bytes=100)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Whatever the host."""
        return self.addresses

    def start(self, url: str) -> Deferred[bytes]:
        """Begins to fetch."""
        return Deferred.fromCoroutine(self.fetcher.fetch(url))

    def reason(self, fetching: Deferred[bytes]) -> str:
        """Why it failed."""
        return str(self.failureResultOf(fetching, FetchFailed).value.reason)


class UrlTests(FetchingCase):
    """Which URLs are taken."""

    def test_taken(self) -> None:
        """What the guard lets through."""
        for url in ("https://id.example/a?b=c", "http://localhost:1/"):
            self.assertEqual(self.fetcher.check_url("jwksUrl", url), url)

    def test_refused(self) -> None:
        """All else is refused by the name of its field, and is not fetched."""
        for url in ("", "ftp://id.example/", "http://id.example/", "https://10.0.0.1/", "https://a@id.example/"):
            refused = self.assertRaises(Refused, self.fetcher.check_url, "jwksUrl", url)
            self.assertEqual(refused.code, Code.BAD_REQUEST)
            self.assertIn("jwksUrl", refused.text)
            self.reason(self.start(url))
        self.assertEqual(self.reactor.tcpClients, [])

    def test_not_public(self) -> None:
        """Where a host's address is not public, the operator reads which setting is about it."""
        self.addresses = ["10.0.0.1"]
        self.assertIn(SETTING, self.reason(self.start("https://id.example/")))


class AnswerTests(FetchingCase):
    """What is made of an answer."""

    def setUp(self) -> None:
        super().setUp()
        self.fetching = self.start("http://localhost:8000/keys?a=b")
        self.transport = StringTransport()
        factory: Any = self.reactor.tcpClients[0][2]
        self.client = factory.buildProtocol(None)
        self.client.makeConnection(self.transport)

    def answer(self, text: bytes) -> None:
        """The server answers."""
        self.client.dataReceived(text)

    def close(self) -> None:
        """The server closes."""
        self.client.connectionLost(Failure(ConnectionDone()))

    def test_request(self) -> None:
        """It asks for the path, of the host, once."""
        head = self.transport.value()

        self.assertTrue(head.startswith(b"GET /keys?a=b HTTP/1.1\r\n"), head)
        self.assertIn(b"Host: localhost:8000\r\n", head)
        self.assertIn(b"Accept: application/json\r\n", head)

    def test_body(self) -> None:
        """The body of an answer is what was wanted, up to the limit."""
        self.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100)

        self.assertEqual(self.successResultOf(self.fetching), b"x" * 100)

    def test_body_until_the_end(self) -> None:
        """One that has no length ends with the connection."""
        self.answer(b"HTTP/1.1 200 OK\r\n\r\nabc")
        self.assertNoResult(self.fetching)
        self.close()

        self.assertEqual(self.successResultOf(self.fetching), b"abc")

    def test_too_large(self) -> None:
        """One that is too large is none."""
        self.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n")

        self.assertIn("100 bytes", self.reason(self.fetching))

    def test_cut_off(self) -> None:
        """One that is not whole is none."""
        self.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
        self.close()

        self.assertIn("cut off", self.reason(self.fetching))

    def test_redirect(self) -> None:
        """A redirect leads nowhere."""
        self.answer(b"HTTP/1.1 302 Found\r\nLocation: http://localhost:9/\r\nContent-Length: 5\r\n\r\nabcde")

        self.assertIn("302", self.reason(self.fetching))
        self.assertEqual(len(self.reactor.tcpClients), 1)

    def test_silent(self) -> None:
        """A server that says nothing is given up."""
        self.reactor.advance(5.1)

        self.assertIn("5 s", self.reason(self.fetching))
