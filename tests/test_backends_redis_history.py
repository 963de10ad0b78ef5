"""Tests of wsock.backends.redis_history over a real server, against one store in memory."""

from __future__ import annotations

import random  # noqa: TID251  # seeded, so that a failure repeats
from typing import Literal

from zope.interface.verify import verifyObject

from tests.redis_cases import Node, RedisTestCase
from wsock.backends.memory_store import MemoryMessages
from wsock.backends.redis import LogHistory, MergedHistory
from wsock.interfaces import IMessageStore
from wsock.protocol.messages import HistoryQuery, Message, Page
from wsock.protocol.position import Position
from wsock.testing.contracts.broker import make_publication, published

_DIRECTIONS: tuple[Literal["forward", "backward"], ...] = ("forward", "backward")


class HistoryTests(RedisTestCase):
    """Pages of messages wherever they are."""

    async def accepted(self, node: Node) -> list[Message]:
        position = Position((await node.position()).epoch, 0)
        return await node.broker.read("app", "room", position, 100_000)

    async def burst(self, node: Node, rolls: random.Random, number: int) -> None:
        """Messages of which many share their timestamp, since the app has more than it can tell apart."""
        ahead = await self.clock(node) + rolls.choice((990, 1000))
        await node.ask("SET", "wsock:clock:app", max(ahead, int(await node.ask("GET", "wsock:clock:app") or 0)))
        answers = [published(node.broker, make_publication(persist=rolls.random() < 0.7)) for _ in range(number)]
        for answer in answers:
            await answer

    async def clock(self, node: Node) -> int:
        seconds, micros = await node.ask("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def assert_same(self, history: IMessageStore, whole: MemoryMessages, messages: list[Message]) -> None:
        """Pages of every kind are those of the one store."""
        edges: list[int | None] = [None, *(messages[n].timestamp for n in range(0, len(messages), 23))]
        for direction in _DIRECTIONS:
            for limit in (1, 7, 50, 1000):
                for bound in edges:
                    for query in (
                        HistoryQuery(limit=limit, direction=direction, before=bound),
                        HistoryQuery(limit=limit, direction=direction, after=bound),
                    ):
                        page = await history.page("app", "room", query)
                        self.assertEqual(page, await whole.page("app", "room", query), query)

    async def test_provide_the_interface(self) -> None:
        """Both are message stores."""
        node = await self.node(self.redis().url)

        verifyObject(IMessageStore, LogHistory(node.broker))
        verifyObject(IMessageStore, MergedHistory(MemoryMessages(), node.broker))

    async def test_merged_is_the_same_as_one_store(self) -> None:
        """Whatever part is persisted, in whatever order, and however many share a timestamp."""
        for seed in range(4):
            rolls = random.Random(seed)
            node = await self.node(self.redis().url, backlog=100_000)
            for _ in range(4):
                await self.burst(node, rolls, 40)
            messages = await self.accepted(node)
            whole, store = MemoryMessages(), MemoryMessages()
            await whole.append("app", messages)
            await self.persist_some(node, store, messages, rolls)

            await self.assert_same(MergedHistory(store, node.broker), whole, messages)

    async def persist_some(
        self, node: Node, store: MemoryMessages, messages: list[Message], rolls: random.Random
    ) -> None:
        """A run from the start is persisted and done, others are persisted but not done yet."""
        kept = [message for message in messages if message.persist]
        done = rolls.randrange(len(kept))
        await store.append("app", kept[:done])
        await store.append("app", [message for message in kept[done:] if rolls.random() < 0.4])
        if done:
            await node.ask("XTRIM", "wsock:queue", "MAXLEN", len(kept) - done)

    async def test_log_is_the_same_as_one_store(self) -> None:
        """Without a store the log answers, in the same pages."""
        rolls = random.Random(7)
        node = await self.node(self.redis().url)
        for _ in range(4):
            await self.burst(node, rolls, 40)
        messages = await self.accepted(node)
        whole = MemoryMessages()
        await whole.append("app", messages)

        await self.assert_same(LogHistory(node.broker), whole, messages)

    async def test_acknowledged_is_visible_on_every_node(self) -> None:
        """At once, before anything is persisted, and also far behind many newer ones."""
        server = self.redis()
        nodes = [await self.node(server.url, backlog=100_000) for _ in range(2)]
        histories = [MergedHistory(MemoryMessages(), node.broker) for node in nodes]
        first = await published(nodes[0].broker, make_publication())
        for history in histories:
            page = await history.page("app", "room", HistoryQuery())
            self.assertEqual([message.sequence for message in page.messages], [1])
        await nodes[1].publish(12_000)

        for history in histories:
            page = await history.page("app", "room", HistoryQuery(before=first.timestamp + 1))
            self.assertEqual([message.sequence for message in page.messages], [1])
            oldest = await history.page("app", "room", HistoryQuery(limit=3, direction="forward"))
            self.assertEqual([message.sequence for message in oldest.messages], [1, 2, 3])

    async def test_bounds_of_any_size(self) -> None:
        """Bounds far outside of what a timestamp can be, and bounds that cross, are no error."""
        node = await self.node(self.redis().url)
        await node.publish()
        history = LogHistory(node.broker)

        everything = await history.page("app", "room", HistoryQuery(after=-(10**30), before=10**30))
        self.assertEqual(len(everything.messages), 1)
        for query in (HistoryQuery(after=10**30), HistoryQuery(after=5000, before=100)):
            self.assertEqual(await history.page("app", "room", query), Page([], False))
        self.assertEqual(await history.page("app", "nobody", HistoryQuery()), Page([], False))

    async def test_logs_are_bounded_by_age(self) -> None:
        """Without a store, messages leave an active channel when they are too old."""
        node = await self.node(self.redis().url, history_seconds=0.05)
        await node.publish(5)
        began = await self.clock(node)
        while await self.clock(node) < began + 1100:
            await node.ask("PING")
            await node.publish(1)
        await node.publish(16)

        page = await LogHistory(node.broker).page("app", "room", HistoryQuery(limit=1000, direction="forward"))

        self.assertGreater(page.messages[0].sequence, 5)
