"""The client for foreign URLs, over real sockets, mostly with TLS: what no network in memory shows."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor  # noqa: TID251  # trial's own: the sockets are real
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, PrivateCertificate, trustRootFromCertificates
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from tests.base import TestCase
from tests.e2e.test_jwks import certificate
from wsock.interfaces import Blocked, NotSent, Reply
from wsock.services.addresses import Guard
from wsock.services.outgoing import Outgoing

NAME = "hooks.example"


class Endless(Protocol):
    """Answers with a body that never ends, as fast as it is taken; ``lost`` fires when the connection is."""

    transport: Any
    factory: Any

    def connectionMade(self) -> None:
        """Twisted's hook."""
        self.loop = LoopingCall(self.transport.write, b"x" * 4096)
        self.is_begun = False

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook."""
        if not self.is_begun:
            self.is_begun = True
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
            self.loop.start(0.005)

    def connectionLost(self, reason: Failure = Failure(Exception())) -> None:  # noqa: B008  # Twisted's signature
        """Twisted's hook."""
        if self.loop.running:
            self.loop.stop()
        self.factory.lost.callback(None)


class Silent(Protocol):
    """Takes connections, and says nothing: not even in TLS."""

    factory: Any

    def connectionLost(self, reason: Failure = Failure(Exception())) -> None:  # noqa: B008  # Twisted's signature
        """Twisted's hook."""
        self.factory.lost.callback(None)


class Page(Resource):
    """Keeps who came; answers at once, or when it is told to."""

    isLeaf = True  # noqa: N815  # Twisted's name

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []
        self.connections: set[Any] = set()
        self.answer: Callable[[Request], Any] = lambda request: b"ok"

    def render_POST(self, request: Request) -> Any:  # noqa: N802
        """Twisted's hook."""
        self.requests.append(request)
        self.connections.add(request.channel)
        return self.answer(request)


