"""The writing end of a connection: straight to the kernel where that is safe, never beyond a bound.

Twisted's transports buffer without limit, so the outlet is their producer: while the transport is paused, frames wait
in a queue whose bytes are counted. A client that lets it fill is a slow consumer, and its connection is reset: it comes
back and resumes, at the expense of nobody else. Where the settings of its app say so, it loses messages instead
(:mod:`wsock.edges.lossy`), and is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from wsock.edges.lossy import LossyQueue
from wsock.protocol.deflate import Deflater, split_frames
from wsock.protocol.session import Session
from wsock.records import SlowConsumer

__all__ = ["DeflatingOutlet", "Held", "Policies", "TransportOutlet"]

_PLAIN = (tcp.Server, unix.Server)


class Held:
    """What outlets hold back at the moment: of how many connections, and how many bytes.

    ``dropped`` is how many messages were ever left out for clients that read too slowly.
    """

    __slots__ = ("bytes", "connections", "dropped")

    def __init__(self) -> None:
        self.connections = 0
        self.bytes = 0
        self.dropped = 0


class Policies(Protocol):
    """What becomes of messages for clients that read too slowly."""

    @property
    def is_lossy(self) -> bool:
        """Whether messages of any channel may be dropped."""

    def policy(self, channel: str) -> SlowConsumer:
        """What becomes of this channel's."""


class _Lossless:
    """None is ever dropped."""

    is_lossy = False

    def policy(self, channel: str) -> SlowConsumer:
        return "disconnect"


_LOSSLESS = _Lossless()


