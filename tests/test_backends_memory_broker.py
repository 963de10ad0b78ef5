"""Tests of wsock.backends.memory_broker: the contract over both journals, and what time and trouble do to it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock, LoopingCall

from tests.base import SynchronousTestCase, TestCase
from tests.nodes import HeldJournal, epochs
from tests.test_backends_sqlite import SqliteTestCase
from wsock.backends.memory_broker import MemoryBroker
from wsock.backends.memory_store import MemoryMessages
from wsock.backends.sqlite import SqliteDatabase, SqliteMessages
from wsock.errors import Code, Gone, Unavailable
from wsock.interfaces import IJournal
from wsock.protocol.messages import Message, Receipt
from wsock.protocol.position import Position
from wsock.testing.contracts.broker import BrokerContract, DurableBrokerContract, make_publication, published
from wsock.testing.fakes import Now, RecordingReceiver


async def _started(journal: IJournal, recovery_messages: int) -> MemoryBroker:
    broker = MemoryBroker(journal, Now(Clock()), epochs(), recovery_messages=recovery_messages)
    await broker.start()
    return broker


class MemoryJournalTests(DurableBrokerContract, TestCase):
    """The broker over the journal in memory is an IBroker; a restart is a new broker on the same journal."""

    async def make_broker(self, recovery_messages: int) -> MemoryBroker:
        self.journal = MemoryMessages()
        return await _started(self.journal, recovery_messages)

    async def reopen_broker(self) -> MemoryBroker:
        return await _started(self.journal, 1000)


class SqliteJournalTests(DurableBrokerContract, SqliteTestCase):
    """The broker over SQLite is an IBroker, and stays one across a restart."""

    database: SqliteDatabase

    async def make_broker(self, recovery_messages: int) -> MemoryBroker:
        self.file = self.path()
        self.database = self.open(self.file)
        return await _started(SqliteMessages(self.database), recovery_messages)

    async def reopen_broker(self) -> MemoryBroker:
        await self.database.stop()
        self.database = self.open(self.file)
        return await _started(SqliteMessages(self.database), 1000)


class LateJournalTests(BrokerContract, TestCase):
    """The broker over a journal whose every answer comes in a later turn is an IBroker."""

    async def make_broker(self, recovery_messages: int) -> MemoryBroker:
        journal = HeldJournal()
        journal.is_held = journal.holds_tails = True
        releasing = LoopingCall(journal.release)
        releasing.start(0)
        self.addCleanup(releasing.stop)
        return await _started(journal, recovery_messages)


class MemoryBrokerTestCase(SynchronousTestCase):
    """A broker over a journal that can be held, on a clock of its own."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.now = Now(self.clock)
        self.journal = HeldJournal()
        self.make_broker()

    def make_broker(self, **options: Any) -> None:
        self.broker = MemoryBroker(self.journal, self.now, epochs(), **options)
        self.successResultOf(Deferred.fromCoroutine(self.broker.start()))
        self.receiver = RecordingReceiver()
        self.broker.listen(self.receiver)

    def accept(self, id: str | None = None, **facts: Any) -> Receipt:
        return self.successResultOf(published(self.broker, make_publication(id, **facts)))

    def attach(self, channel: str = "room") -> Position:
        return self.successResultOf(Deferred.fromCoroutine(self.broker.attach("app", channel)))

    def position(self, channel: str = "room") -> Position:
        return self.successResultOf(Deferred.fromCoroutine(self.broker.position("app", channel)))

    def read(self, after: int = 0, channel: str = "room") -> list[int]:
        position = Position(self.position(channel).epoch, after)
        return [m.sequence for m in self.successResultOf(self.broker.read("app", channel, position, 10_000))]

    def assert_gone(self, after: int = 0, channel: str = "room") -> None:
        position = Position(self.position(channel).epoch, after)
        self.failureResultOf(self.broker.read("app", channel, position, 1), Gone)

    def sequences(self) -> list[int]:
        return [heard.message.sequence for heard in self.receiver.messages]

    def assert_unavailable(self, answer: Deferred[Receipt]) -> Unavailable:
        failure = self.failureResultOf(answer, Unavailable)
        assert isinstance(failure.value, Unavailable)
        return failure.value


