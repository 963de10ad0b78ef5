"""Publishes on their way to one Redis server: one batch in flight, the next one gathers meanwhile (group commit).

A batch is made of runs: messages of one channel that follow one another are accepted and published in one piece.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import Outcome
from wsock.measures import SECONDS, SIZES, Histogram
from wsock.protocol.messages import Message, Publication, Receipt

__all__ = ["PublishBatches", "Run", "decode_run", "entry_messages"]

_MAX_ITEMS = 256
_MAX_BYTES = 1 << 20
_OVERHEAD = 300
_MAX_KEY = 128


class Body(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The part of a message that its publisher says; it travels and is stored as a JSON array."""

    id: str
    data: Raw
    publisher_id: str
    persist: bool


class Run(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Messages of one channel that were accepted together, as ``publish.lua`` publishes them.

    ``sequence`` and ``timestamp`` are the first one's; the others count up from there, timestamps to the ``cap``. Where
    the first one begins an epoch, ``before`` is ``<epoch>/<sequence>`` of the last message of the one before; else it
    is empty.
    """

    epoch: str
    sequence: int
    timestamp: int
    cap: int
    before: str
    bodies: list[Body]


# The scripts' MessagePack has texts but no bytes, so everything in a batch is text.
_encode_batch = msgspec.msgpack.Encoder().encode
_decode_answers = msgspec.msgpack.Decoder(list[Any]).decode
_encode_body = msgspec.json.Encoder().encode
_decode_bodies = msgspec.json.Decoder(list[Body]).decode
decode_run = msgspec.json.Decoder(Run).decode


def entry_messages(channel: str, entry: Sequence[Any]) -> list[Message]:
    """The messages that an entry of the channel's log holds (see ``shared.lua``)."""
    id, fields = entry
    first, _, stamp = id.partition(b"-")
    sequence, timestamp, epoch = int(first), int(stamp), fields[3].decode()
    cap = int(fields[7].partition(b"-")[2]) if len(fields) > 7 else timestamp
    return [
        Message(channel, b.id, b.data, min(timestamp + n, cap), b.publisher_id, sequence + n, epoch, b.persist)
        for n, b in enumerate(_decode_bodies(b"[%b]" % fields[1]))
    ]


class _Waiting(NamedTuple):
    """A publication in the queue, and whom to tell. A tuple, which is made in half the time of an object."""

    publication: Publication
    outcome: Outcome
    key: str
    body: bytes


def _key(p: Publication) -> str:
    """The key of (app, channel, identity, id): their texts, where these are short and plain, else a digest of them.

    Neither apps nor channels nor identities have a line's end in them.
    """
    key = f"wsock:id:{p.app}\n{p.channel}\n{p.identity}\n{p.id}"
    if len(key) <= _MAX_KEY and key.isascii():
        return key
    return f"wsock:id:{blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


class PublishBatches:
    """Gathers publishes for the turn of the reactor and while a batch is in flight.

    ``run`` runs the publish script on encoded runs and returns its answers; ``backlog_bytes`` bounds what waits,
    ``max_items`` and ``max_bytes`` a batch, and ``max_run`` the messages of a run. It is measured as
    :class:`~wsock.measures.Batching` says.
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
        max_run: int = _MAX_ITEMS,
    ) -> None:
        self._run = run
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._max_run = max_run
        self._clock = clock
        self._backlog_bytes = backlog_bytes
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._is_busy = False
        self.is_told: Callable[[str, str], bool] = lambda app, channel: False
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
        p = publication
        body = _encode_body(Body(p.id, p.data, p.publisher_id, p.persist))
        size = len(body) + _OVERHEAD
        if self._queued_bytes + size > self._backlog_bytes:
            text = f"{self._queued_bytes} bytes wait for Redis (limits.publish_backlog_bytes): try again"
            outcome.errback(Failure(Unavailable(text, retry_after=1.0)))
            return
        self._queued_bytes += size
        self._queue.append(_Waiting(p, outcome, _key(p) if p.has_id else "", body))
        if not self._is_busy:
            self._is_busy = True
            self._clock.callLater(0, self._start)

    def _start(self) -> None:
        Deferred.fromCoroutine(self._work()).addErrback(self._broken)

    def _broken(self, failure: Failure) -> None:
        self._is_busy = False
        self._log.failure("a batch of publishes failed", failure=failure)

    async def _work(self) -> None:
        told: list[list[_Waiting]] = []
        outcomes: Sequence[Any] | Refused = ()
        while self._queue or told:
            batch = _runs(self._take(), self._max_run)
            # The next batch is on its way before the publishers of the last one are told: Redis need not wait for that.
            running = Deferred.fromCoroutine(self._answers(batch)) if batch else None
            self._tell(told, outcomes)
            told, outcomes = batch, await running if running is not None else ()
        self._is_busy = False

    async def _answers(self, runs: list[list[_Waiting]]) -> Sequence[Any] | Refused:
        began = self._clock.seconds()
        self.batch_sizes.observe(sum(map(len, runs)))
        try:
            return _decode_answers(await self._run(_encode_batch([self._packed(run) for run in runs])))
        except Exception as e:
            # Whatever it was, the publishers must be told; only what is no outage is a bug of ours.
            if not isinstance(e, Refused):
                self._log.failure("a batch of publishes failed")
                e = Refused(Code.INTERNAL, "the message could not be accepted")
            return e
        finally:
            self.batch_seconds.observe(max(0.0, self._clock.seconds() - began))

    def _tell(self, runs: list[list[_Waiting]], outcomes: Sequence[Any] | Refused) -> None:
        if isinstance(outcomes, Refused):
            failure = Failure(outcomes)
            for run in runs:
                for waiting in run:
                    waiting.outcome.errback(failure)
            return
        answers = iter(outcomes)
        latest = next(answers, 0)
        for run in runs:
            match next(answers):
                case 0:
                    sequence, timestamp, epoch = next(answers), next(answers), next(answers)
                    cap = max(latest, timestamp)
                    for waiting in run:
                        p = waiting.publication
                        waiting.outcome.callback(Receipt(p.id, p.channel, timestamp, epoch, sequence))
                        sequence += 1
                        timestamp = min(timestamp + 1, cap)
                case 1:
                    for waiting in run:
                        self._tell_one(waiting, next(answers), next(answers), next(answers), next(answers))
                case _:
                    self._log.error("Redis could not accept a message: {reason}", reason=next(answers))
                    failure = Failure(Refused(Code.INTERNAL, "the message could not be accepted"))
                    for waiting in run:
                        waiting.outcome.errback(failure)

    def _tell_one(self, waiting: _Waiting, kind: int, sequence: int, timestamp: int, epoch: str) -> None:
        if kind == 2:
            text = "too many messages wait to be stored (redis.backlog): the database is away or too slow"
            waiting.outcome.errback(Failure(Unavailable(text, retry_after=5.0)))
        else:
            p = waiting.publication
            waiting.outcome.callback(Receipt(p.id, p.channel, timestamp, epoch, sequence, kind == 1))

    def _packed(self, run: list[_Waiting]) -> tuple[Any, ...]:
        """The run as the script takes it."""
        p = run[0].publication
        kind = 2 if p.persist else int(self.is_told(p.app, p.channel))
        bodies = [waiting.body for waiting in run]
        keys = [waiting.key for waiting in run]
        return p.app, p.channel, kind, b",".join(bodies).decode(), [len(body) for body in bodies], keys

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < self._max_items:
            next_size = len(self._queue[0].body) + _OVERHEAD
            if batch and size + next_size > self._max_bytes:
                break
            size += next_size
            batch.append(self._queue.popleft())
        self._queued_bytes -= size
        return batch


def _runs(batch: Iterable[_Waiting], max_run: int) -> list[list[_Waiting]]:
    """The batch in pieces of one channel, each all history or none of it."""
    runs: list[list[_Waiting]] = []
    run: list[_Waiting] = []
    last: Publication | None = None
    for waiting in batch:
        p = waiting.publication
        is_like_last = last is not None and (p.channel, p.app, p.persist) == (last.channel, last.app, last.persist)
        if not is_like_last or len(run) >= max_run:
            run = []
            runs.append(run)
        run.append(waiting)
        last = p
    return runs
