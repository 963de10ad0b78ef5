"""Tests of wsock.backends.mongo against a real server: the contracts, outages, logins, and what is durable."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from unittest import SkipTest
from urllib.parse import quote

from bson import ObjectId
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from msgspec import Raw
from pymongo import MongoClient
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import provider

from tests.base import SynchronousTestCase, TestCase
from tests.servers import free_port, fresh_mongo_url, fresh_name, mongo_server, private_mongo
from wsock.backends.mongo import MongoAudit, MongoDatabase, MongoDirectory, MongoMessages, MongoOutbox
from wsock.backends.mongo_schema import ACCOUNTS, APPS, CREATIONS, KEYS, MESSAGES, OUTBOX, Index
from wsock.backends.mongo_url import Address, read_url
from wsock.errors import ConfigError, Conflict, Unavailable
from wsock.interfaces import Account, App, Key, Rejected
from wsock.protocol.messages import HistoryQuery, Message
from wsock.records import Membership, Role, Team
from wsock.testing.contracts.audit import AuditContract
from wsock.testing.contracts.directory import DirectoryContract
from wsock.testing.contracts.message_store import MessageStoreContract, make_message
from wsock.testing.contracts.outbox import DeliveryContract, OutboxContract, make_row
from wsock.testing.contracts.records import RecordsContract

APP = App(id="shop", name="Shop", created_at=1)
KEY = Key(id="key-1", app="shop", name="Server", created_at=1, api_key_hash="ab" * 32)
OWNER = Account(id="account-1", email="owner@localhost", password_hash="x", created_at=1)


class MongoTestCase(TestCase):
    """Makes databases that are stopped when the test ends."""

    timeout = 60

    def reactor(self) -> IReactorTime:
        """The one that the driver works with."""
        from twisted.internet import reactor  # noqa: TID251  # trial's own: txmongo takes no other

        return cast(IReactorTime, reactor)

    def database(self, url: str | None = None, **options: Any) -> MongoDatabase:
        """A database that is not started yet, by default a new, empty one."""
        database = MongoDatabase(url or fresh_mongo_url(self), self.reactor(), **options)
        self.addCleanup(lambda: Deferred.fromCoroutine(database.stop()))
        return database

    async def open(self, url: str | None = None, **options: Any) -> MongoDatabase:
        """A started database."""
        database = self.database(url, **options)
        await database.start()
        return database

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Returns as soon as it is so; the test's time limit is the deadline."""
        while not is_so():
            await deferLater(self.reactor(), 0.02)

    async def seconds_of(self, work: Coroutine[Deferred[Any], Any, Any]) -> float:
        """How long it took to be refused as unavailable."""
        begin = self.reactor().seconds()
        try:
            await work
        except Unavailable:
            return self.reactor().seconds() - begin
        self.fail("it was not refused")

    def log(self) -> list[LogEvent]:
        """What wsock logs at info and above from now on."""
        events: list[LogEvent] = []

        @provider(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event.get("log_namespace", "").startswith("wsock") and event["log_level"] >= LogLevel.info:
                events.append(event)

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return events


class MongoMessageStoreTests(MessageStoreContract, MongoTestCase):
    """MongoDB is an IMessageStore."""

    async def make_message_store(self) -> MongoMessages:
        return MongoMessages(await self.open())


class MongoDirectoryTests(DirectoryContract, MongoTestCase):
    """MongoDB is an IDirectory."""

    async def make_directory(self) -> MongoDirectory:
        return MongoDirectory(await self.open())


class MongoRecordsTests(RecordsContract, MongoTestCase):
    """MongoDB is an IRecords."""

    async def make_records(self) -> MongoDirectory:
        return MongoDirectory(await self.open())


class MongoAuditTests(AuditContract, MongoTestCase):
    """MongoDB is an IAuditLog."""

    async def make_audit(self) -> MongoAudit:
        return MongoAudit(await self.open())


class MongoOutboxTests(OutboxContract, MongoTestCase):
    """MongoDB is an IOutboxStore."""

    async def make_outbox(self) -> MongoOutbox:
        return MongoOutbox(await self.open())


class MongoDeliveryTests(DeliveryContract, MongoTestCase):
    """What is in it is given out and settled as in every IOutboxStore."""

    async def make_outbox(self) -> MongoOutbox:
        return MongoOutbox(await self.open())


class AppendTests(MongoTestCase):
    """What appending a batch promises when some of it can't be stored."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        self.store = MongoMessages(await self.open())

    async def stored(self, app: str = "app", limit: int = 100_000) -> list[Message]:
        """The history of the room."""
        return (await self.store.page(app, "room", HistoryQuery(limit=limit, direction="forward"))).messages

    async def rejected(self, *messages: Message) -> dict[str, str]:
        """Why messages were rejected, by id."""
        try:
            await self.store.append("app", list(messages))
        except Rejected as e:
            return {message.id: reason for message, reason in e.reasons}
        self.fail("nothing was rejected")

    async def test_another_message_in_the_place(self) -> None:
        """A place that is taken by a message of another id is a conflict, told with both; the others are stored."""
        first = make_message(1)
        await self.store.append("app", [first, make_message(2)])
        other = Message("room", "other", Raw(b"1"), 1000, "p", 1, "epoch-a", True)

        reasons = await self.rejected(other, make_message(2), make_message(3))

        self.assertEqual(list(reasons), ["other"])
        self.assertIn("taken by the message epoch-a-1", reasons["other"])
        self.assertEqual(await self.stored(), [first, make_message(2), make_message(3)])

    async def test_two_messages_of_a_batch_in_one_place(self) -> None:
        """Within a batch the first one gets the place, and the same message twice is harmless."""
        other = Message("room", "other", Raw(b"1"), 1000, "p", 1, "epoch-a", True)

        reasons = await self.rejected(make_message(1), other, make_message(1))

        self.assertEqual(list(reasons), ["other"])
        self.assertEqual(await self.stored(), [make_message(1)])

    async def test_too_large(self) -> None:
        """A message that no MongoDB takes is rejected with its size; the others are stored."""
        big = make_message(2, data=b'"' + b"x" * 16_777_216 + b'"')

        reasons = await self.rejected(make_message(1), big, make_message(3))

        self.assertEqual(list(reasons), ["epoch-a-2"])
        self.assertIn("16777216", reasons["epoch-a-2"])
        self.assertEqual([message.sequence for message in await self.stored()], [1, 3])

    async def test_nearly_too_large(self) -> None:
        """A message just below the limit is stored: the limit is MongoDB's, not a guess."""
        data = b'"' + b"x" * (16_777_216 - 400) + b'"'

        await self.store.append("app", [make_message(1, data=data)])

        [message] = await self.stored()
        self.assertEqual(len(bytes(message.data)), len(data))

    async def test_not_writable_as_bson(self) -> None:
        """A number of more than 64 bits is rejected, not the batch."""
        reasons = await self.rejected(make_message(1), make_message(1 << 64, timestamp=5))

        self.assertIn("BSON", next(iter(reasons.values())))
        self.assertEqual(len(await self.stored()), 1)

    async def test_whole_batch_again(self) -> None:
        """A batch over many channels may be repeated as often as one likes."""
        batch = [make_message(n, channel=f"room-{n % 300}") for n in range(900)]
        await self.store.append("app", batch)

        await self.store.append("app", batch)

        page = await self.store.page("app", "room-7", HistoryQuery(limit=100))
        self.assertEqual([message.sequence for message in page.messages], [607, 307, 7])

    async def test_appends_at_once(self) -> None:
        """Batches that overlap, appended at the same time from two nodes, store every message once."""
        other = MongoMessages(await self.open(self.url_of(self.store)))
        batches = [[make_message(n) for n in range(start, start + 40)] for start in range(0, 200, 20)]

        await gatherResults(
            [Deferred.fromCoroutine(store.append("app", batch)) for batch in batches for store in (self.store, other)],
            consumeErrors=True,
        )

        self.assertEqual([message.sequence for message in await self.stored()], list(range(220)))

    async def test_big_page(self) -> None:
        """A page of more than one batch of MongoDB's (16 MB) is whole, in order and byte for byte."""
        data = b'"' + b"y" * 60_000 + b'"'
        for start in range(0, 400, 100):
            await self.store.append("app", [make_message(n, data=data) for n in range(start, start + 100)])

        messages = await self.stored()

        self.assertEqual([message.sequence for message in messages], list(range(400)))
        self.assertEqual({bytes(message.data) for message in messages}, {data})

    async def test_concurrent_reads_and_writes(self) -> None:
        """Pages that are read while messages are appended have no gap and no disorder."""
        appends = [
            Deferred.fromCoroutine(self.store.append("app", [make_message(n) for n in range(start, start + 20)]))
            for start in range(0, 400, 20)
        ]
        pages = [Deferred.fromCoroutine(self.stored()) for _ in range(10)]

        await gatherResults(appends, consumeErrors=True)

        for page in await gatherResults(pages, consumeErrors=True):
            self.assertTrue(all(one.sequence < other.sequence for one, other in pairwise(page)))
        self.assertEqual(len(await self.stored()), 400)

    async def test_expiry_of_mongodb(self) -> None:
        """With a time to live each message carries the date on which MongoDB deletes it."""
        url = fresh_mongo_url(self)
        store = MongoMessages(await self.open(url), ttl_seconds=60)

        await store.append("app", [make_message(1, timestamp=1_700_000_000_123), make_message(2, timestamp=1 << 62)])

        with _client(url) as client:
            documents = list(client.get_default_database()[MESSAGES].find().sort("sequence"))
            indexes = client.get_default_database()[MESSAGES].index_information()
        self.assertEqual(documents[0]["expires_at"].isoformat(), "2023-11-14T22:14:20.123000")
        self.assertEqual(documents[1]["expires_at"].year, 9999)
        self.assertEqual(indexes["expiry"]["expireAfterSeconds"], 0)
        self.assertTrue(indexes["position"]["unique"])

    def url_of(self, store: MongoMessages) -> str:
        """The URL of a store's database."""
        return f"mongodb://{store._database._url}"


class CreateTests(MongoTestCase):
    """An app is created whole or not at all, whatever dies in between."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        self.url = fresh_mongo_url(self)
        self.directory = MongoDirectory(await self.open(self.url))

    async def test_creation_leaves_no_marks(self) -> None:
        """After a creation the documents need no second look."""
        await self.directory.create(APP, [KEY], OWNER)

        with _client(self.url) as client:
            database = client.get_default_database()
            found = [database[name].count_documents({"creation": {"$exists": True}}) for name in (APPS, KEYS, ACCOUNTS)]
        self.assertEqual(found, [0, 0, 0])

    async def test_creation_that_died_is_not_seen(self) -> None:
        """What a dead server has left of a creation is not seen, and it is still the first start."""
        self.leave("open", age_seconds=3600)

        self.assertTrue(await self.directory.is_empty())
        self.assertEqual(await self.directory.apps(), [])
        self.assertIsNone(await self.directory.app("old"))
        self.assertIsNone(await self.directory.key("key-1"))
        self.assertIsNone(await self.directory.key_by_hash("ab" * 32))
        self.assertIsNone(await self.directory.account_by_email("owner@localhost"))

    async def test_creation_that_died_is_in_nobodys_way(self) -> None:
        """The next start creates with the same e-mail, key and id, and nothing of the dead one is left."""
        for state in ("open", "aborted", None):
            self.leave(state, age_seconds=3600)

        await self.directory.create(APP, [KEY], OWNER)

        self.assertEqual(await self.directory.apps(), [APP])
        self.assertEqual(await self.directory.account_by_email("OWNER@localhost"), OWNER)
        with _client(self.url) as client:
            database = client.get_default_database()
            self.assertEqual([database[name].count_documents({}) for name in (KEYS, ACCOUNTS)], [1, 1])

    async def test_creation_that_died_after_its_commit(self) -> None:
        """A creation that was committed is seen although its marks were never taken off."""
        self.leave("committed", age_seconds=3600)

        self.assertFalse(await self.directory.is_empty())
        self.assertEqual([app.id for app in await self.directory.apps()], ["old"])
        self.assertEqual(await self.directory.key("key-1"), Key(id="key-1", app="old", name="Old", created_at=1))
        with self.assertRaises(Conflict):
            await self.directory.create(APP, [], OWNER)

    async def test_creation_that_was_aborted_does_not_commit(self) -> None:
        """A server that was paused while another one cleared it away ends with nothing, and says so."""
        begun = Deferred.fromCoroutine(self.directory.create(APP, [KEY], OWNER))
        with _client(self.url) as client:
            database = client.get_default_database()
            while database[ACCOUNTS].count_documents({}) == 0:
                await deferLater(self.reactor(), 0)
                result = database[CREATIONS].update_many({"state": "open"}, {"$set": {"state": "aborted"}})
                if result.modified_count:
                    break

            with self.assertRaises(Unavailable):
                await begun

            self.assertTrue(await self.directory.is_empty())
            self.assertEqual([database[name].count_documents({}) for name in (APPS, KEYS, ACCOUNTS)], [0, 0, 0])

    async def test_first_starts_at_once(self) -> None:
        """Of servers that create the same owner at the same moment one succeeds, the others are told "taken"."""
        directories = [self.directory] + [MongoDirectory(await self.open(self.url)) for _ in range(2)]
        outcomes = await gatherResults(
            [Deferred.fromCoroutine(self.outcome(directory, n)) for n, directory in enumerate(directories)]
        )

        self.assertEqual(sorted(outcomes), ["created", "taken", "taken"])
        [app] = await self.directory.apps()
        self.assertEqual((await self.directory.key(f"key-{app.id}")), _key_of(app.id))

    async def outcome(self, directory: MongoDirectory, number: int) -> str:
        """How a first start ends."""
        app = App(id=f"app-{number}", name="First", created_at=1)
        account = Account(id=f"account-{number}", email="owner@localhost", password_hash="x", created_at=1)
        try:
            await directory.create(app, [_key_of(app.id)], account)
        except Conflict:
            return "taken"
        return "created"

    def leave(self, state: str | None, age_seconds: int) -> None:
        """What a creation leaves that went no further than this state; ``None``: its own document is gone too."""
        now = ObjectId()
        mark = ObjectId((int(now.generation_time.timestamp()) - age_seconds).to_bytes(4, "big") + now.binary[4:])
        with _client(self.url) as client:
            database = client.get_default_database()
            if state is not None:
                database[CREATIONS].insert_one({"_id": mark, "state": state})
            for name, document in (
                (APPS, {"_id": "old", "name": "Old", "created_at": 1}),
                (
                    KEYS,
                    {"_id": "key-1", "app": "old", "name": "Old", "created_at": 1, "permissions": [["*", ["*"]]]},
                ),
                (ACCOUNTS, {"_id": "a", "email": "o", "folded_email": "owner@localhost", "created_at": 1}),
            ):
                if database[name].find_one({"_id": document["_id"]}) is None:
                    database[name].insert_one({**document, "creation": mark})


class CutDatabase:
    """A database that is away behind so many writes; ``None``: it is not."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database
        self.left: int | None = None

    async def read(self, work: Any) -> Any:
        """As the database does."""
        return await self._database.read(work)

    async def write(self, work: Any) -> Any:
        """As the database does, as long as it is there."""
        if self.left == 0:
            raise Unavailable("away")
        if self.left is not None:
            self.left -= 1
        return await self._database.write(work)


class RevisionTests(MongoTestCase):
    """That everybody hears of a change."""

    async def test_outage_behind_the_change(self) -> None:
        """A change that was stored just before an outage is heard of after it, though nobody repeats it."""
        database = CutDatabase(await self.open())
        directory = MongoDirectory(cast(MongoDatabase, database))
        await directory.add([APP])
        before = await directory.revision()
        for change in (lambda: directory.replace(APP), lambda: directory.remove(App, APP.id)):
            database.left = 1
            with self.assertRaises(Unavailable):
                await change()
            with self.assertRaises(Unavailable):
                await directory.revision()
            database.left = None

            after = await directory.revision()

            self.assertGreater(after, before)
            self.assertEqual(await directory.revision(), after)
            before = after


class RemovalTests(MongoTestCase):
    """What belongs to something that is removed at the same moment."""

    async def test_nothing_is_left_without_its_owner(self) -> None:
        """Whatever is added while its app is removed is refused, or goes with it."""
        directory = MongoDirectory(await self.open())
        for round in range(5):
            app = App(id=f"app-{round}", name="A", created_at=1)
            await directory.add([app])

            adding = [Deferred.fromCoroutine(self.add(directory, app.id, n)) for n in range(4)]
            removing = Deferred.fromCoroutine(directory.remove(App, app.id))
            adding += [Deferred.fromCoroutine(self.add(directory, app.id, n)) for n in range(4, 8)]
            await gatherResults(adding, consumeErrors=True)
            await removing

            self.assertEqual((await directory.page(Key, {"app": app.id}, None, 100)).items, [])

    async def add(self, directory: MongoDirectory, app: str, number: int) -> None:
        """Adds a key if there is an app for it."""
        with contextlib.suppress(Conflict):
            await directory.add([Key(id=f"{app}-{number}", app=app, name="K", created_at=1)])


class MigrationTests(MongoTestCase):
    """Documents of an older wsock."""

    async def test_first_release(self) -> None:
        """Its apps get a team whose members are its accounts; whoever owned the server runs it still."""
        url = fresh_mongo_url(self)
        with _client(url) as client:
            database = client.get_default_database()
            database[APPS].insert_one({"_id": "shop", "name": "Shop", "created_at": 5})
            database[KEYS].insert_one({"_id": "k", "app": "shop", "name": "K", "created_at": 5, "permissions": []})
            for id, role in (("a", "owner"), ("b", "admin")):
                account = {"email": id, "folded_email": id, "password_hash": "x", "created_at": 5, "role": role}
                database[ACCOUNTS].insert_one({"_id": id, **account})

        for _ in range(2):
            directory = MongoDirectory(await self.open(url))

            self.assertEqual(await directory.apps(), [App(id="shop", name="Shop", created_at=5, team="team_first")])
            self.assertEqual(
                (await directory.page(Team, {"plan": "unlimited"}, None, 9)).items,
                [Team(id="team_first", name="First team", created_at=5)],
            )
            members = (await directory.page(Membership, {"team": "team_first"}, None, 9)).items
            self.assertEqual([(m.account, m.role) for m in members], [("a", Role.OWNER), ("b", Role.ADMIN)])
            accounts = (await directory.page(Account, {}, None, 9)).items
            self.assertEqual([(account.id, account.is_operator) for account in accounts], [("a", True), ("b", False)])
            key = await directory.key("k")
            self.assertEqual(key and key.version, 1)
        assert key is not None
        self.assertEqual((await directory.replace(key)).version, 2)

    async def test_outbox_of_before(self) -> None:
        """What endpoints were to be told before webhooks were sent is pending, in its order."""
        url = fresh_mongo_url(self)
        with _client(url) as client:
            for number, id in enumerate(("b", "a"), 1):
                event = {"app": "app", "event": id, "channel": "room", "type": "message.published", "data": b"{}"}
                row = {"number": number, "endpoint": "endpoint", "created": 7.5, **event}
                client.get_default_database()[OUTBOX].insert_one(row)

        outbox = MongoOutbox(await self.open(url))

        expected = [make_row("b", created=7.5), make_row("a", created=7.5)]
        self.assertEqual(await outbox.pending("app", 9), expected)
        self.assertEqual([one.row for one in await outbox.claim("node", "endpoint", 7.5, 60.0, 9)], expected)


class OutageTests(MongoTestCase):
    """A MongoDB that dies, freezes or comes back."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        self.server = private_mongo(self)
        self.database_ = await self.open(
            f"{self.server.url}/{fresh_name()}", operation_seconds=1.0, retry_seconds=0.1, connect_seconds=1.0
        )
        self.store = MongoMessages(self.database_)
        await self.store.append("app", [make_message(1)])

    def append(self, sequence: int) -> Coroutine[Deferred[Any], Any, None]:
        """Appends one message."""
        return self.store.append("app", [make_message(sequence)])

    async def sequences(self) -> list[int]:
        """What is stored."""
        page = await self.store.page("app", "room", HistoryQuery(limit=10_000, direction="forward"))
        return [message.sequence for message in page.messages]

    async def test_frozen(self) -> None:
        """Reads and writes of a frozen server are unavailable within their time; it works again when it thaws."""
        events = self.log()
        self.server.stop()

        seconds = [await self.seconds_of(self.append(2)), await self.seconds_of(self.sequences())]

        self.assertTrue(all(0.9 < second < 2.0 for second in seconds), seconds)
        self.assertFalse(self.database_.is_available)
        back = self.database_.when_back()
        self.assertNoResult(back)
        self.server.cont()
        await back
        await self.append(2)
        self.assertEqual(await self.sequences(), [1, 2])
        self.assertEqual([event["log_level"] for event in events], [LogLevel.error, LogLevel.info])
        self.assertIn("no answer in time", events[0]["reason"])

    async def test_killed(self) -> None:
        """Operations in flight and later ones are unavailable; what was acknowledged is there after the restart."""
        acknowledged = [1]
        running = [Deferred.fromCoroutine(self.append_all(start, acknowledged)) for start in (100, 200, 300, 400)]
        await self.until(lambda: len(acknowledged) > 40)

        self.server.kill()

        for writer in running:
            await writer
        self.assertLess(await self.seconds_of(self.append(2)), 2.0)
        self.assertFalse(self.database_.is_available)
        self.server.start(wait=False)
        await self.database_.when_back()
        self.assertEqual(set(acknowledged) - set(await self.sequences()), set())
        await self.append(2)

    async def append_all(self, start: int, acknowledged: list[int]) -> None:
        """Appends until it is refused."""
        for sequence in range(start, start + 100):
            try:
                await self.append(sequence)
            except Unavailable:
                return
            acknowledged.append(sequence)

    async def test_stop_amid_an_outage(self) -> None:
        """Stopping does not wait for a server that is away, and leaves nothing pending."""
        self.server.stop()
        await self.seconds_of(self.append(2))
        waiting = [Deferred.fromCoroutine(self.append(3)), self.database_.when_back()]
        begin = self.reactor().seconds()

        await self.database_.stop()

        self.assertLess(self.reactor().seconds() - begin, 0.5)
        for pending in waiting:
            self.failureResultOf(pending, Unavailable)

    async def test_stop_finishes_what_was_asked_for(self) -> None:
        """Work in flight is done before the connections are closed."""
        waiting = [Deferred.fromCoroutine(self.append(sequence)) for sequence in range(2, 30)]

        await self.database_.stop()

        self.assertEqual([self.successResultOf(append) for append in waiting], [None] * 28)
        with self.assertRaises(Unavailable):
            await self.append(99)
        with self.assertRaises(Unavailable):
            await self.database_.when_back()

    async def test_start_again(self) -> None:
        """A stopped database can be started again."""
        await self.database_.stop()
        await self.database_.stop()

        await self.database_.start()

        self.assertTrue(self.database_.is_available)
        self.assertEqual(await self.sequences(), [1])

    async def test_start_while_it_is_away(self) -> None:
        """The start of a node says who does not answer, and works when it is called again later."""
        database = self.database(f"{self.server.url}/other", connect_seconds=0.5)
        self.server.kill()

        with self.assertRaises(Unavailable) as caught:
            await database.start()

        self.assertIn(f"127.0.0.1:{self.server.port} can't be reached", caught.exception.text)
        self.server.start()
        await database.start()
        self.assertTrue(database.is_available)

    async def test_start_while_it_is_frozen(self) -> None:
        """A server that accepts connections and says nothing is away too."""
        self.server.stop()

        seconds = await self.seconds_of(self.database(f"{self.server.url}/x", connect_seconds=0.5).start())

        self.assertLess(seconds, 1.5)


class LoginTests(MongoTestCase):
    """Logins that fail end the start, with a line that tells why and never the password."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        self.server = private_mongo(self)
        with _client(self.server.url) as client:
            for database in ("wsock", "admin"):
                client[database].command(
                    "createUser",
                    "node",
                    pwd=f"p@ss:{database}",
                    roles=[{"role": "readWrite", "db": "wsock"}],
                    mechanisms=["SCRAM-SHA-1"],
                )
            # A user is not on the disk yet; a write that is brings along what was written before.
            client.get_database("wsock", write_concern=WriteConcern(w=1, j=True)).get_collection("x").insert_one({})
        self.server.arguments.append("--auth")
        self.server.restart()

    def url(self, credentials: str, rest: str) -> str:
        """A URL with a login."""
        return f"mongodb://{credentials}@127.0.0.1:{self.server.port}/{rest}"

    async def refusal(self, url: str) -> str:
        """Why a database can't be started."""
        with self.assertRaises(ConfigError) as caught:
            await self.database(url).start()
        text = str(caught.exception)
        self.assertNotIn("\n", text)
        self.assertNotIn("p@ss", text)
        self.assertNotIn("p%40ss", text)
        return text

    async def test_right_password(self) -> None:
        """The user is looked up in authSource, else in the database of the URL, else in admin."""
        for credentials, rest in (
            ("node:p%40ss%3Awsock", "wsock"),
            ("node:p%40ss%3Aadmin", ""),
            ("node:p%40ss%3Aadmin", "wsock?authSource=admin&w=majority&journal=true"),
        ):
            database = await self.open(self.url(credentials, rest))
            await MongoMessages(database).append("app", [make_message(1)])

    async def test_wrong_password(self) -> None:
        """The text names the user, where it was looked up, and what to check."""
        text = await self.refusal(self.url("node:p%40ss-wrong", "wsock"))

        self.assertIn("refuses the login of node (authSource=wsock)", text)

    async def test_unknown_user(self) -> None:
        """A user that is not there is refused in the same words."""
        self.assertIn("refuses the login of nobody", await self.refusal(self.url("nobody:p%40ss", "wsock")))

    async def test_no_login(self) -> None:
        """A server that wants a login is not used without one."""
        text = await self.refusal(f"{self.server.url}/wsock")

        self.assertIn("without a login", text)
        self.assertIn("readWrite on wsock", text)

    async def test_password_is_not_shown(self) -> None:
        """Neither the database nor its URL shows the password."""
        url = read_url(self.url("node:p%40ss", "wsock"))

        self.assertEqual(url.password, "p@ss")
        for text in (repr(url), str(url), url.driver_url, repr(self.database(self.url("node:p%40ss", "wsock")))):
            self.assertNotIn("p@ss", text)
            self.assertNotIn("p%40ss", text)


class SettingsTests(MongoTestCase):
    """Servers that are not what the URL says."""

    async def test_tls_to_a_server_without(self) -> None:
        """A server that does not speak TLS is told in time, with the setting."""
        database = self.database(f"{mongo_server().url}/x?tls=true", connect_seconds=1.0)

        with self.assertRaises(Unavailable) as caught:
            await database.start()

        self.assertIn("does it speak TLS, as the URL says?", caught.exception.text)

    async def test_other_replica_set(self) -> None:
        """The text names both replica sets."""
        with self.assertRaises(ConfigError) as caught:
            await self.database(f"{mongo_server().url}/x?replicaSet=there").start()

        self.assertIn("there", str(caught.exception))

    async def test_second_host_is_used(self) -> None:
        """Of several hosts one that does not answer is passed over."""
        server = mongo_server()
        url = f"mongodb://127.0.0.1:{free_port()},127.0.0.1:{server.port}/{fresh_name()}"

        database = await self.open(url, connect_seconds=1.0)

        self.assertTrue(await MongoDirectory(database).is_empty())

    async def test_foreign_index(self) -> None:
        """An index of the same name over other fields is refused: the database is somebody else's."""
        url = fresh_mongo_url(self)
        await (await self.open(url)).stop()
        other = Index(collection=MESSAGES, name="history", fields=("app", "id"))

        with self.assertRaises(ConfigError) as caught:
            await self.database(url, indexes=[other]).start()

        self.assertIn("name another database", str(caught.exception))


class TlsTests(MongoTestCase):
    """A server that speaks TLS, with a certificate for localhost that no public authority signed."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        if os.environ.get("WSOCK_TEST_MONGOD"):
            raise SkipTest("the options are SecantusDB's")
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        self.certificate, key = _write_certificate(directory, "localhost")
        self.server = private_mongo(self, "--tls-cert-file", str(self.certificate), "--tls-key-file", str(key))

    def url(self, host: str, options: str) -> str:
        """A URL of the server by one of its names."""
        return f"mongodb://{host}:{self.server.port}/wsock?{options}"

    async def test_trusted(self) -> None:
        """With the authority in tlsCAFile every connection of the pool is made, and what is appended is there."""
        database = await self.open(self.url("localhost", f"tls=true&tlsCAFile={quote(str(self.certificate), safe='')}"))
        store = MongoMessages(database)

        await gatherResults(
            [Deferred.fromCoroutine(store.append("app", [make_message(n)])) for n in range(20)], consumeErrors=True
        )

        self.assertEqual(len((await store.page("app", "room", HistoryQuery())).messages), 20)

    async def test_untrusted(self) -> None:
        """Without it, or under another name, the certificate is refused, and the text says what to check."""
        for host, options in (
            ("localhost", "tls=true"),
            ("127.0.0.1", f"tls=true&tlsCAFile={quote(str(self.certificate), safe='')}"),
        ):
            with self.assertRaises(ConfigError) as caught:
                await self.database(self.url(host, options)).start()
            self.assertIn("tlsCAFile", str(caught.exception))

    async def test_plain(self) -> None:
        """Without TLS in the URL the text names the option."""
        with self.assertRaises(Unavailable) as caught:
            await self.database(self.url("localhost", ""), connect_seconds=1.0).start()

        self.assertIn("tls=true", caught.exception.text)


class UrlTests(SynchronousTestCase):
    """Reading a URL; no server is asked."""

    def test_everything(self) -> None:
        """Hosts, login, database, TLS and durability."""
        url = read_url(
            "mongodb://u%40x:p%3Aw@h1:1,[::1]/data?tls=true&replicaSet=rs&authSource=users&w=2&journal=false"
            "&wTimeoutMS=700&retryWrites=true&appName=x"
        )

        self.assertEqual(url.addresses, (Address("h1", 1), Address("::1", 27017)))
        self.assertEqual((url.user, url.password, url.auth_source), ("u@x", "p:w", "users"))
        self.assertEqual((url.database, url.replica_set, url.is_tls), ("data", "rs", True))
        self.assertEqual((url.w, url.journal, url.wtimeout_ms), (2, False, 700))
        self.assertEqual(url.driver_url, "mongodb://h1:1,[::1]:27017/?replicaSet=rs")

    def test_short(self) -> None:
        """A host alone means the database wsock, without a login and TLS."""
        url = read_url("mongodb://host")

        self.assertEqual(str(url), "host:27017/wsock")
        self.assertEqual((url.user, url.is_tls, url.w, url.journal), ("", False, None, None))

    def test_refused(self) -> None:
        """What can't be honoured is refused, not ignored, in a line without the password."""
        for url, word in {
            "redis://h": "form",
            "mongodb+srv://u:secret@h/x": "srv",
            "mongodb://u:sec/ret@h": "hexadecimal",
            "mongodb://u:secret@x@h": "hexadecimal",
            "mongodb://secret@h": "password",
            "mongodb://u:secret@h:99999": "Port",
            "mongodb://u:secret@h/a.b": "dot",
            "mongodb://u:secret@%2Ftmp%2Fmongo.sock": "socket",
            "mongodb://u:secret@h?tls=true&tlsAllowInvalidCertificates=true": "tlsallowinvalidcertificates",
            "mongodb://u:secret@h?readPreference=secondary": "readpreference",
            "mongodb://u:secret@h?authMechanism=SCRAM-SHA-256": "SCRAM-SHA-1",
            "mongodb://u:secret@h?w=0": "w=0",
            "mongodb://u:secret@h?tls=true&tlsCAFile=/nowhere.pem": "/nowhere.pem",
        }.items():
            text = str(self.assertRaises(ConfigError, read_url, url))
            self.assertIn(word, text)
            self.assertNotIn("sec", text.replace("seconds", ""))
            self.assertNotIn("\n", text)


def _client(url: str) -> MongoClient[dict[str, Any]]:
    """Another client, that waits for its answers: it sees what is stored."""
    return MongoClient(url)


def _key_of(app: str) -> Key:
    return Key(id=f"key-{app}", app=app, name="First", created_at=1)


def _write_certificate(directory: Path, host: str) -> tuple[Path, Path]:
    """A certificate that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "certificate.pem", directory / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths
