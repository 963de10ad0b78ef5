"""A connection in memory: Twisted's transport to the server, and in the hands of a test to the client."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer, IReactorTime, ITransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["Ending", "MemoryTransport"]

Ending = Literal["reset", "lost"]
"""How a connection ended: with a TCP reset by the server, or otherwise."""

_BUFFER_BYTES = 1 << 16


@implementer(ITransport, IConsumer, IPushProducer)
class MemoryTransport:
    """Bytes written arrive at once, unless the client stopped reading: then they wait, and a producer is paused.

    ``on_bytes`` and ``on_end`` are the client's ears. As with a socket, ``connectionLost`` is never called from within
    a call of the protocol's, and an exception of the protocol's is logged and ends the connection.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        on_bytes: Callable[[bytes], None],
        on_end: Callable[[Ending], None],
        *,
        peer: str = "192.0.2.1",
    ) -> None:
        self.protocol: Any = None
        self.connected = True
        self.disconnecting = False
        self.producer: Any = None
        self._clock = clock
        self._on_bytes = on_bytes
        self._on_end = on_end
        self._peer = peer
        self._is_client_reading = True
        self._is_producer_paused = False
        self._is_paused = False
        self._unread = bytearray()
        self._unsent = bytearray()

    # The server's side: Twisted's interfaces.

    def getPeer(self) -> IPv4Address:  # noqa: N802
        """The client's address."""
        return IPv4Address("TCP", self._peer, 50000)

    def getHost(self) -> IPv4Address:  # noqa: N802
        """The server's address."""
        return IPv4Address("TCP", "192.0.2.254", 9001)

    def write(self, data: bytes) -> None:
        """Sends the bytes to the client."""
        if not self.connected:
            return
        self._unread += data
        if self._is_client_reading:
            self._deliver()
        elif len(self._unread) > _BUFFER_BYTES and self.producer is not None and not self._is_producer_paused:
            self._is_producer_paused = True
            self.producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Sends the bytes to the client."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Ends the connection when the client has read everything."""
        self.disconnecting = True
        if not self._unread:
            self._end(Failure(ConnectionDone()), "lost")

    def abortConnection(self) -> None:
        """Resets the connection; what the client did not read is lost."""
        self._unread.clear()
        self._end(Failure(ConnectionAborted()), "reset")

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """The producer is paused when the client doesn't read."""
        self.producer = producer

    def unregisterProducer(self) -> None:
        """Nobody is paused any more."""
        self.producer = None

    def pauseProducing(self) -> None:
        """What the client sends waits."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """What the client sent arrives, soon."""
        self._is_paused = False
        self._clock.callLater(0, self._feed)

    def stopProducing(self) -> None:
        """Ends the connection."""
        self.loseConnection()

    # The client's side.

    def send(self, data: bytes) -> None:
        """The client sends bytes."""
        self._unsent += data
        self._feed()

    def stop_reading(self) -> None:
        """The client reads no more: what the server writes piles up."""
        self._is_client_reading = False

    def start_reading(self) -> None:
        """The client reads again, everything that waits."""
        self._is_client_reading = True
        self._deliver()

    def lose(self) -> None:
        """The network loses the connection: nobody says a word."""
        self._end(Failure(ConnectionLost()), "lost")

    @property
    def unsent(self) -> int:
        """Bytes that the client sent and the server does not read, since it paused."""
        return len(self._unsent)

    def _feed(self) -> None:
        if self._is_paused or not self.connected or not self._unsent:
            return
        data = bytes(self._unsent)
        self._unsent.clear()
        try:
            self.protocol.dataReceived(data)
        except Exception:
            failure = Failure()
            self._log.failure("the protocol failed", failure=failure)
            self._end(failure, "lost")

    def _deliver(self) -> None:
        while self._unread and self._is_client_reading:
            data = bytes(self._unread)
            self._unread.clear()
            self._on_bytes(data)
            if self._is_producer_paused and self.producer is not None:
                self._is_producer_paused = False
                self.producer.resumeProducing()
        if self.disconnecting and not self._unread:
            self._end(Failure(ConnectionDone()), "lost")

    def _end(self, reason: Failure, ending: Ending) -> None:
        if self.connected:
            self.connected = False
            self._on_end(ending)
            self._clock.callLater(0, self._lost, reason)

    def _lost(self, reason: Failure) -> None:
        if self.producer is not None:
            self.producer.stopProducing()
        self.protocol.connectionLost(reason)
