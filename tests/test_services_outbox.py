"""Tests of wsock.services.outbox."""

from __future__ import annotations

from itertools import count

import msgspec
from msgspec import Raw
from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from wsock.backends.memory_directory import MemoryDirectory
from wsock.backends.memory_outbox import MemoryOutbox
from wsock.errors import Unavailable
from wsock.interfaces import Account, App, Endpoint, Event, JournalRecord, OutboxRow
from wsock.protocol.messages import Message
from wsock.services.outbox import Outbox
from wsock.testing.contracts.message_store import make_message
from wsock.testing.fakes import Now


class RecordingDirectory(MemoryDirectory):
    """Keeps whose endpoints it was asked for; fails with ``trouble``."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.trouble: Exception | None = None

    async def endpoints(self, app: str) -> list[Endpoint]:
        self.asked.append(app)
        if self.trouble is not None:
            raise self.trouble
        return await super().endpoints(app)


class RecordingOutbox(MemoryOutbox):
    """Keeps how many rows each call brought; fails with ``trouble``."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.trouble: Exception | None = None

    async def add(self, rows: list[OutboxRow]) -> None:
        self.calls.append(len(rows))
        if self.trouble is not None:
            raise self.trouble
        await super().add(rows)


class OutboxTestCase(SynchronousTestCase):
    """Two apps; what was found of one is good for 5 s."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = RecordingDirectory()
        self.store = RecordingOutbox()
        self.outbox = Outbox(self.directory, self.store, Now(self.clock, 1000.0), seconds=5.0, size=2)
        self.ids = count(1)
        for id in ("app", "other"):
            account = Account(id=id, email=f"{id}@localhost", password_hash="", created_at=0)
            self.successResultOf(self.directory.create(App(id=id, name=id, created_at=0), [], account))

    def endpoint(
        self,
        id: str,
        *events: str,
        app: str = "app",
        channels: str | None = None,
        is_enabled: bool = True,
        is_ordered: bool = False,
        is_batched: bool = False,
    ) -> None:
        """Adds an endpoint."""
        endpoint = Endpoint(
            id=id,
            app=app,
            url="https://example.org",
            created_at=0,
            events=events,
            channels=channels,
            is_enabled=is_enabled,
            is_ordered=is_ordered,
            is_batched=is_batched,
        )
        self.successResultOf(self.directory.add_endpoint(endpoint))

    def event(self, type: str, channel: str = "room", app: str = "app") -> Event:
        """A new event."""
        return Event(id=f"{next(self.ids)}-0@{app}", app=app, channel=channel, type=type, data=b"{}")

    def record(self, *events: Event, **messages: list[Message]) -> None:
        """Records what happened; the names are those of the messages' apps."""
        self.successResultOf(self.outbox.record(list(events), messages))

    def rows(self, app: str = "app") -> list[OutboxRow]:
        """What is stored."""
        return self.successResultOf(self.store.pending(app, 1000))

    def told(self, app: str = "app") -> list[tuple[str, str, str]]:
        """Type, channel and endpoint of each row."""
        return [(row.event.type, row.event.channel, row.endpoint) for row in self.rows(app)]


