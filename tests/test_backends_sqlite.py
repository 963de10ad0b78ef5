"""Tests of wsock.backends.sqlite: the contracts, and what only a file on a disk can promise."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import cast
from unittest import SkipTest

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import provider

from tests.base import TestCase
from wsock.backends.sqlite import SqliteAudit, SqliteDatabase, SqliteDirectory, SqliteMessages, SqliteOutbox
from wsock.backends.sqlite_file import load_migrations
from wsock.errors import ConfigError, Unavailable
from wsock.protocol.messages import HistoryQuery
from wsock.records import Account, App, Key, Membership, Role, Team
from wsock.testing.contracts.audit import AuditContract
from wsock.testing.contracts.directory import DirectoryContract
from wsock.testing.contracts.journal import JournalContract, JournalHistoryContract, records
from wsock.testing.contracts.message_store import MessageStoreContract, make_message
from wsock.testing.contracts.outbox import DeliveryContract, OutboxContract, make_row
from wsock.testing.contracts.records import RecordsContract

WRITER = """
import sys
from pathlib import Path
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from wsock.backends.sqlite import SqliteDatabase, SqliteMessages
from wsock.testing.contracts.journal import records
from wsock.testing.contracts.message_store import make_message

async def write(database):
    database.start()
    print("open", flush=True)
    messages = SqliteMessages(database)
    sequence = 0
    while True:
        batch = [make_message(sequence + n, timestamp=sequence + n) for n in (1, 2, 3)]
        await messages.commit(records(*batch))
        sequence += 3
        print(sequence, flush=True)

database = SqliteDatabase(Path(sys.argv[1]), reactor)
reactor.callWhenRunning(lambda: Deferred.fromCoroutine(write(database)))
reactor.run()
"""


OPENER = """
import sys
from pathlib import Path
from twisted.internet import reactor
from wsock.backends.sqlite import SqliteDatabase
from wsock.errors import ConfigError

try:
    SqliteDatabase(Path(sys.argv[1]), reactor).start()
    print("opened")
except ConfigError as e:
    print(e)
"""


_FIRST_RELEASE = """
INSERT INTO app VALUES ('shop', 'Shop', 5, 1, '["https://a"]');
INSERT INTO key VALUES ('k', 'shop', 'Key', 6, '', '', 's', NULL, NULL, '{"*": ["*"]}', NULL, NULL, 0);
INSERT INTO account VALUES ('a', 'A@x', 'a@x', '$', 7, 'owner'), ('b', 'b@x', 'b@x', '$', 8, 'admin');
"""


class SqliteTestCase(TestCase):
    """Makes databases that are closed when the test ends."""

    def path(self) -> Path:
        """A place for a database of its own; neither it nor its directory is there yet."""
        return Path(self.mktemp()).absolute() / "data" / "wsock.db"

    def open(self, path: Path | None = None, migrations: list[str] | None = None) -> SqliteDatabase:
        """A started database."""
        from twisted.internet import reactor  # noqa: TID251  # trial's own: threads report to it

        threads = cast(IReactorFromThreads, reactor)
        database = SqliteDatabase(path or self.path(), threads, migrations=migrations)
        database.start()
        self.addCleanup(database.stop)
        return database

    def refused(self, path: Path, migrations: list[str] | None = None) -> str:
        """Why a database can't be opened, in one line."""
        text = str(self.assertRaises(ConfigError, self.open, path, migrations))
        self.assertNotIn("\n", text)
        return text


class SqliteMessageStoreTests(MessageStoreContract, SqliteTestCase):
    """SQLite is an IMessageStore."""

    async def make_message_store(self) -> SqliteMessages:
        return SqliteMessages(self.open())


class SqliteJournalTests(JournalContract, SqliteTestCase):
    """SQLite is an IJournal."""

    async def make_journal(self) -> SqliteMessages:
        return SqliteMessages(self.open())


