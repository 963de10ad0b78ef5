"""What every :class:`wsock.interfaces.IBroker` is held to, and one whose messages survive a restart as well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count, pairwise
from typing import TYPE_CHECKING

from msgspec import Raw
from twisted.internet.defer import Deferred, gatherResults
from zope.interface.verify import verifyObject

from wsock.errors import Gone
from wsock.interfaces import IBroker
from wsock.protocol.messages import Message, Publication, Receipt
from wsock.protocol.position import Position
from wsock.testing.contracts.message_store import AWKWARD_DATA, AWKWARD_NAMES
from wsock.testing.fakes import RecordingReceiver

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

__all__ = ["BrokerContract", "DurableBrokerContract", "WaitingReceiver", "make_publication", "published"]

_server_ids = count(1)


def make_publication(
    id: str | None = None,
    *,
    app: str = "app",
    channel: str = "room",
    data: bytes = b"{}",
    identity: str = "sub:alice",
    publisher_id: str = "alice",
    persist: bool = True,
) -> Publication:
    """A publication; without an ``id`` of the publisher's it gets one of the server's."""
    return Publication(
        app=app,
        channel=channel,
        data=Raw(data),
        id=id or f"server-{next(_server_ids)}",
        has_id=id is not None,
        identity=identity,
        publisher_id=publisher_id,
        persist=persist,
    )


def published(broker: IBroker, publication: Publication) -> Deferred[Receipt]:
    """Publishes; fires with the receipt."""
    outcome: Deferred[Receipt] = Deferred()
    broker.publish(publication, outcome)
    return outcome


class WaitingReceiver(RecordingReceiver):
    """A receiver whose messages can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[tuple[int, Deferred[None]]] = []

    def message(self, app: str, message: Message) -> None:
        """Records a message."""
        super().message(app, message)
        number = len(self.messages)
        due = [waiter for waiter in self._waiting if waiter[0] <= number]
        self._waiting = [waiter for waiter in self._waiting if waiter[0] > number]
        for _, told in due:
            told.callback(None)

    async def told(self, number: int) -> list[Message]:
        """The messages, once there are at least this many."""
        if len(self.messages) < number:
            told: Deferred[None] = Deferred()
            self._waiting.append((number, told))
            await told
        return [heard.message for heard in self.messages]


