"""The meters are kept alike in memory, in SQLite and in MongoDB."""

from __future__ import annotations

from pathlib import Path

from tests.base import TestCase
from tests.test_backends_mongo import MongoTestCase
from tests.test_backends_sqlite import SqliteTestCase
from wsock.backends.memory_meters import MemoryMeters
from wsock.backends.mongo import MongoDatabase, MongoMeters
from wsock.backends.sqlite import SqliteMeters
from wsock.interfaces import Sample
from wsock.measures import Span
from wsock.testing.contracts.meters import AT, DAY, MeterStoreContract


class MemoryMetersTests(MeterStoreContract, TestCase):
    """The memory store is an IMeterStore."""

    async def make_meters(self) -> MemoryMeters:
        return MemoryMeters()


class SqliteMetersTests(MeterStoreContract, SqliteTestCase):
    """SQLite is an IMeterStore."""

    async def make_meters(self) -> SqliteMeters:
        return SqliteMeters(self.open())


class MongoMetersTests(MeterStoreContract, MongoTestCase):
    """MongoDB is an IMeterStore."""

    async def make_meters(self) -> MongoMeters:
        return MongoMeters(await self.open())


class SqliteRestartTests(SqliteTestCase):
    """Counters survive a restart."""

    async def test_reopen(self) -> None:
        """What was added is there after a stop and a start, and so is what a repeated flush goes by."""
        path: Path = self.path()
        database = self.open(path)
        await SqliteMeters(database).add("n1", 5, AT, [Sample("shop", {"x": 2}, {"peak": 3})])
        await database.stop()

        meters = SqliteMeters(self.open(path))
        await meters.add("n1", 5, AT, [Sample("shop", {"x": 2}, {})])

        [part] = await meters.series("shop", Span.MONTH, 0, AT + DAY, 9)
        self.assertEqual((part.counts, part.peaks), ({"x": 2}, {"peak": 3}))


class MongoPartsTests(MongoTestCase):
    """What came half way is finished by a repetition, and what nodes left behind goes."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        self.database_: MongoDatabase = await self.open()
        self.meters = MongoMeters(self.database_)

    async def documents(self, span: Span) -> list[dict[str, object]]:
        async def find(database: object) -> list[dict[str, object]]:
            found: list[dict[str, object]] = await database["meter"].find({"span": span.value})  # type: ignore[index]
            return found

        return await self.database_.read(find)

    async def test_half_way(self) -> None:
        """Where the first attempt added to some parts only, the second adds to the others."""
        await self.meters.add("n1", 1, AT, [Sample("shop", {"x": 1}, {})])

        async def undo(database: object) -> None:
            for span in (Span.DAY, Span.MONTH):
                await database["meter"].delete_many({"span": span.value})  # type: ignore[index]

        await self.database_.write(undo)
        await self.meters.add("n1", 1, AT, [Sample("shop", {"x": 1}, {})])

        for span in Span:
            [part] = await self.meters.series("shop", span, 0, AT + DAY, 9)
            self.assertEqual(part.counts, {"x": 1}, span)

    async def test_nodes_of_long_ago(self) -> None:
        """The numbers of nodes that ended are forgotten; what they counted stays."""
        for number, node in ((AT, "old"), (AT + DAY, "new")):
            await self.meters.add(node, number, AT, [Sample("shop", {"x": 1}, {})])

        await self.meters.forget(AT + 1, 0)

        [month] = await self.documents(Span.MONTH)
        self.assertEqual((month["numbers"], month["counts"]), ({"new": AT + DAY}, {"x": 2}))
        await self.meters.forget(AT + 2 * DAY, 0)
        [day] = await self.documents(Span.DAY)
        self.assertNotIn("numbers", day)
        self.assertEqual(day["counts"], {"x": 2})