class CommitTests(MemoryBrokerTestCase):
    """What a batch goes through."""

    def test_measured(self) -> None:
        """How large commits are, how long each took, and what waits meanwhile; what is known already is no commit."""
        self.accept("known")
        self.journal.is_held = True
        for id in ("m1", "m2", "m3"):
            published(self.broker, make_publication(id))
        self.assertEqual((self.broker.queued, self.broker.queued_bytes > 800), (2, True))
        self.clock.advance(0.25)
        self.journal.release()
        self.journal.release()
        self.accept("known")

        self.assertEqual((self.broker.queued, self.broker.queued_bytes), (0, 0))
        self.assertEqual((len(self.broker.batch_sizes), self.broker.batch_sizes.total), (3, 4))
        self.assertEqual((len(self.broker.batch_seconds), self.broker.batch_seconds.total), (3, 0.25))

    def test_nothing_before_the_commit(self) -> None:
        """Until the journal has committed, a message is not acknowledged, delivered, read, nor the position."""
        self.attach()
        self.journal.is_held = True

        answer = published(self.broker, make_publication("m1"))

        self.assertNoResult(answer)
        self.assertEqual((self.sequences(), self.position().sequence, self.read()), ([], 0, []))
        self.journal.release()
        self.assertEqual(self.successResultOf(answer).sequence, 1)
        self.assertEqual((self.sequences(), self.position().sequence, self.read()), ([1], 1, [1]))

    def test_group_commit(self) -> None:
        """What is published during a commit goes into the next one together, at most 256 messages."""
        self.journal.is_held = True
        answers = [published(self.broker, make_publication()) for _ in range(300)]

        for _ in range(3):
            self.journal.release()

        self.assertEqual([len(batch) for batch in self.journal.commits], [1, 256, 43])
        self.assertEqual(self.successResultOf(gatherResults(answers))[-1].sequence, 300)

    def test_batch_is_bounded_in_bytes(self) -> None:
        """A batch takes about a MiB of data, and a larger message alone."""
        self.journal.is_held = True
        for size in (1, 600_000, 600_000, 2_000_000, 1):
            published(self.broker, make_publication(data=b"1" * size))

        for _ in range(5):
            self.journal.release()

        self.assertEqual([len(batch) for batch in self.journal.commits], [1, 1, 1, 1, 1])

    def test_failed_commit_leaves_no_trace(self) -> None:
        """A refused batch is unavailable to its publishers; the same ids are accepted again, in the same places."""
        self.attach()
        first = self.accept("m0")
        self.journal.trouble = Unavailable("the disk is full")

        for id in ("m1", "m2"):
            self.assert_unavailable(published(self.broker, make_publication(id)))

        self.assertEqual((self.sequences(), self.position().sequence), ([1], 1))
        self.journal.trouble = None
        receipts = [self.accept("m1"), self.accept("m2")]
        self.assertEqual([(r.sequence, r.is_duplicate) for r in receipts], [(2, False), (3, False)])
        self.assertEqual([r.timestamp - first.timestamp for r in receipts], [1, 2])
        self.assertEqual(self.sequences(), [1, 2, 3])

    def test_duplicate_fails_with_its_first(self) -> None:
        """A repeat that waits in the batch of its first is refused with it, one in the next batch is accepted."""
        self.journal.is_held = True
        published(self.broker, make_publication())
        again = [published(self.broker, make_publication("m1")) for _ in range(2)]
        self.journal.release()
        last = published(self.broker, make_publication("m1"))
        self.journal.trouble = Unavailable("the disk is full")
        self.journal.release()

        for answer in again:
            self.assert_unavailable(answer)
        self.journal.trouble = None
        self.journal.release()

        receipt = self.successResultOf(last)
        self.assertEqual((receipt.sequence, receipt.is_duplicate), (2, False))

    def test_fault_of_the_journal_leaves_no_trace(self) -> None:
        """An error that no journal may fire is logged, and is no reason for a gap."""
        self.journal.trouble = ValueError("a bug")
        self.failureResultOf(published(self.broker, make_publication("m1")), ValueError)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.journal.trouble = None

        receipt = self.accept("m1")

        self.assertEqual((receipt.sequence, receipt.is_duplicate), (1, False))

    def test_fault_of_the_receiver_stops_nothing(self) -> None:
        """A receiver that raises is logged; the message is acknowledged, and the next one delivered."""
        self.attach()
        told = self.receiver.message

        def fail_once(app: str, message: Message) -> None:
            self.patch(self.receiver, "message", told)
            raise ValueError("a bug")

        self.patch(self.receiver, "message", fail_once)

        self.assertEqual((self.accept().sequence, self.accept().sequence), (1, 2))

        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual((self.sequences(), self.read()), ([2], [1, 2]))

    def test_publish_from_a_delivery(self) -> None:
        """What is published while a message is delivered comes behind it: deliveries are never nested."""
        self.attach()
        told = self.receiver.message
        depth: list[int] = []

        def reply(app: str, message: Message) -> None:
            depth.append(message.sequence)
            if message.sequence < 3:
                published(self.broker, make_publication())
            told(app, message)
            self.assertEqual(depth.pop(), message.sequence)
            self.assertEqual(depth, [])

        self.patch(self.receiver, "message", reply)
        self.accept()

        self.assertEqual(self.sequences(), [1, 2, 3])

    def test_publisher_that_gave_up(self) -> None:
        """A publisher who cancels is not told; the message is committed all the same, and so are the others."""
        self.journal.is_held = True
        answers = [published(self.broker, make_publication()) for _ in range(3)]

        answers[1].cancel()

        self.failureResultOf(answers[1], CancelledError)
        self.journal.release()
        self.journal.release()
        self.assertEqual(self.successResultOf(answers[2]).sequence, 3)

    def test_backlog_is_bounded(self) -> None:
        """More bytes than the backlog takes are refused as unavailable, at once; when it is shorter, accepted."""
        self.make_broker(backlog_bytes=100_000)
        self.journal.is_held = True
        published(self.broker, make_publication())
        waiting = [published(self.broker, make_publication(data=b"1" * 30_000)) for _ in range(3)]

        refused = self.assert_unavailable(published(self.broker, make_publication("m1", data=b"1" * 30_000)))

        self.assertEqual((refused.code, refused.retry_after), (Code.UNAVAILABLE, 1.0))
        self.assertIn("limits.publish_backlog_bytes", refused.text)
        self.journal.release()
        self.journal.release()
        self.assertEqual([self.successResultOf(answer).sequence for answer in waiting], [2, 3, 4])
        self.journal.is_held = False
        self.assertEqual(self.accept("m1", data=b"1" * 30_000).sequence, 5)


