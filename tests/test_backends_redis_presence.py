"""Presence in Redis: the contract, over a real server and over two; what nodes tell each other; what they missed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from twisted.internet import reactor  # noqa: TID251  # these tests need real connections
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tests.base import TestCase
from tests.presence_nodes import NOW, Node, emptied, events, until
from tests.servers import private_redis
from wsock.backends.redis_nodes import LeaseTimes
from wsock.backends.redis_presence import RedisPresence
from wsock.errors import Unavailable
from wsock.interfaces import Stray
from wsock.testing.contracts.presence_store import PresenceStoreContract

_CHANNELS = (("shop", "chat"), ("shop", "news"), ("shop", "quiet"), ("shop", "other"), ("other", "chat"))


class RedisPresenceContractTests(PresenceStoreContract, TestCase):
    """Presence in Redis keeps the contract."""

    node: Node

    def urls(self) -> list[str]:
        """Where the servers are."""
        return [emptied().url]

    async def make_presence_store(self, max_members: int) -> RedisPresence:
        """The store of one node, over empty servers; the channels of the tests are attached."""
        self.node = await Node(self, *self.urls(), max_members=max_members).start()
        await self.node.settled()
        for app, channel in _CHANNELS:
            await self.node.broker.attach(app, channel)
        return self.node.presence

    async def announced(self) -> None:
        """What each server announced up to now has come: its pub/sub connection answers in order."""
        for shard in self.node.broker.shards:
            await shard.subscriptions.call("PING")


class TwoServersContractTests(RedisPresenceContractTests):
    """Presence over two Redis servers keeps it as well."""

    def urls(self) -> list[str]:
        """Two servers of this test's own."""
        if not hasattr(self, "servers"):
            self.servers = [private_redis(self), private_redis(self)]
        return [server.url for server in self.servers]

    async def test_tenants_never_meet(self) -> None:
        """Apps with the same names know nothing of one another; between two servers there is no order."""
        await self.enters("a1", b'{"x":1}')
        await self.enters("a1", b'{"x":2}', app="other")
        await self.leaves("a1")
        await self.announced()

        heard = sorted((heard.app, heard.change.kind) for heard in self.receiver.changes)
        self.assertEqual(heard, [("other", "enter"), ("shop", "enter"), ("shop", "leave")])
        await self.assert_present()
        await self.assert_present("alice", app="other")


