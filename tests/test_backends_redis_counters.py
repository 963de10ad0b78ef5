"""Counters in Redis: the contract, over a real server; several nodes; several servers."""

from __future__ import annotations

from uuid import uuid4

from twisted.internet import reactor  # noqa: TID251  # trial's own: the servers are real
from twisted.internet.defer import Deferred

from tests.base import TestCase
from tests.servers import RedisServer, private_redis, redis_server
from wsock.backends.redis import Durability, RedisBroker
from wsock.backends.redis_counters import RedisCounters
from wsock.errors import Unavailable
from wsock.testing.contracts.counters import START, CountersContract


async def make_counters(case: TestCase, *urls: str) -> RedisCounters:
    """The counters of one more node."""
    broker = RedisBroker(urls, reactor, uuid4().hex, lambda: uuid4().hex, Durability())
    counters = RedisCounters(broker)
    case.addCleanup(counters.stop)
    await counters.start()
    return counters


def commands(server: RedisServer) -> int:
    """How many scripts the server ran."""
    text = server.call(b"INFO commandstats").decode()
    return next(int(line.split("calls=")[1].split(",")[0]) for line in text.splitlines() if "cmdstat_evalsha:" in line)


class RedisCountersContractTests(CountersContract, TestCase):
    """Counters in Redis keep the contract."""

    async def make_counters(self) -> RedisCounters:
        """Counters over an empty server."""
        server = redis_server()
        for kind in (b"count", b"lease"):
            for key in server.call(b"KEYS wsock:%s:*" % kind).split(b"\r\n")[2::2]:
                server.call(b"DEL " + key)
        return await make_counters(self, server.url)


class RedisCountersTests(TestCase):
    """What only counters that are shared have."""

    async def test_nodes_share_the_count(self) -> None:
        """What one node counted leaves less room on another."""
        server = redis_server()
        one, other = await make_counters(self, server.url), await make_counters(self, server.url)
        key = uuid4().hex

        for _ in range(5):
            self.assertEqual(await one.hit(key, 10, 10, START), 0)
            self.assertEqual(await other.hit(key, 10, 10, START), 0)

        self.assertGreater(await one.hit(key, 10, 10, START), 0)
        self.assertGreater(await other.hit(key, 10, 10, START), 0)

    async def test_clocks_that_differ_let_nobody_in_early(self) -> None:
        """With one node a second behind, any window on the other's clock has no more than the limit."""
        server = redis_server()
        one, other = await make_counters(self, server.url), await make_counters(self, server.url)
        key = uuid4().hex
        admitted = 0
        for n in range(100):
            admitted += not await one.hit(key, 10, 10, START + n / 20)
            admitted += not await other.hit(key, 10, 10, START + n / 20 - 1)

        self.assertEqual(admitted, 10)

    async def test_keys_expire(self) -> None:
        """What was counted goes by itself some time after its window."""
        server = redis_server()
        counters = await make_counters(self, server.url)
        key = uuid4().hex
        await counters.hit(key, 10, 10, START)

        left = int(server.call(f"PTTL wsock:count:{key}".encode()).strip(b":\r\n"))
        self.assertGreater(left, 10_000)
        self.assertLessEqual(left, 21_000)

    async def test_several_servers(self) -> None:
        """Keys spread over the servers, and each node finds the same one."""
        servers = [private_redis(self), private_redis(self)]
        urls = [server.url for server in servers]
        one, other = await make_counters(self, *urls), await make_counters(self, *urls)
        for n in range(40):
            self.assertEqual(await one.hit(f"key-{n}", 1, 10, START), 0)
            self.assertGreater(await other.hit(f"key-{n}", 1, 10, START), 0)

        sizes = [int(server.call(b"DBSIZE").strip(b":\r\n")) for server in servers]
        self.assertEqual(sum(sizes), 40)
        self.assertGreater(min(sizes), 5)

    async def test_outage(self) -> None:
        """While its server is away a key can't be counted, and the caller is told so."""
        server = private_redis(self)
        counters = await make_counters(self, server.url)
        server.kill()

        with self.assertRaises(Unavailable):
            await counters.hit("key", 10, 10, START)
        asked = [Deferred.fromCoroutine(counters.lease("app", f"key-{n}", 10, 10, 1, START)) for n in range(600)]
        for lease in asked:
            with self.assertRaises(Unavailable):
                await lease

    async def test_leases_are_asked_for_together(self) -> None:
        """While one answer is under way, what is asked for meanwhile is one command."""
        server = private_redis(self)
        counters = await make_counters(self, server.url)
        await counters.lease("app", "first", 10, 10, 1, START)
        before = commands(server)
        asked = [Deferred.fromCoroutine(counters.lease("app", f"key-{n}", 10, 10, 1, START)) for n in range(201)]

        for lease in asked:
            self.assertEqual((await lease).granted, 1)
        self.assertEqual(commands(server) - before, 2)

    async def test_leases_of_an_app_are_on_one_server(self) -> None:
        """The keys of an app are on its home shard, those of many apps on all servers."""
        servers = [private_redis(self), private_redis(self)]
        counters = await make_counters(self, *[server.url for server in servers])
        for n in range(20):
            await counters.lease("app", f"key-{n}", 10, 10, 1, START)
        sizes = [int(server.call(b"DBSIZE").strip(b":\r\n")) for server in servers]
        self.assertEqual(sorted(sizes), [0, 20])

        for n in range(40):
            await counters.lease(f"app-{n}", "key", 10, 10, 1, START)
        self.assertGreater(min(int(server.call(b"DBSIZE").strip(b":\r\n")) for server in servers), 5)
