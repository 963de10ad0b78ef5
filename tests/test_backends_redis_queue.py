"""Tests of wsock.backends.redis_queue, and of the persister behind it, over a real server."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from tests.redis_cases import REACTOR, Node, RedisTestCase
from wsock.backends.memory_store import MemoryMessages
from wsock.backends.redis import RedisQueue
from wsock.backends.redis_link import Script
from wsock.errors import Unavailable
from wsock.interfaces import Event, IWorkQueue, Rejected, Work
from wsock.protocol.messages import HistoryQuery, Message
from wsock.services.persister import Persister

_LOG = "wsock:log:3:app:room"


class Store(MemoryMessages):
    """A store that can be away, and rejects what it is told to."""

    trouble: Exception | None = None
    appended = 0

    async def append(self, app: str, messages: list[Message]) -> None:
        """Appends, unless there is trouble."""
        if self.trouble is not None:
            raise self.trouble
        self.appended += len(messages)
        await super().append(app, messages)


class _Case(RedisTestCase):
    async def prepare(self, **durability: Any) -> None:
        self.server = self.durable_redis()
        self.one = await self.node_of(**durability)
        self.work = await self.queue(self.one)

    async def node_of(self, **durability: Any) -> Node:
        return await self.node(self.server.url, **{"backlog": 100_000, "recovery_messages": 50, **durability})

    async def taken(self, queue: RedisQueue, limit: int = 500) -> Work:
        """The next piece of work that is not empty."""
        while True:
            work = await queue.take(limit)
            if work.ids:
                return work

    def sequences(self, work: Work, app: str = "app") -> list[int]:
        return [message.sequence for message in work.messages.get(app, [])]

    def persist(self, queue: RedisQueue, store: Store) -> Persister:
        persister = Persister(queue, store, self.record, REACTOR)
        persister.startService()
        self.addCleanup(persister.stopService)
        return persister

    async def record(self, events: list[Event], messages: dict[str, list[Message]]) -> None:
        """Nobody is told."""

    async def history(self, store: Store) -> list[int]:
        page = await store.page("app", "room", HistoryQuery(limit=10_000, direction="forward"))
        return [message.sequence for message in page.messages]

    async def drained(self) -> None:
        while await self.work.length():
            await self.one.ask("PING")


class QueueTests(_Case):
    """What is given out, and when again."""

    async def test_provides_the_interface(self) -> None:
        """It is an IWorkQueue."""
        await self.prepare()

        verifyObject(IWorkQueue, self.work)

    async def test_messages_come_as_they_were_accepted(self) -> None:
        """Work has the messages of each app, in order; those that are no history are not among them."""
        await self.prepare()
        await self.one.attach()
        await self.one.publish(3)
        await self.one.publish(1, persist=False)
        await self.one.publish(2)
        await self.one.publish(2, app="other", channel="else")

        work = await self.taken(self.work)

        self.assertEqual((self.sequences(work), self.sequences(work, "other")), ([1, 2, 3, 5, 6], [1, 2]))
        self.assertEqual(work.messages["app"], [message for message in self.one.messages if message.persist])
        self.assertEqual((len(work.ids), await self.work.length()), (7, 7))
        await self.work.done(work)
        self.assertEqual(await self.work.length(), 0)
        await self.work.done(Work([], {}, []))

    async def test_shared_out(self) -> None:
        """No two consumers have the same work."""
        await self.prepare()
        other = await self.queue(await self.node_of())
        await self.one.publish(20)

        pieces = [await self.taken(queue, 5) for queue in (self.work, other, self.work, other)]

        self.assertEqual(sorted(n for work in pieces for n in self.sequences(work)), list(range(1, 21)))

    async def test_work_of_a_dead_consumer(self) -> None:
        """What a consumer took and did not finish is taken over; what it finished is not."""
        await self.prepare()
        await self.one.publish(6)
        await self.work.done(await self.taken(self.work, 2))
        self.assertEqual(self.sequences(await self.taken(self.work, 4)), [3, 4, 5, 6])
        await self.work.stop()

        heir = await self.queue(self.one, take_over_seconds=0.05)

        self.assertEqual(self.sequences(await self.taken(heir)), [3, 4, 5, 6])

    async def test_order(self) -> None:
        """Work is the first when what other consumers have before it is done; what a dead one left can be taken."""
        await self.prepare()
        other = await self.queue(await self.node_of(), take_over_seconds=0.05)
        await self.one.publish(12)
        first, second = await self.taken(self.work, 9), await self.taken(other, 3)
        self.assertEqual([await other.is_first(work) for work in (first, second)], [True, False])
        await self.work.stop()

        left = await other.take_left(100)
        while not left.ids:
            left = await other.take_left(100)

        self.assertEqual(self.sequences(left)[:9], list(range(1, 10)))
        await other.done(first)
        self.assertTrue(await other.is_first(second))
        await other.done(second)
        self.assertTrue(await other.is_first(second))

    async def test_interrupted_consumer_gets_its_own_back(self) -> None:
        """After a restart of Redis a consumer is given again what it had not finished, before anything new."""
        await self.prepare()
        await self.one.publish(3)
        await self.taken(self.work)
        self.server.restart()

        while True:
            try:
                work = await self.work.take(10)
                break
            except Unavailable:
                await self.until(lambda: self.work._connection.is_up)

        self.assertEqual(self.sequences(work), [1, 2, 3])

    async def test_group_is_gone(self) -> None:
        """It is made again from the beginning, also while somebody waits for work."""
        await self.prepare()
        await self.one.publish(2)
        await self.one.ask("XGROUP", "DESTROY", "wsock:queue", "persist")
        self.assertEqual(self.sequences(await self.taken(self.work)), [1, 2])
        await self.one.ask("DEL", "wsock:queue")
        waiting = Deferred.fromCoroutine(self.taken(self.work))
        while b"cmd=xreadgroup" not in await self.one.ask("CLIENT", "LIST"):
            pass
        await self.one.ask("DEL", "wsock:queue")

        await self.one.publish()

        self.assertEqual(self.sequences(await waiting), [3])

    async def test_events(self) -> None:
        """An event has the same id each time, and no other event has it, whatever server it comes from."""
        await self.prepare()
        for kind in ("channel.occupied", "channel.vacated"):
            fields = ("k", "e", "a", "app", "c", "room", "t", kind, "d", '{"timestamp":1}')
            await self.one.ask("XADD", "wsock:queue", "*", *fields)

        first, second = (await self.taken(self.work)).events

        self.assertEqual((first.type, first.app, first.channel, first.data),
                         ("channel.occupied", "app", "room", b'{"timestamp":1}'))  # fmt: skip
        self.assertNotEqual(first.id, second.id)
        heir = await self.queue(self.one, take_over_seconds=0)
        self.assertEqual((await self.taken(heir)).events, [first, second])

    async def test_buried(self) -> None:
        """What can never be stored is kept for a person, with the reason."""
        await self.prepare()

        await self.work.bury(Work([], {}, []), "text", "reason")

        [[_, fields]] = await self.one.ask("XRANGE", "wsock:dead", "-", "+")
        self.assertEqual(fields, [b"what", b"text", b"why", b"reason"])

    async def test_consumers_that_ended_long_ago_are_forgotten(self) -> None:
        """One that still has work is not."""
        await self.prepare()
        await self.one.publish()
        await self.taken(self.work)
        other = await self.queue(self.one)
        await other.take(1)
        await self.work._connection.run(Script.load("forget"), "persist", -1)

        consumers = await self.one.ask("XINFO", "CONSUMERS", "wsock:queue", "persist")
        self.assertEqual([consumer[1].decode() for consumer in consumers], [self.work._node])


class PersistTests(_Case):
    """From the queue into a store."""

    async def test_killed_between_append_and_done(self) -> None:
        """The work is repeated elsewhere, and nothing is in the history twice."""
        await self.prepare()
        store = Store()
        await self.one.publish(30)
        work = await self.taken(self.work)
        await store.append("app", work.messages["app"])
        await self.work.stop()

        heir = await self.queue(self.one, take_over_seconds=0.05)
        self.work = heir
        self.persist(heir, store)

        await self.drained()
        self.assertEqual(await self.history(store), list(range(1, 31)))
        self.assertEqual(store.appended, 60)

    async def test_store_is_away(self) -> None:
        """Publishing goes on up to the bound of the backlog, and is refused then; history catches up."""
        await self.prepare(backlog=200)
        store = Store()
        store.trouble = Unavailable("away")
        self.persist(self.work, store)
        accepted = await self.one.publish(200)

        with self.assertRaises(Unavailable) as caught:
            await self.one.publish()

        self.assertIn("redis.backlog", str(caught.exception))
        await self.one.publish(1, persist=False)
        store.trouble = None
        await self.drained()
        self.assertEqual(await self.history(store), accepted)
        await self.one.publish()

    async def test_logs_are_trimmed_below_what_is_persisted(self) -> None:
        """Without a persister everything stays, whatever is mixed in; after it ran the window remains."""
        await self.prepare(recovery_messages=20)
        for n in range(40):
            await self.one.publish(10, persist=n % 4 != 3)
        self.assertEqual(await self.one.kept(), 400)
        self.assertEqual(await self.one.ask("TTL", _LOG), -1)
        store = Store()
        self.persist(self.work, store)
        await self.drained()
        self.assertGreater(await self.one.ask("PTTL", _LOG), 0)

        await self.one.publish(16, persist=False)

        self.assertLessEqual(await self.one.kept(), 36)
        self.assertEqual(len(await self.history(store)), 300)

    async def test_idle_logs_expire_only_when_persisted(self) -> None:
        """A log in which something waits stays for as long as that takes."""
        await self.prepare(recovery_seconds=0.05)
        await self.one.publish(3)
        await self.one.publish(2, persist=False)
        self.assertEqual(await self.one.ask("PTTL", _LOG), -1)

        work = await self.taken(self.work)

        self.assertEqual(self.sequences(work), [1, 2, 3])
        await self.work.done(work)
        self.assertGreater(await self.one.ask("PTTL", _LOG), 0)

    async def test_rejected(self) -> None:
        """A message that the store can never take is buried, and the others are stored."""
        await self.prepare()
        await self.one.publish(3)

        class Picky(Store):
            async def append(self, app: str, messages: list[Message]) -> None:
                await super().append(app, [m for m in messages if m.sequence != 2])
                raise Rejected([(m, "too odd") for m in messages if m.sequence == 2])

        store = Picky()
        self.persist(self.work, store)

        await self.drained()
        self.assertEqual(await self.history(store), [1, 3])
        [[_, fields]] = await self.one.ask("XRANGE", "wsock:dead", "-", "+")
        self.assertEqual(fields[3], b"too odd")

    async def test_redis_is_killed(self) -> None:
        """The persister goes on when Redis is back, and everything that was acknowledged arrives."""
        await self.prepare()
        store = Store()
        self.persist(self.work, store)
        await self.one.publish(400)
        await self.restarted(self.server, self.one)

        await self.one.publish(100)

        await self.until(lambda: store.appended >= 500)
        self.assertEqual(await self.history(store), list(range(1, 501)))