class LoadingTests(MemoryBrokerTestCase):
    """How a channel comes back from the journal."""

    def setUp(self) -> None:
        super().setUp()
        for _ in range(3):
            self.accept("m", identity=f"sub:{_}")
        self.make_broker()
        self.journal.holds_tails = True
        self.journal.tails = 0

    def test_once_for_all_who_wait(self) -> None:
        """Everybody who asks for a channel at once waits for one load."""
        attaching = Deferred.fromCoroutine(self.broker.attach("app", "room"))
        reading = Deferred.fromCoroutine(self.broker.read("app", "room", Position("e1", 1), 10))
        accepted = published(self.broker, make_publication())

        self.journal.release()

        self.assertEqual(self.journal.tails, 1)
        self.assertEqual(self.successResultOf(attaching), Position("e1", 3))
        self.assertEqual([m.sequence for m in self.successResultOf(reading)], [2, 3])
        self.assertEqual(self.successResultOf(accepted).sequence, 4)
        self.assertEqual(self.sequences(), [4])

    def test_publishes_keep_their_order(self) -> None:
        """A publish to a channel that is known waits behind one to a channel that is loaded."""
        accepted = [published(self.broker, make_publication(channel=name)) for name in ("room", "other", "room")]

        for _ in range(3):
            self.journal.release()

        timestamps = [receipt.timestamp for receipt in self.successResultOf(gatherResults(accepted))]
        self.assertEqual(timestamps, sorted(timestamps))

    def test_failed_load(self) -> None:
        """When the journal can't tell, all who wait are told so; the next one asks again."""
        self.journal.tail_trouble = Unavailable("the disk is gone")
        attaching = Deferred.fromCoroutine(self.broker.attach("app", "room"))
        accepted = published(self.broker, make_publication())

        self.journal.release()

        self.failureResultOf(attaching, Unavailable)
        self.assert_unavailable(accepted)
        self.journal.tail_trouble = None
        self.journal.holds_tails = False
        self.assertEqual(self.accept().sequence, 4)

    def test_who_gives_up_takes_nobody_along(self) -> None:
        """When the first who asked is cancelled, the channel is loaded for the others."""
        first = Deferred.fromCoroutine(self.broker.position("app", "room"))
        second = Deferred.fromCoroutine(self.broker.position("app", "room"))

        first.cancel()
        self.journal.release()

        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.successResultOf(second), Position("e1", 3))

    def test_channel_is_not_forgotten_under_a_batch(self) -> None:
        """An idle channel that is forgotten while a batch loads another one is loaded again: no sequence twice."""
        self.journal.holds_tails = False
        self.position()
        self.clock.advance(121)
        self.broker.trim()
        self.accept()
        self.clock.advance(121)
        self.journal.is_held = True
        first = published(self.broker, make_publication(channel="third"))
        self.journal.holds_tails = True
        batch = [published(self.broker, make_publication(channel=name)) for name in ("room", "fourth")]
        self.journal.release()
        self.clock.advance(121)
        self.broker.trim()
        self.clock.advance(121)
        self.broker.trim()
        for _ in range(4):
            self.journal.release()

        self.assertEqual(self.successResultOf(first).sequence, 1)
        self.assertEqual([r.sequence for r in self.successResultOf(gatherResults(batch))], [5, 1])
        self.journal.is_held = self.journal.holds_tails = False
        self.assertEqual((self.accept().sequence, self.position().sequence), (6, 6))

    def test_unknown_channel_of_a_young_memory(self) -> None:
        """What a channel had before the broker remembers anything can't be told: that is incomplete."""
        self.journal.holds_tails = False
        self.make_broker(unknown_before=5000)

        early = self.successResultOf(self.broker.locate("app", "new", 4999))
        late = self.successResultOf(self.broker.locate("app", "new", 5000))

        self.assertEqual((early.is_complete, late.is_complete), (False, True))


