"""Tests of wsock.services.meters and wsock.services.app_meter."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.base import SynchronousTestCase
from wsock.backends.memory_meters import MemoryMeters
from wsock.errors import Unavailable
from wsock.interfaces import Bucket, IMeterStore, NodeReport, Sample
from wsock.measures import Span
from wsock.protocol.messages import Receipt
from wsock.services.app_meter import AppMeter, Timed
from wsock.services.meters import Kept, Meters
from wsock.testing.fakes import Now

RECEIPT = Receipt("id", "room", 1, "epoch", 1)


@implementer(IMeterStore)
class FickleMeters(MemoryMeters):
    """Meters whose additions fail as often as ``failures`` says, done or (``is_lost``) not, or wait for ``held``."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0
        self.is_lost = False
        self.held: list[Deferred[None]] | None = None
        self.adds: list[tuple[int, int, int]] = []

    async def add(self, node: str, number: int, at: int, samples: Sequence[Sample]) -> None:
        """See IMeterStore."""
        self.adds.append((number, at, len(samples)))
        if self.held is not None:
            self.held.append(Deferred())
            await self.held[-1]
        if not (self.failures and self.is_lost):
            await super().add(node, number, at, samples)
        if self.failures:
            self.failures -= 1
            raise Unavailable("the store is away")


