"""Tests of wsock.services.messages."""

from __future__ import annotations

from itertools import count
from typing import Any

from msgspec import Raw

from tests.base import SynchronousTestCase
from tests.nodes import HeldJournal, Node
from tests.outlets import RecordingOutlet
from tests.rate_cases import SlowCounters
from wsock.backends.memory_counters import MemoryCounters
from wsock.errors import Code, Malformed, Refused, Unavailable
from wsock.protocol.messages import HistoryQuery, Page, Receipt
from wsock.protocol.rates import Rate, Rates
from wsock.services.messages import MAX_HISTORY, Messages
from wsock.services.rates import RateLimiter


class RecordingStore(HeldJournal):
    """Keeps the queries that it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[HistoryQuery] = []

    async def page(self, app: str, channel: str, query: HistoryQuery) -> Page:
        self.queries.append(query)
        return await super().page(app, channel, query)


class MessagesTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = RecordingStore()
        self.node = Node(self.store)
        self.numbers = count(1)
        self.messages = self.make_messages()

    def make_messages(self, **options: Any) -> Messages:
        return Messages(self.node.broker, self.store, lambda: f"id-{next(self.numbers)}", **options)

    def accept(self, data: Any = None, channel: str = "room", app: str = "app", **facts: Any) -> Receipt:
        return self.successResultOf(self.messages.publish(app, channel, data, **facts))

    def page(self, channel: str = "room", app: str = "app", **query: Any) -> list[bytes]:
        page = self.successResultOf(self.messages.history(app, channel, HistoryQuery(**query)))
        return [bytes(message.data) for message in page.messages]


class PublishTests(MessagesTestCase):
    """What is accepted, and as what."""

    def test_values(self) -> None:
        """Anything that JSON can say may be published; raw text is passed on byte for byte."""
        for data in ({"n": [1, "\u00e9"]}, None, Raw(b'{ "n":1.50 }')):
            self.accept(data)

        self.assertEqual(self.page(direction="forward"), ['{"n":[1,"\u00e9"]}'.encode(), b"null", b'{ "n":1.50 }'])

    def test_ids(self) -> None:
        """An id of the publisher's is kept and deduplicated by identity; without one the server makes it."""
        receipts = [
            self.accept(id="m1"),
            self.accept(id="m1"),
            self.accept(id="m1", identity="sub:bob"),
            self.accept(),
            self.accept(id=""),
        ]

        self.assertEqual([receipt.id for receipt in receipts], ["m1", "m1", "m1", "id-1", "id-2"])
        self.assertEqual([receipt.is_duplicate for receipt in receipts], [False, True, False, False, False])

    def test_publisher(self) -> None:
        """Subscribers are told the publisher."""
        outlet = RecordingOutlet()
        self.node.subscribe(outlet, "room")

        self.accept(publisher_id="bob")
        self.accept()
        self.node.end_turn()

        self.assertEqual([event["publisherId"] for event in outlet.events], ["bob", "server"])

    def test_persistence(self) -> None:
        """What does not persist is delivered and is no history; without history nothing is."""
        self.accept(1)
        self.accept(2, persist=False)
        self.messages = self.make_messages(keeps_history=False)
        self.assertEqual(self.accept(3).sequence, 3)

        self.assertEqual(self.page(), [b"1"])

    def test_size(self) -> None:
        """Data larger than the limit is refused; the text names the size, the limit and the setting."""
        self.messages = self.make_messages(max_bytes=10)
        self.accept("12345678")

        refused = self.assertRaises(Refused, self.accept, "123456789")

        self.assertEqual(refused.code, Code.TOO_LARGE)
        self.assertEqual(refused.text, "the data has 11 bytes, more than 10 (limits.message_bytes)")

    def test_channel_name(self) -> None:
        """A channel must have a proper name."""
        for name in ("", "x" * 256, "a\nb"):
            self.assertEqual(self.assertRaises(Refused, self.accept, 1, name).code, Code.CHANNEL_NAME)

    def test_id_length(self) -> None:
        """An id has at most 255 characters."""
        self.accept(id="x" * 255)

        self.assertEqual(self.assertRaises(Refused, self.accept, id="x" * 256).code, Code.BAD_REQUEST)

    def test_hostile_values(self) -> None:
        """Values that end a subscriber's parser are refused, from within the process too."""
        nested: Any = []
        for _ in range(70):
            nested = [nested]

        for data in (nested, 10**1200):
            self.assertRaises(Malformed, self.accept, data)

    def test_unavailable(self) -> None:
        """When nothing was accepted the Deferred says so."""
        self.store.trouble = Unavailable("the disk is full")

        self.failureResultOf(self.messages.publish("app", "room", 1), Unavailable)


