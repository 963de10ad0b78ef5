"""What every :class:`wsock.interfaces.IMessageStore` is held to."""

from __future__ import annotations

import random  # noqa: TID251  # seeded, so that a failure repeats
from collections.abc import Awaitable, Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from msgspec import Raw
from zope.interface.verify import verifyObject

from wsock.interfaces import IMessageStore
from wsock.protocol.codec import encode
from wsock.protocol.messages import HistoryQuery, Message, Page

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

__all__ = ["AWKWARD_DATA", "AWKWARD_NAMES", "MessageStoreContract", "make_message", "tied_messages"]

AWKWARD_DATA = (
    b"123456789012345678901234567890.10",
    b'{ "b" :1,\n "a":\t[1e400 , -0] }',
    '"\u00e9\u2028\U0001f600 \\u00e9 \\ud83d\\ude00"'.encode(),
    b'"' + b"x" * 70_000 + b'"',
    b'"it\'s; -- \\u0000"',
    b"null",
)
"""JSON texts that come back changed from a store that reads them."""

AWKWARD_NAMES = ("\u00e9" * 127 + "x", "a%_*'\";--", "\U0001f600:room", "x" * 255, "Case", "case")
"""Channel names that differ from each other and are all allowed."""


def make_message(
    sequence: int,
    *,
    channel: str = "room",
    epoch: str = "epoch-a",
    timestamp: int | None = None,
    data: bytes = b"{}",
    persist: bool = True,
) -> Message:
    """A message whose id tells its position; without a timestamp it gets 1000 times its sequence."""
    id = f"{epoch}-{sequence}"
    when = sequence * 1000 if timestamp is None else timestamp
    return Message(channel, id, Raw(data), when, "publisher", sequence, epoch, persist)


def tied_messages(seed: int, count: int) -> list[Message]:
    """Messages of two epochs in order, many of which share their timestamp with others."""
    rolls = random.Random(seed)
    timestamp = 1000
    messages = []
    for sequence in range(1, count + 1):
        timestamp += rolls.choice((0, 0, 0, 1, 2))
        messages.append(make_message(sequence, timestamp=timestamp, epoch=rolls.choice(("epoch-a", "epoch-b"))))
    return sorted(messages, key=lambda message: (message.timestamp, message.epoch, message.sequence))


