"""What every :class:`wsock.interfaces.ICounters` is held to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from wsock.interfaces import ICounters, Lease

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

__all__ = ["CountersContract"]

START = 1_700_000_000.0
TOLERANCE = 0.03


class CountersContract(TestCase):
    """Mix it in and provide ``make_counters``, which makes counters that counted nothing yet.

    Counts may be wrong by 3 % where the limit is 100 or more; below that, by one.
    """

    make_counters: Callable[[], Awaitable[ICounters]]
    counters: ICounters

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        """Makes what is tested."""
        self.counters = await self.make_counters()

    async def admitted(self, times: Iterable[float], limit: int, window: float, key: str = "key") -> list[float]:
        """Those of the times at which there was room."""
        return [t for t in times if not await self.counters.hit(key, limit, window, START + t)]

    def assert_about(self, count: int, expected: float) -> None:
        """The count is right within the tolerance."""
        self.assertLessEqual(abs(count - expected), max(expected * TOLERANCE, 1), f"{count}, not {expected}")

    async def test_provides_the_interface(self) -> None:
        """The counters have the method of ICounters, with its arguments."""
        verifyObject(ICounters, self.counters)

    async def test_up_to_the_limit(self) -> None:
        """So many as the limit are admitted at once, and not one more."""
        for limit in (1, 2, 10, 100, 1000):
            admitted = await self.admitted([0.0] * (limit + 5), limit, 10, key=f"key-{limit}")
            self.assertEqual(len(admitted), limit)

    async def test_says_how_long_to_wait(self) -> None:
        """Who waits as long as it is told is admitted; a refused event counts for nothing."""
        for t in (0.0, 1.0, 2.0):
            self.assertEqual(await self.counters.hit("key", 3, 10, START + t), 0)

        wait = await self.counters.hit("key", 3, 10, START + 4)
        self.assertAlmostEqual(wait, 6, delta=0.4)
        for t in (5.0, 6.0, 7.0):
            self.assertGreater(await self.counters.hit("key", 3, 10, START + t), 0)
        self.assertEqual(await self.counters.hit("key", 3, 10, START + 4 + wait + 0.001), 0)

    async def test_wait_is_enough_for_large_limits(self) -> None:
        """The wait is right where not every event is remembered by itself."""
        await self.admitted([n / 1000 for n in range(1000)], 1000, 10)

        wait = await self.counters.hit("key", 1000, 10, START + 2)
        self.assertGreater(wait, 0)
        self.assertLessEqual(wait, 8.4)
        self.assertEqual(await self.counters.hit("key", 1000, 10, START + 2 + wait + 0.001), 0)

    async def test_nothing_is_left_after_a_window(self) -> None:
        """A window later, all of the limit is there again."""
        await self.admitted([0.0] * 100, 100, 10)
        admitted = await self.admitted([10.5] * 150, 100, 10)

        self.assertEqual(len(admitted), 100)

    async def test_sustained_rate(self) -> None:
        """Whoever asks for a little more than the rate gets exactly the rate, in windows of any length."""
        for window in (0.5, 1.0, 2.5, 5.0):
            limit = int(100 * window)
            times = [n / 101 for n in range(int(101 * 29.5))]
            admitted = await self.admitted(times, limit, window, key=f"key-{window}")
            self.assert_about(len(admitted), 2950)

    async def test_sustained_rate_of_one_that_asks_far_too_often(self) -> None:
        """Refusals take nothing away: ten times too many requests get the limit in each window."""
        for window in (1.0, 3.0, 10.0):
            limit = int(50 * window)
            times = [n / 500 for n in range(500 * 30)]
            admitted = await self.admitted(times, limit, window, key=f"key-{window}")
            self.assert_about(len(admitted), 1500)

    async def test_sustained_rate_below_the_limit(self) -> None:
        """Whoever keeps below the rate is never refused."""
        times = [n / 99 for n in range(99 * 20)]

        self.assertEqual(len(await self.admitted(times, 100, 1.0)), len(times))

    async def test_no_window_has_more(self) -> None:
        """Wherever a window begins, no more than the limit was admitted in it; bursts at its ends do not help."""
        limit, window = 200, 10.0
        bursts = [at for at in (0.0, 4.9, 9.8, 9.99, 10.01, 14.95, 19.9, 20.1, 25.0) for _ in range(limit)]
        steady = [n / 37 for n in range(37 * 30)]
        admitted = await self.admitted(sorted(bursts + steady), limit, window)

        # Just short of the whole window, since one that is as long may have both ends.
        most = max(bisect_right(admitted, t + window - 0.001) - n for n, t in enumerate(admitted))
        self.assertLessEqual(most, limit * (1 + TOLERANCE))

    async def test_late_burst_is_not_forgotten_early(self) -> None:
        """One early event does not take a burst behind it out of the window."""
        await self.admitted([0.0] + [9.0] * 99, 100, 10)
        admitted = await self.admitted([10.5] * 100, 100, 10)

        self.assertLessEqual(len(admitted), 1 + 100 * TOLERANCE)

    async def test_keys_are_apart(self) -> None:
        """Each key has its own count: apps, addresses and users never meet."""
        await self.admitted([0.0] * 10, 10, 10, key="app-a")

        self.assertEqual(len(await self.admitted([0.0] * 20, 10, 10, key="app-b")), 10)

    async def test_limit_may_change(self) -> None:
        """A new limit counts what was admitted under the old one."""
        await self.admitted([0.0] * 10, 10, 10)

        self.assertEqual(len(await self.admitted([1.0] * 20, 15, 10)), 5)
        wait = await self.counters.hit("key", 5, 10, START + 2)
        self.assertGreater(wait, 7.5)
        self.assertLessEqual(wait, 9.5)

    async def test_limit_of_nothing(self) -> None:
        """With no room at all there is a wait, whether the key is known or not."""
        self.assertGreater(await self.counters.hit("key", 0, 10, START), 0)
        await self.admitted([0.0], 1, 10)
        self.assertGreater(await self.counters.hit("key", 0, 10, START), 0)

    async def test_clock_set_back(self) -> None:
        """A wall clock that is set back does not lock anybody out for longer than a window."""
        await self.admitted([0.0] * 10, 10, 10)

        self.assertLessEqual(await self.counters.hit("key", 10, 10, START - 3600), 10.5)
        self.assertEqual(await self.counters.hit("key", 10, 10, START - 3600 + 11), 0)

    # Leases.

    async def lease(
        self, wanted: int, at: float, limit: int = 10, window: float = 10, *, app: str = "app", key: str = "key"
    ) -> Lease:
        """A lease at this time."""
        return await self.counters.lease(app, key, limit, window, wanted, START + at)

    async def test_lease(self) -> None:
        """What is wanted is granted while there is room; then what there is; then nothing, and how long to wait."""
        self.assertEqual(await self.lease(4, 0), Lease(4, 0.0))
        last = await self.lease(7, 4)
        refused = await self.lease(1, 5)

        self.assertEqual((last.granted, refused.granted), (6, 0))
        self.assertAlmostEqual(last.wait, 6, delta=0.01)
        self.assertAlmostEqual(refused.wait, 5, delta=0.01)

    async def test_lease_after_the_wait(self) -> None:
        """Whoever waits as long as it is told is granted what left the window by then."""
        await self.lease(4, 0)
        await self.lease(6, 1)
        wait = (await self.lease(1, 2)).wait

        self.assertEqual(await self.lease(5, 2 + wait - 0.001), Lease(0, await self._wait_at(2 + wait - 0.001)))
        self.assertEqual((await self.lease(5, 2 + wait + 0.001)).granted, 4)

    async def _wait_at(self, at: float) -> float:
        return (await self.lease(1, at)).wait

    async def test_leases_add_up(self) -> None:
        """Leases of all sizes together get the limit of each window, for large limits too."""
        for limit in (7, 100, 1000, 10_000):
            granted = 0
            for n in range(3000):
                granted += (await self.lease(1 + n % 13, n / 100, limit, 10, key=f"key-{limit}")).granted
            self.assert_about(granted, min(3 * limit, 3000 * 7))

    async def test_large_lease(self) -> None:
        """A lease may be as large as the limit, and is gone a window later."""
        self.assertEqual((await self.lease(5000, 0, 1000)).granted, 1000)
        self.assertEqual((await self.lease(1, 9.9, 1000)).granted, 0)
        self.assertEqual((await self.lease(5000, 10.1, 1000)).granted, 1000)

    async def test_leases_are_apart(self) -> None:
        """Apps never meet, nor do keys, nor what is leased and what is hit."""
        await self.lease(10, 0)

        self.assertEqual((await self.lease(10, 0, app="other")).granted, 10)
        self.assertEqual((await self.lease(10, 0, key="other")).granted, 10)
        self.assertEqual(await self.counters.hit("key", 1, 10, START), 0)
        self.assertEqual(await self.counters.hit("app:key", 1, 10, START), 0)

    async def test_many_leases_at_once(self) -> None:
        """Leases that are asked for without waiting are granted in that order."""
        asked = [Deferred.fromCoroutine(self.lease(3, 0, 1000, key=f"key-{n % 2}")) for n in range(700)]

        granted = [(await lease).granted for lease in asked]

        self.assertEqual(granted[:666], [3] * 666)
        self.assertEqual(granted[666:668], [1, 1])
        self.assertEqual(sum(granted[668:]), 0)

    async def test_lease_under_another_limit(self) -> None:
        """A new limit counts what was leased under the old one."""
        await self.lease(10, 0)

        self.assertEqual((await self.lease(20, 1, 15)).granted, 5)
        self.assertEqual((await self.lease(20, 2, 5)).granted, 0)
        self.assertEqual((await self.lease(20, 2, 0)).granted, 0)

    async def test_lease_after_the_clock_was_set_back(self) -> None:
        """A wall clock that is set back does not lock anybody out for longer than a window."""
        await self.lease(10, 0)

        self.assertLessEqual((await self.lease(1, -3600)).wait, 10)
        self.assertEqual((await self.lease(1, -3600 + 11)).granted, 1)