class WindowTests(MemoryBrokerTestCase):
    """The recovery windows, and what is remembered besides."""

    def test_window_is_bounded_by_count(self) -> None:
        """A channel keeps its last messages only."""
        self.make_broker(recovery_messages=5)

        timestamps = [self.accept().timestamp for _ in range(8)]

        self.assertEqual(self.read(3), [4, 5, 6, 7, 8])
        self.assert_gone(2)
        self.assertFalse(self.successResultOf(self.broker.locate("app", "room", timestamps[1])).is_complete)
        self.assertTrue(self.successResultOf(self.broker.locate("app", "room", timestamps[2])).is_complete)

    def test_window_is_bounded_by_age(self) -> None:
        """Messages older than the window are dropped by the next trim, of idle channels too."""
        self.make_broker(recovery_seconds=60)
        self.attach()
        self.accept()
        self.accept(channel="other")
        self.clock.advance(40)
        self.accept()

        self.clock.advance(30)
        self.broker.trim()

        self.assertEqual(self.read(1), [2])
        self.assert_gone(0)
        self.assert_gone(0, "other")

    def test_windows_are_bounded_by_bytes(self) -> None:
        """All windows together have a bound: the oldest message goes first, whosever it is."""
        self.make_broker(recovery_bytes=30_000)
        for channel in ("room", "other", "room", "third", "room"):
            self.accept(channel=channel, data=b"1" * 9_000)

        self.assertEqual(self.read(2), [3])
        self.assertEqual(self.read(0, "third"), [1])
        self.assert_gone(0)
        self.assert_gone(0, "other")

    def test_bounds_together(self) -> None:
        """Messages that left early by count are not mistaken for those of other channels."""
        self.make_broker(recovery_messages=2, recovery_seconds=60)
        for _ in range(4):
            self.accept()
            self.accept(channel="other")
        self.clock.advance(50)
        self.accept()

        self.clock.advance(20)
        self.broker.trim()

        self.assertEqual((self.read(4), self.read(4, "other")), ([5], []))
        self.assert_gone(3)

    def test_no_window(self) -> None:
        """With no messages to recover, positions and delivery are as ever."""
        self.make_broker(recovery_messages=0)
        self.attach()
        self.accept()
        self.accept()

        self.assertEqual((self.read(2), self.sequences()), ([], [1, 2]))
        self.assert_gone(1)

    def test_ties_cut_by_the_window_are_incomplete(self) -> None:
        """When some messages of a timestamp are kept and another is not, which of them a client has can't be told."""
        self.make_broker(recovery_messages=3)
        receipts = [self.accept() for _ in range(1100)]
        self.assertEqual(len({receipt.timestamp for receipt in receipts[-4:]}), 1)

        located = self.successResultOf(self.broker.locate("app", "room", receipts[-1].timestamp))

        self.assertEqual((located.ties, located.start.sequence, located.is_complete), (3, 1097, False))

    def test_idle_channels_are_forgotten(self) -> None:
        """A channel without window and subscriber is dropped from memory, and comes back from the journal."""
        self.attach("kept")
        self.accept()
        self.position("asked")
        tails = self.journal.tails

        for _ in range(3):
            self.clock.advance(121)
            self.broker.trim()

        self.assertEqual((self.position().sequence, self.journal.tails), (1, tails + 1))
        self.position("asked")
        self.assertEqual(self.journal.tails, tails + 2)
        self.position("kept")
        self.assertEqual(self.journal.tails, tails + 2)

    def test_detached_channel_is_forgotten_later(self) -> None:
        """A detach starts the time; attaching again ends it."""
        self.attach()
        self.clock.advance(500)
        self.broker.trim()
        self.broker.detach("app", "room")
        self.clock.advance(100)
        self.attach()
        self.clock.advance(100)
        self.broker.trim()
        tails = self.journal.tails
        self.position()
        self.assertEqual(self.journal.tails, tails)
        self.broker.detach("app", "room")

        self.clock.advance(121)
        self.broker.trim()

        self.position()
        self.assertEqual(self.journal.tails, tails + 1)

    def test_channel_of_a_failed_commit_is_forgotten(self) -> None:
        """A channel whose time comes during a commit that fails is forgotten a window later."""
        self.journal.is_held = True
        answer = published(self.broker, make_publication())
        self.clock.advance(121)
        self.broker.trim()
        self.journal.trouble = Unavailable("the disk is full")
        self.journal.release()
        self.assert_unavailable(answer)

        self.clock.advance(121)
        self.broker.trim()

        tails = self.journal.tails
        self.position()
        self.assertEqual(self.journal.tails, tails + 1)

    def test_ids_are_forgotten(self) -> None:
        """An id is a duplicate for the deduplication window, and not much longer."""
        self.make_broker(dedup_seconds=60)
        self.accept("m1")
        self.clock.advance(59)
        self.broker.trim()
        self.assertTrue(self.accept("m1").is_duplicate)

        self.clock.advance(2)
        self.broker.trim()

        self.assertFalse(self.accept("m1").is_duplicate)

    def test_id_that_was_refused_first(self) -> None:
        """What is remembered of a refused id does not make the accepted one forgotten early."""
        self.make_broker(dedup_seconds=60)
        self.journal.trouble = Unavailable("the disk is full")
        self.assert_unavailable(published(self.broker, make_publication("m1")))
        self.journal.trouble = None
        self.clock.advance(40)
        self.accept("m1")

        self.clock.advance(30)
        self.broker.trim()

        self.assertTrue(self.accept("m1").is_duplicate)

    def test_ids_are_remembered_for_their_window_only_after_a_restart(self) -> None:
        """A restart recalls the ids of the deduplication window."""
        self.accept("old")
        self.clock.advance(100)
        self.accept("new")
        self.clock.advance(30)

        self.make_broker()

        self.assertEqual((self.accept("old").is_duplicate, self.accept("new").is_duplicate), (False, True))