class EventTests(OutboxTestCase):
    """Who is told of an event."""

    def test_types(self) -> None:
        """An endpoint is told of the types that it names, of all with a prefix, or without names of everything."""
        self.endpoint("all")
        self.endpoint("enter", "presence.enter")
        self.endpoint("presence", "channel.vacated", "presence.*")

        self.record(
            *map(self.event, ("presence.enter", "presence.leave", "channel.vacated", "presence", "presence2.x"))
        )

        self.assertEqual(
            [(type, endpoint) for type, _, endpoint in self.told()],
            [
                ("presence.enter", "all"),
                ("presence.enter", "enter"),
                ("presence.enter", "presence"),
                ("presence.leave", "all"),
                ("presence.leave", "presence"),
                ("channel.vacated", "all"),
                ("channel.vacated", "presence"),
                ("presence", "all"),
                ("presence2.x", "all"),
            ],
        )

    def test_channels(self) -> None:
        """An endpoint with a pattern is told of the channels that fit."""
        self.endpoint("orders", channels="orders:*")
        self.endpoint("room", channels="room")

        self.record(*(self.event("channel.occupied", channel) for channel in ("orders:1", "room", "rooms")))

        self.assertEqual(
            self.told(), [("channel.occupied", "orders:1", "orders"), ("channel.occupied", "room", "room")]
        )

    def test_stored(self) -> None:
        """What is stored is counted by endpoint, and what the store did not take is not."""
        self.endpoint("one")
        self.endpoint("two")
        self.record(self.event("channel.occupied"))
        self.store.trouble = Unavailable("away")
        self.failureResultOf(self.outbox.record([self.event("channel.occupied")]), Unavailable)

        self.assertEqual(self.outbox.stored, 2)

    def test_row(self) -> None:
        """A row has the event as it came, and the time."""
        self.endpoint("all")
        event = self.event("channel.occupied")

        self.record(event)

        self.assertEqual(self.rows(), [OutboxRow(event, "all", 1000.0)])

    def test_disabled(self) -> None:
        """An endpoint that is not enabled is told nothing."""
        self.endpoint("off", is_enabled=False)

        self.record(self.event("channel.occupied"), app=[make_message(1)])

        self.assertEqual(self.store.calls, [])

    def test_apps_are_apart(self) -> None:
        """An endpoint is told what happened in its own app."""
        self.endpoint("theirs", app="other")

        self.record(self.event("channel.occupied"), self.event("channel.vacated", app="other"), app=[make_message(1)])

        self.assertEqual(self.told("app"), [])
        self.assertEqual(self.told("other"), [("channel.vacated", "room", "theirs")])

    def test_repeated(self) -> None:
        """What is recorded again changes nothing."""
        self.endpoint("all")
        event = self.event("channel.occupied")

        for _ in range(2):
            self.record(event, app=[make_message(1)])

        self.assertEqual(self.told(), [("channel.occupied", "room", "all"), ("message.published", "room", "all")])


class MessageTests(OutboxTestCase):
    """What is told of messages."""

    def test_event(self) -> None:
        """The event has the message's place for an id, and shows the message with its data as it was published."""
        self.endpoint("all", "message.published")
        message = Message("room", "m-1", Raw(b'{ "n":1.50 }'), 1234, "ada", 7, "1.2", True)

        self.record(app=[message])

        [row] = self.rows()
        self.assertEqual((row.event.id, row.event.app, row.event.channel), ("1.2-7@app/room", "app", "room"))
        self.assertIn(b'{ "n":1.50 }', row.event.data)
        self.assertEqual(
            msgspec.json.decode(row.event.data),
            {
                "channel": "room",
                "id": "m-1",
                "publisherId": "ada",
                "timestamp": 1234,
                "sequence": 7,
                "data": {"n": 1.5},
            },
        )

    def test_only_where_wanted(self) -> None:
        """Messages of other channels, and those that no endpoint wants, make no rows."""
        self.endpoint("presence", "presence.*")
        self.endpoint("orders", "message.*", channels="orders:*")

        self.record(app=[make_message(1), make_message(1, channel="orders:1"), make_message(2)])

        self.assertEqual(self.told(), [("message.published", "orders:1", "orders")])

    def test_unwanted_messages_are_not_encoded(self) -> None:
        """A message that nobody wants costs a comparison: what could not be encoded shows that."""
        self.endpoint("orders", channels="orders:*")
        unspeakable = Message("room", "\ud800", Raw(b"1"), 1, "p", 1, "e", True)

        self.record(app=[unspeakable], other=[unspeakable])

        self.assertEqual(self.store.calls, [])


class CommitTests(OutboxTestCase):
    """Messages whose rows somebody else stores, with them."""

    def test_rows(self) -> None:
        """Each message makes the rows that it makes otherwise, in order; messages that nobody wants make none."""
        self.endpoint("orders", "message.*", channels="orders:*", is_ordered=True)
        self.endpoint("all", is_batched=True)
        messages = [make_message(1, channel="orders:1"), make_message(2)]
        records = [JournalRecord(app, "", message) for app in ("app", "other") for message in messages]

        rows = self.successResultOf(self.outbox.rows(records))

        self.record(app=messages)
        self.assertEqual(rows, self.rows())
        self.assertEqual(
            [(row.endpoint, row.event.channel, row.ordered, row.batched) for row in rows],
            [("all", "orders:1", False, True), ("orders", "orders:1", True, False), ("all", "room", False, True)],
        )

    def test_not_known(self) -> None:
        """While it can't be known who wants to be told, nothing may be committed."""
        self.directory.trouble = Unavailable("away")

        self.failureResultOf(self.outbox.rows([JournalRecord("app", "", make_message(1))]), Unavailable)

    def test_added(self) -> None:
        """Whoever delivers is told of each addition, and that rows were stored elsewhere."""
        told: list[int] = []
        self.outbox.added = lambda: told.append(self.outbox.stored)
        self.endpoint("all")

        self.record(self.event("channel.occupied"))
        self.outbox.note(self.rows())
        self.record(self.event("channel.occupied", app="other"))

        self.assertEqual(told, [1, 2])


