"""What happens in each app on this node, counted where it happens, and added up with the other nodes'.

Theory of operation
===================
Counting is an addition to a number of the app's :class:`~wsock.services.app_meter.AppMeter`, which whatever serves the
app holds. Once a second what changed is taken as samples and added to the store, a part of time each: the minute, the
hour, the day and the month. A flush is numbered. When it is not known whether it arrived, the very same one is
repeated, and the store adds it once; meanwhile the counting goes on. So nothing is lost by an outage, and a crash
loses the last second.

Connections are no sum: each node reports how many it has, and a report that is not renewed is soon forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.errors import Unavailable
from wsock.interfaces import IMeterStore, NodeReport, Sample
from wsock.measures import Span
from wsock.services.app_meter import AppMeter, AppMeters

__all__ = ["REPORT_SECONDS", "Kept", "Meters"]

REPORT_SECONDS = 15.0
"""How long a node's report counts."""

_FLUSH_SECONDS = 1.0
_SOON_SECONDS = 0.01
_RENEW_SECONDS = 5.0
_IDLE_SECONDS = 120.0
_SAMPLES = 500
_FORGET_SECONDS = 3600.0
_EXPIRED_AT_ONCE = 500
_CLAIMS_SECONDS = 40 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """For how many days the parts of each span are kept; months are kept for ever."""

    minutes: float = 2.0
    hours: float = 90.0
    days: float = 730.0


@dataclass(frozen=True, slots=True)
class _Flush:
    """Samples on their way to the store."""

    number: int
    at: int
    samples: list[Sample]


