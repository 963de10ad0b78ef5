"""Tests of wsock.services.presence."""

from __future__ import annotations

from typing import Any

from msgspec import Raw
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from wsock.backends.memory_presence import MemoryPresence
from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import IPresenceStore, Stray
from wsock.protocol.presence import LeaveReason
from wsock.services.presence import Presence
from wsock.testing.fakes import Now, RecordingReceiver

START = 1_700_000_000.0


@implementer(IPresenceStore)
class FlakyPresence(MemoryPresence):
    """A store whose reap, suspend, leave and adopt fail while ``trouble`` is set, and whose reap waits for ``slow``."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: Exception | None = None
        self.slow: Deferred[None] | None = None
        self.reaps = 0
        self.lost: list[Stray] = []

    async def strays(self) -> list[Stray]:
        lost, self.lost = self.lost, []
        return lost

    async def suspend(self, app: str, channel: str, client_id: str, connection: str, until: float) -> None:
        self._check()
        await super().suspend(app, channel, client_id, connection, until)

    async def leave(self, app: str, channel: str, client_id: str, connection: str, reason: LeaveReason) -> None:
        self._check()
        await super().leave(app, channel, client_id, connection, reason)

    async def adopt(self, app: str, client_id: str, connection: str) -> list[str]:
        self._check()
        return await super().adopt(app, client_id, connection)

    async def reap(self, now: float) -> None:
        self.reaps += 1
        self._check()
        if self.slow is not None:
            await self.slow
        await super().reap(now)

    def _check(self) -> None:
        if self.trouble is not None:
            raise self.trouble


@implementer(ILogObserver)
class Levels:
    """Keeps the levels at which the service logs."""

    def __init__(self) -> None:
        self.seen: list[LogLevel] = []

    def __call__(self, event: LogEvent) -> None:
        if event["log_namespace"] == "wsock.services.presence.Presence":
            self.seen.append(event["log_level"])


class PresenceTestCase(SynchronousTestCase):
    """Alice and her connections a1, a2 in the app "shop"."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.now = Now(self.clock, START)
        self.store = FlakyPresence()
        self.receiver = RecordingReceiver()
        self.store.listen(self.receiver)
        self.presence = self.make_presence()

    def make_presence(self, **options: Any) -> Presence:
        return Presence(self.store, self.clock, self.now, **options)

    def enter(self, connection: str = "a1", channel: str = "chat", data: bytes | Raw | None = None) -> None:
        self.successResultOf(self.presence.enter("shop", channel, "alice", connection, data))

    def lose(self, connection: str = "a1", *channels: str) -> None:
        self.successResultOf(self.presence.lost("shop", "alice", connection, channels or ["chat"]))

    def start(self) -> None:
        self.presence.startService()
        self.addCleanup(self.presence.stopService)

    def kinds(self) -> list[str]:
        return [heard.change.reason or heard.change.kind for heard in self.receiver.changes]

    def members(self, channel: str = "chat") -> list[str]:
        members = self.successResultOf(self.presence.members("shop", channel))
        return [f"{member.client_id} {bytes(member.data).decode()}" for member in members]


