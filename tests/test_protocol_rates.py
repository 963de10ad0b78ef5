"""Tests of wsock.protocol.rates."""

from __future__ import annotations

from bisect import bisect_left

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.base import SynchronousTestCase
from wsock.protocol.rates import Rate, Rates, SlidingWindow


class RateTests(SynchronousTestCase):
    """What a rate means as a window."""

    def test_default_burst(self) -> None:
        """Without a burst, what the rate allows in a second comes at once, and one in any case."""
        found = [
            (rate.limit, round(rate.window_seconds, 6))
            for rate in (Rate(100), Rate(6000, 60.0), Rate(2.5), Rate(0.5), Rate(100, 60.0), Rate(3, 0.1))
        ]

        self.assertEqual(found, [(100, 1), (100, 1), (3, 1.2), (1, 2), (2, 1.2), (30, 1)])

    def test_burst(self) -> None:
        """The burst decides how long the window is; the rate that lasts stays the same."""
        for burst in (1, 7, 100, 6000):
            rate = Rate(6000, 60.0, burst)
            self.assertEqual(rate.limit, burst)
            self.assertAlmostEqual(rate.limit / rate.window_seconds, 100)

    @given(st.floats(0.001, 1e6), st.floats(0.01, 86_400), st.integers(0, 10**6))
    def test_rate_that_lasts(self, events: float, seconds: float, burst: int) -> None:
        """Whatever the burst, the window allows the rate."""
        rate = Rate(events, seconds, burst)

        self.assertGreaterEqual(rate.limit, 1)
        self.assertAlmostEqual(rate.limit / rate.window_seconds / (events / seconds), 1)


class RatesTests(SynchronousTestCase):
    def test_channels(self) -> None:
        """The first pattern that matches counts; a channel that none matches has no rate."""
        rates = Rates(channels=(("chat:vip", Rate(1)), ("chat:*", Rate(2))))

        self.assertEqual(rates.channel("chat:vip"), Rate(1))
        self.assertEqual(rates.channel("chat:other"), Rate(2))
        self.assertIsNone(rates.channel("news"))


class SlidingWindowTests(SynchronousTestCase):
    """Counts; what they are held to besides is in the contract of the counters."""

    @settings(max_examples=50)
    @given(
        st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 30)), max_size=200),
        st.integers(1, 300),
        st.floats(0.1, 5),
    )
    def test_no_window_has_more(self, steps: list[tuple[float, int]], limit: int, seconds: float) -> None:
        """Whatever is asked for and when: a window has the limit at most, and a group more beyond 128.

        What comes late to take the room that others left may be early next time, by a 32nd of the window.
        """
        window, now, times = SlidingWindow(), 1000.0, list[float]()
        for step, wanted in steps:
            now += step
            taken = window.take(wanted, limit, seconds, now)
            self.assertLessEqual(taken, wanted)
            times += [now] * taken
            self.assertLessEqual(len(window), 129 * 5 // 4 + 2)

        slack = 0 if limit <= 128 else -(-limit // 128) - 1
        most = max((bisect_left(times, t + seconds * 31 / 32 * (1 - 1e-9)) - n for n, t in enumerate(times)), default=0)
        self.assertLessEqual(most, limit + slack)

    @settings(max_examples=50)
    @given(st.lists(st.floats(0, 0.5), max_size=200), st.integers(1, 300), st.floats(0.1, 5))
    def test_wait(self, steps: list[float], limit: int, seconds: float) -> None:
        """There is room when the wait is over, and never later than a window."""
        window, now = SlidingWindow(), 1000.0
        for step in steps:
            now += step
            if not window.take(1, limit, seconds, now):
                wait = window.wait(limit, seconds, now)
                self.assertTrue(0 < wait <= seconds)
                now += wait + 1e-6
                self.assertEqual(window.take(1, limit, seconds, now), 1)

    def test_own_clock(self) -> None:
        """Whoever asks at moments of its own gets the limit in each window, and misses no turn."""
        for tick, number in ((0.1, 20), (0.0999, 20), (0.1001, 20), (0.01, 2), (0.013, 4), (0.25, 50)):
            window, now, taken = SlidingWindow(), 1_700_000_000.0, 0
            for _ in range(round(29.5 / tick)):
                taken += sum(window.take(1, 100, 1.0, now) for _ in range(number))
                now += tick
            self.assertLess(abs(taken - 2950), 2950 * 0.03, tick)

    def test_room(self) -> None:
        """While there is room there is nothing to wait for."""
        window = SlidingWindow()
        window.take(1, 2, 10, 0.0)

        self.assertEqual(window.wait(2, 10, 0.0), 0)
        self.assertEqual(window.wait(0, 10, 0.0), 10)