class OutgoingTests(TestCase):
    """A client that takes this machine for the host of any name."""

    timeout = 30

    def setUp(self) -> None:
        self.tls = certificate(NAME)
        self.page = Page()
        self.asked: list[str] = []

    def listen(self, factory: Any = None, *, tls: PrivateCertificate | None = None, is_plain: bool = False) -> str:
        """Serves the page, or something else, and returns its URL."""
        factory = factory or Site(self.page)
        if is_plain:
            port: IListeningPort = reactor.listenTCP(0, factory, interface="127.0.0.1")
        else:
            options = (tls or self.tls).options()
            port = reactor.listenSSL(0, factory, options, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        return f"https://{NAME}:{port.getHost().port}/in"  # type: ignore[attr-defined]  # IPv4

    def factory(self, protocol: type[Protocol]) -> Any:
        """A factory whose ``lost`` fires when its first connection is lost."""
        factory: Any = Factory.forProtocol(protocol)
        factory.lost = Deferred()
        return factory

    def client(self, *, trusted: PrivateCertificate | None = None, **settings: Any) -> Outgoing:
        """It trusts the certificate of the page alone."""
        root = trustRootFromCertificates([Certificate.loadPEM((trusted or self.tls).dumpPEM())])

        async def resolve(host: str, port: int) -> list[str]:
            self.asked.append(host)
            return ["127.0.0.1"]

        settings = {"trust_root": root, "resolve": resolve, **settings}
        client = Outgoing(reactor, Guard("webhooks.allowed_hosts", ["127.0.0.0/8"], allows_http=True), **settings)
        self.addCleanup(lambda: Deferred.fromCoroutine(client.stop()))
        return client

    async def test_certificate(self) -> None:
        """A host that shows a certificate for its name is asked, and the name is what it sees."""
        url = self.listen()

        reply = await self.client().post(url, {}, b"{}")

        self.assertEqual((reply.status, reply.body), (200, b"ok"))
        self.assertEqual(self.page.requests[0].getRequestHostname(), NAME.encode())

    async def test_wrong_certificate(self) -> None:
        """One that nobody trusts, or that is another host's, gets nothing, and the reason says so."""
        url = self.listen()
        with self.assertRaises(NotSent) as untrusted:
            await self.client(trusted=certificate(NAME)).post(url, {}, b"{}")
        self.assertIn("certificate verify failed", untrusted.exception.reason)
        other = certificate("other.example")
        url = self.listen(tls=other)
        with self.assertRaises(NotSent) as mistaken:
            await self.client(trusted=other).post(url, {}, b"{}")
        self.assertIn("not one of this host", mistaken.exception.reason)

        self.assertEqual(self.page.requests, [])

    async def test_no_tls(self) -> None:
        """A server that does not speak TLS gets nothing."""
        url = self.listen(is_plain=True)

        with self.assertRaises(NotSent):
            await self.client().post(url, {}, b"{}", timeout_seconds=0.3)

        self.assertEqual(self.page.requests, [])

    async def test_endless_body(self) -> None:
        """A peer that goes on sending is cut off within a moment, over TLS as well."""
        factory = self.factory(Endless)
        url = self.listen(factory)

        reply = await self.client().post(url, {}, b"{}", max_body=1024)

        self.assertEqual((len(reply.body), reply.is_whole), (1024, False))
        await factory.lost.addTimeout(3, reactor)

    async def test_silent_tls(self) -> None:
        """A server that takes the connection and never shakes hands ends with the time for an answer."""
        factory = self.factory(Silent)
        url = self.listen(factory, is_plain=True)

        with self.assertRaises(NotSent) as caught:
            await self.client().post(url, {}, b"{}", timeout_seconds=0.3)

        self.assertIn("0.3 s", caught.exception.reason)
        await factory.lost.addTimeout(3, reactor)

    async def test_cancelled(self) -> None:
        """Who does not wait any more closes the connection, over TLS as well."""
        self.page.answer = lambda request: NOT_DONE_YET
        url = self.listen()
        posting = Deferred.fromCoroutine(self.client().post(url, {}, b"{}"))
        while not self.page.requests:
            await deferLater(reactor, 0.01)
        lost = self.page.requests[0].notifyFinish()

        posting.addErrback(lambda _: None)
        posting.cancel()

        with self.assertRaises(Exception):  # noqa: B017  # whatever the server calls it
            await lost.addTimeout(3, reactor)
        await posting

    async def test_kept_connections(self) -> None:
        """Many posts go over a few connections, of which no more are opened than may be used at once."""
        url = self.listen()
        client = self.client(per_host=4)
        postings = [Deferred.fromCoroutine(client.post(url, {}, b"{}")) for _ in range(60)]

        replies: list[Reply] = await gatherResults(postings)

        self.assertEqual({reply.status for reply in replies}, {200})
        self.assertEqual(len(self.page.requests), 60)
        self.assertLessEqual(len(self.page.connections), 4)
        self.assertEqual(len(self.asked), len(self.page.connections))

    async def test_stale_connection(self) -> None:
        """A connection that the peer closed meanwhile is replaced, and nobody notices."""
        url = self.listen()
        client = self.client()
        await client.post(url, {}, b"{}")
        [first] = self.page.connections

        def cut(request: Request) -> Any:
            if request.channel is first:
                # As a peer does that closes an idle connection at the very moment when it is used.
                request.channel.forceAbortClient()
                return NOT_DONE_YET
            return b"again"

        self.page.answer = cut
        reply = await client.post(url, {}, b"{}")

        self.assertEqual(reply.body, b"again")
        self.assertEqual(len(self.page.connections), 2)

    async def test_bomb(self) -> None:
        """What is packed is not unpacked: a megabyte of zeros stays a kilobyte."""
        packed = zlib.compress(b"\0" * 1_000_000)

        def answer(request: Request) -> bytes:
            request.setHeader("content-encoding", "deflate")
            return packed

        self.page.answer = answer
        reply = await self.client().post(self.listen(), {}, b"{}")

        self.assertEqual(reply.body, packed)
        self.assertIsNone(self.page.requests[0].getHeader("accept-encoding"))

    async def test_trust_store_is_read_once(self) -> None:
        """Connecting again to a host does not read the trust store again, for which everything would wait."""
        url = self.listen()
        read: list[Any] = []
        root = trustRootFromCertificates([Certificate.loadPEM(self.tls.dumpPEM())])
        inner = root._addCACertsToContext

        def add(context: Any) -> None:
            read.append(context)
            inner(context)

        root._addCACertsToContext = add
        client = self.client(trust_root=root, per_host=10)

        await gatherResults([Deferred.fromCoroutine(client.post(url, {}, b"{}")) for _ in range(10)])

        self.assertGreater(len(self.page.connections), 1)
        self.assertEqual(len(read), 1)

    async def test_loopback_is_refused(self) -> None:
        """With nothing allowed, this machine is not asked by any of its names."""
        guard = Guard("webhooks.allowed_hosts")
        client = Outgoing(reactor, guard)
        self.addCleanup(lambda: Deferred.fromCoroutine(client.stop()))
        for host in ("localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]"):
            with self.assertRaises(Blocked) as caught:
                await client.post(f"https://{host}:9/", {}, b"{}")
            self.assertIn("not public", caught.exception.reason, host)
