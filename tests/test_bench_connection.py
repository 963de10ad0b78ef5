"""Tests for :mod:`wsock.bench.connection`."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectBindError, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.base import SynchronousTestCase
from tests.bench_nets import MASK
from wsock.bench.connection import Connection, Dialler, close_all, endpoints, tls_options
from wsock.bench.errors import BenchError
from wsock.bench.load import Target
from wsock.bench.wire import Chunk, Masker, Reader
from wsock.protocol.wire import close_frame, complete_texts, text_frame, unmask

_HEAD = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)
_ACCEPT = b"BlwVAvfwMTxW8LoZ68/EXdb4W+k="
_SUBSCRIBED = text_frame(b'{"action":"subscribed","channel":"c","epoch":"e","sequence":0}')


def a_target(**given: Any) -> Target:
    """A server, and the credential for it."""
    default = {"host": "example.org", "port": 9001, "is_secure": False, "resource": "/?key=k", "has_credential": True}
    return Target(**{**default, **given})


class ConnectionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = Connection(a_target(), Reader(), Masker(MASK))
        self.transport = StringTransport()
        self.chunks: list[Chunk] = []
        self.ends: list[str] = []
        self.connection.on_chunk = self.chunks.append
        self.connection.on_end = self.ends.append
        self.connection.makeConnection(self.transport)

    def accept(self, more: bytes = b"") -> None:
        """The server accepts the upgrade."""
        self.connection.dataReceived(_HEAD % _accept_of(self.transport.value()) + more)
        self.transport.clear()

    def refusal(self) -> str:
        """Why it did not open."""
        return str(self.failureResultOf(self.connection.opened, BenchError).value)

    def lose(self, reason: Exception | None = None) -> None:
        """The connection is lost."""
        self.connection.connectionLost(Failure(reason or ConnectionDone()))

    def test_asks_for_the_upgrade(self) -> None:
        """The request has what RFC 6455 wants, and the credential."""
        head = self.transport.value()

        self.assertTrue(head.startswith(b"GET /?key=k HTTP/1.1\r\nHost: example.org:9001\r\n"))
        self.assertIn(b"Sec-WebSocket-Version: 13\r\n", head)
        self.assertTrue(head.endswith(b"\r\n\r\n"))

    def test_opens(self) -> None:
        """It is open when the server accepts; what comes in the same bytes is read."""
        self.assertNoResult(self.connection.opened)
        self.accept(_SUBSCRIBED)

        self.successResultOf(self.connection.opened)
        self.assertEqual(len(self.chunks[0].answers), 1)

    def test_head_in_pieces(self) -> None:
        """The answer may come in pieces."""
        for byte in _HEAD % _accept_of(self.transport.value()):
            self.connection.dataReceived(bytes([byte]))

        self.successResultOf(self.connection.opened)

    def test_refused(self) -> None:
        """A refusal says why, as the server says it, and which option may help; the reason may come late."""
        body = b'{"error":"the API key is unknown","code":"unauthorized"}'
        self.connection.dataReceived(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n" % len(body))
        self.assertNoResult(self.connection.opened)
        self.connection.dataReceived(body)

        self.assertEqual(
            self.refusal(),
            "ws://example.org:9001 refused the upgrade with HTTP status 401: the API key is unknown;"
            " give another --key",
        )
        self.assertTrue(self.transport.disconnecting)

    def test_no_websocket(self) -> None:
        """Another server is recognised: by its status, by its key, or since its answer never ends."""
        self.connection.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        self.assertIn("HTTP status 200", self.refusal())
        self.setUp()
        self.connection.dataReceived(_HEAD % b"wrong")
        self.assertIn("Sec-WebSocket-Accept", self.refusal())
        self.setUp()
        self.connection.dataReceived(b"x" * 70_000)
        self.assertIn("no end", self.refusal())

    def test_ended_before_the_upgrade(self) -> None:
        """A connection that ends without an answer says so."""
        self.lose(ConnectionLost("reset"))

        self.assertIn("before it answered the upgrade", self.refusal())
        self.assertEqual(self.ends, [])

    def test_frames_in_pieces(self) -> None:
        """A frame may come in pieces, and is told once."""
        self.accept()
        for byte in _SUBSCRIBED * 2:
            self.connection.dataReceived(bytes([byte]))

        self.assertEqual(sum(len(chunk.answers) for chunk in self.chunks), 2)

    def test_sends(self) -> None:
        """Texts are sent masked."""
        self.accept()
        self.connection.send(b"one", b"two")

        self.assertEqual(complete_texts(self.transport.value(), 1000)[0], [b"one", b"two"])

    def test_answers_pings(self) -> None:
        """A ping is answered with its payload."""
        self.accept()
        self.connection.dataReceived(b"\x89\x02hi")

        self.assertEqual(self.transport.value(), b"\x8a\x82" + MASK + unmask(b"hi", MASK))

    def test_closed_by_the_server(self) -> None:
        """The server's code and reason are told when the connection ends."""
        self.accept()
        self.connection.dataReceived(close_frame(1008, "blocked"))
        self.assertEqual(self.transport.value()[:2], b"\x88\x82")
        self.lose()

        self.assertEqual(self.ends, ["the server closed the connection with code 1008: blocked"])

    def test_lost(self) -> None:
        """A connection that is lost says how."""
        self.accept()
        self.lose(ConnectionLost("reset"))

        self.assertEqual(len(self.ends), 1)
        self.assertIn("the connection was lost", self.ends[0])

    def test_broken_server(self) -> None:
        """What is no WebSocket frame ends the connection, with words."""
        self.accept()
        self.connection.dataReceived(b"\xff\x00")
        self.lose()

        self.assertIn("0xff", self.ends[0])

    def test_close(self) -> None:
        """Its own close is none to be told of; it is waited for."""
        self.accept()
        closing = self.connection.close()
        self.assertNoResult(closing)
        self.lose()

        self.successResultOf(closing)
        self.assertEqual(self.ends, [])
        self.assertEqual(self.transport.value()[:2], b"\x88\x82")

    def test_close_after_the_end(self) -> None:
        """To close what has ended is done already."""
        self.accept()
        self.lose()
        self.transport.clear()

        self.successResultOf(self.connection.close())
        self.assertEqual(self.transport.value(), b"")