class OccupancyTests(MemoryBrokerTestCase):
    def test_occupied(self) -> None:
        """The channels with subscribers are counted for each app, each of them once."""
        for app, channel in (("shop", "a"), ("shop", "a"), ("shop", "b"), ("bank", "a")):
            self.broker.occupy(app, channel)
        self.broker.vacate("shop", "b")

        counts = [self.successResultOf(Deferred.fromCoroutine(self.broker.occupied(app))) for app in ("shop", "none")]
        self.assertEqual(counts, [1, 0])
        for channel, is_occupied in (("a", True), ("b", False)):
            found = Deferred.fromCoroutine(self.broker.is_occupied("shop", channel))
            self.assertIs(self.successResultOf(found), is_occupied)


class TimestampTests(MemoryBrokerTestCase):
    """The timestamps of an app."""

    def stamp(self, number: int = 1, **facts: Any) -> list[int]:
        return [self.accept(**facts).timestamp for _ in range(number)]

    def test_wall_clock(self) -> None:
        """A message is stamped with the time."""
        self.now.set(1_700_000_000.1234)

        self.assertEqual(self.stamp(), [1_700_000_000_123])

    def test_unique_up_to_a_thousand_at_once(self) -> None:
        """On a tie the timestamp is nudged by a millisecond, at most a second ahead; then it stands."""
        timestamps = self.stamp(1003)

        self.assertEqual([t - timestamps[0] for t in timestamps], [*range(1001), 1000, 1000])

    def test_apps_are_stamped_apart(self) -> None:
        """One app's rate does not move the timestamps of another."""
        [*_, last] = self.stamp(100)

        self.assertEqual(self.stamp(app="other"), [last - 99])

    def test_clock_that_steps_back(self) -> None:
        """Timestamps go on from where they were, each message with its own, and windows go on ageing."""
        [first] = self.stamp()
        self.now.set(self.now() - 3600)

        later = self.stamp(3)
        self.clock.advance(1)
        [next_second] = self.stamp()

        self.assertEqual([t - first for t in later], [1, 2, 3])
        self.assertGreater(next_second - first, 800)
        self.clock.advance(140)
        self.broker.trim()
        self.assert_gone()

    def test_clock_that_stepped_back_is_caught_up_with(self) -> None:
        """The broker's clock goes a tenth slower until the wall clock has caught up, and then with it."""
        self.now.set(self.now() + 60)
        self.stamp()
        self.now.set(self.now() - 60)
        for _ in range(120):
            self.clock.advance(5.5)
            self.stamp()

        self.assertEqual(self.stamp()[0] - int(self.now() * 1000), 1)

    def test_many_messages_after_a_step_back(self) -> None:
        """900 messages a second stay unique while the wall clock is behind."""
        self.stamp()
        self.now.set(self.now() - 3600)
        timestamps = []
        for _ in range(5):
            timestamps += self.stamp(900)
            self.clock.advance(1)

        self.assertEqual(len(set(timestamps)), 4500)
        self.assertEqual(timestamps, sorted(timestamps))

    def test_restart_behind_the_last_timestamp(self) -> None:
        """A wall clock that was set back between two runs is taken for one that stepped back."""
        [first] = self.stamp()
        self.now.set(self.now() - 3600)

        self.make_broker()

        timestamps = self.stamp(1500)
        self.assertEqual(timestamps[0], first + 1)
        self.assertEqual(len(set(timestamps[:1000])), 1000)