@implementer(IPushProducer)
class TransportOutlet:
    """Writes to one transport.

    ``limit`` is in bytes; ``on_slow`` is called once, after the connection was aborted for exceeding it. The session is
    told that something was sent, and what waits is part of ``held``. ``policies`` say which messages may be dropped
    before that; a client that reads too slowly keeps to what they said until it has caught up.
    """

    __slots__ = (
        "_held",
        "_is_open",
        "_is_paused",
        "_is_plain",
        "_limit",
        "_on_slow",
        "_policies",
        "_queue",
        "_queued",
        "_session",
        "_transport",
        "_waiting",
        "pending",
    )

    def __init__(
        self,
        transport: Any,
        session: Session,
        limit: int,
        on_slow: Callable[[], None],
        held: Held,
        policies: Policies = _LOSSLESS,
    ) -> None:
        self._transport = transport
        self._session = session
        self._limit = limit
        self._on_slow = on_slow
        self._held = held
        self._policies = policies
        # By exact type: a TLS or PROXY wrapper forwards these attributes, and bytes would leave in clear.
        self._is_plain = type(transport) in _PLAIN and not transport.TLS
        self._is_paused = False
        self._is_open = True
        self._queue: deque[bytes] | LossyQueue | None = None
        self._queued = 0
        self._waiting: list[Deferred[None]] | None = None
        self.pending: list[bytes] | None = None
        transport.registerProducer(self, True)

    @property
    def queued(self) -> int:
        """Bytes that wait for the client to read."""
        return self._queued

    def write(self, frames: bytes) -> None:
        """Writes what is pending and then the frames."""
        if self._is_paused:
            self._wait(frames)
            return
        if self.pending is not None:
            frames = b"".join(self.pending) + frames
            self.pending = None
        if not self._is_open:
            return
        self._session.sent = True
        transport = self._transport
        if (
            self._is_plain
            and transport.connected
            and not transport.disconnecting
            and not transport._tempDataLen
            and not transport.dataBuffer
        ):
            # What the transport's writeSomeData does, at half its cost.
            try:
                sent = transport.socket.send(frames)
            except OSError:
                # There is no room, or an error that the reactor finds again on its own way.
                sent = 0
            if sent != len(frames):
                transport.write(frames[sent:])
        else:
            transport.write(frames)

    def drained(self) -> Deferred[None] | None:
        """``None`` when there is room, else fires when the client has read what was written."""
        if not self._is_paused or not self._is_open:
            return None
        drained: Deferred[None] = Deferred()
        self._waiting = [*(self._waiting or ()), drained]
        return drained

    def close(self) -> None:
        """Nothing more is taken. What waits goes to the transport, which is left without a producer and may end."""
        if self._is_open:
            self._is_open = False
            queue, self._queue = self._queue, None
            self._let_go()
            self._transport.unregisterProducer()
            self._transport.writeSequence(self._rest(queue))

    def abort(self) -> None:
        """Resets the connection: everything not yet sent is dropped."""
        self._queue = None
        self.close()
        self._transport.abortConnection()

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        if not self._is_paused:
            self._is_paused = True
            self._held.connections += 1

    def resumeProducing(self) -> None:
        """The transport's buffer has room again."""
        if self._is_paused:
            self._is_paused = False
            self._held.connections -= 1
        while self._queue and not self._is_paused:
            if isinstance(self._queue, LossyQueue):
                frames = self._leaving(self._queue.take())
                self._count(self._queue.size)
            else:
                frames = self._queue.popleft()
                self._count(self._queued - len(frames))
            self._transport.write(frames)
        if self._is_paused:
            return
        self._queue = None
        waiting, self._waiting = self._waiting, None
        for drained in waiting or ():
            drained.callback(None)

    def stopProducing(self) -> None:
        """The connection is lost: nobody waits for it any longer."""
        self._is_open = False
        self._queue = None
        self._let_go()
        waiting, self._waiting = self._waiting, None
        for drained in waiting or ():
            drained.callback(None)

    @property
    def _is_lossy(self) -> bool:
        """Whether frames wait one by one, so that some may be dropped."""
        return self._is_paused and (self._policies.is_lossy or isinstance(self._queue, LossyQueue))

    def _wait(self, frames: bytes) -> None:
        """What is pending and then the frames wait for the client to read."""
        own, self.pending = self.pending or (), None
        if not self._is_open:
            return
        self._session.sent = True
        if self._is_lossy:
            self._enqueue_each(own, frames)
        elif own:
            self._enqueue(b"".join((*own, frames)))
        else:
            self._enqueue(frames)

    def _enqueue(self, frames: bytes) -> None:
        if self._queued + len(frames) > self._limit:
            self._give_up()
            return
        self._count(self._queued + len(frames))
        if self._queue is None:
            self._queue = deque()
        assert not isinstance(self._queue, LossyQueue)
        self._queue.append(frames)

    def _enqueue_each(self, own: Iterable[bytes], frames: bytes) -> None:
        queue = self._queue
        if not isinstance(queue, LossyQueue):
            waiting, queue = queue or (), LossyQueue(self._policies.policy)
            for joined in waiting:
                queue.keep(split_frames(joined))
            self._queue = queue
        dropped = queue.dropped
        queue.keep(own)
        queue.add(frames)
        has_room = queue.shed(self._limit)
        self._held.dropped += queue.dropped - dropped
        self._count(queue.size)
        if not has_room:
            self._give_up()

    def _give_up(self) -> None:
        """The client reads too slowly: its connection is reset."""
        self.abort()
        self._on_slow()

    def _count(self, queued: int) -> None:
        """So many bytes wait now."""
        self._held.bytes += queued - self._queued
        self._queued = queued

    def _rest(self, queue: deque[bytes] | LossyQueue | None) -> Iterable[bytes]:
        """All that waits, as it is to be written."""
        if not isinstance(queue, LossyQueue):
            return queue or ()
        rest = []
        while queue:
            rest.append(self._leaving(queue.take()))
        return rest

    def _leaving(self, frames: list[bytes]) -> bytes:
        """Frames that waited one by one, as they are written."""
        return b"".join(frames)

    def _let_go(self) -> None:
        """Nothing waits here any more."""
        self._held.bytes -= self._queued
        self._queued = 0
        if self._is_paused:
            self._is_paused = False
            self._held.connections -= 1


class DeflatingOutlet(TransportOutlet):
    """The outlet of a connection that agreed upon compression; those with the same window share the deflater."""

    __slots__ = ("_deflater",)

    def __init__(
        self,
        transport: Any,
        session: Session,
        limit: int,
        on_slow: Callable[[], None],
        held: Held,
        deflater: Deflater,
        policies: Policies = _LOSSLESS,
    ) -> None:
        super().__init__(transport, session, limit, on_slow, held, policies)
        self._deflater = deflater

    def write(self, frames: bytes) -> None:
        """Writes what is pending and then the frames, compressed where that is worth it."""
        if self._is_lossy:
            # Compressed when they leave: which of them do is not known yet.
            super().write(frames)
            return
        if self.pending is not None:
            self.pending = [self._deflater.deflated_own(self.pending)]
        super().write(self._deflater.deflated(frames))

    def _leaving(self, frames: list[bytes]) -> bytes:
        return self._deflater.deflated_own(frames)