class RequestsTests(PresenceTestCase):
    """What clients ask for."""

    def test_store_is_a_presence_store(self) -> None:
        """The store of these tests is what the service expects."""
        verifyObject(IPresenceStore, self.store)

    def test_enter(self) -> None:
        """The member is present from the wall clock's time on."""
        self.enter(data=b'{"x":1}')

        [member] = self.successResultOf(self.presence.members("shop", "chat"))
        self.assertEqual(member.joined_at, int(START * 1000))
        self.assertEqual(bytes(member.data), b'{"x":1}')

    def test_enter_with_wrong_data(self) -> None:
        """What is no object never gets to the store."""
        self.failureResultOf(self.presence.enter("shop", "chat", "alice", "a1", b'"x"'), Refused)

        self.assertEqual(self.members(), [])

    def test_update(self) -> None:
        """The data of a member is replaced."""
        self.enter()
        self.successResultOf(self.presence.update("shop", "chat", "alice", "a1", b'{"x":2}'))

        self.assertEqual(self.members(), ['alice {"x":2}'])

    def test_update_without_being_present(self) -> None:
        """The refusal says what to do first."""
        updated = self.presence.update("shop", "chat", "alice", "a1", b"{}")

        refused = self.failureResultOf(updated, Refused).value
        self.assertEqual(refused.code, Code.BAD_REQUEST)
        self.assertEqual(refused.text, "this connection is not present in 'chat': send presence.enter first")

    def test_leave(self) -> None:
        """Who leaves is gone at once."""
        self.enter()
        self.successResultOf(self.presence.leave("shop", "chat", "alice", "a1"))

        self.assertEqual(self.kinds(), ["enter", "left"])

    def test_leave_while_the_store_is_away(self) -> None:
        """A client that asks to leave is told that it could not."""
        self.enter()
        self.store.trouble = Unavailable("away")

        self.failureResultOf(self.presence.leave("shop", "chat", "alice", "a1"), Unavailable)


class DataTests(PresenceTestCase):
    """What clients may say of themselves."""

    def refusal(self, data: bytes | Raw | None) -> Refused:
        with self.assertRaises(Refused) as caught:
            self.presence.check_data(data)
        refused = caught.exception
        assert isinstance(refused, Refused)
        return refused

    def test_nothing_is_an_empty_object(self) -> None:
        """The SDKs have several ways to say nothing."""
        for data in (None, b"", b"null", b"[]", b"[ ]", b" null ", b"{}", Raw(b""), Raw(b"null"), Raw(b"[\n]")):
            self.assertEqual(self.presence.check_data(data), b"{}", data)

    def test_object_is_kept_byte_for_byte(self) -> None:
        """Numbers, spaces and the order of keys are the client's."""
        text = b'{"b": 1.0, "a" : 12345678901234567890123, "c":{"d":[null]}}'

        self.assertEqual(self.presence.check_data(Raw(text)), text)
        self.assertIs(type(self.presence.check_data(Raw(text))), bytes)

    def test_anything_else_is_refused(self) -> None:
        """Another value, or no JSON at all, is a bad request that names the presence data."""
        nested = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        presence = self.presence = self.make_presence(max_data_bytes=1_000_000)
        for data in (
            b"1",
            b'"x"',
            b"true",
            b"[1]",
            b"[",
            b"{",
            b"{]",
            b'{"a":1}{',
            b'{"\xff":1}',
            b'{"\\ud800":1}',
            nested,
        ):
            refused = self.refusal(data)
            self.assertEqual(refused.code, Code.BAD_REQUEST, data[:20])
            self.assertIn("the presence data must be a JSON object", refused.text)
        self.assertEqual(presence.check_data(b'{"a":1}'), b'{"a":1}')

    def test_size(self) -> None:
        """Data as large as the limit is taken; a byte more is refused by the setting's name."""
        self.presence = self.make_presence(max_data_bytes=10)
        self.assertEqual(self.presence.check_data(b'{"x":1234}'), b'{"x":1234}')

        refused = self.refusal(b'{"x":12345}')

        self.assertEqual(refused.code, Code.TOO_LARGE)
        self.assertEqual(
            refused.text, "the presence data has 11 bytes, more than the limit of 10 (limits.presence_bytes)"
        )


