"""Tests for :mod:`wsock.bench.crew`; ``tests/e2e/test_bench.py`` has real processes."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from tests.base import SynchronousTestCase
from tests.bench_nets import MASK, a_plan
from tests.processes import RecordedProcess, RecordingReactor
from wsock.bench.crew import Crew, CrewMember
from wsock.bench.errors import BenchError
from wsock.bench.listeners import Verdict
from wsock.bench.load import Load
from wsock.bench.tally import Faults, Sent


class _Process(RecordedProcess):
    """A process that keeps what it is told."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.told = b""

    def write(self, data: bytes) -> None:
        """See ITransport."""
        self.told += data


class _Reactor(RecordingReactor):
    """Starts such processes."""

    def spawnProcess(self, protocol: Any, executable: str, args: Any, env: Any, childFDs: Any) -> Any:  # noqa: N802, N803
        """See IReactorProcess."""
        process = _Process(protocol, 100, args, env)
        self.processes.append(process)
        protocol.makeConnection(process)
        return process


class CrewTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = _Reactor()
        self.opened = 0
        load = Load(url="ws://127.0.0.1:9001/?key=secret", processes=2)
        self.crew = Crew(load, a_plan(subscribers=5), reactor=self.reactor)
        self.opening = Deferred.fromCoroutine(self.crew.open(self.count))

    def count(self) -> None:
        """A subscriber is subscribed."""
        self.opened += 1

    def news(self, number: int, *lines: bytes) -> None:
        """A process writes lines."""
        protocol: Any = self.reactor.processes[number].protocol
        protocol.outReceived(b"".join(line + b"\n" for line in lines))

    def told(self, number: int) -> bytes:
        """What a process was told since the last time."""
        process: Any = self.reactor.processes[number]
        told: bytes = process.told
        process.told = b""
        return told

    def open(self) -> None:
        """All subscribers are subscribed."""
        for number in (0, 1):
            self.news(number, b'{"type":"opened"}', b'{"type":"all_open"}')
            self.told(number)
        self.successResultOf(self.opening)

    def test_opens(self) -> None:
        """Each process has its part of the subscribers; the key stands on no command line."""
        self.assertIn(b'"first":1,"step":2', self.told(1))
        for process in self.reactor.processes:
            self.assertNotIn("secret", " ".join(process.arguments))
        self.assertNoResult(self.opening)
        self.open()

        self.assertEqual(self.opened, 2)

    def test_received(self) -> None:
        """Deliveries are added up, in whatever pieces the news come."""
        self.open()
        self.news(0, b'{"type":"received","count":3}')
        protocol: Any = self.reactor.processes[1].protocol
        protocol.outReceived(b'{"type":"received",')
        protocol.outReceived(b'"count":4}\n')

        self.assertEqual(self.crew.received, 7)

    def test_settles(self) -> None:
        """What was heard is added up; the busiest process is the one that counts."""
        self.open()
        self.crew.measure()
        self.assertEqual(self.told(0), b'{"type":"measure"}\n')
        settling = Deferred.fromCoroutine(self.crew.settle({0: {0: Sent(3, frozenset({1}))}}, 10.0))
        self.assertIn(b'{"0":{"0":{"count":3,"absent":[1]}}}', self.told(1))
        for number, lost in ((0, 1), (1, 2)):
            self.news(
                number,
                b'{"type":"settled","verdict":{"deliveries":5,"faults":{"lost":%d},"errors":{"x":1},"ends":{},'
                b'"latencies":{"7":2},"cpu":0.%d}}' % (lost, lost),
            )

        self.assertEqual(
            self.successResultOf(settling),
            Verdict(deliveries=10, faults=Faults(lost=3), errors={"x": 2}, latencies={7: 4}, cpu=0.2),
        )

    def test_fails(self) -> None:
        """A process that can't subscribe says why."""
        self.news(1, b'{"type":"failed","text":"refused"}')

        self.assertEqual(str(self.failureResultOf(self.opening, BenchError).value), "refused")

    def test_process_ends(self) -> None:
        """A process that ends too early is missed as soon as it is needed."""
        self.open()
        self.reactor.processes[1].protocol.processEnded(Failure(ProcessDone(0)))
        settling = Deferred.fromCoroutine(self.crew.settle({}, 10.0))

        self.assertIn("has ended", str(self.failureResultOf(settling, BenchError).value))

    def test_closes(self) -> None:
        """Its processes end when their input does, which is waited for."""
        self.open()
        closing = Deferred.fromCoroutine(self.crew.close())
        self.assertEqual([process.closed for process in self.reactor.processes], [[0], [0]])
        self.assertNoResult(closing)
        for process in self.reactor.processes:
            process.protocol.processEnded(Failure(ProcessDone(0)))

        self.successResultOf(closing)

    def test_close_without_open(self) -> None:
        """What was never started has ended."""
        crew = Crew(Load(url="", processes=2), a_plan(), reactor=self.reactor)

        self.successResultOf(Deferred.fromCoroutine(crew.close()))


class CrewMemberTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = RecordingReactorWithSockets()
        self.member = CrewMember(reactor=self.reactor, clock=lambda: 0, cpu=lambda: 0.0, mask=MASK)
        self.output = StringTransport()
        self.member.makeConnection(self.output)

    def test_unreachable(self) -> None:
        """A server that can't be reached is told to the first process."""
        load = b'{"url":"ws://127.0.0.1:1"}'
        plan = (
            b'{"name":"fanout","prefix":"x","subscribers":1,"channels":1,"publishers":1,"size":100,"window":1,'
            b'"rate":null,"seconds":1.0,"persist":false}'
        )
        self.member.dataReceived(b'{"type":"open","load":%b,"plan":%b,"first":0,"step":1}\n' % (load, plan))
        self.reactor.advance(60)

        self.assertIn(b'{"type":"failed","text":"ws://127.0.0.1:1', self.output.value())

    def test_input_ends(self) -> None:
        """When its input ends it ends."""
        self.member.connectionLost()

        self.assertTrue(self.reactor.is_stopped)


class RecordingReactorWithSockets(MemoryReactorClock):
    """A reactor in memory whose stop is recorded."""

    is_stopped = False

    def stop(self) -> None:
        """Records it."""
        self.is_stopped = True
