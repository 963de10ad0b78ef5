"""What the server promises, one test or more for each promise, over the embedded broker.

The numbers are those of the page on guarantees: 1 order, 2 deduplication, 3 acknowledgement, 4 no silent loss,
5 resume, 7 bounds, 8 tenants, and the timestamps that a resume by timestamp rests on.
"""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from tests.nodes import HeldJournal, Node, epochs
from tests.outlets import RecordingOutlet
from tests.test_backends_sqlite import SqliteTestCase
from wsock.backends.memory_broker import MemoryBroker
from wsock.backends.sqlite import SqliteMessages
from wsock.errors import Code, Gone, Unavailable
from wsock.protocol.messages import Receipt
from wsock.protocol.position import Position
from wsock.services.replay import Cursor, Replay
from wsock.testing.contracts.broker import WaitingReceiver, make_publication, published
from wsock.testing.fakes import Now


class PromiseTestCase(SynchronousTestCase):
    """A node whose journal can be held, with alice and bob subscribed to "room"."""

    def setUp(self) -> None:
        self.journal = HeldJournal()
        self.node = Node(self.journal)
        self.alice, self.bob = RecordingOutlet(), RecordingOutlet()
        for outlet in (self.alice, self.bob):
            self.node.subscribe(outlet, "room")

    def accept(self, channel: str = "room", id: str | None = None, *, app: str = "app", size: int = 2) -> Receipt:
        return self.successResultOf(self.node.publish(channel, id, app=app, data=b"1" * size))

    def told(self, outlet: RecordingOutlet) -> list[str]:
        self.node.end_turn()
        return outlet.seen


class OrderTests(PromiseTestCase):
    """Promise 1."""

    def test_promise_1_sequence_order(self) -> None:
        """Every subscriber gets a channel's messages in sequence order, also when the publisher pipelines them."""
        self.journal.is_held = True
        ids = [f"m{n}" for n in range(1, 601)]
        answers = [self.node.publish("room", id) for id in ids]
        for _ in range(4):
            self.journal.release()
            self.node.end_turn()

        receipts = self.successResultOf(gatherResults(answers))

        self.assertEqual([(r.id, r.sequence) for r in receipts], [(f"m{n}", n) for n in range(1, 601)])
        for outlet in (self.alice, self.bob):
            self.assertEqual(
                [(event["id"], event["sequence"]) for event in outlet.events],
                list(zip(ids, range(1, 601), strict=True)),
            )

    def test_promise_1_arrival_order_across_channels(self) -> None:
        """A1 B1 A2 of one turn reach a connection on both as A1 B1 A2 in one write, and one on A alone as A1 A2."""
        both, only_a = RecordingOutlet(), RecordingOutlet()
        self.node.subscribe(both, "A", "B")
        self.node.subscribe(only_a, "A")

        for channel in ("A", "B", "A"):
            self.accept(channel)
        self.node.end_turn()

        self.assertEqual((both.seen, len(both.writes)), (["A 1", "B 1", "A 2"], 1))
        self.assertEqual((only_a.seen, len(only_a.writes)), (["A 1", "A 2"], 1))


class DeduplicationTests(PromiseTestCase):
    """Promise 2; across a restart see RestartTests."""

    def test_promise_2_same_ack_delivered_once(self) -> None:
        """A repeated id gets the same acknowledgement within two minutes, and is delivered once."""
        first = self.accept(id="m1")
        self.accept()
        self.node.clock.advance(119)
        self.node.memory_broker.trim()

        second = self.accept(id="m1")

        self.assertTrue(second.is_duplicate)
        for field in ("id", "channel", "timestamp", "epoch", "sequence"):
            self.assertEqual(getattr(second, field), getattr(first, field))
        self.assertEqual(self.told(self.alice), ["room 1", "room 2"])

    def test_promise_2_ends_after_two_minutes(self) -> None:
        """After that the id is another message."""
        self.accept(id="m1")
        self.node.clock.advance(121)
        self.node.memory_broker.trim()

        self.assertEqual(self.accept(id="m1").sequence, 2)


