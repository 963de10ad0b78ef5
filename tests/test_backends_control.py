"""Questions between nodes: the contract, in memory and over a real Redis; and nodes that are slow, dead or cut off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.base import TestCase
from tests.redis_cases import REACTOR, RedisTestCase, TcpProxy, names
from wsock.backends.memory_control import MemoryControl
from wsock.backends.redis import Durability, RedisBroker, RedisControl, RedisPresence
from wsock.backends.redis_nodes import LeaseTimes
from wsock.backends.respondent import Respondent
from wsock.errors import Unavailable
from wsock.interfaces import IControl
from wsock.testing.contracts.control import ControlContract, Respond

NOBODY = 0.3
"""Seconds to wait for who does not answer."""


class MemoryControlTests(ControlContract, TestCase):
    """Nodes of one process keep the contract."""

    async def make_controls(self, number: int) -> list[IControl]:
        shared: list[Respondent] = []
        return [MemoryControl(shared) for _ in range(number)]


class OneNodeTests(ControlContract, TestCase):
    """So does a node that is alone."""

    max_nodes = 1

    async def make_controls(self, number: int) -> list[IControl]:
        return [MemoryControl()]


class ClusterNode:
    """One node of a cluster, with what its control needs; ``respond`` answers on it."""

    def __init__(self, url: str, probe_seconds: float, lease_seconds: float, control_url: str | None = None) -> None:
        self.name = names()
        self.respond = Respond(self.name)
        self.broker = RedisBroker([url], REACTOR, self.name, names, Durability())
        times = LeaseTimes(lease_seconds=lease_seconds)
        self.presence = RedisPresence(self.broker, REACTOR, self.name, lambda: 0.0, times=times)
        through = self.broker
        if control_url is not None:
            through = RedisBroker([control_url], REACTOR, self.name, names, Durability())
        self.control = RedisControl(through, REACTOR, self.name, probe_seconds=probe_seconds)
        self.control.listen(self.respond)

    async def start(self) -> None:
        """Everything runs when this returns."""
        await self.broker.start()
        await self.control.start()
        await self.presence.start()

    def is_up(self) -> bool:
        """Whether what a question goes through is connected."""
        [lease] = self.presence._node.leases
        parts = (self.control._commands, self.control._subscriptions, lease._connection)
        return all(connection.is_up for connection in parts)

    async def stop(self) -> None:
        """Ends in good order."""
        await self.presence.stop()
        await self.control.stop()
        await self.broker.stop()


class RedisControlTestCase(RedisTestCase):
    """Nodes over a Redis of the test's own."""

    async def cluster(
        self, number: int, *, probe_seconds: float = 4.0, lease_seconds: float = 10.0, proxy: TcpProxy | None = None
    ) -> list[ClusterNode]:
        """So many nodes; what the control of the last one says and hears goes through the proxy."""
        url = self.server.url
        nodes = [ClusterNode(url, probe_seconds, lease_seconds) for _ in range(number - 1)]
        nodes.append(ClusterNode(url, probe_seconds, lease_seconds, proxy.url if proxy is not None else None))
        for node in nodes:
            self.addCleanup(node.stop)
            await node.start()
        return nodes

    def setUp(self) -> None:
        self.server = self.redis()


class RedisControlContractTests(ControlContract, RedisControlTestCase):
    """Nodes over a Redis keep the contract."""

    async def make_controls(self, number: int) -> list[IControl]:
        return [node.control for node in await self.cluster(number)]

    async def heard(self, is_so: Callable[[], bool]) -> None:
        await self.until(is_so)


