"""What every :class:`wsock.interfaces.IJournal` is held to, and one that is the message store as well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from zope.interface.verify import verifyObject

from wsock.errors import Unavailable
from wsock.interfaces import ChannelTail, IJournal, JournalRecord, RecentId
from wsock.protocol.messages import HistoryQuery, Message, Page, Receipt
from wsock.protocol.position import Position
from wsock.testing.contracts.message_store import AWKWARD_DATA, AWKWARD_NAMES, make_message

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

__all__ = ["JournalContract", "JournalHistoryContract", "records"]


def records(*messages: Message, app: str = "app", identity: str = "") -> list[JournalRecord]:
    """The messages as a broker commits them."""
    return [JournalRecord(app, identity, message) for message in messages]


class JournalContract(TestCase):
    """Mix it in and provide ``make_journal``, which makes an empty journal."""

    make_journal: Callable[[], Awaitable[IJournal]]
    journal: IJournal

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        """Makes a new one."""
        self.journal = await self.make_journal()

    async def test_provides_the_interface(self) -> None:
        """The journal has the methods of IJournal, with their arguments."""
        verifyObject(IJournal, self.journal)

    async def test_new_journal_knows_nothing(self) -> None:
        """Before the first commit there is no channel, no id and no timestamp."""
        self.assertIsNone(await self.journal.tail("app", "room", 0, 10))
        self.assertEqual(await self.journal.recent_ids(0), [])
        self.assertEqual(await self.journal.last_timestamps(), {})

    async def test_empty_commit(self) -> None:
        """Committing nothing succeeds and changes nothing."""
        await self.journal.commit([])

        self.assertEqual(await self.journal.last_timestamps(), {})

    async def test_tail_after_commit(self) -> None:
        """The tail is at the last message of all batches, and tells all recent ones, oldest first."""
        messages = [make_message(n, persist=n != 2) for n in range(1, 5)]
        await self.journal.commit(records(*messages[:3]))
        await self.journal.commit(records(messages[3]))

        tail = await self.journal.tail("app", "room", 0, 10)

        self.assertEqual(tail, ChannelTail(Position("epoch-a", 4), 4000, messages, 0))

    async def test_large_batch_of_many_channels(self) -> None:
        """A batch of any size moves each of its channels to its own last message."""
        batch = [make_message(n, channel=f"room-{c}", timestamp=n) for n in (1, 2, 3) for c in range(200)]

        await self.journal.commit(records(*batch))

        for c in (0, 57, 199):
            tail = await self.journal.tail("app", f"room-{c}", 0, 10)
            wanted = [message for message in batch if message.channel == f"room-{c}"]
            self.assertEqual(tail, ChannelTail(Position("epoch-a", 3), 3, wanted, 0))

    async def test_data_and_names_survive(self) -> None:
        """Data comes back byte for byte, from channels of any name."""
        messages = [
            make_message(n, channel=name, data=data) for name in AWKWARD_NAMES for n, data in enumerate(AWKWARD_DATA, 1)
        ]

        await self.journal.commit(records(*messages))

        for name in AWKWARD_NAMES:
            tail = await self.journal.tail("app", name, 0, 10)
            assert tail is not None
            self.assertEqual([bytes(message.data) for message in tail.recent], list(AWKWARD_DATA))

    async def test_tail_is_limited_by_number(self) -> None:
        """Of more messages than the limit the last are recent, and the one before them is trimmed."""
        messages = [make_message(n) for n in range(1, 6)]
        await self.journal.commit(records(*messages))

        self.assertEqual(
            await self.journal.tail("app", "room", 0, 2),
            ChannelTail(Position("epoch-a", 5), 5000, messages[3:], 3000),
        )

    async def test_tail_is_limited_by_age(self) -> None:
        """Messages of the timestamp ``cutoff`` and before are not recent; the newest of them is trimmed."""
        messages = [make_message(n) for n in range(1, 6)]
        await self.journal.commit(records(*messages))

        self.assertEqual(
            await self.journal.tail("app", "room", 3000, 10),
            ChannelTail(Position("epoch-a", 5), 5000, messages[3:], 3000),
        )

    async def test_tail_of_a_quiet_channel(self) -> None:
        """When no message is recent, the position stays known and the last message is trimmed."""
        await self.journal.commit(records(make_message(1), make_message(2)))

        self.assertEqual(
            await self.journal.tail("app", "room", 9000, 10),
            ChannelTail(Position("epoch-a", 2), 2000, [], 2000),
        )

    async def test_tail_that_begins_late_is_conservative(self) -> None:
        """When the message before the first recent one was never seen, it may be as new as one can be."""
        await self.journal.commit(records(make_message(7), make_message(8)))

        tail = await self.journal.tail("app", "room", 0, 10)

        assert tail is not None
        self.assertEqual(([m.sequence for m in tail.recent], tail.trimmed), ([7, 8], 6999))

    async def test_tail_ends_at_a_gap(self) -> None:
        """Recent messages have no gap: what lies before one is not among them."""
        await self.journal.commit(records(make_message(1), make_message(2), make_message(4), make_message(5)))

        tail = await self.journal.tail("app", "room", 0, 10)

        assert tail is not None
        self.assertEqual(([m.sequence for m in tail.recent], tail.trimmed), ([4, 5], 3999))

    async def test_tail_is_of_the_last_epoch(self) -> None:
        """Messages of an epoch that is over are not recent, whatever their sequence."""
        await self.journal.commit(records(make_message(1, epoch="z"), make_message(2, epoch="z")))
        last = make_message(1, epoch="a", timestamp=5000)
        await self.journal.commit(records(last))

        self.assertEqual(await self.journal.tail("app", "room", 0, 10), ChannelTail(Position("a", 1), 5000, [last], 0))

    async def test_position_is_committed_once(self) -> None:
        """A second message for a position is refused, with all of its batch."""
        first = make_message(1)
        await self.journal.commit(records(first))

        with self.assertRaises(Unavailable):
            await self.journal.commit(records(make_message(2), make_message(1, data=b"2")))

        tail = await self.journal.tail("app", "room", 0, 10)
        self.assertEqual(tail, ChannelTail(Position("epoch-a", 1), 1000, [first], 0))

    async def test_recent_ids(self) -> None:
        """Ids of messages that have an identity and are later than ``cutoff``, oldest first."""
        await self.journal.commit(records(make_message(1), make_message(2), make_message(5), identity="alice"))
        await self.journal.commit(records(make_message(6)))
        await self.journal.commit(records(make_message(1, timestamp=4000, persist=False), app="other", identity="bob"))

        self.assertEqual(
            await self.journal.recent_ids(1000),
            [
                RecentId("app", "alice", Receipt("epoch-a-2", "room", 2000, "epoch-a", 2)),
                RecentId("other", "bob", Receipt("epoch-a-1", "room", 4000, "epoch-a", 1)),
                RecentId("app", "alice", Receipt("epoch-a-5", "room", 5000, "epoch-a", 5)),
            ],
        )

    async def test_last_timestamps(self) -> None:
        """The largest timestamp of each app is known, over all its channels and batches."""
        await self.journal.commit(records(make_message(9), make_message(1, channel="quiet")))
        await self.journal.commit(records(make_message(2, channel="quiet")))
        await self.journal.commit(records(make_message(3), app="other"))

        self.assertEqual(await self.journal.last_timestamps(), {"app": 9000, "other": 3000})

    async def test_tenants_never_meet(self) -> None:
        """Another app's channel of the same name has its own end."""
        await self.journal.commit(
            records(make_message(1), app="app") + records(make_message(1, data=b"2"), app="other")
        )

        self.assertEqual(
            await self.journal.tail("other", "room", 0, 10),
            ChannelTail(Position("epoch-a", 1), 1000, [make_message(1, data=b"2")], 0),
        )
        self.assertIsNone(await self.journal.tail("third", "room", 0, 10))


