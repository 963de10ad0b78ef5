"""Tests of wsock.services.events."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from wsock.backends.memory_directory import MemoryDirectory
from wsock.backends.memory_outbox import MemoryOutbox
from wsock.errors import Unavailable
from wsock.interfaces import Account, App, Endpoint, JournalRecord, OutboxRow
from wsock.protocol.frames import Member
from wsock.protocol.presence import LeaveReason, PresenceChange
from wsock.services.events import EVENT_TYPES, Events, Overheard
from wsock.services.outbox import Outbox
from wsock.testing.contracts.message_store import make_message
from wsock.testing.fakes import Now, RecordingReceiver


class FailingOutbox(MemoryOutbox):
    """Fails with ``trouble``, if there is any, and takes until ``waiting`` fires."""

    trouble: Exception | None = None
    waiting: Deferred[None] | None = None

    async def add(self, rows: list[OutboxRow]) -> None:
        if self.waiting is not None:
            await self.waiting
        if self.trouble is not None:
            raise self.trouble
        await super().add(rows)


class EventsCase(SynchronousTestCase):
    """An app with an endpoint that is told everything, one without any, and the service, which runs."""

    most = 100

    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = MemoryDirectory()
        self.store = FailingOutbox()
        self.outbox = Outbox(self.directory, self.store, Now(self.clock, 1000.0))
        number = count(1)
        self.events = Events(
            self.outbox, self.clock, Now(self.clock, 1000.0), lambda: str(next(number)), most=self.most
        )
        for id in ("shop", "plain"):
            account = Account(id=id, email=f"{id}@localhost", password_hash="", created_at=0)
            self.successResultOf(self.directory.create(App(id=id, name=id, created_at=0), [], account))
        self.add_endpoint("all")
        self.events.startService()
        self.addCleanup(self.events.stopService)

    def add_endpoint(self, id: str, *events: str, channels: str | None = None) -> None:
        endpoint = Endpoint(id=id, app="shop", url="https://a.example", created_at=0, events=events, channels=channels)
        self.successResultOf(self.directory.add_endpoint(endpoint))

    def told(self, app: str = "shop") -> list[tuple[str, str, dict[str, Any]]]:
        """Type, channel and data of what is in the outbox."""
        self.clock.advance(0)
        rows = self.successResultOf(self.store.pending(app, 1000))
        return [(row.event.type, row.event.channel, msgspec.json.decode(row.event.data)) for row in rows]

    def types(self) -> list[str]:
        return [type for type, _, _ in self.told()]

    def presence(self, kind: Any, data: bytes = b"{}", reason: LeaveReason | None = None) -> None:
        self.events.presence("shop", PresenceChange("chat", kind, Member("ana", Raw(data), 5), reason))


class TypeTests(EventsCase):
    """What is told of each type."""

    def test_occupancy(self) -> None:
        """The first subscriber, and the end of the last."""
        self.events.occupancy("shop", "chat", True)
        self.events.occupancy("shop", "chat", False)
        self.clock.advance(3)

        self.assertEqual(
            self.told(),
            [
                ("channel.occupied", "chat", {"timestamp": 1_000_000}),
                ("channel.vacated", "chat", {"timestamp": 1_000_000}),
            ],
        )

    def test_presence(self) -> None:
        """What members do, with their data as it was written."""
        self.presence("enter", b'{"n":1.50}')
        self.presence("update", b'{"n":2}')
        self.presence("leave", b'{"n":2}', "left")
        self.clock.advance(3)

        base = {"clientId": "ana", "joinedAt": 5, "timestamp": 1_000_000}
        self.assertEqual(
            self.told(),
            [
                ("presence.enter", "chat", {**base, "data": {"n": 1.5}}),
                ("presence.update", "chat", {**base, "data": {"n": 2}}),
                ("presence.leave", "chat", {**base, "data": {"n": 2}, "reason": "left"}),
            ],
        )
        [row, *_] = self.successResultOf(self.store.pending("shop", 1))
        self.assertIn(b"1.50", row.event.data)

    def test_connections(self) -> None:
        """Connections, which are of no channel."""
        self.events.connection_opened("shop", "c1", clientId="ana")
        self.events.connection_closed("shop", "c1", clientId="ana", reason="closed")

        self.assertEqual(
            self.told(),
            [
                ("connection.opened", "", {"connectionId": "c1", "clientId": "ana", "timestamp": 1_000_000}),
                (
                    "connection.closed",
                    "",
                    {"connectionId": "c1", "clientId": "ana", "reason": "closed", "timestamp": 1_000_000},
                ),
            ],
        )

    def test_quotas(self) -> None:
        """What is used of a plan."""
        self.events.quota_warning("shop", "connections", 80, 100)
        self.events.quota_exceeded("shop", "connections", 100, 100)

        self.assertEqual(
            self.told(),
            [
                ("quota.warning", "", {"metric": "connections", "used": 80, "limit": 100}),
                ("quota.exceeded", "", {"metric": "connections", "used": 100, "limit": 100}),
            ],
        )

    def test_push(self) -> None:
        """A push message that failed."""
        self.events.push_failed("shop", {"memberId": "ana", "error": "gone"}, "chat")

        self.assertEqual(self.told(), [("push.failed", "chat", {"memberId": "ana", "error": "gone"})])

    def test_messages(self) -> None:
        """Messages are told with their commit, those that are no history too."""
        transient = JournalRecord("shop", "", msgspec.structs.replace(make_message(1), persist=False))
        plain = JournalRecord("plain", "", make_message(1))

        rows = self.successResultOf(self.events.rows([transient, plain]))
        self.events.kept(rows)

        self.assertEqual([(row.event.app, row.event.type) for row in rows], [("shop", "message.published")])
        self.assertEqual(self.outbox.stored, 1)

    def test_all_types(self) -> None:
        """Every type that endpoints may ask for is told by something."""
        self.test_occupancy()
        self.test_presence_types()
        self.events.connection_opened("shop", "c")
        self.events.connection_closed("shop", "c")
        self.events.quota_warning("shop", "channels", 1, 1)
        self.events.quota_exceeded("shop", "channels", 1, 1)
        self.events.push_failed("shop", {})

        self.assertEqual({*self.types(), "message.published"}, set(EVENT_TYPES))

    def test_presence_types(self) -> None:
        """Enter, update and leave are three types."""
        for kind in ("enter", "update", "leave"):
            self.presence(kind)
        self.clock.advance(3)

        self.assertEqual([t for t in self.types() if t.startswith("presence")],
            ["presence.enter", "presence.update", "presence.leave"])  # fmt: skip

    def test_ids(self) -> None:
        """No two events have one id."""
        for _ in range(3):
            self.events.connection_opened("shop", "c")
        self.clock.advance(0)

        ids = [row.event.id for row in self.successResultOf(self.store.pending("shop", 9))]
        self.assertEqual(len(set(ids)), 3)


class DampingTests(EventsCase):
    """Who is back soon makes no noise."""

    def test_reconnect(self) -> None:
        """A channel that is occupied again within 3 s was never vacated, and a member that is back never left."""
        self.events.occupancy("shop", "chat", True)
        self.presence("enter")
        for _ in range(3):
            self.presence("leave", reason="disconnected")
            self.events.occupancy("shop", "chat", False)
            self.clock.advance(2.9)
            self.events.occupancy("shop", "chat", True)
            self.presence("enter")
        self.clock.advance(10)

        self.assertEqual(self.types(), ["channel.occupied", "presence.enter"])

    def test_real_leave(self) -> None:
        """Who stays away for 3 s has left, and enters anew later."""
        self.events.occupancy("shop", "chat", True)
        self.events.occupancy("shop", "chat", False)
        self.clock.advance(3)
        self.events.occupancy("shop", "chat", True)

        self.assertEqual(self.types(), ["channel.occupied", "channel.vacated", "channel.occupied"])

    def test_other_data(self) -> None:
        """A member that is back with other data has changed it."""
        self.presence("enter", b'{"a":1}')
        self.presence("leave", b'{"a":1}', "disconnected")
        self.presence("enter", b'{"a":2}')
        self.clock.advance(10)

        self.assertEqual([(t, d["data"]) for t, _, d in self.told()],
            [("presence.enter", {"a": 1}), ("presence.update", {"a": 2})])  # fmt: skip

    def test_end_of_the_server(self) -> None:
        """A server that ends tells at once what it held back."""
        self.events.occupancy("shop", "chat", False)

        stopped = self.events.stopService()
        self.clock.advance(0)

        self.successResultOf(stopped)
        self.assertEqual(self.types(), ["channel.vacated"])


class WantedTests(EventsCase):
    """What nobody wants costs nothing."""

    def test_no_endpoint(self) -> None:
        """An app without endpoints keeps nothing in memory once that is known."""
        self.events.connection_opened("plain", "c")
        self.clock.advance(0)
        self.events.connection_opened("plain", "c")
        self.events.occupancy("plain", "chat", False)

        self.assertEqual((len(self.events.waiting), self.told("plain"), self.clock.getDelayedCalls()), (0, [], []))

    def test_change_is_heard(self) -> None:
        """A new endpoint is told of what happens after the directory's change was noticed."""
        self.told()
        self.events.connection_opened("plain", "c")
        self.clock.advance(0)
        endpoint = Endpoint(id="new", app="plain", url="https://a.example", created_at=0)
        self.successResultOf(self.directory.add_endpoint(endpoint))
        self.successResultOf(self.outbox.forget())
        self.events.connection_opened("plain", "d")

        self.assertEqual([data["connectionId"] for _, _, data in self.told("plain")], ["d"])

    def test_of_no_channel(self) -> None:
        """An endpoint with a pattern of channels is told of what is of no channel, if it wants the type."""
        self.add_endpoint("rooms", "connection.*", "channel.*", channels="room:*")
        self.events.connection_opened("shop", "c")
        self.events.occupancy("shop", "chat", True)
        self.clock.advance(0)

        rows = self.successResultOf(self.store.pending("shop", 9))
        self.assertEqual([row.event.type for row in rows if row.endpoint == "rooms"], ["connection.opened"])