class MetersCase(SynchronousTestCase):
    """Nodes with one store, at a time that the test moves."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_793_500_000)
        self.now = Now(self.clock)
        self.store = FickleMeters()
        self.meters = self.node("n1")

    def node(self, name: str, *, is_alone: bool = True) -> Meters:
        """A node that flushes each second."""
        meters = Meters(self.store, self.clock, self.now, name, is_alone=is_alone)
        meters.startService()
        self.addCleanup(meters.stopService)
        return meters

    def bucket(self, span: Span = Span.MONTH, app: str = "shop") -> Bucket:
        """What is stored of the app."""
        start = span.start(int(self.now() * 1000))
        found = self.successResultOf(Deferred.fromCoroutine(self.store.buckets([app], span, start)))
        return found.get(app, Bucket(start, {}, {}))

    def counted(self, name: str = "messages_in", app: str = "shop") -> int:
        """What is stored of a count of the app."""
        return self.bucket(app=app).counts.get(name, 0)


def publish(meter: AppMeter, count: int = 1) -> None:
    """Counts messages."""
    meter.submitted += count
    meter.messages_in += count
    meter.bytes_in += 10 * count


class FlushTests(MetersCase):
    def test_each_second(self) -> None:
        """What was counted is in the store a second later, in every span, and is counted once."""
        meter = self.meters.app("shop")
        publish(meter, 3)
        meter.messages_out += 6
        meter.bytes_out += 60
        self.assertEqual(self.counted(), 0)

        self.clock.advance(1)
        self.clock.advance(1)

        for span in Span:
            counts = self.bucket(span).counts
            self.assertEqual(counts, {"messages_in": 3, "bytes_in": 30, "messages_out": 6, "bytes_out": 60})
        publish(meter, 2)
        self.clock.advance(1)
        self.assertEqual(self.counted(), 5)

    def test_nothing_happened(self) -> None:
        """Where nothing happened nothing is written."""
        publish(self.meters.app("shop"))
        self.meters.app("quiet")
        self.clock.advance(1)

        self.clock.pump([1] * 5)

        self.assertEqual(len(self.store.adds), 1)
        self.assertEqual(self.store.adds[0][2], 1)

    def test_labels(self) -> None:
        """Ends, refusals and outcomes are counted by what they are."""
        meter = self.meters.app("shop")
        for why in ("lost", "lost", "slow consumer"):
            meter.opened()
            meter.closed(why)
        meter.refuse("rate_limited")
        meter.webhook("delivered")
        meter.pushed("sent")

        self.clock.advance(1)

        counts = self.bucket().counts
        self.assertEqual(
            counts,
            {
                "opens": 3,
                "closes:lost": 2,
                "closes:slow consumer": 1,
                "refused:rate_limited": 1,
                "webhooks:delivered": 1,
                "push:sent": 1,
            },
        )

    def test_unknown_outcome(self) -> None:
        """A flush of which it is not known whether it arrived is repeated as it was, and counts once in any case."""
        for is_lost in (True, False):
            before = self.counted()
            self.store.is_lost, self.store.failures = is_lost, 2
            publish(self.meters.app("shop"), 5)
            self.clock.advance(1)
            publish(self.meters.app("shop"), 7)

            self.clock.pump([1] * 3)

            self.assertEqual(self.counted() - before, 12, is_lost)
        self.assertEqual(self.store.adds[0], self.store.adds[1])
        self.assertEqual(self.store.adds[0], self.store.adds[2])

    def test_slow_store(self) -> None:
        """One flush is under way at a time; what happens meanwhile is in the next one."""
        self.store.held = []
        publish(self.meters.app("shop"), 1)
        self.clock.pump([1] * 3)
        publish(self.meters.app("shop"), 2)
        self.clock.advance(1)
        self.assertEqual(len(self.store.held), 1)

        held, self.store.held = self.store.held, None
        held[0].callback(None)
        self.clock.advance(1)

        self.assertEqual(self.counted(), 3)
        self.assertEqual([samples for _, _, samples in self.store.adds], [1, 1])

    def test_asked_for(self) -> None:
        """A flush that is asked for takes what was counted up to then, also while another one is under way."""
        self.store.held = []
        publish(self.meters.app("shop"), 1)
        first = self.meters.flush()
        publish(self.meters.app("shop"), 1)
        second = self.meters.flush()
        self.store.held[0].callback(None)
        self.successResultOf(first)
        self.assertNoResult(second)

        self.store.held[1].callback(None)

        self.successResultOf(second)
        self.store.held = None
        self.assertEqual(self.counted(), 2)

    def test_asked_for_in_vain(self) -> None:
        """While the store is away, who asks is told so."""
        self.store.failures = 1
        publish(self.meters.app("shop"))

        self.failureResultOf(self.meters.flush(), Unavailable)
        self.successResultOf(self.meters.flush())

    def test_stop(self) -> None:
        """A stop leaves nothing uncounted."""
        publish(self.meters.app("shop"), 4)

        self.successResultOf(self.meters.stopService())

        self.assertEqual(self.counted(), 4)

    def test_many_apps(self) -> None:
        """Many apps are added in portions."""
        for number in range(1200):
            publish(self.meters.app(f"app-{number}"))

        self.clock.advance(1)

        self.assertEqual([samples for _, _, samples in self.store.adds], [500, 500, 200])
        self.assertEqual(self.counted(app="app-1199"), 1)

    def test_numbers_grow(self) -> None:
        """Numbers of flushes grow, also when the wall clock is set back."""
        for _ in range(3):
            publish(self.meters.app("shop"))
            self.clock.advance(1)
            self.now.set(self.now() - 3600)

        numbers = [number for number, _, _ in self.store.adds]
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertEqual(sum(at < self.store.adds[0][1] for _, at, _ in self.store.adds), 2)

    def test_idle(self) -> None:
        """An app that nobody uses is forgotten after a while, one with a connection is not."""
        publish(self.meters.app("gone"))
        self.meters.app("here").opened()

        self.clock.pump([1] * 130)

        self.assertEqual([meter.app for meter in self.meters.meters()], ["here"])
        self.assertEqual(self.counted(app="gone"), 1)


class ConnectionTests(MetersCase):
    def test_peak(self) -> None:
        """The peak is the largest number at a time, also when it lasted less than a second."""
        meter = self.meters.app("shop")
        for _ in range(5):
            meter.opened()
        for _ in range(3):
            meter.closed("lost")
        self.clock.advance(1)

        self.assertEqual(self.bucket().peaks, {"connections": 5})

    def test_every_minute(self) -> None:
        """Connections that just stay are told in each minute, once."""
        for _ in range(4):
            self.meters.app("shop").opened()
        self.clock.pump([1] * 180)

        parts = self.successResultOf(
            Deferred.fromCoroutine(self.store.series("shop", Span.MINUTE, 0, int(self.now() * 1000), 99))
        )
        self.assertEqual({part.peaks["connections"] for part in parts}, {4})
        self.assertIn(len(parts), (3, 4))
        self.assertEqual(len(self.store.adds), len(parts))

    def test_cluster(self) -> None:
        """Each node knows the connections of all, and the peak is the cluster's."""
        first, second = (self.node(name, is_alone=False) for name in ("a", "b"))
        first.app("shop").opened()
        for _ in range(2):
            second.app("shop").opened()
        self.clock.pump([1, 1])

        self.assertEqual((first.connections("shop"), second.connections("shop")), (3, 3))
        self.assertEqual((first.nodes, first.unreported(first.app("shop"))), (2, 0))
        self.clock.pump([1] * 60)
        self.assertEqual(self.bucket(Span.MINUTE).peaks, {"connections": 3})

    def test_node_ends(self) -> None:
        """The connections of a node that stopped are gone at once, those of one that died after 15 s."""
        first, second, third = (self.node(name, is_alone=False) for name in "abc")
        second.app("shop").opened()
        third.app("shop").opened()
        self.clock.pump([1, 1])
        self.assertEqual(first.connections("shop"), 2)

        self.successResultOf(second.stopService())
        third._ticking.stop()
        self.clock.advance(1)
        self.assertEqual(first.connections("shop"), 1)
        self.clock.pump([1] * 20)
        self.assertEqual((first.connections("shop"), first.nodes), (0, 1))

    def test_reports_are_renewed(self) -> None:
        """A node that lives goes on counting, whether something changes or not."""
        first, second = (self.node(name, is_alone=False) for name in "ab")
        second.app("shop").opened()

        self.clock.pump([1] * 60)

        self.assertEqual(first.connections("shop"), 1)


