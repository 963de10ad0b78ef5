"""Connections of ``wsock bench`` to a server in memory, and what may happen to deliveries on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from wsock.bench.connection import Dialler
from wsock.bench.listeners import Listeners
from wsock.bench.load import Plan, Target
from wsock.bench.pace import Pace
from wsock.bench.scenarios import Generator
from wsock.bench.server_side import Usage
from wsock.protocol.wire import text_frame
from wsock.testing.server import InMemoryServer
from wsock.testing.transport import MemoryTransport

__all__ = ["MASK", "BenchNet", "Shown", "a_plan", "payloads"]

MASK = b"\x11\x22\x33\x44"

Tamper = Callable[[int, bytes], list[bytes]]


def payloads(data: bytes) -> Iterator[bytes]:
    """The payloads of whole frames of a server."""
    at = 0
    while at < len(data):
        size, start = data[at + 1], at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, start = int.from_bytes(data[start : start + width], "big"), start + width
        yield data[start : start + size]
        at = start + size


class Shown:
    """A progress that is only recorded."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def show(self, name: str, phase: str, part: float) -> None:
        """Records it."""
        if f"{name}: {phase}" not in self.phases:
            self.phases.append(f"{name}: {phase}")

    def clear(self) -> None:
        """Nothing to remove."""


class _Reactor:
    """The clock, but that what is to happen at once happens a little later: else time would never pass."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.seconds = clock.seconds

    def callLater(self, delay: float, function: Any, *args: Any, **named: Any) -> Any:
        """See IReactorTime."""
        return self._clock.callLater(max(delay, 0.001), function, *args, **named)


class _Transport:
    """The client's side of a connection."""

    def __init__(self, server: MemoryTransport, client: Any) -> None:
        self._server = server
        self._client = client
        self.is_lost = False

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802  # Twisted's name
        """See ITCPTransport."""

    def getPeer(self) -> IPv4Address:
        """See ITransport."""
        return IPv4Address("TCP", "127.0.0.1", 9001)

    def write(self, data: bytes) -> None:
        """See ITransport."""
        self._server.send(data)

    def loseConnection(self) -> None:
        """See ITransport."""
        self._server.lose()
        self.lost()

    abortConnection = loseConnection

    def lost(self) -> None:
        """The connection has ended."""
        if not self.is_lost:
            self.is_lost = True
            self._client.connectionLost(Failure(ConnectionDone()))


@implementer(IStreamClientEndpoint)
class _Endpoint:
    def __init__(self, net: BenchNet) -> None:
        self._net = net

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803  # Twisted's name
        """See IStreamClientEndpoint."""
        if self._net.error is not None:
            return fail(self._net.error)
        return succeed(self._net.connected(protocolFactory.buildProtocol(None)))


class BenchNet:
    """A server in memory with a generator at it. ``tamper`` decides what of each frame reaches a connection.

    It is called with the number of the connection and a payload, and returns the payloads that arrive.
    """

    def __init__(self, config: Any = None) -> None:
        self.server = InMemoryServer(config)
        self.progress = Shown()
        self.reactor = cast(Any, _Reactor(self.server.clock))
        self.pace = Pace(self.reactor, self.progress)
        self.tamper: Tamper = lambda number, payload: [payload]
        self.error: Exception | None = None
        self.usage = Usage()
        self.resource = "/?key=demo"
        self.transports: list[MemoryTransport] = []

    def clock(self) -> int:
        """Nanoseconds."""
        return int(self.server.clock.seconds() * 1e9)

    async def read(self) -> Usage:
        """The server's usage, as the test wants it."""
        return self.usage

    @property
    def dialler(self) -> Dialler:
        """Connects to the server."""
        target = Target("127.0.0.1", 9001, False, self.resource, True)
        endpoints = (_Endpoint(self) for _ in count())
        return Dialler(target, endpoints, reactor=self.reactor, clock=self.clock, mask=MASK)

    @property
    def generator(self) -> Generator:
        """Runs scenarios."""
        dialler = self.dialler

        def audience(plan: Plan) -> Listeners:
            return Listeners(plan, range(plan.subscribers), dialler, reactor=self.reactor, clock=self.clock)

        return Generator(
            reactor=self.reactor,
            clock=self.clock,
            cpu=lambda: 0.0,
            pace=self.pace,
            dialler=dialler,
            usage=self,
            audience=audience,
        )

    def connected(self, client: Any) -> Any:
        """Joins a client to the server."""
        number = len(self.transports)
        server = MemoryTransport(self.server.clock, lambda data: hear(data), lambda ending: lost())
        self.transports.append(server)
        transport = _Transport(server, client)
        is_open = False

        def hear(data: bytes) -> None:
            nonlocal is_open
            if transport.is_lost:
                return
            if is_open:
                kept = [text for payload in payloads(data) for text in self.tamper(number, payload)]
                data = b"".join(map(text_frame, kept))
            is_open = True
            client.dataReceived(data)

        def lost() -> None:
            self.server.clock.callLater(0, transport.lost)

        server.protocol = self.server.server.doors.buildProtocol(IPv4Address("TCP", "192.0.2.1", 50000))
        server.protocol.makeConnection(server)
        client.makeConnection(transport)
        return client

    def outcome(self, work: Any, seconds: float = 60.0) -> Any:
        """The result of a coroutine, with as much time as it takes."""
        results: list[Any] = []
        Deferred.fromCoroutine(work).addBoth(results.append)
        ends_at = self.server.clock.seconds() + seconds
        while not results and self.server.clock.seconds() < ends_at:
            self.server.clock.advance(0.005)
        [result] = results
        if isinstance(result, Failure):
            result.raiseException()
        return result


def a_plan(**given: Any) -> Plan:
    """A small scenario, with what is given in the place of its parts."""
    default: dict[str, Any] = {
        "name": "fanout",
        "prefix": "wsock-bench-x",
        "subscribers": 3,
        "channels": 1,
        "publishers": 1,
        "size": 100,
        "window": 4,
        "rate": None,
        "seconds": 0.1,
        "persist": False,
    }
    return Plan(**{**default, **given})
