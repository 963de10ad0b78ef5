"""Tests of wsock.edges.http.metrics."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport

from tests.base import SynchronousTestCase
from tests.http_client import World, answers, request
from wsock.edges.http import build_registry
from wsock.edges.http.metrics import Measure, MeasureCollector
from wsock.measures import SECONDS, SIZES, Histogram
from wsock.testing import InMemoryServer

ALERTS = Path(__file__).parent.parent / "docs" / "howto" / "alerts.yml"


def samples(text: str) -> dict[str, float]:
    """All samples, by their names and labels as they are written."""
    return {
        sample.name + "".join(f"{{{name}={value}}}" for name, value in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class RegistryTests(SynchronousTestCase):
    """Measures, as Prometheus reads them."""

    def test_all(self) -> None:
        """What is counted is shown; a registry is nobody else's."""
        registry = build_registry(
            [
                Measure(name="now", text="Now.", kind="gauge", read=lambda: 3),
                Measure(name="ever", text="Ever.", kind="counter", read=lambda: 7),
                Measure(name="by", text="By.", kind="counter", read=lambda: {"lost": 4, 'a "b"\n': 1}, label="reason"),
            ]
        )
        lines = generate_latest(registry).decode().split("\n")

        for line in (
            "now 3.0",
            "ever_total 7.0",
            'by_total{reason="lost"} 4.0',
            r'by_total{reason="a \"b\"\n"} 1.0',
        ):
            self.assertIn(line, lines)

    def test_bounded(self) -> None:
        """However many values a label has, 50 are shown, and none is lost."""
        registry = CollectorRegistry(auto_describe=True)
        measure = Measure(
            name="many", text="Many.", kind="counter", read=lambda: {f"r{n}": n for n in range(200)}, label="reason"
        )
        registry.register(MeasureCollector([measure]))
        samples = [s for metric in registry.collect() for s in metric.samples]

        self.assertEqual(len(samples), 50)
        self.assertEqual(sum(s.value for s in samples), sum(range(200)))

    def test_lazy(self) -> None:
        """Registering reads nothing."""

        def fail() -> float:
            raise AssertionError("read too early")

        registry = CollectorRegistry(auto_describe=True)
        registry.register(MeasureCollector([Measure(name="x", text="X.", kind="gauge", read=fail)]))

    def test_histogram(self) -> None:
        """A histogram has a bucket for each bound, of the values up to it, and says how many there were."""
        histogram = Histogram([0.5, 1])
        for value in (0.25, 0.5, 1, 3):
            histogram.observe(value)
        registry = build_registry([Measure(name="took", text="Took.", kind="histogram", read=lambda: histogram)])
        lines = generate_latest(registry).decode().split("\n")

        for line in (
            "# TYPE took histogram",
            'took_bucket{le="0.5"} 2.0',
            'took_bucket{le="1.0"} 3.0',
            'took_bucket{le="+Inf"} 4.0',
            "took_count 4.0",
            "took_sum 4.75",
        ):
            self.assertIn(line, lines)


class FakeBatching:
    """Has as many publishes waiting as it is told, and was busy with one batch of as many."""

    def __init__(self, publishes: int, seconds: float) -> None:
        self.queued, self.queued_bytes = publishes, 100 * publishes
        self.batch_sizes, self.batch_seconds = Histogram(SIZES), Histogram(SECONDS)
        self.batch_sizes.observe(publishes)
        self.batch_seconds.observe(seconds)


