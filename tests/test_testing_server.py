"""The server in memory, which users test against: what its words do."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from tests.base import SynchronousTestCase
from tests.vocabulary import ServerTestCase
from wsock.config import Config, Limits, Redis
from wsock.errors import Unavailable
from wsock.interfaces import App, Key
from wsock.services.auth import hash_api_key
from wsock.testing import InMemoryClient, InMemoryServer, client_frame
from wsock.testing.transport import MemoryTransport


class InMemoryServerTests(ServerTestCase):
    def test_example(self) -> None:
        """The example of the module's documentation holds."""
        server = InMemoryServer()
        bob = server.connect(client_id="bob")
        bob.says({"action": "subscribe", "channel": "news"})
        self.assertEqual(bob.take()[0]["action"], "subscribed")

        server.advance(25)

        self.assertEqual(bob.take(), [{"action": "pong"}])
        server.stop()

    def test_two_clients(self) -> None:
        """What one publishes, the other hears."""
        alice, bob = self.connected(client_id="alice"), self.subscribed("news")

        alice.says({"action": "publish", "channel": "news", "data": {"n": 1}, "id": "m1"})

        self.assert_told(alice, action="ack", id="m1")
        self.assert_told(bob, action="message", data={"n": 1}, publisherId="alice")

    def test_events_stay_until_taken(self) -> None:
        """Looking at the events does not take them."""
        bob = self.connected()

        bob.says({"action": "ping"})

        self.assertEqual(bob.events, bob.events)
        self.assertEqual(bob.take(), [{"action": "pong"}])
        self.assertEqual(bob.events, [])

    def test_settings(self) -> None:
        """The settings given are those of the server; Redis is not asked for all the same."""
        config = Config(limits=Limits(message_bytes=10), redis=Redis(urls=("redis://192.0.2.1",)))
        bob = self.serve(config).connect()

        bob.says({"action": "publish", "channel": "news", "data": "x" * 20})

        self.assert_refused(bob, "too_large", "limits.message_bytes")

    def test_refusal(self) -> None:
        """A refused handshake has a status and a body."""
        client = self.server.connect(key="wrong")

        self.assertEqual((client.status, client.body["code"]), (401, "unauthorized"))
        self.assertEqual(client.closed, "lost")

    def test_app_and_token(self) -> None:
        """Apps with keys can be made, and tokens that they sign."""
        key = Key(
            id="k1",
            app="shop",
            name="",
            created_at=0,
            api_key_hash=hash_api_key("shop-key"),
            algorithm="HS256",
            secret="a-secret-of-at-least-32-characters",
        )
        self.server.create(App(id="shop", name="Shop", created_at=0), key)
        token = self.server.token(kid="k1", secret=key.secret, sub="eve")

        eve, anonymous = self.connected(token=token), self.connected(key="shop-key")
        anonymous.says({"action": "subscribe", "channel": "news"})
        eve.says({"action": "publish", "channel": "news", "data": 1})

        self.assertEqual(anonymous.take()[-1]["publisherId"], "eve")

    def test_wall_clock_goes_with_the_clock(self) -> None:
        """Timestamps advance as time is made to pass."""
        bob = self.subscribed("news")
        self.publish("news", 1)
        self.server.advance(60)
        self.publish("news", 2)

        first, second = [e["timestamp"] for e in bob.take() if e["action"] == "message"]

        self.assertEqual(second - first, 60_000)

    def test_wait_for(self) -> None:
        """Errors of the server's come out of ``wait_for``, and what needs time is said to."""

        async def fail() -> None:
            raise Unavailable("away")

        self.assertRaises(Unavailable, self.server.wait_for, fail())
        self.assertRaises(RuntimeError, self.server.wait_for, Deferred())

    def test_stop(self) -> None:
        """Stopping closes the connections."""
        bob = self.connected()

        self.server.stop()

        self.assert_closed(bob, 1001)
        self.assertIsNotNone(bob.ending)

    def test_frames_after_close_are_an_error(self) -> None:
        """A server that broke the WebSocket protocol would not go unnoticed."""
        for frames in (b"\x01\x00", b"\x88\x02\x03\xe8\x81\x00"):
            client = InMemoryClient(self.server.clock, "192.0.2.1")
            client.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n")
            client.transport.write(b"\r\n")

            self.assertRaises(ValueError, client.transport.write, frames)