class SqliteJournalHistoryTests(JournalHistoryContract, SqliteTestCase):
    """SQLite is both at once."""

    async def make_messages(self) -> SqliteMessages:
        return SqliteMessages(self.open())


class SqliteDirectoryTests(DirectoryContract, SqliteTestCase):
    """SQLite is an IDirectory."""

    async def make_directory(self) -> SqliteDirectory:
        return SqliteDirectory(self.open())


class SqliteRecordsTests(RecordsContract, SqliteTestCase):
    """SQLite is an IRecords."""

    async def make_records(self) -> SqliteDirectory:
        return SqliteDirectory(self.open())


class SqliteAuditTests(AuditContract, SqliteTestCase):
    """SQLite is an IAuditLog."""

    async def make_audit(self) -> SqliteAudit:
        return SqliteAudit(self.open())


class SqliteOutboxTests(OutboxContract, SqliteTestCase):
    """SQLite is an IOutboxStore."""

    async def make_outbox(self) -> SqliteOutbox:
        return SqliteOutbox(self.open())


class SqliteDeliveryTests(DeliveryContract, SqliteTestCase):
    """What is in it is given out and settled as in every IOutboxStore."""

    async def make_outbox(self) -> SqliteOutbox:
        return SqliteOutbox(self.open())


class DurabilityTests(SqliteTestCase):
    """What was acknowledged is there after the process ended, however it did."""

    async def test_reopen(self) -> None:
        """Messages, positions, ids and timestamps are there after a stop and a start."""
        path = self.path()
        database = self.open(path)
        await SqliteMessages(database).commit(records(make_message(1), make_message(2), identity="alice"))
        await database.stop()

        messages = SqliteMessages(self.open(path))

        tail = await messages.tail("app", "room", 0, 10)
        assert tail is not None
        self.assertEqual(tail.recent, [make_message(1), make_message(2)])
        self.assertEqual(len(await messages.recent_ids(0)), 2)
        self.assertEqual(await messages.last_timestamps(), {"app": 2000})

    async def test_kill_loses_no_acknowledged_batch(self) -> None:
        """After kill -9 every batch that was told to be committed is whole, and so is the last one."""
        path = self.path()
        process = self.spawn(path)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(30)]
        process.kill()
        lines += process.stdout.readlines()
        process.wait()
        acknowledged = max(int(line) for line in lines[1:] if line.endswith("\n"))

        messages = SqliteMessages(self.open(path))

        tail = await messages.tail("app", "room", 0, 1 << 20)
        assert tail is not None
        stored = [message.sequence for message in tail.recent]
        self.assertGreaterEqual(tail.position.sequence, acknowledged)
        self.assertEqual(stored, list(range(1, tail.position.sequence + 1)))
        self.assertEqual(len(stored) % 3, 0)

    async def test_second_process_is_refused(self) -> None:
        """While a process has the data directory, another one can't open it; when it is dead, it can."""
        path = self.path()
        process = self.spawn(path)
        assert process.stdout is not None
        self.assertEqual(process.stdout.readline(), "open\n")

        self.assertIn("another wsock uses this data directory", self.refused(path))

        process.kill()
        process.wait()
        self.open(path)

    async def test_second_database_of_a_process_is_refused(self) -> None:
        """The lock holds within a process as well, and a refusal leaves it as it was, until the first one stops."""
        path = self.path()
        first = self.open(path)

        self.assertIn("another wsock uses this data directory", self.refused(path))

        self.assertIn("another wsock uses this data directory", _opened_elsewhere(path))
        await first.stop()
        self.assertIn("opened", _opened_elsewhere(path))
        self.open(path)

    async def test_start_again(self) -> None:
        """A stopped database can be started again, and stopped with work to do."""
        database = self.open()
        messages = SqliteMessages(database)
        first = messages.commit(records(make_message(1)))
        await database.stop()
        database.start()
        second = messages.commit(records(make_message(2)))
        await database.stop()

        self.assertEqual((self.successResultOf(first), self.successResultOf(second)), (None, None))

    def spawn(self, path: Path) -> subprocess.Popen[str]:
        """A process that commits batches until it is killed, and prints the last sequence of each."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=environment
        )
        self.addCleanup(self.end, process)
        return process

    def end(self, process: subprocess.Popen[str]) -> None:
        """Leaves no process behind."""
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class OpeningTests(SqliteTestCase):
    """A database that can't be used keeps the server from starting, with a clear line."""

    async def test_files_are_private(self) -> None:
        """Nobody else can read the data directory and what is in it."""
        path = self.path()
        database = self.open(path)
        await SqliteMessages(database).commit(records(make_message(1)))

        self.assertEqual(stat.S_IMODE(path.parent.stat().st_mode), 0o700)
        self.assertEqual({stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}, {0o600})

    async def test_directory_that_is_a_file(self) -> None:
        """The text names the directory and the option."""
        path = self.path()
        path.parent.parent.mkdir()
        path.parent.write_text("")

        text = self.refused(path)

        self.assertIn(str(path.parent), text)
        self.assertIn("--data", text)

    async def test_unwritable_directory(self) -> None:
        """A directory without permission to write is refused."""
        if os.geteuid() == 0:
            raise SkipTest("root may write everywhere")
        path = self.path()
        path.parent.mkdir(parents=True, mode=0o500)

        self.assertIn("Permission denied", self.refused(path))

    async def test_foreign_file(self) -> None:
        """A file that is no database is refused, and stays as it is."""
        path = self.path()
        path.parent.mkdir(parents=True)
        path.write_bytes(b"precious" * 1000)

        self.assertIn("can't be opened as a database of wsock", self.refused(path))

        self.assertEqual(path.read_bytes(), b"precious" * 1000)

    async def test_file_of_somebody_else(self) -> None:
        """A file without the permission to write it is refused, though SQLite would open it to read."""
        if os.geteuid() == 0:
            raise SkipTest("root may write everywhere")
        path = self.path()
        await self.open(path).stop()
        path.chmod(0o400)

        self.assertIn("Permission denied", self.refused(path))

    async def test_newer_schema_is_refused(self) -> None:
        """A database of a later wsock is refused, with both versions."""
        path = self.path()
        newer = [*load_migrations(), "CREATE TABLE later (id INTEGER) STRICT;"]
        await self.open(path, newer).stop()

        text = self.refused(path)

        self.assertIn(f"schema version {len(newer)}", text)
        self.assertIn(f"knows {len(newer) - 1} at most", text)

    async def test_older_schema_is_migrated(self) -> None:
        """What is stored is kept, the version moves on, and a copy of the old file stands beside it."""
        path = self.path()
        database = self.open(path)
        await SqliteMessages(database).commit(records(make_message(1)))
        await database.stop()
        version = len(load_migrations())

        messages = SqliteMessages(self.open(path, [*load_migrations(), "ALTER TABLE message ADD COLUMN tag TEXT;"]))

        await messages.commit(records(make_message(2)))
        copy = path.with_name(f"wsock.db.v{version}")
        self.assertEqual(await _count(messages), 2)
        self.assertEqual(_inspect(path, "PRAGMA user_version"), version + 1)
        self.assertEqual(_inspect(copy, "PRAGMA user_version"), version)
        self.assertEqual(_inspect(copy, "SELECT count(*) FROM message"), 1)
        self.assertEqual(stat.S_IMODE(copy.stat().st_mode), 0o600)

    async def test_control_plane_of_the_first_release(self) -> None:
        """Its apps get a team whose members are its accounts; whoever owned the server runs it still."""
        path = self.path()
        await self.open(path, load_migrations()[:2]).stop()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(_FIRST_RELEASE)

        directory = SqliteDirectory(self.open(path))

        self.assertEqual(
            await directory.apps(),
            [App(id="shop", name="Shop", created_at=5, allowed_origins=("https://a",), team="team_first")],
        )
        self.assertEqual(
            (await directory.page(Team, {}, None, 9)).items, [Team(id="team_first", name="First team", created_at=5)]
        )
        members = (await directory.page(Membership, {"team": "team_first"}, None, 9)).items
        self.assertEqual([(m.account, m.role) for m in members], [("a", Role.OWNER), ("b", Role.ADMIN)])
        accounts = (await directory.page(Account, {}, None, 9)).items
        self.assertEqual([(account.id, account.is_operator) for account in accounts], [("a", True), ("b", False)])
        key = await directory.key("k")
        self.assertEqual(key, Key(id="k", app="shop", name="Key", created_at=6, secret="s"))
        self.assertTrue(await directory.remove(Team, "team_first"))

    async def test_outbox_of_before(self) -> None:
        """What endpoints were to be told before webhooks were sent is pending, in its order."""
        path = self.path()
        await self.open(path, load_migrations()[:5]).stop()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for id in ("b", "a"):
                row = ("app", id, "endpoint", "room", "message.published", 7.5, b"{}")
                connection.execute(
                    "INSERT INTO outbox (app, event, endpoint, channel, type, created, data)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    row,
                )

        outbox = SqliteOutbox(self.open(path))

        expected = [make_row("b", created=7.5), make_row("a", created=7.5)]
        self.assertEqual(await outbox.pending("app", 9), expected)
        self.assertEqual([one.row for one in await outbox.claim("node", "endpoint", 7.5, 60.0, 9)], expected)
        await outbox.add(expected)
        self.assertEqual(await outbox.pending("app", 9), expected)

    async def test_failed_migration_changes_nothing(self) -> None:
        """A migration is applied as a whole or not at all, and the database can be opened as before."""
        path = self.path()
        await self.open(path).stop()
        broken = [*load_migrations(), "CREATE TABLE half (id INTEGER); CREATE TABLE half (id INTEGER);"]

        self.assertIn("can't be brought to schema version", self.refused(path, broken))

        self.open(path)
        self.assertEqual(_inspect(path, "SELECT count(*) FROM sqlite_schema WHERE name = 'half'"), 0)


