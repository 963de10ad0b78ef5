"""Brings what the cluster accepted to where it stays: messages into the store, events to whom they concern.

Every node does a part. Work is acknowledged after it is done, so that a crash repeats it; storing a message twice
changes nothing. While the store is away the work waits in the queue.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wsock.errors import Unavailable
from wsock.interfaces import Event, IMessageStore, IWorkQueue, Rejected, Work
from wsock.measures import SECONDS, SIZES, Histogram
from wsock.protocol.codec import encode
from wsock.protocol.messages import Message

__all__ = ["Persister"]

_BATCH = 500
_TURN_SECONDS = 0.02
_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS = 0.2, 5.0


class Persister(Service):
    """Works off one queue.

    After work that was less than a batch it waits for ``gather_seconds``: what comes first is done at once, and under
    load the store gets a few large pieces a second rather than hundreds of small ones. ``record`` is given the events
    and the messages (by app) of each piece of work before that is done, and may be given them again. Where
    ``is_ordered`` says so of them, that waits until all work before it, which other nodes may have, is done.
    ``batch_sizes`` and ``batch_seconds`` tell how much was done at once, and how long that took.
    """

    _log = Logger()

    def __init__(
        self,
        queue: IWorkQueue,
        store: IMessageStore,
        record: Callable[[list[Event], dict[str, list[Message]]], Awaitable[None]],
        clock: IReactorTime,
        *,
        is_ordered: Callable[[list[Event], dict[str, list[Message]]], Awaitable[bool]] | None = None,
        gather_seconds: float = 0.0,
    ) -> None:
        self._gather_seconds = gather_seconds
        self._is_ordered = is_ordered
        self._queue = queue
        self._store = store
        self._record = record
        self._clock = clock
        self._working: Deferred[None] | None = None
        self._delay = _FIRST_DELAY_SECONDS
        self.batch_sizes = Histogram(SIZES)
        self.batch_seconds = Histogram(SECONDS)

    def startService(self) -> None:
        """Begins to work."""
        super().startService()
        self._working = Deferred.fromCoroutine(self._work_on())

    def stopService(self) -> Deferred[None] | None:
        """Ends; work that is not done stays in the queue. Fires when nothing is under way."""
        super().stopService()
        working, self._working = self._working, None
        if working is not None:
            working.cancel()
        return working

    async def _work_on(self) -> None:
        while self.running:
            try:
                work = await self._queue.take(_BATCH)
                await self._do(work)
                self._delay = _FIRST_DELAY_SECONDS
                if self._gather_seconds and 0 < len(work.ids) < _BATCH:
                    await deferLater(self._clock, self._gather_seconds)
                continue
            except CancelledError:
                return
            except Unavailable:
                # Who is away has said so in the log.
                pass
            except Exception:
                self._log.failure("a piece of work failed; it will be tried again")
            try:
                await deferLater(self._clock, self._delay)
            except CancelledError:
                return
            self._delay = min(self._delay * 2, _LAST_DELAY_SECONDS)

    async def _do(self, work: Work) -> None:
        began = self._clock.seconds()
        while True:
            try:
                await self._store_messages(work)
                if self._is_ordered is not None and await self._is_ordered(work.events, work.messages):
                    await self._wait_turn(work)
                await self._record(work.events, work.messages)
                break
            except Unavailable:
                # Kept at hand: taking it again would wait until the queue believes this node dead.
                await deferLater(self._clock, self._delay)
                self._delay = min(self._delay * 2, _LAST_DELAY_SECONDS)
        await self._queue.done(work)
        if work.ids:
            self.batch_sizes.observe(len(work.ids))
            self.batch_seconds.observe(max(0.0, self._clock.seconds() - began))

    async def _wait_turn(self, work: Work) -> None:
        """Returns when all work before this is done; does what was left of it by who is gone."""
        while work.ids and not await self._queue.is_first(work):
            left = await self._queue.take_left(_BATCH)
            if left.ids:
                await self._do(left)
            else:
                await deferLater(self._clock, _TURN_SECONDS)

    async def _store_messages(self, work: Work) -> None:
        for app, messages in work.messages.items():
            history = [message for message in messages if message.persist]
            if not history:
                continue
            try:
                await self._store.append(app, history)
            except Rejected as e:
                for message, reason in e.reasons:
                    text = encode(message.entry()).decode()
                    await self._queue.bury(work, f"{app} {message.epoch} {text}", reason)