class AckTests(PromiseTestCase):
    """Promise 3."""

    def test_promise_3_ack_after_commit(self) -> None:
        """Before the commit nothing is acknowledged or delivered; what is acknowledged is in history."""
        self.journal.is_held = True
        answer = self.node.publish("room", "m1")
        self.assertNoResult(answer)
        self.assertEqual(self.told(self.alice), [])

        self.journal.release()

        self.assertEqual(self.successResultOf(answer).sequence, 1)
        self.assertEqual(self.told(self.alice), ["room 1"])
        tail = self.successResultOf(self.journal.tail("app", "room", 0, 10))
        assert tail is not None
        self.assertEqual([message.id for message in tail.recent], ["m1"])

    def test_promise_3_failed_commit_leaves_no_trace(self) -> None:
        """A failed commit refuses with ``unavailable``; the next sequence is the same, and the id is accepted again."""
        first = self.accept(id="m1")
        self.journal.is_held = True
        refused = [self.node.publish("room", id, step=0) for id in ("m2", "m3")]
        self.journal.trouble = Unavailable("the disk is full")
        for _ in range(2):
            self.journal.release()
        for answer in refused:
            failure = self.failureResultOf(answer, Unavailable)
            self.assertEqual(failure.value.code, Code.UNAVAILABLE)
        self.assertEqual(self.told(self.alice), ["room 1"])
        self.journal.trouble, self.journal.is_held = None, False

        again = self.accept(id="m2")

        self.assertEqual((again.sequence, again.epoch, again.is_duplicate), (2, first.epoch, False))
        self.assertEqual(self.told(self.alice), ["room 1", "room 2"])


class LossTests(PromiseTestCase):
    """Promise 4."""

    def test_promise_4_gap_is_told(self) -> None:
        """When messages can't be had, subscribers are told so and where it goes on, and get what comes next."""
        self.accept()

        self.node.hub.lost("app", "room", Position("e1", 5))
        self.accept()

        self.assertEqual(self.told(self.alice), ["room 1", "recovery_failed room", "subscribed room", "room 2"])

    def test_promise_4_sequences_show_every_message(self) -> None:
        """Every message has the next sequence of its channel, under one epoch."""
        receipts = [self.accept(channel) for channel in ("room", "other", "room", "other", "room")]

        self.assertEqual([receipt.sequence for receipt in receipts], [1, 1, 2, 2, 3])
        self.assertEqual(len({receipt.epoch for receipt in receipts if receipt.channel == "room"}), 1)


class ResumeTests(PromiseTestCase):
    """Promise 5; across a restart see RestartTests."""

    def resume(self, **after: Position) -> RecordingOutlet:
        """A connection that resumes behind these positions."""
        node, outlet = self.node, RecordingOutlet()
        replay = Replay(node.hub, node.broker, node.turn, node.clock, outlet, lambda: None)
        for channel, position in after.items():
            replay.add(Cursor(node.open(channel), position))
        running = Deferred.fromCoroutine(replay.run())
        node.clock.pump([0.001] * 20)
        self.successResultOf(running)
        return outlet

    def test_promise_5_by_position_exactly(self) -> None:
        """A client gets what is behind its position, once, and then live what comes."""
        receipts = [self.accept() for _ in range(5)]

        outlet = self.resume(room=Position(receipts[1].epoch, 2))

        self.accept()
        self.assertEqual(self.told(outlet), ["room 3", "room 4", "room 5", "room 6"])

    def test_promise_5_by_timestamp_at_least(self) -> None:
        """Everything later than the timestamp lies behind its place, over all channels."""
        receipts = [self.accept(channel) for channel in ("room", "other", "room", "other")]
        since = receipts[1].timestamp

        places = {
            channel: self.successResultOf(self.node.broker.locate("app", channel, since))
            for channel in ("room", "other")
        }

        self.assertEqual({name: place.is_complete for name, place in places.items()}, {"room": True, "other": True})
        self.assertEqual(sum(place.ties for place in places.values()), 1)
        outlet = self.resume(**{name: place.start for name, place in places.items()})
        self.assertEqual(self.told(outlet), ["other 1", "room 2", "other 2"])

    def test_promise_5_ties_inclusively(self) -> None:
        """Messages that share the timestamp are counted, and all of them lie behind its place."""
        receipts = [self.successResultOf(self.node.publish("room", step=0)) for _ in range(1010)]
        since = receipts[-1].timestamp
        tied = [receipt.sequence for receipt in receipts if receipt.timestamp == since]

        # The window keeps 1000 messages, among them all of the tie.
        place = self.successResultOf(self.node.broker.locate("app", "room", since))

        self.assertGreater(len(tied), 1)
        self.assertEqual((place.ties, place.is_complete), (len(tied), True))
        self.assertEqual(self.told(self.resume(room=place.start)), [f"room {sequence}" for sequence in tied])

    def test_promise_5_incomplete_is_told(self) -> None:
        """What is beyond the window of 1000 messages is told to be incomplete, never left out in silence."""
        receipts = [self.accept() for _ in range(1005)]
        epoch = receipts[0].epoch

        self.failureResultOf(self.node.broker.read("app", "room", Position(epoch, 4), 1), Gone)
        self.assertEqual(len(self.successResultOf(self.node.broker.read("app", "room", Position(epoch, 5), 1))), 1)
        locate = self.node.broker.locate
        early = self.successResultOf(locate("app", "room", receipts[3].timestamp))
        late = self.successResultOf(locate("app", "room", receipts[4].timestamp))
        self.assertEqual((early.is_complete, late.is_complete), (False, True))
        self.assertEqual(self.told(self.resume(room=Position(epoch, 4)))[0], "recovery_failed room")

    def test_promise_5_window_of_two_minutes(self) -> None:
        """A channel's messages can be recovered for two minutes."""
        epoch = self.accept().epoch
        self.node.clock.advance(119)
        self.node.memory_broker.trim()
        self.assertEqual(self.told(self.resume(room=Position(epoch, 0))), ["room 1"])

        self.node.clock.advance(2)
        self.node.memory_broker.trim()

        told = self.told(self.resume(room=Position(epoch, 0)))
        self.assertEqual(told, ["recovery_failed room", "subscribed room"])


