"""Tests of wsock.backends.memory_store."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from tests.base import SynchronousTestCase, TestCase
from wsock.backends.memory_store import MemoryMessages
from wsock.interfaces import ChannelTail
from wsock.protocol.messages import HistoryQuery
from wsock.testing.contracts.journal import JournalContract, JournalHistoryContract, records
from wsock.testing.contracts.message_store import MessageStoreContract, make_message


class MemoryMessageStoreTests(MessageStoreContract, TestCase):
    """The memory store is an IMessageStore."""

    async def make_message_store(self) -> MemoryMessages:
        return MemoryMessages()


class MemoryJournalTests(JournalContract, TestCase):
    """The memory store is an IJournal."""

    async def make_journal(self) -> MemoryMessages:
        return MemoryMessages()


class MemoryJournalHistoryTests(JournalHistoryContract, TestCase):
    """The memory store is both at once."""

    async def make_messages(self) -> MemoryMessages:
        return MemoryMessages()


class MemoryBoundTests(SynchronousTestCase):
    """Memory is bounded, and nothing waits."""

    def sequences(self, store: MemoryMessages, channel: str = "room") -> list[int]:
        """What is left of a channel."""
        query = HistoryQuery(limit=1000, direction="forward")
        page = self.successResultOf(Deferred.fromCoroutine(store.page("app", channel, query)))
        return [message.sequence for message in page.messages]

    def tail(self, store: MemoryMessages) -> ChannelTail:
        """The channel's end."""
        tail = self.successResultOf(Deferred.fromCoroutine(store.tail("app", "room", 0, 10)))
        assert tail is not None
        return tail

    def commit(self, store: MemoryMessages, *numbers: int, channel: str = "room", data: bytes = b"{}") -> None:
        """Commits messages of these sequences."""
        batch = [make_message(n, channel=channel, data=data, persist=n != 2) for n in numbers]
        self.successResultOf(store.commit(records(*batch)))

    def test_channel_keeps_its_newest(self) -> None:
        """A channel drops its oldest messages beyond ``max_messages``; others are not concerned."""
        store = MemoryMessages(max_messages=3)
        self.commit(store, 1, channel="other")

        self.commit(store, 1, 2, 3, 4, 5)

        self.assertEqual(self.sequences(store), [3, 4, 5])
        self.assertEqual(self.sequences(store, "other"), [1])

    def test_trimmed_channel_keeps_its_position(self) -> None:
        """The tail tells that messages before the kept ones are gone."""
        store = MemoryMessages(max_messages=2)
        self.commit(store, 1, 2, 3, 4)

        tail = self.tail(store)

        self.assertEqual(([m.sequence for m in tail.recent], tail.trimmed), ([3, 4], 2999))

    def test_oldest_of_all_channels_go_first(self) -> None:
        """Beyond ``max_bytes`` the messages that came first go, whatever their channel."""
        store = MemoryMessages(max_bytes=35_000)
        data = b'"' + b"x" * 10_000 + b'"'
        self.commit(store, 1, channel="a", data=data)
        self.commit(store, 1, channel="b", data=data)

        self.commit(store, 3, 4, channel="a", data=data)

        self.assertEqual(self.sequences(store, "a"), [3, 4])
        self.assertEqual(self.sequences(store, "b"), [1])

    def test_message_larger_than_everything(self) -> None:
        """A message above the bound itself is not kept, and counts as trimmed."""
        store = MemoryMessages(max_bytes=1000)

        self.commit(store, 1, data=b'"' + b"x" * 2000 + b'"')

        tail = self.tail(store)
        self.assertEqual((tail.position.sequence, tail.recent, tail.trimmed), (1, [], 1000))