class DatabaseTests(SqliteTestCase):
    """The threads and their transactions."""

    async def test_closed_database_is_unavailable(self) -> None:
        """After the stop, and before the start, everything is refused and nothing hangs."""
        database = self.open()
        messages = SqliteMessages(database)
        await database.stop()
        await database.stop()

        with self.assertRaises(Unavailable):
            await messages.commit(records(make_message(1)))
        with self.assertRaises(Unavailable):
            await messages.tail("app", "room", 0, 1)

    async def test_stop_finishes_what_was_asked_for(self) -> None:
        """Reads and writes that wait when the stop comes are done first."""
        database = self.open()
        messages = SqliteMessages(database)
        waiting = [messages.commit(records(make_message(n))) for n in range(1, 200)]
        reads = [Deferred.fromCoroutine(messages.last_timestamps()) for _ in range(20)]

        await database.stop()

        self.assertEqual([self.successResultOf(write) for write in waiting], [None] * 199)
        self.assertEqual(len([self.successResultOf(read) for read in reads]), 20)

    async def test_reader_is_not_blocked_by_the_writer(self) -> None:
        """While a transaction is open, a page is answered from what was committed before."""
        database = self.open()
        messages = SqliteMessages(database)
        await messages.commit(records(make_message(1)))
        writer = _Gate()
        writing = database.write(writer)
        waiting = messages.commit(records(make_message(2)))

        count = await _count(messages)

        writer.opened.set()
        self.assertEqual(count, 1)
        await gatherResults([writing, waiting])
        self.assertEqual(await _count(messages), 2)

    async def test_a_failure_is_undone_alone(self) -> None:
        """Of works that share a transaction, one that raises changes nothing; the others are kept."""
        database = self.open()
        messages = SqliteMessages(database)
        writer = _Gate()
        database.write(writer)
        good = messages.commit(records(make_message(1)))
        bad = database.write(_insert_and_fail)
        also_good = messages.commit(records(make_message(2)))
        writer.opened.set()

        with self.assertRaises(ZeroDivisionError):
            await bad

        await gatherResults([good, also_good])
        self.assertEqual(await messages.last_timestamps(), {"app": 2000})

    async def test_a_failure_of_a_read(self) -> None:
        """A read that raises fires its error, and leaves its connection fit for the next one."""
        database = self.open()

        for _ in range(5):
            with self.assertRaises(ZeroDivisionError):
                await database.read(lambda _: 1 / 0)

        self.assertTrue(await SqliteDirectory(database).is_empty())

    async def test_readers_can_not_write(self) -> None:
        """A read that tries to change something is refused by the driver, and changes nothing."""
        database = self.open()

        with self.assertRaises(Unavailable):
            await database.read(lambda c: c.execute("INSERT INTO tenant (app, timestamp) VALUES ('x', 1)"))

        self.assertEqual(await SqliteMessages(database).last_timestamps(), {})


