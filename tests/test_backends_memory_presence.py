"""Tests of wsock.backends.memory_presence."""

from __future__ import annotations

from msgspec import Raw
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase, TestCase
from wsock.backends.memory_presence import MemoryPresence
from wsock.interfaces import IReceiver
from wsock.protocol.frames import Member
from wsock.protocol.messages import Message
from wsock.protocol.position import Position
from wsock.protocol.presence import PresenceChange
from wsock.testing.contracts.presence_store import NOW, PresenceStoreContract
from wsock.testing.fakes import Now, RecordingReceiver


class MemoryPresenceTests(PresenceStoreContract, TestCase):
    """Presence in memory is an IPresenceStore."""

    async def make_presence_store(self, max_members: int) -> MemoryPresence:
        return MemoryPresence(max_members)


class Replying(RecordingReceiver):
    """Reacts to bob's enter with a change of its own, and notes when it is called inside itself."""

    def __init__(self, test: SynchronousTestCase, store: MemoryPresence) -> None:
        super().__init__()
        self.test = test
        self.store = store
        self.is_called = False

    def presence(self, app: str, change: PresenceChange) -> None:
        self.test.assertFalse(self.is_called, "nested")
        self.is_called = True
        super().presence(app, change)
        if change.member.client_id == "bob":
            self.test.successResultOf(self.store.enter(app, "chat", "alice", "a1", b"{}", NOW))
        self.is_called = False


class RecordingReceiverTests(SynchronousTestCase):
    """The receiver that the contract listens with."""

    def test_provides_the_interface(self) -> None:
        """It is a receiver."""
        verifyObject(IReceiver, RecordingReceiver())

    def test_keeps_what_it_is_told(self) -> None:
        """Everything is there in order, and by kind."""
        receiver = RecordingReceiver()
        position = Position("e", 2)
        change = PresenceChange("chat", "enter", Member("alice", Raw(b"{}"), 1))
        message = Message("chat", "m", Raw(b"1"), 1, "alice", 1, "e")
        receiver.message("shop", message)
        receiver.presence("shop", change)
        receiver.lost("shop", "chat", position)

        self.assertEqual(receiver.messages, [("shop", message)])
        self.assertEqual(receiver.changes, [("shop", change)])
        self.assertEqual(receiver.losses, [("shop", "chat", position)])
        self.assertEqual(receiver.heard, [*receiver.messages, *receiver.changes, *receiver.losses])

    def test_wall_clock(self) -> None:
        """Now goes with its clock, from whatever it was set to."""
        clock = Clock()
        clock.advance(5)
        now = Now(clock, 100)
        clock.advance(1)
        self.assertEqual(now(), 101)
        now.set(50)
        clock.advance(2)

        self.assertEqual(now(), 52)


class MemoryOfPresenceTests(SynchronousTestCase):
    """What it keeps, and how it tells."""

    def setUp(self) -> None:
        self.store = MemoryPresence()
        self.store.listen(RecordingReceiver())

    def enter(self, client: str, connection: str, channel: str = "chat") -> None:
        self.successResultOf(self.store.enter("shop", channel, client, connection, b"{}", NOW))

    def suspend(self, client: str, connection: str, until: float) -> None:
        self.successResultOf(self.store.suspend("shop", "chat", client, connection, until))

    def test_nothing_is_kept_when_all_left(self) -> None:
        """However members left, nothing is left of them."""
        for n in range(100):
            self.enter(f"client-{n}", f"connection-{n}", f"channel-{n % 7}")
        for n in range(100):
            client, connection, channel = f"client-{n}", f"connection-{n}", f"channel-{n % 7}"
            if n % 2:
                self.successResultOf(self.store.suspend("shop", channel, client, connection, NOW + n))
            else:
                self.successResultOf(self.store.leave("shop", channel, client, connection, "left"))
        self.successResultOf(self.store.reap(NOW + 100))

        self.assertEqual(len(self.store), 0)
        self.assertEqual(self.store._channels, {})
        self.assertEqual(self.store._suspensions._by_client, {})
        self.assertEqual(self.store._suspensions._due, [])

    def test_nothing_is_kept_of_who_came_back(self) -> None:
        """Suspensions that no longer count are not kept until their time."""
        self.enter("alice", "a")
        for n in range(5):
            self.suspend("alice", "a", NOW + 3600 + n)
            self.successResultOf(self.store.adopt("shop", "alice", "a"))
        self.successResultOf(self.store.leave("shop", "chat", "alice", "a", "left"))

        self.assertEqual(len(self.store), 0)

    def test_flapping_connections_are_bounded(self) -> None:
        """Clients that are lost and back all the time do not fill the memory while another stays lost."""
        self.enter("bob", "b")
        self.suspend("bob", "b", NOW + 3600)
        self.enter("alice", "a")
        for _ in range(10_000):
            self.suspend("alice", "a", NOW + 3600)
            self.successResultOf(self.store.adopt("shop", "alice", "a"))

        self.assertLess(len(self.store), 200)
        self.successResultOf(self.store.reap(NOW + 3600))
        members = self.successResultOf(self.store.members("shop", "chat"))
        self.assertEqual([member.client_id for member in members], ["alice"])

    def test_refused_member_leaves_nothing(self) -> None:
        """A channel whose only member was refused is not kept."""
        store = MemoryPresence(0)

        self.failureResultOf(store.enter("shop", "chat", "alice", "a", b"{}", NOW))
        self.assertEqual(store._channels, {})

    def test_data_is_copied(self) -> None:
        """The data outlives the buffer that it came in."""
        buffer = bytearray(b'{"x":1}')
        entered = self.store.enter("shop", "chat", "alice", "a", buffer, NOW)  # type: ignore[arg-type]  # a buffer
        self.successResultOf(entered)
        buffer[:] = b"-------"

        [member] = self.successResultOf(self.store.members("shop", "chat"))
        self.assertEqual(bytes(member.data), b'{"x":1}')

    def test_calls_are_not_nested(self) -> None:
        """A change that the receiver causes is announced when it has returned, in order."""
        receiver = Replying(self, self.store)
        self.store.listen(receiver)
        self.enter("bob", "b1")

        self.assertEqual([heard.change.member.client_id for heard in receiver.changes], ["bob", "alice"])