class OutageTests(EventsCase):
    """An outbox that is away."""

    most = 3

    def open(self, *connections: str) -> None:
        for connection in connections:
            self.events.connection_opened("shop", connection)

    def test_waits(self) -> None:
        """Events wait, in order, and are told when it is back."""
        self.store.trouble = Unavailable("away")
        self.open("1", "2")
        self.clock.advance(0)
        self.open("3")
        self.clock.pump([0.1] * 30)
        self.assertEqual(len(self.events.waiting), 3)

        self.store.trouble = None
        self.clock.pump([0.5] * 20)

        self.assertEqual([data["connectionId"] for _, _, data in self.told()], ["1", "2", "3"])

    def test_meanwhile(self) -> None:
        """What happens while the outbox stores something is told after that."""
        waiting: Deferred[None] = Deferred()
        self.store.waiting = waiting
        self.open("1")
        self.clock.advance(0)
        self.open("2")
        self.clock.advance(0)

        self.store.waiting = None
        waiting.callback(None)

        self.assertEqual([data["connectionId"] for _, _, data in self.told()], ["1", "2"])

    def test_too_long(self) -> None:
        """What there is no room for is lost, counted, and said once."""
        self.store.trouble = Unavailable("away")
        self.open(*"12345")

        self.assertEqual((len(self.events.waiting), self.events.lost), (3, 2))

    def test_given_up(self) -> None:
        """A server that can't wait for it says what is lost."""
        self.store.trouble = Unavailable("away")
        self.open("1")
        stopping = self.events.stopService()
        self.clock.advance(1)
        self.assertNoResult(stopping)

        stopping.cancel()

        self.successResultOf(stopping)

    def test_bug(self) -> None:
        """A fault of ours is logged, and what is behind it is told."""
        self.store.trouble = KeyError("bug")
        self.open("1")
        self.clock.advance(0)
        self.store.trouble = None
        self.open("2")

        self.assertEqual([data["connectionId"] for _, _, data in self.told()], ["2"])
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)


class OverheardTests(SynchronousTestCase):
    """A receiver beside another one."""

    def test_both_hear(self) -> None:
        """The other one is told everything, in the order of the calls; changes of members are heard here too."""
        receiver, heard = RecordingReceiver(), []
        listen: Callable[[str, PresenceChange], None] = lambda app, change: heard.append((app, change.kind))  # noqa: E731
        both = Overheard(receiver, listen)
        change = PresenceChange("chat", "enter", Member("ana", Raw(b"{}"), 5))
        message = make_message(1)

        both.message("shop", message)
        both.presence("shop", change)
        both.moved("shop", "chat", message.position)
        both.lost("shop", "chat", message.position)

        self.assertEqual((len(receiver.heard), heard), (4, [("shop", "enter")]))
