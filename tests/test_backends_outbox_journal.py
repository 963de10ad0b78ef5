"""Tests of wsock.backends.outbox_journal: what is to be told of messages is stored with them, or neither is."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase, TestCase
from wsock.backends.memory_outbox import MemoryOutbox
from wsock.backends.memory_store import MemoryMessages
from wsock.backends.outbox_journal import OutboxJournal
from wsock.backends.sqlite import SqliteDatabase, SqliteMessages, SqliteOutbox
from wsock.errors import Unavailable
from wsock.interfaces import Event, IJournal, JournalRecord, OutboxRow
from wsock.stores import _keep_in_file, _keep_in_memory
from wsock.testing.contracts.journal import records
from wsock.testing.contracts.message_store import make_message


def row(number: int) -> OutboxRow:
    """Something to be told of a message."""
    event = Event(id=f"e{number}", app="app", channel="room", type="message.published", data=b"{}")
    return OutboxRow(event, "hook", 1.0)


class MemoryTests(SynchronousTestCase):
    """A journal in memory."""

    def setUp(self) -> None:
        self.messages, self.outbox = MemoryMessages(), MemoryOutbox()
        self.journal = OutboxJournal(self.messages, partial(_keep_in_memory, self.messages, self.outbox))
        self.kept: list[OutboxRow] = []
        self.journal.kept = self.kept.extend

    def test_provides_the_interface(self) -> None:
        """It is a journal."""
        verifyObject(IJournal, self.journal)

    def test_with_rows(self) -> None:
        """Messages and rows are there when the commit returns, which is at once; whoever asked hears of the rows."""

        async def rows(committed: list[JournalRecord]) -> list[OutboxRow]:
            return [row(record.message.sequence) for record in committed]

        self.journal.rows = rows
        committed = records(make_message(1), make_message(2))

        self.successResultOf(self.journal.commit(committed))

        self.assertEqual(self.successResultOf(self.outbox.pending("app", 9)), [row(1), row(2)])
        self.assertEqual(self.kept, [row(1), row(2)])
        tail = self.successResultOf(self.journal.tail(committed[0].app, "room", 0, 9))
        self.assertEqual(len(tail.recent), 2)

    def test_without(self) -> None:
        """Where nobody is to be told, only the messages are stored."""
        self.successResultOf(self.journal.commit(records(make_message(1))))

        self.assertEqual((self.successResultOf(self.outbox.pending("app", 9)), self.kept), ([], []))

    def test_unknown(self) -> None:
        """When it is not known who is to be told, nothing is stored."""

        async def rows(committed: list[JournalRecord]) -> list[OutboxRow]:
            raise Unavailable("away")

        self.journal.rows = rows
        committed = records(make_message(1))

        self.failureResultOf(self.journal.commit(committed), Unavailable)

        self.assertIsNone(self.successResultOf(self.journal.tail(committed[0].app, "room", 0, 9)))


class FileTests(TestCase):
    """A journal in a SQLite file."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        from twisted.internet import reactor  # noqa: TID251  # trial's own: the database has threads

        self.database = SqliteDatabase(Path(self.mktemp()) / "wsock.db", cast(IReactorFromThreads, reactor))
        self.database.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.database.stop()))
        self.messages, self.outbox = SqliteMessages(self.database), SqliteOutbox(self.database)
        self.journal = OutboxJournal(self.messages, partial(_keep_in_file, self.messages, self.outbox))

        async def rows(committed: list[JournalRecord]) -> list[OutboxRow]:
            return [row(record.message.sequence) for record in committed]

        self.journal.rows = rows

    async def test_one_transaction(self) -> None:
        """Both are in the same transaction."""
        committed = records(make_message(1), make_message(2))
        await self.journal.commit(committed)

        self.assertEqual(await self.outbox.pending("app", 9), [row(1), row(2)])
        tail: Any = await self.journal.tail(committed[0].app, "room", 0, 9)
        self.assertEqual(len(tail.recent), 2)

    async def test_rows_fail(self) -> None:
        """When the rows can't be stored, the messages are not either, and the publisher hears of it."""

        def broken(connection: sqlite3.Connection) -> None:
            raise sqlite3.OperationalError("disk full")

        self.patch(self.outbox, "adding", lambda rows: broken)
        committed = records(make_message(1))

        with self.assertRaises(Unavailable):
            await self.journal.commit(committed)

        self.assertIsNone(await self.journal.tail(committed[0].app, "room", 0, 9))

    async def test_messages_fail(self) -> None:
        """When the messages can't be stored, nothing is told of them."""
        committed = records(make_message(1))
        await self.messages.commit(committed)

        with self.assertRaises(Unavailable):
            await self.journal.commit(committed)  # their place is taken

        self.assertEqual(await self.outbox.pending("app", 9), [])
