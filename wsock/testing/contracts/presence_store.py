"""What every :class:`wsock.interfaces.IPresenceStore` is held to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from zope.interface.verify import verifyObject

from wsock.errors import Code, Refused
from wsock.interfaces import IPresenceStore, Stray
from wsock.protocol.presence import LeaveReason, PresenceChange
from wsock.testing.fakes import RecordingReceiver

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

__all__ = ["PresenceStoreContract"]

NOW = 1_700_000_000.25


class PresenceStoreContract(TestCase):
    """Mix it in and provide ``make_presence_store``.

    It is called with the number of members that a channel may have, and makes an empty store that nobody listens to.
    A store that announces later than it returns also overrides ``announced``.
    """

    make_presence_store: Callable[[int], Awaitable[IPresenceStore]]
    store: IPresenceStore
    receiver: RecordingReceiver

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        """Makes what is tested."""
        await self.listen_to(await self.make_presence_store(1000))

    async def listen_to(self, store: IPresenceStore) -> None:
        """The test is about this store."""
        self.store = store
        self.receiver = RecordingReceiver()
        store.listen(self.receiver)

    async def announced(self) -> None:
        """Waits until everything that happened has been announced."""

    # The vocabulary of the tests: app "shop", channel "chat", and the connections a1, a2 of alice and b1 of bob.

    async def enters(
        self, connection: str, data: bytes = b"{}", *, app: str = "shop", channel: str = "chat", now: float = NOW
    ) -> None:
        """The connection enters."""
        await self.store.enter(app, channel, client_of(connection), connection, data, now)

    async def updates(self, connection: str, data: bytes) -> bool:
        """The connection updates."""
        return await self.store.update("shop", "chat", client_of(connection), connection, data, NOW + 1)

    async def leaves(self, connection: str, reason: LeaveReason = "left", *, app: str = "shop") -> None:
        """The connection leaves."""
        await self.store.leave(app, "chat", client_of(connection), connection, reason)

    async def is_lost(
        self, connection: str, until: float = NOW + 10, *, app: str = "shop", channel: str = "chat"
    ) -> None:
        """The connection is lost."""
        await self.store.suspend(app, channel, client_of(connection), connection, until)

    async def assert_present(self, *clients: str, app: str = "shop", channel: str = "chat") -> None:
        """These are the members, in this order."""
        members = await self.store.members(app, channel)
        self.assertEqual([member.client_id for member in members], list(clients))

    async def assert_announced(self, *lines: str) -> None:
        """Since the last look this was announced: ``kind channel client data [reason]``, in this order."""
        await self.announced()
        self.assertEqual([_line(heard.change) for heard in self.receiver.changes], list(lines))
        self.receiver.heard.clear()

    # Entering.

    async def test_provides_the_interface(self) -> None:
        """The store has the methods of IPresenceStore, with their arguments."""
        verifyObject(IPresenceStore, self.store)

    async def test_enter(self) -> None:
        """A new member is there, with its data as it came and when it came, and is announced."""
        await self.enters("a1", b'{"n": 1.0}')

        [member] = await self.store.members("shop", "chat")
        self.assertEqual(member.client_id, "alice")
        self.assertEqual(bytes(member.data), b'{"n": 1.0}')
        self.assertEqual(member.joined_at, 1_700_000_000_250)
        self.assertIs(type(member.joined_at), int)
        await self.announced()
        [heard] = self.receiver.changes
        self.assertEqual(heard.app, "shop")
        self.assertEqual(heard.change.channel, "chat")
        self.assertEqual(heard.change.kind, "enter")
        self.assertIsNone(heard.change.reason)
        self.assertEqual(heard.change.member.client_id, "alice")
        self.assertEqual(heard.change.member.joined_at, 1_700_000_000_250)
        self.assertEqual(bytes(heard.change.member.data), b'{"n": 1.0}')

    async def test_nobody_present(self) -> None:
        """A channel that nobody entered has no members."""
        self.assertEqual(await self.store.members("shop", "chat"), [])

    async def test_members_are_in_order_of_entering(self) -> None:
        """Members come in the order in which they entered; an update does not move one."""
        for connection in ("b1", "a1", "c1"):
            await self.enters(connection)
        await self.updates("b1", b'{"x":1}')

        await self.assert_present("bob", "alice", "carol")

    async def test_enter_again_is_an_update(self) -> None:
        """A connection that enters twice replaces its data, keeps its time, and is announced as an update."""
        await self.enters("a1", b'{"x":1}')
        await self.enters("a1", b'{"x":2}', now=NOW + 5)

        [member] = await self.store.members("shop", "chat")
        self.assertEqual(member.joined_at, 1_700_000_000_250)
        self.assertEqual(bytes(member.data), b'{"x":2}')
        await self.assert_announced('enter chat alice {"x":1}', 'update chat alice {"x":2}')

    async def test_members_are_counted_by_client(self) -> None:
        """A second connection of a client makes no second member."""
        await self.enters("a1", b'{"x":1}')
        await self.enters("a2", b'{"x":2}', now=NOW + 5)

        await self.assert_present("alice")
        await self.assert_announced('enter chat alice {"x":1}', 'update chat alice {"x":2}')

    async def test_full_channel(self) -> None:
        """Beyond the limit a new member is refused by the limit's name; those present may enter again."""
        await self.listen_to(await self.make_presence_store(2))
        await self.enters("a1")
        await self.enters("b1")

        with self.assertRaises(Refused) as caught:
            await self.enters("c1")
        self.assertEqual(caught.exception.code, Code.LIMIT_EXCEEDED)
        self.assertIn("limits.presence_members", caught.exception.text)
        await self.assert_present("alice", "bob")
        await self.enters("a2")
        await self.enters("c1", channel="other")
        await self.leaves("b1")
        await self.enters("c1")
        await self.assert_present("alice", "carol")

    # Updating.

    async def test_update(self) -> None:
        """The data is replaced, the time stays, everybody is told."""
        await self.enters("a1", b'{"x":1}')

        self.assertTrue(await self.updates("a1", b'{"y":2}'))

        [member] = await self.store.members("shop", "chat")
        self.assertEqual(bytes(member.data), b'{"y":2}')
        self.assertEqual(member.joined_at, 1_700_000_000_250)
        await self.assert_announced('enter chat alice {"x":1}', 'update chat alice {"y":2}')

    async def test_update_by_who_does_not_hold_it(self) -> None:
        """Only a connection that entered can update: others change and announce nothing."""
        self.assertFalse(await self.updates("a1", b'{"x":1}'))
        await self.enters("a1")
        self.assertFalse(await self.updates("a2", b'{"x":2}'))
        self.assertFalse(await self.updates("b1", b'{"x":3}'))
        await self.is_lost("a1")
        self.assertFalse(await self.updates("a1", b'{"x":4}'))

        await self.assert_announced("enter chat alice {}")

    # Leaving.

    async def test_leave(self) -> None:
        """The member is gone; its last data, its time and the reason are announced."""
        await self.enters("a1", b'{"x":1}')
        await self.updates("a1", b'{"x":2}')
        await self.leaves("a1", "kicked")

        await self.assert_present()
        await self.announced()
        self.assertEqual(self.receiver.changes[-1].change.member.joined_at, 1_700_000_000_250)
        await self.assert_announced(
            'enter chat alice {"x":1}', 'update chat alice {"x":2}', 'leave chat alice {"x":2} kicked'
        )

    async def test_leave_twice(self) -> None:
        """Leaving where one is not present does nothing."""
        await self.leaves("a1")
        await self.enters("a1")
        await self.leaves("b1")
        await self.leaves("a2")
        await self.leaves("a1")
        await self.leaves("a1")

        await self.assert_announced("enter chat alice {}", "leave chat alice {} left")

    async def test_enter_again_with_the_same_data(self) -> None:
        """A client that comes back and enters as before makes no noise, with whatever connection."""
        await self.enters("a1")
        await self.enters("a1")
        await self.enters("a2")

        await self.assert_announced("enter chat alice {}")

    async def test_leave_of_one_of_several_connections(self) -> None:
        """A client with another connection in the channel stays; the last one announces the leave."""
        await self.enters("a1")
        await self.enters("a2")
        await self.leaves("a1")
        await self.assert_present("alice")
        await self.assert_announced("enter chat alice {}")

        await self.leaves("a2")

        await self.assert_present()
        await self.assert_announced("leave chat alice {} left")

    async def test_enter_after_leave(self) -> None:
        """Who left and comes again is new."""
        await self.enters("a1")
        await self.leaves("a1")
        await self.enters("a1", now=NOW + 60)

        [member] = await self.store.members("shop", "chat")
        self.assertEqual(member.joined_at, 1_700_000_060_250)
        await self.assert_announced("enter chat alice {}", "leave chat alice {} left", "enter chat alice {}")

    # Being lost.

    async def test_lost_and_not_back(self) -> None:
        """A lost member stays until its time has come, and then leaves as disconnected, once."""
        await self.enters("a1", b'{"x":1}')
        await self.is_lost("a1", NOW + 10)

        await self.store.reap(NOW + 9)
        await self.assert_present("alice")
        await self.assert_announced('enter chat alice {"x":1}')
        await self.store.reap(NOW + 10)
        await self.store.reap(NOW + 20)
        await self.assert_present()
        await self.assert_announced('leave chat alice {"x":1} disconnected')

    async def test_suspend_of_who_does_not_hold_it(self) -> None:
        """A connection that did not enter has nothing to lose."""
        await self.is_lost("a1")
        await self.enters("a1")
        await self.is_lost("a2")
        await self.is_lost("b1")
        await self.store.reap(NOW + 60)

        await self.assert_present("alice")

    async def test_suspend_again(self) -> None:
        """Of two times for one connection the later call's rules."""
        await self.enters("a1")
        await self.is_lost("a1", NOW + 10)
        await self.is_lost("a1", NOW + 30)
        await self.store.reap(NOW + 20)
        await self.assert_present("alice")
        await self.store.reap(NOW + 30)

        await self.assert_present()

    async def test_lost_connection_of_a_client_with_another(self) -> None:
        """As long as another connection holds the member, the end of a lost one is not announced."""
        await self.enters("a1")
        await self.enters("a2")
        await self.is_lost("a1")
        await self.store.reap(NOW + 10)

        await self.assert_present("alice")
        await self.assert_announced("enter chat alice {}")

    async def test_leave_while_another_connection_is_lost(self) -> None:
        """A lost connection counts as a holder until its time has come."""
        await self.enters("a1")
        await self.enters("a2")
        await self.is_lost("a1")
        await self.leaves("a2")
        await self.assert_present("alice")
        await self.store.reap(NOW + 10)

        await self.assert_present()
        await self.assert_announced("enter chat alice {}", "leave chat alice {} disconnected")

    async def test_two_lost_connections(self) -> None:
        """The member leaves with the last of its lost connections."""
        await self.enters("a1")
        await self.enters("a2")
        await self.is_lost("a1", NOW + 20)
        await self.is_lost("a2", NOW + 10)
        await self.store.reap(NOW + 10)
        await self.assert_present("alice")
        await self.store.reap(NOW + 20)

        await self.assert_present()

    async def test_leave_of_a_lost_connection(self) -> None:
        """A lost connection that is then given up leaves at once, with the reason given."""
        await self.enters("a1")
        await self.is_lost("a1")
        await self.leaves("a1", "node_lost")
        await self.store.reap(NOW + 60)

        await self.assert_announced("enter chat alice {}", "leave chat alice {} node_lost")

    async def test_enter_in_the_grace_period(self) -> None:
        """A client that enters anew before its time never left: an update, and the lost connection is forgotten."""
        await self.enters("a1", b'{"x":1}')
        await self.is_lost("a1")
        await self.enters("a2", b'{"x":2}', now=NOW + 5)
        await self.store.reap(NOW + 60)

        [member] = await self.store.members("shop", "chat")
        self.assertEqual(member.joined_at, 1_700_000_000_250)
        await self.assert_announced('enter chat alice {"x":1}', 'update chat alice {"x":2}')
        await self.leaves("a2")
        await self.assert_announced('leave chat alice {"x":2} left')

    async def test_reap_is_in_order_of_time(self) -> None:
        """Members leave in the order in which their times came, however many are due."""
        for connection, after in (("a1", 3), ("b1", 1), ("c1", 2)):
            await self.enters(connection)
            await self.is_lost(connection, NOW + after)
        self.receiver.heard.clear()
        await self.store.reap(NOW + 60)

        await self.assert_announced(
            "leave chat bob {} disconnected",
            "leave chat carol {} disconnected",
            "leave chat alice {} disconnected",
        )

    async def test_counts(self) -> None:
        """Members are counted by channel, each once, a lost one too; where nobody is there are none."""
        await self.enters("a1")
        await self.enters("a2")
        await self.enters("b1")
        await self.is_lost("b1")
        await self.enters("b1", channel="news")
        await self.enters("a1", app="other")

        self.assertEqual(await self.store.counts("shop", ["news", "chat", "empty"]), [1, 2, 0])
        self.assertEqual(await self.store.counts("shop", []), [])

    # Coming back.

    async def test_adopt(self) -> None:
        """A connection takes over, without a word, every channel where the client's lost ones are present."""
        await self.enters("a1")
        await self.enters("a1", channel="news")
        await self.enters("a2", channel="quiet")
        await self.is_lost("a1")
        await self.is_lost("a1", channel="news")
        await self.announced()
        self.receiver.heard.clear()

        channels = await self.store.adopt("shop", "alice", "a3")

        self.assertEqual(sorted(channels), ["chat", "news"])
        await self.store.reap(NOW + 60)
        await self.assert_present("alice")
        await self.assert_present("alice", channel="news")
        await self.assert_announced()
        self.assertTrue(await self.updates("a3", b'{"x":2}'))
        await self.leaves("a3")
        await self.assert_announced('update chat alice {"x":2}', 'leave chat alice {"x":2} left')

    async def test_adopt_nothing(self) -> None:
        """Connections that live are not taken over, nor those of other clients."""
        await self.enters("a1")
        await self.enters("b1")
        await self.is_lost("b1")

        self.assertEqual(await self.store.adopt("shop", "alice", "a2"), [])
        self.assertFalse(await self.updates("a2", b'{"x":1}'))

    async def test_adopt_from_two_lost_connections(self) -> None:
        """A channel that two lost connections were in is one channel."""
        await self.enters("a1")
        await self.enters("a2")
        await self.is_lost("a1")
        await self.is_lost("a2")

        self.assertEqual(await self.store.adopt("shop", "alice", "a3"), ["chat"])
        self.assertEqual(await self.store.adopt("shop", "alice", "a4"), [])
        await self.leaves("a3")
        await self.assert_present()

    async def test_adopt_by_one_that_holds_it(self) -> None:
        """A connection that is in the channel itself takes the lost one's place as well."""
        await self.enters("a1")
        await self.enters("a2")
        await self.is_lost("a1")

        self.assertEqual(await self.store.adopt("shop", "alice", "a2"), ["chat"])
        await self.leaves("a2")
        await self.assert_present()

    async def test_adopt_after_the_time(self) -> None:
        """Who comes back after the leave finds nothing to take over."""
        await self.enters("a1")
        await self.is_lost("a1")
        await self.store.reap(NOW + 10)

        self.assertEqual(await self.store.adopt("shop", "alice", "a2"), [])

    async def test_lost_again_after_adopting(self) -> None:
        """Who took over can be lost like any other, and its own time counts."""
        await self.enters("a1")
        await self.is_lost("a1", NOW + 10)
        await self.store.adopt("shop", "alice", "a2")
        await self.is_lost("a2", NOW + 30)
        await self.store.reap(NOW + 20)
        await self.assert_present("alice")
        await self.store.reap(NOW + 30)

        await self.assert_present()

    async def test_strays(self) -> None:
        """Asking for the clients that lost a connection changes nothing, and brings no one who lost none."""
        await self.enters("a1")
        await self.enters("b1")
        await self.is_lost("a1")

        self.assertNotIn(Stray("shop", "bob"), [*await self.store.strays(), *await self.store.strays()])
        self.assertEqual(await self.store.adopt("shop", "alice", "a2"), ["chat"])

    # Apart.

    async def test_channels_are_apart(self) -> None:
        """What happens in one channel changes no other."""
        await self.enters("a1")
        await self.enters("a1", channel="news")
        await self.is_lost("a1", channel="news")
        await self.store.reap(NOW + 60)

        await self.assert_present("alice")
        await self.assert_present(channel="news")

    async def test_tenants_never_meet(self) -> None:
        """Apps with the same channels, clients and connections know nothing of one another."""
        await self.enters("a1", b'{"x":1}')
        await self.enters("a1", b'{"x":2}', app="other")
        await self.announced()
        self.assertEqual([heard.app for heard in self.receiver.changes], ["shop", "other"])
        self.assertEqual([heard.change.kind for heard in self.receiver.changes], ["enter", "enter"])
        await self.is_lost("a1", app="other")

        self.assertEqual(await self.store.adopt("shop", "alice", "a2"), [])
        await self.leaves("a1")
        await self.assert_present()
        await self.assert_present("alice", app="other")
        [member] = await self.store.members("other", "chat")
        self.assertEqual(bytes(member.data), b'{"x":2}')
        await self.store.reap(NOW + 60)
        await self.assert_present(app="other")
        await self.announced()
        self.assertEqual([heard.app for heard in self.receiver.changes[2:]], ["shop", "other"])

    async def test_tenants_have_limits_of_their_own(self) -> None:
        """A channel that is full in one app is not full in another."""
        await self.listen_to(await self.make_presence_store(1))
        await self.enters("a1")
        await self.enters("b1", app="other")

        await self.assert_present("bob", app="other")

    async def test_names_that_look_alike(self) -> None:
        """No choice of separators in names makes two channels, clients or apps one."""
        await self.store.enter("a", "b:c", "d", "1", b"{}", NOW)
        await self.store.enter("a:b", "c", "d", "1", b"{}", NOW)
        await self.store.enter("a", "b", "c:d", "1", b"{}", NOW)

        await self.assert_present("d", app="a", channel="b:c")
        await self.assert_present("d", app="a:b", channel="c")
        await self.assert_present("c:d", app="a", channel="b")


def client_of(connection: str) -> str:
    """The client that a connection of the tests belongs to."""
    return {"a": "alice", "b": "bob", "c": "carol"}[connection[0]]


def _line(change: PresenceChange) -> str:
    words = [change.kind, change.channel, change.member.client_id, bytes(change.member.data).decode()]
    return " ".join(words + ([change.reason] if change.reason else []))
