"""Nodes that die, are paused or cut off, and a Redis that does: who leaves, who stays, and what is occupied."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

from twisted.internet import reactor  # noqa: TID251  # trial's own: the servers are real
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tests.base import TestCase
from tests.presence_nodes import NOW, TIMES, Node, emptied, events, until
from tests.servers import private_redis
from wsock.backends.redis_nodes import Lease, LeaseTimes
from wsock.errors import Unavailable
from wsock.interfaces import Stray

_MEMBERS = 100


class NodeDeathTests(TestCase):
    """One of several nodes ends without a word."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        """Makes three nodes with ``chat`` attached."""
        self.server = emptied()
        nodes = [await Node(self, self.server.url).start("chat") for _ in range(3)]
        self.a, self.b, self.c = nodes
        await self.b.settled()

    async def fill(self) -> None:
        """100 members enter on the first node, and everybody knows."""
        for n in range(_MEMBERS):
            await self.a.enter("chat", f"client-{n}", f"a-{n}")
        await until(lambda: all(len(node.lines) == _MEMBERS for node in (self.a, self.b, self.c)), "entering")
        for node in (self.b, self.c):
            node.receiver.heard.clear()

    async def reap_both(self, is_so: Callable[[], object]) -> None:
        """Both other nodes reap at once, until it is so."""
        await gatherResults(
            [Deferred.fromCoroutine(self.b.reaped(is_so)), Deferred.fromCoroutine(self.c.reaped(is_so))]
        )

    async def test_members_leave_once(self) -> None:
        """Each member of a dead node leaves once, as node_lost, within the lease and the time to come back."""
        await self.fill()
        died_at = seconds()
        await self.a.die()

        await self.reap_both(lambda: len(self.b.lines) >= _MEMBERS)

        took = seconds() - died_at
        self.assertLess(took, 3 * (TIMES.lease_seconds + TIMES.return_seconds))
        await deferLater(IReactorTime(reactor), TIMES.lease_seconds)
        await self.b.presence.reap(NOW)
        for node in (self.b, self.c):
            expected = sorted(f"leave chat client-{n} {{}} node_lost" for n in range(_MEMBERS))
            self.assertEqual(sorted(node.lines), expected)
        self.assertEqual(await self.b.present("chat"), [])

    async def test_clients_that_are_back_never_left(self) -> None:
        """Of a dead node's members those stay who entered on another node, or have a connection there that adopts."""
        await self.fill()
        await self.a.die()
        for n in range(10):
            await self.b.enter("chat", f"client-{n}", f"b-{n}")
        homes = {Stray("shop", f"client-{n}"): f"c-{n}" for n in range(10, 20)}

        async def bring_home() -> None:
            while homes:
                for stray in await self.c.presence.strays():
                    if stray in homes:
                        home = homes.pop(stray)
                        channels = await self.c.presence.adopt("shop", stray.client_id, home)
                        self.assertEqual(channels, ["chat"])
                await deferLater(IReactorTime(reactor), 0.02)

        homing = Deferred.fromCoroutine(bring_home())
        await self.b.reaped(lambda: len(self.b.lines) >= _MEMBERS - 20)
        await homing

        await deferLater(IReactorTime(reactor), TIMES.lease_seconds)
        await self.b.presence.reap(NOW)
        self.assertEqual(
            sorted(self.b.lines), sorted(f"leave chat client-{n} {{}} node_lost" for n in range(20, _MEMBERS))
        )
        self.assertEqual(await self.b.present("chat"), [f"client-{n}" for n in range(20)])
        self.assertTrue(await self.c.presence.update("shop", "chat", "client-15", "c-15", b'{"x":1}', NOW))

    async def test_lost_connections_outlive_their_node(self) -> None:
        """A connection that was lost before its node died keeps its own time, and can be adopted."""
        await self.a.enter("chat", "alice", "a1")
        await self.a.enter("chat", "bob", "b1")
        await self.a.presence.suspend("shop", "chat", "alice", "a1", NOW + 60)
        await self.a.presence.suspend("shop", "chat", "bob", "b1", NOW + 60)
        await self.a.die()
        await until(lambda: len(self.b.lines) == 2)
        await self.until_reaped(self.a)

        self.assertEqual(await self.b.presence.adopt("shop", "alice", "a2"), ["chat"])
        await self.b.presence.reap(NOW + 60)

        await until(lambda: len(self.b.lines) == 3)
        self.assertEqual(self.b.lines[2], "leave chat bob {} disconnected")

    async def test_end_in_good_order(self) -> None:
        """What a node still holds when it ends properly need not wait for the lease to end."""
        await self.a.enter("chat", "alice", "a1")
        await self.a.stop()

        await self.b.reaped(lambda: "leave chat alice {} node_lost" in self.b.lines)

    async def test_paused_node(self) -> None:
        """A node that was thought dead takes its members again; who is still there makes no noise."""
        await self.a.enter("chat", "alice", "a1", b'{"x":1}')
        await self.a.enter("chat", "bob", "b1")
        await self.a.enter("chat", "carol", "c1")
        self.a.pause()
        await self.until_reaped(self.a)
        # Bob's other connection came in time.
        await self.b.enter("chat", "bob", "b2")
        await self.b.reaped(lambda: len(self.b.lines) == 5)
        self.assertEqual(await self.b.present("chat"), ["bob"])

        self.a.go_on()

        await until(lambda: len(self.b.lines) >= 7)
        self.assertEqual(sorted(self.b.lines[5:]), ['enter chat alice {"x":1}', "enter chat carol {}"])
        self.assertTrue(await self.a.presence.update("shop", "chat", "alice", "a1", b'{"x":2}', NOW))
        await self.b.presence.leave("shop", "chat", "bob", "b2", "left")
        self.assertEqual(sorted(await self.b.present("chat")), ["alice", "bob", "carol"])

    async def test_paused_node_that_wakes_in_time(self) -> None:
        """Where the members have not left yet, the node that is back makes no noise at all."""
        await self.a.enter("chat", "alice", "a1")
        self.a.pause()
        await self.until_reaped(self.a)
        self.a.go_on()
        await until(lambda: self.a.leases[0].id.endswith(".2"))

        await self.a.presence.update("shop", "chat", "alice", "a1", b'{"x":1}', NOW)
        await self.b.presence.reap(NOW + 60)
        await self.a.presence.leave("shop", "chat", "alice", "a1", "left")

        await until(lambda: len(self.b.lines) >= 3)
        self.assertEqual(
            self.b.lines, ["enter chat alice {}", 'update chat alice {"x":1}', 'leave chat alice {"x":1} left']
        )

    async def test_paused_node_that_is_asked_first(self) -> None:
        """A request that comes before the node knows that it was thought dead is carried out all the same."""
        await self.a.enter("chat", "alice", "a1")
        self.a.pause()
        await self.until_reaped(self.a)

        self.assertTrue(await self.a.presence.update("shop", "chat", "alice", "a1", b'{"x":1}', NOW))
        await self.a.enter("chat", "dora", "d1")

        await self.b.presence.reap(NOW + 60)
        self.assertEqual(await self.b.present("chat"), ["alice", "dora"])

    async def test_reaper_and_a_member_that_moved(self) -> None:
        """A member that another connection took over is no longer the dead node's to lose."""
        await self.a.enter("chat", "alice", "a1")
        self.a.pause()
        await self.until_reaped(self.a)
        await self.b.presence.adopt("shop", "alice", "a2")

        await gatherResults([Deferred.fromCoroutine(node.presence.reap(NOW + 60)) for node in (self.b, self.c)])

        self.assertEqual(await self.b.present("chat"), ["alice"])
        self.assertEqual(self.b.lines, ["enter chat alice {}"])

    async def until_reaped(self, node: Node) -> None:
        """Waits until the node's lease is gone."""
        name = node.leases[0].id.encode()
        await until(lambda: name not in self.server.call(b"ZRANGE wsock:leases 0 -1"), "the end of the lease")
        await until(lambda: name not in self.server.call(b"SMEMBERS wsock:dying"), "the reaping")


