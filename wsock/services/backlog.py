"""Watches how much waits to be persisted: for the metrics, and for a word in the log before publishes are refused."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from wsock.errors import Unavailable
from wsock.interfaces import IWorkQueue

__all__ = ["Backlog"]

_SECONDS = 5.0


class Backlog(Service):
    """The work that waits in the queues: ``length`` entries when it was last looked at.

    ``bound`` is where publishes are refused; half of it is worth a warning, once until it is below again.
    """

    _log = Logger()

    def __init__(self, queues: Sequence[IWorkQueue], bound: int, clock: IReactorTime) -> None:
        self._queues = queues
        self._bound = bound
        self._loop = LoopingCall(self._start_look)
        self._loop.clock = clock
        self._looking: Deferred[LoopingCall] | None = None
        self._is_high = False
        self.length = 0

    def startService(self) -> None:
        """Begins to look."""
        super().startService()
        if self._queues:
            self._looking = self._loop.start(_SECONDS, now=False)

    def stopService(self) -> Deferred[LoopingCall] | None:
        """Ends; fires when no look is under way."""
        super().stopService()
        looking, self._looking = self._looking, None
        if self._loop.running:
            self._loop.stop()
        return looking

    def _start_look(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._look())

    async def _look(self) -> None:
        """Never raises, since a LoopingCall ends for good with the first exception."""
        try:
            lengths = [await queue.length() for queue in self._queues]
        except Unavailable:
            # Redis is away, which its connections have said.
            return
        except Exception:
            self._log.failure("the length of a queue could not be had")
            return
        self.length = sum(lengths)
        longest = max(lengths)
        if longest > self._bound // 2 and not self._is_high:
            self._is_high = True
            self._log.warn(
                "{length} messages wait to be persisted; at {bound} publishes are refused (redis.backlog): the"
                " database is away or too slow",
                length=longest,
                bound=self._bound,
            )
        elif longest < self._bound // 4 and self._is_high:
            self._is_high = False
            self._log.info("only {length} messages wait to be persisted now", length=longest)