class RestartTests(SqliteTestCase):
    """Promises 2, 3 and 5 on SQLite: what a stop and a start keep."""

    async def start(self, path: Path, seconds: float = 1_700_000_000.0) -> MemoryBroker:
        """A broker on the file; the one before has ended."""
        self.database = self.open(path)
        self.store = SqliteMessages(self.database)
        broker = MemoryBroker(self.store, Now(Clock(), seconds), epochs())
        await broker.start()
        self.receiver = WaitingReceiver()
        broker.listen(self.receiver)
        return broker

    async def restart(self, path: Path, seconds: float = 1_700_000_001.0) -> MemoryBroker:
        await self.database.stop()
        return await self.start(path, seconds)

    async def test_promise_2_across_a_restart(self) -> None:
        """A publish that is repeated after a restart gets the same acknowledgement, and is not delivered again."""
        path = self.path()
        first = await published(await self.start(path), make_publication("m1"))
        broker = await self.restart(path)
        await broker.attach("app", "room")

        second = await published(broker, make_publication("m1"))

        self.assertEqual(second, Receipt("m1", "room", first.timestamp, first.epoch, 1, is_duplicate=True))
        self.assertEqual((await published(broker, make_publication("m2"))).sequence, 2)
        self.assertEqual([message.id for message in await self.receiver.told(1)], ["m2"])

    async def test_promise_5_across_a_restart(self) -> None:
        """By position exactly and by timestamp at least, as if nothing had happened."""
        path = self.path()
        broker = await self.start(path)
        receipts = [await published(broker, make_publication(f"m{n}")) for n in range(1, 6)]
        broker = await self.restart(path)

        messages = await broker.read("app", "room", Position(receipts[0].epoch, 2), 10)

        self.assertEqual([message.id for message in messages], ["m3", "m4", "m5"])
        place = await broker.locate("app", "room", receipts[1].timestamp)
        self.assertEqual((place.start.sequence, place.ties, place.is_complete), (1, 1, True))

    async def test_promise_5_before_the_first_message_across_a_restart(self) -> None:
        """Who subscribed before the first message has lost nothing when the channel is called otherwise afterwards."""
        path = self.path()
        broker = await self.start(path)
        before = await broker.attach("app", "room")

        broker = await self.restart(path)
        await published(broker, make_publication())

        self.assertEqual([m.sequence for m in await broker.read("app", "room", before, 10)], [1])

    async def test_timestamps_across_a_restart_with_the_clock_set_back(self) -> None:
        """Timestamps never go back, even when the clock was set back by an hour between two runs."""
        path = self.path()
        broker = await self.start(path)
        first = await published(broker, make_publication())

        broker = await self.restart(path, 1_700_000_000.0 - 3600)

        timestamps = [(await published(broker, make_publication(channel=f"c{n}"))).timestamp for n in range(5)]
        self.assertEqual([t - first.timestamp for t in timestamps], [1, 2, 3, 4, 5])