class HistoryTests(MessagesTestCase):
    """The past."""

    def test_directions(self) -> None:
        """Backward begins with the newest, forward with the oldest."""
        for n in range(3):
            self.accept(n)

        self.assertEqual(self.page(limit=2), [b"2", b"1"])
        self.assertEqual(self.page(limit=2, direction="forward"), [b"0", b"1"])

    def test_bounds(self) -> None:
        """Times are exclusive bounds."""
        timestamps = [self.accept(n).timestamp for n in range(4)]

        self.assertEqual(self.page(after=timestamps[0], before=timestamps[3], direction="forward"), [b"1", b"2"])

    def test_limit_is_clamped(self) -> None:
        """A limit is taken to 1 to 1000."""
        for limit in (-5, 0, 7, MAX_HISTORY + 1):
            self.page(limit=limit)

        self.assertEqual([query.limit for query in self.store.queries], [1, 1, 7, 1000])

    def test_channel_name(self) -> None:
        """A channel must have a proper name."""
        self.failureResultOf(self.messages.history("app", "", HistoryQuery()), Refused)

    def test_tenants_never_meet(self) -> None:
        """Another app's channel of the same name has its own past."""
        self.accept(1)

        self.assertEqual(self.page(app="other"), [])


class RateTests(MessagesTestCase):
    """Publishes beyond a rate."""

    def limited(self, counters: Any, **rates: Any) -> Messages:
        limiter = RateLimiter(counters, lambda: 1000.0, lambda app: Rates(**rates) if app == "app" else None)
        return self.make_messages(limiter=limiter)

    def test_refused_at_once(self) -> None:
        """What is known to be too much is refused at once, and never reaches the broker."""
        self.messages = self.limited(MemoryCounters(), app=Rate(2))
        for _ in range(2):
            self.accept()

        refused = self.assertRaises(Refused, self.messages.publish, "app", "room", None)

        self.assertEqual((refused.code, refused.retry_after), (Code.RATE_LIMITED, 1))
        self.assertEqual((self.messages.published, len(self.page())), (2, 2))
        self.accept(app="other")

    def test_user(self) -> None:
        """A user's rate counts for who is a user."""
        self.messages = self.limited(MemoryCounters(), user=Rate(1))
        self.accept(user="ann")
        self.assertRaises(Refused, self.messages.publish, "app", "room", None, user="ann")
        self.accept(user="bob")
        for _ in range(10):
            self.accept()

    def test_what_cannot_be_published_does_not_count(self) -> None:
        """A message that is refused for another reason takes nothing of the rate."""
        self.messages = self.limited(MemoryCounters(), app=Rate(1))
        for _ in range(10):
            self.assertRaises(Refused, self.messages.publish, "app", "room", "x" * 70_000)
        self.accept()

    def test_waits_in_order(self) -> None:
        """Until the rate is known a publish waits; then it is accepted or refused, in the order of the calls."""
        counters = SlowCounters()
        self.messages = self.limited(counters, app=Rate(3))
        publishes = [self.messages.publish("app", "room", n) for n in range(5)]
        for publish in publishes:
            self.assertNoResult(publish)

        counters.answer_all()

        self.assertEqual([self.successResultOf(publish).sequence for publish in publishes[:3]], [1, 2, 3])
        for publish in publishes[3:]:
            self.failureResultOf(publish, Refused)
        self.assertEqual(self.page(direction="forward"), [b"0", b"1", b"2"])
