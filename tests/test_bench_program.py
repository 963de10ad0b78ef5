"""Tests for :mod:`wsock.bench.program`."""

from __future__ import annotations

import resource

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from tests.base import SynchronousTestCase
from tests.bench_nets import MASK, BenchNet, Shown, a_plan
from wsock.bench.errors import BenchError
from wsock.bench.load import Load
from wsock.bench.pace import Pace
from wsock.bench.program import Surroundings, allow_files, measure, run
from wsock.bench.results import Report


class FilesTests(SynchronousTestCase):
    def allow(self, wanted: int, soft: int, hard: int) -> list[tuple[int, int]]:
        """What the limit is set to."""
        found: list[tuple[int, int]] = []
        self.patch(resource, "getrlimit", lambda which: (soft, hard))
        self.patch(resource, "setrlimit", lambda which, limits: found.append(limits))
        allow_files(wanted)
        return found

    def test_enough(self) -> None:
        """A limit that is high enough stays."""
        self.assertEqual(self.allow(100, 100, 200), [])
        self.assertEqual(self.allow(100, resource.RLIM_INFINITY, resource.RLIM_INFINITY), [])

    def test_raised(self) -> None:
        """Otherwise it is raised as far as the system lets this process."""
        self.assertEqual(self.allow(150, 100, 200), [(200, 200)])
        self.assertEqual(self.allow(150, 100, resource.RLIM_INFINITY), [(150, resource.RLIM_INFINITY)])

    def test_too_low(self) -> None:
        """Where it can't be, the command that raises it is told."""
        error = self.assertRaises(BenchError, self.allow, 5_000, 100, 1_024)

        self.assertIn("ulimit -n 5000", str(error))


class MeasureTests(SynchronousTestCase):
    load = Load(url="", scenarios=("connections", "fanout"), connections=3)

    def setUp(self) -> None:
        self.net = BenchNet()
        self.report = Report(version="1", url="", processes=1)

    def measure(self) -> Report:
        """The report, when all scenarios have had their turn."""
        self.net.outcome(measure(self.load, {"fanout": a_plan()}, self.net.generator, self.report))
        return self.report

    def test_all(self) -> None:
        """Each scenario has its result, in order."""
        self.assertEqual([one.scenario for one in self.measure().results], ["connections", "fanout"])
        self.assertTrue(self.report.is_clean)

    def test_later_one_fails(self) -> None:
        """When the server is gone later, what was measured before is kept, and the failure told."""
        self.net.server.clock.callLater(0.9, setattr, self.net, "error", ConnectionRefusedError("gone"))
        report = self.measure()

        self.assertEqual([one.scenario for one in report.results], ["connections"])
        self.assertIn("fanout: ws://127.0.0.1:9001 can't be reached: gone", report.failure)
        self.assertFalse(report.is_clean)

    def test_first_one_fails(self) -> None:
        """When nothing could be measured there is no report."""
        self.net.error = ConnectionRefusedError("gone")

        self.assertRaises(BenchError, self.measure)

    def test_interrupted(self) -> None:
        """After an interruption no further scenario begins."""
        self.net.server.clock.callLater(0.9, self.net.pace.interrupt)

        self.assertEqual([one.scenario for one in self.measure().results], ["connections"])


class RunTests(SynchronousTestCase):
    def failure(self, load: Load) -> str:
        """Why this load can't be made; no connection was tried."""
        reactor = MemoryReactorClock()
        surroundings = Surroundings(
            reactor=reactor, clock=lambda: 0, cpu=lambda: 0.0, prefix="wsock-bench-x", mask=MASK
        )
        running = Deferred.fromCoroutine(run(load, surroundings, Pace(reactor, Shown())))
        self.assertEqual(reactor.tcpClients, [])
        return str(self.failureResultOf(running, BenchError).value)

    def test_wrong(self) -> None:
        """What is wrong with the command line is said before anything is done."""
        self.assertIn("--size", self.failure(Load(url="ws://127.0.0.1:1", size=1)))
        self.assertIn("no WebSocket URL", self.failure(Load(url="127.0.0.1:1")))
        self.assertIn("--ca", self.failure(Load(url="wss://127.0.0.1:1", ca="/nowhere/at/all")))
        self.assertIn("--pid", self.failure(Load(url="ws://127.0.0.1:1", pid=1 << 30)))
