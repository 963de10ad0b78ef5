"""Publishes on their way to one Redis server: one batch in flight, the next one gathers meanwhile (group commit).

A batch is made of runs: messages of one channel that follow one another are accepted and published in one piece.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import Outcome
from wsock.measures import SECONDS, SIZES, Histogram
from wsock.protocol.messages import Publication, Receipt

__all__ = ["Body", "Placed", "PublishBatches", "Run", "decode_body", "decode_run"]

_MAX_ITEMS = 256
_MAX_BYTES = 1 << 20
_OVERHEAD = 300
_MAX_KEY = 80


class Body(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The part of a message that its publisher says; it travels and is stored as a JSON array."""

    id: str
    data: Raw
    publisher_id: str
    persist: bool


class Placed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A message of a run."""

    timestamp: int
    body: Body


class Run(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Messages of one channel that follow one another, as ``publish.lua`` publishes them.

    ``sequence`` is the first one's. Where the first one begins an epoch, ``before`` is ``<epoch>/<sequence>`` of the
    last message of the one before; else it is empty.
    """

    epoch: str
    sequence: int
    before: str
    messages: list[Placed]


# The scripts' MessagePack has texts but no bytes, so everything in a batch is text.
_encode_batch = msgspec.msgpack.Encoder().encode
_decode_answers = msgspec.msgpack.Decoder(list[Any]).decode
_encode_body = msgspec.json.Encoder().encode
decode_body = msgspec.json.Decoder(Body).decode
decode_run = msgspec.json.Decoder(Run).decode


class _Waiting:
    """A publication in the queue, and what becomes of it."""

    __slots__ = ("body", "key", "outcome", "publication", "size")

    def __init__(self, publication: Publication, size: int, outcome: Outcome) -> None:
        p = publication
        self.publication = p
        self.key = _key(p) if p.has_id else ""
        self.body = _encode_body(Body(p.id, p.data, p.publisher_id, p.persist)).decode()
        self.size = size
        self.outcome = outcome


def _key(p: Publication) -> str:
    """What stands for (channel, identity, id): the three, where they are short and plain, else a digest of them."""
    text = f"{len(p.channel)}:{p.channel}{len(p.identity)}:{p.identity}{p.id}"
    if len(text) <= _MAX_KEY and text.isascii():
        return text
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class PublishBatches:
    """Gathers publishes for the turn of the reactor and while a batch is in flight.

    ``run`` runs the publish script on encoded runs and returns its answers; ``backlog_bytes`` bounds what waits, and
    ``max_items`` and ``max_bytes`` a batch. It is measured as :class:`~wsock.measures.Batching` says.
    """

    _log = Logger()

    def __init__(
        self,
        run: Callable[[bytes], Awaitable[bytes]],
        clock: IReactorTime,
        *,
        backlog_bytes: int,
        max_items: int = _MAX_ITEMS,
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        self._run = run
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._clock = clock
        self._backlog_bytes = backlog_bytes
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._is_busy = False
        self.batch_sizes = Histogram(SIZES)
        self.batch_seconds = Histogram(SECONDS)

    @property
    def queued(self) -> int:
        """Publishes that wait for the next batch."""
        return len(self._queue)

    @property
    def queued_bytes(self) -> int:
        """The memory that they take, as ``backlog_bytes`` counts it."""
        return self._queued_bytes

    def add(self, publication: Publication, outcome: Outcome) -> None:
        """The outcome is the receipt, or :class:`Unavailable` when the message may not have been accepted."""
        size = len(memoryview(publication.data)) + _OVERHEAD
        if self._queued_bytes + size > self._backlog_bytes:
            text = f"{self._queued_bytes} bytes wait for Redis (limits.publish_backlog_bytes): try again"
            outcome.errback(Failure(Unavailable(text, retry_after=1.0)))
            return
        waiting = _Waiting(publication, size, outcome)
        self._queued_bytes += size
        self._queue.append(waiting)
        if not self._is_busy:
            self._is_busy = True
            self._clock.callLater(0, self._start)

    def _start(self) -> None:
        Deferred.fromCoroutine(self._work()).addErrback(self._broken)

    def _broken(self, failure: Failure) -> None:
        self._is_busy = False
        self._log.failure("a batch of publishes failed", failure=failure)

    async def _work(self) -> None:
        told: list[_Waiting] = []
        outcomes: Sequence[Any] | Refused = ()
        while self._queue or told:
            batch = self._take()
            # The next batch is on its way before the publishers of the last one are told: Redis need not wait for that.
            running = Deferred.fromCoroutine(self._answers(batch)) if batch else None
            self._tell(told, outcomes)
            told, outcomes = batch, await running if running is not None else ()
        self._is_busy = False

    async def _answers(self, batch: list[_Waiting]) -> Sequence[Any] | Refused:
        began = self._clock.seconds()
        self.batch_sizes.observe(len(batch))
        try:
            return _decode_answers(await self._run(_encode_batch(_runs(batch))))
        except Exception as e:
            # Whatever it was, the publishers must be told; only what is no outage is a bug of ours.
            if not isinstance(e, Refused):
                self._log.failure("a batch of publishes failed")
                e = Refused(Code.INTERNAL, "the message could not be accepted")
            return e
        finally:
            self.batch_seconds.observe(max(0.0, self._clock.seconds() - began))

    def _tell(self, batch: list[_Waiting], outcomes: Sequence[Any] | Refused) -> None:
        if isinstance(outcomes, Refused):
            failure = Failure(outcomes)
            for waiting in batch:
                waiting.outcome.errback(failure)
            return
        values = iter(outcomes)
        for waiting, kind, sequence, timestamp, text in zip(batch, values, values, values, values, strict=True):
            if kind <= 1:
                p = waiting.publication
                waiting.outcome.callback(Receipt(p.id, p.channel, timestamp, text, sequence, kind == 1))
            else:
                waiting.outcome.errback(Failure(self._refusal(kind, text)))

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < self._max_items:
            if batch and size + self._queue[0].size > self._max_bytes:
                break
            waiting = self._queue.popleft()
            size += waiting.size
            batch.append(waiting)
        self._queued_bytes -= size
        return batch

    def _refusal(self, kind: int, text: str) -> Refused:
        if kind == 2:
            text = "too many messages wait to be stored (redis.backlog): the database is away or too slow"
            return Unavailable(text, retry_after=5.0)
        self._log.error("Redis could not accept a message: {reason}", reason=text)
        return Refused(Code.INTERNAL, "the message could not be accepted")


def _runs(batch: Iterable[_Waiting]) -> list[tuple[str, str, list[Any]]]:
    """The batch as the script takes it."""
    runs: list[tuple[str, str, list[Any]]] = []
    app = channel = ""
    items: list[Any] = []
    for waiting in batch:
        p = waiting.publication
        if p.channel != channel or p.app != app:
            app, channel, items = p.app, p.channel, []
            runs.append((app, channel, items))
        items += (waiting.key, p.persist, waiting.body)
    return runs
