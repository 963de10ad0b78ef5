"""The embedded broker: one process, ordered and deduplicated in memory, made durable by a journal.

Theory of operation
===================
Publishes gather in a queue. One batch at a time is taken from it, stamped (deduplication, sequence, timestamp),
committed by the journal, and only then delivered and acknowledged; what is published meanwhile makes the next
batch. A batch that the journal refuses leaves no trace: the stamps are taken back and every publisher is
told ``unavailable``. With a journal whose Deferreds fire at once, the whole way is one synchronous call.

A channel is loaded from the journal when it is first needed and forgotten when it was idle for the recovery window,
so memory holds what is active. The recovery windows are bounded three ways: by age, by messages for each
channel, and by bytes over all channels, the oldest message first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wsock.errors import Gone, Unavailable
from wsock.interfaces import IBroker, IJournal, IReceiver, JournalRecord, Outcome
from wsock.measures import SECONDS, SIZES, Histogram
from wsock.protocol.messages import Located, Message, Publication, Receipt
from wsock.protocol.position import Position

__all__ = ["MemoryBroker"]

_BATCH_ITEMS = 256
_BATCH_BYTES = 1 << 20
_OVERHEAD = 400
"""Bytes that a message costs beside its data."""
_MAX_RECEIPTS = 2_000_000
"""Ids that are remembered at most: less than a gigabyte."""
_NUDGE_MS = 1000
"""How far the timestamps of an app may run ahead of the clock to stay unique."""
_SLEW = 0.1
"""How much slower the broker's clock goes until a wall clock that stepped back has caught up."""


class _Channel:
    """What the broker knows of one channel.

    ``sequence`` and ``timestamp`` are those of the last message that was delivered, ``stamped`` the last sequence given
    out; they differ while a batch is being committed. ``trimmed`` is the timestamp of the newest message that is no
    longer in the window, and ``unlisted`` how many entries of the window order are for messages that left it early.
    """

    __slots__ = (
        "epoch",
        "idle_since",
        "is_attached",
        "key",
        "sequence",
        "stamped",
        "timestamp",
        "trimmed",
        "unlisted",
        "window",
    )

    def __init__(self, key: tuple[str, str], position: Position, timestamp: int, trimmed: int) -> None:
        self.key = key
        self.epoch = position.epoch
        self.sequence = self.stamped = position.sequence
        self.timestamp = timestamp
        self.trimmed = trimmed
        self.window: deque[Message] = deque()
        self.unlisted = 0
        self.is_attached = False
        self.idle_since = 0

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.sequence)


class _Waiting:
    """A publication in the queue."""

    __slots__ = ("outcome", "publication", "receipt", "size")

    def __init__(self, publication: Publication, size: int, outcome: Outcome) -> None:
        self.publication = publication
        self.size = size
        self.outcome = outcome
        self.receipt: Receipt | None = None


_Id = tuple[str, str, str, str]


