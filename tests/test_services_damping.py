"""Tests of wsock.services.damping."""

from __future__ import annotations

from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from wsock.services.damping import Damping


class DampingTests(SynchronousTestCase):
    """Ends are held back for 3 s."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.told: list[str] = []
        self.damping: Damping[str, str] = Damping(self.clock, 3.0, self.told.append)

    def test_told_in_order(self) -> None:
        """An end is told when its time has come, those of before first."""
        self.damping.ended("a", "end of a")
        self.clock.advance(1)
        self.damping.ended("b", "end of b")
        self.clock.advance(1.9)
        self.assertEqual(self.told, [])
        self.clock.advance(0.1)
        self.assertEqual(self.told, ["end of a"])
        self.clock.advance(1)

        self.assertEqual(
            (self.told, len(self.damping), self.clock.getDelayedCalls()), (["end of a", "end of b"], 0, [])
        )

    def test_not_before(self) -> None:
        """What ended a moment later is told a moment later."""
        self.damping.ended("a", "a")
        self.clock.advance(0.5)
        self.damping.ended("b", "b")
        self.clock.advance(2.5)
        self.assertEqual(self.told, ["a"])
        self.clock.advance(0.5)

        self.assertEqual(self.told, ["a", "b"])

    def test_taken_back(self) -> None:
        """What begins again in time has not ended; what begins later has."""
        self.damping.ended("a", "end of a")
        self.clock.advance(2.9)
        self.assertEqual(self.damping.began("a"), "end of a")
        self.clock.advance(10)
        self.assertEqual(self.told, [])

        self.damping.ended("a", "again")
        self.clock.advance(3)
        self.assertEqual((self.damping.began("a"), self.told), (None, ["again"]))

    def test_later_end_counts(self) -> None:
        """What ends again before its end was told is held from then on."""
        self.damping.ended("a", "first")
        self.damping.ended("b", "b")
        self.clock.advance(2)
        self.damping.ended("a", "second")
        self.clock.advance(1)
        self.assertEqual(self.told, ["b"])
        self.clock.advance(2)

        self.assertEqual(self.told, ["b", "second"])

    def test_flush(self) -> None:
        """Nobody comes back any more: all is told at once, and nothing later."""
        self.damping.ended("a", "a")
        self.damping.ended("b", "b")

        self.damping.flush()

        self.assertEqual((self.told, self.clock.getDelayedCalls()), (["a", "b"], []))
        self.damping.ended("c", "c")
        self.clock.advance(3)
        self.assertEqual(self.told, ["a", "b", "c"])

    def test_without(self) -> None:
        """With 0 s nothing is held back."""
        damping: Damping[str, str] = Damping(self.clock, 0, self.told.append)

        damping.ended("a", "a")

        self.assertEqual((self.told, self.clock.getDelayedCalls()), (["a"], []))
