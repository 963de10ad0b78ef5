"""Tests for :mod:`wsock.bench.scenarios`, with a server in memory and whatever may go wrong on the way."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from tests.base import SynchronousTestCase
from tests.bench_nets import BenchNet, a_plan
from wsock.bench.errors import BenchError
from wsock.bench.scenarios import connections, stream
from wsock.bench.server_side import Usage
from wsock.bench.tally import Faults
from wsock.config import Config, Limits


class StreamTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.net = BenchNet()

    def test_clean(self) -> None:
        """On a server that does its work everything is accepted and delivered, and nobody stays connected."""
        plan = a_plan(subscribers=5, channels=2, publishers=3)
        result = self.net.outcome(stream(plan, self.net.generator))

        self.assertGreater(result.published, 100)
        self.assertEqual(result.accepted, result.published)
        self.assertEqual(result.faults, Faults())
        self.assertTrue(result.is_clean)
        self.assertGreaterEqual(result.deliveries, 2 * result.accepted)
        self.assertLess(abs(result.seconds - 0.1), 0.02)
        self.assertEqual(result.latency_ms, {})
        self.assertFalse(any(transport.connected for transport in self.net.transports))

    def test_rate(self) -> None:
        """With a rate so many are published a second, and the latencies are those of the measured deliveries."""
        result = self.net.outcome(stream(a_plan(rate=100.0, publishers=2, seconds=1.0), self.net.generator))

        self.assertLess(abs(result.publishes_per_second - 100), 5)
        self.assertLess(abs(result.deliveries_per_second - 300), 15)
        self.assertEqual(set(result.latency_ms), {"p50", "p90", "p99", "p99.9", "max"})
        self.assertTrue(result.is_clean)

    def test_dropped(self) -> None:
        """Each delivery that does not arrive is counted."""
        dropped = []

        def drop(number: int, payload: bytes) -> list[bytes]:
            if b'"id":"0-7"' in payload and b'"message"' in payload and number < 2:
                dropped.append(number)
                return []
            return [payload]

        self.net.tamper = drop
        result = self.net.outcome(stream(a_plan(), self.net.generator))

        self.assertEqual(dropped, [0, 1])
        self.assertEqual(result.faults, Faults(lost=2))
        self.assertFalse(result.is_clean)

    def test_repeated(self) -> None:
        """Each delivery that comes again is counted, and hides no loss."""

        def repeat(number: int, payload: bytes) -> list[bytes]:
            if number == 0 and b'"message"' in payload and b'"id":"0-5"' in payload:
                return [payload, payload, payload]
            return [] if number == 0 and b'"id":"0-9"' in payload and b'"message"' in payload else [payload]

        self.net.tamper = repeat
        result = self.net.outcome(stream(a_plan(), self.net.generator))

        self.assertEqual(result.faults, Faults(lost=1, duplicates=2))

    def test_swapped(self) -> None:
        """A message behind a later one is out of order."""
        held: list[bytes] = []

        def swap(number: int, payload: bytes) -> list[bytes]:
            if number == 1 and b'"message"' in payload:
                if b'"id":"0-5"' in payload:
                    held.append(payload)
                    return []
                if held:
                    return [payload, held.pop()]
            return [payload]

        self.net.tamper = swap
        result = self.net.outcome(stream(a_plan(), self.net.generator))

        self.assertEqual(result.faults, Faults(reordered=1))

    def test_of_another_channel(self) -> None:
        """What belongs to another channel, or to nobody, is no delivery but a fault."""

        def misplace(number: int, payload: bytes) -> list[bytes]:
            if number == 0 and b'"id":"0-4"' in payload and b'"message"' in payload:
                return [payload, payload.replace(b'"data":[0,0,', b'"data":[0,1,'), payload.replace(b"[0,", b"[9,")]
            return [payload]

        self.net.tamper = misplace
        result = self.net.outcome(stream(a_plan(), self.net.generator))

        self.assertGreater(result.faults.strays, 1)
        self.assertFalse(result.faults.lost)

    def test_refused(self) -> None:
        """Refused publishes are counted by code, and are not lost."""
        self.net = BenchNet(Config(limits=Limits(message_bytes=80)))
        result = self.net.outcome(stream(a_plan(), self.net.generator))

        self.assertEqual(result.refused, {"too_large": result.published})
        self.assertEqual((result.accepted, result.faults, result.deliveries), (0, Faults(), 0))
        self.assertFalse(result.is_clean)

    def test_unanswered(self) -> None:
        """A publish without an answer is told, and what was not acknowledged is not lost."""

        def silence(number: int, payload: bytes) -> list[bytes]:
            return [] if b'"id":"0-3"' in payload else [payload]

        self.net.tamper = silence
        result = self.net.outcome(stream(a_plan(), self.net.generator))

        self.assertEqual((result.unanswered, result.faults), (1, Faults()))
        self.assertFalse(result.is_clean)

    def test_subscriber_lost(self) -> None:
        """A connection that ends is an error with its reason; what it missed then is not counted as lost."""
        self.net.server.clock.callLater(0.55, lambda: self.net.transports[1].lose())
        result = self.net.outcome(stream(a_plan(), self.net.generator))

        self.assertEqual(len(result.errors), 1)
        self.assertIn("a subscriber: the connection was lost", next(iter(result.errors)))
        self.assertEqual(result.faults, Faults())

    def test_subscription_refused(self) -> None:
        """A channel that can't be subscribed ends it with the server's reason."""
        error = self.assertRaises(BenchError, self.net.outcome, stream(a_plan(prefix="x" * 300), self.net.generator))

        self.assertIn("refused to subscribe (channel_name)", str(error))
        self.assertFalse(any(transport.connected for transport in self.net.transports))

    def test_interrupted(self) -> None:
        """After an interruption it tells what was measured so far, and that is as exact as ever."""
        self.net.server.clock.callLater(0.7, self.net.pace.interrupt)
        result = self.net.outcome(stream(a_plan(seconds=30.0), self.net.generator))

        self.assertLess(result.seconds, 1)
        self.assertTrue(result.is_clean)
        self.assertGreater(result.deliveries, 0)

    def test_interrupted_at_once(self) -> None:
        """Before anything is measured, an interruption leaves nothing to tell."""
        self.net.server.clock.callLater(0.1, self.net.pace.interrupt)

        self.assertIsNone(self.net.outcome(stream(a_plan(), self.net.generator)))
        self.assertFalse(any(transport.connected for transport in self.net.transports))

    def test_server_usage(self) -> None:
        """What can be told of the server's CPU time is told."""
        self.net.usage = Usage(cpu_seconds=3.0)
        result = self.net.outcome(stream(a_plan(), self.net.generator))

        self.assertEqual((result.server_cpu, result.server_cpu_seconds_per_million), (0.0, 0.0))

    def test_persist(self) -> None:
        """Nothing becomes history unless that is asked for."""
        for persist, expected in ((False, 0), (True, 1)):
            plan = a_plan(persist=persist, prefix=f"wsock-bench-{persist}", rate=10.0)
            self.net.outcome(stream(plan, self.net.generator))
            reader = self.net.server.connect()
            reader.says({"action": "history", "channel": plan.channel(0)})
            [page] = [event for event in reader.take() if event["action"] == "history"]
            self.assertEqual(min(1, len(page["messages"])), expected)


class ConnectionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.net = BenchNet()

    def test_made_and_closed(self) -> None:
        """All are made, and all are gone in the end."""
        result = self.net.outcome(connections(100, self.net.generator))

        self.assertEqual(result.connections, 100)
        self.assertTrue(result.is_clean)
        self.assertEqual(len(self.net.transports), 100)
        self.assertFalse(any(transport.connected for transport in self.net.transports))

    def test_memory(self) -> None:
        """The memory of each is told when the server tells its own; else why not."""
        self.net.usage = Usage(why="nobody knows")
        self.assertEqual(self.net.outcome(connections(1, self.net.generator)).memory_why, "nobody knows")
        self.net.usage = Usage(memory_bytes=1)
        reused = self.net.outcome(connections(1, self.net.generator))
        self.assertIsNone(reused.memory_bytes)
        self.assertIn("soon after its start", reused.memory_why)

        work = Deferred.fromCoroutine(connections(4, self.net.generator))
        self.net.usage = Usage(memory_bytes=4_001)
        self.net.server.advance(3)

        self.assertEqual(self.successResultOf(work).memory_bytes, 1_000)

    def test_lost_meanwhile(self) -> None:
        """A connection that does not stay is an error."""
        work = Deferred.fromCoroutine(connections(4, self.net.generator))
        self.net.server.advance(0.1)
        self.net.transports[0].lose()
        self.net.server.advance(3)

        self.assertFalse(self.successResultOf(work).is_clean)

    def test_unreachable(self) -> None:
        """A server that can't be reached is told from one that refuses."""
        self.net.error = ConnectionRefusedError("refused")
        error = self.assertRaises(BenchError, self.net.outcome, connections(4, self.net.generator))
        self.assertIn("ws://127.0.0.1:9001 can't be reached: refused", str(error))

        self.net.error, self.net.resource = None, "/?key=wrong"
        error = self.assertRaises(BenchError, self.net.outcome, connections(4, self.net.generator))
        self.assertIn("401", str(error))
        self.assertIn("--key", str(error))
