"""What has to be done now and then: expired messages are deleted, and what memory no longer needs is forgotten."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from wsock.errors import Unavailable
from wsock.interfaces import IDirectory, IMessageStore

__all__ = ["Housekeeping"]

_SLICE = 1000
_PAUSE_SECONDS = 0.05


class Housekeeping(Service):
    """Deletes messages beyond their time to live, a slice at a time so that nothing waits for it.

    ``transient_seconds`` is how long a message that is no history is kept, the recovery window; ``trim`` is called
    each round, and then the ``chores``, which may raise :class:`Unavailable`.
    """

    _log = Logger()

    def __init__(
        self,
        directory: IDirectory,
        store: IMessageStore,
        trim: Callable[[], None],
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        ttl_seconds: float,
        transient_seconds: float,
        interval_seconds: float = 10.0,
        chores: Sequence[Callable[[], Awaitable[object]]] = (),
    ) -> None:
        self._directory = directory
        self._store = store
        self._trim = trim
        self._clock = clock
        self._now = now
        self._ttl_seconds = ttl_seconds
        self._transient_seconds = transient_seconds
        self._interval_seconds = interval_seconds
        self._chores = chores
        self._loop = LoopingCall(self._start_round)
        self._loop.clock = clock
        self._round: Deferred[None] | None = None

    def startService(self) -> None:
        """Starts the rounds."""
        super().startService()
        self._loop.start(self._interval_seconds, now=False)

    def stopService(self) -> Deferred[None] | None:
        """Stops; fires when a round that is under way has ended."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        running, self._round = self._round, None
        if running is not None:
            running.cancel()
        return running

    def _start_round(self) -> Deferred[None]:
        self._round = Deferred.fromCoroutine(self._go_round())
        return self._round

    async def _go_round(self) -> None:
        try:
            self._trim()
            for chore in self._chores:
                await chore()
            for app in await self._directory.apps():
                await self._expire_safely(app.id)
        except CancelledError:
            pass
        except Unavailable:
            # The store has said so in the log; the next round tries again.
            pass
        except Exception:
            self._log.failure("a round of housekeeping failed; the next one tries again")

    async def _expire_safely(self, app: str) -> None:
        try:
            await self._expire(app)
        except (CancelledError, Unavailable):
            raise
        except Exception:
            self._log.failure("the messages of {app} could not be expired; the next round tries again", app=app)

    async def _expire(self, app: str) -> None:
        now = self._now()
        before = int((now - self._ttl_seconds) * 1000)
        transient_before = int((now - self._transient_seconds) * 1000)
        while await self._store.expire(app, before, transient_before, _SLICE) == _SLICE:
            await deferLater(self._clock, _PAUSE_SECONDS)
