"""Tests for :mod:`wsock.bench.publisher`."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from tests.base import SynchronousTestCase
from tests.bench_nets import MASK, a_plan
from wsock.bench.connection import Connection
from wsock.bench.load import Target
from wsock.bench.publisher import Publisher
from wsock.bench.tally import Sent
from wsock.bench.wire import Ack, Chunk, ErrorFrame, Masker, Reader
from wsock.protocol.wire import complete_texts


class PublisherTests(SynchronousTestCase):
    def publisher(self, **plan: Any) -> Publisher:
        """One with this plan, on a connection that only records."""
        self.clock = Clock()
        self.transport = StringTransport()
        self.may_go = True
        connection = Connection(Target("h", 1, False, "/", True), Reader(), Masker(MASK))
        connection.makeConnection(self.transport)
        self.transport.clear()
        self.connection: Any = connection
        return Publisher(
            0,
            a_plan(**plan),
            connection,
            reactor=self.clock,
            clock=lambda: int(self.clock.seconds() * 1e9),
            may_go=lambda: self.may_go,
        )

    def said(self) -> list[dict[str, Any]]:
        """What was published since the last time."""
        texts, _ = complete_texts(self.transport.value(), 1 << 20)
        self.transport.clear()
        return [json.loads(text) for text in texts]

    def answer(self, *answers: Ack | ErrorFrame) -> None:
        """The server answers."""
        self.connection.on_chunk(Chunk(answers=list(answers)))

    def test_messages(self) -> None:
        """Each message has its place in the channel, its time, the size that is wanted, and is not kept."""
        publisher = self.publisher(channels=2, window=3)
        self.clock.advance(5)
        publisher.start()
        said = self.said()

        self.assertEqual([one["id"] for one in said], ["0-0", "0-1", "0-2"])
        self.assertEqual([one["channel"] for one in said], [f"wsock-bench-x-{n}" for n in (0, 1, 0)])
        self.assertEqual([one["data"][:4] for one in said], [[0, n % 2, n // 2, 5_000_000_000] for n in range(3)])
        self.assertEqual({len(json.dumps(one["data"], separators=(",", ":"))) for one in said}, {100})
        self.assertEqual({one["persist"] for one in said}, {False})

    def test_window(self) -> None:
        """As many publishes as the window has room for are under way; answers make room, at the end of the turn."""
        publisher = self.publisher(window=3)
        publisher.start()
        self.assertEqual(len(self.said()), 3)
        self.answer(Ack("0-0"), Ack("0-1"))
        self.assertEqual(self.said(), [])
        self.clock.advance(0)

        self.assertEqual([one["id"] for one in self.said()], ["0-3", "0-4"])
        self.assertEqual((publisher.published, publisher.accepted, publisher.waiting), (5, 2, 3))

    def test_waits_for_subscribers(self) -> None:
        """While subscribers do not keep up, nothing more is published."""
        publisher = self.publisher(window=3)
        self.may_go = False
        publisher.start()
        self.clock.advance(0.1)
        self.assertEqual(self.said(), [])
        self.may_go = True
        self.clock.advance(0.1)

        self.assertEqual(len(self.said()), 3)

    def test_refused(self) -> None:
        """What is refused is counted by its code, is not accepted, and is not tried at once again."""
        publisher = self.publisher(window=2)
        publisher.start()
        self.said()
        self.answer(Ack("0-1"), ErrorFrame("slow down", "rate_limited", "0-0"))
        self.clock.advance(0)
        self.assertEqual(self.said(), [])
        self.clock.advance(0.01)
        self.assertEqual(len(self.said()), 2)
        publisher.stop()

        self.assertEqual(publisher.refused, {"rate_limited": 1})
        self.assertEqual(publisher.sent(), {0: Sent(4, frozenset({0, 2, 3}))})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_foreign_answers(self) -> None:
        """An error that answers no publish is counted; an ack that comes again is not."""
        publisher = self.publisher()
        publisher.start()
        self.answer(Ack("0-0"), Ack("0-0"), Ack("resume"), ErrorFrame("expired", "token_expired"))

        self.assertEqual((publisher.accepted, publisher.refused), (1, {"token_expired": 1}))

    def test_rate(self) -> None:
        """So many a second are published, each with when it was due or, that soon after it, was sent."""
        publisher = self.publisher(rate=100.0)
        publisher.start()
        self.assertEqual(len(self.said()), 1)
        for _ in range(100):
            self.clock.advance(0.0101)
        said = self.said()

        self.assertEqual(len(said), 101)
        self.assertEqual(said[0]["data"][3], 10_100_000)

    def test_stall(self) -> None:
        """What was due during a stall is published after it, with the time when it was due."""
        publisher = self.publisher(rate=10.0)
        publisher.start()
        self.said()
        self.clock.advance(1)

        dues = [one["data"][3] // 100_000_000 for one in self.said()]
        self.assertEqual(dues, list(range(1, 11)))
        self.assertEqual(publisher.lateness, 900_000_000)

    def test_stop(self) -> None:
        """After its stop, and after the end of its connection, it publishes nothing."""
        publisher = self.publisher(rate=10.0)
        publisher.start()
        publisher.stop()
        self.said()
        self.clock.advance(1)
        self.assertEqual(self.said(), [])
        self.connection.on_end("gone")
        publisher.start()

        self.assertEqual(self.said(), [])
        self.assertEqual(publisher.end, "gone")