class OutageTests(TestCase):
    """Redis itself dies, or is away."""

    # Long enough for all connections to come back, one after the other, each of which may wait two seconds before it
    # tries again: on a busy machine four seconds were not.
    times = LeaseTimes(lease_seconds=7.0, return_seconds=0.5)

    async def two_nodes(self, *arguments: str) -> None:
        """Makes a server of this test's own, and two nodes with ``chat`` attached, a member on each."""
        self.server = private_redis(self, *arguments)
        self.a = await Node(self, self.server.url, times=self.times).start("chat")
        self.b = await Node(self, self.server.url, times=self.times).start("chat")
        await self.b.settled()
        await self.a.enter("chat", "alice", "a1")
        await self.b.enter("chat", "bob", "b1")
        await until(lambda: len(self.a.lines) == len(self.b.lines) == 2)

    async def are_up(self) -> None:
        """Waits until both nodes can use the server."""
        await until(lambda: all(lease._connection.is_up for node in (self.a, self.b) for lease in node.leases))
        await until(lambda: self.a.broker.is_up and self.b.broker.is_up)

    async def is_late(self) -> None:
        """The first node renews its lease when the other one has had the time to take it for dead."""
        await self.b.leases[0].renew()
        await deferLater(IReactorTime(reactor), self.times.lease_seconds / 8)
        self.a.go_on()
        await self.a.leases[0].renew()

    async def test_restart(self) -> None:
        """Redis is killed and comes back with its data, after longer than a lease: nobody leaves, one node late."""
        await self.two_nodes("--appendonly", "yes", "--appendfsync", "always")
        self.server.kill()
        self.a.pause()
        await deferLater(IReactorTime(reactor), self.times.lease_seconds + 0.5)
        self.server.start()
        await self.are_up()
        await self.is_late()

        await self.b.presence.reap(NOW)
        await self.a.presence.update("shop", "chat", "alice", "a1", b'{"x":1}', NOW)
        await until(lambda: len(self.b.lines) >= 3)

        self.assertEqual(self.b.lines[2:], ['update chat alice {"x":1}'])
        self.assertEqual(await self.b.present("chat"), ["alice", "bob"])
        self.assert_first_leases()

    def assert_first_leases(self) -> None:
        """No lease was lost."""
        self.assertEqual({lease.id[-2:] for node in (self.a, self.b) for lease in node.leases}, {".1"})

    async def test_restart_without_its_data(self) -> None:
        """Redis comes back empty: the nodes enter their members again, and nobody hears of it."""
        await self.two_nodes("--appendonly", "no")
        self.a.pause()
        self.server.restart()
        await self.are_up()
        await until(lambda: self.b.leases[0].id.endswith(".2"))
        await self.is_late()
        found: list[str] = []
        while len(found) < 2:
            found = await self.b.present("chat")
            await deferLater(IReactorTime(reactor), 0.02)
        await deferLater(IReactorTime(reactor), self.times.lease_seconds * 1.5)
        await self.a.presence.update("shop", "chat", "alice", "a1", b'{"x":1}', NOW)

        for node in (self.a, self.b):
            await until(partial(_has_lines, node, 3))
            self.assertEqual(node.lines[2:], ['update chat alice {"x":1}'])

    async def test_nothing_is_reaped_before_a_lease_period(self) -> None:
        """Redis is back from a restart and one node is not: its members stay for one lease period, then leave."""
        await self.two_nodes("--appendonly", "yes", "--appendfsync", "always")
        await self.a.enter("chat", "carol", "c1")
        await self.a.presence.suspend("shop", "chat", "carol", "c1", NOW)
        await self.a.die()
        self.server.kill()
        await deferLater(IReactorTime(reactor), self.times.lease_seconds + 0.5)
        self.server.start()
        back_at = seconds()

        await until(lambda: self.b.broker.is_up and self.b.leases[0]._connection.is_up)
        await self.b.reaped(lambda: len(self.b.lines) >= 5)

        self.assertGreater(seconds() - back_at, self.times.lease_seconds)
        self.assertEqual(
            sorted(self.b.lines[3:]), ["leave chat alice {} node_lost", "leave chat carol {} disconnected"]
        )

    async def test_frozen_server(self) -> None:
        """Redis stands still for longer than a lease and goes on: nobody is thought dead for it."""
        await self.two_nodes()
        self.server.stop()
        self.addCleanup(self.server.cont)
        self.a.pause()
        await deferLater(IReactorTime(reactor), self.times.lease_seconds + 0.5)
        self.server.cont()
        await self.are_up()
        await self.is_late()
        for _ in range(20):
            with contextlib.suppress(Unavailable):
                await self.b.presence.reap(NOW)
            await deferLater(IReactorTime(reactor), self.times.lease_seconds / 20)

        self.assertEqual(await self.b.present("chat"), ["alice", "bob"])
        self.assertEqual(len(self.b.lines), 2)
        self.assert_first_leases()