@implementer(IBroker)
class MemoryBroker:
    """Orders, deduplicates and delivers the messages of one process.

    ``now`` is the wall clock in seconds; ``new_epoch`` makes a name that no channel ever had. ``unknown_before`` is the
    timestamp before which a channel that the journal doesn't know may have had messages. ``on_occupancy`` is told when
    a channel gets its first subscriber (app, channel, ``True``) and when it lost its last. Its commits are measured as
    :class:`~wsock.measures.Batching` says.
    """

    _log = Logger()

    def __init__(
        self,
        journal: IJournal,
        now: Callable[[], float],
        new_epoch: Callable[[], str],
        *,
        recovery_seconds: float = 120,
        recovery_messages: int = 1000,
        recovery_bytes: int = 1 << 28,
        dedup_seconds: float = 120,
        backlog_bytes: int = 1 << 26,
        unknown_before: int = 0,
        on_occupancy: Callable[[str, str, bool], None] = lambda app, channel, is_occupied: None,
    ) -> None:
        self._journal = journal
        self._now = now
        self._new_epoch = new_epoch
        self._recovery_ms = int(recovery_seconds * 1000)
        self._recovery_messages = recovery_messages
        self._recovery_bytes = recovery_bytes
        self._dedup_ms = int(dedup_seconds * 1000)
        self._backlog_bytes = backlog_bytes
        self._unknown_before = unknown_before
        self.on_occupancy = on_occupancy
        self._occupied: set[tuple[str, str]] = set()
        self._channels: dict[tuple[str, str], _Channel] = {}
        self._loading: dict[tuple[str, str], list[Deferred[_Channel]]] = {}
        self._timestamps: dict[str, int] = {}
        self._wall_ms = 0.0
        self._ahead_ms = 0.0
        self._receipts: dict[_Id, Receipt] = {}
        self._receipt_order: deque[tuple[int, _Id]] = deque()
        self._window_order: deque[_Channel] = deque()
        self._window_bytes = 0
        self._idle: deque[tuple[int, _Channel]] = deque()
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._is_busy = False
        self.batch_sizes = Histogram(SIZES)
        self.batch_seconds = Histogram(SECONDS)

    @property
    def queued(self) -> int:
        """Publishes that wait for the next commit."""
        return len(self._queue)

    @property
    def queued_bytes(self) -> int:
        """The memory that they take, as ``backlog_bytes`` counts it."""
        return self._queued_bytes

    async def start(self) -> None:
        """Recalls what must survive a restart: the last timestamps, and the ids that are still deduplicated."""
        self._timestamps = await self._journal.last_timestamps()
        self._wall_ms = max(self._timestamps.values(), default=0)
        for recent in await self._journal.recent_ids(self._clock_ms() - self._dedup_ms):
            receipt = recent.receipt
            self._remember((recent.app, receipt.channel, recent.identity, receipt.id), receipt)

    def listen(self, receiver: IReceiver) -> None:
        """Names the receiver."""
        self._receiver = receiver

    def publish(self, publication: Publication, outcome: Outcome) -> None:
        """Queues the message; the outcome is known when it is committed."""
        size = len(memoryview(publication.data)) + _OVERHEAD
        if self._queued_bytes + size > self._backlog_bytes:
            text = f"{self._queued_bytes} bytes wait to be stored (limits.publish_backlog_bytes): try again"
            outcome.errback(Failure(Unavailable(text, retry_after=1.0)))
            return
        if len(self._receipts) >= _MAX_RECEIPTS:
            text = f"{_MAX_RECEIPTS} ids are remembered to find repetitions (dedup.seconds): try again"
            outcome.errback(Failure(Unavailable(text, retry_after=1.0)))
            return
        self._queued_bytes += size
        self._queue.append(_Waiting(publication, size, outcome))
        if not self._is_busy:
            self._is_busy = True
            Deferred.fromCoroutine(self._work())

    async def attach(self, app: str, channel: str) -> Position:
        """Delivers the channel's messages from now on."""
        known = await self._channel((app, channel))
        known.is_attached = True
        return known.position

    def detach(self, app: str, channel: str) -> None:
        """Delivers them no more; the channel is remembered for the recovery window."""
        known = self._channels.get((app, channel))
        if known is not None and known.is_attached:
            known.is_attached = False
            self._idles(known)

    def occupy(self, app: str, channel: str) -> None:
        """The channel has subscribers."""
        if (app, channel) not in self._occupied:
            self._occupied.add((app, channel))
            self.on_occupancy(app, channel, True)

    def vacate(self, app: str, channel: str) -> None:
        """The channel has none any more."""
        if (app, channel) in self._occupied:
            self._occupied.remove((app, channel))
            self.on_occupancy(app, channel, False)

    async def occupied(self, app: str) -> int:
        """How many of the app's channels have subscribers."""
        return sum(occupied == app for occupied, _ in self._occupied)

    async def is_occupied(self, app: str, channel: str) -> bool:
        """Whether the channel has subscribers."""
        return (app, channel) in self._occupied

    async def position(self, app: str, channel: str) -> Position:
        """Where the channel stands."""
        return (await self._channel((app, channel))).position

    async def read(self, app: str, channel: str, after: Position, limit: int) -> list[Message]:
        """Messages behind the position, from the window."""
        known = await self._channel((app, channel))
        if not after.sequence and not known.trimmed:
            # Who never had a message misses all that there ever were, whatever the epoch was called then.
            return list(islice(known.window, limit))
        if after.epoch != known.epoch or after.sequence > known.sequence:
            raise Gone(f"'{channel}' has no position {after.sequence} in the epoch {after.epoch}")
        if after.sequence == known.sequence:
            return []
        skip = len(known.window) - (known.sequence - after.sequence)
        if skip < 0:
            raise Gone(f"messages of '{channel}' behind {after.sequence} are no longer kept")
        return list(islice(known.window, skip, skip + limit))

    async def locate(self, app: str, channel: str, timestamp: int) -> Located:
        """The place of a timestamp in the window."""
        known = await self._channel((app, channel))
        later = ties = 0
        for message in reversed(known.window):
            if message.timestamp < timestamp:
                break
            later += 1
            ties += message.timestamp == timestamp
        # Where some of equal timestamp are in the window, the trimmed one may be another than the client has.
        is_complete = timestamp > known.trimmed or (timestamp == known.trimmed and not ties)
        return Located(Position(known.epoch, known.sequence - later), ties, is_complete)

    # The way of a batch.

    async def _work(self) -> None:
        try:
            while self._queue:
                batch = self._take()
                try:
                    await self._accept(batch)
                except Exception as e:
                    # A publisher must get an answer, whatever happened; only what is no outage is a bug of ours.
                    failure = Failure()
                    if not isinstance(e, Unavailable):
                        self._log.failure("a batch of publishes failed", failure=failure)
                    for waiting in batch:
                        waiting.outcome.errback(failure)
                else:
                    for waiting in batch:
                        assert waiting.receipt is not None
                        waiting.outcome.callback(waiting.receipt)
                self.trim()
        finally:
            self._is_busy = False

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < _BATCH_ITEMS and (not batch or size + self._queue[0].size <= _BATCH_BYTES):
            waiting = self._queue.popleft()
            size += waiting.size
            batch.append(waiting)
        self._queued_bytes -= size
        return batch

    async def _accept(self, batch: list[_Waiting]) -> None:
        channels = await self._channels_of(batch)
        timestamps = {w.publication.app: self._timestamps.get(w.publication.app, 0) for w in batch}
        stamped: list[tuple[_Channel, JournalRecord]] = []
        for waiting, channel in zip(batch, channels, strict=True):
            self._stamp(waiting, channel, stamped)
        try:
            if stamped:
                await self._commit([record for _, record in stamped])
        except Exception:
            self._timestamps.update(timestamps)
            for channel, record in stamped:
                channel.stamped = channel.sequence
                message = record.message
                self._receipts.pop((record.app, message.channel, record.identity, message.id), None)
            raise
        for channel, record in stamped:
            self._deliver(channel, record.message)

    async def _commit(self, records: list[JournalRecord]) -> None:
        began = self._now()
        self.batch_sizes.observe(len(records))
        try:
            await self._journal.commit(records)
        finally:
            self.batch_seconds.observe(max(0.0, self._now() - began))

    async def _channels_of(self, batch: list[_Waiting]) -> list[_Channel]:
        """The channels of the publications, none of them forgotten while another was loaded."""
        while True:
            channels = [await self._channel((w.publication.app, w.publication.channel)) for w in batch]
            if all(self._channels.get(channel.key) is channel for channel in channels):
                return channels

    def _stamp(self, waiting: _Waiting, channel: _Channel, stamped: list[tuple[_Channel, JournalRecord]]) -> None:
        p = waiting.publication
        id: _Id = (p.app, p.channel, p.identity, p.id)
        if p.has_id:
            first = self._receipts.get(id)
            if first is not None:
                waiting.receipt = Receipt(
                    first.id, first.channel, first.timestamp, first.epoch, first.sequence, is_duplicate=True
                )
                return
        channel.stamped += 1
        timestamp = self._next_timestamp(p.app)
        # A copy: it may be a view of a much larger frame, which would stay in memory as long as the message.
        data = p.data.copy()
        message = Message(p.channel, p.id, data, timestamp, p.publisher_id, channel.stamped, channel.epoch, p.persist)
        waiting.receipt = Receipt(p.id, p.channel, timestamp, channel.epoch, channel.stamped)
        if p.has_id:
            self._remember(id, waiting.receipt)
        stamped.append((channel, JournalRecord(p.app, p.identity if p.has_id else "", message)))

    def _deliver(self, channel: _Channel, message: Message) -> None:
        channel.sequence = message.sequence
        channel.timestamp = message.timestamp
        self._keep(channel, message)
        if channel.is_attached:
            try:
                self._receiver.message(channel.key[0], message)
            except Exception:
                # The message is committed: neither its ack nor what is behind it may suffer.
                self._log.failure("the delivery of a message failed")

    # Time.

    def _clock_ms(self) -> int:
        """The wall clock; but where that steps back, this one goes on, a little slower until they agree again."""
        wall, before = self._now() * 1000, self._wall_ms
        self._wall_ms = wall
        if wall < before:
            self._ahead_ms += before - wall
        elif self._ahead_ms:
            self._ahead_ms = max(0.0, self._ahead_ms - (wall - before) * _SLEW)
        return int(wall + self._ahead_ms)

    def _next_timestamp(self, app: str) -> int:
        clock, last = self._clock_ms(), self._timestamps.get(app, 0)
        timestamp = max(clock, last, min(last + 1, clock + _NUDGE_MS))
        self._timestamps[app] = timestamp
        return timestamp

    # What is remembered.

    async def _channel(self, key: tuple[str, str]) -> _Channel:
        known = self._channels.get(key)
        if known is not None:
            return known
        loaded: Deferred[_Channel] = Deferred()
        waiters = self._loading.get(key)
        if waiters is not None:
            waiters.append(loaded)
        else:
            self._loading[key] = [loaded]
            # On its own: a caller who is cancelled must not take the channel from the others who wait for it.
            Deferred.fromCoroutine(self._load_for_all(key))
        return await loaded

    async def _load_for_all(self, key: tuple[str, str]) -> None:
        try:
            channel = await self._load(key)
        except Exception:
            failure = Failure()
            for waiter in self._loading.pop(key):
                waiter.errback(failure)
            return
        self._channels[key] = channel
        for waiter in self._loading.pop(key):
            waiter.callback(channel)

    async def _load(self, key: tuple[str, str]) -> _Channel:
        cutoff = self._clock_ms() - self._recovery_ms
        tail = await self._journal.tail(*key, cutoff, self._recovery_messages)
        if tail is None:
            channel = _Channel(key, Position(self._new_epoch(), 0), 0, self._unknown_before)
        else:
            channel = _Channel(key, tail.position, tail.timestamp, tail.trimmed)
            for message in tail.recent:
                self._keep(channel, message)
        self._idles(channel)
        return channel

    def _keep(self, channel: _Channel, message: Message) -> None:
        channel.window.append(message)
        self._window_order.append(channel)
        self._window_bytes += len(memoryview(message.data)) + _OVERHEAD
        if len(channel.window) > self._recovery_messages:
            self._drop_oldest(channel)
            channel.unlisted += 1

    def _drop_oldest(self, channel: _Channel) -> None:
        message = channel.window.popleft()
        channel.trimmed = message.timestamp
        self._window_bytes -= len(memoryview(message.data)) + _OVERHEAD

    def _remember(self, id: _Id, receipt: Receipt) -> None:
        self._receipts[id] = receipt
        self._receipt_order.append((receipt.timestamp, id))

    def trim(self) -> None:
        """Forgets what is older than its window. Called after each batch, and now and then when there is none."""
        now = self._clock_ms()
        self._trim_windows(now - self._recovery_ms)
        while self._receipt_order and self._receipt_order[0][0] < now - self._dedup_ms:
            _, id = self._receipt_order.popleft()
            receipt = self._receipts.get(id)
            if receipt is not None and receipt.timestamp < now - self._dedup_ms:
                del self._receipts[id]
        self._forget_idle(now - self._recovery_ms)

    def _idles(self, channel: _Channel) -> None:
        channel.idle_since = self._clock_ms()
        self._idle.append((channel.idle_since, channel))

    def _forget_idle(self, cutoff: int) -> None:
        while self._idle and self._idle[0][0] < cutoff:
            _, channel = self._idle.popleft()
            if channel.stamped != channel.sequence:
                self._idles(channel)
                continue
            is_idle = not channel.is_attached and not channel.window
            if is_idle and channel.idle_since < cutoff and self._channels.get(channel.key) is channel:
                del self._channels[channel.key]

    def _trim_windows(self, cutoff: int) -> None:
        order = self._window_order
        while order:
            channel = order[0]
            if channel.unlisted:
                channel.unlisted -= 1
            elif channel.window[0].timestamp < cutoff or self._window_bytes > self._recovery_bytes:
                self._drop_oldest(channel)
                if not channel.window and not channel.is_attached:
                    self._idles(channel)
            else:
                return
            order.popleft()