class TwoNodesTests(TestCase):
    """Two nodes with one Redis server."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        """Makes both, with ``chat`` attached."""
        self.server = emptied()
        self.a = await Node(self, self.server.url, backlog=1000).start("chat")
        self.b = await Node(self, self.server.url, backlog=1000).start("chat")
        await self.a.settled()

    async def told(self, *lines: str) -> None:
        """Both nodes were told just this."""
        for node in (self.a, self.b):
            await until(partial(_has_lines, node, len(lines)), f"{lines}")
            self.assertEqual(node.lines, list(lines))

    async def test_changes_reach_every_node(self) -> None:
        """What happens on one node is announced on both, in the same order."""
        await self.a.enter("chat", "alice", "a1", b'{"n":1.0}')
        await self.b.enter("chat", "bob", "b1")
        await self.a.presence.update("shop", "chat", "alice", "a1", b'{"n":1e2}', NOW)
        await self.b.presence.leave("shop", "chat", "bob", "b1", "left")

        await self.told(
            'enter chat alice {"n":1.0}', "enter chat bob {}", 'update chat alice {"n":1e2}', "leave chat bob {} left"
        )

    async def test_members_are_counted_over_nodes(self) -> None:
        """A client with a connection on each node is one member, until the last of them leaves."""
        await self.a.enter("chat", "alice", "a1")
        await self.b.enter("chat", "alice", "a2")
        await self.a.presence.leave("shop", "chat", "alice", "a1", "left")
        self.assertEqual(await self.a.present("chat"), ["alice"])
        await self.b.presence.leave("shop", "chat", "alice", "a2", "left")

        await self.told("enter chat alice {}", "leave chat alice {} left")

    async def test_adopted_on_another_node(self) -> None:
        """A client that was lost on one node and is back on another never left; the first node can't end it."""
        await self.a.enter("chat", "alice", "a1")
        await self.a.presence.suspend("shop", "chat", "alice", "a1", NOW + 0.2)

        self.assertEqual(await self.b.presence.adopt("shop", "alice", "a2"), ["chat"])

        await self.a.presence.reap(NOW + 60)
        await self.a.presence.leave("shop", "chat", "alice", "a1", "left")
        self.assertTrue(await self.b.presence.update("shop", "chat", "alice", "a2", b'{"x":1}', NOW))
        await self.told("enter chat alice {}", 'update chat alice {"x":1}')

    async def test_strays_are_told_to_every_node(self) -> None:
        """Each node hears of a lost connection once, so that the client's other one can take over."""
        for node in (self.a, self.b):
            await node.presence.strays()
        await self.a.enter("chat", "alice", "a1")
        await self.a.presence.suspend("shop", "chat", "alice", "a1", NOW + 10)

        for node in (self.a, self.b):
            self.assertEqual(await node.presence.strays(), [Stray("shop", "alice")])
            self.assertEqual(await node.presence.strays(), [])

    async def test_two_reapers(self) -> None:
        """Nodes that reap at once announce each leave once."""
        for n in range(50):
            await self.a.enter("chat", f"c{n}", f"k{n}")
            await self.a.presence.suspend("shop", "chat", f"c{n}", f"k{n}", NOW)
        for node in (self.a, self.b):
            self.addCleanup(node.receiver.heard.clear)

        reaping = [node.presence.reap(NOW + 1) for node in (self.a, self.b, self.a, self.b)]
        for reap in reaping:
            await reap

        for node in (self.a, self.b):
            await until(partial(_has_lines, node, 100))
            left = [text for text in node.lines if text.startswith("leave")]
            self.assertEqual(left, [f"leave chat c{n} {{}} disconnected" for n in range(50)])

    async def test_events_for_webhooks(self) -> None:
        """Every change is in the work queue as well, in order."""
        await self.a.enter("chat", 'al"ice', "a1", b'{"n":1.0}')
        await self.b.enter("chat", 'al"ice', "a2", b'{"n":2}')
        await self.a.presence.leave("shop", "chat", 'al"ice', "a1", "left")
        await self.b.presence.leave("shop", "chat", 'al"ice', "a2", "kicked")

        found = [event for event in await events(self.a) if event.channel == "chat"]
        self.assertEqual([event.type for event in found], ["presence.enter", "presence.update", "presence.leave"])
        self.assertEqual({event.app for event in found}, {"shop"})
        self.assertRegex(
            bytes(found[2].data),
            rb'^{"clientId":"al\\"ice","data":{"n":2},"joinedAt":1700000000250,"reason":"kicked","timestamp":\d{13}}$',
        )

    async def test_quiet(self) -> None:
        """Who is back in time makes no noise, or an update with other data; a leave that stays one is told later."""
        for lease in self.a.leases:
            await lease.call("HSET", "wsock:meta", "quiet", 400)
        told: list[str] = []
        for data in (b'{"n":1.0}', b'{"n":1.0}', b'{"n":2}'):
            await self.a.enter("chat", "alice", "a1", data)
            await self.a.presence.leave("shop", "chat", "alice", "a1", "left")

        async def take() -> None:
            await self.b.presence.reap(NOW)
            told.extend(event.type for event in await events(self.a) if event.channel == "chat")

        await take()
        self.assertEqual(told, ["presence.enter", "presence.update"])
        while len(told) < 3:
            await deferLater(IReactorTime(reactor), 0.05)
            await take()
        self.assertEqual(told[2], "presence.leave")
        await deferLater(IReactorTime(reactor), 0.5)
        await take()
        self.assertEqual(len(told), 3)

    async def test_full_queue(self) -> None:
        """Where too much waits to be told, who wants to enter is refused for now; leaving goes on."""
        await events(self.a)
        full = await Node(self, self.server.url, backlog=1).start()
        await full.enter("queued", "alice", "a1")

        with self.assertRaises(Unavailable) as caught:
            await full.enter("queued", "bob", "b1")
        self.assertIn("redis.backlog", caught.exception.text)
        with self.assertRaises(Unavailable):
            await full.presence.update("shop", "queued", "alice", "a1", b'{"x":1}', NOW)
        await full.presence.leave("shop", "queued", "alice", "a1", "left")
        self.assertEqual(await full.present("queued"), [])

    async def test_attach_where_members_are(self) -> None:
        """A node that attaches a channel is told of nothing that was, and of everything that follows."""
        await self.a.enter("room", "alice", "a1")
        await self.b.broker.attach("shop", "room")
        await self.a.enter("room", "bob", "b1")
        await self.a.presence.leave("shop", "room", "alice", "a1", "left")

        await until(lambda: len(self.b.lines) == 2)
        self.assertEqual(self.b.lines, ["enter room bob {}", "leave room alice {} left"])

    async def test_missed_change_in_between(self) -> None:
        """A change that does not follow shows that one was missed: it is told, then what follows it, all once."""
        await self.a.enter("chat", "alice", "a1")
        await until(lambda: self.b.lines)
        with deaf(self.b):
            await self.a.enter("chat", "bob", "b1")
            await self.a.presence.update("shop", "chat", "alice", "a1", b'{"x":1}', NOW)
            await self.a.presence.leave("shop", "chat", "bob", "b1", "left")
            await self.a.enter("chat", "carol", "c1")
            await until(lambda: len(self.a.lines) == 5)
        await self.a.enter("chat", "dora", "d1")

        await until(lambda: len(self.b.lines) >= 4)
        self.assertEqual(
            self.b.lines,
            ["enter chat alice {}", 'update chat alice {"x":1}', "enter chat carol {}", "enter chat dora {}"],
        )

    async def test_missed_change_at_the_end(self) -> None:
        """The last change, which none follows, is found when the node looks at what is quiet."""
        await self.a.enter("chat", "alice", "a1")
        await self.a.enter("chat", "bob", "b1")
        await until(lambda: len(self.b.lines) == 2)
        with deaf(self.b):
            await self.a.presence.leave("shop", "chat", "alice", "a1", "left")
            await until(lambda: len(self.a.lines) == 3)
        for roster in self.b.presence._rosters:
            roster.reconnected()

        await until(lambda: len(self.b.lines) >= 3)
        self.assertEqual(self.b.lines[2:], ["leave chat alice {} disconnected"])

    async def test_reconnect_of_pubsub(self) -> None:
        """What happened while the pub/sub connection was broken is told when it is back."""
        await self.a.enter("chat", "alice", "a1")
        await until(lambda: self.b.lines)
        for shard in self.b.broker.shards:
            shard.subscriptions.abort()
        await self.a.enter("chat", "bob", "b1")
        await self.a.presence.leave("shop", "chat", "alice", "a1", "left")

        await until(lambda: len(self.b.lines) >= 3)
        self.assertEqual(sorted(self.b.lines[1:])[0], "enter chat bob {}")
        self.assertTrue(sorted(self.b.lines[1:])[1].startswith("leave chat alice {}"))

    async def test_lost_answer_of_an_enter(self) -> None:
        """An enter whose answer got lost was refused to the client; what Redis has of it goes again."""
        patient = LeaseTimes(lease_seconds=10.0, return_seconds=0.2)
        node = await Node(self, self.server.url, times=patient).start()
        entering = Deferred.fromCoroutine(node.enter("chat", "alice", "a1"))
        # Everything written goes out, and the connection ends before anything comes back.
        node.leases[0]._connection._protocol.transport.loseConnection()
        with self.assertRaises(Unavailable):
            await entering

        await self.b.reaped(lambda: "leave chat alice {} disconnected" in self.b.lines)
        self.assertEqual(await self.b.present("chat"), [])

    async def test_adopt_is_repeated_for_a_server_that_was_away(self) -> None:
        """With all servers away the client is refused, and told of again so that its members come home later."""
        for lease in self.a.leases:
            lease._connection.abort()
        await until(lambda: not self.a.leases[0]._connection.is_up)

        with self.assertRaises(Unavailable):
            await self.a.presence.adopt("shop", "alice", "a2")
        self.assertIn(Stray("shop", "alice"), await self.a.presence.strays())


def _has_lines(node: Node, number: int) -> bool:
    return len(node.lines) >= number


@contextmanager
def deaf(node: Node) -> Iterator[None]:
    """Meanwhile nothing that is announced reaches the node."""
    presences = [shard.presence for shard in node.broker.shards]
    for shard in node.broker.shards:
        shard.presence = None
    yield
    for shard, presence in zip(node.broker.shards, presences, strict=True):
        shard.presence = presence
