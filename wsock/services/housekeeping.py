"""What has to be done now and then: expired messages are deleted, and what memory no longer needs is forgotten."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from wsock.errors import Unavailable
from wsock.interfaces import App, IDirectory, IMessageStore

__all__ = ["Housekeeping"]

_SLICE = 1000
_PAUSE_SECONDS = 0.05


class Housekeeping(Service):
    """Deletes messages beyond their time to live, a slice at a time so that nothing waits for it.

    ``ttl_seconds`` tells of an app how long its messages are kept at most, or is that time for all apps.
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
        ttl_seconds: float | Callable[[App], Awaitable[float]],
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
                await self._expire_safely(app)
        except CancelledError:
            pass
        except Unavailable:
            # The store has said so in the log; the next round tries again.
            pass
        except Exception:
            self._log.failure("a round of housekeeping failed; the next one tries again")

    async def _expire_safely(self, app: App) -> None:
        try:
            await self._expire(app)
        except (CancelledError, Unavailable):
            raise
        except Exception:
            self._log.failure("the messages of {app} could not be expired; the next round tries again", app=app.id)

    async def _expire(self, app: App) -> None:
        ttl = self._ttl_seconds
        seconds = await ttl(app) if callable(ttl) else ttl
        now = self._now()
        transient_before = int((now - self._transient_seconds) * 1000)
        before = int((now - seconds) * 1000)
        if callable(ttl):
            # A setting of the app's must not take from the recovery window, which an embedded broker has in the store.
            before = min(before, transient_before)
        while await self._store.expire(app.id, before, transient_before, _SLICE) == _SLICE:
            await deferLater(self._clock, _PAUSE_SECONDS)
