"""Runs of several nodes that share a rate limit, for the tests of the limiter over any counters."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from wsock.backends.memory_counters import MemoryCounters
from wsock.errors import Refused
from wsock.interfaces import ICounters, Lease
from wsock.protocol.rates import Rate, Rates
from wsock.services.rates import RateLimiter

__all__ = ["LOADS", "SHORT", "WINDOWS", "CountingCounters", "RateRun", "SlowCounters", "Window"]

START = 1_700_000_000.0


@dataclass(frozen=True)
class Window:
    """A limit, and for how long it is exceeded: 2,950 are to come through."""

    rate: Rate
    run_seconds: float

    @property
    def most(self) -> int:
        """How many may come through in any window: 3 % more than the limit, of a small limit 3 more."""
        return self.rate.limit + max(3, ceil(self.rate.limit * 0.03))


WINDOWS = (
    Window(Rate(100), 29.5),
    Window(Rate(1000, 10.0), 29.5),
    Window(Rate(6000, 60.0), 29.5),
    # All of ten seconds may come at their beginning.
    Window(Rate(1000, 10.0, burst=1000), 29.5),
    # The same number of windows, of other lengths: 100 in each, which may come at its beginning.
    Window(Rate(100, 10.0, burst=100), 295),
    Window(Rate(100, 60.0, burst=100), 1770),
    # Shorter than a second; and a burst of some seconds.
    Window(Rate(50, 0.5, burst=50), 29.5),
    Window(Rate(100, burst=300), 29.5),
    # 60 a second, evenly and all of ten seconds at their beginning.
    Window(Rate(600, 10.0), 2950 / 60),
    Window(Rate(600, 10.0, burst=600), 2950 / 60),
)
SHORT = Window(Rate(100, burst=10), 29.5)
"""So short that a load must be well beyond the limit to use it up: else a window ends where nobody asks just then."""
LOADS: tuple[tuple[float, ...], ...] = (
    (2.0, 2.0),
    (1.9, 0.1),
    (0.505, 0.505),
    (0.5,) * 10,
    (2.0, *(0.02,) * 9),
)
"""What each node is offered, as a part of the limit."""


@implementer(ICounters)
class CountingCounters:
    """Passes on to other counters, counts the leases, and says how many answers are under way."""

    def __init__(self, counters: ICounters) -> None:
        self._counters = counters
        self.leases = 0
        self.under_way = 0

    async def hit(self, key: str, limit: int, window_seconds: float, now: float) -> float:
        """Passes it on."""
        return float(await self._counters.hit(key, limit, window_seconds, now))

    async def lease(self, app: str, key: str, limit: int, window_seconds: float, wanted: int, now: float) -> Lease:
        """Passes it on."""
        self.leases += 1
        self.under_way += 1
        try:
            return await self._counters.lease(app, key, limit, window_seconds, wanted, now)
        finally:
            self.under_way -= 1


@implementer(ICounters)
class SlowCounters:
    """Counts at once, and answers when it is told to; in order, as one connection does."""

    def __init__(self, counters: ICounters | None = None) -> None:
        self._counters = counters or MemoryCounters()
        self.held: list[Deferred[None]] = []
        self.wanted: list[tuple[str, int]] = []
        self.fails_with: Exception | None = None

    async def hit(self, key: str, limit: int, window_seconds: float, now: float) -> float:
        """Passes it on."""
        return float(await self._counters.hit(key, limit, window_seconds, now))

    async def lease(self, app: str, key: str, limit: int, window_seconds: float, wanted: int, now: float) -> Lease:
        """Answers when it is told to."""
        self.wanted.append((key, wanted))
        lease = await self._counters.lease(app, key, limit, window_seconds, wanted, now)
        held: Deferred[None] = Deferred()
        self.held.append(held)
        await held
        if self.fails_with is not None:
            raise self.fails_with
        return lease

    def answer(self, number: int = 1) -> None:
        """Answers the first that were asked."""
        for _ in range(number):
            self.held.pop(0).callback(None)

    def answer_all(self) -> None:
        """Answers until nobody asks any more."""
        while self.held:
            self.answer()


class RateRun:
    """Nodes that limit an app's publishes, on one clock. ``times`` are those of the publishes that came through.

    No time passes while an answer of the counters is under way; ``turn`` fires when one may have come.
    """

    def __init__(
        self,
        nodes: Sequence[ICounters],
        rate: Rate,
        app: str = "app",
        turn: Callable[[], Deferred[None]] = lambda: succeed(None),
    ) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.counters = [CountingCounters(counters) for counters in nodes]
        rates = Rates(app=rate)
        self.limiters = [RateLimiter(counters, self.clock.seconds, lambda _: rates) for counters in self.counters]
        self._app = app
        self._turn = turn
        self.times: list[float] = []
        self.waited = 0

    async def run(self, seconds: float, offered: Sequence[float]) -> int:
        """Each node is offered so many publishes a second; how many came through."""
        events = sorted((n / rate, node) for node, rate in enumerate(offered) for n in range(round(seconds * rate)))
        for at, node in events:
            self.clock.advance(max(START + at - self.clock.seconds(), 0))
            await self.publish(node)
        return len(self.times)

    async def publish(self, node: int = 0) -> Refused | None:
        """One publish at this moment; why it was refused."""
        try:
            waiting = self.limiters[node].admit(self._app, "room", "bob")
            while self.counters[node].under_way:
                await self._turn()
            if waiting is not None:
                self.waited += 1
                await waiting
        except Refused as e:
            return e
        self.times.append(self.clock.seconds())
        return None

    def most(self, seconds: float) -> int:
        """The most that came through in any time so long."""
        # Just short of it, since a time that is as long may have both ends.
        return max(bisect_left(self.times, t + seconds - 1e-6) - n for n, t in enumerate(self.times))
