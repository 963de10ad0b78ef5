"""Tests for :mod:`wsock.edges.http.upgrade`: WebSockets that begin at a resource."""

from __future__ import annotations

import datetime
import json
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.ssl import Certificate as TlsCertificate
from twisted.internet.ssl import CertificateOptions, PrivateCertificate, optionsForClientTLS
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.test import iosim
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from twisted.web.test.requesthelper import DummyChannel

from tests.base import SynchronousTestCase, TestCase
from tests.http_client import World, answers, open_http, request
from wsock.edges.doorway import DoorFactory
from wsock.edges.websocket import Connection

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
HEADERS = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
PING = b'{"action":"ping"}'


def upgrade(target: str = "/?key=key-a", **headers: str) -> bytes:
    """The bytes of an upgrade."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return request("GET", target, key=None, headers=HEADERS | more)


def frame(text: bytes) -> bytes:
    """A text frame as a client sends it, masked with zeros."""
    assert len(text) < 126
    return bytes([0x81, 0x80 | len(text)]) + b"\0\0\0\0" + text


class UpgradeTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = self.make()

    def make(self, **edge: Any) -> World:
        """A world that can be used."""
        world = World(**edge)
        self.successResultOf(world.create())
        return world

    def replace_admit(self, admit: Any) -> None:
        """The gate decides by this."""
        self.patch(self.world.gate, "admit", admit)

    def sites(self) -> list[Any]:
        """Our own site, somebody else's, and one behind a wrapper of the transport."""
        wrapping = WrappingFactory(self.world.site)
        return [self.world.site, self.world.foreign_site, wrapping]

    def receiver(self, transport: Any) -> Any:
        """What gets the client's bytes behind any wrapper."""
        protocol = transport.protocol
        return protocol.wrappedProtocol if isinstance(protocol, ProtocolWrapper) else protocol

    def says(self, transport: Any, data: bytes) -> None:
        """The client sends this, and the turn ends."""
        transport.protocol.dataReceived(data)
        self.world.clock.advance(0)

    def assert_open(self, transport: Any) -> None:
        """The transport is a WebSocket's and nothing else's: it pings."""
        self.assertIsInstance(self.receiver(transport), Connection)
        transport.clear()
        self.says(transport, frame(PING))
        self.assertIn(b'{"action":"pong"}', transport.value())


class OpeningTests(UpgradeTestCase):
    def test_opens(self) -> None:
        """An upgrade on any path, under any site, is answered with 101 and served."""
        for site in self.sites():
            for path in ("/", "//ws", "/api/channels/x/messages"):
                transport: Any = open_http(site)
                self.says(transport, upgrade(f"{path}?key=key-a"))
                self.assertTrue(transport.value().startswith(b"HTTP/1.1 101 "), transport.value())
                self.assertIn(ACCEPT, transport.value())
                self.assert_open(transport)
        self.assertEqual(len(self.world.gate), 9)
        self.assertEqual(self.world.site.channels, {})

    def test_kept_alive(self) -> None:
        """It may come after other requests, pipelined or not, and be followed by frames at once."""
        for site in self.sites():
            transport: Any = open_http(site)
            self.says(transport, request("GET", "/health"))
            self.says(transport, request("GET", "/health") + upgrade() + frame(PING) + frame(PING)[:3])
            self.says(transport, frame(PING)[3:])
            self.assertEqual(transport.value().count(b"HTTP/1.1 200 OK"), 2)
            self.assertEqual(transport.value().count(b'{"action":"pong"}'), 2)

    def test_byte_by_byte(self) -> None:
        """It doesn't matter how the bytes are cut."""
        transport: Any = open_http(self.world.foreign_site)
        for byte in upgrade() + frame(PING):
            self.says(transport, bytes([byte]))

        self.assertIn(b'{"action":"pong"}', transport.value())

    def test_no_timeout(self) -> None:
        """The site's timeout is none of the WebSocket's."""
        for site in self.sites():
            transport: Any = open_http(site)
            self.says(transport, upgrade())
            self.world.clock.advance(600)
            self.assertFalse(transport.disconnecting)
            self.assert_open(transport)

    def test_waits(self) -> None:
        """Frames that come while the credential is looked up are kept; the transport is read again afterwards."""
        waiting: Deferred[Any] = Deferred()
        admit = self.world.gate.admit

        async def slow(*args: Any) -> Any:
            await waiting
            return await admit(*args)

        self.replace_admit(slow)
        transport: Any = open_http(self.world.site)
        self.says(transport, upgrade())
        for _ in range(2000):
            self.says(transport, frame(PING))
        self.assertEqual((transport.producerState, transport.value()), ("paused", b""))
        waiting.callback(None)
        self.world.clock.advance(0)

        self.assertEqual(transport.producerState, "producing")
        self.assertEqual(transport.value().count(b'{"action":"pong"}'), 2000)

    def test_client_leaves(self) -> None:
        """A client that goes away while it waits leaves nothing behind."""
        waiting: Deferred[Any] = Deferred()

        async def slow(*args: Any) -> Any:
            await waiting

        self.replace_admit(slow)
        transport: Any = open_http(self.world.site)
        self.says(transport, upgrade())
        transport.protocol.connectionLost(Failure(ConnectionDone()))
        waiting.callback(None)

        self.assertEqual((len(self.world.gate), self.flushLoggedErrors()), (0, []))

    def test_end(self) -> None:
        """The loss of the transport is the connection's to hear."""
        for site in self.sites():
            transport: Any = open_http(site)
            self.says(transport, upgrade())
            transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(len(self.world.gate), 0)

    def test_behind_the_door(self) -> None:
        """A connection that the door gave to HTTP can still become a WebSocket."""
        doors = DoorFactory(self.world.gate, self.world.site.buildProtocol, self.world.clock)
        transport: Any = open_http(doors)
        self.says(transport, request("GET", "/health"))
        self.says(transport, upgrade() + frame(PING))

        self.assertIn(b'{"action":"pong"}', transport.value())
        self.assert_open(transport)

    def test_iosim(self) -> None:
        """The same over a simulated connection, with a client of Autobahn's."""
        client = _client()
        pump = iosim.connect(
            *_ends(self.world.foreign_site.buildProtocol(None), is_server=True), *_ends(client), greet=True
        )
        pump.flush()
        client.sendMessage(PING)
        pump.flush()
        self.world.clock.advance(0)
        pump.flush()

        self.assertEqual(client.received, [{"action": "pong"}])


