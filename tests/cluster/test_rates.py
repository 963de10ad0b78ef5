"""Rate limits of nodes that share a Redis: the same runs as over memory, with time that is given."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from twisted.internet.task import deferLater

from tests.rate_cases import LOADS, SHORT, WINDOWS, RateRun, Window
from tests.redis_cases import REACTOR, RedisTestCase, names
from tests.servers import redis_server
from wsock.backends.fallback_counters import FallbackCounters
from wsock.backends.memory_counters import MemoryCounters
from wsock.backends.redis import Durability, RedisBroker, RedisCounters
from wsock.errors import Unavailable
from wsock.interfaces import ICounters
from wsock.protocol.rates import Rate


class SharedRateTests(RedisTestCase):
    """Several nodes, one limit."""

    timeout = 180

    async def counters(self, url: str) -> RedisCounters:
        """Those of one more node."""
        counters = RedisCounters(RedisBroker((url,), REACTOR, names(), names, Durability()))
        self.addCleanup(counters.stop)
        await counters.start()
        return counters

    def run_of(self, nodes: Sequence[ICounters], rate: Rate, app: str = "") -> RateRun:
        """A run with answers that take a turn of the reactor or some."""
        return RateRun(nodes, rate, app or uuid4().hex, lambda: deferLater(REACTOR, 0))

    async def assert_sustained(self, window: Window, load: Sequence[float]) -> None:
        """What is offered beyond the limit comes through at the limit."""
        rate = window.rate.events / window.rate.seconds
        nodes = [await self.counters(redis_server().url) for _ in load]
        run = self.run_of(nodes, window.rate)

        came = await run.run(window.run_seconds, [part * rate for part in load])

        self.assertLess(abs(came - 2950), 2950 * 0.03, f"{window} {load}")
        self.assertLessEqual(run.most(window.rate.window_seconds), window.most, f"{window} {load}")

    async def test_sustained_rate_on_two_nodes(self) -> None:
        """A limit of 100/s that is exceeded for 29.5 s lets 2,950 through within 3 %, in windows of every length."""
        for window in (*WINDOWS, SHORT):
            await self.assert_sustained(window, (2.0, 2.0))

    async def test_sustained_rate_of_a_skewed_load(self) -> None:
        """The same when nearly all of the load is on one node."""
        for window in (*WINDOWS, SHORT):
            await self.assert_sustained(window, (1.9, 0.1))

    async def test_sustained_rate_on_ten_nodes(self) -> None:
        """The same on many nodes."""
        for load in LOADS[3:]:
            await self.assert_sustained(WINDOWS[0], load)

    async def test_burst(self) -> None:
        """The burst is admitted once, not on each node once."""
        nodes = [await self.counters(redis_server().url) for _ in range(2)]
        run = self.run_of(nodes, Rate(100))
        for n in range(200):
            await run.publish(n % 2)

        self.assertEqual(len(run.times), 100)
        refused = await run.publish()
        self.assertIsNotNone(refused)
        self.assertAlmostEqual(refused.retry_after, 1, delta=0.01)  # type: ignore[union-attr]  # it was refused

    async def test_few_wait(self) -> None:
        """A node in full swing asks Redis for each 16th publish or so, and ahead of need: hardly one waits."""
        run = self.run_of([await self.counters(redis_server().url)], Rate(1000))

        came = await run.run(5, [900])

        self.assertEqual(came, 4500)
        self.assertLess(run.counters[0].leases, 450)
        self.assertLess(run.waited, 60)

    async def test_redis_away(self) -> None:
        """While Redis is away each node allows all of the limit by itself; when it is back they share it again."""
        server = self.redis()
        shared = [await self.counters(server.url) for _ in range(2)]
        nodes = [FallbackCounters(counters, MemoryCounters()) for counters in shared]
        run = self.run_of(nodes, Rate(10, 60.0, 10))
        await self._each_publishes(run, 20)
        self.assertEqual(len(run.times), 10)

        server.kill()
        run.clock.advance(61)
        await self._each_publishes(run, 20)
        self.assertEqual(len(run.times), 30)

        server.start()
        for counters in shared:
            await self._connected(counters)
        run.clock.advance(61)
        await self._each_publishes(run, 20)
        self.assertEqual(len(run.times), 40)

    async def _connected(self, counters: RedisCounters) -> None:
        """Returns when the counters are there again."""
        while True:
            try:
                await counters.hit("other", 1000, 1, 0)
            except Unavailable:
                await deferLater(REACTOR, 0.02)
            else:
                return

    async def _each_publishes(self, run: RateRun, number: int) -> None:
        for _ in range(number):
            for node in range(2):
                await run.publish(node)
