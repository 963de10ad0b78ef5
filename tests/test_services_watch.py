"""Tests of wsock.services.watch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from wsock.errors import Unavailable
from wsock.services.watch import Watch


class WatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.number = 1
        self.reads = 0
        self.trouble: Exception | None = None
        self.slow: Deferred[None] | None = None
        self.heard: list[str] = []
        self.listener_trouble: dict[str, Exception] = {}
        self.watch = Watch(self.revision, self.clock)
        for name in ("first", "second"):
            self.watch.listen(self.listener(name))
        self.watch.startService()
        self.addCleanup(self.watch.stopService)
        self.heard.clear()

    async def revision(self) -> int:
        """The directory's."""
        self.reads += 1
        if self.slow is not None:
            await self.slow
        if self.trouble is not None:
            raise self.trouble
        return self.number

    def listener(self, name: str) -> Callable[[], Awaitable[None]]:
        """One that notes that it heard, and fails if it is to."""

        async def hear() -> None:
            self.heard.append(name)
            if name in self.listener_trouble:
                raise self.listener_trouble[name]

        return hear

    def test_change(self) -> None:
        """A change is told within half a second, once, in the order of the listeners."""
        self.clock.advance(0.5)
        self.assertEqual(self.heard, [])

        self.number += 1
        self.clock.advance(0.5)
        self.clock.pump([0.5] * 4)

        self.assertEqual(self.heard, ["first", "second"])

    def test_poke(self) -> None:
        """Who changed something need not wait; when it fires, everybody has heard."""
        self.number += 1

        self.successResultOf(self.watch.poke())

        self.assertEqual(self.heard, ["first", "second"])

    def test_poke_during_a_look(self) -> None:
        """A look that began before a change is followed by another one."""
        slow = self.slow = Deferred[None]()
        first = self.watch.poke()
        self.number += 1
        self.slow = None
        second = self.watch.poke()
        third = self.watch.poke()
        self.assertEqual(self.reads, 2)
        self.assertNoResult(first)

        slow.callback(None)

        for told in (first, second, third):
            self.successResultOf(told)
        self.assertEqual((self.reads, self.heard), (3, ["first", "second"]))

    def test_failed_look(self) -> None:
        """While the directory is away what was known stays, and it is tried again."""
        self.number += 1
        self.trouble = Unavailable("away")
        self.clock.pump([0.5] * 3)
        self.assertEqual(self.heard, [])

        self.trouble = None
        self.clock.advance(0.5)

        self.assertEqual(self.heard, ["first", "second"])

    def test_odd_failures(self) -> None:
        """Neither a bug nor a query that the store gave up ends the looking; a bug is logged once."""
        for trouble in (KeyError("bug"), KeyError("bug"), CancelledError()):
            self.trouble = trouble
            self.clock.advance(0.5)
        self.trouble = None
        self.number += 1
        self.clock.advance(0.5)

        self.assertEqual(self.heard, ["first", "second"])
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_failed_listener(self) -> None:
        """The others are told all the same, and all again until nobody fails: no change is lost to an outage."""
        self.listener_trouble["first"] = Unavailable("away")
        self.number += 1
        self.clock.pump([0.5] * 2)
        self.assertEqual(self.heard, ["first", "second"] * 2)

        del self.listener_trouble["first"]
        self.clock.pump([0.5] * 3)

        self.assertEqual(self.heard, ["first", "second"] * 3)

    def test_stop(self) -> None:
        """A look that is under way is given up, and who waits for it is not left waiting; then there are no more."""
        self.slow = Deferred()
        told = self.watch.poke()

        self.successResultOf(self.watch.stopService())
        self.clock.pump([0.5] * 3)

        self.successResultOf(told)
        self.assertEqual(self.reads, 2)
        self.successResultOf(self.watch.poke())
        self.assertEqual((self.reads, self.heard), (2, []))
        self.watch.startService()