class RefusalTests(UpgradeTestCase):
    def assert_refused(self, data: bytes, status: int, code: str) -> dict[str, str]:
        """Under every site the upgrade gets this answer, and its connection ends."""
        headers: dict[str, str] = {}
        for site in self.sites():
            transport: Any = open_http(site)
            self.says(transport, data + request("POST", "/api/channels/c/messages", {"data": 1}))
            [answer] = answers(transport.value())
            self.assertEqual((answer.status, answer.json["code"]), (status, code), answer.body)
            self.assertTrue(transport.disconnecting)
            headers = answer.headers
        self.assertEqual(len(self.world.gate), 0)
        return headers

    def test_credential(self) -> None:
        """A credential that is not good is refused at the upgrade."""
        self.assert_refused(upgrade("/"), 401, "unauthorized")
        self.assert_refused(upgrade("/?key=zzz"), 401, "unauthorized")
        self.assert_refused(upgrade("/?key=key-b", Origin="https://evil.example"), 403, "forbidden")

    def test_not_ready(self) -> None:
        """A server that is not ready says when to come back."""
        self.world.state = "starting"

        self.assertEqual(self.assert_refused(upgrade(), 503, "unavailable")["retry-after"], "1")

    def test_smuggling(self) -> None:
        """A value in which some parser sees a second header is refused."""
        for separator in "\x0b\x0c\x1c\x1d\x1e\x1f\x85\x01\x08\x7f":
            value = f"a{separator}X-Forwarded-For: 6.6.6.6"
            self.assert_refused(upgrade(X_Note=value), 400, "bad_request")

    def test_malformed(self) -> None:
        """What is no valid upgrade is refused."""
        self.assert_refused(upgrade(Sec_WebSocket_Version="8"), 400, "bad_request")
        self.assert_refused(upgrade(Sec_WebSocket_Key="short"), 400, "bad_request")
        self.assert_refused(upgrade(Connection="keep-alive"), 400, "bad_request")
        self.assert_refused(upgrade().replace(b"GET", b"PUT", 1), 400, "bad_request")
        self.assert_refused(upgrade().replace(b"HTTP/1.1", b"HTTP/1.0", 1), 400, "bad_request")
        self.assert_refused(upgrade(Content_Length="2") + b"{}", 400, "bad_request")
        self.assert_refused(upgrade().replace(b"Host:", b"Host: x\r\nHost:", 1), 400, "bad_request")

    def test_other_channel(self) -> None:
        """Where there is no HTTP/1.1 connection to take over, as with HTTP/2, it is refused."""
        asked: Any = Request(DummyChannel(), False)
        asked.gotLength(0)
        for name, value in HEADERS.items():
            asked.requestHeaders.setRawHeaders(name, [value])
        self.patch(asked.channel.site, "resource", self.world.edge.resource())
        asked.requestReceived(b"GET", b"/?key=key-a", b"HTTP/2")
        [answer] = answers(asked.transport.written.getvalue())

        self.assertEqual(answer.status, 400)
        self.assertNotIn("connection", answer.headers)

    def test_other_upgrade(self) -> None:
        """An upgrade to something else is an ordinary request."""
        transport: Any = open_http(self.world.site)
        self.says(transport, request("GET", "/health", headers={"Upgrade": "h2c", "Connection": "Upgrade"}))

        self.assertEqual([a.status for a in answers(transport.value())], [200])

    def test_fault(self) -> None:
        """A fault of ours is logged and answered with 500; after the 101 the connection is cut."""

        async def fail(*_: Any) -> Any:
            raise KeyError("secret detail")

        async def fail_later(*_: Any) -> Any:
            return {}.__getitem__

        self.replace_admit(fail)
        self.assert_refused(upgrade(), 500, "internal")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 3)
        self.replace_admit(fail_later)
        transport: Any = open_http(self.world.site)
        self.says(transport, upgrade())
        self.assertTrue(transport.disconnected)
        self.assertEqual(len(self.flushLoggedErrors(KeyError, TypeError)), 1)