class BoundsTests(PromiseTestCase):
    """Promise 7, the broker's part."""

    def test_promise_7_backlog(self) -> None:
        """What waits for the disk is bounded in bytes: beyond, publishes are refused, and may be repeated."""
        self.node = Node(self.journal, backlog_bytes=50_000)
        self.journal.is_held = True
        answers = [self.node.publish("new", f"m{n}", data=b"1" * 9_600) for n in range(8)]

        refused = [answer for answer in answers if answer.called]

        self.assertEqual(len(refused), 2)
        for answer in refused:
            failure = self.failureResultOf(answer, Unavailable)
            self.assertIn("limits.publish_backlog_bytes", failure.value.text)
        for _ in range(3):
            self.journal.release()
        self.journal.is_held = False
        self.assertEqual(self.accept("new", "m7").sequence, 7)

    def test_promise_7_windows(self) -> None:
        """Recovery windows are bounded by messages a channel, by age, and by bytes over all channels."""
        self.node = Node(recovery_messages=10, recovery_seconds=60, recovery_bytes=100_000)
        read = self.node.broker.read
        epoch = [self.accept() for _ in range(11)][0].epoch
        self.failureResultOf(read("app", "room", Position(epoch, 0), 1), Gone)
        self.successResultOf(read("app", "room", Position(epoch, 1), 1))

        for n in range(10):
            self.accept(f"large-{n}", size=20_000)
        self.failureResultOf(read("app", "room", Position(epoch, 10), 1), Gone)
        last = self.successResultOf(self.node.broker.position("app", "large-9"))
        self.successResultOf(read("app", "large-9", Position(last.epoch, 0), 1))

        self.node.clock.advance(61)
        self.node.memory_broker.trim()
        self.failureResultOf(read("app", "large-9", Position(last.epoch, 0), 1), Gone)

    def test_promise_7_idle_channels(self) -> None:
        """A channel that nobody uses is forgotten after its window, and its id memory too."""
        broker = self.node.memory_broker
        for n in range(50):
            self.accept(f"c{n}", "m1")
        for _ in range(3):
            self.node.clock.advance(121)
            broker.trim()

        self.assertEqual(len(broker._channels), 1)  # the one that has subscribers
        self.assertEqual((len(broker._receipts), len(broker._receipt_order)), (0, 0))
        self.assertEqual((len(broker._window_order), broker._window_bytes, len(broker._idle)), (0, 0, 0))


class TenantTests(PromiseTestCase):
    """Promise 8."""

    def test_promise_8_tenants_never_meet(self) -> None:
        """Channels, ids, positions, windows and losses of another app are other ones."""
        carol = RecordingOutlet()
        self.node.subscribe(carol, "room", app="other")

        receipts = [self.accept(id="m1"), self.accept(id="m1", app="other")]
        self.node.hub.lost("other", "room", Position("e9", 9))

        self.assertEqual([(r.sequence, r.is_duplicate) for r in receipts], [(1, False), (1, False)])
        self.assertNotEqual(receipts[0].epoch, receipts[1].epoch)
        self.assertEqual(self.told(self.alice), ["room 1"])
        self.assertEqual(self.told(carol), ["room 1", "recovery_failed room", "subscribed room"])
        self.failureResultOf(self.node.broker.read("other", "room", receipts_position(receipts[0]), 1), Gone)


class TimestampTests(PromiseTestCase):
    """What a resume by timestamp rests on."""

    def test_timestamps_never_go_back(self) -> None:
        """In the order in which a connection gets messages, timestamps rise, whatever the clock does."""
        self.node.subscribe(self.alice, "other")
        for jump in (0, 5, -3600, 10, -1, 7200, -7200):
            self.node.now.set(self.node.now() + jump)
            for channel in ("room", "other", "room"):
                self.accept(channel)
            self.node.end_turn()

        timestamps = [event["timestamp"] for event in self.alice.events]
        self.assertEqual(len(timestamps), 21)
        self.assertEqual(timestamps, sorted(set(timestamps)))

    def test_timestamps_are_unique_up_to_a_thousand_a_second(self) -> None:
        """An app that sends 999 messages a second, each second's at once, has no tie in any channel."""
        timestamps = []
        for _ in range(5):
            timestamps += [self.successResultOf(self.node.publish(f"c{n % 7}", step=0)).timestamp for n in range(999)]
            self.node.clock.advance(1)

        self.assertEqual(len(set(timestamps)), 4995)
        self.assertEqual(timestamps, sorted(timestamps))


def receipts_position(receipt: Receipt) -> Position:
    """Where the message of the receipt is."""
    return Position(receipt.epoch, receipt.sequence)
