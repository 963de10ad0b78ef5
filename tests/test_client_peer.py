"""A server at the other end of a client's connection that does what the test says, and the tests of it.

It speaks through the server's own handshake and framing, joined to the client by ``twisted.test.iosim``.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.test import iosim
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from wsock.client import Client
from wsock.errors import Refused
from wsock.protocol.codec import encode
from wsock.protocol.handshake import accept_response, parse_head, refusal, upgrade
from wsock.protocol.wire import close_frame, complete_texts, text_frame


class Peer(Protocol):
    """One connection, server side. ``requests`` are what the client has asked since it was last looked at."""

    transport: Any

    def __init__(self, refused: Refused | None = None) -> None:
        self._refused = refused
        self._buffer = b""
        self.pump: iosim.IOPump | None = None
        self.target: str | None = None
        self.requests: list[dict[str, Any]] = []
        self.close_code: int | None = None
        self.is_mute = False
        self.is_lost = False

    def dataReceived(self, data: bytes) -> None:
        if self.is_mute:
            return
        self._buffer += data
        if self.target is None:
            head, end, self._buffer = self._buffer.partition(b"\r\n\r\n")
            assert end, "the handshake came in pieces"
            self._shake_hands(head)
        texts, at = complete_texts(self._buffer, 1 << 20)
        self.requests += [msgspec.json.decode(text) for text in texts]
        self._buffer = self._buffer[at:]
        if self._buffer[:1] == b"\x88":
            mask, payload = self._buffer[2:6], self._buffer[6:8]
            self.close_code = int.from_bytes(bytes(a ^ b for a, b in zip(payload, mask, strict=False)), "big")
            self.transport.write(close_frame(self.close_code, ""))
            self.transport.loseConnection()

    def _shake_hands(self, head: bytes) -> None:
        parsed = parse_head(head)
        self.target = parsed.target
        if self._refused is None:
            self.transport.write(accept_response(upgrade(parsed)))
        else:
            self.transport.write(refusal(self._refused))
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_lost = True

    @property
    def query(self) -> dict[str, list[str]]:
        """The parameters of the client's URL."""
        assert self.target is not None
        return parse_qs(urlsplit(self.target).query)

    def flush(self) -> None:
        """All that is on its way arrives."""
        assert self.pump is not None
        self.pump.flush()

    def asked(self) -> list[dict[str, Any]]:
        """What the client has asked since the last time."""
        self.flush()
        asked, self.requests = self.requests, []
        return asked

    def says(self, action: str, **fields: Any) -> None:
        """The client gets this frame."""
        self.writes(text_frame(encode({"action": action, **fields})))

    def writes(self, data: bytes) -> None:
        """The client gets these bytes."""
        self.transport.write(data)
        self.flush()

    def subscribed(self, channel: str, sequence: int = 0, epoch: str = "E") -> None:
        self.says("subscribed", channel=channel, epoch=epoch, sequence=sequence)

    def message(self, channel: str, sequence: int, data: Any = None, **more: Any) -> None:
        fields = {"id": f"m{sequence}", "data": data, "timestamp": 1000 + sequence, "publisherId": "p"} | more
        self.says("message", channel=channel, sequence=sequence, **fields)

    def resumed(self, *recovered: str, lost: tuple[str, ...] = ()) -> None:
        self.says("ack", id="resume", data={"recovered": recovered, "lost": lost})

    def vanishes(self) -> None:
        """The connection is reset."""
        self.transport.abortConnection()
        self.flush()


@implementer(IStreamClientEndpoint)
class Net:
    """Where the client connects to. Each connection has a peer; ``refusals`` are what the next ones get."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.refusals: list[Refused] = []
        self.is_down = False
        self.is_mute = False
        self.attempts = 0

    @property
    def peer(self) -> Peer:
        """The latest connection."""
        return self.peers[-1]

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803
        """The interface's."""
        self.attempts += 1
        if self.is_down:
            return fail(ConnectionRefusedError())
        peer = Peer(self.refusals.pop(0) if self.refusals else None)
        peer.is_mute = self.is_mute
        client = protocolFactory.buildProtocol(None)
        self.peers.append(peer)
        peer.pump = iosim.connect(
            peer, iosim.FakeTransport(peer, isServer=True), client, iosim.FakeTransport(client, isServer=False)
        )
        return succeed(client)


class ClientTestCase(SynchronousTestCase):
    """A client, the net and the clock it lives on. The second attempt to connect comes one second after the first."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.net = Net()
        self.errors: list[str] = []
        self.lost: list[str] = []
        self.received: list[int] = []

    def client(self, **options: Any) -> Client:
        """A client that is not connected yet."""
        options = {"key": "demo"} | options if "token" not in options else options
        client = Client(
            "ws://server.example:9001",
            reactor=self.clock,
            endpoint=self.net,
            retry_policy=lambda attempt: 1.0 + attempt,
            **options,
        )
        client.on_error(lambda error: self.errors.append(error.code))
        client.on_lost(lambda channel: self.lost.append(channel.name))
        return client

    def connected(self, **options: Any) -> Client:
        """A client that is connected."""
        client = self.client(**options)
        self.successResultOf(client.connect())
        return client

    def subscribed(self, client: Client, name: str = "chat", sequence: int = 0) -> None:
        """The client is subscribed, at this sequence of the epoch E."""
        client.channel(name).on_message(lambda message: self.received.append(message.sequence))
        subscribing = client.channel(name).subscribe()
        self.net.peer.asked()
        self.net.peer.subscribed(name, sequence)
        self.successResultOf(subscribing)

    def reconnect(self) -> Peer:
        """The connection is reset, and the next one made."""
        self.net.peer.vanishes()
        self.clock.advance(1)
        return self.net.peer


class PeerTests(SynchronousTestCase):
    def test_the_net_is_an_endpoint(self) -> None:
        """The net promises what Twisted's endpoints promise."""
        self.assertTrue(verifyObject(IStreamClientEndpoint, Net()))

    def test_it_speaks_websocket(self) -> None:
        """A client of Autobahn's connects to a peer and is understood."""
        net, factory = Net(), WebSocketClientFactory("ws://server.example/?key=k", reactor=Clock())
        factory.protocol = WebSocketClientProtocol
        factory.setProtocolOptions(openHandshakeTimeout=0)

        client = self.successResultOf(net.connect(factory))
        client.sendMessage(b'{"action":"ping"}')

        self.assertEqual(net.peer.asked(), [{"action": "ping"}])
        self.assertEqual(net.peer.query, {"key": ["k"]})