class AddressTests(UpgradeTestCase):
    def test_rate(self) -> None:
        """The rate is that of the client's address: the transport's, or what trusted proxies say."""
        direct, proxied = self.make(connect_rate=1), self.make(connect_rate=1, trusted_proxies=1)
        for world, expected in ((direct, [101, 429]), (proxied, [101, 101])):
            found = []
            for address in ("198.51.100.1", "198.51.100.2"):
                transport: Any = open_http(world.site)
                transport.protocol.dataReceived(upgrade(X_Forwarded_For=f"6.6.6.6, {address}"))
                found.append(int(transport.value().split(b" ")[1]))
            self.assertEqual(found, expected)


class SocketTests(TestCase):
    """The same over real sockets, in somebody else's site, with Autobahn's client."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        from twisted.internet import reactor  # noqa: TID251  # trial's own: these are real sockets

        self.reactor: Any = reactor
        self.world = World(clock=self.reactor)
        await self.world.create()
        root = Resource()
        root.putChild(b"rt", self.world.edge.resource())
        self.site = Site(root, reactor=self.reactor)

    async def test_tcp(self) -> None:
        """Over TCP, after a request on the same connection."""
        port = self.reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)

        await self._ping(TCP4ClientEndpoint(self.reactor, "127.0.0.1", port.getHost().port))

    async def test_tls(self) -> None:
        """Over TLS, where the transport is a wrapper."""
        certificate = _certificate()
        options: CertificateOptions = certificate.options()
        port = self.reactor.listenSSL(0, self.site, options, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        trusted = TlsCertificate.loadPEM(certificate.dumpPEM())
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", port.getHost().port)

        await self._ping(wrapClientTLS(optionsForClientTLS("localhost", trusted), endpoint))

    async def _ping(self, endpoint: Any) -> None:
        client = await endpoint.connect(_client().factory)
        await client.opened
        client.sendMessage(json.dumps({"action": "subscribe", "channel": "news"}).encode())
        client.sendMessage(json.dumps({"action": "publish", "channel": "news", "data": "x" * 50_000}).encode())
        await client.enough
        self.assertEqual({m["action"] for m in client.received}, {"subscribed", "ack", "message"})
        client.sendClose(1000)
        await client.closed


class _Client(WebSocketClientProtocol):
    """Remembers what it is told; ``enough`` fires with the third message."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[Any] = []
        self.opened: Deferred[None] = Deferred()
        self.enough: Deferred[None] = Deferred()
        self.closed: Deferred[None] = Deferred()

    def onOpen(self) -> None:
        self.opened.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N803
        self.received.append(json.loads(payload))
        if len(self.received) == 3:
            self.enough.callback(None)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: N803
        self.closed.callback(None)


def _client() -> Any:
    factory: Any = WebSocketClientFactory("ws://localhost/rt/any?key=key-a")
    factory.noisy = False
    factory.protocol = _Client
    factory.openHandshakeTimeout = factory.closeHandshakeTimeout = 0
    client = factory.buildProtocol(None)
    factory.buildProtocol = lambda _: client
    return client


def _ends(protocol: Any, *, is_server: bool = False) -> tuple[Any, Any]:
    return protocol, iosim.FakeTransport(protocol, isServer=is_server)


def _certificate() -> PrivateCertificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today).not_valid_after(today + datetime.timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = builder.add_extension(names, critical=False).sign(key, SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    loaded: PrivateCertificate = PrivateCertificate.loadPEM(certificate.public_bytes(Encoding.PEM) + private)
    return loaded