class NodeTests(SynchronousTestCase):
    """The metrics of a node are what its parts have counted."""

    def setUp(self) -> None:
        self.world = World()
        self.successResultOf(self.world.create())

    def samples(self) -> dict[str, float]:
        """What ``/metrics`` shows."""
        return samples(self.world.ask("GET", "/metrics", key=None).body.decode())

    def assert_shown(self, **expected: float) -> None:
        """These samples have these values."""
        samples = self.samples()
        self.assertEqual({name: samples[f"wsock_{name}"] for name in expected}, expected)

    def test_batches(self) -> None:
        """What waits for the servers of a cluster is added up, and so are their batches."""
        self.world.batching += [FakeBatching(3, 0.25), FakeBatching(4, 0.5)]

        self.assert_shown(publishes_waiting=7, publishes_waiting_bytes=700)
        self.assert_shown(publish_batch_size_count=2, publish_batch_size_sum=7, publish_batch_seconds_sum=0.75)

    def test_no_batches(self) -> None:
        """Before anything was published the histograms are there, and empty."""
        self.assert_shown(publishes_waiting=0, publish_batch_size_count=0, persist_batch_seconds_count=0)

    def test_slow_consumers(self) -> None:
        """The number of slow consumers is there from the start, so that the first one is an increase."""
        name = "wsock_connections_closed_total{reason=slow consumer}"
        self.assertEqual(self.samples()[name], 0)

        self.world.gate.closed["slow consumer"] = 2

        self.assertEqual(self.samples()[name], 2)

    def test_held(self) -> None:
        """What clients have not read yet is shown."""
        self.world.gate.held.connections, self.world.gate.held.bytes = 2, 300

        self.assert_shown(connections_paused=2, output_waiting_bytes=300)

    def test_reactor(self) -> None:
        """How the reactor does is shown."""
        self.world.probe.startService()
        self.world.clock.advance(0.6)

        self.assert_shown(reactor_lag_seconds_count=1, reactor_lag_seconds_sum=0.5, reactor_turn_seconds_count=1)
        self.assert_shown(reactor_longest_seconds=0.5, reactor_cpu_seconds_total=0.6)

    def test_examples(self) -> None:
        """The alerts in the documentation ask for metrics that there are."""
        self.world.gate.request_refused("unavailable")
        used = set(re.findall(r"\bwsock_\w+", ALERTS.read_text("utf-8")))
        there = {name.partition("{")[0] for name in self.samples()}

        self.assertTrue(used)
        self.assertEqual(used - there, set())


class ServerTests(SynchronousTestCase):
    """A whole server shows what happens in it."""

    def setUp(self) -> None:
        self.server = InMemoryServer()
        self.addCleanup(self.server.stop)

    def assert_shown(self, **expected: float) -> None:
        """These samples have these values."""
        transport = StringTransport()
        protocol = self.server.server.doors.buildProtocol(IPv4Address("TCP", "192.0.2.1", 50000))
        protocol.makeConnection(transport)
        protocol.dataReceived(request("GET", "/metrics", key=None))
        [answer] = answers(transport.value())
        shown = samples(answer.body.decode())
        self.assertEqual({name: shown[f"wsock_{name}"] for name in expected}, expected)

    def test_reactor(self) -> None:
        """The reactor is watched while the server serves."""
        self.server.clock.pump([0.1] * 10)

        self.assert_shown(reactor_lag_seconds_count=10, reactor_turn_seconds_count=10, reactor_longest_seconds=0)

    def test_delivery(self) -> None:
        """A message to two subscribers is one frame and two writes."""
        for _ in range(2):
            self.server.connect().says({"action": "subscribe", "channel": "news"})

        self.server.wait_for(self.server.server.messages.publish("demo", "news", "hello"))

        self.assert_shown(flush_frames_sum=1, flush_writes_sum=2, messages_delivered_total=2)
        self.assert_shown(publish_batch_size_count=1, publish_batch_seconds_count=1, publishes_waiting=0)

    def test_slow_client(self) -> None:
        """A client that does not read is seen, and no longer when it has read."""
        client = self.server.connect()
        client.says({"action": "subscribe", "channel": "news"})
        client.stops_reading()

        for _ in range(10):
            self.server.wait_for(self.server.server.messages.publish("demo", "news", "x" * 60_000))
        held = self.server.server.gate.held
        self.assertGreater(held.bytes, 60_000)
        self.assert_shown(connections_paused=1, output_waiting_bytes=held.bytes)
        client.reads()

        self.assert_shown(connections_paused=0, output_waiting_bytes=0)