class CloseTests(SynchronousTestCase):
    def test_all(self) -> None:
        """Connections are closed and waited for; one that does not end is dropped."""
        clock = Clock()
        connections = [Connection(a_target(), Reader(), Masker(MASK)) for _ in range(2)]
        for connection in connections:
            connection.makeConnection(StringTransport())
        closing = Deferred.fromCoroutine(close_all(connections, clock))
        connections[0].connectionLost()
        clock.advance(4)
        self.assertNoResult(closing)
        clock.advance(2)
        stuck: Any = connections[1].transport
        self.assertTrue(stuck.disconnected)
        connections[1].connectionLost()

        self.failureResultOf(connections[0].opened, BenchError)
        self.failureResultOf(connections[1].opened, BenchError)
        self.successResultOf(closing)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_none(self) -> None:
        """Where there are none there is nothing to wait for."""
        clock = Clock()

        self.successResultOf(Deferred.fromCoroutine(close_all([], clock)))
        self.assertEqual(clock.getDelayedCalls(), [])


def _accept_of(head: bytes) -> bytes:
    """What a server makes of the key in this request."""
    assert b"Sec-WebSocket-Key: d3NvY2stYmVuY2gtb25jZQ==\r\n" in head
    return _ACCEPT


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """Answers a connect as it is told to."""

    def __init__(self, error: Exception | None = None, *, is_silent: bool = False) -> None:
        self._error = error
        self._is_silent = is_silent
        self.transports: list[StringTransport] = []

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803  # Twisted's name
        """See IStreamClientEndpoint."""
        if self._error is not None:
            return fail(self._error)
        protocol = protocolFactory.buildProtocol(None)
        transport = StringTransport()
        self.transports.append(transport)
        protocol.makeConnection(transport)
        if not self._is_silent:
            protocol.dataReceived(_HEAD % _ACCEPT)
        return succeed(protocol)


