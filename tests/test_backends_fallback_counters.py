"""Tests of wsock.backends.fallback_counters."""

from __future__ import annotations

from twisted.internet.testing import EventLoggingObserver
from twisted.logger import LogLevel, globalLogPublisher
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase, TestCase
from wsock.backends.fallback_counters import FallbackCounters
from wsock.backends.memory_counters import MemoryCounters
from wsock.errors import Unavailable
from wsock.interfaces import ICounters, Lease
from wsock.testing.contracts.counters import START, CountersContract


@implementer(ICounters)
class SometimesAway:
    """Counters whose store may be away."""

    def __init__(self) -> None:
        self.counters = MemoryCounters()
        self.is_away = False

    async def hit(self, key: str, limit: int, window_seconds: float, now: float) -> float:
        self._require()
        return await self.counters.hit(key, limit, window_seconds, now)

    async def lease(self, app: str, key: str, limit: int, window_seconds: float, wanted: int, now: float) -> Lease:
        self._require()
        return await self.counters.lease(app, key, limit, window_seconds, wanted, now)

    def _require(self) -> None:
        if self.is_away:
            raise Unavailable("the counters are away")


class FallbackCountersTests(CountersContract, TestCase):
    """They are ICounters, while the shared ones are there."""

    async def make_counters(self) -> FallbackCounters:
        return FallbackCounters(SometimesAway(), MemoryCounters())


class FallbackCountersAwayTests(CountersContract, TestCase):
    """They are ICounters, while the shared ones are away."""

    async def make_counters(self) -> FallbackCounters:
        shared = SometimesAway()
        shared.is_away = True
        return FallbackCounters(shared, MemoryCounters())


class OutageTests(SynchronousTestCase):
    """What happens in between."""

    def setUp(self) -> None:
        self.shared = SometimesAway()
        self.counters = FallbackCounters(self.shared, MemoryCounters())
        self.observer = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)  # type: ignore[arg-type]  # any test case has addCleanup

    def hits(self, number: int) -> int:
        """So many are admitted."""
        return sum(not self.successResultOf(self.counters.hit("key", 5, 10, START)) for _ in range(number))

    def test_all_of_the_limit(self) -> None:
        """In an outage this node allows all of the limit, and no more; what was shared counts again after it."""
        verifyObject(ICounters, self.shared)
        self.assertEqual(self.hits(3), 3)
        self.shared.is_away = True
        self.assertEqual(self.hits(10), 5)
        self.shared.is_away = False
        self.assertEqual(self.hits(10), 2)

    def test_said_once(self) -> None:
        """The log has one line for each outage."""
        for _ in range(2):
            self.shared.is_away = True
            self.hits(5)
            self.successResultOf(self.counters.lease("app", "key", 5, 10, 1, START))
            self.shared.is_away = False
            self.hits(5)

        said = [event["reason"] for event in self.observer if event["log_level"] is LogLevel.warn]
        self.assertEqual(said, ["the counters are away"] * 2)
