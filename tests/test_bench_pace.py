"""Tests for :mod:`wsock.bench.pace`."""

from __future__ import annotations

from io import StringIO

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from tests.bench_nets import Shown
from wsock.bench.pace import Pace, TextProgress


class PaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.shown = Shown()
        self.pace = Pace(self.clock, self.shown)

    def test_spends(self) -> None:
        """It takes as long as it is told to, and shows how far it is."""
        spending = Deferred.fromCoroutine(self.pace.spend("fanout", "measuring", 1.0))
        self.clock.pump([0.2] * 4)
        self.assertNoResult(spending)
        self.clock.pump([0.2, 0.2])

        self.successResultOf(spending)
        self.assertEqual(self.shown.phases, ["fanout: measuring"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_interrupted(self) -> None:
        """An interruption ends the waiting at once, and all that follows; what must be waited for is."""
        spending = Deferred.fromCoroutine(self.pace.spend("fanout", "measuring", 1.0))
        self.pace.interrupt()
        self.successResultOf(spending)
        self.successResultOf(Deferred.fromCoroutine(self.pace.spend("fanout", "measuring", 1.0)))
        self.assertEqual(self.clock.getDelayedCalls(), [])

        waiting = Deferred.fromCoroutine(self.pace.wait(1.0))
        self.assertNoResult(waiting)
        self.clock.advance(1)
        self.successResultOf(waiting)


class TextProgressTests(SynchronousTestCase):
    def shown(self, is_terminal: bool) -> str:
        """What two steps of one phase and one of another show."""
        out = StringIO()
        progress = TextProgress(out, is_terminal)
        progress.show("fanout", "subscribing", 0.5)
        progress.show("fanout", "subscribing", 1.5)
        progress.show("fanout", "measuring", 0.0)
        progress.clear()
        return out.getvalue()

    def test_terminal(self) -> None:
        """A terminal has a bar that grows, and is gone in the end."""
        text = self.shown(True)

        self.assertIn("\rfanout       [###############               ] subscribing", text)
        self.assertIn(f"[{'#' * 30}]", text)
        self.assertTrue(text.endswith(" \r"))
        self.assertNotIn("\n", text)

    def test_file(self) -> None:
        """A file has a line for each phase."""
        self.assertEqual(self.shown(False), "fanout: subscribing\nfanout: measuring\n")
