"""Tests of wsock.backends.redis_batch."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from wsock.backends.redis_batch import PublishBatches, entry_messages
from wsock.errors import Code, Refused, Unavailable
from wsock.protocol.messages import Publication, Receipt
from wsock.testing.contracts.broker import make_publication

CAP = 5000


def packed(*answers: tuple[Any, ...]) -> bytes:
    """As the script answers."""
    return msgspec.msgpack.encode([CAP, *(value for answer in answers for value in answer)])


class BatchTests(SynchronousTestCase):
    """Group commit."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.batches: list[list[Any]] = []
        self.answers: list[Deferred[bytes]] = []
        self.make()

    def make(self, **limits: int) -> None:
        self.publishes = PublishBatches(self.run_batch, self.clock, **{"backlog_bytes": 1 << 20, **limits})

    async def run_batch(self, runs: bytes) -> bytes:
        self.batches.append(msgspec.msgpack.decode(runs))
        self.answers.append(Deferred())
        return await self.answers[-1]

    def add(self, number: int = 1, **facts: Any) -> list[Deferred[Receipt]]:
        return [self.add_one(make_publication(**facts)) for _ in range(number)]

    def add_one(self, publication: Publication) -> Deferred[Receipt]:
        outcome: Deferred[Receipt] = Deferred()
        self.publishes.add(publication, outcome)
        return outcome

    def answer(self) -> None:
        number = len(self.answers) - 1
        self.answers[number].callback(packed(*((0, 1, 1001, "e") for _ in self.batches[number])))

    def sizes(self) -> list[int]:
        return [sum(len(keys) for *_, keys in batch) for batch in self.batches]

    def test_one_in_flight_and_the_next_gathers(self) -> None:
        """What comes in one turn goes together; what comes meanwhile waits for the answer."""
        first = self.add(3)
        self.clock.advance(0)
        second = self.add(2)
        self.clock.advance(1)
        self.assertEqual(self.sizes(), [3])

        self.answer()

        self.assertEqual(self.sizes(), [3, 2])
        self.assertEqual([self.successResultOf(receipt).sequence for receipt in first], [1, 2, 3])
        self.assertNoResult(second[0])
        self.answer()
        self.assertEqual([self.successResultOf(receipt).timestamp for receipt in second], [1001, 1002])
        self.add()
        self.clock.advance(0)
        self.assertEqual(self.sizes(), [3, 2, 1])

    def test_measured(self) -> None:
        """How large batches are, how long each was under way, and what waits meanwhile."""
        self.add(3)
        self.clock.advance(0)
        self.add(2)
        self.assertEqual((self.publishes.queued, self.publishes.queued_bytes > 600), (2, True))
        self.clock.advance(0.25)
        self.answer()
        self.answer()

        self.assertEqual((self.publishes.queued, self.publishes.queued_bytes), (0, 0))
        self.assertEqual((len(self.publishes.batch_sizes), self.publishes.batch_sizes.total), (2, 5))
        self.assertEqual((len(self.publishes.batch_seconds), self.publishes.batch_seconds.total), (2, 0.25))

    def test_limits(self) -> None:
        """A batch is bounded by items and by bytes; one that is larger than a batch goes alone."""
        self.make(max_items=3, max_bytes=3000)
        self.add(4)
        self.add(2, data=b'"' + b"x" * 1500 + b'"')
        self.add(1, data=b'"' + b"x" * 5000 + b'"')
        self.add(1)
        self.clock.advance(0)
        while len(self.answers) < 5:
            self.answer()

        self.assertEqual(self.sizes(), [3, 2, 1, 1, 1])

    def test_what_is_sent(self) -> None:
        """The script gets text, and a key of the id in its scope; ids of the server have none."""
        self.add(id="m1", persist=False, publisher_id="b\u00f6b", data=b"[1]")
        self.add()
        self.clock.advance(0)

        [app, channel, persist, text, lengths, [key]], [*_, second_keys] = self.batches[0]

        self.assertEqual(
            (app, channel, persist, lengths, second_keys), ("app", "room", False, [len(text.encode())], [""])
        )
        self.assertIn("m1", key)
        [message] = entry_messages("room", [b"7-1234", [b"b", text.encode(), b"e", b"e1", b"u", b"0"]])
        self.assertEqual((message.id, bytes(message.data), message.publisher_id), ("m1", b"[1]", "b\u00f6b"))
        self.assertEqual((message.sequence, message.timestamp, message.epoch, message.persist), (7, 1234, "e1", False))

    def test_runs(self) -> None:
        """What follows one another in a channel goes in one piece; the order of all is kept."""
        for app, channel in (("a", "x"), ("a", "x"), ("a", "y"), ("b", "y"), ("a", "x")):
            self.add(app=app, channel=channel)
        self.clock.advance(0)

        runs = [(app, channel, len(keys)) for app, channel, *_, keys in self.batches[0]]

        self.assertEqual(runs, [("a", "x", 2), ("a", "y", 1), ("b", "y", 1), ("a", "x", 1)])

    def test_runs_are_bounded(self) -> None:
        """A run is no longer than it may be, and all of it is history or nothing of it."""
        self.make(max_run=2)
        for persist in (True, True, True, False, True):
            self.add(persist=persist)
        self.clock.advance(0)

        self.assertEqual([(kind, len(keys)) for _, _, kind, *_, keys in self.batches[0]],
            [(2, 2), (2, 1), (0, 1), (2, 1)])  # fmt: skip

    def test_told(self) -> None:
        """Where somebody wants to be told, messages that are no history are marked."""
        self.publishes.is_told = lambda app, channel: channel == "room"
        self.add(persist=False)
        self.add(persist=True)
        self.add(persist=False, channel="other")
        self.clock.advance(0)

        self.assertEqual([kind for _, _, kind, *_ in self.batches[0]], [1, 2, 0])

    def test_timestamps_count_up_to_the_cap(self) -> None:
        """Those of a run follow one another, until they may not be farther in the future."""
        receipts = self.add(4)
        self.clock.advance(0)

        self.answers[0].callback(packed((0, 7, CAP - 2, "e")))

        got = [self.successResultOf(receipt) for receipt in receipts]
        self.assertEqual([receipt.sequence for receipt in got], [7, 8, 9, 10])
        self.assertEqual([receipt.timestamp for receipt in got], [CAP - 2, CAP - 1, CAP, CAP])
        late = self.add(2)
        self.clock.advance(0)
        self.answers[1].callback(packed((0, 11, CAP + 9, "e")))
        self.assertEqual([self.successResultOf(receipt).timestamp for receipt in late], [CAP + 9, CAP + 9])

    def test_entries_hold_what_was_sent(self) -> None:
        """An entry of a run has all its messages, with the sequences and timestamps that the receipts say."""
        receipts = [self.add(id=f"m{n}", data=b"[%d]" % n)[0] for n in range(3)]
        self.clock.advance(0)
        self.answers[0].callback(packed((0, 5, CAP - 1, "e")))
        fields = [b"b", self.batches[0][0][3].encode(), b"e", b"e", b"q", b"4", b"n", b"3-%d" % CAP]

        messages = entry_messages("room", [b"5-%d" % (CAP - 1), fields])

        told = [self.successResultOf(receipt) for receipt in receipts]
        self.assertEqual(
            [(m.id, m.sequence, m.timestamp) for m in messages], [(r.id, r.sequence, r.timestamp) for r in told]
        )
        self.assertEqual([bytes(m.data) for m in messages], [b"[0]", b"[1]", b"[2]"])

    def test_keys_of_ids(self) -> None:
        """No two of (channel, identity, id) have one key, and no key is long or more than ASCII."""
        scopes = [("x", "1x", "m"), ("x1", "x", "m"), ("x", "1", "x\nm"), ("x" * 200, "i", "m"), ("x" * 200, "i", "n")]
        for channel, identity, id in [*scopes, ("x", "\ud800", "m")]:
            self.add(channel=channel, identity=identity, id=id)
        self.clock.advance(0)

        keys = [key for *_, some in self.batches[0] for key in some]

        self.assertEqual(len(set(keys)), 6)
        self.assertLessEqual(max(map(len, keys)), 128)
        self.assertTrue(all(key.isascii() for key in keys))

    def test_backlog(self) -> None:
        """What waits is bounded; the refusal names the setting, and there is room again after the batch was sent."""
        self.make(backlog_bytes=700)
        self.add(2)

        [refused] = self.add()

        failure = self.failureResultOf(refused, Unavailable)
        self.assertIn("limits.publish_backlog_bytes", str(failure.value))
        self.clock.advance(0)
        self.assertNoResult(self.add()[0])

    def test_outage(self) -> None:
        """All of a batch are told of it; the next batch is tried."""
        first = self.add(2)
        self.clock.advance(0)
        second = self.add()

        self.answers[0].errback(Unavailable("away"))

        for receipt in first:
            self.failureResultOf(receipt, Unavailable)
        self.answer()
        self.assertEqual(self.successResultOf(second[0]).sequence, 1)

    def test_bug(self) -> None:
        """Another error is logged, and the publishers learn nothing of it but that."""
        [receipt] = self.add()
        self.clock.advance(0)

        self.answers[0].errback(ValueError("secret"))

        failure = self.failureResultOf(receipt, Refused)
        assert isinstance(failure.value, Refused)
        self.assertEqual(failure.value.code, Code.INTERNAL)
        self.assertNotIn("secret", str(failure.value))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.add()
        self.clock.advance(0)
        self.assertEqual(len(self.batches), 2)

    def test_answers(self) -> None:
        """Each has an answer of its own: accepted, repeated, no room, failed."""
        receipts = [*self.add(4), *self.add(2, channel="bad"), *self.add(channel="else")]
        self.clock.advance(0)

        each = (1, 0, 1, 10, "e", 1, 7, 5, "d", 2, 0, 0, "", 0, 2, 11, "e")
        self.answers[0].callback(packed(each, (2, "WRONGTYPE"), (0, 1, 12, "e")))

        got = [self.successResultOf(receipts[n]) for n in (0, 1, 3, 6)]
        self.assertEqual([receipt.is_duplicate for receipt in got], [False, True, False, False])
        self.assertEqual([(receipt.epoch, receipt.sequence, receipt.timestamp) for receipt in got],
            [("e", 1, 10), ("d", 7, 5), ("e", 2, 11), ("e", 1, 12)])  # fmt: skip
        self.assertIn("redis.backlog", str(self.failureResultOf(receipts[2], Unavailable).value))
        for n in (4, 5):
            self.assertNotIn("WRONGTYPE", str(self.failureResultOf(receipts[n], Refused).value))

    def test_publisher_who_gives_up(self) -> None:
        """Its message may be accepted all the same; the others get their receipts."""
        receipts = self.add(2)
        self.clock.advance(0)
        receipts[0].addErrback(lambda _: None)

        receipts[0].cancel()
        self.answer()

        self.assertEqual(self.successResultOf(receipts[1]).sequence, 2)