class Meters(AppMeters, Service):
    """The meters of all apps on this node.

    ``incarnation`` names this process, unlike any other. ``is_alone``: there are no other nodes, and nothing is
    reported. After each flush ``looks`` are awaited: they read what all nodes have counted by then.
    """

    _log = Logger()

    def __init__(
        self,
        store: IMeterStore,
        clock: IReactorTime,
        now: Callable[[], float],
        incarnation: str,
        *,
        is_alone: bool = True,
        kept: Kept | None = None,
    ) -> None:
        super().__init__(clock.seconds)
        self._store = store
        self._clock = clock
        self._now = now
        self._incarnation = incarnation
        self._kept = kept or Kept()
        self.is_alone = is_alone
        self.looks: list[Callable[[int], Awaitable[None]]] = []
        self._others: dict[str, NodeReport] = {}
        self._elsewhere: dict[str, int] = {}
        self._reported: dict[str, int] = {}
        self._reported_at = 0.0
        self._flushes: deque[_Flush] = deque()
        self._last_number = 0
        self._waiting: list[Deferred[None]] = []
        self._running: Deferred[None] | None = None
        self._soon: IDelayedCall | None = None
        self._expire_at: float | None = None
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = clock

    # Connections of the cluster.

    @property
    def nodes(self) -> int:
        """How many nodes there are, this one included."""
        return 1 + len(self._others)

    def elsewhere(self, app: str) -> int:
        """Connections that other nodes report."""
        return self._elsewhere.get(app, 0)

    def connections(self, app: str) -> int:
        """Connections of the app on all nodes: here as of now, elsewhere as of a second ago."""
        meter = self.known.get(app)
        return self.elsewhere(app) + (meter.connections if meter is not None else 0)

    def unreported(self, meter: AppMeter) -> int:
        """Connections that came to this node and that the others have not been told of."""
        return max(0, meter.connections - self._reported.get(meter.app, 0))

    # Flushing.

    def startService(self) -> None:
        """Begins to flush."""
        super().startService()
        self._ticking.start(_FLUSH_SECONDS, now=False)

    def stopService(self) -> Deferred[None]:
        """Fires when what was counted up to now is stored, or can't be."""
        super().stopService()
        if self._ticking.running:
            self._ticking.stop()
        if self._soon is not None and self._soon.active():
            self._soon.cancel()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        try:
            await self.flush()
            if not self.is_alone:
                await self._store.withdraw(self._incarnation)
        except Unavailable as e:
            self._log.warn("what was counted since the last flush is lost: {reason}", reason=e.text)

    def flush(self) -> Deferred[None]:
        """Fires when all that was counted up to now is stored, and fails with :class:`Unavailable` otherwise."""
        stored: Deferred[None] = Deferred()
        self._waiting.append(stored)
        if self._running is None:
            self._running = Deferred.fromCoroutine(self._run())
            if self._running.called:
                self._running = None
        return stored

    def flush_soon(self) -> None:
        """Flushes before the next tick: somebody has to know what all nodes have counted."""
        if self._soon is None or not self._soon.active():
            self._soon = self._clock.callLater(_SOON_SECONDS, self._start_flush)

    def _tick(self) -> None:
        if self._running is None:
            self._start_flush()

    def _start_flush(self) -> None:
        # The store has said in the log that it is away; what was counted is kept for the next flush.
        self.flush().addErrback(lambda failure: failure.trap(Unavailable) and None)

    async def _run(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                await self._flush()
            except Exception as e:
                failure = Failure()
                if not isinstance(e, Unavailable | CancelledError):
                    self._log.failure("a flush of the meters failed; the next one repeats it", failure=failure)
                    failure = Failure(Unavailable("the meters can't be stored now"))
                for stored in waiting:
                    stored.errback(failure)
            else:
                for stored in waiting:
                    stored.callback(None)
        self._running = None

    async def _flush(self) -> None:
        at = int(self._now() * 1000)
        try:
            await self._report(at)
            await self._store_samples(at)
        finally:
            for look in self.looks:
                await look(at)
        self._forget_idle()

    async def _store_samples(self, at: int) -> None:
        """What is left of the last flush goes first, as it was."""
        if not self._flushes:
            self._take(at)
            await self._add()
            return
        await self._add()
        self._take(at)
        await self._add()

    async def _add(self) -> None:
        while self._flushes:
            flush = self._flushes[0]
            await self._store.add(self._incarnation, flush.number, flush.at, flush.samples)
            self._flushes.popleft()
            for sample in flush.samples:
                self._added(sample)

    def _added(self, sample: Sample) -> None:
        meter = self.known.get(sample.app)
        if meter is not None and meter.quota is not None:
            meter.quota.added(sample)

    def _take(self, at: int) -> None:
        minute = Span.MINUTE.start(at)
        taken = [meter.take(minute, self.elsewhere(meter.app)) for meter in self.known.values()]
        samples = [sample for sample in taken if sample is not None]
        for start in range(0, len(samples), _SAMPLES):
            # Larger than any before it, and not small again when the process is another one with this name.
            self._last_number = max(self._last_number + 1, at)
            some = samples[start : start + _SAMPLES]
            self._flushes.append(_Flush(self._last_number, at, some))
            for sample in some:
                self._took(sample)

    def _took(self, sample: Sample) -> None:
        quota = self.known[sample.app].quota
        if quota is not None:
            quota.took(sample)

    def _forget_idle(self) -> None:
        now = self._clock.seconds()
        for meter in self.meters():
            if not meter.is_idle:
                meter.idle_since = None
            elif meter.idle_since is None:
                meter.idle_since = now
            elif now - meter.idle_since >= _IDLE_SECONDS:
                del self.known[meter.app]

    # Other nodes.

    async def _report(self, at: int) -> None:
        if self.is_alone:
            return
        mine = {meter.app: meter.connections for meter in self.known.values() if meter.connections}
        now = self._clock.seconds()
        if mine != self._reported or not 0 <= now - self._reported_at < _RENEW_SECONDS:
            await self._store.report(NodeReport(self._incarnation, at, mine))
            self._reported, self._reported_at = mine, now
        reports = await self._store.reports(at - int(REPORT_SECONDS * 1000))
        self._others = {report.node: report for report in reports if report.node != self._incarnation}
        self._elsewhere = {}
        for report in self._others.values():
            for app, count in report.connections.items():
                self._elsewhere[app] = self._elsewhere.get(app, 0) + count

    # Keeping.

    async def expire(self) -> None:
        """Deletes what has been kept long enough, some at a time; once an hour, however often it is called."""
        now = self._now()
        if self._expire_at is not None and abs(now - self._expire_at) < _FORGET_SECONDS:
            return
        kept = {Span.MINUTE: self._kept.minutes, Span.HOUR: self._kept.hours, Span.DAY: self._kept.days}
        for span, days in kept.items():
            before = int((now - days * 86_400) * 1000)
            while await self._store.expire(span, before, _EXPIRED_AT_ONCE) == _EXPIRED_AT_ONCE:
                pass
        await self._store.forget(int((now - _FORGET_SECONDS) * 1000), int((now - _CLAIMS_SECONDS) * 1000))
        self._expire_at = now