class ClientFrameTests(SynchronousTestCase):
    def test_lengths(self) -> None:
        """Each length has its shortest form, with the MASK bit."""
        heads = [client_frame(b"x" * size)[:4] for size in (125, 126, 65536)]

        self.assertEqual([head[:2] for head in heads], [b"\x81\xfd", b"\x81\xfe", b"\x81\xff"])
        self.assertEqual(client_frame(b"", 9, is_final=False)[0], 9)


class _Recorder:
    """A protocol and a producer that remember what they were told."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def dataReceived(self, data: bytes) -> None:
        self.calls.append(data)
        if data == b"fail":
            raise ValueError("a bug")

    def connectionLost(self, reason: object) -> None:
        self.calls.append("lost")

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


class MemoryTransportTests(ServerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.heard: list[bytes] = []
        self.ends: list[str] = []
        self.protocol = _Recorder()
        self.transport = MemoryTransport(self.server.clock, self.heard.append, self.ends.append)
        self.transport.protocol = self.protocol

    def test_paused_reading(self) -> None:
        """While the server pauses the transport the client's bytes wait."""
        self.transport.pauseProducing()
        self.transport.send(b"a")
        self.transport.send(b"b")
        self.assertEqual((self.protocol.calls, self.transport.unsent), ([], 2))

        self.transport.resumeProducing()
        self.server.settle()

        self.assertEqual(self.protocol.calls, [b"ab"])

    def test_client_does_not_read(self) -> None:
        """A producer is paused beyond 64 KiB and resumed when the client reads."""
        self.transport.registerProducer(self.protocol, True)
        self.transport.stop_reading()
        self.transport.write(b"x" * 65536)
        self.assertEqual(self.protocol.calls, [])

        self.transport.write(b"x")
        self.transport.start_reading()

        self.assertEqual(self.protocol.calls, ["pause", "resume"])
        self.assertEqual(len(b"".join(self.heard)), 65537)

    def test_lose_waits_for_the_client(self) -> None:
        """A connection that ends properly is read to its end."""
        self.transport.stop_reading()
        self.transport.writeSequence([b"a", b"b"])
        self.transport.loseConnection()
        self.assertEqual(self.ends, [])

        self.transport.start_reading()
        self.server.settle()

        self.assertEqual((self.heard, self.ends, self.protocol.calls), ([b"ab"], ["lost"], ["lost"]))

    def test_abort(self) -> None:
        """A reset drops what was not read; what is written afterwards goes nowhere."""
        self.transport.stop_reading()
        self.transport.write(b"a")
        self.transport.abortConnection()
        self.transport.write(b"b")
        self.transport.start_reading()
        self.transport.send(b"c")
        self.server.settle()

        self.assertEqual((self.heard, self.ends, self.protocol.calls), ([], ["reset"], ["lost"]))

    def test_stopped_producer(self) -> None:
        """A producer is told of the end; as a producer the transport ends itself."""
        self.transport.registerProducer(self.protocol, True)
        self.transport.stopProducing()
        self.server.settle()

        self.assertEqual(self.protocol.calls, ["stop", "lost"])

    def test_failing_protocol(self) -> None:
        """An exception of the protocol's is logged and ends the connection."""
        self.transport.send(b"fail")
        self.server.settle()

        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.protocol.calls, [b"fail", "lost"])

    def test_addresses(self) -> None:
        """Both ends have addresses."""
        self.assertEqual(self.transport.getPeer().host, "192.0.2.1")
        self.assertEqual(self.transport.getHost().port, 9001)
