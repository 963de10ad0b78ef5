"""Tests of one connection."""

from __future__ import annotations

from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.testing import MemoryReactorClock
from zope.interface.verify import verifyObject

from tests.test_client_peer import ClientTestCase, Net
from wsock.client.connector import Credential, endpoint_for
from wsock.client.link import Link, Timing, link_factory
from wsock.protocol.wire import text_frame


class Owner:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []

    def received(self, link: Link, text: bytes) -> None:
        self.texts.append(text)


class LinkTests(ClientTestCase):
    def link(self) -> Link:
        """A link that is connected to the net."""
        self.owner = Owner()
        factory = link_factory("ws://server.example/", self.clock, Timing(), self.owner)
        link: Link = self.successResultOf(self.net.connect(factory)).link
        self.successResultOf(link.opened())
        return link

    def test_passes_texts_on(self) -> None:
        """Text messages reach the owner; binary ones, of which there are none, do not."""
        self.link()
        self.net.peer.writes(b"\x82\x02{}")
        self.net.peer.writes(text_frame(b'{"a":1}'))
        self.assertEqual(self.owner.texts, [b'{"a":1}'])

    def test_answers_pings(self) -> None:
        """RFC 6455 §5.5.2."""
        self.link()
        self.net.peer.transport.write(b"\x89\x02{}")
        with self.assertNoLogs():
            self.net.peer.flush()
        self.assertFalse(self.net.peer.is_lost)

    def test_bounds_messages(self) -> None:
        """A frame beyond 2 MiB ends the connection before it is read."""
        link = self.link()
        closed = link.closed()
        self.net.peer.writes(b"\x81\x7f" + (3 << 20).to_bytes(8, "big"))
        self.net.peer.flush()
        self.successResultOf(closed)

    def test_tells_why_it_ended(self) -> None:
        """Whoever asks, before or after, learns the reason; no timer is left."""
        link = self.link()
        before = link.closed()
        self.net.peer.is_mute = True
        self.net.peer.writes(b"\x88\x0a\x11\x33" + b"kicked..")
        self.net.peer.transport.loseConnection()
        self.net.peer.flush()
        for closed in (before, link.closed()):
            self.assertEqual(self.successResultOf(closed), "kicked.. (4403)")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_sends_nothing_after_its_end(self) -> None:
        """A late send is dropped; closing and aborting again does nothing."""
        link = self.link()
        self.net.peer.vanishes()
        link.send(b"{}")
        link.close()
        link.abort()
        self.assertEqual(self.net.peer.requests, [])

    def test_an_answer_that_is_no_upgrade(self) -> None:
        """Something else that listens there is told apart."""
        for answer in (
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nhello",
            b"HTTP/1.1 429 Slow\r\nRetry-After: x\r\n\r\n",
        ):
            net = Net()
            net.is_mute = True
            factory = link_factory("ws://server.example/", self.clock, Timing(), Owner())
            link: Link = self.successResultOf(net.connect(factory)).link
            opened = link.opened()
            net.peer.writes(answer)
            net.peer.flush()
            error = self.failureResultOf(opened).value
            self.assertIn(error.code, ("connection", "rate_limited"))
            self.assertIsNone(error.retry_after)


class CredentialTests(ClientTestCase):
    def test_hides_itself(self) -> None:
        """Neither a key nor a token shows in a log."""
        self.assertEqual(repr(Credential("secret", None)), "<Credential key>")
        self.assertNotIn("secret", repr(self.client(key="secret")))

    def test_a_coroutine_may_supply_it(self) -> None:
        """``async def`` is fine."""

        async def renew() -> str:
            return "t"

        self.assertEqual(self.successResultOf(Credential(None, renew).renewed()), "t")

    def test_plain_and_secure(self) -> None:
        """Either kind of URL leads to an endpoint."""
        for url in ("ws://server.example", "wss://server.example:9443/path"):
            self.assertTrue(verifyObject(IStreamClientEndpoint, endpoint_for(url, MemoryReactorClock())))

    def test_urls(self) -> None:
        """Anything but a WebSocket URL is refused at once."""
        for url in ("http://x", "x", "ws://"):
            with self.assertRaises(ValueError):
                endpoint_for(url, self.clock)