class MessageStoreContract(TestCase):
    """Mix it in and provide ``make_message_store``, which makes an empty store."""

    make_message_store: Callable[[], Awaitable[IMessageStore]]
    store: IMessageStore

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        """Makes a new one."""
        self.store = await self.make_message_store()

    async def page(
        self,
        limit: int = 1000,
        *,
        app: str = "app",
        channel: str = "room",
        before: int | None = None,
        after: int | None = None,
        direction: Literal["forward", "backward"] = "forward",
    ) -> Page:
        """A page of the store, by default everything in order."""
        query = HistoryQuery(limit=limit, before=before, after=after, direction=direction)
        return await self.store.page(app, channel, query)

    async def chained(self, limit: int, direction: Literal["forward", "backward"]) -> list[Page]:
        """Every page from one end to the other, each behind the last timestamp of the one before."""
        pages = [await self.page(limit, direction=direction)]
        while pages[-1].has_more:
            edge = pages[-1].messages[-1].timestamp
            if direction == "forward":
                pages.append(await self.page(limit, after=edge, direction=direction))
            else:
                pages.append(await self.page(limit, before=edge, direction=direction))
        return pages

    async def test_provides_the_interface(self) -> None:
        """The store has the methods of IMessageStore, with their arguments."""
        verifyObject(IMessageStore, self.store)

    async def test_unknown_channel_is_empty(self) -> None:
        """A channel that nobody published to has an empty history."""
        self.assertEqual(await self.page(), Page([], False))

    async def test_keeps_every_field(self) -> None:
        """A message comes back as it was, and can be sent on: its numbers are plain ones."""
        message = Message("room", "id", Raw(b'{"a":1}'), 1_700_000_000_123, "somebody", 7, "epoch", True)

        await self.store.append("app", [message])

        [kept] = (await self.page()).messages
        self.assertEqual(kept, message)
        self.assertEqual(encode(kept.entry()), encode(message.entry()))

    async def test_data_survives_byte_for_byte(self) -> None:
        """Big numbers, white space, escapes and every character are as they were."""
        messages = [make_message(n, data=data) for n, data in enumerate(AWKWARD_DATA, 1)]

        await self.store.append("app", messages)

        kept = (await self.page()).messages
        self.assertEqual([bytes(message.data) for message in kept], list(AWKWARD_DATA))

    async def test_awkward_channel_names(self) -> None:
        """Channel names of 255 bytes and of any characters are told apart."""
        await self.store.append("app", [make_message(1, channel=name) for name in AWKWARD_NAMES])

        for name in AWKWARD_NAMES:
            kept = (await self.page(channel=name)).messages
            self.assertEqual([message.channel for message in kept], [name])

    async def test_append_is_idempotent(self) -> None:
        """A message that is there already is left as it is, and the others are stored."""
        first = make_message(1, data=b'"first"')
        await self.store.append("app", [first])

        await self.store.append("app", [make_message(1, data=b'"again"'), make_message(2)])
        await self.store.append("app", [])

        self.assertEqual((await self.page()).messages, [first, make_message(2)])

    async def test_order_is_by_timestamp_epoch_sequence(self) -> None:
        """Messages of one timestamp are in the order of their epochs, then of their sequences."""
        ordered = [
            make_message(9, epoch="z", timestamp=10),
            make_message(2, epoch="a", timestamp=20),
            make_message(10, epoch="a", timestamp=20),
            make_message(1, epoch="b", timestamp=20),
        ]

        await self.store.append("app", ordered[::-1])

        self.assertEqual((await self.page(direction="forward")).messages, ordered)
        self.assertEqual((await self.page(direction="backward")).messages, ordered[::-1])

    async def test_bounds_are_exclusive(self) -> None:
        """Messages of the timestamps ``before`` and ``after`` are not in the page."""
        await self.store.append("app", [make_message(n) for n in range(1, 6)])

        for direction in ("forward", "backward"):
            page = await self.page(after=1000, before=4000, direction=direction)
            self.assertEqual(sorted(message.sequence for message in page.messages), [2, 3])
            self.assertFalse(page.has_more)

    async def test_bounds_of_any_size(self) -> None:
        """Bounds far outside of what a timestamp can be, and bounds that cross, are no error."""
        await self.store.append("app", [make_message(1)])

        self.assertEqual(len((await self.page(after=-(10**30), before=10**30)).messages), 1)
        self.assertEqual(await self.page(1, after=10**30), Page([], False))
        self.assertEqual(await self.page(1, after=5000, before=100), Page([], False))

    async def test_limit_and_has_more(self) -> None:
        """A page has ``limit`` messages from its end of the history, and tells whether there are others."""
        await self.store.append("app", [make_message(n) for n in range(1, 6)])

        newest = await self.page(2, direction="backward")
        oldest = await self.page(2, direction="forward")

        self.assertEqual([message.sequence for message in newest.messages], [5, 4])
        self.assertEqual([message.sequence for message in oldest.messages], [1, 2])
        self.assertTrue(newest.has_more and oldest.has_more)
        self.assertFalse((await self.page(5)).has_more)

    async def test_has_more_minds_the_bounds(self) -> None:
        """What lies outside of ``before`` and ``after`` is not more."""
        await self.store.append("app", [make_message(n) for n in range(1, 6)])

        self.assertFalse((await self.page(2, before=3000)).has_more)
        self.assertFalse((await self.page(2, after=3000, direction="backward")).has_more)

    async def test_ties_are_never_split(self) -> None:
        """A page grows beyond its limit rather than end between equal timestamps."""
        tied = [make_message(n, timestamp=2000) for n in range(2, 6)]
        await self.store.append("app", [make_message(1), *tied, make_message(6)])

        forward = await self.page(2, direction="forward")
        backward = await self.page(2, direction="backward")
        bounded = await self.page(1, after=1000, before=2001)

        self.assertEqual([message.sequence for message in forward.messages], [1, 2, 3, 4, 5])
        self.assertEqual([message.sequence for message in backward.messages], [6, 5, 4, 3, 2])
        self.assertTrue(forward.has_more and backward.has_more)
        self.assertEqual(bounded, Page(tied, False))

    async def test_chained_pages_give_each_message_once(self) -> None:
        """Pages chained by ``after`` or ``before`` give every message once, in order, in either direction."""
        for seed in range(6):
            self.store = await self.make_message_store()
            messages = tied_messages(seed, 120)
            await self.store.append("app", messages)
            for limit in (1, 2, 7, 1000):
                with self.subTest(seed=seed, limit=limit):
                    forward = await self.chained(limit, "forward")
                    backward = await self.chained(limit, "backward")
                    self.assertEqual(_joined(forward), messages)
                    self.assertEqual(_joined(backward), messages[::-1])
                    self.assert_no_tie_is_split(forward + backward[::-1])

    def assert_no_tie_is_split(self, pages: list[Page]) -> None:
        """No two pages that follow each other meet at one timestamp, and none but the last is short."""
        for one, other in pairwise(pages):
            if one.has_more:
                self.assertNotEqual(one.messages[-1].timestamp, other.messages[0].timestamp)

    async def test_transient_messages_are_no_history(self) -> None:
        """A message that does not persist is in no page, and doesn't count as more."""
        await self.store.append("app", [make_message(1), make_message(2, persist=False)])

        self.assertEqual(await self.page(1), Page([make_message(1)], False))

    async def test_tenants_never_meet(self) -> None:
        """Another app's channel of the same name, epoch and sequence is another channel."""
        await self.store.append("app", [make_message(1, data=b'"ours"')])
        await self.store.append("other", [make_message(1, data=b'"theirs"')])

        self.assertEqual([bytes(m.data) for m in (await self.page()).messages], [b'"ours"'])
        self.assertEqual([bytes(m.data) for m in (await self.page(app="other")).messages], [b'"theirs"'])
        self.assertEqual(await self.page(app="third"), Page([], False))

    async def test_expire_deletes_what_is_older(self) -> None:
        """Messages older than ``before`` go, those of exactly that time stay; other apps keep theirs."""
        messages = [make_message(n) for n in range(1, 6)]
        await self.store.append("app", messages)
        await self.store.append("other", messages)

        deleted = await self.store.expire("app", 3000, 3000, 100)

        self.assertEqual(deleted, 2)
        self.assertEqual((await self.page()).messages, messages[2:])
        self.assertEqual((await self.page(app="other")).messages, messages)
        self.assertEqual(await self.store.expire("nobody", 3000, 3000, 100), 0)

    async def test_expire_deletes_transient_messages_earlier(self) -> None:
        """What does not persist goes by its own, later bound; a message that persists stays."""
        await self.store.append("app", [make_message(n, persist=n % 2 == 0) for n in range(1, 7)])

        self.assertEqual(await self.store.expire("app", 0, 4000, 100), 2)
        self.assertEqual(await self.store.expire("app", 0, 4000, 100), 0)
        self.assertEqual([m.sequence for m in (await self.page()).messages], [2, 4, 6])

    async def test_expire_works_in_slices(self) -> None:
        """At most ``limit`` go in one call; repeated calls delete all, over all channels."""
        for channel in ("one", "two"):
            await self.store.append("app", [make_message(n, channel=channel, persist=n < 4) for n in range(1, 6)])

        slices = [await self.store.expire("app", 10_000, 10_000, 3) for _ in range(5)]

        self.assertEqual(slices, [3, 3, 3, 1, 0])
        self.assertEqual(await self.page(channel="one"), Page([], False))

    async def test_expired_channel_can_be_used_again(self) -> None:
        """Nothing is left of a channel whose messages all expired that would hinder new ones."""
        await self.store.append("app", [make_message(1)])
        await self.store.expire("app", 5000, 5000, 100)

        await self.store.append("app", [make_message(1, timestamp=9000)])

        self.assertEqual((await self.page()).messages, [make_message(1, timestamp=9000)])


def _joined(pages: Iterable[Page]) -> list[Message]:
    return [message for page in pages for message in page.messages]