class BrokerContract(TestCase):
    """Mix it in and provide ``make_broker``.

    It is called with the number of messages of a channel that can be recovered, and makes an empty broker, ready for
    use, that nobody listens to yet. A broker that delivers later than it acknowledges also overrides ``settled``. Where
    channels are stamped by several clocks, ``has_one_clock`` is false: timestamps are not compared across channels, and
    a timestamp's place may be told earlier than it is.
    """

    has_one_clock = True

    make_broker: Callable[[int], Awaitable[IBroker]]
    broker: IBroker
    receiver: WaitingReceiver

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        """Makes what is tested."""
        self.listen_to(await self.make_broker(1000))

    def listen_to(self, broker: IBroker) -> None:
        """The test is about this broker."""
        self.broker = broker
        self.receiver = WaitingReceiver()
        broker.listen(self.receiver)

    async def settled(self) -> None:
        """Waits until everything that was acknowledged has been delivered."""

    # The vocabulary of the tests.

    async def publish(
        self, number: int, *, app: str = "app", channel: str = "room", persist: bool = True
    ) -> list[Receipt]:
        """Publishes messages without waiting in between; their receipts, in the order of the calls."""
        accepted = [
            published(self.broker, make_publication(app=app, channel=channel, data=b"%d" % n, persist=persist))
            for n in range(1, number + 1)
        ]
        return await gatherResults(accepted, consumeErrors=True)

    async def assert_gone(self, after: Position) -> None:
        """What is behind the position can't be proved complete."""
        try:
            messages = await self.broker.read("app", "room", after, 100)
        except Gone:
            return
        self.fail(f"{len(messages)} messages behind {after}, instead of Gone")

    async def test_provides_the_interface(self) -> None:
        """The broker has the methods of IBroker, with their arguments."""
        verifyObject(IBroker, self.broker)

    # Order.

    async def test_receipt(self) -> None:
        """The receipt names the message and its place."""
        receipt = await published(self.broker, make_publication("m1"))

        position = await self.broker.position("app", "room")
        self.assertEqual(receipt, Receipt("m1", "room", receipt.timestamp, position.epoch, 1))
        self.assertIs(type(receipt.timestamp), int)
        self.assertTrue(position.epoch)

    async def test_pipelined_publishes_keep_their_order(self) -> None:
        """Publishes that don't wait for one another are accepted and delivered in the order of the calls."""
        await self.broker.attach("app", "room")

        receipts = await self.publish(600)

        self.assertEqual([receipt.sequence for receipt in receipts], list(range(1, 601)))
        self.assertEqual(len({receipt.epoch for receipt in receipts}), 1)
        messages = await self.receiver.told(600)
        self.assertEqual([int(bytes(message.data)) for message in messages], list(range(1, 601)))
        self.assertEqual([message.sequence for message in messages], list(range(1, 601)))

    async def test_channels_count_for_themselves(self) -> None:
        """Every channel counts from 1, whatever is published to others in between."""
        accepted = [published(self.broker, make_publication(channel=f"room-{n % 40}")) for n in range(120)]

        receipts = await gatherResults(accepted, consumeErrors=True)

        self.assertEqual([receipt.sequence for receipt in receipts], [n // 40 + 1 for n in range(120)])

    async def test_timestamps_rise(self) -> None:
        """Timestamps are unique in an app and rise in the order of the calls, at a rate that allows it."""
        channels = 3 if self.has_one_clock else 1
        accepted = [published(self.broker, make_publication(channel=f"room-{n % channels}")) for n in range(90)]

        receipts = await gatherResults(accepted, consumeErrors=True)

        timestamps = [receipt.timestamp for receipt in receipts]
        self.assertTrue(all(earlier < later for earlier, later in pairwise(timestamps)), timestamps)

    # Delivery.

    async def test_message_is_what_was_published(self) -> None:
        """The receiver gets the data byte for byte, with the publisher's facts and the receipt's."""
        for name in AWKWARD_NAMES:
            await self.broker.attach("app", name)
        publications = [
            make_publication(f"id-{n}", channel=name, data=data, publisher_id="b\u00f6b", persist=bool(n % 2))
            for name in AWKWARD_NAMES
            for n, data in enumerate(AWKWARD_DATA)
        ]

        receipts = [await published(self.broker, publication) for publication in publications]

        wanted = [
            Message(p.channel, p.id, p.data, r.timestamp, p.publisher_id, r.sequence, r.epoch, p.persist)
            for p, r in zip(publications, receipts, strict=True)
        ]
        messages = await self.receiver.told(len(wanted))
        self.assertEqual(sorted(messages, key=_place), sorted(wanted, key=_place))

    async def test_only_attached_channels_are_delivered(self) -> None:
        """What is published to other channels is not delivered."""
        await self.broker.attach("app", "room")
        await self.publish(2, channel="other")
        await self.publish(1)

        await self.settled()

        self.assertEqual([message.channel for message in await self.receiver.told(1)], ["room"])

    async def test_attach_tells_the_position(self) -> None:
        """Delivery starts behind the position that attach returns."""
        receipts = await self.publish(3)

        position = await self.broker.attach("app", "room")

        self.assertEqual(position, Position(receipts[-1].epoch, 3))
        await self.publish(1)
        self.assertEqual([message.sequence for message in await self.receiver.told(1)], [4])

    async def test_attach_amid_publishes(self) -> None:
        """Between publishes that are on their way too, each message behind the position is delivered once."""
        before = self.publish(50)
        attaching = Deferred.fromCoroutine(self.broker.attach("app", "room"))
        accepted = gatherResults([Deferred.fromCoroutine(before), Deferred.fromCoroutine(self.publish(50))])

        position = await attaching

        await accepted
        messages = await self.receiver.told(100 - position.sequence)
        await self.settled()
        self.assertEqual([message.sequence for message in messages], list(range(position.sequence + 1, 101)))

    async def test_attach_twice(self) -> None:
        """Attaching again changes nothing: messages are delivered once."""
        await self.broker.attach("app", "room")
        await self.publish(1)
        await self.receiver.told(1)

        position = await self.broker.attach("app", "room")

        self.assertEqual(position, await self.broker.position("app", "room"))
        await self.publish(1)
        await self.receiver.told(2)
        await self.settled()
        self.assertEqual([heard.message.sequence for heard in self.receiver.messages], [1, 2])

    async def test_detach(self) -> None:
        """After a detach nothing is delivered; attaching again starts behind what was missed."""
        await self.broker.attach("app", "room")
        await self.publish(1)
        await self.receiver.told(1)

        self.broker.detach("app", "room")

        await self.publish(2)
        await self.settled()
        self.assertEqual(len(self.receiver.messages), 1)
        self.assertEqual((await self.broker.attach("app", "room")).sequence, 3)
        await self.publish(1)
        messages = await self.receiver.told(2)
        self.assertEqual([message.sequence for message in messages], [1, 4])

    async def test_detach_what_is_not_attached(self) -> None:
        """Detaching an unknown channel, or twice, does nothing."""
        self.broker.detach("app", "room")
        await self.broker.attach("app", "room")

        self.broker.detach("app", "room")
        self.broker.detach("app", "room")

        self.assertEqual((await self.publish(1))[0].sequence, 1)

    # Deduplication.

    async def test_duplicate_gets_the_first_receipt(self) -> None:
        """A repeated id is acknowledged like the first and delivered once, whatever its data."""
        await self.broker.attach("app", "room")
        first = await published(self.broker, make_publication("m1", data=b"1"))
        await self.publish(1)

        second = await published(self.broker, make_publication("m1", data=b"2"))

        self.assertEqual(second, Receipt("m1", "room", first.timestamp, first.epoch, 1, is_duplicate=True))
        self.assertEqual((await self.publish(1))[0].sequence, 3)
        messages = await self.receiver.told(3)
        self.assertEqual([message.sequence for message in messages], [1, 2, 3])

    async def test_duplicate_in_a_pipeline(self) -> None:
        """A repeated id need not wait for the first one's receipt."""
        accepted = [published(self.broker, make_publication(id)) for id in ("m1", "m1", "m2", "m1")]

        receipts = await gatherResults(accepted, consumeErrors=True)

        self.assertEqual(
            [(receipt.sequence, receipt.is_duplicate) for receipt in receipts],
            [(1, False), (1, True), (2, False), (1, True)],
        )

    async def test_ids_are_compared_within_their_scope(self) -> None:
        """The same id of another identity, in another channel or in another app is another message."""
        publications = [
            make_publication("m1"),
            make_publication("m1", identity="sub:bob"),
            make_publication("m1", channel="other"),
            make_publication("m1", app="other"),
        ]

        receipts = [await published(self.broker, publication) for publication in publications]

        self.assertEqual([receipt.is_duplicate for receipt in receipts], [False] * 4)
        self.assertEqual([receipt.sequence for receipt in receipts], [1, 2, 1, 1])

    async def test_ids_of_the_server_are_not_compared(self) -> None:
        """A publication without an id of the publisher's is always another message."""
        publication = make_publication()

        receipts = [await published(self.broker, publication), await published(self.broker, publication)]

        self.assertEqual([(r.sequence, r.is_duplicate) for r in receipts], [(1, False), (2, False)])

    # The recovery window.

    async def test_position_of_a_new_channel(self) -> None:
        """A channel without messages is at sequence 0 of an epoch, which stays."""
        position = await self.broker.position("app", "room")

        self.assertEqual(position.sequence, 0)
        self.assertEqual(await self.broker.position("app", "room"), position)
        self.assertEqual(await self.broker.read("app", "room", position, 10), [])
        self.assertEqual((await self.publish(1))[0].epoch, position.epoch)

    async def test_read_in_pages(self) -> None:
        """What is behind a position is read oldest first, a page at a time, until there is nothing more."""
        receipts = await self.publish(25)
        position = Position(receipts[0].epoch, 0)
        pages = []

        while messages := await self.broker.read("app", "room", position, 10):
            pages.append([message.sequence for message in messages])
            position = messages[-1].position

        self.assertEqual(pages, [list(range(1, 11)), list(range(11, 21)), list(range(21, 26))])
        self.assertEqual(position, await self.broker.position("app", "room"))

    async def test_read_tells_what_was_delivered(self) -> None:
        """A message is the same when it is read, whether it persists or not."""
        await self.broker.attach("app", "room")
        [first] = await self.publish(1)
        await self.publish(1, persist=False)
        delivered = await self.receiver.told(2)

        self.assertEqual(await self.broker.read("app", "room", Position(first.epoch, 0), 10), delivered)

    async def test_read_of_a_foreign_epoch_is_gone(self) -> None:
        """A position of another epoch proves nothing."""
        await self.publish(2)

        await self.assert_gone(Position("another", 1))
        await self.assert_gone(Position("another", 2))

    async def test_read_ahead_is_gone(self) -> None:
        """A position that the channel never reached proves nothing."""
        [receipt] = await self.publish(1)

        await self.assert_gone(Position(receipt.epoch, 2))

    async def test_read_beyond_the_window_is_gone(self) -> None:
        """Messages that are no longer kept are never left out in silence."""
        self.listen_to(await self.make_broker(10))
        epoch = (await self.publish(30))[0].epoch

        await self.assert_gone(Position(epoch, 0))
        await self.assert_gone(Position(epoch, 1))
        messages = await self.broker.read("app", "room", Position(epoch, 20), 100)
        self.assertEqual([message.sequence for message in messages], list(range(21, 31)))

    async def test_locate(self) -> None:
        """A timestamp's place is before its messages, and behind all earlier ones."""
        receipts = []
        for _ in range(5):
            receipts += await self.publish(1)
            await self.publish(1, channel="other")
        epoch = receipts[0].epoch

        for receipt in receipts:
            located = await self.broker.locate("app", "room", receipt.timestamp)
            if not self.has_one_clock:
                self.assertLess(located.start, Position(epoch, receipt.sequence))
                continue
            self.assertEqual(located.start, Position(epoch, receipt.sequence - 1))
            self.assertEqual((located.ties, located.is_complete), (1, True))
        if self.has_one_clock:
            between = await self.broker.locate("app", "room", receipts[2].timestamp + 1)
            self.assertEqual((between.start.sequence, between.ties), (3, 0))

    async def test_locate_at_the_ends(self) -> None:
        """Before the first message is the start; behind the last one is the channel's position."""
        receipts = await self.publish(3)

        first = await self.broker.locate("app", "room", receipts[0].timestamp - 1)
        last = await self.broker.locate("app", "room", receipts[2].timestamp + 1)

        self.assertEqual((first.start.sequence, first.ties), (0, 0))
        if self.has_one_clock:
            self.assertTrue(first.is_complete)
            self.assertEqual((last.start.sequence, last.ties, last.is_complete), (3, 0, True))

    async def test_locate_beyond_the_window_is_incomplete(self) -> None:
        """A timestamp behind which messages are no longer kept is told to be incomplete."""
        self.listen_to(await self.make_broker(10))
        receipts = await self.publish(30)

        early = await self.broker.locate("app", "room", receipts[3].timestamp)
        late = await self.broker.locate("app", "room", receipts[25].timestamp)

        self.assertFalse(early.is_complete)
        if self.has_one_clock:
            self.assertTrue(late.is_complete)
            self.assertEqual(late.start.sequence, 25)
        messages = await self.broker.read("app", "room", early.start, 100)
        self.assertEqual(messages[-1].sequence, 30)

    # Tenants.

    async def test_tenants_never_meet(self) -> None:
        """A channel of the same name in another app is another channel."""
        await self.broker.attach("app", "room")
        await self.publish(2, app="other")
        [receipt] = await self.publish(1)

        messages = await self.receiver.told(1)
        await self.settled()

        self.assertEqual([(heard.app, heard.message.sequence) for heard in self.receiver.messages], [("app", 1)])
        self.assertEqual((await self.broker.position("other", "room")).sequence, 2)
        self.assertEqual(await self.broker.read("app", "room", Position(receipt.epoch, 0), 10), messages)
        self.broker.detach("other", "room")
        await self.publish(1)
        self.assertEqual(len(await self.receiver.told(2)), 2)


class DurableBrokerContract(BrokerContract):
    """For a broker whose messages survive a restart: also provide ``reopen_broker``.

    It ends the broker that was made last, and makes one on the same data, ready for use, that nobody listens to yet.
    """

    reopen_broker: Callable[[], Awaitable[IBroker]]

    async def reopen(self) -> None:
        """The broker is ended and started again."""
        self.listen_to(await self.reopen_broker())

    async def test_restart_keeps_positions(self) -> None:
        """Channels go on where they were, under their epoch."""
        receipts = await self.publish(3)

        await self.reopen()

        self.assertEqual(await self.broker.position("app", "room"), Position(receipts[-1].epoch, 3))
        self.assertEqual((await self.publish(1))[0].sequence, 4)

    async def test_restart_keeps_the_window(self) -> None:
        """What was missed before the restart is read and located behind it, transient messages too."""
        receipts = await self.publish(2) + await self.publish(1, persist=False)

        await self.reopen()

        start = Position(receipts[0].epoch, 1)
        messages = await self.broker.read("app", "room", start, 10)
        self.assertEqual([message.sequence for message in messages], [2, 3])
        located = await self.broker.locate("app", "room", receipts[1].timestamp)
        self.assertEqual((located.start, located.ties, located.is_complete), (start, 1, True))

    async def test_restart_keeps_ids(self) -> None:
        """An id that was published before the restart is still a duplicate: same receipt, no delivery."""
        first = await published(self.broker, make_publication("m1"))
        await self.reopen()
        await self.broker.attach("app", "room")

        second = await published(self.broker, make_publication("m1"))

        self.assertEqual(second, Receipt("m1", "room", first.timestamp, first.epoch, 1, is_duplicate=True))
        await self.settled()
        self.assertEqual(self.receiver.messages, [])
        self.assertEqual((await self.publish(1))[0].sequence, 2)

    async def test_restart_keeps_timestamps_rising(self) -> None:
        """No message is stamped earlier than one before the restart, in whatever channel of the app."""
        last = (await self.publish(500))[-1]

        await self.reopen()

        [receipt] = await self.publish(1, channel="other")
        self.assertGreater(receipt.timestamp, last.timestamp)


def _place(message: Message) -> tuple[str, int]:
    return (message.channel, message.sequence)