class KnownTests(OutboxTestCase):
    """What can be told at once."""

    def test_may_want(self) -> None:
        """What is not known may be wanted; what is known is as it is, until the directory was changed."""
        self.endpoint("rooms", "channel.*", channels="room*")
        asked = [("channel.vacated", "room"), ("channel.vacated", "hall"), ("presence.enter", "room")]
        self.assertTrue(all(self.outbox.may_want("app", *one) for one in asked))
        self.record(self.event("channel.occupied"))

        self.assertEqual([self.outbox.may_want("app", *one) for one in asked], [True, False, False])
        self.successResultOf(self.outbox.forget())
        self.assertTrue(self.outbox.may_want("app", "presence.enter", "room"))

    def test_is_ordered(self) -> None:
        """Order counts where an endpoint of any of the apps wants it."""
        self.endpoint("plain")
        self.endpoint("ordered", app="other", is_ordered=True)
        event = self.event("channel.occupied")

        self.assertFalse(self.successResultOf(self.outbox.is_ordered([event], {"app": [make_message(1)]})))
        self.assertTrue(self.successResultOf(self.outbox.is_ordered([event], {"other": [make_message(1)]})))
        self.assertTrue(self.successResultOf(self.outbox.is_ordered([self.event("x", app="other")], {})))


class CostTests(OutboxTestCase):
    """What recording costs."""

    def test_one_call(self) -> None:
        """All rows of a piece of work are stored in one call."""
        self.endpoint("a")
        self.endpoint("b", app="other")

        self.record(
            self.event("channel.occupied"),
            self.event("channel.occupied", app="other"),
            app=[make_message(1), make_message(2)],
            other=[make_message(1)],
        )

        self.assertEqual(self.store.calls, [5])

    def test_app_without_endpoints(self) -> None:
        """It is looked up once in a while, and nothing is written."""
        for _ in range(3):
            self.record(self.event("channel.occupied"), app=[make_message(1)])

        self.assertEqual(self.directory.asked, ["app"])
        self.assertEqual(self.store.calls, [])

    def test_change_takes_effect(self) -> None:
        """An endpoint that was added is told of what happens a few seconds later."""
        self.record(self.event("channel.occupied"))
        self.endpoint("new")

        self.clock.advance(4.9)
        self.record(self.event("channel.vacated"))
        self.clock.advance(0.1)
        self.record(self.event("channel.occupied"))

        self.assertEqual(self.told(), [("channel.occupied", "room", "new")])

    def test_bound(self) -> None:
        """Of many apps those are remembered that were used last."""
        for app in ("app", "other", "third", "other", "app"):
            self.record(self.event("channel.occupied", app=app))

        self.assertEqual(self.directory.asked, ["app", "other", "third", "app"])


class FailureTests(OutboxTestCase):
    """A store that is away."""

    def test_directory_is_away(self) -> None:
        """Nothing is taken for told, and the failure is not remembered."""
        self.endpoint("all")
        event = self.event("channel.occupied")
        self.directory.trouble = Unavailable("away")
        self.failureResultOf(self.outbox.record([event]), Unavailable)
        self.directory.trouble = None

        self.record(event)

        self.assertEqual(self.told(), [("channel.occupied", "room", "all")])

    def test_outbox_is_away(self) -> None:
        """The caller learns it, and repeats."""
        self.endpoint("all")
        event = self.event("channel.occupied")
        self.store.trouble = Unavailable("away")
        self.failureResultOf(self.outbox.record([event]), Unavailable)
        self.store.trouble = None

        self.record(event)

        self.assertEqual(self.told(), [("channel.occupied", "room", "all")])