class RedisControlTests(RedisControlTestCase):
    """What only nodes apart have."""

    async def timed(self, node: ClusterNode, seconds: float = 5.0) -> Any:
        """What a node gets to hear, and how long that took."""
        start = REACTOR.seconds()
        answers = await node.control.ask(b"?", seconds)
        return answers, REACTOR.seconds() - start

    async def test_a_dead_node(self) -> None:
        """Who has a lease and does not answer makes it incomplete, at the limit and not later; then it is forgotten."""
        one, other = await self.cluster(2, lease_seconds=1.5)
        for lease in other.presence._node.leases:
            lease._loop.stop()
        await other.control.stop()

        answers, seconds = await self.timed(one, NOBODY)

        self.assertEqual((answers.parts, answers.is_complete), ([one.name.encode() + b":?"], False))
        self.assertTrue(NOBODY * 0.9 < seconds < NOBODY + 0.5, seconds)
        await deferLater(REACTOR, 1.6)
        answers, seconds = await self.timed(one)
        self.assertTrue(answers.is_complete)
        self.assertLess(seconds, 1.0)

    async def test_a_node_that_ended(self) -> None:
        """A node that gave its lease back is not waited for."""
        one, other = await self.cluster(2)
        await other.stop()

        answers, seconds = await self.timed(one)

        self.assertEqual((answers.parts, answers.is_complete), ([one.name.encode() + b":?"], True))
        self.assertLess(seconds, 1.0)

    async def test_another_incarnation(self) -> None:
        """A node that lost its lease and took another one is one node."""
        one, other = await self.cluster(2)
        [lease] = other.presence._node.leases
        self.server.call(f"ZREM wsock:leases {lease.id}".encode())
        await lease.renew()

        answers, _ = await self.timed(one)

        self.assertTrue(lease.id.endswith(".2"))
        self.assertTrue(answers.is_complete)
        self.assertEqual(len(answers.parts), 2)

    async def test_late(self) -> None:
        """An answer that comes too late is ignored, and is no answer to the next question."""
        proxy = await self.proxy(self.server)
        one, other = await self.cluster(2, proxy=proxy)
        proxy.is_holding = lambda link: link.is_subscriber

        late = await one.control.ask(b"first", NOBODY)
        proxy.release()
        await self.until(lambda: b"first" in other.respond.asked)
        answers = await one.control.ask(b"second", 5.0)

        self.assertFalse(late.is_complete)
        expected = sorted(node.name.encode() + b":second" for node in (one, other))
        self.assertEqual((sorted(answers.parts), answers.is_complete), (expected, True))

    async def test_redis_away(self) -> None:
        """Without Redis a node answers for itself at once, and says that this is not all; then it is as before."""
        one, other = await self.cluster(2)
        self.server.kill()
        await self.until(lambda: not one.control._commands.is_up)

        answers, seconds = await self.timed(one)
        self.assertEqual((answers.parts, answers.is_complete), ([one.name.encode() + b":?"], False))
        self.assertLess(seconds, 1.0)
        await self.assertFailure(Deferred.fromCoroutine(one.control.tell(b"news")), Unavailable)
        self.assertIn(b"news", one.respond.asked)

        self.server.start()
        for node in (one, other):
            await self.until(node.is_up)
        for node in (one, other):
            for lease in node.presence._node.leases:
                await lease.renew()
        answers, _ = await self.timed(one)
        self.assertEqual((len(answers.parts), answers.is_complete), (2, True))

    async def test_frozen(self) -> None:
        """A subscription through which nothing comes any more is found and made anew."""
        proxy = await self.proxy(self.server)
        one, other = await self.cluster(2, proxy=proxy, probe_seconds=0.3)
        proxy.freeze()

        answers = await one.control.ask(b"?", NOBODY)
        self.assertFalse(answers.is_complete)

        async def is_heard() -> bool:
            return (await one.control.ask(b"?", 1.0)).is_complete

        for _ in range(10):
            if await is_heard():
                break
        else:
            self.fail("the subscription was not made anew")
        self.assertGreater(other.respond.asked.count(b"?"), 0)

    async def test_too_many(self) -> None:
        """No more than 64 questions of a node are under way; there is room again when they have ended."""
        one, other = await self.cluster(2)
        await other.control.stop()
        asking = [Deferred.fromCoroutine(one.control.ask(b"?", NOBODY)) for _ in range(64)]

        await self.assertFailure(Deferred.fromCoroutine(one.control.ask(b"?", NOBODY)), Unavailable)

        self.assertEqual([a.is_complete for a in await gatherResults(asking)], [False] * 64)
        self.assertFalse((await one.control.ask(b"?", NOBODY)).is_complete)

    async def test_cancelled(self) -> None:
        """Who gives up waiting leaves nothing behind."""
        one, other = await self.cluster(2)
        await other.control.stop()
        asking = Deferred.fromCoroutine(one.control.ask(b"?", 60.0))
        asking.addErrback(lambda _: None)

        asking.cancel()

        self.assertEqual(one.control._asked, {})

    async def test_stopped(self) -> None:
        """A node that stops waits for nobody."""
        one, other = await self.cluster(2)
        await other.control.stop()
        asking = Deferred.fromCoroutine(one.control.ask(b"?", 60.0))

        await one.control.stop()

        self.assertFalse((await asking).is_complete)

    async def test_garbage(self) -> None:
        """What can't be read is ignored, as are answers that nobody asked for."""
        one, other = await self.cluster(2)
        for topic in ("wsock:control", f"wsock:control:{one.name}"):
            self.server.call(f"PUBLISH {topic} rubbish".encode())
        foreign = msgspec.msgpack.encode([other.name, 77, [[b"x"], True]])
        await one.control._commands.call("PUBLISH", f"wsock:control:{one.name}", foreign)

        answers, _ = await self.timed(one)

        self.assertEqual((len(answers.parts), answers.is_complete), (2, True))
