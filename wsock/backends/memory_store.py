"""The journal and the history in memory: for ``--dev``, and the fake for every test that needs one.

Nothing survives the process, and nothing grows without bound: the oldest messages go first.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from wsock.errors import Unavailable
from wsock.interfaces import ChannelTail, IJournal, IMessageStore, JournalRecord, RecentId
from wsock.protocol.messages import HistoryQuery, Message, Page, Receipt
from wsock.protocol.position import Position

__all__ = ["MemoryMessages"]

_OVERHEAD = 512
"""What a message takes besides its data, about."""


def _order(message: Message) -> tuple[int, str, int]:
    return (message.timestamp, message.epoch, message.sequence)


def _timestamp(message: Message) -> int:
    return message.timestamp


def _size(message: Message) -> int:
    return len(bytes(message.data)) + _OVERHEAD


@dataclass(slots=True, eq=False)
class _Channel:
    """What is kept of a channel. ``last`` was committed last; both lists are in the order of history."""

    last: Message | None = None
    records: dict[Position, JournalRecord] = field(default_factory=dict)
    history: list[Message] = field(default_factory=list)
    transient: list[Message] = field(default_factory=list)

    def add(self, record: JournalRecord) -> None:
        message = record.message
        self.records[message.position] = record
        insort(self.history if message.persist else self.transient, message, key=_order)

    def remove(self, message: Message) -> None:
        del self.records[message.position]
        kept = self.history if message.persist else self.transient
        del kept[bisect_left(kept, _order(message), key=_order)]

    def backward(self, position: Position) -> Iterator[Message]:
        """The messages from this position on towards the past, up to the first gap."""
        for sequence in range(position.sequence, 0, -1):
            record = self.records.get(Position(position.epoch, sequence))
            if record is None:
                return
            yield record.message

    def oldest(self) -> Message:
        return min((kept[0] for kept in (self.history, self.transient) if kept), key=_order)


@implementer(IJournal, IMessageStore)
class MemoryMessages:
    """Keeps up to ``max_messages`` a channel and ``max_bytes`` of all together, and drops the oldest beyond.

    Everything is done when the call returns: the Deferreds have fired, and coroutines do not wait.
    """

    def __init__(self, *, max_messages: int = 10_000, max_bytes: int = 256 * 1024 * 1024) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._bytes = 0
        self._channels: dict[str, dict[str, _Channel]] = {}
        self._last_timestamps: dict[str, int] = {}
        self._arrivals: OrderedDict[tuple[str, str, Position], None] = OrderedDict()

    def commit(self, records: list[JournalRecord]) -> Deferred[None]:
        """Stores the messages and moves their channels on: see :class:`IJournal`."""
        if any(self._is_stored(record.app, record.message) for record in records):
            return fail(Unavailable("the message store holds a message of this channel, epoch and sequence already"))
        for record in records:
            app, message = record.app, record.message
            self._channel(app, message.channel).last = message
            self._last_timestamps[app] = max(message.timestamp, self._last_timestamps.get(app, 0))
            self._add(record)
        return succeed(None)

    async def tail(self, app: str, channel: str, cutoff: int, limit: int) -> ChannelTail | None:
        """The channel's end: see :class:`IJournal`."""
        kept = self._find(app, channel)
        if kept is None or kept.last is None:
            return None
        position, last = kept.last.position, kept.last.timestamp
        recent: list[Message] = []
        for message in kept.backward(position):
            if message.timestamp <= cutoff or len(recent) == limit:
                return ChannelTail(position, last, recent[::-1], message.timestamp)
            recent.append(message)
        return ChannelTail(position, last, recent[::-1], _trimmed(recent[::-1], last))

    async def recent_ids(self, cutoff: int) -> list[RecentId]:
        """The ids to deduplicate: see :class:`IJournal`."""
        found = []
        for app, channel, position in self._arrivals:
            record = self._channels[app][channel].records[position]
            if record.identity and record.message.timestamp > cutoff:
                found.append(RecentId(app, record.identity, _receipt(record.message)))
        return sorted(found, key=lambda recent: recent.receipt.timestamp)

    async def last_timestamps(self) -> dict[str, int]:
        """For each app the largest timestamp ever committed."""
        return dict(self._last_timestamps)

    async def append(self, app: str, messages: list[Message]) -> None:
        """Stores messages as history; the positions of their channels stay as commits left them."""
        for message in messages:
            if not self._is_stored(app, message):
                self._add(JournalRecord(app, "", message))

    async def page(self, app: str, channel: str, query: HistoryQuery) -> Page:
        """A page of the past: see :class:`IMessageStore`."""
        kept = self._find(app, channel)
        if kept is None:
            return Page([], False)
        history = kept.history
        start = 0 if query.after is None else bisect_right(history, query.after, key=_timestamp)
        end = len(history) if query.before is None else bisect_left(history, query.before, key=_timestamp)
        if end - start <= query.limit:
            return _page(history[start : max(start, end)], query, has_more=False)
        if query.direction == "forward":
            edge = history[start + query.limit - 1].timestamp
            cut = bisect_right(history, edge, key=_timestamp)
            return _page(history[start:cut], query, has_more=cut < end)
        edge = history[end - query.limit].timestamp
        cut = bisect_left(history, edge, key=_timestamp)
        return _page(history[cut:end], query, has_more=cut > start)

    async def expire(self, app: str, before: int, transient_before: int, limit: int) -> int:
        """Deletes old messages, and then the channels that have none left: see :class:`IMessageStore`."""
        old: list[Message] = []
        for channel in list(self._channels.get(app, {}).values()):
            transients = bisect_left(channel.transient, max(before, transient_before), key=_timestamp)
            persistent = bisect_left(channel.history, before, key=_timestamp)
            old += channel.transient[: min(transients, limit - len(old))]
            old += channel.history[: min(persistent, limit - len(old))]
        for message in old:
            self._remove(app, message)
        self._forget_channels(app, before)
        return len(old)

    def _is_stored(self, app: str, message: Message) -> bool:
        return (app, message.channel, message.position) in self._arrivals

    def _find(self, app: str, channel: str) -> _Channel | None:
        return self._channels.get(app, {}).get(channel)

    def _channel(self, app: str, channel: str) -> _Channel:
        return self._channels.setdefault(app, {}).setdefault(channel, _Channel())

    def _add(self, record: JournalRecord) -> None:
        app, message = record.app, record.message
        channel = self._channel(app, message.channel)
        channel.add(record)
        self._arrivals[app, message.channel, message.position] = None
        self._bytes += _size(message)
        if len(channel.records) > self._max_messages:
            self._remove(app, channel.oldest())
        while self._bytes > self._max_bytes:
            app, name, position = next(iter(self._arrivals))
            self._remove(app, self._channels[app][name].records[position].message)

    def _remove(self, app: str, message: Message) -> None:
        self._channels[app][message.channel].remove(message)
        del self._arrivals[app, message.channel, message.position]
        self._bytes -= _size(message)

    def _forget_channels(self, app: str, before: int) -> None:
        channels = self._channels.get(app, {})
        for name, channel in list(channels.items()):
            if not channel.records and (channel.last is None or channel.last.timestamp < before):
                del channels[name]


def _page(messages: list[Message], query: HistoryQuery, *, has_more: bool) -> Page:
    if query.direction == "backward":
        messages.reverse()
    return Page(messages, has_more)


def _receipt(message: Message) -> Receipt:
    return Receipt(message.id, message.channel, message.timestamp, message.epoch, message.sequence)


def _trimmed(recent: list[Message], last_timestamp: int) -> int:
    """What can be said of the newest message before ``recent`` when it isn't stored any more."""
    if not recent:
        return last_timestamp
    return 0 if recent[0].sequence == 1 else recent[0].timestamp - 1
