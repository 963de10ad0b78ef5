"""Tests of wsock.backends.memory_counters."""

from __future__ import annotations

from tests.base import SynchronousTestCase, TestCase
from wsock.backends.memory_counters import MemoryCounters
from wsock.testing.contracts.counters import START, CountersContract


class MemoryCountersTests(CountersContract, TestCase):
    """Counters in memory are ICounters."""

    async def make_counters(self) -> MemoryCounters:
        return MemoryCounters()


class MemoryOfCountersTests(SynchronousTestCase):
    """What they keep."""

    def hit(self, counters: MemoryCounters, key: str, now: float, *, limit: int = 10, window: float = 10) -> float:
        wait: float = self.successResultOf(counters.hit(key, limit, window, START + now))
        return wait

    def test_idle_keys_are_forgotten(self) -> None:
        """Keys whose events have left the window go as others come."""
        counters = MemoryCounters()
        for n in range(1000):
            self.hit(counters, f"key-{n}", 0)
        for n in range(1000):
            self.hit(counters, "busy", 11 + n / 100)

        self.assertEqual(len(counters), 1)

    def test_busy_keys_are_kept(self) -> None:
        """A key with events in its window keeps its count, for how long it may have been known."""
        counters = MemoryCounters()
        for n in range(30):
            self.hit(counters, "busy", float(n))
            self.hit(counters, "other", float(n), window=0.5)

        self.assertEqual(len(counters), 2)
        self.assertGreater(self.hit(counters, "busy", 29), 0)

    def test_windows_of_different_lengths(self) -> None:
        """A key with a long window does not keep those behind it."""
        counters = MemoryCounters()
        self.hit(counters, "long", 0, window=3600)
        for n in range(100):
            self.hit(counters, f"short-{n}", 0, window=1)
        for _ in range(100):
            self.hit(counters, "long", 5, limit=1, window=3600)

        self.assertEqual(len(counters), 1)

    def test_number_of_keys_is_bounded(self) -> None:
        """Where there are too many keys, those go whose windows end first."""
        counters = MemoryCounters(max_keys=100)
        for _ in range(10):
            self.hit(counters, "long", 0, window=3600)
        for n in range(10_000):
            self.hit(counters, f"key-{n}", n / 10_000)

        self.assertEqual(len(counters), 100)
        self.assertEqual(len(counters._ends), 100)
        self.assertGreater(self.hit(counters, "long", 1, window=3600), 0)

    def test_key_is_small_whatever_its_limit(self) -> None:
        """A key with a limit of many has no more than 129 groups."""
        counters = MemoryCounters()
        for n in range(100_000):
            self.hit(counters, "key", n / 10_000, limit=50_000, window=1)

        self.assertLessEqual(len(counters._windows["key"]), 129)

    def test_one_time_too_many_at_most(self) -> None:
        """A window has less than one group too many, whatever its events are."""
        counters = MemoryCounters()
        early = sum(not self.hit(counters, "key", 0.0 if not n else 9.99, limit=1280) for n in range(1400))
        late = sum(not self.hit(counters, "key", 10.0, limit=1280) for n in range(1400))

        self.assertEqual(early, 1280)
        self.assertEqual(late, 10)