class OccupancyTests(TestCase):
    """Whether anybody in the cluster is subscribed to a channel."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        """Makes two nodes."""
        self.server = emptied()
        self.a = await Node(self, self.server.url, backlog=10_000).start()
        self.b = await Node(self, self.server.url, backlog=10_000).start()
        await self.b.settled()
        await events(self.b)

    async def told(self, node: Node) -> None:
        """Waits until Redis knows what the node has."""
        for lease in node.leases:
            await until(partial(_has_told, lease))

    async def heard(self) -> list[str]:
        """What was told to webhooks: ``type channel``."""
        return [f"{e.type} {e.channel}" for e in await events(self.b) if e.type.startswith("channel.")]

    async def test_one_node(self) -> None:
        """The first subscriber and the end of the last are told, in order, however quickly they follow."""
        for n in range(3):
            self.a.broker.occupy("shop", "chat")
            self.a.broker.occupy("shop", f"room-{n}")
            self.a.broker.vacate("shop", "chat")
        await self.told(self.a)

        heard = await self.heard()
        self.assertEqual(
            [h for h in heard if h.endswith("chat")], ["channel.occupied chat", "channel.vacated chat"] * 3
        )
        self.assertEqual(len(heard), 9)

    async def test_quiet(self) -> None:
        """A channel that is occupied again in time was never vacated; that it stays vacated is told later, once."""
        await self.a.leases[0].call("HSET", "wsock:meta", "quiet", 400)
        for _ in range(2):
            self.a.broker.occupy("shop", "chat")
            self.a.broker.vacate("shop", "chat")
        await self.told(self.a)
        heard = await self.heard()
        self.assertEqual(heard, ["channel.occupied chat"])

        while len(heard) < 2:
            await deferLater(IReactorTime(reactor), 0.05)
            await self.b.presence.reap(NOW)
            heard += await self.heard()

        self.assertEqual(heard[1], "channel.vacated chat")
        self.b.broker.occupy("shop", "chat")
        await self.told(self.b)
        self.assertEqual(await self.heard(), ["channel.occupied chat"])

    async def test_two_nodes(self) -> None:
        """A channel is occupied as long as any node has subscribers there."""
        self.a.broker.occupy("shop", "chat")
        await self.told(self.a)
        self.b.broker.occupy("shop", "chat")
        await self.told(self.b)
        self.a.broker.vacate("shop", "chat")
        await self.told(self.a)
        self.assertEqual(await self.heard(), ["channel.occupied chat"])

        self.assertEqual(await self.a.broker.occupied("shop"), 1)
        self.assertTrue(await self.a.broker.is_occupied("shop", "chat"))

        self.b.broker.vacate("shop", "chat")
        await self.told(self.b)
        self.assertEqual(await self.heard(), ["channel.vacated chat"])
        self.assertEqual(await self.a.broker.occupied("shop"), 0)
        self.assertFalse(await self.a.broker.is_occupied("shop", "chat"))

    async def test_crash(self) -> None:
        """A dead node's channels are vacated, but for those that another node has."""
        for channel in ("one", "both"):
            self.a.broker.occupy("shop", channel)
        await self.told(self.a)
        self.b.broker.occupy("shop", "both")
        await self.told(self.b)
        self.assertEqual(sorted(await self.heard()), ["channel.occupied both", "channel.occupied one"])
        await self.a.die()

        heard: list[str] = []
        while not heard:
            await deferLater(IReactorTime(reactor), 0.05)
            heard = await self.heard()
        self.assertEqual(heard, ["channel.vacated one"])
        self.assertEqual(await self.b.broker.occupied("shop"), 1)
        self.assertTrue(await self.b.broker.is_occupied("shop", "both"))
        await deferLater(IReactorTime(reactor), TIMES.lease_seconds)
        self.assertEqual(await self.heard(), [])

    async def test_subscribers_that_moved(self) -> None:
        """Where the dead node's subscribers are back on another one, the channel was never vacated."""
        self.a.broker.occupy("shop", "chat")
        await self.told(self.a)
        await self.a.die()
        self.b.broker.occupy("shop", "chat")
        await self.told(self.b)
        await until(lambda: self.a.name.encode() not in self.server.call(b"ZRANGE wsock:leases 0 -1"))
        await until(lambda: self.server.call(b"SCARD wsock:dying") == b":0\r\n")

        self.assertEqual(await self.heard(), ["channel.occupied chat"])

    async def test_redis_away(self) -> None:
        """What changed while Redis was away is told as it is when it is back."""
        self.a.broker.occupy("shop", "before")
        await self.told(self.a)
        for lease in self.a.leases:
            lease._connection.abort()
        await until(lambda: not self.a.leases[0]._connection.is_up)
        self.a.broker.vacate("shop", "before")
        self.a.broker.occupy("shop", "after")

        heard: list[str] = []
        while len(heard) < 3:
            await deferLater(IReactorTime(reactor), 0.05)
            heard.extend(await self.heard())
        self.assertEqual(sorted(heard), ["channel.occupied after", "channel.occupied before", "channel.vacated before"])


