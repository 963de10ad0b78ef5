"""The door: reads the head of the first request of a connection, and hands it to WebSocket or to HTTP.

An upgrade goes to a :class:`~wsock.edges.websocket.Connection`, with nothing of HTTP left behind; anything else goes to
twisted.web's channel with the bytes replayed. A head must come within its time and its bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any
from typing import Protocol as Typing

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolNegotiationFactory, IReactorTime
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from wsock.edges.websocket import Connection
from wsock.errors import Code, Malformed, Refused
from wsock.protocol.handshake import (
    Handshake,
    HeadError,
    is_upgrade,
    parse_head,
    refusal,
    upgrade,
)

__all__ = ["Door", "DoorFactory", "Gate", "take_over"]


class Gate(Typing):
    """Who decides which upgrades become connections."""

    async def admit(self, handshake: Handshake, address: str) -> Callable[[Any], Connection]:
        """Answers and opens the connection on a transport, once called with it. Raises :class:`Refused`."""


def take_over(transport: Any, protocol: IProtocol) -> None:
    """From now on the transport's bytes go to the protocol."""
    if isinstance(transport, ProtocolWrapper):
        transport.wrappedProtocol = protocol
    else:
        transport.protocol = protocol


class Door(Protocol):
    """The protocol of a new connection, until it is known what it is."""

    __slots__ = ("_admission", "_data", "_http", "_is_refused", "deadline", "factory", "transport")

    _log = Logger()
    factory: DoorFactory
    transport: Any

    def __init__(self, factory: DoorFactory) -> None:
        self.factory = factory
        self.deadline = 0.0
        self._data = b""
        self._http: Any = None
        self._is_refused = False
        self._admission: Deferred[None] | None = None

    def connectionMade(self) -> None:
        """Twisted's hook."""
        self.factory.expect(self)

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook: collects the head."""
        if self._http is not None:
            self._http.dataReceived(data)
            return
        if self._is_refused:
            return
        self._data += data
        if self._admission is not None:
            if len(self._data) > self.factory.max_head_bytes:
                self.transport.abortConnection()
            return
        end = self._data.find(b"\r\n\r\n")
        if end < 0 and len(self._data) <= self.factory.max_head_bytes:
            return
        self.factory.forget(self)
        if end < 0 or end > self.factory.max_head_bytes:
            limit = self.factory.max_head_bytes
            self._refuse(Malformed(f"the request head has more than {limit} bytes (limits.head_bytes)"))
            return
        self._head(self._data[:end], self._data[end + 4 :])

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted's hook."""
        self.factory.forget(self)
        if self._http is not None:
            self._http.connectionLost(reason)
        if self._admission is not None:
            self._admission.cancel()

    def expired(self) -> None:
        """The head did not come in time."""
        self._refuse(Malformed("the request head did not arrive in time (limits.handshake_seconds)"))

    def _head(self, text: bytes, rest: bytes) -> None:
        try:
            head = parse_head(text)
            if not is_upgrade(head):
                self._become_http()
                return
            handshake = upgrade(head)
        except HeadError as e:
            self._refuse(Malformed(f"bad request head: {e}"))
            return
        self._data = rest
        self._admission = Deferred.fromCoroutine(self._admit(handshake))
        self._admission.addErrback(self._failed)

    async def _admit(self, handshake: Handshake) -> None:
        try:
            opens = await self.factory.gate.admit(handshake, self.factory.address_of(handshake, self.transport))
        except Refused as e:
            self._refuse(e)
            return
        connection = opens(self.transport)
        take_over(self.transport, connection)
        if self._data:
            connection.dataReceived(self._data)
        self._admission = None

    def _become_http(self) -> None:
        channel = self.factory.build_http(self.transport.getPeer())
        if channel is None:
            self.transport.loseConnection()
            return
        self._http = channel
        data, self._data = self._data, b""
        channel.makeConnection(self.transport)
        channel.dataReceived(data)

    def _refuse(self, refused: Refused) -> None:
        self._is_refused = True
        self._admission = None
        self.transport.write(refusal(refused))
        self.transport.loseConnection()

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("an upgrade failed", failure=failure)
            self._refuse(Refused(Code.INTERNAL, "the server failed to open the connection; its log tells why"))


@implementer(IProtocolNegotiationFactory)
class DoorFactory(ServerFactory):
    """Builds doors, and closes those before which somebody dawdles.

    ``trusted_proxies`` is how many proxies before the server add to ``X-Forwarded-For``; the client's address is what
    the outermost of them saw.
    """

    noisy = False

    def __init__(
        self,
        gate: Gate,
        build_http: Callable[[IAddress], Any],
        clock: IReactorTime,
        *,
        max_head_bytes: int = 16384,
        handshake_seconds: float = 10.0,
        trusted_proxies: int = 0,
    ) -> None:
        self.gate = gate
        self.build_http = build_http
        self.max_head_bytes = max_head_bytes
        self._clock = clock
        self._handshake_seconds = handshake_seconds
        self._trusted_proxies = trusted_proxies
        self._expected: dict[Door, None] = {}

    def buildProtocol(self, addr: IAddress | None) -> Door:  # type: ignore[override]  # Twisted's type is too narrow
        """Twisted's hook."""
        return Door(self)

    def acceptableProtocols(self) -> list[bytes]:
        """Twisted's hook: what a TLS client may ask for (ALPN). Without it, one that asks at all is turned away."""
        return [b"http/1.1"]

    def expect(self, door: Door) -> None:
        """A head must come through this door in time."""
        door.deadline = self._clock.seconds() + self._handshake_seconds
        self._expected[door] = None

    def forget(self, door: Door) -> None:
        """It came, or never will."""
        self._expected.pop(door, None)

    def sweep(self) -> None:
        """Refuses those whose time is over. Called every second: they are in the order of their deadlines."""
        now = self._clock.seconds()
        late: deque[Door] = deque()
        for door in self._expected:
            if door.deadline > now:
                break
            late.append(door)
        for door in late:
            self.forget(door)
            door.expired()

    def address_of(self, handshake: Handshake, transport: Any) -> str:
        """The client's address, as far as it can be trusted."""
        forwarded = [part.strip() for part in handshake.headers.get("x-forwarded-for", "").split(",")]
        if self._trusted_proxies and len(forwarded) >= self._trusted_proxies and forwarded[-self._trusted_proxies]:
            return forwarded[-self._trusted_proxies]
        return getattr(transport.getPeer(), "host", "local")
