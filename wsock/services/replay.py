"""Brings one connection up to date: what it missed, merged over its channels in timestamp order, then live.

A replay is a pull. It reads the channels' recovery windows a page at a time, writes at the pace at which the client
reads, and switches every channel to live delivery in one step when all of them stand at their live positions. Until
then live messages are not delivered to the connection on those channels, nor kept for it: they are read when their
turn comes. A channel that is subscribed while a replay runs joins it, so that timestamps never go back on the
connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from wsock.errors import Gone
from wsock.interfaces import IBroker
from wsock.protocol.codec import encode
from wsock.protocol.frames import Subscribed
from wsock.protocol.messages import Message
from wsock.protocol.position import Position
from wsock.protocol.wire import text_frame
from wsock.services.hub import Hub, Topic, recovery_failed
from wsock.services.turn import Outlet, Turn

__all__ = ["Cursor", "Paced", "Replay"]

_PAGE = 100
_CHUNK_BYTES = 1 << 16
_DELIVERY_SECONDS = 0.01


class Paced(Outlet, Protocol):
    """An outlet that says when its client has read enough to be sent more."""

    def abort(self) -> None:
        """Ends the connection at once, so that the client comes back and resumes."""

    def drained(self) -> Deferred[None] | None:
        """``None`` when there is room now, else fires when there is."""


class Cursor:
    """Where a replay stands in one channel: read up to ``position``, with ``unsent`` messages still to be written.

    ``moves`` are those of them with which a new epoch begins.
    """

    __slots__ = ("moves", "position", "topic", "unsent")

    def __init__(self, topic: Topic, position: Position, unsent: Iterable[Message] = ()) -> None:
        self.topic = topic
        self.position = position
        self.moves: set[Position] = set()
        self.unsent = deque(unsent)

    @property
    def is_level(self) -> bool:
        """Whether all that its topic's subscribers were told is written."""
        return not self.unsent and self.topic.is_reached_by(self.position)


class Replay:
    """The replay of one connection. ``on_end`` is called once it has switched to live."""

    def __init__(
        self,
        hub: Hub,
        broker: IBroker,
        turn: Turn,
        clock: IReactorTime,
        outlet: Paced,
        on_end: Callable[[], None],
    ) -> None:
        self._hub = hub
        self._broker = broker
        self._turn = turn
        self._clock = clock
        self._outlet = outlet
        self._on_end = on_end
        self._cursors: dict[str, Cursor] = {}
        self._unpaced = 0

    def add(self, cursor: Cursor) -> None:
        """The channel is replayed from the cursor's position on, and then goes live."""
        cursor.topic.follow()
        self._cursors[cursor.topic.channel] = cursor

    def drop(self, channel: str) -> None:
        """The channel is replayed no more, nor goes live."""
        cursor = self._cursors.pop(channel, None)
        if cursor is not None:
            cursor.topic.unfollow()

    def stop(self) -> None:
        """Nothing is replayed any more, nor goes live."""
        for channel in list(self._cursors):
            self.drop(channel)

    async def run(self) -> None:
        """Replays until every channel is live."""
        while not await self._is_level():
            self._send_next()
            if self._unpaced >= _CHUNK_BYTES:
                await self._pace()
        for cursor in self._cursors.values():
            self._hub.join_at(cursor.topic, self._outlet, cursor.position)
        self.stop()
        self._on_end()

    async def _is_level(self) -> bool:
        """Whether, at this moment, every cursor has sent all that its topic's subscribers were told.

        Else every cursor that is behind has its next messages at hand, so that they can be merged. Decided without
        waiting in between: what was read is followed by another look.
        """
        while behind := [c for c in self._cursors.values() if not c.unsent and not c.is_level]:
            for cursor in behind:
                await self._fill(cursor)
        return not any(c.unsent for c in self._cursors.values())

    async def _fill(self, cursor: Cursor) -> None:
        topic = cursor.topic
        if not self._is_current(cursor):
            return
        try:
            page = await self._broker.read(topic.app, topic.channel, cursor.position, _PAGE)
        except Gone:
            cursor.position = topic.position
            if self._is_current(cursor):
                self._turn.send(self._outlet, text_frame(encode(recovery_failed(topic.channel))))
                self._tell(cursor, topic.position)
            return
        # The log may be ahead of what this node was told. That comes later: it is newer than the messages of other
        # channels that are not told yet either.
        messages = [message for message in page if message.sequence <= topic.sequence]
        self._take(cursor, messages)
        if len(messages) < _PAGE:
            # What came while the end of the log was read is at hand: so a busy channel is caught up with as well.
            messages = topic.told_behind(cursor.position)
            self._take(cursor, messages)
        if not messages and not cursor.unsent and not cursor.is_level:
            # The channel has a new epoch, of which this node will be told: that is on its way.
            await deferLater(self._clock, _DELIVERY_SECONDS)

    def _take(self, cursor: Cursor, messages: list[Message]) -> None:
        for message in messages:
            if message.epoch != cursor.position.epoch:
                cursor.moves.add(message.position)
            cursor.position = message.position
        cursor.unsent.extend(messages)

    def _is_current(self, cursor: Cursor) -> bool:
        return self._cursors.get(cursor.topic.channel) is cursor

    def _send_next(self) -> None:
        """Sends what is certainly next, up to a chunk."""
        heap = [(c.unsent[0].timestamp, n, c) for n, c in enumerate(self._cursors.values()) if c.unsent]
        heapify(heap)
        while heap and self._unpaced < _CHUNK_BYTES:
            _, number, cursor = heappop(heap)
            message = cursor.unsent.popleft()
            if cursor.moves and message.position in cursor.moves:
                self._tell(cursor, Position(message.epoch, message.sequence - 1))
            frame = text_frame(encode(message.event()))
            self._turn.send(self._outlet, frame)
            self._unpaced += len(frame)
            cursor.topic.meter.messages_out += 1
            cursor.topic.meter.bytes_out += len(frame)
            if cursor.unsent:
                heappush(heap, (cursor.unsent[0].timestamp, number, cursor))
            elif not cursor.is_level:
                return

    def _tell(self, cursor: Cursor, position: Position) -> None:
        """Tells the client where the channel goes on in a new epoch."""
        event = Subscribed(cursor.topic.channel, position.epoch, position.sequence)
        self._turn.send(self._outlet, text_frame(encode(event)))

    async def _pace(self) -> None:
        """Writes what was sent, and waits until the client has room for more."""
        self._unpaced = 0
        self._turn.settle(self._outlet)
        await deferLater(self._clock, 0)
        drained = self._outlet.drained()
        if drained is not None:
            await drained