class DiallerTests(SynchronousTestCase):
    def dialler(self, endpoint: _Endpoint) -> Dialler:
        """One that always uses this endpoint."""
        self.clock = Clock()
        return Dialler(a_target(), repeat(endpoint), reactor=self.clock, clock=lambda: 7, mask=MASK)

    def test_opens(self) -> None:
        """A connection is told when it is open, with when it was begun."""
        connection = self.successResultOf(Deferred.fromCoroutine(self.dialler(_Endpoint()).open()))

        self.assertEqual(connection.asked_at, 7)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silence(self) -> None:
        """A server that never answers is given up, and the connection dropped."""
        endpoint = _Endpoint(is_silent=True)
        opening = Deferred.fromCoroutine(self.dialler(endpoint).open())
        self.clock.advance(20)

        self.assertIn("did not answer within 20", self.failureResultOf(opening, BenchError).getErrorMessage())
        self.assertTrue(endpoint.transports[0].disconnected)

    def test_limits_of_the_system(self) -> None:
        """Where the system allows no more connections, the text says what to raise."""
        for number, word in ((24, "ulimit -n"), (99, "ip_local_port_range"), (13, "can't be reached")):
            error = ConnectBindError(number, "no")
            opening = Deferred.fromCoroutine(self.dialler(_Endpoint(error)).open())
            self.assertIn(word, self.failureResultOf(opening, BenchError).getErrorMessage())

    def test_many(self) -> None:
        """So many as are asked for are made; none when they are not wanted any more."""
        made: list[Connection] = []
        dialler = self.dialler(_Endpoint())
        self.successResultOf(Deferred.fromCoroutine(dialler.open_many(150, made.append)))
        self.assertEqual(len(made), 150)
        self.successResultOf(Deferred.fromCoroutine(dialler.open_many(150, made.append, lambda: len(made) < 155)))

        self.assertEqual(len(made), 155)

    def test_one_of_many_fails(self) -> None:
        """One that fails ends it, with its reason."""
        endpoint = _Endpoint(is_silent=True)
        opening = Deferred.fromCoroutine(self.dialler(endpoint).open_many(3, lambda connection: None))
        self.clock.advance(20)

        self.failureResultOf(opening, BenchError)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class EndpointsTests(SynchronousTestCase):
    def test_name_is_looked_up_once(self) -> None:
        """The first connection looks the name up, the others go to the address that answered."""
        reactor = MemoryReactorClock()
        made = endpoints(a_target(host="127.0.0.1"), reactor, None)
        Deferred.fromCoroutine(_connect(next(made)))
        reactor.advance(1)
        [(host, port, factory, _, _)] = reactor.tcpClients
        protocol: Any = factory.buildProtocol(None)
        protocol.makeConnection(StringTransport(peerAddress=_Peer("192.0.2.7")))
        next(made).connect(_factory())

        self.assertEqual((host, port), ("127.0.0.1", 9001))
        self.assertEqual(reactor.tcpClients[-1][:2], ("192.0.2.7", 9001))

    def test_tls(self) -> None:
        """``wss`` is TLS with the URL's name, trusting one's own certificate as well; ``ws`` is not."""
        self.assertIsNone(tls_options(a_target(), None))
        self.assertIsNotNone(tls_options(a_target(is_secure=True), None))

    def test_bad_certificate(self) -> None:
        """A file that is no certificate, or is not there, is named."""
        path = Path(self.mktemp())
        error = self.assertRaises(BenchError, tls_options, a_target(is_secure=True), str(path))
        self.assertIn("can't be read", str(error))
        path.write_text("nothing")
        error = self.assertRaises(BenchError, tls_options, a_target(is_secure=True), str(path))
        self.assertIn("no certificate", str(error))


class _Peer:
    def __init__(self, host: str) -> None:
        self.host = host


def _factory() -> Any:
    return Factory.forProtocol(Protocol)


async def _connect(endpoint: Any) -> Any:
    return await endpoint.connect(_factory())