class ServersTests(TestCase):
    """Leases on two Redis servers."""

    async def test_death_with_two_servers(self) -> None:
        """A dead node's members leave on every server; a client's are adopted over all of them."""
        servers = [private_redis(self), private_redis(self)]
        urls = [server.url for server in servers]
        channels = [f"room-{n}" for n in range(20)]
        a = await Node(self, *urls).start(*channels)
        b = await Node(self, *urls).start(*channels)
        for channel in channels:
            await a.enter(channel, "alice", "a1")
            await a.enter(channel, "bob", "b1")
            await a.presence.suspend("shop", channel, "alice", "a1", NOW + 60)
        sizes = [int(server.call(b"ZCARD wsock:lost").strip(b":\r\n")) for server in servers]
        self.assertGreater(min(sizes), 2)
        await until(lambda: len(b.lines) == 40)

        self.assertEqual(sorted(await b.presence.adopt("shop", "alice", "a2")), sorted(channels))
        await a.die()
        await b.reaped(lambda: len(b.lines) >= 60)

        self.assertEqual(sorted(b.lines[40:]), sorted(f"leave {channel} bob {{}} node_lost" for channel in channels))


def seconds() -> float:
    """The reactor's time."""
    return IReactorTime(reactor).seconds()


def _has_lines(node: Node, number: int) -> bool:
    return len(node.lines) >= number


def _has_told(lease: Lease) -> bool:
    return not lease._is_moving and not lease._moves