class NodesTests(MetersCase):
    def test_nodes_agree(self) -> None:
        """What several nodes count adds up, whatever fails and is repeated."""
        nodes = [self.node(name, is_alone=False) for name in "abc"]
        for second in range(30):
            for number, node in enumerate(nodes):
                publish(node.app("shop"), 10 + number)
            if second % 7 == 3:
                self.store.failures, self.store.is_lost = 2, second % 2 == 0
            self.clock.advance(1)
        self.clock.pump([1, 1, 1])

        self.assertEqual(self.counted(), 30 * (10 + 11 + 12))

    def test_restart(self) -> None:
        """Another process goes on with the counters of the one before it."""
        publish(self.meters.app("shop"), 5)
        self.successResultOf(self.meters.stopService())
        again = self.node("n2")
        publish(again.app("shop"), 1)
        self.clock.advance(1)

        self.assertEqual(self.counted(), 6)


class LatencyTests(MetersCase):
    def timed(self, meter: AppMeter, seconds: float) -> None:
        """A publish that took so long."""
        outcome: Deferred[Receipt] = Deferred()
        timed = Timed(outcome, meter, self.clock.seconds)
        self.clock.advance(seconds)
        timed.callback(RECEIPT)
        self.assertIs(self.successResultOf(outcome), RECEIPT)

    def test_time(self) -> None:
        """The time from the publish to its acknowledgement is counted among others like it."""
        meter = self.meters.app("shop")
        self.timed(meter, 0.0015)
        self.timed(meter, 0.003)
        publish(meter, 2)
        self.clock.advance(1)

        counts = self.bucket().counts
        self.assertEqual({name: n for name, n in counts.items() if "latency" in name}, {"latency:2": 1, "latency:3": 1})

    def test_weight(self) -> None:
        """One of many stands for those that were not timed: at most some hundred a second are."""
        meter = self.meters.app("shop")
        self.assertEqual(meter.mask, 0)
        publish(meter, 10_000)
        self.clock.advance(1)

        timed = [number for number in range(10_000) if not number & meter.mask]
        self.assertTrue(64 <= len(timed) <= 128, len(timed))
        self.timed(meter, 0.0)
        self.assertEqual(len(meter.latency), meter.mask + 1)

    def test_sudden_load(self) -> None:
        """Within the first second too only some are timed, and their weights tell about how many there were."""
        meter = self.meters.app("shop")
        timed = 0
        for _ in range(10_000):
            meter.submitted += 1
            if not meter.submitted & meter.mask:
                self.timed(meter, 0.0)
                timed += 1

        self.assertLess(timed, 1000)
        self.assertTrue(9_500 < len(meter.latency) < 10_500, len(meter.latency))

    def test_failure(self) -> None:
        """A publish that failed is passed on and not timed."""
        outcome: Deferred[Receipt] = Deferred()
        Timed(outcome, self.meters.app("shop"), self.clock.seconds).errback(Failure(Unavailable("away")))

        self.failureResultOf(outcome, Unavailable)
        self.assertEqual(len(self.meters.app("shop").latency), 0)


class ExpiryTests(MetersCase):
    def test_spans(self) -> None:
        """Minutes, hours and days go when their time is over, months stay."""
        self.meters = Meters(self.store, self.clock, self.now, "n3", kept=Kept(minutes=1, hours=2, days=4))
        publish(self.meters.app("shop"))
        self.successResultOf(self.meters.flush())
        for days, left in ((0.5, 4), (1, 3), (1.4, 2), (2, 1), (400, 1)):
            self.clock.advance(days * 86_400)
            self.successResultOf(Deferred.fromCoroutine(self.meters.expire()))

            parts = [
                part
                for span in Span
                for part in self.successResultOf(
                    Deferred.fromCoroutine(self.store.series("shop", span, 0, int(self.now() * 1000), 9))
                )
            ]
            self.assertEqual(len(parts), left, days)

    def test_how_often(self) -> None:
        """It looks once an hour, however often it is asked to."""
        calls: list[Span] = []

        class Watched(MemoryMeters):
            async def expire(self, span: Span, before: int, limit: int) -> int:
                calls.append(span)
                return 0

        meters = Meters(Watched(), self.clock, self.now, "n3")
        for _ in range(10):
            self.successResultOf(Deferred.fromCoroutine(meters.expire()))
        self.assertEqual(len(calls), 3)
        self.clock.advance(3600)
        self.successResultOf(Deferred.fromCoroutine(meters.expire()))
        self.assertEqual(len(calls), 6)


class ReportTests(MetersCase):
    def test_alone(self) -> None:
        """A node that is alone tells nobody of its connections."""
        self.meters.app("shop").opened()
        self.clock.advance(1)

        reports: list[NodeReport] = self.successResultOf(Deferred.fromCoroutine(self.store.reports(0)))
        self.assertEqual(reports, [])
