"""Tests of wsock.services.probe."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.test.proto_helpers import EventLoggingObserver

from tests.base import SynchronousTestCase
from wsock.measures import Histogram
from wsock.services.probe import ReactorProbe


class ProbeTests(SynchronousTestCase):
    """The reactor is a Clock, which takes no time for anything; what the work of a test takes, it says itself."""

    def setUp(self) -> None:
        self.seen = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)  # type: ignore[arg-type]  # Twisted's type is too narrow
        self.clock = Clock()
        self.late = self.cpu = 0.0
        self.probe = ReactorProbe(self.clock, self.monotonic, lambda: self.cpu)
        self.probe.startService()

    def monotonic(self) -> float:
        return self.clock.seconds() + self.late

    def work(self, seconds: float, *, computing: float = 0.0) -> None:
        """Keeps the reactor busy, from now on."""
        self.late += seconds
        self.cpu += computing

    def observed(self, histogram: Histogram) -> dict[float, int]:
        """How many values are in the bucket with this bound, where there are any."""
        bounds = (*histogram.bounds, float("inf"))
        return {bound: count for bound, count in zip(bounds, histogram.counts, strict=True) if count}

    def warnings(self) -> list[str]:
        """What was warned of."""
        return [formatEvent(event) for event in self.seen if event["log_level"] is LogLevel.warn]

    def test_idle(self) -> None:
        """An idle reactor has neither lag nor long turns, ten times a second."""
        self.clock.pump([0.1] * 10)

        self.assertEqual((self.observed(self.probe.lag), self.observed(self.probe.turns)), ({0.0005: 10}, {0.0005: 10}))
        self.assertLess(self.probe.longest, 0.0005)
        self.assertEqual(self.warnings(), [])

    def test_lag(self) -> None:
        """What keeps the reactor busy while the timer is due makes it late."""
        self.work(0.2)

        self.clock.advance(0.1)

        self.assertEqual(self.observed(self.probe.lag), {0.25: 1})
        self.assertAlmostEqual(self.probe.longest, 0.2)

    def test_turn(self) -> None:
        """What happens in the turn in which the timer fires is measured as that turn."""
        self.clock.callLater(0.1, self.work, 0.3)
        self.clock.advance(0.1)

        self.assertEqual((self.observed(self.probe.lag), self.observed(self.probe.turns)), ({0.0005: 1}, {0.5: 1}))
        self.assertAlmostEqual(self.probe.longest, 0.3)

    def test_longest_is_forgotten(self) -> None:
        """A minute later the longest pause is past."""
        self.work(0.5)
        self.clock.advance(0.1)
        self.assertAlmostEqual(self.probe.longest, 0.5)

        self.clock.pump([0.1] * 601)

        self.assertLess(self.probe.longest, 0.0005)

    def test_clock_put_forward(self) -> None:
        """The reactor goes by the wall clock; when that is put forward, the timer is early, which is no lag."""
        self.work(-3600.0)
        self.clock.advance(3600.0)

        self.assertEqual((self.observed(self.probe.lag), self.probe.lag.total), ({0.0005: 1}, 0.0))
        self.assertEqual(self.warnings(), [])

    def test_computing(self) -> None:
        """A pause of a second or more is warned of; when it was spent computing, the warning says so."""
        self.work(1.4, computing=1.2)

        self.clock.advance(0.1)

        self.assertEqual(
            self.warnings(),
            [
                "the reactor was busy for 1.4 s, and nobody was served: it computed for 1.2 s, so one piece of work is"
                " too large"
            ],
        )

    def test_waiting(self) -> None:
        """A pause that was not spent computing was spent waiting; it is found in the turn that is measured, too."""
        self.clock.callLater(0.1, self.work, 2.0, computing=0.1)

        self.clock.advance(0.1)

        [text] = self.warnings()
        self.assertIn("busy for 2.0 s", text)
        self.assertIn("it computed for 0.1 s only, and waited: for a disk", text)

    def test_warnings_are_rare(self) -> None:
        """One warning in half a minute tells of all."""
        for _ in range(3):
            self.work(1.5)
            self.clock.advance(0.1)
        self.assertEqual(len(self.warnings()), 1)

        self.work(30.0)
        self.clock.advance(0.1)

        self.assertEqual(len(self.warnings()), 2)
        self.assertTrue(self.warnings()[-1].endswith("; 2 more such pauses were not logged"))

    def test_cpu(self) -> None:
        """The CPU time is the thread's."""
        self.work(1.0, computing=0.7)

        self.assertEqual(self.probe.cpu_seconds, 0.7)

    def test_stop(self) -> None:
        """A stopped probe leaves no timer, and may be started again."""
        self.probe.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

        self.probe.startService()
        self.clock.advance(0.1)
        self.assertEqual(len(self.probe.lag), 1)

    def test_stop_before_start(self) -> None:
        """A probe that never began can be ended."""
        ReactorProbe(self.clock, self.monotonic, lambda: 0.0).stopService()