class ConnectionsTests(PresenceTestCase):
    """What happens to members when connections come and go."""

    def test_lost(self) -> None:
        """A member whose connection was lost leaves when the grace period is over, within a second."""
        self.start()
        self.enter()
        self.lose()
        self.clock.pump([1] * 9)
        self.assertEqual(self.kinds(), ["enter"])

        self.clock.pump([1] * 2)

        self.assertEqual(self.kinds(), ["enter", "disconnected"])

    def test_lost_without_grace(self) -> None:
        """With a grace period of 0 the member leaves at once, as disconnected."""
        self.presence = self.make_presence(grace_seconds=0)
        self.enter()
        self.lose()

        self.assertEqual(self.kinds(), ["enter", "disconnected"])

    def test_closed(self) -> None:
        """A connection that was closed leaves all of its channels at once, with the reason given."""
        self.enter(channel="chat")
        self.enter(channel="news")
        closed = self.presence.closed("shop", "alice", "a1", ["chat", "news"])
        self.successResultOf(closed)
        self.enter()
        self.successResultOf(self.presence.closed("shop", "alice", "a1", ["chat"], "kicked"))

        self.assertEqual(self.kinds(), ["enter", "enter", "left", "left", "enter", "kicked"])

    def test_returned(self) -> None:
        """A client that is back in time never left."""
        self.start()
        self.enter()
        self.lose()
        self.clock.advance(5)
        returned = self.presence.returned("shop", "alice", "a2")

        self.assertEqual(self.successResultOf(returned), ["chat"])
        self.clock.pump([1] * 20)
        self.assertEqual(self.kinds(), ["enter"])
        self.assertEqual(self.members(), ["alice {}"])


class StraysTests(PresenceTestCase):
    """Clients that lost a connection on another node."""

    def setUp(self) -> None:
        super().setUp()
        self.home: list[str] = []
        self.presence.startService()
        self.addCleanup(self.presence.stopService)

    def arrives(self, client: str, connection: str, trouble: Exception | None = None) -> None:
        async def come_home() -> None:
            self.home.append(connection)
            if trouble is not None:
                raise trouble

        self.presence.arrived("shop", client, connection, come_home)

    def test_newest_connection_takes_over(self) -> None:
        """Of a client with connections here the newest one comes home; of others nobody does."""
        self.arrives("alice", "a1")
        self.arrives("alice", "a2")
        self.arrives("bob", "b1")
        self.store.lost = [Stray("shop", "alice"), Stray("shop", "carol"), Stray("other", "bob")]
        self.clock.advance(1)

        self.assertEqual(self.home, ["a2"])

    def test_one_that_fails_keeps_nobody_away(self) -> None:
        """Where one client can't be brought home, the others are, and who is due is reaped."""
        self.arrives("alice", "a1", Unavailable("away"))
        self.arrives("bob", "b1", KeyError("a fault"))
        self.arrives("carol", "c1")
        self.store.lost = [Stray("shop", client) for client in ("alice", "bob", "carol")]
        self.clock.advance(1)

        self.assertEqual((self.home, self.store.reaps), (["a1", "b1", "c1"], 1))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)


class OutageTests(PresenceTestCase):
    """What happens while the store is away."""

    def test_lost_while_the_store_is_away(self) -> None:
        """The member leaves when the store is back, though nobody could be told at the time."""
        self.start()
        self.enter()
        self.store.trouble = Unavailable("away")
        self.lose()
        self.clock.pump([1] * 20)
        self.assertEqual(self.kinds(), ["enter"])

        self.store.trouble = None
        self.clock.advance(1)

        self.assertEqual(self.kinds(), ["enter", "disconnected"])
        self.assertEqual(len(self.store), 0)

    def test_closed_while_the_store_is_away(self) -> None:
        """A clean close is made good as such, in every channel."""
        self.start()
        self.enter(channel="chat")
        self.enter(channel="news")
        self.store.trouble = Unavailable("away")
        self.successResultOf(self.presence.closed("shop", "alice", "a1", ["chat", "news"]))
        self.clock.pump([1] * 3)

        self.store.trouble = None
        self.clock.advance(1)

        self.assertEqual(self.kinds(), ["enter", "enter", "left", "left"])

    def test_back_as_soon_as_the_store(self) -> None:
        """A client that comes back before the next look finds what it lost in the outage."""
        self.enter()
        self.store.trouble = Unavailable("away")
        self.lose()
        self.failureResultOf(self.presence.returned("shop", "alice", "a2"), Unavailable)

        self.store.trouble = None

        self.assertEqual(self.successResultOf(self.presence.returned("shop", "alice", "a2")), ["chat"])

    def test_act_that_always_fails_is_given_up(self) -> None:
        """A fault of the store in making one thing good does not keep the others waiting."""
        self.start()
        self.enter()
        self.store.trouble = Unavailable("away")
        self.lose("a1", "chat", "news")
        self.store.trouble = KeyError("a fault")
        self.clock.pump([1] * 3)
        self.flushLoggedErrors(KeyError)
        self.store.trouble = None
        self.clock.advance(1)

        self.assertEqual(self.store.reaps, 2)