class OutageTests(SqliteTestCase):
    """A disk that is full or broken is an outage, told to callers and logged once."""

    async def test_full_disk(self) -> None:
        """Writes are refused as unavailable, reads go on, and writes go on when there is room again."""
        database = self.open()
        messages = SqliteMessages(database)
        await messages.commit(records(make_message(1)))
        events = self.log()
        await database.write(_pages(60))
        big = b'"' + b"x" * 400_000 + b'"'

        for _ in range(3):
            with self.assertRaises(Unavailable) as caught:
                await messages.commit(records(make_message(2, data=big)))

        self.assertIn("the message store", caught.exception.text)
        self.assertEqual(await _count(messages), 1)
        self.assertEqual([level for level, _ in events], [LogLevel.error])
        self.assertIn("full", events[0][1])
        await database.write(_pages(1 << 30))
        await messages.commit(records(make_message(2, data=big)))
        self.assertEqual(await _count(messages), 2)

    async def test_full_disk_refuses_the_whole_transaction(self) -> None:
        """Works that shared the transaction are all refused: none was stored."""
        database = self.open()
        messages = SqliteMessages(database)
        await database.write(_pages(60))
        writer = _Gate()
        database.write(writer)
        good = messages.commit(records(make_message(1)))
        bad = messages.commit(records(make_message(2, data=b"1" * 400_000)))
        writer.opened.set()

        for write in (good, bad):
            with self.assertRaises(Unavailable):
                await write

        self.assertEqual(await messages.last_timestamps(), {})

    def log(self) -> list[tuple[object, str]]:
        """The levels and reasons of what is logged at warning and above from now on."""
        events: list[tuple[object, str]] = []

        @provider(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event["log_level"] in (LogLevel.warn, LogLevel.error, LogLevel.critical):
                events.append((event["log_level"], str(event.get("reason"))))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return events


class _Gate:
    """Work that holds its thread until it is let go."""

    def __init__(self) -> None:
        self.opened = Event()

    def __call__(self, connection: sqlite3.Connection) -> None:
        self.opened.wait(30)


def _pages(count: int) -> Callable[[sqlite3.Connection], object]:
    """Work that bounds the size of the database, as a disk does."""
    return lambda connection: connection.execute(f"PRAGMA max_page_count = {count}").fetchone()


def _insert_and_fail(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO tenant (app, timestamp) VALUES ('bad', 1)")
    raise ZeroDivisionError


def _opened_elsewhere(path: Path) -> str:
    """What another process is told that opens the database."""
    program = [sys.executable, "-c", OPENER, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(program, stdout=subprocess.PIPE, text=True, env=environment, check=True).stdout


def _inspect(path: Path, statement: str) -> object:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement).fetchone()[0]
    finally:
        connection.close()


async def _count(messages: SqliteMessages) -> int:
    return len((await messages.page("app", "room", HistoryQuery(limit=1000))).messages)