class JournalHistoryContract(TestCase):
    """For one object that is both IJournal and IMessageStore: mix it in and provide ``make_messages``."""

    make_messages: Callable[[], Awaitable[Any]]
    messages: Any

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        """Makes a new one."""
        self.messages = await self.make_messages()

    async def history(self) -> Page:
        """The whole history of the channel, oldest first."""
        page: Page = await self.messages.page("app", "room", HistoryQuery(limit=1000, direction="forward"))
        return page

    async def test_committed_messages_are_history(self) -> None:
        """What is committed is in the pages at once; what does not persist is in the tail only."""
        batch = [make_message(n, persist=n != 2) for n in (1, 2, 3)]

        await self.messages.commit(records(*batch))

        self.assertEqual(await self.history(), Page([batch[0], batch[2]], False))
        tail = await self.messages.tail("app", "room", 0, 10)
        self.assertEqual(tail.recent, batch)

    async def test_append_after_commit_is_idempotent(self) -> None:
        """A committed message that is appended again is left as it is."""
        await self.messages.commit(records(make_message(1)))

        await self.messages.append("app", [make_message(1, data=b"2")])

        self.assertEqual(await self.history(), Page([make_message(1)], False))

    async def test_append_moves_no_position(self) -> None:
        """Appended messages are history only: a channel's end is where the last commit left it."""
        await self.messages.append("app", [make_message(1, epoch="old")])
        self.assertIsNone(await self.messages.tail("app", "room", 0, 10))
        self.assertEqual(await self.messages.last_timestamps(), {})
        await self.messages.commit(records(make_message(1)))

        await self.messages.append("app", [make_message(7, epoch="old")])

        tail = await self.messages.tail("app", "room", 0, 10)
        self.assertEqual(tail, ChannelTail(Position("epoch-a", 1), 1000, [make_message(1)], 0))

    async def test_expired_messages_leave_the_position(self) -> None:
        """A channel with younger messages keeps its end; what expired before the recent ones is trimmed."""
        batch = [make_message(n) for n in range(1, 5)]
        await self.messages.commit(records(*batch))

        await self.messages.expire("app", 3000, 3000, 100)

        tail = await self.messages.tail("app", "room", 0, 10)
        self.assertEqual(tail, ChannelTail(Position("epoch-a", 4), 4000, batch[2:], 2999))

    async def test_transient_expiry_leaves_the_position(self) -> None:
        """A channel whose messages never persist keeps its position as long as if they did."""
        await self.messages.commit(records(make_message(1, persist=False), make_message(2, persist=False)))

        await self.messages.expire("app", 1000, 9000, 100)

        tail = await self.messages.tail("app", "room", 0, 10)
        self.assertEqual(tail, ChannelTail(Position("epoch-a", 2), 2000, [], 2000))

    async def test_expired_channel_is_forgotten(self) -> None:
        """A channel is unknown when all its messages expired; the app's timestamp is not forgotten."""
        await self.messages.commit(records(make_message(1), make_message(2)))

        await self.messages.expire("app", 9000, 9000, 100)

        self.assertIsNone(await self.messages.tail("app", "room", 0, 10))
        self.assertEqual(await self.messages.last_timestamps(), {"app": 2000})
