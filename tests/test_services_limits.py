"""Tests of wsock.services.limits."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from wsock.backends.memory_counters import MemoryCounters
from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import ICounters, Lease
from wsock.services.limits import Limits, Tally
from wsock.testing.fakes import Now

SETTING = "limits.connect_rate_per_ip"


@implementer(ICounters)
class AwayCounters:
    """Counters whose store is away."""

    async def hit(self, key: str, limit: int, window_seconds: float, now: float) -> float:
        raise Unavailable("the counters are away")

    async def lease(self, app: str, key: str, limit: int, window_seconds: float, wanted: int, now: float) -> Lease:
        raise Unavailable("the counters are away")


class LimitsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.limits = Limits(MemoryCounters(), Now(self.clock))

    def admit(self, limit: float, window: float = 60, key: str = "ip:192.0.2.1") -> None:
        self.successResultOf(self.limits.admit(key, limit, window, what=SETTING))

    def refusal(self, limit: float, window: float = 60) -> Refused:
        admitted = self.limits.admit("ip:192.0.2.1", limit, window, what=SETTING)
        refused = self.failureResultOf(admitted, Refused).value
        assert isinstance(refused, Refused)
        return refused

    def test_admits_up_to_the_limit(self) -> None:
        """Beyond the limit an event is refused by the setting's name, with the time to wait."""
        for _ in range(3):
            self.admit(3)
        self.clock.advance(20)

        refused = self.refusal(3)

        self.assertEqual(refused.code, Code.RATE_LIMITED)
        self.assertEqual(refused.text, f"{SETTING} allows 3 in 60 s: try again in 40 s")
        self.assertEqual(refused.retry_after, 40)

    def test_admits_again_after_the_wait(self) -> None:
        """Whoever waits as long as it was told is admitted."""
        self.admit(1)
        self.clock.advance(59.9999)
        retry_after = self.refusal(1).retry_after
        assert retry_after is not None

        self.clock.advance(retry_after)
        self.admit(1)

    def test_no_limit(self) -> None:
        """A limit of 0 is none: the counters are not even asked."""
        self.limits = Limits(AwayCounters(), Now(self.clock))

        for _ in range(1000):
            self.admit(0)

    def test_limit_below_one(self) -> None:
        """Half an event in a second is one in two seconds."""
        self.admit(0.5, 1)
        self.clock.advance(1.5)
        self.assertEqual(self.refusal(0.5, 1).retry_after, 0.5)
        self.clock.advance(0.5)
        self.admit(0.5, 1)

    def test_limit_that_is_no_whole_number(self) -> None:
        """2.5 in a second are 250 in 100 seconds."""
        count = 0
        for _ in range(10_000):
            admitted = Deferred.fromCoroutine(self.limits.admit("key", 2.5, 1, what=SETTING))
            count += self.successResultOf(admitted.addCallbacks(lambda _: 1, lambda refused: 0))
            self.clock.advance(0.01)

        self.assertLess(abs(count - 250), 4)

    def test_keys_are_apart(self) -> None:
        """One key's events are not another's."""
        self.admit(1)
        self.admit(1, key="ip:192.0.2.2")

    def test_counters_are_away(self) -> None:
        """An outage is no refusal by rate: the caller is told what it is."""
        verifyObject(ICounters, AwayCounters())
        limits = Limits(AwayCounters(), Now(self.clock))

        self.failureResultOf(limits.admit("key", 1, 1, what=SETTING), Unavailable)

    def test_tally(self) -> None:
        """What was refused is counted by its scope."""
        tally = Tally()
        self.limits = Limits(MemoryCounters(), Now(self.clock), tally)
        self.admit(1)
        self.refusal(1)
        self.refusal(1)

        self.assertEqual((tally.refused, tally.observed), ({"connect": 2}, {}))

    def test_observed(self) -> None:
        """What is only observed is counted apart, and admitted."""
        tally = Tally(is_enforced=False)
        self.limits = Limits(MemoryCounters(), Now(self.clock), tally)
        for _ in range(3):
            self.admit(1)

        self.assertEqual((tally.refused, tally.observed), ({}, {"connect": 2}))
