"""From a publish to the outbox, over a real Redis and a real MongoDB."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from tests.base import TestCase
from tests.servers import RedisServer, fresh_mongo_url, private_redis
from wsock.cluster import build_cluster
from wsock.config import Config, Mongo, Redis
from wsock.errors import Unavailable
from wsock.interfaces import Account, App, Endpoint, IWorkQueue, OutboxRow, Work
from wsock.protocol.messages import HistoryQuery, Publication
from wsock.services.events import Events
from wsock.services.outbox import Outbox
from wsock.services.persister import Persister
from wsock.stores import Stores
from wsock.testing.contracts.broker import published


@implementer(IWorkQueue)
class FailingQueue:
    """A queue that loses its connection the first time that work is done; the work is given out again soon."""

    def __init__(self, queue: IWorkQueue, server: RedisServer) -> None:
        self._queue = queue
        self._server = server
        self.taken: list[Work] = []
        self.finished = 0

    async def take(self, limit: int) -> Work:
        """See IWorkQueue."""
        work = await self._queue.take(limit)
        if work.ids:
            self.taken.append(work)
        return work

    async def is_first(self, work: Work) -> bool:
        """See IWorkQueue."""
        return await self._queue.is_first(work)

    async def take_left(self, limit: int) -> Work:
        """See IWorkQueue."""
        return await self._queue.take_left(limit)

    async def length(self) -> int:
        """See IWorkQueue."""
        return await self._queue.length()

    async def done(self, work: Work) -> None:
        """See IWorkQueue."""
        if work.ids and len(self.taken) == 1:
            # As if the entries had been idle for long: nobody has to wait until their node is believed dead.
            self._server.call(f"XCLAIM wsock:queue persist gone 0 {' '.join(work.ids)} IDLE 60000".encode())
            raise Unavailable("the connection was lost")
        await self._queue.done(work)
        self.finished += bool(work.ids)

    async def bury(self, work: Work, text: str, reason: str) -> None:
        """See IWorkQueue."""
        await self._queue.bury(work, text, reason)


class PublishTests(TestCase):
    """A node with a persister, and an app with endpoints."""

    timeout = 60

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        from twisted.internet import reactor  # noqa: TID251  # trial's own: txmongo takes no other

        self.reactor: Any = reactor
        self.redis = private_redis(self)
        names = count(1)
        config = Config(redis=Redis(urls=(self.redis.url,)), mongo=Mongo(url=fresh_mongo_url(self)))
        self.stores = build_cluster(config, reactor, lambda: 1_700_000_000.0, lambda: f"node{next(names)}")
        self.addCleanup(lambda: Deferred.fromCoroutine(self.stores.stop()))
        await self.stores.start()
        await self.add_app(self.stores)

    async def add_app(self, stores: Stores) -> None:
        """An app with an endpoint that wants messages of orders, and others that don't."""
        owner = Account(id="owner", email="owner@localhost", password_hash="x", created_at=1)
        await stores.directory.create(App(id="shop", name="Shop", created_at=1), [], owner)
        for id, events, channels in (
            ("orders", ("message.*",), "orders:*"),
            ("presence", ("presence.*",), None),
            ("rooms", (), "room:*"),
        ):
            url = f"https://example.org/{id}"
            endpoint = Endpoint(
                id=id, app="shop", url=url, created_at=1, events=events, channels=channels, is_ordered=True
            )
            await stores.directory.add_endpoint(endpoint)

    def persist(self) -> FailingQueue:
        """Starts to work off the queue, whose first acknowledgement fails."""
        [queue] = self.stores.queues
        failing = FailingQueue(queue, self.redis)
        outbox = Outbox(self.stores.directory, self.stores.outbox, lambda: 1_700_000_000.0)
        self.stores.hear(Events(outbox, self.reactor, lambda: 1_700_000_000.0, lambda: "x"))
        persister = Persister(failing, self.stores.history, outbox.record, self.reactor)
        persister.startService()
        self.addCleanup(persister.stopService)
        return failing

    def publish(self, channel: str, data: bytes, *, persist: bool = True) -> Deferred[Any]:
        """Publishes for Ada."""
        publication = Publication(
            app="shop",
            channel=channel,
            data=Raw(data),
            id="m-1",
            has_id=True,
            identity="key",
            publisher_id="ada",
            persist=persist,
        )
        return published(self.stores.broker, publication)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Returns as soon as it is so; the test's time limit is the deadline."""
        while not is_so():
            await deferLater(self.reactor, 0.02)

    async def rows(self) -> list[OutboxRow]:
        """What is to be told."""
        return await self.stores.outbox.pending("shop", 100)

    async def test_one_row_for_one_message(self) -> None:
        """A message that an endpoint wants makes one row, though the work is done twice."""
        receipt = await self.publish("orders:7", b'{ "n":1.50 }')
        await self.publish("lobby", b"1")

        queue = self.persist()
        await self.until(lambda: queue.finished > 0)

        [row] = await self.rows()
        self.assertEqual([work.ids for work in queue.taken], [queue.taken[0].ids] * 2)
        self.assertEqual(self.redis.call(b"XLEN wsock:queue"), b":0\r\n")
        self.assertEqual(row.endpoint, "orders")
        self.assertEqual(row.event.id, f"{receipt.epoch}-{receipt.sequence}@shop/orders:7")
        self.assertIn(b'{ "n":1.50 }', row.event.data)
        self.assertEqual(msgspec.json.decode(row.event.data)["publisherId"], "ada")
        page = await self.stores.history.page("shop", "orders:7", HistoryQuery())
        self.assertEqual([message.id for message in page.messages], ["m-1"])

    async def test_no_history(self) -> None:
        """A message that is no history is told as well, where somebody wants that, and is not stored."""
        broker: Any = self.stores.broker
        broker.tell_of(lambda app, channel: True)
        await self.publish("lobby", b"1", persist=False)
        self.assertEqual(self.redis.call(b"XLEN wsock:queue"), b":1\r\n")
        self.assertEqual((await self.stores.history.page("shop", "lobby", HistoryQuery())).messages, [])
        queue = self.persist()
        await self.until(lambda: queue.finished > 0)
        await self.publish("orders:7", b'{ "n":1.50 }', persist=False)
        await self.publish("lobby:2", b"1", persist=False)
        await self.until(lambda: queue.finished > 1)

        [row] = await self.rows()
        self.assertEqual((row.endpoint, row.event.channel, row.ordered), ("orders", "orders:7", True))
        self.assertIn(b'{ "n":1.50 }', row.event.data)
        self.assertEqual(self.redis.call(b"XLEN wsock:queue"), b":0\r\n")
        page = await self.stores.history.page("shop", "orders:7", HistoryQuery())
        self.assertEqual(page.messages, [])

    async def test_presence_and_occupancy(self) -> None:
        """What happens to channels and members is told by the consumer; who is back soon makes no noise."""
        queue = self.persist()
        for _ in range(2):
            self.stores.broker.occupy("shop", "room:1")
            await self.stores.presence.enter("shop", "room:1", "ada", "c1", b"{}", 1_700_000_000.0)
            await self.stores.presence.leave("shop", "room:1", "ada", "c1", "left")
            self.stores.broker.vacate("shop", "room:1")
        told: dict[str, list[str]] = {}
        while len(told.get("rooms", [])) < 4:
            await deferLater(self.reactor, 0.2)
            await self.stores.presence.reap(1_700_000_000.0)
            told = {}
            for row in await self.rows():
                told.setdefault(row.endpoint, []).append(row.event.type)

        self.assertGreater(queue.finished, 0)
        self.assertEqual(told["presence"], ["presence.enter", "presence.leave"])
        self.assertEqual(
            sorted(told["rooms"]), ["channel.occupied", "channel.vacated", "presence.enter", "presence.leave"]
        )
