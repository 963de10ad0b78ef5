"""Notices that the directory was changed, on whatever node, and tells those who remember what it said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.errors import Unavailable

__all__ = ["Watch"]

_INTERVAL_SECONDS = 0.5


class Watch(Service):
    """Looks at the directory's ``revision`` twice a second, and tells its listeners when that is another one.

    They are told one after the other, in the order in which they came, each of them whatever happens to the others. A
    look that fails is followed by the next one; when a listener failed, all of them are told again, so that no change
    is lost to an outage.
    """

    _log = Logger()

    def __init__(
        self,
        revision: Callable[[], Awaitable[int]],
        clock: IReactorTime,
        *,
        interval_seconds: float = _INTERVAL_SECONDS,
    ) -> None:
        self._revision = revision
        self._interval_seconds = interval_seconds
        self._listeners: list[Callable[[], Awaitable[None]]] = []
        self._seen: int | None = None
        self._waiting: list[Deferred[None]] = []
        self._is_looking = False
        self._is_failing = False
        self._looking: Deferred[None] = succeed(None)
        self._loop = LoopingCall(self.poke)
        self._loop.clock = clock

    def listen(self, heard: Callable[[], Awaitable[None]]) -> None:
        """``heard`` is called after each change, behind those who listen already; it may be told of one again."""
        self._listeners.append(heard)

    def startService(self) -> None:
        """Begins to look."""
        super().startService()
        self._loop.start(self._interval_seconds)

    def stopService(self) -> Deferred[None]:
        """Fires when a look that is under way has ended."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        self._looking.cancel()
        return self._looking

    def poke(self) -> Deferred[None]:
        """Looks at once. Fires, and never fails, when the listeners were told of what was changed before."""
        if not self.running:
            return succeed(None)
        told: Deferred[None] = Deferred()
        self._waiting.append(told)
        if not self._is_looking:
            self._is_looking = True
            self._looking = Deferred.fromCoroutine(self._look_on())
        return told

    async def _look_on(self) -> None:
        """Looks as long as somebody waits for a look that began later than they asked for it."""
        waiting: list[Deferred[None]] = []
        try:
            while self._waiting and self.running:
                waiting, self._waiting = self._waiting, []
                await self._look()
                for told in waiting:
                    told.callback(None)
                waiting = []
        finally:
            self._is_looking = False
            waiting += self._waiting
            self._waiting = []
            for told in waiting:
                told.callback(None)

    async def _look(self) -> None:
        errors: list[Exception] = []
        try:
            revision = await self._revision()
        except Exception as e:
            errors.append(e)
        else:
            if revision != self._seen:
                await self._tell(errors)
            if not errors:
                self._seen = revision
        # A CancelledError may be the store's own, of a query that it gave up.
        if errors and self.running:
            self._failed(errors[0])
        elif self._is_failing and self.running:
            self._is_failing = False
            self._log.info("changes of settings and keys are noticed again")

    async def _tell(self, errors: list[Exception]) -> None:
        for heard in self._listeners:
            try:
                await heard()
            except Exception as e:
                errors.append(e)

    def _failed(self, error: Exception) -> None:
        """Says so once, until it goes well again."""
        was_failing, self._is_failing = self._is_failing, True
        if was_failing:
            return
        if isinstance(error, Unavailable):
            self._log.warn("changes of settings and keys can't be noticed: {reason}", reason=error.text)
        else:
            text = "a change of settings or keys could not take effect everywhere; it is tried again"
            self._log.failure(text, failure=Failure(error))