class TimerTests(PresenceTestCase):
    """The look at who is due."""

    def setUp(self) -> None:
        super().setUp()
        levels = Levels()
        self.logged = levels.seen
        globalLogPublisher.addObserver(levels)
        self.addCleanup(globalLogPublisher.removeObserver, levels)

    def test_looks_every_second(self) -> None:
        """Once a second while the service runs, never before or after."""
        self.clock.advance(5)
        self.assertEqual(self.store.reaps, 0)
        self.presence.startService()
        self.clock.pump([1] * 3)
        self.assertEqual(self.store.reaps, 3)
        self.successResultOf(self.presence.stopService())
        self.clock.advance(5)

        self.assertEqual(self.store.reaps, 3)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_starts_again(self) -> None:
        """A service that was stopped can be started again."""
        self.presence.startService()
        self.successResultOf(self.presence.stopService())
        self.start()
        self.clock.advance(1)

        self.assertEqual(self.store.reaps, 1)

    def test_stop_without_start(self) -> None:
        """A service that never ran stops at once."""
        self.successResultOf(self.presence.stopService())

    def test_one_look_at_a_time(self) -> None:
        """A slow store is not asked again before it has answered."""
        self.start()
        self.store.slow = Deferred()
        self.clock.pump([1] * 5)
        self.assertEqual(self.store.reaps, 1)
        self.store.slow.callback(None)
        self.store.slow = None
        self.clock.advance(1)

        self.assertEqual(self.store.reaps, 2)

    def test_stop_waits(self) -> None:
        """The service has stopped when the look that runs has ended."""
        self.presence.startService()
        self.store.slow = Deferred()
        self.clock.advance(1)
        stopped = self.presence.stopService()
        self.assertNoResult(stopped)

        self.store.slow.callback(None)

        self.successResultOf(stopped)

    def test_outage_is_logged_once(self) -> None:
        """A store that is away is asked again and again; the log has one line for it, and one for its return."""
        self.start()
        self.store.trouble = Unavailable("away")
        self.clock.pump([1] * 5)
        self.assertEqual(self.store.reaps, 5)
        self.assertEqual(self.logged, [LogLevel.warn])
        self.store.trouble = None
        self.clock.pump([1] * 5)
        self.assertEqual(self.logged, [LogLevel.warn, LogLevel.info])
        self.store.trouble = Unavailable("away")
        self.clock.advance(1)

        self.assertEqual(self.logged, [LogLevel.warn, LogLevel.info, LogLevel.warn])

    def test_fault_is_logged_once(self) -> None:
        """A fault of the store, a cancellation too, does not end the looking."""
        for fault in (KeyError("a fault"), CancelledError()):
            self.store.trouble = fault
            self.logged.clear()
            self.presence.startService()
            self.clock.pump([1] * 3)
            self.store.trouble = None
            self.clock.advance(1)
            self.successResultOf(self.presence.stopService())

            self.assertEqual(self.logged, [LogLevel.critical, LogLevel.info])
            self.assertEqual(len(self.flushLoggedErrors(type(fault))), 1)
        self.assertEqual(self.store.reaps, 8)
