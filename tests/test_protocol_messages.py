"""Tests of :mod:`wsock.protocol.messages`."""

from __future__ import annotations

from msgspec import Raw

from tests.base import SynchronousTestCase
from wsock.protocol.frames import HistoryEntry, MessageEvent
from wsock.protocol.messages import HistoryQuery, Message, Publication, Receipt
from wsock.protocol.position import Position

MESSAGE = Message("chat", "m1", Raw(b'{"n":1}'), 1767225600000, "ana", 7, "e1")


class MessageTests(SynchronousTestCase):
    """An accepted message and what is told of it."""

    def test_position(self) -> None:
        """Its position is where a client stands that has it."""
        self.assertEqual(MESSAGE.position, Position("e1", 7))

    def test_event(self) -> None:
        """Subscribers get all of it but what the server keeps for itself."""
        self.assertEqual(
            MESSAGE.event(),
            MessageEvent(
                channel="chat",
                id="m1",
                data=MESSAGE.data,
                timestamp=1767225600000,
                publisher_id="ana",
                sequence=7,
            ),
        )

    def test_entry(self) -> None:
        """History shows the same facts."""
        self.assertEqual(
            MESSAGE.entry(),
            HistoryEntry(
                id="m1",
                channel="chat",
                data=MESSAGE.data,
                publisher_id="ana",
                timestamp=1767225600000,
                sequence=7,
            ),
        )

    def test_data_is_not_copied(self) -> None:
        """The data stays the publisher's own bytes on every way."""
        self.assertIs(MESSAGE.event().data, MESSAGE.data)
        self.assertIs(MESSAGE.entry().data, MESSAGE.data)


class DefaultTests(SynchronousTestCase):
    """What holds unless somebody says otherwise."""

    def test_query(self) -> None:
        """A query asks for the newest 50."""
        query = HistoryQuery()

        self.assertEqual((query.limit, query.before, query.after, query.direction), (50, None, None, "backward"))

    def test_persist(self) -> None:
        """A message is kept as history."""
        publication = Publication(
            app="a", channel="c", data=Raw(b"1"), id="i", has_id=True, identity="k", publisher_id="p"
        )

        self.assertTrue(publication.persist)
        self.assertTrue(MESSAGE.persist)

    def test_receipt(self) -> None:
        """A receipt is that of a first publish."""
        self.assertFalse(Receipt("i", "c", 1, "e", 1).is_duplicate)
